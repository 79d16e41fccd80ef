//! The one place that knows which atomics the crate runs on.
//!
//! The algorithm is written once against what this module exports:
//!
//! - [`Word`], the 64-bit atomic;
//! - [`Address`], the name of a word, good for waking after the memory is gone;
//! - [`wait`], which sleeps while a word is unchanged;
//! - [`Slots`], the per-CPU part of a counter;
//! - [`Deadline`], which says when a sleeper has waited long enough;
//! - [`Bell`], the hint of a drain that was begun;
//! - [`fence`], and the atomics of the table of blocks.
//!
//! | build            | backend      | what it is for                                        |
//! | ---------------- | ------------ | ----------------------------------------------------- |
//! | ordinary         | `native`     | the product                                           |
//! | `--cfg loom`       | `loom`       | memory orderings, and interleavings with every access a read-modify-write |
//! | `--cfg interleave` | `interleave` | every interleaving, every state, exhaustively         |

#[cfg(all(feature = "std", target_os = "linux", not(any(loom, interleave))))]
mod bell;
#[cfg(not(any(loom, interleave)))]
mod native;
#[cfg(not(any(loom, interleave)))]
pub(crate) use native::*;

#[cfg(interleave)]
pub(crate) use crate::models::interleave::*;
#[cfg(all(loom, not(interleave)))]
pub(crate) use crate::models::loom::*;
