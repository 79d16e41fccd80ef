//! Whose turn it is to close objects.
//!
//! A thread that has its turn calls the dynamic linker, whose lock may be held by a thread that runs a
//! constructor and wants its turn, too. So nobody waits for a turn for ever: after `PATIENCE` a thread leaves
//! its share to others. Destructors run during a turn, and may close objects: then the turn is nested.
//!
//! The turn is one word, so that a fork at any moment leaves it in order: a child finds that its owner was
//! a thread of another process, and takes it over. What that thread kept may have been half written then. The
//! child leaves it, and with it the objects.

use crate::kept::Kept;
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::time::{Duration, Instant};

/// How long a thread waits for its turn.
const PATIENCE: Duration = Duration::from_secs(1);

/// The process, in the upper half, and the thread whose turn it is; 0: nobody's.
static OWNER: AtomicU64 = AtomicU64::new(0);

/// The owner is in the guard's code, and not in what the linker calls.
static IS_INSIDE: AtomicBool = AtomicBool::new(false);

struct OfOwner(UnsafeCell<Kept>);

// SAFETY: the owner alone looks inside.
unsafe impl Sync for OfOwner {}

static KEPT: OfOwner = OfOwner(UnsafeCell::new(Kept::new()));

fn this_thread() -> u64 {
    // SAFETY: have no requirements.
    let (process, thread) = unsafe { (libc::getpid(), libc::gettid()) };
    u64::from(process as u32) << 32 | u64::from(thread as u32)
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
        let me = this_thread();
        let owner = OWNER.load(Relaxed);
        let is_nested = owner == me;
        if !is_nested {
            if owner != 0 && owner >> 32 == me >> 32 {
                return None;
            }
            // Acquire pairs with the Release of the turn before.
            OWNER.compare_exchange(owner, me, Acquire, Relaxed).ok()?;
        }
        IS_INSIDE.store(true, Relaxed);
        if !is_nested && owner != 0 {
            // SAFETY: this is the owner now. What is there may not be whole, so it is not dropped.
            unsafe { ptr::write(KEPT.0.get(), Kept::new()) };
        }
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
