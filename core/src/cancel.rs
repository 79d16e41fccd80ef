//! Functions that are no cancellation points, although they call some.

use core::ffi::c_int;

/// Keeps a cancellation of this thread (pthread_cancel) pending for as long as it lives. A load
/// or an unload that was left half way, at a cancellation point of the plugin's or of the C
/// library's, would leave its module in the middle for ever.
pub struct NotCancelled {
    before: c_int,
}

/// Sets this thread's state, and returns what it was.
fn set_cancel_state(state: c_int) -> c_int {
    unsafe extern "C" {
        fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
    }
    let mut before = 0;
    // SAFETY: the place is ours.
    unsafe { pthread_setcancelstate(state, &mut before) };
    before
}

impl NotCancelled {
    /// From now on.
    pub fn until_dropped() -> Self {
        const PTHREAD_CANCEL_DISABLE: c_int = 1;
        Self { before: set_cancel_state(PTHREAD_CANCEL_DISABLE) }
    }
}

impl Drop for NotCancelled {
    fn drop(&mut self) {
        set_cancel_state(self.before);
    }
}
