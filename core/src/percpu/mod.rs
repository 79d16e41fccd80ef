//! Per-CPU slots: where a get and a put are one plain add on the CPU's own line.
//!
//! | `linux/`  | what it holds                                                     |
//! | --------- | ----------------------------------------------------------------- |
//! | `cpus`    | how many CPUs there seem to be                                     |
//! | `rseq`    | the restartable sequence that adds                                 |
//! | `barrier` | `membarrier`, and whether this process can count per CPU at all    |
//! | `bitmap`  | which slots of a chunk are taken                                   |
//! | `arena`   | the memory of the slots                                            |
//! | `slots`   | the tagged pointer in a counter, and the sum of what it points to  |
//!
//! Each uses only those above it.
//!
//! # Why it is right
//!
//! A restartable sequence reads the tag and, if it is set, adds to the slot of the
//! CPU it runs on. The kernel guarantees that it runs on that CPU to its end, not
//! interrupted by another thread or a signal there, or is aborted before its last
//! instruction, which is the add. So a plain add loses nothing.
//!
//! **P1, the barrier divides.** A releaser clears the tag, then calls
//! `membarrier(PRIVATE_EXPEDITED_RSEQ)`. The kernel interrupts every CPU that runs a
//! thread of this process, with a full memory barrier, and aborts the sequence it
//! finds there. A CPU that runs none has been through a context switch, which is a
//! barrier too, and aborts. So each sequence has either ended before the barrier, and
//! its add is visible to the releaser afterwards; or it reads the tag anew, after the
//! barrier, and finds it cleared.
//!
//! **P2, only the sum counts.** A put may come from another CPU than its get, or
//! through the word: slots go up and down, below zero too. Slots are never written but
//! by their CPU. What folding has taken over is remembered in the word as the
//! difference: a counter with slots holds `word + sum(slots)` references while the tag
//! is set, `word` alone once the sum is folded.
//!
//! **P3, both places count between the two.** From clearing the tag until folding, and
//! from unfolding until setting it, gets and puts go to the word while the slots still
//! hold their part. The sum is the same throughout; therefore a failed barrier is
//! undone by setting the tag again.

// The sequence is written for x86-64, and glibc registers it. Elsewhere, and without
// `std`, every counter is a shared word.
#[cfg_attr(
    not(all(
        feature = "std",
        target_arch = "x86_64",
        target_pointer_width = "64",
        target_os = "linux",
        target_env = "gnu"
    )),
    path = "absent.rs"
)]
mod linux;

#[cfg(all(
    feature = "std",
    target_arch = "x86_64",
    target_pointer_width = "64",
    target_os = "linux",
    target_env = "gnu"
))]
pub use linux::RSEQ_OFFSET;
pub(crate) use linux::Slots;
