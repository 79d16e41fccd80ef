//! Whose turn it is to close objects.
//!
//! A thread that has its turn calls the dynamic linker, whose lock may be held by a thread that runs a
//! constructor and wants its turn, too. So nobody waits for a turn for ever: after `PATIENCE` a thread leaves
//! its share to others. Destructors run during a turn, and may close objects: then the turn is nested.
//!
//! A fork at any moment leaves the turn in order. The C library calls the one thread of the child what it called
//! the thread that has forked. So a destructor that forks has its turn in both processes. If the turn was another
//! thread's, it is nobody's in the child. What that thread kept may be half written there: the child leaves it, and
//! with it the objects.

use crate::kept::Kept;
use modref::host::raw::this_thread;
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::time::{Duration, Instant};

/// How long a thread waits for its turn.
const PATIENCE: Duration = Duration::from_secs(1);

/// The thread whose turn it is, as the C library calls it; 0: nobody's.
static OWNER: AtomicUsize = AtomicUsize::new(0);

/// The owner is in the guard's code, and not in what the linker calls.
static IS_INSIDE: AtomicBool = AtomicBool::new(false);

struct OfOwner(UnsafeCell<Kept>);

// SAFETY: the owner alone looks inside.
unsafe impl Sync for OfOwner {}

static KEPT: OfOwner = OfOwner(UnsafeCell::new(Kept::new()));

/// Makes forks leave the turn in order. (Between the two steps a fork may leave it to a thread that is not there:
/// then the child's closes are without a turn.)
fn prepare() {
    static IS_DONE: AtomicBool = AtomicBool::new(false);
    // Relaxed, both: nothing else is read for it.
    if !IS_DONE.load(Relaxed) && !IS_DONE.swap(true, Relaxed) {
        // SAFETY: the handler stays, as this library does.
        unsafe { libc::pthread_atfork(None, None, Some(after_in_child)) };
    }
}

unsafe extern "C" fn after_in_child() {
    // Relaxed, both: there is one thread.
    if ![0, this_thread()].contains(&OWNER.load(Relaxed)) {
        // SAFETY: the owner is not in this process. What is there may not be whole, so it is not dropped.
        unsafe { ptr::write(KEPT.0.get(), Kept::new()) };
        OWNER.store(0, Relaxed);
    }
}

/// This thread's turn, until it is dropped.
pub(crate) struct Turn {
    is_nested: bool,
}

impl Turn {
    /// Whether this thread calls from the guard's own code.
    pub(crate) fn is_inside() -> bool {
        // Relaxed, both: what this thread has not written itself is not its own number.
        OWNER.load(Relaxed) == this_thread() && IS_INSIDE.load(Relaxed)
    }

    /// Waits for its turn, but not for ever.
    pub(crate) fn take() -> Option<Self> {
        let (until, mut pause) = (Instant::now() + PATIENCE, Duration::from_micros(20));
        loop {
            let turn = Self::take_now();
            if turn.is_some() || Instant::now() >= until {
                return turn;
            }
            // SAFETY: has no requirements. (Where a sandbox refuses it, std's would panic.)
            unsafe { libc::usleep(pause.as_micros() as _) };
            pause = (pause * 2).min(Duration::from_millis(1));
        }
    }

    pub(crate) fn take_now() -> Option<Self> {
        prepare();
        let me = this_thread();
        // Acquire pairs with the Release of the turn before. Relaxed: of another's turn nothing is read.
        let is_nested = match OWNER.compare_exchange(0, me, Acquire, Relaxed) {
            Ok(_) => false,
            Err(owner) if owner == me => true,
            Err(_) => return None,
        };
        // Relaxed: for this thread alone, and so wherever it is written.
        IS_INSIDE.store(true, Relaxed);
        let mut turn = Self { is_nested };
        turn.kept().take_adopted();
        Some(turn)
    }

    /// In a destructor that a close runs.
    pub(crate) fn is_nested(&self) -> bool {
        self.is_nested
    }

    /// What the guard keeps.
    pub(crate) fn kept(&mut self) -> &mut Kept {
        // SAFETY: this is the owner, and nobody has another reference: a nested turn begins in `outside` alone,
        // which has `self`.
        unsafe { &mut *KEPT.0.get() }
    }

    /// Calls the linker, which calls destructors of others.
    pub(crate) fn outside<T>(&mut self, call: impl FnOnce() -> T) -> T {
        IS_INSIDE.store(false, Relaxed);
        let result = call();
        IS_INSIDE.store(true, Relaxed);
        if !self.is_nested {
            self.kept().none_runs();
        }
        result
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        IS_INSIDE.store(false, Relaxed);
        if !self.is_nested {
            // Release: what it has kept.
            OWNER.store(0, Release);
        }
    }
}
