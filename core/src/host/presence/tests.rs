//! Threads of this process stand in objects that the tests compile, and are looked at.
//! c-tests/dangling.c has what plugins do; here is what takes a look inside.

use super::{Going, look, look_in, memory};
use crate::host::object::linked::page_size;
use crate::host::object::open::{Object, find};
use proptest::prelude::*;
use std::ffi::{c_int, c_long, c_void};
use std::fs;
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

#[path = "../../../tests/model/compiler.rs"]
mod compiler;

const SOURCE: &str = r#"
#include <alloca.h>
#include <unistd.h>
int descend(int depth, int pad, int from)
{
	volatile char *room = alloca(pad);
	char c;
	int n = depth ? descend(depth - 1, pad * 31 % 509 + 1, from) : (int)read(from, &c, 1);
	room[0] = (char)n;
	return n + 1;
}
static int calls(void (*function)(void *), void *with)
{
	function(with);
	return 1;
}
int calls_back(void (*function)(void *), void *with) { return calls(function, with) + 1; }
void sleeps(void *from)
{
	char c;
	while (read((int)(long)from, &c, 1) < 0) ;
}
#ifdef __x86_64__
int sleeps_itself(int from)
{
	char c;
	long n;
	__asm__ volatile("syscall" : "=a"(n) : "0"(0L), "D"((long)from), "S"(&c), "d"(1L)
			 : "rcx", "r11", "memory");
	return (int)n;
}
#endif
int forks(int from)
{
	char c;
	int child = vfork();
	if (child == 0) {
		read(from, &c, 1);
		_exit(0);
	}
	return child > 0;
}
int handled;
void handles(int signal) { (void)signal; sleeps((void *)(long)handled); }
void spin(volatile char *stop_and_begun)
{
	stop_and_begun[1] = 1;
	while (!stop_and_begun[0]) ;
}
void *(*const table[])(void) = { 0 };
"#;

/// How long a thread that runs is waited for: these tests' own end or sleep.
const PATIENT: Duration = Duration::from_secs(20);

/// The tests leave threads in odd places, which others would see.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("presence-{}-{name}", std::process::id()));
    fs::create_dir_all(&path).unwrap();
    path
}

/// An object of its own, from the source above.
struct Plugin {
    object: Object,
    going: Going,
}

impl Plugin {
    fn new(name: &str) -> Self {
        let (source, path) = (folder("so").join("p.c"), folder("so").join(format!("{name}.so")));
        fs::write(&source, SOURCE).unwrap();
        let built = compiler::shared().arg("-o").args([&path, &source]).status().unwrap();
        assert!(built.success());
        // SAFETY: it has no constructors.
        let object = unsafe { find(&path).unwrap().open(false, false) }.unwrap();
        let mut going = Going::default();
        // SAFETY: it is open.
        unsafe { going.renew(&object) };
        Self { object, going }
    }

    fn function<F>(&self, name: &str) -> F {
        // SAFETY: the tests ask for what the source has.
        let symbol = unsafe { self.object.symbol(name) }.unwrap();
        // SAFETY: as above.
        unsafe { std::mem::transmute_copy(&symbol) }
    }

    fn found(&self) -> String {
        look(&mut [self.going.clone()], PATIENT).remove(0).join("\n")
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let left = self.found();
        if !thread::panicking() {
            assert_eq!(left, "", "afterwards nobody is there");
        }
        // SAFETY: the look has found nobody, or the test fails.
        unsafe { self.object.close(false) };
        let _ = fs::remove_file(&self.going.objects[0].name);
    }
}

/// A pipe, and a thread that runs `work` with its end to read from until it is let go.
struct Parked {
    thread: JoinHandle<()>,
    ends: [c_int; 2],
    tid: i32,
}

fn park(work: impl FnOnce(c_int) + Send + 'static) -> Parked {
    let mut ends = [0; 2];
    // SAFETY: there is room for two.
    assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
    let (tid, read) = (Arc::new(AtomicI32::new(0)), ends[0]);
    let told = tid.clone();
    let thread = thread::spawn(move || {
        // SAFETY: has no requirements.
        told.store(unsafe { libc::gettid() }, SeqCst);
        clean();
        work(read);
    });
    while tid.load(SeqCst) == 0 {
        thread::yield_now();
    }
    Parked { thread, ends, tid: tid.load(SeqCst) }
}

/// The C library gives a stack out again as another thread has left it.
#[inline(never)]
fn clean() {
    std::hint::black_box([0u8; 1 << 19]);
}

impl Parked {
    fn let_go(self) {
        // SAFETY: ours; the end to read from is open, even if the thread has ended by itself.
        unsafe { assert_eq!(libc::write(self.ends[1], [0].as_ptr().cast(), 1), 1) };
        self.thread.join().unwrap();
        for end in self.ends {
            // SAFETY: ours.
            unsafe { libc::close(end) };
        }
    }

    /// Waits until it has blocked in a read or wherever else it is to sleep.
    fn is_asleep(&self) {
        self.is_in(libc::SYS_read);
    }

    fn is_in(&self, call: c_long) {
        is_in(self.tid, call);
    }
}

fn is_in(tid: i32, call: c_long) {
    let path = format!("/proc/self/task/{tid}/syscall");
    while !fs::read_to_string(&path).unwrap().starts_with(&format!("{call} ")) {
        thread::yield_now();
    }
}

/// Sleeps until the thread is let go.
unsafe extern "C" fn sleep_on(from: *mut c_void) {
    let mut byte = 0u8;
    // SAFETY: a byte is written.
    while unsafe { libc::read(from as c_int, (&raw mut byte).cast(), 1) } < 0 {}
}

type CallsBack = unsafe extern "C" fn(unsafe extern "C" fn(*mut c_void), *mut c_void) -> c_int;

/// As deep in this program's code: what the object has on the stack is far above.
unsafe extern "C" fn descend_here(depth_and_from: *mut c_void) {
    // SAFETY: handed in below.
    let (depth, from) = unsafe { *depth_and_from.cast::<(c_int, c_int)>() };
    let room = std::hint::black_box([1u8; 500]);
    let mut next = (depth - 1, from);
    // SAFETY: as above.
    unsafe {
        match depth {
            0 => sleep_on(from as *mut c_void),
            _ => descend_here((&raw mut next).cast()),
        }
    }
    std::hint::black_box(room);
}

#[test]
fn a_parked_thread_is_always_found() {
    type Descend = unsafe extern "C" fn(c_int, c_int, c_int) -> c_int;
    let _alone = alone();
    let plugins = ["a", "b", "c"].map(Plugin::new);
    let all = [0, 1, 2].map(|at| plugins[at].going.clone());
    let cases = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) };
    let place = (0..400, 1..3000, 0..plugins.len(), any::<bool>());
    proptest!(cases, |((depth, pad, which, here) in place)| {
        let descend = plugins[which].function::<Descend>("descend");
        let calls_back = plugins[which].function::<CallsBack>("calls_back");
        let parked = park(move |from| {
            let mut depth_and_from = (depth, from);
            // SAFETY: as the source has it.
            unsafe {
                if here {
                    calls_back(descend_here, (&raw mut depth_and_from).cast());
                } else {
                    descend(depth, pad, from);
                }
            }
        });
        parked.is_asleep();
        let found = look(&mut all.clone(), PATIENT);
        let line = format!("thread {} ", parked.tid);
        parked.let_go();
        for (at, lines) in found.iter().enumerate() {
            prop_assert_eq!(lines.len(), usize::from(at == which), "{:?}", lines);
        }
        let function = if here { "stands in calls+0x" } else { "stands in descend+0x" };
        prop_assert!(found[which][0].starts_with(&line), "{:?}", found);
        prop_assert!(found[which][0].contains(function), "{:?}", found);
    });
}

/// What it has left behind is below where the thread sleeps then, which overwrites less.
#[test]
fn nobody_is_found_in_what_has_returned() {
    #[inline(never)]
    fn far_down(calls_back: CallsBack) {
        unsafe extern "C" fn returns(_: *mut c_void) {}
        let room = std::hint::black_box([1u8; 1 << 13]);
        // SAFETY: as the source has it.
        unsafe { calls_back(returns, ptr::null_mut()) };
        std::hint::black_box(room);
    }

    let _alone = alone();
    let plugin = Plugin::new("returned");
    let calls_back = plugin.function::<CallsBack>("calls_back");
    let parked = park(move |from| {
        far_down(calls_back);
        // SAFETY: as the source has it.
        unsafe { sleep_on(from as *mut c_void) };
    });
    parked.is_asleep();
    let found = plugin.found();
    parked.let_go();
    assert_eq!(found, "");
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_program_counter_is_enough() {
    let _alone = alone();
    let plugin = Plugin::new("itself");
    let sleeps = plugin.function::<unsafe extern "C" fn(c_int) -> c_int>("sleeps_itself");
    // SAFETY: as the source has it.
    let parked = park(move |from| unsafe { assert_eq!(sleeps(from), 1) });
    parked.is_asleep();
    let found = plugin.found();
    parked.let_go();
    assert!(found.contains("stands in sleeps_itself+0x"), "it has called nothing: {found}");
}

/// Its child is on the same stack, and has the return address in the meantime.
#[test]
#[cfg(target_arch = "x86_64")]
fn who_waits_for_a_child_on_its_stack_is_found() {
    let _alone = alone();
    let plugin = Plugin::new("vfork");
    let forks = plugin.function::<unsafe extern "C" fn(c_int) -> c_int>("forks");
    // SAFETY: as the source has it.
    let parked = park(move |from| unsafe { assert_eq!(forks(from), 1) });
    parked.is_in(libc::SYS_vfork);
    let found = plugin.found();
    parked.let_go();
    assert!(found.contains("stands in forks+0x"), "{found}");
}

#[test]
fn without_a_first_thread_the_others_are_looked_at() {
    let _alone = alone();
    let plugin = Plugin::new("no-first");
    let calls_back = plugin.function::<CallsBack>("calls_back");
    let looks = move |plugin: &Plugin| {
        // SAFETY: as the source has it.
        let call = move |end| park(move |from| unsafe { _ = calls_back(end, from as *mut c_void) });
        let (sleeper, runner) = (call(sleep_on), call(spins));
        sleeper.is_asleep();
        has_begun();
        let found =
            look(&mut [plugin.going.clone()], Duration::from_millis(5)).remove(0).join("\n");
        STOP.store(true, SeqCst);
        let [sleeps, runs] = [&sleeper, &runner].map(|parked| format!("thread {} ", parked.tid));
        sleeper.let_go();
        runner.let_go();
        let are_found =
            found.lines().any(|l| l.starts_with(&sleeps) && l.contains("stands in calls+0x"))
                && found.lines().any(|l| l.starts_with(&runs) && l.contains("runs and could not"));
        are_found && plugin.found().is_empty()
    };
    let mut status = -1;
    begin_anew();
    // SAFETY: the child's first thread ends at once, and the other one by _exit(2) after the look. The parent
    // waits, and so the plugin outlives both.
    unsafe {
        match libc::fork() {
            0 => thread::scope(|threads| {
                threads.spawn(|| libc::_exit(c_int::from(!looks(&plugin))));
                libc::syscall(libc::SYS_exit, 0);
            }),
            child => assert_eq!(libc::waitpid(child, &mut status, 0), child),
        }
    }
    assert_eq!(status, 0, "they were found, and nobody else");
}

/// As `spin` of the source takes them.
static STOP_AND_BEGUN: [AtomicBool; 2] = [const { AtomicBool::new(false) }; 2];
static STOP: &AtomicBool = &STOP_AND_BEGUN[0];
/// A thread is where it is to be looked at.
static BEGUN: &AtomicBool = &STOP_AND_BEGUN[1];
static HANDLED: AtomicI32 = AtomicI32::new(-1);

/// A handler that sleeps until its thread is let go, of which it has the descriptor.
extern "C" fn handler(_: c_int) {
    // SAFETY: a byte is written.
    unsafe { sleep_on(HANDLED.load(SeqCst) as *mut c_void) };
}

fn begin_anew() {
    STOP.store(false, SeqCst);
    BEGUN.store(false, SeqCst);
}

fn has_begun() {
    while !BEGUN.load(SeqCst) {
        thread::yield_now();
    }
}

unsafe extern "C" fn spins(_: *mut c_void) {
    BEGUN.store(true, SeqCst);
    while !STOP.load(SeqCst) {
        std::hint::spin_loop();
    }
}

/// Has a thread interrupted by a signal while it does `work`, and looks at it in the handler.
fn interrupted(
    plugin: &Plugin,
    on_other_stack: bool,
    work: impl FnOnce() + Send + 'static,
) -> String {
    begin_anew();
    let parked = park(move |from| {
        HANDLED.store(from, SeqCst);
        // Of this thread's end nothing may be left.
        let room = vec![0u8; 1 << 16];
        let stack = libc::stack_t { ss_sp: room.as_ptr() as _, ss_flags: 0, ss_size: room.len() };
        let off = libc::stack_t { ss_flags: libc::SS_DISABLE, ..stack };
        // SAFETY: the memory outlives the handler.
        unsafe {
            if on_other_stack {
                libc::sigaltstack(&stack, ptr::null_mut());
            }
            work();
            libc::sigaltstack(&off, ptr::null_mut());
        }
    });
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: zeroes are an action; the thread is there.
    unsafe {
        (*action.as_mut_ptr()).sa_sigaction = handler as extern "C" fn(c_int) as usize;
        (*action.as_mut_ptr()).sa_flags = libc::SA_ONSTACK;
        libc::sigaction(libc::SIGUSR1, action.as_ptr(), ptr::null_mut());
        has_begun();
        libc::syscall(libc::SYS_tgkill, libc::getpid(), parked.tid, libc::SIGUSR1);
    }
    parked.is_asleep();
    let found = plugin.found();
    STOP.store(true, SeqCst);
    parked.let_go();
    // SAFETY: nobody gets the signal.
    unsafe { libc::signal(libc::SIGUSR1, libc::SIG_DFL) };
    found
}

#[test]
fn a_signal_frame_is_followed() {
    let _alone = alone();
    let plugin = Plugin::new("frame");
    for on_other_stack in [false, true] {
        let spin = plugin.function::<unsafe extern "C" fn(*const [AtomicBool; 2])>("spin");
        // SAFETY: as the source has it.
        let found = interrupted(&plugin, on_other_stack, move || unsafe { spin(&STOP_AND_BEGUN) });
        assert!(found.contains("stands in spin+0x"), "{found}");
        let calls_back = plugin.function::<CallsBack>("calls_back");
        // SAFETY: as the source has it.
        let calls = move || unsafe { _ = calls_back(spins, ptr::null_mut()) };
        let found = interrupted(&plugin, on_other_stack, calls);
        assert!(found.contains("stands in calls+0x"), "its name is in the file alone: {found}");
    }
}

/// A thread that is seen outside, and then called into the object by what was there for it.
fn called_in(
    plugin: &Plugin,
    begin: impl FnOnce(c_int) + Send + 'static,
    call: impl FnOnce(&Parked),
    told: &str,
) {
    begin_anew();
    let parked = park(move |from| {
        begin(from);
        BEGUN.store(true, SeqCst);
        while !STOP.load(SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
    });
    has_begun();
    let mut going = [plugin.going.clone()];
    let before = look(&mut going, PATIENT).remove(0).join("\n");
    call(&parked);
    parked.is_asleep();
    let inside = look(&mut going, PATIENT).remove(0).join("\n");
    STOP.store(true, SeqCst);
    parked.let_go();
    assert!(before.contains(told), "{before}");
    assert!(inside.contains("stands in sleeps+0x"), "it was outside before: {inside}");
}

#[test]
fn who_was_seen_outside_may_be_called_in() {
    let _alone = alone();
    let plugin = Plugin::new("called");
    let sleeps = plugin.function::<unsafe extern "C" fn(*mut c_void)>("sleeps");
    let mut key = 0;
    // SAFETY: there is room for it; the thread's value is its descriptor.
    unsafe { assert_eq!(libc::pthread_key_create(&mut key, Some(sleeps)), 0) };
    // SAFETY: the key is there.
    let begin = move |from| unsafe { assert_eq!(libc::pthread_setspecific(key, from as _), 0) };
    called_in(&plugin, begin, |_| STOP.store(true, SeqCst), "the destructor of a pthread key");
    // SAFETY: nobody uses it.
    unsafe { libc::pthread_key_delete(key) };

    let handles = plugin.function::<extern "C" fn(c_int)>("handles") as usize;
    let handled = plugin.function::<*mut c_int>("handled") as usize;
    // SAFETY: as the source has it.
    let begin = move |from| unsafe {
        *(handled as *mut c_int) = from;
        libc::signal(libc::SIGUSR1, handles);
    };
    // SAFETY: the thread is there.
    let call = |parked: &Parked| unsafe {
        libc::syscall(libc::SYS_tgkill, libc::getpid(), parked.tid, libc::SIGUSR1);
        parked.is_asleep();
        libc::signal(libc::SIGUSR1, libc::SIG_DFL);
    };
    called_in(&plugin, begin, call, "the handler of signal 10");
}

#[test]
fn a_destructor_that_runs_is_waited_for() {
    let _alone = alone();
    let plugin = Plugin::new("ends");
    let spin = plugin.function::<unsafe extern "C" fn(*mut c_void)>("spin");
    let mut key = 0;
    begin_anew();
    // SAFETY: there is room for it; the thread's value is what its destructor looks at.
    unsafe { assert_eq!(libc::pthread_key_create(&mut key, Some(spin)), 0) };
    // SAFETY: as above; the key is there.
    let parked = park(move |_| unsafe {
        assert_eq!(libc::pthread_setspecific(key, (&raw const STOP_AND_BEGUN).cast()), 0);
    });
    has_begun();
    let found = look(&mut [plugin.going.clone()], Duration::from_millis(5)).remove(0).join("\n");
    STOP.store(true, SeqCst);
    let line = format!("thread {} ", parked.tid);
    parked.let_go();
    // SAFETY: nobody uses it.
    unsafe { libc::pthread_key_delete(key) };
    assert!(found.contains(&line) && found.contains("runs and could not"), "{found}");
}

/// Two stacks of one thread.
struct Contexts {
    own: MaybeUninit<libc::ucontext_t>,
    other: MaybeUninit<libc::ucontext_t>,
    from: c_int,
    calls_back: CallsBack,
}

static mut CONTEXTS: *mut Contexts = ptr::null_mut();

/// On the other stack: sleeps there.
extern "C" fn sleeps_there() {
    // SAFETY: set by the thread that is here.
    unsafe { sleep_on((*CONTEXTS).from as *mut c_void) };
}

/// On the other stack: spins there.
extern "C" fn only_spins_there() {
    // SAFETY: it looks at nothing of what it is given.
    unsafe { spins(ptr::null_mut()) };
}

/// On the other stack: calls into the object, and from there goes back.
extern "C" fn suspends_there() {
    // SAFETY: as above.
    unsafe { _ = ((*CONTEXTS).calls_back)(swap_to_own, ptr::null_mut()) };
}

/// On the other stack: calls into the object, and from there spins.
extern "C" fn spins_there() {
    // SAFETY: as above.
    unsafe { _ = ((*CONTEXTS).calls_back)(spins, ptr::null_mut()) };
}

unsafe extern "C" fn swap_to_own(_: *mut c_void) {
    // SAFETY: as above.
    unsafe { libc::swapcontext((*CONTEXTS).other.as_mut_ptr(), (*CONTEXTS).own.as_ptr()) };
}

unsafe extern "C" fn swap_to_other(_: *mut c_void) {
    // SAFETY: as above.
    unsafe { libc::swapcontext((*CONTEXTS).own.as_mut_ptr(), (*CONTEXTS).other.as_ptr()) };
    // Not a jump, which would leave the caller's address in the context.
    std::hint::black_box(());
}

/// Does `work` with a second stack, which lies below this thread's own or above it, and on which `work` begins
/// `there`.
fn with_second_stack(
    calls_back: CallsBack,
    from: c_int,
    above: bool,
    there: extern "C" fn(),
    work: impl FnOnce(),
) {
    const SIZE: usize = 1 << 16;
    let here = (&raw const from).addr();
    // The kernel takes a place that is free.
    // SAFETY: a new mapping, which is unmapped if it is nowhere useful.
    let room = (1..).map(|step: usize| step << 20).find_map(|step| unsafe {
        let place = if above { here + step } else { here - step } & !(SIZE - 1);
        let (access, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let room = libc::mmap(place as *mut c_void, SIZE, access, flags, -1, 0);
        let fits = (room.addr() > here) == above;
        _ = fits || libc::munmap(room, SIZE) != 0;
        fits.then_some(room)
    });
    let room = room.unwrap();
    let (own, other) = (MaybeUninit::zeroed(), MaybeUninit::zeroed());
    // Where a context is kept says where its coroutine goes on.
    let mut contexts = Box::new(Contexts { own, other, from, calls_back });
    // SAFETY: all outlives the work.
    unsafe {
        CONTEXTS = &raw mut *contexts;
        let other = contexts.other.as_mut_ptr();
        libc::getcontext(other);
        (*other).uc_stack.ss_sp = room;
        (*other).uc_stack.ss_size = SIZE;
        (*other).uc_link = contexts.own.as_mut_ptr();
        libc::makecontext(other, there, 0);
    }
    work();
    // SAFETY: nobody is there any more.
    assert_eq!(unsafe { libc::munmap(room, SIZE) }, 0);
}

/// A thread that does so.
fn coroutine(
    plugin: &Plugin,
    above: bool,
    there: extern "C" fn(),
    work: impl FnOnce(CallsBack, c_int) + Send + 'static,
) -> Parked {
    let calls_back = plugin.function::<CallsBack>("calls_back");
    let parked = park(move |from| {
        with_second_stack(calls_back, from, above, there, || work(calls_back, from));
    });
    parked.is_asleep();
    parked
}

#[test]
fn of_a_coroutine_both_stacks_are_looked_at() {
    let _alone = alone();
    let plugin = Plugin::new("coroutine");
    for above in [false, true] {
        // SAFETY: as the source has it.
        let parked = coroutine(&plugin, above, sleeps_there, |calls_back, _| unsafe {
            _ = calls_back(swap_to_other, ptr::null_mut());
        });
        let found = plugin.found();
        parked.let_go();
        assert!(found.contains("stands in calls+0x"), "above: {above}: {found}");
    }
}

/// Neither on the stack that the thread is on, nor on its own.
#[test]
fn a_signal_frame_is_followed_to_a_coroutine() {
    let _alone = alone();
    let plugin = Plugin::new("third");
    let calls_back = plugin.function::<CallsBack>("calls_back");
    let found = interrupted(&plugin, true, move || {
        // SAFETY: the contexts are set up.
        let begin = || unsafe { swap_to_other(ptr::null_mut()) };
        with_second_stack(calls_back, 0, false, spins_there, begin);
    });
    assert!(found.contains("stands in calls+0x"), "{found}");
}

/// It is followed to a coroutine's stack, and the call is on the thread's own.
#[test]
fn behind_a_signal_frame_the_own_stack_is_looked_at() {
    let _alone = alone();
    let plugin = Plugin::new("behind");
    let calls_back = plugin.function::<CallsBack>("calls_back");
    let found = interrupted(&plugin, true, move || {
        with_second_stack(calls_back, 0, false, only_spins_there, || {
            // SAFETY: as the source has it; the contexts are set up.
            unsafe { calls_back(swap_to_other, ptr::null_mut()) };
        });
    });
    assert!(found.contains("stands in calls+0x"), "{found}");
}

#[test]
fn a_suspended_coroutine_is_found_in_memory_alone() {
    let _alone = alone();
    let plugin = Plugin::new("suspended");
    // SAFETY: the contexts are set up.
    let parked = coroutine(&plugin, false, suspends_there, |_, from| unsafe {
        swap_to_other(ptr::null_mut());
        sleep_on(from as *mut c_void);
    });
    let (found, in_memory) =
        (plugin.found(), memory(std::slice::from_ref(&plugin.going), &[]).join("\n"));
    parked.let_go();
    assert_eq!(found, "");
    assert!(in_memory.contains("points to calls+0x"), "{in_memory}");
}

#[test]
fn of_a_running_thread_the_whole_stack_is_looked_at() {
    let _alone = alone();
    let plugin = Plugin::new("running");
    let calls_back = plugin.function::<CallsBack>("calls_back");
    for inside in [false, true] {
        begin_anew();
        let parked = park(move |_| unsafe {
            // SAFETY: as the source has it.
            if inside { _ = calls_back(spins, ptr::null_mut()) } else { spins(ptr::null_mut()) }
        });
        has_begun();
        let found = look(&mut [plugin.going.clone()], Duration::from_millis(5)).remove(0);
        STOP.store(true, SeqCst);
        let line = format!("thread {} ", parked.tid);
        parked.let_go();
        let is_found =
            found.iter().any(|l| l.starts_with(&line) && l.contains("runs and could not"));
        assert_eq!(is_found, inside, "{found:?}");
    }
}

/// Below its stack there is nothing, or what guards it; or there are no more addresses.
#[test]
fn of_a_running_thread_a_small_stack_is_looked_at() {
    /// The first words of an argument are looked at, too.
    #[repr(C)]
    struct Work([usize; 8], CallsBack, AtomicI32);

    extern "C" fn begin(work: *mut c_void) -> *mut c_void {
        // SAFETY: handed in below.
        unsafe {
            let Work(_, calls_back, tid) = &*work.cast();
            tid.store(libc::gettid(), SeqCst);
            calls_back(spins, ptr::null_mut());
        }
        ptr::null_mut()
    }

    const PAGES: usize = 64;
    const STACK: usize = 16;
    let _alone = alone();
    let (plugin, page) = (Plugin::new("small"), page_size());
    let low = 1 << 16;
    for (is_guarded, place) in [(false, 0), (true, 0), (false, low)] {
        let work = Work([0; 8], plugin.function("calls_back"), AtomicI32::new(0));
        begin_anew();
        // SAFETY: fresh memory, which outlives the thread; the attributes are initialised.
        let (thread, room) = unsafe {
            let writable = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // The lowest place is free, if it may be had.
            let room = libc::mmap(place as *mut c_void, PAGES * page, writable, flags, -1, 0);
            assert!(room != libc::MAP_FAILED);
            let stack = room.byte_add((PAGES - STACK) * page);
            // Linux 6.13; an error before.
            const MADV_GUARD_INSTALL: c_int = 102;
            if is_guarded {
                libc::madvise(room, (PAGES - STACK) * page, MADV_GUARD_INSTALL);
            } else {
                libc::munmap(room, (PAGES - STACK) * page);
            }
            let mut attributes = MaybeUninit::uninit();
            libc::pthread_attr_init(attributes.as_mut_ptr());
            libc::pthread_attr_setstack(attributes.as_mut_ptr(), stack, STACK * page);
            let (mut thread, with) = (0, (&raw const work).cast_mut().cast());
            assert_eq!(libc::pthread_create(&mut thread, attributes.as_ptr(), begin, with), 0);
            (thread, room)
        };
        has_begun();
        let found = look(&mut [plugin.going.clone()], Duration::from_millis(5)).remove(0);
        STOP.store(true, SeqCst);
        // SAFETY: it ends, and is not used again.
        unsafe {
            libc::pthread_join(thread, ptr::null_mut());
            libc::munmap(room, PAGES * page);
        }
        let line = format!("thread {} ", work.2.load(SeqCst));
        let is_found =
            found.iter().any(|l| l.starts_with(&line) && l.contains("runs and could not"));
        assert!(is_found, "{is_guarded}: {found:?}");
    }
}

/// A stack on which the call is amid more than 64 MiB on either side.
#[test]
fn a_deep_stack_is_looked_at_to_its_end() {
    const MIB: usize = 1 << 20;
    const SIDE: usize = 80;

    #[inline(never)]
    fn deep(depth: usize, then: &mut dyn FnMut()) {
        let mut room = [1u8; MIB];
        std::hint::black_box(&mut room);
        if depth > 0 {
            deep(depth - 1, then)
        } else {
            then()
        }
        std::hint::black_box(&mut room);
    }

    static DEEP: AtomicI32 = AtomicI32::new(0);

    unsafe extern "C" fn deeper(from: *mut c_void) {
        deep(SIDE, &mut || {
            let ends = if from.is_null() { spins } else { sleep_on };
            // SAFETY: it is the end of a pipe, of which nothing else is read.
            unsafe {
                DEEP.store(libc::gettid(), SeqCst);
                ends(from);
            }
        });
    }

    let _alone = alone();
    let plugin = Plugin::new("deep");
    let calls_back = plugin.function::<CallsBack>("calls_back");
    for runs in [false, true] {
        begin_anew();
        let parked = park(move |from| {
            let work = move || {
                deep(SIDE, &mut || {
                    let with = if runs { 0 } else { from };
                    // SAFETY: as the source has it.
                    unsafe { calls_back(deeper, with as *mut c_void) };
                });
            };
            let thread = thread::Builder::new().stack_size(3 * SIDE * MIB);
            thread.spawn(work).unwrap().join().unwrap();
        });
        if runs {
            has_begun();
        } else {
            while DEEP.load(SeqCst) == 0 {
                thread::yield_now();
            }
            is_in(DEEP.load(SeqCst), libc::SYS_read);
        }
        let found = look(&mut [plugin.going.clone()], Duration::from_millis(5)).remove(0);
        STOP.store(true, SeqCst);
        parked.let_go();
        let what = if runs { "runs and could not" } else { "stands in calls+0x" };
        assert!(found.iter().any(|line| line.contains(what)), "{what}: {found:?}");
    }
}

/// What has the number of a process's first thread need not have its stack.
#[test]
fn a_thread_that_forked_is_looked_at_on_its_own_stack() {
    static PLUGIN: AtomicUsize = AtomicUsize::new(0);
    static CHILD: AtomicI32 = AtomicI32::new(0);

    /// The child has this thread alone.
    unsafe extern "C" fn forks(_: *mut c_void) {
        // SAFETY: the child does what follows, and ends by _exit(2).
        match unsafe { libc::fork() } {
            // SAFETY: it looks at nothing of what it is given.
            0 => unsafe {
                thread::spawn(looks_at_who_forked);
                spins(ptr::null_mut());
            },
            child => CHILD.store(child, SeqCst),
        }
    }

    fn looks_at_who_forked() {
        // SAFETY: set below.
        let plugin = unsafe { &*(PLUGIN.load(SeqCst) as *const Plugin) };
        has_begun();
        let found = look(&mut [plugin.going.clone()], Duration::from_millis(5)).remove(0);
        // A thread that waits for a page is asleep.
        let is_found = found
            .iter()
            .any(|line| line.contains("runs and could not") || line.contains("stands in calls+0x"));
        // SAFETY: ends the child.
        unsafe { libc::_exit(c_int::from(!is_found)) };
    }

    /// Started with nothing that points into the object.
    extern "C" fn begins(_: *mut c_void) -> *mut c_void {
        // SAFETY: set below.
        let plugin = unsafe { &*(PLUGIN.load(SeqCst) as *const Plugin) };
        // SAFETY: as the source has it.
        unsafe { plugin.function::<CallsBack>("calls_back")(forks, ptr::null_mut()) };
        ptr::null_mut()
    }

    let _alone = alone();
    begin_anew();
    let (plugin, mut thread, mut status) = (Plugin::new("forks"), 0, -1);
    PLUGIN.store((&raw const plugin).addr(), SeqCst);
    // SAFETY: the plugin outlives the thread; there is room for the results.
    unsafe {
        assert_eq!(libc::pthread_create(&mut thread, ptr::null(), begins, ptr::null_mut()), 0);
        libc::pthread_join(thread, ptr::null_mut());
        libc::waitpid(CHILD.load(SeqCst), &mut status, 0);
    }
    assert_eq!(status, 0, "it was found");
}

/// Looks, and keeps what it has found.
unsafe extern "C" fn looks(plugin: *mut c_void) {
    // SAFETY: handed in by the tests below.
    let plugin = unsafe { &*plugin.cast::<(Plugin, Mutex<String>)>() };
    *plugin.1.lock().unwrap() = plugin.0.found();
}

/// What `work` finds, which is given this module's `calls_back`, and what is to be handed on to `looks`.
fn this_finds(name: &str, work: impl FnOnce(CallsBack, *mut c_void)) {
    let _alone = alone();
    let mut plugin = (Plugin::new(name), Mutex::new(String::new()));
    let calls_back = plugin.0.function::<CallsBack>("calls_back");
    work(calls_back, (&raw mut plugin).cast());
    let found = plugin.1.lock().unwrap().clone();
    assert!(found.contains("stands in calls+0x"), "{found}");
}

#[test]
fn this_thread_is_unwound() {
    // SAFETY: as the source has it.
    this_finds("this", |calls_back, with| unsafe { _ = calls_back(looks, with) });
}

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".globl looks_beyond",
    "looks_beyond:",
    "sub $8, %rsp",
    "call {}",
    "add $8, %rsp",
    "ret",
    sym looks,
    options(att_syntax)
);

/// The function has no unwind information.
#[test]
#[cfg(target_arch = "x86_64")]
fn of_this_thread_what_cannot_be_unwound_is_searched() {
    unsafe extern "C" {
        fn looks_beyond(plugin: *mut c_void);
    }
    // SAFETY: as the source has it.
    this_finds("beyond", |calls_back, with| unsafe { _ = calls_back(looks_beyond, with) });
}

#[test]
fn of_this_thread_on_a_coroutine_the_own_stack_is_looked_at() {
    static WITH: AtomicUsize = AtomicUsize::new(0);

    extern "C" fn looks_there() {
        // SAFETY: set below.
        unsafe { looks(WITH.load(SeqCst) as *mut c_void) };
    }

    for above in [false, true] {
        this_finds("from-other", |calls_back, with| {
            WITH.store(with.addr(), SeqCst);
            with_second_stack(calls_back, 0, above, looks_there, || {
                // SAFETY: as the source has it; the contexts are set up.
                unsafe { calls_back(swap_to_other, ptr::null_mut()) };
            });
        });
    }
}

#[test]
fn what_cannot_be_looked_at_is_told() {
    let _alone = alone();
    let plugin = Plugin::new("refused");
    let begin = |name: &str| {
        let proc = folder(name);
        fs::create_dir_all(proc.join("task/4711")).unwrap();
        proc
    };
    let tells = |proc: &Path, what: &str| {
        let found = look_in(proc, &mut [plugin.going.clone()], Duration::from_millis(1))
            .remove(0)
            .join("\n");
        let _ = fs::remove_dir_all(proc);
        assert!(found.contains(what), "{what}: {found}");
    };
    tells(Path::new("/nowhere"), "threads could not be looked at: /nowhere/task: No such file");
    let proc = begin("no-file");
    tells(&proc, "thread 4711 could not be looked at: ");
    let proc = begin("garbage");
    fs::write(proc.join("task/4711/syscall"), "0 zero").unwrap();
    tells(&proc, "thread 4711 could not be looked at: ");
    let proc = begin("runs");
    fs::write(proc.join("task/4711/syscall"), "running\n").unwrap();
    fs::write(proc.join("task/4711/comm"), "poller\n").unwrap();
    tells(&proc, "thread 4711 'poller' runs and could not be looked at");
    // A thread that has been left out of the listing, as the kernel may do.
    let proc = begin("left-out");
    std::os::unix::fs::symlink("4711", proc.join("task/4712")).unwrap();
    tells(&proc, "no listing has as many as there are");
    // In exit(2), and where there is no stack any more.
    for line in [format!("{} 0x0 0x0 0x0 0x0 0x0 0x0 0x1 0x1", libc::SYS_exit), "-1 0x0 0x0".into()]
    {
        let proc = begin("ended");
        fs::write(proc.join("task/4711/syscall"), line).unwrap();
        let found = look_in(&proc, &mut [plugin.going.clone()], Duration::from_millis(1)).remove(0);
        assert!(found.is_empty(), "{found:?}");
    }
    // Who was seen outside stays there.
    let (proc, mut going) = (begin("outside"), [plugin.going.clone()]);
    let mut look = |state: &str| {
        fs::write(proc.join("task/4711/syscall"), state).unwrap();
        look_in(&proc, &mut going, Duration::from_millis(1)).remove(0)
    };
    assert_eq!(look("running\n").len(), 1);
    let told = look("0 0x0 0x0 0x0 0x0 0x0 0x0 0x1000 0x1000\n").join("\n");
    assert!(told.contains("4711 could not be looked at: "), "it has no stack: {told}");
    // SAFETY: fresh memory, which is unmapped below.
    let stack = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let room = libc::mmap(ptr::null_mut(), 2 * page_size(), libc::PROT_READ, flags, -1, 0);
        assert_eq!(libc::mprotect(room.byte_add(page_size()), page_size(), libc::PROT_NONE), 0);
        room
    };
    assert!(look(&format!("0 0x0 0x0 0x0 0x0 0x0 0x0 {stack:p} 0x1000\n")).is_empty());
    assert!(look("running\n").is_empty());
    // SAFETY: nobody else uses it.
    unsafe { libc::munmap(stack, 2 * page_size()) };
}

#[test]
fn calls_are_told_from_other_words() {
    use super::words::is_behind_call;
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let calls: [&[u8]; 8] = [
        &[0xe8, 1, 2, 3, 4],
        &[0xff, 0xd0],
        &[0xff, 0x14, 0xd8],
        &[0xff, 0x50, 0x08],
        &[0xff, 0x54, 0x24, 0x08],
        &[0xff, 0x15, 1, 2, 3, 4],
        &[0xff, 0x93, 1, 2, 3, 4],
        &[0xff, 0x94, 0x24, 1, 2, 3, 4],
    ];
    let others: [&[u8]; 4] = [&[0xc3], &[0xff, 0xe0], &[0xff, 0x50], &[0x55, 0x48, 0x89, 0xe5]];
    let is_call = |code: &[u8]| {
        let code = [&[0x90; 8], code].concat();
        is_behind_call(code.as_ptr() as usize + code.len())
    };
    assert!(calls.iter().all(|call| is_call(call)));
    assert!(!others.iter().any(|other| is_call(other)));
}
