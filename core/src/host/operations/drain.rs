//! Unloading for an event loop: begun, and finished or cancelled later. What is waited for is the
//! descriptor of the counter's drain handle ([`Drain`]).
//!
//! From its beginning to its end the module's life is [`Life::Begun`]: nobody else unloads or
//! replaces it, and no reference is given out. Whoever changes that, under the host's lock, ends the
//! unload, in one way or the other.

use super::unload::{Attempt, Claimed, Despite, Stage, in_use, not_released};
use crate::host::error::{Error, errno_text};
use crate::host::object::resident::Unloaded;
use crate::host::registry::life::Life;
use crate::host::registry::module::Module;
use crate::host::registry::opening;
use crate::host::registry::record::{Record, State};
use crate::host::registry::waits::ThreadId;
use crate::host::registry::{Inner, Registry};
use crate::misuse::Caller;
use crate::{Drain, DrainError, FinishError};
use std::fmt;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

/// For bindings, which keep the module and the descriptor themselves.
impl Module {
    /// `None` if references are still held, which by force does not matter.
    #[doc(hidden)]
    pub fn unload_finish(&self, despite: Despite) -> Result<Option<Unloaded>, Error> {
        let registry = self.registry()?;
        let Some(claimed) = registry.finish(&self.0, despite.force)? else {
            return Ok(None);
        };
        Ok(Some(registry.take_out(&self.0, claimed, despite.unproven, None)))
    }

    #[doc(hidden)]
    pub fn unload_cancel(&self) -> Result<(), Error> {
        let (registry, record) = (self.registry()?, &self.0);
        let handle = registry.lock().take_begun(record)?;
        // SAFETY: the record has the counter.
        let cancelled = unsafe { handle.cancel() };
        // It is live again.
        drop(registry.attempt(record, Stage::Open));
        cancelled.map_err(|why| strange(record, why))
    }

    /// When the time is up: a last look, and `ETIMEDOUT`.
    #[doc(hidden)]
    pub fn unload_time_is_up(&self) -> Result<Unloaded, Error> {
        if let Some(unloaded) = self.unload_finish(Despite::default())? {
            return Ok(unloaded);
        }
        let error = in_use(&self.0, libc::ETIMEDOUT, self.0.held());
        self.unload_cancel().and(Err(error))
    }

    /// The host that has it.
    pub(crate) fn registry(&self) -> Result<Arc<Registry>, Error> {
        self.0.host.upgrade().ok_or_else(|| {
            let why = format!("the host that module '{}' was loaded by is gone", self.name());
            Error::new(libc::ENOENT, why)
        })
    }
}

impl Registry {
    pub(crate) fn unload_begin(&self, name: &str, force: bool) -> Result<(Module, OwnedFd), Error> {
        self.reap();
        // A new thread needs a lock of the dynamic linker's for a moment.
        opening::check_not_awaited()?;
        let record = {
            let mut inner = self.lock();
            let record = self.find_free(&inner, name, force)?;
            inner.lives.set(&record, Life::Draining(ThreadId::this()));
            record
        };
        let handle = Box::<Drain>::default();
        // Without the lock: it starts a thread.
        // SAFETY: the handle is new. Both stay until the drain is over: the counter in its record,
        // which `lives` keeps, and the handle in its box.
        let begun = unsafe { handle.begin(&record.counter, Caller::UNKNOWN, None) };
        let mut attempt = Attempt::new(self, &record, Stage::Open);
        let descriptor = begun.map_err(|why| match why {
            DrainError::Descriptor { errno } => no_descriptor(name, errno),
            other => not_released(name, other.errno()),
        })?;
        if let Err(refused) = attempt.stop(force) {
            // SAFETY: as above.
            unsafe { handle.cancel() }.map_err(|why| strange(&record, why))?;
            return Err(refused);
        }
        mem::forget(attempt);
        self.lock().lives.set(&record, Life::Begun(handle));
        Ok((Module(record), descriptor))
    }

    /// The rest of an unload that was begun.
    fn attempt<'a>(&'a self, record: &'a Arc<Record>, counter: Stage) -> Attempt<'a> {
        let mut attempt = Attempt::new(self, record, counter);
        attempt.stopped = true;
        attempt
    }

    pub(crate) fn unload_begun(&self, name: &str) -> Result<Module, Error> {
        let inner = self.lock();
        let record = self.visible(name)?;
        inner.check_begun(&record)?;
        Ok(Module(record))
    }

    /// Takes a module out of those whose unload was begun, unless it is held.
    fn finish(&self, record: &Arc<Record>, force: bool) -> Result<Option<Claimed>, Error> {
        let handle = self.lock().take_begun(record)?;
        // Without the lock: the end of a drain waits for a thread.
        // SAFETY: the record has the counter.
        let finished = unsafe { handle.finish(Caller::UNKNOWN) };
        let claimed = match finished {
            Ok(()) => self.attempt(record, Stage::Released).succeed(force)?,
            // SAFETY: as above.
            Err(FinishError::InUse { .. }) if force => match unsafe { handle.hand_over() } {
                Ok(()) => Claimed::Forced,
                Err(why) => return Err(strange(record, why)),
            },
            Err(FinishError::InUse { .. }) => {
                self.lock().lives.set(record, Life::Begun(handle));
                return Ok(None);
            }
            Err(FinishError::TimedOut { held }) => {
                drop(self.attempt(record, Stage::Open));
                return Err(in_use(record, libc::ETIMEDOUT, held));
            }
            Err(why) => return Err(strange(record, why)),
        };
        claimed.note(&mut self.lock(), record);
        Ok(Some(claimed))
    }
}

impl Inner {
    fn take_begun(&mut self, record: &Arc<Record>) -> Result<Box<Drain>, Error> {
        self.check_begun(record)?;
        Ok(self.lives.take_begun(record).expect("it is begun"))
    }

    /// Why a module's unload is not begun.
    fn check_begun(&self, record: &Record) -> Result<(), Error> {
        if let Some(Life::Begun(_)) = self.lives.of(record) {
            return Ok(());
        }
        if record.state() == State::Going {
            return Err(self.busy(record));
        }
        let why = format!("no unload of module '{}' is begun; begin one first", record.name());
        Err(Error::new(libc::EINVAL, why))
    }
}

/// The counter of a module is the host's to drain.
fn strange(record: &Record, why: FinishError) -> Error {
    let why = format!("module '{}': its counter is drained by somebody else: {why}", record.name());
    Error::new(libc::EBUSY, why)
}

fn no_descriptor(name: &str, errno: i32) -> Error {
    Error::new(
        errno,
        format!(
            "module '{name}' stays: no descriptor to wait for its references with: {}; unload it \
             with a timeout, which needs none, or close some",
            errno_text(errno)
        ),
    )
}

/// An unload that was [begun](crate::host::Host::unload_begin). Dropping it cancels it: the module is live
/// again.
///
/// Its descriptor ([`AsFd`]) is as that of a counter's [`Draining`](crate::Draining).
#[must_use = "dropping it makes the module live again"]
pub struct Unloading {
    module: Module,
    descriptor: OwnedFd,
    /// Unloaded, or live again.
    over: bool,
}

impl Unloading {
    pub(crate) fn new(module: Module, descriptor: OwnedFd) -> Self {
        Self { module, descriptor, over: false }
    }

    /// The module that is being unloaded.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// Unloads the module if the last reference has been given back: on this thread its exit
    /// function runs, and the notifiers. `None` says to wait on.
    ///
    /// After an error (`ETIMEDOUT`, if the count is pinned after an overflow) the module is live
    /// again; `EINVAL` or `EBUSY` says that the unload was over.
    pub fn finish(&mut self) -> Result<Option<Unloaded>, Error> {
        let outcome = self.module.unload_finish(Despite::default());
        self.over = !matches!(outcome, Ok(None));
        outcome
    }

    /// Unloads the module even if it is held, as a forced unload does when its time is up.
    pub fn force(mut self) -> Result<Unloaded, Error> {
        self.over = true;
        let outcome = self.module.unload_finish(Despite { force: true, ..Despite::default() });
        outcome.map(|unloaded| unloaded.expect("by force it does not matter who holds it"))
    }

    /// Makes the module live again, even if the last reference has just been given back.
    pub fn cancel(self) {}
}

impl Drop for Unloading {
    fn drop(&mut self) {
        if !self.over {
            // Or else somebody has ended it by its name.
            let _ = self.module.unload_cancel();
        }
    }
}

impl AsFd for Unloading {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl AsRawFd for Unloading {
    fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

impl fmt::Debug for Unloading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unloading").field("module", &self.module).field("over", &self.over).finish()
    }
}
