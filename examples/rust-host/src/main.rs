//! A host in Rust: it loads plugins in C or Rust, calls them on several threads, and reloads
//! each one when its file has changed.
//!
//!     rust-host [--reloads N] PLUGIN.so...
//!
//! A plugin exports `const char *describe(void)` and `int64_t step(int64_t)`. Worker threads send
//! numbers through all plugins, one after the other. With `--reloads N` the program ends after
//! that many reloads; otherwise it runs until it is stopped.

use module_ref::host::{Error, Host, Reference, State, Unload, Unloaded};
use std::ffi::{CStr, c_char};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};
use std::{env, fs, thread};

/// The types that a plugin promises its symbols to have.
type Describe = unsafe extern "C" fn() -> *const c_char;
type Step = unsafe extern "C" fn(i64) -> i64;

const WORKERS: usize = 2;
const PATIENCE: Duration = Duration::from_secs(5);

/// A plugin's file, and what it looked like when it was loaded.
struct Watched {
    path: PathBuf,
    name: String,
    seen: Option<(SystemTime, u64)>,
}

impl Watched {
    /// Whether the file is another one now. A file that is being renamed may be missing for a
    /// moment: that is no change.
    fn has_changed(&mut self) -> bool {
        let now = fs::metadata(&self.path).and_then(|m| Ok((m.modified()?, m.len()))).ok();
        let changed = now.is_some() && now != self.seen;
        if changed {
            self.seen = now;
        }
        changed
    }
}

/// What the plugin says of itself.
fn describe(plugin: &Reference) -> Result<String, Error> {
    // SAFETY: the plugin contract above. The symbol cannot outlive the reference.
    let describe = unsafe { plugin.symbol::<Describe>("describe")? };
    // SAFETY: as above; the text is the plugin's, which is held.
    Ok(unsafe { CStr::from_ptr(describe()) }.to_string_lossy().into_owned())
}

/// Sends a number through every plugin that is in service. `None` if one was not: it has just
/// been replaced, and is found at the next try.
fn calculate(host: &Host, names: &[String], number: i64) -> Result<Option<i64>, Error> {
    let mut number = number;
    for name in names {
        // The code stays for as long as there is `plugin`, however often it is replaced meanwhile.
        let Some(plugin) = host.find_get(name) else { return Ok(None) };
        if plugin.module().state() == State::Coming {
            return Ok(None);
        }
        // SAFETY: the plugin contract above.
        let step = unsafe { plugin.symbol::<Step>("step")? };
        // SAFETY: as above.
        number = unsafe { step(number) };
    }
    Ok(Some(number))
}

/// Loads the plugin, or puts the new file in the place of the old one.
fn bring_in(host: &Host, plugin: &Watched, reload: bool) -> Result<(), Error> {
    if reload {
        // SAFETY: the user has named the file as a plugin, whose code may run in this process.
        let old = unsafe { host.replace(&plugin.name, &plugin.path, Some(PATIENCE))? };
        if let Unloaded::Resident(why) = old {
            eprintln!("{}: the old version stays in memory: {why}", plugin.name);
        }
    } else {
        // SAFETY: as above.
        unsafe { host.load(&plugin.path)? };
    }
    let what = if reload { "reloaded" } else { "loaded" };
    let plugin = host.find_get(&plugin.name).expect("brought in above, and taken out by nobody");
    println!("{what} {}: it {}", plugin.name(), describe(&plugin)?);
    Ok(())
}

fn run(paths: &[PathBuf], reloads: u64) -> Result<(), Error> {
    let host = Host::new();
    let mut watched = Vec::new();
    for path in paths {
        // "./double.so" is module "double".
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut plugin = Watched { path: path.clone(), name, seen: None };
        plugin.has_changed();
        bring_in(&host, &plugin, false)?;
        watched.push(plugin);
    }
    let names: Vec<_> = watched.iter().map(|plugin| plugin.name.clone()).collect();
    let (stop, calculated) = (AtomicBool::new(false), AtomicU64::new(0));
    let work = || {
        while !stop.load(Relaxed) {
            match calculate(&host, &names, 1) {
                Ok(Some(_)) => _ = calculated.fetch_add(1, Relaxed),
                Ok(None) => thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        let mut done = 0;
        while done < reloads {
            thread::sleep(Duration::from_millis(50));
            for plugin in &mut watched {
                if !plugin.has_changed() {
                    continue;
                }
                // A version that cannot be loaded leaves the old one in service.
                match bring_in(&host, plugin, true) {
                    Ok(()) => done += 1,
                    Err(error) => eprintln!("{error}"),
                }
            }
        }
        println!("1 becomes {}", calculate(&host, &names, 1)?.expect("nobody replaces it now"));
        stop.store(true, Relaxed);
        workers.into_iter().try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    println!("{} calculations", calculated.load(Relaxed));
    for name in &names {
        match host.unload(name, Unload::within(PATIENCE))? {
            Unloaded::Unmapped => println!("unloaded {name}"),
            Unloaded::Resident(why) => println!("unloaded {name}, which stays in memory: {why}"),
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut arguments: Vec<_> = env::args().skip(1).collect();
    let mut reloads = Some(u64::MAX);
    if arguments.first().is_some_and(|first| first == "--reloads") && arguments.len() > 1 {
        reloads = arguments[1].parse().ok();
        arguments.drain(..2);
    }
    let (Some(reloads), false) = (reloads, arguments.is_empty()) else {
        eprintln!("usage: rust-host [--reloads N] PLUGIN.so...");
        return ExitCode::from(2);
    };
    // With a folder: a name without a slash would be looked for where libraries are, too.
    let paths: Vec<_> = arguments.iter().map(|path| Path::new(".").join(path)).collect();
    match run(&paths, reloads) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("rust-host: {error}");
            ExitCode::FAILURE
        }
    }
}
