//! Threads of modules: the reference that a thread runs under is given back when the thread
//! cannot be in the module's code any more.
//!
//! A thread's stack unwinds through the code that started it, its C++ thread-locals have
//! destructors, and so have its thread-specific values (pthread_key_create). All of that may be
//! the module's code, and all of it runs after the start function has returned, or
//! pthread_exit was called. So the put is itself the destructor of a thread-specific value: the
//! last to run, because it asks for its turn again until the C library asks no more.

use crate::host::error::{Error, errno_text};
use crate::host::registry::module::{Module, Reference};
use crate::host::registry::record::Record;
use crate::misuse::Caller;
use std::ffi::{c_int, c_uint, c_void};
use std::ptr;
use std::sync::OnceLock;

/// A thread's start function, as in pthread_create(3).
pub type Start = unsafe extern "C-unwind" fn(*mut c_void) -> *mut c_void;

/// What a thread gives back at its end.
struct AtExit {
    references: Vec<Reference>,
    /// How many times the destructor has had its turn.
    turns: c_uint,
    /// The module the thread was started for, until that reference has been given up by
    /// `put_and_exit`.
    started_for: *const Record,
}

/// `PTHREAD_DESTRUCTOR_ITERATIONS` of glibc and musl.
const TURNS: c_uint = 4;

/// The key of the thread-specific value, or why there is none.
fn key() -> Result<libc::pthread_key_t, c_int> {
    static KEY: OnceLock<Result<libc::pthread_key_t, c_int>> = OnceLock::new();
    *KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: the destructor stays, as this library does.
        match unsafe { libc::pthread_key_create(&mut key, Some(at_exit)) } {
            0 => Ok(key),
            errno => Err(errno),
        }
    })
}

unsafe extern "C" fn at_exit(value: *mut c_void) {
    let at_exit = value.cast::<AtExit>();
    // SAFETY: what `set` has stored; this thread alone has it.
    unsafe {
        (*at_exit).turns += 1;
        if (*at_exit).turns < TURNS
            && key().is_ok_and(|key| libc::pthread_setspecific(key, value) == 0)
        {
            return;
        }
        // The puts: from here on the thread is in this library and in the C library alone.
        drop(Box::from_raw(at_exit));
    }
}

/// This thread's value, made if there is none.
fn this_thread() -> Result<&'static mut AtExit, c_int> {
    let key = key()?;
    // SAFETY: the key's values are AtExit in a Box, or null; nobody else borrows this thread's.
    unsafe {
        let mut value = libc::pthread_getspecific(key).cast::<AtExit>();
        if value.is_null() {
            let new = AtExit { references: Vec::new(), turns: 0, started_for: ptr::null() };
            value = Box::into_raw(Box::new(new));
            let errno = libc::pthread_setspecific(key, value.cast());
            if errno != 0 {
                drop(Box::from_raw(value));
                return Err(errno);
            }
        }
        Ok(&mut *value)
    }
}

/// What a new thread is given.
struct Beginning {
    module: Reference,
    start: Start,
    argument: *mut c_void,
}

extern "C-unwind" fn begin(beginning: *mut c_void) -> *mut c_void {
    // Nothing with a destructor may be left in this frame when the start function runs:
    // pthread_exit and cancellation unwind through it.
    let (start, argument) = {
        // SAFETY: the box that `create` has made for this thread.
        let Beginning { module, start, argument } =
            *unsafe { Box::from_raw(beginning.cast::<Beginning>()) };
        match this_thread() {
            Ok(at_exit) => {
                at_exit.started_for = module.record_ptr();
                at_exit.references.push(module);
            }
            Err(_) => {
                // No memory for a word of our own: the module stays for ever, which is safe.
                std::mem::forget(module);
            }
        }
        (start, argument)
    };
    // SAFETY: the caller of `create` has promised it.
    unsafe { start(argument) }
}

/// Starts a thread that runs `start(argument)` and holds `module` until it has ended.
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
    let failed = |errno: c_int| {
        let why = errno_text(errno);
        Error::new(errno, format!("no thread of module '{}' was started: {why}", module.name()))
    };
    key().map_err(failed)?;
    // Not this thread's: the new one takes it over.
    let Some(reference) = module.try_get_by(Caller::UNKNOWN) else {
        return Err(Error::new(
            libc::ENODEV,
            format!("no thread of module '{}' was started: it is being unloaded", module.name()),
        ));
    };
    let beginning = Box::into_raw(Box::new(Beginning { module: reference, start, argument }));
    // SAFETY: the two types differ in whether they may unwind, which pthread_create allows:
    // pthread_exit does.
    let begin =
        unsafe { std::mem::transmute::<Start, extern "C" fn(*mut c_void) -> *mut c_void>(begin) };
    // SAFETY: the caller's promise.
    let errno = unsafe { libc::pthread_create(thread, attributes, begin, beginning.cast()) };
    if errno != 0 {
        // SAFETY: no thread has taken it over.
        drop(unsafe { Box::from_raw(beginning) });
        return Err(failed(errno));
    }
    Ok(())
}

/// Has this thread give back, at its end, a reference that it holds. In a thread that `create`
/// has started for the same module that is, at first, the one that it was started with.
///
/// # Safety
///
/// The caller has such a reference on `record`, which becomes ours.
#[doc(hidden)]
pub unsafe fn put_at_exit(record: *const Record) {
    match this_thread() {
        Ok(at_exit) if at_exit.started_for == record => at_exit.started_for = ptr::null(),
        // SAFETY: the caller's promise.
        Ok(at_exit) => at_exit.references.push(unsafe { Reference::from_raw(record) }),
        // No memory for it: the module stays for ever, which is safe.
        Err(_) => {}
    }
}
