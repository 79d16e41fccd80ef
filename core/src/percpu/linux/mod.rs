//! Per-CPU slots on Linux: see the module above for why it is right.

mod arena;
mod barrier;
mod bitmap;
mod cpus;
mod rseq;
mod slots;
#[cfg(tsan)]
mod tsan;

#[doc(hidden)]
pub use rseq::OFFSET as RSEQ_OFFSET;
pub(crate) use slots::Slots;
