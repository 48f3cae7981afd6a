//! A barrier: as many members as there are seats meet again and again, and whether a phase is passed or broken is decided once, for all.
//!
//! The word of a barrier:
//!
//! ```text
//! 63                          17 16                1        0
//! ┌─────────────────────────────┬───────────────────┬────────┐
//! │ phase (47)                  │ seat (16)         │ BROKEN │
//! └─────────────────────────────┴───────────────────┴────────┘
//! ```
//!
//! A member holds its seat's owner word for as long as it is one. The seat's note is the phase it arrived in last, plus one.
//!
//! | state | all notes are phase + 1 | meaning |
//! | --- | --- | --- |
//! | phase, open | no | members are on their way, or not there yet |
//! | phase, open | yes | about to be passed, by whoever looks next |
//! | phase, BROKEN | any | a member, whose seat stands in the word, died before it arrived, or gave up: nobody passes any more |
//!
//! * Invariants:
//!   1. A phase ends by exactly one compare-and-swap: (phase, open) => (phase + 1, open), or => (phase, BROKEN). Whoever waits in it reads the
//!      same of the two as all others, however late.
//!   2. A member arrives by one store, of its own note, and looks at all notes *then*; both are `SeqCst`. So whoever arrives last in their total
//!      order sees all of them.
//!   3. The phase cannot end without a member that has not arrived, so what it read of the phase before it arrives still is so, unless it is
//!      broken.
//!   4. A member that died after it arrived did its part: the phase goes on without it, and the next one breaks.
//! * Orderings: what members did before they arrived is seen by all who passed: arriving is `Release`, looking is `Acquire` (both in `SeqCst`), and
//!   the compare-and-swap on the phase hands it on.
//! * If we die: before the store we have not arrived, and the barrier breaks; after it we have. Whoever looks next decides the phase; nobody has to.
//! * Not here: who takes which seat, and what makes a broken barrier whole (`backend::barrier`, at the gate).

use core::sync::atomic::Ordering::SeqCst;

use super::seat::Seat;
use super::slot::Slot;
use super::word::{Owner, OwnerWord};
use super::{Host, Verdict};
use crate::sync::{AtomicU64, total_order};

/// A value of the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Phase(pub(crate) u64);

impl Phase {
    const BROKEN: u64 = 1;
    const SHIFT: u32 = 17;

    pub(crate) fn number(self) -> u64 {
        self.0 >> Self::SHIFT
    }

    pub(crate) fn is_broken(self) -> bool {
        self.0 & Self::BROKEN != 0
    }

    /// Of a broken one: the seat of whoever broke it.
    pub(crate) fn seat(self) -> usize {
        (self.0 >> 1) as u16 as usize
    }

    pub(crate) fn next(self) -> Self {
        Self((self.number() + 1) << Self::SHIFT)
    }

    fn broken_by(self, seat: usize) -> Self {
        Self(self.number() << Self::SHIFT | (seat as u64 & 0xFFFF) << 1 | Self::BROKEN)
    }

    /// The note of a member that arrived.
    fn arrived(self) -> u64 {
        self.number() + 1
    }
}

/// How a phase ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All arrived; whether it was this look that found out.
    Passed { leader: bool },
    /// By whoever is, or was, in that seat.
    Broken { seat: usize },
    /// That seat's word says what cannot be.
    Damaged { seat: usize },
}

/// The words of a barrier.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meeting<'a> {
    pub(crate) state: &'a AtomicU64,
    pub(crate) seats: &'a [Seat],
}

impl Meeting<'_> {
    pub(crate) fn phase(self) -> Phase {
        Phase(self.state.load(SeqCst))
    }

    /// The member in that seat arrives in `phase`, which it read while it was a member.
    pub(crate) fn arrive(self, seat: usize, phase: Phase) {
        // Invariant 2.
        self.seats[seat].note.store(phase.arrived(), SeqCst);
        total_order();
    }

    /// How `phase` ended, if it did. `dead` is called with the seat and the word of a member that is found dead, ahead of the
    /// break, to leave a note of who it was.
    pub(crate) fn look<H: Host>(
        self,
        host: &H,
        me: Slot,
        phase: Phase,
        dead: impl Fn(usize, OwnerWord, H::Obituary),
    ) -> Option<End> {
        let now = self.phase();
        if now != phase {
            return Some(Self::ended(phase, now));
        }
        let mut all = true;
        for (seat, member) in self.seats.iter().enumerate() {
            let has_arrived = || member.note.load(SeqCst) == phase.arrived();
            if has_arrived() {
                continue;
            }
            let word = member.look();
            match word.owner() {
                // Given back by whoever cleaned up after it. It may have arrived before it died, after we looked.
                Owner::Nobody if word.is_abandoned() && has_arrived() => {}
                Owner::Nobody if word.is_abandoned() => return Some(self.end_by(phase, seat)),
                Owner::Held(slot) if slot != me => match host.judge(slot) {
                    Verdict::Dead(_) if has_arrived() => {}
                    Verdict::Dead(obituary) if member.look() == word => {
                        dead(seat, word, obituary);
                        return Some(self.end_by(phase, seat));
                    }
                    _ => all = false,
                },
                Owner::Nobody | Owner::Held(_) => all = false,
                Owner::Damaged => return Some(End::Damaged { seat }),
            }
        }
        if !all {
            return None;
        }
        Some(match self.state.compare_exchange(phase.0, phase.next().0, SeqCst, SeqCst) {
            Ok(_) => End::Passed { leader: true },
            Err(now) => Self::ended(phase, Phase(now)),
        })
    }

    /// Breaks `phase` on behalf of whoever is in that seat, if it has not ended; how it ended.
    pub(crate) fn end_by(self, phase: Phase, seat: usize) -> End {
        match self.state.compare_exchange(phase.0, phase.broken_by(seat).0, SeqCst, SeqCst) {
            Ok(_) => End::Broken { seat },
            Err(now) => Self::ended(phase, Phase(now)),
        }
    }

    /// Invariant 1: what `now` says of an earlier phase.
    fn ended(phase: Phase, now: Phase) -> End {
        match now.number() == phase.number() && now.is_broken() {
            true => End::Broken { seat: now.seat() },
            false => End::Passed { leader: false },
        }
    }
}

#[cfg(all(test, not(hostlock_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_phase_keeps_what_it_is_given() {
        let phase = Phase(0).next().next();
        assert_eq!((phase.number(), phase.is_broken(), phase.arrived()), (2, false, 3));
        let broken = phase.broken_by(65_535);
        assert_eq!((broken.number(), broken.is_broken(), broken.seat()), (2, true, 65_535));
        assert_eq!(broken.next(), phase.next());
    }
}
