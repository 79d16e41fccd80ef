//! Who depends on whom.
//!
//! A dependency is taken once per pair, is a reference on the provider, and keeps the provider
//! from being unloaded, by force too. Linux: `use_module` and `ref_module`.
//!
//! Most are found: an object that the dynamic linker has bound to another module's object, by
//! `DT_NEEDED` and through however many libraries that are no modules. They are held from
//! before the object is opened, because its constructors may call what it is bound to.

use crate::host::error::{Error, error};
use crate::host::object::linked::{Linked, bound_to};
use crate::host::object::stale;
use crate::host::registry::module::Module;
use crate::host::registry::opening::Opening;
use crate::host::registry::record::{Loaded, Record, State};
use crate::host::registry::{Inner, Registry};
use crate::misuse::Caller;
use std::ffi::CString;
use std::mem::{self, ManuallyDrop};
use std::path::PathBuf;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

/// How long a load waits for a provider that is still coming, as in Linux.
const PROVIDER_COMES: Duration = Duration::from_secs(30);

/// A reference on a module, for as long as this is there.
pub(crate) struct Kept(Arc<Record>);

impl Kept {
    fn take(record: &Arc<Record>) -> Option<Self> {
        record.try_get(Caller::UNKNOWN).then(|| Self(record.clone()))
    }

    /// The reference is the caller's to put.
    fn hand_over(self) -> Arc<Record> {
        let kept = ManuallyDrop::new(self);
        // SAFETY: it is not dropped, so that this is moved out once.
        unsafe { ptr::read(&kept.0) }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.put();
    }
}

impl Registry {
    /// This thread's turn at opening, with references on the modules that an object will be bound to
    /// which needs `needed`. What is still coming is waited for before.
    pub(crate) fn hold_providers(
        &self,
        user: &Arc<Record>,
        needed: &[CString],
    ) -> Result<(Opening, Vec<Option<Kept>>), Error> {
        loop {
            let opening = Opening::begin()?;
            let mut held = Vec::new();
            let bound = bound_to(needed, false, |linked| self.owner(linked).is_some());
            let modules = bound.into_iter().filter_map(|linked| self.owner(linked)).collect();
            let Some(coming) = self.hold(user, modules, &mut held)? else {
                return Ok((opening, held));
            };
            drop((opening, held));
            self.wait_for_provider(user, &coming)?;
        }
    }

    /// The modules that an object is bound to, and the objects that are no modules.
    ///
    /// # Safety
    ///
    /// The object is loaded.
    pub(super) unsafe fn bound(&self, linked: Linked) -> (Vec<Arc<Record>>, Vec<Linked>) {
        let (mut modules, mut others) = (Vec::new(), Vec::new());
        // SAFETY: the caller's promise.
        for object in unsafe { linked.bound(|linked| self.owner(linked).is_some()) } {
            match self.owner(object) {
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
            let Some(resident) = resident else { continue };
            // Without our lock, since the linker's is taken.
            if !resident.place.is_mapped() {
                // Gone meanwhile, and its record is another object's.
                self.lock().strike(&resident);
            } else if resident.has_ended {
                return Err(dead(user, &resident.info.name));
            }
        }
        Ok(())
    }

    /// Takes references, unless one of them is still coming, which is returned.
    fn hold(
        &self,
        user: &Record,
        providers: Vec<Arc<Record>>,
        held: &mut Vec<Option<Kept>>,
    ) -> Result<Option<Arc<Record>>, Error> {
        for provider in providers {
            if *provider == *user || held.iter().flatten().any(|kept| kept.0 == provider) {
                continue;
            }
            if self.lock().lives.is_coming(user, &provider) {
                return Ok(Some(provider));
            }
            held.push(Some(Kept::take(&provider).ok_or_else(|| going(user, &provider))?));
        }
        Ok(None)
    }

    /// Waits for a provider that is coming. Not while this thread has its turn at opening: the
    /// provider's init function may need one.
    fn wait_for_provider(&self, user: &Record, provider: &Arc<Record>) -> Result<(), Error> {
        let waited = self.wait_for_load(self.lock(), provider, Some(PROVIDER_COMES)).map(drop);
        waited.map_err(|error| {
            let (name, provider) = (user.name(), provider.name());
            error!(error.errno(), "cannot load module '{name}', which needs '{provider}': {error}")
        })
    }

    /// Turns what was held, and whatever else the object of `user` is bound to by now, into
    /// dependencies. Modules that name it, and had it mapped before it was a module, depend on it,
    /// too. Returns which files of what it is bound to are others by now.
    pub(crate) fn link(
        &self,
        user: &Arc<Record>,
        mut opening: Opening,
        mut held: Vec<Option<Kept>>,
    ) -> Result<Vec<PathBuf>, Error> {
        let object = &user.loaded().expect("opened by the caller").object;
        let stale = loop {
            // SAFETY: the object is open, by this load, and keeps what it needs.
            let (modules, others) = unsafe { self.bound(object.linked) };
            self.check_residents(user, &others)?;
            let Some(coming) = self.hold(user, modules, &mut held)? else {
                let modules = held.iter().flatten().filter_map(|kept| kept.0.loaded());
                let bound: Vec<_> =
                    modules.map(|loaded| loaded.object.linked).chain(others).collect();
                // SAFETY: we hold them, and the object keeps the others.
                break unsafe { stale::among(&bound) };
            };
            drop(opening);
            self.wait_for_provider(user, &coming)?;
            opening = Opening::begin()?;
        };
        let mut inner = self.lock();
        for kept in &mut held {
            let provider = kept.as_ref().expect("held above").0.clone();
            match self.depend(&mut inner, user, &provider, kept) {
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
                // Skip modules that do not list it in DT_NEEDED: even a brief reference could make an
                // unload fail.
                let names = |loaded: &&Loaded| {
                    loaded.object.facts.needed.iter().any(|n| n.to_bytes() == user.soname)
                };
                let Some(loaded) = other.loaded().filter(names) else { continue };
                let Some(_kept) = Kept::take(other) else { continue };
                // SAFETY: we hold it.
                if unsafe { self.bound(loaded.object.linked) }.0.contains(user) {
                    let mut kept = Kept::take(user);
                    let _ = self.depend(&mut self.lock(), other, user, &mut kept);
                }
            }
        }
        Ok(stale)
    }

    /// Adds one dependency, which takes the reference on the provider over unless there is one
    /// already. `EDEADLK` for a cycle, `ENOENT` if the provider is going.
    fn depend(
        &self,
        inner: &mut Inner,
        user: &Arc<Record>,
        provider: &Arc<Record>,
        kept: &mut Option<Kept>,
    ) -> Result<(), Error> {
        if user.links(inner).uses.contains(provider) {
            return Ok(());
        }
        if reaches(inner, provider, user) {
            return Err(error!(
                libc::EDEADLK,
                "module '{}' cannot depend on '{}', which depends on it: neither could be unloaded",
                user.name(),
                provider.name()
            ));
        }
        // One that is being replaced is GOING before its counter is closed.
        let kept = match kept.take() {
            Some(kept) if provider.state() != State::Going => kept.hand_over(),
            refused => {
                *kept = refused;
                return Err(going(user, provider));
            }
        };
        user.links(inner).uses.push(kept);
        provider.links(inner).used_by.push(user.clone());
        Ok(())
    }

    /// Gives up all that `user` depends on.
    pub(crate) fn unlink(&self, user: &Record) {
        let uses = {
            let inner = self.lock();
            let uses = mem::take(&mut user.links(&inner).uses);
            for provider in &uses {
                provider.links(&inner).used_by.retain(|record| **record != *user);
            }
            uses
        };
        // Without the lock: a put may find a misuse, and report it.
        uses.iter().for_each(|provider| provider.put());
    }
}

/// Whether `from` is, or depends on, `to`, in however many steps.
pub(super) fn reaches(inner: &Inner, from: &Arc<Record>, to: &Arc<Record>) -> bool {
    let mut seen = vec![from.clone()];
    let mut at = 0;
    while at < seen.len() {
        if seen[at] == *to {
            return true;
        }
        let uses = seen[at].links(inner).uses.clone();
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
    // Before the lock, since a get may find a misuse, and report it; and given back after it.
    let mut kept = Kept::take(&provider.0);
    let mut inner = host.lock();
    if user.refcount().is_none() || user.state() == State::Going {
        return Err(error!(
            libc::ENOENT,
            "module '{}' is being unloaded; it can depend on nothing more",
            user.name()
        ));
    }
    host.depend(&mut inner, &user.0, &provider.0, &mut kept)
}
