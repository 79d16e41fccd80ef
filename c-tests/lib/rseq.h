/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * rseq.h - a thread that gives up the restartable sequence that glibc registered for it.
 */
#ifndef RSEQ_H
#define RSEQ_H

#include <features.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

#if __GLIBC_PREREQ(2, 35)
#include <sys/rseq.h>

/* Undone as it was done: by the address, the length and the signature. */
static inline bool rseq_unregister(void)
{
	return syscall(SYS_rseq, (char *)__builtin_thread_pointer() + __rseq_offset, 32, 1,
		       RSEQ_SIG) == 0;
}
#else
static inline bool rseq_unregister(void)
{
	return false;
}
#endif

#endif
