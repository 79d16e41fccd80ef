//! Replacing a module by another object, also by the same file with other content.
//!
//! The new one is opened, initialised and published before the old one is let go: whoever
//! looks the name up finds the one or the other, and never neither. Until it is published any
//! failure leaves the old one in service.

use crate::host::error::Error;
use crate::host::object::open;
use crate::host::object::resident::Unloaded;
use crate::host::registry::life::{Left, Life};
use crate::host::registry::record::{Record, State};
use crate::host::registry::{Inner, Registry};
use crate::sync::Word;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;

impl Registry {
    /// `wait` begins when the old one is shut.
    ///
    /// # Safety
    ///
    /// As for `Host::load_with`.
    pub(crate) unsafe fn replace<W: FnMut(&Word, u64) -> bool>(
        self: &Arc<Self>,
        name: &str,
        path: &Path,
        wait: impl FnOnce() -> W,
    ) -> Result<Unloaded, Error> {
        self.reap();
        self.request(name);
        // Who is asked for comes before what it is to be replaced by.
        self.find_free(&self.lock(), name, false)?;
        let found = open::find(path)?;
        let (old, new) = {
            let mut inner = self.lock();
            let old = self.find_free(&inner, name, false)?;
            let new = self.begin_loading(&mut inner, name, path, old.how, found.soname())?;
            (old, new)
        };
        let admit = |inner: &mut Inner| {
            // Somebody may depend on it by now.
            self.check_free(inner, &old, false)?;
            // Before it is published: nobody finds a replacement that is COMING.
            new.set_state(State::Live);
            // Kept for its holders (H1), and for us to end.
            inner.lives.set(&old, Life::Ending { forced: false });
            self.enlist(inner, &new);
            Ok(())
        };
        // SAFETY: the caller's promise.
        unsafe { self.bring_up(&new, found, admit)? };
        Ok(self.let_go(&old, wait()))
    }

    /// Ends a module that is out of the table, and not closed yet.
    fn let_go(&self, old: &Arc<Record>, wait: impl FnMut(&Word, u64) -> bool) -> Unloaded {
        let closed = old.close();
        let leave = || self.leave_to_holders(old, Left { closed, exit: true, unloaded: true });
        let released = closed && {
            let waited = AssertUnwindSafe(|| old.counter.finish_with(wait));
            catch_unwind(waited).unwrap_or_else(|panic| {
                leave();
                resume_unwind(panic)
            })
        };
        if !released {
            return leave();
        }
        self.farewell(old);
        self.end(old, true)
    }
}
