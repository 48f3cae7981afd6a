//! What an acquisition is ended with: the handle, owned or borrowed, and where the fast path found the lock.

use super::by_line::ByLine;
use super::either::{Exclusive, Lock, Permits, ReadWrite};
use super::lock::{self, Acquisition};
use super::rwlock::{Reading, SharedRwLock};
use super::semaphore::{self, Permit};

/// What has a lock in it that is held alone.
pub(crate) trait AsExclusive {
    fn exclusive(&self) -> Exclusive<'_>;

    /// Ends an acquisition if that takes no more than a store; `false`: nothing was done. (By way of [`exclusive`](Self::exclusive) it is ten
    /// instructions more: there the compiler picks an address first.)
    fn release_fast(&self, acquisition: Acquisition) -> bool;
}

impl<T: AsExclusive> AsExclusive for &T {
    #[inline(always)]
    fn exclusive(&self) -> Exclusive<'_> {
        T::exclusive(self)
    }

    #[inline(always)]
    fn release_fast(&self, acquisition: Acquisition) -> bool {
        T::release_fast(self, acquisition)
    }
}

impl AsExclusive for Lock {
    #[inline(always)]
    fn exclusive(&self) -> Exclusive<'_> {
        match self {
            Self::Segment(lock) => Exclusive::Segment(lock),
            Self::Files(lock) => Exclusive::Files(lock),
        }
    }

    #[inline(always)]
    fn release_fast(&self, acquisition: Acquisition) -> bool {
        match self {
            Self::Segment(lock) => lock.release_fast(acquisition),
            Self::Files(_) => false,
        }
    }
}

/// A borrowed mutex, and where it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LockAt<'a> {
    pub(crate) lock: &'a Lock,
    pub(crate) found: Option<lock::Found<'a>>,
}

impl<'a> LockAt<'a> {
    /// If that is not known. It is looked up now and not for the release, which whoever waits is waiting for.
    #[inline(always)]
    pub(crate) fn find(lock: &'a Lock, acquisition: Acquisition) -> Self {
        let found = match lock {
            Lock::Segment(lock) => lock.found(acquisition),
            Lock::Files(_) => None,
        };
        Self { lock, found }
    }
}

impl AsExclusive for LockAt<'_> {
    #[inline(always)]
    fn exclusive(&self) -> Exclusive<'_> {
        self.lock.exclusive()
    }

    #[inline(always)]
    fn release_fast(&self, acquisition: Acquisition) -> bool {
        self.found.is_some_and(|found| found.release_fast(acquisition))
    }
}

impl AsExclusive for ReadWrite {
    #[inline(always)]
    fn exclusive(&self) -> Exclusive<'_> {
        match self {
            Self::Segment(lock) => Exclusive::Segment(lock.lock()),
            Self::Files(lock) => Exclusive::Files(lock),
        }
    }

    #[inline(always)]
    fn release_fast(&self, acquisition: Acquisition) -> bool {
        match self {
            Self::Segment(lock) => lock.lock().release_fast(acquisition),
            Self::Files(_) => false,
        }
    }
}

/// What a reader is taken off with.
pub(crate) trait AsReadWrite {
    fn read_write(&self) -> &ReadWrite;

    /// Takes a reader by a line off, if it is one; whether it did.
    fn release_by_line(&self, reading: Reading) -> bool;
}

impl AsReadWrite for ReadWrite {
    fn read_write(&self) -> &ReadWrite {
        self
    }

    /// What is owned never reads by a line.
    fn release_by_line(&self, _: Reading) -> bool {
        false
    }
}

/// A borrowed read-write lock, and by which line it is read, if by one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadAt<'a> {
    pub(crate) lock: &'a ReadWrite,
    pub(crate) by: Option<&'a ByLine>,
}

impl<'a> ReadAt<'a> {
    pub(crate) fn counted(lock: &'a ReadWrite) -> Self {
        Self { lock, by: None }
    }
}

impl AsReadWrite for ReadAt<'_> {
    #[inline(always)]
    fn read_write(&self) -> &ReadWrite {
        self.lock
    }

    #[inline(always)]
    fn release_by_line(&self, reading: Reading) -> bool {
        self.by.is_some_and(|by| SharedRwLock::release_by_line(by, reading))
    }
}

/// What permits are given back with.
pub(crate) trait AsPermits {
    fn permits(&self) -> &Permits;

    /// Ends the acquisition of a permit if that takes no more than a store; `false`: nothing was done.
    fn release_fast(&self, permit: Permit) -> bool;
}

impl AsPermits for Permits {
    fn permits(&self) -> &Permits {
        self
    }

    #[inline(always)]
    fn release_fast(&self, permit: Permit) -> bool {
        match self {
            Self::Segment(semaphore) => semaphore.release_fast(permit),
            Self::Files(_) => false,
        }
    }
}

/// A borrowed semaphore, and where the permit is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PermitsAt<'a> {
    pub(crate) permits: &'a Permits,
    pub(crate) found: Option<semaphore::Found<'a>>,
}

impl<'a> PermitsAt<'a> {
    /// As [`LockAt::find`].
    #[inline(always)]
    pub(crate) fn find(permits: &'a Permits, permit: Permit) -> Self {
        let found = match permits {
            Permits::Segment(semaphore) => semaphore.found(permit),
            Permits::Files(_) => None,
        };
        Self { permits, found }
    }
}

impl AsPermits for PermitsAt<'_> {
    #[inline(always)]
    fn permits(&self) -> &Permits {
        self.permits
    }

    #[inline(always)]
    fn release_fast(&self, permit: Permit) -> bool {
        self.found.is_some_and(|found| found.release_fast(permit))
    }
}
