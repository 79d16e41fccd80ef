//! `membarrier`, and whether this process can count per CPU.
//!
//! Registering waits for a grace period of the kernel's once several threads run (`strace -f -T -e
//! trace=membarrier` shows how long), so it is done when the library is loaded. fork inherits it,
//! exec clears it.

use super::{cpus, rseq};
use crate::errno;
use core::ffi::c_int;
use core::sync::atomic::{AtomicU8, Ordering::*};

const UNKNOWN: u8 = 0;
const NO: u8 = 1;
const YES: u8 = 2;

static AVAILABLE: AtomicU8 = AtomicU8::new(UNKNOWN);

#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = {
    extern "C" fn at_load() {
        available();
    }
    at_load
};

/// Whether there are restartable sequences, the barrier that aborts them, and a number of
/// CPUs. Found out once: a thread without a registered sequence among others does
/// no harm, it uses the word.
pub(super) fn available() -> bool {
    // Acquire pairs with the Release below: who sees YES sees the number of CPUs.
    match AVAILABLE.load(Acquire) {
        UNKNOWN => {
            let found = rseq::learn()
                && cpus::learn()
                && membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ).is_ok();
            AVAILABLE.store(if found { YES } else { NO }, Release);
            found
        }
        found => found == YES,
    }
}

/// Returns once every restartable sequence of this process that began before has ended
/// or been aborted, and what it did is visible here (P1). `Err` is the kernel's errno,
/// and then nothing is known.
pub(super) fn barrier() -> Result<(), c_int> {
    membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ)
}

fn membarrier(command: c_int) -> Result<(), c_int> {
    // SAFETY: membarrier takes no pointers.
    errno::checked(|| unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }).map(drop)
}
