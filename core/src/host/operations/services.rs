//! What a host does for plugins in Rust: see [`plugin`](crate::plugin).

use super::thread::{self, Start};
use crate::host::registry::module::Module;
use crate::host::registry::record::Record;
use crate::misuse::Caller;
use crate::plugin::Services;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;

pub(super) static SERVICES: Services = Services { name, try_get, put, start, end };

/// # Safety
///
/// What `introduce` has told a plugin; the plugin's code runs.
unsafe fn record<'a>(module: *const c_void) -> &'a Record {
    // SAFETY: the caller's promise: a record stays for as long as its module's code.
    unsafe { &*module.cast::<Record>() }
}

unsafe extern "C" fn name(module: *const c_void) -> *const c_char {
    // SAFETY: as for `record`.
    unsafe { record(module) }.c_name()
}

unsafe extern "C" fn try_get(module: *const c_void) -> bool {
    // SAFETY: as for `record`.
    unsafe { record(module) }.try_get(Caller::UNKNOWN)
}

unsafe extern "C" fn put(module: *const c_void) {
    // SAFETY: as for `record`; the plugin gives back what it has taken.
    unsafe { record(module).put() }
}

unsafe extern "C" fn start(
    module: *const c_void,
    body: Start,
    argument: *mut c_void,
    thread: *mut usize,
) -> c_int {
    let mut started = 0;
    // SAFETY: as for `record`; the plugin's promises for the thread.
    let created = unsafe {
        let module = Module::borrow_raw(module.cast());
        thread::create(&mut started, ptr::null(), &module, body, argument)
    };
    match created {
        Ok(()) => {
            // SAFETY: the plugin's place for it.
            unsafe { thread.write(started as usize) };
            0
        }
        Err(error) => error.errno(),
    }
}

unsafe extern "C" fn end(thread: usize, wait: bool) {
    // SAFETY: the plugin has started it, and calls this once.
    unsafe {
        if wait {
            libc::pthread_join(thread as libc::pthread_t, ptr::null_mut());
        } else {
            libc::pthread_detach(thread as libc::pthread_t);
        }
    }
}
