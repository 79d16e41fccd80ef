//! Entry points that know where they were called from.
//!
//! A misuse is reported with the caller's address, which Rust has no way to ask
//! for. So the functions that can report one are naked: a first instruction hands
//! the return address on as a further argument, a second jumps to the rest. The
//! stack stays as the caller left it, and the unwinder is told so.

/// The body of an entry point: `inner(arguments.., caller)`.
#[cfg(target_arch = "x86_64")]
macro_rules! with_caller {
    // The arguments stay where they are; the return address is on top of the stack.
    ($inner:path, $a:expr) => {
        core::arch::naked_asm!(".cfi_startproc", "mov rsi, [rsp]", "jmp {}", ".cfi_endproc", sym $inner)
    };
    ($inner:path, $a:expr, $b:expr) => {
        core::arch::naked_asm!(".cfi_startproc", "mov rdx, [rsp]", "jmp {}", ".cfi_endproc", sym $inner)
    };
}

/// The body of an entry point: `inner(arguments.., caller)`.
#[cfg(target_arch = "aarch64")]
macro_rules! with_caller {
    // The arguments stay where they are; the return address is in x30.
    ($inner:path, $a:expr) => {
        core::arch::naked_asm!(".cfi_startproc", "mov x1, x30", "b {}", ".cfi_endproc", sym $inner)
    };
    ($inner:path, $a:expr, $b:expr) => {
        core::arch::naked_asm!(".cfi_startproc", "mov x2, x30", "b {}", ".cfi_endproc", sym $inner)
    };
}

/// The body of an entry point: `inner(arguments.., caller)`.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
macro_rules! with_caller {
    ($inner:path, $($argument:expr),+) => {
        // SAFETY: the entry point's contract is that of the rest.
        unsafe { $inner($($argument),+, counter::misuse::Caller::UNKNOWN) }
    };
}

/// The text of a trace point of a module's get or put: one instruction that does nothing, and
/// the note that tells tracers of it. There, rdi is the module's record, and the return address
/// is on top of the stack. Nothing is loaded for a tracer: the arguments' places are in the
/// note. `counter::trace` says what they mean; -1 is a count that only the slots know.
#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu", not(untraced)))]
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
#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu", untraced))]
macro_rules! trace_point {
    ($name:literal) => {
        ""
    };
}

/// What ThreadSanitizer cannot see of a sequence is told by a call, of which `percpu/linux/tsan.rs`
/// has the functions: their arguments are the counter's second word and what is added.
#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu", tsan))]
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

#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu", not(tsan)))]
macro_rules! tell_tsan {
    ($what:literal, $delta:literal) => {
        ""
    };
}

/// The body of a get or a put: the restartable sequence right here, and `inner(argument,
/// caller)` if the argument is NULL or the sequence was not for it. A module's has a trace
/// point, after the get or before the put. Where that has come before the sequence,
/// `failed(argument, caller)`, which has none, goes on if the sequence fails.
#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
macro_rules! sequence_or {
    ($inner:path, $argument:expr, $delta:literal) => {
        sequence_or!($inner, $argument, $delta, before "", after "", failed $inner)
    };
    ($inner:path, $argument:expr, $delta:literal, before $before:expr, after $after:expr,
     failed $failed:path) => {
        core::arch::naked_asm!(
            ".cfi_startproc",
            "test rdi, rdi",
            "jz 8f",
            // A look outside of the sequence, so that a counter in one word pays no more.
            "test byte ptr [rdi + 8], 1",
            "jz 8f",
            $before,
            $crate::caller::tell_tsan!("module_ref_tsan_before_add", $delta),
            "mov rdx, [rip + {offset}]",
            counter::__rseq_add!("rdi + 8", "rdx", $delta, "9f"),
            $crate::caller::tell_tsan!("module_ref_tsan_after_add", $delta),
            $after,
            "mov eax, 1",
            "ret",
            "8:",
            "mov rsi, [rsp]",
            "jmp {inner}",
            "9:",
            "mov rsi, [rsp]",
            "jmp {failed}",
            ".cfi_endproc",
            // Padding that aligns the section, and with it the function, to a cache line.
            ".balign 64",
            offset = sym counter::RSEQ_OFFSET,
            inner = sym $inner,
            failed = sym $failed,
        )
    };
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu")))]
macro_rules! sequence_or {
    ($inner:path, $argument:expr, $delta:literal) => {
        with_caller!($inner, $argument)
    };
    ($inner:path, $argument:expr, $delta:literal, before $before:expr, after $after:expr,
     failed $failed:path) => {
        with_caller!($inner, $argument)
    };
}

pub(crate) use {sequence_or, with_caller};
#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
pub(crate) use {tell_tsan, trace_point};
