//! What records say to people: symbols, names of threads, ages.

use super::{RECORDS, Seen, now};
use core::ffi::{c_char, c_void};
use core::fmt;
use core::time::Duration;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// One reference that is out, as [`holders`](crate::ModuleRef::holders) tells of it.
///
/// It displays as `worker+0x12 in ./host (thread 'rx-0', 1234) for 3.2 s`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Where the reference was taken, if that is known: from C, where the call returns to.
    pub caller: Option<usize>,
    /// The function that is there, and how far into it, as `worker+0x12`, if the dynamic linker
    /// knows.
    pub symbol: Option<String>,
    /// The object that is there, as it was loaded, unless it is gone.
    pub object: Option<String>,
    /// How far into the object, for addr2line and its like.
    pub offset: Option<usize>,
    /// The thread that took it, as gettid(2) numbers it.
    pub thread: u32,
    /// What that is called, if it is still there.
    pub thread_name: Option<String>,
    /// The thread has ended.
    pub ended: bool,
    /// How long ago.
    pub age: Duration,
}

impl Holder {
    fn new(seen: &Seen, now: u64, memory: Option<&File>) -> Self {
        let place = Place::of(seen.caller, memory);
        let thread = seen.thread();
        let (thread_name, ended) = name_of(thread);
        Self {
            caller: (seen.caller != 0).then_some(seen.caller),
            symbol: place.symbol,
            object: place.object,
            offset: place.offset,
            thread,
            thread_name,
            ended,
            age: Duration::from_nanos(now.saturating_sub(seen.since)),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.symbol, &self.object, self.offset, self.caller) {
            (Some(symbol), Some(object), ..) => write!(f, "{symbol} in {object}")?,
            (Some(symbol), ..) => f.write_str(symbol)?,
            (None, Some(object), Some(offset), _) => write!(f, "{object}+{offset:#x}")?,
            (.., Some(caller)) => write!(f, "{caller:#x}")?,
            (.., None) => f.write_str("a caller that is not known")?,
        }
        match &self.thread_name {
            Some(name) => write!(f, " (thread '{name}', {})", self.thread)?,
            None if self.ended => write!(f, " (thread {}, which has ended)", self.thread)?,
            None => write!(f, " (thread {})", self.thread)?,
        }
        match self.age {
            short if short < Duration::from_secs(1) => write!(f, " for {} ms", short.as_millis()),
            age => write!(f, " for {:.1} s", age.as_secs_f64()),
        }
    }
}

/// What is at an address.
#[derive(Default)]
struct Place {
    symbol: Option<String>,
    object: Option<String>,
    offset: Option<usize>,
}

impl Place {
    fn of(address: usize, memory: Option<&File>) -> Self {
        // SAFETY: all-zero is a valid Dl_info, and dladdr takes any address.
        let info = unsafe {
            let mut info: libc::Dl_info = core::mem::zeroed();
            if address == 0 || libc::dladdr(address as *const c_void, &mut info) == 0 {
                return Self::default();
            }
            info
        };
        let name = info.dli_sname;
        let into = |base: *mut c_void| address.wrapping_sub(base as usize);
        let symbol = text(memory, name).map(|name| format!("{name}+{:#x}", into(info.dli_saddr)));
        let object = text(memory, info.dli_fname);
        Self { symbol, object, offset: Some(into(info.dli_fbase)) }
    }
}

/// A string of the dynamic linker's. The object that it lies in may go at any moment, so it is
/// read as a file, which fails where a load would crash.
fn text(memory: Option<&File>, place: *const c_char) -> Option<String> {
    if place.is_null() {
        return None;
    }
    let mut text = [0; 1024];
    let n = memory?.read_at(&mut text, place as u64).ok()?;
    let end = text[..n].iter().position(|&byte| byte == 0)?;
    Some(String::from_utf8_lossy(&text[..end]).into_owned()).filter(|text| !text.is_empty())
}

/// What a thread of this process is called, and whether it has ended.
fn name_of(thread: u32) -> (Option<String>, bool) {
    let tasks = Path::new("/proc/self/task");
    let task = tasks.join(thread.to_string());
    match std::fs::read(task.join("comm")) {
        Ok(name) => (Some(String::from_utf8_lossy(&name).trim_end().to_owned()), false),
        Err(_) => (None, tasks.is_dir() && task.try_exists().is_ok_and(|there| !there)),
    }
}

/// Everybody who holds a counter.
pub(crate) struct Holders {
    pub(crate) named: Vec<Holder>,
    /// References without a record.
    pub(crate) unnamed: u64,
    /// Some of these may have been too many for the records.
    full: bool,
}

impl Holders {
    pub(super) fn new(seen: &[Seen], unnamed: u64, full: bool) -> Self {
        let memory = File::open("/proc/self/mem").ok();
        let now = now();
        let named = seen.iter().map(|seen| Holder::new(seen, now, memory.as_ref())).collect();
        Self { named, unnamed, full }
    }

    /// All of them, each in a few words. `known` says who has references without a record.
    fn each<'a>(&'a self, known: &'a [String]) -> impl Iterator<Item = String> + 'a {
        let known = &known[..known.len().min(usize::try_from(self.unnamed).unwrap_or(usize::MAX))];
        let rest = self.unnamed - known.len() as u64;
        let more = if self.named.is_empty() && known.is_empty() { "" } else { " more," };
        let why = if self.full {
            format!("taken before recording began, or while its {RECORDS} records were all in use")
        } else {
            "taken before recording began".to_owned()
        };
        let rest = (rest > 0).then(|| format!("{rest}{more} {why}"));
        self.named.iter().map(Holder::to_string).chain(known.iter().cloned()).chain(rest)
    }

    /// One line for each.
    pub(crate) fn lines(&self, known: &[String]) -> String {
        self.each(known).map(|line| line + "\n").collect()
    }

    /// The first few, for a sentence.
    #[cfg(feature = "host")]
    pub(crate) fn few(&self, known: &[String]) -> String {
        const FEW: usize = 4;
        let all: Vec<_> = self.each(known).collect();
        let mut few = all[..all.len().min(FEW)].join("; ");
        if all.len() > FEW {
            few += &format!("; and {} more", all.len() - FEW);
        }
        few
    }
}
