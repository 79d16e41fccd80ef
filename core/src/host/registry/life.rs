//! Where modules are on their way in and out.

use super::record::{Record, State};
use super::{ThreadId, this_thread_id};
use crate::Drain;
use std::mem;
use std::process;
use std::sync::Arc;
use std::time::Instant;

/// What a thread, or an event loop, is doing with a module. A module that is in service is in the
/// table and has none; one that is gone has none, and is not in the table.
pub(crate) enum Life {
    /// A thread loads it. It is UNFORMED, COMING, or, if that has failed, GOING. It is in the
    /// table, unless it is a replacement.
    Loading(Loading),
    /// A thread waits for its last reference. GOING, like all that follow, and in the table.
    Draining,
    /// An event loop waits for its last reference. Whoever takes the handle out of this ends the
    /// unload, or puts it back.
    Begun(Box<Drain>),
    /// A thread runs its exit function and closes it, or waits until nobody holds what it has
    /// replaced.
    Ending {
        /// For the list: it may be held.
        forced: bool,
    },
    /// It is out of the table, and its code stays for those who hold it.
    Left(Left),
}

/// A load that is under way.
pub(crate) struct Loading {
    pub(super) thread: ThreadId,
    pub(super) process: u32,
    pub(super) since: Instant,
}

impl Loading {
    pub(super) fn begin() -> Self {
        Self { thread: this_thread_id(), process: process::id(), since: Instant::now() }
    }
}

/// How a module was left to its holders.
pub(crate) struct Left {
    /// Whether its counter is closed. Not if membarrier was refused; the next look tries again.
    pub(crate) closed: bool,
    /// Its exit function is still to be run.
    pub(crate) exit: bool,
    /// It was in service once: the record of what was unloaded last takes it up.
    pub(crate) unloaded: bool,
}

impl Left {
    /// Whether the last holder has left; then the module is the caller's to end.
    fn is_free(&mut self, record: &Record) -> bool {
        self.closed = self.closed || record.close();
        self.closed && record.counter.try_finish()
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
        if !matches!(life, Life::Loading(_)) {
            record.set_state(State::Going);
        }
        self.0.push((record.clone(), life));
    }

    /// Takes the drain handle of an unload that was begun, so that it can be used without the lock:
    /// until it is put back or the unload has ended, the module drains.
    pub(crate) fn take_begun(&mut self, record: &Arc<Record>) -> Option<Box<Drain>> {
        let at = self.at(record)?;
        match &mut self.0[at].1 {
            life @ Life::Begun(_) => match mem::replace(life, Life::Draining) {
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

    pub(super) fn loading(&self, record: &Record) -> Option<&Loading> {
        match self.of(record) {
            Some(Life::Loading(loading)) => Some(loading),
            _ => None,
        }
    }

    /// Takes up the first that was left to its holders and that nobody holds any more.
    pub(crate) fn take_free(&mut self) -> Option<(Arc<Record>, Left)> {
        let at = self.0.iter_mut().position(|(record, life)| match life {
            Life::Left(left) => left.is_free(record),
            _ => false,
        })?;
        let (record, life) = self.0.remove(at);
        self.set(&record, Life::Ending { forced: false });
        let Life::Left(left) = life else { unreachable!("found as such") };
        Some((record, left))
    }
}
