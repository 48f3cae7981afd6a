//! Trying out what the locks stand on. Nothing here goes by version numbers: each call is made and its effect is looked for.
//!
//! What it needs for that are a [`Scratch`] in the directory in question, which is without a name before anything is tried on
//! it, and a child that a raw `clone` makes: no fork handlers run for it and no signal tells of its end, so that a program
//! which looks at itself in this way notices nothing.

mod kernel;
mod logind;

use core::sync::atomic::Ordering::SeqCst;
use core::sync::atomic::{AtomicU32, AtomicU64};
use std::cell::Cell;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fs2::FileExt;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, posix_fallocate, renameat2};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::byte_lock::{self, Presence};
use super::clock::Monotonic;
use super::file::{self, FileId};
use super::fork::{self, ForkWord};
use super::futex::{self, Woken};
use super::lock_file::KernelLocks;
use super::map::{Mapping, Table};

pub(crate) use kernel::*;
pub(crate) use logind::{AtLogout, at_logout};

/// What came of trying something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tried {
    Works,
    /// The call failed.
    Refused(Errno),
    /// The call succeeded and did something else.
    Wrong(&'static str),
    /// Something it needs was not to be had.
    Untried(String),
}

impl From<&io::Error> for Tried {
    fn from(e: &io::Error) -> Self {
        match e.raw_os_error() {
            Some(number) => Self::Refused(Errno::from_raw(number)),
            None => Self::Untried(e.to_string()),
        }
    }
}

impl From<io::Error> for Tried {
    fn from(e: io::Error) -> Self {
        Self::from(&e)
    }
}

impl From<Errno> for Tried {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

/// The end of a probe is the same on all ways: `?` for what fails on the way there.
fn tried(probe: impl FnOnce() -> Result<(), Tried>) -> Tried {
    probe().err().unwrap_or(Tried::Works)
}

fn expect(is_so: bool, otherwise: &'static str) -> Result<(), Tried> {
    if is_so { Ok(()) } else { Err(Tried::Wrong(otherwise)) }
}

const PAGE: usize = 4096;

/// No child waits longer for its parent, nor the other way round.
const PATIENCE: Duration = Duration::from_secs(5);

/// The byte that is kept locked by a mapping.
const PRESENCE: u64 = 3;

/// One at a time in a process: a child of one probe has copies of what another one has open.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file of one page and a directory, both without a name any more.
pub(crate) struct Scratch {
    /// Descriptions of the file.
    one: File,
    two: File,
    /// Keeps a byte of the file locked, until it is asked for.
    presence: Cell<Option<Result<Presence, Tried>>>,
    /// Two descriptions of the directory.
    directories: [File; 2],
    pub(crate) renamed: Tried,
    pub(crate) allocated: Tried,
}

/// Names that are removed on every way out.
struct Names(PathBuf);

impl Names {
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        for name in ["one", "two", "three"] {
            let _ = fs::remove_file(self.path(name));
        }
        let _ = fs::remove_dir(&self.0);
    }
}

impl Scratch {
    /// Makes them in `root`. A space's name cannot begin with a dot, so this is never in the way of one.
    pub(crate) fn new(root: &Path) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, SeqCst);
        let path = root.join(format!(".hostlock-doctor.{}.{count}", std::process::id()));
        DirBuilder::new().mode(0o700).create(&path)?;
        let names = Names(path);
        let (first, second) = (names.path("one"), names.path("two"));
        let directories = [file::open_directory(&names.0)?, file::open_directory(&names.0)?];
        let one = file::create_new(&first)?;
        let two = file::open_existing(&first)?;
        let presence = Cell::new(Some(Self::presence(&first)));
        file::create_new(&second)?;
        let rename = |to: &Path| renameat2(AT_FDCWD, &first, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE);
        let renamed = tried(|| {
            match rename(&second) {
                Err(Errno::EEXIST) => {}
                result => result.map_err(Tried::from).and(Err(Tried::Wrong("it replaced a file that was there")))?,
            }
            Ok(rename(&names.path("three"))?)
        });
        let allocated = tried(|| {
            posix_fallocate(&one, 0, PAGE as libc::off_t)?;
            expect(one.metadata()?.blocks() > 0, "it says so and allocates nothing")
        });
        Ok(Self { one, two, presence, directories, renamed, allocated })
    }

    fn presence(path: &Path) -> Result<Presence, Tried> {
        // A child made between the two would keep a copy of the description.
        let _not_now = fork::NOT_NOW.lock();
        let file = file::open_existing(path)?;
        byte_lock::try_lock(&file, PRESENCE)?;
        Ok(Presence::keep(file)?)
    }

    /// A word of the file, mapped once more.
    fn word(&self) -> Result<Table<AtomicU64>, Tried> {
        // A page that is not allocated may be SIGBUS to touch.
        if self.allocated != Tried::Works {
            return Err(Tried::Untried("no page of a file could be allocated".into()));
        }
        let map: Arc<Mapping> = Mapping::new(&self.one, PAGE)?;
        map.table(64, 1).ok_or(Tried::Wrong("a page is smaller than 4096 bytes"))
    }

    /// Two mappings, and another process, see each other's stores.
    pub(crate) fn shared_mapping(&self) -> Tried {
        tried(|| {
            let (mine, again) = (self.word()?, self.word()?);
            mine[0].store(7, SeqCst);
            expect(again[0].load(SeqCst) == 7, "two mappings of a file do not see each other's stores")?;
            let child = || {
                let seen = mine[0].load(SeqCst);
                mine[0].store(8, SeqCst);
                if seen == 7 { 0 } else { 1 }
            };
            // SAFETY: loads and stores.
            let ((), code) = unsafe { with_child(child, || ()) }?;
            expect(code == 0 && again[0].load(SeqCst) == 8, "two processes do not see each other's stores")
        })
    }

    /// A process that sleeps is woken by another one, through another mapping of the file.
    pub(crate) fn futex(&self) -> Tried {
        tried(|| {
            let (mine, again) = (self.word()?, self.word()?);
            mine[0].store(7, SeqCst);
            let until = Monotonic::now().saturating_add(PATIENCE);
            // Does not sleep, whatever it answers.
            match futex::wait(&mine[0], 8, until) {
                Woken::Changed => {}
                Woken::Refused(errno) => return Err(errno.into()),
                _ => return Err(Tried::Wrong("it sleeps on a word that has another value")),
            }
            let child = || loop {
                match futex::wait(&mine[0], 7, until) {
                    Woken::Signal => {}
                    Woken::Called => break 0,
                    _ => break 1,
                }
            };
            let wake = || {
                while Monotonic::now() < until {
                    if futex::wake(&again[0], 1) == 1 {
                        return true;
                    }
                    std::thread::sleep(Duration::from_micros(200));
                }
                false
            };
            // SAFETY: the child makes one system call with what was made before.
            let (woke, code) = unsafe { with_child(child, wake) }?;
            expect(woke && code == 0, "a process that sleeps on a shared word is not woken by another")
        })
    }

    /// The lock of one description keeps another one out, on its byte and for as long as it is held.
    pub(crate) fn byte_lock(&self) -> Tried {
        tried(|| {
            let _not_now = fork::NOT_NOW.lock();
            expect(byte_lock::try_lock(&self.one, 1)?, "a byte that nobody locked is taken")?;
            let excludes = byte_lock::is_locked(self.two.as_fd(), 1)? && !byte_lock::try_lock(&self.two, 1)?;
            expect(excludes, "two descriptions have the same byte locked")?;
            expect(!byte_lock::is_locked(self.two.as_fd(), 2)?, "it locks other bytes as well")?;
            byte_lock::unlock(&self.one, 1)?;
            expect(byte_lock::try_lock(&self.two, 1)?, "a byte that was let go of stays locked")?;
            Ok(byte_lock::unlock(&self.two, 1)?)
        })
    }

    /// The lock of one description of a file keeps others out.
    pub(crate) fn file_lock(&self) -> Tried {
        exclude(&self.one, &self.two)
    }

    /// A lock is on the kernel's list, under the number of its file.
    pub(crate) fn listed(&self) -> Tried {
        tried(|| {
            let _not_now = fork::NOT_NOW.lock();
            FileExt::try_lock_exclusive(&self.one)?;
            let locks = KernelLocks::read();
            let id = FileId::of_file(&self.one)?;
            FileExt::unlock(&self.one)?;
            let me = std::process::id();
            expect(
                locks?.of(id).any(|lock| lock.pid == me),
                "a file that is locked is not on the kernel's list, or under another number",
            )
        })
    }

    /// The lock of one description of a directory keeps others out.
    pub(crate) fn directory_lock(&self) -> Tried {
        let [one, two] = &self.directories;
        exclude(one, two)
    }

    /// A lock that is kept by a mapping alone goes with the mapping, while a child that was made meanwhile lives.
    pub(crate) fn kept_by_a_mapping(&self) -> Tried {
        tried(|| {
            let go = self.word()?;
            go[0].store(0, SeqCst);
            let presence = self.presence.take().ok_or(Tried::Untried("it was tried before".into()))??;
            let other = self.two.as_fd();
            let kept = byte_lock::is_locked(other, PRESENCE)?;
            let until = Monotonic::now().saturating_add(PATIENCE);
            let child = || {
                while go[0].load(SeqCst) == 0 && Monotonic::now() < until {
                    std::thread::sleep(Duration::from_micros(200));
                }
                0
            };
            let let_go = || {
                drop(presence);
                let locked = byte_lock::is_locked(other, PRESENCE);
                go[0].store(1, SeqCst);
                locked
            };
            // SAFETY: the child loads a word, reads the clock and sleeps.
            let (still, _) = unsafe { with_child(child, let_go) }?;
            expect(kept, "the lock goes when the descriptor is closed, although its file is mapped")?;
            expect(!still?, "a child keeps the lock although it does not inherit the mapping")
        })
    }
}

/// Two descriptions exclude each other by `flock`, unless both share.
fn exclude(one: &File, two: &File) -> Tried {
    tried(|| {
        let _not_now = fork::NOT_NOW.lock();
        FileExt::try_lock_exclusive(one)?;
        match FileExt::try_lock_shared(two) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            result => result.map_err(Tried::from).and(Err(Tried::Wrong("it keeps nobody out")))?,
        }
        FileExt::unlock(one)?;
        FileExt::try_lock_shared(two)?;
        FileExt::try_lock_shared(one)?;
        FileExt::unlock(one)?;
        Ok(FileExt::unlock(two)?)
    })
}

/// What the kernel wipes in a child is wiped in a child.
pub(crate) fn wiped_in_a_child() -> Tried {
    tried(|| {
        let word = ForkWord::new()?;
        word.set(7);
        // SAFETY: one load.
        let ((), code) = unsafe { with_child(|| word.get() as u8, || ()) }?;
        expect(code == 0 && word.get() == 7, "a child finds what should have been wiped")
    })
}

/// Runs `child` in a copy of this process, of this thread alone, and `meanwhile` in this one; what the two answered.
///
/// # Safety
/// `child` is async-signal-safe: it does not allocate, panic, or touch what other threads may have locked.
unsafe fn with_child<T>(child: impl FnOnce() -> u8, meanwhile: impl FnOnce() -> T) -> Result<(T, u8), Tried> {
    let none = |errno: Errno| Tried::Untried(format!("no child process can be made: {errno:?}"));
    // SAFETY: with all arguments 0 it is a `fork` whose end sends no signal. The child runs on a copy of this stack, calls what
    // the caller vouches for, and ends without coming back.
    let pid = unsafe {
        let pid = Errno::result(libc::syscall(libc::SYS_clone, 0, 0, 0, 0, 0)).map_err(none)?;
        if pid == 0 {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            let code = child();
            loop {
                libc::syscall(libc::SYS_exit_group, libc::c_int::from(code));
            }
        }
        Pid::from_raw(pid as libc::pid_t)
    };
    let result = meanwhile();
    loop {
        // Without a signal at its end, nobody who waits for just any child gets this one.
        match waitpid(pid, Some(WaitPidFlag::__WALL)) {
            Err(Errno::EINTR) => {}
            Ok(WaitStatus::Exited(_, code)) => return Ok((result, code as u8)),
            Ok(status) => return Err(Tried::Untried(format!("the child process ended otherwise: {status:?}"))),
            Err(errno) => return Err(Tried::Untried(format!("the child process cannot be waited for: {errno:?}"))),
        }
    }
}
