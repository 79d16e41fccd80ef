//! The product's backend: the processor's atomics and, with `std`, a sleep that
//! another thread can end by address.
//!
//! On 64-bit Linux the sleep is a private futex on the low half of the word.
//! A parking library would not do: its table exists once per copy (the shared
//! library's, the static library's, the Python module's), it may allocate, and
//! it takes a lock that a signal handler or a fork can find held. Elsewhere, and
//! wherever a sandbox refuses the futex, the sleep is short and bounded.
//!
//! No sleep is longer than a tenth of a second: a sandbox may be the putting thread's
//! alone, and swallow its wake. So a wake is never needed for progress.

pub(crate) use crate::percpu::Slots;
pub(crate) use core::sync::atomic::AtomicU64 as Word;
#[allow(unused_imports, reason = "only where there are slots, and a host")]
pub(crate) use core::sync::atomic::{AtomicPtr as Pointer, AtomicU64 as Bits};

#[allow(unused_imports, reason = "as above")]
pub(crate) use core::hint::spin_loop as look_again;

/// The address of a word. A put takes it before its subtraction, because after
/// that the word may be gone; nothing here reads through it.
#[derive(Clone, Copy)]
pub(crate) struct Address(
    #[cfg_attr(not(feature = "std"), allow(dead_code, reason = "nobody sleeps"))] *const Word,
);

/// The name under which a sleeper on `word` is found.
#[inline(always)]
pub(crate) fn address(word: &Word) -> Address {
    Address(word)
}

impl Address {
    /// Wakes whoever sleeps on the word at this address. Async-signal-safe: a system call, and
    /// `errno` as it was.
    #[cold]
    pub(crate) fn wake_all(self) {
        #[cfg(feature = "std")]
        sleep::wake_all(self.0);
    }
}

#[cfg(feature = "std")]
pub(crate) use sleep::{Deadline, wait};

#[cfg(feature = "std")]
mod sleep {
    use super::Word;
    use std::time::{Duration, Instant};

    /// A sleep that nobody is going to end lasts no longer than this.
    const BOUNDED: Duration = Duration::from_millis(1);

    /// A sleep that somebody should end lasts no longer than this.
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    const LOOK_AGAIN: Duration = Duration::from_millis(100);

    /// When a sleeper gives up.
    #[derive(Clone, Copy)]
    pub(crate) enum Deadline {
        /// Not before it is woken.
        Never,
        /// At this instant of the monotonic clock.
        At(Instant),
    }

    impl Deadline {
        /// A deadline `timeout` from now; `None`, or a time beyond the clock's
        /// range, is never.
        pub(crate) fn after(timeout: Option<Duration>) -> Self {
            timeout
                .and_then(|timeout| Instant::now().checked_add(timeout))
                .map_or(Self::Never, Self::At)
        }

        #[cfg(target_os = "linux")]
        pub(crate) fn has_passed(self) -> bool {
            self.remaining().is_none()
        }

        /// What is left, or `None` once there is nothing left.
        fn remaining(self) -> Option<Duration> {
            match self {
                Self::Never => Some(Duration::MAX),
                Self::At(instant) => {
                    let left = instant.saturating_duration_since(Instant::now());
                    (!left.is_zero()).then_some(left)
                }
            }
        }
    }

    /// Sleeps while `word` is `seen`, until woken or the deadline, and returns
    /// whether there is time left to look again. It may return early for no
    /// reason: a wake is a hint, and only the word counts.
    pub(crate) fn wait(word: &Word, seen: u64, deadline: &mut Deadline) -> bool {
        let Some(left) = deadline.remaining() else {
            return false;
        };
        park(word, seen, left);
        true
    }

    /// Sleeping without a futex.
    #[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
    fn nap(left: Duration) {
        std::thread::sleep(left.min(BOUNDED));
    }

    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    mod futex {
        use super::{BOUNDED, Duration, LOOK_AGAIN, Word};
        use crate::counter::word::DRAINED;
        use crate::errno;

        /// A duration of less than a second.
        fn timespec(short: Duration) -> libc::timespec {
            libc::timespec { tv_sec: 0, tv_nsec: short.subsec_nanos().into() }
        }

        /// Sleeping without a futex: the system call itself, because the C library's
        /// function is a cancellation point, and a drain is not.
        fn nap(left: Duration) {
            let time = timespec(left.min(BOUNDED));
            // SAFETY: the time outlives the call, and nobody asks for the rest.
            unsafe { libc::syscall(libc::SYS_nanosleep, &raw const time, 0usize) };
        }

        /// The half of the word that holds the flags.
        fn low_half(word: *const Word) -> *const u32 {
            word.cast::<u32>().wrapping_add(usize::from(cfg!(target_endian = "big")))
        }

        pub(in super::super) fn park(word: &Word, seen: u64, left: Duration) {
            // The kernel compares 32 bits. A count that is a multiple of 2^28, but not zero,
            // has the low half of a drained word, so that the last put could
            // come between our look and the kernel's and find nobody to wake:
            // sleep only briefly then. In every other case the low half differs
            // from `DRAINED`, and the wake that follows `DRAINED` is not lost.
            let looks_drained = seen as u32 == DRAINED as u32 && seen != DRAINED;
            let at_most = if looks_drained { BOUNDED } else { LOOK_AGAIN };
            let timeout = timespec(left.min(at_most));
            // SAFETY: the address is a live, aligned word for as long as we
            // borrow it, and the timeout outlives the call.
            let slept = errno::checked(|| unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    low_half(word),
                    libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                    seen as u32,
                    &raw const timeout,
                )
            });
            // EAGAIN (the word moved on), EINTR and ETIMEDOUT are all reasons to
            // look again. Anything else means that there is no futex to sleep on.
            if !matches!(slept, Ok(_) | Err(libc::EAGAIN | libc::EINTR | libc::ETIMEDOUT)) {
                nap(left);
            }
        }

        pub(in super::super) fn wake_all(word: *const Word) {
            // SAFETY: the kernel takes the address as a name. Waking an address
            // that has been unmapped since is answered by an error or by nobody.
            errno::kept(|| unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    low_half(word),
                    libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
                    libc::c_int::MAX,
                )
            });
        }
    }

    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    pub(super) use futex::{park, wake_all};

    #[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
    fn park(_word: &Word, _seen: u64, left: Duration) {
        nap(left);
    }

    #[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
    pub(super) fn wake_all(_word: *const Word) {}
}
