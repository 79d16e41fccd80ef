/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * tap.h - the little of the Test Anything Protocol that the C tests need.
 */
#ifndef TAP_H
#define TAP_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static int tap_tests, tap_failed;

static inline int tap_ok(int passed, const char *file, int line, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

static inline int tap_ok(int passed, const char *file, int line, const char *format, ...)
{
	va_list args;

	printf("%sok %d - ", passed ? "" : "not ", ++tap_tests);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	if (!passed) {
		tap_failed++;
		printf("#   at %s:%d\n", file, line);
	}
	fflush(stdout);
	return passed;
}

/* One test; the text names it. */
#define ok(condition, ...) tap_ok(!!(condition), __FILE__, __LINE__, __VA_ARGS__)

/* One test of two integers, which are shown if they differ. */
#define is(found, expected, ...)                                                           \
	do {                                                                               \
		long long tap_found = (found), tap_expected = (expected);                  \
		if (!ok(tap_found == tap_expected, __VA_ARGS__))                           \
			printf("#   found %lld, expected %lld\n", tap_found, tap_expected); \
	} while (0)

/* What the set-up of a test cannot do without. */
#define need(condition)                                                                    \
	do {                                                                               \
		if (!(condition)) {                                                        \
			printf("Bail out! %s:%d: %s\n", __FILE__, __LINE__, #condition);   \
			exit(2);                                                           \
		}                                                                          \
	} while (0)

/* The plan, and the exit status of the program. */
static inline int tap_done(void)
{
	printf("1..%d\n", tap_tests);
	if (tap_failed)
		printf("# %d of %d failed\n", tap_failed, tap_tests);
	return tap_failed ? 1 : 0;
}

#endif
