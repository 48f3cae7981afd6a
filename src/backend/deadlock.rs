//! Who waits for whom in a segment, for [`deadlock`](crate::protocol::deadlock): from the records of sleepers and from whatever they wait for.

use core::sync::atomic::Ordering::Relaxed;
use std::cell::RefCell;
use std::cmp::Ordering;

use super::shared::SharedSpace;
use crate::holder::{Process, Waits};
use crate::os::fork;
use crate::os::identity;
use crate::os::liveness::Life;
use crate::protocol::cell::Cell;
use crate::protocol::deadlock::{self, Graph, Needs, Party};
use crate::protocol::word::{Owner, OwnerWord};
use crate::segment::format::{Entry, Kind, Meta, Place, load_text};
use crate::segment::waiters::{OWN_READER, Sleeper, Target};

/// The cycle that the sleeper with that record is to end.
pub(super) fn find(space: &SharedSpace, record: usize) -> Option<Box<[Waits]>> {
    let reading = Reading { space, sleepers: RefCell::default() };
    reading.begin();
    let me = reading.sleepers.borrow().iter().find(|sleeper| sleeper.0.index == record).copied()?;
    let cycle = deadlock::find(&reading, me)?;
    Some(cycle.iter().map(|sleeper| reading.describe(sleeper.0)).collect())
}

/// A sleeper. Of two, the one that began to wait later is the larger.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Asleep(Sleeper);

impl PartialOrd for Asleep {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some((self.0.since.0, self.0.index).cmp(&(other.0.since.0, other.0.index)))
    }
}

struct Reading<'a> {
    space: &'a SharedSpace,
    sleepers: RefCell<Vec<Asleep>>,
}

impl Graph for Reading<'_> {
    type Wait = Asleep;

    fn begin(&self) {
        *self.sleepers.borrow_mut() = self.space.segment.sleepers().map(Asleep).collect();
    }

    fn waits_of(&self, party: Party, mut each: impl FnMut(Asleep)) -> bool {
        let mut found = 0;
        for sleeper in self.sleepers.borrow().iter() {
            let is_of_process = (sleeper.0.slot, sleeper.0.incarnation) == (party.slot, party.incarnation);
            if is_of_process && (party.thread == 0 || sleeper.0.asleep == party.thread) {
                found += 1;
                each(*sleeper);
            }
        }
        party.thread != 0 || found > 0 && self.threads_of(party) == Some(found)
    }

    fn obstacles(&self, wait: Asleep, mut each: impl FnMut(Party, u64)) -> Needs {
        self.look_at(&wait.0, &mut each).unwrap_or(Needs::Nothing)
    }

    fn is_alive(&self, wait: Asleep) -> bool {
        let (segment, slot) = (&self.space.segment, wait.0.slot);
        let them = segment.participant(slot).filter(|them| them.incarnation == wait.0.incarnation);
        them.is_some_and(|them| !matches!(segment.judge(slot, &them, &self.space.me_as_judge()), Life::Dead(_)))
    }
}

impl Reading<'_> {
    /// How many threads the process has, if that can be told here.
    fn threads_of(&self, party: Party) -> Option<usize> {
        let them = self.space.segment.participant(party.slot)?;
        let is_here = them.identity.pid_namespace == self.space.me_as_judge().pid_namespace;
        if is_here { identity::threads_of(them.identity.pid) } else { None }
    }

    /// `None`: it may end at any moment, or nobody knows.
    fn look_at(&self, wait: &Sleeper, each: &mut impl FnMut(Party, u64)) -> Option<Needs> {
        match wait.target {
            Target::Names => None,
            Target::Lock(place) => {
                let (entry, _) = self.entry(place)?;
                let seen = entry.lock.look();
                // It changed hands since that thread slept: that may have been to it.
                if wait.own != seen.0 {
                    return None;
                }
                let thread = entry.lock.thread_of(seen).unwrap_or(0);
                each(self.owner(seen, thread)?, seen.0);
                Some(Needs::All)
            }
            Target::Bell(place) => match self.entry(place)? {
                (entry, Kind::RwLock | Kind::RwLockData) => self.readers(entry, wait, each),
                (entry, Kind::Semaphore) => self.permits(entry, wait, each),
                // Whoever is to set an event, or to arrive, need not hold anything.
                _ => None,
            },
        }
    }

    fn entry(&self, place: Place) -> Option<(&Entry, Kind)> {
        let entry = self.space.segment.entries.get(place.entry as usize)?;
        let meta = Meta(entry.meta.load(Relaxed));
        let kind = Kind::from_number(meta.kind())?;
        (meta.is_used() && meta.generation() == place.generation).then_some((entry, kind))
    }

    /// Who holds it, if that does not end by itself.
    fn owner(&self, seen: OwnerWord, thread: u32) -> Option<Party> {
        match seen.owner() {
            Owner::Held(slot) if !seen.is_leased() => {
                Some(Party { slot, incarnation: self.space.segment.incarnation(slot)?, thread })
            }
            _ => None,
        }
    }

    /// All processes that read.
    fn readers(&self, entry: &Entry, wait: &Sleeper, each: &mut impl FnMut(Party, u64)) -> Option<Needs> {
        let segment = &self.space.segment;
        let generation = Meta(entry.meta.load(Relaxed)).generation();
        let party = |seen: Cell| {
            let Owner::Held(slot) = seen.owner() else { return None };
            let incarnation = segment.incarnation(slot)?;
            seen.is_with(Cell::of(slot, incarnation)).then_some(Party { slot, incarnation, thread: 0 })
        };
        for cell in segment.cells_of(entry) {
            let cell = cell.ok()?;
            // Whoever wants to go on as a writer does not read by a line.
            let (lent, readers, _) = segment.reads_by_line(cell, generation)?;
            if readers > 0 {
                each(party(lent)?, lent.0);
            }
            let seen = cell.look();
            if seen.is_idle() {
                continue;
            }
            let (party, readers) = (party(seen)?, seen.readers()?);
            let is_own = wait.own == OWN_READER && (party.slot, party.incarnation) == (wait.slot, wait.incarnation);
            if !is_own || readers > 1 {
                each(party, seen.0);
            }
        }
        Some(Needs::All)
    }

    /// All processes that have permits: one of them is enough.
    fn permits(&self, entry: &Entry, wait: &Sleeper, each: &mut impl FnMut(Party, u64)) -> Option<Needs> {
        let mut parties: Vec<(Party, u64)> = Vec::new();
        let mut missing = if wait.own == 0 { 1 } else { wait.own_epochs().count() };
        for seat in self.space.segment.seats_of(entry).ok()? {
            let seen = seat.look();
            let party = self.owner(seen, 0)?;
            // What it has already of those that it waits for.
            if party.slot == wait.slot && wait.own_epochs().contains(&seen.epoch()) {
                missing = missing.saturating_sub(1);
                continue;
            }
            match parties.iter_mut().rev().find(|(known, _)| *known == party) {
                Some((_, digest)) => *digest = digest.rotate_left(7) ^ seen.0,
                None => parties.push((party, seen.0)),
            }
        }
        // If it has them all it waits no more, whatever its record says.
        (missing > 0).then_some(())?;
        parties.into_iter().for_each(|(party, digest)| each(party, digest));
        Some(Needs::Any)
    }

    fn describe(&self, sleeper: Sleeper) -> Waits {
        let segment = &self.space.segment;
        let them = segment.participant(sleeper.slot);
        let (Target::Lock(place) | Target::Bell(place)) = sleeper.target else { unreachable!("nobody is stuck there") };
        let lock = self.entry(place).map(|(entry, _)| {
            let meta = Meta(entry.meta.load(Relaxed));
            String::from_utf8_lossy(&load_text(&entry.name, meta.name_len())).into_owned()
        });
        Waits {
            process: Process {
                pid: them.as_ref().map_or(0, |them| them.identity.pid),
                command: segment.command(sleeper.slot),
            },
            thread: fork::kernel_thread(sleeper.asleep),
            lock: lock.unwrap_or_default(),
            elsewhere: them.is_some_and(|them| them.identity.pid_namespace != self.space.me_as_judge().pid_namespace),
        }
    }
}
