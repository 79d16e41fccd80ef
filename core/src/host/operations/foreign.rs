//! Objects that are no host's: what is asked before a program that knows no host closes one.

use super::unload::{IN_PASSING, PATIENCE};
use crate::host::object::linked::shares;
use crate::host::object::linked::{Linked, Place};
use crate::host::presence::{self, Going};
use crate::host::registry::fork;
use crate::host::tombstone::{self, AfterUnload};
use crate::tool;
use std::ffi::{OsString, c_int, c_void};

/// dlclose(3).
pub type Close = unsafe extern "C" fn(*mut c_void) -> c_int;

/// An object that a program has opened by dlopen(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign(Linked);

/// What the last close of one would unmap: perhaps nothing.
#[derive(Clone)]
pub struct Last {
    object: Foreign,
    going: Going,
    /// What may go with any close.
    strays: Vec<Place>,
}

impl Foreign {
    /// The object of this handle, if it can be unmapped at all: it is none of the program's own, and of
    /// no other namespace.
    pub fn of(handle: *mut c_void) -> Option<Self> {
        Linked::prepare();
        fork::prepare();
        shares::prepare();
        let object = Linked::listed(handle)?;
        // SAFETY: it is listed. If another thread closes the same handle at the same time, the program
        // closes what it has not.
        (!unsafe { object.is_of_program() }).then_some(Self(object))
    }

    /// What dlopen(3) has given for it.
    pub fn handle(self) -> *mut c_void {
        self.0.0.cast_mut().cast()
    }

    /// As the linker calls it.
    ///
    /// # Safety
    ///
    /// It is loaded.
    pub unsafe fn name(self) -> OsString {
        // SAFETY: the caller's promise.
        unsafe { self.0.path() }.into_os_string()
    }

    /// How many have it open; `None` if the C library does not say.
    ///
    /// # Safety
    ///
    /// It is loaded.
    pub unsafe fn shares(self) -> Option<u32> {
        // SAFETY: the caller's promise.
        unsafe { self.0.shares() }
    }

    /// Opens it once more. Whether that could be done.
    ///
    /// # Safety
    ///
    /// It is loaded.
    pub unsafe fn hold(self) -> bool {
        // SAFETY: the caller's promise.
        unsafe { self.0.hold() }
    }

    /// What its close would unmap, if it were the last.
    ///
    /// # Safety
    ///
    /// It is loaded.
    pub unsafe fn last(self) -> Last {
        // SAFETY: the caller's promise.
        let (going, strays) = unsafe {
            match self.0.is_for_good() {
                true => Default::default(),
                false => self.0.goes_at_last(),
            }
        };
        Last { object: self, going: Going::of(going), strays }
    }
}

impl Last {
    /// Who is in its way, a line for each finding.
    pub fn look(&self) -> Vec<String> {
        presence::look(&mut [self.going.clone()], PATIENCE).remove(0)
    }

    /// The same of several, in passing.
    pub fn look_at_all(all: &[Self]) -> Vec<Vec<String>> {
        let mut going: Vec<_> = all.iter().map(|last| last.going.clone()).collect();
        presence::look(&mut going, IN_PASSING)
    }

    /// The strays in which somebody is, and who: they are loaded as long as nothing is closed.
    pub fn look_at_strays(&self) -> Vec<(Foreign, Vec<String>)> {
        let mut going: Vec<_> =
            self.strays.iter().map(|stray| Going::of(vec![stray.clone()])).collect();
        let found = presence::look(&mut going, IN_PASSING);
        let found = self.strays.iter().map(|stray| Foreign(stray.linked)).zip(found);
        found.filter(|(_, lines)| !lines.is_empty()).collect()
    }

    /// Whether it is what this one may unmap, and has not unmapped yet.
    pub fn may_unmap(&self, object: Foreign) -> bool {
        let mut places = self.going.objects.iter().chain(&self.strays);
        places.any(|place| place.linked == object.0 && place.is_mapped())
    }

    /// Whether it is to stay mapped, whoever is there ([`AfterUnload::Keep`]).
    pub fn is_to_stay(&self) -> bool {
        !self.going.objects.is_empty() && AfterUnload::by_environment() == AfterUnload::Keep
    }

    /// The close. What is unmapped by it leaves tombstones.
    ///
    /// # Safety
    ///
    /// The caller has opened it, and `close` is dlclose(3).
    pub unsafe fn close(self, close: Close) -> c_int {
        tombstone::reports_by_environment();
        // SAFETY: the caller's promise.
        let rc = tool::outside(|| unsafe { close(self.object.handle()) });
        if AfterUnload::by_environment() == AfterUnload::Trap {
            let mut gone = [self.going.objects, self.strays].concat();
            gone.retain(|place: &Place| !place.is_mapped());
            tombstone::bury(&gone);
        }
        rc
    }
}
