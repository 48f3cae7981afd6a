//! Bugs that the models must catch, or they prove nothing.
//!
//! [`Buggy`] is the mutex written out once more, with a switch for each bug. The copy without a bug passes all models
//! ([`the_copy_without_a_bug_passes`]), so it is the bug that is caught. A model that fails may abort, so each runs in a process of its own.

use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::process::Command;

use super::mutex::{Locking, a_wake_comes_late, all_pass, one_gives_up, slot_is_reborn, survivors_take_over};
use super::{Actor, World, explore, explore_interleavings};
use crate::protocol::mutex::{Acquired, Failure};
use crate::protocol::word::{Owner, OwnerWord, Slot, Step};
use crate::protocol::{Host, Verdict};
use crate::sync::total_order;

const WOKEN: u32 = 1 << 31;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// The release is a load and a store.
    ReleaseIsNotAtomic,
    /// The release does not say that what was written under the lock is to be seen.
    ReleaseIsRelaxed,
    /// The releaser looks at the count before it frees the word.
    LooksAtTheCountFirst,
    /// The sleeper looks at the word, then counts itself.
    LooksAtTheWordFirst,
    /// Acquiring is a load and a store.
    AcquireIsNotAtomic,
    /// The take-over starts from the word as it is after the verdict, not as it was before.
    TakesOverWhatItDidNotJudge,
    /// The take-over is a store.
    TakesOverByStore,
    /// The take-over loses the mark that the owner died.
    TakesOverInSilence,
    /// The releaser takes the sleepers off the count, as glibc's robust mutex does with its mark.
    ReleaserClearsTheCount,
    /// A sleeper that was woken leaves the mark, and nobody else is woken until it goes to sleep again.
    WokenMarkIsNeverCleared,
    /// A releaser that marked a woken sleeper leaves the mark when there was none. (The first version of the mark did that.)
    MarkStaysWhereNobodySlept,
    /// It takes the mark back, and does not look whether another release relied on it.
    MarkIsTakenBackWithoutALook,
    /// Who gives up does not look whether it was woken for a free lock.
    GivesUpWithoutALook,
}

#[derive(Clone, Copy)]
struct Buggy(Bug);

impl Buggy {
    fn try_acquire(self, world: &World, me: Slot, mut seen: OwnerWord) -> Result<OwnerWord, OwnerWord> {
        let owner = &world.words.owner;
        while let Step::To(held) = seen.acquire(me) {
            if self.0 == Bug::AcquireIsNotAtomic {
                seen = OwnerWord(owner.load(Acquire));
                let Step::To(held) = seen.acquire(me) else { break };
                owner.store(held.0, Relaxed);
                return Ok(held);
            }
            match owner.compare_exchange(seen.0, held.0, Acquire, Relaxed) {
                Ok(_) => return Ok(held),
                Err(now) => seen = OwnerWord(now),
            }
        }
        Err(seen)
    }

    fn take_over(self, world: &World, me: Slot, seen: OwnerWord) -> Result<OwnerWord, OwnerWord> {
        let owner = &world.words.owner;
        let from = match self.0 {
            Bug::TakesOverWhatItDidNotJudge => OwnerWord(owner.load(Acquire)),
            _ => seen,
        };
        if from.is_free() {
            return Err(from);
        }
        let Step::To(taken) = from.take_over(me) else { unreachable!("tokens are left") };
        let taken = match (self.0, from.release().acquire(me)) {
            (Bug::TakesOverInSilence, Step::To(held)) => held,
            _ => taken,
        };
        if self.0 == Bug::TakesOverByStore {
            owner.store(taken.0, Relaxed);
            return Ok(taken);
        }
        owner.compare_exchange(from.0, taken.0, Acquire, Relaxed).map(|_| taken).map_err(OwnerWord)
    }

    fn uncount(self, world: &World) {
        let mut sleepers = world.words.sleepers.load(Relaxed);
        loop {
            let mark = if self.0 == Bug::WokenMarkIsNeverCleared { sleepers & WOKEN } else { 0 };
            let fewer = (sleepers & !WOKEN).saturating_sub(1) | mark;
            match world.words.sleepers.compare_exchange(sleepers, fewer, SeqCst, Relaxed) {
                Ok(_) => break,
                Err(now) => sleepers = now,
            }
        }
        total_order();
        let now = OwnerWord(world.words.owner.load(SeqCst));
        if self.0 != Bug::GivesUpWithoutALook && now.is_free() {
            self.wake_sleepers(world, now);
        }
    }
}

impl Locking for Buggy {
    fn acquire(self, actor: &Actor<'_>, me: Slot) -> Result<Acquired<()>, Failure<()>> {
        let (world, words) = (actor.world, &actor.world.words);
        let mut seen = match self.try_acquire(world, me, OwnerWord(0)) {
            Ok(word) => return Ok(Acquired { word, obituary: None }),
            Err(seen) => seen,
        };
        let mut counted = false;
        let outcome = loop {
            match seen.owner() {
                Owner::Nobody => match self.try_acquire(world, me, seen) {
                    Ok(word) => break Ok(Acquired { word, obituary: None }),
                    Err(now) => {
                        seen = now;
                        continue;
                    }
                },
                Owner::Held(slot) => {
                    if let Verdict::Dead(()) = actor.judge(slot) {
                        match self.take_over(world, me, seen) {
                            Ok(word) => break Ok(Acquired { word, obituary: Some(()) }),
                            Err(now) => {
                                seen = now;
                                continue;
                            }
                        }
                    }
                }
                Owner::Damaged => unreachable!("{seen:?}"),
            }
            if let Err(refusal) = actor.may_sleep(seen) {
                break Err(Failure::Refused(refusal));
            }
            let early = OwnerWord(words.owner.load(SeqCst));
            if !counted {
                words.sleepers.fetch_add(1, SeqCst);
                counted = true;
            }
            if self.0 != Bug::WokenMarkIsNeverCleared {
                words.sleepers.fetch_and(!WOKEN, SeqCst);
            }
            total_order();
            let now = match self.0 {
                Bug::LooksAtTheWordFirst => early,
                _ => OwnerWord(words.owner.load(SeqCst)),
            };
            if now == seen {
                if self.0 == Bug::LooksAtTheWordFirst {
                    // With the look at the word gone, so is the kernel's: as if it compared what was read before.
                    actor.sleep(&crate::sync::AtomicU64::new(seen.0), seen);
                } else {
                    actor.sleep(&words.owner, seen);
                }
                seen = OwnerWord(words.owner.load(Acquire));
            } else {
                seen = now;
            }
        };
        if counted {
            self.uncount(world);
        }
        outcome
    }

    fn wake_sleepers(self, world: &World, mut freed: OwnerWord) {
        total_order();
        let count = &world.words.sleepers;
        let mut sleepers = count.load(SeqCst);
        while sleepers & WOKEN == 0 && sleepers != 0 {
            let mark = if self.0 == Bug::ReleaserClearsTheCount { 0 } else { sleepers | WOKEN };
            if let Err(now) = count.compare_exchange(sleepers, mark, SeqCst, Relaxed) {
                sleepers = now;
                continue;
            }
            if world.wake_one() || self.0 == Bug::MarkStaysWhereNobodySlept {
                return;
            }
            sleepers = count.fetch_and(!WOKEN, SeqCst) & !WOKEN;
            total_order();
            let now = OwnerWord(world.words.owner.load(SeqCst));
            if now == freed || !now.is_free() || self.0 == Bug::MarkIsTakenBackWithoutALook {
                return;
            }
            freed = now;
        }
    }

    fn release(self, world: &World, mine: OwnerWord) {
        let owner = &world.words.owner;
        let freed = mine.release();
        let early = world.words.sleepers.load(SeqCst);
        match self.0 {
            Bug::ReleaseIsNotAtomic => {
                assert_eq!(OwnerWord(owner.load(Relaxed)), mine);
                owner.store(freed.0, Relaxed);
            }
            Bug::ReleaseIsRelaxed => {
                owner.compare_exchange(mine.0, freed.0, Relaxed, Relaxed).expect("mine");
            }
            _ => {
                let now = owner.compare_exchange(mine.0, freed.0, SeqCst, Relaxed);
                assert!(now.is_ok(), "{mine:?} was taken from a living owner");
            }
        }
        if self.0 == Bug::LooksAtTheCountFirst {
            if early != 0 {
                world.wake_one();
            }
        } else {
            self.wake_sleepers(world, freed);
        }
    }
}

fn run(bug: Bug) {
    let locking = Buggy(bug);
    explore("seeded: two pass", move || all_pass(locking, 2, 1));
    explore("seeded: three pass", move || all_pass(locking, 3, 1));
    explore("seeded: survivors", move || survivors_take_over(locking, 2));
    explore("seeded: slot reborn", move || slot_is_reborn(locking, 1));
    explore("seeded: a late wake", move || a_wake_comes_late(locking));
    explore_interleavings("seeded: one gives up", move || one_gives_up(locking));
}

const BUGS: &[Bug] = &[
    Bug::ReleaseIsNotAtomic,
    Bug::ReleaseIsRelaxed,
    Bug::LooksAtTheCountFirst,
    Bug::LooksAtTheWordFirst,
    Bug::AcquireIsNotAtomic,
    Bug::TakesOverWhatItDidNotJudge,
    Bug::TakesOverByStore,
    Bug::TakesOverInSilence,
    Bug::ReleaserClearsTheCount,
    Bug::WokenMarkIsNeverCleared,
    Bug::MarkStaysWhereNobodySlept,
    Bug::MarkIsTakenBackWithoutALook,
    Bug::GivesUpWithoutALook,
];

const SEEDED: &str = "HOSTLOCK_SEEDED_BUG";

/// In a process started by [`every_bug_is_caught`]: runs the models over one bug.
#[test]
fn one_bug() {
    let Ok(wanted) = std::env::var(SEEDED) else { return };
    run(*BUGS.iter().find(|bug| format!("{bug:?}") == wanted).expect("a bug that exists"));
}

#[test]
fn the_copy_without_a_bug_passes() {
    run(Bug::None);
}

#[test]
fn every_bug_is_caught() {
    for bug in BUGS {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "protocol::models::seeded::one_bug", "--nocapture"])
            .env(SEEDED, format!("{bug:?}"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{bug:?} passed all models:\n{text}");
        let passed = text.lines().filter(|line| line.starts_with("model seeded")).count();
        let why = errors.lines().skip_while(|line| !line.contains("panicked at")).nth(1).unwrap_or("aborted");
        println!("seeded bug {bug:?}: caught after {passed} models passed: {why}");
    }
}
