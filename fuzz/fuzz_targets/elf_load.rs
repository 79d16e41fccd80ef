//! Mangled files, all the way: loaded, used, listed and unloaded by the host.
//!
//! A file that the host refuses to open, as `elf` sees it, is of no interest here. The
//! dynamic linker trusts files, and one that the host cannot tell from a good one may crash
//! it. So a child process does first, without the library, what the library will do: what the
//! linker survives there, the library has to survive in a second child, and to agree on.
#![no_main]

mod input;
mod mangle;

use ::module_ref::*;
use input::Input;
use libfuzzer_sys::fuzz_target;
use mangle::{BARE, Judge, Memory};
use std::ffi::{CStr, c_void};
use std::ptr;
use std::sync::OnceLock;

/// How a child ends that did not crash.
const OPENED: i32 = 40;
const REFUSED: i32 = 41;

/// Its exit status, or None for any other end.
fn in_child(quiet: bool, what: impl FnOnce() -> i32) -> Option<i32> {
    // SAFETY: this program has one thread that matters; the child ends without a return.
    unsafe {
        let child = libc::fork();
        assert!(child >= 0);
        if child == 0 {
            for signal in [
                libc::SIGSEGV,
                libc::SIGBUS,
                libc::SIGILL,
                libc::SIGFPE,
                libc::SIGABRT,
                libc::SIGALRM,
            ] {
                libc::signal(signal, libc::SIG_DFL);
            }
            if quiet {
                libc::close(2);
            }
            libc::alarm(5);
            libc::_exit(what());
        }
        let mut status = 0;
        while libc::waitpid(child, &mut status, 0) < 0 {}
        libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status))
    }
}

/// As the library does: with a path that is not known, all at once, and for itself.
unsafe fn by_the_linker(path: &CStr) -> i32 {
    unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        if handle.is_null() {
            return REFUSED;
        }
        for name in [c"init_module", c"cleanup_module", c"__this_module", c"answer"] {
            libc::dlsym(handle, name.as_ptr());
        }
        let mut map: *mut c_void = ptr::null_mut();
        libc::dlinfo(handle, libc::RTLD_DI_LINKMAP, (&raw mut map).cast());
        // A look at what is loaded compares names, and walks over all objects.
        let again = libc::dlopen(c"no-such.so".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        assert!(again.is_null());
        libc::dlclose(handle);
        OPENED
    }
}

unsafe fn by_the_host(path: &CStr) -> i32 {
    unsafe {
        let host = module_host_new();
        let mut module = ptr::null_mut();
        let rc = module_load(host, path.as_ptr(), c"mangled".as_ptr(), &mut module);
        if rc != 0 {
            assert!(rc < 0 && module.is_null());
            assert!(!CStr::from_ptr(module_last_error()).is_empty());
            assert_eq!(module_host_free(host), 0, "nothing is left of it");
            return REFUSED;
        }
        let held = module_find_get(host, c"mangled".as_ptr());
        module_symbol(held, c"answer".as_ptr());
        module_put(held);
        assert!(module_host_list(host, ptr::null_mut(), 0) > 0);
        let rc = module_unload(host, c"mangled".as_ptr(), 0, 0);
        assert!(rc == 0 || rc == 1, "unload: {rc}");
        module_handle_put(module);
        assert_eq!(module_host_free(host), 0);
        OPENED
    }
}

fuzz_target!(|data: &[u8]| {
    static JUDGE: OnceLock<Judge> = OnceLock::new();
    input::keep(|| JUDGE.get_or_init(Judge::new));
    let memory = Memory::new();
    memory.write(&mangle::mangle(&mut Input::new(data), BARE));
    let path = memory.path();
    if JUDGE.get().unwrap().says(&path).0 != -libc::EEXIST {
        return;
    }
    // SAFETY: whatever it does, it does in a child.
    let linker = in_child(true, || unsafe { by_the_linker(&path) });
    if linker != Some(OPENED) && linker != Some(REFUSED) {
        return;
    }
    let host = in_child(false, || unsafe { by_the_host(&path) });
    match (linker, host) {
        (Some(OPENED), Some(OPENED)) | (_, Some(REFUSED)) => {}
        _ => panic!("the linker alone: {linker:?}, under the host: {host:?}"),
    }
});
