//! An area of this library's own, where the C library has registered none: musl, glibc before 2.35, and
//! `GLIBC_TUNABLES=glibc.pthread.rseq=0`.
//!
//! The area is a thread-local variable. A thread registers its own the first time that a sequence did not
//! add for it, and tries that once: the kernel takes one area for each thread, and if another library has
//! registered one, this thread counts in the word.
//!
//! **O1, it is where the sequences look.** They add one distance to the thread pointer, so the distance
//! must be the same in every thread. It is in a program, and in libraries that are there from the start.
//! In a library that is loaded later it is if the C library has room for its variables beside those.
//! `distance` asks for the area's place in a way that also tells which case it is.
//!
//! **O2, what the kernel writes to stays.** The kernel writes to the area while the thread is registered.
//! So only a copy of the library that is never unmapped registers threads: a copy in the program, or in an
//! object that is linked with `-z nodelete`. A copy in a plugin uses the area of another copy, which it
//! finds by the name that the C library exports for `module_ref_inline.h`.
//!
//! **O3, it stays until the thread's end.** With glibc a thread's variables are in the memory of its stack,
//! which is freed or reused only once the kernel has said that the thread is gone. A detached thread of
//! musl unmaps that memory itself, and goes on for a few instructions. So with musl a key's destructor
//! unregisters the thread. It stays unregistered: destructors and signal handlers that run later count in
//! the word. (No destructor runs any more for a thread that uses a counter for the first time in the last
//! round of its destructors.)

use super::processor;
use crate::errno;
use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, Ordering::*};

/// How many bytes of the area are registered: the oldest size, which has all that the sequence reads.
const REGISTERED: usize = 32;
/// Where the area says whether the thread has tried. It is behind the part that the kernel resets.
const TRIED: isize = REGISTERED as isize;

/// Whether threads use areas of this copy.
static IN_USE: AtomicBool = AtomicBool::new(false);

// As the kernel wants it: aligned to 32 bytes, with a cpu_id of -1 until it is registered.
core::arch::global_asm!(
    ".pushsection .tdata.module_ref_own, \"awT\", %progbits",
    ".balign 32",
    ".globl __module_ref_own",
    ".hidden __module_ref_own",
    ".type __module_ref_own, %object",
    "__module_ref_own:",
    ".long 0, -1",
    ".zero 28",
    ".size __module_ref_own, . - __module_ref_own",
    ".popsection",
);

/// Makes threads use the areas of this copy, and returns their distance from the thread pointer. `Err` is an
/// errno: `EINVAL` if this thread has registered another area.
pub(super) fn learn() -> Result<isize, c_int> {
    let distance = distance().filter(|_| end::prepare()).ok_or(libc::ENOTSUP)?;
    attach(distance)?;
    // Release pairs with the Acquire of `register`, which uses the key that `end` has made. (A thread that does
    // not see it yet tries later.)
    IN_USE.store(true, Release);
    Ok(distance)
}

/// Registers this thread, if this copy registers threads and has not tried yet. Async-signal-safe.
#[cold]
pub(super) fn register(distance: isize) -> bool {
    // Acquire pairs with the Release of `learn`.
    IN_USE.load(Acquire) && attach(distance).is_ok()
}

fn attach(distance: isize) -> Result<(), c_int> {
    let area = processor::thread_pointer() + distance;
    let tried = (area + TRIED) as *mut bool;
    // Set before the attempt: a signal handler that comes in between counts in the word.
    // SAFETY: this thread's own variable.
    if unsafe { tried.replace(true) } {
        return Err(libc::EALREADY);
    }
    end::wanted(area)?;
    syscall(area, 0)
}

fn syscall(area: isize, flags: c_int) -> Result<(), c_int> {
    let signature = processor::SIGNATURE;
    // SAFETY: the area stays for as long as it is registered (O2, O3).
    errno::checked(|| unsafe { libc::syscall(libc::SYS_rseq, area, REGISTERED, flags, signature) })
        .map(drop)
}

/// The distance of this copy's areas from the thread pointer, if it is the same in every thread (O1) and the
/// areas stay (O2).
fn distance() -> Option<isize> {
    let (asked, distance) = processor::ask_for_own();
    // In a program the linker has replaced the descriptor's address by the distance.
    if asked == distance {
        return Some(distance);
    }
    // SAFETY: a function, and what it answers if that is the same in every thread.
    let answer = unsafe { *(asked as *const isize).add(1) };
    (answer == distance && stays()).then_some(distance)
}

/// Whether the shared object that this copy is in is marked as one that is never unmapped.
fn stays() -> bool {
    const FLAGS_1: isize = 0x6fff_fffb;
    const NODELETE: usize = 8;

    let mut entry = processor::dynamic();
    // SAFETY: the object's own table, which ends with a zero.
    unsafe {
        while !entry.is_null() && (*entry).0 != 0 {
            if (*entry).0 == FLAGS_1 {
                return (*entry).1 & NODELETE != 0;
            }
            entry = entry.add(1);
        }
    }
    false
}

#[cfg(target_env = "gnu")]
mod end {
    pub(super) fn prepare() -> bool {
        true
    }

    pub(super) fn wanted(_: isize) -> Result<(), core::ffi::c_int> {
        Ok(())
    }
}

/// The end of a thread that unmaps itself (O3).
#[cfg(not(target_env = "gnu"))]
mod end {
    use core::ffi::{c_int, c_void};
    use core::sync::atomic::{AtomicU32, Ordering::*};

    static KEY: AtomicU32 = AtomicU32::new(0);

    /// Once, before any thread is registered; false if there is no key.
    pub(super) fn prepare() -> bool {
        let mut key = 0;
        // SAFETY: the destructor stays (O2).
        let made = unsafe { libc::pthread_key_create(&mut key, Some(unregister)) } == 0;
        // Relaxed, here and below: `IN_USE` publishes it.
        KEY.store(key, Relaxed);
        made
    }

    /// Makes the destructor unregister this thread at its end. musl keeps the value in the thread, so this
    /// takes no lock and no memory.
    pub(super) fn wanted(area: isize) -> Result<(), c_int> {
        // SAFETY: the key is there.
        match unsafe { libc::pthread_setspecific(KEY.load(Relaxed), area as *const c_void) } {
            0 => Ok(()),
            errno => Err(errno),
        }
    }

    unsafe extern "C" fn unregister(area: *mut c_void) {
        const UNREGISTER: c_int = 1;
        // If another library has registered this thread, the kernel refuses.
        let _ = super::syscall(area as isize, UNREGISTER);
    }
}
