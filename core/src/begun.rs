//! A drain that an event loop waits for: begun here, finished or cancelled later.
//!
//! [`drain`](Counter::drain) sleeps until the last put. A program that has a loop around `epoll`
//! cannot sleep elsewhere; it gets a descriptor instead, which becomes readable when a look may be
//! worth while, and looks.
//!
//! # The descriptor
//!
//! A timer (`timerfd_create(2)`), for two reasons. It expires every tenth of a second anyway, for
//! the reason that no sleep of a drain is longer (see `sync::native`): a hint may be swallowed, by
//! a sandbox or because another copy of this library does the put. And the put that makes the word
//! `DRAINED` has it expire at once by one plain system call, which is allowed in a signal handler.
//!
//! That it is readable is a hint like any wake; only the word counts. Whoever looks first takes
//! the hint away and looks then: a put between the two gives a new one.
//!
//! # The block
//!
//! A counter has no room for any of this, and the put has let go of the counter when it wakes (I6).
//! So what belongs to a begun drain is found by the counter's address, in a block of
//! [`by_address`](crate::by_address); `sync::bell` has it. The block has a duplicate of the descriptor: the
//! caller's own may be closed at any time, and its number be somebody else's file by then. Ours is
//! closed with the last pin of the block (B2), so that a put that comes late, or sleeps between
//! its look and its system call, finds the timer that it looked up, and never another file.
//!
//! **D1, one block.** Only the owner of an attempt (I1) publishes a block for its counter's
//! address. It first retires whatever the address has: an attempt that just gives up for want of a
//! barrier has left it, or a counter that was there earlier, and whose memory went with a drain
//! under way. A drain that is cancelled retires its block before the counter is live again.
//!
//! **D2, no lost hint.** The block is published before the door is shut. A put that finds the word
//! `DRAINED` has read what came of that step, so it finds the block; one that has come before that
//! step, or before the slots are folded, is seen by the look that follows them both.
//!
//! **D3, one at a time.** Who finishes or cancels takes the block for itself first, and touches the
//! counter only if it has it: a caller who comes too late for the drain finds no block, and does
//! not touch memory that the winner may have freed.

use crate::Counter;
use crate::counter::held;
use crate::counter::word::{BASE, DRAINED, PINNED_FROM, count, flags};
use crate::error::{DrainError, FinishError, ReleaseError};
use crate::misuse::{self, Caller, Misuse};
use crate::sync::{self, Bell, Descriptor, NewBell};
use core::sync::atomic::Ordering::*;

#[cfg(not(any(loom, interleave)))]
pub use typed::Draining;

impl Counter {
    /// Shuts the door without waiting for the references that are held. The descriptor becomes
    /// readable when the last one is put, and now and then before; then, or at any other time,
    /// [`drain_finish`](Self::drain_finish) has the outcome.
    ///
    /// The drain is under way until `drain_finish` or [`drain_cancel`](Self::drain_cancel) has
    /// ended it, which has to be before the counter's memory goes.
    pub fn drain_begin(&self, caller: Caller) -> Result<Descriptor, DrainError> {
        // Look first, as every attempt does. Relaxed: it decides nothing but to give up.
        let word = self.word.load(Relaxed);
        if word & BASE == 0 {
            return Err(ReleaseError::unclaimed(word).into());
        }
        let descriptor = |errno| DrainError::Descriptor { errno };
        let new = NewBell::new().map_err(descriptor)?;
        self.claim()?;
        let (bell, timer) = match new.publish(&self.word) {
            Ok(published) => published,
            Err(errno) => {
                self.give_base_back();
                return Err(descriptor(errno));
            }
        };
        // Release, before the step that shuts the door, pairs with the Acquire of a put that finds
        // the word `DRAINED` and looks for the bell (D2).
        sync::fence(Release);
        if let Err(why) = self.close(caller) {
            bell.over();
            sync::discard(timer);
            return Err(why);
        }
        // Relaxed: a look; `drain_finish` decides.
        let word = self.word.load(Relaxed);
        if word == DRAINED || count(word) >= PINNED_FROM {
            // There is nobody left to give the hint (D2), or nothing to be waited for.
            bell.ring();
        }
        bell.let_go();
        Ok(timer)
    }

    /// Whether the last reference has been put since the drain was begun: `Ok` to one caller, for
    /// whom the counter is released, with everything that holders did before what follows
    /// (`Acquire`).
    pub fn drain_finish(&self, caller: Caller) -> Result<(), FinishError> {
        self.finish(Bell::of(sync::address(&self.word))?, caller)
    }

    /// As `drain_finish`, for C, where whoever comes too late may have a pointer to nothing (D3).
    ///
    /// # Safety
    ///
    /// If a drain of a counter at this place is under way, the counter is there.
    #[cfg(not(any(loom, interleave)))]
    #[doc(hidden)]
    pub unsafe fn drain_finish_at(place: *const Self, caller: Caller) -> Result<(), FinishError> {
        let bell = Bell::of(sync::Address::of_counter(place))?;
        // SAFETY: a drain is under way, and nobody else ends it.
        unsafe { &*place }.finish(bell, caller)
    }

    fn finish(&self, bell: Bell, caller: Caller) -> Result<(), FinishError> {
        let bell = self.own(bell)?;
        // Before the look: a put that comes in between gives a new hint.
        bell.hush();
        let folded = self.folded();
        if self.try_finish(folded) {
            bell.over();
            return Ok(());
        }
        // Relaxed: a look, which decides nothing.
        let word = self.word.load(Relaxed);
        if count(word) < PINNED_FROM {
            bell.let_go();
            return Err(FinishError::InUse { held: held(word) });
        }
        bell.over();
        self.open_again(folded).map_err(|held| {
            misuse::report(Misuse::Leaked, self, caller);
            FinishError::TimedOut { held }
        })
    }

    /// Ends a drain that was begun: the counter is live as before, and `Ok(false)`; or the last
    /// reference has been put, then it is released, and `Ok(true)`. Zero wins.
    pub fn drain_cancel(&self) -> Result<bool, FinishError> {
        self.cancel(Bell::of(sync::address(&self.word))?)
    }

    /// As `drain_cancel`, for C.
    ///
    /// # Safety
    ///
    /// As for `drain_finish_at`.
    #[cfg(not(any(loom, interleave)))]
    #[doc(hidden)]
    pub unsafe fn drain_cancel_at(place: *const Self) -> Result<bool, FinishError> {
        let bell = Bell::of(sync::Address::of_counter(place))?;
        // SAFETY: a drain is under way, and nobody else ends it.
        unsafe { &*place }.cancel(bell)
    }

    fn cancel(&self, bell: Bell) -> Result<bool, FinishError> {
        let bell = self.own(bell)?;
        // First, so that nothing is left of it once the counter is live (D1).
        bell.over();
        Ok(self.open_again(self.folded()).is_ok())
    }

    /// The bell, if the drain that it belongs to is this counter's: against the rule, it can be that
    /// of one before, whose memory was used again while it was under way.
    fn own(&self, bell: Bell) -> Result<Bell, FinishError> {
        // Relaxed: while the drain is under way these flags stay, and the bell has shown it.
        if flags(self.word.load(Relaxed)) == DRAINED {
            return Ok(bell);
        }
        bell.over();
        Err(FinishError::NotBegun)
    }

    /// The attempt becomes the caller's: the door stays shut, and nobody else ends it.
    #[cfg(all(feature = "host", not(any(loom, interleave))))]
    pub(crate) fn drain_take_over(&self) -> Result<crate::counter::release::Folded, FinishError> {
        self.own(Bell::of(sync::address(&self.word))?)?.over();
        Ok(self.folded())
    }
}

/// What Rust makes of it.
#[cfg(not(any(loom, interleave)))]
mod typed {
    use super::{Caller, DrainError, FinishError};
    use crate::counter::guard::{ModuleRef, Released};
    use std::fmt;
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

    impl ModuleRef {
        /// Shuts the door, so that no new guard is given out, and returns without waiting for those
        /// there are: for event loops. The descriptor of what this returns becomes readable when the
        /// last guard is dropped, and now and then before; then [`finish`](Draining::finish) has the
        /// outcome.
        ///
        /// ```
        /// use module_ref::{FinishError, ModuleRef};
        ///
        /// let counter = ModuleRef::new();
        /// let guard = counter.try_get().expect("live");
        /// let mut draining = counter.drain_begin()?;
        /// assert!(counter.try_get().is_none()); // the door is shut
        /// // Here a program waits until the descriptor is readable, with whatever else it waits for.
        /// assert_eq!(draining.finish().unwrap_err(), FinishError::InUse { held: 1 });
        /// drop(guard);
        /// let released = draining.finish()?;
        /// # drop(released);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// Linux alone. Two descriptors for as long as the drain is under way, both closed on exec.
        pub fn drain_begin(&self) -> Result<Draining<'_>, DrainError> {
            let timer = self.counter().drain_begin(Caller::UNKNOWN)?;
            Ok(Draining { of: self, timer, over: false })
        }
    }

    /// A drain that was [begun](ModuleRef::drain_begin). Dropping it cancels it: the counter is live
    /// again.
    ///
    /// Its descriptor ([`AsFd`]) is readable when [`finish`](Self::finish) may succeed: when the last
    /// guard is dropped, and ten times a second in case the hint is lost. Both level- and
    /// edge-triggered loops can wait for it; there is nothing to be read, since `finish` does that.
    #[must_use = "dropping it makes the counter live again"]
    pub struct Draining<'a> {
        of: &'a ModuleRef,
        timer: OwnedFd,
        /// Released, or live again.
        over: bool,
    }

    impl<'a> Draining<'a> {
        /// Whether the last guard has been dropped. [`FinishError::InUse`] says to wait on; after
        /// anything else the drain is over.
        ///
        /// Memory ordering as in [`try_release`](ModuleRef::try_release).
        pub fn finish(&mut self) -> Result<Released<'a>, FinishError> {
            if self.over {
                return Err(FinishError::NotBegun);
            }
            let outcome = self.of.counter().drain_finish(Caller::UNKNOWN);
            self.over = !matches!(outcome, Err(FinishError::InUse { .. } | FinishError::Busy));
            outcome.map(|()| Released::won(self.of))
        }

        /// Makes the counter live again, unless the last guard has been dropped: then it is released.
        /// `None` if it is live, or if the drain was over.
        pub fn cancel(mut self) -> Option<Released<'a>> {
            self.end()
        }

        fn end(&mut self) -> Option<Released<'a>> {
            if std::mem::replace(&mut self.over, true) {
                return None;
            }
            self.of.counter().drain_cancel().unwrap_or(false).then(|| Released::won(self.of))
        }
    }

    impl Drop for Draining<'_> {
        fn drop(&mut self) {
            if let Some(nobody_told) = self.end() {
                nobody_told.reinit();
            }
        }
    }

    impl AsFd for Draining<'_> {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.timer.as_fd()
        }
    }

    impl AsRawFd for Draining<'_> {
        fn as_raw_fd(&self) -> RawFd {
            self.timer.as_raw_fd()
        }
    }

    impl fmt::Debug for Draining<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Draining").field("of", self.of).field("over", &self.over).finish()
        }
    }
}
