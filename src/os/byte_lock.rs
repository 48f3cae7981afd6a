//! Open-file-description locks on single bytes of a file (`F_OFD_SETLK`).
//!
//! They belong to the open file description, not to the process: closing *another* descriptor of the same file does not lose
//! them (POSIX record locks do that), and they go when the last reference to the description goes, however the process ended.
//! Two descriptions exclude each other also within one process.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};

use core::ffi::c_void;
use core::num::NonZeroUsize;
use core::ptr::NonNull;

fn flock(kind: libc::c_int, byte: u64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte as libc::off_t,
        l_len: 1,
        // Must be 0 for locks of an open file description.
        l_pid: 0,
    }
}

/// Locks `byte` for the description behind `file`, without waiting. `false` if another one has it.
pub(crate) fn try_lock(file: &File, byte: u64) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&flock(libc::F_WRLCK, byte))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether any description but this one has `byte` locked.
pub(crate) fn is_locked(file: BorrowedFd<'_>, byte: u64) -> io::Result<bool> {
    let mut query = flock(libc::F_WRLCK, byte);
    fcntl(file.as_fd(), FcntlArg::F_OFD_GETLK(&mut query))?;
    Ok(query.l_type != libc::F_UNLCK as libc::c_short)
}

/// Gives `byte` back, for everybody who shares the description behind `file`.
pub(crate) fn unlock(file: impl AsFd, byte: u64) -> io::Result<()> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&flock(libc::F_UNLCK, byte)))?;
    Ok(())
}

/// A byte lock that is held for as long as this process runs this program.
///
/// Its description is kept open by a mapping of one inaccessible page and by no descriptor. So it survives a program that
/// closes all its descriptors, is not inherited by a child (`MADV_DONTFORK`), and goes at exec, exit and kill.
#[derive(Debug)]
pub(crate) struct Presence(NonNull<c_void>);

// SAFETY: the page is never read or written, by any thread.
unsafe impl Send for Presence {}

const PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

impl Presence {
    /// Keeps the locks that the description behind `file` holds. Nobody else may have a descriptor of it.
    pub(crate) fn keep(file: File) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice, never accessed.
        let page = unsafe { mmap(None, PAGE, ProtFlags::PROT_NONE, MapFlags::MAP_SHARED, &file, 0)? };
        let presence = Self(page);
        // SAFETY: the page was mapped above with this length and nothing refers to it.
        unsafe { madvise(page, PAGE.get(), MmapAdvise::MADV_DONTFORK)? };
        Ok(presence)
    }

    /// Forgets the mapping without touching the address, which in a forked child may be anybody's.
    pub(crate) fn forget(self) {
        core::mem::forget(self);
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // SAFETY: mapped in `keep` with this length; nothing refers to it. It cannot fail for such a range.
        let _ = unsafe { munmap(self.0, PAGE.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &std::path::Path) -> File {
        File::options().read(true).write(true).open(path).unwrap()
    }

    #[test]
    fn unlocking_in_so_many_words_ends_it_for_all_copies() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        let (mine, other) = (open(temp.path()), open(temp.path()));
        let copy = mine.try_clone().unwrap();
        assert!(try_lock(&mine, 7).unwrap());
        unlock(&mine, 7).unwrap();
        assert!(!is_locked(other.as_fd(), 7).unwrap());
        drop(copy);
    }

    #[test]
    fn a_kept_lock_outlives_every_descriptor_and_goes_with_the_mapping() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        temp.as_file().set_len(4096).unwrap();
        let (mine, other) = (open(temp.path()), open(temp.path()));
        assert!(try_lock(&mine, 7).unwrap());
        let presence = Presence::keep(mine).unwrap();
        drop(open(temp.path()));
        assert!(is_locked(other.as_fd(), 7).unwrap());
        assert!(!try_lock(&other, 7).unwrap());
        assert!(!is_locked(other.as_fd(), 8).unwrap());
        drop(presence);
        assert!(!is_locked(other.as_fd(), 7).unwrap());
        assert!(try_lock(&other, 7).unwrap());
    }
}
