//! The host as its users see it.

use super::error::{Error, error};
use super::object::resident::Unloaded;
use super::operations::depend;
use super::operations::drain::Unloading;
use super::operations::load::Load;
use super::operations::replace::Replace;
use super::operations::unload::{Despite, PATIENCE, Unload, Wait, asleep};
use super::registry::list::Info;
use super::registry::module::{Module, Reference};
use super::registry::notify::{Notifier, NotifierId};
use super::registry::record::State;
use super::registry::{LastUnloaded, Registry};
use super::tombstone::{self, AfterUnload};
use crate::Held;
use crate::misuse::Caller;
use std::ffi::c_void;
use std::fmt;
use std::io;
use std::mem;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A table of modules, and the means to load, find, unload and replace them.
///
/// Lookups take no lock. Everything else takes the host's lock for moments only, and never while a
/// module's or a notifier's code runs, so init and exit functions and notifiers may call the host.
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
/// A host that is dropped while modules remain stays in memory with them, for the holders of
/// references; [`close`](Self::close) returns an error instead.
#[repr(transparent)]
pub struct Host {
    registry: Arc<Registry>,
}

impl Host {
    /// A host without modules.
    pub fn new() -> Self {
        Self { registry: Registry::new() }
    }

    /// The process's own host, which is made when somebody first asks for it. It is never closed.
    pub fn of_process() -> &'static Self {
        static HOST: OnceLock<Host> = OnceLock::new();
        if let Some(host) = HOST.get() {
            return host;
        }
        // Not in the lock's own function: a new host asks the linker (H6). Of two one goes.
        let host = Self::new();
        HOST.get_or_init(|| host)
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
        self.registry.check_empty().map_err(|(_, error)| error)
    }

    /// Unloads all modules, users before those that they depend on, and waits for references, also on what
    /// was unloaded or replaced before, as long as `timeout` says (`None`: for ever). The error is how many are left, and why.
    pub fn shutdown(&self, timeout: Option<Duration>) -> Result<(), (usize, Error)> {
        self.registry.shutdown(&mut asleep(timeout))
    }

    /// As [`shutdown`](Self::shutdown), with your own way to wait: see
    /// [`unload_with`](Self::unload_with). One wait serves all modules.
    pub fn shutdown_with(&self, wait: impl FnMut(&Held<'_>) -> bool) -> Result<(), (usize, Error)> {
        waited_by(wait, |wait| self.registry.shutdown(wait))
    }

    /// The module whose code or data is at that address, with a reference. It succeeds even while the
    /// module drains, as long as somebody holds it.
    #[track_caller]
    pub fn get_by_address(&self, address: *const c_void) -> Option<Reference> {
        Some(self.get_by_address_by(address, Caller::UNKNOWN)?.noted())
    }

    /// The same for those who know who calls.
    #[doc(hidden)]
    pub fn get_by_address_by(&self, address: *const c_void, caller: Caller) -> Option<Reference> {
        self.registry.get_by_address(address, caller)
    }

    /// Describes each module: those in service, newest first, then those that were unloaded and are
    /// still mapped.
    pub fn infos(&self) -> Vec<Info> {
        self.registry.infos()
    }

    /// For C: the user has a reference, until `close_user` has succeeded.
    ///
    /// # Safety
    ///
    /// As for [`load_with`](Self::load_with).
    #[doc(hidden)]
    pub unsafe fn open_user(&self, path: &Path, name: Option<&str>) -> Result<Module, Error> {
        // SAFETY: the caller's promise.
        unsafe { self.registry.open_user(path, name) }
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
    /// A path without a slash is a file in the working directory if there is one, and otherwise a
    /// library that the dynamic linker finds. A file that is a module already is loaded a second time
    /// as an object of its own, with its own variables. Objects that are loaded later do not see its
    /// symbols (`RTLD_LOCAL`).
    ///
    /// Errors: `EEXIST` if a module has that name; `EBUSY` if one is going, or another thread's load of
    /// it has failed; `ENOENT` for a missing file, library or symbol; `ENOEXEC` if the file is not a
    /// shared object of this machine; `EINVAL` and `ENAMETOOLONG` for a name that a module cannot have;
    /// whatever a notifier or the init function returns. After an error nothing is left of it, unless
    /// somebody kept a reference.
    ///
    /// Linux: `load_module`.
    ///
    /// # Safety
    ///
    /// The object's code may run in this process: its constructors and destructors, and
    /// `init_module` and `cleanup_module` if it exports them, as `int (void)` and `void (void)`. Unless it
    /// is loaded from a [copy](Load::copied), nobody writes over the file or cuts it short meanwhile.
    pub unsafe fn load_with(&self, path: impl AsRef<Path>, load: Load) -> Result<Module, Error> {
        // SAFETY: the caller's promise.
        unsafe { self.registry.load(path.as_ref(), load) }
    }

    /// Loads the module of this name from the folders of [`search`](Self::search), unless it is there
    /// already. It takes the first `name.so`, where `-` and `_` are the same, and otherwise the first
    /// object that has the name as an alias in its section .modinfo. `symbol:x` is the first that
    /// defines `x`. If another thread is loading the name, this waits for it.
    ///
    /// Errors: `ENOENT` if there is none; others as for [`load_with`](Self::load_with).
    ///
    /// Linux: `request_module`.
    ///
    /// # Safety
    ///
    /// As for [`load_with`](Self::load_with), for whatever is in those folders.
    pub unsafe fn request(&self, name: &str) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        unsafe { self.registry.request_module(name) }
    }

    /// Sets the folders in which [`request`](Self::request) looks, in this order. `None`, the default:
    /// the folders that the host's modules came from, the last loaded first, and then the program's
    /// own. `EINVAL` for a path that is not absolute.
    pub fn search(&self, folders: Option<Vec<PathBuf>>) -> Result<(), Error> {
        if let Some(folder) = folders.iter().flatten().find(|folder| !folder.is_absolute()) {
            return Err(error!(
                libc::EINVAL,
                "cannot look for modules in '{}': that is not an absolute path",
                folder.display()
            ));
        }
        self.registry.lock().search = folders;
        Ok(())
    }

    /// Unloads the module. Its exit function runs, the notifiers are told, the host gives up its
    /// dependencies, closes its object, and looks whether that is gone from memory.
    ///
    /// Before it closes the object, the host looks for anybody who stands in its code, or will call it,
    /// without a reference ([`Module::dangling`] says what it looks at). Whoever is found keeps it
    /// mapped ([`Residency::Present`](super::Residency::Present)); each later call of the host looks
    /// again.
    ///
    /// Errors, checked in this order, each leaving everything as it was: `ENOENT` if there is no such
    /// module; `EWOULDBLOCK` if others depend on it; `EBUSY` if it is not live, or has an init function
    /// and no exit function; `EWOULDBLOCK` if references are held, or `ETIMEDOUT` if they still are
    /// when the time is up; the errno of the barrier, if a sandbox refuses that.
    ///
    /// The caller must hold no reference to it, and must not be code of the module.
    ///
    /// Linux: `delete_module`.
    pub fn unload(&self, name: &str, how: Unload) -> Result<Unloaded, Error> {
        self.unload_by(name, how, Caller::UNKNOWN)
    }

    /// The same, told who calls: `EDEADLK` if it is the module's own code.
    #[doc(hidden)]
    pub fn unload_by(&self, name: &str, how: Unload, caller: Caller) -> Result<Unloaded, Error> {
        let mut asleep = how.wait.map(asleep);
        let wait = asleep.as_mut().map(|wait| wait as &mut Wait<'_>);
        self.registry.unload(name, how.despite, wait, caller)
    }

    /// As [`unload`](Self::unload), with your own way to wait. The module is closed, and `wait` is
    /// called whenever references are still held. It waits as it likes and says whether to go on; once
    /// it has said no, the time is up. So it is if it panics, and that goes on when the call is over.
    pub fn unload_with(
        &self,
        name: &str,
        force: bool,
        wait: impl FnMut(&Held<'_>) -> bool,
    ) -> Result<Unloaded, Error> {
        let despite = Despite { force, unproven: false };
        waited_by(wait, |wait| self.registry.unload(name, despite, Some(wait), Caller::UNKNOWN))
    }

    /// Begins to unload the module and returns without waiting for references: the module is closed,
    /// and its state is GOING. The returned descriptor becomes readable when, and only when, the last
    /// reference has been given back; then [`finish`](Unloading::finish) unloads the module. `force` is
    /// for a module that has an init function and no exit function.
    ///
    /// Errors, each leaving everything as it was: as [`unload`](Self::unload), except that held
    /// references are no error; and the errno if there is no descriptor, or no thread to wait with.
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

    /// Puts the object at `path` in the place of module `name`. The old one is closed, its references
    /// are waited for as long as `timeout` says (`None`: for ever), and it is unloaded; the outcome
    /// says what became of its code. If it is still held when the time is up, its exit function runs,
    /// and its code goes with a later call of the host, once the last reference is given back.
    ///
    /// References to the old module stay valid; a handle to it gives no new ones. The new one counts as
    /// the old one did, and is a copy if that was one.
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
        unsafe { self.replace_by(name, path, timeout, Caller::UNKNOWN) }
    }

    /// The same, told who calls: `EDEADLK` if it is the module's own code.
    ///
    /// # Safety
    ///
    /// As for [`load_with`](Self::load_with).
    #[doc(hidden)]
    pub unsafe fn replace_by(
        &self,
        name: &str,
        path: impl AsRef<Path>,
        timeout: Option<Duration>,
        caller: Caller,
    ) -> Result<Unloaded, Error> {
        let set = [(name, path.as_ref())];
        // SAFETY: the caller's promise.
        let replaced = unsafe { self.registry.replace(&set, false, || asleep(timeout), caller) };
        replaced.map(|mut outcomes| outcomes.remove(0))
    }

    /// As [`replace`](Self::replace), with your own way to wait for the old one's references: see
    /// [`unload_with`](Self::unload_with).
    ///
    /// # Safety
    ///
    /// As for [`load_with`](Self::load_with).
    pub unsafe fn replace_with(
        &self,
        name: &str,
        path: impl AsRef<Path>,
        wait: impl FnMut(&Held<'_>) -> bool,
    ) -> Result<Unloaded, Error> {
        let set = [(name, path.as_ref())];
        // SAFETY: the caller's promise.
        let replaced = unsafe { self.replace_set_with(&set, false, wait) };
        replaced.map(|mut outcomes| outcomes.remove(0))
    }

    /// Puts each object in the place of the module of that name, in one step: a module and those that
    /// depend on it, or any others. Says what became of each old one's code, in the order of the set.
    ///
    /// The new modules are loaded providers first, and bound to each other, because the old ones of the
    /// set are hidden from the dynamic linker. Then all names are switched at once: a thread that has
    /// found one new module finds no old one of the set any more. An error leaves all old ones in
    /// service. The old ones are then unloaded users first, as by [`replace`](Self::replace). Whoever
    /// has [added](Self::add_dependency) a dependency has to add it again. Gates that follow a name are
    /// led to the new modules after that, one by one.
    ///
    /// [`Replace::stop_first`] is for plugins that own something of which there is one: a port, a
    /// device, a state. The new objects are opened (their constructors run). Then the old modules are
    /// closed, stopped (`stop_module`), drained, asked (`can_unload_module`), have `save_module` and
    /// `cleanup_module` called, users first; and the new ones `init_module` and `restore_module`,
    /// providers first. Lookups find none of them meanwhile; [`find_get_wait`](Self::find_get_wait)
    /// waits. `ETIMEDOUT` if they are still held when the time is up. If anything fails before an old
    /// module's `cleanup_module`, it resumes (`resume_module`). After that its `init_module` is called
    /// again, in the same object, whose variables are as `cleanup_module` has left them, and its
    /// `restore_module` with what it has saved: it is the same [`Module`] as before. If that fails too,
    /// it is gone: `ENOTRECOVERABLE`.
    ///
    /// Other errors: as for [`replace`](Self::replace), but that modules of the set may depend on each
    /// other; `EINVAL` if it is empty, or names a module twice; `EWOULDBLOCK` also if a new object
    /// is bound to an old one of the set, through a library that is no module.
    ///
    /// # Safety
    ///
    /// As for [`load_with`](Self::load_with), and for `save_module` and `restore_module` (see the
    /// repository's docs/plugins.md).
    pub unsafe fn replace_set<P: AsRef<Path>>(
        &self,
        set: &[(&str, P)],
        how: Replace,
    ) -> Result<Vec<Unloaded>, Error> {
        // SAFETY: the caller's promise.
        unsafe { self.replace_set_by(set, how, Caller::UNKNOWN) }
    }

    /// The same for those who know who calls: `EDEADLK` if it is the code of one of the modules.
    ///
    /// # Safety
    ///
    /// As for [`replace_set`](Self::replace_set).
    #[doc(hidden)]
    pub unsafe fn replace_set_by<P: AsRef<Path>>(
        &self,
        set: &[(&str, P)],
        how: Replace,
        caller: Caller,
    ) -> Result<Vec<Unloaded>, Error> {
        let set: Vec<_> = set.iter().map(|(name, path)| (*name, path.as_ref())).collect();
        // SAFETY: the caller's promise.
        unsafe { self.registry.replace(&set, how.stop_first, || how.asleep(), caller) }
    }

    /// As [`replace_set`](Self::replace_set) for those who have another way to wait for references:
    /// see [`unload_with`](Self::unload_with).
    ///
    /// # Safety
    ///
    /// As for [`replace_set`](Self::replace_set).
    pub unsafe fn replace_set_with<P: AsRef<Path>>(
        &self,
        set: &[(&str, P)],
        stop_first: bool,
        wait: impl FnMut(&Held<'_>) -> bool,
    ) -> Result<Vec<Unloaded>, Error> {
        let set: Vec<_> = set.iter().map(|(name, path)| (*name, path.as_ref())).collect();
        waited_by(wait, |wait| {
            // SAFETY: the caller's promise.
            unsafe { self.registry.replace(&set, stop_first, || wait, Caller::UNKNOWN) }
        })
    }

    /// Sets what becomes of the addresses of modules that this host unloads from now on.
    ///
    /// Until then it is what `MODULE_REF_AFTER_UNLOAD` in the environment says (`unmap`, `trap` or
    /// `keep`), or [`AfterUnload::Trap`].
    pub fn after_unload(&self, what: AfterUnload) {
        self.registry.set_after_unload(what);
    }

    /// Refuses loads and replacements (`EDQUOT`) while modules that were unloaded or replaced, and are
    /// still mapped, have more bytes than this. `None`, the default, refuses none.
    /// [`infos`](Self::infos) has the bytes of each, and why it stays.
    pub fn limit_residents(&self, bytes: Option<usize>) {
        self.registry.lock().most_resident = bytes;
    }

    /// Unmaps modules that stayed mapped because they were held, or because somebody was found in them,
    /// if that is over. Every load, unload and replacement does this too, but does not wait for running
    /// threads. Returns how many are gone from memory.
    pub fn reap(&self) -> usize {
        self.registry.reap_within(PATIENCE)
    }

    /// The live module of that name, with a reference. `None` if there is none, if its init function
    /// has not returned yet, or if it is being unloaded.
    ///
    /// It takes no lock and waits for nobody, even in a thread's first call, in a signal handler, or
    /// while a constructor runs.
    ///
    /// Linux: `find_module` and `try_module_get`.
    #[track_caller]
    pub fn find_get(&self, name: &str) -> Option<Reference> {
        Some(self.find_get_by(name, Caller::UNKNOWN)?.noted())
    }

    /// The same for those who know who calls.
    #[doc(hidden)]
    pub fn find_get_by(&self, name: &str, caller: Caller) -> Option<Reference> {
        self.registry.find_get(name, caller)
    }

    /// As [`find_get`](Self::find_get). While another thread loads, unloads or replaces the module of
    /// that name, this waits for the outcome, for as long as `timeout` says (`None`: for ever).
    ///
    /// Errors: `ENOENT` if there is none; `ETIMEDOUT`; `EDEADLK` if that thread is this one or waits
    /// for it, as in one of the module's hooks; `EBUSY` if an unload was [begun](Self::unload_begin).
    #[track_caller]
    pub fn find_get_wait(&self, name: &str, timeout: Option<Duration>) -> Result<Reference, Error> {
        Ok(self.find_get_wait_by(name, timeout, Caller::UNKNOWN)?.noted())
    }

    /// The same for those who know who calls.
    #[doc(hidden)]
    pub fn find_get_wait_by(
        &self,
        name: &str,
        timeout: Option<Duration>,
        caller: Caller,
    ) -> Result<Reference, Error> {
        self.registry.find_get_wait(name, timeout, caller)
    }

    /// A handle to the live module of that name, which does not keep it from being unloaded. It takes
    /// no lock, as [`find_get`](Self::find_get).
    pub fn find(&self, name: &str) -> Option<Module> {
        self.registry.find(name)
    }

    /// The same, even if it is coming or going, as Linux's `find_module`.
    #[doc(hidden)]
    pub fn find_module(&self, name: &str) -> Option<Module> {
        self.registry.table().visible(name).cloned().map(Module)
    }

    /// The modules that are there, newest first.
    pub fn modules(&self) -> Vec<Module> {
        self.registry.modules()
    }

    /// The modules that depend on `module`, newest first.
    pub fn users(&self, module: &Module) -> Vec<Module> {
        let inner = self.registry.lock();
        module.0.links(&inner).used_by.iter().rev().cloned().map(Module).collect()
    }

    /// The modules in the format of `/proc/modules`: one line each, newest first, `name size
    /// refcnt deps state 0xaddress[ (taints)]`.
    pub fn list(&self) -> String {
        self.registry.list()
    }

    /// Whether an unload was ever forced on holders, or on a module without an exit function.
    pub fn tainted(&self) -> bool {
        self.registry.lock().tainted
    }

    /// What was unloaded last, and whether it is gone from memory.
    pub fn last_unloaded(&self) -> Option<LastUnloaded> {
        self.registry.lock().last_unloaded.clone()
    }

    /// Registers `notifier`, which is called for every module that comes, becomes live or goes, on the
    /// thread that loads or unloads it; higher priorities first. It may call the host. An error that it
    /// returns for `Coming` refuses the load.
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

    /// Unregisters a notifier, and waits until no other thread is in it.
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

    /// Gives back what [`symbol_get`](Self::symbol_get) gave for `symbol`; if it gave several, the
    /// first.
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

/// What is done with a wait of the user's. Modules are left half-way if that unwinds: so from a panic on
/// the time is up, and the panic goes on when all is done.
fn waited_by<T>(
    mut wait: impl FnMut(&Held<'_>) -> bool,
    act: impl FnOnce(&mut Wait<'_>) -> T,
) -> T {
    let mut panic = None;
    let done = act(&mut |word, seen| {
        let asked = || wait(&Held::new(word, seen));
        panic.is_none()
            && catch_unwind(AssertUnwindSafe(asked)).unwrap_or_else(|why| {
                panic = Some(why);
                false
            })
    });
    panic.map_or(done, |why| resume_unwind(why))
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

/// Which module an address belongs to: one that is there, or one that was unloaded and whose place
/// nobody else has taken. `None`: it belongs to no known module.
///
/// The words are those of C's `module_describe_address`: "metrics.so!on_timer+0x12, unloaded 3.2 s ago by
/// thread 4711 'main' (module 'metrics', build ID 1f0c…)".
pub fn describe_address(address: *const c_void) -> Option<String> {
    let mut text = String::new();
    tombstone::describe(address as usize, &mut text).then_some(text)
}

/// Makes a stale call say whose code it was before the process dies of it.
///
/// Sets a handler of SIGSEGV that writes one line to standard error if a module that is gone was
/// called, or its data touched, and then lets the signal go on: to the handler that was there before,
/// or to the end of the process. A handler that is set later sees the signal first, and may pass it on.
/// `false` removes the handler, if no later one stands before it.
///
/// `MODULE_REF_CRASH_REPORTS=1` in the environment does it when the first host is made.
pub fn crash_reports(on: bool) -> io::Result<()> {
    tombstone::reports(on).map_err(io::Error::from_raw_os_error)
}
