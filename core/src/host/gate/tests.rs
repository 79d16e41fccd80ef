//! Gates without modules: what they lead by is a counter, and here it is the test's own.

#![cfg(all(target_pointer_width = "64", any(target_arch = "x86_64", target_arch = "aarch64")))]

use super::*;
use std::mem;
use std::thread;

extern "C" fn one() -> usize {
    1
}

extern "C" fn two() -> usize {
    2
}

fn hidden(function: extern "C" fn() -> usize) -> Hidden {
    Hidden::new(function as *const c_void)
}

fn head(counter: Counter) -> &'static Head {
    let name = AtomicPtr::new(c"test".as_ptr().cast_mut());
    Box::leak(Box::new(Head { counter, name }))
}

fn call(gate: &Gate) -> usize {
    // SAFETY: it leads to the functions of this file.
    let function: extern "C" fn() -> usize = unsafe { mem::transmute(gate.address()) };
    function()
}

fn release(head: &Head) {
    head.counter.try_release(Caller::UNKNOWN).expect("each call has given back what it has taken");
}

#[test]
fn a_gate_leads_to_its_function_until_the_counter_is_released() {
    for counter in [Counter::new(), Counter::new_percpu().unwrap()] {
        let head = head(counter);
        let gate = Gate::new(head, hidden(one), 7).unwrap();
        assert_eq!((call(&gate), call(&gate), refused(gate.entry)), (1, 1, 0));
        release(head);
        assert_eq!((call(&gate), refused(gate.entry)), (7, 1));
        assert_eq!(refused(gate.entry + 1), 0);
    }
}

#[test]
fn more_gates_than_a_page_has_are_each_its_own() {
    let head = head(Counter::new());
    let n = page_size() / STUB + 10;
    let gates: Vec<_> = (0..n).map(|i| Gate::new(head, hidden(one), i).unwrap()).collect();
    release(head);
    gates.iter().enumerate().for_each(|(i, gate)| assert_eq!(call(gate), i));
    gates.iter().for_each(|gate| assert_eq!(refused(gate.entry), 1));
}

#[test]
fn a_gate_is_led_elsewhere_and_nowhere() {
    let heads = [(); 3].map(|()| head(Counter::new_percpu().unwrap()));
    let gate = Gate::new(heads[0], hidden(one), 9).unwrap();
    gate.lead(heads[1], hidden(two));
    release(heads[0]);
    assert_eq!(call(&gate), 2);
    gate.lead(ptr::null(), Hidden::new(ptr::null()));
    assert_eq!(call(&gate), 9);
    gate.lead(heads[2], hidden(one));
    release(heads[1]);
    assert_eq!(call(&gate), 1);
}

#[test]
fn a_closed_gate_lets_nobody_in_while_its_counter_is_live() {
    for counter in [Counter::new(), Counter::new_percpu().unwrap()] {
        let head = head(counter);
        let gate = Gate::new(head, hidden(one), 7).unwrap();
        release(head);
        gate.close();
        // SAFETY: it was released here.
        unsafe { head.counter.reinit() }.unwrap();
        assert_eq!(call(&gate), 7);
        gate.reopen(head);
        assert_eq!(call(&gate), 1);
        release(head);
    }
}

/// What is called says whether its own counter keeps it.
#[test]
fn nobody_gets_the_function_of_one_under_the_counter_of_another() {
    static HEADS: [AtomicPtr<Head>; 8] = [const { AtomicPtr::new(ptr::null_mut()) }; 8];

    extern "C" fn is_held<const AT: usize>() -> usize {
        // SAFETY: heads stay.
        usize::from(unsafe { &*HEADS[AT].load(Relaxed) }.counter.count() > 0)
    }
    let functions: [extern "C" fn() -> usize; 8] = [
        is_held::<0>,
        is_held::<1>,
        is_held::<2>,
        is_held::<3>,
        is_held::<4>,
        is_held::<5>,
        is_held::<6>,
        is_held::<7>,
    ];

    for _ in 0..200 {
        // No head comes back.
        let heads = [(); 8].map(|()| head(Counter::new()));
        for (&head, at) in heads.iter().zip(&HEADS) {
            at.store(ptr::from_ref(head).cast_mut(), Relaxed);
        }
        let gate = Gate::new(heads[0], hidden(functions[0]), 9).unwrap();
        let done = AtomicUsize::new(0);
        thread::scope(|scope| {
            let caller = scope.spawn(|| {
                while done.load(Relaxed) == 0 {
                    assert_eq!(call(&gate), 1);
                }
            });
            for (head, &function) in heads.iter().zip(&functions).skip(1) {
                (0..100).for_each(|_| assert_eq!(call(&gate), 1));
                gate.lead(*head, hidden(function));
            }
            done.store(1, Relaxed);
            caller.join().unwrap();
        });
    }
}
