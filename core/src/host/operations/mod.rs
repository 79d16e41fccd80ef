//! What a host does with its modules.

pub(crate) mod depend;
pub(crate) mod drain;
pub(crate) mod load;
pub(crate) mod replace;
pub(crate) mod symbols;
pub(crate) mod thread;
pub(crate) mod unload;
