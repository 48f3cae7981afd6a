//! Looking at a segment from outside: without joining, and without writing, which its mapping does not allow.

use core::sync::atomic::Ordering::{Acquire, Relaxed};
use core::sync::atomic::fence;

use super::Segment;
#[cfg(feature = "diagnosis")]
use super::files::FilesHeader;
use super::format::{Entry, Meta, load_text};
#[cfg(feature = "diagnosis")]
use super::made::Made;
#[cfg(feature = "diagnosis")]
use super::open::Found;
use super::open::{FILE_NAME, Options, checked_header, unusable_file, unusable_segment};
use super::waiters::{Sleeper, read};
#[cfg(feature = "diagnosis")]
use crate::Backend;
use crate::digest::fnv1a;
use crate::os::file;
#[cfg(feature = "diagnosis")]
use crate::os::file::FileId;
use crate::os::map::Mapping;
use crate::{Error, Result};

#[cfg(feature = "diagnosis")]
use std::fs;
use std::io::ErrorKind;
#[cfg(feature = "diagnosis")]
use std::path::Path;
use std::path::PathBuf;

/// A name and its lock.
pub(crate) struct Named<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) index: u32,
    pub(crate) meta: Meta,
    pub(crate) name: String,
    /// Whether it fits its hash.
    pub(crate) is_sound: bool,
}

impl Options {
    /// Where the space is, or would be.
    pub(crate) fn space_path(&self) -> Result<PathBuf> {
        self.check()?;
        Ok(self.root_path()?.join(&self.name))
    }

    /// Opens the space's segment for looking. Whoever may read the file may look; nothing is created.
    pub(crate) fn look(&self) -> Result<Segment> {
        let space = self.space_path()?;
        let path = space.join(FILE_NAME);
        let file = file::open_to_read(&path).map_err(|e| match e.kind() {
            ErrorKind::NotFound if space.is_dir() => {
                unusable_segment(&path, "it is not there: it was removed, or the space is just being created")
            }
            ErrorKind::NotFound => Error::NoSuchSpace { path: space.clone() },
            _ => unusable_file(&path, e),
        })?;
        let (header, len) = checked_header(&file, &path, &space)?;
        let map = Mapping::read_only(&file, len).map_err(|e| Error::system("map", &path, e))?;
        Segment::new(header, path, file, &map)
    }

    /// The checks of opening, without locking, joining, creating or writing anything. What the space is made of, if there is one.
    #[cfg(feature = "diagnosis")]
    pub(crate) fn could_open(&self) -> Result<Option<Backend>> {
        let is_missing = |path: &Path| fs::symlink_metadata(path).is_err_and(|e| e.kind() == ErrorKind::NotFound);
        self.check()?;
        let root = self.root_path()?;
        // The first who opens a space makes the default root.
        if self.root.is_none() && is_missing(&root) {
            return Ok(None);
        }
        self.check_root(&root)?;
        let space = root.join(&self.name);
        if is_missing(&space) {
            return Ok(None);
        }
        let directory = self.existing_directory(&space)?;
        let Some(made) = Made::of(&space)? else { return Ok(None) };
        let path = space.join(made.file_name());
        let file = match file::open_existing(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            result => result.map_err(|e| unusable_file(&path, e))?,
        };
        self.check_backend(made, &space)?;
        match made {
            Made::Segment => {
                let id = FileId::of_file(&file).map_err(|e| Error::system("look at", &path, e))?;
                Found { directory, file, path, id, made, alone: false }.map(self)?;
            }
            Made::Files => {
                let mode = FilesHeader::checked(&file, &path, &space)?.mode;
                self.check_file(&file, &path, mode)?;
            }
        }
        Ok(Some(made.backend()))
    }
}

impl Segment {
    /// Every entry that has a name.
    pub(crate) fn named(&self) -> impl Iterator<Item = Named<'_>> {
        (0u32..).zip(self.entries.iter()).filter_map(|(index, entry)| {
            // As in `names::matching`: an entry that is just getting another name is not shown with parts of two.
            let meta = Meta(entry.meta.load(Acquire));
            if !meta.is_used() {
                return None;
            }
            let name = load_text(&entry.name, meta.name_len());
            let is_sound = fnv1a(&name) == entry.hash.load(Relaxed);
            let name = String::from_utf8_lossy(&name).into_owned();
            fence(Acquire);
            (entry.meta.load(Relaxed) == meta.0).then_some(Named { entry, index, meta, name, is_sound })
        })
    }

    /// Every entry that had a name, as far as can be seen, and lost it to damage; and the number of each.
    pub(crate) fn nameless(&self) -> impl Iterator<Item = (u32, &Entry)> {
        (0u32..).zip(self.entries.iter()).filter(|(_, entry)| Meta(entry.meta.load(Relaxed)).is_damaged())
    }

    /// Every thread that is noted as asleep.
    pub(crate) fn sleepers(&self) -> impl Iterator<Item = Sleeper> {
        self.waiters.iter().enumerate().filter_map(read)
    }
}
