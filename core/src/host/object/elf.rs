//! What a shared object says of itself, read from the file before the dynamic linker sees it.
//!
//! The dynamic linker trusts a file: one that was cut short makes it crash, and of one that
//! is refused it says so in words only. So the file is looked at first, as far as an errno
//! and those crashes need it.

use crate::host::error::{Error, errno_text, error};
use object::elf;
use object::read::StringTable;
use object::read::elf::{Dyn, ElfFile, FileHeader, ProgramHeader, Sym};
use object::{Endian, Endianness};
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

#[cfg(target_pointer_width = "64")]
type Header = elf::FileHeader64<Endianness>;
#[cfg(target_pointer_width = "32")]
type Header = elf::FileHeader32<Endianness>;

/// The machine that this library was built for, where we have its number.
const MACHINE: Option<elf::Machine> = if cfg!(target_arch = "x86_64") {
    Some(elf::EM_X86_64)
} else if cfg!(target_arch = "aarch64") {
    Some(elf::EM_AARCH64)
} else {
    None
};

/// A file that can be a plugin.
pub(crate) struct File {
    pub(crate) bytes: Vec<u8>,
    pub(crate) facts: Facts,
    pub(crate) stamp: Stamp,
}

/// Which file it is, and since when it has been what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(meta: &fs::Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        }
    }

    /// Which file it is.
    pub(crate) fn id(&self) -> (u64, u64) {
        (self.device, self.inode)
    }
}

/// What the file says that the host has to know.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// What it needs, as it names it (`DT_NEEDED`).
    pub(crate) needed: Vec<CString>,
    /// What others name it by (`DT_SONAME`), if that is not its file's name.
    pub(crate) soname: Option<CString>,
    /// It asks never to be unmapped (`-z nodelete`).
    pub(crate) no_delete: bool,
    /// A symbol of which there may be one in the process (`STB_GNU_UNIQUE`); the C library
    /// keeps its object mapped once anybody has bound it.
    pub(crate) unique: Option<String>,
    /// It registers destructors of thread-local objects.
    pub(crate) thread_exit: bool,
}

/// Reads and checks the file at `path`.
pub(crate) fn read(path: &Path) -> Result<File, Error> {
    let cannot = |errno: i32, why: &str| error!(errno, "cannot load '{}': {why}", path.display());
    let failed = |error: std::io::Error| {
        // A file that there is no memory for has an error of std's own.
        let errno = match error.kind() {
            std::io::ErrorKind::OutOfMemory => libc::ENOMEM,
            _ => error.raw_os_error().unwrap_or(libc::EIO),
        };
        cannot(errno, &errno_text(errno))
    };
    let meta = fs::metadata(path).map_err(failed)?;
    if meta.is_dir() {
        return Err(cannot(libc::EISDIR, "it is a directory; give the shared object's own path"));
    }
    if !meta.is_file() {
        // Opening a pipe or a device could block, or do something.
        return Err(cannot(libc::ENOEXEC, "it is not a regular file"));
    }
    let bytes = fs::read(path).map_err(failed)?;
    let facts = facts(&bytes).map_err(|why| cannot(libc::ENOEXEC, &why))?;
    Ok(File { bytes, facts, stamp: Stamp::of(&meta) })
}

// Widths differ between 32 and 64 bits, and so does which conversions are none.
#[allow(clippy::useless_conversion)]
/// The facts of an object, or why the dynamic linker could not, or should not, load it.
fn facts(bytes: &[u8]) -> Result<Facts, String> {
    const NOT_ELF: &str = "it is not an ELF object; build it with cc -shared -fPIC";
    const CUT: &str = "the file is damaged or was cut short";
    if !bytes.starts_with(&elf::ELFMAG) {
        return Err(NOT_ELF.into());
    }
    let other_bits = if cfg!(target_pointer_width = "64") { (1, "32") } else { (2, "64") };
    if bytes.get(4) == Some(&other_bits.0) {
        return Err(format!("it is a {}-bit object, for another kind of process", other_bits.1));
    }
    let header = Header::parse(bytes).map_err(|_| CUT)?;
    let endian = header.endian().map_err(|_| CUT)?;
    if endian.is_big_endian() != cfg!(target_endian = "big") {
        return Err("it is an object for a machine of the other byte order".into());
    }
    let machine = header.e_machine(endian);
    if MACHINE.is_some_and(|ours| ours != machine) {
        return Err(format!(
            "it is an object for another machine, of ELF number {}; build it for {}",
            machine.0,
            std::env::consts::ARCH
        ));
    }
    if header.e_type(endian) != elf::ET_DYN {
        return Err("it is an ELF file, but no shared object; link it with -shared".into());
    }

    let segments = header.program_headers(endian, bytes).map_err(|_| CUT)?;
    // Every part that will be mapped has to be in the file: touching a page beyond its end
    // is a SIGBUS.
    let in_file = |offset: u64, size: u64| {
        offset.checked_add(size).is_some_and(|end| end <= bytes.len() as u64)
    };
    if !segments.iter().all(|s| in_file(s.p_offset(endian).into(), s.p_filesz(endian).into())) {
        return Err(CUT.into());
    }
    if !segments.iter().any(|s| s.p_type(endian) == elf::PT_LOAD) {
        return Err("it has nothing to load".into());
    }
    // In memory a segment is at least what the file has of it, and no address wraps.
    let is_sound = |s: &<Header as FileHeader>::ProgramHeader| {
        let (start, size): (u64, u64) = (s.p_vaddr(endian).into(), s.p_memsz(endian).into());
        let end = start.checked_add(size).filter(|&end| end <= isize::MAX as u64);
        end.is_some() && u64::from(s.p_filesz(endian)) <= size
    };
    if !segments.iter().filter(|s| s.p_type(endian) == elf::PT_LOAD).all(is_sound) {
        return Err(CUT.into());
    }
    let dynamic = segments
        .iter()
        .find_map(|s| s.dynamic(endian, bytes).transpose())
        .ok_or("it has no dynamic section; link it with -shared")?
        .map_err(|_| CUT)?;
    let value = |tag: elf::DynamicTag| {
        dynamic
            .iter()
            .take_while(|d| d.d_tag(endian) != elf::DT_NULL)
            .find(|d| d.d_tag(endian) == tag)
            .map(|d| u64::from(d.d_val(endian)))
    };
    let flags = value(elf::DT_FLAGS_1).unwrap_or(0);
    if flags & elf::DF_1_PIE.0 != 0 {
        return Err("it is a program, not a shared object; link it with -shared".into());
    }
    if flags & elf::DF_1_NOOPEN.0 != 0 {
        return Err("it was linked with -z nodlopen, which forbids loading it".into());
    }

    // The strings lie at an address; which segment brings them?
    let strings = value(elf::DT_STRTAB).zip(value(elf::DT_STRSZ)).and_then(|(address, size)| {
        let segment = segments.iter().filter(|s| s.p_type(endian) == elf::PT_LOAD).find(|s| {
            let start: u64 = s.p_vaddr(endian).into();
            (start..start.saturating_add(s.p_filesz(endian).into())).contains(&address)
        })?;
        let at = address - u64::from(segment.p_vaddr(endian)) + u64::from(segment.p_offset(endian));
        in_file(at, size).then(|| StringTable::new(bytes, at, at + size))
    });
    let strings = strings.ok_or(CUT)?;
    let (mut needed, mut soname) = (Vec::new(), None);
    for entry in dynamic.iter().take_while(|d| d.d_tag(endian) != elf::DT_NULL) {
        let tag = entry.d_tag(endian);
        if tag == elf::DT_NEEDED || tag == elf::DT_SONAME {
            let at = u32::try_from(u64::from(entry.d_val(endian))).map_err(|_| CUT)?;
            let name = strings.get(at).map_err(|()| CUT)?;
            let name = CString::new(name).map_err(|_| CUT)?;
            if tag == elf::DT_NEEDED {
                needed.push(name);
            } else {
                soname = Some(name);
            }
        }
    }

    let mut facts =
        Facts { needed, soname, no_delete: flags & elf::DF_1_NODELETE.0 != 0, ..Facts::default() };
    // For a reason to be given later. A file without section headers has to do without.
    if let Ok(file) = ElfFile::<Header>::parse(bytes) {
        let symbols = file.elf_dynamic_symbol_table();
        for symbol in symbols.iter() {
            let name = || symbol.name(endian, symbols.strings()).unwrap_or_default();
            if symbol.st_bind() == elf::STB_GNU_UNIQUE && facts.unique.is_none() {
                facts.unique = Some(String::from_utf8_lossy(name()).into_owned());
            }
            facts.thread_exit |= symbol.is_undefined(endian)
                && [&b"__cxa_thread_atexit"[..], b"__cxa_thread_atexit_impl"].contains(&name());
        }
    }
    Ok(facts)
}
