//! The table of modules: what a lookup reads, without a lock.

use super::module::{Core, State};
use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// One state of the table. It never changes; a new one takes its place.
#[derive(Clone, Default)]
pub(super) struct Table {
    modules: HashSet<Named>,
}

/// A module, as its name, which is unique in a table and never changes.
#[derive(Clone)]
struct Named(Arc<Core>);

impl Borrow<str> for Named {
    fn borrow(&self) -> &str {
        self.0.name()
    }
}

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name().hash(state);
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.0.name() == other.0.name()
    }
}

impl Eq for Named {}

impl Table {
    pub(super) fn get(&self, name: &str) -> Option<&Arc<Core>> {
        self.modules.get(name).map(|named| &named.0)
    }

    /// What is there for anybody but the loader.
    pub(super) fn visible(&self, name: &str) -> Option<&Arc<Core>> {
        self.get(name).filter(|core| core.state() != State::Unformed)
    }

    /// This table with `core` under its name, in the place of whatever was there.
    pub(super) fn with(&self, core: &Arc<Core>) -> Self {
        let mut table = self.clone();
        table.modules.replace(Named(core.clone()));
        table
    }

    /// This table without `core`.
    pub(super) fn without(&self, core: &Core) -> Self {
        let mut table = self.clone();
        if self.get(core.name()).is_some_and(|there| **there == *core) {
            table.modules.remove(core.name());
        }
        table
    }

    /// In no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Core>> {
        self.modules.iter().map(|named| &named.0)
    }

    pub(super) fn len(&self) -> usize {
        self.modules.len()
    }

    /// What is visible, newest first.
    pub(super) fn newest_first(&self) -> Vec<&Arc<Core>> {
        let mut modules: Vec<_> =
            self.iter().filter(|core| core.state() != State::Unformed).collect();
        modules.sort_by_key(|core| std::cmp::Reverse(core.serial));
        modules
    }
}
