//! Unloading a module, with Linux's checks in Linux's order: users, state, exit function,
//! references; then GOING, exit, notifiers, dependencies, the mapping, the record. Linux:
//! `delete_module` and `free_module`.

use crate::host::error::{Error, errno_text, error, references};
use crate::host::object::resident::{Residency, Unloaded};
use crate::host::registry::life::{Left, Life};
use crate::host::registry::module::Module;
use crate::host::registry::record::{Links, Record, State};
use crate::host::registry::{Inner, LastUnloaded, Registry};
use crate::misuse::Caller;
use crate::sync::{self, Deadline, Word};
use crate::trace;
use crate::{DrainError, ReleaseError};
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
    pub(crate) wait: Option<Option<Duration>>,
    pub(crate) force: bool,
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

/// What is done between two looks at a counter that is shut, and whether to look again.
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

impl Registry {
    pub(crate) fn unload(
        &self,
        name: &str,
        force: bool,
        wait: Option<&mut Wait<'_>>,
    ) -> Result<Unloaded, Error> {
        self.reap();
        let (record, claimed) = self.claim(name, force, wait)?;
        Ok(self.take_out(&record, claimed))
    }

    /// Why `record` cannot be taken out of service, apart from references (U3 to U5).
    pub(crate) fn check_free(
        &self,
        inner: &Inner,
        record: &Record,
        force: bool,
    ) -> Result<(), Error> {
        let name = record.name();
        let links = record.links();
        if !links.used_by.is_empty() {
            return Err(error!(
                libc::EWOULDBLOCK,
                "module '{name}' is needed by {}; unload what needs it first",
                names(&links)
            ));
        }
        match record.state() {
            State::Live => {}
            State::Going => {
                let by = if matches!(inner.lives.of(record), Some(Life::Begun(_))) {
                    "since an unload was begun; finish or cancel that"
                } else {
                    "by another thread"
                };
                return Err(error!(libc::EBUSY, "module '{name}' is being unloaded {by}"));
            }
            State::Coming | State::Unformed => return Err(inner.still_loading(record)),
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
        self.check_free(inner, &record, force)?;
        // Of two loads under one name, the one that is not in the table is a replacement's.
        if inner.lives.loads().any(|(new, _)| *new != record && new.name() == name) {
            return Err(error!(
                libc::EBUSY,
                "a replacement for module '{name}' is being made ready"
            ));
        }
        Ok(record)
    }

    /// U1 to U6.
    fn claim(
        &self,
        name: &str,
        force: bool,
        wait: Option<&mut Wait<'_>>,
    ) -> Result<(Arc<Record>, Claimed), Error> {
        let mut inner = self.lock();
        let record = self.find_free(&inner, name, force)?;
        let outcome = match wait {
            None => record.counter.try_release(Caller::UNKNOWN).map_err(|error| match error {
                ReleaseError::InUse { held } => (libc::EWOULDBLOCK, Some(held)),
                other => (other.errno(), None),
            }),
            Some(wait) => {
                inner.lives.set(&record, Life::Draining);
                drop(inner);
                // The counter is live again if `wait` panics; then so is the module.
                let live_again = LiveAgain { host: self, record: &record };
                let outcome = record.counter.drain_with(Caller::UNKNOWN, wait);
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
            Err((_, Some(_))) if force => record
                .counter
                .close(Caller::UNKNOWN)
                .map(|()| Claimed::Forced)
                .map_err(|error| not_released(name, error.errno())),
            Err((errno, Some(held))) => Err(in_use(&record, errno, held)),
            Err((errno, None)) => Err(not_released(name, errno)),
        };
        match &claimed {
            Ok(claimed) => claimed.note(&mut inner, &record),
            // As it was.
            Err(_) => inner.lives.set_live(&record),
        }
        claimed.map(|claimed| (record, claimed))
    }

    /// U7, by the thread that has claimed the module.
    pub(crate) fn take_out(&self, record: &Arc<Record>, claimed: Claimed) -> Unloaded {
        self.farewell(record);
        match claimed {
            Claimed::Released => self.end(record, true),
            Claimed::Forced => {
                let left = Left { closed: true, exit: false, unloaded: true };
                self.leave_to_holders(record, left)
            }
        }
    }

    /// The exit function, and then the notifiers.
    pub(crate) fn farewell(&self, record: &Arc<Record>) {
        let loaded = record.loaded().filter(|loaded| !loaded.object.is_overwritten());
        if let Some(exit) = loaded.and_then(|loaded| loaded.exit) {
            // SAFETY: the plugin contract; the object is open.
            unsafe { exit() };
        }
        self.chain.tell(&Module(record.clone()), State::Going);
    }

    /// Gives up what the module depends on, closes its object, and says what came of it. Its
    /// counter is released, by us.
    pub(crate) fn close(&self, record: &Record) -> Unloaded {
        if record.links().has_come {
            trace::module::free(record.c_name());
        }
        self.unlink(&mut self.lock(), record);
        let Some(loaded) = record.loaded() else { return Unloaded::Unmapped };
        // SAFETY: the counter is released, so nobody is inside and nobody gets in (H2), and
        // whoever released it closes it, once.
        let outcome = unsafe { loaded.object.close() };
        if outcome != Unloaded::Unmapped && loaded.exit.is_some() {
            let resident = (record.name().to_owned(), loaded.object.place.clone());
            self.lock().residents.insert(loaded.object.linked, resident);
        }
        outcome
    }

    /// The end of a module that was in service. Its name is free once its object is closed:
    /// before, another load would find the object still there.
    pub(crate) fn end(&self, record: &Arc<Record>, remember: bool) -> Unloaded {
        let outcome = self.close(record);
        let mut inner = self.lock();
        self.unlist(&mut inner, record);
        inner.lives.set_gone(record);
        if remember {
            let outcome = outcome.clone();
            inner.last_unloaded = Some(LastUnloaded { name: record.name().to_owned(), outcome });
        }
        outcome
    }

    /// Takes a module out of the table and leaves its code to those who hold it, if anybody
    /// still does.
    pub(crate) fn leave_to_holders(&self, record: &Arc<Record>, left: Left) -> Unloaded {
        {
            let mut inner = self.lock();
            inner.lives.set(record, Life::Left(left));
            self.unlist(&mut inner, record);
            let outcome = Unloaded::Resident(Residency::Held { references: record.held() });
            inner.last_unloaded = Some(LastUnloaded { name: record.name().to_owned(), outcome });
        }
        // Perhaps the last of them has left meanwhile.
        let mut outcome = None;
        self.reap_each(|ended, how| {
            if *ended == **record {
                outcome = Some(how.clone());
            }
        });
        outcome.unwrap_or(Unloaded::Resident(Residency::Held { references: record.held() }))
    }

    pub(crate) fn reap(&self) -> usize {
        let mut unmapped = 0;
        self.reap_each(|_, how| unmapped += usize::from(*how == Unloaded::Unmapped));
        unmapped
    }

    /// Ends every module that was left to its holders and that nobody holds any more.
    fn reap_each(&self, mut ended: impl FnMut(&Record, &Unloaded)) {
        loop {
            let free = self.lock().lives.take_free();
            let Some((record, left)) = free else { return };
            if left.exit {
                self.farewell(&record);
            }
            let outcome = self.end(&record, left.unloaded);
            ended(&record, &outcome);
        }
    }
}

impl Claimed {
    /// The module is on its way out, by force perhaps.
    pub(crate) fn note(&self, inner: &mut Inner, record: &Arc<Record>) {
        let forced = matches!(self, Self::Forced) || record.is_permanent();
        inner.tainted |= forced;
        inner.lives.set(record, Life::Ending { forced });
    }
}

struct LiveAgain<'a> {
    host: &'a Registry,
    record: &'a Record,
}

impl Drop for LiveAgain<'_> {
    fn drop(&mut self) {
        self.host.lock().lives.set_live(self.record);
    }
}

/// `EWOULDBLOCK` of a look, or `ETIMEDOUT` of a drain.
pub(crate) fn in_use(record: &Record, errno: i32, held: u64) -> Error {
    let (name, held) = (record.name(), references(held));
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

pub(crate) fn not_released(name: &str, errno: i32) -> Error {
    error!(
        errno,
        "module '{name}' stays: its counter could not be released: {}; a sandbox that refuses \
             membarrier has to allow it, or load modules with their count in one shared word",
        errno_text(errno)
    )
}

/// The names in a list of modules, for sentences: "'a', 'b' and 3 more".
fn names(links: &Links) -> String {
    let mut text: Vec<_> =
        links.used_by.iter().rev().take(3).map(|record| format!("'{}'", record.name())).collect();
    if links.used_by.len() > 3 {
        text.push(format!("{} more", links.used_by.len() - 3));
    }
    text.join(", ")
}
