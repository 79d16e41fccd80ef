//! A fork must not leave a host's lock held for ever in the child.
//!
//! Each lock is held for moments, so the forking thread takes all of them, in their order, and both
//! processes release them. A load or a drain that another thread was in the middle of stays unfinished in
//! the child: nothing is released wrongly, and calls for that module return `EBUSY`.

use super::{Registry, ends, opening, track, waits};
use crate::host::gate;
use crate::host::locks::hold;
use crate::host::object::{linked, locals, open, stale};
use crate::host::tombstone;
use std::any::Any;
use std::cell::UnsafeCell;
use std::mem;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, Once, Weak};

static HOSTS: Mutex<Vec<Weak<Registry>>> = Mutex::new(Vec::new());

/// What the forking thread holds: the guards of the locks, and then the hosts that some of these are in.
struct HeldByFork(UnsafeCell<Vec<Box<dyn Any>>>);

// SAFETY: only the thread that holds the locks looks inside.
unsafe impl Sync for HeldByFork {}

static HELD: HeldByFork = HeldByFork(UnsafeCell::new(Vec::new()));

/// The thread that forks and holds the locks, as the C library calls it; 0: none.
static FORKS: AtomicUsize = AtomicUsize::new(0);

/// This thread, as the C library calls it.
pub fn this_thread() -> usize {
    // SAFETY: has no requirements.
    unsafe { libc::pthread_self() as usize }
}

/// Whether this thread forks, and is in a handler of the program's: it would wait for its own locks.
pub fn is_under_way() -> bool {
    // Relaxed, wherever it is read or written: it is this thread's number only if this thread has written it.
    FORKS.load(Relaxed) == this_thread()
}

/// Makes forks leave hosts, and the list of ending threads, in order.
pub(crate) fn prepare() {
    static HANDLERS: Once = Once::new();
    HANDLERS.call_once(|| {
        // SAFETY: the handlers stay, as this library does. Without memory for them, forks
        // are as they would be without this file.
        unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after_in_child)) };
    });
}

/// Makes forks leave `host` in order.
pub(crate) fn register(host: &Arc<Registry>) {
    prepare();
    let mut hosts = hold(&HOSTS);
    hosts.retain(|host| host.strong_count() > 0);
    hosts.push(Arc::downgrade(host));
}

unsafe extern "C" fn before() {
    let mut held: Vec<Box<dyn Any>> = Vec::new();
    macro_rules! hold_all {
        ($($lock:expr),+) => { $(held.push(Box::new(hold(&$lock)));)+ };
    }
    hold_all![linked::BROUGHT, open::KNOWN, stale::SEEN, linked::LIST];
    let registry = hold(&HOSTS);
    let owners: Vec<_> = registry.iter().filter_map(Weak::upgrade).collect();
    // SAFETY: the owners stay in `HELD` for longer than their locks.
    let all = || owners.iter().map(|host| -> &'static Registry { unsafe { &*Arc::as_ptr(host) } });
    // All of the one kind before all of the other, which is the order everywhere.
    all().for_each(|host| held.push(Box::new(host.chain.lock())));
    all().for_each(|host| held.push(Box::new(host.lock())));
    hold_all![gate::GATES, tombstone::WRITERS, ends::LIST, locals::LOCALS];
    hold_all![opening::OPENER, track::LOCK, waits::WAITS];
    held.push(Box::new(registry));
    held.push(Box::new(owners));
    // SAFETY: we hold the locks, and will until `after`.
    unsafe { *HELD.0.get() = held };
    FORKS.store(this_thread(), Relaxed);
}

unsafe extern "C" fn after() {
    FORKS.store(0, Relaxed);
    // SAFETY: this thread, in either process, has held the locks since `before`.
    drop(mem::take(unsafe { &mut *HELD.0.get() }));
}

unsafe extern "C" fn after_in_child() {
    // SAFETY: the same contract.
    unsafe { after() };
    locals::after_fork();
}
