//! A mutex in a [`Machine`]: a lock, and what it guards.
//!
//! What the lock guards is the token of the last holder, in a cell that loom watches: an access that is not ordered after the
//! one before is reported, whether or not it went wrong.

use core::ops::Deref;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, SeqCst};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use loom::thread::{self, JoinHandle};

use super::super::mutex::{Acquired, FENCED, Failure, LockWords, WOKEN};
use super::super::slot::Slot;
use super::super::word::OwnerWord;
use super::super::{Host, recovery};
pub(super) use super::machine::{CLAIMED, Expired};
use super::machine::{Futex, Machine, Thread, slot};
use crate::sync::AtomicU64;

/// The thread that starts the others.
pub(super) const STARTER: usize = 3;
/// Of whom there is no thread: it died.
pub(super) const DEAD_BEFORE: usize = 4;

/// The functions under test: by default the real ones. `seeded.rs` puts wrong ones in their place.
pub(super) trait Algorithm: Copy + Send + Sync + 'static {
    fn acquire(self, lock: &LockWords, host: &Thread, me: Slot) -> Outcome {
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
        // Every other process is registered for heavy fences.
        match mine.is_leased() || mine.slot_code() / 2 % 2 == 0 {
            true => lock.release(mine, wake),
            false => lock.release_lightly(mine, wake),
        }
    }

    fn release_fair(
        self,
        lock: &LockWords,
        mine: OwnerWord,
        wake: &dyn Fn(&AtomicU64) -> bool,
    ) -> Result<OwnerWord, OwnerWord> {
        lock.release_fair(mine, wake)
    }

    fn give_back(self, lock: &LockWords, dead: Slot, wake: &dyn Fn(&AtomicU64) -> bool) -> Option<OwnerWord> {
        recovery::give_back(lock, dead, |_| true, wake)
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

pub(super) struct World {
    machine: Rc<Machine>,
    pub(super) lock: LockWords,
    last_token: loom::cell::Cell<u64>,
    /// Tokens of owners that were said to have died. Not watched: only looked at when all is over.
    told: RefCell<Vec<u64>>,
    /// How many took the lock out of a dead hand. Not watched either.
    taken_over: Cell<usize>,
    /// The last acquisition whose owner died holding it. Whoever comes after it, and nobody else, is told. Not watched.
    died_holding: Cell<Option<u64>>,
}

/// One thread in a [`World`], and the world it is in.
pub(super) struct Participant {
    world: Rc<World>,
    thread: Thread,
}

impl Deref for Participant {
    type Target = Thread;

    fn deref(&self) -> &Thread {
        &self.thread
    }
}

impl World {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            machine: Machine::new(),
            lock: LockWords::new(),
            last_token: loom::cell::Cell::new(0),
            told: RefCell::default(),
            taken_over: Cell::new(0),
            died_holding: Cell::new(None),
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
        world.machine.without_timer();
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
        Participant { world: self.clone(), thread: self.machine.thread(number) }
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
            participant.mortal(fuse, || body(&participant), || participant.leave_behind());
        })
    }

    pub(super) fn expire(&self, bed: usize) {
        self.machine.expire(bed);
    }

    fn wake(&self) -> bool {
        self.machine.wake(Futex::Lock)
    }

    /// When all threads ended: nobody is asleep or counted, and everybody who held the lock let it go.
    pub(super) fn assert_at_rest(&self) {
        let word = self.lock.look();
        assert!(word.is_free() && !word.is_abandoned(), "{word:?} at the end");
        let sleepers = self.lock.sleepers.load(Acquire) & !FENCED;
        assert!(
            sleepers == 0 || sleepers & !WOKEN <= self.machine.strays() && self.machine.strays() != 0,
            "sleepers counted at the end: {sleepers:#x}, strays: {}",
            self.machine.strays()
        );
        self.machine.assert_at_rest();
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
    fn as_thread(&self, thread: Thread) -> Self {
        Self { world: self.world.clone(), thread }
    }

    /// As another thread of the process in `slot`.
    pub(super) fn of_process(&self, slot: usize) -> Self {
        self.as_thread(self.thread.of_process(slot))
    }

    pub(super) fn spinning(&self, spins: u32) -> Self {
        self.as_thread(self.thread.spinning(spins))
    }

    /// As one that has waited for long as soon as it has to.
    pub(super) fn hungry(&self) -> Self {
        self.as_thread(self.thread.hungry())
    }

    pub(super) fn with_deadline(&self) -> Self {
        self.as_thread(self.thread.with_deadline())
    }

    /// As the next one in `slot`, in which somebody died.
    pub(super) fn reborn_in(&self, slot: usize) -> Self {
        self.as_thread(self.thread.reborn_in(slot))
    }

    pub(super) fn try_to_acquire(&self, algorithm: impl Algorithm) -> Option<OwnerWord> {
        let outcome = algorithm.acquire(&self.world.lock, &self.thread, slot(self.slot));
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

    /// The same, and who waits is first.
    pub(super) fn release_fair(&self, algorithm: impl Algorithm, mine: OwnerWord) {
        let released = algorithm.release_fair(&self.world.lock, mine, &|_| self.world.wake());
        assert!(released.is_ok(), "taken from the living: {released:?} instead of {mine:?}");
    }

    /// Acquires, holds and releases.
    pub(super) fn take_turn(&self, algorithm: impl Algorithm) {
        let mine = self.acquire(algorithm);
        self.hold(mine);
        self.release(algorithm, mine);
    }

    /// What it holds stays as it is.
    fn leave_behind(&self) {
        let word = self.world.lock.look();
        if word.slot_code() == slot(self.slot).code() {
            // It may have died before it got to writing its token.
            self.world.last_token.set(word.epoch());
            self.world.died_holding.set(Some(word.epoch()));
        }
    }

    /// What it holds stays as it is, and from now on it can be told to be dead.
    pub(super) fn die(&self) {
        self.leave_behind();
        self.thread.die();
    }

    /// Cleans up after the first one in slot number `dead`, if it died; whether it did.
    pub(super) fn clean_up(&self, algorithm: impl Algorithm, dead: usize) -> bool {
        let is_dead = self.is_dead(dead);
        if is_dead {
            self.give_back(algorithm, dead);
            // From here until the count is one less.
            self.unrecorded.set(true);
            let (record, who) = (self.machine.record(dead), self.world.participant(dead).who());
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
