/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * edges.c - plain memory that nothing but the counter orders, for ThreadSanitizer, which has
 * to find nothing to report; and races planted for it to find.
 *
 *   edges atomic|percpu     what the owner writes before it lets holders in, they read; what
 *                           they write before their puts, the owner reads
 *   edges undrained         the same, but that the owner does not wait for them: a race between
 *                           functions in C
 *   edges init              two threads initialise one counter at a time: a race between
 *                           functions in Rust
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "module_ref.h"
#include "oracle.h"
#include "tap.h"

enum { HOLDERS = 3, ROUNDS = 300 };

static struct module_ref ref;
static long published, written[HOLDERS]; /* plain */
static _Atomic int stop;
static _Atomic long wrong, uses;

static void *hold(void *arg)
{
	long *mine = arg, last = 0;

	/* Relaxed: it orders nothing. */
	while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
		if (!module_ref_try_get(&ref)) {
			sched_yield();
			continue;
		}
		if (published < last)
			atomic_fetch_add_explicit(&wrong, 1, memory_order_relaxed);
		last = published;
		++*mine;
		module_ref_put(&ref);
		atomic_fetch_add_explicit(&uses, 1, memory_order_relaxed);
		sched_yield();
	}
	return NULL;
}

static void rounds(bool drained)
{
	pthread_t threads[HOLDERS];
	long seen = 0;

	for (int i = 0; i < HOLDERS; i++)
		need(pthread_create(&threads[i], NULL, hold, &written[i]) == 0);
	for (long round = 1; round <= ROUNDS; round++) {
		long before = atomic_load_explicit(&uses, memory_order_relaxed);

		/* A release that does not wait seldom finds nobody in. */
		if (drained && (round % 2 == 0 || module_ref_try_release(&ref) != 0))
			need(module_ref_drain(&ref, -1) == 0);
		for (int i = 0; i < HOLDERS; i++) {
			seen += written[i];
			written[i] = 0;
		}
		published = round;
		need(!drained || module_ref_reinit(&ref) == 0);
		while (atomic_load_explicit(&uses, memory_order_relaxed) == before)
			sched_yield();
	}
	atomic_store_explicit(&stop, 1, memory_order_relaxed);
	for (int i = 0; i < HOLDERS; i++) {
		pthread_join(threads[i], NULL);
		seen += written[i];
	}
	is(atomic_load(&wrong), 0, "what was written before the reinit is read after the get");
	is(seen, atomic_load(&uses), "and before the put, after the release");
}

static void *initialise(void *arg)
{
	(void)arg;
	module_ref_init(&ref);
	return NULL;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "atomic";

	need(module_ref_init(&ref) == 0);
	if (strcmp(what, "init") == 0) {
		pthread_t thread;

		need(pthread_create(&thread, NULL, initialise, NULL) == 0);
		initialise(NULL);
		pthread_join(thread, NULL);
		return tap_done();
	}
	if (strcmp(what, "percpu") == 0) {
		if (why_not_per_cpu()) {
			printf("1..0 # SKIP %s\n", why_not_per_cpu());
			return 0;
		}
		need(module_ref_init_percpu(&ref) == 0);
		need(module_ref_mode(&ref) == MODULE_REF_PERCPU);
	}
	rounds(strcmp(what, "undrained") != 0);
	module_ref_destroy(&ref);
	return tap_done();
}
