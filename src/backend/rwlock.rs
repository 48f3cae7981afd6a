//! A named read-write lock, as a handle keeps it: the writer's half is its [`SharedLock`], readers are counted in cells of its entry's extents.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::io::{self, ErrorKind};
use std::sync::Arc;

use super::by_line::{ByLine, Lines};
use super::inspect;
use super::lock::{Abandonment, Acquisition, SharedLock, Spec};
use super::shared::SharedSpace;
use super::wait::{Refusal, Wait, Waiting, give_way, stamp, wake_all};
use crate::holder::{Abandoned, Holder};
use crate::os::clock::{Deadline, Monotonic};
use crate::os::fence as membarrier;
use crate::os::map::Table;
use crate::protocol::cell::{Cell, NotCounted, ReaderCell};
use crate::protocol::mutex::Failure;
use crate::protocol::rwlock::{Blocked, Door, ReadWrite};
use crate::protocol::slot::Me;
use crate::protocol::word::{Owner, OwnerWord};
use crate::segment::extents::Wanted;
use crate::segment::format::{Entry, Place};
use crate::segment::waiters::{OWN_READER, Target};
use crate::{Error, Result};

/// How often a reader looks whether it can go in, before it queues.
const LOOKS: u32 = 20;

/// One reader: where it is counted, and of which entry. Whose it is stands in the cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    cell: u32,
    entry: u32,
}

impl Reading {
    /// In which entry.
    pub(crate) fn entry(self) -> u32 {
        self.entry
    }

    /// Instead of one that was ended: there is no such cell.
    pub(crate) const ENDED: Self = Self { cell: u32::MAX, entry: 0 };

    /// Instead of a cell: it reads by the line of its handle.
    const LINE: u32 = u32::MAX - 1;

    /// Of a lock file: the number by which the process knows what it has locked.
    pub(super) fn of_file(number: u32) -> Self {
        Self { cell: number, entry: 0 }
    }

    pub(super) fn number(self) -> u32 {
        self.cell
    }
}

/// What an acquisition was told of a death, and whom to clean up after when it is over.
pub(crate) type Told = Option<Box<Abandonment>>;

/// A named read-write lock, as a handle keeps it.
#[derive(Debug)]
pub(crate) struct SharedRwLock {
    lock: SharedLock,
    /// Of the whole segment.
    cells: Table<ReaderCell>,
    /// The cell this process had the last time (high half), of the name that had its entry in that generation (low half).
    mine: AtomicU64,
    lines: Lines,
}

impl Clone for SharedRwLock {
    fn clone(&self) -> Self {
        let mine = AtomicU64::new(self.mine.load(Relaxed));
        Self { lock: self.lock.clone(), cells: self.cells.clone(), mine, lines: Lines::default() }
    }
}

impl Drop for SharedRwLock {
    fn drop(&mut self) {
        self.lines.end(&self.lock.space, &self.cells);
    }
}

impl core::borrow::Borrow<SharedLock> for SharedRwLock {
    fn borrow(&self) -> &SharedLock {
        &self.lock
    }
}

impl core::borrow::Borrow<SharedLock> for &SharedRwLock {
    fn borrow(&self) -> &SharedLock {
        &self.lock
    }
}

/// Who cannot make heavy fences has no part in read-write locks of a space whose maker could: readers may be there that are only seen with one.
fn no_fence(space: &SharedSpace) -> Error {
    let refused = io::Error::new(
        ErrorKind::PermissionDenied,
        "membarrier(2) is not allowed here, but was to whoever made the space",
    );
    Error::system("use the read-write locks of", space.segment.space(), refused)
}

#[inline(always)]
fn words(entry: &Entry) -> ReadWrite<'_> {
    ReadWrite { gate: &entry.lock, bell: &entry.bell, written: &entry.state }
}

impl SharedRwLock {
    pub(crate) fn new(space: &Arc<SharedSpace>, spec: Spec) -> Result<Self> {
        let lock = SharedLock::new(space, spec)?;
        if space.segment.has_fences() && !membarrier::is_there() {
            return Err(no_fence(space));
        }
        // Of no generation that the name has now: the first reader goes the long way and finds its cell.
        let mine = AtomicU64::new(u64::from(!Place::unpack(lock.place.load(Relaxed)).generation));
        Ok(Self { lock, cells: space.segment.cells.clone(), mine, lines: Lines::default() })
    }

    pub(crate) fn name(&self) -> &str {
        self.lock.name()
    }

    /// The writer's half, which knows the data.
    pub(crate) fn lock(&self) -> &SharedLock {
        &self.lock
    }

    /// This process, as it stands in its cells; `None` in a forked child that did not join yet.
    #[inline(always)]
    fn me(&self) -> Option<Cell> {
        let me = Me(self.lock.me.get());
        me.slot().map(|slot| Cell::of(slot, me.incarnation()))
    }

    /// Reads if nobody writes or wants to, and this thread has read much by this handle.
    #[inline(always)]
    pub(crate) fn read_by_line(&self) -> Option<(Reading, &ByLine)> {
        self.lines.try_read().map(|by| (Reading { cell: Reading::LINE, entry: by.entry() }, by))
    }

    /// Reads if nobody writes or wants to, without a word about the dead.
    #[inline(always)]
    pub(crate) fn read_fast(&self) -> Option<Reading> {
        let place = Place::unpack(self.lock.place.load(Relaxed));
        let mine = self.mine.load(Relaxed);
        if mine as u32 != place.generation {
            return None;
        }
        let (number, me) = ((mine >> 32) as u32, self.me()?);
        let cell = self.cells.get(number as usize)?;
        let entry = self.lock.entry(place.entry);
        match words(entry).try_read(cell, me, wake_all) {
            Ok(Door::Open(word)) if !word.is_abandoned() && self.lock.is_ours(place) => {
                self.lines.counted(word, || self.lines.open(&self.lock.space, place, number, cell));
                Some(Reading { cell: number, entry: place.entry })
            }
            Ok(Door::Open(_)) => {
                words(entry).leave_again(cell, me, wake_all);
                None
            }
            Ok(Door::Held(_)) | Err(_) => None,
        }
    }

    /// Reads, waiting until `deadline`.
    #[cold]
    pub(crate) fn read(&self, thread: u32, deadline: Deadline) -> Result<(Reading, Option<Box<Abandoned>>)> {
        // A writer that is short is soon out again.
        for look in 0..LOOKS {
            let place = Place::unpack(self.lock.place.load(Relaxed));
            let word = self.lock.entry(place.entry).lock.look();
            if word.is_free() {
                match self.read_fast() {
                    Some(reading) => return Ok((reading, None)),
                    // It has no cell yet, or there is somebody to be told of.
                    None if self.mine.load(Relaxed) as u32 != place.generation || word.is_abandoned() => break,
                    None => {}
                }
            }
            for _ in 0..1u32 << look.min(8) {
                core::hint::spin_loop();
            }
        }
        let waited = self.lock.acquire(thread, deadline, None)?;
        let (gate, dead) = (waited.acquisition, waited.dead);
        let counted = self.count_in(gate);
        // A writer that died is told of to the next one as well, until one released in good order.
        self.lock.give_up(gate);
        if let Some(slot) = dead {
            // If it fails, whoever needs the slot tries again.
            let _ = self.lock.space.recover_dead(Some(slot));
        }
        Ok((counted?, waited.abandoned.map(|abandoned| Box::new(abandoned.told))))
    }

    /// Counts a reader of this process, in a cell of its own, while the caller has the word as `gate`. Then no other process can take a cell.
    fn count_in(&self, gate: Acquisition) -> Result<Reading> {
        let space = &self.lock.space;
        let segment = &space.segment;
        let entry = self.lock.entry(gate.entry);
        let place = self.lock.place_of(gate);
        let me = self.me().ok_or_else(|| self.lost(gate))?;
        let found = |number: u32| {
            self.mine.store((number as u64) << 32 | place.generation as u64, Relaxed);
            Ok(Reading { cell: number, entry: gate.entry })
        };
        loop {
            let (mut free, mut idle) = (None, Vec::new());
            for number in segment.cell_numbers(entry) {
                let number = number?;
                let Some(cell) = self.cells.get(number as usize) else { continue };
                match cell.count(me) {
                    Ok(_) => return found(number),
                    Err(NotCounted::Full) => continue,
                    Err(NotCounted::NotMine) => {}
                }
                let (seen, lent) = (cell.look(), cell.lent());
                if seen == Cell(0) && lent == Cell(0) {
                    free = free.or(Some((number, seen)));
                } else if seen.is_idle() {
                    idle.push((number, seen));
                }
            }
            let chosen = match free {
                Some(free) => Some(free),
                None if space.under_names(|_| segment.add_cells(gate.entry))? => continue,
                // No room for more: one of somebody who does not read now, and will look for another when it does.
                None => idle.into_iter().find(|(number, _)| {
                    let cell = &self.cells[*number as usize];
                    segment.take_lines_back(cell, place.generation, membarrier::heavy)
                }),
            };
            let Some((number, seen)) = chosen else {
                // The rest may be kept by the dead.
                if space.recover_dead(None)? > 0 {
                    continue;
                }
                return Err(segment.no_extents(&self.lock.spec.name, &Wanted::of(self.lock.spec.kind)));
            };
            if self.cells[number as usize].claim(seen, me) {
                self.cells[number as usize].since.store(0, Relaxed);
                return found(number);
            }
        }
    }

    fn lost(&self, acquisition: Acquisition) -> Error {
        Error::Lost { name: self.lock.spec.name.clone(), token: self.lock.token(acquisition) }
    }

    /// Writes, waiting until what `deadline` says.
    #[inline(always)]
    pub(crate) fn write(&self, thread: u32, deadline: impl FnOnce() -> Deadline) -> Result<(Acquisition, Told)> {
        match self.lock.acquire_fast_as(thread, SeqCst) {
            Some((gate, _)) if self.nobody_reads(gate) => {
                words(self.lock.entry(gate.entry)).go_in(gate.word);
                Ok((gate, None))
            }
            Some((gate, _)) => self.write_slowly(thread, deadline(), Ok(gate)),
            None => match self.lock.try_acquire(thread, SeqCst) {
                Ok(gate) if self.nobody_reads(gate) => {
                    words(self.lock.entry(gate.entry)).go_in(gate.word);
                    Ok((gate, None))
                }
                begun => self.write_slowly(thread, deadline(), begun),
            },
        }
    }

    /// Whether no cell has readers, nor is damaged.
    #[inline]
    fn nobody_reads(&self, gate: Acquisition) -> bool {
        let segment = &self.lock.space.segment;
        segment.all_cells(self.lock.entry(gate.entry), |cell| segment.is_quiet(cell))
    }

    #[cold]
    fn write_slowly(
        &self,
        thread: u32,
        deadline: Deadline,
        begun: std::result::Result<Acquisition, Option<Acquisition>>,
    ) -> Result<(Acquisition, Told)> {
        let started = Monotonic::now();
        let (gate, told) = match begun {
            Ok(gate) => (gate, None),
            Err(begun) => {
                let waited =
                    self.lock.acquire(thread, deadline, begun).map_err(|error| self.name_holder(error, started))?;
                (waited.acquisition, waited.abandoned)
            }
        };
        match self.drain(gate, thread, deadline, started, None) {
            Ok(()) => Ok((gate, told)),
            Err(error) => {
                self.lock.give_up(gate);
                if let Some(told) = told {
                    self.lock.bury(&told);
                }
                Err(self.name_holder(error, started))
            }
        }
    }

    /// Waits until the readers are gone, but for the one that is `own`, and goes in.
    fn drain(
        &self,
        gate: Acquisition,
        thread: u32,
        deadline: Deadline,
        started: Monotonic,
        own: Option<&ReaderCell>,
    ) -> Result<()> {
        let space = &*self.lock.space;
        let segment = &space.segment;
        let entry = self.lock.entry(gate.entry);
        let (slot, incarnation) = space.member()?;
        let reads = if own.is_some() { OWN_READER } else { 0 };
        let waiting = Waiting { slot, incarnation, thread, started, deadline, own: reads };
        let wait = Wait::new(space, Target::Bell(self.lock.place_of(gate)), waiting);
        // While we have the word there are no new cells.
        let cells = segment.cells_of(entry).collect::<Result<Vec<_>>>()?;
        let are = segment.readers(self.lock.place_of(gate).generation);
        let drained = words(entry).drain(&wait, gate.word, || cells.iter().copied(), own, &are);
        if drained.is_ok()
            && let Some(slot) = wait.dead()
        {
            // It was a reader: there is nothing to tell, but all the rest of it to clean up. If it fails, whoever needs the slot
            // tries again.
            let _ = space.recover_dead(Some(slot));
        }
        drained.map_err(|blocked| match blocked {
            Blocked::Refused(Refusal::TimedOut) => Error::TimedOut {
                name: self.lock.spec.name.clone(),
                holder: None,
                waited: Monotonic::now().since(started),
            },
            Blocked::Refused(refusal) => wait.explain(Failure::Refused(refusal), &self.lock.spec.name),
            Blocked::Damaged(word) => {
                let what = format!("the readers of \"{}\" cannot be counted: {word:#x}", self.name());
                Error::damaged(&segment.path, what)
            }
            Blocked::NoFence => no_fence(space),
        })
    }

    /// Of a wait that ended: not whoever waits too is in the way, but who writes or reads.
    fn name_holder(&self, error: Error, started: Monotonic) -> Error {
        match error {
            Error::TimedOut { name, holder, .. } => {
                let readers = self.holders().ok().and_then(|holders| holders.into_iter().next()).map(Box::new);
                Error::TimedOut { name, holder: readers.or(holder), waited: Monotonic::now().since(started) }
            }
            error => error,
        }
    }

    /// Makes a writer a reader; nobody writes in between. `Err`: it still writes.
    pub(crate) fn downgrade(&self, writing: Acquisition) -> Result<Reading> {
        if !self.lock.is_held(writing) {
            return Err(self.lost(writing));
        }
        let reading = self.count_in(writing)?;
        self.lock.release(writing);
        Ok(reading)
    }

    /// Makes a reader a writer; nobody writes in between. `Err`: it still reads.
    pub(crate) fn upgrade(&self, reading: Reading, thread: u32, deadline: Deadline) -> Result<Acquisition> {
        let started = Monotonic::now();
        let entry = self.lock.entry(reading.entry);
        let (slot, _) = self.lock.space.member()?;
        let own = self.cells.get(reading.cell as usize).filter(|_| self.is_reading(reading));
        let Some(own) = own else { return Err(self.lost_reading(reading)) };
        let name = &self.lock.spec.name;
        let space = &self.lock.space;
        // Whoever has the word may wait for us: two who did that would wait for each other.
        let take = || entry.lock.try_acquire_as(slot, thread, entry.lock.look(), SeqCst);
        let taken = take().or_else(|seen| match seen.owner() {
            // Unless it died: nobody who comes for the word need be on the way.
            Owner::Held(other) if other != slot && space.recover_dead(Some(other)).is_ok_and(|dead| dead > 0) => take(),
            // Nor need those for whom it is reserved.
            Owner::Nobody if seen.is_reserved() => {
                give_way(&entry.lock.owner, seen);
                let now = entry.lock.look();
                if now == seen { entry.lock.try_acquire_waiting(slot, thread, now, SeqCst) } else { take() }
            }
            _ => Err(seen),
        });
        let word = taken.map_err(|seen| match seen.owner() {
            Owner::Nobody if seen.is_exhausted() => {
                Error::TokensExhausted { name: name.clone(), path: space.segment.space().into() }
            }
            _ => {
                let holder = space.holder_of(&entry.lock, Some(&entry.since)).map(Box::new);
                Error::WouldBlock { name: name.clone(), holder }
            }
        })?;
        let gate = Acquisition { word, entry: reading.entry };
        match self.drain(gate, thread, deadline, started, Some(own)) {
            Ok(()) => {
                self.release_read(reading);
                Ok(gate)
            }
            Err(error) => {
                self.lock.give_up(gate);
                Err(self.name_holder(error, started))
            }
        }
    }

    pub(crate) fn lost_reading(&self, reading: Reading) -> Error {
        Error::Lost { name: self.lock.spec.name.clone(), token: self.token_of(reading) }
    }

    /// Has a reader by a line counted in a cell, as all others are.
    pub(crate) fn count(&self, reading: Reading) -> Result<Reading> {
        if reading.cell != Reading::LINE {
            return Ok(reading);
        }
        let found = self.lines.cell().and_then(|cell| Some((cell, self.me()?)));
        let Some((cell, me)) = found.filter(|_| self.is_reading(reading)) else {
            return Err(self.lost_reading(reading));
        };
        // It lends the line, so it is ours.
        if self.cells[cell as usize].count(me).is_err() {
            let what = format!("one reader more of \"{}\" cannot be counted", self.name());
            return Err(Error::damaged(&self.lock.space.segment.path, what));
        }
        self.lines.leave();
        Ok(Reading { cell, ..reading })
    }

    /// Takes a reader by a line off, if it is one; whether it did.
    #[inline(always)]
    pub(crate) fn release_by_line(by: &ByLine, reading: Reading) -> bool {
        reading.cell == Reading::LINE && by.leave()
    }

    /// Takes a reader off; `false` if it is another process's, or there is none any more. To be called once for each.
    #[inline]
    pub(crate) fn release_read(&self, reading: Reading) -> bool {
        if reading.cell == Reading::LINE {
            let left = self.lines.leave();
            if !left {
                self.lines.leave_damaged();
            }
            return left;
        }
        let (Some(me), Some(cell)) = (self.me(), self.cells.get(reading.cell as usize)) else { return false };
        words(self.lock.entry(reading.entry)).leave(cell, me, wake_all)
    }

    pub(crate) fn is_reading(&self, reading: Reading) -> bool {
        if reading.cell == Reading::LINE {
            return self.lines.since().is_some();
        }
        let (Some(me), Some(cell)) = (self.me(), self.cells.get(reading.cell as usize)) else { return false };
        let seen = cell.look();
        seen.is_with(me) && !seen.is_idle()
    }

    /// Of the last write, for whoever reads.
    pub(crate) fn token_of(&self, reading: Reading) -> u64 {
        let written = self.lock.entry(reading.entry).state.load(Relaxed) & OwnerWord::MAX_EPOCH;
        self.lock.space.segment.header.token_base + written
    }

    /// Takes that back, when whoever noted it ends.
    #[cold]
    pub(crate) fn unstamp_read(&self, reading: Reading) {
        if let Some(since) = self.since(reading) {
            since.store(0, Relaxed);
        }
    }

    /// Notes the time as that at which this process began to read.
    pub(crate) fn stamp_read(&self, reading: Reading) {
        if let Some(since) = self.since(reading) {
            since.store(stamp::plain(Monotonic::now()), Relaxed);
        }
    }

    fn since(&self, reading: Reading) -> Option<&AtomicU64> {
        match reading.cell {
            Reading::LINE => self.lines.since(),
            cell => self.is_reading(reading).then(|| &self.cells[cell as usize].since),
        }
    }

    /// The writer, or one for each process that reads.
    pub(crate) fn holders(&self) -> Result<Vec<Holder>> {
        let entry = self.lock.entry(self.lock.find()?.entry);
        let space = &self.lock.space;
        inspect::holders_of_rwlock(&space.segment, &space.me_as_judge(), self.lock.slot_code(), entry)
    }
}
