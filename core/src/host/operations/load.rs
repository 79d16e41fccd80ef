//! Loading a module, in Linux's order: UNFORMED and listed, dependencies, COMING, notifiers,
//! init, LIVE, notifiers, and last the init reference. Linux: `load_module` and
//! `do_init_module`.

use super::unload::asleep;
use crate::host::error::{Error, errno_text, error, references, warn};
use crate::host::object::open::{self, Found};
use crate::host::registry::life::{Left, Life};
use crate::host::registry::module::Module;
use crate::host::registry::record::{ExitFn, How, InitFn, Loaded, Record, State};
use crate::host::registry::{Inner, Registry, name};
use crate::{Mode, trace};
use std::ffi::c_void;
use std::mem;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How to load a module.
///
/// ```
/// use module_ref::{Mode, host::Load};
///
/// let load = Load::new().name("filter").mode(Mode::Atomic);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Load {
    name: Option<String>,
    mode: Option<Mode>,
    copied: bool,
}

impl Load {
    /// Named after its file, with per-CPU counting.
    pub fn new() -> Self {
        Self::default()
    }

    /// Under this name: at most 55 bytes, without spaces, commas and slashes.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// With references that are counted in this way. Per-CPU counting, the usual one, has 8
    /// bytes per module and CPU.
    #[must_use]
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// From a copy of the file in memory, so that the file may be written over in place while
    /// the module is in use. The copy has no path: debuggers do not find its symbols, and
    /// what it needs from its own folder (`$ORIGIN`) has to be loaded already.
    #[must_use]
    pub fn copied(mut self) -> Self {
        self.copied = true;
        self
    }
}

impl Registry {
    /// # Safety
    ///
    /// As for `Host::load_with`.
    pub(crate) unsafe fn load(self: &Arc<Self>, path: &Path, load: Load) -> Result<Module, Error> {
        self.reap();
        let name = match load.name {
            Some(name) => name::check(&name).map(|()| name),
            None => name::of_file(path),
        }?;
        self.request(&name);
        let found = open::find(path)?;
        let how = How { mode: load.mode.unwrap_or(Mode::PerCpu), copied: load.copied };
        let record = self.reserve(&name, path, how, found.soname())?;
        // SAFETY: the caller's promise.
        unsafe { self.bring_up(&record, found, |_| Ok(()))? };
        Ok(Module(record))
    }

    /// Tells tracers what is asked for.
    pub(crate) fn request(&self, name: &str) {
        let under_way =
            |record: &Arc<Record>| matches!(record.state(), State::Unformed | State::Coming);
        trace::module::request(name, self.table().get(name).is_some_and(under_way));
    }

    /// A new record in the table, or why that name cannot be had (L5).
    fn reserve(
        self: &Arc<Self>,
        name: &str,
        path: &Path,
        how: How,
        soname: Vec<u8>,
    ) -> Result<Arc<Record>, Error> {
        let mut inner = self.lock();
        if let Some(there) = self.table().get(name).cloned() {
            let _lock = self.wait_for_load(inner, &there, None)?;
            // It may have gone in the meantime. Whoever waited for it does not try again: what
            // it was waiting for is its own name.
            return Err(match self.table().get(name).map(|record| record.state()) {
                Some(State::Live) => error!(
                    libc::EEXIST,
                    "module '{name}' is loaded already; unload it first, replace it, or give another name"
                ),
                Some(_) => error!(
                    libc::EBUSY,
                    "module '{name}' is being unloaded; load it when that is done"
                ),
                None => error!(
                    libc::EBUSY,
                    "another load of module '{name}' has just failed; try again"
                ),
            });
        }
        let record = self.begin_loading(&mut inner, name, path, how, soname)?;
        self.enlist(&mut inner, &record);
        Ok(record)
    }

    /// Takes a record from UNFORMED to LIVE, where `admit` has the last word. If it does not
    /// get there everything is undone, and the record is out of the table.
    ///
    /// # Safety
    ///
    /// As for `Host::load_with`.
    pub(crate) unsafe fn bring_up(
        &self,
        record: &Arc<Record>,
        found: Found,
        admit: impl FnOnce(&mut Inner) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        let up = unsafe { self.open(record, found) }
            .and_then(|()| self.come(record))
            .and_then(|()| self.go_live(record, admit));
        if let Err(error) = up {
            return Err(self.clear_away(record, error));
        }
        self.chain.tell(&Module(record.clone()), State::Live);
        record.put_of_load();
        Ok(())
    }

    /// The object and its dependencies. On failure nobody has been told of anything.
    ///
    /// # Safety
    ///
    /// As for `Host::load_with`.
    unsafe fn open(&self, record: &Arc<Record>, found: Found) -> Result<(), Error> {
        let providers = self.hold_providers(record, found.needed())?;
        // SAFETY: the caller's promise.
        let object = unsafe { found.open(record.how.copied)? };
        // SAFETY: just opened. The types are the plugin contract's, and the caller's promise.
        let (init, exit) = unsafe {
            let init = object.own_symbol("init_module");
            let exit = object.own_symbol("cleanup_module");
            (
                init.map(|f| mem::transmute::<*mut c_void, InitFn>(f)),
                exit.map(|f| mem::transmute::<*mut c_void, ExitFn>(f)),
            )
        };
        self.set_loaded(record, Loaded { object, init, exit });
        self.link(record, providers)
    }

    /// COMING: the notifiers are asked, and the init function runs. On failure all of them
    /// know that it is going.
    fn come(&self, record: &Arc<Record>) -> Result<(), Error> {
        let loaded = record.loaded().expect("open() has opened it");
        // SAFETY: the object is open; the symbol is `struct module *__this_module`.
        unsafe {
            if let Some(this) = loaded.object.own_symbol("__this_module") {
                this.cast::<*const Record>().write(Arc::as_ptr(record));
            }
        }
        self.set_state(record, State::Coming);
        let name = record.name();
        let refused = || self.set_state(record, State::Going);
        self.chain.ask(&Module(record.clone()), refused).map_err(|refusal| {
            error!(refusal.errno(), "module '{name}' was refused by a notifier: {refusal}")
        })?;
        trace::module::load(record.c_name(), self.lock().tainted);
        record.links().has_come = true;
        let Some(init) = loaded.init else { return Ok(()) };
        // SAFETY: the plugin contract. It may not unwind, which would end the process at the
        // boundary to C.
        let rc = unsafe { init() };
        if rc > 0 {
            warn(&format!(
                "'{name}': init_module returned {rc}; it should be 0 or a negative errno; loaded anyway"
            ));
        }
        if rc < 0 {
            self.set_state(record, State::Going);
            self.chain.tell(&Module(record.clone()), State::Going);
            let errno = rc.checked_neg().unwrap_or(libc::EINVAL);
            return Err(error!(
                errno,
                "module '{name}' was not loaded: its init_module returned {rc} ({})",
                errno_text(errno)
            ));
        }
        Ok(())
    }

    fn go_live(
        &self,
        record: &Arc<Record>,
        admit: impl FnOnce(&mut Inner) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut inner = self.lock();
        match admit(&mut inner) {
            Ok(()) => {
                inner.lives.set_live(record);
                self.load_has_ended(&mut inner);
                Ok(())
            }
            Err(error) => {
                record.set_state(State::Going);
                drop(inner);
                self.farewell(record);
                Err(error)
            }
        }
    }

    fn set_state(&self, record: &Record, state: State) {
        let _lock = self.lock();
        record.set_state(state);
    }

    /// Removes what a failed load has left. References that its code has kept keep the mapping
    /// (L3), which is added to `error`.
    fn clear_away(&self, record: &Arc<Record>, error: Error) -> Error {
        let mut error = error;
        // What was never COMING stays out of sight until it is out of the table.
        if record.state() != State::Unformed {
            self.set_state(record, State::Going);
        }
        record.put_of_load();
        let closed = record.close();
        // Another load may look at what it is bound to just now, with a reference.
        let moment = asleep(Some(Duration::from_millis(10)));
        let is_free = closed && record.counter.finish_with(moment);
        if is_free {
            self.close(record);
        } else {
            let why = match closed {
                true => format!(
                    "{error}; somebody has kept {} to it, so its mapping stays until that is given back",
                    references(record.held())
                ),
                false => format!(
                    "{error}; its mapping stays until its counter can be released, for which a \
                     sandbox has to allow membarrier"
                ),
            };
            warn(&why);
            error = Error::new(error.errno(), why);
        }
        let mut inner = self.lock();
        self.unlist(&mut inner, record);
        if is_free {
            inner.lives.set_gone(record);
        } else {
            let left = Left { closed, exit: false, unloaded: false };
            inner.lives.set(record, Life::Left(left));
        }
        self.load_has_ended(&mut inner);
        error
    }
}
