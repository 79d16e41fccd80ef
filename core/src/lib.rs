#![doc = include_str!("../README.md")]
#![cfg_attr(not(any(feature = "std", test, loom, interleave)), no_std)]

#[cfg(feature = "plugin")]
extern crate alloc;

#[cfg(not(target_has_atomic = "64"))]
compile_error!("module-ref needs 64-bit atomics, which this target does not have");

#[cfg(all(feature = "std", target_os = "linux", not(any(loom, interleave))))]
#[doc(hidden)]
pub mod cancel;
mod counter;
#[cfg(all(feature = "std", target_os = "linux", not(any(loom, interleave))))]
mod errno;
mod error;
#[cfg(all(feature = "host", target_os = "linux", target_env = "gnu", not(any(loom, interleave))))]
pub mod host;
#[cfg(any(loom, interleave))]
mod models;
#[cfg(not(any(loom, interleave)))]
mod percpu;
#[cfg(all(feature = "plugin", not(any(loom, interleave))))]
pub mod plugin;
#[cfg(all(feature = "std", target_os = "linux", not(any(loom, interleave))))]
#[doc(hidden)]
pub mod stderr;
mod sync;
#[cfg_attr(
    not(all(feature = "std", target_os = "linux", not(any(loom, interleave)))),
    path = "tool/absent.rs"
)]
#[cfg_attr(
    not(all(feature = "host", target_os = "linux", target_env = "gnu")),
    allow(dead_code, reason = "most of it is for the host")
)]
#[doc(hidden)]
pub mod tool;
pub mod trace;

pub use counter::Counter;
#[cfg(all(feature = "std", target_os = "linux", not(any(loom, interleave))))]
pub use counter::drain::{Drain, Draining, Lasting};
#[cfg(not(any(loom, interleave)))]
pub use counter::guard::{Guard, Held, ModuleRef, Released};
pub use counter::misuse;
#[cfg(all(feature = "std", target_os = "linux", not(any(loom, interleave))))]
pub use error::FinishError;
pub use error::{DrainError, InitError, ReleaseError};

/// The guide: programs from a first counter to a host of plugins.
#[cfg(all(any(doc, doctest), feature = "host"))]
#[doc = include_str!("../guide.md")]
pub mod guide {}

/// `MODULE_REF_BASE` of the Linux patch: the loader's own reference.
pub const MODULE_REF_BASE: u64 = counter::word::BASE;

/// What the word of a counter is that was just initialised.
#[doc(hidden)]
pub const LIVE: u64 = counter::word::LIVE;

#[cfg(all(
    feature = "std",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_pointer_width = "64",
    target_endian = "little",
    target_os = "linux",
    any(target_env = "gnu", target_env = "musl"),
    not(any(loom, interleave))
))]
#[doc(hidden)]
pub use percpu::{AREA, Area};

/// How a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One shared word.
    Atomic,
    /// Per-CPU slots beside the word.
    PerCpu,
}

impl Counter {
    /// How this counter counts: what its initialisation got, which may be less
    /// than was asked for.
    pub fn mode(&self) -> Mode {
        if self.slots.exist() { Mode::PerCpu } else { Mode::Atomic }
    }
}
