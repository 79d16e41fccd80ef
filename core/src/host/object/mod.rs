//! Shared objects: their files, and what the dynamic linker has made of them. Nothing here knows
//! what a module is.

pub(crate) mod elf;
pub(crate) mod linked;
pub(crate) mod open;
pub(crate) mod resident;

use std::ptr;
use std::time::Duration;

/// Sleeps, or not, where a sandbox refuses that: std's sleep would panic.
fn nap(short: Duration) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: short.subsec_nanos() as _ };
    // SAFETY: the time outlives the call, and nobody asks for the rest.
    unsafe { libc::nanosleep(&time, ptr::null_mut()) };
}
