//! How many rows of slots there shall be: one for each CPU that this process may run on, as far as can
//! be told.
//!
//! It is a matter of speed alone. What is told may be wrong: a container shows what it likes
//! below `/sys`, and a mask is widened later. A CPU whose number is beyond the rows counts in the
//! word, because the sequence compares the two.

use core::mem::size_of_val;
use core::sync::atomic::{AtomicUsize, Ordering::*};

/// From the slot of one CPU to that of the next: 64 KiB, a whole number of pages on
/// every system, so that each CPU's slots are in pages of their own.
pub(super) const STRIDE_SHIFT: u32 = 16;

/// As many as Linux can be built for (`NR_CPUS`).
const MOST: usize = 8192;

static ROWS: AtomicUsize = AtomicUsize::new(0);

pub(super) fn rows() -> usize {
    // Relaxed: whoever makes slots has learned this first.
    ROWS.load(Relaxed)
}

/// Looks at the CPUs: those that the C library knows of, and those of this thread's mask.
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
