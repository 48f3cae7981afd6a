//! The locks that hostlock is measured against, each behind the same two calls.
#![allow(dead_code)]

pub mod arena;
pub mod read_write;

use std::cell::UnsafeCell;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use fs2::FileExt;

/// A lock as the benchmarks use it. Calls are inlined where the lock's own are.
pub trait Lock {
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R;
}

/// The floor: one compare-and-swap in, one out, and nothing that could wait.
pub struct BareCas(pub AtomicU64);

impl Lock for BareCas {
    #[inline]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        let free = self.0.load(Ordering::Relaxed);
        let word = std::hint::black_box(&self.0);
        word.compare_exchange(free, free + 1, Ordering::Acquire, Ordering::Relaxed).expect("nobody else is here");
        let result = critical();
        word.compare_exchange(free + 1, free + 2, Ordering::Release, Ordering::Relaxed).expect("nobody else is here");
        result
    }
}

pub struct Hostlock(pub hostlock::Mutex);

impl Lock for Hostlock {
    #[inline]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        let _guard = self.0.lock().expect("the lock");
        critical()
    }
}

/// Whoever waits is before whoever just comes.
pub struct HostlockFair(pub hostlock::Mutex);

impl Lock for HostlockFair {
    #[inline]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        let guard = self.0.lock().expect("the lock");
        let result = critical();
        guard.unlock_fair().expect("held");
        result
    }
}

pub struct Std(pub std::sync::Mutex<()>);

impl Lock for Std {
    #[inline]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        let _guard = self.0.lock().expect("not poisoned");
        critical()
    }
}

pub struct ParkingLot(pub parking_lot::Mutex<()>);

impl Lock for ParkingLot {
    #[inline]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        let _guard = self.0.lock();
        critical()
    }
}

/// `pthread_mutex_t` with `PTHREAD_PROCESS_SHARED`, and robust or not. Lies wherever it was put, so also in shared memory.
#[repr(transparent)]
pub struct Pthread(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: a pthread mutex may be used from any thread.
unsafe impl Sync for Pthread {}

impl Pthread {
    /// # Safety
    /// `place` is valid for writing, aligned, and stays where it is for as long as the mutex is used.
    pub unsafe fn init(place: *mut Self, robust: bool) {
        let mut attributes = std::mem::MaybeUninit::uninit();
        // SAFETY: the calls initialise the attributes before they use them; the mutex is at a place the caller vouches for.
        unsafe {
            assert_eq!(libc::pthread_mutexattr_init(attributes.as_mut_ptr()), 0);
            let attributes = attributes.as_mut_ptr();
            assert_eq!(libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED), 0);
            if robust {
                assert_eq!(libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST), 0);
            }
            assert_eq!(libc::pthread_mutex_init((*place).0.get(), attributes), 0);
        }
    }
}

impl Pthread {
    /// As [`Lock::with`], of a robust one, also when its owner died.
    pub fn with_recovered<R>(&self, critical: impl FnOnce() -> R) -> R {
        // SAFETY: initialised by `init`.
        match unsafe { libc::pthread_mutex_lock(self.0.get()) } {
            0 => {}
            libc::EOWNERDEAD => {
                // SAFETY: as above, and locked by this thread, which was told of the death.
                unsafe { assert_eq!(libc::pthread_mutex_consistent(self.0.get()), 0) };
            }
            error => panic!("pthread_mutex_lock: {error}"),
        }
        let result = critical();
        // SAFETY: as above.
        unsafe { assert_eq!(libc::pthread_mutex_unlock(self.0.get()), 0) };
        result
    }
}

impl Lock for Pthread {
    #[inline]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        // SAFETY: initialised by `init`.
        unsafe { assert_eq!(libc::pthread_mutex_lock(self.0.get()), 0) };
        let result = critical();
        // SAFETY: as above, and locked by this thread.
        unsafe { assert_eq!(libc::pthread_mutex_unlock(self.0.get()), 0) };
        result
    }
}

/// `sem_t` with `pshared`.
#[repr(transparent)]
pub struct Semaphore(UnsafeCell<libc::sem_t>);

// SAFETY: a POSIX semaphore may be used from any thread.
unsafe impl Sync for Semaphore {}

impl Semaphore {
    /// # Safety
    /// As [`Pthread::init`].
    pub unsafe fn init(place: *mut Self, value: u32) {
        // SAFETY: the caller vouches for the place.
        unsafe { assert_eq!(libc::sem_init((*place).0.get(), 1, value), 0) };
    }
}

impl Lock for Semaphore {
    #[inline]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        // SAFETY: initialised by `init`. A signal may interrupt the wait.
        while unsafe { libc::sem_wait(self.0.get()) } != 0 {}
        let result = critical();
        // SAFETY: as above.
        unsafe { assert_eq!(libc::sem_post(self.0.get()), 0) };
        result
    }
}

/// One permit of a semaphore.
pub struct HostlockPermits(pub hostlock::Semaphore);

impl Lock for HostlockPermits {
    #[inline]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        let _permit = self.0.acquire().expect("a permit");
        critical()
    }
}

/// A System V semaphore that the kernel gives back for the dead: `semop` with `SEM_UNDO`.
pub struct SysV(libc::c_int);

impl SysV {
    pub fn new(value: u32) -> Self {
        // SAFETY: no pointers.
        let id = unsafe { libc::semget(libc::IPC_PRIVATE, 1, 0o600) };
        assert!(id >= 0, "semget: {}", std::io::Error::last_os_error());
        // SAFETY: SETVAL takes an int.
        assert_eq!(unsafe { libc::semctl(id, 0, libc::SETVAL, value as libc::c_int) }, 0);
        Self(id)
    }

    fn add(&self, change: i16) {
        let mut operation = libc::sembuf { sem_num: 0, sem_op: change, sem_flg: libc::SEM_UNDO as i16 };
        // SAFETY: one operation. A signal may interrupt the wait.
        while unsafe { libc::semop(self.0, &raw mut operation, 1) } != 0 {}
    }
}

impl Drop for SysV {
    fn drop(&mut self) {
        // SAFETY: no pointers. Without this it would outlive the program.
        unsafe { libc::semctl(self.0, 0, libc::IPC_RMID) };
    }
}

impl Lock for SysV {
    #[inline]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        self.add(-1);
        let result = critical();
        self.add(1);
        result
    }
}

/// `flock(2)`, by way of fs2, on a file of one's own description.
pub struct Flock(pub File);

impl Lock for Flock {
    #[inline]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        FileExt::lock_exclusive(&self.0).expect("flock");
        let result = critical();
        FileExt::unlock(&self.0).expect("unlock");
        result
    }
}

/// The middle value; of an even number of them, the lower one of the middle two.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}
