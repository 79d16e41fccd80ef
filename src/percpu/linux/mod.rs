//! Per-CPU slots on Linux: see the module above for why it is right.

mod arena;
mod barrier;
mod cpus;
mod rseq;
mod slots;

pub(crate) use slots::Slots;
