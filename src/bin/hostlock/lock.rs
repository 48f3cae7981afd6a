//! What `run` holds: a lock of whatever kind its name has, behind one face.

use std::time::Instant;

use hostlock::{Abandoned, Error, Holder, LockKind, Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, Space};

use crate::args::RunArgs;
use crate::exit::{Code, Failure};

pub(crate) enum Lock {
    Alone(Mutex),
    /// So many of the permits there are.
    Permits(Semaphore, u32),
}

pub(crate) enum Guard {
    Alone(OwnedMutexGuard),
    Permits(OwnedSemaphorePermit),
}

impl Lock {
    /// What NAME is and the options say; a name that nobody used before becomes what they say.
    pub(crate) fn open(space: &Space, args: &RunArgs) -> Result<Self, Failure> {
        let wanted = args.permits.unwrap_or(1);
        if let Some(of) = args.of {
            return Ok(Self::Permits(space.semaphore(&args.name, of)?, wanted));
        }
        // Whoever does not say what it is takes it as it is.
        Ok(match space.look_up(&args.name)? {
            Some((LockKind::Semaphore, of)) => Self::Permits(space.semaphore(&args.name, of)?, wanted),
            _ => Self::Alone(space.mutex(&args.name)?),
        })
    }

    pub(crate) fn try_acquire(&self) -> Result<Guard, Error> {
        match self {
            Self::Alone(mutex) => mutex.try_lock_owned().map(Guard::Alone),
            Self::Permits(semaphore, count) => semaphore.try_acquire_many_owned(*count).map(Guard::Permits),
        }
    }

    /// Without a deadline: for as long as it takes.
    pub(crate) fn acquire_until(&self, deadline: Option<Instant>) -> Result<Guard, Error> {
        match (self, deadline) {
            (Self::Alone(mutex), Some(deadline)) => mutex.try_lock_owned_until(deadline).map(Guard::Alone),
            (Self::Alone(mutex), None) => mutex.lock_owned().map(Guard::Alone),
            (Self::Permits(semaphore, count), Some(deadline)) => {
                semaphore.try_acquire_many_owned_until(*count, deadline).map(Guard::Permits)
            }
            (Self::Permits(semaphore, count), None) => semaphore.acquire_many_owned(*count).map(Guard::Permits),
        }
    }

    /// One of those among its holders who make waiting for it endless, if `never_lets_go` is so of them.
    pub(crate) fn endless(&self, holder: &Holder, never_lets_go: impl Fn(&Holder) -> bool) -> Option<Holder> {
        match self {
            Self::Alone(_) => never_lets_go(holder).then(|| holder.clone()),
            Self::Permits(semaphore, count) => {
                let holders = semaphore.holders().ok()?;
                // A process that keeps one permit keeps all it has.
                let kept = |holder: &Holder| {
                    let same = |other: &&Holder| (other.pid, other.elsewhere) == (holder.pid, holder.elsewhere);
                    holders.iter().filter(same).any(&never_lets_go)
                };
                let kept: Vec<&Holder> = holders.iter().filter(|holder| kept(holder)).collect();
                let left = semaphore.permits() - (kept.len() as u32).min(semaphore.permits());
                kept.last().filter(|_| left < *count).copied().cloned()
            }
        }
    }
}

impl Guard {
    pub(crate) fn token(&self) -> u64 {
        match self {
            Self::Alone(guard) => guard.token(),
            Self::Permits(permits) => permits.token(),
        }
    }

    pub(crate) fn abandoned(&self) -> Option<&Abandoned> {
        match self {
            Self::Alone(guard) => guard.abandoned(),
            Self::Permits(permits) => permits.abandoned(),
        }
    }

    pub(crate) fn stamp(&self) {
        match self {
            Self::Alone(guard) => guard.stamp(),
            Self::Permits(permits) => permits.stamp(),
        }
    }

    pub(crate) fn unlock(self) -> Result<(), Error> {
        match self {
            Self::Alone(guard) => guard.unlock(),
            Self::Permits(permits) => permits.unlock(),
        }
    }

    pub(crate) fn abandon(self) -> Result<(), Error> {
        match self {
            Self::Alone(guard) => guard.abandon(),
            Self::Permits(permits) => permits.abandon(),
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
