//! The typed counter between threads: what a guard protects is there.

use module_ref::{DrainError, ModuleRef, ReleaseError};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn a_guard_is_a_reference() {
    let counter = ModuleRef::new();
    let guard = counter.try_get().expect("live");
    let second = guard.clone();
    assert_eq!(counter.count(), Some(2));
    assert_eq!(counter.try_release().unwrap_err(), ReleaseError::InUse { held: 2 });
    drop((guard, second));
    let released = counter.try_release().expect("nobody holds it");
    assert_eq!(counter.count(), None);
    assert!(counter.is_released() && counter.try_get().is_none());
    assert_eq!(counter.try_release().unwrap_err(), ReleaseError::AlreadyReleased);
    released.reinit();
    assert_eq!(counter.count(), Some(0));
}

#[test]
fn per_cpu_counters_come_and_go() {
    let counters: Vec<_> = (0..20_000).map(|_| ModuleRef::new_percpu().expect("memory")).collect();
    let guards: Vec<_> = counters.iter().filter_map(ModuleRef::try_get).collect();
    assert_eq!(guards.len(), counters.len());
    assert!(counters.iter().all(|counter| counter.count() == Some(1)));
    // Whoever gets the slots next starts from zero, whatever is left in them.
    guards.into_iter().for_each(std::mem::forget);
    drop(counters);
    for _ in 0..10 {
        let counter = ModuleRef::new_percpu().expect("memory");
        assert_eq!(counter.count(), Some(0));
        drop(counter.try_get());
        let _ = counter.try_release().expect("nobody holds it");
    }
}

#[test]
fn a_guard_survives_as_a_raw_reference() {
    let counter = ModuleRef::new();
    let raw = counter.try_get().expect("live").into_raw();
    assert_eq!(counter.count(), Some(1));
    // SAFETY: the reference that into_raw has kept.
    drop(unsafe { module_ref::Guard::from_raw(raw) });
    assert_eq!(counter.count(), Some(0));
}

#[test]
fn a_drain_gives_up_at_its_deadline_and_not_before() {
    let counter = ModuleRef::new();
    let guard = counter.try_get().expect("live");
    let began = Instant::now();
    let outcome = counter.drain(Some(Duration::from_millis(20))).map(drop);
    assert_eq!(outcome, Err(DrainError::TimedOut { held: 1 }));
    assert!(began.elapsed() >= Duration::from_millis(20));
    drop(guard);
    counter.drain(Some(Duration::ZERO)).expect("nobody holds it").reinit();
    counter.drain(Some(Duration::MAX)).expect("a deadline beyond the clock is none").reinit();
}

#[test]
fn a_waiter_of_ones_own() {
    let counter = ModuleRef::new();
    let mut guard = counter.try_get();
    let mut looks = 0;
    let released = counter.drain_with(|held| {
        looks += 1;
        assert_eq!(held.count(), 1);
        held.park_timeout(Duration::from_micros(10));
        if looks == 3 {
            guard = None;
        }
        true
    });
    released.expect("the guard has gone").reinit();
    assert_eq!(looks, 3);

    let guard = counter.try_get();
    let outcome = counter.drain_with(|_| false).map(drop);
    assert_eq!(outcome, Err(DrainError::TimedOut { held: 1 }));
    drop(guard);

    // Whoever gives up in the moment in which the last guard goes has won.
    let mut guard = counter.try_get();
    let outcome = counter.drain_with(|_| {
        guard = None;
        false
    });
    outcome.expect("zero wins").reinit();
}

#[test]
fn a_waiter_that_panics_leaves_the_counter_live() {
    for counter in [ModuleRef::new(), ModuleRef::new_percpu().expect("memory")] {
        let mut guard = counter.try_get();
        for gone in [false, true] {
            let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let _ = counter.drain_with(|_| {
                    if gone {
                        guard = None;
                    }
                    std::panic::resume_unwind(Box::new(()))
                });
            }));
            assert!(panicked.is_err());
            assert_eq!(counter.count(), Some(u64::from(!gone)));
            drop(counter.try_get().expect("live"));
        }
        let _ = counter.try_release().expect("nobody holds it");
    }
}

#[test]
fn nobody_is_inside_after_a_release() {
    static COUNTER: ModuleRef = ModuleRef::new();
    static THERE: AtomicBool = AtomicBool::new(true);
    static STOP: AtomicBool = AtomicBool::new(false);
    static SERVED: AtomicUsize = AtomicUsize::new(0);

    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !STOP.load(Relaxed) {
                    if let Some(_guard) = COUNTER.try_get() {
                        assert!(THERE.load(Relaxed), "used after its release");
                        SERVED.fetch_add(1, Relaxed);
                    }
                }
            });
        }
        let mut released = 0;
        while released < 2000 {
            let attempt = if released % 2 == 0 {
                COUNTER.drain(Some(Duration::from_secs(1))).ok()
            } else {
                COUNTER.try_release().ok()
            };
            if let Some(won) = attempt {
                THERE.store(false, Relaxed);
                thread::yield_now();
                THERE.store(true, Relaxed);
                won.reinit();
                released += 1;
            }
        }
        STOP.store(true, Relaxed);
    });
    assert!(SERVED.load(Relaxed) > 0);
    assert_eq!(COUNTER.count(), Some(0));
}

#[test]
fn errors_say_what_to_do() {
    let text = ReleaseError::InUse { held: 3 }.to_string();
    assert_eq!(
        text,
        "3 references are held; drain with a timeout to wait for them, or try again later"
    );
    let text = DrainError::TimedOut { held: 1 }.to_string();
    assert!(text.starts_with("time is up and 1 reference is held"), "{text}");
}

#[cfg(target_os = "linux")]
mod begun {
    use super::*;
    use module_ref::FinishError;
    use std::os::fd::{AsFd, AsRawFd};

    fn both(test: impl Fn(&ModuleRef)) {
        test(&ModuleRef::new());
        test(&ModuleRef::new_percpu().unwrap());
    }

    /// Waits, as an event loop would.
    fn wait(descriptor: &impl AsFd) {
        let fd = descriptor.as_fd().as_raw_fd();
        let mut one = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, for the length of the call.
        assert_eq!(unsafe { libc::poll(&mut one, 1, 10_000) }, 1, "never readable");
    }

    #[test]
    fn a_drain_that_is_begun_is_finished() {
        both(|counter| {
            let guard = counter.try_get().unwrap();
            let mut draining = counter.drain_begin().unwrap();
            assert!(counter.try_get().is_none());
            assert_eq!(counter.drain_begin().unwrap_err(), DrainError::Busy);
            assert_eq!(draining.finish().unwrap_err(), FinishError::InUse { held: 1 });
            thread::scope(|scope| {
                scope.spawn(move || drop(guard));
                let released = loop {
                    wait(&draining);
                    match draining.finish() {
                        Ok(released) => break released,
                        Err(why) => assert_eq!(why, FinishError::InUse { held: 1 }),
                    }
                };
                assert_eq!(draining.finish().unwrap_err(), FinishError::NotBegun);
                assert!(draining.cancel().is_none(), "it is over");
                assert!(counter.is_released());
                released.reinit();
            });
            assert_eq!(counter.count(), Some(0));
        });
    }

    #[test]
    fn a_drain_that_is_cancelled_or_dropped_leaves_the_counter_live() {
        both(|counter| {
            let guard = counter.try_get().unwrap();
            assert!(counter.drain_begin().unwrap().cancel().is_none());
            drop(counter.drain_begin().unwrap());
            assert_eq!(counter.count(), Some(1));
            let draining = counter.drain_begin().unwrap();
            drop(guard);
            draining.cancel().expect("zero wins").reinit();
            // Nobody is told of this release, so it is undone.
            drop(counter.drain_begin().unwrap());
            assert!(counter.try_get().is_some());
        });
    }

    #[test]
    fn a_drain_that_is_forgotten_does_no_harm_to_the_next_counter() {
        let mut place = Box::new(ModuleRef::new());
        std::mem::forget(place.drain_begin().unwrap());
        *place = ModuleRef::new();
        let mut draining = place.drain_begin().unwrap();
        wait(&draining);
        let _ = draining.finish().unwrap();
    }
}
