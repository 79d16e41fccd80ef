//! What users have of a module: a handle, a reference, and the symbols found with one.

use super::record::{Record, State};
use crate::Mode;
use crate::host::error::{Error, references};
use crate::misuse::Caller;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;

/// A handle to a module: it keeps the host's record of it, not its code.
///
/// It can be asked about the module for ever. To use the module's code takes a
/// [`Reference`]; once the module is unloaded there is none to be had, also when the
/// same name is loaded again: that is another module.
#[derive(Clone, PartialEq, Eq)]
pub struct Module(pub(crate) Arc<Record>);

impl Module {
    /// Takes a reference, unless the module is being unloaded or is gone. Wait-free.
    ///
    /// Linux: `try_module_get`.
    pub fn try_get(&self) -> Option<Reference> {
        self.try_get_by(Caller::UNKNOWN)
    }

    pub(crate) fn try_get_by(&self, caller: Caller) -> Option<Reference> {
        self.0.try_get(caller).then(|| Reference { record: NonNull::from(&*self.0) })
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
    record: NonNull<Record>,
}

// SAFETY: a reference may be given back from any thread, and a Record is Sync.
unsafe impl Send for Reference {}
// SAFETY: what it offers by shared reference is what Record offers.
unsafe impl Sync for Reference {}

impl Reference {
    fn record(&self) -> &Record {
        // SAFETY: H1.
        unsafe { self.record.as_ref() }
    }

    pub(crate) fn record_ptr(&self) -> *const Record {
        self.record.as_ptr()
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

    /// Looks up what the object, or one that it needs, has under this name: as `dlsym`,
    /// whose lock it takes, so that it may wait for the constructors of an object that is
    /// being loaded. Keep symbols that are called often.
    ///
    /// # Safety
    ///
    /// `T` is a pointer or a function that fits the symbol.
    pub unsafe fn symbol<T>(&self, symbol: &str) -> Result<Symbol<'_, T>, Error> {
        // SAFETY: the reference is held, and the type is the caller's.
        let raw = unsafe { self.record().symbol(symbol)? };
        Ok(Symbol { raw, held: PhantomData })
    }

    /// As C's `struct module *`, with the reference.
    #[doc(hidden)]
    pub fn into_raw(self) -> *const Record {
        ManuallyDrop::new(self).record.as_ptr()
    }

    /// # Safety
    ///
    /// `record` comes with a counted reference, which becomes this one.
    #[doc(hidden)]
    pub unsafe fn from_raw(record: *const Record) -> Self {
        Self { record: NonNull::new(record.cast_mut()).expect("a module") }
    }
}

impl Clone for Reference {
    /// Takes one more, which succeeds also while the module's door is shut.
    fn clone(&self) -> Self {
        // SAFETY: we hold one.
        unsafe { self.record().get(Caller::UNKNOWN) };
        Self { record: self.record }
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
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
