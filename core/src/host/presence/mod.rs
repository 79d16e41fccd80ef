//! The look before an unmapping: who still stands in, or points into, what would go?
//!
//! A counter answers for those who take references. Most programs that crash at an unload do so in
//! code that took none: a thread that the module started and nobody ended, the destructor of a
//! thread-specific value, a signal handler. The look finds those without stopping or signalling
//! any thread. Whoever is found keeps the mapping.
//!
//! | file      | what it looks at                                                       |
//! | --------- | ---------------------------------------------------------------------- |
//! | `going`   | what would be unmapped, and the names of its addresses                 |
//! | `threads` | which threads there are, asleep or running                             |
//! | `stack`   | what on a thread's stack says that the thread comes back               |
//! | `pthread` | what the C library knows of a thread: start function, values of keys   |
//! | `process` | signal handlers and timers                                             |
//! | `exit`    | exit functions                                                         |
//! | `words`   | reading memory that may not be there                                   |
//! | `memory`  | on request: every word of writable memory                              |
//!
//! Below, *the text* is the executable memory that would go. A thread is *inside* if it runs in the
//! text or will return into it, and *outside* if it has been shown that it does not.
//!
//! # The rules
//!
//! **W1, nobody enters.** The look comes when the module's counter has been released and its exit
//! function has returned, and before its object is closed. The host sends nobody in any more. So a
//! thread that was seen outside stays outside, unless somebody calls a pointer that it has kept; and a
//! thread that is inside was inside before, or was started from inside.
//!
//! - A later look at the same module looks only at threads that were not seen outside yet. If more
//!   would go by then (a library that another module needed too), it looks at all threads again.
//! - A handler or a destructor (W8) lets any thread enter, and may be removed while a thread is in it.
//!   So a look that finds one takes no thread for outside. Handlers are looked for before the threads,
//!   because a thread may have entered by one that is removed meanwhile; and again after the threads,
//!   because a thread that has left meanwhile may have set one.
//! - Once no other thread can open or close an object through a host, what the close would unmap is
//!   compared with what was looked at. If it is more, that is looked at too.
//!
//! *Missed:* a thread of the module that has the number of one that ended; a dlclose(3) of others,
//! outside all hosts, that adds to what the close unmaps right after the comparison.
//!
//! **W2, all threads.** `/proc/self/task` is listed until a listing is complete and brings no new
//! thread, four times at most. A listing is complete if it has as many threads as the kernel counts
//! before and after it; the kernel may leave threads out of a listing while others end. A thread that
//! begins after the first listing was started by one that had not been looked at yet. *Missed:* the
//! last of a chain of four threads of the module, if each began and ended within one listing; another
//! process on the same memory (clone(2) with `CLONE_VM` alone).
//!
//! **W3, asleep.** The kernel tells a sleeping thread's stack pointer and program counter
//! (`/proc/self/task/T/syscall`). The look at a thread counts if the kernel says the same before and
//! after the stack was read. A thread in exit(2) never comes back, and is ignored. *Missed:* a thread
//! that leaves one function of the module and enters the next between the two, with the same stack
//! pointer at both.
//!
//! **W4, inside.** A thread is inside if its program counter is in the text, or if its stack, from the
//! stack pointer up to its end, has a return address: a word that points into the text right behind a
//! call instruction. If a signal has interrupted the thread, the kernel's frame on the stack has the
//! program counter and the stack pointer from before, and both are followed. The frame is recognised by
//! the return address that the C library gives each signal handler. A thread in vfork(2) has its return
//! address in a register, and is searched from the word where it was before. On processors other than
//! x86-64 there is no look at the instruction, and every word that points into the text counts. *Missed:*
//! a return address that is in a register alone, as on aarch64 below a function that calls nothing, if no
//! other function of the module is on that stack.
//!
//! **W5, other stacks.** A thread's stack pointer may be outside its own stack: in a coroutine, on an
//! alternate signal stack, on a piece of a split stack. Then that memory is searched from the stack
//! pointer up to where it cannot be read, 1 GiB at most. The thread's own stack is searched from the
//! interrupted stack pointer if that is on it, and otherwise all of it, 1 GiB at most: how far down the
//! thread was when it left for another stack is unknown. The own stack ends where the thread's record
//! does. Only the first thread's ends where the process's does, and the first thread is the one that was
//! started with nothing: in the child of a fork(2) another thread may have the number of the process.
//! *Missed:* stacks that no thread is on (a suspended coroutine), and all but the first and the newest
//! piece of a split stack (`memory` finds them); what is between two pages of one stack that cannot be
//! read.
//!
//! **W6, running.** Where a running thread is on its stack is unknown. So every page of the stack that
//! was ever touched counts (`/proc/thread-self/pagemap`): what is left behind on it, and what is swapped out.
//!
//! - If there is no return address into the text, and the thread was started with nothing that would
//!   go, the thread is outside: to be inside it would have to have called something from there, or have
//!   been started there, or have been called without a reference.
//! - Otherwise it is looked at again until it is asleep, or its stack has been overwritten, or the time
//!   is up. Then it is reported, and keeps the mapping.
//! - A thread that was started with a function in the text, or with one as its argument, is reported by
//!   that name, whether it runs or sleeps. A thread that had a value of a key with a destructor in the
//!   text may be in that destructor.
//!
//! *Missed:* a thread that runs without ever sleeping, in a function of the module that has called
//! nothing, and that was called without a reference; a thread that is inside only below 256 KiB of
//! untouched stack, or on a stack other than its own; a thread whose stack is memory shared with a file
//! or another process, and was written out.
//!
//! **W7, this thread** does not sleep. Its frames are unwound, because the stack between them has return
//! addresses that were left behind. From the last one on that could be unwound, whose caller has no
//! unwind information or which is the first of its stack, it is searched like a sleeping thread (W4, W5):
//! above it, and on its own stack if it is on another one.
//!
//! **W8, callers.** These are reported: a destructor in the text, of a key of which a thread has a
//! value; a signal handler; a timer that starts threads (`SIGEV_THREAD`; if the kernel has
//! `/proc/self/timers`); an exit function that would run after the object has gone. *Missed:* a
//! function that a library was given, as a callback or in a table of virtual functions; asynchronous
//! input and message queues that start threads. `memory` finds them, on request.
//!
//! **W9, fail closed.** If a thread or the list of threads cannot be looked at (a stack that the kernel
//! does not read, no `/proc`, no `syscall` file as under gVisor, a process that is not dumpable, a sandbox
//! that refuses `process_vm_readv`, or `pagemap` for a running thread), that is reported, and keeps the
//! mapping. A process without `/proc` needs none if the C library knows that it has one thread. If the C
//! library does not say where it keeps keys, start functions or exit functions, those are not looked at.
//!
//! # What a mistake costs
//!
//! A false report (of a return address that was left behind on a stack) costs the memory of a mapping
//! until the next look, and nothing else: the look decides between unmapping now and later. The kernel
//! reads all memory of others, and answers `EFAULT` where there is none, so looking at a thread that
//! ends meanwhile does no harm.

mod exit;
mod going;
mod memory;
mod process;
mod pthread;
mod stack;
#[cfg(test)]
mod tests;
mod threads;
pub(crate) mod words;

pub(crate) use going::Going;
pub(crate) use memory::memory;
pub(crate) use threads::frames;

use going::Map;
use std::mem;
use std::path::Path;
use std::time::Duration;

/// Where this process is described.
const PROC: &str = "/proc/self";
/// Where its memory is described, even if its first thread has ended.
const THIS: &str = "/proc/thread-self";

/// What a look has found, for each module that would go.
struct Findings {
    /// A line for each finding.
    of: Vec<Vec<String>>,
    /// Threads that were seen outside of it.
    outside: Vec<Vec<i32>>,
    /// The modules that any thread may enter at any time, through a handler or a destructor (W1).
    callers: Vec<usize>,
}

impl Findings {
    fn add(&mut self, whose: usize, line: String) {
        if !self.of[whose].contains(&line) {
            self.of[whose].push(line);
        }
    }

    /// Adds a handler or a destructor, by which a thread may enter that was seen outside (W1).
    fn add_caller(&mut self, whose: usize, line: String) {
        self.callers.push(whose);
        self.add(whose, line);
    }

    /// Whether this thread was seen outside of all modules.
    fn are_outside(&self, tid: i32) -> bool {
        self.outside.iter().all(|outside| outside.contains(&tid))
    }

    /// Adds a line for all modules.
    fn add_to_all(&mut self, line: &str) {
        for lines in &mut self.of {
            lines.push(line.to_owned());
        }
    }
}

/// Looks who is in the way of each module that would go, and returns a line for each finding. Waits
/// for running threads for as long as `patience` says.
pub(crate) fn look(going: &mut [Going], patience: Duration) -> Vec<Vec<String>> {
    look_in(Path::new(PROC), going, patience)
}

fn look_in(proc: &Path, going: &mut [Going], patience: Duration) -> Vec<Vec<String>> {
    let mut findings = Findings {
        of: vec![Vec::new(); going.len()],
        outside: going.iter_mut().map(|going| mem::take(&mut going.outside)).collect(),
        callers: Vec::new(),
    };
    if going.iter().any(|going| !going.objects.is_empty()) {
        let map = Map::of(going);
        let restorers = process::look(proc, &map, &mut findings);
        threads::look(proc, &map, &restorers, patience, &mut findings);
        process::look(proc, &map, &mut findings);
    }
    for &whose in &findings.callers {
        findings.outside[whose].clear();
    }
    for ((going, lines), outside) in going.iter_mut().zip(&mut findings.of).zip(findings.outside) {
        going.outside = outside;
        if going.objects.is_empty() {
            // Nobody is in the way of what stays mapped anyway.
            lines.clear();
        }
    }
    findings.of
}
