//! The module host behind Python objects: conversions, and the references that Python holds.
//!
//! Whatever may wait, or may run code of a module, runs detached from the interpreter. No lock of
//! this file is held while Python code runs, or by a thread that is detached; but for a host's
//! own one, which every call has, and which nobody waits for.

use crate::{MisuseError, NOT_ENTERED, Patience, Released, mode_name, os_error, time_limit};
use module_ref::host::{
    Error, Host, LastUnloaded, Load, Module, NotifierId, Reference, State, Unload, Unloaded,
};
use module_ref::misuse::Misuse;
use module_ref::{Held, Mode};
use pyo3::exceptions::{PyAttributeError, PyException, PyOSError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyTuple, PyType};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString, c_void};
use std::mem;
use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{
    Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, TryLockError,
};
use std::time::Duration;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn host_error(error: Error) -> PyErr {
    os_error(error.errno(), &error)
}

/// A str, bytes or os.PathLike, as it would be for open().
fn path_of(path: &Bound<'_, PyAny>) -> PyResult<PathBuf> {
    let encoded = path.py().import("os")?.call_method1("fsencode", (path,))?;
    let bytes = encoded.cast_into::<PyBytes>()?.as_bytes().to_vec();
    if bytes.contains(&0) {
        return Err(PyValueError::new_err("embedded null byte"));
    }
    Ok(OsString::from_vec(bytes).into())
}

// ---- modules ---------------------------------------------------------------------

/// One load of a shared object, as Host.load(), Host.find() and Host.modules() return it.
///
/// It can be asked about the module for ever, also when the host is gone. To use the module's
/// code takes a reference; once the module is unloaded there is none to be had, also when
/// its name is loaded again: that is another module, and not equal to this one.
///
/// >>> host = Host()
/// >>> plugin = host.load("./plugin.so")
/// >>> plugin
/// <module_ref.Module 'plugin' live refcount=0>
/// >>> with plugin.hold() as lib:
/// ...     lib.answer()
/// 42
/// >>> host.unload("plugin")
/// True
/// >>> plugin.state, plugin.try_get()
/// ('going', False)
#[pyclass(frozen, eq, hash, name = "Module", module = "module_ref")]
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct LoadedModule(Module);

/// The references that Python has taken with `try_get` and `get`, and has not put yet. They are
/// kept by module: the one that puts may be another Python object for the same one. No list is
/// empty.
static TAKEN: LazyLock<Mutex<HashMap<LoadedModule, Vec<Reference>>>> =
    LazyLock::new(Mutex::default);

impl LoadedModule {
    fn released(&self) -> PyErr {
        Released::new_err(format!(
            "no reference to be had: module '{}' is being unloaded, or is gone",
            self.0.name()
        ))
    }
}

#[pymethods]
impl LoadedModule {
    /// The name it is known by in its host.
    ///
    /// >>> host = Host()
    /// >>> host.load("./plugin.so").name
    /// 'plugin'
    /// >>> host.load("./plugin.so", "another").name
    /// 'another'
    #[getter]
    fn name(&self) -> &str {
        self.0.name()
    }

    /// The path it was loaded from, as it was given.
    ///
    /// >>> Host().load("./plugin.so").path
    /// './plugin.so'
    #[getter]
    fn path(&self) -> &OsStr {
        self.0.path().as_os_str()
    }

    /// "coming" while its init function runs, "live" in service, "going" when it is being
    /// unloaded or is gone.
    ///
    /// >>> host = Host()
    /// >>> plugin = host.load("./plugin.so")
    /// >>> plugin.state, host.unload("plugin"), plugin.state
    /// ('live', True, 'going')
    #[getter]
    fn state(&self) -> &'static str {
        self.0.state().name()
    }

    /// References held; -1 once it is unloaded. Stale as soon as it is read.
    ///
    /// >>> host = Host()
    /// >>> plugin = host.load("./plugin.so")
    /// >>> with plugin.hold():
    /// ...     plugin.refcount
    /// 1
    /// >>> host.unload("plugin"), plugin.refcount
    /// (True, -1)
    #[getter]
    fn refcount(&self) -> i64 {
        self.0.refcount().map_or(-1, |held| held.try_into().unwrap_or(i64::MAX))
    }

    /// How its references are counted: "atomic" or "percpu".
    ///
    /// >>> Host().load("./plugin.so", per_cpu=False).mode
    /// 'atomic'
    #[getter]
    fn mode(&self) -> &'static str {
        mode_name(self.0.mode())
    }

    /// A context manager that holds the module for a with block, and gives a ctypes library to
    /// call it by. Entering it raises Released when the module is being unloaded, or is gone.
    ///
    /// It can be entered again, and from several threads; the library is the same one, so that
    /// argtypes and restype are set once for each hold().
    ///
    /// >>> host = Host()
    /// >>> plugin = host.load("./plugin.so")
    /// >>> with plugin.hold() as lib:
    /// ...     lib.answer()
    /// 42
    /// >>> lib.answer()
    /// Traceback (most recent call last):
    ///     ...
    /// module_ref.Released: module 'plugin' is not held: ...
    fn hold(&self, py: Python<'_>) -> PyResult<ModuleHold> {
        static LIBRARY: PyOnceLock<Py<PyType>> = PyOnceLock::new();
        let usage = Py::new(py, Use { of: self.clone(), held: Mutex::default() })?;
        let library = LIBRARY.import(py, "module_ref._library", "HeldLibrary")?;
        let library = library.call1((&usage, self.0.name()))?.unbind();
        Ok(ModuleHold { usage, lib: library })
    }

    /// Take a reference unless the module is being unloaded or is gone, and return whether
    /// there is now one to put.
    ///
    /// >>> host = Host()
    /// >>> plugin = host.load("./plugin.so")
    /// >>> plugin.try_get(), plugin.refcount
    /// (True, 1)
    /// >>> plugin.put()
    fn try_get(&self) -> bool {
        let Some(taken) = self.0.try_get() else { return false };
        lock(&TAKEN).entry(self.clone()).or_default().push(taken);
        true
    }

    /// Take one more reference, which works also while the module is being unloaded. Python has
    /// one already, from try_get(); without one it raises MisuseError.
    ///
    /// >>> host = Host()
    /// >>> plugin = host.load("./plugin.so")
    /// >>> plugin.try_get()
    /// True
    /// >>> plugin.get()
    /// >>> plugin.refcount
    /// 2
    /// >>> plugin.put(); plugin.put()
    fn get(&self) -> PyResult<()> {
        let mut all = lock(&TAKEN);
        let taken = all.get_mut(self);
        let taken = taken.ok_or_else(|| MisuseError::new_err("get without a try_get before"))?;
        taken.push(taken[0].clone());
        Ok(())
    }

    /// Give a reference back, from whichever thread. Without a try_get() or get() it raises
    /// MisuseError.
    ///
    /// >>> plugin = Host().load("./plugin.so")
    /// >>> plugin.put()
    /// Traceback (most recent call last):
    ///     ...
    /// module_ref.MisuseError: surplus put...
    fn put(&self) -> PyResult<()> {
        let mut all = lock(&TAKEN);
        let put = all.get_mut(self).and_then(Vec::pop);
        if all.get(self).is_some_and(Vec::is_empty) {
            all.remove(self);
        }
        drop(all);
        put.map(drop).ok_or_else(|| MisuseError::new_err(Misuse::SurplusPut.text()))
    }

    fn __repr__(&self) -> String {
        format!(
            "<module_ref.Module '{}' {} refcount={}>",
            self.0.name(),
            self.state(),
            self.refcount()
        )
    }
}

/// What Module.hold() returns: a reference for the length of a with block.
///
/// >>> host = Host()
/// >>> hold = host.load("./plugin.so").hold()
/// >>> with hold as lib:
/// ...     lib.answer()
/// 42
/// >>> with hold as again:
/// ...     again is lib
/// True
#[pyclass(frozen, module = "module_ref")]
pub(crate) struct ModuleHold {
    usage: Py<Use>,
    lib: Py<PyAny>,
}

#[pymethods]
impl ModuleHold {
    fn __enter__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let usage = self.usage.get();
        let reference = usage.of.0.try_get().ok_or_else(|| usage.of.released())?;
        lock(&usage.held).push(reference);
        Ok(self.lib.clone_ref(py))
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        lock(&self.usage.get().held)
            .pop()
            .map(drop)
            .ok_or_else(|| MisuseError::new_err(NOT_ENTERED))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.usage)?;
        visit.call(&self.lib)
    }
}

/// What a library and its functions reach the module by. It holds the module while its
/// hold() is entered, and for each call that is under way.
#[pyclass(frozen, module = "module_ref._native")]
pub(crate) struct Use {
    of: LoadedModule,
    /// One for each time that the hold is entered.
    held: Mutex<Vec<Reference>>,
}

impl Use {
    /// A reference of its own for one operation, which the end of the block does not take away.
    fn borrow(&self) -> PyResult<Reference> {
        lock(&self.held).first().cloned().ok_or_else(|| {
            Released::new_err(format!(
                "module '{}' is not held: its functions and data are valid inside of the with \
                 block",
                self.of.0.name()
            ))
        })
    }
}

#[pymethods]
impl Use {
    /// The address of a symbol. AttributeError if there is none.
    fn address(&self, py: Python<'_>, symbol: &str) -> PyResult<usize> {
        let held = self.borrow()?;
        // dlsym waits for the constructors of whatever is being loaded.
        let address = py.detach(|| {
            // SAFETY: an address, which is all that is done with it here.
            unsafe { held.symbol::<*mut c_void>(symbol) }.map(|found| (*found).addr())
        });
        match address {
            Ok(0) => Err(PyAttributeError::new_err(format!(
                "symbol '{symbol}' of module '{}' is at no address: it is weak, and not defined",
                self.of.0.name()
            ))),
            Ok(address) => Ok(address),
            Err(error) => Err(PyAttributeError::new_err(error.to_string())),
        }
    }

    /// Call function(*arguments), with the module held until it returns.
    fn call<'py>(
        &self,
        function: &Bound<'py, PyAny>,
        arguments: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _held = self.borrow()?;
        function.call1(arguments)
    }

    /// Whether the hold is entered.
    #[getter]
    fn held(&self) -> bool {
        !lock(&self.held).is_empty()
    }
}

// ---- events ----------------------------------------------------------------------

thread_local! {
    /// What a callback has raised on this thread to refuse a module, and the errno that became of
    /// it. For `bring_up`.
    static REFUSAL: RefCell<Option<(i32, PyErr)>> = const { RefCell::new(None) };
}

/// A Python callback. The garbage collector may take it away.
struct Callback(Mutex<Option<Py<PyAny>>>);

impl Callback {
    fn get(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        lock(&self.0).as_ref().map(|callback| callback.clone_ref(py))
    }

    fn take(&self) -> Option<Py<PyAny>> {
        lock(&self.0).take()
    }

    /// The notifier. It refuses a module by raising.
    fn tell(&self, module: &Module, state: State) -> Result<(), Error> {
        // An interpreter that is shutting down is told of nothing more.
        let told = Python::try_attach(|py| {
            let Some(callback) = self.get(py) else { return Ok(()) };
            let Err(raised) = callback.call1(py, (state.name(), LoadedModule(module.clone())))
            else {
                return Ok(());
            };
            if state != State::Coming {
                raised.write_unraisable(py, Some(callback.bind(py)));
                return Ok(());
            }
            let errno = errno_of(py, &raised);
            let refusal = Error::refuse(errno.unwrap_or(libc::ECANCELED), raised.to_string());
            REFUSAL.set(Some((refusal.errno(), raised)));
            Err(refusal)
        });
        told.unwrap_or(Ok(()))
    }
}

fn errno_of(py: Python<'_>, raised: &PyErr) -> Option<i32> {
    let raised = raised.value(py);
    raised.is_instance_of::<PyOSError>().then(|| raised.getattr("errno").ok()?.extract().ok())?
}

/// A load or a replacement, detached. If a callback has refused it, what that raised is the cause
/// of the OSError; KeyboardInterrupt and its like, which are no Exception, go on as they are.
fn bring_up<T: Send>(
    py: Python<'_>,
    operation: impl Send + FnOnce() -> Result<T, Error>,
) -> PyResult<T> {
    // A callback or an init function may load something, too.
    let outer = REFUSAL.take();
    let result = py.detach(operation);
    let refusal = REFUSAL.replace(outer);
    result.map_err(|error| match refusal {
        // Or else it refused something that an init function has loaded, which is its own affair.
        Some((errno, raised)) if errno == error.errno() => {
            if !raised.is_instance_of::<PyException>(py) {
                return raised;
            }
            let refused = host_error(error);
            refused.set_cause(py, Some(raised));
            refused
        }
        _ => host_error(error),
    })
}

// ---- the host --------------------------------------------------------------------

/// What Host.last_unloaded returns.
///
/// >>> host = Host()
/// >>> plugin = host.load("./plugin.so")
/// >>> host.unload("plugin")
/// True
/// >>> host.last_unloaded
/// <module_ref.LastUnloaded 'plugin' unmapped>
/// >>> host.last_unloaded.name, host.last_unloaded.resident, host.last_unloaded.reason
/// ('plugin', False, None)
#[pyclass(frozen, eq, get_all, name = "LastUnloaded", module = "module_ref")]
#[derive(PartialEq, Eq)]
pub(crate) struct PyLastUnloaded {
    /// What the module was called.
    name: String,
    /// Whether its code was still mapped.
    resident: bool,
    /// Why, or None.
    reason: Option<String>,
}

impl From<LastUnloaded> for PyLastUnloaded {
    fn from(last: LastUnloaded) -> Self {
        let reason = match last.outcome {
            Unloaded::Unmapped => None,
            Unloaded::Resident(why) => Some(why.to_string()),
        };
        Self { name: last.name, resident: reason.is_some(), reason }
    }
}

#[pymethods]
impl PyLastUnloaded {
    fn __repr__(&self) -> String {
        match &self.reason {
            None => format!("<module_ref.LastUnloaded '{}' unmapped>", self.name),
            Some(why) => format!("<module_ref.LastUnloaded '{}' resident: {why}>", self.name),
        }
    }
}

/// A table of modules: loads, finds, lists, unloads and replaces shared objects.
///
/// >>> host = Host()
/// >>> plugin = host.load("./plugin.so")
/// >>> with plugin.hold() as lib:
/// ...     lib.answer()
/// 42
/// >>> host.unload("plugin")
/// True
///
/// A plugin is any shared object. If it exports ``int init_module(void)`` and ``void
/// cleanup_module(void)`` they are called when it comes and goes. What is held is not unloaded;
/// nothing is ever unmapped under a holder, also by force.
///
/// Failures are OSErrors made from the errno value, so that Python's own subclasses appear:
/// FileNotFoundError for ENOENT, BlockingIOError for EWOULDBLOCK and so on. Objects may be shared
/// between threads, and other Python threads run while one loads, unloads or waits.
///
/// close(), or a with block, ends a host that has no modules. One that is dropped while
/// modules remain leaves them in memory, for those who hold references.
///
/// >>> with Host() as host:
/// ...     plugin = host.load("./plugin.so")
/// ...     host.unload("plugin")
/// True
#[pyclass(frozen, name = "Host", module = "module_ref")]
pub(crate) struct PyHost {
    /// None once it is closed. Every call reads it for as long as it takes, and close() writes it;
    /// both only try, since either may be in a callback of the other.
    host: RwLock<Option<Host>>,
    /// The oldest first.
    events: Mutex<Vec<(NotifierId, Arc<Callback>)>>,
}

/// A host for the length of a call.
struct Call<'a>(RwLockReadGuard<'a, Option<Host>>);

impl Deref for Call<'_> {
    type Target = Host;

    fn deref(&self) -> &Host {
        self.0.as_ref().expect("looked at by open()")
    }
}

impl PyHost {
    fn open(&self) -> PyResult<Call<'_>> {
        let host = match self.host.try_read() {
            Ok(host) => host,
            Err(TryLockError::Poisoned(host)) => host.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(PyOSError::new_err((libc::EBUSY, "the host is being closed")));
            }
        };
        if host.is_none() {
            return Err(PyValueError::new_err("the host is closed"));
        }
        Ok(Call(host))
    }

    /// Lets go of the callbacks, also where a host that is left in memory has them.
    fn forget_callbacks(&self) {
        let events = mem::take(&mut *lock(&self.events));
        for (_, callback) in events {
            drop(callback.take());
        }
    }
}

#[pymethods]
impl PyHost {
    #[new]
    fn new() -> Self {
        Self { host: RwLock::new(Some(Host::new())), events: Mutex::default() }
    }

    /// Load the shared object at path, and return once its init function, if it has one, has
    /// returned. Its name is the file's, up to ".so", unless one is given; per_cpu says how
    /// references are counted.
    ///
    /// The object's code runs in this process: its constructors, and init_module. A path
    /// without a slash is a file in the working directory if there is one, and else a library
    /// that the dynamic linker finds. A file that is loaded already is loaded a second
    /// time, as an object of its own.
    ///
    /// Raises FileExistsError if a module has that name; FileNotFoundError for a missing file,
    /// library or symbol; OSError with ENOEXEC for what is not a shared object of this machine,
    /// with EBUSY if a module of that name is just going, with EINVAL or ENAMETOOLONG for
    /// a name that a module cannot have; and with whatever the init function or a callback
    /// refuses with. After an error nothing is left of it, unless somebody kept a reference.
    ///
    /// >>> host = Host()
    /// >>> host.load("./plugin.so")
    /// <module_ref.Module 'plugin' live refcount=0>
    /// >>> host.load("./plugin.so", name="twin", per_cpu=False)
    /// <module_ref.Module 'twin' live refcount=0>
    /// >>> host.load("./plugin.so")
    /// Traceback (most recent call last):
    ///     ...
    /// FileExistsError: [Errno 17] ...
    /// >>> host.load("./no-such.so")
    /// Traceback (most recent call last):
    ///     ...
    /// FileNotFoundError: [Errno 2] ...
    #[pyo3(signature = (path, name = None, *, per_cpu = true))]
    fn load(
        &self,
        py: Python<'_>,
        path: &Bound<'_, PyAny>,
        name: Option<String>,
        per_cpu: bool,
    ) -> PyResult<LoadedModule> {
        let host = self.open()?;
        let path = path_of(path)?;
        let mut how = Load::new().mode(if per_cpu { Mode::PerCpu } else { Mode::Atomic });
        if let Some(name) = name {
            how = how.name(name);
        }
        // SAFETY: to have the object's code run is what the Python program asks for.
        bring_up(py, || unsafe { host.load_with(path, how) }).map(LoadedModule)
    }

    /// Unload a module, and return whether its code is gone from memory; last_unloaded has the
    /// reason if it is not.
    ///
    /// With a timeout of 0 a module that is held stays as it is: BlockingIOError. Otherwise no
    /// new references are given out, and the last one is waited for; after timeout seconds
    /// (None: never) the module is live again: TimeoutError. Other Python threads run
    /// meanwhile. Signals are handled; an exception from a handler, such as KeyboardInterrupt,
    /// ends the wait and is raised, and the module is live again. If the last reference went in
    /// that very moment the module is unloaded, and the exception is raised all the same; find()
    /// tells.
    ///
    /// With force it is unloaded also if references are held (when the time is up, or an
    /// exception has ended the wait), or if it has an init and no exit function; its code stays
    /// until the last holder has let go, and the host is tainted.
    ///
    /// Raises FileNotFoundError if there is no such module, BlockingIOError if others depend on
    /// it, also by force, and OSError with EBUSY if it is not live, or has an init function
    /// and no exit function. An error leaves everything as it was. The caller must hold no
    /// reference, such as by a with block.
    ///
    /// >>> host = Host()
    /// >>> plugin = host.load("./plugin.so")
    /// >>> plugin.try_get()
    /// True
    /// >>> host.unload("plugin")
    /// Traceback (most recent call last):
    ///     ...
    /// BlockingIOError: [Errno 11] ...
    /// >>> plugin.put()
    /// >>> host.unload("plugin", timeout=1.0)
    /// True
    #[pyo3(
        signature = (name, force = false, timeout = Some(0.0)),
        text_signature = "($self, name, force=False, timeout=0.0)"
    )]
    fn unload(
        &self,
        py: Python<'_>,
        name: &str,
        force: bool,
        timeout: Option<f64>,
    ) -> PyResult<bool> {
        let limit = time_limit(timeout)?;
        let host = self.open()?;
        let mut patience = Patience::new(limit);
        let unloaded = py.detach(|| match limit {
            Some(Duration::ZERO) if force => host.unload(name, Unload::now().force()),
            Some(Duration::ZERO) => host.unload(name, Unload::now()),
            _ => host.unload_with(name, force, |held| patience.wait(held)),
        });
        patience.raised()?;
        Ok(unloaded.map_err(host_error)? == Unloaded::Unmapped)
    }

    /// unload() for asyncio: to be awaited, in whichever loop runs, without a thread. It returns and
    /// raises the same; only the default timeout is None, which is for ever.
    ///
    /// The door is shut when it is first awaited. What is run at the end (the exit function,
    /// callbacks) runs on the loop's thread. When the task is cancelled, as by
    /// asyncio.timeout() or asyncio.wait_for(), the module is live again, also with force.
    ///
    /// >>> import asyncio
    /// >>> host = Host()
    /// >>> plugin = host.load("./plugin.so")
    /// >>> asyncio.run(host.unload_async("plugin", timeout=5))
    /// True
    #[pyo3(
        signature = (name, force = false, timeout = None),
        text_signature = "($self, name, force=False, timeout=None)"
    )]
    fn unload_async<'py>(
        slf: Bound<'py, Self>,
        name: String,
        force: bool,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        static UNLOAD: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let limit = time_limit(timeout)?.map(|limit| limit.as_secs_f64());
        let unload = UNLOAD.import(slf.py(), "module_ref._async", "unload")?;
        unload.call1((slf, name, force, limit))
    }

    /// Close a module, without waiting.
    fn _unload_begin(&self, py: Python<'_>, name: &str, force: bool) -> PyResult<Unloading> {
        let host = self.open()?;
        let begun = py.detach(|| host.unload_begin_raw(name, force));
        let (of, descriptor) = begun.map_err(host_error)?;
        Ok(Unloading { of, descriptor, force, over: AtomicBool::new(false) })
    }

    /// Put the object at path, which may be the same file with other content, in the place of a
    /// module, and return whether the old one's code is gone from memory.
    ///
    /// The new one is loaded and initialised before the old one is let go: whoever looks the
    /// name up finds the one or the other. Then the old one's references are waited for, as
    /// long as timeout says (None: for ever), and it is unloaded. If it is still held by then
    /// this returns False, and its code goes with a later call of the host once its last
    /// reference is put.
    ///
    /// Other Python threads run meanwhile. Signals are handled during the wait; an exception from
    /// a handler, such as KeyboardInterrupt, ends it as if the time were up and is raised. The
    /// new one is in service then.
    ///
    /// Raises what load() raises; FileNotFoundError if there is no such module, BlockingIOError
    /// if others depend on it, and OSError with EBUSY if it is not live, is being replaced, or has
    /// an init and no exit function. After such an error the old one is in service.
    ///
    /// >>> host = Host()
    /// >>> old = host.load("./plugin.so")
    /// >>> host.replace("plugin", "./plugin-v2.so", timeout=1.0)
    /// True
    /// >>> old.state, host.find("plugin").state
    /// ('going', 'live')
    /// >>> with host.find("plugin").hold() as lib:
    /// ...     lib.answer()
    /// 43
    #[pyo3(
        signature = (name, path, timeout = Some(0.0)),
        text_signature = "($self, name, path, timeout=0.0)"
    )]
    fn replace(
        &self,
        py: Python<'_>,
        name: &str,
        path: &Bound<'_, PyAny>,
        timeout: Option<f64>,
    ) -> PyResult<bool> {
        let mut patience = Patience::new(time_limit(timeout)?);
        let host = self.open()?;
        let path = path_of(path)?;
        let wait = |held: &Held<'_>| patience.wait(held);
        // SAFETY: as for load.
        let old = bring_up(py, || unsafe { host.replace_with(name, path, wait) })?;
        patience.raised()?;
        Ok(old == Unloaded::Unmapped)
    }

    /// The module of that name, or None. It is not held by that.
    ///
    /// >>> host = Host()
    /// >>> plugin = host.load("./plugin.so")
    /// >>> host.find("plugin") == plugin
    /// True
    /// >>> host.find("nothing") is None
    /// True
    fn find(&self, name: &str) -> PyResult<Option<LoadedModule>> {
        Ok(self.open()?.find(name).map(LoadedModule))
    }

    /// The modules that are there, newest first.
    ///
    /// >>> host = Host()
    /// >>> first = host.load("./plugin.so", "first")
    /// >>> second = host.load("./plugin.so", "second")
    /// >>> host.modules() == [second, first]
    /// True
    fn modules(&self) -> PyResult<Vec<LoadedModule>> {
        Ok(self.open()?.modules().into_iter().map(LoadedModule).collect())
    }

    /// The modules in the format of /proc/modules: one line each, newest first, "name size
    /// refcount users state 0xaddress[ (taints)]".
    ///
    /// >>> host = Host()
    /// >>> plugin = host.load("./plugin.so")
    /// >>> host.list()
    /// 'plugin ... 0 - Live 0x...\n'
    fn list(&self) -> PyResult<String> {
        Ok(self.open()?.list())
    }

    /// Make user depend on provider, until user is unloaded: a reference on the provider, once
    /// for each pair. What is linked with another module's object depends on it without this.
    ///
    /// Raises OSError with EDEADLK if that closed a cycle, with EXDEV if they are not of one host,
    /// and FileNotFoundError if either is going.
    ///
    /// >>> host = Host()
    /// >>> provider = host.load("./plugin.so", "provider")
    /// >>> user = host.load("./plugin.so", "user")
    /// >>> host.add_dependency(user, provider)
    /// >>> host.unload("provider")
    /// Traceback (most recent call last):
    ///     ...
    /// BlockingIOError: [Errno 11] ...
    /// >>> host.unload("user"), host.unload("provider")
    /// (True, True)
    fn add_dependency(&self, user: &LoadedModule, provider: &LoadedModule) -> PyResult<()> {
        let _host = self.open()?;
        Host::add_dependency(&user.0, &provider.0).map_err(host_error)
    }

    /// Unmap what was unloaded or replaced while it was held, and is not held any more; load(),
    /// unload() and replace() do so, too. Returns how many are gone from memory.
    ///
    /// >>> host = Host()
    /// >>> plugin = host.load("./plugin.so")
    /// >>> plugin.try_get(), host.unload("plugin", force=True)
    /// (True, False)
    /// >>> host.reap()  # it is still held
    /// 0
    /// >>> plugin.put()
    /// >>> host.reap()
    /// 1
    fn reap(&self, py: Python<'_>) -> PyResult<usize> {
        let host = self.open()?;
        Ok(py.detach(|| host.reap()))
    }

    /// Whether an unload was ever forced upon holders, or on a module without an exit function.
    ///
    /// >>> host = Host()
    /// >>> plugin = host.load("./plugin.so")
    /// >>> host.tainted
    /// False
    /// >>> with plugin.hold():
    /// ...     host.unload("plugin", force=True)
    /// False
    /// >>> host.tainted
    /// True
    #[getter]
    fn tainted(&self) -> PyResult<bool> {
        Ok(self.open()?.tainted())
    }

    /// What was unloaded last, and whether it is gone from memory; None if nothing was.
    ///
    /// >>> host = Host()
    /// >>> host.last_unloaded is None
    /// True
    /// >>> plugin = host.load("./plugin.so")
    /// >>> host.unload("plugin"), host.last_unloaded
    /// (True, <module_ref.LastUnloaded 'plugin' unmapped>)
    #[getter]
    fn last_unloaded(&self) -> PyResult<Option<PyLastUnloaded>> {
        Ok(self.open()?.last_unloaded().map(Into::into))
    }

    /// Have callback(event, module) called for every module that comes and goes, on the thread
    /// that loads or unloads it, higher priorities first. Returns the callback, so that this
    /// can be a decorator. It may call the host.
    ///
    /// The event is "coming" before the init function, "live" after it, and "going" after the exit
    /// function. An exception for "coming" refuses the module: load() raises an OSError with
    /// the errno of the exception if that is an OSError, with ECANCELED if not, and the exception
    /// as its __cause__. Other exceptions go to sys.unraisablehook.
    ///
    /// >>> host = Host()
    /// >>> @host.on_event
    /// ... def tell(event, module):
    /// ...     print(event, module.name)
    /// >>> plugin = host.load("./plugin.so")
    /// coming plugin
    /// live plugin
    /// >>> host.unload("plugin")
    /// going plugin
    /// True
    #[pyo3(signature = (callback, priority = 0))]
    fn on_event(&self, callback: Py<PyAny>, py: Python<'_>, priority: i32) -> PyResult<Py<PyAny>> {
        let host = self.open()?;
        if !callback.bind(py).is_callable() {
            return Err(PyTypeError::new_err("the callback must be callable"));
        }
        let entry = Arc::new(Callback(Mutex::new(Some(callback.clone_ref(py)))));
        let notifier = entry.clone();
        let id = host.on_event(priority, move |module, state| notifier.tell(module, state));
        lock(&self.events).push((id, entry));
        Ok(callback)
    }

    /// Take a callback back, and wait until no other thread is in it. Of several that are equal
    /// it is the oldest. Raises FileNotFoundError if it is not registered.
    ///
    /// >>> host = Host()
    /// >>> callback = host.on_event(lambda event, module: print(event))
    /// >>> host.remove_event(callback)
    /// >>> plugin = host.load("./plugin.so")  # and nothing is printed
    fn remove_event(&self, py: Python<'_>, callback: &Bound<'_, PyAny>) -> PyResult<()> {
        let host = self.open()?;
        // Equal, because a bound method is a new object each time; and equality may be Python code.
        let events: Vec<_> = lock(&self.events).clone();
        let mut id = None;
        for (of, entry) in &events {
            if let Some(registered) = entry.get(py)
                && (registered.is(callback) || registered.bind(py).eq(callback)?)
            {
                id = Some(*of);
                break;
            }
        }
        let entry = {
            let mut events = lock(&self.events);
            let at = events.iter().position(|(of, _)| Some(*of) == id);
            at.map(|at| events.remove(at))
        };
        let Some((id, entry)) = entry else {
            let why = "that callback is not registered with this host";
            return Err(PyOSError::new_err((libc::ENOENT, why)));
        };
        py.detach(|| host.remove_notifier(id)).map_err(host_error)?;
        drop(entry.take());
        Ok(())
    }

    /// End the host; what it is asked afterwards raises ValueError, but for another close(),
    /// which does nothing. Raises OSError with EBUSY, and the host stays open, while modules
    /// remain, or what was unloaded is still held, or another thread is in a call of it.
    ///
    /// >>> host = Host()
    /// >>> plugin = host.load("./plugin.so")
    /// >>> host.close()
    /// Traceback (most recent call last):
    ///     ...
    /// OSError: [Errno 16] ...
    /// >>> host.unload("plugin")
    /// True
    /// >>> host.close()
    /// >>> host.modules()
    /// Traceback (most recent call last):
    ///     ...
    /// ValueError: the host is closed
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        // First for itself: callbacks that hear of it may call the host.
        if let Ok(host) = self.open() {
            py.detach(|| host.reap());
        }
        let mut host = match self.host.try_write() {
            Ok(host) => host,
            Err(TryLockError::Poisoned(host)) => host.into_inner(),
            Err(TryLockError::WouldBlock) => {
                let why = "another call of the host is under way";
                return Err(PyOSError::new_err((libc::EBUSY, why)));
            }
        };
        let slot = &mut *host;
        py.detach(|| {
            slot.as_ref().map_or(Ok(()), Host::check_empty)?;
            *slot = None;
            Ok(())
        })
        .map_err(host_error)?;
        drop(host);
        self.forget_callbacks();
        Ok(())
    }

    fn __enter__(slf: Py<Self>) -> PyResult<Py<Self>> {
        slf.get().open()?;
        Ok(slf)
    }

    /// close(), which unloads nothing. An error of it does not hide an exception that is on its
    /// way already.
    #[pyo3(signature = (*exception))]
    fn __exit__(&self, exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        let raised = exception.get_item(0).is_ok_and(|kind| !kind.is_none());
        self.close(exception.py()).or_else(|error| if raised { Ok(()) } else { Err(error) })
    }

    fn __repr__(&self) -> String {
        match self.open() {
            Ok(host) => format!("<module_ref.Host with {} modules>", host.modules().len()),
            Err(_) => "<module_ref.Host closed>".to_owned(),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // Nobody has these locks for longer than a moment in which no collection begins.
        let Ok(events) = self.events.try_lock() else { return Ok(()) };
        for (_, callback) in &*events {
            if let Ok(callback) = callback.0.try_lock() {
                visit.call(&*callback)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.forget_callbacks();
    }
}

/// An unload that was begun, for ``module_ref._async``.
#[pyclass(frozen, module = "module_ref._native")]
pub(crate) struct Unloading {
    of: Module,
    descriptor: OwnedFd,
    force: bool,
    over: AtomicBool,
}

#[pymethods]
impl Unloading {
    /// Readable when finish() may have an answer.
    fn fileno(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }

    /// None while the module is held. Otherwise it is unloaded, and this is what unload() returns.
    fn finish(&self, py: Python<'_>) -> PyResult<Option<bool>> {
        let outcome = py.detach(|| self.of.unload_finish(false));
        // Relaxed, here and below: a flag of its own; the host knows who has ended it.
        self.over.store(!matches!(outcome, Ok(None)), Relaxed);
        let outcome = outcome.map_err(host_error)?;
        Ok(outcome.map(|unloaded| unloaded == Unloaded::Unmapped))
    }

    /// When the time is up: unloads it by force, if that was asked for; or the module is live
    /// again, and it raises what unload() does.
    fn time_is_up(&self, py: Python<'_>) -> PyResult<bool> {
        self.over.store(true, Relaxed);
        let outcome = py.detach(|| {
            if self.force {
                // By force it is not held.
                self.of.unload_finish(true).map(|unloaded| unloaded == Some(Unloaded::Unmapped))
            } else {
                self.of.unload_time_is_up().map(|unloaded| unloaded == Unloaded::Unmapped)
            }
        });
        outcome.map_err(host_error)
    }

    /// Make the module live again, unless the unload is over.
    fn abandon(&self, py: Python<'_>) {
        py.detach(|| self.cancel());
    }
}

impl Unloading {
    fn cancel(&self) {
        if !self.over.swap(true, Relaxed) {
            // Or else somebody has ended it otherwise.
            let _ = self.of.unload_cancel();
        }
    }
}

impl Drop for Unloading {
    fn drop(&mut self) {
        // Nothing of Python's is waited for, so that the GIL may be held.
        self.cancel();
    }
}

impl Drop for PyHost {
    fn drop(&mut self) {
        let mut host = self.host.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // Its end may run exit functions. Where the interpreter is at its own end, as it is.
        let _ = Python::try_attach(|py| py.detach(|| drop(host.take())));
        drop(host);
        self.forget_callbacks();
    }
}
