//! Entry points on x86-64.

#[cfg(tsan)]
macro_rules! tell_tsan {
    ($what:literal, $delta:literal) => {
        concat!(
            "push rdi\n.cfi_adjust_cfa_offset 8\n",
            "add rdi, 8\nmov rsi, ",
            $delta,
            "\ncall ",
            $what,
            "\npop rdi\n.cfi_adjust_cfa_offset -8",
        )
    };
}

/// A module's trace point: its record is the argument, and the return address is on top of the stack.
macro_rules! point {
    ($point:literal) => {
        modref::__trace_point!($point, "%rdi", "0(%rsp)")
    };
}

/// To a function, or through a [`Way`](crate::watched::Way).
macro_rules! go {
    (to) => {
        "jmp {inner}"
    };
    (through) => {
        "jmp qword ptr [rip + {inner}]"
    };
}

/// An entry point: see `sequence_or`.
macro_rules! entry {
    ($to:ident $inner:path, $delta:literal, $before:expr, $after:expr, $failed:path) => {
        core::arch::naked_asm!(
            ".cfi_startproc",
            "test rdi, rdi",
            "jz 8f",
            // A look outside of the sequence, so that a counter in one word pays no more.
            "cmp word ptr [rdi + 8], 0",
            "je 8f",
            $before,
            $crate::sequence::tell_tsan!("module_ref_tsan_before_add", $delta),
            "mov rdx, [rip + {area}]",
            // Still 0 in a constructor that runs before this copy of the library's: the counter is
            // another copy's, which counts in the word as well.
            "test rdx, rdx",
            "jz 9f",
            "movsxd rsi, edx",
            "sar rdx, 32",
            modref::__rseq_add!("rdi + 8", "rsi", "rdx", $delta, "9f"),
            $crate::sequence::tell_tsan!("module_ref_tsan_after_add", $delta),
            $after,
            "mov eax, 1",
            "ret",
            "8:",
            "mov rsi, [rsp]",
            $crate::sequence::go!($to),
            "9:",
            "push rdi\n.cfi_adjust_cfa_offset 8",
            "call {widen}",
            "pop rdi\n.cfi_adjust_cfa_offset -8",
            "mov rsi, [rsp]",
            "jmp {failed}",
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
