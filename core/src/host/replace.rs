//! Replacing a module by another object, also by the same file with other content.
//!
//! The new one is opened, initialised and published before the old one is let go: whoever
//! looks the name up finds the one or the other, and never neither. Until it is published any
//! failure leaves the old one in service.

use super::error::Error;
use super::host::{Host, Inner, Shared};
use super::module::{Core, State};
use super::open;
use super::unload::{Unloaded, Zombie, asleep};
use crate::Held;
use crate::sync::Word;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

impl Host {
    /// Puts the object at `path` in the place of module `name`. The old one is shut, waited
    /// for as long as `timeout` says (`None`: for ever), and unloaded; the outcome says what
    /// became of its code. If it is still held when the time is up, its exit function runs
    /// and its code goes with a later call of the host, once the last reference is given back.
    ///
    /// What holds a reference to the old module goes on with it; a handle to it gives none any
    /// more. The new one counts as the old one did, and is a copy if that was one.
    ///
    /// Errors, each leaving the old one in service: as for [`load_with`](Self::load_with);
    /// `ENOENT` if there is no such module; `EWOULDBLOCK` if others depend on it, since they are
    /// bound to the old object; `EBUSY` if it is not live, is being replaced, or has an
    /// init function and no exit function.
    ///
    /// # Safety
    ///
    /// As for [`load_with`](Self::load_with).
    pub unsafe fn replace(
        &self,
        name: &str,
        path: impl AsRef<Path>,
        timeout: Option<Duration>,
    ) -> Result<Unloaded, Error> {
        // SAFETY: the caller's promise.
        unsafe { self.replace_by(name, path.as_ref(), || asleep(timeout)) }
    }

    /// As [`replace`](Self::replace) for those who have another way to wait for the old one's
    /// references: see [`unload_with`](Self::unload_with).
    ///
    /// # Safety
    ///
    /// As for [`load_with`](Self::load_with).
    pub unsafe fn replace_with(
        &self,
        name: &str,
        path: impl AsRef<Path>,
        mut wait: impl FnMut(&Held<'_>) -> bool,
    ) -> Result<Unloaded, Error> {
        let wait = || move |word: &Word, seen| wait(&Held::new(word, seen));
        // SAFETY: the caller's promise.
        unsafe { self.replace_by(name, path.as_ref(), wait) }
    }

    /// `wait` begins when the old one is shut.
    ///
    /// # Safety
    ///
    /// As for `load_with`.
    unsafe fn replace_by<W: FnMut(&Word, u64) -> bool>(
        &self,
        name: &str,
        path: &Path,
        wait: impl FnOnce() -> W,
    ) -> Result<Unloaded, Error> {
        self.reap();
        let shared = &self.shared;
        shared.request(name);
        // Who is asked for comes before what it is to be replaced by.
        shared.find_free(&shared.lock(), name, false)?;
        let found = open::find(path)?;
        let (old, new) = {
            let mut inner = shared.lock();
            let old = shared.find_free(&inner, name, false)?;
            let serial = inner.next_serial();
            let new = Core::new(Arc::downgrade(shared), serial, name, path, old.how)?;
            shared.begin_loading(&mut inner, &new);
            (old, new)
        };
        let admit = |inner: &mut Inner| {
            // Somebody may depend on it by now.
            shared.check_free(inner, &old, false)?;
            // Before it is published: nobody finds a replacement that is COMING.
            new.set_state(State::Live);
            old.set_state(State::Going);
            // Kept for its holders (H1), and for us to end.
            inner.ending.push(old.clone());
            let table = shared.table().with(&new);
            shared.publish(inner, table);
            Ok(())
        };
        // SAFETY: the caller's promise.
        unsafe { shared.bring_up(&new, found, admit)? };
        Ok(shared.let_go(&old, wait()))
    }
}

impl Shared {
    /// Ends a module that is out of the table, among `ending`, and not shut yet.
    fn let_go(&self, old: &Arc<Core>, wait: impl FnMut(&Word, u64) -> bool) -> Unloaded {
        let folded = old.shut();
        let zombie = || Zombie { core: old.clone(), folded, exit: true, unloaded: true };
        let left = folded.is_some_and(|folded| {
            let waited = AssertUnwindSafe(|| old.counter.finish_by(folded, wait));
            catch_unwind(waited).unwrap_or_else(|panic| {
                self.leave_to_holders(zombie());
                resume_unwind(panic)
            })
        });
        if !left {
            return self.leave_to_holders(zombie());
        }
        self.farewell(old);
        let outcome = self.end(old, true);
        self.lock().remove_ending(old);
        outcome
    }
}
