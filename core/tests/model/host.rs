//! What the module host does, as its documentation and Linux's tables say.
//!
//! Threads take steps, one at a time: they load real shared objects whose files change, are cut
//! short and vanish between steps, unload, replace and force them out, hold them, have them depend
//! on each other, and refuse them by notifiers. Init functions fail, or return when a later step says
//! so; an unload or a replacement that has to wait is left waiting while others go on, and has to
//! answer in the very step that ends its wait.
//!
//! After each step: every answer; what plugins and notifiers were called for, in which order; the
//! list of modules, the state and the references of every load there ever was, who depends on
//! whom, the taint and the record of what was unloaded last. At the end nothing may be left.

use super::crew::{Crew, PER_CPU, REFUSAL, THREADS, is_refused, run_on, take_all_slots};
use super::{Word, compiler, words};
use module_ref::Mode;
use module_ref::host::{
    Error, Host, Load, Module, NotifierId, Reference, Replace, Residency, State, Unload, Unloaded,
};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CStr, c_void};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

const NAMES: [&str; 3] = ["a", "b", "c"];
const SLOTS: usize = 3;
const SHORT: Duration = Duration::from_micros(300);

/// Notifiers come and go, but for one that is the first.
const NOTIFIERS: usize = 3;
const FIRST: usize = NOTIFIERS;

/// What a test has to build in, or a program with a build script.
const BUILT: &str = match (option_env!("CARGO_TARGET_TMPDIR"), option_env!("OUT_DIR")) {
    (Some(folder), _) | (_, Some(folder)) => folder,
    _ => ".",
};

// ---- plugins --------------------------------------------------------------------------------

/// What there is in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Kind {
    /// An init and an exit function.
    Hooks,
    /// Neither.
    Plain,
    /// An init function alone.
    Permanent,
    /// Both, and what users are linked with.
    Provider,
    User,
    /// It needs a symbol that nothing has.
    Unresolved,
    /// The first half of an object.
    Cut,
    Text,
    /// There is no file.
    #[default]
    Gone,
}

/// By their numbers: those that can be loaded more often.
const KINDS: [Kind; 16] = {
    use Kind::*;
    [
        Hooks, Plain, Permanent, Provider, User, Unresolved, Cut, Text, Gone, Hooks, Provider,
        User, Provider, User, Hooks, Plain,
    ]
};

impl Kind {
    /// What its source is compiled with. What is cut short in memory has no destructor, which would
    /// be no code any more when the program ends.
    fn defines(self) -> &'static [&'static str] {
        match self {
            Self::Plain => &["-DDESTRUCTOR"],
            Self::Permanent => &["-DINIT", "-DDESTRUCTOR"],
            Self::Provider => &["-DINIT", "-DEXIT", "-DDESTRUCTOR"],
            Self::User => &["-DINIT", "-DEXIT", "-DDESTRUCTOR", "-DUSER"],
            Self::Unresolved => &["-DINIT", "-DUNRESOLVED"],
            _ => &["-DINIT", "-DEXIT"],
        }
    }

    fn has(self, what: &str) -> bool {
        self.defines().contains(&what)
    }

    /// What the file alone is refused with.
    fn refusal(self) -> Result<(), i32> {
        match self {
            Self::Gone => Err(libc::ENOENT),
            Self::Cut | Self::Text => Err(libc::ENOEXEC),
            _ => Ok(()),
        }
    }
}

/// What stands in the templates for the name that users know their provider by. Each case has its
/// own, so that none is bound to what a case before it has left in memory by failing.
const ANY_CASE: &str = "case-00000000";

/// `note` is set by a notifier, before init runs.
const SOURCE: &str = "
int (*note)(int what);
#ifdef USER
int provided(void);
#else
int provided(void) { return 0; }
#endif
int nowhere(void);
#ifdef INIT
int init_module(void) { return note(1); }
#endif
#ifdef EXIT
void cleanup_module(void) { note(2); }
#endif
#ifdef DESTRUCTOR
__attribute__((destructor)) static void unmapped(void) { if (note) note(3); }
#endif
long answer(void) { return ANSWER + provided(); }
#ifdef UNRESOLVED
int call(void) { return nowhere(); }
#endif
";

const INIT: i32 = 1;

/// An object of that kind whose `answer()` is that number.
fn template(kind: Kind, answer: usize) -> PathBuf {
    let mut flags: Vec<_> = kind.defines().iter().map(|&define| define.to_owned()).collect();
    flags.push(format!("-DANSWER={answer}"));
    match kind {
        Kind::User => {
            flags.push("-Wl,--no-as-needed".to_owned());
            flags.push(template(Kind::Provider, 0).to_str().unwrap().to_owned());
        }
        Kind::Provider => flags.push(format!("-Wl,-soname,lib{ANY_CASE}.so")),
        _ => {}
    }
    let mut hasher = DefaultHasher::new();
    (SOURCE, &flags).hash(&mut hasher);
    let path = Path::new(BUILT).join(format!("model-{:016x}.so", hasher.finish()));
    if !path.exists() {
        let (source, built) = (path.with_extension("c"), path.with_extension("new"));
        fs::write(&source, SOURCE).unwrap();
        let mut compiler = compiler::shared();
        let status = compiler.arg("-o").args([&built, &source]).args(&flags).status();
        assert!(status.expect("a C compiler: apt-get install gcc").success());
        fs::rename(built, &path).unwrap();
    }
    path
}

/// The content of a file of that kind, in that case.
fn content(kind: Kind, answer: usize, case: &str) -> Vec<u8> {
    type Contents = HashMap<(Kind, usize), Vec<u8>>;
    static KNOWN: LazyLock<Mutex<Contents>> = LazyLock::new(Mutex::default);
    let mut known = KNOWN.lock().unwrap();
    let new = || match kind {
        Kind::Text => b"no object at all".to_vec(),
        _ => fs::read(template(kind, answer)).unwrap(),
    };
    let mut content = known.entry((kind, answer)).or_insert_with(new).clone();
    for at in 0..content.len().saturating_sub(case.len()) {
        if content[at..].starts_with(ANY_CASE.as_bytes()) {
            content[at..at + case.len()].copy_from_slice(case.as_bytes());
        }
    }
    content.truncate(if kind == Kind::Cut { content.len() / 2 } else { content.len() });
    content
}

// ---- the model ------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Wait {
    No,
    Short,
    Forever,
}

impl Wait {
    pub fn timeout(self) -> Option<Duration> {
        match self {
            Self::No => Some(Duration::ZERO),
            Self::Short => Some(SHORT),
            Self::Forever => None,
        }
    }
}

/// What an init function returns; or another step says it, for which the function waits.
type Plan = Option<i32>;

/// How an unload ended, or that it waits.
type Ended = Result<Option<Outcome>, i32>;

/// What is loaded: name, slot, mode, and whether as a copy.
type What = (usize, usize, Mode, bool);

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    Unmapped,
    Held(u64),
    Overwritten,
    /// Either, as C has it.
    Resident,
}

#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Nothing,
    Got(bool),
    /// Of a load, or a dependency; or an errno.
    Done(Result<(), i32>),
    Unloaded(Result<Outcome, i32>),
    /// Of each of a set.
    Replaced(Result<Vec<Outcome>, i32>),
    Reaped(usize),
    /// What a symbol's function answers.
    Symbol(Option<usize>),
}

/// What somebody was called for.
#[derive(Clone, Debug, PartialEq)]
enum Call {
    Init,
    Exit,
    Unmapped,
    Told(usize, &'static str, State),
}

/// Where a load is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    /// To take the place of another, and not ready.
    New,
    Table,
    /// Replaced by another, and waited for.
    Old,
    /// Left to its holders.
    Zombie,
    Gone,
}

#[derive(Clone, Debug)]
struct Loaded {
    name: usize,
    kind: Kind,
    answer: usize,
    /// Which file it is from; whether a copy was asked for; and whether it is one.
    file: usize,
    copied: bool,
    copy: bool,
    mode: Mode,
    state: State,
    at: At,
    /// No more references.
    closed: bool,
    /// Whether it was seen, so that there is a handle.
    seen: bool,
    /// Whether it can tell what happens to it.
    noted: bool,
    /// In the list the newest is first; of a set the last.
    rank: usize,
    /// Nobody is bound to it any more.
    hidden: bool,
}

#[derive(Clone, Debug)]
struct Zombie {
    load: usize,
    exit: bool,
    record: bool,
}

/// What a load is to take the place of.
type Old = Option<(usize, Wait)>;

#[derive(Clone, Debug)]
enum Waiting {
    /// For the init function of a load.
    Init(usize, Old),
    /// For the last reference.
    Left(usize),
}

impl Waiting {
    fn is_init(&self) -> bool {
        matches!(self, Self::Init(..))
    }
}

#[derive(Clone, Debug, Default)]
struct Model {
    files: [(Kind, usize); SLOTS],
    written: usize,
    /// All that there ever were. Which is how the linker's list is ordered, too.
    loads: Vec<Loaded>,
    /// The load of each reference; and of each that a symbol was given with, the oldest first.
    held: Vec<usize>,
    given: Vec<usize>,
    /// User and provider, the oldest first.
    links: Vec<(usize, usize)>,
    zombies: Vec<Zombie>,
    waiting: Vec<(usize, Waiting)>,
    /// Priority and number, in the order in which they are told; and with what one refuses.
    notifiers: Vec<(i32, usize)>,
    vetoes: [Option<i32>; NOTIFIERS + 1],
    keep: bool,
    tainted: bool,
    last: Option<(usize, Outcome)>,
    // Of this step:
    calls: Vec<Call>,
    /// A thread that waited has an answer.
    ended: Option<(usize, Answer)>,
    /// The first notifier has kept a reference on this.
    kept: Option<usize>,
}

impl Model {
    fn is_refused(&self, thread: usize, load: usize) -> bool {
        is_refused(thread) && self.loads[load].mode == Mode::PerCpu
    }

    /// The module of that name.
    fn find(&self, name: usize) -> Option<usize> {
        self.loads.iter().position(|l| l.name == name && l.at == At::Table)
    }

    fn users(&self, load: usize) -> impl DoubleEndedIterator<Item = usize> {
        self.links.iter().filter(move |link| link.1 == load).map(|link| link.0)
    }

    fn references(&self, load: usize) -> u64 {
        let held = self.held.iter().chain(&self.given).filter(|&&held| held == load).count();
        // A load has one itself until its end.
        let init = usize::from(self.loads[load].state == State::Coming);
        (held + self.users(load).count() + init) as u64
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        from == to || self.links.iter().any(|&(u, p)| u == from && self.reaches(p, to))
    }

    fn tell(&mut self, load: usize, state: State) {
        self.tell_some(load, state, self.notifiers.len());
    }

    fn tell_some(&mut self, load: usize, state: State, first: usize) {
        let name = NAMES[self.loads[load].name];
        let told = self.notifiers[..first].iter().map(|&(_, which)| Call::Told(which, name, state));
        self.calls.extend(told);
    }

    fn farewell(&mut self, load: usize) {
        if self.loads[load].kind.has("-DEXIT") {
            self.calls.push(Call::Exit);
        }
        self.tell(load, State::Going);
    }

    fn end(&mut self, load: usize, record: bool) -> Outcome {
        self.links.retain(|link| link.0 != load);
        if self.loads[load].kind.has("-DDESTRUCTOR") && self.loads[load].noted {
            self.calls.push(Call::Unmapped);
        }
        self.loads[load].at = At::Gone;
        if record {
            self.last = Some((self.loads[load].name, Outcome::Unmapped));
        }
        Outcome::Unmapped
    }

    /// Closes it, if this thread can.
    fn close_load(&mut self, thread: usize, load: usize) -> bool {
        self.loads[load].closed |= !self.is_refused(thread, load);
        self.loads[load].closed
    }

    fn reap(&mut self, thread: usize) -> usize {
        let mut unmapped = 0;
        let is_left = |model: &mut Self, at: &usize| {
            let load = model.zombies[*at].load;
            model.close_load(thread, load) && model.references(load) == 0
        };
        while let Some(at) = (0..self.zombies.len()).find(|at| is_left(self, at)) {
            let Zombie { load, exit, record } = self.zombies.remove(at);
            if exit {
                self.farewell(load);
            }
            self.end(load, record);
            unmapped += 1;
        }
        unmapped
    }

    fn leave_to_holders(&mut self, thread: usize, load: usize, exit: bool) -> Outcome {
        let held = self.set_aside(load, exit, true);
        self.reap(thread);
        held
    }

    /// It is left to its holders; `record`: as the last one that was unloaded.
    fn set_aside(&mut self, load: usize, exit: bool, record: bool) -> Outcome {
        let held = Outcome::Held(self.references(load));
        self.loads[load].at = At::Zombie;
        self.zombies.push(Zombie { load, exit, record });
        if record {
            self.last = Some((self.loads[load].name, held));
        }
        held
    }

    /// From a file that can be read to the end of its init function.
    fn bring_up(&mut self, thread: usize, what: What, old: Old, plan: Plan) -> Option<Answer> {
        let (load, opened) = self.open(what, old.is_some(), &[]);
        if let Err(errno) = opened.and_then(|()| self.come(load)) {
            return Some(self.failed(thread, load, old, errno));
        }
        if plan.is_none() && self.init(load) {
            self.waiting.push((thread, Waiting::Init(load, old)));
            return None;
        }
        let result = if plan.is_some() && self.init(load) { plan } else { None };
        self.after_init(thread, load, old, result.unwrap_or(0))
    }

    /// A new load, and whether its object can be opened while nobody is bound to those that are hidden.
    fn open(
        &mut self,
        what: What,
        takes_a_place: bool,
        hidden: &[usize],
    ) -> (usize, Result<(), i32>) {
        let (name, slot, mode, copied) = what;
        let (kind, file) = self.files[slot];
        let load = self.loads.len();
        let has_it = |l: &Loaded| l.file == file && !l.copy && l.at != At::Gone;
        let copy = copied || self.loads.iter().any(has_it);
        self.loads.push(Loaded {
            name,
            kind,
            answer: file % 2,
            file,
            copied,
            copy,
            mode,
            state: State::Unformed,
            at: if takes_a_place { At::New } else { At::Table },
            closed: false,
            seen: false,
            noted: false,
            rank: load,
            hidden: false,
        });
        // A user's provider is there to be bound to, and must not be going; or it is of the same set.
        let is_there = |l: &Loaded| l.state == State::Live || l.at == At::New && !hidden.is_empty();
        let provider = self.provider(hidden).filter(|&there| is_there(&self.loads[there]));
        if kind == Kind::Unresolved || kind == Kind::User && provider.is_none() {
            return (load, Err(libc::ENOENT));
        }
        self.links.extend(provider.filter(|_| kind == Kind::User).map(|there| (load, there)));
        (load, Ok(()))
    }

    /// Up to its init function; or who has refused it.
    fn come(&mut self, load: usize) -> Result<(), i32> {
        self.loads[load].state = State::Coming;
        let veto = self.notifiers.iter().position(|&(_, which)| self.vetoes[which].is_some());
        self.tell_some(load, State::Coming, veto.map_or(self.notifiers.len(), |at| at + 1));
        self.loads[load].noted = true;
        if self.keep {
            self.held.push(load);
            self.kept = Some(load);
            self.loads[load].seen = true;
        }
        if let Some(at) = veto {
            self.tell_some(load, State::Going, at);
            return Err(self.vetoes[self.notifiers[at].1].expect("a veto"));
        }
        Ok(())
    }

    /// Calls its init function, if it has one.
    fn init(&mut self, load: usize) -> bool {
        let has_one = self.loads[load].kind.has("-DINIT");
        self.calls.extend(has_one.then_some(Call::Init));
        has_one
    }

    /// The end of a load that has failed.
    fn failed(&mut self, thread: usize, load: usize, old: Old, errno: i32) -> Answer {
        self.clear_away(thread, load, false);
        if old.is_some() { Answer::Unloaded(Err(errno)) } else { Answer::Done(Err(errno)) }
    }

    fn clear_away(&mut self, thread: usize, load: usize, record: bool) {
        self.loads[load].state = State::Going;
        if self.close_load(thread, load) && self.references(load) == 0 {
            self.end(load, record);
        } else {
            self.set_aside(load, false, record);
        }
    }

    /// The object that the linker would bind a user to.
    fn provider(&self, hidden: &[usize]) -> Option<usize> {
        let is_there = |&at: &usize| {
            self.loads[at].kind == Kind::Provider
                && self.loads[at].at != At::Gone
                && !self.loads[at].hidden
                && !hidden.contains(&at)
        };
        (0..self.loads.len()).find(is_there)
    }

    fn after_init(&mut self, thread: usize, load: usize, old: Old, result: i32) -> Option<Answer> {
        if self.loads[load].kind.has("-DINIT") && result < 0 {
            self.tell(load, State::Going);
            return Some(self.failed(thread, load, old, -result));
        }
        let Some((there, wait)) = old else {
            self.loads[load].state = State::Live;
            self.tell(load, State::Live);
            return Some(Answer::Done(Ok(())));
        };
        if self.users(there).next().is_some() {
            // Since it began.
            self.farewell(load);
            return Some(self.failed(thread, load, old, libc::EWOULDBLOCK));
        }
        let old = there;
        (self.loads[load].state, self.loads[load].at) = (State::Live, At::Table);
        (self.loads[old].state, self.loads[old].at) = (State::Going, At::Old);
        self.tell(load, State::Live);
        let (closed, held) = (self.close_load(thread, old), self.references(old) > 0);
        if closed && held && wait == Wait::Forever {
            self.waiting.push((thread, Waiting::Left(old)));
            return None;
        }
        Some(Answer::Unloaded(Ok(if closed && !held {
            self.farewell(old);
            self.end(old, true)
        } else {
            self.leave_to_holders(thread, old, true)
        })))
    }

    fn write(&mut self, slot: usize, kind: Kind) {
        self.files[slot] = (kind, self.written);
        self.written += 1;
    }

    /// Why nothing can be loaded from that file by that name.
    fn check_load(&mut self, thread: usize, name: usize, slot: usize) -> Result<(), i32> {
        self.reap(thread);
        self.files[slot].0.refusal().and(match self.find(name) {
            None => Ok(()),
            Some(there) if self.loads[there].state == State::Live => Err(libc::EEXIST),
            Some(_) => Err(libc::EBUSY),
        })
    }

    fn load(&mut self, thread: usize, what: What, plan: Plan) -> Option<Answer> {
        match self.check_load(thread, what.0, what.1) {
            Ok(()) => self.bring_up(thread, what, None, plan),
            Err(errno) => Some(Answer::Done(Err(errno))),
        }
    }

    fn replace(&mut self, thread: usize, at: [usize; 2], wait: Wait, plan: Plan) -> Option<Answer> {
        let [name, slot] = at;
        self.reap(thread);
        let old = self.check_free(name, false);
        match old.and_then(|old| self.files[slot].0.refusal().map(|()| old)) {
            Err(errno) => Some(Answer::Unloaded(Err(errno))),
            Ok(old) => {
                let Loaded { mode, copied, .. } = self.loads[old];
                self.bring_up(thread, (name, slot, mode, copied), Some((old, wait)), plan)
            }
        }
    }

    /// Replaces a set in one step; the init functions that are called return what `said` has.
    fn replace_set(
        &mut self,
        thread: usize,
        set: &[(usize, usize)],
        stop_first: bool,
        said: &mut dyn Iterator<Item = i32>,
    ) -> Result<Vec<Outcome>, i32> {
        self.reap(thread);
        let mut old = Vec::new();
        for &(name, _) in set {
            let load = self.find(name).ok_or(libc::ENOENT)?;
            if old.contains(&load) {
                return Err(libc::EINVAL);
            }
            old.push(load);
        }
        for &(name, _) in set {
            self.check_free_but(name, false, &old)?;
        }
        set.iter().try_for_each(|&(_, slot)| self.files[slot].0.refusal())?;
        let order = self.providers_first(set, &old);
        let olds: Vec<_> = order.iter().map(|&at| old[at]).collect();
        let hidden = if set.len() > 1 { &*olds } else { &[] };
        let (mut new, mut up) = (Vec::new(), 0);
        let mut failed = Ok(());
        for &at in &order {
            let Loaded { mode, copied, .. } = self.loads[old[at]];
            let (load, opened) = self.open((set[at].0, set[at].1, mode, copied), true, hidden);
            self.loads[load].rank = load - new.len() + at;
            new.push(load);
            failed = opened;
            if failed.is_ok() && !stop_first {
                failed = self.bring_in(load, said);
                up += usize::from(failed.is_ok());
            }
            if failed.is_err() {
                break;
            }
        }
        // A new one that is bound to an old one, for want of another.
        let is_used = |&old: &usize| self.users(old).any(|user| !olds.contains(&user));
        if failed.is_ok() && olds.iter().any(is_used) {
            failed = Err(libc::EWOULDBLOCK);
        }
        let mut ended = 0;
        if failed.is_ok() && stop_first {
            // Those of the set let go of each other before they are waited for.
            let held = |&&load: &&usize| {
                let of_the_set = self.users(load).filter(|user| olds.contains(user)).count();
                self.references(load) > of_the_set as u64
            };
            failed = olds.iter().rev().find(held).map_or(Ok(()), |_| Err(libc::ETIMEDOUT));
            if failed.is_ok() {
                for &load in olds.iter().rev() {
                    (self.loads[load].state, self.loads[load].closed) = (State::Going, true);
                    self.farewell(load);
                }
                ended = olds.len();
            }
            while failed.is_ok() && up < new.len() {
                failed = self.bring_in(new[up], said);
                up += usize::from(failed.is_ok());
            }
        }
        if let Err(errno) = failed {
            for &load in new[..up].iter().rev() {
                self.loads[load].state = State::Going;
                self.farewell(load);
            }
            let lost = self.bring_back(thread, &olds[..ended], said);
            new.iter().rev().for_each(|&load| self.clear_away(thread, load, false));
            return Err(if lost { libc::ENOTRECOVERABLE } else { errno });
        }
        for &load in &new {
            (self.loads[load].state, self.loads[load].at) = (State::Live, At::Table);
        }
        for &load in &olds {
            (self.loads[load].state, self.loads[load].at) = (State::Going, At::Old);
            self.loads[load].hidden = set.len() > 1;
        }
        new.iter().for_each(|&load| self.tell(load, State::Live));
        let mut outcomes = vec![Outcome::Unmapped; set.len()];
        for (&load, &at) in olds.iter().zip(&order).rev() {
            self.close_load(thread, load);
            outcomes[at] = if self.references(load) > 0 {
                self.leave_to_holders(thread, load, true)
            } else {
                if !stop_first {
                    self.farewell(load);
                }
                self.end(load, true)
            };
        }
        Ok(outcomes)
    }

    /// The order in which a set comes: after what the old ones depend on, and what the new files need.
    fn providers_first(&self, set: &[(usize, usize)], old: &[usize]) -> Vec<usize> {
        let kind = |at: usize| self.files[set[at].1].0;
        let uses = |at: usize, other: usize| self.links.contains(&(old[at], old[other]));
        let needs = |at: usize, other: usize| {
            at != other && kind(at) == Kind::User && kind(other) == Kind::Provider
        };
        let (mut left, mut order) = ((0..set.len()).collect::<Vec<_>>(), vec![]);
        while !left.is_empty() {
            let is_free = |at: &&usize| !left.iter().any(|&other| uses(**at, other));
            let needs_none = |at: &&usize| !left.iter().any(|&other| needs(**at, other));
            let next = left.iter().find(|at| is_free(at) && needs_none(at));
            let next = *next.or(left.iter().find(is_free)).expect("no circle");
            left.retain(|&at| at != next);
            order.push(next);
        }
        order
    }

    /// A new one of a set, to the end of its init function.
    fn bring_in(&mut self, load: usize, said: &mut dyn Iterator<Item = i32>) -> Result<(), i32> {
        self.come(load)?;
        self.call_init(load, said)
    }

    fn call_init(&mut self, load: usize, said: &mut dyn Iterator<Item = i32>) -> Result<(), i32> {
        match if self.init(load) { said.next().unwrap_or(0) } else { 0 } {
            0.. => Ok(()),
            errno => {
                self.loads[load].state = State::Going;
                self.tell(load, State::Going);
                Err(-errno)
            }
        }
    }

    /// Brings those up again that have ended, providers first; whether any is lost.
    fn bring_back(
        &mut self,
        thread: usize,
        ended: &[usize],
        said: &mut dyn Iterator<Item = i32>,
    ) -> bool {
        let mut lost: Vec<(usize, bool)> = Vec::new();
        for &load in ended {
            if lost.iter().any(|&(provider, _)| self.links.contains(&(load, provider))) {
                lost.push((load, true));
                continue;
            }
            (self.loads[load].state, self.loads[load].closed) = (State::Coming, false);
            self.tell(load, State::Coming);
            if self.call_init(load, said).is_err() {
                lost.push((load, false));
            } else {
                self.loads[load].state = State::Live;
                self.tell(load, State::Live);
            }
        }
        for &(load, needs_lost) in lost.iter().rev() {
            if needs_lost {
                self.end(load, true);
            } else {
                self.clear_away(thread, load, true);
            }
        }
        !lost.is_empty()
    }

    /// Cuts the module's file short, and unloads it; which file that is.
    fn spoil(&mut self, thread: usize, name: usize) -> usize {
        self.reap(thread);
        let load = self.find(name).expect("a precondition");
        let slot = self.files.iter().position(|file| file.1 == self.loads[load].file);
        let slot = slot.expect("a precondition");
        self.write(slot, Kind::Cut);
        (self.loads[load].state, self.loads[load].closed) = (State::Going, true);
        // Its exit function is no code any more.
        self.tell(load, State::Going);
        self.end(load, false);
        self.last = Some((name, Outcome::Overwritten));
        slot
    }

    fn end_init(&mut self, thread: usize, result: i32) {
        let at = self.waiting.iter().position(|(there, _)| *there == thread).expect("it waits");
        let (_, Waiting::Init(load, old)) = self.waiting.remove(at) else { unreachable!() };
        self.ended = self.after_init(thread, load, old, result).map(|answer| (thread, answer));
    }

    fn get(&mut self, load: Option<usize>) -> Answer {
        let found = load.filter(|&load| !self.loads[load].closed);
        self.held.extend(found);
        Answer::Got(found.is_some())
    }

    fn symbol_get(&mut self) -> Answer {
        // The oldest that is live, since all have it.
        let is_live = |l: &Loaded| l.at == At::Table && l.state == State::Live;
        let live = (0..self.loads.len()).filter(|&load| is_live(&self.loads[load]));
        let found = live.min_by_key(|&load| self.loads[load].rank);
        self.given.extend(found);
        Answer::Symbol(found.map(|load| self.loads[load].answer))
    }

    fn symbol_put(&mut self) -> Result<(), i32> {
        if self.given.is_empty() {
            return Err(libc::EINVAL);
        }
        self.given.remove(0);
        Ok(())
    }

    fn register(&mut self, which: usize, priority: i32) -> Result<(), i32> {
        if self.notifiers.iter().any(|&(_, there)| there == which) {
            return Err(libc::EEXIST);
        }
        let at = self.notifiers.partition_point(|&(there, _)| there >= priority);
        self.notifiers.insert(at, (priority, which));
        Ok(())
    }

    fn unregister(&mut self, which: usize) -> Result<(), i32> {
        let at = self.notifiers.iter().position(|&(_, there)| there == which);
        self.notifiers.remove(at.ok_or(libc::ENOENT)?);
        Ok(())
    }

    fn close(&mut self, thread: usize) -> Result<(), i32> {
        self.reap(thread);
        if self.loads.iter().any(|l| l.at != At::Gone) {
            return Err(libc::EBUSY);
        }
        self.notifiers.retain(|&(_, which)| which == FIRST);
        (self.tainted, self.last) = (false, None);
        Ok(())
    }

    /// Why it cannot be taken out of service, apart from references.
    fn check_free(&self, name: usize, force: bool) -> Result<usize, i32> {
        self.check_free_but(name, force, &[])
    }

    /// The same, where these go together.
    fn check_free_but(&self, name: usize, force: bool, set: &[usize]) -> Result<usize, i32> {
        let load = self.find(name).ok_or(libc::ENOENT)?;
        if self.users(load).any(|user| !set.contains(&user)) {
            return Err(libc::EWOULDBLOCK);
        }
        let replaced = self.loads.iter().any(|l| l.name == name && l.at == At::New);
        let permanent = self.loads[load].kind == Kind::Permanent && !force;
        if self.loads[load].state != State::Live || permanent || replaced {
            return Err(libc::EBUSY);
        }
        Ok(load)
    }

    fn unload(&mut self, thread: usize, name: usize, force: bool, wait: Wait) -> Ended {
        self.reap(thread);
        let load = self.check_free(name, force)?;
        let (held, refused) = (self.references(load), self.is_refused(thread, load));
        // A look at a held counter needs no barrier, but closing one does.
        if refused && (wait != Wait::No || held == 0 || force) {
            return Err(REFUSAL);
        }
        let waits = held > 0 && wait == Wait::Forever;
        if held > 0 && !waits && !force {
            return Err(if wait == Wait::No { libc::EWOULDBLOCK } else { libc::ETIMEDOUT });
        }
        (self.loads[load].state, self.loads[load].closed) = (State::Going, true);
        if waits {
            self.waiting.push((thread, Waiting::Left(load)));
            return Ok(None);
        }
        self.tainted |= held > 0 || self.loads[load].kind == Kind::Permanent;
        self.farewell(load);
        Ok(Some(match held {
            0 => self.end(load, true),
            _ => self.leave_to_holders(thread, load, false),
        }))
    }

    fn depend(&mut self, user: usize, provider: usize) -> Result<(), i32> {
        let is_going = |load: usize| self.loads[load].state == State::Going;
        let known = self.links.contains(&(user, provider));
        if !is_going(user) && !known && self.reaches(provider, user) {
            return Err(libc::EDEADLK);
        }
        if is_going(user) || !known && is_going(provider) {
            return Err(libc::ENOENT);
        }
        self.links.extend((!known).then_some((user, provider)));
        Ok(())
    }

    /// What no waiting thread waits for any more.
    fn settle(&mut self) {
        self.loads.iter_mut().filter(|l| l.at == At::Table).for_each(|l| l.seen = true);
        let is_free = |(_, why): &(usize, Waiting)| match *why {
            Waiting::Init(..) => false,
            Waiting::Left(load) => self.references(load) == 0,
        };
        let Some(at) = self.waiting.iter().position(is_free) else { return };
        let (thread, Waiting::Left(load)) = self.waiting.remove(at) else { unreachable!() };
        self.tainted |= self.loads[load].kind == Kind::Permanent;
        self.farewell(load);
        let outcome = self.end(load, true);
        self.ended = Some((thread, Answer::Unloaded(Ok(outcome))));
    }

    fn is_coming(&self, load: Option<usize>) -> bool {
        load.is_some_and(|load| self.loads[load].state == State::Coming)
    }

    /// What can be cut short and unloaded without harm to others.
    fn can_be_spoilt(&self, thread: usize, name: usize) -> bool {
        self.check_free(name, true).is_ok_and(|load| {
            let loaded = &self.loads[load];
            !loaded.copy
                && loaded.kind == Kind::Hooks
                && self.files.contains(&(loaded.kind, loaded.file))
                && self.references(load) == 0
                && !self.is_refused(thread, load)
        })
    }

    /// Another load of what is still coming, or bound to that, would wait for an end that no other
    /// step could tell from what comes before and after it. One that fails because it is bound to
    /// what is going, and can itself not be closed in the sandbox, keeps the other mapped, which is
    /// then reported as resident, by a hair.
    fn cannot_foresee(&self, thread: usize, slot: usize, hidden: &[usize]) -> bool {
        if self.files[slot].0 != Kind::User {
            return false;
        }
        let mut model = self.clone();
        model.reap(thread);
        let provider = model.provider(hidden);
        let is_going = |p: usize| model.loads[p].state == State::Going && !model.loads[p].closed;
        model.is_coming(provider) || is_refused(thread) && provider.is_some_and(is_going)
    }
}

// ---- the host itself ------------------------------------------------------------------------

/// By which functions a host is used: those of the crate, if a face has no others.
pub trait Face: 'static {
    /// Of the threads, so many.
    const THREADS: usize;

    fn load(host: &Host, path: &Path, name: &str, mode: Mode, copy: bool) -> Result<Module, i32> {
        let load = Load::new().name(name).mode(mode);
        let load = if copy { load.copied() } else { load };
        // SAFETY: the plugins do nothing but to call us.
        unsafe { host.load_with(path, load) }.map_err(|error| {
            let refused = error.errno() == libc::EPERM;
            assert!(!refused || error.to_string().contains("not today"), "{error}");
            error.errno()
        })
    }

    fn unload(host: &Host, name: &str, force: bool, wait: Wait) -> Result<Outcome, i32> {
        let how = match wait {
            Wait::No => Unload::now(),
            Wait::Short => Unload::within(SHORT),
            Wait::Forever => Unload::waiting(),
        };
        unloaded(host, host.unload(name, if force { how.force() } else { how }))
    }

    fn replace(host: &Host, name: &str, path: &Path, wait: Wait) -> Result<Outcome, i32> {
        // SAFETY: as above.
        unloaded(host, unsafe { host.replace(name, path, wait.timeout()) })
    }

    fn replace_set(
        host: &Host,
        set: &[(&str, PathBuf)],
        stop_first: bool,
    ) -> Result<Vec<Outcome>, i32> {
        let how = Replace::within(SHORT);
        let set: Vec<_> = set.iter().map(|(name, path)| (*name, &**path)).collect();
        // SAFETY: as above.
        let done =
            unsafe { host.replace_set(&set, if stop_first { how.stop_first() } else { how }) };
        done.map(|all| all.into_iter().map(|there| settled(host, there)).collect())
            .map_err(|error| error.errno())
    }

    /// How it says that.
    fn told(outcome: Outcome) -> Outcome {
        outcome
    }
    fn told_of_set(outcomes: Vec<Outcome>) -> Vec<Outcome> {
        outcomes
    }

    fn find_get(host: &Host, name: &str) -> Option<Reference> {
        host.find_get(name)
    }
    fn try_get(module: &Module) -> Option<Reference> {
        module.try_get()
    }
    fn get(reference: &Reference) -> Reference {
        reference.clone()
    }
    fn put(reference: Reference) {
        drop(reference);
    }
    fn symbol(reference: &Reference, symbol: &CStr) -> Option<*mut c_void> {
        // SAFETY: nothing is done with it here.
        unsafe { reference.symbol::<*mut c_void>(symbol.to_str().unwrap()) }
            .ok()
            .map(|found| *found)
    }

    fn depend(user: &Module, provider: &Module) -> Result<(), i32> {
        Host::add_dependency(user, provider).map_err(|error| error.errno())
    }

    fn register(host: &Host, which: usize, priority: i32) -> Result<(), i32> {
        let notifier = Box::new(move |module: &Module, state| match told(which, module, state) {
            Some(libc::ECANCELED) => std::panic::resume_unwind(Box::new("a notifier's")),
            refused => refused.map_or(Ok(()), |errno| Err(Error::refuse(errno, "not today"))),
        });
        host.on_event_with_id(NotifierId::Key(which, 0), priority, notifier)
            .map_err(|error| error.errno())
    }

    fn unregister(host: &Host, which: usize) -> Result<(), i32> {
        host.remove_notifier(NotifierId::Key(which, 0)).map_err(|error| error.errno())
    }
    fn symbol_get(host: &Host, symbol: &CStr) -> Option<*mut c_void> {
        host.symbol_get(symbol.to_str().unwrap())
    }
    fn symbol_put(host: &Host, symbol: &CStr) -> Result<(), i32> {
        host.symbol_put(symbol.to_str().unwrap()).map_err(|error| error.errno())
    }
    fn reap(host: &Host) -> usize {
        host.reap()
    }
    fn close(host: Host) -> Result<(), (Host, i32)> {
        host.close().map_err(|(host, error)| (host, error.errno()))
    }
    fn state(module: &Module) -> (String, State, Option<u64>) {
        (module.name().to_owned(), module.state(), module.refcount())
    }

    /// The list; what was unloaded last; and whether any was forced.
    fn report(host: &Host) -> (String, String, bool) {
        let last = host.last_unloaded().map(|last| last.to_string());
        (host.list(), last.unwrap_or_default(), host.tainted())
    }
}

/// The crate itself.
pub struct Rust;

impl Face for Rust {
    const THREADS: usize = THREADS;
}

/// What plugins and notifiers share with a case.
#[derive(Default)]
struct Shared {
    calls: Mutex<Vec<Call>>,
    keep: AtomicBool,
    kept: Mutex<Vec<Reference>>,
    vetoes: Mutex<[Option<i32>; NOTIFIERS + 1]>,
}

thread_local! {
    static SHARED: RefCell<Arc<Shared>> = RefCell::default();
    /// What the init functions that this thread is about to call return, once it is said.
    static PLAN: RefCell<Option<Receiver<i32>>> = const { RefCell::new(None) };
}

fn log(call: Call) {
    SHARED.with_borrow(|shared| shared.calls.lock().unwrap().push(call));
}

/// What plugins call.
extern "C" fn note(what: i32) -> i32 {
    log([Call::Init, Call::Exit, Call::Unmapped][what as usize - 1].clone());
    // Nobody says anything any more if the case has failed.
    let said = || PLAN.with_borrow(|order| order.as_ref()?.recv().ok());
    if what == INIT { said().unwrap_or(0) } else { 0 }
}

type Note = extern "C" fn(i32) -> i32;

/// What notifiers do; perhaps one refuses.
pub fn told(which: usize, module: &Module, state: State) -> Option<i32> {
    let name = NAMES.into_iter().find(|name| *name == module.name()).unwrap();
    log(Call::Told(which, name, state));
    assert_eq!(module.state(), state);
    if state != State::Coming {
        return None;
    }
    let shared = SHARED.with_borrow(Arc::clone);
    if which == FIRST {
        let reference = module.try_get().expect("it is coming");
        // SAFETY: that is what every plugin exports.
        unsafe { **reference.symbol::<*mut Note>("note").unwrap() = note };
        if shared.keep.load(SeqCst) {
            shared.kept.lock().unwrap().push(reference);
        }
    }
    let vetoes = shared.vetoes.lock().unwrap();
    vetoes[which]
}

fn outcome(outcome: &Unloaded) -> Outcome {
    match outcome {
        Unloaded::Unmapped => Outcome::Unmapped,
        Unloaded::Resident(Residency::Held { references }) => Outcome::Held(*references),
        Unloaded::Resident(Residency::Overwritten) => Outcome::Overwritten,
        Unloaded::Resident(why) => panic!("resident: {why}"),
    }
}

/// On a busy machine the look may have nothing but a thread's stale words to go by. Whoever it takes for
/// being there keeps the object until a later look.
fn settled(host: &Host, there: Unloaded) -> Outcome {
    match there {
        Unloaded::Resident(Residency::Present { .. }) => {
            for _ in 0..10_000 {
                if host.reap() > 0 {
                    return Outcome::Unmapped;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            panic!("it is kept although nobody is in it: {:?}", host.infos());
        }
        there => outcome(&there),
    }
}

fn unloaded(host: &Host, result: Result<Unloaded, Error>) -> Result<Outcome, i32> {
    result.map(|there| settled(host, there)).map_err(|error| error.errno())
}

/// What a plugin's function answers.
fn answer(function: *mut c_void) -> usize {
    // SAFETY: that is what every plugin exports as its answer.
    let function: extern "C" fn() -> i64 = unsafe { std::mem::transmute(function) };
    function() as usize
}

/// A folder of the case's own; that of one that fails stays.
fn new_folder() -> PathBuf {
    static CASES: AtomicUsize = AtomicUsize::new(0);
    loop {
        let name = format!("case-{:08}", CASES.fetch_add(1, SeqCst));
        let folder = Path::new(BUILT).join(name);
        match fs::create_dir(&folder) {
            Ok(()) => return folder,
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists, "{error}"),
        }
    }
}

type Job = Box<dyn FnOnce() -> Answer + Send>;

/// The answer of the model, and what it is for the host.
type Step = (Option<Answer>, Job);

fn job(job: impl FnOnce() -> Answer + Send + 'static) -> Job {
    Box::new(job)
}

/// A step that answers whether it was done, with what the model answers.
fn done<S>(expected: Result<(), i32>, step: S) -> Step
where
    S: FnOnce() -> Result<(), i32> + Send + 'static,
{
    (Some(Answer::Done(expected)), job(move || Answer::Done(step())))
}

/// A step that answers nothing.
fn quiet(step: impl FnOnce() + Send + 'static) -> Step {
    (Some(Answer::Nothing), job(move || (step(), Answer::Nothing).1))
}

struct Case<F: Face> {
    model: Model,
    host: Arc<Host>,
    crew: Crew<Answer>,
    shared: Arc<Shared>,
    folder: PathBuf,
    /// In the order of the model's.
    held: Vec<Reference>,
    handles: HashMap<usize, Module>,
    /// To the blocked init functions of threads.
    orders: HashMap<usize, Sender<i32>>,
    face: std::marker::PhantomData<F>,
}

/// A host with its first notifier.
fn new_host() -> Arc<Host> {
    let host = Host::new();
    host.on_event(i32::MAX, |module, state| {
        told(FIRST, module, state);
        Ok(())
    });
    Arc::new(host)
}

impl<F: Face> Case<F> {
    fn new() -> Self {
        let shared = Arc::<Shared>::default();
        SHARED.set(shared.clone());
        let of_threads = shared.clone();
        let this = Self {
            model: Model {
                files: [(Kind::Hooks, 0), (Kind::Provider, 1), (Kind::User, 2)],
                written: SLOTS,
                notifiers: vec![(i32::MAX, FIRST)],
                ..Model::default()
            },
            host: new_host(),
            crew: Crew::new(move || SHARED.set(of_threads.clone())),
            shared,
            folder: new_folder(),
            held: vec![],
            handles: HashMap::new(),
            orders: HashMap::new(),
            face: std::marker::PhantomData,
        };
        for slot in 0..SLOTS {
            this.write(slot);
        }
        this
    }

    /// A name that is this case's alone.
    fn case(&self) -> &str {
        self.folder.file_name().unwrap().to_str().unwrap()
    }

    /// The copies of the file in memory have its name, too.
    fn path(&self, slot: usize) -> PathBuf {
        self.folder.join(format!("{}-{slot}.so", self.case()))
    }

    fn write(&self, slot: usize) {
        let (kind, file) = self.model.files[slot];
        if kind == Kind::Gone {
            let _ = fs::remove_file(self.path(slot));
            return;
        }
        let new = self.folder.join("new");
        fs::write(&new, content(kind, file % 2, self.case())).unwrap();
        fs::rename(new, self.path(slot)).unwrap();
    }

    /// What the init function does that `thread` is about to call.
    fn init(&mut self, thread: usize, plan: Plan) -> Option<Receiver<i32>> {
        let (order, orders) = channel();
        match plan {
            Some(result) => order.send(result).expect("the other end is here"),
            None => drop(self.orders.insert(thread, order)),
        }
        Some(orders)
    }

    /// What a word has the model answer, and what it is for the host. What makes no sense in
    /// this state is left out, and so is what would have the first thread wait.
    fn read(&mut self, letter: u8, thread: usize, word: &mut Word<'_>) -> Option<Step> {
        let per_cpu = if *PER_CPU { Mode::PerCpu } else { Mode::Atomic };
        let mode = |n| if n % 3 == 0 { Mode::Atomic } else { per_cpu };
        let waits = [Wait::Short, Wait::Forever, Wait::No, Wait::No, Wait::Short, Wait::Forever];
        let result = |n| [0, 0, 0, 0, -libc::EIO, 0, 0, 0, 0, 0, -libc::EIO, 3][n % 12];
        let plan = |n, m| (n % 6 != 5).then(|| result(m));
        let first = word.digit();
        let mut digit = || word.digit();
        let host = self.host.clone();
        let (name, which, slot) = (first % NAMES.len(), first % NOTIFIERS, first % SLOTS);
        let model = &mut self.model;
        let seen: Vec<_> = (0..model.loads.len()).filter(|&load| model.loads[load].seen).collect();
        let one_of = |all: &[usize], n: usize| all.get(n % all.len().max(1)).copied();
        let held = (!model.held.is_empty()).then(|| first % model.held.len());
        let may_wait = thread > 0;
        Some(match letter {
            // Puts another file in the place of one, by renaming, or takes it away.
            b'w' => {
                model.write(slot, KINDS[digit()]);
                self.write(slot);
                quiet(|| ())
            }
            b'l' => {
                let (slot, how, plan) = (digit() % SLOTS, digit(), plan(digit(), digit()));
                let (mode, copied) = (mode(how), how > 12);
                let coming =
                    model.is_coming(model.find(name)) || model.cannot_foresee(thread, slot, &[]);
                if coming || plan.is_none() && !may_wait {
                    return None;
                }
                let expected = model.load(thread, (name, slot, mode, copied), plan);
                let (path, init) = (self.path(slot), self.init(thread, plan));
                let load = move || {
                    PLAN.set(init);
                    let module = F::load(&host, &path, NAMES[name], mode, copied);
                    if let Ok(module) = &module {
                        assert_eq!((module.path(), module.mode()), (&*path, mode));
                    }
                    Answer::Done(module.map(drop))
                };
                (expected, job(load))
            }
            // With all per-CPU slots taken.
            b'k' => {
                let slot = digit() % SLOTS;
                if !*PER_CPU || !is_refused(thread) || model.is_coming(model.find(name)) {
                    return None;
                }
                let refused = model.check_load(thread, name, slot).and(Err(libc::ENOMEM));
                let path = self.path(slot);
                let load = move || {
                    // What it would give back.
                    host.reap();
                    let _all = take_all_slots();
                    Answer::Done(F::load(&host, &path, NAMES[name], Mode::PerCpu, false).map(drop))
                };
                (Some(Answer::Done(refused)), job(load))
            }
            b'u' => {
                let (force, wait) = (digit() % 3 == 1, waits[digit() % 6]);
                if wait == Wait::Forever && !may_wait {
                    return None;
                }
                let expected = model.unload(thread, name, force, wait).transpose();
                let unload = move || Answer::Unloaded(F::unload(&host, NAMES[name], force, wait));
                (expected.map(Answer::Unloaded), job(unload))
            }
            b'r' => {
                let (slot, wait) = (digit() % SLOTS, waits[digit() % 2]);
                let plan = plan(digit(), digit());
                let waits = wait == Wait::Forever || plan.is_none();
                if waits && !may_wait || model.cannot_foresee(thread, slot, &[]) {
                    return None;
                }
                let expected = model.replace(thread, [name, slot], wait, plan);
                let (path, init) = (self.path(slot), self.init(thread, plan));
                let replace = move || {
                    PLAN.set(init);
                    Answer::Unloaded(F::replace(&host, NAMES[name], &path, wait))
                };
                (expected, job(replace))
            }
            // Replaces one or two in one step, perhaps stopped first.
            b'e' => {
                let (other, slots) = (digit() % NAMES.len(), [digit() % SLOTS, digit() % SLOTS]);
                let how = digit();
                let stop_first = how % 2 == 0;
                let set = &[(name, slots[0]), (other, slots[1])][..1 + usize::from(how % 8 > 1)];
                let said = [0; 4].map(|_| result(digit()));
                let olds: Vec<_> = set.iter().filter_map(|&(name, _)| model.find(name)).collect();
                let hidden = if set.len() > 1 { &*olds } else { &[] };
                let cannot = |&slot: &usize| model.cannot_foresee(thread, slot, hidden);
                if model.keep || is_refused(thread) || slots.iter().any(cannot) {
                    return None;
                }
                let expected = model.replace_set(thread, set, stop_first, &mut said.into_iter());
                let set: Vec<_> =
                    set.iter().map(|&(name, slot)| (NAMES[name], self.path(slot))).collect();
                let (order, orders) = channel();
                said.iter().for_each(|result| order.send(*result).expect("the other end is here"));
                let replace = move || {
                    PLAN.set(Some(orders));
                    Answer::Replaced(F::replace_set(&host, &set, stop_first))
                };
                (Some(Answer::Replaced(expected)), job(replace))
            }
            // Cuts the file of a module short that nobody holds, in place, and unloads it.
            b's' => {
                if !model.can_be_spoilt(thread, name) {
                    return None;
                }
                let slot = model.spoil(thread, name);
                let path = self.path(slot);
                // The inode must not be another file's, which would not be opened itself.
                let buried = format!("{}-{}", std::process::id(), self.model.written);
                let buried = self.folder.with_extension(buried);
                let spoil = move || {
                    host.reap();
                    fs::hard_link(&path, buried).unwrap();
                    fs::File::options().write(true).open(path).unwrap().set_len(100).unwrap();
                    Answer::Unloaded(F::unload(&host, NAMES[name], true, Wait::No))
                };
                (Some(Answer::Unloaded(Ok(Outcome::Overwritten))), job(spoil))
            }
            // Has a blocked init function return.
            b'i' => {
                let blocked = model.waiting.iter().filter(|(_, why)| why.is_init());
                let of = one_of(&blocked.map(|(thread, _)| *thread).collect::<Vec<_>>(), first)?;
                let result = result(digit());
                model.end_init(of, result);
                self.orders[&of].send(result).expect("an init function that waits");
                quiet(|| ())
            }
            b'g' => {
                let live = model.find(name).filter(|&load| model.loads[load].state == State::Live);
                let expected = model.get(live);
                (Some(expected), self.keep(move || F::find_get(&host, NAMES[name])))
            }
            // By a handle to whatever was loaded.
            b't' => {
                let load = one_of(&seen, first)?;
                let (expected, handle) = (model.get(Some(load)), self.handles[&load].clone());
                (Some(expected), self.keep(move || F::try_get(&handle)))
            }
            b'c' => {
                model.held.push(model.held[held?]);
                self.held.push(F::get(&self.held[held?]));
                quiet(|| ())
            }
            b'p' => {
                let load = model.held.swap_remove(held?);
                let reference = self.held.swap_remove(held?);
                let function = F::symbol(&reference, c"answer").expect("every plugin has it");
                assert_eq!(answer(function), model.loads[load].answer, "what it answers");
                assert_eq!(F::symbol(&reference, c"no such symbol"), None);
                quiet(move || F::put(reference))
            }
            // Gives a handle back.
            b'h' => {
                let load = one_of(&seen, first)?;
                if !matches!(model.loads[load].at, At::Zombie | At::Gone) {
                    return None;
                }
                model.loads[load].seen = false;
                self.handles.remove(&load);
                quiet(|| ())
            }
            b'd' => {
                let (user, provider) = (one_of(&seen, first)?, one_of(&seen, digit())?);
                let handles = [user, provider].map(|load| self.handles[&load].clone());
                done(model.depend(user, provider), move || F::depend(&handles[0], &handles[1]))
            }
            b'n' => {
                let priority = digit() as i32 - 8;
                done(model.register(which, priority), move || F::register(&host, which, priority))
            }
            b'q' => done(model.unregister(which), move || F::unregister(&host, which)),
            // Has a notifier refuse what is coming, by an error or a panic, or not.
            b'v' => {
                let errno = [None, None, Some(libc::EPERM), Some(libc::ECANCELED)][digit() % 4];
                model.vetoes[which] = errno;
                self.shared.vetoes.lock().unwrap()[which] = errno;
                quiet(|| ())
            }
            // Has the first one keep a reference on what is coming, or not.
            b'x' => {
                model.keep = first % 3 == 1;
                self.shared.keep.store(model.keep, SeqCst);
                quiet(|| ())
            }
            b'y' => {
                let get = move || Answer::Symbol(F::symbol_get(&host, c"answer").map(answer));
                (Some(model.symbol_get()), job(get))
            }
            b'z' => done(model.symbol_put(), move || F::symbol_put(&host, c"answer")),
            b'a' => {
                let expected = Answer::Reaped(model.reap(thread));
                (Some(expected), job(move || Answer::Reaped(F::reap(&host))))
            }
            // Ends the host, and begins with a new one.
            b'f' => {
                if !model.waiting.is_empty() {
                    return None;
                }
                let expected = model.close(thread);
                drop(host);
                let old = Arc::into_inner(std::mem::replace(&mut self.host, new_host()));
                let old = old.expect("no thread is in it");
                let closed = self.crew.run(&"the end of a host", thread, || F::close(old));
                let closed = closed.map_err(|(old, errno)| {
                    self.host = Arc::new(old);
                    errno
                });
                done(expected, move || closed)
            }
            b'm' => quiet(move || run_on(first)),
            _ => return None,
        })
    }

    /// A step that gets a reference, which goes to the others.
    fn keep(&self, get: impl FnOnce() -> Option<Reference> + Send + 'static) -> Job {
        let shared = self.shared.clone();
        job(move || {
            let found = get();
            let got = Answer::Got(found.is_some());
            shared.kept.lock().unwrap().extend(found);
            got
        })
    }

    fn step(&mut self, word: &Word<'_>) {
        let mut rest = word.clone();
        let letter = rest.letter();
        let thread = self.crew.free(rest.digit() % F::THREADS, F::THREADS);
        self.shared.calls.lock().unwrap().clear();
        self.model.calls.clear();
        (self.model.ended, self.model.kept) = (None, None);
        let Some((expected, job)) = self.read(letter, thread, &mut rest) else { return };
        self.model.settle();
        let told = |answer| match answer {
            Answer::Unloaded(outcome) => Answer::Unloaded(outcome.map(F::told)),
            Answer::Replaced(outcomes) => Answer::Replaced(outcomes.map(F::told_of_set)),
            other => other,
        };
        let last = self.model.waiting.last();
        let (shared, handles) = (&self.shared, &self.handles);
        // Whether the last thread that waits is where the model has it waiting.
        let waits = || match last.expect("somebody waits").1 {
            Waiting::Init(..) => shared.calls.lock().unwrap().contains(&Call::Init),
            Waiting::Left(load) => handles[&load].try_get().is_none(),
        };
        self.crew.expect(word, thread, job, expected.map(told), waits);
        match self.model.ended.take() {
            Some((thread, answer)) => self.crew.ended(word, thread, told(answer)),
            // Its thread waits for what is replaced.
            None if letter == b'i' => self.crew.await_that(word, last.expect("it").0, waits),
            None => {}
        }
        self.look_around(word);
        self.check(word);
    }

    /// Takes what is there to be taken after a step.
    fn look_around(&mut self, word: &Word<'_>) {
        self.held.append(&mut self.shared.kept.lock().unwrap());
        assert_eq!(self.held.len(), self.model.held.len(), "what is kept: {word:?}");
        if let Some(load) = self.model.kept {
            self.handles.insert(load, self.held.last().expect("what was kept").module());
        }
        for (number, loaded) in self.model.loads.iter().enumerate() {
            if loaded.at == At::Table && !self.handles.contains_key(&number) {
                let mut modules = self.host.modules().into_iter();
                let handle = modules.find(|module| module.name() == NAMES[loaded.name]);
                let handle = handle.expect("it is there");
                self.handles.insert(number, handle);
            }
        }
        assert_eq!(*self.shared.calls.lock().unwrap(), self.model.calls, "{word:?}");
    }

    fn check(&self, word: &Word<'_>) {
        let model = &self.model;
        let mut table: Vec<_> =
            (0..model.loads.len()).filter(|&load| model.loads[load].at == At::Table).collect();
        table.sort_by_key(|&load| std::cmp::Reverse(model.loads[load].rank));
        let users = |load| model.users(load).rev().map(|user| NAMES[model.loads[user].name]);
        let expected: Vec<_> = table
            .iter()
            .map(|&load| {
                let Loaded { name, kind, state, .. } = model.loads[load];
                let mut deps: String = users(load).map(|user| format!("{user},")).collect();
                if kind == Kind::Permanent {
                    deps.push_str("[permanent],");
                }
                let deps = if deps.is_empty() { "-".into() } else { deps };
                let state = match state {
                    State::Live => "Live",
                    State::Going => "Unloading",
                    _ => "Loading",
                };
                format!("{} {} {deps} {state}", NAMES[name], model.references(load))
            })
            .collect();
        let (list, said, tainted) = F::report(&self.host);
        let found: Vec<_> = list
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .map(|line| format!("{} {} {} {}", line[0], line[2], line[3], line[4]))
            .collect();
        assert_eq!(found, expected, "the list");
        let handles: Vec<_> = table.iter().map(|load| self.handles[load].clone()).collect();
        assert_eq!(self.host.modules(), handles, "the modules");

        for (&load, handle) in &self.handles {
            let loaded = &model.loads[load];
            let references = (loaded.at != At::Gone).then(|| model.references(load));
            let expected = (NAMES[loaded.name].to_owned(), loaded.state, references);
            assert_eq!(F::state(handle), expected, "the state and references of load {load}");
            let names: Vec<_> =
                self.host.users(handle).iter().map(|user| user.name().to_owned()).collect();
            assert_eq!(names, users(load).collect::<Vec<_>>(), "the users of load {load}");
        }
        assert_eq!(tainted, model.tainted, "tainted");
        let last = self.host.last_unloaded();
        let last = last.as_ref().map(|last| (&*last.name, outcome(&last.outcome)));
        assert_eq!(last, model.last.map(|(name, how)| (NAMES[name], how)), "last unloaded");
        let begins = model.last.map_or(String::new(), |(name, how)| match how {
            Outcome::Unmapped => format!("{} unmapped", NAMES[name]),
            _ => format!("{} resident: ", NAMES[name]),
        });
        assert!(said.starts_with(&begins) && said.is_empty() == begins.is_empty(), "last: {said}");
        self.crew.check_that_all_wait(word);
    }

    /// Lets everything go, and sees that nothing is left.
    fn end(mut self) {
        while self.model.waiting.iter().any(|(_, why)| why.is_init()) {
            self.step(&Word(b"i000"));
        }
        let (held, given) = (self.held.len(), self.model.given.len());
        let force = "u0012 u0112 u0212 ".repeat(NAMES.len());
        let all = "p00 ".repeat(held) + &"z0 ".repeat(given) + &force + "f0";
        words(all.as_bytes()).for_each(|word| self.step(&word));
        assert!(self.model.loads.iter().all(|l| l.at == At::Gone), "what is left");
        for handle in self.handles.values() {
            let (_, state, references) = F::state(handle);
            assert_eq!((state, references), (State::Going, None));
            assert!(F::try_get(handle).is_none());
        }
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let left: Vec<_> = maps.lines().filter(|map| map.contains(self.case())).collect();
        assert!(left.is_empty(), "what is left in memory: {left:#?}");
        fs::remove_dir_all(&self.folder).unwrap();
    }
}

/// Tries what the words say; see `read`.
pub fn run<F: Face>(text: &[u8]) {
    let mut case = Case::<F>::new();
    words(text).for_each(|word| case.step(&word));
    case.end();
}
