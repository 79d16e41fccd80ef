/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * atload.c - the library is loaded while a system call fails: the n-th of a kind, for every n,
 * each in another child. It is not loaded then, or counts per CPU, or in one word; and in
 * whatever way it counts, it counts on every CPU that there is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "inject.h"
#include "module_ref.h"
#include "oracle.h"
#include "tap.h"

static const struct call {
	int nr;
	const char *name;
	int how[9];
} calls[] = {
	{ SYS_membarrier, "membarrier", { EPERM, ENOSYS, EINVAL, ENOMEM } },
	{ SYS_sched_getaffinity, "sched_getaffinity", { EPERM, ENOSYS, EINVAL } },
#ifdef SYS_open
	{ SYS_open, "open", { EACCES, EMFILE, ENOENT, EINTR } },
#endif
	{ SYS_openat, "openat", { EACCES, EMFILE, ENOENT, EINTR } },
	{ SYS_read, "read", { EIO, EACCES, EINTR, INJECT_ONE, INJECT_HALF, INJECT_NOTHING } },
	{ SYS_pread64, "pread64", { EIO, INJECT_NOTHING } },
	{ SYS_close, "close", { EIO } },
#ifdef SYS_newfstatat
	{ SYS_newfstatat, "newfstatat", { EIO } },
#endif
	{ SYS_mmap, "mmap", { ENOMEM } },
	{ SYS_mprotect, "mprotect", { ENOMEM } },
	{ SYS_munmap, "munmap", { ENOMEM } },
};

enum end { PER_CPU, ONE_WORD, NOT_LOADED, NOT_DONE, ENDS };

static struct {
	int (*init_percpu)(struct module_ref *);
	bool (*try_get)(struct module_ref *);
	void (*put)(struct module_ref *);
	int64_t (*count)(const struct module_ref *);
	int (*try_release)(struct module_ref *);
	enum module_ref_mode (*mode)(const struct module_ref *);
} lib;

static const char *wrong;
static bool per_cpu;

#define HOLDS(condition) (wrong = wrong ? wrong : (condition) ? NULL : #condition)

static void find(void *library, const char *name, void *function)
{
	void *symbol = dlsym(library, name);

	need(symbol);
	memcpy(function, &symbol, sizeof(symbol));
}

static bool run_on(size_t cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set) == 0;
}

/* One reference from every CPU, which then goes back from another one. */
static enum end count_everywhere(const cpu_set_t *cpus)
{
	static struct module_ref ref;
	int64_t held = 0;

	HOLDS(lib.init_percpu(&ref) == 0);
	for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, cpus) && run_on(cpu)) {
			HOLDS(lib.try_get(&ref));
			HOLDS(lib.count(&ref) == ++held);
			HOLDS(lib.try_release(&ref) == -EWOULDBLOCK);
		}
	while (held > 0 && !wrong) {
		HOLDS(lib.try_release(&ref) == -EWOULDBLOCK);
		lib.put(&ref);
		HOLDS(lib.count(&ref) == --held);
	}
	HOLDS(lib.try_release(&ref) == 0);
	HOLDS(!lib.try_get(&ref));
	return lib.mode(&ref) == MODULE_REF_PERCPU ? PER_CPU : ONE_WORD;
}

static enum end load(const struct fault *fault, bool pinned)
{
	enum end end = NOT_LOADED;
	cpu_set_t cpus;
	void *library;
	bool done;

	need(sched_getaffinity(0, sizeof(cpus), &cpus) == 0);
	for (size_t cpu = 0; pinned && cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, &cpus) && run_on(cpu))
			break;
	inject_arm(fault, 1);
	library = dlopen("libmodule_ref.so", RTLD_NOW);
	inject_disarm();
	done = inject_done() > 0;
	if (library) {
		find(library, "module_ref_init_percpu", &lib.init_percpu);
		find(library, "module_ref_try_get", &lib.try_get);
		find(library, "module_ref_put", &lib.put);
		find(library, "module_ref_count", &lib.count);
		find(library, "module_ref_try_release", &lib.try_release);
		find(library, "module_ref_mode", &lib.mode);
		end = count_everywhere(&cpus);
		HOLDS(done || end == (per_cpu ? PER_CPU : ONE_WORD));
	} else {
		HOLDS(done && dlerror());
	}
	return done ? end : NOT_DONE;
}

static enum end load_in_child(const struct call *call, int first, int times, int how, bool pinned)
{
	struct fault fault = { call->nr, first, times, how };
	int status;
	pid_t child;

	fflush(stdout);
	child = fork();
	need(child >= 0);
	if (child == 0) {
		enum end end;

		setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
		end = load(&fault, pinned);
		if (wrong)
			printf("# %s #%d (%d times), %s%s: NOT SO: %s\n", call->name, first, times,
			       inject_how(how),
			       pinned ? ", pinned to a CPU" : "", wrong);
		fflush(stdout);
		_exit(wrong ? ENDS : (int)end);
	}
	need(waitpid(child, &status, 0) == child);
	inject_disarm();
	if (WIFEXITED(status) && WEXITSTATUS(status) < ENDS)
		return WEXITSTATUS(status);
	if (WIFSIGNALED(status))
		printf("# %s #%d: NOT SO: %s\n", call->name, first, strsignal(WTERMSIG(status)));
	return ENDS;
}

/* With several threads it takes tens of milliseconds, which nobody expects of a first counter. */
static void registers_at_load(void)
{
	pid_t child = fork();

	need(child >= 0);
	if (child == 0) {
		inject_arm(NULL, 0);
		need(dlopen("libmodule_ref.so", RTLD_NOW));
		inject_disarm();
		_exit(0);
	}
	need(waitpid(child, NULL, 0) == child);
	if (per_cpu)
		is(inject_calls(SYS_membarrier), 2,
		   "it asks for the barrier and registers for it when it is loaded");
}

static void try_call(const struct call *call)
{
	int ends[ENDS + 1] = { 0 }, n = 0;

	for (int i = 0; i < 9 && call->how[i]; i++)
		for (int pinned = 0; pinned < 2; pinned++) {
			int first = 1;
			enum end end;

			while ((end = load_in_child(call, first++, 1, call->how[i], pinned)) != NOT_DONE)
				ends[end]++;
			if (first == 2)
				return;
			end = load_in_child(call, 1, call->how[i] == EINTR ? 20 : INJECT_ALWAYS,
					    call->how[i], pinned);
			ends[end]++;
		}
	for (int end = 0; end <= ENDS; end++)
		n += ends[end];
	ok(ends[ENDS] == 0, "%-18s %3d faults: per CPU %d times, in one word %d, not loaded %d",
	   call->name, n, ends[PER_CPU], ends[ONE_WORD], ends[NOT_LOADED]);
}

int main(void)
{
	need(!dlopen("libmodule_ref.so", RTLD_NOW | RTLD_NOLOAD));
	if (!inject_start()) {
		printf("1..0 # SKIP this system does not let a process answer its own system calls: %s\n",
		       strerror(errno));
		return 0;
	}
	per_cpu = has_per_cpu();
	registers_at_load();
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		try_call(&calls[i]);
	return tap_done();
}
