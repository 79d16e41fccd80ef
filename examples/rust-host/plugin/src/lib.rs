//! A plugin in Rust: it adds to a number. What crosses the boundary is C's: the plugin may have
//! been built by another compiler than the host.

use std::ffi::{CStr, c_char, c_int};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::time::Duration;

module_ref::plugin!();

static TICKER: Mutex<Option<module_ref::plugin::Thread>> = Mutex::new(None);
static STOP: AtomicBool = AtomicBool::new(false);
static TICKS: AtomicI64 = AtomicI64::new(0);

/// What is added; another version of the plugin adds something else.
const ADDEND: i64 = if cfg!(second) { 20 } else { 10 };

/// Called by the host before anybody can find the plugin in service; 0, or a negative errno that
/// fails the load.
#[unsafe(no_mangle)]
pub extern "C" fn init_module() -> c_int {
    // Loaded by something else than a host: no thread.
    let Some(module) = this_module() else { return 0 };
    let ticker = module.spawn(|| {
        while !STOP.load(Relaxed) {
            TICKS.fetch_add(1, Relaxed);
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    match ticker {
        Ok(thread) => {
            *TICKER.lock().unwrap() = Some(thread);
            0
        }
        Err(errno) => -errno,
    }
}

/// Called by the host when nobody is in the plugin, and nobody gets in: the plugin's thread ends here.
#[unsafe(no_mangle)]
pub extern "C" fn cleanup_module() {
    STOP.store(true, Relaxed);
    if let Some(ticker) = TICKER.lock().unwrap().take() {
        ticker.join();
    }
}

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
