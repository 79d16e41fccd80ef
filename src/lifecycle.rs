//! The beginning and the end of a counter: init, reinit, destroy.
//!
//! `init` has to start from memory that may hold anything, and still must not
//! forget the references of a counter that is in use. So it leaves a stamp in the
//! second word that is made from the counter's own address: memory that carries
//! the right stamp is a counter that was initialised *here*. Uninitialised memory
//! has it with a chance of one in 2^63.

use crate::Counter;
use crate::error::{InitError, ReleaseError};
use crate::misuse::{self, Caller, Misuse};
use crate::sync::Word;
use crate::word::{BASE, CLOSED, DESTROYED, count, flags, pack};
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::{self, *};

/// The stamp of a counter at `place`. Even: the lowest bit of the second word
/// says whether per-CPU counting is on.
fn stamp(place: *const Counter) -> usize {
    const MAGIC: usize = 0x6d6f_6475_6c65_2d72_u64 as usize;
    (place as usize ^ MAGIC) & !1
}

impl Counter {
    /// Makes `place` a live counter that nobody holds, in shared-word mode.
    ///
    /// Memory that holds a counter that was initialised here and is held, or is
    /// being released, is refused and stays as it is. Any other content is
    /// overwritten.
    ///
    /// # Safety
    ///
    /// `place` is aligned and writable for a `Counter`, and no other thread uses it
    /// until the caller has published it.
    pub unsafe fn init(place: *mut Self) -> Result<(), InitError> {
        // SAFETY: any bits are a valid Counter, and the caller gives us the place.
        let there = unsafe { &*place };
        // Relaxed, here and below: whoever publishes the counter orders it.
        if there.slots.load(Relaxed) == stamp(place) {
            let word = there.word.load(Relaxed);
            let idle = flags(word) == BASE && count(word) == 0;
            if !idle && !matches!(flags(word), CLOSED | DESTROYED) {
                return Err(InitError::InUse);
            }
        }
        let fresh = Self { word: Word::new(BASE), slots: AtomicUsize::new(stamp(place)) };
        // SAFETY: as above.
        unsafe { place.write(fresh) };
        Ok(())
    }

    /// Makes a released counter live again, in the mode it had. For the winner of
    /// the release alone: what it did before happens before what any later holder
    /// does (`Release`).
    ///
    /// # Safety
    ///
    /// The caller is the winner of the release: nobody else takes away what the
    /// counter stands for.
    pub unsafe fn reinit(&self) -> Result<(), InitError> {
        // Release pairs with the Acquire of try_get (I5).
        self.leave_released(BASE, Release)
    }

    /// Ends the life of a counter that is released, or that nobody holds. One
    /// that is held stays as it is, and the misuse handler hears of the leak.
    ///
    /// # Safety
    ///
    /// If the counter is released, the caller is the winner of the release.
    pub unsafe fn destroy(&self, caller: Caller) {
        match self.try_release() {
            // Relaxed: nobody takes anything over. It fails only on a counter that
            // another thread makes live again, against the rule for destroy.
            Ok(()) | Err(ReleaseError::AlreadyReleased) => {
                let _ = self.leave_released(DESTROYED, Relaxed);
            }
            Err(ReleaseError::Destroyed) => {}
            Err(ReleaseError::InUse { .. } | ReleaseError::Busy) => {
                misuse::report(Misuse::Leaked, self, caller);
            }
        }
    }

    /// Changes the flags of a released counter. The count goes along: a get that
    /// was refused while the counter was released may not have undone its add yet
    /// (I2).
    fn leave_released(&self, to: u64, order: Ordering) -> Result<(), InitError> {
        // Relaxed: only the flags matter, and the exchange checks them.
        let mut word = self.word.load(Relaxed);
        loop {
            match flags(word) {
                CLOSED => {}
                DESTROYED => return Err(InitError::Destroyed),
                _ => return Err(InitError::InUse),
            }
            match self.word.compare_exchange_weak(word, pack(to, count(word)), order, Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }
}
