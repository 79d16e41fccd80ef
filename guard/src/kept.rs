//! Which objects the guard has a share in, because somebody was found in them.

use modref::host::raw::{Foreign, Last};
use std::ffi::{OsStr, OsString, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering::*};

/// For the thread whose turn it is.
pub(crate) struct Kept {
    objects: Vec<(Foreign, u32)>,
    /// The closes that run (G5).
    running: Vec<Last>,
    told: Vec<OsString>,
}

/// The share of a thread that could not have its turn. Others put it into the objects' list.
struct Adopted {
    handle: *mut c_void,
    next: *mut Adopted,
}

static ADOPTED: AtomicPtr<Adopted> = AtomicPtr::new(ptr::null_mut());

/// The share that this handle stands for is the guard's from here on. For any thread, and without a wait.
pub(crate) fn adopt(handle: *mut c_void) {
    let new = Box::into_raw(Box::new(Adopted { handle, next: ptr::null_mut() }));
    // Relaxed, here and where the exchange fails: the exchange alone says whether it is still the first.
    let mut first = ADOPTED.load(Relaxed);
    loop {
        // SAFETY: it is on no list yet.
        unsafe { (*new).next = first };
        // Release pairs with the Acquire of `take_adopted`, which finds what is in it.
        match ADOPTED.compare_exchange_weak(first, new, Release, Relaxed) {
            Ok(_) => return,
            Err(now) => first = now,
        }
    }
}

impl Kept {
    pub(crate) const fn new() -> Self {
        Self { objects: Vec::new(), running: Vec::new(), told: Vec::new() }
    }

    /// Adds what threads have left that could not have their turn.
    pub(crate) fn take_adopted(&mut self) {
        let mut next = ADOPTED.swap(ptr::null_mut(), Acquire);
        while !next.is_null() {
            // SAFETY: from a box, and on the list that is this thread's now.
            let adopted = unsafe { Box::from_raw(next) };
            // SAFETY: it is loaded.
            let is_open =
                |it: &Foreign| unsafe { it.shares() }.is_none_or(|n| n > self.shares(*it));
            if let Some(object) = Foreign::of(adopted.handle).filter(is_open) {
                self.add(object);
            }
            next = adopted.next;
        }
    }

    /// One more share in an object is the guard's.
    pub(crate) fn add(&mut self, object: Foreign) {
        match self.objects.iter_mut().find(|(there, _)| *there == object) {
            Some((_, shares)) => *shares += 1,
            None => self.objects.push((object, 1)),
        }
    }

    /// How many shares in an object are the guard's.
    pub(crate) fn shares(&self, object: Foreign) -> u32 {
        let found = self.objects.iter().find(|(there, _)| *there == object);
        found.map_or(0, |(_, shares)| *shares)
    }

    /// Those that nobody else has open.
    pub(crate) fn mine(&self) -> Vec<Foreign> {
        // SAFETY: the guard has them open.
        let is_mine = |(object, n): &&(Foreign, u32)| unsafe { object.shares() } == Some(*n);
        self.objects.iter().filter(is_mine).map(|(object, _)| *object).collect()
    }

    /// The guard's shares in an object are the caller's to close.
    pub(crate) fn take(&mut self, object: Foreign) -> u32 {
        let shares = self.shares(object);
        self.objects.retain(|(there, _)| *there != object);
        shares
    }

    /// This close is about to run.
    pub(crate) fn runs(&mut self, last: Last) {
        self.running.push(last);
    }

    /// The outermost close has ended, and with it those in its destructors.
    pub(crate) fn none_runs(&mut self) {
        self.running.clear();
    }

    /// Whether a close that runs may unmap it, and the guard does not keep it.
    pub(crate) fn is_leaving(&self, object: Foreign) -> bool {
        self.running.iter().any(|last| last.may_unmap(object)) && self.shares(object) == 0
    }

    /// Whether nothing was told of this file yet.
    pub(crate) fn is_new(&mut self, name: &OsStr) -> bool {
        let is_new = self.told.iter().all(|told| told != name);
        if is_new {
            self.told.push(name.to_owned());
        }
        is_new
    }
}
