//! The table of modules: what a lookup reads, without a lock.

use super::module::{Core, State};
use std::sync::Arc;

/// One state of the table. It never changes; a new one takes its place.
#[derive(Clone, Default)]
pub(super) struct Table {
    /// Sorted by name, which is unique.
    modules: Vec<Arc<Core>>,
}

impl Table {
    fn place(&self, name: &str) -> Result<usize, usize> {
        self.modules.binary_search_by(|core| core.name().cmp(name))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Core>> {
        self.place(name).ok().map(|at| &self.modules[at])
    }

    /// What is there for anybody but the loader.
    pub(super) fn visible(&self, name: &str) -> Option<&Arc<Core>> {
        self.get(name).filter(|core| core.state() != State::Unformed)
    }

    /// This table with `core` under its name, in the place of whatever was there.
    pub(super) fn with(&self, core: &Arc<Core>) -> Self {
        let mut modules = self.modules.clone();
        match self.place(core.name()) {
            Ok(at) => modules[at] = core.clone(),
            Err(at) => modules.insert(at, core.clone()),
        }
        Self { modules }
    }

    /// This table without `core`.
    pub(super) fn without(&self, core: &Core) -> Self {
        Self { modules: self.modules.iter().filter(|c| ***c != *core).cloned().collect() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Core>> {
        self.modules.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.modules.len()
    }

    /// What is visible, newest first.
    pub(super) fn newest_first(&self) -> Vec<&Arc<Core>> {
        let mut modules: Vec<_> =
            self.modules.iter().filter(|core| core.state() != State::Unformed).collect();
        modules.sort_by_key(|core| std::cmp::Reverse(core.serial));
        modules
    }
}
