//! Looking at a segment from outside: without joining, and without writing, which its mapping does not allow.

use core::sync::atomic::Ordering::{Acquire, Relaxed};
use core::sync::atomic::fence;

use super::Segment;
use super::format::{Entry, Meta, load_text};
use super::open::{FILE_NAME, Options, checked_header, unusable_file};
use super::waiters::{Sleeper, read};
use crate::os::file;
use crate::os::map::Mapping;
use crate::{Error, Result};

use std::io::ErrorKind;

/// A name and its lock.
pub(crate) struct Named<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) index: u32,
    pub(crate) meta: Meta,
    pub(crate) name: String,
}

impl Options {
    /// Opens the space's segment for looking. Whoever may read the file may look; nothing is created.
    pub(crate) fn look(&self) -> Result<Segment> {
        self.check()?;
        let space = self.root_path()?.join(&self.name);
        let path = space.join(FILE_NAME);
        let file = file::open_to_read(&path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => Error::NoSuchSpace { path: space.clone() },
            _ => unusable_file(&path, e),
        })?;
        let (header, len) = checked_header(&file, &path, &space)?;
        let map = Mapping::read_only(&file, len).map_err(|e| Error::system("map", &path, e))?;
        Segment::new(header, path, file, &map)
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
            let name = String::from_utf8_lossy(&load_text(&entry.name, meta.name_len())).into_owned();
            fence(Acquire);
            (entry.meta.load(Relaxed) == meta.0).then_some(Named { entry, index, meta, name })
        })
    }

    /// Every thread that is noted as asleep.
    pub(crate) fn sleepers(&self) -> impl Iterator<Item = Sleeper> {
        self.waiters.iter().filter_map(read)
    }
}
