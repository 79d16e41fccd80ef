//! Gets and puts that have the restartable sequence in them, without a call.

use modref::Area;

/// What `module_ref_inline.h` reads.
#[unsafe(no_mangle)]
pub static module_ref_area: Area = Area::unknown();

/// Before the constructors of the object that the library is part of, if it is the static one: it may
/// begin with gets.
#[used]
#[unsafe(link_section = ".init_array.00099")]
static AT_LOAD: extern "C" fn() = {
    extern "C" fn at_load() {
        module_ref_area.learn();
    }
    at_load
};

#[cfg_attr(target_arch = "x86_64", path = "sequence/x86_64.rs")]
#[cfg_attr(target_arch = "aarch64", path = "sequence/aarch64.rs")]
#[cfg_attr(
    not(target_env = "gnu"),
    allow(unused_macros, unused_imports, reason = "the host alone has trace points")
)]
mod processor;

#[cfg(not(tsan))]
macro_rules! tell_tsan {
    ($what:literal, $delta:literal) => {
        ""
    };
}

/// The body of a get or a put: the restartable sequence right here, and `inner(argument,
/// caller)` if the argument is NULL or the sequence was not for it. After `by`, `inner` is a
/// [`Way`](crate::watched::Way), and what it may lead to. A module's has a trace point: after the
/// get, or before the put. `failed(argument, caller)` goes on if the sequence fails; after a put
/// that was traced it traces none.
macro_rules! sequence_or {
    (by $way:path, $watched:path, $($rest:tt)*) => {
        $crate::sequence::sequence_or!(@ through $way, $($rest)*)
    };
    (@ $to:ident $inner:path, $argument:expr, $delta:literal, failed $failed:path) => {
        $crate::sequence::entry!($to $inner, $delta, "", "", $failed)
    };
    (@ $to:ident $inner:path, $argument:expr, $delta:literal, then $point:literal, failed $failed:path) => {
        $crate::sequence::entry!($to $inner, $delta, "", $crate::sequence::point!($point), $failed)
    };
    (@ $to:ident $inner:path, $argument:expr, $delta:literal, after $point:literal, failed $failed:path) => {
        $crate::sequence::entry!($to $inner, $delta, $crate::sequence::point!($point), "", $failed)
    };
    ($inner:path, $($rest:tt)*) => {
        $crate::sequence::sequence_or!(@ to $inner, $($rest)*)
    };
}

/// After a sequence that did not add, of a counter that may be another copy's.
pub(crate) unsafe extern "C" fn widen(of: *const modref::Counter) {
    // SAFETY: the entry point has got a counter that is not NULL.
    unsafe { &*of }.widen();
}

/// What ThreadSanitizer cannot see of a sequence is told by a call, of which `percpu/linux/tsan.rs`
/// has the functions: their arguments are the counter's second word and what is added.
#[cfg(tsan)]
pub(crate) use processor::tell_tsan;
#[cfg_attr(
    not(target_env = "gnu"),
    allow(unused_macros, unused_imports, reason = "the host alone has trace points")
)]
pub(crate) use processor::{entry, go, point};
pub(crate) use sequence_or;
#[cfg(not(tsan))]
pub(crate) use tell_tsan;
