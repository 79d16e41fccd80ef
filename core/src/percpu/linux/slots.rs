//! The second word of a counter: where its slots are, and whether to use them.
//!
//! The layout is ABI: `module_ref_inline.h` reads it.

use super::arena::{self, Chunk};
use super::{barrier, cpus, rseq};
use core::ffi::c_int;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicI64, AtomicUsize, Ordering::*};

/// Per-CPU counting is on: the one bit of the pointer that is free, since slots are 8-aligned,
/// and that the sequence looks at.
const ON: usize = 1;

#[repr(transparent)]
pub(crate) struct Slots(AtomicUsize);

impl Slots {
    /// A counter in shared-word mode.
    pub(crate) const fn none() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Slots for one counter, off, and what they add up to; `None` if there is no
    /// memory. Only where [`available`](Self::available).
    pub(crate) fn allocate() -> Option<(Self, i64)> {
        let slots = Self(AtomicUsize::new(arena::allocate()?.as_ptr() as usize));
        slots.widen();
        // Whoever had them before left them as they were (P2).
        let sum = slots.sum();
        Some((slots, sum))
    }

    /// Gives the slots back, if there are any. The counter is not in use.
    pub(crate) fn free(&self) {
        // Relaxed: nobody else uses the counter.
        if let Some(first) = self.first() {
            self.0.store(0, Relaxed);
            arena::free(first);
        }
    }

    /// Whether this process can count per CPU.
    pub(crate) fn available() -> bool {
        barrier::available()
    }

    /// Adds to the slot of the CPU this runs on; false if it did not, because counting
    /// per CPU is off, the sequence was aborted, or this CPU has not had a slot yet.
    #[inline(always)]
    pub(crate) fn add<const DELTA: i64>(&self) -> bool {
        // A look outside of the sequence, so that a counter in one word pays for a load and a
        // test alone. Relaxed: the look that decides is inside.
        if self.0.load(Relaxed) & ON == 0 {
            return false;
        }
        #[cfg(tsan)]
        let added = super::tsan::add(&self.0, DELTA, rseq::add::<DELTA>);
        #[cfg(not(tsan))]
        let added = rseq::add::<DELTA>(&self.0);
        if !added {
            self.widen();
        }
        added
    }

    /// After a sequence that did not add: if that was because its CPU is beyond the rows that are
    /// used, the next one will. Async-signal-safe.
    #[cold]
    #[inline(never)]
    pub(crate) fn widen(&self) {
        if let (Some(first), Some(cpu)) = (self.first(), rseq::this_cpu()) {
            Chunk::of(first).widen(cpu);
        }
    }

    /// Whether the counter is in per-CPU mode, on or off.
    pub(crate) fn exist(&self) -> bool {
        self.first().is_some()
    }

    /// From here on, and after a [`barrier`](Self::barrier), every CPU uses the word.
    pub(crate) fn turn_off(&self) {
        // Relaxed: the barrier orders it against every sequence (P1).
        self.0.fetch_and(!ON, Relaxed);
    }

    /// After [`turn_off`](Self::turn_off): returns once no CPU uses its slot any more, and
    /// all that they added is visible here (P1). `Err` is an errno, and then nothing is
    /// known.
    pub(crate) fn barrier(&self) -> Result<(), c_int> {
        barrier::barrier()?;
        #[cfg(tsan)]
        super::tsan::after_barrier(&self.0);
        Ok(())
    }

    /// Every CPU may use its slot again.
    pub(crate) fn turn_on(&self) {
        // Release pairs with the load of the tag in the sequence: who sees it sees what
        // was published before.
        self.0.fetch_or(ON, Release);
    }

    /// The slot of CPU 0.
    fn first(&self) -> Option<NonNull<AtomicI64>> {
        // Relaxed: the pointer stays from init to destroy.
        NonNull::new((self.0.load(Relaxed) & !ON) as *mut AtomicI64)
    }

    /// What the slots add up to: exactly, if they have been off since a barrier.
    /// Wraps like the slots themselves.
    pub(crate) fn sum(&self) -> i64 {
        let Some(first) = self.first() else { return 0 };
        (0..Chunk::of(first).used()).fold(0, |sum, cpu| {
            // SAFETY: used rows are there, and mapped for as long as the process lives.
            let slot = unsafe { first.byte_add(cpu << cpus::STRIDE_SHIFT).as_ref() };
            // Relaxed: after a barrier it is exact (P1); before it, it is a guess.
            sum.wrapping_add(slot.load(Relaxed))
        })
    }
}
