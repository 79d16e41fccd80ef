//! The module host behind Python objects: conversions, and the references that Python holds.
//!
//! Whatever may wait, or may run code of a module, runs detached from the interpreter. No lock of
//! this file is held while Python code runs, or by a thread that is detached; but for a host's
//! own one, which every call has, and which nobody waits for.

use crate::{
    MisuseError, NOT_ENTERED, Patience, Released, SIGNAL_INTERVAL, mode_name, os_error, time_limit,
};
use module_ref::host::raw::Despite;
use module_ref::host::{
    self, AfterUnload, Error, Host, LastUnloaded, Load, Module, NotifierId, Reference, State,
    Unload, Unloaded, check_file,
};
use module_ref::misuse::Misuse;
use module_ref::{Held, Mode};
use pyo3::exceptions::{PyAttributeError, PyException, PyOSError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyTuple, PyType};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString, c_void};
use std::mem;
use std::ops::Deref;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{
    Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, TryLockError,
};
use std::time::{Duration, Instant};

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

/// How many calls of a gate (Module.gate()) were refused.
///
/// >>> import ctypes
/// >>> host = Host()
/// >>> half = host.load("./plugin.so").gate("half", ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double))
/// >>> half(3.0), gate_refused(half)
/// (1.5, 0)
#[pyfunction]
pub(crate) fn gate_refused(gate: &Bound<'_, PyAny>) -> PyResult<u64> {
    let ctypes = gate.py().import("ctypes")?;
    let pointer = ctypes.call_method1("cast", (gate, ctypes.getattr("c_void_p")?))?;
    let address: Option<usize> = pointer.getattr("value")?.extract()?;
    Ok(host::raw::gate_refused(address.unwrap_or(0)))
}

/// Tell from a file alone what will keep it in memory, or may crash the program once it is unmapped.
///
/// Each finding is a line: a keyword that stays the same in later versions, ": ", and a sentence that
/// names the symbol and says what to do. None of the file's code is run. OSError, as for load(), if
/// it is no shared object or cannot be read.
///
/// >>> check("./plugin.so")
/// []
#[pyfunction]
pub(crate) fn check(py: Python<'_>, path: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    let path = path_of(path)?;
    py.detach(|| check_file(path)).map_err(host_error)
}

// ---- modules ---------------------------------------------------------------------

/// One load of a shared object, as Host.load(), Host.find() and Host.modules() return it.
///
/// It answers questions about the module for ever, even when the host is gone. Using the module's
/// code takes a reference. Once the module is unloaded every attempt to take one fails, even when
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
pub(crate) struct LoadedModule(Module, Tracked);

/// Whether a host's references are tracked.
type Tracked = bool;

/// The references that Python has taken with `try_get` and `get`, and has not put yet. They are
/// kept by module: the one that puts may be another Python object for the same one. No list is
/// empty.
static TAKEN: LazyLock<Mutex<HashMap<LoadedModule, Vec<Reference>>>> =
    LazyLock::new(Mutex::default);

/// Where the Python code is that has called this.
fn place(py: Python<'_>) -> PyResult<String> {
    let frame = py.import("sys")?.call_method0("_getframe")?;
    let file: String = frame.getattr("f_code")?.getattr("co_filename")?.extract()?;
    Ok(format!("{file}:{}", frame.getattr("f_lineno")?))
}

impl LoadedModule {
    /// A reference for its caller, who is told of if that is wanted.
    fn take(&self, py: Python<'_>) -> PyResult<Option<Reference>> {
        self.0.try_get().map(|taken| self.noted(taken, py)).transpose()
    }

    fn noted(&self, mut taken: Reference, py: Python<'_>) -> PyResult<Reference> {
        if self.1 {
            taken.note(&place(py)?);
        }
        Ok(taken)
    }

    fn released(&self) -> PyErr {
        Released::new_err(format!(
            "no reference: module '{}' is being unloaded, or is gone",
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

    /// Everybody who stands in the module's code now, or points into it, with a reference or
    /// without: what an unload looks for, and writable memory as well (2.5 ms for each MB). A line
    /// each.
    ///
    /// A line about memory is a hint: memory that was freed may still contain an address. Raises
    /// OSError with EBUSY if another thread is unloading it.
    ///
    /// >>> host = Host()
    /// >>> plugin = host.load("./plugin.so")
    /// >>> [line for line in plugin.dangling() if line.startswith("thread")]
    /// []
    fn dangling(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        py.detach(|| self.0.dangling()).map_err(host_error)
    }

    /// A gate: an address for a library that calls a function of the module whenever it likes, as a
    /// ctypes function of that prototype. It stays valid for ever, even when this object and the
    /// module are gone. A call holds the module; once the module is being unloaded, a call returns
    /// refused, and is counted (gate_refused()).
    ///
    /// function is a name or an address. With follow=True a name leads to whichever module has this
    /// one's name, after a replacement too. Arguments must go in registers. refused is an integer,
    /// a pointer's number, or the bits of a c_double.
    ///
    /// Raises Released when the module is being unloaded or is gone, and OSError when it has no such
    /// function or nothing can be made executable.
    ///
    /// >>> import ctypes
    /// >>> host = Host()
    /// >>> plugin = host.load("./plugin.so")
    /// >>> answer = plugin.gate("answer", ctypes.CFUNCTYPE(ctypes.c_int), -1)
    /// >>> answer(), host.unload("plugin"), answer(), gate_refused(answer)
    /// (42, True, -1, 1)
    #[pyo3(signature = (function, prototype, refused=0, *, follow=false))]
    fn gate<'py>(
        &self,
        function: &Bound<'py, PyAny>,
        prototype: &Bound<'py, PyAny>,
        refused: i128,
        follow: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = function.py();
        let refused = i64::try_from(refused).map(|signed| signed as u64).or_else(|_| {
            u64::try_from(refused)
                .map_err(|_| PyValueError::new_err("refused does not fit into a register"))
        })? as usize;
        let held = self.0.try_get().ok_or_else(|| self.released())?;
        let gate = if let Ok(name) = function.extract::<String>() {
            // dlsym waits for the constructors of whatever is being loaded.
            py.detach(|| {
                let made = if follow {
                    self.0.raw_gate_follow(&name, refused)
                } else {
                    // SAFETY: an address, which is all that is done with it here.
                    let found = unsafe { held.symbol::<*mut c_void>(&name)? };
                    self.0.raw_gate(*found, refused)
                };
                made.map(|gate| gate.addr())
            })
        } else if follow {
            return Err(PyTypeError::new_err("a gate that follows needs the function's name"));
        } else {
            let address: usize = function.extract()?;
            self.0.raw_gate(ptr::without_provenance(address), refused).map(|gate| gate.addr())
        };
        prototype.call1((gate.map_err(host_error)?,))
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

    /// Keep the module for good: every unload and replacement, forced or not, is refused with this
    /// reason.
    ///
    /// >>> host = Host()
    /// >>> plugin = host.load("./plugin.so")
    /// >>> plugin.pin("it has registered a callback for good")
    /// >>> host.unload("plugin", force=True)
    /// Traceback (most recent call last):
    ///     ...
    /// OSError: [Errno 16] module 'plugin' stays for good: it has registered a callback for good
    fn pin(&self, py: Python<'_>, why: &str) -> PyResult<()> {
        py.detach(|| self.0.pin(why)).map_err(host_error)
    }

    /// Take a reference unless the module is being unloaded or is gone, and return whether
    /// there is now one to put.
    ///
    /// >>> host = Host()
    /// >>> plugin = host.load("./plugin.so")
    /// >>> plugin.try_get(), plugin.refcount
    /// (True, 1)
    /// >>> plugin.put()
    fn try_get(&self, py: Python<'_>) -> PyResult<bool> {
        let Some(taken) = self.take(py)? else { return Ok(false) };
        lock(&TAKEN).entry(self.clone()).or_default().push(taken);
        Ok(true)
    }

    /// Take one more reference, which works even while the module is being unloaded. Python has one
    /// already, from try_get(); without one it raises MisuseError.
    ///
    /// >>> host = Host()
    /// >>> plugin = host.load("./plugin.so")
    /// >>> plugin.try_get()
    /// True
    /// >>> plugin.get()
    /// >>> plugin.refcount
    /// 2
    /// >>> plugin.put(); plugin.put()
    fn get(&self, py: Python<'_>) -> PyResult<()> {
        let more = lock(&TAKEN).get(self).map(|taken| taken[0].clone());
        let more = more.ok_or_else(|| MisuseError::new_err("get without a try_get before"))?;
        let more = self.noted(more, py)?;
        lock(&TAKEN).entry(self.clone()).or_default().push(more);
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
        let reference = usage.of.take(py)?.ok_or_else(|| usage.of.released())?;
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
struct Callback(Mutex<Option<Py<PyAny>>>, Tracked);

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
            let Err(raised) =
                callback.call1(py, (state.name(), LoadedModule(module.clone(), self.1)))
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
/// nothing is ever unmapped under a holder, even by force.
///
/// Failures are OSErrors made from the errno value, so that Python's own subclasses appear:
/// FileNotFoundError for ENOENT, BlockingIOError for EWOULDBLOCK and so on. Objects may be shared
/// between threads, and other Python threads run while one loads, unloads or waits.
///
/// close(), or a with block, ends a host that has no modules. One that is dropped while
/// modules remain leaves them in memory, for those who hold references.
///
/// With track, a refused unload names who holds the module: the file and line of each hold() that
/// is entered and of each try_get() and get(), with thread and age.
///
/// >>> with Host() as host:
/// ...     plugin = host.load("./plugin.so")
/// ...     host.unload("plugin")
/// True
/// >>> host = Host(track=True)
/// >>> with host.load("./plugin.so").hold() as lib:
/// ...     host.unload("plugin")
/// Traceback (most recent call last):
///     ...
/// BlockingIOError: [Errno 11] module 'plugin' is in use: 1 reference; ...; held by ...: thread ...
#[pyclass(frozen, name = "Host", module = "module_ref")]
pub(crate) struct PyHost {
    /// None once it is closed. Every call reads it for as long as it takes, and close() writes it;
    /// both only try, since either may be in a callback of the other.
    host: RwLock<Option<Host>>,
    /// The oldest first.
    events: Mutex<Vec<(NotifierId, Arc<Callback>)>>,
    tracked: Tracked,
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

impl PyHost {
    fn replace_all<P: AsRef<Path> + Sync>(
        &self,
        py: Python<'_>,
        set: &[(&str, P)],
        timeout: Option<f64>,
        stop_first: bool,
    ) -> PyResult<bool> {
        let mut patience = Patience::new(time_limit(timeout)?);
        let host = self.open()?;
        let wait = |held: &Held<'_>| patience.wait(held);
        // SAFETY: as for load.
        let replaced = bring_up(py, || unsafe { host.replace_set_with(set, stop_first, wait) });
        patience.raised()?;
        Ok(replaced?.iter().all(Unloaded::is_complete))
    }
}

#[pymethods]
impl PyHost {
    #[new]
    #[pyo3(signature = (*, track = false))]
    fn new(track: bool) -> Self {
        let host = RwLock::new(Some(Host::new()));
        Self { host, events: Mutex::default(), tracked: track }
    }

    /// Unload all modules, each before those that it depends on: first those that can go at once,
    /// then those that are held. It waits for these for timeout seconds in all (None: for ever).
    /// Returns 0, or raises OSError (EBUSY, or what stood in the way) if any are left.
    ///
    /// >>> host = Host()
    /// >>> _ = host.load("./plugin.so"), host.load("./plugin.so", name="another")
    /// >>> host.shutdown(timeout=1)
    /// 0
    #[pyo3(
        signature = (timeout = Some(0.0)),
        text_signature = "($self, timeout=0.0)"
    )]
    fn shutdown(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<usize> {
        let mut patience = Patience::new(time_limit(timeout)?);
        let host = self.open()?;
        let outcome = py.detach(|| host.shutdown_with(|held| patience.wait(held)));
        patience.raised()?;
        outcome.map_or_else(|(_, error)| Err(host_error(error)), |()| Ok(0))
    }

    /// Load the shared object at path, and return once its init function, if it has one, has
    /// returned. Its name is the file's, up to ".so", unless one is given; per_cpu says how
    /// references are counted. With copied it is loaded from a copy in memory, so that the file may be
    /// written over in place while the module is in use. With deletable a file that asks never to be
    /// unmapped (-z nodelete) is loaded from a copy that does not.
    ///
    /// The object's code runs in this process: its constructors, and init_module. A path without a
    /// slash is a file in the working directory if there is one, and otherwise a library that the
    /// dynamic linker finds. A file that is loaded already is loaded a second time, as an object of
    /// its own.
    ///
    /// Raises FileExistsError if a module has that name; FileNotFoundError for a missing file,
    /// library or symbol; OSError with ENOEXEC for what is not a shared object of this machine,
    /// with EBUSY if a module of that name is just going, with EINVAL or ENAMETOOLONG for a name
    /// that a module cannot have, and with the errno by which the init function or a callback
    /// refuses. After an error nothing is left of it, unless somebody kept a reference.
    ///
    /// >>> host = Host()
    /// >>> host.load("./plugin.so")
    /// <module_ref.Module 'plugin' live refcount=0>
    /// >>> host.load("./plugin.so", name="twin", per_cpu=False)
    /// <module_ref.Module 'twin' live refcount=0>
    /// >>> host.load("./plugin.so", name="copy", copied=True)
    /// <module_ref.Module 'copy' live refcount=0>
    /// >>> host.load("./plugin.so")
    /// Traceback (most recent call last):
    ///     ...
    /// FileExistsError: [Errno 17] ...
    /// >>> host.load("./no-such.so")
    /// Traceback (most recent call last):
    ///     ...
    /// FileNotFoundError: [Errno 2] ...
    #[pyo3(
        signature = (path, name = None, *, per_cpu = true, copied = false, deletable = false)
    )]
    fn load(
        &self,
        py: Python<'_>,
        path: &Bound<'_, PyAny>,
        name: Option<String>,
        per_cpu: bool,
        copied: bool,
        deletable: bool,
    ) -> PyResult<LoadedModule> {
        let host = self.open()?;
        let path = path_of(path)?;
        let mut how = Load::new().mode(if per_cpu { Mode::PerCpu } else { Mode::Atomic });
        if let Some(name) = name {
            how = how.name(name);
        }
        if copied {
            how = how.copied();
        }
        if deletable {
            how = how.deletable();
        }
        // SAFETY: to have the object's code run is what the Python program asks for.
        bring_up(py, || unsafe { host.load_with(path, how) })
            .map(|module| LoadedModule(module, self.tracked))
    }

    /// Unload a module, and return whether its code is gone from memory; last_unloaded has the
    /// reason if it is not.
    ///
    /// With a timeout of 0 a module that is held stays as it is: BlockingIOError. Otherwise the
    /// module is closed, so that new gets fail, and this waits for the last put. After timeout
    /// seconds (None: never) the module is live again: TimeoutError. Other Python threads run
    /// meanwhile. Signals are handled; an exception from a handler, such as KeyboardInterrupt, ends
    /// the wait and is raised, and the module is live again. If the last reference was put just
    /// then, the module is unloaded, and the exception is raised all the same; find() tells.
    ///
    /// With force it is unloaded even if references are held (when the time is up, or an exception
    /// has ended the wait), or if it has an init and no exit function. Its code stays until the
    /// last holder has let go, and the host is tainted.
    ///
    /// Raises FileNotFoundError if there is no such module, BlockingIOError if others depend on it,
    /// even by force, and OSError with EBUSY if it is not live, or has an init function and no exit
    /// function. An error leaves everything as it was. The caller must hold no reference, for
    /// example in a with block.
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
        Ok(unloaded.map_err(host_error)?.is_complete())
    }

    /// unload() for asyncio: to be awaited, in whichever loop runs, without a thread. It returns and
    /// raises the same; only the default timeout is None, which is for ever.
    ///
    /// The module is closed when this is first awaited. The exit function and callbacks run on the
    /// loop's thread, at the end. When the task is cancelled, as by asyncio.timeout() or
    /// asyncio.wait_for(), the module is live again, even with force.
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
    /// The new one is loaded and initialised before the old one is let go: a lookup finds the one
    /// or the other. Then this waits for the old one's references for timeout seconds (None: for
    /// ever), and unloads it. If it is still held then, this returns False, and its code goes with
    /// a later call of the host, once its last reference is put.
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
    ///
    /// With stop_first the old one ends before the new one begins, and the new one goes on with
    /// what the old one saved (``save_module`` and ``restore_module``: see the documentation for
    /// plugins). Meanwhile find() gives None, and find_wait() waits. TimeoutError means that the
    /// old one was still held when the time was up; an exception from a signal handler ends the
    /// wait in the same way. Whatever fails, the old one serves on. If it cannot be brought up
    /// again, that is an OSError with ENOTRECOVERABLE.
    #[pyo3(
        signature = (name, path, timeout = Some(0.0), *, stop_first = false),
        text_signature = "($self, name, path, timeout=0.0, *, stop_first=False)"
    )]
    fn replace(
        &self,
        py: Python<'_>,
        name: &str,
        path: &Bound<'_, PyAny>,
        timeout: Option<f64>,
        stop_first: bool,
    ) -> PyResult<bool> {
        self.replace_all(py, &[(name, path_of(path)?)], timeout, stop_first)
    }

    /// Replace several modules in one step, a module and those that depend on it or any others: a
    /// dict of the names and the paths. Return whether the code of all old ones is gone from memory.
    ///
    /// The new ones are bound to each other, and all names are switched at once. After any error
    /// all old ones are in service. Everything else is as for replace(); the timeout is for all of
    /// them together.
    ///
    /// >>> host = Host()
    /// >>> provider = host.load("./plugin.so", "provider")
    /// >>> user = host.load("./plugin.so", "user")
    /// >>> host.add_dependency(user, provider)
    /// >>> host.replace_set({"provider": "./plugin-v2.so", "user": "./plugin-v2.so"})
    /// True
    #[pyo3(
        signature = (set, timeout = Some(0.0), *, stop_first = false),
        text_signature = "($self, set, timeout=0.0, *, stop_first=False)"
    )]
    fn replace_set(
        &self,
        py: Python<'_>,
        set: &Bound<'_, PyDict>,
        timeout: Option<f64>,
        stop_first: bool,
    ) -> PyResult<bool> {
        let mut wanted = Vec::new();
        for (name, path) in set {
            wanted.push((name.extract::<String>()?, path_of(&path)?));
        }
        let wanted: Vec<_> = wanted.iter().map(|(name, path)| (&**name, path)).collect();
        self.replace_all(py, &wanted, timeout, stop_first)
    }

    /// The live module of that name, or None if there is no such module. It is not held by that.
    /// While another thread loads, unloads or replaces it, wait up to timeout seconds for the
    /// outcome (None: for ever).
    ///
    /// Other Python threads run meanwhile. Signals are handled; an exception from a handler ends
    /// the wait. Raises TimeoutError when the time is up, OSError with EDEADLK if the wait could
    /// never end, as in a callback, and with EBUSY while unload_async() is unloading it.
    ///
    /// >>> host = Host()
    /// >>> plugin = host.load("./plugin.so")
    /// >>> host.find_wait("plugin") == plugin
    /// True
    #[pyo3(signature = (name, timeout = None), text_signature = "($self, name, timeout=None)")]
    fn find_wait(
        &self,
        py: Python<'_>,
        name: &str,
        timeout: Option<f64>,
    ) -> PyResult<Option<LoadedModule>> {
        let limit = time_limit(timeout)?;
        let since = Instant::now();
        let host = self.open()?;
        loop {
            let left = limit.map(|limit| limit.saturating_sub(since.elapsed()));
            let turn = left.map_or(SIGNAL_INTERVAL, |left| left.min(SIGNAL_INTERVAL));
            let found =
                py.detach(|| host.find_get_wait(name, Some(turn)).map(|found| found.module()));
            match found {
                Ok(module) => return Ok(Some(LoadedModule(module, self.tracked))),
                Err(error) if error.errno() == libc::ENOENT => return Ok(None),
                Err(error) if error.errno() != libc::ETIMEDOUT || left == Some(turn) => {
                    return Err(host_error(error));
                }
                Err(_) => py.check_signals()?,
            }
        }
    }

    /// The live module of that name, or None. It is not held by that.
    ///
    /// >>> host = Host()
    /// >>> plugin = host.load("./plugin.so")
    /// >>> host.find("plugin") == plugin
    /// True
    /// >>> host.find("nothing") is None
    /// True
    fn find(&self, name: &str) -> PyResult<Option<LoadedModule>> {
        Ok(self.open()?.find(name).map(|module| LoadedModule(module, self.tracked)))
    }

    /// The modules that are there, newest first.
    ///
    /// >>> host = Host()
    /// >>> first = host.load("./plugin.so", "first")
    /// >>> second = host.load("./plugin.so", "second")
    /// >>> host.modules() == [second, first]
    /// True
    fn modules(&self) -> PyResult<Vec<LoadedModule>> {
        // Without a lock, as find().
        Ok(self
            .open()?
            .modules()
            .into_iter()
            .map(|module| LoadedModule(module, self.tracked))
            .collect())
    }

    /// The modules in the format of /proc/modules: one line each, newest first, "name size
    /// refcount users state 0xaddress[ (taints)]".
    ///
    /// >>> host = Host()
    /// >>> plugin = host.load("./plugin.so")
    /// >>> host.list()
    /// 'plugin ... 0 - Live 0x...\n'
    fn list(&self, py: Python<'_>) -> PyResult<String> {
        let host = self.open()?;
        Ok(py.detach(|| host.list()))
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

    /// Unmap what was unloaded or replaced while it was held, and is no longer held. load(),
    /// unload() and replace() do this too. Returns how many are gone from memory.
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

    /// Refuse loads and replacements, by an OSError with EDQUOT, while modules that were unloaded
    /// or replaced, and are still mapped, have more bytes than this. None, the default, is no
    /// limit.
    ///
    /// >>> host = Host()
    /// >>> host.limit_residents(100 << 20)
    fn limit_residents(&self, bytes: Option<usize>) -> PyResult<()> {
        self.open()?.limit_residents(bytes);
        Ok(())
    }

    /// Set what becomes of the addresses of modules that this host unloads from now on. "unmap":
    /// they are given back. "trap": they are taken again, so that a stale pointer ends the process
    /// with SIGSEGV and describe_address() knows them. "keep": the object stays mapped, for leak
    /// checkers. The default is what MODULE_REF_AFTER_UNLOAD in the environment says, or "trap".
    ///
    /// >>> host = Host()
    /// >>> host.after_unload("unmap")
    /// >>> host.after_unload("burn")
    /// Traceback (most recent call last):
    ///     ...
    /// ValueError: 'burn' is not 'unmap', 'trap' or 'keep'
    fn after_unload(&self, what: &str) -> PyResult<()> {
        let what = match what {
            "unmap" => AfterUnload::Unmap,
            "trap" => AfterUnload::Trap,
            "keep" => AfterUnload::Keep,
            _ => {
                let why = format!("'{what}' is not 'unmap', 'trap' or 'keep'");
                return Err(PyValueError::new_err(why));
            }
        };
        self.open()?.after_unload(what);
        Ok(())
    }

    /// Whether an unload was ever forced on holders, or on a module without an exit function.
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
    fn tainted(&self, py: Python<'_>) -> PyResult<bool> {
        let host = self.open()?;
        Ok(py.detach(|| host.tainted()))
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
    fn last_unloaded(&self, py: Python<'_>) -> PyResult<Option<PyLastUnloaded>> {
        let host = self.open()?;
        Ok(py.detach(|| host.last_unloaded()).map(Into::into))
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
        let entry = Arc::new(Callback(Mutex::new(Some(callback.clone_ref(py))), self.tracked));
        let notifier = entry.clone();
        let id = host.on_event(priority, move |module, state| notifier.tell(module, state));
        lock(&self.events).push((id, entry));
        Ok(callback)
    }

    /// Remove a callback, and wait until no other thread is in it. Of several equal ones it is the
    /// oldest. Raises FileNotFoundError if it is not registered.
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

    /// End the host. Any later call raises ValueError, except another close(), which does nothing.
    /// Raises OSError with EBUSY, and the host stays open, while modules remain, or what was
    /// unloaded is still held, or another thread is in a call of it.
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

    /// close(), which unloads nothing. Its error does not hide an exception that is already being
    /// raised.
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
        let outcome = py.detach(|| self.of.unload_finish(Despite::default()));
        // Relaxed, here and below: a flag of its own; the host knows who has ended it.
        self.over.store(!matches!(outcome, Ok(None)), Relaxed);
        let outcome = outcome.map_err(host_error)?;
        Ok(outcome.map(|unloaded| unloaded.is_complete()))
    }

    /// When the time is up: unloads it by force, if that was asked for; or the module is live
    /// again, and it raises what unload() does.
    fn time_is_up(&self, py: Python<'_>) -> PyResult<bool> {
        self.over.store(true, Relaxed);
        let outcome = py.detach(|| {
            if self.force {
                // By force it is not held.
                self.of
                    .unload_finish(Despite { force: true, ..Despite::default() })
                    .map(|unloaded| unloaded.is_some_and(|unloaded| unloaded.is_complete()))
            } else {
                self.of.unload_time_is_up().map(|unloaded| unloaded.is_complete())
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

/// Which module an address belongs to: one that is there, or one that was unloaded and whose place
/// is still taken. None if it belongs to no module.
///
/// >>> import ctypes
/// >>> host = Host()
/// >>> with host.load("./plugin.so").hold() as library:
/// ...     address = ctypes.cast(library.answer, ctypes.c_void_p).value
/// >>> describe_address(address)
/// "plugin.so!answer+0x0, loaded 0... s ago (module 'plugin'...)"
/// >>> host.unload("plugin")
/// True
/// >>> describe_address(address)
/// "plugin.so!answer+0x0, unloaded 0... s ago by thread ... (module 'plugin'...)"
/// >>> describe_address(0)
#[pyfunction]
pub(crate) fn describe_address(address: usize) -> Option<String> {
    host::describe_address(address as *const c_void)
}

/// Make a stale call write one line to standard error before the process dies of it, with whose
/// code it was and where it came from; or stop doing so. The signal, SIGSEGV, then goes on to the
/// handler that was there before, such as faulthandler's. MODULE_REF_CRASH_REPORTS=1 in the
/// environment does so when the first Host is made.
///
/// >>> crash_reports(True)
/// >>> crash_reports(False)
#[pyfunction]
pub(crate) fn crash_reports(on: bool) -> PyResult<()> {
    Ok(host::crash_reports(on)?)
}
