/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * oracle.h - whether counters have to be per CPU here. It does not ask the library, whose answer
 * is what is tested: it looks at the processor, the C library, the kernel and the list of CPUs.
 */
#ifndef ORACLE_H
#define ORACLE_H

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__) && defined(__linux__) && !defined(__ILP32__)

/* glibc's, from 2.35 on; 0 if restartable sequences are switched off or refused. */
extern const unsigned int __rseq_size __attribute__((weak));

/* Whether every CPU that this process may run on is in the kernel's list of possible ones, which
 * can be read and is one: 0-3,8. */
static inline bool oracle_cpus_are_listed(void)
{
	enum { MOST = 8192 };
	static bool listed[MOST];
	static unsigned long may[MOST / (8 * sizeof(long))];
	FILE *list = fopen("/sys/devices/system/cpu/possible", "re");
	unsigned from, to;
	long bytes;
	int next = ',';

	while (list && next == ',' && fscanf(list, "%u", &from) == 1) {
		to = from;
		next = fgetc(list);
		if (next == '-')
			next = fscanf(list, "%u", &to) == 1 ? fgetc(list) : 0;
		for (; from <= to && to < MOST; from++)
			listed[from] = true;
	}
	if (list)
		fclose(list);
	bytes = syscall(SYS_sched_getaffinity, 0, sizeof(may), may);
	for (size_t cpu = 0; bytes > 0 && cpu < 8 * (size_t)bytes; cpu++)
		if (may[cpu / (8 * sizeof(long))] >> cpu % (8 * sizeof(long)) & 1 && !listed[cpu])
			return false;
	return bytes > 0;
}

/* NULL if counters have to be per CPU, or why they cannot be. */
static inline const char *why_not_per_cpu(void)
{
	enum { QUERY = 0, PRIVATE_EXPEDITED_RSEQ = 1 << 7, REGISTER = 1 << 8 };
	long commands = syscall(SYS_membarrier, QUERY, 0, 0);

	if (!&__rseq_size || __rseq_size == 0)
		return "the C library has no restartable sequences";
	if (commands < 0 || !(commands & PRIVATE_EXPEDITED_RSEQ) || !(commands & REGISTER))
		return "the kernel has no membarrier for restartable sequences";
	if (!oracle_cpus_are_listed())
		return "the list of possible CPUs cannot be relied on";
	return NULL;
}

#else

static inline const char *why_not_per_cpu(void)
{
	return "this library counts per CPU on Linux on x86-64 alone";
}

#endif

static inline bool has_per_cpu(void)
{
	return why_not_per_cpu() == NULL;
}

#endif
