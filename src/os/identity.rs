//! What tells a process from every other one, as far as the kernel says.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::sys::stat::fstat;

/// What is recorded of a process. 0 in any field but `pid` means "not known", and is never compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    /// The inode of its pidfd: never used twice while the machine is up (Linux 6.9).
    pub(crate) pid_inode: u64,
    /// In clock ticks after boot, of the observer's time namespace.
    pub(crate) start_time: u64,
    pub(crate) pid_namespace: u64,
    pub(crate) time_namespace: u64,
    /// A digest of the kernel's boot id.
    pub(crate) boot: u64,
}

/// The largest PID Linux can give (`PID_MAX_LIMIT`).
const MAX_PID: u32 = 1 << 22;

impl Identity {
    pub(crate) fn mine() -> Self {
        let pid = std::process::id();
        Self {
            pid,
            pid_inode: open_pidfd(pid).ok().and_then(|fd| pidfd_inode(&fd)).unwrap_or(0),
            start_time: start_time_in("self").unwrap_or(0),
            pid_namespace: namespace("pid"),
            time_namespace: namespace("time"),
            boot: boot(),
        }
    }

    /// Whether `pid` can be one. Anything else from shared memory must not reach a system call: 0 and -1 mean "everybody".
    pub(crate) fn has_valid_pid(&self) -> bool {
        (1..=MAX_PID).contains(&self.pid)
    }
}

/// A descriptor for the process `pid`, in my PID namespace. nix has no `pidfd_open`.
pub(crate) fn open_pidfd(pid: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers. The result is a new descriptor, which nobody else owns.
    unsafe {
        let fd = Errno::result(libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0))?;
        Ok(OwnedFd::from_raw_fd(fd as libc::c_int))
    }
}

/// The inode of a pidfd, where the kernel gives each process one of its own.
pub(crate) fn pidfd_inode(fd: &OwnedFd) -> Option<u64> {
    const PIDFS_MAGIC: u64 = 0x5049_4446;
    let mut stat = core::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open, the buffer is of the right type, and it is read only after success. (nix's own
    // `fstatfs` has no name for this type of file system.)
    let kind = unsafe {
        Errno::result(libc::fstatfs(fd.as_fd().as_raw_fd(), stat.as_mut_ptr())).ok()?;
        stat.assume_init().f_type
    };
    // Before Linux 6.9 all pidfds share one anonymous inode, which tells nothing.
    if kind as u64 != PIDFS_MAGIC {
        return None;
    }
    Some(fstat(fd).ok()?.st_ino)
}

/// When the process `pid` of my PID namespace started. `None` tells nothing: `/proc` may be hidden, or be that of another
/// namespace, where the number is somebody else's.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    // My PIDs, from the namespace that this /proc shows down to mine: one if that is the same.
    let mut pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_ascii_whitespace();
    match (pids.next(), pids.next()) {
        (Some(_), None) => start_time_in(&pid.to_string()),
        _ => None,
    }
}

/// Field 22 of `/proc/PID/stat`.
fn start_time_in(process: &str) -> Option<u64> {
    let stat = String::from_utf8(read(&format!("/proc/{process}/stat")).ok()?).ok()?;
    // The command stands in parentheses and may hold anything, so count from the last one.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// What the kernel has in a short file, in one piece if it fits: `fs::read` asks for its length first, and then for one small piece after another.
fn read(path: &str) -> io::Result<Vec<u8>> {
    let mut piece = [0; 1024];
    match fs::File::open(path)?.read(&mut piece) {
        Ok(length) if length < piece.len() => Ok(piece[..length].to_vec()),
        _ => fs::read(path),
    }
}

/// The inode of one of my namespaces; 0 where it cannot be told.
pub(crate) fn namespace(kind: &str) -> u64 {
    fs::metadata(format!("/proc/self/ns/{kind}")).map_or(0, |meta| meta.ino())
}

fn boot() -> u64 {
    read("/proc/sys/kernel/random/boot_id").map_or(0, |id| crate::digest::fnv1a(&id))
}

/// How many bytes of a command's name are kept.
pub(crate) const COMMAND_LEN: usize = 32;

/// The name of the running program: the last part of its first argument, cut to [`COMMAND_LEN`] bytes.
pub(crate) fn command() -> [u8; COMMAND_LEN] {
    let name = std::env::args_os()
        .next()
        .as_deref()
        .and_then(|arg| std::path::Path::new(arg).file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let name = cut(&name);
    let mut command = [0; COMMAND_LEN];
    command[..name.len()].copy_from_slice(name.as_bytes());
    command
}

/// The name of the program that the process `pid` of my PID namespace runs, if `/proc` says.
pub(crate) fn command_of(pid: u32) -> Option<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let first = line.split(|byte| *byte == 0).next()?;
    let name = std::path::Path::new(std::str::from_utf8(first).ok()?).file_name()?.to_string_lossy().into_owned();
    Some(cut(&name).into())
}

/// How many threads the process `pid` of my PID namespace has, if `/proc` says.
pub(crate) fn threads_of(pid: u32) -> Option<usize> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the command, which stands in parentheses and may hold anything: the state is the third field, this the twentieth.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(17)?.parse().ok()
}

/// As much of a command's name as is kept.
pub(crate) fn cut(name: &str) -> &str {
    let mut end = name.len().min(COMMAND_LEN);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i_am_who_i_was() {
        assert_eq!(Identity::mine(), Identity::mine());
        assert_eq!(Identity::mine().pid, std::process::id());
        assert_ne!(Identity::mine().start_time, 0);
        assert_ne!(Identity::mine().pid_namespace, 0);
        // Other tests come and go.
        assert!(threads_of(std::process::id()).is_some_and(|threads| threads > 0));
    }

    #[test]
    fn hostile_pids_are_not_pids() {
        for pid in [0, u32::MAX, 1 << 31, i32::MAX as u32, MAX_PID + 1] {
            assert!(!Identity { pid, ..Identity::mine() }.has_valid_pid(), "{pid}");
        }
        assert!(Identity { pid: 1, ..Identity::mine() }.has_valid_pid());
    }

    #[test]
    fn the_command_is_this_test() {
        let command = command();
        let name = std::str::from_utf8(&command).unwrap().trim_end_matches('\0');
        assert!(name.starts_with("hostlock"), "{name:?}");
    }
}
