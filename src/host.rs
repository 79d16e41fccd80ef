//! The exported functions of the module host, in the order of the header. Linux with glibc.

use crate::abi::{module_ref, put_in_word, timeout};
use crate::caller::with_caller;
use crate::lent::{Lent, lent};
use crate::sequence::sequence_or;
use crate::watched::Way;
use core::ffi::{CStr, c_char, c_int, c_uint, c_void};
use libc::{pthread_attr_t, pthread_t};
use modref::Mode;
use modref::cancel::NotCancelled;
use modref::host::raw::{self, Despite, Record, Registry, Track};
use modref::host::{
    self, AfterUnload, Error, Host, Load, Module, NotifierId, Reference, Replace, Residency, State,
    Unload, Unloaded, check_file,
};
use modref::misuse::Caller;
use modref::tool::Call;
use std::borrow::Cow;
use std::cell::RefCell;
use std::ffi::{CString, OsStr};
use std::fmt::{self, Write};
use std::mem::{self, ManuallyDrop, MaybeUninit};
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::*};
use std::time::Duration;

/// Room for a module's name, with its NUL.
pub const MODULE_NAME_LEN: usize = 56;

// In the header these are written by hand, as unsigned.
const MODULE_LOAD_ATOMIC: c_uint = 1;
const MODULE_LOAD_COPY: c_uint = 2;
const MODULE_LOAD_SHARED: c_uint = 4;
const MODULE_LOAD_DELETABLE: c_uint = 8;
const LOAD_FLAGS: c_uint =
    MODULE_LOAD_ATOMIC | MODULE_LOAD_COPY | MODULE_LOAD_SHARED | MODULE_LOAD_DELETABLE;

const MODULE_UNLOAD_FORCE: c_uint = 1;
const MODULE_UNLOAD_UNPROVEN: c_uint = 2;
const FORCE_UNPROVEN: c_uint = MODULE_UNLOAD_FORCE | MODULE_UNLOAD_UNPROVEN;

const MODULE_REPLACE_STOP_FIRST: c_uint = 1;

/// A table of modules, and the means to load, find, unload and replace them. A process may have any
/// number of hosts.
///
/// References and lookups (module_find_get()) take no lock and never wait. Init and exit functions
/// of modules and notifiers may call the host too: no lock is held while they run. A thread that is
/// cancelled (pthread_cancel(3)) in a load or an unload finishes it first.
///
/// The host allocates. If there is no memory for a plugin or for what it needs, that is -ENOMEM. If
/// there is none for the host's own small records, the process ends, as programs in Rust do.
/// Getting, putting and releasing allocate nothing.
///
/// After fork(2) the child has a copy. What another thread of the parent was loading or unloading
/// stays as it was at that moment: -EBUSY. If that thread was inside dlopen(3) or dlclose(3), the C
/// library's own state is in the middle of it too: the child may look and call, but should exec
/// before it loads or unloads.
pub struct module_host {
    _private: Registry,
}

/// One load of a shared object.
///
/// A pointer to one is valid while its owner has a reference or a handle. A reference
/// (module_find_get(), module_try_get(), module_get()) keeps the module's code mapped. A handle
/// (from module_load(), given back with module_handle_put()) keeps only the pointer valid: once the
/// module is unloaded, module_try_get() is false for ever, even when the name is loaded again.
/// Inside the module's own code __this_module is valid. Every function also takes the THIS_MODULE
/// of linux_module.h.
///
/// A plugin is any shared object. The host looks for these among the symbols that it exports
/// itself; all may be missing:
///
///     int init_module(void);          0 or a negative errno, to fail
///     void cleanup_module(void);      called before it is unmapped
///     struct module *__this_module;   filled in before init_module()
///     int stop_module(void);          called before users are waited for
///     int can_unload_module(void);    called when nobody holds it
///     void resume_module(void);       called if it is not unloaded
///     int save_module(struct module_saved *out);
///     int restore_module(const struct module_saved *in);
///
/// stop_module() makes the module's users stop. It and can_unload_module() may refuse an unload
/// with a negative errno, which the unload returns; a forced unload goes on. If an unload is given
/// up after stop_module() has agreed (the time is up, can_unload_module() refuses, or it is
/// cancelled), resume_module() runs; new gets succeed again by then. A replacement calls the old
/// one's stop_module() and ignores a refusal, unless it stops first. For that, and for
/// save_module() and restore_module(), see module_replace_flags().
///
/// None of them may throw, longjmp() out, or end its thread. An exception ends the process, after a
/// line on standard error that names the module and where it was thrown. __this_module may not be
/// const: the load would fail with -ENOEXEC. A module's own code must not put the last reference to
/// the module, because it may be gone before the put returns; if somebody waits for that put, it is
/// reported (MODULE_REF_OWN_CODE). Use module_put_at_thread_exit() or module_put_and_exit()
/// instead.
pub struct module {
    _private: Record,
}

/// Where a module is between its load and its end. Linux: enum module_state.
#[repr(C)]
pub enum module_state {
    /// In service.
    MODULE_STATE_LIVE,
    /// Its init function is running. Lookups do not find it; whoever has the pointer can take a
    /// reference.
    MODULE_STATE_COMING,
    /// Being unloaded, or unloaded.
    MODULE_STATE_GOING,
    /// Being opened. Nobody can find it.
    MODULE_STATE_UNFORMED,
}

/// What becomes of the addresses of a module that was unloaded. A host that is told nothing goes by
/// MODULE_REF_AFTER_UNLOAD in the environment (unmap, trap, keep), and without that by
/// MODULE_AFTER_TRAP.
#[repr(C)]
pub enum module_after_unload {
    /// They are given back, as by dlclose(3) alone.
    MODULE_AFTER_UNMAP,
    /// They are taken again, without access and without memory: a stale pointer to them gives
    /// SIGSEGV, no other module is loaded there, and module_describe_address() knows them. A
    /// process keeps those of the newest 64 modules. A limit of the address space (RLIMIT_AS)
    /// counts them.
    MODULE_AFTER_TRAP,
    /// The object stays mapped, and its destructors run at the end of the process instead of at the
    /// unload. The unload returns 0. For leak checkers and profilers, which look up a plugin's
    /// symbols at the end.
    MODULE_AFTER_KEEP,
}

/// A notifier. It is told that mod is now in this state (COMING, LIVE or GOING), on the thread that
/// loads or unloads it. mod is valid during the call.
///
/// It returns 0, or a negative errno to refuse a module that is COMING: the load fails with that
/// errno, and the notifiers that were already told are told GOING. What it returns for other states
/// is ignored.
pub type module_notifier_fn = Option<
    unsafe extern "C" fn(r#mod: *mut module, state: module_state, data: *mut c_void) -> c_int,
>;

/// Why the code of a module that was unloaded is still mapped: struct module_info's residency.
#[repr(C)]
pub enum module_residency {
    /// It is in service.
    MODULE_IN_SERVICE,
    /// References are held.
    MODULE_RESIDENT_HELD,
    /// Threads that module_thread_create() started have not ended.
    MODULE_RESIDENT_THREADS,
    /// Its file was written over.
    MODULE_RESIDENT_OVERWRITTEN,
    /// It is linked with -z nodelete.
    MODULE_RESIDENT_NODELETE,
    /// Somebody else in the process has it open.
    MODULE_RESIDENT_OTHER_USER,
    /// It defines unique symbols.
    MODULE_RESIDENT_UNIQUE_SYMBOL,
    /// Threads have yet to run destructors of its thread_locals. Each does so in its next call of
    /// module_symbol() or of anything that loads or unloads, or at its end.
    MODULE_RESIDENT_THREAD_LOCAL,
    /// The dynamic linker does not say why.
    MODULE_RESIDENT_UNKNOWN,
    /// The host was told to keep it: MODULE_AFTER_KEEP.
    MODULE_RESIDENT_KEPT,
    /// Another thread had the dynamic linker, and waited for the one that unloaded it.
    MODULE_RESIDENT_POSTPONED,
    /// Somebody without a reference was found in its code, or will call it: see module_dangling().
    MODULE_RESIDENT_FOUND,
}

/// What module_host_each() tells about a module. The strings are valid during the call.
#[repr(C)]
pub struct module_info {
    /// sizeof(struct module_info) in the library. Later versions may have more members at the end.
    size_of_this: usize,
    name: *const c_char,
    /// As it was given to the load.
    path: *const c_char,
    /// Where its object begins in memory; NULL while it is being opened.
    base: *const c_void,
    /// The bytes of its object, in whole pages.
    size: usize,
    /// As module_refcount().
    references: i64,
    state: module_state,
    /// An enum module_residency: 0 for a module in service.
    residency: c_int,
    /// Later loads of the host have higher ones.
    generation: u64,
}

/// What a module hands to the one that replaces it: see module_replace_flags(). It is all zeroes
/// when save_module() is called.
#[repr(C)]
pub struct module_saved {
    /// The layout of the data, by the plugin's own count.
    version: u32,
    /// 0.
    reserved: u32,
    /// From malloc(3), or NULL. The host frees it.
    data: *mut c_void,
    size: usize,
}

/// One module of module_replace_set(): the object at path takes the place of module name.
#[repr(C)]
pub struct module_replacement {
    /// Of the module that is replaced.
    pub name: *const c_char,
    /// Of the file that takes its place.
    pub path: *const c_char,
}

/// A thread's start function.
type Start = Option<unsafe extern "C" fn(*mut c_void) -> *mut c_void>;

const _: () = {
    assert!(MODULE_NAME_LEN == modref::host::NAME_LEN);
    assert!(raw::NAME_AT == 16, "the trace points of get and put have it as a number");
    assert!(module_state::MODULE_STATE_LIVE as u32 == State::Live as u32);
    assert!(module_state::MODULE_STATE_COMING as u32 == State::Coming as u32);
    assert!(module_state::MODULE_STATE_GOING as u32 == State::Going as u32);
    assert!(module_state::MODULE_STATE_UNFORMED as u32 == State::Unformed as u32);
    assert!(module_residency::MODULE_RESIDENT_FOUND as i32 == 11);
    assert!(mem::size_of::<module_saved>() == mem::size_of::<raw::Saved>());
    assert!(module_after_unload::MODULE_AFTER_UNMAP as u32 == AfterUnload::Unmap as u32);
    assert!(module_after_unload::MODULE_AFTER_TRAP as u32 == AfterUnload::Trap as u32);
    assert!(module_after_unload::MODULE_AFTER_KEEP as u32 == AfterUnload::Keep as u32);
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

/// The handles of what `module_find` has given out last. Not each thread's own: those would need a
/// destructor.
static FOUND: [AtomicPtr<Record>; 256] = [const { AtomicPtr::new(ptr::null_mut()) }; 256];

thread_local! {
    /// What `module_last_error` answers. Its place stays the same for as long as the thread
    /// lives: C may well ask for it before the call that fails, in one list of arguments. It has no
    /// destructor: to register one the C library takes the dynamic linker's lock.
    static LAST_ERROR: RefCell<[u8; WORDS]> = const { RefCell::new([0; WORDS]) };
}

/// Keeps `text` for `module_last_error`.
fn set_last_error(text: &str) {
    LAST_ERROR.with(|last| {
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

/// A buffer of C's, and how much was to be written to it.
struct Room<'a> {
    buffer: &'a mut [MaybeUninit<u8>],
    len: usize,
}

impl fmt::Write for Room<'_> {
    /// Writes what there is room for, with a NUL.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if let Some(room) = self.buffer.len().checked_sub(self.len + 1) {
            let n = text.len().min(room);
            for (to, &from) in
                self.buffer[self.len..].iter_mut().zip(text.as_bytes()[..n].iter().chain(&[0]))
            {
                to.write(from);
            }
        }
        self.len += text.len();
        Ok(())
    }
}

/// Writes as much of the text as there is room for, with its NUL; returns the text's length.
fn give(text: &str, buffer: &mut [MaybeUninit<u8>]) -> i64 {
    let mut room = Room { buffer, len: 0 };
    let _ = room.write_str(text);
    room.len as i64
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

/// A C string as the name of a module that there may be, which is any bytes.
fn named<'a>(function: &str, name: Option<&'a CStr>) -> Result<Cow<'a, str>, c_int> {
    Ok(raw::name_of_bytes(given(function, "the name", name)?.to_bytes()))
}

/// A C string as a path, which may be any bytes.
fn to_path<'a>(function: &str, path: Option<&'a CStr>) -> Result<&'a Path, c_int> {
    Ok(Path::new(OsStr::from_bytes(given(function, "path", path)?.to_bytes())))
}

/// A module with a reference, which is C's from here on, or NULL.
fn referenced(found: Option<Reference>) -> *mut module {
    found.map_or(ptr::null_mut(), |reference| reference.into_raw().cast_mut().cast())
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
        Ok(Unloaded::Resident(why)) if why != Residency::Kept => {
            set_last_error(&format!("module '{name}' is {what}: {why}"));
            1
        }
        Ok(_) => 0,
        Err(error) => fail(&error),
    }
}

/// Makes a host that has no modules.
///
/// @return the host, for module_host_free().
#[unsafe(no_mangle)]
pub extern "C" fn module_host_new() -> *mut module_host {
    let _call = Call::that_changes();
    Host::new().into_raw().cast_mut().cast()
}

/// Gives the process's own host, which is made when somebody first asks for it. It cannot be freed.
///
/// @return the host, always the same.
#[unsafe(no_mangle)]
pub extern "C" fn module_host_default() -> *mut module_host {
    let _call = Call::that_changes();
    Host::of_process().as_raw().cast_mut().cast()
}

/// Ends a host. Nobody may use the pointer after that. Handles to modules that it had stay valid.
///
/// @return 0, or a negative errno.
/// @retval -EBUSY it has modules, or modules that were unloaded by force or replaced are still
///     held; or it is the process's own host.
/// @retval -EINVAL host is NULL.
///
/// Thread safety: no other thread may use the host during or after the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_host_free(host: *mut module_host) -> c_int {
    let _whole = (NotCancelled::until_dropped(), Call::that_changes());
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

/// Loads the shared object at path as a module of this name (NULL: the file's name up to ".so"),
/// and returns when its init function, if it has one, has returned. Counting is per CPU if the
/// system can; module_load_flags() chooses.
///
/// A path without a slash is a file in the working directory if there is one, and otherwise a
/// library that the dynamic linker finds. A file that is a module already is loaded once more, as
/// an object of its own with its own variables. A file's name may be any bytes; where it is shown,
/// bytes that are not UTF-8 are written as in caf\xe9. Later objects do not see its symbols
/// (RTLD_LOCAL), unless they name it in DT_NEEDED: a module that is linked against another one's
/// soname depends on it.
///
/// The file is checked, and then the dynamic linker opens it by its path. It must not be written over
/// or cut short while it is loaded, nor may a damaged one be renamed to its name meanwhile: what is
/// mapped beyond a file's end ends the process (SIGBUS). MODULE_LOAD_COPY loads what was checked.
///
/// The order is Linux's: UNFORMED, dependencies, COMING, notifiers, init_module(), LIVE, notifiers.
/// During init the module holds one reference to itself. A positive result of init_module() gives a
/// warning on standard error, and the module is loaded.
///
/// @param out where to write a handle to the module, for module_handle_put(); NULL if none is
/// wanted. NULL is written on failure.
///
/// @return 0; or a negative errno, with words in module_last_error(). A module that is loaded, but
/// is bound to another module's unique symbols instead of its own, or to a library of which another
/// version is on disk by now, leaves words there too.
/// @retval -EDQUOT more bytes of unloaded modules are still mapped than
///     module_host_limit_residents() allows.
/// @retval -EEXIST there is a live module of that name. (If another thread is loading it, this
///     waits for that first.)
/// @retval -EBUSY a module of that name is going, or another thread's load of it has failed.
/// @retval -EDEADLK another thread is loading a module of that name, or any object, and this thread
///     cannot wait for it: that thread waits for this one, or for a lock that this one has (the
///     dynamic linker's, in a constructor that dlopen(3) calls or in a callback of
///     dl_iterate_phdr(3)). Or it needs a module whose init function runs on this very thread.
/// @retval -ENOENT a file, library or symbol is missing, or a provider is going.
/// @retval -ENOEXEC the file is not a shared object of this machine, or its __this_module cannot be
///     written to.
/// @retval -EISDIR, -EACCES and so on: the file cannot be read.
/// @retval -ENAMETOOLONG, -EINVAL a module cannot have that name: 56 bytes with its NUL; no
///     spaces, commas, slashes.
/// @retval -EINVAL host or path is NULL.
/// @retval -ENOMEM there is no memory for the object.
/// @retval -errno what a notifier or init_module() returned.
///
/// Memory ordering: release: what init_module() did happens before what users do, as
/// module_try_get() and module_state() say. Linux: load_module().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_load(
    host: *mut module_host,
    path: *const c_char,
    name: *const c_char,
    out: *mut *mut module,
) -> c_int {
    load("module_load", lent!(host), lent!(path), lent!(name), 0, None, lent!(out))
}

/// Does as module_load(), with flags: any of MODULE_LOAD_ATOMIC, MODULE_LOAD_COPY,
/// MODULE_LOAD_SHARED and MODULE_LOAD_DELETABLE.
///
/// @return as module_load(); and
/// @retval -EINVAL there are unknown flags.
///
/// Memory ordering: as module_load().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_load_flags(
    host: *mut module_host,
    path: *const c_char,
    name: *const c_char,
    flags: c_uint,
    out: *mut *mut module,
) -> c_int {
    load("module_load_flags", lent!(host), lent!(path), lent!(name), flags, None, lent!(out))
}

/// Does as module_load(), and sets the module's parameters, which module_param() of linux_module.h
/// declares, before its init function runs.
///
/// args has "name=value" for each, with spaces between them. A value with spaces stands in double
/// quotes, and has none inside. In names `-` is `_`. A bool needs no value to be true. A name that
/// the module does not know, and anything after a "--", gives a warning on standard error, and the
/// module is loaded. A module that replaces this one is loaded with the same args.
///
/// @param args the text, which is copied; NULL: nothing.
///
/// @return as module_load(); and
/// @retval -EINVAL a value is not of its parameter's type, or is missing.
/// @retval -ERANGE a number does not fit.
/// @retval -ENOSPC a string is too long.
/// @retval -errno what the parameter's own function returned.
///
/// Memory ordering: as module_load(). Linux: init_module(2)'s param_values.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_load_args(
    host: *mut module_host,
    path: *const c_char,
    name: *const c_char,
    args: *const c_char,
) -> c_int {
    load("module_load_args", lent!(host), lent!(path), lent!(name), 0, lent!(args), None)
}

/// Loads the module of this name from the host's search path, unless a module of that name is there
/// already, whatever file it came from. It takes the first file that is called name.so, where `-`
/// and `_` are the same, and otherwise the first .so file that has the name as a MODULE_ALIAS() of
/// linux_module.h. "symbol:x" stands for the first that defines x. If another thread is loading the
/// module, this waits for it.
///
/// @return 0 if it is there; or a negative errno, with words in module_last_error().
/// @retval -ENOENT there is none in the search path.
/// @retval -EBUSY a module of that name is going, or its load has just failed.
/// @retval -EDEADLK waiting for it would wait for this thread.
/// @retval -ENAMETOOLONG, -EINVAL it is no module's name; or host or name is NULL.
/// @retval -errno as module_load().
///
/// Memory ordering: as module_load(). Linux: request_module().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_request(host: *mut module_host, name: *const c_char) -> c_int {
    const FUNCTION: &str = "module_request";
    let _whole = (NotCancelled::until_dropped(), Call::that_changes());
    answer((|| {
        let host = given(FUNCTION, "host", lent!(host))?;
        let name = named(FUNCTION, lent!(name))?;
        // SAFETY: what the objects do is C's to answer for.
        Ok(done(unsafe { host.request(&name) }))
    })())
}

/// Sets where module_request() looks: absolute paths of folders, with colons between them, in this
/// order. NULL, the default, means the folders that the host's modules came from, the last loaded
/// first, and then the program's own. No environment variable and no working directory plays a
/// part.
///
/// @return 0, or a negative errno.
/// @retval -EINVAL a path is empty or not absolute; or host is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_host_search(
    host: *mut module_host,
    folders: *const c_char,
) -> c_int {
    let folders = lent!(folders).map(|folders| {
        let each = folders.to_bytes().split(|&c| c == b':');
        each.map(|folder| Path::new(OsStr::from_bytes(folder)).to_owned()).collect()
    });
    let host = given("module_host_search", "host", lent!(host));
    answer(host.map(|host| done(host.search(folders))))
}

/// Tells from the shared object at path alone what will keep it in memory when it is unloaded, or
/// may crash the program after that. The file is read, and none of its code runs. The text, one
/// finding a line, goes to buf as in module_host_list().
///
/// A line is a keyword, which later versions do not change, ": ", and a sentence that names the
/// symbol and says what to do. An import does not show how the function is used: such a line is a
/// question to the plugin's author.
///
///     unique-symbol     it has a unique symbol (STB_GNU_UNIQUE)
///     nodelete          it is linked with -z nodelete
///     static-tls        thread-local storage that needs scarce room
///     thread            it imports pthread_create() or its like
///     thread-key        it imports pthread_key_create() or its like
///     thread-local      destructors of thread-local objects
///     exit-handler      it imports on_exit()
///     signal-handler    it imports sigaction() or its like
///     timer             it imports timer_create() or its like
///     thread-pool       it needs an OpenMP runtime or TBB
///     permanent         it has an init_module and no cleanup_module
///     text-relocations  the loader has to write into its code
///     no-symbols        its symbols cannot be read
///
/// A path without a slash is a file in the working directory.
///
/// @return the length of the whole text, without its NUL, 0 if there is nothing to tell; or a
/// negative errno, with words in module_last_error().
/// @retval -ENOEXEC the file is not a shared object of this machine, or is damaged.
/// @retval -ENOENT, -EISDIR, -EACCES and so on: the file cannot be read.
/// @retval -ENOMEM there is no memory to read it into.
/// @retval -EINVAL path is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_check_file(
    path: *const c_char,
    buf: *mut c_char,
    len: usize,
) -> i64 {
    let _whole = NotCancelled::until_dropped();
    let path = match to_path("module_check_file", lent!(path)) {
        Ok(path) => path,
        Err(rc) => return rc.into(),
    };
    match check_file(path) {
        Ok(found) => {
            let lines = found.iter().flat_map(|finding| [finding, "\n"]).collect::<String>();
            give(&lines, lent!((buf, len)))
        }
        Err(error) => fail(&error).into(),
    }
}

/// Loads, with what it was given checked.
fn load(
    function: &str,
    host: Option<ManuallyDrop<Host>>,
    file: Option<&CStr>,
    name: Option<&CStr>,
    flags: c_uint,
    args: Option<&CStr>,
    out: Option<&mut MaybeUninit<*mut module>>,
) -> c_int {
    let _whole = (NotCancelled::until_dropped(), Call::that_changes());
    let result = (|| {
        let (host, file) = (given(function, "host", host)?, to_path(function, file)?);
        if flags & !LOAD_FLAGS != 0 {
            return Err(invalid(function, &format!("unknown flags {flags:#x}")));
        }
        let atomic = flags & MODULE_LOAD_ATOMIC != 0;
        let mut load = Load::new().mode(if atomic { Mode::Atomic } else { Mode::PerCpu });
        if flags & MODULE_LOAD_COPY != 0 {
            load = load.copied();
        }
        if let Some(args) = args {
            load = load.parameters(args.to_bytes());
        }
        if flags & MODULE_LOAD_SHARED != 0 {
            load = load.shared();
        }
        if flags & MODULE_LOAD_DELETABLE != 0 {
            load = load.deletable();
        }
        if name.is_some() {
            load = load.name(text(function, "the name", name)?);
        }
        // SAFETY: what the object does is C's to answer for.
        unsafe { host.load_with(file, load) }.map_err(|error| fail(&error))
    })();
    let (module, rc) = match result {
        Ok(module) => {
            module.warning().into_iter().for_each(set_last_error);
            (Some(module), 0)
        }
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
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_handle_get(r#mod: *mut module) -> *mut module {
    let _call = Call::that_looks();
    mem::forget(lent!(r#mod).map(handle));
    r#mod
}

/// Gives a handle back. NULL is ignored. It does not touch the module's code.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_handle_put(r#mod: *mut module) {
    let _call = Call::that_looks();
    if let Some(record) = lent!(r#mod) {
        // SAFETY: the handle is C's to give back, once.
        drop(unsafe { Module::from_raw(record) });
    }
}

/// Unmaps modules that stayed mapped, if the reason is gone: those that were unloaded by force or
/// replaced while they were held, if nobody holds them any more; and those that stayed because of
/// their threads, or because somebody was found in them, if that is over. Every load, unload and
/// replacement does this first.
///
/// @return how many are gone from memory, or a negative errno.
/// @retval -EINVAL host is NULL.
///
/// Memory ordering: everything that holders did happens before the unmapping.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_host_reap(host: *mut module_host) -> c_int {
    let _whole = (NotCancelled::until_dropped(), Call::that_changes());
    let host = given("module_host_reap", "host", lent!(host));
    answer(host.map(|host| host.reap().try_into().unwrap_or(c_int::MAX)))
}

/// Unloads a module. Its cleanup_module() runs, the notifiers are told, the host waits for its
/// threads (module_thread_create()), gives up its dependencies, closes its object, and looks
/// whether that is gone from memory.
///
/// With timeout_ns 0 this succeeds only if nobody holds a reference. Otherwise the module is closed
/// first, so that new gets fail, and its references run out. If they have not after timeout_ns
/// nanoseconds, the module is live again; a negative timeout waits for ever. With
/// MODULE_UNLOAD_FORCE the module is then unloaded even if it is held. No code is unmapped under a
/// holder, but cleanup_module() runs, the module is gone from the table, the host is tainted, and
/// the code goes with a later call of the host, once the last reference is put.
///
/// The host waits for threads of the module that have not ended after cleanup_module() as long as
/// there is time left (with timeout_ns 0 not at all). After that the module is unloaded (1), and
/// its code goes with a later call, once they have ended.
///
/// Before it closes the object, the host looks for anybody who is in its code without a reference,
/// or will call it: threads, asleep or running; destructors of pthread keys; signal handlers;
/// timers; exit functions. No thread is stopped or signalled. Whoever is found, or cannot be looked
/// at, keeps the code mapped and is named in module_last_error() and module_host_list(); each later
/// call of the host looks again. If a thread that may be inside is running, the host waits up to
/// 100 ms for it to sleep. Pointers that the program itself keeps, such as a callback, are not
/// looked for; module_dangling() does that. With MODULE_UNLOAD_UNPROVEN the host does not look.
///
/// The caller must hold no reference to it.
///
/// @return 0 if it is unloaded and gone from memory, or kept by MODULE_AFTER_KEEP; 1 if it is
/// unloaded and still mapped, with the reason in module_last_error() and
/// module_host_last_unloaded(): its kept symbols must not be called; or, with the module as it was,
/// a negative errno, checked in the order below.
/// @retval -EINVAL host or name is NULL, or there are unknown flags.
/// @retval -ENOENT there is no such module.
/// @retval -EWOULDBLOCK other modules depend on it (not forceable).
/// @retval -EBUSY it is not live (not forceable), or has an init and no exit function.
/// @retval -EDEADLK the caller is the module's own code, or a thread of the module; or, with a
///     timeout, a notifier that the module's own load has called.
/// @retval -EWOULDBLOCK references are held, and timeout_ns is 0.
/// @retval -ETIMEDOUT references are held, and the time is up.
/// @retval -errno what stop_module() or can_unload_module() returned; or that of membarrier(2)
///     if that is refused.
///
/// Memory ordering: everything that holders did happens before cleanup_module(), except by force.
/// Linux: delete_module().
#[unsafe(no_mangle)]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), unsafe(naked))]
pub unsafe extern "C" fn module_unload(
    host: *mut module_host,
    name: *const c_char,
    flags: c_uint,
    timeout_ns: i64,
) -> c_int {
    with_caller!(unload, host, name, flags, timeout_ns)
}

unsafe extern "C" fn unload(
    host: *mut module_host,
    name: *const c_char,
    flags: c_uint,
    timeout_ns: i64,
    caller: Caller,
) -> c_int {
    let flags = (flags, FORCE_UNPROVEN);
    forcibly("module_unload", lent!(host), lent!(name), flags, |host, name, despite| {
        let how = match timeout(timeout_ns) {
            Some(Duration::ZERO) => Unload::now(),
            Some(timeout) => Unload::within(timeout),
            None => Unload::waiting(),
        };
        let how = if despite.force { how.force() } else { how };
        let how = if despite.unproven { how.unproven() } else { how };
        unloaded("unloaded, and its code stays mapped", name, host.unload_by(name, how, caller))
    })
}

/// Does as module_unload(), for programs that wait in a loop of their own. It closes the module, so
/// that new gets fail, and returns at once, with a descriptor like that of
/// module_ref_drain_begin(): it becomes readable when, and only when, the last reference has been
/// put, and the caller closes it. module_unload_finish() then unloads the module, or
/// module_unload_cancel() makes it live again. Until then its state is GOING, nobody else can
/// unload or replace it (-EBUSY), and the host cannot be freed.
///
/// @param flags MODULE_UNLOAD_FORCE for a module that has an init and no exit function; it still
/// waits for references.
///
/// @return the descriptor; or, with the module as it was, a negative errno, checked
/// in the order below.
/// @retval -EINVAL host or name is NULL, or there are unknown flags.
/// @retval -ENOENT there is no such module.
/// @retval -EWOULDBLOCK other modules depend on it (not forceable).
/// @retval -EBUSY it is not live (not forceable), or has an init and no exit function.
/// @retval -errno what stop_module() returned; or as module_ref_drain_begin().
///
/// Memory ordering: none; module_unload_finish() has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_unload_begin(
    host: *mut module_host,
    name: *const c_char,
    flags: c_uint,
) -> c_int {
    let flags = (flags, MODULE_UNLOAD_FORCE);
    forcibly("module_unload_begin", lent!(host), lent!(name), flags, |host, name, despite| {
        let begun = host.unload_begin_raw(name, despite.force);
        begun.map_or_else(|error| fail(&error), |(_, descriptor)| descriptor.into_raw_fd())
    })
}

/// Unloads a module whose unload module_unload_begin() has begun, if the last reference has been
/// put since. cleanup_module(), the notifiers and all else run on the calling thread, which may be
/// any except the module's own. It does not wait for threads of the module. With
/// MODULE_UNLOAD_FORCE it unloads a held module too, as a forced module_unload() does when its time
/// is up. MODULE_UNLOAD_UNPROVEN is as there.
///
/// @return 0 if it is unloaded and gone from memory; 1 if it is unloaded and still mapped, as
/// by module_unload(); or a negative errno.
/// @retval -EINPROGRESS references are held.
/// @retval -EINVAL no unload of it is begun; or host or name is NULL, or there are unknown
///     flags.
/// @retval -EBUSY another thread is just unloading it.
/// @retval -ENOENT there is no module of that name (any more).
/// @retval -ETIMEDOUT its count is pinned after an overflow: it is live again.
/// @retval -EDEADLK the caller is the module's own code, or a thread of the module.
/// @retval -errno what can_unload_module() returned: it is live again.
///
/// Memory ordering: as module_unload().
#[unsafe(no_mangle)]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), unsafe(naked))]
pub unsafe extern "C" fn module_unload_finish(
    host: *mut module_host,
    name: *const c_char,
    flags: c_uint,
) -> c_int {
    with_caller!(unload_finish, host, name, flags)
}

unsafe extern "C" fn unload_finish(
    host: *mut module_host,
    name: *const c_char,
    flags: c_uint,
    caller: Caller,
) -> c_int {
    let flags = (flags, FORCE_UNPROVEN);
    forcibly("module_unload_finish", lent!(host), lent!(name), flags, |host, name, despite| {
        let begun = host.unload_begun(name);
        let finished = begun.and_then(|module| {
            module.check_outside(caller)?;
            module.unload_finish(despite)
        });
        match finished {
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

/// Ends an unload that module_unload_begin() has begun: the module is live again, even if the last
/// reference has been put by now. A loop whose time is up calls module_unload_finish() once more,
/// and then cancels.
///
/// @return 0, or a negative errno.
/// @retval -EINVAL no unload of it is begun; or host or name is NULL.
/// @retval -EBUSY another thread is just unloading it.
/// @retval -ENOENT there is no module of that name (any more).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_unload_cancel(
    host: *mut module_host,
    name: *const c_char,
) -> c_int {
    forcibly("module_unload_cancel", lent!(host), lent!(name), (0, 0), |host, name, _| {
        done(host.unload_begun(name).and_then(|module| module.unload_cancel()))
    })
}

/// A call of a host about a module, by force or not, with what it was given checked.
fn forcibly(
    function: &str,
    host: Option<ManuallyDrop<Host>>,
    name: Option<&CStr>,
    (flags, known): (c_uint, c_uint),
    call: impl FnOnce(&Host, &str, Despite) -> c_int,
) -> c_int {
    let _whole = (NotCancelled::until_dropped(), Call::that_changes());
    answer((|| {
        let (host, name) = (given(function, "host", host)?, named(function, name)?);
        if flags & !known != 0 {
            return Err(invalid(function, &format!("unknown flags {flags:#x}")));
        }
        let despite = Despite {
            force: flags & MODULE_UNLOAD_FORCE != 0,
            unproven: flags & MODULE_UNLOAD_UNPROVEN != 0,
        };
        Ok(call(&host, &name, despite))
    })())
}

/// Puts the object at path in the place of module name. Its path and soname may be the same, with
/// other content. The new module is loaded and initialised first, and then published in one step: a
/// lookup finds the one or the other. Then the old one is closed, its references are waited for as
/// long as timeout_ns says (0: not at all; negative: for ever), and it is unloaded.
///
/// References to the old module stay valid until they are put; a handle to it gives no new ones.
/// The new module is loaded with the old one's flags. If a library that it needs is mapped, and
/// another version of that is on disk by now, module_last_error() says so, as after a load. Do not
/// write over a mapped file in place, which changes running code: rename the new file to its name,
/// or load with MODULE_LOAD_COPY.
///
/// @return 0 if the old one is gone from memory; 1 if the new one is in service and the old one
/// still mapped, with the reason in module_last_error() (if it is held, its cleanup_module()
/// runs and its code goes with a later call, once the last reference is put); or, with the old
/// one in service as before, a negative errno: as module_load(), and
/// @retval -ENOENT there is no module of that name.
/// @retval -ENOTSUP the new object asks never to be unmapped (-z nodelete): see MODULE_LOAD_DELETABLE.
/// @retval -EWOULDBLOCK others depend on it.
/// @retval -EBUSY it is not live, is being replaced, or has an init and no exit function.
/// @retval -EDEADLK the caller is the module's own code, or a thread of the module.
///
/// Memory ordering: as module_load() for the new one, and as module_unload() for the old one.
#[unsafe(no_mangle)]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), unsafe(naked))]
pub unsafe extern "C" fn module_replace(
    host: *mut module_host,
    name: *const c_char,
    path: *const c_char,
    timeout_ns: i64,
) -> c_int {
    with_caller!(replace, host, name, path, timeout_ns)
}

unsafe extern "C" fn replace(
    host: *mut module_host,
    name: *const c_char,
    path: *const c_char,
    timeout_ns: i64,
    caller: Caller,
) -> c_int {
    let set = module_replacement { name, path };
    // SAFETY: a set of one; what it has is C's.
    unsafe { replace_all("module_replace", host, &raw const set, 1, 0, timeout_ns, caller) }
}

/// Replaces a module as module_replace() does, with flags. module_replace() has two modules in
/// service for a moment. That does not suit a plugin that owns a port, a device, a lock file, or a
/// state of which nothing may be lost; MODULE_REPLACE_STOP_FIRST does.
///
/// With it the new object is opened first; if that fails, nothing has happened to the old module.
/// Then the old one is closed (new gets fail), its stop_module() runs, its references are waited
/// for as long as timeout_ns says, and its can_unload_module(), save_module() and cleanup_module()
/// run. If time is left, the host also waits for its threads (module_thread_create()). Then
/// init_module() and restore_module() of the new one run, and it is in service. Meanwhile
/// module_find_get() finds no module of that name, and module_find_get_wait() waits.
///
/// save_module() fills in what is handed over: version is the plugin's own, reserved is 0, and data
/// comes from malloc(3). The host frees the data when the replacement is over. restore_module()
/// gets it after init_module(), and copies what it keeps. If the old one has no save_module(), or
/// the new one no restore_module(), nothing is handed over. Either may fail with a negative errno.
///
/// If something fails, the old module serves on, as the same struct module. If that happens before
/// its cleanup_module() (it is held for too long, or its stop_module(), can_unload_module() or
/// save_module() refuses), its resume_module() runs. If it happens later (init_module() or
/// restore_module() of the new one fails), its own init_module() runs again, in the same object,
/// whose variables are as cleanup_module() left them; and then its own restore_module(), with what
/// it saved. If that fails too, there is no module of that name any more: -ENOTRECOVERABLE. Until
/// both have returned calls by gates are refused, except by those that the init_module() makes
/// again.
///
/// @param flags 0 or MODULE_REPLACE_STOP_FIRST.
///
/// @return as module_replace(); what the functions of the modules return; and
/// @retval -EINVAL flags has unknown ones.
/// @retval -ETIMEDOUT with MODULE_REPLACE_STOP_FIRST: it was still held when the time was up.
/// @retval -ENOTRECOVERABLE the new one failed, and the old one could not be brought up again.
///
/// Memory ordering: as module_replace().
#[unsafe(no_mangle)]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), unsafe(naked))]
pub unsafe extern "C" fn module_replace_flags(
    host: *mut module_host,
    name: *const c_char,
    path: *const c_char,
    flags: c_uint,
    timeout_ns: i64,
) -> c_int {
    with_caller!(replace_flags, host, name, path, flags, timeout_ns)
}

unsafe extern "C" fn replace_flags(
    host: *mut module_host,
    name: *const c_char,
    path: *const c_char,
    flags: c_uint,
    timeout_ns: i64,
    caller: Caller,
) -> c_int {
    let set = module_replacement { name, path };
    // SAFETY: a set of one; what it has is C's.
    unsafe {
        replace_all("module_replace_flags", host, &raw const set, 1, flags, timeout_ns, caller)
    }
}

/// Replaces n modules in one step: a module and those that depend on it, or any others. The new
/// ones are loaded providers first, and are bound to each other, because the old ones are hidden
/// from the dynamic linker. Then all names are switched at once: a thread that has found one of the
/// new modules finds none of the old ones any more. Any failure leaves all old ones in service.
///
/// The old ones are then unloaded users first, as by module_replace(). With
/// MODULE_REPLACE_STOP_FIRST all are stopped users first and started providers first, each as by
/// module_replace_flags(). timeout_ns is for all together. Modules that depend on a module of the
/// set must be in the set too. Dependencies of module_add_dependency() have to be added again by
/// their caller. Gates of module_gate_follow() are led to the new modules after the switch, one by
/// one.
///
/// @param flags 0 or MODULE_REPLACE_STOP_FIRST.
///
/// @return 0 if all old ones are gone from memory; 1 if all new ones are in service and an old one is
/// still mapped, with the reason for the first in module_last_error(); or a negative errno, as
/// module_replace_flags(), and
/// @retval -EINVAL set is NULL, n is 0, or a name is there twice.
/// @retval -EWOULDBLOCK others depend on one; or a new object is bound to an old one, through a library
/// that is no module.
///
/// Memory ordering: as module_replace().
#[unsafe(no_mangle)]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), unsafe(naked))]
pub unsafe extern "C" fn module_replace_set(
    host: *mut module_host,
    set: *const module_replacement,
    n: usize,
    flags: c_uint,
    timeout_ns: i64,
) -> c_int {
    with_caller!(replace_set, host, set, n, flags, timeout_ns)
}

unsafe extern "C" fn replace_set(
    host: *mut module_host,
    set: *const module_replacement,
    n: usize,
    flags: c_uint,
    timeout_ns: i64,
    caller: Caller,
) -> c_int {
    // SAFETY: C's own promise.
    unsafe { replace_all("module_replace_set", host, set, n, flags, timeout_ns, caller) }
}

/// # Safety
///
/// As for `module_replace_set`.
unsafe fn replace_all(
    function: &str,
    host: *mut module_host,
    set: *const module_replacement,
    n: usize,
    flags: c_uint,
    timeout_ns: i64,
    caller: Caller,
) -> c_int {
    let _whole = (NotCancelled::until_dropped(), Call::that_changes());
    answer((|| {
        let host = given(function, "host", lent!(host))?;
        if flags & !MODULE_REPLACE_STOP_FIRST != 0 {
            return Err(invalid(function, &format!("unknown flags {flags:#x}")));
        }
        let set = match (set.is_null(), n) {
            (true, _) => return Err(invalid(function, "set is NULL")),
            // SAFETY: the caller's promise: there are so many.
            (false, n) => unsafe { std::slice::from_raw_parts(set, n) },
        };
        let mut wanted = Vec::new();
        for &module_replacement { name, path } in set {
            wanted.push((named(function, lent!(name))?, to_path(function, lent!(path))?));
        }
        let set: Vec<_> = wanted.iter().map(|(name, path)| (&**name, *path)).collect();
        let mut how = timeout(timeout_ns).map_or_else(Replace::waiting, Replace::within);
        if flags & MODULE_REPLACE_STOP_FIRST != 0 {
            how = how.stop_first();
        }
        // SAFETY: what the objects do is C's to answer for.
        let replaced = unsafe { host.replace_set_by(&set, how, caller) };
        let outcomes = replaced.map_err(|error| fail(&error))?;
        let new = set.iter().filter_map(|(name, _)| host.find(name));
        let warnings: Vec<_> = new.filter_map(|new| Some(new.warning()?.to_owned())).collect();
        if !warnings.is_empty() {
            set_last_error(&warnings.join("; "));
        }
        let mut outcomes = set.iter().zip(outcomes);
        let stays = outcomes.find(|(_, outcome)| !outcome.is_complete());
        Ok(stays.map_or(0, |((name, _), outcome)| {
            unloaded("replaced, and the old one's code stays mapped", name, Ok(outcome))
        }))
    })())
}

/// Opens a module for one more user. It loads the module as module_load() does, if there is none of
/// that name, and takes a reference, which module_close() gives back. While another thread loads or
/// unloads a module of that name, this waits.
///
/// @param name NULL: the file's name up to ".so".
/// @param out where the module goes, with the reference; NULL is written on failure.
///
/// @return 0; or a negative errno, as module_load(), and
/// @retval -EINVAL host, path or out is NULL.
/// @retval -EBUSY an unload of it was begun (module_unload_begin()).
/// @retval -EDEADLK this very thread is unloading it.
///
/// Memory ordering: as module_load().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_open(
    host: *mut module_host,
    path: *const c_char,
    name: *const c_char,
    out: *mut *mut module,
) -> c_int {
    const FUNCTION: &str = "module_open";
    let _whole = (NotCancelled::until_dropped(), Call::that_changes());
    let Some(out) = lent!(out) else { return invalid(FUNCTION, "out is NULL") };
    out.write(core::ptr::null_mut());
    answer((|| {
        let (host, file) = (given(FUNCTION, "host", lent!(host))?, to_path(FUNCTION, lent!(path))?);
        let name = lent!(name);
        let name = if name.is_some() { Some(text(FUNCTION, "the name", name)?) } else { None };
        // SAFETY: what the object does is C's to answer for.
        let module = unsafe { host.open_user(file, name) }.map_err(|error| fail(&error))?;
        // The reference keeps it.
        out.write(module.raw().cast_mut().cast());
        Ok(0)
    })())
}

/// Gives back what module_open() gave. The last user unloads the module, as module_unload() does.
///
/// @return 0 if it is unloaded and gone from memory; 1 if it is unloaded and still mapped; 2 if
/// others have it open, or another thread is replacing or unloading it (if that fails, the module
/// stays until somebody unloads it); or a negative errno, with the module open as before: as
/// module_unload(), and
/// @retval -EINVAL mod is NULL, or is not open.
///
/// Memory ordering: as module_put() and module_unload().
#[unsafe(no_mangle)]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), unsafe(naked))]
pub unsafe extern "C" fn module_close(r#mod: *mut module, timeout_ns: i64) -> c_int {
    with_caller!(close, r#mod, timeout_ns)
}

unsafe extern "C" fn close(of: *mut module, timeout_ns: i64, caller: Caller) -> c_int {
    let _whole = (NotCancelled::until_dropped(), Call::that_changes());
    let Some(module) = lent!(of).map(handle) else { return invalid("module_close", "mod is NULL") };
    match module.close_user(timeout(timeout_ns), caller) {
        Ok(None) => 2,
        Ok(Some(outcome)) => {
            unloaded("unloaded, and its code stays mapped", module.name(), Ok(outcome))
        }
        Err(error) => fail(&error),
    }
}

/// Unloads all modules, each before those that it depends on: first those that can go at once, then
/// those that are held. It waits for these as module_unload() does, and for those that were replaced or
/// unloaded before while they were held or had threads, for timeout_ns nanoseconds in all (negative: for
/// ever).
///
/// @return how many are left, 0 or more, with the reason in module_last_error(): in service, or
/// unloaded and still mapped for somebody; or a negative errno.
/// @retval -EINVAL host is NULL.
///
/// Memory ordering: as module_unload().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_host_shutdown(host: *mut module_host, timeout_ns: i64) -> i64 {
    let _whole = (NotCancelled::until_dropped(), Call::that_changes());
    let Some(host) = lent!(host) else {
        return invalid("module_host_shutdown", "host is NULL").into();
    };
    host.shutdown(timeout(timeout_ns)).map_or_else(
        |(left, error)| {
            fail(&error);
            left as i64
        },
        |()| 0,
    )
}

/// Keeps a module for good: every unload and replacement, forced or not, is refused with this
/// reason (-EBUSY). The first reason stands. The caller has a handle or a reference.
///
/// @return 0, or a negative errno.
/// @retval -ENOENT it is being unloaded.
/// @retval -EINVAL mod or why is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_pin(r#mod: *mut module, why: *const c_char) -> c_int {
    const FUNCTION: &str = "module_pin";
    let _call = Call::that_changes();
    answer((|| {
        let module = given(FUNCTION, "mod", lent!(r#mod).map(handle))?;
        let why = given(FUNCTION, "why", lent!(why))?.to_string_lossy();
        Ok(done(module.pin(&why)))
    })())
}

/// Calls see with each module of the host, as it was when this was called: those in service, newest
/// first; then those that were unloaded and are held, or have threads of their own; then those
/// whose code the dynamic linker keeps. No lock is held meanwhile: see may call the host.
///
/// @return 0; or what see returned, if that is not 0, which ends the calls; or a negative errno.
/// @retval -EINVAL host or see is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_host_each(
    host: *mut module_host,
    see: Option<unsafe extern "C" fn(info: *const module_info, data: *mut c_void) -> c_int>,
    data: *mut c_void,
) -> c_int {
    const FUNCTION: &str = "module_host_each";
    let Some(host) = lent!(host) else { return invalid(FUNCTION, "host is NULL") };
    let Some(see) = see else { return invalid(FUNCTION, "see is NULL") };
    let infos = {
        let _call = Call::that_looks();
        host.infos()
    };
    for info in infos {
        // Neither has a NUL inside.
        let name = CString::new(info.name).unwrap_or_default();
        let path =
            CString::new(info.path.into_os_string().into_encoded_bytes()).unwrap_or_default();
        let info = module_info {
            size_of_this: mem::size_of::<module_info>(),
            name: name.as_ptr(),
            path: path.as_ptr(),
            base: info.base as *const c_void,
            size: info.size,
            references: info.references,
            state: info.state.into(),
            residency: info.residency,
            generation: info.generation,
        };
        // SAFETY: C's function with C's data.
        let rc = unsafe { see(&raw const info, data) };
        if rc != 0 {
            return rc;
        }
    }
    0
}

/// Finds the module whose code or data is at an address, such as that of a callback, and takes a
/// reference, for module_put(). It succeeds even while the module is being unloaded, as long as
/// somebody holds a reference (see module_ref_get_if_held()). Modules in service are found without
/// a lock.
///
/// @return the module; NULL if there is none at that address.
///
/// Memory ordering: as module_try_get().
#[unsafe(no_mangle)]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), unsafe(naked))]
pub unsafe extern "C" fn module_get_by_address(
    host: *mut module_host,
    address: *const c_void,
) -> *mut module {
    with_caller!(get_by_address, host, address)
}

unsafe extern "C" fn get_by_address(
    host: *mut module_host,
    address: *const c_void,
    caller: Caller,
) -> *mut module {
    let _call = Call::that_looks();
    referenced(lent!(host).and_then(|host| host.get_by_address_by(address, caller)))
}

/// Finds the live module of that name, and takes a reference, for module_put(). It does not find a
/// module whose init function has not returned; whoever has the pointer already can use
/// module_try_get().
///
/// It takes no lock and waits for nobody, even in a thread's first call, in a callback of
/// dl_iterate_phdr(3), or while another thread is in dlopen(3).
///
/// @return the module; NULL if there is none, or if it is not yet or no longer live.
///
/// Memory ordering: acquire, on success: what init_module() did happens before what follows.
/// Async-signal-safe. Linux: find_module() and try_module_get().
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
    let _call = Call::that_looks();
    let mut room = [0; MODULE_NAME_LEN];
    let name = lent!(name).and_then(|name| raw::name_of_bytes_in(name.to_bytes(), &mut room));
    referenced(lent!(host).zip(name).and_then(|(host, name)| host.find_get_by(name, caller)))
}

/// Finds the live module of that name as module_find_get() does. While another thread loads,
/// unloads or replaces it, this waits for the outcome.
///
/// @param timeout_ns in nanoseconds; 0: not at all; negative: for ever.
///
/// @return the module, with a reference; or NULL, with the reason in module_last_error(): there is
/// none of that name; the time is up; module_unload_begin() has begun an unload of it; or the wait
/// could never end, because the caller is the module's own code, or that code calls or waits for
/// the caller.
///
/// Memory ordering: as module_find_get().
#[unsafe(no_mangle)]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), unsafe(naked))]
pub unsafe extern "C" fn module_find_get_wait(
    host: *mut module_host,
    name: *const c_char,
    timeout_ns: i64,
) -> *mut module {
    with_caller!(find_get_wait, host, name, timeout_ns)
}

unsafe extern "C" fn find_get_wait(
    host: *mut module_host,
    name: *const c_char,
    timeout_ns: i64,
    caller: Caller,
) -> *mut module {
    const FUNCTION: &str = "module_find_get_wait";
    let _whole = (NotCancelled::until_dropped(), Call::that_looks());
    let found = given(FUNCTION, "host", lent!(host)).and_then(|host| {
        let name = named(FUNCTION, lent!(name))?;
        let found = host.find_get_wait_by(&name, timeout(timeout_ns), caller);
        found.map_err(|error| fail(&error))
    });
    referenced(found.ok())
}

/// Finds the module of that name without taking a reference, for callers that ask only whether it
/// is there. The pointer is valid until module_find() has been called 256 more times in this
/// process; until then module_try_get() may take a reference by it.
///
/// @return the module, even if it is COMING or GOING; NULL if there is none.
///
/// Memory ordering: as module_state(). Linux: find_module().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_find(host: *mut module_host, name: *const c_char) -> *mut module {
    let mut room = [0; MODULE_NAME_LEN];
    let name = lent!(name).and_then(|name| raw::name_of_bytes_in(name.to_bytes(), &mut room));
    let found = lent!(host).zip(name).and_then(|(host, name)| host.find_module(name));
    let Some(found) = found else { return core::ptr::null_mut() };
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let raw = found.into_raw().cast_mut();
    // Relaxed: a number of its own.
    let place = &FOUND[NEXT.fetch_add(1, Relaxed) % FOUND.len()];
    // AcqRel pairs with itself: whoever drops a handle sees what its maker did.
    let before = place.swap(raw, AcqRel);
    if !before.is_null() {
        // SAFETY: a handle, from above, which nobody else finds any more.
        drop(unsafe { Module::from_raw(before) });
    }
    raw.cast()
}

/// Tells whether an address is in the module's object, anywhere in its code or data.
///
/// @return whether it is; false for NULL, and for a module that is not yet or no longer loaded.
///
/// Async-signal-safe. Linux: within_module().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_within(r#mod: *const module, addr: *const c_void) -> bool {
    lent!(r#mod).is_some_and(|record| record.has_within(addr))
}

/// Takes a reference, unless the module is being unloaded or is gone. Wait-free.
///
/// @return whether there is now a reference to put; true for NULL, which stands for code that
/// is not a module.
///
/// Memory ordering: acquire, on success: what init_module() did happens before what follows, if it
/// has returned. Async-signal-safe. Linux: try_module_get().
#[unsafe(no_mangle)]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), unsafe(naked))]
pub unsafe extern "C" fn module_try_get(r#mod: *mut module) -> bool {
    sequence_or!(by TRY_GET, watched_try_get, r#mod, "1", then "module_get", failed try_get_in_word)
}

pub(crate) static TRY_GET: Way = Way::new(try_get_in_word as *const ());

unsafe extern "C" fn try_get_in_word(of: *mut module, caller: Caller) -> bool {
    lent!(of).is_none_or(|record| record.try_get_in_word(caller))
}

pub(crate) unsafe extern "C" fn watched_try_get(of: *mut module, caller: Caller) -> bool {
    lent!(of).is_none_or(|record| record.try_get_watched(caller))
}

/// Takes one more reference. The caller holds one already. NULL is ignored.
///
/// Memory ordering: none needed, the caller's own reference has it. Async-signal-safe. Linux:
/// __module_get().
#[unsafe(no_mangle)]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), unsafe(naked))]
pub unsafe extern "C" fn module_get(r#mod: *mut module) {
    sequence_or!(get, r#mod, "1", then "module_get", failed get)
}

unsafe extern "C" fn get(of: *mut module, caller: Caller) {
    let Some(record) = lent!(of) else { return };
    // SAFETY: the reference is C's to keep.
    unsafe { record.get(caller) };
}

/// Gives a reference back, on any thread. The module's own code must not give back the last one.
/// Wait-free. NULL is ignored.
///
/// Memory ordering: release: everything before it happens before the module's code is unmapped, and
/// before cleanup_module() of an unload that is not forced. Async-signal-safe; errno is preserved.
/// Linux: module_put().
#[unsafe(no_mangle)]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), unsafe(naked))]
pub unsafe extern "C" fn module_put(r#mod: *mut module) {
    sequence_or!(by PUT, watched_put, r#mod, "-1", after "module_put", failed put_told)
}

pub(crate) static PUT: Way = Way::new(put as *const ());

unsafe extern "C" fn put(of: *mut module, caller: Caller) {
    let Some(record) = lent!(of) else { return };
    // SAFETY: the reference is C's to keep.
    unsafe { record.put_in_word(caller) };
}

pub(crate) unsafe extern "C" fn watched_put(of: *mut module, caller: Caller) {
    let Some(record) = lent!(of) else { return };
    // SAFETY: the reference is C's to keep.
    unsafe { record.put_watched(caller) };
}

/// A put whose trace point has been passed. It was for a record, which begins with its counter.
#[allow(dead_code, reason = "only a sequence that failed goes on here")]
unsafe extern "C" fn put_told(of: *mut module, caller: Caller) {
    // SAFETY: the pointer and the reference are C's to keep.
    unsafe { put_in_word(of.cast(), caller) }
}

/// Gives a reference that the caller holds back once the calling thread has ended, that is, once no
/// code but this library's and the C library's runs in it. A thread may call this from the module's
/// own code at any time, and go on in that code to its end. The reference is held until then. NULL
/// is ignored.
///
/// @return as module_ref_put_at_thread_exit().
///
/// Memory ordering: as module_put(), at the end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_put_at_thread_exit(r#mod: *mut module) -> c_int {
    let _call = Call::that_looks();
    // SAFETY: the reference is C's.
    let put = |record| unsafe { raw::put_at_exit(record) };
    lent!(r#mod).map_or(0, |record| put(record).map_or_else(|errno| -errno, |()| 0))
}

/// Does as module_put_at_thread_exit() for a reference to a counter: the reference lasts until the
/// calling thread has ended. By then all destructors of C++ thread_locals and of pthread keys have
/// run, in every round. NULL is ignored.
///
/// The kernel says when that is: the thread locks a robust mutex, and a thread of the library finds
/// it given up. The reference is put some tens of microseconds after the thread has ended; a
/// pthread_join(3) of the thread may return before that.
///
/// @return 0; or, with the reference still the caller's, a negative errno.
/// @retval -ENOTSUP the kernel does not report this thread's end (set_robust_list(2)).
/// @retval -errno that of pthread_mutex_init(3) or pthread_create(3).
///
/// Memory ordering: as module_ref_put(), at the end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_ref_put_at_thread_exit(r#ref: *mut module_ref) -> c_int {
    let _call = Call::that_looks();
    // SAFETY: the reference is C's.
    let put = |counter| unsafe { raw::put_counter_at_exit(counter) };
    lent!(r#ref).map_or(0, |counter| put(counter).map_or_else(|errno| -errno, |()| 0))
}

/// Ends the calling thread as pthread_exit(3) does, and gives back a reference it holds as
/// module_put_at_thread_exit() does, so a thread may call this from the module's own code. A thread
/// that module_thread_create() started for this module has no reference to give back, and just
/// ends. NULL: no reference. Does not return.
///
/// Memory ordering: as module_put(). Linux: module_put_and_kthread_exit().
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn module_put_and_exit(r#mod: *mut module, retval: *mut c_void) -> ! {
    if let Some(record) = lent!(r#mod).filter(|record| !raw::is_of(record)) {
        let _call = Call::that_looks();
        // SAFETY: the reference is C's. Without memory for it the module stays, which is safe.
        let _ = unsafe { raw::put_at_exit(record) };
    }
    // SAFETY: nothing in this frame has a destructor.
    unsafe { libc::pthread_exit(retval) }
}

/// Starts a thread that runs start(arg), as pthread_create(3) does. The module's code stays mapped
/// until none of it can run in the thread any more, however the thread ends (by returning,
/// pthread_exit(3) or cancellation).
///
/// The thread does not keep the module in service: cleanup_module() or stop_module() tells it to
/// end, and module_unload() waits for that. A thread that has to keep the module in service takes a
/// reference like everybody else.
///
/// @return 0, or a negative errno.
/// @retval -ENODEV the module is being unloaded.
/// @retval -EINVAL thread, mod or start is NULL.
/// @retval -errno that of pthread_create(3).
///
/// Memory ordering: as pthread_create(3); what the thread did happens before the module's code is
/// unmapped.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_thread_create(
    thread: *mut pthread_t,
    attr: *const pthread_attr_t,
    r#mod: *mut module,
    start: Option<unsafe extern "C" fn(*mut c_void) -> *mut c_void>,
    arg: *mut c_void,
) -> c_int {
    let _call = Call::that_changes();
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

/// Looks up a symbol of the module's object, or of one that it needs, as dlsym(3) does. The caller
/// holds a reference, and uses the symbol only while it does. The module's own functions and
/// variables are found without a lock. Everything else (symbols of what it needs, thread-local
/// ones, and those that are unique in the process) takes the dynamic linker's lock, which may wait
/// for the constructors of an object that is being loaded. Keep symbols that you call often.
///
/// If the calling thread has thread-local objects of modules that have been unloaded or replaced
/// meanwhile, their destructors run here, as in each call that loads or unloads. Until then their
/// code stays mapped.
///
/// @return the address; NULL if there is none, with words in module_last_error().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_symbol(r#mod: *mut module, symbol: *const c_char) -> *mut c_void {
    let _call = Call::that_looks();
    const FUNCTION: &str = "module_symbol";
    let found = given(FUNCTION, "mod", lent!(r#mod)).and_then(|record| {
        let symbol = given(FUNCTION, "symbol", lent!(symbol))?;
        // SAFETY: the caller holds a reference.
        unsafe { raw::raw_symbol(record, symbol) }.map_err(|error| fail(&error))
    });
    found.unwrap_or(core::ptr::null_mut())
}

/// What a function returns in a register.
type Word = usize;

/// Makes a gate: an address that stays valid for ever, for a library that calls a function of the
/// module and knows nothing of references. Each call of the gate takes a reference, calls function
/// with the same arguments, gives the reference back, and returns what function returned. Once the
/// module is being unloaded, or is gone, a call returns refused, and is counted
/// (module_gate_refused()). A gate does not keep the module. The caller has a handle or a
/// reference; a module may make gates to itself, even in its init function.
///
/// Arguments must go in registers: on x86-64 6 integers or pointers and 8 floating-point numbers,
/// on aarch64 8 of each. What would go on the stack is lost: further arguments, a long double, a
/// large structure by value (a pointer to it is an ordinary argument). Results are those in rax,
/// rdx, xmm0, xmm1 and the x87 registers, or x0, x1 and v0 to v3. A refused call returns refused in
/// rax and as the bits of xmm0, or in x0 and d0; a large structure that the function would return
/// stays as it was.
///
/// A gate may be called wherever the function may: in any thread, in destructors at the thread's
/// end, and in a signal handler. It leaves errno alone. If a C++ exception, pthread_exit(3) or the
/// cancellation of the thread leaves the function, the reference is given back, and the exception
/// goes on to the caller; if the exception's type is the module's own, somebody must hold the
/// module until it is caught. longjmp(3) and asynchronous cancellation lose the reference.
///
/// The same function and the same refused give the same gate, another refused gives another. A gate has 64
/// bytes, and each load of a module that had gates some hundred, for as long as the process lives.
///
/// @param function of the module, or of a library that is there for as long as the module is.
/// @param refused what a refused call returns.
///
/// @return the gate, to be called as function; or NULL, with words in module_last_error(): mod or
/// function is NULL; function is not in the code of an object, or is of another module, which mod does
/// not depend on; the module is gone; this machine is neither x86-64 nor aarch64; or memory cannot be
/// made executable, with what memfd_create(2) or mmap(2) said.
///
/// Memory ordering: none to make it. A call is ordered as by module_try_get() and module_put(). Not
/// async-signal-safe; to call the gate is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_gate(
    r#mod: *mut module,
    function: *mut c_void,
    refused: Word,
) -> *mut c_void {
    const FUNCTION: &str = "module_gate";
    gate(FUNCTION, lent!(r#mod), |module| {
        if function.is_null() {
            return Err(invalid(FUNCTION, "function is NULL"));
        }
        module.raw_gate(function, refused).map_err(|error| fail(&error))
    })
}

/// Makes a gate as module_gate() does, to what the module exports as symbol. Once the module is
/// replaced, or loaded again, the gate leads to what the new module of that name in its host
/// exports as symbol. module_replace() refuses no call. Calls are refused while no module of that
/// name is in service, or if that module lacks the symbol. The same name, symbol and refused give
/// the same gate.
///
/// @param symbol a function that the module defines itself.
/// @param refused as for module_gate().
///
/// @return as module_gate(); also NULL if there is no such function, or if another thread is loading an object and
/// this one cannot wait for it.
///
/// Memory ordering: as module_gate(). Not async-signal-safe; to call the gate is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_gate_follow(
    r#mod: *mut module,
    symbol: *const c_char,
    refused: Word,
) -> *mut c_void {
    const FUNCTION: &str = "module_gate_follow";
    gate(FUNCTION, lent!(r#mod), |module| {
        let symbol = text(FUNCTION, "symbol", lent!(symbol))?;
        module.raw_gate_follow(symbol, refused).map_err(|error| fail(&error))
    })
}

/// A gate of what C lends, or NULL.
fn gate(
    function: &str,
    module: Option<&Record>,
    make: impl FnOnce(&Module) -> Result<*const c_void, c_int>,
) -> *mut c_void {
    let _call = Call::that_looks();
    let made = given(function, "mod", module.map(handle)).and_then(|module| make(&module));
    made.map_or(ptr::null_mut(), <*const c_void>::cast_mut)
}

/// Counts the calls of a gate that were refused.
///
/// @return how many; 0 if gate is none.
#[unsafe(no_mangle)]
pub extern "C" fn module_gate_refused(gate: *const c_void) -> u64 {
    let _call = Call::that_looks();
    raw::gate_refused(gate as usize)
}

/// Looks up a symbol that a live module of the host defines itself, and takes a reference on that
/// module. Of several such modules it takes the one that was loaded first. module_symbol_put()
/// gives the reference back.
///
/// @return the address; NULL if there is none.
///
/// Memory ordering: as module_try_get(). Linux: symbol_get().
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
    let _call = Call::that_looks();
    let symbol = text("module_symbol_get", "symbol", lent!(symbol)).ok();
    let found =
        lent!(host).zip(symbol).and_then(|(host, symbol)| host.symbol_get_by(symbol, caller));
    found.unwrap_or(core::ptr::null_mut())
}

/// Gives back what module_symbol_get() returned for symbol; if it returned several, the first.
///
/// @return 0, or a negative errno.
/// @retval -EINVAL it was not given out, or was given back; or host or symbol is NULL.
///
/// Memory ordering: as module_put(). Linux: symbol_put().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_symbol_put(host: *mut module_host, symbol: *const c_char) -> c_int {
    let _call = Call::that_changes();
    const FUNCTION: &str = "module_symbol_put";
    answer((|| {
        let host = given(FUNCTION, "host", lent!(host))?;
        Ok(done(host.symbol_put(text(FUNCTION, "symbol", lent!(symbol))?)))
    })())
}

/// Does as module_symbol_put(), by the address that module_symbol_get() returned.
///
/// @return 0, or a negative errno.
/// @retval -EINVAL it was not given out, or was given back; or host or addr is NULL.
///
/// Memory ordering: as module_put(). Linux: symbol_put_addr().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_symbol_put_addr(
    host: *mut module_host,
    addr: *const c_void,
) -> c_int {
    let _call = Call::that_changes();
    let host = given("module_symbol_put_addr", "host", lent!(host));
    answer(host.map(|host| done(host.symbol_put_address(addr))))
}

/// Makes user depend on provider until user is unloaded. That takes one reference on the provider,
/// once per pair, and the provider cannot be unloaded, even by force. The caller has a handle or a
/// reference to both. Dependencies in DT_NEEDED are found without this.
///
/// @return 0, even if it depends on it already; or a negative errno.
/// @retval -EDEADLK provider depends on user.
/// @retval -ENOENT either is being unloaded.
/// @retval -EXDEV they are of different hosts.
/// @retval -EINVAL either is NULL.
///
/// Linux: ref_module().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_add_dependency(user: *mut module, provider: *mut module) -> c_int {
    let _call = Call::that_changes();
    let Some((user, provider)) = lent!(user).zip(lent!(provider)) else {
        return invalid("module_add_dependency", "user or provider is NULL");
    };
    done(Host::add_dependency(&handle(user), &handle(provider)))
}

/// Counts the references held: by users, by modules that depend on it, and one while it is loaded.
/// The count is stale as soon as it is read, and approximate: it is for people and logs.
///
/// @return the count, 0 or more; -1 once it is unloaded.
/// @retval -EINVAL mod is NULL.
///
/// Async-signal-safe. Linux: module_refcount().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_refcount(r#mod: *const module) -> i64 {
    lent!(r#mod).map_or(i64::from(-libc::EINVAL), Record::refcount)
}

/// Tells where the module is between its load and its end.
///
/// @return the state; MODULE_STATE_GOING once it is unloaded, for ever; MODULE_STATE_LIVE for
/// NULL, which stands for code that is not a module.
///
/// Memory ordering: acquire: what init_module() did happens before what follows LIVE.
/// Async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_state(r#mod: *const module) -> module_state {
    let _call = Call::that_looks();
    lent!(r#mod).map_or(State::Live, Record::state).into()
}

/// Gives the module's name.
///
/// @return the name, for as long as the pointer is valid; "" for NULL.
///
/// Async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_name(r#mod: *const module) -> *const c_char {
    lent!(r#mod).map_or(c"".as_ptr(), Record::c_name)
}

/// Gives the host that loaded the module.
///
/// @return the host; NULL for NULL, and once that host is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_host_of(r#mod: *const module) -> *mut module_host {
    let _call = Call::that_looks();
    let host = lent!(r#mod).map_or(core::ptr::null(), Record::raw_host);
    host.cast_mut().cast()
}

/// Registers fn, which is called with data for every module that comes, becomes live, or goes.
/// Higher priorities are called first; of equal ones, the first that was registered.
///
/// @return 0, or a negative errno.
/// @retval -EEXIST fn is registered with this data already.
/// @retval -EINVAL host or fn is NULL.
///
/// Memory ordering: what the caller did before happens before fn is called. Linux:
/// register_module_notifier().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_notifier_register(
    host: *mut module_host,
    r#fn: module_notifier_fn,
    data: *mut c_void,
    priority: c_int,
) -> c_int {
    let _call = Call::that_changes();
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

/// Unregisters a notifier. When this returns 0, no other thread is in it, and none will be, even if
/// it was registered again while it ran. The notifier itself may call this.
///
/// @return 0, or a negative errno.
/// @retval -EDEADLK another thread is in it, and waits for this one, or for a lock that this one
///     has. No new call of it begins.
/// @retval -ENOENT fn is not registered with this data.
/// @retval -EINVAL host or fn is NULL.
///
/// Memory ordering: what other threads did in fn happens before this returns. Linux:
/// unregister_module_notifier().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_notifier_unregister(
    host: *mut module_host,
    r#fn: module_notifier_fn,
    data: *mut c_void,
) -> c_int {
    let _call = Call::that_changes();
    const FUNCTION: &str = "module_notifier_unregister";
    let Some(host) = lent!(host) else { return invalid(FUNCTION, "host is NULL") };
    let Some(notifier) = r#fn else { return invalid(FUNCTION, "fn is NULL") };
    let id = NotifierId::Key(notifier as usize, data as usize);
    done(host.remove_notifier(id))
}

/// Writes the modules as text in the format of /proc/modules, newest first, one line each; to go
/// through them in code there is module_host_each():
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
/// Linux: /proc/modules.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_host_list(
    host: *mut module_host,
    buf: *mut c_char,
    len: usize,
) -> i64 {
    let _call = Call::that_looks();
    let Some(host) = lent!(host) else {
        return invalid("module_host_list", "host is NULL").into();
    };
    give(&host.list(), lent!((buf, len)))
}

/// A reference that says who has it. The 64 bytes are the holder's; the library keeps the reference
/// in a list by them. The members are private. All zeroes means that there is no reference.
#[repr(C, align(8))]
pub struct module_track {
    state: [u64; 8],
}

const _: () = {
    assert!(core::mem::size_of::<module_track>() >= core::mem::size_of::<Track>());
    assert!(core::mem::align_of::<module_track>() >= core::mem::align_of::<Track>());
};

/// Takes a reference as module_try_get() does. module_holders() and the words of a refused unload
/// then name it, with the label, the thread that took it, since when, and from where. Give it back
/// with module_put_tracked(), on any thread.
///
/// References that are not tracked cost nothing for this; a tracked one takes a lock that all
/// modules share.
///
/// @param track in no list; it may not be copied, moved or freed until the reference is given back.
/// @param label what it is held for, a string that stays valid until then; NULL: "a reference".
///
/// @return true: the caller has a reference; false: the module is being unloaded, or gone, or track
/// is NULL. A NULL mod gives true, and nothing is tracked.
///
/// Memory ordering: as module_try_get().
#[unsafe(no_mangle)]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), unsafe(naked))]
pub unsafe extern "C" fn module_try_get_tracked(
    r#mod: *mut module,
    track: *mut module_track,
    label: *const c_char,
) -> bool {
    with_caller!(try_get_tracked, r#mod, track, label)
}

unsafe extern "C" fn try_get_tracked(
    r#mod: *mut module,
    track: *mut module_track,
    label: *const c_char,
    caller: Caller,
) -> bool {
    let _call = Call::that_looks();
    if track.is_null() {
        return false;
    }
    match lent!(r#mod) {
        // SAFETY: the contract above.
        Some(record) => unsafe { record.try_get_tracked(track.cast(), label, caller) },
        None => true,
    }
}

/// Gives a reference back that module_try_get_tracked() took, as module_put() does. If track is of
/// another module, or was given back already, that is reported as MODULE_REF_SURPLUS_PUT, and
/// nothing is put.
///
/// Memory ordering: as module_put().
#[unsafe(no_mangle)]
#[cfg_attr(any(target_arch = "x86_64", target_arch = "aarch64"), unsafe(naked))]
pub unsafe extern "C" fn module_put_tracked(r#mod: *mut module, track: *mut module_track) {
    with_caller!(put_tracked, r#mod, track)
}

unsafe extern "C" fn put_tracked(r#mod: *mut module, track: *mut module_track, caller: Caller) {
    let _call = Call::that_looks();
    if let (Some(record), false) = (lent!(r#mod), track.is_null()) {
        // SAFETY: the contract above.
        unsafe { record.put_tracked(track.cast(), caller) }
    }
}

/// Writes who holds a module, as text: a line for each tracked reference
/// (module_try_get_tracked()), such as "request: thread 4711 'worker', 3.2 s, from
/// /usr/bin/server+0x1234", and how many others there are, including the host's own: "3 references,
/// not tracked"; "" if there is none. The text goes to buf as in module_host_list(). The caller has
/// a handle or a reference.
///
/// @return the length of the whole text, without its NUL; or a negative errno.
/// @retval -EINVAL mod is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_holders(r#mod: *mut module, buf: *mut c_char, len: usize) -> i64 {
    let _call = Call::that_looks();
    let Some(module) = lent!(r#mod).map(handle) else {
        return invalid("module_holders", "mod is NULL").into();
    };
    give(&module.holders_text(), lent!((buf, len)))
}

/// Looks for everybody who stands in a module's code now, or points into it, with a reference or
/// without: what module_unload() looks for, and writable memory as well, which takes 2.5 ms for
/// each MB that was touched. It writes a line for each, such as "thread 4711 'poller' stands in
/// on_timer+0x12 of metrics.so", to buf as module_host_list() does. The caller has a handle or a
/// reference.
///
/// Memory that was freed may still contain an address, so a line about memory is a hint. For a
/// module that is unloaded and still mapped the lines tell who keeps it. There are none for an
/// object that an unload leaves mapped anyway.
///
/// @return the length of the whole text, without its NUL, 0 if there is nobody; or a negative errno.
/// @retval -EINVAL mod is NULL.
/// @retval -EBUSY another thread is unloading it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_dangling(r#mod: *mut module, buf: *mut c_char, len: usize) -> i64 {
    let _whole = NotCancelled::until_dropped();
    let Some(module) = lent!(r#mod).map(handle) else {
        return invalid("module_dangling", "mod is NULL").into();
    };
    match module.dangling() {
        Ok(lines) => {
            let text: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
            give(&text, lent!((buf, len)))
        }
        Err(error) => fail(&error).into(),
    }
}

/// Writes what was unloaded last, as text: "name unmapped", or "name resident: " and the reason; ""
/// before the first unload. The text goes to buf as in module_host_list().
///
/// @return the length of the whole text, without its NUL; or a negative errno.
/// @retval -EINVAL host is NULL.
///
/// Linux: [last unloaded: name].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_host_last_unloaded(
    host: *mut module_host,
    buf: *mut c_char,
    len: usize,
) -> i64 {
    let _call = Call::that_looks();
    let Some(host) = lent!(host) else {
        return invalid("module_host_last_unloaded", "host is NULL").into();
    };
    let text = host.last_unloaded().map(|last| last.to_string());
    give(&text.unwrap_or_default(), lent!((buf, len)))
}

/// Tells whether an unload was ever forced on holders, or on a module without an exit function.
///
/// @return whether one was; false for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_host_tainted(host: *mut module_host) -> bool {
    lent!(host).is_some_and(|host| host.tainted())
}

/// Gives the last failure of a function of the host on this thread in words: what was tried, on
/// what, and what to do; or why a module that was unloaded is still mapped.
///
/// @return the words; "" if there was no failure. They belong to the thread, and its next failure
/// overwrites them.
#[unsafe(no_mangle)]
pub extern "C" fn module_last_error() -> *const c_char {
    LAST_ERROR.with(|last| last.borrow().as_ptr().cast())
}

/// Writes which module an address belongs to, as one line without a newline: a module that is
/// there, or one that was unloaded and whose place is still taken (MODULE_AFTER_TRAP). It looks at
/// the modules of all hosts of this copy of the library.
///
///     metrics.so!on_timer+0x12, unloaded 3.2 s ago by thread 4700
///     'main' (module 'metrics', build ID 1f0c)
///
/// That is: file, symbol and offset (the offset alone if there is no symbol, or the file's symbol
/// table had more than 1 MiB); "loaded" and how long ago, or "unloaded", and by whom; the module's
/// name; the build ID, if it has one. For an object that was unloaded and stayed mapped it says
/// "and still mapped then". The words may change, the order does not.
///
/// The symbols are those that the file had when it was loaded. process_vm_readv(2) reads them; if a
/// sandbox refuses that, there are offsets only.
///
/// As much as fits is written to buf, with a NUL; buf may be NULL if len is 0.
///
/// @return the length of the whole text, as module_host_list(); 0 if the address belongs to no
/// module.
///
/// Async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_describe_address(
    address: *const c_void,
    buf: *mut c_char,
    len: usize,
) -> i64 {
    let mut room = Room { buffer: lent!((buf, len)), len: 0 };
    let _ = room.write_str("");
    raw::describe(address as usize, &mut room);
    room.len as i64
}

/// Makes a stale call say whose code it was before the process dies of it, or stops doing so.
///
/// It sets a handler of SIGSEGV. If a thread has called a module that is gone (MODULE_AFTER_TRAP),
/// or touched its data, the handler writes one line to standard error:
///
///     module_ref: thread 4711 'poller' called metrics.so!on_timer+0x12,
///     unloaded 3.2 s ago by thread 4700 'main' (module 'metrics',
///     build ID 1f0c), from /usr/bin/host+0x1175
///
/// and lets the signal go on: to the handler that was there before, with its mask, or to the end of
/// the process by that signal. The last address is where the call would have returned to. The
/// handler runs on the thread's alternate stack, if it has one. A handler that is set later sees
/// the signal first, and the line is written only if it passes the signal on. Switching off removes
/// the handler only if no later one stands before it.
///
/// MODULE_REF_CRASH_REPORTS=1 in the environment switches it on when the first host is made.
///
/// @return 0, or a negative errno.
/// @retval -errno what sigaction(2) said.
#[unsafe(no_mangle)]
pub extern "C" fn module_crash_reports(on: bool) -> c_int {
    host::crash_reports(on).map_or_else(|error| -error.raw_os_error().unwrap_or(libc::EIO), |()| 0)
}

/// Sets what becomes of the addresses of each module that this host unloads from now on.
///
/// @param what MODULE_AFTER_UNMAP, MODULE_AFTER_TRAP or MODULE_AFTER_KEEP.
///
/// @return 0, or a negative errno.
/// @retval -EINVAL what is none of them, or host is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_host_after_unload(
    host: *mut module_host,
    what: MaybeUninit<module_after_unload>,
) -> c_int {
    const FUNCTION: &str = "module_host_after_unload";
    let Some(host) = lent!(host) else { return invalid(FUNCTION, "host is NULL") };
    // SAFETY: C has some number there.
    let what = match unsafe { what.as_ptr().cast::<u32>().read() } {
        0 => AfterUnload::Unmap,
        1 => AfterUnload::Trap,
        2 => AfterUnload::Keep,
        _ => return invalid(FUNCTION, "what is none of MODULE_AFTER_..."),
    };
    host.after_unload(what);
    0
}

/// Limits what stays mapped: loads and replacements are refused (-EDQUOT) while modules that were
/// unloaded or replaced, and are still mapped, have more bytes than this. module_host_each() tells
/// the bytes of each, and why it stays.
///
/// @param bytes the limit; SIZE_MAX, the default, means none.
///
/// @return 0, or a negative errno.
/// @retval -EINVAL host is NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_host_limit_residents(
    host: *mut module_host,
    bytes: usize,
) -> c_int {
    let _call = Call::that_changes();
    answer(given("module_host_limit_residents", "host", lent!(host)).map(|host| {
        host.limit_residents((bytes != usize::MAX).then_some(bytes));
        0
    }))
}

/// Where debuggers find what module_describe_address() knows: share/gdb/auto-load has the script.
#[unsafe(no_mangle)]
static module_ref_places: &raw::Places = &raw::PLACES;
