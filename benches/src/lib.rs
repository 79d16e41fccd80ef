//! This library from Rust, and what Rust programs use instead of it.
//!
//! Each function takes and gives back something `n` times, on one of [`COUNTERS`] counters that
//! the threads share or have to themselves.

use arc_swap::ArcSwap;
use core::ffi::{c_int, c_long};
use core::sync::atomic::{Ordering::SeqCst, compiler_fence};
use module_ref::{Mode, ModuleRef};
use parking_lot::RwLock;
use std::sync::{Arc, LazyLock, Weak};

/// As many as the C benchmarks have threads.
pub const COUNTERS: usize = 8;

/// On cache lines of its own, and of the pair that is fetched together.
#[repr(align(128))]
struct Apart<T>(T);

fn each<T>(make: impl Fn() -> T) -> [Apart<T>; COUNTERS] {
    std::array::from_fn(|_| Apart(make()))
}

static SHARED: [Apart<ModuleRef>; COUNTERS] = [const { Apart(ModuleRef::new()) }; COUNTERS];
static PERCPU: LazyLock<[Apart<ModuleRef>; COUNTERS]> =
    LazyLock::new(|| each(|| ModuleRef::new_percpu().expect("8 counters are not many")));
static ARCS: LazyLock<[Apart<Arc<u64>>; COUNTERS]> = LazyLock::new(|| each(|| Arc::new(42)));
static WEAKS: LazyLock<[Apart<Weak<u64>>; COUNTERS]> =
    LazyLock::new(|| std::array::from_fn(|i| Apart(Arc::downgrade(&ARCS[i].0))));
static SWAPS: LazyLock<[Apart<ArcSwap<u64>>; COUNTERS]> =
    LazyLock::new(|| each(|| ArcSwap::from_pointee(42)));
static LOCKS: [Apart<RwLock<u64>>; COUNTERS] = [const { Apart(RwLock::new(42)) }; COUNTERS];

/// Whether the counters of [`percpu`] count per CPU here.
// SAFETY: nothing else has a name that begins like this.
#[unsafe(export_name = "rust_counts_per_cpu")]
pub extern "C" fn counts_per_cpu() -> bool {
    PERCPU[0].0.mode() == Mode::PerCpu
}

/// Defines each function for Rust, and for C under its name with `rust_` before it.
macro_rules! pairs {
    ($($(#[$doc:meta])* $name:ident, $c_name:ident: |$counter:ident| $on:expr => $take:expr;)*) => {$(
        $(#[$doc])*
        pub fn $name($counter: usize, n: u64) {
            let $counter = $on;
            for _ in 0..n {
                let _guard = $take;
                compiler_fence(SeqCst); // as much as the C loops have between get and put
            }
        }

        #[doc = concat!("[`", stringify!($name), "`] for the C benchmarks.")]
        // SAFETY: nothing else has a name that begins like this.
        #[unsafe(no_mangle)]
        pub extern "C" fn $c_name(counter: c_int, n: c_long) {
            $name(counter as usize, n as u64);
        }
    )*};
}

pairs! {
    /// A guard of a counter in one shared word.
    shared, rust_shared: |counter| &SHARED[counter].0 => counter.try_get().expect("not released");
    /// A guard of a per-CPU counter.
    percpu, rust_percpu: |counter| &PERCPU[counter].0 => counter.try_get().expect("not released");
    /// `std::sync::Weak::upgrade`, and the drop of what it gave.
    weak, rust_weak_upgrade: |counter| &WEAKS[counter].0 => counter.upgrade().expect("alive");
    /// `ArcSwap::load`, and the drop of its guard.
    arc_swap, rust_arc_swap: |counter| &SWAPS[counter].0 => counter.load();
    /// `crossbeam_epoch::pin`, and the drop of its guard: one epoch for all counters.
    epoch, rust_epoch: |_counter| () => crossbeam_epoch::pin();
    /// The read lock of a `parking_lot::RwLock`.
    parking_lot, rust_parking_lot: |counter| &LOCKS[counter].0 => counter.read();
}
