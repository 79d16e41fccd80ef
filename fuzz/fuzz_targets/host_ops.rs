//! The module host's C functions against the model, in any order of operations.
#![no_main]

// The C functions, and the crate by the name that the model has for it.
extern crate modref as module_ref;
extern crate module_ref as c;

mod input;
#[path = "../../core/tests/model/mod.rs"]
mod model;

use c::*;
use libfuzzer_sys::fuzz_target;
use model::host::{Face, Outcome, Wait, run, told};
use module_ref::Mode;
use module_ref::host::{Host, Module, Reference, State};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;

struct C;

fn text(text: impl AsRef<[u8]>) -> CString {
    CString::new(text.as_ref()).expect("text without NUL")
}

fn raw(host: &Host) -> *mut module_host {
    host.as_raw().cast_mut().cast()
}

/// A module's pointer, which its reference or handle keeps.
fn core(module: &Module) -> *mut module {
    let pointer = ManuallyDrop::new(module.clone().into_raw());
    // SAFETY: the handle made above; the other stays.
    drop(unsafe { Module::from_raw(*pointer) });
    pointer.cast_mut().cast()
}

fn reference(pointer: *mut module) -> Option<Reference> {
    // SAFETY: with a reference, if it is any module.
    (!pointer.is_null()).then(|| unsafe { Reference::from_raw(pointer.cast_const().cast()) })
}

fn done(rc: c_int) -> Result<(), i32> {
    if rc < 0 { Err(-rc) } else { Ok(()) }
}

fn unloaded(rc: c_int) -> Result<Outcome, i32> {
    done(rc).map(|()| if rc == 0 { Outcome::Unmapped } else { Outcome::Resident })
}

fn ns(wait: Wait) -> i64 {
    wait.timeout().map_or(-1, |timeout| timeout.as_nanos() as i64)
}

/// What a function writes, which must keep within the length.
fn written(give: impl Fn(*mut c_char, usize) -> i64) -> String {
    let needed = give(ptr::null_mut(), 0) as usize;
    // A byte is missing at first.
    let mut buf = vec![0xffu8; needed.max(1) + 1];
    assert_eq!(give(buf.as_mut_ptr().cast(), needed), needed as i64);
    assert_eq!(buf[needed], 0xff, "no byte beyond the length");
    assert_eq!(give(buf.as_mut_ptr().cast(), needed + 1), needed as i64);
    CString::from_vec_with_nul(buf[..=needed].to_vec()).unwrap().into_string().unwrap()
}

unsafe extern "C" fn notifier(of: *mut module, state: module_state, data: *mut c_void) -> c_int {
    let state = match state as u32 {
        0 => State::Live,
        1 => State::Coming,
        2 => State::Going,
        other => panic!("told of state {other}"),
    };
    // SAFETY: it is valid during the call.
    let module = unsafe { Module::borrow_raw(of.cast_const().cast()) };
    told(data as usize, &module, state).map_or(0, |errno| -errno)
}

// SAFETY of all that follows: the pointers are those of objects that the model keeps.
impl Face for C {
    // AddressSanitizer maps memory as slots are mapped, so it is not refused to any thread.
    const THREADS: usize = 3;

    fn load(host: &Host, path: &Path, name: &str, mode: Mode, copy: bool) -> Result<Module, i32> {
        let (path, name) = (text(path.as_os_str().as_bytes()), text(name));
        let flags = u32::from(mode == Mode::Atomic) | if copy { 2 } else { 0 };
        let mut out = ptr::dangling_mut();
        unsafe {
            let rc = module_load_flags(raw(host), path.as_ptr(), name.as_ptr(), flags, &mut out);
            assert_eq!(out.is_null(), rc != 0, "a handle");
            done(rc)?;
            let module = Module::borrow_raw(out.cast_const().cast());
            assert_eq!(module_handle_get(out), out);
            module_handle_put(out);
            module_handle_put(out);
            Ok(module)
        }
    }

    fn unload(host: &Host, name: &str, force: bool, wait: Wait) -> Result<Outcome, i32> {
        let name = text(name);
        unloaded(unsafe { module_unload(raw(host), name.as_ptr(), force.into(), ns(wait)) })
    }

    fn replace(host: &Host, name: &str, path: &Path, wait: Wait) -> Result<Outcome, i32> {
        let (path, name) = (text(path.as_os_str().as_bytes()), text(name));
        unloaded(unsafe { module_replace(raw(host), name.as_ptr(), path.as_ptr(), ns(wait)) })
    }

    fn replace_set(
        host: &Host,
        set: &[(&str, PathBuf)],
        stop_first: bool,
    ) -> Result<Vec<Outcome>, i32> {
        let texts: Vec<_> = set
            .iter()
            .map(|(name, path)| (text(name), text(path.as_os_str().as_bytes())))
            .collect();
        let one = |(name, path): &(CString, CString)| module_replacement {
            name: name.as_ptr(),
            path: path.as_ptr(),
        };
        let set: Vec<_> = texts.iter().map(one).collect();
        let (flags, ns) = (u32::from(stop_first), ns(Wait::Short));
        let rc = unsafe { module_replace_set(raw(host), set.as_ptr(), set.len(), flags, ns) };
        unloaded(rc).map(|outcome| vec![outcome])
    }

    fn told(outcome: Outcome) -> Outcome {
        if outcome == Outcome::Unmapped { outcome } else { Outcome::Resident }
    }

    /// Of a set whether all of them are unmapped.
    fn told_of_set(outcomes: Vec<Outcome>) -> Vec<Outcome> {
        let stays = outcomes.into_iter().map(Self::told).find(|&there| there != Outcome::Unmapped);
        vec![stays.unwrap_or(Outcome::Unmapped)]
    }

    fn find_get(host: &Host, name: &str) -> Option<Reference> {
        let name = text(name);
        reference(unsafe { module_find_get(raw(host), name.as_ptr()) })
    }

    fn try_get(module: &Module) -> Option<Reference> {
        unsafe { module_try_get(core(module)) }.then(|| reference(core(module)))?
    }

    fn get(held: &Reference) -> Reference {
        let pointer = core(&held.module());
        unsafe { module_get(pointer) };
        reference(pointer).expect("a module")
    }

    fn put(reference: Reference) {
        unsafe { module_put(reference.into_raw().cast_mut().cast()) };
    }

    fn symbol(held: &Reference, symbol: &CStr) -> Option<*mut c_void> {
        let found = unsafe { module_symbol(core(&held.module()), symbol.as_ptr()) };
        (!found.is_null()).then_some(found)
    }

    fn depend(user: &Module, provider: &Module) -> Result<(), i32> {
        done(unsafe { module_add_dependency(core(user), core(provider)) })
    }

    fn register(host: &Host, which: usize, priority: i32) -> Result<(), i32> {
        let data = which as *mut c_void;
        done(unsafe { module_notifier_register(raw(host), Some(notifier), data, priority) })
    }

    fn unregister(host: &Host, which: usize) -> Result<(), i32> {
        let data = which as *mut c_void;
        done(unsafe { module_notifier_unregister(raw(host), Some(notifier), data) })
    }

    fn symbol_get(host: &Host, symbol: &CStr) -> Option<*mut c_void> {
        let found = unsafe { module_symbol_get(raw(host), symbol.as_ptr()) };
        (!found.is_null()).then_some(found)
    }

    fn symbol_put(host: &Host, symbol: &CStr) -> Result<(), i32> {
        done(unsafe { module_symbol_put(raw(host), symbol.as_ptr()) })
    }

    fn reap(host: &Host) -> usize {
        unsafe { module_host_reap(raw(host)) as usize }
    }

    fn close(host: Host) -> Result<(), (Host, i32)> {
        let pointer = host.into_raw();
        done(unsafe { module_host_free(pointer.cast_mut().cast()) })
            .map_err(|errno| (unsafe { Host::from_raw(pointer) }, errno))
    }

    fn state(module: &Module) -> (String, State, Option<u64>) {
        let pointer = core(module);
        unsafe {
            let name = CStr::from_ptr(module_name(pointer)).to_str().unwrap().to_owned();
            let state = [State::Live, State::Coming, State::Going, State::Unformed]
                [module_state(pointer) as usize];
            let references = module_refcount(pointer);
            assert!(references >= -1, "a count, or none");
            (name, state, u64::try_from(references).ok())
        }
    }

    fn report(host: &Host) -> (String, String, bool) {
        let list = written(|buf, len| unsafe { module_host_list(raw(host), buf, len) });
        let last = written(|buf, len| unsafe { module_host_last_unloaded(raw(host), buf, len) });
        (list, last, unsafe { module_host_tainted(raw(host)) })
    }
}

fuzz_target!(|text: &[u8]| {
    input::keep(|| run::<C>(b""));
    run::<C>(text);
});
