//! Who would call into what would go: signal handlers, timers, exit functions (W8).

use super::going::Map;
use super::words::read_words;
use super::{Findings, exit};
use std::fs;
use std::mem::MaybeUninit;
use std::path::Path;
use std::ptr;

/// What is done at a signal.
struct Action {
    signal: i32,
    handler: usize,
    /// What the handler returns to. The C library gives it to each action that it sets, even to one that
    /// removes a handler.
    #[cfg(target_arch = "x86_64")]
    restorer: Option<usize>,
}

fn action(signal: i32) -> Option<Action> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: the C library writes what is there, or refuses the signals that are its own.
    let action = unsafe {
        (libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) == 0)
            .then(|| action.assume_init())
    }?;
    Some(Action {
        signal,
        handler: action.sa_sigaction,
        #[cfg(target_arch = "x86_64")]
        restorer: action.sa_restorer.map(|restorer| restorer as usize),
    })
}

/// Returns what signal handlers return to.
pub(super) fn look(proc: &Path, map: &Map<'_>, findings: &mut Findings) -> Vec<usize> {
    let actions: Vec<_> = (1..=libc::SIGRTMAX()).filter_map(action).collect();
    for Action { signal, handler, .. } in &actions {
        if let Some(spot) = map.code(*handler) {
            let line = format!("the handler of signal {signal} is {}", spot.name(false));
            findings.add_caller(spot.whose, line);
        }
    }
    timers(proc, map, findings);
    exit::look(map, findings);
    restorers(&actions)
}

#[cfg(target_arch = "x86_64")]
fn restorers(actions: &[Action]) -> Vec<usize> {
    let mut all: Vec<_> = actions.iter().filter_map(|action| action.restorer).collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(not(target_arch = "x86_64"))]
fn restorers(_: &[Action]) -> Vec<usize> {
    Vec::new()
}

/// A timer that starts threads sends the C library's own signal, with the C library's record of the
/// timer as the value. The record has the function among its first words.
fn timers(proc: &Path, map: &Map<'_>, findings: &mut Findings) {
    // Some kernels are built without this file.
    let Ok(timers) = fs::read_to_string(proc.join("timers")) else { return };
    for line in timers.lines().filter_map(|line| line.strip_prefix("signal: 32/")) {
        let Ok(record) = usize::from_str_radix(line.trim_start_matches("0x"), 16) else { continue };
        let mut words = [0; 8];
        let n = read_words(record, &mut words).unwrap_or(0);
        for spot in words[..n].iter().filter_map(|&word| map.code(word)) {
            findings.add_caller(spot.whose, format!("a timer calls {}", spot.name(false)));
        }
    }
}
