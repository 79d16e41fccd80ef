//! Libraries whose files are others by now than those that are mapped.
//!
//! The linker loads no library twice: what needs `libx.so` is bound to the one that is there, although
//! an upgrade has put another one in its place. That is asked of each library of each load, so it costs one
//! stat(2): a file that was seen to be what is mapped still is, if it is the same file. Where that is
//! not known the kernel says which file is mapped, by its path, which goes with a file that is renamed,
//! and ends with "(deleted)" for one that is gone.

use super::linked::Linked;
use crate::host::locks::hold;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

/// What was seen to be what is mapped.
pub(crate) static SEEN: Mutex<Seen> = Mutex::new(BTreeMap::new());

pub(crate) type Seen = BTreeMap<Linked, Version>;

/// A path, and the file that it leads to.
#[derive(PartialEq, Eq)]
pub(crate) struct Version {
    path: PathBuf,
    file: (u64, u64),
}

fn seen() -> MutexGuard<'static, Seen> {
    hold(&SEEN)
}

/// What is on disk of a library. (A copy in memory has no other file, nor has one that was removed; and
/// what a relative path leads to may change.)
///
/// # Safety
///
/// It is loaded.
unsafe fn on_disk(library: Linked) -> Option<Version> {
    // SAFETY: the caller's promise.
    let path = unsafe { library.path() };
    if !path.is_absolute() || path.starts_with("/proc") {
        return None;
    }
    let meta = fs::metadata(&path).ok()?;
    Some(Version { path, file: (meta.dev(), meta.ino()) })
}

/// What has just been loaded is what is on disk.
///
/// # Safety
///
/// They are loaded.
pub(super) unsafe fn are_new<'a>(libraries: impl Iterator<Item = &'a Linked>) {
    for &library in libraries {
        // SAFETY: the caller's promise.
        if let Some(version) = unsafe { on_disk(library) } {
            seen().insert(library, version);
        }
    }
}

/// It has gone: another object can be where it was.
pub(super) fn forget(object: Linked) {
    seen().remove(&object);
}

/// Which of the libraries are not those that are on disk.
///
/// # Safety
///
/// They are loaded.
pub(crate) unsafe fn among(libraries: &[Linked]) -> Vec<PathBuf> {
    let mut maps = None;
    let mut stale = Vec::new();
    for &library in libraries {
        // SAFETY: the caller's promise.
        let Some(version) = (unsafe { on_disk(library) }) else { continue };
        if seen().get(&library) == Some(&version) {
            continue;
        }
        let maps =
            maps.get_or_insert_with(|| fs::read("/proc/thread-self/maps").unwrap_or_default());
        // SAFETY: as above.
        let (base, _) = unsafe { library.base_and_name() };
        let there = fs::canonicalize(&version.path).ok();
        if mapped(maps, base).zip(there).is_some_and(|(mapped, there)| mapped != there) {
            stale.push(version.path);
        } else {
            seen().insert(library, version);
        }
    }
    stale
}

/// The path of the file that is mapped at that address.
fn mapped(maps: &[u8], address: usize) -> Option<&Path> {
    let hex = |text: &[u8]| usize::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok();
    maps.split(|&byte| byte == b'\n').find_map(|line| {
        // 7f0000000000-7f0000001000 r--p 00000000 08:01 1234       /usr/lib/libx.so
        let mut ends = line.split(|&byte| byte == b' ').next()?.split(|&byte| byte == b'-');
        if !(hex(ends.next()?)?..hex(ends.next()?)?).contains(&address) {
            return None;
        }
        let path = line.iter().position(|&byte| byte == b'/')?;
        Some(Path::new(OsStr::from_bytes(&line[path..])))
    })
}
