//! Blocks that are found by an address: what belongs to a counter and has no room in its 16
//! bytes.
//!
//! A put may have to find such a block after its last touch of the counter (I6), when nothing
//! but the address is left of it, and in a signal handler. So [`find`](ByAddress::find) takes
//! no lock and allocates nothing, and what it has found stays while it is used.
//!
//! # How a block lives
//!
//! A block is allocated when a bucket has none to spare, put at the front of the bucket's
//! chain, and never freed or moved: whoever walks a chain needs no protection. Its state is
//! one word, a number of pins above three flags:
//!
//! | flags     | state   | leaves it                                           | to      |
//! | --------- | ------- | --------------------------------------------------- | ------- |
//! | none      | free    | `claim`, while nobody pins it                       | owned   |
//! | `OWNED`   | owned   | `claim`, once address and content are written       | live    |
//! |           |         | the last one out, once the content is given up      | free    |
//! | `LIVE`    | live    | the one thread that `retire`s it, and pins it       | retired |
//! | `RETIRED` | retired | the last one out, who finds nobody pinning it       | owned   |
//!
//! **B1, what is pinned stays.** Address and content are written in state owned alone, by the
//! thread that has brought the block there, and it gets there without a pin: from free by an
//! exchange of the whole word, or from retired likewise. A finder pins with one addition and
//! looks at what was there: if that was live, the block was not owned, and cannot be before
//! the pin is gone. If it was not, the finder takes its pin back and has touched nothing else.
//!
//! **B2, given up once.** A retired block is given up by whoever exchanges `RETIRED` without
//! pins for `OWNED`. Each pin that goes tries it if that is what it leaves, and the pin that
//! `retire` needs goes after it: so somebody does.
//!
//! An address says nothing about *which* counter was there. Who looks up the address of a
//! counter that may be gone can find the block of its successor in the same memory, and does
//! nothing with it that would be wrong then.

use crate::sync::{AtomicPtr, AtomicU64, AtomicUsize, fence};
use core::ops::Deref;
use core::ptr;
use core::sync::atomic::Ordering::*;
use std::alloc::{self, Layout};

/// It can be found.
const LIVE: u64 = 1;

/// One thread has it to itself.
const OWNED: u64 = 1 << 1;

/// It cannot be found any more, and waits for the last one who has.
const RETIRED: u64 = 1 << 2;

/// One user, in the unit of the state.
const PIN: u64 = 1 << 3;

/// A power of two. Blocks are reused within their bucket.
const BUCKETS: usize = if cfg!(loom) { 2 } else { 256 };

/// What a block holds. It is made once for each block, and used by one claim after another.
pub(crate) trait Content: Default + Sync + 'static {
    /// The block was retired and its last user has gone. Called once for each claim, on the
    /// thread that was the last, which may be in a signal handler.
    fn given_up(&self) {}
}

struct Block<T: 'static> {
    next: Option<&'static Self>,
    state: AtomicU64,
    address: AtomicUsize,
    content: T,
}

/// The blocks of one kind; a static.
pub(crate) struct ByAddress<T: 'static> {
    /// The newest block of each chain.
    buckets: [AtomicPtr<Block<T>>; BUCKETS],
}

/// A block that stays what it is for as long as this is there (B1).
pub(crate) struct Pinned<T: Content> {
    block: &'static Block<T>,
}

impl<T: Content> ByAddress<T> {
    #[cfg(not(loom))]
    pub(crate) const fn new() -> Self {
        Self { buckets: [const { AtomicPtr::new(ptr::null_mut()) }; BUCKETS] }
    }

    /// Loom's atomics are not for constants.
    #[cfg(loom)]
    fn new() -> Self {
        Self { buckets: core::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())) }
    }

    fn bucket(&self, address: usize) -> &AtomicPtr<Block<T>> {
        // Fibonacci hashing: counters are 16-aligned, and often at equal distances.
        let hash = (address as u64 >> 4).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.buckets[(hash >> (u64::BITS - BUCKETS.ilog2())) as usize]
    }

    /// The blocks that may be this address's, always in the same order.
    fn chain(&self, address: usize) -> impl Iterator<Item = &'static Block<T>> {
        // Acquire pairs with the Release that published the block.
        let first = self.bucket(address).load(Acquire);
        // SAFETY: what is in a chain is initialised, and never freed.
        core::iter::successors(unsafe { first.as_ref() }, |block| block.next)
    }

    /// The block of this address, if there is one. Wait-free and async-signal-safe.
    ///
    /// What its `claim` wrote, and whatever happened before, happens before what follows.
    pub(crate) fn find(&self, address: usize) -> Option<Pinned<T>> {
        self.chain(address).find_map(|block| block.pin(address))
    }

    /// A block for this address, with what `fill` makes of it; `None` if there is no memory.
    /// Lock-free.
    ///
    /// It does not look whether the address has one: `find` then finds either of them.
    pub(crate) fn claim(&self, address: usize, fill: impl FnOnce(&T)) -> Option<Pinned<T>> {
        let mut chain = self.chain(address);
        let block = chain.find(|block| block.take()).or_else(|| self.grow(address))?;
        // Ours alone (B1). Relaxed: published below.
        block.address.store(address, Relaxed);
        fill(&block.content);
        // Release pairs with the Acquire of `pin`.
        block.state.fetch_xor(OWNED | LIVE, Release);
        Some(Pinned { block })
    }

    /// Of several blocks that this address has, keeps one, whoever asks, and retires the
    /// others. Of two that each claim one and then ask, one at least finds both.
    pub(crate) fn keep_one(&self, address: usize) -> Option<Pinned<T>> {
        // Between what was claimed and the look at what others have.
        fence(SeqCst);
        let mut all = self.chain(address).filter_map(|block| block.pin(address));
        let first = all.next();
        all.for_each(|other| {
            other.retire();
        });
        first
    }

    /// Retires whatever this address has; says whether there was anything.
    pub(crate) fn retire_all(&self, address: usize) -> bool {
        let all = self.chain(address).filter_map(|block| block.pin(address));
        all.filter(Pinned::retire).count() != 0
    }

    #[cfg(all(test, not(loom)))]
    pub(crate) fn chain_length(&self, address: usize) -> usize {
        self.chain(address).count()
    }

    /// One more block of this address's chain, owned, with a pin.
    fn grow(&self, address: usize) -> Option<&'static Block<T>> {
        let layout = Layout::new::<Block<T>>();
        // SAFETY: the layout is not empty.
        let place = unsafe { alloc::alloc(layout) }.cast::<Block<T>>();
        if place.is_null() {
            return None;
        }
        let bucket = self.bucket(address);
        // Relaxed: whoever finds our block is ordered after those who published what it leads to,
        // because the exchange carries their releases on.
        let mut newest = bucket.load(Relaxed);
        // SAFETY: new memory of this layout, ours alone; blocks in the chain are never freed.
        unsafe {
            place.write(Block {
                next: newest.as_ref(),
                state: AtomicU64::new(OWNED | PIN),
                address: AtomicUsize::new(0),
                content: T::default(),
            });
        }
        loop {
            // Release publishes the block to `chain`.
            match bucket.compare_exchange_weak(newest, place, Release, Relaxed) {
                // SAFETY: written above, and never freed.
                Ok(_) => return Some(unsafe { &*place }),
                Err(now) => newest = now,
            }
            // SAFETY: not published yet, so ours alone; as above.
            unsafe { (*place).next = newest.as_ref() };
        }
    }
}

impl<T: Content> Block<T> {
    /// Makes a free block ours, with a pin.
    fn take(&self) -> bool {
        // Acquire pairs with the Release that set it free. A finder's passing pin makes this
        // fail, and a new block costs less than waiting for it.
        self.state.compare_exchange(0, OWNED | PIN, Acquire, Relaxed).is_ok()
    }

    fn pin(&'static self, address: usize) -> Option<Pinned<T>> {
        let is_it = || self.address.load(Relaxed) == address;
        // Relaxed: a guess, so that a walk writes to no other address's block.
        if !is_it() || self.state.load(Relaxed) & LIVE == 0 {
            return None;
        }
        // Acquire pairs with the Release of `claim`; the address was written before that.
        let old = self.state.fetch_add(PIN, Acquire);
        let pinned = Pinned { block: self };
        (old & LIVE != 0 && is_it()).then_some(pinned)
    }
}

impl<T: Content> Pinned<T> {
    /// From here on nobody finds the block. Those who have found it keep it; the last of them
    /// to let go of it gives it up. True for the one caller who did this.
    pub(crate) fn retire(&self) -> bool {
        // Relaxed: what was written under a pin is published when that goes.
        if self.block.state.fetch_and(!LIVE, Relaxed) & LIVE == 0 {
            return false;
        }
        // Neither flag in between is no state to get lost in: our pin keeps it from `take`.
        self.block.state.fetch_or(RETIRED, Relaxed);
        true
    }
}

impl<T: Content> Deref for Pinned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.block.content
    }
}

impl<T: Content> Drop for Pinned<T> {
    fn drop(&mut self) {
        let state = &self.block.state;
        // Release: what was done under the pin happens before what the next owner does.
        if state.fetch_sub(PIN, Release) - PIN != RETIRED {
            return;
        }
        // Acquire pairs with that. A finder's passing pin makes it fail, and tries in turn (B2).
        if state.compare_exchange(RETIRED, OWNED, Acquire, Relaxed).is_ok() {
            self.block.content.given_up();
            // Not a store: pins may pass. Release pairs with the Acquire of `take`.
            state.fetch_and(!OWNED, Release);
        }
    }
}

#[cfg(all(test, loom))]
mod models {
    use super::*;
    use crate::sync::{Data, Setup, Shared, Tally, explore};

    /// Addresses of one bucket.
    const ONE: usize = 0x10;
    const TWO: usize = 0x30;

    /// Whose it is. Loom reports a look that is not ordered after the writing before it, or before
    /// the writing after it.
    struct Note {
        good: Data,
        of: AtomicUsize,
        given_up: Tally,
    }

    // SAFETY: loom checks every access.
    unsafe impl Sync for Note {}

    impl Default for Note {
        fn default() -> Self {
            Self { good: Data::new(), of: AtomicUsize::new(0), given_up: Tally::new() }
        }
    }

    impl Content for Note {
        fn given_up(&self) {
            assert!(self.good.read(), "given up twice");
            self.good.write(false);
            self.given_up.add(1);
        }
    }

    impl Note {
        fn is(&self, address: usize) {
            assert!(self.good.read(), "found in the middle");
            assert_eq!(self.of.load(Relaxed), address, "another's");
        }
    }

    type Table = Shared<ByAddress<Note>>;

    fn claim(table: &Table, address: usize) -> Pinned<Note> {
        let write = |note: &Note| {
            note.good.write(true);
            note.of.store(address, Relaxed);
        };
        table.claim(address, write).expect("memory")
    }

    /// A table with a live block for `ONE`.
    fn table() -> Table {
        let table = Shared::new(ByAddress::new());
        assert!(ptr::eq(table.bucket(ONE), table.bucket(TWO)));
        drop(claim(&table, ONE));
        table
    }

    /// How many can be found, how many were given up, and how many blocks it took.
    fn end(table: &Table) -> String {
        let blocks = || table.chain(ONE);
        let live = blocks().filter(|block| block.state.load(Relaxed) == LIVE).count();
        let given_up: u64 = blocks().map(|block| block.content.given_up.get()).sum();
        let idle = |block: &Block<Note>| matches!(block.state.load(Relaxed), 0 | LIVE);
        assert!(blocks().all(idle), "a pin is left");
        format!("{live} live, {given_up} given up, {} blocks", blocks().count())
    }

    /// The atomics here are loom's own, so its second run is as the first.
    fn outcomes_of<F, E>(name: &str, expected: &[&str], scenario: F)
    where
        F: Fn(&mut Setup, &Table) -> E + Send + Sync + 'static,
        E: Fn(&Table) -> String + 'static,
    {
        let seen = explore(name, move |run| {
            let table = table();
            let end = scenario(run, &table);
            move || end(&table)
        });
        assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    }

    fn use_it(table: &Table, address: usize) {
        if let Some(found) = table.find(address) {
            found.is(address);
        }
    }

    #[test]
    fn blocks_in_use_while_retired() {
        // The last one out gives it up, whoever that is, and once.
        outcomes_of(
            "blocks_in_use_while_retired",
            &["0 live, 1 given up, 1 blocks"],
            |run, table| {
                for _ in 0..2 {
                    let user = table.clone();
                    run.thread(move || use_it(&user, ONE));
                }
                let owner = table.clone();
                run.thread(move || assert!(owner.retire_all(ONE)));
                end
            },
        );
    }

    #[test]
    fn blocks_retired_by_two() {
        // One of them does it.
        outcomes_of("blocks_retired_by_two", &["0 live, 1 given up, 1 blocks"], |run, table| {
            let retired = Shared::new(Tally::new());
            for _ in 0..2 {
                let (owner, retired) = (table.clone(), retired.clone());
                run.thread(move || retired.add(owner.retire_all(ONE).into()));
            }
            move |table: &Table| {
                assert_eq!(retired.get(), 1);
                end(table)
            }
        });
    }

    #[test]
    fn blocks_used_again_for_another() {
        // Who has found it keeps it what it was; a new one is made then.
        let expected = ["1 live, 1 given up, 1 blocks", "1 live, 1 given up, 2 blocks"];
        outcomes_of("blocks_used_again_for_another", &expected, |run, table| {
            let (user, owner, other) = (table.clone(), table.clone(), table.clone());
            run.thread(move || use_it(&user, ONE));
            run.thread(move || use_it(&other, TWO));
            run.thread(move || {
                owner.retire_all(ONE);
                claim(&owner, TWO).is(TWO);
            });
            end
        });
    }

    #[test]
    fn blocks_claimed_by_two() {
        // Each has one of its own; a new one or that which a third has given up.
        let expected = ["2 live, 1 given up, 2 blocks", "2 live, 1 given up, 3 blocks"];
        outcomes_of("blocks_claimed_by_two", &expected, |run, table| {
            let owner = table.clone();
            run.thread(move || {
                owner.retire_all(ONE);
            });
            for _ in 0..2 {
                let claimer = table.clone();
                run.thread(move || claim(&claimer, TWO).is(TWO));
            }
            end
        });
    }

    #[test]
    fn blocks_of_which_one_is_kept() {
        // Each has put one there and keeps one, or none if the other has taken its own for an old
        // one: in the end one is left.
        let expected = ["1 live, 2 given up, 3 blocks"];
        outcomes_of("blocks_of_which_one_is_kept", &expected, |run, table| {
            for _ in 0..2 {
                let claimer = table.clone();
                run.thread(move || {
                    drop(claim(&claimer, TWO));
                    if let Some(kept) = claimer.keep_one(TWO) {
                        kept.is(TWO);
                    }
                });
            }
            |table: &Table| {
                assert!(table.retire_all(ONE));
                end(table)
            }
        });
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::thread;

    /// Remembers whose it is, and how often it was given up.
    #[derive(Default)]
    struct Note {
        of: AtomicUsize,
        given_up: AtomicUsize,
    }

    impl Content for Note {
        fn given_up(&self) {
            assert_ne!(self.of.swap(0, Relaxed), 0, "given up twice");
            self.given_up.fetch_add(1, Relaxed);
        }
    }

    fn claim(table: &ByAddress<Note>, address: usize) -> Pinned<Note> {
        table.claim(address, |note| note.of.store(address, Relaxed)).expect("memory")
    }

    fn blocks(table: &ByAddress<Note>, address: usize) -> usize {
        table.chain(address).count()
    }

    /// Two addresses of one bucket.
    fn neighbours(table: &ByAddress<Note>) -> (usize, usize) {
        let first = 0x1000;
        let same = |other: &usize| ptr::eq(table.bucket(first), table.bucket(*other));
        (first, (1..).map(|n| first + 16 * n).find(same).expect("more addresses than buckets"))
    }

    #[test]
    fn found_from_claim_to_retirement() {
        static TABLE: ByAddress<Note> = ByAddress::new();
        assert!(TABLE.find(0x40).is_none());
        drop(claim(&TABLE, 0x40));
        let found = TABLE.find(0x40).expect("claimed");
        assert_eq!(found.of.load(Relaxed), 0x40);
        assert!(found.retire());
        assert!(!found.retire(), "once");
        assert!(TABLE.find(0x40).is_none());
    }

    #[test]
    fn given_up_by_the_last_one_out_and_used_again() {
        static TABLE: ByAddress<Note> = ByAddress::new();
        let (address, other) = neighbours(&TABLE);
        let (owner, user) = (claim(&TABLE, address), TABLE.find(address).expect("claimed"));
        owner.retire();
        drop(owner);
        assert_eq!(user.given_up.load(Relaxed), 0, "somebody uses it");
        drop(claim(&TABLE, other));
        assert_eq!(blocks(&TABLE, address), 2, "not reused under its user");
        assert_eq!(user.of.load(Relaxed), address);
        drop(user);
        let again = claim(&TABLE, address);
        assert_eq!(again.given_up.load(Relaxed), 1);
        assert_eq!(blocks(&TABLE, address), 2, "reused");
    }

    #[test]
    fn neighbours_in_a_bucket_are_told_apart() {
        static TABLE: ByAddress<Note> = ByAddress::new();
        let (one, two) = neighbours(&TABLE);
        drop((claim(&TABLE, one), claim(&TABLE, two)));
        for address in [one, two] {
            assert_eq!(TABLE.find(address).expect("claimed").of.load(Relaxed), address);
        }
        assert!(TABLE.retire_all(one));
        assert!(!TABLE.retire_all(one));
        assert!(TABLE.find(one).is_none() && TABLE.find(two).is_some());
    }

    #[test]
    fn one_of_two_is_kept() {
        static TABLE: ByAddress<Note> = ByAddress::new();
        let (one, two) = (claim(&TABLE, 0x40), claim(&TABLE, 0x40));
        let kept = TABLE.keep_one(0x40).expect("claimed");
        assert_eq!(u8::from(one.retire()) + u8::from(two.retire()), 1, "the other one was");
        assert!(!kept.retire() && TABLE.find(0x40).is_none());
    }

    #[test]
    fn nobody_sees_another_address_in_what_it_pins() {
        static TABLE: ByAddress<Note> = ByAddress::new();
        const ROUNDS: usize = if cfg!(miri) { 50 } else { 20_000 };
        let (one, two) = neighbours(&TABLE);
        thread::scope(|scope| {
            for address in [one, one, two] {
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        let mine = claim(&TABLE, address);
                        assert_eq!(mine.of.load(Relaxed), address);
                        mine.retire();
                    }
                });
                scope.spawn(move || {
                    for _ in 0..ROUNDS {
                        let Some(found) = TABLE.find(address) else { continue };
                        for _ in 0..4 {
                            assert_eq!(found.of.load(Relaxed), address);
                        }
                    }
                });
            }
        });
        assert!(TABLE.find(one).is_none() && TABLE.find(two).is_none());
        let given_up: usize = TABLE.chain(one).map(|b| b.content.given_up.load(Relaxed)).sum();
        assert_eq!(given_up, 3 * ROUNDS);
        // One for each claimer, and as many as finders have kept from being reused.
        assert!(blocks(&TABLE, one) <= 6, "{} blocks", blocks(&TABLE, one));
        assert!(TABLE.chain(one).all(|b| b.state.load(Relaxed) == 0), "a pin is left");
    }
}
