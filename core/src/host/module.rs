//! A module: the counter, its state, and the object behind it.

use super::error::{Error, references};
use super::host::Shared;
use super::open::Object;
use crate::counter::is_odd;
use crate::counter::release::Folded;
use crate::misuse::Caller;
use crate::trace;
use crate::{Counter, Mode};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering::*};
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
    pub(super) fn title(self) -> &'static str {
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

pub(super) type InitFn = unsafe extern "C-unwind" fn() -> c_int;
pub(super) type ExitFn = unsafe extern "C-unwind" fn();

/// The host's record of one load of an object. C's `struct module` is this; its address is
/// its counter's.
///
/// It lives in host memory and is freed with its last owner: the host's table for as long as
/// the module is there or anybody holds a reference (H1), and every handle.
#[repr(C)]
pub struct Core {
    pub(super) counter: Counter,
    /// Where `name` begins, which is what the C library's probes want to know: it is second, and
    /// a plain pointer. (Atomic, so that the record can be shared; nobody writes it.)
    c_name: AtomicPtr<c_char>,
    /// With a NUL at its end, for C.
    name: Box<str>,
    pub(super) host: Weak<Shared>,
    /// Later loads have higher ones.
    pub(super) serial: u64,
    state: AtomicU32,
    /// As it was asked for.
    path: PathBuf,
    pub(super) how: How,
    /// What other objects name it by, once its file is found.
    pub(super) soname: OnceLock<Vec<u8>>,
    loaded: OnceLock<Loaded>,
    links: Mutex<Links>,
    /// The notifiers have let it come.
    come: AtomicBool,
}

/// Where the C library's probes find the address of a module's name.
#[doc(hidden)]
pub const NAME_AT: usize = std::mem::offset_of!(Core, c_name);

/// How a module was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// How its references are counted.
    pub(super) mode: Mode,
    /// Whether it is loaded from a copy of the file.
    pub(super) copied: bool,
}

/// What is known once the object is open.
pub(super) struct Loaded {
    pub(super) object: Object,
    pub(super) init: Option<InitFn>,
    pub(super) exit: Option<ExitFn>,
}

/// Who depends on whom, and what else is only looked at under the host's lock. Each
/// dependency is two entries and one reference on the provider.
#[derive(Default)]
pub(super) struct Links {
    pub(super) uses: Vec<Arc<Core>>,
    pub(super) used_by: Vec<Arc<Core>>,
    /// It is being removed by force.
    pub(super) forced: bool,
}

impl Core {
    /// A record in state UNFORMED, with the reference that is held while it is loaded.
    pub(super) fn new(
        host: Weak<Shared>,
        serial: u64,
        name: &str,
        path: &Path,
        how: How,
    ) -> Result<Arc<Self>, Error> {
        let counter = match how.mode {
            Mode::Atomic => Counter::new(),
            Mode::PerCpu => Counter::new_percpu().map_err(|error| {
                Error::new(libc::ENOMEM, format!("cannot load module '{name}': {error}"))
            })?,
        };
        // check_name() refuses a NUL inside.
        let name = format!("{name}\0").into_boxed_str();
        let core = Self {
            counter,
            c_name: AtomicPtr::new(name.as_ptr().cast_mut().cast()),
            name,
            host,
            serial,
            state: AtomicU32::new(State::Unformed as u32),
            path: path.to_owned(),
            how,
            soname: OnceLock::new(),
            loaded: OnceLock::new(),
            links: Mutex::default(),
            come: AtomicBool::new(false),
        };
        // As in Linux, no trace point: nobody knows of it yet.
        assert!(core.counter.try_get(Caller::HOST), "a new counter is live");
        Ok(Arc::new(core))
    }

    pub(super) fn name(&self) -> &str {
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
    pub(super) fn set_state(&self, state: State) {
        // Release pairs with the Acquire of state().
        self.state.store(state as u32, Release);
    }

    pub(super) fn set_loaded(&self, loaded: Loaded) {
        assert!(self.loaded.set(loaded).is_ok(), "a module is opened once");
    }

    /// What it is, from COMING on.
    pub(super) fn loaded(&self) -> Option<&Loaded> {
        self.loaded.get()
    }

    pub(super) fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An init function and no exit function: Linux's [permanent].
    pub(super) fn is_permanent(&self) -> bool {
        self.loaded().is_some_and(|l| l.init.is_some() && l.exit.is_none())
    }

    /// Takes a reference, unless the door is shut.
    #[inline]
    pub(super) fn try_get(&self, caller: Caller) -> bool {
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
        if is_odd(old) {
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
    pub(super) fn put(&self) {
        self.put_by(Caller::HOST);
    }

    /// Gives back a reference that was taken in somebody's name.
    pub(super) fn put_by(&self, caller: Caller) {
        trace::module::put(self.c_name(), caller);
        // SAFETY: it is the caller's to give back.
        unsafe { self.counter.put(caller) };
    }

    /// Gives back the reference that a module is loaded with. As in Linux, tracers are told if
    /// they were told that it has come.
    pub(super) fn put_of_load(&self) {
        if self.has_come() {
            self.put();
        } else {
            // SAFETY: the load has it, and this is its end.
            unsafe { self.counter.put(Caller::HOST) };
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

    /// The notifiers have let it come; its init function is next. Once.
    pub(super) fn comes(&self, tainted: bool) {
        trace::module::load(self.c_name(), tainted);
        // Relaxed: whoever ends it has learned of it through the host's lock, or is this thread.
        self.come.store(true, Relaxed);
    }

    /// Whether `comes` was called.
    pub(super) fn has_come(&self) -> bool {
        // Relaxed: as above.
        self.come.load(Relaxed)
    }

    /// References held, for sentences.
    pub(super) fn held(&self) -> u64 {
        self.counter.count().max(0) as u64
    }

    /// Shuts the counter for good.
    pub(super) fn shut(&self) -> Option<Folded> {
        self.counter.shut(Caller::UNKNOWN).ok()
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
    pub fn raw_host(&self) -> *const Shared {
        self.host.upgrade().map_or(std::ptr::null(), |host| Arc::as_ptr(&host))
    }

    /// Looks a symbol up.
    ///
    /// # Safety
    ///
    /// The caller has a reference; `T` is a pointer or a function that fits the symbol.
    unsafe fn symbol<T>(&self, symbol: &str) -> Result<libloading::os::unix::Symbol<T>, Error> {
        let Some(loaded) = self.loaded() else {
            let why =
                format!("no symbol '{symbol}' of module '{}' yet: it is being opened", self.name());
            return Err(Error::new(libc::ENOENT, why));
        };
        // SAFETY: a module that is referenced is not closed (H2); the type is the caller's.
        unsafe { loaded.object.symbol(symbol) }.map_err(|_| {
            Error::new(
                libc::ENOENT,
                format!(
                    "module '{}' has no symbol '{symbol}' (nm -D lists what it exports)",
                    self.name()
                ),
            )
        })
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.counter.give_up_slots();
    }
}

impl PartialEq for Core {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Core {}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Module")
            .field("name", &self.name())
            .field("state", &self.state())
            .field("refcount", &self.refcount())
            .finish()
    }
}

/// A handle to a module: it keeps the host's record of it, not its code.
///
/// It can be asked about the module for ever. To use the module's code takes a
/// [`Reference`]; once the module is unloaded there is none to be had, also when the
/// same name is loaded again: that is another module.
#[derive(Clone, PartialEq, Eq)]
pub struct Module(pub(super) Arc<Core>);

impl Module {
    /// Takes a reference, unless the module is being unloaded or is gone. Wait-free.
    ///
    /// Linux: `try_module_get`.
    pub fn try_get(&self) -> Option<Reference> {
        self.try_get_by(Caller::UNKNOWN)
    }

    pub(super) fn try_get_by(&self, caller: Caller) -> Option<Reference> {
        self.0.try_get(caller).then(|| Reference { core: NonNull::from(&*self.0) })
    }

    /// The name it is known by in its host.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// The path it was loaded from, as it was given.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Where it is between its load and its end.
    pub fn state(&self) -> State {
        self.0.state()
    }

    /// References held, or `None` once it is unloaded. For people and logs.
    pub fn refcount(&self) -> Option<u64> {
        self.0.counter.count().try_into().ok()
    }

    /// Who holds it, as text, a line each. References are not tracked, so it says how many there
    /// are.
    #[doc(hidden)]
    pub fn holders_text(&self) -> String {
        match self.0.held() {
            0 => String::new(),
            held => format!("{}, not tracked\n", references(held)),
        }
    }

    /// How its references are counted.
    pub fn mode(&self) -> Mode {
        self.0.counter.mode()
    }

    /// As C's `struct module *`, with the handle.
    #[doc(hidden)]
    pub fn into_raw(self) -> *const Core {
        Arc::into_raw(self.0)
    }

    /// # Safety
    ///
    /// `core` comes from `into_raw`, once.
    #[doc(hidden)]
    pub unsafe fn from_raw(core: *const Core) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Arc::from_raw(core) })
    }

    /// A handle of its own to what somebody else keeps alive.
    ///
    /// # Safety
    ///
    /// `core` is a module that stays for the call.
    #[doc(hidden)]
    pub unsafe fn borrow_raw(core: *const Core) -> Self {
        // SAFETY: every Core is made in an Arc, and the caller keeps one owner.
        Self(ManuallyDrop::new(unsafe { Arc::from_raw(core) }).deref().clone())
    }
}

impl Hash for Module {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // As for equality: which load it is, not what it looks like.
        std::ptr::hash(Arc::as_ptr(&self.0), state);
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A reference to a module: for as long as it is held, the module's code stays.
///
/// Dropping it gives it back, from whichever thread. Not from the module's own code, if
/// it is the last: that code may be gone before the drop returns.
///
/// A symbol cannot outlive the reference it was found with:
///
/// ```compile_fail,E0505
/// # use module_ref::host::Reference;
/// fn f(reference: Reference) {
///     // SAFETY: the plugin has it so.
///     let answer = unsafe { reference.symbol::<extern "C" fn() -> i64>("answer") }.unwrap();
///     drop(reference);
///     answer();
/// }
/// ```
///
/// ```
/// # use module_ref::host::Reference;
/// fn f(reference: Reference) {
///     // SAFETY: the plugin has it so.
///     let answer = unsafe { reference.symbol::<extern "C" fn() -> i64>("answer") }.unwrap();
///     answer();
///     drop(reference);
/// }
/// ```
pub struct Reference {
    /// Kept by the host for as long as there is a reference (H1): a handle would be one
    /// more count that all threads share.
    core: NonNull<Core>,
}

// SAFETY: a reference may be given back from any thread, and a Core is Sync.
unsafe impl Send for Reference {}
// SAFETY: what it offers by shared reference is what Core offers.
unsafe impl Sync for Reference {}

impl Reference {
    /// # Safety
    ///
    /// The caller has a counted reference on the module, which becomes this one.
    pub(super) unsafe fn adopt(core: &Core) -> Self {
        Self { core: NonNull::from(core) }
    }

    fn core(&self) -> &Core {
        // SAFETY: H1.
        unsafe { self.core.as_ref() }
    }

    pub(super) fn core_ptr(&self) -> *const Core {
        self.core.as_ptr()
    }

    /// A handle to the module, which may outlive the reference.
    pub fn module(&self) -> Module {
        // SAFETY: H1.
        unsafe { Module::borrow_raw(self.core.as_ptr()) }
    }

    /// The name it is known by in its host.
    pub fn name(&self) -> &str {
        self.core().name()
    }

    /// Looks up what the object, or one that it needs, has under this name: as `dlsym`,
    /// whose lock it takes, so that it may wait for the constructors of an object that is
    /// being loaded. Keep symbols that are called often.
    ///
    /// # Safety
    ///
    /// `T` is a pointer or a function that fits the symbol.
    pub unsafe fn symbol<T>(&self, symbol: &str) -> Result<Symbol<'_, T>, Error> {
        // SAFETY: the reference is held, and the type is the caller's.
        let raw = unsafe { self.core().symbol(symbol)? };
        Ok(Symbol { raw, held: PhantomData })
    }

    /// As C's `struct module *`, with the reference.
    #[doc(hidden)]
    pub fn into_raw(self) -> *const Core {
        ManuallyDrop::new(self).core.as_ptr()
    }

    /// # Safety
    ///
    /// `core` comes with a counted reference, which becomes this one.
    #[doc(hidden)]
    pub unsafe fn from_raw(core: *const Core) -> Self {
        Self { core: NonNull::new(core.cast_mut()).expect("a module") }
    }
}

impl Clone for Reference {
    /// Takes one more, which succeeds also while the module's door is shut.
    fn clone(&self) -> Self {
        // SAFETY: we hold one.
        unsafe { self.core().get(Caller::UNKNOWN) };
        Self { core: self.core }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        // The reference is ours to give back, once.
        self.core().put_by(Caller::UNKNOWN);
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reference").field(self.core()).finish()
    }
}

/// A symbol of a module, for as long as the reference is held that it was found with.
pub struct Symbol<'a, T> {
    raw: libloading::os::unix::Symbol<T>,
    held: PhantomData<&'a Reference>,
}

impl<T> Deref for Symbol<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.raw
    }
}

impl<T> fmt::Debug for Symbol<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.raw.fmt(f)
    }
}

/// The name that a file's module has if none is given: the file's, up to `.so`.
pub(super) fn name_of_file(path: &Path) -> Result<String, Error> {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let end = [".so.", ".so"].iter().find_map(|ext| {
        let at = file.find(ext)?;
        (*ext == ".so." || at + ext.len() == file.len()).then_some(at)
    });
    let name = &file[..end.unwrap_or(file.len())];
    check_name(name).map_err(|error| {
        Error::new(
            error.errno(),
            format!("{error}, which '{}' is called after its file; give a name", path.display()),
        )
    })?;
    Ok(name.to_owned())
}

/// The room for a name with its end, as in Linux (`MODULE_NAME_LEN`).
pub const NAME_LEN: usize = 56;

/// Whether a module can be called this.
pub(super) fn check_name(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(Error::new(libc::EINVAL, "a module cannot have an empty name"));
    }
    if name.len() >= NAME_LEN {
        return Err(Error::new(
            libc::ENAMETOOLONG,
            format!(
                "a module cannot be called '{name}': that is {} bytes, and {} is the most",
                name.len(),
                NAME_LEN - 1
            ),
        ));
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == ',' || c == '/';
    if name.contains(odd) {
        return Err(Error::new(
            libc::EINVAL,
            format!(
                "a module cannot be called '{}': no spaces, commas, slashes",
                name.escape_debug()
            ),
        ));
    }
    Ok(())
}

/// What a symbol's address is for C.
///
/// # Safety
///
/// The caller has a reference to `core`.
#[doc(hidden)]
pub unsafe fn raw_symbol(core: &Core, symbol: &CStr) -> Result<*mut c_void, Error> {
    let name = symbol.to_str().map_err(|_| {
        Error::new(libc::EINVAL, format!("the symbol's name {symbol:?} is not UTF-8"))
    })?;
    // SAFETY: the caller's promise; an address is all we want.
    unsafe { core.symbol::<*mut c_void>(name) }.map(|symbol| symbol.as_raw_ptr())
}
