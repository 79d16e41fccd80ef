//! The host: its table, its lock, and what both are for.

use super::error::Error;
use super::linked::{Linked, Place};
use super::module::{Core, Links, Loaded, Module, Reference, State};
use super::notify::{Chain, Notifier, NotifierId};
use super::table::Table;
use super::thread::{ThreadId, this_thread_id};
use super::unload::{Unloaded, Zombie};
use super::{fork, list};
use crate::misuse::Caller;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use std::{mem, process};

/// What a host is made of. C's `struct module_host` is this.
pub struct Shared {
    /// Written under the lock alone.
    table: ArcSwap<Table>,
    inner: Mutex<Inner>,
    /// A load has ended, in one way or the other.
    changed: Condvar,
    pub(super) chain: Chain,
}

/// What the lock guards, beside the writing of the table, of states and of links. It is
/// never held while code of a module or of a notifier runs.
#[derive(Default)]
pub(super) struct Inner {
    serial: u64,
    notifiers: u64,
    /// Loads under way.
    loading: Vec<Loading>,
    /// Threads that wait for the end of somebody's load.
    waiting: Vec<(ThreadId, Arc<Core>)>,
    /// Not in the table any more, and not unmapped yet.
    pub(super) zombies: Vec<Zombie>,
    /// On their way from the zombies to their end, in some thread.
    pub(super) ending: Vec<Arc<Core>>,
    /// Their unload was begun, and is not finished or cancelled yet.
    pub(super) begun: Vec<Arc<Core>>,
    /// What `symbol_get` has given out and nobody has given back.
    pub(super) symbols: Vec<Given>,
    pub(super) last_unloaded: Option<LastUnloaded>,
    /// An unload was forced.
    pub(super) tainted: bool,
    /// Unloaded, their exit functions run, and still in memory: not to be depended on.
    pub(super) residents: HashMap<Linked, (String, Place)>,
}

/// What `symbol_get` has given out.
pub(super) struct Given {
    symbol: String,
    address: usize,
    core: Arc<Core>,
}

/// A load that is under way.
struct Loading {
    core: Arc<Core>,
    thread: ThreadId,
    process: u32,
    since: Instant,
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
pub(super) fn prepare_thread() {
    // Not of (): where an Arc of nothing points, behind its counts, leak checkers do not look.
    static ANY: LazyLock<ArcSwap<bool>> = LazyLock::new(ArcSwap::default);
    drop(ANY.load());
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        prepare_thread();
        // Nothing under the lock panics half-way; see H3.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The table as it is now.
    pub(super) fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    /// The lock is the proof that nobody else writes the table.
    pub(super) fn publish(&self, _lock: &mut Inner, table: Table) {
        self.table.store(Arc::new(table));
    }

    /// The beginning of a load by this thread.
    pub(super) fn begin_loading(&self, inner: &mut Inner, core: &Arc<Core>) {
        inner.loading.push(Loading {
            core: core.clone(),
            thread: this_thread_id(),
            process: process::id(),
            since: Instant::now(),
        });
    }

    /// Its end, for those who wait.
    pub(super) fn end_loading(&self, inner: &mut Inner, core: &Core) {
        inner.loading.retain(|loading| *loading.core != *core);
        self.changed.notify_all();
    }

    /// Waits until nobody is loading `core`, for as long as `limit` says.
    pub(super) fn wait_for_load<'a>(
        &self,
        mut inner: MutexGuard<'a, Inner>,
        core: &Arc<Core>,
        limit: Option<Duration>,
    ) -> Result<MutexGuard<'a, Inner>, Error> {
        let me = this_thread_id();
        let deadline = limit.map(|limit| Instant::now() + limit);
        while let Some(loading) = inner.loading.iter().find(|loading| loading.core == *core) {
            let name = core.name();
            if loading.process != process::id() {
                return Err(Error::new(
                    libc::EBUSY,
                    format!(
                        "module '{name}' was being loaded when this process forked, by a thread that is not here"
                    ),
                ));
            }
            if inner.would_wait_for(me, core) {
                return Err(Error::new(
                    libc::EDEADLK,
                    format!(
                        "module '{name}' is waiting for this thread, which would wait for its load to end; let its init function return first"
                    ),
                ));
            }
            let left = match deadline.map(|d| d.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return Err(inner.still_loading(core)),
                left => left.unwrap_or(Duration::from_secs(3600)),
            };
            inner.waiting.push((me, core.clone()));
            inner =
                self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
            let at = inner.waiting.iter().position(|(thread, _)| *thread == me);
            inner.waiting.swap_remove(at.expect("pushed above"));
        }
        Ok(inner)
    }

    /// A load has its object open.
    pub(super) fn set_loaded(&self, core: &Core, loaded: Loaded) {
        let _lock = self.lock();
        core.set_loaded(loaded);
        self.changed.notify_all();
    }

    /// Waits for loads that are opening an object of one of these names, other than `user`'s, or
    /// until `deadline`. Says whether there were any.
    pub(super) fn wait_for_opening(
        &self,
        user: &Core,
        names: &[Vec<u8>],
        deadline: Instant,
    ) -> bool {
        let inner = self.lock();
        let is_opening = |loading: &Loading| {
            *loading.core != *user
                && loading.thread != this_thread_id()
                && loading.core.loaded().is_none()
                && loading.core.soname.get().is_some_and(|soname| names.contains(soname))
        };
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || !inner.loading.iter().any(is_opening) {
            return false;
        }
        drop(self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner));
        true
    }

    /// The module that an object of the dynamic linker's is, among all that are open.
    pub(super) fn owner(&self, inner: &Inner, linked: Linked) -> Option<Arc<Core>> {
        let table = self.table();
        let zombies = inner.zombies.iter().map(|zombie| &zombie.core);
        let loading = inner.loading.iter().map(|loading| &loading.core);
        table
            .iter()
            .chain(zombies)
            .chain(loading)
            .chain(&inner.ending)
            .find(|core| core.loaded().is_some_and(|loaded| loaded.object.linked == linked))
            .cloned()
    }
}

impl Inner {
    /// One thread has ended a module, or left it to its holders. (Another may have taken it
    /// up from there by now: each is in the list for itself.)
    pub(super) fn remove_ending(&mut self, core: &Core) {
        if let Some(at) = self.ending.iter().position(|ending| **ending == *core) {
            self.ending.swap_remove(at);
        }
    }

    /// Whether a replacement for `core` is being made ready: of two loads under one name, the one
    /// that is not in the table.
    pub(super) fn is_being_replaced(&self, core: &Core) -> bool {
        let is_new = |new: &Core| *new != *core && new.name() == core.name();
        self.loading.iter().any(|loading| is_new(&loading.core))
    }

    pub(super) fn next_serial(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Whether `core`'s load waits, through however many others, for thread `me`.
    fn would_wait_for(&self, me: ThreadId, core: &Arc<Core>) -> bool {
        let mut core = core;
        // At most as many steps as there are loads: a cycle would include us.
        for _ in 0..=self.loading.len() {
            let Some(loading) = self.loading.iter().find(|l| l.core == *core) else { return false };
            if loading.thread == me {
                return true;
            }
            match self.waiting.iter().find(|(thread, _)| *thread == loading.thread) {
                Some((_, next)) => core = next,
                None => return false,
            }
        }
        false
    }

    /// EBUSY for a module that is not live yet.
    pub(super) fn still_loading(&self, core: &Core) -> Error {
        let name = core.name();
        let Some(loading) = self.loading.iter().find(|loading| *loading.core == *core) else {
            return Error::new(libc::EBUSY, format!("module '{name}' is being loaded"));
        };
        let what =
            if core.state() == State::Coming { "in its init function" } else { "being opened" };
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
        Error::new(libc::EBUSY, format!("module '{name}' is {what}, {wait}"))
    }
}

/// A table of modules, and the means to load, find, unload and replace them.
///
/// Lookups take no lock of the host's and do not wait for a load (a thread's first one registers a
/// thread-local, for which the C library waits for a dlopen that another thread is in). Everything
/// else takes the host's lock for moments only, never while a module's or a notifier's code runs: init and exit functions
/// and notifiers may call the host themselves.
///
/// ```no_run
/// # fn main() -> Result<(), module_ref::host::Error> {
/// use module_ref::host::{Host, Unload};
///
/// let host = Host::new();
/// // SAFETY: the plugin's code may run in this process.
/// unsafe { host.load("./plugin.so")? };
/// if let Some(plugin) = host.find_get("plugin") {
///     // SAFETY: that is what it exports.
///     let answer = unsafe { plugin.symbol::<extern "C" fn() -> i64>("answer")? };
///     println!("{}", answer());
/// }
/// host.unload("plugin", Unload::now())?;
/// # Ok(())
/// # }
/// ```
///
/// A host that is dropped while modules remain stays in memory with them, for those who hold
/// references; [`close`](Self::close) says so instead.
#[repr(transparent)]
pub struct Host {
    pub(super) shared: Arc<Shared>,
}

impl Host {
    /// A host without modules.
    pub fn new() -> Self {
        Linked::prepare();
        let shared = Arc::new(Shared {
            table: ArcSwap::from_pointee(Table::default()),
            inner: Mutex::default(),
            changed: Condvar::new(),
            chain: Chain::default(),
        });
        fork::register(&shared);
        Self { shared }
    }

    /// The process's own host, made when it is first asked for. It is never closed.
    pub fn of_process() -> &'static Self {
        static HOST: OnceLock<Host> = OnceLock::new();
        HOST.get_or_init(Self::new)
    }

    /// Ends a host that has no modules. Otherwise `EBUSY`, and the host is given back.
    pub fn close(self) -> Result<(), (Self, Error)> {
        match self.check_empty() {
            Ok(()) => Ok(()),
            Err(error) => Err((self, error)),
        }
    }

    /// Whether it has no modules, after [reaping](Self::reap). `EBUSY` says what it has.
    pub fn check_empty(&self) -> Result<(), Error> {
        self.reap();
        let inner = self.shared.lock();
        let table = self.shared.table();
        let zombies = inner.zombies.len() + inner.ending.len();
        // A replacement that is being made ready is in neither.
        let loading = inner.loading.iter().filter(|l| table.get(l.core.name()) != Some(&l.core));
        let modules = table.len() + loading.count();
        if modules + zombies == 0 {
            return Ok(());
        }
        let first = table.iter().next().or(inner.zombies.first().map(|zombie| &zombie.core));
        Err(Error::new(
            libc::EBUSY,
            format!(
                "the host still has modules: {modules}, and {zombies} that are unloaded and held{}; \
                 unload them first, or let their holders finish",
                first.map(|core| format!(" ('{}' is one)", core.name())).unwrap_or_default()
            ),
        ))
    }

    /// The module of that name, with a reference, without a lock. (But for a thread's first
    /// lookup, which registers a thread-local with the C library, and can wait there while
    /// another thread is in `dlopen`.) It may be COMING: its init function may not
    /// have returned yet. `None` if there is none, or if it is being unloaded.
    ///
    /// Linux: `find_module` and `try_module_get`.
    pub fn find_get(&self, name: &str) -> Option<Reference> {
        self.find_get_by(name, Caller::UNKNOWN)
    }

    /// The same for those who know who calls.
    #[doc(hidden)]
    pub fn find_get_by(&self, name: &str, caller: Caller) -> Option<Reference> {
        let mut table = self.shared.table();
        loop {
            let core = table.visible(name)?;
            // H1 begins here: while the snapshot is held, so is the record.
            if core.try_get(caller) {
                // SAFETY: the reference was taken just now.
                return Some(unsafe { Reference::adopt(core) });
            }
            // It is going; or it was replaced between our two steps, and the one in its place
            // was published before its door was shut. Each turn takes one replacement.
            let now = self.shared.table();
            if now.visible(name).is_none_or(|now| now == core) {
                return None;
            }
            table = now;
        }
    }

    /// A handle to the module of that name, which does not keep it from being unloaded.
    pub fn find(&self, name: &str) -> Option<Module> {
        self.shared.table().visible(name).cloned().map(Module)
    }

    /// The modules that are there, newest first.
    pub fn modules(&self) -> Vec<Module> {
        self.shared.table().newest_first().into_iter().cloned().map(Module).collect()
    }

    /// The modules that depend on `module`, newest first.
    pub fn users(&self, module: &Module) -> Vec<Module> {
        let _lock = self.shared.lock();
        module.0.links().used_by.iter().rev().cloned().map(Module).collect()
    }

    /// The modules in the format of `/proc/modules`: one line each, newest first, `name size
    /// refcnt deps state 0xaddress[ (taints)]`.
    pub fn list(&self) -> String {
        list::text(&self.shared)
    }

    /// Whether an unload was ever forced upon holders.
    pub fn tainted(&self) -> bool {
        self.shared.lock().tainted
    }

    /// What was unloaded last, and whether it is gone from memory.
    pub fn last_unloaded(&self) -> Option<LastUnloaded> {
        self.shared.lock().last_unloaded.clone()
    }

    /// Has `notifier` told of every module that comes and goes, on the thread that loads or
    /// unloads it; higher priorities first. It may call the host. An error that it returns
    /// for `Coming` refuses the load.
    ///
    /// Linux: `register_module_notifier`.
    pub fn on_event(
        &self,
        priority: i32,
        notifier: impl Fn(&Module, State) -> Result<(), Error> + Send + Sync + 'static,
    ) -> NotifierId {
        let id = {
            let mut inner = self.shared.lock();
            inner.notifiers += 1;
            NotifierId::Number(inner.notifiers)
        };
        self.on_event_with_id(id, priority, Box::new(notifier)).expect("a new number");
        id
    }

    #[doc(hidden)]
    pub fn on_event_with_id(
        &self,
        id: NotifierId,
        priority: i32,
        notifier: Box<Notifier>,
    ) -> Result<(), Error> {
        self.shared.chain.register(id, priority, notifier)
    }

    /// Takes a notifier back, and waits until no other thread is in it.
    pub fn remove_notifier(&self, id: NotifierId) -> Result<(), Error> {
        self.shared.chain.unregister(id)
    }

    /// The address of a symbol that some module itself defines, with a reference on that
    /// module; of several, the one that was loaded first. [`symbol_put`](Self::symbol_put)
    /// gives it back.
    ///
    /// Linux: `symbol_get`. Modules whose init function has not returned are passed over.
    pub fn symbol_get(&self, symbol: &str) -> Option<*mut c_void> {
        self.symbol_get_by(symbol, Caller::UNKNOWN)
    }

    /// The same for those who know who calls.
    #[doc(hidden)]
    pub fn symbol_get_by(&self, symbol: &str, caller: Caller) -> Option<*mut c_void> {
        let mut modules = self.modules();
        while let Some(Module(core)) = modules.pop() {
            if core.state() != State::Live || !core.try_get(caller) {
                continue;
            }
            // SAFETY: we hold it.
            let found = core.loaded().and_then(|l| unsafe { l.object.own_symbol(symbol) });
            if let Some(address) = found {
                let given = Given { symbol: symbol.to_owned(), address: address as usize, core };
                self.shared.lock().symbols.push(given);
                return Some(address);
            }
            core.put_by(caller);
        }
        None
    }

    /// Gives back what [`symbol_get`](Self::symbol_get) has given for `symbol`; of several,
    /// what was given first.
    pub fn symbol_put(&self, symbol: &str) -> Result<(), Error> {
        self.put_symbol(format_args!("'{symbol}'"), |given| given.symbol == symbol)
    }

    /// As [`symbol_put`](Self::symbol_put), by the address. Linux: `symbol_put_addr`.
    pub fn symbol_put_address(&self, address: *const c_void) -> Result<(), Error> {
        let what = format_args!("at {address:p}");
        self.put_symbol(what, |given| given.address == address as usize)
    }

    fn put_symbol(
        &self,
        what: fmt::Arguments<'_>,
        is_it: impl Fn(&Given) -> bool,
    ) -> Result<(), Error> {
        let given = {
            let mut inner = self.shared.lock();
            let at = inner.symbols.iter().position(is_it);
            at.map(|at| inner.symbols.remove(at))
        };
        let Some(given) = given else {
            let why = format!("symbol {what} was not given out by symbol_get, or was given back");
            return Err(Error::new(libc::EINVAL, why));
        };
        given.core.put_by(Caller::UNKNOWN);
        Ok(())
    }

    /// As C's `struct module_host *`.
    #[doc(hidden)]
    pub fn into_raw(self) -> *const Shared {
        // SAFETY: the Arc is moved out of a host that is then forgotten.
        Arc::into_raw(unsafe { std::ptr::read(&mem::ManuallyDrop::new(self).shared) })
    }

    /// As C has it, borrowed.
    #[doc(hidden)]
    pub fn as_raw(&self) -> *const Shared {
        Arc::as_ptr(&self.shared)
    }

    /// # Safety
    ///
    /// `shared` comes from `into_raw`, and is not used after this host is dropped.
    #[doc(hidden)]
    pub unsafe fn from_raw(shared: *const Shared) -> Self {
        // SAFETY: the caller's promise.
        Self { shared: unsafe { Arc::from_raw(shared) } }
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if self.check_empty().is_err() {
            // H1: somebody may hold a reference, and the table is what keeps the record.
            mem::forget(self.shared.clone());
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("modules", &self.modules()).finish()
    }
}

/// The names in a list of modules, for sentences: "'a', 'b' and 3 more".
pub(super) fn names(links: &Links) -> String {
    let mut text: Vec<_> =
        links.used_by.iter().rev().take(3).map(|core| format!("'{}'", core.name())).collect();
    if links.used_by.len() > 3 {
        text.push(format!("{} more", links.used_by.len() - 3));
    }
    text.join(", ")
}
