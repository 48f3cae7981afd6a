//! How closely a wait looks at whoever is in its way, once a thread of theirs has ended.
//!
//! Most often the whole process is about to be gone: a small one takes the kernel a fifth of a millisecond, one with much memory a tenth of a second. Or it lives on without that
//! thread, and another one lets go of what is waited for. So the end of the process comes first for a moment, then looks become more and more seldom, and in the end they are left to
//! the sleeps that end by themselves.

use std::time::Duration;

use crate::os::clock::Monotonic;

/// For so long whoever waits comes back the moment that the process is gone.
const WATCHED: Duration = Duration::from_millis(1);
/// So many times it looks again then, after pauses each of which is twice as long as the one before.
const PAUSES: u32 = 300;
const FIRST_PAUSE: Duration = Duration::from_micros(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(1);

/// The looks there are because a thread has ended of whoever is in the way.
#[derive(Clone, Copy, Default)]
pub(super) struct Hurry {
    since: Option<Monotonic>,
    pauses: u32,
}

/// What a wait does before it looks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It waits for that process to be gone, and for nothing else, until then.
    Watch(Monotonic),
    /// It sleeps on what it waits for, for so long.
    Pause(Duration),
    /// It sleeps as others do.
    Sleep,
}

impl Hurry {
    /// Whether there is more reason to look than how long ago the last look was.
    pub(super) fn is_on(self) -> bool {
        self.since.is_some() && self.pauses < PAUSES
    }

    /// What comes next, and what is left of it then.
    #[must_use]
    pub(super) fn next(self, now: Monotonic) -> (Next, Self) {
        let since = self.since.unwrap_or(now);
        let (watched, begun) = (since.saturating_add(WATCHED), Self { since: Some(since), ..self });
        match self.pauses {
            0 if now < watched => (Next::Watch(watched), begun),
            pauses @ ..PAUSES => {
                let pause = FIRST_PAUSE.saturating_mul(1 << pauses.min(16)).min(LONGEST_PAUSE);
                (Next::Pause(pause), Self { pauses: pauses + 1, ..begun })
            }
            _ => (Next::Sleep, begun),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_become_more_seldom_and_are_over_once() {
        let start = Monotonic(7);
        let end = start.saturating_add(WATCHED);
        let mut hurry = Hurry::default();
        assert!(!hurry.is_on());
        for now in [start, start.saturating_add(WATCHED / 2)] {
            let next;
            (next, hurry) = hurry.next(now);
            assert_eq!(next, Next::Watch(end));
            assert!(hurry.is_on());
        }
        let mut pauses = Vec::new();
        while hurry.is_on() {
            let next;
            (next, hurry) = hurry.next(end);
            let Next::Pause(pause) = next else { panic!("{next:?}") };
            pauses.push(pause);
        }
        assert_eq!(hurry.next(end).0, Next::Sleep);
        assert_eq!(pauses.len(), PAUSES as usize);
        assert_eq!((pauses[0], pauses[1]), (FIRST_PAUSE, 2 * FIRST_PAUSE));
        assert!(pauses.is_sorted() && pauses.ends_with(&[LONGEST_PAUSE]));
    }
}
