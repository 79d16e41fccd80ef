//! How a counter is released: the attempt, the fold, the drain.
//!
//! The invariants I1 to I8 are those of [`counter`](crate::counter); P1 to P3 those of
//! [`percpu`](crate::percpu).
//!
//! # The steps, in one word
//!
//! 1. Claim: clear `BASE` (I1). Whoever finds it cleared is told `Busy`.
//! 2. Decide, in one exchange: from `OPEN` with a count of zero to released, from any other count
//!    back to live.
//!
//! Gets succeed throughout. Readers of the count notice nothing, because `BASE` is not part of it;
//! in Linux the reference of the loader is, and `module_refcount` shows one too few for a moment.
//!
//! # The steps, in per-CPU mode
//!
//! 1. Peek. If word and slots add up to more than zero somebody held a reference during
//!    the call, and nothing is disturbed: no system call, no write. If nothing moved
//!    meanwhile the sum is exact; if something moved, somebody held one.
//! 2. Claim: clear `BASE` (I1).
//! 3. Turn the slots off; barrier. If it fails, turn them on again (P3).
//! 4. Fold: add the slots' sum to the word, and take `PERCPU` away, in one step.
//! 5. Now the word is all there is, and the rest is the shared-word protocol.
//! 6. The way back is the reverse, in reverse order: the sum out of the word and `PERCPU`
//!    in, in the one step that also decides; the slots on; and `BASE` last. If `BASE` came
//!    earlier another thread could begin an attempt, and find this one half undone.
//!
//! # A drain
//!
//! A drain closes the counter between steps 2 and 3. It ends by one compare-and-swap of the word:
//! [`try_finish`](Counter::try_finish) releases the counter if the last reference has been put, and
//! leaves it closed otherwise; [`open_again`](Counter::open_again) releases it in that case too, and
//! makes it live otherwise.
//! Between closing and ending somebody waits. [`drain`](Counter::drain) sleeps in
//! [`finish_when_drained`](Counter::finish_when_drained), a [handle](super::drain) has a thread that
//! sleeps, and the host leaves a module closed for as long as it is held.

use crate::counter::word::{
    BASE, DRAINED, DRAINING, LIVE, OPEN, PERCPU, PINNED_FROM, RELEASED, count, flags, pack, plus,
};
use crate::counter::{Counter, held};
use crate::error::{DrainError, ReleaseError};
use crate::misuse::{self, Caller, Misuse};
#[cfg(any(feature = "std", loom, interleave))]
use crate::sync;
use crate::sync::Word;
use crate::tool;
use crate::trace;
use core::mem;
use core::sync::atomic::Ordering::*;

/// Why the slots could not be folded.
enum NotFolded {
    /// The barrier failed, with this errno.
    Barrier(i32),
    /// Somebody has put too often while the counter is open. The count has been corrected.
    Surplus,
}

/// Why a watcher makes the descriptor readable. In the first case it may have to do so again, if
/// the count goes up and down once more; in the second one it ends.
#[cfg(any(all(feature = "std", target_os = "linux"), loom, interleave))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ring {
    /// The count is zero.
    Drained,
    /// The time is up, or the count is pinned.
    GiveUp,
}

/// Ends a drain whose `wait` has panicked: the counter is live again. Otherwise it would stay
/// closed for ever, with an owner who is gone. (Not in the models: a checker unwinds a thread to
/// suspend it, or because the model has failed.)
#[cfg_attr(any(loom, interleave), allow(dead_code))]
struct LiveOnPanic<'a>(&'a Counter);

#[cfg(not(any(loom, interleave)))]
impl Drop for LiveOnPanic<'_> {
    fn drop(&mut self) {
        self.0.live_again();
    }
}

/// Whether the count is pinned, so that no put can bring it to zero. A drain that waited for that would wait
/// for ever, so it reports the leak and gives up at once.
pub(crate) fn pinned(word: u64) -> bool {
    count(word) >= PINNED_FROM
}

impl Counter {
    /// Becomes the owner of an attempt to release, the first step of every
    /// release.
    ///
    /// If two threads come here at once, one `fetch_and` finds `BASE` and the other does not: the
    /// word orders them. The loser has changed nothing, because clearing a bit that is clear
    /// changes nothing.
    fn claim(&self) -> Result<(), ReleaseError> {
        // Look first: a refused attempt writes nothing. Relaxed, as in try_get.
        let seen = self.word.load(Relaxed);
        if seen & BASE == 0 {
            return Err(ReleaseError::unclaimed(seen));
        }
        // An `and`, not a subtraction, which on a word without `BASE` would
        // borrow and set flags (I1). Acquire pairs with the Release that gave `BASE`
        // back: the last attempt's slots are on before this one turns them off.
        let old = self.word.fetch_and(!BASE, Acquire);
        if old & BASE == 0 {
            return Err(ReleaseError::unclaimed(old));
        }
        Ok(())
    }

    /// Brings the whole count into the word (steps 3 and 4 of per-CPU mode). For the owner.
    ///
    /// Before the barrier a get may still read the tag as set and add to its slot. After it there
    /// are two cases for each such get (P1): if its add came before the barrier, the sum below
    /// has it; if the get was aborted or began later, it finds the tag cleared and goes through the
    /// word. So the sum does not move any more, and word and sum add up to every reference.
    ///
    /// The sum and the word are joined in one exchange. If a get or a put goes through the word
    /// between our look and the exchange, the exchange fails and takes the new word.
    ///
    /// # A total below zero
    ///
    /// It means that somebody has put more often than anybody got. An attempt on an open counter
    /// puts that right and gives up: the word makes up for what is missing, so that word and
    /// slots add up to zero, and the next attempt succeeds. A drain has closed the counter, and
    /// must end within its time whatever others do; it goes on with a count of zero.
    fn fold(&self, caller: Caller) -> Result<(), NotFolded> {
        if !self.slots.exist() {
            return Ok(());
        }
        self.slots.turn_off();
        self.slots.barrier().map_err(NotFolded::Barrier)?;
        let sum = self.slots.sum();
        // Relaxed: the step that finds the counter released acquires the puts that
        // went through the word; the barrier has brought those through slots (P1).
        let mut word = self.word.load(Relaxed);
        loop {
            let total = plus(word, sum);
            let surplus = count(total) < 0;
            let closed = word & OPEN == 0;
            let next = match surplus {
                false => total & !PERCPU,
                // A drain must end, so it goes on with a count of zero.
                true if closed => pack(flags(word) & !PERCPU, 0),
                // The word makes up for what is missing, and stays per-CPU.
                true => pack(flags(word), -sum),
            };
            match self.word.compare_exchange_weak(word, next, Relaxed, Relaxed) {
                Ok(_) if surplus => {
                    misuse::report_net(Misuse::SurplusPut, self, caller, -count(total));
                    return if closed { Ok(()) } else { Err(NotFolded::Surplus) };
                }
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }

    /// The end of the way back, for the owner of a counter with slots: the tag, and then `BASE`.
    ///
    /// Between the step before this one and the tag, gets go through the word although `PERCPU`
    /// says that the word alone says nothing. That is right: word and slots both count (P3).
    ///
    /// The order matters. If `BASE` came first, another thread could claim the counter, turn the
    /// slots off and fold them; our `turn_on` would then set the tag under its feet, and gets
    /// would count in slots that it has already summed.
    pub(super) fn unclaim(&self) {
        self.slots.turn_on();
        // Last (I1). Release pairs with the Acquire of the next claim.
        self.word.fetch_or(BASE, Release);
    }

    /// Releases the counter if nobody holds a reference, and leaves it as it was
    /// if somebody does. Does not wait.
    ///
    /// After success everything that holders did happens before what follows
    /// (`Acquire`). Linux: `try_release_module_ref`.
    ///
    /// The counter stays open while this looks, so that under steady traffic every attempt may
    /// find somebody. A [`drain`](Self::drain) closes it first, and ends.
    pub fn try_release(&self, caller: Caller) -> Result<(), ReleaseError> {
        let outcome = self.attempt(caller);
        trace::release(self, &outcome);
        outcome
    }

    fn attempt(&self, caller: Caller) -> Result<(), ReleaseError> {
        if self.slots.exist() {
            // The peek. A total above zero is true of some moment of this call, if only because
            // a reference moved between two slots while we read them; then the attempt would
            // have failed at that moment, too. Relaxed: it decides nothing that needs an order.
            let word = self.word.load(Relaxed);
            if word & BASE == 0 {
                return Err(ReleaseError::unclaimed(word));
            }
            let held = held(self.total(word));
            if held > 0 {
                return Err(ReleaseError::InUse { held });
            }
        }
        self.claim()?;
        self.fold(caller).map_err(|why| {
            self.unclaim();
            match why {
                NotFolded::Barrier(errno) => ReleaseError::Barrier { errno },
                NotFolded::Surplus => ReleaseError::InUse { held: 0 },
            }
        })?;
        self.end(Some(OPEN)).map_err(|held| ReleaseError::InUse { held })
    }

    /// Ends an attempt, which another thread may have begun. If the word is `empty`, the counter is released;
    /// otherwise it is live again, and the error is how many references are held. It loops only while other
    /// threads move the count: each round fails because one of them has made progress.
    fn end(&self, empty: Option<u64>) -> Result<(), u64> {
        // Relaxed: the exchange decides.
        let mut word = self.word.load(Relaxed);
        loop {
            match self.settle(word, empty) {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(held(word)),
                Err(now) => word = now,
            }
        }
    }

    /// The end of an attempt, in one step that decides over flags and count together
    /// (I3): from `empty`, if that is given, to released, from anything else back to live. Says
    /// which, or what the word has become meanwhile.
    ///
    /// On the way back of a counter with slots this step takes their sum out of the word again and
    /// sets `PERCPU`, so that from the same moment on the word alone says nothing. They have been
    /// off since the barrier, so they still hold what was folded (P1).
    fn settle(&self, word: u64, empty: Option<u64>) -> Result<bool, u64> {
        let released = Some(word) == empty;
        if !released {
            tool::before(&self.slots);
        }
        let next = if released { RELEASED } else { self.unfolded(word) };
        // Acquire pairs with the Release of every put (I5). Release, on the way back, pairs with
        // the Acquire of gets: what the drainer did while the counter was closed is seen.
        self.word.compare_exchange_weak(word, next, AcqRel, Relaxed)?;
        if released {
            tool::after(&self.word);
        } else if self.slots.exist() {
            self.unclaim();
        }
        Ok(released)
    }

    /// The word of a counter that opens, which is the last step of a drain that gives up and the
    /// first of a reinit, with the count of `word`: live in one word; per CPU still
    /// claimed, and less what the slots hold.
    pub(super) fn unfolded(&self, word: u64) -> u64 {
        if self.slots.exist() {
            plus(pack(OPEN | PERCPU, count(word)), -self.slots.sum())
        } else {
            pack(LIVE, count(word))
        }
    }

    /// Closes the counter and brings the whole count into the word. To be ended with `open_again` or
    /// `live_again`; or with `try_finish`, called until it says true.
    ///
    /// The counter is closed before the slots are turned off. So a get that finds the tag cleared
    /// goes to the word, finds it closed, and is refused: from the first step of a drain on the
    /// number of references only falls, except for holders who take one more.
    pub(crate) fn close(&self, caller: Caller) -> Result<(), DrainError> {
        self.claim()?;
        // We own the attempt (I1), so closing needs no comparison, and no traffic can make
        // it fail (I8). Relaxed: closing publishes nothing.
        self.word.fetch_xor(OPEN | DRAINING, Relaxed);
        self.fold(caller).map_err(|why| {
            let NotFolded::Barrier(errno) = why else { unreachable!("mended, since it is closed") };
            // Relaxed: `BASE` comes after.
            self.word.fetch_xor(OPEN | DRAINING, Relaxed);
            self.unclaim();
            DrainError::Barrier { errno }
        })
    }

    /// Ends a drain. The counter is live again, and the error is how many references are held; or it is
    /// released, if the last one has just been put.
    ///
    /// Zero wins: if the time runs out just as the last reference is put, the drain succeeds. "Timed out"
    /// would be true of the clock and false of the counter.
    pub(crate) fn open_again(&self, caller: Caller) -> Result<(), u64> {
        self.end(Some(DRAINED)).inspect_err(|&held| {
            if held >= PINNED_FROM as u64 {
                misuse::report(Misuse::Leaked, self, caller);
            }
        })
    }

    /// Ends a drain: the counter is live, whether or not the last reference has been put. It is released at
    /// no moment in between.
    pub(crate) fn live_again(&self) {
        let _held = self.end(None);
    }

    /// Ends a drain if the last reference has been put: the counter is released. It stays
    /// closed otherwise.
    ///
    /// The owner of the drain may call it again and again: only a success changes anything.
    pub(crate) fn try_finish(&self) -> bool {
        // Relaxed: the exchange decides.
        let mut word = self.word.load(Relaxed);
        while word == DRAINED {
            match self.settle(word, Some(DRAINED)) {
                Ok(released) => return released,
                Err(now) => word = now,
            }
        }
        false
    }

    /// Releases the counter once the last reference has been put, and returns true; false once
    /// `wait` has returned false, or if the count is pinned and can never reach zero. `wait` is called
    /// with the word whenever the count is not zero; it sleeps, or not, and says whether to look
    /// again.
    ///
    /// A count of zero can go up again for a moment, by a get that looked before the counter was
    /// closed and adds only now. If its add comes before our exchange, the exchange fails, and we
    /// wait for its undo, which wakes us (I7). To take such a count for a holder would end the
    /// drain as if its time were up.
    pub(crate) fn finish_when_drained(&self, mut wait: impl FnMut(&Word, u64) -> bool) -> bool {
        while !self.try_finish() {
            // Relaxed: a look, which decides nothing.
            let word = self.word.load(Relaxed);
            if pinned(word) || word != DRAINED && !wait(&self.word, word) {
                return false;
            }
        }
        true
    }

    /// What the watcher of a [handle](super::drain) does: it rings whenever the count is zero, and
    /// once more when the drain is hopeless; then, or when it is told to stop, it ends. It decides
    /// nothing (D1).
    ///
    /// It asks whether to stop after each look at the word. If it is told so before it asks, it
    /// ends. If it is told so after, it may sleep once more, on a word that looks as before;
    /// therefore whoever ends it wakes it again until it has ended.
    #[cfg(any(all(feature = "std", target_os = "linux"), loom, interleave))]
    pub(crate) fn watch(
        &self,
        stop: impl Fn() -> bool,
        ring: impl Fn(Ring),
        mut deadline: sync::Deadline,
    ) {
        loop {
            // Relaxed: a look, which decides nothing.
            let word = self.word.load(Relaxed);
            if stop() {
                return;
            }
            if word == DRAINED {
                ring(Ring::Drained);
            }
            if pinned(word) || !sync::wait(&self.word, word, &mut deadline) {
                return ring(Ring::GiveUp);
            }
        }
    }

    /// As `drain_with`, by the owner of a drain, which leaves the counter closed if it is not
    /// released: for a module that is replaced, or unloaded by force. Its holders go on, nobody
    /// new gets in, and the host looks again later.
    #[cfg(all(feature = "host", target_os = "linux", target_env = "gnu"))]
    #[cfg_attr(any(loom, interleave), allow(dead_code, reason = "the host is not modelled"))]
    pub(crate) fn finish_with(&self, mut wait: impl FnMut(&Word, u64) -> bool) -> bool {
        let mut waited = trace::Waited::default();
        let released = self.finish_when_drained(|word, seen| {
            waited.begin();
            wait(word, seen)
        });
        // Zero still wins.
        let released = released || self.try_finish();
        let timed_out = || DrainError::TimedOut { held: self.count().max(0) as u64 };
        trace::drain(self, &released.then_some(()).ok_or_else(timed_out), waited);
        released
    }

    /// Closes the counter and waits for the last reference to be put, as `finish_when_drained`
    /// does. Once `wait` has said no the counter becomes live again, unless the last
    /// reference has just gone: zero still wins.
    pub(crate) fn drain_with(
        &self,
        caller: Caller,
        mut wait: impl FnMut(&Word, u64) -> bool,
    ) -> Result<(), DrainError> {
        let mut waited = trace::Waited::default();
        let outcome = self.close(caller).and_then(|()| {
            let on_panic = LiveOnPanic(self);
            let released = self.finish_when_drained(|word, seen| {
                waited.begin();
                wait(word, seen)
            });
            mem::forget(on_panic);
            if released {
                return Ok(());
            }
            self.open_again(caller).map_err(|held| DrainError::TimedOut { held })
        });
        trace::drain(self, &outcome, waited);
        outcome
    }

    /// Closes the counter and sleeps until the last reference is put, or until `timeout`
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

    /// As `drain_with`, asleep between looks, until `deadline`.
    #[cfg(any(feature = "std", loom, interleave))]
    pub(crate) fn drain_until(
        &self,
        caller: Caller,
        mut deadline: sync::Deadline,
    ) -> Result<(), DrainError> {
        self.drain_with(caller, |word, seen| sync::wait(word, seen, &mut deadline))
    }
}
