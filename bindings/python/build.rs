//! Builds what `python -m module_ref stress` runs: the stress program, linked with the C functions,
//! and the plugins that it loads. They come to lie in `OUT_DIR/_stress`, from where maturin puts
//! them into the wheel.
//!
//! That takes a C compiler. Where it cannot be done the wheel is without the program, and
//! has the reason instead, for whoever asks for it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Instead of the program: why it is not there.
const ABSENT: &str = "absent.txt";

fn main() {
    for path in ["c-tests", "src", "include", "core/src", "Cargo.lock"] {
        println!("cargo::rerun-if-changed=../../{path}");
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=PYO3_BUILD_EXTENSION_MODULE");

    let stress = PathBuf::from(variable("OUT_DIR")).join("_stress");
    // Nothing of an earlier build, which may have had a compiler.
    let _ = fs::remove_dir_all(&stress);
    fs::create_dir_all(&stress).expect("OUT_DIR can be written");
    // maturin sets it; who checks the code or runs clippy has no use for the program.
    if env::var_os("PYO3_BUILD_EXTENSION_MODULE").is_none() {
        return;
    }
    if let Err(why) = build(&stress) {
        println!("cargo::warning=the wheel is without the stress program: {}", first_line(&why));
        fs::remove_dir_all(&stress)
            .and_then(|()| fs::create_dir(&stress))
            .and_then(|()| fs::write(stress.join(ABSENT), why))
            .expect("OUT_DIR can be written");
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn build(stress: &Path) -> Result<(), String> {
    if variable("CARGO_CFG_TARGET_OS") != "linux" || variable("CARGO_CFG_TARGET_ENV") != "gnu" {
        return Err(format!("it needs Linux with glibc, and this is {}", variable("TARGET")));
    }
    let root = Path::new(&variable("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .map_err(|error| format!("its source cannot be found: {error}"))?;
    let tests = root.join("c-tests");
    let mut c = cc::Build::new();
    c.include(root.join("include"))
        .flag("-std=c11")
        .flag("-pthread")
        .pic(true)
        .opt_level(2)
        .debug(false)
        .warnings(false)
        .cargo_warnings(false);
    let compiler = c.try_get_compiler().map_err(|error| no_compiler(&error))?;

    c.files(sources(&tests.join("stress"))?).file(tests.join("peers/world.c"));
    let objects = c.try_compile_intermediates().map_err(|error| no_compiler(&error))?;
    let library = library(&root)?;
    run(compiler
        .to_command()
        .args(objects)
        .arg(library)
        .args(["-ldl", "-Wl,--gc-sections", "-s", "-o"])
        .arg(stress.join("module-ref-stress")))?;

    let plugin = |name: &str, source: &str| {
        let mut command = compiler.to_command();
        command.args(["-shared", "-s", "-o"]).arg(stress.join(format!("{name}.so")));
        command.arg(tests.join(format!("plugins/{source}.c")));
        command
    };
    // What a plugin needs is beside it, wherever that is.
    let beside = |library: &str| {
        let path = format!("-L{}", stress.display());
        [path, format!("-l:{library}"), "-Wl,-rpath,$ORIGIN".into()]
    };
    run(plugin("sample", "sample").arg("-Wl,-soname,sample.so"))?;
    run(plugin("relay", "relay").args(beside("sample.so")))?;
    run(plugin("right", "sample").arg("-Wl,-soname,right.so"))?;
    run(plugin("left", "relay").args(beside("right.so")))?;
    run(&mut plugin("keeper", "keeper"))?;
    run(plugin("libkeeps", "keeps").arg("-Wl,-soname,libkeeps.so"))?;
    run(&mut plugin("dangles", "dangles"))?;
    run(plugin("brings", "dangles").arg("-DBRINGS").args(beside("libkeeps.so")))
}

fn no_compiler(error: &cc::Error) -> String {
    format!(
        "it takes a C compiler, and there was none that works when this package was built. Install \
         one (apt-get install gcc libc6-dev), or name it in CC, and build the package again\n{error}"
    )
}

/// The C files of a folder, in an order of their own.
fn sources(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(folder)
        .map_err(|error| format!("its source, {}, cannot be read: {error}", folder.display()))?;
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
        .collect();
    files.sort();
    Ok(files)
}

/// The package of the C functions alone, from the source of the C library, without what surrounds it
/// there: it takes no cbindgen to have them, since the header is there.
const MANIFEST: &str = r#"
[package]
name = "library"
version = "{version}"
edition = "2024"

[lib]
path = "{root}/src/lib.rs"
crate-type = ["staticlib"]

[dependencies]
modref = { package = "module-ref", path = "{root}/core" }
libc = "0.2.180"

[workspace]
"#;

/// The C functions as a static library, by a cargo of its own: the one that runs this has built nothing
/// yet that could be linked. In a workspace of its own, because cargo takes only what this package
/// depends on into a source distribution's; with the versions of this one.
fn library(root: &Path) -> Result<PathBuf, String> {
    let folder = PathBuf::from(variable("OUT_DIR")).join("library");
    let target = variable("TARGET");
    let manifest = MANIFEST
        .replace("{version}", &variable("CARGO_PKG_VERSION"))
        .replace("{root}", &quoted(root));
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(folder.join("Cargo.toml"), manifest))
        .and_then(|()| fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")))
        .map_err(|error| format!("{} cannot be written: {error}", folder.display()))?;
    run(Command::new(variable("CARGO"))
        .current_dir(&folder)
        .args(["build", "--quiet", "--release", "--target", &target, "--target-dir", "target"])
        // What checks this package does not check that one.
        .env_remove("RUSTC_WORKSPACE_WRAPPER"))?;
    Ok(folder.join("target").join(target).join("release/liblibrary.a"))
}

/// A path inside of quotes.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace('\\', r"\\").replace('"', r#"\""#)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output =
        command.output().map_err(|error| format!("{command:?} cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "its build failed, {}\n{command:?}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    ))
}
