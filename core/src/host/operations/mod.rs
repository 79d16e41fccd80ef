//! What a host does with its modules.

pub(crate) mod boundary;
mod dangling;
pub(crate) mod depend;
pub(crate) mod drain;
pub(crate) mod foreign;
pub(crate) mod gate;
pub(crate) mod load;
pub(crate) mod parameters;
pub(crate) mod replace;
pub(crate) mod request;
pub(crate) mod saved;
mod services;
pub(crate) mod symbols;
pub(crate) mod thread;
pub(crate) mod unload;
pub(crate) mod users;
