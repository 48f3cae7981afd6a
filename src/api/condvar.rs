//! A condition variable between processes.

use std::fmt;
use std::time::{Duration, Instant};

use super::mutex::MutexGuard;
use crate::Result;
use crate::backend::condvar::SharedCondvar;
use crate::backend::release::AsExclusive;
use crate::os::clock::Deadline;
use crate::os::fork;

/// A handle for a condition variable: a thread that holds a mutex lets it go, waits until it is notified, and holds it again. Made by
/// [`Space::condvar`](crate::Space::condvar). It has to be used with mutexes of its own space.
///
/// What is waited for is a condition on something that the mutex guards; look at it again after each wait, which may end for no reason.
///
/// # When whoever should notify dies
/// It may have died before it changed anything: then there is nothing to notice, and the wait goes on. Or it changed something under the mutex and died
/// before it notified: so a wait also ends (for no reason, as far as it can tell) if a sleep of at most 100 ms
/// ([`check_interval`](crate::SpaceBuilder::check_interval)) ended by itself and somebody had the mutex meanwhile. If it died *with* the mutex, the
/// guard that `wait` returns says so ([`MutexGuard::abandoned`]).
///
/// # Fairness, cost
/// [`notify_one`](Self::notify_one) wakes who went to sleep first; others may wake as well. Without anybody who waits notifying is a load.
///
/// ```
/// # let root = tempfile::tempdir()?;
/// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
/// # let there_is_work = std::cell::Cell::new(false);
/// use std::time::Duration;
///
/// let (mutex, changed) = (space.mutex("jobs")?, space.condvar("jobs-changed")?);
/// let mut guard = mutex.lock()?;
/// while !there_is_work.get() {
///     let (again, timed_out) = changed.wait_for(guard, Duration::from_millis(5))?;
///     guard = again;
///     # there_is_work.set(true);
/// }
/// // whoever makes work: change, notify, unlock
/// changed.notify_one()?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Condvar(SharedCondvar);

/// Whether a wait ended because its time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether the time was over.
    pub fn timed_out(self) -> bool {
        self.0
    }
}

impl Condvar {
    pub(crate) fn new(condvar: SharedCondvar) -> Self {
        Self(condvar)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Wakes one thread that waits, if there is any.
    ///
    /// # Errors
    /// [`Error::Removed`](crate::Error::Removed), [`Error::System`](crate::Error::System) if the name has to be looked up anew and cannot be.
    pub fn notify_one(&self) -> Result<()> {
        self.0.notify(false)
    }

    /// Wakes all threads that wait.
    ///
    /// # Errors
    /// As [`notify_one`](Self::notify_one).
    pub fn notify_all(&self) -> Result<()> {
        self.0.notify(true)
    }

    /// Lets go of the mutex, waits until notified, and acquires the mutex again.
    ///
    /// # Errors
    /// Those of [`Mutex::lock`](crate::Mutex::lock); [`Error::InvalidOption`](crate::Error::InvalidOption) if the mutex is of another space. The mutex is not
    /// held then.
    pub fn wait<'a>(&self, guard: MutexGuard<'a>) -> Result<MutexGuard<'a>> {
        Ok(self.wait_within(guard, Deadline::Never)?.0)
    }

    /// As [`wait`](Self::wait), for at most `timeout`; acquiring the mutex again takes as long as it takes.
    ///
    /// # Errors
    /// As [`wait`](Self::wait). That the time was over is none.
    pub fn wait_for<'a>(
        &self,
        guard: MutexGuard<'a>,
        timeout: Duration,
    ) -> Result<(MutexGuard<'a>, WaitTimeoutResult)> {
        self.wait_within(guard, Deadline::after(timeout))
    }

    /// As [`wait_for`](Self::wait_for), until `deadline` at most.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_until<'a>(
        &self,
        guard: MutexGuard<'a>,
        deadline: Instant,
    ) -> Result<(MutexGuard<'a>, WaitTimeoutResult)> {
        self.wait_within(guard, Deadline::at(deadline))
    }

    /// Waits for as long as `condition` holds.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn wait_while<'a>(
        &self,
        mut guard: MutexGuard<'a>,
        mut condition: impl FnMut(&MutexGuard<'a>) -> bool,
    ) -> Result<MutexGuard<'a>> {
        while condition(&guard) {
            guard = self.wait(guard)?;
        }
        Ok(guard)
    }

    fn wait_within<'a>(
        &self,
        guard: MutexGuard<'a>,
        deadline: Deadline,
    ) -> Result<(MutexGuard<'a>, WaitTimeoutResult)> {
        let (mutex, held) = guard.parts();
        let words = mutex.exclusive().segment("condition variable")?;
        self.0.check(words)?;
        let notified = self.0.wait(fork::thread(), deadline, (words, held), || drop(guard))?;
        Ok((MutexGuard::acquire(mutex, || Deadline::Never)?, WaitTimeoutResult(!notified)))
    }
}

impl fmt::Debug for Condvar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Condvar").field("name", &self.name()).finish_non_exhaustive()
    }
}
