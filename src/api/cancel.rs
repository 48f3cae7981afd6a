//! Ending a wait from another thread.

use std::sync::Arc;

use crate::backend::cancel::Cancel;

/// Ends waits of other threads of this process. Clones are the same token.
///
/// A wait that is cancelled fails with [`Error::Cancelled`](crate::Error::Cancelled), and leaves nothing behind, as one that timed out. What had been acquired when the
/// token was cancelled stays acquired, and so does what can be acquired without waiting: cancelling is about waiting.
///
/// ```
/// # let root = tempfile::tempdir()?;
/// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
/// use hostlock::{CancelToken, Error};
///
/// let mutex = space.mutex("long")?;
/// let held = mutex.lock_owned()?; // by somebody who takes his time
/// let token = CancelToken::new();
/// let waiter = std::thread::spawn({
///     let (mutex, token) = (mutex.clone(), token.clone());
///     move || token.run(|| mutex.lock().map(drop))
/// });
/// token.cancel(); // the program is to end
/// assert!(matches!(waiter.join().unwrap(), Err(Error::Cancelled { .. })));
/// # drop(held);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct CancelToken(Arc<Cancel>);

impl CancelToken {
    /// One that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Ends all waits under this token, and all that begin from now on. It does not wait for that.
    pub fn cancel(&self) {
        self.0.cancel();
    }

    /// Whether it was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Runs `f` in this thread. Whatever it waits for in a space, of whatever kind, it waits for under this token. Of one inside another, the inner one counts.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> T {
        self.0.run(f)
    }
}
