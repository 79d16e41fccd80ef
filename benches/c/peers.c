/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * peers.c - what C programs use instead: the patch's counter, POSIX, liburcu and
 * Concurrency Kit.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdlib.h>

#include "peers/patch.h"
#include "candidates.h"

#define GRACE_GIVES "waits until everybody who was inside has left (a grace period)"
#define GRACE_LACKS                                                                        \
	"counts nothing: cannot refuse an unload, nor say who is inside; one domain for all"

/* ---- the patch's counter ---------------------------------------------------------- */

static struct {
	_Alignas(APART) struct patch_ref ref;
} patches[MOST_THREADS];

static bool set_up_patch(void)
{
	for (int i = 0; i < MOST_THREADS; i++)
		atomic_init(&patches[i].ref.refcnt, 1);
	return true;
}

PAIRS(pairs_patch_inlined, if (!patch_try_get_inline(&patches[counter].ref)) abort(),
      patch_put_inline(&patches[counter].ref))
PAIRS(pairs_patch_called, if (!patch_try_get(&patches[counter].ref)) abort(),
      patch_put(&patches[counter].ref))

#define PATCH_GIVES "counts references; an unload is refused while there are any"
#define PATCH_LACKS "cannot wait for users; all of them share a cache line"

CANDIDATE(patch_inlined, "the patch's counter, inlined",
	  .gives = PATCH_GIVES, .lacks = PATCH_LACKS, .set_up = set_up_patch,
	  .pairs = pairs_patch_inlined)

CANDIDATE(patch_called, "the patch's counter, by calls",
	  .gives = PATCH_GIVES, .lacks = PATCH_LACKS, .set_up = set_up_patch,
	  .pairs = pairs_patch_called)

/* ---- POSIX, and the floor ------------------------------------------------------------ */

static struct {
	_Alignas(APART) pthread_rwlock_t lock;
} locks[MOST_THREADS];

static bool set_up_rwlock(void)
{
	for (int i = 0; i < MOST_THREADS; i++)
		need(pthread_rwlock_init(&locks[i].lock, NULL) == 0, "pthread_rwlock_init()");
	return true;
}

PAIRS(pairs_rwlock, pthread_rwlock_rdlock(&locks[counter].lock),
      pthread_rwlock_unlock(&locks[counter].lock))

CANDIDATE(pthread_rwlock, "pthread_rwlock, read side",
	  .gives = "excludes the unloader while it is held",
	  .lacks = "readers wait for the unloader, and share a cache line",
	  .set_up = set_up_rwlock, .pairs = pairs_rwlock)

static _Thread_local long own;

static void pairs_plain(int counter, long n)
{
	volatile long *mine = &own;

	while (n-- > 0) {
		*mine += 1;
		*mine -= 1;
	}
}

CANDIDATE(plain_adds, "two plain adds to the thread's own memory",
	  .gives = "nothing: what the arithmetic alone costs",
	  .lacks = "no thread can tell whether another is inside", .pairs = pairs_plain)

/* ---- liburcu --------------------------------------------------------------------------- */

#ifdef HAVE_URCU
/* liburcu's word for: inline what is small. */
#define _LGPL_SOURCE
#include <urcu/urcu-bp.h>
#include <urcu/urcu-memb.h>
#include <urcu/urcu-qsbr.h>

PAIRS(pairs_memb, urcu_memb_read_lock(), urcu_memb_read_unlock())
PAIRS(pairs_bp, urcu_bp_read_lock(), urcu_bp_read_unlock())
/* The quiescent state is the price of this flavour's free read side: one a pair. */
PAIRS(pairs_qsbr, urcu_qsbr_read_lock(), (urcu_qsbr_read_unlock(), urcu_qsbr_quiescent_state()))

CANDIDATE(urcu_memb, "liburcu (memb), read side",
	  .gives = GRACE_GIVES, .lacks = GRACE_LACKS "; threads register",
	  .enter = urcu_memb_register_thread, .leave = urcu_memb_unregister_thread,
	  .pairs = pairs_memb)

CANDIDATE(urcu_bp, "liburcu (bp), read side",
	  .gives = GRACE_GIVES, .lacks = GRACE_LACKS, .pairs = pairs_bp)

CANDIDATE(urcu_qsbr, "liburcu (qsbr), read side and a quiescent state",
	  .gives = GRACE_GIVES,
	  .lacks = GRACE_LACKS "; threads register, and say when they use nothing",
	  .enter = urcu_qsbr_register_thread, .leave = urcu_qsbr_unregister_thread,
	  .pairs = pairs_qsbr)
#endif

/* ---- Concurrency Kit ---------------------------------------------------------------------- */

#ifdef HAVE_CK
/* Its headers convert freely. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wpedantic"
#include <ck_brlock.h>
#include <ck_epoch.h>
#pragma GCC diagnostic pop

static struct {
	_Alignas(APART) ck_brlock_t lock;
} brlocks[MOST_THREADS];
static _Thread_local struct {
	_Alignas(APART) ck_brlock_reader_t reader;
} readers[MOST_THREADS];

static bool set_up_brlock(void)
{
	for (int i = 0; i < MOST_THREADS; i++)
		ck_brlock_init(&brlocks[i].lock);
	return true;
}

static void enter_brlock(void)
{
	for (int i = 0; i < MOST_THREADS; i++)
		ck_brlock_read_register(&brlocks[i].lock, &readers[i].reader);
}

static void leave_brlock(void)
{
	for (int i = 0; i < MOST_THREADS; i++)
		ck_brlock_read_unregister(&brlocks[i].lock, &readers[i].reader);
}

PAIRS(pairs_brlock, ck_brlock_read_lock(&brlocks[counter].lock, &readers[counter].reader),
      ck_brlock_read_unlock(&readers[counter].reader))

CANDIDATE(ck_brlock, "Concurrency Kit: ck_brlock, read side",
	  .gives = "excludes the unloader while it is held; readers do not share",
	  .lacks = "readers wait for the unloader; a record for each thread and lock",
	  .set_up = set_up_brlock, .enter = enter_brlock, .leave = leave_brlock,
	  .pairs = pairs_brlock)

/* A record may be registered once and never freed: they outlive the threads. */
static ck_epoch_t epoch;
static struct {
	_Alignas(APART) ck_epoch_record_t record;
} records[MOST_THREADS];
static _Thread_local ck_epoch_record_t *record;

static bool set_up_epoch(void)
{
	ck_epoch_init(&epoch);
	return true;
}

static void enter_epoch(void)
{
	static _Atomic int taken;

	record = ck_epoch_recycle(&epoch, NULL);
	if (!record) {
		int i = atomic_fetch_add(&taken, 1);

		need(i < MOST_THREADS, "ck_epoch_register()");
		record = &records[i].record;
		ck_epoch_register(&epoch, record, NULL);
	}
}

static void leave_epoch(void)
{
	ck_epoch_unregister(record);
}

PAIRS(pairs_epoch, ck_epoch_begin(record, NULL), ck_epoch_end(record, NULL))

CANDIDATE(ck_epoch, "Concurrency Kit: ck_epoch, begin and end",
	  .gives = GRACE_GIVES, .lacks = GRACE_LACKS "; a record for each thread",
	  .set_up = set_up_epoch, .enter = enter_epoch, .leave = leave_epoch,
	  .pairs = pairs_epoch)
#endif
