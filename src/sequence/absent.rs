//! Where there is no restartable sequence: each get and put calls for the word.

macro_rules! sequence_or {
    ($inner:path, $argument:expr, $delta:literal $($rest:tt)*) => {
        $crate::caller::with_caller!($inner, $argument)
    };
}

pub(crate) use sequence_or;
