//! Per-CPU slots: a get and a put are each one plain add on the CPU's own cache line.
//!
//! | `linux/`  | what it holds                                                     |
//! | --------- | ----------------------------------------------------------------- |
//! | `cpus`    | how many rows to make                                              |
//! | `x86_64`, `aarch64` | the restartable sequence that adds, and all else in assembly       |
//! | `own`     | areas that the library registers with the kernel itself            |
//! | `rseq`    | where each thread's area is                                        |
//! | `barrier` | `membarrier`, and whether this process can count per CPU at all    |
//! | `bitmap`  | which slots of a chunk are taken                                   |
//! | `arena`   | the memory of the slots                                            |
//! | `slots`   | the tagged pointer in a counter, and the sum of what it points to  |
//!
//! Each uses only those above it.
//!
//! # Why it is right
//!
//! A restartable sequence reads its thread's row and the tag (how many rows the counter uses; 0 means
//! off). If the row is one of them, it adds to the counter's slot in that row. While a thread runs no
//! other thread has its row. The kernel guarantees that the sequence either runs to its end without
//! being interrupted by another thread or a signal on its CPU, or is aborted before its last
//! instruction, which is the add. So a plain add loses nothing.
//!
//! **P1, the barrier divides.** A releaser clears the tag, then calls
//! `membarrier(PRIVATE_EXPEDITED_RSEQ)`. The kernel interrupts every CPU that runs a
//! thread of this process, with a full memory barrier, and aborts the sequence that it
//! finds there. A CPU that runs none has been through a context switch, which is a
//! barrier and aborts as well. So there are two cases. If a sequence ended before the
//! barrier, the releaser sees its add afterwards. If it did not, it reads the tag again
//! after the barrier, and finds it cleared.
//!
//! **P2, only the sum counts.** A put may run on another CPU than its get, or go
//! through the word, so a slot may be below zero. Only the thread that has a row
//! writes to its slots; folding writes to none, and puts their sum into the word instead. A
//! counter with slots holds `word + sum(slots)` references while the tag is set, and
//! `word` alone once the sum is folded.
//!
//! **P3, both places count between the two.** From clearing the tag until folding, and
//! from unfolding until setting it, gets and puts go to the word while the slots still
//! hold their part. The sum stays the same, so setting the tag again undoes a failed
//! barrier.

// The sequence is written for two processors. Elsewhere, and without `std`, every counter is a shared word.
#[cfg_attr(
    not(all(
        feature = "std",
        any(target_arch = "x86_64", target_arch = "aarch64"),
        target_pointer_width = "64",
        target_endian = "little",
        target_os = "linux",
        any(target_env = "gnu", target_env = "musl")
    )),
    path = "absent.rs"
)]
mod linux;

pub(crate) use linux::Slots;
#[cfg(all(
    feature = "std",
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_pointer_width = "64",
    target_endian = "little",
    target_os = "linux",
    any(target_env = "gnu", target_env = "musl")
))]
pub use linux::{AREA, Area};
