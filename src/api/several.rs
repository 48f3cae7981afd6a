//! Several locks at once.

use std::fmt;
use std::ops::Deref;
use std::time::{Duration, Instant};

use super::guard::now;
use super::mutex::{Mutex, MutexGuard};
use super::rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use crate::backend::release::AsExclusive;
use crate::os::clock::Deadline;
use crate::{Error, Result};

/// One of several locks that are wanted together: see [`lock_all`].
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// A mutex.
    Lock(&'a Mutex),
    /// A read-write lock, for reading.
    Read(&'a RwLock),
    /// A read-write lock, for writing.
    Write(&'a RwLock),
}

impl Wanted<'_> {
    /// What a wait of no length says is that it would have had to wait.
    fn would_block(self, error: Error) -> Error {
        match self {
            Self::Lock(mutex) => mutex.would_block(error),
            Self::Read(lock) | Self::Write(lock) => lock.would_block(error),
        }
    }
}

impl<'a> From<&'a Mutex> for Wanted<'a> {
    fn from(mutex: &'a Mutex) -> Self {
        Self::Lock(mutex)
    }
}

/// What was wanted, held.
#[derive(Debug)]
#[must_use = "the lock is released as soon as its guard is dropped"]
pub enum WantedGuard<'a> {
    /// Of [`Wanted::Lock`].
    Lock(MutexGuard<'a>),
    /// Of [`Wanted::Read`].
    Read(RwLockReadGuard<'a>),
    /// Of [`Wanted::Write`].
    Write(RwLockWriteGuard<'a>),
}

impl WantedGuard<'_> {
    /// The fencing token: of a reader, that of the last write.
    pub fn token(&self) -> u64 {
        match self {
            Self::Lock(guard) => guard.token(),
            Self::Read(guard) => guard.token(),
            Self::Write(guard) => guard.token(),
        }
    }

    /// Releases it for nothing: who has to be told of a death still is.
    fn give_up(self) {
        match self {
            Self::Lock(mut guard) => guard.hold.give_up(),
            Self::Write(mut guard) => guard.hold.give_up(),
            Self::Read(guard) => drop(guard),
        }
    }
}

/// Several locks that are held, each by a guard of its own, in the order in which they were asked for.
#[derive(Debug)]
#[must_use = "the locks are released as soon as their guards are dropped"]
pub struct AllGuard<'a>(Vec<WantedGuard<'a>>);

impl<'a> AllGuard<'a> {
    /// The guards, one by one.
    pub fn into_guards(self) -> Vec<WantedGuard<'a>> {
        self.0
    }
}

impl<'a> Deref for AllGuard<'a> {
    type Target = [WantedGuard<'a>];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// Acquires several locks, all or none, waiting for as long as it takes.
///
/// They are acquired in one order, the same for everybody who asks for several in this way, whatever the order in which they are named: by space, then by name. So two who
/// want the same ones never wait for each other. They may be of different spaces.
///
/// # Errors
/// [`Error::InvalidOption`] if one is named twice; otherwise as [`Mutex::lock`] and its like. What was acquired before is released then.
///
/// ```
/// # let root = tempfile::tempdir()?;
/// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
/// use hostlock::{Wanted, lock_all};
///
/// let (from, to) = (space.mutex("account-7")?, space.mutex("account-3")?);
/// let rates = space.rwlock("rates")?;
/// let both = lock_all([&from, &to])?;
/// println!("tokens {} and {}", both[0].token(), both[1].token()); // from, to
/// drop(both);
///
/// let all = lock_all([Wanted::Lock(&from), Wanted::Read(&rates)])?;
/// assert!(lock_all([&from, &from.clone()]).is_err()); // twice
/// # drop(all);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
pub fn lock_all<'a, W: Into<Wanted<'a>>>(wanted: impl IntoIterator<Item = W>) -> Result<AllGuard<'a>> {
    acquire(wanted, Deadline::Never, |_, error| error)
}

/// Acquires several locks, all or none, if that is possible without waiting.
///
/// # Errors
/// [`Error::WouldBlock`], naming one that is held, and its holder; otherwise as [`lock_all`].
pub fn try_lock_all<'a, W: Into<Wanted<'a>>>(wanted: impl IntoIterator<Item = W>) -> Result<AllGuard<'a>> {
    acquire(wanted, now(), Wanted::would_block)
}

/// Acquires several locks, all or none, waiting for at most `timeout` for all of them together.
///
/// # Errors
/// [`Error::TimedOut`], naming the one that was not to be had, and its holder; otherwise as [`lock_all`].
pub fn try_lock_all_for<'a, W: Into<Wanted<'a>>>(
    wanted: impl IntoIterator<Item = W>,
    timeout: Duration,
) -> Result<AllGuard<'a>> {
    let started = Instant::now();
    acquire(wanted, Deadline::after(timeout), |_, error| error).map_err(|mut error| {
        if let Error::TimedOut { waited, .. } = &mut error {
            *waited = started.elapsed();
        }
        error
    })
}

/// `explain`: what the error comes to of the one that was not to be had.
fn acquire<'a, W: Into<Wanted<'a>>>(
    wanted: impl IntoIterator<Item = W>,
    deadline: Deadline,
    explain: impl FnOnce(Wanted<'a>, Error) -> Error,
) -> Result<AllGuard<'a>> {
    let wanted: Vec<Wanted<'a>> = wanted.into_iter().map(W::into).collect();
    let place = |at: usize| {
        let lock = match wanted[at] {
            Wanted::Lock(mutex) => mutex.backend().exclusive(),
            Wanted::Read(lock) | Wanted::Write(lock) => lock.backend().exclusive(),
        };
        (lock.space(), lock.name())
    };
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by_key(|&at| place(at));
    if let Some(twice) = order.windows(2).find(|two| place(two[0]) == place(two[1])) {
        return Err(Error::InvalidOption {
            option: "locks",
            value: place(twice[0]).1.into(),
            reason: "that one is named twice, and would wait for itself".into(),
        });
    }
    let mut guards: Vec<Option<WantedGuard<'a>>> = wanted.iter().map(|_| None).collect();
    for at in order {
        let guard = match wanted[at] {
            Wanted::Lock(mutex) => mutex.acquire(|| deadline).map(WantedGuard::Lock),
            Wanted::Read(lock) => lock.acquire_read(|| deadline).map(WantedGuard::Read),
            Wanted::Write(lock) => lock.acquire_write(|| deadline).map(WantedGuard::Write),
        };
        match guard {
            Ok(guard) => guards[at] = Some(guard),
            Err(error) => {
                guards.into_iter().flatten().for_each(WantedGuard::give_up);
                return Err(explain(wanted[at], error));
            }
        }
    }
    Ok(AllGuard(guards.into_iter().flatten().collect()))
}

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lock(mutex) => write!(f, "{}", mutex.name()),
            Self::Read(lock) => write!(f, "{} (reading)", lock.name()),
            Self::Write(lock) => write!(f, "{} (writing)", lock.name()),
        }
    }
}
