//! The one place that knows which atomics the crate runs on.
//!
//! The algorithm is written once against what this module exports:
//!
//! - [`Word`], the 64-bit atomic of a counter, `Bits`, one that is none's, and `Pointer`;
//! - [`Address`], the name of a word, good for waking after the memory is gone;
//! - [`wait`], which sleeps while a word is unchanged;
//! - `look_again`, for who waits for another thread's store to show;
//! - [`Slots`], the per-CPU part of a counter;
//! - [`Deadline`], which says when a sleeper has waited long enough;
//! - [`Watcher`], the thread behind a drain that was begun.
//!
//! An ordinary build has the processor's, in `native`. The builds of the models have those of the
//! two checkers, in [`models`](crate::models).

#[cfg(not(any(loom, interleave)))]
mod native;
#[cfg(not(any(loom, interleave)))]
pub(crate) use native::*;

#[cfg(all(feature = "std", target_os = "linux", not(any(loom, interleave))))]
mod watcher;
#[cfg(all(feature = "std", target_os = "linux", not(any(loom, interleave))))]
pub(crate) use watcher::Watcher;
#[cfg(all(
    feature = "host",
    target_os = "linux",
    target_env = "gnu",
    not(any(loom, interleave))
))]
pub(crate) use watcher::{forks, name_thread, spawn};

#[cfg(interleave)]
pub(crate) use crate::models::interleave::*;
#[cfg(all(loom, not(interleave)))]
pub(crate) use crate::models::loom::*;
