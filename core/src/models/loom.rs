//! The loom backend: the shipped code under a model of the memory model.
//!
//! Two things are added to loom's atomics. Every change is held against the
//! state table ([`legal`]). And every access also reads a loom cell that stands
//! for the memory the word lives in, which [`Word::free`] writes: a touch that
//! is not ordered before the free is a race, and loom reports it.
//!
//! # What loom does not see
//!
//! - It treats `SeqCst` as `AcqRel`. (The counter has no `SeqCst`.)
//! - It does not explore load buffering: a load never sees a store that another thread makes only
//!   after it has seen one of this thread's later stores.
//! - If a thread loads an atomic and then stores to it, loom explores that in one order only against
//!   another thread's load. Every order is explored by the checker in `interleave`.
//! - A thread is preempted [`PREEMPTIONS`] times in one execution and no more, unless
//!   `LOOM_MAX_PREEMPTIONS` says otherwise. `interleave` has no such bound.
//! - A weak exchange never fails for no reason here. In `interleave` it does.
//!
//! The kernel's part is written down here from its documentation, and no checker tests that: the
//! futex ([`wait`]), the restartable sequence and the barrier ([`Slots`]). Of the watcher of a drain
//! its loop runs in the models. Its timer and `pthread_join` do not: a [`Flag`] stands for each. The C tests have them as they are.

use crate::counter::word::legal;
use core::cell::Cell;
use core::mem;
use core::sync::atomic::Ordering;
use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicBool;
use loom::sync::atomic::AtomicU64;
use loom::sync::{Arc, Condvar, Mutex};
use std::collections::BTreeSet;
use std::sync::{Arc as StdArc, Mutex as StdMutex};
use std::thread_local;
use std::time::Instant;

thread_local! {
    /// As the other checker's, which has a use for it.
    pub(crate) static WORD_GOES: Cell<bool> = const { Cell::new(false) };
}

pub(crate) struct Word {
    value: AtomicU64,
    memory: UnsafeCell<()>,
    sleepers: Arc<Sleepers>,
}

/// The kernel's side of a futex: it outlives the word, as the kernel does.
struct Sleepers {
    /// Whether nobody sleeps: somebody wakes them again and again.
    bucket: Mutex<bool>,
    woken: Condvar,
}

impl Word {
    pub(crate) fn new(value: u64) -> Self {
        let sleepers = Sleepers { bucket: Mutex::new(false), woken: Condvar::new() };
        Self {
            value: AtomicU64::new(value),
            memory: UnsafeCell::new(()),
            sleepers: Arc::new(sleepers),
        }
    }

    /// The word's memory goes away.
    pub(crate) fn free(&self) {
        self.memory.with_mut(|_| ());
    }

    fn changed(&self, old: u64, new: u64) -> u64 {
        if let Err(why) = legal(old, new) {
            panic!("{why}: {old:#x} to {new:#x}");
        }
        old
    }

    pub(crate) fn load(&self, order: Ordering) -> u64 {
        self.memory.with(|_| ());
        self.value.load(order)
    }

    pub(crate) fn fetch_add(&self, n: u64, order: Ordering) -> u64 {
        self.memory.with(|_| ());
        let old = self.value.fetch_add(n, order);
        self.changed(old, old.wrapping_add(n))
    }

    pub(crate) fn fetch_sub(&self, n: u64, order: Ordering) -> u64 {
        self.memory.with(|_| ());
        let old = self.value.fetch_sub(n, order);
        self.changed(old, old.wrapping_sub(n))
    }

    pub(crate) fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
        self.memory.with(|_| ());
        let old = self.value.fetch_and(bits, order);
        self.changed(old, old & bits)
    }

    pub(crate) fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        self.memory.with(|_| ());
        let old = self.value.fetch_or(bits, order);
        self.changed(old, old | bits)
    }

    pub(crate) fn fetch_xor(&self, bits: u64, order: Ordering) -> u64 {
        self.memory.with(|_| ());
        let old = self.value.fetch_xor(bits, order);
        self.changed(old, old ^ bits)
    }

    pub(crate) fn compare_exchange_weak(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        self.memory.with(|_| ());
        self.value
            .compare_exchange(current, new, success, failure)
            .map(|old| self.changed(old, new))
    }

    /// The product has no plain store after init; only a mutant calls this.
    #[allow(dead_code)]
    pub(crate) fn store(&self, new: u64, order: Ordering) {
        self.memory.with(|_| ());
        let old = self.value.swap(new, order);
        self.changed(old, new);
    }
}

pub(crate) struct Address(Arc<Sleepers>);

pub(crate) fn address(word: &Word) -> Address {
    Address(word.sleepers.clone())
}

impl Address {
    pub(crate) fn wake_all(self) {
        let bucket = self.0.bucket.lock().unwrap();
        self.0.woken.notify_all();
        drop(bucket);
    }
}

/// Wakes whoever sleeps on the word, again and again until the flag is set.
pub(crate) fn wake_until(word: &Word, flag: &Flag) {
    *word.sleepers.bucket.lock().unwrap() = true;
    word.sleepers.woken.notify_all();
    flag.take();
}

/// Something that one thread tells another: nothing, and then some bits.
pub(crate) struct Flag {
    bits: Mutex<u64>,
    changed: Condvar,
}

impl Flag {
    pub(crate) fn new() -> Self {
        Self { bits: Mutex::new(0), changed: Condvar::new() }
    }

    pub(crate) fn set(&self, bits: u64) {
        *self.bits.lock().unwrap() |= bits;
        self.changed.notify_all();
    }

    pub(crate) fn is_set(&self) -> bool {
        *self.bits.lock().unwrap() != 0
    }

    /// Waits until some are set, and takes them back.
    pub(crate) fn take(&self) -> u64 {
        let mut bits = self.bits.lock().unwrap();
        while *bits == 0 {
            bits = self.changed.wait(bits).unwrap();
        }
        mem::take(&mut *bits)
    }
}

/// A deadline passes when the model's clock thread says so.
#[derive(Clone)]
pub(crate) enum Deadline {
    Never,
    Clock(Arc<AtomicBool>),
}

impl Deadline {
    fn passed(&self) -> bool {
        match self {
            Self::Never => false,
            Self::Clock(rung) => rung.load(Ordering::Acquire),
        }
    }
}

pub(crate) fn wait(word: &Word, seen: u64, deadline: &mut Deadline) -> bool {
    if deadline.passed() {
        return false;
    }
    let bucket = word.sleepers.bucket.lock().unwrap();
    // The kernel's comparison, under its bucket lock. Relaxed, so that it lends
    // the algorithm no ordering; a stale value cannot be read here by a sleeper
    // whose waker has been and gone, because the lock orders them.
    if !*bucket && !deadline.passed() && word.value.load(Ordering::Relaxed) as u32 == seen as u32 {
        drop(word.sleepers.woken.wait(bucket).unwrap());
    }
    true
}

/// The slots of two CPUs, and a tag. Gets run on one CPU and puts on the other: every
/// thread migrates between them.
///
/// A restartable sequence holds its CPU's lock from begin to end, and the barrier takes
/// and releases the lock of each CPU: a sequence has ended before it, with what it added
/// visible, or begins after it. What of this is not in the real thing: an order between
/// two sequences on one CPU is there, too (they are on one CPU), but none between a
/// sequence and a releaser that did not call the barrier. That sequences are aborted, not
/// waited for, is what the other checker explores.
pub(crate) struct Slots {
    tag: AtomicU64,
    cpus: Vec<(Mutex<()>, AtomicU64)>,
    memory: UnsafeCell<()>,
    /// Of the second word itself.
    word_memory: UnsafeCell<()>,
    /// The first barrier fails.
    barrier_fails: AtomicBool,
}

impl Slots {
    pub(crate) fn none() -> Self {
        Self {
            tag: AtomicU64::new(0),
            cpus: Vec::new(),
            memory: UnsafeCell::new(()),
            word_memory: UnsafeCell::new(()),
            barrier_fails: AtomicBool::new(false),
        }
    }

    pub(crate) fn new(barrier_fails: bool) -> Self {
        let cpu = || (Mutex::new(()), AtomicU64::new(0));
        Self {
            tag: AtomicU64::new(ON),
            cpus: vec![cpu(), cpu()],
            memory: UnsafeCell::new(()),
            word_memory: UnsafeCell::new(()),
            barrier_fails: AtomicBool::new(barrier_fails),
        }
    }

    pub(crate) fn add<const DELTA: i64>(&self) -> bool {
        if !self.exist() {
            return false;
        }
        let (cpu, slot) = &self.cpus[usize::from(DELTA < 0)];
        let _sequence = cpu.lock().unwrap();
        let on = self.tag.load(TAG_IN_SEQUENCE) & ON != 0;
        if on {
            self.memory.with(|_| ());
            // Plain: nobody else writes this slot.
            let old = slot.load(Ordering::Relaxed);
            slot.store(old.wrapping_add(DELTA as u64), Ordering::Relaxed);
        }
        on
    }

    pub(crate) fn exist(&self) -> bool {
        // A look at the second word, which has to be there.
        self.word_memory.with(|_| ());
        !self.cpus.is_empty()
    }

    pub(crate) fn are_on(&self) -> bool {
        self.tag.load(Ordering::Relaxed) & ON != 0
    }

    /// Loom orders read-modify-writes as they are executed, and would not see an attempt that is not
    /// ordered after the one before; so the tag is stored. Owners alone do that.
    fn set_tag(&self, tag: u64, order: Ordering) {
        self.word_memory.with(|_| ());
        self.tag.store(tag, order);
    }

    pub(crate) fn turn_off(&self) {
        self.set_tag(0, Ordering::Relaxed);
    }

    pub(crate) fn turn_on(&self) {
        self.set_tag(ON, Ordering::Release);
    }

    pub(crate) fn barrier(&self) -> Result<(), i32> {
        if self.barrier_fails.swap(false, Ordering::Relaxed) {
            return Err(1);
        }
        for (cpu, _) in &self.cpus {
            drop(cpu.lock().unwrap());
        }
        Ok(())
    }

    pub(crate) fn sum(&self) -> i64 {
        self.cpus
            .iter()
            .fold(0i64, |sum, (_, slot)| sum.wrapping_add(slot.load(Ordering::Relaxed) as i64))
    }

    pub(crate) fn free(&self) {
        self.memory.with_mut(|_| ());
    }

    /// The memory of the second word goes away.
    pub(crate) fn free_word(&self) {
        self.word_memory.with_mut(|_| ());
    }
}

/// The bit of the tag, as in the real thing.
const ON: u64 = 1;

/// The order of the look at the tag in a sequence: pairs with the Release of `turn_on`.
const TAG_IN_SEQUENCE: Ordering = Ordering::Acquire;

/// Memory that only reference holders read and only the winner of a release
/// writes: loom reports an unordered pair as a race.
pub(crate) struct Data(UnsafeCell<bool>);

impl Data {
    pub(crate) fn new() -> Self {
        Self(UnsafeCell::new(true))
    }

    /// Whether the data is good.
    pub(crate) fn read(&self) -> bool {
        // SAFETY: loom has checked that no write is concurrent.
        self.0.with(|good| unsafe { *good })
    }

    pub(crate) fn write(&self, good: bool) {
        // SAFETY: loom has checked that no access is concurrent.
        self.0.with_mut(|place| unsafe { *place = good });
    }
}

/// A number that threads of a model leave behind for the end of it.
pub(crate) struct Tally(AtomicU64);

impl Tally {
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

pub(crate) use loom::sync::Arc as Shared;
pub(crate) use loom::sync::atomic::{AtomicPtr as Pointer, AtomicU64 as Bits};
pub(crate) use loom::thread::yield_now as look_again;

/// One execution of a model: its threads and how it ends.
pub(crate) struct Setup {
    threads: Vec<Box<dyn Fn()>>,
}

impl Setup {
    pub(crate) fn thread(&mut self, body: impl Fn() + 'static) {
        self.threads.push(Box::new(body));
    }

    /// A deadline for a drain of `word` that may pass at any moment.
    pub(crate) fn deadline(&mut self, word: &Word) -> Deadline {
        let rung = Arc::new(AtomicBool::new(false));
        let (bell, sleepers) = (rung.clone(), word.sleepers.clone());
        self.thread(move || {
            bell.store(true, Ordering::Release);
            Address(sleepers.clone()).wake_all();
        });
        Deadline::Clock(rung)
    }
}

/// Runs `scenario` in every way that loom distinguishes. The scenario adds
/// its threads and returns what runs after them, which names the outcome; the
/// result is the set of outcomes seen.
pub(crate) fn explore<F, E>(name: &str, scenario: F) -> BTreeSet<String>
where
    F: Fn(&mut Setup) -> E + Send + Sync + 'static,
    E: Fn() -> String + 'static,
{
    let began = Instant::now();
    // Of the set of outcomes and the number of executions.
    let seen = StdArc::new(StdMutex::new((BTreeSet::new(), 0)));
    let mut builder = loom::model::Builder::new();
    if builder.preemption_bound.is_none() {
        builder.preemption_bound = Some(PREEMPTIONS);
    }
    let told = seen.clone();
    builder.check(move || {
        let mut setup = Setup { threads: Vec::new() };
        let end = scenario(&mut setup);
        let threads: Vec<_> =
            setup.threads.into_iter().map(|body| loom::thread::spawn(move || body())).collect();
        for thread in threads {
            thread.join().unwrap();
        }
        let mut told = told.lock().unwrap();
        told.0.insert(end());
        told.1 += 1;
    });
    let (outcomes, executions) = mem::take(&mut *seen.lock().unwrap());
    println!("loom {name}: {executions} executions in {:.1?}", began.elapsed());
    outcomes
}

/// Forced thread switches per execution, unless `LOOM_MAX_PREEMPTIONS` says
/// otherwise.
const PREEMPTIONS: usize = 2;
