//! A read-write lock in a [`Machine`]: the lock, what it guards, and what participants do with it.
//!
//! The lock guards the epoch of the last writer, in a cell that loom watches: so no writer is ever beside anybody. Whoever reads finds there what
//! the lock says that was written last.

use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::cell::Cell as Unwatched;
use std::rc::Rc;

use loom::thread::{self, JoinHandle};

use super::super::bell::Bell;
use super::super::cell::{Cell, NotCounted, ReaderCell};
use super::super::mutex::{FENCED, Failure, LockWords, WOKEN};
use super::super::reader::{ReaderLine, What};
use super::super::recovery;
use super::super::rwlock::{Blocked, Door, ReadWrite, Readers};
use super::super::slot::Slot;
use super::super::word::{Owner, OwnerWord, Step};
use super::machine::{Expired, Futex, Machine, PARTICIPANTS, Thread, slot};
use crate::sync::{AtomicU32, AtomicU64, total_order};

/// The functions under test: by default the real ones. `rwlock_seeded.rs` puts wrong ones in their place.
pub(super) trait Algorithm: Copy + Send + Sync + 'static {
    fn try_read(
        self,
        lock: ReadWrite<'_>,
        cell: &ReaderCell,
        me: Cell,
        wake: &dyn Fn(&AtomicU32),
    ) -> Result<Door, NotCounted> {
        lock.try_read(cell, me, wake)
    }

    fn leave(self, lock: ReadWrite<'_>, cell: &ReaderCell, me: Cell, wake: &dyn Fn(&AtomicU32)) -> bool {
        lock.leave(cell, me, wake)
    }

    fn claim(self, cell: &ReaderCell, seen: Cell, me: Cell) -> bool {
        cell.claim(seen, me)
    }

    fn drain(
        self,
        lock: ReadWrite<'_>,
        host: &Thread,
        mine: OwnerWord,
        cells: &[ReaderCell],
        own: Option<&ReaderCell>,
        is_current: &dyn Fn(Cell) -> bool,
    ) -> Result<(), Blocked<Expired>> {
        let are = Readers { is_current, lines: |_| Default::default(), what: WHAT };
        lock.drain(host, mine, || cells.iter(), own, &are)
    }

    fn give_back(self, cell: &ReaderCell, dead: Cell) {
        cell.give_back(dead);
    }

    /// What happens in which order, and how the gate is left.
    fn does(self, _: Order) -> bool {
        true
    }
}

/// What the algorithm's callers have to do; see [`Algorithm::does`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// Whoever wants to write takes the word before it looks at the cells.
    WordBeforeCells,
    /// A reader that came by the gate is counted before it leaves it; so is a writer that goes on as a reader.
    CountedBeforeTheWordIsFree,
    /// A reader leaves the gate as it found it: marked, if it was.
    MarkStays,
    /// A reader that wants to write does not wait for the word.
    UpgradeDoesNotQueue,
}

/// What the lock is to those who read it by a line.
pub(super) const WHAT: What = What::new(1);

/// Each participant has one.
pub(super) fn lines_of(lines: &[ReaderLine], cell: Cell) -> &[ReaderLine] {
    match cell.owner() {
        Owner::Held(slot) => lines.get(slot.index() as usize..=slot.index() as usize).unwrap_or_default(),
        _ => &[],
    }
}

#[derive(Clone, Copy)]
pub(super) struct Real;

impl Algorithm for Real {}

pub(super) struct World {
    pub(super) machine: Rc<Machine>,
    gate: LockWords,
    bell: Bell,
    written: Rc<AtomicU64>,
    cells: Vec<ReaderCell>,
    /// Grows when the name is given up.
    generation: AtomicU64,
    /// The epoch of the last writer.
    value: loom::cell::Cell<u64>,
    /// A writer died inside, and no writer released since. Not watched.
    died: Unwatched<bool>,
    /// By slot: who is in it. Not watched.
    incarnations: [Unwatched<u32>; PARTICIPANTS],
}

/// One thread in a [`World`], and the world it is in.
pub(super) struct Participant {
    pub(super) world: Rc<World>,
    pub(super) thread: Thread,
    /// The cell it had the last time.
    pub(super) mine: Rc<Unwatched<usize>>,
    /// It writes.
    pub(super) inside: Rc<Unwatched<bool>>,
}

impl World {
    /// One cell for each of `owners`, which has it already.
    pub(super) fn new(owners: &[usize]) -> Rc<Self> {
        let machine = Machine::new();
        let written = Rc::new(AtomicU64::new(0));
        let last = written.clone();
        machine.tells(move |dead| last.load(Acquire) == dead.epoch());
        let cell =
            |owner: &usize| ReaderCell { word: AtomicU64::new(Cell::of(slot(*owner), 0).0), ..ReaderCell::new() };
        Rc::new(Self {
            machine,
            gate: LockWords::new(),
            bell: Bell::new(),
            written,
            cells: owners.iter().map(cell).collect(),
            generation: AtomicU64::new(0),
            value: loom::cell::Cell::new(0),
            died: Unwatched::new(false),
            incarnations: Default::default(),
        })
    }

    fn lock(&self) -> ReadWrite<'_> {
        ReadWrite { gate: &self.gate, bell: &self.bell, written: &self.written }
    }

    pub(super) fn participant(self: &Rc<Self>, number: usize) -> Participant {
        let owned = self.cells.iter().position(|cell| cell.look().is_with(Cell::of(slot(number), 0)));
        Participant {
            world: self.clone(),
            thread: self.machine.thread(number),
            mine: Rc::new(Unwatched::new(owned.unwrap_or(0))),
            inside: Rc::default(),
        }
    }

    pub(super) fn spawn(self: &Rc<Self>, number: usize, body: impl FnOnce(&Participant) + 'static) -> JoinHandle<()> {
        self.spawn_mortal(number, usize::MAX, body)
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
            participant.thread.mortal(fuse, || body(&participant), || participant.leave_behind());
        })
    }

    /// When all threads ended: nobody writes, reads, or is asleep or counted.
    pub(super) fn assert_at_rest(&self) {
        let word = self.gate.look();
        assert!(word.is_free() && !word.is_abandoned(), "the word is {word:?} at the end");
        for cell in &self.cells {
            assert!(cell.look().is_idle(), "a cell is {:#x} at the end", cell.look().0);
        }
        let counted = (self.gate.sleepers.load(Acquire) & !(WOKEN | FENCED)) + self.bell.sleepers.load(Acquire);
        assert!(counted <= self.machine.strays(), "sleepers counted at the end: {counted}");
        self.machine.assert_at_rest();
    }
}

impl Participant {
    fn slot(&self) -> Slot {
        slot(self.thread.slot)
    }

    fn me(&self) -> Cell {
        Cell::of(self.slot(), self.thread.incarnation())
    }

    pub(super) fn with_deadline(&self) -> Self {
        Self { thread: self.thread.with_deadline(), ..self.same() }
    }

    fn same(&self) -> Self {
        Self {
            world: self.world.clone(),
            thread: self.thread.same(),
            mine: self.mine.clone(),
            inside: self.inside.clone(),
        }
    }

    fn wake_bell(&self) -> impl Fn(&AtomicU32) {
        |_| self.world.machine.wake_all(Futex::Bell)
    }

    fn wake_lock(&self) -> impl Fn(&AtomicU64) -> bool {
        |_| self.world.machine.wake(Futex::Lock)
    }

    /// The word, as the mutex gets it. `None`: gave up.
    fn take_gate(&self) -> Option<OwnerWord> {
        let gate = &self.world.gate;
        let taken = match gate.try_acquire(self.slot(), 0, gate.look()) {
            Ok(word) => Some(word),
            Err(seen) => match gate.acquire_contended(&self.thread, self.slot(), seen) {
                Ok(acquired) => Some(acquired.word),
                Err(Failure::Refused(Expired)) => None,
                Err(failure) => panic!("failed at the gate: {failure:?}"),
            },
        };
        self.thread.unrecorded.set(false);
        taken
    }

    fn leave_gate(&self, gate: OwnerWord, freed: OwnerWord) {
        let word = &self.world.gate.owner;
        let left = word.compare_exchange(gate.0, freed.0, SeqCst, Relaxed);
        assert!(left.is_ok(), "taken from the living: the word is {left:?} instead of {gate:?}");
        self.world.gate.wake_sleepers(freed, self.wake_lock());
    }

    /// As the backend counts a reader that has the word. `false`: there is no cell for it.
    fn count_in(&self, algorithm: impl Algorithm) -> bool {
        let (world, me) = (&*self.world, self.me());
        loop {
            let (mut free, mut idle) = (None, None);
            for (number, cell) in world.cells.iter().enumerate() {
                if cell.count(me).is_ok() {
                    self.mine.set(number);
                    return true;
                }
                let seen = cell.look();
                if seen == Cell(0) {
                    free = free.or(Some((number, seen)));
                } else if seen.is_idle() {
                    idle = idle.or(Some((number, seen)));
                }
            }
            let Some((number, seen)) = free.or(idle) else { return false };
            if algorithm.claim(&world.cells[number], seen, me) {
                self.mine.set(number);
                return true;
            }
        }
    }

    /// As the backend does: the fast path, then the gate. `false`: gave up, there is no cell for it, or the name is gone.
    pub(super) fn try_to_read(&self, algorithm: impl Algorithm) -> bool {
        let (world, me) = (&*self.world, self.me());
        let cell = &world.cells[self.mine.get()];
        if let Ok(Door::Open(word)) = algorithm.try_read(world.lock(), cell, me, &self.wake_bell()) {
            assert!(word.is_abandoned() == world.died.get(), "told of the death: {word:?}");
            if world.generation.load(Relaxed) != 0 {
                algorithm.leave(world.lock(), cell, me, &self.wake_bell());
                return false;
            }
            if !word.is_abandoned() {
                return true;
            }
            algorithm.leave(world.lock(), cell, me, &self.wake_bell());
        }
        let Some(gate) = self.take_gate() else { return false };
        assert!(gate.is_abandoned() == world.died.get(), "told of the death: {gate:?}");
        let freed = if algorithm.does(Order::MarkStays) { gate.give_up() } else { gate.release() };
        if world.generation.load(Relaxed) != 0 {
            self.leave_gate(gate, freed);
            return false;
        }
        if !algorithm.does(Order::CountedBeforeTheWordIsFree) {
            self.leave_gate(gate, freed);
            return self.count_in(algorithm);
        }
        let counted = self.count_in(algorithm);
        self.leave_gate(gate, freed);
        counted
    }

    /// What is done while it reads.
    pub(super) fn look(&self) {
        let world = &*self.world;
        let (value, written) = (world.value.get(), world.written.load(Relaxed));
        let same = value == written || world.died.get();
        assert!(same, "the token of a reader is not that of the last write: {written} instead of {value}");
        // Here somebody else may write, if anything lets it.
        assert_eq!(world.cells[self.mine.get()].look().owner(), self.me().owner(), "taken from the living");
        assert_eq!(world.value.get(), value, "taken from the living: written while somebody reads");
    }

    pub(super) fn end_reading(&self, algorithm: impl Algorithm) {
        let world = &*self.world;
        let left = algorithm.leave(world.lock(), &world.cells[self.mine.get()], self.me(), &self.wake_bell());
        assert!(left, "taken from the living: a reader was not counted");
    }

    pub(super) fn reads(&self, algorithm: impl Algorithm) {
        if self.try_to_read(algorithm) {
            self.look();
            self.end_reading(algorithm);
        }
    }

    fn drain(&self, algorithm: impl Algorithm, word: OwnerWord, own: Option<&ReaderCell>) -> bool {
        let world = &*self.world;
        let incarnation = |slot: Slot| world.incarnations[slot.index() as usize].get();
        let is_current = |cell: Cell| match cell.owner() {
            Owner::Held(slot) => cell.is_with(Cell::of(slot, incarnation(slot))),
            _ => false,
        };
        // From here until it is recorded at the bell it may be on the count.
        self.thread.unrecorded.set(true);
        let host = self.thread.at_bell();
        let drained = algorithm.drain(world.lock(), &host, word, &world.cells, own, &is_current);
        self.thread.unrecorded.set(false);
        match drained {
            Ok(()) => {
                self.inside.set(true);
                true
            }
            Err(Blocked::Refused(Expired)) => {
                self.leave_gate(word, word.give_up());
                false
            }
            Err(blocked) => panic!("failed to go in: {blocked:?}"),
        }
    }

    /// `None`: gave up, or the name is gone.
    pub(super) fn try_to_write(&self, algorithm: impl Algorithm) -> Option<OwnerWord> {
        let world = &*self.world;
        let nobody_reads = || world.cells.iter().all(|cell| cell.look().is_idle());
        let looked = !algorithm.does(Order::WordBeforeCells) && nobody_reads();
        let word = self.take_gate()?;
        assert!(word.is_abandoned() == world.died.get(), "told of the death: {word:?}");
        if world.generation.load(Relaxed) != 0 {
            self.leave_gate(word, word.give_up());
            return None;
        }
        if looked {
            world.lock().go_in(word);
            self.inside.set(true);
            return Some(word);
        }
        self.drain(algorithm, word, None).then_some(word)
    }

    /// What is done while it writes.
    pub(super) fn change(&self, word: OwnerWord) {
        let world = &*self.world;
        assert!(world.value.get() < word.epoch(), "token {} comes after {}", word.epoch(), world.value.get());
        world.value.set(word.epoch());
        // Here somebody else may come in, if anything lets it.
        assert_eq!(world.gate.look(), word, "taken from the living");
        world.value.set(word.epoch());
    }

    pub(super) fn end_writing(&self, word: OwnerWord) {
        self.world.died.set(false);
        self.leave_gate(word, word.release());
        self.inside.set(false);
    }

    pub(super) fn writes(&self, algorithm: impl Algorithm) {
        if let Some(word) = self.try_to_write(algorithm) {
            self.change(word);
            self.end_writing(word);
        }
    }

    /// Writes, and goes on as a reader.
    fn writes_and_reads(&self, algorithm: impl Algorithm) {
        let Some(word) = self.try_to_write(algorithm) else { return };
        self.change(word);
        let first = algorithm.does(Order::CountedBeforeTheWordIsFree);
        assert!(!first || self.count_in(algorithm), "no cell for a writer that goes on as a reader");
        self.end_writing(word);
        assert!(first || self.count_in(algorithm));
        assert_eq!(self.world.value.get(), word.epoch(), "taken from the living: written in between");
        self.look();
        self.end_reading(algorithm);
    }

    /// Reads, and goes on as a writer if nobody else wants to.
    fn reads_and_writes(&self, algorithm: impl Algorithm) {
        if self.try_to_read(algorithm) {
            self.look();
            self.goes_on_as_writer(algorithm);
        }
    }

    /// If nobody else wants to; whether it did. It reads no more.
    pub(super) fn goes_on_as_writer(&self, algorithm: impl Algorithm) -> bool {
        let world = &*self.world;
        let seen = world.value.get();
        let taken = match algorithm.does(Order::UpgradeDoesNotQueue) {
            true => world.gate.try_acquire(self.slot(), 0, world.gate.look()).ok(),
            false => self.take_gate(),
        };
        let own = &world.cells[self.mine.get()];
        let Some(word) = taken.filter(|word| self.drain(algorithm, *word, Some(own))) else {
            self.end_reading(algorithm);
            return false;
        };
        assert_eq!(world.value.get(), seen, "taken from the living: written in between");
        self.end_reading(algorithm);
        self.change(word);
        self.end_writing(word);
        true
    }

    /// Gives the name up if nobody reads; whether it did. As `segment::names`.
    pub(super) fn give_name_up(&self) -> bool {
        let world = &self.world;
        let Step::To(held) = world.gate.look().acquire(self.slot()) else { return false };
        if world.gate.owner.compare_exchange(held.before_acquire().0, held.0, SeqCst, Relaxed).is_err() {
            return false;
        }
        total_order();
        let unused = world.cells.iter().all(|cell| cell.look().is_idle());
        if unused {
            // Whoever read now would be at this at the same time.
            world.value.set(u64::MAX);
            world.generation.store(1, Relaxed);
        }
        self.leave_gate(held, held.give_up());
        unused
    }

    /// What it has stays as it is.
    pub(super) fn leave_behind(&self) {
        if self.inside.get() && self.world.gate.look().slot_code() == self.slot().code() {
            self.world.died.set(true);
        }
    }

    /// Cleans up after the first one in slot number `dead`, if it died. As `segment::participants`.
    pub(super) fn clean_up(&self, algorithm: impl Algorithm, dead: usize) {
        if !self.thread.is_dead(dead) {
            return;
        }
        let world = &self.world;
        let told = |word: OwnerWord| world.written.load(Acquire) == word.epoch();
        recovery::give_back(&world.gate, slot(dead), told, self.wake_lock());
        self.clean_cells(algorithm, dead);
        // From here until the count is one less.
        self.thread.unrecorded.set(true);
        match self.thread.clear_record_of(dead) {
            Some(Futex::Lock) => world.gate.uncount(self.wake_lock()),
            Some(Futex::Bell) => world.bell.uncount(),
            None => {}
        }
        self.thread.unrecorded.set(false);
    }

    pub(super) fn clean_cells(&self, algorithm: impl Algorithm, dead: usize) {
        self.world.cells.iter().for_each(|cell| algorithm.give_back(cell, Cell::of(slot(dead), 0)));
        self.world.bell.ring(|_| self.world.machine.wake_all(Futex::Bell));
    }

    /// As the next one in `slot`, in which somebody died.
    pub(super) fn reborn_in(&self, slot: usize) -> Self {
        let reborn = Self { thread: self.thread.reborn_in(slot), ..self.same() };
        self.world.incarnations[slot].set(reborn.thread.incarnation());
        reborn
    }
}

impl OwnerWord {
    /// HELD => the free word from which it was acquired.
    fn before_acquire(self) -> Self {
        Self::free_at(self.epoch() - 1)
    }
}

/// What somebody does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Turn {
    Read,
    Write,
    /// And goes on as a reader.
    WriteRead,
    /// And goes on as a writer.
    ReadWrite,
}

impl Participant {
    pub(super) fn take(&self, algorithm: impl Algorithm, turn: Turn) {
        match turn {
            Turn::Read => self.reads(algorithm),
            Turn::Write => self.writes(algorithm),
            Turn::WriteRead => self.writes_and_reads(algorithm),
            Turn::ReadWrite => self.reads_and_writes(algorithm),
        }
    }
}
