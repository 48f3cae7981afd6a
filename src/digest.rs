//! What shows damage, and leads to names. FNV-1a, 64 bits: names to places, and the checksum of a segment's header. It must be the same in every build,
//! which std's hasher does not promise; it need not withstand an enemy, who can write the segment anyway.

pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3))
}

/// A number of up to 63 bits with a parity bit on top, so that one flipped bit is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Checked(pub(crate) u64);

impl Checked {
    const PARITY: u64 = 1 << 63;

    pub(crate) fn word(self) -> u64 {
        debug_assert!(self.0 & Self::PARITY == 0);
        self.0 | (self.0.count_ones() as u64 & 1) << 63
    }

    pub(crate) fn read(word: u64) -> Option<Self> {
        word.count_ones().is_multiple_of(2).then_some(Self(word & !Self::PARITY))
    }
}

#[cfg(test)]
mod tests {
    /// From the reference implementation by Fowler, Noll and Vo.
    #[test]
    fn known_answers() {
        assert_eq!(super::fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(super::fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(super::fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
