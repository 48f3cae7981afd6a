//! One machine, small enough to be explored: a lock, its futex, who lives, and what the lock guards.
//!
//! * The futex is one mutex over a queue and a condition variable per sleeper: waiting compares the low half of the word and
//!   enqueues under the mutex, waking takes the first off the queue. There is no time: a sleeper nobody wakes is a deadlock, and
//!   loom reports it.
//! * What time does in the world, a step does here. A deadline passes by [`World::expire`]. A death ends every sleep once
//!   ([`World::die`]), also one about to begin, for in the world every sleep is bounded.
//! * What the lock guards is the token of the last holder, in a cell that loom watches: an access that is not ordered after the
//!   one before is reported, whether or not it went wrong.

use core::sync::atomic::Ordering::{Acquire, Release};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use loom::sync::atomic::fence;
use loom::sync::{Condvar, Mutex};
use loom::thread::{self, JoinHandle};

use super::super::mutex::{Acquired, Failure, LockWords};
use super::super::word::{OwnerWord, Slot};
use super::super::{Host, Verdict, recovery};
use crate::sync::{AtomicU32, AtomicU64};

/// Who can take part: the three threads of a model, the thread that starts them, and one who was there before.
const PARTICIPANTS: usize = 5;
/// The thread that starts the others.
pub(super) const STARTER: usize = 3;
/// Of whom there is no thread: it died.
pub(super) const DEAD_BEFORE: usize = 4;

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
    last_token: loom::cell::Cell<u64>,
    /// Tokens of owners that were said to have died. Not watched: only looked at when all is over.
    told: RefCell<Vec<u64>>,
    /// How many took the lock out of a dead hand. Not watched either.
    taken_over: Cell<usize>,
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
        }
    }

    /// Runs `body` as a thread, as participant number `number`.
    pub(super) fn spawn(self: &Rc<Self>, number: usize, body: impl FnOnce(&Participant) + 'static) -> JoinHandle<()> {
        let participant = self.participant(number);
        thread::spawn(move || body(&participant))
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
        let mut beds = self.beds.lock().unwrap();
        let asleep = !beds.queue.is_empty();
        if asleep {
            let first = beds.queue.remove(0);
            self.calls[first].notify_one();
        }
        asleep
    }

    /// When all threads ended: nobody is asleep or counted, and everybody who held the lock let it go.
    pub(super) fn assert_at_rest(&self) {
        let word = self.lock.look();
        assert!(word.is_free() && !word.is_abandoned(), "{word:?} at the end");
        assert_eq!(self.lock.sleepers.load(Acquire), 0, "sleepers counted at the end");
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
        Self { world: self.world.clone(), slot, thread: self.bed as u32 + 1, deaths_known: Cell::new(0), ..*self }
    }

    pub(super) fn spinning(&self, spins: u32) -> Self {
        Self { world: self.world.clone(), spins, deaths_known: Cell::new(0), ..*self }
    }

    pub(super) fn with_deadline(&self) -> Self {
        Self { world: self.world.clone(), patient: false, deaths_known: Cell::new(0), ..*self }
    }

    pub(super) fn try_to_acquire(&self, algorithm: impl Algorithm) -> Option<OwnerWord> {
        match algorithm.acquire(&self.world.lock, self, slot(self.slot)) {
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
        self.world.lives[self.slot].store(DEAD, Release);
        let mut beds = self.world.beds.lock().unwrap();
        beds.deaths += 1;
        for sleeper in beds.queue.drain(..) {
            self.world.calls[sleeper].notify_one();
        }
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
        match !self.patient && self.world.beds.lock().unwrap().expired[self.bed] {
            true => Err(Expired),
            false => Ok(()),
        }
    }

    fn enlist(&self) {}

    fn delist(&self) -> bool {
        true
    }

    fn sleep(&self, owner: &AtomicU64, seen: OwnerWord) {
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
    }

    fn wake(&self, _: &AtomicU64) -> bool {
        self.world.wake()
    }
}
