//! Names and paths of any bytes: what the host refuses, as what, and that it then has nothing.
//!
//! An input is a digit for what it is used as, and the bytes.
#![no_main]

mod input;

use ::module_ref::*;
use input::Input;
use libfuzzer_sys::fuzz_target;
use modref::host::{Host, Load};
use std::ffi::{CStr, CString, OsStr};
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

const FOLDER: &str = env!("OUT_DIR");
const PLUGIN: &str = concat!(env!("OUT_DIR"), "/library.so");

/// What a load under this name has to answer.
fn rule(name: &[u8]) -> i32 {
    let Ok(text) = std::str::from_utf8(name) else { return -libc::EINVAL };
    match text.len() {
        0 => -libc::EINVAL,
        56.. => -libc::ENAMETOOLONG,
        _ if text.contains(|c: char| c.is_whitespace() || c.is_control() || ",/".contains(c)) => {
            -libc::EINVAL
        }
        _ => 0,
    }
}

/// The module is there under its name, and goes.
unsafe fn unload(host: *mut module_host, name: &CStr) {
    unsafe {
        let found = module_find_get(host, name.as_ptr());
        assert!(!found.is_null());
        assert_eq!(CStr::from_ptr(module_name(found)), name);
        module_put(found);
        let len = module_host_list(host, ptr::null_mut(), 0) as usize;
        let mut list = vec![0u8; len + 1];
        module_host_list(host, list.as_mut_ptr().cast(), list.len());
        let list = String::from_utf8(list).expect("UTF-8");
        assert_eq!(list.lines().count(), 2, "one line, and the NUL: {list:?}");
        assert_eq!(list.split([' ', '\n']).count(), 7, "six words: {list:?}");
        assert_eq!(module_unload(host, name.as_ptr(), 0, 0), 0);
    }
}

fuzz_target!(|data: &[u8]| {
    input::keep(|| {
        // SAFETY: a host that nobody has used.
        unsafe { assert_eq!(module_host_free(module_host_new()), 0) };
    });
    let mut input = Input::new(data);
    let how = input.digit();
    let bytes = input.rest();
    let c =
        CString::new(&bytes[..bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len())]).unwrap();
    let plugin = CString::new(PLUGIN).unwrap();
    // SAFETY: the plugin does nothing, and what else is in its folder is no other library.
    unsafe {
        let host = module_host_new();
        match how % 5 {
            0 => {
                let rc = module_load(host, plugin.as_ptr(), c.as_ptr(), ptr::null_mut());
                assert_eq!(rc, rule(c.to_bytes()), "as a name");
                if rc == 0 {
                    unload(host, &c);
                }
            }
            1 => {
                // A name of another module, wherever one is asked for.
                let unknown = -libc::ENOENT;
                assert!(module_find_get(host, c.as_ptr()).is_null());
                assert_eq!(module_unload(host, c.as_ptr(), 0, 0), unknown);
                assert_eq!(module_unload(host, c.as_ptr(), 1, 10), unknown);
                assert_eq!(module_replace(host, c.as_ptr(), plugin.as_ptr(), 0), unknown);
                assert!(module_symbol_get(host, c.as_ptr()).is_null());
                assert_eq!(module_symbol_put(host, c.as_ptr()), -libc::EINVAL);
            }
            2 | 3 => {
                // A file of this name, in a folder without traps; named after itself.
                let path = [FOLDER.as_bytes(), b"/", &c.to_bytes().to_ascii_lowercase()].concat();
                let path = Path::new(OsStr::from_bytes(&path)).to_owned();
                let is_ours =
                    std::fs::canonicalize(&path).is_ok_and(|path| path.starts_with(FOLDER));
                let raw = CString::new(path.as_os_str().as_bytes()).unwrap();
                let flags = if how % 5 == 3 { 2 } else { 0 };
                if is_ours || !path.exists() {
                    let rc =
                        module_load_flags(host, raw.as_ptr(), ptr::null(), flags, ptr::null_mut());
                    assert!(rc <= 0 && (rc < 0 || path.is_file()));
                    if rc == 0 {
                        let name = path.file_name().unwrap().to_str().unwrap();
                        let name = CString::new(name.split(".so").next().unwrap()).unwrap();
                        assert_eq!(module_unload(host, name.as_ptr(), 1, 0), 0, "{name:?}");
                    }
                }
            }
            _ => {
                // Through Rust, where a NUL can be inside.
                let borrowed = ManuallyDrop::new(Host::from_raw(host.cast()));
                let name = String::from_utf8_lossy(bytes);
                match borrowed.load_with(PLUGIN, Load::new().name(&*name)) {
                    Ok(module) => {
                        assert_eq!((module.name(), rule(name.as_bytes())), (&*name, 0));
                        drop(module);
                        unload(host, &CString::new(&*name).unwrap());
                    }
                    Err(error) => assert_eq!(-error.errno(), rule(name.as_bytes())),
                }
                if bytes.contains(&0) {
                    let path = Path::new(FOLDER).join(OsStr::from_bytes(bytes));
                    let refused = borrowed.load(path).err().map(|error| error.errno());
                    assert!(
                        [Some(libc::ENOENT), Some(libc::EINVAL), Some(libc::ENAMETOOLONG)]
                            .contains(&refused)
                    );
                }
            }
        }
        assert_eq!(module_host_free(host), 0, "nothing is left");
    }
});
