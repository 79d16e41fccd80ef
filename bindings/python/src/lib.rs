//! The Python package's native half: the counter and the host behind Python objects.
//!
//! Only conversions are here. What raises is what Python raises elsewhere: an
//! `OSError` made from the errno value, so that its subclasses appear.

mod host;

use module_ref::misuse::{self, Caller, Misuse};
use module_ref::{
    Counter, Drain, DrainError, FinishError, Held, InitError, Mode, ModuleRef, ReleaseError,
};
use pyo3::create_exception;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use std::cell::Cell;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering::*};
use std::time::{Duration, Instant};

create_exception!(
    module_ref,
    Released,
    PyRuntimeError,
    "A reference was asked for, and the counter is closed: it is released or being drained. Or \
     a function of a module was called outside of the block that holds the module.\n\n\
     >>> ref = ModuleRef()\n\
     >>> ref.try_release()\n\
     True\n\
     >>> try:\n\
     ...     with ref.hold():\n\
     ...         print(\"never\")\n\
     ... except Released:\n\
     ...     print(\"it is gone, or going\")\n\
     it is gone, or going"
);
create_exception!(
    module_ref,
    MisuseError,
    PyRuntimeError,
    "A counter or a module was used in a way that cannot be right, such as a put without a get. It \
     is as it was before.\n\n\
     >>> ref = ModuleRef()\n\
     >>> ref.put()\n\
     Traceback (most recent call last):\n    \
     ...\n\
     module_ref.MisuseError: surplus put..."
);

/// How long a wait sleeps before it looks whether Python has a signal to handle.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

thread_local! {
    /// What this thread's last operation was reported for.
    static REPORTED: Cell<Option<Misuse>> = const { Cell::new(None) };
}

/// The misuse handler of this copy of the library: leaves a note for [`checked`].
unsafe extern "C" fn on_misuse(what: Misuse, _counter: *const Counter, _caller: Caller) {
    REPORTED.set(Some(what));
}

/// Runs `operation` and raises if it was a misuse.
fn checked<T>(operation: impl FnOnce() -> T) -> PyResult<T> {
    REPORTED.set(None);
    let result = operation();
    match REPORTED.take() {
        Some(what) => Err(MisuseError::new_err(what.text())),
        None => Ok(result),
    }
}

pub(crate) fn os_error(errno: i32, error: &dyn std::error::Error) -> PyErr {
    PyOSError::new_err((errno, error.to_string()))
}

fn init_error(error: InitError) -> PyErr {
    os_error(error.errno(), &error)
}

pub(crate) const NOT_ENTERED: &str = "this hold() was left without having been entered";

pub(crate) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Atomic => "atomic",
        Mode::PerCpu => "percpu",
    }
}

/// A time limit, as Python gives it.
pub(crate) fn time_limit(timeout: Option<f64>) -> PyResult<Option<Duration>> {
    let Some(seconds) = timeout else { return Ok(None) };
    if seconds.is_nan() || seconds < 0.0 {
        return Err(PyValueError::new_err(format!(
            "timeout must be 0 or more seconds, or None to wait for ever; got {seconds}"
        )));
    }
    // More than can be said is for ever.
    Ok(Duration::try_from_secs_f64(seconds).ok())
}

/// How a thread waits for references that others hold: until its time is up, or a signal handler
/// raises something.
pub(crate) struct Patience {
    /// `None` is for ever.
    limit: Option<Duration>,
    /// When the first wait began.
    since: Option<Instant>,
    raised: Option<PyErr>,
}

impl Patience {
    pub(crate) fn new(limit: Option<Duration>) -> Self {
        Self { limit, since: None, raised: None }
    }

    /// Sleeps for a moment, and has Python handle its signals; whether to look again, which it never is
    /// once one has raised something. For a thread that is detached.
    pub(crate) fn wait(&mut self, held: &Held<'_>) -> bool {
        let since = *self.since.get_or_insert_with(Instant::now);
        let left = self.limit.map_or(SIGNAL_INTERVAL, |limit| {
            limit.saturating_sub(since.elapsed()).min(SIGNAL_INTERVAL)
        });
        if left.is_zero() || self.raised.is_some() {
            return false;
        }
        held.park_timeout(left);
        // An interpreter that is shutting down handles no more signals.
        self.raised = Python::try_attach(|py| py.check_signals()).and_then(Result::err);
        self.raised.is_none()
    }

    /// What a signal handler has raised, if that is what has ended the wait.
    pub(crate) fn raised(self) -> PyResult<()> {
        self.raised.map_or(Ok(()), Err)
    }
}

/// A reference counter that can be closed.
///
/// Users take a reference for as long as they use what the counter stands for. Whoever
/// wants to take that away calls ``try_release()``, or closes the counter and waits with
/// ``drain()``. One of them returns True, to one caller only.
///
/// >>> ref = ModuleRef()
/// >>> with ref.hold():
/// ...     ref.try_release()
/// False
/// >>> ref.try_release()
/// True
/// >>> ref.try_get()
/// False
///
/// With ``per_cpu=True`` it counts in per-CPU slots if this system can; ``mode`` tells.
/// Objects may be shared between threads.
#[pyclass(frozen, name = "ModuleRef", module = "module_ref")]
struct PyModuleRef {
    inner: ModuleRef,
    /// References that Python holds. Python alone gets and puts here, so a put that this
    /// does not cover is a misuse, which a per-CPU counter would find only later.
    held: AtomicUsize,
}

impl PyModuleRef {
    fn counter(&self) -> &Counter {
        self.inner.counter()
    }

    fn take(&self) -> PyResult<bool> {
        self.took(|| self.counter().try_get(Caller::UNKNOWN))
    }

    fn took(&self, get: impl FnOnce() -> bool) -> PyResult<bool> {
        let got = checked(get)?;
        // Relaxed, here and below: a number of its own; the counter orders what matters.
        self.held.fetch_add(got.into(), Relaxed);
        Ok(got)
    }

    fn give_back(&self) -> PyResult<()> {
        if self.held.fetch_update(Relaxed, Relaxed, |held| held.checked_sub(1)).is_err() {
            return Err(MisuseError::new_err(Misuse::SurplusPut.text()));
        }
        // SAFETY: one of Python's references, which we have just taken off its account.
        checked(|| unsafe { self.counter().put(Caller::UNKNOWN) })
    }
}

#[pymethods]
impl PyModuleRef {
    #[new]
    #[pyo3(signature = (*, per_cpu = false))]
    fn new(per_cpu: bool) -> PyResult<Self> {
        let inner =
            if per_cpu { ModuleRef::new_percpu().map_err(init_error)? } else { ModuleRef::new() };
        Ok(Self { inner, held: AtomicUsize::new(0) })
    }

    /// Take a reference unless the counter is closed, and return whether there is now one
    /// to put.
    ///
    /// >>> ref = ModuleRef()
    /// >>> ref.try_get(), ref.count
    /// (True, 1)
    /// >>> ref.put()
    /// >>> ref.try_release(), ref.try_get()
    /// (True, False)
    fn try_get(&self) -> PyResult<bool> {
        self.take()
    }

    /// Take a reference even while a drain is under way, as long as somebody holds one,
    /// and return whether there is now one to put. On a live counter it does as
    /// try_get(). (In per-CPU mode it may also succeed while a drain is just beginning
    /// and nobody holds one.)
    ///
    /// >>> ref = ModuleRef()
    /// >>> ref.get_if_held(), ref.count
    /// (True, 1)
    /// >>> ref.put()
    fn get_if_held(&self) -> PyResult<bool> {
        self.took(|| self.counter().get_if_held(Caller::UNKNOWN))
    }

    /// Take one more reference. The caller holds one already, so this works even while a
    /// drain is under way. On a released counter it raises MisuseError.
    ///
    /// >>> ref = ModuleRef()
    /// >>> with ref.hold():
    /// ...     ref.get()  # one that outlives the block
    /// >>> ref.count
    /// 1
    fn get(&self) -> PyResult<()> {
        // SAFETY: to hold one already is for the Python program to see to; nothing else in
        // this process relies on these references.
        checked(|| unsafe { self.counter().get(Caller::UNKNOWN) })?;
        self.held.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Give a reference back, on any thread. Without a get it raises MisuseError, and the
    /// counter is as before.
    ///
    /// >>> ref = ModuleRef()
    /// >>> ref.try_get()
    /// True
    /// >>> ref.put()
    /// >>> ref.put()
    /// Traceback (most recent call last):
    ///     ...
    /// module_ref.MisuseError: surplus put...
    fn put(&self) -> PyResult<()> {
        self.give_back()
    }

    /// A context manager that takes a reference and gives it back. Entering it raises
    /// Released when the counter is closed.
    ///
    /// >>> ref = ModuleRef()
    /// >>> with ref.hold():
    /// ...     ref.count
    /// 1
    /// >>> ref.try_release()
    /// True
    /// >>> with ref.hold():
    /// ...     print("never")
    /// Traceback (most recent call last):
    ///     ...
    /// module_ref.Released: no reference: ...
    fn hold(slf: Py<Self>) -> Hold {
        Hold { of: slf, depth: AtomicUsize::new(0) }
    }

    /// References held; -1 once released. Stale as soon as it is read.
    ///
    /// >>> ref = ModuleRef()
    /// >>> ref.count
    /// 0
    /// >>> ref.try_release(), ref.count
    /// (True, -1)
    #[getter]
    fn count(&self) -> i64 {
        self.counter().count()
    }

    /// "atomic" or "percpu".
    ///
    /// >>> ModuleRef().mode
    /// 'atomic'
    /// >>> ModuleRef(per_cpu=True).mode in ("percpu", "atomic")  # the latter where it has to be
    /// True
    #[getter]
    fn mode(&self) -> &'static str {
        mode_name(self.inner.mode())
    }

    /// Whether the counter is released. Only the caller to whom try_release() or
    /// drain() returned True may go on from there.
    ///
    /// >>> ref = ModuleRef()
    /// >>> ref.released, ref.try_release(), ref.released
    /// (False, True, True)
    #[getter]
    fn released(&self) -> bool {
        self.inner.is_released()
    }

    /// Release the counter if nobody holds a reference; False if somebody does. Does not
    /// wait. Raises OSError with EALREADY (a BlockingIOError) if it has been released
    /// before, with EBUSY while another thread's release or drain is under way.
    ///
    /// >>> ref = ModuleRef()
    /// >>> with ref.hold():
    /// ...     ref.try_release()
    /// False
    /// >>> ref.try_release()
    /// True
    /// >>> ref.try_release()
    /// Traceback (most recent call last):
    ///     ...
    /// BlockingIOError: [Errno 114] ...
    fn try_release(&self) -> PyResult<bool> {
        match checked(|| self.counter().try_release(Caller::UNKNOWN))? {
            Ok(()) => Ok(true),
            Err(ReleaseError::InUse { .. }) => Ok(false),
            Err(other) => Err(drain_error(other.into())),
        }
    }

    /// Close the counter and wait until the last reference is put; True once it is. After
    /// timeout seconds (None: never) the counter is live again and this returns False.
    ///
    /// Other Python threads run meanwhile. Signals are handled; an exception from a
    /// handler, such as KeyboardInterrupt, makes the counter live again. Raises OSError as
    /// try_release().
    ///
    /// >>> ref = ModuleRef()
    /// >>> with ref.hold():
    /// ...     ref.drain(timeout=0.01)
    /// False
    /// >>> ref.try_get()  # it is live again
    /// True
    /// >>> ref.put()
    /// >>> ref.drain(timeout=1.0)
    /// True
    #[pyo3(signature = (timeout = None))]
    fn drain(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        let mut patience = Patience::new(time_limit(timeout)?);
        let outcome = py.detach(|| {
            let drained = self.inner.drain_with(|held| patience.wait(held));
            // Whoever is interrupted must not be left with a release that nobody knows
            // of: the last put may have come with the signal.
            match drained {
                Ok(released) if patience.raised.is_some() => {
                    released.reinit();
                    Ok(())
                }
                other => other.map(|_| ()),
            }
        });
        patience.raised()?;
        match outcome {
            Ok(()) => Ok(true),
            Err(DrainError::TimedOut { .. }) => Ok(false),
            Err(other) => Err(drain_error(other)),
        }
    }

    /// drain() for asyncio: to be awaited, in whichever loop runs, without a thread.
    ///
    /// The counter is closed when it is first awaited. When the task is cancelled, as by
    /// asyncio.timeout() or asyncio.wait_for(), the counter is live again, as after timeout
    /// seconds. Raises OSError as drain(), also with EMFILE and its like if there is no descriptor
    /// to wait with.
    ///
    /// >>> import asyncio
    /// >>> ref = ModuleRef()
    /// >>> asyncio.run(ref.drain_async(timeout=5))
    /// True
    #[pyo3(signature = (timeout = None))]
    fn drain_async<'py>(
        slf: Bound<'py, Self>,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        static DRAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let limit = time_limit(timeout)?.map(|limit| limit.as_secs_f64());
        DRAIN.import(slf.py(), "module_ref._async", "drain")?.call1((slf, limit))
    }

    /// Close the counter, without waiting.
    fn _drain_begin(slf: Py<Self>, py: Python<'_>) -> PyResult<Draining> {
        let (handle, counter) = (Box::<Drain>::default(), slf.get().counter());
        // SAFETY: the handle is new. It stays in its box, and the counter with `of`, until
        // `Draining` is dropped, which ends the drain.
        let begun = py.detach(|| unsafe { handle.begin(counter, Caller::UNKNOWN, None) });
        let descriptor = begun.map_err(drain_error)?;
        Ok(Draining { _of: slf, handle, descriptor })
    }

    /// Make a released counter live again. Only for the caller to whom try_release() or
    /// drain() returned True. Raises OSError with EBUSY unless it is released.
    ///
    /// >>> ref = ModuleRef()
    /// >>> ref.try_release(), ref.try_get()
    /// (True, False)
    /// >>> ref.reinit()
    /// >>> ref.try_get()
    /// True
    fn reinit(&self) -> PyResult<()> {
        // SAFETY: to be the winner is for the Python program to see to, as in get.
        unsafe { self.counter().reinit() }.map_err(init_error)
    }

    fn __repr__(&self) -> String {
        format!("<module_ref.ModuleRef count={} mode={}>", self.count(), self.mode())
    }
}

fn drain_error(error: DrainError) -> PyErr {
    os_error(error.errno(), &error)
}

/// A drain that was begun, for ``module_ref._async``.
#[pyclass(frozen, module = "module_ref._native")]
struct Draining {
    /// Keeps the counter.
    _of: Py<PyModuleRef>,
    handle: Box<Drain>,
    descriptor: OwnedFd,
}

#[pymethods]
impl Draining {
    /// Readable when finish() has an answer.
    fn fileno(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }

    /// True if the counter is released now; None while it is held; False if it never can be.
    fn finish(&self, py: Python<'_>) -> PyResult<Option<bool>> {
        // SAFETY: the counter is kept.
        match py.detach(|| unsafe { self.handle.finish(Caller::UNKNOWN) }) {
            Ok(()) => Ok(Some(true)),
            Err(FinishError::InUse { .. }) => Ok(None),
            Err(FinishError::TimedOut { .. }) => Ok(Some(false)),
            Err(why) => Err(os_error(why.errno(), &why)),
        }
    }

    /// When the time is up: whether it is released after all. Otherwise it is live again.
    fn time_is_up(&self, py: Python<'_>) -> PyResult<bool> {
        let released = self.finish(py)? == Some(true);
        self.abandon(py);
        Ok(released)
    }

    /// Make the counter live again, unless the drain is over.
    fn abandon(&self, py: Python<'_>) {
        // SAFETY: the counter is kept.
        let _ = py.detach(|| unsafe { self.handle.cancel() });
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        // SAFETY: the counter is kept. The watcher knows nothing of Python, so that the GIL may
        // be held.
        let _ = unsafe { self.handle.cancel() };
    }
}

/// What ``ModuleRef.hold()`` returns: a reference for the length of a with block. It
/// can be entered again, and from several threads.
///
/// >>> ref = ModuleRef()
/// >>> hold = ref.hold()
/// >>> with hold as held:
/// ...     held is ref, ref.count
/// (True, 1)
/// >>> with hold, hold:
/// ...     ref.count
/// 2
#[pyclass(frozen, module = "module_ref")]
struct Hold {
    of: Py<PyModuleRef>,
    /// How many times it is entered.
    depth: AtomicUsize,
}

#[pymethods]
impl Hold {
    fn __enter__(&self, py: Python<'_>) -> PyResult<Py<PyModuleRef>> {
        if !self.of.get().take()? {
            return Err(Released::new_err(
                "no reference: the counter is released or being drained",
            ));
        }
        // Relaxed: as for `held`.
        self.depth.fetch_add(1, Relaxed);
        Ok(self.of.clone_ref(py))
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyAny>) -> PyResult<()> {
        let left = self.depth.fetch_update(Relaxed, Relaxed, |depth| depth.checked_sub(1));
        if left.is_err() {
            return Err(MisuseError::new_err(NOT_ENTERED));
        }
        self.of.get().give_back()
    }
}

#[pymodule(gil_used = false)]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // SAFETY: it may be called anywhere.
    unsafe { misuse::set_handler(Some(on_misuse)) };
    module.add_class::<PyModuleRef>()?;
    module.add_class::<Hold>()?;
    module.add_class::<Draining>()?;
    module.add_class::<host::PyHost>()?;
    module.add_class::<host::LoadedModule>()?;
    module.add_class::<host::ModuleHold>()?;
    module.add_class::<host::PyLastUnloaded>()?;
    module.add_class::<host::Use>()?;
    module.add_class::<host::Unloading>()?;
    module.add_function(wrap_pyfunction!(host::check, module)?)?;
    module.add_function(wrap_pyfunction!(host::describe_address, module)?)?;
    module.add_function(wrap_pyfunction!(host::crash_reports, module)?)?;
    module.add_function(wrap_pyfunction!(host::gate_refused, module)?)?;
    module.add("Released", module.py().get_type::<Released>())?;
    module.add("MisuseError", module.py().get_type::<MisuseError>())?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
