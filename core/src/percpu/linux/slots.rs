//! The second word of a counter: where its slots are, and whether to use them.
//!
//! The layout is ABI: `module_ref_inline.h` reads it.

use super::arena::{self, Chunk};
use super::{barrier, cpus, rseq};
use core::ffi::c_int;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicI64, AtomicUsize, Ordering::*};

/// The lowest 16 bits: how many rows this counter adds to; 0: counting per CPU is off. The other 48 bits are
/// the address of the slot in the first row. So the sequence decides by one load and one comparison.
const ROWS: usize = 0xffff;
const ADDRESS_SHIFT: u32 = 16;

#[repr(transparent)]
pub(crate) struct Slots(AtomicUsize);

impl Slots {
    /// A counter in shared-word mode.
    pub(crate) const fn none() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Slots for one counter, turned off, and their sum. `None`: there is no memory. Only if
    /// [`available`](Self::available).
    pub(crate) fn allocate() -> Option<(Self, i64)> {
        let first = arena::allocate()?;
        // At least one row, because no rows mean off.
        let chunk = Chunk::of(first);
        if !rseq::this_row().is_some_and(|row| chunk.widen(row)) {
            chunk.widen(0);
        }
        let slots = Self(AtomicUsize::new((first.as_ptr() as usize) << ADDRESS_SHIFT));
        // The last owner left their values in them (P2).
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

    /// Adds to this thread's row. False: it did not, because counting per CPU is off, the sequence was
    /// aborted, or the counter does not use that row yet.
    #[inline(always)]
    pub(crate) fn add<const DELTA: i64>(&self) -> bool {
        // A look outside of the sequence, so that a counter in one word pays for one load and one test
        // only. Relaxed: the look that decides is inside.
        if self.0.load(Relaxed) & ROWS == 0 {
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

    /// After a sequence that did not add: if the counter does not use the thread's row yet, it does from now
    /// on (A1). Async-signal-safe.
    #[cold]
    #[inline(never)]
    pub(crate) fn widen(&self) {
        let (Some(first), Some(row)) = (self.first(), rseq::this_row()) else { return };
        // The chunk first: `turn_off`, which finds the counter's number, must find the chunk's too (A1).
        if !Chunk::of(first).widen(row) {
            return;
        }
        let wanted = row as usize + 1;
        // Relaxed: the exchange checks it.
        let mut seen = self.0.load(Relaxed);
        // Off stays off: the releaser has decided how many rows to sum.
        while (1..wanted).contains(&(seen & ROWS)) {
            // Release pairs with the Acquire of `turn_off`.
            match self.0.compare_exchange_weak(seen, seen & !ROWS | wanted, Release, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Whether the counter is in per-CPU mode, on or off.
    pub(crate) fn exist(&self) -> bool {
        self.first().is_some()
    }

    /// Turns counting per CPU off. After a [`barrier`](Self::barrier) every thread uses the word.
    pub(crate) fn turn_off(&self) {
        // Acquire pairs with the Release of `widen` (A1). The barrier orders it against every
        // sequence (P1).
        self.0.fetch_and(!ROWS, Acquire);
    }

    /// After [`turn_off`](Self::turn_off): returns once no thread adds to a slot any more, and every add is
    /// visible here (P1). `Err` is an errno; then nothing is known.
    pub(crate) fn barrier(&self) -> Result<(), c_int> {
        barrier::barrier()?;
        #[cfg(tsan)]
        super::tsan::after_barrier(&self.0);
        Ok(())
    }

    /// Lets threads add to the rows that the process uses again.
    pub(crate) fn turn_on(&self) {
        if let Some(first) = self.first() {
            // Release pairs with the sequence's load of the second word: a thread that sees rows sees what
            // was published before.
            self.0.fetch_or(Chunk::of(first).used(), Release);
        }
    }

    /// The slot in the first row.
    fn first(&self) -> Option<NonNull<AtomicI64>> {
        // Relaxed: the address stays from init to destroy.
        NonNull::new((self.0.load(Relaxed) >> ADDRESS_SHIFT) as *mut AtomicI64)
    }

    /// The sum of the slots. It is exact if they have been off since a barrier. It wraps like the slots
    /// themselves.
    pub(crate) fn sum(&self) -> i64 {
        let Some(first) = self.first() else { return 0 };
        (0..Chunk::of(first).used()).fold(0, |sum, row| {
            // SAFETY: used rows are there, and mapped for as long as the process lives.
            let slot = unsafe { first.byte_add(row << cpus::STRIDE_SHIFT).as_ref() };
            // Relaxed: after a barrier it is exact (P1); before one it is a guess.
            sum.wrapping_add(slot.load(Relaxed))
        })
    }
}
