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
//! 1. Entries change under an exclusive `flock` of this file, except for what follows, and for tokens, which only grow, and are drawn under the
//!    name's own lock where the words are not mapped.
//! 2. An entry says which inode its lock file has, and the how many-th it is. Whoever locked another one does not hold the lock: it looks *after* it
//!    locked. Whoever holds it alone has a claim as well, which is the same for all files of a name: see [`claim`](crate::protocol::claim).
//! 3. Readers have no claim. A read-write lock whose file was replaced has the inode before noted, and no writer gets in until it is proven
//!    that nobody has that locked: by the kernel's list, if that could be read at once.
//!
//! If we die in the middle: an entry without a file is one whose file is not at its place; a file without an entry is overwritten by the next
//! who needs its number.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::os::clock::{Monotonic, wall_clock_nanos};
use crate::os::file::{self, FileId};
use crate::os::lock_file::{self, LockFile, Mode, Sought};
use crate::os::words::Words;
use crate::protocol::claim::{self, Claim, Claimed, Entry};
use crate::segment::files::{ENTRY_WORDS, FILE_NAME, FilesHeader, HEADER_WORDS, USED};
use crate::segment::format::Kind;
use crate::{Backend, Error, Result};

use super::record::{Dead, Me, RECORD_WORDS, Record};

/// Words of a name.
const NAME_WORDS: usize = 8;

/// How long to wait for whoever changes entries, which takes microseconds.
const PATIENCE: Duration = Duration::from_secs(10);

mod at {
    //! Where a word of an entry is.
    /// Of an entry: kind (low byte), length of the name (next), generation (high half). 0: nobody's.
    pub(super) const META: usize = 0;
    /// Permits (low half), and the entry of the first one (high half).
    pub(super) const COUNT: usize = 1;
    pub(super) const TOKEN: usize = 2;
    pub(super) const DEVICE: usize = 3;
    pub(super) const INODE: usize = 4;
    /// The inode before, if it is not proven that nobody holds it.
    pub(super) const BEFORE: usize = 5;
    /// When a writer last was kept waiting by readers: monotonic milliseconds.
    pub(super) const WRITER: usize = 6;
    /// Deaths that were told.
    pub(super) const RECOVERED: usize = 7;
    pub(super) const NAME: usize = 8;
    /// Who has the lock alone: PID (low half), which file of this name it has locked (high half). 0: nobody.
    pub(super) const CLAIM: usize = 16;
    /// How many files there were of this name.
    pub(super) const FILES: usize = 17;
    pub(super) const RECORD: usize = 20;
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

/// What a lock file turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The name's, the how many-th.
    Current(u32),
    /// Another one is.
    Replaced,
    /// The name is gone.
    Gone,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) space: PathBuf,
    pub(crate) path: PathBuf,
    pub(crate) id: FileId,
    /// Whoever is in the space has that locked.
    directory: FileId,
    pub(crate) capacity: u32,
    pub(crate) mode: u32,
    pub(crate) token_base: u64,
    words: Words,
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
        let directory = FileId::at(space).map_err(|e| Error::system("look at", space, e))?;
        let words = match header.mapped {
            true => map(&file, header.words()).map_err(|e| Error::BackendUnusable {
                path: space.into(),
                backend: Backend::Files,
                missing: format!("mapping its files ({e})"),
            })?,
            false => Words::unmapped(file).map_err(|e| Error::system("open", &path, e))?,
        };
        let FilesHeader { capacity, mode, token_base, .. } = header;
        Ok(Self { space: space.into(), path, id, directory, capacity, mode, token_base, words })
    }

    #[inline]
    pub(crate) fn record(&self, entry: u32) -> Record<'_> {
        Record { words: &self.words, at: Self::word(entry, at::RECORD) }
    }

    pub(crate) fn is_mapped(&self) -> bool {
        self.words.is_mapped()
    }

    fn failed(&self, e: io::Error) -> Error {
        Error::system("use", &self.path, e)
    }

    #[inline]
    fn word(entry: u32, word: usize) -> usize {
        HEADER_WORDS + entry as usize * ENTRY_WORDS + word
    }

    #[inline]
    fn get(&self, entry: u32, word: usize) -> Result<u64> {
        self.words.load(Self::word(entry, word)).map_err(|e| self.failed(e))
    }

    fn put(&self, entry: u32, word: usize, value: u64) -> Result<()> {
        self.words.store(Self::word(entry, word), value).map_err(|e| self.failed(e))
    }

    /// Whether the file is gone, or another one lies in its place.
    pub(crate) fn is_removed(&self) -> bool {
        !FileId::at(&self.path).is_ok_and(|now| now == self.id)
    }

    fn used(&self) -> Result<u32> {
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
        let last = self.get(entry, at::TOKEN)?.max(self.token_base).max(wall_clock_nanos());
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
        let mut length = 0;
        for entry in 0..self.capacity {
            let is_free = entry != but && self.get(entry, at::META)? as u32 == 0;
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
        for entry in (named.first..named.first + parts).chain([named.place.entry]) {
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
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What a lock file is that somebody has locked: to be asked after locking it (invariant 2).
    #[inline]
    pub(crate) fn standing(&self, place: Place, file: FileId) -> Result<Standing> {
        let word = |word| self.words.load_in_order(Self::word(place.entry, word)).map_err(|e| self.failed(e));
        let meta = word(at::META)?;
        if meta as u32 == 0 || (meta >> 32) as u32 != place.generation {
            return Ok(Standing::Gone);
        }
        let entry = EntryWords { index: self, entry: place.entry };
        let is_there = file.device() == word(at::DEVICE)?;
        let count = if is_there { claim::standing(&entry, file.inode())? } else { None };
        Ok(count.map_or(Standing::Replaced, Standing::Current))
    }

    /// Claims the lock for whoever has the current file of `place` locked alone.
    #[inline]
    pub(crate) fn claim(&self, place: Place, count: u32, me: &Me) -> Result<Claimed<String>> {
        let entry = EntryWords { index: self, entry: place.entry };
        let claim = || claim::claim(&entry, count, me.pid(), |seen| self.obstacle(place.entry, seen, me));
        // Where the words are not mapped, one at a time.
        if self.is_mapped() { claim() } else { self.alone(claim) }
    }

    /// Why whoever has the current file of `place` locked among readers may not read, if so.
    pub(crate) fn beside(&self, place: Place, count: u32, me: &Me) -> Result<Option<String>> {
        let entry = EntryWords { index: self, entry: place.entry };
        claim::beside(&entry, count, |seen| self.obstacle(place.entry, seen, me))
    }

    /// Why a claim by another file is not to be replaced, if so.
    fn obstacle(&self, entry: u32, claim: Claim, me: &Me) -> Result<Option<String>> {
        let pid = claim.pid();
        let dead = self.record(entry).dead_owner(me).map_err(|e| self.failed(e))?;
        let Some(Dead { inode, passed_on, .. }) = dead.filter(|dead| dead.pid == pid) else {
            return Ok(Some(format!("process {pid} holds the lock by the one before, as far as can be told")));
        };
        // It may have left the lock to somebody.
        let file = FileId::new(self.get(entry, at::DEVICE)?, inode);
        match self.seek(file)? {
            Sought::Found => {
                Ok(Some(format!("a child of process {pid}, which died, holds the lock by the one before")))
            }
            Sought::NotSeen if passed_on => {
                Ok(Some(format!("programs that process {pid} started may hold the lock by the one before")))
            }
            Sought::NotSeen | Sought::NotThere => Ok(None),
        }
    }

    #[inline]
    pub(crate) fn claim_of(&self, entry: u32) -> Result<Claim> {
        EntryWords { index: self, entry }.claim().map(Claim)
    }

    /// Takes a claim back. The caller still has the file locked.
    #[inline]
    pub(crate) fn unclaim(&self, entry: u32, claim: Claim) {
        // What cannot be written stays: whoever locks this file next replaces it.
        let _ = claim::unclaim(&EntryWords { index: self, entry }, claim);
    }

    /// Whether it is proven that no reader has the lock by the file before (invariant 3). The caller has the present one locked alone.
    #[inline]
    pub(crate) fn has_no_old_readers(&self, place: Place, files: u32) -> Result<bool> {
        let before = self.get(place.entry, at::BEFORE)?;
        if before == 0 {
            return Ok(true);
        }
        let file = FileId::new(self.get(place.entry, at::DEVICE)?, before);
        if self.seek(file)? != Sought::NotThere {
            return Ok(false);
        }
        self.alone(|| {
            // Unless it was replaced again.
            if self.get(place.entry, at::FILES)? as u32 == files {
                self.put(place.entry, at::BEFORE, 0)?;
            }
            Ok(())
        })?;
        Ok(true)
    }

    /// Forgets what might be held by whoever left: nobody else is in the space.
    pub(crate) fn forget_all(&self) -> Result<()> {
        for entry in 0..self.used()? {
            for word in [at::BEFORE, at::CLAIM] {
                if self.get(entry, word)? != 0 {
                    self.put(entry, word, 0)?;
                }
            }
        }
        Ok(())
    }

    /// The entry of one permit of a semaphore.
    pub(crate) fn part(&self, semaphore: &Named, part: u32) -> Result<Place> {
        let entry = semaphore.first.saturating_add(part);
        let meta = self.get(entry, at::META)?;
        match meta as u8 {
            PERMIT => Ok(Place { entry, generation: (meta >> 32) as u32 }),
            _ => Err(Error::damaged(&self.path, format!("\"{}\" has lost its permits", semaphore.name))),
        }
    }

    /// Opens the lock file of an entry, making it anew if it is not at its place.
    pub(crate) fn open(&self, place: Place) -> Result<LockFile> {
        let path = self.lock_path(place.entry);
        let is_it = |file: &LockFile| self.standing(place, file.id()).map(|it| matches!(it, Standing::Current(_)));
        match LockFile::open(&path) {
            Ok(file) if is_it(&file)? => return Ok(file),
            // What keeps us from opening it says nothing of what it is.
            Err(e) if !is_something_else(&e) => return Err(Error::system("open", &path, e)),
            _ => {}
        }
        self.alone(|| match LockFile::open(&path) {
            Ok(file) if is_it(&file)? => Ok(file),
            Err(e) if !is_something_else(&e) => Err(Error::system("open", &path, e)),
            _ if !self.is_still(place)? => Err(Error::Removed { path: self.space.clone() }),
            _ => self.make(place.entry, &path),
        })
    }

    /// Makes the lock file of an entry anew. The caller has the exclusive lock.
    fn make(&self, entry: u32, path: &Path) -> Result<LockFile> {
        let [inode, before] = [self.get(entry, at::INODE)?, self.get(entry, at::BEFORE)?];
        // Only one can be noted.
        if before != 0 && inode != 0 {
            let file = FileId::new(self.get(entry, at::DEVICE)?, before);
            if self.seek(file)? != Sought::NotThere {
                return Err(Error::LockFileGone { path: path.into(), why: readers_left() });
            }
        }
        let new = self.space.join(".lock.new");
        match std::fs::remove_file(&new) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(Error::system("remove", &new, e)),
            _ => {}
        }
        let failed = |e| Error::system("make", path, e);
        let file = LockFile::made_by(|| file::create_new(&new)).map_err(failed)?;
        file::share_as(file.file(), &self.path, self.mode).map_err(failed)?;
        // An inode that has its number again was nobody's in between.
        let is_another = inode != 0 && file.id() != FileId::new(self.get(entry, at::DEVICE)?, inode);
        if is_another && self.kind(entry)? == Kind::RwLock as u8 {
            self.put(entry, at::BEFORE, inode)?;
        }
        // The same for all of them, unless the space was moved to another device and back.
        self.put(entry, at::DEVICE, file.id().device())?;
        claim::replace(&EntryWords { index: self, entry }, file.id().inode())?;
        std::fs::rename(&new, path).map_err(failed)?;
        Ok(file)
    }

    fn seek(&self, file: FileId) -> Result<Sought> {
        lock_file::seek(file, self.directory).map_err(|e| Error::system("read", Path::new("/proc/locks"), e))
    }

    fn kind(&self, entry: u32) -> Result<u8> {
        Ok(self.get(entry, at::META)? as u8)
    }

    /// The inode of an entry's lock file, and the one before if it may still be locked.
    pub(crate) fn inodes(&self, entry: u32) -> Result<[FileId; 2]> {
        let device = self.get(entry, at::DEVICE)?;
        Ok([FileId::new(device, self.get(entry, at::INODE)?), FileId::new(device, self.get(entry, at::BEFORE)?)])
    }

    /// The next token of a name. Where the words are not mapped, only for whoever holds the name's lock.
    #[inline]
    pub(crate) fn draw(&self, entry: u32) -> Result<u64> {
        self.words.add(Self::word(entry, at::TOKEN), 1).map(|last| last + 1).map_err(|e| self.failed(e))
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

/// The words of an entry that say whose its lock file is.
struct EntryWords<'a> {
    index: &'a Index,
    entry: u32,
}

impl EntryWords<'_> {
    #[inline]
    fn load(&self, word: usize) -> Result<u64> {
        self.index.words.load_in_order(Index::word(self.entry, word)).map_err(|e| self.index.failed(e))
    }

    fn store(&self, word: usize, value: u64) -> Result<()> {
        self.index.words.store_in_order(Index::word(self.entry, word), value).map_err(|e| self.index.failed(e))
    }
}

impl Entry for EntryWords<'_> {
    type Error = Error;

    #[inline]
    fn claim(&self) -> Result<u64> {
        self.load(at::CLAIM)
    }

    #[inline]
    fn swap_claim(&self, expected: u64, new: u64) -> Result<bool> {
        let at = Index::word(self.entry, at::CLAIM);
        self.index.words.compare_exchange(at, expected, new).map_err(|e| self.index.failed(e))
    }

    #[inline]
    fn count(&self) -> Result<u32> {
        self.load(at::FILES).map(|count| count as u32)
    }

    fn set_count(&self, count: u32) -> Result<()> {
        self.store(at::FILES, count.into())
    }

    #[inline]
    fn inode(&self) -> Result<u64> {
        self.load(at::INODE)
    }

    fn set_inode(&self, inode: u64) -> Result<()> {
        self.store(at::INODE, inode)
    }
}

/// Whether what could not be opened is nothing, or nothing of ours: a link, a directory, a pipe.
fn is_something_else(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ELOOP | libc::EISDIR | libc::ENXIO | libc::ENOTDIR))
}

/// Why a writer cannot be let in, or a file not be made anew.
pub(crate) fn readers_left() -> String {
    "readers may hold the lock by the one before: who has that locked cannot be seen here, or there are too many locks on the machine to see it \
     at once; it can when no process is in the space any more"
        .into()
}
