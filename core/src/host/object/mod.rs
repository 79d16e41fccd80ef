//! Shared objects: their files, and what the dynamic linker has made of them. Nothing here knows
//! what a module is.

pub(crate) mod check;
pub(crate) mod elf;
mod imports;
pub(crate) mod linked;
pub(crate) mod locals;
pub(crate) mod memory;
pub(crate) mod open;
pub(crate) mod reading;
mod refusal;
pub(crate) mod resident;
pub(crate) mod stale;

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::time::Duration;

/// The names of what is in a folder. std's iterator panics where closing the folder fails.
pub(crate) fn names_in(folder: &Path) -> io::Result<Vec<OsString>> {
    let path = CString::new(folder.as_os_str().as_bytes())?;
    // SAFETY: a string; the answer is null or a folder that is closed below.
    let opened = unsafe { libc::opendir(path.as_ptr()) };
    if opened.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut names = Vec::new();
    let read = loop {
        // SAFETY: this thread's own, by which an end is told from a failure.
        unsafe { *libc::__errno_location() = 0 };
        // SAFETY: it is open.
        let entry = unsafe { libc::readdir64(opened) };
        if entry.is_null() {
            match io::Error::last_os_error() {
                end if end.raw_os_error() == Some(0) => break Ok(()),
                error => break Err(error),
            }
        }
        // SAFETY: the entry is there until the next one is read.
        let name = unsafe { CStr::from_ptr((*entry).d_name.as_ptr()) }.to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    };
    // Nothing was written, so there is nothing to lose. SAFETY: it is open, and not used again.
    unsafe { libc::closedir(opened) };
    read.map(|()| names)
}

/// The calling thread's number.
pub(crate) fn thread_number() -> libc::pid_t {
    // SAFETY: has no requirements.
    unsafe { libc::gettid() }
}

/// A thread for people: "thread 4711 'poller'", by what a folder as `/proc/self` has. One that has just
/// ended has no name.
pub(crate) fn thread_title(proc: &Path, tid: i32) -> String {
    let name = fs::read_to_string(proc.join(format!("task/{tid}/comm")));
    name.map_or(format!("thread {tid}"), |name| format!("thread {tid} '{}'", name.trim_end()))
}

/// Sleeps, or not, where a sandbox refuses that: std's sleep would panic.
pub(crate) fn nap(short: Duration) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: short.subsec_nanos() as _ };
    // SAFETY: the time outlives the call, and nobody asks for the rest.
    unsafe { libc::nanosleep(&time, ptr::null_mut()) };
}
