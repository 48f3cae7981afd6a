//! The clocks: the monotonic one, in nanoseconds, as deadlines and sleeps use it, and for leases the one that goes on while the machine is
//! suspended.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

/// A point on `CLOCK_MONOTONIC`, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Monotonic(pub(crate) u64);

impl Monotonic {
    pub(crate) fn now() -> Self {
        // It fails only for a clock that does not exist, and this one always does.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists");
        Self(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
    }

    pub(crate) fn saturating_add(self, span: Duration) -> Self {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }

    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A point on `CLOCK_BOOTTIME`, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Boottime(pub(crate) u64);

impl Boottime {
    /// Nothing later is waited for: as many milliseconds as there are nanoseconds in a word.
    pub(crate) const MOST: u64 = u64::MAX / 1_000_000;

    pub(crate) fn now() -> Self {
        Self(Self::nanos() / 1_000_000)
    }

    fn nanos() -> u64 {
        // Linux has it since 2.6.39, which is older than any kernel that we run on.
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists");
        now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
    }

    /// `span` from now, rounded up: never sooner.
    pub(crate) fn after(span: Duration) -> Self {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        Self(Self::nanos().saturating_add(nanos).div_ceil(1_000_000))
    }

    /// How long it is until then; zero if it has come.
    pub(crate) fn left(self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(Self::now().0))
    }

    pub(crate) fn saturating_add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)))
    }
}

/// Sleeps for so long, or shorter if a signal comes: callers look again anyway.
///
/// std's panics if the kernel refuses (a filter). Then this only lets others run.
pub(crate) fn sleep(span: Duration) {
    if clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::empty(), &span.into()).is_err() {
        std::thread::yield_now();
    }
}

/// When a wait ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deadline {
    Never,
    At(Monotonic),
}

impl Deadline {
    /// This one, or so long from now if that is later.
    pub(crate) fn or_after(self, span: Duration) -> Self {
        match (self, Self::after(span)) {
            (Self::At(this), Self::At(other)) => Self::At(this.max(other)),
            _ => Self::Never,
        }
    }

    /// `span` from now. One too long for the clock (584 years) never comes.
    pub(crate) fn after(span: Duration) -> Self {
        match Monotonic::now().saturating_add(span) {
            Monotonic(u64::MAX) => Self::Never,
            at => Self::At(at),
        }
    }

    /// std keeps its `Instant` to itself, so this goes by what is left until then.
    pub(crate) fn at(instant: Instant) -> Self {
        Self::after(instant.saturating_duration_since(Instant::now()))
    }

    pub(crate) fn has_passed(self, now: Monotonic) -> bool {
        matches!(self, Self::At(at) if at <= now)
    }
}

/// Nanoseconds since 1970, for what must grow across reboots; 0 on a clock set before that.
pub(crate) fn wall_clock_nanos() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_durations_saturate() {
        assert!(matches!(Deadline::after(Duration::MAX), Deadline::Never));
        assert!(matches!(Deadline::after(Duration::from_secs(u64::MAX)), Deadline::Never));
        let Deadline::At(at) = Deadline::after(Duration::ZERO) else { panic!() };
        assert!(Deadline::At(at).has_passed(Monotonic::now()));
        assert!(Deadline::at(Instant::now() - Duration::from_millis(5)).has_passed(Monotonic::now()));
        assert!(!Deadline::Never.has_passed(Monotonic(u64::MAX)));
    }
}
