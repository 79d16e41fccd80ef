//! The module host's C functions against a model: any sequence of loads, unloads, replacements,
//! references, dependencies and notifiers, on real plugins that tell what happens to them.
//!
//! An input is text: a letter for what is done, and a digit for each of its arguments. The rules
//! are those of `tests/host.rs`, and those for init functions, notifiers and symbols beside them.
#![no_main]

mod input;

use ::module_ref::*;
use input::Input;
use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;

/// File, answer, whether it has an init and an exit function, what its init returns.
struct Plugin(&'static CStr, i64, bool, bool, i32);

macro_rules! plugin {
    ($name:literal, $($facts:expr),+) => {
        Plugin(
            match CStr::from_bytes_with_nul(concat!(env!("OUT_DIR"), "/", $name, ".so\0").as_bytes()) {
                Ok(path) => path,
                Err(_) => panic!(),
            },
            $($facts),+
        )
    };
}

const PLUGINS: [Plugin; 5] = [
    plugin!("both", 10, true, true, 0),
    plugin!("other", 11, true, true, 0),
    plugin!("library", 12, false, false, 0),
    plugin!("permanent", 13, true, false, 0),
    plugin!("failing", 14, true, true, -1),
];
const NAMES: [&CStr; 4] = [c"a", c"b", c"c", c"d"];
const NOTIFIERS: usize = 4;

/// What somebody was told.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    /// A plugin: 'm'apped, 'i'nit, e'x'it, 'u'nmapped.
    Plugin(i64, char),
    /// A notifier, of a module's state.
    Told(usize, u8, u32),
}
use Event::{Plugin as At, Told};

const COMING: u32 = 1;
const LIVE: u32 = 0;
const GOING: u32 = 2;

thread_local! {
    static EVENTS: RefCell<Vec<Event>> = const { RefCell::new(Vec::new()) };
    static VETOES: RefCell<[bool; NOTIFIERS]> = const { RefCell::new([false; NOTIFIERS]) };
}

#[unsafe(no_mangle)]
extern "C" fn fuzz_event(plugin: c_int, what: c_char) {
    let event = At(plugin.into(), what as u8 as char);
    // Destructors may run when the thread is as good as gone.
    let _ = EVENTS.try_with(|events| events.borrow_mut().push(event));
}

unsafe extern "C" fn notifier(
    module: *mut module,
    state: module_state,
    data: *mut c_void,
) -> c_int {
    let (which, state) = (data as usize, state as u32);
    let name = unsafe { CStr::from_ptr(module_name(module)) }.to_bytes()[0];
    EVENTS.with_borrow_mut(|events| events.push(Told(which, name, state)));
    let vetoes = VETOES.with_borrow(|vetoes| vetoes[which]);
    if vetoes && state == COMING { -libc::EACCES } else { 0 }
}

#[derive(PartialEq, Clone, Copy, Debug)]
enum Where {
    /// In the table.
    Live,
    /// Out of the table, and held; its exit function has run, or has not.
    Zombie,
    Gone,
}

struct Record {
    name: usize,
    plugin: usize,
    place: Where,
    held: u64,
    /// Its exit function is to run when it goes.
    exit: bool,
}

struct World {
    host: *mut module_host,
    /// By load. (A load that fails is none.)
    loads: Vec<Record>,
    live: [Option<usize>; NAMES.len()],
    /// In the order they became one.
    zombies: Vec<usize>,
    /// User and provider, in the order they were made.
    links: Vec<(usize, usize)>,
    /// Priority and number, in the order they are called.
    notifiers: Vec<(i32, usize)>,
    expected: Vec<Event>,
    last: String,
    tainted: bool,
    /// What the program has.
    handles: Vec<(*mut module, usize)>,
    held: Vec<(*mut module, usize)>,
    given: Vec<usize>,
}

impl World {
    fn tell(&mut self, load: usize, state: u32) {
        let name = NAMES[self.loads[load].name].to_bytes()[0];
        self.expected.extend(self.notifiers.iter().map(|&(_, which)| Told(which, name, state)));
    }

    fn plugin(&self, load: usize) -> &'static Plugin {
        &PLUGINS[self.loads[load].plugin]
    }

    fn is_permanent(&self, load: usize) -> bool {
        let &Plugin(_, _, init, exit, _) = self.plugin(load);
        init && !exit
    }

    fn users(&self, load: usize) -> impl Iterator<Item = usize> + '_ {
        self.links.iter().filter(move |&&(_, provider)| provider == load).map(|&(user, _)| user)
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        let mut uses = self.links.iter().filter(|&&(user, _)| user == from);
        from == to || uses.any(|&(_, next)| self.reaches(next, to))
    }

    /// The exit function, and the notifiers.
    fn farewell(&mut self, load: usize) {
        let &Plugin(_, answer, _, exit, _) = self.plugin(load);
        if exit {
            self.expected.push(At(answer, 'x'));
        }
        self.tell(load, GOING);
    }

    /// Nobody holds it.
    fn end(&mut self, load: usize) {
        self.links.retain(|&(user, _)| user != load);
        self.expected.push(At(self.plugin(load).1, 'u'));
        self.loads[load].place = Where::Gone;
        self.last = format!("{} unmapped", NAMES[self.loads[load].name].to_str().unwrap());
    }

    fn reap(&mut self) -> i32 {
        let mut reaped = 0;
        while let Some(at) = self.zombies.iter().position(|&zombie| self.loads[zombie].held == 0) {
            let load = self.zombies.remove(at);
            if self.loads[load].exit {
                self.farewell(load);
            }
            self.end(load);
            reaped += 1;
        }
        reaped
    }

    /// 0, or 1 if it is left to its holders.
    fn leave(&mut self, load: usize, exit: bool) -> i32 {
        if self.loads[load].held == 0 {
            if exit {
                self.farewell(load);
            }
            self.end(load);
            return 0;
        }
        self.loads[load].place = Where::Zombie;
        self.loads[load].exit = exit;
        self.zombies.push(load);
        self.last = format!("{} resident: ", NAMES[self.loads[load].name].to_str().unwrap());
        1
    }

    /// Opens it and makes it COMING, or says why not.
    fn come(&mut self, name: usize, plugin: usize) -> Result<usize, i32> {
        let &Plugin(_, answer, init, _, rc) = &PLUGINS[plugin];
        let load = self.loads.len();
        self.expected.push(At(answer, 'm'));
        self.loads.push(Record { name, plugin, place: Where::Live, held: 0, exit: false });
        let letter = NAMES[name].to_bytes()[0];
        let vetoes = VETOES.with_borrow(|vetoes| *vetoes);
        let veto = self.notifiers.iter().position(|&(_, which)| vetoes[which]);
        let mut refused = None;
        for at in 0..veto.map_or(self.notifiers.len(), |veto| veto + 1) {
            self.expected.push(Told(self.notifiers[at].1, letter, COMING));
        }
        if let Some(veto) = veto {
            for at in 0..veto {
                self.expected.push(Told(self.notifiers[at].1, letter, GOING));
            }
            refused = Some(-libc::EACCES);
        } else if init {
            self.expected.push(At(answer, 'i'));
            if rc < 0 {
                self.tell(load, GOING);
                refused = Some(rc);
            }
        }
        if let Some(rc) = refused {
            self.expected.push(At(answer, 'u'));
            self.loads[load].place = Where::Gone;
            return Err(rc);
        }
        Ok(load)
    }

    fn load(&mut self, name: usize, plugin: usize) -> i32 {
        self.reap();
        if self.live[name].is_some() {
            return -libc::EEXIST;
        }
        match self.come(name, plugin) {
            Err(rc) => rc,
            Ok(load) => {
                self.live[name] = Some(load);
                self.tell(load, LIVE);
                0
            }
        }
    }

    fn unload(&mut self, name: usize, force: bool, drain: bool) -> i32 {
        self.reap();
        let Some(load) = self.live[name] else { return -libc::ENOENT };
        let permanent = self.is_permanent(load);
        if self.users(load).next().is_some() {
            return -libc::EWOULDBLOCK;
        }
        if permanent && !force {
            return -libc::EBUSY;
        }
        let held = self.loads[load].held > 0;
        if held && !force {
            return if drain { -libc::ETIMEDOUT } else { -libc::EWOULDBLOCK };
        }
        self.tainted |= held || permanent;
        self.live[name] = None;
        self.farewell(load);
        self.leave(load, false)
    }

    fn replace(&mut self, name: usize, plugin: usize) -> i32 {
        self.reap();
        let Some(old) = self.live[name] else { return -libc::ENOENT };
        if self.users(old).next().is_some() {
            return -libc::EWOULDBLOCK;
        }
        if self.is_permanent(old) {
            return -libc::EBUSY;
        }
        match self.come(name, plugin) {
            Err(rc) => rc,
            Ok(new) => {
                self.live[name] = Some(new);
                self.tell(new, LIVE);
                self.leave(old, true)
            }
        }
    }

    fn depend(&mut self, user: usize, provider: usize) -> i32 {
        if self.loads[user].place != Where::Live {
            return -libc::ENOENT;
        }
        if self.links.contains(&(user, provider)) {
            return 0;
        }
        if self.reaches(provider, user) {
            return -libc::EDEADLK;
        }
        if self.loads[provider].place != Where::Live {
            return -libc::ENOENT;
        }
        self.links.push((user, provider));
        0
    }

    unsafe fn step(&mut self, letter: u8, input: &mut Input) {
        unsafe {
            match letter {
                b'l' => {
                    let (name, plugin, flags) =
                        (input.digit() % 4, input.digit() % 5, input.digit());
                    let expected = self.load(name, plugin);
                    let mut handle = ptr::dangling_mut();
                    let out = if flags & 4 != 0 { ptr::null_mut() } else { &raw mut handle };
                    let path = PLUGINS[plugin].0.as_ptr();
                    let flags = (flags & 3) as u32;
                    let rc = module_load_flags(self.host, path, NAMES[name].as_ptr(), flags, out);
                    assert_eq!(rc, expected, "load");
                    if rc == 0 && !out.is_null() {
                        self.handles.push((handle, self.live[name].unwrap()));
                    } else if !out.is_null() {
                        assert!(handle.is_null());
                    }
                }
                b'u' => {
                    let (name, how) = (input.digit() % 4, input.digit());
                    let expected = self.unload(name, how & 1 != 0, how & 2 != 0);
                    let timeout = if how & 2 != 0 { 1000 } else { 0 };
                    let rc =
                        module_unload(self.host, NAMES[name].as_ptr(), how as u32 & 1, timeout);
                    assert_eq!(rc, expected, "unload");
                }
                b'r' => {
                    let (name, plugin) = (input.digit() % 4, input.digit() % 5);
                    let expected = self.replace(name, plugin);
                    let path = PLUGINS[plugin].0.as_ptr();
                    let rc = module_replace(self.host, NAMES[name].as_ptr(), path, 0);
                    assert_eq!(rc, expected, "replace");
                }
                b'g' => {
                    let name = input.digit() % 4;
                    let found = module_find_get(self.host, NAMES[name].as_ptr());
                    assert_eq!(!found.is_null(), self.live[name].is_some(), "find_get");
                    if let Some(load) = self.live[name] {
                        self.loads[load].held += 1;
                        self.held.push((found, load));
                    }
                }
                b'p' if !self.held.is_empty() => {
                    let at = input.digit() % self.held.len();
                    let (module, load) = self.held.swap_remove(at);
                    module_put(module);
                    self.loads[load].held -= 1;
                }
                b'm' if !self.held.is_empty() => {
                    let (module, load) = self.held[input.digit() % self.held.len()];
                    module_get(module);
                    self.loads[load].held += 1;
                    self.held.push((module, load));
                }
                b's' if !self.held.is_empty() => {
                    let (module, load) = self.held[input.digit() % self.held.len()];
                    let found = module_symbol(module, c"answer".as_ptr());
                    assert_eq!(call(found), self.plugin(load).1, "its code is there");
                    assert!(module_symbol(module, c"no such symbol".as_ptr()).is_null());
                }
                b't' if !self.handles.is_empty() => {
                    let (module, load) = self.handles[input.digit() % self.handles.len()];
                    let got = module_try_get(module);
                    assert_eq!(got, self.loads[load].place == Where::Live, "try_get");
                    if got {
                        self.loads[load].held += 1;
                        self.held.push((module, load));
                    }
                }
                b'h' if !self.handles.is_empty() => {
                    let at = input.digit() % self.handles.len();
                    module_handle_put(self.handles.swap_remove(at).0);
                }
                b'd' => {
                    let all: Vec<_> = self.handles.iter().chain(&self.held).copied().collect();
                    if !all.is_empty() {
                        let (user, a) = all[input.digit() % all.len()];
                        let (provider, b) = all[input.digit() % all.len()];
                        let expected = self.depend(a, b);
                        assert_eq!(module_add_dependency(user, provider), expected, "depend");
                    }
                }
                b'w' => {
                    let expected = self.reap();
                    assert_eq!(module_host_reap(self.host), expected, "reap");
                }
                b'n' => {
                    let (which, priority) = (input.digit() % NOTIFIERS, input.digit() as i32 - 8);
                    let known = self.notifiers.iter().any(|&(_, there)| there == which);
                    let data = which as *mut c_void;
                    let rc = module_notifier_register(self.host, Some(notifier), data, priority);
                    assert_eq!(rc, if known { -libc::EEXIST } else { 0 }, "register");
                    if !known {
                        let at = self.notifiers.partition_point(|&(there, _)| there >= priority);
                        self.notifiers.insert(at, (priority, which));
                    }
                }
                b'k' => {
                    let which = input.digit() % NOTIFIERS;
                    let at = self.notifiers.iter().position(|&(_, there)| there == which);
                    let data = which as *mut c_void;
                    let rc = module_notifier_unregister(self.host, Some(notifier), data);
                    assert_eq!(rc, if at.is_some() { 0 } else { -libc::ENOENT }, "unregister");
                    at.map(|at| self.notifiers.remove(at));
                }
                b'v' => VETOES.with_borrow_mut(|vetoes| vetoes[input.digit() % NOTIFIERS] ^= true),
                b'y' => {
                    let found = module_symbol_get(self.host, c"answer".as_ptr());
                    let oldest = self.live.iter().flatten().min().copied();
                    assert_eq!(!found.is_null(), oldest.is_some(), "symbol_get");
                    if let Some(load) = oldest {
                        assert_eq!(call(found), self.plugin(load).1, "of the oldest");
                        self.loads[load].held += 1;
                        self.given.push(load);
                    }
                }
                b'z' => {
                    let rc = module_symbol_put(self.host, c"answer".as_ptr());
                    assert_eq!(rc, if self.given.is_empty() { -libc::EINVAL } else { 0 });
                    if rc == 0 {
                        let load = self.given.remove(0);
                        self.loads[load].held -= 1;
                    }
                }
                b'f' => {
                    self.reap();
                    let empty = self.live.iter().all(Option::is_none) && self.zombies.is_empty();
                    let rc = module_host_free(self.host);
                    assert_eq!(rc, if empty { 0 } else { -libc::EBUSY }, "free");
                    if empty {
                        self.host = module_host_new();
                        self.notifiers.clear();
                        self.last.clear();
                        self.tainted = false;
                    }
                }
                b'q' => null(self.host),
                _ => {}
            }
            self.check(letter);
        }
    }

    unsafe fn check(&mut self, letter: u8) {
        let expected = std::mem::take(&mut self.expected);
        assert_eq!(EVENTS.take(), expected, "what happened at {:?}", letter as char);
        let users = |load| self.users(load).count() as u64;
        unsafe {
            for &(module, load) in self.handles.iter().chain(&self.held) {
                let Record { place, held, name, .. } = self.loads[load];
                let count = match place {
                    Where::Gone => -1,
                    _ => (held + users(load)) as i64,
                };
                assert_eq!(
                    module_refcount(module),
                    count,
                    "references, after {:?}",
                    letter as char
                );
                let state = if place == Where::Live { LIVE } else { GOING };
                assert_eq!(module_state(module) as u32, state, "the state");
                assert_eq!(CStr::from_ptr(module_name(module)), NAMES[name]);
            }
            let mut newest: Vec<_> = self.live.iter().flatten().copied().collect();
            newest.sort_by(|a, b| b.cmp(a));
            let list = text(|buf, len| module_host_list(self.host, buf, len));
            assert_eq!(list.lines().count(), newest.len(), "{list}");
            for (line, load) in list.lines().zip(newest) {
                let name = |load: usize| NAMES[self.loads[load].name].to_str().unwrap();
                let mut users: Vec<_> =
                    self.users(load).map(|user| format!("{},", name(user))).collect();
                users.reverse();
                if self.is_permanent(load) {
                    users.push("[permanent],".into());
                }
                let deps = if users.is_empty() { "-".into() } else { users.concat() };
                let count = self.loads[load].held + self.users(load).count() as u64;
                let mut words = line.split(' ');
                assert_eq!(words.next(), Some(name(load)), "{list}");
                let rest: Vec<_> = words.skip(1).collect();
                assert_eq!(rest[..3], [count.to_string(), deps, "Live".into()], "{list}");
            }
            let last = text(|buf, len| module_host_last_unloaded(self.host, buf, len));
            assert!(
                last.starts_with(&self.last) && last.is_empty() == self.last.is_empty(),
                "{last}"
            );
            assert_eq!(module_host_tainted(self.host), self.tainted, "tainted");
        }
    }

    /// All is given back, and nothing is left.
    unsafe fn leave_nothing(&mut self) {
        unsafe {
            for (module, load) in std::mem::take(&mut self.held) {
                module_put(module);
                self.loads[load].held -= 1;
            }
            while !self.given.is_empty() {
                self.step(b'z', &mut Input::new(b""));
            }
            for _ in NAMES {
                for name in 0..NAMES.len() {
                    self.step(b'u', &mut Input::new(&[b'0' + name as u8, b'1']));
                }
            }
            self.step(b'w', &mut Input::new(b""));
            assert_eq!(module_host_free(self.host), 0, "nothing is left");
            for (module, _) in std::mem::take(&mut self.handles) {
                assert!(!module_try_get(module) && module_host_of(module).is_null());
                module_handle_put(module);
            }
        }
    }
}

unsafe fn call(symbol: *mut c_void) -> i64 {
    assert!(!symbol.is_null());
    // SAFETY: every plugin's answer is this.
    unsafe { std::mem::transmute::<*mut c_void, extern "C" fn() -> i64>(symbol)() }
}

fn text(give: impl Fn(*mut c_char, usize) -> i64) -> String {
    let needed = give(ptr::null_mut(), 0) as usize;
    // A byte is missing at first.
    let mut buf = vec![0xffu8; needed.max(1) + 1];
    assert_eq!(give(buf.as_mut_ptr().cast(), needed), needed as i64);
    assert_eq!(buf[needed], 0xff, "no byte beyond the length");
    assert_eq!(give(buf.as_mut_ptr().cast(), needed + 1), needed as i64);
    CString::from_vec_with_nul(buf[..=needed].to_vec()).unwrap().into_string().unwrap()
}

/// What the functions make of NULL.
unsafe fn null(host: *mut module_host) {
    let (no, none) = (ptr::null_mut(), ptr::null_mut::<module>());
    unsafe {
        let path = PLUGINS[0].0.as_ptr();
        let mut out = ptr::dangling_mut();
        let refused = [
            module_load(no, path, ptr::null(), &mut out),
            module_load(host, ptr::null(), ptr::null(), ptr::null_mut()),
            module_load_flags(host, path, ptr::null(), 1 << 31, ptr::null_mut()),
            module_unload(no, c"a".as_ptr(), 0, 0),
            module_unload(host, ptr::null(), 0, 0),
            module_unload(host, c"a".as_ptr(), 2, 0),
            module_replace(no, c"a".as_ptr(), path, 0),
            module_replace(host, ptr::null(), path, 0),
            module_replace(host, c"a".as_ptr(), ptr::null(), 0),
            module_host_reap(no),
            module_host_free(no),
            module_add_dependency(none, none),
            module_notifier_register(host, None, ptr::null_mut(), 0),
            module_notifier_unregister(no, Some(notifier), ptr::null_mut()),
            module_symbol_put(host, ptr::null()),
            module_host_list(no, ptr::null_mut(), 0) as i32,
            module_host_last_unloaded(no, ptr::null_mut(), 0) as i32,
            module_refcount(none) as i32,
        ];
        assert_eq!(refused, [-libc::EINVAL; 18]);
        assert!(out.is_null());
        assert!(module_find_get(no, c"a".as_ptr()).is_null());
        assert!(module_find_get(host, ptr::null()).is_null());
        assert!(module_symbol(none, c"answer".as_ptr()).is_null());
        assert!(module_symbol_get(host, ptr::null()).is_null());
        assert!(module_try_get(none) && !module_host_tainted(no));
        module_get(none);
        module_put(none);
        module_handle_put(none);
        assert!(module_handle_get(none).is_null());
        assert_eq!(module_state(none) as u32, LIVE);
        assert_eq!(CStr::from_ptr(module_name(none)), c"");
    }
}

fuzz_target!(|data: &[u8]| {
    input::keep(|| {
        // SAFETY: a host that nobody has used.
        unsafe { assert_eq!(module_host_free(module_host_new()), 0) };
    });
    let mut input = Input::new(data);
    EVENTS.take();
    VETOES.take();
    let mut world = World {
        host: module_host_new(),
        loads: Vec::new(),
        live: Default::default(),
        zombies: Vec::new(),
        links: Vec::new(),
        notifiers: Vec::new(),
        expected: Vec::new(),
        last: String::new(),
        tainted: false,
        handles: Vec::new(),
        held: Vec::new(),
        given: Vec::new(),
    };
    // SAFETY: the plugins are ours, and the model knows what is held.
    unsafe {
        while let Some(letter) = input.letter() {
            world.step(letter, &mut input);
        }
        world.leave_nothing();
    }
});
