//! Leases: acquisitions that end by themselves.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::guard::now;
use super::mutex::Mutex;
use super::rwlock::RwLock;
use super::semaphore::{Semaphore, would_block};
use crate::backend::either::{Lock, Permits, ReadWrite};
use crate::backend::lease::{End, Leased, Prepared, Tenure, Terms};
use crate::backend::lock::Abandonment;
use crate::backend::release::AsExclusive;
use crate::backend::semaphore::More;
use crate::os::clock::Deadline;
use crate::{Abandoned, Error, Result};

/// For how long a lock is acquired, and what becomes of it then. A [`Duration`] is one without more.
///
/// Time is `CLOCK_BOOTTIME`: it goes on while the machine is suspended, and a wall clock that is set changes nothing. It is counted in milliseconds;
/// one too long to count (eight years after the machine started) never ends.
///
/// ```
/// # let root = tempfile::tempdir()?;
/// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
/// use std::time::Duration;
/// use hostlock::Lease;
///
/// let lease = Lease::new(Duration::from_secs(10))
///     .kept()
///     .lock_delay(Duration::from_secs(1))
///     .on_lost(|name, token| eprintln!("lost {name:?}, token {token}: stop writing"));
/// let guard = space.mutex("leader")?.lock_with_lease(lease)?;
/// assert!(guard.is_held());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Lease(Terms);

impl Lease {
    /// One of this length, from when the lock is acquired. A millisecond at least. It is for the program to [renew](LeaseGuard::renew) it.
    pub fn new(length: Duration) -> Self {
        Self(Terms { span: length, delay: Duration::ZERO, keep: false, fair: false, on_lost: None })
    }

    /// Renews it in the background (ten milliseconds at least), whenever a third of it has passed, for as long as the guard is there. So it is lost when the *process* does not go on
    /// (it was stopped, the machine was suspended or did not get to it), not when the program hangs while its threads run.
    ///
    /// One thread of the process does that for all leases. If it cannot be started, acquiring fails.
    pub fn kept(mut self) -> Self {
        self.0.keep = true;
        self
    }

    /// For so long after the lease was lost nobody gets the lock, so that what its owner had sent on its way before arrives before anything of the next
    /// one. Not if the owner *died*, or released it in time: then the lock is free at once. Until the delay is over others see the lock as held.
    pub fn lock_delay(mut self, delay: Duration) -> Self {
        self.0.delay = delay;
        self
    }

    /// Whoever waits for the lock when it is released is before whoever just comes: as [`MutexGuard::unlock_fair`](crate::MutexGuard::unlock_fair),
    /// also when the guard is dropped.
    pub fn fair(mut self) -> Self {
        self.0.fair = true;
        self
    }

    /// Calls `told` once with the lock's name and the token if the lease is lost, in a thread of its own making, at the latest a second after that. It
    /// should be short: other leases are not renewed while it runs.
    pub fn on_lost(mut self, told: impl Fn(&str, u64) + Send + Sync + 'static) -> Self {
        self.0.on_lost = Some(Arc::new(told));
        self
    }
}

impl From<Duration> for Lease {
    fn from(length: Duration) -> Self {
        Self::new(length)
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("length", &self.0.span)
            .field("kept", &self.0.keep)
            .field("lock_delay", &self.0.delay)
            .finish_non_exhaustive()
    }
}

/// A lock that is held until this is dropped, or until its lease runs out: a mutex, a read-write lock by its writer, or permits. Made by
/// [`Mutex::lock_with_lease`], [`RwLock::write_with_lease`] and [`Semaphore::acquire_with_lease`]. It can be stored, and sent to another thread.
///
/// # When the lease runs out
/// Whoever waits then takes the lock over, with a larger token, whether this process is alive, stopped or hung; and is told, as after a death
/// ([`Abandoned::lease_lost`]). A guard whose lease ran out is lost, also if nobody waited: [`is_held`](Self::is_held) is false,
/// [`renew`](Self::renew) and [`unlock`](Self::unlock) fail, and dropping it never touches what the next owner has.
///
/// What *cannot* be prevented is that a process which was stopped goes on as if it still had the lock, before it looks. So hand the
/// [token](Self::token) to what the lock protects, and have that refuse a smaller one than the largest it has seen: [`Fence`](crate::Fence) does.
#[must_use = "the lock is released as soon as its guard is dropped"]
pub struct LeaseGuard {
    tenure: Arc<Tenure>,
    told: Told,
}

/// What an acquisition was told of.
enum Told {
    Nothing,
    Alone(Box<Abandonment>),
    Permits(Box<More>),
}

impl LeaseGuard {
    fn alone(leased: Leased, told: Option<Box<Abandonment>>, prepared: Prepared) -> Result<Self> {
        let tenure = Tenure::begin(leased, prepared, told.is_some())?;
        Ok(Self { tenure, told: told.map_or(Told::Nothing, Told::Alone) })
    }

    /// The fencing token of this acquisition, as of every other: [`MutexGuard::token`](crate::MutexGuard::token). Of several permits, the largest.
    pub fn token(&self) -> u64 {
        self.tenure.leased().token()
    }

    /// Who died holding the lock, or lost its lease of it, if this is the first acquisition after that.
    pub fn abandoned(&self) -> Option<&Abandoned> {
        match &self.told {
            Told::Nothing => None,
            Told::Alone(abandonment) => Some(&abandonment.told),
            Told::Permits(more) => more.told.as_ref(),
        }
    }

    /// Whether this process holds the lock and its lease runs. Once false, for ever. `false` in a forked child.
    pub fn is_held(&self) -> bool {
        self.tenure.is_held()
    }

    /// How long the lease still runs, if it is not renewed; zero if it was lost.
    pub fn remaining(&self) -> Duration {
        self.tenure.left()
    }

    /// Has the lease begin anew, with its whole length from now.
    ///
    /// # Errors
    /// [`Error::Lost`] if it was lost: it ran out, whether or not somebody has the lock by now, or this is a forked child.
    pub fn renew(&self) -> Result<()> {
        if self.tenure.renew() { Ok(()) } else { Err(self.lost()) }
    }

    /// Releases the lock, as dropping does, and says whether it was held until now.
    ///
    /// # Errors
    /// [`Error::Lost`] if it was lost before: somebody else may have had the lock meanwhile.
    pub fn unlock(mut self) -> Result<()> {
        if self.end(End::Release) { Ok(()) } else { Err(self.lost()) }
    }

    /// Ends the acquisition as the death of this process would: the next owner is told.
    ///
    /// # Errors
    /// [`Error::Lost`], as for [`unlock`](Self::unlock).
    pub fn abandon(mut self) -> Result<()> {
        if self.end(End::Abandon) { Ok(()) } else { Err(self.lost()) }
    }

    fn lost(&self) -> Error {
        Error::Lost { name: self.tenure.leased().name().into(), token: self.token() }
    }

    fn end(&mut self, end: End) -> bool {
        let ended = self.tenure.end(end);
        // Whoever was dead, if anybody was: the next one should not wait for that. Not in a forked child, which has no part in this.
        match (std::mem::replace(&mut self.told, Told::Nothing), self.tenure.leased()) {
            (Told::Alone(told), Leased::Alone(lock, _)) if ended => lock.exclusive().bury(&told),
            (Told::Alone(told), Leased::Writing(lock, _)) if ended => lock.exclusive().bury(&told),
            (Told::Permits(more), Leased::Permits(permits, _)) if ended => permits.bury_all(&more),
            _ => {}
        }
        ended
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        self.end(End::Release);
    }
}

impl fmt::Debug for LeaseGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseGuard")
            .field("name", &self.tenure.leased().name())
            .field("token", &self.token())
            .field("remaining", &self.remaining())
            .field("kept", &self.tenure.terms().keep)
            .field("abandoned", &self.abandoned())
            .finish_non_exhaustive()
    }
}

impl Mutex {
    /// Acquires the lock for as long as a lease runs, waiting for as long as it takes: afterwards others may take it over, also from a process that
    /// is alive, stopped or hung. See [`LeaseGuard`].
    ///
    /// Such an acquisition belongs to no thread: one that waits for itself with it waits until the lease runs out, and if it is kept for ever.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if the lease is shorter than a millisecond; [`Error::Unsupported`] in a space of lock files, where nobody can take a lock
    /// from the living; [`Error::System`] if it is to be kept and the thread for that cannot be started; otherwise as [`lock`](Mutex::lock).
    ///
    /// ```
    /// # let root = tempfile::tempdir()?;
    /// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
    /// use std::time::Duration;
    ///
    /// let mutex = space.mutex("import")?;
    /// let guard = mutex.lock_with_lease(Duration::from_millis(30))?;
    /// guard.renew()?;
    /// // ... and then it hangs, for longer than it said:
    /// let next = mutex.lock()?;
    /// assert!(next.token() > guard.token() && next.abandoned().unwrap().lease_lost);
    /// assert!(!guard.is_held() && guard.renew().is_err() && guard.unlock().is_err());
    /// assert!(next.is_held());
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn lock_with_lease(&self, lease: impl Into<Lease>) -> Result<LeaseGuard> {
        self.acquire_leased(lease.into(), Deadline::Never)
    }

    /// The same, if nobody alive holds the lock, or whoever does has a lease that ran out.
    ///
    /// # Errors
    /// [`Error::WouldBlock`]; otherwise as [`lock_with_lease`](Self::lock_with_lease).
    pub fn try_lock_with_lease(&self, lease: impl Into<Lease>) -> Result<LeaseGuard> {
        self.acquire_leased(lease.into(), now()).map_err(|error| self.would_block(error))
    }

    /// The same, waiting for at most `timeout`.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; otherwise as [`lock_with_lease`](Self::lock_with_lease).
    pub fn try_lock_with_lease_for(&self, lease: impl Into<Lease>, timeout: Duration) -> Result<LeaseGuard> {
        self.acquire_leased(lease.into(), Deadline::after(timeout))
    }

    /// Whether it can be had with such a lease.
    pub(super) fn check_lease(&self, lease: &Lease) -> Result<()> {
        lease.0.check(self.backend().exclusive())
    }

    fn acquire_leased(&self, lease: Lease, deadline: Deadline) -> Result<LeaseGuard> {
        let lock: Lock = self.backend().clone();
        lease.0.check(lock.exclusive())?;
        let prepared = lease.0.prepare(lock.name())?;
        let (acquisition, told) = match lock.acquire_fast(0) {
            Some((acquisition, _)) => (acquisition, None),
            None => {
                let waited = lock.acquire_slowly(0, || deadline)?;
                (waited.acquisition, waited.abandoned)
            }
        };
        LeaseGuard::alone(Leased::Alone(lock, acquisition), told, prepared)
    }
}

impl RwLock {
    /// Acquires the lock for writing for as long as a lease runs, as [`Mutex::lock_with_lease`]. The lease begins when the last reader is gone.
    ///
    /// # Errors
    /// As [`Mutex::lock_with_lease`] and [`write`](RwLock::write).
    pub fn write_with_lease(&self, lease: impl Into<Lease>) -> Result<LeaseGuard> {
        self.write_leased(lease.into(), Deadline::Never)
    }

    /// The same, if nobody alive has the lock, or who writes has a lease that ran out.
    ///
    /// # Errors
    /// [`Error::WouldBlock`]; otherwise as [`write_with_lease`](Self::write_with_lease).
    pub fn try_write_with_lease(&self, lease: impl Into<Lease>) -> Result<LeaseGuard> {
        self.write_leased(lease.into(), now()).map_err(|error| self.would_block(error))
    }

    /// The same, waiting for at most `timeout`.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; otherwise as [`write_with_lease`](Self::write_with_lease).
    pub fn try_write_with_lease_for(&self, lease: impl Into<Lease>, timeout: Duration) -> Result<LeaseGuard> {
        self.write_leased(lease.into(), Deadline::after(timeout))
    }

    fn write_leased(&self, lease: Lease, deadline: Deadline) -> Result<LeaseGuard> {
        let lock: ReadWrite = self.backend().clone();
        lease.0.check(lock.exclusive())?;
        let prepared = lease.0.prepare(lock.name())?;
        let (acquisition, told) = lock.write(0, || deadline)?;
        LeaseGuard::alone(Leased::Writing(lock, acquisition), told, prepared)
    }
}

impl Semaphore {
    /// Acquires a permit that expires, waiting for as long as it takes: see [`LeaseGuard`]. The lease begins when it was acquired.
    ///
    /// # Errors
    /// As [`Mutex::lock_with_lease`] and [`acquire`](Semaphore::acquire).
    ///
    /// ```
    /// # let root = tempfile::tempdir()?;
    /// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
    /// let gpus = space.semaphore("gpus", 2)?;
    /// let expires = gpus.acquire_with_lease(std::time::Duration::from_millis(30))?;
    /// let (one, two) = (gpus.acquire()?, gpus.acquire()?); // the second one had to wait for that
    /// assert!(!expires.is_held() && one.is_held() && two.is_held());
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn acquire_with_lease(&self, lease: impl Into<Lease>) -> Result<LeaseGuard> {
        self.acquire_leased(1, lease.into(), Deadline::Never)
    }

    /// The same, if a permit is free or expired, and nobody is waiting for one.
    ///
    /// # Errors
    /// [`Error::WouldBlock`]; otherwise as [`acquire_with_lease`](Self::acquire_with_lease).
    pub fn try_acquire_with_lease(&self, lease: impl Into<Lease>) -> Result<LeaseGuard> {
        self.acquire_leased(1, lease.into(), now()).map_err(would_block)
    }

    /// The same for so many permits, all or none, waiting for as long as it takes.
    ///
    /// # Errors
    /// As [`acquire_with_lease`](Self::acquire_with_lease) and [`acquire_many`](Semaphore::acquire_many).
    pub fn acquire_many_with_lease(&self, permits: u32, lease: impl Into<Lease>) -> Result<LeaseGuard> {
        self.acquire_leased(permits, lease.into(), Deadline::Never)
    }

    /// The same, waiting for at most `timeout`.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; otherwise as [`acquire_many_with_lease`](Self::acquire_many_with_lease).
    pub fn try_acquire_many_with_lease_for(
        &self,
        permits: u32,
        lease: impl Into<Lease>,
        timeout: Duration,
    ) -> Result<LeaseGuard> {
        self.acquire_leased(permits, lease.into(), Deadline::after(timeout))
    }

    fn acquire_leased(&self, count: u32, lease: Lease, deadline: Deadline) -> Result<LeaseGuard> {
        let permits: Permits = self.backend().clone();
        lease.0.check_permits(&permits)?;
        let prepared = lease.0.prepare(permits.name())?;
        let fast = if count == 1 { permits.acquire_fast().map(|(permit, _)| permit) } else { None };
        let (permit, mut more) = match fast {
            Some(permit) => (permit, None),
            None => permits.acquire(count, deadline)?,
        };
        let mut held = more.as_deref_mut().map(|more| std::mem::take(&mut more.others)).unwrap_or_default();
        held.push(permit);
        let was_told = more.as_ref().is_some_and(|more| more.told.is_some());
        let tenure = Tenure::begin(Leased::Permits(permits, held), prepared, was_told)?;
        Ok(LeaseGuard { tenure, told: more.map_or(Told::Nothing, Told::Permits) })
    }
}
