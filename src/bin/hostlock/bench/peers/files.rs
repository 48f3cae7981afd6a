//! Locked files: by the system calls, and by crates.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use fs2::FileExt;

use super::{Lock, ReadWrite, Shared, SharedRw, patiently};

/// `flock(2)`, by way of fs2, on a file of one's own description.
pub struct Flock(pub File);

impl Lock for Flock {
    #[inline(always)]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        FileExt::lock_exclusive(&self.0).expect("flock");
        let result = critical();
        FileExt::unlock(&self.0).expect("unlock");
        result
    }
}

/// `flock(2)` and nothing around it.
pub struct Bare(pub File);

impl Bare {
    fn flock(&self, operation: libc::c_int) {
        // SAFETY: the descriptor is open, and there are no pointers.
        patiently("flock", || unsafe { libc::flock(self.0.as_raw_fd(), operation) });
    }
}

impl Lock for Bare {
    #[inline(always)]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        self.flock(libc::LOCK_EX);
        let result = critical();
        self.flock(libc::LOCK_UN);
        result
    }
}

impl ReadWrite for Bare {
    #[inline(always)]
    fn read<R>(&self, critical: impl FnOnce() -> R) -> R {
        self.flock(libc::LOCK_SH);
        let result = critical();
        self.flock(libc::LOCK_UN);
        result
    }

    #[inline(always)]
    fn write<R>(&self, critical: impl FnOnce() -> R) -> R {
        self.with(critical)
    }
}

/// A byte of a file, for `fcntl`: to be locked alone (`F_WRLCK`), with others (`F_RDLCK`) or not at all (`F_UNLCK`).
pub fn byte(number: usize, kind: libc::c_int) -> libc::flock {
    // SAFETY: zero is a value of all its fields.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    (lock.l_type, lock.l_start, lock.l_len) = (kind as libc::c_short, number as libc::off_t, 1);
    lock
}

/// Waits for a byte as its open file description (`F_OFD_SETLKW`), or gives it back.
pub fn lock_byte(file: &File, lock: &libc::flock) {
    // SAFETY: a descriptor that is open, and a pointer that is valid for the call.
    patiently("fcntl", || unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLKW, std::ptr::from_ref(lock)) });
}

/// A byte locked by an open file description: `F_OFD_SETLKW`.
pub struct OpenFileDescription(pub File);

impl OpenFileDescription {
    fn locked<R>(&self, kind: libc::c_int, critical: impl FnOnce() -> R) -> R {
        lock_byte(&self.0, &byte(0, kind));
        let result = critical();
        lock_byte(&self.0, &byte(0, libc::F_UNLCK));
        result
    }
}

impl Lock for OpenFileDescription {
    #[inline(always)]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        self.locked(libc::F_WRLCK, critical)
    }
}

impl ReadWrite for OpenFileDescription {
    #[inline(always)]
    fn read<R>(&self, critical: impl FnOnce() -> R) -> R {
        self.locked(libc::F_RDLCK, critical)
    }

    #[inline(always)]
    fn write<R>(&self, critical: impl FnOnce() -> R) -> R {
        self.locked(libc::F_WRLCK, critical)
    }
}

/// `flock(2)`, by way of fd-lock.
pub struct FdLock(RefCell<fd_lock::RwLock<File>>);

impl FdLock {
    pub fn new(file: File) -> Self {
        Self(fd_lock::RwLock::new(file).into())
    }
}

impl Lock for FdLock {
    #[inline(always)]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        let mut lock = self.0.borrow_mut();
        let _guard = lock.write().expect("fd-lock");
        critical()
    }
}

/// `flock(2)`, by way of named-lock: a file by its path, and a lock for the threads of a process around it.
pub struct Named(pub PathBuf);

impl Lock for named_lock::NamedLock {
    #[inline(always)]
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        let _guard = self.lock().expect("named-lock");
        critical()
    }
}

impl Shared for Named {
    fn here(&self) -> impl Lock {
        named_lock::NamedLock::with_path(&self.0).expect("a file")
    }
}

/// A file that each process opens for itself, and what it makes of it.
pub struct Opened<L>(PathBuf, fn(File) -> L);

impl<L> Opened<L> {
    pub fn new(path: impl AsRef<Path>, make: fn(File) -> L) -> Self {
        Self(path.as_ref().into(), make)
    }

    fn open(&self) -> L {
        let mut options = File::options();
        self.1(options.read(true).write(true).create(true).truncate(false).open(&self.0).expect("a file"))
    }
}

impl<L: Lock> Shared for Opened<L> {
    fn here(&self) -> impl Lock {
        self.open()
    }
}

impl<L: ReadWrite> SharedRw for Opened<L> {
    fn here(&self) -> impl ReadWrite {
        self.open()
    }
}
