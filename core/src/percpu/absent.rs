//! For systems without restartable sequences that we can use: counters have no slots, and their mode
//! says so.

use core::ffi::c_int;
use core::sync::atomic::AtomicUsize;

#[repr(transparent)]
pub(crate) struct Slots(AtomicUsize);

impl Slots {
    pub(crate) const fn none() -> Self {
        Self(AtomicUsize::new(0))
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

    pub(crate) fn widen(&self) {}

    pub(crate) fn exist(&self) -> bool {
        false
    }

    pub(crate) fn turn_off(&self) {}

    pub(crate) fn turn_on(&self) {}

    pub(crate) fn sum(&self) -> i64 {
        0
    }

    pub(crate) fn barrier(&self) -> Result<(), c_int> {
        Ok(())
    }
}
