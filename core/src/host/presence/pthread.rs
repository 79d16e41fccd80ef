//! What the C library knows of threads. It describes its records of threads for debuggers
//! (libthread_db); by that we find a thread's start function and its values of keys.

use super::going::{Map, Spot};
use super::words::{WORD, read, read_words};
use std::ffi::{CStr, c_char};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Where things are in a thread's record, `struct pthread`.
struct Layout {
    /// The head of its list of robust mutexes, whose address the kernel knows.
    robust: usize,
    size: usize,
    tid: usize,
    start: usize,
    /// Pointers to its values, 32 of them each.
    values: usize,
    /// All keys: a number, odd while the key is in use, and the destructor.
    keys: usize,
}

/// Keys, and values of one block.
const KEYS: usize = 1024;
const BLOCK: usize = 32;

pub(super) fn symbol(name: &CStr) -> Option<*const u32> {
    // SAFETY: a name.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if found.is_null() {
        // Clears the dynamic linker's error, which the program may look at.
        // SAFETY: has no requirements.
        unsafe { libc::dlerror() };
    }
    (!found.is_null()).then_some(found.cast())
}

/// A member's place: its size in bits, how many there are, and its offset.
fn offset(name: &CStr) -> Option<usize> {
    // SAFETY: the description of a member is three numbers.
    symbol(name).map(|description| unsafe { *description.add(2) } as usize)
}

/// The size of one of its types.
fn size(name: &CStr) -> Option<usize> {
    // SAFETY: it is one number.
    symbol(name).map(|size| unsafe { *size } as usize)
}

fn robust_list(tid: i32) -> Option<usize> {
    let (mut head, mut len) = (0usize, 0usize);
    // SAFETY: the kernel writes the two.
    let rc = unsafe { libc::syscall(libc::SYS_get_robust_list, tid, &raw mut head, &raw mut len) };
    (rc == 0 && head != 0).then_some(head)
}

impl Layout {
    fn find() -> Option<Self> {
        // SAFETY: have no requirements.
        let (this, tid) = unsafe { (libc::pthread_self() as usize, libc::gettid()) };
        let layout = Self {
            robust: robust_list(0)?.checked_sub(this)?,
            size: size(c"_thread_db_sizeof_pthread")?,
            tid: offset(c"_thread_db_pthread_tid")?,
            start: offset(c"_thread_db_pthread_start_routine")?,
            values: offset(c"_thread_db_pthread_specific")?,
            keys: symbol(c"__pthread_keys")? as usize,
        };
        let pairs =
            [c"_thread_db_sizeof_pthread_key_struct", c"_thread_db_sizeof_pthread_key_data"];
        let is_known = pairs.into_iter().all(|pair| size(pair) == Some(2 * WORD))
            && size(c"_thread_db_sizeof_pthread_key_data_level2") == Some(BLOCK * 2 * WORD)
            && layout.robust < layout.size
            && layout.has_tid(this, tid);
        is_known.then_some(layout)
    }

    fn has_tid(&self, record: usize, tid: i32) -> bool {
        let mut there = [0; 4];
        read(record + self.tid, &mut there) == Ok(4) && there == tid.to_ne_bytes()
    }

    fn get() -> Option<&'static Self> {
        static LAYOUT: OnceLock<Option<Layout>> = OnceLock::new();
        if LAYOUT.get().is_none() {
            // Not in the lock's own function: dlsym takes the linker's lock (H6).
            let _ = LAYOUT.set(Self::find());
        }
        LAYOUT.get().and_then(Option::as_ref)
    }
}

/// A thread's record.
#[derive(Clone, Copy)]
pub(super) struct Record(usize, &'static Layout);

impl Record {
    /// The record of a living thread that the C library knows.
    pub(super) fn of(tid: i32) -> Option<Self> {
        let layout = Layout::get()?;
        let record = robust_list(tid)?.checked_sub(layout.robust)?;
        layout.has_tid(record, tid).then_some(Self(record, layout))
    }

    /// Where it ends.
    pub(super) fn end(self) -> usize {
        self.0 + self.1.size
    }

    /// The function that the thread was started with, and the argument, which lies behind it.
    pub(super) fn start(self) -> [usize; 2] {
        let mut start = [0; 2];
        let _ = read_words(self.0 + self.1.start, &mut start);
        start
    }

    /// The thread's value of a key. 0: it had a value, whose destructor has been called, or is running.
    pub(super) fn value(self, key: &Key<'_>) -> Option<usize> {
        let block = word(self.0 + self.1.values + key.index / BLOCK * WORD).unwrap_or(0);
        let mut value = [0; 2];
        let is_there =
            block != 0 && read_words(block + key.index % BLOCK * 2 * WORD, &mut value) == Ok(2);
        (is_there && value[0] == key.number).then_some(value[1])
    }
}

fn word(at: usize) -> Option<usize> {
    let mut word = [0];
    (read_words(at, &mut word) == Ok(1)).then_some(word[0])
}

/// A key whose destructor is in what would go.
pub(super) struct Key<'a> {
    index: usize,
    number: usize,
    pub(super) destructor: Spot<'a>,
}

pub(super) fn keys<'a>(map: &Map<'a>) -> Vec<Key<'a>> {
    let Some(layout) = Layout::get() else { return Vec::new() };
    let key = |index: usize| {
        let key = (layout.keys + index * 2 * WORD) as *const AtomicUsize;
        // Relaxed: the key was created in the module, whose release has ordered that before this.
        // SAFETY: the C library's table, which other threads may write.
        let (number, destructor) = unsafe { ((*key).load(Relaxed), (*key.add(1)).load(Relaxed)) };
        let destructor = map.code(destructor).filter(|_| number & 1 == 1)?;
        Some(Key { index, number, destructor })
    };
    (0..KEYS).filter_map(key).collect()
}

/// Where a thread's own stack ends. It is the end of the thread's record, except for the first thread, which
/// nothing was started with. That a thread has the number of the process does not make it the first one: so
/// has one that forked.
pub(super) fn stack_end(tid: i32, record: Option<Record>) -> Option<usize> {
    match record {
        Some(record) if record.start()[0] != 0 => Some(record.end()),
        None if tid as u32 != std::process::id() => None,
        // SAFETY: the linker's, written before anything runs.
        _ => symbol(c"__libc_stack_end").map(|end| unsafe { *end.cast() }),
    }
}

/// Whether the C library knows that this is the only thread.
pub(super) fn is_alone() -> bool {
    symbol(c"__libc_single_threaded").is_some_and(|alone| {
        // SAFETY: a byte of the C library's, which other threads may write only if there are some.
        unsafe { ptr::read_volatile(alone.cast::<c_char>()) != 0 }
    })
}
