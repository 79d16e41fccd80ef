//! The memory of the slots.
//!
//! A chunk has one row of 64 KiB per CPU, and before the rows its own bookkeeping. Slot `n` of a
//! chunk is the `n`th 8 bytes of every row. So the slots of many counters share a page, each row's
//! pages are first touched by their CPU and lie in its memory, and no cache line is written by two
//! CPUs. Untouched pages cost nothing.
//!
//! The first row begins at a multiple of 64 KiB. So the bookkeeping is found from the address of any
//! slot of the first row, which is what a counter has, by the sequence and by every copy of the library
//! in the process: none of them has to know what another one has found out about the CPUs.
//!
//! **A1, what counts is summed.** `used` is how many rows anybody may have added to. The sequence
//! adds only to rows below it. A CPU beyond it counts in the word, and raises `used` if it has a
//! row at all. `used` never falls. If an add to a row comes before a releaser's barrier, so does
//! the step that raised `used` above that row, and the releaser, which reads `used` after the
//! barrier, sums the row; if it comes after, the sequence finds the tag cleared (P1).
//!
//! Chunks are never unmapped: a late reader of a sum finds memory.

use super::bitmap::Bitmap;
use super::cpus::{self, STRIDE_SHIFT};
use core::mem::{offset_of, size_of};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, Ordering::*};

const STRIDE: usize = 1 << STRIDE_SHIFT;
const SLOTS: usize = STRIDE / size_of::<AtomicI64>();

/// What this and every other copy of the library makes of the memory. A copy that finds another
/// number has met one with another layout.
const LAYOUT: u64 = u64::from_ne_bytes(*b"modref 1");

/// A chunk's bookkeeping, which ends where its first row begins.
#[repr(C)]
pub(super) struct Chunk {
    layout: u64,
    /// The chunk made before this one.
    next: *mut Chunk,
    taken: Bitmap<{ SLOTS / 64 }>,
    /// How many rows there are.
    rows: u32,
    /// What each get and put reads stands in a cache line of its own.
    apart: [u32; 15],
    /// How many of the rows may have been added to (A1). The sequence knows where this is.
    used: AtomicU32,
    end: u32,
}

const _: () =
    assert!(size_of::<Chunk>() - offset_of!(Chunk, used) == 8, "the sequence has it as a number");

/// The newest chunk. They stay for ever, so nobody needs to protect a walk.
static CHUNKS: AtomicPtr<Chunk> = AtomicPtr::new(ptr::null_mut());

/// The chunks, newest first.
fn chunks() -> impl Iterator<Item = &'static Chunk> {
    // Acquire pairs with the Release that published the chunk.
    let mut next = CHUNKS.load(Acquire);
    core::iter::from_fn(move || {
        // SAFETY: published chunks are initialised and never freed.
        let chunk = unsafe { next.as_ref() }?;
        next = chunk.next;
        Some(chunk)
    })
}

/// The slot of CPU 0 of a counter's slots, or `None` if there is no memory.
pub(super) fn allocate() -> Option<NonNull<AtomicI64>> {
    loop {
        if let Some(slot) = chunks().find_map(Chunk::take) {
            return Some(slot);
        }
        grow()?;
    }
}

/// Gives slots back. They keep what they add up to.
pub(super) fn free(slot: NonNull<AtomicI64>) {
    let n = slot.addr().get() % STRIDE / size_of::<AtomicI64>();
    Chunk::of(slot).taken.free(n);
}

impl Chunk {
    /// The one that these slots are in.
    pub(super) fn of(slot: NonNull<AtomicI64>) -> &'static Self {
        let first = slot.as_ptr().map_addr(|address| address & !(STRIDE - 1));
        // SAFETY: the bookkeeping ends there, and stays.
        let chunk = unsafe { &*first.byte_sub(size_of::<Self>()).cast::<Self>() };
        assert!(chunk.layout == LAYOUT, "slots at {slot:p} are of another version of the library");
        chunk
    }

    /// How many rows may have been added to.
    pub(super) fn used(&self) -> usize {
        // Relaxed: the barrier has ordered it for those who need it exactly (A1).
        self.used.load(Relaxed) as usize
    }

    /// Has this CPU use its row, if it has one.
    pub(super) fn widen(&self, cpu: u32) {
        // A look first: every get reads this line. Relaxed: a number of its own; the barrier has
        // ordered it for those who need it exactly (A1).
        if cpu < self.rows && self.used.load(Relaxed) <= cpu {
            self.used.fetch_max(cpu + 1, Relaxed);
        }
    }

    /// The slot of CPU 0 of the first counter.
    fn first(&self) -> *mut AtomicI64 {
        ptr::from_ref(self).wrapping_add(1).cast_mut().cast()
    }

    fn take(&self) -> Option<NonNull<AtomicI64>> {
        NonNull::new(self.first().wrapping_add(self.taken.take()?))
    }
}

/// Adds a chunk; `None` if there is no memory.
fn grow() -> Option<()> {
    let rows = cpus::rows();
    // One stride for the bookkeeping, and one for the first row to begin where it has to.
    let length = (rows + 2) * STRIDE;
    // SAFETY: new anonymous memory, and nothing else of ours.
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if memory == libc::MAP_FAILED {
        return None;
    }
    let first = memory.map_addr(|address| (address + size_of::<Chunk>()).next_multiple_of(STRIDE));
    let chunk = first.wrapping_byte_sub(size_of::<Chunk>()).cast::<Chunk>();
    // SAFETY: all of it is ours; a huge page would put the rows of several CPUs into one
    // CPU's memory, so we ask for none, and an answer is not needed.
    unsafe {
        libc::madvise(memory, length, libc::MADV_NOHUGEPAGE);
        (*chunk).layout = LAYOUT;
        (*chunk).rows = rows as u32;
        (*chunk).taken = Bitmap::new();
    }
    // Relaxed: the exchange checks it.
    let mut newest = CHUNKS.load(Relaxed);
    loop {
        // SAFETY: not published yet, so ours alone.
        unsafe { (*chunk).next = newest };
        // Release publishes the chunk to `chunks`.
        match CHUNKS.compare_exchange_weak(newest, chunk, Release, Relaxed) {
            Ok(_) => return Some(()),
            Err(now) => newest = now,
        }
    }
}
