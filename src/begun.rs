//! A drain that an event loop waits for: begun here, finished or cancelled later.
//!
//! [`drain`](Counter::drain) sleeps until the last put. A program that has a loop around `epoll`
//! cannot sleep elsewhere; it gets a descriptor instead, which becomes readable when a look may be
//! worth while, and looks.
//!
//! # The descriptor
//!
//! A timer (`timerfd_create(2)`), for two reasons. It expires every tenth of a second anyway, for
//! the reason that no sleep of a drain is longer (see `sync::native`): a hint may be swallowed, by
//! a sandbox or because another copy of this library does the put. And the put that makes the word
//! `DRAINED` has it expire at once by one plain system call, which is allowed in a signal handler.
//!
//! That it is readable is a hint like any wake; only the word counts. Whoever looks first takes
//! the hint away and looks then: a put between the two gives a new one.
//!
//! # The block
//!
//! A counter has no room for any of this, and the put has let go of the counter when it wakes (I6).
//! So what belongs to a begun drain is found by the counter's address, in a block of
//! [`by_address`](crate::by_address). The block has a duplicate of the descriptor: the
//! caller's own may be closed at any time, and its number be somebody else's file by then. Ours is
//! closed with the last pin of the block (B2), so that a put that comes late, or sleeps between
//! its look and its system call, finds the timer that it looked up, and never another file.
//!
//! **D1, one block.** Only the owner of an attempt (I1) publishes a block for its counter's
//! address. It first retires whatever the address has: an attempt that just gives up for want of a
//! barrier has left it, or a counter that was there earlier, and whose memory went with a drain
//! under way. A drain that is cancelled retires its block before the counter is live again.
//!
//! **D2, no lost hint.** The block is published before the door is shut. A put that finds the word
//! `DRAINED` has read what came of that step, so it finds the block; one that has come before that
//! step, or before the slots are folded, is seen by the look that follows them both.
//!
//! **D3, one at a time.** Who finishes or cancels takes the block for itself first, and touches the
//! counter only if it has it: a caller who comes too late for the drain finds no block, and does
//! not touch memory that the winner may have freed.

use crate::by_address::{ByAddress, Content, Pinned};
use crate::counter::held;
use crate::error::{DrainError, FinishError, ReleaseError};
use crate::guard::{ModuleRef, Released};
use crate::misuse::{self, Caller, Misuse};
use crate::release::Folded;
use crate::word::{BASE, DRAINED, PINNED_FROM, count};
use crate::{Counter, sync};
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::*, fence};
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// What belongs to one drain that was begun.
#[derive(Default)]
struct Begun {
    /// Our duplicate of the descriptor.
    timer: AtomicI32,
    /// Some thread has it (D3).
    busy: AtomicBool,
}

static BEGUN: ByAddress<Begun> = ByAddress::new();

/// How many there are, so that the wakes of other drains need not look.
static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

impl Content for Begun {
    fn given_up(&self) {
        // Relaxed, here and below: written before the block was published, or by its owner.
        timer::close(self.timer.load(Relaxed));
    }
}

/// The block of a drain, which the thread that has this has for itself.
struct Taken(Pinned<Begun>);

impl Taken {
    /// Publishes the block of an attempt that the caller owns; `None` if there is no memory, and
    /// then the duplicate is closed.
    fn publish(address: usize, duplicate: RawFd) -> Option<Self> {
        forget(address);
        UNDER_WAY.fetch_add(1, Relaxed);
        let published = BEGUN.claim(address, |begun| {
            begun.timer.store(duplicate, Relaxed);
            begun.busy.store(true, Relaxed);
        });
        if published.is_none() {
            UNDER_WAY.fetch_sub(1, Relaxed);
            timer::close(duplicate);
        }
        published.map(Self)
    }

    /// The block of this address, if no other thread has it.
    fn of(address: usize) -> Result<Self, FinishError> {
        let block = BEGUN.find(address).ok_or(FinishError::NotBegun)?;
        // Acquire pairs with the Release of `let_go`: the drain is as the last one has left it.
        if block.busy.swap(true, Acquire) {
            return Err(FinishError::Busy);
        }
        Ok(Self(block))
    }

    fn timer(&self) -> RawFd {
        self.0.timer.load(Relaxed)
    }

    /// The drain goes on.
    fn let_go(self) {
        self.0.busy.store(false, Release);
    }

    /// The drain is over, or somebody else's affair.
    fn over(self) {
        retire(&self.0);
    }
}

fn retire(block: &Pinned<Begun>) {
    if block.retire() {
        UNDER_WAY.fetch_sub(1, Relaxed);
    }
}

/// Retires what a counter has left behind that was at this address before.
fn forget(address: usize) {
    while let Some(left) = BEGUN.find(address) {
        retire(&left);
    }
}

/// A counter at this address, which may be gone, has just become `DRAINED`. Async-signal-safe, and
/// `errno` stays as it was.
pub(crate) fn ring(address: usize) {
    // Acquire pairs with the fence in `drain_begin`, through the word (D2).
    fence(Acquire);
    if UNDER_WAY.load(Relaxed) == 0 {
        return;
    }
    if let Some(begun) = BEGUN.find(address) {
        // If it is refused, the timer expires all the same, later.
        let _ = timer::arm(begun.timer.load(Relaxed), timer::NOW);
    }
}

impl Counter {
    /// The name of its block: what a put takes along that must not touch the counter any more.
    fn place(&self) -> usize {
        sync::address(&self.word).number()
    }

    /// Shuts the door without waiting for the references that are held. The descriptor becomes
    /// readable when the last one is put, and now and then before; then, or at any other time,
    /// [`drain_finish`](Self::drain_finish) has the outcome.
    ///
    /// The drain is under way until `drain_finish` or [`drain_cancel`](Self::drain_cancel) has
    /// ended it, which has to be before the counter's memory goes.
    pub fn drain_begin(&self, caller: Caller) -> Result<OwnedFd, DrainError> {
        // Look first, as every attempt does. Relaxed: it decides nothing but to give up.
        let word = self.word.load(Relaxed);
        if word & BASE == 0 {
            return Err(ReleaseError::unclaimed(word).into());
        }
        let no_descriptor = |errno| DrainError::Descriptor { errno };
        let (timer, duplicate) = timer::pair().map_err(no_descriptor)?;
        if let Err(why) = self.claim() {
            timer::close(duplicate);
            timer::close_owned(timer);
            return Err(why.into());
        }
        let Some(begun) = Taken::publish(self.place(), duplicate) else {
            self.unclaim();
            timer::close_owned(timer);
            return Err(no_descriptor(libc::ENOMEM));
        };
        // Release, before the step that shuts the door, pairs with the fence in `ring` (D2).
        fence(Release);
        if let Err(why) = self.close(caller) {
            begun.over();
            timer::close_owned(timer);
            return Err(why);
        }
        // Relaxed: a look; `drain_finish` decides.
        let word = self.word.load(Relaxed);
        if word == DRAINED || count(word) >= PINNED_FROM {
            // There is nobody left to give the hint (D2), or nothing to be waited for.
            let _ = timer::arm(begun.timer(), timer::NOW);
        }
        begun.let_go();
        Ok(timer)
    }

    /// Whether the last reference has been put since the drain was begun: `Ok` to one caller, for
    /// whom the counter is released, with everything that holders did before what follows
    /// (`Acquire`).
    pub fn drain_finish(&self, caller: Caller) -> Result<(), FinishError> {
        self.finish(Taken::of(self.place())?, caller)
    }

    /// As `drain_finish`, for C, where whoever comes too late may have a pointer to nothing (D3).
    ///
    /// # Safety
    ///
    /// If a drain of a counter at this place is under way, the counter is there.
    #[doc(hidden)]
    pub unsafe fn drain_finish_at(place: *const Self, caller: Caller) -> Result<(), FinishError> {
        let begun = Taken::of(place as usize)?;
        // SAFETY: a drain is under way, and nobody else ends it.
        unsafe { &*place }.finish(begun, caller)
    }

    fn finish(&self, begun: Taken, caller: Caller) -> Result<(), FinishError> {
        // Before the look: a put that comes in between gives a new hint.
        timer::hush(begun.timer());
        let folded = self.folded();
        if self.try_finish(folded) {
            begun.over();
            return Ok(());
        }
        // Relaxed: a look, which decides nothing.
        let word = self.word.load(Relaxed);
        if count(word) < PINNED_FROM {
            begun.let_go();
            return Err(FinishError::InUse { held: held(word) });
        }
        begun.over();
        self.open_again(folded).map_err(|held| {
            misuse::report(Misuse::Leaked, self, caller);
            FinishError::TimedOut { held }
        })
    }

    /// Ends a drain that was begun: the counter is live as before, and `Ok(false)`; or the last
    /// reference has been put, then it is released, and `Ok(true)`. Zero wins.
    pub fn drain_cancel(&self) -> Result<bool, FinishError> {
        Ok(self.cancel(Taken::of(self.place())?))
    }

    /// As `drain_cancel`, for C.
    ///
    /// # Safety
    ///
    /// As for `drain_finish_at`.
    #[doc(hidden)]
    pub unsafe fn drain_cancel_at(place: *const Self) -> Result<bool, FinishError> {
        let begun = Taken::of(place as usize)?;
        // SAFETY: a drain is under way, and nobody else ends it.
        Ok(unsafe { &*place }.cancel(begun))
    }

    fn cancel(&self, begun: Taken) -> bool {
        // First, so that nothing is left of it once the counter is live (D1).
        begun.over();
        self.open_again(self.folded()).is_ok()
    }

    /// The attempt becomes the caller's: the door stays shut, and nobody else ends it.
    #[cfg(feature = "host")]
    pub(crate) fn drain_take_over(&self) -> Result<Folded, FinishError> {
        Taken::of(self.place())?.over();
        Ok(self.folded())
    }
}

/// The system calls, none of which changes `errno` or is a cancellation point.
mod timer {
    use core::ffi::c_int;
    use std::mem;
    use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

    /// A tenth of a second, in nanoseconds: how often it expires without a hint.
    const PERIOD: libc::c_long = 100_000_000;

    /// As soon as can be.
    pub(super) const NOW: libc::c_long = 1;

    /// The result of a call, or its errno.
    fn checked(call: impl FnOnce() -> libc::c_long) -> Result<libc::c_long, c_int> {
        // SAFETY: the C library's own thread-local.
        let errno = unsafe { &mut *libc::__errno_location() };
        let before = *errno;
        let result = call();
        if result != -1 {
            return Ok(result);
        }
        Err(mem::replace(errno, before))
    }

    /// A timer that expires periodically from now on, and a duplicate of it.
    pub(super) fn pair() -> Result<(OwnedFd, RawFd), c_int> {
        // SAFETY: no pointers.
        let timer = checked(|| unsafe {
            let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
            libc::timerfd_create(libc::CLOCK_MONOTONIC, flags).into()
        })?;
        // SAFETY: a new descriptor, which is ours.
        let timer = unsafe { OwnedFd::from_raw_fd(timer as RawFd) };
        let fd = timer.as_raw_fd();
        // SAFETY: no pointers.
        let duplicate = || checked(|| unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 0).into() });
        match arm(fd, PERIOD).and_then(|()| duplicate()) {
            Ok(duplicate) => Ok((timer, duplicate as RawFd)),
            Err(errno) => {
                close_owned(timer);
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

    pub(super) fn close_owned(fd: OwnedFd) {
        close(fd.into_raw_fd());
    }
}

impl ModuleRef {
    /// Shuts the door, so that no new guard is given out, and returns without waiting for those
    /// there are: for event loops. The descriptor of what this returns becomes readable when the
    /// last guard is dropped, and now and then before; then [`finish`](Draining::finish) has the
    /// outcome.
    ///
    /// ```
    /// use module_ref::{FinishError, ModuleRef};
    ///
    /// let counter = ModuleRef::new();
    /// let guard = counter.try_get().expect("live");
    /// let mut draining = counter.drain_begin()?;
    /// assert!(counter.try_get().is_none()); // the door is shut
    /// // Here a program waits until the descriptor is readable, with whatever else it waits for.
    /// assert_eq!(draining.finish().unwrap_err(), FinishError::InUse { held: 1 });
    /// drop(guard);
    /// let released = draining.finish()?;
    /// # drop(released);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// Linux alone. Two descriptors for as long as the drain is under way, both closed on exec.
    pub fn drain_begin(&self) -> Result<Draining<'_>, DrainError> {
        let timer = self.counter().drain_begin(Caller::UNKNOWN)?;
        Ok(Draining { of: self, timer, over: false })
    }
}

/// A drain that was [begun](ModuleRef::drain_begin). Dropping it cancels it: the counter is live
/// again.
///
/// Its descriptor ([`AsFd`]) is readable when [`finish`](Self::finish) may succeed: when the last
/// guard is dropped, and ten times a second in case the hint is lost. Both level- and
/// edge-triggered loops can wait for it; there is nothing to be read, since `finish` does that.
#[must_use = "dropping it makes the counter live again"]
pub struct Draining<'a> {
    of: &'a ModuleRef,
    timer: OwnedFd,
    /// Released, or live again.
    over: bool,
}

impl<'a> Draining<'a> {
    /// Whether the last guard has been dropped. [`FinishError::InUse`] says to wait on; after
    /// anything else the drain is over.
    ///
    /// Memory ordering as in [`try_release`](ModuleRef::try_release).
    pub fn finish(&mut self) -> Result<Released<'a>, FinishError> {
        if self.over {
            return Err(FinishError::NotBegun);
        }
        let outcome = self.of.counter().drain_finish(Caller::UNKNOWN);
        self.over = !matches!(outcome, Err(FinishError::InUse { .. } | FinishError::Busy));
        outcome.map(|()| Released::won(self.of))
    }

    /// Makes the counter live again, unless the last guard has been dropped: then it is released.
    /// `None` if it is live, or if the drain was over.
    pub fn cancel(mut self) -> Option<Released<'a>> {
        self.end()
    }

    fn end(&mut self) -> Option<Released<'a>> {
        if std::mem::replace(&mut self.over, true) {
            return None;
        }
        self.of.counter().drain_cancel().unwrap_or(false).then(|| Released::won(self.of))
    }
}

impl Drop for Draining<'_> {
    fn drop(&mut self) {
        if let Some(nobody_told) = self.end() {
            nobody_told.reinit();
        }
    }
}

impl AsFd for Draining<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

impl AsRawFd for Draining<'_> {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }
}

impl fmt::Debug for Draining<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Draining").field("of", self.of).field("over", &self.over).finish()
    }
}
