//! A barrier, as a handle keeps it: a seat for each member, and in `state` the phase.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::Arc;

use super::lock::{SharedLock, Spec};
use super::seats::Held;
use super::shared::SharedSpace;
use super::wait::wake_all;
use crate::holder::Holder;
use crate::os::clock::{Deadline, Monotonic};
use crate::protocol::barrier::{End, Meeting, Phase};
use crate::protocol::seat::Seat;
use crate::protocol::slot::Slot;
use crate::segment::format::{Entry, Kind};
use crate::{Error, Result};

/// A phase that was passed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Passed {
    pub(crate) phase: u64,
    pub(crate) leader: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct SharedBarrier {
    lock: SharedLock,
}

fn meeting<'a>(entry: &'a Entry, seats: &'a [Seat]) -> Meeting<'a> {
    Meeting { state: &entry.state, seats }
}

impl SharedBarrier {
    pub(crate) fn new(space: &Arc<SharedSpace>, name: &str, members: u32) -> Result<Self> {
        Ok(Self { lock: SharedLock::new(space, Spec { count: members, ..Spec::of(name, Kind::Barrier) })? })
    }

    pub(crate) fn name(&self) -> &str {
        self.lock.name()
    }

    pub(crate) fn members(&self) -> u32 {
        self.lock.spec.count
    }

    /// Becomes a member.
    pub(crate) fn join(&self, thread: u32) -> Result<Held> {
        self.lock.at_gate(thread, Deadline::Never, |entry, gate, seats| {
            let meeting = meeting(entry, seats);
            // Whoever joins the dead would break with them.
            self.lock.recover_seats(seats)?;
            let mut phase = meeting.phase();
            if !phase.is_broken() {
                // Somebody died, and those who are left have not met since.
                let dead = seats.iter().position(|seat| {
                    let word = seat.look();
                    word.is_free() && word.is_abandoned() && seat.note.load(SeqCst) != phase.number() + 1
                });
                if let Some(seat) = dead
                    && seats.iter().any(|seat| !seat.look().is_free())
                {
                    meeting.end_by(phase, seat);
                    entry.bell.ring(wake_all);
                }
                phase = meeting.phase();
            }
            let left_by_the_dead = seats.iter().any(|seat| seat.look().is_abandoned());
            if phase.is_broken() || left_by_the_dead && seats.iter().all(|seat| seat.look().is_free()) {
                if seats.iter().any(|seat| !seat.look().is_free()) {
                    return Err(self.broken(entry, seats, phase, phase.seat()));
                }
                // Whole again, for those who come now.
                for seat in seats {
                    let word = seat.look();
                    let clean = word.release();
                    let _ = seat.owner.compare_exchange(word.0, clean.0, SeqCst, Relaxed);
                    seat.note.store(0, SeqCst);
                }
                entry.state.store(phase.next().0, SeqCst);
            }
            let held = self.lock.take_seat(gate, seats, false, |_| true).ok_or_else(|| self.lock.no_seat())?;
            // It has not arrived in any phase; whoever had the seat before may have.
            seats[held.seat as usize].note.store(0, SeqCst);
            Ok(held)
        })
    }

    /// Arrives, and waits until all have.
    pub(crate) fn wait(&self, held: Held, thread: u32, deadline: Deadline) -> Result<Passed> {
        let (entry, seats) = self.lock.seats_with(held)?;
        let meeting = meeting(entry, seats);
        let phase = meeting.phase();
        if phase.is_broken() {
            return Err(self.broken(entry, seats, phase, phase.seat()));
        }
        let (slot, _) = self.lock.space.member()?;
        let place = self.lock.find()?;
        let wait = self.lock.wait_at(place, thread, Monotonic::now(), deadline)?;
        meeting.arrive(held.seat as usize, phase);
        let look = || {
            meeting.look(&wait, slot, phase, |_, word, dead| {
                entry.note_death(word.epoch(), dead.pid, &dead.command);
            })
        };
        let outcome = match look() {
            Some(end) => Ok(end),
            None => entry.bell.wait_until(&wait, look),
        };
        let (end, refusal) = match outcome {
            Ok(end) => (end, None),
            // All or none: who gives up breaks it for all, unless it was decided before.
            Err(refusal) => {
                self.note_self(entry, held);
                (meeting.end_by(phase, held.seat as usize), Some(refusal))
            }
        };
        if matches!(end, End::Passed { leader: true } | End::Broken { .. }) {
            entry.bell.ring(wake_all);
        }
        if let Some(dead) = wait.dead() {
            // If it fails, whoever needs the slot tries again.
            let _ = self.lock.space.recover_dead(Some(dead));
        }
        match (end, refusal) {
            (End::Passed { leader }, _) => Ok(Passed { phase: phase.number(), leader }),
            (End::Broken { seat }, Some(refusal)) if seat == held.seat as usize => {
                Err(self.lock.refused(&wait, refusal))
            }
            (End::Broken { seat }, _) => Err(self.broken(entry, seats, phase, seat)),
            (End::Damaged { seat }, _) => Err(self.lock.damaged_word(seats[seat].look())),
        }
    }

    fn note_self(&self, entry: &Entry, held: Held) {
        let command = self.lock.space.segment.command(Slot::own(held.word.slot_code()));
        entry.note_death(held.word.epoch(), std::process::id(), &command);
    }

    fn broken(&self, entry: &Entry, seats: &[Seat], phase: Phase, seat: usize) -> Error {
        let word = seats.get(seat).map(Seat::look);
        let by = match word {
            Some(word) => self.lock.who_died(entry, word, None),
            None => crate::Abandoned::noted(0, 0, String::new()),
        };
        Error::Broken { name: self.lock.spec.name.clone(), phase: phase.number(), by: Box::new(by) }
    }

    /// Is no member any more. Whoever waits goes on waiting for another.
    pub(crate) fn leave(&self, held: Held) {
        self.lock.leave_seat(held, false);
    }

    pub(crate) fn holders(&self) -> Result<Vec<Holder>> {
        self.lock.seated()
    }

    pub(crate) fn token(&self, held: Held) -> u64 {
        self.lock.space.token_of(held.word)
    }
}
