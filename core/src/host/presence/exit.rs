//! Functions that exit(3) will call, as far as they can be seen: the C library keeps them to itself.
//!
//! What an object registers by atexit(3) runs when that object is closed, and is harmless. A function is
//! in the way if it was registered to run later: by on_exit(3), or in another object's name.
//!
//! The list is found by one entry, the dynamic linker's own function, and by the variable that leads to
//! it. The C library scrambles the functions on it with a number that each thread's control block has.

use super::Findings;
use super::going::Map;
use super::pthread::symbol;
use super::words::{WORD, read_words};
use crate::host::object::linked::segments_of;
use std::sync::OnceLock;

/// A block of the list: the next, older one, how many entries are in use, and the entries.
const BLOCK: usize = 2 + ENTRIES * ENTRY;
const ENTRIES: usize = 32;
/// An entry: of what kind, the function, its argument, and the object in whose name it is.
const ENTRY: usize = 4;
/// What has more blocks than this is not the list.
const MOST: usize = 1000;
/// Kinds of entries: by on_exit, by atexit of a program, by __cxa_atexit.
const ON: usize = 2;
const AT: usize = 3;
const CXA: usize = 4;

pub(super) fn look(map: &Map<'_>, findings: &mut Findings) {
    static HEAD: OnceLock<Option<usize>> = OnceLock::new();
    if HEAD.get().is_none() {
        // Not in the lock's own function, which takes the linker's lock (H6).
        let _ = HEAD.set(find_head());
    }
    let Some(&Some(head)) = HEAD.get() else { return };
    let mut words = [0; BLOCK];
    let mut next = head;
    // The head is a pointer to a block, and so is a block's first word. The list may change meanwhile.
    for _ in 0..MOST {
        if read_words(next, &mut words[..1]) != Ok(1) || words[0] == 0 {
            return;
        }
        next = words[0];
        let n = read_words(next, &mut words).unwrap_or(0);
        if n < 2 || words[1] > ENTRIES {
            return;
        }
        for entry in words[2..n].chunks_exact(ENTRY).take(words[1]) {
            // It runs when that object is closed.
            let in_time =
                entry[0] == CXA && map.reach.contains(&entry[3]) && map.spot(entry[3]).is_some();
            if ![ON, AT, CXA].contains(&entry[0]) || in_time {
                continue;
            }
            if let Some(spot) = map.code(clear(entry[1])) {
                findings
                    .add_caller(spot.whose, format!("an exit function is {}", spot.name(false)));
            }
        }
    }
}

/// A function's address, as it was before the C library scrambled it.
#[cfg(target_arch = "x86_64")]
fn clear(scrambled: usize) -> usize {
    let guard: usize;
    // SAFETY: the thread's control block has the guard there, by the platform's ABI.
    unsafe {
        std::arch::asm!("mov {}, fs:[0x30]", out(reg) guard, options(nostack, readonly, preserves_flags));
    }
    scrambled.rotate_right(17) ^ guard
}

#[cfg(not(target_arch = "x86_64"))]
fn clear(_: usize) -> usize {
    0
}

/// Where the C library has its pointer to the newest block: the word in its data that leads through
/// blocks to their end, past the linker's own function.
fn find_head() -> Option<usize> {
    let linker = segments_of(symbol(c"__libc_stack_end")? as usize, libc::PF_X);
    let is_linkers = |entry: &[usize]| {
        let function = clear(entry[1]);
        entry[0] == CXA
            && linker.iter().any(|text| text.contains(&function))
            && entry[2..] == [0, 0]
    };
    let leads_to_it = |mut block: usize| {
        let (mut words, mut found) = ([0; BLOCK], false);
        for _ in 0..MOST {
            if block == 0 {
                return found;
            }
            // The quick way out: few words are pointers.
            let is_block = block % WORD == 0
                && read_words(block, &mut words[..2]) == Ok(2)
                && words[1] <= ENTRIES
                && read_words(block, &mut words) == Ok(BLOCK);
            if !is_block {
                return false;
            }
            found |= words[2..].chunks_exact(ENTRY).take(words[1]).any(is_linkers);
            block = words[0];
        }
        false
    };
    segments_of(symbol(c"exit")? as usize, libc::PF_W).into_iter().find_map(|range| {
        let start = range.start.next_multiple_of(WORD);
        let mut words = vec![0; range.end.saturating_sub(start) / WORD];
        let n = read_words(start, &mut words).unwrap_or(0);
        words[..n].iter().position(|&word| leads_to_it(word)).map(|at| start + at * WORD)
    })
}
