/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * threads.h - a thread that the test cannot do without.
 */
#ifndef THREADS_H
#define THREADS_H

#include <pthread.h>

#include "clock.h"
#include "tap.h"

static inline pthread_t start_thread(void *(*body)(void *), void *arg)
{
	pthread_t thread;

	need(pthread_create(&thread, NULL, body, arg) == 0);
	return thread;
}

#endif
