//! Bugs in the semaphore that its models must catch. [`Copied`] is what they explore, written out once more with a switch for each bug;
//! each runs in a process of its own, as in [`seeded`](super::seeded).

use core::sync::atomic::Ordering::{Relaxed, Release, SeqCst};

use super::super::bell::Bell;
use super::super::mutex::{Failure, LockWords};
use super::super::seat::Seat;
use super::super::semaphore::{self, Permits, Taken};
use super::super::slot::Slot;
use super::super::word::{Owner, OwnerWord, Step};
use super::super::{Host, Verdict};
use super::machine::{Expired, Thread};
use super::semaphore::{after_the_gate, cleaned_up_beside, heir_dies, heir_gives_up, name_is_given_up, one_dies};
use super::semaphore::{one_gives_up, turns, turns_again};
use super::semaphore_world::{Algorithm, Real};
use super::{Mode, explore, one_is_caught, sweep};
use crate::sync::{AtomicU32, total_order};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// Whoever took a seat does not look who is at the gate.
    GateIsNotLookedAt,
    /// A token is read from the gate, not drawn from it.
    TokenIsNotDrawn,
    /// A token drawn long ago is used all the same.
    OldTokenIsUsed,
    /// A seat is taken with the next token of a run though another was drawn meanwhile.
    OldRunGoesOn,
    /// A seat is taken with its next token though its run is over.
    RunHasNoEnd,
    /// Tokens that are drawn one by one are of runs.
    DrawnFromRuns,
    /// Tokens that are given out at the gate are of a run that may go on.
    GateLeavesRunOpen,
    /// A seat is taken by a load and a store.
    SeatIsTakenByStore,
    /// What was done with a permit is not released.
    ReleaseIsRelaxed,
    /// Whoever frees a seat looks whether somebody sleeps, then frees it.
    RungBeforeTheRelease,
    /// Whoever frees a seat by a store looks whether somebody sleeps, with nothing between.
    NoLightFence,
    /// Whoever sleeps has no fence put into the others.
    NoHeavyFence,
    /// Whoever meets somebody at the gate gives its seat back and tells nobody.
    UndoneWithoutRinging,
    /// Several permits are collected by whoever wants them, side by side.
    CollectedWithoutTheGate,
    /// Whoever gives up keeps what it collected.
    NotPutBack,
    /// Whoever gives up leaves the gate, then gives back what it collected.
    PutBackAfterTheGate,
    /// A permit of a dead one that was collected for nothing is put back as if nobody had died.
    PutBackIsNotTold,
    /// A permit whose owner died is taken without a word.
    TakenWithoutAWord,
    /// A permit taken over from a dead owner is not marked.
    TakeOverIsNotTold,
    /// Whoever waits never asks whether the owners live.
    NobodyIsJudged,
}

#[derive(Clone, Copy)]
struct Copied(Bug);

impl Copied {
    fn has(self, bug: Bug) -> bool {
        self.0 == bug
    }

    fn draw(self, permits: Permits<'_>, run: bool) -> Option<OwnerWord> {
        let mut seen = permits.gate.look();
        loop {
            let step = match run {
                true => seen.draw_run(),
                false if self.has(Bug::DrawnFromRuns) && seen.is_free() => {
                    Step::To(OwnerWord::free_at(seen.epoch() + 1))
                }
                false => seen.draw(),
            };
            let Step::To(drawn) = step else { return None };
            let first = if run { drawn.first_of_run() } else { drawn };
            if self.has(Bug::TokenIsNotDrawn) {
                return Some(first);
            }
            match permits.gate.owner.compare_exchange(seen.0, drawn.0, Relaxed, Relaxed) {
                Ok(_) => return Some(first),
                Err(now) => seen = OwnerWord(now),
            }
        }
    }

    fn take_again(self, permits: Permits<'_>, seat: &Seat, me: Slot, wake: &dyn Fn(&AtomicU32)) -> Option<OwnerWord> {
        let seen = OwnerWord(seat.owner.load(Relaxed));
        let (held, gate) = match seen.enter_next(me) {
            None if self.has(Bug::RunHasNoEnd) && seen.is_free() && !seen.is_abandoned() => {
                (seen.enter(me, OwnerWord::free_at(seen.epoch() + 1)), seen)
            }
            next => next?,
        };
        seat.owner.compare_exchange(seen.0, held.0, SeqCst, Relaxed).ok()?;
        total_order();
        let now = OwnerWord(permits.gate.owner.load(SeqCst));
        if now == gate || self.has(Bug::OldRunGoesOn) && now.is_free() {
            return Some(held);
        }
        self.release(seat, permits.bell, held, wake);
        None
    }

    fn take(self, seat: &Seat, me: Slot, token: OwnerWord) -> Option<OwnerWord> {
        let seen = OwnerWord(seat.owner.load(Relaxed));
        if !seen.is_free()
            || seen.is_abandoned() && !self.has(Bug::TakenWithoutAWord)
            || seen.epoch() >= token.epoch() && !self.has(Bug::OldTokenIsUsed)
        {
            return None;
        }
        let held = seen.release_mark().enter(me, token);
        if self.has(Bug::SeatIsTakenByStore) {
            seat.owner.store(held.0, SeqCst);
            return Some(held);
        }
        seat.owner.compare_exchange(seen.0, held.0, SeqCst, Relaxed).ok().map(|_| held)
    }

    fn look_at(self, host: &Thread, me: Slot, seat: &Seat, token: OwnerWord) -> Option<Taken<Slot>> {
        let mut seen = seat.look();
        loop {
            let (mut free, obituary) = match seen.owner() {
                Owner::Nobody => (seen, None),
                Owner::Held(slot) if slot != me && !self.has(Bug::NobodyIsJudged) => match host.judge(slot) {
                    Verdict::Dead(dead) => (seen.abandon(), Some(dead)),
                    _ => return None,
                },
                _ => return None,
            };
            if obituary.is_some() && self.has(Bug::TakeOverIsNotTold) {
                free = free.release_mark();
            }
            let held = free.enter(me, token);
            match seat.owner.compare_exchange(seen.0, held.0, SeqCst, Relaxed) {
                Ok(_) => return Some(Taken { position: 0, word: held, before: seen, note: 0, obituary }),
                Err(now) => seen = OwnerWord(now),
            }
        }
    }
}

impl Algorithm for Copied {
    fn try_acquire(
        self,
        permits: Permits<'_>,
        me: Slot,
        (hint, run): (usize, bool),
        wake: &dyn Fn(&AtomicU32),
    ) -> Option<(usize, OwnerWord)> {
        if let Some(word) = self.take_again(permits, &permits.seats[hint], me, wake) {
            return Some((hint, word));
        }
        let token = self.draw(permits, run)?;
        let mut seats = (hint..permits.seats.len()).chain(0..hint);
        let (position, word) =
            seats.find_map(|position| Some((position, self.take(&permits.seats[position], me, token)?)))?;
        total_order();
        if self.has(Bug::GateIsNotLookedAt) || OwnerWord(permits.gate.owner.load(SeqCst)).is_free() {
            return Some((position, word));
        }
        if self.has(Bug::UndoneWithoutRinging) {
            permits.seats[position].owner.store(word.release().0, SeqCst);
        } else {
            self.release(&permits.seats[position], permits.bell, word, wake);
        }
        None
    }

    fn collect(
        self,
        permits: Permits<'_>,
        host: &Thread,
        me: Slot,
        tokens: &mut dyn Iterator<Item = OwnerWord>,
        keep: &mut dyn FnMut(Taken<Slot>),
    ) -> Result<(), Failure<Expired>> {
        let mut token = tokens.next();
        let look = || {
            for (position, seat) in permits.seats.iter().enumerate() {
                let Some(next) = token else { break };
                if let Some(taken) = self.look_at(host, me, seat, next) {
                    keep(Taken { position, ..taken });
                    token = tokens.next();
                }
            }
            token.is_none().then_some(())
        };
        match self.has(Bug::NoHeavyFence) {
            true => sleep_unfenced(permits.bell, host, look).map_err(Failure::Refused),
            false => permits.bell.wait_fenced(host, look).map_err(Failure::Refused),
        }
    }

    fn put_back(self, permits: Permits<'_>, taken: &Taken<Slot>) {
        if self.has(Bug::PutBackIsNotTold) {
            let _ = permits.seats[taken.position].owner.compare_exchange(
                taken.word.0,
                taken.word.release().0,
                SeqCst,
                Relaxed,
            );
        } else if !self.has(Bug::NotPutBack) {
            permits.put_back(taken);
        }
    }

    fn release(self, seat: &Seat, bell: &Bell, mine: OwnerWord, wake: &dyn Fn(&AtomicU32)) -> bool {
        if self.has(Bug::RungBeforeTheRelease) {
            bell.ring(wake);
            return seat.owner.compare_exchange(mine.0, mine.release().0, SeqCst, Relaxed).is_ok();
        }
        if self.has(Bug::ReleaseIsRelaxed) {
            let freed = seat.owner.compare_exchange(mine.0, mine.release().0, Relaxed, Relaxed).is_ok();
            bell.ring(wake);
            return freed;
        }
        if self.has(Bug::NoLightFence) {
            seat.owner.store(mine.release().0, Release);
            if bell.sleepers.load(Relaxed) != 0 {
                bell.rung.fetch_add(1, SeqCst);
                wake(&bell.rung);
            }
            return true;
        }
        if self.has(Bug::NoHeavyFence) {
            return semaphore::release_lightly(seat, bell, mine, wake).is_ok();
        }
        Real.release(seat, bell, mine, wake)
    }

    fn reserve(self, gate: &LockWords, mine: OwnerWord, count: u32) -> (OwnerWord, u64) {
        if !self.has(Bug::GateLeavesRunOpen) {
            return Real.reserve(gate, mine, count);
        }
        let raised = mine.raise(mine.epoch() + u64::from(count) - 1);
        gate.owner.compare_exchange(mine.0, raised.0, Relaxed, Relaxed).expect("the gate is ours");
        (raised, mine.epoch())
    }

    fn goes_to_the_gate(self, count: usize) -> bool {
        count == 1 || !self.has(Bug::CollectedWithoutTheGate)
    }

    fn puts_back_first(self) -> bool {
        !self.has(Bug::PutBackAfterTheGate)
    }
}

/// As the bell does, but for its fences.
fn sleep_unfenced(bell: &Bell, host: &Thread, mut look: impl FnMut() -> Option<()>) -> Result<(), Expired> {
    bell.sleepers.fetch_add(1, SeqCst);
    host.enlist();
    let outcome = loop {
        let rung = bell.rung.load(SeqCst);
        if look().is_some() {
            break Ok(());
        }
        if let Err(expired) = host.may_sleep() {
            break Err(expired);
        }
        host.doze(&bell.rung, rung);
    };
    if host.delist() {
        bell.uncount();
    }
    outcome
}

impl OwnerWord {
    /// Without the mark.
    fn release_mark(self) -> Self {
        Self(self.0 & !1)
    }
}

/// The models, from the quickest to the slowest.
fn run(bug: Bug, mode: Mode, bound: usize) {
    let algorithm = Copied(bug);
    explore("seeded, semaphore, heir gives up", mode, bound, move || heir_gives_up(algorithm));
    explore("seeded, semaphore, name given up", mode, bound, move || name_is_given_up(algorithm, 1));
    explore("seeded, semaphore, after the gate", mode, bound, move || after_the_gate(algorithm));
    explore("seeded, semaphore, again beside one", mode, bound, move || turns_again(algorithm, 2, &[3, 1]));
    explore("seeded, semaphore, again beside again", mode, bound, move || turns_again(algorithm, 2, &[2, 2]));
    explore("seeded, semaphore, two for one", mode, bound, move || turns(algorithm, 1, &[1, 1]));
    explore("seeded, semaphore, one gives up", mode, bound, move || one_gives_up(algorithm, 2));
    explore("seeded, semaphore, both want both", mode, bound, move || turns(algorithm, 2, &[2, 2]));
    explore("seeded, semaphore, both and one", mode, bound, move || turns(algorithm, 2, &[2, 1]));
    explore("seeded, semaphore, cleaned up", mode, bound, move || cleaned_up_beside(algorithm));
    // Where it is quick; nothing was ever caught here that was not caught before.
    if let Mode::Rmw = mode {
        explore("seeded, semaphore, three for one", mode, 2, move || turns(algorithm, 1, &[1, 1, 1]));
    }
}

/// Those in which somebody dies at any point.
fn run_deaths(bug: Bug, mode: Mode, bound: usize) {
    let algorithm = Copied(bug);
    sweep("seeded, semaphore, one dies", mode, bound, move |fuse| one_dies(algorithm, fuse, 1, 1, &[1]));
    sweep("seeded, semaphore, heir dies", mode, bound, move |fuse| heir_dies(algorithm, fuse, false));
}

const DEADLOCK: &str = "deadlock";
const UNORDERED: &str = "Causality violation";
const STOLEN: &str = "taken from the living";
const NOT_TOLD: &str = "told of the death";
const NOT_GROWING: &str = " comes after ";
const NOT_FREE: &str = "at the end";

const BUGS: &[(Bug, Mode, &[&str])] = &[
    (Bug::GateIsNotLookedAt, Mode::Rmw, &[UNORDERED, STOLEN]),
    (Bug::TokenIsNotDrawn, Mode::Rmw, &[NOT_GROWING]),
    (Bug::OldTokenIsUsed, Mode::Rmw, &[NOT_GROWING]),
    (Bug::OldRunGoesOn, Mode::Rmw, &[NOT_GROWING]),
    (Bug::RunHasNoEnd, Mode::Rmw, &[NOT_GROWING]),
    (Bug::DrawnFromRuns, Mode::Rmw, &[NOT_GROWING]),
    (Bug::GateLeavesRunOpen, Mode::Rmw, &[NOT_GROWING]),
    (Bug::SeatIsTakenByStore, Mode::Rmw, &[STOLEN, UNORDERED, NOT_GROWING]),
    (Bug::ReleaseIsRelaxed, Mode::Plain, &[UNORDERED]),
    (Bug::RungBeforeTheRelease, Mode::Rmw, &[DEADLOCK]),
    (Bug::NoLightFence, Mode::Plain, &[DEADLOCK]),
    (Bug::NoHeavyFence, Mode::Plain, &[DEADLOCK]),
    (Bug::UndoneWithoutRinging, Mode::Rmw, &[DEADLOCK]),
    (Bug::CollectedWithoutTheGate, Mode::Rmw, &[DEADLOCK, "is taken"]),
    (Bug::NotPutBack, Mode::Rmw, &[DEADLOCK, NOT_FREE]),
    (Bug::PutBackAfterTheGate, Mode::Rmw, &[DEADLOCK]),
    (Bug::PutBackIsNotTold, Mode::Rmw, &[NOT_TOLD]),
    (Bug::TakenWithoutAWord, Mode::Rmw, &[NOT_TOLD]),
    (Bug::TakeOverIsNotTold, Mode::Rmw, &[NOT_TOLD]),
];

const BUGS_THAT_DEATH_FINDS: &[(Bug, Mode, &[&str])] = &[
    (Bug::TakenWithoutAWord, Mode::Rmw, &[NOT_TOLD]),
    (Bug::TakeOverIsNotTold, Mode::Rmw, &[NOT_TOLD]),
    (Bug::NobodyIsJudged, Mode::Rmw, &[DEADLOCK]),
];

/// Names the bug that the tests below are to run with, in processes started by the last of them.
const SEEDED: &str = "HOSTLOCK_SEEDED_SEMAPHORE_BUG";

fn wanted(bugs: &[(Bug, Mode, &[&str])]) -> Option<(Bug, Mode)> {
    let wanted = std::env::var(SEEDED).ok()?;
    let (bug, mode, _) = bugs.iter().find(|(bug, ..)| format!("{bug:?}") == wanted).expect("a bug that exists");
    Some((*bug, *mode))
}

/// Runs the models with one bug.
#[test]
fn one_bug_of_the_semaphore() {
    if let Some((bug, mode)) = wanted(BUGS) {
        run(bug, mode, 3);
    }
}

/// The same, for the models in which somebody dies at any point.
#[test]
fn one_bug_of_the_semaphore_that_death_finds() {
    if let Some((bug, mode)) = wanted(BUGS_THAT_DEATH_FINDS) {
        run_deaths(bug, mode, 2);
    }
}

#[test]
fn the_copy_of_the_semaphore_is_right() {
    run(Bug::None, Mode::Rmw, 3);
    run(Bug::None, Mode::Plain, 1);
    run_deaths(Bug::None, Mode::Rmw, 1);
}

#[test]
fn every_bug_of_the_semaphore_is_caught() {
    let tests =
        [(BUGS, "one_bug_of_the_semaphore"), (BUGS_THAT_DEATH_FINDS, "one_bug_of_the_semaphore_that_death_finds")];
    for (bugs, test) in tests {
        for (bug, mode, expected) in bugs {
            one_is_caught(&format!("{bug:?}"), *mode, SEEDED, module_path!(), test, expected);
        }
    }
}
