//! The counter word: its bits, its states, and the moves between them.
//!
//! One 64-bit word holds everything a getter, a putter and a releaser have to
//! agree on. The flags stand low and the count, a *signed* number of
//! references, stands high, so that no misuse of the count can carry or borrow
//! into the flags.
//!
//! # States
//!
//! The flags alone name the state; the count is carried through every change of
//! state untouched.
//!
//! | flags               | state     | leaves it                                     | to                       |
//! | ------------------- | --------- | --------------------------------------------- | ------------------------ |
//! | `BASE`              | live      | the one thread that clears `BASE`             | claimed                  |
//! | none                | claimed   | its owner, count 0                            | released                 |
//! |                     |           | its owner, count not 0                        | live                     |
//! |                     |           | its owner, about to wait                      | draining                 |
//! | `CLOSED\|DRAINING`  | draining  | its owner, count 0                            | released                 |
//! |                     |           | its owner at its deadline, count not 0        | live                     |
//! | `CLOSED`            | released  | the winner of the release                     | live (reinit), destroyed |
//! | `CLOSED\|PERCPU`    | destroyed | nobody; `init` starts over                    |                          |
//!
//! With slots, `PERCPU` stands beside `BASE` while the counter is live, beside none
//! while an attempt has claimed it or a reinit is under way, and beside
//! `CLOSED|DRAINING` until a drainer has folded. Folding takes it away and adds what the
//! slots hold to the count; the way back does the reverse.
//!
//! `legal` below is this table as code. Every model, under either checker,
//! holds each change of the word against it.

/// The loader's own reference is in: the counter is live and nobody is trying
/// to release it. The bit is `MODULE_REF_BASE` of the Linux patch, kept apart
/// from the count so that a surplus put cannot eat it.
pub const BASE: u64 = 1;

/// The door is shut: no new references.
pub const CLOSED: u64 = 1 << 1;

/// Somebody has shut the door and waits for the last put. With [`CLOSED`], and
/// a count of zero, this is the one value that obliges its writer to wake the
/// drainer.
pub const DRAINING: u64 = 1 << 2;

/// Part of the count is in per-CPU slots, so that this word alone says nothing.
pub const PERCPU: u64 = 1 << 3;

/// One reference, in the unit of the word.
pub const REF: u64 = 1 << 4;

/// All flags.
pub const FLAGS: u64 = REF - 1;

/// Shut by a drainer and nobody holds: the drainer may go.
pub const DRAINED: u64 = CLOSED | DRAINING;

/// The flags of a counter whose life is over. No other state has this pair, so a
/// use after destroy can be told from a use after release.
pub const DESTROYED: u64 = CLOSED | PERCPU;

/// Counts from here on are in the outermost zone: so far out that no program
/// can get there one honest reference at a time. A count found here is pinned.
pub const PINNED_FROM: i64 = 1 << 58;

/// Where a count is pinned: the middle of the outermost zone, so that neither
/// 2^57 gets nor 2^57 puts that race with the pinning leave it.
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
    flags(word) == CLOSED
}

/// A live counter with slots.
#[cfg(any(test, loom, interleave))]
const LIVE_PERCPU: u64 = BASE | PERCPU;

/// A counter with slots whose door is shut, not folded yet.
#[cfg(any(test, loom, interleave))]
const DRAINED_PERCPU: u64 = DRAINED | PERCPU;

/// The state table as code: may the word go from `old` to `new` in one step?
#[cfg(any(test, loom, interleave))]
pub fn legal(old: u64, new: u64) -> Result<(), &'static str> {
    let (was, is) = (flags(old), flags(new));
    // Sums of slots come and go here, and surplus puts are mended; the checkers hold the
    // total against the references held.
    match (was, is) {
        (PERCPU, 0) | (DRAINED_PERCPU, DRAINED) => return Ok(()),
        (0, PERCPU) | (DRAINED, PERCPU) if count(old) != 0 => return Ok(()),
        (CLOSED, PERCPU) | (PERCPU, PERCPU) | (DRAINED_PERCPU, DRAINED_PERCPU) => return Ok(()),
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
        (BASE, 0) | (0, DRAINED) | (CLOSED, BASE) | (CLOSED, DESTROYED) => Ok(()),
        (LIVE_PERCPU, PERCPU) | (PERCPU, LIVE_PERCPU) => Ok(()),
        (PERCPU, DRAINED_PERCPU) | (DRAINED_PERCPU, PERCPU) => Ok(()),
        (0, CLOSED) | (DRAINED, CLOSED) if count(old) == 0 => Ok(()),
        (0, CLOSED) | (DRAINED, CLOSED) => Err("released while the count was not zero"),
        (0, BASE) | (DRAINED, BASE) if count(old) != 0 => Ok(()),
        (0, BASE) | (DRAINED, BASE) => Err("refused although nobody held a reference"),
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
        assert!(legal(pack(0, 1), pack(CLOSED, 1)).is_err());
        assert!(legal(pack(0, 0), pack(BASE, 0)).is_err());
        assert!(legal(pack(DRAINED, 0), pack(BASE, 0)).is_err());
        assert!(legal(pack(0, 1), pack(CLOSED, 0)).is_err());
        assert!(legal(pack(CLOSED, 0), pack(0, 0)).is_err());
        assert!(legal(pack(BASE, 3), pack(BASE, 5)).is_err());
        assert!(legal(pack(BASE, 3), pack(0, 3)).is_ok());
    }
}
