//! How many have an object open, and what the last close of it would unmap.
//!
//! glibc counts that in the private part of its record, and tells nobody. So it is asked by what it
//! does: the program itself is opened twice and closed twice, and the one number that goes up and down
//! with that is the count. Right behind it stands where the object came from.

use super::{Linked, List, Peek, Place, each_object, find_object, list};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use std::{mem, ptr};

/// As much of a record as is searched, in numbers of 32 bits: each version has more.
const NUMBERS: usize = 128 * size_of::<usize>() / 4;

/// Where an object came from, as glibc numbers it: the program, what that needs, and what was loaded by
/// dlopen(3).
const PROGRAM: u32 = 0;
const NEEDED: u32 = 1;
const LOADED: u32 = 2;

/// Which number of a record is the count; 0: not known. Relaxed: it is the same whoever finds it.
static COUNT_AT: AtomicUsize = AtomicUsize::new(0);

/// Finds out where the count is, before anybody asks for one. After so many tries there is none.
pub(crate) fn prepare() {
    static TRIES: AtomicUsize = AtomicUsize::new(0);
    for _ in 0..3 {
        if COUNT_AT.load(Relaxed) == 0 && TRIES.fetch_add(1, Relaxed) < 30 {
            COUNT_AT.store(find().unwrap_or(0), Relaxed);
        }
    }
}

/// `None` also if another thread has just opened or closed the program.
fn find() -> Option<usize> {
    let program = Linked::first()?;
    // SAFETY: the program stays.
    let seen = || -> Vec<u32> { (0..NUMBERS).map(|at| unsafe { program.number(at) }).collect() };
    // SAFETY: no name means the program.
    let open = || unsafe { libc::dlopen(ptr::null(), libc::RTLD_LAZY) };
    // SAFETY: what was opened above.
    let close = |handle: *mut c_void| unsafe { handle.is_null() || libc::dlclose(handle) == 0 };
    let none = seen();
    let (one, one_seen) = (open(), seen());
    let (two, two_seen) = (open(), seen());
    let (_, one_left) = (close(two), seen());
    let (_, none_left) = (close(one), seen());
    let steps = [(one_seen, 1), (two_seen, 2), (one_left, 1), (none_left, 0)];
    let is_count =
        |at: &usize| steps.iter().all(|(seen, n)| seen[*at] == none[*at].wrapping_add(*n));
    let mut found = (1..NUMBERS - 1).filter(is_count);
    let at = found.next().filter(|_| found.next().is_none())?;
    // SAFETY: both stay.
    let is_from = |object: Linked, origin| unsafe { object.origin(at) } == origin;
    let linker = find_object().and_then(|function| Linked::at(function as usize));
    let are_known = is_from(program, PROGRAM) && linker.is_none_or(|it| is_from(it, NEEDED));
    are_known.then_some(at)
}

impl Linked {
    /// # Safety
    ///
    /// It is loaded, and `at` is less than `NUMBERS`. So for all that follow.
    unsafe fn number(self, at: usize) -> u32 {
        // Relaxed: the linker writes it under its lock, and nothing is concluded of other memory.
        // SAFETY: the caller's promise.
        unsafe { (*self.0.cast::<AtomicU32>().add(at)).load(Relaxed) }
    }

    unsafe fn origin(self, count_at: usize) -> u32 {
        // SAFETY: the caller's promise.
        let bits = unsafe { self.number(count_at + 1) };
        if cfg!(target_endian = "big") { bits >> 30 } else { bits & 3 }
    }

    /// The object that a handle is of, if it is on the program's own list: what is not loaded, and
    /// another namespace's, is not.
    pub(crate) fn listed(handle: *mut c_void) -> Option<Self> {
        let first = Self::first()?;
        // SAFETY: what is on the list is loaded, and nothing comes or goes meanwhile.
        each_object(|_| Some(unsafe { first.list() }.find(|at| at.0.cast() == handle.cast_const())))
            .flatten()
    }

    /// How many have it open; `None` where glibc has no such count.
    pub(crate) unsafe fn shares(self) -> Option<u32> {
        let at = COUNT_AT.load(Relaxed);
        // SAFETY: the caller's promise.
        (at != 0).then(|| unsafe { self.number(at) })
    }

    /// Whether it was there when the program began, or came with what was, and stays.
    pub(crate) unsafe fn is_of_program(self) -> bool {
        let at = COUNT_AT.load(Relaxed);
        // SAFETY: the caller's promise.
        at != 0 && unsafe { self.origin(at) } != LOADED
    }

    /// Whether the linker never unmaps it: it asks for that itself, or has been opened with
    /// `RTLD_NODELETE`, or its unique symbols are in use. The linker does not count closes of it.
    pub(crate) unsafe fn is_for_good(self) -> bool {
        // SAFETY: the caller's promise, throughout: the name is that of an object that is loaded.
        unsafe {
            if self.stays() {
                return true;
            }
            if !self.hold() {
                return false;
            }
            let open = self.shares();
            libc::dlclose(self.0.cast_mut().cast());
            open.is_some() && self.shares() == open
        }
    }

    /// What is unmapped if it is closed by the last who have it open: it, and what it needs, if nobody
    /// has that open and nothing else needs it. Nothing, if something that stays needs it.
    ///
    /// And *strays*: what nobody has open and nothing needs, and is there all the same. The
    /// linker keeps it, because another object has bound a symbol of it, or a thread has a thread-local
    /// of it; which these are it does not tell. It may be unmapped by any close.
    pub(crate) unsafe fn goes_at_last(self) -> (Vec<Place>, Vec<Place>) {
        let Some(first) = Self::first() else { return Default::default() };
        // SAFETY: it is on the list.
        let place = |it: Self| unsafe { it.place(ptr::null_mut()) };
        let places = |all: Vec<Self>| all.into_iter().filter_map(place).collect();
        let found = each_object(|info| {
            // SAFETY: what is on the list is loaded, and nothing comes or goes meanwhile.
            let (going, strays) = unsafe { self.goes_and_strays(first.list(), &mut list(info)) };
            Some((places(going), places(strays)))
        });
        found.unwrap_or_default()
    }

    unsafe fn goes_and_strays(
        self,
        objects: impl Iterator<Item = Self>,
        list: &mut List,
    ) -> (Vec<Self>, Vec<Self>) {
        // SAFETY: the caller's promise.
        unsafe {
            let all: Vec<_> = objects.collect();
            let mut by_name = BTreeMap::<Vec<u8>, Vec<Self>>::new();
            for &it in &all {
                for name in it.all_names(list) {
                    by_name.entry(name).or_default().push(it);
                }
            }
            let may_go = |it: &Self| {
                let is_loose = |it: &Self| !it.is_of_program() && it.shares() == Some(0);
                *it == self || is_loose(it) && !list.told(*it).stays
            };
            let (left, stay): (Vec<_>, Vec<_>) = all.into_iter().partition(may_go);
            let mut left = BTreeSet::from_iter(left);
            // Takes out of what is left all that these need, however many others are between.
            let mut take_needed = |mut users: Vec<Self>, left: &mut BTreeSet<Self>| {
                let mut at = 0;
                while at < users.len() {
                    for name in &list.told(users[at]).needed {
                        let named = by_name.get(name.to_bytes()).into_iter().flatten();
                        users.extend(named.filter(|it| left.remove(it)));
                    }
                    at += 1;
                }
                users
            };
            take_needed(stay, &mut left);
            let going =
                if left.remove(&self) { take_needed(vec![self], &mut left) } else { Vec::new() };
            (going, left.into_iter().collect())
        }
    }

    /// Opens it once more. Whether that could be done.
    pub(crate) unsafe fn hold(self) -> bool {
        // SAFETY: the caller's promise.
        let peek = unsafe { Peek::at(self.base_and_name().1) };
        peek.filter(|peek| peek.linked == self).map(mem::forget).is_some()
    }
}
