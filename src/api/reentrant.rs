//! A mutex that its thread may acquire again.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::guard::now;
use super::space::Space;
use crate::backend::lock::{Abandonment, Acquisition};
use crate::backend::reentrant::Reentrant;
use crate::backend::release::AsExclusive;
use crate::os::clock::Deadline;
use crate::{Abandoned, Error, Holder, Result};

/// A handle for a mutex that the thread which holds it may acquire again, as often as it likes. The lock is free when all guards are gone, in whatever order. Made by
/// [`Space::reentrant_mutex`].
///
/// To other threads and processes it is a [`Mutex`](crate::Mutex) of that name, and they may use it as one. All handles of a name in one process are the same mutex, so a
/// function may open it anew and acquire it under its caller, who holds it already. It guards no data: of that there could be two who change it.
///
/// A thread is told from others by a number of its own, not by the kernel's id, which is given again: a thread that begins after one that leaked its guard does not
/// have what that one had.
///
/// # When the owner dies
/// As for a [`Mutex`](crate::Mutex); the first guard is told.
///
/// ```
/// # let root = tempfile::tempdir()?;
/// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
/// let outer = space.reentrant_mutex("tree")?;
/// let one = outer.lock()?;
/// let two = space.reentrant_mutex("tree")?; // another handle
/// let again = two.lock()?;
/// assert_eq!((again.token(), outer.depth()), (one.token(), 2));
/// drop(one);
/// assert!(again.is_held());
/// again.unlock()?;
/// assert_eq!(outer.holder()?, None);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ReentrantMutex(Arc<Reentrant>);

impl Space {
    /// A handle for the mutex `name` of this space, which its thread may acquire again. It is a mutex to whoever asks for one.
    ///
    /// # Errors
    /// As [`mutex`](Self::mutex).
    pub fn reentrant_mutex(&self, name: &str) -> Result<ReentrantMutex> {
        Reentrant::of(self.backend_space(), name).map(ReentrantMutex)
    }
}

impl ReentrantMutex {
    /// The lock's name.
    pub fn name(&self) -> &str {
        self.0.lock().name()
    }

    /// Who holds the lock at this moment, as [`Mutex::holder`](crate::Mutex::holder).
    ///
    /// # Errors
    /// As there.
    pub fn holder(&self) -> Result<Option<Holder>> {
        self.0.lock().holder()
    }

    /// How many guards the calling thread has.
    pub fn depth(&self) -> u32 {
        self.0.depth()
    }

    /// Acquires the lock, waiting for as long as it takes; at once if this thread has it.
    ///
    /// # Errors
    /// As [`Mutex::lock`](crate::Mutex::lock); [`Error::Deadlock`] if this thread has it by a plain [`Mutex`](crate::Mutex)'s guard.
    pub fn lock(&self) -> Result<ReentrantMutexGuard<'_>> {
        self.acquire(|| Deadline::Never)
    }

    /// Acquires the lock if nobody alive but this thread holds it.
    ///
    /// # Errors
    /// [`Error::WouldBlock`]; otherwise as [`lock`](Self::lock).
    pub fn try_lock(&self) -> Result<ReentrantMutexGuard<'_>> {
        self.acquire(now).map_err(|error| match error {
            Error::TimedOut { name, holder, .. } => Error::WouldBlock { name, holder },
            error => error,
        })
    }

    /// Acquires the lock, waiting for at most `timeout`.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; otherwise as [`lock`](Self::lock).
    pub fn try_lock_for(&self, timeout: Duration) -> Result<ReentrantMutexGuard<'_>> {
        self.acquire(|| Deadline::after(timeout))
    }

    /// Acquires the lock, waiting until `deadline` at most.
    ///
    /// # Errors
    /// As [`try_lock_for`](Self::try_lock_for).
    pub fn try_lock_until(&self, deadline: Instant) -> Result<ReentrantMutexGuard<'_>> {
        self.acquire(|| Deadline::at(deadline))
    }

    fn acquire(&self, deadline: impl FnOnce() -> Deadline) -> Result<ReentrantMutexGuard<'_>> {
        let (acquisition, abandoned) = self.0.acquire(deadline)?;
        Ok(ReentrantMutexGuard { mutex: &self.0, acquisition, abandoned, _stays_in_its_thread: PhantomData })
    }
}

impl fmt::Debug for ReentrantMutex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReentrantMutex").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// One of the guards of a [`ReentrantMutex`] that its thread holds. With the last one the lock is released.
#[must_use = "the lock is released as soon as its last guard is dropped"]
pub struct ReentrantMutexGuard<'a> {
    mutex: &'a Reentrant,
    acquisition: Acquisition,
    abandoned: Option<Box<Abandonment>>,
    _stays_in_its_thread: PhantomData<std::sync::MutexGuard<'static, ()>>,
}

impl ReentrantMutexGuard<'_> {
    /// The fencing token of this acquisition: of all guards that a thread has at a time, the same.
    pub fn token(&self) -> u64 {
        self.mutex.lock().exclusive().token(self.acquisition)
    }

    /// Who died holding the lock, or lost its lease of it, if this is the first guard after that.
    pub fn abandoned(&self) -> Option<&Abandoned> {
        self.abandoned.as_deref().map(|abandoned| &abandoned.told)
    }

    /// Whether this process still holds the lock with this token. `false` in a forked child.
    pub fn is_held(&self) -> bool {
        self.mutex.lock().exclusive().is_held(self.acquisition)
    }

    /// Lets go of this guard, as dropping does, and says whether the lock still was held.
    ///
    /// # Errors
    /// [`Error::Lost`] if it was not.
    pub fn unlock(mut self) -> Result<()> {
        let (name, token) = (self.mutex.lock().name().into(), self.token());
        if self.end() { Ok(()) } else { Err(Error::Lost { name, token }) }
    }

    fn end(&mut self) -> bool {
        let acquisition = std::mem::replace(&mut self.acquisition, Acquisition::ENDED);
        let (was_held, is_last) = self.mutex.release(acquisition);
        if let Some(abandoned) = self.abandoned.take()
            && was_held
            && is_last
        {
            self.mutex.lock().exclusive().bury(&abandoned);
        }
        was_held
    }
}

impl Drop for ReentrantMutexGuard<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

impl fmt::Debug for ReentrantMutexGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReentrantMutexGuard").field("token", &self.token()).finish_non_exhaustive()
    }
}
