//! Where modules are on their way in and out.

use super::record::{Record, State};
use super::waits::ThreadId;
use crate::Drain;
use crate::host::object::resident::Residency;
use crate::host::presence::Going;
use std::mem;
use std::sync::Arc;
use std::time::Instant;

/// What a thread, or an event loop, is doing with a module. A module in service has none, and is in the
/// table; a module that is gone has none, and is not in the table.
pub(crate) enum Life {
    /// A thread is loading it. It is UNFORMED, COMING, or, if the load has failed, GOING. It is in the
    /// table, unless it is a replacement.
    Loading(Loading),
    /// A thread looks whether it is held, and unloads it if not. It is LIVE meanwhile.
    Trying(ThreadId),
    /// A thread is waiting for its last reference, or, once that is gone, is starting its replacement. It is
    /// GOING, as in all states below, and in the table.
    Draining(ThreadId),
    /// An event loop is waiting for its last reference. The thread that takes the handle out of this ends the
    /// unload, or puts the handle back.
    Begun(Box<Drain>),
    /// A thread is running its exit function and closing it, or is waiting until nobody holds what it has
    /// replaced.
    Ending {
        /// For the list: it may be held.
        forced: bool,
        by: ThreadId,
    },
    /// It is out of the table, and its code stays for those who hold it.
    Left(Left),
    /// It is out of the table, nobody holds it, its exit function has run, and its code stays for
    /// those who were found in it.
    Found(Left, Found),
}

impl Life {
    /// The thread that is doing this. (The words of a load tell more.)
    pub(crate) fn thread(&self) -> Option<ThreadId> {
        match self {
            Self::Loading(loading) => Some(loading.thread),
            Self::Trying(by) | Self::Draining(by) | Self::Ending { by, .. } => Some(*by),
            Self::Begun(_) | Self::Left(_) | Self::Found(..) => None,
        }
    }

    /// Why the code of a module that is out of the table is still mapped, without the
    /// [names](Record::with_names) of threads.
    pub(crate) fn residency(&self, record: &Record) -> Residency {
        match self {
            Self::Found(_, found) => Residency::Present { found: found.lines.clone() },
            Self::Left(Left { released: true, .. }) => match record.threads.running() {
                0 if record.locals_are_awaited() => Residency::ThreadLocals { threads: Vec::new() },
                0 => Residency::Postponed { why: "the dynamic linker could not be had".to_owned() },
                running => Residency::Threads { first: String::new(), running },
            },
            _ => Residency::Held { references: record.held() },
        }
    }
}

/// A load that is under way.
pub(crate) struct Loading {
    pub(super) thread: ThreadId,
    pub(super) since: Instant,
    /// The common number of replacements that are loaded together: they may be bound to each other before any
    /// of them is in service.
    set: Option<u64>,
}

impl Loading {
    pub(crate) fn begin() -> Self {
        Self { thread: ThreadId::this(), since: Instant::now(), set: None }
    }
}

/// How a module was left to its holders, or to its threads.
pub(crate) struct Left {
    /// Nobody holds it. Threads of its own are left, or its object has yet to be closed.
    pub(crate) released: bool,
    /// Whether its counter is closed. Not if membarrier was refused; the next look tries again.
    pub(crate) closed: bool,
    /// Its exit function is still to be run.
    pub(crate) exit: bool,
    /// It was in service once: the record of what was unloaded last takes it up.
    pub(crate) unloaded: bool,
    /// Its object is to be closed without a look for who stands in it.
    pub(crate) unproven: bool,
}

/// The findings of a look at a module.
pub(crate) struct Found {
    /// A line each.
    pub(crate) lines: Vec<String>,
    pub(crate) going: Going,
}

impl Left {
    /// Whether the last holder has left, the last thread has ended, and threads have run the destructors of
    /// their thread-locals. Then the caller ends the module.
    /// (It is the exit function, if that is still to be run, that tells threads to end.)
    fn is_free(&mut self, record: &Record) -> bool {
        self.released = self.released || self.closed && record.counter.try_finish();
        self.released
            && (self.exit || record.threads.running() == 0 && !record.locals_are_awaited())
    }
}

/// The modules that have a [`Life`], in the order in which it began or changed.
#[derive(Default)]
pub(crate) struct Lives(Vec<(Arc<Record>, Life)>);

impl Lives {
    fn at(&self, record: &Record) -> Option<usize> {
        self.0.iter().position(|(other, _)| **other == *record)
    }

    pub(crate) fn of(&self, record: &Record) -> Option<&Life> {
        self.at(record).map(|at| &self.0[at].1)
    }

    /// Begins or changes a life.
    pub(crate) fn set(&mut self, record: &Arc<Record>, life: Life) {
        self.remove(record);
        if !matches!(life, Life::Loading(_) | Life::Trying(_)) {
            record.set_state(State::Going);
        }
        self.0.push((record.clone(), life));
    }

    /// Takes the drain handle of an unload that was begun, so that it can be used without the lock:
    /// until it is put back or the unload has ended, the module drains.
    pub(crate) fn take_begun(&mut self, record: &Arc<Record>) -> Option<Box<Drain>> {
        let at = self.at(record)?;
        match &mut self.0[at].1 {
            life @ Life::Begun(_) => match mem::replace(life, Life::Draining(ThreadId::this())) {
                Life::Begun(handle) => Some(handle),
                _ => unreachable!("looked at just now"),
            },
            _ => None,
        }
    }

    /// The module is in service, for the first time or again.
    pub(crate) fn set_live(&mut self, record: &Record) {
        record.set_state(State::Live);
        self.remove(record);
    }

    /// It is gone.
    pub(crate) fn set_gone(&mut self, record: &Record) {
        record.set_state(State::Going);
        self.remove(record);
    }

    fn remove(&mut self, record: &Record) {
        if let Some(at) = self.at(record) {
            self.0.remove(at);
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(Arc<Record>, Life)> {
        self.0.iter()
    }

    pub(crate) fn loads(&self) -> impl Iterator<Item = (&Arc<Record>, &Loading)> {
        self.0.iter().filter_map(|(record, life)| match life {
            Life::Loading(loading) => Some((record, loading)),
            _ => None,
        })
    }

    /// Whether a replacement of this module, which is in the table, is on its way: another load under its name.
    pub(crate) fn is_replaced(&self, record: &Record) -> bool {
        self.loads().any(|(new, _)| **new != *record && new.name() == record.name())
    }

    /// Whether the load of `user`, which is bound to `provider`, has to wait for that. What an init function
    /// of a set loads is none of the set: it would stay if that is undone.
    pub(crate) fn is_coming(&self, user: &Record, provider: &Record) -> bool {
        let set = |record| self.loading(record).map(|loading| loading.set);
        set(provider).is_some_and(|of| of.is_none() || set(user) != Some(of))
    }

    /// These are loaded together.
    pub(crate) fn load_together(&mut self, records: &[Arc<Record>]) {
        let number = records.first().map(|record| record.serial);
        for (record, life) in &mut self.0 {
            if let (true, Life::Loading(loading)) = (records.contains(record), life) {
                loading.set = number;
            }
        }
    }

    pub(super) fn loading(&self, record: &Record) -> Option<&Loading> {
        match self.of(record) {
            Some(Life::Loading(loading)) => Some(loading),
            _ => None,
        }
    }

    /// Takes up all that stay for those who were found in them, so that no other thread ends them.
    pub(crate) fn take_found(&mut self) -> (Vec<(Arc<Record>, Left)>, Vec<Going>) {
        let found = self.0.iter_mut().filter(|(_, life)| matches!(life, Life::Found(..)));
        let taken = found.map(|(record, life)| {
            let ending = Life::Ending { forced: false, by: ThreadId::this() };
            match mem::replace(life, ending) {
                Life::Found(left, found) => ((record.clone(), left), found.going),
                _ => unreachable!("looked at just now"),
            }
        });
        taken.unzip()
    }

    /// The modules that were left to their holders, or to their threads, in such a way.
    pub(crate) fn left(&self, how: impl Fn(&Left) -> bool) -> Vec<Arc<Record>> {
        let is_so = |life: &Life| matches!(life, Life::Left(left) if how(left));
        self.0.iter().filter(|(_, life)| is_so(life)).map(|(record, _)| record.clone()).collect()
    }

    /// The counter of a module that was left to its holders is closed by now.
    pub(crate) fn set_closed(&mut self, record: &Record) {
        if let Some(at) = self.at(record) {
            if let Life::Left(left) = &mut self.0[at].1 {
                left.closed = true;
            }
        }
    }

    /// Takes up the first that was left to its holders and that nobody holds any more.
    pub(crate) fn take_free(&mut self) -> Option<(Arc<Record>, Left)> {
        let at = self.0.iter_mut().position(|(record, life)| match life {
            Life::Left(left) => left.is_free(record),
            _ => false,
        })?;
        let (record, life) = self.0.remove(at);
        self.set(&record, Life::Ending { forced: false, by: ThreadId::this() });
        let Life::Left(left) = life else { unreachable!("found as such") };
        Some((record, left))
    }
}
