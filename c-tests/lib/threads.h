/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * threads.h - threads that a test cannot do without, and where they are.
 */
#ifndef THREADS_H
#define THREADS_H

#include <pthread.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <sys/types.h>

#include "clock.h"
#include "tap.h"

static inline pthread_t start_thread(void *(*body)(void *), void *arg)
{
	pthread_t thread;

	need(pthread_create(&thread, NULL, body, arg) == 0);
	return thread;
}

/* Until a thread is in that system call, and stays in it: it is at several looks. */
static inline void until_it_is_in(pid_t thread, long wanted)
{
	char path[64];

	for (int there = 0; there < 5; sleep_ns(MILLISECOND)) {
		FILE *file;
		long call = -1;

		snprintf(path, sizeof(path), "/proc/self/task/%d/syscall", thread);
		file = fopen(path, "r");
		if (!file || fscanf(file, "%ld", &call) != 1)
			call = -1;
		if (file)
			fclose(file);
		there = call == wanted ? there + 1 : 0;
	}
}

/* Until a thread waits for another one, or for the linker's lock. */
static inline void until_it_sleeps(pid_t thread)
{
	until_it_is_in(thread, SYS_futex);
}

#endif
