//! What the library says when it is used wrongly, and to whom.
//!
//! A misuse is undone first and then reported, on the thread that did it. With
//! `std`, on Linux, the report is one line on standard error unless a program installs a
//! handler of its own; elsewhere a report needs a handler.

use crate::Counter;
use crate::tool;
use core::ffi::c_void;
use core::mem;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering::*};

/// A use of a counter that cannot be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub enum Misuse {
    /// A put without a get, while nobody held a reference: where somebody does, it gives
    /// theirs back, and nobody can tell. It was undone.
    SurplusPut = 0,
    /// A get found the count in its outermost zone, where only a leak of
    /// references can bring it. The count is pinned there: the counter can be
    /// used, and is never released again.
    Overflow = 1,
    /// References are lost for good: a put or a drain of a pinned counter, or a
    /// destroy of one that is held.
    Leaked = 2,
    /// A get, which needs a reference, on a released or destroyed counter. It
    /// was undone.
    StaleGet = 3,
    /// The last reference to a module, put by the module's own code while somebody waits for that: it
    /// may be gone before the put returns.
    OwnCode = 4,
}

impl Misuse {
    /// What happened and what became of it.
    pub const fn text(self) -> &'static str {
        match self {
            Self::SurplusPut => "surplus put: no get stands behind it; undone",
            Self::Overflow => "overflow: the count is pinned, the counter is never released again",
            Self::Leaked => "leaked: references to this counter can no longer be given back",
            Self::StaleGet => "get on a released counter: only a holder may get; undone",
            Self::OwnCode => {
                "put of a module's last reference by its own code, which may be gone before that \
                 returns: put it at the thread's exit, or have code that stays put it"
            }
        }
    }
}

/// Where a call came from, as far as known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Caller(pub *const c_void);

impl Caller {
    /// Not known.
    pub const UNKNOWN: Self = Self(ptr::null());
}

/// A misuse handler. It runs on the thread that misused `counter`, after the
/// mending. It may call functions of the host, which holds no lock meanwhile. It may be called from a
/// signal handler if the program gets or puts in one.
pub type Handler = unsafe extern "C" fn(what: Misuse, counter: *const Counter, caller: Caller);

/// The installed [`Handler`]; null stands for the default.
static HANDLER: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// Installs `handler` for every counter of this copy of the library, and returns
/// the one before. `None`, for either, is the default.
///
/// What the caller wrote before is seen by the handler when it runs.
///
/// # Safety
///
/// `handler` may be called on every thread, as [`Handler`] says, until another one is installed
/// and for as long as a call under way takes. The counter that it is told is good for its address,
/// and for `count` if the program knows that it is still there.
pub unsafe fn set_handler(handler: Option<Handler>) -> Option<Handler> {
    let new = handler.map_or(ptr::null_mut(), |handler| handler as *mut ());
    // AcqRel: what the installer prepared is seen by `report`, and what the
    // previous installer prepared by whoever gets its handler back.
    tool::before(&HANDLER);
    let old = HANDLER.swap(new, AcqRel);
    tool::after(&HANDLER);
    // SAFETY: only null or a `Handler` is ever stored, and null is `None`.
    unsafe { mem::transmute::<*mut (), Option<Handler>>(old) }
}

/// Tells the installed handler.
#[cold]
pub(crate) fn report(what: Misuse, counter: *const Counter, caller: Caller) {
    report_net(what, counter, caller, 1);
}

/// Tells the installed handler, once, of `net` misuses that were found together.
#[cold]
pub(crate) fn report_net(what: Misuse, counter: *const Counter, caller: Caller, net: i64) {
    // A put that was wrong still leaves errno alone, whatever the handler does.
    #[cfg(all(feature = "std", target_os = "linux", not(any(loom, interleave))))]
    return crate::errno::kept(|| tell(what, counter, caller, net));
    #[cfg(not(all(feature = "std", target_os = "linux", not(any(loom, interleave)))))]
    tell(what, counter, caller, net);
}

fn tell(what: Misuse, counter: *const Counter, caller: Caller, net: i64) {
    // Acquire pairs with the AcqRel swap of `set_handler`.
    let handler = HANDLER.load(Acquire);
    if handler.is_null() {
        #[cfg(all(feature = "std", target_os = "linux", not(any(loom, interleave))))]
        stderr::report(what, counter, caller, net);
        #[cfg(not(all(feature = "std", target_os = "linux", not(any(loom, interleave)))))]
        let _ = net;
        return;
    }
    tool::after(&HANDLER);
    // SAFETY: not null, so a `Handler`; its contract is its installer's.
    tool::outside(|| unsafe { mem::transmute::<*mut (), Handler>(handler)(what, counter, caller) });
}

/// The default: one line on standard error, in one write, without allocating; at most 10 in a second,
/// so that a misuse in a loop does not fill a disk.
#[cfg(all(feature = "std", target_os = "linux", not(any(loom, interleave))))]
mod stderr {
    use super::{Caller, Counter, Misuse};
    use crate::stderr::Line;
    use core::fmt::Write;
    use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
    use std::ffi::CStr;

    /// Lines in a second.
    const MOST: u64 = 10;

    /// A second of the monotonic clock, times `MOST + 1`, and how many lines it has had.
    static LINES: AtomicU64 = AtomicU64::new(0);

    /// Misuses that have had no line.
    static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

    /// Which line of this second the next one is, the first being 1; `None` if there were enough.
    fn next_line() -> Option<u64> {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the place is ours. If a sandbox refuses it all of time is one second.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut now) };
        let second = now.tv_sec as u64 * (MOST + 1);
        // A thread that has not run since it asked for the time counts as of now.
        let next = |lines: u64| {
            let lines = lines.max(second);
            (lines % (MOST + 1) < MOST).then_some(lines + 1)
        };
        // Relaxed, here and below: a number of its own.
        let before = LINES.fetch_update(Relaxed, Relaxed, next).ok()?;
        next(before).map(|lines| lines % (MOST + 1))
    }

    pub(super) fn report(what: Misuse, counter: *const Counter, caller: Caller, net: i64) {
        let Some(nth) = next_line() else {
            LEFT_OUT.fetch_add(1, Relaxed);
            return;
        };
        let mut line = Line::<512>::new();
        let _ = write!(line, "module_ref: {} (counter {counter:p}", what.text());
        if net != 1 {
            let _ = write!(line, ", {net} of them");
        }
        if caller != Caller::UNKNOWN {
            let _ = write!(line, ", called from {:p}", caller.0);
            name(&mut line, caller);
        }
        let _ = line.write_str(")");
        let left_out = LEFT_OUT.swap(0, Relaxed);
        if left_out > 0 {
            let _ = write!(line, "; {left_out} before this were left out");
        }
        if nth == MOST {
            let _ = line.write_str("; no more in this second");
        }
        line.end();
    }

    /// Appends `, symbol+0x12 in file` as far as the dynamic linker knows. That takes the
    /// linker's lock, which is why the default handler is not async-signal-safe.
    fn name(line: &mut impl Write, caller: Caller) {
        // SAFETY: all-zero is a valid Dl_info, and dladdr fills in pointers to
        // strings that live as long as the object is loaded; the caller's has to be, because
        // the call returns there.
        let info = unsafe {
            let mut info: libc::Dl_info = core::mem::zeroed();
            if libc::dladdr(caller.0, &mut info) == 0 {
                return;
            }
            info
        };
        let text = |s: *const libc::c_char| {
            // SAFETY: as above; not null where this is called.
            unsafe { CStr::from_ptr(s) }.to_str().unwrap_or("?")
        };
        let offset = |from: *mut libc::c_void| (caller.0 as usize).wrapping_sub(from as usize);
        let _ = match (info.dli_sname.is_null(), info.dli_fname.is_null()) {
            (false, false) => write!(
                line,
                ", {}+{:#x} in {}",
                text(info.dli_sname),
                offset(info.dli_saddr),
                text(info.dli_fname)
            ),
            (true, false) => {
                write!(line, ", {}+{:#x}", text(info.dli_fname), offset(info.dli_fbase))
            }
            _ => Ok(()),
        };
    }
}
