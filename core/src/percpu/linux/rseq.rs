//! The restartable sequence.
//!
//! The C library registers each thread's `struct rseq` and says where it is, relative
//! to the thread pointer. Of that structure we read `cpu_id` and write `rseq_cs`.
//!
//! Rules of the kernel's ABI that are easy to get wrong:
//! - The start label is the instruction after the store to `rseq_cs`: a signal in a gap
//!   between would clear the field, and the sequence would go on unprotected.
//! - What the decision rests on, the CPU's number and the tag, is loaded inside.
//! - The add is the last instruction before the end label.
//! - The descriptor's version and flags are 0; the C library's signature stands right
//!   before the abort label.
//! - Every way out clears `rseq_cs`. The kernel follows the pointer at the next
//!   preemption, and the code that the descriptor lies in may be gone by then.
//! - The sections carry the flag `?`, to go along with the group of an inlined function.

use core::ffi::{c_int, c_uint, c_void};
use core::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::*};

/// A distance from the thread pointer, which this file alone sets.
#[repr(transparent)]
pub struct Offset(AtomicIsize);

/// Where `struct rseq` is, from the thread pointer; 0 if there is none.
pub static OFFSET: Offset = Offset(AtomicIsize::new(0));

/// Finds out where the sequence is registered; false if it is not, as under a C library
/// before 2.35, with `GLIBC_TUNABLES=glibc.pthread.rseq=0`, or under valgrind.
pub(super) fn learn() -> bool {
    /// A variable of the C library, if it has it: not every one does, and stable Rust
    /// has no weak references.
    fn variable(name: &core::ffi::CStr) -> Option<*const c_void> {
        // SAFETY: a constant string; the answer is the address of a variable, or null.
        let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        (!found.is_null()).then_some(found.cast_const())
    }
    let (Some(offset), Some(size)) = (variable(c"__rseq_offset"), variable(c"__rseq_size")) else {
        return false;
    };
    // SAFETY: the types are glibc's; both are set before any constructor runs. The size is
    // 20 in some versions and larger in others: not 0 is what counts.
    let (offset, size) = unsafe { (*offset.cast::<isize>(), *size.cast::<c_uint>()) };
    if size == 0 || offset == 0 || cpu_id(offset) < 0 {
        return false;
    }
    // Relaxed: whoever sees it may use it, and whoever does not counts in the word.
    OFFSET.0.store(offset, Relaxed);
    true
}

/// The CPU that this thread runs on, if the thread is registered.
pub(super) fn this_cpu() -> Option<u32> {
    // Relaxed: as in `add`.
    match OFFSET.0.load(Relaxed) {
        0 => None,
        offset => cpu_id(offset).try_into().ok(),
    }
}

/// The CPU that this thread runs on; negative if the thread is not registered.
fn cpu_id(offset: isize) -> c_int {
    let cpu: c_int;
    // SAFETY: `offset` is where the C library says that this thread's `struct rseq` is.
    unsafe {
        core::arch::asm!(
            "mov {cpu:e}, fs:[{offset} + 4]",
            cpu = out(reg) cpu,
            offset = in(reg) offset,
            options(nostack, readonly, preserves_flags),
        );
    }
    cpu
}

/// The text of the sequence, for [`add`] and for the C library's entry points, which have
/// it in them without a call. Arguments are assembler text: the register with the address of
/// the counter's second word, the register with the offset, what to add, and where to go
/// if it was not added. Changes rax, rcx, r8 and the flags.
#[doc(hidden)]
#[macro_export]
macro_rules! __rseq_add {
    ($slots:literal, $offset:literal, $delta:literal, $failed:literal) => {
        concat!(
            // The descriptor: version and flags, start, length, abort.
            ".pushsection __rseq_cs, \"aw?\"\n",
            ".balign 32\n",
            "77: .long 0, 0\n",
            ".quad 2f, 3f - 2f, 4f\n",
            ".popsection\n",
            // Where debuggers look for descriptors.
            ".pushsection __rseq_cs_ptr_array, \"aw?\"\n",
            ".quad 77b\n",
            ".popsection\n",
            // Announce the sequence in rseq_cs: it begins with the next instruction.
            "lea rax, [rip + 77b]\n",
            "mov fs:[",
            $offset,
            " + 8], rax\n",
            "2:\n",
            // The CPU's number, cpu_id.
            "mov eax, fs:[",
            $offset,
            " + 4]\n",
            // The look that decides: counting per CPU is on.
            "mov rcx, [",
            $slots,
            "]\n",
            "test cl, 1\n",
            "jz 5f\n",
            // The rows that are used: their number stands 8 bytes before the first one, which
            // begins at a multiple of 64 KiB. A thread that is not registered has a negative
            // CPU, which is beyond them, too.
            "mov r8, rcx\n",
            "and r8, -65536\n",
            "cmp eax, dword ptr [r8 - 8]\n",
            "jae 5f\n",
            // One plain add, which ends the sequence. From CPU to CPU it is STRIDE_SHIFT, and
            // 1 takes the tag off the pointer.
            "shl rax, 16\n",
            "add qword ptr [rcx + rax - 1], ",
            $delta,
            "\n",
            "3:\n",
            "mov qword ptr fs:[",
            $offset,
            " + 8], 0\n",
            // Out of line: where the kernel sends an aborted sequence. The signature looks
            // like an undefined instruction, so that nobody can jump here by accident.
            ".pushsection __rseq_failure, \"ax?\"\n",
            ".byte 0x0f, 0xb9, 0x3d\n",
            ".long 0x53053053\n",
            "4:\n",
            "5:\n",
            "mov qword ptr fs:[",
            $offset,
            " + 8], 0\n",
            "jmp ",
            $failed,
            "\n",
            ".popsection\n",
        )
    };
}

const _: () = assert!(super::cpus::STRIDE_SHIFT == 16, "the sequence has it as a number");

/// Adds `DELTA` to this CPU's slot of the counter whose second word is `slots`; false if
/// it did not.
///
/// Memory ordering: on x86-64 a load is an acquire and a store is a release; for the
/// compiler the assembly reads and writes all memory.
#[inline(always)]
pub(super) fn add<const DELTA: i64>(slots: &AtomicUsize) -> bool {
    // 0 if a constructor runs before ours on another copy's counter: then it counts in the word.
    // Relaxed: set before this copy of the library gave any tag.
    let offset = OFFSET.0.load(Relaxed);
    if offset == 0 {
        return false;
    }
    let added: isize;
    // SAFETY: `offset` leads to this thread's `struct rseq`. The pointer,
    // if its tag is still set, leads to mapped slots for every CPU there may be. The assembly
    // keeps to the rules above.
    unsafe {
        core::arch::asm!(
            crate::__rseq_add!("{slots}", "{offset}", "{DELTA}", "8f"),
            // rax is the CPU's number, shifted.
            ".pushsection __rseq_failure, \"ax?\"",
            "8:",
            "mov rax, -1",
            "jmp 9f",
            ".popsection",
            "9:",
            slots = in(reg) slots.as_ptr(),
            offset = in(reg) offset,
            DELTA = const DELTA,
            out("rax") added,
            out("rcx") _,
            out("r8") _,
            options(nostack),
        );
    }
    added >= 0
}
