//! The C compiler, as the crate `cc` finds it: `CC` may have options in it.

use std::process::Command;

/// The command that makes a shared object.
pub fn shared() -> Command {
    // What cargo tells build scripts alone.
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = cc::Build::new()
        .host(&target)
        .target(&target)
        .opt_level(0)
        .cargo_metadata(false)
        .get_compiler()
        .to_command();
    command.args(["-shared", "-fPIC"]);
    command
}
