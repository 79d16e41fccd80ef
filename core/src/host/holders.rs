//! Who holds a module: its counter's records, and what the host knows of its own references.

use super::error::Error;
use super::module::{Core, Module, State};
use crate::holders::Holder;

impl Module {
    /// Begins or ends recording who takes references to the module: see
    /// [`Counter::record_holders`](crate::Counter::record_holders). While it is on, an unload that
    /// is refused, or whose time is up, says who they are.
    ///
    /// `ENOMEM` if there is no memory for the records. `EBUSY` for an end while the module is being
    /// unloaded; whoever holds it can begin also then.
    pub fn record_holders(&self, on: bool) -> Result<(), Error> {
        let core = &*self.0;
        let host = core.host.upgrade();
        // An end owns an attempt to release the counter for a moment: no unload may be told of
        // it.
        let lock = host.as_ref().filter(|_| !on).map(|host| host.lock());
        if lock.is_some() && core.state() == State::Going && core.refcount() >= 0 {
            let why = format!(
                "module '{}' is being unloaded: its holders stay recorded until that is over",
                core.name()
            );
            return Err(Error::new(libc::EBUSY, why));
        }
        core.counter.record_holders(on).map_err(|error| {
            let why = format!("no records of who holds module '{}': {error}", core.name());
            Error::new(libc::ENOMEM, why)
        })
    }

    /// Who holds references, the oldest first, as far as recorded; empty while recording is off.
    /// Without those of the host's own: while the module is loaded, and for modules that depend on
    /// it.
    pub fn holders(&self) -> Vec<Holder> {
        self.0.counter.holders()
    }

    /// All of them as text, one line for each.
    #[doc(hidden)]
    pub fn holders_text(&self) -> String {
        let own = self.0.own_references();
        self.0.counter.all_holders().map_or_else(String::new, |all| all.lines(&own))
    }
}

impl Core {
    /// What the host's own references are for.
    fn own_references(&self) -> Vec<String> {
        // The links are let go before anybody asks the dynamic linker for names (H6).
        let links = self.links();
        let users = links.used_by.iter().map(|user| format!("dependency of '{}'", user.name()));
        let loading = (self.state() == State::Coming).then(|| "its own load".to_owned());
        users.chain(loading).collect()
    }

    /// Who holds it, for a sentence: ", held by ..." and "", or "" and what to do to know it. It
    /// asks the dynamic linker, so no lock of ours is held (H6).
    pub(super) fn held_by(&self) -> (String, &'static str) {
        const HINT: &str = "; recording (module_record_holders) says who holds it";
        match self.counter.all_holders() {
            None => (String::new(), HINT),
            Some(all) if all.named.is_empty() && all.unnamed == 0 => Default::default(),
            Some(all) => (format!(", held by {}", all.few(&self.own_references())), ""),
        }
    }
}
