//! Symbols of whichever module has them. Linux: `symbol_get`.

use crate::host::error::{Error, error};
use crate::host::registry::module::Module;
use crate::host::registry::opening::Opening;
use crate::host::registry::record::State;
use crate::host::registry::{Given, Registry};
use crate::misuse::Caller;
use std::ffi::c_void;
use std::fmt;

impl Registry {
    pub(crate) fn symbol_get(&self, symbol: &str, caller: Caller) -> Option<*mut c_void> {
        let mut modules = self.modules();
        while let Some(Module(record)) = modules.pop() {
            // A reference makes an unload fail, if only for a moment: so there is none on a module
            // that does not have the symbol.
            let Some(loaded) = record.loaded().filter(|l| l.object.facts.may_define(symbol)) else {
                continue;
            };
            if record.state() != State::Live || !record.try_get(caller) {
                continue;
            }
            // SAFETY: we hold it.
            let mut found = unsafe { loaded.object.plain_symbol(symbol) };
            if found.is_none() {
                // The search takes the dynamic linker's lock.
                let Ok(_opening) = Opening::begin() else {
                    record.put_by(caller);
                    return None;
                };
                // SAFETY: we hold it.
                found = unsafe { loaded.object.own_symbol(symbol) };
            }
            if let Some(address) = found {
                let given = Given { symbol: symbol.to_owned(), address: address as usize, record };
                self.lock().symbols.push(given);
                return Some(address);
            }
            record.put_by(caller);
        }
        None
    }

    /// Gives back what was given first of what `is_it` says.
    pub(crate) fn symbol_put(
        &self,
        what: fmt::Arguments<'_>,
        is_it: impl Fn(&Given) -> bool,
    ) -> Result<(), Error> {
        let given = {
            let mut inner = self.lock();
            let at = inner.symbols.iter().position(is_it);
            at.map(|at| inner.symbols.remove(at))
        };
        let Some(given) = given else {
            return Err(error!(
                libc::EINVAL,
                "symbol {what} was not given out by symbol_get, or was given back"
            ));
        };
        given.record.put_by(Caller::UNKNOWN);
        Ok(())
    }
}
