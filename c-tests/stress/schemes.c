/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * schemes.c - three ways to count who uses a plugin, for the same workers.
 */
#include <errno.h>

#include "../peers/world.h"
#include "stress.h"

/* ---- this library ---------------------------------------------------------- */

static int ref_init(struct slot *slot)
{
	return module_ref_init(&slot->count.ref);
}

static int ref_init_percpu(struct slot *slot)
{
	return module_ref_init_percpu(&slot->count.ref);
}

static bool ref_try_get(struct slot *slot, struct worker *worker)
{
	return module_ref_try_get(&slot->count.ref);
}

static void ref_put(struct slot *slot, struct worker *worker)
{
	module_ref_put(&slot->count.ref);
}

static int ref_try_release(struct run *run, struct slot *slot)
{
	return module_ref_try_release(&slot->count.ref);
}

static int ref_drain(struct run *run, struct slot *slot, int64_t timeout_ns)
{
	return module_ref_drain(&slot->count.ref, timeout_ns);
}

static int ref_reinit(struct slot *slot)
{
	return module_ref_reinit(&slot->count.ref);
}

static int64_t ref_count(struct run *run, struct slot *slot)
{
	return module_ref_count(&slot->count.ref);
}

#define REF_FUNCTIONS                                                                      \
	.layer = &layer_counter, .try_get = ref_try_get, .put = ref_put,                   \
	.try_release = ref_try_release, .drain = ref_drain, .reinit = ref_reinit,          \
	.count = ref_count

const struct scheme scheme_atomic = {
	.name = "module_ref, atomic",
	.what = "this library, shared word; half of the unloads drain",
	.init = ref_init,
	REF_FUNCTIONS,
};

const struct scheme scheme_percpu = {
	.name = "module_ref, percpu",
	.what = "this library, per-CPU slots; half of the unloads drain",
	.init = ref_init_percpu,
	REF_FUNCTIONS,
};

/* ---- the patch: Linux since 2014 ------------------------------------------------ */

static int patch_init(struct slot *slot)
{
	atomic_init(&slot->count.patch.refcnt, 1);
	return 0;
}

static bool patch_scheme_try_get(struct slot *slot, struct worker *worker)
{
	return patch_try_get_inline(&slot->count.patch);
}

static void patch_scheme_put(struct slot *slot, struct worker *worker)
{
	patch_put_inline(&slot->count.patch);
}

static int patch_try_release(struct run *run, struct slot *slot)
{
	static pthread_mutex_t module_mutex = PTHREAD_MUTEX_INITIALIZER;
	int rc;

	pthread_mutex_lock(&module_mutex);
	rc = patch_try_release_locked(&slot->count.patch);
	pthread_mutex_unlock(&module_mutex);
	return rc;
}

static int patch_reinit(struct slot *slot)
{
	atomic_store_explicit(&slot->count.patch.refcnt, 1, memory_order_release);
	return 0;
}

static int64_t patch_count(struct run *run, struct slot *slot)
{
	return (int64_t)atomic_load(&slot->count.patch.refcnt) - 1;
}

const struct scheme scheme_patch = {
	.name = "the patch's CAS counter",
	.what = "Linux since 2014: one counter, compare-and-swap loops",
	.layer = &layer_counter,
	.init = patch_init,
	.try_get = patch_scheme_try_get,
	.put = patch_scheme_put,
	.try_release = patch_try_release,
	.reinit = patch_reinit,
	.count = patch_count,
};

/* ---- stop the world -----------------------------------------------------------
 *
 * Linux before 2014, as far as a process can have it: plain per-thread counts, and
 * to look at them everybody is stopped, here by a signal to each worker.
 */

static pthread_t stw_worker(void *run, unsigned i)
{
	return ((struct run *)run)->workers[i].thread;
}

static int stw_reinit(struct slot *slot)
{
	atomic_store_explicit(&slot->count.live, true, memory_order_release);
	return 0;
}

static int stw_init(struct slot *slot)
{
	if (slot->index == 0)
		world_init();
	return stw_reinit(slot);
}

static bool stw_try_get(struct slot *slot, struct worker *worker)
{
	/* Count first, look then: stopped in between, we are counted. */
	worker->held[slot->index]++;
	atomic_signal_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&slot->count.live, memory_order_acquire))
		return true; /* pairs with stw_reinit() */
	worker->held[slot->index]--;
	return false;
}

static void stw_put(struct slot *slot, struct worker *worker)
{
	atomic_signal_fence(memory_order_seq_cst);
	worker->held[slot->index]--;
}

static int64_t stw_held(struct run *run, struct slot *slot)
{
	int64_t held = 0;

	for (unsigned i = 0; i < run->nworkers; i++)
		held += run->workers[i].held[slot->index];
	return held;
}

static int stw_try_release(struct run *run, struct slot *slot)
{
	int rc;

	world_stop(stw_worker, run, run->nworkers);
	if (!atomic_load_explicit(&slot->count.live, memory_order_relaxed)) {
		rc = -EALREADY;
	} else if (stw_held(run, slot) != 0) {
		rc = -EWOULDBLOCK;
	} else {
		atomic_store_explicit(&slot->count.live, false, memory_order_relaxed);
		rc = 0;
	}
	world_start();
	return rc;
}

static int64_t stw_count(struct run *run, struct slot *slot)
{
	bool live = atomic_load_explicit(&slot->count.live, memory_order_relaxed);

	return live ? stw_held(run, slot) : -1;
}

const struct scheme scheme_stop_the_world = {
	.name = "stop the world",
	.what = "every worker stopped by a signal for each look",
	.layer = &layer_counter,
	.init = stw_init,
	.try_get = stw_try_get,
	.put = stw_put,
	.try_release = stw_try_release,
	.reinit = stw_reinit,
	.count = stw_count,
};
