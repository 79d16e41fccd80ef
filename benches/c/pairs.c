/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * pairs.c - what does a get and a put cost, against what programs use instead?
 *
 * 1, 2, 4 and 8 threads, all on the same counter or each on its own, for a few milliseconds
 * at a time. The figure is what a pair costs a CPU: the time, by the CPUs that were busy,
 * through the pairs of all threads. Where every thread adds to one cache line, it grows with
 * their number; where nothing is shared, it stays.
 */
#include <stdio.h>
#include <string.h>

#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#endif

#include "candidates.h"

enum { ROUNDS = 11, CROWDS = 4 };
static const int crowds[CROWDS] = { 1, 2, 4, 8 };

/* Like stands beside like, so that what is compared runs one after the other. */
static const struct candidate *const all[] = {
	&plain_adds,	 &percpu_inlined, &patch_inlined, &percpu_rust,
#ifdef HAVE_URCU
	&urcu_memb,	 &urcu_bp,	  &urcu_qsbr,
#endif
#ifdef HAVE_CK
	&ck_brlock,	 &ck_epoch,
#endif
	&percpu_called,	 &patch_called,	  &shared_called, &shared_rust,	  &weak_ptr,
	&rust_weak,	 &arc_swap,	  &crossbeam_epoch, &parking_lot, &pthread_rwlock,
	&host_try_get,	 &host_call,	  &host_gate,	  &host_find_get,
};
enum { CANDIDATES = sizeof(all) / sizeof(all[0]) };
static bool takes_part[CANDIDATES];

enum counters { ONE, OWN, COUNTERS };
static const char *const counters_name[COUNTERS] = { "one", "own" };
/* As measured, for the ratios. */
static double measured[COUNTERS][CROWDS][CANDIDATES][MOST_ROUNDS];

/* ---- one turn ------------------------------------------------------------------------ */

struct turn {
	const struct candidate *candidate;
	enum counters counters;
};

static void work(const void *sort, int thread, long n)
{
	const struct turn *turn = sort;

	turn->candidate->pairs(turn->counters == OWN ? thread : 0, n);
}

static double take_turn(const struct candidate *candidate, int threads, enum counters counters)
{
	struct turn turn = { candidate, counters };
	struct crowd crowd = { threads, 500, work, &turn, candidate->enter, candidate->leave };

	return crowd_ns(&crowd);
}

/* ---- ratios ---------------------------------------------------------------------------- */

static const struct {
	const char *what, *ours, *theirs;
	enum counters counters;
	double goal[CROWDS]; /* 0: none; a negative one: not to be shown */
} ratios[] = {
	{ "per-CPU to the patch, inlined", "percpu_inlined", "patch_inlined", ONE, { .25, .10 } },
	{ "per-CPU to the patch, by calls", "percpu_called", "patch_called", ONE, { .96, .28 } },
	{ "shared word to the patch, by calls", "shared_called", "patch_called", ONE, { 1, 1 } },
	{ "per-CPU to the patch, inlined", "percpu_inlined", "patch_inlined", OWN, { -1 } },
	{ "per-CPU inlined to liburcu (memb)", "percpu_inlined", "urcu_memb", ONE, { 1, 1 } },
	{ "per-CPU inlined to liburcu (bp)", "percpu_inlined", "urcu_bp", ONE, { 0 } },
	{ "per-CPU inlined to liburcu (qsbr)", "percpu_inlined", "urcu_qsbr", ONE, { 0 } },
	{ "per-CPU inlined to ck_epoch", "percpu_inlined", "ck_epoch", ONE, { 0 } },
	{ "per-CPU inlined to ck_brlock", "percpu_inlined", "ck_brlock", ONE, { 0 } },
	{ "per-CPU by calls to std::weak_ptr", "percpu_called", "weak_ptr", ONE, { 0 } },
	{ "per-CPU by calls to pthread_rwlock", "percpu_called", "pthread_rwlock", ONE, { 0 } },
	{ "per-CPU in Rust to Weak::upgrade", "percpu_rust", "rust_weak", ONE, { 0 } },
	{ "per-CPU in Rust to ArcSwap", "percpu_rust", "arc_swap", ONE, { 0 } },
	{ "per-CPU in Rust to crossbeam-epoch", "percpu_rust", "crossbeam_epoch", ONE, { 0 } },
	{ "per-CPU in Rust to parking_lot", "percpu_rust", "parking_lot", ONE, { 0 } },
	{ "module_try_get to the patch, by calls", "host_try_get", "patch_called", ONE, { 0 } },
	{ "a gate to get, call, put by hand", "host_gate", "host_call", ONE, { 1.3 } },
};

/* The place of a candidate that takes part, or -1. */
static int place_of(const char *key)
{
	for (int c = 0; c < CANDIDATES; c++)
		if (takes_part[c] && strcmp(all[c]->key, key) == 0)
			return c;
	return -1;
}

static void show_ratios(int rounds, int sizes)
{
	for (int t = 0; t < sizes; t++) {
		printf("%d thread%s, ratio of one turn to the other: median\n", crowds[t],
		       t ? "s" : "");
		for (size_t i = 0; i < sizeof(ratios) / sizeof(ratios[0]); i++) {
			int ours = place_of(ratios[i].ours), theirs = place_of(ratios[i].theirs);
			enum counters on = ratios[i].counters;

			if (ours < 0 || theirs < 0 || ratios[i].goal[t] < 0)
				continue;
			if (on == OWN)
				fputs("a counter for each thread:\n", stdout);
			bench_ratio(ratios[i].what, ratios[i].ours, ratios[i].theirs,
				    measured[on][t][ours], measured[on][t][theirs], rounds,
				    ratios[i].goal[t], "\"threads\":%d,\"counters\":\"%s\"",
				    crowds[t], counters_name[on]);
		}
		putchar('\n');
	}
}

/* ---- all of it ---------------------------------------------------------------------------- */

static void show_times(enum counters on, int t, int rounds)
{
	printf("%d thread%s on %s, ns of a CPU per pair: median [quartiles]\n",
	       crowds[t], t ? "s" : "", on == ONE ? "one counter" : "a counter each");
	for (int c = 0; c < CANDIDATES; c++) {
		if (!takes_part[c])
			continue;
		bench_line(measured[on][t][c], rounds, all[c]->name);
		bench_cell(all[c]->key, "ns per pair", measured[on][t][c], rounds,
			   "\"threads\":%d,\"counters\":\"%s\"", crowds[t], counters_name[on]);
	}
	putchar('\n');
}

static void set_up(void)
{
	for (int c = 0; c < CANDIDATES; c++) {
		takes_part[c] = !all[c]->set_up || all[c]->set_up();
		if (takes_part[c])
			bench_candidate(all[c]);
		else
			bench_skipped(all[c]->name, NO_PERCPU);
	}
#ifndef HAVE_URCU
	bench_skipped("liburcu", "not installed: apt-get install liburcu-dev");
#endif
#ifndef HAVE_CK
	bench_skipped("Concurrency Kit", "not installed: apt-get install libck-dev");
#endif
}

/* Under callgrind: what twice as many pairs take more is what they take. */
static int count(void)
{
#ifdef CALLGRIND_DUMP_STATS_AT
	for (int c = 0; c < CANDIDATES; c++) {
		char name[64];

		if (!takes_part[c])
			continue;
		if (all[c]->enter)
			all[c]->enter();
		all[c]->pairs(0, 1000);
		for (int times = 1; times <= 2; times++) {
			snprintf(name, sizeof(name), "%s %d", all[c]->key, times);
			CALLGRIND_ZERO_STATS;
			all[c]->pairs(0, 1000 * times);
			CALLGRIND_DUMP_STATS_AT(name);
		}
		if (all[c]->leave)
			all[c]->leave();
	}
	return 0;
#else
	fputs("pairs: --count needs valgrind's headers: apt-get install valgrind\n", stderr);
	return 2;
#endif
}

int main(int argc, char **argv)
{
	struct bench_options options = bench_start(argc, argv, "pairs", "", ROUNDS);
	int sizes = options.quick ? 2 : CROWDS;

	set_up();
	if (options.count)
		return count();
	for (int round = 0; round < options.rounds; round++)
		for (int t = 0; t < sizes; t++)
			for (int on = ONE; on <= (t ? OWN : ONE); on++)
				for (int c = 0; c < CANDIDATES; c++)
					if (takes_part[c])
						measured[on][t][c][round] =
							take_turn(all[c], crowds[t],
								  (enum counters)on);
	show_ratios(options.rounds, sizes);
	for (int t = 0; t < sizes; t++)
		for (int on = ONE; on <= (t ? OWN : ONE); on++)
			show_times((enum counters)on, t, options.rounds);
	return 0;
}
