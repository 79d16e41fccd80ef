/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * threads.c - the counter between threads: one winner, drains that end, and what a
 * holder wrote before its put is there for the winner.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "module_ref.h"
#include "threads.h"

static struct module_ref ref = MODULE_REF_INIT;
static _Atomic int go, stop;
static _Atomic long refused, served;

/* ---- 32 threads hammer a closed counter while a holder delays a drain ------- */

static void *hammer(void *arg)
{
	while (!atomic_load(&stop)) {
		if (module_ref_try_get(&ref)) {
			atomic_fetch_add(&served, 1);
			module_ref_put(&ref);
		} else {
			atomic_fetch_add_explicit(&refused, 1, memory_order_relaxed);
		}
	}
	return NULL;
}

static void *put_later(void *arg)
{
	sleep_ns(*(uint64_t *)arg);
	module_ref_put(&ref);
	return NULL;
}

static void hammered(void)
{
	enum { THREADS = 32 };
	pthread_t threads[THREADS], holder;
	uint64_t hold = 200 * MILLISECOND;
	long served_before, refused_before;
	uint64_t began;

	ok(module_ref_try_get(&ref), "a holder, and %d threads that ask", THREADS);
	for (int i = 0; i < THREADS; i++)
		threads[i] = start_thread(hammer, NULL);
	began = now_ns();
	holder = start_thread(put_later, &hold);
	is(module_ref_drain(&ref, -1), 0, "the drain ends when the holder puts");
	ok(now_ns() - began >= 200000000, "and not before");
	served_before = atomic_load(&served);
	refused_before = atomic_load(&refused);
	while (atomic_load(&refused) < refused_before + 1000)
		sleep_ns(MILLISECOND);
	is(atomic_load(&served), served_before, "the counter stays closed");
	ok(atomic_load(&refused) > 0, "%ld gets were refused", atomic_load(&refused));
	is(module_ref_reinit(&ref), 0, "the winner lets them in again");
	while (atomic_load(&served) == served_before)
		sleep_ns(MILLISECOND);
	ok(1, "and they come");
	atomic_store(&stop, 1);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	pthread_join(holder, NULL);
	is(module_ref_count(&ref), 0, "and are all gone");
}

/* ---- one winner -------------------------------------------------------------- */

static _Atomic int winners, told[2];

static void *contend(void *arg)
{
	int rc, drains = arg != NULL;

	while (!atomic_load(&go))
		sched_yield(); /* a sanitizer waits for each thread to start */
	rc = drains ? module_ref_drain(&ref, -1) : module_ref_try_release(&ref);
	if (rc == 0)
		atomic_fetch_add(&winners, 1);
	else if (rc == -EALREADY || rc == -EBUSY)
		atomic_fetch_add(&told[rc == -EALREADY], 1);
	return NULL;
}

static void one_winner(void)
{
	enum { THREADS = 8, ROUNDS = 300 };
	pthread_t threads[THREADS];
	int single = 0;

	for (int round = 0; round < ROUNDS; round++) {
		atomic_store(&winners, 0);
		atomic_store(&go, 0);
		for (int i = 0; i < THREADS; i++)
			threads[i] = start_thread(contend, i % 2 ? &ref : NULL);
		atomic_store(&go, 1);
		for (int i = 0; i < THREADS; i++)
			pthread_join(threads[i], NULL);
		single += atomic_load(&winners) == 1;
		need(module_ref_reinit(&ref) == 0);
	}
	is(single, ROUNDS, "each of %d releases has one winner among %d", ROUNDS, THREADS);
	is(atomic_load(&told[0]) + atomic_load(&told[1]), ROUNDS * (THREADS - 1),
	   "the others were told -EBUSY (%d) or -EALREADY (%d)", atomic_load(&told[0]),
	   atomic_load(&told[1]));
}

/* ---- what holders wrote is seen ------------------------------------------------- */

static long written; /* plain memory: a sanitizer would see a race */

static void *write_and_put(void *arg)
{
	written += *(long *)arg;
	module_ref_put(&ref);
	return NULL;
}

static void happens_before(void)
{
	enum { ROUNDS = 2000 };
	pthread_t holder;
	long one = 1;
	int seen = 0;

	written = 0;
	for (int round = 1; round <= ROUNDS; round++) {
		need(module_ref_try_get(&ref));
		holder = start_thread(write_and_put, &one);
		need(module_ref_drain(&ref, -1) == 0);
		seen += written == round;
		written = round;
		need(module_ref_reinit(&ref) == 0);
		pthread_join(holder, NULL);
	}
	is(seen, ROUNDS, "what a holder wrote before its put, the winner reads");
}

/* ---- put, then freed at once ------------------------------------------------------ */

struct object {
	struct module_ref ref;
	char poison[48];
};

static void *put_object(void *arg)
{
	module_ref_put(&((struct object *)arg)->ref);
	return NULL;
}

static void put_then_free(void)
{
	enum { ROUNDS = 2000 };
	pthread_t holder;

	for (int round = 0; round < ROUNDS; round++) {
		struct object *object = aligned_alloc(16, sizeof(*object));

		need(object && module_ref_init(&object->ref) == 0);
		need(module_ref_try_get(&object->ref));
		holder = start_thread(put_object, object);
		need(module_ref_drain(&object->ref, -1) == 0);
		module_ref_destroy(&object->ref);
		memset(object, 0x6b, sizeof(*object));
		free(object);
		pthread_join(holder, NULL);
	}
	ok(1, "%d counters freed as soon as their drain ended", ROUNDS);
}

/* ---- a drain between others ---------------------------------------------------------- */

static void *drain_for_ever(void *arg)
{
	*(int *)arg = module_ref_drain(&ref, -1);
	return NULL;
}

static void while_draining(void)
{
	pthread_t drainer;
	int rc = 1;

	need(module_ref_try_get(&ref));
	drainer = start_thread(drain_for_ever, &rc);
	while (module_ref_try_get(&ref))
		module_ref_put(&ref);
	ok(1, "a drain closes the counter");
	is(module_ref_try_release(&ref), -EBUSY, "a release is told of the drain");
	is(module_ref_drain(&ref, -1), -EBUSY, "and so is a second drain, at once");
	is(module_ref_count(&ref), 1, "the count is what is held");
	module_ref_get(&ref);
	is(module_ref_count(&ref), 2, "a holder may get one more");
	module_ref_put(&ref);
	ok(module_ref_get_if_held(&ref), "and who asks whether somebody holds it");
	is(module_ref_count(&ref), 2, "which counts");
	module_ref_put(&ref);
	module_ref_put(&ref);
	pthread_join(drainer, NULL);
	is(rc, 0, "the drain ends with the last put");
	ok(!module_ref_get_if_held(&ref), "and then nobody holds it");
	is(module_ref_reinit(&ref), 0, "reinit");
}

int main(void)
{
	hammered();
	one_winner();
	happens_before();
	put_then_free();
	while_draining();
	return tap_done();
}
