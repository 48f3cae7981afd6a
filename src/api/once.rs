//! Something that the processes of a space do once.

use std::fmt;
use std::time::{Duration, Instant};

use crate::backend::once::{SharedOnce, Turn};
use crate::os::clock::Deadline;
use crate::os::fork;
use crate::{Abandoned, Result};

/// A handle for something that is done once in a space, by whichever process comes first; the others wait until it is done. Made by
/// [`Space::once`](crate::Space::once). It stays done until the name is taken away ([`Space::remove`](crate::Space::remove)) or the space is.
///
/// # When whoever does it dies
/// The next one does it, and is told ([`OnceState::abandoned`]): what the dead one began may be half done. If it died after its function had returned and
/// that was noted, it is done.
///
/// # Fairness, cost
/// Those who come while it is being done get their turn in the order of a [`Mutex`](crate::Mutex), and find it done. Once it is done,
/// asking is a load of a shared cache line.
///
/// ```
/// # let root = tempfile::tempdir()?;
/// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
/// let schema = space.once("create-schema")?;
/// schema.call_once(|state| {
///     if let Some(dead) = state.abandoned() {
///         println!("{dead}: beginning anew");
///     }
///     // ... in one process only
/// })?;
/// assert!(schema.is_done());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Once(SharedOnce);

/// What the function that is called once is told.
#[derive(Debug)]
pub struct OnceState {
    token: u64,
    abandoned: Option<Abandoned>,
}

impl OnceState {
    /// The fencing token of this turn, larger than that of every turn before.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Who died doing it, if this is the turn after that.
    pub fn abandoned(&self) -> Option<&Abandoned> {
        self.abandoned.as_ref()
    }
}

/// Leaves the turn to the next one if the function does not return.
struct Unless<'a> {
    once: &'a SharedOnce,
    turn: Option<Turn>,
}

impl Drop for Unless<'_> {
    fn drop(&mut self) {
        if let Some(turn) = self.turn.take() {
            self.once.leave(&turn);
        }
    }
}

impl Once {
    pub(crate) fn new(once: SharedOnce) -> Self {
        Self(once)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Whether it was done.
    pub fn is_done(&self) -> bool {
        self.0.is_done()
    }

    /// Calls `f`, unless it was called before, by whomever; waits while somebody else is at it. When this returns, it is done. If `f`
    /// panics, the next one calls it.
    ///
    /// # Errors
    /// [`Error::Deadlock`](crate::Error::Deadlock) if `f` asks for itself; otherwise as [`Mutex::lock`](crate::Mutex::lock).
    pub fn call_once(&self, f: impl FnOnce(&OnceState)) -> Result<()> {
        let done: std::result::Result<(), std::convert::Infallible> = self.call_once_fallible(|state| {
            f(state);
            Ok(())
        })?;
        match done {
            Ok(()) => Ok(()),
        }
    }

    /// As [`call_once`](Self::call_once), with a function that may fail: then it is not done, and the next one calls it.
    ///
    /// # Errors
    /// The outer as [`call_once`](Self::call_once), the inner is that of `f`.
    pub fn call_once_fallible<E>(
        &self,
        f: impl FnOnce(&OnceState) -> std::result::Result<(), E>,
    ) -> Result<std::result::Result<(), E>> {
        let Some(turn) = self.0.begin(fork::thread(), Deadline::Never)? else { return Ok(Ok(())) };
        let state = OnceState { token: turn.token, abandoned: turn.told.clone() };
        let mut unless = Unless { once: &self.0, turn: Some(turn) };
        let outcome = f(&state);
        if outcome.is_ok()
            && let Some(turn) = unless.turn.take()
        {
            self.0.finish(&turn);
        }
        Ok(outcome)
    }

    /// Waits until somebody has done it.
    ///
    /// # Errors
    /// [`Error::Removed`](crate::Error::Removed) if the space's file is gone.
    pub fn wait(&self) -> Result<()> {
        self.0.wait(fork::thread(), Deadline::Never)
    }

    /// Waits until somebody has done it, for at most `timeout`.
    ///
    /// # Errors
    /// [`Error::TimedOut`](crate::Error::TimedOut); otherwise as [`wait`](Self::wait).
    pub fn wait_for(&self, timeout: Duration) -> Result<()> {
        self.0.wait(fork::thread(), Deadline::after(timeout))
    }

    /// Waits until somebody has done it, until `deadline` at most.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    pub fn wait_until(&self, deadline: Instant) -> Result<()> {
        self.0.wait(fork::thread(), Deadline::at(deadline))
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").field("name", &self.name()).finish_non_exhaustive()
    }
}
