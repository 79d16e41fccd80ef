//! The table of modules: what a lookup reads, without a lock.

use super::record::{Record, State};
use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// One state of the table. It never changes; a new one takes its place.
#[derive(Clone, Default)]
pub(crate) struct Table {
    modules: HashSet<Named>,
}

/// A module, as its name, which is unique in a table and never changes.
#[derive(Clone)]
struct Named(Arc<Record>);

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
    pub(crate) fn get(&self, name: &str) -> Option<&Arc<Record>> {
        self.modules.get(name).map(|named| &named.0)
    }

    /// What is there for anybody but the loader.
    pub(crate) fn visible(&self, name: &str) -> Option<&Arc<Record>> {
        self.get(name).filter(|record| record.state() != State::Unformed)
    }

    /// This table with each record under its name, in the place of whatever was there.
    pub(crate) fn with(&self, records: &[Arc<Record>]) -> Self {
        let mut table = self.clone();
        for record in records {
            table.modules.replace(Named(record.clone()));
        }
        table
    }

    /// This table without what is under the name of `record`.
    pub(crate) fn without(&self, record: &Record) -> Self {
        let mut table = self.clone();
        table.modules.remove(record.name());
        table
    }

    /// In no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.modules.iter().map(|named| &named.0)
    }

    pub(crate) fn len(&self) -> usize {
        self.modules.len()
    }

    /// What is visible, newest first.
    pub(crate) fn newest_first(&self) -> Vec<&Arc<Record>> {
        let mut modules: Vec<_> =
            self.iter().filter(|record| record.state() != State::Unformed).collect();
        modules.sort_by_key(|record| std::cmp::Reverse(record.serial));
        modules
    }
}
