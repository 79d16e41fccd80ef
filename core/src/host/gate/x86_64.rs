//! Gates by the System V calling convention of x86-64.

#[path = "unwind.rs"]
mod unwind;

use super::{Slot, Way, enter, leave, leave_told};
use std::ffi::c_void;
use std::mem::offset_of;

pub(super) const EXISTS: bool = true;

unsafe extern "C" {
    fn __module_ref_gate() -> *mut c_void;
}

/// How many bytes a stub has.
pub(super) const STUB: usize = 24;

/// A page of stubs, and how many these are. The page ends with the address of the body; the slots follow it.
pub(super) fn stubs(page: usize) -> Option<(usize, Vec<u8>)> {
    let body = (__module_ref_gate as *const () as u64).to_le_bytes();
    let (last, mut code) = (page - body.len(), Vec::with_capacity(page));
    let n = last / STUB;
    for i in 0..n {
        let at = i * STUB;
        let slot = page + i * size_of::<Slot>();
        // endbr64; lea r11, [rip + slot]; jmp [rip + last]
        code.extend([0xf3, 0x0f, 0x1e, 0xfa, 0x4c, 0x8d, 0x1d]);
        code.extend(((slot - (at + 11)) as u32).to_le_bytes());
        code.extend([0xff, 0x25]);
        code.extend(((last - (at + 17)) as u32).to_le_bytes());
        // int3, so that nothing is run behind it.
        code.resize(at + STUB, 0xcc);
    }
    code.resize(last, 0xcc);
    code.extend(body);
    Some((n, code))
}

const _: () = {
    assert!(offset_of!(Slot, way) == 0);
    assert!(offset_of!(Way, head) == 0 && offset_of!(Way, function) == 8);
};

// The frame, from rbp down: rbp; the slot, then the head, or what is returned; rax, whose lowest byte tells a function with
// variable arguments how many vector registers it gets; the argument registers; the vector registers. Only the
// lower half of a vector register of 256 bits is saved, and the upper one is left as it is: what is called is
// compiled for SSE. rsp is aligned at each call.
//
// The labels of one digit before 6 are those of the sequences.
//
// Where a counter counts per CPU, which needs few registers, `enter` and `leave` are done right here.

/// A build for the sanitizer has sequences in Rust code alone.
#[cfg(tsan)]
macro_rules! unless_tsan {
    ($label:literal) => {
        concat!("jmp ", $label)
    };
}

#[cfg(not(tsan))]
macro_rules! unless_tsan {
    ($label:literal) => {
        ""
    };
}

std::arch::global_asm!(
    ".pushsection .data.rel.ro,\"aw\",%progbits",
    ".balign 8",
    ".Lmodule_ref_gate_personality: .quad {personality}",
    ".popsection",
    ".pushsection .text.module_ref_gate,\"ax\",%progbits",
    ".balign 64",
    ".globl __module_ref_gate, __module_ref_gate_called, __module_ref_gate_landing",
    ".hidden __module_ref_gate, __module_ref_gate_called, __module_ref_gate_landing",
    ".type __module_ref_gate, %function",
    "__module_ref_gate:",
    ".cfi_startproc",
    ".cfi_personality 0x9b, .Lmodule_ref_gate_personality",
    "endbr64",
    "push rbp",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset rbp, -16",
    "mov rbp, rsp",
    ".cfi_def_cfa_register rbp",
    "sub rsp, 192",
    "mov [rbp - 16], rax",
    "mov [rbp - 40], rdx",
    "mov [rbp - 48], rcx",
    "mov [rbp - 8], r11",
    unless_tsan!("6f"),
    // The way, and its head.
    "mov r10, [r11]",
    "mov r10, [r10]",
    "test r10, r10",
    "jz 6f",
    "cmp word ptr [r10 + 8], 0",
    "je 6f",
    "mov rdx, [rip + {area}]",
    "test rdx, rdx",
    "jz 6f",
    "movsxd r11, edx",
    "sar rdx, 32",
    crate::__rseq_add!("r10 + 8", "r11", "rdx", "1", "6f"),
    crate::__trace_point!("module_get", "%r10", "$0"),
    // It may lead elsewhere by now, and that is as good if the head is the same.
    "mov rax, [rbp - 8]",
    "mov rax, [rax]",
    "mov r11, [rax + 8]",
    "cmp [rax], r10",
    "jne 7f",
    "mov [rbp - 8], r10",
    "not r11",
    "15:",
    "mov rax, [rbp - 16]",
    "mov rdx, [rbp - 40]",
    "mov rcx, [rbp - 48]",
    "call r11",
    "__module_ref_gate_called:",
    "mov r8, rax",
    "mov r9, rdx",
    "mov rdi, [rbp - 8]",
    unless_tsan!("8f"),
    "cmp word ptr [rdi + 8], 0",
    "je 8f",
    "mov rdx, [rip + {area}]",
    "test rdx, rdx",
    "jz 8f",
    "movsxd rsi, edx",
    "sar rdx, 32",
    crate::__trace_point!("module_put", "%rdi", "$0"),
    crate::__rseq_add!("rdi + 8", "rsi", "rdx", "-1", "9f"),
    "19:",
    "mov rax, r8",
    "mov rdx, r9",
    "leave",
    ".cfi_remember_state",
    ".cfi_def_cfa rsp, 8",
    "ret",
    // Nothing was taken, or, at 7, a reference on what the gate does not lead to any more.
    "6:",
    ".cfi_restore_state",
    "xor r10d, r10d",
    "7:",
    "mov [rbp - 24], rdi",
    "mov [rbp - 32], rsi",
    "mov [rbp - 56], r8",
    "mov [rbp - 64], r9",
    "movaps [rsp], xmm0",
    "movaps [rsp + 16], xmm1",
    "movaps [rsp + 32], xmm2",
    "movaps [rsp + 48], xmm3",
    "movaps [rsp + 64], xmm4",
    "movaps [rsp + 80], xmm5",
    "movaps [rsp + 96], xmm6",
    "movaps [rsp + 112], xmm7",
    "mov rdi, [rbp - 8]",
    "mov rsi, r10",
    "call {enter}",
    "mov [rbp - 8], rdx",
    "test rax, rax",
    "jz 12f",
    "mov r11, rax",
    "movaps xmm0, [rsp]",
    "movaps xmm1, [rsp + 16]",
    "movaps xmm2, [rsp + 32]",
    "movaps xmm3, [rsp + 48]",
    "movaps xmm4, [rsp + 64]",
    "movaps xmm5, [rsp + 80]",
    "movaps xmm6, [rsp + 96]",
    "movaps xmm7, [rsp + 112]",
    "mov rdi, [rbp - 24]",
    "mov rsi, [rbp - 32]",
    "mov r8, [rbp - 56]",
    "mov r9, [rbp - 64]",
    "jmp 15b",
    // Refused: the value as a number, and as the bits of a floating one.
    "12:",
    "movq xmm0, rdx",
    "xorps xmm1, xmm1",
    "mov r8, rdx",
    "xor r9d, r9d",
    "jmp 19b",
    // Nothing was given back; at 9, after tracers have been told of it.
    "8:",
    "lea rcx, [rip + {leave}]",
    "jmp 13f",
    "9:",
    "lea rcx, [rip + {leave_told}]",
    "13:",
    "mov [rbp - 16], r8",
    "mov [rbp - 24], r9",
    "movaps [rsp], xmm0",
    "movaps [rsp + 16], xmm1",
    "call rcx",
    "mov r8, [rbp - 16]",
    "mov r9, [rbp - 24]",
    "movaps xmm0, [rsp]",
    "movaps xmm1, [rsp + 16]",
    "jmp 19b",
    // The function does not return; the unwinder comes here with its exception in rax.
    "__module_ref_gate_landing:",
    "mov [rbp - 16], rax",
    "mov rdi, [rbp - 8]",
    "call {leave}",
    "mov rdi, [rbp - 16]",
    "call {resume}",
    "ud2",
    ".cfi_endproc",
    ".size __module_ref_gate, . - __module_ref_gate",
    ".popsection",
    personality = sym unwind::personality,
    area = sym crate::AREA,
    enter = sym enter,
    leave = sym leave,
    leave_told = sym leave_told,
    resume = sym unwind::_Unwind_Resume,
);
