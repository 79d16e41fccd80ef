//! Which CPUs there may be, now or later.
//!
//! `/sys/devices/system/cpu/possible` names every number that the kernel may ever
//! give a CPU, with holes: `0-3,8-11`. It is read once, without allocating. The
//! affinity mask of the process has to lie within it: a container that shows a made-up
//! list would have us count into memory that is not there.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::*};

/// From the slot of one CPU to that of the next: 64 KiB, a whole number of pages on
/// every system, so that each CPU's slots are in pages of their own.
pub(super) const STRIDE_SHIFT: u32 = 16;

/// More than Linux can be built for (`NR_CPUS` is 8192 at most).
const MOST: usize = 8192;

/// One bit per possible CPU.
static POSSIBLE: [AtomicU64; MOST / 64] = [const { AtomicU64::new(0) }; MOST / 64];

/// One more than the highest number.
static ROWS: AtomicUsize = AtomicUsize::new(0);

/// One more than the highest number of a possible CPU; 0 if unknown.
pub(super) fn rows() -> usize {
    // Relaxed: whoever has slots has them from somebody who learned this first.
    ROWS.load(Relaxed)
}

/// The numbers of the possible CPUs.
pub(super) fn possible() -> impl Iterator<Item = usize> {
    POSSIBLE[..rows().div_ceil(64)].iter().enumerate().flat_map(|(index, bits)| {
        // Relaxed: as for ROWS.
        let mut bits = bits.load(Relaxed);
        core::iter::from_fn(move || {
            let cpu = bits.trailing_zeros() as usize;
            bits &= bits.wrapping_sub(1);
            (cpu < 64).then_some(index * 64 + cpu)
        })
    })
}

/// Calls `each` with every number of a list like `0-3,8`; `None` if it is no list.
fn parse(list: &[u8], mut each: impl FnMut(usize)) -> Option<()> {
    let list = core::str::from_utf8(list).ok()?.trim_end();
    for range in list.split(',') {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        let (from, to): (usize, usize) = (from.parse().ok()?, to.parse().ok()?);
        if from > to || to >= MOST {
            return None;
        }
        (from..=to).for_each(&mut each);
    }
    Some(())
}

/// Reads the list; false if it cannot be read or cannot be true. Idempotent.
pub(super) fn learn() -> bool {
    let mut text = [0u8; 4096];
    // SAFETY: a constant path; the buffer is ours; the descriptor is closed.
    let length = unsafe {
        let path = c"/sys/devices/system/cpu/possible";
        let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return false;
        }
        // To its end: half a list is a list, too.
        let mut length = 0;
        let end = loop {
            let rest = &mut text[length..];
            match libc::read(file, rest.as_mut_ptr().cast(), rest.len()) {
                0 => break length < text.len(),
                n => match usize::try_from(n) {
                    Ok(n) => length += n,
                    Err(_) => break false,
                },
            }
        };
        libc::close(file);
        if !end {
            return false;
        }
        length
    };
    let mut highest = None;
    let read = parse(&text[..length], |cpu| {
        POSSIBLE[cpu / 64].fetch_or(1 << (cpu % 64), Relaxed);
        highest = highest.max(Some(cpu));
    });
    let (Some(()), Some(highest)) = (read, highest) else { return false };
    if !mask_lies_within() {
        return false;
    }
    ROWS.store(highest + 1, Relaxed);
    true
}

/// Whether every CPU that this process may run on is in the list.
fn mask_lies_within() -> bool {
    let mut mask = [0u64; MOST / 64];
    // SAFETY: the kernel writes as many bytes as it says, and no more than we offer.
    let length = unsafe {
        libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(&mask), mask.as_mut_ptr())
    };
    length > 0 && mask.iter().zip(&POSSIBLE).all(|(may, is)| may & !is.load(Relaxed) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Option<Vec<usize>> {
        let mut cpus = vec![];
        parse(text.as_bytes(), |cpu| cpus.push(cpu)).map(|()| cpus)
    }

    #[test]
    fn lists_with_holes() {
        assert_eq!(list("0\n"), Some(vec![0]));
        assert_eq!(list("0-3\n"), Some(vec![0, 1, 2, 3]));
        assert_eq!(list("0-1,4,8-9\n"), Some(vec![0, 1, 4, 8, 9]));
        for no_list in ["", "\n", "0-", "-1", "a", "3-1", "0-9000", "0,,1"] {
            assert_eq!(list(no_list), None, "{no_list:?}");
        }
    }

    #[test]
    fn this_machine() {
        assert!(learn());
        let cpus: Vec<_> = possible().collect();
        assert!(!cpus.is_empty() && cpus.is_sorted());
        assert_eq!(cpus.last(), Some(&(rows() - 1)));
    }
}
