//! What the host says when it cannot do what it was asked.

use crate::stderr;
use std::fmt;
use std::io;
use std::time::Duration;

/// Why the host did not do what it was asked: an errno value for programs, and for people
/// a sentence that names what was tried, on what, and what to do.
///
/// It turns into an [`io::Error`] of the same kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    errno: i32,
    text: String,
}

impl Error {
    pub(crate) fn new(errno: i32, text: impl Into<String>) -> Self {
        Self { errno, text: text.into() }
    }

    /// An error for a notifier to refuse a load with.
    pub fn refuse(errno: i32, why: impl Into<String>) -> Self {
        Self::new(if errno > 0 { errno } else { libc::ECANCELED }, why)
    }

    /// The errno value, positive.
    pub fn errno(&self) -> i32 {
        self.errno
    }
}

/// An error of this errno, with words as for `format!`.
macro_rules! error {
    ($errno:expr, $($words:tt)+) => {
        $crate::host::error::Error::new($errno, format!($($words)+))
    };
}
pub(crate) use error;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = io::Error::from_raw_os_error(error.errno).kind();
        Self::new(kind, error)
    }
}

/// The errno value of the system call that has just failed.
pub(crate) fn last_errno() -> i32 {
    errno_of(&io::Error::last_os_error())
}

/// The errno value of an error, also of those of std's own.
pub(crate) fn errno_of(error: &io::Error) -> i32 {
    match error.kind() {
        io::ErrorKind::OutOfMemory => libc::ENOMEM,
        io::ErrorKind::WriteZero => libc::ENOSPC,
        _ => error.raw_os_error().unwrap_or(libc::EIO),
    }
}

/// "No such file or directory" and its like, for an errno value.
pub(crate) fn errno_text(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    // Rust adds " (os error 2)".
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// "1 reference", "2 references".
pub(crate) fn references(n: u64) -> String {
    format!("{n} reference{}", if n == 1 { "" } else { "s" })
}

/// A time as "3.2 s", without a lock or memory, and without the code that writes floating-point numbers.
pub(crate) struct Seconds(pub(crate) Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} s", self.0.as_secs(), self.0.subsec_millis() / 100)
    }
}

/// A warning that nobody's return value carries, as one line on standard error.
pub(crate) fn warn(text: &str) {
    stderr::write(format!("module_ref: {text}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use crate::stderr::tests::ends_well;
    use std::{io, thread};

    #[test]
    fn a_child_of_a_fork_warns_whoever_had_the_lock() {
        let _lock = io::stderr().lock();
        let child = || {
            // SAFETY: a name.
            unsafe { libc::dup2(libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY), 2) };
            super::warn("a child says this");
        };
        assert!(thread::spawn(move || ends_well(child)).join().unwrap());
    }
}
