//! Loading a module by its name. Linux: `request_module`, and what modprobe does for it.

use crate::host::error::{Error, error};
use crate::host::object::{elf, names_in};
use crate::host::operations::load::Load;
use crate::host::registry::record::State;
use crate::host::registry::{Registry, name};
use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a program of Linux's says instead of a module's name: a symbol that it needs.
const SYMBOL: &str = "symbol:";

impl Registry {
    /// # Safety
    ///
    /// As for `Host::load_with`.
    pub(crate) unsafe fn request_module(self: &Arc<Self>, wanted: &str) -> Result<(), Error> {
        let symbol = wanted.strip_prefix(SYMBOL);
        name::check(symbol.unwrap_or(wanted))?;
        // A file or a module may be spelled in either way.
        let mut spellings =
            vec![wanted.to_owned(), wanted.replace('-', "_"), wanted.replace('_', "-")];
        spellings.dedup();
        for name in &spellings {
            let Some(there) = self.table().get(name).cloned() else { continue };
            drop(self.wait_for_load(self.lock(), &there, None)?);
            if there.state() == State::Live {
                return Ok(());
            }
        }
        let folders = self.folders();
        let named = folders
            .iter()
            .flat_map(|folder| spellings.iter().map(move |name| folder.join(format!("{name}.so"))));
        let found = named.into_iter().find(|path| path.is_file());
        let Some(path) = found.or_else(|| answering(&folders, wanted)) else {
            let folders: Vec<_> = folders.iter().map(|folder| folder.to_string_lossy()).collect();
            return Err(error!(
                libc::ENOENT,
                "no module for '{wanted}' in {}; see module_host_search",
                folders.join(":")
            ));
        };
        // SAFETY: the caller's promise.
        match unsafe { self.load(&path, Load::new()) } {
            // Another thread was faster, or it has that name already.
            Err(error) if error.errno() == libc::EEXIST => Ok(()),
            loaded => loaded.map(drop),
        }
    }

    /// Where modules are looked for.
    fn folders(&self) -> Vec<PathBuf> {
        let set = self.lock().search.clone();
        set.unwrap_or_else(|| {
            let modules = self.modules();
            let files = modules.iter().filter_map(|module| module.0.loaded()?.object.file());
            let mut folders = Vec::new();
            for file in files.chain(env::current_exe()) {
                let folder = file.parent().unwrap_or(Path::new("/")).to_owned();
                if !folders.contains(&folder) {
                    folders.push(folder);
                }
            }
            folders
        })
    }
}

/// The first file, in the order of the folders and of the names in each, that says that it is what
/// is wanted.
fn answering(folders: &[PathBuf], wanted: &str) -> Option<PathBuf> {
    folders.iter().find_map(|folder| {
        let mut files: Vec<_> =
            names_in(folder).ok()?.iter().map(|name| folder.join(name)).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "so"));
        files.sort();
        files.into_iter().find(|path| match wanted.strip_prefix(SYMBOL) {
            Some(symbol) => elf::read(path).is_ok_and(|file| file.facts.defines(symbol)),
            None => elf::has_alias(path, wanted),
        })
    })
}
