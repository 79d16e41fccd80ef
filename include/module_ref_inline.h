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
 * For a counter in per-CPU mode, on Linux on x86-64 and aarch64, they are one plain add in a
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
#include <stdint.h>

#include "module_ref.h"

#if defined(__linux__) && !defined(__ILP32__) && \
	(defined(__x86_64__) || (defined(__aarch64__) && defined(__AARCH64EL__)))

#ifdef __cplusplus
extern "C" {
#endif

/* Where the library found each thread's struct rseq, relative to the thread pointer (the lower
 * half), and which of its fields is the number of the thread's row (the upper half). 0 until the
 * library has been loaded, and where no counter is in per-CPU mode. */
extern const int64_t module_ref_area;

#ifdef __cplusplus
}
#endif

#ifdef __cplusplus
#define MODULE_REF_CAST(type, value) static_cast<type>(value)
#else
#define MODULE_REF_CAST(type, value) ((type)(value))
#endif

/* The descriptor: version and flags, start, length, abort; and where debuggers look for descriptors. The
 * flag ? lets it go along with the group of an inline function of C++. */
#define MODULE_REF_DESCRIPTOR                              \
	".pushsection __rseq_cs, \"aw?\"\n\t"             \
	".balign 32\n"                                     \
	"77:\n\t"                                          \
	".long 0, 0\n\t"                                   \
	".quad 2f, 3f - 2f, 4f\n\t"                        \
	".popsection\n\t"                                  \
	".pushsection __rseq_cs_ptr_array, \"aw?\"\n\t"   \
	".quad 77b\n\t"                                    \
	".popsection\n\t"

#if defined(__x86_64__)

/* Each instruction stands in both dialects: {AT&T's|that of -masm=intel}.
 *
 * The kernel follows the pointer to the descriptor at the next preemption, and code that can be
 * unmapped must not leave it. A program's own code stays: there the kernel finds the thread outside
 * of the sequence, and drops the pointer. An offset from the thread pointer, which the linker knows in
 * a program alone, has it refuse a shared object of code that was compiled for a program. */
#if defined(__PIC__) && !defined(__PIE__)
#define MODULE_REF_CLEAR "{movq $0, %%fs:8(%[rseq])|mov qword ptr fs:[%[rseq] + 8], 0}\n\t"
#define MODULE_REF_PROGRAM ""
#else
#define MODULE_REF_CLEAR ""
#define MODULE_REF_PROGRAM                                                                 \
	".ifndef module_ref_compile_with_fPIC\n\t"                                         \
	".pushsection .tbss.module_ref,\"awTG\",@nobits,module_ref_compile_with_fPIC,comdat\n\t" \
	".weak module_ref_compile_with_fPIC\n\t"                                           \
	".hidden module_ref_compile_with_fPIC\n\t"                                         \
	".type module_ref_compile_with_fPIC, @tls_object\n"                                \
	"module_ref_compile_with_fPIC:\n\t"                                                \
	".space 4\n\t"                                                                     \
	".popsection\n\t"                                                                  \
	".endif\n\t"                                                                       \
	".long module_ref_compile_with_fPIC@tpoff\n\t"
#endif

/* Adds to this thread's row; false if it did not. */
static inline bool module_ref_add_private(struct module_ref *ref, long delta)
{
	int64_t area = module_ref_area;
	ptrdiff_t rseq = MODULE_REF_CAST(int32_t, area), row = area >> 32;

	/* A compiler that sees both a get and a put asks once. */
	if (!area)
		return false;
	__asm__ __volatile__ goto(
		MODULE_REF_DESCRIPTOR
		/* Announce the sequence; it begins with the next instruction. */
		"{leaq 77b(%%rip), %%rax|lea rax, [rip + 77b]}\n\t"
		"{movq %%rax, %%fs:8(%[rseq])|mov qword ptr fs:[%[rseq] + 8], rax}\n"
		"2:\n\t"
		/* The row; beyond all rows if the thread is not registered: then cpu_id, at 4, is
		 * negative, and its upper half is all ones. */
		"{movl %%fs:(%[row]), %%eax|mov eax, dword ptr fs:[%[row]]}\n\t"
		"{orw %%fs:6(%[rseq]), %%ax|or ax, word ptr fs:[%[rseq] + 6]}\n\t"
		/* The look that decides: the rows that are in use, 0 if counting per CPU is off,
		 * in 16 bits, and above them the address of the first one. */
		"{movq %[slots], %%rcx|mov rcx, %[slots]}\n\t"
		"{cmpw %%cx, %%ax|cmp ax, cx}\n\t"
		"jae 5f\n\t"
		/* One plain add, which ends the sequence. 64 KiB from row to row. */
		"{shrq $16, %%rcx|shr rcx, 16}\n\t"
		"{shlq $16, %%rax|shl rax, 16}\n\t"
		"{addq %[delta], (%%rcx,%%rax)|add qword ptr [rcx + rax], %[delta]}\n"
		"3:\n\t"
		MODULE_REF_CLEAR
		/* Where the kernel sends an aborted sequence, after the C library's signature. */
		".pushsection __rseq_failure, \"ax?\"\n\t"
		".byte 0x0f, 0xb9, 0x3d\n\t"
		".long 0x53053053\n"
		"4:\n"
		"5:\n\t"
		MODULE_REF_CLEAR
		"jmp %l[failed]\n\t"
		MODULE_REF_PROGRAM
		".popsection"
		: /* asm goto has no outputs */
		: [rseq] "r"(rseq), [row] "r"(row),
		  [slots] "m"(ref->slots), [delta] "er"(delta)
		: "rax", "rcx", "cc", "memory"
		: failed);
	return true;
failed:
	return false;
}

#undef MODULE_REF_CLEAR
#undef MODULE_REF_PROGRAM

#else

/* Adds to this thread's row; false if it did not. */
static inline bool module_ref_add_private(struct module_ref *ref, long delta)
{
	int64_t area = module_ref_area;
	char *thread = MODULE_REF_CAST(char *, __builtin_thread_pointer());

	if (!area)
		return false;
	__asm__ __volatile__ goto(
		MODULE_REF_DESCRIPTOR
		/* Announce the sequence; it begins with the next instruction. */
		"adrp x16, 77b\n\t"
		"add x16, x16, :lo12:77b\n\t"
		"str x16, [%[rseq], #8]\n"
		"2:\n\t"
		/* The row; beyond all rows if the thread is not registered: then cpu_id, at 4, is
		 * negative, and its upper half is all ones. */
		"ldr w16, [%[row]]\n\t"
		"ldrh w17, [%[rseq], #6]\n\t"
		"orr w16, w16, w17\n\t"
		/* The look that decides: the rows that are in use, 0 if counting per CPU is off,
		 * in 16 bits, and above them the address of the first one. */
		"ldar x17, [%[slots]]\n\t"
		"cmp w16, w17, uxth\n\t"
		"b.hs 5f\n\t"
		/* A plain add, whose store ends the sequence. 64 KiB from row to row. */
		"lsr x17, x17, #16\n\t"
		"add x17, x17, x16, lsl #16\n\t"
		"ldr x16, [x17]\n\t"
		"add x16, x16, %[delta]\n\t"
		"str x16, [x17]\n"
		"3:\n\t"
		/* For the kernel follows the pointer at the next preemption, and this code may be
		 * unmapped by then. */
		"str xzr, [%[rseq], #8]\n\t"
		"b 6f\n\t"
		/* Where the kernel sends an aborted sequence, after the C library's signature. It
		 * stands here because a conditional branch does not reach every other section. */
		".inst 0xd428bc00\n"
		"4:\n"
		"5:\n\t"
		"str xzr, [%[rseq], #8]\n\t"
		"b %l[failed]\n"
		"6:"
		: /* asm goto has no outputs */
		: [rseq] "r"(thread + MODULE_REF_CAST(int32_t, area)), [row] "r"(thread + (area >> 32)),
		  [slots] "r"(&ref->slots), [delta] "rIJ"(delta)
		: "x16", "x17", "cc", "memory"
		: failed);
	return true;
failed:
	return false;
}

#endif

#undef MODULE_REF_DESCRIPTOR
#undef MODULE_REF_CAST

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
