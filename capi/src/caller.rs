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

/// The body of a get or a put: the restartable sequence right here, and `inner(argument,
/// caller)` if the argument is NULL or the sequence was not for it.
#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu", not(tsan)))]
macro_rules! sequence_or {
    ($inner:path, $argument:expr, $delta:literal) => {
        core::arch::naked_asm!(
            ".cfi_startproc",
            "mov rdx, [rip + {offset}]",
            "test rdi, rdi",
            "jz 8f",
            // A look outside of the sequence, so that a counter in one word pays no more.
            "test byte ptr [rdi + 8], 1",
            "jz 8f",
            counter::__rseq_add!("rdi + 8", "rdx", $delta, "8f"),
            "mov eax, 1",
            "ret",
            "8:",
            "mov rsi, [rsp]",
            "jmp {inner}",
            ".cfi_endproc",
            // Padding that aligns the section, and with it the function, to a cache line.
            ".balign 64",
            offset = sym counter::RSEQ_OFFSET,
            inner = sym $inner,
        )
    };
}

/// The same, telling ThreadSanitizer what it cannot see: `percpu/linux/tsan.rs` has the
/// functions, whose arguments are the counter's second word and what is added.
#[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu", tsan))]
macro_rules! sequence_or {
    ($inner:path, $argument:expr, $delta:literal) => {
        core::arch::naked_asm!(
            ".cfi_startproc",
            "test rdi, rdi",
            "jz 8f",
            "test byte ptr [rdi + 8], 1",
            "jz 8f",
            "push rdi",
            ".cfi_adjust_cfa_offset 8",
            "add rdi, 8",
            concat!("mov rsi, ", $delta),
            "call module_ref_tsan_before_add",
            "pop rdi",
            ".cfi_adjust_cfa_offset -8",
            "mov rdx, [rip + {offset}]",
            counter::__rseq_add!("rdi + 8", "rdx", $delta, "8f"),
            "push rdi",
            ".cfi_adjust_cfa_offset 8",
            "add rdi, 8",
            concat!("mov rsi, ", $delta),
            "call module_ref_tsan_after_add",
            "pop rdi",
            ".cfi_adjust_cfa_offset -8",
            "mov eax, 1",
            "ret",
            "8:",
            "mov rsi, [rsp]",
            "jmp {inner}",
            ".cfi_endproc",
            offset = sym counter::RSEQ_OFFSET,
            inner = sym $inner,
        )
    };
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu")))]
macro_rules! sequence_or {
    ($inner:path, $argument:expr, $delta:literal) => {
        with_caller!($inner, $argument)
    };
}

pub(crate) use {sequence_or, with_caller};
