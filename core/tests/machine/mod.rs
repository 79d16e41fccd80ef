//! What the state machines share: threads that take one step at a time as they are told, one of
//! them in a sandbox, and how many cases are tried.

use module_ref::{Mode, ModuleRef};
use proptest::prelude::ProptestConfig;
use std::fmt::Debug;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

/// As many cases as `PROPTEST_CASES` says, or `cases`.
pub fn config(cases: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok());
    ProptestConfig {
        cases: asked.unwrap_or(cases),
        failure_persistence: None,
        // Steps that make no sense in a state are drawn again.
        max_local_rejects: u32::MAX,
        // A lost wake costs the patience below each time.
        max_shrink_time: 60_000,
        ..ProptestConfig::default()
    }
}

/// Whether this process counts per CPU where it is asked to.
pub static PER_CPU: LazyLock<bool> = LazyLock::new(|| {
    ModuleRef::new_percpu().expect("memory for the first slots").mode() == Mode::PerCpu
});

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

/// Has this thread go on on the `n`th CPU that it may use.
pub fn run_on(n: usize) {
    #[cfg(target_os = "linux")]
    // SAFETY: all-zero is a valid set, and the calls read and write no more than one.
    unsafe {
        static CPUS: LazyLock<Vec<usize>> = LazyLock::new(|| {
            // SAFETY: as below. This thread has not been moved yet: see Threads::new().
            unsafe {
                let mut may: libc::cpu_set_t = mem::zeroed();
                libc::sched_getaffinity(0, size_of_val(&may), &mut may);
                (0..libc::CPU_SETSIZE as usize).filter(|&cpu| libc::CPU_ISSET(cpu, &may)).collect()
            }
        });
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

/// Threads that each do what they are given, one thing after the other. They end when this is
/// dropped; one that waits in a counter at that time is left there.
pub struct Threads(Vec<Sender<Job>>);

/// An answer that will come.
pub struct Answer<T>(Receiver<thread::Result<T>>);

impl Threads {
    /// `begin` is done first, by each.
    pub fn new(begin: impl Fn() + Clone + Send + 'static) -> Self {
        // The CPUs are listed by a thread that may use all of them.
        run_nowhere();
        let start = |thread| {
            let (jobs, todo) = channel::<Job>();
            let begin = begin.clone();
            thread::spawn(move || {
                if is_refused(thread) {
                    assert!(enter_sandbox());
                }
                begin();
                todo.iter().for_each(|job| job());
            });
            jobs
        };
        Self((0..THREADS).map(start).collect())
    }

    /// Has `thread` do `job`.
    pub fn start<T: Send + 'static>(
        &self,
        thread: usize,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Answer<T> {
        let (answer, answers) = channel();
        let job = Box::new(move || {
            // Nobody listens any more once the case has failed.
            let _ = answer.send(catch_unwind(AssertUnwindSafe(job)));
        });
        self.0[thread].send(job).expect("a thread that is there");
        Answer(answers)
    }

    /// What `job` gives, done by `thread`.
    pub fn run<T: Send + 'static>(
        &self,
        thread: usize,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        self.start(thread, job).get(&"a step")
    }
}

/// Looks what CPUs there are.
fn run_nowhere() {
    thread::spawn(|| run_on(0)).join().expect("a thread");
}

impl<T> Answer<T> {
    /// The answer to `what`; a panic goes on here.
    pub fn get(self, what: &dyn Debug) -> T {
        match self.0.recv_timeout(PATIENCE) {
            Ok(Ok(answer)) => answer,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(RecvTimeoutError::Timeout) => panic!("no answer, as if a wake was lost: {what:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("the thread has ended"),
        }
    }

    /// The answer, if it is there.
    pub fn look(&self) -> Option<T> {
        self.0.try_recv().ok().map(|answer| answer.unwrap_or_else(|panic| resume_unwind(panic)))
    }
}

/// Waits until `happens`, while nothing answers.
pub fn await_while<T: Debug>(answer: &Answer<T>, mut happens: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !happens() {
        if let Some(early) = answer.look() {
            panic!("it does not wait but answers {early:?}");
        }
        assert!(began.elapsed() < PATIENCE, "it does not happen");
        thread::yield_now();
    }
}
