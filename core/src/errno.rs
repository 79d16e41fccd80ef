//! `errno`, which getting, putting and releasing leave as it was.

use core::ffi::{c_int, c_long};

/// Runs `f`, and leaves `errno` as it was.
pub(crate) fn kept<T>(f: impl FnOnce() -> T) -> T {
    // SAFETY: the C library's own thread-local.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    let result = f();
    // SAFETY: as above.
    unsafe { *errno = before };
    result
}

/// The result of a system call, or its errno.
pub(crate) fn checked(call: impl FnOnce() -> c_long) -> Result<c_long, c_int> {
    kept(|| match call() {
        // SAFETY: as above.
        -1 => Err(unsafe { *libc::__errno_location() }),
        result => Ok(result),
    })
}
