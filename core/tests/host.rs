//! The module host from Rust, on real shared objects. `host_model.rs` has it under random
//! steps, against the model.

#![cfg(all(feature = "host", target_os = "linux", target_env = "gnu"))]

#[path = "model/compiler.rs"]
mod compiler;

use module_ref::Mode;
use module_ref::host::{
    AfterUnload, Error, Host, Load, Module, Reference, Replace, Residency, State, Unload, Unloaded,
    track,
};
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

/// Waits until so many have gone: a thread of another test that runs all the time is taken for one that
/// may be inside.
fn reaped(host: &Host, wanted: usize) {
    let mut gone = host.reap();
    for _ in 0..10_000 {
        if gone >= wanted {
            break;
        }
        thread::sleep(Duration::from_millis(1));
        gone += host.reap();
    }
    assert_eq!(gone, wanted);
}

/// It is unmapped, or kept for the same reason until a later look. Whether at once.
fn goes(host: &Host, outcome: Unloaded) -> bool {
    if !matches!(outcome, Unloaded::Resident(Residency::Present { .. })) {
        assert_eq!(outcome, Unloaded::Unmapped);
        return true;
    }
    for _ in 0..10_000 {
        if host.reap() > 0 {
            return false;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("it is kept although nobody is in it: {:?}", host.infos());
}

#[test]
fn a_refused_unload_names_who_holds_it() {
    let host = Host::new();
    let module = load(&host, "tracked", 12).unwrap();
    let untracked = module.try_get().unwrap();
    track(true);
    let (found, line) = (host.find_get("tracked").unwrap(), line!());
    let (cloned, clones) = (found.clone(), line!());
    let got = module.try_get().unwrap();
    track(false);
    let why = host.unload("tracked", Unload::now()).unwrap_err().to_string();
    assert!(why.contains(&format!("held by {}:{line}: thread ", file!())), "{why}");
    assert!(why.contains(&format!("; {}:{clones}: thread ", file!())), "{why}");
    assert!(why.ends_with(" s; 1 more, untracked"), "{why}");
    // Wherever it goes.
    let cloned = Box::new(cloned);
    thread::spawn(move || drop((found, untracked))).join().unwrap();
    let why = host.unload("tracked", Unload::now()).unwrap_err().to_string();
    assert!(why.contains(&format!("held by {}:{clones}: thread ", file!())), "{why}");
    assert!(!why.contains("more"), "{why}");
    drop((cloned, got));
    goes(&host, host.unload("tracked", Unload::now()).unwrap());
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
    let at_once = goes(&host, host.unload("plugin", Unload::waiting()).unwrap());
    assert_eq!(user.join().unwrap(), 11);
    assert!(!mapped(&plugin(11)));
    assert!(module.try_get().is_none());
    assert_eq!((module.state(), module.refcount()), (State::Going, None));
    assert!(!at_once || host.last_unloaded().unwrap().to_string() == "plugin unmapped");
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
    goes(&host, host.unload("plugin", Unload::now()).unwrap());
}

#[test]
fn a_shutdown_that_waits_as_it_is_told() {
    let host = Host::new();
    let module = load(&host, "held", 4).unwrap();
    let held = module.try_get().unwrap();
    let mut waits = 0;
    let (left, why) = host
        .shutdown_with(|_| {
            waits += 1;
            waits < 3
        })
        .unwrap_err();
    assert_eq!((waits, left, why.errno()), (3, 1, libc::ETIMEDOUT), "{why}");
    assert_eq!(module.state(), State::Live);
    drop(held);
    host.shutdown(Some(Duration::MAX)).unwrap();
    assert_eq!(module.state(), State::Going);
}

/// The second one is kept by the first, which is out of service.
#[test]
fn a_shutdown_waits_for_what_was_taken_out_before() {
    let host = Host::new();
    // Without a look for threads, of which other tests have some.
    host.after_unload(AfterUnload::Keep);
    let mut old = Vec::new();
    load(&host, "replaced", 30).unwrap();
    old.extend(host.find_get("replaced"));
    // SAFETY: the plugins do nothing.
    unsafe { host.replace("replaced", plugin(31), Some(Duration::ZERO)) }.unwrap();
    let (user, provider) = (load(&host, "forced", 32).unwrap(), load(&host, "kept", 33).unwrap());
    Host::add_dependency(&user, &provider).unwrap();
    old.extend(host.find_get("forced"));
    host.unload("forced", Unload::now().force()).unwrap();
    let left = host.shutdown_with(|_| old.pop().is_some());
    assert!(old.is_empty());
    assert_eq!(left, Ok(()));
    host.close().unwrap();
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
        let outcome = unsafe { host.replace("p", plugin(13 + (round + 1) % 2), None) }.unwrap();
        // The look takes a thread that runs all the time for one that may be inside.
        let is_found = matches!(outcome, Unloaded::Resident(Residency::Present { .. }));
        assert!(is_found || outcome == Unloaded::Unmapped, "{outcome:?}");
    }
    assert_eq!(host.find("p").unwrap().mode(), Mode::Atomic);
    stop.store(true, Relaxed);
    for user in users {
        user.join().unwrap();
    }
    host.unload("p", Unload::now()).unwrap();
    let mut host = Arc::into_inner(host).unwrap();
    for _ in 0..10_000 {
        match host.close() {
            Ok(()) => return,
            Err((again, _)) => host = again,
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("nobody is in it any more: {:?}", host.infos());
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
    goes(&host, unloading.finish().unwrap().unwrap());
    assert_eq!(unloading.finish().unwrap_err().errno(), libc::EBUSY);
    drop(unloading);
    assert_eq!(host.unload_begin("plugin", false).unwrap_err().errno(), libc::ENOENT);

    load(&host, "plugin", 12).unwrap();
    let plugin = host.find_get("plugin").unwrap();
    let unloading = host.unload_begin("plugin", false).unwrap();
    assert!(matches!(unloading.force().unwrap(), Unloaded::Resident(_)));
    assert!(host.tainted());
    drop(plugin);
    reaped(&host, 1);
    assert!(host.close().is_ok());
}

#[test]
fn a_notifier_that_is_removed_is_dropped() {
    let (host, owned) = (Host::new(), Arc::new(()));
    for _ in 0..200 {
        let (entered, inside) = std::sync::mpsc::sync_channel(1);
        let kept = owned.clone();
        let id = host.on_event(0, move |_, state| {
            let _kept = &kept;
            if state == State::Coming {
                entered.send(()).unwrap();
            }
            Ok(())
        });
        thread::scope(|scope| {
            let loader = scope.spawn(|| {
                load(&host, "p", 1).unwrap();
                host.unload("p", Unload::waiting()).unwrap();
            });
            inside.recv().unwrap();
            host.remove_notifier(id).unwrap();
            assert_eq!(Arc::strong_count(&owned), 1, "nobody has it any more");
            loader.join().unwrap();
        });
    }
}

#[test]
fn two_that_are_replaced_in_one_step() {
    let host = Host::new();
    let (first, second) = (load(&host, "first", 21).unwrap(), load(&host, "second", 22).unwrap());
    let soon = Duration::from_millis(1);
    let broken = [("first", plugin(23)), ("second", PathBuf::from("./no/such.so"))];
    // SAFETY: the plugins do nothing, here and below.
    let refused = unsafe { host.replace_set(&broken, Replace::waiting()) }.unwrap_err();
    assert_eq!((refused.errno(), first.state()), (libc::ENOENT, State::Live));

    let held = host.find_get("second").unwrap();
    let both = [("second", plugin(24)), ("first", plugin(23))];
    // SAFETY: as above.
    let refused = unsafe { host.replace_set(&both, Replace::within(soon).stop_first()) };
    assert_eq!(refused.unwrap_err().errno(), libc::ETIMEDOUT);
    assert_eq!((first.state(), second.state()), (State::Live, State::Live));
    // SAFETY: as above.
    let outcomes = unsafe { host.replace_set(&both, Replace::within(soon)) }.unwrap();
    assert!(matches!(outcomes[0], Unloaded::Resident(_)), "the one that is held");
    goes(&host, outcomes[1].clone());
    assert_eq!(answer(&held), 22);
    drop(held);

    // SAFETY: as above.
    let outcome = unsafe { host.replace_set(&both[..1], Replace::waiting().stop_first()) };
    goes(&host, outcome.unwrap().remove(0));
    let found = host.find_get_wait("second", Some(soon)).unwrap();
    assert_eq!(answer(&found), 24);
    assert_eq!(host.find_get_wait("third", None).unwrap_err().errno(), libc::ENOENT);
    drop(found);
    host.shutdown(None).unwrap();
}

#[test]
fn a_wait_that_panics_while_the_old_one_is_stopped() {
    let host = Host::new();
    let module = load(&host, "plugin", 25).unwrap();
    let held = host.find_get("plugin").unwrap();
    let set = [("plugin", plugin(26))];
    let replacing = std::panic::AssertUnwindSafe(|| {
        // SAFETY: the plugins do nothing.
        unsafe { host.replace_set_with(&set, true, |_| panic!("enough")) }
    });
    assert!(std::panic::catch_unwind(replacing).is_err());
    assert_eq!(module.state(), State::Live);
    drop(held);
    goes(&host, host.unload("plugin", Unload::now()).unwrap());
    assert!(!mapped(&plugin(26)), "nothing is left of the new one");
}

fn panics(act: impl FnOnce()) {
    let why = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).unwrap_err();
    assert_eq!(*why.downcast::<&str>().unwrap(), "enough");
}

#[test]
fn a_wait_that_panics_while_a_set_is_let_go() {
    let host = Host::new();
    let names = ["first", "second"];
    names.iter().for_each(|name| drop(load(&host, name, 27).unwrap()));
    let held = names.map(|name| host.find_get(name).unwrap());
    // SAFETY: the plugins do nothing.
    panics(|| unsafe {
        let set = names.map(|name| (name, plugin(28)));
        let _ = host.replace_set_with(&set, false, |_| panic!("enough"));
    });
    assert!(names.iter().all(|name| answer(&host.find_get(name).unwrap()) == 28));
    assert_eq!(host.reap(), 0);
    drop(held);
    // Each of them was left to its holders.
    reaped(&host, 2);
    host.shutdown(None).unwrap();
}

#[test]
fn a_wait_that_panics_while_threads_end() {
    use std::ffi::c_void;

    static ENDS: AtomicBool = AtomicBool::new(false);
    unsafe extern "C-unwind" fn waits(argument: *mut c_void) -> *mut c_void {
        while !ENDS.load(Relaxed) {
            thread::yield_now();
        }
        argument
    }

    let host = Host::new();
    let module = load(&host, "plugin", 29).unwrap();
    let mut thread = 0;
    let (create, null) = (module_ref::host::raw::thread_create, std::ptr::null_mut());
    // SAFETY: the thread uses nothing.
    unsafe { create(&mut thread, std::ptr::null(), &module, waits, null) }.unwrap();
    panics(|| drop(host.unload_with("plugin", false, |_| panic!("enough"))));
    assert_eq!(host.infos()[0].residency, 2, "it was left to its thread");
    ENDS.store(true, Relaxed);
    // SAFETY: it was started above, and is joined once.
    unsafe { libc::pthread_join(thread, std::ptr::null_mut()) };
    reaped(&host, 1);
    host.close().unwrap();
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn gates_outlive_what_they_lead_to() {
    use module_ref::host::Gate;

    let host = Host::new();
    let module = load(&host, "plugin", 11).unwrap();
    let function = {
        let plugin = module.try_get().unwrap();
        // SAFETY: that is what the plugin above exports.
        *unsafe { plugin.symbol::<extern "C" fn() -> i64>("answer").unwrap() }
    };
    // SAFETY: as above, here and below.
    let (gate, follows): (Gate<extern "C" fn() -> i64>, Gate<extern "C" fn() -> i64>) =
        unsafe { (module.gate(function, 5).unwrap(), module.gate_follow("answer", 6).unwrap()) };
    assert_eq!((gate(), follows(), module.refcount()), (11, 11, Some(0)));
    // SAFETY: as above.
    assert_eq!(unsafe { module.gate(function, 5) }, Ok(gate));
    // SAFETY: as above.
    unsafe { host.replace("plugin", plugin(12), None).unwrap() };
    assert_eq!((gate(), follows()), (5, 12));
    host.unload("plugin", Unload::now()).unwrap();
    assert_eq!((gate(), follows()), (5, 6));
    assert_eq!((gate.refused(), follows.refused()), (2, 1));
    // SAFETY: as above.
    assert_eq!(unsafe { module.gate(function, 5) }.unwrap_err().errno(), libc::ENOENT);
}
