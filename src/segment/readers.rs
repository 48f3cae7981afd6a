//! The lines by which participants read: where they are, which of them a lock's cells lend, and taking them back. See [`protocol::reader`](crate::protocol::reader).
//!
//! They are in the page of the participant's life word, which is allocated by whoever first needs it; before that nobody lends a line, so nobody touches the hole.

use core::sync::atomic::Ordering::Relaxed;
use std::io;

use super::Segment;
use super::format::{Entry, PAGE, TAKES_FENCES};
use crate::os::file::allocate;
use crate::os::life;
use crate::protocol::cell::{Cell, ReaderCell};
use crate::protocol::reader::{LINES, ReaderLine, Reads, What};
use crate::protocol::rwlock::{NotShut, Readers, STRANGE, lent_of, shut_lines};
use crate::protocol::slot::Slot;
use crate::protocol::word::Owner;

/// The length of the lines of one participant.
const LINES_LEN: u64 = LINES as u64 * size_of::<ReaderLine>() as u64;

const _: () = assert!(life::WORDS * LINES_LEN <= life::word_at(0));

/// Where the lines of that slot begin, from where the lives do.
fn lines_at(slot: Slot) -> u64 {
    let slot = u64::from(slot.index());
    slot / life::WORDS * PAGE + slot % life::WORDS * LINES_LEN
}

impl Segment {
    /// The number of the first line of that slot, as [`Segment::reader_lines`] counts them.
    pub(crate) fn first_reader_line(&self, slot: Slot) -> usize {
        (lines_at(slot) / size_of::<ReaderLine>() as u64) as usize
    }

    /// The lines of the participant in a cell's word; none if nobody can be in it.
    pub(crate) fn reader_lines_of(&self, cell: Cell) -> &[ReaderLine] {
        match cell.owner() {
            Owner::Held(slot) => {
                let first = self.first_reader_line(slot);
                self.reader_lines.get(first..first + LINES as usize).unwrap_or_default()
            }
            _ => &[],
        }
    }

    /// Whether whoever is in that slot is registered for heavy fences.
    pub(crate) fn takes_fences(&self, slot: Slot) -> bool {
        self.records.get(slot.index() as usize).is_some_and(|record| record.flags.load(Relaxed) & TAKES_FENCES != 0)
    }

    /// Makes room for the lines of that slot, which is this process's.
    pub(crate) fn make_reader_lines(&self, slot: Slot) -> io::Result<()> {
        self.with_file(|file| allocate(file, self.header.lives_at() + lines_at(slot), LINES_LEN))
    }

    /// Whether a cell's word is of the participant that is in its slot now.
    fn is_current(&self, cell: Cell) -> bool {
        match cell.owner() {
            Owner::Held(slot) => {
                self.incarnation(slot).is_some_and(|incarnation| cell.is_with(Cell::of(slot, incarnation)))
            }
            _ => false,
        }
    }

    /// Of whom the cells and lines of a lock are that has this generation.
    pub(crate) fn readers<'s>(
        &'s self,
        generation: u32,
    ) -> Readers<impl Fn(Cell) -> bool + use<'s>, impl Fn(Cell) -> &'s [ReaderLine] + use<'s>> {
        Readers {
            is_current: |cell| self.is_current(cell),
            lines: |cell| self.reader_lines_of(cell),
            what: What::new(generation),
        }
    }

    /// What a cell lends, how many read by those lines, and the first of them; `None` if that cannot be told.
    pub(crate) fn reads_by_line<'s>(
        &'s self,
        cell: &ReaderCell,
        generation: u32,
    ) -> Option<(Cell, u32, Option<&'s ReaderLine>)> {
        let mut lent = cell.lent();
        let mut strange = 0;
        loop {
            match self.reads_by_lent(lent, generation)? {
                Ok((count, first)) => return Some((lent, count, first)),
                Err(()) if strange == STRANGE => return None,
                Err(()) => strange += 1,
            }
            lent = cell.lent();
        }
    }

    /// `Err`: something else is read by one of them; if that goes on, and they are lent still, it is damage.
    fn reads_by_lent(&self, lent: Cell, generation: u32) -> Option<Result<(u32, Option<&ReaderLine>), ()>> {
        let (mut count, mut first) = (0, None);
        for line in lent_of(lent, self.reader_lines_of(lent))? {
            match line.look(What::new(generation)) {
                Reads::Nothing => {}
                Reads::It => {
                    count += 1;
                    first = first.or(Some(line));
                }
                // Of the next one in the slot, to whoever comes before the cell is cleaned.
                Reads::Other(_) if !self.is_current(lent) => {}
                Reads::Other(_) => return Some(Err(())),
                Reads::Damaged(_) => return None,
            }
        }
        Some(Ok((count, first)))
    }

    /// Shuts all lines that are lent to the entry, which the caller holds, and is sure of who reads by them then.
    pub(crate) fn shut_lines_of(
        &self,
        entry: &Entry,
        generation: u32,
        heavy: impl FnOnce() -> bool,
    ) -> Result<bool, NotShut> {
        let cells = || self.cells_of(entry).filter_map(Result::ok);
        shut_lines(cells, |cell| self.reader_lines_of(cell), What::new(generation), heavy)
    }

    /// Takes from a cell the lines that it lends, if nobody reads by it nor by them. Only for who holds the lock.
    pub(crate) fn take_lines_back(&self, cell: &ReaderCell, generation: u32, heavy: impl FnOnce() -> bool) -> bool {
        let lent = cell.lent();
        let shut =
            || shut_lines(|| core::iter::once(cell), |cell| self.reader_lines_of(cell), What::new(generation), heavy);
        lent == Cell(0) || shut().is_ok() && self.is_quiet(cell) && cell.clear_lent(lent)
    }

    /// Whether nobody reads by a cell, and no thread may begin to by a line that it lends.
    #[inline(always)]
    pub(crate) fn is_quiet(&self, cell: &ReaderCell) -> bool {
        let lent = cell.lent();
        // All at once, for there are many cells.
        Cell(lent.0 | cell.look().0).is_idle() || self.are_lines_quiet(lent, cell)
    }

    #[cold]
    #[inline(never)]
    fn are_lines_quiet(&self, lent: Cell, cell: &ReaderCell) -> bool {
        lent_of(lent, self.reader_lines_of(lent)).is_some_and(|mut lines| lines.all(ReaderLine::is_quiet))
            && cell.look().is_idle()
    }

    /// Whether nobody reads by a cell, nor by lines that it lends. To be asked for by who holds the lock, after those were shut.
    pub(crate) fn is_unread(&self, cell: &ReaderCell, generation: u32) -> bool {
        // In this order: whoever reads by a line may be counted in the cell instead.
        matches!(self.reads_by_line(cell, generation), Some((_, 0, _))) && cell.look().is_idle()
    }
}
