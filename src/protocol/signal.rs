//! What is waited for from somebody: an event that somebody announced to set, a latch whose parties announced to count down.
//!
//! * States: who announced holds an owner word: an event's own, or a seat of a latch. What is waited for stands beside it.
//! * Invariants:
//!   1. What was signalled counts, whatever became of who did it: it is looked at first.
//!   2. It is signalled *first*, and the owner word freed *then*. So a word whose owner died, with nothing signalled beside it, was not made
//!      good, and whoever waits is told.
//!   3. The mark of a death stays until somebody announces anew, or signals without.
//! * Orderings: signals are `SeqCst`, as are the looks: the bell's invariant 1. They include Release and Acquire: what was done before the signal is
//!   seen by whoever saw it.
//! * If we die: before the signal it is lost, and all who wait learn of it by the oracle, or by the mark that whoever cleans up leaves.

use core::sync::atomic::Ordering::SeqCst;

use super::seat::Seat;
use super::slot::Slot;
use super::word::{Owner, OwnerWord};
use super::{Host, Verdict};
use crate::sync::AtomicU64;

/// What became of whoever announced a signal that is not there.
#[derive(Debug)]
pub(crate) enum Promise<Obituary> {
    /// Nobody did, or whoever did lives.
    Open,
    /// It died, with this word.
    Lost(OwnerWord, Option<Obituary>),
    Damaged(OwnerWord),
}

/// Looks at the owner word of whoever announced. `again` reads it once more, after the verdict.
pub(crate) fn promise<H: Host>(
    host: &H,
    me: Slot,
    word: OwnerWord,
    again: impl Fn() -> OwnerWord,
) -> Promise<H::Obituary> {
    match word.owner() {
        Owner::Nobody if word.is_abandoned() => Promise::Lost(word, None),
        Owner::Nobody => Promise::Open,
        Owner::Held(slot) if slot == me => Promise::Open,
        Owner::Held(slot) => match host.judge(slot) {
            Verdict::Dead(obituary) if again() == word => Promise::Lost(word, Some(obituary)),
            _ => Promise::Open,
        },
        Owner::Damaged => Promise::Damaged(word),
    }
}

/// Takes the signal of an event that one waiter consumes; whether it was there.
pub(crate) fn consume(state: &AtomicU64) -> bool {
    state.compare_exchange(1, 0, SeqCst, SeqCst).is_ok()
}

/// The note of a latch's seat that was counted.
const COUNTED: u64 = 1;

/// How a latch is.
#[derive(Debug)]
pub(crate) enum Count<Obituary> {
    /// All were counted.
    Open,
    /// Some are left.
    Waiting,
    /// Of one that is left, this became.
    Lost(OwnerWord, Option<Obituary>),
    Damaged(OwnerWord),
}

impl Seat {
    pub(crate) fn is_counted(&self) -> bool {
        self.note.load(SeqCst) == COUNTED
    }

    /// Counts the seat. Invariant 2: before its owner word is freed.
    pub(crate) fn count(&self) {
        self.note.store(COUNTED, SeqCst);
    }
}

/// Looks at all seats of a latch.
pub(crate) fn count<H: Host>(host: &H, me: Slot, seats: &[Seat]) -> Count<H::Obituary> {
    let mut all = true;
    for seat in seats.iter().filter(|seat| !seat.is_counted()) {
        match promise(host, me, seat.look(), || seat.look()) {
            Promise::Open => all = false,
            // It may have counted before it died.
            Promise::Lost(..) if seat.is_counted() => {}
            Promise::Lost(word, obituary) => return Count::Lost(word, obituary),
            Promise::Damaged(word) => return Count::Damaged(word),
        }
    }
    if all { Count::Open } else { Count::Waiting }
}
