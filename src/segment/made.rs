//! What a space is made of, and whether this process can use it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::files::{self, FilesHeader};
use super::format::{Choice, Header};
use super::open::{FILE_NAME, Options, unusable_segment};
use crate::os::{futex, map};
use crate::{Backend, Error, Result};

/// What a space is made of: the one of these files that is in its directory, and the first if both are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    Segment,
    Files,
}

impl Made {
    pub(crate) fn file_name(self) -> &'static str {
        match self {
            Self::Segment => FILE_NAME,
            Self::Files => files::FILE_NAME,
        }
    }

    pub(crate) fn backend(self) -> Backend {
        match self {
            Self::Segment => Backend::Segment,
            Self::Files => Backend::Files,
        }
    }

    /// What the space there is made of, if there is one.
    pub(crate) fn of(space: &Path) -> Result<Option<Self>> {
        for made in [Self::Segment, Self::Files] {
            let path = space.join(made.file_name());
            match fs::symlink_metadata(&path) {
                Ok(_) => return Ok(Some(made)),
                // What may not be looked at cannot be opened either, and that says more.
                Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::EACCES)) => {}
                Err(e) => return Err(Error::system("look at", &path, e)),
            }
        }
        Ok(None)
    }

    /// How much room its file takes when it is made, in bytes.
    pub(super) fn size(self, choice: Choice) -> u64 {
        match self {
            Self::Segment => Header::new(choice, 0, 0).lives_at(),
            Self::Files => FilesHeader::new(choice.names, choice.mode, 0, 0, true).size(),
        }
    }
}

/// What a process does not have that a segment takes.
pub(crate) struct Missing {
    /// With what the system says.
    pub(crate) what: String,
    /// And never will: it is not just short of something, or interrupted.
    for_good: bool,
}

/// What a segment takes that this process does not have, if anything.
pub(crate) fn missing_for_a_segment() -> std::result::Result<(), Missing> {
    let word = core::sync::atomic::AtomicU32::new(0);
    futex::try_wake(&word)
        .map_err(|errno| Missing { what: format!("the futex ({errno})"), for_good: is_for_good(&errno.into()) })?;
    map::try_shared().map_err(|e| Missing { what: format!("shared mappings ({e})"), for_good: is_for_good(&e) })
}

/// Whether a call that failed so is refused, or is not there at all: by it another mechanism may be chosen, for all who come.
pub(super) fn is_for_good(e: &io::Error) -> bool {
    let codes = [libc::EPERM, libc::EACCES, libc::ENOSYS, libc::ENODEV, libc::EINVAL, libc::EOPNOTSUPP];
    e.raw_os_error().is_some_and(|code| codes.contains(&code))
}

#[cfg(feature = "diagnosis")]
impl Options {
    /// What the space there is made of, if there is one.
    pub(crate) fn backend_at(&self, space: &Path) -> Option<Backend> {
        Made::of(space).ok().flatten().map(Made::backend)
    }

    /// What a new space would be made of.
    pub(crate) fn backend_of_new(&self) -> Backend {
        self.to_be_made(Path::new("")).unwrap_or(Made::Segment).backend()
    }

    /// The file by which a space is made of that.
    pub(crate) fn file_of(&self, backend: Backend) -> &'static str {
        Made::from(backend).file_name()
    }

    /// How large that file would be in a new space.
    pub(crate) fn size(&self, backend: Backend) -> u64 {
        Made::from(backend).size(self.choice())
    }
}

impl From<Backend> for Made {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Files => Self::Files,
            Backend::Segment | Backend::Auto => Self::Segment,
        }
    }
}

impl Options {
    /// Whether the file system may be one of a network.
    pub(crate) fn takes_any_file_system(&self) -> bool {
        self.any_file_system && self.backend == Backend::Files
    }

    /// What a new space is made of.
    pub(super) fn to_be_made(&self, space: &Path) -> Result<Made> {
        match self.backend {
            Backend::Segment => Ok(Made::Segment),
            Backend::Files => Ok(Made::Files),
            Backend::Auto => match missing_for_a_segment() {
                Ok(()) => Ok(Made::Segment),
                Err(missing) if missing.for_good => Ok(Made::Files),
                Err(missing) => {
                    Err(Error::BackendUnusable { path: space.into(), backend: Backend::Segment, missing: missing.what })
                }
            },
        }
    }

    /// Whether a space that is made so is what was asked for, and can be used by this process.
    pub(super) fn check_backend(&self, made: Made, space: &Path) -> Result<()> {
        if self.backend != Backend::Auto && self.backend != made.backend() {
            return Err(Error::OptionDiffers {
                path: space.into(),
                option: "backend",
                existing: made.backend().to_string(),
                wanted: self.backend.to_string(),
            });
        }
        match made {
            Made::Segment => missing_for_a_segment().map_err(|missing| Error::BackendUnusable {
                path: space.into(),
                backend: made.backend(),
                missing: missing.what,
            }),
            Made::Files => Ok(()),
        }
    }

    /// Whether a file of a space that exists is one for us.
    pub(crate) fn check_file(&self, file: &File, path: &Path, mode: u32) -> Result<()> {
        let meta = file.metadata().map_err(|e| Error::system("look at", path, e))?;
        self.check_owner(&meta).map_err(|problem| unusable_segment(path, problem))?;
        if meta.mode() & 0o7777 & !mode != 0 {
            return Err(unusable_segment(
                path,
                format!(
                    "its mode is {:#o}, but it was created with {mode:#o}; somebody opened it to others (chmod {mode:o})",
                    meta.mode() & 0o7777,
                ),
            ));
        }
        Ok(())
    }
}
