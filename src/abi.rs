//! The exported functions, in the order of the header.
//!
//! The comments go into the header and the manual pages: ci/man says which parts they have. The
//! contract that all functions share is in cbindgen.toml, at the top of the header.

use crate::caller::with_caller;
use crate::lent::{Lent, lent};
use crate::sequence::sequence_or;
use crate::watched::Way;
use core::ffi::{c_char, c_int, c_void};
use core::mem;
use core::time::Duration;
#[cfg(target_os = "linux")]
use modref::cancel::NotCancelled;
use modref::misuse::{self, Caller, Misuse};
use modref::{Counter, DrainError, InitError, Mode, ReleaseError};
#[cfg(target_os = "linux")]
use modref::{Drain, FinishError};
#[cfg(target_os = "linux")]
use std::os::fd::IntoRawFd;

/// The loader's own reference: the counter is live. `MODULE_REF_BASE` of the Linux
/// patch that this library goes back to.
pub const MODULE_REF_BASE: u64 = 1;

/// A reference counter that can be closed.
///
/// Users take a reference for as long as they use what the counter stands for (the code of a
/// plugin, a device). Whoever wants to take that away asks module_ref_try_release(), or closes the
/// counter and waits with module_ref_drain(). While the counter is closed, new gets fail. After
/// either has returned 0, to one caller only, nobody holds a reference and nobody gets one.
///
/// Embed it anywhere, and initialise it with MODULE_REF_INIT or module_ref_init(): memory that is
/// all zeroes is a counter that is released already, and gives out no reference. The members are
/// private; the layout is part of the ABI. Its address is its identity: do not copy or move it
/// while it is in use. Its memory may be freed once it is released and no module_ref_try_get() is
/// running or can start; the last module_ref_put() may still be returning.
///
/// A counter lives in one process: after fork(2) the child has a copy, with the
/// references that the parent's other threads held left over.
#[repr(C, align(16))]
pub struct module_ref {
    word: u64,
    slots: usize,
}

/// A drain that module_ref_drain_begin() has begun. The memory is the caller's; the library keeps
/// the drain's state in it. The members are private. All zeroes means that there is no drain.
///
/// It may not be copied, moved or freed before module_ref_drain_finish() or
/// module_ref_drain_cancel() has ended the drain.
#[cfg(target_os = "linux")]
#[repr(C, align(8))]
pub struct module_ref_drain {
    r#ref: *mut module_ref,
    state: [u64; 9],
}

/// How a counter counts.
#[repr(C)]
pub enum module_ref_mode {
    /// In one shared word.
    MODULE_REF_ATOMIC,
    /// In per-CPU slots beside the word.
    MODULE_REF_PERCPU,
}

/// A misuse of a counter.
#[repr(C)]
pub enum module_ref_misuse {
    /// A put without a get, while nobody held a reference. It was undone; the counter is
    /// as before.
    MODULE_REF_SURPLUS_PUT,
    /// A get found the count beyond 2^58, where only a leak of references can bring it. The count
    /// is pinned there: the counter stays usable, and is never released.
    MODULE_REF_OVERFLOW,
    /// References are lost for good: a put or a drain of a pinned counter, or a
    /// destroy of one that is held.
    MODULE_REF_LEAKED,
    /// module_ref_get(), which needs a reference, on a released or destroyed
    /// counter. It was undone; the counter is as before.
    MODULE_REF_STALE_GET,
    /// A module's own code put the last reference to the module, while somebody was waiting for
    /// that. The reference is given back; the code may be gone before the put returns to it.
    MODULE_REF_OWN_CODE,
}

/// A misuse handler. It is told what happened, to which counter, and the address that called the
/// library, or NULL if that is not known.
///
/// It runs on the thread that misused the counter, after the library has undone what it could. It
/// may call the host, which holds no lock meanwhile. It returns, or ends the process: if it is left
/// by longjmp(3) or an exception, a release or drain that called it stays under way for ever. If the
/// program gets or puts in signal handlers, the handler must be async-signal-safe.
pub type module_ref_misuse_fn = Option<
    unsafe extern "C" fn(what: module_ref_misuse, r#ref: *const module_ref, caller: *const c_void),
>;

// What the crate calls its types is what C calls them.
const _: () = {
    assert!(mem::size_of::<module_ref>() == mem::size_of::<Counter>());
    assert!(mem::align_of::<module_ref>() == mem::align_of::<Counter>());
    assert!(MODULE_REF_BASE == modref::MODULE_REF_BASE);
    assert!(module_ref_misuse::MODULE_REF_SURPLUS_PUT as u32 == Misuse::SurplusPut as u32);
    assert!(module_ref_misuse::MODULE_REF_OVERFLOW as u32 == Misuse::Overflow as u32);
    assert!(module_ref_misuse::MODULE_REF_LEAKED as u32 == Misuse::Leaked as u32);
    assert!(module_ref_misuse::MODULE_REF_STALE_GET as u32 == Misuse::StaleGet as u32);
    assert!(module_ref_misuse::MODULE_REF_OWN_CODE as u32 == Misuse::OwnCode as u32);
    // What the header's initialiser has, in words.
    assert!(MODULE_REF_BASE | 2 == modref::LIVE);
    #[cfg(target_os = "linux")]
    assert!(mem::size_of::<module_ref_drain>() >= mem::size_of::<Drain>());
    #[cfg(target_os = "linux")]
    assert!(mem::align_of::<module_ref_drain>() >= mem::align_of::<Drain>());
};

impl Lent for *const module_ref {
    type As<'a> = Option<&'a Counter>;

    #[inline]
    unsafe fn lent<'a>(self) -> Self::As<'a> {
        // SAFETY: NULL, or a counter; the layouts are the same.
        unsafe { self.cast::<Counter>().as_ref() }
    }
}

impl Lent for *mut module_ref {
    type As<'a> = Option<&'a Counter>;

    #[inline]
    unsafe fn lent<'a>(self) -> Self::As<'a> {
        // SAFETY: the same contract.
        unsafe { self.cast_const().lent() }
    }
}

#[cfg(target_os = "linux")]
impl Lent for *mut module_ref_drain {
    type As<'a> = Option<&'a Drain>;

    unsafe fn lent<'a>(self) -> Self::As<'a> {
        // SAFETY: NULL, or a handle that the program has zeroed or the library begun.
        unsafe { self.cast::<Drain>().as_ref() }
    }
}

/// What C is answered: 0, or the errno of a failure, negative.
fn answer<E>(result: Result<(), E>, errno: fn(E) -> c_int) -> c_int {
    result.map_or_else(|error| -errno(error), |()| 0)
}

/// Makes *ref a live counter that nobody holds, in shared-word mode. What the memory contained does
/// not matter: references to an earlier counter there are forgotten. Publishing the counter is the
/// program's part, and orders the initialisation before the users.
///
/// @return 0, or a negative errno.
/// @retval -EINVAL ref is NULL.
///
/// Thread safety: only one thread may use *ref during the call. Async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_ref_init(r#ref: *mut module_ref) -> c_int {
    // SAFETY: C gives us the memory.
    unsafe { initialise(r#ref, Ok(Counter::new())) }
}

/// Writes a new counter to memory that C gives us, unless that is NULL.
///
/// # Safety
///
/// `place` is NULL, or aligned and writable for a counter that nobody else uses.
unsafe fn initialise(place: *mut module_ref, new: Result<Counter, InitError>) -> c_int {
    if place.is_null() {
        return -libc::EINVAL;
    }
    // SAFETY: as promised by the caller.
    answer(new.map(|counter| unsafe { place.cast::<Counter>().write(counter) }), InitError::errno)
}

/// Does as module_ref_init(), in per-CPU mode if this system can: a get and a put are then one
/// plain add each, on a cache line of the CPU they run on, however many threads share the counter.
/// module_ref_mode() tells what the counter became. It is in shared-word mode without restartable
/// sequences (valgrind, neither x86-64 nor aarch64), without membarrier(2) or
/// sched_getaffinity(2), and under ThreadSanitizer.
///
/// The counter takes 8 more bytes for each CPU that uses it, which module_ref_destroy() gives back.
/// What a container says about its CPUs affects the counter's speed and nothing else. Several
/// copies of the library in one process (the shared one, static ones in plugins) may work on the
/// same counters. In this mode a child of vfork(2), which shares its parent's memory and
/// thread-local storage, may not get or put.
///
/// @return as module_ref_init(); and
/// @retval -ENOMEM there is no memory for the slots; the counter is untouched.
///
/// Thread safety: only one thread may use *ref during the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_ref_init_percpu(r#ref: *mut module_ref) -> c_int {
    if r#ref.is_null() {
        return -libc::EINVAL;
    }
    // SAFETY: C gives us the memory.
    unsafe { initialise(r#ref, Counter::new_percpu()) }
}

/// Makes a released counter live again, in the mode it had. Only the caller to whom
/// module_ref_try_release() or module_ref_drain() returned 0 may call this.
///
/// @return 0, or a negative errno.
/// @retval -EBUSY ref is not released.
/// @retval -EINVAL ref is NULL or destroyed.
///
/// Memory ordering: release: what the caller did before happens before what any later holder does.
/// Async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_ref_reinit(r#ref: *mut module_ref) -> c_int {
    let Some(counter) = lent!(r#ref) else { return -libc::EINVAL };
    // SAFETY: the rule about the winner is C's to keep.
    answer(unsafe { counter.reinit() }, InitError::errno)
}

/// Ends the life of a counter that is released (by its winner) or that nobody holds. Its memory may
/// then be freed or initialised again; any other use is refused while the memory is still there. A
/// counter that is held stays as it is, and the misuse handler is told of the leak. NULL is
/// ignored.
///
/// Memory ordering: as module_ref_try_release(). Thread safety: no other thread may use *ref,
/// except for puts that are returning.
#[unsafe(no_mangle)]
#[cfg_attr(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")), unsafe(naked))]
pub unsafe extern "C" fn module_ref_destroy(r#ref: *mut module_ref) {
    with_caller!(destroy, r#ref)
}

unsafe extern "C" fn destroy(of: *mut module_ref, caller: Caller) {
    let Some(counter) = lent!(of) else { return };
    // SAFETY: the rule about the winner is C's to keep.
    unsafe { counter.destroy(caller) };
}

/// Tells how the counter counts, which may be less than its initialisation asked for.
///
/// @return the mode; MODULE_REF_ATOMIC if ref is NULL.
///
/// Async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_ref_mode(r#ref: *const module_ref) -> module_ref_mode {
    match lent!(r#ref).map(Counter::mode) {
        Some(Mode::PerCpu) => module_ref_mode::MODULE_REF_PERCPU,
        Some(Mode::Atomic) | None => module_ref_mode::MODULE_REF_ATOMIC,
    }
}

/// Takes a reference, unless the counter is closed. Wait-free. A get that finds the counter closed
/// writes nothing.
///
/// @return whether there is now a reference to put; true for NULL, as in Linux.
///
/// Memory ordering: acquire, on success: what was done before the counter's last reinit or
/// cancelled drain happens before what follows. Async-signal-safe. Linux: try_module_get().
#[unsafe(no_mangle)]
#[cfg_attr(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")), unsafe(naked))]
pub unsafe extern "C" fn module_ref_try_get(r#ref: *mut module_ref) -> bool {
    sequence_or!(by TRY_GET, watched_try_get, r#ref, "1", failed try_get_in_word)
}

pub(crate) static TRY_GET: Way = Way::new(try_get_in_word as *const ());

unsafe extern "C" fn try_get_in_word(of: *mut module_ref, caller: Caller) -> bool {
    lent!(of).is_none_or(|counter| counter.try_get_in_word(caller))
}

pub(crate) unsafe extern "C" fn watched_try_get(of: *mut module_ref, caller: Caller) -> bool {
    lent!(of).is_none_or(|counter| counter.try_get_watched(caller))
}

/// Takes a reference even if the counter is closed, as long as somebody holds one; on a live
/// counter it does as module_ref_try_get(). A drain that is under way waits for this reference too.
/// It serves a registry of callbacks that is called by holders while others drain. In per-CPU mode
/// it may also succeed while a drain is just beginning and nobody holds a reference. Lock-free.
///
/// @return whether there is now a reference to put; false if the counter is released; true
/// for NULL.
///
/// Memory ordering: as module_ref_try_get(). Async-signal-safe.
#[unsafe(no_mangle)]
#[cfg_attr(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")), unsafe(naked))]
pub unsafe extern "C" fn module_ref_get_if_held(r#ref: *mut module_ref) -> bool {
    with_caller!(get_if_held, r#ref)
}

unsafe extern "C" fn get_if_held(of: *mut module_ref, caller: Caller) -> bool {
    lent!(of).is_none_or(|counter| counter.get_if_held(caller))
}

/// Takes one more reference. The caller holds one already, so this succeeds even while a drain is
/// under way. On a released counter it is undone, and the misuse handler is told. NULL is ignored.
///
/// Memory ordering: none needed, the caller's own reference has it. Async-signal-safe. Linux:
/// __module_get().
#[unsafe(no_mangle)]
#[cfg_attr(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")), unsafe(naked))]
pub unsafe extern "C" fn module_ref_get(r#ref: *mut module_ref) {
    sequence_or!(get, r#ref, "1", failed get)
}

unsafe extern "C" fn get(of: *mut module_ref, caller: Caller) {
    let Some(counter) = lent!(of) else { return };
    // SAFETY: the reference is C's to keep.
    unsafe { counter.get(caller) };
}

/// Gives a reference back, on any thread. Wait-free. Nothing in *ref is touched once the reference
/// is gone. NULL is ignored.
///
/// References are anonymous, so the library cannot tell a put without a get from a holder's own. If
/// nobody holds a reference, such a put is undone, and the misuse handler is told. If somebody
/// does, it gives that holder's reference back: nobody is told, and the counter may be released
/// while the holder is inside. If another thread gets or puts at that moment, the report may name
/// that thread, and a reference may be left over for good.
///
/// A thread must make its last put from code that stays, not from the code that is to be unloaded:
/// after the put that code may be gone.
///
/// Memory ordering: release: everything before it happens before what the winner of a release does
/// next. Async-signal-safe; errno is preserved. Linux: module_put().
#[unsafe(no_mangle)]
#[cfg_attr(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")), unsafe(naked))]
pub unsafe extern "C" fn module_ref_put(r#ref: *mut module_ref) {
    sequence_or!(by PUT, watched_put, r#ref, "-1", failed put_in_word)
}

pub(crate) static PUT: Way = Way::new(put_in_word as *const ());

pub(crate) unsafe extern "C" fn put_in_word(of: *mut module_ref, caller: Caller) {
    let Some(counter) = lent!(of) else { return };
    // SAFETY: the reference is C's to keep.
    unsafe { counter.put_in_word(caller) };
}

pub(crate) unsafe extern "C" fn watched_put(of: *mut module_ref, caller: Caller) {
    let Some(counter) = lent!(of) else { return };
    // SAFETY: the reference is C's to keep.
    unsafe { counter.put_watched(caller) };
}

/// Counts the references held, without the loader's own. The count is stale as soon as it is read,
/// and approximate in per-CPU mode. It is for people and logs, never for deciding whether something
/// may go.
///
/// @return the count, 0 or more; -1 if released or destroyed.
/// @retval -EINVAL ref is NULL.
///
/// Async-signal-safe. Linux: module_refcount().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_ref_count(r#ref: *const module_ref) -> i64 {
    lent!(r#ref).map_or(i64::from(-libc::EINVAL), Counter::count)
}

/// Releases the counter if nobody holds a reference, and leaves it as it was if somebody does. It
/// neither waits nor closes the counter while it looks, so under steady traffic it may never
/// succeed; module_ref_drain() does.
///
/// In per-CPU mode it calls membarrier(2) once if nobody seems to hold a reference, and makes no
/// system call if somebody does.
///
/// @return 0 to the one caller who has released it, or a negative errno.
/// @retval -EWOULDBLOCK references are held.
/// @retval -EBUSY another thread's release or drain is under way.
/// @retval -EALREADY it has been released before, which entitles the caller to nothing.
/// @retval -EINVAL ref is NULL or destroyed.
/// @retval -errno in per-CPU mode, that of membarrier(2) if that is refused.
///
/// Memory ordering: acquire, on success: everything that holders did happens before what follows.
/// Async-signal-safe. Linux: try_release_module_ref().
#[unsafe(no_mangle)]
#[cfg_attr(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")), unsafe(naked))]
pub unsafe extern "C" fn module_ref_try_release(r#ref: *mut module_ref) -> c_int {
    with_caller!(try_release, r#ref)
}

unsafe extern "C" fn try_release(of: *mut module_ref, caller: Caller) -> c_int {
    lent!(of)
        .map_or(-libc::EINVAL, |counter| answer(counter.try_release(caller), ReleaseError::errno))
}

/// Closes the counter, so that new gets fail, and sleeps until the last reference is put. If that
/// takes longer than timeout_ns nanoseconds the counter becomes live again, as before; a negative
/// timeout waits for ever, 0 does not wait. If the last reference is put just as the time runs out,
/// the release succeeds.
///
/// The caller must not hold a reference: it would wait for itself.
///
/// @return 0 to the one caller who has released it, or a negative errno.
/// @retval -ETIMEDOUT references are held, and the time is up; or the count is pinned after an
///     overflow, which is said at once, and told to the misuse handler.
/// @retval -EBUSY another thread's release or drain is under way.
/// @retval -EALREADY it has been released before, which entitles the caller to nothing.
/// @retval -EINVAL ref is NULL or destroyed.
/// @retval -errno in per-CPU mode, that of membarrier(2) if that is refused.
///
/// Memory ordering: as module_ref_try_release(). Not async-signal-safe: it waits.
#[unsafe(no_mangle)]
#[cfg_attr(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")), unsafe(naked))]
pub unsafe extern "C" fn module_ref_drain(r#ref: *mut module_ref, timeout_ns: i64) -> c_int {
    with_caller!(drain, r#ref, timeout_ns)
}

unsafe extern "C" fn drain(of: *mut module_ref, timeout_ns: i64, caller: Caller) -> c_int {
    #[cfg(target_os = "linux")]
    let _whole = NotCancelled::until_dropped();
    let Some(counter) = lent!(of) else { return -libc::EINVAL };
    answer(counter.drain(caller, timeout(timeout_ns)), DrainError::errno)
}

/// How long to wait; `None` is for ever.
pub(crate) fn timeout(ns: i64) -> Option<Duration> {
    u64::try_from(ns).ok().map(Duration::from_nanos)
}

/// Does as module_ref_drain(), for programs that wait in a loop of their own. It closes the counter
/// and returns at once, with a descriptor for epoll(7), poll(2) and select(2), which becomes
/// readable when, and only when, the last reference has been put or timeout_ns nanoseconds have
/// passed (negative: never; 0: at once). Then module_ref_drain_finish() ends the drain. Until that
/// or module_ref_drain_cancel() ends it, the drain is under way, and other attempts are refused
/// (-EBUSY).
///
///     struct module_ref_drain drain;
///     int fd = module_ref_drain_begin(&ref, &drain, timeout_ns);
///     ...
///     if (readable(fd)) {
///             int rc = module_ref_drain_finish(&drain);
///             close(fd);
///     }
///
/// The descriptor is a timer (timerfd_create(2)). It is closed on exec, is never 0, 1 or 2, and
/// stays readable, so level- and edge-triggered loops can both wait for it, and nothing has to be
/// read; a read(2) would take the readiness away. The caller closes it, at any time; the drain can
/// be ended without it. Duplicates of it become readable only while it is open itself. A thread of
/// the library sleeps until the drain is over, with all signals blocked. Code that may be unloaded
/// ends its drains first.
///
/// The counter and *drain stay where they are until the drain has ended. After fork(2) each process
/// ends its own copy of the drain. The child's descriptor is the parent's, and says nothing about
/// the child's counter.
///
/// @return the descriptor to the one caller whose drain it is; or, with the counter as it
/// was, a negative errno.
/// @retval -EBUSY another thread's release or drain is under way.
/// @retval -EALREADY it has been released before, which entitles the caller to nothing.
/// @retval -EINVAL ref or drain is NULL, or ref is destroyed.
/// @retval -errno that of timerfd_create(2) or pthread_create(3), or in per-CPU mode of
///     membarrier(2), if that is refused.
///
/// Memory ordering: none; module_ref_drain_finish() has it. Thread safety: no other thread
/// may use *drain during the call. Not async-signal-safe: it starts a thread.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
#[cfg_attr(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")), unsafe(naked))]
pub unsafe extern "C" fn module_ref_drain_begin(
    r#ref: *mut module_ref,
    drain: *mut module_ref_drain,
    timeout_ns: i64,
) -> c_int {
    with_caller!(drain_begin, r#ref, drain, timeout_ns)
}

#[cfg(target_os = "linux")]
unsafe extern "C" fn drain_begin(
    of: *mut module_ref,
    handle: *mut module_ref_drain,
    timeout_ns: i64,
    caller: Caller,
) -> c_int {
    let _whole = NotCancelled::until_dropped();
    let Some(counter) = lent!(of) else { return -libc::EINVAL };
    if handle.is_null() {
        return -libc::EINVAL;
    }
    let handle = handle.cast::<Drain>();
    modref::tool::ours(handle.cast(), mem::size_of::<Drain>());
    // SAFETY: C gives us the memory, which stays where it is until the drain has ended.
    let begun = unsafe {
        handle.write(Drain::new());
        (*handle).begin(counter, caller, timeout(timeout_ns))
    };
    begun.map_or_else(|error| -error.errno(), IntoRawFd::into_raw_fd)
}

/// Ends a drain that module_ref_drain_begin() has begun, if it is over: the last reference has been
/// put, or the time is up. Any thread may ask at any time, whether the descriptor is readable or
/// not.
///
/// @return 0 to the one caller for whom the counter is released now, as by
/// module_ref_drain(); or a negative errno.
/// @retval -EINPROGRESS references are held, and there is time left.
/// @retval -ETIMEDOUT the time is up, or the count is pinned after an overflow (the
///     misuse handler was told then): the counter is live again.
/// @retval -EBUSY another thread is just asking or ending it: ask again.
/// @retval -EINVAL drain is NULL, or no drain is under way with it. The counter is not
///     touched then, and may be gone.
///
/// Memory ordering: as module_ref_try_release(). Not async-signal-safe: it waits for the library's
/// thread to end, and up to 100 ms for gets that are being refused.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
#[cfg_attr(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")), unsafe(naked))]
pub unsafe extern "C" fn module_ref_drain_finish(drain: *mut module_ref_drain) -> c_int {
    with_caller!(drain_finish, drain)
}

#[cfg(target_os = "linux")]
unsafe extern "C" fn drain_finish(handle: *mut module_ref_drain, caller: Caller) -> c_int {
    let _whole = NotCancelled::until_dropped();
    let handle = lent!(handle).ok_or(FinishError::NotBegun);
    // SAFETY: C keeps the counter while a drain of it is under way.
    answer(handle.and_then(|handle| unsafe { handle.finish(caller) }), FinishError::errno)
}

/// Ends a drain that module_ref_drain_begin() has begun. The counter is live again, whether or not
/// the last reference has been put. A loop whose own deadline has passed calls
/// module_ref_drain_finish() once more first.
///
/// @return 0, or a negative errno.
/// @retval -EBUSY another thread is just asking or ending it: ask again.
/// @retval -EINVAL drain is NULL, or no drain is under way with it. The counter is not
///     touched then, and may be gone.
///
/// Memory ordering: release: what the caller did before happens before what any later holder does.
/// Not async-signal-safe: it waits for the library's thread to end.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_ref_drain_cancel(drain: *mut module_ref_drain) -> c_int {
    let _whole = NotCancelled::until_dropped();
    let handle = lent!(drain).ok_or(FinishError::NotBegun);
    // SAFETY: C keeps the counter while a drain of it is under way.
    answer(handle.and_then(|handle| unsafe { handle.cancel() }), FinishError::errno)
}

/// Installs a misuse handler for all counters of this library. NULL installs the default, which
/// writes one line to standard error and goes on. It writes at most 10 lines a second, and then how
/// many it left out. It asks the dynamic linker for the caller's name, which is not
/// async-signal-safe. A handler that is to stop the program calls abort(3).
///
/// @return the previous handler, NULL for the default.
///
/// Memory ordering: what the caller did before happens before the handler runs.
#[unsafe(no_mangle)]
pub extern "C" fn module_ref_set_misuse_handler(
    r#fn: module_ref_misuse_fn,
) -> module_ref_misuse_fn {
    // SAFETY: the two types differ in the names of their enum and struct alone, whose
    // values and layouts are asserted above.
    unsafe {
        let handler = mem::transmute::<module_ref_misuse_fn, Option<misuse::Handler>>(r#fn);
        mem::transmute::<Option<misuse::Handler>, module_ref_misuse_fn>(misuse::set_handler(
            handler,
        ))
    }
}

/// Tells the version of the library at run time. MODULE_REF_VERSION_MAJOR, MODULE_REF_VERSION_MINOR
/// and MODULE_REF_VERSION_PATCH are the header's.
///
/// @return the version, as "1.2.3". Static; do not free.
///
/// Async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn module_ref_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
