//! The file of a space that is made of lock files: which names there are, which file each of them has, which token was drawn last, who holds it.
//!
//! ```text
//! SPACE/
//! ├── files        this: a header, then an entry for each lock file
//! ├── 0.lock       the lock file of entry 0: empty, and locked by `flock`
//! └── …
//! ```
//!
//! All of it is words of 64 bits in the byte order of the machine. The header is in [`segment::files`](crate::segment::files).
//!
//! Invariants:
//!
//! 1. Entries change under an exclusive `flock` of this file, except for what follows, and for tokens, which only grow, and which where the words are
//!    not mapped are drawn under the name's own lock, or if several may hold the name (a semaphore) under that `flock`.
//! 2. An entry says which inode its lock file has, and the how many-th it is. Whoever locked another one does not hold the lock: it looks *after* it
//!    locked. Whoever holds it alone has a claim as well, which is the same for all files of a name: see [`claim`](crate::protocol::claim).
//! 3. Readers have no claim. A read-write lock whose file was replaced has the inode before noted, and no writer gets in until it is proven
//!    that nobody has that locked: by the kernel's list, if that could be read at once.
//!
//! If we die in the middle: an entry without a file is one whose file is not at its place; a file without an entry is overwritten by the next
//! who needs its number.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::os::clock::{self, Monotonic, wall_clock_nanos};
use crate::os::file::FileId;
use crate::os::lock_file::{LockFile, Mode};
use crate::os::words::Words;
use crate::segment::files::{ENTRY_WORDS, FILE_NAME, FilesHeader, HEADER_WORDS, USED};
use crate::segment::format::Kind;
use crate::{Backend, Error, Result};

use super::record::{RECORD_WORDS, Record};

/// Words of a name.
const NAME_WORDS: usize = 8;

/// How long to wait for whoever changes entries, which takes microseconds.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) mod at {
    //! Where a word of an entry is.
    /// Of an entry: kind (low byte), length of the name (next), generation (high half). 0: nobody's.
    pub(crate) const META: usize = 0;
    /// Permits (low half), and the entry of the first one (high half).
    pub(crate) const COUNT: usize = 1;
    pub(crate) const TOKEN: usize = 2;
    pub(crate) const DEVICE: usize = 3;
    pub(crate) const INODE: usize = 4;
    /// The inode before, if it is not proven that nobody holds it.
    pub(crate) const BEFORE: usize = 5;
    /// When a writer last was kept waiting by readers: monotonic milliseconds.
    pub(crate) const WRITER: usize = 6;
    /// Deaths that were told.
    pub(crate) const RECOVERED: usize = 7;
    pub(crate) const NAME: usize = 8;
    /// Who has the lock alone: PID (low half), which file of this name it has locked (high half). 0: nobody.
    pub(crate) const CLAIM: usize = 16;
    /// How many files there were of this name.
    pub(crate) const FILES: usize = 17;
    pub(crate) const RECORD: usize = 20;
}

const _: () = assert!(at::RECORD + RECORD_WORDS <= ENTRY_WORDS && at::NAME + NAME_WORDS <= at::CLAIM);

/// The kind of an entry that is a permit of the semaphore it is named after.
const PERMIT: u8 = 0x7F;

/// An entry, while it is the name's in that generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) entry: u32,
    pub(crate) generation: u32,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) place: Place,
    pub(crate) kind: u8,
    pub(crate) count: u32,
    /// The entry of its first permit.
    pub(crate) first: u32,
    pub(crate) name: String,
    pub(crate) token: u64,
    pub(crate) recovered: u64,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) space: PathBuf,
    pub(crate) path: PathBuf,
    pub(crate) id: FileId,
    pub(crate) capacity: u32,
    pub(crate) mode: u32,
    pub(crate) token_base: u64,
    pub(super) words: Words,
}

impl Index {
    /// Of an open file, which is not believed anything.
    pub(crate) fn read(file: File, space: &Path) -> Result<Self> {
        Self::of(file, space, Words::mapped)
    }

    /// The same, for looking only.
    pub(crate) fn read_to_look_at(file: File, space: &Path) -> Result<Self> {
        Self::of(file, space, Words::mapped_to_look_at)
    }

    fn of(file: File, space: &Path, map: fn(&File, usize) -> io::Result<Words>) -> Result<Self> {
        let path = space.join(FILE_NAME);
        let header = FilesHeader::checked(&file, &path, space)?;
        let id = FileId::of_file(&file).map_err(|e| Error::system("look at", &path, e))?;
        let words = match header.mapped {
            true => map(&file, header.words()).map_err(|e| Error::BackendUnusable {
                path: space.into(),
                backend: Backend::Files,
                missing: format!("mapping its files ({e})"),
            })?,
            false => Words::unmapped(file).map_err(|e| Error::system("open", &path, e))?,
        };
        let FilesHeader { capacity, mode, token_base, .. } = header;
        Ok(Self { space: space.into(), path, id, capacity, mode, token_base, words })
    }

    #[inline]
    pub(crate) fn record(&self, entry: u32) -> Record<'_> {
        Record { words: &self.words, at: Self::word(entry, at::RECORD) }
    }

    pub(crate) fn is_mapped(&self) -> bool {
        self.words.is_mapped()
    }

    pub(super) fn failed(&self, e: io::Error) -> Error {
        Error::system("use", &self.path, e)
    }

    #[inline]
    pub(super) fn word(entry: u32, word: usize) -> usize {
        HEADER_WORDS + entry as usize * ENTRY_WORDS + word
    }

    #[inline]
    pub(super) fn get(&self, entry: u32, word: usize) -> Result<u64> {
        self.words.load(Self::word(entry, word)).map_err(|e| self.failed(e))
    }

    pub(super) fn put(&self, entry: u32, word: usize, value: u64) -> Result<()> {
        self.words.store(Self::word(entry, word), value).map_err(|e| self.failed(e))
    }

    /// Whether the file is gone, or another one lies in its place.
    pub(crate) fn is_removed(&self) -> bool {
        self.id.has_left(&self.path)
    }

    pub(super) fn used(&self) -> Result<u32> {
        let used = self.words.load(USED).map_err(|e| self.failed(e))?;
        Ok(u32::try_from(used).unwrap_or(u32::MAX).min(self.capacity))
    }

    /// The path of an entry's lock file.
    pub(crate) fn lock_path(&self, entry: u32) -> PathBuf {
        self.space.join(format!("{entry}.lock"))
    }

    /// What the entry says, if it is a name's.
    fn named(&self, entry: u32) -> Result<Option<Named>> {
        let words: [u64; at::CLAIM] = self.words.load_all(Self::word(entry, 0)).map_err(|e| self.failed(e))?;
        let meta = words[at::META];
        let (kind, len) = (meta as u8, (meta >> 8) as u8 as usize);
        if meta as u32 == 0 || kind == PERMIT || len > NAME_WORDS * 8 {
            return Ok(None);
        }
        let bytes: Vec<u8> = words[at::NAME..].iter().flat_map(|word| word.to_ne_bytes()).take(len).collect();
        Ok(Some(Named {
            place: Place { entry, generation: (meta >> 32) as u32 },
            kind,
            count: words[at::COUNT] as u32,
            first: (words[at::COUNT] >> 32) as u32,
            name: String::from_utf8_lossy(&bytes).into_owned(),
            token: words[at::TOKEN],
            recovered: words[at::RECOVERED],
        }))
    }

    /// All names.
    pub(crate) fn names(&self) -> Result<Vec<Named>> {
        (0..self.used()?).filter_map(|entry| self.named(entry).transpose()).collect()
    }

    pub(crate) fn find(&self, name: &str) -> Result<Option<Named>> {
        for entry in 0..self.used()? {
            if let Some(named) = self.named(entry)?
                && named.name == name
            {
                return Ok(Some(named));
            }
        }
        Ok(None)
    }

    /// Whether the entry still is that name's.
    #[inline]
    pub(crate) fn is_still(&self, place: Place) -> Result<bool> {
        let meta = self.get(place.entry, at::META)?;
        Ok(meta as u32 != 0 && (meta >> 32) as u32 == place.generation)
    }

    /// Gives `name` an entry, and one for each permit. The caller has the exclusive lock, and did not find the name.
    fn register(&self, name: &str, kind: Kind, count: u32) -> Result<Named> {
        let parts = if kind == Kind::Semaphore { count } else { 0 };
        let full = || Error::Full { path: self.space.clone(), what: "locks", capacity: self.capacity };
        let entry = self.free_run(1)?.ok_or_else(full)?;
        // Not the one it is to have itself.
        let first = if parts == 0 { 0 } else { self.free_run_but(parts, entry)?.ok_or_else(full)? };
        for part in first..first + parts {
            let generation = self.next_generation(part)?;
            self.forget_file(part)?;
            self.put(part, at::META, u64::from(generation) << 32 | u64::from(PERMIT))?;
        }
        let generation = self.next_generation(entry)?;
        let mut words = [0; NAME_WORDS];
        for (word, bytes) in words.iter_mut().zip(name.as_bytes().chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(padded);
        }
        self.forget_file(entry)?;
        self.put(entry, at::WRITER, 0)?;
        self.put(entry, at::RECOVERED, 0)?;
        self.words.store_all(Self::word(entry, at::NAME), &words).map_err(|e| self.failed(e))?;
        self.put(entry, at::COUNT, u64::from(first) << 32 | u64::from(count))?;
        // Larger than every token of a space that was here before, and of a name that was here before: an acquisition takes longer than a nanosecond.
        // And than every token of this space, whatever the clock says.
        let floor = self.token_base.max(wall_clock_nanos());
        let last = (0..self.used()?).try_fold(floor, |last, it| Result::Ok(last.max(self.get(it, at::TOKEN)?)))?;
        self.put(entry, at::TOKEN, last)?;
        let used = self.used()?.max(entry + 1).max(first + parts);
        self.words.store(USED, u64::from(used)).map_err(|e| self.failed(e))?;
        let meta = u64::from(generation) << 32 | (name.len() as u64) << 8 | u64::from(kind as u8);
        self.put(entry, at::META, meta)?;
        self.named(entry)?.ok_or_else(|| Error::damaged(&self.path, "an entry that was just written is not there"))
    }

    /// As if the entry had never had a file, nor a holder.
    fn forget_file(&self, entry: u32) -> Result<()> {
        for word in [at::BEFORE, at::DEVICE, at::INODE, at::CLAIM] {
            self.put(entry, word, 0)?;
        }
        self.record(entry).clear().map_err(|e| self.failed(e))
    }

    fn next_generation(&self, entry: u32) -> Result<u32> {
        Ok(((self.get(entry, at::META)? >> 32) as u32).wrapping_add(1))
    }

    fn free_run(&self, count: u32) -> Result<Option<u32>> {
        self.free_run_but(count, u32::MAX)
    }

    /// So many entries in a row that are nobody's, without that one.
    fn free_run_but(&self, count: u32, but: u32) -> Result<Option<u32>> {
        // A permit that is no semaphore's is what somebody left who was killed in the middle.
        let semaphores: Vec<Named> = self.names()?.into_iter().filter(|it| it.kind == Kind::Semaphore as u8).collect();
        let is_used =
            |entry: u32| semaphores.iter().any(|it| (it.first..it.first.saturating_add(it.count)).contains(&entry));
        let mut length = 0;
        for entry in 0..self.capacity {
            let meta = self.get(entry, at::META)?;
            let is_nobodys = meta as u32 == 0 || (meta as u8 == PERMIT && !is_used(entry));
            let is_free = entry != but && is_nobodys;
            length = if is_free { length + 1 } else { 0 };
            if length == count {
                return Ok(Some(entry + 1 - count));
            }
        }
        Ok(None)
    }

    /// Finds a name, or gives it an entry.
    pub(crate) fn look_up(&self, name: &str, kind: Kind, count: u32) -> Result<Named> {
        if let Some(named) = self.find(name)? {
            return Ok(named);
        }
        self.alone(|| match self.find(name)? {
            Some(named) => Ok(named),
            None => self.register(name, kind, count),
        })
    }

    /// Takes the name's entries from it. The caller has the exclusive lock, and the locks of all its files.
    pub(crate) fn unregister(&self, named: &Named) -> Result<()> {
        let parts = if named.kind == Kind::Semaphore as u8 { named.count } else { 0 };
        // The name first: what is left of it, if we are killed, is nobody's.
        for entry in [named.place.entry].into_iter().chain(named.first..named.first + parts) {
            let generation = (self.get(entry, at::META)? >> 32) as u32;
            self.put(entry, at::META, u64::from(generation) << 32)?;
            self.forget_file(entry)?;
            let _ = std::fs::remove_file(self.lock_path(entry));
        }
        Ok(())
    }

    /// Does something while nobody else changes entries.
    pub(crate) fn alone<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.is_removed() {
            return Err(Error::Removed { path: self.space.clone() });
        }
        let failed = |e| Error::system("lock", &self.path, e);
        let end = Monotonic::now().saturating_add(PATIENCE);
        loop {
            let file = LockFile::open(&self.path).map_err(failed)?;
            if file.try_lock(Mode::Exclusive).map_err(failed)? {
                let done = act();
                file.unlock();
                return done;
            }
            if Monotonic::now() > end {
                return Err(Error::UnusableSegment {
                    path: self.path.clone(),
                    problem: "a process has it locked and does not go on; it may be stopped".into(),
                });
            }
            clock::sleep(Duration::from_millis(1));
        }
    }

    /// The entry of one permit of a semaphore.
    pub(crate) fn part(&self, semaphore: &Named, part: u32) -> Result<Place> {
        let entry = semaphore.first.saturating_add(part);
        let meta = if entry < self.capacity { self.get(entry, at::META)? } else { 0 };
        match meta as u8 {
            PERMIT => Ok(Place { entry, generation: (meta >> 32) as u32 }),
            _ => Err(Error::damaged(&self.path, format!("\"{}\" has lost its permits", semaphore.name))),
        }
    }

    /// The next token of a name. Where the words are not mapped, only for whoever keeps all others out who might.
    #[inline]
    pub(crate) fn draw(&self, entry: u32) -> Result<u64> {
        let last = self.words.add(Self::word(entry, at::TOKEN), 1).map_err(|e| self.failed(e))?;
        // It began there, and is noted beside two bits.
        match (self.token_base..u64::MAX >> 2).contains(&last) {
            true => Ok(last + 1),
            false => Err(Error::damaged(&self.path, format!("token {last} was nobody's"))),
        }
    }

    pub(crate) fn last_token(&self, entry: u32) -> Result<u64> {
        self.get(entry, at::TOKEN)
    }

    pub(crate) fn note_recovery(&self, entry: u32) -> Result<()> {
        self.words.add(Self::word(entry, at::RECOVERED), 1).map(drop).map_err(|e| self.failed(e))
    }

    /// Notes that a writer waits for readers, now.
    pub(crate) fn note_writer(&self, entry: u32, millis: u64) -> Result<()> {
        self.put(entry, at::WRITER, millis)
    }

    /// When a writer last waited for readers.
    pub(crate) fn writer(&self, entry: u32) -> Result<u64> {
        self.get(entry, at::WRITER)
    }
}
