//! A read-write lock between processes.

use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::data::NoData;
use super::guard::{Hold, guard, now};
use crate::backend::either::ReadWrite;
use crate::backend::lock::{Abandonment, Acquisition};
use crate::backend::release::{AsReadWrite, ReadAt};
use crate::backend::rwlock::Reading;
use crate::os::clock::Deadline;
use crate::os::fork;
use crate::{Abandoned, Error, Holder, Result};

/// A handle for a read-write lock that all processes in the space share: many read at a time, or one writes. Made by
/// [`Space::rwlock`](crate::Space::rwlock).
///
/// It belongs to the *process* that acquired it, as a [`Mutex`](crate::Mutex) does. Guards stay in their thread; owned ones may move between
/// threads. Cloning a handle is cheap.
///
/// # When an owner dies
/// The readers of every process are counted apart, so those of a dead one are subtracted exactly, at whatever instruction it died: the next
/// writer finds it dead and goes on. Nobody is told, for a reader leaves nothing half done. A *writer* that dies inside is told of to everybody
/// who comes after it, readers too ([`RwLockReadGuard::abandoned`]), until a writer after it has released. One that died while it still waited
/// is told to nobody.
///
/// # Fairness
/// A writer that waits holds new readers back, and those that were there before run out: so writers are not starved by readers that overlap. A reader
/// that has to wait queues with the writers, so it is starved no more than they are. Sleepers are woken in the order in which they went to
/// sleep, but one who does not sleep may be faster.
///
/// So a thread that reads already and reads once more may wait for a writer that waits for it: do not read twice. (It is found
/// out only if the thread *writes*.)
///
/// There is no third kind of guard that reads and may write later. A reader can become a writer ([`RwLockReadGuard::upgrade`]) if
/// nobody else wants to write at that moment, and gets an error if somebody does, for they would wait for each other.
///
/// # Cost
/// Uncontended, reading is two atomic read-modify-writes in a cache line that is the process's own, and a look at one that is
/// only read: readers of different processes do not slow each other down. Writing is what a mutex costs, and a look at one cache
/// line for each process that ever read (8 at least). No system call, no clock, no allocation. The first read of a process takes a little longer.
///
/// ```
/// # let root = tempfile::tempdir().unwrap();
/// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
/// let config = space.rwlock("config")?;
/// {
///     let one = config.read()?;
///     let two = config.try_read()?; // here, and in other processes
///     assert!(matches!(config.try_write(), Err(hostlock::Error::WouldBlock { .. })));
/// }
/// let writing = config.write()?;
/// println!("writing, token {}", writing.token());
/// let reading = writing.downgrade()?; // nobody else wrote in between
/// # let _ = reading;
/// # Ok::<_, hostlock::Error>(())
/// ```
///
/// # Data
/// A `RwLock<T>` guards a value that lives beside it, for all processes: see [`Space::rwlock_with`](crate::Space::rwlock_with). A plain `RwLock`
/// is a `RwLock<NoData>`.
pub struct RwLock<T = NoData>(ReadWrite, PhantomData<fn() -> T>);

impl<T> Clone for RwLock<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone(), PhantomData)
    }
}

/// A guard that could not become another one, and why not.
#[must_use = "the lock is released as soon as its guard is dropped"]
pub struct Refused<G> {
    /// As it was.
    pub guard: G,
    /// Why it stayed that.
    pub error: Error,
}

impl<G> fmt::Debug for Refused<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("error", &self.error).finish_non_exhaustive()
    }
}

impl<G> fmt::Display for Refused<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<G> std::error::Error for Refused<G> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// The guard is let go.
impl<G> From<Refused<G>> for Error {
    fn from(refused: Refused<G>) -> Self {
        refused.error
    }
}

impl<T> RwLock<T> {
    pub(crate) fn new(lock: ReadWrite) -> Self {
        Self(lock, PhantomData)
    }

    pub(super) fn backend(&self) -> &ReadWrite {
        &self.0
    }

    /// The lock's name.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Who has the lock at this moment: the writer, or every process that reads ([`Holder::readers`] says how many readers it has). Empty if
    /// nobody alive has it.
    ///
    /// # Errors
    /// [`Error::Removed`], [`Error::System`] if the name has to be looked up anew and cannot be; [`Error::Damaged`].
    ///
    /// ```
    /// # let root = tempfile::tempdir()?;
    /// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
    /// let lock = space.rwlock("whose")?;
    /// assert!(lock.holders()?.is_empty());
    /// let (one, two) = (lock.read()?, lock.try_read()?);
    /// let holders = lock.holders()?;
    /// assert_eq!((holders.len(), holders[0].pid, holders[0].readers), (1, std::process::id(), 2));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn holders(&self) -> Result<Vec<Holder>> {
        self.0.holders()
    }

    #[inline(always)]
    pub(super) fn acquire_read(&self, deadline: impl FnOnce() -> Deadline) -> Result<RwLockReadGuard<'_>> {
        let read = match self.0.read_by_line() {
            Some((reading, by)) => Read::waited(ReadAt { lock: &self.0, by: Some(by) }, (reading, None)),
            None => Read::waited(ReadAt::counted(&self.0), self.0.read_slowly(deadline)?),
        };
        Ok(RwLockReadGuard { read, _stays_in_its_thread: PhantomData })
    }

    pub(super) fn acquire_read_owned(&self, deadline: Deadline) -> Result<OwnedRwLockReadGuard> {
        let lock = self.0.clone();
        let waited = lock.read_owned(deadline)?;
        Ok(OwnedRwLockReadGuard { read: Read::waited(lock, waited) })
    }

    #[inline(always)]
    pub(super) fn acquire_write(&self, deadline: impl FnOnce() -> Deadline) -> Result<RwLockWriteGuard<'_>> {
        let (acquisition, told) = self.0.write(fork::thread(), deadline)?;
        Ok(RwLockWriteGuard { hold: Hold::told(&self.0, acquisition, told), _stays_in_its_thread: PhantomData })
    }

    pub(super) fn acquire_write_owned(&self, deadline: Deadline) -> Result<OwnedRwLockWriteGuard> {
        let (acquisition, told) = self.0.write(0, || deadline)?;
        Ok(OwnedRwLockWriteGuard { hold: Hold::told(self.0.clone(), acquisition, told) })
    }

    /// What a wait of no length says is that it would have had to wait.
    #[cold]
    pub(super) fn would_block(&self, error: Error) -> Error {
        match error {
            Error::TimedOut { name, holder, .. } => Error::WouldBlock { name, holder },
            Error::Deadlock { name, .. } => {
                let holder = self.holders().ok().and_then(|holders| holders.into_iter().next());
                Error::WouldBlock { name, holder: holder.map(Box::new) }
            }
            error => error,
        }
    }
}

impl RwLock {
    /// Acquires the lock for reading, waiting for as long as it takes.
    ///
    /// # Errors
    /// [`Error::Deadlock`] if this very thread writes, or waits in a circle ([Deadlocks](crate::Mutex#deadlocks)); [`Error::NoExtents`] if the space has no room to count another process's readers;
    /// [`Error::Removed`] if the space's file is gone; [`Error::Damaged`] if the lock says what cannot be; [`Error::TokensExhausted`].
    #[inline(always)]
    pub fn read(&self) -> Result<RwLockReadGuard<'_>> {
        self.acquire_read(|| Deadline::Never)
    }

    /// Acquires the lock for reading if nobody writes or waits to write.
    ///
    /// # Errors
    /// [`Error::WouldBlock`], naming who does; otherwise as [`read`](Self::read).
    #[inline(always)]
    pub fn try_read(&self) -> Result<RwLockReadGuard<'_>> {
        self.acquire_read(now).map_err(|error| self.would_block(error))
    }

    /// Acquires the lock for reading, waiting for at most `timeout`. Zero tries once; a time too long to count waits without end.
    ///
    /// # Errors
    /// [`Error::TimedOut`], naming who writes or waits to; otherwise as [`read`](Self::read).
    #[inline(always)]
    pub fn try_read_for(&self, timeout: Duration) -> Result<RwLockReadGuard<'_>> {
        self.acquire_read(|| Deadline::after(timeout))
    }

    /// Acquires the lock for reading, waiting until `deadline` at most. One in the past tries once.
    ///
    /// # Errors
    /// As [`try_read_for`](Self::try_read_for).
    #[inline(always)]
    pub fn try_read_until(&self, deadline: Instant) -> Result<RwLockReadGuard<'_>> {
        self.acquire_read(|| Deadline::at(deadline))
    }

    /// Acquires the lock for writing, waiting for as long as it takes.
    ///
    /// # Errors
    /// [`Error::Deadlock`] if this very thread writes already; [`Error::Removed`] if the space's file is gone; [`Error::Damaged`] if the lock or
    /// the counts of its readers say what cannot be; [`Error::TokensExhausted`].
    ///
    /// # If the writer before died
    /// The guard says so: see [`RwLockWriteGuard::abandoned`].
    #[inline(always)]
    pub fn write(&self) -> Result<RwLockWriteGuard<'_>> {
        self.acquire_write(|| Deadline::Never)
    }

    /// Acquires the lock for writing if nobody alive has it.
    ///
    /// # Errors
    /// [`Error::WouldBlock`], naming the writer or one of the readers; otherwise as [`write`](Self::write).
    #[inline(always)]
    pub fn try_write(&self) -> Result<RwLockWriteGuard<'_>> {
        self.acquire_write(now).map_err(|error| self.would_block(error))
    }

    /// Acquires the lock for writing, waiting for at most `timeout`. Zero tries once; a time too long to count waits without end.
    ///
    /// # Errors
    /// [`Error::TimedOut`], naming the writer or one of the readers; otherwise as [`write`](Self::write).
    #[inline(always)]
    pub fn try_write_for(&self, timeout: Duration) -> Result<RwLockWriteGuard<'_>> {
        self.acquire_write(|| Deadline::after(timeout))
    }

    /// Acquires the lock for writing, waiting until `deadline` at most. One in the past tries once.
    ///
    /// # Errors
    /// As [`try_write_for`](Self::try_write_for).
    #[inline(always)]
    pub fn try_write_until(&self, deadline: Instant) -> Result<RwLockWriteGuard<'_>> {
        self.acquire_write(|| Deadline::at(deadline))
    }

    /// As [`read`](Self::read), with a guard that can be kept and sent to another thread.
    pub fn read_owned(&self) -> Result<OwnedRwLockReadGuard> {
        self.acquire_read_owned(Deadline::Never)
    }

    /// As [`try_read`](Self::try_read), with a guard that can be kept and sent to another thread.
    pub fn try_read_owned(&self) -> Result<OwnedRwLockReadGuard> {
        self.acquire_read_owned(now()).map_err(|error| self.would_block(error))
    }

    /// As [`try_read_for`](Self::try_read_for), with a guard that can be kept and sent to another thread.
    pub fn try_read_owned_for(&self, timeout: Duration) -> Result<OwnedRwLockReadGuard> {
        self.acquire_read_owned(Deadline::after(timeout))
    }

    /// As [`try_read_until`](Self::try_read_until), with a guard that can be kept and sent to another thread.
    pub fn try_read_owned_until(&self, deadline: Instant) -> Result<OwnedRwLockReadGuard> {
        self.acquire_read_owned(Deadline::at(deadline))
    }

    /// As [`write`](Self::write), with a guard that can be kept and sent to another thread.
    ///
    /// Such an acquisition belongs to no thread. One that waits for itself with it is found only if all threads of the process wait
    /// ([Deadlocks](crate::Mutex#deadlocks)), and hangs otherwise.
    pub fn write_owned(&self) -> Result<OwnedRwLockWriteGuard> {
        self.acquire_write_owned(Deadline::Never)
    }

    /// As [`try_write`](Self::try_write), with a guard that can be kept and sent to another thread.
    pub fn try_write_owned(&self) -> Result<OwnedRwLockWriteGuard> {
        self.acquire_write_owned(now()).map_err(|error| self.would_block(error))
    }

    /// As [`try_write_for`](Self::try_write_for), with a guard that can be kept and sent to another thread.
    pub fn try_write_owned_for(&self, timeout: Duration) -> Result<OwnedRwLockWriteGuard> {
        self.acquire_write_owned(Deadline::after(timeout))
    }

    /// As [`try_write_until`](Self::try_write_until), with a guard that can be kept and sent to another thread.
    pub fn try_write_owned_until(&self, deadline: Instant) -> Result<OwnedRwLockWriteGuard> {
        self.acquire_write_owned(Deadline::at(deadline))
    }
}

impl<T> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RwLock").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// A reader, and the handle to end it with: borrowed or owned.
pub(super) struct Read<L: AsReadWrite> {
    pub(super) lock: L,
    pub(super) reading: Reading,
    /// By hand, so that dropping a guard that has nothing to tell is short enough to be inlined.
    pub(super) told: ManuallyDrop<Option<Box<Abandoned>>>,
    /// The time was noted, and is to be forgotten.
    stamped: AtomicBool,
}

impl<L: AsReadWrite> Read<L> {
    #[inline(always)]
    fn waited(lock: L, (reading, told): (Reading, Option<Box<Abandoned>>)) -> Self {
        Self { lock, reading, told: ManuallyDrop::new(told), stamped: AtomicBool::new(false) }
    }

    fn lock(&self) -> &ReadWrite {
        self.lock.read_write()
    }

    pub(super) fn unlock(mut self) -> Result<()> {
        if *self.stamped.get_mut() {
            self.lock().unstamp_read(self.reading);
        }
        let reading = std::mem::replace(&mut self.reading, Reading::ENDED);
        let lock = self.lock();
        let token = lock.token_of(reading);
        match lock.release_read(reading) {
            true => Ok(()),
            false => Err(Error::Lost { name: lock.name().into(), token }),
        }
    }

    /// The reader is a writer now, or still a reader.
    fn upgrade(&mut self, thread: u32, deadline: Deadline) -> Result<(Acquisition, Option<Box<Abandonment>>)> {
        self.reading = self.lock.read_write().count(self.reading)?;
        let acquisition = self.lock.read_write().upgrade(self.reading, thread, deadline)?;
        self.reading = Reading::ENDED;
        Ok((acquisition, self.told.take().map(|told| Abandonment::told_before(*told))))
    }

    fn debug(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lock = self.lock();
        f.debug_struct(name).field("name", &lock.name()).field("abandoned", &self.told).finish_non_exhaustive()
    }
}

impl<L: AsReadWrite> Drop for Read<L> {
    #[inline(always)]
    fn drop(&mut self) {
        let (stamped, told) = (*self.stamped.get_mut(), self.told.take());
        if stamped || told.is_some() || !self.lock.release_by_line(self.reading) {
            end_read(self.lock.read_write(), self.reading, stamped, told);
        }
    }
}

#[inline(never)]
fn end_read(lock: &ReadWrite, reading: Reading, stamped: bool, told: Option<Box<Abandoned>>) {
    if stamped {
        lock.unstamp_read(reading);
    }
    lock.release_read(reading);
    drop(told);
}

/// A read-write lock that is held for reading, until this is dropped. It stays in the thread that acquired it.
///
/// It is bound to its process: in a forked child dropping it does nothing, so it never takes off a reader of the parent's.
#[must_use = "the lock is released as soon as its guard is dropped"]
pub struct RwLockReadGuard<'a> {
    pub(super) read: Read<ReadAt<'a>>,
    /// As std's guard, `Sync` and not `Send`.
    _stays_in_its_thread: PhantomData<std::sync::RwLockReadGuard<'static, ()>>,
}

/// A read-write lock that is held for reading, until this is dropped; it can be stored, and sent to another thread. Made by
/// [`RwLock::read_owned`].
#[must_use = "the lock is released as soon as its guard is dropped"]
pub struct OwnedRwLockReadGuard {
    pub(super) read: Read<ReadWrite>,
}

/// A read-write lock that is held for writing, until this is dropped. It stays in the thread that acquired it.
///
/// It is bound to its acquisition, as a [`MutexGuard`](crate::MutexGuard) is.
#[must_use = "the lock is released as soon as its guard is dropped"]
pub struct RwLockWriteGuard<'a> {
    pub(super) hold: Hold<&'a ReadWrite>,
    /// As std's guard, `Sync` and not `Send`.
    _stays_in_its_thread: PhantomData<std::sync::RwLockWriteGuard<'static, ()>>,
}

/// A read-write lock that is held for writing, until this is dropped; it can be stored, and sent to another thread. Made by
/// [`RwLock::write_owned`].
#[must_use = "the lock is released as soon as its guard is dropped"]
pub struct OwnedRwLockWriteGuard {
    pub(super) hold: Hold<ReadWrite>,
}

guard!(RwLockWriteGuard<'_>);
guard!(OwnedRwLockWriteGuard);

macro_rules! read_guard {
    ($($guard:tt)+) => {
        impl $($guard)+ {
            /// The token of the last write: what is read was written with it, or with a smaller one. Not larger than any token that a
            /// writer gets while this is held, for there is none.
            pub fn token(&self) -> u64 {
                self.read.lock().token_of(self.read.reading)
            }

            /// Who died writing, if no writer has released since: whatever the lock guards may be half changed. The mark stays for all who
            /// come after, until a writer has released.
            pub fn abandoned(&self) -> Option<&Abandoned> {
                self.read.told.as_deref()
            }

            /// Whether this process still holds the lock. `false` in a forked child.
            pub fn is_held(&self) -> bool {
                self.read.lock().is_reading(self.read.reading)
            }

            /// Releases the lock, as dropping does, and says whether it still was held.
            ///
            /// # Errors
            /// [`Error::Lost`] if it was not: this is a forked child, or the process was taken for dead.
            pub fn unlock(self) -> Result<()> {
                self.read.unlock()
            }

            /// Notes the time, so that [`Holder::held`](crate::Holder::held) is known from now on.
            pub fn stamp(&self) {
                self.read.lock().stamp_read(self.read.reading);
                self.read.stamped.store(true, Relaxed);
            }
        }

        impl fmt::Debug for $($guard)+ {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let name = stringify!($($guard)+).split('<').next().unwrap_or_default();
                self.read.debug(name.trim(), f)
            }
        }
    };
}

read_guard!(RwLockReadGuard<'_>);
read_guard!(OwnedRwLockReadGuard);

#[expect(clippy::result_large_err, reason = "a guard is what was acquired, and comes back as it was")]
impl<'a> RwLockReadGuard<'a> {
    /// Becomes a writer, when all other readers are gone; nobody writes in between. If this process dies while it waits, it was a reader.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] at once if somebody writes or wants to: they may wait for this reader, and of two who wait for each other none would
    /// ever go on. Then let go of this guard, and acquire the lock for writing; compare tokens to see whether somebody wrote in between.
    /// [`Error::Unsupported`] of a lock file.
    ///
    /// ```
    /// # let root = tempfile::tempdir()?;
    /// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
    /// let cache = space.rwlock("cache")?;
    /// let reading = cache.read()?;
    /// // ... it turns out that something has to be changed
    /// let writing = match reading.upgrade() {
    ///     Ok(writing) => writing,
    ///     Err(refused) => {
    ///         let seen = refused.guard.token();
    ///         drop(refused);
    ///         let writing = cache.write()?;
    ///         // ... if nobody wrote, what was read before is still so
    ///         # let _ = seen;
    ///         writing
    ///     }
    /// };
    /// # let _ = writing;
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn upgrade(self) -> std::result::Result<RwLockWriteGuard<'a>, Refused<Self>> {
        self.upgrade_until(Deadline::Never)
    }

    /// As [`upgrade`](Self::upgrade), if there is no other reader at all.
    ///
    /// # Errors
    /// [`Error::TimedOut`] if there is; otherwise as [`upgrade`](Self::upgrade).
    pub fn try_upgrade(self) -> std::result::Result<RwLockWriteGuard<'a>, Refused<Self>> {
        self.upgrade_until(now())
    }

    /// As [`upgrade`](Self::upgrade), waiting for the other readers for at most `timeout`.
    ///
    /// # Errors
    /// [`Error::TimedOut`], naming a reader; otherwise as [`upgrade`](Self::upgrade).
    pub fn try_upgrade_for(self, timeout: Duration) -> std::result::Result<RwLockWriteGuard<'a>, Refused<Self>> {
        self.upgrade_until(Deadline::after(timeout))
    }

    fn upgrade_until(mut self, deadline: Deadline) -> std::result::Result<RwLockWriteGuard<'a>, Refused<Self>> {
        match self.read.upgrade(fork::thread(), deadline) {
            Ok((acquisition, told)) => Ok(RwLockWriteGuard {
                hold: Hold::told(self.read.lock.lock, acquisition, told),
                _stays_in_its_thread: PhantomData,
            }),
            Err(error) => Err(Refused { guard: self, error }),
        }
    }
}

#[expect(clippy::result_large_err, reason = "an owned guard is a handle, and comes back as it was")]
impl OwnedRwLockReadGuard {
    /// As [`RwLockReadGuard::upgrade`].
    pub fn upgrade(self) -> std::result::Result<OwnedRwLockWriteGuard, Refused<Self>> {
        self.upgrade_until(Deadline::Never)
    }

    /// As [`RwLockReadGuard::try_upgrade`].
    pub fn try_upgrade(self) -> std::result::Result<OwnedRwLockWriteGuard, Refused<Self>> {
        self.upgrade_until(now())
    }

    /// As [`RwLockReadGuard::try_upgrade_for`].
    pub fn try_upgrade_for(self, timeout: Duration) -> std::result::Result<OwnedRwLockWriteGuard, Refused<Self>> {
        self.upgrade_until(Deadline::after(timeout))
    }

    fn upgrade_until(mut self, deadline: Deadline) -> std::result::Result<OwnedRwLockWriteGuard, Refused<Self>> {
        match self.read.upgrade(0, deadline) {
            Ok((acquisition, told)) => {
                Ok(OwnedRwLockWriteGuard { hold: Hold::told(self.read.lock.clone(), acquisition, told) })
            }
            Err(error) => Err(Refused { guard: self, error }),
        }
    }
}

impl<'a> RwLockWriteGuard<'a> {
    /// Becomes a reader; nobody writes in between, and whoever waits to read comes in. The token stays. A death that this writer was told of is
    /// forgotten, as when it releases.
    ///
    /// # Errors
    /// [`Error::Lost`] in a forked child; [`Error::Damaged`] if readers cannot be counted; [`Error::Unsupported`] of a lock file. Then it is the
    /// writer still.
    pub fn downgrade(mut self) -> std::result::Result<RwLockReadGuard<'a>, Refused<Self>> {
        match self.hold.lock.downgrade(self.hold.acquisition) {
            Ok(reading) => {
                self.hold.end_elsewhere();
                let read = Read::waited(ReadAt::counted(self.hold.lock), (reading, None));
                Ok(RwLockReadGuard { read, _stays_in_its_thread: PhantomData })
            }
            Err(error) => Err(Refused { guard: self, error }),
        }
    }
}

#[expect(clippy::result_large_err, reason = "an owned guard is a handle, and comes back as it was")]
impl OwnedRwLockWriteGuard {
    /// As [`RwLockWriteGuard::downgrade`].
    pub fn downgrade(mut self) -> std::result::Result<OwnedRwLockReadGuard, Refused<Self>> {
        match self.hold.lock.downgrade(self.hold.acquisition) {
            Ok(reading) => {
                self.hold.end_elsewhere();
                Ok(OwnedRwLockReadGuard { read: Read::waited(self.hold.lock.clone(), (reading, None)) })
            }
            Err(error) => Err(Refused { guard: self, error }),
        }
    }
}
