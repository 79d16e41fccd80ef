/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * step.h - a statement, instruction by instruction.
 *
 * On x86-64 the thread gets SIGTRAP after each. On others another process traces it and has it stop after each,
 * so that it is preempted there.
 */
#ifndef STEP_H
#define STEP_H

#ifdef __x86_64__
#define STEPS_BY_SIGNAL 1

/* The processor traps after each instruction while this flag is set. */
#define STEPPED(statement)                                                                 \
	do {                                                                               \
		unsigned long long flags = __builtin_ia32_readeflags_u64();                \
		__builtin_ia32_writeeflags_u64(flags | 0x100);                             \
		statement;                                                                 \
		__builtin_ia32_writeeflags_u64(flags);                                     \
	} while (0)

#else
#define STEPS_BY_SIGNAL 0

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tap.h"

struct stepping {
	_Atomic int goes_on; /* 0 until it does, and -1 when it is to end */
	pid_t tracer;
};

static inline void step(struct stepping *stepping, pid_t thread)
{
	int status, passed = 0;

	need(ptrace(PTRACE_SEIZE, thread, NULL, NULL) == 0);
	need(ptrace(PTRACE_INTERRUPT, thread, NULL, NULL) == 0);
	need(waitpid(thread, &status, __WALL) == thread);
	atomic_store(&stepping->goes_on, 1);
	while (atomic_load(&stepping->goes_on) > 0) {
		need(ptrace(PTRACE_SINGLESTEP, thread, NULL, passed) == 0);
		need(waitpid(thread, &status, __WALL) == thread && WIFSTOPPED(status));
		passed = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
	}
	need(ptrace(PTRACE_DETACH, thread, NULL, passed) == 0);
	_exit(0);
}

static inline struct stepping *step_begin(void)
{
	struct stepping *stepping = (struct stepping *)mmap(
		NULL, sizeof(*stepping), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t thread = gettid(), tracer;
	int status;

	/* Yama lets a process trace what is below it alone, unless it is told. Without Yama this fails. */
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	need(stepping != MAP_FAILED && (tracer = fork()) >= 0);
	if (tracer == 0)
		step(stepping, thread);
	stepping->tracer = tracer;
	while (atomic_load(&stepping->goes_on) == 0)
		need(waitpid(tracer, &status, WNOHANG) == 0);
	return stepping;
}

static inline void step_end(struct stepping *stepping)
{
	pid_t ended;
	int status;

	atomic_store(&stepping->goes_on, -1);
	/* Signals come meanwhile. */
	do
		ended = waitpid(stepping->tracer, &status, 0);
	while (ended < 0 && errno == EINTR);
	need(ended == stepping->tracer && status == 0);
	munmap(stepping, sizeof(*stepping));
}

#define STEPPED(statement)                                  \
	do {                                                \
		struct stepping *stepping = step_begin();   \
		statement;                                  \
		step_end(stepping);                         \
	} while (0)
#endif

#endif
