/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * mp.c - message passing: what a holder did before its put, and the drain that succeeds.
 *
 *     left, a holder              right, a drainer
 *     data = 1                    as soon as the word is DRAINED:
 *     word -= REF, Release          CAS DRAINED to RELEASED, Acquire
 *                                   look at the data
 *
 * Outcome 0: the drain has succeeded, and the data are the old ones. As shipped: never (I5 of
 * core/src/counter/mod.rs). Relaxed, C11 allows it; x86-64 keeps stores, and loads, in order, so that it
 * cannot show it: loom does (the mutants of ci/mutants that relax the put or the drain's end).
 * If the put comes before the work it has to be seen.
 */
#define _GNU_SOURCE
#include "litmus.h"

#define RELEASED	0
#define DRAINED	4
#define REF	16

#define LOOKS	10

static OWN_LINE _Atomic uint64_t word;
static OWN_LINE _Atomic long data;
static OWN_LINE int seen;

static void reset(void)
{
	atomic_store(&data, 0);
	atomic_store(&word, DRAINED + REF);
}

static void holder(void)
{
	atomic_store_explicit(&data, 1, memory_order_relaxed);
	atomic_fetch_sub_explicit(&word, REF, memory_order_release);
}

static void holder_relaxed(void)
{
	atomic_store_explicit(&data, 1, memory_order_relaxed);
	atomic_fetch_sub_explicit(&word, REF, memory_order_relaxed);
}

static void holder_too_early(void)
{
	atomic_fetch_sub_explicit(&word, REF, memory_order_release);
	litmus_linger();
	atomic_store_explicit(&data, 1, memory_order_relaxed);
}

static void drain(memory_order order)
{
	uint64_t drained = DRAINED;

	/* A few looks, as in a drain whose deadline comes. */
	seen = 2;
	for (int i = 0; i < LOOKS && seen == 2; i++, drained = DRAINED)
		if (atomic_load_explicit(&word, memory_order_relaxed) == DRAINED &&
		    atomic_compare_exchange_strong_explicit(&word, &drained, RELEASED, order,
							    memory_order_relaxed))
			seen = atomic_load_explicit(&data, memory_order_relaxed) ? 1 : 0;
}

static void drainer(void)
{
	drain(memory_order_acquire);
}

static void drainer_relaxed(void)
{
	drain(memory_order_relaxed);
}

static int outcome(void)
{
	return seen;
}

static const struct shape shapes[] = {
	{ "mp: as shipped", reset, holder, drainer, outcome, NEVER },
	{ "mp: relaxed", reset, holder_relaxed, drainer_relaxed, outcome, UNSEEN_HERE },
	{ "mp: the put before the work", reset, holder_too_early, drainer, outcome, SEEN },
};

static const char *const names[OUTCOMES] = {
	"drained, old data", "drained, new data", "still held",
};

int main(void)
{
	return litmus(shapes, sizeof(shapes) / sizeof(*shapes), names);
}
