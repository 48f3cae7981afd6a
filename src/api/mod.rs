//! What users see: handles, guards and their rules. No word of segments or futexes in here.

#[cfg(feature = "diagnosis")]
pub mod diagnosis;
mod guard;
mod mutex;
mod rwlock;
mod semaphore;
mod space;

pub use mutex::{Mutex, MutexGuard, OwnedMutexGuard};
pub use rwlock::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, Refused, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use semaphore::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
pub use space::{Space, SpaceBuilder};
