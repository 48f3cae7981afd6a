//! Who a participant is: its place in the table of participants, and how it knows itself.

use core::fmt;

use super::word::{LEASED, SLOT_BITS, SLOT_MASK, SLOT_SHIFT};

/// A place in the participant table, as it stands in lock words. Never a PID: a PID is reused, differs
/// between namespaces and says nothing of a fork.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Slot(u16);

impl Slot {
    /// How many slots can be told apart: 13 bits and a parity bit, less the code for "none".
    pub(crate) const MAX: u32 = (1 << (SLOT_BITS - 1)) - 1;

    /// The slot with this index in the participant table; `None` from [`Slot::MAX`] on.
    pub(crate) fn new(index: u32) -> Option<Self> {
        (index < Self::MAX).then(|| {
            let value = (index + 1) as u16;
            Self(value << 1 | (value.count_ones() & 1) as u16)
        })
    }

    /// The slot behind a code read from shared memory; `None` for "nobody" and for codes nobody has.
    #[inline(always)]
    pub(crate) fn from_code(code: u16) -> Option<Self> {
        (code != 0 && code >> SLOT_BITS == 0 && code.count_ones().is_multiple_of(2)).then_some(Self(code))
    }

    /// The slot behind a code that this process wrote for itself, in memory of its own: not checked again.
    #[inline(always)]
    pub(crate) fn own(code: u16) -> Self {
        debug_assert!(Self::from_code(code).is_some());
        Self(code)
    }

    #[inline(always)]
    pub(crate) fn code(self) -> u16 {
        self.0
    }

    pub(crate) fn index(self) -> u32 {
        (self.0 >> 1) as u32 - 1
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}", self.index())
    }
}

/// A participant as it knows itself: in the low bits as it stands in a word that it holds, so that the two are compared as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Me(pub(crate) u64);

impl Me {
    /// Nobody yet.
    pub(crate) const NOBODY: Self = Self(0);

    pub(crate) fn new(slot: Slot, incarnation: u32) -> Self {
        Self((incarnation as u64) << 32 | (slot.code() as u64) << SLOT_SHIFT | LEASED)
    }

    /// The same, registered for heavy fences: [`OwnerWord::was_made_lightly_by`].
    pub(crate) fn lightly(self) -> Self {
        Self(self.0 & !LEASED)
    }

    pub(crate) fn is_light(self) -> bool {
        self.0 & LEASED == 0
    }

    /// 0 if it is nobody.
    #[inline(always)]
    pub(crate) fn code(self) -> u16 {
        ((self.0 & SLOT_MASK) >> SLOT_SHIFT) as u16
    }

    #[inline(always)]
    pub(crate) fn slot(self) -> Option<Slot> {
        (self.0 & SLOT_MASK != 0).then_some(Slot(self.code()))
    }

    #[inline(always)]
    pub(crate) fn incarnation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}
