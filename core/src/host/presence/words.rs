//! Reading this process's memory where there may be none.

use super::THIS;
use crate::host::error::errno_of;
use crate::host::object::linked::page_size;
pub(crate) use crate::host::object::reading::read;
use crate::host::object::reading::read_pieces;
use std::ffi::c_void;
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::slice;

pub(crate) const WORD: usize = size_of::<usize>();
/// How many pages are looked at in one go.
pub(super) const WINDOW: usize = 64;

/// How far down from `top` there is memory without a gap, `most` bytes at most.
pub(super) fn bottom(top: usize, most: usize) -> Result<usize, i32> {
    /// As many pages as the kernel reads of in one go.
    const PAGES: usize = 1024;
    let (page, mut bytes) = (page_size(), [0; PAGES]);
    let mut from = (top - 1) / page * page;
    let least = from.saturating_sub(most);
    while from > least {
        let below = |n| libc::iovec { iov_base: (from - n * page) as *mut c_void, iov_len: 1 };
        let pieces: Vec<_> = (1..=PAGES.min((from - least) / page)).map(below).collect();
        let n = read_pieces(&pieces, &mut bytes[..pieces.len()])?;
        from -= n * page;
        if n < pieces.len() {
            break;
        }
    }
    Ok(from)
}

/// As many of the words from `at` on as can be read.
pub(super) fn read_words(at: usize, into: &mut [usize]) -> Result<usize, i32> {
    // SAFETY: words can be written as bytes.
    let bytes = unsafe { slice::from_raw_parts_mut(into.as_mut_ptr().cast(), size_of_val(into)) };
    Ok(read(at, bytes)? / WORD)
}

/// Erases what was read: a look through memory would find the copy.
pub(super) fn wipe(words: &mut [usize]) {
    // SAFETY: words that are zero are words.
    unsafe { libc::explicit_bzero(words.as_mut_ptr().cast(), size_of_val(words)) };
}

/// Whether the instruction before this address is a call: E8 and four bytes, or FF /2 with the bytes
/// that its second byte asks for. If the text cannot be read, it may be one.
#[cfg(target_arch = "x86_64")]
pub(crate) fn is_behind_call(address: usize) -> bool {
    let mut before = [0; 7];
    if read(address - 7, &mut before) != Ok(7) {
        return true;
    }
    let indirect = |len: usize| {
        let code = &before[7 - len..];
        let (kind, register) = (code[1] >> 6, code[1] & 7);
        let base = if register == 4 { code.get(2).map_or(0, |sib| sib & 7) } else { register };
        let more = match kind {
            0 if base == 5 => 4,
            1 => 1,
            2 => 4,
            _ => 0,
        };
        let sib = usize::from(kind != 3 && register == 4);
        code[0] == 0xff && code[1] >> 3 & 7 == 2 && len == 2 + sib + more
    };
    before[2] == 0xe8 || [2, 3, 4, 6, 7].into_iter().any(indirect)
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn is_behind_call(_: usize) -> bool {
    true
}

/// Which of its pages this process has touched. (mincore(2) will not do: it fails for a range with a
/// hole, and does not know what is swapped out.)
pub(super) struct Pages(File);

impl Pages {
    pub(super) fn open() -> Result<Self, i32> {
        File::open(format!("{THIS}/pagemap")).map(Self).map_err(|error| errno_of(&error))
    }

    /// Where the first touched page of a range begins, or the end of the range if there is none. Before
    /// Linux 6.7 it is always the beginning of the range. (Sanitizers reserve terabytes and touch little.)
    pub(super) fn first_touched(&self, range: Range<usize>) -> usize {
        /// `struct pm_scan_arg` and `struct page_region` of <linux/fs.h>.
        #[repr(C)]
        struct Scan {
            size: u64,
            flags: u64,
            range: [u64; 2],
            walked_to: u64,
            regions: u64,
            most_regions: u64,
            most_pages: u64,
            inverted: u64,
            all_of: u64,
            any_of: u64,
            told: u64,
        }
        const IN_MEMORY_OR_SWAPPED_OUT: u64 = 1 << 3 | 1 << 4;
        let mut region = [0_u64; 3];
        let mut scan = Scan {
            size: size_of::<Scan>() as u64,
            flags: 0,
            range: [range.start as u64, range.end as u64],
            walked_to: 0,
            regions: (&raw mut region) as u64,
            most_regions: 1,
            most_pages: 1,
            inverted: 0,
            all_of: 0,
            any_of: IN_MEMORY_OR_SWAPPED_OUT,
            told: IN_MEMORY_OR_SWAPPED_OUT,
        };
        let request = libc::_IOWR::<Scan>(u32::from(b'f'), 16);
        // SAFETY: the request's own structure, and room for one region.
        match unsafe { libc::ioctl(self.0.as_raw_fd(), request, &raw mut scan) } {
            0 => range.end,
            1 => region[0] as usize,
            _ => range.start,
        }
    }

    /// The pages from `at` on, a window at most, that are in memory or swapped out. For each run of them:
    /// where it begins, and how many pages it has.
    pub(super) fn touched(&self, at: usize, pages: usize) -> Result<Vec<(usize, usize)>, i32> {
        const EACH: usize = 8;
        let (size, mut known) = (page_size(), [0; WINDOW * EACH]);
        let known = &mut known[..pages * EACH];
        // There are no pages beyond the last address.
        let n = self.0.read_at(known, (at / size * EACH) as u64);
        let n = n.map_err(|error| errno_of(&error))?;
        let mut pieces: Vec<(usize, usize)> = Vec::new();
        for (page, entry) in known[..n].chunks_exact(EACH).enumerate() {
            let entry = u64::from_ne_bytes(entry.try_into().expect("as many as it has"));
            // Bit 63: in memory; bit 62: swapped out.
            if entry >> 62 == 0 {
                continue;
            }
            let from = at + page * size;
            match pieces.last_mut() {
                Some((start, n)) if *start + *n * size == from => *n += 1,
                _ => pieces.push((from, 1)),
            }
        }
        Ok(pieces)
    }
}
