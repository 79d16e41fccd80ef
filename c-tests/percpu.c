/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * percpu.c - per-CPU mode: what it answers, what it costs in system calls, and what
 * becomes of it where something is missing.
 *
 *     percpu [percpu|atomic [N]]    the mode that initialisation has to give here, and how
 *                                   many rounds of traffic to run
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/membarrier.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "filter.h"
#include "misuse.h"
#include "module_ref_inline.h"
#include "oracle.h"
#include "rseq.h"
#include "threads.h"

static bool percpu;
static long scale = 3000;
static _Atomic int stop;

static struct module_ref *new_ref(void)
{
	struct module_ref *ref = aligned_alloc(64, 64);

	need(ref && module_ref_init_percpu(ref) == 0);
	return ref;
}

static void free_ref(struct module_ref *ref)
{
	module_ref_destroy(ref);
	free(ref);
}

static void on_cpu(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

/* ---- answers ------------------------------------------------------------------- */

static void answers(void)
{
	struct module_ref *ref = new_ref();
	cpu_set_t original, before;

	is(module_ref_mode(ref), percpu ? MODULE_REF_PERCPU : MODULE_REF_ATOMIC, "the mode");
	/* Also those that the library was not allowed when it was loaded. */
	sched_getaffinity(0, sizeof(original), &original);
	memset(&before, 0xff, sizeof(before));
	sched_setaffinity(0, sizeof(before), &before);
	sched_getaffinity(0, sizeof(before), &before);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (!CPU_ISSET((size_t)cpu, &before))
			continue;
		on_cpu(cpu);
		need(module_ref_try_get(ref));
		need(module_ref_try_release(ref) == -EWOULDBLOCK);
	}
	sched_setaffinity(0, sizeof(original), &original);
	is(module_ref_count(ref), CPU_COUNT(&before), "a reference from each CPU");
	is(module_ref_try_release(ref), -EWOULDBLOCK, "in use");
	for (int n = CPU_COUNT(&before); n > 0; n--)
		module_ref_put(ref);
	is(module_ref_count(ref), 0, "put wherever this thread was");
	is(module_ref_try_release(ref), 0, "released");
	is(module_ref_count(ref), -1, "and counted as such");
	ok(!module_ref_try_get(ref), "no get");
	is(module_ref_reinit(ref), 0, "reinit");
	is(module_ref_mode(ref), percpu ? MODULE_REF_PERCPU : MODULE_REF_ATOMIC, "in the same mode");
	ok(module_ref_try_get(ref), "get");
	module_ref_get(ref);
	is(module_ref_count(ref), 2, "both counted");
	is(module_ref_drain(ref, 1000000), -ETIMEDOUT, "drain in vain");
	is(module_ref_count(ref), 2, "as before");
	module_ref_put(ref);
	module_ref_put(ref);
	is(module_ref_drain(ref, -1), 0, "drain");
	is(module_ref_reinit(ref), 0, "reinit");
	free_ref(ref);
}

static void misuse(void)
{
	struct module_ref *ref = new_ref();

	for (int n = 0; n < 5; n++)
		module_ref_put(ref);
	is(module_ref_count(ref), 0, "surplus puts do not show as less than nothing");
	is(module_ref_try_release(ref), percpu ? -EWOULDBLOCK : 0, "the next attempt finds them");
	is(reports_since(MODULE_REF_SURPLUS_PUT), percpu ? 1 : 5, "and reports");
	if (percpu)
		is(module_ref_try_release(ref), 0, "mended: the one after succeeds");
	is(module_ref_reinit(ref), 0, "reinit");
	is(module_ref_count(ref), 0, "and nothing is left of it");
	module_ref_put(ref);
	is(module_ref_drain(ref, 0), 0, "a drain mends, and succeeds");
	is(module_ref_reinit(ref), 0, "reinit");
	reports_since(MODULE_REF_SURPLUS_PUT);
	module_ref_put(ref);
	module_ref_destroy(ref);
	is(module_ref_count(ref), -1, "a destroy mends, and succeeds");
	ok(reports[MODULE_REF_SURPLUS_PUT] == 1 && reports[MODULE_REF_LEAKED] == 0, "and reports no leak, since nobody holds it");
	free(ref);
}

/* ---- one thread inlined, one by calls, on one counter ------------------------------ */

struct traffic {
	struct module_ref *ref;
	bool inlined, migrates;
	_Atomic long rounds;
};

static void *run_traffic(void *arg)
{
	struct traffic *traffic = arg;
	cpu_set_t all;
	int cpus;

	sched_getaffinity(0, sizeof(all), &all);
	cpus = CPU_COUNT(&all);
	for (; !atomic_load_explicit(&stop, memory_order_relaxed); traffic->rounds++) {
		if (traffic->migrates && traffic->rounds % 64 == 0)
			on_cpu((int)(traffic->rounds / 64) % cpus);
		if (traffic->inlined) {
			if (module_ref_try_get_inline(traffic->ref))
				module_ref_put_inline(traffic->ref);
		} else if (module_ref_try_get(traffic->ref)) {
			module_ref_put(traffic->ref);
		}
	}
	return NULL;
}

static bool all_ran(struct traffic *traffic, int n)
{
	while (n > 0 && atomic_load(&traffic[n - 1].rounds) > 0)
		n--;
	return n == 0;
}

static void header_and_library(void)
{
	struct module_ref *ref = new_ref();
	struct traffic traffic[4] = { { ref, true, false, 0 },
				      { ref, false, false, 0 },
				      { ref, true, true, 0 },
				      { ref, false, true, 0 } };
	pthread_t threads[4];
	int released = 0, timeouts = 0, others = 0;

	atomic_store(&stop, 0);
	for (int i = 0; i < 4; i++)
		threads[i] = start_thread(run_traffic, &traffic[i]);
	for (long n = 0; n < scale || !all_ran(traffic, 4); n++) {
		int rc = n % 2 ? module_ref_try_release(ref) : module_ref_drain(ref, 1000000);

		released += rc == 0;
		timeouts += rc == -ETIMEDOUT || rc == -EWOULDBLOCK;
		others += rc != 0 && rc != -ETIMEDOUT && rc != -EWOULDBLOCK;
		if (rc == 0)
			need(module_ref_count(ref) == -1 && module_ref_reinit(ref) == 0);
	}
	atomic_store(&stop, 1);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	ok(released > 0 && others == 0, "%d releases, %d refused, under traffic of both kinds", released,
	   timeouts);
	printf("# rounds: %ld %ld %ld %ld\n", atomic_load(&traffic[0].rounds),
	       atomic_load(&traffic[1].rounds), atomic_load(&traffic[2].rounds),
	       atomic_load(&traffic[3].rounds));
	is(module_ref_count(ref), 0, "and it all adds up");
	is(module_ref_try_release(ref), 0, "released");
	free_ref(ref);
}

/* ---- what the sequence leaves in the thread's area ------------------------------------- */

/* Nothing, if it is the library's: by the descriptor's address the kernel would go on looking into code
 * that may be unmapped by then. */
static bool leaves_no_descriptor(struct module_ref *ref)
{
#if defined(__x86_64__) || defined(__aarch64__)
	volatile char *descriptor = rseq_area() + 8;
	/* Without an area there is nothing to look at, unless nothing is per CPU. */
	bool none = !percpu || module_ref_area != 0;

	for (int n = 0; n < 1000 && none && module_ref_area; n++) {
		none = module_ref_try_get(ref) && *(volatile uint64_t *)(volatile void *)descriptor == 0;
		module_ref_put(ref);
		none = none && *(volatile uint64_t *)(volatile void *)descriptor == 0;
	}
	return none;
#else
	return module_ref_count(ref) == 0;
#endif
}

static void descriptors(void)
{
	struct module_ref in_a_word = MODULE_REF_INIT, *ref = new_ref();

	ok(leaves_no_descriptor(ref), "a get and a put leave no descriptor");
	is(module_ref_try_release(ref), 0, "released");
	ok(!module_ref_try_get(ref), "no get");
	ok(leaves_no_descriptor(&in_a_word), "nor does one that is refused");
	free_ref(ref);
}

/* ---- the slots' memory ------------------------------------------------------------------- */

/* The line of flags of the mapping that has the address. */
static bool flags_of(const void *address, char *flags, size_t room)
{
	FILE *maps = fopen("/proc/self/smaps", "re");
	unsigned long from, to, at = (unsigned long)address;
	char line[4096];
	bool there = false, here = false;

	while (maps && !there && fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			here = from <= at && at < to;
		there = here && strncmp(line, "VmFlags:", 8) == 0;
	}
	if (maps)
		fclose(maps);
	snprintf(flags, room, "%s", there ? line : "");
	return there;
}

static void no_huge_pages(void)
{
	struct module_ref *ref = new_ref();
	char flags[4096];

	if (access("/sys/kernel/mm/transparent_hugepage", F_OK) != 0)
		ok(1, "huge pages # SKIP this kernel has none");
	else
		ok(flags_of((void *)(ref->slots >> 16), flags, sizeof(flags)) && strstr(flags, " nh"),
		   "the slots are on no huge page");
	free_ref(ref);
}

/* ---- a thread whose sequence is not registered ----------------------------------------- */

static void *unregistered(void *arg)
{
	struct module_ref *ref = arg;
	uint64_t before;

	if (percpu && !rseq_unregister(ref))
		return "cannot unregister";
	before = ref->word;
	if (!module_ref_try_get(ref) || !module_ref_try_get_inline(ref))
		return "no reference";
	if (ref->word != before + 32)
		return "counted outside of the word";
	module_ref_put_inline(ref);
	return NULL; /* with one reference, for another thread to put */
}

static void thread_without_rseq(void)
{
	struct module_ref *ref = new_ref();
	pthread_t thread;
	void *why;

	ok(module_ref_try_get(ref), "get, with a registered sequence");
	thread = start_thread(unregistered, ref);
	pthread_join(thread, &why);
	ok(!why, "get in a thread without: %s", why ? (char *)why : "counted in the word");
	is(module_ref_count(ref), 2, "both count");
	module_ref_put(ref);
	is(module_ref_try_release(ref), -EWOULDBLOCK, "one is left");
	module_ref_put(ref);
	is(module_ref_try_release(ref), 0, "none is left");
	free_ref(ref);
}

/* ---- signal handlers inside each other's sequences ---------------------------------------- */

static struct module_ref *signalled;
static _Atomic long handled;

static void get_and_put(int number)
{
	if (module_ref_try_get_inline(signalled))
		module_ref_put(signalled);
	if (module_ref_try_get(signalled))
		module_ref_put_inline(signalled);
	atomic_fetch_add(&handled, 1);
}

static void signals(void)
{
	struct sigaction action = { .sa_handler = get_and_put };
	struct module_ref *ref = new_ref();
	struct traffic traffic = { ref, true, false, 0 };
	pthread_t thread;

	signalled = ref;
	sigaction(SIGUSR1, &action, NULL);
	atomic_store(&stop, 0);
	thread = start_thread(run_traffic, &traffic);
	for (long n = 0; n < scale * 16 || atomic_load(&traffic.rounds) == 0; n++)
		pthread_kill(thread, SIGUSR1);
	atomic_store(&stop, 1);
	pthread_join(thread, NULL);
	is(module_ref_count(ref), 0, "%ld signals in %ld rounds, and it adds up",
	   atomic_load(&handled), atomic_load(&traffic.rounds));
	is(module_ref_try_release(ref), 0, "released");
	free_ref(ref);
}

enum { COUNTERS = 300 };

static void *make_counters(void *arg)
{
	struct module_ref *refs = arg;

	/* Never given back: that would be what takes the time, and not the making. */
	for (long n = 0; n < scale * COUNTERS && !atomic_load(&stop); n++)
		need(module_ref_init_percpu(&refs[n]) == 0);
	return NULL;
}

/* ---- fork -------------------------------------------------------------------------------------- */

static void forks(void)
{
	struct module_ref *ref = new_ref();
	struct traffic traffic = { ref, false, false, 0 };
	struct module_ref *many = calloc((size_t)scale * COUNTERS, sizeof(*many));
	int wrong = 0, status;
	pthread_t thread, maker;

	atomic_store(&stop, 0);
	thread = start_thread(run_traffic, &traffic);
	maker = start_thread(make_counters, many);
	for (int n = 0; n < 200; n++) {
		pid_t child = fork();

		if (child == 0) {
			/* The other thread's reference may have come along; ours works. */
			struct module_ref *own = new_ref();
			int64_t left = module_ref_count(ref);
			bool fine = left == 0 || left == 1;

			fine = fine && module_ref_try_get(ref);
			fine = fine && module_ref_try_release(ref) == -EWOULDBLOCK;
			module_ref_put(ref);
			fine = fine && module_ref_try_get(own);
			module_ref_put(own);
			fine = fine && module_ref_try_release(own) == 0;
			_exit(fine ? 0 : 1);
		}
		waitpid(child, &status, 0);
		wrong += status != 0;
	}
	atomic_store(&stop, 1);
	pthread_join(thread, NULL);
	pthread_join(maker, NULL);
	free(many);
	is(wrong, 0, "200 children, forked under traffic, go on counting and make counters");
	is(module_ref_try_release(ref), 0, "and so does the parent");
	free_ref(ref);
}

/* ---- system calls -------------------------------------------------------------------------------- */

static int calls;
static long last_call;
static long argument;

static void count_call(int number, siginfo_t *info, void *context)
{
	calls++;
	last_call = info->si_syscall;
#if defined(__x86_64__)
	argument = (long)((ucontext_t *)context)->uc_mcontext.gregs[REG_RDI];
	((ucontext_t *)context)->uc_mcontext.gregs[REG_RAX] = 0;
#elif defined(__aarch64__)
	argument = (long)((ucontext_t *)context)->uc_mcontext.regs[0];
	((ucontext_t *)context)->uc_mcontext.regs[0] = 0;
#else
	(void)context; /* what the call answers is whatever was in the register */
#endif
}

/* In a child: every system call but those that end it is counted and not made. */
static int count_calls(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_rt_sigreturn, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sigaction action = { .sa_sigaction = count_call, .sa_flags = SA_SIGINFO };
	struct module_ref *ref = new_ref();

	sigaction(SIGSYS, &action, NULL);
	need(filter_by(code, sizeof(code) / sizeof(code[0]), 0) == 0);
	module_ref_try_get(ref);
	for (int n = 0; n < 100; n++)
		if (module_ref_try_release(ref) != -EWOULDBLOCK)
			return 1;
	if (calls != 0)
		return 2;
	module_ref_put(ref);
	if (calls != 0)
		return 3;
	if (module_ref_try_release(ref) != 0)
		return 4;
	if (calls != 1 || last_call != SYS_membarrier)
		return 5;
	/* Another command orders what others do, but aborts no sequence. */
	return argument == MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ ? 0 : 6;
}

/* In a child: membarrier is refused once the counter is there. */
static int refuse_barrier(void)
{
	struct module_ref *ref = new_ref();

	need(refuse_call(SYS_membarrier, 0) == 0);
	if (module_ref_try_release(ref) != -EPERM)
		return 1;
	if (module_ref_drain(ref, -1) != -EPERM)
		return 2;
	if (module_ref_count(ref) != 0 || !module_ref_try_get(ref))
		return 3;
	if (module_ref_count(ref) != 1 || module_ref_try_release(ref) != -EWOULDBLOCK)
		return 4;
	module_ref_put(ref);
	return module_ref_count(ref) == 0 ? 0 : 5;
}

/* In a child: no memory for the slots. */
static int refuse_memory(void)
{
	static struct module_ref held[20000], untouched = { 1, 0x1000 };
	struct rlimit none = { 0, 0 };
	int rc = 0, n = 0;

	setrlimit(RLIMIT_AS, &none);
	while (rc == 0 && n < 20000)
		rc = module_ref_init_percpu(&held[n++]);
	if (rc != -ENOMEM)
		return 1;
	if (module_ref_init_percpu(&untouched) != -ENOMEM)
		return 2;
	return untouched.word == 1 && untouched.slots == 0x1000 ? 0 : 3;
}

static int in_child(int (*body)(void))
{
	pid_t child = fork();
	int status;

	need(child >= 0);
	if (child == 0)
		_exit(body());
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

int main(int argc, char **argv)
{
	module_ref_set_misuse_handler(on_misuse);
	percpu = has_per_cpu();
	printf("# mode: %s\n", percpu ? "percpu" : "atomic");
	if (argc > 2)
		scale = atol(argv[2]);
	if (argc > 1)
		ok(percpu == (strcmp(argv[1], "percpu") == 0), "%s: %s", argv[1],
		   percpu ? "nothing is missing" : why_not_per_cpu());
	answers();
	misuse();
	header_and_library();
	descriptors();
	thread_without_rseq();
	signals();
	forks();
	if (percpu) {
		no_huge_pages();
		is(in_child(count_calls), 0,
		   "a busy attempt makes no system call, an idle one one membarrier");
		is(in_child(refuse_barrier), 0, "a refused membarrier is told, and nothing is lost");
		is(in_child(refuse_memory), 0, "no memory: -ENOMEM, and the counter is untouched");
	}
	return tap_done();
}
