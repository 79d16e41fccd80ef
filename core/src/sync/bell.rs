//! The bell of a drain that was begun: a timer, and the block that has it. [`begun`](crate::begun)
//! says what for; in the models it is a cell beside the word.

use super::{Address, Word};
use crate::by_address::{ByAddress, Content, Pinned};
use crate::error::FinishError;
use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::*, fence};
use std::mem;
use std::os::fd::{IntoRawFd, OwnedFd, RawFd};

/// What the caller waits with.
pub(crate) type Descriptor = OwnedFd;

/// What belongs to one drain that was begun.
#[derive(Default)]
struct Begun {
    /// Our duplicate of the descriptor.
    timer: AtomicI32,
    /// Some thread has it (D3).
    busy: AtomicBool,
}

static BEGUN: ByAddress<Begun> = ByAddress::new();

/// How many there are, so that the wakes of other drains need not look. Relaxed: the fence in
/// `drain_begin` and the one in `ring` order what has to be seen (D2).
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

impl Content for Begun {
    fn given_up(&self) {
        // Relaxed, here and below: written before the block was published.
        timer::close(self.timer.load(Relaxed));
    }
}

/// A timer and its duplicate, before anybody knows of them.
pub(crate) struct NewBell {
    timer: RawFd,
    duplicate: RawFd,
}

impl NewBell {
    /// `Err` is an errno.
    pub(crate) fn new() -> Result<Self, c_int> {
        let (timer, duplicate) = timer::pair()?;
        Ok(Self { timer, duplicate })
    }

    /// Publishes the block of an attempt that the caller owns (D1). `Err` is `ENOMEM`.
    pub(crate) fn publish(self, word: &Word) -> Result<(Bell, Descriptor), c_int> {
        let address = super::address(word).number();
        // What a counter has left behind that was here before.
        while let Some(left) = BEGUN.find(address) {
            retire(&left);
        }
        UNDER_WAY.fetch_add(1, Relaxed);
        let published = BEGUN.claim(address, |begun| {
            begun.timer.store(self.duplicate, Relaxed);
            begun.busy.store(true, Relaxed);
        });
        let Some(block) = published else {
            UNDER_WAY.fetch_sub(1, Relaxed);
            return Err(libc::ENOMEM);
        };
        let new = mem::ManuallyDrop::new(self);
        // SAFETY: a new descriptor, which is ours to give away.
        Ok((Bell(block), unsafe { std::os::fd::FromRawFd::from_raw_fd(new.timer) }))
    }
}

impl Drop for NewBell {
    fn drop(&mut self) {
        timer::close(self.timer);
        timer::close(self.duplicate);
    }
}

/// The block of a drain, which the thread that has this has for itself (D3).
pub(crate) struct Bell(Pinned<Begun>);

impl Bell {
    /// The one of a counter, which may be gone, if no other thread has it.
    pub(crate) fn of(address: Address) -> Result<Self, FinishError> {
        let block = BEGUN.find(address.number()).ok_or(FinishError::NotBegun)?;
        // Acquire pairs with the Release of `let_go`: the drain is as the last one has left it.
        if block.busy.swap(true, Acquire) {
            return Err(FinishError::Busy);
        }
        Ok(Self(block))
    }

    /// The drain goes on.
    pub(crate) fn let_go(self) {
        self.0.busy.store(false, Release);
    }

    /// The drain is over, or somebody else's affair.
    pub(crate) fn over(self) {
        retire(&self.0);
    }

    /// Gives the hint. If that is refused the timer expires all the same, later.
    pub(crate) fn ring(&self) {
        let _ = timer::arm(self.0.timer.load(Relaxed), timer::NOW);
    }

    /// Takes the hint away, if there is one.
    pub(crate) fn hush(&self) {
        timer::hush(self.0.timer.load(Relaxed));
    }
}

fn retire(block: &Pinned<Begun>) {
    if block.retire() {
        UNDER_WAY.fetch_sub(1, Relaxed);
    }
}

/// A counter at this address, which may be gone, has just become `DRAINED`. Async-signal-safe, and
/// `errno` stays as it was.
pub(super) fn ring(address: Address) {
    // Acquire pairs with the fence in `drain_begin`, through the word (D2).
    fence(Acquire);
    if UNDER_WAY.load(Relaxed) == 0 {
        return;
    }
    if let Some(begun) = BEGUN.find(address.number()) {
        // As for `Bell::ring`.
        let _ = timer::arm(begun.timer.load(Relaxed), timer::NOW);
    }
}

/// Closes a descriptor that nobody was told of.
pub(crate) fn discard(descriptor: Descriptor) {
    timer::close(descriptor.into_raw_fd());
}

/// The system calls, none of which changes `errno` or is a cancellation point.
mod timer {
    use crate::errno::checked;
    use core::ffi::c_int;
    use std::os::fd::RawFd;

    /// A tenth of a second, in nanoseconds: how often it expires without a hint.
    const PERIOD: libc::c_long = 100_000_000;

    /// As soon as can be.
    pub(super) const NOW: libc::c_long = 1;

    /// A timer that expires periodically from now on, and a duplicate of it.
    pub(super) fn pair() -> Result<(RawFd, RawFd), c_int> {
        // SAFETY: no pointers.
        let timer = checked(|| unsafe {
            let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
            libc::timerfd_create(libc::CLOCK_MONOTONIC, flags).into()
        })? as RawFd;
        // SAFETY: no pointers.
        let duplicate =
            || checked(|| unsafe { libc::fcntl(timer, libc::F_DUPFD_CLOEXEC, 0).into() });
        match arm(timer, PERIOD).and_then(|()| duplicate()) {
            Ok(duplicate) => Ok((timer, duplicate as RawFd)),
            Err(errno) => {
                close(timer);
                Err(errno)
            }
        }
    }

    /// Has it expire in so many nanoseconds, less than a second, and periodically then.
    pub(super) fn arm(timer: RawFd, first: libc::c_long) -> Result<(), c_int> {
        let after = |ns| libc::timespec { tv_sec: 0, tv_nsec: ns };
        let times = libc::itimerspec { it_interval: after(PERIOD), it_value: after(first) };
        // SAFETY: the times outlive the call, and nobody asks for the old ones.
        checked(|| unsafe {
            libc::timerfd_settime(timer, 0, &raw const times, core::ptr::null_mut()).into()
        })
        .map(drop)
    }

    /// Takes the hint away, if there is one.
    pub(super) fn hush(timer: RawFd) {
        let mut expirations = 0u64;
        // SAFETY: the place is ours. It does not block, or not for long: the timer expires.
        let _ = checked(|| unsafe {
            libc::syscall(libc::SYS_read, timer, &raw mut expirations, size_of::<u64>())
        });
    }

    pub(super) fn close(fd: RawFd) {
        // SAFETY: the caller's own descriptor.
        let _ = checked(|| unsafe { libc::syscall(libc::SYS_close, fd) });
    }
}
