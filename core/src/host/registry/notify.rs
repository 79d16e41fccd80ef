//! Notifiers, which are told of modules that come and go. Linux: `register_module_notifier`.

use super::module::Module;
use super::record::State;
use super::waits::{self, ThreadId, Waiting, Why};
use crate::host::error::Error;
use crate::host::locks::hold;
use crate::tool;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// What a notifier is: it is told of a module's new state, and can refuse a module that is
/// coming.
pub type Notifier = dyn Fn(&Module, State) -> Result<(), Error> + Send + Sync;

/// Identifies a registration, to unregister it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotifierId {
    /// Given by the host.
    Number(u64),
    /// Chosen by the caller: C's function and its data.
    #[doc(hidden)]
    Key(usize, usize),
}

struct Entry {
    /// The entry's own number, because an identity may be registered again.
    serial: u64,
    id: NotifierId,
    priority: i32,
    /// `None` once it is unregistered: nobody calls it any more, and the entry stays until all threads have
    /// left it.
    notifier: Option<Arc<Notifier>>,
    /// The threads that are in it, once for each call.
    running: Vec<ThreadId>,
}

impl Entry {
    /// A thread of this process that is in it, and is not this one.
    fn other(&self) -> Option<ThreadId> {
        let is_other =
            |thread: &&ThreadId| !thread.is_left_behind() && **thread != ThreadId::this();
        self.running.iter().find(is_other).copied()
    }
}

/// The notifiers of a host, the highest priority first, and of equal ones the oldest. Its
/// lock is never held while one runs, or is dropped.
#[derive(Default)]
pub(crate) struct Chain {
    entries: Mutex<Entries>,
    ended: Condvar,
}

/// What the lock guards.
#[derive(Default)]
pub(crate) struct Entries {
    all: Vec<Entry>,
    last_serial: u64,
}

impl Entries {
    fn registered(&mut self, id: NotifierId) -> Option<&mut Entry> {
        self.all.iter_mut().find(|entry| entry.id == id && entry.notifier.is_some())
    }

    /// Removes what is unregistered and left by all.
    fn sweep(&mut self) {
        self.all.retain(|entry| entry.notifier.is_some() || !entry.running.is_empty());
    }
}

impl Chain {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Entries> {
        hold(&self.entries)
    }

    pub(crate) fn register(
        &self,
        id: NotifierId,
        priority: i32,
        notifier: Box<Notifier>,
    ) -> Result<(), Error> {
        // What is refused is dropped without the lock.
        let mut notifier = Some(Arc::from(notifier));
        let mut entries = self.lock();
        if entries.registered(id).is_some() {
            drop(entries);
            let why = "that notifier is registered already, with the same data";
            return Err(Error::new(libc::EEXIST, why));
        }
        entries.last_serial += 1;
        let serial = entries.last_serial;
        let at = entries.all.partition_point(|entry| entry.priority >= priority);
        let notifier = notifier.take();
        entries.all.insert(at, Entry { serial, id, priority, notifier, running: Vec::new() });
        Ok(())
    }

    /// Unregisters it, and waits until no other thread is in it, by this registration or an earlier one.
    /// `EDEADLK` if such a thread waits for this one: then no new call begins, and it is dropped when that
    /// thread has left it.
    pub(crate) fn unregister(&self, id: NotifierId) -> Result<(), Error> {
        let mut entries = self.lock();
        let Some(notifier) = entries.registered(id).and_then(|entry| entry.notifier.take()) else {
            drop(entries);
            let why = "that notifier is not registered with this host";
            return Err(Error::new(libc::ENOENT, why));
        };
        let in_it = |entries: &Entries| {
            entries.all.iter().filter(|entry| entry.id == id).find_map(Entry::other)
        };
        let mut waiting = Waiting::default();
        while let Some(thread) = in_it(&entries) {
            entries = waiting.turn(&self.ended, entries, thread).map_err(|_| {
                Why::deadlock("the notifier is called no more; but another thread is still in it")
            })?;
        }
        entries.sweep();
        drop(entries);
        // It is dropped here, unless this thread is in it: every thread that has left it has dropped its share.
        drop(notifier);
        Ok(())
    }

    /// Tells every notifier of `state`, and ignores what they return.
    pub(crate) fn tell(&self, module: &Module, state: State) {
        for serial in self.serials() {
            let _ = self.call(serial, module, state);
        }
    }

    /// Tells every notifier that `module` is coming. If one refuses it, `refused` makes it GOING, and the
    /// notifiers before that one are told.
    pub(crate) fn ask(&self, module: &Module, refused: impl FnOnce()) -> Result<(), Error> {
        let serials = self.serials();
        for (told, &serial) in serials.iter().enumerate() {
            if let Err(refusal) = self.call(serial, module, State::Coming) {
                refused();
                for &serial in &serials[..told] {
                    let _ = self.call(serial, module, State::Going);
                }
                return Err(refusal);
            }
        }
        Ok(())
    }

    fn serials(&self) -> Vec<u64> {
        self.lock().all.iter().map(|entry| entry.serial).collect()
    }

    fn call(&self, serial: u64, module: &Module, state: State) -> Result<(), Error> {
        let find =
            |entries: &mut Entries| entries.all.iter().position(|entry| entry.serial == serial);
        let me = ThreadId::this();
        let notifier = {
            let mut entries = self.lock();
            let Some(at) = find(&mut entries) else { return Ok(()) };
            let entry = &mut entries.all[at];
            let Some(notifier) = entry.notifier.clone() else { return Ok(()) };
            entry.running.push(me);
            notifier
        };
        // A panic ends here, once it has been reported: the table must not stop half-way.
        let result = catch_unwind(AssertUnwindSafe(|| tool::outside(|| notifier(module, state))))
            .unwrap_or_else(|_| Err(Error::refuse(libc::ECANCELED, "the notifier panicked")));
        // Before this thread is out of it, so that whoever unregisters it is the last who has it.
        drop(notifier);
        let mut entries = self.lock();
        let at = find(&mut entries).expect("it stays while this thread is in it");
        let running = &mut entries.all[at].running;
        // In the child of a fork it is the parent's thread that is in it.
        if let Some(at) = running.iter().rposition(|thread| *thread == me) {
            running.swap_remove(at);
        }
        entries.sweep();
        waits::has_come();
        drop(entries);
        self.ended.notify_all();
        result
    }
}
