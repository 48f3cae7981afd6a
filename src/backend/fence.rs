//! The largest token that a resource has seen: in the segment beside a lock of its own, or in a file.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cancel;
use super::either::{AnySpace, AsExclusive, Exclusive};
use super::files::lock::Pauses;
use super::lock::{Acquisition, SharedLock, Spec, Waited};
use super::shared::watch_forks;
use crate::os::clock::Deadline;
use crate::os::file;
use crate::os::lock_file::{LockFile, Mode};
use crate::segment::format::Kind;
use crate::{Error, Result};

/// What only a segment can have.
const FENCE: &str = "a fence (one in a file can: Fence::open)";

/// One in a segment.
#[derive(Clone, Debug)]
pub(crate) struct SharedFence(SharedLock);

impl AsExclusive for SharedFence {
    fn exclusive(&self) -> Exclusive<'_> {
        Exclusive::Segment(&self.0)
    }

    fn release(&self, acquisition: Acquisition) -> bool {
        self.0.release(acquisition)
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
            Ok(acquisition) => Waited::at_once(acquisition),
            Err(begun) => self.0.acquire(thread, deadline, begun)?,
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
/// machine, leave the one before.
#[derive(Debug)]
pub(crate) struct FileFence {
    path: Arc<Path>,
}

/// Somebody is behind it.
pub(crate) struct Inside(LockFile);

impl Inside {
    /// Whether it is this process.
    pub(crate) fn is_ours(&self) -> bool {
        self.0.is_ours()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
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
        match file::create_new(path) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(Error::system("make", path, e)),
            _ => {}
        }
        fence.newest()?;
        Ok(fence)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, doing: &'static str) -> impl Fn(std::io::Error) -> Error {
        move |e| Error::system(doing, &self.path, e)
    }

    pub(crate) fn newest(&self) -> Result<u64> {
        Ok(self.read(&self.lock(Mode::Shared, Deadline::Never)?)?.0)
    }

    /// Lets `token` in alone, if none is larger, for as long as the file stays locked.
    pub(crate) fn enter(&self, token: u64, deadline: Deadline) -> Result<Inside> {
        let locked = self.lock(Mode::Exclusive, deadline)?;
        let (newest, next) = self.read(&locked)?;
        if token < newest {
            return Err(Error::Fenced { fence: self.path.to_string_lossy().into(), token, newest });
        }
        if token > newest {
            let mut record = [0; RECORD];
            record[..8].copy_from_slice(&MAGIC);
            record[8..16].copy_from_slice(&token.to_le_bytes());
            record[16..24].copy_from_slice(&(!token).to_le_bytes());
            locked.file().write_all_at(&record, (next * RECORD) as u64).map_err(self.failed("write"))?;
            // What is written with the token must not be there before it.
            locked.file().sync_data().map_err(self.failed("write"))?;
        }
        Ok(Inside(locked))
    }

    /// Locks the file that is there now.
    fn lock(&self, mode: Mode, deadline: Deadline) -> Result<LockFile> {
        let mut pauses = Pauses::new(deadline);
        loop {
            let locked = LockFile::open(&self.path).map_err(self.failed("open"))?;
            if locked.try_lock(mode).map_err(self.failed("lock"))? {
                let now = file::FileId::at(&self.path).map_err(self.failed("look at"))?;
                if now == locked.id() {
                    return Ok(locked);
                }
            } else if !pauses.pause().0 {
                let name = self.path.to_string_lossy().into();
                if cancel::is_due() {
                    return Err(Error::Cancelled { name });
                }
                return Err(Error::TimedOut { name, holder: None, waited: pauses.waited() });
            }
        }
    }

    /// The largest token, and which of the two records is to be written next.
    fn read(&self, locked: &LockFile) -> Result<(u64, usize)> {
        let mut bytes = Vec::with_capacity(2 * RECORD);
        let length = locked.file().metadata().map_err(self.failed("look at"))?.len();
        if length > 2 * RECORD as u64 {
            return Err(self.damaged());
        }
        bytes.resize(length as usize, 0);
        locked.file().read_exact_at(&mut bytes, 0).map_err(self.failed("read"))?;
        bytes.resize(2 * RECORD, 0);
        let mut records = bytes.chunks_exact(RECORD).map(read_record);
        match (records.next().flatten(), records.next().flatten()) {
            (Some(first), Some(second)) if first > second => Ok((first, 1)),
            (_, Some(second)) => Ok((second, 0)),
            (Some(first), None) => Ok((first, 1)),
            // Made, and never written; or its first writer died amid it.
            (None, None) if length <= RECORD as u64 => Ok((0, 0)),
            (None, None) => Err(self.damaged()),
        }
    }

    fn damaged(&self) -> Error {
        let reason =
            "its contents are not those of a fence; name another file, or remove it while nobody has an old token";
        Error::InvalidOption { option: "fence", value: self.path.display().to_string(), reason: reason.into() }
    }
}

fn read_record(bytes: &[u8]) -> Option<u64> {
    let word = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
    let token = word(8)?;
    (bytes.starts_with(&MAGIC) && word(16)? == !token).then_some(token)
}
