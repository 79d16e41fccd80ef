//! The models: small programs over the shipped counter, run in every way.
//!
//! Each is written once and runs under both checkers, loom and the exhaustive
//! one. Each asserts on the way, ends by naming what happened, and has
//! to show all the outcomes it lists: a model in which the interesting thing never
//! happens proves nothing. `ci/mutants` breaks the counter in every way that
//! matters and sees these fail.
//!
//! A model is not run with every kind of counter where that would take long and show nothing new.
//! Loom preempts twice in one execution; its models take about a minute of one CPU, those of the
//! exhaustive checker ten seconds. (The largest are `two_drainers` and `begun_and_finished`.)
//!
//! ```text
//! RUSTFLAGS="--cfg loom"       cargo test --release --lib models
//! RUSTFLAGS="--cfg interleave" cargo test --release --lib models
//! ```

use crate::Counter;
use crate::counter::release::Ring;
use crate::counter::word::{LIVE, PERCPU, PIN, pack};
use crate::error::{DrainError, ReleaseError};
use crate::misuse::Caller;
use crate::sync::{
    Data, Deadline, Flag, Setup, Shared, Slots, Tally, WORD_GOES, Word, explore, wait, wake_until,
};
use core::sync::atomic::Ordering::{Acquire, Relaxed};
use std::cell::Cell;
use std::thread_local;

const NOBODY: Caller = Caller::UNKNOWN;

/// How the counters of a model count.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Shared,
    PerCpu,
    /// With a barrier that fails, once or at any time, depending on the checker.
    PerCpuBarrierFails,
}

thread_local! {
    static KIND: Cell<Kind> = const { Cell::new(Kind::Shared) };
}

/// A counter, what it protects, and what became of it.
struct World {
    counter: Counter,
    data: Data,
    served: Tally,
    released: Tally,
}

impl World {
    /// A counter that is held `held` times.
    fn new(held: usize) -> Shared<Self> {
        let counter = match KIND.get() {
            Kind::Shared => Counter::new(),
            kind => Counter {
                word: Word::new(LIVE | PERCPU),
                slots: Slots::new(kind == Kind::PerCpuBarrierFails),
            },
        };
        let world =
            Self { counter, data: Data::new(), served: Tally::new(), released: Tally::new() };
        for _ in 0..held {
            assert!(world.counter.try_get_in_word(NOBODY));
        }
        Shared::new(world)
    }

    fn word(&self) -> &Word {
        &self.counter.word
    }

    /// The counter's memory goes away, both words of it.
    fn free(&self) {
        self.counter.word.free();
        self.counter.slots.free_word();
    }

    /// What a holder does: what it uses must be there.
    fn hold(&self) {
        assert!(self.data.read(), "a holder used what was taken away");
        // SAFETY: only called with a reference.
        unsafe { self.counter.put(NOBODY) };
    }

    /// What a user does.
    fn visit(&self) {
        if self.counter.try_get(NOBODY) {
            self.hold();
            self.served.add(1);
        }
    }

    /// What a user does whose thread has no registered sequence.
    fn visit_unregistered(&self) {
        if self.counter.try_get_in_word(NOBODY) {
            assert!(self.data.read(), "a holder used what was taken away");
            // SAFETY: the reference from above.
            unsafe { self.counter.put_in_word(NOBODY) };
            self.served.add(1);
        }
    }

    /// What a user does who takes a reference if somebody holds one.
    fn ask(&self) {
        if self.counter.get_if_held_in_word(NOBODY) {
            self.hold();
            self.served.add(1);
        }
    }

    /// What the winner of a release does.
    fn take_away(&self) {
        self.data.write(false);
        self.released.add(1);
    }

    /// What the winner does to have the thing back.
    fn bring_back(&self) {
        self.data.write(true);
        // SAFETY: only called by the winner.
        unsafe { self.counter.reinit() }.expect("the winner's reinit, whatever refused gets do");
    }

    fn release(&self) -> Result<(), ReleaseError> {
        self.counter.try_release(NOBODY).inspect(|()| self.take_away())
    }

    fn drain(&self, deadline: &Deadline) -> Result<(), DrainError> {
        let outcome = self.counter.drain_until(NOBODY, deadline.clone());
        // Zero wins.
        assert_ne!(outcome, Err(DrainError::TimedOut { held: 0 }), "timed out, and nobody held it");
        outcome.inspect(|()| self.take_away())
    }

    /// The state at the end, when nobody holds anything any more.
    fn end(&self) -> String {
        let (released, served) = (self.released.get(), self.served.get());
        let state = match self.counter.count() {
            0 => "live",
            -1 => "released",
            held => panic!("{held} references are left over"),
        };
        assert_eq!(self.counter.is_released(), state == "released");
        let slots = &self.counter.slots;
        let on = slots.exist() && state == "live";
        assert_eq!(slots.are_on(), on, "the slots and the state differ");
        assert_eq!(
            self.counter.try_get_in_word(NOBODY),
            state == "live",
            "gets and the state differ"
        );
        format!("{state}, released {released}, served {served}")
    }
}

/// Explores a scenario with a shared-word counter and with a per-CPU one, and compares
/// what was seen with what has to be possible. Under loom the per-CPU one is explored where
/// the scenario is small enough for it, as those are that `outcomes_of_both` has.
fn outcomes<E>(
    name: &str,
    expected: &[&str],
    scenario: impl Fn(&mut Setup) -> E + Clone + Send + Sync + 'static,
) where
    E: Fn() -> String + 'static,
{
    outcomes_of(Kind::Shared, name, expected, scenario.clone());
    if cfg!(interleave) {
        outcomes_of(Kind::PerCpu, name, expected, scenario);
    }
}

fn outcomes_of_both<E>(
    name: &str,
    expected: &[&str],
    scenario: impl Fn(&mut Setup) -> E + Clone + Send + Sync + 'static,
) where
    E: Fn() -> String + 'static,
{
    outcomes_of(Kind::Shared, name, expected, scenario.clone());
    outcomes_of(Kind::PerCpu, name, expected, scenario);
}

fn outcomes_of<E>(
    kind: Kind,
    name: &str,
    expected: &[&str],
    scenario: impl Fn(&mut Setup) -> E + Send + Sync + 'static,
) where
    E: Fn() -> String + 'static,
{
    KIND.set(kind);
    WORD_GOES.set(expected.contains(&"freed"));
    let seen = explore(&format!("{name}, {kind:?}"), scenario);
    let seen: Vec<_> = seen.iter().map(String::as_str).collect();
    assert_eq!(seen, expected, "the outcomes of {name}, {kind:?}");
}

#[test]
fn get_and_put_against_release() {
    outcomes(
        "get_and_put_against_release",
        &[
            "live, released 0, served 2",
            "released, released 1, served 0",
            "released, released 1, served 1",
            "released, released 1, served 2",
        ],
        |run| {
            let world = World::new(0);
            for _ in 0..2 {
                let user = world.clone();
                run.thread(move || user.visit());
            }
            let unloader = world.clone();
            run.thread(move || match unloader.release() {
                Ok(()) | Err(ReleaseError::InUse { .. }) => {}
                Err(other) => panic!("the only releaser was told: {other}"),
            });
            move || world.end()
        },
    );
}

#[test]
fn two_releasers() {
    outcomes_of_both(
        "two_releasers",
        &[
            "live, released 0, served 1",
            "released, released 1, served 0",
            "released, released 1, served 1",
        ],
        |run| {
            let world = World::new(0);
            let user = world.clone();
            run.thread(move || user.visit());
            for _ in 0..2 {
                let unloader = world.clone();
                run.thread(move || {
                    let _ = unloader.release();
                });
            }
            move || world.end()
        },
    );
}

#[test]
fn drain_without_timeout() {
    outcomes(
        "drain_without_timeout",
        &["released, released 1, served 0", "released, released 1, served 1"],
        |run| {
            let world = World::new(1);
            let (holder, user, unloader) = (world.clone(), world.clone(), world.clone());
            run.thread(move || holder.hold());
            run.thread(move || user.visit());
            run.thread(move || unloader.drain(&Deadline::Never).expect("it waits"));
            move || world.end()
        },
    );
}

#[test]
fn drain_with_timeout() {
    outcomes(
        "drain_with_timeout",
        &["live, released 0, served 0", "released, released 1, served 0"],
        |run| {
            let world = World::new(1);
            let (holder, unloader) = (world.clone(), world.clone());
            run.thread(move || holder.hold());
            let deadline = run.deadline(world.word());
            run.thread(move || match unloader.drain(&deadline) {
                Ok(()) | Err(DrainError::TimedOut { .. }) => {}
                Err(other) => panic!("the only drainer was told: {other}"),
            });
            move || world.end()
        },
    );
}

#[test]
fn drain_with_timeout_among_users() {
    outcomes_of_both(
        "drain_with_timeout_among_users",
        &[
            "live, released 0, served 0",
            "live, released 0, served 1",
            "released, released 1, served 0",
            "released, released 1, served 1",
        ],
        |run| {
            let world = World::new(0);
            let (user, unloader) = (world.clone(), world.clone());
            run.thread(move || user.visit());
            let deadline = run.deadline(world.word());
            run.thread(move || {
                let _ = unloader.drain(&deadline);
            });
            move || world.end()
        },
    );
}

#[test]
fn two_drainers() {
    outcomes(
        "two_drainers",
        &["live, released 0, served 0", "released, released 1, served 0"],
        |run| {
            let world = World::new(1);
            let holder = world.clone();
            run.thread(move || holder.hold());
            let patient = world.clone();
            let deadline = run.deadline(world.word());
            // A drainer that loses is told so at once; it never waits for the other.
            run.thread(move || {
                let _ = patient.drain(&Deadline::Never);
            });
            let hasty = world.clone();
            run.thread(move || {
                let _ = hasty.drain(&deadline);
            });
            move || world.end()
        },
    );
}

#[test]
fn two_drains_in_turn() {
    // The first drain's wake may still be on its way when the second one sleeps:
    // it must not be taken for a release.
    outcomes("two_drains_in_turn", &["released, released 1, served 0"], |run| {
        let world = World::new(2);
        for _ in 0..2 {
            let holder = world.clone();
            run.thread(move || holder.hold());
        }
        let unloader = world.clone();
        let deadline = run.deadline(world.word());
        run.thread(move || {
            if unloader.drain(&deadline).is_err() {
                unloader.drain(&Deadline::Never).expect("it waits");
            }
        });
        move || world.end()
    });
}

#[test]
fn releaser_and_drainer() {
    // Whoever comes second is told so. A per-CPU releaser that sees a holder has not even
    // begun, so that the drainer is never refused for its sake.
    let released = "released, released 1, served 0";
    for (kind, expected) in [
        (Kind::Shared, &["live, released 0, served 0", released][..]),
        (Kind::PerCpu, &[released][..]),
    ] {
        outcomes_of(kind, "releaser_and_drainer", expected, |run| {
            let world = World::new(1);
            let (holder, releaser, drainer) = (world.clone(), world.clone(), world.clone());
            run.thread(move || holder.hold());
            run.thread(move || {
                let _ = releaser.release();
            });
            run.thread(move || match drainer.drain(&Deadline::Never) {
                Ok(()) | Err(DrainError::Busy | DrainError::AlreadyReleased) => {}
                Err(other) => panic!("a drainer without a deadline was told: {other}"),
            });
            move || world.end()
        });
    }
}

#[test]
fn reinit_with_refused_gets_straddling_it() {
    outcomes(
        "reinit_with_refused_gets_straddling_it",
        &["live, released 1, served 0", "live, released 1, served 1", "live, released 1, served 2"],
        |run| {
            let world = World::new(0);
            for _ in 0..2 {
                let user = world.clone();
                run.thread(move || user.visit());
            }
            let unloader = world.clone();
            run.thread(move || {
                unloader.drain(&Deadline::Never).expect("it waits");
                unloader.bring_back();
            });
            move || world.end()
        },
    );
}

#[test]
fn released_means_the_flags() {
    // A get that was let in, or refused, while another looks at a released word:
    // neither the second release nor the winner may be misled by the count.
    outcomes(
        "released_means_the_flags",
        &["live, released 1, served 0", "live, released 1, served 1"],
        |run| {
            let world = World::new(0);
            let user = world.clone();
            run.thread(move || user.visit());
            let unloader = world.clone();
            run.thread(move || {
                if unloader.drain(&Deadline::Never).is_ok() {
                    assert!(unloader.counter.is_released());
                    assert_eq!(unloader.counter.count(), -1);
                    assert_eq!(
                        unloader.counter.try_release(NOBODY),
                        Err(ReleaseError::AlreadyReleased)
                    );
                    unloader.bring_back();
                }
            });
            move || world.end()
        },
    );
}

#[test]
fn put_then_free_by_the_drainer() {
    outcomes("put_then_free_by_the_drainer", &["freed"], |run| {
        let world = World::new(2);
        for _ in 0..2 {
            let holder = world.clone();
            run.thread(move || holder.hold());
        }
        let unloader = world.clone();
        run.thread(move || {
            unloader.drain(&Deadline::Never).expect("it waits");
            // SAFETY: this thread has just won the release.
            unsafe { unloader.counter.destroy(NOBODY) };
            unloader.free();
        });
        || "freed".into()
    });
}

#[test]
fn put_then_free_by_the_releaser() {
    outcomes("put_then_free_by_the_releaser", &["freed", "live, released 0, served 0"], |run| {
        let world = World::new(1);
        let (holder, unloader) = (world.clone(), world.clone());
        run.thread(move || holder.hold());
        run.thread(move || {
            if unloader.release().is_ok() {
                unloader.free();
            }
        });
        move || if world.released.get() == 1 { "freed".into() } else { world.end() }
    });
}

#[test]
fn a_get_by_a_holder_while_draining() {
    outcomes("a_get_by_a_holder_while_draining", &["released, released 1, served 0"], |run| {
        let world = World::new(1);
        let (holder, unloader) = (world.clone(), world.clone());
        run.thread(move || {
            // SAFETY: the reference from the beginning is still held.
            unsafe { holder.counter.get(NOBODY) };
            holder.hold();
            holder.hold();
        });
        run.thread(move || unloader.drain(&Deadline::Never).expect("it waits"));
        move || world.end()
    });
}

#[test]
fn a_get_if_held_against_a_drain() {
    // The holder hears that somebody holds it, also from a drain that has not folded its slots yet.
    outcomes_of_both(
        "a_get_if_held_against_a_drain",
        &["released, released 1, served 0", "released, released 1, served 1"],
        |run| {
            let world = World::new(0);
            let (holder, unloader) = (world.clone(), world.clone());
            run.thread(move || {
                if holder.counter.try_get(NOBODY) {
                    assert!(holder.counter.get_if_held(NOBODY), "refused, and it is held");
                    holder.hold();
                    holder.hold();
                    holder.served.add(1);
                }
            });
            run.thread(move || unloader.drain(&Deadline::Never).expect("it waits"));
            move || world.end()
        },
    );
}

#[test]
fn a_get_if_held_by_another() {
    // Whoever asks holds nothing; the holder puts meanwhile, and a get is refused.
    outcomes_of(
        Kind::Shared,
        "a_get_if_held_by_another",
        &[
            "released, released 1, served 0",
            "released, released 1, served 1",
            "released, released 1, served 2",
        ],
        |run| {
            let world = World::new(1);
            let (holder, asks) = (world.clone(), world.clone());
            let (user, unloader) = (world.clone(), world.clone());
            run.thread(move || {
                holder.hold();
                user.visit();
            });
            run.thread(move || asks.ask());
            run.thread(move || unloader.drain(&Deadline::Never).expect("it waits"));
            move || world.end()
        },
    );
}

#[test]
fn a_get_if_held_after_a_reinit() {
    // What the winner has prepared is there for whoever gets in by the exchange.
    outcomes_of_both(
        "a_get_if_held_after_a_reinit",
        &["live, released 1, served 0", "live, released 1, served 1"],
        |run| {
            let world = World::new(0);
            let (user, unloader) = (world.clone(), world.clone());
            run.thread(move || user.ask());
            run.thread(move || {
                unloader.drain(&Deadline::Never).expect("it waits");
                unloader.bring_back();
            });
            move || world.end()
        },
    );
}

#[test]
fn a_surplus_put_with_a_drainer_asleep() {
    outcomes("a_surplus_put_with_a_drainer_asleep", &["released, released 1, served 0"], |run| {
        let world = World::new(0);
        let (culprit, unloader) = (world.clone(), world.clone());
        // SAFETY: no reference stands behind this put; that is the point, and nobody
        // else holds one that it could take.
        run.thread(move || unsafe { culprit.counter.put(NOBODY) });
        run.thread(move || unloader.drain(&Deadline::Never).expect("it waits"));
        move || world.end()
    });
}

// ---- per-CPU counting, for both checkers -----------------------------------------

#[test]
fn percpu_user_against_release() {
    let expected = [
        "live, released 0, served 1",
        "released, released 1, served 0",
        "released, released 1, served 1",
    ];
    outcomes_of(Kind::PerCpu, "percpu_user_against_release", &expected, |run| {
        let world = World::new(0);
        let (user, unloader) = (world.clone(), world.clone());
        run.thread(move || user.visit());
        run.thread(move || {
            let _ = unloader.release();
        });
        move || world.end()
    });
}

#[test]
fn percpu_users_with_and_without_rseq() {
    let expected = [
        "live, released 0, served 2",
        "released, released 1, served 0",
        "released, released 1, served 1",
        "released, released 1, served 2",
    ];
    outcomes_of(Kind::PerCpu, "percpu_users_with_and_without_rseq", &expected, |run| {
        let world = World::new(0);
        let (user, other, unloader) = (world.clone(), world.clone(), world.clone());
        run.thread(move || user.visit());
        run.thread(move || other.visit_unregistered());
        run.thread(move || {
            let _ = unloader.release();
        });
        move || world.end()
    });
}

#[test]
fn percpu_drain_and_put() {
    let expected = ["released, released 1, served 0", "released, released 1, served 1"];
    outcomes_of(Kind::PerCpu, "percpu_drain_and_put", &expected, |run| {
        let world = World::new(0);
        let (user, unloader) = (world.clone(), world.clone());
        run.thread(move || user.visit());
        run.thread(move || unloader.drain(&Deadline::Never).expect("it waits"));
        move || world.end()
    });
}

#[test]
fn closed_now_and_finished_later() {
    // A forced unload: the counter is closed for good, and whoever looks last finds it released.
    outcomes_of_both(
        "closed_now_and_finished_later",
        &["released, released 1, served 0", "released, released 1, served 1"],
        |run| {
            let world = World::new(1);
            let (holder, user, unloader) = (world.clone(), world.clone(), world.clone());
            run.thread(move || holder.hold());
            run.thread(move || user.visit());
            run.thread(move || {
                unloader.counter.close(NOBODY).expect("nobody else releases it");
                if unloader.counter.try_finish() {
                    unloader.take_away();
                }
            });
            move || {
                if world.counter.try_finish() {
                    world.take_away();
                }
                assert!(!world.counter.try_finish(), "released twice");
                world.end()
            }
        },
    );
}

#[test]
fn percpu_reinit() {
    let expected = ["live, released 1, served 0", "live, released 1, served 1"];
    outcomes_of(Kind::PerCpu, "percpu_reinit", &expected, |run| {
        let world = World::new(0);
        let (user, unloader) = (world.clone(), world.clone());
        run.thread(move || user.visit());
        run.thread(move || {
            unloader.drain(&Deadline::Never).expect("it waits");
            unloader.bring_back();
        });
        move || world.end()
    });
}

#[test]
fn percpu_recovery_then_release() {
    // The way back from a refused release has to leave both places adding up.
    let expected = ["released, released 1, served 0", "released, released 1, served 1"];
    outcomes_of(Kind::PerCpu, "percpu_recovery_then_release", &expected, |run| {
        let world = World::new(0);
        let (user, unloader) = (world.clone(), world.clone());
        run.thread(move || user.visit());
        run.thread(move || {
            if unloader.release().is_err() {
                unloader.drain(&Deadline::Never).expect("it waits");
            }
        });
        move || world.end()
    });
}

#[test]
fn percpu_barrier_that_fails() {
    let expected = [
        "live, released 0, served 0",
        "live, released 0, served 1",
        "released, released 1, served 0",
        "released, released 1, served 1",
    ];
    outcomes_of(Kind::PerCpuBarrierFails, "percpu_barrier_that_fails", &expected, |run| {
        let world = World::new(0);
        let (user, unloader) = (world.clone(), world.clone());
        run.thread(move || user.visit());
        run.thread(move || match unloader.drain(&Deadline::Never) {
            Err(DrainError::Barrier { .. }) => {
                assert!(!unloader.counter.is_released());
                let _ = unloader.release();
            }
            other => other.expect("only the barrier fails"),
        });
        move || world.end()
    });
}

#[test]
fn percpu_attempt_after_one_that_gave_up() {
    // The second attempt turns off what the first has turned on again, in that order.
    let expected = ["live, released 0, served 0", "released, released 1, served 0"];
    outcomes_of(
        Kind::PerCpuBarrierFails,
        "percpu_attempt_after_one_that_gave_up",
        &expected,
        |run| {
            let world = World::new(0);
            for _ in 0..2 {
                let unloader = world.clone();
                run.thread(move || {
                    let _ = unloader.release();
                });
            }
            move || world.end()
        },
    );
}

#[test]
fn percpu_destroy_after_a_drain() {
    outcomes_of(Kind::PerCpu, "percpu_destroy_after_a_drain", &["freed"], |run| {
        let world = World::new(1);
        let (holder, unloader) = (world.clone(), world.clone());
        run.thread(move || holder.hold());
        run.thread(move || {
            unloader.drain(&Deadline::Never).expect("it waits");
            // SAFETY: this thread has just won the release.
            unsafe { unloader.counter.destroy(NOBODY) };
            unloader.free();
        });
        || "freed".into()
    });
}

#[test]
fn percpu_surplus_put() {
    // Found by the next attempt, which mends it and is refused; the one after succeeds.
    let expected = ["released, released 1, served 0"];
    outcomes_of(Kind::PerCpu, "percpu_surplus_put", &expected, |run| {
        let world = World::new(0);
        let unloader = world.clone();
        run.thread(move || {
            // SAFETY: no reference stands behind this put, and nobody else holds one.
            unsafe { unloader.counter.put(NOBODY) };
            assert_eq!(unloader.release(), Err(ReleaseError::InUse { held: 0 }));
            assert_eq!(unloader.release(), Ok(()));
        });
        move || world.end()
    });
}

#[cfg(interleave)]
#[test]
fn percpu_attempts_in_turn() {
    // The first attempt is refused, for the first visit; the second one begins while the
    // first is still on its way back, and must not be undone by it: the second visit comes
    // to a closed counter.
    let expected = [
        "live, released 0, served 2",
        "released, released 1, served 0",
        "released, released 1, served 1",
        "released, released 1, served 2",
    ];
    outcomes_of(Kind::PerCpu, "percpu_attempts_in_turn", &expected, |run| {
        let world = World::new(0);
        let user = world.clone();
        run.thread(move || {
            user.visit_unregistered();
            user.visit();
        });
        for _ in 0..2 {
            let unloader = world.clone();
            run.thread(move || {
                let _ = unloader.release();
            });
        }
        move || world.end()
    });
}

#[test]
fn a_pinned_count_against_a_drain() {
    // Pinning moves the count and nothing else, whoever moves the flags meanwhile.
    let expected = ["pinned, served 0", "pinned, served 1"];
    outcomes_of(Kind::Shared, "a_pinned_count_against_a_drain", &expected, |run| {
        let world = World::new(0);
        world.counter.word.fetch_add(pack(0, PIN), Relaxed);
        let (user, unloader) = (world.clone(), world.clone());
        run.thread(move || {
            if user.counter.try_get(NOBODY) {
                user.served.add(1);
            }
        });
        run.thread(move || {
            let outcome = unloader.drain(&Deadline::Never);
            assert!(matches!(outcome, Err(DrainError::TimedOut { .. })), "{outcome:?}");
        });
        move || {
            assert_eq!(world.counter.count(), PIN);
            assert!(world.counter.try_get_in_word(NOBODY), "it is live");
            format!("pinned, served {}", world.served.get())
        }
    });
}

// ---- the drain handle, for both checkers ---------------------------------------------

/// Why a descriptor is readable, as bits.
const DRAINED: u64 = 1;
const HOPELESS: u64 = 2;

/// A drain handle and its watcher, as far as they are not the kernel's.
struct Handle {
    /// The counter is closed.
    watching: Flag,
    /// The watcher shall end.
    stop: Flag,
    /// The descriptor is readable, as an edge-triggered event loop sees it: the watcher has seen
    /// that the last reference was put, or the time is up.
    readable: Flag,
    /// The watcher touches nothing any more.
    ended: Flag,
}

/// A model's world with a drain that is begun in it.
fn begun(run: &mut Setup, held: usize, timed: bool) -> Shared<(World, Handle)> {
    let world = World::new(held);
    let flag = Flag::new;
    let handle = Handle { watching: flag(), stop: flag(), readable: flag(), ended: flag() };
    let world = Shared::try_unwrap(world).unwrap_or_else(|_| unreachable!("it is new"));
    let both = Shared::new((world, handle));
    let watched = both.clone();
    let deadline = if timed { run.deadline(both.0.word()) } else { Deadline::Never };
    run.thread(move || {
        let (world, handle) = &*watched;
        let ring = |why| {
            handle.readable.set(match why {
                Ring::Drained => DRAINED,
                Ring::GiveUp => HOPELESS,
            });
        };
        handle.watching.take();
        world.counter.watch(|| handle.stop.is_set(), ring, deadline.clone());
        handle.ended.set(1);
    });
    both
}

impl World {
    /// As `Drain::begin`.
    fn begin(&self, handle: &Handle) {
        self.counter.close(NOBODY).expect("nobody else releases it");
        handle.watching.set(1);
    }

    /// As `Drain::finish`, when the descriptor has become readable.
    fn finish(&self, handle: &Handle) {
        let why = handle.readable.take();
        let released = if why & DRAINED != 0 {
            let asleep = |word: &Word, seen| wait(word, seen, &mut Deadline::Never);
            self.counter.finish_when_drained(asleep)
        } else {
            self.counter.open_again(NOBODY).is_ok()
        };
        if released {
            self.take_away();
        }
        self.join(handle);
    }

    /// As `Watcher::end`.
    fn join(&self, handle: &Handle) {
        handle.stop.set(1);
        wake_until(self.word(), &handle.ended);
    }
}

#[test]
fn begun_and_finished() {
    // No hint is lost: the watcher has no deadline here.
    outcomes_of_both(
        "begun_and_finished",
        &["released, released 1, served 0", "released, released 1, served 1"],
        |run| {
            let both = begun(run, 0, false);
            let (user, unloader) = (both.clone(), both.clone());
            run.thread(move || user.0.visit());
            run.thread(move || {
                unloader.0.begin(&unloader.1);
                unloader.0.finish(&unloader.1);
            });
            move || both.0.end()
        },
    );
}

#[test]
fn begun_and_finished_with_a_holder() {
    outcomes_of(
        Kind::Shared,
        "begun_and_finished_with_a_holder",
        &["released, released 1, served 0"],
        |run| {
            let both = begun(run, 1, false);
            let (holder, unloader) = (both.clone(), both.clone());
            run.thread(move || {
                // SAFETY: the reference from the beginning is still held.
                unsafe { holder.0.counter.get(NOBODY) };
                holder.0.hold();
                holder.0.hold();
            });
            run.thread(move || {
                unloader.0.begin(&unloader.1);
                unloader.0.finish(&unloader.1);
            });
            move || both.0.end()
        },
    );
}

#[test]
fn begun_with_a_deadline() {
    outcomes_of(
        Kind::Shared,
        "begun_with_a_deadline",
        &["live, released 0, served 0", "released, released 1, served 0"],
        |run| {
            let both = begun(run, 1, true);
            let (holder, unloader) = (both.clone(), both.clone());
            // Before the threads: what comes between is in the models above.
            both.0.counter.close(NOBODY).expect("nobody else releases it");
            run.thread(move || holder.0.hold());
            run.thread(move || {
                unloader.1.watching.set(1);
                unloader.0.finish(&unloader.1);
            });
            move || both.0.end()
        },
    );
}

#[test]
fn begun_and_cancelled() {
    // Live always, also if the last reference has just gone.
    let expected = ["live, released 0, served 0", "live, released 0, served 1"];
    outcomes_of(Kind::Shared, "begun_and_cancelled", &expected, |run| {
        let both = begun(run, 0, false);
        let (user, unloader) = (both.clone(), both.clone());
        run.thread(move || user.0.visit());
        run.thread(move || {
            let (world, handle) = &*unloader;
            world.begin(handle);
            world.counter.live_again();
            world.join(handle);
        });
        move || both.0.end()
    });
}

#[test]
fn closed_and_live_again() {
    // As above, where the watcher, which changes nothing, would multiply the states. What the drainer
    // does once nobody holds a reference is seen by whoever gets one next.
    let expected = ["live, released 0, served 0", "live, released 0, served 1"];
    outcomes_of_both("closed_and_live_again", &expected, |run| {
        let world = World::new(0);
        let (user, unloader) = (world.clone(), world.clone());
        run.thread(move || user.visit());
        run.thread(move || {
            unloader.counter.close(NOBODY).expect("nobody else releases it");
            // Acquire: as `finish` would.
            if unloader.word().load(Acquire) == crate::counter::word::DRAINED {
                unloader.data.write(true);
            }
            unloader.counter.live_again();
        });
        move || world.end()
    });
}

#[test]
fn begun_and_finished_then_freed() {
    // The watcher touches nothing after it is joined.
    outcomes_of_both("begun_and_finished_then_freed", &["freed"], |run| {
        let both = begun(run, 1, false);
        let (holder, unloader) = (both.clone(), both.clone());
        run.thread(move || holder.0.hold());
        run.thread(move || {
            let (world, handle) = &*unloader;
            world.begin(handle);
            world.finish(handle);
            // SAFETY: this thread has just won the release.
            unsafe { world.counter.destroy(NOBODY) };
            world.free();
        });
        || "freed".into()
    });
}
