//! The opening lock: one thread in the process at a time brings an object in or takes one out.
//!
//! The C library has a lock of its own for that. This one is held for longer: from the look at what is
//! loaded, through dlopen(3), until the host knows the object and what it is bound to. So no thread finds
//! a module's object that no host knows yet.
//!
//! Constructors and destructors run meanwhile, and may load and unload: the thread that has the lock
//! takes it again. It never waits for another thread, which may want the lock; a call that would have to
//! wait is refused (`EDEADLK`).
//!
//! # The dynamic linker's lock
//!
//! A thread in a constructor that an ordinary dlopen(3) has called holds the linker's lock, and asks for
//! ours. Another thread may hold ours and want the linker's. Taking the linker's lock first is not possible
//! (only dlopen(3) and dlclose(3) take it), and going on without ours would let two threads open one file
//! as two modules. So the first thread gets `EDEADLK`, because the other one waits for it
//! ([`waits`](super::waits)). If no thread has ours, the first thread takes it, and its load works as any
//! other.

use super::waits::{self, ThreadId, Waiting, Why, moment};
use crate::host::error::{Error, error};
use crate::host::locks::hold;
use std::marker::PhantomData;
use std::sync::{Condvar, Mutex, MutexGuard};

/// The thread that has the lock, and how many times it has taken it.
pub(super) type Opener = Option<(ThreadId, usize)>;

pub(super) static OPENER: Mutex<Opener> = Mutex::new(None);
static CHANGED: Condvar = Condvar::new();

/// Guards the lock's state; held for moments.
fn lock() -> MutexGuard<'static, Opener> {
    hold(&OPENER)
}

/// `EDEADLK` if another thread has the opening lock and waits for this one, which then has the dynamic
/// linker's lock.
pub(crate) fn check_not_awaited() -> Result<(), Error> {
    let (mut opener, mut waiting) = (lock(), Waiting::default());
    while let Some((thread, _)) = *opener {
        if thread == ThreadId::this() || waiting.look(thread).map_err(|_| deadlock())?.is_some() {
            break;
        }
        opener = moment(&CHANGED, opener);
    }
    Ok(())
}

fn deadlock() -> Error {
    Why::deadlock("another thread is loading or unloading an object")
}

/// The opening lock, held by this thread.
pub(crate) struct Opening(PhantomData<*const ()>);

impl Opening {
    /// Waits for this thread's turn. `EDEADLK` if the thread that has the lock waits for this one; `EBUSY` if a
    /// fork has left that thread behind, and with it the dynamic linker's lock.
    pub(crate) fn begin() -> Result<Self, Error> {
        let me = ThreadId::this();
        let (mut opener, mut waiting) = (lock(), Waiting::default());
        loop {
            match *opener {
                None => *opener = Some((me, 1)),
                Some((thread, times)) if thread == me => *opener = Some((me, times + 1)),
                Some((thread, _)) if thread.is_left_behind() => {
                    return Err(error!(
                        libc::EBUSY,
                        "this process forked while a thread, which is not here, was loading or \
                         unloading an object; the dynamic linker cannot be used any more, until exec"
                    ));
                }
                Some((thread, _)) => {
                    let turn = waiting.turn(&CHANGED, opener, thread);
                    opener = turn.map_err(|_| deadlock())?;
                    continue;
                }
            }
            return Ok(Self(PhantomData));
        }
    }

    /// Whether this thread is in a constructor or a destructor, or in something that one of these calls.
    pub(crate) fn is_mine() -> bool {
        lock().is_some_and(|(thread, _)| thread == ThreadId::this())
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut opener = lock();
        *opener = match *opener {
            Some((thread, times)) if times > 1 => Some((thread, times - 1)),
            _ => None,
        };
        waits::has_come();
        CHANGED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn nobody_waits_for_what_has_come() {
        let (opening, me) = (Opening::begin().unwrap(), ThreadId::this());
        let other = thread::spawn(|| drop(Opening::begin()));
        let is_awaited = || waits::lock().iter().any(|(_, whom)| *whom == me);
        while !is_awaited() {
            thread::yield_now();
        }
        drop(opening);
        assert!(!is_awaited(), "the other thread need not have run for that");
        other.join().unwrap();
    }
}
