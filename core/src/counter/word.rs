//! The counter word: its bits, its states, and the moves between them.
//!
//! One 64-bit word holds everything a getter, a putter and a releaser have to
//! agree on. The flags stand low and the count, a *signed* number of
//! references, stands high, so that no misuse of the count can carry or borrow
//! into the flags.
//!
//! The count is signed, so that a surplus put shows as what it is, and 60 bits wide: at a thousand
//! million gets in a second that nobody gives back it takes eighteen years to wrap, and the pin stops
//! it before.
//!
//! It has to be one word. The releaser's question is "is the count zero, and if so, may nobody get
//! in any more?", and both halves have to be answered at the same moment. With flag and count in
//! two words a get could add to the one between the releaser's looks at the two.
//!
//! # Zones of the count
//!
//! | count             | what it means                                                        |
//! | ----------------- | -------------------------------------------------------------------- |
//! | below 0           | a surplus put that is just undoing itself; or, with `PERCPU`, nothing |
//! | 0                 | nobody holds a reference (nothing, with `PERCPU`)                     |
//! | up to 2^58        | so many references are held, or are being refused                    |
//! | 2^58 and beyond   | references have leaked for years: the count is pinned to 1.5 * 2^58   |
//!
//! # States
//!
//! The flags alone name the state; the count is carried through every change of
//! state untouched.
//!
//! | flags       | state     | leaves it                            | to                       |
//! | ----------- | --------- | ------------------------------------ | ------------------------ |
//! | `BASE|OPEN` | live      | the one thread that clears `BASE`    | claimed                  |
//! | `OPEN`      | claimed   | its owner, count 0                   | released                 |
//! |             |           | its owner, count not 0               | live                     |
//! |             |           | its owner, about to wait             | draining                 |
//! | `DRAINING`  | draining  | its owner, count 0                   | released                 |
//! |             |           | its owner, whose time is up, count not 0, or who cancels | live |
//! | none        | released  | the winner of the release            | live (reinit), destroyed |
//! | `PERCPU`    | destroyed | nobody; `init` starts over           |                          |
//!
//! No flag means released, whatever the count: so memory that is all zeroes gives out no
//! reference, as a module in Linux is going once its refcnt is 0.
//!
//! With slots, `PERCPU` stands beside the flags of the first three states: while the counter
//! is live, while an attempt has claimed it or a reinit is under way, and while it drains
//! until the drainer has folded. Folding takes `PERCPU` away and adds what the slots hold to
//! the count; the way back does the reverse.
//!
//! What a get and a put make of a word that they find:
//!
//! | state     | a get                                  | a put                                    |
//! | --------- | -------------------------------------- | ---------------------------------------- |
//! | live      | stands                                 | gives a reference back                   |
//! | claimed   | stands; the owner's exchange fails     | gives a reference back; the owner may succeed |
//! | draining  | is refused, unless the caller holds one or asks whether somebody does | gives a reference back, and wakes at `DRAINED` |
//! | released  | is refused; a holder's is a misuse     | is a misuse, and undone                  |
//! | destroyed | is refused; a holder's is a misuse     | is a misuse, and undone                  |
//!
//! `legal` below is the table of states as code. Every model, under either checker,
//! holds each change of the word against it.

/// The loader's own reference is in: the counter is live and nobody is trying
/// to release it. The bit is `MODULE_REF_BASE` of the Linux patch, kept apart
/// from the count so that a surplus put cannot eat it.
pub const BASE: u64 = 1;

/// New references are given. A counter without it is closed: new gets fail.
pub const OPEN: u64 = 1 << 1;

/// Somebody has closed the counter and waits for the last put. Alone, with a count of
/// zero, it is the one value that obliges its writer to wake the drainer.
pub const DRAINING: u64 = 1 << 2;

/// Part of the count is in per-CPU slots, so that this word alone says nothing.
pub const PERCPU: u64 = 1 << 3;

/// One reference, in the unit of the word.
pub const REF: u64 = 1 << 4;

/// All flags. What is above them is the count.
pub const FLAGS: u64 = REF - 1;

/// The flags of a counter that gives references and that nobody tries to release.
pub const LIVE: u64 = BASE | OPEN;

/// Closed by a drainer, and nobody holds a reference: the drainer may go.
pub const DRAINED: u64 = DRAINING;

/// The flags of a counter that nobody holds or can get.
pub const RELEASED: u64 = 0;

/// The flags of a counter whose life is over. No other state has `PERCPU` alone, so a
/// use after destroy can be told from a use after release.
pub const DESTROYED: u64 = PERCPU;

/// Counts from here on are in the outermost zone: so far out that no program
/// can get there one honest reference at a time. A count found here is pinned.
pub const PINNED_FROM: i64 = 1 << 58;

/// Where a count is pinned: the middle of the outermost zone, so that fewer
/// than 2^57 gets or puts that race with the pinning do not leave it.
pub const PIN: i64 = PINNED_FROM + (PINNED_FROM >> 1);

/// The flags of `word`.
#[inline]
pub const fn flags(word: u64) -> u64 {
    word & FLAGS
}

/// The count of `word`. The shift is arithmetic: a count can be below zero for
/// the moment in which a surplus put undoes itself.
#[inline]
pub const fn count(word: u64) -> i64 {
    (word as i64) >> 4
}

/// A word of `flags` and `count`.
#[inline]
pub const fn pack(flags: u64, count: i64) -> u64 {
    ((count as u64) << 4) | flags
}

/// `word` with `n` more references. Counts wrap within their 60 bits, which is exact for
/// every sum that fits.
#[inline]
pub const fn plus(word: u64, n: i64) -> u64 {
    word.wrapping_add((n as u64) << 4)
}

/// Whether a release has succeeded. The flags decide, whatever the count: a
/// refused get may stand between its add and its undo.
#[inline]
pub const fn released(word: u64) -> bool {
    flags(word) == RELEASED
}

/// Whether the counter is released or destroyed: nobody holds a reference.
#[inline]
pub const fn gone(word: u64) -> bool {
    matches!(flags(word), RELEASED | DESTROYED)
}

/// The state table as code: may the word go from `old` to `new` in one step?
///
/// It judges single steps, so it is the same for every model; that the steps of several threads
/// together lose no reference is what the models' ends look at. A step that leaves the flags alone
/// moves the count by one, or pins it. A step that changes them carries the count, unless slots
/// are folded or unfolded in it.
#[cfg(any(test, loom, interleave))]
pub fn legal(old: u64, new: u64) -> Result<(), &'static str> {
    const LIVE_PERCPU: u64 = LIVE | PERCPU;
    const CLAIMED: u64 = OPEN;
    const CLAIMED_PERCPU: u64 = OPEN | PERCPU;
    const DRAINING_PERCPU: u64 = DRAINING | PERCPU;
    let (was, is) = (flags(old), flags(new));
    // Sums of slots come and go here, and surplus puts are mended; the checkers hold the
    // total against the references held.
    match (was, is) {
        (CLAIMED_PERCPU, CLAIMED | CLAIMED_PERCPU) | (DRAINING_PERCPU, DRAINING) => return Ok(()),
        (CLAIMED, CLAIMED_PERCPU) if count(old) != 0 => return Ok(()),
        (DRAINING, CLAIMED_PERCPU) => return Ok(()),
        (RELEASED, CLAIMED_PERCPU) => return Ok(()),
        _ => {}
    }
    if was == is {
        return match count(new) - count(old) {
            -1..=1 => Ok(()),
            _ if count(new) == PIN => Ok(()),
            _ => Err("the count moved by more than one reference"),
        };
    }
    if count(old) != count(new) {
        return Err("a change of state changed the count");
    }
    match (was, is) {
        (LIVE, CLAIMED) | (CLAIMED, DRAINING) | (RELEASED, LIVE | DESTROYED) => Ok(()),
        (LIVE_PERCPU, CLAIMED_PERCPU) | (CLAIMED_PERCPU, LIVE_PERCPU) => Ok(()),
        (CLAIMED_PERCPU, DRAINING_PERCPU) | (DRAINING_PERCPU, CLAIMED_PERCPU) => Ok(()),
        (CLAIMED | DRAINING, RELEASED) if count(old) == 0 => Ok(()),
        (CLAIMED | DRAINING, RELEASED) => Err("released while the count was not zero"),
        (CLAIMED, LIVE) if count(old) != 0 => Ok(()),
        (CLAIMED, LIVE) => Err("refused although nobody held a reference"),
        // A drain may be cancelled.
        (DRAINING, LIVE) => Ok(()),
        _ => Err("no such transition"),
    }
}

#[cfg(all(test, not(any(loom, interleave))))]
mod tests {
    use super::*;

    #[test]
    fn a_count_never_reaches_the_flags() {
        for flags_of in 0..REF {
            let mut word = pack(flags_of, 0);
            for _ in 0..3 {
                word = word.wrapping_sub(REF);
                assert_eq!(flags(word), flags_of);
            }
            assert_eq!(count(word), -3);
            let top = pack(flags_of, i64::MAX >> 4).wrapping_add(REF);
            assert_eq!(flags(top), flags_of);
        }
    }

    #[test]
    fn pack_is_the_inverse_of_flags_and_count() {
        for c in [0, 1, -1, PINNED_FROM, PIN, -PIN, i64::MAX >> 4, i64::MIN >> 4] {
            for f in 0..REF {
                assert_eq!((flags(pack(f, c)), count(pack(f, c))), (f, c));
            }
        }
    }

    #[test]
    fn the_table_refuses_what_it_does_not_list() {
        assert!(legal(pack(OPEN, 1), pack(RELEASED, 1)).is_err());
        assert!(legal(pack(OPEN, 0), pack(LIVE, 0)).is_err());
        assert!(legal(pack(OPEN, 1), pack(RELEASED, 0)).is_err());
        assert!(legal(pack(RELEASED, 0), pack(OPEN, 0)).is_err());
        assert!(legal(pack(LIVE, 3), pack(LIVE, 5)).is_err());
        assert!(legal(pack(LIVE, 3), pack(OPEN, 3)).is_ok());
    }

    #[test]
    fn zeroed_memory_is_gone() {
        assert!(released(0));
    }
}
