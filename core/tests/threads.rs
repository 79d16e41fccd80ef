//! The typed counter between threads: what a guard protects is there.

use module_ref::{DrainError, ModuleRef, ReleaseError};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::*};
use std::thread;
use std::time::{Duration, Instant};

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
fn per_cpu_counters_share_no_slots() {
    // If two counters had the same slots, each would count the other's references too.
    let make_and_drop = || {
        for _ in 0..50_000 {
            let counters = [1, 2, 3].map(|held| (held, ModuleRef::new_percpu().expect("memory")));
            let mut guards = Vec::new();
            for (held, counter) in &counters {
                guards.extend((0..*held).map(|_| counter.try_get().expect("live")));
            }
            for (held, counter) in &counters {
                assert_eq!(counter.count(), Some(*held));
            }
            drop(guards);
        }
    };
    thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(make_and_drop))));
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
    use module_ref::{Draining, FinishError};
    use std::os::fd::{AsFd, AsRawFd};
    use std::sync::Arc;
    use std::time::Duration;

    fn both(test: impl Fn(&Arc<ModuleRef>)) {
        test(&Arc::new(ModuleRef::new()));
        test(&Arc::new(ModuleRef::new_percpu().unwrap()));
    }

    fn begin(counter: &Arc<ModuleRef>) -> Result<Draining<Arc<ModuleRef>>, DrainError> {
        ModuleRef::drain_begin(counter.clone(), None)
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
            let mut draining = begin(counter).unwrap();
            assert!(counter.try_get().is_none());
            assert_eq!(begin(counter).unwrap_err(), DrainError::Busy);
            assert_eq!(draining.finish().unwrap_err(), FinishError::InUse { held: 1 });
            thread::scope(|scope| {
                scope.spawn(move || drop(guard));
                wait(&draining);
                draining.finish().unwrap().reinit();
            });
            assert_eq!(draining.finish().unwrap_err(), FinishError::NotBegun);
            draining.cancel();
            assert_eq!(counter.count(), Some(0));
        });
    }

    #[test]
    fn a_drain_that_is_cancelled_or_dropped_leaves_the_counter_live() {
        both(|counter| {
            let guard = counter.try_get().unwrap();
            begin(counter).unwrap().cancel();
            drop(begin(counter).unwrap());
            assert_eq!(counter.count(), Some(1));
            let draining = begin(counter).unwrap();
            drop(guard);
            draining.cancel();
            drop(begin(counter).unwrap());
            assert!(counter.try_get().is_some());
        });
    }

    #[test]
    fn a_drain_whose_time_is_up_leaves_the_counter_live() {
        both(|counter| {
            let guard = counter.try_get().unwrap();
            let mut draining =
                ModuleRef::drain_begin(counter.clone(), Some(Duration::from_millis(1))).unwrap();
            wait(&draining);
            assert_eq!(draining.finish().unwrap_err(), FinishError::TimedOut { held: 1 });
            drop(guard);
            assert!(counter.try_get().is_some());
        });
    }
}
