/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * base.c - BASE given back by one attempt to release, and claimed by the next.
 *
 *     left, whose attempt ends      right, whose attempt begins
 *     tag |= ON, Release            if BASE is set:
 *     word |= BASE, Release           word &= ~BASE, Acquire; if that found BASE:
 *                                       look at the tag
 *
 * Outcome 0: the next owner finds the slots still off, though the last one has turned them on
 * before it gave BASE back. Then its own turning off could be overtaken by the turning on.
 * As shipped: never (I1 of core/src/counter/mod.rs). Relaxed, C11 allows it, and x86-64, where all
 * three are locked instructions, cannot show it: loom does. With BASE first it has to be seen.
 */
#define _GNU_SOURCE
#include "litmus.h"

#define BASE	1
#define PERCPU	8

#define LOOKS	10

static OWN_LINE _Atomic uint64_t word;
static OWN_LINE _Atomic uint64_t tag;
static OWN_LINE int seen;

static void reset(void)
{
	atomic_store(&tag, 0);
	atomic_store(&word, PERCPU);
}

static void last(void)
{
	atomic_fetch_or_explicit(&tag, 1, memory_order_release);
	atomic_fetch_or_explicit(&word, BASE, memory_order_release);
}

static void last_relaxed(void)
{
	atomic_fetch_or_explicit(&tag, 1, memory_order_relaxed);
	atomic_fetch_or_explicit(&word, BASE, memory_order_relaxed);
}

static void last_base_first(void)
{
	atomic_fetch_or_explicit(&word, BASE, memory_order_release);
	litmus_linger();
	atomic_fetch_or_explicit(&tag, 1, memory_order_release);
}

static void claim(memory_order order)
{
	seen = 2;
	for (int i = 0; i < LOOKS && seen == 2; i++)
		if (atomic_load_explicit(&word, memory_order_relaxed) & BASE &&
		    atomic_fetch_and_explicit(&word, ~(uint64_t)BASE, order) & BASE)
			seen = atomic_load_explicit(&tag, memory_order_relaxed) ? 1 : 0;
}

static void next(void)
{
	claim(memory_order_acquire);
}

static void next_relaxed(void)
{
	claim(memory_order_relaxed);
}

static int outcome(void)
{
	return seen;
}

static const struct shape shapes[] = {
	{ "base: as shipped", reset, last, next, outcome, NEVER },
	{ "base: relaxed", reset, last_relaxed, next_relaxed, outcome, UNSEEN_HERE },
	{ "base: BASE before the slots", reset, last_base_first, next, outcome, SEEN },
};

static const char *const names[OUTCOMES] = {
	"claimed, slots off", "claimed, slots on", "busy",
};

int main(void)
{
	return litmus(shapes, sizeof(shapes) / sizeof(*shapes), names);
}
