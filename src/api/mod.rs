//! What users see: handles, guards and their rules. No word of segments or futexes in here.

mod barrier;
mod condvar;
mod data;
#[cfg(feature = "diagnosis")]
pub mod diagnosis;
mod event;
mod guard;
mod latch;
mod mutex;
mod once;
mod queue;
mod rwlock;
mod semaphore;
mod space;

pub use barrier::{Barrier, BarrierMember, BarrierWait};
pub use condvar::{Condvar, WaitTimeoutResult};
pub use data::{
    AbandonedGuard, Acquired, MutexDataGuard, NoData, OwnedMutexDataGuard, OwnedRwLockReadDataGuard,
    OwnedRwLockWriteDataGuard, Plain, RwLockReadDataGuard, RwLockWriteDataGuard, WritesData,
};
pub use event::{Event, EventSetter};
pub use latch::{Latch, LatchParty};
pub use mutex::{Mutex, MutexGuard, OwnedMutexGuard};
pub use once::{Once, OnceState};
pub use queue::Queue;
pub use rwlock::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, Refused, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use semaphore::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
pub use space::{Space, SpaceBuilder};
