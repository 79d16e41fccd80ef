//! Which slots of a chunk are taken.
//!
//! Each step is one atomic operation, so a fork in another thread finds no lock held. The models include
//! this file too, as `models::bitmap`.

use crate::sync::Bits;
use core::sync::atomic::Ordering::*;

/// One bit for each of `64 * N` slots. Other copies of the library use the same memory.
#[repr(transparent)]
pub(crate) struct Bitmap<const N: usize>([Bits; N]);

impl<const N: usize> Bitmap<N> {
    /// Nothing is taken.
    pub(crate) fn new() -> Self {
        Self(core::array::from_fn(|_| Bits::new(0)))
    }

    /// Takes a slot, which is the caller's until it frees it. `None`: all are taken.
    pub(crate) fn take(&self) -> Option<usize> {
        for (index, taken) in self.0.iter().enumerate() {
            // Relaxed: a guess; the step below decides.
            let mut seen = taken.load(Relaxed);
            while seen != u64::MAX {
                let bit = (!seen).trailing_zeros() as usize;
                // Acquire pairs with the Release of `free`.
                seen = taken.fetch_or(1 << bit, Acquire);
                if seen & (1 << bit) == 0 {
                    return Some(index * 64 + bit);
                }
            }
        }
        None
    }

    /// Gives a slot back.
    pub(crate) fn free(&self, n: usize) {
        // Release pairs with the Acquire of `take`: the next owner sees what this owner did.
        self.0[n / 64].fetch_and(!(1 << (n % 64)), Release);
    }
}
