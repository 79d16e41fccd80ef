/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * sb.c - store buffering: an add to a slot, against slots that are turned off.
 *
 *     left, a user           right, a releaser
 *     slot = 1               tag = 0
 *     look at the tag        barrier
 *                            sum up the slot
 *
 * Outcome 0: the user saw the tag still on, and the releaser did not see its add. With
 * membarrier on the right, and on the left nothing but the order of the instructions: never
 * (P1 of core/src/percpu/). Without it x86-64 does it, also if the tag is turned off by a locked
 * instruction: the store that is held back is the user's.
 */
#define _GNU_SOURCE
#include "litmus.h"

static OWN_LINE _Atomic long slot, tag;
static OWN_LINE long saw_tag;
static OWN_LINE long saw_slot;

static void reset(void)
{
	atomic_store(&slot, 0);
	atomic_store(&tag, 1);
}

static void user(void)
{
	atomic_store_explicit(&slot, 1, memory_order_relaxed);
	compiler_barrier();
	saw_tag = atomic_load_explicit(&tag, memory_order_relaxed);
}

static void fenced_user(void)
{
	atomic_fetch_add(&slot, 1);
	saw_tag = atomic_load_explicit(&tag, memory_order_relaxed);
}

static void releaser(void)
{
	atomic_fetch_and_explicit(&tag, 0, memory_order_relaxed);
	need(membarrier(BARRIER) == 0);
	saw_slot = atomic_load_explicit(&slot, memory_order_relaxed);
}

static void releaser_without(void)
{
	atomic_store_explicit(&tag, 0, memory_order_relaxed);
	compiler_barrier();
	saw_slot = atomic_load_explicit(&slot, memory_order_relaxed);
}

static void releaser_locked(void)
{
	atomic_fetch_and_explicit(&tag, 0, memory_order_seq_cst);
	saw_slot = atomic_load_explicit(&slot, memory_order_relaxed);
}

static int outcome(void)
{
	return !saw_tag ? 2 : saw_slot ? 1 : 0;
}

static const struct shape shapes[] = {
	{ "sb: membarrier on one side", reset, user, releaser, outcome, NEVER },
	{ "sb: no barrier", reset, user, releaser_without, outcome, SEEN },
	{ "sb: a locked tag, no barrier", reset, user, releaser_locked, outcome, SEEN },
	{ "sb: both locked", reset, fenced_user, releaser_locked, outcome, NEVER },
};

static const char *const names[OUTCOMES] = {
	"tag on, add not seen", "tag on, add seen", "tag off",
};

int main(void)
{
	if (membarrier(BARRIER_REGISTER)) {
		printf("1..0 # SKIP there is no membarrier\n");
		return 0;
	}
	return litmus(shapes, sizeof(shapes) / sizeof(*shapes), names);
}
