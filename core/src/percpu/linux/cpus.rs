//! How many rows of slots to make: one for each CPU that this process may run on, as far as the system
//! tells. No more threads than that run at the same time.
//!
//! The number matters for speed alone, and may be wrong: a container shows what it likes, and a mask may
//! be widened later. The sequence compares its thread's row with the number of rows; a thread whose row
//! does not exist counts in the word.

use core::mem::size_of_val;
use core::sync::atomic::{AtomicUsize, Ordering::*};

/// From one row to the next: 64 KiB, a whole number of pages on every system, so that each row's
/// slots are in pages of their own.
pub(super) const STRIDE_SHIFT: u32 = 16;

/// The most CPUs that Linux can be built for (`NR_CPUS`).
const MOST: usize = 8192;

static ROWS: AtomicUsize = AtomicUsize::new(0);

pub(super) fn rows() -> usize {
    // Relaxed: the maker of slots has learned the number first.
    ROWS.load(Relaxed)
}

/// Finds out about the CPUs: those that the C library knows of, and those in this thread's mask.
pub(super) fn learn() -> bool {
    // SAFETY: no pointers.
    let configured = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_CONF) };
    let mut mask = [0u64; MOST / 64];
    // SAFETY: the kernel writes as many bytes as it says, and no more than we offer.
    let length = unsafe {
        libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(&mask), mask.as_mut_ptr())
    };
    let highest = mask.iter().rposition(|&bits| bits != 0);
    let allowed = highest.map_or(0, |at| at * 64 + 64 - mask[at].leading_zeros() as usize);
    let rows = allowed.max(configured.try_into().unwrap_or(0)).min(MOST);
    ROWS.store(rows, Relaxed);
    length > 0 && rows > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine() {
        assert!(learn());
        // SAFETY: no pointers.
        assert!(rows() > unsafe { libc::sched_getcpu() } as usize);
    }
}
