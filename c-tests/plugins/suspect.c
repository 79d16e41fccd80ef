/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * suspect.c - a plugin with all that a look at its file can find in C. Nobody loads it.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>

int init_module(void);

/* An address in its code, which the loader would have to write. */
__asm__(".text\n\t.8byte init_module");

static void *run(void *arg)
{
	return arg;
}

static void at_exit(int status, void *arg)
{
}

int init_module(void)
{
	pthread_t thread;
	pthread_key_t key;
	timer_t timer;

	return pthread_create(&thread, NULL, run, NULL) || pthread_key_create(&key, free) ||
	       on_exit(at_exit, NULL) || sigaction(SIGUSR1, NULL, NULL) ||
	       timer_create(CLOCK_MONOTONIC, NULL, &timer) || atexit(abort);
}
