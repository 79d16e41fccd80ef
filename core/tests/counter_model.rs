//! The counter against the model, in any order of operations.

#[path = "model/mod.rs"]
mod model;
mod support;

use model::counter::{Rust, check_sandbox, run};
use proptest::prelude::*;

const LETTERS: &[u8] = b"ttttttttttttttttttttttgggggggppppppppppppppppppppprrrrrrrrrdddddddd\
    hhhhhhwwwwwyyyybbbbfffffceeeeeeeeeexxxijjjknommmmmm";

proptest! {
    #![proptest_config(support::config(1000))]

    #[test]
    fn the_counter_answers_as_the_model(
        start in prop::sample::select(&["", "j00 j10 ", "j00 "]),
        text in support::text(LETTERS, 80),
    ) {
        run::<Rust>((start.to_owned() + &text).as_bytes());
    }
}

#[test]
fn the_sandbox_refuses() {
    check_sandbox();
}
