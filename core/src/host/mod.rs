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
//! `object` (files and what the dynamic linker has made of them; it knows no module) → `registry`
//! (the records of modules, their table, one lock) → `operations` (load, unload, replace and so
//! on) → `face` (what users call). Each uses those before it, and none of those after it;
//! `ci/layers` looks.
//!
//! # The rules that the code relies on
//!
//! - **H1** A record (`Record`) is in the table, or among the zombies, or the ending, for as
//!   long as anybody holds a counted reference on it. So a reference is a plain pointer. A
//!   lookup takes its reference while it keeps the snapshot of the table in which it
//!   found the record.
//! - **H2** An object is closed by whoever has released its module's counter, or found it
//!   released after shutting it, and by nobody else: there is one such (I1 of the counter). Since
//!   the counter is released nobody holds a reference, and nobody gets one.
//! - **H3** The host's lock is held for moments, while no code of a module or of a notifier
//!   runs, and no object is opened or closed. It guards the writing of the table, of states and of
//!   links between modules.
//! - **H4** A record's object is there from before its state becomes COMING; its state never
//!   leaves GOING, but for an unload whose time was up.
//! - **H5** Lookups and counting take no lock. (A thread's first lookup registers a thread-local
//!   of the table's, for which the C library takes the dynamic linker's lock.)
//! - **H6** The dynamic linker's lock is held while constructors and destructors run, and those
//!   may call the host. So whoever has a lock of ours never waits for the linker's.

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
