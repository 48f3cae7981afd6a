//! Locks for the processes of one machine: as fast as a lock inside one process, back when their owner dies, and with a token
//! for every holder that grows.
//!
//! Workers that share nothing but a name share a lock:
//!
//! ```no_run
//! use std::time::Duration;
//! use hostlock::{Error, Space};
//!
//! let space = Space::open("myapp")?; // every process that opens "myapp" sees the same locks
//! let migrate = space.mutex("db-migrate")?; // a handle: Clone, Send, Sync
//!
//! match migrate.try_lock_for(Duration::from_secs(5)) {
//!     Ok(guard) => {
//!         if let Some(dead) = guard.abandoned() {
//!             println!("{dead}: checking what it left behind");
//!         }
//!         println!("migrating, with fencing token {}", guard.token());
//!     } // released here
//!     Err(Error::TimedOut { holder: Some(holder), .. }) => println!("{holder} is at it"),
//!     Err(error) => return Err(error),
//! }
//! # Ok::<_, Error>(())
//! ```
//!
//! # What there is
//!
//! [`Mutex`], [`RwLock`] and [`Semaphore`]; the first two also with a value that lives beside them ([`Space::mutex_with`]), and a [`Queue`]; and what is
//! waited for otherwise: [`Once`], [`Event`], [`Latch`], [`Barrier`], [`Condvar`]. Each of their pages says what happens when somebody dies.
//!
//! With time: a [`Lease`] ends an acquisition also while its owner lives; a [`Fence`] refuses what comes late because of that; an [`Election`] has one leader at a time.
//! [`lock_all`] acquires several, a [`ReentrantMutex`] can be acquired again, a [`CancelToken`] ends waits. Those who wait for each other are told
//! ([`Error::Deadlock`]).
//!
//! They live in a mapped segment. Where that cannot serve, mutexes, read-write locks and semaphores are lock files: [`docs::lock_files`].
//!
//! # What it promises
//!
//! * **Exclusion**: at no instant do two live owners hold the same lock in ways that exclude each other, whatever dies, forks, stops or is reused around them.
//! * **A dead owner blocks nobody for ever**, and whoever cannot be told to be dead counts as alive.
//! * **The survivor is told** that its predecessor died holding the lock: [`MutexGuard::abandoned`].
//! * **Tokens grow**: every acquisition of a name has a larger `u64` than every earlier one, also across crashes and reboots.
//! * **Deadlines** are exact to the monotonic clock, and a wait that gave up leaves no trace.
//! * **A fork** never lets the child release, or believe it holds, what the parent holds.
//! * **One mechanism**: all processes that name a lock use the same one, or get an error.
//! * **Bad segments** are clear errors: corrupt, truncated, foreign, older or newer ones.
//! * **It says who**: holder, since when, who died, in the API and in the text of a time-out.
//! * **Nothing grows**: slots, names and records of the dead are reclaimed.
//!
//! How it keeps them stands in [`docs::design`], the segment byte by byte in [`docs::format`], and what has gone
//! wrong elsewhere, with the tests that provoke it here, in [`docs::hazards`].
//!
//! # When not to use this
//!
//! * Between machines. A lock here is worth something on one kernel only; network file systems are refused.
//! * Between threads of one process: std's and parking_lot's mutexes cost the same and need no name.
//! * Against an enemy. Whoever may write to a space (its user, or its group) can break every lock in it.
//! * Instead of a transaction. A lock orders those who ask for it; it does not undo what a dead owner left half done. It
//!   tells you that there may be something.
//! * In a signal handler: nothing here is async-signal-safe.
#![deny(unsafe_code)]
// Under the private cfg there is nobody above the protocol to use all of it.
#![cfg_attr(all(test, hostlock_loom), allow(dead_code))]

#[cfg(not(target_os = "linux"))]
compile_error!("hostlock needs Linux so far: its locks stand on futexes and open-file-description locks.");

#[cfg(not(target_has_atomic = "64"))]
compile_error!("hostlock needs 64-bit atomics, which this target does not have.");

// Under the private cfg only the protocol and what it needs compiles, so that a `use` of a layer above fails.
mod protocol;
mod sync;

#[cfg(not(all(test, hostlock_loom)))]
mod api;
#[cfg(not(all(test, hostlock_loom)))]
mod backend;
#[cfg_attr(all(test, hostlock_loom), allow(dead_code))]
mod digest;
#[cfg(not(all(test, hostlock_loom)))]
mod error;
#[cfg(not(all(test, hostlock_loom)))]
mod holder;
#[cfg(not(all(test, hostlock_loom)))]
mod os;
#[cfg(not(all(test, hostlock_loom)))]
mod report;
#[cfg(not(all(test, hostlock_loom)))]
mod segment;

#[cfg(all(feature = "diagnosis", not(all(test, hostlock_loom))))]
pub use api::diagnosis;
#[cfg(not(all(test, hostlock_loom)))]
pub use {
    api::{AbandonedGuard, Acquired, NoData, Plain, Queue, WritesData},
    api::{AllGuard, Wanted, WantedGuard, lock_all, try_lock_all, try_lock_all_for},
    api::{Barrier, BarrierMember, BarrierWait, Condvar, WaitTimeoutResult},
    api::{CancelToken, Election, Leadership, ReentrantMutex, ReentrantMutexGuard},
    api::{Event, EventSetter, Latch, LatchParty, Once, OnceState},
    api::{Fence, FenceGuard, Lease, LeaseGuard},
    api::{Mutex, MutexGuard, OwnedMutexGuard, Space, SpaceBuilder},
    api::{MutexDataGuard, OwnedMutexDataGuard},
    api::{OwnedRwLockReadDataGuard, OwnedRwLockWriteDataGuard, RwLockReadDataGuard, RwLockWriteDataGuard},
    api::{
        OwnedRwLockReadGuard, OwnedRwLockWriteGuard, OwnedSemaphorePermit, Refused, RwLock, RwLockReadGuard,
        RwLockWriteGuard, Semaphore, SemaphorePermit,
    },
    error::{Error, Result},
    holder::{Abandoned, Held, Holder, Process, Waits},
    report::{Backend, Inspection, LockKind, LockReport, ParticipantReport, Permits, Usage, WaiterReport},
};

/// For the traits that data has to have: see [`Plain`].
#[cfg(not(all(test, hostlock_loom)))]
pub use bytemuck;

/// How it works and why, for those who want to know. No code in here.
#[cfg(doc)]
pub mod docs {
    #[doc = include_str!("docs/design.md")]
    pub mod design {}
    #[doc = include_str!("docs/format.md")]
    pub mod format {}
    #[doc = include_str!("docs/protocol.md")]
    pub mod protocol {}
    #[doc = include_str!("docs/verification.md")]
    pub mod verification {}
    #[doc = include_str!("docs/hazards.md")]
    pub mod hazards {}
    #[doc = include_str!("docs/performance.md")]
    pub mod performance {}
    #[doc = include_str!("docs/lock_files.md")]
    pub mod lock_files {}
    #[doc = include_str!("docs/tool.md")]
    pub mod tool {}
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
