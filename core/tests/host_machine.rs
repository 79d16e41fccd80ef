//! The module host against a model of what its documentation and Linux's tables say.
//!
//! Four threads take steps, one at a time, that proptest chooses: they load real shared objects
//! whose files change, are cut short and vanish between steps, unload, replace and force them out,
//! hold them, have them depend on each other, and refuse them by a notifier. Init functions
//! fail, or return when a later step says so; an unload or a replacement that has to wait is left
//! waiting while others go on, and has to answer in the very step that ends its wait. To one of
//! the threads the barrier is refused that shuts a per-CPU counter, and the memory for slots.
//!
//! After each step: every answer; what plugins and notifiers were called for, in which order; the
//! list of modules, the state and the references of every load there ever was, who depends on
//! whom, the taint and the record of what was unloaded last. At the end nothing may be left.

#![cfg(all(feature = "host", target_os = "linux", target_env = "gnu"))]

#[path = "support/compiler.rs"]
mod compiler;
#[path = "machine/mod.rs"]
mod support;

use module_ref::Mode;
use module_ref::host::{
    Error, Host, Load, Module, NotifierId, Reference, Residency, State, Unload, Unloaded,
};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;
use support::{
    Answer as Pending, PER_CPU, REFUSAL, THREADS, Threads, await_while, is_refused, run_on,
    take_all_slots,
};

const NAMES: [&str; 3] = ["a", "b", "c"];
const SLOTS: usize = 3;
const SHORT: Duration = Duration::from_micros(300);

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
long answer(void) { return ANSWER + provided(); }
#ifdef UNRESOLVED
int call(void) { return nowhere(); }
#endif
";

const INIT: i32 = 1;

/// An object of that kind whose `answer()` is that number.
fn template(kind: Kind, answer: usize) -> PathBuf {
    let (mut flags, mut link) = (vec![format!("-DANSWER={answer}")], vec![]);
    if kind.has_init() {
        flags.push("-DINIT".into());
    }
    if kind.has_exit() {
        flags.push("-DEXIT".into());
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
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
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

// ---- the model ------------------------------------------------------------------------------

#[derive(Clone, Copy, Debug, PartialEq)]
enum Wait {
    No,
    Short,
    Forever,
}

/// What an init function does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Plan {
    Return(i32),
    /// Waits for another step, which says what it returns.
    Block,
}

#[derive(Clone, Debug)]
enum Act {
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
    /// Has a blocked init function return.
    EndInit {
        which: Index,
        result: i32,
    },
    Get {
        name: usize,
    },
    /// By a handle to whatever was loaded.
    TryGet {
        load: Index,
    },
    Clone(Index),
    Put(Index),
    Depend {
        user: Index,
        provider: Index,
    },
    Veto(Option<i32>),
    /// Whether a notifier keeps a reference on what is coming.
    Keep(bool),
    Reap,
    RunOn(usize),
}

#[derive(Clone, Debug)]
struct Step {
    thread: usize,
    act: Act,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Unmapped,
    Held(u64),
    Overwritten,
}

#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Nothing,
    Got(bool),
    /// Of a load, or a dependency; or an errno.
    Done(Result<(), i32>),
    Unloaded(Result<Outcome, i32>),
    Reaped(usize),
    /// It waits.
    Later,
}

/// What somebody was called for.
#[derive(Clone, Debug, PartialEq)]
enum Call {
    Init,
    Exit,
    Told(&'static str, State),
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
    shut: bool,
    /// Whether it was seen, so that there is a handle.
    seen: bool,
}

#[derive(Clone, Debug)]
struct Zombie {
    load: usize,
    exit: bool,
    record: bool,
}

#[derive(Clone, Debug)]
enum Waiting {
    /// For its init function, to take the place of another perhaps.
    Init {
        load: usize,
        old: Option<(usize, Wait)>,
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
    /// The load of each reference.
    held: Vec<usize>,
    /// User and provider, the oldest first.
    links: Vec<(usize, usize)>,
    zombies: Vec<Zombie>,
    waiting: Vec<(usize, Waiting)>,
    veto: Option<i32>,
    keep: bool,
    tainted: bool,
    last: Option<(usize, Outcome)>,
    // Of this step:
    answer: Answer,
    calls: Vec<Call>,
    /// A thread that waited has an answer.
    ended: Option<(usize, Answer)>,
    /// The notifier has kept a reference on this.
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
        let held = self.held.iter().filter(|&&held| held == load).count();
        // A load has one itself until its end.
        let init = usize::from(self.loads[load].state == State::Coming);
        (held + self.users(load).count() + init) as u64
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        from == to || self.links.iter().any(|&(u, p)| u == from && self.reaches(p, to))
    }

    fn tell(&mut self, load: usize, state: State) {
        self.calls.push(Call::Told(NAMES[self.loads[load].name], state));
    }

    fn farewell(&mut self, load: usize) {
        if self.loads[load].kind.has_exit() {
            self.calls.push(Call::Exit);
        }
        self.tell(load, State::Going);
    }

    fn end(&mut self, load: usize, record: bool) -> Outcome {
        self.links.retain(|link| link.0 != load);
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
        old: Option<(usize, Wait)>,
        plan: Plan,
    ) -> Answer {
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
        });
        let failed = |model: &mut Self, errno| {
            let errno = model.clear_away(thread, load, errno);
            match old {
                None => Answer::Done(Err(errno)),
                Some(_) => Answer::Unloaded(Err(errno)),
            }
        };
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
        self.tell(load, State::Coming);
        if self.keep {
            self.held.push(load);
            self.kept = Some(load);
            self.loads[load].seen = true;
        }
        if let Some(errno) = self.veto {
            self.tell(load, State::Going);
            return failed(self, errno);
        }
        if kind.has_init() {
            self.calls.push(Call::Init);
        }
        match plan {
            Plan::Return(result) => self.after_init(thread, load, old, result),
            Plan::Block if kind.has_init() => {
                self.waiting.push((thread, Waiting::Init { load, old }));
                Answer::Later
            }
            Plan::Block => self.after_init(thread, load, old, 0),
        }
    }

    /// The object that the linker would bind a user to.
    fn provider(&self) -> Option<usize> {
        self.loads.iter().position(|l| l.kind == Kind::Provider && l.at != At::Gone)
    }

    fn after_init(
        &mut self,
        thread: usize,
        load: usize,
        old: Option<(usize, Wait)>,
        result: i32,
    ) -> Answer {
        if self.loads[load].kind.has_init() && result < 0 {
            self.tell(load, State::Going);
            let errno = self.clear_away(thread, load, -result);
            return match old {
                None => Answer::Done(Err(errno)),
                Some(_) => Answer::Unloaded(Err(errno)),
            };
        }
        let Some((old, wait)) = old else {
            self.loads[load].state = State::Live;
            self.tell(load, State::Live);
            return Answer::Done(Ok(()));
        };
        if self.users(old).next().is_some() {
            // Since it began.
            self.farewell(load);
            return Answer::Unloaded(Err(self.clear_away(thread, load, libc::EWOULDBLOCK)));
        }
        (self.loads[load].state, self.loads[load].at) = (State::Live, At::Table);
        (self.loads[old].state, self.loads[old].at) = (State::Going, At::Old);
        self.tell(load, State::Live);
        Answer::Unloaded(Ok(if !self.shut(thread, old) {
            self.leave_to_holders(thread, old, true)
        } else if self.references(old) == 0 {
            self.farewell(old);
            self.end(old, true)
        } else if wait == Wait::Forever {
            self.waiting.push((thread, Waiting::Replaced(old)));
            return Answer::Later;
        } else {
            self.leave_to_holders(thread, old, true)
        }))
    }

    fn load(&mut self, thread: usize, what: (usize, usize, Mode, bool), plan: Plan) -> Answer {
        self.reap(thread);
        let (name, slot, ..) = what;
        let refused = self.files[slot].0.refusal().and(match self.find(name) {
            None => Ok(()),
            Some(there) if self.loads[there].state == State::Live => Err(libc::EEXIST),
            Some(_) => Err(libc::EBUSY),
        });
        match refused {
            Ok(()) => self.bring_up(thread, what, None, plan),
            Err(errno) => Answer::Done(Err(errno)),
        }
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

    /// One of those that were seen.
    fn seen(&self, which: &Index) -> usize {
        let seen: Vec<_> = (0..self.loads.len()).filter(|&load| self.loads[load].seen).collect();
        seen[which.index(seen.len())]
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

    /// Of the blocked init functions, which.
    fn blocked(&self, which: &Index) -> usize {
        let blocked: Vec<_> = (0..self.waiting.len())
            .filter(|&at| matches!(self.waiting[at].1, Waiting::Init { .. }))
            .collect();
        blocked[which.index(blocked.len())]
    }

    fn has_blocked(&self) -> bool {
        self.waiting.iter().any(|(_, waiting)| matches!(waiting, Waiting::Init { .. }))
    }

    fn is_coming(&self, load: Option<usize>) -> bool {
        load.is_some_and(|load| self.loads[load].state == State::Coming)
    }

    /// What can be cut short and unloaded without harm to others.
    fn can_be_spoilt(&self, thread: usize, name: usize) -> bool {
        self.check_free(name, true).is_ok_and(|load| {
            let loaded = &self.loads[load];
            !loaded.copy
                && self.files.contains(&(loaded.kind, loaded.file))
                // What is left of it could yet be bound to, or keeps its provider in memory.
                && ![Kind::Provider, Kind::User].contains(&loaded.kind)
                && self.references(load) == 0
                && !self.is_refused(thread, load)
        })
    }
}

impl ReferenceStateMachine for Model {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        Just(Self {
            files: [(Kind::Hooks, 0), (Kind::Provider, 1), (Kind::User, 2)],
            written: SLOTS,
            loads: vec![],
            held: vec![],
            links: vec![],
            zombies: vec![],
            waiting: vec![],
            veto: None,
            keep: false,
            tainted: false,
            last: None,
            answer: Answer::Nothing,
            calls: vec![],
            ended: None,
            kept: None,
        })
        .boxed()
    }

    fn transitions(_: &Self) -> BoxedStrategy<Step> {
        let name = || 0..NAMES.len();
        let slot = || 0..SLOTS;
        let index = any::<Index>;
        let per_cpu = if *PER_CPU { Mode::PerCpu } else { Mode::Atomic };
        let mode = || prop_oneof![1 => Just(Mode::Atomic), 2 => Just(per_cpu)];
        let kind = prop_oneof![
            4 => Just(Kind::Hooks),
            2 => Just(Kind::Plain),
            1 => Just(Kind::Permanent),
            4 => Just(Kind::Provider),
            4 => Just(Kind::User),
            1 => Just(Kind::Unresolved),
            1 => Just(Kind::Cut),
            1 => Just(Kind::Text),
            1 => Just(Kind::Gone),
        ];
        let result = || prop_oneof![12 => Just(0), 3 => Just(-libc::EIO), 1 => Just(3)];
        let plan = || prop_oneof![5 => result().prop_map(Plan::Return), 1 => Just(Plan::Block)];
        let wait =
            |no| prop_oneof![3 => Just(no), 2 => Just(Wait::Short), 2 => Just(Wait::Forever)];
        let act = prop_oneof![
            60 => (slot(), kind).prop_map(|(slot, kind)| Act::Write { slot, kind }),
            120 => (name(), slot(), mode(), prop::bool::weighted(0.2), plan()).prop_map(
                |(name, slot, mode, copied, plan)| Act::Load { name, slot, mode, copied, plan }
            ),
            5 => (name(), slot()).prop_map(|(name, slot)| Act::LoadWithoutRoom { name, slot }),
            80 => (name(), prop::bool::weighted(0.3), wait(Wait::No))
                .prop_map(|(name, force, wait)| Act::Unload { name, force, wait }),
            60 => (name(), slot(), wait(Wait::Short), plan())
                .prop_map(|(name, slot, wait, plan)| Act::Replace { name, slot, wait, plan }),
            3 => name().prop_map(|name| Act::Spoil { name }),
            60 => (index(), result()).prop_map(|(which, result)| Act::EndInit { which, result }),
            60 => name().prop_map(|name| Act::Get { name }),
            30 => index().prop_map(|load| Act::TryGet { load }),
            15 => index().prop_map(Act::Clone),
            110 => index().prop_map(Act::Put),
            60 => (index(), index()).prop_map(|(user, provider)| Act::Depend { user, provider }),
            10 => prop_oneof![
                1 => Just(Some(libc::EPERM)),
                // A notifier that panics.
                1 => Just(Some(libc::ECANCELED)),
                3 => Just(None),
            ].prop_map(Act::Veto),
            10 => prop::bool::weighted(0.3).prop_map(Act::Keep),
            20 => Just(Act::Reap),
            20 => (0..4usize).prop_map(Act::RunOn),
        ];
        (0..THREADS, act).prop_map(|(thread, act)| Step { thread, act }).boxed()
    }

    fn preconditions(model: &Self, Step { thread, act }: &Step) -> bool {
        // Another load of what is still coming, or bound to that, would wait for an end that no
        // other step could tell from what comes before and after it.
        // One that fails because it is bound to what is going, and can itself not be shut in the
        // sandbox, keeps the other mapped, which is then reported as resident, by a hair.
        let user = |slot: &usize| {
            if model.files[*slot].0 != Kind::User {
                return false;
            }
            let mut model = model.clone();
            model.reap(*thread);
            let provider = model.provider();
            let is_going = |p: usize| model.loads[p].state == State::Going && !model.loads[p].shut;
            model.is_coming(provider) || is_refused(*thread) && provider.is_some_and(is_going)
        };
        let able = match act {
            Act::Load { name, slot, .. } => !model.is_coming(model.find(*name)) && !user(slot),
            Act::LoadWithoutRoom { name, .. } => {
                *PER_CPU && is_refused(*thread) && !model.is_coming(model.find(*name))
            }
            Act::Replace { slot, .. } => !user(slot),
            Act::Spoil { name } => model.can_be_spoilt(*thread, *name),
            Act::EndInit { .. } => model.has_blocked(),
            Act::Clone(_) | Act::Put(_) => !model.held.is_empty(),
            Act::TryGet { .. } | Act::Depend { .. } => model.loads.iter().any(|l| l.seen),
            _ => true,
        };
        able && !model.waiting.iter().any(|(waiting, _)| waiting == thread)
    }

    fn apply(mut model: Self, Step { thread, act }: &Step) -> Self {
        let thread = *thread;
        model.calls.clear();
        (model.ended, model.kept) = (None, None);
        model.answer = match *act {
            Act::Write { slot, kind } => {
                model.files[slot] = (kind, model.written);
                model.written += 1;
                Answer::Nothing
            }
            Act::Load { name, slot, mode, copied, plan } => {
                model.load(thread, (name, slot, mode, copied), plan)
            }
            Act::LoadWithoutRoom { name, slot } => {
                model.reap(thread);
                Answer::Done(Err(match (model.files[slot].0.refusal(), model.find(name)) {
                    (Err(errno), _) => errno,
                    (_, None) => libc::ENOMEM,
                    (_, Some(there)) if model.loads[there].state == State::Live => libc::EEXIST,
                    _ => libc::EBUSY,
                }))
            }
            Act::Unload { name, force, wait } => match model.unload(thread, name, force, wait) {
                Ok(Some(outcome)) => Answer::Unloaded(Ok(outcome)),
                Ok(None) => Answer::Later,
                Err(errno) => Answer::Unloaded(Err(errno)),
            },
            Act::Replace { name, slot, wait, plan } => {
                model.reap(thread);
                let old = model.check_free(name, false);
                match old.and_then(|old| model.files[slot].0.refusal().map(|()| old)) {
                    Err(errno) => Answer::Unloaded(Err(errno)),
                    Ok(old) => {
                        let Loaded { mode, copied, .. } = model.loads[old];
                        model.bring_up(thread, (name, slot, mode, copied), Some((old, wait)), plan)
                    }
                }
            }
            Act::Spoil { name } => {
                model.reap(thread);
                let load = model.find(name).expect("a precondition");
                let slot = model.files.iter().position(|f| f.1 == model.loads[load].file);
                model.files[slot.expect("a precondition")] = (Kind::Cut, model.written);
                model.written += 1;
                model.tainted |= model.loads[load].kind == Kind::Permanent;
                (model.loads[load].state, model.loads[load].shut) = (State::Going, true);
                // Its exit function is no code any more.
                model.tell(load, State::Going);
                model.end(load, false);
                model.last = Some((name, Outcome::Overwritten));
                Answer::Unloaded(Ok(Outcome::Overwritten))
            }
            Act::EndInit { ref which, result } => {
                let at = model.blocked(which);
                let (thread, Waiting::Init { load, old }) = model.waiting.remove(at) else {
                    unreachable!()
                };
                match model.after_init(thread, load, old, result) {
                    Answer::Later => {}
                    answer => model.ended = Some((thread, answer)),
                }
                Answer::Nothing
            }
            Act::Get { name } => {
                let found = model.find(name).filter(|&load| !model.loads[load].shut);
                model.held.extend(found);
                Answer::Got(found.is_some())
            }
            Act::TryGet { ref load } => {
                let load = model.seen(load);
                let got = !model.loads[load].shut;
                if got {
                    model.held.push(load);
                }
                Answer::Got(got)
            }
            Act::Clone(ref which) => {
                model.held.push(model.held[which.index(model.held.len())]);
                Answer::Nothing
            }
            Act::Put(ref which) => {
                model.held.swap_remove(which.index(model.held.len()));
                Answer::Nothing
            }
            Act::Depend { ref user, ref provider } => {
                Answer::Done(model.depend(model.seen(user), model.seen(provider)))
            }
            Act::Veto(errno) => {
                model.veto = errno;
                Answer::Nothing
            }
            Act::Keep(keep) => {
                model.keep = keep;
                Answer::Nothing
            }
            Act::Reap => Answer::Reaped(model.reap(thread)),
            Act::RunOn(_) => Answer::Nothing,
        };
        model.settle();
        for loaded in model.loads.iter_mut().filter(|l| l.at == At::Table) {
            loaded.seen = true;
        }
        model
    }
}

// ---- the host itself ------------------------------------------------------------------------

type Calls = Arc<Mutex<Vec<Call>>>;

/// What the init function that this thread is about to call does.
enum Init {
    Return(i32),
    Block(Receiver<i32>),
}

thread_local! {
    static CALLS: RefCell<Calls> = RefCell::default();
    static PLAN: RefCell<Init> = const { RefCell::new(Init::Return(0)) };
}

/// What plugins call.
extern "C" fn note(what: i32) -> i32 {
    let call = if what == INIT { Call::Init } else { Call::Exit };
    CALLS.with_borrow(|calls| calls.lock().unwrap().push(call));
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
type AnswerFn = unsafe extern "C" fn() -> i64;

/// What the notifiers share with the machine.
#[derive(Default)]
struct Shared {
    keep: AtomicBool,
    kept: Mutex<Vec<Reference>>,
}

struct TheHost {
    host: Arc<Host>,
    threads: Threads,
    calls: Calls,
    shared: Arc<Shared>,
    veto: Option<NotifierId>,
    folder: PathBuf,
    /// In the order of the model's.
    held: Vec<Reference>,
    handles: HashMap<usize, Module>,
    waiting: HashMap<usize, (Pending<Answer>, Sender<i32>)>,
}

fn done(result: Result<(), Error>) -> Answer {
    Answer::Done(result.map_err(|error| error.errno()))
}

fn outcome(outcome: &Unloaded) -> Outcome {
    match outcome {
        Unloaded::Unmapped => Outcome::Unmapped,
        Unloaded::Resident(Residency::Held { references }) => Outcome::Held(*references),
        Unloaded::Resident(Residency::Overwritten) => Outcome::Overwritten,
        Unloaded::Resident(why) => panic!("resident: {why}"),
    }
}

fn unloaded(result: Result<Unloaded, Error>) -> Answer {
    Answer::Unloaded(result.map(|there| outcome(&there)).map_err(|error| error.errno()))
}

impl TheHost {
    /// A name that is this case's alone.
    fn case(&self) -> &str {
        self.folder.file_name().unwrap().to_str().unwrap()
    }

    /// The copies of the file in memory have its name, too.
    fn path(&self, slot: usize) -> PathBuf {
        self.folder.join(format!("{}-{slot}.so", self.case()))
    }

    fn write(&self, slot: usize, (kind, file): (Kind, usize)) {
        if kind == Kind::Gone {
            let _ = fs::remove_file(self.path(slot));
            return;
        }
        let new = self.folder.join("new");
        fs::write(&new, content(kind, file % 2, self.case())).unwrap();
        fs::rename(new, self.path(slot)).unwrap();
    }

    fn perform(&mut self, model: &Model, step: Step) -> Answer {
        let Step { thread, act } = step.clone();
        let host = self.host.clone();
        let (order, orders) = channel();
        let init = |plan| match plan {
            Plan::Return(result) => Init::Return(result),
            Plan::Block => Init::Block(orders),
        };
        let pending = match act {
            Act::Write { slot, .. } => {
                self.write(slot, model.files[slot]);
                return Answer::Nothing;
            }
            Act::Load { name, slot, mode, copied, plan } => {
                let (path, plan) = (self.path(slot), init(plan));
                self.threads.start(thread, move || {
                    PLAN.set(plan);
                    let load = Load::new().name(NAMES[name]).mode(mode);
                    let load = if copied { load.copied() } else { load };
                    // SAFETY: the plugins do nothing but to call us.
                    let module = unsafe { host.load_with(&path, load) };
                    if let Ok(module) = &module {
                        assert_eq!((module.path(), module.mode()), (&*path, mode));
                    }
                    done(module.map(drop))
                })
            }
            Act::LoadWithoutRoom { name, slot } => {
                let path = self.path(slot);
                self.threads.start(thread, move || {
                    // What it would give back.
                    host.reap();
                    let _all = take_all_slots();
                    // SAFETY: as above.
                    done(unsafe { host.load_with(path, Load::new().name(NAMES[name])) }.map(drop))
                })
            }
            Act::Unload { name, force, wait } => self.threads.start(thread, move || {
                let how = match wait {
                    Wait::No => Unload::now(),
                    Wait::Short => Unload::within(SHORT),
                    Wait::Forever => Unload::waiting(),
                };
                unloaded(host.unload(NAMES[name], if force { how.force() } else { how }))
            }),
            Act::Replace { name, slot, wait, plan } => {
                let (path, plan) = (self.path(slot), init(plan));
                self.threads.start(thread, move || {
                    PLAN.set(plan);
                    let limit = (wait != Wait::Forever).then_some(SHORT);
                    // SAFETY: as above.
                    unloaded(unsafe { host.replace(NAMES[name], path, limit) })
                })
            }
            Act::Spoil { name } => {
                let slot = model.files.iter().position(|f| f.1 + 1 == model.written);
                let path = self.path(slot.expect("the model has cut it"));
                self.threads.start(thread, move || {
                    host.reap();
                    // The inode must not be another file's, which would not be opened itself.
                    static BURIED: AtomicUsize = AtomicUsize::new(0);
                    let number = BURIED.fetch_add(1, SeqCst);
                    fs::hard_link(&path, GRAVEYARD.join(number.to_string())).unwrap();
                    fs::File::options().write(true).open(path).unwrap().set_len(100).unwrap();
                    unloaded(host.unload(NAMES[name], Unload::now().force()))
                })
            }
            Act::EndInit { result, .. } => {
                // The model has taken it off its list, or moved it to the end of that.
                let thread = match &model.ended {
                    Some(ended) => ended.0,
                    None => model.waiting.last().expect("it waits on").0,
                };
                self.waiting[&thread].1.send(result).expect("an init function that waits");
                return Answer::Nothing;
            }
            Act::Get { name } => {
                let found = self.threads.run(thread, move || host.find_get(NAMES[name]));
                let got = found.is_some();
                self.held.extend(found);
                return Answer::Got(got);
            }
            Act::TryGet { load } => {
                let handle = self.handles[&model.seen(&load)].clone();
                let found = self.threads.run(thread, move || handle.try_get());
                let got = found.is_some();
                self.held.extend(found);
                return Answer::Got(got);
            }
            Act::Clone(which) => {
                let held = &self.held[which.index(self.held.len())];
                self.held.push(held.clone());
                return Answer::Nothing;
            }
            Act::Put(which) => {
                let reference = self.held.swap_remove(which.index(self.held.len()));
                // SAFETY: that is what every plugin exports.
                let answer = unsafe { reference.symbol::<AnswerFn>("answer").unwrap()() };
                let load = self.handles.iter().find(|(_, handle)| **handle == reference.module());
                let load = *load.expect("it was seen").0;
                assert_eq!(answer as usize, model.loads[load].answer, "what it answers");
                self.threads.run(thread, move || drop(reference));
                return Answer::Nothing;
            }
            Act::Depend { user, provider } => {
                let [user, provider] =
                    [user, provider].map(|which| self.handles[&model.seen(&which)].clone());
                self.threads.start(thread, move || done(Host::add_dependency(&user, &provider)))
            }
            Act::Veto(errno) => {
                if let Some(id) = self.veto.take() {
                    host.remove_notifier(id).unwrap();
                }
                self.veto = errno.map(|errno| host.on_event(0, refuse(errno)));
                return Answer::Nothing;
            }
            Act::Keep(keep) => {
                self.shared.keep.store(keep, SeqCst);
                return Answer::Nothing;
            }
            Act::Reap => self.threads.start(thread, move || Answer::Reaped(host.reap())),
            Act::RunOn(cpu) => {
                self.threads.run(thread, move || run_on(cpu));
                return Answer::Nothing;
            }
        };
        if model.answer == Answer::Later {
            self.waiting.insert(thread, (pending, order));
            return Answer::Later;
        }
        pending.get(&step)
    }

    /// Waits until a thread is where the model has it waiting.
    fn await_waiting(&self, (thread, waiting): &(usize, Waiting)) {
        let pending = &self.waiting[thread].0;
        match waiting {
            Waiting::Init { .. } => {
                await_while(pending, || self.calls.lock().unwrap().contains(&Call::Init));
            }
            Waiting::Unload(load) | Waiting::Replaced(load) => {
                await_while(pending, || self.handles[load].try_get().is_none());
            }
        }
    }
}

/// A notifier that refuses all that is coming.
fn refuse(errno: i32) -> impl Fn(&Module, State) -> Result<(), Error> + Send + Sync {
    move |_, state| match (state, errno) {
        (State::Coming, libc::ECANCELED) => std::panic::resume_unwind(Box::new("a notifier's")),
        (State::Coming, _) => Err(Error::refuse(errno, "not today")),
        _ => Ok(()),
    }
}

/// This process's own, beside which those of processes that have ended are removed.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let name = |process: &str| format!("host-machine-{process}");
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
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

/// The warnings of loads that fail while they are held are meant, and would be thousands.
fn silence() {
    static ONCE: LazyLock<()> = LazyLock::new(|| {
        let nowhere = fs::File::options().write(true).open("/dev/null").unwrap();
        // SAFETY: two descriptors that are open. What tests say goes to standard output.
        unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&nowhere), libc::STDERR_FILENO) };
    });
    *ONCE
}

impl StateMachineTest for TheHost {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(model: &Model) -> Self {
        LazyLock::force(&support::SANDBOX);
        silence();
        let (calls, shared) = (Calls::default(), Arc::<Shared>::default());
        let host = Host::new();
        let (log, told) = (calls.clone(), shared.clone());
        host.on_event(1, move |module, state| {
            let name = NAMES.into_iter().find(|name| *name == module.name()).unwrap();
            log.lock().unwrap().push(Call::Told(name, state));
            assert_eq!(module.state(), state);
            if state == State::Coming {
                let reference = module.try_get().expect("it is coming");
                // SAFETY: that is what every plugin exports.
                unsafe { **reference.symbol::<*mut Note>("note")? = note };
                if told.keep.load(SeqCst) {
                    told.kept.lock().unwrap().push(reference);
                }
            }
            Ok(())
        });
        let log = calls.clone();
        let this = Self {
            host: Arc::new(host),
            threads: Threads::new(move || CALLS.set(log.clone())),
            calls,
            shared,
            veto: None,
            folder: next_case(),
            held: vec![],
            handles: HashMap::new(),
            waiting: HashMap::new(),
        };
        for (slot, file) in model.files.into_iter().enumerate() {
            this.write(slot, file);
        }
        this
    }

    fn apply(mut this: Self, model: &Model, step: Step) -> Self {
        this.calls.lock().unwrap().clear();
        let answer = this.perform(model, step.clone());
        assert_eq!(answer, model.answer, "{step:?}");
        if let Some((thread, expected)) = &model.ended {
            let (pending, _order) = this.waiting.remove(thread).expect("it waits");
            assert_eq!(pending.get(&step), *expected, "what waited for {step:?}");
        }
        // An init function that returns may leave its thread to wait for what it replaces.
        let goes_on = matches!(step.act, Act::EndInit { .. }) && model.ended.is_none();
        if goes_on || model.answer == Answer::Later {
            this.await_waiting(model.waiting.last().expect("the last that waits"));
        }
        if let Some(load) = model.kept {
            let reference = this.shared.kept.lock().unwrap().pop().expect("what was kept");
            this.handles.insert(load, reference.module());
            this.held.push(reference);
        }
        for (number, loaded) in model.loads.iter().enumerate() {
            if loaded.at == At::Table && !this.handles.contains_key(&number) {
                let handle = this.host.find(NAMES[loaded.name]).expect("it is there");
                this.handles.insert(number, handle);
            }
        }
        assert_eq!(*this.calls.lock().unwrap(), model.calls, "{step:?}");
        this
    }

    fn check_invariants(this: &Self, model: &Model) {
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
        let list = this.host.list();
        let found: Vec<_> = list
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .map(|line| format!("{} {} {} {}", line[0], line[2], line[3], line[4]))
            .collect();
        assert_eq!(found, expected, "the list");
        let handles: Vec<_> = table.iter().map(|load| this.handles[load].clone()).collect();
        assert_eq!(this.host.modules(), handles, "the modules");

        for (&load, handle) in &this.handles {
            let loaded = &model.loads[load];
            assert_eq!(handle.state(), loaded.state, "the state of load {load}");
            let references = (loaded.at != At::Gone).then(|| model.references(load));
            assert_eq!(handle.refcount(), references, "the references of load {load}");
            let names: Vec<_> =
                this.host.users(handle).iter().map(|user| user.name().to_owned()).collect();
            assert_eq!(names, users(load).collect::<Vec<_>>(), "the users of load {load}");
        }
        assert_eq!(this.host.tainted(), model.tainted, "tainted");
        let last = this.host.last_unloaded();
        let last = last.as_ref().map(|last| (&*last.name, outcome(&last.outcome)));
        assert_eq!(last, model.last.map(|(name, how)| (NAMES[name], how)), "last unloaded");
        for (thread, (pending, _)) in &this.waiting {
            assert_eq!(pending.look(), None, "thread {thread} does not wait any more");
        }
    }

    /// Lets everything go, and sees that nothing is left.
    fn teardown(mut this: Self, _: Model) {
        this.held.clear();
        for (_, (pending, order)) in this.waiting.drain() {
            // Perhaps there is no init function that waits for it.
            let _ = order.send(0);
            pending.get(&"the end");
        }
        this.shared.kept.lock().unwrap().clear();
        let host = this.host.clone();
        let closed = this.threads.run(0, move || {
            for _ in NAMES {
                for name in NAMES {
                    let _ = host.unload(name, Unload::now().force());
                }
            }
            host.check_empty()
        });
        assert_eq!(closed, Ok(()), "what is left");
        for handle in this.handles.values() {
            assert_eq!((handle.state(), handle.refcount()), (State::Going, None));
            assert!(handle.try_get().is_none());
        }
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let left: Vec<_> = maps.lines().filter(|map| map.contains(this.case())).collect();
        assert!(left.is_empty(), "what is left in memory: {left:#?}");
        fs::remove_dir_all(&this.folder).unwrap();
    }
}

prop_state_machine! {
    #![proptest_config(support::config(150))]

    #[test]
    fn the_host_answers_as_the_model(sequential 1..80 => TheHost);
}
