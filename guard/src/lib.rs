//! `dlclose` for programs that nobody changes: preloaded, it looks before code is unmapped.
//!
//! The look is the host's own (`presence` in the crate `module-ref`). Whoever is found in an object keeps
//! it mapped: the guard does not pass the close on, so that the program's share in the object is the
//! guard's from then on. Each later `dlclose` looks again at what the guard keeps.
//!
//! | file   | what is in it |
//! | ------ | ------------- |
//! | `turn` | one thread at a time closes; it never waits for another one for long |
//! | `kept` | which objects the guard has a share in |
//! | here   | what becomes of a close |
//!
//! # The rules
//!
//! - **G1** Only a last close unmaps anything: the object, and what nobody has open and the linker has kept for
//!   that object or for an earlier one. The count of those who have an object open is the linker's. A close that is
//!   not the last is passed on without a look.
//! - **G2** Between the look and the close nobody enters unseen. Closes take turns. A thread that opens the
//!   object meanwhile has a share of its own: the close that was looked at is no longer the last, and that
//!   thread's close is looked at itself.
//! - **G3** To keep is always safe. Whatever cannot be found out (whether a close is the last, who is there, whose
//!   turn it is, anything in a handler of a fork) ends with a share that is kept.
//! - **G4** The guard's own calls of the linker are not looked at; the destructors that a close runs may close
//!   objects, too, and those closes are.
//! - **G5** What a close unmaps is decided when it begins: to open the object again, in a destructor, does not keep
//!   it. So the guard takes no share in what may be leaving, and passes on closes of it. (What a destructor of an
//!   object has opened and closed again counts as leaving, too, until the outermost close has ended.)
#![cfg(all(target_os = "linux", target_env = "gnu"))]

mod kept;
mod turn;

use modref::cancel::NotCancelled;
use modref::host::raw::{Close, Foreign, Last, fork_is_under_way};
use modref::{stderr, tool};
use std::ffi::{c_int, c_void};
use std::mem::{self, MaybeUninit};
use std::panic::{self, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};
use turn::Turn;

/// The `dlclose` behind this one.
fn real() -> Option<Close> {
    static REAL: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());
    // Relaxed: it is the same whoever finds it.
    let mut found = REAL.load(Relaxed);
    if found.is_null() {
        // SAFETY: a name.
        found = unsafe { libc::dlsym(libc::RTLD_NEXT, c"dlclose".as_ptr()) };
        REAL.store(found, Relaxed);
    }
    // SAFETY: the function of that name has this type.
    (!found.is_null()).then(|| unsafe { mem::transmute::<*mut c_void, Close>(found) })
}

/// dlclose(3), except that an object stays mapped while somebody is found in it.
///
/// # Safety
///
/// As for dlclose(3).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlclose(handle: *mut c_void) -> c_int {
    let Some(real) = real() else { return -1 };
    if Turn::is_inside() {
        // SAFETY: the caller's promise.
        return unsafe { real(handle) };
    }
    if fork_is_under_way() {
        kept::adopt(handle);
        return 0;
    }
    // A cancellation would leave the turn, and the linker's lock, in the middle.
    let _whole = NotCancelled::until_dropped();
    // SAFETY: the C library's own thread-local.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    // SAFETY: the caller's promise.
    let close = || unsafe { guarded(handle, real) };
    // What a panic leaves open is kept (G3), and the program hears nothing of it.
    let rc = panic::catch_unwind(AssertUnwindSafe(close)).unwrap_or(0);
    if rc == 0 {
        // SAFETY: as above.
        unsafe { *errno = before };
    }
    rc
}

/// # Safety
///
/// As for dlclose(3).
unsafe fn guarded(handle: *mut c_void, real: Close) -> c_int {
    let _call = tool::Call::that_changes();
    let Some(mut turn) = Turn::take() else {
        kept::adopt(handle);
        // Whoever had the turn may have given it back before it saw that.
        if let Some(mut turn) = Turn::take_now() {
            look_again(&mut turn, real);
        }
        return 0;
    };
    // SAFETY: the caller's promise; and what the guard has a share in is loaded.
    unsafe {
        let Some(object) = Foreign::of(handle) else { return turn.outside(|| real(handle)) };
        let own = turn.kept().shares(object);
        let rc = match object.shares() {
            // Destructors may open and close it again: G5.
            _ if turn.kept().is_leaving(object) => turn.outside(|| real(handle)),
            None => {
                turn.kept().add(object);
                tell(&mut turn, object, &["the C library does not say who has it open".into()]);
                0
            }
            Some(all) if own > 0 && all <= own => not_open(&mut turn, real),
            // Its last close, by the program: G1.
            Some(1) if own == 0 => close(&mut turn, object, real),
            _ => turn.outside(|| real(handle)),
        };
        if rc == 0 && !turn.is_nested() {
            look_again(&mut turn, real);
        }
        rc
    }
}

/// The last close of an object.
///
/// # Safety
///
/// The caller has it open.
unsafe fn close(turn: &mut Turn, object: Foreign, real: Close) -> c_int {
    // SAFETY: the caller's promise.
    let last = unsafe { object.last() };
    if !last.is_to_stay() {
        let lines = last.look();
        if lines.is_empty() {
            let_go(turn, &last);
            // SAFETY: as above.
            return turn.outside(|| unsafe { last.close(real) });
        }
        turn.kept().add(object);
        tell(turn, object, &lines);
    }
    // The linker would have forgotten the words of an earlier failure.
    // SAFETY: has no requirements.
    unsafe { libc::dlerror() };
    0
}

/// Looks again at what the guard alone has open, and closes that in which nobody is found: one after the
/// other, because more may go with the next by then.
fn look_again(turn: &mut Turn, real: Close) {
    loop {
        let mine = turn.kept().mine();
        // SAFETY: the guard has them open.
        let mut last: Vec<_> = mine.iter().map(|object| unsafe { object.last() }).collect();
        let free = Last::look_at_all(&last).iter().position(Vec::is_empty);
        let Some(free) = free else { return };
        let last = last.swap_remove(free);
        let_go(turn, &last);
        let shares = turn.kept().take(mine[free]);
        // SAFETY: these were the guard's shares.
        turn.outside(|| unsafe {
            for _ in 1..shares {
                real(mine[free].handle());
            }
            last.close(real);
        });
    }
}

/// A close is about to run. What nobody has open, and would go if the linker lets go of it at this close, is the
/// guard's while somebody is in it.
fn let_go(turn: &mut Turn, last: &Last) {
    for (stray, lines) in last.look_at_strays() {
        // SAFETY: nothing is closed yet.
        if !turn.kept().is_leaving(stray) && unsafe { stray.hold() } {
            turn.kept().add(stray);
            tell(turn, stray, &lines);
        }
    }
    turn.kept().runs(last.clone());
}

/// The program closes what it has closed already, and what is there for the guard alone: it fails as the
/// close of any object that is loaded and not open, which this library is.
fn not_open(turn: &mut Turn, real: Close) -> c_int {
    unsafe extern "C" {
        fn dladdr1(
            address: *const c_void,
            info: *mut libc::Dl_info,
            extra: *mut *mut c_void,
            flags: c_int,
        ) -> c_int;
    }
    const RTLD_DL_LINKMAP: c_int = 2;
    let (mut info, mut record) = (MaybeUninit::uninit(), ptr::null_mut());
    let here = (not_open as fn(&mut Turn, Close) -> c_int) as *const c_void;
    // SAFETY: the linker fills in both.
    let found = unsafe { dladdr1(here, info.as_mut_ptr(), &mut record, RTLD_DL_LINKMAP) };
    // SAFETY: a handle is the record of an object.
    if found == 0 { -1 } else { turn.outside(|| unsafe { real(record) }) }
}

/// One line on standard error, once for each file: what stays, and for whom.
fn tell(turn: &mut Turn, object: Foreign, lines: &[String]) {
    const MOST: usize = 8;
    // SAFETY: the guard has it open.
    let name = unsafe { object.name() };
    if !turn.kept().is_new(&name) {
        return;
    }
    let mut text = lines[..lines.len().min(MOST)].join("; ");
    if lines.len() > MOST {
        text.push_str(&format!("; and {} more", lines.len() - MOST));
    }
    let line = format!("module_guard: {} stays mapped: {text}\n", name.to_string_lossy());
    stderr::write(line.as_bytes());
}
