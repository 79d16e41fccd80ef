//! Opening an object so that each module is one of its own.
//!
//! The dynamic linker loads nothing twice: it goes by the name it is given, and then by the
//! file's device and inode. So what it has returned may be another module's object: that is what
//! tells, whoever has renamed which file meanwhile. For a module that is wrong in two cases, and has an answer in each:
//!
//! - The name is known, but the file behind it is another one by now. A path that is spelled
//!   differently (`/x/./plugin.so`) is not known, and leads the linker to the file.
//! - The very file is loaded already, as another module; perhaps it was overwritten since. A
//!   copy in memory is another file.
//!
//! A copy also serves for a path in which the linker would put something else, as for `$ORIGIN`: it
//! can be told of no such path, and would load another file, if there is one.
//!
//! What is mapped must not be written over in place: that changes code that is running. A host
//! can be told to load copies from the start; otherwise such an object is left alone for good
//! ([`Object::is_overwritten`]).
//!
//! An object that somebody else in the process has open, such as a libz that the program is
//! linked with, is shared, as by any dlopen: it will be found resident at unload.

use super::elf::{self, Facts, File, Stamp};
use super::linked::{self, Linked, Place, Section, loads};
use super::locals;
use super::memory::{Memory, respelled};
use super::refusal::{self, as_code};
use super::resident::{Residency, Unloaded};
use super::stale;
use crate::host::error::{Error, errno_of, errno_text, error};
use crate::host::locks::hold;
use crate::tool;
use libloading::os::unix::Library;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsString, c_void};
use std::fs;
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// An object that is loaded, until `close`.
#[derive(Debug)]
pub(crate) struct Object {
    handle: Handle,
    pub(crate) linked: Linked,
    pub(crate) place: Place,
    pub(crate) facts: Facts,
    /// Somebody in the process had it loaded before us.
    pub(crate) was_loaded: bool,
    /// `None` if it is from no file.
    claim: Option<Claim>,
}

/// What is mapped.
enum Source {
    File(Version, Section),
    /// A copy in memory.
    Copy(Memory),
    /// It was closed, and is left in memory, of no use.
    Left,
}

/// The content of a file.
#[derive(Clone, Copy)]
struct Version {
    stamp: Stamp,
    hash: u64,
    /// See [`File`].
    settled: bool,
}

/// A file to be loaded, found and checked.
pub(crate) struct Found {
    /// As the linker is to be given it.
    name: PathBuf,
    /// `None` if only the linker knows where it is.
    file: Option<File>,
}

/// Finds `path`: a file, or else a library that the dynamic linker finds by its name.
pub(crate) fn find(path: &Path) -> Result<Found, Error> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() {
        return Err(error!(libc::ENOENT, "cannot load a module from an empty path"));
    }
    if bytes.contains(&0) {
        return Err(error!(libc::ENOENT, "cannot load a module: its path contains a NUL"));
    }
    let mut name = path.to_owned();
    if !bytes.contains(&b'/') {
        if fs::symlink_metadata(path).is_err() {
            return Ok(Found { name, file: None });
        }
        // The linker looks for a name without a slash in the library path alone.
        name = Path::new(".").join(path);
    }
    let file = Some(elf::read(&name)?);
    Ok(Found { name, file })
}

impl Found {
    /// What it needs, as far as the file could be read.
    pub(crate) fn needed(&self) -> &[CString] {
        self.file.as_ref().map_or(&[], |file| &file.facts.needed)
    }

    /// What others name it by.
    pub(crate) fn soname(&self) -> Vec<u8> {
        let soname = self.file.as_ref().and_then(|file| file.facts.soname.as_ref());
        soname.map_or_else(
            || self.name.file_name().unwrap_or_default().as_bytes().to_vec(),
            |soname| soname.to_bytes().to_vec(),
        )
    }

    /// Whether it asks never to be unmapped, as far as the file could be read.
    pub(crate) fn no_delete(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.facts.no_delete)
    }

    /// Loads it, as an object that is no other module's. Runs its constructors. If it is to be
    /// `deletable`, a file that asks never to be unmapped is copied, and the copy does not.
    ///
    /// # Safety
    ///
    /// The object's constructors and destructors may run in this process.
    pub(crate) unsafe fn open(self, copied: bool, deletable: bool) -> Result<Object, Error> {
        let Self { name, file } = self;
        // SAFETY: the caller's promise, throughout.
        unsafe {
            let is_copied = copied || is_substituted(&name);
            match file.map(|file| as_asked(file, is_copied, deletable)) {
                None => open_library(&name, copied, deletable),
                Some((file, true)) => open_copy(canonical(&name), file),
                Some((file, false)) => open_file(&name, file),
            }
        }
    }
}

/// The file as it is to be loaded, and whether from a copy.
fn as_asked(file: File, copied: bool, deletable: bool) -> (File, bool) {
    match deletable && file.facts.no_delete {
        true => (file.without_no_delete(), true),
        false => (file, copied),
    }
}

/// Whether the linker puts something else in this path, in which these words mean other folders to it.
fn is_substituted(path: &Path) -> bool {
    path.as_os_str().as_bytes().split(|&byte| byte == b'$').skip(1).any(|after| {
        let after = after.strip_prefix(b"{").unwrap_or(after);
        ["ORIGIN", "PLATFORM", "LIB"].iter().any(|word| after.starts_with(word.as_bytes()))
    })
}

/// Opens a file, or a copy of it if it is a module already.
///
/// # Safety
///
/// As for `Found::open`.
unsafe fn open_file(name: &Path, mut file: File) -> Result<Object, Error> {
    for _ in 0..5 {
        let mut given = name.to_owned();
        if known().names.contains(name.as_os_str()) {
            // The linker has an object of that name, and the file can be another one by now.
            given = respelled(name);
        }
        // SAFETY: the caller's promise, throughout.
        let (mut handle, mut since) = unsafe { Handle::open_new(name, &given, &file.facts)? };
        // SAFETY: it is open.
        if since.is_none() && unsafe { origin(handle.linked()) }.is_none() {
            // Somebody else has loaded an object of that name, or the very file.
            // SAFETY: opened above, and not used; and the caller's promise.
            unsafe {
                let again = Handle::open_new(name, &respelled(name), &file.facts);
                handle.close();
                (handle, since) = again?;
            }
        }
        let path = canonical(name);
        let Some(claim) = Claim::of(handle, path.clone(), Some(given.into()), false) else {
            // SAFETY: opened above, and not used; and the caller's promise.
            return unsafe {
                handle.close();
                open_copy(path, file)
            };
        };
        // It may have been another file, or content, by the time that the linker opened it.
        if fs::metadata(name).is_ok_and(|meta| Stamp::of(&meta) == file.stamp) {
            return Ok(Object::of_file(handle, file, since, claim));
        }
        // SAFETY: opened above, and not used.
        unsafe { handle.close() };
        claim.give_up();
        file = elf::read(name)?;
    }
    Err(error!(
        libc::ETXTBSY,
        "cannot load '{}': the file keeps changing; load it once it is installed",
        name.display()
    ))
}

/// Opens a library that the linker finds, which may turn out to be a module of ours.
///
/// # Safety
///
/// As for `Found::open`.
unsafe fn open_library(name: &Path, copied: bool, deletable: bool) -> Result<Object, Error> {
    // SAFETY: the caller's promise.
    let (handle, since) = unsafe { Handle::open_new(name, name, &Facts::default())? };
    // A copy has no file that could be read; it has one that it is from.
    // SAFETY: just opened.
    let origin = unsafe { origin(handle.linked()) };
    let is_ours = origin.is_some();
    // SAFETY: just opened.
    let path = origin.unwrap_or_else(|| canonical(&unsafe { handle.linked().path() }));
    let file = match elf::read(&path) {
        Ok(file) => file,
        // Loaded is loaded, as what the kernel brings along (the vDSO) is without a file.
        Err(_) if !copied && !is_ours => {
            return Ok(Object::new(handle, Facts::default(), None, None));
        }
        Err(error) => {
            // SAFETY: opened above, and not used.
            unsafe { handle.close() };
            return Err(error);
        }
    };
    let (file, copied) = as_asked(file, copied, deletable);
    match (!copied).then(|| Claim::of(handle, path.clone(), None, false)).flatten() {
        Some(claim) => Ok(Object::of_file(handle, file, since, claim)),
        None => {
            // SAFETY: opened above, and not used; and the caller's promise.
            unsafe {
                handle.close();
                open_copy(path, file)
            }
        }
    }
}

/// The objects that are modules, of any host, and those that were modules and are still in memory:
/// neither is opened as another module. The linker says which object a file is, and that an object
/// is ours says this. (In trees, which a leak checker finds by their beginning; a hash map it takes
/// for lost.)
pub(crate) struct Known {
    objects: BTreeMap<Linked, Owned>,
    /// What the linker was given for them. (As it is spelled: paths are equal that are not.)
    names: BTreeSet<OsString>,
}

impl Owned {
    fn is_left(&self) -> bool {
        matches!(self.source, Some(Source::Left))
    }
}

impl Known {
    /// Whether it is a module's that has not been closed.
    fn is_open(&self, linked: Linked) -> bool {
        self.objects.get(&linked).is_some_and(|owned| !owned.is_left())
    }

    fn remove(&mut self, place: &Place) {
        if self.objects.get(&place.linked).is_some_and(|owned| owned.place == *place) {
            self.forget(place.linked);
        }
    }

    fn forget(&mut self, linked: Linked) {
        if let Some(name) = self.objects.remove(&linked).and_then(|owned| owned.name) {
            self.names.remove(&name);
        }
    }
}

/// An object that is, or was, a module's.
struct Owned {
    /// The file that it is, or is a copy of.
    path: PathBuf,
    place: Place,
    /// As we have called it, if we have.
    name: Option<OsString>,
    /// From when it is known until it is closed, and what is left then.
    source: Option<Source>,
}

pub(crate) static KNOWN: Mutex<Known> =
    Mutex::new(Known { objects: BTreeMap::new(), names: BTreeSet::new() });

fn known() -> MutexGuard<'static, Known> {
    hold(&KNOWN)
}

/// Forgets what was left and has gone since: another object can be where it was.
fn forget_gone() {
    let left = |owned: &&Owned| owned.is_left();
    let left: Vec<_> =
        known().objects.values().filter(left).map(|owned| owned.place.clone()).collect();
    // Without our lock, since the linker's is taken.
    left.iter().filter(|place| !place.is_mapped()).for_each(|place| known().remove(place));
}

/// The file of the module that an object is or was, if it is one: and not another object, where a
/// module's has just gone.
///
/// # Safety
///
/// It is loaded.
unsafe fn origin(linked: Linked) -> Option<PathBuf> {
    // SAFETY: the caller's promise.
    let called = unsafe { linked.path() }.into_os_string();
    let known = known();
    let there = known.objects.get(&linked).filter(|there| there.place.name == called);
    there.map(|there| there.path.clone())
}

/// The right to an object as a module: one at a time has it.
#[derive(Debug)]
struct Claim(Place);

impl Claim {
    fn of(handle: Handle, path: PathBuf, name: Option<OsString>, is_copy: bool) -> Option<Self> {
        let place = handle.place();
        let mut known = known();
        // A file's object may be another module's. No other object has a copy's name, so one where
        // it is has just gone.
        if known.objects.contains_key(&place.linked) && !is_copy {
            return None;
        }
        known.forget(place.linked);
        known.names.extend(name.clone());
        let owned = Owned { path, place: place.clone(), name, source: None };
        known.objects.insert(place.linked, owned);
        Some(Self(place))
    }

    /// What is known of the object.
    fn look<T>(&self, at: impl FnOnce(&mut Owned) -> T) -> Option<T> {
        let mut known = known();
        known.objects.get_mut(&self.0.linked).filter(|owned| owned.place == self.0).map(at)
    }

    fn set_source(&self, source: Source) {
        self.look(|owned| owned.source = Some(source));
    }

    /// Whether the file has been written over since it was mapped.
    fn is_overwritten(&self) -> bool {
        let mapped = self.look(|owned| match &owned.source {
            Some(Source::File(version, _)) => Some((owned.path.clone(), *version)),
            _ => None,
        });
        let Some((path, then)) = mapped.flatten() else { return false };
        // Another file under that name, or none, leaves the mapping alone.
        let Ok(now) = fs::metadata(&path).map(|meta| Stamp::of(&meta)) else { return false };
        if now.id() != then.stamp.id() || now == then.stamp && then.settled {
            return false;
        }
        match elf::read(&path) {
            Ok(file) if file.stamp.id() != then.stamp.id() => false,
            Ok(file) if file.hash == then.hash => {
                self.look(|owned| {
                    if let Some(Source::File(version, _)) = &mut owned.source {
                        *version = Version::of(&file);
                    }
                });
                false
            }
            Ok(_) => true,
            // No module's file would be refused as unfit.
            Err(error) if error.errno() == libc::ENOEXEC => true,
            // It cannot be read at the moment, for want of a descriptor perhaps.
            Err(_) => !now.has_content_of(&then.stamp),
        }
    }

    /// It is gone, or may be shared again.
    fn give_up(&self) {
        known().remove(&self.0);
    }
}

/// A path that means the same wherever the process is.
fn canonical(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

impl Object {
    /// `since`: what has been loaded with it, if it has just been loaded.
    fn new(handle: Handle, facts: Facts, since: Option<Vec<Linked>>, claim: Option<Claim>) -> Self {
        let (linked, place) = (handle.linked(), handle.place());
        let was_loaded = since.is_none();
        // SAFETY: it is open.
        unsafe {
            linked.note_brought();
            stale::are_new(since.iter().flat_map(|all| &all[1..]));
        }
        if !was_loaded && !facts.no_delete && facts.thread_exit() {
            // SAFETY: as above.
            unsafe { locals::take_over(&place) };
        }
        Self { handle, linked, place, facts, was_loaded, claim }
    }

    fn of_file(handle: Handle, file: File, since: Option<Vec<Linked>>, claim: Claim) -> Self {
        // SAFETY: it is open.
        let section = unsafe { handle.linked().section() };
        claim.set_source(Source::File(Version::of(&file), section));
        Self::new(handle, file.facts, since, Some(claim))
    }

    /// The address of what the object, or one that it needs, has under this name.
    ///
    /// # Safety
    ///
    /// It has not been closed.
    pub(crate) unsafe fn symbol(&self, name: &str) -> Option<*mut c_void> {
        // SAFETY: the caller's promise; any symbol has an address.
        let symbol = unsafe { self.handle.lent().get::<*mut c_void>(name.as_bytes()) }.ok()?;
        Some(symbol.as_raw_ptr())
    }

    /// The address of a symbol that the object itself defines. (A search goes on in the
    /// objects that it needs, and the C library has an `init_module` of its own.)
    ///
    /// # Safety
    ///
    /// It has not been closed.
    pub(crate) unsafe fn own_symbol(&self, name: &str) -> Option<*mut c_void> {
        if !self.facts.may_define(name) {
            return None;
        }
        // SAFETY: the caller's promise.
        unsafe { self.plain_symbol(name).or_else(|| self.symbol(name)) }
            .filter(|&address| self.place.contains(address))
    }

    /// The same without the dynamic linker's lock: that of a function or a variable. `None` does not say
    /// that there is none.
    ///
    /// # Safety
    ///
    /// It has not been closed.
    pub(crate) unsafe fn plain_symbol(&self, name: &str) -> Option<*mut c_void> {
        // SAFETY: the caller's promise.
        unsafe { self.linked.plain_symbol(name.as_bytes()) }
    }

    /// What would be unmapped by its close: nothing, or this object and what goes along with it.
    ///
    /// # Safety
    ///
    /// It has not been closed.
    pub(crate) unsafe fn would_go(&self) -> Vec<Place> {
        // Whoever had it loaded before us may have closed it since.
        let is_needed = || self.was_loaded && self.place.needed_by().is_some();
        if self.facts.no_delete || self.is_overwritten() || is_needed() {
            return Vec::new();
        }
        // SAFETY: the caller's promise.
        let mut going = unsafe { self.goes_along() };
        going.insert(0, self.place.clone());
        going
    }

    /// # Safety
    ///
    /// As for `would_go`.
    unsafe fn goes_along(&self) -> Vec<Place> {
        // SAFETY: the caller's promise.
        unsafe { self.linked.goes_along(|other| known().is_open(other)) }
    }

    /// The file that it is from, by a path that means the same wherever the process is.
    pub(crate) fn file(&self) -> Option<PathBuf> {
        self.claim.as_ref()?.look(|owned| owned.path.clone())
    }

    /// A unique symbol, its own or that of a library that its load has brought, that is bound to the
    /// object of another module, or of one that was a module, or to what such a one has brought; in
    /// words.
    ///
    /// # Safety
    ///
    /// It has not been closed, and this thread has its turn at opening.
    pub(crate) unsafe fn bound_elsewhere(&self) -> Option<String> {
        let tell = |symbols: &[CString], own: &Place, who: &str| {
            symbols.iter().find_map(|name| {
                // SAFETY: the caller's promise; any symbol has an address.
                let symbol =
                    unsafe { self.handle.lent().get::<*mut c_void>(name.to_bytes_with_nul()) }.ok()?;
                let address = symbol.as_raw_ptr();
                // SAFETY: as above.
                let file = unsafe { self.owner_of(address) };
                let file = file.filter(|_| !own.contains(address))?;
                Some(format!(
                    "{who} does not use its own unique symbol {name:?}, but that of '{}', which may be \
                     of another size; compile both with -fno-gnu-unique",
                    file.display()
                ))
            })
        };
        tell(&self.facts.unique, &self.place, "it").or_else(|| {
            // SAFETY: the caller's promise.
            unsafe { self.goes_along() }.iter().find_map(|library| {
                let path = Path::new(&library.name);
                let who = format!("it needs '{}', which", path.display());
                tell(&elf::unique_symbols(path), library, &who)
            })
        })
    }

    /// The file of what has this address, if it is another module's, or what such a one has brought.
    ///
    /// # Safety
    ///
    /// As for `bound_elsewhere`.
    unsafe fn owner_of(&self, address: *mut c_void) -> Option<PathBuf> {
        let is_others =
            |owned: &&Owned| owned.place.linked != self.linked && owned.place.contains(address);
        let others = known().objects.values().find(is_others).map(|owned| owned.path.clone());
        others.or_else(|| {
            let brought = linked::brought_to(address as usize)?;
            // SAFETY: the caller's promise.
            let is_needed = unsafe { self.linked.bound(|_| false) }.contains(&brought.linked);
            (!is_needed).then(|| PathBuf::from(brought.name))
        })
    }

    /// Whether the file it was mapped from has been written over since. Its code and its data
    /// are not what they were, then, nor what the new file has; even to close it would crash.
    pub(crate) fn is_overwritten(&self) -> bool {
        self.claim.as_ref().is_some_and(Claim::is_overwritten)
    }

    /// Gives up our share in the object, unless it is to be `kept`, and says whether it is still in
    /// memory, and why; and what has gone along.
    ///
    /// # Safety
    ///
    /// Nobody uses it any more, and this is called once.
    pub(crate) unsafe fn close(&self, kept: bool) -> (Unloaded, Vec<Place>) {
        let is_overwritten = self.is_overwritten();
        let claim = self.claim.as_ref();
        let source = claim.and_then(|claim| claim.look(|owned| owned.source.take())).flatten();
        let (stays, gone) = match &source {
            Some(Source::File(_, section)) if is_overwritten => {
                // SAFETY: it is loaded, and stays; the caller's promise.
                unsafe { section.disarm(&self.place) };
                (Some(Residency::Overwritten), Vec::new())
            }
            _ if kept => (Some(Residency::Kept), Vec::new()),
            // SAFETY: the caller's promise.
            _ => unsafe { self.close_handle() },
        };
        locals::closed(&self.place);
        let is_copy = matches!(source, Some(Source::Copy(_)));
        if let Some(claim) = claim {
            // What others had loaded before us may be shared again; and what asks never to be
            // unmapped is loaded once, with its variables as they are.
            let may_be_shared = !is_copy && (self.was_loaded || self.facts.no_delete);
            match &stays {
                Some(Residency::Overwritten) => claim.set_source(Source::Left),
                Some(_) if !may_be_shared => claim.set_source(Source::Left),
                _ => claim.give_up(),
            }
        }
        match source {
            // For as long as it is mapped, debuggers find it by its name.
            Some(Source::Copy(memory)) if stays.is_some() => std::mem::forget(memory),
            _ => {}
        }
        (stays.map_or(Unloaded::Unmapped, Unloaded::Resident), gone)
    }

    /// # Safety
    ///
    /// As for `close`.
    unsafe fn close_handle(&self) -> (Option<Residency>, Vec<Place>) {
        let before = linked::gone();
        // SAFETY: the caller's promise.
        let mut gone = unsafe { self.goes_along() };
        // SAFETY: as above.
        unsafe { self.handle.close() };
        gone.retain(|place| !place.is_mapped());
        let stays = self.place.is_mapped();
        let own = (!stays).then_some(self.linked);
        let all: Vec<_> = gone.iter().map(|place| place.linked).chain(own).collect();
        linked::forget(&all, before);
        all.into_iter().for_each(stale::forget);
        if !stays {
            return (None, gone);
        }
        (Some(Residency::of(&self.facts, self.was_loaded, self.place.needed_by())), gone)
    }
}

impl Version {
    fn of(file: &File) -> Self {
        Self { stamp: file.stamp, hash: file.hash, settled: file.settled }
    }
}

/// What dlopen has returned.
#[derive(Clone, Copy, Debug)]
struct Handle(*mut c_void);

// SAFETY: the dynamic linker takes its handles from any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// # Safety
    ///
    /// The object's constructors and destructors may run in this process.
    unsafe fn open(shown: &Path, name: &Path, facts: &Facts) -> Result<Self, Error> {
        // SAFETY: the caller's promise.
        unsafe { refusal::open(shown, name, facts) }.map(|library| Self(library.into_raw()))
    }

    /// As `open`, and what has been loaded by that: the object first; `None` if it was there.
    ///
    /// # Safety
    ///
    /// As for `open`.
    unsafe fn open_new(
        shown: &Path,
        name: &Path,
        facts: &Facts,
    ) -> Result<(Self, Option<Vec<Linked>>), Error> {
        forget_gone();
        let before = loads();
        // SAFETY: the caller's promise.
        let handle = unsafe { Self::open(shown, name, facts)? };
        Ok((handle, handle.linked().since(before)))
    }

    /// The library behind it, lent.
    fn lent(&self) -> ManuallyDrop<Library> {
        // SAFETY: from Library::into_raw, and not closed by this.
        ManuallyDrop::new(unsafe { Library::from_raw(self.0) })
    }

    fn linked(self) -> Linked {
        // SAFETY: an open handle.
        unsafe { Linked::of_handle(self.0) }.expect("dlinfo of an open handle")
    }

    fn place(self) -> Place {
        // SAFETY: an open handle.
        unsafe { self.linked().place(self.0) }.expect("an object that is loaded is listed")
    }

    /// # Safety
    ///
    /// It is open, and nobody uses this share in the object any more.
    unsafe fn close(self) {
        // dlclose fails on a handle that is not one.
        let _ = tool::outside(|| ManuallyDrop::into_inner(self.lent()).close());
    }
}

/// Loads a copy, in memory, of the file at `path`.
///
/// # Safety
///
/// As for `Found::open`.
unsafe fn open_copy(path: PathBuf, file: File) -> Result<Object, Error> {
    let failed = |errno: i32| {
        error!(
            errno,
            "cannot load '{}': it needs a copy in memory (as requested, or because the file is a \
                 module already, or has a path that the dynamic linker would change), which cannot \
                 be made: {}; give it a file of its own",
            path.display(),
            errno_text(errno)
        )
    };
    // What may not be run where it is may not be run anywhere else.
    as_code(&file.open).map_err(|errno| {
        error!(
            errno,
            "cannot load '{}': it may not be executed: {}",
            path.display(),
            errno_text(errno)
        )
    })?;
    let title = path.file_name().unwrap_or_default().as_bytes();
    let memory = Memory::new(title).map_err(failed)?;
    file.copy_to(&memory.file).map_err(|error| failed(errno_of(&error)))?;
    // SAFETY: the caller's promise.
    let (handle, since) = unsafe { Handle::open_new(&path, &memory.name, &file.facts)? };
    let claim = Claim::of(handle, path, Some(memory.name.clone().into()), true);
    let claim = claim.expect("no other object has a copy's name");
    claim.set_source(Source::Copy(memory));
    Ok(Object::new(handle, file.facts, since, Some(claim)))
}
