//! What a counter does: a life and a number.
//!
//! Threads take steps, one at a time, on two counters and on any CPU, right and wrong. Every answer
//! and every report of a misuse is compared, and after each step what the counters say of
//! themselves. A thread that has to wait is left waiting while others go on.

use super::crew::{Crew, PER_CPU, REFUSAL, SANDBOXED, THREADS, is_refused, run_on, take_all_slots};
use super::{Word, words};
use module_ref::misuse::{self, Caller, Misuse};
use module_ref::{
    Counter, DrainError, Draining, FinishError, Guard, InitError, Mode, ModuleRef, ReleaseError,
    Released,
};
use std::cell::{RefCell, UnsafeCell};
use std::mem;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const SHORT: Duration = Duration::from_micros(300);

/// The first count that is pinned, and where: ABI, as the place of the count in the word is.
const PINNED_FROM: i64 = 1 << 58;
const PIN: i64 = PINNED_FROM + (PINNED_FROM >> 1);
const COUNT_AT: u32 = 4;

/// More references than any case takes one by one.
const MANY: i64 = 10_000;

// ---- operations -----------------------------------------------------------------------------

/// What the waiter of a drain does in the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Then {
    GiveUp,
    Panic,
    /// It waits for another step, [`What::End`].
    Wait,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    TryGet,
    GetIfHeld,
    Get,
    Put,
    TryRelease,
    /// Asleep, for so long.
    Drain(Option<Duration>),
    /// With a waiter that first puts so many references.
    DrainWith(i64, Then),
    End(Then),
    /// Without waiting, for so long; and that one's end, which waits while the time is not up.
    Begin(Option<Duration>),
    Finish,
    Cancel,
    Reinit,
    Destroy,
    /// The memory holds these words before; or is left as it is.
    Init(Mode, Option<[u64; 2]>),
    /// The memory is all zeroes.
    Zero,
    /// Per CPU, with all slots taken.
    InitWithoutRoom,
    /// As if so many more references had been taken that the count is about to overflow.
    Overflow,
    RunOn(usize),
}

#[derive(Clone, Copy, Debug)]
pub struct Step {
    thread: usize,
    /// Which counter; and whether guards and proofs are used, or none.
    which: usize,
    typed: bool,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Nothing,
    Got(bool),
    Release(Result<(), ReleaseError>),
    Drain(Result<(), DrainError>),
    Begin(Result<(), DrainError>),
    Finish(Result<(), FinishError>),
    Cancel,
    Init(Result<(), InitError>),
    Panicked,
    /// C's number for any of these.
    Code(i32),
}

// ---- the model ------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    /// A thread that sleeps, or waits by a waiter of its own.
    Sleeper(usize),
    Waiter(usize),
    /// No thread, and whether its time ends.
    Begun(bool),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Life {
    Live,
    Draining(By),
    Released,
    Destroyed,
}
use Life::*;

#[derive(Debug)]
struct Model {
    life: Life,
    mode: Mode,
    /// Gets less puts: below zero per CPU alone, until a release finds that out.
    held: i64,
    /// What is reported by this step, and by the thread whose wait it ends.
    reports: Vec<Misuse>,
    ended: Option<(usize, Answer, Vec<Misuse>)>,
}

impl Model {
    /// A release in its first moment; `InUse` may yet be waited for.
    fn release(&mut self, refused: bool, drain: bool) -> Result<(), ReleaseError> {
        match self.life {
            Live => {}
            Draining(_) => return Err(ReleaseError::Busy),
            Released => return Err(ReleaseError::AlreadyReleased),
            Destroyed => return Err(ReleaseError::Destroyed),
        }
        // A look at a counter that is held needs no barrier.
        if self.mode == Mode::PerCpu && refused && (drain || self.held <= 0) {
            return Err(ReleaseError::Barrier { errno: REFUSAL });
        }
        if self.held < 0 {
            // Once for all of them; and only a drain looks again.
            self.reports.push(Misuse::SurplusPut);
            self.held = 0;
            if !drain {
                return Err(ReleaseError::InUse { held: 0 });
            }
        }
        if self.held > 0 {
            return Err(ReleaseError::InUse { held: self.held as u64 });
        }
        self.life = Released;
        Ok(())
    }

    /// A drain that does not wait. A count that is pinned is not waited for by any.
    fn drain(&mut self, refused: bool) -> Result<(), DrainError> {
        let outcome = self.release(refused, true).map_err(DrainError::from);
        if matches!(outcome, Err(DrainError::TimedOut { .. })) && self.held >= PINNED_FROM {
            self.reports.push(Misuse::Leaked);
        }
        outcome
    }

    /// What a waiter of one's own comes to, if it is asked at all.
    fn drain_with(
        &mut self,
        thread: usize,
        refused: bool,
        puts: i64,
        then: Then,
    ) -> Option<Answer> {
        let outcome = self.drain(refused);
        if !matches!(outcome, Err(DrainError::TimedOut { .. })) || self.held >= PINNED_FROM {
            return Some(Answer::Drain(outcome));
        }
        self.held -= puts.min(self.held);
        match then {
            // The counter is live again even if that was the last one.
            Then::Panic => Some(Answer::Panicked),
            Then::Wait if self.held > 0 => {
                self.life = Draining(By::Waiter(thread));
                None
            }
            // Zero wins.
            _ => Some(Answer::Drain(self.drain(refused))),
        }
    }

    fn get(&mut self, report: Misuse) {
        let in_word = self.mode == Mode::Atomic || self.life != Live;
        if in_word && self.held >= PINNED_FROM {
            self.held = PIN;
            self.reports.push(report);
        } else {
            self.held += 1;
        }
    }

    fn put(&mut self) {
        if self.mode == Mode::PerCpu && self.life == Live {
            self.held -= 1;
        } else if self.held > PINNED_FROM {
            self.held = PIN;
            self.reports.push(Misuse::Leaked);
        } else if self.held > 0 {
            self.held -= 1;
        } else {
            self.reports.push(Misuse::SurplusPut);
        }
    }

    fn destroy(&mut self, refused: bool) {
        let mut outcome = self.release(refused, false);
        if outcome == Err(ReleaseError::InUse { held: 0 }) {
            // The surplus is mended: again.
            outcome = self.release(refused, false);
        }
        match outcome {
            // It has no slots any more.
            Ok(()) | Err(ReleaseError::AlreadyReleased) => {
                (self.life, self.mode) = (Destroyed, Mode::Atomic);
            }
            Err(ReleaseError::Destroyed) => {}
            Err(_) => self.reports.push(Misuse::Leaked),
        }
    }

    /// Whatever was there is forgotten.
    fn init(&mut self, mode: Mode) -> Result<(), InitError> {
        (self.life, self.mode, self.held) = (Live, mode, 0);
        Ok(())
    }

    fn reinit(&mut self) -> Result<(), InitError> {
        match self.life {
            Live | Draining(_) => return Err(InitError::InUse),
            Destroyed => return Err(InitError::Destroyed),
            Released => self.life = Live,
        }
        Ok(())
    }

    // What is begun: these three.

    fn begin(&mut self, refused: bool, timed: bool) -> Result<(), DrainError> {
        match self.release(refused, true) {
            Ok(()) | Err(ReleaseError::InUse { .. }) => {
                self.life = Draining(By::Begun(timed));
                Ok(())
            }
            Err(why) => Err(why.into()),
        }
    }

    fn finish(&mut self) -> Result<(), FinishError> {
        let held = self.held as u64;
        if held == 0 {
            self.life = Released;
            return Ok(());
        }
        let pinned = self.held >= PINNED_FROM;
        if self.life == Draining(By::Begun(false)) && !pinned {
            return Err(FinishError::InUse { held });
        }
        self.life = Live;
        self.reports.extend(pinned.then_some(Misuse::Leaked));
        Err(FinishError::TimedOut { held })
    }

    /// What is answered; `None`: the thread waits.
    fn apply(&mut self, Step { thread, what, .. }: Step) -> Option<Answer> {
        let refused = is_refused(thread);
        self.reports.clear();
        self.ended = None;
        let answer = match what {
            What::TryGet | What::GetIfHeld => {
                let held = what == What::GetIfHeld && self.held > 0;
                let gets = self.life == Live || held && matches!(self.life, Draining(_));
                if gets {
                    self.get(Misuse::Overflow);
                }
                Answer::Got(gets)
            }
            What::Get => {
                match self.life {
                    // One that holds may get while others drain.
                    Live | Draining(_) => self.get(Misuse::Overflow),
                    Released | Destroyed => self.reports.push(Misuse::StaleGet),
                }
                Answer::Nothing
            }
            What::Put => {
                self.put();
                Answer::Nothing
            }
            What::TryRelease => Answer::Release(self.release(refused, false)),
            What::Drain(timeout) => match self.drain(refused) {
                Err(DrainError::TimedOut { .. })
                    if timeout.is_none() && self.held < PINNED_FROM =>
                {
                    self.life = Draining(By::Sleeper(thread));
                    return None;
                }
                outcome => Answer::Drain(outcome),
            },
            What::DrainWith(puts, then) => return self.drain_with(thread, refused, puts, then),
            What::End(then) => {
                self.end(match then {
                    Then::Panic => Answer::Panicked,
                    _ => Answer::Drain(Err(DrainError::TimedOut { held: self.held as u64 })),
                });
                Answer::Nothing
            }
            What::Begin(timeout) => Answer::Begin(self.begin(refused, timeout.is_some())),
            What::Finish => Answer::Finish(self.finish()),
            What::Cancel => {
                self.life = Live;
                Answer::Cancel
            }
            What::Reinit => Answer::Init(self.reinit()),
            What::Destroy => {
                self.destroy(refused);
                Answer::Nothing
            }
            What::Init(mode, _) => Answer::Init(self.init(mode)),
            What::Zero => {
                // As if it were released: it is gone, and gives no reference.
                (self.life, self.held) = (Released, 0);
                Answer::Nothing
            }
            What::InitWithoutRoom => Answer::Init(Err(InitError::NoMemory)),
            What::Overflow => {
                self.held += PINNED_FROM - 3;
                Answer::Nothing
            }
            What::RunOn(_) => Answer::Nothing,
        };
        match self.life {
            Draining(By::Sleeper(_) | By::Waiter(_)) if self.held == 0 => {
                self.end(Answer::Drain(Ok(())));
            }
            Draining(By::Waiter(_)) if self.held >= PINNED_FROM => {
                self.end(Answer::Drain(Err(DrainError::TimedOut { held: self.held as u64 })));
            }
            _ => {}
        }
        Some(answer)
    }

    /// The thread that waits has an answer.
    fn end(&mut self, answer: Answer) {
        let Draining(By::Sleeper(thread) | By::Waiter(thread)) = self.life else {
            unreachable!("{self:?}")
        };
        self.life = if answer == Answer::Drain(Ok(())) { Released } else { Live };
        let pinned = self.held >= PINNED_FROM && answer != Answer::Panicked;
        let reports = if pinned { vec![Misuse::Leaked] } else { vec![] };
        self.ended = Some((thread, answer, reports));
    }

    /// What makes sense as a step. An init forgets slots, and what nobody ever ends is not begun.
    fn is_possible(&self, Step { thread, what, .. }: Step) -> bool {
        let sleeps = matches!(self.life, Draining(By::Sleeper(_)));
        match what {
            What::Drain(None) | What::DrainWith(_, Then::Wait) => {
                thread > 0 && (self.held < MANY || self.held >= PINNED_FROM)
            }
            What::End(then) => matches!(self.life, Draining(By::Waiter(_))) && then != Then::Wait,
            What::Finish | What::Cancel => matches!(self.life, Draining(By::Begun(_))),
            What::Init(..) | What::Zero => {
                self.mode == Mode::Atomic && !matches!(self.life, Draining(_))
            }
            What::InitWithoutRoom => {
                self.mode == Mode::Atomic
                    && !matches!(self.life, Draining(_))
                    && *PER_CPU
                    && is_refused(thread)
            }
            What::Overflow => {
                matches!(self.life, Live | Draining(_)) && !sleeps && self.held < MANY
            }
            _ => true,
        }
    }
}

/// Two words of memory, of the same digit all over each.
fn memory(word: &mut Word) -> Option<[u64; 2]> {
    let digits = [word.digit() as u64, word.digit() as u64];
    (word.digit() % 2 == 1).then(|| digits.map(|digit| digit * 0x1111_1111_1111_1111))
}

/// A step from a word: a letter; a digit whose lowest bit is which counter, and whose next one
/// whether guards are used; the thread; and what else there is to say.
fn decode(word: &mut Word, threads: usize) -> Option<Step> {
    let letter = word.letter();
    let (which, thread) = (word.digit(), word.digit() % threads);
    let then = |n| [Then::Wait, Then::GiveUp, Then::Panic][n % 3];
    let what = match letter {
        b't' => What::TryGet,
        b'h' => What::GetIfHeld,
        b'g' => What::Get,
        b'p' => What::Put,
        b'r' => What::TryRelease,
        b'd' => What::Drain([Some(Duration::ZERO), None, Some(SHORT)][word.digit() % 3]),
        b'w' => What::DrainWith(word.digit() as i64 % 4, then(word.digit())),
        b'y' => What::End(then(word.digit())),
        b'b' => What::Begin([None, Some(SHORT)][word.digit() % 2]),
        b'f' => What::Finish,
        b'c' => What::Cancel,
        b'e' => What::Reinit,
        b'x' => What::Destroy,
        b'i' => What::Init(Mode::Atomic, memory(word)),
        b'j' => What::Init(if *PER_CPU { Mode::PerCpu } else { Mode::Atomic }, memory(word)),
        b'n' => What::Zero,
        b'k' => What::InitWithoutRoom,
        b'o' => What::Overflow,
        b'm' => What::RunOn(word.digit()),
        _ => return None,
    };
    Some(Step { thread, which: which & 1, typed: which & 2 != 0, what })
}

// ---- the counter itself ---------------------------------------------------------------------

/// By which functions a counter is used.
pub trait Face: Sized + 'static {
    /// Of the threads, so many.
    const THREADS: usize;

    /// What is begun has, for its end.
    type Begun: AsRawFd + Send + 'static;

    /// # Safety
    ///
    /// Nothing relies on the counter's references, so that every operation may be tried in every
    /// state.
    unsafe fn perform(real: &Real<Self>, step: Step, held: i64) -> Answer;

    /// How it says that.
    fn told(answer: Answer) -> Answer {
        answer
    }

    /// Whether it knows who has done that.
    fn knows_caller(_: What) -> bool {
        false
    }
}

/// A counter, and what there is of it beside references.
pub struct Real<F: Face> {
    place: UnsafeCell<Counter>,
    pub begun: Mutex<Option<F::Begun>>,
    proof: Mutex<Option<Released<'static>>>,
    order: AtomicU8,
    is_asked: AtomicBool,
}

// SAFETY: a counter is for all threads, and init is called while no other changes it.
unsafe impl<F: Face> Sync for Real<F> {}
// SAFETY: as above.
unsafe impl<F: Face> Send for Real<F> {}

const WAIT: u8 = 0;
const GIVE_UP: u8 = 1;
const PANIC: u8 = 2;

impl<F: Face> Real<F> {
    fn new() -> Self {
        Self {
            place: UnsafeCell::new(Counter::new()),
            begun: Mutex::default(),
            proof: Mutex::default(),
            order: AtomicU8::new(WAIT),
            is_asked: AtomicBool::new(false),
        }
    }

    pub fn place(&self) -> *mut Counter {
        self.place.get()
    }

    fn counter(&self) -> &'static ModuleRef {
        // SAFETY: it stays as long as it is used: Case::end() waits for all threads.
        ModuleRef::from_counter(unsafe { &*self.place() })
    }

    /// As if `n` more references had been taken.
    fn add(&self, n: i64) {
        // SAFETY: the word is the first of the counter, and atomic.
        let word = unsafe { &*self.place().cast::<AtomicU64>() };
        word.fetch_add((n as u64) << COUNT_AT, SeqCst);
    }

    fn is_open(&self) -> bool {
        self.counter().try_get().is_some()
    }

    /// A drain with a waiter, which finds `held` at first.
    fn drain_with(&self, puts: i64, then: Then, held: i64) -> Answer {
        let counter = self.counter();
        self.order.store(WAIT, SeqCst);
        let mut first = true;
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            counter.drain_with(|there| {
                if mem::take(&mut first) {
                    assert_eq!(there.count() as i64, held, "what the waiter is shown");
                    for _ in 0..puts.min(held) {
                        // SAFETY: it is held.
                        unsafe { counter.counter().put(Caller::UNKNOWN) };
                    }
                    self.is_asked.store(true, SeqCst);
                }
                // Without a word on standard error.
                let panic = || resume_unwind(Box::new("the waiter's"));
                match (then, self.order.load(SeqCst)) {
                    (Then::Wait, WAIT) => there.park_timeout(Duration::from_micros(200)),
                    (Then::GiveUp, _) | (_, GIVE_UP) => return false,
                    _ => panic(),
                }
                true
            })
        }));
        match outcome {
            Err(_) => Answer::Panicked,
            Ok(outcome) => Answer::Drain(self.won(outcome)),
        }
    }

    /// Keeps the proof of a release.
    fn won<E>(&self, outcome: Result<Released<'static>, E>) -> Result<(), E> {
        outcome.map(|released| *self.proof.lock().unwrap() = Some(released))
    }
}

/// The crate itself.
pub struct Rust;

impl Face for Rust {
    const THREADS: usize = THREADS;
    type Begun = Draining<&'static ModuleRef>;

    unsafe fn perform(real: &Real<Self>, step: Step, held: i64) -> Answer {
        let begun = || real.begun.lock().unwrap();
        match step.what {
            What::Begin(timeout) => {
                Answer::Begin(ModuleRef::drain_begin(real.counter(), timeout).map(|new| {
                    *begun() = Some(new);
                }))
            }
            What::Finish => {
                let mut begun = begun();
                let draining = begun.as_mut().expect("begun");
                let outcome = draining.finish().map(drop);
                if outcome.is_ok() {
                    assert_eq!(draining.finish().unwrap_err(), FinishError::NotBegun);
                }
                Answer::Finish(outcome)
            }
            What::Cancel => {
                begun().take().expect("begun").cancel();
                Answer::Cancel
            }
            // SAFETY: the caller's promise.
            _ => unsafe { perform(real, step, held) },
        }
    }
}

/// What is not begun.
///
/// # Safety
///
/// As for [`Face::perform`].
pub unsafe fn perform<F: Face>(real: &Real<F>, step: Step, held: i64) -> Answer {
    let (counter, nobody) = (real.counter(), Caller::UNKNOWN);
    let raw = counter.counter();
    let ends = matches!(step.what, What::Reinit | What::Destroy | What::Init(..) | What::Zero);
    let proof = real.proof.lock().unwrap().take_if(|_| ends);
    // SAFETY: the caller's promise.
    unsafe {
        match (step.what, step.typed) {
            (What::TryGet, false) => return Answer::Got(raw.try_get(nobody)),
            (What::TryGet, true) => {
                return Answer::Got(counter.try_get().map(Guard::into_raw).is_some());
            }
            (What::GetIfHeld, false) => return Answer::Got(raw.get_if_held(nobody)),
            (What::GetIfHeld, true) => {
                return Answer::Got(counter.get_if_held().map(Guard::into_raw).is_some());
            }
            (What::Get, false) => raw.get(nobody),
            (What::Get, true) => {
                let guard = Guard::from_raw(counter);
                mem::forget(guard.clone());
                guard.into_raw();
            }
            (What::Put, false) => raw.put(nobody),
            (What::Put, true) => drop(Guard::from_raw(counter)),
            (What::TryRelease, false) => return Answer::Release(raw.try_release(nobody)),
            (What::TryRelease, true) => return Answer::Release(real.won(counter.try_release())),
            (What::Drain(time), false) => return Answer::Drain(raw.drain(nobody, time)),
            (What::Drain(time), true) => return Answer::Drain(real.won(counter.drain(time))),
            (What::DrainWith(puts, then), _) => return real.drain_with(puts, then, held),
            (What::Reinit, true) if proof.is_some() => {
                proof.expect("it is there").reinit();
                return Answer::Init(Ok(()));
            }
            (What::Reinit, _) => return Answer::Init(raw.reinit()),
            (What::Destroy, _) => raw.destroy(nobody),
            (What::Zero, _) => real.place().cast::<[u64; 2]>().write([0; 2]),
            (What::Init(Mode::Atomic, _), _) => {
                real.place().write(Counter::new());
                return Answer::Init(Ok(()));
            }
            (What::Init(..), _) => {
                return Answer::Init(Counter::new_percpu().map(|new| real.place().write(new)));
            }
            (What::InitWithoutRoom, _) => {
                let _all = take_all_slots();
                return Answer::Init(Counter::new_percpu().map(|new| real.place().write(new)));
            }
            (What::End(then), _) => {
                real.order.store(if then == Then::Panic { PANIC } else { GIVE_UP }, SeqCst);
            }
            (What::Overflow, _) => real.add(PINNED_FROM - 3),
            (What::RunOn(cpu), _) => run_on(cpu),
            (What::Begin(_) | What::Finish | What::Cancel, _) => unreachable!("each face's own"),
        }
    }
    Answer::Nothing
}

// ---- both -----------------------------------------------------------------------------------

/// What, of which counter, and whether it is known who has done it.
type Report = (Misuse, usize, bool);

thread_local! {
    static REPORTED: RefCell<Vec<Report>> = const { RefCell::new(Vec::new()) };
}

unsafe extern "C" fn on_misuse(what: Misuse, of: *const Counter, from: Caller) {
    let report = (what, of as usize, from.0 != Caller::UNKNOWN.0);
    REPORTED.with_borrow_mut(|reported| reported.push(report));
}

/// Waits as an event loop does, until the last reference has gone or the time is up.
fn await_readable(begun: &impl AsRawFd) {
    let mut one = libc::pollfd { fd: begun.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, for the length of the call.
    assert_eq!(unsafe { libc::poll(&mut one, 1, 10_000) }, 1, "never readable");
}

/// One case at a time: a step that takes all slots must meet nobody who gives one back.
pub fn alone() -> MutexGuard<'static, ()> {
    static CASE: Mutex<()> = Mutex::new(());
    CASE.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Case<F: Face> {
    models: [Model; 2],
    reals: [Arc<Real<F>>; 2],
    crew: Crew<(Answer, Vec<Report>)>,
}

impl<F: Face> Case<F> {
    fn new() -> Self {
        // SAFETY: it may be called anywhere.
        unsafe { misuse::set_handler(Some(on_misuse)) };
        let model =
            || Model { life: Live, mode: Mode::Atomic, held: 0, reports: vec![], ended: None };
        Self {
            models: [model(), model()],
            reals: [Arc::new(Real::new()), Arc::new(Real::new())],
            crew: Crew::new(|| ()),
        }
    }

    fn step(&mut self, mut step: Step) {
        step.thread = self.crew.free(step.thread, F::THREADS);
        let (model, real) = (&mut self.models[step.which], &self.reals[step.which]);
        if !model.is_possible(step) {
            return;
        }
        let timed = model.life == Draining(By::Begun(true));
        if step.what == What::Finish && (timed || model.held == 0) {
            await_readable(real.begun.lock().unwrap().as_ref().expect("begun"));
            // It may have been readable since nobody held, for a moment.
            std::thread::sleep(if timed && model.held > 0 { SHORT } else { Duration::ZERO });
        }
        let held = model.held.max(0);
        let answer = model.apply(step).map(F::told);
        let place = real.place() as usize;
        let reports = |reports: &[Misuse], known| -> Vec<Report> {
            reports.iter().map(|&what| (what, place, known)).collect()
        };
        let expected =
            answer.map(|answer| (answer, reports(&model.reports, F::knows_caller(step.what))));
        real.is_asked.store(false, SeqCst);
        let (there, sleeps) = (real.clone(), matches!(step.what, What::Drain(_)));
        let job = move || {
            // SAFETY: the counters are ours, and stay until all threads are through.
            let answer = unsafe {
                if let What::Init(_, Some(memory)) = step.what {
                    there.place().cast::<[u64; 2]>().write(memory);
                }
                F::perform(&there, step, held)
            };
            (answer, REPORTED.take())
        };
        // A drain has begun to wait once the counter is closed, or its waiter is asked.
        let waits = || if sleeps { !real.is_open() } else { real.is_asked.load(SeqCst) };
        self.crew.expect(&step, step.thread, job, expected, waits);
        if let Some((thread, answer, misuses)) = model.ended.take() {
            self.crew.ended(&step, thread, (F::told(answer), reports(&misuses, false)));
        }
        self.check(&step);
    }

    fn check(&mut self, step: &Step) {
        for (model, real) in self.models.iter().zip(&self.reals) {
            let count = match model.life {
                Live | Draining(_) => model.held.max(0),
                Released | Destroyed => -1,
            };
            let (counter, typed) = (real.counter().counter(), real.counter());
            assert_eq!(counter.count(), count, "the count after {step:?}");
            assert_eq!(typed.count(), u64::try_from(count).ok(), "the count after {step:?}");
            assert_eq!(typed.is_released(), model.life == Released, "released after {step:?}");
            assert_eq!(counter.mode(), model.mode, "the mode after {step:?}");
        }
        self.crew.check_that_all_wait(step);
    }

    /// Gives back what is left, and sees that this was all.
    fn end(mut self) {
        for which in 0..2 {
            let mut step = Step { thread: 0, which, typed: false, what: What::End(Then::GiveUp) };
            self.step(step);
            step.what = What::Cancel;
            self.step(step);
            let model = &mut self.models[which];
            if model.held > MANY {
                self.reals[which].add(-mem::take(&mut model.held));
            }
            while self.models[which].held != 0 {
                step.what = if self.models[which].held > 0 { What::Put } else { What::Get };
                self.step(step);
            }
            step.what = What::Destroy;
            self.step(step);
            assert_eq!(self.models[which].life, Destroyed, "what is left over at the end");
        }
    }
}

/// Tries what the words say; see `decode`.
pub fn run<F: Face>(text: &[u8]) {
    let _alone = alone();
    let mut case = Case::<F>::new();
    for mut word in words(text) {
        if let Some(step) = decode(&mut word, F::THREADS) {
            case.step(step);
        }
    }
    case.end();
}

/// That what is refused in the sandbox is refused.
pub fn check_sandbox() {
    if !is_refused(SANDBOXED) || !*PER_CPU {
        return;
    }
    let _alone = alone();
    let (step, mut crew) = (&"the sandbox", Crew::<()>::new(|| ()));
    let counter: &'static ModuleRef = Box::leak(Box::new(ModuleRef::new_percpu().expect("memory")));
    let release = move || counter.try_release().map(drop);
    let refused = Err(ReleaseError::Barrier { errno: REFUSAL });
    assert_eq!(crew.run(step, SANDBOXED, release), refused);
    assert_eq!(crew.run(step, 0, release), Ok(()));
    let new = || ModuleRef::new_percpu().map(drop);
    let all = crew.run(step, SANDBOXED, take_all_slots);
    assert!(!all.is_empty());
    assert_eq!(crew.run(step, SANDBOXED, new), Err(InitError::NoMemory));
    assert_eq!(crew.run(step, 0, new), Ok(()), "outside there is more");
}
