//! Models of [`reader`](super::super::reader), with halves of a fence.
//!
//! loom knows no such halves. So here a reader's processor has a store buffer: what the reader writes by a plain store gets to the line when the processor does that, in a
//! thread of its own, at the reader's next compare-and-swap, or at somebody's heavy fence. All else is seen at once (the mode is RMW). The writer is the
//! real one; the reader is written out once more, with a switch for each bug.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::rc::Rc;

use loom::sync::Mutex;
use loom::thread;

use super::super::bell::Bell;
use super::super::cell::{Cell, ReaderCell};
use super::super::mutex::LockWords;
use super::super::reader::ReaderLine;
use super::super::rwlock::{Door, ReadWrite, Readers};
use super::super::word::OwnerWord;
use super::machine::{Futex, Machine, Thread, slot};
use super::rwlock_world::{WHAT, lines_of};
use super::world::join;
use super::{Mode, explore, one_is_caught};
use crate::sync::{AtomicU64, total_order};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// A writer makes no heavy fence before it looks at the lines.
    NoFenceForLines,
    /// Nor one before it sleeps.
    NoHeavyFence,
    /// A reader does not look at the mark.
    MarkIsNotLookedAt,
    /// A reader looks at the mark, then at the word.
    MarkBeforeWord,
    /// A reader does not look at the word.
    WordIsNotLookedAt,
    /// A writer shuts lines before it makes the fence, and dies in between.
    ShutBeforeTheFence,
    /// A reader is counted in the cell instead of the line: after it left that.
    LeftBeforeItIsCounted,
    /// Who found the word taken tells nobody that it is gone.
    GoneWithoutRinging,
}

/// What the reader's processor did not write yet.
#[derive(Default)]
struct Buffer(Mutex<Option<u64>>);

struct World {
    machine: Rc<Machine>,
    gate: LockWords,
    bell: Bell,
    written: AtomicU64,
    cells: [ReaderCell; 1],
    lines: [ReaderLine; 1],
    buffer: Buffer,
    /// The epoch of the last writer.
    value: loom::cell::Cell<u64>,
    /// Who writes has not made its first heavy fence. Not watched.
    before_lines: core::cell::Cell<bool>,
    bug: Bug,
}

const READER: usize = 0;

impl World {
    fn new(bug: Bug, open: bool) -> Rc<Self> {
        let me = Cell::of(slot(READER), 0);
        let world = Rc::new(Self {
            machine: Machine::new(),
            gate: LockWords::new(),
            bell: Bell::new(),
            written: AtomicU64::new(0),
            cells: [ReaderCell { word: AtomicU64::new(me.0), ..ReaderCell::new() }],
            lines: [ReaderLine::new()],
            buffer: Buffer::default(),
            value: loom::cell::Cell::new(0),
            before_lines: core::cell::Cell::new(false),
            bug,
        });
        if open {
            assert!(world.cells[0].lend(me, 0));
            world.lines[0].open(WHAT);
        }
        let fenced = Rc::downgrade(&world);
        world.machine.fences(move || {
            let Some(world) = fenced.upgrade() else { return };
            match (bug, world.before_lines.replace(false)) {
                (Bug::NoHeavyFence, _) | (Bug::NoFenceForLines, true) => {}
                _ => world.flush(),
            }
        });
        world
    }

    fn lock(&self) -> ReadWrite<'_> {
        ReadWrite { gate: &self.gate, bell: &self.bell, written: &self.written }
    }

    fn wake(&self) {
        self.machine.wake_all(Futex::Bell);
    }

    fn flush(&self) {
        let mut buffer = self.buffer.0.lock().unwrap();
        if let Some(value) = *buffer {
            self.lines[0].reads.store(value, SeqCst);
        }
        *buffer = None;
    }

    /// A plain store, after all that were before.
    fn store(&self, value: u64) {
        self.flush();
        *self.buffer.0.lock().unwrap() = Some(value);
    }

    /// Whoever found the line empty goes on to the bell: a compare-and-swap is made there.
    fn ring(&self) {
        if self.bell.sleepers.load(Relaxed) != 0 {
            self.flush();
            self.bell.ring(|_| self.wake());
        }
    }

    fn reads(&self) {
        assert_eq!(self.value.get(), self.written.load(Relaxed), "written while somebody reads");
        assert_eq!(self.value.get(), self.written.load(Relaxed), "written while somebody reads");
    }

    /// As [`ReaderLine::try_read`].
    fn try_by_line(&self) -> bool {
        let what = !0 ^ self.open_mark();
        self.store(what);
        let mark_before = self.lines[0].open.load(Relaxed);
        let word = match self.bug {
            Bug::WordIsNotLookedAt => OwnerWord(0),
            _ => self.gate.look(),
        };
        let mark = match self.bug {
            Bug::MarkIsNotLookedAt => self.open_mark(),
            Bug::MarkBeforeWord => mark_before,
            _ => self.lines[0].open.load(Relaxed),
        };
        if word.is_free_and_clean() && mark == self.open_mark() {
            return true;
        }
        self.store(0);
        if self.bug != Bug::GoneWithoutRinging {
            self.ring();
        }
        false
    }

    /// The mark with which a line is open: the complement of what it is read by.
    fn open_mark(&self) -> u64 {
        let line = ReaderLine::new();
        line.open(WHAT);
        line.open.load(Relaxed)
    }

    fn by_line(&self) {
        if self.try_by_line() {
            self.reads();
            self.store(0);
            self.ring();
        }
    }

    /// Is counted, and opens the line; `false`: somebody has the word.
    fn counted(&self) -> bool {
        let me = Cell::of(slot(READER), 0);
        // Compare-and-swaps: what was stored before is written.
        self.flush();
        let door = self.lock().try_read(&self.cells[0], me, |_| self.wake()).expect("a cell of ours");
        if !matches!(door, Door::Open(_)) {
            return false;
        }
        assert!(self.cells[0].lend(me, 0));
        self.lines[0].open(WHAT);
        self.reads();
        assert!(self.lock().leave(&self.cells[0], me, |_| self.wake()));
        true
    }

    /// Reads by the line, then as one that is counted, without an end in between.
    fn changes_over(&self) {
        if !self.try_by_line() {
            return;
        }
        self.reads();
        let me = Cell::of(slot(READER), 0);
        let count = || {
            self.flush();
            self.cells[0].count(me).expect("a cell of ours");
        };
        let leave = || {
            self.store(0);
            self.ring();
        };
        if self.bug == Bug::LeftBeforeItIsCounted {
            leave();
            count();
        } else {
            count();
            leave();
        }
        self.reads();
        self.flush();
        assert!(self.lock().leave(&self.cells[0], me, |_| self.wake()));
    }

    fn writes(&self, thread: &Thread) {
        let me = slot(thread.slot);
        let word = match self.gate.try_acquire(me, 0, self.gate.look()) {
            Ok(word) => word,
            Err(seen) => self.gate.acquire_contended(thread, me, seen).expect("no deadline").word,
        };
        if self.bug == Bug::ShutBeforeTheFence {
            total_order();
            self.lines[0].shut(WHAT);
        }
        self.before_lines.set(true);
        let are = Readers { is_current: |_| true, lines: |cell| lines_of(&self.lines, cell), what: WHAT };
        self.lock().drain(&thread.at_bell(), word, || self.cells.iter(), None, &are).expect("no deadline");
        self.value.set(word.epoch());
        assert_eq!(self.gate.look(), word);
        self.gate.release(word, |_| self.machine.wake(Futex::Lock)).expect("held");
    }
}

/// A reader does all of `acts`, while the others write, so often each. If not `lazy`, its processor may write what is in the buffer at any time.
fn beside(bug: Bug, (open, lazy): (bool, bool), acts: &'static [fn(&World)], writes: &'static [usize]) {
    let world = World::new(bug, open);
    let mut threads = Vec::new();
    let reader = world.clone();
    threads.push(thread::spawn(move || {
        acts.iter().for_each(|act| act(&reader));
        reader.flush();
    }));
    for (number, times) in (1..).zip(writes) {
        let (world, writer) = (world.clone(), world.machine.thread(number));
        threads.push(thread::spawn(move || (0..*times).for_each(|_| world.writes(&writer))));
    }
    if !lazy {
        let processor = world.clone();
        threads.push(thread::spawn(move || processor.flush()));
    }
    join(threads);
    assert!(world.gate.look().is_free() && world.cells[0].look().is_idle());
    assert_eq!(world.lines[0].reads.load(Relaxed), 0);
}

const BY_LINE: fn(&World) = World::by_line;
const COUNTED: fn(&World) = |world| {
    world.counted();
};
const CHANGES_OVER: fn(&World) = World::changes_over;

fn run(bug: Bug, bound: usize) {
    let name = |what: &str| match bug {
        Bug::None => format!("reader by a line, {what}"),
        _ => format!("seeded, reader by a line, {what}"),
    };
    let explore = |what: &str, bound, how, acts, writes| {
        explore(&name(what), Mode::Rmw, bound, move || beside(bug, how, acts, writes));
    };
    explore("one writes", bound, (true, false), &[BY_LINE], &[1]);
    explore("opened beside a writer", bound, (false, false), &[COUNTED, BY_LINE], &[1]);
    explore("counted instead", bound, (true, false), &[CHANGES_OVER], &[1]);
    explore("opened again", bound.min(2), (true, false), &[BY_LINE, COUNTED, BY_LINE], &[2]);
    explore("two write", bound.min(2), (true, true), &[BY_LINE, BY_LINE], &[1, 1]);
    // Between the reader's looks at the mark and at the word the first write has to begin and to end.
    explore("one writes twice", bound + 1, (true, true), &[BY_LINE], &[2]);
}

#[test]
fn nobody_reads_by_a_line_beside_a_writer() {
    run(Bug::None, 3);
}

const BESIDE: &[&str] = &["written while somebody reads", "Causality violation", "Concurrent"];

const BUGS: &[(Bug, &[&str])] = &[
    (Bug::NoFenceForLines, BESIDE),
    (Bug::NoHeavyFence, &["deadlock"]),
    (Bug::MarkIsNotLookedAt, BESIDE),
    (Bug::MarkBeforeWord, BESIDE),
    (Bug::WordIsNotLookedAt, BESIDE),
    (Bug::ShutBeforeTheFence, BESIDE),
    (Bug::LeftBeforeItIsCounted, BESIDE),
    (Bug::GoneWithoutRinging, &["deadlock"]),
];

/// Names the bug that the next test is to run with, in processes started by the last.
const SEEDED: &str = "HOSTLOCK_SEEDED_READER_BUG";

#[test]
fn one_bug_of_readers_by_lines() {
    if let Ok(wanted) = std::env::var(SEEDED) {
        let (bug, _) = BUGS.iter().find(|(bug, _)| format!("{bug:?}") == wanted).expect("a bug that exists");
        run(*bug, 3);
    }
}

#[test]
fn every_bug_of_readers_by_lines_is_caught() {
    for (bug, expected) in BUGS {
        one_is_caught(&format!("{bug:?}"), Mode::Rmw, SEEDED, module_path!(), "one_bug_of_readers_by_lines", expected);
    }
}
