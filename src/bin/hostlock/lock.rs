//! What `run` holds: a lock of whatever kind its name has, behind one face.

use std::time::{Duration, Instant};

use hostlock::{Abandoned, Error, Holder, Lease, LeaseGuard, LockKind, Mutex, RwLock, Semaphore, Space};
use hostlock::{OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, OwnedSemaphorePermit};

use crate::args::RunArgs;
use crate::exit::{Code, Failure};

pub(crate) enum Lock {
    Alone(Mutex),
    Write(RwLock),
    Read(RwLock),
    /// So many of the permits there are.
    Permits(Semaphore, u32),
}

pub(crate) enum Guard {
    Alone(OwnedMutexGuard),
    Write(OwnedRwLockWriteGuard),
    Read(OwnedRwLockReadGuard),
    Permits(OwnedSemaphorePermit),
    Leased(LeaseGuard),
}

impl Lock {
    /// What NAME is and the options say; a name that nobody used before becomes what they say.
    pub(crate) fn open(space: &Space, args: &RunArgs) -> Result<Self, Failure> {
        let (name, wanted) = (&args.name, args.permits.unwrap_or(1));
        if args.shared {
            return Ok(Self::Read(space.rwlock(name)?));
        }
        if let Some(of) = args.of {
            return Ok(Self::Permits(space.semaphore(name, of)?, wanted));
        }
        // Whoever does not say what it is takes it as it is.
        Ok(match space.look_up(name)? {
            None if args.exclusive => Self::Write(space.rwlock(name)?),
            Some((LockKind::RwLock, _)) => Self::Write(space.rwlock(name)?),
            Some((LockKind::Semaphore, of)) => Self::Permits(space.semaphore(name, of)?, wanted),
            _ => Self::Alone(space.mutex(name)?),
        })
    }

    pub(crate) fn try_acquire(&self, lease: Option<&Lease>) -> Result<Guard, Error> {
        if let Some(lease) = lease {
            return self.lease_for(lease, Duration::ZERO).map_err(|error| match error {
                Error::TimedOut { name, holder, .. } => Error::WouldBlock { name, holder },
                error => error,
            });
        }
        match self {
            Self::Alone(mutex) => mutex.try_lock_owned().map(Guard::Alone),
            Self::Write(lock) => lock.try_write_owned().map(Guard::Write),
            Self::Read(lock) => lock.try_read_owned().map(Guard::Read),
            Self::Permits(semaphore, count) => semaphore.try_acquire_many_owned(*count).map(Guard::Permits),
        }
    }

    /// With a lease: whoever reads has none.
    fn lease_for(&self, lease: &Lease, timeout: Duration) -> Result<Guard, Error> {
        let lease = lease.clone();
        match self {
            Self::Alone(mutex) => mutex.try_lock_with_lease_for(lease, timeout),
            Self::Write(lock) | Self::Read(lock) => lock.try_write_with_lease_for(lease, timeout),
            Self::Permits(semaphore, count) => semaphore.try_acquire_many_with_lease_for(*count, lease, timeout),
        }
        .map(Guard::Leased)
    }

    /// Without a deadline: for as long as it takes.
    pub(crate) fn acquire_until(&self, deadline: Option<Instant>, lease: Option<&Lease>) -> Result<Guard, Error> {
        if let Some(lease) = lease {
            let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
            return self.lease_for(lease, deadline.map_or(Duration::MAX, left));
        }
        match (self, deadline) {
            (Self::Alone(mutex), Some(deadline)) => mutex.try_lock_owned_until(deadline).map(Guard::Alone),
            (Self::Alone(mutex), None) => mutex.lock_owned().map(Guard::Alone),
            (Self::Write(lock), Some(deadline)) => lock.try_write_owned_until(deadline).map(Guard::Write),
            (Self::Write(lock), None) => lock.write_owned().map(Guard::Write),
            (Self::Read(lock), Some(deadline)) => lock.try_read_owned_until(deadline).map(Guard::Read),
            (Self::Read(lock), None) => lock.read_owned().map(Guard::Read),
            (Self::Permits(semaphore, count), Some(deadline)) => {
                semaphore.try_acquire_many_owned_until(*count, deadline).map(Guard::Permits)
            }
            (Self::Permits(semaphore, count), None) => semaphore.acquire_many_owned(*count).map(Guard::Permits),
        }
    }

    pub(crate) fn reads(&self) -> bool {
        matches!(self, Self::Read(_))
    }

    fn holders(&self) -> Result<Vec<Holder>, Error> {
        match self {
            Self::Alone(mutex) => Ok(mutex.holder()?.into_iter().collect()),
            Self::Write(lock) | Self::Read(lock) => lock.holders(),
            Self::Permits(semaphore, _) => semaphore.holders(),
        }
    }

    /// Of a lock that was waited for in vain: one of its holders on whose account waiting is endless, if `never_lets_go` is so of them.
    pub(crate) fn endless(&self, waited: Waited, never_lets_go: impl Fn(&Holder) -> bool) -> Option<Holder> {
        let holders = self.holders().ok()?;
        // A process that keeps one permit keeps all it has.
        let kept = |holder: &Holder| {
            let same = |other: &&Holder| (other.pid, other.elsewhere) == (holder.pid, holder.elsewhere);
            holders.iter().filter(same).any(&never_lets_go)
        };
        let kept: Vec<&Holder> = holders.iter().filter(|holder| kept(holder)).collect();
        let is_endless = match self {
            Self::Alone(_) | Self::Write(_) => true,
            // Among readers one more is let in, unless a writer waits for them: and that is not so yet while others only come and go.
            Self::Read(_) => waited == Waited::ForLong || kept.iter().any(|holder| holder.readers == 0),
            Self::Permits(semaphore, count) => semaphore.permits().saturating_sub(kept.len() as u32) < *count,
        };
        kept.last().filter(|_| is_endless).copied().cloned()
    }
}

/// How long a lock was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waited {
    NotAtAll,
    ForLong,
}

macro_rules! each {
    ($guard:expr, $held:ident => $what:expr) => {
        match $guard {
            Guard::Alone($held) => $what,
            Guard::Write($held) => $what,
            Guard::Read($held) => $what,
            Guard::Permits($held) => $what,
            Guard::Leased($held) => $what,
        }
    };
}

impl Guard {
    pub(crate) fn token(&self) -> u64 {
        each!(self, held => held.token())
    }

    pub(crate) fn abandoned(&self) -> Option<&Abandoned> {
        each!(self, held => held.abandoned())
    }

    pub(crate) fn stamp(&self) {
        match self {
            Self::Alone(guard) => guard.stamp(),
            Self::Write(guard) => guard.stamp(),
            Self::Read(guard) => guard.stamp(),
            Self::Permits(permits) => permits.stamp(),
            // It is.
            Self::Leased(_) => {}
        }
    }

    pub(crate) fn unlock(self) -> Result<(), Error> {
        each!(self, held => held.unlock())
    }

    pub(crate) fn is_held(&self) -> bool {
        each!(self, held => held.is_held())
    }

    /// As the death of its owner: the next one is told, except of a reader, who left nothing half done.
    pub(crate) fn abandon(self) -> Result<(), Error> {
        match self {
            Self::Alone(guard) => guard.abandon(),
            Self::Write(guard) => guard.abandon(),
            Self::Read(guard) => guard.unlock(),
            Self::Permits(permits) => permits.abandon(),
            Self::Leased(guard) => guard.abandon(),
        }
    }
}

/// What of the options does not go together, as far as the parser cannot tell.
pub(crate) fn check(args: &RunArgs) -> Result<(), Failure> {
    let wrong = |text: String| Err(Failure::new(Code::Usage, text + "; see hostlock run --help"));
    match (args.permits, args.of) {
        (Some(permits), None) => wrong(format!("--permits {permits} are permits of a semaphore: say --of N as well")),
        (Some(permits), Some(of)) if permits > of => {
            wrong(format!("--permits {permits} are more than there are: --of {of}"))
        }
        _ => Ok(()),
    }
}
