//! The drain handle: a drain that an event loop waits for.
//!
//! [`drain`](Counter::drain) sleeps until the last put. A program that sleeps in a loop around
//! `epoll` cannot sleep a second time; it begins a drain instead, gets a descriptor that becomes
//! readable when the drain is over, and then finishes it.
//!
//! The put that brings the count to zero touches nothing afterwards but the futex of the word's
//! address (I6), and no descriptor can be attached to a futex. So each handle has a *watcher*: a
//! thread of the library's that sleeps exactly as [`drain`](Counter::drain) does, makes the
//! descriptor readable when it wakes for good, and ends. `sync::watcher` has it.
//!
//! Three other ways do not work. A timer that expires now and then makes the descriptor readable for
//! nothing, ten times a second. A table of drains by address costs every last put a look, and puts of
//! another copy of the library cannot reach it; the futex is what all copies share. And a watcher with
//! its own table of descriptors, to write to one, holds every file of the program open for a moment,
//! and flushes files on a network when it closes them; a timer with a mark needs no such table (see
//! `sync::watcher`).
//!
//! # What becomes of a handle
//!
//! | it is                | `of`        | leaves it by                  | the counter then is             |
//! | -------------------- | ----------- | ----------------------------- | ------------------------------- |
//! | of no drain          | null        | `begin`                       | closed                          |
//! | under way            | the counter | `finish`, count zero          | released, and the caller wins   |
//! |                      |             | `finish`, time up or pinned   | live                            |
//! |                      |             | `finish`, otherwise           | closed; the handle is under way |
//! |                      |             | `cancel`                      | live                            |
//! |                      |             | `hand_over`, to the host      | closed, and the host's to end   |
//! | being asked or ended | `TAKEN`     | the thread that does so       | as above                        |
//!
//! After its end a handle may begin another drain, from the first row: `begin` writes all of it.
//!
//! After `fork` the child has a copy of the handle and of the counter, and no watcher. It ends its
//! copy as the parent does; only the descriptor, which both share, is the parent's to make
//! readable.
//!
//! # Why it is right
//!
//! **D1, the watcher decides nothing.** It never changes the counter. Whether the drain has
//! succeeded is decided by [`Drain::finish`], which looks at the word, and at the clock after it.
//!
//! **D2, no lost hint.** The watcher looks at the word once the counter is closed. If the last put
//! comes before its look, the watcher finds `DRAINED`; if it comes after, that put wakes it (I7). A get
//! that is being refused moves the count once more, for a moment. If `finish` is called at that moment,
//! it waits for the get to undo itself, because an edge-triggered event loop would not ask again. (If
//! that takes longer than `SOON`, because the thread does not run or has got without holding a
//! reference, the descriptor stops being readable until the count is zero again.)
//!
//! **D3, nothing outlives its memory.** Whoever ends a drain changes the word, sets the stop flag,
//! wakes the watcher and joins it, before the caller is told. After that no thread reads the
//! counter or the handle.
//!
//! **D4, one at a time.** Finish and cancel take the counter's address out of the handle for
//! themselves, and put it back if the drain goes on. If another caller comes meanwhile, it finds
//! [`TAKEN`] and is told `Busy`; if it comes after the end, it finds null and is told `NotBegun`.
//! Neither looks at a counter that may be gone by then.

use crate::Counter;
use crate::counter::held;
use crate::counter::release::pinned;
use crate::counter::word::BASE;
use crate::error::{DrainError, FinishError, ReleaseError};
use crate::misuse::Caller;
use crate::sync::{Deadline, Watcher, wait};
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering::*};
use core::time::Duration;
use std::os::fd::OwnedFd;

/// The value of `of` while a thread asks about the drain or ends it. No counter has this address.
const TAKEN: *mut Counter = ptr::without_provenance_mut(align_of::<Counter>());

/// How long `finish` waits at most for a get that is being refused.
const SOON: Duration = Duration::from_millis(100);

/// The state of one drain that was begun. Like the counter, it must not move until the drain is over. C's
/// `struct module_ref_drain` is this.
#[repr(C)]
pub struct Drain {
    /// The counter; null before the drain begins and once it is over; or `TAKEN`.
    of: AtomicPtr<Counter>,
    /// Written before `of` is set.
    watcher: UnsafeCell<MaybeUninit<Watcher>>,
}

// SAFETY: the watcher is written by the one thread that begins the drain, and read by the one that
// has taken `of` (D4).
unsafe impl Send for Drain {}
// SAFETY: as above.
unsafe impl Sync for Drain {}

impl Drain {
    /// A handle of no drain.
    pub const fn new() -> Self {
        Self {
            of: AtomicPtr::new(ptr::null_mut()),
            watcher: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Closes the counter, without waiting for the references that are held. The descriptor becomes
    /// readable when the last one has been put or `timeout` has passed, and only then; `None` is
    /// never. Then, or at any other time, [`finish`](Self::finish) has the outcome.
    ///
    /// # Safety
    ///
    /// No drain is under way with this handle, and no other thread uses it. Until `finish`
    /// or [`cancel`](Self::cancel) has ended the drain, handle and counter stay where they are.
    pub unsafe fn begin(
        &self,
        counter: &Counter,
        caller: Caller,
        timeout: Option<Duration>,
    ) -> Result<OwnedFd, DrainError> {
        // Look first, as every attempt does. Relaxed: it decides nothing but to give up.
        let word = counter.word.load(Relaxed);
        if word & BASE == 0 {
            return Err(ReleaseError::unclaimed(word).into());
        }
        // The watcher is started first. If that fails, the counter has not been touched. In the other
        // order gets would be refused for a drain that never began.
        // SAFETY: nobody else uses the handle, as the caller has promised.
        let place = unsafe { &mut *self.watcher.get() };
        let (watcher, descriptor) = Watcher::start(place, counter, Deadline::after(timeout))
            .map_err(|errno| DrainError::Descriptor { errno })?;
        if let Err(why) = counter.close(caller) {
            watcher.end();
            return Err(why);
        }
        // Release pairs with the Acquire of `take`.
        self.of.store(ptr::from_ref(counter).cast_mut(), Release);
        // From here on the watcher looks (D2). If it looked earlier, it might see another drain end.
        watcher.watch();
        Ok(descriptor)
    }

    /// Whether the last reference has been put since the drain was begun: `Ok` to one caller, for
    /// whom the counter is released, with everything that holders did before what follows
    /// (`Acquire`).
    ///
    /// # Safety
    ///
    /// If a drain is under way with this handle, the counter is still there.
    pub unsafe fn finish(&self, caller: Caller) -> Result<(), FinishError> {
        // SAFETY: the caller's promise.
        let counter = unsafe { self.take() }?;
        let watcher = self.watcher();
        let mut released = counter.try_finish();
        if !released && watcher.has_rung() {
            // Only gets that are being refused move the count now, each for a moment (D2).
            let mut soon = Deadline::after(Some(SOON));
            let wait = |word: &_, seen| !watcher.time_is_up() && wait(word, seen, &mut soon);
            released = counter.finish_when_drained(wait);
        }
        // The clock is read after the word. If the time runs out after this, the watcher makes the
        // descriptor readable, so nobody waits in vain for a drain that is left under way here.
        // Relaxed: a look, which decides nothing.
        if !released && !pinned(counter.word.load(Relaxed)) && !watcher.time_is_up() {
            if watcher.has_rung() {
                // The count was zero, and no longer is: a thread has not run for long, or has got without
                // a reference. The descriptor must not stay readable.
                watcher.hush();
                released = counter.try_finish();
            }
            if !released {
                let held = held(counter.word.load(Relaxed));
                // Release pairs with the Acquire of the next `take`.
                self.of.store(ptr::from_ref(counter).cast_mut(), Release);
                return Err(FinishError::InUse { held });
            }
        }
        // The last reference may have been put since. Then zero wins.
        let outcome = if released { Ok(()) } else { counter.open_again(caller) };
        self.over();
        outcome.map_err(|held| FinishError::TimedOut { held })
    }

    /// Ends the drain: the counter is live again, whether the last reference has been put or not.
    ///
    /// # Safety
    ///
    /// As for [`finish`](Self::finish).
    pub unsafe fn cancel(&self) -> Result<(), FinishError> {
        // SAFETY: the caller's promise.
        let counter = unsafe { self.take() }?;
        counter.live_again();
        self.over();
        Ok(())
    }

    /// Ends the handle's part, and leaves the counter closed: the attempt becomes the caller's.
    ///
    /// # Safety
    ///
    /// As for [`finish`](Self::finish).
    #[cfg(all(feature = "host", target_env = "gnu"))]
    pub(crate) unsafe fn hand_over(&self) -> Result<(), FinishError> {
        // SAFETY: the caller's promise.
        unsafe { self.take() }?;
        self.over();
        Ok(())
    }

    /// The counter, if a drain is under way and no other thread has taken it (D4).
    ///
    /// # Safety
    ///
    /// As for [`finish`](Self::finish).
    unsafe fn take(&self) -> Result<&Counter, FinishError> {
        // Relaxed: a look; the exchange decides.
        let mut of = self.of.load(Relaxed);
        loop {
            if of.is_null() {
                return Err(FinishError::NotBegun);
            } else if of == TAKEN {
                return Err(FinishError::Busy);
            }
            // Acquire pairs with the Release that set it.
            match self.of.compare_exchange_weak(of, TAKEN, Acquire, Relaxed) {
                // SAFETY: a counter whose drain is under way.
                Ok(_) => return Ok(unsafe { &*of }),
                Err(now) => of = now,
            }
        }
    }

    /// Only for the thread that has taken the counter.
    fn watcher(&self) -> &Watcher {
        // SAFETY: written before `of` was set, and not again until the drain is over.
        unsafe { (*self.watcher.get()).assume_init_ref() }
    }

    /// Ends the watcher (D3), and with it the drain. It takes as long as a thread needs to wake and end,
    /// some tens of microseconds.
    fn over(&self) {
        self.watcher().end();
        // Release pairs with the Acquire of a thread that finds the handle with another drain.
        self.of.store(ptr::null_mut(), Release);
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

/// What Rust makes of it.
mod typed {
    use super::{Caller, Drain, DrainError, Duration, FinishError};
    use crate::counter::guard::{ModuleRef, Released};
    use std::fmt;
    use std::ops::Deref;
    use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
    use std::sync::Arc;

    /// A counter that stays where it is for as long as this is not dropped, whatever becomes of
    /// the borrows: a `&'static ModuleRef` or an `Arc<ModuleRef>`.
    ///
    /// # Safety
    ///
    /// That is so.
    pub unsafe trait Lasting: Deref<Target = ModuleRef> {}
    // SAFETY: it stays for ever.
    unsafe impl Lasting for &'static ModuleRef {}
    // SAFETY: it is in the heap, and stays for each of its owners.
    unsafe impl Lasting for Arc<ModuleRef> {}

    impl ModuleRef {
        /// Closes the counter, so that no new guard is given out, and returns without waiting for those
        /// there are: for event loops. The descriptor of what this returns becomes readable when the
        /// last guard has been dropped or `timeout` has passed, and only then; `None` is never. Then
        /// [`finish`](Draining::finish) has the outcome.
        ///
        /// ```
        /// use module_ref::{FinishError, ModuleRef};
        ///
        /// static PLUGIN: ModuleRef = ModuleRef::new();
        ///
        /// let guard = PLUGIN.try_get().expect("live");
        /// let mut draining = ModuleRef::drain_begin(&PLUGIN, None)?;
        /// assert!(PLUGIN.try_get().is_none()); // closed
        /// // Here a program waits until the descriptor is readable, with whatever else it waits for.
        /// assert_eq!(draining.finish().unwrap_err(), FinishError::InUse { held: 1 });
        /// drop(guard);
        /// let released = draining.finish()?;
        /// # drop(released);
        /// # Ok::<(), Box<dyn std::error::Error>>(())
        /// ```
        ///
        /// A thread looks at the counter until the drain is over; a mere borrow, which
        /// [`forget`](std::mem::forget) could end, is not enough for that:
        ///
        /// ```compile_fail,E0597
        /// # use module_ref::ModuleRef;
        /// let counter = ModuleRef::new();
        /// std::mem::forget(ModuleRef::drain_begin(&counter, None));
        /// ```
        ///
        /// Linux alone. A descriptor, closed on exec, and a thread that sleeps, for as long as the drain
        /// is under way.
        pub fn drain_begin<C: Lasting>(
            counter: C,
            timeout: Option<Duration>,
        ) -> Result<Draining<C>, DrainError> {
            let handle = Box::<Drain>::default();
            // SAFETY: the handle is new. It stays in its box, and the counter where it is, until
            // `Draining` is dropped, and that ends the drain.
            let descriptor = unsafe { handle.begin(counter.counter(), Caller::UNKNOWN, timeout) }?;
            Ok(Draining { counter, handle, descriptor })
        }
    }

    /// A drain that was [begun](ModuleRef::drain_begin). Dropping it cancels it: the counter is live
    /// again.
    ///
    /// Its descriptor ([`AsFd`]) is readable once [`finish`](Self::finish) will end the drain, and stays
    /// so: level- and edge-triggered loops can both wait for it. There is nothing to be read.
    #[must_use = "dropping it makes the counter live again"]
    pub struct Draining<C: Lasting> {
        counter: C,
        handle: Box<Drain>,
        descriptor: OwnedFd,
    }

    impl<C: Lasting> Draining<C> {
        /// Whether the last guard has been dropped. [`FinishError::InUse`] says to wait on; after
        /// anything else the drain is over.
        ///
        /// Memory ordering as in [`try_release`](ModuleRef::try_release).
        pub fn finish(&mut self) -> Result<Released<'_>, FinishError> {
            // SAFETY: the counter lasts.
            unsafe { self.handle.finish(Caller::UNKNOWN) }.map(|()| Released::won(&self.counter))
        }

        /// Makes the counter live again, whether the last guard has been dropped or not.
        pub fn cancel(self) {}
    }

    impl<C: Lasting> Drop for Draining<C> {
        fn drop(&mut self) {
            // SAFETY: the counter lasts. It fails if the drain is over.
            let _ = unsafe { self.handle.cancel() };
        }
    }

    impl<C: Lasting> AsFd for Draining<C> {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.descriptor.as_fd()
        }
    }

    impl<C: Lasting> AsRawFd for Draining<C> {
        fn as_raw_fd(&self) -> RawFd {
            self.descriptor.as_raw_fd()
        }
    }

    impl<C: Lasting> fmt::Debug for Draining<C> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Draining").field("counter", &*self.counter).finish_non_exhaustive()
        }
    }
}
pub use typed::{Draining, Lasting};
