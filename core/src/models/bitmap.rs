//! Models of the map of taken slots, under loom.
//!
//! Within the bound of `PREEMPTIONS` there are about a hundred executions of each, which take less
//! than 0.1 s.

#[path = "../percpu/linux/bitmap.rs"]
mod shipped;

use crate::sync::{Data, Shared, explore};
use shipped::Bitmap;

/// As many slots as one word has bits, and what their owners keep in them.
struct Chunk {
    taken: Bitmap<1>,
    slots: Vec<Data>,
}

impl Chunk {
    /// A chunk with `left` slots that are not taken.
    fn new(left: usize) -> Shared<Self> {
        let taken = Bitmap::new();
        for n in 0..64 - left {
            assert_eq!(taken.take(), Some(n));
        }
        Shared::new(Self { taken, slots: (0..64).map(|_| Data::new()).collect() })
    }

    /// Takes a slot and uses it as its only owner.
    fn take(&self) -> Option<usize> {
        self.taken.take().inspect(|&n| self.slots[n].write(true))
    }
}

#[test]
fn two_takers_have_different_slots() {
    let seen = explore("two_takers_have_different_slots", |run| {
        let chunk = Chunk::new(2);
        for _ in 0..2 {
            let taker = chunk.clone();
            run.thread(move || assert!(taker.take().is_some(), "there are two"));
        }
        move || {
            assert_eq!(chunk.take(), None, "both are taken");
            chunk.taken.free(63);
            chunk.take().map_or("full".into(), |n| format!("full, then {n}"))
        }
    });
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["full, then 63"]);
}

#[test]
fn a_slot_is_freed_and_taken_again() {
    // If the second taker comes too early the map is full; otherwise the second owner sees what the
    // first one wrote.
    let seen = explore("a_slot_is_freed_and_taken_again", |run| {
        let chunk = Chunk::new(1);
        let owners = Shared::new([Data::new(), Data::new()]);
        for n in 0..2 {
            let (taker, owners) = (chunk.clone(), owners.clone());
            run.thread(move || match taker.take() {
                Some(slot) => taker.taken.free(slot),
                None => owners[n].write(false),
            });
        }
        move || format!("{} owners", owners.iter().filter(|owner| owner.read()).count())
    });
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["1 owners", "2 owners"]);
}
