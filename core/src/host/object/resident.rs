//! Why an object is still in memory after its close.

use super::elf::Facts;
use crate::host::error::references;
use std::fmt;
use std::path::PathBuf;

/// What became of a module's code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unloaded {
    /// It is gone from memory.
    Unmapped,
    /// The module is unloaded, and its code is still mapped.
    Resident(Residency),
}

/// Why a module's code is still mapped although the module is unloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Residency {
    /// It was unloaded by force, or replaced, while it was held. It goes with a later call of
    /// the host, once its holders have given their references back.
    Held {
        /// How many there were. 0 if the door could not be shut for want of a barrier, so
        /// that nobody knows.
        references: u64,
    },
    /// Its file was written over in place while it was mapped. Its exit function was not run, and
    /// it is left alone: what is mapped is no code any more.
    Overwritten,
    /// It is linked with `-z nodelete`.
    NoDelete,
    /// Somebody else in the process has it open, or is linked with it.
    OtherUser {
        /// An object that needs it, if one does.
        by: Option<PathBuf>,
    },
    /// It defines a symbol of which there is one in the process, and the C library keeps what
    /// defines one.
    UniqueSymbol {
        /// The first of them.
        symbol: String,
    },
    /// A thread has not ended yet that has to run a destructor of its thread-local objects.
    ThreadLocalDestructor,
    /// The dynamic linker keeps it, and does not say why.
    Unknown,
}

impl Residency {
    /// Of an object that has just been closed and is still there: the linker does not tell,
    /// so this goes by what is known to make it stay, the surest first.
    pub(crate) fn of(facts: &Facts, was_loaded: bool, needed_by: Option<PathBuf>) -> Self {
        if facts.no_delete {
            return Self::NoDelete;
        }
        if needed_by.is_some() || was_loaded {
            return Self::OtherUser { by: needed_by };
        }
        if let Some(symbol) = &facts.unique {
            return Self::UniqueSymbol { symbol: symbol.clone() };
        }
        if facts.thread_exit {
            return Self::ThreadLocalDestructor;
        }
        // Somebody may have opened it after us; there is no other reason left that we know.
        Self::Unknown
    }
}

impl fmt::Display for Residency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { references: 0 } => f.write_str(
                "nobody seems to hold it, and it could not be made sure of (a sandbox may refuse \
                 membarrier); a later call of the host tries again",
            ),
            Self::Held { references: n } => write!(
                f,
                "it is still held, by {}; its code goes with a later call of the host, once they \
                 are given back",
                references(*n)
            ),
            Self::Overwritten => f.write_str(
                "its file was written over in place while it was mapped, so that neither its exit \
                 function nor its destructors can be run; install files by renaming them, or \
                 load from copies",
            ),
            Self::NoDelete => f.write_str("it is linked with -z nodelete (DF_1_NODELETE)"),
            Self::OtherUser { by: Some(by) } => {
                write!(f, "another user in the process: '{}' needs it", by.display())
            }
            Self::OtherUser { by: None } => f.write_str(
                "another user in the process had it loaded before the host did, and has it open",
            ),
            Self::UniqueSymbol { symbol } => write!(
                f,
                "it defines unique symbols, such as '{symbol}', which the C library never unloads; \
                 compile it with -fno-gnu-unique"
            ),
            Self::ThreadLocalDestructor => f.write_str(
                "a thread that has not ended has to run its thread-local destructors (or \
                 somebody else in the process has it open)",
            ),
            Self::Unknown => f.write_str(
                "another user in the process has opened it, or the dynamic linker keeps it for a \
                 reason of its own",
            ),
        }
    }
}
