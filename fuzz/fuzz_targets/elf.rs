//! What the host makes of a mangled file before the dynamic linker sees it.
//!
//! The name that the load asks for is taken, so the file is read and judged, and nothing is
//! opened: -EEXIST is a file that would be.
#![no_main]

mod input;
mod mangle;

use ::module_ref::*;
use input::Input;
use libfuzzer_sys::fuzz_target;
use mangle::{BARE, BOTH, Memory};
use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr;
use std::sync::OnceLock;

#[unsafe(no_mangle)]
extern "C" fn fuzz_event(_plugin: c_int, _what: c_char) {}

struct World {
    host: usize,
    memory: Memory,
    path: CString,
}

fuzz_target!(|data: &[u8]| {
    static WORLD: OnceLock<World> = OnceLock::new();
    input::keep(|| {
        // SAFETY: the plugin does nothing.
        let host = unsafe {
            let host = module_host_new();
            let path = concat!(env!("OUT_DIR"), "/library.so\0");
            assert_eq!(
                module_load(host, path.as_ptr().cast(), c"taken".as_ptr(), ptr::null_mut()),
                0
            );
            host as usize
        };
        let memory = Memory::new();
        let path = memory.path();
        let _ = WORLD.set(World { host, memory, path });
    });
    let world = WORLD.get().unwrap();
    let file = mangle::mangle(&mut Input::new(data), BOTH);
    world.memory.write(&file);
    // SAFETY: nothing is loaded.
    let (rc, why) = unsafe {
        let host = world.host as *mut module_host;
        let rc = module_load(host, world.path.as_ptr(), c"taken".as_ptr(), ptr::null_mut());
        (rc, CStr::from_ptr(module_last_error()).to_str().expect("words"))
    };
    match rc {
        _ if rc == -libc::EEXIST => {
            assert_eq!(mangle::fatal(&file), None, "the file is taken for a good one");
        }
        _ if rc == -libc::ENOEXEC => {
            assert!(file != BARE && file != BOTH, "a good file is refused: {why}");
        }
        _ => panic!("{rc}: {why}"),
    }
});
