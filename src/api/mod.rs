//! What users see: handles, guards and their rules. No word of segments or futexes in here.

mod barrier;
mod cancel;
mod condvar;
mod data;
#[cfg(feature = "diagnosis")]
pub mod diagnosis;
mod election;
mod event;
mod fence;
mod guard;
mod latch;
mod lease;
mod mutex;
mod once;
mod queue;
mod reentrant;
mod rwlock;
mod semaphore;
mod several;
mod space;

pub use barrier::{Barrier, BarrierMember, BarrierWait};
pub use cancel::CancelToken;
pub use condvar::{Condvar, WaitTimeoutResult};
pub use data::{
    AbandonedGuard, Acquired, MutexDataGuard, NoData, OwnedMutexDataGuard, OwnedRwLockReadDataGuard,
    OwnedRwLockWriteDataGuard, Plain, RwLockReadDataGuard, RwLockWriteDataGuard, WritesData,
};
pub use election::{Election, Leadership};
pub use event::{Event, EventSetter};
pub use fence::{Fence, FenceGuard};
pub use latch::{Latch, LatchParty};
pub use lease::{Lease, LeaseGuard};
pub use mutex::{Mutex, MutexGuard, OwnedMutexGuard};
pub use once::{Once, OnceState};
pub use queue::Queue;
pub use reentrant::{ReentrantMutex, ReentrantMutexGuard};
pub use rwlock::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, Refused, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use semaphore::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
pub use several::{AllGuard, Wanted, WantedGuard, lock_all, try_lock_all, try_lock_all_for};
pub use space::{Space, SpaceBuilder};
