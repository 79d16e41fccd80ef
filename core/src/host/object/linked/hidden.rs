//! Names of an object that are hidden from the dynamic linker.
//!
//! The linker binds a `DT_NEEDED` to the first object on its list that has that name. While a module
//! and its replacement are both loaded that is the old one. So before the new modules of a set are
//! opened the old ones lose their names: what names one of them finds the new one.
//!
//! Each name is one word, written at once, so that a thread that compares names meanwhile reads the
//! one or the other. Where a name cannot be hidden nothing is written; then what is loaded is
//! bound to the old object, which the host sees, and refuses. What was loaded before stays bound to
//! the old object, although its names say otherwise by then: so it is remembered.

use super::{DT_SONAME, Dynamic, LIST, LinkMap, Linked, Place, each_object, list};
use crate::host::locks::hold;
use std::ffi::{CStr, c_char, c_int};
use std::mem::offset_of;

/// glibc's `struct link_map`, as far as its list of names. The order is that of every version since
/// 2.3; `real` says whether it is.
#[repr(C)]
struct Private {
    public: LinkMap,
    /// The object itself, in the program's own namespace.
    real: *const LinkMap,
    namespace: isize,
    names: *const Name,
}

/// glibc's `struct libname_list`.
#[repr(C)]
struct Name {
    name: *const c_char,
    next: *const Name,
    _kept: c_int,
}

/// The names of an object that are hidden, until this is dropped.
pub(crate) struct Hidden {
    place: Place,
    /// Where a name's word is, and what was in it.
    words: Vec<(usize, usize)>,
    /// What is bound to the object.
    pub(crate) users: Vec<Linked>,
}

impl Hidden {
    /// # Safety
    ///
    /// The object is loaded, and stays as long as this.
    pub(crate) unsafe fn of(place: &Place) -> Self {
        let linked = place.linked;
        // SAFETY: the caller's promise; what is on the list is loaded, and nothing comes or goes.
        let users = each_object(|info| unsafe {
            let (first, mut list) = (Linked::first()?, list(info));
            Some(first.list().filter(|object| object.needs(linked, &mut list)).collect())
        });
        let users = users.unwrap_or_default();
        let mut hidden = Self { place: place.clone(), words: Vec::new(), users };
        // Every string table begins with the empty string, at offset 0.
        // SAFETY: the caller's promise, and so below.
        let (section, entries) = unsafe { (linked.map().dynamic, linked.copied_entries()) };
        if let Some(at) = entries.iter().position(|entry| entry.tag == DT_SONAME) {
            let word = section.wrapping_add(at) as usize + offset_of!(Dynamic, value);
            hidden.put(word, entries[at].value, 0);
        }
        // SAFETY: what the linker gives out as a public part is all of it.
        let private = unsafe { &*linked.0.cast::<Private>() };
        let is_known =
            std::ptr::eq(private.real, &raw const private.public) && private.namespace == 0;
        let mut at = if is_known { private.names } else { std::ptr::null() };
        // SAFETY: a list that ends with null, of strings.
        while let Some(name) = unsafe { at.as_ref() } {
            // Paths are looked for by those alone who mean this very file.
            // SAFETY: as above.
            if !unsafe { CStr::from_ptr(name.name) }.to_bytes().contains(&b'/') {
                hidden.put(at as usize, name.name as usize, c"".as_ptr() as usize);
            }
            at = name.next;
        }
        hold(&LIST).clear();
        hidden
    }

    /// They stay hidden for as long as the object is loaded.
    pub(crate) fn for_good(mut self) {
        self.words.clear();
    }

    fn put(&mut self, at: usize, before: usize, now: usize) {
        if self.place.write(at, now) {
            self.words.push((at, before));
        }
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        for (at, before) in &self.words {
            self.place.write(*at, *before);
        }
        // Some may be bound to what was loaded meanwhile, and still is.
        hold(&LIST).clear();
    }
}
