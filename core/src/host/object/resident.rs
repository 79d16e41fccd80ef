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

impl Unloaded {
    /// Whether this is the wanted outcome: the code is gone, or the host was told to keep it.
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::Unmapped | Self::Resident(Residency::Kept))
    }
}

/// Why a module's code is still mapped although the module is unloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Residency {
    /// It was unloaded by force, or replaced, while it was held. It goes with a later call of
    /// the host, once its holders have given their references back.
    Held {
        /// How many there were. 0 if that is unknown, because the module could not be closed without a
        /// barrier.
        references: u64,
    },
    /// Threads that it has started have not ended. It goes with a later call of the host, once they
    /// have.
    Threads {
        /// One of them, with its number and name.
        first: String,
        /// How many there were.
        running: u64,
    },
    /// Somebody who holds no reference is in its code, or will call it. It goes with a later call of
    /// the host, once nobody is found any more.
    Present {
        /// Who, a line each.
        found: Vec<String>,
    },
    /// Its file was written over in place while it was mapped. Its exit function was not run, and
    /// it is left alone: what is mapped is no code any more.
    Overwritten,
    /// The dynamic linker was busy, so it could not be closed. It goes with a later call of the host.
    Postponed {
        /// Why, in words.
        why: String,
    },
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
    /// Threads have to run destructors of its thread-local objects. It goes with a later call of the host,
    /// once each has called the host, or ended.
    ThreadLocals {
        /// Which, with their numbers and names.
        threads: Vec<String>,
    },
    /// The same, of objects that it made known to the C library alone, as in its constructors: their
    /// threads have to end.
    ThreadLocalDestructor,
    /// The host was told to leave it ([`AfterUnload::Keep`](crate::host::AfterUnload::Keep)).
    Kept,
    /// The dynamic linker keeps it, and does not say why.
    Unknown,
}

impl Residency {
    /// As C has it.
    #[doc(hidden)]
    pub fn number(&self) -> i32 {
        match self {
            Self::Held { .. } => 1,
            Self::Threads { .. } => 2,
            Self::Overwritten => 3,
            Self::NoDelete => 4,
            Self::OtherUser { .. } => 5,
            Self::UniqueSymbol { .. } => 6,
            Self::ThreadLocals { .. } | Self::ThreadLocalDestructor => 7,
            Self::Unknown => 8,
            Self::Kept => 9,
            Self::Postponed { .. } => 10,
            Self::Present { .. } => 11,
        }
    }

    /// Of an object that has just been closed and is still there: the linker does not tell,
    /// so this goes by what is known to make it stay, the surest first.
    pub(crate) fn of(facts: &Facts, was_loaded: bool, needed_by: Option<PathBuf>) -> Self {
        if facts.no_delete {
            return Self::NoDelete;
        }
        if needed_by.is_some() || was_loaded {
            return Self::OtherUser { by: needed_by };
        }
        if let Some(symbol) = facts.unique.first() {
            return Self::UniqueSymbol { symbol: symbol.to_string_lossy().into_owned() };
        }
        if facts.thread_exit() {
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
                "nobody seems to hold it, but that could not be verified (a sandbox may refuse \
                 membarrier); a later call of the host tries again",
            ),
            Self::Held { references: n } => write!(
                f,
                "it is still held, by {}; its code goes with a later call of the host, once they \
                 are given back",
                references(*n)
            ),
            Self::Threads { first, running } => {
                write!(f, "{first}, which it has started, has not ended")?;
                if *running > 1 {
                    write!(f, ", nor have {} others", running - 1)?;
                }
                f.write_str("; its code goes with a later call of the host, once that has")
            }
            Self::Present { found } => write!(
                f,
                "{}; its code goes with a later call of the host, once nobody is found there",
                found.join("; ")
            ),
            Self::Overwritten => f.write_str(
                "its file was written over in place while it was mapped, so that neither its exit \
                 function nor its destructors can be run; install files by renaming them, or \
                 load from copies",
            ),
            Self::Postponed { why } => {
                write!(
                    f,
                    "its object could not be closed: {why}; a later call of the host tries again"
                )
            }
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
            Self::ThreadLocals { threads } => {
                let shown = threads.len().min(8);
                // They may have ended before they could be named.
                f.write_str(if shown == 0 { "threads" } else { "" })?;
                f.write_str(&threads[..shown].join(", "))?;
                if threads.len() > shown {
                    write!(f, " and {} others", threads.len() - shown)?;
                }
                write!(
                    f,
                    " {} thread-locals of it, with destructors; its code goes with a later call of the \
                     host, once each such thread has looked up a symbol of a module, or has loaded or \
                     unloaded one, or has ended",
                    if threads.len() == 1 { "has" } else { "have" }
                )
            }
            Self::ThreadLocalDestructor => f.write_str(
                "a thread that has not ended has to run its thread-local destructors (or \
                 somebody else in the process has it open)",
            ),
            Self::Kept => {
                f.write_str("the host was told to keep it, for tools that look symbols up")
            }
            Self::Unknown => f.write_str(
                "another user in the process has opened it, or the dynamic linker keeps it for a \
                 reason of its own",
            ),
        }
    }
}
