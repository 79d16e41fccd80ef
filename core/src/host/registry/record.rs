//! A module: the counter, its state, and the object behind it.

use super::ends::Threads;
use super::opening::Opening;
use super::track::{Holder, Track, Tracked};
use super::{Inner, Registry};
use crate::counter::needs_slow_path;
use crate::counter::word::{DRAINED, DRAINING, REF, count, flags};
use crate::host::error::{Error, error};
use crate::host::gate::{self, Gate, Head, Hidden};
use crate::host::locks::hold;
use crate::host::object::locals;
use crate::host::object::open::Object;
use crate::host::object::resident::Residency;
use crate::host::object::thread_number;
use crate::host::tombstone::Stone;
use crate::misuse::{self, Caller, Misuse};
use crate::sync;
use crate::tool;
use crate::trace;
use crate::{Counter, Mode};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, Weak};

/// Where a module is between its load and its end. Linux: `enum module_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// In service.
    Live = 0,
    /// Its init function is running. Lookups do not find it; whoever has a handle can take a reference.
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

/// A function that a plugin may export. What it returns means nothing if it returns nothing.
pub(crate) type Hook = Option<unsafe extern "C-unwind" fn() -> c_int>;

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
    /// The notifiers have let it come; its init function is next, or was.
    has_come: AtomicBool,
    /// The values of its parameters, which its code may point to for as long as it is loaded. The
    /// thread that loads or closes it has this.
    parameters: Mutex<Vec<u8>>,
    pub(crate) threads: Arc<Threads>,
    /// Why it is never unloaded.
    pub(crate) pinned: OnceLock<String>,
    /// The number of the thread that has the reference of its load; 0 when that was given back.
    loader: AtomicI32,
    /// Its tracked references.
    tracked: Tracked,
    /// The gates to its functions, by the function and what a refused call returns.
    gates: Mutex<HashMap<(Hidden, usize), Gate>>,
    /// Its memory stays when it is dropped.
    led_to: Once,
}

/// Where the C library's probes find the address of a module's name.
#[doc(hidden)]
pub const NAME_AT: usize = mem::offset_of!(Record, c_name);

const _: () = assert!(NAME_AT == mem::offset_of!(Head, name));

/// How a module was asked for.
#[derive(Clone, Debug)]
pub(crate) struct How {
    /// How its references are counted.
    pub(crate) mode: Mode,
    /// Whether it is loaded from a copy of the file.
    pub(crate) copied: bool,
    /// Whether it is unmapped although its file asks never to be.
    pub(crate) deletable: bool,
    /// The text that its parameters are set by.
    pub(crate) parameters: Arc<[u8]>,
    /// Whether its replacements may be bound to its unique symbols.
    pub(crate) shared: bool,
}

/// What is known once the object is open.
pub(crate) struct Loaded {
    pub(crate) object: Object,
    pub(crate) init: Hook,
    pub(crate) exit: Hook,
    /// Called when its counter has been closed, before its references are waited for.
    pub(crate) stop: Hook,
    /// Called when nobody holds it any more.
    pub(crate) can_unload: Hook,
    /// Called if it is not unloaded after all.
    pub(crate) resume: Hook,
    /// Called before its exit function, if a replacement is to go on with what it has.
    pub(crate) save: Hook,
    /// Called after its init function, with what the one before it has saved.
    pub(crate) restore: Hook,
    pub(crate) stone: Stone,
    /// What its user should know, although it is loaded.
    pub(crate) warning: OnceLock<String>,
}

/// Which modules depend on it, on which it depends, and how many users have it open. Each dependency is two
/// entries and one reference on the provider.
#[derive(Default)]
pub(crate) struct Links {
    pub(crate) uses: Vec<Arc<Record>>,
    pub(crate) used_by: Vec<Arc<Record>>,
    /// How many users have it open, each with a reference.
    pub(crate) opens: u64,
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
            has_come: AtomicBool::new(false),
            parameters: Mutex::default(),
            threads: Arc::default(),
            pinned: OnceLock::new(),
            loader: AtomicI32::new(thread_number()),
            tracked: Tracked::none(),
            gates: Mutex::default(),
            led_to: Once::new(),
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

    /// Under the lock of its host, which a fork takes: a child never finds this one held.
    pub(crate) fn links(&self, _of_host: &Inner) -> MutexGuard<'_, Links> {
        hold(&self.links)
    }

    /// By the thread that loads it.
    pub(crate) fn set_come(&self) {
        // Relaxed, as in `has_come`: who else asks has the module by the host's lock.
        self.has_come.store(true, Relaxed);
    }

    pub(crate) fn has_come(&self) -> bool {
        self.has_come.load(Relaxed)
    }

    /// As `links`.
    pub(crate) fn gates(&self, _of_host: &Inner) -> MutexGuard<'_, HashMap<(Hidden, usize), Gate>> {
        hold(&self.gates)
    }

    /// What gates lead by. From now on its memory is never freed.
    pub(crate) fn head(self: &Arc<Self>) -> *const Head {
        self.led_to.call_once(|| gate::keep_memory(Arc::<Self>::downgrade(self)));
        Arc::as_ptr(self).cast()
    }

    /// As `links`.
    pub(crate) fn parameters(&self, _of_host: &Inner) -> MutexGuard<'_, Vec<u8>> {
        hold(&self.parameters)
    }

    /// An init function and no exit function: Linux's [permanent].
    pub(crate) fn is_permanent(&self) -> bool {
        self.loaded().is_some_and(|l| l.init.is_some() && l.exit.is_none())
    }

    /// Takes a reference, unless the module is closed.
    #[inline]
    pub(crate) fn try_get(&self, caller: Caller) -> bool {
        if self.counter.slots.add::<1>() {
            trace::module::get(self.c_name(), None, caller);
            return true;
        }
        self.try_get_watched(caller)
    }

    /// As `try_get_in_word`, and tells the tool that watches.
    #[doc(hidden)]
    pub fn try_get_watched(&self, caller: Caller) -> bool {
        let got = self.try_get_in_word(caller);
        if got {
            tool::after(&self.counter.slots);
        }
        got
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

    /// Takes a reference even if its counter is closed, as long as somebody holds one.
    pub(crate) fn get_if_held(&self, caller: Caller) -> bool {
        let got = self.counter.get_if_held(caller);
        if got {
            trace::module::get(self.c_name(), None, caller);
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
        tool::before(&self.counter.word);
        // SAFETY: it is the caller's to give back.
        unsafe { self.counter.put(caller) };
    }

    /// Takes a reference that is tracked until [`put_tracked`](Self::put_tracked).
    ///
    /// # Safety
    ///
    /// `track` is memory for it, in use for no other one, that stays until then; so does the label, which
    /// is null or a string.
    #[doc(hidden)]
    pub unsafe fn try_get_tracked(
        &self,
        track: *mut Track,
        label: *const c_char,
        caller: Caller,
    ) -> bool {
        let got = self.try_get(caller);
        if got {
            // SAFETY: the caller's promise.
            unsafe { self.tracked.add(track, label, caller) };
        }
        got
    }

    /// Tracks a reference until [`untrack`](Self::untrack).
    ///
    /// # Safety
    ///
    /// As for [`try_get_tracked`](Self::try_get_tracked); the caller has the reference.
    pub(super) unsafe fn track(&self, track: *mut Track, label: *const c_char) {
        // SAFETY: the caller's promise.
        unsafe { self.tracked.add(track, label, Caller::UNKNOWN) };
    }

    /// # Safety
    ///
    /// `track` was given to [`track`](Self::track), once.
    pub(super) unsafe fn untrack(&self, track: *mut Track) {
        // SAFETY: the caller's promise.
        unsafe { self.tracked.remove(track) };
    }

    /// Gives a tracked reference back. What is none of this module's is reported as a surplus put.
    ///
    /// # Safety
    ///
    /// `track` is zeroed, or what `try_get_tracked` was called with.
    #[doc(hidden)]
    pub unsafe fn put_tracked(&self, track: *mut Track, caller: Caller) {
        // SAFETY: the caller's promise.
        if unsafe { self.tracked.remove(track) } {
            self.put_by(caller);
        } else {
            misuse::report(Misuse::SurplusPut, &self.counter, caller);
        }
    }

    /// Describes the tracked references.
    pub(crate) fn tracked(&self) -> Vec<Holder> {
        self.tracked.list()
    }

    /// Gives back the reference that a module is loaded with. As in Linux, tracers are told if
    /// they were told that it has come.
    pub(crate) fn put_of_load(&self) {
        self.loader.store(0, Relaxed);
        if self.has_come() {
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
        // Relaxed: most puts are of a counter that is open.
        if self.counter.word.load(Relaxed) & DRAINING != 0 && self.has_code(caller.0) {
            // SAFETY: the caller's promise.
            return unsafe { self.put_from_inside(caller) };
        }
        // SAFETY: the caller's promise.
        unsafe { self.counter.put_in_word(caller) };
    }

    /// A put by the module's own code while somebody waits for the last put. If this is the last one, the code
    /// may be gone before this returns to it. So it is reported first. The exchange tells which put is the last.
    ///
    /// # Safety
    ///
    /// The caller has the reference.
    #[cold]
    unsafe fn put_from_inside(&self, caller: Caller) {
        let address = sync::address(&self.counter.word);
        // Relaxed: the exchange decides.
        let (mut word, mut is_told) = (self.counter.word.load(Relaxed), false);
        while flags(word) == DRAINING && count(word) > 0 {
            if count(word) == 1 && !is_told {
                misuse::report(Misuse::OwnCode, &self.counter, caller);
                is_told = true;
            }
            // Release, as in every put (I5).
            match self.counter.word.compare_exchange_weak(word, word - REF, Release, Relaxed) {
                Ok(_) if word - REF == DRAINED => return address.wake_all(),
                Ok(_) => return,
                Err(now) => word = now,
            }
        }
        // SAFETY: the caller's promise.
        unsafe { self.counter.put_in_word(caller) };
    }

    /// As `put_in_word`, and tells the tool that watches.
    ///
    /// # Safety
    ///
    /// The caller has it.
    #[doc(hidden)]
    pub unsafe fn put_watched(&self, caller: Caller) {
        tool::before(&self.counter.word);
        // SAFETY: the caller's promise.
        unsafe { self.put_in_word(caller) };
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

    /// Names the threads that keep it mapped. The names are read from files, so the caller has no lock.
    pub(crate) fn with_names(&self, why: Residency) -> Residency {
        match (why, self.loaded()) {
            (Residency::Threads { running, .. }, _) => {
                Residency::Threads { first: self.threads.first(), running }
            }
            (Residency::ThreadLocals { .. }, Some(loaded)) => {
                Residency::ThreadLocals { threads: locals::awaited(&loaded.object.place) }
            }
            (why, _) => why,
        }
    }

    /// Whether there are threads that have yet to run the destructors of their thread-locals of it, if it is
    /// to be unmapped.
    pub(crate) fn locals_are_awaited(&self) -> bool {
        self.loaded().is_some_and(|loaded| locals::is_awaited(&loaded.object.place))
    }

    /// Whether an address is in its object.
    #[doc(hidden)]
    pub fn has_within(&self, address: *const c_void) -> bool {
        // GOING and released: its object may be closed.
        let is_there = self.state() != State::Going || self.refcount() >= 0;
        is_there && self.has_code(address)
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

    /// Whether its own code is at that address.
    pub(crate) fn has_code(&self, address: *const c_void) -> bool {
        self.loaded().is_some_and(|loaded| loaded.object.place.contains(address))
    }

    /// Whether this thread is loading it, and has the reference of the load: also while it tells the
    /// notifiers that the module is in service.
    pub(crate) fn is_loaded_by_this(&self) -> bool {
        // Relaxed: no other thread stores this one's number.
        self.loader.load(Relaxed) == thread_number()
    }

    /// `EDEADLK` for what would wait until this thread's own load of it has ended.
    pub(crate) fn check_loaded(&self) -> Result<(), Error> {
        if !self.is_loaded_by_this() {
            return Ok(());
        }
        Err(error!(
            libc::EDEADLK,
            "module '{}' is held by its load until all notifiers have returned, of which this very thread \
             runs one; let it return first",
            self.name()
        ))
    }

    /// `EDEADLK` for what would unmap the code that has asked for it.
    pub(crate) fn check_outside(&self, caller: Caller, what: &str) -> Result<(), Error> {
        if !self.has_code(caller.0) && !self.threads.has_this() {
            return Ok(());
        }
        Err(error!(
            libc::EDEADLK,
            "module '{0}' cannot be {what} by its own code or thread: the unmapping would wait for that, \
             or take it away; call from code that stays, or begin it here and let such code finish it",
            self.name()
        ))
    }

    /// Looks a symbol up, and gives its address.
    ///
    /// # Safety
    ///
    /// The caller has a reference.
    pub(crate) unsafe fn symbol(&self, symbol: &str) -> Result<*mut c_void, Error> {
        let Some(loaded) = self.loaded() else {
            return Err(error!(
                libc::ENOENT,
                "no symbol '{symbol}' of module '{}' yet: it is being opened",
                self.name()
            ));
        };
        locals::run();
        // SAFETY: a module that is referenced is not closed (H2).
        if let Some(address) = unsafe { loaded.object.plain_symbol(symbol) } {
            return Ok(address);
        }
        // The search takes the dynamic linker's lock.
        let _opening = Opening::begin()?;
        // SAFETY: as above.
        unsafe { loaded.object.symbol(symbol) }.ok_or_else(|| {
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
    // SAFETY: the caller's promise.
    unsafe { record.symbol(name) }
}
