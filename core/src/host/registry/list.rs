//! The list of modules, as `/proc/modules` has it. Linux: `m_show`.

use super::life::Life;
use super::record::{Record, State};
use super::{Inner, Registry};
use crate::host::error::{Error, error};
use crate::host::object::linked::Place;
use std::fmt::Write;
use std::path::PathBuf;

/// What there is to say of a module, at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Info {
    /// Its name, which may be another one's by now if it is not in service.
    pub name: String,
    /// The path it was loaded from, as it was given.
    pub path: PathBuf,
    /// Where its object begins in memory; 0 while it is being opened.
    pub base: usize,
    /// The bytes of its object, in whole pages.
    pub size: usize,
    /// References held; -1 once it is unloaded.
    pub references: i64,
    /// Where it is between its load and its end.
    pub state: State,
    /// Why it is still mapped although it is unloaded, by the numbers of C's `enum module_residency`; 0
    /// for one that is in service.
    pub residency: i32,
    /// Later loads of the host have higher ones.
    pub generation: u64,
}

/// What was unloaded and is still in memory.
#[derive(Clone)]
pub(crate) struct Resident {
    pub(crate) info: Info,
    pub(crate) place: Place,
    /// Its exit function was run: not to be depended on.
    pub(crate) has_ended: bool,
}

impl Inner {
    /// Takes one that has gone off the list; false if it is not on it. The linker's record of it can be
    /// another one's by now.
    pub(crate) fn strike(&mut self, gone: &Resident) -> bool {
        let linked = gone.place.linked;
        let there = self.residents.get(&linked);
        there.is_some_and(|there| there.info.generation == gone.info.generation)
            && self.residents.remove(&linked).is_some()
    }
}

impl Record {
    pub(crate) fn info(&self, residency: i32) -> Info {
        let place = self.loaded().map(|loaded| &loaded.object.place);
        Info {
            name: self.name().to_owned(),
            path: self.path.clone(),
            base: place.map_or(0, |place| place.range.start),
            size: place.map_or(0, |place| place.size),
            references: self.refcount(),
            state: self.state(),
            residency,
            generation: self.serial,
        }
    }
}

impl Registry {
    /// The modules that are there, newest first, then those that were unloaded and are held or still
    /// have threads, and last those whose code the dynamic linker keeps.
    pub(crate) fn infos(&self) -> Vec<Info> {
        let residents: Vec<_> = {
            let inner = self.lock();
            inner.residents.values().cloned().collect()
        };
        // Without our lock, since the linker's is taken.
        let (there, gone): (Vec<_>, Vec<_>) =
            residents.into_iter().partition(|resident: &Resident| resident.place.is_mapped());
        let mut inner = self.lock();
        for resident in &gone {
            inner.strike(resident);
        }
        let table = self.table();
        let mut infos: Vec<_> = table.newest_first().iter().map(|r| r.info(0)).collect();
        for (record, life) in inner.lives.iter() {
            let is_in_table = table.get(record.name()) == Some(record);
            if is_in_table || matches!(life, Life::Loading(_)) {
                continue;
            }
            infos.push(record.info(life.residency(record).number()));
        }
        infos.extend(there.into_iter().map(|resident| resident.info));
        infos
    }

    /// `EDQUOT` if more is resident than the host was told to allow.
    pub(crate) fn check_residents_fit(&self) -> Result<(), Error> {
        let Some(most) = self.lock().most_resident else { return Ok(()) };
        let residents: Vec<_> =
            self.infos().into_iter().filter(|info| info.residency != 0).collect();
        let bytes: usize = residents.iter().map(|info| info.size).sum();
        if bytes <= most {
            return Ok(());
        }
        let named: Vec<_> = residents
            .iter()
            .take(3)
            .map(|info| format!("'{}' ({} bytes)", info.name, info.size))
            .collect();
        Err(error!(
            libc::EDQUOT,
            "no module is loaded: {} unloaded ones are still mapped, with {bytes} bytes, and the host's limit \
             is {most}; the first are {}; see module_host_each for the reasons",
            residents.len(),
            named.join(", ")
        ))
    }

    pub(crate) fn list(&self) -> String {
        let inner = self.lock();
        let table = self.table();
        let mut text = String::new();
        for record in table.newest_first() {
            let Some(loaded) = record.loaded() else { continue };
            let links = record.links(&inner);
            let mut deps = String::new();
            for user in links.used_by.iter().rev() {
                deps.push_str(user.name());
                deps.push(',');
            }
            if record.is_permanent() || record.pinned.get().is_some() {
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
            if matches!(inner.lives.of(record), Some(Life::Ending { forced: true, .. })) {
                text.push_str(" (R)");
            }
            text.push('\n');
        }
        for (record, life) in inner.lives.iter() {
            let (Some(loaded), Life::Found(_, found)) = (record.loaded(), life) else { continue };
            let place = &loaded.object.place;
            let _ = writeln!(
                text,
                "{} {} 0 - Unloading {:#018x} ({})",
                record.name(),
                place.size,
                place.range.start,
                found.lines.join("; ")
            );
        }
        text
    }
}
