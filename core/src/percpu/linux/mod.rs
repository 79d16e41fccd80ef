//! Per-CPU slots on Linux: see the module above for why it is right.

mod arena;
mod barrier;
mod bitmap;
mod cpus;
mod own;
#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
mod processor;
mod rseq;
mod slots;
#[cfg(tsan)]
mod tsan;

#[doc(hidden)]
pub use rseq::{AREA, Area};
pub(crate) use slots::Slots;
