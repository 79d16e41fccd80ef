//! Replacing modules by other objects, also by the same files with other content.
//!
//! Usually the new ones are opened, initialised and published before the old ones are let go:
//! whoever looks a name up finds the one or the other, and never neither. Until they are published
//! any failure leaves the old ones in service.
//!
//! A plugin that owns what there is once (a port, a device, a state) is stopped first. Then the steps are:
//!
//! | step | if it fails |
//! | --- | --- |
//! | the new ones are opened | nothing has happened to the old ones |
//! | the old ones are closed, stopped, drained and asked, users first | they are open again, and resume |
//! | each saves, and its exit function runs, users first | those whose has not run resume; the others are brought up again |
//! | each new one's init function runs, and it restores, providers first | the old ones are brought up again |
//! | the names are switched | |
//!
//! An old one stays loaded until the names are switched. To *bring it up again* is to reset its counter and run
//! its init function a second time, in the same object and with the same record, and then to have it restore
//! what it has saved itself.

use super::boundary;
use super::saved::Saved;
use super::unload::{Attempt, Stage, Wait, asleep};
use crate::host::error::{Error, error};
use crate::host::object::linked::{Hidden, Linked};
use crate::host::object::open::{self, Found};
use crate::host::object::resident::Unloaded;
use crate::host::registry::life::{Left, Life, Loading};
use crate::host::registry::module::{Module, Reference};
use crate::host::registry::opening::Opening;
use crate::host::registry::record::{Record, State};
use crate::host::registry::waits::{ThreadId, Waiting};
use crate::host::registry::{Inner, Registry};
use crate::misuse::Caller;
use crate::sync::Word;
use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How to replace modules.
///
/// ```
/// use module_ref::host::Replace;
/// use std::time::Duration;
///
/// let with_its_state = Replace::within(Duration::from_secs(1)).stop_first();
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Replace {
    /// `None` waits for ever.
    pub(crate) timeout: Option<Duration>,
    pub(crate) stop_first: bool,
}

impl Replace {
    /// Waits for the old modules' references, for this long in all.
    pub fn within(timeout: Duration) -> Self {
        Self { timeout: Some(timeout), stop_first: false }
    }

    /// Waits for the old modules' references, however long that takes.
    pub fn waiting() -> Self {
        Self { timeout: None, stop_first: false }
    }

    /// Ends the old modules before the new ones begin. The new ones go on with what the old ones saved: see [`Host::replace_set`](crate::host::Host::replace_set).
    #[must_use]
    pub fn stop_first(self) -> Self {
        Self { stop_first: true, ..self }
    }

    pub(crate) fn asleep(self) -> impl FnMut(&Word, u64) -> bool {
        asleep(self.timeout)
    }
}

/// Modules that are replaced in one step, providers before those that depend on them.
struct Set<'a> {
    host: &'a Registry,
    old: &'a [Arc<Record>],
    new: &'a [Arc<Record>],
}

/// An old one that has been stopped.
struct Stopped<'a> {
    /// Until its exit function is called: dropped, it goes on to serve.
    attempt: Option<Attempt<'a>>,
    saved: Option<Saved>,
}

/// What is left to do with one that has been stopped and whose exit function was called.
const ENDED: Left =
    Left { released: true, closed: true, exit: false, unloaded: true, unproven: false };

impl Registry {
    /// `wait` begins when the first of the old ones is closed. Returns what became of each.
    ///
    /// # Safety
    ///
    /// As for `Host::load_with`.
    pub(crate) unsafe fn replace<W: FnMut(&Word, u64) -> bool>(
        self: &Arc<Self>,
        wanted: &[(&str, &Path)],
        stop_first: bool,
        wait: impl FnOnce() -> W,
        caller: Caller,
    ) -> Result<Vec<Unloaded>, Error> {
        self.reap();
        self.check_residents_fit()?;
        wanted.iter().for_each(|(name, _)| self.request(name));
        // Report ENOENT or EBUSY of the old modules before looking at the new files.
        for old in self.find_set(&self.lock(), wanted)? {
            old.check_outside(caller, "replaced")?;
        }
        let mut found = Vec::new();
        for (_, path) in wanted {
            found.push(open::find(path)?);
        }
        let mut new = Vec::new();
        let (old, order) = {
            let mut inner = self.lock();
            let old = self.find_set(&inner, wanted)?;
            for ((name, path), (old, found)) in wanted.iter().zip(old.iter().zip(&found)) {
                let how = old.how.clone();
                if found.no_delete() && !how.deletable {
                    new.push(Err(never_goes(name, path)));
                    continue;
                }
                new.push(self.begin_loading(&mut inner, name, path, how, found.soname()));
            }
            let order = providers_first(&inner, &old, &found);
            (old, order)
        };
        let (mut begun, mut failed) = (Vec::new(), None);
        for new in new {
            new.map_or_else(|error| failed = Some(error), |new| begun.push(new));
        }
        if let Some(error) = failed {
            return Err(begun.iter().fold(error, |error, new| self.clear_away(new, false, error)));
        }
        self.lock().lives.load_together(&begun);
        let in_order = |records: &[Arc<Record>]| -> Vec<_> {
            order.iter().map(|&at| records[at].clone()).collect()
        };
        let set = Set { host: self, old: &in_order(&old), new: &in_order(&begun) };
        let mut found: Vec<_> = found.into_iter().map(Some).collect();
        let found = order.iter().map(|&at| found[at].take().expect("each is there once")).collect();
        // SAFETY: the caller's promise.
        let outcomes = unsafe {
            if stop_first { set.stop_and_replace(found, wait) } else { set.replace(found, wait) }
        }?;
        let at = |n| order.iter().position(|&at| at == n).expect("each is there once");
        Ok((0..order.len()).map(|n| outcomes[at(n)].clone()).collect())
    }

    /// The modules of these names, if they can be replaced together.
    fn find_set(&self, inner: &Inner, wanted: &[(&str, &Path)]) -> Result<Vec<Arc<Record>>, Error> {
        if wanted.is_empty() {
            return Err(Error::new(libc::EINVAL, "a set of replacements has to name a module"));
        }
        let mut old = Vec::new();
        for (name, _) in wanted {
            let record = self.visible(name)?;
            if old.contains(&record) {
                return Err(error!(libc::EINVAL, "module '{name}' is in the set twice"));
            }
            old.push(record);
        }
        for record in &old {
            self.check_free(inner, record, false, &old)?;
            self.check_not_replaced(inner, record)?;
        }
        Ok(old)
    }

    /// The live module of that name, with a reference. What a thread does with that name is waited for.
    pub(crate) fn find_get_wait(
        &self,
        name: &str,
        timeout: Option<Duration>,
        caller: Caller,
    ) -> Result<Reference, Error> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut waiting = Waiting::until(deadline);
        loop {
            if let Some(found) = self.find_get(name, caller) {
                return Ok(found);
            }
            let inner = self.lock();
            let Some(record) = self.table().get(name).cloned() else {
                return Err(self.visible(name).expect_err("it is not in the table"));
            };
            let by = match inner.lives.of(&record) {
                // It has come into service since we looked.
                None => continue,
                Some(life) => life.thread(),
            };
            let Some(by) = by.filter(|by| !by.is_left_behind()) else {
                return Err(inner.busy(&record));
            };
            record.check_outside(caller, "waited for")?;
            self.wait_for_change(inner, by, name, &mut waiting)?;
        }
    }
}

/// The order in which modules are to come: by what the old ones depend on, and the new files need.
fn providers_first(inner: &Inner, old: &[Arc<Record>], found: &[Found]) -> Vec<usize> {
    let uses = |user: usize, provider: usize| old[user].links(inner).uses.contains(&old[provider]);
    let needs = |user: usize, provider: usize| {
        let soname = found[provider].soname();
        user != provider && found[user].needed().iter().any(|name| name.to_bytes() == soname)
    };
    let mut left: Vec<_> = (0..old.len()).collect();
    let mut order = Vec::new();
    while !left.is_empty() {
        let is_next = |at: &usize, needs: &dyn Fn(usize, usize) -> bool| {
            !left.iter().any(|&other| uses(*at, other) || needs(*at, other))
        };
        // No circle of old ones has come to be.
        let next = left.iter().find(|at| is_next(at, &needs));
        let next = *next.or(left.iter().find(|at| is_next(at, &|_, _| false))).expect("no circle");
        left.retain(|&at| at != next);
        order.push(next);
    }
    order
}

impl Set<'_> {
    /// # Safety
    ///
    /// As for `Host::load_with`.
    unsafe fn replace<W: FnMut(&Word, u64) -> bool>(
        &self,
        found: Vec<Found>,
        wait: impl FnOnce() -> W,
    ) -> Result<Vec<Unloaded>, Error> {
        let mut up = 0;
        let come = |new: &Arc<Record>| {
            self.host.come(new, None)?;
            up += 1;
            Ok(())
        };
        // SAFETY: the caller's promise.
        let opened = unsafe { self.open(found, come) };
        let switched = opened.and_then(|hidden| {
            // Somebody may depend on them by now.
            self.switch(|inner| self.check_free(inner))?;
            Ok(hidden)
        });
        match switched {
            Ok(hidden) => hidden.into_iter().for_each(Hidden::for_good),
            Err(error) => {
                self.take_down(up);
                return Err(self.serve_on(self.clear_away(error)));
            }
        }
        self.new.iter().for_each(|new| self.host.is_in_service(new));
        let mut wait = until_it_is_up(wait());
        Ok(self.users_first(|old| self.host.let_go(old, &mut wait)))
    }

    /// The same, and the old ones end before the new ones begin.
    ///
    /// # Safety
    ///
    /// As for `Host::load_with`.
    unsafe fn stop_and_replace<W: FnMut(&Word, u64) -> bool>(
        &self,
        found: Vec<Found>,
        wait: impl FnOnce() -> W,
    ) -> Result<Vec<Unloaded>, Error> {
        // SAFETY: the caller's promise.
        let opened = unsafe { self.open(found, |_| Ok(())) };
        let hidden = opened.map_err(|error| self.serve_on(self.clear_away(error)))?;
        let mut wait = until_it_is_up(wait());
        let (mut stopped, mut up) = (Vec::new(), 0);
        let done = (|| {
            self.stop(&mut stopped, &mut wait)?;
            self.save_and_end(&mut stopped, &mut wait)?;
            for (new, old) in self.new.iter().zip(&stopped) {
                self.host.come(new, old.saved.as_ref())?;
                up += 1;
            }
            self.switch(|_| Ok(()))
        })();
        if let Err(error) = done {
            // Before the old ones, of which one may go.
            drop(hidden);
            self.take_down(up);
            return Err(self.clear_away(self.bring_back(stopped, error)));
        }
        hidden.into_iter().for_each(Hidden::for_good);
        self.new.iter().for_each(|new| self.host.is_in_service(new));
        self.forget_users(self.old.iter());
        Ok(self.users_first(|old| self.host.end(old, ENDED, Some(&mut wait))))
    }

    /// Opens the new ones, so that each is bound to those before it, and does `then` with each.
    ///
    /// # Safety
    ///
    /// As for `Host::load_with`.
    unsafe fn open(
        &self,
        found: Vec<Found>,
        mut then: impl FnMut(&Arc<Record>) -> Result<(), Error>,
    ) -> Result<Vec<Hidden>, Error> {
        let mut hidden = Vec::new();
        if self.old.len() > 1 {
            let _opening = Opening::begin()?;
            let loaded = self.old.iter().filter_map(|old| old.loaded());
            // SAFETY: nobody else unloads what is being replaced.
            hidden.extend(loaded.map(|loaded| unsafe { Hidden::of(&loaded.object.place) }));
        }
        for (new, found) in self.new.iter().zip(found) {
            // SAFETY: the caller's promise.
            unsafe { self.host.open(new, found)? };
            // The dynamic linker alone may have known which file that is.
            if new.loaded().expect("it is open").object.facts.no_delete && !new.how.deletable {
                return Err(never_goes(new.name(), &new.path));
            }
            self.check_bound(new, &hidden)?;
            then(new)?;
        }
        Ok(hidden)
    }

    /// Refuses a new one that needs a library which is no module, and is bound to an old one.
    fn check_bound(&self, new: &Record, hidden: &[Hidden]) -> Result<(), Error> {
        let linked = new.loaded().expect("it is open").object.linked;
        // SAFETY: it is open.
        let (_, others) = unsafe { self.host.bound(linked) };
        let is_bound = |library: &Linked| hidden.iter().any(|old| old.users.contains(library));
        others.into_iter().find(is_bound).map_or(Ok(()), |library| {
            Err(error!(
                libc::EWOULDBLOCK,
                "module '{}' was not replaced: the new one needs '{}', which is no module, and is bound to an \
                 old one of the set",
                new.name(),
                // SAFETY: the new one keeps it.
                unsafe { library.path() }.display()
            ))
        })
    }

    fn check_free(&self, inner: &Inner) -> Result<(), Error> {
        self.old.iter().try_for_each(|old| self.host.check_free(inner, old, false, self.old))
    }

    /// Puts the new ones in the place of the old ones, if `admit` lets them.
    fn switch(&self, admit: impl FnOnce(&Inner) -> Result<(), Error>) -> Result<(), Error> {
        let mut inner = self.host.lock();
        admit(&inner)?;
        // Before they are published: nobody finds a replacement that is COMING.
        self.new.iter().for_each(|new| new.set_state(State::Live));
        self.host.enlist(&mut inner, self.new);
        // After that: a lookup that finds an old one GOING looks again, and finds the new one. It is
        // kept for its holders (H1), and for us to end.
        for old in self.old {
            inner.lives.set(old, Life::Ending { forced: false, by: ThreadId::this() });
        }
        self.new.iter().for_each(|new| inner.lives.set_live(new));
        self.host.has_changed(&mut inner);
        Ok(())
    }

    /// What becomes of each old one, in the order of the set.
    fn users_first(&self, end: impl FnMut(&Arc<Record>) -> Unloaded) -> Vec<Unloaded> {
        let mut outcomes: Vec<_> = self.old.iter().rev().map(end).collect();
        outcomes.reverse();
        outcomes
    }

    /// Closes the old ones, waits until nobody holds them, and asks them.
    fn stop<'a>(
        &'a self,
        stopped: &mut Vec<Stopped<'a>>,
        wait: &mut Wait<'_>,
    ) -> Result<(), Error> {
        {
            let mut inner = self.host.lock();
            self.check_free(&inner)?;
            for old in self.old {
                inner.lives.set(old, Life::Draining(ThreadId::this()));
                let attempt = Some(Attempt::new(self.host, old, Stage::Open));
                stopped.push(Stopped { attempt, saved: None });
            }
        }
        for (at, old) in self.old.iter().enumerate().rev() {
            let attempt = stopped[at].attempt.as_mut().expect("it has not ended");
            attempt.drain(false, Some(wait))?;
            attempt.ask(false)?;
            // The modules of the set that it depends on have to be drained too, so its references on them
            // are put.
            let uses = old.links(&self.host.lock()).uses.clone();
            for (provider, stopped) in self.old.iter().zip(&mut *stopped) {
                if uses.contains(provider) {
                    stopped.attempt.as_mut().expect("it has not ended").borrow();
                }
            }
        }
        Ok(())
    }

    /// Has each old one save, and calls its exit function.
    fn save_and_end(&self, stopped: &mut [Stopped<'_>], wait: &mut Wait<'_>) -> Result<(), Error> {
        for (old, stopped) in self.old.iter().zip(stopped).rev() {
            stopped.saved = Saved::of(old)?;
            mem::forget(stopped.attempt.take());
            self.host.farewell(old);
            self.host.threads_end(old, Some(wait));
        }
        Ok(())
    }

    /// Calls the exit functions of the first new ones, whose init functions have been called.
    fn take_down(&self, up: usize) {
        for new in self.new[..up].iter().rev() {
            self.host.set_state(new, State::Going);
            self.host.farewell(new);
        }
    }

    /// Removes the new ones, which did not get into service. If one of a set stays mapped, because somebody is
    /// found in it, it is hidden, so that those of the next set are not bound to it.
    fn clear_away(&self, error: Error) -> Error {
        if let Some(Ok(_opening)) = (self.new.len() > 1).then(Opening::begin) {
            let objects =
                self.new.iter().filter_map(|new| new.loaded()).map(|loaded| &loaded.object);
            for object in objects.filter(|object| !object.was_loaded) {
                // SAFETY: it has not been closed.
                unsafe { Hidden::of(&object.place) }.for_good();
            }
        }
        self.new.iter().rev().fold(error, |error, new| self.host.clear_away(new, false, error))
    }

    /// The same, and says what has become of the old ones.
    fn serve_on(&self, error: Error) -> Error {
        let old = match self.old.len() {
            1 => "the old one serves",
            _ => "all old ones serve",
        };
        error!(error.errno(), "{error}; nothing was replaced: {old} on")
    }

    /// Has the old ones resume, or brings them up again, if their exit functions were called.
    fn bring_back(&self, stopped: Vec<Stopped<'_>>, mut error: Error) -> Error {
        let mut lost: Vec<(&Arc<Record>, Option<Error>)> = Vec::new();
        for (old, Stopped { attempt, saved }) in self.old.iter().zip(stopped) {
            if attempt.is_some() {
                drop(attempt);
                continue;
            }
            let uses = old.links(&self.host.lock()).uses.clone();
            let needs_lost = lost.iter().any(|(provider, _)| uses.contains(provider));
            if needs_lost {
                lost.push((old, None));
            } else if let Err(why) = self.bring_up_again(old, saved.as_ref()) {
                lost.push((old, Some(why)));
            }
        }
        if lost.is_empty() {
            return self.serve_on(error);
        }
        self.forget_users(lost.iter().filter(|(_, why)| why.is_none()).map(|(old, _)| *old));
        for (old, why) in lost.into_iter().rev() {
            let why = match why {
                Some(why) => self.host.clear_away(old, true, why).to_string(),
                None => {
                    self.host.end(old, ENDED, None);
                    "what it depends on could not".to_owned()
                }
            };
            error = error!(
                libc::ENOTRECOVERABLE,
                "{error}; and the old '{}' could not be brought up again, so that there is none now: {why}",
                old.name()
            );
        }
        error
    }

    /// Nobody depends on these any more. The references that say so have been put.
    fn forget_users<'a>(&self, stopped: impl Iterator<Item = &'a Arc<Record>>) {
        let inner = self.host.lock();
        for old in stopped {
            let users = mem::take(&mut old.links(&inner).used_by);
            for user in users {
                user.links(&inner).uses.retain(|provider| provider != old);
            }
        }
    }

    fn bring_up_again(&self, old: &Arc<Record>, saved: Option<&Saved>) -> Result<(), Error> {
        self.host.close_gates(old);
        // SAFETY: `stop` has released it.
        unsafe { old.counter.reinit() }.expect("nobody else leads it out of that");
        // That of a load; and those who depend on it have put theirs.
        let users = old.links(&self.host.lock()).used_by.len();
        for _ in 0..=users {
            assert!(old.try_get(Caller::UNKNOWN), "nobody else closes the counter");
        }
        {
            let mut inner = self.host.lock();
            inner.lives.set(old, Life::Loading(Loading::begin()));
            old.set_state(State::Coming);
        }
        self.host.chain.tell(&Module(old.clone()), State::Coming);
        self.host.begin(old, saved)?;
        self.host.reopen_gates(old);
        self.host.put_in_service(old);
        Ok(())
    }
}

fn never_goes(name: &str, path: &Path) -> Error {
    error!(
        libc::ENOTSUP,
        "module '{name}' cannot be replaced by '{}', which asks never to be unmapped, so that its variables \
         would be those of the one before it: link it without -z nodelete, or load with MODULE_LOAD_DELETABLE",
        path.display()
    )
}

/// Once it has said that the time is up, it is.
fn until_it_is_up(mut wait: impl FnMut(&Word, u64) -> bool) -> impl FnMut(&Word, u64) -> bool {
    let mut is_up = false;
    move |word, seen| {
        is_up = is_up || !wait(word, seen);
        !is_up
    }
}

impl Registry {
    /// Ends a module that is out of the table, and not closed yet.
    fn let_go(&self, old: &Arc<Record>, mut wait: impl FnMut(&Word, u64) -> bool) -> Unloaded {
        let closed = old.close();
        let left = Left { released: false, closed, exit: true, unloaded: true, unproven: false };
        if !closed {
            return self.leave(old, left);
        }
        // The new one is in service, so that it is too late for the old one to refuse.
        boundary::hook(old, "stop_module", |loaded| loaded.stop);
        // Those of the set that depend on it have ended, or stay until nobody is found in them any more, which
        // only a later call of the host finds out.
        let is_needed = !old.links(&self.lock()).used_by.is_empty();
        // A notifier of its own load replaces it.
        let is_loaded_by_this = old.is_loaded_by_this();
        if is_needed || is_loaded_by_this || !old.counter.finish_with(&mut wait) {
            return self.leave(old, left);
        }
        self.farewell(old);
        self.end(old, left, Some(&mut wait))
    }
}
