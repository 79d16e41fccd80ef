/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * clock.h - the time, and a sleep.
 */
#ifndef CLOCK_H
#define CLOCK_H

#include <errno.h>
#include <stdint.h>
#include <time.h>

#define SECOND INT64_C(1000000000)
#define MILLISECOND INT64_C(1000000)
#define MICROSECOND INT64_C(1000)

static inline uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)(t.tv_sec * SECOND + t.tv_nsec);
}

/* All of it, whatever signals come; errno is kept. */
static inline void sleep_ns(uint64_t ns)
{
	struct timespec left = { (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) };
	int before = errno;

	while (nanosleep(&left, &left) != 0 && errno == EINTR)
		;
	errno = before;
}

#endif
