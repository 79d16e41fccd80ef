/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * life.c - how a module comes to its end: what it is asked on the way, its threads, what threads
 * give back at their ends, and calls from its own code.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>

#include "filter.h"
#include "host.h"
#include "misuse.h"
#include "oracle.h"
#include "threads.h"

int happens(struct module *self, const char *what);

static struct module_host *host;
static struct module *leaver; /* a handle */
static char order[512];
static const char *refuses = ""; /* the function that does */
static void (*in_init)(void);
static _Atomic int works, ends_in_exit;
static _Atomic bool has_begun; /* the plugin's thread, which has its name by then */

int happens(struct module *self, const char *what)
{
	if (strcmp(what, "work") == 0) {
		atomic_store(&has_begun, true);
		return atomic_load(&works);
	}
	snprintf(order + strlen(order), sizeof(order) - strlen(order), "%s(%d,%lld) ", what,
		 (int)module_state(self), (long long)module_refcount(self));
	if (strcmp(what, "exit") == 0 && ends_in_exit)
		atomic_store(&works, 0);
	if (strcmp(what, "init") == 0 && in_init)
		in_init();
	return strcmp(what, refuses) == 0 ? -EUCLEAN : 0;
}

static void in_order(const char *expected, const char *what)
{
	if (!ok(strcmp(order, expected) == 0, "%s", what))
		printf("#   found:    %s\n#   expected: %s\n", order, expected);
	order[0] = '\0';
}

static void load(void)
{
	if (leaver)
		module_handle_put(leaver);
	need(module_load(host, plugin("leaver.so"), "leaver", &leaver) == 0);
	order[0] = '\0';
}

static void *function(const char *name)
{
	void *address;

	need(module_try_get(leaver));
	address = module_symbol(leaver, name);
	module_put(leaver);
	need(address);
	return address;
}

/* An address in a module that is held; nobody's for NULL. */
static const void *function_of(struct module *mod)
{
	return mod ? module_symbol(mod, "init_module") : (const void *)&host;
}

static int call_with(const char *name, int argument)
{
	void *address = function(name);
	int (*called)(int);

	memcpy(&called, &address, sizeof(called));
	return called(argument);
}

static int unload(int64_t timeout)
{
	return module_unload(host, "leaver", 0, timeout);
}

/* ---- what it is asked -------------------------------------------------------------------- */

static void asked(void)
{
	int fd;

	load();
	is(unload(0), 0, "an unload");
	in_order("stop(2,-1) can(2,-1) exit(2,-1) ", "stops, asks, and ends");
	load();
	is(unload(SECOND), 0, "and one that may wait");
	in_order("stop(2,0) can(2,-1) exit(2,-1) ", "stops before it is released");

	load();
	need(module_try_get(leaver));
	is(unload(0), -EWOULDBLOCK, "one that may not, and is held,");
	in_order("", "asks nothing");
	is(unload(MILLISECOND), -ETIMEDOUT, "one whose time is up");
	in_order("stop(2,1) resume(2,1) ", "has it resume");
	is(module_state(leaver), MODULE_STATE_LIVE, "and it is live");
	module_put(leaver);
	for (int wait = 0; wait < 2; wait++) {
		refuses = "stop";
		is(unload(wait * SECOND), -EUCLEAN, "stop_module() refuses");
		says("not unloaded: its stop_module returned -117 (Structure needs cleaning)");
		in_order(wait ? "stop(2,0) " : "stop(2,-1) ", "and needs not resume");
		refuses = "can";
		is(unload(wait * SECOND), -EUCLEAN, "can_unload_module() refuses");
		in_order(wait ? "stop(2,0) can(2,-1) resume(2,0) " : "stop(2,-1) can(2,-1) resume(2,0) ",
			 "and resumes");
		ok(module_try_get(leaver), "it is live again");
		module_put(leaver);
	}

	fd = module_unload_begin(host, "leaver", 0);
	need(fd >= 0);
	in_order("stop(2,0) ", "an unload that is begun stops it");
	is(module_unload_finish(host, "leaver", 0), -EUCLEAN, "and is refused at its end");
	in_order("can(2,-1) resume(2,0) ", "with the same calls");
	close(fd);
	refuses = "stop";
	is(module_unload_begin(host, "leaver", 0), -EUCLEAN, "or in its beginning");
	in_order("stop(2,0) ", "at once");
	refuses = "";
	fd = module_unload_begin(host, "leaver", 0);
	is(module_unload_cancel(host, "leaver"), 0, "or is cancelled");
	in_order("stop(2,0) resume(2,0) ", "and resumes");
	close(fd);

	refuses = "can";
	is(module_replace(host, "leaver", plugin("leaver.so"), 0), 0, "a replacement");
	in_order("init(1,1) stop(2,0) exit(2,-1) ", "stops the old one, which cannot refuse");
	is(module_unload(host, "leaver", MODULE_UNLOAD_FORCE, 0), 0, "nor can it by force");
	refuses = "";
}

/* ---- its threads ---------------------------------------------------------------------------- */

static bool list_while_named, was_listed;
static _Atomic bool is_listed;
static pthread_t lister;

static void *list(void *unused)
{
	char text[4096];

	need(module_host_list(host, text, sizeof(text)) >= 0);
	is_listed = true;
	return unused;
}

/* Names of threads are read from /proc/self/task/N/comm. */
int open64(const char *path, int flags, ...)
{
	va_list mode;
	int fd;

	if (list_while_named && strstr(path, "/comm")) {
		lister = start_thread(list, NULL);
		for (int i = 0; i < 20000 && !is_listed; i++)
			sleep_ns(MILLISECOND);
		was_listed = is_listed;
	}
	va_start(mode, flags);
	fd = openat(AT_FDCWD, path, flags, va_arg(mode, int));
	va_end(mode);
	return fd;
}

static void threads(void)
{
	atomic_store(&ends_in_exit, 1);
	for (int joins = 0; joins < 2; joins++) {
		load();
		atomic_store(&works, 1);
		is(call_with("start_thread", joins), 0, "a thread that is %s",
		   joins ? "joined" : "detached");
		is(module_refcount(leaver), 0, "is no reference");
		is(unload(joins ? 0 : 10 * SECOND), 0, "the exit function ends it, and the code goes");
		is(mapped("/leaver.so"), 0, "from memory");
	}
	load();
	atomic_store(&works, 1);
	need(call_with("start_thread", 0) == 0);
	is(module_host_shutdown(host, -1), 0, "an unload of all modules waits for it, too");
	load();
	atomic_store(&ends_in_exit, 0);
	atomic_store(&works, 1);
	atomic_store(&has_begun, false);
	need(call_with("start_thread", 0) == 0);
	while (!atomic_load(&has_begun))
		sleep_ns(MILLISECOND);
	is(unload(10 * MILLISECOND), 1, "one that does not end keeps it mapped");
	says(" 'poller', which it has started, has not ended");
	ok(mapped("/leaver.so"), "it is");
	is(module_host_reap(host), 0, "there is nothing to reap");
	list_while_named = true;
	is(module_host_free(host), -EBUSY, "the host is not empty");
	list_while_named = false;
	if (lister)
		pthread_join(lister, NULL);
	ok(was_listed, "and can be listed while a thread's name is read");
	says("and 1 that are unloaded, of which 'leaver' is still mapped: thread ");
	says(" 'poller', which it has started, has not ended");
	atomic_store(&works, 0);
	while (module_host_reap(host) == 0)
		sleep_ns(MILLISECOND);
	is(mapped("/leaver.so"), 0, "when it has ended a reap finishes the unload");
	order[0] = '\0';
	atomic_store(&works, 1);
	refuses = "init";
	is(module_load(host, plugin("leaver.so"), "leaver", NULL), -EUCLEAN, "a load that fails");
	refuses = "";
	is(mapped("/leaver.so"), 0, "leaves nothing");
}

/* ---- at the ends of threads -------------------------------------------------------------------- */

static struct module_ref ref = MODULE_REF_INIT;

static void (*leave)(struct module_ref *);

static void *leave_keys(void *of)
{
	leave(of);
	return NULL;
}

/* In a child, where the library has no thread yet that sees others end, and gets none. */
static int without_a_thread(void)
{
	if (!module_ref_try_get(&ref) || refuse_call(SYS_clone3, 0) || refuse_call(SYS_clone, 0))
		return 1;
	if (module_ref_put_at_thread_exit(&ref) != -EPERM || module_ref_count(&ref) != 1)
		return 2;
	module_ref_put(&ref);
	return module_ref_drain(&ref, 0) == 0 ? 0 : 3;
}

static void at_the_end(void)
{
	pthread_t thread;
	pid_t child;
	int status;
	long found;
	void *address;

	load();
	address = function("leave_keys");
	memcpy(&leave, &address, sizeof(leave));
	need(module_ref_try_get(&ref));
	thread = start_thread(leave_keys, &ref);
	is(module_ref_drain(&ref, -1), 0, "a reference that is put at the end of a thread");
	found = call(leaver, "destructors");
	pthread_join(thread, NULL);
	ok(found >= 20, "is put after %ld destructors of keys", found);
	is(call(leaver, "destructors"), found, "which are all");
	is(module_ref_reinit(&ref), 0, "reinit");

	need(module_try_get(leaver));
	thread = start_thread(leave_keys, NULL);
	is(unload(-1), 0, "and a module's reference, whose code they are");
	is(mapped("/leaver.so"), 0, "which is gone");
	pthread_join(thread, NULL);
	is(module_ref_put_at_thread_exit(NULL) + module_put_at_thread_exit(NULL), 0, "NULL");
	child = fork();
	if (child == 0)
		_exit(without_a_thread());
	need(child > 0 && waitpid(child, &status, 0) == child);
	is(status, 0, "if there is no thread for it, the reference is still the caller's");
}

/* ---- from its own code ------------------------------------------------------------------------- */

static void from_inside(void)
{
	void *address;
	void (*put_myself)(void);
	int fd;

	load();
	is(call_with("unload_myself", 0), -EDEADLK, "a module unloads itself, and waits");
	says("cannot be unloaded by its own code");
	is(call_with("unload_myself", 1), -EDEADLK, "or does not");
	is(call_with("unload_myself", 3), -EDEADLK, "or replaces itself");
	is(module_state(leaver), MODULE_STATE_LIVE, "it is live");
	in_order("", "and was not asked");

	address = function("put_myself");
	memcpy(&put_myself, &address, sizeof(put_myself));
	need(module_try_get(leaver) && module_try_get(leaver));
	fd = module_unload_begin(host, "leaver", 0);
	put_myself();
	is(reports_since(MODULE_REF_OWN_CODE), 0, "its own code puts a reference");
	put_myself();
	is(reports_since(MODULE_REF_OWN_CODE), 1, "and the last one, which is reported");
	ok(reported_ref == (struct module_ref *)leaver, "with the module");
	is(poll(&(struct pollfd){ .fd = fd, .events = POLLIN }, 1, 10000), 1, "and was put");
	close(fd);
	is(module_unload_finish(host, "leaver", 0), 0, "so that it can be unloaded");
}

/* ---- several users, all modules ----------------------------------------------------------------- */

static struct module *opened;
static int closed;

static void *close_it(void *unused)
{
	closed = module_close(opened, -1);
	return unused;
}

static void close_beside(void)
{
	pthread_join(start_thread(close_it, NULL), NULL);
}

static void users(void)
{
	struct module *first, *other = NULL;
	pthread_t thread;

	is(module_open(host, plugin("leaver.so"), NULL, &first), 0, "a module is opened");
	is(module_open(host, plugin("leaver.so"), "leaver", &other), 0, "by another user, too");
	ok(first == other && module_refcount(first) == 2, "which is one reference more");
	is(unload(0), -EWOULDBLOCK, "it is in use");
	is(module_close(first, 0), 2, "one closes it");
	order[0] = '\0';
	need(module_try_get(first));
	is(module_close(first, 0), -EWOULDBLOCK, "the last one cannot while it is held");
	is(module_close(first, MILLISECOND), -ETIMEDOUT, "nor within a while");
	in_order("stop(2,1) resume(2,2) ", "which it is asked");
	is(module_refcount(first), 2, "and has it open as before");
	refuses = "can";
	opened = first;
	thread = start_thread(close_it, NULL);
	while (module_state(first) == MODULE_STATE_LIVE)
		sleep_ns(10000);
	ok(!module_try_get(first), "while the last one waits nobody gets it");
	other = module_get_by_address(host, function_of(first));
	ok(other == first, "but by an address in it, as long as it is held");
	module_put(other);
	module_put(first);
	pthread_join(thread, NULL);
	is(closed, -EUCLEAN, "it refuses");
	refuses = "";
	is(module_close(first, SECOND), 0, "and then it goes");
	need(module_open(host, plugin("leaver.so"), NULL, &opened) == 0);
	in_init = close_beside;
	is(module_replace(host, "leaver", plugin("leaver.so"), 0), 0, "one that is being replaced");
	in_init = NULL;
	is(closed, 2, "is the replacing thread's to end, when its last user closes it");
	is(unload(0), 0, "and the new one is unloaded");
	ok(!module_get_by_address(host, function_of(NULL)), "nobody's address");
	is(module_open(host, "/nowhere.so", NULL, &first), -ENOENT, "no file");
	ok(!first, "is NULL");
	is(module_open(host, plugin("leaver.so"), NULL, NULL), -EINVAL, "NULL: out");
	is(module_close(NULL, 0), -EINVAL, "NULL: mod");
	load();
	is(module_close(leaver, 0), -EINVAL, "one that was not opened");
	is(unload(0), 0, "is unloaded");
}

static int see(const struct module_info *info, void *data)
{
	char *text = data;

	need(info->size_of_this == sizeof(*info) && info->base && info->size > 0);
	need(strstr(info->path, ".so") && module_host_reap(host) >= 0);
	snprintf(text + strlen(text), 256 - strlen(text), "%s:%d:%lld:%d ", info->name,
		 (int)info->state, (long long)info->references, info->residency);
	return strcmp(info->name, "user") == 0;
}

static void all(void)
{
	char seen[256] = "";
	struct module *held;

	load();
	held = module_find_get(host, "leaver");
	is(module_unload(host, "leaver", MODULE_UNLOAD_FORCE, 0), 1, "one that is held, by force");
	need(module_load(host, plugin("nodelete.so"), NULL, NULL) == 0);
	is(module_unload(host, "nodelete", 0, 0), 1, "one that stays");
	need(module_load(host, plugin("libprovider.so"), NULL, NULL) == 0);
	is(module_host_each(host, see, seen), 0, "each module is seen");
	if (!ok(strcmp(seen, "libprovider:0:0:0 leaver:2:1:1 nodelete:2:-1:4 ") == 0, "with its state"))
		printf("#   found: %s\n", seen);
	need(module_load(host, plugin("user.so"), NULL, NULL) == 0);
	is(module_host_each(host, see, seen), 1, "until that is enough");
	is(module_host_each(host, NULL, NULL), -EINVAL, "NULL: see");

	is(module_host_shutdown(host, 10 * MILLISECOND), 1, "all are unloaded but one that is held");
	says("and 1 that are unloaded, of which 'leaver' is still mapped: it is still held, by 1 reference");
	module_put(held);
	is(module_host_shutdown(host, -1), 0, "and then none is left");
	is(module_host_shutdown(NULL, 0), -EINVAL, "NULL: host");
}

static void pinned(void)
{
	struct module_host *own = module_host_new();
	struct module *mod;

	need(module_load(own, plugin("hooked.so"), "pinned", &mod) == 0);
	is(module_pin(mod, "it has a callback in a library"), 0, "a module is to stay");
	is(module_pin(mod, "another reason"), 0, "the first reason stands");
	is(module_unload(own, "pinned", 0, 0), -EBUSY, "it is not unloaded");
	says("'pinned' stays for good: it has a callback in a library");
	is(module_unload(own, "pinned", MODULE_UNLOAD_FORCE, 0), -EBUSY, "nor by force");
	is(module_unload_begin(own, "pinned", 0), -EBUSY, "nor by a loop");
	is(module_replace(own, "pinned", plugin("hooked2.so"), 0), -EBUSY, "nor replaced");
	is(module_host_shutdown(own, 0), 1, "nor with all others");
	says("it has a callback in a library");
	is(module_pin(NULL, "why") + module_pin(mod, NULL), 2 * -EINVAL, "NULL");
	is(module_pin(leaver, "late"), -ENOENT, "one that is gone cannot stay");
	module_handle_put(mod);
}

static int (*in_release)(void); /* called once */
static struct module *released, *user;
static int result;

static int pin(void)
{
	return module_pin(released, "it came late");
}

static int depend(void)
{
	return module_add_dependency(user, released);
}

static void during(int (*hook)(void))
{
	result = 1;
	in_release = hook;
}

/* The library's, too. In the midst of a release it has the kernel put up a barrier. */
long syscall(long number, ...)
{
	static long (*real)(long, ...);
	int (*hook)(void) = in_release;
	void *symbol;
	va_list list;
	long args[6];

	if (!real) {
		need((symbol = dlsym(RTLD_NEXT, "syscall")));
		memcpy(&real, &symbol, sizeof(real));
	}
	if (hook && number == SYS_membarrier) {
		in_release = NULL;
		result = hook();
	}
	va_start(list, number);
	for (int i = 0; i < 6; i++)
		args[i] = va_arg(list, long);
	va_end(list);
	return real(number, args[0], args[1], args[2], args[3], args[4], args[5]);
}

/* A pin, and a user, that come while an unload looks whether the module is held. */
static void kept_late(void)
{
	struct module_host *own = module_host_new();
	struct module *opened;

	if (!has_per_cpu()) {
		ok(true, "a pin and a user during a release # SKIP %s", why_not_per_cpu());
		return;
	}
	need(module_load(own, plugin("plain.so"), "user", &user) == 0);
	need(module_load(own, plugin("hooked.so"), "late", &released) == 0);
	during(depend);
	is(module_unload(own, "late", MODULE_UNLOAD_FORCE, 0), 0, "a module is forced out");
	is(result, -ENOENT, "and nobody can come to depend on it meanwhile");
	module_handle_put(released);
	is(module_unload(own, "user", 0, 0), 0, "which would have");
	module_handle_put(user);

	need(module_load(own, plugin("hooked.so"), "late", &released) == 0);
	during(pin);
	is(module_unload(own, "late", 0, 0), -EBUSY, "a module that is pinned during its release");
	in_release = NULL;
	says("'late' stays for good: it came late");
	is(result, 0, "which succeeds");
	is(module_state(released), MODULE_STATE_LIVE, "stays");
	is(module_refcount(released), 0, "and nobody holds it");
	module_handle_put(released);

	need(module_open(own, plugin("hooked2.so"), "opened", &opened) == 0);
	released = opened;
	during(pin);
	is(module_close(opened, 0), -EBUSY, "nor does its last user unload it");
	is(result, 0, "if it is pinned by then");
	is(module_refcount(opened), 1, "and has it open");
}

/* ---- who holds it ---------------------------------------------------------------------------- */

static void tracked(void)
{
	struct module_track first = { { 0 } }, second = { { 0 } };
	char text[512], start[64];

	load();
	is(module_holders(leaver, NULL, 0), 0, "nobody holds it");
	ok(module_try_get_tracked(leaver, &first, "request"), "a tracked reference");
	ok(module_try_get_tracked(leaver, &second, NULL), "one without a label");
	ok(module_try_get(leaver), "and one that is not tracked");
	is(module_refcount(leaver), 3, "count");
	need(module_holders(leaver, text, sizeof(text)) < (int64_t)sizeof(text));
	snprintf(start, sizeof(start), "request: thread %d 'life', ", (int)getpid());
	ok(strncmp(text, start, strlen(start)) == 0, "the first is told");
	ok(strstr(text, "/life+0x"), "with the place it was taken from");
	ok(strstr(text, "\na reference: thread "), "then the second");
	ok(strstr(text, "\n1 reference, not tracked\n"), "and how many others there are");
	is(unload(0), -EWOULDBLOCK, "an unload is refused");
	says("held by request: thread ");
	module_put_tracked(leaver, &first);
	is(module_refcount(leaver), 2, "put");
	is(reports_since(MODULE_REF_SURPLUS_PUT), 0, "no report");
	module_put_tracked(leaver, &first);
	is(reports_since(MODULE_REF_SURPLUS_PUT), 1, "a second put is reported");
	is(module_refcount(leaver), 2, "and gives nothing back");
	module_put(leaver);
	module_put_tracked(leaver, &second);
	is(module_holders(leaver, NULL, 0), 0, "nobody holds it");
	is(unload(0), 0, "unloaded");
	ok(!module_try_get_tracked(leaver, &first, "late"), "no reference on what is gone");
	ok(module_try_get_tracked(NULL, &first, "") && !module_try_get_tracked(leaver, NULL, ""), "NULL");
	module_put_tracked(NULL, &first);
	module_put_tracked(leaver, NULL);
}

static void *library; /* that another thread closes as soon as anybody has been told of it */

/* In the place of the C library's. */
int dladdr(const void *address, Dl_info *info)
{
	int (*next)(const void *, Dl_info *);
	void *symbol = dlsym(RTLD_NEXT, "dladdr");
	int rc;

	memcpy(&next, &symbol, sizeof(next));
	rc = next(address, info);
	if (library)
		dlclose(library);
	library = NULL;
	return rc;
}

static void taken_by_what_goes(void)
{
	struct module_track track = { { 0 } };
	const char *path = plugin("leaver.so");
	char text[512], start[PATH_MAX];
	int (*hold)(struct module *, struct module_track *, const char *);
	struct module *mod;
	void *symbol, *handle;

	need(module_load(host, plugin("plain.so"), "held", &mod) == 0);
	need((handle = dlopen(path, RTLD_NOW)) && (symbol = dlsym(handle, "hold")));
	memcpy(&hold, &symbol, sizeof(hold));
	need(hold(mod, &track, "a library") == 0);
	snprintf(start, sizeof(start), ", from %s+0x", path);
	library = handle;
	need(module_holders(mod, text, sizeof(text)) > 0);
	if (!ok(strstr(text, start), "the place is told whole, whenever its object goes"))
		printf("#   found: %s\n", text);
	if (library)
		dlclose(library);
	library = NULL;
	is(mapped("/leaver.so"), 0, "it has gone");
	need(module_holders(mod, text, sizeof(text)) > 0);
	ok(strstr(text, "a library: thread ") && !strstr(text, ", from "), "and then there is none");
	module_put_tracked(mod, &track);
	is(module_unload(host, "held", 0, SECOND), 0, "unloaded");
	module_handle_put(mod);
}

int main(void)
{
	host = module_host_new();
	module_ref_set_misuse_handler(on_misuse);
	asked();
	threads();
	at_the_end();
	from_inside();
	users();
	all();
	pinned();
	kept_late();
	tracked();
	taken_by_what_goes();
	module_handle_put(leaver);
	is(module_host_free(host), 0, "nothing is left");
	return tap_done();
}
