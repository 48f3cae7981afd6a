//! Many readers or one writer: an owner word for the writer, and for each process that reads a cell of its own.
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

use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

use super::word::{Owner, Slot};
use crate::sync::AtomicU64;

/// One process's readers, as they lie in the segment: a cache line, which nobody else writes to.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct ReaderCell {
    pub(crate) word: AtomicU64,
    /// When the first of the present readers was seen: kept by the backend.
    pub(crate) since: AtomicU64,
    pub(crate) reserved: [AtomicU64; 6],
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
    #[inline(always)]
    pub(crate) fn enter(self) -> Option<Self> {
        (self.0 as u16 != u16::MAX).then_some(Self(self.0 + Self::ONE))
    }

    /// One reader less. Only for a cell in which there is one.
    #[inline(always)]
    pub(crate) fn leave(self) -> Self {
        debug_assert!(self.0 as u16 != 0);
        Self(self.0 - Self::ONE)
    }
}

impl ReaderCell {
    /// Clears the cell if it is `dead`'s, whatever it held; how many readers there were, or `None` if it was not.
    pub(crate) fn give_back(&self, dead: Cell) -> Option<u16> {
        // Acquire: pairs with nothing of the dead one's, whose stores were ordered by the verdict.
        let mut seen = Cell(self.word.load(Acquire));
        while seen.is_with(dead) {
            // SeqCst: the ringer's half, the bell's invariant 1.
            match self.word.compare_exchange(seen.0, 0, SeqCst, Relaxed) {
                Ok(_) => return Some(seen.readers().unwrap_or(1)),
                Err(now) => seen = Cell(now),
            }
        }
        None
    }
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
