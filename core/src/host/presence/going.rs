//! What would be unmapped, and the names of its addresses.

use super::words;
use crate::host::object::linked::{Place, described};
use crate::host::object::open::Object;
use object::read::ReadCache;
use object::{Object as _, ObjectSegment as _, ObjectSymbol as _, SymbolKind};
use std::ffi::{CStr, OsStr, c_void};
use std::fs::File;
use std::ops::Range;
use std::path::Path;

/// The objects that one close would unmap: a module's, and those that only it brought along.
#[derive(Clone, Debug, Default)]
pub(crate) struct Going {
    pub(crate) objects: Vec<Place>,
    /// Threads that were seen outside, and stay there (W1).
    pub(super) outside: Vec<i32>,
}

impl Going {
    /// Objects that no host has opened.
    pub(crate) fn of(objects: Vec<Place>) -> Self {
        Self { objects, outside: Vec::new() }
    }

    /// Updates this to what the close of this object would unmap now, and says whether that is more. A
    /// thread that was seen outside may be inside the objects that were added (W1).
    ///
    /// # Safety
    ///
    /// The object has not been closed.
    pub(crate) unsafe fn renew(&mut self, object: &Object) -> bool {
        // SAFETY: the caller's promise.
        let objects = unsafe { object.would_go() };
        let grows = !objects.iter().all(|object| self.objects.contains(object));
        if grows {
            self.outside.clear();
        }
        self.objects = objects;
        grows
    }
}

/// An address in one of the objects that would go.
#[derive(Clone, Copy)]
pub(super) struct Spot<'a> {
    /// The number of the module that it belongs to.
    pub(super) whose: usize,
    object: &'a Place,
    address: usize,
}

/// The addresses of everything that would go.
pub(super) struct Map<'a> {
    /// Sorted by address.
    objects: Vec<(usize, &'a Place)>,
    /// From the beginning of the first object to the end of the last one.
    pub(super) reach: Range<usize>,
}

impl<'a> Map<'a> {
    pub(super) fn of(going: &'a [Going]) -> Self {
        let each = going.iter().enumerate();
        let mut objects: Vec<_> =
            each.flat_map(|(whose, going)| going.objects.iter().map(move |o| (whose, o))).collect();
        objects.sort_by_key(|(_, object)| object.range.start);
        let reach = match (objects.first(), objects.last()) {
            (Some(first), Some(last)) => first.1.range.start..last.1.range.end,
            _ => 0..0,
        };
        Self { objects, reach }
    }

    /// The object that has this address, or ends at it.
    pub(super) fn spot(&self, address: usize) -> Option<Spot<'a>> {
        let at = self.objects.partition_point(|(_, object)| object.range.end < address);
        // Two objects may touch. The end of one counts, because it may be a return address, behind a
        // call that is the object's last instruction.
        let mut near = self.objects[at..].iter().take(2);
        let (whose, object) =
            near.find(|(_, o)| o.range.start <= address && address <= o.range.end)?;
        Some(Spot { whose: *whose, object, address })
    }

    /// The object that has this address.
    pub(super) fn inside(&self, address: usize) -> Option<Spot<'a>> {
        self.spot(address).filter(|spot| spot.object.range.contains(&address))
    }

    /// The spot, if a thread can execute at this address.
    pub(super) fn code(&self, address: usize) -> Option<Spot<'a>> {
        if !self.reach.contains(&address) {
            return None;
        }
        self.spot(address).filter(|s| s.object.text.iter().any(|text| text.contains(&address)))
    }

    /// The spot, if this address is right behind a call instruction, so that a thread may return to it.
    pub(super) fn call(&self, address: usize) -> Option<Spot<'a>> {
        // The quick way out: most words of a stack are no such address.
        if address.wrapping_sub(self.reach.start) > self.reach.len() {
            return None;
        }
        let is_code = |s: &Spot<'_>| {
            s.object.text.iter().any(|text| text.start < address && address <= text.end)
        };
        self.spot(address).filter(is_code).filter(|_| words::is_behind_call(address))
    }
}

impl Spot<'_> {
    /// "on_timer+0x12 of metrics.so". For a return address it is the function that has the call.
    pub(super) fn name(&self, comes_back: bool) -> String {
        let inside = self.address - usize::from(comes_back);
        let found = exported(inside).or_else(|| self.own(inside));
        let (symbol, start) = found.unwrap_or((String::new(), self.object.base));
        let offset = match self.address.wrapping_sub(start) {
            0 if !symbol.is_empty() => String::new(),
            offset => format!("+{offset:#x}"),
        };
        format!("{symbol}{offset} of {}", self.file())
    }

    fn file(&self) -> String {
        let name = Path::new(&self.object.name).file_name().unwrap_or(OsStr::new("?"));
        name.to_string_lossy().into_owned()
    }

    /// Whether executable memory begins here.
    pub(super) fn begins_text(&self) -> bool {
        self.object.text.iter().any(|text| text.start == self.address)
    }

    /// "_ZTV5Timer of metrics.so", if this is in a table of virtual functions.
    pub(super) fn virtual_table(&self) -> Option<String> {
        let (name, _) = exported(self.address)?;
        name.starts_with("_ZTV").then(|| format!("{name} of {}", self.file()))
    }

    /// The function that has this address, by the file's own table of symbols, if the file has not
    /// changed since the object was mapped.
    fn own(&self, address: usize) -> Option<(String, usize)> {
        let cache = ReadCache::new(File::open(&self.object.name).ok()?);
        let file = object::File::parse(&cache).ok()?;
        let value = address.wrapping_sub(self.object.base) as u64;
        let has_it = |sym: &object::Symbol<'_, '_, _>| {
            sym.kind() == SymbolKind::Text && value.wrapping_sub(sym.address()) < sym.size()
        };
        let symbol = file.symbols().find(has_it)?;
        let mut mapped = [0; 16];
        let len = 16.min(symbol.address() + symbol.size() - value);
        let n = words::read(address, &mut mapped[..len as usize]).ok()?;
        let is_mapped = file.segments().any(|s| s.data_range(value, len) == Ok(Some(&mapped[..n])));
        let name = symbol.name().ok().filter(|_| is_mapped)?;
        Some((name.to_owned(), address - (value - symbol.address()) as usize))
    }
}

/// The exported symbol that has this address, and where that begins.
fn exported(address: usize) -> Option<(String, usize)> {
    let info = described(address as *const c_void).filter(|info| !info.dli_sname.is_null())?;
    // SAFETY: the string is that of an object that is loaded.
    let name = unsafe { CStr::from_ptr(info.dli_sname) }.to_string_lossy().into_owned();
    Some((name, info.dli_saddr as usize))
}
