//! Unloading a module, with Linux's checks in Linux's order: users, state, exit function,
//! references; then GOING, exit, notifiers, dependencies, the mapping, the record. Linux:
//! `delete_module` and `free_module`.

use super::error::{Error, references};
use super::host::{Host, Inner, LastUnloaded, Shared, names};
use super::module::{Core, Module, NAME_LEN, State};
use super::resident::Residency;
use crate::counter::release::Folded;
use crate::misuse::Caller;
use crate::sync::{self, Deadline, Word};
use crate::trace;
use crate::{DrainError, Held, ReleaseError};
use std::mem;
use std::sync::Arc;
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
    /// `None` does not shut the door; `Some(None)` waits for ever.
    wait: Option<Option<Duration>>,
    force: bool,
}

impl Unload {
    /// If nobody holds a reference; otherwise the module stays as it is.
    pub fn now() -> Self {
        Self { wait: None, force: false }
    }

    /// Shuts the door and waits for the last reference; after `timeout` the module is live
    /// again.
    pub fn within(timeout: Duration) -> Self {
        Self { wait: Some(Some(timeout)), force: false }
    }

    /// Shuts the door and waits for the last reference, however long that takes.
    pub fn waiting() -> Self {
        Self { wait: Some(None), force: false }
    }

    /// Unloads it also if references are held (when the time is up, if there is one), or if it
    /// has an init function and no exit function; either taints the host. Its code stays
    /// mapped until the last holder has given its reference back.
    #[must_use]
    pub fn force(self) -> Self {
        Self { force: true, ..self }
    }
}

/// What became of a module's code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unloaded {
    /// It is gone from memory.
    Unmapped,
    /// The module is unloaded, and its code is still mapped.
    Resident(Residency),
}

/// What is done between two looks at a counter that is shut, and whether to look again.
pub(super) type Wait<'a> = dyn FnMut(&Word, u64) -> bool + 'a;

/// Sleeps between looks until `timeout` has passed; `None` is never.
pub(super) fn asleep(timeout: Option<Duration>) -> impl FnMut(&Word, u64) -> bool {
    let mut deadline = Deadline::after(timeout);
    move |word, seen| sync::wait(word, seen, &mut deadline)
}

/// A module that is out of the table while its code stays for those who hold it.
pub(super) struct Zombie {
    pub(super) core: Arc<Core>,
    /// `None` if its door could not be shut, for want of a barrier; that is tried again.
    pub(super) folded: Option<Folded>,
    /// Its exit function is still to be run.
    pub(super) exit: bool,
    /// It was in service once: the record of what was unloaded last takes it up.
    pub(super) unloaded: bool,
}

/// A module that this thread takes out: its state is GOING.
pub(super) enum Claimed {
    /// Nobody holds it.
    Released,
    /// It is unloaded by force while it is held.
    Held(Folded),
}

impl Host {
    /// Unloads the module: its exit function runs, the notifiers are told, its dependencies
    /// are given up, its object is closed; and then it is looked whether that is gone.
    ///
    /// Errors, checked in this order, each leaving everything as it was: `ENOENT` if there is no
    /// such module; `EWOULDBLOCK` if others depend on it; `EBUSY` if it is not live, or has an
    /// init function and no exit function; `EWOULDBLOCK` if references are held, or `ETIMEDOUT`
    /// if they still are when the time is up; the errno of the barrier that is needed, if a
    /// sandbox refuses that.
    ///
    /// The caller must hold no reference to it, and must not be code of the module.
    ///
    /// Linux: `delete_module`.
    pub fn unload(&self, name: &str, how: Unload) -> Result<Unloaded, Error> {
        match how.wait {
            None => self.unload_by(name, how.force, None),
            Some(timeout) => self.unload_by(name, how.force, Some(&mut asleep(timeout))),
        }
    }

    /// As [`unload`](Self::unload) for those who have another way to wait: the door is shut, and
    /// `wait` is called whenever references are still held. It waits as it likes and says
    /// whether to go on; once it has said no, the time is up.
    pub fn unload_with(
        &self,
        name: &str,
        force: bool,
        mut wait: impl FnMut(&Held<'_>) -> bool,
    ) -> Result<Unloaded, Error> {
        self.unload_by(name, force, Some(&mut |word, seen| wait(&Held::new(word, seen))))
    }

    fn unload_by(
        &self,
        name: &str,
        force: bool,
        wait: Option<&mut Wait<'_>>,
    ) -> Result<Unloaded, Error> {
        self.reap();
        let shared = &*self.shared;
        let (core, claimed) = shared.claim(name, force, wait)?;
        Ok(shared.take_out(&core, claimed))
    }

    /// Unmaps what was unloaded or replaced while it was held, and is not held any more. Every
    /// load, unload and replace does so, too. Returns how many are gone from memory.
    pub fn reap(&self) -> usize {
        self.shared.reap()
    }
}

impl Shared {
    /// Why `core` cannot be taken out of service, apart from references (U3 to U5).
    pub(super) fn check_free(&self, inner: &Inner, core: &Core, force: bool) -> Result<(), Error> {
        let name = core.name();
        let links = core.links();
        if !links.used_by.is_empty() {
            return Err(Error::new(
                libc::EWOULDBLOCK,
                format!(
                    "module '{name}' is needed by {}; unload what needs it first",
                    names(&links)
                ),
            ));
        }
        match core.state() {
            State::Live => {}
            State::Going => {
                let by = if inner.begun.iter().any(|begun| **begun == *core) {
                    "since an unload was begun; finish or cancel that"
                } else {
                    "by another thread"
                };
                let why = format!("module '{name}' is being unloaded {by}");
                return Err(Error::new(libc::EBUSY, why));
            }
            State::Coming | State::Unformed => return Err(inner.still_loading(core)),
        }
        if core.is_permanent() && !force {
            return Err(Error::new(
                libc::EBUSY,
                format!(
                    "module '{name}' has an init_module and no cleanup_module: it is permanent, unless forced"
                ),
            ));
        }
        Ok(())
    }

    /// The module of that name, if it can be taken out of service, apart from references (U1 to
    /// U5), and nobody else is at it.
    pub(super) fn find_free(
        &self,
        inner: &Inner,
        name: &str,
        force: bool,
    ) -> Result<Arc<Core>, Error> {
        let core = self.visible(name)?;
        self.check_free(inner, &core, force)?;
        self.check_not_replaced(inner, &core)?;
        Ok(core)
    }

    /// Whether somebody is about to put another in the place of `core`.
    fn check_not_replaced(&self, inner: &Inner, core: &Core) -> Result<(), Error> {
        if !inner.is_being_replaced(core) {
            return Ok(());
        }
        let why = format!("a replacement for module '{}' is being made ready", core.name());
        Err(Error::new(libc::EBUSY, why))
    }

    /// U1 to U6.
    fn claim(
        &self,
        name: &str,
        force: bool,
        wait: Option<&mut Wait<'_>>,
    ) -> Result<(Arc<Core>, Claimed), Error> {
        let mut inner = self.lock();
        let core = self.find_free(&inner, name, force)?;
        let outcome = match wait {
            None => core.counter.try_release(Caller::UNKNOWN).map_err(|error| match error {
                ReleaseError::InUse { held } => (libc::EWOULDBLOCK, Some(held)),
                other => (other.errno(), None),
            }),
            Some(wait) => {
                core.set_state(State::Going);
                drop(inner);
                // The counter is live again if `wait` panics; then so is the module.
                let live_again = LiveAgain { host: self, core: &core };
                let outcome = core.counter.drain_by(Caller::UNKNOWN, wait);
                mem::forget(live_again);
                inner = self.lock();
                outcome.map_err(|error| match error {
                    DrainError::TimedOut { held } => (libc::ETIMEDOUT, Some(held)),
                    other => (other.errno(), None),
                })
            }
        };
        let claimed = match outcome {
            Ok(()) => Ok(Claimed::Released),
            Err((_, Some(_))) if force => core
                .counter
                .shut(Caller::UNKNOWN)
                .map(Claimed::Held)
                .map_err(|error| barrier(name, error.errno())),
            Err((errno, Some(held))) => {
                core.set_state(State::Live);
                drop(inner);
                return Err(in_use(&core, errno, held));
            }
            Err((errno, None)) => Err(barrier(name, errno)),
        };
        // As it was, or on its way out; nobody but us moves a module that is live.
        core.set_state(if claimed.is_ok() { State::Going } else { State::Live });
        let claimed = claimed?;
        claimed.note(&mut inner, &core);
        Ok((core, claimed))
    }

    /// U7, by the thread that has claimed the module.
    pub(super) fn take_out(&self, core: &Arc<Core>, claimed: Claimed) -> Unloaded {
        self.farewell(core);
        match claimed {
            Claimed::Released => self.end(core, true),
            Claimed::Held(folded) => self.leave_to_holders(Zombie {
                core: core.clone(),
                folded: Some(folded),
                exit: false,
                unloaded: true,
            }),
        }
    }

    /// The module of that name, or `ENOENT`.
    pub(super) fn visible(&self, name: &str) -> Result<Arc<Core>, Error> {
        self.table().visible(name).cloned().ok_or_else(|| {
            let hint = match name.len() {
                0 => "; the name is empty".to_owned(),
                NAME_LEN.. => format!("; names have at most {} bytes", NAME_LEN - 1),
                _ => String::new(),
            };
            Error::new(libc::ENOENT, format!("there is no module '{name}'{hint}"))
        })
    }

    /// The exit function, and then the notifiers.
    pub(super) fn farewell(&self, core: &Arc<Core>) {
        let loaded = core.loaded().filter(|loaded| !loaded.object.is_overwritten());
        if let Some(exit) = loaded.and_then(|loaded| loaded.exit) {
            // SAFETY: the plugin contract; the object is open.
            unsafe { exit() };
        }
        self.chain.tell(&Module(core.clone()), State::Going);
    }

    /// Gives up what the module depends on, closes its object, and says what came of it. Its
    /// counter is released, by us.
    pub(super) fn close(&self, core: &Core) -> Unloaded {
        if core.has_come() {
            trace::module::free(core.c_name());
        }
        self.unlink(&mut self.lock(), core);
        let Some(loaded) = core.loaded() else { return Unloaded::Unmapped };
        // SAFETY: the counter is released, so nobody is inside and nobody gets in (H2), and
        // whoever released it closes it, once.
        match unsafe { loaded.object.close() } {
            None => Unloaded::Unmapped,
            Some(why) => {
                if loaded.exit.is_some() {
                    let resident = (core.name().to_owned(), loaded.object.place.clone());
                    self.lock().residents.insert(loaded.object.linked, resident);
                }
                Unloaded::Resident(why)
            }
        }
    }

    /// The end of a module that was in service. Its name is free once its object is closed:
    /// before, another load would find the object still there.
    pub(super) fn end(&self, core: &Arc<Core>, record: bool) -> Unloaded {
        let outcome = self.close(core);
        let mut inner = self.lock();
        let table = self.table().without(core);
        self.publish(&mut inner, table);
        if record {
            let outcome = outcome.clone();
            inner.last_unloaded = Some(LastUnloaded { name: core.name().to_owned(), outcome });
        }
        outcome
    }

    /// Takes a module out of the table and leaves its code to those who hold it, if anybody
    /// still does.
    pub(super) fn leave_to_holders(&self, zombie: Zombie) -> Unloaded {
        let core = zombie.core.clone();
        {
            let mut inner = self.lock();
            // First there, and then gone here: its holders need the record (H1).
            inner.zombies.push(zombie);
            inner.remove_ending(&core);
            if self.table().get(core.name()) == Some(&core) {
                let table = self.table().without(&core);
                self.publish(&mut inner, table);
            }
            let outcome = Unloaded::Resident(Residency::Held { references: core.held() });
            inner.last_unloaded = Some(LastUnloaded { name: core.name().to_owned(), outcome });
        }
        // Perhaps the last of them has left meanwhile.
        let mut outcome = None;
        self.reap_each(|ended, how| {
            if *ended == *core {
                outcome = Some(how.clone());
            }
        });
        outcome.unwrap_or(Unloaded::Resident(Residency::Held { references: core.held() }))
    }

    fn reap(&self) -> usize {
        let mut unmapped = 0;
        self.reap_each(|_, how| unmapped += usize::from(*how == Unloaded::Unmapped));
        unmapped
    }

    /// Ends every zombie that nobody holds any more.
    fn reap_each(&self, mut ended: impl FnMut(&Core, &Unloaded)) {
        loop {
            let zombie = {
                let mut inner = self.lock();
                let at = inner.zombies.iter_mut().position(Zombie::is_left);
                let Some(at) = at else { return };
                let zombie = inner.zombies.remove(at);
                inner.ending.push(zombie.core.clone());
                zombie
            };
            let core = &zombie.core;
            if zombie.exit {
                self.farewell(core);
            }
            let outcome = self.end(core, zombie.unloaded);
            self.lock().remove_ending(core);
            ended(core, &outcome);
        }
    }
}

impl Claimed {
    /// Whether this was by force, for the record.
    pub(super) fn note(&self, inner: &mut Inner, core: &Core) {
        let by_force = matches!(self, Self::Held(_)) || core.is_permanent();
        inner.tainted |= by_force;
        core.links().forced = by_force;
    }
}

struct LiveAgain<'a> {
    host: &'a Shared,
    core: &'a Core,
}

impl Drop for LiveAgain<'_> {
    fn drop(&mut self) {
        let _lock = self.host.lock();
        self.core.set_state(State::Live);
    }
}

impl Zombie {
    /// Whether the last holder has left; then it is the caller's.
    fn is_left(&mut self) -> bool {
        if self.folded.is_none() {
            self.folded = self.core.shut();
        }
        self.folded.is_some_and(|folded| self.core.counter.try_finish(folded))
    }
}

/// `EWOULDBLOCK` of a look, or `ETIMEDOUT` of a drain.
pub(super) fn in_use(core: &Core, errno: i32, held: u64) -> Error {
    let (name, held) = (core.name(), references(held));
    let why = if errno == libc::ETIMEDOUT {
        format!(
            "module '{name}' is still in use: {held} when the time was up; it is live again, so \
             try a longer timeout"
        )
    } else {
        // None, if it was a surplus put that stood in the way; that is mended by now.
        format!(
            "module '{name}' is in use: {held}; unload it with a timeout to drain them, or see \
             the list of modules"
        )
    };
    Error::new(errno, why)
}

pub(super) fn barrier(name: &str, errno: i32) -> Error {
    Error::new(
        errno,
        format!(
            "module '{name}' stays: its counter could not be released: {}; a sandbox that refuses \
             membarrier has to allow it, or load modules with their count in one shared word",
            super::error::errno_text(errno)
        ),
    )
}
