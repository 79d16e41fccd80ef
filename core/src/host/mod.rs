//! The module host: loads, finds, lists, unloads and replaces real shared objects.
//!
//! A *module* is one load of a shared object, with a [counter](crate::Counter) of its own in
//! the host's memory. Whoever calls into it holds a [`Reference`]; the host unloads it once
//! nobody does, and never while somebody does. Behaviour is that of Linux's `kernel/module`
//! where Linux has one (docs/conformance.md of the repository has the rows that comments cite: U1,
//! L3, F1), with these differences on purpose:
//!
//! - an unload can wait: the module is closed, and the references run out or the module is
//!   live again ([`Unload::within`]);
//! - a forced unload never unmaps code under a holder;
//! - a module whose code is still mapped after its close is reported as [resident](Residency);
//! - a replacement is loaded and initialised before the old module is let go
//!   ([`Host::replace`]), unless it is to go on with what that has saved ([`Host::replace_set`]).
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
//! | `presence` | who stands in what would be unmapped; it knows no module either |
//! | `tombstone` | which module an address belongs to, or belonged to |
//! | `gate` | addresses that stay valid when what they lead to is gone |
//! | `registry` | the records of modules, their table, and the lock |
//! | `operations` | load, unload, replace, depend and so on, each a part of [`raw::Registry`] |
//! | `face` | [`Host`]: what users call |
//!
//! Each imports from those above it in this table, and none from those below it; `ci/layers` sees
//! to that.
//!
//! # The locks
//!
//! A thread that takes several takes them in the order of this table. So does a fork, which takes all
//! (`registry/fork.rs`) except the first, and those under the host's lock.
//!
//! | lock | what it guards |
//! | --- | --- |
//! | the opening lock, in `registry/opening.rs` | bringing objects in and taking them out; the one that is held for long, while the dynamic linker, constructors and destructors run |
//! | `BROUGHT` in `object/linked.rs` | what loads have brought along; taken while the linker's list is walked |
//! | `KNOWN` in `object/open.rs` | which objects are modules, and where they are from |
//! | `SEEN` in `object/stale.rs` | which files were seen to be what is mapped |
//! | `LIST` in `object/linked.rs` | what has been found out about objects; taken while the linker's list is walked, and held while hosts are asked whose an object is |
//! | `HOSTS` in `registry/fork.rs` | the list of hosts |
//! | `entries` of a `Chain` | the notifiers, and who is in them |
//! | the host's lock, `inner` of a `Registry` | writing the table, every module's state and `Life`, links, and what `Inner` has besides |
//! | `links`, `gates` and `parameters` of a `Record` | nothing more: whoever takes one has the host's lock |
//! | `GATES` in `gate/mod.rs` | making gates, and what they have led to |
//! | `WRITERS` in `tombstone/table.rs` | writing what is known of places; taken while the host's lock is held or not |
//! | `LIST` in `registry/ends.rs` | what threads leave that are to end, and which threads modules have started |
//! | `LOCALS` in `object/locals.rs` | destructors of thread-locals; taken in modules' code, too |
//! | `OPENER` in `registry/opening.rs` | who has the opening lock |
//! | `LOCK` in `registry/track.rs` | who has a tracked reference |
//! | `WAITS` in `registry/waits.rs` | who waits for whom |
//!
//! A wait of any length goes through `registry/waits.rs`, which refuses one that could never end.
//!
//! # The rules that the code relies on
//!
//! - **H1** A record is in the table, or has a `Life`, for as long as anybody holds a counted
//!   reference on it. So a reference is a plain pointer. A lookup takes its reference while it
//!   keeps the snapshot of the table in which it found the record.
//! - **H2** An object is closed by the thread that has released its module's counter, or has found
//!   it released after shutting it. There is one such thread (I1 of the counter). Once the
//!   counter is released nobody holds a reference, and nobody gets one. An object is closed once
//!   each thread that the module started has ended, and each thread has run the destructors of its
//!   thread-locals of the object.
//! - **H3** All locks except the opening lock are held for moments. While one is held no foreign code
//!   runs (of a module, a notifier, a misuse handler, a closure's destructor), and no object is opened
//!   or closed.
//! - **H4** A record has its object before its state becomes COMING. GOING is final, unless an
//!   unload gives up (its time is up, or it is cancelled): then the module is live again; or its
//!   replacement fails after its exit function: then it is COMING again.
//! - **H5** Lookups and counting take no lock, and touch no thread-local: the C library takes the
//!   dynamic linker's lock for a thread's first use of one that has a destructor. The table is
//!   published.
//! - **H6** The dynamic linker's lock is held while constructors and destructors run, and those
//!   may call the host. So a thread that has a lock of ours never waits for the linker's, unless it
//!   is the opening lock: that one comes before the linker's. A `OnceLock` that is being filled is a
//!   lock too. A thread that comes in the other order gets `EDEADLK` (`registry/opening.rs` says why).

mod error;
mod face;
mod gate;
mod locks;
mod object;
mod operations;
mod presence;
mod registry;
mod tombstone;

pub use error::Error;
pub use face::{Host, crash_reports, describe_address};
pub use object::check::check_file;
pub use object::resident::{Residency, Unloaded};
pub use operations::drain::Unloading;
pub use operations::gate::{Gate, GateFunction};
pub use operations::load::Load;
pub use operations::replace::Replace;
pub use operations::unload::Unload;
pub use registry::LastUnloaded;
pub use registry::list::Info;
pub use registry::module::{Module, Reference, Symbol, track};
pub use registry::name::NAME_LEN;
pub use registry::notify::{Notifier, NotifierId};
pub use registry::record::State;
pub use tombstone::AfterUnload;

/// What the C library is made of.
#[doc(hidden)]
pub mod raw {
    pub use super::gate::refused as gate_refused;
    pub use super::operations::foreign::{Close, Foreign, Last};
    pub use super::operations::saved::Saved;
    pub use super::operations::thread::{
        Start, create as thread_create, is_of, put_at_exit, put_counter_at_exit,
    };
    pub use super::operations::unload::Despite;
    pub use super::registry::Registry;
    pub use super::registry::fork::{is_under_way as fork_is_under_way, this_thread};
    pub use super::registry::name::{of_bytes as name_of_bytes, of_bytes_in as name_of_bytes_in};
    pub use super::registry::record::{NAME_AT, Record, raw_symbol};
    pub use super::registry::track::Track;
    pub use super::tombstone::{PLACES, Places, describe};
}
