//! Why a release did not happen.

use crate::counter::word::{DESTROYED, flags, released};
use core::fmt;

/// Why [`try_release`](crate::ModuleRef::try_release) left the counter as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReleaseError {
    /// References are held. `EWOULDBLOCK`.
    InUse {
        /// How many, when the attempt was given up.
        held: u64,
    },
    /// Another thread's release or drain is under way. `EBUSY`.
    Busy,
    /// A release has succeeded before; only its winner may go on. `EALREADY`.
    AlreadyReleased,
    /// The counter has been destroyed, which only C can do. `EINVAL`.
    Destroyed,
    /// The memory barrier that a per-CPU counter needs was refused, as by a sandbox that
    /// was set up after the counter. `errno` is the kernel's.
    Barrier {
        /// Why, as a positive errno value.
        errno: i32,
    },
}

/// Why [`drain`](crate::ModuleRef::drain) left the counter as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DrainError {
    /// References were still held when the time was up; the counter is live
    /// again. `ETIMEDOUT`.
    TimedOut {
        /// How many, when the attempt was given up.
        held: u64,
    },
    /// Another thread's release or drain is under way. `EBUSY`.
    Busy,
    /// A release has succeeded before; only its winner may go on. `EALREADY`.
    AlreadyReleased,
    /// The counter has been destroyed, which only C can do. `EINVAL`.
    Destroyed,
    /// The memory barrier that a per-CPU counter needs was refused, as by a sandbox that
    /// was set up after the counter. `errno` is the kernel's.
    Barrier {
        /// Why, as a positive errno value.
        errno: i32,
    },
    /// A drain could not be begun without waiting: there is no descriptor or no thread to wait for
    /// it. `errno` is the kernel's.
    Descriptor {
        /// Why, as a positive errno value.
        errno: i32,
    },
}

/// Why a drain that was [begun](crate::ModuleRef::drain_begin) could not be finished or cancelled.
#[cfg(all(feature = "std", target_os = "linux", not(any(loom, interleave))))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishError {
    /// References are still held; the counter stays closed. `EINPROGRESS`.
    InUse {
        /// How many, at the last look.
        held: u64,
    },
    /// The time is up, or the count is pinned after an overflow and can never reach zero: the
    /// counter is live again. `ETIMEDOUT`.
    TimedOut {
        /// How many, when the attempt was given up.
        held: u64,
    },
    /// Another thread is asking or ending it in this moment. `EBUSY`.
    Busy,
    /// No drain is begun, or it is over. `EINVAL`.
    NotBegun,
}

impl ReleaseError {
    /// Why a word without `BASE` cannot be claimed.
    pub(crate) fn unclaimed(word: u64) -> Self {
        match flags(word) {
            _ if released(word) => Self::AlreadyReleased,
            DESTROYED => Self::Destroyed,
            _ => Self::Busy,
        }
    }
}

impl From<ReleaseError> for DrainError {
    fn from(error: ReleaseError) -> Self {
        match error {
            ReleaseError::InUse { held } => Self::TimedOut { held },
            ReleaseError::Busy => Self::Busy,
            ReleaseError::AlreadyReleased => Self::AlreadyReleased,
            ReleaseError::Destroyed => Self::Destroyed,
            ReleaseError::Barrier { errno } => Self::Barrier { errno },
        }
    }
}

const BUSY: &str = "another thread is releasing this counter; let it finish, then look again";
const ALREADY: &str = "the counter is released already; only the thread that released it may go on";
const DESTROYED_TEXT: &str = "the counter has been destroyed; initialise it before using it again";

const BARRIER: &str = "membarrier was refused, without which a per-CPU counter cannot be released; \
                       let the sandbox allow it";

#[cfg(feature = "std")]
impl ReleaseError {
    /// Its errno value, positive.
    pub fn errno(self) -> i32 {
        match self {
            Self::InUse { .. } => libc::EWOULDBLOCK,
            other => DrainError::from(other).errno(),
        }
    }
}

#[cfg(feature = "std")]
impl DrainError {
    /// Its errno value, positive.
    pub fn errno(self) -> i32 {
        match self {
            Self::TimedOut { .. } => libc::ETIMEDOUT,
            Self::Busy => libc::EBUSY,
            Self::AlreadyReleased => libc::EALREADY,
            Self::Destroyed => libc::EINVAL,
            Self::Barrier { errno } | Self::Descriptor { errno } => errno,
        }
    }
}

/// "1 reference is held", "2 references are held".
fn held_text(f: &mut fmt::Formatter<'_>, held: u64) -> fmt::Result {
    let (s, be) = if held == 1 { ("", "is") } else { ("s", "are") };
    write!(f, "{held} reference{s} {be} held")
}

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { held } => {
                held_text(f, *held)?;
                f.write_str("; drain with a timeout to wait for them, or try again later")
            }
            Self::Busy => f.write_str(BUSY),
            Self::AlreadyReleased => f.write_str(ALREADY),
            Self::Destroyed => f.write_str(DESTROYED_TEXT),
            Self::Barrier { errno } => write!(f, "{BARRIER} (errno {errno})"),
        }
    }
}

impl fmt::Display for DrainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut { held } => {
                f.write_str("time is up and ")?;
                held_text(f, *held)?;
                f.write_str("; the counter is live again, so drain with a longer timeout")
            }
            Self::Busy => f.write_str(BUSY),
            Self::AlreadyReleased => f.write_str(ALREADY),
            Self::Destroyed => f.write_str(DESTROYED_TEXT),
            Self::Barrier { errno } => write!(f, "{BARRIER} (errno {errno})"),
            Self::Descriptor { errno } => write!(
                f,
                "no descriptor or thread to wait with (errno {errno}); close or end some, or \
                 drain with a timeout, which needs none"
            ),
        }
    }
}

#[cfg(all(feature = "std", target_os = "linux", not(any(loom, interleave))))]
impl FinishError {
    /// Its errno value, positive.
    pub fn errno(self) -> i32 {
        match self {
            Self::InUse { .. } => libc::EINPROGRESS,
            Self::TimedOut { .. } => libc::ETIMEDOUT,
            Self::Busy => libc::EBUSY,
            Self::NotBegun => libc::EINVAL,
        }
    }
}

#[cfg(all(feature = "std", target_os = "linux", not(any(loom, interleave))))]
impl fmt::Display for FinishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse { held } => {
                held_text(f, *held)?;
                f.write_str("; wait until the descriptor is readable, or cancel the drain")
            }
            Self::TimedOut { held } => {
                f.write_str("time is up and ")?;
                held_text(f, *held)?;
                f.write_str("; the counter is live again")
            }
            Self::Busy => f.write_str("another thread is asking or ending this drain; ask again"),
            Self::NotBegun => f.write_str("no drain is begun, or it is over; begin one"),
        }
    }
}

impl core::error::Error for ReleaseError {}
impl core::error::Error for DrainError {}
#[cfg(all(feature = "std", target_os = "linux", not(any(loom, interleave))))]
impl core::error::Error for FinishError {}

/// A counter that could not be (re)initialised because it is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InitError {
    /// It is not released, or holds references that starting over would forget.
    /// `EBUSY`.
    InUse,
    /// It has been destroyed: only initialising can bring it back. `EINVAL`.
    Destroyed,
    /// There is no memory for per-CPU slots; nothing was touched. `ENOMEM`.
    NoMemory,
}

#[cfg(feature = "std")]
impl InitError {
    /// Its errno value, positive.
    pub fn errno(self) -> i32 {
        match self {
            Self::InUse => libc::EBUSY,
            Self::Destroyed => libc::EINVAL,
            Self::NoMemory => libc::ENOMEM,
        }
    }
}

impl fmt::Display for InitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InUse => "the counter is in use; release it first",
            Self::Destroyed => DESTROYED_TEXT,
            Self::NoMemory => "no memory for per-CPU slots; the counter was not touched",
        })
    }
}

impl core::error::Error for InitError {}
