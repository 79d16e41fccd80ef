//! Trace points: where bpftrace, perf, SystemTap and gdb can look in while the program runs.
//!
//! They are USDT probes of provider `module_ref`: an instruction that does nothing where the
//! probe is, and a note in the object that says where that is and where the arguments are. A
//! tracer that attaches puts a breakpoint there; without one, the probe is one `nop`. The
//! library needs to be neither asked nor restarted.
//!
//! The probes are in whatever object the library is in: `libmodule_ref.so`, a program that links
//! the static library or the Rust crate, the extension of the Python package. `readelf -n`,
//! `bpftrace -l 'usdt:FILE:*'` and gdb's `info probes` list them.
//!
//! # What there is, and when it fires
//!
//! All arguments are signed 64-bit numbers; a *name* is the address of a C string, which stays
//! for as long as the tracer looks. Which function of Linux has the same trace point stands
//! last.
//!
//! | probe | arguments | fires |
//! | ----- | --------- | ----- |
//! | `module_request` | name, wait | when somebody asks for a load or a replacement, whatever comes of it. *wait*: 1 if another load under that name is under way, which this one waits for; else 0. Linux: `request_module` |
//! | `module_load` | name, taints | when the notifiers have let a module come, before its init function. *taints*: 8 (Linux's `TAINT_FORCED_RMMOD`, as a mask) if the host is tainted by a forced unload, else 0. Linux: `load_module` |
//! | `module_free` | name | when a module's exit function has run and its notifiers are told, before its object is closed; for every `module_load` once, also if the init function fails. Linux: `free_module` |
//! | `module_get` | name, count, caller | after a reference was taken. A refused one fires nothing, nor does NULL. Linux: `try_module_get`, `__module_get` |
//! | `module_put` | name, count, caller | when a reference is given back, just before, while there is somebody to keep the name. Also for a put too many, which is then undone. Linux: `module_put` |
//! | `release` | ref, outcome | at the end of an attempt to release a counter that does not wait, whatever came of it. No such trace point in Linux |
//! | `drain` | ref, outcome, nanoseconds | at the end of a drain that waits; one that was begun without waiting fires none. No such trace point in Linux |
//!
//! *count* is how many references are held with this one; -1 if nobody has read that, because it
//! would cost something when nobody listens. So it is where the module counts per CPU, and its
//! count is spread over all of them (modules do, unless they were loaded with
//! `MODULE_LOAD_ATOMIC` or the system cannot; while one is being drained, its count is in one word).
//! And so it is for every put: before it, the count is in a cache line that another CPU may have to
//! be asked for twice then, and after it there may be no name any more. `module_refcount` knows the
//! count.
//!
//! *caller* is the address that the C function `module_try_get`, `module_get`, `module_put` or
//! `module_find_get` returns to; 0 where the host itself, another of its functions, or Rust code
//! takes the reference. As in Linux, the reference that a module is loaded with is put with a
//! probe and was not taken with one: counts of gets and puts differ by one for each load.
//!
//! *ref* is the address of the counter, which for a module is the `struct module *`. *outcome* is
//! what `module_ref_try_release` or `module_ref_drain` returns: 0 or a negative errno. The drain
//! probe also fires for the host's drains: unloads with a timeout, replacements, and loads that
//! fail. *nanoseconds* is how long the drain waited for holders: 0 if it found nobody, without a
//! look at the clock.
//!
//! Getting and putting a bare counter (`module_ref_try_get`, `ModuleRef::try_get`) has no
//! probe, and what `module_ref_inline.h` puts into programs has none.
//!
//! # Threads, signals, order
//!
//! A probe does nothing that the program could see: no lock, no allocation, no errno, no memory
//! ordering. It may fire in a signal handler if the function that has it may be called there. It
//! is outside of every restartable sequence, and a tracer's trap does not abort one.

use crate::{Counter, DrainError, ReleaseError};
#[cfg(all(feature = "std", not(any(loom, interleave))))]
use std::time::Instant;

/// A probe with these arguments, where there are probes: `untraced` is the library without, to
/// be measured against.
#[cfg(all(feature = "std", target_os = "linux", not(any(loom, interleave, untraced))))]
macro_rules! fire {
    ($name:ident, $($argument:expr),+) => { probe::probe!(module_ref, $name, $($argument),+) };
}

#[cfg(not(all(feature = "std", target_os = "linux", not(any(loom, interleave, untraced)))))]
#[cfg_attr(not(feature = "std"), allow(unused_macros, reason = "nothing to tell"))]
macro_rules! fire {
    ($name:ident, $($argument:expr),+) => {{
        if false {
            let _ = ($($argument),+,);
        }
    }};
}

// Functions that are not inlined have their probe in one place. One that is, and is emitted
// besides, leaves a note without an instruction when the linker drops what nobody calls.

/// An attempt to release `counter` has ended.
#[inline(never)]
pub(crate) fn release(counter: *const Counter, outcome: &Result<(), ReleaseError>) {
    #[cfg(feature = "std")]
    fire!(release, counter, outcome.as_ref().map_or_else(|error| -error.errno(), |()| 0));
    #[cfg(not(feature = "std"))]
    let _ = (counter, outcome);
}

/// A drain of `counter` has ended.
#[inline(never)]
pub(crate) fn drain(counter: *const Counter, outcome: &Result<(), DrainError>, waited: Waited) {
    #[cfg(feature = "std")]
    fire!(
        drain,
        counter,
        outcome.as_ref().map_or_else(|error| -error.errno(), |()| 0),
        waited.nanoseconds()
    );
    #[cfg(not(feature = "std"))]
    let _ = (counter, outcome, waited);
}

/// How long a drain has been waiting for holders.
#[derive(Default)]
pub(crate) struct Waited {
    /// `None` before there was anybody to wait for.
    #[cfg(all(feature = "std", not(any(loom, interleave))))]
    since: Option<Instant>,
}

impl Waited {
    /// It waits, perhaps once more.
    #[inline]
    pub(crate) fn begin(&mut self) {
        #[cfg(all(feature = "std", not(any(loom, interleave))))]
        self.since.get_or_insert_with(Instant::now);
    }

    #[cfg(feature = "std")]
    fn nanoseconds(self) -> u64 {
        #[cfg(not(any(loom, interleave)))]
        return self.since.map_or(0, |since| since.elapsed().as_nanos() as u64);
        #[cfg(any(loom, interleave))]
        return 0;
    }
}

/// The text of a trace point of a module's get or put: one instruction that does nothing, and
/// the note that tells tracers of it. There, `$record` has the module's record, and the
/// caller's address is where `$caller` says. Nothing is loaded for a tracer: the arguments' places are in the
/// note. -1 is a count that only the slots know.
#[doc(hidden)]
#[macro_export]
#[cfg(not(untraced))]
macro_rules! __trace_point {
    ($name:literal, $record:literal, $caller:literal) => {
        concat!(
            "70: nop\n",
            // Kind 3: where the probe is, where the base below is, no semaphore; then provider,
            // name and arguments. Not part of what is loaded.
            ".pushsection .note.stapsdt, \"?\", \"note\"\n",
            ".balign 4\n",
            ".long 72f - 71f, 74f - 73f, 3\n",
            "71: .asciz \"stapsdt\"\n",
            "72: .balign 4\n",
            "73: .quad 70b, _.stapsdt.base, 0\n",
            ".asciz \"module_ref\"\n",
            ".asciz \"",
            $name,
            "\"\n",
            ".asciz \"",
            $crate::__trace_arguments!($record, $caller),
            "\"\n",
            "74: .balign 4\n",
            ".popsection\n",
            // One byte, once in an object: by its address a tracer sees whether the addresses in
            // the notes have been moved, as by prelink. R: the linker keeps it.
            ".ifndef _.stapsdt.base\n",
            ".pushsection .stapsdt.base, \"aGR\", \"progbits\", .stapsdt.base, comdat\n",
            ".weak _.stapsdt.base\n",
            ".hidden _.stapsdt.base\n",
            "_.stapsdt.base: .space 1\n",
            ".size _.stapsdt.base, 1\n",
            ".popsection\n",
            ".endif\n",
        )
    };
}

/// The name at 16 in the record, the count, and the caller's address, as this processor's assembler writes
/// them.
#[doc(hidden)]
#[macro_export]
#[cfg(target_arch = "x86_64")]
macro_rules! __trace_arguments {
    ($record:literal, $caller:literal) => {
        concat!("-8@16(", $record, ") -8@$-1 -8@", $caller)
    };
}

#[doc(hidden)]
#[macro_export]
#[cfg(target_arch = "aarch64")]
macro_rules! __trace_arguments {
    ($record:literal, $caller:literal) => {
        concat!("-8@[", $record, ", 16] -8@-1 -8@", $caller)
    };
}

/// The same without, to be measured against.
#[doc(hidden)]
#[macro_export]
#[cfg(untraced)]
macro_rules! __trace_point {
    ($name:literal, $record:literal, $caller:literal) => {
        ""
    };
}

/// What modules come through.
#[cfg(all(feature = "host", target_os = "linux", target_env = "gnu", not(any(loom, interleave))))]
pub(crate) mod module {
    use crate::counter::word::{PERCPU, count};
    use crate::misuse::Caller;
    use core::ffi::c_char;

    /// Somebody asks for module `name`, for which another load may be under way.
    #[inline(never)]
    pub(crate) fn request(name: &str, wait: bool) {
        // An allocation more is nothing to a load. (No module's name has a NUL inside.)
        let name = format!("{name}\0");
        fire!(module_request, name.as_ptr(), wait);
    }

    /// Module `name` has come, to a host that is tainted or not.
    #[inline(never)]
    pub(crate) fn load(name: *const c_char, tainted: bool) {
        const TAINT_FORCED_RMMOD: u64 = 3;
        fire!(module_load, name, u64::from(tainted) << TAINT_FORCED_RMMOD);
    }

    /// Module `name` goes.
    #[inline(never)]
    pub(crate) fn free(name: *const c_char) {
        fire!(module_free, name);
    }

    /// A reference was taken on module `name`, whose word was `old` before; `None`, if it was
    /// taken in a slot.
    #[inline(always)]
    pub(crate) fn get(name: *const c_char, old: Option<u64>, caller: Caller) {
        fire!(module_get, name, old.map_or(NOT_COUNTED, held_with_one_more), caller.0);
    }

    /// A reference on module `name` is about to be given back.
    #[inline(always)]
    pub(crate) fn put(name: *const c_char, caller: Caller) {
        fire!(module_put, name, NOT_COUNTED, caller.0);
    }

    /// What a probe has for a count that nobody has read. The entry points of the C library
    /// (`src/caller.rs` of the C library) have it in their probes' text.
    const NOT_COUNTED: i64 = -1;

    /// The count after a get that has found this word.
    #[inline]
    fn held_with_one_more(old: u64) -> i64 {
        if old & PERCPU != 0 { NOT_COUNTED } else { count(old) + 1 }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::counter::word::{LIVE, OPEN, pack};

        /// One word says how many there are; a part of them alone says nothing.
        #[test]
        fn a_count_where_it_is_known() {
            assert_eq!(held_with_one_more(pack(LIVE, 0)), 1);
            assert_eq!(held_with_one_more(pack(LIVE, 6)), 7);
            assert_eq!(held_with_one_more(pack(OPEN, 1)), 2);
            assert_eq!(held_with_one_more(pack(LIVE | PERCPU, 6)), NOT_COUNTED);
            // A misuse that is about to be undone.
            assert_eq!(held_with_one_more(pack(LIVE, -1)), 0);
        }
    }
}
