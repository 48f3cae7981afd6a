//! One machine, small enough to be explored: a lock, its futex, who lives, and what the lock guards.
//!
//! * The futex is one mutex over a queue and a condition variable per sleeper: waiting compares the low half of the word and
//!   enqueues under the mutex, waking takes the first off the queue. There is no time: a sleeper nobody wakes is a deadlock, and
//!   loom reports it.
//! * What time does in the world, a step does here. A deadline passes by [`World::expire`]. A death ends every sleep once
//!   ([`World::die`]), also one about to begin, for in the world every sleep is bounded.
//! * Whoever has a fuse ([`World::spawn_mortal`]) dies before any one access or system call. The kernel takes the dead out of the queue
//!   before they look dead; here nobody is in the queue who dies, since killed in its sleep is, for all others, killed just before it,
//!   and killed after the wake is a point of its own.
//! * Each sleeper has a record, in the order of `segment::waiters`: count, claim, fill in; clear by compare-and-swap, uncount. Whoever
//!   cleans up after the dead does the second half for them. No byte keeps recoverers apart here: any two may clean up side by side.
//! * What the lock guards is the token of the last holder, in a cell that loom watches: an access that is not ordered after the
//!   one before is reported, whether or not it went wrong.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use loom::sync::atomic::fence;
use loom::sync::{Condvar, Mutex};
use loom::thread::{self, JoinHandle};

use super::super::mutex::{Acquired, Failure, LockWords, WOKEN};
use super::super::word::{OwnerWord, Slot};
use super::super::{Host, Verdict, recovery};
use crate::sync::{AtomicU32, AtomicU64, as_one_step, with_fuse};

/// Who can take part: the three threads of a model, the thread that starts them, and one who was there before.
const PARTICIPANTS: usize = 5;
/// The thread that starts the others.
pub(super) const STARTER: usize = 3;
/// Of whom there is no thread: it died.
pub(super) const DEAD_BEFORE: usize = 4;

/// In a record: taken, but not filled in. As in `segment::waiters`.
pub(super) const CLAIMED: u64 = 1;

const ALIVE: u32 = 0;
const DEAD: u32 = 1;
const UNREGISTERED: u32 = 2;

/// The functions under test: by default the real ones. `seeded.rs` puts wrong ones in their place.
pub(super) trait Algorithm: Copy + Send + Sync + 'static {
    fn acquire(self, lock: &LockWords, host: &Participant, me: Slot) -> Outcome {
        let seen = lock.look();
        match lock.try_acquire(me, host.thread(), seen) {
            Ok(word) => Ok(Acquired { word, obituary: None }),
            Err(seen) => lock.acquire_contended(host, me, seen),
        }
    }

    fn release(
        self,
        lock: &LockWords,
        mine: OwnerWord,
        wake: &dyn Fn(&AtomicU64) -> bool,
    ) -> Result<OwnerWord, OwnerWord> {
        lock.release(mine, wake)
    }

    fn give_back(self, lock: &LockWords, dead: Slot, wake: &dyn Fn(&AtomicU64) -> bool) -> Option<OwnerWord> {
        recovery::give_back(lock, dead, |_| (), wake)
    }

    /// Takes the dead sleeper `who` off the count, if `record` says that it is on it.
    fn clear_record(self, lock: &LockWords, record: &AtomicU64, who: u64, wake: &dyn Fn(&AtomicU64) -> bool) {
        match record.load(Acquire) {
            seen if seen == who && record.compare_exchange(who, 0, AcqRel, Relaxed).is_ok() => lock.uncount(wake),
            seen if seen == who | CLAIMED => {
                // It is on a count, but in the segment nobody knows on which: a stray one is left.
                let _ = record.compare_exchange(seen, 0, AcqRel, Relaxed);
            }
            _ => {}
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Real;

impl Algorithm for Real {}

pub(super) type Outcome = Result<Acquired<Slot>, Failure<Expired>>;

/// The deadline passed.
#[derive(Debug)]
pub(super) struct Expired;

pub(super) struct World {
    pub(super) lock: LockWords,
    beds: Mutex<Beds>,
    calls: [Condvar; PARTICIPANTS],
    lives: [AtomicU32; PARTICIPANTS],
    records: [AtomicU64; PARTICIPANTS],
    last_token: loom::cell::Cell<u64>,
    /// Tokens of owners that were said to have died. Not watched: only looked at when all is over.
    told: RefCell<Vec<u64>>,
    /// How many took the lock out of a dead hand. Not watched either.
    taken_over: Cell<usize>,
    /// The last acquisition whose owner died holding it. Whoever comes after it, and nobody else, is told. Not watched.
    died_holding: Cell<Option<u64>>,
    /// How many died who may have left a stray one on the count. Not watched.
    strays: Cell<u32>,
    /// Whether sleeps are bounded: whether a death ends them.
    bounded: Cell<bool>,
}

#[derive(Default)]
struct Beds {
    queue: Vec<usize>,
    expired: [bool; PARTICIPANTS],
    deaths: u32,
}

/// One thread in a [`World`], and the world it is in.
pub(super) struct Participant {
    world: Rc<World>,
    bed: usize,
    slot: usize,
    thread: u32,
    /// How often it spins.
    spins: u32,
    /// Whether its wait has a deadline, and so may end without the lock.
    patient: bool,
    deaths_known: Cell<u32>,
    /// How many were in the slot before.
    incarnation: u64,
    /// Between the count and the record: whoever is killed here may leave a stray one on the count.
    unrecorded: Rc<Cell<bool>>,
    enlisted: Cell<bool>,
}

pub(super) fn slot(index: usize) -> Slot {
    Slot::new(index as u32).unwrap()
}

impl World {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            lock: LockWords::new(),
            beds: Mutex::default(),
            calls: Default::default(),
            lives: core::array::from_fn(|_| AtomicU32::new(ALIVE)),
            last_token: loom::cell::Cell::new(0),
            told: RefCell::default(),
            taken_over: Cell::new(0),
            records: core::array::from_fn(|_| AtomicU64::new(0)),
            died_holding: Cell::new(None),
            strays: Cell::new(0),
            bounded: Cell::new(true),
        })
    }

    /// A world in which somebody died holding the lock.
    pub(super) fn with_dead_owner() -> Rc<Self> {
        let world = Self::new();
        let dead = world.participant(DEAD_BEFORE);
        dead.hold(dead.acquire(Real));
        dead.die();
        world
    }

    /// A world without any timer: nobody wakes up by itself, whoever dies.
    pub(super) fn without_timer() -> Rc<Self> {
        let world = Self::new();
        world.bounded.set(false);
        world
    }

    /// Lets [`DEAD_BEFORE`] have died in its sleep: it is on the count, and its record says so.
    pub(super) fn add_dead_sleeper(self: &Rc<Self>) {
        let dead = self.participant(DEAD_BEFORE);
        self.lock.sleepers.fetch_add(1, SeqCst);
        dead.enlist();
        dead.die();
    }

    /// The participant in bed and slot number `number`.
    pub(super) fn participant(self: &Rc<Self>, number: usize) -> Participant {
        Participant {
            world: self.clone(),
            bed: number,
            slot: number,
            thread: 0,
            spins: 0,
            patient: true,
            deaths_known: Cell::new(0),
            incarnation: 0,
            unrecorded: Rc::default(),
            enlisted: Cell::new(false),
        }
    }

    /// Runs `body` as a thread, as participant number `number`.
    pub(super) fn spawn(self: &Rc<Self>, number: usize, body: impl FnOnce(&Participant) + 'static) -> JoinHandle<()> {
        let participant = self.participant(number);
        thread::spawn(move || body(&participant))
    }

    /// The same, but the thread dies before its step number `fuse`, if it gets that far.
    pub(super) fn spawn_mortal(
        self: &Rc<Self>,
        number: usize,
        fuse: usize,
        body: impl FnOnce(&Participant) + 'static,
    ) -> JoinHandle<()> {
        let participant = self.participant(number);
        thread::spawn(move || {
            if !with_fuse(fuse, || body(&participant)) {
                participant.die();
            }
        })
    }

    /// Lets the deadline of `bed` pass.
    pub(super) fn expire(&self, bed: usize) {
        let mut beds = self.beds.lock().unwrap();
        beds.expired[bed] = true;
        if beds.queue.contains(&bed) {
            beds.queue.retain(|sleeper| *sleeper != bed);
            self.calls[bed].notify_one();
        }
    }

    fn wake(&self) -> bool {
        as_one_step(|| {
            let mut beds = self.beds.lock().unwrap();
            let asleep = !beds.queue.is_empty();
            if asleep {
                let first = beds.queue.remove(0);
                self.calls[first].notify_one();
            }
            asleep
        })
    }

    /// When all threads ended: nobody is asleep or counted, and everybody who held the lock let it go.
    pub(super) fn assert_at_rest(&self) {
        let word = self.lock.look();
        assert!(word.is_free() && !word.is_abandoned(), "{word:?} at the end");
        let sleepers = self.lock.sleepers.load(Acquire);
        assert!(
            sleepers == 0 || sleepers & !WOKEN <= self.strays.get() && self.strays.get() != 0,
            "sleepers counted at the end: {sleepers:#x}, strays: {}",
            self.strays.get()
        );
        for record in &self.records {
            assert_eq!(record.load(Acquire), 0, "a sleeper is recorded at the end");
        }
        assert_eq!(
            word.epoch(),
            self.last_token.get(),
            "every acquisition has a token, and every token an acquisition"
        );
    }

    /// The tokens of the dead that anybody was told of.
    pub(super) fn told(&self) -> Vec<u64> {
        self.told.borrow().clone()
    }

    pub(super) fn taken_over(&self) -> usize {
        self.taken_over.get()
    }
}

pub(super) fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

impl Participant {
    /// As another thread of the process in `slot`.
    pub(super) fn of_process(&self, slot: usize) -> Self {
        Self { slot, thread: self.bed as u32 + 1, ..self.same() }
    }

    pub(super) fn spinning(&self, spins: u32) -> Self {
        Self { spins, ..self.same() }
    }

    pub(super) fn with_deadline(&self) -> Self {
        Self { patient: false, ..self.same() }
    }

    fn same(&self) -> Self {
        let unrecorded = self.unrecorded.clone();
        Self { slot: self.slot, incarnation: self.incarnation, unrecorded, ..self.world.participant(self.bed) }
    }

    /// As the next one in `slot`, in which somebody died.
    pub(super) fn reborn_in(&self, slot: usize) -> Self {
        let reborn = Self { slot, incarnation: self.incarnation + 1, ..self.same() };
        reborn.move_in();
        reborn
    }

    /// What this participant's record says when it sleeps.
    fn who(&self) -> u64 {
        self.incarnation << 32 | (self.slot as u64 + 1) << 16
    }

    pub(super) fn try_to_acquire(&self, algorithm: impl Algorithm) -> Option<OwnerWord> {
        let outcome = algorithm.acquire(&self.world.lock, self, slot(self.slot));
        self.unrecorded.set(false);
        match outcome {
            Ok(Acquired { word, obituary }) => {
                if let Some(dead) = obituary {
                    assert!(word.is_abandoned() && dead != slot(self.slot), "{word:?} was taken over from {dead:?}");
                    self.world.taken_over.set(self.world.taken_over.get() + 1);
                }
                if word.is_abandoned() {
                    self.world.told.borrow_mut().push(word.epoch() - 1);
                }
                Some(word)
            }
            Err(Failure::Refused(Expired)) => None,
            Err(Failure::Damaged(word)) => panic!("{word:?} was taken for damage"),
            Err(failure) => panic!("failed to acquire: {failure:?}"),
        }
    }

    pub(super) fn acquire(&self, algorithm: impl Algorithm) -> OwnerWord {
        self.try_to_acquire(algorithm).expect("gave up without a deadline")
    }

    /// What is done while the lock is held.
    pub(super) fn hold(&self, mine: OwnerWord) {
        let world = &self.world;
        assert_eq!(mine.slot_code(), slot(self.slot).code());
        let last = world.last_token.get();
        assert_eq!(mine.epoch(), last + 1, "the token after {last}");
        let untold = world.died_holding.get() == Some(last);
        assert_eq!(mine.is_abandoned(), untold, "told of the death of the owner before {mine:?}");
        // Here somebody else may come in, if anything lets it.
        assert_eq!(world.lock.look(), mine, "taken from the living");
        world.last_token.set(mine.epoch());
    }

    pub(super) fn release(&self, algorithm: impl Algorithm, mine: OwnerWord) {
        let released = algorithm.release(&self.world.lock, mine, &|_| self.world.wake());
        assert!(released.is_ok(), "taken from the living: {released:?} instead of {mine:?}");
    }

    /// Acquires, holds and releases.
    pub(super) fn take_turn(&self, algorithm: impl Algorithm) {
        let mine = self.acquire(algorithm);
        self.hold(mine);
        self.release(algorithm, mine);
    }

    /// The slot, which was given back, is given up, and this participant moves in.
    pub(super) fn move_in(&self) {
        let life = &self.world.lives[self.slot];
        life.store(UNREGISTERED, Release);
        life.store(ALIVE, Release);
        // Acquiring is no `Release`. Without this fence somebody who sees our slot in a word may still find it dead. Pairs with
        // the one in `judge`.
        fence(Release);
    }

    /// What it holds stays as it is, and from now on it can be told to be dead.
    pub(super) fn die(&self) {
        let word = self.world.lock.look();
        if word.slot_code() == slot(self.slot).code() {
            // It may have died before it got to writing its token.
            self.world.last_token.set(word.epoch());
            self.world.died_holding.set(Some(word.epoch()));
        }
        if self.unrecorded.get() {
            self.world.strays.set(self.world.strays.get() + 1);
        }
        self.world.lives[self.slot].store(DEAD, Release);
        if !self.world.bounded.get() {
            return;
        }
        let mut beds = self.world.beds.lock().unwrap();
        beds.deaths += 1;
        for sleeper in beds.queue.drain(..) {
            self.world.calls[sleeper].notify_one();
        }
    }

    /// Cleans up after the first one in slot number `dead`, if it died; whether it did.
    pub(super) fn clean_up(&self, algorithm: impl Algorithm, dead: usize) -> bool {
        let is_dead = matches!(self.judge(slot(dead)), Verdict::Dead(_));
        if is_dead {
            self.give_back(algorithm, dead);
            // From here until the count is one less.
            self.unrecorded.set(true);
            let (record, who) = (&self.world.records[dead], self.world.participant(dead).who());
            algorithm.clear_record(&self.world.lock, record, who, &|_| self.world.wake());
            self.unrecorded.set(false);
        }
        is_dead
    }

    /// Frees the lock if the dead one in slot number `dead` stands in it; whether it did.
    pub(super) fn give_back(&self, algorithm: impl Algorithm, dead: usize) -> bool {
        algorithm.give_back(&self.world.lock, slot(dead), &|_| self.world.wake()).is_some()
    }
}

impl Host for Participant {
    type Obituary = Slot;
    type Refusal = Expired;

    fn judge(&self, slot: Slot) -> Verdict<Slot> {
        // The word that names the slot may have been read without `Acquire`: pairs with the one in `move_in`.
        fence(Acquire);
        match self.world.lives[slot.index() as usize].load(Acquire) {
            ALIVE => Verdict::Alive,
            DEAD => Verdict::Dead(slot),
            _ => Verdict::Unregistered,
        }
    }

    fn thread(&self) -> u32 {
        self.thread
    }

    fn spin(&self, step: u32) -> bool {
        step < self.spins
    }

    fn may_sleep(&self, _: OwnerWord) -> Result<(), Expired> {
        if !self.patient && as_one_step(|| self.world.beds.lock().unwrap().expired[self.bed]) {
            return Err(Expired);
        }
        self.unrecorded.set(!self.enlisted.get());
        Ok(())
    }

    fn enlist(&self) {
        let (record, who) = (&self.world.records[self.bed], self.who());
        // Acquire, as in `segment::waiters`, and Release below.
        let claimed = record.compare_exchange(0, who | CLAIMED, Acquire, Relaxed);
        assert!(claimed.is_ok(), "the record of {} is taken: {claimed:?}", self.bed);
        record.store(who, Release);
        self.enlisted.set(true);
        self.unrecorded.set(false);
    }

    fn delist(&self) -> bool {
        let cleared = self.world.records[self.bed].compare_exchange(self.who(), 0, AcqRel, Relaxed).is_ok();
        self.enlisted.set(false);
        self.unrecorded.set(cleared);
        cleared
    }

    fn sleep(&self, owner: &AtomicU64, seen: OwnerWord) {
        as_one_step(|| {
            let mut beds = self.world.beds.lock().unwrap();
            if beds.deaths != self.deaths_known.replace(beds.deaths)
                || beds.expired[self.bed]
                || OwnerWord(owner.load(Acquire)).low_half() != seen.low_half()
            {
                return;
            }
            beds.queue.push(self.bed);
            while beds.queue.contains(&self.bed) {
                beds = self.world.calls[self.bed].wait(beds).unwrap();
            }
        });
    }

    fn wake(&self, _: &AtomicU64) -> bool {
        self.world.wake()
    }
}
