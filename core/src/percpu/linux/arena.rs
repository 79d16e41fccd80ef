//! The memory of the slots.
//!
//! A chunk has one row of 64 KiB per CPU, page-aligned, and after the rows its own
//! bookkeeping. Slot `n` of a chunk is the `n`th 8 bytes of every row. So the slots of
//! many counters share a page, each row's pages are first touched by their CPU and lie in
//! its memory, and no cache line is written by two CPUs. Untouched pages cost nothing.
//!
//! What is taken is in bitmaps, changed by single atomic steps: a fork in another thread
//! finds no lock held. Chunks are never unmapped: a late reader of a sum finds memory.

use super::cpus::{self, STRIDE_SHIFT};
use core::mem::size_of;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicI64, AtomicPtr, AtomicU64, Ordering::*};

const STRIDE: usize = 1 << STRIDE_SHIFT;
const SLOTS: usize = STRIDE / size_of::<AtomicI64>();

/// A chunk's bookkeeping. Zeroed memory is a chunk with nothing taken.
struct Chunk {
    /// The slot of CPU 0 of the first counter.
    rows: *mut AtomicI64,
    /// The chunk made before this one.
    next: *mut Chunk,
    /// One bit per slot: taken.
    taken: [AtomicU64; SLOTS / 64],
}

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
    let address = slot.as_ptr() as usize;
    let of = |chunk: &&Chunk| address.wrapping_sub(chunk.rows as usize) < STRIDE;
    let Some(chunk) = chunks().find(of) else {
        panic!("slots at {slot:p} do not belong to any chunk: the counter was overwritten");
    };
    let n = (address - chunk.rows as usize) / size_of::<AtomicI64>();
    // Release pairs with the Acquire of `take`: the next owner sees the slots as they are.
    chunk.taken[n / 64].fetch_and(!(1 << (n % 64)), Release);
}

impl Chunk {
    fn take(&self) -> Option<NonNull<AtomicI64>> {
        for (index, taken) in self.taken.iter().enumerate() {
            // Relaxed: a guess; the step below decides.
            let mut seen = taken.load(Relaxed);
            while seen != u64::MAX {
                let bit = (!seen).trailing_zeros() as usize;
                // Acquire pairs with the Release of `free`.
                seen = taken.fetch_or(1 << bit, Acquire);
                if seen & (1 << bit) == 0 {
                    // SAFETY: within the first row.
                    return NonNull::new(unsafe { self.rows.add(index * 64 + bit) });
                }
            }
        }
        None
    }
}

/// Adds a chunk; `None` if there is no memory.
fn grow() -> Option<()> {
    let length = cpus::rows() * STRIDE + size_of::<Chunk>();
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
    // SAFETY: all of it is ours; a huge page would put the rows of several CPUs into one
    // CPU's memory, so we ask for none, and an answer is not needed.
    let chunk = unsafe {
        libc::madvise(memory, length, libc::MADV_NOHUGEPAGE);
        let chunk = memory.byte_add(cpus::rows() * STRIDE).cast::<Chunk>();
        (*chunk).rows = memory.cast();
        chunk
    };
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
