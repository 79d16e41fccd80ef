//! What modules can be called.

use crate::host::error::{Error, error};
use std::path::Path;

/// The name that a file's module has if none is given: the file's, up to `.so`.
pub(crate) fn of_file(path: &Path) -> Result<String, Error> {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let end = [".so.", ".so"].iter().find_map(|ext| {
        let at = file.find(ext)?;
        (*ext == ".so." || at + ext.len() == file.len()).then_some(at)
    });
    let name = &file[..end.unwrap_or(file.len())];
    check(name).map_err(|error| {
        error!(
            error.errno(),
            "{error}, which '{}' is called after its file; give a name",
            path.display()
        )
    })?;
    Ok(name.to_owned())
}

/// The room for a name with its end, as in Linux (`MODULE_NAME_LEN`).
pub const NAME_LEN: usize = 56;

/// Whether a module can be called this.
pub(crate) fn check(name: &str) -> Result<(), Error> {
    if name.is_empty() {
        return Err(error!(libc::EINVAL, "a module cannot have an empty name"));
    }
    if name.len() >= NAME_LEN {
        return Err(error!(
            libc::ENAMETOOLONG,
            "a module cannot be called '{name}': that is {} bytes, and {} is the most",
            name.len(),
            NAME_LEN - 1
        ));
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || c == ',' || c == '/';
    if name.contains(odd) {
        return Err(error!(
            libc::EINVAL,
            "a module cannot be called '{}': no spaces, commas, slashes",
            name.escape_debug()
        ));
    }
    Ok(())
}
