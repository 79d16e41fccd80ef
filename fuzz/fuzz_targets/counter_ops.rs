//! The counter's C functions against a model: any sequence of calls, right or wrong, on two
//! counters in either mode, also while one of them is draining, and on every CPU in turn.
//!
//! An input is text: a letter for what is done and a digit, whose low bit says to which counter.
//! The rules are those of `tests/sequential.rs`, and those for per-CPU counting beside them.
#![no_main]

mod input;

use ::module_ref::*;
use counter::ModuleRef;
use input::Input;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::ffi::c_void;
use std::mem;
use std::ptr;
use std::sync::Once;

const SURPLUS_PUT: u32 = 0;
const OVERFLOW: u32 = 1;
const LEAKED: u32 = 2;
const STALE_GET: u32 = 3;

/// The word's bits, which are ABI.
const CLOSED: u64 = 2;
const DESTROYED: u64 = 2 | 8;
const PINNED_FROM: i64 = 1 << 58;
const PIN: i64 = PINNED_FROM + (PINNED_FROM >> 1);

type Memory = [u64; 2];

#[repr(C, align(16))]
struct Place(Memory);

#[derive(Clone, Copy, PartialEq, Debug)]
enum Life {
    Live,
    Draining,
    Released,
    Destroyed,
}
use Life::*;

#[derive(Clone, Copy, Debug)]
struct Model {
    life: Life,
    percpu: bool,
    /// Gets less puts: below zero only where per-CPU counting has not noticed yet.
    net: i64,
}

/// What, of which counter, and whether it is known where the call came from.
type Report = (u32, usize, bool);

thread_local! {
    static REPORTED: RefCell<Vec<Report>> = const { RefCell::new(Vec::new()) };
}

unsafe extern "C" fn on_misuse(
    what: module_ref_misuse,
    of: *const module_ref,
    from: *const c_void,
) {
    REPORTED.with_borrow_mut(|reported| reported.push((what as u32, of as usize, !from.is_null())));
}

/// The same: to be told from the one above by its address, it does something else.
unsafe extern "C" fn on_misuse_too(
    what: module_ref_misuse,
    of: *const module_ref,
    from: *const c_void,
) {
    unsafe { on_misuse(what, of, from) };
    std::hint::black_box(());
}

struct World {
    places: Box<[Place; 2]>,
    models: [Model; 2],
    expected: Vec<Report>,
    second_handler: bool,
    /// The call does not come from C.
    by_rust: bool,
}

impl World {
    fn raw(&mut self, i: usize) -> *mut module_ref {
        (&raw mut self.places[i]).cast()
    }

    fn report(&mut self, i: usize, what: u32) {
        let address = self.raw(i) as usize;
        self.expected.push((what, address, !self.by_rust && cfg!(target_arch = "x86_64")));
    }

    fn memory(&mut self, i: usize) -> *mut Memory {
        self.raw(i).cast()
    }

    /// Frees slots that an init has forgotten, which is the program's mistake, and would fill
    /// the memory of this one.
    fn free_slots(&mut self, second: u64) {
        if second & 2 != 0 {
            let mut left = Place([CLOSED, second & !1]);
            unsafe { module_ref_destroy((&raw mut left).cast()) };
        }
    }

    /// init or init_percpu, with what is there now.
    fn init(&mut self, i: usize, percpu: bool, in_use: bool) -> bool {
        let raw = self.raw(i);
        let second = unsafe { (*self.memory(i))[1] };
        let had_slots = self.models[i].percpu && self.models[i].life != Destroyed;
        let rc = unsafe { if percpu { module_ref_init_percpu(raw) } else { module_ref_init(raw) } };
        assert_eq!(rc, if in_use { -libc::EBUSY } else { 0 }, "init");
        if in_use {
            return false;
        }
        if had_slots {
            self.free_slots(second);
        }
        let got = unsafe { module_ref_mode(raw) } as u32 == 1;
        assert!(percpu || !got);
        self.models[i] = Model { life: Live, percpu: got, net: 0 };
        true
    }

    fn in_use(&self, i: usize) -> bool {
        match self.models[i].life {
            Live => self.models[i].net != 0,
            Draining => true,
            Released | Destroyed => false,
        }
    }

    /// What the fold of a counter in per-CPU mode finds.
    fn fold(&mut self, i: usize) -> bool {
        if self.models[i].net < 0 {
            self.models[i].net = 0;
            self.report(i, SURPLUS_PUT);
            return true;
        }
        false
    }

    fn release(&mut self, i: usize) -> i32 {
        match self.models[i].life {
            Draining => -libc::EBUSY,
            Released => -libc::EALREADY,
            Destroyed => -libc::EINVAL,
            Live => {
                if self.fold(i) || self.models[i].net > 0 {
                    return -libc::EWOULDBLOCK;
                }
                self.models[i].life = Released;
                0
            }
        }
    }

    /// How a drain that has shut the door ends.
    fn settle(&mut self, i: usize) -> bool {
        let net = self.models[i].net;
        self.models[i].life = if net == 0 { Released } else { Live };
        if net >= PINNED_FROM {
            self.report(i, LEAKED);
        }
        net == 0
    }

    fn drain(&mut self, i: usize, timeout: i64) {
        let expected = match self.models[i].life {
            Live => {
                self.fold(i);
                if self.settle(i) { 0 } else { -libc::ETIMEDOUT }
            }
            _ => self.release(i),
        };
        assert_eq!(unsafe { module_ref_drain(self.raw(i), timeout) }, expected, "drain");
    }

    /// A drain in which other calls are made while it waits.
    fn drain_with(&mut self, i: usize, input: &mut Input) {
        if self.models[i].life != Live {
            return self.drain(i, -1);
        }
        // SAFETY: the layouts are the same all the way, and the place stays.
        let counter: &ModuleRef = unsafe { &*self.raw(i).cast() };
        self.by_rust = true;
        self.fold(i);
        self.models[i].life = Draining;
        self.by_rust = false;
        let outcome = counter.drain_with(|held| {
            assert_eq!(held.count() as i64, self.models[i].net, "held, while it drains");
            assert!(self.models[i].net != 0, "nobody waits for nobody");
            let waits = match input.letter() {
                None | Some(b'y') => false,
                Some(b'w') => true,
                Some(letter) => {
                    self.step(letter, input);
                    true
                }
            };
            waits && !input.is_empty()
        });
        self.by_rust = true;
        let released = self.settle(i);
        self.by_rust = false;
        match outcome {
            Ok(won) => {
                mem::forget(won);
                assert!(released, "released while it is held");
            }
            Err(_) => assert!(!released, "not released, and nobody holds it"),
        }
    }

    fn get(&mut self, i: usize, report: u32) {
        let model = &mut self.models[i];
        let in_word = !model.percpu || model.life != Live;
        let overflows = in_word && model.net >= PINNED_FROM;
        model.net = if overflows { PIN } else { model.net + 1 };
        if overflows {
            self.report(i, report);
        }
    }

    fn step(&mut self, letter: u8, input: &mut Input) {
        let digit = input.digit();
        let i = digit & 1;
        let raw = self.raw(i);
        let Model { life, percpu, net } = self.models[i];
        // SAFETY: nothing relies on the references of these counters, so that every call may be
        // tried in every state; the places stay.
        unsafe {
            match letter {
                b't' => {
                    let got = module_ref_try_get(raw);
                    assert_eq!(got, life == Live, "try_get");
                    if got {
                        self.get(i, OVERFLOW);
                    }
                }
                b'g' => {
                    module_ref_get(raw);
                    match life {
                        Live | Draining => self.get(i, OVERFLOW),
                        Released | Destroyed => self.report(i, STALE_GET),
                    }
                }
                b'p' => {
                    module_ref_put(raw);
                    if percpu && life == Live {
                        self.models[i].net -= 1;
                    } else if net > PINNED_FROM {
                        self.models[i].net = PIN;
                        self.report(i, LEAKED);
                    } else if net > 0 {
                        self.models[i].net -= 1;
                    } else {
                        self.report(i, SURPLUS_PUT);
                    }
                }
                b'r' => {
                    let expected = self.release(i);
                    assert_eq!(module_ref_try_release(raw), expected, "try_release");
                }
                b'd' => {
                    let timeout = [0, 1, 1000, -1][digit >> 1 & 3];
                    // For ever only if it ends.
                    self.drain(i, if net > 0 { timeout.max(0) } else { timeout });
                }
                b'w' => self.drain_with(i, input),
                b'e' => {
                    let expected = match life {
                        Live | Draining => -libc::EBUSY,
                        Destroyed => -libc::EINVAL,
                        Released => {
                            self.models[i].life = Live;
                            0
                        }
                    };
                    assert_eq!(module_ref_reinit(raw), expected, "reinit");
                }
                b'x' => {
                    module_ref_destroy(raw);
                    match life {
                        Draining => self.report(i, LEAKED),
                        Destroyed => {}
                        Released => self.models[i].life = Destroyed,
                        Live => match self.release(i) {
                            0 => self.models[i].life = Destroyed,
                            // A surplus was found, and mended: again.
                            _ => match self.release(i) {
                                0 => self.models[i].life = Destroyed,
                                _ => self.report(i, LEAKED),
                            },
                        },
                    }
                }
                b'i' | b'j' => {
                    self.init(i, letter == b'j', self.in_use(i));
                }
                // Memory of any content, or a copy of the other counter.
                b's' | b'k' if life == Destroyed => {
                    let other = self.raw(1 - i).cast::<Memory>().read();
                    let there = match letter {
                        b'k' => other,
                        _ => [input.number(), input.number()],
                    };
                    let stamp = (raw as u64 ^ MODULE_REF_STATIC as u64) & !7;
                    let slots = |second: u64| (second & 2 != 0).then_some(second & !3);
                    let is_other = slots(there[1]).is_some() && slots(there[1]) == slots(other[1]);
                    // What a counter at this place, or a static one, could have left there.
                    let known = [stamp, MODULE_REF_STATIC as u64].contains(&there[1]) || is_other;
                    if known && letter != b'k' {
                        return;
                    }
                    self.memory(i).write(there);
                    if !self.init(i, digit & 2 != 0, known && self.in_use(1 - i)) {
                        self.memory(i).write([DESTROYED, 0]);
                    }
                }
                // As if so many more had been taken.
                b'o' if life == Live || life == Draining => {
                    if net < 1000 {
                        let more = PINNED_FROM - 3;
                        let word = &mut (*self.memory(i))[0];
                        *word = word.wrapping_add((more as u64) << 4);
                        self.models[i].net += more;
                    }
                }
                b'm' => migrate(digit),
                b'h' => {
                    let handlers: [module_ref_misuse_fn; 2] =
                        [Some(on_misuse), Some(on_misuse_too)];
                    let before = handlers[usize::from(self.second_handler)];
                    self.second_handler = !self.second_handler;
                    let old =
                        module_ref_set_misuse_handler(handlers[usize::from(self.second_handler)]);
                    assert_eq!(old.map(|f| f as usize), before.map(|f| f as usize));
                }
                b'n' => null(),
                _ => {}
            }
        }
        self.check(letter);
    }

    fn check(&mut self, letter: u8) {
        let expected = mem::take(&mut self.expected);
        assert_eq!(REPORTED.take(), expected, "reports of {:?}", letter as char);
        for i in 0..2 {
            let Model { life, percpu, net } = self.models[i];
            let count = match life {
                Live | Draining => net.max(0),
                Released | Destroyed => -1,
            };
            let raw = self.raw(i);
            // SAFETY: as above.
            let (found, mode) = unsafe { (module_ref_count(raw), module_ref_mode(raw) as u32) };
            assert_eq!(found, count, "the count, after {:?}", letter as char);
            assert_eq!(mode == 1, percpu && life != Destroyed, "the mode");
        }
    }
}

/// What every function makes of NULL.
unsafe fn null() {
    let no = ptr::null_mut();
    unsafe {
        assert!(module_ref_try_get(no));
        module_ref_get(no);
        module_ref_put(no);
        module_ref_destroy(no);
        assert_eq!(module_ref_mode(no) as u32, 0);
        let refused = [
            module_ref_init(no),
            module_ref_init_percpu(no),
            module_ref_reinit(no),
            module_ref_try_release(no),
            module_ref_drain(no, -1),
            module_ref_count(no) as i32,
        ];
        assert_eq!(refused, [-libc::EINVAL; 6]);
    }
}

/// Goes on on another CPU, whose slot is another one.
fn migrate(digit: usize) {
    // SAFETY: the set is ours.
    unsafe {
        let cpus = libc::sysconf(libc::_SC_NPROCESSORS_CONF).max(1) as usize;
        let mut set: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(digit % cpus, &mut set);
        // One that may not be used leaves everything as it is.
        libc::sched_setaffinity(0, mem::size_of_val(&set), &set);
    }
}

fuzz_target!(|data: &[u8]| {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        module_ref_set_misuse_handler(Some(on_misuse));
    });
    let mut input = Input::new(data);
    let destroyed = Model { life: Destroyed, percpu: false, net: 0 };
    let mut world = World {
        places: Box::new([Place([DESTROYED, 0]), Place([DESTROYED, 0])]),
        models: [destroyed; 2],
        expected: Vec::new(),
        second_handler: false,
        by_rust: false,
    };
    for i in 0..2 {
        match input.digit() % 3 {
            0 => {
                world.places[i] = Place([MODULE_REF_BASE, MODULE_REF_STATIC as u64]);
                world.models[i].life = Live;
            }
            how => {
                world.init(i, how == 2, false);
            }
        }
    }
    while let Some(letter) = input.letter() {
        world.step(letter, &mut input);
    }
    // Slots go back, for the next input.
    for i in 0..2 {
        let second = world.places[i].0[1];
        world.free_slots(second);
    }
    REPORTED.take();
    module_ref_set_misuse_handler(Some(on_misuse));
});
