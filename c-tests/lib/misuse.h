/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * misuse.h - what the misuse handler was told: how often of each kind, and the last time of what
 * counter and by whom.
 */
#ifndef MISUSE_H
#define MISUSE_H

#include <stdatomic.h>

#include "module_ref.h"

enum { MISUSES = 5 };

static _Atomic int reports[MISUSES];
static const struct module_ref *reported_ref;
static const void *reported_caller;

static inline void on_misuse(enum module_ref_misuse what, const struct module_ref *ref,
			     const void *caller)
{
	atomic_fetch_add(&reports[what], 1);
	reported_ref = ref;
	reported_caller = caller;
}

/* How many of this kind there were; all kinds are counted from here on. */
static inline int reports_since(enum module_ref_misuse what)
{
	int n = atomic_load(&reports[what]);

	for (int kind = 0; kind < MISUSES; kind++)
		atomic_store(&reports[kind], 0);
	return n;
}

#endif
