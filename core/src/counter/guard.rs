//! The counter with types around it: what a guard stands for cannot be given
//! back twice, and only the winner of a release has the means to go on.

use crate::error::{DrainError, InitError, ReleaseError};
use crate::misuse::Caller;
#[cfg(feature = "std")]
use crate::sync;
use crate::sync::Word;
use crate::{Counter, Mode};
use core::fmt;
use core::mem::ManuallyDrop;
#[cfg(feature = "std")]
use core::time::Duration;

/// A reference counter that can be closed.
///
/// Users take a [`Guard`] for as long as they use what the counter stands for:
/// the code of a plugin, a device, a table. Whoever wants to take it away asks
/// [`try_release`](Self::try_release), or closes the counter and waits with
/// [`drain`](Self::drain); one of them at most gets a [`Released`].
///
/// ```
/// use module_ref::ModuleRef;
///
/// static PLUGIN: ModuleRef = ModuleRef::new();
///
/// let guard = PLUGIN.try_get().expect("live");
/// assert!(PLUGIN.try_release().is_err()); // in use
/// drop(guard);
/// let released = PLUGIN.try_release().expect("nobody holds it");
/// assert!(PLUGIN.try_get().is_none()); // closed
/// released.reinit();
/// assert!(PLUGIN.try_get().is_some());
/// ```
///
/// A guard is given back once, by dropping it:
///
/// ```compile_fail,E0382
/// # let counter = module_ref::ModuleRef::new();
/// let guard = counter.try_get().unwrap();
/// drop(guard);
/// drop(guard);
/// ```
///
/// and it cannot outlive its counter:
///
/// ```compile_fail,E0505
/// # let counter = module_ref::ModuleRef::new();
/// let guard = counter.try_get().unwrap();
/// drop(counter);
/// drop(guard);
/// ```
#[repr(transparent)]
pub struct ModuleRef {
    counter: Counter,
}

impl ModuleRef {
    /// A live counter that nobody holds, in shared-word mode.
    pub const fn new() -> Self {
        Self { counter: Counter::new() }
    }

    /// A live counter that nobody holds, in per-CPU mode if this system can: ask
    /// [`mode`](Self::mode). The error is that there is no memory.
    ///
    /// ```
    /// # use module_ref::{Mode, ModuleRef};
    /// let counter = ModuleRef::new_percpu()?;
    /// println!("counting in {:?} mode", counter.mode());
    /// # Ok::<(), module_ref::InitError>(())
    /// ```
    pub fn new_percpu() -> Result<Self, InitError> {
        Ok(Self { counter: Counter::new_percpu()? })
    }

    /// The protocol without types, for bindings to other languages.
    pub const fn counter(&self) -> &Counter {
        &self.counter
    }

    /// A counter that came from another language.
    pub const fn from_counter(counter: &Counter) -> &Self {
        // SAFETY: `ModuleRef` is a transparent `Counter`.
        unsafe { &*core::ptr::from_ref(counter).cast::<Self>() }
    }

    /// Takes a reference unless the counter is closed. Wait-free and
    /// async-signal-safe.
    ///
    /// Everything the last [`reinit`](Released::reinit) published happens before
    /// what the guard's holder does. Linux: `try_module_get`.
    #[inline]
    #[must_use = "the reference is given back at once when the guard is dropped"]
    pub fn try_get(&self) -> Option<Guard<'_>> {
        self.counter.try_get(Caller::UNKNOWN).then(|| Guard { of: self })
    }

    /// As [`try_get`](Self::try_get), and also from a closed counter for as long as somebody holds a
    /// reference: for a registry of callbacks that is called from inside, while others drain. (Per CPU
    /// also just as a drain begins, whether or not somebody holds one.)
    /// Lock-free and async-signal-safe.
    ///
    /// ```
    /// use module_ref::ModuleRef;
    ///
    /// static PLUGIN: ModuleRef = ModuleRef::new();
    ///
    /// let guard = PLUGIN.try_get().expect("live");
    /// let draining = ModuleRef::drain_begin(&PLUGIN, None)?;
    /// assert!(PLUGIN.try_get().is_none()); // closed
    /// assert!(PLUGIN.get_if_held().is_some()); // and held
    /// drop(guard);
    /// assert!(PLUGIN.get_if_held().is_none());
    /// # drop(draining);
    /// # Ok::<(), module_ref::DrainError>(())
    /// ```
    #[must_use = "the reference is given back at once when the guard is dropped"]
    pub fn get_if_held(&self) -> Option<Guard<'_>> {
        self.counter.get_if_held(Caller::UNKNOWN).then(|| Guard { of: self })
    }

    /// Releases the counter if nobody holds a reference; does not wait. Refused,
    /// it has changed nothing.
    ///
    /// What all holders did before they dropped their guards happens before what
    /// follows a success. Linux: `try_release_module_ref`.
    pub fn try_release(&self) -> Result<Released<'_>, ReleaseError> {
        self.counter.try_release(Caller::UNKNOWN).map(|()| Released { of: self })
    }

    /// Closes the counter, so that no new guard is given out, and sleeps until the
    /// last one is dropped. `None` waits for ever. After the timeout the counter
    /// is live as before; if the last guard went in that very moment, it is
    /// released.
    ///
    /// Memory ordering as in [`try_release`](Self::try_release). A thread that
    /// drains a counter of which it holds a guard itself waits for itself.
    #[cfg(feature = "std")]
    pub fn drain(&self, timeout: Option<Duration>) -> Result<Released<'_>, DrainError> {
        self.counter.drain(Caller::UNKNOWN, timeout).map(|()| Released { of: self })
    }

    /// [`drain`](Self::drain) for those who have another way to wait. `wait` is
    /// called whenever references are still held; it waits as it likes and says
    /// whether to go on. Once it has said no the counter becomes live again.
    pub fn drain_with(
        &self,
        mut wait: impl FnMut(&Held<'_>) -> bool,
    ) -> Result<Released<'_>, DrainError> {
        self.counter
            .drain_with(Caller::UNKNOWN, |word, seen| wait(&Held { word, seen }))
            .map(|()| Released { of: self })
    }

    /// References held; `None` once released. Stale as soon as it is read: for
    /// people and logs.
    pub fn count(&self) -> Option<u64> {
        self.counter.count().try_into().ok()
    }

    /// Whether the counter is released. Only the [`Released`] that the winner got
    /// gives a right to anything.
    pub fn is_released(&self) -> bool {
        self.counter.is_released()
    }

    /// How the counter counts.
    pub fn mode(&self) -> Mode {
        self.counter.mode()
    }
}

impl Drop for ModuleRef {
    fn drop(&mut self) {
        self.counter.give_up_slots();
    }
}

impl Default for ModuleRef {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ModuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ModuleRef")
            .field("count", &self.count())
            .field("mode", &self.mode())
            .finish()
    }
}

/// One reference to a [`ModuleRef`]; dropping it gives the reference back.
///
/// Cloning takes one more, even while a drain is under way, because whoever
/// clones holds one. A forgotten guard is a leak: the counter is never released.
#[must_use = "dropping the guard gives the reference back"]
pub struct Guard<'a> {
    of: &'a ModuleRef,
}

impl<'a> Guard<'a> {
    /// The counter this is a reference to.
    pub fn module_ref(&self) -> &'a ModuleRef {
        self.of
    }

    /// Keeps the reference without the guard, to be given back through
    /// [`from_raw`](Self::from_raw), in another thread or another language.
    pub fn into_raw(self) -> &'a ModuleRef {
        ManuallyDrop::new(self).of
    }

    /// Makes a guard of a reference that is held but has no guard.
    ///
    /// # Safety
    ///
    /// The caller owns a reference to `of`, from [`into_raw`](Self::into_raw) or
    /// from another language, and gives it to the guard.
    pub unsafe fn from_raw(of: &'a ModuleRef) -> Self {
        Self { of }
    }
}

impl Clone for Guard<'_> {
    #[inline]
    fn clone(&self) -> Self {
        // SAFETY: this guard is a reference.
        unsafe { self.of.counter.get(Caller::UNKNOWN) };
        Self { of: self.of }
    }
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the guard owns its reference, and this is its end.
        unsafe { self.of.counter.put(Caller::UNKNOWN) };
    }
}

impl fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guard").field(self.of).finish()
    }
}

/// The proof that this thread's release won. Dropping it leaves the counter
/// released.
#[must_use = "without it nobody can make the counter live again"]
pub struct Released<'a> {
    of: &'a ModuleRef,
}

impl<'a> Released<'a> {
    /// For whoever has just won the release.
    #[cfg(all(feature = "std", target_os = "linux"))]
    pub(crate) fn won(of: &'a ModuleRef) -> Self {
        Self { of }
    }

    /// Makes the counter live again. What the caller did before happens before
    /// what any later holder does.
    pub fn reinit(self) {
        // SAFETY: a `Released` is made by the winner of a release alone.
        let outcome: Result<(), InitError> = unsafe { self.of.counter.reinit() };
        // There is one `Released` per release, so this one's counter still is.
        outcome.expect("a counter left its released state without its Released");
    }
}

impl fmt::Debug for Released<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Released").field(self.of).finish()
    }
}

/// A counter that is being drained, as [`drain_with`](ModuleRef::drain_with)
/// shows it to its waiter.
pub struct Held<'a> {
    #[cfg_attr(not(feature = "std"), allow(dead_code, reason = "only a sleeper needs it"))]
    word: &'a Word,
    seen: u64,
}

impl<'a> Held<'a> {
    #[cfg(all(feature = "host", target_os = "linux", target_env = "gnu"))]
    pub(crate) fn new(word: &'a Word, seen: u64) -> Self {
        Self { word, seen }
    }

    /// References held at the last look.
    pub fn count(&self) -> u64 {
        crate::counter::held(self.seen)
    }

    /// Sleeps until the last put or for `timeout`, or less.
    #[cfg(feature = "std")]
    pub fn park_timeout(&self, timeout: Duration) {
        sync::wait(self.word, self.seen, &mut sync::Deadline::after(Some(timeout)));
    }
}
