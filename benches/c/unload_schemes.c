/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * unload_schemes.c - ways to know that nobody is inside a module any more.
 *
 * Each is as good as a program can have it: what it waits with is what made its unloads
 * shortest.
 */
#define _GNU_SOURCE
#include "unload.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifdef HAVE_URCU
#define _LGPL_SOURCE /* liburcu's word for: inline what is small */
#include <urcu/urcu-memb.h>
#endif

#include "peers/patch.h"
#include "peers/world.h"
#include "module_ref_inline.h"

/* ---- this library ------------------------------------------------------------------- */

static double ref_unload(struct module_ref *ref, bool busy)
{
	/* A drain ends when those inside have left; a minute says that it did not. */
	int rc = busy ? module_ref_drain(ref, 60000000000) : module_ref_try_release(ref);
	double known = now_ns();

	need(rc == 0, "an unload by module_ref");
	return known;
}

/* The functions of one of its two modes. */
#define OURS(mode, init)                                                                   \
	static struct {                                                                    \
		_Alignas(64) struct module_ref ref;                                        \
	} mode[MODULES];                                                                   \
	static void mode##_init(void)                                                      \
	{                                                                                  \
		for (int i = 0; i < MODULES; i++)                                          \
			need(init(&mode[i].ref) == 0, #init "()");                         \
	}                                                                                  \
	static bool mode##_get(struct worker *worker, int module)                          \
	{                                                                                  \
		return module_ref_try_get_inline(&mode[module].ref);                       \
	}                                                                                  \
	static void mode##_put(struct worker *worker, int module)                          \
	{                                                                                  \
		module_ref_put_inline(&mode[module].ref);                                  \
	}                                                                                  \
	static double mode##_unload(int module, double give_up)                            \
	{                                                                                  \
		return ref_unload(&mode[module].ref, module == USED);                      \
	}                                                                                  \
	static void mode##_reinit(int module)                                              \
	{                                                                                  \
		need(module_ref_reinit(&mode[module].ref) == 0, "module_ref_reinit()");    \
	}

OURS(percpu, module_ref_init_percpu)
OURS(shared, module_ref_init)

static bool percpu_set_up(void)
{
	percpu_init();
	return percpu_there(module_ref_mode(&percpu[USED].ref) == MODULE_REF_PERCPU);
}

static bool shared_set_up(void)
{
	shared_init();
	return true;
}

/* ---- the patch: Linux since 2014 ---------------------------------------------------- */

static struct {
	_Alignas(64) struct patch_ref ref;
} patch[MODULES];

static void patch_reinit(int module)
{
	atomic_store_explicit(&patch[module].ref.refcnt, 1, memory_order_release);
}

static bool patch_set_up(void)
{
	for (int i = 0; i < MODULES; i++)
		patch_reinit(i);
	return true;
}

static bool patch_scheme_get(struct worker *worker, int module)
{
	return patch_try_get_inline(&patch[module].ref);
}

static void patch_scheme_put(struct worker *worker, int module)
{
	patch_put_inline(&patch[module].ref);
}

/* It cannot close the counter and wait: it tries until it meets a moment without users. Many
 * tries in a row find one among workers that run; those that do not, because this
 * thread has their CPU, get it back for a moment. */
static double patch_unload(int module, double give_up)
{
	const struct timespec moment = { 0, 100000 };
	double now;

	for (int tries = 1;; tries++) {
		int rc = patch_try_release_locked(&patch[module].ref);

		now = now_ns();
		if (rc == 0)
			return now;
		if (now >= give_up)
			return 0;
		if (tries % 50 == 0)
			clock_nanosleep(CLOCK_MONOTONIC, 0, &moment, NULL);
	}
}

/* ---- an entrance, for the schemes that stop everybody -------------------------------- */

static struct {
	_Alignas(64) _Atomic bool open;
} entrance[MODULES];

static void entrance_reinit(int module)
{
	/* Pairs with the looks at it: what came before it is seen by who gets in. */
	atomic_store_explicit(&entrance[module].open, true, memory_order_release);
}

static void entrance_set_up(void)
{
	for (int i = 0; i < MODULES; i++)
		entrance_reinit(i);
}

static bool entrance_open(int module)
{
	return atomic_load_explicit(&entrance[module].open, memory_order_acquire);
}

/* While nobody can be between its look and its use, and the others see all of it. */
static void entrance_close(int module)
{
	atomic_store_explicit(&entrance[module].open, false, memory_order_relaxed);
}

static void futex_on(_Atomic uint32_t *word, int operation, uint32_t value)
{
	syscall(SYS_futex, word, operation, value, NULL, NULL, 0);
}

/* ---- stop the world: Linux before 2014 ---------------------------------------------- */

static bool stop_set_up(void)
{
	entrance_set_up();
	world_init();
	return true;
}

static _Atomic uint32_t leavers; /* puts since the entrance was closed */

/* Plain arithmetic, as it was: the thread itself is the only writer. */
static void count(struct worker *worker, int module, int by)
{
	int held = atomic_load_explicit(&worker->held[module], memory_order_relaxed);

	atomic_store_explicit(&worker->held[module], held + by, memory_order_release);
}

static void stop_put(struct worker *worker, int module)
{
	count(worker, module, -1);
	/* Whoever has been stopped since it was closed sees that, and may be who is
	 * waited for. */
	if (entrance_open(module))
		return;
	atomic_fetch_add(&leavers, 1);
	futex_on(&leavers, FUTEX_WAKE_PRIVATE, 1);
}

static bool stop_get(struct worker *worker, int module)
{
	if (!entrance_open(module))
		return false;
	/* Count first, look then: stopped in between, we are counted. */
	count(worker, module, 1);
	atomic_signal_fence(memory_order_seq_cst);
	if (entrance_open(module))
		return true;
	stop_put(worker, module);
	return false;
}

static pthread_t stop_member(void *crew, unsigned i)
{
	return ((struct worker *)crew)[i].thread;
}

static bool stop_held(int module)
{
	/* Pairs with count(). */
	for (int i = 0; i < nworkers; i++)
		if (atomic_load_explicit(&workers[i].held[module], memory_order_acquire) != 0)
			return true;
	return false;
}

/* As delete_module() did it: it waits with the entrance closed and everybody running, woken by
 * each put. It ends with everybody running also where nobody was inside, because a thread
 * stands wherever the signal has met it, with the linker's lock if it must be. */
static double stop_unload(int module, double give_up)
{
	uint32_t seen;

	world_stop(stop_member, workers, (unsigned)nworkers);
	entrance_close(module);
	world_start();
	for (seen = atomic_load(&leavers); stop_held(module); seen = atomic_load(&leavers))
		futex_on(&leavers, FUTEX_WAIT_PRIVATE, seen);
	return now_ns();
}

/* ---- pausing: workers stop by themselves, where they are outside -------------------- */

static _Atomic uint32_t pauses; /* odd while a pause is wanted */
static _Atomic uint32_t parked;

static bool pause_set_up(void)
{
	entrance_set_up();
	return true;
}

static void pause_pass(void)
{
	uint32_t number = atomic_load_explicit(&pauses, memory_order_relaxed);

	if (number % 2 == 0)
		return;
	if (atomic_fetch_add(&parked, 1) + 1 == (uint32_t)nworkers)
		futex_on(&parked, FUTEX_WAKE_PRIVATE, 1);
	while (atomic_load(&pauses) == number)
		futex_on(&pauses, FUTEX_WAIT_PRIVATE, number);
}

static bool pause_get(struct worker *worker, int module)
{
	return entrance_open(module);
}

static void pause_put(struct worker *worker, int module)
{
}

/* What is unloaded can go while they stand: they have parked where they hold nothing. */
static double pause_unload(int module, double give_up)
{
	uint32_t seen;
	double known;

	atomic_fetch_add(&pauses, 1);
	while ((seen = atomic_load(&parked)) != (uint32_t)nworkers)
		futex_on(&parked, FUTEX_WAIT_PRIVATE, seen);
	known = now_ns();
	entrance_close(module);
	atomic_store(&parked, 0);
	atomic_fetch_add(&pauses, 1);
	futex_on(&pauses, FUTEX_WAKE_PRIVATE, INT_MAX);
	return known;
}

/* ---- liburcu: readers are waited for, all of them ----------------------------------- */

#ifdef HAVE_URCU
static struct rcu_module {
	int anything;
} there;
static struct {
	_Alignas(64) struct rcu_module *module;
} published[MODULES];

static void urcu_reinit(int module)
{
	rcu_set_pointer(&published[module].module, &there);
}

static bool urcu_set_up(void)
{
	for (int i = 0; i < MODULES; i++)
		urcu_reinit(i);
	return true;
}

static bool urcu_get(struct worker *worker, int module)
{
	urcu_memb_read_lock();
	if (rcu_dereference(published[module].module))
		return true;
	urcu_memb_read_unlock();
	return false;
}

static void urcu_put(struct worker *worker, int module)
{
	urcu_memb_read_unlock();
}

static double urcu_unload(int module, double give_up)
{
	rcu_set_pointer(&published[module].module, NULL);
	urcu_memb_synchronize_rcu();
	return now_ns();
}

#endif

/* ---- nobody unloads anything -------------------------------------------------------- */

static bool always(void)
{
	return true;
}

static bool nobody_get(struct worker *worker, int module)
{
	return true;
}

/* ---- all of them -------------------------------------------------------------------- */

const struct scheme schemes[SCHEMES] = {
	[PERCPU] = {
		.candidate = {
			.key = "percpu",
			.name = "module_ref, per CPU",
			.ours = true,
			.gives = "an exact count of uses, held as long as one likes and put by any "
				 "thread; the unload waits for this module's users only, can give up "
				 "and leave everything as it was, and stops nobody",
			.lacks = "a membarrier in each unload interrupts the CPUs that run the "
				 "process; 8 bytes per CPU and module; needs Linux on x86-64",
		},
		.set_up = percpu_set_up,
		.get = percpu_get,
		.put = percpu_put,
		.unload = percpu_unload,
		.reinit = percpu_reinit,
	},
	[SHARED] = {
		.candidate = {
			.key = "shared",
			.name = "module_ref, shared word",
			.ours = true,
			.gives = "as per CPU, in 16 bytes on every system, and no system call unless "
				 "the unload has to sleep",
			.lacks = "all users of a module write to one cache line",
		},
		.set_up = shared_set_up,
		.get = shared_get,
		.put = shared_put,
		.unload = shared_unload,
		.reinit = shared_reinit,
	},
	[PATCH] = {
		.candidate = {
			.key = "patch",
			.name = "the patch's counter",
			.gives = "an exact count of uses; an unload of what nobody uses takes two "
				 "atomic operations and stops nobody",
			.lacks = "it cannot close the counter and wait: what is in use all the time is "
				 "never unloaded; all users write to one cache line, in a loop",
		},
		.set_up = patch_set_up,
		.get = patch_scheme_get,
		.put = patch_scheme_put,
		.unload = patch_unload,
		.reinit = patch_reinit,
	},
	[STOP_THE_WORLD] = {
		.candidate = {
			.key = "stop_the_world",
			.name = "stop the world",
			.gives = "a get and a put are plain arithmetic in the thread's own memory; "
				 "nothing is asked of the threads between their uses",
			.lacks = "every thread is stopped for every unload, and has to be known; it "
				 "takes a signal away from the program; a put by another thread than "
				 "the get's is not possible",
		},
		.set_up = stop_set_up,
		.get = stop_get,
		.put = stop_put,
		.unload = stop_unload,
		.reinit = entrance_reinit,
	},
	[PAUSING] = {
		.candidate = {
			.key = "pausing",
			.name = "cooperative pausing",
			.gives = "a use costs one look at a flag, and nothing is counted",
			.lacks = "every thread is stopped for every unload, has to be known, and has "
				 "to come by and look: one that sleeps or computes for long holds up "
				 "all others; nothing may be held across the look; what is done while "
				 "they stand, as dlclose(), is not in the figures",
		},
		.set_up = pause_set_up,
		.pass = pause_pass,
		.get = pause_get,
		.put = pause_put,
		.unload = pause_unload,
		.reinit = entrance_reinit,
	},
	[URCU] = {
		.candidate = {
			.key = "urcu",
			.name = "liburcu, memb",
			.gives = "a use is two plain writes to the thread's own memory; an unload "
				 "stops nobody",
			.lacks = "an unload waits for every reader of anything, is woken by each that "
				 "leaves, and cannot give up; a use that sleeps holds up every unload; "
				 "nothing is counted, and no other thread can end a use; threads have "
				 "to register",
		},
#ifdef HAVE_URCU
		.set_up = urcu_set_up,
		.enter = urcu_memb_register_thread,
		.leave = urcu_memb_unregister_thread,
		.get = urcu_get,
		.put = urcu_put,
		.unload = urcu_unload,
		.reinit = urcu_reinit,
#endif
	},
	[NOBODY] = {
		.candidate = {
			.key = "nobody",
			.name = "no unload at all",
			.gives = "nothing: it shows the stalls that the machine makes by itself",
			.lacks = "an unload",
		},
		.set_up = always,
		.get = nobody_get,
		.put = pause_put,
	},
};
