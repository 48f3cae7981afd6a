//! hostlock's own. A process joins the space when it first tries to acquire something: `here` does that, so that it is no part of what is measured.

use super::{Lock, ReadWrite, Shared, SharedRw};

pub struct Hostlock(pub hostlock::Mutex);

impl Lock for Hostlock {
    #[inline(always)]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        let _guard = self.0.lock().expect("the lock");
        critical()
    }
}

impl Shared for Hostlock {
    fn here(&self) -> impl Lock {
        let _ = self.0.try_lock();
        self
    }
}

/// Whoever waits is before whoever just comes.
pub struct HostlockFair(pub hostlock::Mutex);

impl Lock for HostlockFair {
    #[inline(always)]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        let guard = self.0.lock().expect("the lock");
        let result = critical();
        guard.unlock_fair().expect("held");
        result
    }
}

impl Shared for HostlockFair {
    fn here(&self) -> impl Lock {
        let _ = self.0.try_lock();
        self
    }
}

/// One permit of a semaphore.
pub struct HostlockPermits(pub hostlock::Semaphore);

impl Lock for HostlockPermits {
    #[inline(always)]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        let _permit = self.0.acquire().expect("a permit");
        critical()
    }
}

impl Shared for HostlockPermits {
    fn here(&self) -> impl Lock {
        let _ = self.0.try_acquire();
        self
    }
}

pub struct HostlockRw(pub hostlock::RwLock);

impl ReadWrite for HostlockRw {
    #[inline(always)]
    fn read<R>(&self, critical: impl FnOnce() -> R) -> R {
        let _guard = self.0.read().expect("the lock");
        critical()
    }

    #[inline(always)]
    fn write<R>(&self, critical: impl FnOnce() -> R) -> R {
        let _guard = self.0.write().expect("the lock");
        critical()
    }
}

impl SharedRw for HostlockRw {
    fn here(&self) -> impl ReadWrite {
        let _ = self.0.try_read();
        self
    }
}
