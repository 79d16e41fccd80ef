/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * faults.c - every system call that the library makes fails: the first of a kind in an operation,
 * then the second, and so on, and all of them. Every allocation fails, too, in a child: Rust's own
 * end the process with a word. Each time otherwise
 *
 *   - nothing was released that is held, and every reference can be put;
 *   - the operation either succeeded, or failed with an errno that the header names, in words that
 *     name what was tried, and everything is as it was;
 *   - without the fault it succeeds;
 *   - no descriptor, mapping, thread or memory is left.
 *
 *	faults [-v] [WORD]...    operations whose names contain one; -v: what each fault led to
 *
 * The library's own start is in atload.c.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "heap.h"
#include "host.h"
#include "inject.h"
#include "misuse.h"
#include "oracle.h"
#include "threads.h"

static bool verbose;
static const char *doing = "";    /* which operation */
static struct fault fault;        /* which fault */
static const char *fault_name = "";
static int broken;                /* what did not hold, of this call of this operation */
static struct module_host *host;
static _Atomic int init_result;

/* ---- system calls, and how they can fail ------------------------------------------------ */

/* In the place of a number: what the process gets from malloc. */
enum { ALLOCATION = INJECT_CALLS };

/* Of an interrupted call and a short one there is no "always": whoever is interrupted tries
 * again, and so they come in a row. */
enum { IN_A_ROW = 20 };

static const struct call {
	int nr;
	const char *name;
	int how[10];
} calls[] = {
	{ SYS_membarrier, "membarrier", { EPERM, ENOSYS, EINVAL, ENOMEM, EINTR } },
	{ SYS_futex, "futex", { EPERM, ENOSYS, EINVAL, ENOMEM, EAGAIN, EINTR, ETIMEDOUT } },
	{ SYS_nanosleep, "nanosleep", { EPERM, ENOSYS, EINTR } },
	{ SYS_clock_nanosleep, "clock_nanosleep", { EINTR, EPERM, ENOSYS } },
	{ SYS_mmap, "mmap", { ENOMEM, EPERM, EACCES, EAGAIN, ENODEV } },
	{ SYS_munmap, "munmap", { ENOMEM, EINVAL } },
	{ SYS_mprotect, "mprotect", { ENOMEM, EACCES, EPERM } },
	{ SYS_madvise, "madvise", { EINVAL, ENOMEM, EPERM, ENOSYS, EAGAIN } },
#ifdef SYS_open
	{ SYS_open, "open", { EACCES, EMFILE, ENFILE, ENOMEM, EIO, EPERM, ENOENT, EINTR } },
	{ SYS_readlink, "readlink", { EIO, EACCES, ENOMEM, EPERM } },
	{ SYS_access, "access", { EACCES, ENOENT } },
#endif
	{ SYS_openat, "openat", { EACCES, EMFILE, ENFILE, ENOMEM, EIO, EPERM, ENOENT, EINTR } },
	{ SYS_read, "read", { EIO, EAGAIN, ENOMEM, EINTR, INJECT_ONE, INJECT_HALF, INJECT_NOTHING } },
	{ SYS_pread64, "pread64", { EIO, ENOMEM, EINTR, INJECT_ONE, INJECT_NOTHING } },
	{ SYS_write, "write", { EIO, ENOSPC, ENOMEM, EINTR, INJECT_ONE, INJECT_HALF, INJECT_NOTHING } },
	{ SYS_lseek, "lseek", { EIO, ESPIPE, EPERM } },
	{ SYS_close, "close", { EIO, EINTR } },
	{ SYS_statx, "statx", { EIO, EACCES, ENOMEM, ENOENT, ENOSYS, EPERM } },
#ifdef SYS_newfstatat
	{ SYS_newfstatat, "newfstatat", { EIO, EACCES, ENOMEM, ENOENT, EPERM } },
#endif
	{ SYS_fstat, "fstat", { EIO, ENOMEM, EPERM } },
	{ SYS_getcwd, "getcwd", { ENOENT, ENOMEM, EPERM } },
	{ SYS_fcntl, "fcntl", { EPERM, EBADF, EMFILE } },
	{ SYS_timerfd_create, "timerfd_create", { EMFILE, ENFILE, ENOMEM, ENODEV, EPERM, ENOSYS } },
	{ SYS_timerfd_settime, "timerfd_settime", { EPERM, ENOSYS, EINVAL } },
	/* EINVAL would say that the number is another file's by now, which is then left alone. */
	{ SYS_timerfd_gettime, "timerfd_gettime", { EPERM, ENOSYS } },
	{ SYS_memfd_create, "memfd_create", { EMFILE, ENFILE, ENOMEM, EPERM, ENOSYS, EINVAL } },
	{ SYS_clone3, "clone3", { EAGAIN, ENOMEM, EPERM, ENOSYS } },
	{ SYS_clone, "clone", { EAGAIN, ENOMEM, EPERM } },
	{ SYS_set_robust_list, "set_robust_list", { ENOSYS } },
	{ SYS_getrandom, "getrandom", { ENOSYS, EPERM, EINTR } },
	{ SYS_sched_getaffinity, "sched_getaffinity", { EPERM, ENOSYS, ENOMEM } },
	{ SYS_sigaltstack, "sigaltstack", { ENOMEM, EPERM } },
	{ SYS_prctl, "prctl", { EPERM, ENOSYS } },
	/* These have nothing to fail in, and whoever calls them does not look. */
	{ SYS_brk, "brk", { 0 } }, /* refuses by returning the old end: never an errno */
	{ SYS_getpid, "getpid", { 0 } },
	{ SYS_gettid, "gettid", { 0 } },
	{ SYS_rt_sigprocmask, "rt_sigprocmask", { 0 } },
	/* The C library ends the process if a thread cannot have it and others can. */
	{ SYS_rseq, "rseq", { 0 } },
};

static const struct call *call_of(int nr)
{
	static struct call other;
	static char number[32];

	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		if (calls[i].nr == nr)
			return &calls[i];
	snprintf(number, sizeof(number), "call %d", nr);
	other = (struct call){ nr, number, { EPERM, ENOSYS, ENOMEM } };
	return &other;
}

static const char *in_words(const struct fault *f)
{
	static char text[128];
	char times[32] = "always";

	if (f->times == 0)
		return "no fault";
	if (f->times == 1)
		snprintf(times, sizeof(times), "#%d", f->first);
	else if (f->times != INJECT_ALWAYS)
		snprintf(times, sizeof(times), "%d times", f->times);
	snprintf(text, sizeof(text), "%s %s %s", fault_name, times, inject_how(f->how));
	return text;
}

/* One thing that has to hold, whatever failed. */
static bool holds(bool it_does, const char *what)
{
	if (!it_does && broken++ < 5) {
		printf("# %s: %s: NOT SO: %s\n", doing, in_words(&fault), what);
		printf("#   the last error: %s\n", module_last_error());
		fflush(stdout);
	}
	return it_does;
}

#define HOLDS(condition) holds(condition, #condition)

/* The program ends here if the library ends it, or never comes back. */
static void fatal(int signal)
{
	static char text[512];
	int n = snprintf(text, sizeof(text), "Bail out! %s: %s: %s\n", doing, in_words(&fault),
			 strsignal(signal));

	if (write(STDOUT_FILENO, text, (size_t)n) != n)
		_exit(3);
	_exit(2);
}

/* ---- somebody else: a thread whose own calls are left alone ------------------------------- */

static struct module_ref ref, filler[1 << 19];

enum task { REST, PUT_REF, PUT_MODULE, DRAIN_REF };
static _Atomic enum task task;
static struct module *_Atomic held;
static _Atomic bool put; /* it is about to put */
static _Atomic int drained;
static _Atomic pid_t other_tid;

static void *other(void *unused)
{
	other_tid = gettid();
	for (;; task = REST) {
		while (task == REST)
			sleep_ns(100 * MICROSECOND);
		if (task == DRAIN_REF) {
			drained = module_ref_drain(&ref, -1);
			continue;
		}
		sleep_ns(2 * MILLISECOND);
		put = true;
		if (task == PUT_MODULE)
			module_put(held);
		else
			module_ref_put(&ref);
	}
	return NULL;
}

/* Without a system call that could be made to fail. */
static void await_other(void)
{
	while (atomic_load(&task) != REST)
		sched_yield();
}

/* ---- what must not be left --------------------------------------------------------------- */

static struct left {
	int files, threads;
	long blocks;
	char maps[1 << 16];
} usual, now;

/* What is mapped; the heap and the stacks may grow. */
static void read_maps(char *to, size_t room)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	size_t used = 0;

	need(maps);
	while (fgets(to + used, (int)(room - used), maps))
		if (!strstr(to + used, "[heap]") && !strstr(to + used, "[stack]"))
			used += strlen(to + used);
	need(used < room - 1);
	to[used] = '\0';
	fclose(maps);
}

static void look(struct left *at)
{
	/* The C library keeps the words of its last error until it is asked once more. */
	dlerror();
	dlerror();
	/* And the library what a thread has left that has ended, until somebody looks. */
	if (host)
		module_host_reap(host);
	at->files = open_files();
	/* One that was joined is there for a moment more. */
	for (int tries = 0; tries < 20000; tries++) {
		at->threads = entries("/proc/self/task");
		if (usual.threads == 0 || at->threads <= usual.threads)
			break;
		sleep_ns(MILLISECOND);
	}
	at->blocks = heap_blocks();
	read_maps(at->maps, sizeof(at->maps));
}

/* The first line that differs. */
static void show_difference(const char *a, const char *b)
{
	size_t line = 0;

	for (size_t n = 0; a[n] && a[n] == b[n]; n++)
		if (a[n] == '\n')
			line = n + 1;
	printf("#   before: %.*s\n", (int)strcspn(a + line, "\n"), a + line);
	printf("#   after:  %.*s\n", (int)strcspn(b + line, "\n"), b + line);
}

/* What the C library's dlopen leaves mapped of a file when it cannot map all of it: that is not
 * ours, and taken away so that it is not found again. */
static bool dlopen_leaves;

static bool unmap_rest(void)
{
	char *line, *save;
	bool any = false;

	for (line = strtok_r(now.maps, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		unsigned long from, to;

		if (!strstr(line, ".so") || strstr(usual.maps, line) ||
		    sscanf(line, "%lx-%lx", &from, &to) != 2)
			continue;
		munmap((void *)from, to - from);
		any = true;
	}
	look(&now);
	return any;
}

/* dlopen on its own, with the same fault. */
static void try_dlopen(void)
{
	void *open = dlopen(plugin("hooked.so"), RTLD_NOW | RTLD_LOCAL);

	need(open && dlclose(open) == 0);
	look(&usual);
	for (int first = 1;; first++) {
		inject_arm(&(struct fault){ SYS_mmap, first, 1, ENOMEM }, 1);
		open = dlopen(plugin("hooked.so"), RTLD_NOW | RTLD_LOCAL);
		inject_disarm();
		if (open)
			break;
		look(&now);
		dlopen_leaves |= unmap_rest();
	}
	need(dlclose(open) == 0);
	if (dlopen_leaves)
		printf("# the C library's dlopen leaves mappings when mmap fails: those are not counted\n");
}

/* ---- operations ---------------------------------------------------------------------------- */

enum {
	GROWS = 1,  /* memory that stays by design: of the arena */
	ATOMIC = 2, /* a counter in one word */
	HELD = 4,
	SOON = 8,   /* held until another thread puts, in a moment */
	FORCE = 16,
	JOINS = 32, /* a thread is started, and joined: the C library can end the process */
	NEW_FILE = 64, /* replaced by another file than its own */
	RELEASED = 128, /* a counter that is released already */
	LOAD = 256, /* times what is to be loaded with */
};

struct op {
	const char *name;
	void (*before)(void);
	int (*run)(void);       /* with the fault */
	void (*after)(int rc);  /* looks, has it succeed, and leaves all as it was */
	unsigned flags;
	int64_t timeout;
	int usual;		/* what it comes to without a fault */
};

static const struct op *row; /* the one that is run */

#define RUN(name, call) static int name(void) { return call; }
#define BEFORE(name, call) static void name(void) { call; }
#define AFTER(name, call) static void name(int rc) { call; }

static bool was_done(void)
{
	return fault.nr == ALLOCATION ? heap_failed() > 0 : inject_done() > 0;
}

/* A failure that the fault explains: its own errno, or the one that pthread_create(3) has for
 * want of anything. */
static bool by_the_fault(int rc)
{
	return was_done() && fault.how > 0 &&
	       (rc == -fault.how || (row->flags & JOINS && rc == -EAGAIN));
}

/* No barrier was to be had. What the slots held is not known, then: nothing may be released. */
static bool no_barrier(void)
{
	return fault.nr == SYS_membarrier && inject_done() > 0 &&
	       inject_calls(SYS_membarrier) == inject_done();
}

/* The last error says this. */
static bool tells(const char *text)
{
	return strstr(module_last_error(), text) != NULL;
}

/* -- counters -- */

/* A counter that is live and held so often, and can be got and put. */
static void counts(int64_t expected)
{
	HOLDS(module_ref_count(&ref) == expected);
	if (HOLDS(module_ref_try_get(&ref))) {
		HOLDS(module_ref_count(&ref) == expected + 1);
		module_ref_put(&ref);
	}
	HOLDS(module_ref_count(&ref) == expected);
}

/* A counter that is released is so once. */
static void released_once(void)
{
	HOLDS(!module_ref_try_get(&ref));
	HOLDS(module_ref_count(&ref) == -1);
	HOLDS(module_ref_try_release(&ref) == -EALREADY);
}

BEFORE(released_for_good, released_once(); module_ref_destroy(&ref))
BEFORE(get_ref, need(module_ref_try_get(&ref)))

static void releases_when_put(void)
{
	get_ref();
	HOLDS(module_ref_try_release(&ref) == -EWOULDBLOCK);
	module_ref_put(&ref);
	HOLDS(module_ref_try_release(&ref) == 0);
}

RUN(init_percpu, module_ref_init_percpu(&ref))
RUN(try_release, module_ref_try_release(&ref))
RUN(drain, module_ref_drain(&ref, row->timeout))
RUN(reinit, module_ref_reinit(&ref))
RUN(destroy, (module_ref_destroy(&ref), 0))
RUN(put_ref, (module_ref_put(&ref), 0))

/* The arena's room is used up: the next slots need new memory. Each chunk has slots for 8192
 * counters, and every time but the first the last operation has begun one, and given it back. */
static void fill_arena(void)
{
	static size_t filled;
	int room = 8192;

	if (filled == 0) {
		do {
			need(filled < 20000);
			inject_arm(NULL, 0);
			need(module_ref_init_percpu(&filler[filled++]) == 0);
			inject_disarm();
		} while (inject_calls(SYS_mmap) == 0);
		room--;
	}
	while (room-- > 0) {
		need(filled < sizeof(filler) / sizeof(filler[0]));
		need(module_ref_init_percpu(&filler[filled++]) == 0);
	}
	memset(&ref, 0x5a, sizeof(ref));
}

static void after_init_percpu(int rc)
{
	struct module_ref untouched;

	memset(&untouched, 0x5a, sizeof(untouched));
	if (rc != 0) {
		HOLDS(rc == -ENOMEM && was_done());
		HOLDS(memcmp(&ref, &untouched, sizeof(ref)) == 0);
		HOLDS(module_ref_init_percpu(&ref) == 0);
	}
	HOLDS(module_ref_mode(&ref) == (has_per_cpu() ? MODULE_REF_PERCPU : MODULE_REF_ATOMIC));
	counts(0);
	releases_when_put();
	released_for_good();
}

static void a_counter(void)
{
	need((row->flags & ATOMIC ? module_ref_init(&ref) : module_ref_init_percpu(&ref)) == 0);
	if (row->flags & (HELD | SOON))
		get_ref();
	if (row->flags & SOON)
		task = PUT_REF;
	if (row->flags & RELEASED)
		need(module_ref_try_release(&ref) == 0);
}

static int get_and_put(void)
{
	int64_t count;

	if (!module_ref_try_get(&ref))
		return -1;
	module_ref_get(&ref);
	count = module_ref_count(&ref);
	module_ref_put(&ref);
	module_ref_put(&ref);
	return count == 2 ? 0 : -2;
}

static void after_live(int rc)
{
	HOLDS(rc == 0);
	counts(0);
	HOLDS(module_ref_try_release(&ref) == 0);
	module_ref_destroy(&ref);
}

/* As it was: held, and released after the last put. */
static void held_as_before(void)
{
	counts(1);
	module_ref_put(&ref);
	counts(0);
	HOLDS(module_ref_drain(&ref, SECOND) == 0);
	released_for_good();
}

/* Whether what another thread has put soon was not taken to be put before. */
static void put_before(bool released)
{
	HOLDS(put || !released || !(row->flags & SOON));
	await_other();
}

/* Released, if it was not held; or with the fault's errno as it was. */
static void after_release(int rc)
{
	put_before(rc == 0);
	HOLDS((rc == row->usual && !no_barrier()) || by_the_fault(rc));
	if (row->flags & HELD) {
		held_as_before();
		return;
	}
	if (rc != 0) {
		counts(0);
		releases_when_put();
	}
	released_once();
	after_live(module_ref_reinit(&ref));
}

/* Whether a live one could be destroyed the misuse handler knows. */
static void after_destroy(int rc)
{
	int leaks = atomic_load(&reports[MODULE_REF_LEAKED]);

	HOLDS(rc == 0);
	HOLDS(atomic_load(&reports[MODULE_REF_SURPLUS_PUT]) == 0 &&
	      atomic_load(&reports[MODULE_REF_STALE_GET]) == 0 &&
	      atomic_load(&reports[MODULE_REF_OVERFLOW]) == 0);
	HOLDS(leaks > 0 || !no_barrier());
	if (leaks > 0) {
		HOLDS(was_done() && leaks == 1);
		counts(0);
		module_ref_destroy(&ref);
	}
	HOLDS(module_ref_count(&ref) == -1 && !module_ref_try_get(&ref));
	HOLDS(module_ref_try_release(&ref) == -EINVAL);
	reports_since(MODULE_REF_LEAKED);
}

/* A drain that is begun, with whatever can be done to it. */
static struct module_ref_drain draining;
static int begun;

static int begin_by(int fd)
{
	begun = fd;
	return fd < 0 ? fd : 0;
}

RUN(begin, begin_by(module_ref_drain_begin(&ref, &draining, row->timeout)))

BEFORE(end_begun, if (begun >= 0) close(begun))

static int begin_and_finish(void)
{
	int rc = begin();

	if (rc == 0)
		while ((rc = module_ref_drain_finish(&draining)) == -EINPROGRESS && row->timeout > 0)
			;
	return rc;
}

RUN(begin_and_cancel, begin() ? begun : module_ref_drain_cancel(&draining))

static void after_begun(int rc)
{
	if (rc == 0 && row->run == begin) {
		HOLDS(!module_ref_try_get(&ref));
		HOLDS(module_ref_drain_finish(&draining) == -EINPROGRESS);
		HOLDS(module_ref_drain_cancel(&draining) == 0);
	}
	end_begun();
	HOLDS(module_ref_drain_finish(&draining) == -EINVAL);
	after_release(rc);
}

BEFORE(a_begun_counter, a_counter(); need(begin() == 0))
RUN(put_and_finish, (module_ref_put(&ref), module_ref_drain_finish(&draining)))

/* Whatever became of the write to it, the descriptor is readable in the end. */
static void after_put_begun(int rc)
{
	HOLDS(rc == 0);
	if (row->run == put_ref) {
		HOLDS(poll(&(struct pollfd){ begun, POLLIN, 0 }, 1, 20000) == 1);
		HOLDS(module_ref_drain_finish(&draining) == 0);
	}
	end_begun();
	released_for_good();
}

static void a_drained_counter(void)
{
	a_counter();
	task = DRAIN_REF;
	while (module_ref_try_get(&ref)) {
		module_ref_put(&ref);
		sched_yield();
	}
	until_it_sleeps(other_tid);
}

AFTER(after_the_last_put, await_other(); HOLDS(drained == 0); released_for_good())

/* -- the host -- */

int on_init(struct module *self)
{
	return init_result;
}

static struct module_host *new_host;
static struct module *handle;
static const char *loaded_path;

/* glibc's dlopen leaves an object that it has no memory for half loaded (2.36), and finds that
 * one when it is asked again. */
static bool dlopen_is_broken(void)
{
	return fault.nr == ALLOCATION && tells("symbol search list");
}

/* A failure of a load that the fault explains. What the dynamic linker refuses has its words,
 * and ENOENT, unless what it has done fails when it is tried again. */
static bool load_failed_by_the_fault(int rc)
{
	if (!was_done() || rc >= 0)
		return false;
	if (fault.how < 0)
		return rc == -ENOEXEC || rc == -ENOSPC || rc == -ENOENT;
	return rc == -fault.how || (rc == -ENOMEM && fault.nr == SYS_mmap) ||
	       (rc == -ENOENT && dlopen_is_broken()) ||
	       (rc == -ENOENT && (tells(strerror(fault.how)) || tells("cannot open shared object")));
}

RUN(new, (new_host = module_host_new()) ? 0 : -1)
RUN(free_host, module_host_free(new_host))
RUN(new_and_free, new() || free_host())
RUN(load, module_load_flags(host, loaded_path, "patient", row->flags / LOAD, &handle))

/* The module is live, held so often, and works. */
static void in_service(const char *name, int64_t count, long answer)
{
	struct module *mod = module_find_get(host, name);

	if (!HOLDS(mod != NULL))
		return;
	HOLDS(module_state(mod) == MODULE_STATE_LIVE);
	HOLDS(module_refcount(mod) == count + 1);
	HOLDS(call(mod, "answer") == answer);
	module_put(mod);
}

/* Because of the fault nobody could be looked for: what was unloaded stays, and a later call looks
 * again. */
static bool look_failed(void)
{
	return was_done() && tells("could not be looked at");
}

static void not_there(const char *name)
{
	char list[4096], start[64];

	HOLDS(module_find_get(host, name) == NULL);
	need(module_host_list(host, list, sizeof(list)) < (int64_t)sizeof(list));
	snprintf(start, sizeof(start), "%s ", name);
	HOLDS(strstr(list, start) == NULL);
}

static void gone(int rc)
{
	if (rc == 1 && look_failed()) {
		HOLDS(module_host_reap(host) == 1);
		rc = 0;
	}
	/* The kernel tells of no thread's end. */
	if (rc == 1 && was_done() && fault.nr == SYS_set_robust_list) {
		HOLDS(tells("has not ended"));
		rc = 0;
	}
	HOLDS(rc == 0);
	not_there("patient");
	if (handle) {
		HOLDS(!module_try_get(handle));
		HOLDS(module_refcount(handle) == -1);
		HOLDS(module_state(handle) == MODULE_STATE_GOING);
	}
	module_handle_put(handle);
	handle = NULL;
}

static void unloads_when_in_service(long answer)
{
	in_service("patient", 0, answer);
	gone(module_unload(host, "patient", 0, 0));
}

static void after_load(int rc)
{
	if (rc != 0) {
		bool no_more = dlopen_is_broken();

		HOLDS(load_failed_by_the_fault(rc));
		HOLDS(tells("patient") || tells(loaded_path));
		HOLDS(handle == NULL);
		if (look_failed())
			HOLDS(module_host_reap(host) == 1);
		not_there("patient");
		if (no_more)
			return;
		HOLDS(load() == 0);
	}
	HOLDS(handle != NULL);
	unloads_when_in_service(1);
}

BEFORE(a_file, loaded_path = plugin("hooked.so"))
BEFORE(unresolved, loaded_path = plugin("unresolved.so"))
/* By a name that the dynamic linker finds. */
BEFORE(a_library, loaded_path = "plain.so")

/* The file is a module already: what is loaded is a copy. */
BEFORE(a_file_again, need(module_load(host, plugin("hooked.so"), "twin", NULL) == 0); a_file())

AFTER(after_load_again, after_load(rc); in_service("twin", 0, 1);
	HOLDS(module_unload(host, "twin", 0, 0) == 0))

BEFORE(with_a_provider, loaded_path = plugin("user.so");
	need(module_load(host, plugin("libprovider.so"), "provider", NULL) == 0))

static void after_load_with_a_provider(int rc)
{
	in_service("provider", rc == 0, 7);
	after_load(rc);
	in_service("provider", 0, 7);
	if (!dlopen_is_broken())
		HOLDS(module_unload(host, "provider", 0, 0) == 0);
}

BEFORE(refused_by_init, a_file(); init_result = -EXDEV)

/* By the module itself, which only its init function can come to allow. */
static void after_refused_load(int rc)
{
	HOLDS(rc == row->usual || load_failed_by_the_fault(rc));
	HOLDS(handle == NULL);
	HOLDS(module_host_reap(host) >= 0);
	not_there("patient");
	if (init_result == 0) {
		HOLDS(load() == -ENOENT && tells("defined_nowhere"));
		return;
	}
	init_result = 0;
	HOLDS(load() == 0);
	unloads_when_in_service(1);
}

static void loaded(void)
{
	a_file();
	need(load() == 0);
	if (row->flags & (HELD | SOON)) {
		held = module_find_get(host, "patient");
		need(held);
	}
	if (row->flags & SOON)
		task = PUT_MODULE;
}

static int find_get_and_put(void)
{
	struct module *mod = module_find_get(host, "patient");

	/* A name may be any bytes. */
	if (!mod || module_find_get(host, "caf\xe9") || module_find(host, "caf\xe9"))
		return -1;
	module_get(mod);
	module_put(mod);
	module_put(mod);
	return 0;
}

static int ask(void)
{
	char list[4096];

	return module_host_list(host, list, sizeof(list)) <= 0 ||
	       module_host_last_unloaded(host, list, sizeof(list)) < 0 ||
	       module_refcount(handle) != 0;
}

static int find_symbols(void)
{
	struct module *mod = module_find_get(host, "patient");
	bool found = module_symbol(mod, "answer") && !module_symbol(mod, "nothing") &&
		     module_symbol_get(host, "answer") && module_symbol_put(host, "answer") == 0;

	module_put(mod);
	return found ? 0 : -1;
}

static int notified(struct module *mod, enum module_state state, void *data)
{
	return 0;
}

RUN(register_and_unregister, module_notifier_register(host, notified, NULL, 0) ||
			     module_notifier_unregister(host, notified, NULL))

AFTER(after_looking, HOLDS(rc == 0); unloads_when_in_service(1))

/* In a signal handler, perhaps. */
AFTER(after_finding, HOLDS(fault.nr != ALLOCATION || heap_failed() == 0); after_looking(rc))

static int unload_within(int64_t timeout)
{
	return module_unload(host, "patient", row->flags & FORCE ? MODULE_UNLOAD_FORCE : 0, timeout);
}

RUN(unload, unload_within(row->timeout))

/* Unloaded, or with the fault's errno in service as before. */
static int unloaded_in_the_end(int rc)
{
	HOLDS(rc < 0 || !no_barrier());
	if (rc >= 0)
		return rc;
	HOLDS(by_the_fault(rc));
	HOLDS(tells("'patient'") && tells(strerror(-rc)));
	in_service("patient", (row->flags & HELD) != 0, 1);
	return unload_within(0);
}

/* Unloaded; or if it is held, or with the fault's errno, in service as before. */
static void after_unload(int rc)
{
	put_before(rc >= 0);
	if (row->flags & HELD) {
		HOLDS((rc == row->usual && !no_barrier()) || by_the_fault(rc));
		if (rc < 0)
			HOLDS(tells("'patient'"));
		in_service("patient", 1, 1);
		HOLDS(call(held, "answer") == 1);
		module_put(held);
		unloads_when_in_service(1);
	} else {
		gone(unloaded_in_the_end(rc));
	}
}

RUN(unload_begin, begin_by(module_unload_begin(host, "patient", 0)))
RUN(unload_begin_and_finish, unload_begin() ? begun : module_unload_finish(host, "patient", 0))
RUN(unload_begin_and_cancel, unload_begin() ? begun : module_unload_cancel(host, "patient"))

static void after_unload_begun(int rc)
{
	if (rc == 0 && row->run == unload_begin) {
		HOLDS(module_state(handle) == MODULE_STATE_GOING);
		HOLDS(module_unload_finish(host, "patient", 0) == -EINPROGRESS);
		HOLDS(module_unload_cancel(host, "patient") == 0);
	}
	if (rc < 0)
		HOLDS(tells(strerror(-rc)));
	end_begun();
	after_unload(rc);
}

/* Forced out: its code stays for its holder, who can call it and put. */
static void after_forced(int rc)
{
	rc = unloaded_in_the_end(rc);
	HOLDS(rc == 1 && tells("1 reference"));
	not_there("patient");
	HOLDS(!module_try_get(held));
	HOLDS(module_host_reap(host) == 0);
	HOLDS(call(held, "answer") == -1);
	module_put(held);
	HOLDS(module_host_reap(host) == 1);
	gone(0);
}

/* Somebody else has it open: it is unloaded and stays. */
static void *others_handle;

BEFORE(loaded_and_open, need((others_handle = dlopen(plugin("hooked.so"), RTLD_NOW))); loaded())

static void after_resident(int rc)
{
	rc = unloaded_in_the_end(rc);
	HOLDS(rc == 1 && (tells("another user") || look_failed()));
	/* Closed by now, and mapped. */
	HOLDS(module_host_reap(host) == 0);
	gone(0);
	dlclose(others_handle);
	HOLDS(!dlopen(plugin("hooked.so"), RTLD_NOW | RTLD_NOLOAD));
}

static void left_behind(void)
{
	loaded();
	held = module_find_get(host, "patient");
	need(module_unload(host, "patient", MODULE_UNLOAD_FORCE, 0) == 1);
	module_put(held);
}

RUN(reap, module_host_reap(host))

/* Closed, or if nobody could be looked for because of the fault, by the next one. */
AFTER(after_reap, HOLDS(rc == 1 || (rc == 0 && was_done()));
	HOLDS(module_host_reap(host) == (rc == 0)); gone(0))

static const char *replacement;

RUN(replace, module_replace(host, "patient", replacement, row->timeout))

BEFORE(to_be_replaced, loaded();
	replacement = plugin(row->flags & NEW_FILE ? "hooked2.so" : "hooked.so"))

/* With the new one in service, the old one left if it is held, or as it was. */
static void after_replace(int rc)
{
	long answer = row->flags & NEW_FILE ? 2 : 1;
	struct module *old = handle;
	bool held_still = row->flags & HELD;

	put_before(rc == 0);
	/* For want of a barrier, then, or of a look. */
	HOLDS(rc != 1 || row->flags & (HELD | SOON) || tells("nobody seems to hold it") ||
	      look_failed());
	if (rc < 0) {
		HOLDS(load_failed_by_the_fault(rc));
		HOLDS(tells("patient") || tells(replacement));
		HOLDS(module_state(old) == MODULE_STATE_LIVE);
		in_service("patient", held_still, 1);
		rc = replace();
		HOLDS(rc == held_still);
	}
	in_service("patient", 0, answer);
	HOLDS(module_state(old) == MODULE_STATE_GOING);
	if (!held_still && rc == 1) {
		/* It goes later. */
		HOLDS(was_done() && (fault.nr == SYS_membarrier || look_failed()));
		HOLDS(module_host_reap(host) == 1);
		rc = 0;
	}
	HOLDS(rc == held_still);
	if (held_still) {
		HOLDS(call(held, "answer") == 1);
		module_put(held);
		HOLDS(module_host_reap(host) == 1);
	}
	HOLDS(!module_try_get(old) && module_refcount(old) == -1);
	module_handle_put(old);
	handle = NULL;
	unloads_when_in_service(answer);
}

static pthread_t thread;
static _Atomic int ran;

static void *start(void *arg)
{
	atomic_fetch_add(&ran, 1);
	return arg;
}

static int thread_create(void)
{
	atomic_store(&ran, 0);
	return module_thread_create(&thread, NULL, handle, start, &ran);
}

/* A thread whose end the kernel does not tell: the module's code stays, which is safe. */
static bool unloads_but_for_a_thread(void)
{
	int rc;
	bool stays;

	in_service("patient", 0, 1);
	rc = module_unload(host, "patient", 0, 0);
	stays = rc == 1 && !look_failed();
	if (stays)
		HOLDS((fault.nr == ALLOCATION || fault.nr == SYS_set_robust_list) &&
		      tells("which it has started, has not ended"));
	else
		gone(rc);
	return !stays;
}

static void after_thread_create(int rc)
{
	void *result = NULL;

	if (rc < 0) {
		HOLDS(by_the_fault(rc));
		HOLDS(tells("'patient'") && tells(strerror(-rc)));
		HOLDS(atomic_load(&ran) == 0);
		in_service("patient", 0, 1);
		HOLDS(thread_create() == 0);
	}
	HOLDS(pthread_join(thread, &result) == 0 && result == &ran);
	HOLDS(atomic_load(&ran) == 1);
	unloads_but_for_a_thread();
}

BEFORE(a_host, need(new() == 0))
BEFORE(a_host_with_a_module,
       a_host(); need(module_load(new_host, plugin("hooked.so"), "left", NULL) == 0))

static void a_host_with_one_left(void)
{
	a_host_with_a_module();
	held = module_find_get(new_host, "left");
	need(module_unload(new_host, "left", MODULE_UNLOAD_FORCE, 0) == 1);
	module_put(held);
}

AFTER(succeeds, HOLDS(rc == 0))

AFTER(after_free, if (rc == -EBUSY && was_done()) rc = module_host_free(new_host); HOLDS(rc == 0))

AFTER(after_refused_free, HOLDS(rc == -EBUSY && tells("'left'"));
	HOLDS(module_unload(new_host, "left", 0, 0) == 0); HOLDS(module_host_free(new_host) == 0))

static const struct op ops[] = {
	{ "init_percpu", fill_arena, init_percpu, after_init_percpu, GROWS, 0, 0 },
	{ "get and put", a_counter, get_and_put, after_live, 0, 0, 0 },
	{ "try_release", a_counter, try_release, after_release, 0, 0, 0 },
	{ "try_release, held", a_counter, try_release, after_release, HELD, 0, -EWOULDBLOCK },
	{ "drain", a_counter, drain, after_release, 0, -1, 0 },
	{ "drain, 0 ns", a_counter, drain, after_release, 0, 0, 0 },
	{ "drain, 0 ns, held", a_counter, drain, after_release, HELD, 0, -ETIMEDOUT },
	{ "drain, 2 ms, held", a_counter, drain, after_release, HELD, 2 * MILLISECOND, -ETIMEDOUT },
	{ "drain, put soon", a_counter, drain, after_release, SOON, -1, 0 },
	{ "drain_begin", a_counter, begin_and_finish, after_begun, JOINS, -1, 0 },
	{ "drain_begin, 2 ms, held", a_counter, begin_and_finish, after_begun, HELD | JOINS,
	  2 * MILLISECOND, -ETIMEDOUT },
	{ "drain_begin, held", a_counter, begin, after_begun, HELD | JOINS, -1, 0 },
	{ "drain_begin, cancel", a_counter, begin_and_cancel, after_begun, HELD | JOINS, -1, 0 },
	{ "drain_begin, put", a_begun_counter, put_ref, after_put_begun, HELD | JOINS, -1, 0 },
	{ "drain_finish", a_begun_counter, put_and_finish, after_put_begun, HELD | JOINS, -1, 0 },
	{ "the last put", a_drained_counter, put_ref, after_the_last_put, HELD, 0, 0 },
	{ "reinit", a_counter, reinit, after_live, RELEASED, 0, 0 },
	{ "destroy", a_counter, destroy, after_destroy, 0, 0, 0 },
	{ "destroy, released", a_counter, destroy, after_destroy, RELEASED, 0, 0 },
	{ "atomic: try_release", a_counter, try_release, after_release, ATOMIC, 0, 0 },
	{ "atomic: drain, held", a_counter, drain, after_release, ATOMIC | HELD, 2 * MILLISECOND,
	  -ETIMEDOUT },
	{ "atomic: drain, put soon", a_counter, drain, after_release, ATOMIC | SOON, -1, 0 },
	{ "host_new, host_free", NULL, new_and_free, succeeds, 0, 0, 0 },
	{ "load", a_file, load, after_load, 0, 0, 0 },
	{ "load, atomic", a_file, load, after_load, LOAD * MODULE_LOAD_ATOMIC, 0, 0 },
	{ "load, a copy", a_file, load, after_load, LOAD * MODULE_LOAD_COPY, 0, 0 },
	{ "load, a file twice", a_file_again, load, after_load_again, 0, 0, 0 },
	{ "load, a library", a_library, load, after_load, 0, 0, 0 },
	{ "load, a provider", with_a_provider, load, after_load_with_a_provider, 0, 0, 0 },
	{ "load, init refuses", refused_by_init, load, after_refused_load, 0, 0, -EXDEV },
	{ "load, unresolved", unresolved, load, after_refused_load, 0, 0, -ENOENT },
	{ "find_get and put", loaded, find_get_and_put, after_finding, 0, 0, 0 },
	{ "list, refcount", loaded, ask, after_looking, 0, 0, 0 },
	{ "symbols", loaded, find_symbols, after_looking, 0, 0, 0 },
	{ "notifiers", loaded, register_and_unregister, after_looking, 0, 0, 0 },
	{ "unload", loaded, unload, after_unload, 0, 0, 0 },
	{ "unload, 2 ms", loaded, unload, after_unload, 0, 2 * MILLISECOND, 0 },
	{ "unload, force", loaded, unload, after_unload, FORCE, 0, 0 },
	{ "unload, held", loaded, unload, after_unload, HELD, 0, -EWOULDBLOCK },
	{ "unload, 2 ms, held", loaded, unload, after_unload, HELD, 2 * MILLISECOND, -ETIMEDOUT },
	{ "unload, put soon", loaded, unload, after_unload, SOON, -1, 0 },
	{ "unload_begin", loaded, unload_begin_and_finish, after_unload_begun, JOINS, 0, 0 },
	{ "unload_begin, held", loaded, unload_begin, after_unload_begun, HELD | JOINS, 0, 0 },
	{ "unload_begin, cancel", loaded, unload_begin_and_cancel, after_unload_begun, HELD | JOINS,
	  0, 0 },
	{ "unload, force, held", loaded, unload, after_forced, FORCE | HELD, 0, 1 },
	{ "unload, force, 2 ms, held", loaded, unload, after_forced, FORCE | HELD, 2 * MILLISECOND, 1 },
	{ "unload, resident", loaded_and_open, unload, after_resident, 0, 0, 1 },
	{ "reap", left_behind, reap, after_reap, 0, 0, 1 },
	{ "replace", to_be_replaced, replace, after_replace, NEW_FILE, 0, 0 },
	{ "replace, same file", to_be_replaced, replace, after_replace, 0, 0, 0 },
	{ "replace, held", to_be_replaced, replace, after_replace, NEW_FILE | HELD, 0, 1 },
	{ "replace, put soon", to_be_replaced, replace, after_replace, NEW_FILE | SOON, -1, 0 },
	{ "thread_create", loaded, thread_create, after_thread_create, JOINS, 0, 0 },
	{ "host_free", a_host, free_host, succeeds, 0, 0, 0 },
	{ "host_free, one left", a_host_with_one_left, free_host, after_free, 0, 0, 0 },
	{ "host_free, refused", a_host_with_a_module, free_host, after_refused_free, 0, 0, -EBUSY },
};

/* What is done once in a process: each time in another one. */
static int first_use(void)
{
	int rc;

	host = module_host_new();
	if ((rc = load()) == 0 && (rc = find_get_and_put()) == 0)
		rc = thread_create();
	return rc;
}

static void after_first_use(int rc)
{
	if (rc < 0) {
		HOLDS(load_failed_by_the_fault(rc) || by_the_fault(rc));
		if (handle) {
			in_service("patient", 0, 1);
			HOLDS(module_unload(host, "patient", 0, 0) == 0);
			module_handle_put(handle);
		}
		HOLDS(load() == 0);
		HOLDS(thread_create() == 0);
	}
	pthread_join(thread, NULL);
	if (unloads_but_for_a_thread())
		HOLDS(module_host_free(host) == 0);
}

static const struct op first_op = { "first use in a process", a_file, first_use, after_first_use,
				    JOINS, 0, 0 };

/* ---- the runs ------------------------------------------------------------------------------ */

/* The operation with the fault; false if it was not done, because there is no such call. */
static bool run(void)
{
	bool done;
	int rc;

	put = false;
	if (row->before)
		row->before();
	/* So that the words that are found afterwards are new. */
	module_unload(NULL, "forgotten", 0, 0);
	if (fault.nr == ALLOCATION)
		heap_fail(fault.first, fault.times);
	else
		inject_arm(&fault, 1);
	rc = row->run();
	inject_disarm();
	heap_stop();
	done = was_done();
	if (verbose && done)
		printf("# %s: %s: %d %s\n", row->name, in_words(&fault), rc,
		       rc != 0 ? module_last_error() : "");
	inject_clean_up();
	if (fault.nr < 0)
		HOLDS(rc == row->usual);
	row->after(rc);
	return done;
}

/* The same, and what is left when all is as it was. */
static bool run_and_look(void)
{
	bool done;

	for (int tries = 0;; tries++) {
		done = run();
		look(&now);
		if (done && fault.nr == SYS_mmap && dlopen_leaves)
			unmap_rest();
		if (fault.nr < 0 || row->flags & GROWS)
			usual = now;
		/* Threads leave a stack to the next one, or two if they overlap. */
		if (now.blocks == usual.blocks || tries == (row->flags & JOINS ? 5 : 2))
			break;
		/* Some is made once in a process, and the C library puts off freeing what another
		 * thread may look at, such as the lists of where to search for symbols. What
		 * leaks does so again and again. */
		usual.blocks = now.blocks;
	}
	HOLDS(now.files == usual.files);
	HOLDS(now.threads == usual.threads);
	HOLDS(now.blocks == usual.blocks);
	if (!(row->flags & JOINS) && !HOLDS(strcmp(now.maps, usual.maps) == 0))
		show_difference(usual.maps, now.maps);
	usual = now;
	return done;
}

/* The C library's pthread_join(3) aborts if a stack cannot be unmapped, or if it cannot sleep. */
static bool c_library_aborts(void)
{
	return row->flags & JOINS && (fault.nr == SYS_munmap || fault.nr == SYS_futex);
}

/* What became of a child. */
static enum end { AS_IT_SHOULD, NOT_DONE, OUT_OF_MEMORY, BROKEN } run_in_child(void)
{
	int words = memfd_create("words", MFD_CLOEXEC), status;
	char said[4096];
	ssize_t n;
	pid_t child;

	need(words >= 0);
	fflush(stdout);
	child = fork();
	need(child >= 0);
	if (child == 0) {
		bool done;

		signal(SIGABRT, SIG_DFL);
		setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
		dup2(words, STDERR_FILENO);
		atomic_store(&task, REST);
		start_thread(other, NULL);
		broken = 0;
		done = run();
		fflush(stdout);
		_exit(broken ? BROKEN : done ? AS_IT_SHOULD : NOT_DONE);
	}
	need(waitpid(child, &status, 0) == child);
	n = pread(words, said, sizeof(said) - 1, 0);
	said[n > 0 ? n : 0] = '\0';
	close(words);
	inject_disarm();
	if (WIFEXITED(status) && WEXITSTATUS(status) < OUT_OF_MEMORY)
		return WEXITSTATUS(status);
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT &&
	    (fault.nr == ALLOCATION ? strncmp(said, "memory allocation of ", 21) == 0 ||
					      strstr(said, "out of memory") :
				      c_library_aborts()))
		return OUT_OF_MEMORY;
	printf("# %s: %s: NOT SO: status %#x\n# %s\n", row->name, in_words(&fault), status, said);
	broken++;
	return BROKEN;
}

/* Here, or in a child if that may be its end. */
static bool faulty(int nr, int first, int times, int how)
{
	fault = (struct fault){ nr, first, times, how };
	if (row == &first_op || c_library_aborts() || fault.nr == SYS_set_robust_list)
		return run_in_child() != NOT_DONE && broken < 5;
	return run_and_look();
}

static int points;

/* How often a call fails in the end: one that is tried again when it fails like this, in a row. */
static int often(int nr, int how)
{
	return how == EINTR || how == INJECT_ONE || how == ETIMEDOUT ||
	       (how == EAGAIN && nr != SYS_clone3 && nr != SYS_clone) ? IN_A_ROW : INJECT_ALWAYS;
}

static void begin_op(const struct op *op, const char *name)
{
	row = op;
	doing = op->name;
	fault_name = name;
	broken = 0;
}

static void try_allocations(const struct op *op)
{
	int n = 0, ended = 0;
	enum end end;

	begin_op(op, "malloc");
	fault = (struct fault){ ALLOCATION, 1, 1, ENOMEM };
	for (; (end = run_in_child()) != NOT_DONE; fault.first++) {
		n++;
		ended += end == OUT_OF_MEMORY;
		if (end == BROKEN && broken > 5)
			break;
	}
	if (n == 0) {
		ok(broken == 0, "%-26s allocates nothing", op->name);
		return;
	}
	fault = (struct fault){ ALLOCATION, 1, INJECT_ALWAYS, ENOMEM };
	ended += run_in_child() == OUT_OF_MEMORY;
	ok(broken == 0, "%-26s %-16s %3d calls, %4d faults, %d of which end the process", op->name,
	   "malloc", n, n + 1, ended);
	points += n + 1;
}

static void try_op(const struct op *op)
{
	unsigned made[INJECT_CALLS];
	int kinds = 0;

	begin_op(op, "nothing");
	/* Twice: what is done once in a process is done then. */
	for (int i = 0; i < 3; i++)
		faulty(-1, 1, 0, 0);
	for (int nr = 0; nr < INJECT_CALLS; nr++)
		made[nr] = inject_calls(nr);
	for (int nr = 0; nr < INJECT_CALLS; nr++) {
		const struct call *call = call_of(nr);
		int n = 0;

		if (made[nr] == 0)
			continue;
		kinds++;
		fault_name = call->name;
		for (int i = 0; i < 10 && call->how[i]; i++) {
			int how = call->how[i], first = 1;

			while (faulty(nr, first, 1, how))
				first++;
			n += first - 1;
			n += faulty(nr, 1, often(nr, how), how);
		}
		if (call->how[0])
			ok(broken == 0, "%-26s %-16s %3u calls, %4d faults", op->name, call->name,
			   made[nr], n);
		else
			printf("# %-31s %-16s %3u calls, which cannot fail\n", op->name, call->name,
			       made[nr]);
		fflush(stdout);
		points += n;
		broken = 0;
	}
	if (kinds == 0)
		ok(broken == 0, "%-26s makes no system call", op->name);
}

static bool chosen(const struct op *op, char **words)
{
	char **word = words;

	while (*word && !strstr(op->name, *word))
		word++;
	return *word || !*words;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = fatal };
	const struct op *op, *end = ops + sizeof(ops) / sizeof(ops[0]);

	if (!getenv("FAULTS_AGAIN")) {
		/* A thread's stack is to be unmapped at its end, and the linker to find ours. */
		setenv("LD_LIBRARY_PATH", plugin(""), 1);
		setenv("GLIBC_TUNABLES", "glibc.pthread.stack_cache_size=0", 1);
		setenv("RUST_BACKTRACE", "0", 1);
		/* What is kept of modules that are gone is not lost. */
		setenv("MODULE_REF_AFTER_UNLOAD", "unmap", 1);
		setenv("FAULTS_AGAIN", "yes", 1);
		need(execv("/proc/self/exe", argv) == 0);
	}
	verbose = argc > 1 && strcmp(argv[1], "-v") == 0;
	argv += 1 + verbose;
	/* The heap is there already, and all of it: what is mapped is not for malloc. */
	mallopt(M_MMAP_MAX, 0);
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_TOP_PAD, 64 << 20);
	mallopt(M_TRIM_THRESHOLD, 1 << 30);
	free(malloc(1 << 20));
	sigaction(SIGABRT, &action, NULL);
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	/* So many that a thread has to allocate for another one's value. */
	for (int i = 0; i < 40; i++)
		need(pthread_key_create(&(pthread_key_t){ 0 }, NULL) == 0);
	module_ref_set_misuse_handler(on_misuse);
	start_thread(other, NULL);

	/* Allocations, in children of a process in which the library has not been used yet. */
	if (chosen(&first_op, argv))
		try_allocations(&first_op);
	host = module_host_new();
	for (op = ops; op < end; op++)
		if (chosen(op, argv) && !(op->flags & GROWS))
			try_allocations(op);
	need(module_host_free(host) == 0);

	if (!inject_start()) {
		printf("1..0 # SKIP this system does not let a process answer its own system calls: %s\n",
		       strerror(errno));
		return tap_failed != 0;
	}
	try_dlopen();
	if (chosen(&first_op, argv))
		try_op(&first_op);
	host = module_host_new();
	/* Its lists have room for one from here on. */
	row = &first_op;
	left_behind();
	after_reap(reap());
	for (op = ops; op < end; op++)
		if (op->flags & GROWS && why_not_per_cpu())
			ok(1, "%s # SKIP %s", op->name, why_not_per_cpu());
		else if (chosen(op, argv))
			try_op(op);
	ok(module_host_free(host) == 0, "%d faults in all", points);
	return tap_done();
}
