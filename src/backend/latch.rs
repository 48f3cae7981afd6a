//! A latch, as a handle keeps it: a seat for each count, and in `state` that all were counted.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::Arc;

use super::lock::{SharedLock, Spec};
use super::seats::Held;
use super::shared::SharedSpace;
use super::wait::wake_all;
use crate::holder::Holder;
use crate::os::clock::Deadline;
use crate::protocol::signal::{Count, count};
use crate::segment::format::{Entry, Kind};
use crate::{Error, Result};

const OPEN: u64 = 1;

#[derive(Clone, Debug)]
pub(crate) struct SharedLatch {
    lock: SharedLock,
}

impl SharedLatch {
    pub(crate) fn new(space: &Arc<SharedSpace>, name: &str, count: u32) -> Result<Self> {
        Ok(Self { lock: SharedLock::new(space, Spec { count, ..Spec::of(name, Kind::Latch) })? })
    }

    pub(crate) fn name(&self) -> &str {
        self.lock.name()
    }

    /// Counts, without having announced it.
    pub(crate) fn count_down(&self, thread: u32) -> Result<()> {
        self.count(self.join(thread)?)
    }

    /// Announces to count.
    pub(crate) fn join(&self, thread: u32) -> Result<Held> {
        self.lock.at_gate(thread, Deadline::Never, |_, gate, seats| {
            let take = || self.lock.take_seat(gate, seats, true, |seat| !seat.is_counted());
            match take() {
                Some(held) => Ok(held),
                None if self.lock.recover_seats(seats)? => take().ok_or_else(|| self.lock.no_seat()),
                None => Err(self.lock.no_seat()),
            }
        })
    }

    /// Counts as it was announced.
    pub(crate) fn count(&self, held: Held) -> Result<()> {
        let (entry, seats) = self.lock.seats_with(held)?;
        let seat = &seats[held.seat as usize];
        seat.count();
        // Nobody takes a seat that was counted: what is left of it is only cleaned away.
        let _ = seat.owner.compare_exchange(held.word.0, held.word.release().0, SeqCst, Relaxed);
        if seats.iter().all(|seat| seat.is_counted()) {
            entry.state.store(OPEN, SeqCst);
        }
        entry.bell.ring(wake_all);
        Ok(())
    }

    /// Will not count.
    pub(crate) fn break_off(&self, held: Held) {
        self.lock.leave_seat(held, true);
    }

    pub(crate) fn holders(&self) -> Result<Vec<Holder>> {
        self.lock.seated()
    }

    pub(crate) fn remaining(&self) -> Result<u32> {
        loop {
            let place = self.lock.find()?;
            let seats = self.lock.space.segment.seats_of(self.lock.entry(place.entry));
            let left = seats.map(|seats| seats.iter().filter(|seat| !seat.is_counted()).count() as u32);
            if self.lock.is_still(place) {
                return left;
            }
        }
    }

    pub(crate) fn wait(&self, thread: u32, deadline: Deadline) -> Result<()> {
        if self.lock.peek() == Some(OPEN) {
            return Ok(());
        }
        self.lock.wait_until(thread, deadline, |wait, entry| self.look(wait, entry).transpose())
    }

    fn look(&self, wait: &super::wait::Wait<'_>, entry: &Entry) -> Result<Option<()>> {
        if entry.state.load(SeqCst) == OPEN {
            return Ok(Some(()));
        }
        let seats = self.lock.space.segment.seats_of(entry)?;
        match count(wait, wait.waiting.slot, seats) {
            Count::Open => Ok(Some(())),
            Count::Waiting => Ok(None),
            Count::Lost(word, obituary) => {
                let by = self.lock.who_died(entry, word, obituary);
                Err(Error::SignalLost { name: self.lock.spec.name.clone(), by: Box::new(by) })
            }
            Count::Damaged(word) => Err(self.lock.damaged_word(word)),
        }
    }
}
