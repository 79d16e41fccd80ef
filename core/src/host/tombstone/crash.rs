//! Says before a process dies which unloaded module it has called.
//!
//! Only SIGSEGV is what a tombstone gives: there is memory (so no SIGBUS) and no code (so no SIGILL).

use super::table::{lock, this_thread};
use super::words::{Bytes, Known};
use crate::errno;
use crate::host::error::last_errno;
use crate::host::object::linked::Linked;
#[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
use crate::host::presence::words::{WORD, is_behind_call, read};
use crate::stderr::Line;
use std::ffi::{CStr, c_int, c_void};
use std::fmt::Write;
use std::mem::{self, MaybeUninit};
use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::*};

const SIGNAL: c_int = libc::SIGSEGV;

/// Reports are wanted.
static ON: AtomicBool = AtomicBool::new(false);
/// Our handler was set, and whoever was set after it may call it.
static IS_SET: AtomicBool = AtomicBool::new(false);
/// What was set before: its handler, and its flags.
static BEFORE: (AtomicUsize, AtomicI32) = (AtomicUsize::new(libc::SIG_DFL), AtomicI32::new(0));

/// What `MODULE_REF_CRASH_REPORTS` asks for, once.
pub(crate) fn reports_by_environment() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if std::env::var_os("MODULE_REF_CRASH_REPORTS").is_some_and(|said| said == "1") {
            let _ = reports(true);
        }
    });
}

/// The action of our signal, after setting `new` if there is one.
fn action(new: Option<&libc::sigaction>) -> Result<libc::sigaction, i32> {
    let mut old = MaybeUninit::zeroed();
    // SAFETY: an action, or none, and the place for one.
    unsafe {
        match libc::sigaction(SIGNAL, new.map_or(ptr::null(), ptr::from_ref), old.as_mut_ptr()) {
            0 => Ok(old.assume_init()),
            _ => Err(last_errno()),
        }
    }
}

fn handler() -> usize {
    on_fault as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize
}

/// Begins or ends reports; or the errno of sigaction(2).
pub(crate) fn reports(on: bool) -> Result<(), i32> {
    // Before the lock (H6).
    Linked::prepare();
    // Two at a time would take each other's action for the one before.
    let _lock = lock();
    let now = action(None)?;
    if on && !IS_SET.load(Relaxed) {
        // Relaxed: the handler is set after this, by a call of the kernel.
        BEFORE.0.store(now.sa_sigaction, Relaxed);
        BEFORE.1.store(now.sa_flags, Relaxed);
        // The mask and the flags of the one before, who is called with them.
        let mut ours = now;
        ours.sa_sigaction = handler();
        ours.sa_flags = now.sa_flags & !libc::SA_RESETHAND | libc::SA_SIGINFO | libc::SA_ONSTACK;
        action(Some(&ours))?;
        IS_SET.store(true, Relaxed);
    } else if !on && now.sa_sigaction == handler() {
        let mut before = now;
        before.sa_sigaction = BEFORE.0.load(Relaxed);
        before.sa_flags = BEFORE.1.load(Relaxed);
        action(Some(&before))?;
        IS_SET.store(false, Relaxed);
    }
    // Whoever has set a handler after ours may pass signals on to it, so that ours stays as it is.
    ON.store(on, Relaxed);
    Ok(())
}

extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    errno::kept(|| {
        // SAFETY: what the kernel hands to a handler with SA_SIGINFO.
        let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
        // A code above 0 is the kernel's: somebody has touched that address, and sent no signal.
        if ON.load(Relaxed) && code > 0 {
            // SAFETY: as above.
            report(
                address,
                unsafe { Machine::of(context) }.unwrap_or(Machine { pc: address, caller: None }),
            );
        }
        pass_on(signal, code, info, context);
    });
}

/// Lets the signal go on, to the handler before or to the end of the process.
fn pass_on(signal: c_int, code: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let (before, flags) = (BEFORE.0.load(Relaxed), BEFORE.1.load(Relaxed));
    if before == libc::SIG_IGN && code <= 0 {
        return;
    }
    if before == libc::SIG_DFL || before == libc::SIG_IGN {
        // What has touched that address does so again when this returns; a signal that was sent is sent again. (A
        // fault is not ignored by the kernel, either.)
        // SAFETY: an action of zeroes is the default one.
        unsafe {
            let _ = action(Some(&mem::zeroed()));
            if code <= 0 {
                libc::syscall(
                    libc::SYS_tgkill,
                    libc::getpid(),
                    libc::syscall(libc::SYS_gettid),
                    signal,
                );
            }
        }
        return;
    }
    if flags & libc::SA_RESETHAND != 0 {
        BEFORE.0.store(libc::SIG_DFL, Relaxed);
    }
    // SAFETY: a handler that was set with these flags.
    unsafe {
        if flags & libc::SA_SIGINFO != 0 {
            type Handler = unsafe extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
            mem::transmute::<usize, Handler>(before)(signal, info, context);
        } else {
            mem::transmute::<usize, unsafe extern "C" fn(c_int)>(before)(signal);
        }
    }
}

/// Where a thread was.
struct Machine {
    pc: usize,
    /// What it returns to, if it has just called.
    caller: Option<usize>,
}

impl Machine {
    /// # Safety
    ///
    /// The context is a signal handler's.
    #[cfg(all(target_arch = "x86_64", target_pointer_width = "64"))]
    unsafe fn of(context: *mut c_void) -> Option<Self> {
        // SAFETY: the caller's promise.
        let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
        let mut word = [0; WORD];
        let sp = registers[libc::REG_RSP as usize] as usize;
        let caller = (read(sp, &mut word) == Ok(WORD)).then(|| usize::from_ne_bytes(word));
        // A thread that comes back to code that is gone has something else there.
        let caller = caller.filter(|&caller| caller > WORD && is_behind_call(caller));
        Some(Self { pc: registers[libc::REG_RIP as usize] as usize, caller })
    }

    /// # Safety
    ///
    /// The context is a signal handler's.
    #[cfg(target_arch = "aarch64")]
    unsafe fn of(context: *mut c_void) -> Option<Self> {
        // SAFETY: the caller's promise.
        let registers = unsafe { &(*context.cast::<libc::ucontext_t>()).uc_mcontext };
        Some(Self { pc: registers.pc as usize, caller: Some(registers.regs[30] as usize) })
    }

    #[cfg(not(any(
        all(target_arch = "x86_64", target_pointer_width = "64"),
        target_arch = "aarch64"
    )))]
    unsafe fn of(_: *mut c_void) -> Option<Self> {
        None
    }
}

/// One line to standard error, if a module that is gone has to do with it.
fn report(address: usize, at: Machine) {
    let gone = |address| Known::of(address).filter(Known::is_gone);
    let (what, did) = match (gone(at.pc), gone(address)) {
        (Some(code), _) => (code, "called"),
        (None, Some(data)) => (data, "touched"),
        (None, None) => return,
    };
    let (tid, name) = this_thread();
    let name = CStr::from_bytes_until_nul(&name).unwrap_or_default();
    // Alternate stacks can be small.
    let mut line = Line::<768>::new();
    // Nothing of this fails: what there is no room for is left out.
    let _ = write!(line, "module_ref: thread {tid} '{}' {did} {what}", Bytes(name.to_bytes()));
    let from = if did == "called" { at.caller } else { Some(at.pc) };
    if let Some(from) = from {
        let _ = line.write_str(", from ");
        place(from, &mut line);
    }
    line.end();
}

/// An address anywhere.
fn place(address: usize, line: &mut impl Write) {
    if let Some(known) = Known::of(address) {
        let _ = write!(line, "{known}");
    } else if let Some(object) = Linked::at(address) {
        // SAFETY: the thread has come from that object, so it stays for now.
        let (base, name) = unsafe { object.base_and_name() };
        let mut path = [0; 192];
        let path = match name.to_bytes() {
            // The program's.
            [] => {
                let (link, to) = (c"/proc/self/exe".as_ptr(), path.as_mut_ptr());
                // SAFETY: a path, and the place for a link's text.
                let n = unsafe { libc::readlink(link, to.cast(), path.len()) };
                &path[..n.max(0) as usize]
            }
            name => name,
        };
        let _ = write!(line, "{}+{:#x}", Bytes(path), address - base);
    } else {
        let _ = write!(line, "{address:#x}");
    }
}
