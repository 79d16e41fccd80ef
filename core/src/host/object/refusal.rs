//! Why the dynamic linker has refused an object.
//!
//! It says so in words alone, and those are translated. So what it has done is tried again, one
//! step after the other, and the errno is that of the step which fails. If none does and the linker
//! refuses it once more, something that the object needs is missing: a library, or a symbol.

use super::elf::Facts;
use super::memory::Memory;
use crate::host::error::{Error, errno_of, error, last_errno};
use crate::tool;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use object::elf;
use std::fmt::Display;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr;

/// Has the linker open the file of this name, or a library that it finds. `shown` is what the user
/// calls it.
///
/// # Safety
///
/// The object's constructors and destructors may run in this process.
pub(crate) unsafe fn open(shown: &Path, name: &Path, facts: &Facts) -> Result<Library, Error> {
    // SAFETY: the caller's promise.
    let open = || tool::outside(|| unsafe { Library::open(Some(name), RTLD_NOW | RTLD_LOCAL) });
    let refused = |errno, words: &dyn Display, advice| {
        Err(error!(errno, "cannot load '{}': {words}{advice}", shown.display()))
    };
    let words = match open() {
        Ok(library) => return Ok(library),
        Err(words) => words,
    };
    // A name without a slash is no path. Whether any code can be opened and mapped is tried then.
    let is_path = name.as_os_str().as_encoded_bytes().contains(&b'/');
    if let Err(errno) = tried(if is_path { name } else { Path::new("/proc/self/exe") }, facts) {
        return refused(errno, &words, "");
    }
    // There may have been no memory, or no descriptor, for a moment.
    let words = match open() {
        Ok(library) => return Ok(library),
        Err(again) if again.to_string() == words.to_string() => again.to_string(),
        Err(again) => format!("{words}; and once more: {again}"),
    };
    if has_room(facts) {
        let advice = "; if a symbol is missing, load what defines it first, and name that with -l \
                      when linking";
        return refused(libc::ENOENT, &words, advice);
    }
    let advice = "; this process has no static thread-local storage left: compile without \
                  -ftls-model=initial-exec, or start the program with a larger \
                  glibc.rtld.optional_static_tls in GLIBC_TUNABLES";
    refused(libc::ENOMEM, &words, advice)
}

/// Opens the file and maps it as code, and as much memory as it will take, and has the kernel protect these
/// as the linker does once it has written to them.
fn tried(path: &Path, facts: &Facts) -> Result<(), i32> {
    let file = fs::File::open(path).map_err(|error| errno_of(&error))?;
    as_code(&file)?;
    let (data, code) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
    if facts.text_relocations {
        map(1, code, 0, file.as_raw_fd(), &[data, code])?;
    }
    if facts.span > 0 {
        let len = usize::try_from(facts.span).map_err(|_| libc::ENOMEM)?;
        map(len, data, libc::MAP_ANONYMOUS, -1, &[libc::PROT_READ])?;
    }
    Ok(())
}

/// Whether code of this file may be run: not if its file system is mounted noexec, for one.
pub(crate) fn as_code(file: &fs::File) -> Result<(), i32> {
    map(1, libc::PROT_READ | libc::PROT_EXEC, 0, file.as_raw_fd(), &[])
}

/// Maps new pages, and protects them in these ways.
fn map(len: usize, protection: i32, flags: i32, fd: i32, then: &[i32]) -> Result<(), i32> {
    // SAFETY: new pages, which nobody looks at, for a moment.
    unsafe {
        let at = libc::mmap(ptr::null_mut(), len, protection, flags | libc::MAP_PRIVATE, fd, 0);
        if at == libc::MAP_FAILED {
            return Err(last_errno());
        }
        let refused = then.iter().any(|&how| libc::mprotect(at, len, how) != 0);
        let errno = last_errno();
        libc::munmap(at, len);
        if refused { Err(errno) } else { Ok(()) }
    }
}

/// Whether an object's static thread-local storage can be had: whether another object can be
/// loaded that wants as much of it, and nothing else.
fn has_room(facts: &Facts) -> bool {
    let (Some((size, align)), Some((machine, relocation))) = (facts.static_tls, THREAD_OFFSET)
    else {
        return true;
    };
    let Ok(memory) = Memory::new(b"static-tls") else { return true };
    let written =
        memory.file.write_all_at(&object_with_tls(machine, relocation, size, align), 0).is_ok();
    // SAFETY: there is no code in it.
    !written || unsafe { Library::open(Some(&memory.name), RTLD_NOW | RTLD_LOCAL) }.is_ok()
}

/// The machine's number, and its relocation that has the linker place thread-local storage.
const THREAD_OFFSET: Option<(u16, u32)> =
    if cfg!(all(target_arch = "x86_64", target_pointer_width = "64")) {
        Some((elf::EM_X86_64.0, elf::R_X86_64_TPOFF64.0))
    } else if cfg!(all(
        target_arch = "aarch64",
        target_pointer_width = "64",
        target_endian = "little"
    )) {
        Some((elf::EM_AARCH64.0, elf::R_AARCH64_TLS_TPREL.0))
    } else {
        None
    };

/// A shared object without code. In the order of the ELF specification.
fn object_with_tls(machine: u16, relocation: u32, size: u64, align: u64) -> Vec<u8> {
    const SEGMENTS: u64 = 64;
    const DYNAMIC: u64 = SEGMENTS + 3 * 56;
    const SYMBOLS: u64 = DYNAMIC + 10 * 16;
    const RELOCATIONS: u64 = SYMBOLS + 24;
    const HASHES: u64 = RELOCATIONS + 24;
    const STRINGS: u64 = HASHES + 16;
    /// What is relocated.
    const PLACE: u64 = STRINGS + 8;
    const END: u64 = PLACE + 8;
    let two = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let readable_and_writable = elf::PF_R.0 | elf::PF_W.0;
    let segment = |kind: u32, at: u64, in_file: u64, in_memory: u64, align: u64| {
        [two(kind, readable_and_writable), at, at, at, in_file, in_memory, align]
    };
    let mut words = vec![
        // 64 bits, little-endian, version 1; a shared object.
        u64::from_le_bytes([0x7f, b'E', b'L', b'F', 2, 1, 1, 0]),
        0,
        two(u32::from(elf::ET_DYN.0) | u32::from(machine) << 16, 1),
        0,
        SEGMENTS,
        0,
        // No flags; the sizes of the header and of a segment's, and how many segments.
        two(0, 64 | 56 << 16),
        3 | 64 << 16,
    ];
    words.extend(segment(elf::PT_LOAD.0, 0, END, END, 0x10000));
    words.extend(segment(elf::PT_DYNAMIC.0, DYNAMIC, SYMBOLS - DYNAMIC, SYMBOLS - DYNAMIC, 8));
    words.extend(segment(elf::PT_TLS.0, 0, 0, size, align));
    let dynamic = [
        (elf::DT_HASH, HASHES),
        (elf::DT_STRTAB, STRINGS),
        (elf::DT_SYMTAB, SYMBOLS),
        (elf::DT_STRSZ, 1),
        (elf::DT_SYMENT, 24),
        (elf::DT_RELA, RELOCATIONS),
        (elf::DT_RELASZ, 24),
        (elf::DT_RELAENT, 24),
        (elf::DT_FLAGS, elf::DF_STATIC_TLS.0),
        (elf::DT_NULL, 0),
    ];
    words.extend(dynamic.iter().flat_map(|(tag, value)| [tag.0 as u64, *value]));
    // The symbol that is none.
    words.extend([0; 3]);
    words.extend([PLACE, u64::from(relocation), 0]);
    // One bucket and one chain, both empty.
    words.extend([two(1, 1), 0]);
    // The empty string, and the place.
    words.extend([0, 0]);
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
