/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * dangles.h - what a plugin leaves behind, for its user to take back: no function of a plugin may be
 * called that is unloaded.
 */
#ifndef PLUGINS_DANGLES_H
#define PLUGINS_DANGLES_H

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

struct left {
	atomic_bool stop; /* for all threads */
	pthread_mutex_t lock;
	pthread_cond_t work;
	pthread_t thread; /* of a library, to be joined */
	timer_t timer;
	pthread_key_t key;
	void **kept; /* memory, of which the first word points into the plugin */
};

/* A function of keeps.c. */
typedef void keeper(void (*function)(void), struct left *left);

#endif
