//! Models of [`deadlock`](super::super::deadlock): who looks for a cycle while locks and waits change.
//!
//! Two locks, each an owner word; two threads, each with the record of its wait. They do not sleep: what a look finds is what is tried here.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use loom::thread;

use super::super::deadlock::{Graph, Needs, Party, find};
use super::super::slot::Slot;
use super::super::word::{Owner, OwnerWord, Step};
use super::machine::slot;
use super::{Mode, explore, is_caught};
use crate::sync::{AtomicU64, total_order};

/// In one process, so that there is one slot: the thread is what differs.
struct World {
    locks: [AtomicU64; 2],
    /// Which thread has each: as the word beside an owner word, with the epoch it belongs to.
    threads: [AtomicU64; 2],
    /// How many waits there were (from bit 8), the lock (bits 1 to 7), one (bit 0); 0: none.
    records: [AtomicU64; 2],
    waits: Cell<u64>,
    /// The word of the lock that each waits for, as it last saw it.
    seen: [AtomicU64; 2],
    bug: Bug,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// Looks find what the first reading found.
    ReadsOnce,
    /// Whoever has got what it waited for waits, for as long as its record says so.
    WhoGotItWaits,
}

fn process() -> Slot {
    slot(0)
}

impl World {
    fn new(bug: Bug) -> Rc<Self> {
        Rc::new(Self {
            locks: core::array::from_fn(|_| AtomicU64::new(0)),
            threads: core::array::from_fn(|_| AtomicU64::new(0)),
            records: core::array::from_fn(|_| AtomicU64::new(0)),
            waits: Cell::new(0),
            seen: core::array::from_fn(|_| AtomicU64::new(0)),
            bug,
        })
    }

    fn try_acquire(&self, lock: usize, thread: u64) -> Option<OwnerWord> {
        self.try_acquire_as(lock, thread)
    }

    /// 0: for no thread, as with a guard that can be sent.
    fn try_acquire_as(&self, lock: usize, thread: u64) -> Option<OwnerWord> {
        let seen = OwnerWord(self.locks[lock].load(Acquire));
        let Step::To(held) = seen.acquire(process()) else { return None };
        self.locks[lock].compare_exchange(seen.0, held.0, SeqCst, Relaxed).ok()?;
        self.threads[lock].store(thread << 32 | held.epoch(), Relaxed);
        Some(held)
    }

    fn release(&self, lock: usize, held: OwnerWord) {
        self.locks[lock].compare_exchange(held.0, held.release().0, SeqCst, Relaxed).expect("its own");
    }

    /// Is recorded as waiting for `lock`; whether it is the victim of a cycle.
    fn wait_for(&self, lock: usize, thread: u64) -> bool {
        let record = self.record(lock, thread);
        let looks = Looks { world: self, known: RefCell::default() };
        find(&looks, (record, thread)).is_some()
    }

    fn record(&self, lock: usize, thread: u64) -> u64 {
        self.waits.set(self.waits.get() + 1);
        // One's clock is ahead, as in another time namespace: its waits look younger than they are.
        let ahead = if thread == 1 { 1000 } else { 0 };
        let record = (self.waits.get() + ahead) << 8 | (lock as u64) << 1 | 1;
        self.seen[thread as usize - 1].store(self.locks[lock].load(Acquire), Relaxed);
        self.records[thread as usize - 1].store(record, Release);
        total_order();
        record
    }

    fn wait_no_more(&self, thread: u64) {
        self.records[thread as usize - 1].store(0, Release);
    }
}

struct Looks<'a> {
    world: &'a World,
    /// What was read of each word before, for who reads once.
    known: RefCell<Vec<(*const AtomicU64, u64)>>,
}

impl Looks<'_> {
    fn load(&self, word: &AtomicU64) -> u64 {
        if self.world.bug != Bug::ReadsOnce {
            return word.load(Acquire);
        }
        let mut known = self.known.borrow_mut();
        if let Some((_, value)) = known.iter().find(|(known, _)| std::ptr::eq(*known, word)) {
            return *value;
        }
        let value = word.load(Acquire);
        known.push((word, value));
        value
    }
}

impl Graph for Looks<'_> {
    type Wait = (u64, u64);

    fn begin(&self) {}

    fn waits_of(&self, party: Party, mut each: impl FnMut((u64, u64))) -> bool {
        let threads = if party.thread == 0 { 1..=2 } else { party.thread..=party.thread };
        let mut all = true;
        for thread in threads {
            match self.load(&self.world.records[thread as usize - 1]) {
                0 => all = false,
                record => each((record, thread.into())),
            }
        }
        all || party.thread != 0
    }

    fn obstacles(&self, (record, thread): (u64, u64), mut each: impl FnMut(Party, u64)) -> Needs {
        let lock = (record >> 1) as usize & 127;
        if self.load(&self.world.records[thread as usize - 1]) != record {
            return Needs::Nothing;
        }
        let word = OwnerWord(self.load(&self.world.locks[lock]));
        let owner = self.load(&self.world.threads[lock]);
        let got_it = word.0 != self.load(&self.world.seen[thread as usize - 1]);
        if word.owner() != Owner::Held(process()) || got_it && self.world.bug != Bug::WhoGotItWaits {
            return Needs::Nothing;
        }
        let thread = if owner as u32 == word.epoch() as u32 { (owner >> 32) as u32 } else { 0 };
        each(Party { slot: process(), incarnation: 0, thread }, word.0);
        Needs::All
    }

    fn is_alive(&self, _: (u64, u64)) -> bool {
        true
    }
}

/// Both hold one and want the other's. At most one is told, and if none was, one is when all is still.
fn both_want_what_the_other_has(bug: Bug) {
    let world = World::new(bug);
    let told = Rc::new(Cell::new(0));
    let threads: Vec<_> = [1, 2]
        .map(|me: u64| {
            let (world, told) = (world.clone(), told.clone());
            thread::spawn(move || {
                world.try_acquire(me as usize - 1, me).expect("nobody else wants it before");
                if world.wait_for(2 - me as usize, me) {
                    told.set(told.get() + 1);
                }
            })
        })
        .into();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(told.get() <= 1, "two victims");
    if told.get() == 0 {
        // They slept, and looked again.
        for (lock, seen) in [(1, &world.seen[0]), (0, &world.seen[1])] {
            seen.store(world.locks[lock].load(Acquire), Relaxed);
        }
        let looks = Looks { world: &world, known: RefCell::default() };
        let records = world.records.each_ref().map(|record| record.load(Acquire));
        let victims = [1, 2].iter().filter(|me| find(&looks, (records[**me as usize - 1], **me)).is_some()).count();
        assert_eq!(victims, 1, "nobody is told");
    }
}

/// One takes both locks in their order, the other lets go of the second before it wants the first: nobody ever waits in a cycle.
fn nobody_waits_in_a_cycle(bug: Bug) {
    let world = World::new(bug);
    let one = thread::spawn({
        let world = world.clone();
        move || {
            let Some(first) = world.try_acquire(0, 1) else { return };
            match world.try_acquire(1, 1) {
                Some(second) => world.release(1, second),
                None => assert!(!world.wait_for(1, 1), "a false alarm"),
            }
            world.wait_no_more(1);
            world.release(0, first);
        }
    });
    let other = thread::spawn({
        let world = world.clone();
        move || {
            if let Some(second) = world.try_acquire(1, 2) {
                world.release(1, second);
            }
            match world.try_acquire(0, 2) {
                Some(first) => world.release(0, first),
                None => assert!(!world.wait_for(0, 2), "a false alarm"),
            }
            world.wait_no_more(2);
            // And once more, so that what was read before may be so again.
            if let Some(second) = world.try_acquire(1, 2) {
                world.release(1, second);
            }
        }
    });
    one.join().unwrap();
    other.join().unwrap();
}

/// One waits for the second lock while it has the first, and gets it, for no thread in particular; the other wants the first one. Both are all the threads there are.
fn whoever_got_it_does_not_wait(bug: Bug) {
    let world = World::new(bug);
    let first = world.try_acquire(0, 2).expect("it is free");
    let second = world.try_acquire(1, 1).expect("it is free");
    let one = thread::spawn({
        let world = world.clone();
        move || {
            world.record(1, 2);
            // What is looked at may be as here for long: the thread is stopped.
            if let Some(second) = world.try_acquire_as(1, 0) {
                world.wait_no_more(2);
                world.release(1, second);
            }
            world.wait_no_more(2);
            world.release(0, first);
        }
    });
    // Its wait is the younger one, by its clock.
    let other = thread::spawn({
        let world = world.clone();
        move || {
            world.release(1, second);
            match world.try_acquire(0, 1) {
                Some(first) => world.release(0, first),
                None => assert!(!world.wait_for(0, 1), "a false alarm"),
            }
            world.wait_no_more(1);
        }
    });
    one.join().unwrap();
    other.join().unwrap();
}

#[test]
fn of_a_cycle_one_is_told() {
    for mode in [Mode::Rmw, Mode::Plain] {
        explore("both want what the other has", mode, 3, || both_want_what_the_other_has(Bug::None));
    }
}

#[test]
fn nobody_is_told_of_a_cycle_that_is_none() {
    explore("nobody waits in a cycle", Mode::Rmw, 5, || nobody_waits_in_a_cycle(Bug::None));
    explore("nobody waits in a cycle", Mode::Plain, 4, || nobody_waits_in_a_cycle(Bug::None));
    for mode in [Mode::Rmw, Mode::Plain] {
        explore("whoever got it does not wait", mode, 4, || whoever_got_it_does_not_wait(Bug::None));
    }
}

const SEEDED: &str = "HOSTLOCK_SEEDED_DEADLOCK";

#[test]
fn one_bug() {
    match std::env::var(SEEDED).as_deref() {
        Ok("ReadsOnce") => {
            explore("seeded, nobody waits in a cycle", Mode::Rmw, 5, || nobody_waits_in_a_cycle(Bug::ReadsOnce))
        }
        Ok("WhoGotItWaits") => {
            explore("seeded, whoever got it does not wait", Mode::Rmw, 4, || {
                whoever_got_it_does_not_wait(Bug::WhoGotItWaits)
            });
        }
        _ => {}
    }
}

/// What is read once was not so at one moment; and a record outlives its wait.
#[test]
fn every_bug_is_caught() {
    for bug in [Bug::ReadsOnce, Bug::WhoGotItWaits] {
        is_caught(&format!("{bug:?}"), Mode::Rmw, SEEDED, module_path!(), &["a false alarm"]);
    }
}
