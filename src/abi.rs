//! The exported functions, in the order of the header.
//!
//! The comments go into the header, and into the manual pages: ci/man says which parts they have.

use crate::caller::with_caller;
use crate::sequence::sequence_or;
use core::ffi::{c_char, c_int, c_void};
use core::mem;
use core::time::Duration;
#[cfg(target_os = "linux")]
use modref::FinishError;
use modref::misuse::{self, Caller, Misuse};
use modref::{Counter, DrainError, InitError, Mode, ReleaseError};
#[cfg(target_os = "linux")]
use std::os::fd::IntoRawFd;

/// The loader's own reference: the counter is live. `MODULE_REF_BASE` of the Linux
/// patch that this library goes back to.
pub const MODULE_REF_BASE: u64 = 1;

/// What the second member of a statically initialised counter is. Private.
pub const MODULE_REF_STATIC: usize = 0x6d6f6470;

/// A reference counter that can be shut.
///
/// Users take a reference for as long as they use what the counter stands for (the
/// code of a plugin, a device). Whoever wants to take it away asks
/// module_ref_try_release(), or shuts the door and waits with module_ref_drain().
/// After either has returned 0, to one caller only, nobody holds a reference and
/// nobody gets one.
///
/// Embed it anywhere, and initialise it with MODULE_REF_INIT or module_ref_init(): memory
/// that is all zeroes is not a counter. The members are private; the layout is part of the
/// ABI. Its address is its identity: do not copy or move it while it is in use. Its memory
/// may be freed once it is released and no module_ref_try_get() is running or can
/// start; the last module_ref_put() may still be on its way back.
///
/// A counter lives in one process: after fork(2) the child has a copy, with the
/// references that the parent's other threads held left over.
#[repr(C, align(16))]
pub struct module_ref {
    word: u64,
    slots: usize,
}

/// How a counter counts.
#[repr(C)]
pub enum module_ref_mode {
    /// In one shared word.
    MODULE_REF_ATOMIC,
    /// In per-CPU slots beside the word.
    MODULE_REF_PERCPU,
}

/// A use of a counter that cannot be right.
#[repr(C)]
pub enum module_ref_misuse {
    /// A put without a get, while nobody held a reference. It was undone; the counter is
    /// as before.
    MODULE_REF_SURPLUS_PUT,
    /// A get found the count in its outermost zone, beyond 2^58, where only a leak
    /// of references can bring it. The count is pinned there: the counter can be
    /// used, and is never released again.
    MODULE_REF_OVERFLOW,
    /// References are lost for good: a put or a drain of a pinned counter, or a
    /// destroy of one that is held.
    MODULE_REF_LEAKED,
    /// module_ref_get(), which needs a reference, on a released or destroyed
    /// counter. It was undone; the counter is as before.
    MODULE_REF_STALE_GET,
}

/// A misuse handler: what happened, to which counter, and the address from which the
/// library was called, or NULL where that is not known.
///
/// It runs on the thread that misused the counter, after the library has mended what
/// it could. It may not call functions of the host: a module's misuse may be found while its
/// host's lock is held. If the program gets or puts in signal handlers, it
/// must be async-signal-safe.
pub type module_ref_misuse_fn = Option<
    unsafe extern "C" fn(what: module_ref_misuse, r#ref: *const module_ref, caller: *const c_void),
>;

// What the crate calls its types is what C calls them.
const _: () = {
    assert!(mem::size_of::<module_ref>() == mem::size_of::<Counter>());
    assert!(mem::align_of::<module_ref>() == mem::align_of::<Counter>());
    assert!(MODULE_REF_BASE == modref::MODULE_REF_BASE);
    assert!(MODULE_REF_STATIC == modref::STATIC_STAMP);
    assert!(module_ref_misuse::MODULE_REF_SURPLUS_PUT as u32 == Misuse::SurplusPut as u32);
    assert!(module_ref_misuse::MODULE_REF_OVERFLOW as u32 == Misuse::Overflow as u32);
    assert!(module_ref_misuse::MODULE_REF_LEAKED as u32 == Misuse::Leaked as u32);
    assert!(module_ref_misuse::MODULE_REF_STALE_GET as u32 == Misuse::StaleGet as u32);
};

/// The counter behind a pointer from C, unless it is NULL.
///
/// # Safety
///
/// `of` is NULL or points to an initialised counter that stays for the call.
#[inline]
unsafe fn counter<'a>(of: *const module_ref) -> Option<&'a Counter> {
    // SAFETY: as promised by the caller; the layouts are the same.
    unsafe { of.cast::<Counter>().as_ref() }
}

/// The errno value of an outcome, negative, or 0.
trait Errno {
    fn errno(self) -> c_int;
}

impl Errno for Result<(), ReleaseError> {
    fn errno(self) -> c_int {
        match self {
            Ok(()) => 0,
            Err(ReleaseError::InUse { .. }) => -libc::EWOULDBLOCK,
            Err(other) => Err(DrainError::from(other)).errno(),
        }
    }
}

impl Errno for Result<(), DrainError> {
    fn errno(self) -> c_int {
        match self {
            Ok(()) => 0,
            Err(DrainError::TimedOut { .. }) => -libc::ETIMEDOUT,
            Err(DrainError::Busy) => -libc::EBUSY,
            Err(DrainError::AlreadyReleased) => -libc::EALREADY,
            Err(DrainError::Barrier { errno } | DrainError::Descriptor { errno }) => -errno,
            Err(_) => -libc::EINVAL,
        }
    }
}

#[cfg(target_os = "linux")]
impl Errno for FinishError {
    fn errno(self) -> c_int {
        match self {
            Self::InUse { .. } => -libc::EINPROGRESS,
            Self::TimedOut { .. } => -libc::ETIMEDOUT,
            Self::Busy => -libc::EBUSY,
            _ => -libc::EINVAL,
        }
    }
}

impl Errno for Result<(), InitError> {
    fn errno(self) -> c_int {
        match self {
            Ok(()) => 0,
            Err(InitError::InUse) => -libc::EBUSY,
            Err(InitError::NoMemory) => -libc::ENOMEM,
            Err(_) => -libc::EINVAL,
        }
    }
}

/// Makes *ref a live counter that nobody holds, in shared-word mode. Memory that was
/// never a counter may contain anything. The program then publishes it, which orders
/// the initialisation before its users.
///
/// A counter that was initialised at this address before and is held now, or is being
/// released, is refused, so that no reference is forgotten. What a held counter has
/// left in memory that was freed without module_ref_destroy() looks the same; clear
/// such memory first.
///
/// @return 0, or a negative errno.
/// @retval -EINVAL ref is NULL.
/// @retval -EBUSY ref is a counter in use.
///
/// Memory ordering: none. Thread safety: only one thread may use *ref during the call.
/// Async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_ref_init(r#ref: *mut module_ref) -> c_int {
    if r#ref.is_null() {
        return -libc::EINVAL;
    }
    // SAFETY: not null; C gives us the memory.
    unsafe { Counter::init(r#ref.cast()) }.errno()
}

/// Does as module_ref_init(), in per-CPU mode if this system can: a get and a put are
/// then one plain add on a cache line of the CPU they run on, however many threads
/// share the counter. Ask module_ref_mode() what it became: without restartable
/// sequences (glibc before 2.35, valgrind, not x86-64), without membarrier(2), or
/// without a list of the possible CPUs it is in shared-word mode.
///
/// The counter has 8 bytes per possible CPU beside its own, which module_ref_destroy()
/// gives back. Not supported in this mode: a child that shares its parent's memory and
/// thread-local storage, as vfork(2) makes it, may not get or put.
///
/// @return as module_ref_init(); and
/// @retval -ENOMEM there is no memory for the slots; the counter is untouched.
///
/// Memory ordering: none. Thread safety: only one thread may use *ref during the call.
/// Not async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_ref_init_percpu(r#ref: *mut module_ref) -> c_int {
    if r#ref.is_null() {
        return -libc::EINVAL;
    }
    // SAFETY: not null; C gives us the memory.
    unsafe { Counter::init_percpu(r#ref.cast()) }.errno()
}

/// Makes a released counter live again, in the mode it had. Only for the caller to whom
/// module_ref_try_release() or module_ref_drain() returned 0.
///
/// @return 0, or a negative errno.
/// @retval -EBUSY ref is not released.
/// @retval -EINVAL ref is NULL or destroyed.
///
/// Memory ordering: release: what the caller did before happens before what any later
/// holder does. Thread-safe. Async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_ref_reinit(r#ref: *mut module_ref) -> c_int {
    // SAFETY: the pointer is C's to keep valid, and so is the rule about the winner.
    unsafe { counter(r#ref).map_or(-libc::EINVAL, |counter| counter.reinit().errno()) }
}

/// Ends the life of a counter that is released (by its winner) or that nobody holds.
/// Its memory may then be freed or initialised again; any other use is refused as long
/// as the memory stays. A counter that is held stays as it is, and the misuse handler
/// is told of the leak. NULL is ignored.
///
/// Memory ordering: as module_ref_try_release(). Thread safety: no other thread may use
/// *ref, but for puts on their way back. Not async-signal-safe.
#[unsafe(no_mangle)]
#[cfg_attr(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")), unsafe(naked))]
pub unsafe extern "C" fn module_ref_destroy(r#ref: *mut module_ref) {
    with_caller!(destroy, r#ref)
}

unsafe extern "C" fn destroy(of: *mut module_ref, caller: Caller) {
    // SAFETY: the pointer is C's to keep valid.
    let Some(counter) = (unsafe { counter(of) }) else { return };
    // SAFETY: the rule about the winner is C's to keep.
    unsafe { counter.destroy(caller) };
}

/// Says how the counter counts: what its initialisation got, which may be less than was
/// asked for.
///
/// @return the mode; MODULE_REF_ATOMIC if ref is NULL.
///
/// Memory ordering: none. Thread-safe. Async-signal-safe.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_ref_mode(r#ref: *const module_ref) -> module_ref_mode {
    // SAFETY: the pointer is C's to keep valid.
    match unsafe { counter(r#ref) }.map(Counter::mode) {
        Some(Mode::PerCpu) => module_ref_mode::MODULE_REF_PERCPU,
        Some(Mode::Atomic) | None => module_ref_mode::MODULE_REF_ATOMIC,
    }
}

/// Takes a reference, unless the door is shut. Wait-free. A refused one that comes
/// after the door was shut writes nothing.
///
/// @return whether there is now a reference to put; true for NULL, as in Linux.
///
/// Memory ordering: acquire, on success: everything before the counter's last init or
/// reinit happens before what follows. Thread-safe. Async-signal-safe. Linux:
/// try_module_get().
#[unsafe(no_mangle)]
#[cfg_attr(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")), unsafe(naked))]
pub unsafe extern "C" fn module_ref_try_get(r#ref: *mut module_ref) -> bool {
    sequence_or!(try_get_in_word, r#ref, "1")
}

unsafe extern "C" fn try_get_in_word(of: *mut module_ref, caller: Caller) -> bool {
    // SAFETY: the pointer is C's to keep valid.
    unsafe { counter(of) }.is_none_or(|counter| counter.try_get_in_word(caller))
}

/// Takes one more reference. The caller holds one already, so this succeeds also while
/// a drain is under way. On a released counter it is undone, and the misuse handler is
/// told. NULL is ignored.
///
/// Memory ordering: none needed, the caller's own reference has it. Thread-safe.
/// Async-signal-safe. Linux: __module_get().
#[unsafe(no_mangle)]
#[cfg_attr(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")), unsafe(naked))]
pub unsafe extern "C" fn module_ref_get(r#ref: *mut module_ref) {
    sequence_or!(get, r#ref, "1")
}

unsafe extern "C" fn get(of: *mut module_ref, caller: Caller) {
    // SAFETY: the pointer is C's to keep valid.
    let Some(counter) = (unsafe { counter(of) }) else { return };
    // SAFETY: the reference is C's to keep.
    unsafe { counter.get(caller) };
}

/// Gives a reference back, from whichever thread. Wait-free. Nothing in *ref is touched
/// once the reference is gone. NULL is ignored.
///
/// References have no names, so a put without a get cannot be told from a holder's own. Where
/// nobody holds a reference it is undone, and the misuse handler is told. Where somebody does,
/// it gives that reference back: nobody is told, and the counter may be released while that
/// holder is inside. Where another thread gets or puts in that moment, the report may name
/// that thread, and a reference may be left over for good.
///
/// A thread that runs code which is to be unloaded makes its last put from code that
/// stays: after it, the code that called it may be gone.
///
/// Memory ordering: release: everything before it happens before what the winner of a
/// release does next. Thread-safe. Async-signal-safe; errno is preserved. Linux:
/// module_put().
#[unsafe(no_mangle)]
#[cfg_attr(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")), unsafe(naked))]
pub unsafe extern "C" fn module_ref_put(r#ref: *mut module_ref) {
    sequence_or!(put_in_word, r#ref, "-1")
}

pub(crate) unsafe extern "C" fn put_in_word(of: *mut module_ref, caller: Caller) {
    // SAFETY: the pointer is C's to keep valid.
    let Some(counter) = (unsafe { counter(of) }) else { return };
    // SAFETY: the reference is C's to keep.
    unsafe { counter.put_in_word(caller) };
}

/// Counts the references held, without the loader's own. Stale as soon as it is read,
/// and approximate in per-CPU mode: for people and logs, never to decide whether
/// something may go.
///
/// @return the count, 0 or more; -1 if released or destroyed.
/// @retval -EINVAL ref is NULL.
///
/// Memory ordering: none. Thread-safe. Async-signal-safe. Linux: module_refcount().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_ref_count(r#ref: *const module_ref) -> i64 {
    // SAFETY: the pointer is C's to keep valid.
    unsafe { counter(r#ref) }.map_or(i64::from(-libc::EINVAL), Counter::count)
}

/// Releases the counter if nobody holds a reference, and leaves it as it was if
/// somebody does. Does not wait, and does not shut the door while it looks: under
/// steady traffic it may never succeed, where module_ref_drain() does.
///
/// In per-CPU mode it makes one membarrier(2) when nobody seems to hold a reference,
/// and no system call when somebody does.
///
/// @return 0 to the one caller who has released it, or a negative errno.
/// @retval -EWOULDBLOCK references are held.
/// @retval -EBUSY another thread's release or drain is under way.
/// @retval -EALREADY it has been released before, which entitles the caller to nothing.
/// @retval -EINVAL ref is NULL or destroyed.
/// @retval -errno in per-CPU mode, that of membarrier(2) if that is refused.
///
/// Memory ordering: acquire, on success: everything that holders did happens before
/// what follows. Thread-safe. Async-signal-safe. Linux: try_release_module_ref().
#[unsafe(no_mangle)]
#[cfg_attr(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")), unsafe(naked))]
pub unsafe extern "C" fn module_ref_try_release(r#ref: *mut module_ref) -> c_int {
    with_caller!(try_release, r#ref)
}

unsafe extern "C" fn try_release(of: *mut module_ref, caller: Caller) -> c_int {
    // SAFETY: the pointer is C's to keep valid.
    unsafe { counter(of) }.map_or(-libc::EINVAL, |counter| counter.try_release(caller).errno())
}

/// Shuts the door, so that nobody gets a new reference, and sleeps until the last one
/// is put. If that takes longer than timeout_ns nanoseconds the counter becomes live
/// again, as before; a negative timeout waits for ever, 0 does not wait. If the last
/// reference goes in the moment in which time runs out, the release succeeds.
///
/// The caller must not hold a reference: it would wait for itself. Signals do not
/// interrupt it, and it is not a cancellation point.
///
/// @return 0 to the one caller who has released it, or a negative errno.
/// @retval -ETIMEDOUT references are held, and the time is up. At once, and with a word
///     to the misuse handler, if the count is pinned after an overflow.
/// @retval -EBUSY another thread's release or drain is under way.
/// @retval -EALREADY it has been released before, which entitles the caller to nothing.
/// @retval -EINVAL ref is NULL or destroyed.
/// @retval -errno in per-CPU mode, that of membarrier(2) if that is refused.
///
/// Memory ordering: as module_ref_try_release(). Thread-safe. Not async-signal-safe: it
/// waits.
#[unsafe(no_mangle)]
#[cfg_attr(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")), unsafe(naked))]
pub unsafe extern "C" fn module_ref_drain(r#ref: *mut module_ref, timeout_ns: i64) -> c_int {
    with_caller!(drain, r#ref, timeout_ns)
}

unsafe extern "C" fn drain(of: *mut module_ref, timeout_ns: i64, caller: Caller) -> c_int {
    let timeout = u64::try_from(timeout_ns).ok().map(Duration::from_nanos);
    // SAFETY: the pointer is C's to keep valid.
    unsafe { counter(of) }.map_or(-libc::EINVAL, |counter| counter.drain(caller, timeout).errno())
}

/// Does as module_ref_drain(), for programs that wait in a loop of their own: shuts the
/// door and returns at once, with a descriptor that epoll, poll and select know as
/// readable when the last reference may have been put. module_ref_drain_finish() then
/// says whether that is so. Until that or module_ref_drain_cancel() has ended it a
/// drain is under way, with all that means for others (-EBUSY).
///
///     int fd = module_ref_drain_begin(&ref);
///     ...
///     if (readable(fd) && module_ref_drain_finish(&ref) == 0)
///             close(fd);
///
/// Readable is a hint: the descriptor is a timer (timerfd_create(2)) that expires at
/// once when the last reference is put, and every 100 ms in case that hint is lost.
/// module_ref_drain_finish() takes the hint back, so level- and edge-triggered loops
/// can both be used, and there is nothing to read from it. It is non-blocking and
/// closed on exec, and the caller closes it, before or after the drain has ended. The
/// library has a duplicate meanwhile, so that epoll(7) does not forget it when it is
/// closed: take it out first (EPOLL_CTL_DEL). The drain can be finished or cancelled
/// without it.
///
/// End the drain before the counter's memory goes. After fork(2) both processes have
/// the descriptor, and each its own counter: a put in one of them may be a hint for
/// both, and each ends its own copy of the drain, unless another thread was just
/// ending it when the process forked.
///
/// @return the descriptor, 0 or more, to the one caller whose drain it is; or, with the
/// counter as it was, a negative errno.
/// @retval -EBUSY another thread's release or drain is under way.
/// @retval -EALREADY it has been released before, which entitles the caller to nothing.
/// @retval -EINVAL ref is NULL or destroyed.
/// @retval -EMFILE, -ENFILE, -ENOMEM and so on: there is no descriptor; that of
///     timerfd_create(2) or its duplicate, or what a sandbox says.
/// @retval -errno in per-CPU mode, that of membarrier(2) if that is refused.
///
/// Memory ordering: none; module_ref_drain_finish() has it. Thread-safe. Not
/// async-signal-safe: it may allocate.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
#[cfg_attr(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")), unsafe(naked))]
pub unsafe extern "C" fn module_ref_drain_begin(r#ref: *mut module_ref) -> c_int {
    with_caller!(drain_begin, r#ref)
}

#[cfg(target_os = "linux")]
unsafe extern "C" fn drain_begin(of: *mut module_ref, caller: Caller) -> c_int {
    // SAFETY: the pointer is C's to keep valid.
    let Some(counter) = (unsafe { counter(of) }) else { return -libc::EINVAL };
    match counter.drain_begin(caller) {
        Ok(timer) => timer.into_raw_fd(),
        Err(why) => Err(why).errno(),
    }
}

/// Ends a drain that module_ref_drain_begin() has begun if the last reference has been
/// put since. Any thread may ask, at any time, whether the descriptor is readable or
/// not.
///
/// @return 0 to the one caller for whom the counter is released now, as by
/// module_ref_drain(); or a negative errno.
/// @retval -EINPROGRESS references are held.
/// @retval -EBUSY another thread finishes or cancels it in this moment.
/// @retval -EINVAL ref is NULL, or no drain of it is begun, or it is over: then *ref is
///     not touched, and may be gone. (In its place may be another by then, whose drain
///     it would be.)
/// @retval -ETIMEDOUT the count is pinned after an overflow: the counter is live again,
///     and the misuse handler was told.
///
/// Memory ordering: as module_ref_try_release(). Thread-safe. Async-signal-safe.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
#[cfg_attr(all(unix, any(target_arch = "x86_64", target_arch = "aarch64")), unsafe(naked))]
pub unsafe extern "C" fn module_ref_drain_finish(r#ref: *mut module_ref) -> c_int {
    with_caller!(drain_finish, r#ref)
}

#[cfg(target_os = "linux")]
unsafe extern "C" fn drain_finish(of: *mut module_ref, caller: Caller) -> c_int {
    // SAFETY: as promised by the caller. NULL is no counter, so no drain of it is begun.
    unsafe { Counter::drain_finish_at(of.cast(), caller) }.map_or_else(Errno::errno, |()| 0)
}

/// Ends a drain that module_ref_drain_begin() has begun: the counter is live again, as
/// before. If the last reference has been put by then the release succeeds instead, as
/// at the end of module_ref_drain()'s time: so this is also the last look that a loop
/// takes at its deadline.
///
/// @return 0 if it is live; 1 if it is released, to the one caller who may go on, as if
/// module_ref_drain_finish() had returned 0; or a negative errno.
/// @retval -EBUSY another thread finishes or cancels it in this moment.
/// @retval -EINVAL ref is NULL, or no drain of it is begun, or it is over: then *ref is
///     not touched, and may be gone.
///
/// Memory ordering: as module_ref_try_release(), if it returns 1. Thread-safe.
/// Async-signal-safe.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_ref_drain_cancel(r#ref: *mut module_ref) -> c_int {
    // SAFETY: as for module_ref_drain_finish().
    unsafe { Counter::drain_cancel_at(r#ref.cast()) }.map_or_else(Errno::errno, c_int::from)
}

/// Begins (on) or ends recording who takes references: the address that the call returns to, the
/// thread, and the time, for module_ref_holders(). It lasts across releases and reinits, until
/// it is ended or the counter is destroyed; to begin or end it twice changes nothing.
///
/// While it is on every get and put is made in the shared word, also in per-CPU mode, which
/// module_ref_mode() goes on to report, and also by module_ref_inline.h; it takes some hundred
/// nanoseconds more, and stays async-signal-safe. There are 1024 records; references beyond these,
/// and those that are held when recording begins, are counted and not named. Off, it costs
/// nothing in per-CPU mode, and one test in the shared word.
///
/// References are anonymous. A put takes away the newest record of its own thread; if it has none,
/// a reference without a record, if there is one; and else the oldest record of another thread. A
/// refused get leaves none.
///
/// After fork(2) the child has a copy of the records, with the parent's threads. A counter that
/// is initialised in memory that was freed without module_ref_destroy() has no records, and is not
/// recorded.
///
/// For a moment in which recording ends in per-CPU mode, a release or a drain that another
/// thread begins can be told -EBUSY. Once recording has ended in a process, the memory of a
/// counter may be freed only when no other thread is in a release of it any more, also one that
/// was refused.
///
/// @return 0, or a negative errno.
/// @retval -ENOMEM there is no memory for the records (24 KiB).
/// @retval -EINVAL ref is NULL or destroyed.
///
/// Memory ordering: none. Thread-safe. Not async-signal-safe: it allocates.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_ref_record_holders(r#ref: *mut module_ref, on: bool) -> c_int {
    // SAFETY: the pointer is C's to keep valid.
    unsafe { counter(r#ref) }.map_or(-libc::EINVAL, |counter| counter.record_holders(on).errno())
}

/// Writes who holds references, as far as recorded, as text: one line for each, the one that has
/// held it longest first, and a last one for references without a record:
///
///     worker+0x12 in ./host (thread 'rx-0', 1234) for 3.2 s
///     ./host+0x11f3 (thread 1235, which has ended) for 51 ms
///     2 more, taken before recording began
///
/// The symbol and the object are what dladdr(3) says of where the reference was taken, now: only
/// an address, once that object is unmapped, and "a caller that is not known" for references that
/// were not taken through the C functions. Stale as soon as it is read, and not exact while
/// references come and go: for people and logs. Empty while recording is off.
///
/// As much as fits is written to buf, with a NUL; buf may be NULL if len is 0.
///
/// @return the length of the whole text, without its NUL; or a negative errno.
/// @retval -EINVAL ref is NULL.
///
/// Memory ordering: none. Thread-safe. Not async-signal-safe: it reads /proc, takes the dynamic
/// linker's lock, and allocates; where it finds no memory, the process ends.
#[cfg(target_os = "linux")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn module_ref_holders(
    r#ref: *const module_ref,
    buf: *mut c_char,
    len: usize,
) -> i64 {
    let _whole = crate::cancel::NotCancelled::until_dropped();
    // SAFETY: the pointers are C's to keep valid.
    unsafe {
        let Some(counter) = counter(r#ref) else { return i64::from(-libc::EINVAL) };
        give(&counter.holders_text(), buf, len)
    }
}

/// Writes as much of `text` as fits, with a NUL, and returns the length of all of it.
///
/// # Safety
///
/// `buf` has `len` writable bytes, or is NULL.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn give(text: &str, buf: *mut c_char, len: usize) -> i64 {
    if !buf.is_null() && len > 0 {
        let n = text.len().min(len - 1);
        // SAFETY: n + 1 bytes fit.
        unsafe {
            buf.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), n);
            buf.add(n).write(0);
        }
    }
    text.len() as i64
}

/// Installs a misuse handler for all counters of this library; NULL installs the
/// default, which writes one line to standard error and goes on; it asks the dynamic
/// linker for the caller's name, which is not async-signal-safe. A handler that wants
/// the program to stop calls abort(3).
///
/// @return the handler before, NULL for the default.
///
/// Memory ordering: what the caller did before happens before the handler runs.
/// Thread-safe. Not async-signal-safe.
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

/// Says the version of the library at run time; MODULE_REF_VERSION_MAJOR,
/// MODULE_REF_VERSION_MINOR and MODULE_REF_VERSION_PATCH are those of the header.
///
/// @return the version, as "1.2.3". Static; do not free.
///
/// Memory ordering: none. Thread-safe. Async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn module_ref_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
