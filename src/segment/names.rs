//! From a name to its lock, and back to an unused place.
//!
//! Finding a name takes no lock: the index (open addressing, at most half full) leads to entries, and an entry is read between two
//! looks at its meta word. Names come and go under the names' own lock, a mutex like every other: when its owner dies, the next
//! one finds it abandoned and makes the index anew from the entries.
//!
//! When all entries have a name, one that nobody uses is given another. Handles do not keep an entry: a handle looks at the entry's
//! generation *after* it acquired, and looks its name up again when that has changed.
//!
//! Invariants:
//!
//! 1. An entry's name, hash and meta word change only under the names' lock, and while their writer holds the entry's
//!    own lock. So whoever holds a lock whose generation is right holds the lock of that name.
//! 2. The epoch an entry is given up with is at most the space's floor, and an entry gets a new name with an epoch of at least the
//!    floor: a name's tokens grow, wherever it lives.
//! 3. Only an entry whose lock is free, not abandoned, and without sleepers is given up, and whose kind keeps nothing for later (unless
//!    somebody takes the name away in so many words); and only while whoever gives it up holds its lock and found nobody who has a part of it.
//!
//! Damage: a name that is not found is given an entry, so whoever missed one because of a flipped bit would hand out a second lock of
//! that name. Therefore cells, meta words and names can be told from damaged ones, and a search under the names' lock that comes by
//! one does not end in "there is no such name". An index is made anew; an entry whose name does not fit its hash is an error
//! for all whose search leads past it.
//!
//! If we die: the entry is held by us and nameless, or named and not in the index. The first is given back like any lock, and
//! found by the next sweep; the second is put in order by whoever gets the names' lock next.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::fence;

use super::Segment;
use super::extents::Wanted;
use super::format::{Entry, Kind, Meta, NAME_MAX, Place, load_text, store_text};
use super::index::Cell;
use super::waiters::Target;
use crate::digest::fnv1a;
use crate::os::fence as membarrier;
use crate::os::futex;
use crate::protocol::seat::Seat;
use crate::protocol::slot::Slot;
use crate::protocol::word::{OwnerWord, Step};
use crate::{Error, Result};

/// What the table says of a name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) place: Place,
    /// The kind's number, which a newer version may have given.
    pub(crate) kind: u8,
}

/// What becomes of deaths that are still to be told when a name goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deaths {
    /// The name stays until they are.
    Told,
    /// Nobody is told of them any more.
    Forgotten,
}

/// Whether `name` can be the name of a lock.
pub(crate) fn check(name: &str) -> Result<()> {
    let reason = match name {
        "" => "it is empty",
        _ if name.len() > NAME_MAX => "it is longer than 64 bytes",
        _ if name.contains('\0') => "it holds NUL",
        _ => return Ok(()),
    };
    Err(Error::InvalidName { of: "lock", name: name.into(), reason })
}

impl Segment {
    /// The cells in which an entry with this hash can be, in order.
    fn cells(&self, hash: u64) -> impl Iterator<Item = usize> {
        // The header's check made the count a power of two.
        let mask = self.index.len() - 1;
        (0..self.index.len()).map(move |step| (hash as usize).wrapping_add(step) & mask)
    }

    /// Looks a name up. `None` may be wrong while names change; under the names' lock it is right.
    pub(crate) fn find(&self, name: &str) -> Option<Known> {
        let hash = fnv1a(name.as_bytes());
        for cell in self.cells(hash) {
            match self.cell(cell) {
                Cell::Empty => return None,
                Cell::Left | Cell::Damaged => {}
                Cell::Entry(entry) => {
                    if let Some(known) = self.entries.get(entry as usize).and_then(|e| matching(e, entry, hash, name)) {
                        return Some(known);
                    }
                }
            }
        }
        None
    }

    fn cell(&self, index: usize) -> Cell {
        // Acquire: pairs with the Release in `index_insert`: the entry's name is there.
        Cell::from_word(self.index[index].load(Acquire))
    }

    /// Looks a name up under the names' lock, which the caller holds. `None` is right, as far as damage can be seen.
    pub(crate) fn find_for_sure(&self, name: &str) -> Result<Option<Known>> {
        if let Some(known) = self.find(name) {
            return Ok(Some(known));
        }
        if !self.way_is_sound(name)? {
            self.rebuild_index(None)?;
        }
        Ok(self.find(name))
    }

    /// Whether all cells on the way to `name` are sound. The caller holds the names' lock.
    fn way_is_sound(&self, name: &str) -> Result<bool> {
        for cell in self.cells(fnv1a(name.as_bytes())) {
            match self.cell(cell) {
                Cell::Empty => return Ok(true),
                Cell::Left => {}
                Cell::Damaged => return Ok(false),
                Cell::Entry(index) => match self.entries.get(index as usize) {
                    // Under the names' lock a cell leads to a name.
                    Some(entry) if !is_sound(entry) || !Meta(entry.meta.load(Relaxed)).is_used() => {
                        return Err(self.damaged_entry(index));
                    }
                    Some(_) => {}
                    None => return Ok(false),
                },
            }
        }
        Ok(true)
    }

    fn damaged_entry(&self, index: u32) -> Error {
        Error::damaged(&self.path, format!("entry {index} does not have the name it had"))
    }

    /// Gives `name` an entry. The caller holds the names' lock as `me`, and did not find the name.
    pub(crate) fn register(&self, name: &str, wanted: &Wanted<'_>, me: Slot) -> Result<Known> {
        let (index, held) = self.claim_entry(me)?;
        let entry = &self.entries[index as usize];
        // Everything from here to the end is under the entry's own lock (invariant 1).
        let (generation, held) = self.wipe(index, held);
        // Not the epoch of any word that was there before: whoever is late does not find what it expects. Nor one of a run
        // of this name's.
        let free = OwnerWord::free_at(held.epoch() - 1).0;
        let settled = self.settle(index, wanted, free) || self.make_room(me) && self.settle(index, wanted, free);
        if !settled {
            let _ = entry.lock.release(held, |word| futex::wake(word, 1) > 0);
            return Err(self.no_extents(name, wanted));
        }
        let hash = fnv1a(name.as_bytes());
        entry.hash.store(hash, Relaxed);
        store_text(&entry.name, name.as_bytes());
        entry.since.store(0, Relaxed);
        entry.dead.store(0, Relaxed);
        entry.recovered.store(0, Relaxed);
        entry.lock.contended.store(0, Relaxed);
        // A reader's token is that of the last write, which before the first one is as large as any that the name had elsewhere. Not our own:
        // if we die here, nobody wrote.
        let state = if matches!(wanted.kind, Kind::RwLock | Kind::RwLockData) { held.epoch() - 1 } else { 0 };
        entry.state.store(state, Relaxed);
        entry.swept.store(held.epoch(), Relaxed);
        // Release: the name. Pairs with the Acquire in `matching`.
        entry.meta.store(Meta::used(generation, wanted.kind, name.len()).0, Release);
        self.index_insert(hash, index);
        // It fails only if a peer scribbles; then the lock itself says that it is damaged.
        let _ = entry.lock.release(held, |word| futex::wake(word, 1) > 0);
        Ok(Known { place: Place { entry: index, generation }, kind: wanted.kind as u8 })
    }

    /// Takes an entry's name and extents from it. The caller holds the names' lock and, as `held`, the entry's; the entry's new
    /// generation, and what it is held with now.
    fn wipe(&self, index: u32, held: OwnerWord) -> (u32, OwnerWord) {
        let entry = &self.entries[index as usize];
        // Both numbers are a peer's to damage: an epoch has 48 bits, and a generation must be a new one for this entry.
        let floor = (self.globals().epoch_floor.load(Relaxed) & OwnerWord::MAX_EPOCH).max(held.epoch());
        // Above an epoch that was nobody's either: see `register`.
        let floor = OwnerWord::past_run(floor + 2).min(OwnerWord::MAX_EPOCH);
        self.globals().epoch_floor.store(floor, Relaxed);
        let last = Meta(entry.meta.load(Relaxed)).generation();
        let next = self.globals().generation.load(Relaxed).wrapping_add(1);
        let generation = if next.wrapping_sub(last) as i32 > 0 { next } else { last.wrapping_add(1) };
        self.globals().generation.store(generation, Relaxed);
        self.index_remove(index);
        // Release fence: whoever sees a byte of the new name sees that the old one is gone. Pairs with the fence in `matching`.
        entry.meta.store(Meta::unused(generation).0, Relaxed);
        fence(Release);
        // Invariant 2, before the name: if we die, whoever gets the lock goes on from here.
        let raised = held.raise(floor);
        let _ = entry.lock.owner.compare_exchange(held.0, raised.0, Relaxed, Relaxed);
        self.clear_extents(index);
        // Whoever waits there for something else than the lock has to look whose entry it is.
        entry.bell.ring(|rung| {
            futex::wake(rung, i32::MAX);
        });
        (generation, raised)
    }

    /// Takes the extents from all names that nobody uses now. Whether there were any. The caller holds the names' lock as `me`.
    fn make_room(&self, me: Slot) -> bool {
        let mut any = false;
        for (index, entry) in (0u32..).zip(self.entries.iter()) {
            let meta = Meta(entry.meta.load(Relaxed));
            let word = entry.lock.look();
            let has_some = entry.extents.iter().any(|extent| extent.load(Relaxed) != 0);
            if !has_some || !meta.is_used() || !self.may_be_given_up(index, meta, word) {
                continue;
            }
            let Some(held) = self.hold(index, me, word) else { continue };
            let held = match self.is_unused(index, meta, Deaths::Told) {
                true => {
                    any = true;
                    self.wipe(index, held).1
                }
                false => held,
            };
            let _ = entry.lock.release(held, |word| futex::wake(word, 1) > 0);
        }
        any
    }

    /// Takes a name away, with all it had. Whether it was there and nobody used it. The caller holds the names' lock as `me`, and of the
    /// entry knows that it is the name's.
    pub(crate) fn unregister(&self, index: u32, me: Slot) -> bool {
        let entry = &self.entries[index as usize];
        let (meta, word) = (Meta(entry.meta.load(Relaxed)), entry.lock.look());
        let Some(held) = self.hold(index, me, word) else { return false };
        // Whoever takes a name away takes with it what is to be told of the dead.
        let unused = self.is_unused(index, meta, Deaths::Forgotten);
        let held = if unused { self.wipe(index, held).1 } else { held };
        let freed = if unused { held.release() } else { held.give_up() };
        if entry.lock.owner.compare_exchange(held.0, freed.0, SeqCst, Relaxed).is_ok() {
            entry.lock.wake_sleepers(freed, |word| futex::wake(word, 1) > 0);
        }
        unused
    }

    /// Whether nobody has a part of the lock that the caller holds, so that nobody new can get one.
    fn is_unused(&self, index: u32, meta: Meta, deaths: Deaths) -> bool {
        let entry = &self.entries[index as usize];
        // SeqCst: whoever reads counted itself before it looked at the word that the caller is in now.
        let Some(kind) = Kind::from_number(meta.kind()) else { return false };
        let counted = entry.bell.sleepers.load(SeqCst);
        if counted != 0 && (deaths == Deaths::Told || self.is_slept_on(index, counted)) {
            return false;
        }
        match kind {
            Kind::RwLock | Kind::RwLockData => {
                let generation = meta.generation();
                self.shut_lines_of(entry, generation, membarrier::heavy).is_ok()
                    && self.all_cells(entry, |cell| self.is_unread(cell, generation))
                    // Whoever was counted until then may have opened a line since they were shut. Now nobody can any more; and one that is open reads on,
                    // whatever becomes of the name.
                    && self.all_cells(entry, |cell| self.is_quiet(cell))
            }
            Kind::Semaphore | Kind::Barrier | Kind::Latch => self.seats_of(entry).is_ok_and(|seats| {
                let told = |word: OwnerWord| word.is_abandoned() && deaths == Deaths::Told;
                seats.iter().map(Seat::look).all(|word| word.is_free() && !told(word))
            }),
            _ => true,
        }
    }

    /// Whether anybody sleeps on the entry, of which so many are `counted`. The count alone does not say so: whoever was killed between counting itself
    /// and its record stays on it for good, and no name should have to stay for that when somebody takes it away in so many words. (Nobody else gives
    /// a name up for another while anybody is counted.) Who lives and is between the two finds by the generation
    /// that its name is gone, as everybody does who had not come as far.
    fn is_slept_on(&self, index: u32, counted: u32) -> bool {
        let is_noted = || {
            self.sleepers().any(|sleeper| match sleeper.target {
                Target::Lock(place) | Target::Bell(place) => place.entry == index,
                Target::Names => false,
            })
        };
        // Where there are no records left, there may be sleepers without.
        counted != 0 && (self.waiting() == self.waiters.len() || is_noted())
    }

    /// Whether a name can be given to another, as far as can be seen without holding its lock.
    fn may_be_given_up(&self, index: u32, meta: Meta, word: OwnerWord) -> bool {
        let entry = &self.entries[index as usize];
        Kind::from_number(meta.kind()).is_some_and(Kind::is_stateless)
            && !word.is_abandoned()
            && !entry.lock.is_slept_on()
            && entry.bell.sleepers.load(Relaxed) == 0
    }

    /// An entry that was never used, or that is not used now, with its lock held.
    fn claim_entry(&self, me: Slot) -> Result<(u32, OwnerWord)> {
        let capacity = self.header.names;
        let globals = self.globals();
        loop {
            let fresh = globals.entries_used.load(Relaxed);
            if fresh >= capacity {
                break;
            }
            if !is_fresh(&self.entries[fresh as usize]) {
                // The number is damaged. The search below finds all that nobody uses.
                globals.entries_used.store(capacity, Release);
                break;
            }
            // First: if we die, the entry is one of those that sweeps look at.
            globals.entries_used.store(fresh + 1, Release);
            let word = self.entries[fresh as usize].lock.look();
            if let Some(held) = self.hold(fresh, me, word) {
                return Ok((fresh, held));
            }
        }
        // Second chance: an entry goes when nobody acquired it since the hand came by the last time. Twice round, so that
        // even if all were used since then one is found.
        let hand = globals.sweep_hand.load(Relaxed);
        for step in 0..capacity * 2 {
            let index = (hand.wrapping_add(step)) % capacity;
            let entry = &self.entries[index as usize];
            let word = entry.lock.look();
            let meta = Meta(entry.meta.load(Relaxed));
            let has_name = meta.is_used() || meta.is_damaged();
            if has_name {
                let unused_since = entry.swept.swap(word.epoch(), Relaxed) == word.epoch();
                if !unused_since || !self.may_be_given_up(index, meta, word) {
                    continue;
                }
            } else if entry.lock.is_slept_on() {
                continue;
            }
            let Some(held) = self.hold(index, me, word) else { continue };
            if has_name && !self.is_unused(index, meta, Deaths::Told) {
                let _ = entry.lock.release(held, |word| futex::wake(word, 1) > 0);
                continue;
            }
            globals.sweep_hand.store((index + 1) % capacity, Relaxed);
            return Ok((index, held));
        }
        Err(Error::Full { path: self.space().into(), what: "locks", capacity })
    }

    /// FREE => HELD for an entry's lock, if it still is exactly as it was `seen`.
    fn hold(&self, index: u32, me: Slot, seen: OwnerWord) -> Option<OwnerWord> {
        let owner = &self.entries.get(index as usize)?.lock.owner;
        // Nobody may have it who is not counted, and who is counted is asked for elsewhere.
        let free = if seen.is_reserved() { seen.unreserve() } else { seen };
        let Step::To(held) = free.acquire(me) else { return None };
        // Acquire (in SeqCst): what the last one wrote into the entry. Pairs with the release of its lock.
        // SeqCst, as are the loads in `is_unused`: whoever got a part of the lock past us sees us here, or we see its part.
        owner.compare_exchange(seen.0, held.0, SeqCst, Relaxed).is_ok().then_some(held)
    }

    /// How many entries have a name.
    pub(crate) fn names_in_use(&self) -> usize {
        self.entries.iter().filter(|entry| Meta(entry.meta.load(Relaxed)).is_used()).count()
    }

    fn index_insert(&self, hash: u64, entry: u32) {
        let dead = &self.globals().index_dead;
        for cell in self.cells(hash) {
            let now = Cell::from_word(self.index[cell].load(Relaxed));
            if matches!(now, Cell::Empty | Cell::Left) {
                if now == Cell::Left {
                    dead.store(dead.load(Relaxed).saturating_sub(1), Relaxed);
                }
                // Release: the entry it leads to. Pairs with the Acquire in `cell`.
                self.index[cell].store(Cell::Entry(entry).word(), Release);
                return;
            }
        }
    }

    /// Takes an entry out of the index, if it has a name.
    fn index_remove(&self, index: u32) {
        let entry = &self.entries[index as usize];
        if !Meta(entry.meta.load(Relaxed)).is_used() {
            return;
        }
        let dead = &self.globals().index_dead;
        for cell in self.cells(entry.hash.load(Relaxed)) {
            match Cell::from_word(self.index[cell].load(Relaxed)) {
                Cell::Empty => break,
                Cell::Entry(found) if found == index => {
                    self.index[cell].store(Cell::Left.word(), Relaxed);
                    let count = dead.load(Relaxed).saturating_add(1);
                    dead.store(count, Relaxed);
                    if count as usize > self.index.len() / 4 {
                        // The entry still has its old name, but must not come back. If it cannot be made anew, searches take longer.
                        let _ = self.rebuild_index(Some(index));
                    }
                    break;
                }
                _ => {}
            }
        }
    }

    /// Makes the index anew from the entries. The caller holds the names' lock. Who searches meanwhile may miss a name, and then
    /// asks for that lock. Not if an entry is damaged: it would be lost, and its name be given another.
    pub(crate) fn rebuild_index(&self, but: Option<u32>) -> Result<()> {
        if let Some((index, _)) = (0u32..).zip(self.entries.iter()).find(|(_, entry)| !is_sound(entry)) {
            return Err(self.damaged_entry(index));
        }
        for cell in self.index.iter() {
            cell.store(0, Relaxed);
        }
        self.globals().index_dead.store(0, Relaxed);
        for (index, entry) in (0u32..).zip(self.entries.iter()) {
            if Some(index) != but && Meta(entry.meta.load(Relaxed)).is_used() {
                self.index_insert(entry.hash.load(Relaxed), index);
            }
        }
        if but.is_none() {
            self.rebuild_units();
        }
        Ok(())
    }
}

/// Whether the entry has no name, or one that fits its hash. The caller holds the names' lock.
fn is_sound(entry: &Entry) -> bool {
    let meta = Meta(entry.meta.load(Relaxed));
    match meta.is_used() {
        true => fnv1a(&load_text(&entry.name, meta.name_len())) == entry.hash.load(Relaxed),
        false => !meta.is_damaged(),
    }
}

/// Whether nobody ever used the entry.
pub(super) fn is_fresh(entry: &Entry) -> bool {
    entry.meta.load(Relaxed) == 0 && entry.lock.owner.load(Relaxed) == 0
}

/// What the entry says, if it has this name.
fn matching(entry: &Entry, index: u32, hash: u64, name: &str) -> Option<Known> {
    // Acquire: pairs with the Release store of the meta word in `register`.
    let meta = Meta(entry.meta.load(Acquire));
    if !meta.is_used() || entry.hash.load(Relaxed) != hash || load_text(&entry.name, meta.name_len()) != name.as_bytes()
    {
        return None;
    }
    // Acquire: if a byte above is a newer name's, the word below is no longer the one above.
    fence(Acquire);
    (entry.meta.load(Relaxed) == meta.0)
        .then(|| Known { place: Place { entry: index, generation: meta.generation() }, kind: meta.kind() })
}
