//! What a file says that will keep it in memory, or will endanger the program once it is unmapped.

use super::elf::{self, Facts};
use super::imports::IMPORTS;
use crate::host::error::Error;
use std::ffi::CStr;
use std::path::Path;

/// Libraries with threads of their own, by the beginnings of their names, and what ends those.
const POOLS: &[(&str, &str)] = &[
    ("libgomp.so", "omp_pause_resource_all(omp_pause_hard)"),
    ("libomp.so", "omp_pause_resource_all(omp_pause_hard)"),
    ("libiomp5.so", "omp_pause_resource_all(omp_pause_hard)"),
    ("libtbb.so", "tbb::finalize()"),
];

/// Tells from the shared object at `path` alone what will keep it in memory when it is unloaded,
/// or may crash the program after that. The file is read, and none of its code is run.
///
/// Each finding is a line: a keyword that stays the same in later versions, `": "`, and a sentence
/// that names the symbol and says what to do. That a function is imported does not tell how it is
/// used: such a finding is a question to the plugin's author. Documentation for them explains each
/// keyword (`docs/plugins.md` of the repository).
///
/// # Errors
///
/// As for the load of such a file: `ENOEXEC` if it is no shared object of this machine, or is
/// damaged; `ENOENT`, `EISDIR`, `EACCES` and so on if it cannot be read.
pub fn check_file(path: impl AsRef<Path>) -> Result<Vec<String>, Error> {
    Ok(findings(&elf::read_to("check", path.as_ref())?.facts))
}

fn findings(facts: &Facts) -> Vec<String> {
    let mut found = Vec::new();
    let mut tell = |keyword: &str, text: String| found.push(format!("{keyword}: {text}"));
    // A damaged file may have line ends in its names.
    let shown = |name: &CStr| name.to_bytes().escape_ascii().to_string();
    if !facts.has_symbols {
        let text = "its symbols cannot be read, so nothing is known of what it imports and \
                    defines; check the file as the linker wrote it, with its section headers";
        tell("no-symbols", text.into());
    }
    if facts.no_delete {
        let text = "the C library never unmaps it (DF_1_NODELETE); link it without -z nodelete";
        tell("nodelete", text.into());
    }
    for name in &facts.unique {
        let text = "is a unique symbol (STB_GNU_UNIQUE), so the C library never unmaps it; compile \
                    it with -fno-gnu-unique, or make the symbol local by a version script";
        tell("unique-symbol", format!("{} {text}", shown(name)));
    }
    if let Some((size, _)) = facts.static_tls {
        let text = "of thread-local storage have to fit beside every thread's own block \
                    (DF_STATIC_TLS), where there is little room, so that a load may fail; compile \
                    it without -ftls-model=initial-exec";
        tell("static-tls", format!("{size} bytes {text}"));
    }
    for (keyword, symbols, text) in IMPORTS {
        for symbol in facts.imports.iter().filter(|symbol| symbols.contains(symbol)) {
            tell(keyword, format!("it imports {symbol}: {text}"));
        }
    }
    for name in &facts.needed {
        let is = |pool: &&(&str, &str)| name.to_bytes().starts_with(pool.0.as_bytes());
        if let Some((_, end)) = POOLS.iter().find(is) {
            let text = format!(
                "it needs {}, whose threads stay when their work is done, and may be in code that \
                 is unmapped; link the program with that library, so that it stays, or call {end} \
                 in cleanup_module()",
                shown(name)
            );
            tell("thread-pool", text);
        }
    }
    if facts.defines("init_module") && !facts.defines("cleanup_module") {
        let text = "it defines init_module and no cleanup_module, so only a forced unload takes it \
                    out; export a cleanup_module, if need be an empty one";
        tell("permanent", text.into());
    }
    if facts.text_relocations {
        let text = "the loader has to write into its code (DT_TEXTREL), which hardened systems \
                    refuse; compile all of it with -fPIC";
        tell("text-relocations", text.into());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let facts = Facts {
            has_symbols: true,
            needed: vec![c"libc.so.6".into(), c"libtbb.so.12".into(), c"libgomp.so.1".into()],
            unique: vec![c"a\nb\xff".into()],
            imports: vec!["sigaction"],
            ..Facts::default()
        };
        let found = findings(&facts);
        let begin = |n: usize, text: &str| assert!(found[n].starts_with(text), "{}", found[n]);
        assert_eq!(found.len(), 4);
        begin(0, r"unique-symbol: a\nb\xff is a unique symbol");
        begin(1, "signal-handler: it imports sigaction: a signal");
        begin(2, "thread-pool: it needs libtbb.so.12, whose");
        assert!(found[2].contains("tbb::finalize()"));
        begin(3, "thread-pool: it needs libgomp.so.1, whose");
    }

    #[test]
    fn no_symbols() {
        assert!(findings(&Facts::default())[0].starts_with("no-symbols: "));
    }
}
