//! Parameters: what `module_param()` of linux_module.h leaves in an object, and the text that sets
//! them when it is loaded. Linux: `parse_args` of kernel/params.c.

use super::boundary;
use crate::host::error::{Error, errno_text, error, warn};
use crate::host::registry::Registry;
use crate::host::registry::record::Record;
use std::ffi::{CStr, c_char, c_uint, c_void};
use std::{ptr, slice};

/// `struct kernel_param`.
#[repr(C)]
struct Parameter {
    name: *const c_char,
    module: *const c_void,
    operations: *const Operations,
    permissions: u16,
    level: i8,
    flags: u8,
    argument: *mut c_void,
}

/// `struct kernel_param_ops`.
#[repr(C)]
struct Operations {
    flags: c_uint,
    set: *const c_void,
    get: *const c_void,
    free: *const c_void,
}

/// In `flags`: a parameter that may stand alone, as a bool's.
const NO_VALUE_NEEDED: c_uint = 1;

/// `struct linux_module_params`.
#[repr(C)]
struct Table {
    begin: *const Parameter,
    end: *const Parameter,
}

/// Sets what the module was loaded with. A name that it does not know is warned of, as in Linux.
///
/// # Safety
///
/// The module is loaded, and what it exports as `__module_params` is that table.
pub(crate) unsafe fn set(host: &Registry, record: &Record) -> Result<(), Error> {
    if record.how.parameters.is_empty() {
        return Ok(());
    }
    let name = record.name();
    // The values stay where they are: a charp is a pointer to one.
    let mut kept: Vec<u8> = record.how.parameters.iter().copied().chain([0]).collect();
    // SAFETY: the bytes of the vector, which nobody looks at until it is dropped.
    let text = unsafe { slice::from_raw_parts_mut(kept.as_mut_ptr(), kept.len()) };
    *record.parameters(&host.lock()) = kept;
    let loaded = record.loaded().expect("it is COMING");
    // SAFETY: the caller's promise.
    let known = unsafe {
        let table = loaded.object.own_symbol("__module_params").map(|at| at.cast::<Table>().read());
        let table = table.filter(|table| !table.begin.is_null());
        table.map_or(&[][..], |table| {
            slice::from_raw_parts(table.begin, table.end.offset_from(table.begin) as usize)
        })
    };
    let mut at = skip_spaces(text, 0);
    while text[at] != 0 {
        let word = next(text, at);
        at = word.rest;
        let (key, value) = (c_str(&text[word.name..]), word.value.map(|at| c_str(&text[at..])));
        // Now, because an array's function writes to its value.
        let shown = key.to_string_lossy().into_owned();
        let shown_value = value.map_or("nothing".into(), CStr::to_string_lossy).into_owned();
        if value.is_none() && key == c"--" {
            if text[at] != 0 {
                let rest = c_str(&text[at..]).to_string_lossy();
                warn(&format!("module '{name}': parameters after '--' ignored: {rest}"));
            }
            break;
        }
        // SAFETY: the table's names are C strings.
        let is_it = |p: &&Parameter| unsafe { same(CStr::from_ptr(p.name), key) };
        let Some(parameter) = known.iter().find(is_it) else {
            warn(&format!("module '{name}': unknown parameter '{shown}' ignored"));
            continue;
        };
        // SAFETY: the table's operations; the function is C's `int (const char *, const struct
        // kernel_param *)`.
        let rc = unsafe {
            let operations = &*parameter.operations;
            match value {
                None if operations.flags & NO_VALUE_NEEDED == 0 => -libc::EINVAL,
                _ if operations.set.is_null() => -libc::EPERM,
                _ => boundary::call(
                    record,
                    "setting of a parameter",
                    operations.set,
                    [
                        value.map_or(ptr::null(), |value| value.as_ptr().cast()),
                        ptr::from_ref(parameter).cast(),
                    ],
                ),
            }
        };
        if rc < 0 {
            let errno = rc.checked_neg().unwrap_or(libc::EINVAL);
            return Err(error!(
                errno,
                "module '{name}' was not loaded: '{shown_value}' is {} for parameter '{shown}' ({})",
                if errno == libc::ENOSPC { "too large" } else { "invalid" },
                errno_text(errno)
            ));
        }
    }
    Ok(())
}

fn c_str(text: &[u8]) -> &CStr {
    CStr::from_bytes_until_nul(text).expect("the text ends with one")
}

/// As parameters are compared: `-` and `_` are the same.
fn same(a: &CStr, b: &CStr) -> bool {
    let plain = |c: &u8| if *c == b'-' { b'_' } else { *c };
    a.to_bytes().iter().map(plain).eq(b.to_bytes().iter().map(plain))
}

fn skip_spaces(text: &[u8], at: usize) -> usize {
    at + text[at..].iter().take_while(|c| c.is_ascii_whitespace()).count()
}

/// Where a word of the text is, in parts that end with a NUL.
struct Word {
    name: usize,
    value: Option<usize>,
    rest: usize,
}

/// Takes `name`, `name=value`, `name="a value"` or `"name=a value"` off. Quotes that are not closed
/// end with the text. Linux: `next_arg`.
fn next(text: &mut [u8], at: usize) -> Word {
    let quoted = text[at] == b'"';
    let name = at + usize::from(quoted);
    let (mut end, mut within, mut equals) = (name, quoted, None);
    while text[end] != 0 && (within || !text[end].is_ascii_whitespace()) {
        if text[end] == b'=' && equals.is_none() && end > name {
            equals = Some(end);
        }
        within ^= text[end] == b'"';
        end += 1;
    }
    let rest = end + usize::from(text[end] != 0);
    text[end] = 0;
    let value = equals.map(|equals| {
        text[equals] = 0;
        let bare = text[equals + 1] != b'"';
        if !bare && text[end - 1] == b'"' {
            text[end - 1] = 0;
        }
        equals + if bare { 1 } else { 2 }
    });
    if quoted && end > name && text[end - 1] == b'"' {
        text[end - 1] = 0;
    }
    // A value that is one quote ends where it would begin.
    Word { name, value: value.map(|at| at.min(end)), rest: skip_spaces(text, rest) }
}
