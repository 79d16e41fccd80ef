//! Gates to a module's functions: to one generation of it, or to whichever is in service.

use super::depend::reaches;
use crate::host::error::{Error, error, warn};
use crate::host::gate::{self, Hidden};
use crate::host::object::linked;
use crate::host::registry::Registry;
use crate::host::registry::module::Module;
use crate::host::registry::opening::Opening;
use crate::host::registry::record::{Record, State};
use crate::misuse::Caller;
use std::collections::HashMap;
use std::ffi::c_void;
use std::fmt;
use std::mem;
use std::ops::Deref;
use std::ptr;
use std::sync::Arc;

impl Registry {
    /// A gate to that function of `record`, always the same one.
    fn gate(
        &self,
        record: &Arc<Record>,
        function: *const c_void,
        refused: usize,
    ) -> Result<gate::Gate, Error> {
        // Without our lock, since the linker's is taken.
        let is_function = linked::is_code(function as usize);
        let inner = self.lock();
        if record.refcount() < 0 {
            return Err(gone(record));
        }
        if !is_function {
            return Err(error!(
                libc::EINVAL,
                "no gate to {function:p} by module '{}': that is no function, since no object has code there",
                record.name()
            ));
        }
        if !record.has_code(function) {
            // A module is kept by those that depend on it. What belongs to no module is the caller's.
            let table = self.table();
            if let Some(owner) =
                table.iter().find(|r| r.has_code(function) && !reaches(&inner, record, r))
            {
                return Err(error!(
                    libc::EINVAL,
                    "module '{}' cannot make a gate to {function:p}: it is a function of module '{}', which \
                     it does not depend on",
                    record.name(),
                    owner.name()
                ));
            }
        }
        let mut gates = record.gates(&inner);
        let function = Hidden::new(function);
        if let Some(&gate) = gates.get(&(function, refused)) {
            if record.state() == State::Coming {
                // The init function of one that is brought up again asks for it again.
                gate.reopen(record.head());
            }
            return Ok(gate);
        }
        let gate = gate::Gate::new(record.head(), function, refused)?;
        gates.insert((function, refused), gate);
        Ok(gate)
    }

    /// A gate to that symbol of whichever module has the name of `record`.
    fn following(
        &self,
        record: &Arc<Record>,
        symbol: &str,
        refused: usize,
    ) -> Result<gate::Gate, Error> {
        let (name, module) = (record.name(), Module(record.clone()));
        let _reference = module.try_get().ok_or_else(|| gone(record))?;
        let [(_, Some(function))] = functions(record, vec![symbol.to_owned()])?[..] else {
            return Err(error!(
                libc::ENOENT,
                "module '{name}' has no function '{symbol}' of its own (nm -D lists what it exports)"
            ));
        };
        let gate = {
            let mut inner = self.lock();
            let gates = inner.following.entry(name.to_owned()).or_default();
            let gates = gates.entry(symbol.to_owned()).or_default();
            if let Some(&gate) = gates.get(&refused) {
                return Ok(gate);
            }
            // If it is not in service, whoever brings it there finds the gate, and leads it.
            let is_in_service =
                self.table().get(name) == Some(record) && record.state() == State::Live;
            let head = if is_in_service { record.head() } else { ptr::null() };
            let gate = gate::Gate::new(head, function, refused)?;
            gates.insert(refused, gate);
            gate
        };
        // Another one may be in service. If it comes later, it finds the gate.
        if let Some(live) = self.find_get(name, Caller::UNKNOWN) {
            if live.module() != module {
                self.lead_gates(&live.module().0);
            }
        }
        Ok(gate)
    }

    /// Has the gates to a module that is to be brought up again lead nowhere. Its counter is released.
    pub(crate) fn close_gates(&self, record: &Record) {
        let inner = self.lock();
        let gates = record.gates(&inner);
        let following = inner.following.get(record.name()).into_iter().flat_map(HashMap::values);
        gates.values().chain(following.flat_map(HashMap::values)).for_each(gate::Gate::close);
    }

    /// Leads those back that lead to this module alone.
    pub(crate) fn reopen_gates(&self, record: &Arc<Record>) {
        record.gates(&self.lock()).values().for_each(|gate| gate.reopen(record.head()));
    }

    /// Leads the gates of the name of `record` to it, if it is the one in service. The caller keeps it from
    /// being closed. The one that was there before it is not closed yet, so that no call is refused meanwhile.
    pub(crate) fn lead_gates(&self, record: &Arc<Record>) {
        let name = record.name();
        let wanted: Vec<_> = match self.lock().following.get(name) {
            Some(gates) => gates.keys().cloned().collect(),
            None => return,
        };
        let found = functions(record, wanted.clone()).unwrap_or_else(|error| {
            warn(&format!("the gates to module '{name}' lead nowhere: {error}"));
            wanted.into_iter().map(|symbol| (symbol, None)).collect()
        });
        let inner = self.lock();
        let table = self.table();
        if table.get(name) != Some(record) || record.state() != State::Live {
            return;
        }
        let Some(gates) = inner.following.get(name) else { return };
        // A gate that was made to another symbol since then was led there by its maker.
        for (symbol, function) in found {
            let (head, function) = match function {
                Some(function) => (record.head(), function),
                None => (ptr::null(), Hidden::new(ptr::null())),
            };
            let gates = gates.get(&symbol).into_iter().flat_map(HashMap::values);
            gates.for_each(|gate| gate.lead(head, function));
        }
    }
}

/// Where the module's own functions of these names are. The caller keeps it from being closed.
fn functions(record: &Record, names: Vec<String>) -> Result<Vec<(String, Option<Hidden>)>, Error> {
    // The search takes the dynamic linker's lock.
    let _opening = Opening::begin()?;
    let find = |name: &str| {
        // SAFETY: it is open, and the caller's promise.
        record.loaded().and_then(|loaded| unsafe { loaded.object.own_symbol(name) })
    };
    Ok(names
        .into_iter()
        .map(|name| {
            let at = find(&name).filter(|&at| linked::is_code(at as usize));
            (name, at.map(|at| Hidden::new(at)))
        })
        .collect())
}

fn gone(record: &Record) -> Error {
    let name = record.name();
    error!(libc::ENOENT, "no gate to module '{name}': it is being unloaded, or is gone")
}

impl Module {
    /// As [`gate`](Self::gate), for C.
    #[doc(hidden)]
    pub fn raw_gate(
        &self,
        function: *const c_void,
        refused: usize,
    ) -> Result<*const c_void, Error> {
        let host = self.0.host.upgrade().ok_or_else(|| gone(&self.0))?;
        Ok(host.gate(&self.0, function, refused)?.address())
    }

    /// As [`gate_follow`](Self::gate_follow), for C.
    #[doc(hidden)]
    pub fn raw_gate_follow(&self, symbol: &str, refused: usize) -> Result<*const c_void, Error> {
        let host = self.0.host.upgrade().ok_or_else(|| gone(&self.0))?;
        Ok(host.following(&self.0, symbol, refused)?.address())
    }

    /// An address that stays good for ever, for a library that is to call a function of the module
    /// and knows nothing of references. Each call takes a reference, calls `function`, gives the reference back and
    /// returns what that has returned. Once the module is being unloaded, or is gone, a call returns
    /// `refused` and is [counted](Gate::refused).
    ///
    /// The gate does not keep the module, nor need it be kept itself: the address is good when the [`Gate`] is
    /// dropped, too. The same function and `refused` give the same gate. It has a few bytes of memory for ever.
    ///
    /// Errors: `ENOENT` if the module is gone; `EINVAL` if `function` is another module's, or in no object's
    /// code; `ENOSYS` on machines but x86-64 and aarch64; the errno of memfd_create or mmap, if a sandbox lets nothing be run from memory.
    ///
    /// # Safety
    ///
    /// `function` is a function of the module. All its arguments go in registers: at most 6 that are
    /// integers or pointers, and 8 that are floating, none of them larger than a register. What it returns is
    /// good if it is `refused`: the bits of an integer or a pointer, or of an `f64`, or, in their lower half, of
    /// an `f32`.
    pub unsafe fn gate<F: GateFunction>(
        &self,
        function: F,
        refused: usize,
    ) -> Result<Gate<F>, Error> {
        // SAFETY: a `GateFunction` is a function pointer.
        let function = unsafe { mem::transmute_copy(&function) };
        // SAFETY: as above, by the caller's promise.
        self.raw_gate(function, refused).map(|address| unsafe { Gate::at(address) })
    }

    /// As [`gate`](Self::gate), to what the module exports as `symbol`; and after a replacement, or another
    /// load, to what the new module of this name exports as that. While none is live, and if the one that is has
    /// no such symbol, calls are refused. A replacement refuses none.
    ///
    /// Errors: `ENOENT` if there is no such function; others as for [`gate`](Self::gate).
    ///
    /// # Safety
    ///
    /// As for [`gate`](Self::gate), for each module of that name which is ever loaded.
    pub unsafe fn gate_follow<F: GateFunction>(
        &self,
        symbol: &str,
        refused: usize,
    ) -> Result<Gate<F>, Error> {
        // SAFETY: the caller's promise.
        self.raw_gate_follow(symbol, refused).map(|address| unsafe { Gate::at(address) })
    }
}

/// A function of a module that may be called at any time: see [`Module::gate`].
///
/// It stands for the function: it can be called, and handed out.
///
/// ```no_run
/// # use module_ref::host::{Error, Gate, Host};
/// # fn register(_: extern "C" fn(i32) -> i32) {}
/// # fn f(host: &Host) -> Result<(), Error> {
/// let plugin = host.find("plugin").unwrap();
/// // SAFETY: that is what all plugins of this name export.
/// let on_event: Gate<extern "C" fn(i32) -> i32> = unsafe { plugin.gate_follow("on_event", 0)? };
/// register(*on_event);
/// host.unload("plugin", module_ref::host::Unload::now())?;
/// assert_eq!((on_event(1), on_event.refused()), (0, 1));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Gate<F> {
    function: F,
}

impl<F: GateFunction> Gate<F> {
    /// # Safety
    ///
    /// The address is that of a function of this type.
    unsafe fn at(address: *const c_void) -> Self {
        // SAFETY: the caller's promise, and a `GateFunction` is a function pointer.
        Self { function: unsafe { mem::transmute_copy(&address) } }
    }

    /// How many calls were refused.
    pub fn refused(&self) -> u64 {
        // SAFETY: as above.
        gate::refused(unsafe { mem::transmute_copy(&self.function) })
    }
}

impl<F> Deref for Gate<F> {
    type Target = F;

    fn deref(&self) -> &F {
        &self.function
    }
}

impl<F: GateFunction> fmt::Debug for Gate<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("refused", &self.refused()).finish()
    }
}

/// What a [`Gate`] can lead to: a pointer to a function of C's with at most 8 arguments.
///
/// # Safety
///
/// It is one.
pub unsafe trait GateFunction: Copy {}

macro_rules! gate_functions {
    ($($argument:ident)*) => {
        // SAFETY: such a pointer, here and below.
        unsafe impl<R, $($argument),*> GateFunction for extern "C" fn($($argument),*) -> R {}
        // SAFETY: as above.
        unsafe impl<R, $($argument),*> GateFunction for unsafe extern "C" fn($($argument),*) -> R {}
        // SAFETY: as above.
        unsafe impl<R, $($argument),*> GateFunction for extern "C-unwind" fn($($argument),*) -> R {}
        // SAFETY: as above.
        unsafe impl<R, $($argument),*> GateFunction for unsafe extern "C-unwind" fn($($argument),*) -> R {}
    };
}

gate_functions!();
gate_functions!(A);
gate_functions!(A B);
gate_functions!(A B C);
gate_functions!(A B C D);
gate_functions!(A B C D E);
gate_functions!(A B C D E G);
gate_functions!(A B C D E G H);
gate_functions!(A B C D E G H I);
