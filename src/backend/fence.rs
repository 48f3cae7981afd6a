//! The largest token that a resource has seen: in the segment beside a lock of its own, or in a file.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::cancel;
use super::either::{AnySpace, Exclusive};
use super::files::lock::Pauses;
use super::lock::{Acquisition, SharedLock, Spec, Waited};
use super::release::AsExclusive;
use super::shared::watch_forks;
use crate::os::clock::Deadline;
use crate::os::file::{self, FileId};
use crate::os::lock_file::{self, LockFile, Mode};
use crate::segment::format::Kind;
use crate::{Error, Result};

/// What only a segment can have.
const FENCE: &str = "fences (Fence::open makes one in a file)";

/// One in a segment.
#[derive(Clone, Debug)]
pub(crate) struct SharedFence(SharedLock);

impl AsExclusive for SharedFence {
    fn exclusive(&self) -> Exclusive<'_> {
        Exclusive::Segment(&self.0)
    }

    fn release_fast(&self, acquisition: Acquisition) -> bool {
        self.0.release_fast(acquisition)
    }
}

impl SharedFence {
    pub(crate) fn new(space: &AnySpace, name: &str) -> Result<Self> {
        SharedLock::new(space.segment(FENCE)?, Spec::of(name, Kind::Fence)).map(Self)
    }

    pub(crate) fn name(&self) -> &str {
        self.0.name()
    }

    pub(crate) fn newest(&self) -> Result<u64> {
        self.0.fence()
    }

    /// Lets `token` in alone, if none is larger.
    pub(crate) fn enter(&self, token: u64, thread: u32, deadline: Deadline) -> Result<Waited> {
        let waited = match self.0.acquire_fast(thread) {
            Some((acquisition, _)) => Waited::at_once(acquisition),
            None => self.0.acquire_slowly(thread, || deadline)?,
        };
        match self.0.raise_fence(waited.acquisition, token) {
            Ok(()) => Ok(waited),
            Err(newest) => {
                // Who has to be told of a death still is.
                self.0.give_up(waited.acquisition);
                Err(Error::Fenced { fence: self.name().into(), token, newest })
            }
        }
    }
}

/// One in a file of its own: two records, of which the one with the larger token counts, and the other is written next. So whoever dies amid it, and the
/// machine, leave the one before. The file is made under another name and has both from the beginning, so one that has none, or another length, never was a fence, or is damaged.
#[derive(Debug)]
pub(crate) struct FileFence {
    path: Arc<Path>,
}

thread_local! {
    /// Behind which fences this thread is, as which process.
    static BEHIND: RefCell<Vec<(u64, FileId)>> = const { RefCell::new(Vec::new()) };
}

/// Somebody is behind it.
pub(crate) struct Inside(LockFile, (u64, FileId));

impl Inside {
    /// Whether it is this process.
    pub(crate) fn is_ours(&self) -> bool {
        self.0.is_ours()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = BEHIND.try_with(|behind| behind.borrow_mut().retain(|other| *other != self.1));
        // In so many words: what this process started may have a copy.
        self.0.unlock();
    }
}

const MAGIC: [u8; 8] = *b"hlfence1";
const RECORD: usize = 32;

impl FileFence {
    /// Finds the file, or makes it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        watch_forks(&path.to_string_lossy())?;
        let fence = Self { path: std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path)).into() };
        match std::fs::symlink_metadata(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => fence.make().map_err(fence.failed("make"))?,
            _ => {}
        }
        fence.newest()?;
        Ok(fence)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, doing: &'static str) -> impl Fn(io::Error) -> Error {
        move |e| Error::system(doing, &self.path, e)
    }

    /// Whole, and on the disk before anybody sees it. If somebody is faster, theirs is as good.
    fn make(&self) -> io::Result<()> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = self.path.file_name().ok_or(ErrorKind::InvalidInput)?.to_string_lossy();
        let new = format!(".{name}.new.{}.{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let new = self.path.with_file_name(new);
        let make = || -> io::Result<()> {
            let file = file::create_new(&new)?;
            file.write_all_at(&[record(0), record(0)].concat(), 0)?;
            file.sync_all()?;
            match std::fs::hard_link(&new, &self.path) {
                Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
            file::open_directory(self.path.parent().unwrap_or(Path::new("/")))?.sync_all()
        };
        let made = make();
        let _ = std::fs::remove_file(&new);
        made
    }

    /// Needs no lock: what is written leaves one of the two records as it is.
    pub(crate) fn newest(&self) -> Result<u64> {
        let file = file::open_to_read(&self.path).map_err(self.failed("open"))?;
        let mut seen = self.read(&file)?;
        for _ in 0..100 {
            match self.read(&file)? {
                again if again == seen => break,
                other => seen = other,
            }
        }
        Ok(seen.0)
    }

    /// Lets `token` in alone, if none is larger, for as long as the file stays locked.
    pub(crate) fn enter(&self, token: u64, deadline: Deadline) -> Result<Inside> {
        let locked = self.lock(deadline)?;
        let (newest, next) = self.read(locked.file())?;
        if token < newest {
            return Err(Error::Fenced { fence: self.name(), token, newest });
        }
        if token > newest {
            let at = (next * RECORD) as u64;
            locked.file().write_all_at(&record(token), at).map_err(self.failed("write"))?;
            // What is written with the token must not be there before it.
            locked.file().sync_data().map_err(self.failed("write"))?;
        }
        let me = (lock_file::process().map_err(self.failed("lock"))?, locked.id());
        let _ = BEHIND.try_with(|behind| behind.borrow_mut().push(me));
        Ok(Inside(locked, me))
    }

    fn name(&self) -> Arc<str> {
        self.path.to_string_lossy().into()
    }

    /// Locks the file that is there now.
    fn lock(&self, deadline: Deadline) -> Result<LockFile> {
        let mut pauses = Pauses::new(deadline);
        loop {
            let locked = LockFile::open(&self.path).map_err(self.failed("open"))?;
            if locked.try_lock(Mode::Exclusive).map_err(self.failed("lock"))? {
                let now = FileId::at(&self.path).map_err(self.failed("look at"))?;
                if now == locked.id() {
                    return Ok(locked);
                }
                continue;
            }
            let me = (lock_file::process().map_err(self.failed("lock"))?, locked.id());
            if BEHIND.try_with(|behind| behind.borrow().contains(&me)).unwrap_or(false) {
                let token = self.read(locked.file())?.0;
                return Err(Error::Deadlock { name: self.name(), token, cycle: Box::default() });
            }
            if !pauses.pause().0 {
                if cancel::is_due() {
                    return Err(Error::Cancelled { name: self.name() });
                }
                return Err(Error::TimedOut { name: self.name(), holder: None, waited: pauses.waited() });
            }
        }
    }

    /// The largest token, and which of the two records is to be written next.
    fn read(&self, file: &File) -> Result<(u64, usize)> {
        let meta = file.metadata().map_err(self.failed("look at"))?;
        if !meta.is_file() || meta.len() != 2 * RECORD as u64 {
            return Err(self.damaged());
        }
        let mut bytes = [0; 2 * RECORD];
        file.read_exact_at(&mut bytes, 0).map_err(self.failed("read"))?;
        let (first, second) = bytes.split_at(RECORD);
        match (token_in(first), token_in(second)) {
            (Some(first), Some(second)) if first > second => Ok((first, 1)),
            (_, Some(second)) => Ok((second, 0)),
            (Some(first), None) => Ok((first, 1)),
            (None, None) => Err(self.damaged()),
        }
    }

    fn damaged(&self) -> Error {
        let reason = "it is something else, or damaged; name another file, or remove it while nobody has an old token";
        Error::InvalidOption { option: "fence", value: self.path.display().to_string(), reason: reason.into() }
    }
}

fn record(token: u64) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..8].copy_from_slice(&MAGIC);
    record[8..16].copy_from_slice(&token.to_le_bytes());
    record[16..24].copy_from_slice(&(!token).to_le_bytes());
    record
}

fn token_in(bytes: &[u8]) -> Option<u64> {
    let word = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
    let token = word(8)?;
    (bytes.starts_with(&MAGIC) && word(16)? == !token).then_some(token)
}
