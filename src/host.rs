//! The exported functions of the module host, in the order of the header. Linux with glibc.

use crate::abi::{put_in_word, timeout};
use crate::caller::with_caller;
use crate::cancel::NotCancelled;
use crate::lent::{Lent, lent};
use crate::sequence::sequence_or;
use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use libc::{pthread_attr_t, pthread_t};
use modref::Mode;
use modref::host::raw::{self, Record, Registry};
use modref::host::{Error, Host, Load, Module, NotifierId, State, Unload, Unloaded};
use modref::misuse::Caller;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::mem::{self, ManuallyDrop, MaybeUninit};
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// Room for a module's name, with its NUL.
pub const MODULE_NAME_LEN: usize = 56;

// In the header these are written by hand, as unsigned.
const MODULE_LOAD_ATOMIC: c_uint = 1;
const MODULE_LOAD_COPY: c_uint = 2;

const MODULE_UNLOAD_FORCE: c_uint = 1;

/// A table of modules, and the means to load, find, unload and replace them. Any number of
/// hosts can be in a process.
///
/// References take no lock and never wait. Lookups (module_find_get()) take no lock of the
/// host's and do not wait for a load; but a thread's first one registers a thread-local with the C
/// library, which waits there while another thread is in dlopen(3), constructors included. All
/// other functions may be called from any thread, also from the init and exit functions of
/// modules and from notifiers: no lock is held while those run. None is
/// async-signal-safe unless it says so, and none is a cancellation point: a thread that is
/// cancelled (pthread_cancel(3)) in a load or an unload ends it first.
///
/// The host allocates. Where a plugin or what it needs finds no memory, that is -ENOMEM; where the
/// host's own small records find none, the process ends, as programs in Rust do. Getting, putting
/// and releasing allocate nothing.
///
/// After fork(2) the child has a copy. What other threads of the parent were loading or
/// unloading stays as it was in that moment: -EBUSY. If one was in the middle of a dlopen(3) or
/// dlclose(3) just then, the C library's own state is, too: the child may look and call, but
/// should exec before it loads or unloads.
pub struct module_host {
    _private: Registry,
}

/// One load of a shared object.
///
/// A pointer to one is valid for as long as its owner has a reference (module_find_get(),
/// module_try_get(), module_get()), which keeps the module's code where it is, or a handle
/// (from module_load(), given back with module_handle_put()), which keeps the pointer alone:
/// once the module is unloaded module_try_get() is false for ever, also when the name is
/// loaded again. Inside the module's own code __this_module is valid. All functions also take
/// the THIS_MODULE of linux_module.h.
///
/// A plugin is any shared object. These are looked for among the symbols it exports itself, and
/// may all be missing:
///
///     int init_module(void);          0 or a negative errno, to fail
///     void cleanup_module(void);      called before it is unmapped
///     struct module *__this_module;   filled in before init_module()
///
/// They may not throw, longjmp() out, or end their thread. The last reference to a module
/// must not be put by the module's own code, which may be gone before the put returns:
/// module_thread_create() and module_put_and_exit() are for that.
pub struct module {
    _private: Record,
}

/// Where a module is between its load and its end. Linux: enum module_state.
#[repr(C)]
pub enum module_state {
    /// In service.
    MODULE_STATE_LIVE,
    /// Its init function is running. It can be found and referenced.
    MODULE_STATE_COMING,
    /// Being unloaded, or unloaded.
    MODULE_STATE_GOING,
    /// Being opened. Nobody can find it.
    MODULE_STATE_UNFORMED,
}

/// A notifier: it is told that mod is now in this state (COMING, LIVE or GOING), on the
/// thread that loads or unloads it. mod is valid during the call.
///
/// It returns 0, or a negative errno to refuse a module that is COMING: its load fails with
/// that, and the notifiers that were told before are told that it is GOING. What it
/// returns for other states is ignored.
pub type module_notifier_fn = Option<
    unsafe extern "C" fn(r#mod: *mut module, state: module_state, data: *mut c_void) -> c_int,
>;

/// A thread's start function.
type Start = Option<unsafe extern "C" fn(*mut c_void) -> *mut c_void>;

const _: () = {
    assert!(MODULE_NAME_LEN == modref::host::NAME_LEN);
    assert!(raw::NAME_AT == 16, "the trace points of get and put have it as a number");
    assert!(module_state::MODULE_STATE_LIVE as u32 == State::Live as u32);
    assert!(module_state::MODULE_STATE_COMING as u32 == State::Coming as u32);
    assert!(module_state::MODULE_STATE_GOING as u32 == State::Going as u32);
    assert!(module_state::MODULE_STATE_UNFORMED as u32 == State::Unformed as u32);
};

impl From<State> for module_state {
    fn from(state: State) -> Self {
        match state {
            State::Live => Self::MODULE_STATE_LIVE,
            State::Coming => Self::MODULE_STATE_COMING,
            State::Going => Self::MODULE_STATE_GOING,
            State::Unformed => Self::MODULE_STATE_UNFORMED,
        }
    }
}

/// The room for the words of a failure, with their NUL.
const WORDS: usize = 2048;

thread_local! {
    /// What `module_last_error` answers. Its place stays the same for as long as the thread
    /// lives: C may well ask for it before the call that fails, in one list of arguments.
    static LAST_ERROR: RefCell<Box<[u8; WORDS]>> = RefCell::new(Box::new([0; WORDS]));
}

/// Keeps `text` for `module_last_error`. A thread that is as good as gone has no place for it.
fn set_last_error(text: &str) {
    let _ = LAST_ERROR.try_with(|last| {
        // No half a character. str::floor_char_boundary is newer than `rust-version`.
        let most = text.len().min(WORDS - 1);
        let n = (0..=most).rev().find(|&n| text.is_char_boundary(n)).unwrap_or(0);
        let mut last = last.borrow_mut();
        last[..n].copy_from_slice(&text.as_bytes()[..n]);
        last[n] = 0;
    });
}

/// Keeps the error's words, and returns its errno, negative.
fn fail(error: &Error) -> c_int {
    set_last_error(&error.to_string());
    -error.errno()
}

/// The same for a pointer that may not be NULL, and other arguments that make no sense.
fn invalid(function: &str, why: &str) -> c_int {
    set_last_error(&format!("{function}: {why}"));
    -libc::EINVAL
}

impl Lent for *mut module_host {
    /// The owner that this would be is not dropped.
    type As<'a> = Option<ManuallyDrop<Host>>;

    unsafe fn lent<'a>(self) -> Self::As<'a> {
        // SAFETY: not NULL, so from `Host::into_raw`.
        (!self.is_null()).then(|| ManuallyDrop::new(unsafe { Host::from_raw(self.cast()) }))
    }
}

/// The record that a pointer stands for is at its own address, or, if the pointer leads 8 bytes
/// into the cell that linux_module.h defines and a load has filled in, at the address that stands
/// there. A record is 16-aligned, so the two cannot be taken for each other.
impl Lent for *const module {
    type As<'a> = Option<&'a Record>;

    unsafe fn lent<'a>(self) -> Self::As<'a> {
        // SAFETY: NULL, a record, or inside of such a cell.
        unsafe {
            if self as usize % 16 == 8 {
                self.byte_sub(8).cast::<*const Record>().read().as_ref()
            } else {
                self.cast::<Record>().as_ref()
            }
        }
    }
}

impl Lent for *mut module {
    type As<'a> = Option<&'a Record>;

    unsafe fn lent<'a>(self) -> Self::As<'a> {
        // SAFETY: the same contract.
        unsafe { self.cast_const().lent() }
    }
}

/// Where a module is to be written.
impl Lent for *mut *mut module {
    type As<'a> = Option<&'a mut MaybeUninit<*mut module>>;

    unsafe fn lent<'a>(self) -> Self::As<'a> {
        // SAFETY: NULL, or such a place.
        unsafe { self.cast::<MaybeUninit<*mut module>>().as_mut() }
    }
}

/// Writes as much of the text as there is room for, with its NUL; returns the text's length.
fn give(text: &str, buffer: &mut [MaybeUninit<u8>]) -> i64 {
    if let Some(most) = buffer.len().checked_sub(1) {
        let n = text.len().min(most);
        for (to, &from) in buffer.iter_mut().zip(text.as_bytes()[..n].iter().chain(&[0])) {
            to.write(from);
        }
    }
    text.len() as i64
}

/// A handle of our own to a module that C lends.
fn handle(record: &Record) -> Module {
    // SAFETY: C has no other records than those that handles keep.
    unsafe { Module::borrow_raw(record) }
}

/// What may not be NULL.
fn given<T>(function: &str, what: &str, given: Option<T>) -> Result<T, c_int> {
    given.ok_or_else(|| invalid(function, &format!("{what} is NULL")))
}

/// A C string as text, or why not.
fn text<'a>(function: &str, what: &str, text: Option<&'a CStr>) -> Result<&'a str, c_int> {
    let text = given(function, what, text)?.to_str();
    text.map_err(|_| invalid(function, &format!("{what} is not UTF-8")))
}

/// A C string as a path, which may be any bytes.
fn to_path<'a>(function: &str, path: Option<&'a CStr>) -> Result<&'a Path, c_int> {
    Ok(Path::new(OsStr::from_bytes(given(function, "path", path)?.to_bytes())))
}

/// What a call answers: a number that is not negative, or an errno that is.
fn answer(result: Result<c_int, c_int>) -> c_int {
    result.unwrap_or_else(|rc| rc)
}

/// 0, or the errno of a failure whose words are kept.
fn done(result: Result<(), Error>) -> c_int {
    result.map_or_else(|error| fail(&error), |()| 0)
}

/// 0 or 1, with the reason for 1 kept as the last error.
fn unloaded(what: &str, name: &str, outcome: Result<Unloaded, Error>) -> c_int {
    match outcome {
        Ok(Unloaded::Unmapped) => 0,
        Ok(Unloaded::Resident(why)) => {
            set_last_error(&format!("module '{name}' is {what}: {why}"));
            1
        }
        Err(error) => fail(&error),
    }
}

/// Makes a host without modules.
///
/// @return the host, for module_host_free().
///
/// Memory ordering: none. Thread-safe. Not async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn module_host_new() -> *mut module_host {
    Host::new().into_raw().cast_mut().cast()
}

/// Gives the process's own host, made when it is first asked for. It cannot be freed.
///
/// @return the host, always the same.
///
/// Memory ordering: none. Thread-safe. Not async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn module_host_default() -> *mut module_host {
    Host::of_process().as_raw().cast_mut().cast()
}

/// Ends a host. Nobody may use the pointer any more; handles to modules it once had stay valid.
///
/// @return 0, or a negative errno.
/// @retval -EBUSY it has modules, or such as were unloaded by force or replaced and are still
///     held; or it is the process's own host.
/// @retval -EINVAL host is NULL.
///
/// Memory ordering: none. Thread safety: no other thread may use the host during or after the
/// call. Not async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_host_free(host: *mut module_host) -> c_int {
    let _whole = NotCancelled::until_dropped();
    if host.is_null() {
        return invalid("module_host_free", "host is NULL");
    }
    if host == module_host_default() {
        set_last_error("the process's own host is never freed");
        return -libc::EBUSY;
    }
    // SAFETY: from module_host_new(), and not used any more if this succeeds.
    match unsafe { Host::from_raw(host.cast()) }.close() {
        Ok(()) => 0,
        Err((host, error)) => {
            mem::forget(host);
            fail(&error)
        }
    }
}

/// Loads the shared object at path as a module of this name (NULL: the file's name up to
/// ".so"), and returns when its init function, if it has one, has returned. Counting is per
/// CPU, where the system can; module_load_flags() chooses.
///
/// A path without a slash is a file in the working directory if there is one, and else a
/// library that the dynamic linker finds. A file that is a module already is loaded once more,
/// as an object of its own with its own variables. Later objects do not see its symbols
/// (RTLD_LOCAL), but for what DT_NEEDED names: a module that is linked against another one's
/// soname depends on it.
///
/// The order is Linux's: UNFORMED, dependencies, COMING, notifiers, init_module(), LIVE,
/// notifiers. During init the module holds one reference to itself. A positive result of
/// init_module() is warned of on standard error, and the module loaded.
///
/// @param out where a handle to the module goes, for module_handle_put(); NULL if none is
/// wanted. NULL is written on failure.
///
/// @return 0; or a negative errno, with words in module_last_error().
/// @retval -EEXIST there is a live module of that name. (One that is being loaded is waited for
///     first.)
/// @retval -EBUSY there is a module of that name that is going, or was being loaded and has
///     failed.
/// @retval -EDEADLK waiting for a module of that name would wait for this thread.
/// @retval -ENOENT a file, library or symbol is missing, or a provider is going.
/// @retval -ENOEXEC the file is not a shared object of this machine.
/// @retval -EISDIR, -EACCES and so on: the file cannot be read.
/// @retval -ENAMETOOLONG, -EINVAL a module cannot have that name: 56 bytes with its NUL; no
///     spaces, commas, slashes.
/// @retval -EINVAL host or path is NULL.
/// @retval -ENOMEM there is no memory for the object.
/// @retval -errno what a notifier or init_module() returned.
///
/// Memory ordering: release: what init_module() did happens before what users do, as
/// module_try_get() and module_state() say. Thread-safe. Not async-signal-safe. Linux:
/// load_module().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_load(
    host: *mut module_host,
    path: *const c_char,
    name: *const c_char,
    out: *mut *mut module,
) -> c_int {
    load("module_load", lent!(host), lent!(path), lent!(name), 0, lent!(out))
}

/// Does as module_load(), with flags: MODULE_LOAD_ATOMIC, MODULE_LOAD_COPY, or both.
///
/// @return as module_load(); and
/// @retval -EINVAL there are unknown flags.
///
/// Memory ordering: as module_load(). Thread-safe. Not async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_load_flags(
    host: *mut module_host,
    path: *const c_char,
    name: *const c_char,
    flags: c_uint,
    out: *mut *mut module,
) -> c_int {
    load("module_load_flags", lent!(host), lent!(path), lent!(name), flags, lent!(out))
}

/// Loads, with what it was given checked.
fn load(
    function: &str,
    host: Option<ManuallyDrop<Host>>,
    file: Option<&CStr>,
    name: Option<&CStr>,
    flags: c_uint,
    out: Option<&mut MaybeUninit<*mut module>>,
) -> c_int {
    let _whole = NotCancelled::until_dropped();
    let result = (|| {
        let (host, file) = (given(function, "host", host)?, to_path(function, file)?);
        if flags & !(MODULE_LOAD_ATOMIC | MODULE_LOAD_COPY) != 0 {
            return Err(invalid(function, &format!("unknown flags {flags:#x}")));
        }
        let atomic = flags & MODULE_LOAD_ATOMIC != 0;
        let mut load = Load::new().mode(if atomic { Mode::Atomic } else { Mode::PerCpu });
        if flags & MODULE_LOAD_COPY != 0 {
            load = load.copied();
        }
        if name.is_some() {
            load = load.name(text(function, "the name", name)?);
        }
        // SAFETY: what the object does is C's to answer for.
        unsafe { host.load_with(file, load) }.map_err(|error| fail(&error))
    })();
    let (module, rc) = match result {
        Ok(module) => (Some(module), 0),
        Err(rc) => (None, rc),
    };
    if let Some(out) = out {
        let raw = module.map_or(core::ptr::null(), Module::into_raw);
        out.write(raw.cast_mut().cast());
    }
    rc
}

/// Takes one more handle to a module, for module_handle_put(). The caller has a handle or a
/// reference.
///
/// @return mod.
///
/// Memory ordering: none. Thread-safe. Not async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_handle_get(r#mod: *mut module) -> *mut module {
    mem::forget(lent!(r#mod).map(handle));
    r#mod
}

/// Gives a handle back. NULL is ignored. It does not touch the module's code.
///
/// Memory ordering: none. Thread-safe. Not async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_handle_put(r#mod: *mut module) {
    if let Some(record) = lent!(r#mod) {
        // SAFETY: the handle is C's to give back, once.
        drop(unsafe { Module::from_raw(record) });
    }
}

/// Unmaps modules that were unloaded by force, or replaced, while they were held, and are not
/// any more. Every load, unload and replace does so first.
///
/// @return how many are gone from memory, or a negative errno.
/// @retval -EINVAL host is NULL.
///
/// Memory ordering: everything that holders did happens before the unmapping. Thread-safe. Not
/// async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_host_reap(host: *mut module_host) -> c_int {
    let _whole = NotCancelled::until_dropped();
    let host = given("module_host_reap", "host", lent!(host));
    answer(host.map(|host| host.reap().try_into().unwrap_or(c_int::MAX)))
}

/// Unloads a module: cleanup_module() runs, the notifiers are told, its dependencies are given
/// up, its object is closed, and it is looked whether that is gone from memory.
///
/// With timeout_ns 0 this succeeds only if nobody holds a reference. Otherwise the door is shut
/// first, and references run out; after timeout_ns nanoseconds the module is live again; a
/// negative timeout waits for ever. With MODULE_UNLOAD_FORCE it is unloaded after that also if
/// it is held: no code is unmapped under a holder, but cleanup_module() runs, the module is
/// gone from the table, the host is tainted, and the code goes with a later call once the last
/// reference is put.
///
/// The caller holds no reference to it, and is not code of the module.
///
/// @return 0 if it is unloaded and gone from memory; 1 if it is unloaded and still mapped, with
/// the reason in module_last_error() and module_host_last_unloaded(); or, with the module as it
/// was, a negative errno, checked in the order below.
/// @retval -EINVAL host or name is NULL, or there are unknown flags.
/// @retval -ENOENT there is no such module.
/// @retval -EWOULDBLOCK other modules depend on it (not forceable).
/// @retval -EBUSY it is not live (not forceable), or has an init and no exit function.
/// @retval -EWOULDBLOCK references are held, and timeout_ns is 0.
/// @retval -ETIMEDOUT references are held, and the time is up.
/// @retval -errno that of membarrier(2) if that is refused.
///
/// Memory ordering: everything that holders did happens before cleanup_module(), but by force.
/// Thread-safe. Not async-signal-safe. Linux: delete_module().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_unload(
    host: *mut module_host,
    name: *const c_char,
    flags: c_uint,
    timeout_ns: i64,
) -> c_int {
    forcibly("module_unload", lent!(host), lent!(name), flags, |host, name, force| {
        let how = match timeout(timeout_ns) {
            Some(Duration::ZERO) => Unload::now(),
            Some(timeout) => Unload::within(timeout),
            None => Unload::waiting(),
        };
        let how = if force { how.force() } else { how };
        unloaded("unloaded, and its code stays mapped", name, host.unload(name, how))
    })
}

/// Does as module_unload(), for programs that wait in a loop of their own: closes the module,
/// so that new gets fail, and returns at once, with a descriptor as that of
/// module_ref_drain_begin(): readable when the last reference has been put, and only then, and
/// closed by the caller. module_unload_finish() then
/// unloads the module, and module_unload_cancel() has it live again. Until then its state is
/// GOING, it cannot be unloaded or replaced by others (-EBUSY), and the host cannot be freed.
///
/// @param flags MODULE_UNLOAD_FORCE for a module that has an init and no exit function;
/// references are waited for all the same.
///
/// @return the descriptor; or, with the module as it was, a negative errno, checked
/// in the order below.
/// @retval -EINVAL host or name is NULL, or there are unknown flags.
/// @retval -ENOENT there is no such module.
/// @retval -EWOULDBLOCK other modules depend on it (not forceable).
/// @retval -EBUSY it is not live (not forceable), or has an init and no exit function.
/// @retval -errno as module_ref_drain_begin().
///
/// Memory ordering: none; module_unload_finish() has it. Thread-safe. Not async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_unload_begin(
    host: *mut module_host,
    name: *const c_char,
    flags: c_uint,
) -> c_int {
    forcibly("module_unload_begin", lent!(host), lent!(name), flags, |host, name, force| {
        let begun = host.unload_begin_raw(name, force);
        begun.map_or_else(|error| fail(&error), |(_, descriptor)| descriptor.into_raw_fd())
    })
}

/// Unloads a module whose unload module_unload_begin() has begun, if the last reference has
/// been put since: cleanup_module(), notifiers and all else run on the calling thread, which
/// may be any. With MODULE_UNLOAD_FORCE also if it is held, as a forced module_unload() whose
/// time is up.
///
/// @return 0 if it is unloaded and gone from memory; 1 if it is unloaded and still mapped, as
/// by module_unload(); or a negative errno.
/// @retval -EINPROGRESS references are held.
/// @retval -EINVAL no unload of it is begun; or host or name is NULL, or there are unknown
///     flags.
/// @retval -EBUSY another thread is just unloading it.
/// @retval -ENOENT there is no module of that name (any more).
/// @retval -ETIMEDOUT its count is pinned after an overflow: it is live again.
///
/// Memory ordering: as module_unload(). Thread-safe. Not async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_unload_finish(
    host: *mut module_host,
    name: *const c_char,
    flags: c_uint,
) -> c_int {
    forcibly("module_unload_finish", lent!(host), lent!(name), flags, |host, name, force| {
        let begun = host.unload_begun(name);
        match begun.and_then(|module| module.unload_finish(force)) {
            Ok(None) => {
                set_last_error(&format!(
                    "module '{name}' is still in use; wait until the descriptor is readable, or \
                     cancel the unload"
                ));
                -libc::EINPROGRESS
            }
            Ok(Some(outcome)) => unloaded("unloaded, and its code stays mapped", name, Ok(outcome)),
            Err(error) => fail(&error),
        }
    })
}

/// Ends an unload that module_unload_begin() has begun: the module is live again, also if the
/// last reference has been put by now. A loop whose time is up asks module_unload_finish() once
/// more, and then cancels.
///
/// @return 0, or a negative errno.
/// @retval -EINVAL no unload of it is begun; or host or name is NULL.
/// @retval -EBUSY another thread is just unloading it.
/// @retval -ENOENT there is no module of that name (any more).
///
/// Memory ordering: none. Thread-safe. Not async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_unload_cancel(
    host: *mut module_host,
    name: *const c_char,
) -> c_int {
    forcibly("module_unload_cancel", lent!(host), lent!(name), 0, |host, name, _| {
        done(host.unload_begun(name).and_then(|module| module.unload_cancel()))
    })
}

/// A call of a host about a module, by force or not, with what it was given checked.
fn forcibly(
    function: &str,
    host: Option<ManuallyDrop<Host>>,
    name: Option<&CStr>,
    flags: c_uint,
    call: impl FnOnce(&Host, &str, bool) -> c_int,
) -> c_int {
    let _whole = NotCancelled::until_dropped();
    answer((|| {
        let (host, name) = (given(function, "host", host)?, text(function, "the name", name)?);
        if flags & !MODULE_UNLOAD_FORCE != 0 {
            return Err(invalid(function, &format!("unknown flags {flags:#x}")));
        }
        Ok(call(&host, name, flags & MODULE_UNLOAD_FORCE != 0))
    })())
}

/// Puts the object at path in the place of module name, which may have the same path and
/// soname, with other content. The new one is loaded and initialised first, and then published
/// in one step: whoever looks the name up finds the one or the other. Then the old one is shut,
/// waited for as timeout_ns says (in nanoseconds; 0: not at all; negative: for ever), and
/// unloaded.
///
/// References to the old module stay good until they are put; a handle to it gives no new ones.
/// The flags that the old one was loaded with are the new one's. A file that is mapped must not
/// be written over in place, which changes running code: rename the new one to its name, or
/// load with MODULE_LOAD_COPY.
///
/// @return 0 if the old one is gone from memory; 1 if the new one is in service and the old one
/// still mapped, with the reason in module_last_error() (if it is held, its cleanup_module()
/// runs and its code goes with a later call, once the last reference is put); or, with the old
/// one in service as before, a negative errno: as module_load(), and
/// @retval -ENOENT there is no module of that name.
/// @retval -EWOULDBLOCK others depend on it.
/// @retval -EBUSY it is not live, is being replaced, or has an init and no exit function.
///
/// Memory ordering: as module_load() for the new one, and as module_unload() for the old one.
/// Thread-safe. Not async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_replace(
    host: *mut module_host,
    name: *const c_char,
    path: *const c_char,
    timeout_ns: i64,
) -> c_int {
    const FUNCTION: &str = "module_replace";
    let _whole = NotCancelled::until_dropped();
    answer((|| {
        let host = given(FUNCTION, "host", lent!(host))?;
        let name = text(FUNCTION, "the name", lent!(name))?;
        let file = to_path(FUNCTION, lent!(path))?;
        // SAFETY: what the object does is C's to answer for.
        let replaced = unsafe { host.replace(name, file, timeout(timeout_ns)) };
        Ok(unloaded("replaced, and the old one's code stays mapped", name, replaced))
    })())
}

/// Finds the module of that name, and takes a reference to put. It may be COMING: its init
/// function may not have returned.
///
/// Takes no lock of the host's and does not wait for a load; but a thread's first lookup registers a
/// thread-local with the C library, which waits there while another thread is in dlopen(3).
///
/// @return the module; NULL if there is none, or if it is being unloaded.
///
/// Memory ordering: as module_try_get(). Thread-safe. Not async-signal-safe. Linux:
/// find_module() and try_module_get().
#[unsafe(no_mangle)]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), unsafe(naked))]
pub unsafe extern "C" fn module_find_get(
    host: *mut module_host,
    name: *const c_char,
) -> *mut module {
    with_caller!(find_get, host, name)
}

unsafe extern "C" fn find_get(
    host: *mut module_host,
    name: *const c_char,
    caller: Caller,
) -> *mut module {
    let name = lent!(name).and_then(|name| name.to_str().ok());
    let found = lent!(host).zip(name).and_then(|(host, name)| host.find_get_by(name, caller));
    found.map_or(core::ptr::null_mut(), |reference| reference.into_raw().cast_mut().cast())
}

/// Takes a reference, unless the module is being unloaded or is gone. Wait-free.
///
/// @return whether there is now a reference to put; true for NULL, which stands for code that
/// is not a module.
///
/// Memory ordering: acquire, on success: what init_module() did happens before what follows, if
/// it has returned. Thread-safe. Async-signal-safe. Linux: try_module_get().
#[unsafe(no_mangle)]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), unsafe(naked))]
pub unsafe extern "C" fn module_try_get(r#mod: *mut module) -> bool {
    sequence_or!(try_get_in_word, r#mod, "1", then "module_get")
}

unsafe extern "C" fn try_get_in_word(of: *mut module, caller: Caller) -> bool {
    lent!(of).is_none_or(|record| record.try_get_in_word(caller))
}

/// Takes one more reference. The caller holds one already. NULL is ignored.
///
/// Memory ordering: none needed, the caller's own reference has it. Thread-safe.
/// Async-signal-safe. Linux: __module_get().
#[unsafe(no_mangle)]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), unsafe(naked))]
pub unsafe extern "C" fn module_get(r#mod: *mut module) {
    sequence_or!(get, r#mod, "1", then "module_get")
}

unsafe extern "C" fn get(of: *mut module, caller: Caller) {
    let Some(record) = lent!(of) else { return };
    // SAFETY: the reference is C's to keep.
    unsafe { record.get(caller) };
}

/// Gives a reference back, from whichever thread; not from the module's own code if it is the
/// last. Wait-free. NULL is ignored.
///
/// Memory ordering: release: everything before it happens before the module's code is unmapped,
/// and before cleanup_module(), but by force. Thread-safe. Async-signal-safe; errno is
/// preserved. Linux: module_put().
#[unsafe(no_mangle)]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), unsafe(naked))]
pub unsafe extern "C" fn module_put(r#mod: *mut module) {
    sequence_or!(put, r#mod, "-1", after "module_put", failed put_told)
}

unsafe extern "C" fn put(of: *mut module, caller: Caller) {
    let Some(record) = lent!(of) else { return };
    // SAFETY: the reference is C's to keep.
    unsafe { record.put_in_word(caller) };
}

/// A put whose trace point has been passed. It was for a record, which begins with its counter.
#[allow(dead_code, reason = "only a sequence that failed goes on here")]
unsafe extern "C" fn put_told(of: *mut module, caller: Caller) {
    // SAFETY: the pointer and the reference are C's to keep.
    unsafe { put_in_word(of.cast(), caller) }
}

/// Ends the calling thread as pthread_exit(3) does, and gives back a reference it holds when no
/// code of the module can be running in it any more: after its stack is unwound and the
/// destructors of its thread-locals and thread-specific values have run. So a thread may call
/// this from the module's own code. In a thread that module_thread_create() has started for
/// this module, the reference is the one that it was started with. NULL: no reference. Does not
/// return.
///
/// Memory ordering: as module_put(). Thread-safe. Not async-signal-safe. Linux:
/// module_put_and_kthread_exit().
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn module_put_and_exit(r#mod: *mut module, retval: *mut c_void) -> ! {
    if let Some(record) = lent!(r#mod) {
        // SAFETY: the reference is C's.
        unsafe { raw::put_at_exit(record) };
    }
    // SAFETY: nothing in this frame has a destructor.
    unsafe { libc::pthread_exit(retval) }
}

/// Starts a thread that runs start(arg), as pthread_create(3), and holds a reference to the
/// module from now until no code of the module can be running in it any more, however it ends:
/// by returning, pthread_exit(3) or cancellation.
///
/// @return 0, or a negative errno.
/// @retval -ENODEV the module is being unloaded.
/// @retval -EINVAL thread, mod or start is NULL.
/// @retval -errno that of pthread_create(3).
///
/// Memory ordering: as pthread_create(3), and as module_put() at its end. Thread-safe. Not
/// async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_thread_create(
    thread: *mut pthread_t,
    attr: *const pthread_attr_t,
    r#mod: *mut module,
    start: Option<unsafe extern "C" fn(*mut c_void) -> *mut c_void>,
    arg: *mut c_void,
) -> c_int {
    const FUNCTION: &str = "module_thread_create";
    if thread.is_null() {
        return invalid(FUNCTION, "thread is NULL");
    }
    let Some(module) = lent!(r#mod).map(handle) else { return invalid(FUNCTION, "mod is NULL") };
    let Some(start) = start else { return invalid(FUNCTION, "start is NULL") };
    // SAFETY: the types differ in whether the function may unwind, as by pthread_exit.
    let start =
        unsafe { mem::transmute::<Start, Option<raw::Start>>(Some(start)) }.expect("as above");
    // SAFETY: the caller's promises.
    done(unsafe { raw::thread_create(thread, attr, &module, start, arg) })
}

/// Looks up a symbol of the module's object, or of one that it needs, as dlsym(3) does. The
/// caller holds a reference, and uses the symbol only while it does. It takes the dynamic
/// linker's lock, and may wait for the constructors of an object that is being loaded: keep
/// symbols that are called often.
///
/// @return the address; NULL if there is none, with words in module_last_error().
///
/// Memory ordering: none. Thread-safe. Not async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_symbol(r#mod: *mut module, symbol: *const c_char) -> *mut c_void {
    const FUNCTION: &str = "module_symbol";
    let found = given(FUNCTION, "mod", lent!(r#mod)).and_then(|record| {
        let symbol = given(FUNCTION, "symbol", lent!(symbol))?;
        // SAFETY: the caller holds a reference.
        unsafe { raw::raw_symbol(record, symbol) }.map_err(|error| fail(&error))
    });
    found.unwrap_or(core::ptr::null_mut())
}

/// Looks up a symbol that a live module of the host defines itself, and takes a reference on
/// that module; of several modules, the one that was loaded first. module_symbol_put() gives
/// the reference back.
///
/// @return the address; NULL if there is none.
///
/// Memory ordering: as module_try_get(). Thread-safe. Not async-signal-safe. Linux:
/// symbol_get().
#[unsafe(no_mangle)]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), unsafe(naked))]
pub unsafe extern "C" fn module_symbol_get(
    host: *mut module_host,
    symbol: *const c_char,
) -> *mut c_void {
    with_caller!(symbol_get, host, symbol)
}

unsafe extern "C" fn symbol_get(
    host: *mut module_host,
    symbol: *const c_char,
    caller: Caller,
) -> *mut c_void {
    let symbol = text("module_symbol_get", "symbol", lent!(symbol)).ok();
    let found =
        lent!(host).zip(symbol).and_then(|(host, symbol)| host.symbol_get_by(symbol, caller));
    found.unwrap_or(core::ptr::null_mut())
}

/// Gives back what module_symbol_get() returned for symbol; of several, what it returned first.
///
/// @return 0, or a negative errno.
/// @retval -EINVAL it was not given out, or was given back; or host or symbol is NULL.
///
/// Memory ordering: as module_put(). Thread-safe. Not async-signal-safe. Linux: symbol_put().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_symbol_put(host: *mut module_host, symbol: *const c_char) -> c_int {
    const FUNCTION: &str = "module_symbol_put";
    answer((|| {
        let host = given(FUNCTION, "host", lent!(host))?;
        Ok(done(host.symbol_put(text(FUNCTION, "symbol", lent!(symbol))?)))
    })())
}

/// Gives back as module_symbol_put(), by the address that module_symbol_get() returned.
///
/// @return 0, or a negative errno.
/// @retval -EINVAL it was not given out, or was given back; or host or addr is NULL.
///
/// Memory ordering: as module_put(). Thread-safe. Not async-signal-safe. Linux:
/// symbol_put_addr().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_symbol_put_addr(
    host: *mut module_host,
    addr: *const c_void,
) -> c_int {
    let host = given("module_symbol_put_addr", "host", lent!(host));
    answer(host.map(|host| done(host.symbol_put_address(addr))))
}

/// Makes user depend on provider until user is unloaded: one reference on the provider, once
/// per pair, and the provider cannot be unloaded, nor by force. The caller has a handle or a
/// reference to both. What DT_NEEDED says is found without this.
///
/// @return 0, also if it depends on it already; or a negative errno.
/// @retval -EDEADLK provider depends on user.
/// @retval -ENOENT either is being unloaded.
/// @retval -EXDEV they are of different hosts.
/// @retval -EINVAL either is NULL.
///
/// Memory ordering: none. Thread-safe. Not async-signal-safe. Linux: ref_module().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_add_dependency(user: *mut module, provider: *mut module) -> c_int {
    let Some((user, provider)) = lent!(user).zip(lent!(provider)) else {
        return invalid("module_add_dependency", "user or provider is NULL");
    };
    done(Host::add_dependency(&handle(user), &handle(provider)))
}

/// Counts the references held: by users, by modules that depend on it, and one while it is
/// loaded. Stale as soon as it is read, and approximate: for people and logs.
///
/// @return the count, 0 or more; -1 once it is unloaded.
/// @retval -EINVAL mod is NULL.
///
/// Memory ordering: none. Thread-safe. Async-signal-safe. Linux: module_refcount().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_refcount(r#mod: *const module) -> i64 {
    lent!(r#mod).map_or(i64::from(-libc::EINVAL), Record::refcount)
}

/// Says where the module is between its load and its end.
///
/// @return the state; MODULE_STATE_GOING once it is unloaded, for ever; MODULE_STATE_LIVE for
/// NULL, which stands for code that is not a module.
///
/// Memory ordering: acquire: what init_module() did happens before what follows LIVE.
/// Thread-safe. Async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_state(r#mod: *const module) -> module_state {
    lent!(r#mod).map_or(State::Live, Record::state).into()
}

/// Gives the module's name.
///
/// @return the name, for as long as the pointer is valid; "" for NULL.
///
/// Memory ordering: none. Thread-safe. Async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_name(r#mod: *const module) -> *const c_char {
    lent!(r#mod).map_or(c"".as_ptr(), Record::c_name)
}

/// Gives the host that has loaded the module.
///
/// @return the host; NULL for NULL, and once that host is freed.
///
/// Memory ordering: none. Thread-safe. Not async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_host_of(r#mod: *const module) -> *mut module_host {
    let host = lent!(r#mod).map_or(core::ptr::null(), Record::raw_host);
    host.cast_mut().cast()
}

/// Has fn called with data for every module that comes, is live, or goes; higher priorities
/// first, and among equal ones the first that was registered.
///
/// @return 0, or a negative errno.
/// @retval -EEXIST fn is registered with this data already.
/// @retval -EINVAL host or fn is NULL.
///
/// Memory ordering: what the caller did before happens before fn is called. Thread-safe. Not
/// async-signal-safe. Linux: register_module_notifier().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_notifier_register(
    host: *mut module_host,
    r#fn: module_notifier_fn,
    data: *mut c_void,
    priority: c_int,
) -> c_int {
    const FUNCTION: &str = "module_notifier_register";
    let Some(host) = lent!(host) else { return invalid(FUNCTION, "host is NULL") };
    let Some(notifier) = r#fn else { return invalid(FUNCTION, "fn is NULL") };
    let id = NotifierId::Key(notifier as usize, data as usize);
    // An address, so that the closure can go to other threads; C keeps what is behind it.
    let data = data as usize;
    let tell = move |module: &Module, state: State| {
        let raw = module.clone().into_raw();
        // SAFETY: C's function with C's data, and a module that is kept for the call.
        let rc = unsafe { notifier(raw.cast_mut().cast(), state.into(), data as *mut c_void) };
        // SAFETY: the handle made above.
        drop(unsafe { Module::from_raw(raw) });
        if rc < 0 {
            return Err(Error::refuse(rc.saturating_neg(), format!("it returned {rc}")));
        }
        Ok(())
    };
    done(host.on_event_with_id(id, priority, Box::new(tell)))
}

/// Takes a notifier back. When this returns no other thread is in it, and none will be; it may
/// be called from the notifier itself.
///
/// @return 0, or a negative errno.
/// @retval -ENOENT fn is not registered with this data.
/// @retval -EINVAL host or fn is NULL.
///
/// Memory ordering: what other threads did in fn happens before this returns. Thread-safe. Not
/// async-signal-safe. Linux: unregister_module_notifier().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_notifier_unregister(
    host: *mut module_host,
    r#fn: module_notifier_fn,
    data: *mut c_void,
) -> c_int {
    const FUNCTION: &str = "module_notifier_unregister";
    let Some(host) = lent!(host) else { return invalid(FUNCTION, "host is NULL") };
    let Some(notifier) = r#fn else { return invalid(FUNCTION, "fn is NULL") };
    let id = NotifierId::Key(notifier as usize, data as usize);
    done(host.remove_notifier(id))
}

/// Writes the modules as text in the format of /proc/modules, newest first, one line each:
///
///     name size refcnt deps state 0xaddress[ (taints)]
///
/// deps: the modules that depend on it, newest first, each with a comma, and "[permanent]," if
/// it has an init and no exit function; "-" if there is nothing. state: Live, Loading,
/// Unloading. taints: R while it is being removed by force.
///
/// As much as fits is written to buf, with a NUL; buf may be NULL if len is 0.
///
/// @return the length of the whole text, without its NUL; or a negative errno.
/// @retval -EINVAL host is NULL.
///
/// Memory ordering: none. Thread-safe. Not async-signal-safe. Linux: /proc/modules.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_host_list(
    host: *mut module_host,
    buf: *mut c_char,
    len: usize,
) -> i64 {
    let Some(host) = lent!(host) else {
        return invalid("module_host_list", "host is NULL").into();
    };
    give(&host.list(), lent!((buf, len)))
}

/// Writes who holds a module, as text. References are not tracked, so this says how many are held,
/// the host's own with them: "3 references, not tracked" and a newline; "" if none is. It goes to
/// buf as by module_host_list(). The caller has a handle or a reference.
///
/// @return the length of the whole text, without its NUL; or a negative errno.
/// @retval -EINVAL mod is NULL.
///
/// Memory ordering: none. Thread-safe. Not async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_holders(r#mod: *mut module, buf: *mut c_char, len: usize) -> i64 {
    let Some(module) = lent!(r#mod).map(handle) else {
        return invalid("module_holders", "mod is NULL").into();
    };
    give(&module.holders_text(), lent!((buf, len)))
}

/// Writes what was unloaded last, as text: "name unmapped", or "name resident: " and the
/// reason; "" before the first unload. It goes to buf as by module_host_list().
///
/// @return the length of the whole text, without its NUL; or a negative errno.
/// @retval -EINVAL host is NULL.
///
/// Memory ordering: none. Thread-safe. Not async-signal-safe. Linux: [last unloaded: name].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_host_last_unloaded(
    host: *mut module_host,
    buf: *mut c_char,
    len: usize,
) -> i64 {
    let Some(host) = lent!(host) else {
        return invalid("module_host_last_unloaded", "host is NULL").into();
    };
    let text = host.last_unloaded().map(|last| last.to_string());
    give(&text.unwrap_or_default(), lent!((buf, len)))
}

/// Says whether an unload was ever forced: upon holders, or upon a module without an exit
/// function.
///
/// @return whether one was; false for NULL.
///
/// Memory ordering: none. Thread-safe. Not async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_host_tainted(host: *mut module_host) -> bool {
    lent!(host).is_some_and(|host| host.tainted())
}

/// Says the last failure of a function of the host on this thread in words: what was tried, on
/// what, and what to do. Also why a module that was unloaded is still mapped.
///
/// @return the words; "" if there was no failure. They are the thread's, and its next failure
/// writes over them.
///
/// Memory ordering: none. Thread-safe. Not async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn module_last_error() -> *const c_char {
    LAST_ERROR.try_with(|last| last.borrow().as_ptr().cast()).unwrap_or(c"".as_ptr())
}
