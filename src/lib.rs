//! The C ABI: pointers are checked here and errors become errno values; what the
//! functions mean is in the crate they call.
//!
//! The documentation below is what C programmers read in `module_ref.h`.

#![allow(non_camel_case_types, reason = "the names are C's")]
#![cfg_attr(not(target_os = "linux"), allow(dead_code, reason = "no tool watches there"))]
#![allow(clippy::missing_safety_doc, reason = "the documentation is written for C")]

mod abi;
mod caller;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod host;
mod lent;
#[cfg_attr(
    not(all(
        any(target_arch = "x86_64", target_arch = "aarch64"),
        target_pointer_width = "64",
        target_endian = "little",
        target_os = "linux",
        any(target_env = "gnu", target_env = "musl")
    )),
    path = "sequence/absent.rs"
)]
mod sequence;
mod watched;

pub use abi::*;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub use host::*;
