//! A plugin in Rust: it adds to a number. What crosses the boundary is C's: the plugin may have
//! been built by another compiler than the host.

use std::ffi::{CStr, c_char, c_int};

/// What is added; another version of the plugin adds something else.
const ADDEND: i64 = if cfg!(second) { 20 } else { 10 };

/// Called by the host before anybody can find the plugin in service; 0, or a negative errno that
/// fails the load.
#[unsafe(no_mangle)]
pub extern "C" fn init_module() -> c_int {
    0
}

/// Called by the host when nobody is in the plugin, and nobody gets in. A thread that the plugin
/// had started would be stopped and joined here.
#[unsafe(no_mangle)]
pub extern "C" fn cleanup_module() {}

/// What the plugin is, for people. Valid for as long as the plugin is held.
#[unsafe(no_mangle)]
pub extern "C" fn describe() -> *const c_char {
    const TEXT: &CStr = if cfg!(second) { c"adds 20, in Rust" } else { c"adds 10, in Rust" };
    TEXT.as_ptr()
}

/// One step of the calculation. A panic may not leave it: it would end the process.
#[unsafe(no_mangle)]
pub extern "C" fn step(number: i64) -> i64 {
    number.wrapping_add(ADDEND)
}
