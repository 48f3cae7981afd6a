//! The locks that are measured, each behind the same calls.
// Each of those who include this takes what it needs.
#![allow(dead_code, unused_imports)]

mod files;
mod local;
mod ours;
mod posix;
mod read_write;
mod system_v;

pub use files::{Bare, FdLock, Flock, Named, OpenFileDescription, Opened, byte, lock_byte};
pub use local::{BareCas, ParkingLot, ParkingLotRw, Std, StdRw};
pub use ours::{Hostlock, HostlockFair, HostlockPermits, HostlockRw};
pub use posix::{Kind, Pthread, Pthreads, Semaphore};
pub use read_write::{PthreadRw, ReadWrite, SharedRw};
pub use system_v::SysV;

/// A lock as the benchmarks use it. Inlined always: what is measured is the lock, not the call of this.
pub trait Lock {
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R;
}

impl<L: Lock> Lock for &L {
    #[inline(always)]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        (**self).with(critical)
    }
}

/// What several processes lock, each through something of its own that it makes when it first comes by.
pub trait Shared {
    fn here(&self) -> impl Lock;
}

impl<S: Shared> Shared for &S {
    fn here(&self) -> impl Lock {
        (**self).here()
    }
}

/// A call that a signal may interrupt, until it succeeds.
#[inline(always)]
fn patiently(what: &str, mut call: impl FnMut() -> libc::c_int) {
    while call() != 0 {
        let error = std::io::Error::last_os_error();
        assert_eq!(error.raw_os_error(), Some(libc::EINTR), "{what}: {error}");
    }
}
