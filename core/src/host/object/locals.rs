//! Destructors of thread-local objects: what C++'s `thread_local` and Rust's `thread_local!` register
//! with the C library for the end of a thread (`__cxa_thread_atexit_impl`).
//!
//! The C library keeps an object mapped while a thread has such a destructor, that is, until the thread
//! ends. So the host takes the registration over.
//!
//! **TL1, whose.** The host overwrites the import of an object that it has just opened, and keeps what is
//! registered through it. What an object registers in its constructors, or through an address that it has
//! looked up, goes to the C library.
//!
//! **TL2, when.** When the object has to go, each thread runs its own destructors in its next call of the
//! host that may take locks, or at its end. No thread runs another thread's.
//!
//! **TL3, order.** The destructors of one thread run in reverse order of their registration. At a thread's
//! end all those that are kept here run when the first one would, by one entry of the C library's.

use super::linked::{Place, stay};
use super::{thread_number, thread_title};
use crate::host::error::last_errno;
use crate::host::locks::hold;
use crate::tool;
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::mem;
use std::ops::Range;
use std::path::Path;
use std::ptr;
use std::sync::atomic::Ordering::*;
use std::sync::atomic::{AtomicPtr, AtomicUsize};
use std::sync::{Mutex, MutexGuard};

type Destructor = unsafe extern "C" fn(*mut c_void);
type Register = unsafe extern "C" fn(Destructor, *mut c_void, *mut c_void) -> c_int;

/// The names that the registration is imported by: the C library's, and libstdc++'s.
const NAMES: &[&[u8]] = &[b"__cxa_thread_atexit_impl", b"__cxa_thread_atexit"];

struct Entry {
    destructor: Destructor,
    object: *mut c_void,
    /// An address in the object that registered it.
    of: usize,
}

// SAFETY: only its own thread runs it.
unsafe impl Send for Entry {}

/// A thread that has entries, or had some.
struct Thread {
    serial: usize,
    number: libc::pid_t,
    /// In the order in which they were registered.
    entries: Vec<Entry>,
    /// The object whose destructor it is running.
    running: Option<usize>,
}

/// An object whose registrations come here (TL1).
struct Home {
    range: Range<usize>,
    /// It has to be unmapped once each thread has run its destructors.
    leaves: bool,
}

pub(crate) struct Locals {
    homes: Vec<Home>,
    threads: Vec<Thread>,
}

/// No other lock is taken while this one is held.
pub(crate) static LOCALS: Mutex<Locals> =
    Mutex::new(Locals { homes: Vec::new(), threads: Vec::new() });

/// How many homes are leaving, to be read without the lock.
static LEAVING: AtomicUsize = AtomicUsize::new(0);

/// The C library's own function, once it has been looked up.
static NEXT: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

std::thread_local! {
    /// The serial number of this thread's entries; 0: there are none. It has no destructor itself.
    static SERIAL: Cell<usize> = const { Cell::new(0) };
}

fn lock() -> MutexGuard<'static, Locals> {
    hold(&LOCALS)
}

/// Whether the thread of this number has ended.
fn has_ended(number: libc::pid_t) -> bool {
    // SAFETY: no signal is sent.
    let rc = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), number, 0) };
    rc != 0 && last_errno() == libc::ESRCH
}

impl Locals {
    fn thread(&mut self, serial: usize) -> Option<&mut Thread> {
        self.threads.iter_mut().find(|thread| thread.serial == serial)
    }

    fn home(&mut self, range: &Range<usize>) -> Option<&mut Home> {
        self.homes.iter_mut().find(|home| home.range == *range)
    }

    fn count_leaving(&self) {
        // Relaxed: a thread that sees it late runs its destructors in a later call.
        LEAVING.store(self.homes.iter().filter(|home| home.leaves).count(), Relaxed);
    }

    /// The numbers of the threads that have yet to run destructors of a home that is leaving.
    fn awaited(&mut self, range: &Range<usize>) -> Vec<libc::pid_t> {
        if !self.home(range).is_some_and(|home| home.leaves) {
            return Vec::new();
        }
        let has_some = |thread: &Thread| {
            let entries = thread.entries.iter().map(|entry| entry.of);
            entries.chain(thread.running).any(|of| range.contains(&of))
        };
        // A thread that has ended runs nothing: what it registered after the C library's last round is lost.
        self.threads.retain(|thread| !has_some(thread) || !has_ended(thread.number));
        self.threads.iter().filter(|thread| has_some(thread)).map(|thread| thread.number).collect()
    }
}

/// Takes over the registrations of an object, which nobody had loaded before.
///
/// # Safety
///
/// It has just been loaded.
pub(super) unsafe fn take_over(place: &Place) {
    // Relaxed: every thread finds the same function.
    if NEXT.load(Relaxed).is_null() {
        // SAFETY: a name.
        let next = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"__cxa_thread_atexit_impl".as_ptr()) };
        if next.is_null() {
            // Its words are not ours to leave behind. SAFETY: has no requirements.
            unsafe { libc::dlerror() };
            return;
        }
        stay();
        NEXT.store(next, Relaxed);
    }
    let mut locals = lock();
    locals.homes.push(Home { range: place.range.clone(), leaves: false });
    drop(locals);
    // SAFETY: the caller's promise; the function is what the import is for.
    unsafe { place.rebind(NAMES, register as Register as usize) };
}

/// The object was closed. If somebody else still has it open, it may be unmapped without us from now on, so
/// what it registers goes to the C library again.
pub(super) fn closed(place: &Place) {
    let mut locals = lock();
    locals.homes.retain(|home| home.range != place.range);
    locals.count_leaving();
}

/// An object has to be unmapped. The calling thread runs its destructors now, each other thread in its next
/// call (TL2). Returns whether there are any left.
pub(crate) fn leave(place: &Place) -> bool {
    let mut locals = lock();
    let Some(home) = locals.home(&place.range) else { return false };
    home.leaves = true;
    locals.count_leaving();
    drop(locals);
    run();
    is_awaited(place)
}

/// Whether threads have yet to run destructors of an object that is leaving.
pub(crate) fn is_awaited(place: &Place) -> bool {
    !lock().awaited(&place.range).is_empty()
}

/// Names those threads, for people.
pub(crate) fn awaited(place: &Place) -> Vec<String> {
    let numbers = lock().awaited(&place.range);
    let title = |number| thread_title(Path::new("/proc/self"), number);
    numbers.into_iter().map(title).collect()
}

/// Runs the calling thread's destructors of objects that are leaving. They are other people's code, so no
/// lock is held.
pub(crate) fn run() {
    // Relaxed: as in `count_leaving`.
    if LEAVING.load(Relaxed) > 0 {
        run_those(|homes, of| homes.iter().any(|home| home.leaves && home.range.contains(&of)));
    }
}

#[cold]
fn run_those(wanted: impl Fn(&[Home], usize) -> bool) {
    let serial = SERIAL.get();
    let next = || {
        let Locals { homes, threads } = &mut *lock();
        let thread = threads.iter_mut().find(|thread| thread.serial == serial)?;
        // If a destructor calls the host, the others wait until it has returned.
        if thread.running.is_some() {
            return None;
        }
        let at = thread.entries.iter().rposition(|entry| wanted(homes, entry.of))?;
        let entry = thread.entries.remove(at);
        thread.running = Some(entry.of);
        Some(entry)
    };
    while let Some(entry) = next() {
        // SAFETY: as it was registered; its object is mapped for as long as `running` says so.
        tool::outside(|| unsafe { (entry.destructor)(entry.object) });
        if let Some(thread) = lock().thread(serial) {
            thread.running = None;
        }
    }
}

/// What the C library calls at the end of a thread.
unsafe extern "C" fn at_end(_: *mut c_void) {
    run_those(|_, _| true);
    let serial = SERIAL.replace(0);
    lock().threads.retain(|thread| thread.serial != serial);
}

/// The C library's own.
///
/// # Safety
///
/// Its contract.
unsafe fn next(destructor: Destructor, object: *mut c_void, of: *mut c_void) -> c_int {
    // SAFETY: `take_over` has stored it before anybody could come here; the caller's promise.
    unsafe { mem::transmute::<*mut c_void, Register>(NEXT.load(Relaxed))(destructor, object, of) }
}

/// What objects call instead of the C library's function.
unsafe extern "C" fn register(
    destructor: Destructor,
    object: *mut c_void,
    of: *mut c_void,
) -> c_int {
    if keep(Entry { destructor, object, of: of as usize }) {
        return 0;
    }
    // SAFETY: the same contract.
    unsafe { next(destructor, object, of) }
}

/// Keeps it. False: it belongs to no home, or there is no memory.
fn keep(entry: Entry) -> bool {
    static SERIALS: AtomicUsize = AtomicUsize::new(1);
    let mut locals = lock();
    if !locals.homes.iter().any(|home| home.range.contains(&entry.of)) {
        return false;
    }
    if SERIAL.get() == 0 {
        drop(locals);
        // The C library's function takes the dynamic linker's lock. Any address of ours says whose it is.
        // SAFETY: this library stays.
        if unsafe { next(at_end, ptr::null_mut(), (&raw const LOCALS).cast_mut().cast()) } != 0 {
            return false;
        }
        // Relaxed: a number that no other thread gets.
        SERIAL.set(SERIALS.fetch_add(1, Relaxed));
        locals = lock();
    }
    let serial = SERIAL.get();
    if locals.thread(serial).is_none() {
        if locals.threads.try_reserve(1).is_err() {
            return false;
        }
        let (entries, running) = (Vec::new(), None);
        locals.threads.push(Thread { serial, number: thread_number(), entries, running });
    }
    let entries = &mut locals.thread(serial).expect("it is there, or was put there").entries;
    let has_room = entries.try_reserve(1).is_ok();
    if has_room {
        entries.push(entry);
    }
    has_room
}

/// In a child process: the other threads are not in it.
pub(crate) fn after_fork() {
    let mut locals = lock();
    locals.threads.retain(|thread| thread.serial == SERIAL.get());
    locals.threads.iter_mut().for_each(|thread| thread.number = thread_number());
}
