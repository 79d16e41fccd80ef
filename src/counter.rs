//! The counter itself: get, put, try to release, drain.
//!
//! # What holds, and why
//!
//! The invariants that the comments below cite. [`word`](crate::word) has the
//! bits and the table of states.
//!
//! **I1, one owner.** Only one thread at a time owns an attempt to release:
//! the one whose `fetch_and(!BASE)` found `BASE` set. Until it gives `BASE` back
//! or the word is released, no other thread changes a flag. So a release has
//! exactly one winner.
//!
//! **I2, nothing lost.** Every change of the word after `init` is a
//! read-modify-write. A change of flags carries the count, a change of the count
//! carries the flags: no reference appears or disappears with a change of state.
//!
//! **I3, zero means nobody.** A reference is counted from the get's add to the
//! put's subtraction. A refused get is counted too, from its add to its undo. So
//! the count is never below the number of references held, and the owner who
//! finds zero, in one atomic step with shutting the door, has shut out everybody.
//!
//! **I4, released is final.** Read-modify-writes of one word are totally ordered.
//! A get whose add comes after the step to `CLOSED` reads a word with `CLOSED` in
//! it and is refused, until the winner of that release reinits.
//!
//! **I5, what holders did is seen.** Every put is a `Release`; all writes to the
//! word are read-modify-writes, so each put's release sequence runs on through all
//! later changes; the step that finds the counter released is an `Acquire` that
//! reads from the end of that chain. So everything a holder did before its put
//! happens before whatever the winner does next. The way back is the same: reinit
//! is a `Release`, a successful get an `Acquire`.
//!
//! **I6, last touch.** A put that finds its reference in place touches nothing
//! of the counter after its subtraction; from then on the winner may free it. The
//! wake goes by address, which the kernel does not read through.
//!
//! **I7, no lost wake.** A drainer sleeps only while the word is what it saw and
//! that is not `DRAINED`. Whichever subtraction or undo makes the word `DRAINED`
//! wakes the address; the kernel compares the word and queues the sleeper in one
//! step, so the change comes before (and the sleep does not begin) or after (and
//! the wake finds the sleeper).
//!
//! **I8, draining ends.** A get looks before it adds, so each thread writes to a
//! closed word at most once, for a get that had already looked. After finitely
//! many such writes only puts are left, and the last put makes the word `DRAINED`
//! for good. Claiming and closing are single unconditional steps that no traffic
//! can make fail.
//!
//! # The race that looks broken, and is not
//!
//! `try_release` first clears `BASE` and only then looks at the count. Between
//! the two, a get can come and go as it likes: the door is still open, its add
//! finds no `CLOSED`. Nothing is decided before the second step, which is one
//! compare-and-swap over flags and count together: it turns 0 into `CLOSED`, or
//! anything else back into live. A last put in between makes the word 0, the
//! swap back fails, and the release succeeds after all, exactly as
//! `atomic_add_unless` does in the kernel's `try_release_module_ref`.

use crate::error::{DrainError, ReleaseError};
use crate::misuse::{self, Caller, Misuse};
use crate::sync::{self, Word};
use crate::word::{
    BASE, CLOSED, DESTROYED, DRAINED, DRAINING, PIN, PINNED_FROM, REF, count, flags, pack, released,
};
use core::sync::atomic::{AtomicUsize, Ordering::*};

/// The count of `word` for people: a moment's surplus put does not show.
pub(crate) fn held(word: u64) -> u64 {
    count(word).max(0) as u64
}

/// A reference counter that can be shut: the protocol without types around it.
///
/// This is what the C library exports and what [`ModuleRef`](crate::ModuleRef)
/// makes safe. It takes 16 bytes, and its layout is that of `struct module_ref`.
#[repr(C, align(16))]
pub struct Counter {
    pub(crate) word: Word,
    /// Where the per-CPU slots are, tagged; even, and here a stamp at most, while
    /// the counter is in shared-word mode. See `lifecycle`.
    pub(crate) slots: AtomicUsize,
}

impl Counter {
    /// A live counter that nobody holds, in shared-word mode.
    #[cfg(not(any(loom, interleave)))]
    pub const fn new() -> Self {
        Self { word: Word::new(BASE), slots: AtomicUsize::new(0) }
    }

    /// The models' atomics are made at run time.
    #[cfg(any(loom, interleave))]
    pub(crate) fn new() -> Self {
        Self { word: Word::new(BASE), slots: AtomicUsize::new(0) }
    }

    /// Takes a reference unless the door is shut. Wait-free.
    ///
    /// On success, everything before the counter's last init or reinit happens
    /// before what follows (`Acquire`). Linux: `try_module_get`.
    #[inline]
    pub fn try_get(&self, caller: Caller) -> bool {
        // I8: a refused get that has looked writes nothing. Relaxed: nothing is
        // decided but to give up, and a stale "open" is found out by the add.
        if self.word.load(Relaxed) & CLOSED != 0 {
            return false;
        }
        // Pairs with the Release of reinit (I5).
        let old = self.word.fetch_add(REF, Acquire);
        if old & CLOSED != 0 || count(old) >= PINNED_FROM {
            return self.get_slow(old, caller);
        }
        true
    }

    /// A get that came too late, or found the count in the outermost zone.
    #[cold]
    fn get_slow(&self, old: u64, caller: Caller) -> bool {
        if old & CLOSED != 0 {
            // Undone as a put would, wake included: between our add and this the
            // last put may have gone by and found the word not yet `DRAINED` (I7).
            self.give_back(caller);
            return false;
        }
        self.pin();
        misuse::report(Misuse::Overflow, self, caller);
        true
    }

    /// Takes one more reference; the caller holds one, so it also succeeds while
    /// a drain is under way. Refused and reported on a released counter.
    ///
    /// Linux: `__module_get`.
    ///
    /// # Safety
    ///
    /// The caller holds a reference. One that does not may bring a draining counter
    /// back from zero, and its later put is then somebody else's.
    #[inline]
    pub unsafe fn get(&self, caller: Caller) {
        // Relaxed: the caller's own reference already orders it after reinit.
        let old = self.word.fetch_add(REF, Relaxed);
        if old & CLOSED != 0 || count(old) >= PINNED_FROM {
            self.get_odd(old, caller);
        }
    }

    /// A get while draining, on a dead counter, or in the outermost zone.
    #[cold]
    fn get_odd(&self, old: u64, caller: Caller) {
        if flags(old) == CLOSED || flags(old) == DESTROYED {
            self.give_back(caller);
            misuse::report(Misuse::StaleGet, self, caller);
        } else if count(old) >= PINNED_FROM {
            self.pin();
            misuse::report(Misuse::Overflow, self, caller);
        }
    }

    /// Gives a reference back. Wait-free but for misuse.
    ///
    /// Everything before it happens before what the winner of a release does next
    /// (`Release`). Linux: `module_put`.
    ///
    /// # Safety
    ///
    /// The caller gives back a reference that it owns. A surplus put is mended and
    /// reported where nobody else moves the count at that moment; otherwise it may
    /// give back another holder's.
    #[inline]
    pub unsafe fn put(&self, caller: Caller) {
        self.give_back(caller);
    }

    /// The end of a reference, or of a refused get.
    #[inline]
    fn give_back(&self, caller: Caller) {
        let address = sync::address(&self.word);
        // Pairs with the Acquire of whoever finds the counter released (I5).
        let new = self.word.fetch_sub(REF, Release).wrapping_sub(REF);
        if new == DRAINED {
            address.wake_all();
        } else if new >= PINNED_FROM as u64 * REF {
            // Below zero, which is huge when unsigned, or in the outermost zone.
            self.put_slow(new, caller);
        }
    }

    /// A put that no get stands behind, or on a pinned count. In neither case
    /// can the counter be on its way out because of this put, so I6 does not
    /// forbid to touch it: a caller that has no reference has to know by other
    /// means that the counter exists.
    #[cold]
    fn put_slow(&self, new: u64, caller: Caller) {
        if count(new) >= 0 {
            self.pin();
            misuse::report(Misuse::Leaked, self, caller);
        } else {
            let address = sync::address(&self.word);
            // Relaxed: nothing was done under a reference that was not there.
            let mended = self.word.fetch_add(REF, Relaxed).wrapping_add(REF);
            if mended == DRAINED {
                // A drainer may have seen -1 and gone to sleep on it (I7).
                address.wake_all();
            }
            misuse::report(Misuse::SurplusPut, self, caller);
        }
    }

    /// Puts the count back into the middle of the outermost zone, and leaves the
    /// flags to whoever moves them.
    #[cold]
    fn pin(&self) {
        // Relaxed throughout: a pinned counter is never released, so nobody ever
        // takes over what its holders did.
        let mut word = self.word.load(Relaxed);
        while count(word) != PIN {
            let pinned = pack(flags(word), PIN);
            match self.word.compare_exchange_weak(word, pinned, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
    }

    /// References held, without the loader's own; -1 once released. Another
    /// thread may change it at any moment: for people and logs, not for
    /// decisions. Linux: `module_refcount`.
    pub fn count(&self) -> i64 {
        // Relaxed: nothing may be concluded from it.
        let word = self.word.load(Relaxed);
        match flags(word) {
            CLOSED | DESTROYED => -1,
            _ => held(word) as i64,
        }
    }

    /// Whether a release has succeeded and no reinit has followed.
    ///
    /// To know it gives no right to the counter: only the winner may reinit,
    /// destroy or free.
    pub fn is_released(&self) -> bool {
        // Relaxed: as for count.
        released(self.word.load(Relaxed))
    }

    /// Becomes the owner of an attempt to release, the first step of every
    /// release, and returns the word without its `BASE`.
    fn claim(&self) -> Result<u64, ReleaseError> {
        // Look first: a refused attempt writes nothing. Relaxed, as in try_get.
        let seen = self.word.load(Relaxed);
        if seen & BASE == 0 {
            return Err(ReleaseError::unclaimed(seen));
        }
        // An `and`, not a subtraction, which on a word without `BASE` would
        // borrow and set flags (I1). Relaxed: the step that finds the counter
        // released is the one that acquires.
        let old = self.word.fetch_and(!BASE, Relaxed);
        if old & BASE == 0 {
            return Err(ReleaseError::unclaimed(old));
        }
        Ok(old & !BASE)
    }

    /// Releases the counter if nobody holds a reference, and leaves it as it was
    /// if somebody does. Does not wait.
    ///
    /// After success everything that holders did happens before what follows
    /// (`Acquire`). Linux: `try_release_module_ref`.
    pub fn try_release(&self) -> Result<(), ReleaseError> {
        let mut word = self.claim()?;
        loop {
            // One step decides over flags and count together: to released if it
            // is zero, back to live unless it is zero (I3).
            let next = if word == 0 { CLOSED } else { word | BASE };
            // Acquire pairs with the Release of every put (I5).
            match self.word.compare_exchange_weak(word, next, Acquire, Relaxed) {
                Ok(_) if word == 0 => return Ok(()),
                Ok(_) => return Err(ReleaseError::InUse { held: held(word) }),
                Err(now) => word = now,
            }
        }
    }

    /// Shuts the door, then waits for the last reference to be put. `wait` is
    /// called with the word whenever there is still somebody; it sleeps, or not,
    /// and returns whether to go on waiting. Once it has said no the counter becomes
    /// live again, unless the last reference has just gone: zero still wins. A
    /// pinned count is not waited for, because it can never reach zero.
    pub(crate) fn drain_by(
        &self,
        caller: Caller,
        mut wait: impl FnMut(&Word, u64) -> bool,
    ) -> Result<(), DrainError> {
        self.claim()?;
        // We own the attempt (I1), so shutting the door needs no comparison, and
        // no traffic can make it fail (I8). Relaxed: closing publishes nothing.
        let mut word = self.word.fetch_or(CLOSED | DRAINING, Relaxed) | CLOSED | DRAINING;
        let mut patient = true;
        loop {
            let pinned = count(word) >= PINNED_FROM;
            if word != DRAINED && patient && !pinned {
                patient = wait(&self.word, word);
                // Relaxed: the exchange below decides.
                word = self.word.load(Relaxed);
                continue;
            }
            let next = if word == DRAINED { CLOSED } else { pack(BASE, count(word)) };
            // Acquire pairs with the Release of every put (I5). A wake is only a
            // hint: what counts is that this step found the word `DRAINED`.
            match self.word.compare_exchange_weak(word, next, Acquire, Relaxed) {
                Ok(_) if word == DRAINED => return Ok(()),
                Ok(_) => {
                    if pinned {
                        misuse::report(Misuse::Leaked, self, caller);
                    }
                    return Err(DrainError::TimedOut { held: held(word) });
                }
                Err(now) => word = now,
            }
        }
    }

    /// Shuts the door and sleeps until the last reference is put, or until `timeout`
    /// has passed; `None` waits for ever. After a timeout the counter is live as
    /// before.
    ///
    /// After success everything that holders did happens before what follows
    /// (`Acquire`).
    #[cfg(all(feature = "std", not(any(loom, interleave))))]
    pub fn drain(
        &self,
        caller: Caller,
        timeout: Option<core::time::Duration>,
    ) -> Result<(), DrainError> {
        self.drain_until(caller, sync::Deadline::after(timeout))
    }

    /// As `drain_by`, asleep between looks, until `deadline`.
    #[cfg(any(feature = "std", loom, interleave))]
    pub(crate) fn drain_until(
        &self,
        caller: Caller,
        mut deadline: sync::Deadline,
    ) -> Result<(), DrainError> {
        self.drain_by(caller, |word, seen| sync::wait(word, seen, &mut deadline))
    }
}

#[cfg(not(any(loom, interleave)))]
impl Default for Counter {
    fn default() -> Self {
        Self::new()
    }
}
