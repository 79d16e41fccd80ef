/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * drainfd.c - drains and unloads that an event loop waits for: begun, and finished or cancelled
 * later. Counters in one word and per CPU; then modules.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

#include "filter.h"
#include "host.h"
#include "misuse.h"
#include "oracle.h"
#include "threads.h"

/* As good as for ever, and still the test ends if it is broken. */
enum { LONG = 20000, PAGE = 4096 };

static bool per_cpu;
static struct module_ref *ref;
static struct module_ref_drain drain;
static int fd;
static _Atomic bool stop;

static void init(struct module_ref *of)
{
	need((per_cpu ? module_ref_init_percpu(of) : module_ref_init(of)) == 0);
}

/* A new counter in memory of its own, held so often. */
static void fresh(int held)
{
	ref = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	need(ref != MAP_FAILED);
	init(ref);
	need(module_ref_mode(ref) == (per_cpu ? MODULE_REF_PERCPU : MODULE_REF_ATOMIC));
	for (; held > 0; held--)
		need(module_ref_try_get(ref));
}

static int begin(int64_t timeout)
{
	fd = module_ref_drain_begin(ref, &drain, timeout);
	need(fd > STDERR_FILENO);
	return fd;
}

static bool readable(int file, int ms)
{
	struct pollfd one = { .fd = file, .events = POLLIN };

	need(poll(&one, 1, ms) >= 0);
	return one.revents == POLLIN;
}

#define threads() entries("/proc/self/task")

/* A sanitizer may have one of its own, from the first thread on. */
static int usual_threads;

/* How many more there are than usual; a thread that was joined is one for a moment. */
static int threads_left(void)
{
	uint64_t until = now_ns() + 20 * SECOND;

	while (threads() > usual_threads && now_ns() < until)
		sched_yield();
	return threads() - usual_threads;
}

/* The drain is over, and the counter live and held so often, or released: -1. */
static void over(int64_t held, const char *after)
{
	is(threads_left(), 0, "%s: the library's thread has ended", after);
	is(module_ref_count(ref), held, "%s: the count", after);
	is(module_ref_try_get(ref), held >= 0, "%s: it is %s", after, held < 0 ? "released" : "live");
	is(module_ref_mode(ref) == MODULE_REF_PERCPU, per_cpu, "%s: in the mode it had", after);
	is((ref->slots & 0xffff) != 0, per_cpu && held >= 0, "%s: and its slots are used", after);
	for (int64_t left = held; left >= 0; left--)
		module_ref_put(ref);
	is(module_ref_try_release(ref), held < 0 ? -EALREADY : 0, "%s: it is released once", after);
	module_ref_destroy(ref);
	/* Whatever touches the counter now dies of it. */
	need(munmap(ref, PAGE) == 0);
	is(module_ref_drain_finish(&drain), -EINVAL, "%s: finished once", after);
	is(module_ref_drain_cancel(&drain), -EINVAL, "%s: and not to be cancelled", after);
	is(close(fd), 0, "%s: the descriptor was the caller's", after);
}

/* The last reference was put. */
static void released(const char *name)
{
	ok(readable(fd, LONG) && readable(fd, 0), "%s: readable, and it stays so", name);
	is(module_ref_drain_finish(&drain), 0, "%s: released", name);
	over(-1, name);
}

/* Threads that do this until they are to stop. */
static void start_all(pthread_t *threads, int n, void *(*body)(void *))
{
	stop = false;
	while (n-- > 0)
		threads[n] = start_thread(body, NULL);
}

static void stop_all(const pthread_t *threads, int n)
{
	stop = true;
	while (n-- > 0)
		pthread_join(threads[n], NULL);
}

/* The counter can be drained again. */
static void cancel_once_more(int64_t held, const char *after)
{
	begin(-1);
	is(module_ref_drain_cancel(&drain), 0, "%s: drained again, and cancelled", after);
	over(held, after);
}

static void *get_and_put(void *unused)
{
	while (!atomic_load(&stop)) {
		if (module_ref_try_get(ref))
			module_ref_put(ref);
		sched_yield();
	}
	return NULL;
}

static void held_until_the_last_put(void)
{
	struct module_ref_drain second;
	pthread_t refused;

	fresh(1);
	begin(-1);
	ok(fcntl(fd, F_GETFD) & FD_CLOEXEC, "begin: closed on exec");
	ok(!module_ref_try_get(ref), "begin: no new references");
	module_ref_get(ref);
	is(module_ref_drain_finish(&drain), -EINPROGRESS, "finish: held");
	module_ref_put(ref);
	is(module_ref_drain_finish(&drain), -EINPROGRESS, "finish: still held");
	is(module_ref_drain_begin(ref, &second, 0), -EBUSY, "meanwhile: no second drain is begun");
	is(module_ref_drain_finish(&second), -EINVAL, "meanwhile: so there is none to finish");
	is(module_ref_drain(ref, 0), -EBUSY, "meanwhile: nor is one done");
	is(module_ref_try_release(ref), -EBUSY, "meanwhile: nor a release");
	is(module_ref_reinit(ref), -EBUSY, "meanwhile: nor a reinit");
	reports_since(MODULE_REF_LEAKED);
	module_ref_destroy(ref);
	is(reports_since(MODULE_REF_LEAKED), 1, "meanwhile: nor is it destroyed, which is reported");
	start_all(&refused, 1, get_and_put);
	ok(!readable(fd, 150), "held: not readable, also while gets are refused");
	stop_all(&refused, 1);
	module_ref_put(ref);
	released("the last put");
}

static void refused(void)
{
	struct module_ref_drain zeroes = { 0 }, none;

	memset(&none, 0x5a, sizeof(none));
	fresh(0);
	need(module_ref_try_release(ref) == 0);
	is(module_ref_drain_begin(ref, &none, 0), -EALREADY, "refused: a released counter");
	is(module_ref_drain_finish(&none), -EINVAL, "refused: finish, a handle of no drain");
	module_ref_destroy(ref);
	is(module_ref_drain_begin(ref, &none, 0), -EINVAL, "refused: a destroyed counter");
	is(module_ref_drain_begin(ref, NULL, 0), -EINVAL, "refused: no handle");
	is(module_ref_drain_begin(NULL, &none, 0), -EINVAL, "refused: no counter");
	is(module_ref_drain_finish(NULL), -EINVAL, "refused: finish, no handle");
	is(module_ref_drain_cancel(NULL), -EINVAL, "refused: cancel, no handle");
	is(module_ref_drain_finish(&zeroes), -EINVAL, "refused: finish, all zeroes");
	is(module_ref_drain_cancel(&zeroes), -EINVAL, "refused: cancel, all zeroes");
	need(munmap(ref, PAGE) == 0);
}

/* How a drain begins, and how it ends. */
static void outcomes(void)
{
	enum { WAIT = 1, PUT = 2, CANCEL = 4 };
	static const struct {
		const char *name;
		int64_t timeout;
		int held, steps, rc, held_after;
	} rows[] = {
		{ "nobody holds it", -1, 0, WAIT, 0, -1 },
		{ "nobody, no time", 0, 0, WAIT, 0, -1 },
		{ "no time", 0, 1, WAIT, -ETIMEDOUT, 1 },
		{ "a deadline", 50 * MILLISECOND, 2, WAIT, -ETIMEDOUT, 2 },
		{ "zero wins after it", 50 * MILLISECOND, 1, WAIT | PUT, 0, -1 },
		{ "a put before it", INT64_MAX, 1, PUT, 0, -1 },
		{ "cancel", -1, 1, CANCEL, 0, 1 },
		{ "cancel after the last put", -1, 1, PUT | CANCEL, 0, 0 },
		{ "cancel after the deadline", 0, 2, WAIT | CANCEL, 0, 2 },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		int steps = rows[i].steps, rc;
		uint64_t began = now_ns();

		fresh(rows[i].held);
		begin(rows[i].timeout);
		is(readable(fd, steps & WAIT ? LONG : 150), steps & WAIT, "%s: readable", rows[i].name);
		if (rows[i].held && steps & WAIT)
			ok((int64_t)(now_ns() - began) >= rows[i].timeout, "%s: not before", rows[i].name);
		if (steps & PUT) {
			module_ref_put(ref);
			need(readable(fd, LONG));
		}
		rc = steps & CANCEL ? module_ref_drain_cancel(&drain) : module_ref_drain_finish(&drain);
		is(rc, rows[i].rc, "%s: the outcome", rows[i].name);
		over(rows[i].held_after, rows[i].name);
	}
}

/* The library's thread sleeps for 100 ms if nobody wakes it. That the machine is busy looks like it
 * now and then, but not in every try; a wake that is missing is missed in each. */
static void wakes(void)
{
	enum { ROUNDS = 200, TRIES = 20 };
	int late = 1;

	fresh(0);
	for (int try = 0; try < TRIES && late > 0; try++) {
		late = 0;
		for (int i = 0; i < ROUNDS; i++) {
			uint64_t before = now_ns();

			need(readable(begin(-1), LONG));
			late += now_ns() - before > 50 * MILLISECOND;
			need(module_ref_drain_finish(&drain) == 0 && module_ref_reinit(ref) == 0);
			need(close(fd) == 0 && module_ref_try_get(ref));
			begin(-1);
			before = now_ns();
			need(module_ref_drain_cancel(&drain) == 0);
			late += now_ns() - before > 50 * MILLISECOND;
			module_ref_put(ref);
			close(fd);
		}
	}
	is(late, 0, "wakes: readable at once if nobody holds it, and cancelled at once");
	cancel_once_more(0, "wakes");
}

/* A count that can never reach zero is not waited for. */
static void pinned(void)
{
	fresh(0);
	ref->word += (UINT64_C(3) << 57) * 16;
	reports_since(MODULE_REF_LEAKED);
	begin(-1);
	ok(readable(fd, LONG), "a pinned count: readable");
	is(module_ref_drain_finish(&drain), -ETIMEDOUT, "a pinned count: not waited for");
	is(reports_since(MODULE_REF_LEAKED), 1, "a pinned count: which is reported");
	ok(module_ref_try_get(ref), "a pinned count: live");
	is(module_ref_drain_cancel(&drain), -EINVAL, "a pinned count: the drain is over");
	close(fd);
}

static _Atomic long surplus;

static void *put_surplus(void *unused)
{
	for (; !atomic_load(&stop); surplus++)
		module_ref_put(ref);
	return NULL;
}

/* Puts without a get, all the time, are in nobody's way for longer than the deadline. */
static void surplus_puts(void)
{
	uint64_t before = now_ns();
	pthread_t putter;
	int rc;

	fresh(0);
	surplus = 0;
	start_all(&putter, 1, put_surplus);
	while (surplus == 0)
		sched_yield();
	begin(100 * MILLISECOND);
	need(readable(fd, LONG));
	do {
		rc = module_ref_drain_finish(&drain);
	} while (rc == -EINPROGRESS && now_ns() - before < 10 * SECOND);
	stop_all(&putter, 1);
	ok(rc == 0 || rc == -ETIMEDOUT, "surplus puts: the drain has ended (%d)", rc);
	ok(reports_since(MODULE_REF_SURPLUS_PUT) > 0, "surplus puts: reported");
	if (rc == -ETIMEDOUT)
		need(module_ref_drain(ref, 0) == 0);
	over(-1, "surplus puts");
}

/* ---- other threads, signals and processes ------------------------------------------------ */

static void on_signal(int signal)
{
	module_ref_put(ref);
}

/* The body runs in a child, which says what does not hold. */
static int in_child(void (*body)(void))
{
	int status;
	pid_t child = fork();

	need(child >= 0);
	if (child == 0) {
		usual_threads = threads();
		body();
		_exit(0);
	}
	need(waitpid(child, &status, 0) == child);
	return status;
}

#define must(condition)                                                               \
	((condition) ? (void)0                                                        \
		     : (fprintf(stderr, "# line %d: %s\n", __LINE__, #condition), _exit(1)))

/* The signals that the library's thread has blocked. */
static uint64_t blocked(void)
{
	unsigned long long mask = 0;
	char line[256];
	glob_t tasks;

	need(glob("/proc/self/task/*/status", 0, NULL, &tasks) == 0);
	for (size_t i = 0; i < tasks.gl_pathc; i++) {
		FILE *status = fopen(tasks.gl_pathv[i], "re");

		/* It may have ended meanwhile. */
		if (!status)
			continue;
		if (fgets(line, sizeof(line), status) && strcmp(line, "Name:\tmodule_ref\n") == 0)
			while (fgets(line, sizeof(line), status) &&
			       sscanf(line, "SigBlk: %llx", &mask) != 1)
				;
		fclose(status);
	}
	globfree(&tasks);
	return mask;
}

static void signals(void)
{
	int missed = 0;

	fresh(1);
	begin(-1);
	/* It may only just have been started. */
	for (int n = 0; n < 20000 && !blocked(); n++)
		usleep(1000);
	/* Between 31 and SIGRTMIN are the C library's. */
	for (int signal = 1; signal <= SIGRTMAX; signal++)
		if (signal != SIGKILL && signal != SIGSTOP && (signal < 32 || signal >= SIGRTMIN))
			missed += !(blocked() >> (signal - 1) & 1);
	is(missed, 0, "signals: the library's thread takes none");
	signal(SIGUSR1, on_signal);
	errno = EXDEV;
	raise(SIGUSR1);
	is(errno, EXDEV, "signals: a put in a handler, on the thread that has begun, keeps errno");
	released("signals");
}

/* With a cancellation pending all the time. */
static void *end_cancelled(void *failed)
{
	int *rc = failed;

	pthread_cancel(pthread_self());
	fd = module_ref_drain_begin(ref, &drain, -1);
	*rc |= module_ref_drain_cancel(&drain);
	*rc |= (int)syscall(SYS_close, fd);
	fd = module_ref_drain_begin(ref, &drain, -1);
	module_ref_put(ref);
	*rc |= module_ref_drain_finish(&drain);
	pthread_testcancel();
	return NULL;
}

static void cancelled_threads(void)
{
	int rc = 0;
	void *result;

	fresh(1);
	pthread_join(start_thread(end_cancelled, &rc), &result);
	is(rc, 0, "a cancelled thread: none is a cancellation point");
	ok(result == PTHREAD_CANCELED, "a cancelled thread: it ends afterwards");
	over(-1, "a cancelled thread");
}

/* One thread puts, two finish and one cancels, all at once: whatever wins, wins alone. */
enum { ROUNDS = 1000 };

static pthread_barrier_t line;
static _Atomic int wins, lives, odd;

static void *contend(void *role)
{
	for (int round = 0; round < ROUNDS; round++) {
		int rc = 0;

		pthread_barrier_wait(&line);
		if (role == &lives)
			lives += (rc = module_ref_drain_cancel(&drain)) == 0;
		else if (role == &wins)
			wins += (rc = module_ref_drain_finish(&drain)) == 0;
		else
			module_ref_put(ref);
		odd += rc != 0 && rc != -EINVAL && rc != -EBUSY &&
		       (rc != -EINPROGRESS || role == &lives);
		pthread_barrier_wait(&line);
	}
	return NULL;
}

static void one_wins(void)
{
	pthread_t contenders[] = {
		start_thread(contend, &wins), start_thread(contend, &wins),
		start_thread(contend, &lives), start_thread(contend, NULL),
	};
	int wrong = 0, released = 0;

	fresh(0);
	for (int round = 0; round < ROUNDS; round++) {
		need(module_ref_try_get(ref));
		begin(-1);
		wins = lives = 0;
		pthread_barrier_wait(&line);
		pthread_barrier_wait(&line);
		close(fd);
		/* Each may have come while another one was asking. */
		if (wins + lives == 0)
			wins += module_ref_drain_finish(&drain) == 0;
		wrong += wins + lives != 1 || module_ref_count(ref) != (wins ? -1 : 0);
		released += wins;
		need(!wins || module_ref_reinit(ref) == 0);
	}
	stop_all(contenders, 4);
	is(wrong + odd, 0, "contended: one outcome, and the counter is as it says");
	printf("# %d of %d released\n", released, ROUNDS);
	cancel_once_more(0, "contended");
}

static void watch(int epoll, int file, uint32_t events, uint32_t number)
{
	struct epoll_event event = { events, { .u32 = number } };

	need(epoll_ctl(epoll, EPOLL_CTL_ADD, file, &event) == 0);
}

/* The number of one that is readable, or -1. */
static int next_of(int epoll)
{
	struct epoll_event event;

	return epoll_wait(epoll, &event, 1, LONG) == 1 ? (int)event.data.u32 : -1;
}

/* A loop that asks when the descriptor is readable, or when it becomes so, and not otherwise. */
static void event_loops(void)
{
	pthread_t traffic[4];

	fresh(0);
	start_all(traffic, 4, get_and_put);
	for (int edge = 0; edge < 2; edge++) {
		int epoll = epoll_create1(0), round, asked_again = 0;

		for (round = 0; round < ROUNDS; round++) {
			int rc = -EINPROGRESS;

			begin(-1);
			watch(epoll, fd, edge ? EPOLLIN | EPOLLET : EPOLLIN, 0);
			while (rc == -EINPROGRESS && next_of(epoll) == 0) {
				rc = module_ref_drain_finish(&drain);
				asked_again += rc == -EINPROGRESS;
			}
			if (rc != 0 || close(fd) != 0 || module_ref_reinit(ref) != 0)
				break;
		}
		is(round, ROUNDS, "%s-triggered: every drain ends", edge ? "edge" : "level");
		printf("# %d were readable too early\n", asked_again);
		close(epoll);
	}
	stop_all(traffic, 4);
	cancel_once_more(0, "event loops");
}

enum { MANY = 1000 };

static struct module_ref many[MANY];
static struct module_ref_drain drains[MANY];

static void *put_many(void *unused)
{
	for (int i = 0; i < MANY; i++)
		module_ref_put(&many[i * 7 % MANY]);
	return NULL;
}

static long mapped_pages(void)
{
	FILE *statm = fopen("/proc/self/statm", "re");
	long pages;

	need(statm && fscanf(statm, "%ld", &pages) == 1);
	fclose(statm);
	return pages;
}

static void many_at_once(void)
{
	int epoll = epoll_create1(0), fds[MANY], files = open_files(), done = 0;
	long pages = 0;

	for (int i = 0; i < MANY; i++)
		init(&many[i]);
	for (int times = 1; times <= 3; times++) {
		pthread_t putter;

		for (int i = 0; i < MANY; i++) {
			need(module_ref_try_get(&many[i]));
			fds[i] = module_ref_drain_begin(&many[i], &drains[i], -1);
			watch(epoll, fds[i], EPOLLIN, (uint32_t)i);
		}
		putter = start_thread(put_many, NULL);
		for (int i; done < times * MANY && (i = next_of(epoll)) >= 0 &&
			    module_ref_drain_finish(&drains[i]) == 0; )
			done += close(fds[i]) == 0 && module_ref_reinit(&many[i]) == 0;
		pthread_join(putter, NULL);
		is(done, times * MANY, "many: each is readable, and then released");
		is(threads_left(), 0, "many: no thread is left");
		is(open_files(), files, "many: nor a descriptor");
		if (times == 1)
			pages = mapped_pages();
	}
	/* A thread's stack is more than 16 pages. */
	pages = mapped_pages() - pages;
	ok(pages < 10 * MANY, "many: nor memory (%ld pages)", pages);
	for (int i = 0; i < MANY; i++)
		module_ref_destroy(&many[i]);
	close(epoll);
}

static void finish_copy(void)
{
	module_ref_put(ref);
	must(module_ref_drain_finish(&drain) == 0 && module_ref_count(ref) == -1);
	must(module_ref_drain_finish(&drain) == -EINVAL && module_ref_reinit(ref) == 0);
	must(module_ref_drain_begin(ref, &drain, 0) > 0 && module_ref_drain_finish(&drain) == 0);
}

static void cancel_copy(void)
{
	must(module_ref_drain_finish(&drain) == -EINPROGRESS);
	must(module_ref_drain_cancel(&drain) == 0 && module_ref_count(ref) == 1);
	must(module_ref_drain_cancel(&drain) == -EINVAL);
}

static void time_out_copy(void)
{
	must(module_ref_drain_finish(&drain) == -ETIMEDOUT && module_ref_count(ref) == 1);
}

static void forks(void)
{
	fresh(1);
	begin(-1);
	is(in_child(finish_copy), 0, "fork: the child finishes its own copy");
	is(in_child(cancel_copy), 0, "fork: the child cancels its own copy");
	ok(!readable(fd, 0), "fork: which the parent's descriptor does not say");
	is(module_ref_drain_finish(&drain), -EINPROGRESS, "fork: the parent's is still held");
	module_ref_put(ref);
	released("fork");

	fresh(1);
	begin(MILLISECOND);
	need(readable(fd, LONG));
	is(in_child(time_out_copy), 0, "fork: the child's copy has timed out");
	ok(readable(fd, 0), "fork: and the parent's descriptor still says so of its own");
	is(module_ref_drain_finish(&drain), -ETIMEDOUT, "fork: the parent's has timed out");
	over(1, "fork");
}

/* All descriptors are closed, and their numbers are other files' when the last put comes. */
static void close_all(void)
{
	enum { NEW = 8 };
	struct itimerspec set;
	struct stat now;
	int files[NEW];

	must(module_ref_try_get(ref));
	begin(-1);
	must(syscall(SYS_close_range, 3u, ~0u, 0u) == 0);
	for (int i = 0; i < NEW; i++) {
		files[i] = i % 2 ? memfd_create("new", 0) : timerfd_create(CLOCK_MONOTONIC, 0);
		must(files[i] == 3 + i);
	}
	module_ref_put(ref);
	sleep_ns(300 * MILLISECOND);
	must(module_ref_drain_finish(&drain) == 0);
	for (int i = 0; i < NEW; i++) {
		must(fstat(files[i], &now) == 0 && now.st_size == 0);
		must(i % 2 || (timerfd_gettime(files[i], &set) == 0 && set.it_interval.tv_sec == 0));
	}
}

static void low_numbers(void)
{
	need(syscall(SYS_close_range, 0u, 2u, 0u) == 0);
	fd = module_ref_drain_begin(ref, &drain, -1);
	must(fd > 2 && module_ref_drain_cancel(&drain) == 0);
	for (int low = 0; low <= 2; low++)
		must(fcntl(low, F_GETFD) == -1);
}

static struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
static int locked;

static void try_lock(void)
{
	must(fcntl(locked, F_SETLK, &lock) == -1 && (errno == EAGAIN || errno == EACCES));
}

/* The library's thread keeps none of the program's files open, with lower numbers or higher ones, and
 * leaves their locks alone. */
static void files(void)
{
	int before = open_files(), low[2], high[2];

	fresh(0);
	need(pipe(low) == 0 && pipe(high) == 0);
	need(dup2(high[1], 200) == 200 && close(high[1]) == 0);
	locked = memfd_create("locked", 0);
	need(locked >= 0 && fcntl(locked, F_SETLK, &lock) == 0 && module_ref_try_get(ref));
	begin(-1);
	need(low[1] < fd && fd < 200);
	close(low[1]);
	close(200);
	is(poll(&(struct pollfd){ low[0], POLLIN, 0 }, 1, 0), 1, "files: a lower one is closed");
	is(poll(&(struct pollfd){ high[0], POLLIN, 0 }, 1, 0), 1, "files: a higher one is closed");
	is(in_child(try_lock), 0, "files: a lock is kept");
	close(low[0]);
	close(high[0]);
	close(locked);
	is(module_ref_drain_cancel(&drain), 0, "files: cancelled");
	module_ref_put(ref);
	is(in_child(close_all), 0, "files: all are closed, and the new ones are left alone");
	is(in_child(low_numbers), 0, "files: the number is none of the standard streams'");
	over(0, "files");
	is(open_files(), before, "files: none is left");
}

enum { NO_FILTER = 77 };

static const unsigned *no_call;

static void without_a_call(void)
{
	int before = open_files();

	if (refuse_call(no_call[0], 0) != 0 || refuse_call(no_call[1], 0) != 0)
		_exit(NO_FILTER);
	errno = EXDEV;
	must(module_ref_drain_begin(ref, &drain, -1) == -EPERM);
	must(errno == EXDEV && module_ref_count(ref) == 1);
	must(module_ref_drain_finish(&drain) == -EINVAL);
	must(module_ref_try_get(ref) && module_ref_count(ref) == 2);
	must(open_files() == before && threads_left() == 0);
}

static void nothing_to_be_had(void)
{
	static const struct { const char *name; unsigned nr[2]; } calls[] = {
		{ "timerfd_create", { SYS_timerfd_create, SYS_timerfd_create } },
		{ "timerfd_settime or timerfd_gettime", { SYS_timerfd_settime, SYS_timerfd_gettime } },
		{ "clone", { SYS_clone3, SYS_clone } },
		{ "membarrier", { SYS_membarrier, SYS_membarrier } },
	};
	int lowest = dup(0), before = open_files(), status;
	struct rlimit usual;

	fresh(1);
	for (int i = 0; i < (per_cpu ? 4 : 3); i++) {
		no_call = calls[i].nr;
		status = in_child(without_a_call);
		if (status == NO_FILTER << 8)
			ok(1, "no %s # SKIP a thread cannot filter its calls here", calls[i].name);
		else
			is(status, 0, "no %s: refused, and nothing is left", calls[i].name);
	}
	need(lowest >= 0 && getrlimit(RLIMIT_NOFILE, &usual) == 0);
	close(lowest);
	need(setrlimit(RLIMIT_NOFILE, &(struct rlimit){ (rlim_t)lowest, usual.rlim_max }) == 0);
	is(module_ref_drain_begin(ref, &drain, -1), -EMFILE, "no descriptors: refused");
	need(setrlimit(RLIMIT_NOFILE, &usual) == 0);
	is(open_files(), before - 1, "no descriptors: none is left");
	cancel_once_more(1, "no descriptors");
}

/* ---- modules ------------------------------------------------------------------------------ */

static int exits;
static struct module_host *host;

void on_exit_of(struct module *self)
{
	exits++;
}

/* A module that is held, and whose unload is begun. */
static struct module *begun(const char *name, unsigned flags)
{
	struct module *mod;

	need(module_load(host, plugin("hooked.so"), name, NULL) == 0);
	mod = module_find_get(host, name);
	fd = module_unload_begin(host, name, flags);
	need(mod && fd >= 0);
	exits = 0;
	return mod;
}

static void an_unload(void)
{
	struct module *mod = begun("x", 0);

	is(module_state(mod), MODULE_STATE_GOING, "unload: GOING");
	ok(!module_find_get(host, "x") && !module_try_get(mod), "unload: no references");
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
	ok(!readable(fd, 0) && exits == 0, "unload: not readable, and its exit has not run");
	module_put(mod);
	ok(readable(fd, LONG), "unload: the last put: readable");
	is(module_unload_finish(host, "x", 0), 0, "unload: unloaded");
	is(exits, 1, "unload: its exit function has run");
	is(mapped("hooked.so"), 0, "unload: gone from memory");
	is(module_unload_finish(host, "x", 0), -ENOENT, "unload: once");
	is(module_unload_cancel(host, "x"), -ENOENT, "unload: too late to cancel");
	ok(close(fd) == 0 && !module_host_tainted(host), "unload: nothing was forced");
}

static void an_unload_cancelled(void)
{
	struct module *mod = begun("x", 0);

	is(module_unload_cancel(host, "x"), 0, "cancel: held");
	is(module_state(mod), MODULE_STATE_LIVE, "cancel: LIVE");
	is(module_unload_finish(host, "x", 0), -EINVAL, "cancel: there is nothing to finish");
	says("no unload of module 'x' is begun");
	is(module_unload_cancel(host, "x"), -EINVAL, "cancel: nor to cancel");
	close(fd);
	fd = module_unload_begin(host, "x", 0);
	module_put(mod);
	is(module_unload_cancel(host, "x"), 0, "cancel: after the last put");
	is(exits, 0, "cancel: its exit function has not run");
	mod = module_find_get(host, "x");
	ok(close(fd) == 0 && module_refcount(mod) == 1, "cancel: found, and its count is exact");
	module_put(mod);
	is(module_unload(host, "x", 0, 0), 0, "cancel: and unloaded like any");
}

static void an_unload_by_force(void)
{
	struct module *mod = begun("x", MODULE_UNLOAD_FORCE);

	is(module_unload_finish(host, "x", 0), -EINPROGRESS, "force: begun by force it waits");
	is(module_unload_finish(host, "x", MODULE_UNLOAD_FORCE), 1, "force: finished by force it does not");
	says("1 reference");
	is(exits, 1, "force: its exit function has run");
	ok(module_host_tainted(host), "force: the host is tainted");
	is(call(mod, "answer"), -1, "force: its code is there for its holder");
	is(module_unload_finish(host, "x", 0), -ENOENT, "force: out of the table");
	is(module_host_reap(host), 0, "force: it stays");
	module_put(mod);
	is(module_host_reap(host), 1, "force: until the last put");
	is(mapped("hooked.so"), 0, "force: gone from memory");
	close(fd);

	module_put(begun("x", 0));
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
	for (int i = 0; i < 4; i++) {
		struct module_host *of = i == 0 ? NULL : host;
		const char *name = i == 1 ? NULL : i == 3 ? "nothing" : "user";
		unsigned flags = i == 2 ? 2 : 0;
		int rc = i == 3 ? -ENOENT : -EINVAL;

		is(module_unload_begin(of, name, flags), rc, "refused: begin, case %d", i);
		is(module_unload_finish(of, name, flags), rc, "refused: finish, case %d", i);
		is(module_unload_cancel(of, name), rc, "refused: cancel, case %d", i);
	}
	is(module_unload(host, "user", 0, 0), 0, "refused: and unloaded like any");
	is(module_unload(host, "provider", 0, 0), 0, "refused: both");
}

static void several_unloads(void)
{
	enum { SEVERAL = 8 };
	int epoll = epoll_create1(0), gone = 0, fds[SEVERAL];
	struct module *mods[SEVERAL];
	char names[SEVERAL][16];

	for (int i = 0; i < SEVERAL; i++) {
		snprintf(names[i], sizeof(names[i]), "m%d", i);
		mods[i] = begun(names[i], 0);
		fds[i] = fd;
		watch(epoll, fd, EPOLLIN, (uint32_t)i);
	}
	for (int i = SEVERAL; i-- > 0 && gone == SEVERAL - 1 - i; ) {
		module_put(mods[i]);
		need(next_of(epoll) == i);
		gone += module_unload_finish(host, names[i], 0) >= 0;
		close(fds[i]);
	}
	is(gone, SEVERAL, "several unloads in one loop");
	is(mapped("hooked.so"), 0, "several: all of them gone from memory");
	close(epoll);
}

static void *names_itself(void *tid)
{
	*(pid_t *)tid = gettid();
	return NULL;
}

/* How many threads there are once one has been started and has ended. */
static int threads_after_one(void)
{
	char path[64];
	pid_t tid;

	pthread_join(start_thread(names_itself, &tid), NULL);
	snprintf(path, sizeof(path), "/proc/self/task/%d", tid);
	while (access(path, F_OK) == 0)
		sched_yield();
	return threads();
}

int main(void)
{
	static void (*const of_counters[])(void) = {
		held_until_the_last_put, refused, outcomes, wakes, pinned, surplus_puts,
		signals, cancelled_threads, one_wins, event_loops, many_at_once, forks, files,
		nothing_to_be_had,
	};
	static void (*const of_modules[])(void) = {
		an_unload, an_unload_cancelled, unloads_refused, several_unloads, an_unload_by_force,
	};
	struct rlimit room;
	int files_before = open_files();

	usual_threads = threads_after_one();
	need(getrlimit(RLIMIT_NOFILE, &room) == 0 && room.rlim_max > 2 * MANY);
	room.rlim_cur = room.rlim_max;
	need(setrlimit(RLIMIT_NOFILE, &room) == 0);
	module_ref_set_misuse_handler(on_misuse);
	pthread_barrier_init(&line, NULL, 5);
	for (int mode = 0; mode < (has_per_cpu() ? 2 : 1); mode++) {
		per_cpu = mode == 1;
		printf("# counters %s\n", per_cpu ? "per CPU" : "in one word");
		for (size_t i = 0; i < sizeof(of_counters) / sizeof(of_counters[0]); i++)
			of_counters[i]();
	}
	if (!has_per_cpu())
		ok(1, "counters per CPU # SKIP %s", why_not_per_cpu());
	host = module_host_new();
	for (size_t i = 0; i < sizeof(of_modules) / sizeof(of_modules[0]); i++)
		of_modules[i]();
	is(module_host_free(host), 0, "the host has no modules left");
	is(open_files(), files_before, "no descriptor is left");
	is(threads_left(), 0, "nor a thread");
	return tap_done();
}
