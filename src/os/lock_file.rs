//! A file to be locked by `flock`, and what the kernel says of such locks.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::errno::Errno;
use nix::sys::stat::fstat;

use super::file::{self, FileId, KeptFile};
use super::fork::{ForkWord, Guarded};

/// A description of a lock file that is this process's alone. A forked child closes its copies before it does anything else: whatever is done to a
/// copy is done to the parent's, and one that is left open keeps the lock when the parent dies. A program that closes all descriptors behind our
/// back loses the lock, which is found out before anything else is done.
#[derive(Debug)]
pub(crate) struct LockFile {
    file: ManuallyDrop<File>,
    id: FileId,
    process: u64,
    /// The description's position, which nobody moves: asking for it is the cheapest way to see whether a descriptor is still what it was.
    mark: u64,
}

/// Positions that nobody else is at, on any file system.
fn new_mark() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    const PRIME: u64 = 0x9E37_79B1;
    let number = LAST.fetch_add(1, Relaxed) + u64::from(std::process::id());
    1 << 29 | number.wrapping_mul(PRIME) & ((1 << 29) - 1)
}

/// The descriptors of all lock files of this process: none is opened or closed in the middle of a fork.
static OPEN: Guarded<Vec<(i32, FileId)>> = Guarded::new(Vec::new());

/// To be called before a fork, after all that holds locks while it opens lock files.
pub(crate) fn before_fork() {
    OPEN.before_fork();
}

/// To be called after a fork, in the parent and in the child.
pub(crate) fn after_fork() {
    OPEN.after_fork();
}

/// Closes the copies that a child got. To be called in the child, before [`after_fork`].
pub(crate) fn in_forked_child() {
    OPEN.with_held(|open| {
        for (descriptor, id) in open.drain(..) {
            let mut stat = core::mem::MaybeUninit::<libc::stat>::uninit();
            // SAFETY: these are async-signal-safe, and given a descriptor and a buffer, which is read only after success. The copy is this child's,
            // and nothing in it uses it: a `LockFile` of its parent's is left alone.
            unsafe {
                if libc::fstat(descriptor, stat.as_mut_ptr()) == 0 && FileId::of(stat.assume_init_ref()) == id {
                    libc::close(descriptor);
                }
            }
        }
    });
}

/// How a lock file is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Shared,
    Exclusive,
}

impl LockFile {
    /// Opens a file, as [`file::open_existing`] does.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::made_by(|| file::open_existing(path))
    }

    /// Of a file that `open` opens: no fork comes in between.
    pub(crate) fn made_by(open: impl FnOnce() -> io::Result<File>) -> io::Result<Self> {
        let process = process()?;
        let mut all = OPEN.lock();
        let file = open()?;
        let id = FileId::of(&fstat(&file)?);
        let mark = new_mark();
        // What has no position is not a file, which the caller finds out.
        let _ = (&file).seek(SeekFrom::Start(mark));
        all.push((file.as_raw_fd(), id));
        Ok(Self { file: ManuallyDrop::new(file), id, process, mark })
    }

    #[inline]
    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    /// For looking at it.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Whether this process opened it, and nobody closed it since.
    #[inline]
    pub(crate) fn is_ours(&self) -> bool {
        self.is_of_this_process() && (self.is_at_mark() || self.is_same_file())
    }

    #[inline]
    fn is_at_mark(&self) -> bool {
        (&*self.file).stream_position().is_ok_and(|position| position == self.mark)
    }

    /// For what was handed to a child that moved it.
    #[cold]
    fn is_same_file(&self) -> bool {
        file::is_still(self.file.as_fd(), self.id)
    }

    #[inline]
    pub(crate) fn is_of_this_process(&self) -> bool {
        process().is_ok_and(|process| process == self.process)
    }

    /// Locks it if that is possible now.
    #[inline]
    pub(crate) fn try_lock(&self, mode: Mode) -> io::Result<bool> {
        if !self.is_ours() {
            return Err(Errno::EBADF.into());
        }
        loop {
            let locked = match mode {
                Mode::Shared => fs2::FileExt::try_lock_shared(&*self.file),
                Mode::Exclusive => fs2::FileExt::try_lock_exclusive(&*self.file),
            };
            match locked {
                Ok(()) => return Ok(true),
                Err(e) if e.raw_os_error() == fs2::lock_contended_error().raw_os_error() => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Unlocks it, for all who have this description, after `before`, unless it is not ours: in a forked child.
    #[inline]
    pub(crate) fn unlock_after(&self, before: impl FnOnce()) -> bool {
        if !self.is_ours() {
            return false;
        }
        before();
        fs2::FileExt::unlock(&*self.file).is_ok()
    }

    pub(crate) fn unlock(&self) -> bool {
        self.unlock_after(|| ())
    }

    /// Lets what `command` starts have the lock as well, for as long as any of them lives.
    ///
    /// By a copy of the descriptor, which lives as long as `command`: a child that is forked meanwhile and starts nothing keeps it, too.
    pub(crate) fn pass_on(&self, command: &mut Command) -> io::Result<()> {
        if !self.is_ours() {
            return Err(Errno::EBADF.into());
        }
        file::hand_over(KeptFile::new(self.file.try_clone()?)?, command);
        Ok(())
    }
}

impl Drop for LockFile {
    fn drop(&mut self) {
        if !self.is_of_this_process() {
            return;
        }
        let mut all = OPEN.lock();
        let descriptor = self.file.as_raw_fd();
        if let Some(at) = all.iter().position(|open| *open == (descriptor, self.id)) {
            all.swap_remove(at);
        }
        if self.is_at_mark() || self.is_same_file() {
            // SAFETY: this is the only place that takes it, and the value is not used after `drop`.
            drop(unsafe { ManuallyDrop::take(&mut self.file) });
        }
    }
}

/// A number that this process has and none that it was forked from.
#[inline]
pub(crate) fn process() -> io::Result<u64> {
    static WORD: OnceLock<ForkWord> = OnceLock::new();
    // Copied by a fork, so a child goes on where its parent was.
    static LAST: AtomicU64 = AtomicU64::new(0);
    let word = match WORD.get() {
        Some(word) => word,
        None => {
            let word = ForkWord::new()?;
            WORD.get_or_init(|| word)
        }
    };
    Ok(match word.get() {
        0 => word.set_once(LAST.fetch_add(1, Relaxed) + 1),
        known => known,
    })
}

/// A lock by `flock`, as the kernel lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KernelLock {
    pub(crate) file: FileId,
    /// Who took it, in the observer's PID namespace; it may have died, and left it to a child.
    pub(crate) pid: u32,
    pub(crate) mode: Mode,
}

/// The locks by `flock` that the kernel lists: those of other PID namespaces it may keep to itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct KernelLocks {
    locks: Vec<KernelLock>,
    /// It was read at once, and so is what was there at one moment. The kernel gives a page at a time, and goes on by counting: what comes
    /// after one that went in between is skipped.
    at_once: bool,
}

impl KernelLocks {
    pub(crate) fn read() -> io::Result<Self> {
        let mut file = File::open("/proc/locks")?;
        let (mut text, mut reads) = (Vec::new(), 0);
        let mut bytes = vec![0; 1 << 16];
        loop {
            match file.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => {
                    text.extend_from_slice(&bytes[..count]);
                    reads += 1;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Self { locks: parse(&String::from_utf8_lossy(&text)), at_once: reads <= 1 })
    }

    pub(crate) fn of(&self, file: FileId) -> impl Iterator<Item = &KernelLock> {
        self.locks.iter().filter(move |lock| lock.file == file)
    }
}

/// What the kernel's list says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sought {
    /// Somebody has it locked.
    Found,
    /// Nobody was seen to have it locked.
    NotSeen,
    /// Nobody has it locked: the list is of all locks, and was read at once.
    NotThere,
}

/// Whether somebody has `file` locked.
///
/// Some file systems list their files under other numbers. So `witness`, of the same one, which this process has locked, is looked for as well.
pub(crate) fn seek(file: FileId, witness: FileId) -> io::Result<Sought> {
    const TIMES: u32 = 16;
    let me = std::process::id();
    for _ in 0..TIMES {
        let locks = KernelLocks::read()?;
        if locks.of(file).next().is_some() {
            return Ok(Sought::Found);
        }
        if locks.at_once && sees_all_locks() && locks.of(witness).any(|lock| lock.pid == me) {
            return Ok(Sought::NotThere);
        }
    }
    Ok(Sought::NotSeen)
}

/// Whether the kernel lists all locks there are to this process: it is in the first PID namespace.
pub(crate) fn sees_all_locks() -> bool {
    const FIRST: u64 = 0xEFFF_FFFC;
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self/ns/pid").is_ok_and(|meta| meta.ino() == FIRST) && Path::new("/proc/locks").exists()
}

/// `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`; a line with `->` is of somebody who waits.
fn parse(text: &str) -> Vec<KernelLock> {
    let one = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        if fields.next()? != "FLOCK" {
            return None;
        }
        let mode = match fields.nth(1)? {
            "READ" => Mode::Shared,
            "WRITE" => Mode::Exclusive,
            _ => return None,
        };
        let pid = fields.next()?.parse().unwrap_or(0);
        let mut place = fields.next()?.split(':');
        let (major, minor) = (place.next()?, place.next()?);
        let device =
            nix::sys::stat::makedev(u64::from_str_radix(major, 16).ok()?, u64::from_str_radix(minor, 16).ok()?);
        let file = FileId::new(device, place.next()?.parse().ok()?);
        Some(KernelLock { file, pid, mode })
    };
    text.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> LockFile {
        LockFile::open(path).unwrap()
    }

    #[test]
    fn descriptions_exclude_each_other_and_the_kernel_lists_them() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let (one, two) = (open(path.path()), open(path.path()));
        assert!(one.try_lock(Mode::Exclusive).unwrap());
        assert!(!two.try_lock(Mode::Shared).unwrap());
        if sees_all_locks() {
            let mine = KernelLock { file: one.id(), pid: std::process::id(), mode: Mode::Exclusive };
            assert_eq!(KernelLocks::read().unwrap().of(one.id()).collect::<Vec<_>>(), [&mine]);
            assert_eq!(seek(one.id(), one.id()).unwrap(), Sought::Found);
            let free = open(tempfile::NamedTempFile::new_in(path.path().parent().unwrap()).unwrap().path());
            assert_ne!(seek(free.id(), one.id()).unwrap(), Sought::Found);
            assert_eq!(seek(free.id(), free.id()).unwrap(), Sought::NotSeen, "one that is not locked is no witness");
        }
        assert!(one.unlock());
        assert!(two.try_lock(Mode::Shared).unwrap() && one.try_lock(Mode::Shared).unwrap());
    }

    #[test]
    fn the_kernels_lines_are_read() {
        let text = "1: POSIX  ADVISORY  WRITE 7 08:01:99 0 EOF\n2: FLOCK  ADVISORY  WRITE 8 08:01:99 0 EOF\n\
                    2: -> FLOCK  ADVISORY  WRITE 9 08:01:99 0 EOF\n3: FLOCK  ADVISORY  READ 10 00:1a:99 0 EOF\n4: nonsense\n";
        let file = |minor, inode| FileId::new(nix::sys::stat::makedev(if minor == 1 { 8 } else { 0 }, minor), inode);
        let expected = [
            KernelLock { file: file(1, 99), pid: 8, mode: Mode::Exclusive },
            KernelLock { file: file(0x1a, 99), pid: 10, mode: Mode::Shared },
        ];
        assert_eq!(parse(text), expected);
    }
}
