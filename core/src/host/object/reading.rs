//! Reading this process's memory where there may be none, by the kernel, which says so.
//!
//! A file that is cut short takes with it what is mapped of it, private pages that were written to
//! included: whoever touches those dies of SIGBUS.

use crate::errno;
use std::ffi::c_void;

/// Reads memory of this process, which may not be there. Returns how many bytes could be read, from the
/// first on without a gap. Async-signal-safe.
pub(crate) fn read(at: usize, into: &mut [u8]) -> Result<usize, i32> {
    read_pieces(&[libc::iovec { iov_base: at as *mut c_void, iov_len: into.len() }], into)
}

/// The same of several pieces, one after the other.
pub(crate) fn read_pieces(from: &[libc::iovec], into: &mut [u8]) -> Result<usize, i32> {
    let (to, n) =
        (libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() }, from.len());
    // By the process's number none of its memory is to be had once the first thread has ended.
    // SAFETY: what is written is ours; the kernel does the reading.
    let call =
        || unsafe { libc::process_vm_readv(libc::gettid(), &to, 1, from.as_ptr(), n as _, 0) };
    match errno::checked(|| call() as _) {
        Ok(n) => Ok(n as usize),
        Err(libc::EFAULT) => Ok(0),
        Err(errno) => Err(errno),
    }
}

/// Copies of what stands from `at` on, before what `ends` it or where memory does.
///
/// # Safety
///
/// Where the kernel refuses to read, the end is there, and memory up to it. `T` can be any bytes.
pub(crate) unsafe fn copied<T: Copy>(at: *const T, mut ends: impl FnMut(&T) -> bool) -> Vec<T> {
    let mut all = Vec::new();
    loop {
        let mut some = [0_u8; 1024];
        let from = at.wrapping_add(all.len());
        let read = read(from as usize, &mut some);
        let from = if read.is_ok() { some.as_ptr().cast() } else { from };
        let len = read.unwrap_or(some.len());
        for i in 0..len / size_of::<T>() {
            // SAFETY: it was read, or the caller's promise.
            let one = unsafe { from.add(i).read_unaligned() };
            if ends(&one) {
                return all;
            }
            all.push(one);
        }
        if len < some.len() {
            return all;
        }
    }
}
