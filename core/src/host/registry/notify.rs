//! Who is told of modules that come and go. Linux: `register_module_notifier`.

use super::module::Module;
use super::record::State;
use super::{ThreadId, this_thread_id};
use crate::host::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// What a notifier is: it is told of a module's new state, and can refuse a module that is
/// coming.
pub type Notifier = dyn Fn(&Module, State) -> Result<(), Error> + Send + Sync;

/// What was registered, to take it back by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NotifierId {
    /// Given by the host.
    Number(u64),
    /// Chosen by the caller: C's function and its data.
    #[doc(hidden)]
    Key(usize, usize),
}

struct Entry {
    id: NotifierId,
    priority: i32,
    notifier: Arc<Notifier>,
    /// Nobody calls it any more; it stays until those are out who are in it.
    removed: bool,
    /// The threads that are in it, once for each call, and their process: a fork leaves
    /// the other threads behind.
    running: Vec<(ThreadId, u32)>,
}

/// The notifiers of a host, the highest priority first, and of equal ones the oldest. Its
/// lock is never held while one runs.
#[derive(Default)]
pub(crate) struct Chain {
    entries: Mutex<Vec<Entry>>,
    ended: Condvar,
}

/// What the lock guards.
pub(crate) struct Entries<'a>(MutexGuard<'a, Vec<Entry>>);

impl Entries<'_> {
    fn get(&mut self, id: NotifierId) -> Option<&mut Entry> {
        self.0.iter_mut().find(|entry| entry.id == id)
    }
}

fn me() -> (ThreadId, u32) {
    (this_thread_id(), process::id())
}

impl Chain {
    pub(crate) fn lock(&self) -> Entries<'_> {
        Entries(self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn register(
        &self,
        id: NotifierId,
        priority: i32,
        notifier: Box<Notifier>,
    ) -> Result<(), Error> {
        let mut entries = self.lock();
        if entries.get(id).is_some() {
            let why = "that notifier is registered already, with the same data";
            return Err(Error::new(libc::EEXIST, why));
        }
        let at = entries.0.partition_point(|entry| entry.priority >= priority);
        let notifier = Arc::from(notifier);
        let entry = Entry { id, priority, notifier, removed: false, running: Vec::new() };
        entries.0.insert(at, entry);
        Ok(())
    }

    /// Takes it out, and waits until no other thread is in it.
    pub(crate) fn unregister(&self, id: NotifierId) -> Result<(), Error> {
        let (thread, process) = me();
        let mut entries = self.lock();
        match entries.get(id) {
            Some(entry) if !entry.removed => entry.removed = true,
            _ => {
                let why = "that notifier is not registered with this host";
                return Err(Error::new(libc::ENOENT, why));
            }
        }
        let is_other = |&(t, p): &(ThreadId, u32)| p == process && t != thread;
        while entries.get(id).is_some_and(|entry| entry.running.iter().any(is_other)) {
            entries = Entries(self.ended.wait(entries.0).unwrap_or_else(PoisonError::into_inner));
        }
        let at = entries.0.iter().position(|entry| entry.id == id).expect("we alone remove it");
        let entry = entries.0.remove(at);
        // What it owns goes outside of the lock.
        drop(entries);
        drop(entry);
        Ok(())
    }

    /// Tells everybody of `state`, and heeds nobody.
    pub(crate) fn tell(&self, module: &Module, state: State) {
        for id in self.ids() {
            let _ = self.call(id, module, state);
        }
    }

    /// Tells everybody that `module` is coming. If one refuses it, `refused` makes it GOING, and
    /// those before it are told.
    pub(crate) fn ask(&self, module: &Module, refused: impl FnOnce()) -> Result<(), Error> {
        let ids = self.ids();
        for (told, &id) in ids.iter().enumerate() {
            if let Err(refusal) = self.call(id, module, State::Coming) {
                refused();
                for &id in &ids[..told] {
                    let _ = self.call(id, module, State::Going);
                }
                return Err(refusal);
            }
        }
        Ok(())
    }

    fn ids(&self) -> Vec<NotifierId> {
        self.lock().0.iter().map(|entry| entry.id).collect()
    }

    fn call(&self, id: NotifierId, module: &Module, state: State) -> Result<(), Error> {
        let notifier = match self.lock().get(id) {
            Some(entry) if !entry.removed => {
                entry.running.push(me());
                entry.notifier.clone()
            }
            _ => return Ok(()),
        };
        // A panic ends here, once it has been reported: the table must not stop half-way.
        let result = catch_unwind(AssertUnwindSafe(|| notifier(module, state)))
            .unwrap_or_else(|_| Err(Error::refuse(libc::ECANCELED, "the notifier panicked")));
        // Gone with the entry if it has unregistered itself.
        if let Some(entry) = self.lock().get(id) {
            if let Some(at) = entry.running.iter().rposition(|running| *running == me()) {
                entry.running.swap_remove(at);
            }
        }
        self.ended.notify_all();
        result
    }
}
