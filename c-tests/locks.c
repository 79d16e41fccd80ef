/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * locks.c - that the host's functions neither hang nor find what is not ready, wherever they are
 * called. What may hang runs in a child that is killed if it does.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host.h"
#include "threads.h"

/* A child that has not ended after this hangs: it has some milliseconds of work. */
#define HANGS (20 * SECOND)

struct module_host *host;

/* Called by the plugins. */
int on_init(struct module *self);
void on_exit_of(struct module *self);
void constructed(void);
void destructed(void);

static int (*in_init)(struct module *self);
static void (*in_exit)(void), (*in_constructor)(void), (*in_destructor)(void);

int on_init(struct module *self)
{
	return in_init ? in_init(self) : 0;
}

void on_exit_of(struct module *self)
{
	if (in_exit)
		in_exit();
}

void constructed(void)
{
	if (in_constructor)
		in_constructor();
}

void destructed(void)
{
	if (in_destructor)
		in_destructor();
}

/* How long the slowest child took that has ended. */
static uint64_t slowest;

/* The exit status of a child that does the work; or -1 if it hangs, or the signal it died of, negative. */
static int watched(int (*work)(void))
{
	uint64_t begun = now_ns(), deadline = begun + HANGS;
	pid_t child, ended;
	int status;

	fflush(stdout);
	need((child = fork()) >= 0);
	if (child == 0)
		_exit(work());
	while ((ended = waitpid(child, &status, WNOHANG)) == 0 && now_ns() < deadline)
		sleep_ns(MILLISECOND);
	if (ended == 0) {
		kill(child, SIGKILL);
		waitpid(child, &status, 0);
		return -1;
	}
	if (now_ns() - begun > slowest)
		slowest = now_ns() - begun;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void *load_plain(void *name)
{
	return (void *)(intptr_t)module_load(host, plugin("plain.so"), name, NULL);
}

/* ---- lookups --------------------------------------------------------------------------- */

static int looked_up_in_init;
static struct module *self_in_init;

static int looks_itself_up(struct module *self)
{
	looked_up_in_init = module_find_get(host, module_name(self)) != NULL;
	looked_up_in_init += module_symbol_get(host, "call_back") != NULL;
	self_in_init = module_try_get(self) ? self : NULL;
	return 0;
}

static void only_what_is_live(void)
{
	struct module *mod;

	in_init = looks_itself_up;
	is(module_load(host, plugin("hooked.so"), "hooked", &mod), 0, "a module");
	in_init = NULL;
	is(looked_up_in_init, 0, "is not found while its init function runs");
	ok(self_in_init == mod, "while module_try_get() counts it as there");
	module_put(self_in_init);
	self_in_init = module_find_get(host, "hooked");
	ok(self_in_init == mod, "and is found when it is live");
	module_put(self_in_init);
	module_handle_put(mod);
	need(module_unload(host, "hooked", 0, SECOND) == 0);
}

/* All that takes none of the dynamic linker's locks. */
static int looks(void)
{
	char list[4096];
	struct module *mod = module_find_get(host, "there");
	int good = mod && module_refcount(mod) >= 1 && module_state(mod) == MODULE_STATE_LIVE &&
		   module_host_list(host, list, sizeof(list)) > 0 && module_host_reap(host) == 0 &&
		   !module_host_tainted(host) && !module_find_get(host, "nobody");

	module_put(mod);
	return good;
}

static sem_t inside, leave;

static int in_the_callback(struct dl_phdr_info *info, size_t size, void *good)
{
	sem_post(&inside);
	/* The main thread is in dlopen(). */
	until_it_sleeps(getpid());
	*(int *)good = looks();
	return 1;
}

static void *iterate(void *good)
{
	dl_iterate_phdr(in_the_callback, good);
	return NULL;
}

static int while_objects_are_listed(void)
{
	int good = 0;
	pthread_t looker = start_thread(iterate, &good);

	sem_wait(&inside);
	need(!load_plain("other"));
	pthread_join(looker, NULL);
	return !good;
}

static void waits_to_leave(void)
{
	sem_post(&inside);
	sem_wait(&leave);
}

static void *load_constructor(void *unused)
{
	return (void *)(intptr_t)module_load(host, plugin("ctor.so"), "ctor", NULL);
}

static void *look(void *good)
{
	*(int *)good = looks();
	return NULL;
}

/* The constructor leaves when the looks are over, so that one that waits for it hangs. */
static int while_a_constructor_runs(void)
{
	int good = 0;
	pthread_t loader;

	in_constructor = waits_to_leave;
	loader = start_thread(load_constructor, NULL);
	sem_wait(&inside);
	pthread_join(start_thread(look, &good), NULL);
	sem_post(&leave);
	pthread_join(loader, NULL);
	return !good;
}

static volatile sig_atomic_t found_in_handler, missed_in_handler;

static void look_in_handler(int signal)
{
	struct module *mod = module_find_get(host, "there");

	found_in_handler += mod != NULL;
	missed_in_handler += mod == NULL;
	module_put(mod);
}

static void *interrupted(void *unused)
{
	for (int n = 0; n < 200; n++) {
		need(!load_plain("other"));
		need(module_unload(host, "other", 0, SECOND) == 0);
	}
	return NULL;
}

/* Of a thread that is writing the table, for instance. */
static int in_a_signal_handler(void)
{
	struct sigaction action = { .sa_handler = look_in_handler, .sa_flags = SA_RESTART };
	pthread_t thread;
	int sent = 0;

	need(sigaction(SIGUSR1, &action, NULL) == 0);
	thread = start_thread(interrupted, NULL);
	while (sent < 1000) {
		int before = found_in_handler;

		if (pthread_kill(thread, SIGUSR1) != 0)
			break;
		sent++;
		while (found_in_handler == before && pthread_tryjoin_np(thread, NULL) == EBUSY)
			sched_yield();
		if (found_in_handler == before)
			return missed_in_handler || !found_in_handler;
	}
	pthread_join(thread, NULL);
	return missed_in_handler || !found_in_handler;
}

static void lookups_take_no_lock(void)
{
	need(!load_plain("there"));
	is(watched(while_objects_are_listed), 0,
	   "a thread's first calls in a callback of dl_iterate_phdr(), while another loads");
	is(watched(while_a_constructor_runs), 0, "and while a constructor runs elsewhere");
	is(watched(in_a_signal_handler), 0, "lookups in a signal handler of a thread that loads");
	need(module_unload(host, "there", 0, SECOND) == 0);
}

/* ---- misuse handlers ------------------------------------------------------------------- */

static int told_and_listed;
static void *in_full;

static void lists_on_overflow(enum module_ref_misuse what, const struct module_ref *ref,
			      const void *caller)
{
	char list[4096];

	told_and_listed += what == MODULE_REF_OVERFLOW &&
			   module_host_list(host, list, sizeof(list)) >= 0;
}

/* A module whose count is in the outermost zone, so that each get is reported. */
static struct module *overflowing(bool held_by_force)
{
	struct module *mod;

	need(module_load_flags(host, plugin("plain.so"), "full", MODULE_LOAD_ATOMIC, &mod) == 0);
	if (held_by_force) {
		need(module_try_get(mod) && (in_full = module_symbol(mod, "answer")));
		need(module_unload(host, "full", MODULE_UNLOAD_FORCE, 0) == 1);
	}
	module_ref_set_misuse_handler(lists_on_overflow);
	/* A module begins with its counter. */
	((struct module_ref *)mod)->word |= UINT64_C(1) << 62;
	return mod;
}

static int reported_by_open(void)
{
	struct module *mod = overflowing(false), *again;

	return module_open(host, plugin("plain.so"), "full", &again) != 0 || again != mod ||
	       told_and_listed != 1;
}

static int reported_by_address(void)
{
	struct module *mod = overflowing(true);

	return module_get_by_address(host, in_full) != mod || told_and_listed != 1;
}

static void handlers(void)
{
	is(watched(reported_by_open), 0, "a misuse handler calls the host: told by module_open()");
	is(watched(reported_by_address), 0, "and by module_get_by_address(), of an unloaded module");
}

/* ---- notifiers ------------------------------------------------------------------------ */

static _Atomic int in_again;
static _Atomic bool in_destructor_now;

/* Registers itself again, and is in it for a while yet. */
static int again(struct module *mod, enum module_state state, void *data)
{
	if (state != MODULE_STATE_COMING)
		return 0;
	atomic_store(&in_again, 1);
	need(module_notifier_unregister(host, again, data) == 0);
	need(module_notifier_register(host, again, data, 0) == 0);
	sem_post(&inside);
	/* The main thread waits for this one, here or when it has unregistered it. */
	until_it_sleeps(getpid());
	atomic_store(&in_again, 0);
	return 0;
}

static void a_notifier_that_registers_itself_again(void)
{
	pthread_t loader;

	need(module_notifier_register(host, again, NULL, 0) == 0);
	loader = start_thread(load_plain, "other");
	sem_wait(&inside);
	is(module_notifier_unregister(host, again, NULL), 0, "it is unregistered");
	is(atomic_load(&in_again), 0, "when nobody is in it, by whichever registration");
	pthread_join(loader, NULL);
	need(module_unload(host, "other", 0, SECOND) == 0);
}

static int needs_the_linker(struct module *mod, enum module_state state, void *data)
{
	if (state != MODULE_STATE_COMING)
		return 0;
	sem_post(&inside);
	while (!atomic_load(&in_destructor_now))
		sleep_ns(MILLISECOND);
	need(dlsym(RTLD_DEFAULT, "malloc"));
	return 0;
}

static int from_destructor_rc;

static void unregisters_in_destructor(void)
{
	atomic_store(&in_destructor_now, true);
	from_destructor_rc = module_notifier_unregister(host, needs_the_linker, NULL);
}

/* As a static object does that is a notifier. */
static int unregistered_in_a_destructor(void)
{
	void *object = dlopen(plugin("ctor.so"), RTLD_NOW);
	pthread_t loader;

	need(object && module_notifier_register(host, needs_the_linker, NULL, 0) == 0);
	loader = start_thread(load_plain, "other");
	sem_wait(&inside);
	in_destructor = unregisters_in_destructor;
	dlclose(object);
	pthread_join(loader, NULL);
	return from_destructor_rc != -EDEADLK ||
	       module_notifier_unregister(host, needs_the_linker, NULL) != -ENOENT;
}

static void notifiers(void)
{
	a_notifier_that_registers_itself_again();
	is(watched(unregistered_in_a_destructor), 0,
	   "a destructor that unregisters what waits for the linker is told so");
}

/* ---- every operation from everywhere ---------------------------------------------------- */

static struct module *there, *here;

static int see(struct module *mod, enum module_state state, void *data)
{
	return 0;
}

static int loads_its_own_name(void)
{
	return module_load(host, plugin("plain.so"), "first", NULL);
}

static int loads_another(void)
{
	return module_load(host, plugin("plain.so"), "another", NULL);
}

static int finds(void)
{
	return looks() ? 0 : -EIO;
}

static int finds_a_symbol(void)
{
	void *symbol = module_symbol_get(host, "provided");
	const char *words;

	/* Its own are found in any case. */
	if (!module_symbol(there, "answer") || !symbol)
		return -EIO;
	/* The linker is asked for others, where that can be waited for. */
	if (module_symbol_put_addr(host, symbol) != 0 || module_symbol(there, "nobody's"))
		return -EIO;
	words = module_last_error();
	return strstr(words, "has no symbol")	     ? 0
	       : strstr(words, "waits for this one") ? -EDEADLK
	       : strstr(words, "forked")	     ? -EBUSY
						     : -EIO;
}

static int unloads_itself(void)
{
	return module_unload(host, "first", 0, MILLISECOND);
}

static int unloads_another(void)
{
	return module_unload(host, "there", 0, MILLISECOND);
}

static int unloads_by_force(void)
{
	return module_unload(host, "there", MODULE_UNLOAD_FORCE, 0);
}

static int begins_an_unload(void)
{
	int fd = module_unload_begin(host, "there", 0), rc;

	if (fd < 0)
		return fd;
	close(fd);
	rc = module_unload_finish(host, "there", 0);
	return rc == -EINPROGRESS ? module_unload_cancel(host, "there") : rc;
}

static int replaces_itself(void)
{
	return module_replace(host, "first", plugin("hooked2.so"), MILLISECOND);
}

static int replaces_another(void)
{
	return module_replace(host, "there", plugin("hooked2.so"), MILLISECOND);
}

static int reaps(void)
{
	return module_host_reap(host);
}

static int depends(void)
{
	return module_add_dependency(there, here);
}

static int registers(void)
{
	int rc = module_notifier_register(host, see, &there, 0);

	return rc ? rc : module_notifier_unregister(host, see, &there);
}

/* Of the notifier that may be running. */
static int first_told(struct module *mod, enum module_state state, void *data);

static int unregisters_the_first(void)
{
	return module_notifier_unregister(host, first_told, NULL);
}

static int frees(void)
{
	return module_host_free(host);
}

static const struct operation {
	const char *name;
	int (*run)(void);
	/* Its 1 is a 0: a module is unloaded, and somebody was found who may stand in it. */
	bool unloads;
} operations[] = {
	{ "load the same", loads_its_own_name, false }, { "load", loads_another, false },
	{ "find, list, count", finds, false },		{ "symbol", finds_a_symbol, false },
	{ "unload itself", unloads_itself, true },	{ "unload", unloads_another, true },
	{ "unload by force", unloads_by_force, true },	{ "begin, finish", begins_an_unload, true },
	{ "replace itself", replaces_itself, true },	{ "replace", replaces_another, true },
	{ "reap", reaps, false },			{ "depend", depends, false },
	{ "notifier", registers, false },		{ "unregister", unregisters_the_first, false },
	{ "free", frees, false },
};

static int (*second)(void);
static int answer;

/* The second operation, once. */
static void run_second(void)
{
	int (*run)(void) = second;

	second = NULL;
	if (run)
		answer = run();
}

static int second_in_init(struct module *self)
{
	run_second();
	return 0;
}

static enum module_state told_when;

static int first_told(struct module *mod, enum module_state state, void *data)
{
	if (state == told_when && strcmp(module_name(mod), "first") == 0)
		run_second();
	return 0;
}

static void first_load(const char *file)
{
	module_load(host, plugin(file), "first", NULL);
}

static void from_init(void)
{
	in_init = second_in_init;
	first_load("hooked.so");
}

static void from_exit(void)
{
	first_load("hooked.so");
	in_exit = run_second;
	module_unload(host, "first", 0, 0);
}

static void from_constructor(void)
{
	in_constructor = run_second;
	first_load("ctor.so");
}

static void from_destructor(void)
{
	first_load("ctor.so");
	in_destructor = run_second;
	module_unload(host, "first", 0, 0);
}

static void from_notifier(void)
{
	need(module_notifier_register(host, first_told, NULL, 0) == 0);
	first_load("plain.so");
	module_unload(host, "first", 0, 0);
}

static void from_coming(void)
{
	told_when = MODULE_STATE_COMING;
	from_notifier();
}

static void from_live(void)
{
	told_when = MODULE_STATE_LIVE;
	from_notifier();
}

static void from_going(void)
{
	told_when = MODULE_STATE_GOING;
	from_notifier();
}

static void on_misuse(enum module_ref_misuse what, const struct module_ref *ref, const void *caller)
{
	run_second();
}

/* A put too many, which the unload finds. */
static void from_misuse_handler(void)
{
	struct module *mod;

	module_ref_set_misuse_handler(on_misuse);
	need(module_load(host, plugin("plain.so"), "first", &mod) == 0);
	module_put(mod);
	module_unload(host, "first", 0, 0);
}

static void from_atexit(void)
{
	first_load("plain.so");
	need(atexit(run_second) == 0);
}

/* An ordinary dlopen() of the program's. */
static void from_another_dlopen(void)
{
	in_constructor = run_second;
	need(dlopen(plugin("ctor.so"), RTLD_NOW));
}

static _Atomic pid_t loads_first;

static void *load_first(void *unused)
{
	atomic_store(&loads_first, gettid());
	first_load("plain.so");
	return NULL;
}

static int second_in_the_callback(struct dl_phdr_info *info, size_t size, void *data)
{
	pthread_t other = start_thread(load_first, NULL);

	while (atomic_load(&loads_first) == 0)
		sched_yield();
	until_it_sleeps(atomic_load(&loads_first));
	run_second();
	pthread_detach(other);
	return 1;
}

static void from_phdr_callback(void)
{
	dl_iterate_phdr(second_in_the_callback, NULL);
}

static void *second_thread(void *unused)
{
	/* The main thread joins this one. */
	until_it_sleeps(getpid());
	run_second();
	return NULL;
}

static void in_another_thread(void)
{
	pthread_join(start_thread(second_thread, NULL), NULL);
}

static int joins(struct module *self)
{
	in_another_thread();
	return 0;
}

static void from_thread_of_init(void)
{
	in_init = joins;
	first_load("hooked.so");
}

static void from_thread_of_constructor(void)
{
	in_constructor = in_another_thread;
	first_load("ctor.so");
}

static void in_a_child(void)
{
	pid_t child = fork();
	int status;

	need(child >= 0);
	if (child == 0) {
		run_second();
		_exit(answer < 0 ? -answer : answer ? 200 : 0);
	}
	second = NULL;
	need(waitpid(child, &status, 0) == child && WIFEXITED(status));
	status = WEXITSTATUS(status);
	answer = status == 200 ? 1 : -status;
}

static int forks(struct module *self)
{
	in_a_child();
	return 0;
}

static void from_child_of_init(void)
{
	in_init = forks;
	first_load("hooked.so");
}

static void from_child_of_constructor(void)
{
	in_constructor = in_a_child;
	first_load("ctor.so");
}

/* What each of the operations returns there, in their order: 0, 1, or an error by a letter. */
#define OPERATIONS (sizeof(operations) / sizeof(*operations))

static const struct place {
	const char *name;
	void (*first)(void);
	char results[OPERATIONS + 1];
} places[] = {
	{ "init", from_init, "d000b000b0000nb" },
	{ "exit", from_exit, "b000b000b0000nb" },
	{ "constructor", from_constructor, "d000n000n0000nb" },
	{ "destructor", from_destructor, "b000b111b1000nb" },
	{ "notifier of COMING", from_coming, "d000b000b00000b" },
	{ "notifier of LIVE", from_live, "e000d000100000b" },
	{ "notifier of GOING", from_going, "b000b000b00000b" },
	{ "misuse handler", from_misuse_handler, "e000b000b0000nb" },
	{ "atexit", from_atexit, "e000000000000nb" },
	{ "another dlopen()", from_another_dlopen, "0000n000n0000nb" },
	{ "dl_iterate_phdr()", from_phdr_callback, "dd0dn11dnd000nb" },
	{ "thread of an init", from_thread_of_init, "d000b000b0000nb" },
	{ "thread of a constructor", from_thread_of_constructor, "dd0dn11dnd000nb" },
	{ "child of an init", from_child_of_init, "b000b000b0000nb" },
	{ "child of a constructor", from_child_of_constructor, "bb0bn111nb000nb" },
};

static const struct place *place;
static const struct operation *operation;

static bool has_run;

static void leave_with_the_answer(void)
{
	/* Something that the test needs has failed. */
	if (!has_run)
		_exit(202);
	_exit(answer < 0 ? -answer : answer ? 200 : second ? 201 : 0);
}

static int pair(void)
{
	second = operation->run;
	/* The last of the handlers, since it is the first. */
	need(atexit(leave_with_the_answer) == 0);
	place->first();
	has_run = true;
	exit(0);
}

static int status_of(char result)
{
	switch (result) {
	case '0':
		return 0;
	case '1':
		return 200;
	case 'b':
		return EBUSY;
	case 'd':
		return EDEADLK;
	case 'e':
		return EEXIST;
	default:
		need(result == 'n');
		return ENOENT;
	}
}

static void every_pair(void)
{
	need(module_load(host, plugin("plain.so"), "there", &there) == 0);
	need(module_load(host, plugin("libprovider.so"), "here", &here) == 0);
	slowest = 0;
	for (place = places; place < places + sizeof(places) / sizeof(*places); place++) {
		bool good = true;

		printf("# %s:", place->name);
		for (operation = operations; operation < operations + OPERATIONS; operation++) {
			int status = watched(pair);
			int expected = status_of(place->results[operation - operations]);
			const char *word = status == 0	     ? "0"
					   : status == 200   ? "1"
					   : status == 201   ? "NOT CALLED"
					   : status == 202   ? "FAILS"
					   : status == -1    ? "HANGS"
					   : status < 0	     ? "CRASHES"
							     : strerrorname_np(status);

			printf(" %s: %s;", operation->name, word ? word : "?");
			good = good && (status == expected ||
					(operation->unloads && status == 200 && expected == 0));
		}
		putchar('\n');
		ok(good, "every operation from: %s", place->name);
	}
	printf("# the slowest pair took %.0f ms\n", (double)slowest / (double)MILLISECOND);
	module_handle_put(there);
	module_handle_put(here);
	need(module_unload(host, "there", 0, 0) == 0 && module_unload(host, "here", 0, 0) == 0);
}

int main(void)
{
	host = module_host_new();
	need(host && sem_init(&inside, 0, 0) == 0 && sem_init(&leave, 0, 0) == 0);
	only_what_is_live();
	lookups_take_no_lock();
	handlers();
	notifiers();
	every_pair();
	is(module_host_free(host), 0, "the host is empty");
	return tap_done();
}
