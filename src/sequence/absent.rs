//! Where there is no restartable sequence: each get and put calls for the word.

/// What `module_ref_inline.h` reads.
#[unsafe(no_mangle)]
pub static module_ref_area: isize = 0;

macro_rules! sequence_or {
    (by $way:path, $watched:path, $argument:expr, $($rest:tt)*) => {
        $crate::caller::with_caller!($watched, $argument)
    };
    ($inner:path, $argument:expr, $($rest:tt)*) => {
        $crate::caller::with_caller!($inner, $argument)
    };
}

pub(crate) use sequence_or;
