//! Files in memory that the dynamic linker, and debuggers, can open by a name.

use crate::host::error::last_errno;
use std::ffi::CString;
use std::fs;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A file in memory. Its name leads to its descriptor, which is therefore open for as long as this
/// is there.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) file: ManuallyDrop<fs::File>,
    id: (u64, u64),
    pub(crate) name: PathBuf,
}

/// An empty file in memory, which may be mapped as code. `title` is what it is called in
/// `/proc/<pid>/maps`.
pub(crate) fn file(title: &[u8]) -> Result<fs::File, i32> {
    // Linux 6.3; before, there was nothing to ask for.
    const MFD_EXEC: libc::c_uint = 0x10;
    let title = CString::new(title).unwrap_or_default();
    let create = |flags| {
        // SAFETY: the title is a C string.
        let fd = unsafe { libc::memfd_create(title.as_ptr(), libc::MFD_CLOEXEC | flags) };
        // SAFETY: a new descriptor, which is nobody else's.
        if fd < 0 { Err(last_errno()) } else { Ok(unsafe { fs::File::from_raw_fd(fd) }) }
    };
    create(MFD_EXEC).or_else(|errno| if errno == libc::EINVAL { create(0) } else { Err(errno) })
}

impl Memory {
    /// An empty one, of this title.
    pub(crate) fn new(title: &[u8]) -> Result<Self, i32> {
        let file = file(title)?;
        let id = id(&file).ok_or_else(last_errno)?;
        let name = name(&file, id).ok_or(libc::ENOENT)?;
        Ok(Self { file: ManuallyDrop::new(file), id, name })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // The program may have closed every descriptor that it does not know; the number may be
        // that of a file of its own by now.
        if id(&self.file) == Some(self.id) {
            // SAFETY: once, and here.
            unsafe { ManuallyDrop::drop(&mut self.file) };
        }
    }
}

fn id(file: &fs::File) -> Option<(u64, u64)> {
    file.metadata().ok().map(|meta| (meta.dev(), meta.ino()))
}

/// A path to an open file, spelled as no other. The one with the process's number means the same
/// to a debugger. Once the main thread has ended its files are gone from there, and each other
/// thread still has them; in a container's `/proc` that is an outer one's, the numbers mean others.
fn name(file: &fs::File, id: (u64, u64)) -> Option<PathBuf> {
    // SAFETY: no arguments.
    let (pid, tid) = (process::id(), unsafe { libc::syscall(libc::SYS_gettid) });
    let whose =
        [format!("{pid}"), format!("{pid}/task/{tid}"), "self".into(), "thread-self".into()];
    whose.iter().find_map(|whose| {
        let path = Path::new("/proc").join(whose).join("fd").join(file.as_raw_fd().to_string());
        let there = fs::metadata(&path).ok()?;
        // Descriptors' numbers come again, and the linker must not take one for the other.
        ((there.dev(), there.ino()) == id).then(|| respelled(&path))
    })
}

/// The same path, spelled as never before in this process: `.` and nothing between two
/// slashes mean nothing to the file system, and are as good as the digits of a number.
pub(crate) fn respelled(path: &Path) -> PathBuf {
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
    std::ffi::OsString::from_vec(spelled).into()
}
