/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * closes.c - a plugin for programs that know no host, such as bash and Python. It closes itself, has the
 * program close others when it begins and when it ends, and leaves a thread behind.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

/* If the program exports it. */
extern void plugin_does(const char *what) __attribute__((weak));

int close_it(void *handle);
int leave_thread(void);

static void *poll_jobs(void *seconds)
{
	for (int i = 0; i < 500; i++)
		usleep(1000);
	return seconds;
}

/* A thread that ends after half a second. */
int leave_thread(void)
{
	pthread_t thread;
	int rc = pthread_create(&thread, NULL, poll_jobs, NULL);

	return rc ? rc : pthread_detach(thread);
}

static volatile int closed;

/* It comes back here, which no compiler can leave out. */
int close_it(void *handle)
{
	int rc = dlclose(handle);

	closed++;
	return rc;
}

static void has_done(const char *what)
{
	if (plugin_does)
		plugin_does(what);
	closed++;
}

static void exits(void)
{
	has_done("exit");
}

static __attribute__((constructor)) void begin(void)
{
	atexit(exits);
	has_done("begin");
}

static __attribute__((destructor)) void end(void)
{
	has_done("end");
}

/* A builtin of bash's, as its headers have it: a name, a function, flags, and what is said of it. */
struct builtin {
	const char *name;
	int (*function)(void *words);
	int flags;
	const char *const *long_doc;
	const char *short_doc;
	char *handle;
};

static int leave_builtin(void *words)
{
	(void)words;
	return leave_thread();
}

static const char *const doc[] = { "Leaves a thread behind.", NULL };
extern struct builtin leave_thread_struct;
struct builtin leave_thread_struct = { "leave_thread", leave_builtin, 1, doc, "leave_thread", NULL };
