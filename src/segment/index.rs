//! The cells of the index, which lead from a name's hash to its entry.
//!
//! Any two sound cells differ in two bits at least, so one flipped bit is seen, and not taken for "there is no such name".

/// A cell of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// Nothing was ever here: searches end.
    Empty,
    /// Led somewhere once: searches go on.
    Left,
    Entry(u32),
    /// Nobody wrote this.
    Damaged,
}

impl Cell {
    const ENTRY_MASK: u32 = (1 << 25) - 1;
    /// Makes the number of ones even, so that any two cells differ in two bits at least.
    const PARITY: u32 = 1 << 31;

    pub(crate) fn word(self) -> u32 {
        match self {
            Self::Empty | Self::Damaged => 0,
            Self::Left => u32::MAX,
            Self::Entry(entry) => {
                let number = entry + 1;
                number | ((number.count_ones() & 1) * Self::PARITY)
            }
        }
    }

    pub(crate) fn from_word(word: u32) -> Self {
        match word {
            0 => Self::Empty,
            u32::MAX => Self::Left,
            _ if word & !(Self::ENTRY_MASK | Self::PARITY) == 0 && word.count_ones().is_multiple_of(2) => {
                (word & Self::ENTRY_MASK).checked_sub(1).map_or(Self::Damaged, Self::Entry)
            }
            _ => Self::Damaged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flipped_bit_makes_a_cell_of_another() {
        let cells = [Cell::Empty, Cell::Left].into_iter().chain([0, 1, 2, 3, 4711, (1 << 24) - 1].map(Cell::Entry));
        for cell in cells {
            assert_eq!(Cell::from_word(cell.word()), cell);
            for bit in 0..32 {
                assert_eq!(Cell::from_word(cell.word() ^ 1 << bit), Cell::Damaged, "{cell:?}, bit {bit}");
            }
        }
    }
}
