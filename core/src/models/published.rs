//! Models of a value that is read under a counter, under loom.
//!
//! Within the bound of `PREEMPTIONS` they take less than a second.

use crate::counter::published::Published;
use crate::sync::{Data, Shared, explore};

/// A state of the value: a number, and memory that its end writes.
struct State(u64, Data);

impl State {
    fn new(number: u64) -> Self {
        Self(number, Data::new())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.1.write(false);
    }
}

/// What a reader sees, which has to be a state that is not dropped while it looks.
fn look(value: &Published<State>) -> u64 {
    let state = value.read();
    assert!(state.1.read(), "a state was dropped under its reader");
    state.0
}

#[test]
fn a_reader_sees_the_states_in_their_order() {
    // The third state is written into the place of the first, if nobody is in it.
    let seen = explore("a_reader_sees_the_states_in_their_order", |run| {
        let (value, token) = Published::new(State::new(0));
        let value = Shared::new(value);
        let reader = value.clone();
        run.thread(move || {
            let first = look(&reader);
            assert!(first <= look(&reader), "a reader went back to an earlier state");
        });
        let writer = value.clone();
        let token = std::sync::Mutex::new(token);
        run.thread(move || {
            let mut token = token.lock().unwrap();
            writer.write(&mut token, State::new(1));
            writer.write(&mut token, State::new(2));
        });
        move || format!("state {}", look(&value))
    });
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["state 2"]);
}
