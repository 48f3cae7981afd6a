//! Bugs that the models must catch, or they prove nothing.
//!
//! [`Copied`] is the mutex written out once more, with a switch for each bug. Without a bug it passes ([`the_copy_is_right`]), so
//! it is the bug that is caught. loom may abort where a model fails, so each bug runs in a process of its own.

use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::process::Command;

use super::super::mutex::{Acquired, Failure, LockWords, WOKEN};
use super::super::word::{Owner, OwnerWord, Slot, Step};
use super::super::{Host, Verdict, recovery};
use super::world::{Algorithm, Outcome, Participant};
use super::{Mode, explore, mutex, recovery as models};
use crate::sync::{AtomicU64, total_order};

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
        let Step::To(taken) = from.take_over(me) else { unreachable!("tokens are left") };
        if self.has(Bug::TakeOverByStore) {
            lock.owner.store(taken.0, SeqCst);
            return Ok(taken);
        }
        lock.owner.compare_exchange(from.0, taken.0, Acquire, Relaxed).map(|_| taken).map_err(OwnerWord)
    }

    fn uncount(self, lock: &LockWords, wake: Wake<'_>) {
        let mut sleepers = lock.sleepers.load(Relaxed);
        while let Err(now) = lock.sleepers.compare_exchange(sleepers, (sleepers & !WOKEN) - 1, SeqCst, Relaxed) {
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
    fn acquire(self, lock: &LockWords, host: &Participant, me: Slot) -> Outcome {
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
            if let Err(refusal) = host.may_sleep(seen) {
                break Err(Failure::Refused(refusal));
            }
            let early = self.has(Bug::WordIsReadBeforeCounting).then(|| {
                total_order();
                OwnerWord(lock.owner.load(SeqCst))
            });
            if !counted {
                lock.sleepers.fetch_add(1, SeqCst);
                counted = true;
            }
            if !self.has(Bug::MarkIsKeptBySleepers) {
                lock.sleepers.fetch_and(!WOKEN, SeqCst);
            }
            let now = early.unwrap_or_else(|| {
                total_order();
                OwnerWord(lock.owner.load(SeqCst))
            });
            if now == seen {
                host.sleep(&lock.owner, seen);
                seen = lock.look();
            } else {
                seen = now;
            }
        };
        if counted {
            self.uncount(lock, &|owner| host.wake(owner));
        }
        outcome
    }

    fn release(self, lock: &LockWords, mine: OwnerWord, wake: Wake<'_>) -> Result<OwnerWord, OwnerWord> {
        let freed = mine.release();
        let order = if self.has(Bug::ReleaseIsRelaxed) { Relaxed } else { SeqCst };
        let early = self.has(Bug::CountIsReadBeforeTheRelease).then(|| lock.sleepers.load(SeqCst));
        lock.owner.compare_exchange(mine.0, freed.0, order, Relaxed).map_err(OwnerWord)?;
        if early != Some(0) {
            self.wake_sleepers(lock, wake);
        }
        Ok(freed)
    }

    fn give_back(self, lock: &LockWords, dead: Slot, wake: Wake<'_>) -> Option<OwnerWord> {
        if !self.has(Bug::GiveBackByStore) {
            return recovery::give_back(lock, dead, |_| (), wake);
        }
        let seen = lock.look();
        (seen.slot_code() == dead.code()).then(|| {
            lock.owner.store(seen.abandon().0, SeqCst);
            self.wake_sleepers(lock, wake);
            seen
        })
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

const DEADLOCK: &str = "deadlock";
const UNORDERED: &str = "Causality violation";
const OUT_OF_ORDER: &str = "the token after";
const STOLEN: &str = "taken from the living";

/// Each bug, the mode that catches it, and what is said then.
const BUGS: &[(Bug, Mode, &[&str])] = &[
    (Bug::ReleaseIsRelaxed, Mode::Plain, &[UNORDERED]),
    (Bug::AcquireIsRelaxed, Mode::Plain, &[UNORDERED]),
    (Bug::CountIsReadBeforeTheRelease, Mode::Rmw, &[DEADLOCK]),
    (Bug::WordIsReadBeforeCounting, Mode::Plain, &[DEADLOCK]),
    (Bug::OneSleeperIsNotWoken, Mode::Rmw, &[DEADLOCK]),
    (Bug::MarkIsKeptBySleepers, Mode::Rmw, &[DEADLOCK]),
    (Bug::MarkIsKeptForNobody, Mode::Rmw, &[DEADLOCK]),
    (Bug::LeavingWithoutALook, Mode::Rmw, &[DEADLOCK]),
    (Bug::TakeOverOfAnotherWord, Mode::Rmw, &[STOLEN, UNORDERED]),
    (Bug::TakeOverByStore, Mode::Rmw, &[STOLEN, UNORDERED, OUT_OF_ORDER]),
    (Bug::GiveBackByStore, Mode::Rmw, &[STOLEN, UNORDERED, OUT_OF_ORDER]),
];

/// Names the bug that [`one_bug`] is to run with.
const SEEDED: &str = "HOSTLOCK_SEEDED_BUG";

/// In a process started by [`every_bug_is_caught`]: runs the models with one bug.
#[test]
fn one_bug() {
    let Ok(wanted) = std::env::var(SEEDED) else { return };
    let (bug, mode, _) = BUGS.iter().find(|(bug, ..)| format!("{bug:?}") == wanted).expect("a bug that exists");
    run(*bug, *mode, 3, 3);
}

#[test]
fn the_copy_is_right() {
    run(Bug::None, Mode::Rmw, 3, 2);
    run(Bug::None, Mode::Plain, 2, 1);
}

#[test]
fn every_bug_is_caught() {
    let (_, path) = module_path!().split_once("::").unwrap();
    for (bug, mode, expected) in BUGS {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{path}::one_bug"), "--nocapture"])
            .env(SEEDED, format!("{bug:?}"))
            .output()
            .unwrap();
        let passed = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{bug:?} passed all models:\n{passed}");
        let said = errors.lines().skip_while(|line| !line.contains("panicked at")).nth(1).unwrap_or_default();
        assert!(
            expected.iter().any(|expected| said.contains(expected)),
            "{bug:?} failed for another reason:\n{errors}"
        );
        let passed = passed.lines().filter(|line| line.contains("model seeded")).count();
        println!("seeded bug {bug:?} ({mode:?}): caught after {passed} models passed: {said}");
    }
}
