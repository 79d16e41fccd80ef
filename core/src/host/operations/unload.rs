//! Unloading a module, with Linux's checks in Linux's order: users, state, exit function,
//! references; then GOING, exit, notifiers, dependencies, the mapping, the record. Linux:
//! `delete_module` and `free_module`.

use super::boundary;
use crate::ReleaseError;
use crate::counter::release::pinned;
use crate::counter::word::{DRAINING, count, flags};
use crate::host::error::{Error, errno_text, error, references};
use crate::host::object::locals;
use crate::host::object::resident::{Residency, Unloaded};
use crate::host::presence::{self, Going};
use crate::host::registry::ends;
use crate::host::registry::life::{Found, Left, Life};
use crate::host::registry::list::Resident;
use crate::host::registry::module::Module;
use crate::host::registry::opening::Opening;
use crate::host::registry::record::{Record, State};
use crate::host::registry::track::Holder;
use crate::host::registry::waits::ThreadId;
use crate::host::registry::{Inner, LastUnloaded, Registry};
use crate::host::tombstone::{self, AfterUnload};
use crate::misuse::Caller;
use crate::sync::{self, Deadline, Word};
use crate::tool;
use crate::trace;
use std::mem;
use std::slice;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

/// How to unload a module.
///
/// ```
/// use module_ref::host::Unload;
/// use std::time::Duration;
///
/// let patient = Unload::within(Duration::from_secs(1));
/// let brutal = Unload::now().force();
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Unload {
    /// `None` does not close the module; `Some(None)` waits for ever.
    pub(crate) wait: Option<Option<Duration>>,
    pub(crate) despite: Despite,
}

/// What does not keep a module from being unloaded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Despite {
    /// Holders.
    pub force: bool,
    /// Anybody who stands in it without a reference: the host does not look.
    pub unproven: bool,
}

/// How long to wait for a running thread to sleep, so that it can be looked at: in a call that is about
/// this module, and in one that looks again in passing.
pub(crate) const PATIENCE: Duration = Duration::from_millis(100);
pub(crate) const IN_PASSING: Duration = Duration::from_millis(1);

impl Unload {
    /// Unloads it if nobody holds a reference; otherwise the module stays as it is.
    pub fn now() -> Self {
        Self { wait: None, despite: Despite::default() }
    }

    /// Closes the module and waits for the last reference; after `timeout` the module is live again.
    pub fn within(timeout: Duration) -> Self {
        Self { wait: Some(Some(timeout)), ..Self::now() }
    }

    /// Closes the module and waits for the last reference, however long that takes.
    pub fn waiting() -> Self {
        Self { wait: Some(None), ..Self::now() }
    }

    /// Unloads it even if references are held (once the time is up, if there is a timeout), or if it
    /// has an init function and no exit function; either taints the host. Its code stays mapped until
    /// the last holder has given its reference back.
    #[must_use]
    pub fn force(self) -> Self {
        Self { despite: Despite { force: true, ..self.despite }, ..self }
    }

    /// Unmaps its code without looking for anybody who stands in it, or points into it, without a
    /// reference.
    #[must_use]
    pub fn unproven(self) -> Self {
        Self { despite: Despite { unproven: true, ..self.despite }, ..self }
    }
}

/// Waits between two looks at a closed counter, and says whether to look again.
pub(crate) type Wait<'a> = dyn FnMut(&Word, u64) -> bool + 'a;

/// Sleeps between looks until `timeout` has passed; `None` is never.
pub(crate) fn asleep(timeout: Option<Duration>) -> impl FnMut(&Word, u64) -> bool {
    let mut deadline = Deadline::after(timeout);
    move |word, seen| sync::wait(word, seen, &mut deadline)
}

/// A module that this thread takes out: its state is GOING.
pub(crate) enum Claimed {
    /// Nobody holds it.
    Released,
    /// It is unloaded by force while it is held.
    Forced,
}

/// A module that is to be taken out of service, by the thread whose [`Life::Draining`] it has. Unless
/// that succeeds it is live again when this is dropped.
pub(crate) struct Attempt<'a> {
    pub(crate) host: &'a Registry,
    pub(crate) record: &'a Arc<Record>,
    pub(crate) counter: Stage,
    /// Its `stop_module` has been called, and did not refuse.
    pub(crate) stopped: bool,
    /// References that were put before it was released, and that are their holders' again if it stays: of
    /// the user who closes it, and of those that go with it.
    pub(crate) owes: usize,
}

/// What has become of its counter.
pub(crate) enum Stage {
    Open,
    Closed,
    Released,
}

impl<'a> Attempt<'a> {
    pub(crate) fn new(host: &'a Registry, record: &'a Arc<Record>, counter: Stage) -> Self {
        Self { host, record, counter, stopped: false, owes: 0 }
    }

    /// `stop_module`. By force a refusal is not heeded.
    pub(crate) fn stop(&mut self, force: bool) -> Result<(), Error> {
        let rc = boundary::hook(self.record, "stop_module", |loaded| loaded.stop).unwrap_or(0);
        self.stopped = rc >= 0 || force;
        if self.stopped { Ok(()) } else { Err(self.refusal("stop_module", rc)) }
    }

    /// `can_unload_module`, and then the module is the caller's to end.
    pub(crate) fn succeed(self, force: bool) -> Result<Claimed, Error> {
        self.ask(force)?;
        mem::forget(self);
        Ok(Claimed::Released)
    }

    /// `can_unload_module`.
    pub(crate) fn ask(&self, force: bool) -> Result<(), Error> {
        let rc = boundary::hook(self.record, "can_unload_module", |loaded| loaded.can_unload);
        let rc = rc.unwrap_or(0);
        if rc < 0 && !force { Err(self.refusal("can_unload_module", rc)) } else { Ok(()) }
    }

    fn refusal(&self, function: &str, rc: i32) -> Error {
        boundary::refusal(self.record, "not unloaded", function, Some(rc))
    }

    /// Puts a reference, which is its holder's again if the module stays.
    pub(crate) fn borrow(&mut self) {
        self.owes += 1;
        self.record.put();
    }

    fn run(mut self, force: bool, wait: Option<&mut Wait<'_>>) -> Result<Claimed, Error> {
        if self.drain(force, wait)? {
            return self.succeed(force);
        }
        mem::forget(self);
        Ok(Claimed::Forced)
    }

    /// Closes the counter, and waits for the last reference. False if some are held, which by force does
    /// not matter.
    pub(crate) fn drain(
        &mut self,
        force: bool,
        wait: Option<&mut Wait<'_>>,
    ) -> Result<bool, Error> {
        if wait.is_some() {
            self.record.check_loaded()?;
        }
        let counter = &self.record.counter;
        if let Stage::Open = self.counter {
            let closed = counter.close(Caller::UNKNOWN);
            closed.map_err(|error| not_released(self.record.name(), error.errno()))?;
            self.counter = Stage::Closed;
        }
        self.stop(force)?;
        if let Stage::Closed = self.counter {
            let released = match wait {
                Some(wait) => counter.finish_with(wait),
                None => counter.try_finish(),
            };
            if !released && force {
                return Ok(false);
            } else if !released {
                self.counter = Stage::Open;
                // Zero still wins.
                counter
                    .open_again(Caller::UNKNOWN)
                    .map_err(|held| in_use(self.record, libc::ETIMEDOUT, held))?;
            }
            self.counter = Stage::Released;
        }
        Ok(true)
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        match self.counter {
            Stage::Open => {}
            Stage::Closed => self.record.counter.live_again(),
            Stage::Released => {
                // SAFETY: we have released it.
                let again = unsafe { self.record.counter.reinit() };
                again.expect("nobody else leads it out of that");
            }
        }
        for _ in 0..self.owes {
            assert!(self.record.try_get(Caller::UNKNOWN), "nobody else closes the counter");
        }
        if self.stopped {
            boundary::hook(self.record, "resume_module", |loaded| loaded.resume);
        }
        let mut inner = self.host.lock();
        inner.lives.set_live(self.record);
        self.host.has_changed(&mut inner);
    }
}

impl Registry {
    pub(crate) fn unload(
        &self,
        name: &str,
        despite: Despite,
        mut wait: Option<&mut Wait<'_>>,
        caller: Caller,
    ) -> Result<Unloaded, Error> {
        self.reap();
        let (record, claimed) = self.claim(name, despite.force, wait.as_deref_mut(), caller)?;
        Ok(self.take_out(&record, claimed, despite.unproven, wait))
    }

    /// Why `record` cannot be taken out of service together with `others`, apart from references (U3
    /// to U5).
    pub(crate) fn check_free(
        &self,
        inner: &Inner,
        record: &Record,
        force: bool,
        others: &[Arc<Record>],
    ) -> Result<(), Error> {
        let name = record.name();
        check_not_pinned(record)?;
        let mut users = record.links(inner).used_by.clone();
        users.retain(|user| !others.contains(user));
        if !users.is_empty() {
            return Err(error!(
                libc::EWOULDBLOCK,
                "module '{name}' is needed by {}; unload what needs it first",
                names(&users)
            ));
        }
        if record.state() != State::Live || inner.lives.of(record).is_some() {
            return Err(inner.busy(record));
        }
        if record.is_permanent() && !force {
            return Err(error!(
                libc::EBUSY,
                "module '{name}' has an init_module and no cleanup_module: it is permanent, unless forced"
            ));
        }
        Ok(())
    }

    /// The module of that name, if it can be taken out of service, apart from references (U1 to
    /// U5), and nobody else is at it.
    pub(crate) fn find_free(
        &self,
        inner: &Inner,
        name: &str,
        force: bool,
    ) -> Result<Arc<Record>, Error> {
        let record = self.visible(name)?;
        self.check_free(inner, &record, force, &[])?;
        self.check_not_replaced(inner, &record)?;
        Ok(record)
    }

    /// `EBUSY` if a replacement of it is on its way.
    pub(crate) fn check_not_replaced(&self, inner: &Inner, record: &Record) -> Result<(), Error> {
        if inner.lives.is_replaced(record) {
            let name = record.name();
            return Err(error!(
                libc::EBUSY,
                "a replacement for module '{name}' is being made ready"
            ));
        }
        Ok(())
    }

    /// U1 to U6.
    fn claim(
        &self,
        name: &str,
        force: bool,
        wait: Option<&mut Wait<'_>>,
        caller: Caller,
    ) -> Result<(Arc<Record>, Claimed), Error> {
        let inner = self.lock();
        let record = self.find_free(&inner, name, force)?;
        record.check_outside(caller, "unloaded")?;
        let claimed = self.claim_free(inner, &record, force, wait, false)?;
        Ok((record, claimed))
    }

    /// The same of one that can be taken out of service. `by_user` has a reference, which is put unless
    /// this fails.
    pub(crate) fn claim_free(
        &self,
        mut inner: MutexGuard<'_, Inner>,
        record: &Arc<Record>,
        force: bool,
        wait: Option<&mut Wait<'_>>,
        by_user: bool,
    ) -> Result<Claimed, Error> {
        let by = ThreadId::this();
        // By force it goes, whoever holds it: from here on nobody can come to depend on it.
        let is_tried = wait.is_none();
        let stays_live = is_tried && !force;
        inner.lives.set(record, if stays_live { Life::Trying(by) } else { Life::Draining(by) });
        // All that follows is without the lock, since a misuse may be found, and reported.
        drop(inner);
        let mut attempt = Attempt::new(self, record, Stage::Open);
        if by_user {
            attempt.borrow();
        }
        if is_tried {
            match record.counter.try_release(Caller::UNKNOWN) {
                Ok(()) => attempt.counter = Stage::Released,
                Err(ReleaseError::InUse { .. }) if force => {}
                Err(ReleaseError::InUse { held }) => {
                    return Err(in_use(record, libc::EWOULDBLOCK, held));
                }
                Err(other) => return Err(not_released(record.name(), other.errno())),
            }
            let mut inner = self.lock();
            // It was LIVE meanwhile, and may have been pinned.
            check_not_pinned(record)?;
            inner.lives.set(record, Life::Draining(by));
        }
        let claimed = attempt.run(force, wait)?;
        claimed.note(&mut self.lock(), record);
        Ok(claimed)
    }

    /// U7, by the thread that has claimed the module.
    pub(crate) fn take_out(
        &self,
        record: &Arc<Record>,
        claimed: Claimed,
        unproven: bool,
        wait: Option<&mut Wait<'_>>,
    ) -> Unloaded {
        self.farewell(record);
        let released = matches!(claimed, Claimed::Released);
        let left = Left { released, closed: true, exit: false, unloaded: true, unproven };
        if released { self.end(record, left, wait) } else { self.leave(record, left) }
    }

    /// The exit function, and then the notifiers.
    pub(crate) fn farewell(&self, record: &Arc<Record>) {
        boundary::hook(record, "cleanup_module", |loaded| loaded.exit);
        self.chain.tell(&Module(record.clone()), State::Going);
    }

    /// Gives up what the module depends on, closes its object, and says what came of it. Its
    /// counter is released, by us; and this thread has its turn at opening.
    fn close(&self, record: &Record, after: AfterUnload) -> Unloaded {
        if record.has_come() {
            trace::module::free(record.c_name());
        }
        self.unlink(record);
        let Some(loaded) = record.loaded() else { return Unloaded::Unmapped };
        // SAFETY: the counter is released, so nobody is inside and nobody gets in (H2), and
        // whoever released it closes it, once.
        let (outcome, gone) = unsafe { loaded.object.close(after == AfterUnload::Keep) };
        let is_mapped = outcome != Unloaded::Unmapped;
        loaded.stone.unloaded(&loaded.object.place, is_mapped, &gone, after);
        let linked = loaded.object.linked;
        let mut inner = self.lock();
        inner.objects.remove(&linked);
        if let Unloaded::Resident(why) = &outcome {
            // Its code may use what it was loaded with.
            mem::forget(mem::take(&mut *record.parameters(&inner)));
            let resident = Resident {
                info: record.info(why.number()),
                place: loaded.object.place.clone(),
                has_ended: loaded.exit.is_some(),
            };
            inner.residents.insert(linked, resident);
        }
        outcome
    }

    /// Closes it once nobody is found in what that unmaps. `looked` is in what nobody was found so far;
    /// `None` if nobody is to be looked for. After an error nothing is done: the dynamic linker cannot be had.
    fn close_if_free(
        &self,
        record: &Record,
        after: AfterUnload,
        mut looked: Option<Going>,
    ) -> Result<Result<Unloaded, Found>, Error> {
        loop {
            let opening = record.loaded().map(|_| Opening::begin()).transpose()?;
            // Other unloads may have left this one more to take along since the look. While this thread
            // has its turn at opening, none does.
            let unseen = looked.take_if(|going| grows(going, record));
            let Some(mut going) = unseen else { return Ok(Ok(self.close(record, after))) };
            // The look asks the linker, but need not keep others from it.
            drop(opening);
            let lines = presence::look(slice::from_mut(&mut going), PATIENCE).remove(0);
            if !lines.is_empty() {
                return Ok(Err(Found { lines, going }));
            }
            looked = Some(going);
        }
    }

    /// Waits, as `wait` does, until each thread has ended that the module has started. Whether it has.
    pub(crate) fn threads_end(&self, record: &Record, mut wait: Option<&mut Wait<'_>>) -> bool {
        let mut time_is_left = true;
        loop {
            ends::look_now();
            let (word, seen) = record.threads.word();
            if count(seen) == 0 || !time_is_left {
                tool::after(word);
                return count(seen) == 0;
            }
            time_is_left = wait.as_mut().is_some_and(|wait| wait(word, seen));
        }
    }

    /// Waits, as `wait` does, until nobody holds a module that was left to its holders.
    pub(crate) fn holders_end(&self, record: &Record, wait: &mut Wait<'_>) {
        if record.is_loaded_by_this() {
            return;
        }
        let word = &record.counter.word;
        loop {
            // Relaxed: a look, which decides nothing. Whoever reaps it may have released it.
            let seen = word.load(Relaxed);
            let is_held = flags(seen) == DRAINING && count(seen) != 0 && !pinned(seen);
            if !is_held || !wait(word, seen) {
                return;
            }
        }
    }

    /// The end of a module that nobody holds, or what has to be waited for: its threads, or who is
    /// found in it. Its name is free once its object is closed: before, another load would find the
    /// object still there. If it cannot be closed here, that is left to a later call of the host.
    pub(crate) fn end(
        &self,
        record: &Arc<Record>,
        left: Left,
        wait: Option<&mut Wait<'_>>,
    ) -> Unloaded {
        self.end_looked(record, left, wait, Going::default())
    }

    /// The same of one in which nobody was found: in what would have gone then.
    fn end_looked(
        &self,
        record: &Arc<Record>,
        left: Left,
        wait: Option<&mut Wait<'_>>,
        looked: Going,
    ) -> Unloaded {
        let left = Left { released: true, exit: false, ..left };
        if !self.threads_end(record, wait) {
            return self.leave(record, left);
        }
        let after = self.after_unload();
        let leaves = record.loaded().filter(|_| after != AfterUnload::Keep);
        // Of what was written over no destructor can be run.
        if leaves.is_some_and(|l| !l.object.is_overwritten() && locals::leave(&l.object.place)) {
            return self.leave(record, left);
        }
        // What is not unmapped is in nobody's way.
        let looked = (!left.unproven && after != AfterUnload::Keep).then_some(looked);
        let closed = self.close_if_free(record, after, looked);
        let mut inner = self.lock();
        self.unlist(&mut inner, record);
        let unloaded = left.unloaded;
        let outcome = match closed {
            Ok(Ok(outcome)) => {
                inner.lives.set_gone(record);
                outcome
            }
            Ok(Err(found)) => {
                let lines = found.lines.clone();
                inner.lives.set(record, Life::Found(left, found));
                Unloaded::Resident(Residency::Present { found: lines })
            }
            Err(why) => {
                inner.lives.set(record, Life::Left(left));
                Unloaded::Resident(Residency::Postponed { why: why.to_string() })
            }
        };
        self.has_changed(&mut inner);
        if unloaded {
            let outcome = outcome.clone();
            inner.last_unloaded = Some(LastUnloaded { name: record.name().to_owned(), outcome });
        }
        outcome
    }

    /// Looks again at those that stay for somebody who was found in them, at all in one go.
    fn look_again(&self, patience: Duration, ended: &mut impl FnMut(&Record, &Unloaded)) {
        let is_found = |(_, life): &(_, Life)| matches!(life, Life::Found(..));
        let are_some = self.lock().lives.iter().any(is_found);
        // The look asks the linker, but need not keep others from it.
        if !are_some || Opening::begin().is_err() {
            return;
        }
        let (stay, mut going) = self.lock().lives.take_found();
        let found = match self.after_unload() {
            AfterUnload::Keep => vec![Vec::new(); going.len()],
            _ => {
                for ((record, _), going) in stay.iter().zip(&mut going) {
                    grows(going, record);
                }
                presence::look(&mut going, patience)
            }
        };
        for (((record, left), lines), going) in stay.into_iter().zip(found).zip(going) {
            if lines.is_empty() {
                let outcome = self.end_looked(&record, left, None, going);
                ended(&record, &outcome);
            } else {
                self.lock().lives.set(&record, Life::Found(left, Found { lines, going }));
            }
        }
    }

    /// Takes a module out of the table and leaves its code to those who hold it, or to its threads.
    pub(crate) fn set_aside(&self, record: &Arc<Record>, left: Left) -> Unloaded {
        let unloaded = left.unloaded;
        let life = Life::Left(left);
        let why = Unloaded::Resident(record.with_names(life.residency(record)));
        let mut inner = self.lock();
        if unloaded {
            let name = record.name().to_owned();
            inner.last_unloaded = Some(LastUnloaded { name, outcome: why.clone() });
        }
        // First, because what is UNFORMED stays out of sight.
        self.unlist(&mut inner, record);
        inner.lives.set(record, life);
        self.has_changed(&mut inner);
        why
    }

    /// The same, and ends it if there are none any more.
    pub(crate) fn leave(&self, record: &Arc<Record>, left: Left) -> Unloaded {
        let why = self.set_aside(record, left);
        // Perhaps the last of them has left meanwhile.
        let mut outcome = None;
        self.reap_each(IN_PASSING, |ended, how| {
            if *ended == **record {
                outcome = Some(how.clone());
            }
        });
        outcome.unwrap_or(why)
    }

    /// What every load, unload and replace does first.
    pub(crate) fn reap(&self) {
        self.reap_within(IN_PASSING);
    }

    /// How many are gone from memory, for which a thread that runs is waited for.
    pub(crate) fn reap_within(&self, patience: Duration) -> usize {
        let mut unmapped = 0;
        self.reap_each(patience, |_, how| unmapped += usize::from(*how == Unloaded::Unmapped));
        unmapped + self.close_again()
    }

    /// Closes what the dynamic linker has kept for threads that had thread-local objects of it, once
    /// they have ended.
    fn close_again(&self) -> usize {
        let kept = Residency::ThreadLocalDestructor.number();
        let kept: Vec<_> = {
            let inner = self.lock();
            inner.residents.values().filter(|there| there.info.residency == kept).cloned().collect()
        };
        let mut gone = 0;
        for there in kept {
            // Without our lock, since the linker's is taken.
            if Opening::begin().is_ok_and(|_opening| there.place.close_again()) {
                let mut inner = self.lock();
                if inner.strike(&there) {
                    tombstone::forget(&there.place);
                    gone += 1;
                    let outcome = Unloaded::Unmapped;
                    inner.last_unloaded = Some(LastUnloaded { name: there.info.name, outcome });
                }
            }
        }
        gone
    }

    /// Ends every module that was left to its holders and that nobody holds any more, and every one
    /// in which nobody is found any more.
    fn reap_each(&self, patience: Duration, mut ended: impl FnMut(&Record, &Unloaded)) {
        locals::run();
        ends::look_now();
        let not_closed = self.lock().lives.left(|left| !left.closed);
        // Without the lock: a misuse may be found, and reported.
        for record in not_closed.iter().filter(|record| record.close()) {
            self.lock().lives.set_closed(record);
        }
        if self.end_free(&mut ended) {
            self.look_again(patience, &mut ended);
            // What those needed that have gone now.
            self.end_free(&mut ended);
        }
    }

    /// Ends what was left to its holders and has none any more. False if the dynamic linker cannot be had.
    fn end_free(&self, ended: &mut impl FnMut(&Record, &Unloaded)) -> bool {
        loop {
            let free = self.lock().lives.take_free();
            let Some((record, left)) = free else { return true };
            if left.exit {
                self.farewell(&record);
            }
            let outcome = self.end(&record, left, None);
            ended(&record, &outcome);
            if matches!(outcome, Unloaded::Resident(Residency::Postponed { .. })) {
                return false;
            }
        }
    }
}

/// What the close of a module's object would unmap.
pub(crate) fn going(record: &Record) -> Going {
    let mut going = Going::default();
    grows(&mut going, record);
    going
}

/// Whether the close would unmap more by now, which `going` has from then on. For whoever ends the module.
fn grows(going: &mut Going, record: &Record) -> bool {
    // SAFETY: whoever ends a module closes its object, and has not done so yet.
    record.loaded().is_some_and(|loaded| unsafe { going.renew(&loaded.object) })
}

impl Claimed {
    /// The module is on its way out, by force perhaps.
    pub(crate) fn note(&self, inner: &mut Inner, record: &Arc<Record>) {
        let forced = matches!(self, Self::Forced) || record.is_permanent();
        inner.tainted |= forced;
        inner.lives.set(record, Life::Ending { forced, by: ThreadId::this() });
    }
}

fn check_not_pinned(record: &Record) -> Result<(), Error> {
    record.pinned.get().map_or(Ok(()), |why| {
        Err(error!(libc::EBUSY, "module '{}' stays for good: {why}", record.name()))
    })
}

/// `EWOULDBLOCK` of a look, or `ETIMEDOUT` of a drain.
pub(crate) fn in_use(record: &Record, errno: i32, held: u64) -> Error {
    let (name, number) = (record.name(), held);
    let held = references(number);
    let mut why = if errno == libc::ETIMEDOUT {
        format!(
            "module '{name}' is still in use: {held} when the time was up; it is live again, so \
             try a longer timeout"
        )
    } else {
        // None, if a surplus put stood in the way; the count has been corrected since.
        format!(
            "module '{name}' is in use: {held}; unload it with a timeout to drain them, or see \
             the list of modules"
        )
    };
    let tracked = record.tracked();
    if !tracked.is_empty() {
        let told: Vec<_> = tracked.iter().take(8).map(Holder::text).collect();
        why.push_str(&format!("; held by {}", told.join("; ")));
        let more = [
            (tracked.len() - told.len(), "tracked"),
            ((number as usize).saturating_sub(tracked.len()), "untracked"),
        ];
        for (n, how) in more.into_iter().filter(|(n, _)| *n > 0) {
            why.push_str(&format!("; {n} more, {how}"));
        }
    }
    Error::new(errno, why)
}

pub(crate) fn not_released(name: &str, errno: i32) -> Error {
    error!(
        errno,
        "module '{name}' stays: its counter could not be released: {}; a sandbox that refuses \
             membarrier has to allow it, or load modules with their count in one shared word",
        errno_text(errno)
    )
}

/// The names in a list of modules, for sentences: "'a', 'b' and 3 more".
fn names(modules: &[Arc<Record>]) -> String {
    let named = |record: &Arc<Record>| match record.state() {
        // As what is to replace it, and is bound to it.
        State::Unformed | State::Coming => format!("a new '{}'", record.name()),
        _ => format!("'{}'", record.name()),
    };
    let mut text: Vec<_> = modules.iter().rev().take(3).map(named).collect();
    if modules.len() > 3 {
        text.push(format!("{} more", modules.len() - 3));
    }
    text.join(", ")
}
