/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * unload.c - what an unload costs, and what the workers feel of it.
 *
 *     unload [--quick] [--rounds N]
 *
 * Workers use a module all the time: a get, about a microsecond of arithmetic, a put, a
 * look at the clock. The unloader unloads a module again and again, either the one that
 * they use ("busy": it has to wait until they are outside) or another one of the same
 * scheme that nobody uses ("idle"), lets users in again at once, and rests for about two
 * milliseconds. Nothing is mapped or unmapped: what is measured is the part that differs
 * from scheme to scheme.
 *
 * The latency is the time from the start of the unload until nobody is inside and nobody
 * gets in, which is where dlclose() would come: where workers have paused by themselves,
 * while they stand; where a signal has stopped them, once they run again, because one of
 * them may have the linker's lock. A stall is the time from one iteration of a worker to
 * its next, so it shows whatever keeps a worker: a signal, a pause, a membarrier, the
 * unloader running in its place, the system's other business.
 *
 * What is fair:
 *
 * - All schemes take turns in short slots in one process, each round begins with another
 *   one, and a ratio compares two slots of the same round.
 * - A worker whose get is refused does its microsecond of other work and comes again. A
 *   scheme is not made to look better by workers that sleep while their module is away.
 * - The workers are bound to the CPUs in turn. Otherwise where the scheduler happens to put
 *   them is most of what differs from slot to slot. The unloader is bound to none, as any
 *   thread that wakes up now and then; while it runs, whoever is bound to its CPU does
 *   not, which is a stall in every scheme and belongs to it. "No unload at all" has no such
 *   thread: its stalls are the machine's own.
 * - With one worker less than CPUs, a CPU is free for the unloader; with as many, an unload
 *   takes a worker's place; with four times as many, those who are to be waited for
 *   are often not running.
 * - The rest is of random length, or the unloads would walk in step with the scheduler's
 *   ticks. It begins when the unload has ended, so a slow scheme unloads less often: compare
 *   stalls per second with the number of unloads beside them.
 *
 * What is wrong would be seen: the unloader changes the module's generation as soon as it
 * believes that nobody is inside, and the workers end the program if that has changed
 * between their get and their put. That finds an unload that does not wait for somebody; to
 * hit a window of a few instructions is the stress program's business.
 */
#define _GNU_SOURCE
#include "unload.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { IDLE, BUSY, LOADS };
enum { CREWS = 3, QUANTILES = 101, QUICK_ROUNDS = 2 };
/* Stalls from here on are counted in the table: 100 us. */
enum { LONG_STALL_BIN = (5 - FIRST_BIN) * BINS_PER_DECADE };

static const char *const load_name[LOADS] = { "idle", "busy" };
static const double rest_ns = 2e6;

struct worker *workers;
int nworkers;

/* One scheme under one load by one number of workers, over all rounds. */
struct result {
	double *latencies;
	int unloads, refused;
	double *during; /* the longest stall of a worker in which each unload fell */
	int attempts;
	double bins[BINS], longest_ns, seconds, iterations;
	int rounds;
	double median_ns[MOST_ROUNDS], during_median_ns[MOST_ROUNDS];
};

static struct result results[CREWS][LOADS][SCHEMES];
static int crews[CREWS], ncrews;
static bool available[SCHEMES];
static double slot_ns = 250e6, give_up_ns = 100e6;

/* ---- workers ------------------------------------------------------------------------ */

static const struct scheme *scheme; /* whose turn it is */
static pthread_barrier_t start;
static _Atomic bool stop;
static _Atomic unsigned generation[MODULES]; /* odd while it is unloaded */
static _Atomic int begun, ended; /* unloads of this slot */

static double bin_end[BINS];
static long turns_of_work;

static void turns(long n)
{
	unsigned long x = 1;

	while (n-- > 0) {
		x = x * 3 + 1;
		__asm__ volatile("" : "+r"(x));
	}
}

static void set_up_work(void)
{
	enum { TURNS = 100000 };
	double least = 1e9, edge = 1e3;

	for (int i = 0; i < 50; i++) {
		double began = now_ns(), took;

		turns(TURNS);
		took = now_ns() - began;
		least = took < least ? took : least;
	}
	turns_of_work = (long)(TURNS * 1e3 / least);
	/* The tenth root of ten, without the mathematics library. */
	for (int i = 0; i < BINS; i++)
		bin_end[i] = edge *= 1.2589254117941673;
}

/* Relaxed: whoever gets in has acquired what the unloader wrote before it reinited, and
 * what it writes after an unload comes after every put. */
static void use(struct worker *me)
{
	unsigned before = atomic_load_explicit(&generation[USED], memory_order_relaxed);

	turns(turns_of_work);
	if (before % 2 == 0 &&
	    atomic_load_explicit(&generation[USED], memory_order_relaxed) == before)
		return;
	fprintf(stderr, "unload: %s: worker %d was inside what was unloaded\n",
		scheme->candidate.name, me->number);
	abort();
}

/* Those unloads fell into it that had begun at its end and not ended at its start. */
static void account(struct worker *me, double gap, int ended_before)
{
	int begun_now = atomic_load_explicit(&begun, memory_order_acquire), bin = 0;

	for (int i = ended_before; i < begun_now; i++)
		if (gap > me->during_ns[i])
			me->during_ns[i] = gap;

	while (bin < BINS - 1 && gap >= bin_end[bin])
		bin++;
	me->bins[bin]++;
	if (gap > me->longest_ns)
		me->longest_ns = gap;
}

static void iterate(struct worker *me)
{
	int ended_before = 0;
	double last = now_ns(), now;

	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		if (scheme->pass)
			scheme->pass();
		if (scheme->get(me, USED)) {
			use(me);
			scheme->put(me, USED);
		} else {
			turns(turns_of_work);
		}
		now = now_ns();
		account(me, now - last, ended_before);
		ended_before = atomic_load_explicit(&ended, memory_order_acquire);
		last = now;
	}
}

static void *work(void *arg)
{
	struct worker *me = arg;

	run_on(me->number);
	if (scheme->enter)
		scheme->enter();
	pthread_barrier_wait(&start);
	iterate(me);
	if (scheme->leave)
		scheme->leave();
	return NULL;
}

/* ---- the unloader ------------------------------------------------------------------- */

static void sleep_ns(double ns)
{
	struct timespec t = { (time_t)(ns / 1e9), (long)(ns - 1e9 * (double)(time_t)(ns / 1e9)) };

	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &t, &t) == EINTR)
		;
}

static void rest(void)
{
	static uint32_t random = 1;

	random = random * 1664525 + 1013904223;
	sleep_ns(rest_ns * (0.75 + 0.5 * (double)(random >> 8) / (1 << 24)));
}

static void unload_once(struct result *result, int module)
{
	double began, known;

	atomic_fetch_add(&begun, 1);
	began = now_ns();
	known = scheme->unload ? scheme->unload(module, began + give_up_ns) : 0;
	atomic_fetch_add(&ended, 1);
	if (!scheme->unload)
		return;
	if (known == 0) {
		result->refused++;
		return;
	}
	atomic_fetch_add_explicit(&generation[module], 1, memory_order_relaxed);
	result->latencies[result->unloads++] = known - began;
	atomic_fetch_add_explicit(&generation[module], 1, memory_order_relaxed);
	scheme->reinit(module);
}

/* A round's values; all of them are sorted again at the end. Returns the median. */
static double sort(double *values, int n)
{
	qsort(values, (size_t)n, sizeof(*values), by_value);
	return n > 0 ? values[n / 2] : 0;
}

static void unload_until(double end, struct result *result, int module)
{
	int first = result->unloads;

	do {
		rest();
		unload_once(result, module);
	} while (now_ns() < end);
	result->median_ns[result->rounds] =
		sort(result->latencies + first, result->unloads - first);
}

/* ---- slots -------------------------------------------------------------------------- */

static void add_up(struct result *result)
{
	double *during = result->during + result->attempts;
	int attempts = atomic_load(&begun);

	for (int i = 0; i < nworkers; i++) {
		for (int n = 0; n < attempts; n++)
			if (workers[i].during_ns[n] > during[n])
				during[n] = workers[i].during_ns[n];
		for (int bin = 0; bin < BINS; bin++) {
			result->bins[bin] += (double)workers[i].bins[bin];
			result->iterations += (double)workers[i].bins[bin];
		}
		if (workers[i].longest_ns > result->longest_ns)
			result->longest_ns = workers[i].longest_ns;
	}
	result->attempts += attempts;
	result->during_median_ns[result->rounds++] = sort(during, attempts);
}

static void run_slot(struct result *result, int load)
{
	double began;

	memset(workers, 0, (size_t)nworkers * sizeof(*workers));
	atomic_store(&stop, false);
	atomic_store(&begun, 0);
	atomic_store(&ended, 0);
	pthread_barrier_init(&start, NULL, (unsigned)nworkers + 1);
	for (int i = 0; i < nworkers; i++) {
		workers[i].number = i;
		need(pthread_create(&workers[i].thread, NULL, work, &workers[i]) == 0,
		     "pthread_create()");
	}
	pthread_barrier_wait(&start);
	began = now_ns();
	unload_until(began + slot_ns, result, load == BUSY ? USED : UNUSED);
	atomic_store(&stop, true);
	result->seconds += (now_ns() - began) / 1e9;
	for (int i = 0; i < nworkers; i++)
		pthread_join(workers[i].thread, NULL);
	pthread_barrier_destroy(&start);
	add_up(result);
}

static void say_where(int round, int rounds, int load)
{
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\rround %d of %d, %d workers, %s: %-25s", round + 1, rounds,
			nworkers, load_name[load], scheme->candidate.name);
}

static void run_all(int rounds)
{
	for (int round = 0; round < rounds; round++) {
		for (int i = 0; i < ncrews * LOADS * SCHEMES; i++) {
			int crew = i / (LOADS * SCHEMES), load = i / SCHEMES % LOADS;
			int turn = (i + round) % SCHEMES;

			if (!available[turn])
				continue;
			scheme = &schemes[turn];
			nworkers = crews[crew];
			say_where(round, rounds, load);
			run_slot(&results[crew][load][turn], load);
		}
	}
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\r%78s\r", "");
}

/* ---- what it came to ---------------------------------------------------------------- */

static double quantile(const double *sorted, int n, double q)
{
	return sorted[(int)(q * (n - 1) + 0.5)];
}

static void save_quantiles(const struct result *result, const char *key, const char *measure,
			   const double *sorted, int count, int crew, int load)
{
	double values[QUANTILES];
	int n = count < QUANTILES ? count : QUANTILES;

	for (int i = 0; i < n; i++)
		values[i] = quantile(sorted, count, n > 1 ? (double)i / (n - 1) : 0);
	bench_cell(key, "ns", values, n,
		   "\"workers\":%d,\"load\":\"%s\",\"measure\":\"%s\",\"count\":%d,\"refused\":%d",
		   crews[crew], load_name[load], measure, count, result->refused);
}

static void save(const struct result *result, const char *key, int crew, int load)
{
	if (result->unloads + result->refused > 0)
		save_quantiles(result, key, "latency", result->latencies, result->unloads, crew, load);
	save_quantiles(result, key, "stalled", result->during, result->attempts, crew, load);
	bench_cell(key, "stalls", result->bins, BINS,
		   "\"workers\":%d,\"load\":\"%s\",\"measure\":\"stall\",\"longest_ns\":%.0f,"
		   "\"seconds\":%g,\"iterations\":%.0f",
		   crews[crew], load_name[load], result->longest_ns, result->seconds,
		   result->iterations);
}

static void print_result(const struct result *result, const char *name)
{
	double long_stalls = 0;

	for (int bin = LONG_STALL_BIN; bin < BINS; bin++)
		long_stalls += result->bins[bin];
	if (result->unloads > 0)
		printf("  %8.1f %8.1f", quantile(result->latencies, result->unloads, 0.5) / 1e3,
		       quantile(result->latencies, result->unloads, 0.99) / 1e3);
	else
		printf("  %8s %8s", "-", "-");
	printf(" %7d %7d", result->unloads, result->refused);
	printf("  %8.1f %8.1f", quantile(result->during, result->attempts, 0.5) / 1e3,
	       quantile(result->during, result->attempts, 0.99) / 1e3);
	printf(" %9.1f  %9.0f  %s\n", long_stalls / result->seconds,
	       result->iterations / result->seconds / 1e3, name);
}

static void print_heading(int crew, int load)
{
	printf("\n%d worker%s on %d CPU%s, unloading %s", crews[crew],
	       crews[crew] == 1 ? "" : "s", cpus_allowed(), cpus_allowed() == 1 ? "" : "s",
	       load == BUSY ? "the module that they use" : "a module that nobody uses");
}

static void print_table(int crew, int load)
{
	print_heading(crew, load);
	putchar('\n');
	printf("  %17s %15s  %17s %9s  %9s\n", "unload, us", "", "stall in it, us", "stalls",
	       "thousand");
	printf("  %8s %8s %7s %7s  %8s %8s %9s  %9s\n", "p50", "p99", "unloads", "refused", "p50",
	       "p99", ">=100us/s", "iter./s");
	for (int s = 0; s < SCHEMES; s++)
		if (available[s])
			print_result(&results[crew][load][s], schemes[s].candidate.name);
}

static void compare(const char *measure, const char *what, int theirs, int crew, int load)
{
	const struct result *ours = &results[crew][load][PERCPU];
	const struct result *other = &results[crew][load][theirs];
	bool latency = strcmp(measure, "latency") == 0;

	bench_ratio(what, schemes[PERCPU].candidate.key, schemes[theirs].candidate.key,
		    latency ? ours->median_ns : ours->during_median_ns,
		    latency ? other->median_ns : other->during_median_ns, ours->rounds, 0,
		    "\"workers\":%d,\"load\":\"%s\",\"measure\":\"%s\"", crews[crew],
		    load_name[load], measure);
}

static void compare_all(int crew, int load)
{
	print_heading(crew, load);
	puts(": ratios of one round: median");
	compare("latency", "unload, per-CPU to stop-the-world", STOP_THE_WORLD, crew, load);
	compare("latency", "unload, per-CPU to pausing", PAUSING, crew, load);
	compare("stalled", "stall in an unload, per-CPU to stop-the-world", STOP_THE_WORLD, crew,
		load);
	compare("stalled", "stall in an unload, per-CPU to pausing", PAUSING, crew, load);
}

static void report(void (*one)(int crew, int load))
{
	for (int crew = 0; crew < ncrews; crew++)
		for (int load = 0; load < LOADS; load++)
			one(crew, load);
}

static void save_all(int crew, int load)
{
	for (int s = 0; s < SCHEMES; s++) {
		struct result *result = &results[crew][load][s];

		if (!available[s])
			continue;
		sort(result->latencies, result->unloads);
		sort(result->during, result->attempts);
		save(result, schemes[s].candidate.key, crew, load);
	}
}

/* ---- the program -------------------------------------------------------------------- */

static void set_up_crews(int rounds)
{
	int cpus = cpus_allowed(), sizes[CREWS] = { cpus > 1 ? cpus - 1 : 1, cpus, 4 * cpus };
	size_t in_slot = (size_t)(slot_ns / (0.75 * rest_ns) + 2), most = (size_t)rounds * in_slot;
	size_t bytes = (size_t)sizes[CREWS - 1] * sizeof(*workers);

	need(in_slot <= MOST_UNLOADS, "a slot without too many unloads");
	workers = aligned_alloc(_Alignof(struct worker), bytes);
	need(workers != NULL, "aligned_alloc()");
	for (int i = 0; i < CREWS; i++) {
		if (i > 0 && sizes[i] == sizes[i - 1])
			continue;
		for (int j = 0; j < LOADS * SCHEMES; j++) {
			struct result *result = &results[ncrews][j / SCHEMES][j % SCHEMES];

			result->latencies = calloc(most, sizeof(*result->latencies));
			result->during = calloc(most, sizeof(*result->during));
			need(result->latencies && result->during, "calloc()");
		}
		crews[ncrews++] = sizes[i];
	}
}

static void set_up_schemes(void)
{
	for (int s = 0; s < SCHEMES; s++) {
		available[s] = schemes[s].set_up && schemes[s].set_up();
		if (available[s])
			bench_candidate(&schemes[s].candidate);
		else if (s == URCU)
			bench_skipped("liburcu", "not installed: apt-get install liburcu-dev");
		else
			bench_skipped(schemes[s].candidate.name, NO_PERCPU);
	}
}

int main(int argc, char **argv)
{
	struct bench_options options = bench_start(argc, argv, "unload", "", 4);
	int rounds = options.rounds;

	if (options.what || options.count) {
		fprintf(stderr, "unload: %s: there is no such thing here\n",
			options.what ? options.what : "--count");
		return 2;
	}
	if (options.quick) {
		rounds = rounds < QUICK_ROUNDS ? rounds : QUICK_ROUNDS;
		slot_ns = 60e6;
		give_up_ns = 25e6;
	}
	set_up_work();
	set_up_crews(rounds);
	set_up_schemes();
	run_all(rounds);
	if (available[PERCPU])
		report(compare_all);
	report(save_all);
	report(print_table);
	printf("\nAn unload is refused if it has found no moment without users in %.0f ms. Stalls are\n"
	       "those of all workers together; with more workers than CPUs most of them are the\n"
	       "time that other workers had the CPU.\n",
	       give_up_ns / 1e6);
	return 0;
}
