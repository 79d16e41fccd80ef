//! The counter against a reference model that is simple enough to be right: one
//! thread, random operations, every answer and every report compared.

use core::time::Duration;
use module_ref::misuse::{self, Caller, Misuse};
use module_ref::{Counter, DrainError, InitError, ReleaseError};
use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use std::cell::RefCell;

#[derive(Clone, Debug)]
enum Operation {
    TryGet,
    Get,
    Put,
    TryRelease,
    Drain,
    Reinit,
    Destroy,
    Init,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Life {
    Live,
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
}

/// The model: a life and a number.
#[derive(Clone, Debug)]
struct Model {
    life: Life,
    held: u64,
    answer: Answer,
    reported: Vec<Misuse>,
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Operation;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self { life: Life::Live, held: 0, answer: Answer::Nothing, reported: vec![] }).boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Operation> {
        use Operation::*;
        prop_oneof![
            6 => Just(TryGet),
            2 => Just(Get),
            6 => Just(Put),
            3 => Just(TryRelease),
            3 => Just(Drain),
            3 => Just(Reinit),
            1 => Just(Destroy),
            1 => Just(Init),
        ]
        .boxed()
    }

    fn apply(mut model: Self, operation: &Operation) -> Self {
        use Life::*;
        model.reported.clear();
        let release = |model: &mut Self| match (model.life, model.held) {
            (Live, 0) => {
                model.life = Released;
                Ok(())
            }
            (Live, held) => Err(ReleaseError::InUse { held }),
            (Released, _) => Err(ReleaseError::AlreadyReleased),
            (Destroyed, _) => Err(ReleaseError::Destroyed),
        };
        model.answer = match operation {
            Operation::TryGet => {
                model.held += u64::from(model.life == Live);
                Answer::Got(model.life == Live)
            }
            Operation::Get => {
                if model.life == Live {
                    model.held += 1;
                } else {
                    model.reported.push(Misuse::StaleGet);
                }
                Answer::Nothing
            }
            Operation::Put => {
                match model.held.checked_sub(1) {
                    Some(left) => model.held = left,
                    None => model.reported.push(Misuse::SurplusPut),
                }
                Answer::Nothing
            }
            Operation::TryRelease => Answer::Release(release(&mut model)),
            Operation::Drain => Answer::Drain(release(&mut model).map_err(DrainError::from)),
            Operation::Reinit => Answer::Init(match model.life {
                Live => Err(InitError::InUse),
                Destroyed => Err(InitError::Destroyed),
                Released => {
                    model.life = Live;
                    Ok(())
                }
            }),
            Operation::Destroy => {
                if model.life == Live && model.held > 0 {
                    model.reported.push(Misuse::Leaked);
                } else {
                    model.life = Destroyed;
                }
                Answer::Nothing
            }
            Operation::Init => Answer::Init(if model.held > 0 {
                Err(InitError::InUse)
            } else {
                model.life = Live;
                Ok(())
            }),
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

struct TheCounter;

impl StateMachineTest for TheCounter {
    type SystemUnderTest = Box<Counter>;
    type Reference = Model;

    fn init_test(_: &Model) -> Box<Counter> {
        misuse::set_handler(Some(on_misuse));
        let mut counter = Box::new(Counter::new());
        // SAFETY: the place is ours alone.
        unsafe { Counter::init(&mut *counter) }.expect("memory that was not stamped");
        counter
    }

    fn apply(mut counter: Box<Counter>, model: &Model, operation: Operation) -> Box<Counter> {
        const NOBODY: Caller = Caller::UNKNOWN;
        // SAFETY: nothing relies on the references of this counter, so that every
        // operation may be tried in every state; reports are part of what is compared.
        let answer = unsafe {
            match operation {
                Operation::TryGet => Answer::Got(counter.try_get(NOBODY)),
                Operation::Get => {
                    counter.get(NOBODY);
                    Answer::Nothing
                }
                Operation::Put => {
                    counter.put(NOBODY);
                    Answer::Nothing
                }
                Operation::TryRelease => Answer::Release(counter.try_release(NOBODY)),
                Operation::Drain => Answer::Drain(counter.drain(NOBODY, Some(Duration::ZERO))),
                Operation::Reinit => Answer::Init(counter.reinit()),
                Operation::Destroy => {
                    counter.destroy(NOBODY);
                    Answer::Nothing
                }
                Operation::Init => Answer::Init(Counter::init(&mut *counter)),
            }
        };
        assert_eq!(answer, model.answer, "{operation:?}");
        assert_eq!(REPORTED.take(), model.reported, "{operation:?}");
        counter
    }

    fn check_invariants(counter: &Box<Counter>, model: &Model) {
        assert_eq!(counter.is_released(), model.life == Life::Released);
        let count = if model.life == Life::Live { model.held as i64 } else { -1 };
        assert_eq!(counter.count(), count);
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_counter_answers_as_the_model(sequential 1..60 => TheCounter);
}
