//! Files and directories, opened without being fooled by what somebody put in their place.

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open, openat, posix_fallocate};
use nix::sys::stat::{FileStat, Mode, fstat, stat};

/// Which file, whatever its name is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(crate) fn new(device: u64, inode: u64) -> Self {
        Self { device, inode }
    }

    pub(crate) fn device(self) -> u64 {
        self.device
    }

    pub(crate) fn inode(self) -> u64 {
        self.inode
    }

    pub(crate) fn of(stat: &FileStat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }

    /// An open file's.
    pub(crate) fn of_file(file: &File) -> io::Result<Self> {
        Ok(Self::of(&fstat(file)?))
    }

    /// Whether `path` does not lead to this file any more. What cannot be looked at is not gone.
    pub(crate) fn has_left(self, path: &Path) -> bool {
        match Self::at(path) {
            Ok(now) => now != self,
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        }
    }

    /// The file that `path` leads to now.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        Ok(Self::of(&stat(path)?))
    }
}

const NEVER_FOOLED: OFlag = OFlag::O_CLOEXEC.union(OFlag::O_NOFOLLOW).union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY);

/// Gives a file that mode, whatever the umask, and the owner and the group of the one at `like`, if they are others.
pub(crate) fn share_as(file: &File, like: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    let (mine, its) = (file.metadata()?, std::fs::metadata(like)?);
    if mine.gid() != its.gid() {
        fchown(file, None, Some(its.gid()))?;
    }
    if mine.uid() != its.uid() {
        // Only root can, and among users that share a space it is as good without.
        let _ = fchown(file, Some(its.uid()), None);
    }
    file.set_permissions(std::fs::Permissions::from_mode(mode))
}

/// Opens an existing directory. A symbolic link in its place is an error.
pub(crate) fn open_directory(path: &Path) -> io::Result<File> {
    Ok(open(path, NEVER_FOOLED | OFlag::O_DIRECTORY | OFlag::O_RDONLY, Mode::empty())?.into())
}

/// Opens an existing file for reading and writing. A symbolic link in its place is an error; a FIFO or a device does not
/// block, and is for the caller to look at.
pub(crate) fn open_existing(path: &Path) -> io::Result<File> {
    Ok(open(path, NEVER_FOOLED | OFlag::O_RDWR, Mode::empty())?.into())
}

/// The same, for reading only.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    Ok(open(path, NEVER_FOOLED | OFlag::O_RDONLY, Mode::empty())?.into())
}

/// Creates a file that was not there.
pub(crate) fn create_new(path: &Path) -> io::Result<File> {
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    Ok(open(path, NEVER_FOOLED | OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL, mode)?.into())
}

/// The same in a directory that is open, whatever stands where it was found.
pub(crate) fn create_new_in(directory: &File, name: &str) -> io::Result<File> {
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    Ok(openat(directory, name, NEVER_FOOLED | OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL, mode)?.into())
}

/// Really allocates so many bytes of `file`: a full tmpfs is an error now and not a SIGBUS later. (fs2's `allocate` reports it as success.)
pub(crate) fn allocate(file: BorrowedFd<'_>, offset: u64, size: u64) -> io::Result<()> {
    loop {
        match posix_fallocate(file, offset as libc::off_t, size as libc::off_t) {
            Err(Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Whether a descriptor is of that file. If the kernel does not say, it is asked once more: of an open file it says so, unless a signal or want
/// of memory came in between. What cannot be told then is not ours: to close what is somebody else's is worse than to leave ours open.
pub(super) fn is_still(fd: BorrowedFd<'_>, id: FileId) -> bool {
    match fstat(fd).or_else(|e| if e == Errno::EBADF { Err(e) } else { fstat(fd) }) {
        Ok(stat) => FileId::of(&stat) == id,
        Err(_) => false,
    }
}

/// A descriptor kept open for later, in a program that may close all descriptors behind our back: it is used, and closed, only
/// while it still is what it was.
#[derive(Debug)]
pub(crate) struct KeptFile {
    fd: ManuallyDrop<OwnedFd>,
    id: FileId,
}

impl KeptFile {
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let id = FileId::of(&fstat(&file)?);
        Ok(Self { fd: ManuallyDrop::new(file.into()), id })
    }

    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    fn number(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    /// The descriptor, unless somebody closed it.
    pub(crate) fn get(&self) -> Option<BorrowedFd<'_>> {
        is_still(self.fd.as_fd(), self.id).then(|| self.fd.as_fd())
    }
}

impl Drop for KeptFile {
    fn drop(&mut self) {
        if self.get().is_some() {
            // SAFETY: this is the only place that takes it, and the value is not used after `drop`.
            drop(unsafe { ManuallyDrop::take(&mut self.fd) });
        }
    }
}

/// Lets the process that `command` starts inherit a copy of `file`, unless somebody closed it meanwhile.
pub(crate) fn pass_on(file: &KeptFile, command: &mut Command) {
    let (id, fd) = (file.id, file.fd.as_raw_fd());
    // SAFETY: it is async-signal-safe.
    unsafe { command.pre_exec(move || keep_open(fd, id)) };
}

/// The same of a file that is open for as long as `command` is there.
pub(crate) fn hand_over(file: KeptFile, command: &mut Command) {
    // SAFETY: as above.
    unsafe { command.pre_exec(move || keep_open(file.number(), file.id())) };
}

/// Leaves a descriptor open for the program that is started next. Async-signal-safe, and allocates nothing.
fn keep_open(fd: i32, id: FileId) -> io::Result<()> {
    // SAFETY: only looked at, and only if it is the file that it was.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    if is_still(fd, id) {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    Ok(())
}

/// Gives a `flock` back, for everybody who shares the description. What fails ends with the last copy.
pub(crate) fn unlock(file: &KeptFile) {
    if let Some(copy) = file.get().and_then(|fd| fd.try_clone_to_owned().ok()) {
        let _ = fs2::FileExt::unlock(&File::from(copy));
    }
}

/// The magic number of a file's file system. (nix hands the type out as a value that cannot be compared with numbers it has no
/// name for.)
pub(crate) fn type_of(file: impl AsFd) -> io::Result<u64> {
    let mut stat = core::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the descriptor is open, the buffer is of the right type, and it is read only after success.
    let kind = unsafe {
        Errno::result(libc::fstatfs(file.as_fd().as_raw_fd(), stat.as_mut_ptr()))?;
        stat.assume_init().f_type
    };
    // The field is signed on some targets: magic numbers are 32 bits.
    Ok(kind as u64 & 0xFFFF_FFFF)
}

/// The name of a file system on which the locks and mappings of two machines, or of a machine and its guests, may not see
/// each other.
pub(crate) fn network_file_system(file: impl AsFd) -> io::Result<Option<&'static str>> {
    const KNOWN: &[(u64, &str)] = &[
        (0x6969, "NFS"),
        (0xFF53_4D42, "CIFS"),
        (0xFE53_4D42, "SMB2"),
        (0x517B, "SMB"),
        (0x0102_1997, "9p"),
        (0x6573_5546, "FUSE or VirtioFS"),
        (0x00C3_6400, "Ceph"),
        (0x5346_414F, "AFS"),
        (0x6B41_4653, "AFS"),
        (0x0BD0_0BD0, "Lustre"),
        (0x4750_4653, "GPFS"),
        (0x7461_636F, "OCFS2"),
        (0x0116_1970, "GFS2"),
        (0x786F_4256, "VirtualBox shared folders"),
        (0xBACB_ACBC, "VMware shared folders"),
        (0x2003_0528, "OrangeFS"),
        (0x7375_7245, "Coda"),
    ];
    let kind = type_of(file)?;
    Ok(KNOWN.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_descriptor_that_became_another_file_is_left_alone() {
        let (one, two) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let kept = KeptFile::new(open_existing(one.path()).unwrap()).unwrap();
        assert!(kept.get().is_some());
        let number = kept.fd.as_raw_fd();
        let other = File::open(two.path()).unwrap();
        // SAFETY: `dup2` closes the kept descriptor and puts the other file in its place, which is what a program does that
        // closes all descriptors and then opens one.
        assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), number) }, number);
        assert!(kept.get().is_none());
        drop(kept);
        // SAFETY: the number stays open: closing it is this test's job.
        let now = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(number) };
        assert!(fstat(&now).is_ok(), "it was not ours to close");
    }

    #[test]
    fn links_and_pipes_do_not_fool_us() {
        let dir = tempfile::tempdir().unwrap();
        let (link, pipe) = (dir.path().join("link"), dir.path().join("pipe"));
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).unwrap();
        assert!(open_existing(&link).is_err());
        assert!(open_directory(&link).is_err());
        assert!(create_new(&link).is_err());
        // Comes back at once, with something that the caller sees is not a file.
        assert!(open_existing(&pipe).is_ok());
    }

    #[test]
    fn this_file_system_is_local() {
        assert_eq!(network_file_system(File::open("/proc").unwrap()).unwrap(), None);
    }
}
