/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * dangles.c - a plugin that leaves something behind, of the kind that it is asked for. It holds no
 * reference for any of it.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dangles.h"

#ifdef BRINGS
keeper call_often;
#endif

/* What C++ compilers make a thread-local object's destructor known by. */
int __cxa_thread_atexit_impl(void (*destructor)(void *), void *object, void *of);
extern char __dso_handle[] __attribute__((visibility("hidden")));

static struct left *left;
static atomic_int begun;

/* Exported, for their names to be known where the file is stripped. */
void *poll_jobs(void *unused)
{
	begun++;
	while (!left->stop)
		usleep(1000);
	return unused;
}

void *spin(void *unused)
{
	begun++;
	while (!left->stop)
		;
	return unused;
}

void *take_jobs(void *unused)
{
	pthread_mutex_lock(&left->lock);
	begun++;
	while (!left->stop)
		pthread_cond_wait(&left->work, &left->lock);
	pthread_mutex_unlock(&left->lock);
	return unused;
}

void tick(union sigval unused)
{
	(void)unused;
}

void free_buffer(void *buffer)
{
	free(buffer);
}

void on_signal(int signal)
{
	(void)signal;
}

void bye(void)
{
}

void on_io(void)
{
	usleep(1000);
}

struct callback {
	void (*function)(void);
};

/* An object of a class with a virtual function, as C++ compilers lay it out. */
struct shape {
	long (*const *functions)(const struct shape *);
};

static long corners(const struct shape *unused)
{
	(void)unused;
	return 4;
}

extern const struct virtual_table {
	const void *offset, *type;
	long (*functions[1])(const struct shape *);
} _ZTV5shape;
const struct virtual_table _ZTV5shape = { NULL, NULL, { corners } };

static void *callback(void)
{
	struct callback *callback = malloc(sizeof(*callback));

	if (callback)
		callback->function = on_io;
	return callback;
}

static void *shape(void)
{
	struct shape *shape = malloc(sizeof(*shape));

	if (shape)
		shape->functions = _ZTV5shape.functions;
	return shape;
}

static void destroy(void *object)
{
	*(char *)object = 0;
}

static void threads(int n, void *(*body)(void *))
{
	pthread_t thread;

	for (int i = 0; i < n; i++)
		if (pthread_create(&thread, NULL, body, NULL) || pthread_detach(thread))
			abort();
	while (begun < n)
		usleep(1000);
}

#ifdef _OPENMP
static void sum(void)
{
	volatile int sums[4] = { 0 };

#pragma omp parallel for num_threads(2)
	for (int i = 0; i < 4; i++)
		sums[i] += i;
}
#endif

void leave(const char *kind, keeper *keep, struct left *to);

void leave(const char *kind, keeper *keep, struct left *to)
{
	static char local;
	struct sigevent event = { .sigev_notify = SIGEV_THREAD, .sigev_notify_function = tick };
	struct itimerspec hour = { .it_value.tv_sec = 3600 };
	void *buffer;

	left = to;
	if (strcmp(kind, "callback") == 0)
		left->kept = callback();
	else if (strcmp(kind, "object") == 0)
		left->kept = shape();
	else if (strcmp(kind, "asleep") == 0)
		threads(1, poll_jobs);
	else if (strcmp(kind, "spinning") == 0)
		threads(1, spin);
	else if (strcmp(kind, "pool") == 0)
		threads(3, take_jobs);
	else if (strcmp(kind, "timer") == 0) {
		if (timer_create(CLOCK_MONOTONIC, &event, &left->timer) ||
		    timer_settime(left->timer, 0, &hour, NULL))
			abort();
	} else if (strcmp(kind, "key") == 0) {
		buffer = malloc(16);
		if (pthread_key_create(&left->key, free_buffer) || pthread_setspecific(left->key, buffer))
			abort();
	} else if (strcmp(kind, "local") == 0) {
		if (__cxa_thread_atexit_impl(destroy, &local, __dso_handle))
			abort();
	} else if (strcmp(kind, "signal") == 0)
		signal(SIGUSR2, on_signal);
	else if (strcmp(kind, "exit") == 0)
		keep(bye, left);
	else if (strcmp(kind, "library") == 0)
		keep(on_io, left);
#ifdef BRINGS
	else if (strcmp(kind, "brought") == 0)
		call_often(on_io, left);
#endif
#ifdef _OPENMP
	else if (strcmp(kind, "openmp") == 0)
		sum();
#endif
	else
		abort();
}
