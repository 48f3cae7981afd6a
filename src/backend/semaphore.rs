//! A named semaphore, as a handle keeps it: the gate is its [`SharedLock`], the permits are seats in its entry's extent.

use core::ops::Range;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::Arc;

use super::inspect;
use super::lock::{Acquisition, SharedLock, Spec};
use super::shared::SharedSpace;
use super::wait::{Obituary, Wait, Waiting, stamp, wake_next};
use crate::holder::{Abandoned, Holder};
use crate::os::clock::{Boottime, Deadline, Monotonic};
use crate::os::map::Table;
use crate::protocol::lease;
use crate::protocol::mutex::LockWords;
use crate::protocol::seat::Seat;
use crate::protocol::semaphore::{self, Permits, Taken};
use crate::protocol::slot::{Me, Slot};
use crate::protocol::word::OwnerWord;
use crate::segment::format::{Entry, Kind, Meta, Place};
use crate::segment::waiters::{Target, own_permits};
use crate::{Error, Result};

/// One acquisition of one permit. Two words, so that it goes through registers: read back from memory in larger pieces than it was written in,
/// it would cost the processor more than the whole semaphore.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permit {
    word: OwnerWord,
    /// In which seat (high half), of which entry (low half).
    at: u64,
}

impl Permit {
    /// Instead of one that was ended: it is nobody's, so ending it does nothing.
    pub(crate) const ENDED: Self = Self { word: OwnerWord::ENDED, at: 0 };

    #[inline(always)]
    fn new(word: OwnerWord, seat: u32, entry: u32) -> Self {
        Self { word, at: u64::from(seat) << 32 | u64::from(entry) }
    }

    /// Of a lock file: the token, and the number by which the process knows what it has locked.
    pub(super) fn of_file(token: u64, number: u32) -> Self {
        Self::new(OwnerWord(token), number, 0)
    }

    pub(super) fn token_of_file(self) -> u64 {
        self.word.0
    }

    /// The number of a lock file's.
    pub(super) fn number(self) -> u32 {
        self.seat()
    }

    #[inline(always)]
    fn seat(self) -> u32 {
        (self.at >> 32) as u32
    }

    #[inline(always)]
    fn entry(self) -> u32 {
        self.at as u32
    }
}

/// After how many tokens that it drew one by one a handle draws a run.
const UNDISTURBED: u32 = 8;

/// What an acquisition brings beside its last permit, if it took its time.
#[derive(Debug, Default)]
pub(crate) struct More {
    /// The permits acquired with it, by token.
    pub(crate) others: Vec<Permit>,
    pub(crate) told: Option<Abandoned>,
    /// Who was found dead, to be cleaned up after when the permits are released.
    dead: Vec<Slot>,
}

impl More {
    /// Of lock files.
    pub(super) fn of_files(others: Vec<Permit>, told: Option<Abandoned>) -> Option<Box<Self>> {
        let more = Self { others, told, dead: Vec::new() };
        (!more.is_nothing()).then(|| Box::new(more))
    }

    fn is_nothing(&self) -> bool {
        self.others.is_empty() && self.told.is_none() && self.dead.is_empty()
    }
}

/// A named semaphore, as a handle keeps it.
#[derive(Debug)]
pub(crate) struct SharedSemaphore {
    lock: SharedLock,
    /// Of the whole segment.
    seats: Table<Seat>,
    count: u32,
    /// Where the first seat is (high half), of the name that had its entry in that generation (low half).
    home: AtomicU64,
    /// The seat that this handle had the last time (high half), of the name in that generation (low half).
    last: AtomicU64,
    /// Which of the permits it looks for first.
    start: u32,
    /// How often it drew a token since anybody else did.
    undisturbed: AtomicU32,
}

impl Clone for SharedSemaphore {
    fn clone(&self) -> Self {
        Self {
            lock: self.lock.clone(),
            seats: self.seats.clone(),
            count: self.count,
            home: AtomicU64::new(self.home.load(Relaxed)),
            last: AtomicU64::new(self.last.load(Relaxed)),
            start: self.start,
            undisturbed: AtomicU32::new(0),
        }
    }
}

impl SharedSemaphore {
    pub(crate) const MOST: u32 = 65_536;

    pub(crate) fn new(space: &Arc<SharedSpace>, name: &str, count: u32) -> Result<Self> {
        let lock = SharedLock::new(space, Spec { count, ..Spec::of(name, Kind::Semaphore) })?;
        // Handles of different processes start at different permits, so that they seldom meet.
        let (slot, _) = space.member()?;
        let start = slot.index().wrapping_mul(4) % count;
        // Nowhere yet: the first acquisition goes the long way and finds out.
        let nowhere = || AtomicU64::new(u64::from(!Place::unpack(lock.place.load(Relaxed)).generation));
        let (home, last) = (nowhere(), nowhere());
        let semaphore =
            Self { lock, seats: space.segment.seats.clone(), count, home, last, start, undisturbed: AtomicU32::new(0) };
        semaphore.find()?;
        Ok(semaphore)
    }

    pub(crate) fn name(&self) -> &str {
        self.lock.name()
    }

    pub(crate) fn permits(&self) -> u32 {
        self.count
    }

    /// Finds out where the name is now, and where its seats are.
    fn find(&self) -> Result<(Place, Range<usize>)> {
        let segment = &self.lock.space.segment;
        loop {
            let place = self.lock.find()?;
            let range = self.range(place);
            // Asked for last: what was read before is this name's, or an error is not.
            if self.lock.is_still(place) {
                return range.map(|range| (place, range));
            }
            if segment.is_overwritten() {
                return Err(segment.overwritten());
            }
        }
    }

    /// Where the seats of the entry there are, whose name is ours as far as the caller knows.
    fn range(&self, place: Place) -> Result<Range<usize>> {
        let segment = &self.lock.space.segment;
        let extent = segment.extent(self.lock.entry(place.entry), 0)?;
        let Some(range) = extent.and_then(|extent| segment.seats_from(extent, self.count)) else {
            return Err(Error::damaged(&segment.path, format!("\"{}\" has lost its permits", self.name())));
        };
        if self.lock.is_still(place) {
            self.home.store((range.start as u64) << 32 | place.generation as u64, Relaxed);
        }
        Ok(range)
    }

    /// Acquires the permit that this handle had last, if nobody acquired any since.
    #[inline(always)]
    pub(crate) fn acquire_fast(&self) -> Option<(Permit, Found<'_>)> {
        let me = Me(self.lock.me.get()).slot()?;
        let place = Place::unpack(self.lock.place.load(Relaxed));
        let last = self.last.load(Relaxed);
        if last as u32 != place.generation {
            return None;
        }
        let (index, entry) = ((last >> 32) as u32, self.lock.entries.get(place.entry as usize)?);
        let seat = self.seats.get(index as usize)?;
        let permit = |word| Permit::new(word, index, place.entry);
        match semaphore::try_again(&entry.lock, me, seat) {
            // As `is_ours`, of an entry at hand.
            Ok(word) if Meta(entry.meta.load(Relaxed)).generation() == place.generation => {
                Some((permit(word), Found { semaphore: self, seat, entry }))
            }
            Ok(word) | Err(Some(word)) => {
                self.undo(permit(word));
                None
            }
            Err(None) => None,
        }
    }

    /// Acquires a permit that is free, whichever it is, without a word about the dead, with a token that is drawn for it.
    pub(crate) fn try_acquire(&self) -> Option<Permit> {
        let code = self.lock.slot_code();
        let place = Place::unpack(self.lock.place.load(Relaxed));
        let home = self.home.load(Relaxed);
        if code == 0 || home as u32 != place.generation {
            return None;
        }
        let first = (home >> 32) as usize;
        let entry = self.lock.entry(place.entry);
        let seats = self.seats.get(first..first + self.count as usize)?;
        let permits = Permits { gate: &entry.lock, bell: &entry.bell, seats };
        let hint = self.hint(place, first);
        let run = self.is_undisturbed(permits.gate, &seats[hint]);
        let (position, word) = permits.try_acquire(Slot::own(code), hint, run, wake_next)?;
        let permit = Permit::new(word, (first + position) as u32, place.entry);
        if !self.lock.is_ours(place) {
            return self.undo(permit);
        }
        self.keep_hint(place, permit);
        Some(permit)
    }

    #[cold]
    #[inline(never)]
    fn undo(&self, permit: Permit) -> Option<Permit> {
        self.release(permit);
        None
    }

    /// Whether nobody else drew a token for so long that it is worth a run: a run costs more of them than it is good for, and they
    /// should not end sooner where others draw, too.
    #[inline(always)]
    fn is_undisturbed(&self, gate: &LockWords, seat: &Seat) -> bool {
        let is_last = gate.look() == OwnerWord(seat.owner.load(Relaxed));
        let undisturbed = if is_last { self.undisturbed.load(Relaxed).saturating_add(1) } else { 0 };
        self.undisturbed.store(undisturbed, Relaxed);
        undisturbed >= UNDISTURBED
    }

    /// Which of the permits, whose seats begin there, to look for first.
    #[inline(always)]
    fn hint(&self, place: Place, first: usize) -> usize {
        let last = self.last.load(Relaxed);
        let position = ((last >> 32) as usize).wrapping_sub(first);
        if last as u32 == place.generation && position < self.count as usize { position } else { self.start as usize }
    }

    #[inline(always)]
    fn keep_hint(&self, place: Place, permit: Permit) {
        self.last.store(u64::from(permit.seat()) << 32 | u64::from(place.generation), Relaxed);
    }

    /// Acquires so many permits, all or none, waiting until `deadline`.
    #[cold]
    pub(crate) fn acquire(&self, count: u32, thread: u32, deadline: Deadline) -> Result<(Permit, Option<Box<More>>)> {
        if !(1..=self.count).contains(&count) {
            return Err(Error::InvalidOption {
                option: "permits",
                value: count.to_string(),
                reason: format!("semaphore \"{}\" has {}, and one at least is acquired", self.name(), self.count),
            });
        }
        let started = Monotonic::now();
        let waited = self.lock.acquire(thread, deadline, None).map_err(|error| self.name_holder(error, started))?;
        let mut gate = waited.acquisition;
        let entry = self.lock.entry(gate.entry);
        let place = Place { entry: gate.entry, generation: Meta(entry.meta.load(Relaxed)).generation() };
        let mut taken = Vec::with_capacity(count as usize);
        // At the gate the name keeps its place.
        let outcome = self.range(place).and_then(|range| {
            let seats = &self.seats[range.clone()];
            let permits = Permits { gate: &entry.lock, bell: &entry.bell, seats };
            let collected = self.collect(&mut gate, place, permits, count, (thread, deadline), &mut taken);
            if collected.is_err() {
                put_back(entry, permits, &taken);
            }
            collected.map(|()| range)
        });
        let mut dead: Vec<_> = waited.dead.into_iter().collect();
        dead.extend(taken.iter().filter_map(|taken| Some(taken.obituary.as_ref()?.slot)));
        dead.dedup();
        match outcome {
            Ok(range) => {
                let acquired = self.welcome(place, range, taken, dead);
                self.lock.release(gate);
                Ok(acquired)
            }
            Err(error) => {
                self.lock.release(gate);
                self.bury(&dead);
                Err(self.name_holder(error, started))
            }
        }
    }

    /// Collects permits, at the gate.
    fn collect(
        &self,
        gate: &mut Acquisition,
        place: Place,
        permits: Permits<'_>,
        count: u32,
        (thread, deadline): (u32, Deadline),
        taken: &mut Vec<Taken<Obituary>>,
    ) -> Result<()> {
        let space = &*self.lock.space;
        let (slot, incarnation) = space.member()?;
        let waiting = Waiting { slot, incarnation, thread, started: Monotonic::now(), deadline, own: 0 };
        let wait = Wait::new(space, Target::Bell(place), waiting);
        let (word, token) = semaphore::reserve(permits.gate, gate.word, thread, count)
            .map_err(|failure| wait.explain(failure, &self.lock.spec.name))?;
        let wait = Wait::new(space, Target::Bell(place), Waiting { own: own_permits(token, count), ..waiting });
        let explain = |failure| wait.explain(failure, &self.lock.spec.name);
        gate.word = word;
        let tokens = (token..).take(count as usize).map(OwnerWord::free_at);
        // Whoever released one while somebody waited left word of which.
        let state = &self.lock.entry(place.entry).state;
        let first = (self.home.load(Relaxed) >> 32) as usize;
        let hint = self.hint(place, first);
        let start = || match state.load(Relaxed) as usize {
            0 => hint,
            position => position - 1,
        };
        permits.collect(&wait, slot, tokens, start, met, |one| taken.push(one)).map_err(explain)
    }

    /// Stamps what was collected, and finds out what its owner has to be told.
    fn welcome(
        &self,
        place: Place,
        range: Range<usize>,
        taken: Vec<Taken<Obituary>>,
        dead: Vec<Slot>,
    ) -> (Permit, Option<Box<More>>) {
        let entry = self.lock.entry(place.entry);
        let now = Monotonic::now();
        let mut more = More { dead, ..More::default() };
        for Taken { position, word, before, note, obituary } in taken {
            let permit = Permit::new(word, (range.start + position) as u32, place.entry);
            self.seat(permit).note.store(stamp::new(word, now, true), Relaxed);
            self.keep_hint(place, permit);
            more.others.push(permit);
            if let Some(dead) = &obituary {
                entry.recovered.fetch_add(1, Relaxed);
                // For those who look while we hold it.
                entry.note_death(before.epoch(), dead.pid, &dead.command);
            }
            if word.is_abandoned() && more.told.is_none() {
                let token = self.lock.space.token_of(before);
                let noted = match obituary {
                    Some(dead) => Some((dead.pid, dead.command)),
                    None => death_of(entry, before, note),
                };
                let (pid, command) = noted.unwrap_or_default();
                more.told = Some(Abandoned::noted(token, pid, command));
            }
        }
        // The last one has the largest token.
        let permit = more.others.pop().unwrap_or(Permit::ENDED);
        (permit, (!more.is_nothing()).then(|| Box::new(more)))
    }

    /// Of a wait that ended: not whoever was at the gate is in the way, but who holds permits.
    fn name_holder(&self, error: Error, started: Monotonic) -> Error {
        match error {
            Error::TimedOut { name, .. } => Error::TimedOut {
                name,
                holder: self.holders().ok().and_then(|holders| holders.into_iter().next()).map(Box::new),
                waited: Monotonic::now().since(started),
            },
            error => error,
        }
    }

    #[inline(always)]
    pub(crate) fn token(&self, permit: Permit) -> u64 {
        self.lock.space.token_of(permit.word)
    }

    fn seat(&self, permit: Permit) -> &Seat {
        // A permit comes from the table itself, so it is inside.
        &self.seats[permit.seat() as usize]
    }

    /// Whether this process still holds that permit.
    pub(crate) fn is_held(&self, permit: Permit) -> bool {
        self.lock.slot_code() == permit.word.slot_code() && self.seat(permit).look() == permit.word
    }

    /// Ends the acquisition of a permit; `false` if it is another process's, or not held any more. To be called once for each.
    pub(crate) fn release(&self, permit: Permit) -> bool {
        self.release_fast(permit) || self.release_wholly(permit)
    }

    /// The same if it takes no more than a store; `false`: nothing was done. All in registers, as a mutex's.
    #[inline(always)]
    pub(crate) fn release_fast(&self, permit: Permit) -> bool {
        self.found(permit).is_some_and(|found| found.release_fast(permit))
    }

    #[inline(always)]
    pub(super) fn found(&self, permit: Permit) -> Option<Found<'_>> {
        let (seat, entry) = (self.seats.get(permit.seat() as usize)?, self.lock.entries.get(permit.entry() as usize)?);
        Some(Found { semaphore: self, seat, entry })
    }

    /// As [`release`](Self::release), by a compare-and-swap.
    fn release_wholly(&self, permit: Permit) -> bool {
        if !permit.word.was_made_as(self.lock.slot_code()) {
            return false;
        }
        let (entry, seat) = (self.lock.entry(permit.entry()), self.seat(permit));
        let call = |rung: &AtomicU32| self.call(entry, permit, rung);
        semaphore::release(seat, &entry.bell, permit.word, call).is_ok() || self.release_refused(entry, permit)
    }

    /// Gives a permit a lease, which ends at `when` for others; what is held then. `None`: it was not held any more.
    pub(crate) fn lease(&self, permit: Permit, when: Boottime) -> Option<Permit> {
        let seat = self.seat(permit);
        let word = lease::begin(&seat.owner, &seat.note, permit.word, when.0).ok()?;
        Some(Permit { word, ..permit })
    }

    /// Has the lease of a permit, which ends at `from`, end at `to`; `false`: it was lost.
    pub(crate) fn renew(&self, permit: Permit, from: Boottime, to: Boottime) -> bool {
        let seat = self.seat(permit);
        permit.word.was_made_as(self.lock.slot_code())
            && lease::renew(&seat.owner, &seat.note, permit.word, from.0, to.0)
    }

    /// As [`release`](Self::release), of a permit that somebody else may have by now.
    pub(crate) fn release_leased(&self, permit: Permit) -> bool {
        let (entry, seat) = (self.lock.entry(permit.entry()), self.seat(permit));
        let call = |rung: &AtomicU32| self.call(entry, permit, rung);
        if !permit.word.was_made_as(self.lock.slot_code()) {
            return false;
        }
        let released = semaphore::release(seat, &entry.bell, permit.word, call).is_ok();
        if !released && !self.lock.space.was_inherited() {
            semaphore::undo_flip_leased(seat, &entry.bell, permit.word, call);
        }
        released
    }

    /// Tells whoever is at the bell, and where to look first.
    #[cold]
    fn call(&self, entry: &Entry, permit: Permit, rung: &AtomicU32) {
        let first = (self.home.load(Relaxed) >> 32) as u32;
        entry.state.store(u64::from(permit.seat().wrapping_sub(first)) + 1, Relaxed);
        wake_next(rung);
    }

    /// As for a mutex: whoever took it over goes on, and if nobody did, its damage is undone.
    #[cold]
    fn release_refused(&self, entry: &Entry, permit: Permit) -> bool {
        if let Some(me) = Slot::from_code(self.lock.slot_code())
            && !self.lock.space.was_inherited()
        {
            let freed = permit.word.release();
            semaphore::undo_flip(self.seat(permit), &entry.bell, me, freed, |rung| self.call(entry, permit, rung));
        }
        false
    }

    /// Ends the acquisition of a permit as our death would: the next owner is told.
    pub(crate) fn abandon(&self, permit: Permit) -> bool {
        self.abandon_as(permit, std::process::id())
    }

    /// Ends the acquisition of one whose lease ran out: the next owner is told of that. `false` if somebody took it over.
    pub(crate) fn lose(&self, permit: Permit) -> bool {
        self.abandon_as(permit, std::process::id() | Abandoned::LEASE_LOST)
    }

    /// `noted`: as in [`Abandoned::noted`].
    fn abandon_as(&self, permit: Permit, noted: u32) -> bool {
        if !self.is_held(permit) {
            // What is damaged is set right, as by a release.
            let _ = if permit.word.is_leased() { self.release_leased(permit) } else { self.release(permit) };
            return false;
        }
        let entry = self.lock.entry(permit.entry());
        let command = self.lock.space.segment.command(Slot::own(permit.word.slot_code()));
        entry.note_death(permit.word.epoch(), noted, &command);
        let (note, death) = (&self.seat(permit).note, semaphore::note_of_death(permit.word, noted));
        if permit.word.is_leased() {
            // The note is the lease, if it is not somebody else's by now. From here on nobody can close it.
            let lease = note.load(Relaxed);
            if lease::ends(note, permit.word).is_none_or(|ends| ends == 0)
                || note.compare_exchange(lease, death, Relaxed, Relaxed).is_err()
            {
                return false;
            }
        } else {
            note.store(death, Relaxed);
        }
        semaphore::abandon(self.seat(permit), &entry.bell, permit.word, |rung| self.call(entry, permit, rung))
    }

    /// Notes the time as that of an acquisition.
    pub(crate) fn stamp(&self, permit: Permit) {
        if self.is_held(permit) && !permit.word.is_leased() {
            self.seat(permit).note.store(stamp::new(permit.word, Monotonic::now(), true), Relaxed);
        }
    }

    /// Cleans up after the dead whose permits were taken over.
    #[cold]
    pub(crate) fn bury_all(&self, more: &More) {
        self.bury(&more.dead);
    }

    fn bury(&self, dead: &[Slot]) {
        for slot in dead {
            // If it fails, whoever needs the slot tries again.
            let _ = self.lock.space.recover_dead(Some(*slot));
        }
    }

    /// Who holds permits now, one for each.
    pub(crate) fn holders(&self) -> Result<Vec<Holder>> {
        let (_, range) = self.find()?;
        let (space, seats) = (&self.lock.space, &self.seats[range]);
        Ok(inspect::holders_of_seats(&space.segment, &space.me_as_judge(), self.lock.slot_code(), seats))
    }
}

/// Where a permit is, found on the fast path: found again for the release, it would be a fifth of all that a permit takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    semaphore: &'a SharedSemaphore,
    seat: &'a Seat,
    entry: &'a Entry,
}

impl Found<'_> {
    /// As [`SharedSemaphore::release_fast`].
    #[inline(always)]
    pub(super) fn release_fast(self, permit: Permit) -> bool {
        let Self { semaphore, seat, entry } = self;
        permit.word.was_made_lightly_by(Me(semaphore.lock.me.get()))
            && semaphore::release_lightly(seat, &entry.bell, permit.word, move |rung| {
                semaphore.call(entry, permit, rung)
            })
            .is_ok()
    }
}

/// Who died as the last owner of a seat that is free and abandoned, with that note beside it.
pub(super) fn death_of(entry: &Entry, free: OwnerWord, note: u64) -> Option<(u32, String)> {
    entry.death_of(free.epoch()).or_else(|| {
        let pid = semaphore::pid_in(note, free)?;
        Some((pid, entry.command_of_dead(pid)))
    })
}

/// Gives back what was collected for nothing.
fn put_back(entry: &Entry, permits: Permits<'_>, taken: &[Taken<Obituary>]) {
    for taken in taken {
        if let Some(dead) = &taken.obituary {
            entry.note_death(taken.before.epoch(), dead.pid, &dead.command);
            permits.seats[taken.position].note.store(semaphore::note_of_death(taken.before, dead.pid), Relaxed);
        } else if taken.before.is_abandoned() {
            permits.seats[taken.position].note.store(taken.note, Relaxed);
        }
        permits.put_back(taken);
    }
}

/// The first to see an acquisition notes when that was. Whose it is only its owner writes there, so that a flipped bit can be told.
fn met(seat: &Seat, seen: OwnerWord) {
    if seen.is_leased() {
        return;
    }
    let noted = seat.note.load(Relaxed);
    if stamp::is_blank_of(noted, seen) {
        // If it fails, somebody else noted it.
        let _ = seat.note.compare_exchange(noted, stamp::new(seen, Monotonic::now(), false), Relaxed, Relaxed);
    }
}
