/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * guard.c - programs that know no host, with libmodule_guard.so preloaded and without. Each is this one, started
 * with what it shall do; it is not linked with the library.
 *
 *     guard                  the tests
 *     guard WHAT [WHICH N]   one of the programs, which ends with 0 if all was as it should be
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <sched.h>
#include <sys/wait.h>

#include "dangles.h"
#include "tap.h"
#include "threads.h"

enum { CYCLES = 1000 };

/* How often the program itself has been opened, and how often it can be. */
static int openings, most_openings = INT_MAX;

void *dlopen(const char *name, int flags)
{
	static void *(*real)(const char *, int);
	void *symbol;

	if (!real && (symbol = dlsym(RTLD_NEXT, "dlopen")))
		memcpy(&real, &symbol, sizeof(real));
	return name || ++openings <= most_openings ? real(name, flags) : NULL;
}

/* ---- the programs ---------------------------------------------------------------- */

/* What has to be so in one of them. */
#define must(condition)                                                       \
	do {                                                                  \
		if (!(condition)) {                                           \
			printf("%s:%d: %s\n", __FILE__, __LINE__, #condition); \
			fflush(stdout);                                       \
			_exit(1);                                             \
		}                                                             \
	} while (0)

/* What plugins/closes.c has done when it begins ("begin"), in its destructor ("end"), and in a function of its
 * own for atexit(3) ("exit"). */
static const char *when = "";
static void (*hook)(void);

void plugin_does(const char *what);
void plugin_does(const char *what)
{
	if (strcmp(what, when) == 0)
		hook();
}

static void does(const char *then, void (*that)(void))
{
	when = then;
	hook = that;
}

static const char *beside(const char *file)
{
	static __thread char path[PATH_MAX];

	must(beside_program(path, file));
	return path;
}

static void *opened(const char *file)
{
	void *handle = dlopen(beside(file), RTLD_NOW);

	must(handle);
	return handle;
}

static bool is_loaded(const char *file)
{
	void *handle = dlopen(beside(file), RTLD_NOW | RTLD_NOLOAD);

	if (handle)
		must(dlclose(handle) == 0);
	return handle != NULL;
}

static bool is_mapped(const char *file)
{
	char name[NAME_MAX];

	snprintf(name, sizeof(name), "/%s", file);
	return mapped(name) != 0;
}

/* The C library's count of those who have an object open cannot be found. */
static void uncounted(void)
{
	most_openings = 1;
	for (int i = 0; i < 100; i++)
		must(dlclose(opened("plain.so")) == 0);
	must(openings > 2 && openings < 100);
}

/* A close of anything is a look at what is kept. Threads that nobody joins end a moment later. */
static void gone(const char *file)
{
	for (int i = 0; i < 100000 && is_mapped(file); i++) {
		must(dlclose(opened("plain.so")) == 0);
		sleep_ns(MILLISECOND / 10);
	}
	must(!is_mapped(file));
}

typedef int closes(void *handle);

static void *function(void *handle, const char *name)
{
	void *symbol = dlsym(handle, name);

	must(symbol);
	return symbol;
}

static int calls(void *symbol, void *argument)
{
	closes *function;

	memcpy(&function, &symbol, sizeof(function));
	return function(argument);
}

static void leave_thread(void *handle)
{
	must(calls(function(handle, "leave_thread"), NULL) == 0);
}

static void *uses_key(void *key)
{
	must(pthread_setspecific(*(pthread_key_t *)key, malloc(1)) == 0);
	return NULL;
}

/* Does what calls into the plugin, or waits for what does so by itself. */
static void provoke(struct dangle_user *user)
{
	struct itimerspec soon = { .it_value.tv_nsec = 1 };
	const char *kind = user->dangle->kind;

	if (strcmp(kind, "signal") == 0)
		raise(SIGUSR2);
	else if (strcmp(kind, "key") == 0)
		pthread_join(start_thread(uses_key, &user->left.key), NULL);
	else if (strcmp(kind, "timer") == 0)
		must(timer_settime(user->left.timer, 0, &soon, NULL) == 0);
	sleep_ns(MILLISECOND / 10);
}

/* Loads a plugin, has it leave something behind, and closes it meanwhile, time after time. */
static void leave(const char *kind, int cycles)
{
	static struct dangle_user user;
	const struct dangle *dangle = dangle_of(kind);

	for (int i = 0; i < cycles; i++) {
		void *handle = opened(dangle->file);

		must(!dangle_begin(&user, dangle, function(handle, "leave")));
		must(dlclose(handle) == 0);
		if (dangle->told == ON_REQUEST)
			must(!is_mapped(dangle->file));
		else
			provoke(&user);
		dangle_end(&user);
		gone(dangle->file);
	}
}

static void idle(int cycles)
{
	static const char *const files[] = { "plain.so", "user.so", "far.so", "fresh.so", "atexit.so" };

	for (int i = 0; i < cycles; i++) {
		const char *file = files[i % 5];
		void *handle = opened(file);

		must(is_mapped(file));
		must(dlclose(handle) == 0);
		must(!is_mapped(file) && !is_loaded(file));
		must(!is_mapped("libprovider.so") && !is_mapped("libbetween.so"));
	}
}

/* Only the last close counts, and a program may open again what is kept for somebody. */
static void counted(void)
{
	static struct dangle_user user;
	void *handle = opened("dangles.so");

	must(opened("dangles.so") == handle && opened("dangles.so") == handle);
	must(!dangle_begin(&user, dangle_of("asleep"), function(handle, "leave")));
	must(dlclose(handle) == 0 && dlclose(handle) == 0);
	must(is_mapped("dangles.so"));
	/* The last one, and once more. */
	for (int i = 0; i < 3; i++) {
		must(dlclose(handle) == 0);
		must(is_mapped("dangles.so"));
		must(opened("dangles.so") == handle);
		must(function(handle, "leave"));
	}
	must(dlclose(handle) == 0);
	must(dlclose(handle) == -1);
	must(strstr(dlerror(), "not open"));
	must(is_mapped("dangles.so"));
	dangle_end(&user);
	gone("dangles.so");
}

static void *to_close;

static void closes_other(void)
{
	void *other = to_close;

	to_close = NULL;
	must(!other || dlclose(other) == 0);
}

/* Its own code closes a plugin, and so do constructors and destructors of others. */
static void inside(void)
{
	void *handle = opened("closes.so");

	must(calls(function(handle, "close_it"), handle) == 0);
	must(is_mapped("closes.so"));
	gone("closes.so");

	does("end", closes_other);
	handle = opened("closes.so");
	to_close = opened("user.so");
	must(dlclose(handle) == 0);
	must(!is_mapped("closes.so") && !is_mapped("user.so") && !is_mapped("libprovider.so"));

	does("begin", closes_other);
	to_close = opened("user.so");
	handle = opened("closes.so");
	must(!to_close && !is_mapped("user.so"));
	must(dlclose(handle) == 0 && !is_mapped("closes.so"));
}

/* The destructor of one closes one with a thread in it. */
static void inside_busy(void)
{
	static struct dangle_user user;
	void *handle = opened("closes.so");

	does("end", closes_other);
	to_close = opened("dangles.so");
	must(!dangle_begin(&user, dangle_of("asleep"), function(to_close, "leave")));
	must(dlclose(handle) == 0);
	must(!is_mapped("closes.so") && is_mapped("dangles.so"));
	dangle_end(&user);
	gone("dangles.so");
}

/* What a plugin does at its end: it closes what it or the program has opened, or opens and closes another one,
 * itself, one that does the same, or what is loaded already. */
static void opens_other(void)
{
	to_close = opened("user.so");
}

static void opens_and_closes(const char *file)
{
	must(dlclose(opened(file)) == 0);
}

/* They share a library. */
static void with_another(void)
{
	opens_and_closes("far.so");
}

static void with_itself(void)
{
	opens_and_closes("closes.so");
}

static void with_its_like(void)
{
	static _Thread_local int depth;

	if (depth++ == 0)
		opens_and_closes("closes_too.so");
	else
		with_another();
	depth = depth == 2 ? 0 : depth;
}

static void (*const at_end[])(void) = { closes_other, with_another, with_itself, with_its_like };

enum { AT_END = sizeof(at_end) / sizeof(*at_end) };

static void must_all_be_gone(void)
{
	must(!is_mapped("closes.so") && !is_mapped("closes_too.so"));
	must(!is_mapped("user.so") && !is_mapped("far.so"));
}

static void nested(int cycles)
{
	for (int i = 0; i < cycles; i++) {
		void *handle;

		does("begin", opens_other);
		handle = opened("closes.so");
		does(i % 2 ? "end" : "exit", at_end[i / 2 % AT_END]);
		must(dlclose(handle) == 0);
		closes_other();
		must_all_be_gone();
		/* The linker's next records are where these were. */
		does("", NULL);
		opens_and_closes("closes.so");
		opens_and_closes("user.so");
	}
}

static void *nests(void *cycles)
{
	for (int i = 0; i < *(int *)cycles; i++)
		opens_and_closes(i % 3 ? "closes.so" : "user.so");
	return NULL;
}

/* Two threads at it. What the one has opened once more meanwhile is not gone when the other has closed it. */
static void nested_threads(int cycles)
{
	for (int i = 0; i < AT_END; i++) {
		pthread_t threads[2];

		does("end", at_end[i]);
		for (int t = 0; t < 2; t++)
			threads[t] = start_thread(nests, &cycles);
		for (int t = 0; t < 2; t++)
			pthread_join(threads[t], NULL);
		gone("closes.so");
		gone("closes_too.so");
		gone("user.so");
		gone("far.so");
		must_all_be_gone();
	}
}

static int ends_well(pid_t child)
{
	int status;

	must(child > 0 && waitpid(child, &status, 0) == child);
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static pid_t forked_at_end;

static void forks(void)
{
	must((forked_at_end = fork()) >= 0);
	with_another();
	with_itself();
}

/* The child of a fork in a destructor ends that close, and has its turn again. */
static void nested_fork(int cycles)
{
	for (int i = 0; i < cycles; i++) {
		does("end", forks);
		opens_and_closes("closes.so");
		must_all_be_gone();
		does("", NULL);
		nested(AT_END * 2);
		if (forked_at_end == 0)
			_exit(0);
		must(ends_well(forked_at_end));
	}
}

static int close_within(struct dl_phdr_info *info, size_t size, void *handle)
{
	(void)info;
	(void)size;
	must(dlclose(handle) == 0);
	return 1;
}

static void iterating(int cycles)
{
	for (int i = 0; i < cycles; i++) {
		must(dl_iterate_phdr(close_within, opened("user.so")) == 1);
		must(!is_mapped("user.so"));
	}
}

static atomic_bool enough;

static void *open_and_close(void *file)
{
	int n = 0;

	while (!enough || n == 0) {
		must(dlclose(opened(file)) == 0);
		n++;
	}
	return NULL;
}

static _Atomic pid_t closer;

static void *closes_it(void *handle)
{
	closer = gettid();
	must(dlclose(handle) == 0);
	return NULL;
}

static void *opened_twice;

static void closed_by_others(void)
{
	pthread_t threads[2];

	for (int t = 0; t < 2; t++)
		threads[t] = start_thread(closes_it, opened_twice);
	for (int t = 0; t < 2; t++)
		pthread_join(threads[t], NULL);
}

/* Whoever waits for too long leaves a share to the guard, which closes all of them. */
static void left_over(void)
{
	void *handle = opened("closes.so");

	opened_twice = opened("user.so");
	must(opened("user.so") == opened_twice);
	does("end", closed_by_others);
	must(dlclose(handle) == 0 && !is_mapped("closes.so"));
	gone("user.so");
	must(!is_mapped("libprovider.so"));
}

/* A child has none of the threads, and can close what is kept for them. */
static void forked(int cycles)
{
	static struct dangle_user user;
	void *handle = opened("dangles.so");
	pthread_t thread;
	pid_t child;

	must(!dangle_begin(&user, dangle_of("asleep"), function(handle, "leave")));
	must(dlclose(handle) == 0);
	if ((child = fork()) == 0) {
		gone("dangles.so");
		_exit(0);
	}
	must(ends_well(child));
	must(is_mapped("dangles.so"));
	dangle_end(&user);
	gone("dangles.so");
	/* While another thread has its turn, and looks: until one that runs can be looked at. */
	handle = opened("dangles.so");
	must(!dangle_begin(&user, dangle_of("spinning"), function(handle, "leave")));
	thread = start_thread(closes_it, handle);
	for (int i = 0; i < cycles; i++) {
		sleep_ns(10 * MILLISECOND);
		if ((child = fork()) == 0) {
			must(dlclose(opened("user.so")) == 0);
			must(!is_mapped("user.so"));
			_exit(0);
		}
		must(ends_well(child));
	}
	pthread_join(thread, NULL);
	must(is_mapped("dangles.so"));
	dangle_end(&user);
	gone("dangles.so");
}

/* Handlers of a fork close, and were there before the guard's. */
static void closes_plain(void)
{
	must(dlclose(opened("plain.so")) == 0);
}

static void in_fork_handlers(int cycles)
{
	alarm(100);
	must(pthread_atfork(closes_plain, closes_plain, closes_plain) == 0);
	must(dlclose(opened("user.so")) == 0);
	for (int i = 0; i < cycles; i++) {
		pid_t child = fork();

		must(dlclose(opened("user.so")) == 0);
		must(!is_mapped("user.so") && !is_mapped("plain.so"));
		if (child == 0)
			_exit(0);
		must(ends_well(child));
	}
}

/* A thread that tells what stays, to a pipe that is full, is not there in the child of a fork. */
static void forked_while_told(void)
{
	static char text[4096];
	static struct dangle_user user;
	void *handle = opened("closes.so"), *handled = opened("dangles.so");
	pthread_t thread;
	pid_t child;
	int ends[2];

	must(pipe(ends) == 0 && fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0);
	while (write(ends[1], text, sizeof(text)) > 0)
		;
	must(fcntl(ends[1], F_SETFL, 0) == 0 && dup2(ends[1], STDERR_FILENO) >= 0);
	must(!dangle_begin(&user, dangle_of("signal"), function(handled, "leave")));
	leave_thread(handle);
	thread = start_thread(closes_it, handle);
	while (!closer)
		sched_yield();
	until_it_is_in(closer, SYS_write);
	if ((child = fork()) == 0) {
		alarm(100);
		must(dup2(open("/dev/null", O_WRONLY), STDERR_FILENO) >= 0);
		must(dlclose(handled) == 0 && is_mapped("dangles.so"));
		_exit(0);
	}
	must(ends_well(child));
	/* And if nobody reads it any more. */
	signal(SIGPIPE, SIG_DFL);
	must(close(ends[0]) == 0);
	pthread_join(thread, NULL);
	must(is_mapped("closes.so"));
	dangle_end(&user);
}

static void *open_and_close_often(void *arg)
{
	static const char *const files[] = { "plain.so", "user.so", "far.so", "dangles.so" };
	const int *n = arg;

	for (int i = 0; i < *n; i++) {
		void *handle = opened(files[i % 4]);

		if (i % 100 == 99) {
			void *closes = opened("closes.so");

			leave_thread(closes);
			must(dlclose(closes) == 0);
		}
		must(dlclose(handle) == 0);
	}
	return NULL;
}

static void crowd(int cycles)
{
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		threads[i] = start_thread(open_and_close_often, &cycles);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	gone("closes.so");
	must(!is_mapped("user.so") && !is_mapped("far.so") && !is_mapped("libprovider.so"));
}

/* A constructor closes an object while another thread, that closes one, waits for the dynamic linker. */
static void *opens_slowly(void *unused)
{
	void *handle = opened("closes.so");

	must(dlclose(handle) == 0);
	return unused;
}

static void crossed(int cycles)
{
	pthread_t thread = start_thread(open_and_close, (void *)"plain.so");

	does("begin", closes_other);
	for (int i = 0; i < cycles; i++) {
		to_close = opened("user.so");
		opens_slowly(NULL);
	}
	enough = true;
	pthread_join(thread, NULL);
	gone("user.so");
	gone("closes.so");
}

/* What stays because another one has bound a symbol of it goes with that. */
static void bound(void)
{
	static struct dangle_user user;

	for (int is_busy = 0; is_busy < 2; is_busy++) {
		void *handle = dlopen(beside("dangles.so"), RTLD_NOW | RTLD_GLOBAL), *leave, *binds;

		must(handle);
		leave = function(handle, "leave");
		binds = opened("binds.so");
		must(dlclose(handle) == 0);
		must(is_mapped("dangles.so"));
		must(!is_busy || !dangle_begin(&user, dangle_of("asleep"), leave));
		must(dlclose(binds) == 0);
		must(!is_mapped("binds.so") && is_mapped("dangles.so") == is_busy);
	}
	dangle_end(&user);
	gone("dangles.so");
}

/* The same when the guard itself lets go of the other one. */
static void bound_by_kept(void)
{
	static struct dangle_user user;
	void *handle = dlopen(beside("dangles.so"), RTLD_NOW | RTLD_GLOBAL), *leave, *binds, *answer;
	void (*handler)(int);

	must(handle);
	leave = function(handle, "leave");
	binds = opened("binds.so");
	answer = function(binds, "answer");
	memcpy(&handler, &answer, sizeof(handler));
	must(dlclose(handle) == 0);
	must(!dangle_begin(&user, dangle_of("asleep"), leave));
	signal(SIGUSR1, handler);
	must(dlclose(binds) == 0);
	must(is_mapped("binds.so") && is_mapped("dangles.so"));
	signal(SIGUSR1, SIG_DFL);
	/* A close that is not the last one is no look at what goes along, but a look at what is kept. */
	handle = opened("plain.so");
	must(opened("plain.so") == handle && dlclose(handle) == 0);
	must(!is_mapped("binds.so") && is_mapped("dangles.so"));
	must(dlclose(handle) == 0);
	dangle_end(&user);
	gone("dangles.so");
}

static void *is_cancelled(void *handle)
{
	int before;

	pthread_cancel(pthread_self());
	must(dlclose(handle) == 0);
	must(!is_mapped("plain.so"));
	pthread_testcancel();
	must(pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &before) == 0);
	return NULL;
}

/* The end of a thread that is cancelled waits for the end of the close. */
static void cancelled(void)
{
	void *result;

	must(pthread_join(start_thread(is_cancelled, opened("plain.so")), &result) == 0);
	must(result == PTHREAD_CANCELED);
}

/* Other namespaces are none of the guard's business. */
static void namespaces(void)
{
	void *handle = dlmopen(LM_ID_NEWLM, beside("plain.so"), RTLD_NOW);

	must(handle);
	must(dlclose(handle) == 0 && !is_mapped("plain.so"));
}

/* What stays anyway is kept for nobody, and nothing is said of it. */
static void staying(void)
{
	static struct dangle_user user;
	void *handle = opened("nodelete.so");

	for (int i = 0; i < 3; i++)
		must(dlclose(handle) == 0);
	must(is_mapped("nodelete.so"));
	/* What asks for that when it is opened. */
	handle = dlopen(beside("closes.so"), RTLD_NOW | RTLD_NODELETE);
	must(handle);
	leave_thread(handle);
	for (int i = 0; i < 3; i++)
		must(dlclose(handle) == 0);
	must(is_mapped("closes.so"));
	/* What others have open. */
	handle = opened("dangles.so");
	must(opened("dangles.so") == handle);
	must(!dangle_begin(&user, dangle_of("asleep"), function(handle, "leave")));
	must(dlclose(handle) == 0);
	dangle_end(&user);
	/* What another one needs. */
	must(opened("brings.so"));
	must(!dangle_begin(&user, dangle_of("library"), function(handle, "leave")));
	must(dlclose(user.keeps) == 0);
	user.keeps = NULL;
	dangle_end(&user);
	must(is_mapped("libkeeps.so"));
}

/* What a program hears of its own mistakes, and of closes that are none. */
static void mistakes(void)
{
	void *handles[] = { dlopen(NULL, RTLD_NOW), dlopen("libc.so.6", RTLD_NOW | RTLD_NOLOAD),
			    opened("libprovider.so") };

	must(opened("user.so"));
	for (int i = 0; i < 9; i++) {
		const char *words;
		int rc;

		if (i / 3 == 2)
			dlsym(RTLD_DEFAULT, "nowhere_to_be_found");
		errno = 77;
		rc = dlclose(handles[i % 3]);
		printf("%d, errno %d, ", rc, errno);
		words = dlerror();
		printf("%s\n", words ? words : "no words");
	}
}

static void stale(void)
{
	void *handle = opened("closes.so"), *close_it = function(handle, "close_it");

	must(dlclose(handle) == 0);
	printf("%s\n", is_mapped("closes.so") ? "mapped" : "unmapped");
	fflush(stdout);
	calls(close_it, NULL);
}

/* A thread is in it, or it cannot be known. Needs no /proc. */
static void busy(const char *path)
{
	void *handle = dlopen(path, RTLD_NOW);

	must(handle);
	leave_thread(handle);
	must(dlclose(handle) == 0);
	must(dlopen(path, RTLD_NOW | RTLD_NOLOAD) == handle);
}

static int program(int argc, char **argv)
{
	const char *what = argv[1];
	int n = argc > 3 ? atoi(argv[3]) : CYCLES;

	if (strcmp(what, "leave") == 0)
		leave(argv[2], n);
	else if (strcmp(what, "idle") == 0)
		idle(n);
	else if (strcmp(what, "counted") == 0)
		counted();
	else if (strcmp(what, "uncounted") == 0)
		uncounted();
	else if (strcmp(what, "inside") == 0)
		inside();
	else if (strcmp(what, "inside-busy") == 0)
		inside_busy();
	else if (strcmp(what, "nested") == 0)
		nested(n);
	else if (strcmp(what, "nested-threads") == 0)
		nested_threads(n);
	else if (strcmp(what, "nested-fork") == 0)
		nested_fork(20);
	else if (strcmp(what, "iterating") == 0)
		iterating(n);
	else if (strcmp(what, "left-over") == 0)
		left_over();
	else if (strcmp(what, "forked") == 0)
		forked(10);
	else if (strcmp(what, "in-fork-handlers") == 0)
		in_fork_handlers(20);
	else if (strcmp(what, "forked-while-told") == 0)
		forked_while_told();
	else if (strcmp(what, "crowd") == 0)
		crowd(500);
	else if (strcmp(what, "crossed") == 0)
		crossed(100);
	else if (strcmp(what, "bound") == 0)
		bound();
	else if (strcmp(what, "bound-by-kept") == 0)
		bound_by_kept();
	else if (strcmp(what, "cancelled") == 0)
		cancelled();
	else if (strcmp(what, "namespaces") == 0)
		namespaces();
	else if (strcmp(what, "staying") == 0)
		staying();
	else if (strcmp(what, "mistakes") == 0)
		mistakes();
	else if (strcmp(what, "stale") == 0)
		stale();
	else if (strcmp(what, "busy") == 0)
		busy(argv[2]);
	else
		return 2;
	return 0;
}

/* ---- the tests --------------------------------------------------------------------- */

/* How a program has ended, and what it has said. */
struct end {
	int status; /* of waitpid */
	char out[4096], err[8192];
};

static bool is_well(const struct end *end)
{
	return WIFEXITED(end->status) && WEXITSTATUS(end->status) == 0;
}

static bool has_crashed(const struct end *end)
{
	return WIFSIGNALED(end->status) && WTERMSIG(end->status) != SIGALRM;
}

static void take(FILE *file, char *text, size_t size)
{
	rewind(file);
	text[fread(text, 1, size - 1, file)] = '\0';
	fclose(file);
}

/* Runs one of the programs, guarded or not; a setting is NAME=value, or NULL. It has ten minutes. */
static struct end run(bool guarded, char *setting, const char *what, const char *which, int n)
{
	static struct end end;
	FILE *out = tmpfile(), *err = tmpfile();
	char cycles[16];
	pid_t child;

	need(out && err);
	snprintf(cycles, sizeof(cycles), "%d", n);
	fflush(stdout);
	need((child = fork()) >= 0);
	if (child == 0) {
		dup2(fileno(out), STDOUT_FILENO);
		dup2(fileno(err), STDERR_FILENO);
		alarm(600);
		if (guarded)
			setenv("LD_PRELOAD", GUARD, 1);
		if (setting)
			putenv(setting);
		execl("/proc/self/exe", "guard", what, which ? which : "", cycles, NULL);
		_exit(99);
	}
	need(waitpid(child, &end.status, 0) == child);
	take(out, end.out, sizeof(end.out));
	take(err, end.err, sizeof(end.err));
	return end;
}

static void show(const struct end *end)
{
	printf("#   status %#x; it said: %s#   and: %s\n", (unsigned)end->status, end->out, end->err);
}

static int lines(const char *text)
{
	int n = 0;

	for (; (text = strchr(text, '\n')); text++)
		n++;
	return n;
}

/* How many lines are of that file, and of others. What a thread that runs has left on its stack may look as if
 * it was in an object that is where another one was: who has that said of it is not counted. */
static int told_of(const char *file, const char *text, int *others)
{
	char start[NAME_MAX + 16], line[1024];
	int n = 0;

	*others = 0;
	snprintf(start, sizeof(start), "/%s stays mapped: ", file);
	for (const char *end; (end = strchr(text, '\n')); text = end + 1) {
		snprintf(line, sizeof(line), "%.*s", (int)(end - text), text);
		if (strstr(line, start))
			n++;
		else if (!strstr(line, " runs and could not be looked at"))
			++*others;
	}
	return n;
}

/* It runs to its end, and is told of as many objects, once each. */
static void runs(const char *what, int least, int most, const char *proves)
{
	struct end end = run(true, NULL, what, NULL, CYCLES);
	int certain;

	told_of("", end.err, &certain);
	if (!ok(is_well(&end) && lines(end.err) >= least && certain <= most && !*end.out, "%s", proves))
		show(&end);
}

/* How often a plugin is loaded and closed: the look waits for a thread that runs. */
static int cycles_of(const char *kind)
{
	return strcmp(kind, "spinning") == 0 || strcmp(kind, "openmp") == 0 ? 30 : CYCLES;
}

/* Without the guard these crash. The C library itself keeps the object of a thread-local. */
static bool is_deadly(const struct dangle *dangle)
{
	return dangle->told == BY_UNLOAD && strcmp(dangle->kind, "openmp") != 0;
}

static void plugins(void)
{
	for (int i = 0; i < DANGLES; i++) {
		const struct dangle *dangle = &dangles[i];
		const char *kind = dangle->kind;
		int n = cycles_of(kind);
		int told, others;
		struct end end;

		if (access(beside(dangle->file), R_OK) != 0) {
			ok(true, "%s # SKIP the compiler has none that is unmapped", dangle->what);
			continue;
		}
		end = run(true, NULL, "leave", kind, n);
		if (!ok(is_well(&end), "%s: %d times", dangle->what, n))
			show(&end);
		if (dangle->told == BY_UNLOAD) {
			told = told_of(dangle->file, end.err, &others);
			if (!ok(told == 1 && others == 0 && strncmp(end.err, "module_guard: ", 14) == 0 &&
					strstr(end.err, dangle->words),
				"and it is told, once"))
				show(&end);
		} else if (!ok(!*end.err || strstr(end.err, " runs and could not be looked at"),
			       "and nothing is said but of a thread that runs all the time"))
			show(&end);
		if (is_deadly(dangle)) {
			end = run(false, NULL, "leave", kind, n);
			if (!ok(has_crashed(&end), "and without the guard it crashes"))
				show(&end);
		}
	}
}

static void as_before(void)
{
	struct end plain = run(false, NULL, "mistakes", NULL, 1),
		   end = run(true, NULL, "mistakes", NULL, 1);

	if (!ok(is_well(&end) && is_well(&plain) && strcmp(end.out, plain.out) == 0 && !*end.err,
		"results, errno and words are those of the C library"))
		show(&plain), show(&end);
	ok(strstr(plain.out, "-1, errno") && lines(plain.out) == 9, "of failures, too");
}

static void settings(void)
{
	static char reports[] = "MODULE_REF_CRASH_REPORTS=1", unmap[] = "MODULE_REF_AFTER_UNLOAD=unmap",
		    keep[] = "MODULE_REF_AFTER_UNLOAD=keep";
	struct end end = run(true, reports, "stale", NULL, 1);

	if (!ok(has_crashed(&end) && lines(end.err) == 1 && strstr(end.err, "module_ref: thread ") &&
			strstr(end.err, " called closes.so+0x") && strstr(end.err, ", unloaded "),
		"a stale call says whose code it was"))
		show(&end);
	end = run(true, unmap, "stale", NULL, 1);
	if (!ok(has_crashed(&end) && strcmp(end.out, "unmapped\n") == 0 && !*end.err,
		"without a place that is kept"))
		show(&end);
	end = run(true, keep, "stale", NULL, 1);
	if (!ok(strcmp(end.out, "mapped\n") == 0 && !*end.err, "all is kept, on request"))
		show(&end);
}

int main(int argc, char **argv)
{
	if (argc > 1)
		return program(argc, argv);
	if (access(GUARD, R_OK) != 0) {
		puts("1..0 # SKIP there is no " GUARD);
		return 0;
	}
	runs("idle", 0, 0, "what nobody is in is unmapped by each close, and nothing is said");
	plugins();
	runs("counted", 1, 1, "the last close alone counts, and what is kept can be opened again");
	runs("uncounted", 1, 1, "a count that cannot be found is not looked for at each close");
	runs("inside", 1, 1, "a plugin that closes itself, and others as it comes and goes");
	runs("inside-busy", 1, 1, "a destructor closes what somebody is in");
	runs("nested", 0, 0, "what a destructor opens and closes");
	runs("nested-threads", 0, 2, "in two threads at once");
	runs("nested-fork", 0, 0, "a destructor that forks");
	runs("iterating", 0, 0, "a close within dl_iterate_phdr");
	runs("left-over", 0, 0, "two closes that wait for a third one that takes long");
	runs("forked", 1, 1, "closes in the child of a fork");
	runs("in-fork-handlers", 0, 0, "in handlers of a fork");
	runs("forked-while-told", 0, 0, "while it is told of another close, to nobody");
	runs("crowd", 1, 5, "four threads");
	runs("crossed", 0, 3, "closes in constructors while another thread closes");
	runs("bound", 1, 1, "what others have bound");
	runs("bound-by-kept", 2, 2, "what those have bound that the guard has kept");
	runs("cancelled", 0, 0, "a thread that is cancelled");
	runs("namespaces", 0, 0, "another namespace");
	runs("staying", 0, 0, "what stays anyway");
	as_before();
	settings();
	return tap_done();
}
