//! Gates by the procedure call standard of aarch64.

#[path = "unwind.rs"]
mod unwind;

use super::{Slot, enter, leave};
use std::ffi::c_void;

pub(super) const EXISTS: bool = true;

unsafe extern "C" {
    fn __module_ref_gate() -> *mut c_void;
}

/// How many bytes a stub has.
pub(super) const STUB: usize = 16;

/// A page of stubs, and how many these are. The page ends with the address of the body; the slots follow it.
pub(super) fn stubs(page: usize) -> Option<(usize, Vec<u8>)> {
    const BTI_C: u32 = 0xd503_245f;
    const BR_X16: u32 = 0xd61f_0200;
    let body = (__module_ref_gate as *const () as u64).to_le_bytes();
    let (last, mut code) = (page - body.len(), Vec::with_capacity(page));
    let n = last / STUB;
    for i in 0..n {
        let at = i * STUB;
        // Both have 20 bits and a sign: enough for a page of 64 KiB and its slots.
        let slot = (page + i * size_of::<Slot>() - (at + 4)) as u32;
        let adr_x17 = 0x1000_0011 | (slot & 3) << 29 | (slot >> 2) << 5;
        let ldr_x16 = 0x5800_0010 | ((last - (at + 8)) as u32 >> 2) << 5;
        code.extend([BTI_C, adr_x17, ldr_x16, BR_X16].map(u32::to_le_bytes).concat());
    }
    code.resize(last, 0);
    code.extend(body);
    Some((n, code))
}

// The frame, from x29 up: x29 and x30; the head, or what is returned; a place; x0 to x8; v0 to v7.
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
    "hint #34", // bti c
    "stp x29, x30, [sp, #-240]!",
    ".cfi_def_cfa_offset 240",
    ".cfi_offset w29, -240",
    ".cfi_offset w30, -232",
    "mov x29, sp",
    ".cfi_def_cfa_register w29",
    "stp x0, x1, [x29, #32]",
    "stp x2, x3, [x29, #48]",
    "stp x4, x5, [x29, #64]",
    "stp x6, x7, [x29, #80]",
    "str x8, [x29, #96]",
    "stp q0, q1, [x29, #112]",
    "stp q2, q3, [x29, #144]",
    "stp q4, q5, [x29, #176]",
    "stp q6, q7, [x29, #208]",
    "mov x0, x17",
    "mov x1, xzr",
    "bl {enter}",
    "str x1, [x29, #16]",
    "cbz x0, 2f",
    "mov x16, x0",
    "ldp x0, x1, [x29, #32]",
    "ldp x2, x3, [x29, #48]",
    "ldp x4, x5, [x29, #64]",
    "ldp x6, x7, [x29, #80]",
    "ldr x8, [x29, #96]",
    "ldp q0, q1, [x29, #112]",
    "ldp q2, q3, [x29, #144]",
    "ldp q4, q5, [x29, #176]",
    "ldp q6, q7, [x29, #208]",
    "blr x16",
    "__module_ref_gate_called:",
    "stp x0, x1, [x29, #32]",
    "stp q0, q1, [x29, #112]",
    "stp q2, q3, [x29, #144]",
    "ldr x0, [x29, #16]",
    "bl {leave}",
    "ldp x0, x1, [x29, #32]",
    "ldp q0, q1, [x29, #112]",
    "ldp q2, q3, [x29, #144]",
    "3:",
    "ldp x29, x30, [sp], #240",
    ".cfi_remember_state",
    ".cfi_def_cfa sp, 0",
    ".cfi_restore w29",
    ".cfi_restore w30",
    "ret",
    // Refused: the value as a number, and as the bits of a floating one.
    "2:",
    ".cfi_restore_state",
    "mov x0, x1",
    "fmov d0, x0",
    "mov x1, xzr",
    "fmov d1, xzr",
    "b 3b",
    // The function does not return; the unwinder comes here with its exception in x0.
    "__module_ref_gate_landing:",
    "str x0, [x29, #24]",
    "ldr x0, [x29, #16]",
    "bl {leave}",
    "ldr x0, [x29, #24]",
    "bl {resume}",
    "brk #1",
    ".cfi_endproc",
    ".size __module_ref_gate, . - __module_ref_gate",
    ".popsection",
    personality = sym unwind::personality,
    enter = sym enter,
    leave = sym leave,
    resume = sym unwind::_Unwind_Resume,
);
