//! The watcher of a drain that was begun: a thread that sleeps, and makes a descriptor readable when
//! the drain is over. [`drain`](crate::counter::drain) says what for.
//!
//! # The descriptor
//!
//! An eventfd, which the watcher writes to. Its number is the caller's: a program may close
//! it at any time, by `closefrom(3)` for one, and the number be another file's by then. So the
//! watcher takes a copy of the table of descriptors (`close_range(2)` with `CLOSE_RANGE_UNSHARE`)
//! and closes everything in it but the eventfd. What it writes to is therefore the eventfd, whatever
//! becomes of the number, and it keeps no other file of the program open.

use super::{Deadline, Word, address, wait};
use crate::Counter;
use crate::counter::release::Ring;
use crate::errno::{checked, kept};
use core::cell::UnsafeCell;
use core::ffi::{c_int, c_long, c_uint, c_void};
use core::mem::{self, MaybeUninit};
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};
use core::time::Duration;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Once;

/// The watcher has its own table of descriptors, and watches.
const READY: u64 = 1;

/// The watcher watches no more.
const ENDED: u64 = 2;

/// How long an ended watcher is waited for before it is woken once more.
const AGAIN: Duration = Duration::from_millis(1);

/// The thread, and what it has to know. It stays where it is until `end` has returned.
pub(crate) struct Watcher {
    counter: *const Counter,
    deadline: Deadline,
    descriptor: RawFd,
    /// 0, then an errno, negated; or `READY`, then `ENDED`.
    state: Word,
    stop: AtomicBool,
    seen_last: AtomicBool,
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
        let descriptor = eventfd()?;
        // SAFETY: a new descriptor, which is ours.
        let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
        // From here on it is shared with the thread.
        let watcher: &Self = place.write(Self {
            counter,
            deadline,
            descriptor,
            state: Word::new(0),
            stop: AtomicBool::new(false),
            seen_last: AtomicBool::new(false),
            thread: UnsafeCell::new(MaybeUninit::uninit()),
            forks: forks(),
        });
        let thread = kept(|| spawn(ptr::from_ref(watcher).cast_mut().cast()))?;
        // SAFETY: the thread itself does not look at this.
        unsafe { (*watcher.thread.get()).write(thread) };
        watcher.begun().map(|()| (watcher, owned))
    }

    /// Waits until the thread watches, or says why it cannot.
    fn begun(&self) -> Result<(), c_int> {
        let mut never = Deadline::Never;
        loop {
            // Acquire pairs with the Release of `run`.
            match self.state.load(Acquire) {
                0 => wait(&self.state, 0, &mut never),
                READY | ENDED => return Ok(()),
                refused => {
                    self.join();
                    return Err(refused.wrapping_neg() as c_int);
                }
            };
        }
    }

    /// Has the watcher look again.
    pub(crate) fn wake(&self) {
        // SAFETY: the counter is there until the drain is over.
        address(unsafe { &(*self.counter).word }).wake_all();
    }

    /// Ends the thread, and returns once it has ended.
    pub(crate) fn end(&self) {
        if !self.is_here() {
            return;
        }
        // Release pairs with the Acquire in `run`.
        self.stop.store(true, Release);
        // Again and again: if the watcher has looked at the flag before we set it, and goes to
        // sleep after our wake, it sleeps on. Relaxed: the join orders what it did.
        while self.state.load(Relaxed) == READY {
            self.wake();
            wait(&self.state, READY, &mut Deadline::after(Some(AGAIN)));
        }
        self.join();
    }

    /// Whether the watcher has seen that the last reference was put.
    pub(crate) fn has_seen_last(&self) -> bool {
        // Relaxed: the word decides.
        self.seen_last.load(Relaxed)
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
        // SAFETY: a constant string.
        unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_NAME, c"module_ref".as_ptr()) };
        let alone = keep_alone(self.descriptor);
        self.tell(alone.map_or_else(|errno| -i64::from(errno) as u64, |()| READY));
        if alone.is_err() {
            return;
        }
        let ring = |why| {
            if why == Ring::Drained {
                // Relaxed: whoever finds the descriptor readable sees it.
                self.seen_last.store(true, Relaxed);
            }
            let once = 1u64;
            // SAFETY: eight bytes to our own copy of the eventfd. It does not block.
            unsafe {
                libc::syscall(libc::SYS_write, self.descriptor, &raw const once, size_of::<u64>())
            };
        };
        // SAFETY: the counter is there until this thread has ended. Acquire pairs with the Release
        // of `end`.
        unsafe { &*self.counter }.watch(|| self.stop.load(Acquire), ring, self.deadline);
        self.tell(ENDED);
    }

    fn tell(&self, state: u64) {
        let address = address(&self.state);
        // Release pairs with the Acquire of `start`.
        self.state.store(state, Release);
        address.wake_all();
    }
}

/// How many forks lie between the first process with a watcher and this one. (Not its number: a
/// child in a namespace of its own can have the same.)
fn forks() -> u32 {
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

/// An eventfd with a number that is none of the standard streams'.
fn eventfd() -> Result<RawFd, c_int> {
    let flags = libc::EFD_CLOEXEC | libc::EFD_NONBLOCK;
    // SAFETY: no pointers.
    let fd = checked(|| unsafe { c_long::from(libc::eventfd(0, flags)) })? as RawFd;
    if fd > libc::STDERR_FILENO {
        return Ok(fd);
    }
    // SAFETY: no pointers.
    let higher = checked(|| unsafe {
        libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, libc::STDERR_FILENO + 1).into()
    });
    // SAFETY: a new descriptor, which is ours. The system call: the function is a cancellation point.
    kept(|| unsafe { libc::syscall(libc::SYS_close, fd) });
    higher.map(|fd| fd as RawFd)
}

/// Gives this thread a table of descriptors with `fd` alone.
fn keep_alone(fd: RawFd) -> Result<(), c_int> {
    let fd = fd as c_uint;
    let close = |from: c_uint, to: c_uint, flags: c_uint| {
        // SAFETY: no pointers; the table is this thread's own from the first call on.
        checked(|| unsafe { libc::syscall(libc::SYS_close_range, from, to, flags) }).map(drop)
    };
    close(fd + 1, c_uint::MAX, libc::CLOSE_RANGE_UNSHARE)?;
    close(0, fd - 1, 0)
}

extern "C" fn run(watcher: *mut c_void) -> *mut c_void {
    // SAFETY: `start` has given it, and it stays until this thread has ended.
    unsafe { &*watcher.cast::<Watcher>() }.run();
    ptr::null_mut()
}

/// Starts a thread that takes none of the program's signals.
fn spawn(watcher: *mut c_void) -> Result<libc::pthread_t, c_int> {
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
        let mut errno = libc::pthread_create(&mut thread, &small, run, watcher);
        if errno == libc::EINVAL {
            // Its thread-local storage needs more than that.
            errno = libc::pthread_create(&mut thread, ptr::null(), run, watcher);
        }
        libc::pthread_attr_destroy(&mut small);
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        if errno == 0 { Ok(thread) } else { Err(errno) }
    }
}
