//! What is said of an address, in words. Nothing here takes a lock or memory.

use super::table::{self, Found, GONE, LIVE, MAPPED, Plate, now};
use crate::host::error::Seconds;
use crate::host::object::elf::{Symbol, is_named};
use crate::host::presence::words::read;
use std::fmt::{self, Display, Write};
use std::mem::size_of;
use std::time::Duration;

/// An address in a module that is there, or was.
pub(super) struct Known {
    place: Found,
    address: usize,
}

impl Known {
    pub(super) fn of(address: usize) -> Option<Self> {
        table::find(address).map(|place| Self { place, address })
    }

    /// Whether it is one where a module was that is gone.
    pub(super) fn is_gone(&self) -> bool {
        self.place.plate.state == GONE
    }
}

/// Says whose this address is; false if it is nobody's. Async-signal-safe, if writing is.
pub fn describe(address: usize, to: &mut dyn Write) -> bool {
    let known = Known::of(address);
    // What there is no room for is left out.
    known.map(|known| write!(to, "{known}")).is_some()
}

/// Bytes that may be no UTF-8.
pub(super) struct Bytes<'a>(pub(super) &'a [u8]);

impl Display for Bytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in self.0.utf8_chunks() {
            f.write_str(part.valid())?;
            if !part.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}

/// A time that has passed, in seconds.
struct Age(u64);

impl Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ago", Seconds(Duration::from_nanos(now().saturating_sub(self.0))))
    }
}

/// "metrics.so!on_timer+0x12, unloaded 3.2 s ago by thread 47 'main' (module 'metrics', build ID 1f…)"
impl Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plate = &self.place.plate;
        let value = (self.address as u64).wrapping_sub(plate.base);
        write!(f, "{}", Bytes(plate.file()))?;
        let mut name = [0; 128];
        match symbol(plate, value, &mut name) {
            Some((name, offset)) if self.place.is_current() => {
                write!(f, "!{}+{offset:#x}", Bytes(name))?;
            }
            _ => write!(f, "+{value:#x}")?,
        }
        if plate.state == LIVE {
            write!(f, ", loaded {}", Age(plate.loaded))?;
        } else {
            let (by, name) = (plate.thread, Bytes(plate.thread_name()));
            write!(f, ", unloaded {} by thread {by} '{name}'", Age(plate.unloaded))?;
        }
        if plate.state == MAPPED {
            f.write_str(" and still mapped then")?;
        }
        if plate.name().is_empty() {
            return Ok(());
        }
        write!(f, " (module '{}'", Bytes(plate.name()))?;
        if !plate.build_id().is_empty() {
            f.write_str(", build ID ")?;
        }
        for byte in plate.build_id() {
            write!(f, "{byte:02x}")?;
        }
        f.write_char(')')
    }
}

/// The symbol that has this value, and how far into it that is.
fn symbol<'a>(plate: &Plate, value: u64, name: &'a mut [u8; 128]) -> Option<(&'a [u8], u64)> {
    const EACH: usize = size_of::<Symbol>();
    let [table, len] = plate.symbols.map(|number| number as usize);
    let mut some = [0; 8 * EACH];
    for at in (0..len).step_by(some.len()) {
        let n = some.len().min(len - at);
        if read(table + at, &mut some[..n]) != Ok(n) {
            return None;
        }
        let found = some[..n].chunks_exact(EACH).find_map(|bytes| is_named(bytes, value));
        let Some((name_at, offset)) = found else { continue };
        let most = (plate.names[1] as usize).checked_sub(name_at)?.min(name.len());
        let n = read(plate.names[0] as usize + name_at, &mut name[..most]).ok()?;
        let end = name[..n].iter().position(|&byte| byte == 0).unwrap_or(n);
        return Some((&name[..end], offset));
    }
    None
}
