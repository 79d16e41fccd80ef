/* SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * rust.c - what Rust programs use instead; the loops are in benches/src/lib.rs.
 */
#include "candidates.h"

void rust_weak_upgrade(int counter, long n);
void rust_arc_swap(int counter, long n);
void rust_epoch(int counter, long n);
void rust_parking_lot(int counter, long n);

const struct candidate rust_weak = {
	.key = "rust_weak",
	.name = "std::sync::Weak::upgrade",
	.gives = "counts references; nobody gets one after the last has gone",
	.lacks = "whoever leaves last frees it; nobody can wait for that; one cache line",
	.pairs = rust_weak_upgrade,
};

const struct candidate arc_swap = {
	.key = "arc_swap",
	.name = "ArcSwap::load",
	.gives = "keeps what was loaded alive; what is stored can be changed meanwhile",
	.lacks = "whoever leaves last frees it, maybe a reader; nobody can wait for that",
	.pairs = rust_arc_swap,
};

const struct candidate crossbeam_epoch = {
	.key = "crossbeam_epoch",
	.name = "crossbeam_epoch::pin",
	.gives = "nothing that is deferred is freed while somebody is pinned",
	.lacks = "counts nothing; no waiting: garbage is collected at some time; one domain for all",
	.pairs = rust_epoch,
};

const struct candidate parking_lot = {
	.key = "parking_lot",
	.name = "parking_lot::RwLock, read side",
	.gives = "excludes the unloader while it is held",
	.lacks = "readers wait for the unloader, and share a cache line",
	.pairs = rust_parking_lot,
};
