//! A count that is waited for.

use std::fmt;
use std::time::{Duration, Instant};

use crate::backend::latch::SharedLatch;
use crate::backend::seats::Held;
use crate::os::clock::Deadline;
use crate::os::fork;
use crate::{Holder, Result};

/// A handle for a latch: processes wait until it was counted down as often as it was made for, once. Made by
/// [`Space::latch`](crate::Space::latch). Then it is open, until the name is taken away ([`Space::remove`](crate::Space::remove)).
///
/// # When somebody dies
/// Whoever is to count can say so before ([`party`](Self::party)). If it dies without, everybody who waits gets
/// [`Error::SignalLost`](crate::Error::SignalLost), which says who it was, until somebody counts or announces in its stead. Without an announcement a wait ends by
/// its deadline only. What was counted stays counted, whoever dies then.
///
/// # Cost
/// Counting is a few atomic operations under the latch's own lock; waiting looks at all counts whenever one of them changes.
///
/// ```
/// # let root = tempfile::tempdir()?;
/// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
/// let warm = space.latch("workers-warm", 2)?;
/// let party = warm.party()?; // one worker announces itself
/// warm.count_down()?; // another one just counts
/// assert_eq!(warm.remaining()?, 1);
/// party.count_down()?;
/// warm.wait()?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Latch(SharedLatch);

impl Latch {
    pub(crate) fn new(latch: SharedLatch) -> Self {
        Self(latch)
    }

    /// The latch's name.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Counts once.
    ///
    /// # Errors
    /// [`Error::NoSeat`](crate::Error::NoSeat) if all was counted or announced already; otherwise as [`Mutex::lock`](crate::Mutex::lock).
    pub fn count_down(&self) -> Result<()> {
        self.0.count_down(fork::thread())
    }

    /// Says that this process will count once.
    ///
    /// # Errors
    /// As [`count_down`](Self::count_down).
    pub fn party(&self) -> Result<LatchParty> {
        Ok(LatchParty { held: self.0.join(fork::thread())?, latch: self.0.clone() })
    }

    /// Who has announced to count, and has not, one for each.
    ///
    /// # Errors
    /// [`Error::Removed`](crate::Error::Removed), [`Error::System`](crate::Error::System) if the name has to be looked up anew and cannot be;
    /// [`Error::Damaged`](crate::Error::Damaged).
    pub fn holders(&self) -> Result<Vec<Holder>> {
        self.0.holders()
    }

    /// How often it has to be counted still.
    ///
    /// # Errors
    /// [`Error::Removed`](crate::Error::Removed), [`Error::System`](crate::Error::System) if the name has to be looked up anew and cannot be.
    pub fn remaining(&self) -> Result<u32> {
        self.0.remaining()
    }

    /// Waits until all was counted.
    ///
    /// # Errors
    /// [`Error::SignalLost`](crate::Error::SignalLost) if somebody who had announced to count died, or gave up;
    /// [`Error::Removed`](crate::Error::Removed) if the space's file is gone; [`Error::Damaged`](crate::Error::Damaged).
    pub fn wait(&self) -> Result<()> {
        self.0.wait(fork::thread(), Deadline::Never)
    }

    /// Waits until all was counted, for at most `timeout`. Zero looks once.
    ///
    /// # Errors
    /// [`Error::TimedOut`](crate::Error::TimedOut); otherwise as [`wait`](Self::wait).
    pub fn wait_for(&self, timeout: Duration) -> Result<()> {
        self.0.wait(fork::thread(), Deadline::after(timeout))
    }

    /// Waits until all was counted, until `deadline` at most.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    pub fn wait_until(&self, deadline: Instant) -> Result<()> {
        self.0.wait(fork::thread(), Deadline::at(deadline))
    }
}

impl fmt::Debug for Latch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Latch").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// An announcement that this process will count a latch down once. Dropped without, it is as if the process had died. Made by [`Latch::party`].
#[must_use = "dropped, it says that it will not be counted"]
pub struct LatchParty {
    latch: SharedLatch,
    held: Held,
}

impl LatchParty {
    /// Counts.
    ///
    /// # Errors
    /// [`Error::Lost`](crate::Error::Lost) in a forked child, which announced nothing.
    pub fn count_down(mut self) -> Result<()> {
        self.latch.count(std::mem::replace(&mut self.held, Held::ENDED))
    }
}

impl Drop for LatchParty {
    fn drop(&mut self) {
        self.latch.break_off(self.held);
    }
}

impl fmt::Debug for LatchParty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LatchParty").field("name", &self.latch.name()).finish_non_exhaustive()
    }
}
