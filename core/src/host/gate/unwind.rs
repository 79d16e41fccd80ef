//! What an exception, or the end of a thread, does on its way through a gate.
//!
//! The body is a function without exceptions of its own. So its personality function has one thing to
//! say: if the unwinder comes by to clean up, and the body's call of the module's function is under way, it is
//! to go on at the body's landing, which gives the reference back and resumes. By then no frame of the module is
//! on the stack any more.

use std::ffi::{c_int, c_void};

const CLEANUP_PHASE: c_int = 2;
const INSTALL_CONTEXT: c_int = 7;
const CONTINUE_UNWIND: c_int = 8;

unsafe extern "C" {
    /// In the body: what the function returns to, and where it goes on if that does not return.
    static __module_ref_gate_called: u8;
    static __module_ref_gate_landing: u8;

    fn _Unwind_GetIP(context: *mut c_void) -> usize;
    fn _Unwind_SetIP(context: *mut c_void, to: usize);
    fn _Unwind_SetGR(context: *mut c_void, register: c_int, value: usize);
}

// Not "C", which is a promise not to unwind: all code of this crate would have it of the one function of that
// name, and a panic that passes a destructor would end the process.
unsafe extern "C-unwind" {
    pub(super) fn _Unwind_Resume(exception: *mut c_void) -> !;
}

pub(super) unsafe extern "C" fn personality(
    _version: c_int,
    actions: c_int,
    _class: u64,
    exception: *mut c_void,
    context: *mut c_void,
) -> c_int {
    // SAFETY: the unwinder's context; labels of the body.
    unsafe {
        if actions & CLEANUP_PHASE == 0
            || _Unwind_GetIP(context) != &raw const __module_ref_gate_called as usize
        {
            return CONTINUE_UNWIND;
        }
        // The first register that values are returned in has number 0 on all machines that have gates.
        _Unwind_SetGR(context, 0, exception as usize);
        _Unwind_SetIP(context, &raw const __module_ref_gate_landing as usize);
    }
    INSTALL_CONTEXT
}

#[cfg(test)]
mod tests {
    use std::panic::{self, AssertUnwindSafe};

    #[test]
    fn a_panic_passes_a_destructor() {
        struct Sets<'a>(&'a mut bool);

        impl Drop for Sets<'_> {
            fn drop(&mut self) {
                *self.0 = true;
            }
        }

        let mut dropped = false;
        let panicked = panic::catch_unwind(AssertUnwindSafe(|| {
            let _sets = Sets(&mut dropped);
            panic::resume_unwind(Box::new(()));
        }));
        assert!(panicked.is_err() && dropped);
    }
}
