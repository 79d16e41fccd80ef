//! The memory of the slots.
//!
//! A chunk has rows of 64 KiB, and its bookkeeping before them. Slot `n` of a chunk is the `n`th 8 bytes
//! of every row. No two running threads have the same row, so no two CPUs write to one cache line at
//! once, and yet the slots of many counters share a page. Untouched pages cost nothing. If the kernel
//! numbers threads (`mm_cid`), a process uses as many rows as it has threads running at once; if rows
//! are CPUs, as many as it has run on.
//!
//! The first row begins at a multiple of 64 KiB. So every copy of the library in the process finds the
//! bookkeeping from the address of a slot in the first row, which a counter has. No copy has to know
//! what another one has found out about the CPUs.
//!
//! **A1, what counts is summed.** A counter's second word has the address of its first slot and the
//! number of rows that the counter uses. The sequence loads both at once, and adds only to rows below
//! that number. A thread whose row is not below it counts in the word, and then raises two numbers for
//! the next time, if there is such a row: first the chunk's `used`, which never falls, and then the
//! counter's number. The releaser takes the number out of the second word in one step, and so sees a
//! `used` that is at least as large. It sums that many rows.
//!
//! **A2, chunks stay.** They are never unmapped, so a late reader of a sum finds memory.

use super::bitmap::Bitmap;
use super::cpus::{self, STRIDE_SHIFT};
use core::mem::size_of;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicI64, AtomicPtr, AtomicU32, Ordering::*};

const STRIDE: usize = 1 << STRIDE_SHIFT;
const SLOTS: usize = STRIDE / size_of::<AtomicI64>();

/// Identifies the layout of the memory. A copy of the library that finds another number has met a copy
/// with another layout.
const LAYOUT: u64 = u64::from_ne_bytes(*b"modref 2");

/// A chunk's bookkeeping, which ends where its first row begins.
#[repr(C)]
pub(super) struct Chunk {
    layout: u64,
    /// The chunk made before this one.
    next: *mut Chunk,
    taken: Bitmap<{ SLOTS / 64 }>,
    /// How many rows there are.
    rows: u32,
    /// How many of the rows threads may have added to (A1).
    used: AtomicU32,
}

/// The newest chunk. Walking the list needs no protection, because chunks stay (A2).
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

/// A counter's slot in the first row, or `None` if there is no memory.
pub(super) fn allocate() -> Option<NonNull<AtomicI64>> {
    loop {
        if let Some(slot) = chunks().find_map(Chunk::take) {
            return Some(slot);
        }
        grow()?;
    }
}

/// Gives a counter's slots back. They keep their values (P2).
pub(super) fn free(slot: NonNull<AtomicI64>) {
    let n = slot.addr().get() % STRIDE / size_of::<AtomicI64>();
    Chunk::of(slot).taken.free(n);
}

impl Chunk {
    /// The chunk that this slot is in.
    pub(super) fn of(slot: NonNull<AtomicI64>) -> &'static Self {
        let first = slot.as_ptr().map_addr(|address| address & !(STRIDE - 1));
        // SAFETY: the bookkeeping ends there, and stays.
        let chunk = unsafe { &*first.byte_sub(size_of::<Self>()).cast::<Self>() };
        assert!(chunk.layout == LAYOUT, "slots at {slot:p} are of another version of the library");
        chunk
    }

    /// How many rows threads may have added to.
    pub(super) fn used(&self) -> usize {
        // Relaxed: whoever needs it exactly has read the counter's second word first, which orders it (A1).
        self.used.load(Relaxed) as usize
    }

    /// Counts this row as used. False: there is no such row.
    pub(super) fn widen(&self, row: u32) -> bool {
        if row >= self.rows {
            return false;
        }
        // Relaxed: the step that follows, on the second word, publishes it (A1), also what another thread
        // has raised. Nothing is written if it is enough. (A debugger that steps a thread through
        // `fetch_max` on aarch64 never gets it out.)
        let raised = |used| (used <= row).then_some(row + 1);
        let _ = self.used.fetch_update(Relaxed, Relaxed, raised);
        true
    }

    /// The slot of the first counter in the first row.
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
    // One stride more for the bookkeeping, and one to align the first row.
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
    // SAFETY: all of it is ours. A huge page would put the rows of several CPUs into one CPU's memory,
    // so we ask for none; if the kernel refuses that, it costs speed alone.
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
