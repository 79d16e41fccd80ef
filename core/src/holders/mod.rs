//! Who holds it? Records of the references that are out, for as long as somebody wants them.
//!
//! A counter that is recorded has a block of records, found by its address. Each get that
//! succeeds makes one: the caller's address, the thread and the time. Each put takes one away,
//! before it gives its reference back. While recording is off none of this is looked at but for
//! one bit beside the tag of the slots: see [`percpu`](crate::percpu) for how that is switched
//! under gets, puts and releases.
//!
//! # Which record a put takes away
//!
//! References are anonymous: nothing says which get a put belongs to. So it is
//!
//! 1. the newest of the thread that puts; or else
//! 2. none, as long as there are references without a record, which were taken before recording
//!    began, or when all records were in use; or else
//! 3. the oldest of another thread, which must have handed its reference over.
//!
//! With 3 before 2 the puts of references from before would take away the record of the one
//! holder that never puts, who is looked for.
//!
//! # What get and put may do here
//!
//! They stay async-signal-safe: no lock, no allocation, `errno` as it was. A record is claimed and
//! given up by one exchange of its first word, which has a generation in it, so that nobody
//! mistakes a record for a later one in the same place; a signal handler finds its thread's
//! record claimed, written, or not yet there.
//!
//! Records are for people. Nothing is decided by them, and they are exact when gets and puts do
//! not cross the moment in which recording begins or ends.

mod report;

pub use report::Holder;
pub(crate) use report::Holders;

use crate::by_address::{ByAddress, Content};
use crate::counter::word::{DESTROYED, flags};
use crate::counter::{Counter, held};
use crate::errno;
use crate::error::InitError;
use crate::misuse::Caller;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicPtr, AtomicU64, AtomicUsize, Ordering::*};
use core::sync::atomic::{Ordering, fence};
use std::alloc::{self, Layout};

/// Records of one counter. Further holders are counted, and not named.
pub(crate) const RECORDS: usize = 1024;

/// The record stands for a reference.
const HELD: u64 = 1 << 32;

/// Somebody is writing it.
const WRITING: u64 = 1 << 33;

/// Above it a number that changes whenever the record is given up; below, the thread.
const GENERATION: u64 = 1 << 34;

/// One reference. Zeroed memory is a free one.
struct Record {
    owner: AtomicU64,
    caller: AtomicUsize,
    /// By the monotonic clock, in nanoseconds.
    since: AtomicU64,
}

/// The records of one counter.
#[derive(Default)]
struct Records {
    /// As many as `RECORDS`, or null; they stay with their block.
    all: AtomicPtr<Record>,
    /// Behind these there was never one in use.
    used: AtomicUsize,
    /// References without a record.
    unnamed: AtomicI64,
    /// There were more references at once than records.
    full: AtomicBool,
}

impl Content for Records {}

static BLOCKS: ByAddress<Records> = ByAddress::new();

/// As many references without a record as nobody puts before they are counted.
const UNCOUNTED: i64 = i64::MAX / 2;

/// What a record says, at one moment.
#[derive(Clone, Copy)]
struct Seen {
    owner: u64,
    caller: usize,
    since: u64,
}

impl Seen {
    fn thread(self) -> u32 {
        self.owner as u32
    }
}

/// This thread, and now; 0 where a sandbox does not say.
fn thread() -> u32 {
    // SAFETY: has no requirements. Not kept: after a fork it is another one.
    unsafe { libc::syscall(libc::SYS_gettid) }.try_into().unwrap_or(0)
}

fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the place is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    (time.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec as u64)
}

impl Record {
    /// What it says, unless it is free, or changes just now.
    fn look(&self) -> Option<Seen> {
        // Acquire pairs with the Release of `write`.
        let owner = self.owner.load(Acquire);
        if owner & HELD == 0 {
            return None;
        }
        let seen =
            Seen { owner, caller: self.caller.load(Relaxed), since: self.since.load(Relaxed) };
        // What was read belongs to this generation if that is still there.
        fence(Acquire);
        (self.owner.load(Relaxed) == owner).then_some(seen)
    }

    /// Makes a free one this thread's; false if it is not free.
    fn write(&self, caller: Caller, thread: u32, since: u64) -> bool {
        // Relaxed: a guess; the exchange decides.
        let free = self.owner.load(Relaxed);
        if free & (HELD | WRITING) != 0
            || self.owner.compare_exchange(free, free | WRITING, Acquire, Relaxed).is_err()
        {
            return false;
        }
        // So that a reader who sees these sees that the generation is another one.
        fence(Release);
        self.caller.store(caller.0 as usize, Relaxed);
        self.since.store(since, Relaxed);
        // Release pairs with the Acquire of `look`.
        self.owner.store(free | HELD | u64::from(thread), Release);
        true
    }

    /// Gives it up if it is still what was seen.
    fn give_up(&self, seen: Seen) -> bool {
        let free = (seen.owner & !(GENERATION - 1)).wrapping_add(GENERATION);
        self.owner.compare_exchange(seen.owner, free, Relaxed, Relaxed).is_ok()
    }
}

impl Records {
    /// Memory for them, if this block has none yet. Whoever claims it.
    fn prepare(&self) {
        // Relaxed, here and below: this thread has the block to itself.
        if self.all.load(Relaxed).is_null() {
            let layout = Layout::array::<Record>(RECORDS).expect("a small number");
            // SAFETY: the layout is not empty.
            self.all.store(unsafe { alloc::alloc_zeroed(layout) }.cast(), Relaxed);
        }
        self.clear();
        self.used.store(0, Relaxed);
        self.unnamed.store(UNCOUNTED, Relaxed);
        self.full.store(false, Relaxed);
    }

    fn have_memory(&self) -> bool {
        // Relaxed: see `all`.
        !self.all.load(Relaxed).is_null()
    }

    fn all(&self) -> &[Record] {
        // Relaxed: written before the block was published, and not changed.
        let all = self.all.load(Relaxed);
        if all.is_null() {
            return &[];
        }
        // SAFETY: so many zeroed ones, which are never freed.
        unsafe { core::slice::from_raw_parts(all, RECORDS) }
    }

    fn used(&self) -> &[Record] {
        let all = self.all();
        // Relaxed: a record that is missed here is one of another thread, made just now.
        &all[..self.used.load(Relaxed).min(all.len())]
    }

    /// One more reference.
    fn add(&self, caller: Caller) {
        if caller != Caller::HOST {
            let (thread, since) = (thread(), now());
            for (index, record) in self.all().iter().enumerate() {
                // Before it is written, so that this thread does not miss it.
                self.used.fetch_max(index + 1, Relaxed);
                if record.write(caller, thread, since) {
                    return;
                }
            }
            self.full.store(true, Relaxed);
        }
        self.unnamed.fetch_add(1, Relaxed);
    }

    /// One reference less.
    fn take(&self, caller: Caller) {
        if caller == Caller::HOST && self.take_unnamed() {
            return;
        }
        let me = thread();
        loop {
            let all = || self.used().iter().filter_map(|record| Some((record, record.look()?)));
            let mine = all().filter(|(_, seen)| seen.thread() == me).max_by_key(|(_, s)| s.since);
            if mine.is_none() && self.take_unnamed() {
                return;
            }
            let Some((record, seen)) = mine.or_else(|| all().min_by_key(|(_, s)| s.since)) else {
                return;
            };
            // If somebody was faster, others are left, or none.
            if record.give_up(seen) {
                return;
            }
        }
    }

    fn take_unnamed(&self) -> bool {
        self.unnamed.fetch_update(Relaxed, Relaxed, |n| (n > 0).then_some(n - 1)).is_ok()
    }

    /// Gives all of them up. Nobody holds a reference, or nobody else has the block.
    fn clear(&self) {
        for record in self.used() {
            if let Some(seen) = record.look() {
                record.give_up(seen);
            }
        }
        self.unnamed.store(0, Relaxed);
    }

    /// Those that are in use, the oldest first.
    fn list(&self) -> Vec<Seen> {
        let mut all: Vec<_> = self.used().iter().filter_map(Record::look).collect();
        all.sort_by_key(|seen| seen.since);
        all
    }
}

impl Counter {
    fn address(&self) -> usize {
        ptr::from_ref(self) as usize
    }

    /// Whether gets and puts are to be noted: all that they look at while they are not.
    #[inline(always)]
    pub(crate) fn is_recorded(&self) -> bool {
        self.slots.are_recorded()
    }

    /// A get has succeeded.
    #[cold]
    #[inline(never)]
    pub(crate) fn note_get(&self, caller: Caller) {
        self.note(|records| records.add(caller));
    }

    /// A put is about to give its reference back: the counter stays until then.
    #[cold]
    #[inline(never)]
    pub(crate) fn note_put(&self, caller: Caller) {
        self.note(|records| records.take(caller));
    }

    fn note(&self, what: impl FnOnce(&Records)) {
        // There is none for a moment while recording begins or ends.
        if let Some(records) = BLOCKS.find(self.address()) {
            errno::kept(|| what(&records));
        }
    }

    /// A reference that was taken as the host's own becomes this thread's.
    #[cfg(feature = "host")]
    pub(crate) fn take_over(&self, caller: Caller) {
        if self.is_recorded() {
            self.note(|records| {
                if records.take_unnamed() {
                    records.add(caller);
                }
            });
        }
    }

    /// The winner makes the counter live again. Nobody holds a reference: whatever record is left
    /// belongs to none.
    pub(crate) fn forget_holders(&self) {
        if self.is_recorded() && self.is_released() {
            self.note(Records::clear);
        }
    }

    /// The counter's life is over.
    pub(crate) fn drop_records(&self) {
        self.slots.stop_recording();
        // Whether they were in use or not: two that have switched may have left some.
        BLOCKS.retire_all(self.address());
    }

    /// Begins or ends recording who takes references: the caller's address as far as it is known,
    /// the thread and the time. It lasts across releases and reinits, until it is ended or the
    /// counter is destroyed; references that are out when it begins are counted, and not named.
    ///
    /// While it lasts every get and put goes through the shared word, also of a per-CPU counter,
    /// and takes some hundred nanoseconds more; they stay async-signal-safe. There are 1,024
    /// records, of 24 bytes; further references are counted, and not named.
    ///
    /// References are anonymous. A put takes away the newest record of its thread; if there is
    /// none a reference without a record, if there is one; and else the oldest record of
    /// another thread.
    ///
    /// The records belong to the address: a counter that is moved begins anew. A release that is
    /// tried by another thread in the moment in which recording ends may be told
    /// [`Busy`](crate::ReleaseError::Busy).
    ///
    /// `NoMemory` if there is no memory for the records, and `Destroyed` for a counter that is;
    /// nothing has changed then.
    pub fn record_holders(&self, on: bool) -> Result<(), InitError> {
        let address = self.address();
        if !on {
            BLOCKS.retire_all(address);
            self.end_recording();
            return Ok(());
        }
        // Relaxed: to use a counter beside its destruction is against the rules.
        if flags(self.word.load(Relaxed)) == DESTROYED {
            return Err(InitError::Destroyed);
        }
        let no_memory = || {
            // Nothing was changed, unless somebody else ended it in between.
            if BLOCKS.find(address).is_none() {
                self.end_recording();
            }
            Err(InitError::NoMemory)
        };
        let records = loop {
            if !self.is_recorded() {
                // What a counter has left that was here before and was freed as it was.
                BLOCKS.retire_all(address);
            } else if BLOCKS.find(address).is_some() {
                return Ok(());
            }
            let Some(block) = BLOCKS.claim(address, Records::prepare) else { return no_memory() };
            if !block.have_memory() {
                block.retire();
                return no_memory();
            }
            self.begin_recording();
            // Several threads may have begun. If another has taken ours for an old one, or has
            // ended it, it is begun once more: only an end ends it.
            if let Some(records) = BLOCKS.keep_one(address) {
                break records;
            }
        };
        if self.slots.exist() {
            // What sequences have added is in the slots then. If it fails the number is a guess.
            let _ = self.slots.barrier();
        }
        let without = self.out().saturating_sub(records.list().len() as u64);
        records.unnamed.store(without.try_into().unwrap_or(UNCOUNTED), Relaxed);
        Ok(())
    }

    /// References that are out.
    fn out(&self) -> u64 {
        // Relaxed: a look, for people.
        held(self.total(self.word.load(Ordering::Relaxed)))
    }

    /// Who holds references, the oldest first, as far as recorded: see
    /// [`record_holders`](Self::record_holders). Empty if it is off.
    pub fn holders(&self) -> Vec<Holder> {
        self.all_holders().map_or_else(Vec::new, |all| all.named)
    }

    /// The same as text, one line for each, and one for those without a record.
    #[doc(hidden)]
    pub fn holders_text(&self) -> String {
        self.all_holders().map_or_else(String::new, |all| all.lines(&[]))
    }

    /// `None` if recording is off.
    pub(crate) fn all_holders(&self) -> Option<Holders> {
        if !self.is_recorded() {
            return None;
        }
        let records = BLOCKS.find(self.address());
        let (seen, full) = records
            .map_or_else(Default::default, |records| (records.list(), records.full.load(Relaxed)));
        let count = self.count();
        let seen = if count > 0 { seen } else { Vec::new() };
        let unnamed = u64::try_from(count).unwrap_or(0).saturating_sub(seen.len() as u64);
        Some(Holders::new(&seen, unnamed, full))
    }
}

#[cfg(test)]
mod tests;
