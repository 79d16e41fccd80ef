//! What the dynamic linker has made of an object: where it is, and what it is bound to.
//!
//! Two modules can have the same file name and the same soname while one replaces the
//! other, so the host never asks by name whom an object depends on: it asks the linker.

mod hidden;
pub(crate) mod shares;

pub(crate) use hidden::Hidden;

use super::reading::copied;
use crate::host::error::last_errno;
use crate::host::locks::hold;
use object::elf;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Release};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::{fs, iter, mem, ptr, slice};

/// `struct link_map` of <link.h>, the part that is public.
#[repr(C)]
pub(crate) struct LinkMap {
    addr: usize,
    name: *const c_char,
    dynamic: *const Dynamic,
    next: *const LinkMap,
    prev: *const LinkMap,
}

/// `ElfW(Dyn)`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Dynamic {
    tag: isize,
    value: usize,
}

const DT_NULL: isize = 0;
const DT_NEEDED: isize = 1;
const DT_STRTAB: isize = 5;
const DT_STRSZ: isize = 10;
const DT_FINI: isize = 13;
const DT_PLTRELSZ: isize = 2;
const DT_SYMTAB: isize = 6;
const DT_RELA: isize = 7;
const DT_RELASZ: isize = 8;
const DT_SONAME: isize = 14;
const DT_REL: isize = 17;
const DT_RELSZ: isize = 18;
const DT_PLTREL: isize = 20;
const DT_JMPREL: isize = 23;
const DT_FINI_ARRAYSZ: isize = 28;
const DT_GNU_HASH: isize = 0x6fff_fef5;
const DT_VERSYM: isize = 0x6fff_fff0;
const DT_FLAGS_1: isize = 0x6fff_fffb;
const DF_1_NODELETE: usize = 8;

/// The identity of an object that is loaded: the linker's own record of it. It is that
/// object's for as long as somebody has it open.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Linked(pub(crate) *const LinkMap);

// SAFETY: the linker's record can be read from any thread while the object is loaded.
unsafe impl Send for Linked {}
// SAFETY: as above.
unsafe impl Sync for Linked {}

/// An object's dynamic section as it was when the object had just been loaded.
#[derive(Debug)]
pub(crate) struct Section {
    at: usize,
    entries: Vec<Dynamic>,
    strings_at: usize,
    strings: Vec<u8>,
}

/// Where an object is in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) linked: Linked,
    /// What its addresses are relative to.
    pub(crate) base: usize,
    /// As the linker calls it. (As it is spelled: paths are equal that are not.)
    pub(crate) name: OsString,
    /// In whole pages.
    pub(crate) range: Range<usize>,
    /// What of that can be written to.
    writable: Vec<Range<usize>>,
    /// Where its code is: its executable segments.
    pub(crate) text: Vec<Range<usize>>,
    /// The bytes of its segments, in whole pages.
    pub(crate) size: usize,
}

#[cfg(target_pointer_width = "64")]
type ProgramHeader = libc::Elf64_Phdr;
#[cfg(target_pointer_width = "32")]
type ProgramHeader = libc::Elf32_Phdr;

#[cfg(target_pointer_width = "64")]
type Symbol = libc::Elf64_Sym;
#[cfg(target_pointer_width = "32")]
type Symbol = libc::Elf32_Sym;

/// Whether a symbol is a function or a variable that is where its value says, for everybody: not
/// thread-local, no function that chooses one, not unique in the process.
fn is_plain(symbol: &Symbol) -> bool {
    let (bind, kind) = (elf::SymbolBind(symbol.st_info >> 4), elf::SymbolType(symbol.st_info & 15));
    let section = elf::SymbolSection(symbol.st_shndx);
    [elf::STB_GLOBAL, elf::STB_WEAK].contains(&bind)
        && [elf::STT_NOTYPE, elf::STT_OBJECT, elf::STT_FUNC].contains(&kind)
        && ![elf::SHN_UNDEF, elf::SHN_ABS].contains(&section)
}

/// Where the segments of this type with these flags are.
fn segments(
    base: usize,
    headers: &[ProgramHeader],
    kind: u32,
    flags: u32,
) -> impl Iterator<Item = Range<usize>> {
    let of_kind = headers.iter().filter(move |h| h.p_type == kind && h.p_flags & flags == flags);
    of_kind.map(move |h| {
        let start = base.wrapping_add(h.p_vaddr as usize);
        start..start + h.p_memsz as usize
    })
}

/// The pages that a range is in.
fn pages(range: Range<usize>) -> Range<usize> {
    let page = page_size();
    (range.start & !(page - 1))..range.end.next_multiple_of(page)
}

/// From the first page to the last, and the size of those that there are.
fn extent(base: usize, headers: &[ProgramHeader]) -> (Range<usize>, usize) {
    let (mut start, mut end, mut size) = (usize::MAX, 0, 0);
    for load in segments(base, headers, libc::PT_LOAD, 0).map(pages) {
        size += load.len();
        (start, end) = (start.min(load.start), end.max(load.end));
    }
    (start..end, size)
}

impl Linked {
    /// # Safety
    ///
    /// `handle` is one of dlopen's that has not been closed.
    pub(crate) unsafe fn of_handle(handle: *mut c_void) -> Option<Self> {
        let mut map: *const LinkMap = ptr::null();
        // SAFETY: the caller's promise; the request wants the place for a pointer.
        let rc = unsafe { libc::dlinfo(handle, libc::RTLD_DI_LINKMAP, (&raw mut map).cast()) };
        (rc == 0 && !map.is_null()).then_some(Self(map))
    }

    /// # Safety
    ///
    /// The object is loaded, and stays for the call. So for all that follow.
    unsafe fn map<'a>(self) -> &'a LinkMap {
        // SAFETY: the caller's promise.
        unsafe { &*self.0 }
    }

    /// The path it was loaded from, as the linker has it.
    ///
    /// # Safety
    ///
    /// It is loaded.
    pub(crate) unsafe fn path(&self) -> PathBuf {
        // SAFETY: the caller's promise.
        unsafe { path(self.map().name) }
    }

    /// The entries of its dynamic section; of an object that somebody uses, whose file is whole.
    unsafe fn entries<'a>(self) -> &'a [Dynamic] {
        // SAFETY: the caller's promise; the section ends with DT_NULL.
        unsafe {
            let section = self.map().dynamic;
            if section.is_null() {
                return &[];
            }
            let mut n = 0;
            while (*section.add(n)).tag != DT_NULL {
                n += 1;
            }
            slice::from_raw_parts(section, n)
        }
    }

    /// A copy of its dynamic section.
    ///
    /// # Safety
    ///
    /// It is loaded.
    pub(crate) unsafe fn section(&self) -> Section {
        // SAFETY: the caller's promise.
        let (map, entries) = unsafe { (self.map(), self.entries()) };
        let at = entries.as_ptr() as usize;
        let value = |tag| entries.iter().find(|e| e.tag == tag).map(|e| e.value);
        let table = value(DT_STRTAB).zip(value(DT_STRSZ));
        let (strings_at, strings) = table.map_or((at, Vec::new()), |(value, len)| {
            let table = table_at(map.addr, at, value);
            // SAFETY: the table of a loaded object, in its length.
            (table, unsafe { slice::from_raw_parts(table as *const u8, len) }.to_vec())
        });
        Section { at, entries: entries.to_vec(), strings_at, strings }
    }

    /// The address of a function or a variable that it defines under this name, without a question to
    /// the linker, which would have its lock be waited for. `None` does not say that there is none.
    ///
    /// # Safety
    ///
    /// It is loaded.
    pub(crate) unsafe fn plain_symbol(self, name: &[u8]) -> Option<*mut c_void> {
        // SAFETY: the caller's promise, throughout; the tables are those of a loaded object, which the
        // linker goes by, too.
        unsafe {
            let (map, entries) = (self.map(), self.entries());
            let table = |tag| {
                let entry = entries.iter().find(|e| e.tag == tag)?;
                Some(table_at(map.addr, map.dynamic as usize, entry.value))
            };
            let symbols = table(DT_SYMTAB)? as *const Symbol;
            let strings = table(DT_STRTAB)? as *const c_char;
            let versions = table(DT_VERSYM).map(|at| at as *const u16);
            // Its numbers, a filter in words, a chain's beginning for each bucket, and the chains: of
            // each symbol from `first` on the hash, whose lowest bit ends the chain.
            let numbers = table(DT_GNU_HASH)? as *const u32;
            let [buckets, first, words, shift] = [0, 1, 2, 3].map(|n| *numbers.add(n));
            if buckets == 0 || words == 0 {
                return None;
            }
            let hash = elf::gnu_hash(name);
            let filter = numbers.add(4).cast::<usize>();
            let filtered = *filter.add((hash / usize::BITS % words) as usize);
            if [hash, hash >> shift].into_iter().any(|bit| filtered >> (bit % usize::BITS) & 1 == 0)
            {
                return None;
            }
            let bucket = filter.add(words as usize).cast::<u32>();
            let chain = bucket.add(buckets as usize);
            let mut at = *bucket.add((hash % buckets) as usize);
            let mut found = None;
            while at >= first {
                let end = *chain.add((at - first) as usize);
                let symbol = &*symbols.add(at as usize);
                let is_it =
                    || CStr::from_ptr(strings.add(symbol.st_name as usize)).to_bytes() == name;
                if end | 1 == hash | 1 && is_it() {
                    // Which of several versions is meant, or that none is, the linker knows.
                    let is_hidden = versions.is_some_and(|of| *of.add(at as usize) & 0x8000 != 0);
                    if found.is_some() || is_hidden || !is_plain(symbol) {
                        return None;
                    }
                    found = Some(map.addr.wrapping_add(symbol.st_value as usize) as *mut c_void);
                }
                if end & 1 == 1 {
                    break;
                }
                at += 1;
            }
            found
        }
    }

    /// Copies of the entries of its dynamic section. The file of any object on the linker's list may have
    /// been cut short, so whatever walks over the list reads copies.
    unsafe fn copied_entries(self) -> Vec<Dynamic> {
        // SAFETY: the caller's promise.
        let section = unsafe { self.map() }.dynamic;
        if section.is_null() {
            return Vec::new();
        }
        // SAFETY: the section ends with DT_NULL.
        unsafe { copied(section, |entry| entry.tag == DT_NULL) }
    }

    /// What its dynamic section says of it.
    unsafe fn told(self) -> Told {
        // SAFETY: the caller's promise.
        let (map, entries) = unsafe { (self.map(), self.copied_entries()) };
        let values = |tag| entries.iter().filter(move |e| e.tag == tag).map(|e| e.value);
        let offsets = || values(DT_SONAME).chain(values(DT_NEEDED));
        // All the strings at once: each read is a call of the kernel.
        let (first, last) = (offsets().min().unwrap_or(0), offsets().max().unwrap_or(0));
        let table = values(DT_STRTAB).next().filter(|_| offsets().next().is_some());
        let bytes = table.map_or(Vec::new(), |table| {
            let from = table_at(map.addr, map.dynamic as usize, table).wrapping_add(first);
            let mut left = last - first;
            // SAFETY: the object's table, in which each string ends with NUL.
            unsafe {
                copied(from as *const u8, |byte| {
                    let ends = left == 0 && *byte == 0;
                    left = left.saturating_sub(1);
                    ends
                })
            }
        });
        let string = |offset: usize| {
            let from = bytes.get(offset - first..).unwrap_or_default();
            CString::new(from.split(|byte| *byte == 0).next().unwrap_or_default())
                .expect("what stands before a NUL")
        };
        Told {
            soname: values(DT_SONAME).map(string).next().unwrap_or_default(),
            needed: values(DT_NEEDED).map(string).collect(),
            stays: values(DT_FLAGS_1).any(|flags| flags & DF_1_NODELETE != 0),
        }
    }

    /// Its path, as the linker compares names with it.
    ///
    /// # Safety
    ///
    /// It is loaded for as long as that is used.
    unsafe fn path_bytes<'a>(self) -> &'a [u8] {
        // SAFETY: the caller's promise.
        unsafe {
            let path = self.map().name;
            if path.is_null() { b"" } else { CStr::from_ptr(path).to_bytes() }
        }
    }

    /// Whatever it may be needed as: its path, its soname, and its file's name.
    ///
    /// # Safety
    ///
    /// It is loaded.
    unsafe fn all_names(self, list: &mut List) -> [Vec<u8>; 3] {
        // SAFETY: the caller's promise.
        let (path, told) = unsafe { (self.path_bytes(), list.told(self)) };
        let file = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        [path, told.soname.to_bytes(), file].map(<[u8]>::to_vec)
    }

    /// What the linker's list, from this object on, says of each of these names: the first object
    /// that has it.
    ///
    /// # Safety
    ///
    /// It is loaded, and nothing comes or goes meanwhile.
    unsafe fn search(self, names: &[CString], list: &mut List) -> Vec<Listed> {
        let (mut listed, mut left) = (vec![Listed::Not; names.len()], names.len());
        // SAFETY: the caller's promise.
        let mut objects = unsafe { self.list() };
        while left > 0 {
            let Some(object) = objects.next() else { break };
            // SAFETY: it is on the list.
            let (path, told) = unsafe { (object.path_bytes(), list.told(object)) };
            for (name, listed) in names.iter().zip(&mut listed) {
                if !matches!(listed, Listed::Not) {
                    continue;
                }
                let name = name.to_bytes();
                if name == told.soname.to_bytes() || name == path {
                    *listed = Listed::As(object);
                } else if path.strip_suffix(name).is_some_and(|folder| folder.ends_with(b"/")) {
                    *listed = Listed::Perhaps;
                } else {
                    continue;
                }
                left -= 1;
            }
        }
        listed
    }

    /// Every object that it is bound to through `DT_NEEDED`: see [`bound_to`].
    ///
    /// # Safety
    ///
    /// It is loaded; what it needs is, then, too.
    pub(crate) unsafe fn bound(&self, stop: impl Fn(Self) -> bool) -> Vec<Self> {
        // SAFETY: the caller's promise.
        let needed = each_object(|info| Some(unsafe { list(info).told(*self) }.needed.clone()));
        let mut found = bound_to(&needed.unwrap_or_default(), true, stop);
        found.retain(|object| object != self);
        found
    }

    /// Remembers what its load brought along: the objects it is bound to that stand behind it on the
    /// linker's list. A load appends what it brings; who is bound to something older finds it further in
    /// front. Asked right after the load the walk is short.
    ///
    /// # Safety
    ///
    /// It is loaded, and keeps what it needs.
    pub(crate) unsafe fn note_brought(self) {
        let mut with = vec![self];
        // Nothing comes or goes while `each_object` asks, so the list can be walked.
        let names = each_object(|info| {
            let mut list = list(info);
            // SAFETY: what is on the list is loaded.
            for object in unsafe { self.list() }.skip(1) {
                // SAFETY: as above.
                if with.iter().any(|user| unsafe { user.needs(object, &mut list) }) {
                    with.push(object);
                }
            }
            // SAFETY: as above.
            Some(with[1..].iter().map(|object| unsafe { object.all_names(&mut list) }).collect())
        });
        for (object, names) in with[1..].iter().zip::<Vec<_>>(names.unwrap_or_default()) {
            // SAFETY: this object keeps it.
            let Some(place) = (unsafe { object.place(ptr::null_mut()) }) else { continue };
            for name in names {
                let mut brought = brought();
                let there = brought.entry(name).or_default();
                there.retain(|older| older.linked != *object);
                there.push(place.clone());
            }
        }
    }

    /// What goes along when this object is closed: of what loads have brought, whichever loads that were,
    /// what it needs and no other object does. Nothing that asks to stay, or `stays` otherwise, does.
    ///
    /// # Safety
    ///
    /// It is loaded.
    pub(crate) unsafe fn goes_along(self, stays: impl Fn(Self) -> bool) -> Vec<Place> {
        let mut going: Vec<Place> = Vec::new();
        // SAFETY: what is on the list is loaded, and nothing comes or goes meanwhile.
        each_object(|info| unsafe {
            let (first, brought, mut list) = (Self::first()?, brought(), list(info));
            let (mut users, mut at) = (vec![self], 0);
            while at < users.len() && !brought.is_empty() {
                for name in &list.told(users[at]).needed.clone() {
                    for place in brought.get(name.to_bytes()).into_iter().flatten() {
                        let object = place.linked;
                        // What had gone otherwise is not looked at.
                        let may_go = !users.contains(&object) && place.is_mapped();
                        if may_go && !list.told(object).stays && !stays(object) {
                            users.push(object);
                            going.push(place.clone());
                        }
                    }
                }
                at += 1;
            }
            // An object that stays keeps what it needs.
            while let Some(at) = going.iter().position(|place| {
                let goes = |user| user == self || going.iter().any(|place| place.linked == user);
                first.list().any(|user| user.needs(place.linked, &mut list) && !goes(user))
            }) {
                going.remove(at);
            }
            Some(())
        });
        going
    }

    /// It, and the objects that were loaded after it, or `None` if it was loaded before there had
    /// been `before` loads.
    pub(crate) fn since(&self, before: u64) -> Option<Vec<Self>> {
        each_object(|info| {
            let new = usize::try_from(info.dlpi_adds.wrapping_sub(before)).unwrap_or(usize::MAX);
            // SAFETY: it is loaded, and nothing comes or goes meanwhile. Objects are put at the end
            // of the list.
            let after: Vec<_> = unsafe { self.list() }.take(new.saturating_add(1)).collect();
            Some((after.len() <= new).then_some(after))
        })
        .flatten()
    }

    /// The linker's list from this one on.
    ///
    /// # Safety
    ///
    /// This one is loaded, and nothing comes or goes meanwhile.
    unsafe fn list(self) -> impl Iterator<Item = Self> {
        iter::successors(Some(self), |at| {
            // SAFETY: the caller's promise; what is on the list is loaded.
            let next = unsafe { at.map().next };
            (!next.is_null()).then_some(Self(next))
        })
    }

    /// Whether it names `provider` in `DT_NEEDED`.
    unsafe fn needs(self, provider: Self, list: &mut List) -> bool {
        // SAFETY: the caller's promise: both are loaded.
        unsafe {
            let (user, provides) = (list.told(self), list.told(provider));
            user.needed.iter().any(|name| provider.may_be(name, &provides))
        }
    }

    /// Whether it can be what is needed under this name: its path, its file's name or its soname.
    unsafe fn may_be(self, name: &CStr, told: &Told) -> bool {
        // SAFETY: the caller's promise.
        let path = unsafe { self.path_bytes() };
        let is_file = |folder: &[u8]| folder.is_empty() || folder.ends_with(b"/");
        name == &*told.soname || path.strip_suffix(name.to_bytes()).is_some_and(is_file)
    }

    /// Whether it asks never to be unmapped.
    unsafe fn stays(self) -> bool {
        // SAFETY: the caller's promise.
        each_object(|info| Some(unsafe { list(info).told(self) }.stays)).unwrap_or(false)
    }

    /// The program itself, which is the first on the linker's list of objects.
    fn first() -> Option<Self> {
        static FIRST: OnceLock<Option<Linked>> = OnceLock::new();
        if let Some(first) = FIRST.get() {
            return *first;
        }
        // Not in the lock's own function, which takes the linker's lock (H6); and so below.
        // SAFETY: no name means the program, which is loaded already and stays.
        let first = unsafe {
            let handle = libc::dlopen(ptr::null(), libc::RTLD_LAZY);
            let first = (!handle.is_null()).then(|| Self::of_handle(handle)).flatten();
            if !handle.is_null() {
                libc::dlclose(handle);
            }
            first
        };
        let _ = FIRST.set(first);
        first
    }

    /// Finds out what needs the linker's lock, before anybody has another.
    pub(crate) fn prepare() {
        Self::first();
        find_object();
    }

    /// What its addresses are relative to, and its name.
    ///
    /// # Safety
    ///
    /// It is loaded, and stays for as long as the name is used.
    pub(crate) unsafe fn base_and_name<'a>(&self) -> (usize, &'a CStr) {
        // SAFETY: the caller's promise.
        unsafe { ((*self.0).addr, CStr::from_ptr((*self.0).name)) }
    }

    /// The object that an address is in, async-signal-safe after [`prepare`](Self::prepare). (That
    /// there is none is not sure: glibc 2.36 does not find some objects that were loaded where others
    /// had been.)
    pub(crate) fn at(address: usize) -> Option<Self> {
        let mut found = Found { flags: 0, start: 0, end: 0, map: ptr::null(), rest: [0; 16] };
        // SAFETY: the function takes any address, and fills in what it has found.
        let rc = unsafe { find_object()?(address as *mut c_void, &mut found) };
        (rc == 0 && !found.map.is_null()).then_some(Self(found.map))
    }

    /// Whether an object of this record is loaded, with its dynamic section at this address.
    ///
    /// # Safety
    ///
    /// Nothing comes or goes meanwhile.
    unsafe fn is_at(self, section: usize) -> bool {
        // SAFETY: the caller's promise; what is on the list is loaded.
        let is_listed = |first: Self| unsafe {
            first.list().any(|at| at == self && at.map().dynamic as usize == section)
        };
        Self::at(section) == Some(self) || Self::first().is_some_and(is_listed)
    }

    /// Of the objects from this one on, the first that is bound to `provider`: that names it in
    /// `DT_NEEDED`, and finds no other object of that name in front of it.
    ///
    /// # Safety
    ///
    /// This one is loaded, and nothing comes or goes meanwhile.
    unsafe fn first_user_of(self, provider: Self, list: &mut List) -> Option<PathBuf> {
        // SAFETY: the caller's promise; what is on the list is loaded.
        unsafe {
            // The same file at the same place can be another load, with another record.
            self.list().find(|at| *at == provider)?;
            let provides = list.told(provider);
            let is_it = |name: &CString, list: &mut List| {
                let mut may_be = |at: &Self| at.may_be(name, &list.told(*at));
                provider.may_be(name, &provides) && self.list().find(&mut may_be) == Some(provider)
            };
            let mut is_bound =
                |at: &Self| list.told(*at).needed.iter().any(|name| is_it(name, list));
            let user = self.list().find(|at| *at != provider && is_bound(at));
            user.map(|user| user.path())
        }
    }

    /// Where it is in memory.
    ///
    /// # Safety
    ///
    /// It is loaded, and `handle` is an open one of its own, or null.
    pub(crate) unsafe fn place(&self, handle: *mut c_void) -> Option<Place> {
        const RTLD_DI_PHDR: c_int = 11;
        let mut first: *const ProgramHeader = ptr::null();
        let n = match handle.is_null() {
            true => 0,
            // SAFETY: the caller's promise; the request wants the place for a pointer.
            false => unsafe { libc::dlinfo(handle, RTLD_DI_PHDR, (&raw mut first).cast()) },
        };
        // SAFETY: the caller's promise.
        let map = unsafe { self.map() };
        if n > 0 {
            // SAFETY: the linker's own description.
            let headers = unsafe { slice::from_raw_parts(first, n as usize) };
            return Some(Place::of(*self, map, headers));
        }
        // glibc before 2.36.
        each_object(|info| {
            // The linker gives both the same string; a base alone can be shared.
            let is_it = info.dlpi_addr as usize == map.addr && info.dlpi_name == map.name;
            is_it.then(|| Place::of(*self, map, &headers(info)))
        })
    }
}

/// What is to be said of the object that has this address, while nothing comes or goes.
fn of_object_at<T>(address: usize, tell: impl Fn(&libc::dl_phdr_info) -> T) -> Option<T> {
    each_object(|info| {
        let headers = headers(info);
        let mut all = segments(info.dlpi_addr as usize, &headers, libc::PT_LOAD, 0);
        all.any(|range| range.contains(&address)).then(|| tell(info))
    })
}

/// Where the segments with these flags are of the object that has this address.
pub(crate) fn segments_of(address: usize, flags: u32) -> Vec<Range<usize>> {
    let found = of_object_at(address, |info| {
        segments(info.dlpi_addr as usize, &headers(info), libc::PT_LOAD, flags).collect()
    });
    found.unwrap_or_default()
}

/// The file of the object that has this address, which may go at any time, and what its addresses are
/// relative to.
pub(crate) fn file_and_base(address: usize) -> Option<(PathBuf, usize)> {
    // SAFETY: the linker's own string, which is there while the object is.
    let told =
        of_object_at(address, |info| (unsafe { path(info.dlpi_name) }, info.dlpi_addr as usize));
    // The program has no name.
    told.map(|(path, base)| match path.as_os_str().is_empty() {
        true => (fs::read_link("/proc/self/exe").unwrap_or_default(), base),
        false => (path, base),
    })
}

/// Whether an object has code at this address.
pub(crate) fn is_code(address: usize) -> bool {
    segments_of(address, libc::PF_X).iter().any(|text| text.contains(&address))
}

/// Copies, for the reason that copied_entries() gives.
fn headers(info: &libc::dl_phdr_info) -> Vec<ProgramHeader> {
    let mut left = 0..info.dlpi_phnum;
    // SAFETY: the linker's own description.
    unsafe { copied(info.dlpi_phdr, |_| left.next().is_none()) }
}

/// What the linker says of an address: the object's name, which is never null, and the exported symbol.
/// The names are there for as long as the object is, which the caller keeps. Takes the linker's lock.
pub(crate) fn described(address: *const c_void) -> Option<libc::Dl_info> {
    let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: any address can be asked for; all that is filled in may be zero.
    let info =
        unsafe { (libc::dladdr(address, info.as_mut_ptr()) != 0).then(|| info.assume_init()) };
    info.filter(|info| !info.dli_fname.is_null())
}

/// Has this copy of the library stay mapped: from here on a thread of its own, or a destructor, may
/// run in it. The shared library does so anyway, a static copy in a plugin does not. That takes the
/// linker's lock (H6).
pub(crate) fn stay() {
    if let Some(object) = described((&raw const LIST).cast()) {
        let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE;
        // SAFETY: the name is the linker's, which has this object open; it is there, and stays.
        unsafe { libc::dlopen(object.dli_fname, flags) };
    }
}

/// How many objects have been loaded in this process.
pub(crate) fn loads() -> u64 {
    each_object(|info| Some(info.dlpi_adds)).unwrap_or(0)
}

/// `struct dl_find_object` of <dlfcn.h>, with room for what may be added.
#[repr(C)]
struct Found {
    flags: u64,
    start: usize,
    end: usize,
    map: *const LinkMap,
    rest: [usize; 16],
}

type FindObject = unsafe extern "C" fn(*mut c_void, *mut Found) -> c_int;

/// glibc's `_dl_find_object`, since 2.35, which takes no lock and walks no list.
fn find_object() -> Option<FindObject> {
    static FUNCTION: OnceLock<Option<FindObject>> = OnceLock::new();
    if let Some(function) = FUNCTION.get() {
        return *function;
    }
    // SAFETY: a name; and the function of that name has this type.
    let function = unsafe {
        let function = libc::dlsym(libc::RTLD_DEFAULT, c"_dl_find_object".as_ptr());
        (!function.is_null()).then(|| mem::transmute::<*mut c_void, FindObject>(function))
    };
    let _ = FUNCTION.set(function);
    function
}

/// What has been found out about the objects on the linker's list. It holds until one goes: an object
/// that comes is put behind those that are there, so it changes no answer.
pub(crate) struct List {
    /// How many objects had come and gone when it held.
    come: u64,
    gone: u64,
    /// What names are bound to. In order, like the objects.
    names: Vec<(CString, Linked)>,
    objects: Vec<(Linked, Arc<Told>)>,
}

/// What the dynamic section of an object says.
struct Told {
    soname: CString,
    needed: Vec<CString>,
    /// It asks never to be unmapped.
    stays: bool,
}

pub(crate) static LIST: Mutex<List> =
    Mutex::new(List { come: 0, gone: 0, names: Vec::new(), objects: Vec::new() });

/// What holds now, of what has been found out; for as long as nothing comes or goes.
fn list(info: &libc::dl_phdr_info) -> MutexGuard<'static, List> {
    let mut list = hold(&LIST);
    if list.gone != info.dlpi_subs {
        let come = info.dlpi_adds.wrapping_sub(list.come);
        list.keep_front(come);
        list.gone = info.dlpi_subs;
    }
    list.come = info.dlpi_adds;
    list
}

impl List {
    /// # Safety
    ///
    /// The object is loaded.
    unsafe fn told(&mut self, object: Linked) -> Arc<Told> {
        // SAFETY: the caller's promise.
        match self.objects.binary_search_by_key(&object, |told| told.0) {
            Ok(at) => self.objects[at].1.clone(),
            Err(at) => {
                // SAFETY: the caller's promise.
                let told = Arc::new(unsafe { object.told() });
                self.objects.insert(at, (object, told.clone()));
                told
            }
        }
    }

    /// Some object has gone, after so many have come: what stays known is about objects at the front of
    /// the list, such as the C library, with as many behind them as have come. They were there before.
    fn keep_front(&mut self, come: u64) {
        const FRONT: usize = 64;
        let come = usize::try_from(come).unwrap_or(usize::MAX);
        let first = Linked::first().filter(|_| come <= FRONT);
        // SAFETY: the program is loaded, and nothing comes or goes meanwhile.
        let objects = first.into_iter().flat_map(|first| unsafe { first.list() });
        let mut front: Vec<_> = objects.take(FRONT + come).collect();
        front.truncate(front.len().saturating_sub(come));
        self.names.retain(|(_, object)| front.contains(object));
        self.objects.retain(|(object, _)| front.contains(object));
    }

    /// Where this name is, or has its place.
    fn named(&self, name: &CStr) -> Result<usize, usize> {
        self.names.binary_search_by(|(known, _)| (**known).cmp(name))
    }

    fn clear(&mut self) {
        self.names.clear();
        self.objects.clear();
    }
}

/// What loads of ours have brought along, by the names that it may be needed by.
pub(crate) static BROUGHT: Mutex<BTreeMap<Vec<u8>, Vec<Place>>> = Mutex::new(BTreeMap::new());

fn brought() -> MutexGuard<'static, BTreeMap<Vec<u8>, Vec<Place>>> {
    hold(&BROUGHT)
}

/// What a load has brought and has this address.
pub(crate) fn brought_to(address: usize) -> Option<Place> {
    let is_it = |place: &&Place| place.range.contains(&address);
    let there: Vec<_> = brought().values().flatten().filter(is_it).cloned().collect();
    there.into_iter().find(Place::is_mapped)
}

/// Every object that an object is bound to which needs `needed`, however many others are between.
/// What `stop` says is taken, and not looked behind. An object that is `opened` has all of them; of
/// one that is not, those are told that are loaded, as far as the linker's list tells their names.
pub(crate) fn bound_to(
    needed: &[CString],
    opened: bool,
    stop: impl Fn(Linked) -> bool,
) -> Vec<Linked> {
    // What the linker itself has answered where its list does not.
    let mut asked: Vec<(CString, Option<(Linked, usize)>)> = Vec::new();
    loop {
        let walked = each_object(|info| {
            let (first, mut list) = (Linked::first()?, list(info));
            let (mut found, mut unknown): (Vec<Linked>, Vec<CString>) = (Vec::new(), Vec::new());
            let mut next = needed.to_vec();
            while !next.is_empty() {
                let (mut objects, mut missing) = (Vec::new(), Vec::new());
                for name in mem::take(&mut next) {
                    match list.named(&name) {
                        Ok(at) => objects.push(list.names[at].1),
                        Err(_) => missing.push(name),
                    }
                }
                // SAFETY: the program is loaded.
                let listed = unsafe { first.search(&missing, &mut list) };
                for (name, listed) in missing.into_iter().zip(listed) {
                    if let Listed::As(object) = listed {
                        if let Err(at) = list.named(&name) {
                            list.names.insert(at, (name, object));
                        }
                        objects.push(object);
                        continue;
                    }
                    match asked.iter().find(|(asked, _)| *asked == name) {
                        // SAFETY: nothing comes or goes.
                        Some((_, Some((object, address)))) if unsafe { object.is_at(*address) } => {
                            objects.push(*object);
                        }
                        None if opened || matches!(listed, Listed::Perhaps) => unknown.push(name),
                        _ => {}
                    }
                }
                for object in objects {
                    if !found.contains(&object) {
                        found.push(object);
                        if !stop(object) {
                            // SAFETY: it is loaded.
                            next.extend(unsafe { list.told(object) }.needed.iter().cloned());
                        }
                    }
                }
            }
            Some((found, unknown))
        });
        let Some((found, unknown)) = walked else { return Vec::new() };
        if unknown.is_empty() {
            return found;
        }
        for name in unknown {
            let peek = Peek::at(&name);
            // SAFETY: the look keeps it.
            let place = peek.map(|p| (p.linked, unsafe { p.linked.map() }.dynamic as usize));
            asked.push((name, place));
        }
    }
}

/// What the linker's list says of a name.
#[derive(Clone, Copy)]
enum Listed {
    Not,
    /// It is the file's name of an object. Under which names the linker has found its files it does
    /// not tell.
    Perhaps,
    As(Linked),
}

/// How many objects have gone in this process.
pub(crate) fn gone() -> u64 {
    each_object(|info| Some(info.dlpi_subs)).unwrap_or(0)
}

/// These objects have gone since there had been `before`: that they were brought is forgotten. If no other
/// has, what else has been found out goes on to hold.
pub(crate) fn forget(objects: &[Linked], before: u64) {
    let now = gone();
    let mut list = hold(&LIST);
    if list.gone == before && now.wrapping_sub(before) == objects.len() as u64 {
        list.names.retain(|(_, object)| !objects.contains(object));
        list.objects.retain(|(object, _)| !objects.contains(object));
        list.gone = now;
    }
    drop(list);
    brought().retain(|_, there| {
        there.retain(|place| !objects.contains(&place.linked));
        !there.is_empty()
    });
}

/// Where a table is. The linker may or may not have relocated its address in the dynamic section, depending on
/// whether it could write there. The table is part of the same object as the section, so the candidate that
/// is closer to the section is right.
fn table_at(base: usize, section: usize, value: usize) -> usize {
    let relocated = base.wrapping_add(value);
    if relocated.abs_diff(section) < value.abs_diff(section) { relocated } else { value }
}

extern "C" fn nothing() {}

/// An instruction that returns, for what is called.
const RETURN: &[u8] = if cfg!(target_arch = "x86_64") {
    &[0xc3]
} else if cfg!(all(target_arch = "aarch64", target_endian = "little")) {
    &[0xc0, 0x03, 0x5f, 0xd6]
} else {
    &[]
};

impl Section {
    /// Replaces an object whose file was written over, or cut short, by fresh memory. That has what the
    /// linker needs for its list of objects, except the destructors, which it would run when the process
    /// ends. The code is replaced by returns, because the C library still has the object's `atexit` entries
    /// and the destructors of its static and thread-local objects, and calls them.
    ///
    /// # Safety
    ///
    /// The object is loaded, at `place`, and nobody uses it any more.
    pub(crate) unsafe fn disarm(&self, place: &Place) {
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        let fresh = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let (start, len) = (place.range.start as *mut c_void, place.range.len());
        // SAFETY: the object's own pages, which nobody uses; the linker has reserved what is
        // between its segments. What is written lies in them.
        unsafe {
            if libc::mmap(start, len, writable, fresh, -1, 0) == libc::MAP_FAILED {
                return;
            }
            let code = || place.text.iter().cloned().map(pages);
            for code in code().filter(|_| !RETURN.is_empty()) {
                slice::from_raw_parts_mut(code.start as *mut u8, code.len())
                    .chunks_exact_mut(RETURN.len())
                    .for_each(|place| place.copy_from_slice(RETURN));
            }
            let strings = self.strings_at as *mut u8;
            strings.copy_from_nonoverlapping(self.strings.as_ptr(), self.strings.len());
            for (i, entry) in self.entries.iter().enumerate() {
                let value = match entry.tag {
                    DT_FINI_ARRAYSZ => 0,
                    DT_FINI => (nothing as extern "C" fn() as usize).wrapping_sub(place.base),
                    _ => entry.value,
                };
                let at = (self.at as *mut Dynamic).add(i);
                at.write(Dynamic { tag: entry.tag, value });
            }
            for code in code() {
                let executable = libc::PROT_READ | libc::PROT_EXEC;
                libc::mprotect(code.start as *mut c_void, code.len(), executable);
            }
        }
    }
}

pub(crate) fn page_size() -> usize {
    // SAFETY: sysconf has no requirements.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// A look at the object that the linker would bind a name to. It holds a dlopen handle, and if the owner closes
/// the object meanwhile, ours is the last close. So only the thread that has the opening lock may look.
struct Peek {
    handle: *mut c_void,
    linked: Linked,
}

impl Peek {
    /// Loads nothing. `None` if no such object is loaded.
    fn at(name: &CStr) -> Option<Self> {
        // SAFETY: a name; nothing is loaded, so no code runs.
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        if handle.is_null() {
            // Its words are not ours to leave behind.
            // SAFETY: has no requirements.
            unsafe { libc::dlerror() };
            return None;
        }
        // SAFETY: the handle is open.
        let linked = unsafe { Linked::of_handle(handle) }.expect("dlinfo of an open handle");
        Some(Self { handle, linked })
    }
}

impl Drop for Peek {
    fn drop(&mut self) {
        // SAFETY: gives back only what the look has taken.
        unsafe { libc::dlclose(self.handle) };
    }
}

impl Place {
    /// From the linker's description.
    fn of(linked: Linked, map: &LinkMap, headers: &[ProgramHeader]) -> Self {
        let (range, size) = extent(map.addr, headers);
        let of = |kind, flags| segments(map.addr, headers, kind, flags);
        // The linker protects this once it has relocated it. It begins a segment.
        let relro = of(libc::PT_GNU_RELRO, libc::PF_R).next();
        let writable = of(libc::PT_LOAD, libc::PF_W).map(|segment| match &relro {
            Some(relro) if segment.contains(&relro.start) => relro.end..segment.end,
            _ => segment,
        });
        let writable = writable.collect();
        let text = of(libc::PT_LOAD, libc::PF_X).collect();
        // SAFETY: the linker's own string.
        let name = unsafe { path(map.name) }.into_os_string();
        Self { linked, base: map.addr, name, range, writable, text, size }
    }

    /// Has the linker close an object that it keeps although it was closed, if it needs to no longer; and
    /// says whether it is gone.
    pub(crate) fn close_again(&self) -> bool {
        drop(CString::new(self.name.as_bytes()).ok().and_then(|name| Peek::at(&name)));
        !self.is_mapped()
    }

    /// Whether the object is still there.
    pub(crate) fn is_mapped(&self) -> bool {
        // The same record, at the same place, can be another object's, of another name.
        let is_it = |object: &Linked| {
            // SAFETY: it is loaded, and nothing comes or goes meanwhile.
            let map = unsafe { object.map() };
            // SAFETY: as above.
            *object == self.linked
                && map.addr == self.base
                && unsafe { path(map.name) }.as_os_str() == self.name
        };
        let found = || Linked::at(self.range.start);
        if each_object(|_| found().is_some_and(|object| is_it(&object)).then_some(())).is_some() {
            return true;
        }
        let (mut core, start) = (0_u8, self.range.start as *mut c_void);
        // SAFETY: asks about any address; one page has one byte.
        if unsafe { libc::mincore(start, page_size(), (&raw mut core).cast()) } != 0
            && last_errno() == libc::ENOMEM
        {
            // Nothing is mapped there.
            return false;
        }
        // SAFETY: the program is loaded, and nothing comes or goes meanwhile.
        each_object(|_| Some(unsafe { Linked::first()?.list() }.any(|object| is_it(&object))))
            .unwrap_or(false)
    }

    /// The first other object that is bound to it by `DT_NEEDED`, if one is.
    pub(crate) fn needed_by(&self) -> Option<PathBuf> {
        // SAFETY: the program is loaded, and nothing comes or goes meanwhile.
        each_object(|info| unsafe {
            Linked::first().map(|first| first.first_user_of(self.linked, &mut list(info)))
        })
        .flatten()
    }

    /// Whether there is a `T` at this address that can be written to.
    pub(crate) fn has_variable<T>(&self, address: *const T) -> bool {
        let (start, end) = (address as usize, address as usize + size_of::<T>());
        address.is_aligned() && self.writable.iter().any(|w| w.start <= start && end <= w.end)
    }

    /// Writes a word, of the object or of the dynamic linker's own. Whether that could be done.
    fn write(&self, at: usize, value: usize) -> bool {
        let (word, page) = (at as *const AtomicUsize, at & !(page_size() - 1));
        // The linker protects the dynamic section and the table of imports once it has relocated the
        // object; what is not in the object is its own, and can be written to.
        let is_writable = |w: &Range<usize>| w.start < page + page_size() && page < w.end;
        let is_protected = self.contains(word.cast()) && !self.writable.iter().any(is_writable);
        // SAFETY: a page of the object's.
        let protect = |how| unsafe { libc::mprotect(page as *mut _, page_size(), how) } == 0;
        if is_protected && !protect(libc::PROT_READ | libc::PROT_WRITE) {
            return false;
        }
        // Release, for what it points to: the linker reads that after the word.
        // SAFETY: it is there, aligned, and can be written to.
        unsafe { &*word }.store(value, Release);
        // If that fails it can be written to, as before relocation.
        let _ = is_protected && protect(libc::PROT_READ);
        true
    }

    /// Has the object find `to` where it imports one of these names.
    ///
    /// # Safety
    ///
    /// It is loaded, and `to` does what the names promise.
    pub(crate) unsafe fn rebind(&self, names: &[&[u8]], to: usize) {
        // mips64 has another form of relocations.
        if cfg!(target_arch = "mips64") {
            return;
        }
        // SAFETY: the caller's promise, throughout; the tables are those of a loaded object, which
        // the linker goes by, too.
        unsafe {
            let (map, entries) = (self.linked.map(), self.linked.entries());
            let value = |tag| entries.iter().find(|e| e.tag == tag).map(|e| e.value);
            let table = |tag| value(tag).map(|at| table_at(map.addr, map.dynamic as usize, at));
            let Some((symbols, strings)) = table(DT_SYMTAB).zip(table(DT_STRTAB)) else { return };
            let plt_kind = value(DT_PLTREL).unwrap_or(DT_RELA as usize) as isize;
            let tables = [
                (DT_RELA, DT_RELASZ, DT_RELA),
                (DT_REL, DT_RELSZ, DT_REL),
                (DT_JMPREL, DT_PLTRELSZ, plt_kind),
            ];
            for (at, size, kind) in tables {
                let Some((at, size)) = table(at).zip(value(size)) else { continue };
                // Where, what, and in one of the two kinds what is added.
                let words = if kind == DT_RELA { 3 } else { 2 };
                let all = slice::from_raw_parts(at as *const usize, size / size_of::<usize>());
                for relocation in all.chunks_exact(words) {
                    let symbol =
                        relocation[1] >> if cfg!(target_pointer_width = "64") { 32 } else { 8 };
                    let symbol = &*(symbols as *const Symbol).add(symbol);
                    let name = (strings as *const c_char).add(symbol.st_name as usize);
                    let slot = self.base.wrapping_add(relocation[0]);
                    // In code it is not a whole address.
                    let is_code = || self.text.iter().any(|text| text.contains(&slot));
                    if names.contains(&CStr::from_ptr(name).to_bytes())
                        && slot % size_of::<usize>() == 0
                        && !is_code()
                    {
                        self.write(slot, to);
                    }
                }
            }
        }
    }

    /// Whether an address is inside.
    pub(crate) fn contains(&self, address: *const c_void) -> bool {
        self.range.contains(&(address as usize))
    }
}

/// # Safety
///
/// `name` is null or a C string.
unsafe fn path(name: *const c_char) -> PathBuf {
    if name.is_null() {
        return PathBuf::new();
    }
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(name) };
    Path::new(OsStr::from_bytes(name.to_bytes())).to_owned()
}

/// The first answer that `ask` gives about a loaded object, asked of one after the other
/// while none can come or go.
pub(crate) fn each_object<T>(mut ask: impl FnMut(&libc::dl_phdr_info) -> Option<T>) -> Option<T> {
    struct Search<'a, T> {
        ask: &'a mut dyn FnMut(&libc::dl_phdr_info) -> Option<T>,
        found: Option<T>,
    }

    unsafe extern "C" fn one<T>(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        data: *mut c_void,
    ) -> c_int {
        // SAFETY: the pointer that was handed in below, and the linker's description.
        let (search, info) = unsafe { (&mut *data.cast::<Search<'_, T>>(), &*info) };
        search.found = (search.ask)(info);
        search.found.is_some().into()
    }

    let mut search = Search { ask: &mut ask, found: None };
    // SAFETY: the callback fits its data, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(one::<T>), (&raw mut search).cast()) };
    mem::take(&mut search.found)
}
