//! Read-write locks, each behind the same two calls.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;

/// A read-write lock as the benchmarks use it. Inlined always: what is measured is the lock, not the call of this.
pub trait ReadWrite {
    fn read<R>(&self, critical: impl FnOnce() -> R) -> R;
    fn write<R>(&self, critical: impl FnOnce() -> R) -> R;
}

impl<L: ReadWrite> ReadWrite for &L {
    #[inline(always)]
    fn read<R>(&self, critical: impl FnOnce() -> R) -> R {
        (**self).read(critical)
    }

    #[inline(always)]
    fn write<R>(&self, critical: impl FnOnce() -> R) -> R {
        (**self).write(critical)
    }
}

/// What several processes lock, each through something of its own that it makes when it first comes by.
pub trait SharedRw {
    fn here(&self) -> impl ReadWrite;
}

impl<S: SharedRw> SharedRw for &S {
    fn here(&self) -> impl ReadWrite {
        (**self).here()
    }
}

/// `pthread_rwlock_t` with `PTHREAD_PROCESS_SHARED`, with glibc's preference for readers or with the one for writers.
#[repr(C, align(128))]
pub struct PthreadRw(UnsafeCell<libc::pthread_rwlock_t>);

// SAFETY: a pthread read-write lock may be used from any thread.
unsafe impl Sync for PthreadRw {}

unsafe extern "C" {
    // Of glibc's own, which libc does not declare.
    fn pthread_rwlockattr_setkind_np(attributes: *mut libc::pthread_rwlockattr_t, kind: libc::c_int) -> libc::c_int;
}

/// `PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP`.
const WRITERS_FIRST: libc::c_int = 2;

impl PthreadRw {
    /// # Safety
    /// `place` is valid for writing, aligned, and stays where it is for as long as the lock is used.
    pub unsafe fn init(place: *mut Self, writers_first: bool) {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: the calls initialise the attributes before they use them; the lock is at a place the caller vouches for.
        unsafe {
            assert_eq!(libc::pthread_rwlockattr_init(attributes.as_mut_ptr()), 0);
            let attributes = attributes.as_mut_ptr();
            assert_eq!(libc::pthread_rwlockattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED), 0);
            if writers_first {
                assert_eq!(pthread_rwlockattr_setkind_np(attributes, WRITERS_FIRST), 0);
            }
            assert_eq!(libc::pthread_rwlock_init((*place).0.get(), attributes), 0);
        }
    }

    fn unlock(&self) {
        // SAFETY: initialised by `init`, and locked by this thread.
        unsafe { assert_eq!(libc::pthread_rwlock_unlock(self.0.get()), 0) };
    }
}

impl ReadWrite for PthreadRw {
    #[inline(always)]
    fn read<R>(&self, critical: impl FnOnce() -> R) -> R {
        // SAFETY: initialised by `init`.
        unsafe { assert_eq!(libc::pthread_rwlock_rdlock(self.0.get()), 0) };
        let result = critical();
        self.unlock();
        result
    }

    #[inline(always)]
    fn write<R>(&self, critical: impl FnOnce() -> R) -> R {
        // SAFETY: initialised by `init`.
        unsafe { assert_eq!(libc::pthread_rwlock_wrlock(self.0.get()), 0) };
        let result = critical();
        self.unlock();
        result
    }
}

impl SharedRw for PthreadRw {
    fn here(&self) -> impl ReadWrite {
        self
    }
}
