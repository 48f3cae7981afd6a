//! A mutex between processes.

use std::fmt;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use super::data::NoData;
use super::guard::{Hold, guard, now};
use crate::backend::either::Lock;
use crate::backend::lock::Acquisition;
use crate::backend::release::LockAt;
use crate::os::clock::Deadline;
use crate::os::fork;
use crate::{Error, Holder, Result};

/// A handle for a mutex that all processes in the space share. Made by [`Space::mutex`](crate::Space::mutex).
///
/// The lock belongs to the *process* that acquired it; within it, a [`MutexGuard`] stays in its thread, and an
/// [`OwnedMutexGuard`] may move between threads. Cloning a handle is cheap, and every clone is a handle for the same lock.
///
/// # When the owner dies
/// However the process that holds the lock ends (`kill -9`, `exec`, a crash, an exit that runs no destructors), the next one gets
/// the lock, with a larger token, and is told by [`MutexGuard::abandoned`]. A process that is merely stopped, or
/// hung, keeps it: nobody takes a lock from the living, unless it was acquired [with a lease](Mutex::lock_with_lease). A *thread* that ends without dropping its guard
/// (`mem::forget`) keeps the lock for its process.
///
/// # Fairness
/// Whoever comes first when the lock is free gets it. Sleepers are woken in the order in which they went to sleep, but one who does
/// not sleep may be faster; until one of them has waited for a millisecond: then the next release leaves the lock to those who wait. With
/// [`unlock_fair`](MutexGuard::unlock_fair) a release does so in any case.
///
/// # Deadlocks
/// Processes and threads that wait for each other in a circle, for mutexes, read-write locks or permits, are found some 10 ms after the last of them began to wait; that one gets
/// [`Error::Deadlock`], which names all of them, and keeps what it holds: it is for it to let go. Left out are, in processes that have a thread to spare, readers,
/// permits and guards that can be sent: which thread would let them go is not known.
///
/// # Cost
/// Uncontended, two atomic compare-and-swaps: no system call, no clock, no allocation.
///
/// ```
/// # let root = tempfile::tempdir()?;
/// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
/// use std::time::Duration;
/// use hostlock::Error;
///
/// let nightly = space.mutex("nightly-report")?;
/// match nightly.try_lock_for(Duration::from_secs(5)) {
///     Ok(guard) => println!("running, token {}", guard.token()),
///     // lock "nightly-report" is held by pid 4711 (report) with token 1795413213671035000 for 12 s; waited 5 s
///     Err(Error::TimedOut { holder, .. }) => println!("{holder:?} is at it already"),
///     Err(error) => return Err(error.into()),
/// }
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
///
/// # Data
/// A `Mutex<T>` guards a value that lives beside it, for all processes: see [`Space::mutex_with`](crate::Space::mutex_with). A plain `Mutex` is a
/// `Mutex<NoData>`.
pub struct Mutex<T = NoData>(Lock, PhantomData<fn() -> T>);

impl<T> Clone for Mutex<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

impl<T> Mutex<T> {
    pub(crate) fn new(lock: Lock) -> Self {
        Self(lock, PhantomData)
    }

    pub(super) fn backend(&self) -> &Lock {
        &self.0
    }

    /// The lock's name.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Who holds the lock at this moment, by any process or thread; `None` if nobody alive does.
    ///
    /// # Errors
    /// [`Error::Removed`] and [`Error::System`] if the name has to be looked up anew and cannot be.
    ///
    /// ```
    /// # let root = tempfile::tempdir()?;
    /// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
    /// let mutex = space.mutex("whose")?;
    /// assert_eq!(mutex.holder()?, None);
    /// let guard = mutex.lock()?;
    /// let holder = mutex.holder()?.expect("we hold it");
    /// assert_eq!((holder.pid, holder.token), (std::process::id(), guard.token()));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn holder(&self) -> Result<Option<Holder>> {
        self.0.holder()
    }

    // Always: returned through memory, the guard would be read back in larger pieces than it was written in, which costs the
    // processor more than the whole lock.
    #[inline(always)]
    pub(super) fn acquire(&self, deadline: impl FnOnce() -> Deadline) -> Result<MutexGuard<'_>> {
        MutexGuard::acquire(&self.0, deadline)
    }

    pub(super) fn acquire_owned(&self, deadline: Deadline) -> Result<OwnedMutexGuard> {
        let lock = self.0.clone();
        let hold = match lock.acquire_fast(0) {
            Some((acquisition, _)) => Hold::fast(lock, acquisition),
            None => {
                let waited = lock.acquire_slowly(0, || deadline)?;
                Hold::waited(lock, waited)
            }
        };
        Ok(OwnedMutexGuard { hold })
    }

    /// What a wait of no length says is that it would have had to wait.
    #[cold]
    pub(super) fn would_block(&self, error: Error) -> Error {
        match error {
            Error::TimedOut { name, holder, .. } => Error::WouldBlock { name, holder },
            Error::Deadlock { name, .. } => {
                Error::WouldBlock { name, holder: self.0.holder().ok().flatten().map(Box::new) }
            }
            error => error,
        }
    }
}

impl Mutex {
    /// Acquires the lock, waiting for as long as it takes.
    ///
    /// # Errors
    /// [`Error::Deadlock`] if this very thread holds it already, or waits in a circle ([Deadlocks](#deadlocks)); [`Error::Removed`] if the space's file is gone;
    /// [`Error::Damaged`] if the lock names an owner that cannot be; [`Error::TokensExhausted`]; [`Error::LockFileGone`] with a deadline, if
    /// somebody deleted the lock file under its holder.
    ///
    /// # If the owner died
    /// Waiting ends and the guard says so: see [`MutexGuard::abandoned`].
    #[inline(always)]
    pub fn lock(&self) -> Result<MutexGuard<'_>> {
        self.acquire(|| Deadline::Never)
    }

    /// Acquires the lock if nobody alive holds it.
    ///
    /// # Errors
    /// [`Error::WouldBlock`], naming the holder, if it is held, by this thread too; otherwise as [`lock`](Self::lock).
    ///
    /// ```
    /// # let root = tempfile::tempdir()?;
    /// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
    /// let mutex = space.mutex("once-at-a-time")?;
    /// let guard = mutex.try_lock()?;
    /// let error = mutex.try_lock().unwrap_err();
    /// assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    #[inline(always)]
    pub fn try_lock(&self) -> Result<MutexGuard<'_>> {
        self.acquire(now).map_err(|error| self.would_block(error))
    }

    /// Acquires the lock, waiting for at most `timeout`. Zero tries once; a time too long to count waits without end.
    ///
    /// # Errors
    /// [`Error::TimedOut`], naming the holder; otherwise as [`lock`](Self::lock).
    #[inline(always)]
    pub fn try_lock_for(&self, timeout: Duration) -> Result<MutexGuard<'_>> {
        self.acquire(|| Deadline::after(timeout))
    }

    /// Acquires the lock, waiting until `deadline` at most. One in the past tries once.
    ///
    /// # Errors
    /// As [`try_lock_for`](Self::try_lock_for).
    #[inline(always)]
    pub fn try_lock_until(&self, deadline: Instant) -> Result<MutexGuard<'_>> {
        self.acquire(|| Deadline::at(deadline))
    }

    /// As [`lock`](Self::lock), with a guard that can be kept and sent to another thread.
    ///
    /// Such an acquisition belongs to no thread. One that waits for itself with it is found only if all threads of the process wait ([Deadlocks](Mutex#deadlocks)), and hangs otherwise.
    pub fn lock_owned(&self) -> Result<OwnedMutexGuard> {
        self.acquire_owned(Deadline::Never)
    }

    /// As [`try_lock`](Self::try_lock), with a guard that can be kept and sent to another thread.
    pub fn try_lock_owned(&self) -> Result<OwnedMutexGuard> {
        self.acquire_owned(now()).map_err(|error| self.would_block(error))
    }

    /// As [`try_lock_for`](Self::try_lock_for), with a guard that can be kept and sent to another thread.
    pub fn try_lock_owned_for(&self, timeout: Duration) -> Result<OwnedMutexGuard> {
        self.acquire_owned(Deadline::after(timeout))
    }

    /// As [`try_lock_until`](Self::try_lock_until), with a guard that can be kept and sent to another thread.
    pub fn try_lock_owned_until(&self, deadline: Instant) -> Result<OwnedMutexGuard> {
        self.acquire_owned(Deadline::at(deadline))
    }
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// A mutex that is held, until this is dropped. It stays in the thread that acquired it.
///
/// It is bound to its acquisition: in a forked child, or after the process was taken for dead, dropping it does nothing, so it
/// never releases what somebody else holds.
///
/// ```compile_fail,E0277
/// # let root = tempfile::tempdir().unwrap();
/// # let space = hostlock::Space::builder("docs").root(root.path()).open().unwrap();
/// let mutex = space.mutex("stays")?;
/// let guard = mutex.lock()?;
/// std::thread::scope(|scope| {
///     scope.spawn(move || drop(guard)); // it is not `Send`; `lock_owned` gives one that is
/// });
/// # Ok::<_, hostlock::Error>(())
/// ```
#[must_use = "the lock is released as soon as its guard is dropped"]
pub struct MutexGuard<'a> {
    pub(super) hold: Hold<LockAt<'a>>,
    /// As std's guard, `Sync` and not `Send`.
    _stays_in_its_thread: PhantomData<std::sync::MutexGuard<'static, ()>>,
}

/// A mutex that is held, until this is dropped; it can be stored, and sent to another thread. Made by [`Mutex::lock_owned`].
///
/// ```
/// # let root = tempfile::tempdir()?;
/// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
/// let guard = space.mutex("handed-on")?.lock_owned()?;
/// std::thread::spawn(move || guard.unlock()).join().unwrap()?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the lock is released as soon as its guard is dropped"]
pub struct OwnedMutexGuard {
    pub(super) hold: Hold<Lock>,
}

impl<'a> MutexGuard<'a> {
    /// The lock, and as which acquisition it is held.
    pub(super) fn parts(&self) -> (&'a Lock, Acquisition) {
        (self.hold.lock.lock, self.hold.acquisition)
    }

    #[inline(always)]
    pub(super) fn acquire(lock: &'a Lock, deadline: impl FnOnce() -> Deadline) -> Result<Self> {
        let thread = fork::thread();
        let hold = match lock.acquire_fast(thread) {
            Some((acquisition, found)) => Hold::fast(LockAt { lock, found: Some(found) }, acquisition),
            None => {
                let waited = lock.acquire_slowly(thread, deadline)?;
                Hold::waited(LockAt::find(lock, waited.acquisition), waited)
            }
        };
        Ok(Self { hold, _stays_in_its_thread: PhantomData })
    }
}

guard!(MutexGuard<'_>);
guard!(OwnedMutexGuard);
