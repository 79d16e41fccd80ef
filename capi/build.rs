//! Writes `include/module_ref.h` from the documented source, and gives the shared
//! library its link flags.
//!
//! The header is committed. With `MODULE_REF_HEADER=check` a header that differs
//! from what the source gives fails the build instead of being rewritten.

use std::path::Path;
use std::{env, fs, process};

fn main() {
    for path in ["src", "cbindgen.toml", "build.rs", "../include/module_ref.h"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=MODULE_REF_HEADER");

    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        // A thread may be anywhere in this library when somebody lets go of it, and
        // nothing counts references to the library itself: it stays.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
    if let Err(why) = header() {
        println!("cargo::error={why}");
        process::exit(1);
    }
}

fn header() -> Result<(), String> {
    let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let root = Path::new(&root);
    let mut config = cbindgen::Config::from_file(root.join("cbindgen.toml"))?;
    let text = config.after_includes.as_mut().ok_or("cbindgen.toml has no after_includes")?;
    for part in ["MAJOR", "MINOR", "PATCH"] {
        let value = env::var(format!("CARGO_PKG_VERSION_{part}")).expect("cargo sets it");
        *text = text.replace(&format!("{{{part}}}"), &value);
    }
    let mut bytes = Vec::new();
    cbindgen::Builder::new()
        .with_crate(root)
        .with_config(config)
        .generate()
        .map_err(|error| format!("cbindgen cannot write module_ref.h: {error}"))?
        .write(&mut bytes);

    let path = root.join("../include/module_ref.h");
    if fs::read(&path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    if env::var("MODULE_REF_HEADER").is_ok_and(|mode| mode == "check") {
        return Err("include/module_ref.h is not what the source gives; \
                    run `make header` and commit it"
            .into());
    }
    fs::write(&path, bytes).map_err(|error| format!("cannot write {}: {error}", path.display()))
}
