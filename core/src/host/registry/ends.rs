//! The true ends of threads.
//!
//! What a thread gives back "at its end" is given back when only the C library's and the kernel's code
//! can still run in the thread. A destructor of our own cannot tell that moment. Destructors of C++'s
//! `thread_local` run first, and then those of keys, in several rounds, in the order of the keys'
//! numbers. So the destructor of a key that is made after ours, or that gets a value in the last round,
//! runs after ours.
//!
//! **N1, the kernel tells.** The thread locks a robust mutex and never unlocks it. When the thread has
//! left user space for good, the kernel marks its mutexes, and the next attempt to lock one returns
//! `EOWNERDEAD`. This is never early. A thread that was joined is always found ended, because the kernel
//! marks the mutexes before it lets the joiner go. The thread's number will not do (`tgkill`, `/proc`):
//! it may become another thread's, and the main thread keeps its number after its end. Descriptors of
//! threads are newer than the oldest kernel that we run on.
//!
//! **N2, who looks.** A look is one attempt to lock. Calls of hosts look, and so does a thread of the
//! library, the looker, which exists while there is a thread to look at. Its pauses double, and begin
//! anew when a thread is about to end.
//!
//! **N3, who is on the list.** A thread comes on the list when our destructor runs in it: it is about to
//! end. A thread that asks for something to be given back comes on the list at once, because it may be
//! in its last destructors already, after ours.

use crate::counter::held;
use crate::counter::word::REF;
use crate::errno::{checked, kept};
use crate::host::locks::hold;
use crate::host::object::linked::stay;
use crate::host::object::{thread_number, thread_title};
use crate::sync::{Word, address, forks, name_thread, spawn};
use crate::tool;
use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::mem::{self, MaybeUninit};
use std::path::Path;
use std::ptr;
use std::sync::atomic::Ordering::*;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// A function to call at the end of a thread, and its argument.
pub type Put = unsafe fn(*const c_void);

/// What a thread leaves behind, on the heap. Until the thread has ended, only the thread itself uses it,
/// except for the mutex.
struct Ending {
    mutex: UnsafeCell<libc::pthread_mutex_t>,
    puts: Vec<(Put, *const c_void)>,
    /// The threads of the module that started this thread, and this thread's number.
    of: Option<(Arc<Threads>, libc::pid_t)>,
    listed: bool,
    /// How many forks there had been: a child's threads have other numbers, by which the kernel knows
    /// who has locked it.
    forks: u32,
    /// In how many rounds our destructor has run, if a tool watches.
    rounds: u32,
}

/// An entry of the list, and how many forks there had been. The pointer comes from a box.
struct Listed(*mut Ending, u32);

// SAFETY: until its thread has ended, other threads use only the mutex. Any thread may put references.
unsafe impl Send for Listed {}

#[derive(Default)]
pub(super) struct List {
    endings: Vec<Listed>,
    /// Whether there is a looker, and how many forks there had been when it began.
    looks: Option<u32>,
    /// The threads that modules have started, by their numbers.
    started: Vec<(Arc<Threads>, libc::pid_t)>,
}

pub(super) static LIST: Mutex<List> =
    Mutex::new(List { endings: Vec::new(), looks: None, started: Vec::new() });

/// Set when a thread is about to end.
static RUNG: Condvar = Condvar::new();

/// The first pause between two looks.
const FIRST: Duration = Duration::from_micros(20);

const LONGEST: Duration = Duration::from_secs(3600);

fn lock() -> MutexGuard<'static, List> {
    hold(&LIST)
}

impl Ending {
    /// Makes this thread's own, and locks the mutex. `Err` is an errno.
    fn begin() -> Result<Box<Self>, c_int> {
        // A sandbox may have refused to register this thread's list of robust mutexes. The C library
        // does not tell, and the kernel would never mark the mutex.
        let (mut head, mut size) = (ptr::null::<c_void>(), 0usize);
        // SAFETY: the places are ours.
        let asked = checked(|| unsafe {
            libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut size)
        });
        if asked.is_ok() && head.is_null() {
            return Err(libc::ENOTSUP);
        }
        let mutex = UnsafeCell::new(libc::PTHREAD_MUTEX_INITIALIZER);
        let (puts, forks) = (Vec::new(), forks());
        let ending = boxed(Self { mutex, puts, of: None, listed: false, forks, rounds: 0 })?;
        let check = |errno| if errno == 0 { Ok(()) } else { Err(errno) };
        let mut robust = MaybeUninit::uninit();
        // SAFETY: each is initialised before it is used. The mutex stays in its box until it is
        // destroyed.
        unsafe {
            check(libc::pthread_mutexattr_init(robust.as_mut_ptr()))?;
            libc::pthread_mutexattr_setrobust(robust.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST);
            check(libc::pthread_mutex_init(ending.mutex.get(), robust.as_ptr()))?;
            check(libc::pthread_mutex_lock(ending.mutex.get()))?;
        }
        tool::stays_locked(ending.mutex.get());
        Ok(ending)
    }

    /// Whether its thread has ended. True once. The caller holds the list's lock.
    ///
    /// # Safety
    ///
    /// It is in the list.
    unsafe fn has_ended(ending: *const Self) -> bool {
        // SAFETY: the mutex is there until the thread has ended, and then until here.
        tool::hushed(|| unsafe {
            let mutex = (*ending).mutex.get();
            if libc::pthread_mutex_trylock(mutex) != libc::EOWNERDEAD {
                return false;
            }
            // The attempt has put it on this thread's list of robust mutexes.
            libc::pthread_mutex_unlock(mutex);
            libc::pthread_mutex_destroy(mutex);
            true
        })
    }

    /// Puts it on the list, and starts a looker. `Err` is an errno: there is no looker, so only calls of
    /// hosts look; or there was no memory for the list.
    fn list(ending: *mut Self) -> Result<(), c_int> {
        let mut list = lock();
        // SAFETY: this thread's own.
        if !unsafe { (*ending).listed } {
            list.endings.try_reserve(1).map_err(|_| libc::ENOMEM)?;
            // SAFETY: as above.
            unsafe { (*ending).listed = true };
            list.endings.push(Listed(ending, forks()));
        }
        RUNG.notify_one();
        begin_to_look(list)
    }

    /// If it was made before a fork, a new one for this process, which takes over what it has. The old one
    /// stays as it is: it may be on the list, which drops it.
    fn of_this_process(old: *mut Self) -> Result<*mut Self, c_int> {
        // SAFETY: this thread's own, here and below.
        if unsafe { (*old).forks } == forks() {
            return Ok(old);
        }
        let mut new = Self::begin()?;
        // SAFETY: as above.
        let old = unsafe { &mut *old };
        new.puts = mem::take(&mut old.puts);
        new.of = old.of.take().map(|(threads, before)| {
            let now = thread_number();
            let is_it =
                |(of, n): &&mut (Arc<Threads>, _)| Arc::ptr_eq(of, &threads) && *n == before;
            lock().started.iter_mut().filter(is_it).for_each(|(_, n)| *n = now);
            (threads, now)
        });
        let new = Box::into_raw(new);
        // SAFETY: the key's values are of `Ending`. There is a value, so that no memory is needed.
        let _ = key().map(|key| unsafe { libc::pthread_setspecific(key, new.cast()) });
        Ok(new)
    }
}

/// `value` in a box, or an errno if there is no memory.
fn boxed<T>(value: T) -> Result<Box<T>, c_int> {
    let mut place = Vec::new();
    place.try_reserve_exact(1).map_err(|_| libc::ENOMEM)?;
    place.push(value);
    let place: *mut [T] = Box::into_raw(place.into_boxed_slice());
    // SAFETY: a slice of one is laid out as that one.
    Ok(unsafe { Box::from_raw(place.cast::<T>()) })
}

/// Starts the looker, if this process has none. If that fails, the next thread tries again, and calls
/// of hosts look meanwhile.
///
/// The list's lock is not held, because a new thread takes a lock of the dynamic linker's for a moment
/// (H6). So two threads may start one; the second looker ends at once.
fn begin_to_look(list: MutexGuard<'_, List>) -> Result<(), c_int> {
    let nobody_looks = list.looks != Some(forks()) && !list.endings.is_empty();
    drop(list);
    if nobody_looks {
        let thread = kept(|| spawn(look, ptr::null_mut()))?;
        // SAFETY: nobody joins it.
        unsafe { libc::pthread_detach(thread) };
    }
    Ok(())
}

impl List {
    /// Takes the entries off the list whose threads have ended. Their modules learn it under the list's
    /// lock: a later look finds a thread either on the list or counted as ended.
    fn take_ended(&mut self) -> Vec<Ending> {
        let mut ended = Vec::new();
        self.endings.retain(|&Listed(ending, since)| {
            // It is of another process, from before a fork.
            if since != forks() {
                return false;
            }
            // SAFETY: it is in the list.
            if !unsafe { Ending::has_ended(ending) } {
                return true;
            }
            // SAFETY: from a box. Its thread has ended, so it is ours.
            let ending = *unsafe { Box::from_raw(ending) };
            if let Some((threads, number)) = &ending.of {
                self.started.retain(|(of, n)| !Arc::ptr_eq(of, threads) || n != number);
                threads.one_less();
            }
            ended.push(ending);
            false
        });
        ended
    }
}

fn put(ended: Vec<Ending>) {
    for (put, what) in ended.into_iter().flat_map(|ending| ending.puts) {
        // SAFETY: the promise of `put_at_end`.
        unsafe { put(what) };
    }
}

/// Gives back what ended threads have left.
pub(crate) fn look_now() {
    let mut list = lock();
    if list.endings.is_empty() {
        return;
    }
    let ended = list.take_ended();
    // If that is refused the next call looks.
    let _ = begin_to_look(list);
    put(ended);
}

/// The looker (N2).
extern "C" fn look(_: *mut c_void) -> *mut c_void {
    name_thread();
    // All of it is the library's.
    let _call = tool::Call::that_looks();
    let (mut list, mut pause) = (lock(), FIRST);
    if list.looks == Some(forks()) {
        return ptr::null_mut();
    }
    list.looks = Some(forks());
    loop {
        let ended = list.take_ended();
        if !ended.is_empty() {
            drop(list);
            put(ended);
            list = lock();
        }
        if list.endings.is_empty() {
            list.looks = None;
            return ptr::null_mut();
        }
        let (again, waited) =
            RUNG.wait_timeout(list, pause).unwrap_or_else(PoisonError::into_inner);
        list = again;
        pause = if waited.timed_out() { LONGEST.min(pause * 2) } else { FIRST };
    }
}

/// The key of the thread-specific value, or why there is none.
fn key() -> Result<libc::pthread_key_t, c_int> {
    static KEY: OnceLock<Result<libc::pthread_key_t, c_int>> = OnceLock::new();
    if KEY.get().is_none() {
        stay();
    }
    *KEY.get_or_init(|| {
        let mut key = 0;
        // SAFETY: the destructor stays.
        match unsafe { libc::pthread_key_create(&mut key, Some(about_to_end)) } {
            0 => Ok(key),
            errno => Err(errno),
        }
    })
}

/// `PTHREAD_DESTRUCTOR_ITERATIONS` of glibc.
const ROUNDS: u32 = 4;

/// The destructor of the thread-specific value.
unsafe extern "C" fn about_to_end(value: *mut c_void) {
    let ending = value.cast::<Ending>();
    // Without memory for another one its thread has none that tells of its end: it is never early.
    let Ok(ending) = Ending::of_this_process(ending) else { return };
    if tool::is_watching() {
        // SAFETY: this thread's own, until it has ended.
        let ending = unsafe { &mut *ending };
        ending.rounds += 1;
        let is_last = ending.rounds >= ROUNDS;
        if is_last {
            tool::thread_ends();
        } else {
            // SAFETY: as above.
            let _ = key()
                .map(|key| unsafe { libc::pthread_setspecific(key, ptr::from_mut(ending).cast()) });
        }
        for (_, what) in &ending.puts {
            // Of a counter, or of what begins with one.
            tool::before(what.cast::<Word>());
        }
        if let Some((threads, _)) = &ending.of {
            tool::before(&threads.count);
        }
        if is_last {
            // It is in the list. The tool has put away what it had of this thread, so that it would
            // crash in what begins another one.
            return;
        }
    }
    // If nobody can look now, calls of hosts do.
    let _ = Ending::list(ending);
}

/// What this thread leaves, which is made if there is none. `asked`: the thread itself asks, and may be
/// about to end (N3).
fn this_thread(asked: bool) -> Result<*mut Ending, c_int> {
    let key = key();
    // SAFETY: the key's values are of `Ending`, or null.
    let ending: *mut Ending =
        key.map_or(ptr::null_mut(), |key| unsafe { libc::pthread_getspecific(key).cast() });
    let (ending, has_destructor) = if ending.is_null() {
        let new = Box::into_raw(Ending::begin()?);
        // SAFETY: as above.
        (new, key.is_ok_and(|key| unsafe { libc::pthread_setspecific(key, new.cast()) } == 0))
    } else {
        (Ending::of_this_process(ending)?, true)
    };
    if asked || !has_destructor {
        Ending::list(ending)?;
    }
    Ok(ending)
}

/// Calls `put(what)` once this thread has ended. `Err` is an errno: it will not be called.
///
/// # Safety
///
/// Any thread may then call that, once.
pub(crate) unsafe fn put_at_end(put: Put, what: *const c_void) -> Result<(), c_int> {
    // SAFETY: this thread's own.
    let puts = unsafe { &mut (*this_thread(true)?).puts };
    puts.try_reserve(1).map_err(|_| libc::ENOMEM)?;
    puts.push((put, what));
    Ok(())
}

/// The threads that a module has started, which keep its code mapped.
#[derive(Default)]
pub(crate) struct Threads {
    /// How many there are, in the unit of a counter's word, so that a drain's wait serves here too.
    count: Word,
}

impl Threads {
    /// One is about to be started, or to look at the module.
    pub(crate) fn one_more(&self) {
        // Relaxed: whoever ends the module reads the count later than this, or this is not called. A starter
        // holds a reference: if it got one, its put comes after this, and the count is read once the counter
        // is released; if the counter was released first, it got none. A look calls this under the host's
        // lock: if it comes first, the ender, which takes the module up under that lock, sees this; if the
        // ender comes first, the look is refused.
        self.count.fetch_add(REF, Relaxed);
    }

    /// One has ended, or was not started.
    pub(crate) fn one_less(&self) {
        let address = address(&self.count);
        // Release pairs with the Acquire of `word`.
        self.count.fetch_sub(REF, Release);
        address.wake_all();
    }

    /// The word to wait for. A count of zero says that all have ended.
    pub(crate) fn word(&self) -> (&Word, u64) {
        // Acquire pairs with the Release of `one_less`.
        (&self.count, self.count.load(Acquire))
    }

    /// How many have not ended.
    pub(crate) fn running(&self) -> u64 {
        held(self.word().1)
    }

    /// The numbers of those that have begun and have not ended.
    fn numbers(&self, list: &List) -> impl Iterator<Item = libc::pid_t> {
        list.started.iter().filter(|(of, _)| ptr::eq(&**of, self)).map(|&(_, number)| number)
    }

    /// Whether the calling thread is one.
    pub(crate) fn has_this(&self) -> bool {
        self.numbers(&lock()).any(|other| other == thread_number())
    }

    /// Names a thread that has not ended, for people: "thread 4711 'poller'".
    pub(crate) fn first(&self) -> String {
        let first = self.numbers(&lock()).next();
        let Some(number) = first else {
            // A look counts as one, too.
            return "a look at it, or a thread just beginning".to_owned();
        };
        thread_title(Path::new("/proc/self"), number)
    }
}

/// Makes the calling thread one of `threads`, which has counted it already. `Err` is an errno: then the count
/// stays, and keeps the module mapped.
pub(crate) fn belongs_to(threads: Arc<Threads>) -> Result<(), c_int> {
    let ending = this_thread(false)?;
    lock().started.push((threads.clone(), thread_number()));
    // SAFETY: this thread's own.
    unsafe { (*ending).of = Some((threads, thread_number())) };
    Ok(())
}
