//! The module host from Rust, on real shared objects. `host_model.rs` has it under random
//! steps, against the model.

#![cfg(all(feature = "host", target_os = "linux", target_env = "gnu"))]

#[path = "model/compiler.rs"]
mod compiler;

use module_ref::Mode;
use module_ref::host::{Error, Host, Load, Module, Reference, State, Unload, Unloaded};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
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
        let built = compiler::shared()
            .arg("-o")
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
fn a_host_that_is_dropped_stays_for_its_holders() {
    let host = Host::new();
    load(&host, "plugin", 16).unwrap();
    let held = host.find_get("plugin").unwrap();
    let (host, busy) = host.close().unwrap_err();
    assert_eq!(busy.errno(), libc::EBUSY);
    drop(host);
    assert_eq!(answer(&held), 16);
}

#[test]
fn an_unload_that_is_begun() {
    use std::os::fd::AsRawFd;
    let host = Host::new();
    let module = load(&host, "plugin", 12).unwrap();
    let plugin = host.find_get("plugin").unwrap();

    let mut unloading = host.unload_begin("plugin", false).unwrap();
    assert_eq!(unloading.module(), &module);
    assert_eq!((module.state(), unloading.finish().unwrap()), (State::Going, None));
    assert_eq!(host.unload("plugin", Unload::now()).unwrap_err().errno(), libc::EBUSY);
    drop(unloading);
    assert_eq!(module.state(), State::Live);
    host.unload_begin("plugin", false).unwrap().cancel();
    assert!(host.find_get("plugin").is_some());

    let mut unloading = host.unload_begin("plugin", false).unwrap();
    let fd = unloading.as_raw_fd();
    let waiter = thread::spawn(move || {
        let mut one = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, for the length of the call.
        unsafe { libc::poll(&mut one, 1, 10_000) }
    });
    drop(plugin);
    assert_eq!(waiter.join().unwrap(), 1);
    assert_eq!(unloading.finish().unwrap(), Some(Unloaded::Unmapped));
    assert_eq!(unloading.finish().unwrap_err().errno(), libc::EBUSY);
    drop(unloading);
    assert_eq!(host.unload_begin("plugin", false).unwrap_err().errno(), libc::ENOENT);

    load(&host, "plugin", 12).unwrap();
    let plugin = host.find_get("plugin").unwrap();
    let unloading = host.unload_begin("plugin", false).unwrap();
    assert!(matches!(unloading.force().unwrap(), Unloaded::Resident(_)));
    assert!(host.tainted());
    drop(plugin);
    assert_eq!(host.reap(), 1);
    assert!(host.close().is_ok());
}
