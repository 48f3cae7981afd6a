//! What users see: handles, guards and their rules. No word of segments or futexes in here.

#[cfg(feature = "diagnosis")]
pub mod diagnosis;
mod mutex;
mod semaphore;
mod space;

pub use mutex::{Mutex, MutexGuard, OwnedMutexGuard};
pub use semaphore::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
pub use space::{Space, SpaceBuilder};
