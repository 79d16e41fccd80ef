use super::*;
use crate::{Mode, ModuleRef};
use std::sync::mpsc;
use std::thread;

const HERE: Caller = Caller(ptr::without_provenance(0x1000));
const THERE: Caller = Caller(ptr::without_provenance(0x2000));

/// One of each kind, boxed so that they stay where they are.
fn both() -> [Box<ModuleRef>; 2] {
    [Box::default(), Box::new(ModuleRef::new_percpu().expect("memory"))]
}

fn get(of: &ModuleRef, caller: Caller) {
    assert!(of.counter().try_get(caller));
}

fn put(of: &ModuleRef) {
    // SAFETY: the tests put what they have got.
    unsafe { of.counter().put(Caller::UNKNOWN) };
}

fn callers(of: &ModuleRef) -> Vec<usize> {
    of.holders().iter().map(|holder| holder.caller.unwrap_or(0)).collect()
}

fn unnamed(of: &ModuleRef) -> u64 {
    of.counter().all_holders().map_or(0, |all| all.unnamed)
}

/// Whether sequences are in use. One may be aborted at any time, and another one then.
fn counts_in_slots(of: &ModuleRef) -> bool {
    let added = (0..1000).any(|_| of.counter().slots.add::<1>());
    if added {
        put(of);
    }
    added
}

#[test]
fn each_reference_has_a_record_until_it_is_put() {
    for of in both() {
        let mode = of.mode();
        get(&of, HERE);
        assert!(of.holders().is_empty(), "nothing is recorded");
        put(&of);
        of.record_holders(true).expect("memory");
        assert_eq!(of.mode(), mode);
        get(&of, HERE);
        get(&of, THERE);
        assert_eq!(callers(&of), [0x1000, 0x2000], "the oldest first");
        put(&of);
        assert_eq!(callers(&of), [0x1000], "the newest of this thread is gone");
        // SAFETY: one is held.
        unsafe { of.counter().get(THERE) };
        assert_eq!(callers(&of), [0x1000, 0x2000]);
        put(&of);
        put(&of);
        assert_eq!(of.count(), Some(0));
        assert!(of.holders().is_empty());
    }
}

#[test]
fn references_from_before_are_counted_and_put_first_by_threads_without_a_record() {
    for of in both() {
        get(&of, HERE);
        get(&of, HERE);
        of.record_holders(true).expect("memory");
        assert_eq!((callers(&of), unnamed(&of)), (vec![], 2));
        get(&of, THERE);
        thread::scope(|scope| {
            scope.spawn(|| put(&of));
        });
        assert_eq!((callers(&of), unnamed(&of)), (vec![0x2000], 1));
        put(&of);
        assert_eq!((callers(&of), unnamed(&of)), (vec![], 1));
        put(&of);
        assert_eq!((callers(&of), unnamed(&of)), (vec![], 0));
    }
}

#[test]
fn a_reference_that_is_handed_over_takes_the_oldest_record() {
    for of in both() {
        of.record_holders(true).expect("memory");
        get(&of, HERE);
        get(&of, THERE);
        thread::scope(|scope| {
            scope.spawn(|| put(&of));
        });
        assert_eq!(callers(&of), [0x2000]);
        put(&of);
    }
}

#[test]
fn more_references_than_records_are_counted() {
    let of = ModuleRef::new();
    of.record_holders(true).expect("memory");
    for _ in 0..RECORDS + 3 {
        get(&of, HERE);
    }
    assert_eq!((of.holders().len(), unnamed(&of)), (RECORDS, 3));
    assert!(of.counter().holders_text().ends_with(
        "\n3 more, taken before recording began, or while its 1024 records were all in use\n"
    ));
    for _ in 0..RECORDS + 3 {
        put(&of);
    }
    assert_eq!((of.count(), of.holders().len(), unnamed(&of)), (Some(0), 0, 0));
}

#[test]
fn refused_gets_and_surplus_puts_leave_no_record() {
    for of in both() {
        of.record_holders(true).expect("memory");
        let released = of.try_release().expect("nobody holds it");
        assert!(!of.counter().try_get(HERE));
        released.reinit();
        assert_eq!(of.holders(), []);
        get(&of, HERE);
        assert_eq!(callers(&of), [0x1000], "recording goes on after a reinit");
        put(&of);
    }
}

#[test]
fn off_and_on_begins_anew() {
    for of in both() {
        for _ in 0..3 {
            of.record_holders(true).expect("memory");
            of.record_holders(true).expect("it is on");
            get(&of, HERE);
            assert_eq!((callers(&of), unnamed(&of)), (vec![0x1000], 0));
            of.record_holders(false).expect("on");
            of.record_holders(false).expect("it is off");
            assert!(of.holders().is_empty());
            assert_eq!(counts_in_slots(&of), of.mode() == Mode::PerCpu);
            of.record_holders(true).expect("memory");
            assert_eq!((callers(&of), unnamed(&of)), (vec![], 1));
            put(&of);
            of.try_release().expect("nobody holds it").reinit();
        }
    }
}

#[test]
fn memory_that_is_used_again_has_no_old_records() {
    let place = Box::into_raw(Box::new(Counter::new()));
    // SAFETY: the place is ours, and stays until the end.
    unsafe {
        (*place).record_holders(true).expect("memory");
        assert!((*place).try_get(HERE));
        // As if it had been freed and made again, without destroy.
        place.write(Counter::new());
        assert!((*place).holders().is_empty());
        (*place).record_holders(true).expect("memory");
        assert!((*place).holders().is_empty());
        assert_eq!(BLOCKS.chain_length((*place).address()), 1, "the block is used again");
        (*place).destroy(Caller::UNKNOWN);
        assert!(BLOCKS.find((*place).address()).is_none(), "destroy gives the block back");
        assert_eq!((*place).record_holders(true), Err(InitError::Destroyed));
        drop(Box::from_raw(place));
    }
}

#[test]
fn a_counter_that_is_dropped_gives_its_block_back() {
    let of = Box::new(ModuleRef::new());
    let address = of.counter().address();
    of.record_holders(true).expect("memory");
    assert!(BLOCKS.find(address).is_some());
    drop(of);
    assert!(BLOCKS.find(address).is_none());
}

#[test]
fn who_holds_it_in_words() {
    let of = ModuleRef::new();
    of.record_holders(true).expect("memory");
    let (told, hear) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let of = &of;
        let name = thread::Builder::new().name("rx-0".into());
        // In a function of the C library: the dynamic linker knows its name.
        let caller = libc::getpid as *const () as usize + 1;
        let body = move || {
            get(of, Caller(ptr::with_exposed_provenance(caller)));
            told.send(thread()).expect("the test waits");
            let _ = wait.recv();
        };
        let user = name.spawn_scoped(scope, body).expect("a thread");
        let tid = hear.recv().expect("the thread tells");
        let holder = &of.holders()[0];
        assert_eq!((holder.thread, holder.thread_name.as_deref()), (tid, Some("rx-0")));
        let text = holder.to_string();
        assert!(text.contains("getpid+0x1 in /"), "{text}");
        assert!(text.contains(&format!(" (thread 'rx-0', {tid}) for ")), "{text}");
        assert!(holder.age < core::time::Duration::from_secs(60), "{text}");
        drop(go);
        user.join().expect("it ends");
        // The kernel takes the thread away a moment after it can be joined.
        let ended = format!(" (thread {tid}, which has ended) for ");
        while !of.holders()[0].to_string().contains(&ended) {
            thread::yield_now();
        }
    });
    put(&of);
}

#[test]
fn switching_under_traffic_loses_no_reference() {
    const ROUNDS: usize = 2_000;
    for of in both() {
        let of = &*of;
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !stop.load(Relaxed) {
                        if let Some(guard) = of.try_get() {
                            drop(guard.clone());
                        }
                    }
                });
            }
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    if let Ok(released) = of.try_release() {
                        released.reinit();
                    }
                    of.holders();
                }
            });
            for _ in 0..ROUNDS {
                of.record_holders(true).expect("memory");
                of.record_holders(false).expect("on");
            }
            stop.store(true, Relaxed);
        });
        assert_eq!(of.count(), Some(0));
        assert_eq!(counts_in_slots(of), of.mode() == Mode::PerCpu);
        drop(of.try_release().expect("nobody holds it"));
    }
}
