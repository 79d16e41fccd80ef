//! Modules that several parties have open, of which the last one out unloads; and the end of all.

use super::unload::{Despite, PATIENCE, Wait, asleep};
use crate::Mode;
use crate::host::error::{Error, error};
use crate::host::object::open;
use crate::host::object::resident::Unloaded;
use crate::host::registry::life::Life;
use crate::host::registry::module::Module;
use crate::host::registry::record::{How, Record, State};
use crate::host::registry::waits::Waiting;
use crate::host::registry::{Inner, Registry, name};
use crate::misuse::Caller;
use std::path::Path;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

impl Module {
    /// For C: one user fewer.
    #[doc(hidden)]
    pub fn close_user(
        &self,
        timeout: Option<Duration>,
        caller: Caller,
    ) -> Result<Option<Unloaded>, Error> {
        let registry = self.registry()?;
        if timeout == Some(Duration::ZERO) {
            return registry.close_user(&self.0, None, caller);
        }
        registry.close_user(&self.0, Some(&mut asleep(timeout)), caller)
    }
}

impl Registry {
    /// One more user of the module of that name, which is loaded if there is none. The user has a
    /// reference.
    ///
    /// # Safety
    ///
    /// As for `Host::load_with`.
    pub(crate) unsafe fn open_user(
        self: &Arc<Self>,
        path: &Path,
        name: Option<&str>,
    ) -> Result<Module, Error> {
        self.reap();
        let name = match name {
            Some(name) => name::check(name).map(|()| name.to_owned()),
            None => name::of_file(path),
        }?;
        let mut waiting = Waiting::default();
        loop {
            let inner = self.lock();
            let there = self.table().get(&name).cloned();
            if let Some(record) = there {
                if self.wait_for_service(inner, &record, &mut waiting)? {
                    return Ok(Module(record));
                }
                continue;
            }
            drop(inner);
            self.check_residents_fit()?;
            self.request(&name);
            let found = open::find(path)?;
            let (mode, parameters) = (Mode::PerCpu, Arc::default());
            let how = How { mode, copied: false, deletable: false, shared: false, parameters };
            let record = match self.reserve(&name, path, how, found.soname()) {
                Ok(record) => record,
                // Somebody else was first.
                Err(error) if matches!(error.errno(), libc::EEXIST | libc::EBUSY) => continue,
                Err(error) => return Err(error),
            };
            // Nobody else closes it as the last one.
            assert!(record.try_get(Caller::UNKNOWN), "a new counter is open");
            record.links(&self.lock()).opens = 1;
            // SAFETY: the caller's promise.
            let up = unsafe {
                self.bring_up(&record, found, || {
                    record.links(&self.lock()).opens = 0;
                    record.put();
                })
            };
            return up.map(|()| Module(record));
        }
    }

    /// Takes a reference for one more user if it is live. If not, waits for what another thread does with it.
    fn wait_for_service(
        &self,
        inner: MutexGuard<'_, Inner>,
        record: &Arc<Record>,
        waiting: &mut Waiting,
    ) -> Result<bool, Error> {
        let inner = self.wait_for_load(inner, record, None)?;
        let by = match inner.lives.of(record) {
            None if record.state() == State::Live => {
                record.links(&inner).opens += 1;
                // Without the lock: a get may find a misuse, and report it.
                drop(inner);
                let got = record.try_get(Caller::UNKNOWN);
                if !got {
                    // An unload was faster.
                    record.links(&self.lock()).opens -= 1;
                }
                return Ok(got);
            }
            // It went out of the table while its load was waited for.
            None | Some(Life::Left(_) | Life::Found(..)) => return Ok(false),
            Some(life) => life.thread(),
        };
        let Some(by) = by.filter(|by| !by.is_left_behind()) else {
            return Err(inner.busy(record));
        };
        self.wait_for_change(inner, by, record.name(), waiting)?;
        Ok(false)
    }

    /// One user fewer. The last one unloads the module; `None` if there are others.
    pub(crate) fn close_user(
        &self,
        record: &Arc<Record>,
        mut wait: Option<&mut Wait<'_>>,
        caller: Caller,
    ) -> Result<Option<Unloaded>, Error> {
        self.reap();
        let inner = self.lock();
        let name = record.name();
        let opens = record.links(&inner).opens;
        if opens == 0 {
            return Err(error!(
                libc::EINVAL,
                "module '{name}' is not open; module_open() opens it"
            ));
        }
        let is_in_service = inner.lives.of(record).is_none()
            && !inner.lives.is_replaced(record)
            && self.table().get(name).is_some_and(|there| *there == *record);
        if opens > 1 || !is_in_service {
            record.links(&inner).opens -= 1;
            drop(inner);
            record.put();
            return Ok(None);
        }
        self.check_free(&inner, record, false, &[])?;
        record.check_outside(caller, "closed by its last user")?;
        let claimed = self.claim_free(inner, record, false, wait.as_deref_mut(), true)?;
        record.links(&self.lock()).opens = 0;
        Ok(Some(self.take_out(record, claimed, false, wait)))
    }

    /// Unloads all modules, each before those that it depends on. The error is how many are left, and why.
    pub(crate) fn shutdown(&self, wait: &mut Wait<'_>) -> Result<(), (usize, Error)> {
        let mut why = None;
        // First those that can go at once, so that a held one does not keep the others.
        for waits in [false, true] {
            if waits {
                // They keep what they depend on.
                self.left_end(wait, |record| !record.links(&self.lock()).uses.is_empty());
            }
            let mut goes_on = true;
            while goes_on {
                goes_on = false;
                // Of what is left, and not of what has gone since.
                why = None;
                for Module(record) in self.modules() {
                    if !record.links(&self.lock()).used_by.is_empty() {
                        continue;
                    }
                    let wait = waits.then_some(&mut *wait);
                    match self.unload(record.name(), Despite::default(), wait, Caller::UNKNOWN) {
                        Ok(_) => goes_on = true,
                        Err(error) => why = Some(error),
                    }
                }
            }
        }
        self.left_end(wait, |_| true);
        match self.check_empty() {
            Ok(()) => Ok(()),
            Err((left, error)) => Err((left, why.unwrap_or(error))),
        }
    }

    /// Waits until such modules go as were left to their holders, and then to their threads.
    fn left_end(&self, wait: &mut Wait<'_>, which: impl Fn(&Record) -> bool) {
        let held = self.lock().lives.left(|left| left.closed && !left.released);
        for record in held.iter().filter(|record| which(record)) {
            self.holders_end(record, wait);
        }
        self.reap_within(PATIENCE);
        // Their exit functions have told these to end.
        let alive = self.lock().lives.left(|left| left.released && !left.exit);
        for record in alive.iter().filter(|record| which(record) && !record.threads.has_this()) {
            self.threads_end(record, Some(wait));
        }
        self.reap_within(PATIENCE);
    }
}
