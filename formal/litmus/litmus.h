/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * litmus.h - two threads, one small shape, many rounds, and how often each outcome came.
 *
 * A round sets the shape up, lets both sides go at the same tick of the clock and a short
 * random wait, and sorts what they have seen. Outcome 0 is the one that the shape is about. It
 * is expected never, or it has to be seen: that shows that the harness is able to see it. Where
 * it is never expected, outcomes 1 and 2 have to come: they are the two ways in which the race
 * may go, and without both of them there was none. Rounds to which one side came late, because
 * something else had its CPU, count only for outcome 0.
 */
#ifndef LITMUS_H
#define LITMUS_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "../../c-tests/lib/tap.h"

/* linux/membarrier.h, which not every C library's headers come with. */
#define BARRIER			(1 << 3)	/* PRIVATE_EXPEDITED */
#define BARRIER_REGISTER	(1 << 4)
#define BARRIER_RSEQ		(1 << 7)	/* PRIVATE_EXPEDITED_RSEQ */
#define BARRIER_RSEQ_REGISTER	(1 << 8)

static inline long membarrier(int command)
{
	return syscall(SYS_membarrier, command, 0, 0);
}

/* What the compiler may not move anything across; the processor may. */
#define compiler_barrier()	__asm__ volatile("" ::: "memory")

#if defined(__x86_64__)
#define X86	1
static inline void relax(void)
{
	__builtin_ia32_pause();
}
#else
#define X86	0
static inline void relax(void)
{
}
#endif

/* Each on a line of its own, so that a store has to wait for it. */
#define OWN_LINE	__attribute__((aligned(128)))

enum expected {
	NEVER,		/* the protocol rests on it */
	SEEN,		/* by x86-64, too: otherwise the test could not fail */
	UNSEEN_HERE,	/* allowed by C11; x86-64 does not do it, other processors may */
};

struct shape {
	const char *name;
	void (*reset)(void);
	void (*left)(void);
	void (*right)(void);
	int (*outcome)(void);
	enum expected expected;
};

#define OUTCOMES	4
#define OFTEN		5
#define ROUNDS_FOR	2.0	/* seconds, at least, of what is expected never */
#define PATIENT		5.0	/* then once is enough */
#define TOO_FEW		1000	/* rounds in that time, to say anything */
#define AT_MOST		60.0	/* seconds, of waiting for outcomes that have to come */
#define SOON		2000	/* ticks, until the other side knows when to go */

static OWN_LINE atomic_uint litmus_ready;
static OWN_LINE struct {
	atomic_uint round;
	uint64_t start;
	const struct shape *shape;
} litmus_go;
static OWN_LINE atomic_uint litmus_ended;
static OWN_LINE bool litmus_left_late;
/* How far apart the two sides may go, in ticks. */
static uint64_t litmus_window = 400;

static inline uint64_t litmus_ticks(void)
{
#if X86
	return __builtin_ia32_rdtsc();
#else
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
#endif
}

/* Waits for the start; whether it had passed. */
static inline bool litmus_start(uint64_t *random)
{
	uint64_t start;
	bool late = litmus_ticks() > litmus_go.start;

	*random ^= *random << 13;
	*random ^= *random >> 7;
	*random ^= *random << 17;
	start = litmus_go.start + *random % litmus_window;
	while (litmus_ticks() < start)
		;
	return late;
}

static inline void litmus_until(atomic_uint *word, unsigned int value)
{
	for (unsigned int n = 0; atomic_load_explicit(word, memory_order_acquire) != value; n++) {
		relax();
		if (n % 1024 == 1023)
			sched_yield();
	}
}

/* Widens the gap between two steps, in shapes that are broken. */
static inline void litmus_linger(void)
{
	for (int i = 0; i < 300; i++)
		compiler_barrier();
}

static void *litmus_left(void *arg)
{
	uint64_t random = 2463534242u;

	(void)arg;
	for (unsigned int round = 1;; round++) {
		atomic_store_explicit(&litmus_ready, round, memory_order_release);
		litmus_until(&litmus_go.round, round);
		if (!litmus_go.shape)
			return NULL;
		litmus_left_late = litmus_start(&random);
		litmus_go.shape->left();
		atomic_store_explicit(&litmus_ended, round, memory_order_release);
	}
}

static inline double litmus_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static inline int litmus_cpus(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) ? 1 : CPU_COUNT(&set);
}

/* Whether an outcome comes often enough to say that both sides have really met. */
static inline bool races(unsigned long count, unsigned long rounds)
{
	return count >= OFTEN && count >= rounds / 1000;
}

/* Whether both sides were there in time. */
static bool litmus_round(const struct shape *shape, unsigned int round)
{
	static uint64_t random = 88675123u;
	bool late;

	litmus_until(&litmus_ready, round);
	litmus_go.shape = shape;
	litmus_go.start = litmus_ticks() + SOON;
	atomic_store_explicit(&litmus_go.round, round, memory_order_release);
	if (!shape)
		return false;
	late = litmus_start(&random);
	shape->right();
	litmus_until(&litmus_ended, round);
	return !late && !litmus_left_late;
}

/* Runs the shapes, one test each. */
static int litmus(const struct shape *shapes, size_t n, const char *const names[OUTCOMES])
{
	unsigned int round = 0;
	pthread_t left;

	if (litmus_cpus() < 2) {
		printf("1..0 # SKIP two CPUs are needed\n");
		return 0;
	}
	need(pthread_create(&left, NULL, litmus_left, NULL) == 0);
	for (const struct shape *shape = shapes; shape < shapes + n; shape++) {
		unsigned long counts[OUTCOMES] = { 0 };
		double began = litmus_now(), lasted;
		unsigned long rounds = 0;
		bool in_time, all;
		int seen;

		do {
			shape->reset();
			in_time = litmus_round(shape, ++round);
			rounds += in_time;
			seen = shape->outcome();
			counts[seen] += in_time || !seen;
			lasted = litmus_now() - began;
			all = shape->expected == SEEN ? counts[0] >= (lasted < PATIENT ? OFTEN : 1) || !X86 :
			      lasted > ROUNDS_FOR && races(counts[1], rounds) &&
			      races(counts[2], rounds);
		} while (!all && lasted < AT_MOST);

		for (int i = 0; i < OUTCOMES; i++)
			if (names[i])
				printf("# %10lu %s\n", counts[i], names[i]);
		if (!all && rounds < TOO_FEW && (shape->expected == SEEN || !counts[0]))
			ok(true, "%s # SKIP the two sides hardly met: the CPUs are busy",
			   shape->name);
		else if (shape->expected == SEEN)
			ok(all, "%s: has to be seen", shape->name);
		else if (shape->expected == NEVER)
			ok(all && !counts[0], "%s: never", shape->name);
		else
			ok(all && (!counts[0] || !X86), "%s: not on x86-64", shape->name);
	}
	litmus_round(NULL, ++round);
	pthread_join(left, NULL);
	return tap_done();
}

#endif
