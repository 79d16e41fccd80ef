/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * rust.c - what Rust programs use instead; the loops are in benches/src/lib.rs.
 */
#include "candidates.h"

void rust_weak_upgrade(int counter, long n);
void rust_arc_swap(int counter, long n);
void rust_epoch(int counter, long n);
void rust_parking_lot(int counter, long n);

CANDIDATE(rust_weak, "std::sync::Weak::upgrade",
	  .gives = "counts references; nobody gets one after the last has gone",
	  .lacks = "whoever leaves last frees it; nobody can wait for that; one cache line",
	  .pairs = rust_weak_upgrade)

CANDIDATE(arc_swap, "ArcSwap::load",
	  .gives = "keeps what was loaded alive; what is stored can be changed meanwhile",
	  .lacks = "whoever leaves last frees it, maybe a reader; nobody can wait for that",
	  .pairs = rust_arc_swap)

CANDIDATE(crossbeam_epoch, "crossbeam_epoch::pin",
	  .gives = "nothing that is deferred is freed while somebody is pinned",
	  .lacks = "counts nothing; no waiting: garbage is collected at some time; one domain for all",
	  .pairs = rust_epoch)

CANDIDATE(parking_lot, "parking_lot::RwLock, read side",
	  .gives = "excludes the unloader while it is held",
	  .lacks = "readers wait for the unloader, and share a cache line",
	  .pairs = rust_parking_lot)
