//! Who holds it, as a Python object.

use pyo3::prelude::*;

/// One reference that is held, as ModuleRef.holders() and Module.holders() tell of it.
///
/// >>> ref = ModuleRef()
/// >>> ref.record_holders()
/// >>> with ref.hold():
/// ...     [holder] = ref.holders()
/// >>> holder.ended, holder.age < 60
/// (False, True)
#[pyclass(frozen, eq, module = "module_ref")]
#[derive(PartialEq)]
pub(crate) struct Holder {
    /// The address that it was taken from, or None: references that Python takes have none.
    #[pyo3(get)]
    caller: Option<usize>,
    /// The function that is there and how far into it, or None.
    #[pyo3(get)]
    symbol: Option<String>,
    /// The object that is there, or None.
    #[pyo3(get)]
    object: Option<String>,
    /// How far into the object, for addr2line, or None.
    #[pyo3(get)]
    offset: Option<usize>,
    /// The thread that took it, as threading.get_native_id() numbers it.
    #[pyo3(get)]
    thread: u32,
    /// What the system calls that, or None if it is gone.
    #[pyo3(get)]
    thread_name: Option<String>,
    /// Whether the thread has ended.
    #[pyo3(get)]
    ended: bool,
    /// For how long it has been held, in seconds.
    #[pyo3(get)]
    age: f64,
    /// All of that.
    text: String,
}

impl From<module_ref::Holder> for Holder {
    fn from(holder: module_ref::Holder) -> Self {
        Self {
            text: holder.to_string(),
            caller: holder.caller,
            symbol: holder.symbol,
            object: holder.object,
            offset: holder.offset,
            thread: holder.thread,
            thread_name: holder.thread_name,
            ended: holder.ended,
            age: holder.age.as_secs_f64(),
        }
    }
}

#[pymethods]
impl Holder {
    fn __str__(&self) -> &str {
        &self.text
    }

    fn __repr__(&self) -> String {
        format!("<module_ref.Holder {}>", self.text)
    }
}
