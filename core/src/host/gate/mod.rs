//! Gates: addresses that stay valid for ever, for callers that know nothing of references.
//!
//! A *gate* is the address of a few instructions, the *stub*, that nobody ever unmaps. A call of it goes on
//! to the gates' body. The body takes a reference, calls a function of a module with the arguments that it
//! finds in registers, gives the reference back, and returns what the function returned. If there is no
//! reference, it returns an agreed value, and counts the refusal.
//!
//! | part | where it is | what it does |
//! | --- | --- | --- |
//! | a stub, 16 or 24 bytes | a page of stubs, which nobody can write to | says which slot is its own, and jumps |
//! | a [`Slot`] | right behind that page | says where the gate leads |
//! | the body | this library's text | everything else, one for all gates |
//!
//! The page is a file in memory, which is written and then mapped. So nothing is ever writable and executable,
//! and a system that forbids executable anonymous memory has no objection. A stub jumps, so no frame is ever
//! in it; unwinders and debuggers see only the body, which has unwind information.
//!
//! # The rules
//!
//! **G1, counters stay.** A caller may be interrupted for any time between reading the slot and reading the
//! counter that it leads to. So the memory of a counter that a gate has ever led to is never freed. A module's
//! record is dropped when its last owner leaves, and its memory stays (a few hundred bytes for each
//! generation that had a gate). A released counter gives out no reference, for ever; and a caller that has a
//! reference finds everything else there.
//!
//! **G2, counter and function belong together.** They are two words, and a caller must not get the counter of
//! one module and the function of another. They stand in a [`Way`]. A gate has two: one is in use, and the
//! spare one is filled in and then put in its place. A slow caller may still look at the way that is being
//! filled in. It reads the counter, takes the reference, reads the function, and then reads the counter once
//! more. If the counter has changed, it gives the reference back, and begins again. If it has not, the
//! function is the counter's: a way loses its counter before it gets another function, and no counter comes
//! back, because its memory is not used again. (A module that is brought up again has its old counter, and the
//! same functions.)
//!
//! So nobody waits, and a signal handler may call a gate while it interrupts the thread that changes the gate.
//!
//! **G3, a module that is brought up again.** Its counter is live before its init function runs. So all gates
//! that lead to it are [closed](Gate::close) before: their ways lose the counter, and get it back when the init
//! function has returned.

#[cfg_attr(all(target_pointer_width = "64", target_arch = "x86_64"), path = "x86_64.rs")]
#[cfg_attr(all(target_pointer_width = "64", target_arch = "aarch64"), path = "aarch64.rs")]
#[cfg_attr(
    not(all(target_pointer_width = "64", any(target_arch = "x86_64", target_arch = "aarch64"))),
    path = "absent.rs"
)]
mod arch;
#[cfg(test)]
mod tests;

use super::error::{Error, errno_of, errno_text, error, last_errno};
use super::locks::hold;
use super::object::linked::page_size;
use super::object::memory;
use crate::Counter;
use crate::misuse::Caller;
use crate::tool;
use crate::trace;
use arch::STUB;
use std::any::Any;
use std::ffi::{c_char, c_void};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Mutex, MutexGuard, Weak};

/// What a module's record begins with.
#[repr(C)]
pub(crate) struct Head {
    counter: Counter,
    pub(crate) name: AtomicPtr<c_char>,
}

/// A function as gates keep it: the complement of its address. A look through memory for callers of a module
/// must not find gates, which call it under a reference.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Hidden(usize);

impl Hidden {
    pub(crate) fn new(function: *const c_void) -> Self {
        Self(!(function as usize))
    }
}

/// Where a gate leads.
#[repr(C)]
struct Way {
    /// Null: nowhere.
    head: AtomicPtr<Head>,
    /// A [`Hidden`] one.
    function: AtomicUsize,
}

impl Way {
    /// By one thread at a time.
    fn fill(&self, head: *const Head, function: Hidden) {
        self.head.store(ptr::null_mut(), Relaxed);
        // Release, both. A caller that sees the new function sees that the old counter is gone; a caller that
        // sees the new counter sees the new function (G2). They pair with the loads of `enter`.
        self.function.store(function.0, Release);
        self.head.store(head.cast_mut(), Release);
    }
}

/// What a gate knows.
#[repr(C)]
struct Slot {
    /// One of these.
    way: AtomicPtr<Way>,
    ways: [Way; 2],
    refused: AtomicUsize,
    count: AtomicU64,
}

/// What `enter` answers to the body.
#[repr(C)]
struct Entered {
    /// Null: there is no reference.
    function: usize,
    /// The head that the reference is to; or what the gate returns.
    value: usize,
}

/// Takes a reference for a call, after it has given back one that led elsewhere by the time that it was had, on
/// `held`, if that is not null. Async-signal-safe.
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
unsafe extern "C" fn enter(slot: &'static Slot, held: *const Head) -> Entered {
    if !held.is_null() {
        // SAFETY: the body has taken one there.
        unsafe { leave(held) };
    }
    // Acquire pairs with the Release of `lead`.
    let mut way = slot.way.load(Acquire);
    loop {
        // SAFETY: ways stay for ever.
        let Way { head: place, function } = unsafe { &*way };
        // Acquire pairs with `fill`: the counter is there.
        let head = place.load(Acquire);
        if !head.is_null() && try_get(head) {
            // Acquire: the look at the counter below comes after this.
            let function = !function.load(Acquire);
            // Relaxed: if the counter is still the same, the function is its own (G2).
            if place.load(Relaxed) == head {
                return Entered { function, value: head as usize };
            }
            // SAFETY: the reference was taken just now.
            unsafe { leave(head) };
        }
        // Somebody may have led the gate elsewhere meanwhile. Acquire, as above.
        let now = slot.way.load(Acquire);
        if now == way && place.load(Relaxed) == head {
            break;
        }
        way = now;
    }
    // Relaxed: a number for people; and what was stored before the way that was loaded above.
    slot.count.fetch_add(1, Relaxed);
    Entered { function: 0, value: slot.refused.load(Relaxed) }
}

/// Takes a reference by a counter whose record may have been dropped (G1).
fn try_get(head: *const Head) -> bool {
    // SAFETY: its memory stays (G1), and a counter does nothing when it is dropped.
    let counter = unsafe { &(*head).counter };
    let got = counter.slots.add::<1>() || counter.try_get_watched(Caller::UNKNOWN);
    if got {
        // SAFETY: there is a reference, so the record is there.
        trace::module::get(unsafe { (*head).name.load(Relaxed) }, None, Caller::UNKNOWN);
    }
    got
}

/// Gives the reference back. Async-signal-safe.
///
/// # Safety
///
/// `enter` has taken one on `head`.
unsafe extern "C" fn leave(head: *const Head) {
    // SAFETY: the reference keeps the record, here and below.
    trace::module::put(unsafe { (*head).name.load(Relaxed) }, Caller::UNKNOWN);
    // SAFETY: the caller's promise.
    unsafe { leave_told(head) };
}

/// The same, after tracers have been told.
///
/// # Safety
///
/// As for `leave`.
unsafe extern "C" fn leave_told(head: *const Head) {
    // SAFETY: the reference keeps the record.
    let counter = unsafe { &(*head).counter };
    tool::before(&counter.word);
    // SAFETY: the caller's promise.
    unsafe { counter.put(Caller::UNKNOWN) };
}

/// A page of stubs, with their slots.
pub(crate) struct Chunk {
    stubs: usize,
    slots: &'static [Slot],
    used: usize,
}

pub(crate) struct Gates {
    /// The last one has room.
    chunks: Vec<Chunk>,
    /// What gates have ever led to (G1). (A leak checker does not look into slots.)
    led_to: Vec<Weak<dyn Any + Send + Sync>>,
}

pub(crate) static GATES: Mutex<Gates> =
    Mutex::new(Gates { chunks: Vec::new(), led_to: Vec::new() });

fn lock() -> MutexGuard<'static, Gates> {
    hold(&GATES)
}

/// Keeps the memory of what gates lead to when that is dropped (G1).
pub(crate) fn keep_memory(head: Weak<dyn Any + Send + Sync>) {
    lock().led_to.push(head);
}

impl Chunk {
    fn new() -> Result<Self, i32> {
        let page = page_size();
        let (n, stubs) = arch::stubs(page).ok_or(libc::ENOSYS)?;
        let file = memory::file(b"module_ref gates")?;
        file.write_all_at(&stubs, 0).map_err(|error| errno_of(&error))?;
        let map = |at: usize, size: usize, protection, flags, fd| {
            // SAFETY: new memory, or a page of what was mapped just before.
            let at = unsafe { libc::mmap(at as *mut c_void, size, protection, flags, fd, 0) };
            if at == libc::MAP_FAILED { Err(last_errno()) } else { Ok(at as usize) }
        };
        let size = page + (n * size_of::<Slot>()).next_multiple_of(page);
        let (read_write, read_run) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
        let at = map(0, size, read_write, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
        let code = libc::MAP_PRIVATE | libc::MAP_FIXED;
        map(at, page, read_run, code, file.as_raw_fd()).inspect_err(|_| {
            // SAFETY: mapped above, and not used.
            unsafe { libc::munmap(at as *mut c_void, size) };
        })?;
        let slots = (at + page) as *const Slot;
        tool::ours(slots.cast(), size - page);
        // SAFETY: mapped above for that many, and never unmapped; zeroes are a slot.
        Ok(Self { stubs: at, slots: unsafe { slice::from_raw_parts(slots, n) }, used: 0 })
    }
}

/// A gate that was made.
#[derive(Clone, Copy)]
pub(crate) struct Gate {
    entry: usize,
    slot: &'static Slot,
}

impl Gate {
    /// Makes one that leads to a function, for as long as `head` gives out references. Its memory stays (G1).
    pub(crate) fn new(head: *const Head, function: Hidden, refused: usize) -> Result<Self, Error> {
        let chunks = &mut lock().chunks;
        if chunks.last().is_none_or(|chunk| chunk.used == chunk.slots.len()) {
            chunks.push(Chunk::new().map_err(cannot)?);
        }
        let chunk = chunks.last_mut().expect("pushed");
        let (entry, slot) = (chunk.stubs + chunk.used * STUB, &chunk.slots[chunk.used]);
        // Relaxed: the store below publishes it.
        slot.refused.store(refused, Relaxed);
        slot.ways[0].fill(head, function);
        // Release pairs with `enter`, if the address goes to other threads without any order.
        slot.way.store(ptr::from_ref(&slot.ways[0]).cast_mut(), Release);
        chunk.used += 1;
        Ok(Self { entry, slot })
    }

    pub(crate) fn address(&self) -> *const c_void {
        self.entry as *const c_void
    }

    /// Leads it to another function, by its spare way. By one thread at a time.
    pub(crate) fn lead(&self, head: *const Head, function: Hidden) {
        let Slot { way, ways, .. } = self.slot;
        // Relaxed: what this thread has stored, or another one before it.
        let spare = &ways[usize::from(ptr::eq(way.load(Relaxed), &ways[0]))];
        spare.fill(head, function);
        // Release pairs with `enter`: what is filled in.
        way.store(ptr::from_ref(spare).cast_mut(), Release);
    }

    /// Makes it lead nowhere until it is led somewhere again. Its counter is released. By one thread at a time.
    pub(crate) fn close(&self) {
        // Relaxed: whoever gets a reference sees what was before the counter's reinit (Release), and looks
        // here once more.
        self.way().head.store(ptr::null_mut(), Relaxed);
    }

    /// Makes a closed gate lead to the same function again. By one thread at a time.
    pub(crate) fn reopen(&self, head: *const Head) {
        // Release pairs with `enter`.
        self.way().head.store(head.cast_mut(), Release);
    }

    fn way(&self) -> &'static Way {
        // Relaxed: only the thread that leads it asks. SAFETY: ways stay for ever.
        unsafe { &*self.slot.way.load(Relaxed) }
    }
}

/// How many calls of the gate at that address were refused; 0 if there is no gate.
pub fn refused(address: usize) -> u64 {
    let gates = lock();
    let slot = gates.chunks.iter().find_map(|chunk| {
        let at = address.checked_sub(chunk.stubs)?;
        (at % STUB == 0).then(|| chunk.slots[..chunk.used].get(at / STUB))?
    });
    slot.map_or(0, |slot| slot.count.load(Relaxed))
}

fn cannot(errno: i32) -> Error {
    if errno == libc::ENOSYS && !arch::EXISTS {
        return error!(errno, "cannot make a gate: this machine is neither x86-64 nor aarch64");
    }
    error!(
        errno,
        "cannot make a gate: {}; its code is in memory, in a file of memfd_create, which a sandbox or \
         vm.memfd_noexec may forbid to map for being run",
        errno_text(errno)
    )
}
