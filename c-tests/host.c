/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * host.c - what Linux does when a module is loaded, listed and unloaded, and what the module
 * host does: the tables U1 to U7, F1 and F2, L1 to L7 and "Listing" of docs/conformance.md. Bad
 * plugins are in badplugins.c.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "host.h"
#include "threads.h"

/* ---- what the plugins call ----------------------------------------------------- */

int on_init(struct module *self);
void on_exit_of(struct module *self);

static struct module_host *host;
static int init_result;
static char order[4096];          /* what happened, in words */
static sem_t in_init, leave_init; /* for an init function that takes its time */
static bool init_waits;
static void (*in_exit)(struct module *self);
static void (*during_init)(struct module *self);

static void happened(const char *what, struct module *mod)
{
	size_t n = strlen(order);

	snprintf(order + n, sizeof(order) - n, "%s(%s,%d,%lld) ", what, module_name(mod),
		 (int)module_state(mod), (long long)module_refcount(mod));
}

static void happens(const char *expected, const char *what)
{
	if (!ok(strcmp(order, expected) == 0, "%s", what))
		printf("#   found:    %s\n#   expected: %s\n", order, expected);
	order[0] = '\0';
}

int on_init(struct module *self)
{
	happened("init", self);
	if (during_init)
		during_init(self);
	if (init_waits) {
		sem_post(&in_init);
		sem_wait(&leave_init);
	}
	return init_result;
}

void on_exit_of(struct module *self)
{
	happened("exit", self);
	if (in_exit)
		in_exit(self);
}

static int tell(struct module *mod, enum module_state state, void *data)
{
	happened(data, mod);
	return 0;
}

static int veto(struct module *mod, enum module_state state, void *data)
{
	happened(data, mod);
	return state == MODULE_STATE_COMING ? -EPERM : 0;
}

/* ---- helpers --------------------------------------------------------------------- */

static int load(const char *file, const char *name)
{
	return module_load(host, plugin(file), name, NULL);
}

static int unload(const char *name)
{
	return module_unload(host, name, 0, 0);
}

/* The line of a module in the list, without its end; "" if it is not there. */
static const char *line_of(const char *name)
{
	static char list[8192];
	char *line;

	need(module_host_list(host, list, sizeof(list)) < (int64_t)sizeof(list));
	for (line = strtok(list, "\n"); line; line = strtok(NULL, "\n"))
		if (strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ' ')
			return line;
	return "";
}

/* The field of that number, from 0, in a module's line. */
static const char *field(const char *name, int number)
{
	static char copy[4][512];
	static unsigned next;
	char *word, *save, *mine = copy[next++ % 4];

	snprintf(mine, sizeof(copy[0]), "%s", line_of(name));
	word = strtok_r(mine, " ", &save);
	while (word && number-- > 0)
		word = strtok_r(NULL, " ", &save);
	return word ? word : "";
}

static void field_is(const char *name, int number, const char *expected, const char *what)
{
	if (!ok(strcmp(field(name, number), expected) == 0, "%s", what))
		printf("#   expected '%s' in: %s\n", expected, line_of(name));
}

/* ---- the tables -------------------------------------------------------------------- */

static void a_load_and_an_unload(void)
{
	struct module *handle, *found;
	char text[256];

	is(module_load(host, plugin("hooked.so"), NULL, &handle), 0, "a plugin is loaded");
	is(module_state(handle), MODULE_STATE_LIVE, "it is live");
	ok(strcmp(module_name(handle), "hooked") == 0, "it is called after its file");
	is(module_refcount(handle), 0, "C2 nobody holds it");
	ok(module_host_of(handle) == host, "its host is known");
	is(module_holders(handle, NULL, 0), 0, "and that nobody holds it");
	ok(mapped("/hooked.so") > 0, "it is mapped");
	happens("init(hooked,1,1) ", "L1 init ran once, while COMING, with one reference");

	found = module_find_get(host, "hooked");
	ok(found == handle, "it is found, and is the same");
	is(module_refcount(handle), 1, "with a reference");
	is(call(found, "answer"), 1, "its function is called");
	ok(*(struct module **)module_symbol(found, "__this_module") == handle,
	   "it knows itself");
	ok(!module_symbol(found, "nothing"), "a symbol that is not there");
	says("no symbol 'nothing'");
	is(unload("hooked"), -EWOULDBLOCK, "U6 it is held");
	says("1 reference");
	is(call(found, "answer"), 1, "and as before");
	is(module_holders(handle, text, sizeof(text)), 25, "who holds it is not known");
	ok(strcmp(text, "1 reference, not tracked\n") == 0, "but how many references there are");
	module_get(found);
	is(module_refcount(found), 2, "one more reference");
	module_put(found);
	module_put(found);
	is(unload("hooked"), 0, "U7 it is unloaded");
	happens("exit(hooked,2,-1) ", "U7 exit ran while GOING");
	is(mapped("/hooked.so"), 0, "and is gone from memory");
	ok(!module_try_get(handle), "its pointer gives no reference");
	is(module_state(handle), MODULE_STATE_GOING, "its state stays GOING");
	is(module_refcount(handle), -1, "its count is -1");
	is(module_host_last_unloaded(host, text, sizeof(text)), 15, "there is a record");
	ok(strcmp(text, "hooked unmapped") == 0, "U7 which says so");

	is(load("hooked.so", "hooked"), 0, "the same name is loaded again");
	ok(!module_try_get(handle), "the old pointer gives no reference in another generation");
	module_handle_put(handle);
	is(unload("hooked"), 0, "unloaded again");
	order[0] = '\0';
}

static void unload_conditions(void)
{
	char long_name[100];
	struct module *held;

	memset(long_name, 'x', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = '\0';
	is(unload(""), -ENOENT, "U1 an empty name");
	is(unload(long_name), -ENOENT, "U1 a name too long");
	says("at most 55 bytes");
	is(unload("nobody"), -ENOENT, "U2 no such module");
	says("no module 'nobody'");
	is(module_unload(host, "nobody", 8, 0), -EINVAL, "unknown flags");

	is(load("noexit.so", NULL), 0, "init and no exit");
	field_is("noexit", 3, "[permanent],", "Listing: it is permanent");
	is(unload("noexit"), -EBUSY, "U5 it is not unloaded");
	says("no cleanup_module");
	is(module_unload(host, "noexit", 0, SECOND), -EBUSY, "U5 with a timeout neither");
	ok(!module_host_tainted(host), "U5 the host is clean");
	is(module_unload(host, "noexit", MODULE_UNLOAD_FORCE, 0), 0, "U5 unless forced");
	ok(module_host_tainted(host), "U5 which taints");
	is(mapped("/noexit.so"), 0, "U5 and it is gone");

	is(load("plain.so", NULL), 0, "neither init nor exit");
	field_is("plain", 3, "-", "Listing: nobody needs it");
	is(unload("plain"), 0, "U5 it is unloadable");

	is(load("hooked.so", "a"), 0, "U6");
	held = module_find_get(host, "a");
	is(unload("a"), -EWOULDBLOCK, "U6 held, without a timeout");
	is(module_unload(host, "a", 0, MILLISECOND), -ETIMEDOUT, "U6 held, with a timeout");
	says("live again");
	is(module_state(held), MODULE_STATE_LIVE, "U6 it is live again");
	ok(module_try_get(held), "U6 and can be had");
	module_put(held);
	module_put(held);
	is(module_unload(host, "a", 0, MILLISECOND), 0, "U6 not held, with a timeout");
	order[0] = '\0';
}

static void *hold_for_a_while(void *arg)
{
	struct module *mod = arg;

	for (int i = 0; i < 1000 && module_state(mod) != MODULE_STATE_GOING; i++)
		sleep_ns(MILLISECOND);
	is(module_state(mod), MODULE_STATE_GOING, "while it drains it is GOING");
	ok(!module_try_get(mod), "it is closed");
	ok(!module_find_get(host, "a"), "and it is not found");
	field_is("a", 4, "Unloading", "Listing: Unloading");
	is(unload("a"), -EBUSY, "U4 another unload");
	is(module_unload(host, "a", MODULE_UNLOAD_FORCE, 0), -EBUSY, "U4 by force neither");
	is(load("hooked.so", "a"), -EBUSY, "L5 a load of that name");
	is(call(mod, "answer"), 1, "its holder goes on");
	module_put(mod);
	return NULL;
}

static void a_drain(void)
{
	pthread_t thread;

	is(load("hooked.so", "a"), 0, "a drain");
	thread = start_thread(hold_for_a_while, module_find_get(host, "a"));
	is(module_unload(host, "a", 0, -1), 0, "waits for the last reference");
	pthread_join(thread, NULL);
	order[0] = '\0';
}

static void forced(void)
{
	struct module_host *clean = module_host_new();
	struct module *held;
	char text[256];

	need(module_load(clean, plugin("hooked.so"), NULL, NULL) == 0);
	is(module_unload(clean, "hooked", MODULE_UNLOAD_FORCE, 0), 0, "F2 force on an idle one");
	ok(!module_host_tainted(clean), "F2 does not taint");

	need(module_load(clean, plugin("hooked.so"), NULL, NULL) == 0);
	held = module_find_get(clean, "hooked");
	order[0] = '\0';
	is(module_unload(clean, "hooked", MODULE_UNLOAD_FORCE, 0), 1, "F1 force on a held one");
	says("1 reference");
	happens("exit(hooked,2,1) ", "F1 exit runs");
	is(module_host_list(clean, text, sizeof(text)), 0, "F1 it is gone from the table");
	ok(!module_find_get(clean, "hooked"), "F1 and not found");
	ok(!module_try_get(held), "F1 nobody gets in");
	ok(module_host_tainted(clean), "F1 the host is tainted");
	ok(mapped("/hooked.so") > 0, "F1 the mapping is kept");
	is(call(held, "answer"), -1, "F1 and can be called");
	is(module_host_free(clean), -EBUSY, "F1 the host stays");
	is(module_host_reap(clean), 0, "F1 nothing is unmapped under the holder");
	need(module_load(clean, plugin("hooked.so"), NULL, NULL) == 0);
	ok(module_find_get(clean, "hooked") != held, "F1 the name can be loaded again");
	module_put(module_find_get(clean, "hooked"));
	module_put(module_find_get(clean, "hooked"));
	{
		struct module *again = module_find_get(clean, "hooked");

		is(call(again, "answer"), 1, "F1 as an object of its own");
		module_put(again);
		module_put(again);
	}
	module_put(held);
	is(module_host_reap(clean), 1, "F1 the last put lets it go");
	is(module_unload(clean, "hooked", 0, 0), 0, "F1 the other one as usual");
	is(mapped("hooked.so"), 0, "F1 nothing is left");

	need(module_load(clean, plugin("hooked.so"), NULL, NULL) == 0);
	held = module_find_get(clean, "hooked");
	is(module_unload(clean, "hooked", MODULE_UNLOAD_FORCE, MILLISECOND), 1,
	   "force after a time");
	module_put(held);
	need(module_load(clean, plugin("plain.so"), NULL, NULL) == 0);
	is(mapped("/hooked.so"), 0, "F1 the next call of the host unmaps it");
	need(module_unload(clean, "plain", 0, 0) == 0);
	is(module_host_free(clean), 0, "an empty host is freed");
	order[0] = '\0';
}

static void notifiers(void)
{
	is(module_notifier_register(host, tell, "low", -1), 0, "notifiers");
	is(module_notifier_register(host, tell, "high", 5), 0, "with priorities");
	is(module_notifier_register(host, tell, "middle", 0), 0, "in any order");
	is(module_notifier_register(host, tell, "high", 7), -EEXIST, "each once");
	is(load("hooked.so", NULL), 0, "L1");
	happens("high(hooked,1,1) middle(hooked,1,1) low(hooked,1,1) init(hooked,1,1) "
		"high(hooked,0,1) middle(hooked,0,1) low(hooked,0,1) ",
		"L1 COMING, notifiers, init, LIVE, notifiers, and the init reference last");
	is(unload("hooked"), 0, "U7");
	happens("exit(hooked,2,-1) high(hooked,2,-1) middle(hooked,2,-1) low(hooked,2,-1) ",
		"U7 GOING, exit, notifiers");
	is(module_notifier_unregister(host, tell, "middle"), 0, "one less");
	is(module_notifier_unregister(host, tell, "middle"), -ENOENT, "once");

	is(module_notifier_register(host, veto, "veto", 1), 0, "L2 a veto");
	is(load("hooked.so", NULL), -EPERM, "L2 fails the load with its errno");
	says("refused by a notifier");
	happens("high(hooked,1,1) veto(hooked,1,1) high(hooked,2,1) ",
		"L2 those already called see GOING; init has not run");
	ok(!module_find_get(host, "hooked") && mapped("/hooked.so") == 0, "L2 nothing is left");
	is(module_notifier_unregister(host, veto, "veto"), 0, "no veto any more");

	init_result = -EIO;
	is(load("hooked.so", NULL), -EIO, "L3 init fails the load with its errno");
	says("init_module returned -5");
	happens("high(hooked,1,1) low(hooked,1,1) init(hooked,1,1) high(hooked,2,1) "
		"low(hooked,2,1) ",
		"L3 GOING, notifiers; exit is not called");
	ok(!module_find_get(host, "hooked") && mapped("/hooked.so") == 0, "L3 nothing is left");
	init_result = 3;
	is(load("hooked.so", NULL), 0, "L4 a positive result is a warning");
	init_result = 0;
	need(unload("hooked") == 0);
	is(module_notifier_unregister(host, tell, "low"), 0, "the end");
	is(module_notifier_unregister(host, tell, "high"), 0, "of notifiers");
	order[0] = '\0';
}

static int leak_result;

static int keep_a_reference(struct module *mod, enum module_state state, void *data)
{
	if (state == MODULE_STATE_COMING && module_try_get(mod))
		*(struct module **)data = mod;
	return 0;
}

static void a_failed_load_that_leaks(void)
{
	struct module *kept = NULL;

	need(module_notifier_register(host, keep_a_reference, &kept, 0) == 0);
	init_result = -ENODEV;
	leak_result = load("hooked.so", NULL);
	init_result = 0;
	need(module_notifier_unregister(host, keep_a_reference, &kept) == 0);
	is(leak_result, -ENODEV, "L3 a load that fails and leaks a reference");
	says("stays until somebody gives 1 reference to it back");
	ok(!module_find_get(host, "hooked"), "L3 is not in the table");
	is(call(kept, "answer"), 1, "L3 the mapping is kept for the holder");
	ok(!module_try_get(kept), "L3 nobody else gets in");
	module_put(kept);
	is(module_host_reap(host), 1, "L3 until the reference is given back");
	is(mapped("/hooked.so"), 0, "L3 then it is gone");
	happens("init(hooked,1,2) ", "L3 without exit");
}

static void *load_slowly(void *arg)
{
	return (void *)(intptr_t)load("hooked.so", arg);
}

static _Atomic pid_t loads_the_same;

static void *load_the_same(void *arg)
{
	atomic_store(&loads_the_same, gettid());
	return (void *)(intptr_t)load("plain.so", arg);
}

static void coming(void)
{
	pthread_t first, second;
	struct module *mod;
	void *rc;

	sem_init(&in_init, 0, 0);
	sem_init(&leave_init, 0, 0);
	for (int fails = 0; fails < 2; fails++) {
		init_waits = true;
		init_result = fails ? -EIO : 0;
		mod = NULL;
		need(module_notifier_register(host, keep_a_reference, &mod, 0) == 0);
		first = start_thread(load_slowly, "slow");
		sem_wait(&in_init);
		need(module_notifier_unregister(host, keep_a_reference, &mod) == 0);
		ok(!module_find_get(host, "slow"), "L8 COMING is not found");
		ok(mod, "C4 but can be referenced by who has it");
		is(module_state(mod), MODULE_STATE_COMING, "C4 its state says so");
		is(module_refcount(mod), 2, "C1 the init reference, and ours");
		field_is("slow", 4, "Loading", "Listing: Loading");
		is(unload("slow"), -EBUSY, "U4 it is not unloaded");
		says("in its init function");
		is(module_unload(host, "slow", MODULE_UNLOAD_FORCE, SECOND), -EBUSY,
		   "U4 by force neither");
		is(module_replace(host, "slow", plugin("plain.so"), 0), -EBUSY, "nor replaced");
		is(load("plain.so", "other"), 0, "another load does not wait for it");
		ok(module_find_get(host, "other"), "nor does a lookup");
		module_put(mod);
		mod = module_find_get(host, "other");
		module_put(mod);
		module_put(mod);
		need(unload("other") == 0);
		atomic_store(&loads_the_same, 0);
		second = start_thread(load_the_same, "slow");
		while (atomic_load(&loads_the_same) == 0)
			sched_yield();
		until_it_sleeps(atomic_load(&loads_the_same));
		init_waits = false;
		sem_post(&leave_init);
		pthread_join(first, &rc);
		is((intptr_t)rc, init_result, "the slow load ends");
		pthread_join(second, &rc);
		is((intptr_t)rc, fails ? -EBUSY : -EEXIST, "L5 the other has waited, then %s",
		   fails ? "EBUSY" : "EEXIST");
		if (!fails)
			need(unload("slow") == 0);
	}
	init_result = 0;
	order[0] = '\0';
	is(load("plain.so", "there"), 0, "L5");
	is(load("plain.so", "there"), -EEXIST, "L5 a live one of that name");
	says("loaded already");
	need(unload("there") == 0);
}

/* As before glibc 2.35, which has no such function. */
static bool walks;

#if __GLIBC_PREREQ(2, 35)
int _dl_find_object(void *address, struct dl_find_object *object)
{
	static int (*real)(void *, struct dl_find_object *);

	if (walks)
		return -1;
	if (!real) {
		void *symbol = dlsym(RTLD_NEXT, "_dl_find_object");

		memcpy(&real, &symbol, sizeof(real));
	}
	return real(address, object);
}
#endif

static void dependency_by_walk(void)
{
	need(load("aliased.so", NULL) == 0);
	walks = true;
	is(load("aliases.so", NULL), 0, "DT_NEEDED by another name, which the linker's list tells alone");
	/* Unwinding needs the function, where there is one. */
	walks = false;
	field_is("aliased", 3, "aliases,", "is found");
	is(unload("aliased"), -EWOULDBLOCK, "and held");
	need(unload("aliases") == 0 && unload("aliased") == 0);
}

static void dependencies(void)
{
	struct module *a, *b, *c, *user, *provider;

	dependency_by_walk();
	need(module_load(host, plugin("plain.so"), "a", &a) == 0);
	need(module_load(host, plugin("plain.so"), "b", &b) == 0);
	need(module_load(host, plugin("plain.so"), "c", &c) == 0);
	is(module_add_dependency(b, a), 0, "L6 a dependency");
	is(module_add_dependency(b, a), 0, "L6 again");
	is(module_refcount(a), 1, "L6 is taken once per pair");
	is(module_add_dependency(c, b), 0, "L6 another");
	is(module_add_dependency(c, a), 0, "L6 and one more");
	is(module_refcount(a), 2, "L6 counted in the provider's refcount");
	field_is("a", 3, "c,b,", "Listing: deps, newest first");
	field_is("b", 3, "c,", "Listing: one of them");
	field_is("a", 2, "2", "Listing: refcnt");
	is(module_add_dependency(a, c), -EDEADLK, "L6 a cycle");
	says("cannot depend on");
	is(module_add_dependency(a, a), -EDEADLK, "L6 of one");
	is(module_add_dependency(a, NULL), -EINVAL, "L6 NULL");
	is(unload("a"), -EWOULDBLOCK, "U3 others depend on it");
	says("needed by 'c', 'b'");
	is(module_unload(host, "a", MODULE_UNLOAD_FORCE, 0), -EWOULDBLOCK, "U3 not forceable");
	is(module_unload(host, "a", 0, SECOND), -EWOULDBLOCK, "U3 not waited for");
	is(module_replace(host, "a", plugin("plain.so"), 0), -EWOULDBLOCK, "U3 nor replaced");
	is(unload("c"), 0, "L6 its user is unloaded");
	is(module_refcount(a), 1, "L6 which drops what it took");
	is(module_add_dependency(c, a), -ENOENT, "L6 a module that is gone depends on nothing");
	is(unload("b"), 0, "L6 and the last user");
	is(unload("a"), 0, "U3 nobody depends on it");
	module_handle_put(a);
	module_handle_put(b);
	module_handle_put(c);

	is(module_load(host, plugin("libprovider.so"), NULL, &provider), 0, "DT_NEEDED");
	is(module_load(host, plugin("user.so"), NULL, &user), 0, "finds the provider");
	is(module_refcount(provider), 1, "and takes a reference on it");
	field_is("libprovider", 3, "user,", "Listing: user");
	need(module_try_get(user));
	is(call(user, "uses"), 7, "which it is bound to");
	module_put(user);
	is(unload("libprovider"), -EWOULDBLOCK, "U3 by DT_NEEDED");
	is(load("far.so", NULL), 0, "DT_NEEDED through a library that is no module");
	field_is("libprovider", 3, "far,user,", "is found, too");
	is(module_unload(host, "far", 0, 0), 0, "unloaded");
	is(unload("user"), 0, "unloaded");
	is(unload("libprovider"), 0, "and then the provider");
	is(mapped("libprovider.so"), 0, "which is gone");
	module_handle_put(user);
	module_handle_put(provider);

	is(load("user.so", NULL), 0, "a user before its provider is a module");
	is(load("libprovider.so", NULL), 0, "and then the provider");
	field_is("libprovider", 3, "user,", "is depended on as well");
	need(unload("user") == 0);
	is(unload("libprovider"), 0, "in this order");

	/* While the user of a module is held by force, so is the module. */
	need(load("libprovider.so", NULL) == 0 && load("user.so", NULL) == 0);
	user = module_find_get(host, "user");
	is(module_unload(host, "user", MODULE_UNLOAD_FORCE, 0), 1, "a user that is held, by force");
	is(call(user, "uses"), 7, "still calls its provider");
	is(unload("libprovider"), -EWOULDBLOCK, "which therefore stays");
	module_put(user);
	is(module_host_reap(host), 1, "until it is let go");
	is(unload("libprovider"), 0, "and then not any more");
	order[0] = '\0';
}

static void listing(void)
{
	char list[512], expected[512];
	struct module *mod;
	unsigned long size, address;

	need(load("plain.so", "one") == 0 && load("hooked.so", "two") == 0);
	mod = module_find_get(host, "two");
	need(sscanf(line_of("one"), "one %lu 0 - Live 0x%lx", &size, &address) == 2);
	snprintf(expected, sizeof(expected), "one %lu 0 - Live 0x%016lx\n", size, address);
	is(module_host_list(host, list, sizeof(list)), (int64_t)strlen(list), "the length needed");
	ok(strstr(list, expected) == strchr(list, '\n') + 1, "newest first, in Linux's format");
	ok(size > 0 && size % (unsigned long)sysconf(_SC_PAGESIZE) == 0, "the size is in bytes");
	snprintf(expected, sizeof(expected), "%lx-", address);
	is(mapped(expected), 1, "the address is where it is mapped");
	field_is("two", 2, "1", "the references");
	is(module_host_list(host, NULL, 0), (int64_t)strlen(list), "without a buffer: the length");
	is(module_host_list(host, list, 5), (int64_t)strlen(line_of("one")) +
		   (int64_t)strlen(line_of("two")) + 2, "with a small one, too");
	ok(strcmp(list, "two ") == 0, "and as much as fits");
	module_put(mod);
	need(unload("one") == 0 && unload("two") == 0);
	is(module_host_list(host, list, sizeof(list)), 0, "an empty list");
	order[0] = '\0';
}

static void same_file_twice(void)
{
	struct module *a, *b;

	need(module_load(host, plugin("hooked.so"), "a", &a) == 0);
	is(module_load(host, plugin("hooked.so"), "b", &b), 0, "one file, two modules");
	need(module_try_get(a) && module_try_get(b));
	ok(module_symbol(a, "answer") != module_symbol(b, "answer"), "each is its own object");
	ok(*(struct module **)module_symbol(a, "__this_module") == a &&
		   *(struct module **)module_symbol(b, "__this_module") == b,
	   "with its own variables");
	module_put(a);
	module_put(b);
	is(unload("a"), 0, "one goes");
	need(module_try_get(b));
	is(call(b, "answer"), 1, "the other stays");
	module_put(b);
	is(unload("b"), 0, "and goes");
	is(mapped("hooked.so"), 0, "nothing is left");
	module_handle_put(a);
	module_handle_put(b);
	order[0] = '\0';
}

/* ---- resident ------------------------------------------------------------------------- */

static void resident(void)
{
	char text[512];
	struct module *mod;
	void *handle;

	need(load("nodelete.so", NULL) == 0);
	is(unload("nodelete"), 1, "-z nodelete is resident");
	says("nodelete");
	ok(mapped("/nodelete.so") > 0, "and mapped, indeed");
	need(module_host_last_unloaded(host, text, sizeof(text)) > 0);
	ok(strncmp(text, "nodelete resident: ", 19) == 0 && strstr(text, "NODELETE"),
	   "the record says so, too");
	is(load("nodelete.so", NULL), 0, "it can be loaded again");
	is(unload("nodelete"), 1, "and unloaded");

	need((handle = dlopen(plugin("hooked.so"), RTLD_NOW)));
	need(load("hooked.so", NULL) == 0);
	is(unload("hooked"), 1, "another user in the process");
	says("another user");
	ok(mapped("/hooked.so") > 0, "and mapped, indeed");
	dlclose(handle);
	is(mapped("/hooked.so"), 0, "until that lets go of it");

	need(load("hooked.so", NULL) == 0 && (handle = dlopen(plugin("hooked.so"), RTLD_NOW)));
	is(unload("hooked"), 1, "a user who came later");
	need(load("hooked.so", NULL) == 0);
	mod = module_find_get(host, "hooked");
	is(call(mod, "answer"), 1, "what is in memory after its close is not shared");
	module_put(mod);
	is(unload("hooked"), 0, "so that the next one goes");
	dlclose(handle);
	is(mapped("/hooked.so"), 0, "and in the end both are gone");

	need((handle = dlopen(plugin("user.so"), RTLD_NOW)));
	need(load("libprovider.so", NULL) == 0);
	is(unload("libprovider"), 1, "an object that is no module needs it");
	says("user.so' needs it");
	dlclose(handle);

	need(load("unique.so", NULL) == 0);
	mod = module_find_get(host, "unique");
	is(call(mod, "answer"), 1, "a C++ plugin");
	module_put(mod);
#ifdef __clang__
	is(unload("unique"), 0, "clang does not make unique symbols");
#else
	is(unload("unique"), 1, "a unique symbol");
	says("unique");
	ok(mapped("/unique.so") > 0, "and mapped, indeed");
	is(load("unique.so", NULL), 0, "one that is bound to the old one's symbol is loaded");
	says("counter");
	is(module_replace(host, "unique", plugin("unique.so"), 0), -EEXIST, "and not replaced");
	need(unload("unique") >= 0);
	need(module_load_flags(host, plugin("unique.so"), NULL, MODULE_LOAD_SHARED, NULL) == 0);
	ok(module_replace(host, "unique", plugin("unique.so"), 0) >= 0, "unless that is wanted");
	need(unload("unique") >= 0);
	need(load("counts1.so", "counts") == 0 && unload("counts") == 0);
	ok(mapped("/libunique1.so") > 0, "a library with a unique symbol stays");
	is(load("counts2.so", "counts"), 0, "one that is bound to that is loaded");
	says("/libunique2.so', which does not use its own unique symbol");
	says("libunique1.so'");
	need(unload("counts") == 0);
#endif

	need(load("tlsdtor.so", NULL) == 0);
	mod = module_find_get(host, "tlsdtor");
	is(call(mod, "answer"), 1, "a thread-local object");
	module_put(mod);
	is(unload("tlsdtor"), 0, "which goes with its module");
	order[0] = '\0';
}

static void *opened;
static void (*when_gone)(void);

/* In front of the C library's: the host asks whether there is anything where an object was. */
int mincore(void *start, size_t size, unsigned char *pages)
{
	static int (*real)(void *, size_t, unsigned char *);
	void (*happens_now)(void) = when_gone;
	int rc, error;

	if (!real) {
		void *symbol = dlsym(RTLD_NEXT, "mincore");

		memcpy(&real, &symbol, sizeof(real));
	}
	rc = real(start, size, pages);
	error = errno;
	when_gone = NULL;
	if (happens_now)
		happens_now();
	errno = error;
	return rc;
}

static int counts(const struct module_info *info, void *data)
{
	*(int *)data += info->residency != MODULE_IN_SERVICE;
	return 0;
}

static int residents(void)
{
	int n = 0;

	need(module_host_each(host, counts, &n) == 0);
	return n;
}

static void stays_shared(void)
{
	need((opened = dlopen(plugin("plain.so"), RTLD_NOW)) && load("plain.so", "shared") == 0);
	is(unload("shared"), 1, "a module that another user has open");
}

/* One has gone, and while the host looks another one comes, which has the linker's record of the first. */
static void resident_in_its_place(void)
{
	int before = residents();
	void *first;

	stays_shared();
	first = opened;
	is(residents(), before + 1, "is told");
	need(dlclose(opened) == 0);
	when_gone = stays_shared;
	residents();
	ok(!when_gone, "the other one has come");
	if (opened != first)
		ok(true, "the linker's record # SKIP it is another one");
	else
		is(residents(), before + 1, "and is told as well");
	need(dlclose(opened) == 0);
	is(residents(), before, "until it has gone, too");
}

/* ---- replace ---------------------------------------------------------------------------- */

/* Puts a copy of a plugin at a path, as an installer does (a new file of that name), or by
 * writing over what is there. */
static void copy(const char *from, const char *to, bool in_place)
{
	char buffer[65536], temporary[PATH_MAX + 8];
	int in = open(from, O_RDONLY), out;
	ssize_t n;

	snprintf(temporary, sizeof(temporary), "%s%s", to, in_place ? "" : ".new");
	out = open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0755);
	need(in >= 0 && out >= 0);
	while ((n = read(in, buffer, sizeof(buffer))) > 0)
		need(write(out, buffer, (size_t)n) == n);
	close(in);
	close(out);
	if (!in_place)
		need(rename(temporary, to) == 0);
}

static long answer_of(const char *name)
{
	struct module *mod = module_find_get(host, name);
	long answer;

	need(mod);
	answer = call(mod, "answer");
	module_put(mod);
	return answer;
}

/* What a debugger does: it opens the name that the linker has, and looks for the lines' numbers. */
static bool has_lines(const char *name)
{
	struct module *mod = module_find_get(host, name);
	bool has = false;
	Elf64_Ehdr elf;
	Elf64_Shdr section;
	Dl_info info;
	FILE *file;

	need(mod && dladdr(module_symbol(mod, "answer"), &info));
	module_put(mod);
	need(strstr(info.dli_fname, "/fd/") && (file = fopen(info.dli_fname, "r")));
	need(fread(&elf, sizeof(elf), 1, file) == 1);
	for (int i = 0; i < elf.e_shnum; i++) {
		char title[20] = "";
		long at = (long)elf.e_shoff;

		need(fseek(file, at + (long)sizeof(section) * elf.e_shstrndx, SEEK_SET) == 0 &&
		     fread(&section, sizeof(section), 1, file) == 1);
		at = (long)section.sh_offset;
		need(fseek(file, (long)elf.e_shoff + (long)sizeof(section) * i, SEEK_SET) == 0 &&
		     fread(&section, sizeof(section), 1, file) == 1);
		need(fseek(file, at + (long)section.sh_name, SEEK_SET) == 0);
		need(fgets(title, sizeof(title), file));
		has |= strcmp(title, ".debug_line") == 0 && section.sh_type == SHT_PROGBITS;
	}
	fclose(file);
	return has;
}

/* What the init function of a replacement can do to the one in service. */
static void while_being_replaced(struct module *self)
{
	during_init = NULL;
	is(module_unload(host, module_name(self), MODULE_UNLOAD_FORCE, 0), -EBUSY,
	   "one that is being replaced is not unloaded");
	says("replacement");
	is(module_replace(host, module_name(self), plugin("plain.so"), 0), -EBUSY,
	   "nor replaced by yet another");
	is(answer_of(module_name(self)), 1, "it is in service");
}

static char renamed_from[PATH_MAX], renamed_to[PATH_MAX];

/* In front of the C library's: another program installs a file at this moment. */
void *dlopen(const char *path, int flags)
{
	static void *(*real)(const char *, int);

	if (!real) {
		void *symbol = dlsym(RTLD_NEXT, "dlopen");

		memcpy(&real, &symbol, sizeof(real));
	}
	if (renamed_from[0] && path && strcmp(path, renamed_to) == 0) {
		need(rename(renamed_from, renamed_to) == 0);
		renamed_from[0] = '\0';
	}
	return real(path, flags);
}

static void renamed_while_opened(void)
{
	char new[PATH_MAX];

	snprintf(new, sizeof(new), "%s", plugin("new.so"));
	snprintf(renamed_to, sizeof(renamed_to), "%s", plugin("renamed.so"));
	copy(plugin("hooked.so"), renamed_to, false);
	copy(plugin("hooked2.so"), new, false);
	strcpy(renamed_from, new);
	need(module_load(host, renamed_to, "first", NULL) == 0);
	is(answer_of("first"), 2, "a file renamed while it is opened is the new one");
	need(module_load(host, renamed_to, "second", NULL) == 0);
	ok(mapped("/memfd:renamed.so") > 0, "renamed while it was opened, it is no second module's");
	is(unload("first") + unload("second"), 0, "and both are unloaded");
	unlink(renamed_to);
}

static void replace(void)
{
	char path[PATH_MAX];
	struct module *old, *held;

	snprintf(path, sizeof(path), "%s", plugin("replaced.so"));
	copy(plugin("hooked.so"), path, false);
	need(module_load(host, path, NULL, &old) == 0);
	is(answer_of("replaced"), 1, "the first copy");
	order[0] = '\0';
	during_init = while_being_replaced;
	is(module_replace(host, "replaced", plugin("hooked2.so"), -1), 0, "replaced by another file");
	happens("init(replaced,1,1) exit(replaced,2,-1) ", "init of the new, then exit of the old");
	is(answer_of("replaced"), 2, "the second copy answers");
	ok(!module_try_get(old), "the old pointer does not");
	is(mapped("/replaced.so"), 0, "the first is gone");
	module_handle_put(old);

	is(module_replace(host, "replaced", path, -1), 0, "and back");
	copy(plugin("hooked2.so"), path, false);
	is(module_replace(host, "replaced", path, -1), 0, "the same path, a new file");
	is(answer_of("replaced"), 2, "its new content answers");
	is(module_replace(host, "replaced", path, -1), 0, "the very same file");
	is(answer_of("replaced"), 2, "answers");
	need(unload("replaced") == 0);

	need(module_load_flags(host, path, NULL, MODULE_LOAD_COPY, NULL) == 0);
	ok(has_lines("replaced"), "a copy's name leads to its line numbers");
	copy(plugin("hooked.so"), path, true);
	is(answer_of("replaced"), 2, "a copy: its file is written over, and it goes on");
	is(module_replace(host, "replaced", path, -1), 0, "replaced by that");
	is(answer_of("replaced"), 1, "its new content answers");
	copy(plugin("hooked2.so"), path, true);
	is(module_replace(host, "replaced", path, -1), 0, "it is a copy, too");
	is(answer_of("replaced"), 2, "its new content answers");
	need(unload("replaced") == 0);
	is(mapped("replaced.so"), 0, "nothing is left");

	need(module_load(host, path, NULL, NULL) == 0);
	copy(plugin("hooked.so"), path, true);
	order[0] = '\0';
	is(module_replace(host, "replaced", path, -1), 1, "no copy, and its file is written over");
	says("written over in place");
	happens("init(replaced,1,1) ", "what it was is left alone");
	is(answer_of("replaced"), 1, "and the new content answers");

	held = module_find_get(host, "replaced");
	order[0] = '\0';
	is(module_replace(host, "replaced", plugin("hooked2.so"), MILLISECOND), 1,
	   "one that is held");
	says("the old one's code stays mapped");
	happens("init(replaced,1,1) ", "its exit waits for the holder");
	is(answer_of("replaced"), 2, "the new one is in service");
	is(call(held, "answer"), 1, "its holder goes on with the old one");
	ok(!module_try_get(held), "nobody else");
	module_put(held);
	is(module_host_reap(host), 1, "the last put lets it go");
	happens("exit(replaced,2,-1) ", "with its exit");

	is(module_replace(host, "nobody", path, 0), -ENOENT, "a name that is not there");
	is(module_replace(host, "replaced", "/nowhere", 0), -ENOENT, "a file that is not there");
	is(module_replace(host, "replaced", "/proc/self/maps", 0), -ENOEXEC, "not an object");
	is(module_replace(host, "replaced", plugin("unresolved.so"), 0), -ENOENT, "unresolved");
	init_result = -EIO;
	is(module_replace(host, "replaced", path, 0), -EIO, "an init that fails");
	init_result = 0;
	is(module_unload(host, "replaced", 0, 0) + load("hooked2.so", "replaced"), 0,
	   "after which the old one can be unloaded, and loaded again");
	need(module_notifier_register(host, veto, "veto", 0) == 0);
	is(module_replace(host, "replaced", path, 0), -EPERM, "a veto");
	need(module_notifier_unregister(host, veto, "veto") == 0);
	is(answer_of("replaced"), 2, "after all that the old one is in service, untouched");
	field_is("replaced", 2, "0", "nothing is left over");
	is(unload("replaced"), 0, "and can be unloaded");
	is(mapped("/hooked2.so"), 0, "without a trace");
	unlink(path);

	/* The soname of the old one: whom do later users depend on? */
	need(load("libprovider.so", NULL) == 0);
	held = module_find_get(host, "libprovider");
	is(module_replace(host, "libprovider", plugin("libprovider.so"), 0), 1,
	   "a provider that is held");
	is(load("user.so", NULL), -ENOENT, "a user would be bound to the old one, which is going");
	says("being unloaded");
	module_put(held);
	is(load("user.so", NULL), 0, "and to the new one when that is gone");
	field_is("libprovider", 3, "user,", "which it depends on");
	need(unload("user") == 0 && unload("libprovider") == 0);
	order[0] = '\0';
}

/* ---- threads -------------------------------------------------------------------------------- */

static pthread_key_t late_key;
static struct module *late_module;
static _Atomic int late_values;

/* Runs long after the thread's function has returned, for the plugin's code. */
static void late(void *value)
{
	if (mapped("/hooked.so"))
		atomic_fetch_add(&late_values, 1);
	if ((intptr_t)value > 1)
		pthread_setspecific(late_key, (void *)((intptr_t)value - 1));
}

static void *run_for_a_module(void *how)
{
	pthread_setspecific(late_key, (void *)3);
	if (how == (void *)1)
		pthread_exit(how);
	if (how == (void *)2)
		module_put_and_exit(late_module, how);
	if (how == (void *)3)
		for (;;)
			pause();
	return how;
}

/* The same from within the plugin's code. */
static void *(*through_the_plugin)(void *(*function)(void *), void *argument);

static void *run_in_the_plugin(void *how)
{
	return through_the_plugin(run_for_a_module, how);
}

static void *exit_with_a_reference(void *mod)
{
	pthread_setspecific(late_key, (void *)1);
	module_put_and_exit(mod, (void *)5);
}

static void threads(void)
{
	static const char *const how[] = { "returns", "calls pthread_exit",
					   "calls module_put_and_exit", "is cancelled" };
	struct module *mod;
	pthread_t thread;
	void *symbol, *result;

	need(pthread_key_create(&late_key, late) == 0);
	for (intptr_t i = 0; i < 4; i++) {
		need(module_load(host, plugin("hooked.so"), NULL, &mod) == 0 && module_try_get(mod));
		late_module = mod;
		symbol = module_symbol(mod, "call_back");
		memcpy(&through_the_plugin, &symbol, sizeof(symbol));
		atomic_store(&late_values, 0);
		is(module_thread_create(&thread, NULL, mod, run_in_the_plugin, (void *)i), 0,
		   "a thread that %s", how[i]);
		module_put(mod);
		if (i == 3)
			pthread_cancel(thread);
		is(module_unload(host, "hooked", 0, 10 * SECOND), 0, "which goes when it has ended");
		pthread_join(thread, &result);
		ok(result == (i == 3 ? PTHREAD_CANCELED : (void *)i), "with its result");
		is(atomic_load(&late_values), 3, "and not before its thread-specific values");
		is(module_thread_create(&thread, NULL, mod, run_in_the_plugin, NULL), -ENODEV,
		   "no thread of a module that is gone");
		module_handle_put(mod);
	}

	need(module_load(host, plugin("hooked.so"), NULL, &mod) == 0);
	late_module = mod;
	atomic_store(&late_values, 0);
	mod = module_find_get(host, "hooked");
	thread = start_thread(exit_with_a_reference, mod);
	is(module_unload(host, "hooked", 0, 10 * SECOND), 0,
	   "a reference passed to a thread, which puts and exits");
	pthread_join(thread, &result);
	ok(result == (void *)5, "with its result");
	is(atomic_load(&late_values), 1, "after its thread-specific value");
	module_handle_put(late_module);
	is(module_thread_create(NULL, NULL, mod, run_in_the_plugin, NULL), -EINVAL, "NULL: thread");
	is(module_thread_create(&thread, NULL, NULL, run_in_the_plugin, NULL), -EINVAL, "NULL: mod");
	pthread_key_delete(late_key);
	order[0] = '\0';
}

/* ---- symbols, NULL, hosts -------------------------------------------------------------------- */

static void *look_for_nothing(void *ends)
{
	while (!atomic_load((atomic_bool *)ends))
		need(!module_symbol_get(host, "no_such_symbol"));
	return NULL;
}

static void symbols(void)
{
	struct module *first, *second;
	long (*exported)(void);
	void *address;
	atomic_bool ends = false;
	pthread_t thread;
	int disturbed = 0;

	need(module_load(host, plugin("libprovider.so"), "first", &first) == 0);
	need(module_load(host, plugin("libprovider.so"), "second", &second) == 0);
	address = module_symbol_get(host, "provided");
	ok(address, "a symbol of whichever module has it");
	is(module_refcount(first), 1, "with a reference on the first of them");
	is(module_refcount(second), 0, "alone");
	memcpy(&exported, &address, sizeof(exported));
	is(exported(), 7, "it can be called");
	is(module_symbol_put(host, "provided"), 0, "and is given back");
	is(module_refcount(first), 0, "with the reference");
	is(module_symbol_put(host, "provided"), -EINVAL, "once");
	address = module_symbol_get(host, "provided");
	is(module_symbol_put_addr(host, address), 0, "or by its address");
	is(module_symbol_put_addr(host, address), -EINVAL, "once");
	need(module_symbol_get(host, "answer") && module_symbol_get(host, "provided"));
	is(module_symbol_put_addr(host, address), 0, "of two, the one of that address");
	is(module_symbol_put(host, "answer"), 0, "and the other by its name");
	is(module_refcount(first), 0, "and both are back");
	ok(!module_symbol_get(host, "getpid"), "not a symbol of a library below");
	ok(!module_symbol_get(host, NULL), "NULL");
	need(unload("first") == 0 && unload("second") == 0);
	module_handle_put(first);
	module_handle_put(second);

	thread = start_thread(look_for_nothing, &ends);
	for (int i = 0; i < 1000; i++) {
		need(module_load(host, plugin("plain.so"), "plain", NULL) == 0);
		while (module_unload(host, "plain", 0, 0) == -EWOULDBLOCK)
			disturbed++;
	}
	atomic_store(&ends, true);
	pthread_join(thread, NULL);
	is(disturbed, 0, "looking for symbols keeps no module that does not have them");
	order[0] = '\0';
}

static void nulls(void)
{
	ok(module_try_get(NULL), "C3 try_get of NULL is true");
	module_get(NULL);
	module_put(NULL);
	module_handle_put(NULL);
	ok(1, "get, put and handle_put ignore NULL");
	is(module_load(NULL, "x", NULL, NULL), -EINVAL, "NULL: host");
	says("host is NULL");
	is(module_load(host, NULL, NULL, NULL), -EINVAL, "NULL: path");
	is(module_load_flags(host, plugin("plain.so"), NULL, 16, NULL), -EINVAL, "unknown flags");
	is(module_unload(NULL, "x", 0, 0), -EINVAL, "NULL: host");
	is(module_unload(host, NULL, 0, 0), -EINVAL, "NULL: name");
	is(module_replace(host, "x", NULL, 0), -EINVAL, "NULL: path");
	ok(!module_find_get(host, NULL) && !module_find_get(NULL, "x"), "NULL is not found");
	is(module_refcount(NULL), -EINVAL, "NULL has no count");
	ok(strcmp(module_name(NULL), "") == 0, "nor a name");
	is(module_host_list(NULL, NULL, 0), -EINVAL, "NULL has no list");
	is(module_holders(NULL, NULL, 0), -EINVAL, "nor holders");
	is(module_host_reap(NULL), -EINVAL, "nothing to reap");
	is(module_host_free(NULL), -EINVAL, "nothing to free");
	is(module_notifier_register(host, NULL, NULL, 0), -EINVAL, "NULL: notifier");
	is(module_notifier_unregister(NULL, tell, NULL), -EINVAL, "NULL: host");
	is(module_replace(NULL, "x", "x", 0), -EINVAL, "NULL: host");
	is(module_replace(host, NULL, "x", 0), -EINVAL, "NULL: name");
	is(module_unload(host, "x", 4, 0), -EINVAL, "unknown flags");
	is(module_add_dependency(NULL, NULL), -EINVAL, "NULL: user");
	is(module_symbol_put(host, NULL), -EINVAL, "NULL: symbol");
	is(module_host_last_unloaded(NULL, NULL, 0), -EINVAL, "NULL has unloaded nothing");
	ok(!module_symbol(NULL, "answer") && !module_handle_get(NULL), "NULL has no symbol, no handle");
	ok(!module_host_tainted(NULL), "nor a taint");
	is(module_state(NULL), MODULE_STATE_LIVE, "and is live");
}

static void modes_and_hosts(void)
{
	struct module_host *other = module_host_new();
	struct module *a, *b;

	is(module_load_flags(host, plugin("plain.so"), "a", MODULE_LOAD_ATOMIC, &a), 0,
	   "a module that is counted in one word");
	is(module_load(other, plugin("plain.so"), "a", &b), 0, "the same name in another host");
	is(module_add_dependency(a, b), -EXDEV, "no dependency between hosts");
	ok(module_host_of(a) == host && module_host_of(b) == other, "each has its own");
	is(module_host_free(other), -EBUSY, "a host with modules is not freed");
	says("modules: 1");
	need(module_unload(other, "a", 0, 0) == 0);
	is(module_host_free(other), 0, "one without is");
	ok(!module_host_of(b), "its modules know that it is gone");
	ok(!module_try_get(b), "and give no reference");
	module_handle_put(b);
	need(unload("a") == 0);
	ok(module_handle_get(a) == a, "a second handle");
	module_handle_put(a);
	module_handle_put(a);
	ok(module_host_default() == module_host_default(), "the process has a host of its own");
	is(module_host_free(module_host_default()), -EBUSY, "which stays");
}

int main(void)
{
	host = module_host_new();
	need(host);
	a_load_and_an_unload();
	unload_conditions();
	a_drain();
	forced();
	notifiers();
	a_failed_load_that_leaks();
	coming();
	dependencies();
	listing();
	same_file_twice();
	resident();
	resident_in_its_place();
	renamed_while_opened();
	replace();
	threads();
	symbols();
	nulls();
	modes_and_hosts();
	is(module_host_reap(host), 0, "nothing is left behind");
	is(module_host_free(host), 0, "and the host is freed");
	return tap_done();
}
