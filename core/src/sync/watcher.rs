//! The watcher of a drain that was begun: a thread that sleeps, and makes a descriptor readable when
//! the drain is over. [`drain`](crate::counter::drain) says what for.
//!
//! # The descriptor
//!
//! A timer (`timerfd_create(2)`) that is set to expire in decades. It becomes readable by being set to
//! expire at once, and stays so. Its number is the caller's: a program may close it at any time, by
//! `closefrom(3)` for one, and the number be another file's by then. So the timer carries a mark, its
//! interval, which no other timer of the process has. Whoever is about to set it looks at the mark
//! first (`timerfd_gettime(2)`), which says no to any other file, and changes nothing. The library holds
//! no second descriptor, so that closing the caller's closes the file.

use super::{Deadline, Word, address, wait};
use crate::Counter;
use crate::counter::release::Ring;
use crate::errno::{checked, kept};
use core::cell::UnsafeCell;
use core::ffi::{c_int, c_void};
use core::mem::{self, MaybeUninit};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};
use core::time::Duration;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Once;

/// The counter is closed, and the watcher watches it; or it has been told to stop.
const WATCHING: u64 = 1;

/// The watcher watches no more.
const ENDED: u64 = 2;

/// How long an ended watcher is waited for before it is woken once more.
const AGAIN: Duration = Duration::from_millis(1);

/// The thread, and what it has to know. It stays where it is until `end` has returned.
pub(crate) struct Watcher {
    counter: *const Counter,
    deadline: Deadline,
    timer: Timer,
    /// 0, then `WATCHING`, then `ENDED`.
    state: Word,
    stop: AtomicBool,
    /// The timer has been set to expire.
    rung: AtomicBool,
    thread: UnsafeCell<MaybeUninit<libc::pthread_t>>,
    /// How often this process was forked when the thread was started: a child has no thread.
    forks: u32,
}

impl Watcher {
    /// Starts the thread, with its state in `place`. `Err` is an errno, and then there is none.
    pub(crate) fn start<'a>(
        place: &'a mut MaybeUninit<Self>,
        counter: &Counter,
        deadline: Deadline,
    ) -> Result<(&'a Self, OwnedFd), c_int> {
        let (timer, owned) = Timer::new()?;
        // From here on it is shared with the thread.
        let watcher: &Self = place.write(Self {
            counter,
            deadline,
            timer,
            state: Word::new(0),
            stop: AtomicBool::new(false),
            rung: AtomicBool::new(false),
            thread: UnsafeCell::new(MaybeUninit::uninit()),
            forks: forks(),
        });
        let thread = kept(|| spawn(run, ptr::from_ref(watcher).cast_mut().cast()))?;
        // SAFETY: the thread itself does not look at this.
        unsafe { (*watcher.thread.get()).write(thread) };
        Ok((watcher, owned))
    }

    /// The counter is closed: what the watcher sees from here on is this drain.
    pub(crate) fn watch(&self) {
        self.tell(WATCHING);
    }

    /// Ends the thread, and returns once it has ended.
    pub(crate) fn end(&self) {
        if !self.is_here() {
            return;
        }
        // Release pairs with the Acquire in `run`.
        self.stop.store(true, Release);
        // Relaxed, here and below: the join orders what it did.
        if self.state.load(Relaxed) == 0 {
            self.tell(WATCHING);
        }
        // Again and again: if the watcher has looked at the flag before we set it, and goes to
        // sleep after our wake, it sleeps on.
        while self.state.load(Relaxed) == WATCHING {
            // SAFETY: the counter is there until the drain is over.
            address(unsafe { &(*self.counter).word }).wake_all();
            wait(&self.state, WATCHING, &mut Deadline::after(Some(AGAIN)));
        }
        self.join();
    }

    /// Whether the descriptor has been made readable.
    pub(crate) fn has_rung(&self) -> bool {
        // Relaxed: the word decides.
        self.rung.load(Relaxed)
    }

    /// After a ring that came to nothing: the descriptor is readable again when the count is zero
    /// again. If it becomes so before the flag is cleared, the caller finds that in the word; if
    /// after, the watcher rings.
    pub(crate) fn hush(&self) {
        if self.is_here() {
            // In a child the timer is still the parent's.
            self.timer.expire_in(NEVER);
        }
        // Relaxed: the caller looks at the word next, and so does the watcher when it wakes.
        self.rung.store(false, Relaxed);
    }

    /// Makes the descriptor readable. If that is refused it is tried again: at the next look at the
    /// counter, or here if there is none.
    pub(crate) fn ring(&self, why: Ring) {
        // Once: to set the timer anew would have it unreadable for a moment.
        // Relaxed: the watcher alone sets it, and whoever asks looks at the counter next.
        while !self.rung.load(Relaxed) {
            if self.timer.expire_in(AT_ONCE) {
                self.rung.store(true, Relaxed);
            // Acquire pairs with the Release of `end`.
            } else if why == Ring::Drained || self.stop.load(Acquire) {
                return;
            } else {
                wait(&self.state, WATCHING, &mut Deadline::after(Some(AGAIN)));
            }
        }
    }

    pub(crate) fn time_is_up(&self) -> bool {
        self.deadline.has_passed()
    }

    /// Whether this process has the thread.
    fn is_here(&self) -> bool {
        forks() == self.forks
    }

    fn join(&self) {
        // SAFETY: our own thread, which was started, and which nobody else joins.
        kept(|| unsafe { libc::pthread_join((*self.thread.get()).assume_init(), ptr::null_mut()) });
    }

    /// The thread.
    fn run(&self) {
        let mut never = Deadline::Never;
        // Acquire pairs with the Release of `tell`.
        while self.state.load(Acquire) == 0 {
            wait(&self.state, 0, &mut never);
        }
        // SAFETY: the counter is there until this thread has ended. Acquire pairs with the Release
        // of `end`.
        let counter = unsafe { &*self.counter };
        counter.watch(|| self.stop.load(Acquire), |why| self.ring(why), self.deadline);
        self.tell(ENDED);
    }

    fn tell(&self, state: u64) {
        let address = address(&self.state);
        // Release pairs with the Acquire of `run`.
        self.state.store(state, Release);
        address.wake_all();
    }
}

/// How many forks lie between the first process with a watcher and this one. (Not its number: a
/// child in a namespace of its own can have the same.)
pub(crate) fn forks() -> u32 {
    static FORKS: AtomicU32 = AtomicU32::new(0);
    static COUNTED: Once = Once::new();
    extern "C" fn count() {
        // Relaxed: the child has one thread.
        FORKS.fetch_add(1, Relaxed);
    }
    // SAFETY: the handler adds to a number. Without memory for it a child waits for no thread that
    // ends, as it would after a raw clone.
    COUNTED.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(count));
    });
    FORKS.load(Relaxed)
}

/// In nanoseconds.
const AT_ONCE: libc::itimerspec = in_time(0, 1);
const NEVER: libc::itimerspec = in_time(DECADES, 0);

/// In seconds; less than what the kernel takes for ever.
const DECADES: i32 = 1 << 30;

const fn in_time(seconds: i32, nanoseconds: i32) -> libc::itimerspec {
    let time = libc::timespec { tv_sec: seconds as _, tv_nsec: nanoseconds as _ };
    libc::itimerspec { it_value: time, it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 } }
}

/// The number of a timer, and its mark.
struct Timer {
    number: RawFd,
    mark: libc::timespec,
}

impl Timer {
    /// One that never expires, with a number that is none of the standard streams'.
    fn new() -> Result<(Self, OwnedFd), c_int> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let flags = libc::TFD_CLOEXEC | libc::TFD_NONBLOCK;
        // SAFETY: no pointers.
        let fd = checked(|| unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, flags).into() })?;
        // SAFETY: a new descriptor, which is ours.
        let mut owned = unsafe { OwnedFd::from_raw_fd(fd as RawFd) };
        if owned.as_raw_fd() <= libc::STDERR_FILENO {
            // SAFETY: no pointers.
            let higher = checked(|| unsafe {
                let above = libc::STDERR_FILENO + 1;
                libc::fcntl(owned.as_raw_fd(), libc::F_DUPFD_CLOEXEC, above).into()
            });
            // EINVAL: the limit of open files is below that.
            let higher = higher.map_err(|e| if e == libc::EINVAL { libc::EMFILE } else { e })?;
            // SAFETY: as above. The lower one is closed.
            owned = unsafe { OwnedFd::from_raw_fd(higher as RawFd) };
        }
        // Another copy of the library counts for itself, and has its number somewhere else.
        // Relaxed: a number of its own.
        let made = MADE.fetch_add(1, Relaxed) % (1 << 20);
        let place = (MADE.as_ptr().addr() >> 2) % 1_000_000_000;
        let mark = in_time(DECADES + made as i32, place as i32).it_value;
        let timer = Self { number: owned.as_raw_fd(), mark };
        timer.set(NEVER)?;
        // A sandbox that refuses to look would have every ring come to nothing.
        if timer.is_there()? { Ok((timer, owned)) } else { Err(libc::ENOSYS) }
    }

    /// Whether the number is still this timer's.
    fn is_there(&self) -> Result<bool, c_int> {
        let mut now = in_time(0, 0);
        // SAFETY: the place is ours.
        checked(|| unsafe { libc::timerfd_gettime(self.number, &mut now).into() })?;
        let is = now.it_interval;
        Ok((is.tv_sec, is.tv_nsec) == (self.mark.tv_sec, self.mark.tv_nsec))
    }

    fn set(&self, mut time: libc::itimerspec) -> Result<(), c_int> {
        time.it_interval = self.mark;
        // SAFETY: the time outlives the call, and nobody asks for the one before.
        let set = checked(|| unsafe {
            libc::timerfd_settime(self.number, 0, &time, ptr::null_mut()).into()
        });
        set.map(drop)
    }

    /// Sets it, if it is still there; false if a sandbox refuses what it allowed before.
    fn expire_in(&self, time: libc::itimerspec) -> bool {
        match self.is_there() {
            Ok(true) => self.set(time).is_ok(),
            // Closed, or another file by now, which may be no timer.
            is_there => matches!(is_there, Ok(false) | Err(libc::EBADF | libc::EINVAL)),
        }
    }
}

extern "C" fn run(watcher: *mut c_void) -> *mut c_void {
    name_thread();
    // SAFETY: `start` has given it, and it stays until this thread has ended.
    unsafe { &*watcher.cast::<Watcher>() }.run();
    ptr::null_mut()
}

/// Lists this thread as the library's.
pub(crate) fn name_thread() {
    // SAFETY: a constant string.
    unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_NAME, c"module_ref".as_ptr()) };
}

/// Starts a thread of the library's, which takes none of the program's signals. `run` can be called
/// there with `argument`.
pub(crate) fn spawn(
    run: extern "C" fn(*mut c_void) -> *mut c_void,
    argument: *mut c_void,
) -> Result<libc::pthread_t, c_int> {
    /// It sleeps, and that takes little.
    const STACK: usize = 64 << 10;
    // SAFETY: all are local, and initialised before they are used.
    unsafe {
        let mut all: libc::sigset_t = mem::zeroed();
        let mut before: libc::sigset_t = mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let mut small: libc::pthread_attr_t = mem::zeroed();
        libc::pthread_attr_init(&mut small);
        libc::pthread_attr_setstacksize(&mut small, STACK);
        let mut thread = mem::zeroed();
        let mut errno = libc::pthread_create(&mut thread, &small, run, argument);
        if errno == libc::EINVAL {
            // Its thread-local storage needs more than that.
            errno = libc::pthread_create(&mut thread, ptr::null(), run, argument);
        }
        libc::pthread_attr_destroy(&mut small);
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        if errno == 0 { Ok(thread) } else { Err(errno) }
    }
}
