//! The readers of one process, counted in a word that says whose they are.
//!
//! The word of a cell:
//!
//! ```text
//! 63                     46 45            32 31            16 15             0
//! ┌────────────────────────┬────────────────┬────────────────┬───────────────┐
//! │ incarnation (low 18)   │ slot code (14) │ readers        │ readers again │
//! └────────────────────────┴────────────────┴────────────────┴───────────────┘
//! ```
//!
//! Zero: nobody's. The count stands there twice, so that one flipped bit is seen.
//!
//!
//! A cell changes only by compare-and-swap from one exact word: invariant 4 of [`rwlock`](super::rwlock). The same word, with a bit for each line where this has
//! the number, says which lines the process lends to the lock: see [`reader`](super::reader).

use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

use super::slot::Slot;
use super::word::Owner;
use crate::sync::AtomicU64;

/// One process's readers, as they lie in the segment: a cache line, which nobody else writes to.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct ReaderCell {
    pub(crate) word: AtomicU64,
    /// When the first of the present readers was seen: kept by the backend.
    pub(crate) since: AtomicU64,
    /// Which of the participant's [lines](super::reader) are lent to the lock: as a [`Cell`], with a bit for each where that has its count.
    pub(crate) lent: AtomicU64,
    pub(crate) reserved: [AtomicU64; 5],
}

/// A value of a cell's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell(pub(crate) u64);

impl Cell {
    const ONE: u64 = 1 | 1 << 16;
    const INCARNATION_BITS: u32 = 18;

    /// Claimed by that participant, without readers.
    pub(crate) fn of(slot: Slot, incarnation: u32) -> Self {
        let incarnation = (incarnation & ((1 << Self::INCARNATION_BITS) - 1)) as u64;
        Self(incarnation << 46 | (slot.code() as u64) << 32)
    }

    /// How many readers; `None` if the word is damaged.
    pub(crate) fn readers(self) -> Option<u16> {
        (self.0 as u16 == (self.0 >> 16) as u16).then_some(self.0 as u16)
    }

    /// Nobody reads by it, for sure.
    #[inline(always)]
    pub(crate) fn is_idle(self) -> bool {
        self.0 as u32 == 0
    }

    /// Whether it is the same participant's as `other`.
    #[inline(always)]
    pub(crate) fn is_with(self, other: Self) -> bool {
        self.0 >> 32 == other.0 >> 32
    }

    /// Whose it is.
    pub(crate) fn owner(self) -> Owner {
        match (self.0 >> 32) as u16 & ((1 << 14) - 1) {
            0 => Owner::Nobody,
            code => Slot::from_code(code).map_or(Owner::Damaged, Owner::Held),
        }
    }

    /// One reader more; `None` if no more can be counted.
    pub(crate) fn enter(self) -> Option<Self> {
        (self.0 as u16 != u16::MAX).then_some(Self(self.0 + Self::ONE))
    }

    /// One reader less. Only for a cell in which there is one.
    pub(crate) fn leave(self) -> Self {
        debug_assert!(self.0 as u16 != 0);
        Self(self.0 - Self::ONE)
    }
}

impl ReaderCell {
    #[cfg(all(test, hostlock_loom))]
    pub(crate) fn new() -> Self {
        Self {
            word: AtomicU64::new(0),
            since: AtomicU64::new(0),
            lent: AtomicU64::new(0),
            reserved: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    #[inline(always)]
    pub(crate) fn look(&self) -> Cell {
        // SeqCst: the writer's half of invariant 1, and the sleeper's look of the bell's.
        Cell(self.word.load(SeqCst))
    }

    /// One reader more, if the cell is `me`'s.
    ///
    /// It starts from a guess, that nobody reads by it: to look first would take as long again as a failure.
    #[inline(always)]
    pub(crate) fn count(&self, me: Cell) -> Result<(), NotCounted> {
        // SeqCst: the reader's half of invariant 1.
        match self.word.compare_exchange(me.0, me.0 + Cell::ONE, SeqCst, Relaxed) {
            Ok(_) => Ok(()),
            Err(now) => self.count_from(Cell(now), me),
        }
    }

    #[cold]
    fn count_from(&self, mut seen: Cell, me: Cell) -> Result<(), NotCounted> {
        loop {
            if !seen.is_with(me) {
                return Err(NotCounted::NotMine);
            }
            let Some(counted) = seen.enter() else { return Err(NotCounted::Full) };
            // SeqCst: as above.
            match self.word.compare_exchange(seen.0, counted.0, SeqCst, Relaxed) {
                Ok(_) => return Ok(()),
                Err(now) => seen = Cell(now),
            }
        }
    }

    /// One reader less, if there is one and the cell is `me`'s; what is left then.
    #[inline(always)]
    pub(super) fn uncount(&self, me: Cell) -> Option<Cell> {
        // A guess, too: that it is the only one. SeqCst: invariant 6, and what was read before.
        match self.word.compare_exchange(me.0 + Cell::ONE, me.0, SeqCst, Relaxed) {
            Ok(_) => Some(me),
            Err(now) => self.uncount_from(Cell(now), me),
        }
    }

    #[cold]
    fn uncount_from(&self, mut seen: Cell, me: Cell) -> Option<Cell> {
        loop {
            if !seen.is_with(me) || seen.0 as u16 == 0 {
                return None;
            }
            // SeqCst: as above.
            match self.word.compare_exchange(seen.0, seen.leave().0, SeqCst, Relaxed) {
                Ok(_) => return Some(seen.leave()),
                Err(now) => seen = Cell(now),
            }
        }
    }

    /// Makes the cell `me`'s, with one reader, if it is `seen` and nobody reads by it.
    pub(crate) fn claim(&self, seen: Cell, me: Cell) -> bool {
        let Some(counted) = me.enter().filter(|_| seen.is_idle()) else { return false };
        self.word.compare_exchange(seen.0, counted.0, SeqCst, Relaxed).is_ok()
    }

    /// Clears the cell if it is `dead`'s, whatever it held; whether it was.
    pub(crate) fn give_back(&self, dead: Cell) -> bool {
        let mut was = false;
        for word in [&self.word, &self.lent] {
            // Acquire: pairs with nothing of the dead one's, whose stores were ordered by the verdict.
            let mut seen = Cell(word.load(Acquire));
            while seen.is_with(dead) {
                // SeqCst: the ringer's half, the bell's invariant 1.
                match word.compare_exchange(seen.0, 0, SeqCst, Relaxed) {
                    Ok(_) => {
                        was = true;
                        break;
                    }
                    Err(now) => seen = Cell(now),
                }
            }
        }
        was
    }

    #[inline(always)]
    pub(crate) fn lent(&self) -> Cell {
        // SeqCst: invariant 3 of [`reader`](super::reader).
        Cell(self.lent.load(SeqCst))
    }

    /// Lends the line with that number of `me`'s. Only for a reader that is counted in the cell; `false`: lines of another participant are.
    pub(crate) fn lend(&self, me: Cell, number: u32) -> bool {
        self.change_lent(me, |lines| lines | 1 << number)
    }

    /// Takes it back, if it is lent.
    pub(crate) fn end_lending(&self, me: Cell, number: u32) -> bool {
        self.change_lent(me, |lines| lines & !(1 << number))
    }

    /// Has it lend nothing any more, if that is still what it lends. Only for who holds the lock's word, when the lines are shut and nobody reads by them.
    pub(crate) fn clear_lent(&self, lent: Cell) -> bool {
        self.lent.compare_exchange(lent.0, 0, SeqCst, Relaxed).is_ok()
    }

    fn change_lent(&self, me: Cell, change: impl Fn(u16) -> u16) -> bool {
        let mut seen = Cell(self.lent.load(Relaxed));
        loop {
            // What is damaged stays so.
            let lines = match seen {
                Cell(0) => 0,
                seen if seen.is_with(me) => match seen.readers() {
                    Some(lines) => lines,
                    None => return false,
                },
                _ => return false,
            };
            let lines = u64::from(change(lines));
            let lent = if lines == 0 { 0 } else { me.0 | lines | lines << 16 };
            // SeqCst: before the mark is opened.
            match self.lent.compare_exchange(seen.0, lent, SeqCst, Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = Cell(now),
            }
        }
    }
}

/// Why a reader could not be counted in a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotCounted {
    /// It is somebody else's, or nobody's.
    NotMine,
    /// As many as can be counted.
    Full,
}

#[cfg(all(test, not(hostlock_loom)))]
mod tests {
    use super::*;

    #[test]
    fn readers_come_and_go_and_nobody_else_is_touched() {
        let me = Cell::of(Slot::new(4711).unwrap(), 0xFFFF_FFFF);
        assert!(me.is_idle());
        let two = me.enter().and_then(Cell::enter).unwrap();
        assert_eq!((two.readers(), two.owner()), (Some(2), Owner::Held(Slot::new(4711).unwrap())));
        assert!(two.is_with(me) && !two.is_idle());
        assert_eq!(two.leave().leave(), me);
        let full = Cell(me.0 | 0xFFFF_FFFF);
        assert_eq!((full.readers(), full.enter()), (Some(u16::MAX), None));
        assert_eq!(Cell(0).owner(), Owner::Nobody);
    }

    #[test]
    fn one_flipped_bit_is_neither_another_count_nor_another_participant() {
        let me = Cell::of(Slot::new(5).unwrap(), 9);
        for cell in [me, me.enter().unwrap(), Cell(me.0 | 0xFFFF_FFFF)] {
            for bit in 0..64 {
                let flipped = Cell(cell.0 ^ 1 << bit);
                assert!(flipped.readers() != cell.readers() || !flipped.is_with(me));
                assert!(flipped.readers().is_none() || flipped.readers() == cell.readers());
                assert!(!flipped.is_idle() || cell.is_idle());
            }
        }
    }
}
