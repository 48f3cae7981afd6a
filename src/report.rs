//! What a look at a space found, for people and for tools.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::holder::{Abandoned, Holder, Process};

/// A space at about one moment, seen from outside. Made by [`SpaceBuilder::inspect`](crate::SpaceBuilder::inspect).
///
/// It is read while others go on. Each lock is right at some moment, not all of them at the same.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// The space's directory.
    pub path: PathBuf,
    /// When it was created, by the wall clock of then.
    pub created: SystemTime,
    /// The permissions its file was created with.
    pub mode: u32,
    /// What its locks are: never [`Backend::Auto`].
    pub backend: Backend,
    /// How much of it is in use.
    pub usage: Usage,
    /// Every name that has a lock, in the order of the names.
    pub locks: Vec<LockReport>,
    /// Every process in it, also the dead that nobody cleaned up after. Lock files keep no list: it is empty.
    pub participants: Vec<ParticipantReport>,
}

/// How much of a space is in use. See [`Space::usage`](crate::Space::usage).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Registered processes, dead ones that nobody cleaned up after included.
    pub participants: usize,
    /// How many processes there is room for. 0: for any number, in lock files.
    pub participants_capacity: usize,
    /// Names that have a lock.
    pub locks: usize,
    /// How many names there is room for, before unused ones are given up.
    pub locks_capacity: usize,
    /// Threads that sleep, waiting for a lock. Whoever waits for a lock file is not noted anywhere.
    pub waiting: usize,
}

/// One lock.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LockReport {
    /// Its name. Empty: [`damage`](Self::damage) took it.
    pub name: String,
    /// What it is.
    pub kind: LockKind,
    /// Who holds it; of several, the first of [`holders`](Self::holders). `None`: nobody alive does.
    pub holder: Option<Holder>,
    /// All who hold a part of it: of a semaphore one for each permit, by token; of a read-write lock its writer, or one for each process that
    /// reads; of others the one holder.
    pub holders: Vec<Holder>,
    /// Of a semaphore how many of its permits somebody alive holds; of a barrier its members; of a latch those who announced to count.
    pub permits: Option<Permits>,
    /// Who died holding it, for as long as the mark stands: the next owner will be told, or the present one was and has not released
    /// it yet.
    pub abandoned: Option<Abandoned>,
    /// Who sleeps waiting for it, the longest first. At most four threads of a process are sure to be seen.
    pub waiters: Vec<WaiterReport>,
    /// The token of the present or the last acquisition.
    pub token: u64,
    /// How many acquisitions had to sleep. Not counted of lock files.
    pub contended: u64,
    /// How many owners died holding it.
    pub recovered: u64,
    /// What is wrong with its words, if they say what cannot be.
    pub damage: Option<String>,
}

/// How many permits a semaphore has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Permits {
    /// Those that somebody alive holds.
    pub used: u32,
    /// All of them.
    pub total: u32,
}

/// What the locks of a space are. Whoever creates a space decides it; all others follow, or fail and say what they lack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// A segment, unless the creator cannot use one: then lock files. Of a space that exists: whatever it has.
    #[default]
    Auto,
    /// Words in a mapped file, and a futex to wait on. Everything in this crate works there.
    Segment,
    /// Lock files, locked by `flock`: where a mapped segment cannot serve. There are mutexes, read-write locks and semaphores; waiting is polling.
    Files,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Segment => "segment",
            Self::Files => "files",
        })
    }
}

/// What a name is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockKind {
    /// A [`Mutex`](crate::Mutex).
    Mutex,
    /// A [`RwLock`](crate::RwLock).
    RwLock,
    /// A [`Semaphore`](crate::Semaphore).
    Semaphore,
    /// A condition variable.
    Condvar,
    /// Something that happened, or did not yet.
    Event,
    /// A place where so many wait for each other.
    Barrier,
    /// A count that is waited for.
    Latch,
    /// Something that is done once.
    Once,
    /// A queue.
    Queue,
    /// A [`Fence`](crate::Fence).
    Fence,
    /// A mutex with the data it guards.
    MutexData,
    /// A read-write lock with the data it guards.
    RwLockData,
    /// Something that this version does not know.
    Unknown,
}

impl fmt::Display for LockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Mutex => "mutex",
            Self::RwLock => "rwlock",
            Self::Semaphore => "semaphore",
            Self::Condvar => "condvar",
            Self::Event => "event",
            Self::Barrier => "barrier",
            Self::Latch => "latch",
            Self::Once => "once",
            Self::Queue => "queue",
            Self::Fence => "fence",
            Self::MutexData => "mutex-data",
            Self::RwLockData => "rwlock-data",
            Self::Unknown => "unknown",
        })
    }
}

/// A thread that sleeps until it gets a lock.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WaiterReport {
    /// Its process.
    pub process: Process,
    /// The kernel's id of the thread; `None` for a wait that belongs to no thread (an owned guard).
    pub thread: Option<u32>,
    /// For how long it has been waiting, if that can be compared with our clock.
    pub waiting: Duration,
    /// The process lives in another PID namespace.
    pub elsewhere: bool,
}

/// A process in a space.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ParticipantReport {
    /// The process.
    pub process: Process,
    /// When it joined, by the wall clock of then.
    pub joined: SystemTime,
    /// It is proven dead, and nobody cleaned up after it yet. What cannot be told is not dead.
    pub dead: bool,
    /// It lives in another PID namespace.
    pub elsewhere: bool,
    /// For whom it holds its locks, if it said so.
    pub on_behalf_of: Option<Process>,
    /// Its death wakes those who wait for what it holds at once. Otherwise they learn of it by looking, within their
    /// [check interval](crate::SpaceBuilder::check_interval).
    pub wakes_at_once: bool,
    /// It takes part in fences that others make (`membarrier`): so it gives locks back by a store, and its threads may read by one. Otherwise by a
    /// compare-and-swap.
    pub takes_fences: bool,
}
