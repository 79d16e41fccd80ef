//! The restartable sequence.
//!
//! The C library, or `own`, registers each thread's `struct rseq`, which is at the same distance from
//! each thread's pointer. Of that structure we write `rseq_cs`, and read `cpu_id` and the number of
//! the row, which is `mm_cid` if the kernel has that, and otherwise `cpu_id`.
//!
//! No other thread of the process has a thread's `mm_cid` while the thread runs. It is smaller than the
//! number of the process's threads, and than the number of CPUs that the process may run on, so memory
//! and time for a sum are in proportion to what the process uses. It changes only when the thread is
//! scheduled, as `cpu_id` does, and that aborts the sequence.
//!
//! Rules of the kernel's ABI that are easy to get wrong:
//! - The start label is the instruction after the store to `rseq_cs`: a signal in a gap
//!   between would clear the field, and the sequence would go on unprotected.
//! - The sequence itself loads what it decides by: the row, whether the thread is registered, and the
//!   counter's second word.
//! - The add is the last instruction before the end label.
//! - The descriptor's version and flags are 0; the C library's signature stands right
//!   before the abort label.
//! - Code that can be unmapped clears `rseq_cs` on every way out, because the kernel follows the pointer
//!   at the next preemption. If the descriptor stays mapped, the kernel itself clears the pointer when it
//!   finds the thread outside of its range.
//! - The sections have the flag `?`, so that they belong to the section group of an inlined function.

use super::{own, processor};
use crate::errno;
use core::ffi::{c_int, c_uint, c_ulong, c_void};
use core::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::*};

const _: () = assert!(super::cpus::STRIDE_SHIFT == 16, "the sequences have it as a number");

/// The descriptor of a sequence from 2 to 3, at 77, that goes on at 4 if it is aborted.
#[doc(hidden)]
#[macro_export]
macro_rules! __rseq_descriptor {
    () => {
        concat!(
            // Version and flags, start, length, abort.
            ".pushsection __rseq_cs, \"aw?\"\n",
            ".balign 32\n",
            "77: .long 0, 0\n",
            ".quad 2f, 3f - 2f, 4f\n",
            ".popsection\n",
            // Where debuggers look for descriptors.
            ".pushsection __rseq_cs_ptr_array, \"aw?\"\n",
            ".quad 77b\n",
            ".popsection\n",
        )
    };
}

/// Where a thread's fields are, as distances from the thread pointer: its `struct rseq` in the lower half,
/// the number of its row in the upper half. 0: not known yet.
///
/// The C library exports one for `module_ref_inline.h`, so this is ABI.
#[repr(transparent)]
pub struct Area(pub(super) AtomicIsize);

impl Area {
    #[doc(hidden)]
    pub const fn unknown() -> Self {
        Self(AtomicIsize::new(0))
    }

    #[inline]
    fn get(&self) -> Option<(isize, isize)> {
        // Relaxed, wherever it is read or written: the word is all that there is to know. What it leads to is each
        // thread's own, and was there before.
        let both = self.0.load(Relaxed);
        (both != 0).then_some((both as i32 as isize, both >> 32))
    }
}

/// The distances that this copy of the library uses.
pub static AREA: Area = Area::unknown();

/// `AT_RSEQ_FEATURE_SIZE`: how many bytes of `struct rseq` the kernel fills in.
const FEATURE_SIZE: c_ulong = 27;
/// Where fields are in it.
const CPU_ID: isize = 4;
const MM_CID: usize = 24;

/// Finds out where threads are registered, or registers them itself. False: neither is possible, because a
/// sandbox refuses it, or under valgrind.
pub(super) fn learn() -> bool {
    /// A variable of a library, if it is there. Not every library has it, and stable Rust has no weak
    /// references.
    fn variable(name: &core::ffi::CStr) -> Option<*const c_void> {
        // SAFETY: a constant string; the answer is the address of a variable, or null.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        (!found.is_null()).then_some(found.cast_const())
    }
    // SAFETY: no pointers.
    let filled_in = unsafe { libc::getauxval(FEATURE_SIZE) } as usize;
    let rseq = match (variable(c"__rseq_offset"), variable(c"__rseq_size")) {
        // SAFETY: the types are glibc's; both are set before any constructor runs. The size is
        // 20 in some versions and larger in others: not 0 is what counts.
        (Some(offset), Some(size)) => unsafe {
            if *size.cast::<c_uint>() == 0 { own::learn().ok() } else { Some(*offset.cast()) }
        },
        _ => match own::learn() {
            Err(libc::EINVAL) => ask_kernel(filled_in),
            learned => learned.ok(),
        },
    };
    if let Some(rseq) = rseq {
        // Every copy of the library in a process reads the same, so they agree on the rows.
        let row = rseq + if filled_in >= MM_CID + 4 { MM_CID as isize } else { CPU_ID };
        AREA.0.store(row << 32 | rseq as u32 as isize, Relaxed);
        return this_row().is_some();
    }
    let others = variable(c"module_ref_area").map_or(0, |area| {
        // SAFETY: another copy's, of the type that it has in every version.
        unsafe { &*area.cast::<Area>() }.0.load(Relaxed)
    });
    AREA.0.store(others, Relaxed);
    others != 0
}

/// Where this thread's `struct rseq` is in a static program, whose variables have no names at run time.
/// The kernel answers a second registration with `EBUSY` if it names the registered place, and with
/// `EINVAL` if it names another, and looks at nothing else.
fn ask_kernel(filled_in: usize) -> Option<isize> {
    /// The C library has it among the thread's variables, which are near the thread pointer.
    const REACH: isize = 8192;
    const ALIGNMENT: usize = 32;

    let length = filled_in.next_multiple_of(ALIGNMENT).max(ALIGNMENT);
    let thread = processor::thread_pointer();
    let register = |place: isize| {
        // SAFETY: this thread is registered, so the kernel only compares the place.
        errno::checked(|| unsafe {
            libc::syscall(libc::SYS_rseq, place, length, 0, processor::SIGNATURE)
        })
    };
    let first = thread / ALIGNMENT as isize * ALIGNMENT as isize - REACH;
    (first..first + 2 * REACH)
        .step_by(ALIGNMENT)
        .find(|&place| register(place) == Err(libc::EBUSY))
        .map(|place| place - thread)
}

/// The row of this thread, if it is registered, or can be.
pub(super) fn this_row() -> Option<u32> {
    let (rseq, row) = AREA.get()?;
    let thread = processor::thread_pointer();
    // SAFETY: `rseq` leads to this thread's `struct rseq`; the kernel writes to its fields.
    let cpu = unsafe { ((thread + rseq + CPU_ID) as *const c_int).read_volatile() };
    // SAFETY: as above.
    (cpu >= 0 || own::register(rseq))
        .then(|| unsafe { ((thread + row) as *const u32).read_volatile() })
}

/// Adds `DELTA` to this thread's row of the counter whose second word is `slots`. False: it did not.
///
/// Memory ordering: acquire and release. To the compiler the assembly reads and writes all memory.
#[inline(always)]
pub(super) fn add<const DELTA: i64>(slots: &AtomicUsize) -> bool {
    // Not known yet: a constructor that runs before ours uses another copy's counter. It counts in the word.
    let Some((rseq, row)) = AREA.get() else { return false };
    // SAFETY: `rseq` leads to this thread's `struct rseq`, and the other distance to a part of it.
    // The second word leads to mapped slots for every row below its own number of rows.
    unsafe { processor::add::<DELTA>(slots.as_ptr(), rseq, row) }
}
