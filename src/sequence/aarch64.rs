//! Entry points on aarch64.

#[cfg(tsan)]
macro_rules! tell_tsan {
    ($what:literal, $delta:literal) => {
        concat!(
            "stp x0, x30, [sp, #-16]!\n.cfi_def_cfa_offset 16\n.cfi_offset x30, -8\n",
            "add x0, x0, #8\nmov x1, #",
            $delta,
            "\nbl ",
            $what,
            "\nldp x0, x30, [sp], #16\n.cfi_def_cfa_offset 0\n.cfi_restore x30",
        )
    };
}

/// A module's trace point: its record is the argument, and the return address is in x30.
macro_rules! point {
    ($point:literal) => {
        modref::__trace_point!($point, "x0", "x30")
    };
}

/// To a function, or through a [`Way`](crate::watched::Way).
macro_rules! go {
    (to) => {
        "b {inner}"
    };
    (through) => {
        "adrp x2, {inner}\nldr x2, [x2, :lo12:{inner}]\nbr x2"
    };
}

/// An entry point: see `sequence_or`.
macro_rules! entry {
    ($to:ident $inner:path, $delta:literal, $before:expr, $after:expr, $failed:path) => {
        core::arch::naked_asm!(
            ".cfi_startproc",
            "cbz x0, 8f",
            // A look outside of the sequence, so that a counter in one word pays no more.
            "ldrh w9, [x0, #8]",
            "cbz w9, 8f",
            $before,
            $crate::sequence::tell_tsan!("module_ref_tsan_before_add", $delta),
            "adrp x9, {area}",
            "ldr x9, [x9, :lo12:{area}]",
            // Still 0 in a constructor that runs before this copy of the library's: the counter is
            // another copy's, which counts in the word as well.
            "cbz x9, 9f",
            "sxtw x10, w9",
            "asr x9, x9, #32",
            "add x11, x0, #8",
            modref::__rseq_add!("x11", "x10", "x9", $delta, "9f"),
            $crate::sequence::tell_tsan!("module_ref_tsan_after_add", $delta),
            $after,
            "mov w0, #1",
            "ret",
            "8:",
            "mov x1, x30",
            $crate::sequence::go!($to),
            "9:",
            "stp x0, x30, [sp, #-16]!\n.cfi_def_cfa_offset 16\n.cfi_offset x30, -8",
            "bl {widen}",
            "ldp x0, x30, [sp], #16\n.cfi_def_cfa_offset 0\n.cfi_restore x30",
            "mov x1, x30",
            "b {failed}",
            ".cfi_endproc",
            // Padding that aligns the section, and with it the function, to a cache line.
            ".balign 64",
            area = sym modref::AREA,
            widen = sym $crate::sequence::widen,
            inner = sym $inner,
            failed = sym $failed,
        )
    };
}

#[cfg(tsan)]
pub(crate) use tell_tsan;
pub(crate) use {entry, go, point};
