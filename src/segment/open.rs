//! From a space's name to its mapped segment: roots, directories, creating, finding, checking.
//!
//! A space is a directory with one file in it. Whoever is in the space keeps a shared `flock` on the directory, and whoever
//! creates the file needs an exclusive one. So a file that somebody removed while it was in use is not made anew
//! beside the locks that still are held in the old one; and a cleaner that respects `flock` leaves the directory alone.
//!
//! The file is made under another name, really allocated, written, and only then renamed, without replacing anything: nobody
//! sees a half-made one. What a killed creator left is removed by the next one, which is alone while it holds the
//! directory's lock.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs2::FileExt;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::geteuid;

use super::Segment;
use super::create::place;
use super::format::{Choice, Flaw, HEADER_LEN, Header, MOST_EXTENTS, UNIT, VERSION};
use super::made::Made;
use crate::os::clock::{self, Monotonic};
use crate::os::fence as membarrier;
use crate::os::file::{self, FileId, KeptFile};
use crate::os::fork;
use crate::os::map::Mapping;
use crate::protocol::slot::Slot;
use crate::{Backend, Error, Result};

/// What was asked of a space. `None`: whatever it has, or the default if it is created.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) name: String,
    pub(crate) root: Option<PathBuf>,
    pub(crate) participants: Option<u32>,
    pub(crate) names: Option<u32>,
    /// Bytes.
    pub(crate) extents: Option<u64>,
    pub(crate) mode: Option<u32>,
    pub(crate) backend: Backend,
    /// Also where other machines cannot be seen.
    pub(crate) any_file_system: bool,
    /// Tokens of a space that is created are larger: it takes the place of another.
    pub(crate) token_floor: u64,
}

const DEFAULT_PARTICIPANTS: u32 = 1024;
const DEFAULT_NAMES: u32 = 4096;
/// One unit for each name, up to so many bytes in all.
const MOST_DEFAULT_EXTENTS: u64 = 2 << 20;
const DEFAULT_MODE: u32 = 0o600;
const MOST_NAMES: u32 = 1 << 24;

pub(super) const FILE_NAME: &str = "segment";
/// How long to wait for another process that is creating the space. It takes it a few milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the file may be missing while processes are in the space. Newcomers who ask seem to be in it for microseconds.
const MISSING: Duration = Duration::from_secs(1);

/// A segment's file, found, with the space's directory locked for being in it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) directory: File,
    pub(crate) file: File,
    pub(crate) path: PathBuf,
    pub(crate) id: FileId,
    pub(crate) made: Made,
    /// Nobody else is in the space, or can come in: the directory is locked alone. Only asked of lock files.
    pub(crate) alone: bool,
}

impl Options {
    pub(super) fn check(&self) -> Result<()> {
        let reason = match self.name.as_str() {
            "" => "it is empty",
            name if name.len() > 64 => "it is longer than 64 bytes",
            name if name.contains(['/', '\0']) => "it holds a slash or NUL",
            name if name.starts_with('.') => "it starts with a dot",
            _ => "",
        };
        if !reason.is_empty() {
            return Err(Error::InvalidName { of: "space", name: self.name.clone(), reason });
        }
        let in_range = |option, value: Option<u32>, most: u32| match value {
            Some(value) if !(1..=most).contains(&value) => Err(Error::InvalidOption {
                option,
                value: value.to_string(),
                reason: format!("it goes from 1 to {most}"),
            }),
            _ => Ok(()),
        };
        in_range("participants", self.participants, Slot::MAX)?;
        in_range("locks", self.names, MOST_NAMES)?;
        match self.extents {
            Some(bytes) if bytes > MOST_EXTENTS => Err(Error::InvalidOption {
                option: "extents",
                value: bytes.to_string(),
                reason: format!("it goes from 0 to {MOST_EXTENTS} bytes"),
            }),
            _ => Ok(()),
        }?;
        match self.mode {
            Some(mode) if mode & !0o660 != 0 || mode & 0o600 != 0o600 => Err(Error::InvalidOption {
                option: "mode",
                value: format!("{mode:#o}"),
                reason: "it is 0o600 for one user, or 0o660 for a group".into(),
            }),
            _ => Ok(()),
        }
    }

    /// Shared with a group: then other owners than ourselves are to be expected.
    pub(super) fn for_a_group(&self) -> bool {
        self.mode.is_some_and(|mode| mode & 0o060 != 0)
    }

    pub(super) fn choice(&self) -> Choice {
        let names = self.names.unwrap_or(DEFAULT_NAMES);
        Choice {
            participants: self.participants.unwrap_or(DEFAULT_PARTICIPANTS),
            names,
            extents: self.extents.unwrap_or((u64::from(names) * UNIT).min(MOST_DEFAULT_EXTENTS)),
            mode: self.mode.unwrap_or(DEFAULT_MODE),
            fences: membarrier::is_there(),
        }
    }

    /// The directory of spaces, absolute.
    pub(crate) fn root_path(&self) -> Result<PathBuf> {
        match &self.root {
            Some(root) => std::path::absolute(root).map_err(|e| Error::system("find", root, e)),
            None => Ok(format!("/dev/shm/hostlock-{}", geteuid()).into()),
        }
    }

    /// The directory of spaces, checked. The default one is created if need be.
    fn root(&self) -> Result<PathBuf> {
        let root = self.root_path()?;
        if self.root.is_none() {
            match DirBuilder::new().mode(0o700).create(&root) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                    return Err(unusable(
                        &root,
                        format!("it cannot be created ({e}); name another: Space::builder(..).root(..)"),
                    ));
                }
                _ => {}
            }
        }
        self.check_root(&root)?;
        Ok(root)
    }

    /// Whether `root` is one that spaces may lie in.
    pub(super) fn check_root(&self, root: &Path) -> Result<()> {
        let directory = file::open_directory(root).map_err(|e| not_a_directory(root, e))?;
        let meta = directory.metadata().map_err(|e| Error::system("look at", root, e))?;
        self.check_owner(&meta).map_err(|problem| unusable(root, problem))?;
        if meta.mode() & 0o002 != 0 && meta.mode() & 0o1000 == 0 {
            return Err(unusable(
                root,
                "everybody can write to it, so anybody could replace a space; take that right away (chmod o-w)",
            ));
        }
        if self.root.is_none() && meta.mode() & 0o077 != 0 {
            return Err(unusable(root, "others have rights to it; take them away (chmod 700)"));
        }
        Ok(())
    }

    /// Whose it is; if not ours, root's or a group's, the problem with that.
    pub(super) fn check_owner(&self, meta: &fs::Metadata) -> std::result::Result<(), String> {
        let me = geteuid().as_raw();
        if meta.uid() == me || meta.uid() == 0 || self.for_a_group() {
            return Ok(());
        }
        Err(format!(
            "it belongs to uid {}, not to us (uid {me}); a space that users share needs \
             Space::builder(..).root(..).mode(0o660), in a directory of a group they are in",
            meta.uid()
        ))
    }

    /// The space's own directory, created if need be.
    fn directory(&self, path: &Path) -> Result<File> {
        match self.make_directory(path) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            // It may be there all the same, in a root that we may not write to.
            Err(_) if path.exists() => {}
            Err(e) if e.kind() == ErrorKind::StorageFull => {
                let needed = self.to_be_made(path).unwrap_or(Made::Segment).size(self.choice());
                return Err(no_room(path, path.parent().unwrap_or(path), needed));
            }
            Err(e) => {
                return Err(unusable(
                    path,
                    format!("it cannot be created ({e}); name another root: Space::builder(..).root(..)"),
                ));
            }
        }
        self.existing_directory(path)
    }

    /// The space's own directory, checked.
    pub(crate) fn existing_directory(&self, path: &Path) -> Result<File> {
        let directory = file::open_directory(path).map_err(|e| not_a_directory(path, e))?;
        let meta = directory.metadata().map_err(|e| Error::system("look at", path, e))?;
        self.check_owner(&meta).map_err(|problem| unusable(path, problem))?;
        if meta.mode() & 0o002 != 0 {
            return Err(unusable(path, "everybody can write to it; take that right away (chmod o-w)"));
        }
        match file::network_file_system(&directory) {
            Ok(None) => Ok(directory),
            Ok(Some(_)) if self.takes_any_file_system() => Ok(directory),
            Ok(Some(kind)) => {
                Err(unusable(path, format!("it lies on {kind}, where processes of other machines could not be seen")))
            }
            Err(e) => Err(Error::system("look at the file system of", path, e)),
        }
    }

    /// Creates the directory with the rights it is to have, at once: a group's takes its name when it has them.
    fn make_directory(&self, path: &Path) -> io::Result<()> {
        let private = |path: &Path| DirBuilder::new().mode(0o700).create(path);
        if !self.for_a_group() {
            return private(path);
        }
        if path.exists() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let new = path.with_file_name(format!(".{}.new.{}", self.name, std::process::id()));
        match private(&new) {
            // What a killed creator left, whose PID we have now; or another thread of ours is at it.
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            result => result?,
        }
        let made = adopt_group(&new)
            .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(0o770)))
            .and_then(|()| Ok(renameat2(AT_FDCWD, &new, AT_FDCWD, path, RenameFlags::RENAME_NOREPLACE)?));
        if made.is_err() {
            let _ = fs::remove_dir(&new);
        }
        made
    }

    /// Finds the space's file, creating the space if there is none.
    pub(crate) fn find(&self) -> Result<Found> {
        self.check()?;
        let space = self.root()?.join(&self.name);
        let begin = Monotonic::now();
        let mut pause = Duration::from_micros(100);
        loop {
            let directory = self.directory(&space)?;
            let made = match Made::of(&space)? {
                Some(made) => made,
                None => self.to_be_made(&space)?,
            };
            let path = space.join(made.file_name());
            let cannot_lock = |e: io::Error| Error::system("lock", &space, e);
            let obstacle = match file::open_existing(&path) {
                Ok(file) => {
                    let alone =
                        made == Made::Files && lock(FileExt::try_lock_exclusive(&directory)).map_err(cannot_lock)?;
                    if alone || lock(FileExt::try_lock_shared(&directory)).map_err(cannot_lock)? {
                        let id = file::FileId::of(
                            &nix::sys::stat::fstat(&file).map_err(|e| Error::system("look at", &path, e))?,
                        );
                        // Once more, now that nobody can create another one: it may have been removed in between.
                        if FileId::at(&path).is_ok_and(|now| now == id) {
                            self.check_backend(made, &space)?;
                            return Ok(Found { directory, file, path, id, made, alone });
                        }
                    }
                    Obstacle::Creator
                }
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    // A child that had a copy of the description would keep everybody out for as long as it lives.
                    let _not_now = fork::NOT_NOW.lock();
                    if lock(FileExt::try_lock_exclusive(&directory)).map_err(cannot_lock)? {
                        if FileId::at(&space).is_ok_and(|now| is_same(&directory, now)) && Made::of(&space)?.is_none() {
                            self.create(&directory, &space, made).inspect_err(|_| {
                                // If nothing is in it, which is what it is without a segment.
                                let _ = fs::remove_dir(&space);
                                let _ = FileExt::unlock(&directory);
                            })?;
                        }
                        // In so many words: a child may have the description from before it was locked.
                        FileExt::unlock(&directory).map_err(cannot_lock)?;
                        continue;
                    } else if lock(FileExt::try_lock_shared(&directory)).map_err(cannot_lock)? {
                        Obstacle::Users
                    } else {
                        Obstacle::Creator
                    }
                }
                Err(e) => return Err(unusable_file(&path, e)),
            };
            let waited = Monotonic::now().since(begin);
            match obstacle {
                Obstacle::Users if waited > MISSING && strangers_may_lock(&directory) => {
                    return Err(unusable(&space, LOCKED_BY_STRANGERS));
                }
                Obstacle::Users if waited > MISSING => return Err(Error::Removed { path: space }),
                Obstacle::Creator if waited > PATIENCE => {
                    let why = if strangers_may_lock(&directory) { LOCKED_BY_STRANGERS } else { LOCKED };
                    return Err(unusable(&space, why));
                }
                _ => {}
            }
            // In so many words, as above.
            FileExt::unlock(&directory).map_err(cannot_lock)?;
            drop(directory);
            clock::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

/// What keeps us from the space's directory.
enum Obstacle {
    /// Somebody who creates the file.
    Creator,
    /// Somebody who is in a space whose file is not there.
    Users,
}

/// Gives what lies at `path` to the group that its directory belongs to: the creator's own may be another.
fn adopt_group(path: &Path) -> io::Result<()> {
    let group = fs::metadata(path.parent().unwrap_or(path))?.gid();
    std::os::unix::fs::lchown(path, None, Some(group))
}

/// A `try_lock` of fs2 as an answer.
fn lock(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(e),
    }
}

fn is_same(directory: &File, id: FileId) -> bool {
    nix::sys::stat::fstat(directory).is_ok_and(|stat| FileId::of(&stat) == id)
}

pub(super) fn unusable(path: &Path, problem: impl Into<String>) -> Error {
    Error::UnusableRoot { path: path.into(), problem: problem.into() }
}

pub(super) fn no_room(space: &Path, look_at: &Path, needed: u64) -> Error {
    let available = File::open(look_at)
        .ok()
        .and_then(|dir| fstatvfs(&dir).ok())
        .map_or(0, |stat| stat.blocks_available() * stat.fragment_size());
    if available >= needed {
        return unusable(
            space,
            "its file system has bytes left, but no inode for another file (or a quota says so); \
             remove some files, or name another root: Space::builder(..).root(..)",
        );
    }
    Error::NoRoom { path: space.into(), needed, available }
}

const LOCKED: &str = "another process has its directory locked and does not go on; it may be stopped in the middle of creating the space";
const LOCKED_BY_STRANGERS: &str =
    "a process has its directory locked and does not go on; others may read it, and so lock it: chmod o-rwx";

fn strangers_may_lock(directory: &File) -> bool {
    directory.metadata().is_ok_and(|meta| meta.mode() & 0o004 != 0)
}

/// Says what lies at `path` instead of a directory that we can open.
fn not_a_directory(path: &Path, e: io::Error) -> Error {
    let problem = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            "it does not exist; create it, or name another: Space::builder(..).root(..)".into()
        }
        Err(e) => e.to_string(),
        Ok(meta) if meta.is_symlink() => {
            "it is a symbolic link, which anybody could lead elsewhere; name the directory itself".into()
        }
        Ok(meta) if meta.file_type().is_fifo() => "it is a FIFO; name a directory, or remove it".into(),
        Ok(meta) if !meta.is_dir() => "it is not a directory; name one, or remove it".into(),
        Ok(meta) => format!("{e} (it belongs to uid {}, we are uid {})", meta.uid(), geteuid()),
    };
    unusable(path, problem)
}

pub(super) fn unusable_segment(path: &Path, problem: impl Into<String>) -> Error {
    Error::UnusableSegment { path: path.into(), problem: problem.into() }
}

pub(crate) fn unusable_file(path: &Path, e: io::Error) -> Error {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() => {
            unusable_segment(path, "it is a symbolic link, and nobody but an attacker puts one there; remove it")
        }
        Ok(meta) if !meta.is_file() => unusable_segment(path, "it is not a regular file; remove it"),
        Ok(_) if e.kind() != ErrorKind::PermissionDenied => unusable_segment(path, e.to_string()),
        Ok(meta) => unusable_segment(
            path,
            format!(
                "{e} (it belongs to uid {}, we are uid {}; its mode is {:#o})",
                meta.uid(),
                geteuid(),
                meta.mode() & 0o7777
            ),
        ),
        Err(_) => unusable_segment(path, e.to_string()),
    }
}

/// Of a file that is not where it was made.
pub(super) const COPY: &str = "it is a copy, or was moved here from another space, and those who use the original would not be excluded; \
                               end all processes that use the space and remove its directory";

impl Found {
    /// Checks the file and maps it. The second half keeps the directory locked.
    pub(crate) fn map(self, options: &Options) -> Result<(Segment, KeptFile)> {
        let Self { directory, file, path, .. } = self;
        let space = path.parent().unwrap_or(&path).to_path_buf();
        let (header, len) = checked_header(&file, &path, &space)?;
        options.check_file(&file, &path, header.mode)?;
        let differs = |option, existing: String, wanted: String| {
            Err(Error::OptionDiffers { path: space.clone(), option, existing, wanted })
        };
        let agrees = |option, wanted: Option<u64>, existing: u64| match wanted {
            Some(wanted) if wanted != existing => differs(option, existing.to_string(), wanted.to_string()),
            _ => Ok(()),
        };
        agrees("participants", options.participants.map(u64::from), header.participants.into())?;
        agrees("locks", options.names.map(u64::from), header.names.into())?;
        // Whole pages are given.
        agrees("extents", options.extents.map(|bytes| bytes.next_multiple_of(4096)), header.extents_size)?;
        match options.mode {
            Some(mode) if mode != header.mode => {
                differs("mode", format!("{:#o}", header.mode), format!("{mode:#o}"))?;
            }
            _ => {}
        }
        let map = Mapping::new(&file, len).map_err(|e| Error::BackendUnusable {
            path: space.clone(),
            backend: Backend::Segment,
            missing: format!("mapping a file of its file system ({e})"),
        })?;
        let directory = KeptFile::new(directory).map_err(|e| Error::system("look at", &space, e))?;
        Ok((Segment::new(header, path, file, &map)?, directory))
    }
}

/// The header of the segment behind `file`, after all that can be checked without the right to write, and how much to map.
pub(super) fn checked_header(file: &File, path: &Path, space: &Path) -> Result<(Header, usize)> {
    let meta = file.metadata().map_err(|e| Error::system("look at", path, e))?;
    if !meta.is_file() {
        return Err(unusable_segment(path, "it is not a regular file; remove it"));
    }
    let header = read_header(file, meta.len())
        .map_err(|e| Error::system("read", path, e))?
        .map_err(|flaw| unusable_segment(path, explain(flaw, meta.len())))?;
    if place(file, space).map_err(|e| Error::system("look at", path, e))? != header.place {
        return Err(unusable_segment(path, COPY));
    }
    let len = usize::try_from(header.size).map_err(|_| unusable_segment(path, "it is too large for this machine"))?;
    Ok((header, len))
}

fn read_header(file: &File, len: u64) -> io::Result<std::result::Result<Header, Flaw>> {
    let mut bytes = [0; HEADER_LEN];
    let mut filled = 0;
    while filled < HEADER_LEN {
        match std::os::unix::fs::FileExt::read_at(file, &mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(Header::read(&bytes[..filled], len))
}

fn explain(flaw: Flaw, len: u64) -> String {
    const REMOVE: &str = "end all processes that use it and remove its directory";
    match flaw {
        Flaw::NotASegment if len == 0 => format!("it is empty; {REMOVE}"),
        Flaw::NotASegment => format!("it does not begin as a segment does; if it is yours, {REMOVE}"),
        Flaw::Version(version) => format!(
            "it has layout version {version}, this program knows {VERSION}; use the same version of hostlock \
             in all programs, or {REMOVE}"
        ),
        Flaw::WordBits(bits) => format!(
            "it was made by a {bits}-bit program and this one has {} bits; a space is for \
             programs of one kind: name another space, or {REMOVE}",
            usize::BITS
        ),
        Flaw::ByteOrder => format!("it was made on a machine of the other byte order; {REMOVE}"),
        Flaw::Truncated { says, is } => {
            format!("it is {is} bytes long and should be {says}: somebody cut it; {REMOVE}")
        }
        Flaw::Damaged(what) => format!("{what}; {REMOVE}"),
    }
}

impl Segment {
    /// The space's directory.
    pub(crate) fn space(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    /// Whether the path still leads to the file that is mapped.
    pub(crate) fn is_removed(&self) -> bool {
        self.file.id().has_left(&self.path)
    }

    /// The mapped file, with a description of its own.
    pub(crate) fn reopen(&self) -> Result<File> {
        let removed = || Error::Removed { path: self.space().into() };
        let file = file::open_existing(&self.path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => removed(),
            _ => Error::system("open", &self.path, e),
        })?;
        match FileId::of_file(&file).map_err(|e| Error::system("look at", &self.path, e))? == self.file.id() {
            true => Ok(file),
            false => Err(removed()),
        }
    }
}
