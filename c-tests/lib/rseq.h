/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * rseq.h - a thread's struct rseq, which the C library has registered or this library has, and a
 * thread that gives its registration up.
 */
#ifndef RSEQ_H
#define RSEQ_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "module_ref_inline.h"

/* What stands before an abort label, as C libraries have it. */
#ifdef __aarch64__
#define RSEQ_SIGNATURE 0xd428bc00
#else
#define RSEQ_SIGNATURE 0x53053053
#endif

/* Where it is if counters are per CPU. */
static inline char *rseq_area(void)
{
	return (char *)__builtin_thread_pointer() + (int32_t)module_ref_area;
}

/* Undone as it was done: by the address, the length and the signature, of which the kernel knows whether
 * they are right. */
static inline bool rseq_unregister(struct module_ref *ref)
{
	/* Where that is for the library to do, the thread is registered when it begins to count. */
	if (module_ref_try_get(ref))
		module_ref_put(ref);
	return syscall(SYS_rseq, rseq_area(), 32, 1, RSEQ_SIGNATURE) == 0;
}

#endif
