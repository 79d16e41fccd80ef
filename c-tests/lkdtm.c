/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * lkdtm.c - the list with which Linux tests its refcount_t (drivers/misc/lkdtm/refcount.c),
 * row by row. What is REFCOUNT_MAX there is the border of the outermost zone here, saturated is
 * pinned, and a refcount_t of 0, whose object is gone, is a released counter.
 */
#define _GNU_SOURCE
#include "rows.h"

static void gets(struct module_ref *ref, int n)
{
	while (n-- > 0)
		module_ref_get(ref);
}

static int try_gets(struct module_ref *ref, int n)
{
	int got = 0;

	while (n-- > 0)
		got += module_ref_try_get(ref);
	return got;
}

static void puts_of(struct module_ref *ref, int n)
{
	while (n-- > 0)
		module_ref_put(ref);
}

/* In one word each is reported; per CPU nobody looks until the counter is folded. */
static void are_reported(enum module_ref_misuse what, int n, const char *row)
{
	if (!per_cpu)
		is(reports_since(what), n, "%s reported, %d times", row, n);
}

/* From right below the zone: so many puts and gets are in order, the n gets that follow are not,
 * but for the first of them. */
static void overflows(int good, int n, const char *row)
{
	struct module_ref *ref = at(ZONE - 1);

	puts_of(ref, good);
	gets(ref, good);
	is(reports_since(MODULE_REF_OVERFLOW), 0, "%s good below the zone", row);
	gets(ref, n);
	are_reported(MODULE_REF_OVERFLOW, n - 1, row);
	is_never_released(ref, row);
}

static void inc_overflow(void)
{
	overflows(1, 2, "INC_OVERFLOW");
}

static void add_overflow(void)
{
	overflows(4, 4, "ADD_OVERFLOW");
}

/* A row whose counter is in the zone from the beginning, or pinned in the middle of it. */
#define IN_ZONE(function, row, from, n)                                                    \
	static void function(void)                                                         \
	{                                                                                  \
		struct module_ref *ref = at(from);                                         \
                                                                                           \
		is(try_gets(ref, n), n, row " succeeds");                                  \
		are_reported(MODULE_REF_OVERFLOW, n, row);                                 \
		is_never_released(ref, row);                                               \
	}

IN_ZONE(inc_not_zero_overflow, "INC_NOT_ZERO_OVERFLOW", ZONE, 1)
IN_ZONE(add_not_zero_overflow, "ADD_NOT_ZERO_OVERFLOW", ZONE, 6)
IN_ZONE(inc_not_zero_saturated, "INC_NOT_ZERO_SATURATED", PIN, 1)
IN_ZONE(add_not_zero_saturated, "ADD_NOT_ZERO_SATURATED", PIN, 7)

/* A row of a pinned counter, where each of n calls does not say whether it did anything. */
#define SATURATED_ROW(function, row, calls, n, what, asks)                                 \
	static void function(void)                                                         \
	{                                                                                  \
		struct module_ref *ref = at(PIN);                                          \
                                                                                           \
		calls(ref, n);                                                             \
		if (asks)                                                                  \
			is(module_ref_try_release(ref), -EWOULDBLOCK, row " says no");     \
		are_reported(what, n, row);                                                \
		is_never_released(ref, row);                                               \
	}

SATURATED_ROW(inc_saturated, "INC_SATURATED", gets, 1, MODULE_REF_OVERFLOW, false)
SATURATED_ROW(add_saturated, "ADD_SATURATED", gets, 8, MODULE_REF_OVERFLOW, false)
SATURATED_ROW(dec_saturated, "DEC_SATURATED", puts_of, 1, MODULE_REF_LEAKED, false)
SATURATED_ROW(dec_and_test_saturated, "DEC_AND_TEST_SATURATED", puts_of, 1, MODULE_REF_LEAKED, true)
SATURATED_ROW(sub_and_test_saturated, "SUB_AND_TEST_SATURATED", puts_of, 8, MODULE_REF_LEAKED, true)

static void dec_zero(void)
{
	struct module_ref *ref = at(2);

	puts_of(ref, 2);
	is(module_ref_count(ref), 0, "DEC_ZERO the last put");
	is(module_ref_try_release(ref), 0, "DEC_ZERO is what a release waits for");
	is(reports_since(MODULE_REF_SURPLUS_PUT), 0, "DEC_ZERO and no misuse");
}

static void dec_negative(void)
{
	struct module_ref *ref = at(0);

	puts_of(ref, 1);
	surplus_is_mended(ref, 1, "DEC_NEGATIVE");
}

/* A put does not say whether it was the last: the question is asked by a release. */
static void dec_and_test_negative(void)
{
	struct module_ref *ref = at(0), *gone = at(-1);

	puts_of(ref, 1);
	is(module_ref_drain(ref, 0), 0, "DEC_AND_TEST_NEGATIVE a drain mends, and succeeds");
	is(reports_since(MODULE_REF_SURPLUS_PUT), 1, "DEC_AND_TEST_NEGATIVE and it is reported");
	puts_of(gone, 1);
	is(reports_since(MODULE_REF_SURPLUS_PUT), 1, "DEC_AND_TEST_NEGATIVE after a release, too");
	is(module_ref_count(gone), -1, "DEC_AND_TEST_NEGATIVE which stays one");
	is(module_ref_try_release(gone), -EALREADY, "DEC_AND_TEST_NEGATIVE the only one");
	is(module_ref_reinit(gone), 0, "DEC_AND_TEST_NEGATIVE its winner goes on");
	is(module_ref_count(gone), 0, "DEC_AND_TEST_NEGATIVE from zero");
}

static void sub_and_test_negative(void)
{
	struct module_ref *ref = at(3), *many = at(0);

	puts_of(ref, 5);
	surplus_is_mended(ref, 2, "SUB_AND_TEST_NEGATIVE");
	reports_since(MODULE_REF_SURPLUS_PUT);
	puts_of(many, 1000);
	surplus_is_mended(many, 1000, "SUB_AND_TEST_NEGATIVE a thousand:");
}

static void from_zero(int n, const char *row)
{
	struct module_ref *ref = at(-1);

	is(try_gets(ref, n), 0, "%s not if it is zero: refused", row);
	is(module_ref_count(ref), -1, "%s and it stays released", row);
	gets(ref, n);
	is(reports_since(MODULE_REF_STALE_GET), n, "%s a get is reported", row);
	is(module_ref_count(ref), -1, "%s and does not bring it back", row);
	ok(!module_ref_try_get(ref), "%s the counter is closed", row);
	is(module_ref_reinit(ref), 0, "%s its winner can open it", row);
	is(module_ref_count(ref), 0, "%s and nothing is left", row);
}

static void inc_zero(void)
{
	from_zero(1, "INC_ZERO");
}

static void add_zero(void)
{
	from_zero(3, "ADD_ZERO");
}

static void refcount_timing(void)
{
	enum { MANY = 1000000 };
	struct module_ref *ref = at(0);

	is(try_gets(ref, MANY), MANY, "REFCOUNT_TIMING a long count up");
	is(module_ref_count(ref), MANY, "REFCOUNT_TIMING is exact");
	puts_of(ref, MANY);
	is(module_ref_count(ref), 0, "REFCOUNT_TIMING and down");
	is(module_ref_try_release(ref), 0, "REFCOUNT_TIMING and out");
}

#define PINNED "pinned, reported, never released"
#define COUNTED "counted; never released, and a drain reports it"
#define N_GETS "no add of n: n gets; " PINNED
#define SATURATED "still saturated"
#define MENDED "undone and reported"
#define MENDED_LATER "the next attempt or drain mends and reports the net"

static const struct row rows[] = {
	{ "INC_OVERFLOW", "saturates", PINNED, COUNTED, inc_overflow },
	{ "ADD_OVERFLOW", "saturates", N_GETS, COUNTED, add_overflow },
	{ "INC_NOT_ZERO_OVERFLOW", "true; saturates", "true; " PINNED, COUNTED,
	  inc_not_zero_overflow },
	{ "ADD_NOT_ZERO_OVERFLOW", "true; saturates", "true; " N_GETS, COUNTED,
	  add_not_zero_overflow },
	{ "DEC_ZERO", "warns and saturates: only dec_and_test may reach 0",
	  "right: the last put; a release finds it", NULL, dec_zero },
	{ "DEC_NEGATIVE", "saturates", MENDED, MENDED_LATER, dec_negative },
	{ "DEC_AND_TEST_NEGATIVE", "false; saturates",
	  MENDED "; a put does not say whether it was the last", MENDED_LATER,
	  dec_and_test_negative },
	{ "SUB_AND_TEST_NEGATIVE", "false; saturates", "no sub of n: n puts; " MENDED,
	  MENDED_LATER, sub_and_test_negative },
	{ "INC_ZERO", "not_zero: false; inc: saturates",
	  "try_get: false; get: undone and reported", NULL, inc_zero },
	{ "ADD_ZERO", "not_zero: false; add: saturates",
	  "no add of n: n gets, undone and reported", NULL, add_zero },
	{ "INC_SATURATED", SATURATED, PINNED, COUNTED, inc_saturated },
	{ "DEC_SATURATED", SATURATED, PINNED, COUNTED, dec_saturated },
	{ "ADD_SATURATED", SATURATED, N_GETS, COUNTED, add_saturated },
	{ "INC_NOT_ZERO_SATURATED", "true; " SATURATED, "true; " PINNED, COUNTED,
	  inc_not_zero_saturated },
	{ "ADD_NOT_ZERO_SATURATED", "true; " SATURATED, "true; " N_GETS, COUNTED,
	  add_not_zero_saturated },
	{ "DEC_AND_TEST_SATURATED", "false; " SATURATED, PINNED, COUNTED, dec_and_test_saturated },
	{ "SUB_AND_TEST_SATURATED", "false; " SATURATED, "no sub of n: n puts; " PINNED, COUNTED,
	  sub_and_test_saturated },
	{ "REFCOUNT_TIMING", "INT_MAX up and down, to be timed",
	  "a million up and down, exact; `make bench` times", NULL, refcount_timing },
	{ "ATOMIC_TIMING", "the same with a bare atomic_t",
	  "times no reference counter; `make bench` has a bare counter", NULL, NULL },
};

int main(void)
{
	return RUN_ROWS("Linux's misuses of a refcount_t (LKDTM), and here", rows);
}
