//! Entry points that know where they were called from.
//!
//! A misuse is reported with the caller's address, which Rust has no way to ask
//! for. So the functions that can report one are naked: a first instruction hands
//! the return address on as a further argument, a second jumps to the rest. The
//! stack stays as the caller left it, and the unwinder is told so.

/// The body of an entry point: `inner(arguments.., caller)`.
#[cfg(all(unix, target_arch = "x86_64"))]
macro_rules! with_caller {
    // The arguments stay where they are; the return address is on top of the stack.
    ($inner:path, $a:expr) => {
        core::arch::naked_asm!(".cfi_startproc", "mov rsi, [rsp]", "jmp {}", ".cfi_endproc", sym $inner)
    };
    ($inner:path, $a:expr, $b:expr) => {
        core::arch::naked_asm!(".cfi_startproc", "mov rdx, [rsp]", "jmp {}", ".cfi_endproc", sym $inner)
    };
    ($inner:path, $a:expr, $b:expr, $c:expr) => {
        core::arch::naked_asm!(".cfi_startproc", "mov rcx, [rsp]", "jmp {}", ".cfi_endproc", sym $inner)
    };
    ($inner:path, $a:expr, $b:expr, $c:expr, $d:expr) => {
        core::arch::naked_asm!(".cfi_startproc", "mov r8, [rsp]", "jmp {}", ".cfi_endproc", sym $inner)
    };
    ($inner:path, $a:expr, $b:expr, $c:expr, $d:expr, $e:expr) => {
        core::arch::naked_asm!(".cfi_startproc", "mov r9, [rsp]", "jmp {}", ".cfi_endproc", sym $inner)
    };
}

/// The body of an entry point: `inner(arguments.., caller)`.
#[cfg(all(unix, target_arch = "aarch64"))]
macro_rules! with_caller {
    // The arguments stay where they are; the return address is in x30.
    ($inner:path, $a:expr) => {
        core::arch::naked_asm!(".cfi_startproc", "mov x1, x30", "b {}", ".cfi_endproc", sym $inner)
    };
    ($inner:path, $a:expr, $b:expr) => {
        core::arch::naked_asm!(".cfi_startproc", "mov x2, x30", "b {}", ".cfi_endproc", sym $inner)
    };
    ($inner:path, $a:expr, $b:expr, $c:expr) => {
        core::arch::naked_asm!(".cfi_startproc", "mov x3, x30", "b {}", ".cfi_endproc", sym $inner)
    };
    ($inner:path, $a:expr, $b:expr, $c:expr, $d:expr) => {
        core::arch::naked_asm!(".cfi_startproc", "mov x4, x30", "b {}", ".cfi_endproc", sym $inner)
    };
    ($inner:path, $a:expr, $b:expr, $c:expr, $d:expr, $e:expr) => {
        core::arch::naked_asm!(".cfi_startproc", "mov x5, x30", "b {}", ".cfi_endproc", sym $inner)
    };
}

/// The body of an entry point: `inner(arguments.., caller)`.
#[cfg(not(all(unix, any(target_arch = "x86_64", target_arch = "aarch64"))))]
macro_rules! with_caller {
    ($inner:path, $($argument:expr),+) => {
        // SAFETY: the entry point's contract is that of the rest.
        unsafe { $inner($($argument),+, modref::misuse::Caller::UNKNOWN) }
    };
}

pub(crate) use with_caller;
