//! The list of modules, as `/proc/modules` has it. Linux: `m_show`.

use super::Registry;
use super::life::Life;
use std::fmt::Write;

impl Registry {
    pub(crate) fn list(&self) -> String {
        let inner = self.lock();
        let table = self.table();
        let mut text = String::new();
        for record in table.newest_first() {
            let Some(loaded) = record.loaded() else { continue };
            let links = record.links();
            let mut deps = String::new();
            for user in links.used_by.iter().rev() {
                deps.push_str(user.name());
                deps.push(',');
            }
            if record.is_permanent() {
                deps.push_str("[permanent],");
            }
            if deps.is_empty() {
                deps.push('-');
            }
            let place = &loaded.object.place;
            // Writing to a String does not fail.
            let _ = write!(
                text,
                "{} {} {} {deps} {} {:#018x}",
                record.name(),
                place.size,
                record.refcount(),
                record.state().title(),
                place.range.start
            );
            // R: it is being removed by force.
            if matches!(inner.lives.of(record), Some(Life::Ending { forced: true })) {
                text.push_str(" (R)");
            }
            text.push('\n');
        }
        text
    }
}
