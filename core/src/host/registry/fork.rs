//! A fork must not leave a host's lock held for ever in the child.
//!
//! The lock is held for moments, so the forking thread takes the locks of all hosts, and both
//! sides let go of them. What other threads were in the middle of, a load or a drain, stays in
//! the middle in the child: nothing is released wrongly, and who asks is told (`EBUSY`).

use super::notify::Entries;
use super::{Inner, Registry, prepare_thread};
use std::cell::UnsafeCell;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};

type Hosts = Vec<Weak<Registry>>;

static HOSTS: Mutex<Hosts> = Mutex::new(Vec::new());

/// The locks that a fork under way holds.
struct LocksOfFork(UnsafeCell<Option<Locks>>);

struct Locks {
    /// Before their owners below, which is the order they are dropped in.
    _hosts: Vec<MutexGuard<'static, Inner>>,
    _chains: Vec<Entries<'static>>,
    _owners: Vec<Arc<Registry>>,
    _registry: MutexGuard<'static, Hosts>,
}

// SAFETY: only the thread that holds `HOSTS` looks inside.
unsafe impl Sync for LocksOfFork {}

static HELD: LocksOfFork = LocksOfFork(UnsafeCell::new(None));

/// Has forks leave `host` in order.
pub(crate) fn register(host: &Arc<Registry>) {
    static HANDLERS: Once = Once::new();
    HANDLERS.call_once(|| {
        // SAFETY: the handlers stay, as this library does. Without memory for them, forks
        // are as they would be without this file.
        unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after)) };
    });
    let mut hosts = HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
    hosts.retain(|host| host.strong_count() > 0);
    hosts.push(Arc::downgrade(host));
}

unsafe extern "C" fn before() {
    prepare_thread();
    let registry = HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
    let owners: Vec<_> = registry.iter().filter_map(Weak::upgrade).collect();
    // SAFETY: the owner stays in `Locks` for longer than its locks.
    let all = || owners.iter().map(|host| -> &'static Registry { unsafe { &*Arc::as_ptr(host) } });
    // All of the one kind before all of the other, which is the order everywhere.
    let chains = all().map(|host| host.chain.lock()).collect();
    let hosts = all().map(|host| host.lock()).collect();
    // SAFETY: we hold HOSTS, and will until `after`.
    unsafe {
        *HELD.0.get() =
            Some(Locks { _hosts: hosts, _chains: chains, _owners: owners, _registry: registry })
    };
}

unsafe extern "C" fn after() {
    // SAFETY: this thread, in either process, has held HOSTS since `before`.
    drop(unsafe { (*HELD.0.get()).take() });
}
