//! The places of modules: where they are, and where they were.
//!
//! Writers have a lock. Readers may be signal handlers: they take no lock and no memory, and wait for nobody,
//! not even for a writer that they have interrupted. What they read is in memory that is
//! never given back.
//!
//! # The orderings
//!
//! An entry has a version and two plates; plate `version & 1` is the current one. A writer fills the
//! other, and then adds 1 to the version. So a reader who has interrupted a writer finds the plate from
//! before, whole. A reader is disturbed only by two writings during one reading, and sees that:
//!
//! - *What was published is read whole.* The writer's Release store of version `v` comes after its words. A
//!   reader whose Acquire load finds `v` sees those words, or later ones.
//! - *Later ones are noticed.* The words of version `v + 2` go where those of `v` are. Their writer has
//!   stored version `v + 1` before, and a Release fence stands between that store and the words. If a
//!   reader's load finds one of those words, then its Acquire fence, which follows its loads, pairs
//!   with that fence, and its second look at the version finds `v + 1` or more.
//!
//! The tables of symbols are freed when their entry is given to another module. A reader has them read by
//! the kernel, which answers for memory that is not there, and then looks at the version: if that is still
//! the same the entry had not been given away, since giving it away is a writing.

use super::AfterUnload;
use crate::host::error::last_errno;
use crate::host::locks::hold;
use crate::host::object::elf::Symbols;
use crate::host::object::linked::{Place, page_size};
use crate::host::object::open::Object;
use std::collections::VecDeque;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering::*, fence};
use std::sync::{Arc, Mutex, MutexGuard};
use std::{mem, ptr};

/// How many that were unloaded are known.
const KEPT: usize = 64;

/// What is known of a place. The debuggers' script reads it, too: `VERSION` tells it what is where.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Plate {
    /// Later ones have higher ones; 0: there is nothing.
    serial: u64,
    pub(super) state: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    /// What the symbols' values are relative to.
    pub(super) base: u64,
    /// Nanoseconds of the monotonic clock.
    pub(super) loaded: u64,
    pub(super) unloaded: u64,
    /// Who unloaded it.
    pub(super) thread: u64,
    pub(super) symbols: [u64; 2],
    pub(super) names: [u64; 2],
    id_len: u64,
    id: [u8; 32],
    name: [u8; 56],
    file: [u8; 96],
    thread_name: [u8; 16],
}

/// It is in service, or on its way in or out.
pub(super) const LIVE: u64 = 1;
/// It was unloaded, and its code was still mapped.
pub(super) const MAPPED: u64 = 2;
/// It was unloaded, and its range is taken.
pub(super) const GONE: u64 = 3;

const WORDS: usize = size_of::<Plate>() / 8;

fn text(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// As much of `from` as there is room for.
fn put(from: &[u8], to: &mut [u8]) -> u64 {
    let n = from.len().min(to.len());
    to[..n].copy_from_slice(&from[..n]);
    n as u64
}

impl Plate {
    // SAFETY: integers, which may be 0.
    const NOTHING: Self = unsafe { mem::zeroed() };

    /// Of what is in this place, of which nothing is known but what the linker says.
    fn of(place: &Place) -> Self {
        let mut plate = Self { state: LIVE, ..Self::NOTHING };
        (plate.start, plate.end) = (place.range.start as u64, place.range.end as u64);
        plate.base = place.base as u64;
        let file = Path::new(&place.name).file_name().unwrap_or_default();
        put(file.as_bytes(), &mut plate.file);
        plate
    }

    pub(super) fn build_id(&self) -> &[u8] {
        &self.id[..self.id_len as usize]
    }

    pub(super) fn name(&self) -> &[u8] {
        text(&self.name)
    }

    pub(super) fn file(&self) -> &[u8] {
        text(&self.file)
    }

    pub(super) fn thread_name(&self) -> &[u8] {
        text(&self.thread_name)
    }
}

#[repr(C)]
pub(super) struct Entry {
    version: AtomicU64,
    plates: [[AtomicU64; WORDS]; 2],
}

impl Entry {
    fn write(&self, plate: &Plate) {
        // SAFETY: as many words as the plate has, which is made of integers without gaps.
        let words: [u64; WORDS] = unsafe { mem::transmute(*plate) };
        // Relaxed: nobody else writes.
        let next = self.version.load(Relaxed) + 1;
        // Between the store of the last version and these words.
        fence(Release);
        for (to, word) in self.plates[next as usize & 1].iter().zip(words) {
            to.store(word, Relaxed);
        }
        self.version.store(next, Release);
    }

    fn read(&self) -> (u64, Plate) {
        let mut version = self.version.load(Acquire);
        loop {
            let at = &self.plates[version as usize & 1];
            let mut words = [0; WORDS];
            words.iter_mut().zip(at).for_each(|(to, word)| *to = word.load(Relaxed));
            // SAFETY: integers without gaps.
            let plate = unsafe { mem::transmute::<[u64; WORDS], Plate>(words) };
            if self.is_at(version) {
                return (version, plate);
            }
            // Two modules have come or gone meanwhile: nobody whom we have interrupted.
            version = self.version.load(Acquire);
        }
    }

    /// Whether what was read of this version before is whole.
    fn is_at(&self, version: u64) -> bool {
        fence(Acquire);
        // Relaxed: the fence orders it.
        self.version.load(Relaxed) == version
    }
}

/// Of a place that was found.
pub(super) struct Found {
    entry: &'static Entry,
    version: u64,
    pub(super) plate: Plate,
}

impl Found {
    /// Whether what the plate points to was that place's until now.
    pub(super) fn is_current(&self) -> bool {
        self.entry.is_at(self.version)
    }
}

/// All entries: chunk `n` has 64 << n of them.
#[repr(C)]
pub struct Places {
    version: u64,
    chunks: [AtomicPtr<Entry>; 16],
}

/// Of what is in `Places`, `Entry` and `Plate`.
const VERSION: u64 = 1;
const FIRST: usize = 64;

/// The only ones.
pub static PLACES: Places =
    Places { version: VERSION, chunks: [const { AtomicPtr::new(ptr::null_mut()) }; 16] };

impl Places {
    fn entries(&self) -> impl Iterator<Item = &'static Entry> {
        self.chunks.iter().enumerate().flat_map(|(n, chunk)| {
            // Acquire pairs with the Release store of `entry`.
            let chunk = chunk.load(Acquire);
            let len = if chunk.is_null() { 0 } else { FIRST << n };
            // SAFETY: a chunk is that long, and stays.
            (0..len).map(move |at| unsafe { &*chunk.add(at) })
        })
    }

    /// The entry of this number. The caller writes.
    fn entry(&self, number: usize) -> &'static Entry {
        let n = (number / FIRST + 1).ilog2() as usize;
        let (first, len) = (FIRST * ((1 << n) - 1), FIRST << n);
        // Relaxed: it was stored under the lock.
        let mut chunk = self.chunks[n].load(Relaxed);
        if chunk.is_null() {
            let zero = || Entry {
                version: AtomicU64::new(0),
                plates: [const { [const { AtomicU64::new(0) }; WORDS] }; 2],
            };
            let fresh: Vec<_> = std::iter::repeat_with(zero).take(len).collect();
            chunk = fresh.leak().as_mut_ptr();
            // Release: whoever finds the chunk finds it zeroed.
            self.chunks[n].store(chunk, Release);
        }
        // SAFETY: a chunk is that long, and stays.
        unsafe { &*chunk.add(number - first) }
    }
}

/// The place that an address is in, if it is one's. Async-signal-safe.
pub(super) fn find(address: usize) -> Option<Found> {
    let mut found: Option<Found> = None;
    for entry in PLACES.entries() {
        // A first look, at the serial number alone. Acquire pairs with the Release store of the version in
        // `write`, so the number is of this version or a later one. If it is 0, the entry was empty at this
        // version, or somebody is emptying it. If it is not, `read` looks again, hence Relaxed.
        let at = &entry.plates[entry.version.load(Acquire) as usize & 1];
        if at[0].load(Relaxed) == 0 {
            continue;
        }
        let (version, plate) = entry.read();
        let is_in = (plate.start..plate.end).contains(&(address as u64));
        if is_in && found.as_ref().is_none_or(|found| found.plate.serial < plate.serial) {
            found = Some(Found { entry, version, plate });
        }
    }
    found
}

/// What writers know beside.
pub(crate) struct Writers {
    serial: u64,
    free: Vec<usize>,
    /// What the entries point to, of each that was ever in use.
    symbols: Vec<Option<Arc<Symbols>>>,
    /// Those that were unloaded, the oldest first.
    unloaded: VecDeque<usize>,
}

pub(crate) static WRITERS: Mutex<Writers> = Mutex::new(Writers {
    serial: 0,
    free: Vec::new(),
    symbols: Vec::new(),
    unloaded: VecDeque::new(),
});

/// Held for moments, while no other lock is taken.
pub(super) fn lock() -> MutexGuard<'static, Writers> {
    hold(&WRITERS)
}

impl Writers {
    fn add(&mut self, plate: &Plate, symbols: Option<Arc<Symbols>>) -> usize {
        let number = self.free.pop().unwrap_or_else(|| {
            self.symbols.push(None);
            self.symbols.len() - 1
        });
        self.serial += 1;
        PLACES.entry(number).write(&Plate { serial: self.serial, ..*plate });
        self.symbols[number] = symbols;
        number
    }

    /// Adds the place of one that was unloaded.
    fn bury(&mut self, plate: &Plate, range: Range<usize>, symbols: Option<Arc<Symbols>>) {
        let (start, end) = (range.start as u64, range.end as u64);
        let number = self.add(&Plate { start, end, ..*plate }, symbols);
        self.unloaded.push_back(number);
    }

    /// Adds what was taken of the places of objects that were no modules, and have gone `with` one, or alone.
    fn bury_all(&mut self, gone: Vec<(&Place, Vec<Range<usize>>)>, with: &Plate) {
        let Plate { loaded, unloaded, thread, thread_name, name, .. } = *with;
        let with = |of| Plate { state: GONE, loaded, unloaded, thread, thread_name, name, ..of };
        for (place, taken) in gone {
            let plate = with(Plate::of(place));
            for range in taken {
                self.bury(&plate, range, None);
            }
        }
    }

    fn remove(&mut self, number: usize) {
        let entry = PLACES.entry(number);
        let (_, plate) = entry.read();
        entry.write(&Plate::NOTHING);
        if plate.state == GONE {
            let (start, len) = (plate.start as usize, (plate.end - plate.start) as usize);
            // SAFETY: a range that was taken by us, and in which nobody has anything.
            unsafe { libc::munmap(start as *mut _, len) };
        }
        self.symbols[number] = None;
        self.free.push(number);
    }

    /// Of what was unloaded the newest are kept.
    fn forget_oldest(&mut self) {
        while self.unloaded.len() > KEPT {
            let oldest = self.unloaded.pop_front().expect("there are some");
            self.remove(oldest);
        }
    }

    /// Takes out what was unloaded, left mapped, and begins there.
    fn forget(&mut self, start: u64) {
        let is_it = |&number: &usize| {
            let (_, plate) = PLACES.entry(number).read();
            (plate.state, plate.start) == (MAPPED, start)
        };
        if let Some(at) = self.unloaded.iter().position(is_it) {
            let number = self.unloaded.remove(at).expect("found just now");
            self.remove(number);
        }
    }
}

/// What was left mapped there has gone since.
pub(crate) fn forget(place: &Place) {
    lock().forget(place.range.start as u64);
}

pub(super) fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the place is ours. The call is async-signal-safe.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

pub(super) fn this_thread() -> (u64, [u8; 16]) {
    let mut name = [0; 16];
    // SAFETY: the kernel writes 16 bytes.
    let tid = unsafe {
        libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr());
        libc::syscall(libc::SYS_gettid)
    };
    (tid as u64, name)
}

/// The entry of an object that is loaded.
pub(crate) struct Stone(usize);

impl Stone {
    /// Of a module that has just been loaded from `path`.
    pub(crate) fn of(name: &str, path: &Path, object: &Object) -> Self {
        let (place, facts) = (&object.place, &object.facts);
        let symbols = facts.symbols.clone();
        let at = |bytes: &[u8]| [bytes.as_ptr() as u64, bytes.len() as u64];
        let (table, names) = (at(&symbols.table), at(&symbols.names));
        let mut plate = Plate { symbols: table, names, loaded: now(), ..Plate::of(place) };
        plate.file = [0; 96];
        put(path.file_name().unwrap_or_default().as_bytes(), &mut plate.file);
        plate.id_len = put(&facts.build_id, &mut plate.id);
        put(name.as_bytes(), &mut plate.name);
        Self(lock().add(&plate, Some(symbols)))
    }

    /// The object was closed, and is `mapped` still, or not; and what was brought along and has `gone`.
    pub(crate) fn unloaded(&self, place: &Place, mapped: bool, gone: &[Place], after: AfterUnload) {
        let taken = match (mapped, after) {
            (true, _) => vec![place.range.clone()],
            (false, AfterUnload::Trap) => take(place.range.clone()),
            (false, _) => Vec::new(),
        };
        let gone = gone.iter().filter(|_| after == AfterUnload::Trap);
        let gone: Vec<_> = gone.map(|place| (place, take(place.range.clone()))).collect();
        let is_known = !taken.is_empty() || !gone.is_empty();
        let (thread, thread_name) = if is_known { this_thread() } else { (0, [0; 16]) };
        let unloaded = now();
        let mut writers = lock();
        let (_, plate) = PLACES.entry(self.0).read();
        let plate = Plate { state: GONE, unloaded, thread, thread_name, ..plate };
        let symbols = writers.symbols[self.0].clone();
        if mapped {
            // The same object, which was loaded again where it was left.
            writers.forget(plate.start);
        }
        for range in taken {
            let state = if mapped { MAPPED } else { GONE };
            writers.bury(&Plate { state, ..plate }, range, symbols.clone());
        }
        writers.bury_all(gone, &plate);
        writers.remove(self.0);
        writers.forget_oldest();
    }
}

/// Objects that were no modules have been unmapped, by this thread.
pub(crate) fn bury(gone: &[Place]) {
    let taken: Vec<_> = gone.iter().map(|place| (place, take(place.range.clone()))).collect();
    let ((thread, thread_name), unloaded) = (this_thread(), now());
    let mut writers = lock();
    writers.bury_all(taken, &Plate { unloaded, thread, thread_name, ..Plate::NOTHING });
    writers.forget_oldest();
}

/// Takes what nobody has of a range, without access (T1); says which parts.
fn take(range: Range<usize>) -> Vec<Range<usize>> {
    // Linux 4.17. Older kernels take the address for a hint.
    let flags =
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED_NOREPLACE;
    let (mut taken, mut left): (Vec<Range<usize>>, _) = (Vec::new(), vec![range]);
    // Whoever has many small pieces of it has the rest, too.
    for _ in 0..64 {
        let Some(range) = left.pop() else { break };
        let (start, len) = (range.start as *mut _, range.len());
        // SAFETY: memory that nobody has; see the flag.
        let at = unsafe { libc::mmap(start, len, libc::PROT_NONE, flags, -1, 0) };
        if at == start {
            match taken.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => taken.push(range),
            }
        } else if at != libc::MAP_FAILED {
            // SAFETY: taken just now, elsewhere.
            unsafe { libc::munmap(at, len) };
        } else if last_errno() == libc::EEXIST && len > page_size() {
            let middle = range.start + (len / page_size()).div_ceil(2) * page_size();
            left.push(middle..range.end);
            left.push(range.start..middle);
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    /// Each reading is of one writing.
    #[test]
    fn a_plate_is_read_whole() {
        let entry = Entry {
            version: AtomicU64::new(0),
            plates: [const { [const { AtomicU64::new(0) }; WORDS] }; 2],
        };
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for n in 0..200_000_u64 {
                    // SAFETY: integers without gaps.
                    entry.write(&unsafe { mem::transmute::<[u64; WORDS], Plate>([n; WORDS]) });
                }
                done.store(true, Relaxed);
            });
            let mut last = 0;
            while !done.load(Relaxed) {
                let (_, plate) = entry.read();
                // SAFETY: as above.
                let words: [u64; WORDS] = unsafe { mem::transmute(plate) };
                assert_eq!(words, [words[0]; WORDS]);
                assert!(words[0] >= last, "the newest, or the one before");
                last = words[0];
            }
        });
    }
}
