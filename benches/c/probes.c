/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * probes.c - what do the trace points of a get and a put cost while nobody listens?
 *
 * Two builds of the library are in one process, with and without, and take turns: UNTRACED is
 * where the one without is. The loop and the calls are the same.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#endif

#include "bench.h"
#include "lib/oracle.h"
#include "module_ref.h"

enum { ROUNDS = 31, CROWDS = 2, COUNTINGS = 2 };
static const int crowds[CROWDS] = { 1, 2 };
static const char *const counting[COUNTINGS] = { "per CPU", "in one word" };

/* One build of the library, and a module that it has loaded for each way to count. */
static struct build {
	const char *key, *file;
	bool (*try_get)(struct module *mod);
	void (*put)(struct module *mod);
	struct module *modules[COUNTINGS];
} builds[] = { { .key = "traced", .file = TRACED }, { .key = "untraced", .file = UNTRACED } };
enum { BUILDS = sizeof(builds) / sizeof(builds[0]) };

static double measured[COUNTINGS][CROWDS][BUILDS][MOST_ROUNDS];

static void find(void *library, const char *name, void *function, size_t size)
{
	void *address = dlsym(library, name);

	need(address != NULL, name);
	memcpy(function, &address, size);
}

#define FIND(library, name, function) find(library, name, &(function), sizeof(function))

static void set_up(struct build *build)
{
	void *library = dlopen(build->file, RTLD_NOW | RTLD_LOCAL);
	struct module_host *(*host_new)(void);
	int (*load)(struct module_host *, const char *, const char *, unsigned, struct module **);
	struct module_host *host;

	if (!library) {
		fprintf(stderr, "probes: %s\n", dlerror());
		exit(2);
	}
	FIND(library, "module_host_new", host_new);
	FIND(library, "module_load_flags", load);
	FIND(library, "module_try_get", build->try_get);
	FIND(library, "module_put", build->put);
	host = host_new();
	need(load(host, SAMPLE, "percpu", 0, &build->modules[0]) == 0, "a load");
	need(load(host, SAMPLE, "word", MODULE_LOAD_ATOMIC, &build->modules[1]) == 0, "a load");
}

struct turn {
	const struct build *build;
	struct module *mod;
};

static void work(const void *sort, int thread, long n)
{
	const struct turn *turn = sort;
	bool (*try_get)(struct module *) = turn->build->try_get;
	void (*put)(struct module *) = turn->build->put;
	struct module *mod = turn->mod;

	while (n-- > 0) {
		if (!try_get(mod))
			abort();
		put(mod);
	}
}

static double take_turn(const struct build *build, int how, int threads)
{
	struct turn turn = { build, build->modules[how] };
	struct crowd crowd = { threads, 500, work, &turn, NULL, NULL };

	return crowd_ns(&crowd);
}

/* Under callgrind: what twice as many pairs take more is what they take. */
static int count(void)
{
#ifdef CALLGRIND_DUMP_STATS_AT
	for (int b = 0; b < BUILDS; b++)
		for (int how = 0; how < COUNTINGS; how++) {
			struct turn turn = { &builds[b], builds[b].modules[how] };

			work(&turn, 0, 1000);
			for (int times = 1; times <= 2; times++) {
				char name[64];

				snprintf(name, sizeof(name), "%s %d %d", builds[b].key, how, times);
				CALLGRIND_ZERO_STATS;
				work(&turn, 0, 1000 * times);
				CALLGRIND_DUMP_STATS_AT(name);
			}
		}
	return 0;
#else
	fputs("probes: --count needs valgrind's headers: apt-get install valgrind\n", stderr);
	return 2;
#endif
}

int main(int argc, char **argv)
{
	struct bench_options options = bench_start(argc, argv, "probes", "", ROUNDS);
	int first = has_per_cpu() ? 0 : 1;

	for (int b = 0; b < BUILDS; b++)
		set_up(&builds[b]);
	if (options.count)
		return count();
	if (first > 0)
		bench_skipped("counted per CPU", NO_PERCPU);
	for (int round = 0; round < options.rounds; round++)
		for (int how = first; how < COUNTINGS; how++)
			for (int t = 0; t < CROWDS; t++)
				for (int b = 0; b < BUILDS; b++) {
					/* Each of them is first in every other round. */
					int of = (b + round) % BUILDS;

					measured[how][t][of][round] =
						take_turn(&builds[of], how, crowds[t]);
				}
	puts("a get and a put with trace points to those without, ratio: median");
	for (int how = first; how < COUNTINGS; how++)
		for (int t = 0; t < CROWDS; t++) {
			char what[64];

			snprintf(what, sizeof(what), "counted %s, %d thread%s", counting[how],
				 crowds[t], t ? "s" : "");
			bench_ratio(what, "traced", "untraced", measured[how][t][0],
				    measured[how][t][1], options.rounds, 0,
				    "\"threads\":%d,\"counting\":\"%s\"", crowds[t], counting[how]);
		}
	return 0;
}
