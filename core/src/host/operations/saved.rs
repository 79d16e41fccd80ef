//! What a module hands to the one that replaces it.

use super::boundary;
use crate::host::error::Error;
use crate::host::registry::record::Record;
use std::ffi::c_void;
use std::ptr;

/// C's `struct module_saved`: what `save_module` fills in, and `restore_module` is given.
#[repr(C)]
pub struct Saved {
    version: u32,
    reserved: u32,
    /// From malloc, or null.
    data: *mut c_void,
    size: usize,
}

impl Saved {
    /// What `save_module` saves; `None` if the module has none. Nobody uses the module any more.
    pub(crate) fn of(record: &Record) -> Result<Option<Self>, Error> {
        if record.loaded().is_none_or(|loaded| loaded.save.is_none()) {
            return Ok(None);
        }
        let mut saved = Self { version: 0, reserved: 0, data: ptr::null_mut(), size: 0 };
        let place = (&raw mut saved).cast_const().cast();
        match boundary::hook_with(record, "save_module", |loaded| loaded.save, place) {
            Some(0..) => Ok(Some(saved)),
            rc => Err(boundary::refusal(record, "not replaced", "save_module", rc)),
        }
    }

    /// Hands it to a module whose init function has returned, if that wants it.
    pub(crate) fn restore(&self, record: &Record) -> Result<(), Error> {
        let saved = ptr::from_ref(self).cast();
        match boundary::hook_with(record, "restore_module", |loaded| loaded.restore, saved) {
            Some(0..) => Ok(()),
            rc => Err(boundary::refusal(record, "not loaded", "restore_module", rc)),
        }
    }
}

impl Drop for Saved {
    fn drop(&mut self) {
        // SAFETY: the plugin contract: from malloc, or null, and the host's to free.
        unsafe { libc::free(self.data) };
    }
}
