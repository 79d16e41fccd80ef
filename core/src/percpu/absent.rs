//! Where there are no restartable sequences for us: counters have no slots, and say so
//! through their mode.

use core::ffi::c_int;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Holders are recorded.
const RECORDED: usize = 1 << 2;

#[repr(transparent)]
pub(crate) struct Slots(AtomicUsize);

impl Slots {
    pub(crate) const fn none(stamp: usize) -> Self {
        Self(AtomicUsize::new(stamp))
    }

    pub(crate) fn stamp(&self) -> usize {
        // Relaxed: only whoever initialises the counter asks.
        self.0.load(Relaxed) & !RECORDED
    }

    pub(crate) fn are_taken(&self) -> bool {
        false
    }

    pub(crate) fn available() -> bool {
        false
    }

    pub(crate) fn allocate() -> Option<(Self, i64)> {
        None
    }

    pub(crate) fn free(&self) {}

    #[inline(always)]
    pub(crate) fn add<const DELTA: i64>(&self) -> bool {
        false
    }

    pub(crate) fn exist(&self) -> bool {
        false
    }

    pub(crate) fn turn_off(&self) {}

    pub(crate) fn turn_on(&self) {}

    pub(crate) fn lie_idle(&self) -> bool {
        false
    }

    #[inline(always)]
    #[allow(dead_code, reason = "nobody records without std or elsewhere than on Linux")]
    pub(crate) fn are_recorded(&self) -> bool {
        // Relaxed: whoever comes too early or too late has no record, or looks for one in vain.
        self.0.load(Relaxed) & RECORDED != 0
    }

    #[allow(dead_code, reason = "as above")]
    pub(crate) fn record(&self) {
        // Relaxed: records are found by themselves.
        self.0.fetch_or(RECORDED, Relaxed);
    }

    #[allow(dead_code, reason = "as above")]
    pub(crate) fn stop_recording(&self) -> bool {
        // Relaxed: as above.
        self.0.fetch_and(!RECORDED, Relaxed) & RECORDED != 0
    }

    pub(crate) fn sum(&self) -> i64 {
        0
    }

    pub(crate) fn barrier(&self) -> Result<(), c_int> {
        Ok(())
    }
}
