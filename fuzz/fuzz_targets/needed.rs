//! Objects that need each other, in any way: chains, cycles, missing ones, names with slashes,
//! loaded and unloaded in any order, as modules and as what modules bring along.
//!
//! An input is text: first, for each object, what it needs; then letters for what is done with
//! it. Objects are written by the target, without a compiler; what is looked at is what must
//! hold whatever the order: who is bound to whom, as the linker's own list of objects says,
//! depends on whom, and in the end nothing is left.
#![no_main]

mod input;

use ::module_ref::*;
use input::Input;
use libfuzzer_sys::fuzz_target;
use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_int};
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::OnceLock;

const OBJECTS: usize = 5;
const NAMES: [&str; OBJECTS] = ["a", "b", "c", "d", "e"];

/// A shared object with nothing in it but a name and what it needs.
fn object(soname: &str, needed: &[String], folder: &str) -> Vec<u8> {
    let mut strings = vec![0u8];
    let mut string = |text: &str| {
        let at = strings.len() as u64;
        strings.extend_from_slice(text.as_bytes());
        strings.push(0);
        at
    };
    let mut entries: Vec<(u64, u64)> = needed.iter().map(|name| (1, string(name))).collect();
    // DT_SONAME, DT_RUNPATH
    entries.extend([(14, string(soname)), (29, string(folder))]);
    const HEADERS: u64 = 64 + 2 * 56;
    let dynamic_size = (entries.len() as u64 + 5) * 16;
    let symbols = HEADERS + dynamic_size;
    let strings_at = symbols + 24;
    // DT_STRTAB, DT_STRSZ, DT_SYMTAB, DT_SYMENT, and the end
    let rest = [(5, strings_at), (10, strings.len() as u64), (6, symbols), (11, 24), (0, 0)];
    entries.extend(rest);
    let size = strings_at + strings.len() as u64;
    let machine = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut put = |bytes, values: &[u64]| {
        file.extend(values.iter().flat_map(|value| value.to_le_bytes().into_iter().take(bytes)));
    };
    put(2, &[3, machine]);
    put(4, &[1]);
    put(8, &[0, 64, 0]);
    put(4, &[0]);
    put(2, &[64, 56, 2, 64, 0, 0]);
    // PT_LOAD of all of it, PT_DYNAMIC; both can be read and written.
    for (kind, at, len, align) in [(1, 0, size, 4096), (2, HEADERS, dynamic_size, 8)] {
        put(4, &[kind, 6]);
        put(8, &[at, at, at, len, len, align]);
    }
    for (tag, value) in entries {
        put(8, &[tag, value]);
    }
    put(8, &[0; 3]);
    file.extend(strings);
    assert_eq!(file.len() as u64, size);
    file
}

struct World {
    host: *mut module_host,
    folder: &'static Path,
    /// What an object names, and whether it can be found.
    needs: Vec<BTreeSet<usize>>,
    broken: Vec<bool>,
    handles: Vec<Option<*mut module>>,
}

impl World {
    fn path(&self, i: usize) -> CString {
        let path = self.folder.join(format!("{}.so", NAMES[i]));
        CString::new(path.into_os_string().into_encoded_bytes()).unwrap()
    }

    /// All that it brings along, itself too.
    fn closure(&self, i: usize) -> BTreeSet<usize> {
        let mut all = BTreeSet::from([i]);
        let mut next = vec![i];
        while let Some(at) = next.pop() {
            next.extend(self.needs[at].iter().filter(|&&needed| all.insert(needed)));
        }
        all
    }

    fn is_mapped(&self, i: usize) -> bool {
        // SAFETY: a look, which is given back.
        unsafe {
            let look = libc::dlopen(self.path(i).as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD);
            !look.is_null() && libc::dlclose(look) == 0
        }
    }

    /// Names of the modules that depend on this one, as the list has it.
    fn users(&self, i: usize) -> BTreeSet<usize> {
        let mut buf = vec![0u8; 4096];
        // SAFETY: the host is there, and the buffer.
        unsafe { module_host_list(self.host, buf.as_mut_ptr().cast(), buf.len()) };
        let list = CStr::from_bytes_until_nul(&buf).unwrap().to_str().unwrap();
        let line = list.lines().find(|line| line.split(' ').next() == Some(NAMES[i]));
        let deps = line.expect("a module that is live").split(' ').nth(3).unwrap();
        deps.split(',').filter_map(|user| NAMES.iter().position(|name| *name == user)).collect()
    }

    /// The modules that a module is bound to: those that it names, and those that are named by
    /// what it brings along and is no module.
    fn bound(&self, i: usize) -> BTreeSet<usize> {
        let (mut modules, mut seen, mut next) = (BTreeSet::new(), BTreeSet::from([i]), vec![i]);
        while let Some(at) = next.pop() {
            for &needed in self.needs[at].iter().filter(|&&needed| seen.insert(needed)) {
                if self.handles[needed].is_some() {
                    modules.insert(needed);
                } else {
                    next.push(needed);
                }
            }
        }
        modules
    }

    unsafe fn load(&mut self, i: usize) {
        let (path, name) = (self.path(i), CString::new(NAMES[i]).unwrap());
        let bound = self.bound(i);
        let mut module = ptr::null_mut();
        let rc = unsafe { module_load(self.host, path.as_ptr(), name.as_ptr(), &mut module) };
        if self.handles[i].is_some() {
            return assert_eq!(rc, -libc::EEXIST);
        }
        if self.closure(i).iter().any(|&object| self.broken[object]) {
            assert_eq!(rc, -libc::ENOENT, "something is missing");
            return;
        }
        assert_eq!(rc, 0, "load {}: {:?}", NAMES[i], unsafe {
            CStr::from_ptr(module_last_error())
        });
        self.handles[i] = Some(module);
        for provider in bound {
            // But for a cycle.
            let cycle = self.closure(provider).contains(&i);
            assert!(
                cycle || self.users(provider).contains(&i),
                "{} needs {}",
                NAMES[i],
                NAMES[provider]
            );
        }
    }

    unsafe fn unload(&mut self, i: usize) {
        let Some(module) = self.handles[i] else { return };
        let users = self.users(i);
        let name = CString::new(NAMES[i]).unwrap();
        let rc = unsafe { module_unload(self.host, name.as_ptr(), 0, 0) };
        if !users.is_empty() {
            return assert_eq!(rc, -libc::EWOULDBLOCK);
        }
        assert!(rc == 0 || rc == 1, "unload: {rc}");
        assert_eq!(rc == 1, self.is_mapped(i), "what it says is so");
        // Somebody who is there needs it, or nobody does.
        let needed = |user: usize| self.handles[user].is_some() && self.closure(user).contains(&i);
        assert_eq!(rc == 1, (0..OBJECTS).any(|user| user != i && needed(user)), "resident");
        unsafe { module_handle_put(module) };
        self.handles[i] = None;
    }

    unsafe fn check(&self) {
        for i in 0..OBJECTS {
            let there =
                (0..OBJECTS).any(|j| self.handles[j].is_some() && self.closure(j).contains(&i));
            assert_eq!(self.is_mapped(i), there, "{} is mapped", NAMES[i]);
            let Some(module) = self.handles[i] else { continue };
            let users = self.users(i);
            assert!(
                users.iter().all(|&user| self.closure(user).contains(&i)),
                "a user without a need"
            );
            // SAFETY: we have a handle.
            assert_eq!(unsafe { module_refcount(module) }, users.len() as i64);
        }
    }
}

/// A folder for this process, in memory if there is one.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let shm = Path::new("/dev/shm");
        let parent = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
        let folder = parent.join(format!("module-ref-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        unsafe extern "C" {
            fn atexit(function: extern "C" fn()) -> c_int;
        }
        extern "C" fn clear() {
            let _ = std::fs::remove_dir_all(FOLDER.get().unwrap());
        }
        // SAFETY: a function that stays.
        unsafe { atexit(clear) };
        folder
    })
}

fuzz_target!(|data: &[u8]| {
    input::keep(|| {
        folder();
        // SAFETY: a host that nobody has used.
        unsafe { assert_eq!(module_host_free(module_host_new()), 0) };
    });
    let mut input = Input::new(data);
    let mut world = World {
        host: module_host_new(),
        folder: folder(),
        needs: vec![BTreeSet::new(); OBJECTS],
        broken: vec![false; OBJECTS],
        handles: vec![None; OBJECTS],
    };
    let path = world.folder.to_str().unwrap();
    for i in 0..OBJECTS {
        let mut needed = Vec::new();
        for _ in 0..input.digit() % 4 {
            match input.digit() {
                // By its path; the linker has it then by another name.
                n @ 10..=14 => {
                    world.needs[i].insert(n - 10);
                    needed.push(format!("{path}/{}.so", NAMES[n - 10]));
                }
                15 => {
                    world.broken[i] = true;
                    needed.push(["no-such.so", "/no/such.so", "x/", "."][i % 4].into());
                }
                n => {
                    world.needs[i].insert(n % OBJECTS);
                    needed.push(format!("{}.so", NAMES[n % OBJECTS]));
                }
            }
        }
        // A new file, as installers make it: another inode.
        let file = world.folder.join(format!("{}.so", NAMES[i]));
        let _ = std::fs::remove_file(&file);
        std::fs::write(&file, object(&format!("{}.so", NAMES[i]), &needed, path)).unwrap();
    }
    // SAFETY: the objects have no code.
    unsafe {
        while let Some(letter) = input.letter() {
            match letter {
                b'l' => world.load(input.digit() % OBJECTS),
                b'u' => world.unload(input.digit() % OBJECTS),
                _ => continue,
            }
            world.check();
        }
        for _ in 0..OBJECTS {
            for i in 0..OBJECTS {
                world.unload(i);
            }
        }
        world.check();
        assert_eq!(module_host_free(world.host), 0, "nothing is left");
    }
});
