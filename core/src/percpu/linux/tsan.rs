//! For builds with `--cfg tsan` only: what ThreadSanitizer cannot see of the slots, because the sequence
//! is assembly and the barrier is in the kernel. `c-tests/tsan/annotations.c` has the functions called
//! here, and says which edge each of them is; `ci/tsan` builds it all.

use core::sync::atomic::AtomicUsize;

unsafe extern "C" {
    fn module_ref_tsan_before_add(slots: *const AtomicUsize, delta: i64);
    fn module_ref_tsan_after_add(slots: *const AtomicUsize, delta: i64);
    fn module_ref_tsan_after_barrier(slots: *const AtomicUsize);
}

/// The sequence, with annotations before and after it. The C library's entry points have the same around
/// theirs.
pub(super) fn add(slots: &AtomicUsize, delta: i64, add: impl Fn(&AtomicUsize) -> bool) -> bool {
    // SAFETY: the address is only a name to them.
    unsafe { module_ref_tsan_before_add(slots, delta) };
    let added = add(slots);
    if added {
        // SAFETY: as above.
        unsafe { module_ref_tsan_after_add(slots, delta) };
    }
    added
}

pub(super) fn after_barrier(slots: &AtomicUsize) {
    // SAFETY: the address is only a name to it.
    unsafe { module_ref_tsan_after_barrier(slots) };
}
