//! A valid plugin, changed as an input says: bytes, header fields, segments, entries of the
//! dynamic section, sections; or cut short; or the input itself. And a judgement of the result
//! that is made without the library.

#![allow(dead_code, reason = "each target uses some of it")]

use super::input::Input;
use ::module_ref::*;
use std::ffi::{CStr, c_int};
use std::ptr;

pub const BARE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/bare.so"));
pub const BOTH: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/both.so"));

/// Offset and size of the fields of ELF64: header, program header, section header.
const HEADER: &[(usize, usize)] = &[
    (4, 1),
    (5, 1),
    (6, 1),
    (16, 2),
    (18, 2),
    (24, 8),
    (32, 8),
    (40, 8),
    (48, 4),
    (52, 2),
    (54, 2),
    (56, 2),
    (58, 2),
    (60, 2),
    (62, 2),
    (20, 4),
];
const SEGMENT: &[(usize, usize)] =
    &[(0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 8), (48, 8)];
const SECTION: &[(usize, usize)] =
    &[(0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8), (56, 8)];
const ENTRY: &[(usize, usize)] = &[(0, 8), (8, 8)];

pub fn field(file: &[u8], at: u64, size: usize) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let bytes = file.get(at..at.checked_add(size)?)?;
    let mut number = [0; 8];
    number[..size].copy_from_slice(bytes);
    Some(u64::from_le_bytes(number))
}

fn set(file: &mut [u8], at: u64, size: usize, value: u64) {
    if let Ok(at) = usize::try_from(at)
        && let Some(bytes) = at.checked_add(size).and_then(|end| file.get_mut(at..end))
    {
        bytes.copy_from_slice(&value.to_le_bytes()[..size]);
    }
}

/// Offset of the first segment of this type.
fn segment_of_type(file: &[u8], kind: u64) -> Option<u64> {
    let (first, n) = (field(file, 32, 8)?, field(file, 56, 2)?);
    (0..n).map(|i| first.wrapping_add(i * 56)).find(|&at| field(file, at, 4) == Some(kind))
}

/// Where the thing with this number is, of those that a letter stands for: the header, a
/// segment, a section, an entry of the dynamic section.
fn place(file: &[u8], letter: u8, number: u64) -> Option<u64> {
    match letter {
        b'h' => Some(0),
        b'p' => Some(field(file, 32, 8)?.wrapping_add(number * 56)),
        b's' => Some(field(file, 40, 8)?.wrapping_add(number * 64)),
        // PT_DYNAMIC
        _ => Some(
            field(file, segment_of_type(file, 2)?.wrapping_add(8), 8)?.wrapping_add(number * 16),
        ),
    }
}

/// `other` is what is mangled now and then, instead of a file without code that runs by itself.
pub fn mangle(input: &mut Input, other: &[u8]) -> Vec<u8> {
    let mut file = match input.digit() {
        0..=7 => BARE.to_vec(),
        8 => return input.rest().to_vec(),
        _ => other.to_vec(),
    };
    while let Some(letter) = input.letter() {
        let len = file.len() as u64;
        match letter {
            b'b' => {
                let at = input.short() as u64;
                let value = input.byte().into();
                set(&mut file, at, 1, value);
            }
            b'c' => file.truncate(input.short()),
            b'h' | b'p' | b's' | b'd' | b'e' => {
                let fields = match letter {
                    b'h' => HEADER,
                    b'p' => SEGMENT,
                    b's' => SECTION,
                    _ => ENTRY,
                };
                // Dynamic sections have more entries than there are digits.
                let number = input.digit() as u64 + if letter == b'e' { 16 } else { 0 };
                let (offset, size) = fields[input.digit() % fields.len()];
                let Some(at) =
                    place(&file, letter, number).map(|at| at.wrapping_add(offset as u64))
                else {
                    continue;
                };
                let old = field(&file, at, size).unwrap_or(0);
                let value = match input.digit() {
                    0 => 0,
                    1 => u64::MAX,
                    2 => len,
                    3 => len - 1,
                    4 => i64::MAX as u64,
                    5 => 1 << 63,
                    6 => input.byte().into(),
                    7 => input.short() as u64,
                    8 => input.number(),
                    9 => old.wrapping_add(input.byte().into()),
                    10 => old.wrapping_sub(input.byte().into()),
                    11 => old ^ 1 << (input.byte() & 63),
                    12 => len.wrapping_sub(old),
                    13 => u64::MAX - old,
                    14 => 1 << 32,
                    _ => old.wrapping_mul(2),
                };
                set(&mut file, at, size, value);
            }
            _ => {}
        }
        if file.is_empty() {
            break;
        }
    }
    file
}

/// Why nobody may load this file: what the library has to refuse at least, or a page of it
/// that is touched is a SIGBUS.
pub fn fatal(file: &[u8]) -> Option<&'static str> {
    let get = |at: u64, size| field(file, at, size);
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return Some("no 64-bit ELF of this byte order");
    }
    if get(16, 2) != Some(3) {
        return Some("no shared object");
    }
    if cfg!(target_arch = "x86_64") && get(18, 2) != Some(62) {
        return Some("another machine's");
    }
    let (Some(first), Some(n)) = (get(32, 8), get(56, 2)) else { return Some("no header") };
    let (mut loads, mut dynamic) = (Vec::new(), None);
    for i in 0..n {
        let at = first.wrapping_add(i * 56);
        let all =
            [0, 8, 16, 32].map(|field| get(at.wrapping_add(field), if field == 0 { 4 } else { 8 }));
        let [Some(kind), Some(offset), Some(address), Some(size)] = all else {
            return Some("segments beyond the end");
        };
        if u128::from(offset) + u128::from(size) > file.len() as u128 {
            return Some("a segment beyond the end");
        }
        match kind {
            1 => loads.push((offset, address, size)),
            2 if dynamic.is_none() => dynamic = Some((offset, size)),
            _ => {}
        }
    }
    let Some((at, size)) = dynamic else { return Some("no dynamic section") };
    let entries: Vec<(u64, u64)> = (0..size / 16)
        .map(|i| (get(at + i * 16, 8).unwrap_or(0), get(at + i * 16 + 8, 8).unwrap_or(0)))
        .take_while(|&(tag, _)| tag != 0)
        .collect();
    let value = |tag| entries.iter().find(|&&(t, _)| t == tag).map(|&(_, value)| value);
    let (Some(strings), Some(len)) = (value(5), value(10)) else { return Some("no strings") };
    let inside = |&&(_, address, size): &&(u64, u64, u64)| strings.wrapping_sub(address) < size;
    let Some((offset, address, _)) = loads.iter().find(inside) else {
        return Some("strings nowhere");
    };
    let table = strings - address + offset;
    if u128::from(table) + u128::from(len) > file.len() as u128 {
        return Some("strings beyond the end");
    }
    let table = &file[table as usize..(table + len) as usize];
    for &(tag, name) in &entries {
        // DT_NEEDED and DT_SONAME
        if tag == 1 || tag == 14 {
            let name = usize::try_from(name).ok().and_then(|name| table.get(name..));
            if !name.is_some_and(|name| name.contains(&0)) {
                return Some("a name beyond the strings");
            }
        }
    }
    None
}

/// A host in which the name is taken that every file is loaded under: it reads the file and judges
/// it, and opens nothing. -EEXIST is a file that would be opened.
pub struct Judge(*mut module_host);

// SAFETY: a host is for all threads.
unsafe impl Send for Judge {}
// SAFETY: as above.
unsafe impl Sync for Judge {}

impl Judge {
    pub fn new() -> Self {
        let judge = Self(module_host_new());
        let plugin =
            CStr::from_bytes_with_nul(concat!(env!("OUT_DIR"), "/library.so\0").as_bytes());
        assert_eq!(judge.says(plugin.unwrap()).0, 0);
        judge
    }

    /// What the load returns, and why.
    pub fn says(&self, path: &CStr) -> (c_int, &str) {
        // SAFETY: nothing is loaded but the plugin, which does nothing.
        unsafe {
            let rc = module_load(self.0, path.as_ptr(), c"taken".as_ptr(), ptr::null_mut());
            (rc, CStr::from_ptr(module_last_error()).to_str().expect("words"))
        }
    }
}

/// A file in memory, and its path.
pub struct Memory {
    fd: i32,
}

impl Memory {
    pub fn new() -> Self {
        // SAFETY: a C string.
        let fd = unsafe { libc::memfd_create(c"mangled".as_ptr(), 0) };
        assert!(fd >= 0);
        Self { fd }
    }

    pub fn path(&self) -> std::ffi::CString {
        std::ffi::CString::new(format!("/proc/self/fd/{}", self.fd)).unwrap()
    }

    pub fn write(&self, file: &[u8]) {
        // SAFETY: the descriptor is ours, and the buffer has that many bytes.
        unsafe {
            assert_eq!(libc::ftruncate(self.fd, 0), 0);
            let written = libc::pwrite(self.fd, file.as_ptr().cast(), file.len(), 0);
            assert_eq!(written, file.len() as isize);
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the descriptor is ours.
        unsafe { libc::close(self.fd) };
    }
}
