/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * drainfd.c - drains and unloads that an event loop waits for: begun, and finished or cancelled
 * later. Counters in one word and per CPU; then modules.
 *
 * The library's timer expires every 100 ms also without a hint. Where a test is about the hint, it
 * switches that off, through the descriptor that it was given: then only the hint makes it readable.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>

#include "host.h"

/* As good as for ever, and still the test ends if it is broken. */
enum { LONG = 10000 };

static bool per_cpu;
static const char *mode;
static int leaks;

static void on_misuse(enum module_ref_misuse what, const struct module_ref *ref, const void *caller)
{
	(void)ref;
	(void)caller;
	leaks += what == MODULE_REF_LEAKED;
}

static struct module_ref *new_ref(void)
{
	struct module_ref *ref = aligned_alloc(64, 64);

	need(ref);
	memset(ref, 0, sizeof(*ref));
	need((per_cpu ? module_ref_init_percpu(ref) : module_ref_init(ref)) == 0);
	return ref;
}

static struct module_ref *held_ref(void)
{
	struct module_ref *ref = new_ref();

	need(module_ref_try_get(ref));
	return ref;
}

static void free_ref(struct module_ref *ref)
{
	module_ref_destroy(ref);
	free(ref);
}

static bool readable(int fd, int ms)
{
	struct pollfd one = { .fd = fd, .events = POLLIN };
	int rc;

	do {
		rc = poll(&one, 1, ms);
	} while (rc == -1 && errno == EINTR);
	need(rc >= 0);
	return rc == 1 && one.revents == POLLIN;
}

/* Sets a timer, or stops it with 0: what it was about to say is forgotten. */
static void set_timer(int fd, long ns)
{
	const struct itimerspec times = { .it_value.tv_nsec = ns };

	need(timerfd_settime(fd, 0, &times, NULL) == 0);
}

/* A drain of a counter, of which only a hint will be heard. */
static int begin_quietly(struct module_ref *ref)
{
	int fd = module_ref_drain_begin(ref);

	need(fd >= 0);
	set_timer(fd, 0);
	return fd;
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * SECOND + now.tv_nsec;
}

static pthread_t start(void *(*body)(void *), void *arg)
{
	pthread_t thread;

	need(pthread_create(&thread, NULL, body, arg) == 0);
	return thread;
}

/* Live, held so often, and of use. */
static void is_live(struct module_ref *ref, int64_t held, const char *after)
{
	is(module_ref_count(ref), held, "%s, %s: live, with its count", after, mode);
	ok(module_ref_try_get(ref), "%s, %s: a reference is to be had", after, mode);
	module_ref_put(ref);
	is(module_ref_count(ref), held, "%s, %s: and to be put", after, mode);
	is(module_ref_mode(ref), per_cpu ? MODULE_REF_PERCPU : MODULE_REF_ATOMIC,
	   "%s, %s: in the mode it had", after, mode);
	is(ref->slots & 1, per_cpu, "%s, %s: and its slots are used", after, mode);
}

static void is_released(struct module_ref *ref, const char *after)
{
	is(module_ref_count(ref), -1, "%s, %s: released", after, mode);
	ok(!module_ref_try_get(ref), "%s, %s: nobody gets one", after, mode);
	is(module_ref_try_release(ref), -EALREADY, "%s, %s: once", after, mode);
	is(module_ref_drain_finish(ref), -EINVAL, "%s, %s: the drain is over", after, mode);
	is(module_ref_drain_cancel(ref), -EINVAL, "%s, %s: and cannot be cancelled", after, mode);
}

/* ---- one drain --------------------------------------------------------------------------- */

static void begin_and_finish(void)
{
	struct module_ref *ref = held_ref(), other = MODULE_REF_INIT;
	int fd = module_ref_drain_begin(ref);

	ok(fd >= 0, "begin, %s: a descriptor", mode);
	ok(fcntl(fd, F_GETFD) & FD_CLOEXEC, "begin, %s: closed on exec", mode);
	ok(fcntl(fd, F_GETFL) & O_NONBLOCK, "begin, %s: non-blocking", mode);
	ok(!module_ref_try_get(ref), "begin, %s: the door is shut", mode);
	is(module_ref_count(ref), 1, "begin, %s: the holder is there", mode);
	module_ref_get(ref);
	is(module_ref_drain_finish(ref), -EINPROGRESS, "finish, %s: held", mode);
	module_ref_put(ref);
	is(module_ref_drain_finish(ref), -EINPROGRESS, "finish, %s: still held", mode);
	is(module_ref_drain_begin(ref), -EBUSY, "meanwhile, %s: no second drain is begun", mode);
	is(module_ref_drain(ref, 0), -EBUSY, "meanwhile, %s: nor done", mode);
	is(module_ref_try_release(ref), -EBUSY, "meanwhile, %s: nor a release", mode);
	is(module_ref_reinit(ref), -EBUSY, "meanwhile, %s: nor a reinit", mode);
	leaks = 0;
	module_ref_destroy(ref);
	is(leaks, 1, "meanwhile, %s: it cannot be destroyed, which is reported", mode);
	is(module_ref_drain_finish(&other), -EINVAL, "another counter, %s: no drain of it", mode);
	is(module_ref_drain_cancel(&other), -EINVAL, "another counter, %s: none to cancel", mode);

	set_timer(fd, 0);
	ok(!readable(fd, 0), "finish, %s: no hint yet", mode);
	module_ref_put(ref);
	ok(readable(fd, LONG), "the last put, %s: readable", mode);
	is(module_ref_drain_finish(ref), 0, "finish, %s: released", mode);
	close(fd);
	is_released(ref, "finish");
	is(module_ref_drain_begin(ref), -EALREADY, "begin, %s: not of a released one", mode);
	is(module_ref_reinit(ref), 0, "finish, %s: its winner may reinit", mode);
	is_live(ref, 0, "finish, reinit");
	free_ref(ref);
	is(module_ref_drain_begin(NULL), -EINVAL, "begin, %s: NULL", mode);
	is(module_ref_drain_finish(NULL), -EINVAL, "finish, %s: NULL", mode);
	is(module_ref_drain_cancel(NULL), -EINVAL, "cancel, %s: NULL", mode);
}

/* There is no put to come: it is readable at once, which is before the timer's first turn. That
 * a machine is busy may hide it, but not every time. */
static void nobody_holds_it(void)
{
	struct module_ref *ref = new_ref();
	bool at_once = false, released = true;

	for (int i = 0; i < 50 && !at_once; i++) {
		int64_t before = now_ns();
		int fd = module_ref_drain_begin(ref);

		need(fd >= 0 && readable(fd, LONG));
		at_once = now_ns() - before < 100 * MILLISECOND;
		released &= module_ref_drain_finish(ref) == 0;
		close(fd);
		need(module_ref_reinit(ref) == 0);
	}
	ok(at_once, "nobody holds it, %s: readable at once", mode);
	ok(released, "nobody holds it, %s: released", mode);
	free_ref(ref);
}

/* A put whose hint gets lost: as the library would, but for that. */
static void a_hint_is_lost(void)
{
	struct module_ref *ref = held_ref();
	int fd = module_ref_drain_begin(ref);

	need(fd >= 0);
	__atomic_fetch_sub(&ref->word, 16, __ATOMIC_RELEASE);
	ok(readable(fd, LONG), "a lost hint, %s: readable later", mode);
	is(module_ref_drain_finish(ref), 0, "a lost hint, %s: released", mode);
	close(fd);
	free_ref(ref);
}

/* Readable for no reason: a look takes the hint away, and the next one is heard. */
static void a_loop_does_not_spin(void)
{
	struct module_ref *ref = held_ref();
	int fd = begin_quietly(ref), looks = 0;

	set_timer(fd, 1);
	ok(readable(fd, LONG), "a false hint, %s: readable", mode);
	is(module_ref_drain_finish(ref), -EINPROGRESS, "a false hint, %s: held", mode);
	ok(!readable(fd, 0), "a false hint, %s: not readable any more", mode);
	module_ref_put(ref);
	while (readable(fd, LONG) && module_ref_drain_finish(ref) == -EINPROGRESS)
		looks++;
	is(looks, 0, "a false hint, %s: the last put gives another", mode);
	is_released(ref, "a false hint");
	close(fd);
	free_ref(ref);
}

static void cancelled(void)
{
	struct module_ref *ref = held_ref();
	int fd = module_ref_drain_begin(ref);

	is(module_ref_drain_cancel(ref), 0, "cancel, %s: held, so it is live", mode);
	is_live(ref, 1, "cancel");
	is(module_ref_drain_finish(ref), -EINVAL, "cancel, %s: the drain is over", mode);
	close(fd);
	is(module_ref_drain(ref, 0), -ETIMEDOUT, "cancel, %s: others may drain it", mode);
	fd = module_ref_drain_begin(ref);
	module_ref_put(ref);
	is(module_ref_drain_cancel(ref), 1, "cancel, %s: zero wins", mode);
	is_released(ref, "cancel");
	close(fd);
	free_ref(ref);
}

/* The loop's own deadline, and everything in one epoll. */
static void a_deadline_of_the_loops(void)
{
	struct module_ref *ref = held_ref();
	int fd = module_ref_drain_begin(ref), deadline = timerfd_create(CLOCK_MONOTONIC, 0);
	int epoll = epoll_create1(0), rc = -EINPROGRESS;
	struct epoll_event event = { .events = EPOLLIN | EPOLLET, .data.fd = fd };

	need(fd >= 0 && deadline >= 0 && epoll >= 0);
	need(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
	event.data.fd = deadline;
	need(epoll_ctl(epoll, EPOLL_CTL_ADD, deadline, &event) == 0);
	set_timer(deadline, 250 * MILLISECOND);
	while (rc == -EINPROGRESS) {
		need(epoll_wait(epoll, &event, 1, LONG) == 1);
		rc = event.data.fd == fd ? module_ref_drain_finish(ref) : module_ref_drain_cancel(ref);
	}
	is(rc, 0, "a deadline, %s: live again", mode);
	is(event.data.fd, deadline, "a deadline, %s: by the deadline", mode);
	is_live(ref, 1, "a deadline");
	close(fd);
	close(deadline);
	close(epoll);
	module_ref_put(ref);
	free_ref(ref);
}

/* A count that can never reach zero is not waited for. */
static void pinned(void)
{
	struct module_ref *ref = new_ref();
	int fd;

	ref->word += (UINT64_C(3) << 57) * 16;
	fd = module_ref_drain_begin(ref);
	leaks = 0;
	ok(fd >= 0 && readable(fd, LONG), "a pinned count, %s: readable", mode);
	is(module_ref_drain_finish(ref), -ETIMEDOUT, "a pinned count, %s: not waited for", mode);
	is(leaks, 1, "a pinned count, %s: which is reported", mode);
	ok(module_ref_try_get(ref), "a pinned count, %s: live", mode);
	is(module_ref_drain_cancel(ref), -EINVAL, "a pinned count, %s: the drain is over", mode);
	close(fd);
	free(ref);
}

/* ---- puts from elsewhere ----------------------------------------------------------------- */

static struct module_ref *handled;
static volatile int errno_after;

static void put_in_handler(int number)
{
	int before = errno;

	(void)number;
	errno = 7;
	module_ref_put(handled);
	errno_after = errno;
	errno = before;
}

static void in_a_signal_handler(void)
{
	struct sigaction action = { .sa_handler = put_in_handler };
	int fd;

	handled = held_ref();
	fd = begin_quietly(handled);
	sigaction(SIGUSR1, &action, NULL);
	errno_after = 0;
	raise(SIGUSR1);
	is(errno_after, 7, "a put in a handler, %s: errno is preserved", mode);
	ok(readable(fd, LONG), "a put in a handler, %s: readable", mode);
	is(module_ref_drain_finish(handled), 0, "a put in a handler, %s: released", mode);
	close(fd);
	free_ref(handled);
}

/* The descriptor was closed, and its number is another file's. */
static void closed_by_the_user(void)
{
	struct module_ref *ref = held_ref();
	int fd = module_ref_drain_begin(ref), own = timerfd_create(CLOCK_MONOTONIC, 0);
	struct itimerspec times;

	need(fd >= 0 && own >= 0 && dup2(own, fd) == fd);
	close(own);
	module_ref_put(ref);
	ok(timerfd_gettime(fd, &times) == 0 && times.it_value.tv_nsec == 0 && !readable(fd, 0),
	   "a closed descriptor, %s: the file that has its number is left alone", mode);
	is(module_ref_drain_finish(ref), 0, "a closed descriptor, %s: released", mode);
	close(fd);
	free_ref(ref);
}

/* A system call of this thread's, with this argument, is refused, or sent to a signal handler. */
static int filter(unsigned what, unsigned call, size_t argument, unsigned value)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (unsigned)argument),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, what),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	       syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}

/* Hints. */
static int filter_settime(unsigned what)
{
	return filter(what, SYS_timerfd_settime, offsetof(struct seccomp_data, args[1]), 0);
}

#if defined(__x86_64__) && defined(__GLIBC__)
/* A put that is stopped between its look and its system call, and goes on when everything is over:
 * a filter of its thread's own sends it to a signal handler. */
static sem_t stopped, go_on;
static _Atomic int late_fd;

static void on_system_call(int number, siginfo_t *info, void *context)
{
	greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
	const struct itimerspec soon = { .it_value.tv_nsec = 1 };

	(void)number;
	atomic_store(&late_fd, (int)registers[REG_RDI]);
	sem_post(&stopped);
	while (sem_wait(&go_on) != 0)
		;
	if (info->si_syscall == SYS_read) {
		registers[REG_RAX] = -EAGAIN;
		return;
	}
	/* The same, in a way that the filter lets pass. */
	registers[REG_RAX] = timerfd_settime((int)registers[REG_RDI], TFD_TIMER_ABSTIME, &soon, NULL) ?
				     -errno :
				     0;
}

static void *put_late(void *ref)
{
	if (filter_settime(SECCOMP_RET_TRAP) != 0) {
		atomic_store(&late_fd, -1);
		sem_post(&stopped);
	}
	module_ref_put(ref);
	return NULL;
}

static bool is_a_timer(int fd)
{
	char path[64], is[64] = "";

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return readlink(path, is, sizeof(is) - 1) > 0 && strcmp(is, "anon_inode:[timerfd]") == 0;
}

static void a_put_comes_late(void)
{
	struct sigaction action = { .sa_sigaction = on_system_call, .sa_flags = SA_SIGINFO };
	struct module_ref *ref = held_ref(), *next = held_ref();
	int files = open_files(), fd = begin_quietly(ref), others[4];
	struct itimerspec times;
	pthread_t putter;

	sigaction(SIGSYS, &action, NULL);
	sem_init(&stopped, 0, 0);
	sem_init(&go_on, 0, 0);
	putter = start(put_late, ref);
	sem_wait(&stopped);
	if (atomic_load(&late_fd) < 0) {
		ok(1, "a late put, %s # SKIP this system does not let a thread filter its calls", mode);
		pthread_join(putter, NULL);
		close(fd);
		module_ref_drain_cancel(ref);
		free_ref(ref);
		module_ref_put(next);
		free_ref(next);
		return;
	}
	is(module_ref_drain_finish(ref), 0, "a late put, %s: released before the hint", mode);
	close(fd);
	/* Its memory is another counter's, and the numbers of closed files are new files'. */
	memset(ref, 0, sizeof(*ref));
	need(module_ref_init(ref) == 0 && module_ref_try_get(ref));
	others[0] = begin_quietly(ref);
	others[1] = begin_quietly(next);
	for (int i = 2; i < 4; i++)
		others[i] = open("/dev/null", O_RDONLY);
	ok(is_a_timer(atomic_load(&late_fd)), "a late put, %s: the library's timer is still open", mode);
	for (int i = 0; i < 4; i++)
		if (others[i] == atomic_load(&late_fd))
			ok(0, "a late put, %s: and its number is not another file's", mode);
	sem_post(&go_on);
	pthread_join(putter, NULL);
	for (int i = 0; i < 2; i++)
		ok(timerfd_gettime(others[i], &times) == 0 && times.it_value.tv_nsec == 0 &&
		   !readable(others[i], 0), "a late put, %s: no other drain has had its hint", mode);
	is(module_ref_drain_cancel(ref), 0, "a late put, %s: the next drain is as it was", mode);
	is(module_ref_drain_cancel(next), 0, "a late put, %s: and so is another", mode);
	for (int i = 0; i < 4; i++)
		close(others[i]);
	is(open_files(), files, "a late put, %s: and then it is closed", mode);
	module_ref_put(ref);
	module_ref_put(next);
	free_ref(ref);
	free_ref(next);
}

/* A thread that is stopped while it takes the hint away. */
static void *finish_slowly(void *ref)
{
	intptr_t rc = -ENOSYS;

	if (filter(SECCOMP_RET_TRAP, SYS_read, offsetof(struct seccomp_data, args[2]), 8) == 0)
		rc = module_ref_drain_finish(ref);
	else
		sem_post(&stopped);
	return (void *)rc;
}

static void one_at_a_time(void)
{
	struct module_ref *ref = held_ref();
	int fd = begin_quietly(ref), finish, cancel;
	pthread_t thread = start(finish_slowly, ref);
	void *rc;

	sem_wait(&stopped);
	finish = module_ref_drain_finish(ref);
	cancel = module_ref_drain_cancel(ref);
	module_ref_put(ref);
	sem_post(&go_on);
	pthread_join(thread, &rc);
	if ((intptr_t)rc == -ENOSYS) {
		ok(1, "one at a time, %s # SKIP this system does not let a thread filter its calls", mode);
	} else {
		is(finish, -EBUSY, "one at a time, %s: nobody else finishes it", mode);
		is(cancel, -EBUSY, "one at a time, %s: nor cancels it", mode);
		is((intptr_t)rc, 0, "one at a time, %s: released", mode);
		is_released(ref, "one at a time");
	}
	free_ref(ref);
	close(fd);
}
#else
static void a_put_comes_late(void)
{
	ok(1, "a late put, %s # SKIP the handler knows the registers of x86-64", mode);
}

static void one_at_a_time(void)
{
}
#endif

/* A sandbox that is the putter's alone, and refuses the hint. */
static void *put_in_a_sandbox(void *ref)
{
	intptr_t preserved;

	if (filter_settime(SECCOMP_RET_ERRNO | EPERM) != 0)
		printf("# no sandbox: this system does not let a thread filter its calls\n");
	errno = 7;
	module_ref_put(ref);
	preserved = errno == 7;
	return (void *)preserved;
}

static void a_hint_is_refused(void)
{
	struct module_ref *ref = held_ref();
	int fd = module_ref_drain_begin(ref);
	void *preserved;

	need(fd >= 0);
	pthread_join(start(put_in_a_sandbox, ref), &preserved);
	ok(preserved != NULL, "a hint that is refused, %s: errno is preserved", mode);
	ok(readable(fd, LONG), "a hint that is refused, %s: readable later", mode);
	is(module_ref_drain_finish(ref), 0, "a hint that is refused, %s: released", mode);
	close(fd);
	free_ref(ref);
}

/* ---- many --------------------------------------------------------------------------------- */

enum { MANY = 300, PUTTERS = 3 };

static struct module_ref *many[MANY];
static _Atomic int next_put;

static void *put_many(void *unused)
{
	int i;

	(void)unused;
	while ((i = atomic_fetch_add(&next_put, 1)) < MANY * 3)
		module_ref_put(many[i % MANY]);
	return NULL;
}

static void many_at_once(void)
{
	int epoll = epoll_create1(0), fds[MANY], released = 0, odd = 0, files = open_files();
	pthread_t putters[PUTTERS];

	for (int i = 0; i < MANY; i++) {
		struct epoll_event event = { .events = EPOLLIN, .data.u32 = (uint32_t)i };

		many[i] = held_ref();
		module_ref_get(many[i]);
		module_ref_get(many[i]);
		fds[i] = begin_quietly(many[i]);
		need(epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event) == 0);
	}
	atomic_store(&next_put, 0);
	for (int i = 0; i < PUTTERS; i++)
		putters[i] = start(put_many, NULL);
	while (released < MANY) {
		struct epoll_event event;
		int rc, n = epoll_wait(epoll, &event, 1, LONG);

		if (n != 1)
			break;
		rc = module_ref_drain_finish(many[event.data.u32]);
		released += rc == 0;
		odd += rc != 0 && rc != -EINPROGRESS;
		if (rc == 0)
			close(fds[event.data.u32]);
	}
	for (int i = 0; i < PUTTERS; i++)
		pthread_join(putters[i], NULL);
	is(released, MANY, "many, %s: each has had its hint", mode);
	is(odd, 0, "many, %s: and no other answer", mode);
	is(open_files(), files, "many, %s: no descriptor is left", mode);
	for (int i = 0; i < MANY; i++)
		free_ref(many[i]);
	close(epoll);
}

/* Several threads finish, one cancels, one puts, all at once: whatever wins, wins alone. */
enum { ROUNDS = 3000, THREADS = 4 };

static struct module_ref *contested;
static pthread_barrier_t line;
static _Atomic int wins, lives, odd_ones;

static void *contend(void *arg)
{
	intptr_t me = (intptr_t)arg;

	for (int round = 0; round < ROUNDS; round++) {
		int rc;

		pthread_barrier_wait(&line);
		if (me == 0) {
			module_ref_put(contested);
		} else if (me == 1) {
			do {
				rc = module_ref_drain_cancel(contested);
			} while (rc == -EBUSY);
			atomic_fetch_add(&wins, rc == 1);
			atomic_fetch_add(&lives, rc == 0);
			atomic_fetch_add(&odd_ones, rc != 1 && rc != 0 && rc != -EINVAL);
		} else {
			rc = module_ref_drain_finish(contested);
			atomic_fetch_add(&wins, rc == 0);
			atomic_fetch_add(&odd_ones,
					 rc != 0 && rc != -EINPROGRESS && rc != -EBUSY && rc != -EINVAL);
		}
		pthread_barrier_wait(&line);
	}
	return NULL;
}

static void one_wins(void)
{
	int files = open_files(), wrong = 0, released = 0;
	pthread_t threads[THREADS];

	contested = new_ref();
	odd_ones = 0;
	pthread_barrier_init(&line, NULL, THREADS + 1);
	for (intptr_t i = 0; i < THREADS; i++)
		threads[i] = start(contend, (void *)i);
	for (int round = 0; round < ROUNDS; round++) {
		int fd;

		need(module_ref_try_get(contested));
		fd = module_ref_drain_begin(contested);
		need(fd >= 0);
		wins = lives = 0;
		pthread_barrier_wait(&line);
		pthread_barrier_wait(&line);
		close(fd);
		wrong += wins + lives != 1 || module_ref_count(contested) != (wins ? -1 : 0);
		released += wins;
		if (wins)
			need(module_ref_reinit(contested) == 0);
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	is(wrong, 0, "contended, %s: one outcome, and the counter is as it says", mode);
	is(odd_ones, 0, "contended, %s: no other answer", mode);
	printf("# %d of %d released\n", released, ROUNDS);
	is(open_files(), files, "contended, %s: no descriptor is left", mode);
	is_live(contested, 0, "contended");
	free_ref(contested);
}

/* ---- what goes wrong ---------------------------------------------------------------------- */

static void a_fork(void)
{
	struct module_ref *ref = held_ref();
	int fd = module_ref_drain_begin(ref), status;
	pid_t child;

	need(fd >= 0);
	child = fork();
	need(child >= 0);
	if (child == 0) {
		module_ref_put(ref);
		if (!readable(fd, LONG) || module_ref_drain_finish(ref) != 0 ||
		    module_ref_count(ref) != -1)
			_exit(1);
		_exit(module_ref_reinit(ref) == 0 ? 0 : 2);
	}
	need(waitpid(child, &status, 0) == child);
	is(status, 0, "fork, %s: the child ends its own copy", mode);
	is(module_ref_drain_finish(ref), -EINPROGRESS, "fork, %s: the parent's is still held", mode);
	child = fork();
	need(child >= 0);
	if (child == 0)
		_exit(module_ref_drain_cancel(ref) == 0 && module_ref_count(ref) == 1 ? 0 : 1);
	need(waitpid(child, &status, 0) == child);
	is(status, 0, "fork, %s: the child cancels its own copy", mode);
	ok(readable(fd, LONG), "fork, %s: the parent's timer goes on", mode);
	is(module_ref_drain_finish(ref), -EINPROGRESS, "fork, %s: and so does its drain", mode);
	set_timer(fd, 0);
	module_ref_put(ref);
	ok(readable(fd, LONG), "fork, %s: the parent's last put is heard", mode);
	is(module_ref_drain_finish(ref), 0, "fork, %s: released", mode);
	close(fd);
	free_ref(ref);
}

static void no_descriptors(void)
{
	struct module_ref *ref = held_ref();
	struct rlimit usual, none;
	int lowest = dup(0), files = open_files();

	need(lowest >= 0 && getrlimit(RLIMIT_NOFILE, &usual) == 0);
	close(lowest);
	for (int room = 0; room < 2; room++) {
		none = (struct rlimit){ (rlim_t)(lowest + room), usual.rlim_max };
		need(setrlimit(RLIMIT_NOFILE, &none) == 0);
		is(module_ref_drain_begin(ref), -EMFILE, "room for %d descriptors, %s: none", room, mode);
		need(setrlimit(RLIMIT_NOFILE, &usual) == 0);
		is_live(ref, 1, "no descriptors");
		is(open_files(), files - 1, "no descriptors, %s: none is left", mode);
	}
	module_ref_put(ref);
	is(module_ref_drain(ref, 0), 0, "no descriptors, %s: a drain needs none", mode);
	free_ref(ref);
}

/* Memory that was freed with a drain under way, against the rule, and is a new counter's. */
static void left_under_way(void)
{
	struct module_ref *ref = held_ref();
	int files = open_files(), fd = module_ref_drain_begin(ref);

	need(fd >= 0);
	close(fd);
	memset(ref, 0, sizeof(*ref));
	need((per_cpu ? module_ref_init_percpu(ref) : module_ref_init(ref)) == 0);
	need(module_ref_try_get(ref));
	fd = begin_quietly(ref);
	is(open_files(), files + 2, "left under way, %s: what was left is closed", mode);
	module_ref_put(ref);
	ok(readable(fd, LONG), "left under way, %s: the new drain has its hint", mode);
	is(module_ref_drain_finish(ref), 0, "left under way, %s: released", mode);
	close(fd);
	is(open_files(), files, "left under way, %s: no descriptor is left", mode);
	free_ref(ref);
}

/* ---- modules ------------------------------------------------------------------------------ */

int on_init(struct module *self);
void on_exit_of(struct module *self);

static int exits;
static pthread_t exit_thread;

int on_init(struct module *self)
{
	(void)self;
	return 0;
}

void on_exit_of(struct module *self)
{
	(void)self;
	exits++;
	exit_thread = pthread_self();
}

static struct module_host *host;

static struct module *load_held(const char *file, const char *name)
{
	struct module *mod;

	need(module_load(host, plugin(file), name, NULL) == 0);
	mod = module_find_get(host, name);
	need(mod);
	return mod;
}

static void an_unload(void)
{
	struct module *mod = load_held("hooked.so", "x");
	int fd;

	exits = 0;
	fd = module_unload_begin(host, "x", 0);
	ok(fd >= 0, "unload: a descriptor");
	set_timer(fd, 0);
	is(module_state(mod), MODULE_STATE_GOING, "unload: GOING");
	ok(!module_find_get(host, "x"), "unload: not to be found");
	ok(!module_try_get(mod), "unload: no references");
	is(call(mod, "answer"), 1, "unload: its code is there for its holder");
	is(module_unload(host, "x", 0, 0), -EBUSY, "unload: no other unload");
	says("begun");
	is(module_unload(host, "x", MODULE_UNLOAD_FORCE, 0), -EBUSY, "unload: nor by force");
	is(module_replace(host, "x", plugin("hooked2.so"), 0), -EBUSY, "unload: nor a replacement");
	is(module_unload_begin(host, "x", 0), -EBUSY, "unload: nor another like it");
	is(module_load(host, plugin("hooked.so"), "x", NULL), -EBUSY, "unload: its name is taken");
	is(module_host_free(host), -EBUSY, "unload: the host stays");
	is(module_unload_finish(host, "x", 0), -EINPROGRESS, "unload: held");
	says("'x' is still in use");
	is(exits, 0, "unload: its exit function has not run");
	module_put(mod);
	ok(readable(fd, LONG), "unload: the last put is heard");
	is(module_unload_finish(host, "x", 0), 0, "unload: unloaded");
	is(exits, 1, "unload: its exit function has run");
	ok(pthread_equal(exit_thread, pthread_self()), "unload: on the thread that finishes");
	is(mapped("hooked.so"), 0, "unload: gone from memory");
	is(module_unload_finish(host, "x", 0), -ENOENT, "unload: once");
	is(module_unload_cancel(host, "x"), -ENOENT, "unload: too late to cancel");
	close(fd);
	ok(!module_host_tainted(host), "unload: nothing was forced");
}

static void an_unload_cancelled(void)
{
	struct module *mod = load_held("hooked.so", "x");
	int fd = module_unload_begin(host, "x", 0);

	exits = 0;
	need(fd >= 0);
	is(module_unload_cancel(host, "x"), 0, "cancel: live again");
	close(fd);
	is(module_state(mod), MODULE_STATE_LIVE, "cancel: LIVE");
	ok(module_try_get(mod), "cancel: references are to be had");
	module_put(mod);
	is(module_unload_finish(host, "x", 0), -EINVAL, "cancel: there is nothing to finish");
	says("no unload of module 'x' is begun");
	is(module_unload_cancel(host, "x"), -EINVAL, "cancel: nor to cancel");
	fd = module_unload_begin(host, "x", 0);
	module_put(mod);
	is(module_unload_cancel(host, "x"), 0, "cancel: live again, also if nobody holds it");
	close(fd);
	is(exits, 0, "cancel: its exit function has not run");
	mod = module_find_get(host, "x");
	ok(mod && module_refcount(mod) == 1, "cancel: found, and its count is exact");
	module_put(mod);
	is(module_unload(host, "x", 0, 0), 0, "cancel: and unloaded like any");
}

static void an_unload_by_force(void)
{
	struct module *mod = load_held("hooked.so", "x");
	int fd = module_unload_begin(host, "x", MODULE_UNLOAD_FORCE);

	exits = 0;
	need(fd >= 0);
	is(module_unload_finish(host, "x", 0), -EINPROGRESS, "force: begun by force it waits");
	is(module_unload_finish(host, "x", MODULE_UNLOAD_FORCE), 1, "force: finished by force it does not");
	says("1 reference");
	close(fd);
	is(exits, 1, "force: its exit function has run");
	ok(module_host_tainted(host), "force: the host is tainted");
	is(call(mod, "answer"), -1, "force: its code is there for its holder");
	is(module_unload_finish(host, "x", 0), -ENOENT, "force: out of the table");
	is(module_host_reap(host), 0, "force: it stays");
	module_put(mod);
	is(module_host_reap(host), 1, "force: until the last put");
	is(mapped("hooked.so"), 0, "force: gone from memory");

	mod = load_held("hooked.so", "x");
	fd = module_unload_begin(host, "x", 0);
	module_put(mod);
	is(module_unload_finish(host, "x", MODULE_UNLOAD_FORCE), 0, "force: nobody holds it");
	close(fd);

	need(module_load(host, plugin("noexit.so"), "y", NULL) == 0);
	is(module_unload_begin(host, "y", 0), -EBUSY, "force: no exit function");
	fd = module_unload_begin(host, "y", MODULE_UNLOAD_FORCE);
	ok(fd >= 0 && readable(fd, LONG), "force: begun all the same");
	is(module_unload_finish(host, "y", 0), 0, "force: and finished");
	close(fd);
}

static void unloads_refused(void)
{
	need(module_load(host, plugin("libprovider.so"), "provider", NULL) == 0);
	need(module_load(host, plugin("user.so"), "user", NULL) == 0);
	is(module_unload_begin(host, "provider", MODULE_UNLOAD_FORCE), -EWOULDBLOCK,
	   "refused: others depend on it");
	says("'user'");
	is(module_unload_begin(host, "nothing", 0), -ENOENT, "refused: no such module");
	is(module_unload_finish(host, "nothing", 0), -ENOENT, "refused: finish likewise");
	is(module_unload_cancel(host, "nothing"), -ENOENT, "refused: cancel likewise");
	is(module_unload_begin(host, "user", 2), -EINVAL, "refused: unknown flags");
	is(module_unload_finish(host, "user", 2), -EINVAL, "refused: finish likewise");
	is(module_unload_begin(NULL, "user", 0), -EINVAL, "refused: no host");
	is(module_unload_begin(host, NULL, 0), -EINVAL, "refused: no name");
	is(module_unload_finish(NULL, "user", 0), -EINVAL, "refused: finish without a host");
	is(module_unload_cancel(host, NULL), -EINVAL, "refused: cancel without a name");
	is(module_unload(host, "user", 0, 0), 0, "refused: and unloaded like any");
	is(module_unload(host, "provider", 0, 0), 0, "refused: both");
}

static void *put_module(void *mod)
{
	module_put(mod);
	return NULL;
}

static void several_unloads(void)
{
	enum { SEVERAL = 8 };
	int epoll = epoll_create1(0), gone = 0, fds[SEVERAL];
	struct module *mods[SEVERAL];
	pthread_t threads[SEVERAL];
	char name[8];

	for (int i = 0; i < SEVERAL; i++) {
		struct epoll_event event = { .events = EPOLLIN, .data.u32 = (uint32_t)i };

		snprintf(name, sizeof(name), "m%d", i);
		mods[i] = load_held("hooked.so", name);
		fds[i] = module_unload_begin(host, name, 0);
		need(fds[i] >= 0);
		set_timer(fds[i], 0);
		need(epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event) == 0);
	}
	for (int i = 0; i < SEVERAL; i++)
		threads[i] = start(put_module, mods[i]);
	while (gone < SEVERAL) {
		struct epoll_event event;

		if (epoll_wait(epoll, &event, 1, LONG) != 1)
			break;
		snprintf(name, sizeof(name), "m%u", event.data.u32);
		if (module_unload_finish(host, name, 0) >= 0) {
			gone++;
			close(fds[event.data.u32]);
		}
	}
	for (int i = 0; i < SEVERAL; i++)
		pthread_join(threads[i], NULL);
	is(gone, SEVERAL, "several unloads in one loop");
	is(mapped("hooked.so"), 0, "all of them gone from memory");
	close(epoll);
}

/* Against the rule: the memory of a counter is used again while a drain of it is begun. What is there
 * then is not drained, and keeps its references. */
static void memory_used_again(void)
{
	static struct module_ref ref;
	int fd;

	memset(&ref, 0, sizeof(ref));
	need((per_cpu ? module_ref_init_percpu(&ref) : module_ref_init(&ref)) == 0);
	need(module_ref_try_get(&ref));
	fd = module_ref_drain_begin(&ref);
	need(fd >= 0);
	memset(&ref, 0, sizeof(ref));
	need((per_cpu ? module_ref_init_percpu(&ref) : module_ref_init(&ref)) == 0);
	need(module_ref_try_get(&ref));
	is(module_ref_drain_cancel(&ref), -EINVAL, "memory used again, %s: nothing to cancel", mode);
	is(module_ref_drain_finish(&ref), -EINVAL, "memory used again, %s: or to finish", mode);
	is(module_ref_count(&ref), 1, "memory used again, %s: and nothing is lost", mode);
	module_ref_put(&ref);
	is(module_ref_try_release(&ref), 0, "memory used again, %s: it is released", mode);
	module_ref_destroy(&ref);
	close(fd);
}

int main(void)
{
	struct module_ref probe = MODULE_REF_INIT;
	bool can_per_cpu;
	int files;

	module_ref_set_misuse_handler(on_misuse);
	need(module_ref_init_percpu(&probe) == 0);
	can_per_cpu = module_ref_mode(&probe) == MODULE_REF_PERCPU;
	module_ref_destroy(&probe);
	files = open_files();
	for (int i = 0; i < 2; i++) {
		per_cpu = i == 1;
		mode = per_cpu ? "per CPU" : "in one word";
		if (per_cpu && !can_per_cpu) {
			ok(1, "per CPU # SKIP no counting per CPU here");
			break;
		}
		begin_and_finish();
		nobody_holds_it();
		a_hint_is_lost();
		a_loop_does_not_spin();
		cancelled();
		a_deadline_of_the_loops();
		pinned();
		in_a_signal_handler();
		closed_by_the_user();
		a_put_comes_late();
		one_at_a_time();
		a_hint_is_refused();
		many_at_once();
		one_wins();
		a_fork();
		no_descriptors();
		left_under_way();
		memory_used_again();
	}
	host = module_host_new();
	an_unload();
	an_unload_cancelled();
	unloads_refused();
	several_unloads();
	an_unload_by_force();
	is(module_host_free(host), 0, "the host has no modules left");
	is(open_files(), files, "no descriptor is left");
	return tap_done();
}
