/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * packets.c - a packet processor whose filters are plugins, replaced, taken out and put back
 * while packets run through them.
 *
 *     packets FOLDER [SECONDS [WORKERS]]
 *
 * Worker threads push packets of their own making through a chain of filters. Meanwhile the
 * main thread replaces one filter by its other version, and takes another one out and puts it
 * back. No worker is stopped for that, and none of them waits.
 *
 * At the end it prints what each version of each filter has seen, and checks that every packet
 * was either passed or dropped, and that none has run through code that was unloaded. The exit
 * status is 0 if that holds.
 */
#include <module_ref.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "packets.h"

enum { STAGES = 3, VERSIONS = 2, BATCH = 64, MOST_WORKERS = 64 };

/* The chain, in the order in which a packet meets it. A stage is a name: whichever module has
 * that name at the moment is the filter, and if there is none, packets pass. */
static const char *const chain[STAGES] = { "police", "ttl", "mark" };

static struct module_host *host;
static const char *folder;
static atomic_bool stop;

/* What a version of a filter has seen. It is here, and not in the filter, because it is wanted
 * when the filter is gone. */
static struct counts {
	atomic_ullong passed, dropped, stale;
} counts[STAGES][VERSIONS];

/* What went by while there was no filter in service. */
static atomic_ullong bypassed[STAGES];

/* What came in at one end and went out at the other. */
static atomic_ullong made, passed, dropped;

/* ---- the workers ------------------------------------------------------------------------ */

/* What a worker knows of the filter it used last at a stage, so that it need not look the
 * symbol up for every batch. The handle keeps the address of the module from being used for
 * another one: the same address is the same load of the same file. */
struct known {
	struct module *handle;
	const struct filter *filter;
	struct counts *counts;
};

/* The filter of a module that we hold a reference to. */
static bool know(struct known *known, int stage, struct module *mod)
{
	const struct filter *filter;

	if (known->handle == mod)
		return true;
	filter = module_symbol(mod, "filter");
	if (!filter || filter->version < 1 || filter->version > VERSIONS) {
		fprintf(stderr, "packets: '%s' is no filter: %s\n", module_name(mod),
			filter ? "its version is unknown" : module_last_error());
		return false;
	}
	module_handle_put(known->handle); /* of the one before; NULL is ignored */
	known->handle = module_handle_get(mod);
	known->filter = filter;
	known->counts = &counts[stage][filter->version - 1];
	return true;
}

/* Takes a batch through one stage; returns how many packets are left. */
static int run_stage(struct known *known, int stage, struct packet *packets, int n)
{
	struct module *mod = module_find_get(host, chain[stage]);
	unsigned long long verdicts[3] = { 0 };
	int left = 0;

	/* There is none while it is taken out. */
	if (!mod || !know(known, stage, mod)) {
		module_put(mod); /* NULL is ignored */
		atomic_fetch_add(&bypassed[stage], (unsigned long long)n);
		return n;
	}
	/* From here to module_put() the filter's code stays, whatever the main thread does. */
	for (int i = 0; i < n; i++) {
		enum verdict verdict = known->filter->run(&packets[i]);

		verdicts[verdict]++;
		if (verdict != DROP)
			packets[left++] = packets[i];
	}
	module_put(mod);
	atomic_fetch_add(&known->counts->passed, verdicts[PASS]);
	atomic_fetch_add(&known->counts->dropped, verdicts[DROP]);
	atomic_fetch_add(&known->counts->stale, verdicts[STALE]);
	return left;
}

/* Numbers that look random enough, and are the same in every run. */
static uint32_t next(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(*state >> 32);
}

static void receive(uint64_t *state, struct packet *packets)
{
	for (int i = 0; i < BATCH; i++) {
		uint32_t random = next(state);

		packets[i] = (struct packet){
			.source = 10u << 24 | (random & 0x7fffff),
			.length = (uint16_t)(64 + random % 1400),
			.ttl = (uint8_t)(random >> 24 & 63),
		};
	}
}

static void *worker(void *number)
{
	struct known known[STAGES] = { { NULL, NULL, NULL } };
	struct packet packets[BATCH];
	uint64_t state = (uintptr_t)number;

	while (!atomic_load(&stop)) {
		int n = BATCH;

		receive(&state, packets);
		atomic_fetch_add(&made, BATCH);
		for (int stage = 0; stage < STAGES && n > 0; stage++)
			n = run_stage(&known[stage], stage, packets, n);
		atomic_fetch_add(&passed, (unsigned long long)n);
		atomic_fetch_add(&dropped, (unsigned long long)(BATCH - n));
	}
	for (int stage = 0; stage < STAGES; stage++)
		module_handle_put(known[stage].handle);
	return NULL;
}

/* ---- the main thread --------------------------------------------------------------------- */

static void check(int rc, const char *what)
{
	if (rc >= 0)
		return;
	fprintf(stderr, "packets: %s: %s\n", what, module_last_error());
	exit(2);
}

static const char *path(const char *file)
{
	static char text[4096];

	if (snprintf(text, sizeof(text), "%s/%s", folder, file) >= (int)sizeof(text)) {
		fputs("packets: the folder's name is too long\n", stderr);
		exit(2);
	}
	return text;
}

static double seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Hot-swaps one filter, and takes another one out and puts it back. Returns how often. */
static int change_filters(double seconds)
{
	const int64_t patience = 10 * INT64_C(1000000000); /* ns */
	const struct timespec pause = { 0, 1000000 };
	double end = seconds_now() + seconds;
	int rounds = 0;

	while (seconds_now() < end) {
		/* The new one is in service before the old one is let go: no packet is without.
		 * The result 1 would mean that the old code is still mapped; nothing keeps it
		 * here but a worker that was not scheduled for ten seconds. */
		check(module_replace(host, "ttl", path(rounds % 2 ? "ttl-1.so" : "ttl-2.so"),
				     patience),
		      "no other version of ttl");
		check(module_unload(host, "police", 0, patience), "police cannot be taken out");
		nanosleep(&pause, NULL);
		check(module_load(host, path("police.so"), NULL, NULL), "police is not put back");
		nanosleep(&pause, NULL);
		rounds++;
	}
	return rounds;
}

/* Prints the counts, and returns what is wrong with them. */
static int account(void)
{
	unsigned long long left = atomic_load(&made), stale = 0;
	int wrong = 0;

	printf("%-8s %7s %12s %12s\n", "filter", "version", "passed", "dropped");
	for (int stage = 0; stage < STAGES; stage++) {
		unsigned long long seen = atomic_load(&bypassed[stage]), out = seen;

		for (int v = 0; v < VERSIONS; v++) {
			struct counts *of = &counts[stage][v];

			seen += of->passed + of->dropped + of->stale;
			out += of->passed + of->stale;
			stale += of->stale;
			if (of->passed + of->dropped)
				printf("%-8s %7d %12llu %12llu\n", chain[stage], v + 1,
				       (unsigned long long)of->passed,
				       (unsigned long long)of->dropped);
		}
		if (bypassed[stage])
			printf("%-8s %7s %12llu %12d\n", chain[stage], "none",
			       (unsigned long long)bypassed[stage], 0);
		wrong += seen != left; /* what came out of the stage before went in here */
		left = out;
	}
	printf("%llu packets: %llu passed, %llu dropped, %llu lost, %llu through unloaded code\n",
	       (unsigned long long)made, (unsigned long long)passed,
	       (unsigned long long)dropped, (unsigned long long)(made - passed - dropped), stale);
	return wrong + (left != passed) + (made != passed + dropped) + (stale != 0);
}

int main(int argc, char **argv)
{
	double seconds = argc > 2 ? atof(argv[2]) : 1;
	int workers = argc > 3 ? atoi(argv[3]) : 4, rounds;
	pthread_t threads[MOST_WORKERS];

	if (argc < 2 || argc > 4 || seconds <= 0 || workers < 1 || workers > MOST_WORKERS) {
		fprintf(stderr, "usage: packets FOLDER [SECONDS [WORKERS]], at most %d workers\n",
			MOST_WORKERS);
		return 2;
	}
	folder = argv[1];
	host = module_host_new();
	check(module_load(host, path("police.so"), NULL, NULL), "no police");
	check(module_load(host, path("ttl-1.so"), "ttl", NULL), "no ttl");
	check(module_load(host, path("mark.so"), NULL, NULL), "no mark");
	for (int i = 0; i < workers; i++)
		if (pthread_create(&threads[i], NULL, worker, (void *)(uintptr_t)(i + 1)) != 0) {
			fputs("packets: no thread can be started\n", stderr);
			return 2;
		}

	rounds = change_filters(seconds);

	atomic_store(&stop, true);
	for (int i = 0; i < workers; i++)
		pthread_join(threads[i], NULL);
	for (int stage = 0; stage < STAGES; stage++)
		check(module_unload(host, chain[stage], 0, 0), "a filter is still in use");
	check(module_host_free(host), "the host is not empty");
	printf("%d workers; ttl was replaced, police taken out and put back, %d times\n", workers,
	       rounds);
	return account() == 0 && rounds > 0 ? 0 : 1;
}
