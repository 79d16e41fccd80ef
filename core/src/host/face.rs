//! The host as its users see it.

use super::error::Error;
use super::object::resident::Unloaded;
use super::operations::depend;
use super::operations::drain::Unloading;
use super::operations::load::Load;
use super::operations::unload::{Unload, asleep};
use super::registry::module::{Module, Reference};
use super::registry::notify::{Notifier, NotifierId};
use super::registry::record::State;
use super::registry::{LastUnloaded, Registry};
use crate::Held;
use crate::misuse::Caller;
use crate::sync::Word;
use std::ffi::c_void;
use std::fmt;
use std::mem;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

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
    registry: Arc<Registry>,
}

impl Host {
    /// A host without modules.
    pub fn new() -> Self {
        Self { registry: Registry::new() }
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
        self.registry.check_empty()
    }

    /// Loads the shared object at `path`, as a module that is named after the file, with
    /// per-CPU counting. See [`load_with`](Self::load_with).
    ///
    /// # Safety
    ///
    /// As for [`load_with`](Self::load_with).
    pub unsafe fn load(&self, path: impl AsRef<Path>) -> Result<Module, Error> {
        // SAFETY: the caller's promise.
        unsafe { self.load_with(path, Load::new()) }
    }

    /// Loads the shared object at `path` and returns a handle to it once its init function, if
    /// it has one, has returned.
    ///
    /// A path without a slash is a file in the working directory if there is one, and else a
    /// library that the dynamic linker finds. A file that is a module already is loaded a
    /// second time as an object of its own, with its own variables. The object's symbols are
    /// not seen by those that are loaded later (`RTLD_LOCAL`).
    ///
    /// Errors: `EEXIST` if a module has that name; `EBUSY` if one is going, or did not become
    /// live; `ENOENT` for a missing file, library or symbol; `ENOEXEC` for what is not a shared
    /// object of this machine; `EINVAL` and `ENAMETOOLONG` for a name that a module cannot
    /// have; whatever a notifier or the init function returns. After an error
    /// nothing is left of it, unless somebody kept a reference.
    ///
    /// Linux: `load_module`.
    ///
    /// # Safety
    ///
    /// The object's code may run in this process: its constructors and destructors, and
    /// `init_module` and `cleanup_module` if it exports them, as `int (void)` and `void (void)`.
    pub unsafe fn load_with(&self, path: impl AsRef<Path>, load: Load) -> Result<Module, Error> {
        // SAFETY: the caller's promise.
        unsafe { self.registry.load(path.as_ref(), load) }
    }

    /// Unloads the module: its exit function runs, the notifiers are told, its dependencies
    /// are given up, its object is closed; and then it is looked whether that is gone.
    ///
    /// Errors, checked in this order, each leaving everything as it was: `ENOENT` if there is no
    /// such module; `EWOULDBLOCK` if others depend on it; `EBUSY` if it is not live, or has an
    /// init function and no exit function; `EWOULDBLOCK` if references are held, or `ETIMEDOUT`
    /// if they still are when the time is up; the errno of the barrier that is needed, if a
    /// sandbox refuses that.
    ///
    /// The caller must hold no reference to it, and must not be code of the module.
    ///
    /// Linux: `delete_module`.
    pub fn unload(&self, name: &str, how: Unload) -> Result<Unloaded, Error> {
        match how.wait {
            None => self.registry.unload(name, how.force, None),
            Some(timeout) => self.registry.unload(name, how.force, Some(&mut asleep(timeout))),
        }
    }

    /// As [`unload`](Self::unload) for those who have another way to wait: the door is shut, and
    /// `wait` is called whenever references are still held. It waits as it likes and says
    /// whether to go on; once it has said no, the time is up.
    pub fn unload_with(
        &self,
        name: &str,
        force: bool,
        mut wait: impl FnMut(&Held<'_>) -> bool,
    ) -> Result<Unloaded, Error> {
        let mut wait = |word: &Word, seen| wait(&Held::new(word, seen));
        self.registry.unload(name, force, Some(&mut wait))
    }

    /// Begins to unload the module and returns without waiting for the references that are held:
    /// its door is shut, and its state GOING. The descriptor of what this returns becomes readable
    /// when the last one has been given back, and only then; then
    /// [`finish`](Unloading::finish) unloads it. `force` is for a module that has an init function
    /// and no exit function.
    ///
    /// Errors, each leaving everything as it was: as [`unload`](Self::unload), but that references
    /// are held is none; and the errno if there is no descriptor, or no thread to wait with.
    ///
    /// ```no_run
    /// # use module_ref::host::{Error, Host};
    /// # fn wait_until_readable(_: impl std::os::fd::AsFd) {}
    /// # fn f(host: &Host) -> Result<(), Error> {
    /// let mut unloading = host.unload_begin("plugin", false)?;
    /// let outcome = loop {
    ///     // With whatever else the program waits for.
    ///     wait_until_readable(&unloading);
    ///     if let Some(outcome) = unloading.finish()? {
    ///         break outcome;
    ///     }
    /// };
    /// # let _ = outcome;
    /// # Ok(())
    /// # }
    /// ```
    pub fn unload_begin(&self, name: &str, force: bool) -> Result<Unloading, Error> {
        let (module, descriptor) = self.registry.unload_begin(name, force)?;
        Ok(Unloading::new(module, descriptor))
    }

    /// For bindings, which keep the module and the descriptor themselves.
    #[doc(hidden)]
    pub fn unload_begin_raw(&self, name: &str, force: bool) -> Result<(Module, OwnedFd), Error> {
        self.registry.unload_begin(name, force)
    }

    /// The module of that name, if its unload was begun.
    #[doc(hidden)]
    pub fn unload_begun(&self, name: &str) -> Result<Module, Error> {
        self.registry.unload_begun(name)
    }

    /// Puts the object at `path` in the place of module `name`. The old one is shut, waited
    /// for as long as `timeout` says (`None`: for ever), and unloaded; the outcome says what
    /// became of its code. If it is still held when the time is up, its exit function runs
    /// and its code goes with a later call of the host, once the last reference is given back.
    ///
    /// What holds a reference to the old module goes on with it; a handle to it gives none any
    /// more. The new one counts as the old one did, and is a copy if that was one.
    ///
    /// Errors, each leaving the old one in service: as for [`load_with`](Self::load_with);
    /// `ENOENT` if there is no such module; `EWOULDBLOCK` if others depend on it, since they are
    /// bound to the old object; `EBUSY` if it is not live, is being replaced, or has an
    /// init function and no exit function.
    ///
    /// # Safety
    ///
    /// As for [`load_with`](Self::load_with).
    pub unsafe fn replace(
        &self,
        name: &str,
        path: impl AsRef<Path>,
        timeout: Option<Duration>,
    ) -> Result<Unloaded, Error> {
        // SAFETY: the caller's promise.
        unsafe { self.registry.replace(name, path.as_ref(), || asleep(timeout)) }
    }

    /// As [`replace`](Self::replace) for those who have another way to wait for the old one's
    /// references: see [`unload_with`](Self::unload_with).
    ///
    /// # Safety
    ///
    /// As for [`load_with`](Self::load_with).
    pub unsafe fn replace_with(
        &self,
        name: &str,
        path: impl AsRef<Path>,
        mut wait: impl FnMut(&Held<'_>) -> bool,
    ) -> Result<Unloaded, Error> {
        let wait = || move |word: &Word, seen| wait(&Held::new(word, seen));
        // SAFETY: the caller's promise.
        unsafe { self.registry.replace(name, path.as_ref(), wait) }
    }

    /// Unmaps what was unloaded or replaced while it was held, and is not held any more. Every
    /// load, unload and replace does so, too. Returns how many are gone from memory.
    pub fn reap(&self) -> usize {
        self.registry.reap()
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
        self.registry.find_get(name, caller)
    }

    /// A handle to the module of that name, which does not keep it from being unloaded.
    pub fn find(&self, name: &str) -> Option<Module> {
        self.registry.visible(name).ok().map(Module)
    }

    /// The modules that are there, newest first.
    pub fn modules(&self) -> Vec<Module> {
        self.registry.modules()
    }

    /// The modules that depend on `module`, newest first.
    pub fn users(&self, module: &Module) -> Vec<Module> {
        let _lock = self.registry.lock();
        module.0.links().used_by.iter().rev().cloned().map(Module).collect()
    }

    /// The modules in the format of `/proc/modules`: one line each, newest first, `name size
    /// refcnt deps state 0xaddress[ (taints)]`.
    pub fn list(&self) -> String {
        self.registry.list()
    }

    /// Whether an unload was ever forced upon holders.
    pub fn tainted(&self) -> bool {
        self.registry.lock().tainted
    }

    /// What was unloaded last, and whether it is gone from memory.
    pub fn last_unloaded(&self) -> Option<LastUnloaded> {
        self.registry.lock().last_unloaded.clone()
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
        let id = NotifierId::Number(self.registry.lock().next_serial());
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
        self.registry.chain.register(id, priority, notifier)
    }

    /// Takes a notifier back, and waits until no other thread is in it.
    pub fn remove_notifier(&self, id: NotifierId) -> Result<(), Error> {
        self.registry.chain.unregister(id)
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
        self.registry.symbol_get(symbol, caller)
    }

    /// Gives back what [`symbol_get`](Self::symbol_get) has given for `symbol`; of several,
    /// what was given first.
    pub fn symbol_put(&self, symbol: &str) -> Result<(), Error> {
        self.registry.symbol_put(format_args!("'{symbol}'"), |given| given.symbol == symbol)
    }

    /// As [`symbol_put`](Self::symbol_put), by the address. Linux: `symbol_put_addr`.
    pub fn symbol_put_address(&self, address: *const c_void) -> Result<(), Error> {
        self.registry
            .symbol_put(format_args!("at {address:p}"), |given| given.address == address as usize)
    }

    /// Makes `user` depend on `provider`, until `user` is unloaded: a reference on the
    /// provider, once per pair. `EDEADLK` if that closed a cycle, `EXDEV` between hosts, `ENOENT`
    /// if either is going.
    ///
    /// Linux: `ref_module`.
    pub fn add_dependency(user: &Module, provider: &Module) -> Result<(), Error> {
        depend::add_dependency(user, provider)
    }

    /// As C's `struct module_host *`.
    #[doc(hidden)]
    pub fn into_raw(self) -> *const Registry {
        // SAFETY: the Arc is moved out of a host that is then forgotten.
        Arc::into_raw(unsafe { std::ptr::read(&mem::ManuallyDrop::new(self).registry) })
    }

    /// As C has it, borrowed.
    #[doc(hidden)]
    pub fn as_raw(&self) -> *const Registry {
        Arc::as_ptr(&self.registry)
    }

    /// # Safety
    ///
    /// `registry` comes from `into_raw`, and is not used after this host is dropped.
    #[doc(hidden)]
    pub unsafe fn from_raw(registry: *const Registry) -> Self {
        // SAFETY: the caller's promise.
        Self { registry: unsafe { Arc::from_raw(registry) } }
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
            mem::forget(self.registry.clone());
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("modules", &self.modules()).finish()
    }
}
