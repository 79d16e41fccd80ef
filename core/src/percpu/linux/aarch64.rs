//! What the sequence and the areas are on aarch64.
//!
//! # What orders the sequence
//!
//! In the terms of the architecture's model: the tag is loaded by a load-acquire, and the add is a plain
//! store. Both are all that it takes, because P1 rests on the barrier: on each CPU it is a full barrier at one place between
//! two instructions of the thread that runs there, and the thread's sequence is either before or behind that place.
//!
//! - **A get before it.** Its store comes before the barrier in the order of the program, so the barrier
//!   orders it before everything that the releaser does after the call: the sum has it. What the holder reads and writes
//!   may be done before its store is seen by others, but the releaser finds that it is held.
//! - **A put before it.** All that the holder did, and then the store, come before the barrier in the order of the
//!   program, and so before the releaser's next step. They need no order among themselves: nobody decides
//!   by a slot without a barrier between.
//! - **A sequence behind it** loads the tag after the barrier, to which the clearing of the tag comes before: it
//!   finds 0. Then the thread counts in the word, where a put is a release of its own.
//! - **A get after the slots are on again** loads the tag with acquire, and `turn_on` stored it with release: what the
//!   holder does comes after all that was published before. No load that follows the get is done before that load.

use core::ffi::c_uint;

/// What stands before an abort label, as the C library has it: an instruction that is none.
pub(super) const SIGNATURE: c_uint = 0xd428bc00;

/// What the distances of an [`Area`](super::Area) start from.
pub(super) fn thread_pointer() -> isize {
    let thread;
    // SAFETY: a register of the thread's.
    unsafe {
        core::arch::asm!("mrs {}, tpidr_el0", out(reg) thread,
            options(nostack, nomem, pure, preserves_flags));
    }
    thread
}

/// Where the linker is asked for the distance of this thread's own area, and the answer. Where it is asked there is a
/// descriptor, which the dynamic linker fills in.
pub(super) fn ask_for_own() -> (isize, isize) {
    let (asked, distance);
    // SAFETY: a call by the ABI of the processor, of a function that changes no more than the first registers.
    unsafe {
        core::arch::asm!(
            "adrp x0, :tlsdesc:__module_ref_own",
            "ldr x1, [x0, :tlsdesc_lo12:__module_ref_own]",
            "add x0, x0, :tlsdesc_lo12:__module_ref_own",
            "mov x20, x0",
            ".tlsdesccall __module_ref_own",
            "blr x1",
            out("x20") asked,
            out("x0") distance,
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
            "adrp {section}, :got:_DYNAMIC",
            "ldr {section}, [{section}, :got_lo12:_DYNAMIC]",
            section = out(reg) section,
            options(nostack, pure, readonly, preserves_flags),
        );
    }
    section
}

/// The text of the sequence, for [`add`] and for the C library's entry points, which have
/// it in them without a call. Arguments are assembler text: the register with the address of
/// the counter's second word, those with the two distances of an [`Area`](crate::Area), what to add, and where to
/// go if it was not added. Changes x14 to x17 and the flags.
///
/// It clears `rseq_cs`, because the static library can be part of a plugin; and one compilation makes
/// the static and the shared one. Where the kernel sends an aborted sequence stands in the middle of it: a
/// conditional branch reaches no farther than 1 MiB, and another section may be farther away.
#[doc(hidden)]
#[macro_export]
macro_rules! __rseq_add {
    ($slots:literal, $rseq:literal, $row:literal, $delta:literal, $failed:literal) => {
        concat!(
            $crate::__rseq_descriptor!(),
            // Announce the sequence in rseq_cs: it begins with the next instruction.
            "mrs x15, tpidr_el0\n",
            "add x14, x15, ",
            $rseq,
            "\n",
            "adrp x16, 77b\n",
            "add x16, x16, :lo12:77b\n",
            "str x16, [x14, #8]\n",
            "2:\n",
            // The row; beyond all rows if the thread is not registered: then cpu_id, at 4, is
            // negative, and its upper half is all ones.
            "ldr w16, [x15, ",
            $row,
            "]\n",
            "ldrh w17, [x14, #6]\n",
            "orr w16, w16, w17\n",
            // The look that decides: the rows that are in use, 0 if counting per CPU is off, in 16
            // bits, and above them the address of the first one.
            "ldar x17, [",
            $slots,
            "]\n",
            "cmp w16, w17, uxth\n",
            "b.hs 5f\n",
            // A plain add, whose store ends the sequence. From row to row it is STRIDE_SHIFT.
            "lsr x17, x17, #16\n",
            "add x17, x17, x16, lsl #16\n",
            "ldr x16, [x17]\n",
            "add x16, x16, #",
            $delta,
            "\n",
            "str x16, [x17]\n",
            "3:\n",
            "str xzr, [x14, #8]\n",
            "b 6f\n",
            // Nobody gets here but by the kernel, or from above.
            ".inst 0xd428bc00\n",
            "4:\n",
            "5:\n",
            "str xzr, [x14, #8]\n",
            "b ",
            $failed,
            "\n",
            "6:\n",
        )
    };
}

/// Adds `DELTA` to this thread's row of the counter whose second word is `slots`; false if it did not. The look at the
/// word is an acquire; what the store is, is said above.
///
/// # Safety
///
/// The distances lead to this thread's `struct rseq` and to its row's number, and the second word, if it has rows, to slots.
#[inline(always)]
pub(super) unsafe fn add<const DELTA: i64>(slots: *const usize, rseq: isize, row: isize) -> bool {
    let added: u32;
    // SAFETY: the caller's promise; the assembly keeps to the rules in `rseq`.
    unsafe {
        core::arch::asm!(
            crate::__rseq_add!("{slots}", "{rseq}", "{row}", "{DELTA}", "8f"),
            "mov {added:w}, #1",
            "b 9f",
            "8:",
            "mov {added:w}, wzr",
            "9:",
            slots = in(reg) slots,
            rseq = in(reg) rseq,
            row = in(reg) row,
            DELTA = const DELTA,
            added = out(reg) added,
            out("x14") _,
            out("x15") _,
            out("x16") _,
            out("x17") _,
            options(nostack),
        );
    }
    added != 0
}
