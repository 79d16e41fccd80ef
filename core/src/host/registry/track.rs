//! Tracked references: who holds a module, exactly.
//!
//! Each is in a list of its module's for as long as it is held, by a piece of memory of the holder's.
//! References that are not tracked are in no list, and cost nothing more. Linux: `ref_tracker`.

use crate::host::error::Seconds;
use crate::host::locks::hold;
use crate::host::object::linked::file_and_base;
use crate::host::object::{thread_number, thread_title};
use crate::misuse::Caller;
use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_void};
use std::path::Path;
use std::ptr;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

/// One tracked reference, in the holder's memory.
#[repr(C)]
pub struct Track {
    /// The module in whose list it is; null: it is in none.
    of: *const Tracked,
    next: *mut Track,
    previous: *mut Track,
    label: *const c_char,
    caller: *const c_void,
    since: Instant,
    thread: libc::pid_t,
}

/// Those of a module: the newest one.
pub(super) struct Tracked(UnsafeCell<*mut Track>);

// SAFETY: the list is used under `LOCK` alone.
unsafe impl Send for Tracked {}
// SAFETY: as above.
unsafe impl Sync for Tracked {}

/// One lock for all modules: few take it, none is in a hurry, and a fork has to take it.
pub(super) static LOCK: Mutex<()> = Mutex::new(());

fn lock() -> MutexGuard<'static, ()> {
    hold(&LOCK)
}

impl Tracked {
    pub(super) const fn none() -> Self {
        Self(UnsafeCell::new(ptr::null_mut()))
    }

    /// Puts a reference into the list.
    ///
    /// # Safety
    ///
    /// `track` is memory for it, in no list, that stays until [`remove`](Self::remove); so does the
    /// label, which is null or a string.
    pub(super) unsafe fn add(&self, track: *mut Track, label: *const c_char, caller: Caller) {
        let _lock = lock();
        // SAFETY: the caller's promise; what is in the list stays until it is taken out. The list is
        // ours by the lock.
        unsafe {
            let next = *self.0.get();
            track.write(Track {
                of: self,
                next,
                previous: ptr::null_mut(),
                label,
                caller: caller.0,
                since: Instant::now(),
                thread: thread_number(),
            });
            if !next.is_null() {
                (*next).previous = track;
            }
            *self.0.get() = track;
        }
    }

    /// Takes a reference out of the list; false if it is not there.
    ///
    /// # Safety
    ///
    /// `track` is zeroed, or was in a list.
    pub(super) unsafe fn remove(&self, track: *mut Track) -> bool {
        let _lock = lock();
        // SAFETY: the caller's promise, and as above.
        unsafe {
            if !ptr::eq((*track).of, self) {
                return false;
            }
            let (next, previous) = ((*track).next, (*track).previous);
            if previous.is_null() {
                *self.0.get() = next;
            } else {
                (*previous).next = next;
            }
            if !next.is_null() {
                (*next).previous = previous;
            }
            (*track).of = ptr::null();
        }
        true
    }

    /// The oldest first.
    pub(super) fn list(&self) -> Vec<Holder> {
        let mut holders = Vec::new();
        let _lock = lock();
        // SAFETY: as above.
        let mut track = unsafe { *self.0.get() };
        // SAFETY: as above.
        while let Some(it) = unsafe { track.as_ref() } {
            // SAFETY: it stays as long as the reference.
            let label = (!it.label.is_null()).then(|| unsafe { CStr::from_ptr(it.label) }.into());
            let (thread, since, caller) = (it.thread, it.since, it.caller);
            holders.push(Holder { label, thread, since, caller });
            track = it.next;
        }
        holders.reverse();
        holders
    }
}

/// What the list says of a tracked reference.
pub(crate) struct Holder {
    label: Option<Box<CStr>>,
    thread: libc::pid_t,
    since: Instant,
    /// Where it was taken.
    pub(super) caller: *const c_void,
}

impl Holder {
    /// Label, thread and age.
    pub(crate) fn text(&self) -> String {
        let label =
            self.label.as_ref().map_or("a reference".into(), |label| label.to_string_lossy());
        let (thread, age) = (self.thread, Seconds(self.since.elapsed()));
        format!("{label}: {}, {age}", thread_title(Path::new("/proc/self"), thread))
    }
}

/// The object and the offset in it: "/usr/bin/server+0x1234". Takes the dynamic linker's lock.
pub(super) fn place(address: *const c_void) -> Option<String> {
    let (file, base) = file_and_base(address as usize)?;
    Some(format!("{}+{:#x}", file.display(), address as usize - base))
}
