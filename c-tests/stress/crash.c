/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * crash.c - a crash is the violation that this program is there to show, so it
 * says what happened before it ends: which thread, where, and in which plugin.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <ucontext.h>
#include <unistd.h>
#ifdef __GLIBC__
#include <execinfo.h>
#endif

#include "stress.h"

static const struct run *_Atomic watched;
static _Thread_local const char *thread_role = "another thread";
static _Thread_local unsigned thread_index;

static const int crashes[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };

/* To standard error in one write; snprintf() of numbers and strings does not
 * allocate in the C libraries that we know. */
static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void say(const char *format, ...)
{
	char line[512];
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (n > 0 && write(STDERR_FILENO, line, (size_t)n < sizeof(line) ? (size_t)n
								     : sizeof(line) - 1) < 0)
		_exit(1);
}

static const char *program_counter(void *context)
{
#if defined(__x86_64__)
	return (const char *)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
#elif defined(__aarch64__)
	return (const char *)((ucontext_t *)context)->uc_mcontext.pc;
#else
	return NULL;
#endif
}

static void where(const struct run *run, const char *what, const char *address)
{
	char whose[256];

	if (module_describe_address(address, whose, sizeof(whose)) > 0)
		say("  %s is %s\n", what, whose);
	for (unsigned i = 0; run && i < run->nslots; i++) {
		const struct slot *slot = &run->slots[i];

		if (address >= slot->plugin.begin && address < slot->plugin.end)
			say("  %s %p is in the code of '%s', generation %llu, which is %s\n", what,
			    (const void *)address, slot->plugin.file,
			    (unsigned long long)atomic_load(&slot->generation),
			    atomic_load(&slot->released) ? "RELEASED" : "live");
	}
}

static void crashed(int number, siginfo_t *info, void *context)
{
	const struct run *run = atomic_load(&watched);
	const char *pc = program_counter(context);
	char row[81];

	say("\nCRASH: %s in %s %u, at address %p, program counter %p\n", strsignal(number),
	    thread_role, thread_index, info->si_addr, (const void *)pc);
	where(run, "the program counter", pc);
	if (info->si_addr != pc)
		where(run, "the address", info->si_addr);
	if (run)
		say("  counting by: %s; seed %llu\n", run->scheme->name,
		    (unsigned long long)run->seed);
#ifdef __GLIBC__
	void *frames[32];

	/* What unwinds would read the code, too. */
	if (info->si_addr != pc)
		backtrace_symbols_fd(frames, backtrace(frames, 32), STDERR_FILENO);
#endif
	if (run && run->bad)
		for (unsigned line = 0; report_bad_line(line, true, row, sizeof(row)); line++)
			say("%s\n", row);
	say("violations: a crash, and %llu others\n", (unsigned long long)violations());
	_exit(1);
}

void crash_report_install(const struct run *run)
{
	struct sigaction action = { .sa_sigaction = crashed, .sa_flags = SA_SIGINFO | SA_ONSTACK };

#ifdef __GLIBC__
	void *frame;

	backtrace(&frame, 1); /* loads what it needs now, not in a crash */
#endif
	atomic_store(&watched, run);
	for (size_t i = 0; i < sizeof(crashes) / sizeof(crashes[0]); i++)
		sigaction(crashes[i], &action, NULL);
}

void crash_report_thread(const char *role, unsigned index)
{
	static _Thread_local char stack[64 * 1024];
	stack_t alternative = { .ss_sp = stack, .ss_size = sizeof(stack) };

	thread_role = role;
	thread_index = index;
	sigaltstack(&alternative, NULL);
}
