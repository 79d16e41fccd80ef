/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * world.c - stop other threads wherever they are, by a signal to each.
 */
#define _GNU_SOURCE
#include "world.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t world = PTHREAD_MUTEX_INITIALIZER;
static sem_t stopped;
static _Atomic unsigned running;     /* threads still to be stopped */
static _Atomic uint32_t stop_number; /* odd while the world is stopped */

static void stop_here(int signal)
{
	uint32_t number = atomic_load(&stop_number);
	int saved = errno;

	/* The last one alone wakes the stopper, which would only go back to sleep. */
	if (atomic_fetch_sub(&running, 1) == 1)
		sem_post(&stopped);
	while (atomic_load(&stop_number) == number)
		syscall(SYS_futex, &stop_number, FUTEX_WAIT_PRIVATE, number, NULL, NULL, 0);
	errno = saved;
}

void world_init(void)
{
	struct sigaction action = { .sa_handler = stop_here, .sa_flags = SA_RESTART };

	sem_init(&stopped, 0, 0);
	sigaction(SIGUSR1, &action, NULL);
}

void world_stop(world_member member, void *crew, unsigned n)
{
	pthread_mutex_lock(&world);
	atomic_store(&running, n);
	atomic_fetch_add(&stop_number, 1);
	for (unsigned i = 0; i < n; i++)
		pthread_kill(member(crew, i), SIGUSR1);
	while (n > 0 && sem_wait(&stopped) != 0)
		;
}

void world_start(void)
{
	atomic_fetch_add(&stop_number, 1);
	syscall(SYS_futex, &stop_number, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
	pthread_mutex_unlock(&world);
}
