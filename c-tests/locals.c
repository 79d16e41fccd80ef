/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * locals.c - thread-local objects of modules: their destructors run once, each on its own thread, and
 * before the code goes.
 *
 *     locals [ROUNDS]      how many times a module is replaced under threads that use it (100)
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "host.h"
#include "threads.h"

enum { THREADS = 4 };

void local_made(long number);
void local_ended(long number, int thread);

static struct module_host *host;
static atomic_int made, ended, elsewhere;
static long order[8];
static int orders;

/* What the plugin calls. */
void local_made(long number)
{
	made++;
}

void local_ended(long number, int thread)
{
	ended++;
	elsewhere += thread != gettid();
	if (number && orders < 8)
		order[orders++] = number;
}

static void load(const char *file, const char *name)
{
	need(module_load(host, plugin(file), name, NULL) == 0);
}

static struct module *get(const char *name)
{
	struct module *mod = module_find_get(host, name);

	need(mod);
	return mod;
}

static void touch(const char *name)
{
	struct module *mod = get(name);

	need(call(mod, "touch") == gettid());
	module_put(mod);
}

static void make(long number)
{
	struct module *mod = get("local");
	void *address = module_symbol(mod, "local");
	void (*local)(long);

	need(address);
	memcpy(&local, &address, sizeof(local));
	local(number);
	module_put(mod);
}

static int count_object(struct dl_phdr_info *object, size_t size, void *count)
{
	++*(int *)count;
	return 0;
}

static int objects(void)
{
	int count = 0;

	dl_iterate_phdr(count_object, &count);
	return count;
}

/* ---- threads that come by --------------------------------------------------------------- */

static atomic_int round_now, touched, over;

static void *comes_by(void *unused)
{
	for (int seen = 0; !over;) {
		if (round_now == seen) {
			sched_yield();
			continue;
		}
		seen = round_now;
		touch("local");
		touched++;
	}
	return unused;
}

static void replaced(int rounds)
{
	pthread_t threads[THREADS];
	int before, most = 0;

	load("local.so", "local");
	before = objects() - 1; /* with what the first load has brought along, such as libstdc++ */
	for (int i = 0; i < THREADS; i++)
		threads[i] = start_thread(comes_by, NULL);
	for (int round = 1; round <= rounds; round++) {
		round_now = round;
		while (touched < round * THREADS)
			sched_yield();
		need(module_replace(host, "local", plugin("local.so"), 10 * SECOND) >= 0);
		most = objects() - before > most ? objects() - before : most;
	}
	ok(most <= 2, "%d generations are mapped at most, of %d", most, rounds + 1);
	over = 1;
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	is(made, rounds * THREADS, "each thread has one of each generation");
	is(ended, made, "each of these was destroyed once");
	need(module_unload(host, "local", 0, SECOND) == 0);
	is(objects(), before, "no generation stays");
}

/* ---- threads that do not ------------------------------------------------------------------ */

static atomic_int step;

static void reaches(int which)
{
	while (step < which)
		sched_yield();
}

static void *waits(void *unused)
{
	prctl(PR_SET_NAME, "waiter");
	touch("local");
	step = 1;
	reaches(2);
	return unused;
}

/* The same, and then it looks something up in another module. */
static void *looks_up(void *unused)
{
	struct module *plain = get("plain");

	waits(unused);
	module_symbol(plain, "answer");
	module_put(plain);
	step = 3;
	reaches(4);
	return unused;
}

static int one_residency(const struct module_info *info, void *found)
{
	if (strcmp(info->name, "local") == 0)
		*(int *)found = info->residency;
	return 0;
}

static void stays_for(void *(*body)(void *), int last_step)
{
	int before, residency = 0;
	pthread_t thread;

	step = 0;
	load("local.so", "serves");
	touch("serves");
	before = ended;
	load("local.so", "local");
	thread = start_thread(body, NULL);
	reaches(1);
	is(module_unload(host, "local", 0, SECOND), 1, "a thread that does not come by keeps it");
	says(" 'waiter' has thread-locals of it");
	is(module_host_reap(host), 0, "and so it does at the next call");
	is(ended, before, "it has them still, and so has who uses a module in service");
	module_host_each(host, one_residency, &residency);
	is(residency, MODULE_RESIDENT_THREAD_LOCAL, "the list says why");
	step = 2;
	if (last_step > 2)
		reaches(3);
	else
		pthread_join(thread, NULL);
	is(ended, before + 1, last_step > 2 ? "a look-up destroys it" : "its end destroys it");
	is(module_host_reap(host), 1, "then the module goes");
	step = 4;
	if (last_step > 2)
		pthread_join(thread, NULL);
	need(module_unload(host, "serves", 0, SECOND) == 0);
	is(ended, before + 2, "once");
}

/* ---- this thread ------------------------------------------------------------------------- */

static void *in_order(void *unused)
{
	make(1);
	make(200);
	make(3);
	return unused;
}

static void is_in_order(const char *when)
{
	static const long expected[] = { 3, 200, 2, 1 };

	is(orders, 4, "%s: each is destroyed, and what that has made", when);
	ok(memcmp(order, expected, sizeof(expected)) == 0, "the last one first");
	orders = 0;
}

static void own(void)
{
	int before = ended;

	load("local.so", "local");
	touch("local");
	is(module_unload(host, "local", 0, 0), 0, "who unloads destroys its own");
	is(ended, before + 1, "once");

	load("local.so", "local");
	pthread_join(start_thread(in_order, NULL), NULL);
	is_in_order("at a thread's end");
	in_order(NULL);
	need(module_unload(host, "local", 0, 0) == 0);
	is_in_order("at the unload");
}

static void too_late(void *unused)
{
	make(5);
}

static void *registers_too_late(void *key)
{
	need(pthread_setspecific(*(pthread_key_t *)key, key) == 0);
	return NULL;
}

/* In the destructor of a key: the C library has run those of thread-locals by then. */
static void late(void)
{
	int before = ended;
	pthread_key_t key;

	load("local.so", "local");
	need(pthread_key_create(&key, too_late) == 0);
	pthread_join(start_thread(registers_too_late, &key), NULL);
	pthread_key_delete(key);
	/* A thread that was joined has its number for a moment more. */
	if (module_unload(host, "local", 0, 0) != 0)
		while (module_host_reap(host) == 0)
			sched_yield();
	is(ended, before, "what is registered too late is never run, and keeps nothing");
	made--;
}

static void held(void)
{
	int before = ended;
	struct module *mod;

	load("local.so", "local");
	mod = get("local");
	touch("local");
	is(module_unload(host, "local", MODULE_UNLOAD_FORCE, 0), 1, "it is unloaded by force");
	is(module_host_reap(host), 0, "and is held");
	is(ended, before, "its holder still has what it had");
	is(call(mod, "touch"), gettid(), "and uses it");
	module_put(mod);
	is(module_host_reap(host), 1, "until it is given back");
	is(ended, before + 1, "then that is destroyed");
}

static void kept(void)
{
	int before = ended;

	load("local.so", "local");
	touch("local");
	module_host_after_unload(host, MODULE_AFTER_KEEP);
	is(module_unload(host, "local", 0, 0), 0, "what is to be kept");
	is(ended, before, "keeps what its threads have");
	module_host_after_unload(host, MODULE_AFTER_TRAP);
}

/* What the C library was told before the host knew the object. */
static void *constructs(void *place)
{
	char text[256];
	struct module *mod;

	load("early.so", "early");
	mod = get("early");
	*(void **)place = module_symbol(mod, "touch");
	module_put(mod);
	is(module_unload(host, "early", 0, 0), 1, "a constructor's stays until the thread ends");
	says("thread-local destructors");
	need(module_describe_address(*(void **)place, text, sizeof(text)) > 0);
	ok(strstr(text, "still mapped"), "its place is known");
	return NULL;
}

static void constructor(void)
{
	int before = ended;
	char text[256];
	void *place;

	pthread_join(start_thread(constructs, &place), NULL);
	is(ended, before + 1, "then it is destroyed");
	is(module_host_reap(host), 1, "and the module goes");
	is(module_describe_address(place, text, sizeof(text)), 0, "and its place is nobody's");
	orders = 0;
}

static void *uses(void *handle)
{
	void *address = dlsym(handle, "touch");
	long (*function)(void);

	need(address);
	memcpy(&function, &address, sizeof(function));
	function();
	step = 1;
	reaches(2);
	return NULL;
}

/* Another user of the object goes on with it, and closes it. */
static void shared(void)
{
	int before = ended;
	pthread_t thread;
	void *handle;

	step = 0;
	load("local.so", "local");
	need((handle = dlopen(plugin("local.so"), RTLD_NOW)));
	is(module_unload(host, "local", 0, 0), 1, "another user keeps it");
	thread = start_thread(uses, handle);
	reaches(1);
	dlclose(handle);
	is(ended, before, "what the host has closed is the C library's again");
	step = 2;
	pthread_join(thread, NULL);
	is(ended, before + 1, "which destroys it, and has kept the code for that");
	is(module_host_reap(host), 1, "then it goes");
}

static void *unloads(void *rc)
{
	*(int *)rc = module_unload(host, "local", 0, 0);
	return NULL;
}

static void forked(void)
{
	int status = 0;
	pid_t child;
	pthread_t thread;

	step = 0;
	load("local.so", "local");
	thread = start_thread(waits, NULL);
	reaches(1);
	touch("local");
	child = fork();
	if (child == 0) {
		int before = ended, rc = -1;

		pthread_join(start_thread(unloads, &rc), NULL);
		_exit(rc != 1 || module_host_reap(host) != 1 || ended != before + 1);
	}
	need(child > 0 && waitpid(child, &status, 0) == child);
	is(status, 0, "a child has this thread's alone");
	step = 2;
	pthread_join(thread, NULL);
	is(module_unload(host, "local", 0, 0), 0, "which are the parent's, too");
}

int main(int argc, char **argv)
{
	host = module_host_new();
	load("plain.so", "plain");
	replaced(argc > 1 ? atoi(argv[1]) : 100);
	stays_for(waits, 2);
	stays_for(looks_up, 4);
	own();
	late();
	held();
	constructor();
	forked();
	shared();
	is(elsewhere, 0, "all on their own threads");
	is(ended, made, "and each once");
	kept();
	need(module_unload(host, "plain", MODULE_UNLOAD_FORCE, 0) >= 0);
	is(module_host_free(host), 0, "nothing is left");
	return tap_done();
}
