/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * keeps.c - a library that keeps functions of others: until it is closed itself, and in a thread
 * that calls back.
 */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dangles.h"

keeper keep_until_closed, call_often;
void stay_there(void);

static struct left *left;

void keep_until_closed(void (*function)(void), struct left *unused)
{
	(void)unused;
	if (atexit(function))
		abort();
}

/* To be called often: the thread is in this library alone then. */
void stay_there(void)
{
}

static void *calls(void *argument)
{
	void (*function)(void);

	memcpy(&function, &argument, sizeof(function));
	while (!left->stop) {
		function();
		usleep(1000);
	}
	return NULL;
}

void call_often(void (*function)(void), struct left *to)
{
	void *argument;

	left = to;
	memcpy(&argument, &function, sizeof(argument));
	if (pthread_create(&left->thread, NULL, calls, argument))
		abort();
}
