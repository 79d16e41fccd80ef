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
    Error, Host, Load, Module, NotifierId, Reference, Residency, State, Unload, Unloaded,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    Gone,
}

impl Kind {
    fn has_init(self) -> bool {
        self != Self::Plain
    }

    fn has_exit(self) -> bool {
        self.has_init() && self != Self::Permanent
    }

    /// Whether it tells of its end: not what is cut short while it is in memory, whose destructors
    /// are no code any more when the program ends.
    fn has_destructor(self) -> bool {
        self != Self::Hooks
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
const EXIT: i32 = 2;

/// An object of that kind whose `answer()` is that number.
fn template(kind: Kind, answer: usize) -> PathBuf {
    let (mut flags, mut link) = (vec![format!("-DANSWER={answer}")], vec![]);
    if kind.has_init() {
        flags.push("-DINIT".into());
    }
    if kind.has_exit() {
        flags.push("-DEXIT".into());
    }
    if kind.has_destructor() {
        flags.push("-DDESTRUCTOR".into());
    }
    match kind {
        Kind::User => {
            flags.push("-DUSER".into());
            link.push("-Wl,--no-as-needed".to_owned());
            link.push(template(Kind::Provider, 0).to_str().unwrap().to_owned());
        }
        Kind::Provider => link.push(format!("-Wl,-soname,lib{ANY_CASE}.so")),
        Kind::Unresolved => flags.push("-DUNRESOLVED".into()),
        _ => {}
    }
    let mut hasher = DefaultHasher::new();
    (SOURCE, &flags, &link).hash(&mut hasher);
    let folder = Path::new(BUILT);
    let path = folder.join(format!("machine-{kind:?}-{answer}-{:016x}.so", hasher.finish()));
    if !path.exists() {
        let (source, built) = (path.with_extension("c"), path.with_extension("new"));
        fs::write(&source, SOURCE).unwrap();
        let status = compiler::shared()
            .args(&flags)
            .arg("-o")
            .args([&built, &source])
            .args(&link)
            .status()
            .expect("a C compiler: apt-get install gcc");
        assert!(status.success());
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
        Kind::Cut => {
            let whole = fs::read(template(Kind::Hooks, answer)).unwrap();
            whole[..whole.len() / 2].to_vec()
        }
        _ => fs::read(template(kind, answer)).unwrap(),
    };
    let mut content = known.entry((kind, answer)).or_insert_with(new).clone();
    let places: Vec<_> = content
        .windows(case.len())
        .enumerate()
        .filter(|(_, there)| *there == ANY_CASE.as_bytes())
        .map(|(at, _)| at)
        .collect();
    for at in places {
        content[at..at + case.len()].copy_from_slice(case.as_bytes());
    }
    content
}

// ---- operations -----------------------------------------------------------------------------

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

/// What an init function does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Plan {
    Return(i32),
    /// Waits for another step, which says what it returns.
    Block,
}

/// Loads are numbered, names and files have their place, and references theirs among all.
#[derive(Clone, Copy, Debug)]
enum What {
    /// Puts another file in the place of one, by renaming, or takes it away.
    Write {
        slot: usize,
        kind: Kind,
    },
    Load {
        name: usize,
        slot: usize,
        mode: Mode,
        copied: bool,
        plan: Plan,
    },
    /// As before, with all per-CPU slots taken.
    LoadWithoutRoom {
        name: usize,
        slot: usize,
    },
    Unload {
        name: usize,
        force: bool,
        wait: Wait,
    },
    Replace {
        name: usize,
        slot: usize,
        wait: Wait,
        plan: Plan,
    },
    /// Cuts the file of a module short that nobody holds, in place, and unloads it.
    Spoil {
        name: usize,
    },
    /// Has a thread's blocked init function return.
    EndInit {
        thread: usize,
        result: i32,
    },
    Get {
        name: usize,
    },
    /// By a handle to whatever was loaded.
    TryGet {
        load: usize,
    },
    Clone(usize),
    Put(usize),
    /// Gives a handle back.
    Forget {
        load: usize,
    },
    Depend {
        user: usize,
        provider: usize,
    },
    Register {
        which: usize,
        priority: i32,
    },
    Unregister {
        which: usize,
    },
    Veto {
        which: usize,
        errno: Option<i32>,
    },
    /// Whether the first notifier keeps a reference on what is coming.
    Keep(bool),
    SymbolGet,
    SymbolPut,
    Reap,
    /// Ends the host, and begins with a new one.
    Close,
    RunOn(usize),
}

#[derive(Clone, Copy, Debug)]
struct Step {
    thread: usize,
    what: What,
}

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

// ---- the model ------------------------------------------------------------------------------

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
    shut: bool,
    /// Whether it was seen, so that there is a handle.
    seen: bool,
    /// Whether it can tell what happens to it.
    noted: bool,
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
    /// For its init function.
    Init {
        load: usize,
        old: Old,
    },
    /// For the last reference.
    Unload(usize),
    Replaced(usize),
}

#[derive(Clone, Debug)]
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
        if self.loads[load].kind.has_exit() {
            self.calls.push(Call::Exit);
        }
        self.tell(load, State::Going);
    }

    fn end(&mut self, load: usize, record: bool) -> Outcome {
        self.links.retain(|link| link.0 != load);
        if self.loads[load].kind.has_destructor() && self.loads[load].noted {
            self.calls.push(Call::Unmapped);
        }
        self.loads[load].at = At::Gone;
        if record {
            self.last = Some((self.loads[load].name, Outcome::Unmapped));
        }
        Outcome::Unmapped
    }

    /// Shuts it, if this thread can.
    fn shut(&mut self, thread: usize, load: usize) -> bool {
        self.loads[load].shut |= !self.is_refused(thread, load);
        self.loads[load].shut
    }

    fn reap(&mut self, thread: usize) -> usize {
        let mut unmapped = 0;
        let is_left = |model: &mut Self, at: &usize| {
            let load = model.zombies[*at].load;
            model.shut(thread, load) && model.references(load) == 0
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
        let held = Outcome::Held(self.references(load));
        self.loads[load].at = At::Zombie;
        self.zombies.push(Zombie { load, exit, record: true });
        self.last = Some((self.loads[load].name, held));
        self.reap(thread);
        held
    }

    /// The end of a load that has failed.
    fn clear_away(&mut self, thread: usize, load: usize, errno: i32) -> i32 {
        self.loads[load].state = State::Going;
        if self.shut(thread, load) && self.references(load) == 0 {
            self.end(load, false);
        } else {
            self.loads[load].at = At::Zombie;
            self.zombies.push(Zombie { load, exit: false, record: false });
        }
        errno
    }

    /// From a file that can be read to the end of its init function.
    fn bring_up(
        &mut self,
        thread: usize,
        (name, slot, mode, copied): (usize, usize, Mode, bool),
        old: Old,
        plan: Plan,
    ) -> Option<Answer> {
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
            at: if old.is_some() { At::New } else { At::Table },
            shut: false,
            seen: false,
            noted: false,
        });
        let failed = |model: &mut Self, errno| Some(model.failed(thread, load, old, errno));
        if kind == Kind::Unresolved {
            return failed(self, libc::ENOENT);
        }
        if kind == Kind::User {
            match self.provider() {
                // It is there to be bound to, and must not be going.
                Some(provider) if self.loads[provider].state == State::Live => {
                    self.links.push((load, provider));
                }
                _ => return failed(self, libc::ENOENT),
            }
        }
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
            return failed(self, self.vetoes[self.notifiers[at].1].expect("a veto"));
        }
        if kind.has_init() {
            self.calls.push(Call::Init);
        }
        match plan {
            Plan::Return(result) => self.after_init(thread, load, old, result),
            Plan::Block if kind.has_init() => {
                self.waiting.push((thread, Waiting::Init { load, old }));
                None
            }
            Plan::Block => self.after_init(thread, load, old, 0),
        }
    }

    fn failed(&mut self, thread: usize, load: usize, old: Old, errno: i32) -> Answer {
        let errno = self.clear_away(thread, load, errno);
        if old.is_some() { Answer::Unloaded(Err(errno)) } else { Answer::Done(Err(errno)) }
    }

    /// The object that the linker would bind a user to.
    fn provider(&self) -> Option<usize> {
        self.loads.iter().position(|l| l.kind == Kind::Provider && l.at != At::Gone)
    }

    fn after_init(&mut self, thread: usize, load: usize, old: Old, result: i32) -> Option<Answer> {
        if self.loads[load].kind.has_init() && result < 0 {
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
        Some(Answer::Unloaded(Ok(if !self.shut(thread, old) {
            self.leave_to_holders(thread, old, true)
        } else if self.references(old) == 0 {
            self.farewell(old);
            self.end(old, true)
        } else if wait == Wait::Forever {
            self.waiting.push((thread, Waiting::Replaced(old)));
            return None;
        } else {
            self.leave_to_holders(thread, old, true)
        })))
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

    /// Why it cannot be taken out of service, apart from references.
    fn check_free(&self, name: usize, force: bool) -> Result<usize, i32> {
        let load = self.find(name).ok_or(libc::ENOENT)?;
        if self.users(load).next().is_some() {
            return Err(libc::EWOULDBLOCK);
        }
        let replaced = self.loads.iter().any(|l| l.name == name && l.at == At::New);
        let permanent = self.loads[load].kind == Kind::Permanent && !force;
        if self.loads[load].state != State::Live || permanent || replaced {
            return Err(libc::EBUSY);
        }
        Ok(load)
    }

    fn unload(
        &mut self,
        thread: usize,
        name: usize,
        force: bool,
        wait: Wait,
    ) -> Result<Option<Outcome>, i32> {
        self.reap(thread);
        let load = self.check_free(name, force)?;
        let (held, refused) = (self.references(load), self.is_refused(thread, load));
        // A look at a counter that is held needs no barrier, but a door that is shut does.
        if refused && (wait != Wait::No || held == 0 || force) {
            return Err(REFUSAL);
        }
        let permanent = self.loads[load].kind == Kind::Permanent;
        let by_force = permanent || held > 0 && wait != Wait::Forever;
        if held > 0 && wait == Wait::Forever {
            self.loads[load].state = State::Going;
            self.loads[load].shut = true;
            self.waiting.push((thread, Waiting::Unload(load)));
            return Ok(None);
        }
        if held > 0 && !force {
            return Err(if wait == Wait::No { libc::EWOULDBLOCK } else { libc::ETIMEDOUT });
        }
        self.loads[load].state = State::Going;
        self.loads[load].shut = true;
        self.tainted |= by_force;
        self.farewell(load);
        Ok(Some(match held {
            0 => self.end(load, true),
            _ => self.leave_to_holders(thread, load, false),
        }))
    }

    fn depend(&mut self, user: usize, provider: usize) -> Result<(), i32> {
        if self.loads[user].state == State::Going {
            return Err(libc::ENOENT);
        }
        if self.links.contains(&(user, provider)) {
            return Ok(());
        }
        if self.reaches(provider, user) {
            return Err(libc::EDEADLK);
        }
        if self.loads[provider].state == State::Going {
            return Err(libc::ENOENT);
        }
        self.links.push((user, provider));
        Ok(())
    }

    /// What no waiting thread waits for any more.
    fn settle(&mut self) {
        let is_free = |(_, waiting): &(usize, Waiting)| match *waiting {
            Waiting::Init { .. } => false,
            Waiting::Unload(load) | Waiting::Replaced(load) => self.references(load) == 0,
        };
        let Some(at) = self.waiting.iter().position(is_free) else { return };
        let (thread, waiting) = self.waiting.remove(at);
        let (Waiting::Unload(load) | Waiting::Replaced(load)) = waiting else { unreachable!() };
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

    /// What makes sense as a step.
    fn is_possible(&self, Step { thread, what }: Step) -> bool {
        // Another load of what is still coming, or bound to that, would wait for an end that no
        // other step could tell from what comes before and after it.
        // One that fails because it is bound to what is going, and can itself not be shut in the
        // sandbox, keeps the other mapped, which is then reported as resident, by a hair.
        let binds = |slot: usize| {
            if self.files[slot].0 != Kind::User {
                return false;
            }
            let mut model = self.clone();
            model.reap(thread);
            let provider = model.provider();
            let is_going = |p: usize| model.loads[p].state == State::Going && !model.loads[p].shut;
            model.is_coming(provider) || is_refused(thread) && provider.is_some_and(is_going)
        };
        // The first thread never waits.
        let waits = |wait, plan| thread == 0 && (wait == Wait::Forever || plan == Plan::Block);
        match what {
            What::Load { name, slot, plan, .. } => {
                !self.is_coming(self.find(name)) && !binds(slot) && !waits(Wait::No, plan)
            }
            What::LoadWithoutRoom { name, .. } => {
                *PER_CPU && is_refused(thread) && !self.is_coming(self.find(name))
            }
            What::Unload { wait, .. } => !waits(wait, Plan::Return(0)),
            What::Replace { slot, wait, plan, .. } => !binds(slot) && !waits(wait, plan),
            What::Spoil { name } => self.can_be_spoilt(thread, name),
            What::Forget { load } => matches!(self.loads[load].at, At::Zombie | At::Gone),
            What::Close => self.waiting.is_empty(),
            _ => true,
        }
    }

    /// What is answered; `None`: the thread waits.
    fn apply(&mut self, Step { thread, what }: Step) -> Option<Answer> {
        self.calls.clear();
        (self.ended, self.kept) = (None, None);
        let answer = self.answer(thread, what);
        self.settle();
        for loaded in self.loads.iter_mut().filter(|l| l.at == At::Table) {
            loaded.seen = true;
        }
        answer
    }

    fn answer(&mut self, thread: usize, what: What) -> Option<Answer> {
        Some(match what {
            What::Write { slot, kind } => {
                self.files[slot] = (kind, self.written);
                self.written += 1;
                Answer::Nothing
            }
            What::Load { name, slot, mode, copied, plan } => {
                match self.check_load(thread, name, slot) {
                    Ok(()) => return self.bring_up(thread, (name, slot, mode, copied), None, plan),
                    Err(errno) => Answer::Done(Err(errno)),
                }
            }
            What::LoadWithoutRoom { name, slot } => {
                Answer::Done(self.check_load(thread, name, slot).and(Err(libc::ENOMEM)))
            }
            What::Unload { name, force, wait } => {
                Answer::Unloaded(self.unload(thread, name, force, wait).transpose()?)
            }
            What::Replace { name, slot, wait, plan } => {
                self.reap(thread);
                let old = self.check_free(name, false);
                match old.and_then(|old| self.files[slot].0.refusal().map(|()| old)) {
                    Err(errno) => Answer::Unloaded(Err(errno)),
                    Ok(old) => {
                        let Loaded { mode, copied, .. } = self.loads[old];
                        let what = (name, slot, mode, copied);
                        return self.bring_up(thread, what, Some((old, wait)), plan);
                    }
                }
            }
            What::Spoil { name } => {
                self.reap(thread);
                let load = self.find(name).expect("a precondition");
                let slot = self.files.iter().position(|f| f.1 == self.loads[load].file);
                self.files[slot.expect("a precondition")] = (Kind::Cut, self.written);
                self.written += 1;
                (self.loads[load].state, self.loads[load].shut) = (State::Going, true);
                // Its exit function is no code any more.
                self.tell(load, State::Going);
                self.end(load, false);
                self.last = Some((name, Outcome::Overwritten));
                Answer::Unloaded(Ok(Outcome::Overwritten))
            }
            What::EndInit { thread, result } => {
                let at = self.waiting.iter().position(|(there, _)| *there == thread);
                let (_, Waiting::Init { load, old }) = self.waiting.remove(at.expect("it waits"))
                else {
                    unreachable!()
                };
                self.ended = self.after_init(thread, load, old, result).map(|end| (thread, end));
                Answer::Nothing
            }
            What::Get { name } => {
                let found = self.find(name).filter(|&load| !self.loads[load].shut);
                self.held.extend(found);
                Answer::Got(found.is_some())
            }
            What::TryGet { load } => {
                let got = !self.loads[load].shut;
                self.held.extend(got.then_some(load));
                Answer::Got(got)
            }
            What::Clone(which) => {
                self.held.push(self.held[which]);
                Answer::Nothing
            }
            What::Put(which) => {
                self.held.swap_remove(which);
                Answer::Nothing
            }
            What::Forget { load } => {
                self.loads[load].seen = false;
                Answer::Nothing
            }
            What::Depend { user, provider } => Answer::Done(self.depend(user, provider)),
            What::Register { which, priority } => {
                if self.notifiers.iter().any(|&(_, there)| there == which) {
                    return Some(Answer::Done(Err(libc::EEXIST)));
                }
                let at = self.notifiers.partition_point(|&(there, _)| there >= priority);
                self.notifiers.insert(at, (priority, which));
                Answer::Done(Ok(()))
            }
            What::Unregister { which } => {
                let at = self.notifiers.iter().position(|&(_, there)| there == which);
                Answer::Done(at.map(|at| _ = self.notifiers.remove(at)).ok_or(libc::ENOENT))
            }
            What::Veto { which, errno } => {
                self.vetoes[which] = errno;
                Answer::Nothing
            }
            What::Keep(keep) => {
                self.keep = keep;
                Answer::Nothing
            }
            What::SymbolGet => {
                // The oldest that is live, since all have it.
                let of = |l: &Loaded| l.at == At::Table && l.state == State::Live;
                let found = self.loads.iter().position(of);
                self.given.extend(found);
                Answer::Symbol(found.map(|load| self.loads[load].answer))
            }
            What::SymbolPut if self.given.is_empty() => Answer::Done(Err(libc::EINVAL)),
            What::SymbolPut => {
                self.given.remove(0);
                Answer::Done(Ok(()))
            }
            What::Reap => Answer::Reaped(self.reap(thread)),
            What::Close => {
                self.reap(thread);
                if self.loads.iter().any(|l| l.at != At::Gone) {
                    return Some(Answer::Done(Err(libc::EBUSY)));
                }
                self.notifiers.retain(|&(_, which)| which == FIRST);
                (self.tainted, self.last) = (false, None);
                Answer::Done(Ok(()))
            }
            What::RunOn(_) => Answer::Nothing,
        })
    }
}

/// A step from a word: a letter, the thread, and what else there is to say.
fn decode(word: &mut Word, model: &Model, threads: usize) -> Option<Step> {
    const KINDS: [Kind; 16] = {
        use Kind::*;
        [
            Hooks, Plain, Permanent, Provider, User, Unresolved, Cut, Text, Gone, Hooks, Provider,
            User, Provider, User, Hooks, Plain,
        ]
    };
    let (letter, thread) = (word.letter(), word.digit() % threads);
    let result = |n| [-libc::EIO, 3, -libc::EIO].get(15 - n).map_or(0, |&result| result);
    let one_of = |all: &[usize], n: usize| all.get(n % all.len().max(1)).copied();
    let seen: Vec<_> = (0..model.loads.len()).filter(|&load| model.loads[load].seen).collect();
    let held: Vec<_> = (0..model.held.len()).collect();
    let blocked: Vec<_> = (model.waiting.iter())
        .filter_map(|(thread, why)| matches!(why, Waiting::Init { .. }).then_some(*thread))
        .collect();
    let mut digit = || word.digit();
    let per_cpu = if *PER_CPU { Mode::PerCpu } else { Mode::Atomic };
    let mode = |n| if n % 3 == 0 { Mode::Atomic } else { per_cpu };
    let wait = |no, n| [no, Wait::Short, Wait::Forever, no, no, Wait::Short, Wait::Forever][n % 7];
    let plan = |n, m| if n % 6 == 5 { Plan::Block } else { Plan::Return(result(m)) };
    let first = digit();
    let (name, which) = (first % NAMES.len(), first % NOTIFIERS);
    let what = match letter {
        b'w' => What::Write { slot: first % SLOTS, kind: KINDS[digit()] },
        b'l' => {
            let (slot, how) = (digit() % SLOTS, digit());
            What::Load {
                name,
                slot,
                mode: mode(how),
                copied: how > 12,
                plan: plan(digit(), digit()),
            }
        }
        b'k' => What::LoadWithoutRoom { name, slot: digit() % SLOTS },
        b'u' => What::Unload { name, force: digit() % 3 == 1, wait: wait(Wait::No, digit()) },
        b'r' => {
            let (slot, wait) = (digit() % SLOTS, wait(Wait::Short, digit()));
            What::Replace { name, slot, wait, plan: plan(digit(), digit()) }
        }
        b's' => What::Spoil { name },
        b'i' => What::EndInit { thread: one_of(&blocked, first)?, result: result(digit()) },
        b'g' => What::Get { name },
        b't' => What::TryGet { load: one_of(&seen, first)? },
        b'c' => What::Clone(one_of(&held, first)?),
        b'p' => What::Put(one_of(&held, first)?),
        b'h' => What::Forget { load: one_of(&seen, first)? },
        b'd' => What::Depend { user: one_of(&seen, first)?, provider: one_of(&seen, digit())? },
        b'n' => What::Register { which, priority: digit() as i32 - 8 },
        b'q' => What::Unregister { which },
        b'v' => {
            // The last is a notifier that panics.
            let errno = [None, None, Some(libc::EPERM), Some(libc::ECANCELED)][digit() % 4];
            What::Veto { which, errno }
        }
        b'x' => What::Keep(first % 3 == 1),
        b'y' => What::SymbolGet,
        b'z' => What::SymbolPut,
        b'a' => What::Reap,
        b'f' => What::Close,
        b'm' => What::RunOn(first),
        _ => return None,
    };
    Some(Step { thread, what })
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
        unloaded(host.unload(name, if force { how.force() } else { how }))
    }

    fn replace(host: &Host, name: &str, path: &Path, wait: Wait) -> Result<Outcome, i32> {
        // SAFETY: as above.
        unloaded(unsafe { host.replace(name, path, wait.timeout()) })
    }

    /// How it says that.
    fn told(outcome: Outcome) -> Outcome {
        outcome
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

/// What the init function that this thread is about to call does.
enum Init {
    Return(i32),
    Block(Receiver<i32>),
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
    static PLAN: RefCell<Init> = const { RefCell::new(Init::Return(0)) };
}

fn log(call: Call) {
    SHARED.with_borrow(|shared| shared.calls.lock().unwrap().push(call));
}

/// What plugins call.
extern "C" fn note(what: i32) -> i32 {
    log(match what {
        INIT => Call::Init,
        EXIT => Call::Exit,
        _ => Call::Unmapped,
    });
    if what != INIT {
        return 0;
    }
    match PLAN.replace(Init::Return(0)) {
        Init::Return(result) => result,
        // Nobody says anything any more if the case has failed.
        Init::Block(order) => order.recv().unwrap_or(0),
    }
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

fn unloaded(result: Result<Unloaded, Error>) -> Result<Outcome, i32> {
    result.map(|there| outcome(&there)).map_err(|error| error.errno())
}

/// What a plugin's function answers.
fn answer(function: *mut c_void) -> usize {
    // SAFETY: that is what every plugin exports as its answer.
    let function: extern "C" fn() -> i64 = unsafe { std::mem::transmute(function) };
    function() as usize
}

/// This process's own, beside which those of processes that have ended are removed.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let name = |process: &str| format!("host-model-{process}");
    let parent = Path::new(BUILT);
    for there in fs::read_dir(parent).unwrap().flatten() {
        let there = there.path();
        let process = there.file_name().and_then(|n| n.to_str()?.strip_prefix(&name("")));
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = fs::remove_dir_all(&there);
        }
    }
    parent.join(name(&std::process::id().to_string()))
});

fn new_folder(name: &str) -> PathBuf {
    let folder = FOLDER.join(name);
    fs::create_dir_all(&folder).unwrap();
    folder
}

static GRAVEYARD: LazyLock<PathBuf> = LazyLock::new(|| new_folder("graveyard"));

/// The folder of a case.
fn next_case() -> PathBuf {
    static CASES: AtomicUsize = AtomicUsize::new(1);
    let name = format!("case-{:08}", CASES.fetch_add(1, SeqCst));
    assert_eq!(name.len(), ANY_CASE.len());
    new_folder(&name)
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
                loads: vec![],
                held: vec![],
                given: vec![],
                links: vec![],
                zombies: vec![],
                waiting: vec![],
                notifiers: vec![(i32::MAX, FIRST)],
                vetoes: [None; NOTIFIERS + 1],
                keep: false,
                tainted: false,
                last: None,
                calls: vec![],
                ended: None,
                kept: None,
            },
            host: new_host(),
            crew: Crew::new(move || SHARED.set(of_threads.clone())),
            shared,
            folder: next_case(),
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

    fn step(&mut self, mut step: Step) {
        step.thread = self.crew.free(step.thread, F::THREADS);
        if !self.model.is_possible(step) {
            return;
        }
        let put =
            if let What::Put(which) = step.what { Some(self.model.held[which]) } else { None };
        self.shared.calls.lock().unwrap().clear();
        let expected = self.model.apply(step).map(|answer| match answer {
            Answer::Unloaded(outcome) => Answer::Unloaded(outcome.map(F::told)),
            other => other,
        });
        let job = self.job(step, put);
        let waiting = self.model.waiting.last().cloned();
        let (shared, handles) = (&self.shared, &self.handles);
        // Whether a thread is where the model has it waiting.
        let waits = || match waiting.as_ref().expect("the last that waits").1 {
            Waiting::Init { .. } => shared.calls.lock().unwrap().contains(&Call::Init),
            Waiting::Unload(load) | Waiting::Replaced(load) => handles[&load].try_get().is_none(),
        };
        self.crew.expect(&step, step.thread, job, expected, waits);
        match (&self.model.ended, step.what) {
            (Some((thread, expected)), _) => {
                let expected = match expected {
                    Answer::Unloaded(outcome) => Answer::Unloaded(outcome.map(F::told)),
                    other => other.clone(),
                };
                self.crew.ended(&step, *thread, expected);
            }
            // Its thread waits for what is replaced.
            (None, What::EndInit { thread, .. }) => self.crew.await_that(&step, thread, waits),
            _ => {}
        }
        self.look_around(&step);
        self.check(&step);
    }

    /// What a step is for the host; `put` is the load of which a reference is given back.
    fn job(&mut self, step: Step, put: Option<usize>) -> Box<dyn FnOnce() -> Answer + Send> {
        let host = self.host.clone();
        let mut init = |plan| match plan {
            Plan::Return(result) => Init::Return(result),
            Plan::Block => {
                let (order, orders) = channel();
                self.orders.insert(step.thread, order);
                Init::Block(orders)
            }
        };
        let got = |held: &mut Vec<Reference>, found: Option<Reference>| {
            let got = found.is_some();
            held.extend(found);
            Answer::Got(got)
        };
        let now = match step.what {
            What::Load { name, slot, mode, copied, plan } => {
                let plan = init(plan);
                let path = self.path(slot);
                return Box::new(move || {
                    PLAN.set(plan);
                    let module = F::load(&host, &path, NAMES[name], mode, copied);
                    if let Ok(module) = &module {
                        assert_eq!((module.path(), module.mode()), (&*path, mode));
                    }
                    Answer::Done(module.map(drop))
                });
            }
            What::LoadWithoutRoom { name, slot } => {
                let path = self.path(slot);
                return Box::new(move || {
                    // What it would give back.
                    host.reap();
                    let _all = take_all_slots();
                    Answer::Done(F::load(&host, &path, NAMES[name], Mode::PerCpu, false).map(drop))
                });
            }
            What::Unload { name, force, wait } => {
                return Box::new(move || {
                    Answer::Unloaded(F::unload(&host, NAMES[name], force, wait))
                });
            }
            What::Replace { name, slot, wait, plan } => {
                let plan = init(plan);
                let path = self.path(slot);
                return Box::new(move || {
                    PLAN.set(plan);
                    Answer::Unloaded(F::replace(&host, NAMES[name], &path, wait))
                });
            }
            What::Spoil { name } => {
                let slot = self.model.files.iter().position(|f| f.1 + 1 == self.model.written);
                let path = self.path(slot.expect("the model has cut it"));
                return Box::new(move || {
                    host.reap();
                    // The inode must not be another file's, which would not be opened itself.
                    static BURIED: AtomicUsize = AtomicUsize::new(0);
                    let number = BURIED.fetch_add(1, SeqCst);
                    fs::hard_link(&path, GRAVEYARD.join(number.to_string())).unwrap();
                    fs::File::options().write(true).open(path).unwrap().set_len(100).unwrap();
                    Answer::Unloaded(F::unload(&host, NAMES[name], true, Wait::No))
                });
            }
            What::Put(which) => {
                let reference = self.held.swap_remove(which);
                let function = F::symbol(&reference, c"answer").expect("every plugin has it");
                let load = put.expect("what is put");
                assert_eq!(answer(function), self.model.loads[load].answer, "what it answers");
                assert_eq!(F::symbol(&reference, c"no such symbol"), None);
                return Box::new(move || {
                    F::put(reference);
                    Answer::Nothing
                });
            }
            What::Depend { user, provider } => {
                let [user, provider] = [user, provider].map(|load| self.handles[&load].clone());
                return Box::new(move || Answer::Done(F::depend(&user, &provider)));
            }
            What::SymbolGet => {
                return Box::new(move || {
                    Answer::Symbol(F::symbol_get(&host, c"answer").map(answer))
                });
            }
            What::SymbolPut => {
                return Box::new(move || Answer::Done(F::symbol_put(&host, c"answer")));
            }
            What::Reap => return Box::new(move || Answer::Reaped(F::reap(&host))),
            What::RunOn(cpu) => {
                return Box::new(move || {
                    run_on(cpu);
                    Answer::Nothing
                });
            }
            // These answer at once.
            What::Get { name } => {
                let found =
                    self.crew.run(&step, step.thread, move || F::find_get(&host, NAMES[name]));
                got(&mut self.held, found)
            }
            What::TryGet { load } => {
                let handle = self.handles[&load].clone();
                let found = self.crew.run(&step, step.thread, move || F::try_get(&handle));
                got(&mut self.held, found)
            }
            What::Clone(which) => {
                self.held.push(F::get(&self.held[which]));
                Answer::Nothing
            }
            What::Write { slot, .. } => {
                self.write(slot);
                Answer::Nothing
            }
            What::EndInit { thread, result } => {
                self.orders[&thread].send(result).expect("an init function that waits");
                Answer::Nothing
            }
            What::Forget { load } => {
                self.handles.remove(&load);
                Answer::Nothing
            }
            What::Register { which, priority } => Answer::Done(F::register(&host, which, priority)),
            What::Unregister { which } => Answer::Done(F::unregister(&host, which)),
            What::Veto { which, errno } => {
                self.shared.vetoes.lock().unwrap()[which] = errno;
                Answer::Nothing
            }
            What::Keep(keep) => {
                self.shared.keep.store(keep, SeqCst);
                Answer::Nothing
            }
            What::Close => {
                drop(host);
                let host = Arc::into_inner(std::mem::replace(&mut self.host, new_host()));
                let host = host.expect("no thread is in it");
                Answer::Done(self.crew.run(&step, step.thread, || F::close(host)).map_err(
                    |(host, errno)| {
                        self.host = Arc::new(host);
                        errno
                    },
                ))
            }
        };
        Box::new(move || now)
    }

    /// Takes what is there to be taken after a step.
    fn look_around(&mut self, step: &Step) {
        if let Some(load) = self.model.kept {
            let reference = self.shared.kept.lock().unwrap().pop().expect("what was kept");
            self.handles.insert(load, reference.module());
            self.held.push(reference);
        }
        for (number, loaded) in self.model.loads.iter().enumerate() {
            if loaded.at == At::Table && !self.handles.contains_key(&number) {
                let handle = self.host.find(NAMES[loaded.name]).expect("it is there");
                self.handles.insert(number, handle);
            }
        }
        assert_eq!(*self.shared.calls.lock().unwrap(), self.model.calls, "{step:?}");
    }

    fn check(&self, step: &Step) {
        let model = &self.model;
        let mut table: Vec<_> =
            (0..model.loads.len()).filter(|&load| model.loads[load].at == At::Table).collect();
        table.reverse();
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
        self.crew.check_that_all_wait(step);
    }

    /// Lets everything go, and sees that nothing is left.
    fn end(mut self) {
        for thread in self.model.waiting.iter().map(|(thread, _)| *thread).collect::<Vec<_>>() {
            let blocked = |(there, why): &(usize, Waiting)| {
                *there == thread && matches!(why, Waiting::Init { .. })
            };
            if self.model.waiting.iter().any(blocked) {
                self.step(Step { thread: 0, what: What::EndInit { thread, result: 0 } });
            }
        }
        let mut all = vec![];
        all.resize(self.held.len(), What::Put(0));
        all.resize(all.len() + self.model.given.len(), What::SymbolPut);
        for _ in NAMES {
            let force = |name| What::Unload { name, force: true, wait: Wait::No };
            all.extend((0..NAMES.len()).map(force));
        }
        all.push(What::Close);
        for what in all {
            self.step(Step { thread: 0, what });
        }
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

/// Tries what the words say; see `decode`.
pub fn run<F: Face>(text: &[u8]) {
    let mut case = Case::<F>::new();
    for mut word in words(text) {
        if let Some(step) = decode(&mut word, &case.model, F::THREADS) {
            case.step(step);
        }
    }
    case.end();
}
