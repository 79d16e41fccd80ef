/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * candidates.h - who takes turns at getting and putting.
 */
#ifndef CANDIDATES_H
#define CANDIDATES_H

#include "bench.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Two counters do not share a cache line, nor the pair of lines that is fetched together. */
#define APART 128

/* Defines a candidate's loop. The compiler may not look across the middle of a pair. */
#define PAIRS(name, get, put)                                                              \
	static void name(int counter, long n)                                              \
	{                                                                                  \
		while (n-- > 0) {                                                          \
			get;                                                               \
			__asm__ volatile("" ::: "memory");                                 \
			put;                                                               \
		}                                                                          \
	}

/* One of those below, under its own name as the key. */
#define CANDIDATE(id, said, ...)                                                           \
	const struct candidate id = { .key = #id, .name = said, __VA_ARGS__ };

extern const struct candidate
	/* this library: ours.c, and from Rust */
	percpu_inlined, percpu_called, shared_called, percpu_rust, shared_rust, host_try_get,
	host_call, host_gate, host_find_get,
	/* peers.c */
	patch_inlined, patch_called, pthread_rwlock, plain_adds,
	/* weak_ptr.cpp */
	weak_ptr,
	/* rust.c */
	rust_weak, arc_swap, crossbeam_epoch, parking_lot;

#ifdef HAVE_URCU
extern const struct candidate urcu_memb, urcu_bp, urcu_qsbr;
#endif
#ifdef HAVE_CK
extern const struct candidate ck_brlock, ck_epoch;
#endif

#ifdef __cplusplus
}
#endif

#endif
