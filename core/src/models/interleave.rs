//! The exhaustive backend: every interleaving of the shipped code, every state
//! once.
//!
//! Memory is sequentially consistent here (loom does the orderings), and nothing
//! is bounded: a model that ends has been searched completely.
//!
//! # How shipped code becomes a state machine
//!
//! A thread of a model is a closure. It is deterministic but for the results of
//! its accesses, so those results, in order, *are* its local state. To take one
//! step the closure is run again from the beginning with the results so far; at
//! the first access beyond them it is unwound, and that access is the thread's
//! next step. A state is the memory plus each thread's results. It is visited
//! once, whichever way it was reached.
//!
//! # What is not searched twice
//!
//! - A thread that is done takes no further step, so its results are forgotten: states that differ
//!   in them alone are one state.
//! - A [`private`](Step::private) step touches nothing that another thread sees. So it does not
//!   matter when it is taken, neither to the others nor to its thread, and a thread that is about
//!   to take one goes first, alone. (No path returns to a state that was before, because results
//!   only get more; so nobody is put off for ever.)
//! - Of a state that was visited, 128 bits of a hash are kept. The largest model has two and a half
//!   million states; the chance that two of them share a hash is less than 1 in 10^25.
//!
//! # What is reported
//!
//! A change that the state table ([`legal`]) does not list; an access to freed
//! memory; a failed assertion in a thread or at the end; a state in which nobody
//! can move and somebody is not done, which is how a lost wake shows. With each
//! comes the whole path that led there.

use crate::counter::word::legal;
use core::cell::{Cell as Flagged, RefCell};
use core::sync::atomic::Ordering;
use std::any::Any;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{self, AssertUnwindSafe};
use std::{thread_local, vec};

pub(crate) use std::sync::Arc as Shared;

/// One access, as a thread asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    Load {
        cell: usize,
    },
    Add {
        cell: usize,
        n: u64,
    },
    And {
        cell: usize,
        bits: u64,
    },
    Or {
        cell: usize,
        bits: u64,
    },
    /// May fail for no reason, once in each thread.
    Exchange {
        cell: usize,
        current: u64,
        new: u64,
    },
    Store {
        cell: usize,
        new: u64,
    },
    /// Sleep while the low half of the cell is `seen`.
    Wait {
        cell: usize,
        seen: u32,
        timed: bool,
    },
    Wake {
        cell: usize,
    },
    /// Sets bits of a flag, and wakes.
    Set {
        cell: usize,
        bits: u64,
    },
    /// From here on nobody sleeps on it: somebody wakes it again and again.
    WakeForGood {
        cell: usize,
    },
    /// Either: whether the time has come, whether the barrier fails.
    Choose,
    Free {
        cell: usize,
    },
    Xor {
        cell: usize,
        bits: u64,
    },
    /// A restartable sequence begins, with a look at its tag.
    Begin {
        tag: usize,
    },
    /// Its last instruction, the add, if nobody has aborted it.
    End {
        slot: usize,
        n: u64,
    },
    /// Aborts every restartable sequence there is.
    Barrier,
    /// An add to a number that no thread reads.
    Tally {
        cell: usize,
        n: u64,
    },
}

impl Step {
    /// Whether no other thread can tell whether the step has been taken.
    fn private(self) -> bool {
        matches!(self, Self::Choose | Self::Tally { .. })
    }
}

/// The result of a [`Step::Wait`] that its deadline ended.
const TIMED_OUT: u64 = 0;
/// The result of a [`Step::Wait`] that a wake or a changed word ended.
const LOOK_AGAIN: u64 = 1;
/// The result of a [`Step::Exchange`] that has failed for no reason.
const SPURIOUS: u64 = u64::MAX;
/// The result of a [`Step::End`] that was aborted.
const ABORTED: u64 = 0;
/// The result of a [`Step::End`] that was not.
const COMMITTED: u64 = 1;

#[derive(Clone, Hash)]
struct Cell {
    value: u64,
    freed: bool,
    /// Held against the state table; a tally or data is not.
    counter: bool,
    /// Nobody sleeps on it.
    awake: bool,
}

#[derive(Clone, Default, Hash)]
struct Memory(Vec<Cell>);

enum Applied {
    Result(u64),
    Asleep,
    Either,
    Woke(usize),
    Aborted,
}

impl Memory {
    fn change(&mut self, cell: usize, new: impl FnOnce(u64) -> u64) -> Result<Applied, String> {
        let place = &mut self.0[cell];
        let old = place.value;
        place.value = new(old);
        if place.counter {
            legal(old, place.value)
                .map_err(|why| format!("{why}: {old:#x} to {:#x}", place.value))?;
        }
        Ok(Applied::Result(old))
    }

    fn apply(&mut self, step: Step) -> Result<Applied, String> {
        let touched = match step {
            Step::Choose
            | Step::Wake { .. }
            | Step::Set { .. }
            | Step::WakeForGood { .. }
            | Step::Barrier => None,
            Step::Load { cell }
            | Step::Add { cell, .. }
            | Step::Tally { cell, .. }
            | Step::And { cell, .. }
            | Step::Or { cell, .. }
            | Step::Xor { cell, .. }
            | Step::Exchange { cell, .. }
            | Step::Store { cell, .. }
            | Step::Wait { cell, .. }
            | Step::Begin { tag: cell }
            | Step::End { slot: cell, .. }
            | Step::Free { cell } => Some(cell),
        };
        if touched.is_some_and(|cell| self.0[cell].freed) {
            return Err("the counter was touched after it was freed".into());
        }
        match step {
            Step::Load { cell } => self.change(cell, |v| v),
            Step::Add { cell, n } | Step::Tally { cell, n } => {
                self.change(cell, |v| v.wrapping_add(n))
            }
            Step::And { cell, bits } => self.change(cell, |v| v & bits),
            Step::Or { cell, bits } => self.change(cell, |v| v | bits),
            Step::Xor { cell, bits } => self.change(cell, |v| v ^ bits),
            Step::Exchange { cell, current, new } => {
                self.change(cell, |v| if v == current { new } else { v })
            }
            Step::Store { cell, new } => self.change(cell, |_| new),
            Step::Wait { cell, seen, .. }
                if self.0[cell].value as u32 != seen || self.0[cell].awake =>
            {
                Ok(Applied::Result(LOOK_AGAIN))
            }
            Step::Wait { .. } => Ok(Applied::Asleep),
            Step::Wake { cell } => Ok(Applied::Woke(cell)),
            Step::Set { cell, bits } => {
                self.0[cell].value |= bits;
                Ok(Applied::Woke(cell))
            }
            Step::WakeForGood { cell } => {
                self.0[cell].awake = true;
                Ok(Applied::Woke(cell))
            }
            Step::Choose => Ok(Applied::Either),
            Step::Begin { tag } => self.change(tag, |v| v),
            Step::End { slot, n } => {
                self.change(slot, |v| v.wrapping_add(n))?;
                Ok(Applied::Result(COMMITTED))
            }
            Step::Barrier => Ok(Applied::Aborted),
            Step::Free { cell } => {
                self.0[cell].freed = true;
                Ok(Applied::Result(0))
            }
        }
    }
}

/// What an access does, depending on who is running.
enum Mode {
    /// Before and after the threads: it is carried out at once.
    Direct(Memory),
    /// A thread being replayed: it has the next result, or is the next step.
    Replay { results: vec::IntoIter<u64>, next: Option<Step> },
}

thread_local! {
    static MODE: RefCell<Mode> = RefCell::new(Mode::Direct(Memory::default()));
    /// Whether looks at a counter's second word are steps: where its memory goes. (Everywhere else
    /// they would multiply the states and show nothing.)
    pub(crate) static WORD_GOES: Flagged<bool> = const { Flagged::new(false) };
}

/// Unwinds a thread whose next step has been found.
struct Suspended;

fn perform(step: Step) -> u64 {
    let result = MODE.with_borrow_mut(|mode| match mode {
        Mode::Direct(memory) => match memory.apply(step) {
            Ok(Applied::Result(result)) => Some(result),
            Ok(_) => panic!("{step:?} outside of a thread"),
            Err(why) => panic!("{why}"),
        },
        Mode::Replay { results, next } => results.next().or_else(|| {
            *next = Some(step);
            None
        }),
    });
    result.unwrap_or_else(|| panic::resume_unwind(Box::new(Suspended)))
}

fn new_cell(value: u64, counter: bool) -> usize {
    MODE.with_borrow_mut(|mode| match mode {
        Mode::Direct(Memory(cells)) => {
            cells.push(Cell { value, freed: false, counter, awake: false });
            cells.len() - 1
        }
        Mode::Replay { .. } => panic!("a model's memory is made before its threads"),
    })
}

pub(crate) struct Word(usize);

impl Word {
    pub(crate) fn new(value: u64) -> Self {
        Self(new_cell(value, true))
    }

    /// The word's memory goes away.
    pub(crate) fn free(&self) {
        perform(Step::Free { cell: self.0 });
    }

    pub(crate) fn load(&self, _: Ordering) -> u64 {
        perform(Step::Load { cell: self.0 })
    }

    pub(crate) fn fetch_add(&self, n: u64, _: Ordering) -> u64 {
        perform(Step::Add { cell: self.0, n })
    }

    pub(crate) fn fetch_sub(&self, n: u64, _: Ordering) -> u64 {
        perform(Step::Add { cell: self.0, n: n.wrapping_neg() })
    }

    pub(crate) fn fetch_and(&self, bits: u64, _: Ordering) -> u64 {
        perform(Step::And { cell: self.0, bits })
    }

    pub(crate) fn fetch_or(&self, bits: u64, _: Ordering) -> u64 {
        perform(Step::Or { cell: self.0, bits })
    }

    pub(crate) fn fetch_xor(&self, bits: u64, _: Ordering) -> u64 {
        perform(Step::Xor { cell: self.0, bits })
    }

    pub(crate) fn compare_exchange_weak(
        &self,
        current: u64,
        new: u64,
        _: Ordering,
        _: Ordering,
    ) -> Result<u64, u64> {
        match perform(Step::Exchange { cell: self.0, current, new }) {
            SPURIOUS => Err(current),
            old if old == current => Ok(old),
            now => Err(now),
        }
    }

    /// The product has no plain store after init; only a mutant calls this.
    #[allow(dead_code)]
    pub(crate) fn store(&self, new: u64, _: Ordering) {
        perform(Step::Store { cell: self.0, new });
    }
}

pub(crate) struct Address(usize);

pub(crate) fn address(word: &Word) -> Address {
    Address(word.0)
}

impl Address {
    pub(crate) fn wake_all(self) {
        perform(Step::Wake { cell: self.0 });
    }
}

/// Wakes whoever sleeps on the word, again and again until the flag is set.
pub(crate) fn wake_until(word: &Word, flag: &Flag) {
    perform(Step::WakeForGood { cell: word.0 });
    flag.take();
}

/// Something that one thread tells another: nothing, and then some bits.
pub(crate) struct Flag(usize);

impl Flag {
    pub(crate) fn new() -> Self {
        Self(new_cell(0, false))
    }

    pub(crate) fn set(&self, bits: u64) {
        perform(Step::Set { cell: self.0, bits });
    }

    pub(crate) fn is_set(&self) -> bool {
        perform(Step::Load { cell: self.0 }) != 0
    }

    /// Waits until some are set, and takes them back.
    pub(crate) fn take(&self) -> u64 {
        loop {
            match perform(Step::And { cell: self.0, bits: 0 }) {
                0 => perform(Step::Wait { cell: self.0, seen: 0, timed: false }),
                bits => return bits,
            };
        }
    }
}

/// A deadline that may pass at any moment, or never.
#[derive(Clone)]
pub(crate) enum Deadline {
    Never,
    AnyTime { passed: bool },
}

pub(crate) fn wait(word: &Word, seen: u64, deadline: &mut Deadline) -> bool {
    let timed = match deadline {
        Deadline::Never => false,
        Deadline::AnyTime { passed } => {
            *passed = *passed || perform(Step::Choose) != 0;
            if *passed {
                return false;
            }
            true
        }
    };
    let woken = perform(Step::Wait { cell: word.0, seen: seen as u32, timed });
    if woken == TIMED_OUT {
        *deadline = Deadline::AnyTime { passed: true };
    }
    true
}

/// The bit of the tag, as in the real thing.
const ON: u64 = 1;

/// The slots of two CPUs, and a tag. Gets run on one CPU and puts on the other: every
/// thread migrates between them. (Which slot it is does not matter to the sum.) A sequence
/// may be aborted at any time, for no reason that the model knows.
pub(crate) struct Slots {
    tag: usize,
    cpus: Vec<usize>,
    barrier_may_fail: bool,
}

impl Slots {
    pub(crate) fn none() -> Self {
        Self { tag: new_cell(0, false), cpus: Vec::new(), barrier_may_fail: false }
    }

    pub(crate) fn new(barrier_may_fail: bool) -> Self {
        let cpus = vec![new_cell(0, false), new_cell(0, false)];
        Self { tag: new_cell(ON, false), cpus, barrier_may_fail }
    }

    pub(crate) fn add<const DELTA: i64>(&self) -> bool {
        if !self.exist() {
            return false;
        }
        let slot = self.cpus[usize::from(DELTA < 0)];
        perform(Step::Begin { tag: self.tag }) & ON != 0
            && perform(Step::End { slot, n: DELTA as u64 }) == COMMITTED
    }

    pub(crate) fn exist(&self) -> bool {
        // A look at the second word, which has to be there.
        if WORD_GOES.get() {
            perform(Step::Load { cell: self.tag });
        }
        !self.cpus.is_empty()
    }

    pub(crate) fn are_on(&self) -> bool {
        perform(Step::Load { cell: self.tag }) & ON != 0
    }

    pub(crate) fn turn_off(&self) {
        perform(Step::And { cell: self.tag, bits: !ON });
    }

    pub(crate) fn turn_on(&self) {
        perform(Step::Or { cell: self.tag, bits: ON });
    }

    pub(crate) fn barrier(&self) -> Result<(), i32> {
        if self.barrier_may_fail && perform(Step::Choose) != 0 {
            return Err(1);
        }
        perform(Step::Barrier);
        Ok(())
    }

    pub(crate) fn sum(&self) -> i64 {
        self.cpus
            .iter()
            .fold(0i64, |sum, &cell| sum.wrapping_add(perform(Step::Load { cell }) as i64))
    }

    pub(crate) fn free(&self) {
        for &cell in &self.cpus {
            perform(Step::Free { cell });
        }
    }

    /// The memory of the second word goes away.
    pub(crate) fn free_word(&self) {
        perform(Step::Free { cell: self.tag });
    }
}

/// Memory that only reference holders read and only the winner of a release
/// writes.
pub(crate) struct Data(usize);

impl Data {
    pub(crate) fn new() -> Self {
        Self(new_cell(1, false))
    }

    /// Whether the data is good.
    pub(crate) fn read(&self) -> bool {
        perform(Step::Load { cell: self.0 }) != 0
    }

    pub(crate) fn write(&self, good: bool) {
        perform(Step::Store { cell: self.0, new: good.into() });
    }
}

/// A number that threads of a model leave behind for the end of it.
pub(crate) struct Tally(usize);

impl Tally {
    pub(crate) fn new() -> Self {
        Self(new_cell(0, false))
    }

    pub(crate) fn add(&self, n: u64) {
        perform(Step::Tally { cell: self.0, n });
    }

    pub(crate) fn get(&self) -> u64 {
        let over = MODE.with_borrow(|mode| matches!(mode, Mode::Direct(_)));
        assert!(over, "a tally was read before the end, so adding to it is not private");
        perform(Step::Load { cell: self.0 })
    }
}

/// One model: its threads.
pub(crate) struct Setup {
    threads: Vec<Box<dyn Fn()>>,
}

impl Setup {
    pub(crate) fn thread(&mut self, body: impl Fn() + 'static) {
        self.threads.push(Box::new(body));
    }

    /// A deadline for a drain of `word` that may pass at any moment.
    pub(crate) fn deadline(&mut self, _word: &Word) -> Deadline {
        Deadline::AnyTime { passed: false }
    }
}

/// Models are small: a longer path than this is an endless one.
const LONGEST_PATH: usize = 500;

/// What a thread does after the results it has had.
#[derive(Clone, Debug)]
enum Next {
    Step(Step),
    Done,
    Failed(String),
}

/// The results that a thread has had so far.
struct History {
    results: Vec<u64>,
    next: Next,
    /// The histories that are longer by one result.
    longer: HashMap<u64, usize>,
}

#[derive(Clone, Hash)]
struct Thread {
    /// Its place in the list of histories.
    history: usize,
    /// Whether it sleeps: on which cell, and whether it has a deadline.
    asleep: Option<(usize, bool)>,
    /// In a restartable sequence that a barrier has aborted.
    aborted: bool,
}

#[derive(Clone, Hash)]
struct State {
    memory: Memory,
    threads: Vec<Thread>,
}

impl State {
    fn fingerprint(&self) -> (u64, u64) {
        let half = |seed: u64| {
            let mut hasher = DefaultHasher::new();
            (seed, self).hash(&mut hasher);
            hasher.finish()
        };
        (half(0), half(1))
    }
}

struct Explorer<'a> {
    threads: &'a [Box<dyn Fn()>],
    end: &'a dyn Fn() -> String,
    histories: Vec<History>,
    seen: HashSet<(u64, u64)>,
    path: Vec<(usize, Step, u64)>,
    outcomes: BTreeSet<String>,
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| s.to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".into())
}

/// The history of every thread that is done.
const DONE: usize = 0;

impl Explorer<'_> {
    /// Runs a thread up to the step after `results`.
    fn replay(&mut self, thread: usize, results: Vec<u64>) -> usize {
        MODE.set(Mode::Replay { results: results.clone().into_iter(), next: None });
        let ran = panic::catch_unwind(AssertUnwindSafe(|| self.threads[thread]()));
        let Mode::Replay { next: asked, .. } = MODE.replace(Mode::Direct(Memory::default())) else {
            unreachable!("the mode was set above")
        };
        let next = match (ran, asked) {
            (Ok(()), None) => return DONE,
            (Err(payload), Some(step)) if payload.is::<Suspended>() => Next::Step(step),
            (Err(payload), _) => Next::Failed(message(&*payload)),
            (Ok(()), Some(step)) => panic!("a thread went on after {step:?}"),
        };
        self.histories.push(History { results, next, longer: HashMap::new() });
        self.histories.len() - 1
    }

    /// Gives `thread` the result of its step.
    fn tell(&mut self, state: &mut State, thread: usize, result: u64) {
        let before = state.threads[thread].history;
        let history = self.histories[before].longer.get(&result).copied();
        let history = history.unwrap_or_else(|| {
            let mut results = self.histories[before].results.clone();
            results.push(result);
            let history = self.replay(thread, results);
            self.histories[before].longer.insert(result, history);
            history
        });
        state.threads[thread] = Thread { history, asleep: None, aborted: false };
    }

    fn fail(&self, why: &str) -> ! {
        let path: Vec<_> = self
            .path
            .iter()
            .map(|(thread, step, result)| format!("  thread {thread}: {step:?} -> {result:#x}"))
            .collect();
        panic!("{why}\nafter:\n{}", path.join("\n"));
    }

    /// Visits `state` after `thread` took `step` with `result`.
    fn follow(&mut self, mut state: State, thread: usize, step: Step, result: u64) {
        self.tell(&mut state, thread, result);
        self.path.push((thread, step, result));
        self.visit(state);
        self.path.pop();
    }

    fn visit(&mut self, state: State) {
        if !self.seen.insert(state.fingerprint()) {
            return;
        }
        if self.path.len() > LONGEST_PATH {
            self.fail("somebody goes on for ever");
        }
        let mut steps = Vec::new();
        for (thread, Thread { history, .. }) in state.threads.iter().enumerate() {
            match &self.histories[*history].next {
                Next::Step(step) => steps.push((thread, *step)),
                Next::Done => {}
                Next::Failed(why) => self.fail(&format!("thread {thread}: {why}")),
            }
        }
        if steps.is_empty() {
            MODE.set(Mode::Direct(state.memory));
            match panic::catch_unwind(AssertUnwindSafe(self.end)) {
                Ok(outcome) => self.outcomes.insert(outcome),
                Err(payload) => self.fail(&format!("at the end: {}", message(&*payload))),
            };
            return;
        }
        if let Some(&private) = steps.iter().find(|(_, step)| step.private()) {
            steps = vec![private];
        }
        let mut moved = false;
        for (thread, step) in steps {
            moved |= self.advance(&state, thread, step);
        }
        if !moved {
            self.fail("nobody can move: a wake was lost");
        }
    }

    /// Visits what comes of `state` when `thread` takes `step`; false if it sleeps on.
    fn advance(&mut self, state: &State, thread: usize, step: Step) -> bool {
        let Thread { history, asleep, aborted } = state.threads[thread];
        if let Some((_, timed)) = asleep {
            if timed {
                self.follow(state.clone(), thread, step, TIMED_OUT);
            }
            return timed;
        }
        if matches!(step, Step::End { .. }) {
            // By a barrier, or by a preemption, a migration, a signal: at any time.
            self.follow(state.clone(), thread, step, ABORTED);
            if aborted {
                return true;
            }
        }
        let mut after = state.clone();
        if let Step::Exchange { cell, current, .. } = step
            && after.memory.0[cell].value == current
            && !self.histories[history].results.contains(&SPURIOUS)
        {
            self.follow(after.clone(), thread, step, SPURIOUS);
        }
        match after.memory.apply(step) {
            Ok(Applied::Result(result)) => self.follow(after, thread, step, result),
            Ok(Applied::Either) => {
                self.follow(after.clone(), thread, step, 0);
                self.follow(after, thread, step, 1);
            }
            Ok(Applied::Asleep) => {
                let Step::Wait { cell, timed, .. } = step else {
                    unreachable!("only a wait sleeps")
                };
                after.threads[thread].asleep = Some((cell, timed));
                self.path.push((thread, step, u64::MAX));
                self.visit(after);
                self.path.pop();
            }
            Ok(Applied::Woke(cell)) => {
                for sleeper in 0..after.threads.len() {
                    if after.threads[sleeper].asleep.is_some_and(|(on, _)| on == cell) {
                        self.tell(&mut after, sleeper, LOOK_AGAIN);
                    }
                }
                self.follow(after, thread, step, 0);
            }
            Ok(Applied::Aborted) => {
                for other in &mut after.threads {
                    let next = &self.histories[other.history].next;
                    other.aborted = matches!(next, Next::Step(Step::End { .. }));
                }
                self.follow(after, thread, step, 0);
            }
            Err(why) => {
                self.path.push((thread, step, 0));
                self.fail(&why);
            }
        }
        true
    }
}

/// Runs `scenario` in every way there is. The scenario adds its threads and
/// returns what runs after them, which names the outcome; the result is the set
/// of outcomes seen.
pub(crate) fn explore<F, E>(name: &str, scenario: F) -> BTreeSet<String>
where
    F: Fn(&mut Setup) -> E + Send + Sync + 'static,
    E: Fn() -> String + 'static,
{
    let began = std::time::Instant::now();
    MODE.set(Mode::Direct(Memory::default()));
    let mut setup = Setup { threads: Vec::new() };
    let end = scenario(&mut setup);
    let Mode::Direct(memory) = MODE.replace(Mode::Direct(Memory::default())) else {
        unreachable!("the mode was set above")
    };
    let mut explorer = Explorer {
        threads: &setup.threads,
        end: &end,
        histories: vec![History { results: vec![], next: Next::Done, longer: HashMap::new() }],
        seen: HashSet::new(),
        path: Vec::new(),
        outcomes: BTreeSet::new(),
    };
    let threads = (0..setup.threads.len())
        .map(|thread| explorer.replay(thread, Vec::new()))
        .map(|history| Thread { history, asleep: None, aborted: false })
        .collect();
    explorer.visit(State { memory, threads });
    println!("interleave {name}: {} states in {:.1?}", explorer.seen.len(), began.elapsed());
    explorer.outcomes
}
