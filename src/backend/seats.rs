//! Seats that are held one by one, by members and by parties: taken at the gate of the name.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::inspect;
use super::lock::{Acquisition, SharedLock};
use super::wait::wake_all;
use crate::holder::Holder;
use crate::os::clock::Deadline;
use crate::protocol::seat::Seat;
use crate::protocol::slot::Slot;
use crate::protocol::word::{Owner, OwnerWord};
use crate::segment::format::Entry;
use crate::{Error, Result};

/// A seat that this process has, until it lets go of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(super) word: OwnerWord,
    pub(super) seat: u32,
    pub(super) entry: u32,
}

impl Held {
    /// Instead of one that was let go: it is nobody's.
    pub(crate) const ENDED: Self = Self { word: OwnerWord::ENDED, seat: 0, entry: 0 };
}

impl SharedLock {
    /// Does something with the seats of the name while nobody else takes one.
    pub(super) fn at_gate<T>(
        &self,
        thread: u32,
        deadline: Deadline,
        act: impl FnOnce(&Entry, Acquisition, &[Seat]) -> Result<T>,
    ) -> Result<T> {
        let waited = self.acquire(thread, deadline, None)?;
        let gate = waited.acquisition;
        let entry = self.entry(gate.entry);
        let outcome = self.space.segment.seats_of(entry).and_then(|seats| act(entry, gate, seats));
        self.release(gate);
        if let Some(dead) = waited.dead {
            // If it fails, whoever needs the slot tries again.
            let _ = self.space.recover_dead(Some(dead));
        }
        outcome
    }

    /// Takes a free seat that nobody died on, or one of those if `also_of_the_dead`, for which `may` says so; with the token of `gate`.
    pub(super) fn take_seat(
        &self,
        gate: Acquisition,
        seats: &[Seat],
        also_of_the_dead: bool,
        may: impl Fn(&Seat) -> bool,
    ) -> Option<Held> {
        let me = Slot::from_code(self.slot_code())?;
        let free = |marked: bool| {
            (0u32..).zip(seats).find_map(|(number, seat)| {
                let seen = seat.look();
                (seen.is_free() && seen.is_abandoned() == marked && may(seat)).then_some((number, seat, seen))
            })
        };
        let (number, seat, seen) = free(false).or_else(|| also_of_the_dead.then(|| free(true)).flatten())?;
        let word = seen.enter(me, gate.word);
        // At the gate nobody else takes it; whoever cleans up only frees what the dead have.
        seat.owner.compare_exchange(seen.0, word.0, SeqCst, Relaxed).ok()?;
        Some(Held { word, seat: number, entry: gate.entry })
    }

    /// Who has a seat now, one for each.
    pub(super) fn seated(&self) -> Result<Vec<Holder>> {
        loop {
            let place = self.find()?;
            let segment = &self.space.segment;
            let holders = segment
                .seats_of(self.entry(place.entry))
                .map(|seats| inspect::holders_of_seats(segment, &self.space.me_as_judge(), self.slot_code(), seats));
            if self.is_still(place) {
                return holders;
            }
        }
    }

    /// Cleans up after the dead that are in seats; whether any were.
    pub(super) fn recover_seats(&self, seats: &[Seat]) -> Result<bool> {
        let mut any = false;
        for seat in seats {
            if let Owner::Held(slot) = seat.look().owner()
                && slot.code() != self.slot_code()
                && self.space.is_dead(slot)
            {
                any |= self.space.recover_dead(Some(slot))? > 0;
            }
        }
        Ok(any)
    }

    /// The seats of the entry, as its holder of one may see them: for as long as it has it, the name keeps its entry.
    pub(super) fn seats_with(&self, held: Held) -> Result<(&Entry, &[Seat])> {
        let entry = self.entry(held.entry);
        let seats = self.space.segment.seats_of(entry)?;
        let is_held = self.slot_code() == held.word.slot_code()
            && seats.get(held.seat as usize).is_some_and(|seat| seat.look() == held.word);
        match is_held {
            true => Ok((entry, seats)),
            false => Err(Error::Lost { name: self.spec.name.clone(), token: self.space.token_of(held.word) }),
        }
    }

    /// Lets go of a seat; `told`: as if this process had died with it. Whether it was held.
    pub(super) fn leave_seat(&self, held: Held, told: bool) -> bool {
        let Ok((entry, seats)) = self.seats_with(held) else { return false };
        if told {
            let command = self.space.segment.command(Slot::own(held.word.slot_code()));
            entry.note_death(held.word.epoch(), std::process::id(), &command);
        }
        let freed = if told { held.word.abandon() } else { held.word.release() };
        let seat = &seats[held.seat as usize];
        let left = seat.owner.compare_exchange(held.word.0, freed.0, SeqCst, Relaxed).is_ok();
        entry.bell.ring(wake_all);
        left
    }

    pub(super) fn no_seat(&self) -> Error {
        Error::NoSeat { name: self.spec.name.clone(), kind: self.spec.kind.name(), count: self.spec.count }
    }
}
