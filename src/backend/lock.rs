//! A named lock, as a handle keeps it: from the fast path to what its owner has to be told.

use core::sync::atomic::Ordering::{self, Acquire, Relaxed, SeqCst};
use core::sync::atomic::{AtomicU64, fence};
use std::sync::Arc;

use super::shared::SharedSpace;
use super::wait::{Obituary, Refusal, Wait, Waiting, stamp, wake_one};
use crate::holder::{Abandoned, Holder};
use crate::os::clock::{Boottime, Deadline, Monotonic};
use crate::os::fork::ForkWord;
use crate::os::map::Table;
use crate::protocol::lease;
use crate::protocol::mutex::{Acquired, Failure};
use crate::protocol::slot::{Me, Slot};
use crate::protocol::word::OwnerWord;
use crate::segment::format::{Entry, Kind, Meta, Place};
use crate::segment::names;
use crate::segment::waiters::Target;
use crate::{Error, Result};

/// One acquisition of a lock: which one, and in which entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acquisition {
    pub(super) word: OwnerWord,
    pub(super) entry: u32,
}

impl Acquisition {
    /// In which entry.
    pub(crate) fn entry(self) -> u32 {
        self.entry
    }

    /// Instead of one that was ended: it is nobody's, so ending it does nothing.
    pub(crate) const ENDED: Self = Self { word: OwnerWord::ENDED, entry: 0 };

    /// As two words.
    pub(super) fn pack(self) -> [u64; 2] {
        [self.word.0, self.entry.into()]
    }

    pub(super) fn unpack(packed: [u64; 2]) -> Self {
        Self { word: OwnerWord(packed[0]), entry: packed[1] as u32 }
    }

    /// Of a lock file: the token, and the number by which the process knows what it has locked.
    pub(super) fn of_file(token: u64, number: u32) -> Self {
        Self { word: OwnerWord(token), entry: number }
    }

    pub(super) fn token_of_file(self) -> u64 {
        self.word.0
    }
}

/// An acquisition that took its time, and what it found out.
#[derive(Debug)]
pub(crate) struct Waited {
    pub(crate) acquisition: Acquisition,
    pub(crate) abandoned: Option<Box<Abandonment>>,
    /// Whom the wait found dead at last, also if there is nothing to tell of that.
    pub(super) dead: Option<Slot>,
}

impl Waited {
    /// That did not.
    pub(super) fn at_once(acquisition: Acquisition) -> Self {
        Self { acquisition, abandoned: None, dead: None }
    }

    /// Of a lock file.
    pub(super) fn of_file(acquisition: Acquisition, abandoned: Option<Box<Abandonment>>) -> Self {
        Self { acquisition, abandoned, dead: None }
    }
}

/// A death that the acquisition was told of.
#[derive(Debug)]
pub(crate) struct Abandonment {
    pub(crate) told: Abandoned,
    /// The slot of the dead, to be cleaned up when the lock is released.
    pub(super) slot: Option<Slot>,
}

impl Abandonment {
    /// Of which somebody else cleans up.
    pub(crate) fn told_before(told: Abandoned) -> Box<Self> {
        Box::new(Self { told, slot: None })
    }
}

/// A named lock, as a handle keeps it.
#[derive(Debug)]
pub(crate) struct SharedLock {
    // What the fast path touches, without going through `space`.
    pub(super) me: ForkWord,
    pub(super) entries: Table<Entry>,
    /// A packed [`Place`]: where the name was the last time.
    pub(super) place: AtomicU64,
    /// The free word that this handle left behind, with which the next acquisition starts.
    pub(super) guess: AtomicU64,
    pub(super) space: Arc<SharedSpace>,
    pub(super) spec: Arc<Spec>,
}

/// What a name is, as the handle's maker said. Whoever looks it up and does not find it makes it so.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) name: Arc<str>,
    pub(crate) kind: Kind,
    /// Permits, members or items; 0 for a kind that has none.
    pub(crate) count: u32,
    /// The words that its data begins with; all after them are zero.
    pub(crate) data: Box<[u64]>,
    /// How many words of data there are.
    pub(crate) room: u64,
}

impl Spec {
    pub(crate) fn of(name: &str, kind: Kind) -> Self {
        Self { name: name.into(), kind, count: 0, data: Box::default(), room: 0 }
    }
}

impl Clone for SharedLock {
    fn clone(&self) -> Self {
        Self {
            me: self.me.clone(),
            entries: self.entries.clone(),
            space: self.space.clone(),
            spec: self.spec.clone(),
            place: AtomicU64::new(self.place.load(Relaxed)),
            guess: AtomicU64::new(self.guess.load(Relaxed)),
        }
    }
}

/// Where a lock is, found on the fast path: found again for the release, it would be a tenth of all that a mutex takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    lock: &'a SharedLock,
    entry: &'a Entry,
}

impl Found<'_> {
    /// As [`SharedLock::release_fast`].
    #[inline(always)]
    pub(super) fn release_fast(self, acquisition: Acquisition) -> bool {
        if !acquisition.word.was_made_lightly_by(Me(self.lock.me.get())) {
            return false;
        }
        let Ok(freed) = self.entry.lock.release_lightly(acquisition.word, wake_one) else { return false };
        self.lock.guess.store(freed.0, Relaxed);
        true
    }
}

impl SharedLock {
    pub(crate) fn new(space: &Arc<SharedSpace>, spec: Spec) -> Result<Self> {
        names::check(&spec.name)?;
        let place = space.look_up(&spec)?;
        space.register_for_fences();
        Ok(Self {
            me: space.me.clone(),
            entries: space.segment.entries.clone(),
            place: AtomicU64::new(place.pack()),
            guess: AtomicU64::new(0),
            space: space.clone(),
            spec: Arc::new(spec),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.spec.name
    }

    /// The code of this process's slot; 0 in a forked child that did not join yet.
    #[inline(always)]
    pub(super) fn slot_code(&self) -> u16 {
        Me(self.me.get()).code()
    }

    #[inline(always)]
    pub(super) fn entry(&self, index: u32) -> &Entry {
        // A place comes from the table itself, so it is inside.
        &self.entries[index as usize]
    }

    /// Whether the entry still belongs to this name. To be asked while holding the entry's lock.
    #[inline(always)]
    pub(super) fn is_ours(&self, place: Place) -> bool {
        // Relaxed: the name changes under the lock that the caller acquired with Acquire.
        Meta(self.entry(place.entry).meta.load(Relaxed)).generation() == place.generation
    }

    /// Acquires the lock if nobody else did since this handle released it.
    #[inline(always)]
    pub(crate) fn acquire_fast(&self, thread: u32) -> Option<(Acquisition, Found<'_>)> {
        self.acquire_fast_as(thread, Acquire)
    }

    /// The same, with an order that is at least `Acquire`.
    #[inline(always)]
    pub(super) fn acquire_fast_as(&self, thread: u32, order: Ordering) -> Option<(Acquisition, Found<'_>)> {
        let me = Me(self.me.get());
        let place = Place::unpack(self.place.load(Relaxed));
        let entry = self.entries.get(place.entry as usize)?;
        let word = entry.lock.acquire_guessed(me, thread, OwnerWord(self.guess.load(Relaxed)), order)?;
        // Relaxed: as in `is_ours`.
        if Meta(entry.meta.load(Relaxed)).generation() != place.generation {
            self.put_back(entry, Acquired { word, obituary: None });
            return None;
        }
        Some((Acquisition { word, entry: place.entry }, Found { lock: self, entry }))
    }

    /// Acquires the lock if it is free, without a word about the dead. `Err(Some(_))`: acquired, but there is more to find out about it.
    pub(super) fn try_acquire(
        &self,
        thread: u32,
        order: Ordering,
    ) -> std::result::Result<Acquisition, Option<Acquisition>> {
        let me = Me(self.me.get()).slot().ok_or(None)?;
        let place = Place::unpack(self.place.load(Relaxed));
        let lock = &self.entry(place.entry).lock;
        let word = lock.try_acquire_as(me, thread, lock.look(), order).map_err(|_| None)?;
        let acquisition = Acquisition { word, entry: place.entry };
        if word.is_abandoned() || !self.is_ours(place) { Err(Some(acquisition)) } else { Ok(acquisition) }
    }

    /// Acquires the lock, waiting until what `deadline` says, which is asked if it has to wait.
    #[cold]
    pub(crate) fn acquire_slowly(&self, thread: u32, deadline: impl FnOnce() -> Deadline) -> Result<Waited> {
        match self.try_acquire(thread, Acquire) {
            Ok(acquisition) => Ok(Waited::at_once(acquisition)),
            Err(begun) => self.acquire(thread, deadline(), begun),
        }
    }

    /// Lets go of a lock that turned out to be another name's. Who has to be told of a death still is.
    #[cold]
    fn put_back(&self, entry: &Entry, acquired: Acquired<Obituary>) {
        let word = acquired.word;
        if word.is_abandoned() {
            let dead = match acquired.obituary {
                Some(dead) => Some((dead.pid, dead.command)),
                None => entry.death_of(entry.died_as(word)),
            };
            let (pid, command) = dead.unwrap_or_default();
            entry.note_death(entry.died_as(word.give_up()), pid, &command);
        }
        let freed = word.give_up();
        if entry.lock.owner.compare_exchange(word.0, freed.0, SeqCst, Relaxed).is_ok() {
            entry.lock.wake_sleepers(freed, wake_one);
        }
    }

    /// Acquires the lock, waiting until `deadline`.
    /// `begun` is what [`try_acquire`](Self::try_acquire) left to be looked at.
    pub(crate) fn acquire(&self, thread: u32, deadline: Deadline, mut begun: Option<Acquisition>) -> Result<Waited> {
        let space = &*self.space;
        let started = Monotonic::now();
        loop {
            let (slot, incarnation) = space.member()?;
            let mut place = Place::unpack(self.place.load(Relaxed));
            if let Some(begun) = begun.filter(|begun| begun.entry != place.entry) {
                // Another thread found out meanwhile where the name is now.
                place = Place { entry: begun.entry, generation: place.generation.wrapping_sub(1) };
            }
            let entry = self.entry(place.entry);
            let waiting = Waiting { slot, incarnation, thread, started, deadline, own: 0 };
            let wait = Wait::new(space, Target::Lock(place), waiting);
            let outcome = match begun.take() {
                Some(begun) => Ok(Acquired { word: begun.word, obituary: None }),
                None => wait.acquire(),
            };
            // Also what we gave up waiting for may be another name's lock by now.
            let moved = !self.is_ours(place);
            match outcome {
                Ok(acquired) if moved => self.put_back(entry, acquired),
                // It may have been free because it is gone, with its holder's word.
                Ok(acquired) if space.segment.is_overwritten() => {
                    self.put_back(entry, acquired);
                    return Err(space.segment.overwritten());
                }
                Ok(acquired) => return Ok(Waited { dead: wait.dead(), ..self.welcome(entry, place, acquired) }),
                Err(Failure::Refused(Refusal::TimedOut)) if moved => {
                    let waited = Monotonic::now().since(started);
                    return Err(Error::TimedOut { name: self.spec.name.clone(), holder: None, waited });
                }
                Err(_) if moved => {}
                Err(failure) => return Err(wait.explain(failure, &self.spec.name)),
            }
            self.place.store(space.look_up(&self.spec)?.pack(), Relaxed);
        }
    }

    /// Stamps an acquisition and finds out what its owner has to be told.
    fn welcome(&self, entry: &Entry, place: Place, acquired: Acquired<Obituary>) -> Waited {
        let word = acquired.word;
        entry.since.store(stamp::new(word, Monotonic::now(), true), Relaxed);
        let abandoned = word.is_abandoned().then(|| {
            let epoch = entry.died_as(word);
            let token = self.space.segment.header.token_base + epoch;
            let slot = acquired.obituary.as_ref().map(|dead| dead.slot);
            let (pid, command) = match acquired.obituary {
                Some(dead) => {
                    entry.recovered.fetch_add(1, Relaxed);
                    // For those who look while we hold it.
                    entry.note_death(epoch, dead.pid, &dead.command);
                    (dead.pid, dead.command)
                }
                None => entry.death_of(epoch).unwrap_or_default(),
            };
            Box::new(Abandonment { told: Abandoned::noted(token, pid, command), slot })
        });
        Waited { acquisition: Acquisition { word, entry: place.entry }, abandoned, dead: None }
    }

    #[inline(always)]
    pub(crate) fn token(&self, acquisition: Acquisition) -> u64 {
        self.space.token_of(acquisition.word)
    }

    /// Whether this process still holds that acquisition.
    pub(crate) fn is_held(&self, acquisition: Acquisition) -> bool {
        self.slot_code() == acquisition.word.slot_code()
            && self.entry(acquisition.entry).lock.look() == acquisition.word
    }

    /// Ends an acquisition; `false` if it is another process's, or not the lock's any more. To be called once for each: afterwards another
    /// thread of this process may have the lock, and a word that is hard to tell from a damaged one of ours.
    pub(crate) fn release(&self, acquisition: Acquisition) -> bool {
        self.release_fast(acquisition) || self.release_wholly(acquisition)
    }

    /// The same if it takes no more than a store; `false`: nothing was done.
    ///
    /// All in registers, and short: a guard whose drop is not inlined is in memory, and each store costs the next compare-and-swap a cycle.
    #[inline(always)]
    pub(crate) fn release_fast(&self, acquisition: Acquisition) -> bool {
        self.found(acquisition).is_some_and(|found| found.release_fast(acquisition))
    }

    #[inline(always)]
    pub(super) fn found(&self, acquisition: Acquisition) -> Option<Found<'_>> {
        self.entries.get(acquisition.entry as usize).map(|entry| Found { lock: self, entry })
    }

    /// As [`release`](Self::release), by a compare-and-swap.
    fn release_wholly(&self, acquisition: Acquisition) -> bool {
        if !acquisition.word.was_made_as(self.slot_code()) {
            return false;
        }
        let entry = self.entry(acquisition.entry);
        match entry.lock.release(acquisition.word, wake_one) {
            Ok(freed) => {
                self.guess.store(freed.0, Relaxed);
                true
            }
            Err(_) if acquisition.word.is_leased() => self.release_refused_leased(entry, acquisition.word),
            Err(_) => self.release_refused(entry, acquisition.word.release()),
        }
    }

    /// As [`release`](Self::release), but who waits is before who just comes.
    pub(crate) fn release_fair(&self, acquisition: Acquisition) -> bool {
        if !acquisition.word.was_made_as(self.slot_code()) {
            return false;
        }
        let entry = self.entry(acquisition.entry);
        match entry.lock.release_fair(acquisition.word, wake_one) {
            Ok(_) => true,
            Err(_) if acquisition.word.is_leased() => self.release_refused_leased(entry, acquisition.word),
            Err(_) => self.release_refused(entry, acquisition.word.release()),
        }
    }

    /// Gives an acquisition a lease, which ends at `when` for others; what is held then. `None`: it was not held any more.
    pub(crate) fn lease(&self, acquisition: Acquisition, when: Boottime) -> Option<Acquisition> {
        let lock = &self.entry(acquisition.entry).lock;
        let word = lease::begin(&lock.owner, &lock.lease, acquisition.word, when.0).ok()?;
        Some(Acquisition { word, ..acquisition })
    }

    /// Has the lease of an acquisition, which ends at `from`, end at `to`; `false`: it was lost.
    pub(crate) fn renew(&self, acquisition: Acquisition, from: Boottime, to: Boottime) -> bool {
        let lock = &self.entry(acquisition.entry).lock;
        acquisition.word.was_made_as(self.slot_code())
            && !self.space.segment.is_removed()
            && lease::renew(&lock.owner, &lock.lease, acquisition.word, from.0, to.0)
    }

    /// The word is not what it was: whoever took it over goes on, and if nobody did, its damage is undone.
    ///
    /// By the free word that was to be left, which the fast path has at hand anyway: to keep the other one costs a tenth of the lock.
    ///
    /// Not of an acquisition with a lease: whoever took that over may be another thread of this process.
    #[cold]
    fn release_refused(&self, entry: &Entry, freed: OwnerWord) -> bool {
        // A forked child may have its parent's slot one day, and a guard of the parent's with it.
        if let Some(me) = Slot::from_code(self.slot_code())
            && !self.space.was_inherited()
        {
            entry.lock.undo_flip(me, freed, wake_one);
        }
        false
    }

    #[cold]
    fn release_refused_leased(&self, entry: &Entry, mine: OwnerWord) -> bool {
        if !self.space.was_inherited() {
            entry.lock.undo_flip_leased(mine, wake_one);
        }
        false
    }

    /// Ends an acquisition that nothing was done with: whoever has to be told of a death still is, by the next one.
    pub(crate) fn give_up(&self, acquisition: Acquisition) {
        self.put_back(self.entry(acquisition.entry), Acquired { word: acquisition.word, obituary: None });
    }

    /// Ends an acquisition as our death would: the next owner is told. `false` if it had ended before, or is another process's.
    pub(crate) fn abandon(&self, acquisition: Acquisition) -> bool {
        self.abandon_as(acquisition, std::process::id())
    }

    /// Ends an acquisition whose lease ran out: the next owner is told of that. `false` if somebody took it over.
    pub(crate) fn lose(&self, acquisition: Acquisition) -> bool {
        self.abandon_as(acquisition, std::process::id() | Abandoned::LEASE_LOST)
    }

    /// `noted`: as in [`Abandoned::noted`].
    fn abandon_as(&self, acquisition: Acquisition, noted: u32) -> bool {
        if !self.is_held(acquisition) {
            // What is damaged is set right, as by a release.
            self.release(acquisition);
            return false;
        }
        let (entry, word) = (self.entry(acquisition.entry), acquisition.word);
        entry.note_death(word.epoch(), noted, &self.space.segment.command(Slot::own(word.slot_code())));
        let abandoned = entry.lock.owner.compare_exchange(word.0, word.abandon().0, SeqCst, Relaxed).is_ok();
        if abandoned {
            entry.lock.wake_sleepers(word.abandon(), wake_one);
        }
        abandoned
    }

    /// Whether anybody acquired the lock after `ended`, which is over.
    pub(super) fn was_held_since(&self, ended: Acquisition) -> bool {
        self.entry(ended.entry).lock.look().epoch() != ended.word.epoch()
    }

    /// Notes the time as that of an acquisition.
    pub(crate) fn stamp(&self, acquisition: Acquisition) {
        if self.is_held(acquisition) {
            let stamp = stamp::new(acquisition.word, Monotonic::now(), true);
            self.entry(acquisition.entry).since.store(stamp, Relaxed);
        }
    }

    /// Cleans up after the dead owner whose lock was taken over, now that the lock is released.
    #[cold]
    pub(crate) fn bury(&self, abandonment: &Abandonment) {
        if let Some(slot) = abandonment.slot {
            // If it fails, whoever needs the slot tries again.
            let _ = self.space.recover_dead(Some(slot));
        }
    }

    /// Of a fence, which the caller holds: notes `token`, if none larger was. `Err`: the largest.
    pub(super) fn raise_fence(&self, held: Acquisition, token: u64) -> std::result::Result<(), u64> {
        let state = &self.entry(held.entry).state;
        // Relaxed: it changes under the lock that the caller acquired with Acquire.
        let newest = state.load(Relaxed);
        if token < newest {
            return Err(newest);
        }
        state.store(token, Relaxed);
        Ok(())
    }

    /// Of a fence: the largest token so far.
    pub(super) fn fence(&self) -> Result<u64> {
        Ok(self.entry(self.find()?.entry).state.load(Relaxed))
    }

    /// Where the name is now.
    pub(super) fn find(&self) -> Result<Place> {
        let mut place = Place::unpack(self.place.load(Relaxed));
        if !self.is_still(place) {
            place = self.space.look_up(&self.spec)?;
            self.place.store(place.pack(), Relaxed);
        }
        Ok(place)
    }

    /// Where the lock is that the caller holds.
    pub(super) fn place_of(&self, held: Acquisition) -> Place {
        Place { entry: held.entry, generation: Meta(self.entry(held.entry).meta.load(Relaxed)).generation() }
    }

    /// Whether the name still is there, for whoever holds nothing: what it read before was the name's if it is.
    pub(super) fn is_still(&self, place: Place) -> bool {
        fence(Acquire);
        self.is_ours(place)
    }

    /// Who holds the lock now.
    pub(crate) fn holder(&self) -> Result<Option<Holder>> {
        let entry = self.entry(self.find()?.entry);
        Ok(self.space.holder_of(&entry.lock, Some(&entry.since)))
    }
}
