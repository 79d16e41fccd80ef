//! How a counter is released: the attempt, the fold, the drain.
//!
//! The invariants are those of [`counter`](crate::counter); P1 to P3 those of
//! [`percpu`](crate::percpu).
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
//!    in, in the one step that also decides; the slots on; and `BASE` last. Before that
//!    nobody else can begin an attempt, and find one that is half undone. While holders are
//!    recorded the slots stay off (P4), and the last step is one to look again (P5).

use crate::counter::word::{
    BASE, CLOSED, DRAINED, DRAINING, PERCPU, PINNED_FROM, count, flags, pack, plus,
};
use crate::counter::{Counter, held};
use crate::error::{DrainError, ReleaseError};
use crate::misuse::{self, Caller, Misuse};
#[cfg(any(feature = "std", loom, interleave))]
use crate::sync;
use crate::sync::Word;
use crate::trace;
use core::mem;
use core::sync::atomic::{AtomicBool, Ordering::*};

/// What the slots held when they were folded, or `None` for a counter without. Whoever
/// has it owns the attempt (I1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Folded(Option<i64>);

/// Why the slots could not be folded.
enum NotFolded {
    /// The barrier failed, with this errno.
    Barrier(i32),
    /// Somebody has put too often; that is mended, and nothing was folded.
    Surplus,
}

/// Whether recording was ever ended in this process. Before that nothing is touched after `BASE`
/// has been given back: another thread may release the counter then, and free it.
static ENDED: AtomicBool = AtomicBool::new(false);

fn ever_ended() -> bool {
    // A model says it of itself: what its executions share has to begin anew with each.
    #[cfg(any(loom, interleave))]
    return sync::RECORDING_ENDS.get();
    // Relaxed: see the store.
    #[cfg(not(any(loom, interleave)))]
    ENDED.load(Relaxed)
}

/// Ends a drain whose `wait` has panicked: the counter is live again. (Not in the
/// models: a checker unwinds a thread to suspend it, or because the model has failed.)
#[cfg_attr(any(loom, interleave), allow(dead_code))]
struct OpenAgain<'a> {
    counter: &'a Counter,
    folded: Folded,
}

#[cfg(not(any(loom, interleave)))]
impl Drop for OpenAgain<'_> {
    fn drop(&mut self) {
        if self.counter.open_again(self.folded).is_ok() {
            // The release succeeded, and there is nobody to be told of it.
            // SAFETY: it is this drain that has won.
            let live = unsafe { self.counter.reinit() };
            live.expect("the winner's reinit");
        }
    }
}

impl Counter {
    /// Becomes the owner of an attempt to release, the first step of every
    /// release.
    pub(crate) fn claim(&self) -> Result<(), ReleaseError> {
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

    /// Brings the whole count into the word (steps 3 and 4). For the owner.
    fn fold(&self, caller: Caller) -> Result<Folded, NotFolded> {
        if !self.slots.exist() {
            return Ok(Folded(None));
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
            // With a surplus the word makes up for what is missing, and stays per-CPU.
            let next = if surplus { pack(flags(word), -sum) } else { total & !PERCPU };
            match self.word.compare_exchange_weak(word, next, Relaxed, Relaxed) {
                Ok(_) if surplus => {
                    misuse::report_net(Misuse::SurplusPut, self, caller, -count(total));
                    return Err(NotFolded::Surplus);
                }
                Ok(_) => return Ok(Folded(Some(sum))),
                Err(now) => word = now,
            }
        }
    }

    /// Gives the attempt up after it could not fold: everything as before.
    fn abandon(&self) {
        self.slots.turn_on();
        // Only the flags of this attempt. Relaxed: `BASE` comes after.
        self.word.fetch_and(!(CLOSED | DRAINING), Relaxed);
        self.give_base_back();
    }

    /// The end of the way back, for the owner of a counter with slots: they are on, unless
    /// holders are recorded, and the counter is live.
    pub(crate) fn open(&self) {
        self.slots.turn_on();
        self.give_base_back();
    }

    /// The last step of every way back, and a look whether it has come in between the beginning
    /// of recording and its end. All of it for an owner that has done nothing yet.
    pub(crate) fn give_base_back(&self) {
        loop {
            // Last (I1). Release pairs with the Acquire of the next claim, and Acquire with the
            // Release of `own_to_open` (P5).
            self.word.fetch_or(BASE, AcqRel);
            if !self.own_to_open() {
                return;
            }
            self.slots.turn_on();
        }
    }

    /// Owns an attempt, only to turn the slots on, if they should be and nobody else owns one.
    fn own_to_open(&self) -> bool {
        // An `and` without a look before it: its place in the order of the word's changes is
        // what counts (P5). Release pairs with the Acquire of an owner that gives `BASE` back
        // after this, Acquire with the Release of one that did before.
        ever_ended() && self.slots.lie_idle() && self.word.fetch_and(!BASE, AcqRel) & BASE != 0
    }

    /// From here on every get and put goes to the word and is recorded, also across releases
    /// and reinits; to the mode of the counter that makes no difference.
    #[cfg_attr(
        not(all(feature = "std", target_os = "linux")),
        allow(dead_code, reason = "nobody records there")
    )]
    pub(crate) fn begin_recording(&self) {
        self.slots.record();
    }

    /// As before `begin_recording`. For a moment it owns an attempt: others are told that
    /// there is one.
    #[cfg_attr(
        not(all(feature = "std", target_os = "linux")),
        allow(dead_code, reason = "nobody records there")
    )]
    pub(crate) fn end_recording(&self) {
        if self.slots.stop_recording() && self.slots.exist() {
            // Relaxed: whoever has to see it sees the step of `own_to_open`, too (P5).
            ENDED.store(true, Relaxed);
            if self.own_to_open() {
                self.open();
            }
        }
    }

    /// Releases the counter if nobody holds a reference, and leaves it as it was
    /// if somebody does. Does not wait.
    ///
    /// After success everything that holders did happens before what follows
    /// (`Acquire`). Linux: `try_release_module_ref`.
    pub fn try_release(&self, caller: Caller) -> Result<(), ReleaseError> {
        let outcome = self.attempt(caller);
        trace::release(self, &outcome);
        outcome
    }

    fn attempt(&self, caller: Caller) -> Result<(), ReleaseError> {
        if self.slots.exist() {
            // The peek. Relaxed: it decides nothing that needs an order.
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
        let folded = match self.fold(caller) {
            Ok(folded) => folded,
            Err(why) => {
                self.abandon();
                return Err(match why {
                    NotFolded::Barrier(errno) => ReleaseError::Barrier { errno },
                    NotFolded::Surplus => ReleaseError::InUse { held: 0 },
                });
            }
        };
        // Relaxed: the exchange decides.
        let mut word = self.word.load(Relaxed);
        loop {
            match self.settle(word, 0, folded) {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(ReleaseError::InUse { held: held(word) }),
                Err(now) => word = now,
            }
        }
    }

    /// The end of an attempt, in one step that decides over flags and count together
    /// (I3): from `gone` to released, from anything else back to live. Says which, or what
    /// the word has become meanwhile.
    fn settle(&self, word: u64, gone: u64, Folded(sum): Folded) -> Result<bool, u64> {
        let next = match sum {
            _ if word == gone => CLOSED,
            None => pack(BASE, count(word)),
            Some(sum) => plus(pack(PERCPU, count(word)), -sum),
        };
        // Acquire pairs with the Release of every put (I5).
        self.word.compare_exchange_weak(word, next, Acquire, Relaxed)?;
        if next != CLOSED && sum.is_some() {
            self.open();
        }
        Ok(word == gone)
    }

    /// Shuts the door and brings the whole count into the word; `settle` ends it, or
    /// `try_finish` for as long as it takes.
    pub(crate) fn shut(&self, caller: Caller) -> Result<Folded, DrainError> {
        self.claim()?;
        self.close(caller)
    }

    /// The rest of `shut`, for the owner of an attempt.
    pub(crate) fn close(&self, caller: Caller) -> Result<Folded, DrainError> {
        // We own the attempt (I1), so shutting the door needs no comparison, and
        // no traffic can make it fail (I8). Relaxed: closing publishes nothing.
        self.word.fetch_or(CLOSED | DRAINING, Relaxed);
        loop {
            match self.fold(caller) {
                Ok(folded) => return Ok(folded),
                // Mended: what is left to count is counted.
                Err(NotFolded::Surplus) => {}
                Err(NotFolded::Barrier(errno)) => {
                    self.abandon();
                    return Err(DrainError::Barrier { errno });
                }
            }
        }
    }

    /// What the slots held when they were folded, for the owner of an attempt that has folded: they
    /// have been off since the barrier, so they still hold it (P1).
    #[cfg(any(all(feature = "std", target_os = "linux"), loom, interleave))]
    pub(crate) fn folded(&self) -> Folded {
        Folded(self.slots.exist().then(|| self.slots.sum()))
    }

    /// Ends an attempt whose door is shut: the counter is live again, and that many references
    /// were held; or released, if the last one has just been put. Zero wins.
    pub(crate) fn open_again(&self, folded: Folded) -> Result<(), u64> {
        // Relaxed: the exchange decides.
        let mut word = self.word.load(Relaxed);
        loop {
            match self.settle(word, DRAINED, folded) {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(held(word)),
                Err(now) => word = now,
            }
        }
    }

    /// Releases the counter if the last reference has been put since it was shut.
    #[cfg_attr(not(feature = "host"), allow(dead_code, reason = "a drain waits"))]
    pub(crate) fn try_finish(&self, folded: Folded) -> bool {
        // Relaxed: the exchange decides.
        let mut word = self.word.load(Relaxed);
        while word == DRAINED {
            match self.settle(word, DRAINED, folded) {
                Ok(released) => return released,
                Err(now) => word = now,
            }
        }
        false
    }

    /// As `try_finish`, again for as long as `wait` says, as in `drain_by`. The door stays shut
    /// either way.
    #[cfg(feature = "host")]
    #[cfg_attr(any(loom, interleave), allow(dead_code, reason = "the host is not modelled"))]
    pub(crate) fn finish_by(
        &self,
        folded: Folded,
        mut wait: impl FnMut(&Word, u64) -> bool,
    ) -> bool {
        let mut waited = trace::Waited::default();
        let released = loop {
            if self.try_finish(folded) {
                break true;
            }
            // Relaxed: a look, which decides nothing.
            let word = self.word.load(Relaxed);
            waited.begin();
            if count(word) >= PINNED_FROM || !wait(&self.word, word) {
                // Zero still wins.
                break self.try_finish(folded);
            }
        };
        let timed_out = || DrainError::TimedOut { held: self.count().max(0) as u64 };
        trace::drain(self, &released.then_some(()).ok_or_else(timed_out), waited);
        released
    }

    /// Shuts the door, then waits for the last reference to be put. `wait` is
    /// called with the word whenever there is still somebody; it sleeps, or not,
    /// and returns whether to look again. Once it has said no the counter becomes
    /// live again, unless the last reference has just gone: zero still wins. A
    /// pinned count is not waited for, because it can never reach zero.
    pub(crate) fn drain_by(
        &self,
        caller: Caller,
        mut wait: impl FnMut(&Word, u64) -> bool,
    ) -> Result<(), DrainError> {
        let mut waited = trace::Waited::default();
        let outcome = self.shut_and_finish(caller, |word, seen| {
            waited.begin();
            wait(word, seen)
        });
        trace::drain(self, &outcome, waited);
        outcome
    }

    fn shut_and_finish(
        &self,
        caller: Caller,
        mut wait: impl FnMut(&Word, u64) -> bool,
    ) -> Result<(), DrainError> {
        let folded = self.shut(caller)?;
        let open_again = OpenAgain { counter: self, folded };
        // Relaxed: the exchange decides.
        let mut word = self.word.load(Relaxed);
        let mut patient = true;
        loop {
            let pinned = count(word) >= PINNED_FROM;
            if word != DRAINED && patient && !pinned {
                patient = wait(&self.word, word);
                // Relaxed: the exchange decides.
                word = self.word.load(Relaxed);
                continue;
            }
            // A wake is only a hint: what counts is that this step finds the word
            // `DRAINED`.
            let released = match self.settle(word, DRAINED, folded) {
                Ok(released) => released,
                Err(now) => {
                    word = now;
                    continue;
                }
            };
            mem::forget(open_again);
            if released {
                return Ok(());
            }
            if pinned {
                misuse::report(Misuse::Leaked, self, caller);
            }
            return Err(DrainError::TimedOut { held: held(word) });
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
