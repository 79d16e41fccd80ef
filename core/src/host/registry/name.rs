//! What modules can be called.

use crate::host::error::{Error, error};
use std::borrow::Cow;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The text that stands for a name of any bytes: what is not UTF-8 is written as in `caf\xe9`.
#[doc(hidden)]
pub fn of_bytes(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => bytes
            .utf8_chunks()
            .map(|chunk| format!("{}{}", chunk.valid(), chunk.invalid().escape_ascii()))
            .collect(),
    }
}

/// The same for a lookup, without memory: `None` if no module can be called so.
#[doc(hidden)]
pub fn of_bytes_in<'a>(bytes: &'a [u8], room: &'a mut [u8; NAME_LEN]) -> Option<&'a str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Some(text);
    }
    let mut left = &mut room[..];
    for chunk in bytes.utf8_chunks() {
        write!(left, "{}{}", chunk.valid(), chunk.invalid().escape_ascii()).ok()?;
    }
    let len = NAME_LEN - left.len();
    std::str::from_utf8(&room[..len]).ok()
}

/// The name that a file's module has if none is given: the file's, up to `.so`.
pub(crate) fn of_file(path: &Path) -> Result<String, Error> {
    let file = of_bytes(path.file_name().unwrap_or_default().as_bytes());
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
