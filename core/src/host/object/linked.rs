//! What the dynamic linker has made of an object: where it is, and what it is bound to.
//!
//! Two modules can have the same file name and the same soname while one replaces the
//! other, so the host never asks by name whom an object depends on: it asks the linker.

use super::nap;
use std::ffi::{CStr, OsStr, OsString, c_char, c_int, c_void};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{iter, mem, ptr, slice};

/// `struct link_map` of <link.h>, the part that is public.
#[repr(C)]
struct LinkMap {
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
const DT_SONAME: isize = 14;
const DT_FINI_ARRAYSZ: isize = 28;

/// The identity of an object that is loaded: the linker's own record of it. It is that
/// object's for as long as somebody has it open.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Linked(*const LinkMap);

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
    /// Where its program headers are: there is one object at a time there.
    headers: usize,
    /// What its addresses are relative to.
    base: usize,
    /// As it was spelled: paths are equal that are not.
    name: OsString,
    pub(crate) range: Range<usize>,
    /// The bytes of its segments, in whole pages.
    pub(crate) size: usize,
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
    unsafe fn map(&self) -> &LinkMap {
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

    /// The entries of its dynamic section.
    unsafe fn entries(&self) -> &[Dynamic] {
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
            let table = string_table(map.addr, at, value);
            // SAFETY: the table of a loaded object, in its length.
            (table, unsafe { slice::from_raw_parts(table as *const u8, len) }.to_vec())
        });
        Section { at, entries: entries.to_vec(), strings_at, strings }
    }

    /// The strings of its dynamic section with this tag.
    unsafe fn strings(&self, tag: isize) -> Vec<&CStr> {
        // SAFETY: the caller's promise.
        let (map, entries) = unsafe { (self.map(), self.entries()) };
        let Some(table) = entries.iter().find(|e| e.tag == DT_STRTAB) else { return Vec::new() };
        let table = string_table(map.addr, map.dynamic as usize, table.value);
        let string = |e: &Dynamic| {
            // SAFETY: an offset into the table, whose strings end with NUL and live as long
            // as the object.
            unsafe { CStr::from_ptr((table as *const c_char).add(e.value)) }
        };
        entries.iter().filter(|e| e.tag == tag).map(string).collect()
    }

    /// What other objects name it by.
    ///
    /// # Safety
    ///
    /// It is loaded.
    pub(crate) unsafe fn soname(&self) -> Vec<u8> {
        // SAFETY: the caller's promise.
        unsafe {
            match self.strings(DT_SONAME).first() {
                Some(soname) => soname.to_bytes().to_vec(),
                None => self.path().file_name().unwrap_or_default().as_bytes().to_vec(),
            }
        }
    }

    /// Every object that it is bound to through `DT_NEEDED`, however many others are between.
    /// What `stop` says is taken, and not looked behind.
    ///
    /// # Safety
    ///
    /// It is loaded; what it needs is, then, too.
    pub(crate) unsafe fn bound(&self, stop: impl Fn(Self) -> bool) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        let mut next = vec![*self];
        while let Some(object) = next.pop() {
            // SAFETY: it, or what the caller knows to be loaded needs it.
            for name in unsafe { object.strings(DT_NEEDED) } {
                let Some(needed) = Peek::at(name).map(|peek| peek.linked) else { continue };
                if needed != *self && !found.contains(&needed) {
                    found.push(needed);
                    if !stop(needed) {
                        next.push(needed);
                    }
                }
            }
        }
        found
    }

    /// The program itself, which is the first on the linker's list of objects.
    fn first() -> Option<Self> {
        static FIRST: OnceLock<Option<Linked>> = OnceLock::new();
        // SAFETY: no name means the program, which is loaded already and stays.
        *FIRST.get_or_init(|| unsafe {
            let handle = libc::dlopen(ptr::null(), libc::RTLD_LAZY);
            let first = (!handle.is_null()).then(|| Self::of_handle(handle)).flatten();
            if !handle.is_null() {
                libc::dlclose(handle);
            }
            first
        })
    }

    /// Finds out what needs the linker's lock, before anybody has another.
    pub(crate) fn prepare() {
        Self::first();
    }

    /// Of the objects from this one on, the first that names `provider` in `DT_NEEDED`.
    ///
    /// # Safety
    ///
    /// This one is loaded, and nothing comes or goes meanwhile.
    unsafe fn first_user_of(&self, provider: Self) -> Option<PathBuf> {
        // SAFETY: the caller's promise; what is on the list is loaded.
        unsafe {
            let list = || {
                iter::successors(Some(*self), |at| {
                    let next = at.map().next;
                    (!next.is_null()).then_some(Self(next))
                })
            };
            // The same file at the same place can be another load, with another record.
            list().find(|at| *at == provider)?;
            let (soname, path) = (provider.soname(), provider.path());
            let file = path.file_name().unwrap_or_default().as_bytes();
            let needs = |n: &&CStr| n.to_bytes() == soname || n.to_bytes() == file;
            list()
                .find(|at| *at != provider && at.strings(DT_NEEDED).iter().any(needs))
                .map(|user| user.path())
        }
    }

    /// Where it is in memory.
    ///
    /// # Safety
    ///
    /// It is loaded.
    pub(crate) unsafe fn place(&self) -> Option<Place> {
        // SAFETY: the caller's promise.
        let map = unsafe { self.map() };
        each_object(|info| {
            // The linker gives both the same string; a base alone can be shared.
            (info.dlpi_addr as usize == map.addr && info.dlpi_name == map.name)
                .then(|| Place::of(*self, info))
        })
    }
}

/// Where a string table is: the linker replaces its address by what that came to, where it can
/// write it. Of the two it is the one that is nearer to the section that names it, which is
/// part of the same object.
fn string_table(base: usize, section: usize, value: usize) -> usize {
    let relocated = base.wrapping_add(value);
    if relocated.abs_diff(section) < value.abs_diff(section) { relocated } else { value }
}

extern "C" fn nothing() {}

impl Section {
    /// Puts an object whose file was written over, or cut short, out of its misery: fresh memory in
    /// the place of all of it, and in that what the linker needs to go on with its list of
    /// objects, but for the destructors, which it would run when the process ends.
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
        }
    }
}

fn page_size() -> usize {
    // SAFETY: sysconf has no requirements.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// A look at the object that the linker would bind a name to. It is kept meanwhile.
///
/// A look at an object whose module is being closed in that moment leaves it to us to unmap it,
/// so the closer, who would find it resident, waits for looks to end. That is no lock: the
/// linker's own is taken in between, and whoever holds that may be in the host's code.
pub(crate) struct Peek {
    handle: *mut c_void,
    pub(crate) linked: Linked,
    /// Ends last.
    _look: Look,
}

/// How many looks there are in this process.
static LOOKS: AtomicUsize = AtomicUsize::new(0);

/// An object may be kept for a moment that is not ours to keep.
pub(crate) struct Look(());

impl Look {
    pub(crate) fn begin() -> Self {
        // Relaxed: the linker's lock orders it. A closer who finds the object kept by our handle
        // has had that lock after we took the handle, and so sees this.
        LOOKS.fetch_add(1, Relaxed);
        Self(())
    }

    /// Waits for all looks that there are, for a tenth of a second at most: one may be left over
    /// by a fork, or be waiting for somebody's constructors.
    pub(crate) fn wait_for_all() {
        let began = Instant::now();
        // Relaxed: see begin().
        while LOOKS.load(Relaxed) > 0 && began.elapsed() < Duration::from_millis(100) {
            nap(Duration::from_micros(200));
        }
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        // Relaxed: whoever sees it asks the linker.
        LOOKS.fetch_sub(1, Relaxed);
    }
}

impl Peek {
    /// Loads nothing. `None` if no such object is loaded.
    pub(crate) fn at(name: &CStr) -> Option<Self> {
        let look = Look::begin();
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
        Some(Self { handle, linked, _look: look })
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
    fn of(linked: Linked, info: &libc::dl_phdr_info) -> Self {
        // SAFETY: the linker's own description.
        let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
        let page = page_size();
        let loads = headers.iter().filter(|h| h.p_type == libc::PT_LOAD).map(|h| {
            let start = (info.dlpi_addr as usize).wrapping_add(h.p_vaddr as usize);
            (start & !(page - 1))..(start + h.p_memsz as usize).next_multiple_of(page)
        });
        let (mut start, mut end, mut size) = (usize::MAX, 0, 0);
        for load in loads {
            size += load.len();
            (start, end) = (start.min(load.start), end.max(load.end));
        }
        Self {
            linked,
            headers: info.dlpi_phdr as usize,
            base: info.dlpi_addr as usize,
            // SAFETY: the linker's own string.
            name: unsafe { path(info.dlpi_name) }.into_os_string(),
            range: start..end,
            size,
        }
    }

    /// Whether the object is still there; and if so, the first other object that names it in
    /// `DT_NEEDED`, if one does.
    pub(crate) fn is_mapped(&self) -> Option<Option<PathBuf>> {
        let first = Linked::first();
        // Nothing comes or goes while `each_object` asks, so the list can be walked.
        each_object(|info| {
            if !self.is(info) {
                return None;
            }
            // SAFETY: the program is loaded.
            Some(first.and_then(|first| unsafe { first.first_user_of(self.linked) }))
        })
    }

    /// Whether that is the object here. (Not what its headers say, which may be gone.)
    fn is(&self, info: &libc::dl_phdr_info) -> bool {
        // SAFETY: the linker's own string.
        let name = unsafe { path(info.dlpi_name) };
        info.dlpi_phdr as usize == self.headers
            && info.dlpi_addr as usize == self.base
            && name.as_os_str() == self.name
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
fn each_object<T>(mut ask: impl FnMut(&libc::dl_phdr_info) -> Option<T>) -> Option<T> {
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
