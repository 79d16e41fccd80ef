//! For a plugin in Rust: which module it is, a reference on itself, and threads of its own.
//!
//! The host that loads the plugin says all of that through a table of its functions. So the plugin has
//! no second copy of the library in it: it depends on this crate with `default-features = false,
//! features = ["plugin"]`, whatever language the host is written in, and exports the place where the
//! host finds it:
//!
//! ```
//! use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
//!
//! module_ref::plugin!();
//! static ENDING: AtomicBool = AtomicBool::new(false);
//!
//! #[unsafe(no_mangle)]
//! pub extern "C" fn init_module() -> core::ffi::c_int {
//!     let Some(module) = this_module() else { return 0 }; // loaded by something else
//!     match module.spawn(|| while !ENDING.load(Relaxed) { /* a piece of work */ }) {
//!         Ok(_thread) => 0, // the unload waits for its end
//!         Err(errno) => -errno,
//!     }
//! }
//!
//! #[unsafe(no_mangle)]
//! pub extern "C" fn cleanup_module() { // without it the plugin is permanent
//!     ENDING.store(true, Relaxed);
//! }
//! # assert_eq!(init_module(), 0);
//! ```
//!
//! Host and plugin have to be of one version of this crate; a host that finds another table leaves
//! the place empty, and [`this_module`](crate::plugin!) says `None`.

use alloc::boxed::Box;
use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering::*};

/// What a host does for a plugin. `module` is what it has put in the plugin's place.
#[repr(C)]
#[doc(hidden)]
pub struct Services {
    pub name: unsafe extern "C" fn(module: *const c_void) -> *const c_char,
    pub try_get: unsafe extern "C" fn(module: *const c_void) -> bool,
    pub put: unsafe extern "C" fn(module: *const c_void),
    /// Starts a thread of the module's; 0 or an errno.
    pub start: unsafe extern "C" fn(
        module: *const c_void,
        body: unsafe extern "C-unwind" fn(*mut c_void) -> *mut c_void,
        argument: *mut c_void,
        thread: *mut usize,
    ) -> c_int,
    /// Waits for a thread's end, or lets it run on alone.
    pub end: unsafe extern "C" fn(thread: usize, wait: bool),
}

/// Where the host tells the plugin what it is.
#[repr(C)]
#[doc(hidden)]
pub struct Place {
    /// The table that this plugin knows; a host with another one leaves the rest alone.
    version: usize,
    services: AtomicPtr<Services>,
    module: AtomicPtr<c_void>,
}

/// The first version of the table.
const VERSION: usize = 1;

impl Place {
    pub const fn empty() -> Self {
        Self {
            version: VERSION,
            services: AtomicPtr::new(ptr::null_mut()),
            module: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// For the host, before any code of the plugin's can ask but its constructors.
    #[cfg(all(feature = "host", target_os = "linux", target_env = "gnu"))]
    pub(crate) fn fill(&self, services: &'static Services, module: *const c_void) {
        if self.version == VERSION {
            self.module.store(module.cast_mut(), Relaxed);
            // Release pairs with the Acquire below.
            self.services.store(ptr::from_ref(services).cast_mut(), Release);
        }
    }

    pub fn module(&'static self) -> Option<ThisModule> {
        // Acquire pairs with the Release of `fill`.
        // SAFETY: null, or the host's table, which stays as the host does.
        let services = unsafe { self.services.load(Acquire).as_ref() }?;
        // Relaxed: written before the table.
        Some(ThisModule { services, module: self.module.load(Relaxed) })
    }
}

/// Exports the place where the host tells this plugin which module it is, and defines
/// `this_module() -> Option<ThisModule>`, which is `None` if something else than a host of this
/// library has loaded it. Once in a plugin.
#[macro_export]
macro_rules! plugin {
    () => {
        #[doc(hidden)]
        #[unsafe(no_mangle)]
        pub static __module_ref_plugin: $crate::plugin::Place = $crate::plugin::Place::empty();

        /// The module that this code is, in the host that has loaded it.
        pub fn this_module() -> ::core::option::Option<$crate::plugin::ThisModule> {
            __module_ref_plugin.module()
        }
    };
}

/// The module that the calling code is.
#[derive(Clone, Copy)]
pub struct ThisModule {
    services: &'static Services,
    module: *const c_void,
}

// SAFETY: the host's record of a module stays for as long as its code does, and all of the host's
// functions may be called from any thread.
unsafe impl Send for ThisModule {}
// SAFETY: as above.
unsafe impl Sync for ThisModule {}

impl ThisModule {
    /// The name it is known by in its host.
    pub fn name(&self) -> &'static CStr {
        // SAFETY: the host's function, for the module that it has told us of.
        unsafe { CStr::from_ptr((self.services.name)(self.module)) }
    }

    /// Takes a reference, so that the module stays in service until it is dropped; `None` if it is
    /// being unloaded. Linux: `try_module_get(THIS_MODULE)`.
    pub fn reference(&self) -> Option<Reference> {
        // SAFETY: as above.
        unsafe { (self.services.try_get)(self.module) }.then_some(Reference(*self))
    }

    /// Starts a thread that runs code of this module. It does not keep the module in service, but its
    /// code mapped: `cleanup_module` tells its threads to end, and the host waits for them.
    ///
    /// A panic in it ends the process. `Err` is an errno.
    pub fn spawn(&self, body: impl FnOnce() + Send + 'static) -> Result<Thread, c_int> {
        unsafe extern "C-unwind" fn run<F: FnOnce()>(body: *mut c_void) -> *mut c_void {
            // SAFETY: the box below, which is this thread's.
            let body = unsafe { Box::from_raw(body.cast::<F>()) };
            unwinds_nowhere(*body);
            ptr::null_mut()
        }
        extern "C" fn unwinds_nowhere(body: impl FnOnce()) {
            body();
        }
        fn runner<F: FnOnce()>(_: &F) -> unsafe extern "C-unwind" fn(*mut c_void) -> *mut c_void {
            run::<F>
        }
        let run = runner(&body);
        let body = Box::into_raw(Box::new(body));
        let mut thread = 0;
        // SAFETY: as above; `run` takes the box over.
        match unsafe { (self.services.start)(self.module, run, body.cast(), &mut thread) } {
            0 => Ok(Thread { services: self.services, thread }),
            errno => {
                // SAFETY: no thread has taken it over.
                drop(unsafe { Box::from_raw(body) });
                Err(errno)
            }
        }
    }
}

/// A reference of the module's on itself.
pub struct Reference(ThisModule);

impl Drop for Reference {
    fn drop(&mut self) {
        // SAFETY: it was taken, and is given back once.
        unsafe { (self.0.services.put)(self.0.module) }
    }
}

/// A thread that [`ThisModule::spawn`] has started. Dropped, it runs on alone.
pub struct Thread {
    services: &'static Services,
    thread: usize,
}

impl Thread {
    /// Waits for its end.
    pub fn join(self) {
        // SAFETY: joined or detached once.
        unsafe { (self.services.end)(self.thread, true) };
        core::mem::forget(self);
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { (self.services.end)(self.thread, false) }
    }
}
