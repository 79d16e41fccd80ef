/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * sequence.c - the restartable sequence against the barrier that aborts it.
 *
 *     left, a user                          right, a releaser
 *     sequence: if the tag is on,           tag = 0
 *               (linger a little,)          barrier
 *               add to this CPU's slot      sum up the slots
 *
 * Outcome 0: the user added after the releaser had summed up. As shipped, with the look
 * inside and membarrier(PRIVATE_EXPEDITED_RSEQ): never. Each of these has to show it: no
 * barrier; a barrier that orders but does not abort; the look outside of the sequence.
 */
#define _GNU_SOURCE
#include "litmus.h"

#if defined(__x86_64__) && defined(__GLIBC__) && __GLIBC_PREREQ(2, 35)
#include <sys/rseq.h>

#define CPUS	4096

static OWN_LINE struct {
	_Atomic long count;
} __attribute__((aligned(128))) slots[CPUS];
static long cpus;
static OWN_LINE _Atomic long tag;
static OWN_LINE enum { ADDED, ABORTED, OFF } left;
static OWN_LINE long summed;

static long sum(void)
{
	long total = 0;

	for (long cpu = 0; cpu < cpus; cpu++)
		total += atomic_load_explicit(&slots[cpu].count, memory_order_relaxed);
	return total;
}

/* The sequence of core/src/percpu/linux/rseq.rs without its look at the number of rows, and some
 * turns of a loop between look and add. `look` is the tag, or something that is always on. */
static void sequence(_Atomic long *look)
{
	__asm__ volatile goto(
		".pushsection __rseq_cs, \"aw?\"\n\t"
		".balign 32\n"
		"77:\t.long 0, 0\n\t"
		".quad 2f, 3f - 2f, 4f\n\t"
		".popsection\n\t"
		"leaq 77b(%%rip), %%rax\n\t"
		"movq %%rax, %%fs:8(%[rseq])\n"
		"2:\n\t"
		"movl %%fs:4(%[rseq]), %%eax\n\t"
		"testl %%eax, %%eax\n\t"
		"js 5f\n\t"
		"testb $1, %[look]\n\t"
		"jz 6f\n\t"
		"movl $30000, %%ecx\n"
		"7:\tdecl %%ecx\n\t"
		"jnz 7b\n\t"
		"shlq $7, %%rax\n\t"
		"addq $1, (%[slots], %%rax)\n"
		"3:\n\t"
		"movq $0, %%fs:8(%[rseq])\n\t"
		".pushsection __rseq_failure, \"ax?\"\n\t"
		".byte 0x0f, 0xb9, 0x3d\n\t"
		".long 0x53053053\n"
		"4:\n"
		"5:\n\t"
		"movq $0, %%fs:8(%[rseq])\n\t"
		"jmp %l[aborted]\n"
		"6:\n\t"
		"movq $0, %%fs:8(%[rseq])\n\t"
		"jmp %l[off]\n\t"
		".popsection\n\t"
		:
		: [rseq] "r"(__rseq_offset), [look] "m"(*look), [slots] "r"(slots)
		: "rax", "rcx", "memory", "cc"
		: aborted, off);
	left = ADDED;
	return;
aborted:
	left = ABORTED;
	return;
off:
	left = OFF;
}

static void reset(void)
{
	atomic_store(&tag, 1);
}

static void user(void)
{
	sequence(&tag);
}

static void user_looks_outside(void)
{
	static _Atomic long always_on = 1;

	left = OFF;
	if (atomic_load_explicit(&tag, memory_order_relaxed)) {
		for (int i = 0; i < 100; i++)
			litmus_linger();
		sequence(&always_on);
	}
}

static void releaser(void)
{
	atomic_fetch_and_explicit(&tag, 0, memory_order_relaxed);
	need(membarrier(BARRIER_RSEQ) == 0);
	summed = sum();
}

static void releaser_does_not_abort(void)
{
	atomic_fetch_and_explicit(&tag, 0, memory_order_relaxed);
	need(membarrier(BARRIER) == 0);
	summed = sum();
}

static void releaser_without(void)
{
	atomic_fetch_and_explicit(&tag, 0, memory_order_relaxed);
	summed = sum();
}

static int outcome(void)
{
	return sum() != summed ? 0 : left == ADDED ? 1 : left == ABORTED ? 2 : 3;
}

static const struct shape shapes[] = {
	{ "sequence: the barrier that aborts", reset, user, releaser, outcome, NEVER },
	{ "sequence: no barrier", reset, user, releaser_without, outcome, SEEN },
	{ "sequence: a barrier that only orders", reset, user, releaser_does_not_abort, outcome, SEEN },
	{ "sequence: the look outside", reset, user_looks_outside, releaser, outcome, SEEN },
};

static const char *const names[OUTCOMES] = {
	"added after the sum", "added before the sum", "aborted", "found the tag off",
};

int main(void)
{
	if (!__rseq_size || membarrier(BARRIER_REGISTER) || membarrier(BARRIER_RSEQ_REGISTER)) {
		printf("1..0 # SKIP there are no restartable sequences\n");
		return 0;
	}
	cpus = sysconf(_SC_NPROCESSORS_CONF);
	need(cpus > 0 && cpus <= CPUS);
	/* A barrier takes microseconds to arrive. */
	litmus_window = 100000;
	return litmus(shapes, sizeof(shapes) / sizeof(*shapes), names);
}
#else
int main(void)
{
	printf("1..0 # SKIP the sequence is written for x86-64 and glibc 2.35\n");
	return 0;
}
#endif
