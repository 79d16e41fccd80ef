//! Unloading for an event loop: begun, and finished or cancelled later. What is waited for is the
//! descriptor of the counter's drain ([`begun`](crate::begun)).
//!
//! From its beginning to its end the module is GOING, and among `Inner::begun`: nobody else unloads
//! or replaces it, and no reference is given out. Whoever takes it out of that list, under the
//! host's lock, ends the unload, in one way or the other.

use super::error::{Error, errno_text};
use super::host::{Host, Inner, Shared};
use super::module::{Core, Module, State};
use super::unload::{Claimed, Unloaded, barrier, in_use};
use crate::misuse::Caller;
use crate::{DrainError, FinishError};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;

impl Host {
    /// Begins to unload the module and returns without waiting for the references that are held:
    /// its door is shut, and its state GOING. The descriptor of what this returns becomes readable
    /// when the last one is given back, and now and then before; then
    /// [`finish`](Unloading::finish) unloads it. `force` is for a module that has an init function
    /// and no exit function.
    ///
    /// Errors, each leaving everything as it was: as [`unload`](Self::unload), but that references
    /// are held is none; and the errno of `timerfd_create(2)` if there is no descriptor.
    ///
    /// ```no_run
    /// # use module_ref::host::{Error, Host};
    /// # fn wait_until_readable(_: impl std::os::fd::AsFd) {}
    /// # fn f(host: &Host) -> Result<(), Error> {
    /// let mut unloading = host.unload_begin("plugin", false)?;
    /// let outcome = loop {
    ///     // With whatever else the program waits for.
    ///     wait_until_readable(&unloading);
    ///     if let Some(outcome) = unloading.finish()? {
    ///         break outcome;
    ///     }
    /// };
    /// # let _ = outcome;
    /// # Ok(())
    /// # }
    /// ```
    pub fn unload_begin(&self, name: &str, force: bool) -> Result<Unloading, Error> {
        let (module, timer) = self.unload_begin_raw(name, force)?;
        Ok(Unloading { module, timer, over: false })
    }

    /// For bindings, as what `Module` has below.
    #[doc(hidden)]
    pub fn unload_begin_raw(&self, name: &str, force: bool) -> Result<(Module, OwnedFd), Error> {
        self.reap();
        let shared = &*self.shared;
        let mut inner = shared.lock();
        let core = shared.find_free(&inner, name, force)?;
        let timer = core.counter.drain_begin(Caller::UNKNOWN).map_err(|why| match why {
            DrainError::Descriptor { errno } => no_descriptor(name, errno),
            other => barrier(name, other.errno()),
        })?;
        core.set_state(State::Going);
        inner.begun.push(core.clone());
        Ok((Module(core), timer))
    }

    /// The module of that name, if its unload was begun.
    #[doc(hidden)]
    pub fn unload_begun(&self, name: &str) -> Result<Module, Error> {
        let inner = self.shared.lock();
        let core = self.shared.visible(name)?;
        inner.begun_at(&core)?;
        Ok(Module(core))
    }
}

/// For bindings, which keep the module and the descriptor themselves.
impl Module {
    /// `None` if references are still held, which by force does not matter.
    #[doc(hidden)]
    pub fn unload_finish(&self, force: bool) -> Result<Option<Unloaded>, Error> {
        let shared = self.shared()?;
        let Some(claimed) = shared.finish(&self.0, force)? else { return Ok(None) };
        Ok(Some(shared.take_out(&self.0, claimed)))
    }

    #[doc(hidden)]
    pub fn unload_cancel(&self) -> Result<(), Error> {
        let (shared, core) = (self.shared()?, &self.0);
        let mut inner = shared.lock();
        let at = inner.begun_at(core)?;
        let released = core.counter.drain_cancel().map_err(|why| strange(core, why))?;
        inner.begun.swap_remove(at);
        if released {
            // Nobody holds it, and nobody was told: it stays.
            // SAFETY: it is this drain that has won.
            unsafe { core.counter.reinit() }.expect("the winner's reinit");
        }
        core.set_state(State::Live);
        Ok(())
    }

    /// When the time is up: a last look, and `ETIMEDOUT`.
    #[doc(hidden)]
    pub fn unload_time_is_up(&self) -> Result<Unloaded, Error> {
        if let Some(unloaded) = self.unload_finish(false)? {
            return Ok(unloaded);
        }
        let error = in_use(&self.0, libc::ETIMEDOUT, self.0.held());
        self.unload_cancel().and(Err(error))
    }

    /// The host that has it.
    fn shared(&self) -> Result<Arc<Shared>, Error> {
        self.0.host.upgrade().ok_or_else(|| {
            let why = format!("the host that module '{}' was loaded by is gone", self.name());
            Error::new(libc::ENOENT, why)
        })
    }
}

impl Shared {
    /// Takes a module out of those whose unload was begun, unless it is held.
    fn finish(&self, core: &Core, force: bool) -> Result<Option<Claimed>, Error> {
        let mut inner = self.lock();
        let at = inner.begun_at(core)?;
        let claimed = if force {
            let folded = core.counter.drain_take_over().map_err(|why| strange(core, why))?;
            let left = core.counter.try_finish(folded);
            if left { Claimed::Released } else { Claimed::Held(folded) }
        } else {
            match core.counter.drain_finish(Caller::UNKNOWN) {
                Ok(()) => Claimed::Released,
                Err(FinishError::InUse { .. }) => return Ok(None),
                Err(FinishError::TimedOut { held }) => {
                    inner.begun.swap_remove(at);
                    core.set_state(State::Live);
                    return Err(in_use(core, libc::ETIMEDOUT, held));
                }
                Err(why) => return Err(strange(core, why)),
            }
        };
        inner.begun.swap_remove(at);
        claimed.note(&mut inner, core);
        Ok(Some(claimed))
    }
}

impl Inner {
    /// Where a module is in the list, or why it is not there.
    fn begun_at(&self, core: &Core) -> Result<usize, Error> {
        if let Some(at) = self.begun.iter().position(|begun| **begun == *core) {
            return Ok(at);
        }
        let name = core.name();
        Err(if core.state() == State::Going {
            let why = format!("module '{name}' is being unloaded by another thread, or is gone");
            Error::new(libc::EBUSY, why)
        } else {
            let why = format!("no unload of module '{name}' is begun; begin one first");
            Error::new(libc::EINVAL, why)
        })
    }
}

/// The counter of a module is the host's to drain.
fn strange(core: &Core, why: FinishError) -> Error {
    let why = format!("module '{}': its counter is drained by somebody else: {why}", core.name());
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

/// An unload that was [begun](Host::unload_begin). Dropping it cancels it: the module is live
/// again.
///
/// Its descriptor ([`AsFd`]) is as that of a counter's [`Draining`](crate::Draining).
#[must_use = "dropping it makes the module live again"]
pub struct Unloading {
    module: Module,
    timer: OwnedFd,
    /// Unloaded, or live again.
    over: bool,
}

impl Unloading {
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
        let outcome = self.module.unload_finish(false);
        self.over = !matches!(outcome, Ok(None));
        outcome
    }

    /// Unloads the module also if it is held: as a forced unload whose time is up.
    pub fn force(mut self) -> Result<Unloaded, Error> {
        self.over = true;
        let outcome = self.module.unload_finish(true);
        outcome.map(|unloaded| unloaded.expect("by force it does not matter who holds it"))
    }

    /// The module is live again, also if the last reference has just been given back.
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
        self.timer.as_fd()
    }
}

impl AsRawFd for Unloading {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }
}

impl fmt::Debug for Unloading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unloading").field("module", &self.module).field("over", &self.over).finish()
    }
}
