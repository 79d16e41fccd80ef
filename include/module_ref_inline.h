/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * module_ref_inline.h - get and put of a per-CPU counter without a call.
 *
 * Include this header instead of module_ref.h. It adds
 *
 *     bool module_ref_try_get_inline(struct module_ref *ref);
 *     void module_ref_put_inline(struct module_ref *ref);
 *
 * which mean exactly what module_ref_try_get() and module_ref_put() mean, for every
 * counter, and are compiled into the program. With MODULE_REF_INLINE defined before the
 * header is included, the plain names mean these.
 *
 * For a counter in per-CPU mode, on Linux on x86-64, they are one plain add in a
 * restartable sequence. In every other case, and whenever the kernel aborts the sequence,
 * they call the library. They may be used in plugins that are unloaded later: nothing
 * refers to their code once they have returned.
 *
 * The layout of struct module_ref and the sequence in this header are part of the
 * ABI: programs that were compiled with it and the library count on the same counters.
 *
 * For C99, C++11 and later, by gcc and clang.
 */
#ifndef MODULE_REF_INLINE_H
#define MODULE_REF_INLINE_H

#include <stddef.h>

#include "module_ref.h"

#if defined(__x86_64__) && defined(__linux__) && !defined(__ILP32__)

#ifdef __cplusplus
extern "C" {
#endif

/* Where the C library has registered each thread's struct rseq, relative to the thread
 * pointer. Weak: before glibc 2.35 it is not there, and no counter is in per-CPU mode. */
extern const ptrdiff_t __rseq_offset __attribute__((weak));

#ifdef __cplusplus
}
#endif

/* Adds to the slot of the CPU that this runs on; false if it did not. */
static inline bool module_ref_add_private(struct module_ref *ref, long delta)
{
	/* Before glibc 2.35; a compiler that sees both a get and a put asks once. */
	if (!&__rseq_offset)
		return false;
	__asm__ __volatile__ goto(
		/* The descriptor: version and flags, start, length, abort. The flag ? lets it
		 * go along with the group of an inline function of C++. */
		".pushsection __rseq_cs, \"aw?\"\n\t"
		".balign 32\n"
		"77:\n\t"
		".long 0, 0\n\t"
		".quad 2f, 3f - 2f, 4f\n\t"
		".popsection\n\t"
		/* Where debuggers look for descriptors. */
		".pushsection __rseq_cs_ptr_array, \"aw?\"\n\t"
		".quad 77b\n\t"
		".popsection\n\t"
		/* Announce the sequence; it begins with the next instruction. */
		"leaq 77b(%%rip), %%rax\n\t"
		"movq %%rax, %%fs:8(%[rseq])\n"
		"2:\n\t"
		"movl %%fs:4(%[rseq]), %%eax\n\t"
		/* The look that decides: counting per CPU is on. */
		"movq %[slots], %%rcx\n\t"
		"testb $1, %%cl\n\t"
		"jz 5f\n\t"
		/* The rows that are used: their number stands 8 bytes before the first one, which
		 * begins at a multiple of 64 KiB. A thread that is not registered has a
		 * negative CPU, which is beyond them, too. */
		"movq %%rcx, %%rdx\n\t"
		"andq $-65536, %%rdx\n\t"
		"cmpl -8(%%rdx), %%eax\n\t"
		"jae 5f\n\t"
		/* One plain add, which ends the sequence. 64 KiB from CPU to CPU; 1 takes the
		 * tag off the pointer. */
		"shlq $16, %%rax\n\t"
		"addq %[delta], -1(%%rcx,%%rax)\n"
		"3:\n\t"
		/* Whatever way out: the kernel must not find the descriptor when this code has
		 * been unmapped. */
		"movq $0, %%fs:8(%[rseq])\n\t"
		/* Where the kernel sends an aborted sequence, after the C library's signature. */
		".pushsection __rseq_failure, \"ax?\"\n\t"
		".byte 0x0f, 0xb9, 0x3d\n\t"
		".long 0x53053053\n"
		"4:\n"
		"5:\n\t"
		"movq $0, %%fs:8(%[rseq])\n\t"
		"jmp %l[failed]\n\t"
		".popsection"
		: /* asm goto has no outputs */
		: [rseq] "r"(__rseq_offset), [slots] "m"(ref->slots), [delta] "er"(delta)
		: "rax", "rcx", "rdx", "cc", "memory"
		: failed);
	return true;
failed:
	return false;
}

#else

static inline bool module_ref_add_private(struct module_ref *ref, long delta)
{
	(void)ref;
	(void)delta;
	return false;
}

#endif

/**
 * Does as module_ref_try_get().
 *
 * @return as module_ref_try_get().
 *
 * Memory ordering: as module_ref_try_get(). Thread-safe. Async-signal-safe.
 */
static inline bool module_ref_try_get_inline(struct module_ref *ref)
{
	return (ref && module_ref_add_private(ref, 1)) || module_ref_try_get(ref);
}

/**
 * Does as module_ref_put().
 *
 * Memory ordering: as module_ref_put(). Thread-safe. Async-signal-safe; errno is preserved.
 */
static inline void module_ref_put_inline(struct module_ref *ref)
{
	if (!ref || !module_ref_add_private(ref, -1))
		module_ref_put(ref);
}

#ifdef MODULE_REF_INLINE
#define module_ref_try_get(ref) module_ref_try_get_inline(ref)
#define module_ref_put(ref) module_ref_put_inline(ref)
#endif

#endif /* MODULE_REF_INLINE_H */
