//! The sequence and the areas on x86-64.

use core::ffi::c_uint;

/// What stands before an abort label, as the C library has it.
pub(super) const SIGNATURE: c_uint = 0x53053053;

/// Where the distances of an [`Area`](super::Area) begin.
pub(super) fn thread_pointer() -> isize {
    let thread;
    // SAFETY: the first word there is its own address, by the ABI of the processor.
    unsafe {
        core::arch::asm!("mov {}, fs:[0]", out(reg) thread,
            options(nostack, pure, readonly, preserves_flags));
    }
    thread
}

/// The address of the descriptor that the dynamic linker fills in for the thread's own area, and the
/// distance of the area, which the descriptor's function returns.
pub(super) fn ask_for_own() -> (isize, isize) {
    let (asked, distance);
    // SAFETY: a call by the ABI of the processor, of a function that changes no more than rax, or in old libraries
    // what a function may change.
    unsafe {
        core::arch::asm!(
            "lea rax, [rip + __module_ref_own@tlsdesc]",
            "mov r12, rax",
            "call qword ptr [rax + __module_ref_own@tlscall]",
            out("r12") asked,
            out("rax") distance,
            clobber_abi("C"),
        );
    }
    (asked, distance)
}

/// The dynamic section of the object that this is in, if it has one.
pub(super) fn dynamic() -> *const (isize, usize) {
    let section;
    // SAFETY: the address is the linker's.
    unsafe {
        core::arch::asm!(
            ".weak _DYNAMIC",
            ".hidden _DYNAMIC",
            "mov {}, qword ptr [rip + _DYNAMIC@GOTPCREL]",
            out(reg) section,
            options(nostack, pure, readonly, preserves_flags),
        );
    }
    section
}

/// The text of the sequence, for [`add`] and for the C library's entry points, which contain it without a
/// call. The arguments are assembler text: the register with the address of the counter's second word,
/// those with the two distances of an [`Area`], what to add, and where to go if nothing was added. It
/// changes rax, rcx and the flags.
///
/// It clears `rseq_cs`, because the static library can be part of a plugin, and one compilation makes both
/// the static and the shared library.
#[doc(hidden)]
#[macro_export]
macro_rules! __rseq_add {
    ($slots:literal, $rseq:literal, $row:literal, $delta:literal, $failed:literal) => {
        concat!(
            $crate::__rseq_descriptor!(),
            // Announce the sequence in rseq_cs: it begins with the next instruction.
            "lea rax, [rip + 77b]\n",
            "mov fs:[",
            $rseq,
            " + 8], rax\n",
            "2:\n",
            // The row. If the thread is not registered, cpu_id, at 4, is negative, and its upper half is
            // all ones, which makes this a row beyond all rows.
            "mov eax, fs:[",
            $row,
            "]\n",
            "or ax, fs:[",
            $rseq,
            " + 6]\n",
            // The look that decides: in the lowest 16 bits the number of rows in use, 0 if counting per CPU
            // is off; above them the address of the slot in the first row.
            "mov rcx, [",
            $slots,
            "]\n",
            "cmp ax, cx\n",
            "jae 5f\n",
            // One plain add, which ends the sequence. Rows are 1 << STRIDE_SHIFT apart.
            "shr rcx, 16\n",
            "shl rax, 16\n",
            "add qword ptr [rcx + rax], ",
            $delta,
            "\n",
            "3:\n",
            "mov qword ptr fs:[",
            $rseq,
            " + 8], 0\n",
            // Out of line: the kernel sends an aborted sequence here. The signature looks like an undefined
            // instruction, so that no thread can jump here by accident.
            ".pushsection __rseq_failure, \"ax?\"\n",
            ".byte 0x0f, 0xb9, 0x3d\n",
            ".long 0x53053053\n",
            "4:\n",
            "5:\n",
            "mov qword ptr fs:[",
            $rseq,
            " + 8], 0\n",
            "jmp ",
            $failed,
            "\n",
            ".popsection\n",
        )
    };
}

/// Adds `DELTA` to this thread's row of the counter whose second word is `slots`. False: it did not. On this
/// processor a load is an acquire, and a store a release.
///
/// # Safety
///
/// The distances lead to this thread's `struct rseq` and to its row's number, and the second word, if it has rows, to slots.
#[inline(always)]
pub(super) unsafe fn add<const DELTA: i64>(slots: *const usize, rseq: isize, row: isize) -> bool {
    let added: isize;
    // SAFETY: the caller's promise; the assembly keeps to the rules in `rseq`.
    unsafe {
        core::arch::asm!(
            crate::__rseq_add!("{slots}", "{rseq}", "{row}", "{DELTA}", "8f"),
            // rax is the row, shifted.
            ".pushsection __rseq_failure, \"ax?\"",
            "8:",
            "mov rax, -1",
            "jmp 9f",
            ".popsection",
            "9:",
            slots = in(reg) slots,
            rseq = in(reg) rseq,
            row = in(reg) row,
            DELTA = const DELTA,
            out("rax") added,
            out("rcx") _,
            options(nostack),
        );
    }
    added >= 0
}
