/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * run.c - the workers, the unloaders, and what they hold against each other.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "stress.h"

/* Latencies kept per unloader and kind; beyond that each has the same chance to stay. */
#define SAMPLES 100000u

/* An attempt waits for calls of microseconds at most, and for looks at threads. */
#define STUCK_NS UINT64_C(30000000000)

volatile sig_atomic_t interrupted;
static _Thread_local struct run *current; /* the run this thread belongs to */

/* ---- workers ----------------------------------------------------------------- */

/* One call between a get and a put. The plugin may go at any moment before the
 * get and after the put, and at none between them. */
static void use(struct run *run, struct worker *worker, struct slot *slot)
{
	uint64_t generation;

	if (!run->scheme->try_get(slot, worker)) {
		count_one(&worker->refusals);
		return;
	}
	count_one(&worker->gets);
	generation = atomic_load(&slot->generation);
	if (atomic_load(&slot->released))
		violation(CALL_AFTER_RELEASE, "worker %u got '%s' after it had been released",
			  worker->index, slot->plugin.file);
	/* Mostly one call, now and then many: unloads shall find the plugin in use. */
	for (int calls = next_random(&worker->random) % 64 == 0 ? 500 : 1; calls > 0; calls--) {
		if (plugin_call(&slot->plugin, next_random(&worker->random)))
			continue;
		violation(WRONG_ANSWER,
			  "worker %u: %s() of '%s', generation %llu, answered wrongly",
			  worker->index, slot->plugin.symbol, slot->plugin.file,
			  (unsigned long long)generation);
		break;
	}
	if (atomic_load(&slot->released) || atomic_load(&slot->generation) != generation)
		violation(CALL_AFTER_RELEASE, "'%s' was released while worker %u held it",
			  slot->plugin.file, worker->index);
	run->scheme->put(slot, worker);
}

/* Present before the get and until after the put, for all to see: an exchange, so that
 * the mark comes before the get on any processor. */
static void visit(struct run *run, struct worker *worker, uint64_t dice)
{
	struct slot *slot = &run->slots[dice % run->nslots];
	_Atomic uint64_t *presence = &worker->presence[slot->index];

	atomic_fetch_add(presence, 1);
	if (!atomic_load(&slot->avoid))
		use(run, worker, slot);
	atomic_fetch_add(presence, 1);
}

/* A worker in four stays on its CPU, one in four goes from CPU to CPU, and the others are
 * where the system puts them. */
static void choose_cpu(const struct worker *worker, uint64_t rounds, uint64_t cpus)
{
	bool stays = worker->index % 4 == 1, migrates = worker->index % 4 == 2;
	cpu_set_t set;

	if ((stays && rounds == 0) || (migrates && rounds % 512 == 0)) {
		CPU_ZERO(&set);
		CPU_SET((size_t)((stays ? worker->index : rounds / 512) % cpus), &set);
		sched_setaffinity(0, sizeof(set), &set); /* if not, then not */
	}
}

static void *work(void *arg)
{
	struct worker *worker = arg;
	struct run *run = current;
	uint64_t before, cpus = (uint64_t)sysconf(_SC_NPROCESSORS_ONLN);

	crash_report_thread("worker", worker->index);
	before = now_ns();
	for (uint64_t rounds = 0; !atomic_load_explicit(&run->stop_workers, memory_order_relaxed);
	     rounds++) {
		uint64_t dice = next_random(&worker->random), after;

		choose_cpu(worker, rounds, cpus);
		run->scheme->layer->work(run, worker, dice);
		after = now_ns();
		if (after - before >
		    atomic_load_explicit(&worker->longest_stall_ns, memory_order_relaxed))
			atomic_store_explicit(&worker->longest_stall_ns, after - before,
					      memory_order_relaxed);
		before = after;
		if ((dice >> 32) % 256 == 0) {
			sleep_ns((dice >> 40) % 50000);
			before = now_ns();
		}
	}
	return NULL;
}

/* ---- unloaders ---------------------------------------------------------------- */

/* Whether no worker is near the slot, and a number that changes when one was. */
static bool nobody_near(struct run *run, const struct slot *slot, uint64_t *moves)
{
	*moves = 0;
	for (unsigned i = 0; i < run->nworkers; i++) {
		uint64_t presence = atomic_load(&run->workers[i].presence[slot->index]);

		if (presence % 2 != 0)
			return false;
		*moves += presence;
	}
	return true;
}

void keep_latency(struct latencies *kept, uint64_t *random, uint64_t ns)
{
	uint64_t place = kept->sampled;

	kept->seen++;
	if (ns > kept->longest_ns)
		kept->longest_ns = ns;
	if (kept->sampled < SAMPLES)
		kept->sampled++;
	else
		place = next_random(random) % kept->seen;
	if (place < SAMPLES)
		kept->sample_ns[place] = ns > UINT32_MAX ? UINT32_MAX : (uint32_t)ns;
}

/* The winner of a release: the plugin is ours alone. Take it out for real, leave
 * the counter closed for a while, and bring it back. */
static void reload(struct run *run, struct unloader *unloader, struct slot *slot)
{
	if (atomic_fetch_add(&slot->winners, 1) != 0) {
		violation(TWO_WINNERS, "two unloaders won the same release of '%s'",
			  slot->plugin.file);
		return;
	}
	atomic_store(&slot->released, true);
	if (run->scheme->count(run, slot) != -1)
		violation(COUNT_LEFT, "'%s' is released, and its count is %lld", slot->plugin.file,
			  (long long)run->scheme->count(run, slot));
	if (plugin_close(&slot->plugin) != 0) {
		atomic_store(&run->broken, true);
		return;
	}
	sleep_ns(next_random(&unloader->random) % 100000);
	if (plugin_open(&slot->plugin) != 0) {
		atomic_store(&run->broken, true);
		return;
	}
	atomic_fetch_add(&slot->generation, 1);
	atomic_store(&slot->released, false);
	atomic_fetch_sub(&slot->winners, 1);
	if (run->scheme->reinit(slot) != 0)
		violation(TWO_WINNERS, "the winner could not bring '%s' back", slot->plugin.file);
}

/* One attempt. Now and then the workers are asked to leave the slot alone first:
 * then a refusal has no excuse. */
static void attempt(struct run *run, struct unloader *unloader, uint64_t dice)
{
	struct slot *slot = &run->slots[(dice >> 32) % run->nslots];
	uint64_t moves_before = 0, moves_after;
	uint64_t attempts, began, took;
	/* Now and then a drain waits for as long as it takes: the main thread watches that. */
	int64_t patience = (dice >> 16) % 4 == 0 ? -1 : (int64_t)((dice >> 24) % 2000000);
	bool asked = dice % 16 == 0, quiet, alone;
	enum unload_kind kind = BY_RELEASE;
	int rc;

	if (!asked && run->scheme->drain && (dice >> 8) % 2 == 0)
		kind = BY_DRAIN;
	if (asked) {
		atomic_store(&slot->avoid, true);
		for (int tries = 0; tries < 100 && !nobody_near(run, slot, &moves_before); tries++)
			sleep_ns(20000);
	}
	/* In this order: who comes in after we were alone is seen in the number of attempts. */
	attempts = atomic_load(&slot->attempts);
	alone = atomic_fetch_add(&slot->in_progress, 1) == 0;
	atomic_fetch_add(&slot->attempts, 1);
	quiet = asked && alone && nobody_near(run, slot, &moves_before);

	began = now_ns();
	rc = kind == BY_DRAIN ? run->scheme->drain(run, slot, patience)
			      : run->scheme->try_release(run, slot);
	took = now_ns() - began;

	/* Alone, and between two looks at the workers nothing has moved: nobody held it. */
	quiet = quiet && atomic_load(&slot->attempts) == attempts + 1 &&
		nobody_near(run, slot, &moves_after) && moves_after == moves_before;
	if (quiet)
		count_one(&unloader->idle_checks);
	if (quiet && rc != 0)
		violation(IDLE_REFUSED, "a release of '%s' was refused although nobody held it: %s",
			  slot->plugin.file, strerror(-rc));
	if (asked)
		atomic_store(&slot->avoid, false);

	if (rc == 0) {
		keep_latency(&unloader->latencies[kind], &unloader->random, took);
		count_one(&unloader->unloads);
		reload(run, unloader, slot);
	} else {
		count_one(&unloader->refused);
	}
	atomic_fetch_sub(&slot->in_progress, 1);
}

static void *unload(void *arg)
{
	struct unloader *unloader = arg;
	struct run *run = current;

	crash_report_thread("unloader", (unsigned)(unloader - run->unloaders));
	while (!atomic_load(&run->stop_unloaders) && !atomic_load(&run->broken)) {
		uint64_t dice = next_random(&unloader->random);

		if (run->bad && unloader == run->unloaders) {
			bad_round(unloader);
		} else {
			atomic_store(&unloader->busy_since, now_ns());
			run->scheme->layer->attempt(run, unloader, dice);
			atomic_store(&unloader->busy_since, 0);
		}
		sleep_ns(next_random(&unloader->random) % 200000);
	}
	return NULL;
}

/* ---- one run --------------------------------------------------------------------- */

struct start {
	struct run *run;
	void *(*body)(void *);
	void *arg;
};

static void *begin(void *arg)
{
	struct start start = *(struct start *)arg;

	free(arg);
	current = start.run;
	return start.body(start.arg);
}

static int spawn(pthread_t *thread, struct run *run, void *(*body)(void *), void *arg)
{
	struct start *start = malloc(sizeof(*start));
	int rc = ENOMEM;

	if (start) {
		*start = (struct start){ .run = run, .body = body, .arg = arg };
		rc = pthread_create(thread, NULL, begin, start);
	}
	if (rc != 0) {
		free(start);
		fprintf(stderr, "cannot start a thread: %s; try fewer --threads\n", strerror(rc));
	}
	return rc;
}

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

static void summarise(const struct run *run, struct result *result)
{
	for (unsigned i = 0; i < run->nworkers; i++) {
		const struct worker *worker = &run->workers[i];

		result->gets += atomic_load(&worker->gets);
		result->refusals += atomic_load(&worker->refusals);
		if (atomic_load(&worker->longest_stall_ns) > result->longest_stall_ns)
			result->longest_stall_ns = atomic_load(&worker->longest_stall_ns);
	}
	for (unsigned i = 0; i < run->nunloaders; i++) {
		const struct unloader *unloader = &run->unloaders[i];

		result->unloads += atomic_load(&unloader->unloads);
		result->refused += atomic_load(&unloader->refused);
		result->idle_checks += atomic_load(&unloader->idle_checks);
		result->replaced += atomic_load(&unloader->replaced);
		result->stopped_first += atomic_load(&unloader->stopped_first);
		result->sets += atomic_load(&unloader->sets);
		result->forced += atomic_load(&unloader->forced);
	}
	for (int kind = 0; kind < UNLOAD_KINDS; kind++) {
		uint32_t *all = malloc((size_t)run->nunloaders * SAMPLES * sizeof(*all));
		size_t n = 0;

		for (unsigned i = 0; i < run->nunloaders; i++) {
			const struct latencies *kept = &run->unloaders[i].latencies[kind];

			if (kept->longest_ns > result->latency[kind].max_ns)
				result->latency[kind].max_ns = kept->longest_ns;
			result->latency[kind].n += kept->seen;
			if (all && kept->sampled)
				memcpy(all + n, kept->sample_ns, kept->sampled * sizeof(*all));
			n += kept->sampled;
		}
		if (all && n > 0) {
			qsort(all, n, sizeof(*all), by_value);
			result->latency[kind].p50_ns = all[(n - 1) / 2];
			result->latency[kind].p99_ns = all[(n - 1) * 99 / 100];
		}
		free(all);
	}
}

/* A counter for each plugin, and the plugin open. */
static int set_up_slots(struct run *run, const struct options *options)
{
	for (unsigned i = 0; i < run->nslots; i++) {
		struct slot *slot = &run->slots[i];

		slot->plugin = options->plugins[i];
		slot->index = i;
		/* Once for nothing: whoever stays mapped is found out before the run. */
		if (plugin_open(&slot->plugin) != 0 || plugin_close(&slot->plugin) != 0 ||
		    plugin_open(&slot->plugin) != 0)
			return -1;
		if (run->scheme->init(slot) != 0) {
			fprintf(stderr, "cannot initialise a counter\n");
			return -1;
		}
	}
	return 0;
}

static int set_up(struct run *run, const struct options *options)
{
	if (run->scheme->layer->set_up(run, options) != 0)
		return -1;
	for (unsigned i = 0; i < run->nworkers; i++) {
		run->workers[i].index = i;
		run->workers[i].random = run->seed + 1 + i;
	}
	for (unsigned i = 0; i < run->nunloaders; i++) {
		run->unloaders[i].random = run->seed + 1000003 + i;
		for (int kind = 0; kind < UNLOAD_KINDS; kind++) {
			uint32_t *sample = malloc(SAMPLES * sizeof(*sample));

			if (!sample)
				return -1;
			run->unloaders[i].latencies[kind].sample_ns = sample;
		}
	}
	return 0;
}

/* A thread that does not come back cannot be joined: say so and end. */
static void watch(struct run *run)
{
	for (unsigned i = 0; i < run->nunloaders; i++) {
		uint64_t since = atomic_load(&run->unloaders[i].busy_since), now = now_ns();

		if (since == 0 || now < since || now - since < STUCK_NS)
			continue;
		violation(DRAIN_STUCK, "unloader %u has been at one attempt for %llu s", i,
			  (unsigned long long)((now - since) / 1000000000));
		fprintf(stderr, "violations: %llu\n", (unsigned long long)violations());
		_exit(1);
	}
}

/* Joins a thread, and goes on watching while it does. */
static void join(struct run *run, pthread_t thread)
{
	struct timespec until;

	do {
		watch(run);
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec++;
	} while (pthread_timedjoin_np(thread, NULL, &until) == ETIMEDOUT);
}

/* Starts the threads, lets them go on for the time asked for, and joins them. */
static int execute(struct run *run)
{
	uint64_t began = now_ns();
	unsigned workers = 0, unloaders = 0;

	for (; workers < run->nworkers; workers++)
		if (spawn(&run->workers[workers].thread, run, work, &run->workers[workers]) != 0)
			break;
	if (workers == run->nworkers)
		for (; unloaders < run->nunloaders; unloaders++)
			if (spawn(&run->unloaders[unloaders].thread, run, unload,
				  &run->unloaders[unloaders]) != 0)
				break;
	if (unloaders < run->nunloaders)
		atomic_store(&run->broken, true);
	while (!atomic_load(&run->broken)) {
		double elapsed = (double)(now_ns() - began) / 1e9;

		if (elapsed >= run->seconds || interrupted)
			break;
		sleep_ns(100000000);
		report_live(run, elapsed);
		watch(run);
	}
	report_live_end();
	/* Unloaders first: a stopped world needs all its workers. */
	atomic_store(&run->stop_unloaders, true);
	for (unsigned i = 0; i < unloaders; i++)
		join(run, run->unloaders[i].thread);
	atomic_store(&run->stop_workers, true);
	for (unsigned i = 0; i < workers; i++)
		join(run, run->workers[i].thread);
	return atomic_load(&run->broken) ? -1 : 0;
}

/* Nobody is left: every count is zero and every plugin can go. */
static void tear_down(struct run *run)
{
	bool held[MAX_PLUGINS];

	for (unsigned i = 0; i < run->nslots; i++) {
		int64_t count = run->scheme->count(run, &run->slots[i]);

		held[i] = count != 0;
		if (held[i])
			violation(COUNT_LEFT, "'%s' has a count of %lld at the end",
				  run->slots[i].plugin.file, (long long)count);
	}
	run->nworkers = 0; /* they have ended: nobody is there to be stopped */
	for (unsigned i = 0; i < run->nslots; i++) {
		int rc = run->scheme->try_release(run, &run->slots[i]);

		/* Whatever the count says: all threads have ended, and the next run opens
		 * the plugin again. */
		plugin_close(&run->slots[i].plugin);
		if (rc != 0 && !held[i])
			violation(IDLE_REFUSED, "'%s' cannot be released at the end: %s",
				  run->slots[i].plugin.file, strerror(-rc));
	}
}

const struct layer layer_counter = {
	.set_up = set_up_slots,
	.work = visit,
	.attempt = attempt,
	.tear_down = tear_down,
};

int stress_run(const struct options *options, const struct scheme *scheme, struct result *result)
{
	struct run run = {
		.scheme = scheme,
		.nworkers = options->threads,
		.nunloaders = options->unloaders,
		.nslots = options->nplugins,
		.seconds = options->seconds,
		.seed = options->seed,
		.bad = options->bad,
	};
	uint64_t began = now_ns();
	int rc = -1;

	*result = (struct result){ .scheme = scheme };
	run.workers = aligned_alloc(CACHE_LINE, run.nworkers * sizeof(struct worker));
	run.unloaders = calloc(run.nunloaders, sizeof(struct unloader));
	run.slots = aligned_alloc(CACHE_LINE, run.nslots * sizeof(struct slot));
	if (!run.workers || !run.unloaders || !run.slots) {
		fprintf(stderr, "out of memory; try fewer --threads\n");
		goto out;
	}
	memset(run.workers, 0, run.nworkers * sizeof(struct worker));
	memset(run.slots, 0, run.nslots * sizeof(struct slot));
	crash_report_install(&run);
	rc = set_up(&run, options);
	if (rc == 0)
		rc = execute(&run);
	if (rc == 0) {
		result->seconds = (double)(now_ns() - began) / 1e9;
		summarise(&run, result);
		scheme->layer->tear_down(&run);
	}
	crash_report_install(NULL);
out:
	for (unsigned i = 0; run.unloaders && i < run.nunloaders; i++)
		for (int kind = 0; kind < UNLOAD_KINDS; kind++)
			free(run.unloaders[i].latencies[kind].sample_ns);
	free(run.workers);
	free(run.unloaders);
	free(run.slots);
	return rc;
}
