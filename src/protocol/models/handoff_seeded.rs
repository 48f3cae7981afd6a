//! Bugs of the mutex's invariant 7, put in on purpose, each of which the models of [`handoff`](super::handoff) must catch.
//!
//! [`Copied`] is acquiring and releasing written out once more, without the dead, with a switch for each bug.

use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

use super::super::Host;
use super::super::mutex::{Acquired, Failure, LockWords, STARVING, WOKEN};
use super::super::slot::Slot;
use super::super::word::{Owner, OwnerWord, Step};
use super::machine::Thread;
use super::world::{Algorithm, Outcome};
use super::{Mode, explore, handoff, is_caught};
use crate::sync::{AtomicU64, total_order};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// Whoever did not sleep yet is barred, also if it was on the count before.
    WhoDidNotSleepIsBarred,
    /// Who just comes is barred, also if nobody else is on the count.
    WhoIsAloneIsBarred,
    /// Whoever leaves without the lock leaves the reservation as it is.
    LeavingKeepsTheReservation,
    /// A releaser does not look whether anybody is left for whom it reserved.
    ReservedForNobody,
}

#[derive(Clone, Copy)]
struct Copied(Bug);

type Wake<'a> = &'a dyn Fn(&AtomicU64) -> bool;

const MARKS: u32 = WOKEN | STARVING;

impl Copied {
    fn settle(self, lock: &LockWords, reserved: OwnerWord) -> OwnerWord {
        total_order();
        let sleepers = lock.sleepers.fetch_and(!STARVING, SeqCst);
        let is_left = sleepers & !MARKS != 0 || self.0 == Bug::ReservedForNobody;
        if is_left { reserved } else { unreserve(lock, reserved) }
    }

    fn wake_sleepers(self, lock: &LockWords, mut freed: OwnerWord, wake: Wake<'_>) {
        total_order();
        let mut sleepers = lock.sleepers.load(SeqCst);
        loop {
            if sleepers & STARVING != 0 && freed.is_free() {
                let reserved = freed.reserve();
                if lock.owner.compare_exchange(freed.0, reserved.0, SeqCst, Relaxed).is_ok() {
                    freed = self.settle(lock, reserved);
                }
            }
            if sleepers & WOKEN != 0 || sleepers & !MARKS == 0 {
                return;
            }
            if let Err(now) = lock.sleepers.compare_exchange(sleepers, sleepers | WOKEN, SeqCst, SeqCst) {
                sleepers = now;
                continue;
            }
            if wake(&lock.owner) {
                return;
            }
            sleepers = lock.sleepers.fetch_and(!WOKEN, SeqCst) & !WOKEN;
            total_order();
            let now = OwnerWord(lock.owner.load(SeqCst));
            if now == freed || now.is_held() {
                return;
            }
            freed = now;
        }
    }

    fn uncount(self, lock: &LockWords, wake: Wake<'_>) {
        let mut sleepers = lock.sleepers.load(Relaxed);
        loop {
            let fewer = match (sleepers & !MARKS).saturating_sub(1) {
                0 => 0,
                left => left | sleepers & STARVING,
            };
            match lock.sleepers.compare_exchange(sleepers, fewer, SeqCst, Relaxed) {
                Ok(_) => break,
                Err(now) => sleepers = now,
            }
        }
        total_order();
        let mut now = OwnerWord(lock.owner.load(SeqCst));
        if now.is_reserved() && self.0 != Bug::LeavingKeepsTheReservation {
            now = unreserve(lock, now);
        }
        if now.is_free() {
            self.wake_sleepers(lock, now, wake);
        }
    }
}

fn unreserve(lock: &LockWords, reserved: OwnerWord) -> OwnerWord {
    let freed = reserved.unreserve();
    match lock.owner.compare_exchange(reserved.0, freed.0, SeqCst, SeqCst) {
        Ok(_) => freed,
        Err(now) => OwnerWord(now),
    }
}

impl Algorithm for Copied {
    fn acquire(self, lock: &LockWords, host: &Thread, me: Slot) -> Outcome {
        let (mut counted, mut slept, mut barred) = (false, false, None);
        let mut seen = lock.look();
        let outcome = loop {
            let is_barred = match self.0 {
                Bug::WhoDidNotSleepIsBarred => !slept,
                _ => !counted || barred == Some(seen),
            };
            match seen.owner() {
                Owner::Nobody if seen.is_reserved() && is_barred => {}
                Owner::Nobody => {
                    let step = if seen.is_reserved() { seen.acquire_reserved(me) } else { seen.acquire(me) };
                    let Step::To(held) = step else { unreachable!("tokens are left") };
                    match lock.owner.compare_exchange(seen.0, held.0, Acquire, Acquire) {
                        Ok(_) => break Ok(Acquired { word: held, obituary: None }),
                        Err(now) => seen = OwnerWord(now),
                    }
                    continue;
                }
                Owner::Held(_) => {}
                Owner::Damaged => unreachable!("{seen:?}"),
            }
            if let Err(refusal) = host.may_sleep() {
                break Err(Failure::Refused(refusal));
            }
            if !counted {
                let others = lock.sleepers.fetch_add(1, SeqCst) & !MARKS;
                let is_alone = others == 0 && self.0 != Bug::WhoIsAloneIsBarred;
                barred = (seen.is_reserved() && !is_alone).then_some(seen);
                counted = true;
                host.enlist();
            }
            if host.is_starving() {
                lock.sleepers.fetch_or(STARVING, SeqCst);
            }
            lock.sleepers.fetch_and(!WOKEN, SeqCst);
            total_order();
            let now = OwnerWord(lock.owner.load(SeqCst));
            let is_barred = barred == Some(now) || self.0 == Bug::WhoDidNotSleepIsBarred && !slept;
            if now == seen && (now.is_held() || now.is_reserved() && is_barred) {
                host.sleep(&lock.owner, seen);
                (slept, barred) = (true, None);
                seen = lock.look();
            } else {
                seen = now;
            }
        };
        if counted && host.delist() {
            self.uncount(lock, &|owner: &_| host.wake(owner));
        }
        outcome
    }

    fn release(self, lock: &LockWords, mine: OwnerWord, wake: Wake<'_>) -> Result<OwnerWord, OwnerWord> {
        let freed = mine.release();
        lock.owner.compare_exchange(mine.0, freed.0, SeqCst, Relaxed).map_err(OwnerWord)?;
        self.wake_sleepers(lock, freed, wake);
        Ok(freed)
    }

    fn release_fair(self, lock: &LockWords, mine: OwnerWord, wake: Wake<'_>) -> Result<OwnerWord, OwnerWord> {
        if lock.sleepers.load(Relaxed) & !MARKS == 0 {
            return self.release(lock, mine, wake);
        }
        let reserved = mine.release().reserve();
        lock.owner.compare_exchange(mine.0, reserved.0, SeqCst, Relaxed).map_err(OwnerWord)?;
        self.wake_sleepers(lock, self.settle(lock, reserved), wake);
        Ok(mine.release())
    }
}

fn run(bug: Bug, bound: usize) {
    let algorithm = Copied(bug);
    explore("seeded, two starve", Mode::Rmw, bound, move || handoff::turns(algorithm, 2));
    for fair in [false, true] {
        explore("seeded, the starving gives up", Mode::Rmw, bound, move || {
            handoff::the_starving_gives_up(algorithm, fair);
        });
        explore("seeded, owner comes back", Mode::Rmw, bound, move || handoff::owner_comes_back(algorithm, 1, fair));
        explore("seeded, one of two gives up", Mode::Rmw, bound, move || {
            handoff::one_of_two_gives_up(algorithm, false, fair);
        });
    }
}

const DEADLOCK: &[&str] = &["deadlock"];
/// Reserved at the end, for nobody.
const RESERVED: &[&str] = &["deadlock", "reserved"];

const BUGS: &[(Bug, &[&str])] = &[
    (Bug::WhoDidNotSleepIsBarred, DEADLOCK),
    (Bug::WhoIsAloneIsBarred, DEADLOCK),
    (Bug::LeavingKeepsTheReservation, RESERVED),
    (Bug::ReservedForNobody, RESERVED),
];

const SEEDED: &str = "HOSTLOCK_SEEDED_HANDOFF";

#[test]
fn one_bug() {
    let Ok(wanted) = std::env::var(SEEDED) else { return };
    let (bug, _) = BUGS.iter().find(|(bug, _)| format!("{bug:?}") == wanted).expect("a bug that exists");
    run(*bug, 3);
}

#[test]
fn the_copy_is_right() {
    run(Bug::None, 2);
}

#[test]
fn every_bug_is_caught() {
    for (bug, expected) in BUGS {
        is_caught(&format!("{bug:?}"), Mode::Rmw, SEEDED, module_path!(), expected);
    }
}
