//! Which threads there are, asleep or running (W2, W3, W6, W7).

use super::going::{Map, Spot};
use super::pthread::{self, Key, Record};
use super::stack::{Search, Stand};
use super::words::{WORD, read_words};
use super::{Findings, THIS};
use crate::host::error::errno_text;
use crate::host::object::{names_in, nap, thread_number, thread_title};
use std::ffi::{c_int, c_void};
use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// How often threads are listed at most, until a listing brings no new one.
const LISTINGS: usize = 4;
/// How often a listing is tried while threads begin and end, until one is complete.
const TRIES: usize = 10;

pub(super) fn look(
    proc: &Path,
    map: &Map<'_>,
    restorers: &[usize],
    patience: Duration,
    findings: &mut Findings,
) {
    let until = Instant::now() + patience;
    let this = thread_number();
    let mut look = Look {
        proc,
        map,
        keys: pthread::keys(map),
        search: Search::new(map, restorers),
        findings,
        told: Vec::new(),
    };
    if let Err(why) = look.this_thread(this) {
        return look.findings.add_to_all(&why);
    }
    let mut known = vec![this];
    for _ in 0..LISTINGS {
        let new = match list(proc) {
            Ok(all) => all.into_iter().filter(|tid| !known.contains(tid)).collect::<Vec<_>>(),
            Err(_) if pthread::is_alone() => return,
            Err(why) => {
                return look.findings.add_to_all(&format!("threads could not be looked at: {why}"));
            }
        };
        if new.is_empty() {
            return;
        }
        known.extend(&new);
        let (outside, new): (Vec<_>, Vec<_>) =
            new.into_iter().partition(|&tid| look.findings.are_outside(tid));
        for tid in outside {
            look.values(tid, Record::of(tid));
        }
        if let Err(why) = look.at_all(new, until) {
            return look.findings.add_to_all(&why);
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> String {
    format!("{}: {}", path.display(), errno_text(error.raw_os_error().unwrap_or(libc::EIO)))
}

/// All threads of this process.
fn list(proc: &Path) -> Result<Vec<i32>, String> {
    let folder = proc.join("task");
    let tell = |error: io::Error| failed(&folder, &error);
    // The folder's number of links tells how many threads there are.
    let count = || fs::metadata(&folder).map(|meta| meta.nlink().saturating_sub(2));
    for _ in 0..TRIES {
        let before = count().map_err(tell)?;
        let threads = names_in(&folder).map_err(tell)?;
        let threads: Vec<_> =
            threads.iter().filter_map(|name| name.to_str()?.parse().ok()).collect();
        if [before, count().map_err(tell)?] == [threads.len() as u64; 2] {
            return Ok(threads);
        }
    }
    Err(format!("{}: no listing has as many as there are", folder.display()))
}

/// What the kernel says of a thread.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Runs,
    /// With this stack pointer and program counter.
    Sleeps(usize, usize),
    /// It has ended, or is ending.
    Gone,
}

impl State {
    fn read(file: &File) -> io::Result<Self> {
        let mut line = [0; 256];
        let n = match file.read_at(&mut line, 0) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(Self::Gone),
            n => n?,
        };
        let line = String::from_utf8_lossy(&line[..n]);
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let number = |word: &str| usize::from_str_radix(word.trim_start_matches("0x"), 16);
        match words[..] {
            ["running"] => Ok(Self::Runs),
            [call, .., sp, pc] => {
                let ending = [libc::SYS_exit, libc::SYS_exit_group].map(|n| n.to_string());
                match (number(sp), number(pc)) {
                    (Ok(sp), Ok(pc)) if sp != 0 && ending.iter().all(|name| name != call) => {
                        Ok(Self::Sleeps(sp - taken_off_the_stack(call), pc))
                    }
                    (Ok(_), Ok(_)) => Ok(Self::Gone),
                    _ => Err(io::Error::from_raw_os_error(libc::EIO)),
                }
            }
            _ => Err(io::Error::from_raw_os_error(libc::EIO)),
        }
    }
}

/// While its child is on the same stack, vfork(2) keeps its return address in a register. Where that was
/// there is, then, a return address of the same function: that one, or of a call that the child is in.
fn taken_off_the_stack(call: &str) -> usize {
    #[cfg(target_arch = "x86_64")]
    if call.parse() == Ok(libc::SYS_vfork) {
        return WORD;
    }
    _ = call;
    0
}

struct Look<'l, 'm, 'a> {
    proc: &'l Path,
    map: &'m Map<'a>,
    keys: Vec<Key<'a>>,
    search: Search<'m, 'a>,
    findings: &'l mut Findings,
    /// The threads that were reported, and for which module.
    told: Vec<(i32, usize)>,
}

impl<'a> Look<'_, '_, 'a> {
    /// Looks at these threads until each has been seen asleep, or the time is up (W6).
    fn at_all(&mut self, mut threads: Vec<i32>, until: Instant) -> Result<(), String> {
        let mut pause = Duration::from_micros(50);
        loop {
            let mut running = Vec::new();
            for tid in threads {
                if self.at(tid)? {
                    running.push(tid);
                }
            }
            threads = running;
            let all_found = self.findings.of.iter().all(|lines| !lines.is_empty());
            if threads.is_empty() || all_found || Instant::now() >= until {
                break;
            }
            nap(pause);
            pause = (pause * 2).min(Duration::from_millis(1));
        }
        for tid in threads {
            if let Some((spot, how)) = self.started_with(Record::of(tid), true) {
                let what = format!("runs, and was started {how} {}", spot.name(false));
                self.tell(tid, spot.whose, &what);
            }
            for whose in 0..self.findings.of.len() {
                if !self.findings.outside[whose].contains(&tid) {
                    self.tell(tid, whose, "runs and could not be looked at");
                }
            }
        }
        Ok(())
    }

    /// Looks at one thread. True: it was running, and has to be looked at again.
    fn at(&mut self, tid: i32) -> Result<bool, String> {
        let path = self.proc.join(format!("task/{tid}/syscall"));
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(_) if !self.proc.join(format!("task/{tid}")).exists() => return Ok(false),
            Err(error) => return Err(self.refused(tid, &failed(&path, &error))),
        };
        let state = || State::read(&file).map_err(|error| failed(&path, &error));
        let state = |look: &Self| state().map_err(|why| look.refused(tid, &why));
        let seen = state(self)?;
        if seen == State::Gone {
            return Ok(false);
        }
        let record = Record::of(tid);
        self.values(tid, record);
        let top = pthread::stack_end(tid, record);
        let stands = match (seen, top) {
            (State::Sleeps(sp, pc), top) => self.search.thread(sp, pc, top),
            (_, Some(top)) if record.is_some() => self.search.running(top),
            _ => return Ok(true),
        };
        let again = state(self)?;
        if again == State::Gone {
            return Ok(false);
        }
        // A stack that it has left meanwhile may have gone.
        if stands.is_err() && again != seen {
            return Ok(true);
        }
        let stands = stands.map_err(|errno| self.unreadable(tid, errno))?;
        if seen == State::Runs {
            // That it is outside is certain for every module of which nothing was found. For the others
            // it is looked at again.
            let started = self.started_with(record, true).map(|(spot, _)| spot);
            let ends =
                self.keys.iter().filter(|key| record.is_some_and(|r| r.value(key).is_some()));
            let ends = ends.map(|key| key.destructor);
            let stands = stands.iter().map(|stand| stand.spot);
            let there: Vec<_> = stands.chain(started).chain(ends).collect();
            self.is_outside(tid, |whose| there.iter().all(|spot| spot.whose != whose));
            return Ok(!self.findings.are_outside(tid));
        }
        self.tell_stands(tid, stands);
        // If it has run meanwhile, the stack that was read proves nothing (W3).
        if again != seen {
            return Ok(true);
        }
        if let Some((spot, how)) = self.started_with(record, false) {
            self.tell(tid, spot.whose, &format!("was started {how} {}", spot.name(false)));
        }
        let told = mem::take(&mut self.told);
        self.is_outside(tid, |whose| !told.contains(&(tid, whose)));
        self.told = told;
        Ok(false)
    }

    fn is_outside(&mut self, tid: i32, of: impl Fn(usize) -> bool) {
        for (whose, outside) in self.findings.outside.iter_mut().enumerate() {
            if of(whose) && !outside.contains(&tid) {
                outside.push(tid);
            }
        }
    }

    /// What in the text the thread was started with, and how. For a running thread what its argument points
    /// to counts as well.
    fn started_with(&self, record: Option<Record>, runs: bool) -> Option<(Spot<'a>, &'static str)> {
        let [function, argument] = record?.start();
        let code = |word, how| self.map.code(word).map(|spot| (spot, how));
        let points_to = || {
            let mut words = [0; 4];
            let n = read_words(argument, &mut words).unwrap_or(0);
            let spot = words[..n].iter().find_map(|&word| self.map.inside(word))?;
            Some((spot, "with an object that has"))
        };
        code(function, "in")
            .or_else(|| code(argument, "with an argument that is"))
            .or_else(|| points_to().filter(|_| runs))
    }

    fn refused(&self, tid: i32, why: &str) -> String {
        format!("thread {tid} could not be looked at: {why}")
    }

    fn unreadable(&self, tid: i32, errno: i32) -> String {
        let why = errno_text(errno);
        self.refused(tid, &format!("process_vm_readv, or {THIS}/pagemap if it runs: {why}"))
    }

    /// Reports the destructors that a thread will call at its end.
    fn values(&mut self, tid: i32, record: Option<Record>) {
        let has_value = |key: &&Key<'_>| record.is_some_and(|r| r.value(key).unwrap_or(0) != 0);
        for key in self.keys.iter().filter(has_value) {
            let (name, whose) = (key.destructor.name(false), key.destructor.whose);
            let line =
                format!("the destructor of a pthread key is {name} (thread {tid} has a value)");
            self.findings.add_caller(whose, line);
        }
    }

    fn tell(&mut self, tid: i32, whose: usize, what: &str) {
        if self.told.contains(&(tid, whose)) {
            return;
        }
        self.told.push((tid, whose));
        self.findings.add(whose, format!("{} {what}", thread_title(self.proc, tid)));
    }

    fn tell_stands(&mut self, tid: i32, stands: Vec<Stand<'a>>) {
        for Stand { spot, comes_back } in stands {
            self.tell(tid, spot.whose, &format!("stands in {}", spot.name(comes_back)));
        }
    }

    /// Looks at the calling thread (W7).
    fn this_thread(&mut self, tid: i32) -> Result<(), String> {
        let record = Record::of(tid);
        self.values(tid, record);
        let (frames, sp) = frames();
        let unwound = frames.into_iter().filter_map(|at| self.map.call(at));
        self.tell_stands(tid, unwound.map(|spot| Stand { spot, comes_back: true }).collect());
        let top = pthread::stack_end(tid, record);
        // Above the process's first frame nothing is to be read, which a sandbox may refuse.
        if top.is_some_and(|top| top.wrapping_sub(sp) <= 4 * WORD) {
            return Ok(());
        }
        let stands = self.search.thread(sp, 0, top);
        self.tell_stands(tid, stands.map_err(|errno| self.unreadable(tid, errno))?);
        Ok(())
    }
}

/// The return addresses of the calls that this thread is in, as far as they can be unwound, and the last
/// frame's stack pointer.
pub(crate) fn frames() -> (Vec<usize>, usize) {
    unsafe extern "C" {
        fn _Unwind_Backtrace(
            each: unsafe extern "C" fn(*mut c_void, *mut c_void) -> c_int,
            data: *mut c_void,
        ) -> c_int;
        fn _Unwind_GetIP(frame: *mut c_void) -> usize;
        fn _Unwind_GetCFA(frame: *mut c_void) -> usize;
    }

    unsafe extern "C" fn each(frame: *mut c_void, data: *mut c_void) -> c_int {
        // SAFETY: the frame is the unwinder's, the data what is handed in below.
        unsafe {
            let (frames, sp) = &mut *data.cast::<(Vec<usize>, usize)>();
            // libgcc tells the end of the stack as a frame without a place.
            if _Unwind_GetIP(frame) != 0 {
                frames.push(_Unwind_GetIP(frame));
                *sp = _Unwind_GetCFA(frame);
            }
        }
        0
    }

    let mut frames = (Vec::new(), 0);
    frames.1 = (&raw const frames).addr();
    // SAFETY: the function fits its data, which outlives the call.
    unsafe { _Unwind_Backtrace(each, (&raw mut frames).cast()) };
    frames
}
