//! A thread that reads by a line of its own: for the one that reads most by a handle, while nobody writes. See [`protocol::reader`](crate::protocol::reader).

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::OnceLock;

use super::shared::SharedSpace;
use super::wait::wake_all;
use crate::os::fork::{self, ForkWord};
use crate::os::map::Spot;
use crate::protocol::cell::{Cell, ReaderCell};
use crate::protocol::reader::{ReaderLine, Reads, What};
use crate::protocol::slot::Me;
use crate::protocol::word::OwnerWord;
use crate::segment::format::{Entry, Place};

/// After so many reads with nobody writing in between a thread gets a line, or has its line opened again. Less would not pay: each time, the next writer has the processors
/// interrupted.
const UNDISTURBED: u32 = 2000;

/// A line that is lent to a lock, for one thread of one handle.
#[derive(Debug)]
pub(crate) struct ByLine {
    line: Spot<ReaderLine>,
    entry: Spot<Entry>,
    what: What,
    /// As which participant, and what says whether this process still is it.
    me: Me,
    present: ForkWord,
    thread: u32,
    number: u32,
    cell: u32,
    place: Place,
}

impl ByLine {
    /// Not in a forked child.
    #[inline(always)]
    fn is_mine(&self) -> bool {
        self.me.0 == self.present.get()
    }

    /// The entry that is read.
    #[inline(always)]
    pub(super) fn entry(&self) -> u32 {
        self.place.entry
    }

    /// Ends a read; whether there was one.
    #[inline(always)]
    pub(super) fn leave(&self) -> bool {
        self.is_mine() && self.line.leave(self.what, &self.entry.bell, wake_all)
    }
}

/// What a handle knows of that.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// Once for all: if the name gets another place, this handle reads without a line from then on.
    by: OnceLock<ByLine>,
    /// The lock's word at the last read that was counted in a cell.
    seen: AtomicU64,
    /// How many were at this word.
    reads: AtomicU32,
}

impl Lines {
    /// Reads by the line, if this thread has one and nobody writes or wants to.
    #[inline(always)]
    pub(super) fn try_read(&self) -> Option<&ByLine> {
        let by = self.of_me().filter(|by| by.thread == fork::known_thread())?;
        by.line.try_read(&by.entry.lock, by.what, &by.entry.bell, wake_all).then_some(by)
    }

    /// Not in a forked child.
    #[inline(always)]
    fn of_me(&self) -> Option<&ByLine> {
        self.by.get().filter(|by| by.is_mine())
    }

    /// Ends that; whether it was so.
    pub(super) fn leave(&self) -> bool {
        self.of_me().is_some_and(ByLine::leave)
    }

    /// The same of a reader that could not be found: what is damaged is set right.
    #[cold]
    pub(super) fn leave_damaged(&self) {
        if let Some(by) = self.of_me() {
            by.line.undo_flip(by.what, &by.entry.bell, wake_all);
        }
    }

    /// In which cell a reader by the line is counted if it is to be counted.
    pub(super) fn cell(&self) -> Option<u32> {
        self.of_me().map(|by| by.cell)
    }

    /// When the reader by the line was seen.
    pub(super) fn since(&self) -> Option<&AtomicU64> {
        self.of_me().filter(|by| by.line.look(by.what) == Reads::It).map(|by| &by.line.since)
    }

    /// After a read that found `word` and was counted in that cell, where it still is: if it pays, the next one is by a line.
    #[inline]
    pub(super) fn counted(&self, word: OwnerWord, begin: impl FnOnce()) {
        // Relaxed, and not exact where several threads read by one handle.
        let reads = if self.seen.load(Relaxed) == word.0 { self.reads.load(Relaxed) } else { 0 };
        self.seen.store(word.0, Relaxed);
        self.reads.store(if reads < UNDISTURBED { reads + 1 } else { 0 }, Relaxed);
        if reads == UNDISTURBED {
            begin();
        }
    }

    /// Has the calling thread, a reader that is counted in `cell`, read by a line from now on, if there is one for it.
    #[cold]
    pub(super) fn open(&self, space: &SharedSpace, place: Place, number: u32, cell: &ReaderCell) {
        let segment = space.segment();
        let (me, thread) = (Me(space.me.get()), fork::thread());
        let Some(slot) = me.slot().filter(|_| me.is_light() && segment.has_fences()) else { return };
        let lender = Cell::of(slot, me.incarnation());
        if let Some(by) = self.by.get() {
            let is_ours = by.me == me && by.thread == thread && by.place == place && by.cell == number;
            if is_ours && cell.lend(lender, by.number) {
                by.line.open(by.what);
            }
            return;
        }
        let Some(line_number) = space.take_line() else { return };
        let make = || {
            segment.make_reader_lines(slot).ok()?;
            let line = segment.reader_lines.spot(segment.first_reader_line(slot) + line_number as usize)?;
            line.clear();
            let entry = segment.entries.spot(place.entry as usize)?;
            let what = What::new(place.generation);
            let present = space.me.clone();
            let by = ByLine { line, entry, what, me, present, thread, number: line_number, cell: number, place };
            // Another thread may have been faster.
            self.by.set(by).ok()?;
            cell.lend(lender, line_number).then(|| self.by.get()).flatten()
        };
        match make() {
            Some(by) => by.line.open(by.what),
            None if self.by.get().is_some_and(|by| by.number == line_number && by.me == me) => {}
            None => space.give_line_back(line_number),
        }
    }

    /// With the handle: the line may be lent to another lock. Not if something reads by it, which then does so for as long as the process lives.
    pub(super) fn end(&mut self, space: &SharedSpace, cells: &[ReaderCell]) {
        let Some(by) = self.by.take() else { return };
        if by.me.0 != space.me.get() || by.line.look(by.what) != Reads::Nothing {
            return;
        }
        if let (Some(cell), Some(slot)) = (cells.get(by.cell as usize), by.me.slot()) {
            cell.end_lending(Cell::of(slot, by.me.incarnation()), by.number);
        }
        by.line.clear();
        space.give_line_back(by.number);
    }
}
