//! The list of modules, as `/proc/modules` has it. Linux: `m_show`.

use super::host::Shared;
use std::fmt::Write;

pub(super) fn text(host: &Shared) -> String {
    let _lock = host.lock();
    let table = host.table();
    let mut text = String::new();
    for core in table.newest_first() {
        let Some(loaded) = core.loaded() else { continue };
        let links = core.links();
        let mut deps = String::new();
        for user in links.used_by.iter().rev() {
            deps.push_str(user.name());
            deps.push(',');
        }
        if core.is_permanent() {
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
            core.name(),
            place.size,
            core.refcount(),
            core.state().title(),
            place.range.start
        );
        // R: it is being removed by force.
        if links.forced {
            text.push_str(" (R)");
        }
        text.push('\n');
    }
    text
}
