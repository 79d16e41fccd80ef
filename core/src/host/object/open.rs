//! Opening an object so that each module is one of its own.
//!
//! The dynamic linker loads nothing twice: it goes by the name it is given, and then by the
//! file's device and inode. For a module that is wrong in two cases, and has an answer in each:
//!
//! - The name is known, but the file behind it is another one by now. A path that is spelled
//!   differently (`/x/./plugin.so`) is not known, and leads the linker to the file.
//! - The very file is loaded already, as another module; perhaps it was overwritten since. A
//!   copy in memory is another file.
//!
//! What is mapped must not be written over in place: that changes code that is running. A host
//! can be told to load copies from the start; otherwise such an object is left alone for good
//! ([`Object::is_overwritten`]).
//!
//! An object that somebody else in the process has open, such as a libz that the program is
//! linked with, is shared, as by any dlopen: it will be found resident at unload.

use super::elf::{self, Facts, File, Stamp};
use super::linked::{Linked, Look, Peek, Place, Section};
use super::nap;
use super::resident::{Residency, Unloaded};
use crate::host::error::{Error, errno_text, error};
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::collections::HashMap;
use std::ffi::{CString, OsString, c_void};
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io::Write;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// An object that is loaded, until `close`.
#[derive(Debug)]
pub(crate) struct Object {
    handle: Handle,
    pub(crate) linked: Linked,
    pub(crate) place: Place,
    pub(crate) facts: Facts,
    /// Somebody in the process had it loaded before us.
    pub(crate) was_loaded: bool,
    /// What is mapped; taken by the close.
    source: Mutex<Source>,
}

#[derive(Debug)]
enum Source {
    File(Mapped),
    /// A copy in memory, of this name.
    Copy(PathBuf),
    Unknown,
}

/// A file as it was when it was mapped.
#[derive(Debug)]
struct Mapped {
    path: PathBuf,
    stamp: Stamp,
    hash: u64,
    section: Section,
    claim: Claim,
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

    /// Loads it, as an object that is no other module's. Runs its constructors.
    ///
    /// # Safety
    ///
    /// The object's constructors and destructors may run in this process.
    pub(crate) unsafe fn open(self, copied: bool) -> Result<Object, Error> {
        let Self { name, file } = self;
        // SAFETY: the caller's promise, throughout.
        unsafe {
            match file {
                None => open_library(&name, copied),
                Some(file) if copied => open_copy(canonical(&name), file),
                Some(file) => match Claim::of(&file.stamp) {
                    Some(claim) => open_file(&name, file, claim),
                    None => open_copy(canonical(&name), file),
                },
            }
        }
    }
}

/// Opens a file that is nobody else's.
///
/// # Safety
///
/// As for `Found::open`.
unsafe fn open_file(name: &Path, file: File, claim: Claim) -> Result<Object, Error> {
    let mut name = name.to_owned();
    let mut was_loaded = Peek::at(&c_string(&name)).is_some();
    if was_loaded {
        // The name is known; is it the file, too?
        name = respelled(&name);
        was_loaded = Peek::at(&c_string(&name)).is_some();
    }
    // SAFETY: the caller's promise.
    let handle = unsafe { Handle::open(&name) }.map_err(|error| cannot(&name, error))?;
    Ok(Object::of_file(handle, canonical(&name), file, was_loaded, claim))
}

/// Opens a library that the linker finds, which may turn out to be a module of ours.
///
/// # Safety
///
/// As for `Found::open`.
unsafe fn open_library(name: &Path, copied: bool) -> Result<Object, Error> {
    // What turns out to be a module's is kept for a moment.
    let _look = Look::begin();
    let mut tries = 0;
    let (handle, was_loaded, origin) = loop {
        let was_loaded = Peek::at(&c_string(name)).is_some();
        // SAFETY: the caller's promise.
        let handle = unsafe { Handle::open(name) }.map_err(|error| cannot(name, error))?;
        // SAFETY: just opened.
        let path = unsafe { handle.linked().path() };
        // A copy has no file that could be read; it has one that it is from.
        match lock(&COPIES).get(path.as_os_str()) {
            None if path.starts_with(DESCRIPTORS) && tries < 1000 => {}
            origin => break (handle, was_loaded, origin.cloned().ok_or(path)),
        }
        // A copy whose module has just been closed: next time it is gone.
        // SAFETY: opened above, and not used.
        unsafe { handle.close() };
        nap(Duration::from_millis(1));
        tries += 1;
    };
    let is_copy = origin.is_ok();
    let path = origin.unwrap_or_else(|path| canonical(&path));
    let file = match elf::read(&path) {
        Ok(file) => file,
        // Loaded is loaded, as what the kernel brings along (the vDSO) is without a file.
        Err(_) if !copied && !is_copy => {
            return Ok(Object::new(handle, Facts::default(), true, Source::Unknown));
        }
        Err(error) => {
            // SAFETY: opened above, and not used.
            unsafe { handle.close() };
            return Err(error);
        }
    };
    let claim = if copied || is_copy { None } else { Claim::of(&file.stamp) };
    match claim {
        Some(claim) => Ok(Object::of_file(handle, path, file, was_loaded, claim)),
        None => {
            // SAFETY: opened above, and not used; and the caller's promise.
            unsafe {
                handle.close();
                open_copy(path, file)
            }
        }
    }
}

/// Where a process finds the files it has open by their descriptors.
const DESCRIPTORS: &str = "/proc/self/fd";

/// A file, by device and inode.
type FileId = (u64, u64);

/// The files that are modules, of any host: `None`; and those that were modules, and were
/// still in memory when they had been closed: where. Neither is opened as another module.
static FILES: LazyLock<Mutex<HashMap<FileId, Option<Place>>>> = LazyLock::new(Mutex::default);

/// The copies that are modules, by their names, which no other object ever has, and the
/// files that they are from. (Not paths: those are equal that differ in their spelling.)
static COPIES: LazyLock<Mutex<HashMap<OsString, PathBuf>>> = LazyLock::new(Mutex::default);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The right to open a file as a module: one at a time has it.
#[derive(Debug)]
struct Claim(FileId);

impl Claim {
    fn of(stamp: &Stamp) -> Option<Self> {
        let id = stamp.id();
        let left = lock(&FILES).get(&id).cloned();
        match &left {
            None => {}
            Some(Some(place)) if place.is_mapped().is_none() => {}
            Some(_) => return None,
        }
        let mut files = lock(&FILES);
        if files.get(&id) != left.as_ref() {
            // Somebody was faster.
            return None;
        }
        files.insert(id, None);
        Some(Self(id))
    }

    /// The file's object is left in memory, of no use.
    fn leave(self, place: Place) {
        lock(&FILES).insert(self.0, Some(place));
        std::mem::forget(self);
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        lock(&FILES).remove(&self.0);
    }
}

/// A path that means the same wherever the process is.
fn canonical(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

impl Object {
    fn new(handle: Handle, facts: Facts, was_loaded: bool, source: Source) -> Self {
        let linked = handle.linked();
        // SAFETY: it is open.
        let place = unsafe { linked.place() }.expect("an object that is loaded is listed");
        Self { handle, linked, place, facts, was_loaded, source: Mutex::new(source) }
    }

    fn of_file(handle: Handle, path: PathBuf, file: File, was_loaded: bool, claim: Claim) -> Self {
        // SAFETY: it is open.
        let section = unsafe { handle.linked().section() };
        let hash = hash(&file.bytes);
        let source = Source::File(Mapped { path, stamp: file.stamp, hash, section, claim });
        Self::new(handle, file.facts, was_loaded, source)
    }

    /// What the object, or one that it needs, has under this name.
    ///
    /// # Safety
    ///
    /// It has not been closed, and `T` is a pointer or a function that fits the symbol.
    pub(crate) unsafe fn symbol<T>(
        &self,
        name: &str,
    ) -> Result<libloading::os::unix::Symbol<T>, libloading::Error> {
        // SAFETY: the caller's promise.
        unsafe { self.handle.lent().get(name.as_bytes()) }
    }

    /// The address of a symbol that the object itself defines. (A search goes on in the
    /// objects that it needs, and the C library has an `init_module` of its own.)
    ///
    /// # Safety
    ///
    /// It has not been closed.
    pub(crate) unsafe fn own_symbol(&self, name: &str) -> Option<*mut c_void> {
        // SAFETY: the caller's promise; any symbol has an address.
        let symbol = unsafe { self.symbol::<*mut c_void>(name) }.ok()?;
        let address = symbol.as_raw_ptr();
        self.place.contains(address).then_some(address)
    }

    /// Whether the file it was mapped from has been written over since. Its code and its data
    /// are not what they were, then, nor what the new file has; even to close it would crash.
    pub(crate) fn is_overwritten(&self) -> bool {
        match &*lock(&self.source) {
            Source::File(file) => file.is_overwritten(),
            _ => false,
        }
    }

    /// Gives up our share in the object, and says whether it is still in memory, and why.
    ///
    /// # Safety
    ///
    /// Nobody uses it any more, and this is called once.
    pub(crate) unsafe fn close(&self) -> Unloaded {
        let source = std::mem::replace(&mut *lock(&self.source), Source::Unknown);
        let (overwritten, stays) = match &source {
            Source::File(file) if file.is_overwritten() => {
                // SAFETY: it is loaded, and stays; the caller's promise.
                unsafe { file.section.disarm(&self.place) };
                (true, Some(Residency::Overwritten))
            }
            // SAFETY: the caller's promise.
            _ => (false, unsafe { self.close_handle() }),
        };
        match source {
            // What others had loaded before us may be shared again; and what asks never to be
            // unmapped is loaded once, with its variables as they are.
            Source::File(file)
                if overwritten || stays.is_some() && !self.was_loaded && !self.facts.no_delete =>
            {
                file.claim.leave(self.place.clone());
            }
            Source::Copy(name) => drop(lock(&COPIES).remove(name.as_os_str())),
            _ => {}
        }
        stays.map_or(Unloaded::Unmapped, Unloaded::Resident)
    }

    /// # Safety
    ///
    /// As for `close`.
    unsafe fn close_handle(&self) -> Option<Residency> {
        // SAFETY: the caller's promise.
        unsafe { self.handle.close() };
        let mut mapped = self.place.is_mapped();
        if mapped.is_some() && !self.facts.no_delete {
            // Whoever looks at it has it for a moment; and so has a load that was bound to it,
            // and has failed because it is going.
            Look::wait_for_all();
            for tries in 0.. {
                mapped = self.place.is_mapped();
                let Some(needed_by) = &mapped else { break };
                // On a busy machine that moment can be long; what has a reason to stay is not
                // waited for.
                let why = Residency::of(&self.facts, self.was_loaded, needed_by.clone());
                let enough = if why == Residency::Unknown { 200 } else { 10 };
                if tries >= enough {
                    break;
                }
                nap(Duration::from_micros(500));
            }
        }
        mapped.map(|needed_by| Residency::of(&self.facts, self.was_loaded, needed_by))
    }
}

impl Mapped {
    fn is_overwritten(&self) -> bool {
        // Another file under that name, or none, leaves the mapping alone.
        let Ok(now) = fs::metadata(&self.path).map(|meta| Stamp::of(&meta)) else { return false };
        now.id() == self.stamp.id()
            && now != self.stamp
            && fs::read(&self.path).is_ok_and(|bytes| hash(&bytes) != self.hash)
    }
}

/// A number that another content hardly has.
fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
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
    unsafe fn open(name: &Path) -> Result<Self, libloading::Error> {
        // SAFETY: the caller's promise.
        unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL) }.map(|l| Self(l.into_raw()))
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

    /// # Safety
    ///
    /// It is open, and nobody uses this share in the object any more.
    unsafe fn close(self) {
        // dlclose fails on a handle that is not one.
        let _ = ManuallyDrop::into_inner(self.lent()).close();
    }
}

fn c_string(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("find() refuses a NUL")
}

/// The same path, spelled as never before in this process: `.` and nothing between two
/// slashes mean nothing to the file system, and are as good as the digits of a number.
fn respelled(path: &Path) -> PathBuf {
    static SPELLINGS: AtomicU64 = AtomicU64::new(0);
    // Relaxed: a number that nobody else gets.
    let mut number = SPELLINGS.fetch_add(1, Relaxed) + 1;
    let bytes = path.as_os_str().as_bytes();
    let name_at = bytes.iter().rposition(|&b| b == b'/').map_or(0, |slash| slash + 1);
    let mut spelled = bytes[..name_at].to_vec();
    while number > 0 {
        spelled.extend_from_slice(if number % 2 == 1 { b"./" } else { b"/" });
        number /= 2;
    }
    spelled.extend_from_slice(&bytes[name_at..]);
    OsString::from_vec(spelled).into()
}

/// Loads a copy, in memory, of the file at `path`.
///
/// # Safety
///
/// As for `Found::open`.
unsafe fn open_copy(path: PathBuf, file: File) -> Result<Object, Error> {
    // Linux 6.3; before, there was nothing to ask for.
    const MFD_EXEC: libc::c_uint = 0x10;
    let title = CString::new(path.file_name().unwrap_or_default().as_bytes()).unwrap_or_default();
    let failed = |errno: i32| {
        error!(
            errno,
            "cannot load '{}': it has to be a copy in memory (as on request, or because the file \
                 is a module already), and that cannot be made: {}; give it a file of its own",
            path.display(),
            errno_text(errno)
        )
    };
    let create = |flags| {
        // SAFETY: the title is a C string.
        let fd = unsafe { libc::memfd_create(title.as_ptr(), libc::MFD_CLOEXEC | flags) };
        // SAFETY: a new descriptor, which is nobody else's.
        if fd < 0 { Err(last_errno()) } else { Ok(unsafe { fs::File::from_raw_fd(fd) }) }
    };
    let mut copy = create(MFD_EXEC)
        .or_else(|errno| if errno == libc::EINVAL { create(0) } else { Err(errno) })
        .map_err(failed)?;
    copy.write_all(&file.bytes)
        .map_err(|error| failed(error.raw_os_error().unwrap_or(libc::ENOSPC)))?;
    // Descriptors' numbers come again, and the linker must not take one for the other.
    let name = respelled(&Path::new(DESCRIPTORS).join(copy.as_raw_fd().to_string()));
    // Before it is there to be found.
    lock(&COPIES).insert(name.clone().into_os_string(), path.clone());
    // SAFETY: the caller's promise. The mapping stays when the descriptor goes.
    let handle = unsafe { Handle::open(&name) }.map_err(|error| {
        lock(&COPIES).remove(name.as_os_str());
        cannot(&path, error)
    })?;
    Ok(Object::new(handle, file.facts, false, Source::Copy(name)))
}

fn last_errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// The linker's refusal as an error of ours. It has words, and no errno but one that the words
/// contain. Where it could not map the object, or had no memory for its own record, they contain
/// none. Otherwise a file that is an object of the right kind (we have looked) fails for want of
/// something else, a symbol or a library: `ENOENT`.
fn cannot(path: &Path, error: libloading::Error) -> Error {
    let words = error.to_string();
    // ENFILE's text begins with that of EMFILE.
    let known = [libc::ENOMEM, libc::EACCES, libc::EPERM, libc::ENFILE, libc::EMFILE, libc::EIO];
    let mut errno = known.into_iter().find(|&errno| words.contains(&errno_text(errno)));
    if words.contains("failed to map segment") || words.contains("cannot create shared object") {
        errno = errno.or(Some(libc::ENOMEM));
    }
    let advice = if words.contains("undefined symbol") {
        "; load what defines it first, and name that with -l when linking"
    } else {
        ""
    };
    error!(errno.unwrap_or(libc::ENOENT), "cannot load '{}': {words}{advice}", path.display())
}
