//! The counter itself: get, put, try to release, drain.
//!
//! | file        | what it holds                                                          |
//! | ----------- | ---------------------------------------------------------------------- |
//! | `word`      | the bits of the word, its states, and the moves between them            |
//! | here        | get and put                                                            |
//! | `release`   | the attempt to release, the fold of the slots, the drain               |
//! | `lifecycle` | the beginning of a counter, its way back after a release, and its end  |
//! | `drain`     | the handle of a drain that an event loop waits for                     |
//! | `guard`     | all of it with types, for Rust                                         |
//! | `misuse`    | what is said when a counter is used wrongly, and to whom               |
//! | `published` | a value that is read under a counter: the table of a host's modules     |
//!
//! # Terms
//!
//! A counter is *live* while it gives references and nobody tries to release it. It is *closed*
//! while new gets fail: a drain closes it and waits for the references that are held. It is
//! *released* once nobody holds a reference and nobody can get one. The one thread that is told
//! so is the *winner* of the release; it alone may free what the counter stands for, or bring the
//! counter back (*reinit*).
//!
//! # What holds, and why
//!
//! The invariants that the comments below cite. [`word`](crate::counter::word) has the
//! bits and the table of states.
//!
//! **I1, one owner.** An attempt to release has one owner at a time: the thread whose
//! `fetch_and(!BASE)` found `BASE` set; of a drain that was begun, whoever has taken the counter out
//! of the handle (D4). Until the owner gives `BASE` back or the word is released, nobody else
//! changes a flag. So a release has exactly one winner.
//!
//! **I2, nothing lost.** Every change of the word after `init` is a
//! read-modify-write. A change of flags carries the count, a change of the count
//! carries the flags: no reference appears or disappears with a change of state. (Folding moves the
//! sum of the slots into the count, and the way back moves it out again: P2.)
//!
//! **I3, zero means nobody.** A reference is counted from the get's add to the
//! put's subtraction. A refused get is counted too, from its add to its undo. So
//! the count is never below the number of references held. The owner releases the
//! counter in one atomic step that finds the count zero: if a get's add comes before
//! that step, the count is not zero and the step fails; if it comes after, the get
//! finds no `OPEN` and is refused.
//!
//! **I4, released is final.** Read-modify-writes of one word are totally ordered.
//! A get whose add comes after the step that took `OPEN` away reads a word without it
//! and is refused, until the winner of that release reinits.
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
//! **I7, no lost wake.** A drainer sleeps only while the word is what it saw, and whichever
//! subtraction or undo makes the word `DRAINED` wakes the address. The kernel compares the word
//! and queues the sleeper in one step. If the change comes before that step, the comparison fails
//! and the drainer does not sleep; if it comes after, the wake finds the sleeper.
//!
//! **I8, draining ends.** A get looks before it adds, so each thread writes to a
//! closed word at most once, for a get that had already looked. After finitely
//! many such writes only puts are left, and gets under a reference that somebody holds. The last
//! put makes the word `DRAINED` for good. Claiming and closing are single unconditional steps that no traffic
//! can make fail.
//!
//! # Orderings
//!
//! What has to be ordered is the use of the thing, not the counter itself: the word is changed by
//! read-modify-writes alone, which are in one order anyway.
//!
//! | access                            | ordering | pairs with, and why                              |
//! | --------------------------------- | -------- | ------------------------------------------------ |
//! | a get's add, or exchange if held  | Acquire  | reinit: the user sees what the winner prepared   |
//! | a holder's further get            | Relaxed  | its first get has ordered it                     |
//! | a put's subtraction               | Release  | the releasing exchange: the winner sees what the holder did |
//! | the undo of a refused get         | Release  | nothing; it is the same code                     |
//! | claim                             | Acquire  | the way back: the last attempt's slots are on     |
//! | closing                           | Relaxed  | nothing; a get adds, and looks at what it found  |
//! | folding                           | Relaxed  | nothing; the barrier has ordered the slots (P1)   |
//! | the exchange that ends an attempt | AcqRel   | every put; and the gets after a drain that is given up |
//! | giving `BASE` back, per CPU       | Release  | the next claim                                   |
//! | reinit                            | Release  | gets                                             |
//! | pinning, a put that is undone     | Relaxed  | nothing; no release follows from them            |
//! | released to destroyed             | Relaxed  | nothing; nobody takes anything over              |
//! | looks that only give up or sleep  | Relaxed  | nothing; the step that follows compares          |
//!
//! A get and a put in a slot are a plain load and a plain store. The tag is loaded with Acquire
//! (any load on x86-64) and pairs with the Release that set it; the add is ordered before the
//! barrier of whoever folds (P1).
//!
//! # The race that looks broken, and is not
//!
//! `try_release` first clears `BASE` and only then looks at the count. Between
//! the two, a get can come and go as it likes: its add still finds `OPEN`.
//! Nothing is decided before the second step, one compare-and-swap over flags and count
//! together. If it finds `OPEN` with a count of 0, it makes the counter released. If it finds
//! any other count, it makes the counter live again. If the last put comes between the look at
//! the count and the swap, the swap fails, and the next round finds a count of 0: the release
//! succeeds after all, exactly as `atomic_add_unless` does it in the kernel's
//! `try_release_module_ref`.
//!
//! # What a misuse can do
//!
//! References are anonymous: a put says that one reference is given back, not whose. So a put
//! without a get takes a holder's reference if anybody holds one at that moment, and the counter
//! can be released while that holder goes on. Where nobody holds one the count would fall below
//! zero, and there the put is found out: in one word at once, per CPU at the next fold. It is
//! undone, and reported. Counts beyond [`PINNED_FROM`](word::PINNED_FROM) are pinned, because a
//! count that wraps would be released early; a pinned counter is never released again.

#[cfg(all(feature = "std", target_os = "linux", not(any(loom, interleave))))]
pub(crate) mod drain;
#[cfg(not(any(loom, interleave)))]
pub(crate) mod guard;
mod lifecycle;
pub mod misuse;
#[cfg(any(loom, all(feature = "host", target_os = "linux", target_env = "gnu", not(interleave))))]
pub(crate) mod published;
pub(crate) mod release;
pub(crate) mod word;

use crate::counter::word::{
    DRAINED, DRAINING, LIVE, OPEN, PERCPU, PIN, PINNED_FROM, REF, count, flags, gone, pack, plus,
    released,
};
use crate::sync::{self, Slots, Word};
use crate::tool;
use core::sync::atomic::Ordering::*;
use misuse::{Caller, Misuse};

/// The count of `word` for people: a moment's surplus put does not show.
pub(crate) fn held(word: u64) -> u64 {
    count(word).max(0) as u64
}

/// Whether a get that has found `old` came too late, or in the outermost zone: one test and one
/// comparison on the fast path, for both.
#[inline]
pub(crate) fn needs_slow_path(old: u64) -> bool {
    old & OPEN == 0 || count(old) >= PINNED_FROM
}

/// A reference counter that can be closed: the protocol without types around it.
///
/// This is what the C library exports and what [`ModuleRef`](crate::ModuleRef)
/// makes safe. It takes 16 bytes, and its layout is that of `struct module_ref`.
#[repr(C, align(16))]
pub struct Counter {
    pub(crate) word: Word,
    /// Where the per-CPU slots are, and whether they are in use; zero in shared-word mode.
    pub(crate) slots: Slots,
}

impl Counter {
    /// A live counter that nobody holds, in shared-word mode.
    #[cfg(not(any(loom, interleave)))]
    pub const fn new() -> Self {
        Self { word: Word::new(LIVE), slots: Slots::none() }
    }

    /// The models' atomics are made at run time.
    #[cfg(any(loom, interleave))]
    pub(crate) fn new() -> Self {
        Self { word: Word::new(LIVE), slots: Slots::none() }
    }

    /// Takes a reference unless the counter is closed. Wait-free.
    ///
    /// On success, everything before the counter's last init or reinit happens
    /// before what follows (`Acquire`). Linux: `try_module_get`.
    #[inline]
    pub fn try_get(&self, caller: Caller) -> bool {
        self.slots.add::<1>() || self.try_get_in_word(caller)
    }

    /// For an entry point whose sequence has not added: see [`Slots::widen`].
    #[cfg(not(any(loom, interleave)))]
    #[doc(hidden)]
    pub fn widen(&self) {
        self.slots.widen();
    }

    /// [`try_get`](Self::try_get) where the slots are not to be used.
    #[inline]
    #[doc(hidden)]
    pub fn try_get_in_word(&self, caller: Caller) -> bool {
        let Some(old) = self.look_and_add() else { return false };
        if needs_slow_path(old) {
            return self.get_slow(old, caller);
        }
        true
    }

    /// The get without its slow end: the word before the add, or `None` if the counter was closed
    /// and nothing was added.
    #[inline]
    pub(crate) fn look_and_add(&self) -> Option<u64> {
        // I8: a refused get that has looked writes nothing. Relaxed: nothing is
        // decided but to give up, and a stale "open" is found out by the add.
        if self.word.load(Relaxed) & OPEN == 0 {
            return None;
        }
        // Pairs with the Release of reinit (I5).
        Some(self.word.fetch_add(REF, Acquire))
    }

    /// A get that came too late, or in the outermost zone. Most gets that are too late end at their
    /// look; here are those whose counter was closed between the look and the add.
    #[cold]
    pub(crate) fn get_slow(&self, old: u64, caller: Caller) -> bool {
        if old & OPEN == 0 {
            // Undone as a put would, wake included: between our add and this the
            // last put may have gone by and found the word not yet `DRAINED` (I7).
            // SAFETY: what goes back is what we have just added.
            unsafe { self.put_in_word(caller) };
            return false;
        }
        self.overflow(caller);
        true
    }

    fn overflow(&self, caller: Caller) {
        self.pin();
        misuse::report(Misuse::Overflow, self, caller);
    }

    /// Takes a reference even if the counter is closed, as long as somebody holds one. As
    /// [`try_get`](Self::try_get) on a counter that is not. Lock-free.
    ///
    /// On success, everything before the counter's last init or reinit happens
    /// before what follows (`Acquire`).
    pub fn get_if_held(&self, caller: Caller) -> bool {
        self.slots.add::<1>() || self.get_if_held_in_word(caller)
    }

    /// [`get_if_held`](Self::get_if_held) where the slots are not to be used.
    ///
    /// While a counter drains, all that counts is in the word. The exchange finds a count that is
    /// not zero and adds to it in one step. If it comes before the exchange that ends the drain,
    /// that one fails, and the drain waits for our put; if it comes after, it finds no flag, and
    /// gives up. So the drain cannot have ended. (A get that is being refused counts for a moment,
    /// I3, and the drain waits for that, too.)
    ///
    /// A drain that has not folded its slots yet does not know whether anybody holds a reference.
    /// To look at the slots could miss one that moves between them, so that a holder is refused;
    /// to wait would be for ever in a signal handler that interrupts the drainer. So the get
    /// stands: it is as one that came right before the counter was closed, and the fold counts it.
    #[cold]
    #[doc(hidden)]
    pub fn get_if_held_in_word(&self, caller: Caller) -> bool {
        // Relaxed: the exchange decides.
        let mut word = self.word.load(Relaxed);
        while word & OPEN != 0 || word & DRAINING != 0 && (word & PERCPU != 0 || count(word) > 0) {
            // Acquire pairs with the Release of reinit (I5), as in try_get.
            match self.word.compare_exchange_weak(word, plus(word, 1), Acquire, Relaxed) {
                Ok(_) => {
                    tool::after(&self.slots);
                    if count(word) >= PINNED_FROM {
                        self.overflow(caller);
                    }
                    return true;
                }
                Err(now) => word = now,
            }
        }
        false
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
        // SAFETY: the caller's promise.
        unsafe { self.get_in(caller) };
    }

    /// The same, with the word before for a tracer that wants to know the count; `None`, if the
    /// reference was taken in a slot.
    ///
    /// # Safety
    ///
    /// As for [`get`](Self::get).
    #[inline]
    pub(crate) unsafe fn get_in(&self, caller: Caller) -> Option<u64> {
        if self.slots.add::<1>() {
            return None;
        }
        // Relaxed: the caller's own reference already orders it after reinit.
        let old = self.word.fetch_add(REF, Relaxed);
        if needs_slow_path(old) {
            self.get_odd(old, caller);
        }
        Some(old)
    }

    /// A get while draining, on a dead counter, or in the outermost zone.
    #[cold]
    fn get_odd(&self, old: u64, caller: Caller) {
        if gone(old) {
            // SAFETY: what goes back is what we have just added.
            unsafe { self.put_in_word(caller) };
            misuse::report(Misuse::StaleGet, self, caller);
        } else if count(old) >= PINNED_FROM {
            self.overflow(caller);
        }
    }

    /// Gives a reference back. Wait-free, except after a misuse.
    ///
    /// Everything before it happens before what the winner of a release does next
    /// (`Release`). Linux: `module_put`.
    ///
    /// # Safety
    ///
    /// The caller gives back a reference that it owns. A surplus put is undone and
    /// reported where nobody else moves the count at that moment; otherwise it may
    /// give back another holder's.
    #[inline]
    pub unsafe fn put(&self, caller: Caller) {
        // A plain store. What was done under the reference comes before the sum: the barrier sees to it (P1).
        if self.slots.add::<-1>() {
            return;
        }
        // SAFETY: the caller's promise.
        unsafe { self.put_in_word(caller) };
    }

    /// [`put`](Self::put) where the slots are not to be used, and the undo of a refused get.
    ///
    /// # Safety
    ///
    /// As for [`put`](Self::put).
    #[inline]
    #[doc(hidden)]
    pub unsafe fn put_in_word(&self, caller: Caller) {
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

    /// [`try_get_in_word`](Self::try_get_in_word), and tells the [tool](crate::tool) that watches.
    #[doc(hidden)]
    pub fn try_get_watched(&self, caller: Caller) -> bool {
        let got = self.try_get_in_word(caller);
        if got {
            tool::after(&self.slots);
        }
        got
    }

    /// [`put_in_word`](Self::put_in_word), and tells the [tool](crate::tool) that watches.
    ///
    /// Puts have a name of their own, the word, and what opens a counter has the slots: a put
    /// does not come before later gets.
    ///
    /// # Safety
    ///
    /// As for [`put`](Self::put).
    #[doc(hidden)]
    pub unsafe fn put_watched(&self, caller: Caller) {
        tool::before(&self.word);
        // SAFETY: the caller's promise.
        unsafe { self.put_in_word(caller) };
    }

    /// A put that no get stands behind, or on a pinned count. (In per-CPU mode the word
    /// alone may well be below zero; the next fold has the sum.) A surplus put held nothing, so
    /// that it is not what lets the counter be freed, and I6 does not forbid to touch it; its
    /// caller has to know by other means that the counter exists.
    ///
    /// The surplus is undone by an add, not by restoring what was there: other threads may have
    /// moved the count since. If a get comes between the two, it finds a count that is one too low
    /// for a moment; that changes nothing, because only a count of zero decides anything, and the
    /// owner of an attempt compares the whole word.
    #[cold]
    fn put_slow(&self, new: u64, caller: Caller) {
        if count(new) >= 0 {
            self.pin();
            misuse::report(Misuse::Leaked, self, caller);
        } else if new & PERCPU == 0 || gone(new) {
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
    ///
    /// A count that goes on would wrap to zero in the end, and zero is released. So the count gives
    /// up being exact and stays where neither gets nor puts can carry it out of the zone.
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

    /// References held, without the loader's own; -1 once released. Per CPU the slots are read
    /// one after the other while they change, so that a reference which is given back on one CPU
    /// and taken on another may be counted twice, or not at all. Another
    /// thread may change it at any moment: for people and logs, not for
    /// decisions. Linux: `module_refcount`.
    pub fn count(&self) -> i64 {
        // Relaxed: nothing may be concluded from it.
        let word = self.word.load(Relaxed);
        if gone(word) { -1 } else { held(self.total(word)) as i64 }
    }

    /// `word` with what the slots count, as long as they count. A guess unless the slots
    /// have been off since a barrier.
    pub(crate) fn total(&self, word: u64) -> u64 {
        if word & PERCPU == 0 { word } else { plus(word, self.slots.sum()) }
    }

    /// Whether a release has succeeded and no reinit has followed.
    ///
    /// To know it gives no right to the counter: only the winner may reinit,
    /// destroy or free.
    pub fn is_released(&self) -> bool {
        // Relaxed: as for count.
        released(self.word.load(Relaxed))
    }
}

#[cfg(not(any(loom, interleave)))]
impl Default for Counter {
    fn default() -> Self {
        Self::new()
    }
}
