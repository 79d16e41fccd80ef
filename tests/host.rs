//! The module host from Rust, on real shared objects, and under random operations against a
//! small model of what Linux's tables say.

#![cfg(all(feature = "host", target_os = "linux", target_env = "gnu"))]

use module_ref::Mode;
use module_ref::host::{Error, Host, Load, Module, Reference, State, Unload, Unloaded};
use proptest::prelude::*;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::Duration;

type Answer = unsafe extern "C" fn() -> i64;

/// A plugin whose `answer()` is a number, and that has an init and an exit function.
fn plugin(answer: i64) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join(format!("answers-{answer}.so"));
    static BUILD: Mutex<()> = Mutex::new(());
    let _one_at_a_time = BUILD.lock();
    if !path.exists() {
        let source = folder.join(format!("answers-{answer}.c"));
        let text = format!(
            "int init_module(void) {{ return 0; }}\nvoid cleanup_module(void) {{ }}\n\
             long answer(void) {{ return {answer}; }}\n"
        );
        std::fs::write(&source, text).unwrap();
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
        let built = Command::new(compiler)
            .args(["-shared", "-fPIC", "-o"])
            .args([&path, &source])
            .status()
            .expect("a C compiler: apt-get install gcc");
        assert!(built.success());
    }
    path
}

fn load(host: &Host, name: &str, answer: i64) -> Result<Module, Error> {
    // SAFETY: the plugin above does nothing.
    unsafe { host.load_with(plugin(answer), Load::new().name(name)) }
}

fn answer(plugin: &Reference) -> i64 {
    // SAFETY: that is what the plugin above exports.
    unsafe { plugin.symbol::<Answer>("answer").unwrap()() }
}

fn mapped(path: &std::path::Path) -> bool {
    std::fs::read_to_string("/proc/self/maps").unwrap().contains(path.to_str().unwrap())
}

#[test]
fn load_use_and_unload() {
    let host = Host::new();
    let module = load(&host, "plugin", 11).unwrap();
    assert_eq!((module.name(), module.state()), ("plugin", State::Live));
    assert_eq!(module.path(), plugin(11));
    let held = host.find_get("plugin").unwrap();
    assert_eq!(answer(&held), 11);
    assert_eq!(held.module(), module);
    assert_eq!(module.refcount(), Some(1));

    let refused = host.unload("plugin", Unload::now()).unwrap_err();
    assert_eq!(refused.errno(), libc::EWOULDBLOCK);
    assert!(refused.to_string().contains("in use: 1 reference;"), "{refused}");
    assert_eq!(std::io::Error::from(refused).kind(), std::io::ErrorKind::WouldBlock);

    let user = thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        answer(&held)
    });
    assert_eq!(host.unload("plugin", Unload::waiting()), Ok(Unloaded::Unmapped));
    assert_eq!(user.join().unwrap(), 11);
    assert!(!mapped(&plugin(11)));
    assert!(module.try_get().is_none());
    assert_eq!((module.state(), module.refcount()), (State::Going, None));
    assert_eq!(host.last_unloaded().unwrap().to_string(), "plugin unmapped");
    host.close().unwrap();
}

#[test]
fn a_wait_of_ones_own_can_give_up() {
    let host = Host::new();
    load(&host, "plugin", 12).unwrap();
    let held = host.find_get("plugin").unwrap();
    let mut looks = 0;
    let outcome = host.unload_with("plugin", false, |there| {
        assert_eq!(there.count(), 1);
        there.park_timeout(Duration::from_millis(1));
        looks += 1;
        looks < 3
    });
    assert_eq!(outcome.unwrap_err().errno(), libc::ETIMEDOUT);
    assert_eq!(held.module().state(), State::Live);
    drop(held);
    assert_eq!(host.unload("plugin", Unload::now()), Ok(Unloaded::Unmapped));
}

#[test]
fn a_replacement_under_users() {
    let host = Arc::new(Host::new());
    // SAFETY: the plugins of these tests do nothing.
    unsafe { host.load_with(plugin(13), Load::new().name("p").mode(Mode::Atomic)) }.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let users: Vec<_> = (0..3)
        .map(|_| {
            let (host, stop) = (host.clone(), stop.clone());
            thread::spawn(move || {
                while !stop.load(Relaxed) {
                    let held = host.find_get("p").expect("there is always one of that name");
                    assert!([13, 14].contains(&answer(&held)));
                }
            })
        })
        .collect();
    for round in 0..100 {
        // SAFETY: as above.
        let outcome = unsafe { host.replace("p", plugin(13 + (round + 1) % 2), None) };
        assert_eq!(outcome, Ok(Unloaded::Unmapped));
    }
    assert_eq!(host.find("p").unwrap().mode(), Mode::Atomic);
    stop.store(true, Relaxed);
    for user in users {
        user.join().unwrap();
    }
    host.unload("p", Unload::now()).unwrap();
}

#[test]
fn events_and_vetoes() {
    static TOLD: Mutex<Vec<State>> = Mutex::new(Vec::new());
    let host = Host::new();
    let id = host.on_event(0, |module, state| {
        assert_eq!(module.name(), "plugin");
        TOLD.lock().unwrap().push(state);
        Ok(())
    });
    load(&host, "plugin", 15).unwrap();
    host.unload("plugin", Unload::now()).unwrap();
    assert_eq!(*TOLD.lock().unwrap(), [State::Coming, State::Live, State::Going]);
    let veto = host.on_event(0, |_, _| Err(Error::refuse(libc::EPERM, "not today")));
    let refused = load(&host, "plugin", 15).unwrap_err();
    assert_eq!(refused.errno(), libc::EPERM);
    assert!(refused.to_string().contains("not today"), "{refused}");
    host.remove_notifier(veto).unwrap();
    host.remove_notifier(id).unwrap();
    assert_eq!(host.remove_notifier(id).unwrap_err().errno(), libc::ENOENT);
}

#[test]
fn a_host_that_is_dropped_stays_for_its_holders() {
    let host = Host::new();
    load(&host, "plugin", 16).unwrap();
    let held = host.find_get("plugin").unwrap();
    let (host, busy) = host.close().unwrap_err();
    assert_eq!(busy.errno(), libc::EBUSY);
    drop(host);
    assert_eq!(answer(&held), 16);
}

// ---- against a model --------------------------------------------------------------------

const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Debug)]
enum Step {
    Load(usize),
    Unload { name: usize, force: bool, drain: bool },
    Replace(usize),
    Get(usize),
    Put(usize),
    Depend(usize, usize),
    Reap,
}

fn step() -> impl Strategy<Value = Step> {
    let name = || 0..NAMES.len();
    prop_oneof![
        3 => name().prop_map(Step::Load),
        3 => (name(), any::<bool>(), any::<bool>())
            .prop_map(|(name, force, drain)| Step::Unload { name, force, drain }),
        1 => name().prop_map(Step::Replace),
        2 => name().prop_map(Step::Get),
        2 => (0..16usize).prop_map(Step::Put),
        2 => (name(), name()).prop_map(|(a, b)| Step::Depend(a, b)),
        1 => Just(Step::Reap),
    ]
}

/// What the tables say: who is loaded, as which load, held how often, depending on whom.
#[derive(Default)]
struct Model {
    loads: usize,
    live: [Option<usize>; NAMES.len()],
    /// By load: references that were taken by name.
    held: Vec<u64>,
    /// By load: the loads it depends on, until it is gone from memory.
    uses: Vec<Vec<usize>>,
    /// Loads that are out of the table and not gone.
    zombies: Vec<usize>,
}

impl Model {
    fn reap(&mut self) -> usize {
        let before = self.zombies.len();
        // One that is gone gives up what it depends on; those are never zombies.
        let held = &self.held;
        let gone: Vec<_> = self.zombies.iter().copied().filter(|&z| held[z] == 0).collect();
        self.zombies.retain(|zombie| !gone.contains(zombie));
        gone.iter().for_each(|&load| self.uses[load].clear());
        before - self.zombies.len()
    }

    fn is_used(&self, load: usize) -> bool {
        self.uses.iter().any(|uses| uses.contains(&load))
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        from == to || self.uses[from].iter().any(|&next| self.reaches(next, to))
    }

    fn load(&mut self, name: usize) {
        self.live[name] = Some(self.loads);
        self.loads += 1;
        self.held.push(0);
        self.uses.push(Vec::new());
    }

    /// The errno of an unload, or whether it leaves something behind.
    fn unload(&mut self, name: usize, force: bool, drain: bool) -> Result<bool, i32> {
        let load = self.live[name].ok_or(libc::ENOENT)?;
        if self.is_used(load) {
            return Err(libc::EWOULDBLOCK);
        }
        if self.held[load] > 0 && !force {
            return Err(if drain { libc::ETIMEDOUT } else { libc::EWOULDBLOCK });
        }
        self.live[name] = None;
        Ok(self.leave(load))
    }

    fn leave(&mut self, load: usize) -> bool {
        if self.held[load] > 0 {
            self.zombies.push(load);
            return true;
        }
        self.uses[load].clear();
        false
    }
}

fn errno<T>(result: Result<T, Error>) -> Result<T, i32> {
    result.map_err(|error| error.errno())
}

fn resident(outcome: Result<Unloaded, Error>) -> Result<bool, i32> {
    errno(outcome).map(|outcome| outcome != Unloaded::Unmapped)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_is_as_the_tables_say(steps in prop::collection::vec(step(), 1..60)) {
        static FILES: LazyLock<[PathBuf; 2]> = LazyLock::new(|| [plugin(21), plugin(22)]);
        let host = Host::new();
        let mut model = Model::default();
        // References taken, with the load they are on.
        let mut held: Vec<(Reference, usize)> = Vec::new();
        for step in steps {
            match step {
                Step::Load(name) => {
                    model.reap();
                    let found = errno(load(&host, NAMES[name], 21 + name as i64 % 2)).map(|_| ());
                    match model.live[name] {
                        Some(_) => prop_assert_eq!(found, Err(libc::EEXIST)),
                        None => {
                            prop_assert_eq!(found, Ok(()));
                            model.load(name);
                        }
                    }
                }
                Step::Unload { name, force, drain } => {
                    model.reap();
                    let how = match drain {
                        true => Unload::within(Duration::from_micros(10)),
                        false => Unload::now(),
                    };
                    let how = if force { how.force() } else { how };
                    let found = resident(host.unload(NAMES[name], how));
                    prop_assert_eq!(found, model.unload(name, force, drain));
                }
                Step::Replace(name) => {
                    model.reap();
                    // SAFETY: the plugins of these tests do nothing.
                    let found = unsafe {
                        host.replace(NAMES[name], &FILES[0], Some(Duration::from_micros(10)))
                    };
                    let expected = match model.live[name] {
                        None => Err(libc::ENOENT),
                        Some(old) if model.is_used(old) => Err(libc::EWOULDBLOCK),
                        Some(old) => {
                            model.load(name);
                            Ok(model.leave(old))
                        }
                    };
                    prop_assert_eq!(resident(found), expected);
                }
                Step::Get(name) => {
                    let found = host.find_get(NAMES[name]);
                    prop_assert_eq!(found.is_some(), model.live[name].is_some());
                    if let Some(reference) = found {
                        let load = model.live[name].unwrap();
                        model.held[load] += 1;
                        held.push((reference, load));
                    }
                }
                Step::Put(which) if !held.is_empty() => {
                    let (reference, load) = held.swap_remove(which % held.len());
                    prop_assert!([21, 22].contains(&answer(&reference)), "its code is there");
                    drop(reference);
                    model.held[load] -= 1;
                }
                Step::Put(_) => {}
                Step::Depend(user, provider) => {
                    let (Some(a), Some(b)) = (model.live[user], model.live[provider]) else {
                        continue;
                    };
                    let (user, provider) =
                        (host.find(NAMES[user]).unwrap(), host.find(NAMES[provider]).unwrap());
                    let found = errno(Host::add_dependency(&user, &provider));
                    if model.uses[a].contains(&b) {
                        prop_assert_eq!(found, Ok(()));
                    } else if model.reaches(b, a) {
                        prop_assert_eq!(found, Err(libc::EDEADLK));
                    } else {
                        prop_assert_eq!(found, Ok(()));
                        model.uses[a].push(b);
                    }
                }
                Step::Reap => prop_assert_eq!(host.reap(), model.reap()),
            }
            for (name, load) in NAMES.iter().zip(model.live) {
                let users = model.uses.iter().flatten().filter(|&&used| Some(used) == load).count();
                let expected = load.map(|load| model.held[load] + users as u64);
                let found = host.find(name).map(|module| module.refcount().unwrap());
                prop_assert_eq!(found, expected, "the references of {}", name);
            }
        }
        drop(held);
        for _ in NAMES {
            for name in NAMES {
                let _ = host.unload(name, Unload::now());
            }
        }
        prop_assert!(host.close().is_ok(), "nothing is left");
    }
}
