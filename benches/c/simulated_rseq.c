/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * simulated_rseq.c - to be preloaded under valgrind, which has no restartable sequences, so
 * that the instructions of a per-CPU get and put can be counted.
 *
 * It says that the C library registered them, and that the main thread runs on CPU 0. The code
 * that runs is the same; what is missing is the kernel, which would abort a sequence that it
 * interrupts. So this is right for one thread only.
 */
#include <stddef.h>
#include <stdint.h>

extern const ptrdiff_t __rseq_offset __attribute__((weak));

/* Stands in front of the C library's, which is 0 now. */
const unsigned __rseq_size = 20;

/* Linked with -z initfirst, to be before the library that looks. */
__attribute__((constructor)) static void on_cpu_0(void)
{
#if defined(__x86_64__) && !defined(__ILP32__)
	if (&__rseq_offset) /* cpu_id follows cpu_id_start */
		__asm__ volatile("movl $0, %%fs:4(%0)" : : "r"(__rseq_offset) : "memory");
#endif
}
