//! Gets and puts that have the restartable sequence in them, without a call.

/// The text of a trace point of a module's get or put: one instruction that does nothing, and
/// the note that tells tracers of it. There, rdi is the module's record, and the return address
/// is on top of the stack. Nothing is loaded for a tracer: the arguments' places are in the
/// note. `modref::trace` says what they mean; -1 is a count that only the slots know.
#[cfg(not(untraced))]
macro_rules! trace_point {
    ($name:literal) => {
        concat!(
            "70: nop\n",
            // Kind 3: where the probe is, where the base below is, no semaphore; then provider,
            // name and arguments. Not part of what is loaded.
            ".pushsection .note.stapsdt, \"?\", \"note\"\n",
            ".balign 4\n",
            ".long 72f - 71f, 74f - 73f, 3\n",
            "71: .asciz \"stapsdt\"\n",
            "72: .balign 4\n",
            "73: .quad 70b, _.stapsdt.base, 0\n",
            ".asciz \"module_ref\"\n",
            ".asciz \"",
            $name,
            "\"\n",
            ".asciz \"-8@16(%rdi) -8@$-1 -8@0(%rsp)\"\n",
            "74: .balign 4\n",
            ".popsection\n",
            // One byte, once in an object: by its address a tracer sees whether the addresses in
            // the notes have been moved, as by prelink. R: the linker keeps it.
            ".ifndef _.stapsdt.base\n",
            ".pushsection .stapsdt.base, \"aGR\", \"progbits\", .stapsdt.base, comdat\n",
            ".weak _.stapsdt.base\n",
            ".hidden _.stapsdt.base\n",
            "_.stapsdt.base: .space 1\n",
            ".size _.stapsdt.base, 1\n",
            ".popsection\n",
            ".endif\n",
        )
    };
}

/// The same without, to be measured against.
#[cfg(untraced)]
macro_rules! trace_point {
    ($name:literal) => {
        ""
    };
}

/// What ThreadSanitizer cannot see of a sequence is told by a call, of which `percpu/linux/tsan.rs`
/// has the functions: their arguments are the counter's second word and what is added.
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

#[cfg(not(tsan))]
macro_rules! tell_tsan {
    ($what:literal, $delta:literal) => {
        ""
    };
}

/// The body of a get or a put: the restartable sequence right here, and `inner(argument,
/// caller)` if the argument is NULL or the sequence was not for it. A module's has a trace
/// point: after the get, or before the put; then `failed(argument, caller)`, which has none,
/// goes on if the sequence fails.
macro_rules! sequence_or {
    ($inner:path, $argument:expr, $delta:literal) => {
        sequence_or!($inner, $argument, $delta, "", "", $inner)
    };
    ($inner:path, $argument:expr, $delta:literal, then $point:literal) => {
        sequence_or!($inner, $argument, $delta, "", $crate::sequence::trace_point!($point), $inner)
    };
    ($inner:path, $argument:expr, $delta:literal, after $point:literal, failed $failed:path) => {
        sequence_or!($inner, $argument, $delta, $crate::sequence::trace_point!($point), "", $failed)
    };
    ($inner:path, $argument:expr, $delta:literal, $before:expr, $after:expr, $failed:path) => {
        core::arch::naked_asm!(
            ".cfi_startproc",
            "test rdi, rdi",
            "jz 8f",
            // A look outside of the sequence, so that a counter in one word pays no more.
            "test byte ptr [rdi + 8], 1",
            "jz 8f",
            $before,
            $crate::sequence::tell_tsan!("module_ref_tsan_before_add", $delta),
            "mov rdx, [rip + {offset}]",
            // Still 0 in a constructor that runs before this copy of the library's: the counter is
            // another copy's, which counts in the word as well.
            "test rdx, rdx",
            "jz 9f",
            modref::__rseq_add!("rdi + 8", "rdx", $delta, "9f"),
            $crate::sequence::tell_tsan!("module_ref_tsan_after_add", $delta),
            $after,
            "mov eax, 1",
            "ret",
            "8:",
            "mov rsi, [rsp]",
            "jmp {inner}",
            "9:",
            "push rdi\n.cfi_adjust_cfa_offset 8",
            "call {widen}",
            "pop rdi\n.cfi_adjust_cfa_offset -8",
            "mov rsi, [rsp]",
            "jmp {failed}",
            ".cfi_endproc",
            // Padding that aligns the section, and with it the function, to a cache line.
            ".balign 64",
            offset = sym modref::RSEQ_OFFSET,
            widen = sym $crate::sequence::widen,
            inner = sym $inner,
            failed = sym $failed,
        )
    };
}

/// After a sequence that did not add, of a counter that may be another copy's.
pub(crate) unsafe extern "C" fn widen(of: *const modref::Counter) {
    // SAFETY: the entry point has got a counter that is not NULL.
    unsafe { &*of }.widen();
}

pub(crate) use sequence_or;
#[allow(unused_imports, reason = "the macro above names them by their path")]
pub(crate) use {tell_tsan, trace_point};
