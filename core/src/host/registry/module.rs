//! What users have of a module: a handle, a reference, and the symbols found with one.

use super::record::{Record, State};
use super::track::{self, Track};
use crate::Mode;
use crate::host::error::{Error, error, references};
use crate::misuse::Caller;
use std::ffi::{CString, c_void};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop, MaybeUninit};
use std::ops::Deref;
use std::panic::Location;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// A handle to a module: it keeps the host's record of it, not its code.
///
/// It answers questions about the module for ever. Using the module's code takes a [`Reference`]. Once the
/// module is unloaded every attempt to take one fails, even when the same name is loaded again: that is
/// another module.
#[derive(Clone, PartialEq, Eq)]
pub struct Module(pub(crate) Arc<Record>);

impl Module {
    /// Takes a reference, unless the module is being unloaded or is gone. Wait-free.
    ///
    /// Linux: `try_module_get`.
    #[track_caller]
    pub fn try_get(&self) -> Option<Reference> {
        // Not by map(), which would be the caller.
        Some(self.try_get_by(Caller::UNKNOWN)?.noted())
    }

    pub(crate) fn try_get_by(&self, caller: Caller) -> Option<Reference> {
        // SAFETY: the reference was taken just now.
        self.0.try_get(caller).then(|| unsafe { Reference::from_raw(self.raw()) })
    }

    /// The name it is known by in its host.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// The path it was loaded from, as it was given.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// A warning about a module that was loaded: it does not use its own unique symbols, or libraries that it
    /// needs are no longer those that are on disk.
    pub fn warning(&self) -> Option<&str> {
        self.0.loaded()?.warning.get().map(String::as_str)
    }

    /// Where it is between its load and its end.
    pub fn state(&self) -> State {
        self.0.state()
    }

    /// References held, or `None` once it is unloaded. For people and logs.
    pub fn refcount(&self) -> Option<u64> {
        self.0.counter.count().try_into().ok()
    }

    /// Describes the holders: a line for each tracked reference, and how many others there are.
    #[doc(hidden)]
    pub fn holders_text(&self) -> String {
        let mut text = String::new();
        let holders = self.0.tracked();
        for holder in &holders {
            text.push_str(&holder.text());
            if let Some(place) = track::place(holder.caller) {
                text.push_str(", from ");
                text.push_str(&place);
            }
            text.push('\n');
        }
        match self.0.held().saturating_sub(holders.len() as u64) {
            0 => {}
            others => text.push_str(&format!("{}, not tracked\n", references(others))),
        }
        text
    }

    /// How its references are counted.
    pub fn mode(&self) -> Mode {
        self.0.counter.mode()
    }

    /// Keeps the module for good: every unload and replacement, forced or not, is refused with this reason. The
    /// first reason stands. `ENOENT` if it is being unloaded.
    pub fn pin(&self, why: &str) -> Result<(), Error> {
        let host = self.0.host.upgrade();
        let lock = host.as_ref().map(|host| host.lock());
        if lock.is_none() || self.state() == State::Going {
            let name = self.name();
            return Err(error!(libc::ENOENT, "module '{name}' is being unloaded, and cannot stay"));
        }
        let _ = self.0.pinned.set(why.to_owned());
        Ok(())
    }

    /// `EDEADLK` if it is the module's own code that asks for its unload.
    #[doc(hidden)]
    pub fn check_outside(&self, caller: Caller) -> Result<(), Error> {
        self.0.check_outside(caller, "unloaded")
    }

    /// As C's `struct module *`, borrowed.
    #[doc(hidden)]
    pub fn raw(&self) -> *const Record {
        Arc::as_ptr(&self.0)
    }

    /// As C's `struct module *`, with the handle.
    #[doc(hidden)]
    pub fn into_raw(self) -> *const Record {
        Arc::into_raw(self.0)
    }

    /// # Safety
    ///
    /// `record` comes from `into_raw`, once.
    #[doc(hidden)]
    pub unsafe fn from_raw(record: *const Record) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { Arc::from_raw(record) })
    }

    /// A handle of its own to what somebody else keeps alive.
    ///
    /// # Safety
    ///
    /// `record` is a module that stays for the call.
    #[doc(hidden)]
    pub unsafe fn borrow_raw(record: *const Record) -> Self {
        // SAFETY: every Record is made in an Arc, and the caller keeps one owner.
        Self(ManuallyDrop::new(unsafe { Arc::from_raw(record) }).deref().clone())
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
/// Dropping it gives it back, on any thread. The module's own code must not drop the last one: it may be
/// gone before the drop returns.
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
    record: NonNull<Record>,
    /// Ours alone, and the list's: not a Box, which would have to be the only way there.
    noted: Option<NonNull<Note>>,
}

/// What is kept of a tracked reference.
struct Note {
    track: MaybeUninit<Track>,
    label: CString,
}

static TRACKING: AtomicBool = AtomicBool::new(false);

/// Tracks each [`Reference`] that is taken from now on: the words of a refused unload name its file and
/// line, thread and age. Earlier ones are counted as not tracked. While this is off it costs nothing;
/// while it is on a reference costs an allocation, and a lock that all share.
///
/// Linux: `ref_tracker`.
pub fn track(on: bool) {
    // Relaxed: nobody relies on when a thread sees it.
    TRACKING.store(on, Relaxed);
}

// SAFETY: a reference may be given back from any thread, and a Record is Sync.
unsafe impl Send for Reference {}
// SAFETY: what it offers by shared reference is what Record offers.
unsafe impl Sync for Reference {}

impl Reference {
    /// Tracks it, if that is wanted.
    #[inline]
    #[track_caller]
    pub(crate) fn noted(mut self) -> Self {
        // Relaxed: as in `track`.
        if TRACKING.load(Relaxed) {
            self.note_place(Location::caller());
        }
        self
    }

    #[cold]
    fn note_place(&mut self, place: &Location<'_>) {
        self.note(&format!("{}:{}", place.file(), place.line()));
    }

    /// Tracks it under this label, unless it is tracked already.
    #[cold]
    #[doc(hidden)]
    pub fn note(&mut self, label: &str) {
        if self.noted.is_none() {
            let label = CString::new(label).unwrap_or_default();
            let note = Box::new(Note { track: MaybeUninit::uninit(), label });
            let note = NonNull::from(Box::leak(note));
            let (track, label) =
                // SAFETY: it stays until `forget_note`, and so does what the label has on the heap.
                unsafe { ((*note.as_ptr()).track.as_mut_ptr(), (*note.as_ptr()).label.as_ptr()) };
            // SAFETY: as above.
            unsafe { self.record().track(track, label) };
            self.noted = Some(note);
        }
    }

    #[cold]
    fn forget_note(&self, note: NonNull<Note>) {
        // SAFETY: `note` has put it into the list, and leaked it.
        unsafe {
            self.record().untrack((*note.as_ptr()).track.as_mut_ptr());
            drop(Box::from_raw(note.as_ptr()));
        }
    }

    fn record(&self) -> &Record {
        // SAFETY: H1.
        unsafe { self.record.as_ref() }
    }

    /// A handle to the module, which may outlive the reference.
    pub fn module(&self) -> Module {
        // SAFETY: H1.
        unsafe { Module::borrow_raw(self.record.as_ptr()) }
    }

    /// The name it is known by in its host.
    pub fn name(&self) -> &str {
        self.record().name()
    }

    /// Looks up a symbol of the object, or of one that it needs, as `dlsym` does. The module's own functions
    /// and variables are found without a lock. Everything else (symbols of what it needs, thread-local ones,
    /// and those that are unique in the process) takes the dynamic linker's lock, which may wait for the
    /// constructors of an object that is being loaded. Keep symbols that you call often.
    ///
    /// If the calling thread has thread-locals of modules that have been unloaded or replaced meanwhile, their
    /// destructors run here, as in each call that loads or unloads. Until then their code stays mapped.
    ///
    /// # Safety
    ///
    /// `T` is a pointer or a function that fits the symbol.
    pub unsafe fn symbol<T>(&self, symbol: &str) -> Result<Symbol<'_, T>, Error> {
        // SAFETY: the reference is held, and the type is the caller's.
        let address = unsafe { self.record().symbol(symbol)? };
        const { assert!(size_of::<T>() == size_of::<*mut c_void>()) };
        // SAFETY: the caller's promise.
        let symbol = unsafe { mem::transmute_copy(&address) };
        Ok(Symbol { symbol, held: PhantomData })
    }

    /// As C's `struct module *`, with the reference.
    #[doc(hidden)]
    pub fn into_raw(self) -> *const Record {
        if let Some(note) = self.noted {
            self.forget_note(note);
        }
        ManuallyDrop::new(self).record.as_ptr()
    }

    /// # Safety
    ///
    /// `record` comes with a counted reference, which becomes this one.
    #[doc(hidden)]
    pub unsafe fn from_raw(record: *const Record) -> Self {
        Self { record: NonNull::new(record.cast_mut()).expect("a module"), noted: None }
    }
}

impl Clone for Reference {
    /// Takes one more, which succeeds even while the module is closed.
    #[track_caller]
    fn clone(&self) -> Self {
        // SAFETY: we hold one.
        unsafe { self.record().get(Caller::UNKNOWN) };
        Self { record: self.record, noted: None }.noted()
    }
}

impl Drop for Reference {
    #[inline]
    fn drop(&mut self) {
        if let Some(note) = self.noted {
            self.forget_note(note);
        }
        // The reference is ours to give back, once.
        self.record().put_by(Caller::UNKNOWN);
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Reference").field(self.record()).finish()
    }
}

/// A symbol of a module, for as long as the reference is held that it was found with.
pub struct Symbol<'a, T> {
    symbol: ManuallyDrop<T>,
    held: PhantomData<&'a Reference>,
}

impl<T> Deref for Symbol<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.symbol
    }
}

impl<T> fmt::Debug for Symbol<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: it was made of an address.
        let address = unsafe { mem::transmute_copy::<_, *const c_void>(&self.symbol) };
        f.debug_tuple("Symbol").field(&address).finish()
    }
}
