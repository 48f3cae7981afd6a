//! A seat: one of several owner words that a name has, for permits and for members.
//!
//! * States: as of every owner word, the table in [`word`](super::word). Nobody sleeps on a seat; who waits for one waits for the bell of its
//!   name. Beside the word stands a note, whose meaning is the kind's.
//! * Invariants: 1. Only a compare-and-swap from the exact word seen changes the owner. 2. The epoch in a seat is a token drawn from
//!   the name's own word ([`OwnerWord::draw`]), so it is nobody else's, on no seat of the name.
//! * If we die: after the compare-and-swap we are a dead owner like any other.

use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

use super::slot::Slot;
use super::word::OwnerWord;
use crate::sync::AtomicU64;

/// The words of a seat, as they lie in the segment.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) owner: AtomicU64,
    pub(crate) note: AtomicU64,
}

impl Seat {
    pub(crate) fn look(&self) -> OwnerWord {
        // SeqCst: the sleeper's look, the bell's invariant 1.
        OwnerWord(self.owner.load(SeqCst))
    }

    /// Frees the seat if `dead` is in it; the word it was held with. `before` is called with that word ahead of the change, to leave a note of
    /// who died. The next owner is told.
    pub(crate) fn give_back(&self, dead: Slot, before: impl Fn(OwnerWord)) -> Option<OwnerWord> {
        // Acquire: pairs with nothing of the dead one's, whose stores were ordered by the verdict.
        let mut seen = OwnerWord(self.owner.load(Acquire));
        while seen.slot_code() == dead.code() {
            before(seen);
            // SeqCst: the ringer's half, the bell's invariant 1.
            match self.owner.compare_exchange(seen.0, seen.abandon().0, SeqCst, Relaxed) {
                Ok(_) => return Some(seen),
                Err(now) => seen = OwnerWord(now),
            }
        }
        None
    }
}
