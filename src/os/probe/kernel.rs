//! What the kernel answers when it is asked without a file.

use core::ptr::null;
use core::sync::atomic::AtomicU32;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::{fs, io};

use nix::errno::Errno;
use nix::sys::statvfs::fstatvfs;

use super::{PATIENCE, Tried};
use crate::os::clock::Monotonic;
use crate::os::futex::{self, Woken};
use crate::os::{fence, file, identity};

/// The inode of my pidfd; `None` where pidfds have none of their own.
pub(crate) fn pidfd() -> Result<Option<u64>, Errno> {
    identity::open_pidfd(std::process::id()).map(|fd| identity::pidfd_inode(&fd))
}

/// What `/proc` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proc {
    /// Processes of this PID namespace, and when they started.
    Shown,
    /// Those of this user only.
    OwnOnly,
    /// Those of another PID namespace.
    OfAnother,
    Nothing,
}

pub(crate) fn proc() -> Proc {
    if identity::start_time(std::process::id()).is_none() {
        return match fs::metadata("/proc/self/stat") {
            Ok(_) => Proc::OfAnother,
            Err(_) => Proc::Nothing,
        };
    }
    // The first process of a namespace is always there.
    if identity::start_time(1).is_some() { Proc::Shown } else { Proc::OwnOnly }
}

/// The inode of one of my namespaces.
pub(crate) fn namespace(kind: &str) -> Option<u64> {
    Some(identity::namespace(kind)).filter(|inode| *inode != 0)
}

pub(crate) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().into())
}

pub(crate) fn kernel() -> Result<String, Errno> {
    let name = nix::sys::utsname::uname()?;
    Ok(format!("{} {}", name.sysname().to_string_lossy(), name.release().to_string_lossy()))
}

/// Length of a robust list's head, and where words lie relative to their nodes; `None` if this thread has no list.
pub(crate) fn robust_list() -> Result<Option<(usize, libc::c_long)>, Errno> {
    #[repr(C)]
    struct Head {
        next: *const Head,
        futex_offset: libc::c_long,
        pending: *const Head,
    }
    let (mut head, mut len): (*const Head, usize) = (null(), 0);
    // SAFETY: 0 is this thread; both are written by the kernel, and are of the types it writes.
    Errno::result(unsafe { libc::syscall(libc::SYS_get_robust_list, 0, &raw mut head, &raw mut len) })?;
    if head.is_null() || len < size_of::<Head>() {
        return Ok(None);
    }
    // SAFETY: the C library registered it for this thread, for as long as the thread lives, with a length that covers the field.
    let offset = unsafe { (*head).futex_offset };
    Ok(Some((len, offset)))
}

/// Sleeping on several words.
pub(crate) fn futex_waitv() -> Tried {
    let (word, other) = (AtomicU32::new(7), AtomicU32::new(7));
    // It has another value, so it does not sleep.
    match futex::wait_any(&word, 7, &[(&other, 8)], Monotonic::now().saturating_add(PATIENCE)) {
        Woken::Changed => Tried::Works,
        Woken::Refused(errno) => errno.into(),
        _ => Tried::Wrong("it was woken from a word that has another value"),
    }
}

/// A fence in all processes that registered for it, as this one does.
pub(crate) fn membarrier() -> Tried {
    if fence::register() && fence::heavy() { Tried::Works } else { Errno::last().into() }
}

/// The magic number of the file system at `path`, and its name if it is a network's.
pub(crate) fn file_system(path: &Path) -> io::Result<(u64, Option<&'static str>)> {
    let directory = file::open_directory(path)?;
    Ok((file::type_of(&directory)?, file::network_file_system(&directory)?))
}

/// Room in the file system of `path`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room {
    /// The magic number of the file system.
    pub(crate) kind: u64,
    pub(crate) size: u64,
    pub(crate) available: u64,
    /// `None` where it does not count them.
    pub(crate) inodes: Option<u64>,
}

pub(crate) fn room(path: &Path) -> io::Result<Room> {
    let directory = file::open_directory(path)?;
    let stat = fstatvfs(&directory)?;
    Ok(Room {
        kind: file::type_of(&directory)?,
        size: stat.blocks() * stat.fragment_size(),
        available: stat.blocks_available() * stat.fragment_size(),
        inodes: (stat.files() != 0).then(|| stat.files_available()),
    })
}

/// How many descriptions hold a `flock` on the directory at `path`, as far as this PID namespace sees them. Asks the list of
/// locks: to try it would keep those out who are opening the space.
pub(crate) fn users_of(path: &Path) -> io::Result<usize> {
    let meta = fs::metadata(path)?;
    let device = meta.dev();
    let id = format!("{:02x}:{:02x}:{}", libc::major(device), libc::minor(device), meta.ino());
    let is_ours = |line: &&str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        words.next() == Some("FLOCK") && words.any(|word| word == id)
    };
    // The list is handed out by the page, and one that moved up to the page before meanwhile is not in it.
    let mut most = 0;
    for _ in 0..LOOKS {
        most = most.max(fs::read_to_string("/proc/locks")?.lines().filter(is_ours).count());
    }
    Ok(most)
}

const LOOKS: u32 = 10;
