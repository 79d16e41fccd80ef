//! A value that readers see without a lock, and that a writer replaces: what a host's lookups read.
//!
//! Each state of the value has a *place* with a counter, and is in it what a module is in a host. A
//! reader holds a reference while it looks. A writer puts the new state into another place, makes
//! that the current one, and closes the old one's counter. Once that is released nobody reads the
//! old state, so it is dropped, and its place is used again.
//!
//! Readers wait for nobody, and nobody waits for them: if one is still in a place when the next state
//! is to be written, the writer takes another place. So a reader may be a signal handler, or a thread
//! that a fork has left behind. Places are never freed before the whole is, so that a reader which
//! comes late finds a counter there, closed or not.

use crate::counter::Counter;
use crate::misuse::Caller;
use crate::sync::{self, Pointer};
use core::cell::{Cell, UnsafeCell};
use core::iter;
use core::ops::Deref;
use core::ptr;
use core::sync::atomic::Ordering::*;
use std::boxed::Box;

/// The current state of a value.
pub(crate) struct Published<T> {
    current: Pointer<Place<T>>,
    /// The place that was made last. Writers alone look at it.
    places: Pointer<Place<T>>,
}

/// The right to write what it was made with: there is one at a time.
pub(crate) struct Writer(());

struct Place<T> {
    counter: Counter,
    /// Written by the winner of the counter's release alone (I1); read by whoever holds a reference.
    value: UnsafeCell<Option<T>>,
    /// The writers' alone.
    stage: Cell<Stage>,
    /// The place that was made before it.
    next: *mut Place<T>,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Current,
    /// It is to be closed. That fails if the barrier is refused; the next write tries again.
    Past,
    Closed,
    /// Its counter is released, by us: it can be used again.
    Free,
}

// SAFETY: readers on several threads share a value, and any writer may drop it. What is the
// writers' alone has one user at a time.
unsafe impl<T: Send + Sync> Send for Published<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Published<T> {}

impl<T> Place<T> {
    /// A new one, whose counter is live.
    fn new(value: T, next: *mut Self) -> *mut Self {
        #[cfg(not(loom))]
        let counter = Counter::new_percpu().unwrap_or_default();
        #[cfg(loom)]
        let counter = Counter::new();
        let (value, stage) = (UnsafeCell::new(Some(value)), Cell::new(Stage::Current));
        Box::into_raw(Box::new(Self { counter, value, stage, next }))
    }

    /// Drops the state of a place that is not the current one, if nobody reads it any more.
    fn sweep(&self) {
        if self.stage.get() == Stage::Past && self.counter.close(Caller::UNKNOWN).is_ok() {
            self.stage.set(Stage::Closed);
        }
        if self.stage.get() == Stage::Closed && self.counter.try_finish() {
            // SAFETY: we are the winner of its release.
            drop(unsafe { (*self.value.get()).take() });
            self.stage.set(Stage::Free);
        }
    }
}

#[cfg(not(loom))]
impl<T> Drop for Place<T> {
    fn drop(&mut self) {
        self.counter.give_up_slots();
    }
}

impl<T> Published<T> {
    pub(crate) fn new(value: T) -> (Self, Writer) {
        let place = Place::new(value, ptr::null_mut());
        (Self { current: Pointer::new(place), places: Pointer::new(place) }, Writer(()))
    }

    /// The current state, for as long as the answer is kept. Lock-free: it looks again only if a
    /// writer has replaced the state meanwhile. Async-signal-safe.
    pub(crate) fn read(&self) -> Reading<'_, T> {
        loop {
            // Acquire pairs with the swap in `write`: the place is there.
            let at = self.current.load(Acquire);
            // SAFETY: places are freed with `self` alone.
            let place = unsafe { &*at };
            // If it fails the place was closed, after another one had become current.
            if !place.counter.try_get(Caller::UNKNOWN) {
                sync::look_again();
                continue;
            }
            let reading = Reading(place);
            // The place may have been used again between our two steps, for a state that is
            // published only now. Who saw that, and then read the one before, would go back in time.
            // Acquire, as above; the place is kept from changing by our reference.
            if self.current.load(Acquire) == at {
                return reading;
            }
            sync::look_again();
        }
    }

    /// Makes `value` the current state. The one before is dropped when nobody reads it any more: here,
    /// or by a later write.
    pub(crate) fn write(&self, _writer: &mut Writer, value: T) {
        let next = match self.places().find(|place| place.stage.get() == Stage::Free) {
            Some(place) => {
                // SAFETY: its counter is released, and we are the winner.
                unsafe {
                    *place.value.get() = Some(value);
                    place.counter.reinit().expect("released, by us");
                }
                place.stage.set(Stage::Current);
                ptr::from_ref(place).cast_mut()
            }
            None => {
                // Relaxed: writers come one after the other.
                let place = Place::new(value, self.places.load(Relaxed));
                self.places.store(place, Relaxed);
                place
            }
        };
        // Release pairs with the Acquire of `read`. It comes before the close: a reader that is
        // refused there finds another place here.
        let past = self.current.swap(next, Release);
        // SAFETY: places are freed with `self` alone.
        unsafe { &*past }.stage.set(Stage::Past);
        self.places().for_each(Place::sweep);
    }

    /// All places, for a writer.
    fn places(&self) -> impl Iterator<Item = &Place<T>> {
        // Relaxed: writers come one after the other.
        // SAFETY: places are freed with `self` alone.
        let last = unsafe { self.places.load(Relaxed).as_ref() };
        iter::successors(last, |place| {
            // SAFETY: as above.
            unsafe { place.next.as_ref() }
        })
    }
}

impl<T> Drop for Published<T> {
    fn drop(&mut self) {
        // Relaxed: whoever drops it has it alone.
        let mut at = self.places.load(Relaxed);
        while !at.is_null() {
            // SAFETY: nobody reads or writes it any more.
            at = unsafe { Box::from_raw(at) }.next;
        }
    }
}

/// A state, held.
pub(crate) struct Reading<'a, T>(&'a Place<T>);

impl<T> Deref for Reading<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: nobody writes it while we hold a reference.
        unsafe { (*self.0.value.get()).as_ref() }.expect("a place that is open has a state")
    }
}

impl<T> Drop for Reading<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the reference that `read` has taken.
        unsafe { self.0.counter.put(Caller::UNKNOWN) };
    }
}
