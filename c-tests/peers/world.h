/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * world.h - stop other threads wherever they are, by a signal to each, as Linux stopped
 * every CPU to unload a module before 2014.
 */
#ifndef WORLD_H
#define WORLD_H

#include <pthread.h>

/* The i-th of the threads that are to be stopped. */
typedef pthread_t (*world_member)(void *crew, unsigned i);

/* Before the first stop, while nobody stops the world. Takes SIGUSR1 over. */
void world_init(void);

/* Returns when all n threads stand in their signal handlers, with everything they did
 * before seen. They run until then: none may end, or block SIGUSR1. One at a time stops
 * the world; others wait for their turn. */
void world_stop(world_member member, void *crew, unsigned n);

/* Lets them go on, by the thread that has stopped them; they see what it did. */
void world_start(void);

#endif
