//! Spaces and handles of either backend: which one, the creator of the space decided.

use std::sync::Arc;
use std::time::Duration;

use super::by_line::ByLine;
use super::files::lock::FileLock;
use super::files::semaphore::FileSemaphore;
use super::files::{FileSpace, unsupported};
use super::lock::{Abandonment, Acquisition, Found as FoundLock, SharedLock, Spec, Waited};
use super::release::AsExclusive;
use super::rwlock::{Reading, SharedRwLock, Told};
use super::semaphore::{Found, More, Permit, SharedSemaphore};
use super::shared::{SharedSpace, watch_forks};
use crate::os::clock::Deadline;
use crate::os::file::FileId;
use crate::os::fork;
use crate::segment::made::Made;
use crate::segment::open::Options;
use crate::{Abandoned, Holder, Result};

#[derive(Clone, Debug)]
pub(crate) enum AnySpace {
    Segment(Arc<SharedSpace>),
    Files(Arc<FileSpace>),
}

impl AnySpace {
    pub(crate) fn open(options: &Options, check_interval: Duration) -> Result<Self> {
        watch_forks(&options.name)?;
        let found = options.find()?;
        match found.made {
            Made::Segment => SharedSpace::open(options, found, check_interval).map(Self::Segment),
            Made::Files => FileSpace::open(options, found).map(Self::Files),
        }
    }

    /// The segment, for what only that can do.
    pub(crate) fn segment(&self, what: &'static str) -> Result<&Arc<SharedSpace>> {
        match self {
            Self::Segment(space) => Ok(space),
            Self::Files(space) => Err(unsupported(what, space.directory())),
        }
    }
}

/// A lock of either backend that is held alone: a mutex, or a read-write lock by its writer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Exclusive<'a> {
    Segment(&'a SharedLock),
    Files(&'a FileLock),
}

impl<'a> Exclusive<'a> {
    pub(crate) fn name(self) -> &'a str {
        match self {
            Self::Segment(lock) => lock.name(),
            Self::Files(lock) => lock.name(),
        }
    }

    /// Which space it is in: the same number for everybody on the machine.
    pub(crate) fn space(self) -> FileId {
        match self {
            Self::Segment(lock) => lock.space.segment().file.id(),
            Self::Files(lock) => lock.space().id(),
        }
    }

    #[inline(always)]
    pub(crate) fn token(self, acquisition: Acquisition) -> u64 {
        match self {
            Self::Segment(lock) => lock.token(acquisition),
            Self::Files(lock) => lock.token(acquisition),
        }
    }

    pub(crate) fn is_held(self, acquisition: Acquisition) -> bool {
        match self {
            Self::Segment(lock) => lock.is_held(acquisition),
            Self::Files(lock) => lock.is_held(acquisition),
        }
    }

    pub(crate) fn abandon(self, acquisition: Acquisition) -> bool {
        match self {
            Self::Segment(lock) => lock.abandon(acquisition),
            Self::Files(lock) => lock.abandon(acquisition),
        }
    }

    /// Ends an acquisition.
    pub(crate) fn release(self, acquisition: Acquisition) -> bool {
        match self {
            Self::Segment(lock) => lock.release(acquisition),
            Self::Files(lock) => lock.release(acquisition),
        }
    }

    /// The same, and who waits is before who just comes. (Nobody queues for a lock file.)
    pub(crate) fn release_fair(self, acquisition: Acquisition) -> bool {
        match self {
            Self::Segment(lock) => lock.release_fair(acquisition),
            Self::Files(lock) => lock.release(acquisition),
        }
    }

    /// Ends one whose lease ran out: the next owner is told.
    pub(crate) fn lose(self, acquisition: Acquisition) -> bool {
        match self {
            Self::Segment(lock) => lock.lose(acquisition),
            Self::Files(_) => false,
        }
    }

    /// Ends an acquisition that nothing was done with: whoever has to be told of a death, as this one was, still is.
    pub(crate) fn give_up(self, acquisition: Acquisition, told: Option<&Abandonment>) {
        match self {
            Self::Segment(lock) => lock.give_up(acquisition),
            Self::Files(lock) => lock.give_up(acquisition, told.map(|told| &told.told)),
        }
    }

    pub(crate) fn stamp(self, acquisition: Acquisition) {
        match self {
            Self::Segment(lock) => lock.stamp(acquisition),
            Self::Files(lock) => lock.stamp(acquisition),
        }
    }

    /// Cleans up after whoever died holding it. The kernel did, of a lock file.
    pub(crate) fn bury(self, abandonment: &Abandonment) {
        if let Self::Segment(lock) = self {
            lock.bury(abandonment);
        }
    }

    /// The segment's, for what only that can do.
    pub(crate) fn segment(self, what: &'static str) -> Result<&'a SharedLock> {
        match self {
            Self::Segment(lock) => Ok(lock),
            Self::Files(lock) => Err(unsupported(what, lock.space().directory())),
        }
    }
}

/// A mutex of either backend.
#[derive(Clone, Debug)]
pub(crate) enum Lock {
    Segment(SharedLock),
    Files(FileLock),
}

impl Lock {
    pub(crate) fn new(space: &AnySpace, spec: Spec) -> Result<Self> {
        match space {
            AnySpace::Segment(space) => SharedLock::new(space, spec).map(Self::Segment),
            AnySpace::Files(space) => FileLock::new(space, spec).map(Self::Files),
        }
    }

    pub(crate) fn name(&self) -> &str {
        self.exclusive().name()
    }

    #[inline(always)]
    pub(crate) fn acquire_fast(&self, thread: u32) -> Option<(Acquisition, FoundLock<'_>)> {
        match self {
            Self::Segment(lock) => lock.acquire_fast(thread),
            Self::Files(_) => None,
        }
    }

    /// Acquires the lock, waiting until what `deadline` says, which is asked if it has to wait.
    #[cold]
    pub(crate) fn acquire_slowly(&self, thread: u32, deadline: impl FnOnce() -> Deadline) -> Result<Waited> {
        match self {
            Self::Segment(lock) => lock.acquire_slowly(thread, deadline),
            Self::Files(lock) => lock.acquire(thread, deadline()),
        }
    }

    pub(crate) fn holder(&self) -> Result<Option<Holder>> {
        match self {
            Self::Segment(lock) => lock.holder(),
            Self::Files(lock) => Ok(lock.holders()?.into_iter().next()),
        }
    }
}

/// A read-write lock of either backend.
#[derive(Clone, Debug)]
pub(crate) enum ReadWrite {
    Segment(SharedRwLock),
    Files(FileLock),
}

impl ReadWrite {
    pub(crate) fn new(space: &AnySpace, spec: Spec) -> Result<Self> {
        match space {
            AnySpace::Segment(space) => SharedRwLock::new(space, spec).map(Self::Segment),
            AnySpace::Files(space) => FileLock::new(space, spec).map(Self::Files),
        }
    }

    pub(crate) fn name(&self) -> &str {
        self.exclusive().name()
    }

    #[inline(always)]
    pub(crate) fn read_by_line(&self) -> Option<(Reading, &ByLine)> {
        match self {
            Self::Segment(lock) => lock.read_by_line(),
            Self::Files(_) => None,
        }
    }

    /// Reads, waiting until what `deadline` says, which is asked if it has to wait. Apart, and not cold: whoever has no line comes by here each time.
    #[inline(never)]
    pub(crate) fn read_slowly(&self, deadline: impl FnOnce() -> Deadline) -> Result<(Reading, Option<Box<Abandoned>>)> {
        match self {
            Self::Segment(lock) => match lock.read_fast() {
                Some(reading) => Ok((reading, None)),
                None => lock.read(fork::thread(), deadline()),
            },
            Self::Files(lock) => lock.read(fork::thread(), deadline()),
        }
    }

    /// The same, of no thread, and never by a line.
    pub(crate) fn read_owned(&self, deadline: Deadline) -> Result<(Reading, Option<Box<Abandoned>>)> {
        match self {
            Self::Segment(lock) => match lock.read_fast() {
                Some(reading) => Ok((reading, None)),
                None => lock.read(0, deadline),
            },
            Self::Files(lock) => lock.read(0, deadline),
        }
    }

    #[inline(always)]
    pub(crate) fn write(&self, thread: u32, deadline: impl FnOnce() -> Deadline) -> Result<(Acquisition, Told)> {
        match self {
            Self::Segment(lock) => lock.write(thread, deadline),
            Self::Files(lock) => {
                let waited = lock.acquire(thread, deadline())?;
                Ok((waited.acquisition, waited.abandoned))
            }
        }
    }

    /// Has a reader by a line counted as all others are.
    pub(crate) fn count(&self, reading: Reading) -> Result<Reading> {
        match self {
            Self::Segment(lock) => lock.count(reading),
            Self::Files(_) => Ok(reading),
        }
    }

    pub(crate) fn release_read(&self, reading: Reading) -> bool {
        match self {
            Self::Segment(lock) => lock.release_read(reading),
            Self::Files(lock) => lock.release_read(reading),
        }
    }

    pub(crate) fn is_reading(&self, reading: Reading) -> bool {
        match self {
            Self::Segment(lock) => lock.is_reading(reading),
            Self::Files(lock) => lock.is_reading(reading),
        }
    }

    pub(crate) fn token_of(&self, reading: Reading) -> u64 {
        match self {
            Self::Segment(lock) => lock.token_of(reading),
            Self::Files(lock) => lock.token_of(reading),
        }
    }

    pub(crate) fn stamp_read(&self, reading: Reading) {
        if let Self::Segment(lock) = self {
            lock.stamp_read(reading);
        }
    }

    pub(crate) fn unstamp_read(&self, reading: Reading) {
        if let Self::Segment(lock) = self {
            lock.unstamp_read(reading);
        }
    }

    /// The segment's, for what only that can do.
    pub(crate) fn segment(&self, what: &'static str) -> Result<&SharedRwLock> {
        match self {
            Self::Segment(lock) => Ok(lock),
            Self::Files(lock) => Err(unsupported(what, lock.space().directory())),
        }
    }

    pub(crate) fn downgrade(&self, writing: Acquisition) -> Result<Reading> {
        self.segment("downgrading")?.downgrade(writing)
    }

    pub(crate) fn upgrade(&self, reading: Reading, thread: u32, deadline: Deadline) -> Result<Acquisition> {
        self.segment("upgrading")?.upgrade(reading, thread, deadline)
    }

    pub(crate) fn holders(&self) -> Result<Vec<Holder>> {
        match self {
            Self::Segment(lock) => lock.holders(),
            Self::Files(lock) => lock.holders(),
        }
    }
}

/// A semaphore of either backend.
#[derive(Clone, Debug)]
pub(crate) enum Permits {
    Segment(SharedSemaphore),
    Files(FileSemaphore),
}

impl Permits {
    pub(crate) const MOST: u32 = SharedSemaphore::MOST;

    pub(crate) fn new(space: &AnySpace, name: &str, permits: u32) -> Result<Self> {
        match space {
            AnySpace::Segment(space) => SharedSemaphore::new(space, name, permits).map(Self::Segment),
            AnySpace::Files(space) => FileSemaphore::new(space, name, permits).map(Self::Files),
        }
    }

    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Segment(semaphore) => semaphore.name(),
            Self::Files(semaphore) => semaphore.name(),
        }
    }

    /// The segment's, for what only that can do.
    pub(crate) fn segment(&self, what: &'static str) -> Result<&SharedSemaphore> {
        match self {
            Self::Segment(semaphore) => Ok(semaphore),
            Self::Files(semaphore) => Err(unsupported(what, semaphore.space().directory())),
        }
    }

    pub(crate) fn permits(&self) -> u32 {
        match self {
            Self::Segment(semaphore) => semaphore.permits(),
            Self::Files(semaphore) => semaphore.permits(),
        }
    }

    #[inline(always)]
    pub(crate) fn acquire_fast(&self) -> Option<(Permit, Found<'_>)> {
        match self {
            Self::Segment(semaphore) => semaphore.acquire_fast(),
            Self::Files(_) => None,
        }
    }

    /// Acquires one permit, waiting until what `deadline` says, which is asked if it has to wait.
    #[cold]
    pub(crate) fn acquire_slowly(&self, deadline: impl FnOnce() -> Deadline) -> Result<(Permit, Option<Box<More>>)> {
        match self {
            Self::Segment(semaphore) => match semaphore.try_acquire() {
                Some(permit) => Ok((permit, None)),
                None => semaphore.acquire(1, fork::thread(), deadline()),
            },
            Self::Files(semaphore) => semaphore.acquire(1, deadline()),
        }
    }

    #[cold]
    pub(crate) fn acquire(&self, count: u32, deadline: Deadline) -> Result<(Permit, Option<Box<More>>)> {
        match self {
            Self::Segment(semaphore) => semaphore.acquire(count, fork::thread(), deadline),
            Self::Files(semaphore) => semaphore.acquire(count, deadline),
        }
    }

    #[inline(always)]
    pub(crate) fn token(&self, permit: Permit) -> u64 {
        match self {
            Self::Segment(semaphore) => semaphore.token(permit),
            Self::Files(semaphore) => semaphore.token(permit),
        }
    }

    pub(crate) fn is_held(&self, permit: Permit) -> bool {
        match self {
            Self::Segment(semaphore) => semaphore.is_held(permit),
            Self::Files(semaphore) => semaphore.is_held(permit),
        }
    }

    #[cold]
    pub(crate) fn release(&self, permit: Permit) -> bool {
        match self {
            Self::Segment(semaphore) => semaphore.release(permit),
            Self::Files(semaphore) => semaphore.release(permit),
        }
    }

    /// Ends the acquisition of a permit that has a lease.
    pub(crate) fn release_leased(&self, permit: Permit) -> bool {
        match self {
            Self::Segment(semaphore) => semaphore.release_leased(permit),
            Self::Files(semaphore) => semaphore.release(permit),
        }
    }

    pub(crate) fn abandon(&self, permit: Permit) -> bool {
        match self {
            Self::Segment(semaphore) => semaphore.abandon(permit),
            Self::Files(semaphore) => semaphore.abandon(permit),
        }
    }

    pub(crate) fn stamp(&self, permit: Permit) {
        match self {
            Self::Segment(semaphore) => semaphore.stamp(permit),
            Self::Files(semaphore) => semaphore.stamp(permit),
        }
    }

    pub(crate) fn bury_all(&self, more: &More) {
        if let Self::Segment(semaphore) = self {
            semaphore.bury_all(more);
        }
    }

    pub(crate) fn holders(&self) -> Result<Vec<Holder>> {
        match self {
            Self::Segment(semaphore) => semaphore.holders(),
            Self::Files(semaphore) => semaphore.holders(),
        }
    }
}
