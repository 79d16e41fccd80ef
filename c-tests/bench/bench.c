/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * bench.c - what a get and a put cost, against the patch's counter and others, in one
 * process and in turns; what an unload costs; what a counter takes in memory.
 *
 *     bench [pairs|unload|memory]
 *
 * Every figure is a median over rounds in which all candidates take turns, with the
 * quartiles beside it; what counts are the ratios.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef HAVE_URCU
#define _LGPL_SOURCE /* liburcu's word for: inline what is small */
#include <urcu/urcu-memb.h>
#endif

#include "../peers/patch.h"
#include "module_ref_inline.h"

enum { ROUNDS = 25, PAIRS_PER_ROUND = 2000000, MOST_THREADS = 2 };

static struct module_ref shared = MODULE_REF_INIT;
static struct {
	_Alignas(64) struct module_ref ref;
} percpu;
static struct {
	_Alignas(64) struct patch_ref ref;
} patch = { { 1 } };
static struct {
	_Alignas(64) pthread_rwlock_t lock;
} rwlock = { PTHREAD_RWLOCK_INITIALIZER };

static double now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* ---- get and put ------------------------------------------------------------------ */

#define PAIRS(name, get, put)                                                              \
	static void name(long n)                                                           \
	{                                                                                  \
		while (n-- > 0) {                                                          \
			get;                                                               \
			__asm__ volatile("" ::: "memory");                                 \
			put;                                                               \
		}                                                                          \
	}

PAIRS(patch_inlined, if (!patch_try_get_inline(&patch.ref)) abort(), patch_put_inline(&patch.ref))
PAIRS(patch_called, if (!patch_try_get(&patch.ref)) abort(), patch_put(&patch.ref))
PAIRS(shared_called, if (!module_ref_try_get(&shared)) abort(), module_ref_put(&shared))
PAIRS(percpu_inlined, if (!module_ref_try_get_inline(&percpu.ref)) abort(),
      module_ref_put_inline(&percpu.ref))
PAIRS(percpu_called, if (!module_ref_try_get(&percpu.ref)) abort(), module_ref_put(&percpu.ref))
PAIRS(pthread_rwlock, pthread_rwlock_rdlock(&rwlock.lock), pthread_rwlock_unlock(&rwlock.lock))
/* What the arithmetic alone costs: two plain adds to a thread's own memory. */
static _Thread_local volatile long own;
PAIRS(plain_adds, own = own + 1, own = own - 1)
#ifdef HAVE_URCU
PAIRS(urcu_memb, urcu_memb_read_lock(), urcu_memb_read_unlock())
#endif

enum {
	PATCH_INLINED,
	PATCH_CALLED,
	SHARED_CALLED,
	PERCPU_INLINED,
	PERCPU_CALLED,
	PTHREAD_RWLOCK,
	PLAIN_ADDS,
#ifdef HAVE_URCU
	URCU_MEMB,
#endif
	CANDIDATES
};

static const struct {
	const char *name;
	void (*pairs)(long n);
} candidates[CANDIDATES] = {
	[PATCH_INLINED] = { "the patch's counter, inlined", patch_inlined },
	[PATCH_CALLED] = { "the patch's counter, by calls", patch_called },
	[SHARED_CALLED] = { "module_ref, shared word, by calls", shared_called },
	[PERCPU_INLINED] = { "module_ref, per-CPU, inlined", percpu_inlined },
	[PERCPU_CALLED] = { "module_ref, per-CPU, by calls", percpu_called },
	[PTHREAD_RWLOCK] = { "pthread_rwlock, read side", pthread_rwlock },
	[PLAIN_ADDS] = { "floor: two adds to thread-local memory", plain_adds },
#ifdef HAVE_URCU
	[URCU_MEMB] = { "liburcu (memb), read side, counts nothing", urcu_memb },
#endif
};

struct job {
	pthread_barrier_t *start;
	void (*pairs)(long n);
	long n;
	int cpu;
	double ns;
};

static void *run_job(void *arg)
{
	struct job *job = arg;
	cpu_set_t set;
	double began;

	CPU_ZERO(&set);
	CPU_SET((size_t)job->cpu, &set);
	pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
#ifdef HAVE_URCU
	urcu_memb_register_thread();
#endif
	job->pairs(job->n / 20);
	pthread_barrier_wait(job->start);
	began = now_ns();
	job->pairs(job->n);
	job->ns = (now_ns() - began) / (double)job->n;
#ifdef HAVE_URCU
	urcu_memb_unregister_thread();
#endif
	return NULL;
}

/* One round of one candidate: nanoseconds per pair, the mean of its threads. */
static double measure(int candidate, int nthreads)
{
	pthread_barrier_t start;
	struct job jobs[MOST_THREADS];
	pthread_t threads[MOST_THREADS];
	double sum = 0;

	pthread_barrier_init(&start, NULL, (unsigned)nthreads);
	for (int i = 0; i < nthreads; i++) {
		jobs[i] = (struct job){ &start, candidates[candidate].pairs, PAIRS_PER_ROUND, i, 0 };
		if (pthread_create(&threads[i], NULL, run_job, &jobs[i]) != 0)
			exit(2);
	}
	for (int i = 0; i < nthreads; i++) {
		pthread_join(threads[i], NULL);
		sum += jobs[i].ns;
	}
	pthread_barrier_destroy(&start);
	return sum / nthreads;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Sorts, and returns the median. */
static double median(double *values, int n)
{
	qsort(values, (size_t)n, sizeof(*values), by_value);
	return values[n / 2];
}

/* As measured: a ratio compares what ran one after the other. */
static double measured[MOST_THREADS][CANDIDATES][ROUNDS];

static void ratio(const char *what, int ours, int theirs, int nthreads, double goal)
{
	double ratios[ROUNDS], r;

	for (int round = 0; round < ROUNDS; round++)
		ratios[round] = measured[nthreads - 1][ours][round] /
				measured[nthreads - 1][theirs][round];
	r = median(ratios, ROUNDS);
	printf("  %5.2f  goal %.2f  %s  %-9s  %s\n", r, goal, r <= goal ? "met   " : "MISSED",
	       nthreads == 1 ? "1 thread" : "2 threads", what);
}

static void pairs(void)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	int most = cpus < MOST_THREADS ? 1 : MOST_THREADS;

	for (int nthreads = 1; nthreads <= most; nthreads++) {
		for (int round = 0; round < ROUNDS; round++)
			for (int c = 0; c < CANDIDATES; c++)
				measured[nthreads - 1][c][round] = measure(c, nthreads);
		printf("get and put, %d thread%s on one counter, ns per pair: median [quartiles]\n",
		       nthreads, nthreads == 1 ? "" : "s");
		for (int c = 0; c < CANDIDATES; c++) {
			double sorted[ROUNDS], middle;

			memcpy(sorted, measured[nthreads - 1][c], sizeof(sorted));
			middle = median(sorted, ROUNDS);
			printf("  %7.2f  [%6.2f %6.2f]  %s\n", middle, sorted[ROUNDS / 4],
			       sorted[ROUNDS - 1 - ROUNDS / 4], candidates[c].name);
		}
		putchar('\n');
	}

	printf("ratios of one round, like for like: median\n");
	if (module_ref_mode(&percpu.ref) != MODULE_REF_PERCPU)
		puts("  (no per-CPU counting here: those figures are of the shared word)");
	for (int nthreads = 1; nthreads <= most; nthreads++) {
		ratio("per-CPU to the patch, inlined", PERCPU_INLINED, PATCH_INLINED, nthreads,
		      nthreads == 1 ? 0.35 : 0.10);
		ratio("per-CPU to the patch, by calls", PERCPU_CALLED, PATCH_CALLED, nthreads,
		      nthreads == 1 ? 1.05 : 0.28);
		if (nthreads == 2)
			ratio("shared word to the patch, by calls", SHARED_CALLED, PATCH_CALLED,
			      nthreads, 1.0);
#ifdef HAVE_URCU
		ratio("per-CPU to liburcu, inlined", PERCPU_INLINED, URCU_MEMB, nthreads, 1.6);
#endif
	}
#ifndef HAVE_URCU
	puts("  (liburcu is not here: apt-get install liburcu-dev)");
#endif
}

/* ---- unload ------------------------------------------------------------------------- */

static _Atomic int stop;

static void *spin(void *arg)
{
	(void)arg;
	while (!atomic_load_explicit(&stop, memory_order_relaxed))
		if (module_ref_try_get_inline(&shared))
			module_ref_put_inline(&shared);
	return NULL;
}

/* An idle counter is released and made live again, while other threads are busy. */
static double unload_once(struct module_ref *ref)
{
	double began = now_ns(), took;

	if (module_ref_try_release(ref) != 0)
		exit(2);
	took = now_ns() - began;
	if (module_ref_reinit(ref) != 0)
		exit(2);
	return took;
}

static void unload(void)
{
	enum { UNLOADS = 2001 };
	static double took[2][UNLOADS], refused[UNLOADS];
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct module_ref atomic_ref;
	pthread_t busy;

	if (module_ref_init(&atomic_ref) != 0 || pthread_create(&busy, NULL, spin, NULL) != 0)
		exit(2);
	for (int i = 0; i < UNLOADS; i++) {
		double began;

		took[0][i] = unload_once(&atomic_ref);
		took[1][i] = unload_once(&percpu.ref);
		module_ref_try_get(&percpu.ref);
		began = now_ns();
		module_ref_try_release(&percpu.ref);
		refused[i] = now_ns() - began;
		module_ref_put(&percpu.ref);
	}
	atomic_store(&stop, 1);
	pthread_join(busy, NULL);
	printf("try_release while one other thread is busy, %ld CPUs online, ns: median\n", cpus);
	printf("  %9.0f  an idle shared-word counter\n", median(took[0], UNLOADS));
	printf("  %9.0f  an idle per-CPU counter: peek, one membarrier, fold\n",
	       median(took[1], UNLOADS));
	printf("  %9.0f  a held per-CPU counter, refused: the peek alone, one fold's reading\n",
	       median(refused, UNLOADS));
}

/* ---- memory ---------------------------------------------------------------------------- */

static double resident_bytes(void)
{
	long size, resident = 0;
	FILE *statm = fopen("/proc/self/statm", "r");

	if (!statm || fscanf(statm, "%ld %ld", &size, &resident) != 2)
		exit(2);
	fclose(statm);
	return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

static void memory(void)
{
	enum { COUNTERS = 100000 };
	struct module_ref *refs = aligned_alloc(64, COUNTERS * sizeof(*refs));
	cpu_set_t all, one;
	double before;
	int cpus;

	if (!refs)
		exit(2);
	memset(refs, 0, COUNTERS * sizeof(*refs));
	sched_getaffinity(0, sizeof(all), &all);
	cpus = CPU_COUNT(&all);
	before = resident_bytes();
	for (int i = 0; i < COUNTERS; i++)
		if (module_ref_init_percpu(&refs[i]) != 0)
			exit(2);
	/* Used on every CPU, so that every page there may be is there. */
	for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET(cpu, &all))
			continue;
		CPU_ZERO(&one);
		CPU_SET(cpu, &one);
		sched_setaffinity(0, sizeof(one), &one);
		for (int i = 0; i < COUNTERS; i++)
			if (module_ref_try_get(&refs[i]))
				module_ref_put(&refs[i]);
	}
	sched_setaffinity(0, sizeof(all), &all);
	printf("memory of %d per-CPU counters, used on %d CPUs\n", COUNTERS, cpus);
	printf("  %9.2f  bytes each beside the %zu of struct module_ref; 8 per CPU are %d\n",
	       (resident_bytes() - before) / COUNTERS, sizeof(struct module_ref), 8 * cpus);
	for (int i = 0; i < COUNTERS; i++)
		module_ref_destroy(&refs[i]);
	free(refs);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "pairs";

	if (module_ref_init_percpu(&percpu.ref) != 0)
		return 2;
	if (strcmp(what, "pairs") == 0)
		pairs();
	else if (strcmp(what, "unload") == 0)
		unload();
	else if (strcmp(what, "memory") == 0)
		memory();
	else
		return fputs("usage: bench [pairs|unload|memory]\n", stderr), 2;
	return 0;
}
