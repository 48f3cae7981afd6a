//! Who sleeps on what: for people who ask, and for whoever has to take a dead sleeper off the count.
//!
//! The order is: count yourself, take a record, sleep, clear the record by compare-and-swap, and only if that succeeded take
//! yourself off the count. So a record that can be cleared stands for exactly one on the count. A sleeper killed
//! between counting and the record leaves a stray one, which costs wake calls and loses nobody.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::fence;

use super::Segment;
use super::format::{Place, Waiter};
use crate::os::clock::Monotonic;
use crate::os::{fork, futex};
use crate::protocol::slot::Slot;
use crate::protocol::word::OwnerWord;

/// Taken, but not filled in: whoever died here is on some count, but which is not known.
const CLAIMED: u64 = 1 << 15;

fn who(slot: Slot, incarnation: u32) -> u64 {
    (incarnation as u64) << 32 | (slot.index() as u64 + 1) << 16
}

/// What a sleeper waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    Names,
    Lock(Place),
    /// Anything else than its lock.
    Bell(Place),
}

/// In the entry's half of a target: the bell.
const BELL: u32 = 1 << 31;

impl Target {
    fn pack(self) -> u64 {
        match self {
            Self::Names => 0,
            Self::Lock(place) => (place.entry as u64 + 1) << 32 | place.generation as u64,
            Self::Bell(place) => (((place.entry + 1) | BELL) as u64) << 32 | place.generation as u64,
        }
    }

    fn unpack(what: u64) -> Self {
        let (entry, generation) = ((what >> 32) as u32, what as u32);
        match (entry & !BELL).checked_sub(1) {
            None => Self::Names,
            Some(index) if entry & BELL != 0 => Self::Bell(Place { entry: index, generation }),
            Some(index) => Self::Lock(Place { entry: index, generation }),
        }
    }
}

/// A thread that sleeps, as its record says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sleeper {
    pub(crate) slot: Slot,
    pub(crate) incarnation: u32,
    pub(crate) target: Target,
    pub(crate) thread: u32,
    pub(crate) since: Monotonic,
    /// The thread that sleeps, also where what it waits for will be no thread's.
    pub(crate) asleep: u32,
    pub(crate) own: u64,
    /// Which record it is.
    pub(crate) index: usize,
}

/// Of whoever waits until it is the only reader left: it is one itself.
pub(crate) const OWN_READER: u64 = 1;

/// Of whoever collects `count` permits, the first of which has the epoch `first`.
pub(crate) fn own_permits(first: u64, count: u32) -> u64 {
    first << 16 | u64::from(count - 1) & 0xFFFF
}

impl Sleeper {
    /// The epochs of the permits that it collects.
    pub(crate) fn own_epochs(&self) -> core::ops::RangeInclusive<u64> {
        let first = self.own >> 16;
        first..=first + (self.own & 0xFFFF)
    }
}

/// A record taken by [`Segment::enlist`].
#[derive(Debug)]
pub(crate) struct Enlisted {
    pub(crate) index: usize,
    who: u64,
}

impl Segment {
    /// Notes that a thread of `slot` sleeps. `own`: of what it waits for at a bell, what is its own: [`OWN_READER`], or [`own_permits`]. `None` when all records are taken: then nobody sees it, and nothing else is lost.
    pub(crate) fn enlist(
        &self,
        slot: Slot,
        incarnation: u32,
        thread: u32,
        target: Target,
        own: u64,
    ) -> Option<Enlisted> {
        let count = self.waiters.len();
        let who = who(slot, incarnation);
        // Threads start at different places, so that they seldom meet.
        let start = (slot.index() as usize * 4 + thread as usize) % count;
        for index in (start..count).chain(0..start) {
            let record = &self.waiters[index];
            if record.who.load(Relaxed) != 0
                // Acquire: pairs with the Release in `clear`: what the one before stored is done.
                || record.who.compare_exchange(0, who | CLAIMED, Acquire, Relaxed).is_err()
            {
                continue;
            }
            record.what.store(target.pack(), Relaxed);
            record.thread.store(thread.into(), Relaxed);
            record.since.store(Monotonic::now().0, Relaxed);
            record.asleep.store(fork::thread().into(), Relaxed);
            record.own.store(own, Relaxed);
            // Release: the fields above, for whoever reads or clears the record.
            record.who.store(who, Release);
            return Some(Enlisted { index, who });
        }
        None
    }

    /// Notes the owner word that a thread sleeps on. When it is another one the thread may have the lock, whatever else its record says.
    pub(crate) fn note_seen(&self, enlisted: &Enlisted, seen: OwnerWord) {
        // Relaxed: an owner word never comes back, so whoever finds the two the same found them before the thread got the lock.
        self.waiters[enlisted.index].own.store(seen.0, Relaxed);
    }

    /// Takes that back. `false`: somebody did it for us, and took us off the count.
    pub(crate) fn delist(&self, enlisted: &Enlisted) -> bool {
        clear(&self.waiters[enlisted.index], enlisted.who)
    }

    /// Clears the records of a dead participant and takes its sleepers off their counts.
    pub(super) fn clear_waiters_of(&self, dead: Slot, incarnation: u32) {
        let who = who(dead, incarnation);
        let wake = |word: &_| futex::wake(word, 1) > 0;
        for record in self.waiters.iter() {
            match record.who.load(Acquire) {
                seen if seen == who => {
                    let target = Target::unpack(record.what.load(Relaxed));
                    if !clear(record, who) {
                        continue;
                    }
                    let entry = |place: Place| self.entries.get(place.entry as usize);
                    match target {
                        Target::Names => self.globals().names.uncount(wake),
                        Target::Lock(place) => {
                            if let Some(entry) = entry(place) {
                                entry.lock.uncount(wake);
                            }
                        }
                        Target::Bell(place) => {
                            if let Some(entry) = entry(place) {
                                entry.bell.uncount();
                            }
                        }
                    }
                }
                seen if seen == who | CLAIMED => {
                    clear(record, seen);
                }
                _ => {}
            }
        }
    }

    /// How many sleepers are noted.
    pub(crate) fn waiting(&self) -> usize {
        self.waiters.iter().filter(|record| record.who.load(Relaxed) != 0).count()
    }
}

/// What a record says, if it stands for somebody.
pub(super) fn read((index, record): (usize, &Waiter)) -> Option<Sleeper> {
    // Acquire: pairs with the Release in `enlist`: the fields.
    let who = record.who.load(Acquire);
    let slot = Slot::new(((who >> 16) as u16 as u32).checked_sub(1)?)?;
    let sleeper = Sleeper {
        slot,
        incarnation: (who >> 32) as u32,
        target: Target::unpack(record.what.load(Relaxed)),
        thread: record.thread.load(Relaxed) as u32,
        since: Monotonic(record.since.load(Relaxed)),
        asleep: record.asleep.load(Relaxed) as u32,
        own: record.own.load(Relaxed),
        index,
    };
    // Whoever takes a record after somebody else changes this word first, by a compare-and-swap.
    fence(Acquire);
    (who & CLAIMED == 0 && record.who.load(Relaxed) == who).then_some(sleeper)
}

fn clear(record: &Waiter, who: u64) -> bool {
    record.who.compare_exchange(who, 0, AcqRel, Relaxed).is_ok()
}
