//! What users see: handles, guards and their rules. No word of segments or futexes in here.

#[cfg(feature = "diagnosis")]
pub mod diagnosis;
mod mutex;
mod space;

pub use mutex::{Mutex, MutexGuard, OwnedMutexGuard};
pub use space::{Space, SpaceBuilder};
