//! Builds the plugins that the targets load.

use std::path::Path;

/// Name, and what is defined when `plugin.c` is compiled.
const PLUGINS: [(&str, &[&str]); 2] =
    [("both", &["-DANSWER=10", "-DINIT=0", "-DEXIT"]), ("library", &["-DANSWER=12"])];

fn build(name: &str, source: &str, options: &[&str]) {
    let folder = std::env::var("OUT_DIR").expect("cargo sets it");
    let built = cc::Build::new()
        .opt_level(1)
        .cargo_metadata(false)
        .get_compiler()
        .to_command()
        .args(["-shared", "-fPIC", "-o"])
        .arg(Path::new(&folder).join(format!("{name}.so")))
        .arg(source)
        .args(options)
        .status()
        .expect("a C compiler: apt-get install gcc");
    assert!(built.success(), "{name}.so could not be built");
}

fn main() {
    println!("cargo:rerun-if-changed=plugins");
    println!("cargo:rerun-if-env-changed=CC");
    // The plugins call back.
    println!("cargo:rustc-link-arg-bins=-rdynamic");
    for (name, options) in PLUGINS {
        build(name, "plugins/plugin.c", options);
    }
    // To be mangled: no start files, whose code would run first; a name, and a library that it
    // needs.
    let bare = ["-nostartfiles", "-Wl,-soname,bare.so", "-Wl,--no-as-needed", "-lm"];
    build("bare", "plugins/bare.c", &bare);
}
