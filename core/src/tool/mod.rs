//! Tools that watch a program for races: ThreadSanitizer, and valgrind's helgrind and DRD.
//!
//! This library is neither compiled with the sanitizer nor does it synchronise by what valgrind
//! knows, so that a tool would see none of what a counter or the host puts in order, and report
//! races that are none. In a process with such a tool the library tells it: `before` and
//! `after`, with the address of what makes the order. What it tells is what is promised to
//! users, and no more: a race on anything else is still reported. Counters are in shared-word mode
//! there, because no tool sees into a restartable sequence.
//!
//! Whether there is a tool is found out once. Gets and puts of the C library do not ask at all: its
//! entry points are led elsewhere in a process that is watched.
//!
//! What the library does with its own memory is not the program's business, and is checked by a
//! sanitizer build of the library. ThreadSanitizer is told to look away while a [`Call`] runs;
//! valgrind's tools cannot, and are told of memory instead: [`ours`].

use core::cell::Cell;
use core::ffi::{CStr, c_void};
use core::marker::PhantomData;
use core::mem;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU8, Ordering::*};

const UNKNOWN: u8 = 0;
const NONE: u8 = 1;
const TSAN: u8 = 2;
const VALGRIND: u8 = 3;

static TOOL: AtomicU8 = AtomicU8::new(UNKNOWN);

fn tool() -> u8 {
    // Acquire pairs with the Release of `learn`.
    match TOOL.load(Acquire) {
        UNKNOWN => learn(),
        tool => tool,
    }
}

#[cold]
fn learn() -> u8 {
    // With the library built for the sanitizer (`--cfg tsan`), that sees for itself.
    let found = if valgrind::is_there() {
        VALGRIND
    } else if !cfg!(tsan) && tsan::is_there() {
        TSAN
    } else {
        NONE
    };
    // Release: with the functions of the runtime.
    TOOL.store(found, Release);
    if found == VALGRIND {
        valgrind::own_variables();
    }
    found
}

/// Whether a tool is told of what counters do.
#[doc(hidden)]
pub fn is_watching() -> bool {
    tool() != NONE
}

/// What this thread has done happens before what a thread does after a later `after` of that
/// address, for a tool.
pub(crate) fn before<T>(address: *const T) {
    match tool() {
        TSAN => aside(|| tsan::RELEASE.call(address.cast())),
        VALGRIND => {
            // valgrind takes the system call that wakes a sleeper on it for a write.
            ours(address.cast(), 8);
            valgrind::request(valgrind::HAPPENS_BEFORE, address.cast(), 0);
        }
        _ => {}
    }
}

/// See [`before`].
pub(crate) fn after<T>(address: *const T) {
    match tool() {
        TSAN => aside(|| tsan::ACQUIRE.call(address.cast())),
        VALGRIND => {
            valgrind::request(valgrind::HAPPENS_AFTER, address.cast(), 0);
        }
        _ => {}
    }
}

/// Memory that the library alone uses, until it is freed: valgrind's tools would take what its
/// atomics and locks put in order for races.
#[doc(hidden)]
pub fn ours(memory: *const u8, size: usize) {
    if tool() == VALGRIND {
        valgrind::request(valgrind::UNTRACKED, memory.cast(), size);
        valgrind::request(valgrind::SUPPRESSED, memory.cast(), size);
    }
}

// ---- calls of the host ---------------------------------------------------------------------

/// What stands for the locks and the table of all hosts. A call that changes something comes
/// after those before it, and a lookup after what it finds was put there.
static HOSTS: u64 = 0;

std::thread_local! {
    /// In how many calls of the host this thread is, since it last came from the program's code.
    static DEPTH: Cell<u32> = const { Cell::new(0) };

    /// The sanitizer's runtime may have given up what it knows of this thread.
    static HAS_ENDED: Cell<bool> = const { Cell::new(false) };
}

/// The last round of this thread's destructors has come, in which the sanitizer's runtime runs its
/// own: it is told nothing any more.
#[cfg_attr(not(feature = "host"), allow(dead_code, reason = "the host alone works there"))]
pub(crate) fn thread_ends() {
    let _ = HAS_ENDED.try_with(|ended| ended.set(true));
}

/// A mutex that this thread has locked, and is to end with: helgrind is told that it is unlocked.
#[cfg_attr(not(feature = "host"), allow(dead_code, reason = "the host alone has such mutexes"))]
pub(crate) fn stays_locked<T>(mutex: *const T) {
    if tool() == VALGRIND {
        valgrind::request(valgrind::UNLOCKING, mutex.cast(), 0);
        valgrind::request(valgrind::UNLOCKED, mutex.cast(), 0);
    }
}

/// Runs `f`, of which valgrind's tools say nothing: they know no mutex whose owner has died.
#[cfg_attr(not(feature = "host"), allow(dead_code, reason = "the host alone has such mutexes"))]
pub(crate) fn hushed<T>(f: impl FnOnce() -> T) -> T {
    let change = |by: isize| {
        if tool() == VALGRIND {
            valgrind::request(valgrind::LESS_REPORTS, ptr::without_provenance(by as usize), 0);
        }
    };
    change(1);
    let result = f();
    change(-1);
    result
}

fn depth() -> u32 {
    DEPTH.try_with(Cell::get).unwrap_or(0)
}

/// A call of the host, from its beginning to its end: all that it does, but for the functions
/// of others that it calls [outside](outside).
#[doc(hidden)]
pub struct Call(PhantomData<*const ()>);

impl Call {
    /// One that only looks.
    pub fn that_looks() -> Self {
        enter(1);
        Self(PhantomData)
    }

    /// One that changes something.
    pub fn that_changes() -> Self {
        before(&HOSTS);
        Self::that_looks()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        leave(1);
        after(&HOSTS);
    }
}

fn enter(calls: u32) {
    if tool() == TSAN && calls > 0 {
        if depth() == 0 {
            tsan::LOOK_AWAY.call(ptr::from_ref(&HOSTS).cast());
        }
        let _ = DEPTH.try_with(|depth| depth.set(depth.get() + calls));
    }
}

fn leave(calls: u32) {
    if tool() == TSAN && calls > 0 {
        let _ = DEPTH.try_with(|depth| depth.set(depth.get() - calls));
        if depth() == 0 {
            tsan::LOOK_AGAIN.call(ptr::from_ref(&HOSTS).cast());
        }
    }
}

/// Has a tool that looks away look again for a moment.
fn aside<T>(f: impl FnOnce() -> T) -> T {
    /// Also if `f` unwinds.
    struct Back(u32);
    impl Drop for Back {
        fn drop(&mut self) {
            enter(self.0);
        }
    }
    let calls = depth();
    leave(calls);
    let _back = Back(calls);
    f()
}

/// Calls a function that is not the library's: a module's, a notifier, the dynamic linker.
#[cfg_attr(not(feature = "host"), allow(dead_code, reason = "the host alone calls others"))]
pub(crate) fn outside<T>(f: impl FnOnce() -> T) -> T {
    struct Back;
    impl Drop for Back {
        fn drop(&mut self) {
            before(&HOSTS);
        }
    }
    aside(|| {
        after(&HOSTS);
        let _back = Back;
        f()
    })
}

// ---- ThreadSanitizer -----------------------------------------------------------------------

mod tsan {
    use super::*;

    /// A function of the sanitizer's runtime.
    pub(super) struct Function {
        name: &'static CStr,
        at: AtomicPtr<c_void>,
    }

    pub(super) static ACQUIRE: Function = Function::new(c"__tsan_acquire");
    pub(super) static RELEASE: Function = Function::new(c"__tsan_release");
    // These are for what signals a condition variable, and do nothing but this.
    pub(super) static LOOK_AWAY: Function = Function::new(c"__tsan_mutex_pre_signal");
    pub(super) static LOOK_AGAIN: Function = Function::new(c"__tsan_mutex_post_signal");

    impl Function {
        const fn new(name: &'static CStr) -> Self {
            Self { name, at: AtomicPtr::new(ptr::null_mut()) }
        }

        fn find(&self) -> bool {
            // SAFETY: a constant string.
            let at = unsafe { libc::dlsym(libc::RTLD_DEFAULT, self.name.as_ptr()) };
            // Relaxed: `learn` publishes it.
            self.at.store(at, Relaxed);
            !at.is_null()
        }

        pub(super) fn call(&self, address: *const c_void) {
            if HAS_ENDED.try_with(Cell::get) != Ok(false) {
                return;
            }
            // SAFETY: `find` has found it, and the runtime has this thread. The second argument is
            // for those that take one.
            unsafe {
                let function = mem::transmute::<
                    *mut c_void,
                    unsafe extern "C" fn(*const c_void, u32),
                >(self.at.load(Relaxed));
                function(address, 0);
            }
        }
    }

    /// In a program that is linked with the runtime, the shared one or the static one: compilers
    /// have the program export its functions.
    pub(super) fn is_there() -> bool {
        let found = [&ACQUIRE, &RELEASE, &LOOK_AWAY, &LOOK_AGAIN].iter().all(|f| f.find());
        if !found {
            // The words about that are nobody's.
            // SAFETY: no arguments.
            unsafe { libc::dlerror() };
        }
        found
    }
}

// ---- valgrind ------------------------------------------------------------------------------

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "requests are for x86-64"))]
mod valgrind {
    use super::{CStr, TOOL, c_void};
    use core::ffi::c_int;
    use core::slice;

    /// helgrind's requests begin here, and DRD has taken the first two over.
    const HELGRIND: usize = (b'H' as usize) << 24 | (b'G' as usize) << 16;
    pub(super) const UNLOCKING: usize = HELGRIND + 256 + 5;
    pub(super) const UNLOCKED: usize = HELGRIND + 256 + 6;
    pub(super) const HAPPENS_BEFORE: usize = HELGRIND + 256 + 33;
    pub(super) const HAPPENS_AFTER: usize = HELGRIND + 256 + 34;
    pub(super) const UNTRACKED: usize = HELGRIND + 256 + 39;
    /// valgrind's own: of this thread.
    pub(super) const LESS_REPORTS: usize = 0x1801;
    /// DRD's.
    pub(super) const SUPPRESSED: usize = ((b'D' as usize) << 24 | (b'R' as usize) << 16) + 2;

    /// Whether this runs under helgrind or DRD, and not under another tool of valgrind's or none.
    pub(super) fn is_there() -> bool {
        request(HAPPENS_AFTER, (&raw const TOOL).cast(), 0)
    }

    /// The variables of the library are its own, if it is an object of its own. In another object
    /// they lie among the program's.
    pub(super) fn own_variables() {
        unsafe extern "C" fn look(
            object: *mut libc::dl_phdr_info,
            _: usize,
            _: *mut c_void,
        ) -> c_int {
            // SAFETY: what the dynamic linker shows is there for as long as it calls this.
            let (object, name, headers) = unsafe {
                let object = &*object;
                let headers = slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into());
                (object, CStr::from_ptr(object.dlpi_name).to_bytes(), headers)
            };
            let file = name.rsplit(|&byte| byte == b'/').next().unwrap_or(name);
            for header in headers.iter().filter(|_| file.starts_with(b"libmodule_ref.so")) {
                let start = (object.dlpi_addr + header.p_vaddr) as usize;
                let size = header.p_memsz as usize;
                if header.p_type == libc::PT_LOAD
                    && (start..start + size).contains(&TOOL.as_ptr().addr())
                {
                    super::ours(start as *const u8, size);
                }
            }
            0
        }
        // SAFETY: the function keeps to what it is given.
        unsafe { libc::dl_iterate_phdr(Some(look), core::ptr::null_mut()) };
    }

    /// Instructions that do nothing, and that valgrind takes for a request. Whether it has been
    /// understood: a tool leaves the answer alone if the request is another's.
    #[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
    pub(super) fn request(what: usize, address: *const c_void, size: usize) -> bool {
        let request = [what, address as usize, size, 0, 0, 0];
        let answer: usize;
        // SAFETY: four rotations by 128 bits in all, and an exchange of a register with itself.
        unsafe {
            core::arch::asm!(
                "rol rdi, 3",
                "rol rdi, 13",
                "rol rdi, 61",
                "rol rdi, 51",
                "xchg rbx, rbx",
                in("rax") request.as_ptr(),
                inout("rdx") 1usize => answer,
                options(nostack),
            );
        }
        answer == 0
    }

    #[cfg(not(all(target_arch = "x86_64", target_pointer_width = "64")))]
    pub(super) fn request(_: usize, _: *const c_void, _: usize) -> bool {
        false
    }
}
