//! What a shared object says of itself, read from the file before the dynamic linker sees it.
//!
//! The dynamic linker trusts a file: one that was cut short makes it crash, and of one that
//! is refused it says so in words only. So the file is looked at first, as far as an errno
//! and those crashes need it.

use super::imports;
use crate::host::error::{Error, errno_of, errno_text, error};
use object::read::elf::{
    Dyn, ElfFile, FileHeader, ProgramHeader, SectionHeader, SectionTable, Sym,
};
use object::read::{ReadCache, ReadRef, StringTable};
use object::{Endian, Endianness, Object, ObjectSection, SectionIndex};
use object::{elf, pod};
use std::ffi::CString;
use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Seek, SeekFrom};
use std::iter;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

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
    pub(crate) open: fs::File,
    image: Image,
    pub(crate) facts: Facts,
    pub(crate) stamp: Stamp,
    /// A number that another content hardly has: of what is loaded of it.
    pub(crate) hash: u64,
    /// Its last change was so long ago that another one would have another time.
    pub(crate) settled: bool,
}

/// Which file it is, and since when it has been what it is.
///
/// Nobody can set the time of the last change of any kind (`st_ctime`), as `cp -p` sets that of the
/// last change of the content. It changes with the file's mode and its links, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(meta: &fs::Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Which file it is.
    pub(crate) fn id(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Whether the content has the size that it had then, and was last written when it was.
    pub(crate) fn has_content_of(&self, then: &Self) -> bool {
        (self.size, self.modified) == (then.size, then.modified)
    }

    /// Whether the file's times tell a change from now on: kernels count in steps of up to 10 ms.
    fn is_settled(&self) -> bool {
        let (seconds, nanos) = self.changed;
        let changed =
            Duration::new(seconds.max(0) as u64, nanos as u32) + Duration::from_millis(50);
        SystemTime::now() > SystemTime::UNIX_EPOCH + changed
    }
}

/// Parts of a file: its headers, and what is loaded of it. The rest can be large, and is not read.
struct Image {
    len: u64,
    parts: Vec<(u64, Vec<u8>)>,
}

/// Why a file cannot be used.
enum Fault {
    Unread(io::Error),
    Unfit(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Unread(error)
    }
}

impl From<&str> for Fault {
    fn from(why: &str) -> Self {
        Self::Unfit(why.to_owned())
    }
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Self::Unfit(why)
    }
}

impl Image {
    /// Whether these bytes are in the file.
    fn covers(&self, offset: u64, size: u64) -> bool {
        offset.checked_add(size).is_some_and(|end| end <= self.len)
    }

    /// Reads a part.
    fn fetch(&mut self, file: &fs::File, offset: u64, size: u64) -> Result<(), Fault> {
        if !self.covers(offset, size) {
            return Err(CUT.into());
        }
        if (&*self).read_bytes_at(offset, size).is_ok() {
            return Ok(());
        }
        let (mut bytes, size) = (Vec::new(), usize::try_from(size).map_err(|_| CUT)?);
        bytes.try_reserve_exact(size).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        bytes.resize(size, 0);
        match file.read_exact_at(&mut bytes, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(CUT.into()),
            read => read?,
        }
        self.parts.push((offset, bytes));
        Ok(())
    }
}

impl<'a> ReadRef<'a> for &'a Image {
    fn len(self) -> Result<u64, ()> {
        Ok(self.len)
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
        if size == 0 {
            return Ok(&[]);
        }
        let within = |(start, bytes): &'a (u64, Vec<u8>)| {
            let from = usize::try_from(offset.checked_sub(*start)?).ok()?;
            bytes.get(from..)?.get(..usize::try_from(size).ok()?)
        };
        self.parts.iter().find_map(within).ok_or(())
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'a [u8], ()> {
        let bytes =
            self.read_bytes_at(range.start, range.end.checked_sub(range.start).ok_or(())?)?;
        let len = bytes.iter().position(|&b| b == delimiter).ok_or(())?;
        Ok(&bytes[..len])
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
    /// Symbols of which there may be one each in the process (`STB_GNU_UNIQUE`); the C library
    /// keeps their object mapped once anybody has bound one.
    pub(crate) unique: Vec<CString>,
    /// Its symbols could be read.
    pub(crate) has_symbols: bool,
    /// What it imports of what [`imports::watched`] knows.
    pub(crate) imports: Vec<&'static str>,
    /// The dynamic linker has to write into its code.
    pub(crate) text_relocations: bool,
    /// Hashes of the names of the symbols it defines; none if it does not tell.
    pub(super) defined: Vec<u32>,
    /// From its first address to its last.
    pub(crate) span: u64,
    /// The size and alignment of the thread-local storage for which there has to be room beside
    /// every thread's own block, as for that of what was there at the program's start
    /// (`DF_STATIC_TLS`).
    pub(crate) static_tls: Option<(u64, u64)>,
    /// What tells one build from another, if the linker was asked for that.
    pub(crate) build_id: Vec<u8>,
    pub(crate) symbols: Arc<Symbols>,
}

/// The symbols of a file and their names, for those who ask when the file may be another: all of them, or
/// else those that it exports, if they are not too many.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    pub(crate) table: Vec<u8>,
    pub(crate) names: Vec<u8>,
}

/// What `Symbols::table` is made of.
pub(crate) type Symbol = <Header as FileHeader>::Sym;

/// The most bytes of both.
const SYMBOLS: u64 = 1 << 20;

/// A file of that many bytes is read as a whole.
const SMALL: u64 = 64 << 10;

/// Where in `Symbols::names` the name is of a function or variable that has this value inside, and how far
/// inside.
#[allow(clippy::useless_conversion)] // Widths differ between 32 and 64 bits.
pub(crate) fn is_named(symbol: &[u8], value: u64) -> Option<(usize, u64)> {
    let endian = Endianness::default();
    let (symbol, _) = pod::from_bytes::<Symbol>(symbol).ok()?;
    let offset = value.checked_sub(symbol.st_value(endian).into())?;
    let has_place =
        [elf::STT_FUNC, elf::STT_GNU_IFUNC, elf::STT_OBJECT].contains(&symbol.st_type());
    let is_it = has_place && !symbol.is_undefined(endian) && offset < symbol.st_size(endian).into();
    is_it.then(|| (symbol.st_name(endian) as usize, offset))
}

impl Facts {
    /// Whether the object may define a symbol of this name.
    pub(crate) fn may_define(&self, symbol: &str) -> bool {
        self.defined.is_empty() || self.defines(symbol)
    }

    /// Whether it does, as far as it tells: hashes can be equal.
    pub(crate) fn defines(&self, symbol: &str) -> bool {
        self.defined.contains(&elf::gnu_hash(symbol.as_bytes()))
    }

    /// Whether it registers destructors of thread-local objects.
    pub(crate) fn thread_exit(&self) -> bool {
        self.imports.iter().any(|symbol| symbol.starts_with("__cxa_thread_atexit"))
    }
}

/// The unique symbols of the file at `path`, as far as it tells them. Little else of it is read.
pub(super) fn unique_symbols(path: &Path) -> Vec<CString> {
    let Ok(cache) = fs::File::open(path).map(ReadCache::new) else { return Vec::new() };
    let Ok(file) = ElfFile::<Header, _>::parse(&cache) else { return Vec::new() };
    let (endian, symbols) = (file.endian(), file.elf_dynamic_symbol_table());
    let unique = symbols
        .iter()
        .filter(|symbol| symbol.st_bind() == elf::STB_GNU_UNIQUE && !symbol.is_undefined(endian));
    let name = |symbol: &Symbol| CString::new(symbol.name(endian, symbols.strings()).ok()?).ok();
    unique.filter_map(name).collect()
}

/// Whether the file at `path` names itself `wanted` in its section .modinfo, by an alias that is a
/// pattern of the shell's. Linux: `MODULE_ALIAS`.
pub(crate) fn has_alias(path: &Path, wanted: &str) -> bool {
    // As modprobe compares them.
    let plain = |text: &[u8]| {
        let bytes = text.iter().map(|&c| if c == b'-' { b'_' } else { c });
        CString::new(bytes.collect::<Vec<_>>()).unwrap_or_default()
    };
    let wanted = plain(wanted.as_bytes());
    let fits = |alias| {
        // SAFETY: two C strings.
        unsafe { libc::fnmatch(plain(alias).as_ptr(), wanted.as_ptr(), 0) == 0 }
    };
    let Ok(bytes) = fs::read(path) else { return false };
    let Ok(file) = ElfFile::<Header>::parse(&*bytes) else { return false };
    let Some(Ok(info)) = file.section_by_name(".modinfo").map(|section| section.data()) else {
        return false;
    };
    info.split(|&c| c == 0).filter_map(|entry| entry.strip_prefix(b"alias=")).any(fits)
}

const CUT: &str = "the file is damaged or was cut short";

/// Reads and checks the file at `path`, which is to be loaded.
pub(crate) fn read(path: &Path) -> Result<File, Error> {
    read_to("load", path)
}

/// The same for whatever is to be done with it.
pub(super) fn read_to(what: &str, path: &Path) -> Result<File, Error> {
    let cannot = |errno: i32, why: &str| error!(errno, "cannot {what} '{}': {why}", path.display());
    let failed = |error: io::Error| {
        let errno = errno_of(&error);
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
    // It may be a pipe by now.
    let open = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let open = open.map_err(failed)?;
    let stamp = Stamp::of(&open.metadata().map_err(failed)?);
    let settled = stamp.is_settled();
    let mut image = Image { len: stamp.size, parts: Vec::new() };
    let (facts, hash) = facts(&open, &mut image).map_err(|fault| match fault {
        Fault::Unread(error) => failed(error),
        Fault::Unfit(why) => cannot(libc::ENOEXEC, &why),
    })?;
    Ok(File { open, image, facts, stamp, hash, settled })
}

// Widths differ between 32 and 64 bits, and so does which conversions are none.
#[allow(clippy::useless_conversion)]
/// The facts of an object, or why the dynamic linker could not, or should not, load it. Reads of
/// it what is needed for that, and what will be loaded, of which it gives a hash.
fn facts(file: &fs::File, image: &mut Image) -> Result<(Facts, u64), Fault> {
    const NOT_ELF: &str = "it is not an ELF object; build it with cc -shared -fPIC";
    const HEADER: usize = size_of::<Header>();
    // One reading of a small file is quicker than one of each part.
    let first = if image.len <= SMALL { SMALL } else { HEADER as u64 };
    image.fetch(file, 0, image.len.min(first))?;
    let bytes: &[u8] = image.parts.first().map_or(&[], |(_, bytes)| bytes);
    if !bytes.starts_with(&elf::ELFMAG) {
        return Err(NOT_ELF.into());
    }
    let other_bits = if cfg!(target_pointer_width = "64") { (1, "32") } else { (2, "64") };
    if bytes.get(4) == Some(&other_bits.0) {
        return Err(
            format!("it is a {}-bit object, for another kind of process", other_bits.1).into()
        );
    }
    let header = *Header::parse(bytes).map_err(|_| CUT)?;
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
        )
        .into());
    }
    if header.e_type(endian) != elf::ET_DYN {
        return Err("it is an ELF file, but no shared object; link it with -shared".into());
    }

    let table = |offset: u64, n: u16, each: u16| (offset, u64::from(n) * u64::from(each));
    let (at, size) =
        table(header.e_phoff(endian).into(), header.e_phnum(endian), header.e_phentsize(endian));
    image.fetch(file, at, size)?;
    let segments = header.program_headers(endian, &*image).map_err(|_| CUT)?.to_vec();
    // Every part that will be mapped has to be in the file: touching a page beyond its end
    // is a SIGBUS.
    if !segments.iter().all(|s| image.covers(s.p_offset(endian).into(), s.p_filesz(endian).into()))
    {
        return Err(CUT.into());
    }
    let loads: Vec<_> =
        segments.iter().filter(|s| s.p_type(endian) == elf::PT_LOAD).copied().collect();
    if loads.is_empty() {
        return Err("it has nothing to load".into());
    }
    // In memory a segment is at least what the file has of it, and no address wraps.
    let is_sound = |s: &<Header as FileHeader>::ProgramHeader| {
        let (start, size): (u64, u64) = (s.p_vaddr(endian).into(), s.p_memsz(endian).into());
        let end = start.checked_add(size).filter(|&end| end <= isize::MAX as u64);
        end.is_some() && u64::from(s.p_filesz(endian)) <= size
    };
    if !loads.iter().all(is_sound) {
        return Err(CUT.into());
    }
    let mut hasher = DefaultHasher::new();
    for load in &loads {
        let (at, size) = (load.p_offset(endian).into(), load.p_filesz(endian).into());
        image.fetch(file, at, size)?;
        hasher.write((&*image).read_bytes_at(at, size).map_err(|()| CUT)?);
    }
    let (at, size) =
        table(header.e_shoff(endian).into(), header.e_shnum(endian), header.e_shentsize(endian));
    // Whoever has cut them off has cut nothing that is loaded.
    let has_sections = image.covers(at, size);
    if has_sections {
        image.fetch(file, at, size)?;
    }
    let image = &*image;
    let dynamic = segments
        .iter()
        .find_map(|s| s.dynamic(endian, image).transpose())
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
        let segment = loads.iter().find(|s| {
            let start: u64 = s.p_vaddr(endian).into();
            (start..start.saturating_add(s.p_filesz(endian).into())).contains(&address)
        })?;
        let at = address - u64::from(segment.p_vaddr(endian)) + u64::from(segment.p_offset(endian));
        image.covers(at, size).then(|| StringTable::new(image, at, at + size))
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

    let address = |s: &<Header as FileHeader>::ProgramHeader| -> u64 { s.p_vaddr(endian).into() };
    let end = |s| address(s) + u64::from(s.p_memsz(endian));
    let first = loads.iter().map(address).min().unwrap_or(0);
    let span = loads.iter().map(end).max().unwrap_or(0) - first;
    let has = |flag: elf::DynamicFlags| value(elf::DT_FLAGS).unwrap_or(0) & flag.0 != 0;
    let is_static = has(elf::DF_STATIC_TLS);
    let tls = segments.iter().find(|s| is_static && s.p_type(endian) == elf::PT_TLS);
    let mut facts = Facts {
        needed,
        soname,
        no_delete: flags & elf::DF_1_NODELETE.0 != 0,
        text_relocations: value(elf::DT_TEXTREL).is_some() || has(elf::DF_TEXTREL),
        span,
        static_tls: tls.map(|s| (s.p_memsz(endian).into(), s.p_align(endian).into())),
        ..Facts::default()
    };
    // For a reason to be given later. A file without section headers has to do without.
    let sections = has_sections.then(|| header.sections(endian, image).ok()).flatten();
    let mut notes = segments.iter().filter_map(|s| s.notes(endian, image).ok().flatten());
    let id = notes.find_map(|mut notes| {
        iter::from_fn(|| notes.next().ok().flatten()).find(|note| {
            note.n_type(endian) == elf::NT_GNU_BUILD_ID && note.name() == elf::ELF_NOTE_GNU
        })
    });
    facts.build_id = id.map(|note| note.desc().to_vec()).unwrap_or_default();
    facts.symbols =
        Arc::new(sections.and_then(|s| symbols(file, image, endian, &s)).unwrap_or_default());
    let symbols = sections.and_then(|s| s.symbols(endian, image, elf::SHT_DYNSYM).ok());
    if let Some(symbols) = symbols {
        facts.has_symbols = !symbols.is_empty();
        for symbol in symbols.iter() {
            let name = symbol.name(endian, symbols.strings());
            facts.has_symbols &= name.is_ok();
            let name = name.unwrap_or_default();
            if symbol.is_undefined(endian) {
                facts.imports.extend(imports::watched(name));
                continue;
            }
            facts.defined.push(elf::gnu_hash(name));
            if symbol.st_bind() == elf::STB_GNU_UNIQUE {
                facts.unique.extend(CString::new(name));
            }
        }
    }
    Ok((facts, hasher.finish()))
}

/// Reads the symbols, of which not all are loaded.
#[allow(clippy::useless_conversion)] // As above.
fn symbols<'a>(
    file: &fs::File,
    image: &'a Image,
    endian: Endianness,
    sections: &SectionTable<'a, Header, &'a Image>,
) -> Option<Symbols> {
    let fetch = |(offset, size): (u64, u64)| {
        image.read_bytes_at(offset, size).map(<[u8]>::to_vec).or_else(|()| {
            let mut bytes = vec![0; size as usize];
            file.read_exact_at(&mut bytes, offset).map(|()| bytes)
        })
    };
    [elf::SHT_SYMTAB, elf::SHT_DYNSYM].into_iter().find_map(|kind| {
        let table = sections.iter().find(|s| s.sh_type(endian) == kind)?;
        let names = sections.section(SectionIndex(table.sh_link(endian) as usize)).ok()?;
        let (table, names) = (table.file_range(endian)?, names.file_range(endian)?);
        let fits = table.1.checked_add(names.1).is_some_and(|size| size <= SYMBOLS);
        let is_there = fits && image.covers(table.0, table.1) && image.covers(names.0, names.1);
        is_there.then(|| Some(Symbols { table: fetch(table).ok()?, names: fetch(names).ok()? }))?
    })
}

/// The most that a copy has of a file beside what is loaded: enough for the symbols and the line
/// numbers of a plugin of ordinary size, and little against those of a huge one, which a debugger
/// finds by the build ID.
const FOR_DEBUGGERS: u64 = 16 << 20;

impl File {
    /// Takes back, for a copy, that it asks never to be unmapped.
    #[allow(clippy::useless_conversion)] // As below.
    pub(crate) fn without_no_delete(mut self) -> Self {
        let entries = |image| {
            let header = Header::parse(image).ok()?;
            let endian = header.endian().ok()?;
            let mut segments = header.program_headers(endian, image).ok()?.iter();
            let segment = segments.find(|s| s.p_type(endian) == elf::PT_DYNAMIC)?;
            let entries = segment.dynamic(endian, image).ok()??;
            let at = entries.iter().position(|d| d.d_tag(endian) == elf::DT_FLAGS_1)?;
            let flags = u64::from(entries[at].d_val(endian)) & !elf::DF_1_NODELETE.0;
            // An entry is a tag and a value, of one word each.
            let at =
                u64::from(segment.p_offset(endian)) + ((2 * at + 1) * size_of::<usize>()) as u64;
            Some((at, flags))
        };
        let (at, flags) = entries(&self.image).expect("parsed before");
        for (start, bytes) in &mut self.image.parts {
            let from = at.checked_sub(*start).and_then(|from| usize::try_from(from).ok());
            let word = from.and_then(|from| bytes.get_mut(from..)?.get_mut(..size_of::<usize>()));
            if let Some(word) = word {
                word.copy_from_slice(&(flags as usize).to_ne_bytes());
            }
        }
        self.facts.no_delete = false;
        self
    }

    /// Writes into an empty file what the dynamic linker loads, where it is in this one, and what
    /// debuggers read of it. The smallest sections come first; those that are left out are told as
    /// empty.
    #[allow(clippy::useless_conversion)] // As above.
    pub(crate) fn copy_to(&self, copy: &fs::File) -> io::Result<()> {
        copy.set_len(self.image.len)?;
        for (at, bytes) in &self.image.parts {
            copy.write_all_at(bytes, *at)?;
        }
        let header = Header::parse(&self.image).expect("parsed before");
        let endian = header.endian().expect("as before");
        let at: u64 = header.e_shoff(endian).into();
        let Ok(sections) = header.section_headers(endian, &self.image) else { return Ok(()) };
        let is_loaded = |s: &<Header as FileHeader>::SectionHeader| {
            s.sh_flags(endian).0 & elf::SHF_ALLOC.0 != 0
        };
        let mut left: Vec<_> = sections
            .iter()
            .enumerate()
            .filter(|(_, s)| !is_loaded(s))
            .filter_map(|(n, s)| s.file_range(endian).map(|range| (range.1, range.0, n)))
            .collect();
        left.sort_unstable();
        let (mut from, mut to, mut room) = (&self.open, copy, FOR_DEBUGGERS);
        for (size, offset, n) in left {
            room = room.saturating_sub(size);
            if room > 0 && self.image.covers(offset, size) {
                from.seek(SeekFrom::Start(offset))?;
                to.seek(SeekFrom::Start(offset))?;
                io::copy(&mut io::Read::take(from, size), &mut to)?;
                continue;
            }
            // The type is the second number of four bytes in a section's header.
            let header = at + (n * size_of::<<Header as FileHeader>::SectionHeader>()) as u64;
            copy.write_all_at(&elf::SHT_NOBITS.0.to_ne_bytes(), header + 4)?;
        }
        Ok(())
    }
}
