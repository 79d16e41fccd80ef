//! How the host takes a lock. `mod.rs` has a table of all of them, and `registry/fork.rs` a list.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Nothing panics half-way under a lock (H3).
pub(crate) fn hold<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
