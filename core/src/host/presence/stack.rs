//! What on a stack says that its thread comes back (W4, W5).

use super::going::{Map, Spot};
use super::words::{Pages, WINDOW, WORD, bottom, read_words, wipe};
use crate::host::object::linked::page_size;
use std::mem;
use std::ops::Range;

/// How much is read at once, in words.
const CHUNK: usize = 1024;
/// How much of a stack is searched at most.
const DEPTH: usize = 1 << 30;

/// A word as an address: without the signature that aarch64 puts into the top of a return address.
fn address(word: usize) -> usize {
    if cfg!(target_arch = "aarch64") { (word as u64 & 0xffff_ffff_ffff) as usize } else { word }
}

/// The stack pointer and the program counter of an interrupted thread, from the frame that the kernel
/// pushed for a signal handler. The handler returns to the word at `frame`.
#[cfg(target_arch = "x86_64")]
fn interrupted(frame: usize) -> Result<Option<(usize, usize)>, i32> {
    const SP: usize = WORD
        + std::mem::offset_of!(libc::ucontext_t, uc_mcontext)
        + std::mem::offset_of!(libc::mcontext_t, gregs)
        + libc::REG_RSP as usize * WORD;
    let mut words = [0; 2];
    Ok((read_words(frame + SP, &mut words)? == 2).then_some((words[0], words[1])))
}

#[cfg(not(target_arch = "x86_64"))]
fn interrupted(_: usize) -> Result<Option<(usize, usize)>, i32> {
    Ok(None)
}

/// Where a thread stands.
pub(super) struct Stand<'a> {
    pub(super) spot: Spot<'a>,
    /// It has called something from there, and will return.
    pub(super) comes_back: bool,
}

/// A search through the stacks of one thread after the other.
pub(super) struct Search<'m, 'a> {
    map: &'m Map<'a>,
    /// What signal handlers return to.
    restorers: &'m [usize],
    buffer: Vec<usize>,
    /// Where the thread stands: the innermost place in each module that would go.
    stands: Vec<Stand<'a>>,
    /// Stack pointers that have to be followed.
    next: Vec<usize>,
}

impl<'m, 'a> Search<'m, 'a> {
    pub(super) fn new(map: &'m Map<'a>, restorers: &'m [usize]) -> Self {
        let buffer = vec![0; CHUNK];
        Self { map, restorers, buffer, stands: Vec::new(), next: Vec::new() }
    }

    /// Where a sleeping thread stands, whose own stack ends at `top`.
    pub(super) fn thread(
        &mut self,
        sp: usize,
        pc: usize,
        top: Option<usize>,
    ) -> Result<Vec<Stand<'a>>, i32> {
        self.next = vec![sp];
        self.is_at(self.map.code(pc), false);
        let (mut searched, mut own) = (Vec::<Range<usize>>::new(), top);
        loop {
            let sp = match (self.next.pop(), own) {
                (Some(sp), _) => sp,
                // No search has reached the end of the thread's own stack. So each stack pointer was on
                // another stack, and the own one has to be searched as well, all of it (W5).
                (None, Some(top)) if !searched.iter().any(|s| s.start <= top && top <= s.end) => {
                    own = None;
                    bottom(top, DEPTH)?
                }
                (None, _) => break,
            };
            if searched.iter().all(|done| !done.contains(&sp)) {
                let end = top.filter(|&top| sp <= top).unwrap_or(usize::MAX);
                searched.push(sp..self.search(sp, end)?);
                // Where the thread is now, there is memory.
                if searched[0].is_empty() {
                    return Err(libc::EFAULT);
                }
            }
        }
        Ok(mem::take(&mut self.stands))
    }

    /// Where a running thread may stand on its own stack, which ends at `top`. All pages that were touched
    /// are searched, with what is left behind on them, because how far down the thread is is unknown (W6).
    pub(super) fn running(&mut self, top: usize) -> Result<Vec<Stand<'a>>, i32> {
        let (pages, window) = (Pages::open()?, WINDOW * page_size());
        let mut below = top.next_multiple_of(page_size());
        while top - below.min(top) < DEPTH {
            let from = below.saturating_sub(window);
            let pieces = pages.touched(from, (below - from) / page_size())?;
            for &(start, n) in &pieces {
                let (mut at, end) = (start, (start + n * page_size()).min(top));
                while at < end {
                    // The C library's guard page counts as touched, and cannot be read.
                    at = (self.search(at, end)? + 1).next_multiple_of(page_size());
                }
            }
            if pieces.is_empty() {
                break;
            }
            below = from;
        }
        Ok(mem::take(&mut self.stands))
    }

    /// Searches upwards, and returns where the memory ends.
    fn search(&mut self, from: usize, end: usize) -> Result<usize, i32> {
        let mut at = from.next_multiple_of(WORD);
        let end = end.min(at.saturating_add(DEPTH));
        while at < end {
            let most = CHUNK.min((end - at).div_ceil(WORD));
            let n = read_words(at, &mut self.buffer[..most])?;
            if n == 0 {
                break;
            }
            for i in 0..n {
                let word = self.buffer[i];
                if let Some(spot) = self.map.call(address(word)) {
                    self.is_at(Some(spot), true);
                } else if self.restorers.contains(&word) {
                    if let Some((sp, pc)) = interrupted(at + i * WORD)? {
                        self.is_at(self.map.code(pc), false);
                        self.next.push(sp);
                    }
                }
            }
            at += n * WORD;
        }
        Ok(at)
    }

    fn is_at(&mut self, spot: Option<Spot<'a>>, comes_back: bool) {
        if let Some(spot) = spot {
            if self.stands.iter().all(|stand| stand.spot.whose != spot.whose) {
                self.stands.push(Stand { spot, comes_back });
            }
        }
    }
}

impl Drop for Search<'_, '_> {
    fn drop(&mut self) {
        wipe(&mut self.buffer);
    }
}
