//! What a host knows: its table, its lock, and what that guards.

mod fork;
pub(crate) mod life;
mod list;
pub(crate) mod module;
pub(crate) mod name;
pub(crate) mod notify;
pub(crate) mod record;
mod table;

use super::error::{Error, error};
use super::object::linked::{Linked, Place};
use super::object::resident::Unloaded;
use crate::misuse::Caller;
use arc_swap::ArcSwap;
use life::{Life, Lives, Loading};
use module::{Module, Reference};
use name::NAME_LEN;
use notify::Chain;
use record::{How, Loaded, Record, State};
use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::process;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use table::Table;

/// Which thread it is, among those that live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadId(libc::pthread_t);

/// Not Rust's, which a thread no longer has when its last destructors run.
pub(crate) fn this_thread_id() -> ThreadId {
    // SAFETY: has no requirements.
    ThreadId(unsafe { libc::pthread_self() })
}

/// What a host is made of. C's `struct module_host` is this.
pub struct Registry {
    /// Written under the lock alone.
    table: ArcSwap<Table>,
    inner: Mutex<Inner>,
    /// A load has ended, in one way or the other.
    changed: Condvar,
    pub(crate) chain: Chain,
}

/// What the lock guards, beside the writing of the table, of states and of links. It is
/// never held while code of a module or of a notifier runs.
#[derive(Default)]
pub(crate) struct Inner {
    serial: u64,
    /// What is done with those that are not simply in service.
    pub(crate) lives: Lives,
    /// Threads that wait for the end of somebody's load.
    waiting: Vec<(ThreadId, Arc<Record>)>,
    /// What `symbol_get` has given out and nobody has given back.
    pub(crate) symbols: Vec<Given>,
    pub(crate) last_unloaded: Option<LastUnloaded>,
    /// An unload was forced.
    pub(crate) tainted: bool,
    /// Unloaded, their exit functions run, and still in memory: not to be depended on.
    pub(crate) residents: HashMap<Linked, (String, Place)>,
}

/// What `symbol_get` has given out.
pub(crate) struct Given {
    pub(crate) symbol: String,
    pub(crate) address: usize,
    pub(crate) record: Arc<Record>,
}

/// What became of the module that was unloaded last.
#[derive(Clone, Debug)]
pub struct LastUnloaded {
    /// What it was called.
    pub name: String,
    /// Whether it is gone from memory, and if not, why.
    pub outcome: Unloaded,
}

impl fmt::Display for LastUnloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Unloaded::Unmapped => write!(f, "{} unmapped", self.name),
            Unloaded::Resident(why) => write!(f, "{} resident: {why}", self.name),
        }
    }
}

/// A thread's first look at any table registers a thread-local with the C library, which takes
/// the dynamic linker's lock. Whoever has that may be waiting for a lock of ours (H6): so this
/// comes before those.
pub(crate) fn prepare_thread() {
    // Not of (): where an Arc of nothing points, behind its counts, leak checkers do not look.
    static ANY: LazyLock<ArcSwap<bool>> = LazyLock::new(ArcSwap::default);
    drop(ANY.load());
}

impl Registry {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        prepare_thread();
        // Nothing under the lock panics half-way; see H3.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host without modules.
    pub(crate) fn new() -> Arc<Self> {
        Linked::prepare();
        let registry = Arc::new(Self {
            table: ArcSwap::from_pointee(Table::default()),
            inner: Mutex::default(),
            changed: Condvar::new(),
            chain: Chain::default(),
        });
        fork::register(&registry);
        registry
    }

    /// The module of that name, with a reference, without a lock.
    pub(crate) fn find_get(&self, name: &str, caller: Caller) -> Option<Reference> {
        let mut table = self.table();
        loop {
            let record = table.visible(name)?;
            // H1 begins here: while the snapshot is held, so is the record.
            if record.try_get(caller) {
                // SAFETY: the reference was taken just now.
                return Some(unsafe { Reference::from_raw(Arc::as_ptr(record)) });
            }
            // It is going; or it was replaced between our two steps, and the one in its place
            // was published before its door was shut. Each turn takes one replacement.
            let now = self.table();
            if now.visible(name).is_none_or(|now| now == record) {
                return None;
            }
            table = now;
        }
    }

    /// The module of that name, or `ENOENT`.
    pub(crate) fn visible(&self, name: &str) -> Result<Arc<Record>, Error> {
        self.table().visible(name).cloned().ok_or_else(|| {
            let hint = match name.len() {
                0 => "; the name is empty".to_owned(),
                NAME_LEN.. => format!("; names have at most {} bytes", NAME_LEN - 1),
                _ => String::new(),
            };
            error!(libc::ENOENT, "there is no module '{name}'{hint}")
        })
    }

    /// What is visible, newest first.
    pub(crate) fn modules(&self) -> Vec<Module> {
        self.table().newest_first().into_iter().cloned().map(Module).collect()
    }

    /// `EBUSY` says what there is.
    pub(crate) fn check_empty(&self) -> Result<(), Error> {
        let inner = self.lock();
        let table = self.table();
        let out = inner.lives.iter().filter(|(record, _)| table.get(record.name()) != Some(record));
        // A replacement that is being made ready, or what was taken out while it was held.
        let (new, held): (Vec<_>, Vec<_>) =
            out.partition(|(_, life)| matches!(life, Life::Loading(_)));
        let modules = table.len() + new.len();
        if modules + held.len() == 0 {
            return Ok(());
        }
        let first = table.iter().next().or(held.first().map(|(record, _)| record));
        Err(error!(
            libc::EBUSY,
            "the host still has modules: {modules}, and {} that are unloaded and held{}; \
                 unload them first, or let their holders finish",
            held.len(),
            first.map(|record| format!(" ('{}' is one)", record.name())).unwrap_or_default()
        ))
    }

    /// The table as it is now.
    pub(crate) fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    /// A new record, with which this thread begins a load.
    pub(crate) fn begin_loading(
        self: &Arc<Self>,
        inner: &mut Inner,
        name: &str,
        path: &Path,
        how: How,
        soname: Vec<u8>,
    ) -> Result<Arc<Record>, Error> {
        let serial = inner.next_serial();
        let record = Record::new(Arc::downgrade(self), serial, name, path, how, soname)?;
        inner.lives.set(&record, Life::Loading(Loading::begin()));
        Ok(record)
    }

    /// Tells those who wait that a load has ended, which the lock says already.
    pub(crate) fn load_has_ended(&self, _lock: &mut Inner) {
        self.changed.notify_all();
    }

    /// Puts a module into the table, in the place of whatever has its name. The lock is the proof
    /// that nobody else writes the table.
    pub(crate) fn enlist(&self, _lock: &mut Inner, record: &Arc<Record>) {
        self.table.store(Arc::new(self.table().with(record)));
    }

    /// Takes a module out of the table, if it is in it.
    pub(crate) fn unlist(&self, _lock: &mut Inner, record: &Record) {
        if self.table().get(record.name()).is_some_and(|there| **there == *record) {
            self.table.store(Arc::new(self.table().without(record)));
        }
    }

    /// Waits until nobody is loading `record`, for as long as `limit` says.
    pub(crate) fn wait_for_load<'a>(
        &self,
        mut inner: MutexGuard<'a, Inner>,
        record: &Arc<Record>,
        limit: Option<Duration>,
    ) -> Result<MutexGuard<'a, Inner>, Error> {
        let me = this_thread_id();
        let deadline = limit.map(|limit| Instant::now() + limit);
        while let Some(loading) = inner.lives.loading(record) {
            let name = record.name();
            if loading.process != process::id() {
                return Err(error!(
                    libc::EBUSY,
                    "module '{name}' was being loaded when this process forked, by a thread that is not here"
                ));
            }
            if inner.would_wait_for(me, record) {
                return Err(error!(
                    libc::EDEADLK,
                    "module '{name}' is waiting for this thread, which would wait for its load to end; let its init function return first"
                ));
            }
            let left = match deadline.map(|d| d.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Err(inner.still_loading(record)),
                left => left.unwrap_or(Duration::from_secs(3600)),
            };
            inner.waiting.push((me, record.clone()));
            inner =
                self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
            let at = inner.waiting.iter().position(|(thread, _)| *thread == me);
            inner.waiting.swap_remove(at.expect("pushed above"));
        }
        Ok(inner)
    }

    /// A load has its object open.
    pub(crate) fn set_loaded(&self, record: &Record, loaded: Loaded) {
        let _lock = self.lock();
        record.set_loaded(loaded);
        self.changed.notify_all();
    }

    /// Waits for loads that are opening an object of one of these names, other than `user`'s, or
    /// until `deadline`. Says whether there were any.
    pub(crate) fn wait_for_opening(
        &self,
        user: &Record,
        names: &[Vec<u8>],
        deadline: Instant,
    ) -> bool {
        let inner = self.lock();
        let is_opening = |(record, loading): (&Arc<Record>, &Loading)| {
            **record != *user
                && loading.thread != this_thread_id()
                && record.loaded().is_none()
                && names.contains(&record.soname)
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !inner.lives.loads().any(is_opening) {
            return false;
        }
        drop(self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner));
        true
    }

    /// The module that an object of the dynamic linker's is, among all that are open.
    pub(crate) fn owner(&self, inner: &Inner, linked: Linked) -> Option<Arc<Record>> {
        let table = self.table();
        table
            .iter()
            .chain(inner.lives.iter().map(|(record, _)| record))
            .find(|record| record.loaded().is_some_and(|loaded| loaded.object.linked == linked))
            .cloned()
    }
}

impl Inner {
    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Whether `record`'s load waits, through however many others, for thread `me`.
    fn would_wait_for(&self, me: ThreadId, record: &Arc<Record>) -> bool {
        let mut record = record;
        // At most as many steps as there are loads: a cycle would include us.
        for _ in 0..=self.lives.loads().count() {
            let Some(loading) = self.lives.loading(record) else { return false };
            if loading.thread == me {
                return true;
            }
            match self.waiting.iter().find(|(thread, _)| *thread == loading.thread) {
                Some((_, next)) => record = next,
                None => return false,
            }
        }
        false
    }

    /// EBUSY for a module that is not live yet.
    pub(crate) fn still_loading(&self, record: &Record) -> Error {
        let name = record.name();
        let Some(loading) = self.lives.loading(record) else {
            return error!(libc::EBUSY, "module '{name}' is being loaded");
        };
        let what =
            if record.state() == State::Coming { "in its init function" } else { "being opened" };
        let wait = if loading.thread == this_thread_id() {
            "by this very thread; let it return first".to_owned()
        } else if loading.process != process::id() {
            "and the thread that loads it was left behind by fork".to_owned()
        } else {
            format!(
                "since {:.1} s; it can be unloaded once that returns",
                loading.since.elapsed().as_secs_f64()
            )
        };
        error!(libc::EBUSY, "module '{name}' is {what}, {wait}")
    }
}
