//! The beginning and the end of a counter: init, reinit, destroy.
//!
//! `init` has to start from memory that may hold anything, and still must not
//! forget the references of a counter that is in use. So it leaves a stamp in the
//! second word that is made from the counter's own address: memory that carries
//! the right stamp is a counter that was initialised *here*. Uninitialised memory
//! has it with a chance of one in 2^61. A statically initialised counter has a
//! constant there, and a per-CPU counter a pointer, which has to lead to slots that are
//! taken.

use crate::Counter;
use crate::counter::word::{BASE, CLOSED, DESTROYED, PERCPU, count, flags, pack, plus};
use crate::error::{InitError, ReleaseError};
use crate::misuse::{self, Caller, Misuse};
#[cfg(not(any(loom, interleave)))]
use crate::sync::{Slots, Word};
use core::sync::atomic::Ordering::{self, *};

/// The stamp of a counter that was initialised by the compiler. The low bits of every
/// stamp are clear: they would say that the counter has slots.
pub const STATIC_STAMP: usize = 0x6d6f_6470;

/// The stamp of a counter at `place`.
#[cfg(not(any(loom, interleave)))]
fn stamp(place: *const Counter) -> usize {
    (place as usize ^ STATIC_STAMP) & !7
}

/// Tells valgrind's memcheck, if we run under it, that to look at memory that nobody has
/// written is meant: one of its client requests (`MAKE_MEM_DEFINED_IF_ADDRESSABLE`), which an
/// ordinary processor executes as rotations that cancel out.
#[cfg(not(any(loom, interleave)))]
fn read_on_purpose(place: *const Counter) {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    // SAFETY: changes rdi and rdx alone, and reads the request only under valgrind.
    unsafe {
        const DEFINED_IF_ADDRESSABLE: usize = 0x4d43_000b;
        let request = [DEFINED_IF_ADDRESSABLE, place as usize, size_of::<Counter>(), 0, 0, 0];
        core::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            inout("rdi") 0usize => _,
            in("rax") request.as_ptr(),
            inout("rdx") 0usize => _,
            options(nostack),
        );
    }
    let _ = place;
}

impl Counter {
    /// Makes `place` a live counter that nobody holds, in shared-word mode.
    ///
    /// Memory that holds a counter that was initialised here and is held, or is
    /// being released, is refused and stays as it is. Any other content is
    /// overwritten.
    ///
    /// # Safety
    ///
    /// `place` is aligned and writable for a `Counter`, and no other thread uses it
    /// until the caller has published it.
    #[cfg(not(any(loom, interleave)))]
    pub unsafe fn init(place: *mut Self) -> Result<(), InitError> {
        // SAFETY: the caller's promise.
        unsafe {
            Self::check_not_in_use(place)?;
            place.write(Self { word: Word::new(BASE), slots: Slots::none(stamp(place)) });
        }
        Ok(())
    }

    /// As [`init`](Self::init), with per-CPU slots where this system has what they need;
    /// ask [`mode`](Self::mode) what it became. Slots are given back by
    /// [`destroy`](Self::destroy).
    ///
    /// # Safety
    ///
    /// As for [`init`](Self::init).
    #[cfg(not(any(loom, interleave)))]
    pub unsafe fn init_percpu(place: *mut Self) -> Result<(), InitError> {
        if !Slots::available() {
            // SAFETY: the caller's promise.
            return unsafe { Self::init(place) };
        }
        // SAFETY: the caller's promise.
        unsafe {
            Self::check_not_in_use(place)?;
            place.write(Self::new_percpu()?);
        }
        Ok(())
    }

    /// A counter with slots that are already on.
    #[cfg(not(any(loom, interleave)))]
    pub(crate) fn new_percpu() -> Result<Self, InitError> {
        if !Slots::available() {
            return Ok(Self::new());
        }
        let (slots, sum) = Slots::allocate().ok_or(InitError::NoMemory)?;
        // Not zeroed but balanced: the word makes up for what is in the slots (P2).
        let counter = Self { word: Word::new(pack(BASE | PERCPU, -sum)), slots };
        counter.slots.turn_on();
        Ok(counter)
    }

    /// # Safety
    ///
    /// As for [`init`](Self::init).
    #[cfg(not(any(loom, interleave)))]
    unsafe fn check_not_in_use(place: *const Self) -> Result<(), InitError> {
        read_on_purpose(place);
        // SAFETY: any bits are a valid Counter, and the caller gives us the place.
        let there = unsafe { &*place };
        if ![stamp(place), STATIC_STAMP].contains(&there.slots.stamp()) && !there.slots.are_taken()
        {
            return Ok(());
        }
        // Relaxed: nobody else uses it now.
        let word = there.word.load(Relaxed);
        let in_use = match flags(word) {
            CLOSED | DESTROYED => false,
            live if live & !PERCPU == BASE => count(there.total(word)) != 0,
            _ => true,
        };
        if in_use { Err(InitError::InUse) } else { Ok(()) }
    }

    /// Makes a released counter live again, in the mode it had. For the winner of
    /// the release alone: what it did before happens before what any later holder
    /// does (`Release`).
    ///
    /// # Safety
    ///
    /// The caller is the winner of the release: nobody else takes away what the
    /// counter stands for.
    pub unsafe fn reinit(&self) -> Result<(), InitError> {
        self.forget_holders();
        if !self.slots.exist() {
            // Release pairs with the Acquire of try_get (I5).
            return self.leave_released(BASE, 0, Release);
        }
        // As at the end of an attempt: the sum out of the word, the slots on, and `BASE`
        // last (I1), with a Release that pairs with the Acquire of the next claim. The first
        // Release is for gets through the word.
        self.leave_released(PERCPU, -self.slots.sum(), Release)?;
        self.open();
        Ok(())
    }

    /// Ends the life of a counter that is released, or that nobody holds. One
    /// that is held stays as it is, and the misuse handler hears of the leak.
    ///
    /// # Safety
    ///
    /// If the counter is released, the caller is the winner of the release.
    pub unsafe fn destroy(&self, caller: Caller) {
        let mut outcome = self.try_release(caller);
        if matches!(outcome, Err(ReleaseError::InUse { held: 0 })) {
            // Surplus puts were found in the slots, and are mended: nobody may hold one.
            outcome = self.try_release(caller);
        }
        match outcome {
            Ok(()) | Err(ReleaseError::AlreadyReleased) => {
                // Relaxed: nobody takes anything over. It fails only on a counter that
                // another thread makes live again, against the rule for destroy.
                if self.leave_released(DESTROYED, 0, Relaxed).is_ok() {
                    self.drop_records();
                    self.slots.free();
                }
            }
            Err(ReleaseError::Destroyed) => {}
            Err(_) => misuse::report(Misuse::Leaked, self, caller),
        }
    }

    /// The end of a counter that nobody else can reach. References may be left, of guards
    /// that were forgotten: then somebody may yet put, and the slots are leaked with them.
    #[cfg(not(any(loom, interleave)))]
    pub(crate) fn give_up_slots(&mut self) {
        self.drop_records();
        // Relaxed: we are alone.
        let word = self.word.load(Relaxed);
        if count(self.total(word)) == 0 {
            self.slots.free();
        }
    }

    /// Changes the flags of a released counter. The count goes along, and `more`: a get
    /// that was refused while the counter was released may not have undone its add
    /// yet (I2).
    fn leave_released(&self, to: u64, more: i64, order: Ordering) -> Result<(), InitError> {
        // Relaxed: only the flags matter, and the exchange checks them.
        let mut word = self.word.load(Relaxed);
        loop {
            match flags(word) {
                CLOSED => {}
                DESTROYED => return Err(InitError::Destroyed),
                _ => return Err(InitError::InUse),
            }
            let next = plus(pack(to, count(word)), more);
            match self.word.compare_exchange_weak(word, next, order, Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => word = now,
            }
        }
    }
}
