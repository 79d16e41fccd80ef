/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * look.c - what does the look cost before an unmapping, and how often does it find somebody who is
 * not there?
 *
 * An unload with the look and one without take turns, beside threads that sleep. Then a module that
 * nobody uses is unloaded many times beside threads that come and go in others: whoever is found
 * there is found by mistake, and costs a mapping until the next look.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"
#include "module_ref.h"

enum { ROUNDS = 31, CROWDS = 4, OTHERS = 4, VISITORS = 16 };
enum { UNLOADS = 10000, QUICK_UNLOADS = 500, MEGABYTES = 256 };
static const int crowds[CROWDS] = { 2, 16, 128, 1000 };
enum { LOOKS, UNPROVEN, DANGLING, CANDIDATES };
static const struct candidate candidates[CANDIDATES] = {
	{ .key = "module_unload", .name = "module_unload", .ours = true,
	  .gives = "looks who still stands in it, and who would call it",
	  .lacks = "does not look through memory" },
	{ .key = "unproven", .name = "module_unload, MODULE_UNLOAD_UNPROVEN", .ours = true,
	  .gives = "waits for those who hold it", .lacks = "looks for nobody else" },
	{ .key = "module_dangling", .name = "module_dangling", .ours = true,
	  .gives = "looks through memory, too", .lacks = "unloads nothing" },
};

static struct module_host *host;
static char others[OTHERS][16];
static atomic_bool over;

static void nap(long ns)
{
	struct timespec pause = { 0, ns };

	nanosleep(&pause, NULL);
}

static void *sleeps(void *unused)
{
	while (!over)
		nap(100000000);
	return unused;
}

static void *comes_and_goes(void *number)
{
	uint32_t random = (uint32_t)(uintptr_t)number;

	while (!over) {
		struct module *mod;
		void *symbol;
		uint32_t (*answer)(uint32_t);

		random = random * 1664525u + 1013904223u;
		mod = module_find_get(host, others[(random >> 16) % OTHERS]);
		need(mod && (symbol = module_symbol(mod, "sample_answer")), "another module");
		memcpy(&answer, &symbol, sizeof(symbol));
		answer(random);
		module_put(mod);
		nap((random >> 8) % 400000);
	}
	return NULL;
}

static void start(pthread_t *threads, int n, void *(*body)(void *))
{
	pthread_attr_t small;

	over = false;
	need(pthread_attr_init(&small) == 0 && pthread_attr_setstacksize(&small, 1 << 17) == 0,
	     "a small stack");
	for (int i = 0; i < n; i++)
		need(pthread_create(&threads[i], &small, body, (void *)(uintptr_t)i) == 0, "a thread");
	nap(50000000);
}

static void join(pthread_t *threads, int n)
{
	over = true;
	for (int i = 0; i < n; i++)
		pthread_join(threads[i], NULL);
}

static double unload_us(unsigned flags)
{
	double began;

	need(module_load(host, SAMPLE, "sample", NULL) == 0, module_last_error());
	began = now_ns();
	need(module_unload(host, "sample", flags, 0) == 0, module_last_error());
	return (now_ns() - began) / 1e3;
}

static void beside_sleepers(int rounds)
{
	static pthread_t threads[1000];
	static double with[MOST_ROUNDS], without[MOST_ROUNDS], each[MOST_ROUNDS];

	for (int c = 0; c < CROWDS; c++) {
		int n = crowds[c];

		/* This thread is one of them. */
		start(threads, n - 1, sleeps);
		for (int round = 0; round < rounds; round++) {
			without[round] = unload_us(MODULE_UNLOAD_UNPROVEN);
			with[round] = unload_us(0);
			each[round] = (with[round] - without[round]) / n;
		}
		join(threads, n - 1);
		printf("%d threads, us: median [quartiles]; at most %s\n", n,
		       n == 2 ? "250 in all" : "100 each");
		bench_line(with, rounds, "unload of an idle module");
		bench_line(each, rounds, "the look, each thread");
		bench_cell(candidates[LOOKS].key, "us", with, rounds, "\"threads\":%d", n);
		bench_cell(candidates[UNPROVEN].key, "us", without, rounds, "\"threads\":%d", n);
	}
}

static void beside_visitors(int wanted)
{
	pthread_t threads[VISITORS];
	int first = 0, second = 0;

	for (int i = 0; i < OTHERS; i++) {
		snprintf(others[i], sizeof(others[i]), "other%d", i);
		need(module_load(host, SAMPLE, others[i], NULL) == 0, module_last_error());
	}
	start(threads, VISITORS, comes_and_goes);
	for (int i = 0; i < wanted; i++) {
		int rc;

		need(module_load(host, SAMPLE, "idle", NULL) == 0, module_last_error());
		rc = module_unload(host, "idle", 0, 0);
		need(rc >= 0, module_last_error());
		first += rc;
		if (rc == 1)
			second += module_host_reap(host) != 1;
	}
	join(threads, VISITORS);
	for (int i = 0; i < OTHERS; i++)
		need(module_unload(host, others[i], 0, 0) == 0, module_last_error());
	printf("%d unloads of an idle module, %d threads come and go in others, falsely resident:\n"
	       "%9d  at the first look; at most %g\n%9d  after the second; at most 0\n", wanted,
	       VISITORS, first, wanted / 1000.0, second);
}

static double dangling_ms(struct module *mod)
{
	double began = now_ns();

	need(module_dangling(mod, NULL, 0) >= 0, module_last_error());
	return (now_ns() - began) / 1e6;
}

static void through_memory(int rounds)
{
	static double whole[MOST_ROUNDS], each[MOST_ROUNDS];
	/* Seen by others: what nobody could look at need not be written. */
	static char *volatile memory;
	size_t size = (size_t)MEGABYTES << 20;
	struct module *mod;

	need(module_load(host, SAMPLE, "sample", &mod) == 0, module_last_error());
	for (int round = 0; round < rounds; round++) {
		double before = dangling_ms(mod);

		memory = malloc(size);
		need(memory, "malloc()");
		memset(memory, round + 1, size);
		whole[round] = dangling_ms(mod);
		each[round] = (whole[round] - before) / MEGABYTES;
		free(memory);
	}
	module_handle_put(mod);
	need(module_unload(host, "sample", 0, 0) == 0, module_last_error());
	puts("module_dangling(), ms for each MB of memory that was touched: median [quartiles]");
	bench_line(each, rounds, "through memory");
	bench_cell(candidates[DANGLING].key, "ms", whole, rounds, "\"measure\":\"%d MB\"", MEGABYTES);
}

int main(int argc, char **argv)
{
	struct bench_options options = bench_start(argc, argv, "look", "", ROUNDS);

	for (int c = 0; c < CANDIDATES; c++)
		bench_candidate(&candidates[c]);
	host = module_host_new();
	need(host != NULL, "module_host_new()");
	beside_sleepers(options.rounds);
	beside_visitors(options.rounds == 1 ? 10 : options.quick ? QUICK_UNLOADS : UNLOADS);
	through_memory(options.rounds < 5 ? options.rounds : 5);
	need(module_host_free(host) == 0, module_last_error());
	return 0;
}
