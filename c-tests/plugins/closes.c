/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * closes.c - a plugin for programs that know no host, such as bash and Python. It closes objects: itself, and
 * others in its constructor and its destructor; and it leaves a thread behind.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

/* What the program has for it, if it exports that. */
extern void *to_close __attribute__((weak));

int close_it(void *handle);
int leave_thread(void);

static void *poll_jobs(void *seconds)
{
	for (int i = 0; i < 100; i++)
		usleep(1000);
	return seconds;
}

/* A thread that ends after a tenth of a second. */
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

static void close_other(void)
{
	if (&to_close && to_close) {
		void *other = to_close;

		to_close = NULL;
		if (dlclose(other) != 0)
			abort();
	}
}

static __attribute__((constructor)) void begin(void)
{
	if (getenv("CLOSES_AT_ONCE"))
		close_other();
}

static __attribute__((destructor)) void end(void)
{
	close_other();
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
