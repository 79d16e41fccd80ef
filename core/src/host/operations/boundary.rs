//! Calls of functions that a plugin may not unwind out of, as an exception does.
//!
//! If one does, the process ends. Before that the words say which module it was and where it was
//! thrown, which the frames that are unwound still tell in the unwinder's first phase: it asks
//! each frame's personality function, ours among them. Ours tells it to go no further, and whoever
//! has thrown then does as with an exception that nobody catches: C++ prints its type and its
//! what(), and aborts.

use crate::host::error::{Error, errno_text, error, warn};
use crate::host::object::linked::described;
use crate::host::presence;
use crate::host::registry::record::{Hook, Loaded, Record};
use crate::tool;
use std::ffi::{CStr, c_int, c_void};
use std::ptr;

/// What the personality function finds on the stack.
struct Call<'a> {
    record: &'a Record,
    function: &'static str,
}

/// Calls a function of the module's. What it returns means nothing if it returns nothing; what it
/// does not take is ignored.
///
/// # Safety
///
/// The function returns `int` or nothing, and takes as many of the pointers as it likes; the module
/// is loaded.
pub(crate) unsafe fn call(
    record: &Record,
    function: &'static str,
    code: *const c_void,
    arguments: [*const c_void; 2],
) -> c_int {
    let call = Call { record, function };
    // SAFETY: the caller's promise.
    tool::outside(|| unsafe {
        __module_ref_call_plugin(code, (&raw const call).cast(), arguments[0], arguments[1])
    })
}

/// Calls a function that the plugin may export; 0 if it does not. `None` if its code was written over.
pub(crate) fn hook(
    record: &Record,
    function: &'static str,
    which: impl FnOnce(&Loaded) -> Hook,
) -> Option<c_int> {
    hook_with(record, function, which, ptr::null())
}

/// The same for one that takes a pointer.
pub(crate) fn hook_with(
    record: &Record,
    function: &'static str,
    which: impl FnOnce(&Loaded) -> Hook,
    argument: *const c_void,
) -> Option<c_int> {
    let loaded = record.loaded().and_then(|loaded| Some((loaded, which(loaded)?)));
    let Some((loaded, hook)) = loaded else { return Some(0) };
    if loaded.object.is_overwritten() {
        return None;
    }
    // SAFETY: the plugin contract. The object is open.
    Some(unsafe { call(record, function, hook as *const c_void, [argument, ptr::null()]) })
}

/// Why a module is not what it was to be: one of its functions has refused, or cannot be called.
/// `outcome` is "not loaded".
pub(crate) fn refusal(record: &Record, outcome: &str, function: &str, rc: Option<c_int>) -> Error {
    let name = record.name();
    let Some(rc) = rc else {
        return error!(
            libc::ETXTBSY,
            "module '{name}' was {outcome}: its file was written over after it had been mapped, so its \
             code cannot be run; load it once it is installed"
        );
    };
    let errno = rc.checked_neg().unwrap_or(libc::EINVAL);
    error!(
        errno,
        "module '{name}' was {outcome}: its {function} returned {rc} ({})",
        errno_text(errno)
    )
}

#[cfg(all(target_pointer_width = "64", any(target_arch = "x86_64", target_arch = "aarch64")))]
unsafe extern "C-unwind" {
    /// Leaves `call`, a `Call`, where the stack ends when the plugin's function begins.
    fn __module_ref_call_plugin(
        code: *const c_void,
        call: *const c_void,
        first: *const c_void,
        second: *const c_void,
    ) -> c_int;
}

#[cfg(not(all(
    target_pointer_width = "64",
    any(target_arch = "x86_64", target_arch = "aarch64")
)))]
unsafe fn __module_ref_call_plugin(
    code: *const c_void,
    _call: *const c_void,
    first: *const c_void,
    second: *const c_void,
) -> c_int {
    type Function = extern "C-unwind" fn(*const c_void, *const c_void) -> c_int;
    // SAFETY: the caller's promise.
    unsafe { std::mem::transmute::<*const c_void, Function>(code)(first, second) }
}

/// The function around these instructions. The unwinder finds its personality function through a
/// word in data, as a compiler's code has it, so that no text has to be relocated.
#[cfg(all(target_pointer_width = "64", any(target_arch = "x86_64", target_arch = "aarch64")))]
macro_rules! with_personality {
    ($($line:literal),+) => {
        std::arch::global_asm!(
            // A section of its own: ld takes two personalities at different places of one section for
            // the same, and would give this function the other's.
            ".pushsection .data.rel.ro.module_ref_personality,\"aw\",%progbits",
            ".balign 8",
            ".Lmodule_ref_personality: .quad {personality}",
            ".popsection",
            ".pushsection .text.module_ref_call_plugin,\"ax\",%progbits",
            ".globl __module_ref_call_plugin",
            ".hidden __module_ref_call_plugin",
            ".type __module_ref_call_plugin, %function",
            "__module_ref_call_plugin:",
            ".cfi_startproc",
            ".cfi_personality 0x9b, .Lmodule_ref_personality",
            $($line,)+
            ".cfi_endproc",
            ".size __module_ref_call_plugin, . - __module_ref_call_plugin",
            ".popsection",
            personality = sym personality,
        );
    };
}

#[cfg(all(target_pointer_width = "64", target_arch = "x86_64"))]
with_personality!(
    "push rsi",
    ".cfi_def_cfa_offset 16",
    "mov rax, rdi",
    "mov rdi, rdx",
    "mov rsi, rcx",
    "call rax",
    "pop rcx",
    ".cfi_def_cfa_offset 8",
    "ret"
);

#[cfg(all(target_pointer_width = "64", target_arch = "aarch64"))]
with_personality!(
    "stp x1, x30, [sp, #-16]!",
    ".cfi_def_cfa_offset 16",
    ".cfi_offset w30, -8",
    "mov x9, x0",
    "mov x0, x2",
    "mov x1, x3",
    "blr x9",
    "ldr x30, [sp, #8]",
    "add sp, sp, #16",
    ".cfi_def_cfa_offset 0",
    ".cfi_restore w30",
    "ret"
);

/// The unwinder's.
type Context = *mut c_void;

const SEARCH_PHASE: c_int = 1;
const FATAL_PHASE1_ERROR: c_int = 3;
const CONTINUE_UNWIND: c_int = 8;

unsafe extern "C" {
    fn _Unwind_GetCFA(context: Context) -> usize;
}

/// What the unwinder asks when an exception comes by.
#[cfg_attr(
    not(all(target_pointer_width = "64", any(target_arch = "x86_64", target_arch = "aarch64"))),
    allow(dead_code)
)]
unsafe extern "C" fn personality(
    _version: c_int,
    actions: c_int,
    _class: u64,
    _exception: *mut c_void,
    context: Context,
) -> c_int {
    if actions & SEARCH_PHASE == 0 {
        // The thread ends, by pthread_exit or cancellation, which is not ours to stop.
        return CONTINUE_UNWIND;
    }
    // SAFETY: of the frame that was called from here the stack ended where `call` lies, and the
    // call has not returned.
    let Call { record, function } = unsafe { &*(*(_Unwind_GetCFA(context) as *const *const Call)) };
    warn(&format!(
        "module '{}': an exception has left its {function}, which ends the process; it was thrown \
         {}",
        record.name(),
        place(record)
    ));
    FATAL_PHASE1_ERROR
}

/// Where in the module's code the thread is.
fn place(record: &Record) -> String {
    let is_its = |ip: &usize| record.has_code(*ip as *const c_void);
    // The call is what is before the address that it returns to.
    let address = presence::frames().0.into_iter().find(is_its).map(|ip| ip - 1);
    let Some((address, info)) = address.and_then(|at| Some((at, described(at as *const c_void)?)))
    else {
        return "elsewhere".to_owned();
    };
    // SAFETY: strings of the dynamic linker's, or null.
    let text = |string| unsafe { CStr::from_ptr(string) }.to_string_lossy();
    let at = address - info.dli_fbase as usize;
    match ptr::NonNull::new(info.dli_sname.cast_mut()) {
        Some(name) => format!(
            "in {}+{:#x} ({}+{at:#x})",
            text(name.as_ptr()),
            address - info.dli_saddr as usize,
            text(info.dli_fname)
        ),
        None => format!("at {}+{at:#x}", text(info.dli_fname)),
    }
}
