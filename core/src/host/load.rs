//! Loading a module, in Linux's order: UNFORMED and listed, dependencies, COMING, notifiers,
//! init, LIVE, notifiers, and last the init reference. Linux: `load_module` and
//! `do_init_module`.

use super::error::{Error, errno_text, references, warn};
use super::host::{Host, Inner, Shared};
use super::module::{self, Core, ExitFn, How, InitFn, Loaded, Module, State};
use super::open::{self, Found};
use super::unload::{Zombie, asleep};
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
    /// bytes per module and possible CPU.
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

impl Host {
    /// Loads the shared object at `path`, as a module that is named after the file, with
    /// per-CPU counting. See [`load_with`](Self::load_with).
    ///
    /// # Safety
    ///
    /// As for [`load_with`](Self::load_with).
    pub unsafe fn load(&self, path: impl AsRef<Path>) -> Result<Module, Error> {
        // SAFETY: the caller's promise.
        unsafe { self.load_with(path, Load::new()) }
    }

    /// Loads the shared object at `path` and returns a handle to it once its init function, if
    /// it has one, has returned.
    ///
    /// A path without a slash is a file in the working directory if there is one, and else a
    /// library that the dynamic linker finds. A file that is a module already is loaded a
    /// second time as an object of its own, with its own variables. The object's symbols are
    /// not seen by those that are loaded later (`RTLD_LOCAL`).
    ///
    /// Errors: `EEXIST` if a module has that name; `EBUSY` if one is going, or did not become
    /// live; `ENOENT` for a missing file, library or symbol; `ENOEXEC` for what is not a shared
    /// object of this machine; `EINVAL` and `ENAMETOOLONG` for a name that a module cannot
    /// have; whatever a notifier or the init function returns. After an error
    /// nothing is left of it, unless somebody kept a reference.
    ///
    /// Linux: `load_module`.
    ///
    /// # Safety
    ///
    /// The object's code may run in this process: its constructors and destructors, and
    /// `init_module` and `cleanup_module` if it exports them, as `int (void)` and `void (void)`.
    pub unsafe fn load_with(&self, path: impl AsRef<Path>, load: Load) -> Result<Module, Error> {
        self.reap();
        let path = path.as_ref();
        let name = match load.name {
            Some(name) => module::check_name(&name).map(|()| name),
            None => module::name_of_file(path),
        }?;
        self.shared.request(&name);
        let found = open::find(path)?;
        let how = How { mode: load.mode.unwrap_or(Mode::PerCpu), copied: load.copied };
        let core = self.shared.reserve(&name, path, how)?;
        // SAFETY: the caller's promise.
        unsafe { self.shared.bring_up(&core, found, |_| Ok(()))? };
        Ok(Module(core))
    }
}

impl Shared {
    /// Tells tracers what is asked for.
    pub(super) fn request(&self, name: &str) {
        let under_way = |core: &Arc<Core>| matches!(core.state(), State::Unformed | State::Coming);
        trace::module::request(name, self.table().get(name).is_some_and(under_way));
    }

    /// A new record in the table, or why that name cannot be had (L5).
    fn reserve(self: &Arc<Self>, name: &str, path: &Path, how: How) -> Result<Arc<Core>, Error> {
        let mut inner = self.lock();
        if let Some(there) = self.table().get(name).cloned() {
            let _lock = self.wait_for_load(inner, &there, None)?;
            // It may have gone in the meantime. Whoever waited for it does not try again: what
            // it was waiting for is its own name.
            return Err(match self.table().get(name).map(|core| core.state()) {
                Some(State::Live) => Error::new(
                    libc::EEXIST,
                    format!(
                        "module '{name}' is loaded already; unload it first, replace it, or give another name"
                    ),
                ),
                Some(_) => Error::new(
                    libc::EBUSY,
                    format!("module '{name}' is being unloaded; load it when that is done"),
                ),
                None => Error::new(
                    libc::EBUSY,
                    format!("another load of module '{name}' has just failed; try again"),
                ),
            });
        }
        let core = Core::new(Arc::downgrade(self), inner.next_serial(), name, path, how)?;
        self.begin_loading(&mut inner, &core);
        let table = self.table().with(&core);
        self.publish(&mut inner, table);
        Ok(core)
    }

    /// Takes a record from UNFORMED to LIVE, where `admit` has the last word. If it does not
    /// get there everything is undone, and the record is out of the table.
    ///
    /// # Safety
    ///
    /// As for `load_with`.
    pub(super) unsafe fn bring_up(
        &self,
        core: &Arc<Core>,
        found: Found,
        admit: impl FnOnce(&mut Inner) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        let up = unsafe { self.open(core, found) }
            .and_then(|()| self.come(core))
            .and_then(|()| self.go_live(core, admit));
        if let Err(error) = up {
            return Err(self.clear_away(core, error));
        }
        self.chain.tell(&Module(core.clone()), State::Live);
        core.put_of_load();
        Ok(())
    }

    /// The object and its dependencies. On failure nobody has been told of anything.
    ///
    /// # Safety
    ///
    /// As for `load_with`.
    unsafe fn open(&self, core: &Arc<Core>, found: Found) -> Result<(), Error> {
        let _ = core.soname.set(found.soname());
        let providers = self.hold_providers(core, found.needed())?;
        // SAFETY: the caller's promise.
        let object = unsafe { found.open(core.how.copied)? };
        // SAFETY: just opened. The types are the plugin contract's, and the caller's promise.
        let (init, exit) = unsafe {
            let init = object.own_symbol("init_module");
            let exit = object.own_symbol("cleanup_module");
            (
                init.map(|f| mem::transmute::<*mut c_void, InitFn>(f)),
                exit.map(|f| mem::transmute::<*mut c_void, ExitFn>(f)),
            )
        };
        self.set_loaded(core, Loaded { object, init, exit });
        self.link(core, providers)
    }

    /// COMING: the notifiers are asked, and the init function runs. On failure all of them
    /// know that it is going.
    fn come(&self, core: &Arc<Core>) -> Result<(), Error> {
        let loaded = core.loaded().expect("open() has opened it");
        // SAFETY: the object is open; the symbol is `struct module *__this_module`.
        unsafe {
            if let Some(this) = loaded.object.own_symbol("__this_module") {
                this.cast::<*const Core>().write(Arc::as_ptr(core));
            }
        }
        self.set_state(core, State::Coming);
        let name = core.name();
        let refused = || self.set_state(core, State::Going);
        self.chain.ask(&Module(core.clone()), refused).map_err(|refusal| {
            let why = format!("module '{name}' was refused by a notifier: {refusal}");
            Error::new(refusal.errno(), why)
        })?;
        core.comes(self.lock().tainted);
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
            self.set_state(core, State::Going);
            self.chain.tell(&Module(core.clone()), State::Going);
            let errno = rc.checked_neg().unwrap_or(libc::EINVAL);
            let why = format!(
                "module '{name}' was not loaded: its init_module returned {rc} ({})",
                errno_text(errno)
            );
            return Err(Error::new(errno, why));
        }
        Ok(())
    }

    fn go_live(
        &self,
        core: &Arc<Core>,
        admit: impl FnOnce(&mut Inner) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut inner = self.lock();
        match admit(&mut inner) {
            Ok(()) => {
                core.set_state(State::Live);
                self.end_loading(&mut inner, core);
                Ok(())
            }
            Err(error) => {
                core.set_state(State::Going);
                drop(inner);
                self.farewell(core);
                Err(error)
            }
        }
    }

    fn set_state(&self, core: &Core, state: State) {
        let _lock = self.lock();
        core.set_state(state);
    }

    /// Removes what a failed load has left. References that its code has kept keep the mapping
    /// (L3), which is added to `error`.
    fn clear_away(&self, core: &Arc<Core>, error: Error) -> Error {
        let mut error = error;
        // What was never COMING stays out of sight until it is out of the table.
        if core.state() != State::Unformed {
            self.set_state(core, State::Going);
        }
        core.put_of_load();
        let folded = core.shut();
        // Another load may look at what it is bound to just now, with a reference.
        let moment = || asleep(Some(Duration::from_millis(10)));
        if folded.is_some_and(|folded| core.counter.finish_by(folded, moment())) {
            self.close(core);
        } else {
            let why = match folded {
                Some(_) => format!(
                    "{error}; somebody has kept {} to it, so its mapping stays until that is given back",
                    references(core.held())
                ),
                None => format!(
                    "{error}; its mapping stays until its counter can be released, for which a \
                     sandbox has to allow membarrier"
                ),
            };
            warn(&why);
            error = Error::new(error.errno(), why);
            let mut inner = self.lock();
            let zombie = Zombie { core: core.clone(), folded, exit: false, unloaded: false };
            inner.zombies.push(zombie);
        }
        let mut inner = self.lock();
        let table = self.table().without(core);
        self.publish(&mut inner, table);
        core.set_state(State::Going);
        self.end_loading(&mut inner, core);
        error
    }
}
