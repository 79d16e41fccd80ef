/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * events.c - what happens to a thread between its get and its put: a storm of timer signals,
 * cancellation, the end of the thread, a fork, an exec, another CPU at every step, CPUs that go
 * away. Each of them with counters in one word and per CPU, and each
 * time the count is exact afterwards and the counter can be used.
 *
 *     MODULE_REF_OFFLINE_CPUS=1 events    takes a CPU of this machine offline for a moment,
 *                                         and back whatever becomes of the test
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>

#include "host.h"
#include "module_ref_inline.h"
#include "oracle.h"
#include "rseq.h"
#include "threads.h"

#ifndef sigev_notify_thread_id
#define sigev_notify_thread_id _sigev_un._tid /* as Linux calls it, and glibc does not */
#endif

static bool per_cpu;
static const char *mode;
static _Atomic int stop;

static struct module_ref *new_ref(void)
{
	struct module_ref *ref = aligned_alloc(64, 64);

	need(ref && (per_cpu ? module_ref_init_percpu(ref) : module_ref_init(ref)) == 0);
	need(module_ref_mode(ref) == (per_cpu ? MODULE_REF_PERCPU : MODULE_REF_ATOMIC));
	return ref;
}

/* As after every event: that many references, to be put; then none, and the counter goes, comes
 * back, and goes. */
static void ends_well(struct module_ref *ref, long held, const char *event)
{
	is(module_ref_count(ref), held, "%s, %s: the count is exact", event, mode);
	for (; held > 0; held--) {
		if (module_ref_try_release(ref) != -EWOULDBLOCK)
			break;
		module_ref_put(ref);
	}
	is(held, 0, "%s, %s: not released before the last put", event, mode);
	is(module_ref_try_release(ref), 0, "%s, %s: and then it is", event, mode);
	need(module_ref_reinit(ref) == 0 && module_ref_try_get(ref));
	is(module_ref_drain(ref, 0), -ETIMEDOUT, "%s, %s: the counter is usable", event, mode);
	module_ref_put(ref);
	is(module_ref_drain(ref, 0), 0, "%s, %s: both ways", event, mode);
	module_ref_destroy(ref);
	free(ref);
}

/* ---- traffic, from the inlined and from the library's functions --------------------- */

struct traffic {
	struct module_ref *ref;
	pid_t tid;
	bool unregistered;	/* the thread gives its restartable sequence up */
	bool storm;		/* has a timer interrupt it all the time */
	bool migrates;		/* goes to another CPU between its get and its put */
	unsigned every;		/* how many rounds from one reference that it keeps to the next */
	_Atomic long kept, rounds;
};

static cpu_set_t all_cpus;

static void to_cpu(pid_t tid, unsigned n)
{
	cpu_set_t one;
	unsigned cpu = 0;

	for (n %= (unsigned)CPU_COUNT(&all_cpus);; cpu++)
		if (CPU_ISSET(cpu, &all_cpus) && n-- == 0)
			break;
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	/* A CPU that has gone offline is refused: we stay where we are. */
	sched_setaffinity(tid, sizeof(one), &one);
}

/* Every 20 microseconds of the thread's own time, or as often as the kernel can. */
static timer_t start_storm(void)
{
	struct itimerspec often = { { 0, 20000 }, { 0, 20000 } };
	struct sigevent event;
	timer_t timer;

	memset(&event, 0, sizeof(event));
	event.sigev_notify = SIGEV_THREAD_ID;
	event.sigev_signo = SIGUSR1;
	event.sigev_notify_thread_id = gettid();
	need(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
	need(timer_settime(timer, 0, &often, NULL) == 0);
	return timer;
}

static void *run_traffic(void *arg)
{
	struct traffic *traffic = arg;
	struct module_ref *ref = traffic->ref;
	timer_t timer = NULL;

	traffic->tid = gettid();
	if (traffic->unregistered && per_cpu)
		need(rseq_unregister(ref));
	if (traffic->storm)
		timer = start_storm();
	for (long n = 0; !atomic_load(&stop); n++) {
		bool inlined = n % 2 == 0;

		if (!(inlined ? module_ref_try_get_inline(ref) : module_ref_try_get(ref)))
			continue;
		if (traffic->migrates)
			to_cpu(0, (unsigned)n);
		if (traffic->every && n % traffic->every == 0)
			traffic->kept++;
		else if (inlined)
			module_ref_put(ref);
		else
			module_ref_put_inline(ref);
		traffic->rounds++;
	}
	if (traffic->storm)
		timer_delete(timer);
	return NULL;
}

enum { WORKERS = 3 };

/* Runs the workers while meanwhile() says so, and returns what they have kept. */
static long run(struct traffic *workers, void (*meanwhile)(struct traffic *workers))
{
	pthread_t threads[WORKERS];
	long kept = 0, rounds = 0;

	atomic_store(&stop, 0);
	for (int i = 0; i < WORKERS; i++)
		threads[i] = start_thread(run_traffic, &workers[i]);
	for (int i = 0; i < WORKERS; i++)
		while (atomic_load(&workers[i].rounds) == 0)
			sched_yield();
	meanwhile(workers);
	atomic_store(&stop, 1);
	for (int i = 0; i < WORKERS; i++) {
		pthread_join(threads[i], NULL);
		kept += atomic_load(&workers[i].kept);
		rounds += atomic_load(&workers[i].rounds);
	}
	printf("# %s: %ld rounds, %ld references kept\n", mode, rounds, kept);
	return kept;
}

/* ---- a storm of timer signals ----------------------------------------------------------- */

static struct module_ref *in_handler;
static _Atomic long handled, kept_by_handler;

/* Keeps every 64th of its own references for somebody else to put. */
static void on_timer(int number)
{
	int before = errno;

	if (module_ref_try_get_inline(in_handler)) {
		if (atomic_fetch_add(&handled, 1) % 64 == 0)
			atomic_fetch_add(&kept_by_handler, 1);
		else
			module_ref_put(in_handler);
	}
	errno = before;
}

static void while_released_and_not(struct traffic *workers)
{
	struct timespec t, end;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_nsec += 300000000;
	do {
		/* Held all the time: each attempt has to find that out, and leave the counter live. */
		need(module_ref_try_release(workers->ref) == -EWOULDBLOCK);
		need(module_ref_drain(workers->ref, 20000) == -ETIMEDOUT);
		sleep_ns(200 * MICROSECOND);
		clock_gettime(CLOCK_MONOTONIC, &t);
	} while ((t.tv_sec - end.tv_sec) * 1000000000LL + t.tv_nsec - end.tv_nsec < 0);
}

static void while_handled(struct traffic *workers)
{
	do
		while_released_and_not(workers);
	while (atomic_load(&handled) <= 100);
}

static void signal_storm(void)
{
	struct sigaction action = { .sa_handler = on_timer };
	struct module_ref *ref = in_handler = new_ref();
	struct traffic workers[WORKERS] = { { .ref = ref, .storm = true, .every = 100 },
					    { .ref = ref, .storm = true, .every = 101 },
					    { .ref = ref, .storm = true } };
	long kept;

	sigaction(SIGUSR1, &action, NULL);
	atomic_store(&handled, 0);
	atomic_store(&kept_by_handler, 0);
	need(module_ref_try_get(ref));
	kept = run(workers, while_handled);
	ok(atomic_load(&handled) > 100, "signals, %s: %ld handlers got references", mode,
	   atomic_load(&handled));
	ends_well(ref, 1 + kept + atomic_load(&kept_by_handler), "signals");
}

/* ---- another CPU at every step ------------------------------------------------------------ */

/* From outside, at any instruction. */
static void push_about(struct traffic *workers)
{
	for (unsigned n = 0; n < 6000; n++)
		to_cpu(workers[n % WORKERS].tid, n / WORKERS + n);
	while_released_and_not(workers);
}

static void migration(void)
{
	struct module_ref *ref = new_ref(), *pushed = new_ref();
	struct traffic themselves[WORKERS] = { { .ref = ref, .migrates = true, .every = 10 },
					       { .ref = ref, .migrates = true },
					       { .ref = ref, .every = 1000 } };
	struct traffic others[WORKERS] = { { .ref = pushed, .every = 100000 },
					   { .ref = pushed },
					   { .ref = pushed } };

	need(module_ref_try_get(ref) && module_ref_try_get(pushed));
	ends_well(ref, 1 + run(themselves, while_released_and_not), "affinity");
	ends_well(pushed, 1 + run(others, push_about), "affinity from outside");
}

/* ---- threads without a registered sequence among those that have one ----------------------- */

static void mixed(void)
{
	struct module_ref *ref = new_ref();
	struct traffic workers[WORKERS] = {
		{ .ref = ref, .unregistered = true, .every = 1000 },
		{ .ref = ref, .every = 1000 },
		{ .ref = ref, .unregistered = true, .migrates = true },
	};

	need(module_ref_try_get(ref));
	ends_well(ref, 1 + run(workers, while_released_and_not), "unregistered threads");
}

/* ---- CPUs that go away ------------------------------------------------------------------------ */

static const char online[] = "/sys/devices/system/cpu/cpu1/online";

static bool set_online(bool on)
{
	int fd = open(online, O_WRONLY | O_CLOEXEC);
	bool done = fd >= 0 && write(fd, on ? "1" : "0", 1) == 1;

	if (fd >= 0)
		close(fd);
	return done;
}

/* A process that puts the CPU back when this one is gone, however that comes. */
static pid_t guard(int *end)
{
	int fds[2];
	pid_t child;
	char byte;

	need(pipe(fds) == 0 && (child = fork()) >= 0);
	if (child == 0) {
		setsid();
		close(fds[1]);
		while (read(fds[0], &byte, 1) < 0)
			;
		for (int n = 0; n < 100 && !set_online(true); n++)
			sleep_ns(10 * MILLISECOND);
		_exit(0);
	}
	close(fds[0]);
	fcntl(fds[1], F_SETFD, FD_CLOEXEC);
	*end = fds[1];
	return child;
}

static void off_and_on(struct traffic *workers)
{
	pid_t guardian;
	int end, status, went = 0, came = 0;

	guardian = guard(&end);
	for (int n = 0; n < 3; n++) {
		went += set_online(false);
		while_released_and_not(workers);
		came += set_online(true);
	}
	close(end);
	waitpid(guardian, &status, 0);
	is(came, went, "CPU 1 went offline %d times, and came back%s", went,
	   went ? "" : " # SKIP the system does not allow it");
}

/* Without it: all threads of the process are taken off all CPUs but one, and let on again. */
static void fewer_and_more(struct traffic *workers)
{
	for (unsigned n = 0; n < 4; n++) {
		for (int i = 0; i < WORKERS; i++) {
			if (n % 2 == 0)
				to_cpu(workers[i].tid, n / 2);
			else
				sched_setaffinity(workers[i].tid, sizeof(all_cpus), &all_cpus);
		}
		while_released_and_not(workers);
	}
}

static void cpus_that_go(void)
{
	const char *wanted = getenv("MODULE_REF_OFFLINE_CPUS");
	struct module_ref *ref = new_ref();
	struct traffic workers[WORKERS] = { { .ref = ref, .every = 1000 },
					    { .ref = ref, .every = 1001 },
					    { .ref = ref, .every = 1002 } };
	bool offline = wanted && strcmp(wanted, "1") == 0;

	if (offline && access(online, W_OK) != 0) {
		ok(1, "CPUs offline, %s # SKIP %s cannot be written", mode, online);
		offline = false;
	}
	need(module_ref_try_get(ref));
	ends_well(ref, 1 + run(workers, offline ? off_and_on : fewer_and_more),
		  offline ? "CPUs offline" : "fewer CPUs");
}

/* ---- cancellation ------------------------------------------------------------------------------ */

static sem_t ready;

static void put_ref(void *ref)
{
	module_ref_put(ref);
}

/* Holds, and is cancelled where it waits. */
static void *hold_and_wait(void *arg)
{
	need(module_ref_try_get(arg));
	pthread_cleanup_push(put_ref, arg);
	sem_post(&ready);
	for (;;)
		pause();
	pthread_cleanup_pop(1);
	return NULL;
}

/* Holds, and is cancelled at any instruction of what is not the library. (A get or a put may
 * not be cancelled asynchronously: POSIX allows that to three functions of its own alone.) */
static void *hold_and_compute(void *arg)
{
	static volatile unsigned long sum;

	need(module_ref_try_get(arg));
	pthread_cleanup_push(put_ref, arg);
	sem_post(&ready);
	pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	for (;;)
		sum = sum + 1;
	pthread_cleanup_pop(1);
	return NULL;
}

/* Gets and puts, and is cancelled at the one place between them where it may be. */
static void *get_and_put(void *arg)
{
	need(module_ref_try_get(arg));
	module_ref_put(arg);
	sem_post(&ready);
	for (;;) {
		need(module_ref_try_get(arg));
		pthread_cleanup_push(put_ref, arg);
		pthread_testcancel();
		pthread_cleanup_pop(1);
	}
	return NULL;
}

static void cancelled_holders(void)
{
	static void *(*const bodies[])(void *) = { hold_and_wait, hold_and_compute, get_and_put };
	enum { ROUNDS = 100 };
	struct module_ref *ref = new_ref();
	int cancelled = 0;
	void *result;

	for (int n = 0; n < ROUNDS * 3; n++) {
		pthread_t thread = start_thread(bodies[n % 3], ref);

		sem_wait(&ready);
		pthread_cancel(thread);
		pthread_join(thread, &result);
		cancelled += result == PTHREAD_CANCELED;
	}
	is(cancelled, ROUNDS * 3, "cancelled holders, %s: all ended so", mode);
	ends_well(ref, 0, "cancelled holders");
}

struct drainer {
	struct module_ref *ref;
	int64_t timeout;
	int type;
	_Atomic int rc;
};

static void *drain(void *arg)
{
	struct drainer *drainer = arg;

	sem_post(&ready);
	atomic_store(&drainer->rc, module_ref_drain(drainer->ref, drainer->timeout));
	pthread_testcancel();
	return NULL;
}

/* A drain is no cancellation point: it ends as it would have, and the thread learns of its
 * cancellation afterwards. */
static void cancelled_drains(void)
{
	struct drainer drainer = { .ref = new_ref(), .timeout = -1, .rc = 1 };
	pthread_t thread;
	void *result;

	need(module_ref_try_get(drainer.ref));
	thread = start_thread(drain, &drainer);
	sem_wait(&ready);
	while (module_ref_try_get(drainer.ref))
		module_ref_put(drainer.ref);
	pthread_cancel(thread);
	sleep_ns(20 * MILLISECOND);
	is(atomic_load(&drainer.rc), 1, "cancelled drain, %s: goes on waiting", mode);
	ok(!module_ref_try_get(drainer.ref), "cancelled drain, %s: it stays closed", mode);
	module_ref_put(drainer.ref);
	pthread_join(thread, &result);
	is(atomic_load(&drainer.rc), 0, "cancelled drain, %s: ends with the last put", mode);
	ok(result == PTHREAD_CANCELED, "cancelled drain, %s: then the thread does", mode);

	need(module_ref_reinit(drainer.ref) == 0 && module_ref_try_get(drainer.ref));
	drainer.timeout = 20 * MILLISECOND;
	thread = start_thread(drain, &drainer);
	sem_wait(&ready);
	pthread_cancel(thread);
	pthread_join(thread, &result);
	is(atomic_load(&drainer.rc), -ETIMEDOUT, "cancelled drain, %s: or with its time", mode);
	ends_well(drainer.ref, 1, "cancelled drain");
}

/* ---- the end of the thread ----------------------------------------------------------------------- */

static pthread_key_t key;

static void *get_and_end(void *arg)
{
	return module_ref_try_get(arg) ? arg : NULL;
}

/* The put is the destructor of a thread-specific value, after all of the thread's code. */
static void *get_and_leave(void *arg)
{
	need(module_ref_try_get(arg));
	pthread_setspecific(key, arg);
	return arg;
}

static void *put_of_another(void *arg)
{
	module_ref_put(arg);
	return arg;
}

static void ended_threads(void)
{
	enum { ROUNDS = 200 };
	struct module_ref *ref = new_ref();
	pthread_t threads[3];
	long held = 0;

	need(pthread_key_create(&key, put_ref) == 0);
	for (int n = 0; n < ROUNDS; n++) {
		void *got;

		threads[0] = start_thread(get_and_end, ref);
		threads[1] = start_thread(get_and_leave, ref);
		pthread_join(threads[0], &got);
		held += got != NULL;
		threads[2] = start_thread(n % 2 ? put_of_another : get_and_end, ref);
		held += n % 2 ? -1 : 1;
		pthread_join(threads[1], NULL);
		pthread_join(threads[2], NULL);
	}
	need(pthread_key_delete(key) == 0);
	is(held, ROUNDS, "ended threads, %s: each other one's reference was put", mode);
	ends_well(ref, held, "ended threads");
}

/* ---- fork ------------------------------------------------------------------------------------------ */

/* What is wrong in the child, or 0. */
static int child_of_holder(struct module_ref *ref)
{
	if (module_ref_count(ref) != 3 || module_ref_try_release(ref) != -EWOULDBLOCK)
		return 1;
	if (!module_ref_try_get(ref) || module_ref_count(ref) != 4)
		return 2;
	for (int n = 0; n < 4; n++)
		module_ref_put(ref);
	if (module_ref_count(ref) != 0 || module_ref_try_release(ref) != 0)
		return 3;
	return module_ref_reinit(ref) == 0 && module_ref_drain(ref, -1) == 0 ? 0 : 4;
}

/* The drain of the parent's thread is a copy that nobody ends: never an early release. */
static int child_of_drainer(struct module_ref *ref)
{
	if (module_ref_try_get(ref) || module_ref_try_release(ref) != -EBUSY)
		return 1;
	module_ref_put(ref);
	if (module_ref_try_get(ref) || module_ref_try_release(ref) != -EBUSY)
		return 2;
	return module_ref_drain(ref, 0) == -EBUSY ? 0 : 3;
}

static int in_child(int (*body)(struct module_ref *), struct module_ref *ref)
{
	pid_t child;
	int status;

	fflush(stdout);
	need((child = fork()) >= 0);
	if (child == 0) {
		_exit(body(ref));
	}
	need(waitpid(child, &status, 0) == child);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

static void forks(void)
{
	struct module_ref *ref = new_ref();
	struct drainer drainer = { .ref = new_ref(), .timeout = -1, .rc = 1 };
	pthread_t thread;
	int wrong = 0;

	for (int n = 0; n < 3; n++)
		need(module_ref_try_get(ref));
	for (int n = 0; n < 20; n++)
		wrong += in_child(child_of_holder, ref) != 0;
	is(wrong, 0, "fork, %s: each child has the references, and is done with them", mode);
	ends_well(ref, 3, "fork");

	need(module_ref_try_get(drainer.ref));
	thread = start_thread(drain, &drainer);
	sem_wait(&ready);
	while (module_ref_try_get(drainer.ref))
		module_ref_put(drainer.ref);
	is(in_child(child_of_drainer, drainer.ref), 0, "fork, %s: a drain under way", mode);
	is(atomic_load(&drainer.rc), 1, "fork, %s: is still under way in the parent", mode);
	module_ref_put(drainer.ref);
	pthread_join(thread, NULL);
	is(atomic_load(&drainer.rc), 0, "fork, %s: and ends there", mode);
	need(module_ref_reinit(drainer.ref) == 0);
	ends_well(drainer.ref, 0, "fork while draining");
}

/* ---- exec ------------------------------------------------------------------------------------------- */

/* What the program does when it is started with a mode: it has counters of its own, in the mode
 * that its parent's were in, although exec has forgotten the registration for membarrier. */
static int after_exec(const char *name)
{
	struct module_ref *ref;
	int rc;

	per_cpu = strcmp(name, "percpu") == 0;
	ref = new_ref();
	if (module_ref_mode(ref) != (per_cpu ? MODULE_REF_PERCPU : MODULE_REF_ATOMIC))
		return 1;
	if (!module_ref_try_get(ref) || module_ref_drain(ref, 0) != -ETIMEDOUT)
		return 2;
	module_ref_put(ref);
	rc = module_ref_drain(ref, -1);
	free(ref);
	return rc == 0 ? 0 : 3;
}

static void spawn_ourselves(struct traffic *workers)
{
	char *argv[] = { "events", per_cpu ? "percpu" : "atomic", NULL };
	extern char **environ;
	int status, wrong = 0;
	pid_t child;

	for (int n = 0; n < 20; n++) {
		/* A child that shares this process's memory until it execs: no get, no put. */
		need(posix_spawn(&child, "/proc/self/exe", NULL, NULL, argv, environ) == 0);
		need(waitpid(child, &status, 0) == child);
		wrong += status != 0;
	}
	is(wrong, 0, "exec, %s: each program has its own counters, in this mode", mode);
}

static void execs(void)
{
	struct module_ref *ref = new_ref();
	struct traffic workers[WORKERS] = { { .ref = ref, .every = 1000 },
					    { .ref = ref, .every = 1001 },
					    { .ref = ref, .every = 1002 } };

	need(module_ref_try_get(ref));
	ends_well(ref, 1 + run(workers, spawn_ourselves), "exec");
}

/* ---- cancellation of threads in the host ----------------------------------------------------------- */

int on_init(struct module *self);
void on_exit_of(struct module *self);

static struct module_host *host;
static _Atomic bool slow, asked_to_end;
static _Atomic int inits, exits, host_rc;

/* With a cancellation point in the plugin's own function. */
int on_init(struct module *self)
{
	if (atomic_load(&slow)) {
		sem_post(&ready);
		do
			sleep_ns(MILLISECOND);
		while (!atomic_load(&asked_to_end));
	}
	atomic_fetch_add(&inits, 1);
	return 0;
}

void on_exit_of(struct module *self)
{
	if (atomic_load(&slow))
		sleep_ns(MILLISECOND);
	atomic_fetch_add(&exits, 1);
}

static unsigned load_flags(void)
{
	return per_cpu ? 0 : MODULE_LOAD_ATOMIC;
}

/* Not before it is asked to, however late that is. */
static void *end_here(void)
{
	while (!atomic_load(&asked_to_end))
		sched_yield();
	pthread_testcancel();
	return NULL;
}

static void *load(void *arg)
{
	atomic_store(&host_rc, module_load_flags(host, plugin("hooked.so"), "hooked", load_flags(),
						 NULL));
	return end_here();
}

static void *unload(void *arg)
{
	sem_post(&ready);
	atomic_store(&host_rc, module_unload(host, "hooked", 0, *(int64_t *)arg));
	return end_here();
}

static void *replace(void *arg)
{
	atomic_store(&host_rc, module_replace(host, "hooked", plugin("hooked2.so"), -1));
	return end_here();
}

static pthread_t start_to_end(void *(*body)(void *), void *arg)
{
	atomic_store(&asked_to_end, false);
	return start_thread(body, arg);
}

static void end_cancelled(pthread_t thread, int expected, const char *what)
{
	void *result;

	pthread_cancel(thread);
	atomic_store(&asked_to_end, true);
	pthread_join(thread, &result);
	is(atomic_load(&host_rc), expected, "cancelled %s, %s: ends first", what, mode);
	ok(result == PTHREAD_CANCELED, "cancelled %s, %s: and then the thread", what, mode);
}

static void cancelled_in_the_host(void)
{
	int64_t timeout = -1;
	struct module *mod;
	pthread_t thread;

	host = module_host_new();
	atomic_store(&slow, true);
	atomic_store(&inits, 0);
	atomic_store(&exits, 0);

	atomic_store(&host_rc, 1);
	thread = start_to_end(load, NULL);
	sem_wait(&ready);
	end_cancelled(thread, 0, "load");
	is(atomic_load(&inits), 1, "cancelled load, %s: the init function ran to its end", mode);

	need((mod = module_find_get(host, "hooked")));
	atomic_store(&host_rc, 1);
	thread = start_to_end(unload, &timeout);
	sem_wait(&ready);
	while (module_try_get(mod))
		module_put(mod);
	pthread_cancel(thread);
	sleep_ns(20 * MILLISECOND);
	is(atomic_load(&host_rc), 1, "cancelled unload, %s: goes on waiting", mode);
	is(module_refcount(mod), 1, "cancelled unload, %s: for the holder", mode);
	module_put(mod);
	end_cancelled(thread, 0, "unload");
	is(atomic_load(&exits), 1, "cancelled unload, %s: the exit function ran to its end", mode);
	ok(!module_find_get(host, "hooked"), "cancelled unload, %s: the module is gone", mode);

	need(module_load_flags(host, plugin("hooked.so"), "hooked", load_flags(), NULL) == 0);
	sem_wait(&ready);
	need((mod = module_find_get(host, "hooked")));
	timeout = 20 * MILLISECOND;
	thread = start_to_end(unload, &timeout);
	sem_wait(&ready);
	end_cancelled(thread, -ETIMEDOUT, "unload with a timeout");
	ok(module_try_get(mod), "cancelled unload, %s: after which the module is live", mode);
	module_put(mod);
	module_put(mod);

	atomic_store(&host_rc, 1);
	thread = start_to_end(replace, NULL);
	sem_wait(&ready);
	end_cancelled(thread, 0, "replace");
	need((mod = module_find_get(host, "hooked")));
	is(call(mod, "answer"), 2, "cancelled replace, %s: the new one is in service", mode);
	module_put(mod);
	is(module_unload(host, "hooked", 0, 0), 0, "cancelled replace, %s: and can be unloaded",
	   mode);
	is(atomic_load(&exits), 3, "cancelled, %s: each init", mode);
	is(atomic_load(&inits), 3, "cancelled, %s: has its exit", mode);
	is(module_host_free(host), 0, "cancelled, %s: and the host is empty", mode);
}

int main(int argc, char **argv)
{
	static void (*const events[])(void) = {
		signal_storm,	   migration,	     mixed, cpus_that_go,
		cancelled_holders, cancelled_drains, ended_threads, forks, execs,
		cancelled_in_the_host,
	};
	if (argc > 1)
		return after_exec(argv[1]);
	need(sched_getaffinity(0, sizeof(all_cpus), &all_cpus) == 0 && sem_init(&ready, 0, 0) == 0);
	for (int n = 0; n < 2; n++) {
		per_cpu = n == 1;
		if (per_cpu && why_not_per_cpu()) {
			ok(1, "counters per CPU # SKIP %s", why_not_per_cpu());
			break;
		}
		mode = per_cpu ? "per CPU" : "in one word";
		for (size_t i = 0; i < sizeof(events) / sizeof(events[0]); i++)
			events[i]();
	}
	return tap_done();
}
