//! The module host: loads, finds, lists, unloads and replaces real shared objects.
//!
//! A *module* is one load of a shared object, with a [counter](crate::Counter) of its own in
//! the host's memory. Whoever calls into it holds a [`Reference`]; the host unloads it once
//! nobody does, and never while somebody does. Behaviour is that of Linux's `kernel/module`
//! where Linux has one (docs/conformance.md of the repository has the rows that comments cite: U1,
//! L3, F1), with these differences on purpose:
//!
//! - an unload can wait: the door is shut, and the references run out or the module is
//!   live again ([`Unload::within`]);
//! - a forced unload never unmaps code under a holder;
//! - a module whose code is still mapped after its close is reported as [resident](Residency);
//! - a replacement is loaded and initialised before the old module is let go
//!   ([`Host::replace`]).
//!
//! A plugin is any shared object. If it exports `int init_module(void)` and `void
//! cleanup_module(void)` they are called, and `struct module *__this_module` is filled in. They
//! may not unwind; a C++ exception that leaves them ends the process.
//!
//! # The layers
//!
//! | layer | what is in it |
//! | --- | --- |
//! | `object` | files, and what the dynamic linker has made of them; it knows no module |
//! | `registry` | the records of modules, their table, and the lock |
//! | `operations` | load, unload, replace, depend and so on, each a part of [`raw::Registry`] |
//! | `face` | [`Host`]: what users call |
//!
//! Each imports from those above it in this table, and none from those below it; `ci/layers` sees
//! to that.
//!
//! # The locks
//!
//! A thread that takes several takes them in the order of this table.
//!
//! | lock | what it guards |
//! | --- | --- |
//! | `HOSTS` in `registry/fork.rs` | the list of hosts, and the locks that a fork holds |
//! | `entries` of a `Chain` | the notifiers, and who is in them |
//! | the host's lock, `inner` of a `Registry` | writing the table, every module's state and `Life`, links, and what `Inner` has besides |
//! | `links` of a `Record` | nothing more: those who write it have the host's lock, or are the thread that loads the module |
//! | `FILES`, `COPIES`, `source` of an `Object` | which files are modules; taken while no other lock is held |
//!
//! # The rules that the code relies on
//!
//! - **H1** A record is in the table, or has a `Life`, for as long as anybody holds a counted
//!   reference on it. So a reference is a plain pointer. A lookup takes its reference while it
//!   keeps the snapshot of the table in which it found the record.
//! - **H2** An object is closed by the thread that has released its module's counter, or has found
//!   it released after shutting it. There is one such thread (I1 of the counter). Once the
//!   counter is released nobody holds a reference, and nobody gets one.
//! - **H3** The host's lock is held for moments. While it is held no code of a module or of a
//!   notifier runs, and no object is opened or closed.
//! - **H4** A record has its object before its state becomes COMING. GOING is final, unless an
//!   unload gives up (its time is up, or it is cancelled): then the module is live again.
//! - **H5** Lookups and counting take no lock. (A thread's first lookup registers a thread-local
//!   of the table's, for which the C library takes the dynamic linker's lock.)
//! - **H6** The dynamic linker's lock is held while constructors and destructors run, and those
//!   may call the host. So a thread that has a lock of ours never waits for the linker's.

mod error;
mod face;
mod object;
mod operations;
mod registry;

pub use error::Error;
pub use face::Host;
pub use object::resident::{Residency, Unloaded};
pub use operations::drain::Unloading;
pub use operations::load::Load;
pub use operations::unload::Unload;
pub use registry::LastUnloaded;
pub use registry::module::{Module, Reference, Symbol};
pub use registry::name::NAME_LEN;
pub use registry::notify::{Notifier, NotifierId};
pub use registry::record::State;

/// What the C library is made of.
#[doc(hidden)]
pub mod raw {
    pub use super::operations::thread::{Start, create as thread_create, put_at_exit};
    pub use super::registry::Registry;
    pub use super::registry::record::{NAME_AT, Record, raw_symbol};
}
