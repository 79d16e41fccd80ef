//! The look for who stands in a module, on request and with memory.

use crate::host::error::{Error, error};
use crate::host::operations::unload::{PATIENCE, going};
use crate::host::presence;
use crate::host::registry::life::Life;
use crate::host::registry::module::Module;
use crate::host::registry::record::{Record, State};
use crate::misuse::Caller;
use std::mem;

impl Module {
    /// Everybody who stands in the module's code now, or points into it, with a reference or without: what
    /// an unload looks for, and writable memory as well (2.5 ms for each MB that was touched). A line each,
    /// such as "thread 4711 'poller' stands in on_timer+0x12 of metrics.so", or none.
    ///
    /// Memory that was freed may still contain an address, so a line about memory is a hint. There are no
    /// lines for an object that an unload leaves mapped anyway.
    ///
    /// `EBUSY` if another thread is unloading it. For a module that is unloaded and stays mapped the lines tell
    /// who keeps it; for one that is gone there are none.
    pub fn dangling(&self) -> Result<Vec<String>, Error> {
        if let Some(_reference) = self.try_get_by(Caller::UNKNOWN) {
            return Ok(look(&self.0));
        }
        let Some(registry) = self.0.host.upgrade() else { return Ok(Vec::new()) };
        let threads = &self.0.threads;
        match registry.lock().lives.of(&self.0) {
            // As a thread of the module's own, this one keeps others from closing its object.
            Some(Life::Left(_) | Life::Found(..)) => threads.one_more(),
            None if self.state() == State::Going => return Ok(Vec::new()),
            // Or it was when we asked for a reference, and is live again.
            _ => return Err(error!(libc::EBUSY, "module '{}' is being unloaded", self.name())),
        }
        let lines = look(&self.0);
        threads.one_less();
        Ok(lines)
    }
}

fn look(record: &Record) -> Vec<String> {
    let mut going = [going(record)];
    if going[0].objects.is_empty() {
        return Vec::new();
    }
    let mut lines = presence::look(&mut going, PATIENCE).remove(0);
    // We know its functions, too.
    let ours = record.loaded().map(|loaded| {
        let at = std::ptr::from_ref(loaded) as usize;
        at..at + mem::size_of_val(loaded)
    });
    lines.extend(presence::memory(&going, ours.as_slice()));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::registry::{Registry, tests::record};

    /// As a call finds it whose get comes before an unload gives up, and whose look at the life comes after.
    #[test]
    fn one_that_is_live_again_was_being_unloaded() {
        let registry = Registry::new();
        let module = Module(record(&registry));
        assert!(module.0.close());
        module.0.set_state(State::Live);
        assert_eq!(module.dangling().map_err(|error| error.errno()), Err(libc::EBUSY));
        module.0.set_state(State::Going);
        assert_eq!(module.dangling(), Ok(Vec::new()));
    }
}
