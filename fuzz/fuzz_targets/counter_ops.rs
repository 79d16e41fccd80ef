//! The counter's C functions against the model, in any order of operations.
#![no_main]

// The C functions, and the crate by the name that the model has for it.
extern crate modref as module_ref;
extern crate module_ref as c;

#[path = "../../core/tests/model/mod.rs"]
mod model;

use c::*;
use libfuzzer_sys::fuzz_target;
use model::counter::{Answer, Face, Real, Step, What, perform, run};
use module_ref::{DrainError, FinishError, InitError, Mode, ReleaseError};
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

struct C;

/// The descriptor, and the program's handle.
struct Begun(OwnedFd, Box<module_ref_drain>);

// SAFETY: a handle is for all threads.
unsafe impl Send for Begun {}

impl AsRawFd for Begun {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Face for C {
    // AddressSanitizer maps memory as slots are mapped, so it is not refused to any thread.
    const THREADS: usize = 3;
    type Begun = Begun;

    unsafe fn perform(real: &Real<Self>, step: Step, held: i64) -> Answer {
        let raw = real.place().cast::<c::module_ref>();
        let begun = || real.begun.lock().unwrap();
        let ns = |time: Option<Duration>| time.map_or(-1, |time| time.as_nanos() as i64);
        // SAFETY: the caller's promise.
        Answer::Code(unsafe {
            match step.what {
                What::TryGet => return Answer::Got(module_ref_try_get(raw)),
                What::GetIfHeld => return Answer::Got(module_ref_get_if_held(raw)),
                What::Get => {
                    module_ref_get(raw);
                    return Answer::Nothing;
                }
                What::Put => {
                    module_ref_put(raw);
                    return Answer::Nothing;
                }
                What::Destroy => {
                    module_ref_destroy(raw);
                    return Answer::Nothing;
                }
                What::TryRelease => module_ref_try_release(raw),
                What::Drain(time) => module_ref_drain(raw, ns(time)),
                What::Begin(time) => {
                    let mut handle = Box::new(mem::zeroed());
                    let fd = module_ref_drain_begin(raw, &raw mut *handle, ns(time));
                    if fd >= 0 {
                        *begun() = Some(Begun(OwnedFd::from_raw_fd(fd), handle));
                    }
                    fd.min(0)
                }
                What::Finish => module_ref_drain_finish(&raw mut *begun().as_mut().unwrap().1),
                What::Cancel => module_ref_drain_cancel(&raw mut *begun().as_mut().unwrap().1),
                What::Reinit => module_ref_reinit(raw),
                What::Init(Mode::Atomic, _) => module_ref_init(raw),
                What::Init(Mode::PerCpu, _) => module_ref_init_percpu(raw),
                _ => return Self::told(perform(real, step, held)),
            }
        })
    }

    fn told(answer: Answer) -> Answer {
        let drain = |why| match why {
            DrainError::TimedOut { .. } => libc::ETIMEDOUT,
            DrainError::Busy => libc::EBUSY,
            DrainError::AlreadyReleased => libc::EALREADY,
            DrainError::Destroyed => libc::EINVAL,
            other => panic!("{other:?}"),
        };
        let errno = match answer {
            Answer::Release(Err(ReleaseError::InUse { .. })) => libc::EWOULDBLOCK,
            Answer::Release(Err(why)) => drain(why.into()),
            Answer::Drain(Err(why)) | Answer::Begin(Err(why)) => drain(why),
            Answer::Finish(Err(FinishError::InUse { .. })) => libc::EINPROGRESS,
            Answer::Finish(Err(FinishError::TimedOut { .. })) => libc::ETIMEDOUT,
            Answer::Init(Err(InitError::InUse)) => libc::EBUSY,
            Answer::Init(Err(InitError::Destroyed)) => libc::EINVAL,
            Answer::Nothing | Answer::Got(_) | Answer::Panicked => return answer,
            _ => 0,
        };
        Answer::Code(-errno)
    }

    fn knows_caller(what: What) -> bool {
        cfg!(target_arch = "x86_64") && !matches!(what, What::DrainWith(..))
    }
}

fuzz_target!(|text: &[u8]| run::<C>(text));
