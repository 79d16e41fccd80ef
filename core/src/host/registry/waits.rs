//! Which thread waits for which, so that a wait that could never end is refused.
//!
//! Suppose that thread A is about to wait in the host for thread B: until B has loaded or unloaded a module, has
//! given up the opening lock, or has left a notifier. If B waits for A, or for a thread that waits for A, and
//! so on, none of them would ever go on. Then A's call fails with `EDEADLK`. For whom a thread waits is found
//! out in one of two ways:
//!
//! - *It waits in a host.* Then its wait is in the list here. A looks at the list and enters its own wait under
//!   one lock. If A and B come to wait for each other at the same time, the one that takes the lock second finds
//!   the wait of the other, and is refused.
//! - *It sleeps elsewhere.* Then the kernel says on which word. A mutex of the C library contains its owner's
//!   number, and the word that a joiner sleeps on contains the number of the joined thread. So A is refused if it
//!   has the dynamic linker's lock, or a lock of the program's, and B waits for that lock; and if B is joining A.
//!
//! A wait of the second kind may begin while A sleeps, so A looks again at intervals. And what the kernel says of
//! threads that run is put together from several moments, so a circle of waits counts only if it is found again
//! and again.
//!
//! What the kernel does not say (a condition variable has no owner; /proc may be missing) is no reason to
//! refuse: then A waits.

use crate::host::error::{Error, error};
use crate::host::locks::hold;
use crate::host::object::thread_number;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Identifies a thread among those that live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ThreadId {
    number: libc::pid_t,
    /// A fork leaves the other threads behind.
    pub(crate) process: u32,
}

impl ThreadId {
    /// It works even in a thread whose thread-locals are gone.
    pub(crate) fn this() -> Self {
        Self { number: thread_number(), process: process::id() }
    }

    /// Whether it was left behind by a fork.
    pub(crate) fn is_left_behind(self) -> bool {
        self.process != process::id()
    }
}

/// A thread that waits, and for whom.
pub(super) type Wait = (ThreadId, ThreadId);

pub(super) static WAITS: Mutex<Vec<Wait>> = Mutex::new(Vec::new());

pub(super) fn lock() -> MutexGuard<'static, Vec<Wait>> {
    hold(&WAITS)
}

/// This thread has done what others wait for. The caller has the lock that they wait under. Those that have not
/// run since count as waiting no more, so this thread may wait for them. If one waits for something else of this
/// thread, it enters that wait again at its next turn.
pub(super) fn has_come() {
    let me = ThreadId::this();
    lock().retain(|(_, whom)| *whom != me);
}

/// The longest sleep, so that a deadlock that arises during it is found.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Why a wait has ended in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The other thread waits for this one.
    Deadlock,
    TimeIsUp,
}

/// How often a circle of waits has to be found again, and after how long.
const CONFIRMED: usize = 3;
const A_MOMENT: Duration = Duration::from_millis(2);

impl Why {
    /// What it is for `TimeIsUp` is the caller's to say.
    pub(crate) fn deadlock(what: &str) -> Error {
        error!(
            libc::EDEADLK,
            "{what}, and that thread waits for this one, or for a lock that this one has: release it \
             first, or call from elsewhere"
        )
    }
}

/// A wait of this thread, turn by turn. Between two turns the caller looks whether it has to go on.
#[derive(Default)]
pub(crate) struct Waiting {
    deadline: Option<Instant>,
    /// The thread that was found to wait for this one, at how many looks, and when the next look counts.
    circle: Option<(ThreadId, usize, Instant)>,
}

impl Waiting {
    pub(crate) fn until(deadline: Option<Instant>) -> Self {
        Self { deadline, circle: None }
    }

    /// One turn of a wait for `whom`, who will notify `changed`: until then, or for a moment.
    pub(super) fn turn<'a, T>(
        &mut self,
        changed: &Condvar,
        guard: MutexGuard<'a, T>,
        whom: ThreadId,
    ) -> Result<MutexGuard<'a, T>, Why> {
        let left = self.deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let left = left.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN);
        if left.is_zero() {
            return Err(Why::TimeIsUp);
        }
        let Some(mut waits) = self.look(whom)? else { return Ok(moment(changed, guard)) };
        let me = ThreadId::this();
        waits.push((me, whom));
        drop(waits);
        let slept = changed.wait_timeout(guard, left);
        let mut waits = lock();
        waits.retain(|(waiter, _)| *waiter != me);
        Ok(slept.unwrap_or_else(PoisonError::into_inner).0)
    }

    /// `Deadlock` if `whom` waits for this thread. If it does not, the list is returned locked, so that this
    /// thread's wait is entered in the same step: of two threads that would wait for each other only one waits.
    /// `None` if that is uncertain: what the kernel says of a running thread is put together from several
    /// moments, and only a real circle stays. Then others must get the caller's lock for a [`moment`].
    pub(super) fn look(
        &mut self,
        whom: ThreadId,
    ) -> Result<Option<MutexGuard<'static, Vec<Wait>>>, Why> {
        let waits = lock();
        if !waits_for(&waits, whom, ThreadId::this()) {
            self.circle = None;
            return Ok(Some(waits));
        }
        let now = Instant::now();
        let before = self.circle.filter(|(of, ..)| *of == whom);
        let (_, looks, next) = before.unwrap_or((whom, 0, now));
        if now >= next {
            self.circle = Some((whom, looks + 1, now + A_MOMENT));
        }
        if looks < CONFIRMED || now < next { Ok(None) } else { Err(Why::Deadlock) }
    }
}

/// Lets others have the guard's lock, until `changed` is notified or for a moment.
pub(super) fn moment<'a, T>(changed: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    changed.wait_timeout(guard, A_MOMENT).unwrap_or_else(PoisonError::into_inner).0
}

/// Whether `from` waits for `to`, through however many others.
fn waits_for(waits: &[Wait], from: ThreadId, to: ThreadId) -> bool {
    let mut at = from;
    // There is no circle without `to`: the thread that would have closed it was refused.
    for _ in 0..100 {
        if at == to {
            return true;
        }
        let known = waits.iter().find(|(waiter, _)| *waiter == at).map(|(_, whom)| *whom);
        match known.or_else(|| sleeps_for(at)) {
            Some(next) => at = next,
            None => return false,
        }
    }
    false
}

/// The thread that has what `thread` sleeps for, as far as the kernel and the C library say.
fn sleeps_for(thread: ThreadId) -> Option<ThreadId> {
    // futex(2): those that sleep.
    const WAIT: u64 = 0;
    const WAIT_BITSET: u64 = 9;
    const PRIVATE: u64 = 0x80;
    let call = fs::read_to_string(format!("/proc/self/task/{}/syscall", thread.number)).ok()?;
    let mut words = call.split_ascii_whitespace();
    if words.next()?.parse() != Ok(libc::SYS_futex) {
        return None;
    }
    let mut word = || u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok();
    let (address, operation, value) = (word()?, word()?, word()?);
    // pthread_join(3) waits for the kernel, and so does not say that this process alone is concerned.
    let may_join = operation & PRIVATE == 0;
    let operation = operation & 0x7f;
    if operation != WAIT && operation != WAIT_BITSET {
        return None;
    }
    // By the kernel: the thread may have gone on, and the word with it.
    let mut bytes = [0; 20];
    File::open("/proc/thread-self/mem").ok()?.read_exact_at(&mut bytes, address).ok()?;
    let word = |n: usize| {
        let bytes = bytes[4 * n..4 * n + 4].try_into().expect("four of them");
        i32::from_ne_bytes(bytes)
    };
    // pthread_mutex_t, of 64-bit systems: lock, count, owner, users, kind.
    const CONTENDED: i32 = 2;
    let (owner, users, kind) = (word(2), word(3), word(4));
    let is_mutex = word(0) == CONTENDED && users > 0 && (0..0x400).contains(&kind);
    let number = match is_mutex {
        true => owner,
        // A thread's number, which the kernel clears at its end.
        false => {
            let number = (may_join && value as i32 == word(0)).then_some(word(0));
            number.filter(|&number| number > CONTENDED)?
        }
    };
    let lives = number > 0 && fs::exists(format!("/proc/self/task/{number}")).ok()?;
    lives.then_some(ThreadId { number, ..thread })
}
