/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * registration.c - whose area a thread counts by, from its first get to its end: the C library's, or where
 * that registers none this library's, or another one's.
 *
 *     registration [own]     own: where glibc does not register them
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>

#include "module_ref_inline.h"
#include "oracle.h"
#include "rseq.h"
#include "step.h"
#include "threads.h"
#ifdef __GLIBC__
#include "plugins/copy.h"
#endif

enum { PATIENCE = 1000, CROWD = 30000, FIRSTS = STEPS_BY_SIGNAL ? 100 : 10 };

static struct module_ref ref;
static bool own = true;
struct module_ref taken_by_constructor = MODULE_REF_INIT;

/* Whether gets and puts of this thread stay out of the word. Now and then one does not, which was interrupted. */
static bool counts_per_cpu(void)
{
	uint64_t before = ref.word;
	bool out = false;

	for (int n = 0; n < PATIENCE && !out; n++) {
		need(n % 2 ? module_ref_try_get(&ref) : module_ref_try_get_inline(&ref));
		out = ref.word == before;
		module_ref_put(&ref);
		/* What got in is a get's that was interrupted, or a put's. */
		before = ref.word;
	}
	return out;
}

static void *answers(void *arg)
{
	*(bool *)arg = counts_per_cpu();
	return NULL;
}

static bool thread_does(void *(*body)(void *))
{
	bool answer = false;

	pthread_join(start_thread(body, &answer), NULL);
	return answer;
}

/* ---- other owners ----------------------------------------------------------------------- */

struct area {
	_Alignas(32) uint32_t words[8];
};

enum { UNREGISTER = 1 };

static bool registers(struct area *area, int flags)
{
	return syscall(SYS_rseq, area, sizeof(*area), flags, RSEQ_SIGNATURE) == 0;
}

/* As a library does that registers an area of its own, before this thread counts. */
static void *is_anothers(void *arg)
{
	static _Thread_local struct area area;
	bool *right = arg;

	/* The C library's is in the way; this library's is not there yet. */
	need(own || rseq_unregister(&ref));
	need(registers(&area, 0));
	*right = !counts_per_cpu() && area.words[1] < CPU_SETSIZE;
	*right = *right && registers(&area, UNREGISTER) && !counts_per_cpu();
	return NULL;
}

/* ---- interrupted ------------------------------------------------------------------------- */

static _Atomic long handled, steps;
static _Atomic int counting; /* 1 while it begins to */

static void on_signal(int number)
{
	if (module_ref_try_get_inline(&ref))
		module_ref_put(&ref);
	atomic_fetch_add(number == SIGTRAP ? &steps : &handled, 1);
}

static void *first_of_all(void *arg)
{
	bool got;

	atomic_store(&counting, 1);
	STEPPED(got = module_ref_try_get(&ref));
	need(got);
	module_ref_put(&ref);
	atomic_store(&counting, 2);
	return answers(arg);
}

/* Threads that begin to count while signals make them count, at every instruction if that can be had. */
static void interrupted(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	int right = 0;

	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGTRAP, &action, NULL);
	for (int n = 0; n < FIRSTS; n++) {
		bool answer = false;
		pthread_t thread;

		atomic_store(&counting, 0);
		thread = start_thread(first_of_all, &answer);
		while (atomic_load(&counting) == 0)
			;
		for (int signal = 0; signal < FIRSTS * 10 && atomic_load(&counting) == 1; signal++)
			pthread_kill(thread, SIGUSR1);
		pthread_join(thread, NULL);
		right += answer;
	}
	is(right, FIRSTS, "threads count per CPU after signals at their beginning");
	ok((STEPS_BY_SIGNAL ? steps : handled) >= FIRSTS, "%ld of them, and %ld after instructions",
	   atomic_load(&handled), atomic_load(&steps));
	is(module_ref_count(&ref), 0, "and it adds up");
}

/* ---- the ends of threads --------------------------------------------------------------------- */

static pthread_key_t key;
static _Atomic long ended, began;

static void at_end(void *value)
{
	need(module_ref_try_get(&ref));
	module_ref_put(&ref);
	/* One more round, which comes after other destructors. */
	if (value == &began)
		pthread_setspecific(key, &ended);
	else
		atomic_fetch_add(&ended, 1);
}

static void *short_life(void *arg)
{
	if (module_ref_try_get_inline(&ref))
		module_ref_put_inline(&ref);
	pthread_setspecific(key, &began);
	return NULL;
}

/* They unmap themselves; what the kernel knows of their memory must not outlive it. */
static void crowd(void)
{
	pthread_attr_t attributes;
	pthread_t thread;

	need(pthread_key_create(&key, at_end) == 0);
	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attributes, 1 << 17);
	for (long n = 0; n < CROWD; n++) {
		while (pthread_create(&thread, &attributes, short_life, NULL) != 0)
			sched_yield();
		while (n - atomic_load(&ended) > 100)
			sched_yield();
	}
	while (atomic_load(&ended) < CROWD)
		sched_yield();
	is(module_ref_count(&ref), 0, "%d detached threads have counted, in destructors, too", CROWD);
}

/* ---- fork ------------------------------------------------------------------------------------- */

static bool child_counts(void)
{
	pid_t child = fork();
	int status = -1;

	if (child == 0)
		_exit(counts_per_cpu() && thread_does(answers) ? 0 : 1);
	waitpid(child, &status, 0);
	return status == 0;
}

/* ---- a copy that goes -------------------------------------------------------------------------- */

#ifdef __GLIBC__ /* musl unmaps no plugin */

static const struct copy *copy;

static void *load(void)
{
	void *plugin = dlopen(PLUGIN, RTLD_NOW);

	need(plugin && (copy = dlsym(plugin, "the_copy")));
	/* Its constructor has taken one. */
	copy->put(&taken_by_constructor);
	return plugin;
}

static bool unload(void *plugin)
{
	return dlclose(plugin) == 0 && !dlopen(PLUGIN, RTLD_NOW | RTLD_NOLOAD);
}

/* By nothing but the copy. If glibc has registered nothing, nothing is registered when that is gone. */
static void *alone(void *arg)
{
	static _Thread_local struct area area;
	void *plugin = load();
	bool *right = arg;

	for (int n = 0; n < 100; n++) {
		need(copy->try_get(&ref));
		copy->put(&ref);
	}
	*right = unload(plugin) && (!own || (registers(&area, 0) && registers(&area, UNREGISTER)));
	return NULL;
}

static void *by_copy(void *arg)
{
	bool *right = arg, out = false;

	for (int n = 0; n < PATIENCE && !(out && *right); n++) {
		uint64_t before = ref.word;

		need(copy->try_get(&ref));
		out = ref.word == before;
		copy->put(&ref);
		answers(arg);
	}
	*right = *right && out;
	return NULL;
}

/* Threads that a plugin's copy of the library has met first, and lets go of. */
static void unloaded(void)
{
	struct module_ref made;
	int right = 0, wrong = 0;

	ok(thread_does(alone), "a plugin's copy registers nothing that it would leave");
	for (int n = 0; n < 20; n++) {
		void *plugin = load();

		need(copy->init_percpu(&made) == 0);
		right += module_ref_mode(&made) == MODULE_REF_PERCPU && thread_does(by_copy);
		copy->destroy(&made);
		wrong += !unload(plugin);
		right += thread_does(answers) && counts_per_cpu();
	}
	is(right, 40, "with a plugin's copy, and without it");
	is(wrong, 0, "which goes");
}

#endif

int main(int argc, char **argv)
{
#ifdef __GLIBC__
	/* And with room for a plugin's variables beside the threads' own. */
	const char *without = "glibc.pthread.rseq=0:glibc.rtld.optional_static_tls=16384";

	own = argc > 1 && strcmp(argv[1], "own") == 0;
	if (own && (!getenv("GLIBC_TUNABLES") || strcmp(getenv("GLIBC_TUNABLES"), without) != 0)) {
		setenv("GLIBC_TUNABLES", without, 1);
		execv("/proc/self/exe", argv);
	}
#endif
	if (why_not_per_cpu()) {
		ok(1, "registration # SKIP %s", why_not_per_cpu());
		return tap_done();
	}
	need(module_ref_init_percpu(&ref) == 0);
	is(module_ref_mode(&ref), MODULE_REF_PERCPU, "the mode");
	ok(counts_per_cpu(), "the main thread counts per CPU");
	ok(thread_does(answers), "and so does another");
	ok(thread_does(is_anothers), "one whose area is another library's counts in the word, and keeps it");
	ok(child_counts(), "a child goes on, and its threads");
	interrupted();
	crowd();
#ifdef __GLIBC__
	unloaded();
#endif
	is(module_ref_try_release(&ref), 0, "released");
	return tap_done();
}
