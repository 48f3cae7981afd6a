//! What only the threads of one process can use, for reference.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Lock, ReadWrite};

/// The floor: one compare-and-swap in, one out, and nothing that could wait.
#[derive(Default)]
pub struct BareCas(pub AtomicU64);

impl Lock for BareCas {
    #[inline(always)]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        let free = self.0.load(Ordering::Relaxed);
        let word = std::hint::black_box(&self.0);
        word.compare_exchange(free, free + 1, Ordering::Acquire, Ordering::Relaxed).expect("nobody else is here");
        let result = critical();
        word.compare_exchange(free + 1, free + 2, Ordering::Release, Ordering::Relaxed).expect("nobody else is here");
        result
    }
}

#[derive(Default)]
pub struct Std(pub std::sync::Mutex<()>);

impl Lock for Std {
    #[inline(always)]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        let _guard = self.0.lock().expect("not poisoned");
        critical()
    }
}

#[derive(Default)]
pub struct ParkingLot(pub parking_lot::Mutex<()>);

impl Lock for ParkingLot {
    #[inline(always)]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        let _guard = self.0.lock();
        critical()
    }
}

#[derive(Default)]
pub struct StdRw(pub std::sync::RwLock<()>);

impl ReadWrite for StdRw {
    #[inline(always)]
    fn read<R>(&self, critical: impl FnOnce() -> R) -> R {
        let _guard = self.0.read().expect("not poisoned");
        critical()
    }

    #[inline(always)]
    fn write<R>(&self, critical: impl FnOnce() -> R) -> R {
        let _guard = self.0.write().expect("not poisoned");
        critical()
    }
}

#[derive(Default)]
pub struct ParkingLotRw(pub parking_lot::RwLock<()>);

impl ReadWrite for ParkingLotRw {
    #[inline(always)]
    fn read<R>(&self, critical: impl FnOnce() -> R) -> R {
        let _guard = self.0.read();
        critical()
    }

    #[inline(always)]
    fn write<R>(&self, critical: impl FnOnce() -> R) -> R {
        let _guard = self.0.write();
        critical()
    }
}
