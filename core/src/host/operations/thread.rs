//! Threads of modules: a thread that a module starts keeps the module's code mapped until it has
//! ended, and does not keep it in service. The exit function tells it to end; then the host waits.

use crate::Counter;
use crate::host::error::{Error, errno_text};
use crate::host::registry::ends::{self, Threads};
use crate::host::registry::fork;
use crate::host::registry::module::Module;
use crate::host::registry::record::Record;
use crate::misuse::Caller;
use crate::tool;
use std::ffi::{c_int, c_void};
use std::sync::Arc;

/// A thread's start function, as in pthread_create(3).
pub type Start = unsafe extern "C-unwind" fn(*mut c_void) -> *mut c_void;

/// What a new thread is given.
struct Beginning {
    threads: Arc<Threads>,
    start: Start,
    argument: *mut c_void,
}

extern "C-unwind" fn begin(beginning: *mut c_void) -> *mut c_void {
    // Nothing with a destructor may be left in this frame when the start function runs:
    // pthread_exit and cancellation unwind through it.
    let (start, argument) = {
        // SAFETY: the box that `create` has made for this thread.
        let Beginning { threads, start, argument } =
            *unsafe { Box::from_raw(beginning.cast::<Beginning>()) };
        // If there is no memory for it, the module stays for ever, which is safe.
        let _ = ends::belongs_to(threads);
        (start, argument)
    };
    // SAFETY: the caller of `create` has promised it.
    unsafe { start(argument) }
}

/// Starts a thread that runs `start(argument)`, and keeps the code of `module` mapped until it has
/// ended.
///
/// # Safety
///
/// As for pthread_create(3): `thread` is a place for its number, `attributes` is null or
/// initialised, and `start` may be called with `argument` on another thread.
#[doc(hidden)]
pub unsafe fn create(
    thread: *mut libc::pthread_t,
    attributes: *const libc::pthread_attr_t,
    module: &Module,
    start: Start,
    argument: *mut c_void,
) -> Result<(), Error> {
    let name = module.name();
    // While we hold it nobody has begun to wait for its threads.
    let Some(_held) = module.try_get_by(Caller::UNKNOWN) else {
        return Err(Error::new(
            libc::ENODEV,
            format!("no thread of module '{name}' was started: it is being unloaded"),
        ));
    };
    let threads = module.0.threads.clone();
    threads.one_more();
    let beginning = Box::into_raw(Box::new(Beginning { threads, start, argument }));
    // SAFETY: the two types differ in whether they may unwind, which pthread_create allows:
    // pthread_exit does.
    let begin =
        unsafe { std::mem::transmute::<Start, extern "C" fn(*mut c_void) -> *mut c_void>(begin) };
    // SAFETY: the caller's promise.
    let errno = tool::outside(|| unsafe {
        libc::pthread_create(thread, attributes, begin, beginning.cast())
    });
    if errno != 0 {
        // SAFETY: no thread has taken it over.
        drop(unsafe { Box::from_raw(beginning) });
        module.0.threads.one_less();
        let why = errno_text(errno);
        return Err(Error::new(errno, format!("no thread of module '{name}' was started: {why}")));
    }
    Ok(())
}

/// Has a reference given back that the caller holds, once this thread has ended: no code but the
/// library's and the C library's runs in it any more. `Err` is an errno, and leaves the reference to
/// the caller.
///
/// # Safety
///
/// The caller has such a reference on `counter`, which becomes ours.
#[doc(hidden)]
pub unsafe fn put_counter_at_exit(counter: *const Counter) -> Result<(), c_int> {
    unsafe fn put(counter: *const c_void) {
        // SAFETY: the reference keeps the counter, and is ours.
        unsafe { (*counter.cast::<Counter>()).put(Caller::UNKNOWN) };
    }
    fork::prepare();
    // SAFETY: a reference may be put by any thread.
    unsafe { ends::put_at_end(put, counter.cast()) }
}

/// The same for a module.
///
/// # Safety
///
/// The caller has such a reference on `record`, which becomes ours.
#[doc(hidden)]
pub unsafe fn put_at_exit(record: *const Record) -> Result<(), c_int> {
    unsafe fn put(record: *const c_void) {
        // SAFETY: the reference keeps the record, and is ours.
        unsafe { (*record.cast::<Record>()).put() };
    }
    // SAFETY: as above. The module's host has prepared for forks.
    unsafe { ends::put_at_end(put, record.cast()) }
}

/// Whether this thread was started for that module.
#[doc(hidden)]
pub fn is_of(record: &Record) -> bool {
    record.threads.has_this()
}
