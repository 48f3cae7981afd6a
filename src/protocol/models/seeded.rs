//! Bugs that the models must catch, or they prove nothing.
//!
//! [`Copied`] is the mutex written out once more, with a switch for each bug. Without a bug it passes ([`the_copy_is_right`]), so
//! it is the bug that is caught. loom may abort where a model fails, so each bug runs in a process of its own.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};

use super::super::mutex::{Acquired, Failure, LockWords, WOKEN};
use super::super::slot::Slot;
use super::super::word::{Owner, OwnerWord, Step};
use super::super::{Host, Verdict, recovery};
use super::machine::Thread;
use super::world::{Algorithm, CLAIMED, Outcome};
use super::{Mode, deaths, explore, mutex, one_is_caught, recovery as models, sweep};
use crate::sync::{AtomicU64, light_fence, total_order};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// What was written under the lock is not released.
    ReleaseIsRelaxed,
    /// What was written under the lock is not acquired.
    AcquireIsRelaxed,
    /// The releaser looks at the count, then frees the word.
    CountIsReadBeforeTheRelease,
    /// The sleeper looks at the word, then counts itself. Only an ordering: the kernel compares once more.
    WordIsReadBeforeCounting,
    /// The releaser frees the word by a store, and nothing keeps its look at the count behind that.
    StoreWithoutFence,
    /// The same with a fence, and the sleeper, which has counted itself, has none before its look at the word.
    SleeperWithoutFence,
    /// One sleeper is not worth a wake.
    OneSleeperIsNotWoken,
    /// A sleeper leaves the mark "woken" where it is when it goes to sleep again.
    MarkIsKeptBySleepers,
    /// A releaser leaves the mark "woken" where it is although its wake woke nobody. (Was in the mutex until these models: a third
    /// party barged in, and its release found a mark that nobody would take away.)
    MarkIsKeptForNobody,
    /// Whoever leaves does not look at the word.
    LeavingWithoutALook,
    /// The take-over starts from the word as it is after the verdict, not from the one that was judged.
    TakeOverOfAnotherWord,
    /// The take-over is a load and a store.
    TakeOverByStore,
    /// Giving back is a load and a store, over whoever took over in between.
    GiveBackByStore,
    /// The take-over keeps the epoch.
    TakeOverWithoutEpoch,
    /// The take-over does not mark the lock as abandoned.
    TakeOverIsNotTold,
    /// Giving back does not mark the lock as abandoned.
    GiveBackIsNotTold,
    /// Giving back frees whatever it finds, also when somebody did it before and another one came.
    GiveBackIsNotIdempotent,
    /// A release that wakes one clears the whole count: glibc's robust mutex, whose mark only the woken one restores.
    CountIsClearedByTheRelease,
    /// A sleeper takes its record, then counts itself.
    RecordedBeforeCounted,
    /// A sleeper takes itself off the count, then clears its record.
    UncountedBeforeTheRecordIsCleared,
    /// Two who clear the record of a dead sleeper both take it off the count.
    RecordIsClearedByBoth,
    /// Recovery takes the dead sleeper off the count, then clears its record.
    RecoveryUncountsFirst,
}

#[derive(Clone, Copy)]
struct Copied(Bug);

type Wake<'a> = &'a dyn Fn(&AtomicU64) -> bool;

impl Copied {
    fn has(self, bug: Bug) -> bool {
        self.0 == bug
    }

    fn try_acquire(self, lock: &LockWords, me: Slot, mut seen: OwnerWord) -> Result<OwnerWord, OwnerWord> {
        let order = if self.has(Bug::AcquireIsRelaxed) { Relaxed } else { Acquire };
        while let Step::To(held) = seen.acquire(me) {
            match lock.owner.compare_exchange(seen.0, held.0, order, Relaxed) {
                Ok(_) => return Ok(held),
                Err(now) => seen = OwnerWord(now),
            }
        }
        Err(seen)
    }

    fn take_over(self, lock: &LockWords, me: Slot, judged: OwnerWord) -> Result<OwnerWord, OwnerWord> {
        let mut from = judged;
        if self.has(Bug::TakeOverOfAnotherWord) || self.has(Bug::TakeOverByStore) {
            let now = OwnerWord(lock.owner.load(Acquire));
            if now != judged && (now.slot_code() != judged.slot_code() || self.has(Bug::TakeOverByStore)) {
                return Err(now);
            }
            from = now;
        }
        let Step::To(mut taken) = from.take_over(me, true) else { unreachable!("tokens are left") };
        if self.has(Bug::TakeOverWithoutEpoch) {
            taken = OwnerWord(taken.0 - (1 << 16));
        }
        if self.has(Bug::TakeOverIsNotTold) {
            taken = taken.raise(taken.epoch());
        }
        if self.has(Bug::TakeOverByStore) {
            lock.owner.store(taken.0, SeqCst);
            return Ok(taken);
        }
        lock.owner.compare_exchange(from.0, taken.0, Acquire, Relaxed).map(|_| taken).map_err(OwnerWord)
    }

    fn uncount(self, lock: &LockWords, wake: Wake<'_>) {
        let mut sleepers = lock.sleepers.load(Relaxed);
        while let Err(now) =
            lock.sleepers.compare_exchange(sleepers, (sleepers & !WOKEN).saturating_sub(1), SeqCst, Relaxed)
        {
            sleepers = now;
        }
        total_order();
        if !self.has(Bug::LeavingWithoutALook) && OwnerWord(lock.owner.load(SeqCst)).is_free() {
            self.wake_sleepers(lock, wake);
        }
    }

    fn wake_sleepers(self, lock: &LockWords, wake: Wake<'_>) {
        total_order();
        let mut sleepers = lock.sleepers.load(SeqCst);
        let enough = if self.has(Bug::OneSleeperIsNotWoken) { 2 } else { 1 };
        while sleepers & WOKEN == 0 && sleepers >= enough {
            let before = lock.owner.load(SeqCst);
            if let Err(now) = lock.sleepers.compare_exchange(sleepers, sleepers | WOKEN, SeqCst, SeqCst) {
                sleepers = now;
                continue;
            }
            if wake(&lock.owner) || self.has(Bug::MarkIsKeptForNobody) {
                if self.has(Bug::CountIsClearedByTheRelease) {
                    lock.sleepers.store(0, SeqCst);
                }
                return;
            }
            sleepers = lock.sleepers.fetch_and(!WOKEN, SeqCst) & !WOKEN;
            total_order();
            let now = lock.owner.load(SeqCst);
            if now == before || !OwnerWord(now).is_free() {
                return;
            }
        }
    }
}

impl Algorithm for Copied {
    fn acquire(self, lock: &LockWords, host: &Thread, me: Slot) -> Outcome {
        let mut counted = false;
        let mut seen = lock.look();
        let outcome = loop {
            match seen.owner() {
                Owner::Nobody => match self.try_acquire(lock, me, seen) {
                    Ok(word) => break Ok(Acquired { word, obituary: None }),
                    Err(now) => {
                        seen = now;
                        continue;
                    }
                },
                Owner::Held(slot) => match host.judge(slot) {
                    Verdict::Alive => {}
                    Verdict::Dead(obituary) => match self.take_over(lock, me, seen) {
                        Ok(word) => break Ok(Acquired { word, obituary: Some(obituary) }),
                        Err(now) => {
                            seen = now;
                            continue;
                        }
                    },
                    Verdict::Unregistered => {
                        let now = lock.look();
                        assert_ne!(now, seen, "damaged");
                        seen = now;
                        continue;
                    }
                },
                Owner::Damaged => unreachable!("{seen:?}"),
            }
            if let Err(refusal) = host.may_sleep() {
                break Err(Failure::Refused(refusal));
            }
            let early = self.has(Bug::WordIsReadBeforeCounting).then(|| {
                total_order();
                OwnerWord(lock.owner.load(SeqCst))
            });
            if !counted {
                counted = true;
                if self.has(Bug::RecordedBeforeCounted) {
                    host.enlist();
                    lock.sleepers.fetch_add(1, SeqCst);
                } else {
                    lock.sleepers.fetch_add(1, SeqCst);
                    host.enlist();
                }
            }
            if !self.has(Bug::MarkIsKeptBySleepers) {
                lock.sleepers.fetch_and(!WOKEN, SeqCst);
            }
            let now = early.unwrap_or_else(|| {
                if !self.has(Bug::SleeperWithoutFence) {
                    total_order();
                }
                OwnerWord(lock.owner.load(SeqCst))
            });
            if now == seen {
                host.sleep(&lock.owner, seen);
                seen = lock.look();
            } else {
                seen = now;
            }
        };
        let wake = &|owner: &_| host.wake(owner);
        if counted && self.has(Bug::UncountedBeforeTheRecordIsCleared) {
            self.uncount(lock, wake);
            host.delist();
        } else if counted && host.delist() {
            self.uncount(lock, wake);
        }
        outcome
    }

    fn release(self, lock: &LockWords, mine: OwnerWord, wake: Wake<'_>) -> Result<OwnerWord, OwnerWord> {
        let freed = mine.release();
        if self.has(Bug::StoreWithoutFence) || self.has(Bug::SleeperWithoutFence) {
            lock.owner.store(freed.0, Release);
            if self.has(Bug::SleeperWithoutFence) {
                light_fence();
            }
            if lock.sleepers.load(Relaxed) != 0 {
                self.wake_sleepers(lock, wake);
            }
            return Ok(freed);
        }
        let order = if self.has(Bug::ReleaseIsRelaxed) { Relaxed } else { SeqCst };
        let early = self.has(Bug::CountIsReadBeforeTheRelease).then(|| lock.sleepers.load(SeqCst));
        lock.owner.compare_exchange(mine.0, freed.0, order, Relaxed).map_err(OwnerWord)?;
        if early != Some(0) {
            self.wake_sleepers(lock, wake);
        }
        Ok(freed)
    }

    fn give_back(self, lock: &LockWords, dead: Slot, wake: Wake<'_>) -> Option<OwnerWord> {
        let seen = lock.look();
        if self.has(Bug::GiveBackIsNotTold) || self.has(Bug::GiveBackIsNotIdempotent) {
            if seen.slot_code() != dead.code() {
                return None;
            }
            let told = self.has(Bug::GiveBackIsNotIdempotent);
            let mut from = seen;
            loop {
                let to = if told { from.abandon() } else { from.release() };
                match lock.owner.compare_exchange(from.0, to.0, SeqCst, Relaxed) {
                    Ok(_) => break,
                    Err(now) if told => from = OwnerWord(now),
                    Err(_) => return None,
                }
            }
            self.wake_sleepers(lock, wake);
            return Some(seen);
        }
        if !self.has(Bug::GiveBackByStore) {
            return recovery::give_back(lock, dead, |_| true, wake);
        }
        (seen.slot_code() == dead.code()).then(|| {
            lock.owner.store(seen.abandon().0, SeqCst);
            self.wake_sleepers(lock, wake);
            seen
        })
    }

    fn clear_record(self, lock: &LockWords, record: &AtomicU64, who: u64, wake: Wake<'_>) {
        if record.load(Acquire) != who {
            // Not filled in, so not known to be on the count.
            let _ = record.compare_exchange(who | CLAIMED, 0, AcqRel, Relaxed);
            return;
        }
        if self.has(Bug::RecoveryUncountsFirst) {
            self.uncount(lock, wake);
        }
        let cleared = record.compare_exchange(who, 0, AcqRel, Relaxed).is_ok();
        if !self.has(Bug::RecoveryUncountsFirst) && (cleared || self.has(Bug::RecordIsClearedByBoth)) {
            self.uncount(lock, wake);
        }
    }
}

/// The models, from the quickest to the slowest.
fn run(bug: Bug, mode: Mode, bound: usize, bound_of_the_slowest: usize) {
    let algorithm = Copied(bug);
    explore("seeded, two take turns", mode, bound, move || mutex::turns(algorithm, 2, 0));
    explore("seeded, two survivors", mode, bound, move || models::survivors(algorithm, 2));
    explore("seeded, slot reborn", mode, bound, move || models::slot_is_reborn(algorithm, 1));
    explore("seeded, owner releases", mode, bound, move || mutex::owner_releases(algorithm, false));
    explore("seeded, owner comes back", mode, bound, move || mutex::owner_releases(algorithm, true));
    explore("seeded, one gives up", mode, bound_of_the_slowest, move || mutex::one_gives_up(algorithm));
}

/// The models in which somebody dies at any point.
fn run_deaths(bug: Bug, mode: Mode, bound: usize) {
    let algorithm = Copied(bug);
    sweep("seeded, one of two dies", mode, bound, move |fuse| deaths::turns(algorithm, fuse, 1));
    sweep("seeded, heir dies", mode, bound, move |fuse| deaths::heir_dies(algorithm, fuse, 1));
    sweep("seeded, recoverer dies", mode, bound, move |fuse| deaths::recoverer_dies(algorithm, fuse, false));
    sweep("seeded, sleeper dies and is cleaned up", mode, bound, move |fuse| {
        deaths::sleeper_dies_and_is_cleaned_up(algorithm, fuse, false);
    });
    sweep("seeded, recoverer of a sleeper dies", mode, bound, move |fuse| {
        deaths::recoverer_of_a_sleeper_dies(algorithm, fuse);
    });
    sweep("seeded, sleeper dies and is cleaned up late", mode, bound, move |fuse| {
        deaths::sleeper_dies_and_is_cleaned_up(algorithm, fuse, true);
    });
    sweep("seeded, slot reborn", mode, bound, move |fuse| deaths::slot_is_reborn(algorithm, fuse));
}

const DEADLOCK: &str = "deadlock";
const UNORDERED: &str = "Causality violation";
const OUT_OF_ORDER: &str = "the token after";
const STOLEN: &str = "taken from the living";
const NOT_TOLD: &str = "told of the death";
const UNMARKED: &str = "was taken over from";

/// Each bug, the mode that catches it, and what is said then: by the models among the living and with a death between operations.
const BUGS: &[(Bug, Mode, &[&str])] = &[
    (Bug::ReleaseIsRelaxed, Mode::Plain, &[UNORDERED]),
    (Bug::AcquireIsRelaxed, Mode::Plain, &[UNORDERED]),
    (Bug::CountIsReadBeforeTheRelease, Mode::Rmw, &[DEADLOCK]),
    (Bug::WordIsReadBeforeCounting, Mode::Plain, &[DEADLOCK]),
    (Bug::StoreWithoutFence, Mode::Plain, &[DEADLOCK]),
    (Bug::SleeperWithoutFence, Mode::Plain, &[DEADLOCK]),
    (Bug::OneSleeperIsNotWoken, Mode::Rmw, &[DEADLOCK]),
    (Bug::MarkIsKeptBySleepers, Mode::Rmw, &[DEADLOCK]),
    (Bug::MarkIsKeptForNobody, Mode::Rmw, &[DEADLOCK]),
    (Bug::LeavingWithoutALook, Mode::Rmw, &[DEADLOCK]),
    (Bug::TakeOverOfAnotherWord, Mode::Rmw, &[STOLEN, UNORDERED]),
    (Bug::TakeOverByStore, Mode::Rmw, &[STOLEN, UNORDERED, OUT_OF_ORDER]),
    (Bug::GiveBackByStore, Mode::Rmw, &[STOLEN, UNORDERED, OUT_OF_ORDER]),
    (Bug::CountIsClearedByTheRelease, Mode::Rmw, &[DEADLOCK]),
];

/// The same, by the models in which somebody dies at any point.
const BUGS_THAT_DEATH_FINDS: &[(Bug, Mode, &[&str])] = &[
    (Bug::MarkIsKeptBySleepers, Mode::Rmw, &[DEADLOCK]),
    (Bug::TakeOverOfAnotherWord, Mode::Rmw, &[STOLEN, UNORDERED]),
    (Bug::TakeOverByStore, Mode::Rmw, &[STOLEN, UNORDERED, OUT_OF_ORDER]),
    (Bug::GiveBackByStore, Mode::Rmw, &[STOLEN, UNORDERED, OUT_OF_ORDER]),
    (Bug::TakeOverWithoutEpoch, Mode::Rmw, &[OUT_OF_ORDER]),
    (Bug::TakeOverIsNotTold, Mode::Rmw, &[UNMARKED]),
    (Bug::GiveBackIsNotTold, Mode::Rmw, &[NOT_TOLD]),
    (Bug::GiveBackIsNotIdempotent, Mode::Rmw, &[STOLEN, UNORDERED, NOT_TOLD]),
    (Bug::RecordedBeforeCounted, Mode::Rmw, &[DEADLOCK]),
    (Bug::UncountedBeforeTheRecordIsCleared, Mode::Rmw, &[DEADLOCK]),
    (Bug::RecordIsClearedByBoth, Mode::Rmw, &[DEADLOCK]),
    (Bug::RecoveryUncountsFirst, Mode::Rmw, &[DEADLOCK]),
    (Bug::CountIsClearedByTheRelease, Mode::Rmw, &[DEADLOCK]),
];

/// Names the bug that [`one_bug`] is to run with.
const SEEDED: &str = "HOSTLOCK_SEEDED_BUG";

/// In a process started by [`are_caught`]: runs the models with one bug.
#[test]
fn one_bug() {
    let Ok(wanted) = std::env::var(SEEDED) else { return };
    let (bug, mode, _) = BUGS.iter().find(|(bug, ..)| format!("{bug:?}") == wanted).expect("a bug that exists");
    run(*bug, *mode, 3, 3);
}

/// The same, for the models in which somebody dies at any point.
#[test]
fn one_bug_that_death_finds() {
    let Ok(wanted) = std::env::var(SEEDED) else { return };
    let mut bugs = BUGS_THAT_DEATH_FINDS.iter();
    let (bug, mode, _) = bugs.find(|(bug, ..)| format!("{bug:?}") == wanted).expect("a bug that exists");
    run_deaths(*bug, *mode, 2);
}

#[test]
fn the_copy_is_right() {
    run(Bug::None, Mode::Rmw, 3, 2);
    run(Bug::None, Mode::Plain, 2, 1);
}

#[test]
fn the_copy_is_right_when_somebody_dies() {
    run_deaths(Bug::None, Mode::Rmw, 1);
}

/// Each of `bugs` makes the test `one` of this module fail, for the reason that is expected.
fn are_caught(bugs: &[(Bug, Mode, &[&str])], one: &str) {
    for (bug, mode, expected) in bugs {
        one_is_caught(&format!("{bug:?}"), *mode, SEEDED, module_path!(), one, expected);
    }
}

#[test]
fn every_bug_is_caught() {
    are_caught(BUGS, "one_bug");
}

#[test]
fn every_bug_that_death_finds_is_caught() {
    are_caught(BUGS_THAT_DEATH_FINDS, "one_bug_that_death_finds");
}
