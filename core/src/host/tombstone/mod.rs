//! Whose address is that? Of modules that are there, and of those that are gone.
//!
//! When a stale pointer into an unloaded module is called, or read, nobody can say any more what was there;
//! and if another module was loaded to the same place, that module's code runs. So, right after an object
//! is unmapped, the host takes its range again without access, and keeps what it knew of the object: a
//! *tombstone*. Each library that goes along with a module has one too, which has the file's name and no
//! symbols. A stale call ends there with SIGSEGV, and anybody who asks about the address, such as a signal
//! handler, learns whose it was.
//!
//! | file      | what it has                                                     |
//! | --------- | ---------------------------------------------------------------- |
//! | `table`   | the places of modules, for readers that take no lock and no memory |
//! | `words`   | what is said of an address                                      |
//! | `crash`   | the handler that says it before a process dies                  |
//!
//! # The rules
//!
//! - **T1** A range is taken only where nothing else is mapped: the kernel refuses the rest
//!   (`MAP_FIXED_NOREPLACE`). If somebody else was faster, that part has no tombstone.
//! - **T2** The newest 64 are kept. The oldest is forgotten before its range is given back, so that nothing
//!   is said of what others may map there.
//! - **T3** A tombstone costs address space and no memory, beside what is known of the module.
//! - **T4** Places can overlap for a moment: an object may be loaded to where another has just been
//!   unmapped, before the host has noted that. The one that was noted last is the answer.

mod crash;
mod table;
mod words;

pub(crate) use crash::{reports, reports_by_environment};
pub use table::{PLACES, Places};
pub(crate) use table::{Stone, WRITERS, bury, forget};
pub use words::describe;

use super::error::warn;
use std::sync::LazyLock;

/// What becomes of the place of a module that was unloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum AfterUnload {
    /// It is given back, as by dlclose(3) alone.
    Unmap = 0,
    /// It is taken again without access, so that a stale call stops there, and nothing else is loaded to it.
    /// A process keeps the newest 64.
    Trap = 1,
    /// The object stays mapped, with its destructors to be run at the end of the process. For leak
    /// checkers and profilers, which look symbols up at the end.
    Keep = 2,
}

impl AfterUnload {
    pub(crate) fn of_number(number: u32) -> Option<Self> {
        [Self::Unmap, Self::Trap, Self::Keep].into_iter().find(|what| *what as u32 == number)
    }

    /// Of a host that was told nothing: what `MODULE_REF_AFTER_UNLOAD` says, or `Trap`.
    pub(crate) fn by_environment() -> Self {
        static SAID: LazyLock<AfterUnload> = LazyLock::new(|| {
            let said = std::env::var_os("MODULE_REF_AFTER_UNLOAD").unwrap_or_default();
            match said.to_str() {
                Some("unmap") => AfterUnload::Unmap,
                Some("keep") => AfterUnload::Keep,
                Some("" | "trap") => AfterUnload::Trap,
                _ => {
                    let said = said.to_string_lossy();
                    warn(&format!(
                        "MODULE_REF_AFTER_UNLOAD is '{said}', and not unmap, trap or keep; trap is done"
                    ));
                    AfterUnload::Trap
                }
            }
        });
        *SAID
    }
}
