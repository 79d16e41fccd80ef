//! What a host knows: its table, its lock, and what that guards.

pub(crate) mod ends;
pub(crate) mod fork;
pub(crate) mod life;
pub(crate) mod list;
pub(crate) mod module;
pub(crate) mod name;
pub(crate) mod notify;
pub(crate) mod opening;
pub(crate) mod record;
mod table;
pub(crate) mod track;
pub(crate) mod waits;

use super::error::{Error, Seconds, error};
use super::gate::Gate;
use super::locks::hold;
use super::object::linked::Linked;
use super::object::resident::Unloaded;
use super::tombstone::{self, AfterUnload};
use crate::counter::published::{Published, Reading, Writer};
use crate::misuse::Caller;
use life::{Life, Lives, Loading};
use list::Resident;
use module::{Module, Reference};
use name::NAME_LEN;
use notify::Chain;
use opening::Opening;
use record::{How, Loaded, Record, State};
use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use table::Table;
use waits::{ThreadId, Waiting, Why};

/// What a host is made of. C's `struct module_host` is this.
pub struct Registry {
    table: Published<Table>,
    inner: Mutex<Inner>,
    /// A load has ended, in one way or the other.
    changed: Condvar,
    pub(crate) chain: Chain,
    /// An [`AfterUnload`].
    after_unload: AtomicU32,
}

/// What the host's lock guards. Some of what it guards is elsewhere: who writes the table or a module's state
/// holds the lock, but who reads these does not; and a module's links are in its record. The lock is never held
/// while code of a module or of a notifier runs.
pub(crate) struct Inner {
    serial: u64,
    /// The right to write the table.
    writer: Writer,
    /// What is being done with the modules that are not simply in service.
    pub(crate) lives: Lives,
    /// What `symbol_get` has given out and nobody has given back.
    pub(crate) symbols: Vec<Given>,
    /// The gates that lead to whichever module has a name: by that name, by the symbol, and by what a refused
    /// call returns.
    pub(crate) following: HashMap<String, HashMap<String, HashMap<usize, Gate>>>,
    pub(crate) last_unloaded: Option<LastUnloaded>,
    /// Where modules are looked for that are asked for by name, if that was set.
    pub(crate) search: Option<Vec<PathBuf>>,
    /// How many bytes of residents there may be for a load to be let in, if that was set.
    pub(crate) most_resident: Option<usize>,
    /// An unload was forced.
    pub(crate) tainted: bool,
    /// The modules whose objects are open.
    pub(crate) objects: HashMap<Linked, Arc<Record>>,
    /// What was unloaded and closed, and is still in memory.
    pub(crate) residents: HashMap<Linked, Resident>,
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

impl Registry {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        hold(&self.inner)
    }

    /// A host without modules.
    pub(crate) fn new() -> Arc<Self> {
        Linked::prepare();
        let (table, writer) = Published::new(Table::default());
        let inner = Inner {
            serial: 0,
            writer,
            lives: Lives::default(),
            symbols: Vec::new(),
            following: HashMap::new(),
            last_unloaded: None,
            most_resident: None,
            tainted: false,
            objects: HashMap::new(),
            residents: HashMap::new(),
            search: None,
        };
        let registry = Arc::new(Self {
            table,
            inner: Mutex::new(inner),
            changed: Condvar::new(),
            chain: Chain::default(),
            after_unload: AtomicU32::new(AfterUnload::by_environment() as u32),
        });
        tombstone::reports_by_environment();
        fork::register(&registry);
        registry
    }

    pub(crate) fn after_unload(&self) -> AfterUnload {
        // Relaxed, as in `set_after_unload`: whoever sets it while others unload has no order with them.
        AfterUnload::of_number(self.after_unload.load(Relaxed)).expect("stored as one")
    }

    pub(crate) fn set_after_unload(&self, what: AfterUnload) {
        self.after_unload.store(what as u32, Relaxed);
    }

    /// The module of that name, if it is live, with a reference. Without a lock.
    pub(crate) fn find_get(&self, name: &str, caller: Caller) -> Option<Reference> {
        let mut table = self.table();
        loop {
            let record = table.get(name)?;
            // H1 begins here: while the snapshot is held, so is the record.
            if record.state() == State::Live && record.try_get(caller) {
                // SAFETY: the reference was taken just now.
                return Some(unsafe { Reference::from_raw(Arc::as_ptr(record)) });
            }
            // It is not live, or was replaced between our two steps: then the one in its place was
            // published before it was GOING or closed. Each turn takes one replacement.
            let now = self.table();
            if now.get(name).is_none_or(|now| now == record) {
                return None;
            }
            table = now;
        }
    }

    /// The module of that name, if it is live.
    pub(crate) fn find(&self, name: &str) -> Option<Module> {
        loop {
            let record = self.table().get(name)?.clone();
            if record.state() == State::Live {
                return Some(Module(record));
            }
            // As in find_get().
            if self.table().get(name) == Some(&record) {
                return None;
            }
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

    /// `EBUSY` says what there is, and how many.
    pub(crate) fn check_empty(&self) -> Result<(), (usize, Error)> {
        let (modules, one, left) = {
            let inner = self.lock();
            let table = self.table();
            let is_out = |(record, _): &&(Arc<Record>, _)| table.get(record.name()) != Some(record);
            let out = inner.lives.iter().filter(is_out);
            // A replacement that is being made ready, or what was taken out and stays for somebody.
            let (new, left): (Vec<_>, Vec<_>) =
                out.partition(|(_, life)| matches!(life, Life::Loading(_)));
            let stays =
                |(record, life): &(Arc<Record>, Life)| (record.clone(), life.residency(record));
            let left: Vec<_> = left.into_iter().map(stays).collect();
            (table.len() + new.len(), table.iter().next().cloned(), left)
        };
        if modules + left.len() == 0 {
            return Ok(());
        }
        let mut why = format!("the host still has modules: {modules}");
        if let Some(one) = one {
            why.push_str(&format!(" ('{}' is one), which have to be unloaded first", one.name()));
        }
        let number = left.len();
        if let Some((first, residency)) = left.into_iter().next() {
            why.push_str(&format!(
                ", and {number} that are unloaded, of which '{}' is still mapped: {}",
                first.name(),
                first.with_names(residency)
            ));
        }
        Err((modules + number, Error::new(libc::EBUSY, why)))
    }

    /// The table as it is now.
    pub(crate) fn table(&self) -> Reading<'_, Table> {
        self.table.read()
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

    /// Tells those who wait that a load or an unload has ended, which the lock says already.
    pub(crate) fn has_changed(&self, _lock: &mut Inner) {
        waits::has_come();
        self.changed.notify_all();
    }

    /// Waits for that, or for a moment. `EDEADLK` if `thread`, which is at the module, cannot be waited
    /// for, and `ETIMEDOUT` after the deadline.
    pub(crate) fn wait_for_change(
        &self,
        inner: MutexGuard<'_, Inner>,
        thread: ThreadId,
        name: &str,
        waiting: &mut Waiting,
    ) -> Result<(), Error> {
        let turn = match Opening::is_mine() {
            true => Err(Why::Deadlock),
            false => waiting.turn(&self.changed, inner, thread).map(drop),
        };
        let what = format!("module '{name}' is being loaded, unloaded or replaced");
        turn.map_err(|why| match why {
            Why::Deadlock => deadlock(&what, thread),
            Why::TimeIsUp => {
                error!(libc::ETIMEDOUT, "{what} by a thread, and was when the time was up")
            }
        })
    }

    /// The module whose object is at that address, with a reference, which succeeds as long as
    /// somebody holds one. Those that are in the table are found without a lock.
    pub(crate) fn get_by_address(
        &self,
        address: *const c_void,
        caller: Caller,
    ) -> Option<Reference> {
        let get = |record: &Arc<Record>| {
            let got = record.has_code(address) && record.get_if_held(caller);
            // SAFETY: the reference was taken just now.
            got.then(|| unsafe { Reference::from_raw(Arc::as_ptr(record)) })
        };
        // H1 begins here, as in find_get().
        let found = self.table().iter().find_map(get);
        // The table is read no more when the lock is taken: whoever has that may write.
        found.or_else(|| {
            let out: Vec<_> = self.lock().lives.iter().map(|(record, _)| record.clone()).collect();
            // Without the lock: a get may find a misuse, and report it.
            out.iter().find_map(get)
        })
    }

    /// Puts modules into the table, in one step, in the place of whatever has their names.
    pub(crate) fn enlist(&self, inner: &mut Inner, records: &[Arc<Record>]) {
        let next = self.table().with(records);
        self.table.write(&mut inner.writer, next);
    }

    /// Takes a module out of the table, if it is in it.
    pub(crate) fn unlist(&self, inner: &mut Inner, record: &Record) {
        let table = self.table();
        let next = match table.get(record.name()) {
            Some(there) if **there == *record => table.without(record),
            _ => return,
        };
        drop(table);
        self.table.write(&mut inner.writer, next);
    }

    /// Waits until nobody is loading `record`, for as long as `limit` says.
    pub(crate) fn wait_for_load<'a>(
        &'a self,
        mut inner: MutexGuard<'a, Inner>,
        record: &Arc<Record>,
        limit: Option<Duration>,
    ) -> Result<MutexGuard<'a, Inner>, Error> {
        let mut waiting = Waiting::until(limit.map(|limit| Instant::now() + limit));
        let mut time_is_up = false;
        while let Some(loading) = inner.lives.loading(record) {
            let (name, thread) = (record.name(), loading.thread);
            if time_is_up || thread.is_left_behind() {
                return Err(inner.busy(record));
            }
            let deadlock = || deadlock(&format!("module '{name}' is being loaded"), thread);
            if Opening::is_mine() {
                return Err(deadlock());
            }
            inner = match waiting.turn(&self.changed, inner, thread) {
                Ok(inner) => inner,
                Err(Why::Deadlock) => return Err(deadlock()),
                Err(Why::TimeIsUp) => {
                    // The lock was free for a moment, in which the load may have ended.
                    time_is_up = true;
                    self.lock()
                }
            };
        }
        Ok(inner)
    }

    /// A load has its object open.
    pub(crate) fn set_loaded(&self, record: &Arc<Record>, loaded: Loaded) {
        let mut inner = self.lock();
        inner.objects.insert(loaded.object.linked, record.clone());
        record.set_loaded(loaded);
    }

    /// The module that an object of the dynamic linker's is, among all that are open.
    pub(crate) fn owner(&self, linked: Linked) -> Option<Arc<Record>> {
        self.lock().objects.get(&linked).cloned()
    }
}

/// For a wait for the end of what `thread` does.
fn deadlock(what: &str, thread: ThreadId) -> Error {
    if thread == ThreadId::this() {
        return error!(libc::EDEADLK, "{what} by this very thread; let it return first");
    }
    Why::deadlock(&format!("{what} by a thread"))
}

impl Inner {
    pub(crate) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// EBUSY for a module that is not in service, or may be taken out of it: what is done with it, and by whom.
    pub(crate) fn busy(&self, record: &Record) -> Error {
        let name = record.name();
        let Some(life) = self.lives.of(record) else {
            return error!(libc::EBUSY, "module '{name}' is gone");
        };
        let what = match (life, record.state()) {
            (Life::Loading(_), State::Unformed) => "is being opened",
            (Life::Loading(_), State::Coming) => "is in its init function",
            (Life::Loading(_), _) => "is going, since it could not be loaded",
            (Life::Left(_) | Life::Found(..), _) => "is unloaded, and still mapped",
            _ => "is being unloaded or replaced",
        };
        let by = match (life, life.thread()) {
            (_, Some(by)) if by == ThreadId::this() => " by this very thread; let it return first",
            (_, Some(by)) if by.is_left_behind() => {
                " by a thread that is not here, since this process forked"
            }
            (_, Some(_)) => " by another thread",
            (Life::Begun(_), None) => " since an unload was begun; finish or cancel that",
            (_, None) => "",
        };
        let since = self.lives.loading(record).map_or(String::new(), |loading| {
            format!(" (for {} so far)", Seconds(loading.since.elapsed()))
        });
        error!(libc::EBUSY, "module '{name}' {what}{since}{by}")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Mode;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    /// A record of a module that nobody has opened.
    pub(crate) fn record(registry: &Arc<Registry>) -> Arc<Record> {
        let (mode, parameters) = (Mode::Atomic, Arc::default());
        let how = How { mode, copied: false, deletable: false, shared: false, parameters };
        Record::new(Arc::downgrade(registry), 1, "m", Path::new("m.so"), how, Vec::new()).unwrap()
    }

    #[test]
    fn a_load_that_ends_with_the_time_has_been_awaited() {
        let registry = Registry::new();
        let (record, done) = (record(&registry), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    registry.lock().lives.set(&record, Life::Loading(Loading::begin()));
                    registry.lock().lives.set_live(&record);
                }
            });
            let wait = |_| {
                let waited = registry.wait_for_load(registry.lock(), &record, Some(Duration::ZERO));
                waited.err().map(|error| error.to_string()).filter(|why| why.contains("gone"))
            };
            let gone = (0..500_000).find_map(wait);
            done.store(true, Relaxed);
            assert_eq!(gone, None);
        });
    }
}
