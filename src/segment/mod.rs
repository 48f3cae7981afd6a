//! The segment file: how it is laid out, made, found and checked, and the tables in it.
//!
//! * [`format`]: every byte of it, and the checks that it is what it says.
//! * [`open`]: roots and directories, opening, "the file is gone". [`create`]: making the file.
//! * [`participants`]: who is in the space: joining, leaving, judging, cleaning up after the dead.
//! * [`names`]: from a name to its lock, and back to an unused place. [`index`]: the cells in which names are looked up.
//! * [`meta`]: what an entry is used for.
//! * [`extents`]: room for what does not fit an entry. [`readers`]: the lines by which participants read.
//! * [`lives`]: who is to be told of when. [`waiters`]: who sleeps on what. [`deaths`]: who died holding what.
//! * [`inspect`]: looking at all of that from outside, without writing.

mod create;
mod deaths;
pub(crate) mod extents;
pub(crate) mod files;
#[allow(unsafe_code)] // It says which types may lie in shared memory.
pub(crate) mod format;
mod index;
pub(crate) mod inspect;
pub(crate) mod lives;
pub(crate) mod made;
mod meta;
pub(crate) mod names;
pub(crate) mod open;
pub(crate) mod participants;
mod readers;
pub(crate) mod waiters;

use std::sync::Arc;

use crate::os::file::KeptFile;
use crate::os::map::{Mapping, Table};
use crate::protocol::cell::ReaderCell;
use crate::protocol::reader::ReaderLine;
use crate::protocol::seat::Seat;
use crate::protocol::slot::Slot;
use crate::protocol::word::OwnerWord;
use crate::sync::full_fence;
use crate::{Error, Result};
use format::{Entry, Globals, HEADER_LEN, Header, Line, Record, Waiter};
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// A segment mapped into this process, checked, with its tables.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) header: Header,
    /// Where the file is, absolute.
    pub(crate) path: PathBuf,
    /// The file that is mapped, whatever `path` leads to now. Its description never holds a lock: it may be shared with a
    /// forked child.
    pub(crate) file: KeptFile,
    /// The header as it is now in the file.
    header_words: Table<AtomicU64>,
    globals: Table<Globals>,
    pub(crate) records: Table<Record>,
    pub(crate) waiters: Table<Waiter>,
    index: Table<AtomicU32>,
    pub(crate) entries: Table<Entry>,
    units: Table<AtomicU32>,
    /// The extents, seen as what lies in them.
    pub(crate) lines: Table<Line>,
    pub(crate) cells: Table<ReaderCell>,
    pub(crate) seats: Table<Seat>,
    /// The pages of the life words, of which not all are there.
    lives: Table<AtomicU32>,
    pub(crate) reader_lines: Table<ReaderLine>,
}

impl Segment {
    fn new(header: Header, path: PathBuf, file: std::fs::File, map: &Arc<Mapping>) -> Result<Self> {
        let table_missing = || Error::damaged(&path, "its tables are not where its header says");
        Ok(Self {
            header_words: map.table(0, (HEADER_LEN / 8) as u64).ok_or_else(table_missing)?,
            globals: map.table(format::GLOBALS_AT, 1).ok_or_else(table_missing)?,
            records: map.table(header.participants_at, header.participants.into()).ok_or_else(table_missing)?,
            waiters: map.table(header.waiters_at, header.waiters.into()).ok_or_else(table_missing)?,
            index: map.table(header.index_at, header.index_cells.into()).ok_or_else(table_missing)?,
            entries: map.table(header.entries_at, header.names.into()).ok_or_else(table_missing)?,
            units: map.table(header.units_at(), header.units()).ok_or_else(table_missing)?,
            lines: map.table(header.extents_at, header.extents_size / 64).ok_or_else(table_missing)?,
            cells: map.table(header.extents_at, header.extents_size / 64).ok_or_else(table_missing)?,
            seats: map.table(header.extents_at, header.extents_size / 16).ok_or_else(table_missing)?,
            lives: map.table(header.lives_at(), (header.size - header.lives_at()) / 4).ok_or_else(table_missing)?,
            reader_lines: map
                .table(header.lives_at(), (header.size - header.lives_at()) / size_of::<ReaderLine>() as u64)
                .ok_or_else(table_missing)?,
            header,
            file: KeptFile::new(file).map_err(|e| Error::system("keep open", &path, e))?,
            path,
        })
    }

    pub(crate) fn token_of(&self, word: OwnerWord) -> u64 {
        self.header.token_base + word.epoch()
    }

    /// Whether somebody wrote over what never changes, or punched a hole where it was. Then nobody new comes in, and what else is gone
    /// nobody knows.
    pub(crate) fn is_overwritten(&self) -> bool {
        let sound: [u64; HEADER_LEN / 8] = bytemuck::cast(self.header);
        // Relaxed: it is compared with what was read before the mapping, and nothing is read because of it.
        self.header_words.iter().zip(sound).any(|(word, sound)| word.load(Relaxed) != sound)
    }

    pub(crate) fn overwritten(&self) -> Error {
        Error::damaged(&self.path, "its first page was overwritten or punched out while it was in use")
    }

    /// From now on somebody releases by a store, whose look at the sleepers may come before that is seen.
    pub(crate) fn note_light(&self, slot: Slot) {
        if let Some(record) = self.records.get(slot.index() as usize) {
            // Relaxed: for those who look.
            record.flags.fetch_or(format::TAKES_FENCES, Relaxed);
        }
        self.globals().light.store(1, Relaxed);
        // Pairs with `is_any_light`: either a sleeper sees this, or we see it counted in whatever we release.
        full_fence();
    }

    /// Whether lines are lent to readers, and all who use read-write locks can make heavy fences.
    pub(crate) fn has_fences(&self) -> bool {
        self.header.fences != 0
    }

    /// Whether anybody does. To be asked by a sleeper that is counted.
    pub(crate) fn is_any_light(&self) -> bool {
        full_fence();
        self.globals().light.load(Relaxed) != 0
    }

    pub(crate) fn globals(&self) -> &Globals {
        &self.globals[0]
    }
}
