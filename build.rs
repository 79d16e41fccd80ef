//! Writes `include/module_ref.h` from the documented source, and gives the shared
//! library its link flags; and fills in what the CMake package says of versions, for
//! cargo-c to install.
//!
//! The header is committed. With `MODULE_REF_HEADER=check` a header that differs
//! from what the source gives fails the build instead of being rewritten.

use std::path::Path;
use std::{env, fs, process};

fn main() {
    for path in ["src", "cbindgen.toml", "build.rs", "cmake", "include/module_ref.h"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=MODULE_REF_HEADER");

    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        // A thread may be anywhere in this library when somebody lets go of it, and
        // nothing counts references to the library itself: it stays.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
        // Of the library that is installed, which has its links. With a soname, what is linked against
        // target/release would look there for a versioned name that only an installation has.
        // The first number alone, because functions are added to the interface, and none is taken
        // away or changed, in 0.x either (ci/abi): a program that was linked with 0.2 runs with 0.3.
        if env::var_os("CARGO_FEATURE_CAPI").is_some() {
            let major = env::var("CARGO_PKG_VERSION_MAJOR").expect("cargo sets it");
            println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libmodule_ref.so.{major}");
        }
    }
    if let Err(why) = header().and_then(|()| cmake()) {
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

    let path = root.join("include/module_ref.h");
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

/// Writes the CMake package to `OUT_DIR`, with the placeholders of its templates filled in.
fn cmake() -> Result<(), String> {
    let variable = |name: &str| env::var(name).expect("cargo sets it");
    let width: u32 = variable("CARGO_CFG_TARGET_POINTER_WIDTH").parse().expect("it is a number");
    let major = variable("CARGO_PKG_VERSION_MAJOR");
    let values = [
        ("@VERSION@", variable("CARGO_PKG_VERSION")),
        ("@SOVERSION@", major.clone()),
        ("@MAJOR@", major),
        ("@POINTER@", (width / 8).to_string()),
    ];
    let templates = Path::new(&variable("CARGO_MANIFEST_DIR")).join("cmake");
    let folder = Path::new(&variable("OUT_DIR")).join("cmake");
    fs::create_dir_all(&folder)
        .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    for name in ["module_ref-config.cmake", "module_ref-config-version.cmake"] {
        let from = templates.join(format!("{name}.in"));
        let mut text = fs::read_to_string(&from)
            .map_err(|error| format!("cannot read {}: {error}", from.display()))?;
        for (placeholder, value) in &values {
            text = text.replace(placeholder, value);
        }
        let to = folder.join(name);
        fs::write(&to, text).map_err(|error| format!("cannot write {}: {error}", to.display()))?;
    }
    Ok(())
}
