//! FNV-1a, 64 bits: names to places, and the checksum of a segment's header. It must be the same in every build,
//! which std's hasher does not promise; it need not withstand an enemy, who can write the segment anyway.

pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ byte as u64).wrapping_mul(0x0000_0100_0000_01b3))
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
