//! Models of [`lease`](super::super::lease): renewing races the end, and the one that takes over.
//!
//! Time passes in one step ([`Machine::pass_time`]); whoever sleeps looks then.

use std::cell::Cell;
use std::rc::Rc;

use loom::thread;

use super::super::lease;
use super::super::mutex::{Acquired, LockWords};
use super::super::slot::Slot;
use super::super::word::{OwnerWord, Step};
use super::machine::{Machine, Thread, slot};
use super::{Mode, explore, is_caught, sweep};
use crate::sync::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

const OWNER: usize = 0;
/// When the first lease ends, and when it does if it was renewed.
const ENDS: u64 = 10;
const LATER: u64 = 20;

/// How it is renewed and taken over: by default as it is.
pub(super) trait Algorithm: Copy + Send + Sync + 'static {
    fn renew(self, lock: &LockWords, mine: OwnerWord) -> bool {
        lease::renew(&lock.owner, &lock.lease, mine, ENDS, LATER)
    }

    fn undo_flip(self, lock: &LockWords, mine: OwnerWord, machine: &Machine) {
        lock.undo_flip_leased(mine, |_| machine.wake(super::machine::Futex::Lock));
    }

    fn acquire(self, lock: &LockWords, host: &Thread, me: Slot, _: &Machine) -> Acquired<Slot> {
        let seen = lock.look();
        match lock.try_acquire(me, 0, seen) {
            Ok(word) => Acquired { word, obituary: None },
            Err(seen) => lock.acquire_contended(host, me, seen).unwrap_or_else(|failure| panic!("{failure:?}")),
        }
    }
}

#[derive(Clone, Copy)]
struct Real;

impl Algorithm for Real {}

/// The owner renews its lease while time passes to its end, and so many others wait for that. Nobody takes over what was renewed.
pub(super) fn renewing_races_the_end(algorithm: impl Algorithm, others: usize) {
    let (machine, lock) = (Machine::new(), Rc::new(LockWords::new()));
    let mine = begin(&lock, slot(OWNER));
    let (renewed, taken) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
    let mut threads = vec![thread::spawn({
        let (machine, lock, renewed) = (machine.clone(), lock.clone(), renewed.clone());
        move || {
            if algorithm.renew(&lock, mine) {
                renewed.set(true);
                // Here it may be taken over, if anything lets it.
                assert_eq!(lock.look(), mine, "renewed, and taken from the living");
            }
            // Whoever took it over has another word, so this never is theirs.
            let ended = lock.release(mine, |_| machine.wake(super::machine::Futex::Lock));
            assert!(ended.is_ok() || !renewed.get(), "renewed, and lost");
        }
    })];
    threads.extend((1..=others).map(|number| {
        let (machine, lock, taken) = (machine.clone(), lock.clone(), taken.clone());
        thread::spawn(move || {
            let host = machine.thread(number);
            let Acquired { word, obituary } = algorithm.acquire(&lock, &host, slot(number), &machine);
            if obituary.is_some() {
                assert!(word.is_abandoned() && word.epoch() == mine.epoch() + 1);
                taken.set(taken.get() + 1);
            }
            assert_eq!(lock.look(), word, "two owners");
            lock.release(word, |_| machine.wake(super::machine::Futex::Lock)).expect("its own");
        })
    }));
    machine.pass_time(ENDS);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(!(renewed.get() && taken.get() > 0), "renewed, and taken over");
    assert!(taken.get() <= 1, "taken over twice");
    assert!(lock.look().is_free());
    machine.assert_at_rest();
}

/// The owner is stopped for good, and of two who wait for the end of its lease one dies: at any point of taking over.
pub(super) fn who_takes_over_dies(algorithm: impl Algorithm, fuse: usize) {
    let (machine, lock) = (Machine::new(), Rc::new(LockWords::new()));
    let mine = begin(&lock, slot(OWNER));
    let turn = |number: usize, mortal: bool| {
        let (machine, lock) = (machine.clone(), lock.clone());
        thread::spawn(move || {
            let host = machine.thread(number);
            let turn = || {
                let acquired = algorithm.acquire(&lock, &host, slot(number), &machine);
                lock.release(acquired.word, |_| machine.wake(super::machine::Futex::Lock)).expect("its own");
            };
            if mortal {
                host.mortal(fuse, turn, || {});
            } else {
                turn();
            }
        })
    };
    let threads = [turn(1, true), turn(2, false)];
    machine.pass_time(ENDS);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    // The one that lives had its turn, whatever the other did; the stopped one never has it again.
    assert!(lock.look().slot_code() != slot(OWNER).code());
    assert!(lock.release(mine, |_| true).is_err(), "the stopped one is the owner again");
    assert!(!lease::renew(&lock.owner, &lock.lease, mine, ENDS, LATER));
}

/// A release that comes late, perhaps of a word of which a bit was flipped, while another one of that slot waits for the end of the lease: with a word
/// that, an epoch later, is one bit beside that of the late one, which took over from the dead.
pub(super) fn a_late_release_meets_who_took_over(algorithm: impl Algorithm, flip: u64) {
    let (machine, lock) = (Machine::new(), Rc::new(LockWords::new()));
    lock.owner.store(AFTER_A_DEATH.0, Relaxed);
    let mine = begin_from(&lock, slot(OWNER), AFTER_A_DEATH);
    assert!(mine.is_abandoned() && mine.epoch() % 2 == 0);
    lock.owner.store(mine.0 ^ flip, Relaxed);
    let late = thread::spawn({
        let (machine, lock) = (machine.clone(), lock.clone());
        move || {
            if lock.release(mine, |_| machine.wake(super::machine::Futex::Lock)).is_err() {
                algorithm.undo_flip(&lock, mine, &machine);
            }
        }
    });
    let next = thread::spawn({
        let (machine, lock) = (machine.clone(), lock.clone());
        move || {
            let host = machine.thread(1);
            let Acquired { word, .. } = algorithm.acquire(&lock, &host, slot(OWNER), &machine);
            let leased = lease::begin(&lock.owner, &lock.lease, word, LATER).expect("its own");
            assert_eq!(lock.look(), leased, "freed by who was late");
            lock.release(leased, |_| machine.wake(super::machine::Futex::Lock)).expect("its own");
        }
    });
    machine.pass_time(ENDS);
    [late, next].into_iter().for_each(|thread| thread.join().unwrap());
    assert!(lock.look().is_free());
    machine.assert_at_rest();
}

/// Free, and its last owner died.
const AFTER_A_DEATH: OwnerWord = OwnerWord(1 << 16 | 1);

fn begin(lock: &LockWords, owner: Slot) -> OwnerWord {
    begin_from(lock, owner, OwnerWord(0))
}

fn begin_from(lock: &LockWords, owner: Slot, free: OwnerWord) -> OwnerWord {
    let held = lock.try_acquire(owner, 0, free).expect("it is free");
    lease::begin(&lock.owner, &lock.lease, held, ENDS).expect("it is held")
}

#[test]
fn what_was_renewed_is_not_taken_over() {
    for mode in [Mode::Rmw, Mode::Plain] {
        explore("renewing races the end", mode, 3, || renewing_races_the_end(Real, 1));
    }
    explore("renewing races the end, two wait", Mode::Rmw, 2, || renewing_races_the_end(Real, 2));
}

#[test]
fn a_flipped_bit_is_undone_by_whoever_releases_and_nobody_else_is_harmed() {
    for mode in [Mode::Rmw, Mode::Plain] {
        // None, the mark of a death, one of the epoch. (One of the slot is damage to whoever waits.)
        for flip in [0, 1, 1 << 40] {
            explore(&format!("late release, flip {flip:#x}"), mode, 3, move || {
                a_late_release_meets_who_took_over(Real, flip);
            });
        }
    }
}

#[test]
fn whoever_dies_taking_over_is_followed() {
    sweep("who takes over dies", Mode::Rmw, 2, |fuse| who_takes_over_dies(Real, fuse));
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// The lease is looked at, and the owner word taken over, without closing the lease in between.
    TakenOverWithoutClosing,
    /// Renewing is a look at the owner word, and a store.
    RenewedByStore,
    /// Renewing does not begin from the value that ran.
    ClosedIsRenewed,
    /// A flipped bit is undone whether or not the lease was closed.
    UndoneIfClosed,
    /// Nobody undoes it.
    NotUndone,
}

#[derive(Clone, Copy)]
struct Wrong(Bug);

impl Algorithm for Wrong {
    fn renew(self, lock: &LockWords, mine: OwnerWord) -> bool {
        let later = || {
            // The word that renewing leaves.
            let words = (AtomicU64::new(mine.0), AtomicU64::new(lock.lease.load(Relaxed)));
            let from = lease::ends(&words.1, mine).unwrap_or(0);
            lease::renew(&words.0, &words.1, mine, from, LATER).then(|| words.1.load(Relaxed))
        };
        match self.0 {
            Bug::TakenOverWithoutClosing | Bug::UndoneIfClosed | Bug::NotUndone => Real.renew(lock, mine),
            Bug::RenewedByStore => {
                if lock.look() != mine || lease::ends(&lock.lease, mine) != Some(ENDS) {
                    return false;
                }
                let Some(later) = later() else { return false };
                lock.lease.store(later, Relaxed);
                true
            }
            Bug::ClosedIsRenewed => {
                lock.look() == mine && {
                    lease::renew(&lock.owner, &lock.lease, mine, ENDS, LATER)
                        || lease::ends(&lock.lease, mine) == Some(0)
                }
            }
        }
    }

    fn undo_flip(self, lock: &LockWords, mine: OwnerWord, machine: &Machine) {
        let found = lock.look();
        match self.0 {
            Bug::NotUndone => {}
            Bug::UndoneIfClosed if found.is_beside(mine) => {
                let freed = mine.release();
                if lock.owner.compare_exchange(found.0, freed.0, SeqCst, Relaxed).is_ok() {
                    lock.wake_sleepers(freed, |_| machine.wake(super::machine::Futex::Lock));
                }
            }
            _ => Real.undo_flip(lock, mine, machine),
        }
    }

    fn acquire(self, lock: &LockWords, host: &Thread, me: Slot, machine: &Machine) -> Acquired<Slot> {
        if self.0 != Bug::TakenOverWithoutClosing {
            return Real.acquire(lock, host, me, machine);
        }
        let seen = lock.look();
        if lease::ends(&lock.lease, seen).is_some_and(|when| when <= machine.now())
            && let Step::To(taken) = seen.take_over(me, true)
            && lock.owner.compare_exchange(seen.0, taken.0, Acquire, Relaxed).is_ok()
        {
            return Acquired { word: taken, obituary: Some(slot(OWNER)) };
        }
        Real.acquire(lock, host, me, machine)
    }
}

const BUGS: &[(Bug, &[&str])] = &[
    (Bug::TakenOverWithoutClosing, &["renewed, and"]),
    (Bug::RenewedByStore, &["renewed, and"]),
    (Bug::ClosedIsRenewed, &["renewed, and"]),
    (Bug::UndoneIfClosed, &["freed by who was late", "its own"]),
    (Bug::NotUndone, &["deadlock"]),
];

const SEEDED: &str = "HOSTLOCK_SEEDED_LEASE";

#[test]
fn one_bug() {
    let Ok(wanted) = std::env::var(SEEDED) else { return };
    let (bug, _) = BUGS.iter().find(|(bug, _)| format!("{bug:?}") == wanted).expect("a bug that exists");
    let flip = match bug {
        Bug::UndoneIfClosed => 0,
        Bug::NotUndone => 1 << 40,
        _ => return explore("seeded, renewing races the end", Mode::Rmw, 3, || renewing_races_the_end(Wrong(*bug), 1)),
    };
    explore("seeded, late release", Mode::Rmw, 3, move || a_late_release_meets_who_took_over(Wrong(*bug), flip));
}

#[test]
fn every_bug_is_caught() {
    for (bug, expected) in BUGS {
        is_caught(&format!("{bug:?}"), Mode::Rmw, SEEDED, module_path!(), expected);
    }
}
