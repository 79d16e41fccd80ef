//! `membarrier`, and whether this process can count per CPU.
//!
//! Once several threads run, registering waits for a grace period of the kernel (`strace -f -T -e
//! trace=membarrier` shows how long). So the library registers when it is loaded. A child of fork
//! inherits the registration; exec clears it.

use super::{cpus, rseq};
use crate::errno;
use core::ffi::{c_int, c_long};
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

impl rseq::Area {
    /// Takes over this copy's distances, if this process can count per CPU.
    #[doc(hidden)]
    pub fn learn(&self) {
        if available() {
            // Relaxed, like every access to it: a thread that sees 0 counts in the word.
            self.0.store(rseq::AREA.0.load(Relaxed), Relaxed);
        }
    }
}

/// Whether there are restartable sequences, the barrier that aborts them, and a number of CPUs, and
/// whether no tool is watching, which could not see into a sequence. This is found out once. A thread
/// that has no registered sequence does no harm: it counts in the word.
pub(super) fn available() -> bool {
    // Acquire pairs with the Release below: a thread that sees YES sees the number of CPUs.
    match AVAILABLE.load(Acquire) {
        UNKNOWN => {
            let found = !crate::tool::is_watching()
                && rseq::learn()
                && cpus::learn()
                && is_there()
                && membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ).is_ok();
            AVAILABLE.store(if found { YES } else { NO }, Release);
            found
        }
        found => found == YES,
    }
}

/// Returns once every restartable sequence of this process that had begun has ended or been aborted, and
/// its effect is visible here (P1). `Err` is the kernel's errno; then nothing is known.
pub(super) fn barrier() -> Result<(), c_int> {
    membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ).map(drop)
}

/// Whether the kernel has the barrier. A sandbox may answer every call with success; its answer to the
/// query then lists no commands.
fn is_there() -> bool {
    membarrier(libc::MEMBARRIER_CMD_QUERY)
        .is_ok_and(|commands| commands as c_int & libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ != 0)
}

fn membarrier(command: c_int) -> Result<c_long, c_int> {
    // SAFETY: membarrier takes no pointers.
    errno::checked(|| unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) })
}
