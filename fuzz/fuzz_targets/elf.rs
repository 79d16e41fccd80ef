//! What the host makes of a mangled file before the dynamic linker sees it.
//!
//! The name that the load asks for is taken, so the file is read and judged, and nothing is
//! opened: -EEXIST is a file that would be. module_check_file() judges it in the same way, and has
//! lines of plain text for it.
#![no_main]

mod input;
mod mangle;

use ::module_ref::module_check_file;
use input::Input;
use libfuzzer_sys::fuzz_target;
use mangle::{BARE, BOTH, Judge, Memory};
use std::sync::OnceLock;

fuzz_target!(|data: &[u8]| {
    static WORLD: OnceLock<(Judge, Memory)> = OnceLock::new();
    input::keep(|| WORLD.get_or_init(|| (Judge::new(), Memory::new())));
    let (judge, memory) = WORLD.get().unwrap();
    let file = mangle::mangle(&mut Input::new(data), BOTH);
    memory.write(&file);
    let mut text = [0; 1 << 16];
    let path = memory.path();
    // SAFETY: a path, and a buffer of that size.
    let length = unsafe { module_check_file(path.as_ptr(), text.as_mut_ptr().cast(), text.len()) };
    match judge.says(&path) {
        (rc, _) if rc == -libc::EEXIST => {
            assert_eq!(mangle::fatal(&file), None, "the file is taken for a good one");
            let text = text.split(|&c| c == 0).next().unwrap();
            assert_eq!(text.len() as i64, length.min((1 << 16) - 1), "the findings have a NUL");
            assert!(text.iter().all(|&c| c == b'\n' || (b' '..=b'~').contains(&c)));
        }
        (rc, why) if rc == -libc::ENOEXEC => {
            assert!(file != BARE && file != BOTH, "a good file is refused: {why}");
            assert_eq!(length, rc.into(), "the check takes it for a good one");
        }
        (rc, why) => panic!("{rc}: {why}"),
    }
});
