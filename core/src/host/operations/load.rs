//! Loading a module, in Linux's order: UNFORMED and listed, dependencies, COMING, notifiers,
//! init, LIVE, notifiers, and last the init reference. Linux: `load_module` and
//! `do_init_module`.

use super::saved::Saved;
use super::services::SERVICES;
use super::unload::asleep;
use super::{boundary, parameters};
use crate::host::error::{Error, error, references, warn};
use crate::host::object::open::{self, Found};
use crate::host::object::resident::{Residency, Unloaded};
use crate::host::registry::life::Left;
use crate::host::registry::module::Module;
use crate::host::registry::record::{Hook, How, Loaded, NAME_AT, Record, State};
use crate::host::registry::{Registry, name};
use crate::host::tombstone::Stone;
use crate::plugin::Place;
use crate::{Mode, trace};
use std::ffi::{c_char, c_void};
use std::mem;
use std::path::Path;
use std::slice;
use std::sync::{Arc, OnceLock};
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
    deletable: bool,
    parameters: Vec<u8>,
    shared: bool,
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
    /// the module is in use. The copy keeps a descriptor open, by which debuggers and symbolisers
    /// find its symbols and, unless these are larger than 16 MiB, its line numbers. What it needs
    /// from its own folder (`$ORIGIN`) has to be loaded already.
    #[must_use]
    pub fn copied(mut self) -> Self {
        self.copied = true;
        self
    }

    /// From a copy in memory, as [`copied`](Self::copied), in which the request is cleared never to be
    /// unmapped, if the file has one (`-z nodelete`). Otherwise an object that has it stays in memory for
    /// ever, and is refused as a replacement. Who has set it may have relied on it: see what keeps calling
    /// into the object.
    #[must_use]
    pub fn deletable(mut self) -> Self {
        self.deletable = true;
        self
    }

    /// With its parameters set by this text, `name=value` and so on, before its init function runs.
    /// They are those that `module_param()` of linux_module.h declares; docs/porting.md of the
    /// repository says what the text can have. A module that replaces it is loaded with the same.
    ///
    /// A value that does not fit refuses the load, with `EINVAL`, `ERANGE`, or what the parameter's
    /// own function returns.
    #[must_use]
    pub fn parameters(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.parameters = text.into();
        self
    }

    /// With replacements that may be bound to its unique symbols (`STB_GNU_UNIQUE`: inline and
    /// static variables of C++ templates, by gcc), of which the process has one each. Otherwise such
    /// a replacement is refused: its own could be larger, or mean something else.
    #[must_use]
    pub fn shared(mut self) -> Self {
        self.shared = true;
        self
    }
}

/// Tells the object which module it is.
fn introduce(record: &Arc<Record>) -> Result<(), Error> {
    let object = &record.loaded().expect("open() has opened it").object;
    // SAFETY: it is open.
    if let Some(place) = unsafe { object.own_symbol("__module_ref_plugin") } {
        let place = place.cast::<Place>();
        if object.place.has_variable(place) {
            // SAFETY: it is there, and can be written to; it says itself what it is.
            unsafe { &*place }.fill(&SERVICES, Arc::as_ptr(record).cast());
        }
    }
    // SAFETY: it is open.
    let Some(this) = (unsafe { object.own_symbol("__this_module") }) else { return Ok(()) };
    let this = this.cast::<*const Record>();
    if !object.place.has_variable(this) {
        return Err(error!(
            libc::ENOEXEC,
            "module '{}' was not loaded: its __this_module is not a variable that the host can write \
             to; define it as `struct module *__this_module`, without const",
            record.name()
        ));
    }
    // SAFETY: it is there, and can be written to; and what linux_module.h defines is longer, in which
    // 8 bytes are followed by what looks like a record.
    unsafe {
        this.write(Arc::as_ptr(record));
        let name = this.byte_add(8 + NAME_AT).cast::<*const c_char>();
        if object.own_symbol("__this_linux_module") == Some(this.cast())
            && object.place.has_variable(name)
        {
            name.write(record.c_name());
        }
    }
    Ok(())
}

impl Registry {
    /// # Safety
    ///
    /// As for `Host::load_with`.
    pub(crate) unsafe fn load(self: &Arc<Self>, path: &Path, load: Load) -> Result<Module, Error> {
        self.reap();
        self.check_residents_fit()?;
        let name = match load.name {
            Some(name) => name::check(&name).map(|()| name),
            None => name::of_file(path),
        }?;
        self.request(&name);
        let found = open::find(path)?;
        let how = How {
            mode: load.mode.unwrap_or(Mode::PerCpu),
            copied: load.copied,
            deletable: load.deletable,
            shared: load.shared,
            parameters: load.parameters.into(),
        };
        let record = self.reserve(&name, path, how, found.soname())?;
        // SAFETY: the caller's promise.
        unsafe { self.bring_up(&record, found, || ())? };
        Ok(Module(record))
    }

    /// Tells tracers what is asked for.
    pub(crate) fn request(&self, name: &str) {
        let under_way =
            |record: &Arc<Record>| matches!(record.state(), State::Unformed | State::Coming);
        trace::module::request(name, self.table().get(name).is_some_and(under_way));
    }

    /// A new record in the table, or why that name cannot be had (L5).
    pub(crate) fn reserve(
        self: &Arc<Self>,
        name: &str,
        path: &Path,
        how: How,
        soname: Vec<u8>,
    ) -> Result<Arc<Record>, Error> {
        let mut inner = self.lock();
        if let Some(there) = self.table().get(name).cloned() {
            let inner = self.wait_for_load(inner, &there, None)?;
            // It may have gone in the meantime. Whoever waited for it does not try again: what
            // it was waiting for is its own name.
            return Err(match self.table().get(name) {
                Some(record) if record.state() == State::Live => error!(
                    libc::EEXIST,
                    "module '{name}' is loaded already; unload it first, replace it, or give another name"
                ),
                Some(record) => inner.busy(record),
                None => error!(
                    libc::EBUSY,
                    "another load of module '{name}' has just failed; try again"
                ),
            });
        }
        let record = self.begin_loading(&mut inner, name, path, how, soname)?;
        self.enlist(&mut inner, slice::from_ref(&record));
        Ok(record)
    }

    /// Takes a record from UNFORMED to LIVE. If it does not get there `failed` is called, everything
    /// is undone, and the record is out of the table.
    ///
    /// # Safety
    ///
    /// As for `Host::load_with`.
    pub(crate) unsafe fn bring_up(
        &self,
        record: &Arc<Record>,
        found: Found,
        failed: impl FnOnce(),
    ) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        let up = unsafe { self.open(record, found) }.and_then(|()| self.come(record, None));
        if let Err(error) = up {
            failed();
            return Err(self.clear_away(record, false, error));
        }
        self.put_in_service(record);
        Ok(())
    }

    /// A record whose init function has returned is LIVE.
    pub(crate) fn put_in_service(&self, record: &Arc<Record>) {
        let mut inner = self.lock();
        inner.lives.set_live(record);
        self.has_changed(&mut inner);
        drop(inner);
        self.is_in_service(record);
    }

    /// Tells the notifiers so, and gives up the reference of the load.
    pub(crate) fn is_in_service(&self, record: &Arc<Record>) {
        self.lead_gates(record);
        self.chain.tell(&Module(record.clone()), State::Live);
        record.put_of_load();
    }

    /// The object and its dependencies. On failure nobody has been told of anything.
    ///
    /// # Safety
    ///
    /// As for `Host::load_with`.
    pub(crate) unsafe fn open(&self, record: &Arc<Record>, found: Found) -> Result<(), Error> {
        let (opening, providers) = self.hold_providers(record, found.needed())?;
        // SAFETY: the caller's promise.
        let object = unsafe { found.open(record.how.copied, record.how.deletable)? };
        let hook = |name| -> Hook {
            // SAFETY: just opened. The type is the plugin contract's, and the caller's promise.
            unsafe { object.own_symbol(name).map(|f| mem::transmute::<*mut c_void, _>(f)) }
        };
        let (init, exit) = (hook("init_module"), hook("cleanup_module"));
        let (stop, can_unload) = (hook("stop_module"), hook("can_unload_module"));
        let resume = hook("resume_module");
        let (save, restore) = (hook("save_module"), hook("restore_module"));
        let stone = Stone::of(record.name(), &record.path, &object);
        // SAFETY: just opened.
        let elsewhere = unsafe { object.bound_elsewhere() };
        let unique = elsewhere.map(|why| format!("module '{}': {why}", record.name()));
        let loaded = Loaded {
            object,
            init,
            exit,
            stop,
            can_unload,
            resume,
            save,
            restore,
            stone,
            warning: OnceLock::new(),
        };
        self.set_loaded(record, loaded);
        // What is not in the table is a replacement.
        let replaces = self.table().get(record.name()).is_some_and(|there| *there != *record);
        if let Some(why) = unique.as_ref().filter(|_| replaces && !record.how.shared) {
            return Err(error!(libc::EEXIST, "{why}, or load with MODULE_LOAD_SHARED"));
        }
        let stale = self.link(record, opening, providers)?;
        let stale = (!stale.is_empty()).then(|| {
            let files: Vec<_> = stale.iter().map(|file| format!("'{}'", file.display())).collect();
            format!(
                "module '{}' is bound to {}, of which another version is on disk by now: unload all that \
                 needs the old one, and then load it",
                record.name(),
                files.join(" and ")
            )
        });
        let warning: Vec<_> = unique.into_iter().chain(stale).collect();
        if !warning.is_empty() {
            let warning = warning.join("; ");
            warn(&warning);
            let _ = record.loaded().expect("set above").warning.set(warning);
        }
        introduce(record)
    }

    /// COMING: the notifiers are asked, the init function runs, and goes on with what the one before
    /// it has saved. On failure all of them know that it is going.
    pub(crate) fn come(&self, record: &Arc<Record>, saved: Option<&Saved>) -> Result<(), Error> {
        self.set_state(record, State::Coming);
        let name = record.name();
        let refused = || self.set_state(record, State::Going);
        self.chain.ask(&Module(record.clone()), refused).map_err(|refusal| {
            error!(refusal.errno(), "module '{name}' was refused by a notifier: {refusal}")
        })?;
        trace::module::load(record.c_name(), self.lock().tainted);
        record.set_come();
        // Also if it has nothing that would be run now.
        if record.loaded().is_some_and(|loaded| loaded.object.is_overwritten()) {
            self.has_failed(record);
            return Err(boundary::refusal(record, "not loaded", "init_module", None));
        }
        // SAFETY: the plugin contract.
        if let Err(error) = unsafe { parameters::set(self, record) } {
            self.has_failed(record);
            return Err(error);
        }
        self.begin(record, saved)
    }

    /// The init function, and what comes after it.
    pub(crate) fn begin(&self, record: &Arc<Record>, saved: Option<&Saved>) -> Result<(), Error> {
        let name = record.name();
        let rc = boundary::hook(record, "init_module", |loaded| loaded.init);
        let Some(rc @ 0..) = rc else {
            self.has_failed(record);
            return Err(boundary::refusal(record, "not loaded", "init_module", rc));
        };
        if rc > 0 {
            warn(&format!(
                "'{name}': init_module returned {rc}; it should be 0 or a negative errno; loaded anyway"
            ));
        }
        let restored = saved.map_or(Ok(()), |saved| saved.restore(record));
        if restored.is_err() {
            self.set_state(record, State::Going);
            self.farewell(record);
        }
        restored
    }

    fn has_failed(&self, record: &Arc<Record>) {
        self.set_state(record, State::Going);
        self.chain.tell(&Module(record.clone()), State::Going);
    }

    pub(crate) fn set_state(&self, record: &Record, state: State) {
        let _lock = self.lock();
        record.set_state(state);
    }

    /// Removes what a failed load has left; `unloaded`: it was in service before. References that its code has
    /// kept keep the mapping (L3), which is added to `error`.
    pub(crate) fn clear_away(&self, record: &Arc<Record>, unloaded: bool, error: Error) -> Error {
        // What was never COMING stays out of sight until it is out of the table.
        if record.state() != State::Unformed {
            self.set_state(record, State::Going);
        }
        record.put_of_load();
        let closed = record.close();
        // Another load may look at what it is bound to just now, with a reference.
        let mut moment = asleep(Some(Duration::from_millis(10)));
        let released = closed && record.counter.finish_with(&mut moment);
        let ended = released && self.threads_end(record, Some(&mut moment));
        let left = Left { released, closed, exit: false, unloaded, unproven: false };
        let stays = if ended {
            match self.end(record, left, None) {
                Unloaded::Resident(
                    why @ (Residency::Present { .. } | Residency::Postponed { .. }),
                ) => format!("for now: {why}"),
                _ => return error,
            }
        } else {
            self.set_aside(record, left);
            if released {
                format!("until {} has ended, which it has started", record.threads.first())
            } else if closed {
                format!("until somebody gives {} to it back", references(record.held()))
            } else {
                "until its counter can be released, for which a sandbox has to allow membarrier"
                    .to_owned()
            }
        };
        let why = format!("{error}; the mapping of '{}' stays {stays}", record.name());
        warn(&why);
        Error::new(error.errno(), why)
    }
}
