/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * holders.c - who holds it: the records of references that are out, in both modes, by calls and
 * inlined, in signal handlers and after a fork, when there are more than records, and in the
 * words of an unload that is refused.
 *
 *	holders [counters]    all, or without modules
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "host.h"
#include "module_ref_inline.h"

enum { RECORDS = 1024 };

static const char *mode;
static char text[RECORDS * 160];

/* The list, which fits. */
static const char *list(struct module_ref *ref)
{
	int64_t n = module_ref_holders(ref, text, sizeof(text));

	need(n >= 0 && (size_t)n < sizeof(text) && (size_t)n == strlen(text));
	return text;
}

static int lines(const char *of)
{
	int n = 0;

	for (; *of; of++)
		n += *of == '\n';
	return n;
}

/* Exported, so that the dynamic linker knows their names. */
bool take_by_call(struct module_ref *ref);
bool take_inlined(struct module_ref *ref);
void *hold_until_told(void *ref);

__attribute__((noinline)) bool take_by_call(struct module_ref *ref)
{
	bool got = module_ref_try_get(ref);

	__asm__ volatile("" ::: "memory"); /* no tail call: the caller is this function */
	return got;
}

__attribute__((noinline)) bool take_inlined(struct module_ref *ref)
{
	bool got = module_ref_try_get_inline(ref);

	__asm__ volatile("" ::: "memory");
	return got;
}

static sem_t taken, told;

void *hold_until_told(void *ref)
{
	pthread_setname_np(pthread_self(), "rx-0");
	need(take_by_call(ref));
	sem_post(&taken);
	while (sem_wait(&told) != 0)
		;
	module_ref_put(ref);
	return NULL;
}

static void test_by_calls_and_inlined(struct module_ref *ref)
{
	char expected[128];

	need(take_by_call(ref));
	is(module_ref_holders(ref, NULL, 0), 0, "%s: nothing is listed while recording is off", mode);
	is(module_ref_record_holders(ref, true), 0, "%s: recording begins", mode);
	ok(strcmp(list(ref), "1 taken before recording began\n") == 0,
	   "%s: what was held before is counted", mode);
	need(take_inlined(ref));
	snprintf(expected, sizeof(expected), " in %s (thread 'holders', %ld) for ",
		 program_invocation_name, syscall(SYS_gettid));
	ok(strncmp(list(ref), "take_inlined+0x", 15) == 0 && strstr(text, expected),
	   "%s: function, object, thread and age of an inlined get", mode);
	ok(strstr(text, "\n1 more, taken before recording began\n"), "%s: beside the other", mode);
	need(take_by_call(ref));
	ok(strstr(list(ref), "take_by_call+0x"), "%s: and of one by a call", mode);
	is(module_ref_holders(ref, text, 13), (int64_t)strlen(list(ref)), "%s: the length needed", mode);
	need(module_ref_holders(ref, text, 13) > 13);
	ok(strcmp(text, "take_inlined") == 0, "%s: as much as fits", mode);
	module_ref_put_inline(ref);
	ok(!strstr(list(ref), "take_by_call"), "%s: an inlined put takes the newest away", mode);
	module_ref_put(ref);
	ok(strcmp(list(ref), "1 taken before recording began\n") == 0, "%s: so does a call", mode);
	module_ref_put(ref);
	is(module_ref_holders(ref, NULL, 0), 0, "%s: nobody is left", mode);
	is(module_ref_record_holders(ref, true), 0, "%s: recording twice is recording", mode);
	is(module_ref_try_release(ref), 0, "%s: it is released", mode);
	ok(!take_by_call(ref), "%s: a refused get", mode);
	need(module_ref_reinit(ref) == 0);
	is(module_ref_holders(ref, NULL, 0), 0, "%s: leaves no record", mode);
	need(take_inlined(ref));
	is(lines(list(ref)), 1, "%s: and recording goes on after a reinit", mode);
	is(module_ref_record_holders(ref, false), 0, "%s: recording ends", mode);
	is(module_ref_holders(ref, NULL, 0), 0, "%s: and nothing is listed", mode);
	module_ref_put(ref);
	is(module_ref_count(ref), 0, "%s: the count is exact", mode);
}

static void test_threads(struct module_ref *ref)
{
	pthread_t thread;

	need(module_ref_record_holders(ref, true) == 0);
	need(pthread_create(&thread, NULL, hold_until_told, ref) == 0);
	while (sem_wait(&taken) != 0)
		;
	ok(strncmp(list(ref), "take_by_call+0x", 15) == 0 && strstr(text, " (thread 'rx-0', "),
	   "%s: another thread, by its name", mode);
	need(take_by_call(ref));
	is(lines(list(ref)), 2, "%s: and this one", mode);
	ok(strstr(text, "'rx-0'") < strstr(text, "'holders'"), "%s: the oldest first", mode);
	module_ref_put(ref);
	ok(lines(list(ref)) == 1 && strstr(text, "'rx-0'"), "%s: a put is its own thread's", mode);
	sem_post(&told);
	pthread_join(thread, NULL);
	is(module_ref_holders(ref, NULL, 0), 0, "%s: and so is the other's", mode);
	need(module_ref_record_holders(ref, false) == 0);
}

static void test_more_than_records(struct module_ref *ref)
{
	need(module_ref_record_holders(ref, true) == 0);
	for (int i = 0; i < RECORDS + 5; i++)
		need(take_by_call(ref));
	is(lines(list(ref)), RECORDS + 1, "%s: a line for each record and one for the rest", mode);
	ok(strstr(text, "\n5 more, taken before recording began, or while its 1024 records were all "
			"in use\n"), "%s: which are counted", mode);
	for (int i = 0; i < RECORDS + 5; i++)
		module_ref_put(ref);
	is(module_ref_holders(ref, NULL, 0), 0, "%s: all of them are put", mode);
	is(module_ref_count(ref), 0, "%s: and counted", mode);
	need(module_ref_record_holders(ref, false) == 0);
}

/* ---- signal handlers ---------------------------------------------------------------- */

static struct module_ref *handled_ref;
static _Atomic long handled, disturbed;
static _Atomic int stop;

static void on_signal(int number)
{
	int before = errno;

	(void)number;
	errno = 7;
	if (take_by_call(handled_ref)) {
		need(take_inlined(handled_ref));
		module_ref_put(handled_ref);
		module_ref_put_inline(handled_ref);
	}
	atomic_fetch_add(&disturbed, errno != 7);
	errno = before;
	atomic_fetch_add(&handled, 1);
}

static void *get_and_put(void *ref)
{
	while (!atomic_load(&stop)) {
		need(take_by_call(ref));
		need(take_inlined(ref));
		module_ref_put(ref);
		module_ref_put(ref);
	}
	return NULL;
}

static void test_signals(struct module_ref *ref)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	pthread_t threads[2];

	handled_ref = ref;
	atomic_store(&stop, 0);
	atomic_store(&handled, 0);
	need(sigaction(SIGUSR1, &action, NULL) == 0);
	for (int i = 0; i < 2; i++)
		need(pthread_create(&threads[i], NULL, get_and_put, ref) == 0);
	for (long n = 0; atomic_load(&handled) < 2000; n++) {
		pthread_kill(threads[n % 2], SIGUSR1);
		if (n % 100 == 0)
			need(module_ref_record_holders(ref, n / 100 % 8 != 0) == 0);
		if (n % 50 == 0)
			list(ref);
	}
	atomic_store(&stop, 1);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	ok(atomic_load(&disturbed) == 0, "%s: errno is as it was, in handlers too", mode);
	is(module_ref_count(ref), 0, "%s: switched under handlers, the count is exact", mode);
	need(module_ref_record_holders(ref, false) == 0);
	need(module_ref_record_holders(ref, true) == 0);
	need(take_by_call(ref));
	is(lines(list(ref)), 1, "%s: and so is the list", mode);
	module_ref_put(ref);
	is(module_ref_try_release(ref), 0, "%s: it is released", mode);
	need(module_ref_reinit(ref) == 0);
	need(module_ref_record_holders(ref, false) == 0);
}

/* ---- fork, and memory ----------------------------------------------------------------- */

static void test_fork(struct module_ref *ref)
{
	int status;
	pid_t child;

	need(module_ref_record_holders(ref, true) == 0);
	need(take_by_call(ref));
	child = fork();
	need(child >= 0);
	if (child == 0) {
		/* The parent's thread is none of the child's. */
		bool kept = lines(list(ref)) == 1 && strstr(text, "take_by_call+0x") &&
			    strstr(text, ", which has ended) for ");

		need(take_inlined(ref));
		kept = kept && lines(list(ref)) == 2 && strstr(text, "take_inlined+0x");
		module_ref_put(ref);
		kept = kept && lines(list(ref)) == 1 && strstr(text, "take_by_call+0x");
		module_ref_put(ref);
		kept = kept && module_ref_holders(ref, NULL, 0) == 0;
		_exit(kept ? 0 : 1);
	}
	need(waitpid(child, &status, 0) == child);
	ok(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: a child has a copy of the records", mode);
	is(lines(list(ref)), 1, "%s: which is its own", mode);
	module_ref_put(ref);
	need(module_ref_record_holders(ref, false) == 0);
}

static void test_memory_used_again(int (*init)(struct module_ref *))
{
	static struct module_ref at;

	need(init(&at) == 0);
	need(module_ref_record_holders(&at, true) == 0);
	need(take_by_call(&at));
	memset(&at, 0, sizeof(at)); /* freed without module_ref_destroy() */
	need(init(&at) == 0);
	is(module_ref_holders(&at, NULL, 0), 0, "%s: a counter in used memory is not recorded", mode);
	need(module_ref_record_holders(&at, true) == 0);
	is(module_ref_holders(&at, NULL, 0), 0, "%s: and has no records of the one before", mode);
	need(take_by_call(&at));
	is(lines(list(&at)), 1, "%s: but its own", mode);
	module_ref_put(&at);
	need(module_ref_init(&at) == 0);
	ok(true, "%s: init knows a recorded counter that nobody holds", mode);
	need(init(&at) == 0 && module_ref_record_holders(&at, true) == 0 && take_by_call(&at));
	is(module_ref_init(&at), -EBUSY, "%s: and one that is held", mode);
	module_ref_put(&at);
	module_ref_destroy(&at);
	is(module_ref_record_holders(&at, true), -EINVAL, "%s: none of a destroyed counter", mode);
	is(module_ref_holders(&at, NULL, 0), 0, "%s: and nobody holds it", mode);
}

static void test_mode(const char *name, int (*init)(struct module_ref *))
{
	static struct module_ref refs[2];
	struct module_ref *ref = &refs[init == module_ref_init_percpu];
	enum module_ref_mode before;

	mode = name;
	need(init(ref) == 0);
	before = module_ref_mode(ref);
	test_by_calls_and_inlined(ref);
	test_threads(ref);
	test_more_than_records(ref);
	test_signals(ref);
	test_fork(ref);
	need(module_ref_record_holders(ref, true) == 0);
	ok(module_ref_mode(ref) == before, "%s: the mode is as it was", mode);
	module_ref_destroy(ref);
	test_memory_used_again(init);
}

/* ---- the host ------------------------------------------------------------------------- */

struct module *find_here(struct module_host *host, const char *name);
void test_host(void);

__attribute__((noinline)) struct module *find_here(struct module_host *host, const char *name)
{
	struct module *found = module_find_get(host, name);

	__asm__ volatile("" ::: "memory");
	return found;
}

static sem_t running;

void *run_in_module(void *arg);

void *run_in_module(void *arg)
{
	sem_post(&running);
	while (sem_wait(&told) != 0)
		;
	return arg;
}

static bool error_has(const char *words)
{
	bool has = strstr(module_last_error(), words) != NULL;

	if (!has)
		printf("# the error is: %s\n", module_last_error());
	return has;
}

static bool module_has(struct module *mod, int n, const char *words)
{
	bool has;

	need(module_holders(mod, text, sizeof(text)) < (int64_t)sizeof(text));
	has = lines(text) == n && strstr(text, words);
	if (!has)
		printf("# the list is: %s\n", text);
	return has;
}

__attribute__((noinline)) void test_host(void)
{
	struct module_host *host = module_host_new();
	struct module *mod, *user, *found;
	pthread_t thread;

	need(module_load(host, plugin("libprovider.so"), "provider", &mod) == 0);
	found = find_here(host, "provider");
	need(found == mod);
	is(module_unload(host, "provider", 0, 0), -EWOULDBLOCK, "an unload is refused");
	ok(error_has("1 reference;") && error_has("module_record_holders"), "and says how to know more");
	module_put(found);
	is(module_record_holders(mod, true), 0, "a module is recorded");
	need(find_here(host, "provider") == mod);
	is(module_unload(host, "provider", 0, 0), -EWOULDBLOCK, "an unload is refused");
	ok(error_has("1 reference, held by find_here+0x") && error_has(" (thread 'holders', ") &&
	   !strstr(module_last_error(), "module_record_holders"), "and says who holds it");
	is(module_unload(host, "provider", 0, MILLISECOND), -ETIMEDOUT, "one whose time is up");
	ok(error_has("when the time was up, held by ") && error_has(" (thread 'holders', "), "too");
	need(module_try_get(mod));
	ok(module_has(mod, 2, "\ntest_host+0x"), "module_try_get() has a record");
	module_put(mod);
	module_put(mod);
	is(module_holders(mod, NULL, 0), 0, "nobody is left");

	need(module_load(host, plugin("user.so"), "user", &user) == 0);
	ok(module_has(mod, 1, "dependency of 'user'\n"), "a module that depends on it is named");
	is(module_record_holders(mod, false), 0, "recording ends");
	is(module_record_holders(mod, true), 0, "and begins");
	ok(module_has(mod, 1, "dependency of 'user'\n"), "also one that did so before");
	need(module_symbol_get(host, "provided"));
	ok(module_has(mod, 2, "test_host+0x"), "module_symbol_get() has a record");
	need(module_symbol_put(host, "provided") == 0);
	need(module_unload(host, "user", 0, 0) == 0);
	module_handle_put(user);
	is(module_holders(mod, NULL, 0), 0, "and goes with the unload of the other");

	need(module_thread_create(&thread, NULL, mod, run_in_module, NULL) == 0);
	while (sem_wait(&running) != 0)
		;
	ok(module_has(mod, 1, "run_in_module+0x0 in "), "a thread of the module's is named");
	sem_post(&told);
	pthread_join(thread, NULL);
	is(module_unload(host, "provider", 0, SECOND), 0, "and goes with its end");
	is(module_holders(mod, NULL, 0), 0, "nobody holds what is unloaded");
	module_handle_put(mod);

	is(module_record_holders(NULL, true), -EINVAL, "NULL is no module to record");
	is(module_holders(NULL, NULL, 0), -EINVAL, "nor to ask about");
	is(module_ref_record_holders(NULL, true), -EINVAL, "and no counter");
	is(module_ref_holders(NULL, NULL, 0), -EINVAL, "either");
	need(module_host_free(host) == 0);
}

int main(int argc, char **argv)
{
	(void)argv;
	/* Under valgrind it is another program's. */
	need(pthread_setname_np(pthread_self(), "holders") == 0);
	need(sem_init(&taken, 0, 0) == 0 && sem_init(&told, 0, 0) == 0);
	need(sem_init(&running, 0, 0) == 0);
	test_mode("atomic", module_ref_init);
	test_mode("percpu", module_ref_init_percpu);
	if (argc == 1)
		test_host();
	return tap_done();
}
