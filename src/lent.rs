//! What pointers from C stand for.
//!
//! Every function of the header has one contract: a pointer is NULL, or good for the whole call
//! for what its type says. So each type of pointer is lent as one type of Rust's, which says
//! whether something may be missing. A function that takes something over from C, or whose caller
//! has to keep a rule, still says so where it does.

use core::ffi::{CStr, c_char};
use core::mem::MaybeUninit;

pub(crate) trait Lent {
    type As<'a>;

    /// # Safety
    ///
    /// The contract above, for as long as `'a`.
    unsafe fn lent<'a>(self) -> Self::As<'a>;
}

/// An argument of an exported function, as what C lends it for.
macro_rules! lent {
    ($pointer:expr) => {{
        let pointer = $pointer;
        // SAFETY: the contract of every exported function.
        unsafe { $crate::lent::Lent::lent(pointer) }
    }};
}
pub(crate) use lent;

impl Lent for *const c_char {
    type As<'a> = Option<&'a CStr>;

    unsafe fn lent<'a>(self) -> Self::As<'a> {
        // SAFETY: not NULL, so a C string.
        (!self.is_null()).then(|| unsafe { CStr::from_ptr(self) })
    }
}

/// A buffer and its length.
impl Lent for (*mut c_char, usize) {
    type As<'a> = &'a mut [MaybeUninit<u8>];

    unsafe fn lent<'a>(self) -> Self::As<'a> {
        if self.0.is_null() {
            return &mut [];
        }
        // SAFETY: not NULL, so that many bytes to write to.
        unsafe { core::slice::from_raw_parts_mut(self.0.cast(), self.1) }
    }
}
