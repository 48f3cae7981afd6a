//! Bugs in the read-write lock that its models must catch. [`Copied`] is what they explore, written out once more with a switch for each bug;
//! each runs in a process of its own, as in [`seeded`](super::seeded).

use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

use super::super::cell::{Cell, NotCounted, ReaderCell};
use super::super::rwlock::{Blocked, Door, ReadWrite};
use super::super::word::{Owner, OwnerWord};
use super::super::{Host, Verdict};
use super::machine::{Expired, Thread};
use super::rwlock::{after_a_reader, after_a_writer, both_upgrade, name_is_given_up, one_cell};
use super::rwlock::{one_dies, one_gives_up, one_of_a_process_upgrades, reborn, turns, waiter_dies};
use super::rwlock_world::Turn::{self, Read, Write, WriteRead};
use super::rwlock_world::{Algorithm, Order};
use super::{Mode, explore, one_is_caught, sweep};
use crate::sync::{AtomicU32, full_fence, total_order};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// A reader looks whether anybody has the word, then counts itself.
    ReaderLooksBeforeItCounts,
    /// A reader does not look at the word at all.
    WordIsNotLookedAt,
    /// A writer looks at the cells, then takes the word.
    WriterLooksBeforeItTakesTheWord,
    /// A writer that found readers once goes in when it wakes.
    CellsAreLookedAtOnce,
    /// A reader that takes itself off tells nobody.
    LeftWithoutRinging,
    /// A reader that found the word taken takes itself off and tells nobody.
    UndoneWithoutRinging,
    /// A reader rings, then takes itself off.
    RungBeforeItLeft,
    /// One that is left is not told that it is alone.
    LastButOneDoesNotRing,
    /// What was read is not released.
    LeavingIsRelaxed,
    /// What was read by those that are gone is not acquired.
    LookingIsRelaxed,
    /// A reader that came by the gate leaves it, then counts itself.
    CountedAfterTheGate,
    /// A reader that came by the gate takes away the mark that a writer died.
    ReaderTakesTheMark,
    /// Who wants to go on as a writer waits for the word.
    UpgradeQueues,
    /// An idle cell is taken from its owner by a store.
    CellIsTakenByStore,
    /// `written` is stored as soon as the writer has the word.
    WrittenBeforeItGoesIn,
    /// `written` is never stored.
    NothingIsWritten,
    /// Whoever waits never asks whether the readers live.
    NobodyIsJudged,
    /// A dead one's cell is cleared by a store, whoever has it by now.
    ClearedByStore,
    /// A dead one's cell is known by the slot alone.
    ClearedWithoutIncarnation,
}

#[derive(Clone, Copy)]
struct Copied(Bug);

impl Copied {
    fn has(self, bug: Bug) -> bool {
        self.0 == bug
    }

    fn is_nobody_there(self, host: &Thread, mine: OwnerWord, cell: &ReaderCell, own: Option<&ReaderCell>) -> bool {
        let mut seen = match self.has(Bug::LookingIsRelaxed) {
            true => Cell(cell.word.load(Relaxed)),
            false => cell.look(),
        };
        loop {
            if seen.is_idle() {
                return true;
            }
            let Owner::Held(slot) = seen.owner() else { panic!("a cell is {:#x}", seen.0) };
            if slot.code() == mine.slot_code() {
                return own.is_some_and(|own| core::ptr::eq(own, cell)) && seen.readers() == Some(1);
            }
            if self.has(Bug::NobodyIsJudged) || !matches!(host.judge(slot), Verdict::Dead(_)) {
                return false;
            }
            match cell.word.compare_exchange(seen.0, 0, SeqCst, SeqCst) {
                Ok(_) => return true,
                Err(now) => seen = Cell(now),
            }
        }
    }
}

impl Algorithm for Copied {
    fn try_read(
        self,
        lock: ReadWrite<'_>,
        cell: &ReaderCell,
        me: Cell,
        wake: &dyn Fn(&AtomicU32),
    ) -> Result<Door, NotCounted> {
        let look = || {
            total_order();
            OwnerWord(lock.gate.owner.load(SeqCst))
        };
        let before = look();
        cell.count(me)?;
        let word = match self.0 {
            Bug::ReaderLooksBeforeItCounts => before,
            Bug::WordIsNotLookedAt => OwnerWord(look().0 & 1),
            _ => look(),
        };
        if word.is_free() {
            return Ok(Door::Open(word));
        }
        if self.has(Bug::UndoneWithoutRinging) {
            cell.word.fetch_add(0u64.wrapping_sub(1 | 1 << 16), SeqCst);
        } else {
            self.leave(lock, cell, me, wake);
        }
        Ok(Door::Held(word))
    }

    fn leave(self, lock: ReadWrite<'_>, cell: &ReaderCell, me: Cell, wake: &dyn Fn(&AtomicU32)) -> bool {
        if self.has(Bug::RungBeforeItLeft) {
            lock.bell.ring(wake);
        }
        let order = if self.has(Bug::LeavingIsRelaxed) { Relaxed } else { SeqCst };
        let mut seen = Cell(cell.word.load(Relaxed));
        while seen.is_with(me) && !seen.is_idle() {
            let left = seen.leave();
            match cell.word.compare_exchange(seen.0, left.0, order, Relaxed) {
                Ok(_) => {
                    let alone = u16::from(!self.has(Bug::LastButOneDoesNotRing));
                    let rung = matches!(self.0, Bug::RungBeforeItLeft | Bug::LeftWithoutRinging);
                    if left.readers() <= Some(alone) && !rung {
                        lock.bell.ring(wake);
                    }
                    return true;
                }
                Err(now) => seen = Cell(now),
            }
        }
        false
    }

    fn claim(self, cell: &ReaderCell, seen: Cell, me: Cell) -> bool {
        if self.has(Bug::CellIsTakenByStore) {
            cell.word.store(me.0 + (1 | 1 << 16), SeqCst);
            return true;
        }
        cell.claim(seen, me)
    }

    fn drain(
        self,
        lock: ReadWrite<'_>,
        host: &Thread,
        mine: OwnerWord,
        cells: &[ReaderCell],
        own: Option<&ReaderCell>,
        _: &dyn Fn(Cell) -> bool,
    ) -> Result<(), Blocked<Expired>> {
        full_fence();
        if self.has(Bug::WrittenBeforeItGoesIn) {
            lock.go_in(mine);
        }
        let looked = core::cell::Cell::new(false);
        let look = || {
            let is_nobody_there = cells.iter().all(|cell| self.is_nobody_there(host, mine, cell, own));
            let enough = looked.replace(true) && self.has(Bug::CellsAreLookedAtOnce);
            (is_nobody_there || enough).then_some(())
        };
        lock.bell.wait_until(host, look).map_err(Blocked::Refused)?;
        if !self.has(Bug::NothingIsWritten) {
            lock.go_in(mine);
        }
        Ok(())
    }

    fn give_back(self, cell: &ReaderCell, dead: Cell) {
        let mut seen = Cell(cell.word.load(Acquire));
        let is_dead = |seen: Cell| match self.has(Bug::ClearedWithoutIncarnation) {
            true => seen.owner() == dead.owner(),
            false => seen.is_with(dead),
        };
        while is_dead(seen) {
            if self.has(Bug::ClearedByStore) {
                cell.word.store(0, SeqCst);
                return;
            }
            match cell.word.compare_exchange(seen.0, 0, SeqCst, Relaxed) {
                Ok(_) => return,
                Err(now) => seen = Cell(now),
            }
        }
    }

    fn does(self, order: Order) -> bool {
        let bug = match order {
            Order::WordBeforeCells => Bug::WriterLooksBeforeItTakesTheWord,
            Order::CountedBeforeTheWordIsFree => Bug::CountedAfterTheGate,
            Order::MarkStays => Bug::ReaderTakesTheMark,
            Order::UpgradeDoesNotQueue => Bug::UpgradeQueues,
        };
        !self.has(bug)
    }
}

/// The models, from the quickest to the slowest.
fn run(bug: Bug, mode: Mode, bound: usize) {
    let lock = Copied(bug);
    explore("seeded, rwlock, slot reborn", mode, bound, move || reborn(lock));
    explore("seeded, rwlock, name given up", mode, bound, move || name_is_given_up(lock, &[Read]));
    explore("seeded, rwlock, two upgrade", mode, bound, move || both_upgrade(lock));
    explore("seeded, rwlock, one of a process upgrades", mode, bound, move || one_of_a_process_upgrades(lock));
    explore("seeded, rwlock, one reads, one writes", mode, bound, move || turns(lock, &[Read, Write]));
    explore("seeded, rwlock, downgrade", mode, bound, move || turns(lock, &[WriteRead, Write]));
    explore("seeded, rwlock, two read by one cell", mode, bound, move || one_cell(lock));
    explore("seeded, rwlock, after a reader", mode, bound, move || after_a_reader(lock, NEVER, true));
    explore("seeded, rwlock, one gives up", mode, bound.min(2), move || one_gives_up(lock, Read));
    explore("seeded, rwlock, after a writer", mode, bound.min(2), move || after_a_writer(lock, NEVER, Read, Write));
}

/// Those in which somebody dies at any point.
fn run_deaths(bug: Bug, mode: Mode, bound: usize) {
    let lock = Copied(bug);
    let dies = move |fuse, turn: Turn, others| one_dies(lock, fuse, turn, others);
    sweep("seeded, rwlock, writer dies", mode, bound, move |fuse| dies(fuse, Write, &[Read]));
    sweep("seeded, rwlock, waiting writer dies", mode, bound, move |fuse| waiter_dies(lock, fuse, Read));
    sweep("seeded, rwlock, reader dies", mode, bound, move |fuse| dies(fuse, Read, &[Write]));
}

/// A fuse that is too long to burn down.
const NEVER: usize = usize::MAX - 1;

const DEADLOCK: &str = "deadlock";
const UNORDERED: &str = "Causality violation";
const STOLEN: &str = "taken from the living";
const NOT_TOLD: &str = "told of the death";
const OTHER_TOKEN: &str = "the token of a reader";

const BUGS: &[(Bug, Mode, &[&str])] = &[
    (Bug::ReaderLooksBeforeItCounts, Mode::Rmw, &[UNORDERED, STOLEN]),
    (Bug::WordIsNotLookedAt, Mode::Rmw, &[UNORDERED, STOLEN]),
    (Bug::WriterLooksBeforeItTakesTheWord, Mode::Rmw, &[UNORDERED, STOLEN]),
    (Bug::CellsAreLookedAtOnce, Mode::Rmw, &[UNORDERED, STOLEN]),
    (Bug::LeftWithoutRinging, Mode::Rmw, &[DEADLOCK]),
    (Bug::UndoneWithoutRinging, Mode::Rmw, &[DEADLOCK]),
    (Bug::RungBeforeItLeft, Mode::Rmw, &[DEADLOCK]),
    (Bug::LastButOneDoesNotRing, Mode::Rmw, &[DEADLOCK]),
    (Bug::LeavingIsRelaxed, Mode::Plain, &[UNORDERED]),
    (Bug::LookingIsRelaxed, Mode::Plain, &[UNORDERED]),
    (Bug::CountedAfterTheGate, Mode::Rmw, &[UNORDERED, STOLEN]),
    (Bug::ReaderTakesTheMark, Mode::Rmw, &[NOT_TOLD]),
    (Bug::UpgradeQueues, Mode::Rmw, &[DEADLOCK]),
    (Bug::CellIsTakenByStore, Mode::Rmw, &[STOLEN]),
    (Bug::NothingIsWritten, Mode::Rmw, &[OTHER_TOKEN]),
    (Bug::ClearedByStore, Mode::Rmw, &[STOLEN]),
    (Bug::ClearedWithoutIncarnation, Mode::Rmw, &[STOLEN]),
];

const BUGS_THAT_DEATH_FINDS: &[(Bug, Mode, &[&str])] =
    &[(Bug::WrittenBeforeItGoesIn, Mode::Rmw, &[NOT_TOLD]), (Bug::NobodyIsJudged, Mode::Rmw, &[DEADLOCK])];

/// Names the bug that the tests below are to run with, in processes started by the last of them.
const SEEDED: &str = "HOSTLOCK_SEEDED_RWLOCK_BUG";

fn wanted(bugs: &[(Bug, Mode, &[&str])]) -> Option<(Bug, Mode)> {
    let wanted = std::env::var(SEEDED).ok()?;
    let (bug, mode, _) = bugs.iter().find(|(bug, ..)| format!("{bug:?}") == wanted).expect("a bug that exists");
    Some((*bug, *mode))
}

/// Runs the models with one bug.
#[test]
fn one_bug_of_the_rwlock() {
    if let Some((bug, mode)) = wanted(BUGS) {
        run(bug, mode, 3);
    }
}

/// The same, for the models in which somebody dies at any point.
#[test]
fn one_bug_of_the_rwlock_that_death_finds() {
    if let Some((bug, mode)) = wanted(BUGS_THAT_DEATH_FINDS) {
        run_deaths(bug, mode, 2);
    }
}

#[test]
fn the_copy_of_the_rwlock_is_right() {
    run(Bug::None, Mode::Rmw, 3);
    run(Bug::None, Mode::Plain, 1);
    run_deaths(Bug::None, Mode::Rmw, 1);
}

#[test]
fn every_bug_of_the_rwlock_is_caught() {
    let tests = [(BUGS, "one_bug_of_the_rwlock"), (BUGS_THAT_DEATH_FINDS, "one_bug_of_the_rwlock_that_death_finds")];
    for (bugs, test) in tests {
        for (bug, mode, expected) in bugs {
            one_is_caught(&format!("{bug:?}"), *mode, SEEDED, module_path!(), test, expected);
        }
    }
}
