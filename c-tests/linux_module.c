/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * linux_module.c - linux_module.h, seen from a program that uses drivers (plugins/driver.c,
 * plugins/driver_user.c and plugins/watcher.c, which include what a driver includes) as the
 * kernel's subsystems use theirs.
 *
 * The program exports a variable __this_module of its own, so it is linked with -rdynamic.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "linux_module.h"
#include "plugins/driver.h"
#include "threads.h"

extern struct module *__this_module __attribute__((visibility("default")));
static char decoy;
struct module *__this_module = (struct module *)(void *)&decoy;

static int built_in;

static int __init built_in_init(void)
{
	built_in++;
	return -ENODEV;
}

static void __exit built_in_exit(void)
{
	built_in = -1;
}

static int early, late;

static int __init early_init(void)
{
	early = built_in;
	return 0;
}

static int __init late_init(void)
{
	late = built_in;
	return 0;
}

late_initcall(late_init);
module_init(built_in_init);
module_exit(built_in_exit);
subsys_initcall(early_init);
MODULE_LICENSE("Dual MIT/Apache-2.0");

static char driver_path[PATH_MAX], user_path[PATH_MAX];

static void find_plugins(void)
{
	char exe[PATH_MAX - 32];
	ssize_t length = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	const char *folder;

	need(length > 0);
	exe[length] = 0;
	folder = dirname(exe);
	snprintf(driver_path, sizeof(driver_path), "%s/driver.so", folder);
	snprintf(user_path, sizeof(user_path), "%s/driver_user.so", folder);
}

static bool mapped(const char *path)
{
	void *handle = dlopen(path, RTLD_NOW | RTLD_NOLOAD);

	if (handle)
		dlclose(handle);
	return handle;
}

/* The driver, with a handle, and its operations. */
static struct module *load_driver(const struct ring_operations **operations)
{
	struct module *driver;

	if (module_load(module_host_default(), driver_path, NULL, &driver)) {
		printf("Bail out! %s\n", module_last_error());
		exit(2);
	}
	need(try_module_get(driver));
	need((*operations = (const struct ring_operations *)module_symbol(driver, "ring_operations")));
	module_put(driver);
	return driver;
}

/* As the VFS opens and closes. */
struct opened {
	const struct ring_operations *operations;
	struct module *owner;
	struct ring_file *file;
};

static int vfs_open(const struct ring_operations *operations, struct opened *opened)
{
	int rc;

	opened->operations = operations;
	opened->owner = operations->owner;
	if (!try_module_get(opened->owner))
		return -ENXIO;
	rc = operations->open(&opened->file);
	if (rc)
		module_put(opened->owner);
	return rc;
}

static void vfs_close(struct opened *opened)
{
	opened->operations->release(opened->file);
	module_put(opened->owner);
}

static bool round_trip(struct opened *opened)
{
	char back[8] = "";

	return opened->operations->write(opened->file, "hello", 5) == 5 &&
	       opened->operations->read(opened->file, back, 5) == 5 && !strcmp(back, "hello");
}

static int delete_errno(const char *name, unsigned int flags)
{
	errno = 0;
	return delete_module(name, flags) == 0 ? 0 : errno;
}

static void test_built_in(void)
{
	is(built_in, 1, "a built-in init function has run before main, and may fail");
	ok(early == 0 && late == 1, "between those of earlier and of later levels");
	ok(!THIS_MODULE, "THIS_MODULE is NULL in the program");
	ok(try_module_get(THIS_MODULE), "which try_module_get takes");
	__module_get(THIS_MODULE);
	module_put(THIS_MODULE);
	module_put(THIS_MODULE);
	ok(module_is_live(THIS_MODULE), "and which is live");
}

static void test_this_module(void)
{
	const struct ring_operations *ring;
	struct module *driver = load_driver(&ring), *found;

	ok(dlsym(RTLD_DEFAULT, "__this_module") == (void *)&__this_module,
	   "the program exports a __this_module");
	found = module_find_get(module_host_default(), "driver");
	ok(found && found == driver, "the driver is found");
	ok(ring->owner == ring->this_module(), "its THIS_MODULE is the owner of its operations");
	ok(module_name(ring->owner) == module_name(found), "which is the module");
	ok(!strcmp(ring->owner->name, "driver") && found->name == ring->owner->name,
	   "and has its name");
	ok(find_module("driver") == driver && !find_module("nobody"), "find_module finds it");
	is(module_refcount(driver), 1, "without a reference");
	ok(within_module((unsigned long)ring, driver) &&
		   within_module((unsigned long)ring->open, ring->owner),
	   "its data and its code are within");
	ok(!within_module((unsigned long)&driver, driver), "and the program's are not");
	ok(__this_module == (void *)&decoy, "the program's __this_module is as it was");
	is(module_refcount(driver), 1, "one reference");
	module_put(found);
	ok(module_is_live(driver), "live");
	is(delete_errno("driver", O_NONBLOCK), 0, "deleted");
	ok(!module_is_live(driver), "not live any more");
	ok(!try_module_get(driver), "nor to be had, by a pointer that a handle keeps");
	ok(!within_module((unsigned long)ring, driver), "and nothing is within");
	ok(!mapped(driver_path), "and gone from memory");
	module_handle_put(driver);
}

static void test_modinfo(void)
{
	static const char *const expected[] = {
		"license=Dual MIT/Apache-2.0", "author=The module-ref authors", "version=1.0",
		"description=A character device that gives back what was written to it",
		"alias=ring", "alias=char-major-240", "colour=green",
	};
	static char bytes[1 << 20];
	FILE *file = fopen(driver_path, "rb");
	size_t size;

	need(file);
	size = fread(bytes, 1, sizeof(bytes), file);
	fclose(file);
	for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++)
		ok(memmem(bytes, size, expected[i], strlen(expected[i]) + 1), "the file says %s",
		   expected[i]);
}

static void test_refusals(void)
{
	const struct ring_operations *ring;
	struct module *driver = load_driver(&ring);
	struct opened opened;

	is(delete_errno("nobody", O_NONBLOCK), ENOENT, "no such module: ENOENT");
	is(delete_errno("", 0), ENOENT, "no name: ENOENT, without waiting");
	is(delete_errno("driver", O_APPEND), EINVAL, "another flag: EINVAL");
	is(delete_errno("driver", O_NONBLOCK | 1), EINVAL, "also among others");
	is(delete_errno(NULL, O_NONBLOCK), EFAULT, "NULL: EFAULT");
	need(vfs_open(ring, &opened) == 0);
	is(module_refcount(driver), 2, "an open file is one reference of the driver's, and ours");
	is(delete_errno("driver", O_NONBLOCK), EWOULDBLOCK, "in use: EWOULDBLOCK");
	is(delete_module("driver", O_NONBLOCK), -1, "as -1");
	ok(module_is_live(driver), "and live as before");
	ok(round_trip(&opened), "and in service");
	vfs_close(&opened);
	is(module_refcount(driver), 0, "closed");
	is(delete_errno("driver", O_NONBLOCK), 0, "and then deleted");
	module_handle_put(driver);
}

struct releaser {
	struct module *driver;
	struct opened opened;
	bool refused, served;
	_Atomic bool released;
};

static void *release_when_going(void *arg)
{
	struct releaser *releaser = (struct releaser *)arg;
	struct opened other;

	while (module_is_live(releaser->driver))
		sched_yield();
	/* The state is set first, and then the counter is closed. */
	while (vfs_open(releaser->opened.operations, &other) == 0)
		vfs_close(&other);
	releaser->refused = true;
	releaser->served = round_trip(&releaser->opened);
	atomic_store(&releaser->released, true);
	vfs_close(&releaser->opened);
	return NULL;
}

static void test_wait(void)
{
	const struct ring_operations *ring;
	struct releaser releaser = { .driver = load_driver(&ring) };
	pthread_t thread;

	need(vfs_open(ring, &releaser.opened) == 0);
	thread = start_thread(release_when_going, &releaser);
	is(delete_errno("driver", 0), 0, "without flags it waits");
	ok(atomic_load(&releaser.released), "until the file was closed");
	pthread_join(thread, NULL);
	ok(releaser.refused, "the driver could not be opened meanwhile");
	ok(releaser.served, "and served those who had it open");
	ok(!mapped(driver_path), "gone from memory");
	module_handle_put(releaser.driver);
}

struct notified {
	struct module *driver;
	_Atomic bool may_end;
	_Atomic int calls;
};

/* The driver's thread is here until somebody waits for it. */
static void done(void *arg)
{
	struct notified *notified = (struct notified *)arg;

	while (!atomic_load(&notified->may_end) || module_is_live(notified->driver))
		sched_yield();
	atomic_fetch_add(&notified->calls, 1);
}

/* From memory. A thread that has just ended may have looked as if it still stood there. */
static bool goes(const char *path)
{
	for (int i = 0; i < 20000 && mapped(path); i++) {
		module_host_reap(module_host_default());
		sleep_ns(MILLISECOND);
	}
	return !mapped(path);
}

static void test_thread(void)
{
	static struct notified notified;

	for (int round = 0; round < 20; round++) {
		const struct ring_operations *ring;
		struct opened opened;
		bool in_use;

		notified.driver = load_driver(&ring);
		atomic_store(&notified.may_end, false);
		need(vfs_open(ring, &opened) == 0);
		need(ring->notify(opened.file, done, &notified) == 0);
		vfs_close(&opened);
		in_use = delete_errno("driver", O_NONBLOCK) == EWOULDBLOCK;
		atomic_store(&notified.may_end, true);
		if (!in_use || delete_errno("driver", 0) != 0 ||
		    atomic_load(&notified.calls) != round + 1 || !goes(driver_path))
			break;
		module_handle_put(notified.driver);
	}
	is(notified.calls, 20, "a thread of the driver's own keeps it until its end");
}

static void test_force(unsigned int flags, const char *what)
{
	const struct ring_operations *ring;
	struct module *driver = load_driver(&ring);
	struct opened opened;

	need(vfs_open(ring, &opened) == 0);
	is(delete_errno("driver", flags), 0, "%s deletes what is held", what);
	ok(!module_is_live(driver), "not live");
	ok(!try_module_get(opened.owner), "no new references");
	is(delete_errno("driver", O_NONBLOCK), ENOENT, "nor found");
	ok(module_host_tainted(module_host_default()), "the host is tainted");
	ok(mapped(driver_path), "the code is still there");
	is(opened.operations->write(opened.file, "x", 1), -ESHUTDOWN,
	   "and says that the device is gone");
	is(module_host_reap(module_host_default()), 0, "and stays while it is held");
	vfs_close(&opened);
	is(module_host_reap(module_host_default()), 1, "closed, it goes");
	ok(!mapped(driver_path), "from memory");
	module_handle_put(driver);
}

static void test_symbols(void)
{
	struct module_host *host = module_host_default();
	const struct ring_operations *ring, *got;
	struct module *driver, *user;
	long (*capacity)(void);
	long (*send)(const char *, char *, size_t);
	char back[32] = "";

	ok(!symbol_get(ring_capacity), "no symbol without its module");
	is(module_load(host, user_path, NULL, NULL), -ENXIO, "nor a module that needs it");
	driver = load_driver(&ring);

	got = symbol_get(ring_operations);
	ok(got == ring, "symbol_get finds an object");
	is(module_refcount(driver), 1, "and holds its owner");
	capacity = symbol_get(ring_capacity);
	ok(capacity && capacity() == RING_SIZE, "and a function, of the right type");
	is(module_refcount(driver), 2, "once more");
	is(delete_errno("driver", O_NONBLOCK), EWOULDBLOCK, "so that the owner stays");
	is(symbol_put(ring_capacity), 0, "symbol_put");
	is(module_refcount(driver), 1, "gives one back");
	is(symbol_put(ring_capacity), -EINVAL, "but once");
	capacity = symbol_get(ring_capacity);
	is(symbol_put_addr(capacity), 0, "symbol_put_addr takes a function");
	is(symbol_put_addr(got), 0, "or an object");
	is(module_refcount(driver), 0, "and all is given back");

	is(module_load(host, user_path, NULL, &user), 0, "the module that needs it can be loaded");
	is(module_refcount(driver), 2, "and holds two symbols");
	send = symbol_get(echo);
	is(send("through two modules", back, sizeof(back)), 19, "it sends");
	ok(!strcmp(back, "through two modules"), "and receives");
	is(symbol_put(echo), 0, "given back");
	is(delete_errno("driver", O_NONBLOCK), EWOULDBLOCK, "the driver is in use");
	is(ref_module(user, driver), 0, "ref_module makes that a dependency");
	is(delete_errno("driver", O_TRUNC), EWOULDBLOCK, "which cannot be forced");
	is(ref_module(driver, user), -EDEADLK, "and cannot be mutual");
	is(delete_errno("driver_user", O_NONBLOCK), 0, "the user goes");
	is(module_refcount(driver), 0, "and gives it all back");
	is(delete_errno("driver", O_NONBLOCK), 0, "and then the driver");
	module_handle_put(user);
	module_handle_put(driver);
}

/* What the driver says its parameters are, loaded with these. */
static const char *parameters(const char *args)
{
	static char buffer[512];
	int (*shown)(char *);
	int rc = module_load_args(module_host_default(), driver_path, NULL, args);

	if (rc) {
		snprintf(buffer, sizeof(buffer), "%d: %s", rc, module_last_error());
		return buffer;
	}
	need((shown = symbol_get(ring_parameters)));
	shown(buffer);
	need(symbol_put(ring_parameters) == 0);
	need(delete_module("driver", O_NONBLOCK) == 0);
	return buffer;
}

static const char *said_by(const char *(*what)(const char *), const char *args)
{
	static char said[1024];
	int pipe_ends[2], before = dup(STDERR_FILENO);
	ssize_t n;

	need(pipe(pipe_ends) == 0 && dup2(pipe_ends[1], STDERR_FILENO) >= 0);
	what(args);
	need(dup2(before, STDERR_FILENO) >= 0 && close(before) == 0 && close(pipe_ends[1]) == 0);
	need((n = read(pipe_ends[0], said, sizeof(said) - 1)) >= 0);
	close(pipe_ends[0]);
	said[n] = '\0';
	return said;
}

static void test_parameters(void)
{
	static const struct {
		const char *args, *shown;
	} loads[] = {
		{ NULL, "64 N N nobody ring 1,2 0 0 0 0 0 0 0 - - 2" },
		{ "", "64 N N nobody ring 1,2 0 0 0 0 0 0 0 - - 2" },
		{ " capacity=0x10 quiet=1\tverbose=n ", "16 N Y nobody ring 1,2 0 0 0 0 0 0 0 - - 2" },
		{ "quiet=off owner=\"Ada Lovelace\" nick_name=seven77",
		  "64 N N Ada Lovelace seven77 1,2 0 0 0 0 0 0 0 - - 2" },
		{ "\"owner=a b\" minors=-1,020,0x7fff labels=x,y nick_name=",
		  "64 N N a b  -1,16,32767 0 0 0 0 0 0 0 x y 3" },
		{ "byte=255 ushort=65535 uint=4294967295 long=-9223372036854775808 "
		  "ulong=18446744073709551615 ullong=+18446744073709551615 even=-2",
		  "64 N N nobody ring 1,2 255 65535 4294967295 -9223372036854775808 "
		  "18446744073709551615 18446744073709551615 -2 - - 2" },
		{ "nick-name=Bob", "64 N N nobody Bob 1,2 0 0 0 0 0 0 0 - - 2" },
		{ "owner=\"no end", "64 N N no end ring 1,2 0 0 0 0 0 0 0 - - 2" },
		{ "capacity=1 -- capacity=2", "1 N N nobody ring 1,2 0 0 0 0 0 0 0 - - 2" },
	};
	static const struct {
		const char *args, *parameter;
		int error;
	} refused[] = {
		{ "capacity=many", "'capacity'", EINVAL },
		{ "capacity=", "'capacity'", EINVAL },
		{ "capacity", "'capacity'", EINVAL },
		{ "capacity=08", "'capacity'", EINVAL },
		{ "capacity=\" 1\"", "'capacity'", EINVAL },
		{ "capacity=2147483648", "'capacity'", ERANGE },
		{ "capacity=99999999999999999999", "'capacity'", ERANGE },
		{ "byte=256", "'byte'", ERANGE },
		{ "uint=-1", "'uint'", EINVAL },
		{ "long=-9223372036854775809", "'long'", ERANGE },
		{ "minors=1,2,3,4,5", "'minors'", EINVAL },
		{ "minors=1,32768", "'minors'", ERANGE },
		{ "verbose=maybe", "'verbose'", EINVAL },
		{ "quiet", "'quiet'", EINVAL },
		{ "nick-name=too-long", "too large for parameter 'nick-name'", ENOSPC },
		{ "even=3", "'even'", EDOM },
		{ "owner=me even=3", "'even'", EDOM },
	};

	for (size_t i = 0; i < ARRAY_SIZE(loads); i++) {
		const char *shown = parameters(loads[i].args);

		if (!ok(!strcmp(shown, loads[i].shown), "with %s",
			loads[i].args ? loads[i].args : "nothing"))
			printf("#   found: %s\n", shown);
	}
	for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
		is(module_load_args(module_host_default(), driver_path, NULL, refused[i].args),
		   -refused[i].error, "not with %s", refused[i].args);
		ok(strstr(module_last_error(), refused[i].parameter), "which is said: %s",
		   module_last_error());
		ok(!mapped(driver_path), "and nothing is loaded");
	}
	ok(!strcmp(said_by(parameters, "verbose owner=me"), "driver: this is driver of me\n"),
	   "a bool needs no value, and printk speaks with the driver's name");
	ok(strstr(said_by(parameters, "colour=green"), "unknown parameter 'colour'"),
	   "an unknown one is warned of");
	is(module_load_args(module_host_default(), driver_path, NULL, "owner=before"), 0, "loaded");
	is(module_replace(module_host_default(), "driver", driver_path, -1), 0, "and replaced");
	{
		char buffer[512];
		int (*shown)(char *) = symbol_get(ring_parameters);

		need(shown);
		shown(buffer);
		ok(strstr(buffer, " before "), "by one with the same parameters");
		symbol_put(ring_parameters);
	}
	is(delete_errno("driver", O_NONBLOCK), 0, "deleted");
}

static void test_requests(void)
{
	struct module_host *host = module_host_default();
	struct module *driver;
	int (*seen)(void);
	long (*capacity)(void);

	is(module_host_search(host, "drivers"), -EINVAL, "a search path of a relative folder");
	is(module_host_search(host, ""), -EINVAL, "or of none");
	is(module_host_search(host, "/nowhere:/proc/self"), 0, "one of absolute ones");
	is(request_module("driver"), -ENOENT, "in which there is no driver");
	ok(strstr(module_last_error(), "/nowhere:/proc/self"), "which is said");
	is(module_load_args(host, user_path, NULL, "autoload"), -ENOENT,
	   "so that a driver who requests it fails");
	is(module_host_search(host, NULL), 0, "without one");
	is(module_load_args(host, user_path, NULL, "autoload=y"), 0, "it is found beside");
	driver = find_module("driver");
	is(module_refcount(driver), 2, "and used");
	is(request_module("%s", "driver"), 0, "what is there is not loaded again");
	ok(find_module("driver") == driver, "and is the same");
	is(request_module("driver-%s", "user"), 0, "by a name with - for _, too");
	is(request_module("../linux_module"), -EINVAL, "a path is no name");
	is(request_module("%0100d", 1), -ENAMETOOLONG, "nor is what is too long");
	is(delete_errno("driver_user", O_NONBLOCK) + delete_errno("driver", O_NONBLOCK), 0, "deleted");

	is(request_module("watch-dog-%d", 7), 0, "a module by its alias");
	seen = symbol_get(watch_seen);
	need(seen);
	is(seen(), 0, "which watches");
	capacity = symbol_request(ring_capacity);
	ok(capacity && capacity() == RING_SIZE, "a symbol with the module that has it");
	is(seen(), 2, "whose coming is seen");
	ok(symbol_request(ring_capacity) == capacity, "and which is there by then");
	symbol_put(ring_capacity);
	symbol_put(ring_capacity);
	is(delete_errno("driver", O_NONBLOCK), 0, "deleted");
	is(seen(), 12, "which is seen, too");
	symbol_put(watch_seen);
	is(delete_errno("watcher", O_NONBLOCK), 0, "the watcher goes");

	need(request_module("driver") == 0);
	need(module_load_args(host, "watcher.so", NULL, "target=driver") == -ENOENT);
	need(module_request(host, "watcher") == 0 && (seen = symbol_get(watch_seen)));
	is(seen(), 100, "a watcher finds what was there before it");
	symbol_put(watch_seen);
	is(delete_errno("watcher", 0) + delete_errno("driver", 0), 0, "both go");
}

static char events[64];

struct listener {
	struct notifier_block block;
	char title;
	int answer;
	unsigned long to;
};

static int listen(struct notifier_block *nb, unsigned long action, void *data)
{
	/* As container_of(). */
	struct listener *listener = (struct listener *)(void *)nb;
	struct module *mod = (struct module *)data;
	const char state = action == MODULE_STATE_COMING ? 'c'
			   : action == MODULE_STATE_LIVE ? 'l'
			   : action == MODULE_STATE_GOING ? 'g'
							  : '?';
	size_t length = strlen(events);

	if (length + 3 < sizeof(events) && !strcmp(module_name(mod), "driver"))
		memcpy(events + length, (char[]){ listener->title, state, 0 }, 3);
	return action == listener->to ? listener->answer : NOTIFY_DONE;
}

static int load_with_answer(struct listener *listener, unsigned long to, int answer)
{
	int rc;

	events[0] = 0;
	listener->to = to;
	listener->answer = answer;
	rc = module_load(module_host_default(), driver_path, NULL, NULL);
	if (rc == 0)
		need(delete_module("driver", O_NONBLOCK) == 0);
	return rc;
}

static void test_notifiers(void)
{
	struct listener low = { { listen, NULL, -10 }, 'A', NOTIFY_DONE, MODULE_STATE_UNFORMED };
	struct listener high = { { listen, NULL, 10 }, 'Z', NOTIFY_DONE, MODULE_STATE_UNFORMED };
	struct notifier_block none = { NULL, NULL, 0 };

	is(notifier_from_errno(0), NOTIFY_OK, "no errno is NOTIFY_OK");
	is(notifier_to_errno(NOTIFY_OK) | notifier_to_errno(NOTIFY_DONE) |
		   notifier_to_errno(NOTIFY_STOP), 0, "OK, DONE and STOP are no errno");
	is(notifier_to_errno(NOTIFY_BAD), -EPERM, "BAD is -EPERM");
	is(notifier_to_errno(notifier_from_errno(-ENOMEM)), -ENOMEM, "an errno comes through");

	is(register_module_notifier(&none), -EINVAL, "a notifier needs a function");
	is(register_module_notifier(NULL), -EINVAL, "and to be one");
	is(register_module_notifier(&low.block), 0, "a notifier is registered");
	is(register_module_notifier(&high.block), 0, "and one of higher priority");
	is(register_module_notifier(&low.block), -EEXIST, "but none twice");
	is(load_with_answer(&low, MODULE_STATE_UNFORMED, NOTIFY_DONE), 0, "loaded, and deleted");
	ok(!strcmp(events, "ZcAcZlAlZgAg"), "the higher one is told first: %s", events);
	is(load_with_answer(&low, MODULE_STATE_COMING, NOTIFY_BAD), -EPERM, "BAD vetoes");
	ok(!strcmp(events, "ZcAcZg"), "and the other one is told that it goes: %s", events);
	is(load_with_answer(&low, MODULE_STATE_COMING, notifier_from_errno(-EKEYREJECTED)),
	   -EKEYREJECTED, "or with an errno");
	is(load_with_answer(&low, MODULE_STATE_COMING, NOTIFY_STOP), 0, "STOP is no veto");
	is(load_with_answer(&high, MODULE_STATE_COMING, NOTIFY_BAD), -EPERM, "the first one vetoes");
	ok(!strcmp(events, "Zc"), "and nobody else has heard of it: %s", events);
	is(load_with_answer(&high, MODULE_STATE_LIVE, NOTIFY_BAD), 0, "nobody vetoes what is live");
	is(unregister_module_notifier(&low.block), 0, "unregistered");
	is(unregister_module_notifier(&low.block), -ENOENT, "once");
	is(load_with_answer(&high, MODULE_STATE_UNFORMED, NOTIFY_DONE), 0, "loaded, and deleted");
	ok(!strcmp(events, "ZcZlZg"), "for the other one alone: %s", events);
	is(unregister_module_notifier(&high.block), 0, "unregistered");
}

int main(void)
{
	find_plugins();
	test_built_in();
	test_this_module();
	test_modinfo();
	test_refusals();
	test_wait();
	test_thread();
	test_force(O_TRUNC | O_NONBLOCK, "O_TRUNC|O_NONBLOCK");
	test_force(O_TRUNC, "O_TRUNC");
	test_symbols();
	test_parameters();
	test_requests();
	test_notifiers();
	is(module_host_list(module_host_default(), NULL, 0), 0, "no module is left");
	return tap_done();
}
