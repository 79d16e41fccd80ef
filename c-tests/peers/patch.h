/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * patch.h - the counter of Linux since 2014, for comparison: it starts at 1 and can be
 * incremented only while it is not 0, decremented only while it is positive; each a loop
 * of compare-and-swaps. Written after the description of the kernel's
 * atomic_inc_not_zero(), atomic_dec_if_positive() and atomic_add_unless().
 */
#ifndef PATCH_H
#define PATCH_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>

struct patch_ref {
	_Atomic int refcnt;
};

/* The same, by calls into a shared library. */
bool patch_try_get(struct patch_ref *ref);
void patch_put(struct patch_ref *ref);

static inline bool patch_try_get_inline(struct patch_ref *ref)
{
	int old = atomic_load_explicit(&ref->refcnt, memory_order_relaxed);

	do {
		if (old == 0)
			return false;
	} while (!atomic_compare_exchange_weak_explicit(&ref->refcnt, &old, old + 1,
							memory_order_acquire,
							memory_order_relaxed));
	return true;
}

static inline void patch_put_inline(struct patch_ref *ref)
{
	int old = atomic_load_explicit(&ref->refcnt, memory_order_relaxed);

	do {
		if (old <= 0)
			return;
	} while (!atomic_compare_exchange_weak_explicit(&ref->refcnt, &old, old - 1,
							memory_order_release,
							memory_order_relaxed));
}

/* One at a time: the kernel holds module_mutex. */
static inline int patch_try_release_locked(struct patch_ref *ref)
{
	int old = atomic_load_explicit(&ref->refcnt, memory_order_relaxed);

	if (old == 0)
		return -EALREADY;
	if (atomic_fetch_sub(&ref->refcnt, 1) == 1)
		return 0;
	old = atomic_load_explicit(&ref->refcnt, memory_order_relaxed);
	while (old != 0 && !atomic_compare_exchange_weak(&ref->refcnt, &old, old + 1))
		;
	return old == 0 ? 0 : -EWOULDBLOCK;
}

#endif
