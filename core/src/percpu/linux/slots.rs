//! The second word of a counter: where its slots are, and whether to use them.
//!
//! The layout is ABI: `module_ref_inline.h` reads it.

use super::{arena, barrier, cpus, rseq};
use core::ffi::c_int;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicI64, AtomicUsize, Ordering::*};

/// Per-CPU counting is on. A zeroed word, or a stamp, has it clear.
const ON: usize = 1;

/// The word is a pointer to slots, whether they are in use or not.
const SLOTTED: usize = 1 << 1;

/// Holders are recorded, so that every get and put has to come by: `ON` is clear. With slots or
/// without.
const RECORDED: usize = 1 << 2;

/// All of them; slots are 8-aligned, so these bits of a pointer are free, and of a stamp.
const TAGS: usize = ON | SLOTTED | RECORDED;

#[repr(transparent)]
pub(crate) struct Slots(AtomicUsize);

impl Slots {
    /// A counter in shared-word mode. `stamp` is anything with its low bits clear.
    pub(crate) const fn none(stamp: usize) -> Self {
        Self(AtomicUsize::new(stamp & !TAGS))
    }

    /// Slots for one counter, off, and what they add up to; `None` if there is no
    /// memory. Only where [`available`](Self::available).
    pub(crate) fn allocate() -> Option<(Self, i64)> {
        let slots = Self(AtomicUsize::new(arena::allocate()?.as_ptr() as usize | SLOTTED));
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

    /// The word as it began, for those who compare stamps.
    pub(crate) fn stamp(&self) -> usize {
        // Relaxed: only whoever initialises the counter asks.
        self.0.load(Relaxed) & !RECORDED
    }

    /// Whether this word, which may be anything, leads to slots that somebody has.
    pub(crate) fn are_taken(&self) -> bool {
        self.first().is_some_and(arena::is_taken)
    }

    /// Adds to the slot of the CPU this runs on; false if it did not, because counting
    /// per CPU is off, or the sequence was aborted.
    #[inline(always)]
    pub(crate) fn add<const DELTA: i64>(&self) -> bool {
        #[cfg(tsan)]
        return super::tsan::add(&self.0, DELTA, rseq::add::<DELTA>);
        #[cfg(not(tsan))]
        rseq::add::<DELTA>(&self.0)
    }

    /// Whether the counter is in per-CPU mode, on or off.
    pub(crate) fn exist(&self) -> bool {
        // Relaxed: the bit stays from init to destroy.
        self.0.load(Relaxed) & SLOTTED != 0
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

    /// Every CPU may use its slot again, unless holders are recorded.
    pub(crate) fn turn_on(&self) {
        let on = |word| (word & RECORDED == 0).then_some(word | ON);
        // Release pairs with the load of the tag in the sequence: who sees it sees what
        // was published before. Relaxed: the exchange decides.
        let _ = self.0.fetch_update(Release, Relaxed, on);
    }

    /// Whether they are off although nobody records holders: somebody owns an attempt, or has
    /// left them to be turned on.
    pub(crate) fn lie_idle(&self) -> bool {
        // Relaxed: a step on the counter's word comes before it (P5).
        self.0.load(Relaxed) & TAGS == SLOTTED
    }

    /// Whether gets and puts are to be recorded.
    #[inline(always)]
    #[cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "nobody records there"))]
    pub(crate) fn are_recorded(&self) -> bool {
        // Relaxed: whoever comes too early or too late has no record, or looks for one in vain.
        self.0.load(Relaxed) & RECORDED != 0
    }

    /// From here on gets and puts go to the word, and are recorded.
    pub(crate) fn record(&self) {
        let recorded = |word| Some((word & !ON) | RECORDED);
        // Relaxed: to clear the tag publishes nothing (P4), and records are found by themselves.
        let _ = self.0.fetch_update(Relaxed, Relaxed, recorded);
    }

    /// Ends that; says whether there was anything to end. The slots stay off: see
    /// `Counter::open`.
    pub(crate) fn stop_recording(&self) -> bool {
        // Relaxed: the step on the counter's word that follows orders it.
        self.0.fetch_and(!RECORDED, Relaxed) & RECORDED != 0
    }

    fn first(&self) -> Option<NonNull<AtomicI64>> {
        let word = self.0.load(Relaxed);
        NonNull::new((word & !TAGS) as *mut AtomicI64).filter(|_| word & SLOTTED != 0)
    }

    /// What the slots add up to: exactly, if they have been off since a barrier.
    /// Wraps like the slots themselves.
    pub(crate) fn sum(&self) -> i64 {
        let Some(first) = self.first() else { return 0 };
        cpus::possible().fold(0, |sum, cpu| {
            // SAFETY: the arena has a row for every possible CPU, and the rows are mapped
            // for as long as the process lives.
            let slot = unsafe { first.byte_add(cpu << cpus::STRIDE_SHIFT).as_ref() };
            // Relaxed: after a barrier it is exact (P1); before it, it is a guess.
            sum.wrapping_add(slot.load(Relaxed))
        })
    }
}
