//! The counter against a reference model that is simple enough to be right: a life and a number.
//!
//! Four threads take steps, one at a time, that proptest chooses, on CPUs that it chooses, too.
//! Every answer and every report of a misuse is compared, and after each step what the counter
//! says of itself. A thread that has to wait is left waiting while others go on, and has to answer
//! in the very step that ends its wait. To one of the threads the barrier is refused that
//! releases a per-CPU counter, and the memory for slots: it has to be told so, and nothing may be
//! lost by it.

mod support;

use core::time::Duration;
use module_ref::misuse::{self, Caller, Misuse};
use module_ref::{Counter, DrainError, Guard, InitError, Mode, ModuleRef, ReleaseError, Released};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use support::{
    Answer as Pending, PER_CPU, REFUSAL, SANDBOXED, THREADS, Threads, await_while, is_refused,
    run_on, take_all_slots,
};

/// One case at a time: a step that takes all slots must meet nobody who gives one back.
fn alone() -> MutexGuard<'static, ()> {
    static CASE: Mutex<()> = Mutex::new(());
    CASE.lock().unwrap_or_else(PoisonError::into_inner)
}

const SHORT: Duration = Duration::from_micros(300);

// ---- the protocol without types, misused in every way ---------------------------------------

#[derive(Clone, Debug)]
enum What {
    TryGet,
    Get,
    Put,
    TryRelease,
    Drain(Option<Duration>),
    Reinit,
    Destroy,
    Init,
    InitPerCpu,
    /// As before, with all slots taken.
    InitWithoutRoom,
    RunOn(usize),
}

#[derive(Clone, Debug)]
struct Operation {
    thread: usize,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Life {
    Live,
    /// Somebody waits for the last put: that thread.
    Draining(usize),
    Released,
    Destroyed,
}

/// What the operation has to answer.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Nothing,
    Got(bool),
    Release(Result<(), ReleaseError>),
    Drain(Result<(), DrainError>),
    Init(Result<(), InitError>),
    /// It waits.
    Later,
}

#[derive(Clone, Debug)]
struct Model {
    life: Life,
    mode: Mode,
    /// Per CPU this goes below zero, until a release finds that out.
    held: i64,
    answer: Answer,
    reported: Vec<Misuse>,
    /// The wait of a drain has ended with this step.
    drained: bool,
}

impl Model {
    /// An attempt to release, in its first moment; `InUse` may yet be waited for.
    fn release(&mut self, thread: usize, drain: bool) -> Result<(), ReleaseError> {
        match self.life {
            Life::Live => {}
            Life::Draining(_) => return Err(ReleaseError::Busy),
            Life::Released => return Err(ReleaseError::AlreadyReleased),
            Life::Destroyed => return Err(ReleaseError::Destroyed),
        }
        // A look at a counter that is held needs no barrier.
        if self.mode == Mode::PerCpu && is_refused(thread) && (drain || self.held <= 0) {
            return Err(ReleaseError::Barrier { errno: REFUSAL });
        }
        if self.held < 0 {
            // Once for all of them; and only who drains looks again.
            self.reported.push(Misuse::SurplusPut);
            self.held = 0;
            if !drain {
                return Err(ReleaseError::InUse { held: 0 });
            }
        }
        if self.held > 0 {
            return Err(ReleaseError::InUse { held: self.held as u64 });
        }
        self.life = Life::Released;
        Ok(())
    }

    fn init(&mut self, mode: Mode, room: bool) -> Result<(), InitError> {
        match self.life {
            Life::Draining(_) => return Err(InitError::InUse),
            Life::Live if self.held != 0 => return Err(InitError::InUse),
            _ if !room => return Err(InitError::NoMemory),
            _ => {}
        }
        (self.life, self.mode) = (Life::Live, mode);
        Ok(())
    }
}

fn per_cpu() -> Mode {
    if *PER_CPU { Mode::PerCpu } else { Mode::Atomic }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Operation;

    fn init_state() -> BoxedStrategy<Self> {
        let model = |per_cpu_wanted| Self {
            life: Life::Live,
            mode: if per_cpu_wanted { per_cpu() } else { Mode::Atomic },
            held: 0,
            answer: Answer::Nothing,
            reported: vec![],
            drained: false,
        };
        any::<bool>().prop_map(model).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Operation> {
        use What::*;
        let what = prop_oneof![
            120 => Just(TryGet),
            40 => Just(Get),
            120 => Just(Put),
            60 => Just(TryRelease),
            30 => Just(Drain(Some(Duration::ZERO))),
            10 => Just(Drain(Some(SHORT))),
            30 => Just(Drain(None)),
            60 => Just(Reinit),
            20 => Just(Destroy),
            10 => Just(Init),
            20 => Just(InitPerCpu),
            2 => Just(InitWithoutRoom),
            40 => (0..4usize).prop_map(RunOn),
        ];
        (0..THREADS, what).prop_map(|(thread, what)| Operation { thread, what }).boxed()
    }

    fn preconditions(model: &Self, operation: &Operation) -> bool {
        let Operation { thread, what } = operation;
        // One that waits does nothing else; and the room is taken in the sandbox alone.
        model.life != Life::Draining(*thread)
            && (!matches!(what, What::InitWithoutRoom) || is_refused(*thread) && *PER_CPU)
    }

    fn apply(mut model: Self, Operation { thread, what }: &Operation) -> Self {
        use Life::*;
        model.reported.clear();
        model.drained = false;
        model.answer = match what {
            What::TryGet => {
                model.held += i64::from(model.life == Live);
                Answer::Got(model.life == Live)
            }
            What::Get => {
                // One that holds may get while others drain.
                match model.life {
                    Live | Draining(_) => model.held += 1,
                    Released | Destroyed => model.reported.push(Misuse::StaleGet),
                }
                Answer::Nothing
            }
            What::Put => {
                if model.held > 0 || model.life == Live && model.mode == Mode::PerCpu {
                    model.held -= 1;
                } else {
                    model.reported.push(Misuse::SurplusPut);
                }
                if model.held == 0 && matches!(model.life, Draining(_)) {
                    model.life = Released;
                    model.drained = true;
                }
                Answer::Nothing
            }
            What::TryRelease => Answer::Release(model.release(*thread, false)),
            What::Drain(timeout) => match model.release(*thread, true) {
                Err(ReleaseError::InUse { .. }) if timeout.is_none() => {
                    model.life = Draining(*thread);
                    Answer::Later
                }
                outcome => Answer::Drain(outcome.map_err(DrainError::from)),
            },
            What::Reinit => Answer::Init(match model.life {
                Live | Draining(_) => Err(InitError::InUse),
                Destroyed => Err(InitError::Destroyed),
                Released => {
                    model.life = Live;
                    Ok(())
                }
            }),
            What::Destroy => {
                let mut outcome = model.release(*thread, false);
                if outcome == Err(ReleaseError::InUse { held: 0 }) {
                    // Mended: again.
                    outcome = model.release(*thread, false);
                }
                match outcome {
                    Ok(()) | Err(ReleaseError::AlreadyReleased) => {
                        // It has no slots any more.
                        (model.life, model.mode) = (Destroyed, Mode::Atomic);
                    }
                    Err(ReleaseError::Destroyed) => {}
                    Err(_) => model.reported.push(Misuse::Leaked),
                }
                Answer::Nothing
            }
            What::Init => Answer::Init(model.init(Mode::Atomic, true)),
            What::InitPerCpu => Answer::Init(model.init(per_cpu(), true)),
            What::InitWithoutRoom => Answer::Init(model.init(per_cpu(), false)),
            What::RunOn(_) => Answer::Nothing,
        };
        model
    }
}

thread_local! {
    static REPORTED: RefCell<Vec<Misuse>> = const { RefCell::new(Vec::new()) };
}

unsafe extern "C" fn on_misuse(what: Misuse, _: *const Counter, _: Caller) {
    REPORTED.with_borrow_mut(|reported| reported.push(what));
}

const NOBODY: Caller = Caller::UNKNOWN;

#[derive(Clone, Copy)]
struct Place(*mut Counter);

// SAFETY: a counter is for all threads, and init is called while no other changes it.
unsafe impl Send for Place {}

impl Place {
    /// # Safety
    ///
    /// The counter is there. Nothing relies on its references, so that every operation may be
    /// tried in every state.
    unsafe fn perform(self, what: What) -> Answer {
        // SAFETY: the caller's promise.
        unsafe {
            let counter = &*self.0;
            match what {
                What::TryGet => return Answer::Got(counter.try_get(NOBODY)),
                What::Get => counter.get(NOBODY),
                What::Put => counter.put(NOBODY),
                What::TryRelease => return Answer::Release(counter.try_release(NOBODY)),
                What::Drain(timeout) => return Answer::Drain(counter.drain(NOBODY, timeout)),
                What::Reinit => return Answer::Init(counter.reinit()),
                What::Destroy => counter.destroy(NOBODY),
                What::Init => return Answer::Init(Counter::init(self.0)),
                What::InitPerCpu => return Answer::Init(Counter::init_percpu(self.0)),
                What::InitWithoutRoom => {
                    let _all = take_all_slots();
                    return Answer::Init(Counter::init_percpu(self.0));
                }
                What::RunOn(cpu) => run_on(cpu),
            }
        }
        Answer::Nothing
    }
}

struct TheCounter {
    place: Place,
    threads: Threads,
    waiting: Option<Pending<(Answer, Vec<Misuse>)>>,
    _alone: MutexGuard<'static, ()>,
}

impl TheCounter {
    fn counter(&self) -> &Counter {
        // SAFETY: made by init_test, and freed by teardown.
        unsafe { &*self.place.0 }
    }
}

impl StateMachineTest for TheCounter {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(model: &Model) -> Self {
        let alone = alone();
        misuse::set_handler(Some(on_misuse));
        let place = Place(Box::into_raw(Box::new(Counter::new())));
        // SAFETY: the place is ours alone.
        let made = unsafe {
            match model.mode {
                Mode::Atomic => Counter::init(place.0),
                Mode::PerCpu => Counter::init_percpu(place.0),
            }
        };
        made.expect("memory that is not in use");
        Self { place, threads: Threads::new(|| ()), waiting: None, _alone: alone }
    }

    fn apply(mut this: Self, model: &Model, operation: Operation) -> Self {
        let Operation { thread, what } = operation.clone();
        let place = this.place;
        let pending = this.threads.start(thread, move || {
            let place = place;
            // SAFETY: the counter stays until teardown.
            let answer = unsafe { place.perform(what) };
            (answer, REPORTED.take())
        });
        if model.answer == Answer::Later {
            // It is there once the door is shut.
            await_while(&pending, || {
                let open = this.counter().try_get(NOBODY);
                if open {
                    // SAFETY: from the line above.
                    unsafe { this.counter().put(NOBODY) };
                }
                !open
            });
            this.waiting = Some(pending);
        } else {
            let (answer, reported) = pending.get(&operation);
            assert_eq!(answer, model.answer, "{operation:?}");
            assert_eq!(reported, model.reported, "{operation:?}");
        }
        if model.drained {
            let waiting = this.waiting.take().expect("somebody waits");
            assert_eq!(waiting.get(&operation), (Answer::Drain(Ok(())), vec![]), "{operation:?}");
        }
        this
    }

    fn check_invariants(this: &Self, model: &Model) {
        let counter = this.counter();
        assert_eq!(counter.is_released(), model.life == Life::Released);
        let count = match model.life {
            Life::Live | Life::Draining(_) => model.held.max(0),
            Life::Released | Life::Destroyed => -1,
        };
        assert_eq!(counter.count(), count);
        assert_eq!(counter.mode(), model.mode);
        let early = this.waiting.as_ref().and_then(Pending::look);
        assert_eq!(early, None, "a drain has ended while {} were held", model.held);
    }

    /// Gives back what is left, and sees that this was all.
    fn teardown(mut this: Self, model: Model) {
        for _ in 0..model.held {
            // SAFETY: the model has it that somebody has not put.
            unsafe { this.counter().put(NOBODY) };
        }
        for _ in model.held..0 {
            // SAFETY: makes up for a put.
            unsafe { this.counter().get(NOBODY) };
        }
        if let Some(waiting) = this.waiting.take() {
            assert_eq!(waiting.get(&"the end").0, Answer::Drain(Ok(())));
        }
        // SAFETY: nobody else uses it.
        unsafe { this.counter().destroy(NOBODY) };
        assert_eq!(REPORTED.take(), vec![], "what is left over at the end");
        // SAFETY: from Box::into_raw, and the threads have nothing to do any more.
        drop(unsafe { Box::from_raw(this.place.0) });
    }
}

prop_state_machine! {
    #![proptest_config(support::config(600))]

    #[test]
    fn the_counter_answers_as_the_model(sequential 1..60 => TheCounter);
}

// ---- guards, and waits of one's own ---------------------------------------------------------

/// What the waiter of a drain does when it is first asked, beside dropping guards.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    GiveUp,
    Panic,
}

#[derive(Clone, Debug)]
enum Act {
    TryGet,
    Clone(Index),
    Drop(Index),
    /// Goes through a raw reference, and another thread.
    Raw(Index),
    /// A reference that is lost.
    Forget(Index),
    TryRelease,
    /// With a waiter that drops as many guards.
    Drain {
        drops: usize,
        then: Then,
    },
    /// For ever, asleep.
    Sleep,
    /// With a waiter that waits for another step.
    Wait,
    /// That step.
    End(Then),
    Reinit,
    LoseProof,
    RunOn(usize),
}

#[derive(Clone, Debug)]
struct Step {
    thread: usize,
    act: Act,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Live,
    /// By that thread; and whether another step can end it.
    Waiting {
        thread: usize,
        interruptible: bool,
    },
    /// And whether there is a proof of it.
    Released {
        proof: bool,
    },
}

#[derive(Clone, Debug, PartialEq)]
enum Reply {
    Nothing,
    Got(bool),
    Release(Result<(), ReleaseError>),
    Drain(Result<(), DrainError>),
    Panicked,
    Later,
}

#[derive(Clone, Debug)]
struct Guards {
    mode: Mode,
    phase: Phase,
    guards: usize,
    forgotten: usize,
    reply: Reply,
    /// What the thread that waited has to answer after this step.
    ended: Option<Reply>,
}

impl Guards {
    fn held(&self) -> usize {
        self.guards + self.forgotten
    }

    fn release(&mut self, thread: usize, drain: bool) -> Result<(), ReleaseError> {
        match self.phase {
            Phase::Live => {}
            Phase::Waiting { .. } => return Err(ReleaseError::Busy),
            Phase::Released { .. } => return Err(ReleaseError::AlreadyReleased),
        }
        let held = self.held();
        if self.mode == Mode::PerCpu && is_refused(thread) && (drain || held == 0) {
            return Err(ReleaseError::Barrier { errno: REFUSAL });
        }
        if held > 0 {
            return Err(ReleaseError::InUse { held: held as u64 });
        }
        self.phase = Phase::Released { proof: true };
        Ok(())
    }

    /// A guard has gone.
    fn dropped(&mut self) {
        self.guards -= 1;
        if self.held() == 0 && matches!(self.phase, Phase::Waiting { .. }) {
            self.phase = Phase::Released { proof: true };
            self.ended = Some(Reply::Drain(Ok(())));
        }
    }

    fn timed_out(&self) -> Reply {
        Reply::Drain(Err(DrainError::TimedOut { held: self.held() as u64 }))
    }
}

impl ReferenceStateMachine for Guards {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        let model = |wanted| Self {
            mode: if wanted { per_cpu() } else { Mode::Atomic },
            phase: Phase::Live,
            guards: 0,
            forgotten: 0,
            reply: Reply::Nothing,
            ended: None,
        };
        any::<bool>().prop_map(model).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        use Act::*;
        let index = any::<Index>;
        let then = || prop_oneof![3 => Just(Then::GiveUp), 1 => Just(Then::Panic)];
        let act = prop_oneof![
            12 => Just(TryGet),
            4 => index().prop_map(Clone),
            12 => index().prop_map(Drop),
            2 => index().prop_map(Raw),
            1 => index().prop_map(Forget),
            5 => Just(TryRelease),
            4 => (0..4usize, then()).prop_map(|(drops, then)| Drain { drops, then }),
            3 => Just(Sleep),
            4 => Just(Wait),
            4 => then().prop_map(End),
            8 => Just(Reinit),
            1 => Just(LoseProof),
            4 => (0..4usize).prop_map(RunOn),
        ];
        (0..THREADS, act).prop_map(|(thread, act)| Step { thread, act }).boxed()
    }

    fn preconditions(model: &Self, step: &Step) -> bool {
        let able = match step.act {
            Act::Clone(_) | Act::Drop(_) | Act::Raw(_) => model.guards > 0,
            // So rarely that most cases go on.
            Act::Forget(_) => {
                let sleeps = matches!(model.phase, Phase::Waiting { interruptible: false, .. });
                model.guards > 3 && model.forgotten == 0 && !sleeps
            }
            // Nobody would ever end it.
            Act::Sleep => model.forgotten == 0,
            Act::End(_) => matches!(model.phase, Phase::Waiting { interruptible: true, .. }),
            Act::Reinit => model.phase == Phase::Released { proof: true },
            Act::LoseProof => model.phase == Phase::Released { proof: true },
            _ => true,
        };
        able && !matches!(model.phase, Phase::Waiting { thread, .. } if thread == step.thread)
    }

    fn apply(mut model: Self, Step { thread, act }: &Step) -> Self {
        model.ended = None;
        model.reply = match act {
            Act::TryGet => {
                let live = model.phase == Phase::Live;
                model.guards += usize::from(live);
                Reply::Got(live)
            }
            Act::Clone(_) => {
                model.guards += 1;
                Reply::Nothing
            }
            Act::Drop(_) => {
                model.dropped();
                Reply::Nothing
            }
            Act::Raw(_) | Act::RunOn(_) => Reply::Nothing,
            Act::Forget(_) => {
                model.guards -= 1;
                model.forgotten += 1;
                Reply::Nothing
            }
            Act::TryRelease => Reply::Release(model.release(*thread, false)),
            Act::Drain { drops, then } => match model.release(*thread, true) {
                Err(ReleaseError::InUse { .. }) => {
                    model.guards -= model.guards.min(*drops);
                    match then {
                        // The counter is live again even if it was the last one.
                        Then::Panic => Reply::Panicked,
                        // Zero wins.
                        Then::GiveUp if model.held() == 0 => {
                            Reply::Drain(model.release(*thread, true).map_err(DrainError::from))
                        }
                        Then::GiveUp => model.timed_out(),
                    }
                }
                outcome => Reply::Drain(outcome.map_err(DrainError::from)),
            },
            Act::Sleep | Act::Wait => match model.release(*thread, true) {
                Err(ReleaseError::InUse { .. }) => {
                    let interruptible = matches!(act, Act::Wait);
                    model.phase = Phase::Waiting { thread: *thread, interruptible };
                    Reply::Later
                }
                outcome => Reply::Drain(outcome.map_err(DrainError::from)),
            },
            Act::End(then) => {
                model.phase = Phase::Live;
                model.ended = Some(match then {
                    Then::GiveUp => model.timed_out(),
                    Then::Panic => Reply::Panicked,
                });
                Reply::Nothing
            }
            Act::Reinit => {
                model.phase = Phase::Live;
                Reply::Nothing
            }
            Act::LoseProof => {
                model.phase = Phase::Released { proof: false };
                Reply::Nothing
            }
        };
        model
    }
}

/// Orders to a waiter.
const GO_ON: u8 = 0;
const GIVE_UP: u8 = 1;
const PANIC: u8 = 2;

/// What a drain comes to, and the proof if it has won.
type Drained = (Reply, Option<Released<'static>>);

fn drain(counter: &'static ModuleRef, how: impl FnMut(&module_ref::Held<'_>) -> bool) -> Drained {
    match catch_unwind(AssertUnwindSafe(|| counter.drain_with(how))) {
        Err(_) => (Reply::Panicked, None),
        Ok(outcome) => drained(outcome),
    }
}

fn drained(outcome: Result<Released<'static>, DrainError>) -> Drained {
    match outcome {
        Ok(released) => (Reply::Drain(Ok(())), Some(released)),
        Err(error) => (Reply::Drain(Err(error)), None),
    }
}

/// Without a word on standard error.
fn quiet_panic() -> ! {
    resume_unwind(Box::new("the waiter's"))
}

struct TheGuards {
    counter: &'static ModuleRef,
    threads: Threads,
    guards: Vec<Guard<'static>>,
    proof: Option<Released<'static>>,
    order: Arc<AtomicU8>,
    waiting: Option<Pending<Drained>>,
    _alone: MutexGuard<'static, ()>,
}

impl TheGuards {
    fn take(&mut self, which: &Index) -> Guard<'static> {
        self.guards.swap_remove(which.index(self.guards.len()))
    }

    fn step(&mut self, model: &Guards, Step { thread, act }: Step) -> Reply {
        let counter = self.counter;
        match act {
            Act::TryGet => {
                let got = self.threads.run(thread, move || counter.try_get());
                let there = got.is_some();
                self.guards.extend(got);
                return Reply::Got(there);
            }
            Act::Clone(which) => {
                let guard = self.take(&which);
                let both = self.threads.run(thread, move || [guard.clone(), guard]);
                self.guards.extend(both);
            }
            Act::Drop(which) => {
                let guard = self.take(&which);
                self.threads.run(thread, move || drop(guard));
            }
            Act::Raw(which) => {
                let guard = self.take(&which);
                let raw = self.threads.run(thread, move || guard.into_raw());
                // SAFETY: the reference that into_raw has kept.
                self.guards.push(unsafe { Guard::from_raw(raw) });
            }
            Act::Forget(which) => std::mem::forget(self.take(&which)),
            Act::TryRelease => {
                let (outcome, proof) = self.threads.run(thread, move || {
                    let outcome = counter.try_release();
                    (outcome.as_ref().map(|_| ()).map_err(|error| *error), outcome.ok())
                });
                self.proof = proof.or(self.proof.take());
                return Reply::Release(outcome);
            }
            Act::Drain { drops, then } => {
                let mut guards = std::mem::take(&mut self.guards);
                let (outcome, guards) = self.threads.run(thread, move || {
                    let before = counter.count();
                    let outcome = drain(counter, |held| {
                        assert_eq!(Some(held.count()), before, "what the waiter is shown");
                        guards.truncate(guards.len().saturating_sub(drops));
                        match then {
                            Then::GiveUp => false,
                            Then::Panic => quiet_panic(),
                        }
                    });
                    (outcome, guards)
                });
                self.guards = guards;
                self.proof = outcome.1.or(self.proof.take());
                return outcome.0;
            }
            Act::Sleep | Act::Wait => {
                self.order.store(GO_ON, SeqCst);
                let order = self.order.clone();
                let pending = if matches!(act, Act::Sleep) {
                    self.threads.start(thread, move || drained(counter.drain(None)))
                } else {
                    self.threads.start(thread, move || {
                        drain(counter, |held| {
                            held.park_timeout(Duration::from_micros(200));
                            match order.load(SeqCst) {
                                GO_ON => true,
                                GIVE_UP => false,
                                _ => quiet_panic(),
                            }
                        })
                    })
                };
                if model.reply != Reply::Later {
                    let (reply, proof) = pending.get(&thread);
                    self.proof = proof.or(self.proof.take());
                    return reply;
                }
                await_while(&pending, || counter.try_get().is_none());
                self.waiting = Some(pending);
                return Reply::Later;
            }
            Act::End(then) => {
                let order = if then == Then::GiveUp { GIVE_UP } else { PANIC };
                self.order.store(order, SeqCst);
            }
            Act::Reinit => {
                let proof = self.proof.take().expect("the model has one");
                self.threads.run(thread, move || proof.reinit());
            }
            Act::LoseProof => drop(self.proof.take()),
            Act::RunOn(cpu) => self.threads.run(thread, move || run_on(cpu)),
        }
        Reply::Nothing
    }
}

impl StateMachineTest for TheGuards {
    type SystemUnderTest = Self;
    type Reference = Guards;

    fn init_test(model: &Guards) -> Self {
        let alone = alone();
        let counter = match model.mode {
            Mode::Atomic => ModuleRef::new(),
            Mode::PerCpu => ModuleRef::new_percpu().expect("memory"),
        };
        Self {
            counter: Box::leak(Box::new(counter)),
            threads: Threads::new(|| ()),
            guards: vec![],
            proof: None,
            order: Arc::default(),
            waiting: None,
            _alone: alone,
        }
    }

    fn apply(mut this: Self, model: &Guards, step: Step) -> Self {
        let reply = this.step(model, step.clone());
        assert_eq!(reply, model.reply, "{step:?}");
        if let Some(expected) = &model.ended {
            let (reply, proof) = this.waiting.take().expect("somebody waits").get(&step);
            assert_eq!(reply, *expected, "the drain that {step:?} ends");
            this.proof = proof;
        }
        this
    }

    fn check_invariants(this: &Self, model: &Guards) {
        let released = matches!(model.phase, Phase::Released { .. });
        assert_eq!(this.counter.is_released(), released);
        assert_eq!(this.counter.count(), (!released).then_some(model.held() as u64));
        assert_eq!(this.counter.mode(), model.mode);
        assert_eq!(this.guards.len(), model.guards);
        assert_eq!(this.proof.is_some(), model.phase == Phase::Released { proof: true });
        let early = this.waiting.as_ref().and_then(Pending::look);
        assert!(early.is_none(), "a drain has ended while {} were held", model.held());
    }

    fn teardown(mut this: Self, model: Guards) {
        this.guards.clear();
        if let Some(waiting) = this.waiting.take() {
            if model.forgotten > 0 {
                this.order.store(GIVE_UP, SeqCst);
            }
            let expected = match model.forgotten as u64 {
                0 => Ok(()),
                held => Err(DrainError::TimedOut { held }),
            };
            assert_eq!(waiting.get(&"the end").0, Reply::Drain(expected));
        } else if model.forgotten == 0 && !this.counter.is_released() {
            assert!(this.counter.try_release().is_ok(), "what is left over at the end");
        }
        let place = std::ptr::from_ref(this.counter).cast_mut();
        // SAFETY: leaked by init_test; there is no guard and no proof any more, and the threads
        // have nothing to do.
        drop(unsafe { Box::from_raw(place) });
    }
}

prop_state_machine! {
    #![proptest_config(support::config(600))]

    #[test]
    fn guards_answer_as_the_model(sequential 1..60 => TheGuards);
}

/// That what is refused in the machines is refused.
#[test]
fn the_sandbox_refuses() {
    if !is_refused(SANDBOXED) || !*PER_CPU {
        return;
    }
    let _alone = alone();
    let threads = Threads::new(|| ());
    let counter: &'static ModuleRef = Box::leak(Box::new(ModuleRef::new_percpu().expect("memory")));
    for (thread, expected) in
        [(SANDBOXED, Err(ReleaseError::Barrier { errno: REFUSAL })), (0, Ok(()))]
    {
        let outcome = threads.run(thread, move || counter.try_release().map(drop));
        assert_eq!(outcome, expected);
    }
    let all = threads.run(SANDBOXED, take_all_slots);
    assert!(!all.is_empty());
    let outcome = threads.run(SANDBOXED, || ModuleRef::new_percpu().map(drop));
    assert_eq!(outcome, Err(InitError::NoMemory));
    assert!(threads.run(0, || ModuleRef::new_percpu().is_ok()), "outside there is more");
}
