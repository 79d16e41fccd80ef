/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * fold.c - two claims, and a fold while a put goes through the word.
 *
 *     left                              right
 *     claim: word &= ~BASE              claim: word &= ~BASE
 *     who found BASE folds:             who found BASE folds
 *       CAS word to word + sum,
 *       without PERCPU
 *     word -= REF, a put
 *
 * Two references are held, both counted by the slots, so that the sum is 2. Outcome 0: two
 * owners, or a count that is not 1 at the end. As shipped: never (I1, I2 of core/src/counter/mod.rs). A
 * claim that looks first and then clears, and a fold that looks and then stores, have to show
 * it. All of it is read-modify-writes of one word, which no processor reorders among
 * themselves: here every machine shows the same outcomes.
 */
#define _GNU_SOURCE
#include "litmus.h"

#define BASE	1
#define PERCPU	8
#define REF	16
#define SUM	(2 * REF)

static OWN_LINE _Atomic uint64_t word;
static OWN_LINE bool left_owns;
static OWN_LINE bool right_owns;

static void reset(void)
{
	atomic_store(&word, BASE | PERCPU);
	left_owns = right_owns = false;
}

static bool claim(void)
{
	return atomic_fetch_and_explicit(&word, ~(uint64_t)BASE, memory_order_acquire) & BASE;
}

static bool claim_by_looking(void)
{
	bool base = atomic_load_explicit(&word, memory_order_relaxed) & BASE;

	atomic_fetch_and_explicit(&word, ~(uint64_t)BASE, memory_order_acquire);
	return base;
}

static void fold(void)
{
	uint64_t seen = atomic_load_explicit(&word, memory_order_relaxed);

	while (!atomic_compare_exchange_weak_explicit(&word, &seen,
						      (seen + SUM) & ~(uint64_t)PERCPU,
						      memory_order_relaxed, memory_order_relaxed))
		;
}

static void fold_by_storing(void)
{
	uint64_t seen = atomic_load_explicit(&word, memory_order_relaxed);

	atomic_store_explicit(&word, (seen + SUM) & ~(uint64_t)PERCPU, memory_order_relaxed);
}

static void put(void)
{
	atomic_fetch_sub_explicit(&word, REF, memory_order_release);
}

static void left(void)
{
	left_owns = claim();
	if (left_owns)
		fold();
	put();
}

static void right(void)
{
	right_owns = claim();
	if (right_owns)
		fold();
}

static void left_looks(void)
{
	left_owns = claim_by_looking();
	if (left_owns)
		fold();
	put();
}

static void right_looks(void)
{
	right_owns = claim_by_looking();
	if (right_owns)
		fold();
}

static void right_stores(void)
{
	right_owns = claim();
	if (right_owns)
		fold_by_storing();
}

static int outcome(void)
{
	if (left_owns == right_owns || atomic_load(&word) != REF)
		return 0;
	return left_owns ? 1 : 2;
}

static const struct shape shapes[] = {
	{ "fold: as shipped", reset, left, right, outcome, NEVER },
	{ "fold: the claim looks, then clears", reset, left_looks, right_looks, outcome, SEEN },
	{ "fold: the fold looks, then stores", reset, left, right_stores, outcome, SEEN },
};

static const char *const names[OUTCOMES] = {
	"two owners, or a count lost", "the left one owns", "the right one owns",
};

int main(void)
{
	return litmus(shapes, sizeof(shapes) / sizeof(*shapes), names);
}
