//! The beginning of a counter, its way back after a release, and its end.
//!
//! To initialise a counter is to write it: [`new`](Counter::new) or
//! [`new_percpu`](Counter::new_percpu), to whatever memory there is. Nothing is read before, because
//! nothing can be concluded from it: memory that was never a counter may look like one, and a
//! counter that somebody freed without destroying it looks like one in use.
//!
//! Memory that is all zeroes is a counter that is released. So an object that a program cleared,
//! and forgot to initialise, gives out no reference, where a "live" one would have let its users
//! in unprotected.

use crate::Counter;
use crate::counter::word::{DESTROYED, RELEASED, count, flags, pack};
#[cfg(not(any(loom, interleave)))]
use crate::counter::word::{LIVE, PERCPU};
use crate::error::{InitError, ReleaseError};
use crate::misuse::{self, Caller, Misuse};
#[cfg(not(any(loom, interleave)))]
use crate::sync::{Slots, Word};
use crate::tool;
use core::sync::atomic::Ordering::{self, *};

impl Counter {
    /// A counter with slots that are already on, where this system has what they need, and
    /// one in shared-word mode elsewhere: ask [`mode`](Self::mode). Slots are given back by
    /// [`destroy`](Self::destroy).
    #[cfg(not(any(loom, interleave)))]
    pub fn new_percpu() -> Result<Self, InitError> {
        if !Slots::available() {
            return Ok(Self::new());
        }
        let (slots, sum) = Slots::allocate().ok_or(InitError::NoMemory)?;
        // Not zeroed but balanced: the word makes up for what is in the slots (P2). Slots are never
        // written but by their own CPU, so that those of an earlier counter are taken as they are.
        let counter = Self { word: Word::new(pack(LIVE | PERCPU, -sum)), slots };
        counter.slots.turn_on();
        Ok(counter)
    }

    /// Makes a released counter live again, in the mode it had. For the winner of
    /// the release alone: what it did before happens before what any later holder
    /// does (`Release`).
    ///
    /// # Safety
    ///
    /// The caller is the winner of the release: nobody else takes away what the
    /// counter stands for.
    ///
    /// # Gets that were refused meanwhile
    ///
    /// A get may have added to the released word and not yet undone that. If its undo comes before
    /// our exchange, the exchange takes the new word; if it comes after, the undo finds a live
    /// counter, on which it is an ordinary subtraction. Either way the count is right once it has
    /// come: the count goes along with each change of flags (I2).
    pub unsafe fn reinit(&self) -> Result<(), InitError> {
        tool::before(&self.slots);
        // Release pairs with the Acquire of try_get (I5).
        self.leave_released(|word| self.unfolded(word), Release)?;
        if self.slots.exist() {
            // If a get comes between the two steps, it goes through the word, which is open; if it
            // comes after, through its slot. Both count from the first step on (P3).
            self.unclaim();
        }
        Ok(())
    }

    /// Ends the life of a counter that is released, or that nobody holds. One
    /// that is held stays as it is, and the misuse handler hears of the leak: to free
    /// its slots would let a holder's put write into another counter's.
    ///
    /// # Safety
    ///
    /// If the counter is released, the caller is the winner of the release.
    pub unsafe fn destroy(&self, caller: Caller) {
        let mut outcome = self.try_release(caller);
        if matches!(outcome, Err(ReleaseError::InUse { held: 0 })) {
            // Surplus puts were found in the slots, and the count has been corrected: nobody may hold one.
            outcome = self.try_release(caller);
        }
        match outcome {
            Ok(()) | Err(ReleaseError::AlreadyReleased) => {
                // Relaxed: nobody takes anything over. It fails only if another thread makes the
                // counter live again, which the contract of destroy forbids.
                if self.leave_released(|word| pack(DESTROYED, count(word)), Relaxed).is_ok() {
                    self.slots.free();
                }
            }
            Err(ReleaseError::Destroyed) => {}
            Err(_) => misuse::report(Misuse::Leaked, self, caller),
        }
    }

    /// The end of a counter that nobody else can reach, because its owner drops it. References may be left, of guards
    /// that were forgotten: then somebody may yet put, and the slots are leaked with them.
    #[cfg(not(any(loom, interleave)))]
    pub(crate) fn give_up_slots(&mut self) {
        // A drain that was begun cannot be under way: its handle keeps the counter (see `Lasting`).
        // Relaxed: we are alone.
        let word = self.word.load(Relaxed);
        if count(self.total(word)) == 0 {
            self.slots.free();
        }
    }

    /// Changes the flags of a released counter. The count goes along: a get that was refused while
    /// the counter was released may not have undone its add yet (I2). Nobody but the winner changes
    /// these flags, so that the exchange can fail only because of such gets, or because the caller
    /// is not the winner.
    fn leave_released(&self, to: impl Fn(u64) -> u64, order: Ordering) -> Result<(), InitError> {
        // Relaxed: only the flags matter, and the exchange checks them.
        let mut word = self.word.load(Relaxed);
        loop {
            match flags(word) {
                RELEASED => {}
                DESTROYED => return Err(InitError::Destroyed),
                _ => return Err(InitError::InUse),
            }
            match self.word.compare_exchange_weak(word, to(word), order, Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }
}
