//! Threads that take one step at a time as they are told, one of them in a sandbox.

use module_ref::{Mode, ModuleRef};
use std::collections::HashMap;
use std::fmt::Debug;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Whether this process has to count per CPU where it is asked to. The library is not asked: what it
/// says is what is tested.
pub static PER_CPU: LazyLock<bool> = LazyLock::new(|| {
    cfg!(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64"),
        target_pointer_width = "64"
    )) && has_sequences()
        && has_barrier()
});

/// Whether the kernel has restartable sequences, and lets this process register them. No area is so short: that
/// is what it says then.
fn has_sequences() -> bool {
    // SAFETY: it registers nothing.
    unsafe {
        libc::syscall(libc::SYS_rseq, 0, 0, 0, 0) == -1 && *libc::__errno_location() == libc::EINVAL
    }
}

/// Whether the kernel has the barrier that aborts them, and lets this process ask.
fn has_barrier() -> bool {
    let needed = libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED_RSEQ
        | libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_RSEQ;
    // SAFETY: membarrier takes no pointers.
    let commands = unsafe {
        libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_QUERY, 0, 0) as libc::c_int
    };
    commands >= 0 && commands & needed == needed
}

/// How long an answer may take that has to come.
const PATIENCE: Duration = Duration::from_secs(10);

pub const THREADS: usize = 4;

/// The one that no `membarrier` and no memory for slots are granted. A filter of system calls
/// cannot be taken away again, but is a thread's own; so the same counter has its barrier
/// refused, or not, by who asks.
pub const SANDBOXED: usize = THREADS - 1;

/// Whether there is a sandbox at all.
pub static SANDBOX: LazyLock<bool> = LazyLock::new(|| {
    let there = thread::spawn(enter_sandbox).join().expect("a thread");
    if !there {
        eprintln!("skipped: refused barriers and memory; no filter of system calls to be had");
    }
    there
});

/// Whether a barrier is refused to this thread.
pub fn is_refused(thread: usize) -> bool {
    thread == SANDBOXED && *SANDBOX
}

/// What is refused with.
pub const REFUSAL: i32 = libc::EPERM;

/// Has every membarrier of this thread fail, and every mapping of memory that is made as those for
/// slots are. False if that is not to be had.
#[cfg(target_os = "linux")]
fn enter_sandbox() -> bool {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    const fn load(at: usize) -> libc::sock_filter {
        libc::sock_filter { code: (BPF_LD | BPF_W | BPF_ABS) as u16, jt: 0, jf: 0, k: at as u32 }
    }
    const fn unless(value: i64, skip: u8) -> libc::sock_filter {
        let code = (BPF_JMP | BPF_JEQ | BPF_K) as u16;
        libc::sock_filter { code, jt: 0, jf: skip, k: value as u32 }
    }
    const fn end(with: u32) -> libc::sock_filter {
        libc::sock_filter { code: (BPF_RET | BPF_K) as u16, jt: 0, jf: 0, k: with }
    }
    /// The low half of a system call's argument.
    const fn argument(n: usize) -> usize {
        mem::offset_of!(libc::seccomp_data, args)
            + 8 * n
            + if cfg!(target_endian = "big") { 4 } else { 0 }
    }
    const FOR_SLOTS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    let mut code = [
        load(mem::offset_of!(libc::seccomp_data, nr)),
        unless(libc::SYS_membarrier, 1),
        end(libc::SECCOMP_RET_ERRNO | REFUSAL as u32),
        unless(libc::SYS_mmap, 5),
        load(argument(2)),
        unless((libc::PROT_READ | libc::PROT_WRITE) as i64, 3),
        load(argument(3)),
        unless(FOR_SLOTS as i64, 1),
        end(libc::SECCOMP_RET_ERRNO | libc::ENOMEM as u32),
        end(libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    // SAFETY: the program is well-formed, and outlives the calls.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &program) == 0
            && libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_QUERY, 0, 0) == -1
    }
}

#[cfg(not(target_os = "linux"))]
fn enter_sandbox() -> bool {
    false
}

/// What CPUs this process may use; seen by a thread that no step has moved.
#[cfg(target_os = "linux")]
static CPUS: LazyLock<Vec<usize>> = LazyLock::new(|| {
    // SAFETY: all-zero is a valid set, and the call writes no more than one.
    unsafe {
        let mut may: libc::cpu_set_t = mem::zeroed();
        libc::sched_getaffinity(0, size_of_val(&may), &mut may);
        (0..libc::CPU_SETSIZE as usize).filter(|&cpu| libc::CPU_ISSET(cpu, &may)).collect()
    }
});

/// Has this thread go on on the `n`th CPU that it may use.
pub fn run_on(n: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: all-zero is a valid set, and the call reads no more than one.
    unsafe {
        let mut only: libc::cpu_set_t = mem::zeroed();
        libc::CPU_SET(CPUS[n % CPUS.len()], &mut only);
        assert_eq!(libc::sched_setaffinity(0, size_of_val(&only), &only), 0);
    }
    let _ = n;
}

/// Counters in all the slots that there are memory for now. In the sandbox that is no more.
pub fn take_all_slots() -> Vec<ModuleRef> {
    let mut all = Vec::new();
    while let Ok(counter) = ModuleRef::new_percpu() {
        assert_eq!(counter.mode(), Mode::PerCpu, "without slots");
        all.push(counter);
    }
    all
}

type Job = Box<dyn FnOnce() + Send>;

/// An answer that will come.
struct Pending<A>(Receiver<thread::Result<A>>);

impl<A> Pending<A> {
    /// The answer to `what`; a panic goes on here.
    fn get(self, what: &dyn Debug) -> A {
        match self.0.recv_timeout(PATIENCE) {
            Ok(answer) => answer.unwrap_or_else(|panic| resume_unwind(panic)),
            Err(RecvTimeoutError::Timeout) => panic!("no answer, as if a wake was lost: {what:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("the thread has ended"),
        }
    }

    fn check_that_it_waits(&self, what: &dyn Debug)
    where
        A: Debug,
    {
        if let Ok(early) = self.0.try_recv() {
            let early = early.unwrap_or_else(|panic| resume_unwind(panic));
            panic!("it does not wait but answers {early:?}: {what:?}");
        }
    }
}

/// Threads that each do what they are given, one thing after the other. The first is the caller
/// itself, which never waits. The others begin with their first step, and end when this is dropped;
/// one that waits at that time is left there.
pub struct Crew<A> {
    begin: Box<dyn Fn() -> Job>,
    threads: [Option<Sender<Job>>; THREADS],
    waiting: HashMap<usize, Pending<A>>,
}

impl<A: Debug + PartialEq + Send + 'static> Crew<A> {
    /// `begin` is done first, by each.
    pub fn new(begin: impl Fn() + Clone + Send + 'static) -> Self {
        #[cfg(target_os = "linux")]
        LazyLock::force(&CPUS);
        // Who is in the sandbox cannot map the first slots.
        drop(ModuleRef::new_percpu().expect("memory for the first slots"));
        let begin = move || -> Job { Box::new(begin.clone()) };
        Self { begin: Box::new(begin), threads: Default::default(), waiting: HashMap::new() }
    }

    fn start<T: Send + 'static>(
        &mut self,
        thread: usize,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Pending<T> {
        let jobs = self.threads[thread].get_or_insert_with(|| {
            let (jobs, todo) = channel::<Job>();
            let begin = (self.begin)();
            thread::spawn(move || {
                if is_refused(thread) {
                    assert!(enter_sandbox());
                }
                begin();
                todo.iter().for_each(|job| job());
            });
            jobs
        });
        let (answer, answers) = channel();
        let job = Box::new(move || {
            // Nobody listens any more once the case has failed.
            let _ = answer.send(catch_unwind(AssertUnwindSafe(job)));
        });
        jobs.send(job).expect("a thread that is there");
        Pending(answers)
    }

    /// What `job` gives, done by `thread`.
    pub fn run<T: Send + 'static>(
        &mut self,
        step: &dyn Debug,
        thread: usize,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        if thread == 0 { job() } else { self.start(thread, job).get(step) }
    }

    /// `thread`, or the next one that does not wait, of so many.
    pub fn free(&self, thread: usize, of: usize) -> usize {
        let mut all = (thread..of).chain(0..thread);
        all.find(|thread| !self.waiting.contains_key(thread)).expect("a thread that is free")
    }

    /// Has `thread` do `job`, which has to answer that; or, if that is `None`, to wait, which it does
    /// once it `waits`.
    pub fn expect(
        &mut self,
        step: &dyn Debug,
        thread: usize,
        job: impl FnOnce() -> A + Send + 'static,
        expected: Option<A>,
        waits: impl FnMut() -> bool,
    ) {
        let Some(expected) = expected else {
            let pending = self.start(thread, job);
            self.waiting.insert(thread, pending);
            return self.await_that(step, thread, waits);
        };
        assert_eq!(self.run(step, thread, job), expected, "{step:?}");
    }

    /// Waits until `thread` `waits`, which does not answer meanwhile.
    pub fn await_that(&self, step: &dyn Debug, thread: usize, mut waits: impl FnMut() -> bool) {
        let began = Instant::now();
        while !waits() {
            self.waiting[&thread].check_that_it_waits(step);
            assert!(began.elapsed() < PATIENCE, "it does not begin to wait: {step:?}");
            thread::yield_now();
        }
    }

    /// The thread that waited has to answer that now.
    pub fn ended(&mut self, step: &dyn Debug, thread: usize, expected: A) {
        let pending = self.waiting.remove(&thread).expect("it waits");
        assert_eq!(pending.get(step), expected, "what {step:?} ends");
    }

    pub fn check_that_all_wait(&self, step: &dyn Debug) {
        self.waiting.values().for_each(|pending| pending.check_that_it_waits(step));
    }
}
