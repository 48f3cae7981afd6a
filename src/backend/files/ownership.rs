//! Which file is a name's, and who has it: a lock file that is not at its place is made anew, and nobody holds the lock by two.

use std::io::{self, ErrorKind};
use std::path::Path;

use super::index::{Index, Place, at};
use super::record::{Dead, Me};
use crate::os::file::{self, FileId};
use crate::os::lock_file::{self, KernelLocks, LockFile, Mode, Sought};
use crate::protocol::claim::{self, Claim, Claimed, Entry};
use crate::segment::format::Kind;
use crate::{Error, Result};

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

impl Index {
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
    pub(crate) fn claim(&self, place: Place, count: u32, locked: FileId, me: &Me) -> Result<Claimed<String>> {
        let entry = EntryWords { index: self, entry: place.entry };
        let claim = || claim::claim(&entry, count, me.pid(), |seen| self.obstacle(place.entry, seen, locked, me));
        // Where the words are not mapped, one at a time.
        if self.is_mapped() { claim() } else { self.alone(claim) }
    }

    /// Why whoever has the current file of `place` locked among readers may not read, if so.
    pub(crate) fn beside(&self, place: Place, count: u32, locked: FileId, me: &Me) -> Result<Option<String>> {
        let entry = EntryWords { index: self, entry: place.entry };
        claim::beside(&entry, count, |seen| self.obstacle(place.entry, seen, locked, me))
    }

    /// Why a claim by another file than `locked` is not to be replaced, if so.
    fn obstacle(&self, entry: u32, claim: Claim, locked: FileId, me: &Me) -> Result<Option<String>> {
        let pid = claim.pid();
        let dead = self.record(entry).dead_owner(me).map_err(|e| self.failed(e))?;
        let Some(Dead { inode, passed_on, .. }) = dead.filter(|dead| dead.pid == pid) else {
            return Ok(Some(format!("process {pid} holds the lock by the one before, as far as can be told")));
        };
        // It may have left the lock to somebody.
        let file = FileId::new(self.get(entry, at::DEVICE)?, inode);
        match self.seek(file, locked)? {
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
    pub(crate) fn has_no_old_readers(&self, place: Place, files: u32, locked: FileId) -> Result<bool> {
        let before = self.get(place.entry, at::BEFORE)?;
        if before == 0 {
            return Ok(true);
        }
        let file = FileId::new(self.get(place.entry, at::DEVICE)?, before);
        if self.seek(file, locked)? != Sought::NotThere {
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

    /// Opens the lock file of an entry, making it anew if it is not at its place. `None`: the name is gone.
    pub(crate) fn open(&self, place: Place) -> Result<Option<LockFile>> {
        let path = self.lock_path(place.entry);
        let is_it = |file: &LockFile| self.standing(place, file.id()).map(|it| matches!(it, Standing::Current(_)));
        match LockFile::open(&path) {
            Ok(file) if is_it(&file)? => return Ok(Some(file)),
            // What keeps us from opening it says nothing of what it is.
            Err(e) if !is_something_else(&e) => return Err(Error::system("open", &path, e)),
            _ => {}
        }
        self.alone(|| match LockFile::open(&path) {
            Ok(file) if is_it(&file)? => Ok(Some(file)),
            Err(e) if !is_something_else(&e) => Err(Error::system("open", &path, e)),
            _ if !self.is_still(place)? => Ok(None),
            _ => self.make(place.entry, &path).map(Some),
        })
    }

    /// Makes the lock file of an entry anew. The caller has the exclusive lock.
    fn make(&self, entry: u32, path: &Path) -> Result<LockFile> {
        let [inode, before] = [self.get(entry, at::INODE)?, self.get(entry, at::BEFORE)?];
        // Whatever lies there: who has it locked may be a reader of this lock, if it is not the file that is wrong but what was noted of it.
        if let Ok(there) = LockFile::open(path)
            && !there.try_lock(Mode::Exclusive).map_err(|e| Error::system("lock", path, e))?
        {
            let why =
                "what lies in its place is locked as well; it is made anew when whoever has that lets go of it".into();
            return Err(Error::LockFileGone { path: path.into(), why });
        }
        // Only one can be noted.
        if before != 0 && inode != 0 {
            let file = FileId::new(self.get(entry, at::DEVICE)?, before);
            if self.seek(file, self.id)? != Sought::NotThere {
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

    /// The caller has `witness` locked.
    fn seek(&self, file: FileId, witness: FileId) -> Result<Sought> {
        lock_file::seek(file, witness).map_err(|e| Error::system("read", Path::new("/proc/locks"), e))
    }

    /// Whether the kernel lists files of this space by the numbers that we know them by. (A directory, and a file, of an overlay differ in that.)
    pub(crate) fn is_listed_as_it_is(&self) -> bool {
        let is_listed = || {
            let file = LockFile::made_by(|| file::open_to_read(&self.path)).ok()?;
            if !file.try_lock(Mode::Shared).ok()? {
                return None;
            }
            let locks = KernelLocks::read();
            file.unlock();
            let me = std::process::id();
            Some(locks.ok()?.of(file.id()).any(|lock| lock.pid == me))
        };
        is_listed().unwrap_or(false)
    }

    fn kind(&self, entry: u32) -> Result<u8> {
        Ok(self.get(entry, at::META)? as u8)
    }

    /// The inode of an entry's lock file, and the one before if it may still be locked.
    pub(crate) fn inodes(&self, entry: u32) -> Result<[FileId; 2]> {
        let device = self.get(entry, at::DEVICE)?;
        Ok([FileId::new(device, self.get(entry, at::INODE)?), FileId::new(device, self.get(entry, at::BEFORE)?)])
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
