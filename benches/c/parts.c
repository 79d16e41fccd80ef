/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * parts.c - what each part of the inlined sequence costs, beside liburcu's read side. Every variant but
 * the first leaves out what makes it right, so they stand here and nowhere else.
 *
 *     parts [TURNS]
 *
 * Many short turns, of which the quickest counts: on a busy machine, too, some of them are not
 * interrupted.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(__x86_64__) && defined(HAVE_URCU) && __has_include(<sys/rseq.h>)
#define _LGPL_SOURCE
#include <sys/rseq.h>
#include <urcu/urcu-memb.h>

enum { PAIRS = 20000, ROW = 1 << 16 };

static struct {
	uint64_t word, rows_and_address;
} counter;

/* Tells the kernel where to go on if it interrupts this: to 4, which does it again. */
#define DESCRIPTOR "lea 3b(%%rip), %%rax\n\tmov %%rax, %%fs:8(%[area])\n\t"
/* The slot's row, by mm_cid. */
#define ROW_OF_SLOT "mov %%fs:24(%[area]), %%eax\n\t"
/* Of a thread that is not registered the upper half of cpu_id is all ones, and no row. */
#define SIGN "orw %%fs:6(%[area]), %%ax\n\t"
#define ADDRESS "mov 8(%[counter]), %%rcx\n\t"
#define BOUND "cmp %%cx, %%ax\n\tjae 4f\n\t"

#define ADD(n, descriptor, sign, bound)                                                     \
	__asm__ volatile("0:\n\t"                                                           \
			 ".pushsection __rseq_cs, \"aw\"\n\t"                               \
			 ".balign 32\n\t"                                                   \
			 "3: .long 0, 0\n\t"                                                \
			 ".quad 1f, 2f - 1f, 4f\n\t"                                        \
			 ".popsection\n\t" descriptor                                       \
			 "1:\n\t" ROW_OF_SLOT sign ADDRESS bound                            \
			 "shr $16, %%rcx\n\t"                                               \
			 "shl $16, %%rax\n\t"                                               \
			 "addq %[by], (%%rcx, %%rax)\n\t"                                   \
			 "2:\n\t"                                                           \
			 ".pushsection .text.unlikely, \"ax\"\n\t"                          \
			 ".byte 0x0f, 0xb9, 0x3d\n\t"                                       \
			 ".long 0x53053053\n\t"                                             \
			 "4: jmp 0b\n\t"                                                    \
			 ".popsection"                                                      \
			 :                                                                  \
			 : [area] "r"(__rseq_offset), [counter] "r"(&counter), [by] "i"(n)  \
			 : "rax", "rcx", "memory", "cc")

#define VARIANT(name, ...)                                                                  \
	static void name(void)                                                              \
	{                                                                                   \
		for (int i = 0; i < PAIRS; i++) {                                           \
			ADD(1, __VA_ARGS__);                                                \
			ADD(-1, __VA_ARGS__);                                               \
		}                                                                           \
	}

VARIANT(whole, DESCRIPTOR, SIGN, BOUND)
VARIANT(without_sign, DESCRIPTOR, "", BOUND)
VARIANT(without_bound, DESCRIPTOR, SIGN, "")
VARIANT(without_descriptor, "", SIGN, BOUND)
VARIANT(without_all, "", "", "")

static void liburcu(void)
{
	for (int i = 0; i < PAIRS; i++) {
		urcu_memb_read_lock();
		__asm__ volatile("" ::: "memory");
		urcu_memb_read_unlock();
	}
}

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

int main(int argc, char **argv)
{
	int turns = argc > 1 ? atoi(argv[1]) : 3000;
	static struct {
		const char *what;
		void (*run)(void);
		double best;
	} variants[] = {
		{ "liburcu (memb), read side", liburcu, 1e9 },
		{ "the sequence", whole, 1e9 },
		{ "without the look whether the thread is registered", without_sign, 1e9 },
		{ "without the bound of rows", without_bound, 1e9 },
		{ "without the descriptor for the kernel", without_descriptor, 1e9 },
		{ "without all three", without_all, 1e9 },
	};
	enum { VARIANTS = sizeof(variants) / sizeof(variants[0]) };
	void *rows;

	if (__rseq_size == 0 || posix_memalign(&rows, ROW, 64 * ROW) != 0) {
		puts("parts: skipped: the C library has not registered restartable sequences");
		return 0;
	}
	counter.rows_and_address = (uint64_t)(uintptr_t)rows << 16 | 64;
	urcu_memb_register_thread();
	for (int turn = 0; turn < turns; turn++)
		for (int i = 0; i < VARIANTS; i++) {
			double began = now_ns(), took;

			variants[i].run();
			took = (now_ns() - began) / PAIRS;
			if (took < variants[i].best)
				variants[i].best = took;
		}
	urcu_memb_unregister_thread();
	puts("ns per pair  to liburcu");
	for (int i = 0; i < VARIANTS; i++)
		printf("%11.2f  %10.2f  %s\n", variants[i].best, variants[i].best / variants[0].best,
		       variants[i].what);
	return 0;
}
#else
int main(void)
{
	puts("parts: skipped: it takes an x86-64, liburcu (apt-get install liburcu-dev) and glibc 2.35");
	return 0;
}
#endif
