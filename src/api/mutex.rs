//! A mutex between processes.

use std::borrow::Borrow;
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use crate::backend::lock::{Abandonment, Acquisition, SharedLock, Waited};
use crate::os::clock::Deadline;
use crate::os::fork;
use crate::{Abandoned, Error, Holder, Result};

/// A handle for a mutex that all processes in the space share. Made by [`Space::mutex`](crate::Space::mutex).
///
/// The lock belongs to the *process* that acquired it; within it, a [`MutexGuard`] stays in its thread, and an
/// [`OwnedMutexGuard`] may move between threads. Cloning a handle is cheap, and every clone is a handle for the same lock.
///
/// # When the owner dies
/// However the process that holds the lock ends (`kill -9`, `exec`, a crash, an exit that runs no destructors), the next one gets
/// the lock, with a larger token, and is told by [`MutexGuard::abandoned`]. A process that is merely stopped, or
/// hung, keeps it: nobody takes a lock from the living. A *thread* that ends without dropping its guard (`mem::forget`) keeps the
/// lock for its process.
///
/// # Fairness
/// Whoever comes first when the lock is free gets it. Sleepers are woken in the order in which they went to sleep, but one who does
/// not sleep may be faster.
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
#[derive(Clone)]
pub struct Mutex(SharedLock);

impl Mutex {
    pub(crate) fn new(lock: SharedLock) -> Self {
        Self(lock)
    }

    /// The lock's name.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Acquires the lock, waiting for as long as it takes.
    ///
    /// # Errors
    /// [`Error::Deadlock`] if this very thread holds it already; [`Error::Removed`] if the space's file is gone;
    /// [`Error::Damaged`] if the lock names an owner that cannot be; [`Error::TokensExhausted`].
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
    /// Such an acquisition belongs to no thread: one that waits for itself with it hangs instead of getting an error.
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
    fn acquire(&self, deadline: impl FnOnce() -> Deadline) -> Result<MutexGuard<'_>> {
        let thread = fork::thread();
        let hold = match self.0.acquire_fast(thread) {
            Ok(acquisition) => Hold { lock: &self.0, acquisition, abandoned: ManuallyDrop::new(None) },
            Err(begun) => Hold::waited(&self.0, self.0.acquire(thread, deadline(), begun)?),
        };
        Ok(MutexGuard { hold, _stays_in_its_thread: PhantomData })
    }

    fn acquire_owned(&self, deadline: Deadline) -> Result<OwnedMutexGuard> {
        let lock = self.0.clone();
        let hold = match lock.acquire_fast(0) {
            Ok(acquisition) => Hold { lock, acquisition, abandoned: ManuallyDrop::new(None) },
            Err(begun) => {
                let waited = lock.acquire(0, deadline, begun)?;
                Hold::waited(lock, waited)
            }
        };
        Ok(OwnedMutexGuard { hold })
    }

    /// What a wait of no length says is that it would have had to wait.
    #[cold]
    fn would_block(&self, error: Error) -> Error {
        match error {
            Error::TimedOut { name, holder, .. } => Error::WouldBlock { name, holder },
            Error::Deadlock { name, .. } => {
                Error::WouldBlock { name, holder: self.0.holder().ok().flatten().map(Box::new) }
            }
            error => error,
        }
    }
}

/// A deadline that has passed.
fn now() -> Deadline {
    Deadline::after(Duration::ZERO)
}

impl fmt::Debug for Mutex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// An acquisition, and the handle to release it with: borrowed or owned.
struct Hold<L: Borrow<SharedLock>> {
    lock: L,
    acquisition: Acquisition,
    /// By hand, so that dropping a guard that has nothing to tell is short enough to be inlined.
    abandoned: ManuallyDrop<Option<Box<Abandonment>>>,
}

impl<L: Borrow<SharedLock>> Hold<L> {
    fn waited(lock: L, waited: Waited) -> Self {
        Self { lock, acquisition: waited.acquisition, abandoned: ManuallyDrop::new(waited.abandoned) }
    }

    fn token(&self) -> u64 {
        self.lock.borrow().token(self.acquisition)
    }

    fn is_held(&self) -> bool {
        self.lock.borrow().is_held(self.acquisition)
    }

    fn abandoned(&self) -> Option<&Abandoned> {
        self.abandoned.as_deref().map(|abandoned| &abandoned.told)
    }

    #[inline(always)]
    fn release(&mut self) -> bool {
        if self.abandoned.is_some() {
            return self.release_told();
        }
        self.lock.borrow().release(self.acquisition)
    }

    /// Releases a lock that was taken over, and cleans up after its owner then: the next one should not wait for that.
    #[cold]
    fn release_told(&mut self) -> bool {
        let released = self.lock.borrow().release(self.acquisition);
        self.bury(released);
        released
    }

    /// Cleans up after the owner before us. Not in a forked child, which ended nothing and has no part in this.
    fn bury(&mut self, ended: bool) {
        match self.abandoned.take() {
            Some(abandoned) if ended => self.lock.borrow().bury(&abandoned),
            _ => {}
        }
    }

    fn unlock(mut self) -> Result<()> {
        let released = self.release();
        self.end(released)
    }

    fn abandon(mut self) -> Result<()> {
        let abandoned = self.lock.borrow().abandon(self.acquisition);
        self.bury(abandoned);
        self.end(abandoned)
    }

    /// The acquisition is over, and `drop` has nothing left to end.
    fn end(mut self, ended: bool) -> Result<()> {
        let token = self.token();
        self.acquisition = Acquisition::ENDED;
        match ended {
            true => Ok(()),
            false => Err(Error::Lost { name: self.lock.borrow().name().into(), token }),
        }
    }

    fn debug(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("name", &self.lock.borrow().name())
            .field("token", &self.token())
            .field("abandoned", &self.abandoned())
            .finish_non_exhaustive()
    }
}

impl<L: Borrow<SharedLock>> Drop for Hold<L> {
    #[inline(always)]
    fn drop(&mut self) {
        self.release();
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
    hold: Hold<&'a SharedLock>,
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
    hold: Hold<SharedLock>,
}

macro_rules! guard {
    ($($guard:tt)+) => {
        impl $($guard)+ {
            /// The fencing token of this acquisition: larger than that of every earlier one of this name, whoever held it,
            /// also across crashes and reboots. Hand it to what the lock protects, and let that reject a smaller one than
            /// the largest it has seen. Its value says nothing else; it does not fit a floating-point number.
            pub fn token(&self) -> u64 {
                self.hold.token()
            }

            /// Who died holding the lock, if this is the first acquisition after that: whatever the lock guards may be half
            /// changed. The mark goes when this guard is released; if this process dies before, the next owner is told.
            pub fn abandoned(&self) -> Option<&Abandoned> {
                self.hold.abandoned()
            }

            /// Whether this process still holds the lock with this token. `false` in a forked child.
            pub fn is_held(&self) -> bool {
                self.hold.is_held()
            }

            /// Releases the lock, as dropping does, and says whether it still was held.
            ///
            /// # Errors
            /// [`Error::Lost`] if it was not: then it was released by nobody's doing here, or this is a forked child.
            pub fn unlock(self) -> Result<()> {
                self.hold.unlock()
            }

            /// Ends the acquisition as the death of this process would: the lock is free, and the next owner is told
            /// ([`abandoned`](Self::abandoned)) that this process left what the lock guards half done.
            ///
            /// # Errors
            /// [`Error::Lost`], as for [`unlock`](Self::unlock).
            ///
            /// ```
            /// # let root = tempfile::tempdir()?;
            /// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
            /// let mutex = space.mutex("ledger")?;
            /// let guard = mutex.lock()?;
            /// // ... half-way through it turns out that this cannot be finished, and not be undone either
            /// guard.abandon()?;
            /// let next = mutex.lock()?;
            /// assert_eq!(next.abandoned().unwrap().pid, Some(std::process::id()));
            /// # Ok::<_, Box<dyn std::error::Error>>(())
            /// ```
            pub fn abandon(self) -> Result<()> {
                self.hold.abandon()
            }

            /// Notes the time, so that [`Holder::held`](crate::Holder::held) is exact from now on. An acquisition that had to wait
            /// is noted as it is; one that did not reads no clock, which would cost several times as much as the lock.
            pub fn stamp(&self) {
                self.hold.lock.borrow().stamp(self.hold.acquisition);
            }
        }

        impl fmt::Debug for $($guard)+ {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let name = stringify!($($guard)+).split('<').next().unwrap_or_default();
                self.hold.debug(name.trim(), f)
            }
        }
    };
}

guard!(MutexGuard<'_>);
guard!(OwnedMutexGuard);
