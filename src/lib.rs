//! Locks for the processes of one machine.
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("hostlock needs Linux so far: its locks stand on futexes and open-file-description locks.");

#[cfg(not(target_has_atomic = "64"))]
compile_error!("hostlock needs 64-bit atomics, which this target does not have.");

mod protocol;
mod sync;

#[cfg(not(all(test, hostlock_loom)))]
mod api;
#[cfg(not(all(test, hostlock_loom)))]
mod backend;
#[cfg(not(all(test, hostlock_loom)))]
mod digest;
#[cfg(not(all(test, hostlock_loom)))]
mod error;
#[cfg(not(all(test, hostlock_loom)))]
mod holder;
#[cfg(not(all(test, hostlock_loom)))]
#[allow(unsafe_code)]
mod os;
#[cfg(not(all(test, hostlock_loom)))]
#[allow(unsafe_code)]
mod segment;

#[cfg(not(all(test, hostlock_loom)))]
pub use {
    api::{Mutex, MutexGuard, OwnedMutexGuard, Space, SpaceBuilder, Usage},
    error::{Error, Result},
    holder::{Abandoned, Held, Holder},
};
