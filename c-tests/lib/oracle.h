/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * oracle.h - whether counters have to be per CPU here. It does not ask the library, whose answer
 * is what is tested: it looks at the processor and asks the kernel.
 */
#ifndef ORACLE_H
#define ORACLE_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

#if (defined(__x86_64__) || defined(__aarch64__)) && defined(__linux__) && !defined(__ILP32__)

/* NULL if counters have to be per CPU, or why they cannot be. */
static inline const char *why_not_per_cpu(void)
{
	enum { QUERY = 0, PRIVATE_EXPEDITED_RSEQ = 1 << 7, REGISTER = 1 << 8 };
	long commands = syscall(SYS_membarrier, QUERY, 0, 0);

	/* No area is so short: that is what a kernel says that would take a longer one. */
	if (syscall(SYS_rseq, NULL, 0, 0, 0) == 0 || errno != EINVAL)
		return "the kernel has no restartable sequences, or refuses them";
	if (commands < 0 || !(commands & PRIVATE_EXPEDITED_RSEQ) || !(commands & REGISTER))
		return "the kernel has no membarrier for restartable sequences";
	return NULL;
}

#else

static inline const char *why_not_per_cpu(void)
{
	return "this library counts per CPU on Linux on x86-64 and aarch64 alone";
}

#endif

static inline bool has_per_cpu(void)
{
	return why_not_per_cpu() == NULL;
}

#endif
