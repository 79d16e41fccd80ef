//! The module host against the model, in any order of operations.

#![cfg(all(feature = "host", target_os = "linux", target_env = "gnu"))]

#[path = "model/mod.rs"]
mod model;
mod support;

use model::host::{Rust, run};
use proptest::prelude::*;

const LETTERS: &[u8] = b"wwwwwwwwllllllllllllllllluuuuuuuuuuurrrrrrrrriiiiiiiiigggggggggtttttcc\
    ppppppppppppppppddddddddeeeeeeeeennqvvxxaaammmyyzzhhfks";

proptest! {
    #![proptest_config(support::config(200))]

    #[test]
    fn the_host_answers_as_the_model(text in support::text(LETTERS, 100)) {
        silence();
        run::<Rust>(text.as_bytes());
    }
}

/// The warnings of loads that fail while they are held are meant, and would be thousands.
fn silence() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let nowhere = std::fs::File::options().write(true).open("/dev/null").unwrap();
        // SAFETY: two descriptors that are open. What tests say goes to standard output.
        unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&nowhere), libc::STDERR_FILENO) };
    });
}

/// What chance finds once in thousands of texts.
#[test]
fn the_host_answers_as_the_model_where_it_has_not() {
    silence();
    for text in [
        // A file in the place of one that is mapped, loaded again after its init function has failed.
        "l024000 w07>000 l00:00: l00:000 s030000",
        // What a failed set has hidden, and what is bound to it after.
        "l041000 y000000 l020060 l034000 w03=000 e08700> r002600",
    ] {
        run::<Rust>(text.as_bytes());
    }
}
