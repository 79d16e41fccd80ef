//! A module: the counter, its state, and the object behind it.

use super::Registry;
use crate::counter::needs_slow_path;
use crate::host::error::{Error, error};
use crate::host::object::open::Object;
use crate::misuse::Caller;
use crate::trace;
use crate::{Counter, Mode};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// Where a module is between its load and its end. Linux: `enum module_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// In service.
    Live = 0,
    /// Its init function is running. It can be found and referenced.
    Coming = 1,
    /// Being unloaded, or unloaded.
    Going = 2,
    /// Being opened. It has its name, and nobody can find it.
    Unformed = 3,
}

impl State {
    /// As the list of modules has it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Live => "Live",
            Self::Coming | Self::Unformed => "Loading",
            Self::Going => "Unloading",
        }
    }

    /// The word for it in sentences and events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Coming => "coming",
            Self::Going => "going",
            Self::Unformed => "unformed",
        }
    }
}

pub(crate) type InitFn = unsafe extern "C-unwind" fn() -> c_int;
pub(crate) type ExitFn = unsafe extern "C-unwind" fn();

/// The host's record of one load of an object. C's `struct module` is this; its address is
/// its counter's.
///
/// It lives in host memory and is freed with its last owner: the host's table for as long as
/// the module is there or anybody holds a reference (H1), and every handle.
#[repr(C)]
pub struct Record {
    pub(crate) counter: Counter,
    /// Where `name` begins, which is what the C library's probes want to know: it is second, and
    /// a plain pointer. (Atomic, so that the record can be shared; nobody writes it.)
    c_name: AtomicPtr<c_char>,
    /// With a NUL at its end, for C.
    name: Box<str>,
    pub(crate) host: Weak<Registry>,
    /// Later loads have higher ones.
    pub(crate) serial: u64,
    state: AtomicU32,
    /// As it was asked for.
    pub(crate) path: PathBuf,
    pub(crate) how: How,
    /// What other objects name it by.
    pub(crate) soname: Vec<u8>,
    loaded: OnceLock<Loaded>,
    links: Mutex<Links>,
}

/// Where the C library's probes find the address of a module's name.
#[doc(hidden)]
pub const NAME_AT: usize = std::mem::offset_of!(Record, c_name);

/// How a module was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    /// How its references are counted.
    pub(crate) mode: Mode,
    /// Whether it is loaded from a copy of the file.
    pub(crate) copied: bool,
}

/// What is known once the object is open.
pub(crate) struct Loaded {
    pub(crate) object: Object,
    pub(crate) init: Option<InitFn>,
    pub(crate) exit: Option<ExitFn>,
}

/// Who depends on whom, and what else is only looked at under the host's lock. Each
/// dependency is two entries and one reference on the provider.
#[derive(Default)]
pub(crate) struct Links {
    pub(crate) uses: Vec<Arc<Record>>,
    pub(crate) used_by: Vec<Arc<Record>>,
    /// The notifiers have let it come; its init function is next, or was.
    pub(crate) has_come: bool,
}

impl Record {
    /// A record in state UNFORMED, with the reference that is held while it is loaded.
    pub(crate) fn new(
        host: Weak<Registry>,
        serial: u64,
        name: &str,
        path: &Path,
        how: How,
        soname: Vec<u8>,
    ) -> Result<Arc<Self>, Error> {
        let counter = match how.mode {
            Mode::Atomic => Counter::new(),
            Mode::PerCpu => Counter::new_percpu()
                .map_err(|error| error!(libc::ENOMEM, "cannot load module '{name}': {error}"))?,
        };
        // check_name() refuses a NUL inside.
        let name = format!("{name}\0").into_boxed_str();
        let record = Self {
            counter,
            c_name: AtomicPtr::new(name.as_ptr().cast_mut().cast()),
            name,
            host,
            serial,
            state: AtomicU32::new(State::Unformed as u32),
            path: path.to_owned(),
            how,
            soname,
            loaded: OnceLock::new(),
            links: Mutex::default(),
        };
        // As in Linux, no trace point: nobody knows of it yet.
        assert!(record.counter.try_get(Caller::UNKNOWN), "a new counter is live");
        Ok(Arc::new(record))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name[..self.name.len() - 1]
    }

    #[doc(hidden)]
    pub fn c_name(&self) -> *const c_char {
        self.name.as_ptr().cast()
    }

    #[doc(hidden)]
    pub fn state(&self) -> State {
        // Acquire pairs with set_state: whoever sees LIVE sees what init has done.
        match self.state.load(Acquire) {
            0 => State::Live,
            1 => State::Coming,
            2 => State::Going,
            _ => State::Unformed,
        }
    }

    /// Under the host's lock, by the thread that loads or unloads it.
    pub(crate) fn set_state(&self, state: State) {
        // Release pairs with the Acquire of state().
        self.state.store(state as u32, Release);
    }

    pub(crate) fn set_loaded(&self, loaded: Loaded) {
        assert!(self.loaded.set(loaded).is_ok(), "a module is opened once");
    }

    /// What it is, from COMING on.
    pub(crate) fn loaded(&self) -> Option<&Loaded> {
        self.loaded.get()
    }

    pub(crate) fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An init function and no exit function: Linux's [permanent].
    pub(crate) fn is_permanent(&self) -> bool {
        self.loaded().is_some_and(|l| l.init.is_some() && l.exit.is_none())
    }

    /// Takes a reference, unless the door is shut.
    #[inline]
    pub(crate) fn try_get(&self, caller: Caller) -> bool {
        if self.counter.slots.add::<1>() {
            trace::module::get(self.c_name(), None, caller);
            return true;
        }
        self.try_get_in_word(caller)
    }

    /// As `try_get`, where the slots are not to be used.
    #[inline]
    #[doc(hidden)]
    pub fn try_get_in_word(&self, caller: Caller) -> bool {
        let Some(old) = self.counter.look_and_add() else { return false };
        if needs_slow_path(old) {
            return self.try_get_slow(old, caller);
        }
        trace::module::get(self.c_name(), Some(old), caller);
        true
    }

    /// Too late, or in the outermost zone.
    #[cold]
    #[inline(never)]
    fn try_get_slow(&self, old: u64, caller: Caller) -> bool {
        let got = self.counter.get_slow(old, caller);
        if got {
            trace::module::get(self.c_name(), Some(old), caller);
        }
        got
    }

    /// Takes one more reference.
    ///
    /// # Safety
    ///
    /// The caller has one.
    #[inline]
    #[doc(hidden)]
    pub unsafe fn get(&self, caller: Caller) {
        // SAFETY: the caller's promise.
        let old = unsafe { self.counter.get_in(caller) };
        trace::module::get(self.c_name(), old, caller);
    }

    /// Gives back a reference that is the host's.
    pub(crate) fn put(&self) {
        self.put_by(Caller::UNKNOWN);
    }

    /// Gives back a reference that was taken in somebody's name.
    pub(crate) fn put_by(&self, caller: Caller) {
        trace::module::put(self.c_name(), caller);
        // SAFETY: it is the caller's to give back.
        unsafe { self.counter.put(caller) };
    }

    /// Gives back the reference that a module is loaded with. As in Linux, tracers are told if
    /// they were told that it has come.
    pub(crate) fn put_of_load(&self) {
        if self.links().has_come {
            self.put();
        } else {
            // SAFETY: the load has it, and this is its end.
            unsafe { self.counter.put(Caller::UNKNOWN) };
        }
    }

    /// Gives back a reference, where the slots are not to be used.
    ///
    /// # Safety
    ///
    /// The caller has it.
    #[inline]
    #[doc(hidden)]
    pub unsafe fn put_in_word(&self, caller: Caller) {
        // Before: afterwards there may be no name any more.
        trace::module::put(self.c_name(), caller);
        // SAFETY: the caller's promise.
        unsafe { self.counter.put_in_word(caller) };
    }

    /// References held, for sentences.
    pub(crate) fn held(&self) -> u64 {
        self.counter.count().max(0) as u64
    }

    /// Closes the counter: no new references. False if membarrier was refused.
    pub(crate) fn close(&self) -> bool {
        self.counter.close(Caller::UNKNOWN).is_ok()
    }

    #[doc(hidden)]
    pub fn refcount(&self) -> i64 {
        self.counter.count()
    }

    #[doc(hidden)]
    pub fn counter(&self) -> &Counter {
        &self.counter
    }

    /// The host that loaded it, as C has it, or null if that is gone.
    #[doc(hidden)]
    pub fn raw_host(&self) -> *const Registry {
        self.host.upgrade().map_or(std::ptr::null(), |host| Arc::as_ptr(&host))
    }

    /// Looks a symbol up.
    ///
    /// # Safety
    ///
    /// The caller has a reference; `T` is a pointer or a function that fits the symbol.
    pub(crate) unsafe fn symbol<T>(
        &self,
        symbol: &str,
    ) -> Result<libloading::os::unix::Symbol<T>, Error> {
        let Some(loaded) = self.loaded() else {
            return Err(error!(
                libc::ENOENT,
                "no symbol '{symbol}' of module '{}' yet: it is being opened",
                self.name()
            ));
        };
        // SAFETY: a module that is referenced is not closed (H2); the type is the caller's.
        unsafe { loaded.object.symbol(symbol) }.map_err(|_| {
            error!(
                libc::ENOENT,
                "module '{}' has no symbol '{symbol}' (nm -D lists what it exports)",
                self.name()
            )
        })
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.counter.give_up_slots();
    }
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Record {}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module")
            .field("name", &self.name())
            .field("state", &self.state())
            .field("refcount", &self.refcount())
            .finish()
    }
}

/// What a symbol's address is for C.
///
/// # Safety
///
/// The caller has a reference to `record`.
#[doc(hidden)]
pub unsafe fn raw_symbol(record: &Record, symbol: &CStr) -> Result<*mut c_void, Error> {
    let name = symbol
        .to_str()
        .map_err(|_| error!(libc::EINVAL, "the symbol's name {symbol:?} is not UTF-8"))?;
    // SAFETY: the caller's promise; an address is all we want.
    unsafe { record.symbol::<*mut c_void>(name) }.map(|symbol| symbol.as_raw_ptr())
}
