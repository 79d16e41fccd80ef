//! What the host makes of a mangled file before the dynamic linker sees it.
//!
//! The name that the load asks for is taken, so the file is read and judged, and nothing is
//! opened: -EEXIST is a file that would be.
#![no_main]

mod input;
mod mangle;

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
    match judge.says(&memory.path()) {
        (rc, _) if rc == -libc::EEXIST => {
            assert_eq!(mangle::fatal(&file), None, "the file is taken for a good one");
        }
        (rc, why) if rc == -libc::ENOEXEC => {
            assert!(file != BARE && file != BOTH, "a good file is refused: {why}");
        }
        (rc, why) => panic!("{rc}: {why}"),
    }
});
