//! On request: every word in writable memory that points into what would go. This finds what only the
//! program knows to be a callback: a function's address in a table, an object of a plugin's class, the
//! stack of a suspended coroutine.
//!
//! It reports words that point into the text, and words that point into a table of virtual functions (by
//! its exported name). It does not look at the stacks of threads, which have been looked at already; at
//! what the dynamic linker and this host know of the object; at pages that were never touched; or at
//! memory of devices. Memory that was freed and not overwritten looks like any other, so a line is a hint
//! for people. No unload depends on it.

use super::going::{Going, Map};
use super::pthread::Record;
use super::words::{Pages, WINDOW, WORD, read_words, wipe};
use super::{PROC, THIS};
use crate::host::error::{errno_of, errno_text};
use crate::host::object::linked::page_size;
use crate::host::object::names_in;
use std::fs;
use std::ops::Range;
use std::path::Path;

/// How many lines are written at most.
const LINES: usize = 100;
/// More than the linker's record of an object takes.
const LINK_MAP: usize = 1280;

/// Looks through memory, except for what is in `except`. Returns a line for each finding, or why it could
/// not look.
pub(crate) fn memory(going: &[Going], except: &[Range<usize>]) -> Vec<String> {
    let cannot = |what, errno| {
        vec![format!("memory could not be looked at: {THIS}/{what}: {}", errno_text(errno))]
    };
    let maps = match fs::read_to_string(format!("{THIS}/maps")) {
        Ok(maps) => maps,
        Err(error) => return cannot("maps", errno_of(&error)),
    };
    let all_pages = match Pages::open() {
        Ok(pages) => pages,
        Err(errno) => return cannot("pagemap", errno),
    };
    let page = page_size();
    let mut buffer = vec![0; WINDOW * page / WORD];
    let map = Map::of(going);
    let (mut lines, mut more) = (Vec::new(), 0);
    let objects = || going.iter().flat_map(|going| &going.objects);
    let records = objects().map(|object| object.linked.0 as usize);
    let mut except = [except, &records.map(|at| at..at + LINK_MAP).collect::<Vec<_>>()].concat();
    except.push(buffer.as_ptr() as usize..buffer.as_ptr() as usize + WINDOW * page);
    except.extend(objects().map(|object| object.range.clone()));
    let tasks = names_in(&Path::new(PROC).join("task")).unwrap_or_default();
    let threads = tasks.iter().filter_map(|task| task.to_str()?.parse().ok());
    let stacks: Vec<usize> = threads.filter_map(Record::of).map(|r| r.end() - 1).collect();
    for line in maps.lines() {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let [range, permissions, ..] = words[..] else { continue };
        let name = words.get(5).copied().unwrap_or("memory of no name");
        let Some((start, end)) = range.split_once('-') else { continue };
        let number = |text| usize::from_str_radix(text, 16).unwrap_or(0);
        let (start, end) = (number(start), number(end));
        let is_stack = name == "[stack]" || stacks.iter().any(|at| (start..end).contains(at));
        if !permissions.starts_with("rw") || is_stack {
            continue;
        }
        let mut next = start;
        loop {
            let from = all_pages.first_touched(next..end);
            if from >= end {
                break;
            }
            next = from + WINDOW * page;
            let pages = (end - from).div_ceil(page).min(WINDOW);
            let touched = match all_pages.touched(from, pages) {
                Ok(touched) => touched,
                Err(errno) => return cannot("pagemap", errno),
            };
            for (from, n) in touched {
                let n = read_words(from, &mut buffer[..n * page / WORD]).unwrap_or(0);
                for (i, &word) in buffer[..n].iter().enumerate() {
                    let at = from + i * WORD;
                    if !map.reach.contains(&word) || except.iter().any(|skip| skip.contains(&at)) {
                        continue;
                    }
                    let what = match map.code(word) {
                        // The host's own records have the addresses where segments begin: those are no findings.
                        Some(code) => (!code.begins_text()).then(|| code.name(false)),
                        None => map.spot(word).and_then(|spot| spot.virtual_table()),
                    };
                    let Some(what) = what else { continue };
                    if lines.len() < LINES {
                        lines.push(format!("memory at {at:#x} ({name}) points to {what}"));
                    } else {
                        more += 1;
                    }
                }
            }
        }
    }
    if more > 0 {
        lines.push(format!("memory in {more} more places points to them"));
    }
    wipe(&mut buffer);
    lines
}
