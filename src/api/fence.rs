//! Fencing tokens, seen from what a lock protects.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::guard::Hold;
use super::space::Space;
use crate::backend::fence::{self, FileFence, SharedFence};
use crate::os::clock::Deadline;
use crate::os::fork;
use crate::{Abandoned, Result};

/// What stands before a resource and lets nobody in with a token that is older than the newest it has seen.
///
/// A lock with a lease can be lost by a process that was stopped, or suspended, and that does not know yet. What it writes then is late: somebody else has
/// the lock. It cannot be kept from trying, but from succeeding: every access brings the token of the acquisition it is made under
/// ([`MutexGuard::token`](crate::MutexGuard::token)), and the fence refuses a smaller one than the largest that it has let in. (Nobody can be refused before somebody
/// with a larger token came: until then the late one is late for nobody.)
///
/// Looking first and writing then is not enough, for a process can be stopped between the two. So [`enter`](Self::enter) gives a guard, and
/// while that is there nobody else is let in: what is done under it is done before anything that has a larger token.
///
/// It lives in a space's segment ([`Space::fence`](crate::Space::fence)), where it is as fast as a mutex and is gone when the machine restarts, as are all processes
/// that had a token; or in a file beside what it protects ([`Fence::open`]), where it stays.
///
/// ```
/// # let root = tempfile::tempdir()?;
/// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
/// use std::time::Duration;
/// use hostlock::Error;
///
/// let (mutex, fence) = (space.mutex("ledger")?, space.fence("ledger-file")?);
/// let slow = mutex.lock_with_lease(Duration::from_millis(20))?;
/// // ... stopped here, for longer than that; somebody else goes on:
/// let next = mutex.lock()?;
/// fence.enter(next.token())?.write(|| println!("written"));
///
/// // ... and when the slow one goes on, its write is refused.
/// let error = fence.enter(slow.token()).unwrap_err();
/// assert!(matches!(error, Error::Fenced { newest, .. } if newest == next.token()));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
///
/// # When somebody dies
/// Whoever dies behind the fence leaves it to the next one, who is told by [`FenceGuard::abandoned`] (of a fence in a segment). Whoever is *stopped* behind it
/// keeps everybody out until it goes on: it may be writing.
pub struct Fence(Inner);

enum Inner {
    Segment(SharedFence),
    File(FileFence),
}

impl Space {
    /// The fence `name` of this space, which is created if nobody named it before. It stays for as long as the space does: the name is not given up for another. Fences and locks share
    /// their names: a mutex and its fence need two.
    ///
    /// # Errors
    /// As [`mutex`](Self::mutex); [`Error::Unsupported`](crate::Error::Unsupported) in a space of lock files: see [`Fence::open`].
    pub fn fence(&self, name: &str) -> Result<Fence> {
        SharedFence::new(self.backend_space(), name).map(|fence| Fence(Inner::Segment(fence)))
    }
}

impl Fence {
    /// The fence in a file, which is made if it is not there, for this user; of one that is there the permissions stay. It is 64 bytes. Put it where what it protects is: it
    /// has to live as long. Whoever removes it, or puts an older copy in its place, takes the fence down; whoever enters with a token that is none (`u64::MAX`) closes it for all that are. It
    /// is no lock file, and has nothing to do with a space.
    ///
    /// # Errors
    /// [`Error::System`](crate::Error::System); [`Error::InvalidOption`](crate::Error::InvalidOption) if the file is something else, or damaged: then nothing is written to it.
    ///
    /// ```
    /// # let root = tempfile::tempdir()?;
    /// # let path = root.path().join("ledger.fence");
    /// let fence = hostlock::Fence::open(&path)?;
    /// fence.admit(7)?;
    /// assert!(fence.admit(6).is_err());
    /// assert_eq!(hostlock::Fence::open(&path)?.newest()?, 7);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        FileFence::open(path.as_ref()).map(|fence| Self(Inner::File(fence)))
    }

    /// Lets the holder of `token` in, alone, if nobody came with a larger one; waits while somebody is in.
    ///
    /// # Errors
    /// [`Error::Fenced`](crate::Error::Fenced) if a larger token was here; [`Error::Deadlock`](crate::Error::Deadlock) if this thread is behind it already; of a fence in a segment as [`Mutex::lock`](crate::Mutex::lock), of one in a file
    /// [`Error::System`](crate::Error::System).
    pub fn enter(&self, token: u64) -> Result<FenceGuard<'_>> {
        self.enter_until(token, Deadline::Never)
    }

    /// The same, waiting for at most `timeout`.
    ///
    /// # Errors
    /// [`Error::TimedOut`](crate::Error::TimedOut); otherwise as [`enter`](Self::enter).
    pub fn enter_for(&self, token: u64, timeout: Duration) -> Result<FenceGuard<'_>> {
        self.enter_until(token, Deadline::after(timeout))
    }

    fn enter_until(&self, token: u64, deadline: Deadline) -> Result<FenceGuard<'_>> {
        let inside = match &self.0 {
            Inner::Segment(fence) => {
                Inside::Segment(Hold::waited(fence, fence.enter(token, fork::thread(), deadline)?))
            }
            Inner::File(fence) => Inside::File(fence.enter(token, deadline)?),
        };
        Ok(FenceGuard { inside, token, _stays_in_its_thread: std::marker::PhantomData })
    }

    /// Notes `token` as seen if none larger was, and lets go at once: for a resource that puts what follows in order by itself, such as a
    /// transaction that stores the token with what it writes.
    ///
    /// # Errors
    /// As [`enter`](Self::enter).
    pub fn admit(&self, token: u64) -> Result<()> {
        self.enter(token).map(drop)
    }

    /// The largest token that was let in; 0: none yet.
    ///
    /// # Errors
    /// As [`enter`](Self::enter), but [`Error::Fenced`](crate::Error::Fenced).
    pub fn newest(&self) -> Result<u64> {
        match &self.0 {
            Inner::Segment(fence) => fence.newest(),
            Inner::File(fence) => fence.newest(),
        }
    }
}

impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Fence");
        match &self.0 {
            Inner::Segment(fence) => out.field("name", &fence.name()),
            Inner::File(fence) => out.field("path", &fence.path()),
        };
        out.finish_non_exhaustive()
    }
}

/// Somebody is behind the fence, until this is dropped. Made by [`Fence::enter`].
#[must_use = "the fence lets others in as soon as its guard is dropped"]
pub struct FenceGuard<'a> {
    inside: Inside<'a>,
    token: u64,
    _stays_in_its_thread: std::marker::PhantomData<std::sync::MutexGuard<'static, ()>>,
}

enum Inside<'a> {
    Segment(Hold<&'a SharedFence>),
    File(fence::Inside),
}

impl FenceGuard<'_> {
    /// The token that was let in: not that of this guard, but the one it was shown.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Does what is to be done behind the fence, and lets go of it.
    pub fn write<T>(self, write: impl FnOnce() -> T) -> T {
        write()
    }

    /// Who died behind the fence, if this is the first to come after that: what it protects may be half written. Of a fence in a file nobody knows.
    pub fn abandoned(&self) -> Option<&Abandoned> {
        match &self.inside {
            Inside::Segment(hold) => hold.abandoned(),
            Inside::File(_) => None,
        }
    }

    /// Whether this process still is the one behind the fence. `false` in a forked child.
    pub fn is_held(&self) -> bool {
        match &self.inside {
            Inside::Segment(hold) => hold.is_held(),
            Inside::File(locked) => locked.is_ours(),
        }
    }
}

impl fmt::Debug for FenceGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FenceGuard").field("token", &self.token).finish_non_exhaustive()
    }
}
