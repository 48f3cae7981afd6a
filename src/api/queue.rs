//! A bounded queue between processes.

use std::fmt;
use std::time::{Duration, Instant};

use super::data::Plain;
use super::guard::now;
use crate::backend::queue::SharedQueue;
use crate::os::clock::Deadline;
use crate::os::fork;
use crate::{Error, Result};

/// A handle for a queue that all processes of the space share: first in, first out, with room for so many items. Made by
/// [`Space::queue`](crate::Space::queue).
///
/// # When somebody dies
/// Whoever dies while it pushes or pops has done it or has not: each becomes true by one store. So nobody is blocked, nothing is ever half an item, and
/// there is nothing to repair. What was popped is gone with whoever popped it; where that must not be, note it down
/// *before* it leaves the queue, by [`pop_with`](Self::pop_with): whoever dies in there leaves it in the queue, or has noted it.
///
/// # Fairness, cost
/// Items leave in the order in which they came. Pushing and popping is a [`Mutex`](crate::Mutex) locked and unlocked, and the item copied. All who wait
/// are woken by each change, so a queue that many wait for is not what it is best at.
///
/// ```
/// # let root = tempfile::tempdir()?;
/// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
/// let jobs = space.queue::<u64>("jobs", 100)?;
/// jobs.push(7)?; // in one process
/// assert_eq!(jobs.pop()?, 7); // in another
/// assert!(jobs.try_pop().is_err());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub struct Queue<T>(SharedQueue<T>);

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Plain> Queue<T> {
    pub(crate) fn new(queue: SharedQueue<T>) -> Self {
        Self(queue)
    }

    /// The queue's name.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// How many items it has room for.
    pub fn capacity(&self) -> u32 {
        self.0.capacity()
    }

    /// How many items are in it at this moment.
    ///
    /// # Errors
    /// [`Error::Damaged`]; [`Error::Removed`] if the name has to be looked up anew and cannot be.
    pub fn len(&self) -> Result<u32> {
        self.0.len()
    }

    /// Whether nothing is in it at this moment.
    ///
    /// # Errors
    /// As [`len`](Self::len).
    pub fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Puts an item in at the end, waiting for room.
    ///
    /// # Errors
    /// [`Error::Damaged`] if its positions say what cannot be; otherwise as [`Mutex::lock`](crate::Mutex::lock).
    pub fn push(&self, item: T) -> Result<()> {
        self.0.push(&item, fork::thread(), Deadline::Never)
    }

    /// Puts an item in at the end, if there is room.
    ///
    /// # Errors
    /// [`Error::QueueFull`]; [`Error::WouldBlock`] if somebody uses the queue and does not go on for 10 ms; otherwise as [`push`](Self::push).
    pub fn try_push(&self, item: T) -> Result<()> {
        self.0.push(&item, fork::thread(), now()).map_err(|error| match error {
            Error::TimedOut { name, .. } => Error::QueueFull { name, capacity: self.capacity() },
            error => error,
        })
    }

    /// Puts an item in at the end, waiting for room for at most `timeout`.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; otherwise as [`push`](Self::push).
    pub fn push_for(&self, item: T, timeout: Duration) -> Result<()> {
        self.0.push(&item, fork::thread(), Deadline::after(timeout))
    }

    /// Puts an item in at the end, waiting for room until `deadline` at most.
    ///
    /// # Errors
    /// As [`push_for`](Self::push_for).
    pub fn push_until(&self, item: T, deadline: Instant) -> Result<()> {
        self.0.push(&item, fork::thread(), Deadline::at(deadline))
    }

    /// Takes the first item, waiting for one.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn pop(&self) -> Result<T> {
        self.0.pop(fork::thread(), Deadline::Never, |item| *item)
    }

    /// Takes the first item, if there is one.
    ///
    /// # Errors
    /// [`Error::QueueEmpty`]; otherwise as [`push`](Self::push).
    pub fn try_pop(&self) -> Result<T> {
        self.try_pop_with(|item| *item)
    }

    /// Takes the first item, waiting for one for at most `timeout`.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; otherwise as [`push`](Self::push).
    pub fn pop_for(&self, timeout: Duration) -> Result<T> {
        self.0.pop(fork::thread(), Deadline::after(timeout), |item| *item)
    }

    /// Takes the first item, waiting for one until `deadline` at most.
    ///
    /// # Errors
    /// As [`pop_for`](Self::pop_for).
    pub fn pop_until(&self, deadline: Instant) -> Result<T> {
        self.0.pop(fork::thread(), Deadline::at(deadline), |item| *item)
    }

    /// Takes the first item after `note` has seen it, waiting for one. Should this process die in `note`, the item is still in the queue, and
    /// whoever pops next sees it again. Nobody else uses the queue meanwhile, so be short.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn pop_with<R>(&self, note: impl FnOnce(&T) -> R) -> Result<R> {
        self.0.pop(fork::thread(), Deadline::Never, note)
    }

    /// As [`pop_with`](Self::pop_with), if there is an item.
    ///
    /// # Errors
    /// [`Error::QueueEmpty`]; otherwise as [`push`](Self::push).
    pub fn try_pop_with<R>(&self, note: impl FnOnce(&T) -> R) -> Result<R> {
        self.0.pop(fork::thread(), now(), note).map_err(|error| match error {
            Error::TimedOut { name, .. } => Error::QueueEmpty { name },
            error => error,
        })
    }
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").finish_non_exhaustive()
    }
}
