/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * violations.c - what went wrong, counted. The run, its layers and its reports call this, and it
 * calls none of them.
 */
#include <stdarg.h>

#include "stress.h"

const char *const violation_text[VIOLATION_KINDS] = {
	[WRONG_ANSWER] = "wrong answers from a plugin that was held",
	[MIXTURE] = "mixtures of two sets of modules",
	[LOST_STATE] = "counts that a replacement did not hand over",
	[CALL_AFTER_RELEASE] = "calls that began after a release had succeeded",
	[TWO_WINNERS] = "releases with two winners",
	[COUNT_LEFT] = "counts that did not come back to zero",
	[IDLE_REFUSED] = "releases refused although nobody held anything",
	[DRAIN_STUCK] = "drains that did not end",
	[UNKNOWN_RESULT] = "results that no table has",
	[UNTOLD] = "misbehaving plugins that were not told, or not unmapped",
};

static _Atomic uint64_t violation_count[VIOLATION_KINDS];
static _Atomic bool is_any;
static char first[256];

void violation(enum violation kind, const char *format, ...)
{
	enum { SHOWN = 5 };
	va_list args;

	if (!atomic_exchange(&is_any, true)) {
		va_start(args, format);
		vsnprintf(first, sizeof(first), format, args);
		va_end(args);
	}
	if (atomic_fetch_add(&violation_count[kind], 1) >= SHOWN)
		return;
	va_start(args, format);
	fputs("\nVIOLATION: ", stderr);
	vfprintf(stderr, format, args);
	fputc('\n', stderr);
	va_end(args);
}

const char *first_violation(void)
{
	return first;
}

uint64_t violations_of(enum violation kind)
{
	return atomic_load(&violation_count[kind]);
}

uint64_t violations(void)
{
	uint64_t sum = 0;

	for (int kind = 0; kind < VIOLATION_KINDS; kind++)
		sum += violations_of((enum violation)kind);
	return sum;
}
