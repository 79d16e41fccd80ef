//! Builds the plugins that the targets load or mangle.

use std::path::Path;

const PLUGINS: [(&str, &[&str]); 3] = [
    ("library", &[]),
    ("both", &["-DHOOKS"]),
    // No start files, whose code would run first; a name, and a library that it needs.
    ("bare", &["-nostartfiles", "-Wl,-soname,bare.so", "-Wl,--no-as-needed", "-lm"]),
];

fn main() {
    println!("cargo:rerun-if-changed=plugins");
    println!("cargo:rerun-if-env-changed=CC");
    let folder = std::env::var("OUT_DIR").expect("cargo sets it");
    for (name, options) in PLUGINS {
        let built = cc::Build::new()
            .opt_level(1)
            .cargo_metadata(false)
            .get_compiler()
            .to_command()
            // The crate `cc` asks for the sanitizer, and this compiler's is not the program's.
            .args(["-shared", "-fPIC", "-fno-sanitize=address", "-o"])
            .arg(Path::new(&folder).join(format!("{name}.so")))
            .arg("plugins/plugin.c")
            .args(options)
            .status()
            .expect("a C compiler: apt-get install gcc");
        assert!(built.success(), "{name}.so could not be built");
    }
}
