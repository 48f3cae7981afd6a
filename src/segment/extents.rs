//! Room for what does not fit an entry: cells of readers, seats of permits and members, data.
//!
//! An extent is a run of units. It belongs to the entry that names it, and each unit says which entry that is: the one is read by whoever
//! uses the extent, the other by whoever looks for room, and either can be made anew from the other. All of it changes
//! under the names' lock.
//!
//! Invariants:
//!
//! 1. A unit keeps its *content* for as long as the space lives: once it was used for one, it is never used for another. So whoever is late
//!    (it found a lock by a handle, and the lock's entry was given to another name before it came to its words) does to a seat what is
//!    done to seats and to a cell what is done to cells, and finds out afterwards, by the generation. Data is only touched after that.
//! 2. A unit whose word is damaged is not given away, and an extent whose word is damaged is not used.
//!
//! If we die: the names' lock is abandoned, and whoever gets it next makes the units anew from the entries.

use core::ops::Range;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::Segment;
use super::format::{EXTENTS_EACH, Entry, Kind, LINE_WORDS, Line, Meta, UNIT};
use crate::digest::Checked;
use crate::protocol::cell::{Cell, ReaderCell};
use crate::protocol::seat::Seat;
use crate::protocol::slot::Slot;
use crate::protocol::word::OwnerWord;
use crate::{Error, Result};

/// Lines of a unit.
pub(crate) const UNIT_LINES: u32 = (UNIT / size_of::<Line>() as u64) as u32;
/// Seats of a unit: two words each.
const UNIT_SEATS: u32 = UNIT_LINES * SEATS_EACH as u32;
/// Seats of a line.
pub(crate) const SEATS_EACH: usize = LINE_WORDS / 2;
/// Which of an entry's extents holds data; those before hold cells or seats.
pub(crate) const DATA: usize = EXTENTS_EACH - 1;
/// How many units each extent of cells has, in the order in which they are taken. Together they have room for every participant there can be.
const CELL_UNITS: [u32; DATA] = [1, 5, 30, 180, 1080];

/// A run of units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) first: u32,
    pub(crate) units: u32,
}

impl Extent {
    fn word(self) -> u64 {
        Checked((self.first as u64) << 31 | self.units as u64).word()
    }

    /// `Ok(None)`: there is none. `Err`: the word is damaged.
    fn read(word: u64, units: usize) -> core::result::Result<Option<Self>, ()> {
        if word == 0 {
            return Ok(None);
        }
        let number = Checked::read(word).ok_or(())?.0;
        let extent = Self { first: (number >> 31) as u32, units: number as u32 & (u32::MAX >> 1) };
        let fits = extent.units != 0 && extent.first as u64 + extent.units as u64 <= units as u64;
        fits.then_some(Some(extent)).ok_or(())
    }

    /// Its first line.
    pub(crate) fn first_line(self) -> u32 {
        self.first * UNIT_LINES
    }

    pub(crate) fn lines(self) -> u32 {
        self.units * UNIT_LINES
    }
}

/// What units are used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Lines, each with one process's count of readers.
    Cells = 1,
    /// Owner words, each with a word beside it.
    Seats = 2,
    /// What users keep there.
    Data = 3,
}

impl Content {
    /// What an entry of that kind has in its extent number `index`.
    fn of(kind: Kind, index: usize) -> Self {
        match kind {
            _ if index == DATA => Self::Data,
            Kind::RwLock | Kind::RwLockData => Self::Cells,
            _ => Self::Seats,
        }
    }
}

/// What a unit's word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Unused,
    Free(Content),
    /// By the entry with this number.
    Used(Content, u32),
    Damaged,
}

impl Unit {
    const NUMBER: u32 = (1 << 25) - 1;
    const CONTENT_SHIFT: u32 = 25;
    /// Makes the number of ones even, so that any two words differ in two bits at least.
    const PARITY: u32 = 1 << 31;

    fn word(self) -> u32 {
        let value = match self {
            Self::Unused | Self::Damaged => 0,
            Self::Free(content) => (content as u32) << Self::CONTENT_SHIFT,
            Self::Used(content, entry) => (content as u32) << Self::CONTENT_SHIFT | (entry + 1),
        };
        value | ((value.count_ones() & 1) << 31)
    }

    fn read(word: u32) -> Self {
        let content = match (word & !Self::PARITY) >> Self::CONTENT_SHIFT {
            1 => Content::Cells,
            2 => Content::Seats,
            3 => Content::Data,
            _ if word == 0 => return Self::Unused,
            _ => return Self::Damaged,
        };
        match (word & Self::NUMBER).checked_sub(1) {
            _ if !word.count_ones().is_multiple_of(2) => Self::Damaged,
            Some(entry) => Self::Used(content, entry),
            None => Self::Free(content),
        }
    }
}

/// What a new name needs beside its entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    pub(crate) kind: Kind,
    /// Permits, members or items; 0 for a kind that has none.
    pub(crate) count: u32,
    /// The words that its data begins with; all after them are zero.
    pub(crate) data: &'a [u64],
    /// How many words of data there are.
    pub(crate) room: u64,
}

impl Wanted<'_> {
    pub(crate) fn of(kind: Kind) -> Self {
        Self { kind, count: 0, data: &[], room: 0 }
    }

    /// How many units it needs at first, for what, and as which of the entry's extents.
    fn extents(&self) -> impl Iterator<Item = (usize, Content, u64)> {
        let first = match self.kind {
            Kind::RwLock | Kind::RwLockData => CELL_UNITS[0],
            Kind::Semaphore | Kind::Barrier | Kind::Latch => self.count.div_ceil(UNIT_SEATS),
            _ => 0,
        };
        let data = self.room.div_ceil(u64::from(UNIT_LINES) * LINE_WORDS as u64);
        let kind = self.kind;
        [(0, u64::from(first)), (DATA, data)]
            .into_iter()
            .filter(|(_, units)| *units != 0)
            .map(move |(index, units)| (index, Content::of(kind, index), units))
    }
}

impl Segment {
    /// Where an entry's extent number `index` is, if it has it.
    pub(crate) fn extent(&self, entry: &Entry, index: usize) -> Result<Option<Extent>> {
        // Acquire: pairs with the Release in `settle` and `add_cells`: what is in it.
        Extent::read(entry.extents[index].load(Acquire), self.units.len())
            .map_err(|()| Error::damaged(&self.path, "where an extent is cannot be told"))
    }

    /// For how many permits, members or items the entry was made.
    pub(crate) fn count(&self, entry: &Entry) -> Result<u32> {
        Checked::read(entry.count.load(Relaxed))
            .and_then(|count| u32::try_from(count.0).ok())
            .ok_or_else(|| Error::damaged(&self.path, "for how many a name was made cannot be told"))
    }

    /// How many bytes of the extents are in use.
    pub(crate) fn extents_in_use(&self) -> u64 {
        let used = self.units.iter().filter(|unit| matches!(Unit::read(unit.load(Relaxed)), Unit::Used(..)));
        used.count() as u64 * UNIT
    }

    /// Gives the entry the extents that it is to have, filled; the caller holds its lock and the names', and the entry has none now. `free` is
    /// the word of a free seat. `false`: there is no room, and nothing was changed.
    pub(super) fn settle(&self, index: u32, wanted: &Wanted<'_>, free: u64) -> bool {
        let entry = &self.entries[index as usize];
        for (number, content, units) in wanted.extents() {
            let Some(extent) = u32::try_from(units).ok().and_then(|units| self.allocate(index, content, units)) else {
                self.clear_extents(index);
                return false;
            };
            let lines = &self.lines[extent.first_line() as usize..][..extent.lines() as usize];
            let words = lines.iter().flat_map(|line| &line.words);
            match content {
                Content::Cells => words.for_each(|word| word.store(0, Relaxed)),
                Content::Seats => {
                    for (position, word) in words.enumerate() {
                        word.store(if position % 2 == 0 { free } else { 0 }, Relaxed);
                    }
                }
                Content::Data => {
                    let values = wanted.data.iter().copied().chain(core::iter::repeat(0));
                    words.zip(values).for_each(|(word, value)| word.store(value, Relaxed));
                }
            }
            // Release: what is in it.
            entry.extents[number].store(extent.word(), Release);
        }
        entry.count.store(Checked(wanted.count.into()).word(), Relaxed);
        true
    }

    /// Adds an extent of cells to the entry; the caller holds the names' lock, and the entry is a read-write lock. `false`: there
    /// is no room.
    pub(crate) fn add_cells(&self, index: u32) -> Result<bool> {
        let entry = &self.entries[index as usize];
        for (number, units) in CELL_UNITS.into_iter().enumerate() {
            if self.extent(entry, number)?.is_some() {
                continue;
            }
            let Some(extent) = self.allocate(index, Content::Cells, units) else { return Ok(false) };
            for line in &self.lines[extent.first_line() as usize..][..extent.lines() as usize] {
                line.words.iter().for_each(|word| word.store(0, Relaxed));
            }
            // Release: what is in it.
            entry.extents[number].store(extent.word(), Release);
            return Ok(true);
        }
        Ok(false)
    }

    /// Takes its extents from an entry, which the caller holds, with the names' lock, and which has no name.
    pub(super) fn clear_extents(&self, index: u32) {
        let entry = &self.entries[index as usize];
        for word in &entry.extents {
            let extent = Extent::read(word.swap(0, Relaxed), self.units.len());
            let Ok(Some(extent)) = extent else { continue };
            for unit in &self.units[extent.first as usize..][..extent.units as usize] {
                if let Unit::Used(content, user) = Unit::read(unit.load(Relaxed))
                    && user == index
                {
                    unit.store(Unit::Free(content).word(), Relaxed);
                }
            }
        }
        entry.count.store(0, Relaxed);
    }

    /// A run of free units, marked as the entry's.
    fn allocate(&self, entry: u32, content: Content, units: u32) -> Option<Extent> {
        let all = self.units.len();
        let wanted = units as usize;
        let hand = &self.globals().units_hand;
        let start = (hand.load(Relaxed) as usize).min(all);
        let free = |unit: usize| match Unit::read(self.units[unit].load(Relaxed)) {
            Unit::Unused => true,
            Unit::Free(was) => was == content,
            Unit::Used(..) | Unit::Damaged => false,
        };
        let run = |from: usize, to: usize| {
            let mut length = 0;
            for unit in from..to {
                length = if free(unit) { length + 1 } else { 0 };
                if length == wanted {
                    return Some(unit + 1 - wanted);
                }
            }
            None
        };
        // From the hand on, then from the start to where a run that begins before the hand ends.
        let first = run(start, all).or_else(|| run(0, (start + wanted).min(all)))?;
        for unit in &self.units[first..first + wanted] {
            unit.store(Unit::Used(content, entry).word(), Relaxed);
        }
        hand.store((first + wanted) as u32, Relaxed);
        Some(Extent { first: first as u32, units })
    }

    /// Makes the units anew from the entries. The caller holds the names' lock.
    pub(super) fn rebuild_units(&self) {
        for unit in self.units.iter() {
            if let Unit::Used(content, _) = Unit::read(unit.load(Relaxed)) {
                unit.store(Unit::Free(content).word(), Relaxed);
            }
        }
        for (index, entry) in (0u32..).zip(self.entries.iter()) {
            let meta = Meta(entry.meta.load(Relaxed));
            let Some(kind) = Kind::from_number(meta.kind()).filter(|_| meta.is_used()) else { continue };
            for number in 0..EXTENTS_EACH {
                if let Ok(Some(extent)) = self.extent(entry, number) {
                    let mark = Unit::Used(Content::of(kind, number), index).word();
                    for unit in &self.units[extent.first as usize..][..extent.units as usize] {
                        unit.store(mark, Relaxed);
                    }
                }
            }
        }
    }

    /// Gives back what the dead participant in `dead` has of the entry's extents; whether that was anything. `told` is called with
    /// each seat it held, and its word, ahead of the change. Then the entry's bell has to be rung.
    pub(super) fn give_back_parts(
        &self,
        entry: &Entry,
        dead: Slot,
        incarnation: u32,
        told: impl Fn(&Seat, OwnerWord),
    ) -> bool {
        let mut any = false;
        match Kind::from_number(Meta(entry.meta.load(Relaxed)).kind()) {
            Some(Kind::RwLock | Kind::RwLockData) => {
                for cell in self.cells_of(entry).filter_map(Result::ok) {
                    any |= cell.give_back(Cell::of(dead, incarnation));
                }
            }
            Some(Kind::Semaphore | Kind::Barrier | Kind::Latch) => {
                for seat in self.seats_of(entry).unwrap_or_default() {
                    any |= seat.give_back(dead, |word| told(seat, word)).is_some();
                }
            }
            _ => {}
        }
        any
    }

    /// What to say where there is no room for a name.
    pub(crate) fn no_extents(&self, name: &str, wanted: &Wanted<'_>) -> Error {
        let needed: u64 = wanted.extents().map(|(.., units)| units.saturating_mul(UNIT)).sum();
        let capacity = self.header.extents_size;
        Error::NoExtents {
            path: self.space().into(),
            name: name.into(),
            needed,
            free: capacity - self.extents_in_use(),
            capacity,
        }
    }

    /// The seats in an extent, of which `count` are in use.
    pub(crate) fn seats_in(&self, extent: Extent, count: u32) -> &[Seat] {
        let first = extent.first_line() as usize * SEATS_EACH;
        &self.seats[first..][..(count as usize).min(extent.lines() as usize * SEATS_EACH)]
    }

    /// Where in the table of all seats they are; `None` if so many are not in it.
    pub(crate) fn seats_from(&self, extent: Extent, count: u32) -> Option<Range<usize>> {
        let first = extent.first_line() as usize * SEATS_EACH;
        (count as usize <= extent.lines() as usize * SEATS_EACH).then_some(first..first + count as usize)
    }

    /// The cells in an extent.
    pub(crate) fn cells_in(&self, extent: Extent) -> &[ReaderCell] {
        &self.cells[extent.first_line() as usize..][..extent.lines() as usize]
    }

    /// All cells of an entry.
    pub(crate) fn cells_of<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = Result<&'a ReaderCell>> {
        (0..DATA).map_while(|number| self.extent(entry, number).transpose()).flat_map(|extent| {
            let (cells, error) = match extent {
                Ok(extent) => (self.cells_in(extent), None),
                Err(error) => (&[][..], Some(error)),
            };
            cells.iter().map(Ok).chain(error.map(Err))
        })
    }

    /// Whether all cells of an entry are so; `false` if one of its extents is damaged.
    #[inline]
    pub(crate) fn all_cells(&self, entry: &Entry, is_so: impl Fn(&ReaderCell) -> bool) -> bool {
        for word in &entry.extents[..DATA] {
            // Acquire: pairs with the Release in `settle` and `add_cells`: what is in it.
            match Extent::read(word.load(Acquire), self.units.len()) {
                Ok(Some(extent)) if self.cells_in(extent).iter().all(&is_so) => {}
                Ok(None) => break,
                _ => return false,
            }
        }
        true
    }

    /// The numbers of all cells of an entry, as [`Segment::cells`] counts them.
    pub(crate) fn cell_numbers<'a>(&'a self, entry: &'a Entry) -> impl Iterator<Item = Result<u32>> {
        (0..DATA).map_while(|number| self.extent(entry, number).transpose()).flat_map(|extent| {
            let (first, count, error) = match extent {
                Ok(extent) => (extent.first_line(), extent.lines(), None),
                Err(error) => (0, 0, Some(error)),
            };
            (first..first + count).map(Ok).chain(error.map(Err))
        })
    }

    /// All seats of an entry.
    pub(crate) fn seats_of(&self, entry: &Entry) -> Result<&[Seat]> {
        match self.extent(entry, 0)? {
            Some(extent) => Ok(self.seats_in(extent, self.count(entry)?)),
            None => Ok(&[]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flipped_bit_makes_one_unit_of_another() {
        let contents = [Content::Cells, Content::Seats, Content::Data];
        let units = core::iter::once(Unit::Unused)
            .chain(contents.map(Unit::Free))
            .chain(contents.into_iter().flat_map(|c| [0, 1, 4711, (1 << 24) - 1].map(|entry| Unit::Used(c, entry))));
        for unit in units {
            assert_eq!(Unit::read(unit.word()), unit);
            for bit in 0..32 {
                assert_eq!(Unit::read(unit.word() ^ 1 << bit), Unit::Damaged, "{unit:?}, bit {bit}");
            }
        }
    }

    #[test]
    fn no_flipped_bit_moves_an_extent() {
        for extent in [Extent { first: 0, units: 1 }, Extent { first: 77, units: 3 }] {
            assert_eq!(Extent::read(extent.word(), 80), Ok(Some(extent)));
            assert_eq!(Extent::read(extent.word(), extent.first as usize), Err(()), "it must lie inside");
            for bit in 0..64 {
                assert_eq!(Extent::read(extent.word() ^ 1 << bit, 80), Err(()), "{extent:?}, bit {bit}");
            }
        }
        assert_eq!(Extent::read(0, 80), Ok(None));
    }

    #[test]
    fn the_cells_are_enough_for_everybody() {
        let most = CELL_UNITS.iter().sum::<u32>() * UNIT_LINES;
        assert!(most >= crate::protocol::slot::Slot::MAX);
    }
}
