/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * signals.c - get and put in signal handlers, on top of the gets, puts and drains of
 * the thread that is interrupted.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "module_ref.h"
#include "threads.h"

static struct module_ref ref = MODULE_REF_INIT;
static _Atomic int stop;
static _Atomic long handled, got, disturbed;

static void on_signal(int number)
{
	int before = errno = 7;

	atomic_fetch_add(&handled, 1);
	if (module_ref_try_get(&ref)) {
		atomic_fetch_add(&got, 1);
		module_ref_get(&ref);
		module_ref_put(&ref);
		module_ref_put(&ref);
	}
	if (errno != before)
		atomic_fetch_add(&disturbed, 1);
}

static void *work(void *arg)
{
	long *rounds = arg;

	while (!atomic_load(&stop)) {
		if (module_ref_try_get(&ref))
			module_ref_put(&ref);
		++*rounds;
	}
	return NULL;
}

static void *pester(void *arg)
{
	pthread_t *threads = arg;

	for (unsigned i = 0; !atomic_load(&stop); i++)
		pthread_kill(threads[i % 3], SIGUSR1);
	return NULL;
}

int main(void)
{
	struct sigaction action = { .sa_handler = on_signal };
	pthread_t threads[3], pest;
	long rounds[2] = { 0, 0 }, released = 0, timeouts = 0, others = 0;
	time_t end;

	sigaction(SIGUSR1, &action, NULL);
	threads[0] = start_thread(work, &rounds[0]);
	threads[1] = start_thread(work, &rounds[1]);
	threads[2] = pthread_self();
	pest = start_thread(pester, threads);

	end = time(NULL) + 2;
	while (time(NULL) < end || atomic_load(&got) == 0 || released == 0) {
		int rc = module_ref_drain(&ref, 2000000);

		released += rc == 0;
		timeouts += rc == -ETIMEDOUT;
		others += rc != 0 && rc != -ETIMEDOUT;
		if (rc == 0)
			need(module_ref_reinit(&ref) == 0);
	}
	atomic_store(&stop, 1);
	pthread_join(pest, NULL);
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);

	ok(atomic_load(&got) > 0, "%ld signals, %ld of them got a reference", atomic_load(&handled),
	   atomic_load(&got));
	is(atomic_load(&disturbed), 0, "errno is as it was after each get and put");
	ok(released > 0, "%ld drains interrupted by signals released, %ld ran out of time", released,
	   timeouts);
	is(others, 0, "no drain failed for another reason");
	is(module_ref_count(&ref), 0, "the count comes back to zero");
	is(module_ref_try_release(&ref), 0, "and the counter can go");
	return tap_done();
}
