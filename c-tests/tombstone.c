/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * tombstone.c - what is known of an address in a module, also when that is gone, and what a stale call
 * comes to.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host.h"

enum { KEPT = 64 };

typedef int (*callback)(int);

/* A page that somebody else takes right before the host takes a range. */
static size_t taken_at;
static char *taken;
/* Or the system has no room for it. */
static int refused;

void *mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset)
{
	if (taken_at && at && prot == PROT_NONE) {
		size_t page = taken_at;

		taken_at = 0;
		taken = mmap((char *)at + page, 4096, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	}
	if (refused && at && prot == PROT_NONE) {
		errno = ENOMEM;
		return MAP_FAILED;
	}
	return (void *)syscall(SYS_mmap, at, len, prot, flags, fd, offset);
}

/* Whether nobody has this page. */
static int is_free(void *address)
{
	char *page = (char *)((uintptr_t)address & ~(uintptr_t)4095);
	void *at = mmap(page, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
			-1, 0);

	if (at == MAP_FAILED)
		return 0;
	munmap(at, 4096);
	return 1;
}

static const char *describe(const void *address)
{
	static _Thread_local char text[512];

	text[0] = '\0';
	need(module_describe_address(address, text, sizeof(text)) == (int64_t)strlen(text));
	return text;
}

static void has(const char *text, const char *part)
{
	if (!ok(strstr(text, part), "and says '%s'", part))
		printf("#   found: %s\n", text);
}

/* The same, and how long ago that was is behind it, in seconds. */
static void has_age(const char *text, const char *part)
{
	const char *found = strstr(text, part);
	double age = -1;
	int length = 0;

	if (found)
		sscanf(found + strlen(part), "%lf s ago%n", &age, &length);
	if (!ok(length > 0 && age >= 0 && age < 100, "and says '%s', and how long ago", part))
		printf("#   found: %s\n", text);
}

/* Loads the plugin, and gives what it gives out. */
static callback load(struct module_host *host, const char *name, int **table)
{
	struct module *mod;
	callback (*give)(void);
	int *(*give_table)(void);
	callback fired;

	need(module_load(host, plugin("stale.so"), name, NULL) == 0);
	need((mod = module_find_get(host, name)));
	*(void **)&give = module_symbol(mod, "give_callback");
	*(void **)&give_table = module_symbol(mod, "give_table");
	fired = give();
	if (table)
		*table = give_table();
	module_put(mod);
	return fired;
}

static void *address_of(callback fired)
{
	void *address;

	memcpy(&address, &fired, sizeof(address));
	return address;
}

/* An address that a signal handler asks about. */
static void *_Atomic watched;

static callback stale(struct module_host *host, const char *name, int **table)
{
	callback fired = load(host, name, table);

	watched = address_of(fired);
	need(fired(1) == 3);
	need(module_unload(host, name, 0, SECOND) == 0);
	return fired;
}

/* Runs in a child, and gives its end and what it wrote to standard error. */
static int in_child(void (*run)(void), char *text, size_t len)
{
	int pipe_fds[2], status;
	size_t n = 0;
	ssize_t got;
	pid_t pid;

	need(pipe(pipe_fds) == 0);
	fflush(stdout);
	need((pid = fork()) >= 0);
	if (pid == 0) {
		dup2(pipe_fds[1], STDERR_FILENO);
		close(pipe_fds[0]);
		close(pipe_fds[1]);
		run();
		_exit(0);
	}
	close(pipe_fds[1]);
	while ((got = read(pipe_fds[0], text + n, len - 1 - n)) > 0)
		n += (size_t)got;
	text[n] = '\0';
	close(pipe_fds[0]);
	need(waitpid(pid, &status, 0) == pid);
	return WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status);
}

static volatile int sink;

static void calls(void)
{
	callback volatile fired = stale(module_host_new(), "timers", NULL);

	sink = fired(0);
}

static void calls_reported(void)
{
	need(module_crash_reports(true) == 0);
	calls();
}

static void calls_by_environment(void)
{
	setenv("MODULE_REF_CRASH_REPORTS", "1", 1);
	calls();
}

static void calls_after_off(void)
{
	need(module_crash_reports(true) == 0 && module_crash_reports(false) == 0);
	calls();
}

static void calls_where_unmapped(void)
{
	struct module_host *host = module_host_new();

	need(module_crash_reports(true) == 0);
	need(module_host_after_unload(host, MODULE_AFTER_UNMAP) == 0);
	need(*describe(address_of(stale(host, "timers", NULL))) == '\0');
}

static void touches(void)
{
	int *table;

	need(module_crash_reports(true) == 0);
	stale(module_host_new(), "timers", &table);
	sink = table[2];
}

static void is_sent(void)
{
	need(module_crash_reports(true) == 0);
	kill(getpid(), SIGSEGV);
	pause();
}

static sigjmp_buf back;

static void jumps_back(int signal, siginfo_t *info, void *context)
{
	sigset_t now;

	/* Its own mask is in force. */
	pthread_sigmask(SIG_SETMASK, NULL, &now);
	siglongjmp(back, sigismember(&now, SIGUSR1) ? 2 : 1);
}

/*
 * A handler of the program's, and an alternate stack with 5 KiB beside the registers, which the
 * kernel writes, and the linker again if a handler's first call has yet to be bound.
 */
static void *calls_and_goes_on(void *arg)
{
	size_t size = 2 * (size_t)sysconf(_SC_MINSIGSTKSZ) + 5120;
	stack_t stack = { .ss_size = size, .ss_sp = malloc(size) };
	callback volatile fired = stale(arg, "timers", NULL);

	pthread_setname_np(pthread_self(), "poller");
	need(sigaltstack(&stack, NULL) == 0);
	for (volatile int i = 0; i < 2; i++) {
		int jumped = sigsetjmp(back, 1);

		if (!jumped)
			sink = fired(0);
		need(jumped == 2);
	}
	return NULL;
}

static void passes_on(void)
{
	struct sigaction action = { .sa_sigaction = jumps_back,
				    .sa_flags = SA_SIGINFO | SA_ONSTACK };
	pthread_t thread;

	sigaddset(&action.sa_mask, SIGUSR1);
	need(sigaction(SIGSEGV, &action, NULL) == 0);
	need(module_crash_reports(true) == 0 && module_crash_reports(true) == 0);
	need(pthread_create(&thread, NULL, calls_and_goes_on, module_host_new()) == 0);
	pthread_join(thread, NULL);
	/* Ours goes, and the program's is there again. */
	need(module_crash_reports(false) == 0 && sigaction(SIGSEGV, NULL, &action) == 0);
	need(action.sa_sigaction == jumps_back);
}

static void keeps(void)
{
	struct module_host *host = module_host_new();
	callback fired;

	setenv("MODULE_REF_AFTER_UNLOAD", "unmap", 1);
	need(module_host_after_unload(host, MODULE_AFTER_KEEP) == 0);
	fired = stale(host, "timers", NULL);
	need(fired(1) == 3 && mapped("stale.so"));
	need(strstr(describe(address_of(fired)), "still mapped"));
	need(load(host, "timers", NULL) != fired);
	need(module_unload(host, "timers", 0, SECOND) == 0);
}

static void unmaps_by_environment(void)
{
	setenv("MODULE_REF_AFTER_UNLOAD", "unmap", 1);
	need(is_free(address_of(stale(module_host_new(), "timers", NULL))));
}

static void ignores_nonsense(void)
{
	setenv("MODULE_REF_AFTER_UNLOAD", "burn", 1);
	need(!is_free(address_of(stale(module_host_new(), "timers", NULL))));
}

static void test_crashes(void)
{
	char text[4096];

	is(in_child(calls_reported, text, sizeof(text)), SIGSEGV, "a stale call ends the process");
	has(text, "module_ref: thread ");
	has_age(text, " called stale.so!fired+0x0, unloaded ");
	has(text, " by thread ");
	has(text, "(module 'timers', build ID ");
	has(text, "), from /");
	has(text, "/tombstone+0x");
	is(in_child(calls_by_environment, text, sizeof(text)), SIGSEGV, "the environment's wish");
	has(text, " called stale.so!fired+0x0, unloaded ");
	is(in_child(calls, text, sizeof(text)), SIGSEGV, "nobody wants reports");
	ok(!*text, "and there is none");
	is(in_child(calls_after_off, text, sizeof(text)), SIGSEGV, "nobody wants them any more");
	ok(!*text, "and there is none");
	is(in_child(touches, text, sizeof(text)), SIGSEGV, "stale data ends the process, too");
	has(text, " touched stale.so!table+0x8, unloaded ");
	is(in_child(is_sent, text, sizeof(text)), SIGSEGV, "a signal that is sent arrives");
	ok(!*text, "and is no stale call");
	is(in_child(passes_on, text, sizeof(text)), 0, "the handler before is called, as it was");
	has(text, "'poller' called stale.so!fired+0x0");
	is(in_child(calls_where_unmapped, text, sizeof(text)), 0, "UNMAP: nothing is known");
	is(in_child(keeps, text, sizeof(text)), 0, "KEEP: unloaded, and there to be looked at");
	is(in_child(unmaps_by_environment, text, sizeof(text)), 0, "the environment says unmap");
	is(in_child(ignores_nonsense, text, sizeof(text)), 0, "or nonsense, which is trap");
	has(text, "MODULE_REF_AFTER_UNLOAD is 'burn'");
}

/* A library that the module alone needs goes with it. */
static void brings(struct module_host *host)
{
	struct module *mod;
	char *address;

	need(module_load(host, plugin("brings.so"), "brings", NULL) == 0);
	need((mod = module_find_get(host, "brings")));
	need((address = module_symbol(mod, "call_often")));
	module_put(mod);
	need(module_unload(host, "brings", 0, SECOND) == 0);
	has(describe(address), "libkeeps.so+0x");
	has_age(describe(address), ", unloaded ");
	has(describe(address), " (module 'brings')");
	ok(!is_free(address) && !mapped("libkeeps.so"), "its place is taken, and it is gone");
}

static void test_describe(struct module_host *host)
{
	int *table, here = 0;
	callback fired = load(host, "metrics", &table), again;
	char *address = address_of(fired);
	char whole[512], part[12];
	int64_t len;

	has_age(describe(address + 1), "stale.so!fired+0x1, loaded ");
	has(describe(address), "(module 'metrics', build ID ");
	has(describe(&table[3]), "stale.so!table+0xc, loaded ");
	is(module_describe_address(&here, whole, sizeof(whole)), 0, "a stack is nobody's");
	ok(!*whole, "and nothing is said");
	is(module_describe_address(NULL, NULL, 0), 0, "nor is NULL");
	len = module_describe_address(address, whole, sizeof(whole));
	is(module_describe_address(address, part, sizeof(part)), len, "it says how long it is");
	ok(strlen(part) == sizeof(part) - 1 && !strncmp(whole, part, sizeof(part) - 1),
	   "and gives what there is room for");

	need(module_unload(host, "metrics", 0, SECOND) == 0);
	has_age(describe(address), "stale.so!fired+0x0, unloaded ");
	has(describe(&table[3]), "stale.so!table+0xc, unloaded ");
	ok(!is_free(address) && !mapped("stale.so"), "its place is taken, and it is gone");
	again = load(host, "metrics", NULL);
	ok(again != fired, "the next one is elsewhere");
	has(describe(address_of(again)), ", loaded ");
	has(describe(address), "unloaded");
	need(module_unload(host, "metrics", 0, SECOND) == 0);
	brings(host);
	is(module_host_after_unload(host, (enum module_after_unload)3), -EINVAL, "no such end");
	is(module_host_after_unload(NULL, MODULE_AFTER_TRAP), -EINVAL, "nor host");
}

static void test_newest(struct module_host *host)
{
	char *old = address_of(stale(host, "old", NULL)), *first = NULL, *next;

	for (int i = 0; i < KEPT; i++) {
		next = address_of(stale(host, "new", NULL));
		first = first ? first : next;
	}
	ok(is_free(old) && !*describe(old), "the oldest is forgotten, and its place given back");
	has(describe(first), "(module 'new'");
	has(describe(next), "(module 'new'");
}

static void test_taken(struct module_host *host)
{
	callback fired = load(host, "shared", NULL);
	char *address = address_of(fired), *start;
	char line[512];
	void *base;

	need(module_host_list(host, line, sizeof(line)) > 0);
	need(sscanf(line, "%*s %*s %*s %*s %*s %p", &base) == 1);
	start = base;
	taken_at = (size_t)(address - start) / 4096 * 4096;
	need(module_unload(host, "shared", 0, SECOND) == 0 && taken);
	ok(!*describe(address), "what somebody else has is nobody's");
	memset(taken, 1, 4096);
	ok(!is_free(start) && *describe(start), "what is before it is taken");
	ok(!is_free(taken + 4096) && *describe(taken + 4096), "and what is behind");
	for (int i = 0; i < KEPT; i++)
		stale(host, "new", NULL);
	ok(taken[7] == 1 && is_free(start) && is_free(taken + 4096), "who took it keeps it");
	munmap(taken, 4096);

	refused = 1;
	address = address_of(stale(host, "refused", NULL));
	refused = 0;
	ok(is_free(address) && !*describe(address), "without a place there is no tombstone");
}

static _Atomic long looked, missed;

static void look(int signal)
{
	char text[256];
	int error = errno;

	errno = 4711;
	if (module_describe_address(watched, text, sizeof(text)) <= 0 || errno != 4711)
		atomic_fetch_add(&missed, 1);
	atomic_fetch_add(&looked, 1);
	errno = error;
}

/* A handler that interrupts the host wherever that is, and takes no memory and no lock. */
static void test_handler(struct module_host *host)
{
	struct sigaction action = { .sa_handler = look, .sa_flags = SA_RESTART };
	struct itimerval often = { { 0, 200 }, { 0, 200 } }, never = { { 0, 0 }, { 0, 0 } };

	stale(host, "new", NULL);
	need(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &often, NULL) == 0);
	for (int i = 0; i < 200 || (looked < 100 && i < 100000); i++)
		stale(host, "new", NULL);
	need(setitimer(ITIMER_REAL, &never, NULL) == 0);
	is(missed, 0, "%ld looks by a handler find the module, there or gone", looked);
}

int main(int argc, char **argv)
{
	struct module_host *host;

	if (argc > 1) {
		/* For a debugger, which sees two modules: one that is there, and one that is gone. */
		load(module_host_default(), "there", NULL);
		calls();
	}
	test_crashes();
	host = module_host_new();
	test_describe(host);
	test_newest(host);
	test_taken(host);
	test_handler(host);
	is(module_host_free(host), 0, "done");
	return tap_done();
}
