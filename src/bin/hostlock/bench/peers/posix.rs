//! What the C library has for processes: its mutexes, its semaphore.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;

use super::super::arena::Arena;
use super::{Lock, Shared, patiently};

/// `pthread_mutex_t` with `PTHREAD_PROCESS_SHARED`. Lies wherever it was put, so also in shared memory.
#[repr(C, align(128))]
pub struct Pthread(UnsafeCell<libc::pthread_mutex_t>);

/// What it is beside that.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Plain,
    /// Comes back when its owner dies.
    Robust,
    /// Its owner runs at the priority of those who wait: the kernel hands it on.
    Inheriting,
}

// SAFETY: a pthread mutex may be used from any thread.
unsafe impl Sync for Pthread {}

impl Pthread {
    /// # Safety
    /// `place` is valid for writing, aligned, and stays where it is for as long as the mutex is used.
    pub unsafe fn init(place: *mut Self, kind: Kind) {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the calls initialise the attributes before they use them; the mutex is at a place the caller vouches for.
        unsafe {
            assert_eq!(libc::pthread_mutexattr_init(attributes.as_mut_ptr()), 0);
            let attributes = attributes.as_mut_ptr();
            assert_eq!(libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED), 0);
            if kind == Kind::Robust {
                assert_eq!(libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST), 0);
            }
            if kind == Kind::Inheriting {
                assert_eq!(libc::pthread_mutexattr_setprotocol(attributes, libc::PTHREAD_PRIO_INHERIT), 0);
            }
            assert_eq!(libc::pthread_mutex_init((*place).0.get(), attributes), 0);
        }
    }

    /// Takes it without waiting; whether it came back from one who died. `None`: it is held.
    pub fn try_take(&self) -> Option<bool> {
        // SAFETY: initialised by `init`.
        match unsafe { libc::pthread_mutex_trylock(self.0.get()) } {
            0 => Some(false),
            libc::EOWNERDEAD => {
                self.repair();
                Some(true)
            }
            _ => None,
        }
    }

    pub fn release(&self) {
        // SAFETY: initialised by `init`, and locked by this thread.
        unsafe { assert_eq!(libc::pthread_mutex_unlock(self.0.get()), 0) };
    }

    #[cold]
    fn repair(&self) {
        // SAFETY: as above, and this thread was told of the death.
        unsafe { assert_eq!(libc::pthread_mutex_consistent(self.0.get()), 0) };
    }
}

impl Lock for Pthread {
    #[inline(always)]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        // SAFETY: initialised by `init`.
        match unsafe { libc::pthread_mutex_lock(self.0.get()) } {
            0 => {}
            libc::EOWNERDEAD => self.repair(),
            error => panic!("pthread_mutex_lock: {error}"),
        }
        let result = critical();
        self.release();
        result
    }
}

impl Shared for Pthread {
    fn here(&self) -> impl Lock {
        self
    }
}

/// So many of them, side by side in memory that processes share.
pub struct Pthreads<const COUNT: usize>(Arena<MaybeUninit<[Pthread; COUNT]>>);

impl<const COUNT: usize> Pthreads<COUNT> {
    pub fn new(kind: Kind) -> Self {
        // SAFETY: nothing is said of what its bytes are.
        let all = Self(unsafe { Arena::new(|_| {}) });
        all.reset(kind);
        all
    }

    /// Makes them anew; nobody uses one meanwhile.
    pub fn reset(&self, kind: Kind) {
        let first = self.0.board().as_ptr().cast::<Pthread>().cast_mut();
        for index in 0..COUNT {
            // SAFETY: inside the mapping, which may be written to and stays for as long as there is a reference to one of them.
            unsafe { Pthread::init(first.add(index), kind) };
        }
    }

    pub fn get(&self, index: usize) -> &Pthread {
        assert!(index < COUNT, "there are {COUNT}");
        // SAFETY: inside the mapping; initialised by `new`.
        unsafe { &*self.0.board().as_ptr().cast::<Pthread>().add(index) }
    }
}

/// `sem_t` with `pshared`.
#[repr(C, align(128))]
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
    #[inline(always)]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        // SAFETY: initialised by `init`.
        patiently("sem_wait", || unsafe { libc::sem_wait(self.0.get()) });
        let result = critical();
        // SAFETY: as above.
        unsafe { assert_eq!(libc::sem_post(self.0.get()), 0) };
        result
    }
}

impl Shared for Semaphore {
    fn here(&self) -> impl Lock {
        self
    }
}
