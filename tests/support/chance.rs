//! Numbers that look random, so that a run can be repeated; and spending time.

use nix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC`, which all processes read alike, in nanoseconds.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Does something for so many nanoseconds.
pub fn work(nanos: u64) {
    let end = now() + nanos;
    while now() < end {
        std::hint::spin_loop();
    }
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
