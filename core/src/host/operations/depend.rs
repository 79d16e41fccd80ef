//! Who depends on whom.
//!
//! A dependency is taken once per pair, is a reference on the provider, and keeps the provider
//! from being unloaded, by force too. Linux: `use_module` and `ref_module`.
//!
//! Most are found: an object that the dynamic linker has bound to another module's object, by
//! `DT_NEEDED` and through however many libraries that are no modules. They are held from
//! before the object is opened, because its constructors may call what it is bound to.

use crate::host::error::{Error, error};
use crate::host::object::linked::{Linked, Peek};
use crate::host::registry::module::Module;
use crate::host::registry::record::{Loaded, Record, State};
use crate::host::registry::{Inner, Registry};
use crate::misuse::Caller;
use std::ffi::CString;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a load waits for a provider that is still coming, as in Linux.
const PROVIDER_COMES: Duration = Duration::from_secs(30);

/// How long a load waits for others to say what they have just opened, at most: a moment, unless
/// what they open is not what we are bound to, and takes its time.
const JUST_OPENED: Duration = Duration::from_secs(1);

/// A reference on a module, for as long as this is there.
pub(crate) struct Kept(Arc<Record>);

impl Kept {
    fn take(record: &Arc<Record>) -> Option<Self> {
        record.try_get(Caller::UNKNOWN).then(|| Self(record.clone()))
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.put();
    }
}

impl Registry {
    /// Takes references on the modules that an object will be bound to which needs `needed`.
    pub(crate) fn hold_providers(
        &self,
        user: &Arc<Record>,
        needed: &[CString],
    ) -> Result<Vec<Kept>, Error> {
        let mut held = Vec::new();
        for name in needed {
            let found = {
                let Some(peek) = Peek::at(name) else { continue };
                // SAFETY: the look keeps it.
                unsafe { self.modules_behind(peek.linked) }
            };
            for provider in found {
                self.hold(user, provider, &mut held)?;
            }
        }
        Ok(held)
    }

    /// The module that an object is, or else those that it is bound to.
    ///
    /// # Safety
    ///
    /// The object is loaded.
    unsafe fn modules_behind(&self, linked: Linked) -> Vec<Arc<Record>> {
        let owner = |linked| self.owner(&self.lock(), linked);
        match owner(linked) {
            Some(record) => vec![record],
            // SAFETY: the caller's promise.
            None => unsafe { self.bound(linked).0 },
        }
    }

    /// The modules that an object is bound to, and the objects that are no modules.
    ///
    /// # Safety
    ///
    /// The object is loaded.
    unsafe fn bound(&self, linked: Linked) -> (Vec<Arc<Record>>, Vec<Linked>) {
        let owner = |linked| self.owner(&self.lock(), linked);
        let (mut modules, mut others) = (Vec::new(), Vec::new());
        // SAFETY: the caller's promise.
        for object in unsafe { linked.bound(|linked| owner(linked).is_some()) } {
            match owner(object) {
                Some(record) => modules.push(record),
                None => others.push(object),
            }
        }
        (modules, others)
    }

    /// Refuses a load that is bound to what was a module, has been unloaded, and is only still
    /// in memory.
    fn check_residents(&self, user: &Record, bound: &[Linked]) -> Result<(), Error> {
        for needed in bound {
            let resident = self.lock().residents.get(needed).cloned();
            let Some((name, place)) = resident else { continue };
            // Without our lock, since the linker's is taken.
            if place.is_mapped().is_some() {
                return Err(dead(user, &name));
            }
            // Gone meanwhile, and its record is another object's.
            self.lock().residents.remove(needed);
        }
        Ok(())
    }

    /// Takes one reference, after waiting for a provider that is coming.
    fn hold(
        &self,
        user: &Record,
        provider: Arc<Record>,
        held: &mut Vec<Kept>,
    ) -> Result<(), Error> {
        if *provider == *user || held.iter().any(|kept| kept.0 == provider) {
            return Ok(());
        }
        let name = user.name();
        drop(self.wait_for_load(self.lock(), &provider, Some(PROVIDER_COMES)).map_err(
            |error| {
                error!(
                    error.errno(),
                    "cannot load module '{name}', which needs '{}': {error}",
                    provider.name()
                )
            },
        )?);
        held.push(Kept::take(&provider).ok_or_else(|| going(user, &provider))?);
        Ok(())
    }

    /// Turns what was held, and whatever else the object of `user` is bound to by now, into
    /// dependencies. Modules that name it, and had it mapped before it was a module, depend on it,
    /// too.
    pub(crate) fn link(&self, user: &Arc<Record>, mut held: Vec<Kept>) -> Result<(), Error> {
        let object = &user.loaded().expect("opened by the caller").object;
        // An object we are bound to can be a module's that has just been opened by another
        // thread, which has not told us yet: between the linker and us nothing is atomic.
        let deadline = Instant::now() + JUST_OPENED;
        let (modules, others) = loop {
            // SAFETY: the object is open, by this load, and keeps what it needs.
            let (modules, others) = unsafe { self.bound(object.linked) };
            // SAFETY: as above.
            let names: Vec<_> = others.iter().map(|other| unsafe { other.soname() }).collect();
            if !self.wait_for_opening(user, &names, deadline) {
                break (modules, others);
            }
        };
        self.check_residents(user, &others)?;
        for provider in modules {
            self.hold(user, provider, &mut held)?;
        }
        let mut inner = self.lock();
        for provider in &held {
            match self.depend(&mut inner, user, &provider.0) {
                // Two objects that need each other: the one that was there first provides.
                Err(cycle) if cycle.errno() == libc::EDEADLK => {}
                // It may be replaced, or forced out, although we hold it.
                linked => linked?,
            }
        }
        if object.was_loaded {
            let others: Vec<_> = self.table().iter().cloned().collect();
            drop(inner);
            for other in others.iter().filter(|other| ***other != **user) {
                // Only of one that names it: a reference, be it for a moment, is in the way of
                // an unload.
                let names = |loaded: &&Loaded| {
                    loaded.object.facts.needed.iter().any(|n| n.to_bytes() == user.soname)
                };
                let Some(loaded) = other.loaded().filter(names) else { continue };
                let Some(_kept) = Kept::take(other) else { continue };
                // SAFETY: we hold it.
                if unsafe { self.bound(loaded.object.linked) }.0.contains(user) {
                    let _ = self.depend(&mut self.lock(), other, user);
                }
            }
        }
        Ok(())
    }

    /// Adds one dependency. `EDEADLK` for a cycle, `ENOENT` if the provider is going.
    pub(crate) fn depend(
        &self,
        _lock: &mut Inner,
        user: &Arc<Record>,
        provider: &Arc<Record>,
    ) -> Result<(), Error> {
        if user.links().uses.contains(provider) {
            return Ok(());
        }
        if reaches(provider, user) {
            return Err(error!(
                libc::EDEADLK,
                "module '{}' cannot depend on '{}', which depends on it: neither could be unloaded",
                user.name(),
                provider.name()
            ));
        }
        // One that is being replaced is GOING before its door is shut.
        if provider.state() == State::Going || !provider.try_get(Caller::UNKNOWN) {
            return Err(going(user, provider));
        }
        user.links().uses.push(provider.clone());
        provider.links().used_by.push(user.clone());
        Ok(())
    }

    /// Gives up all that `user` depends on.
    pub(crate) fn unlink(&self, _lock: &mut Inner, user: &Record) {
        let uses = std::mem::take(&mut user.links().uses);
        for provider in uses {
            provider.links().used_by.retain(|record| **record != *user);
            provider.put();
        }
    }
}

/// Whether `from` is, or depends on, `to`, in however many steps.
fn reaches(from: &Arc<Record>, to: &Arc<Record>) -> bool {
    let mut seen = vec![from.clone()];
    let mut at = 0;
    while at < seen.len() {
        if seen[at] == *to {
            return true;
        }
        let uses = seen[at].links().uses.clone();
        for next in uses {
            if !seen.contains(&next) {
                seen.push(next);
            }
        }
        at += 1;
    }
    false
}

fn going(user: &Record, provider: &Record) -> Error {
    error!(
        libc::ENOENT,
        "module '{}' needs module '{}', which is being unloaded; try again when it is gone",
        user.name(),
        provider.name()
    )
}

fn dead(user: &Record, provider: &str) -> Error {
    error!(
        libc::ENOENT,
        "module '{}' needs module '{provider}', which is unloaded, and whose code is only still \
             in memory; load that again first",
        user.name()
    )
}

pub(crate) fn add_dependency(user: &Module, provider: &Module) -> Result<(), Error> {
    let hosts = (user.0.host.upgrade(), provider.0.host.upgrade());
    let (Some(host), Some(other)) = hosts else {
        return Err(error!(libc::ENOENT, "the host of that module is gone"));
    };
    if !Arc::ptr_eq(&host, &other) {
        return Err(error!(
            libc::EXDEV,
            "module '{}' cannot depend on '{}', which is another host's",
            user.name(),
            provider.name()
        ));
    }
    let mut inner = host.lock();
    if user.refcount().is_none() || user.state() == State::Going {
        return Err(error!(
            libc::ENOENT,
            "module '{}' is being unloaded; it can depend on nothing more",
            user.name()
        ));
    }
    host.depend(&mut inner, &user.0, &provider.0)
}
