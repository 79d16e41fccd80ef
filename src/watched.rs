//! The C library in a process with a tool that watches for races: `modref::tool` has what it is told.

use core::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// Where a get or a put goes on in the word: at `plain`, or where it has been led to. A jump
/// through it takes as many instructions as one to a function.
#[repr(transparent)]
pub(crate) struct Way(AtomicPtr<()>);

impl Way {
    pub(crate) const fn new(plain: *const ()) -> Self {
        Self(AtomicPtr::new(plain.cast_mut()))
    }

    fn lead_to(&self, watched: *const ()) {
        // Relaxed: both do the same to the counter.
        self.0.store(watched.cast_mut(), Relaxed);
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use crate::abi;
    #[cfg(target_env = "gnu")]
    use crate::host;
    use core::alloc::{GlobalAlloc, Layout};
    use modref::tool;
    use std::alloc::System;

    #[used]
    #[unsafe(link_section = ".init_array")]
    static AT_LOAD: extern "C" fn() = {
        extern "C" fn at_load() {
            if tool::is_watching() {
                abi::TRY_GET.lead_to(abi::watched_try_get as *const ());
                abi::PUT.lead_to(abi::watched_put as *const ());
                #[cfg(target_env = "gnu")]
                {
                    host::TRY_GET.lead_to(host::watched_try_get as *const ());
                    host::PUT.lead_to(host::watched_put as *const ());
                }
            }
        }
        at_load
    };

    /// The heap of this library, which is for no tool to watch.
    struct Heap;

    #[global_allocator]
    static HEAP: Heap = Heap;

    /// Memory that was just allocated.
    fn ours(memory: *mut u8, size: usize) -> *mut u8 {
        if !memory.is_null() {
            tool::ours(memory, size);
        }
        memory
    }

    // SAFETY: the system's allocator, called as this is.
    unsafe impl GlobalAlloc for Heap {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            // SAFETY: the caller's promise, here and below.
            ours(unsafe { System.alloc(layout) }, layout.size())
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            // SAFETY: as above.
            ours(unsafe { System.alloc_zeroed(layout) }, layout.size())
        }

        unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            // SAFETY: as above.
            ours(unsafe { System.realloc(memory, layout, size) }, size)
        }

        unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
            // SAFETY: as above.
            unsafe { System.dealloc(memory, layout) }
        }
    }
}
