//! What all guards of one owner word are made of: a mutex's, and a writer's.

use std::fmt;
use std::mem::ManuallyDrop;
use std::time::Duration;

use crate::backend::either::Exclusive;
use crate::backend::lock::{Abandonment, Acquisition, Waited};
use crate::backend::release::AsExclusive;
use crate::os::clock::Deadline;
use crate::{Abandoned, Error, Result};

/// A deadline that has passed.
pub(super) fn now() -> Deadline {
    Deadline::after(Duration::ZERO)
}

/// An acquisition, and the handle to release it with: borrowed or owned.
pub(super) struct Hold<L: AsExclusive> {
    pub(super) lock: L,
    pub(super) acquisition: Acquisition,
    /// By hand, so that dropping a guard that has nothing to tell is short enough to be inlined.
    abandoned: ManuallyDrop<Option<Box<Abandonment>>>,
}

impl<L: AsExclusive> Hold<L> {
    #[inline(always)]
    pub(super) fn fast(lock: L, acquisition: Acquisition) -> Self {
        Self { lock, acquisition, abandoned: ManuallyDrop::new(None) }
    }

    pub(super) fn waited(lock: L, waited: Waited) -> Self {
        Self::told(lock, waited.acquisition, waited.abandoned)
    }

    #[inline(always)]
    pub(super) fn told(lock: L, acquisition: Acquisition, abandoned: Option<Box<Abandonment>>) -> Self {
        Self { lock, acquisition, abandoned: ManuallyDrop::new(abandoned) }
    }

    pub(super) fn token(&self) -> u64 {
        self.lock.exclusive().token(self.acquisition)
    }

    pub(super) fn is_held(&self) -> bool {
        self.lock.exclusive().is_held(self.acquisition)
    }

    pub(super) fn abandoned(&self) -> Option<&Abandoned> {
        self.abandoned.as_deref().map(|abandoned| &abandoned.told)
    }

    #[inline(always)]
    fn release(&mut self) -> bool {
        // Nothing here has its address taken, so a guard that has nothing to tell never is in memory.
        let abandoned = self.abandoned.take();
        if abandoned.is_none() && self.lock.release_fast(self.acquisition) {
            return true;
        }
        release_told(self.lock.exclusive(), self.acquisition, abandoned)
    }

    /// Cleans up after the owner before us. Not in a forked child, which ended nothing and has no part in this.
    fn bury(&mut self, ended: bool) {
        match self.abandoned.take() {
            Some(abandoned) if ended => self.lock.exclusive().bury(&abandoned),
            _ => {}
        }
    }

    pub(super) fn unlock(mut self) -> Result<()> {
        let released = self.release();
        self.end(released)
    }

    pub(super) fn unlock_fair(mut self) -> Result<()> {
        let released = self.lock.exclusive().release_fair(self.acquisition);
        self.bury(released);
        self.end(released)
    }

    pub(super) fn abandon(mut self) -> Result<()> {
        let abandoned = self.lock.exclusive().abandon(self.acquisition);
        self.bury(abandoned);
        self.end(abandoned)
    }

    /// The same, for whoever is being dropped.
    pub(super) fn abandon_now(&mut self) {
        let acquisition = std::mem::replace(&mut self.acquisition, Acquisition::ENDED);
        let abandoned = self.lock.exclusive().abandon(acquisition);
        self.bury(abandoned);
    }

    /// The acquisition is over, and `drop` has nothing left to end.
    fn end(mut self, ended: bool) -> Result<()> {
        let token = self.token();
        self.acquisition = Acquisition::ENDED;
        match ended {
            true => Ok(()),
            false => Err(Error::Lost { name: self.lock.exclusive().name().into(), token }),
        }
    }

    pub(super) fn stamp(&self) {
        self.lock.exclusive().stamp(self.acquisition);
    }

    /// Releases; the acquisition is over.
    pub(super) fn finish(&mut self) -> Result<()> {
        let released = self.release();
        let token = self.token();
        self.acquisition = Acquisition::ENDED;
        match released {
            true => Ok(()),
            false => Err(Error::Lost { name: self.lock.exclusive().name().into(), token }),
        }
    }

    /// Releases with the mark of a death as it is: the next one is told.
    pub(super) fn give_up(&mut self) {
        let acquisition = std::mem::replace(&mut self.acquisition, Acquisition::ENDED);
        if self.lock.exclusive().is_held(acquisition) {
            self.lock.exclusive().give_up(acquisition, self.abandoned.as_deref());
        } else {
            // What is damaged is set right.
            self.lock.exclusive().release(acquisition);
        }
        self.bury(true);
    }

    /// What was acquired was released by whoever made something else of it.
    pub(super) fn end_elsewhere(&mut self) {
        self.acquisition = Acquisition::ENDED;
        self.bury(true);
    }

    pub(super) fn debug(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("name", &self.lock.exclusive().name())
            .field("token", &self.token())
            .field("abandoned", &self.abandoned())
            .finish_non_exhaustive()
    }
}

impl<L: AsExclusive> Drop for Hold<L> {
    #[inline(always)]
    fn drop(&mut self) {
        self.release();
    }
}

/// Releases a lock that was taken over, and cleans up after its owner then: the next one should not wait for that.
#[cold]
fn release_told(lock: Exclusive<'_>, acquisition: Acquisition, abandoned: Option<Box<Abandonment>>) -> bool {
    let released = lock.release(acquisition);
    match abandoned {
        // Not in a forked child, which ended nothing and has no part in this.
        Some(abandoned) if released => lock.bury(&abandoned),
        _ => {}
    }
    released
}

/// What every such guard can do.
macro_rules! guard {
    ($($guard:tt)+) => {
        impl $($guard)+ {
            /// The fencing token of this acquisition: larger than that of every earlier one of this name, whoever held it,
            /// also across crashes and reboots. Hand it to what the lock protects, and let that reject a smaller one than
            /// the largest it has seen. Its value says nothing else; it does not fit a floating-point number.
            pub fn token(&self) -> u64 {
                self.hold.token()
            }

            /// Who died holding the lock, if this is the first acquisition after that: whatever the lock guards may be half
            /// changed. The mark goes when this guard is released; if this process dies before, the next owner is told.
            pub fn abandoned(&self) -> Option<&$crate::Abandoned> {
                self.hold.abandoned()
            }

            /// Whether this process still holds the lock with this token. `false` in a forked child.
            pub fn is_held(&self) -> bool {
                self.hold.is_held()
            }

            /// Releases the lock, as dropping does, and says whether it still was held.
            ///
            /// # Errors
            /// [`Error::Lost`] if it was not: then it was released by nobody's doing here, or this is a forked child.
            pub fn unlock(self) -> Result<()> {
                self.hold.unlock()
            }

            /// Releases the lock so that whoever waits for it is before whoever just comes: by dropping, it goes to who is fastest, which is
            /// cheaper, and whoever waited for more than a millisecond is let in first anyway. In a space of lock files, where nobody
            /// queues, it is [`unlock`](Self::unlock).
            ///
            /// # Errors
            /// [`Error::Lost`], as for [`unlock`](Self::unlock).
            pub fn unlock_fair(self) -> Result<()> {
                self.hold.unlock_fair()
            }

            /// Ends the acquisition as the death of this process would: the lock is free, and the next owner is told
            /// ([`abandoned`](Self::abandoned)) that this process left what the lock guards half done.
            ///
            /// # Errors
            /// [`Error::Lost`], as for [`unlock`](Self::unlock).
            ///
            /// ```
            /// # let root = tempfile::tempdir()?;
            /// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
            /// let mutex = space.mutex("ledger")?;
            /// let guard = mutex.lock()?;
            /// // ... half-way through it turns out that this cannot be finished, and not be undone either
            /// guard.abandon()?;
            /// let next = mutex.lock()?;
            /// assert_eq!(next.abandoned().unwrap().pid, Some(std::process::id()));
            /// # Ok::<_, Box<dyn std::error::Error>>(())
            /// ```
            pub fn abandon(self) -> Result<()> {
                self.hold.abandon()
            }

            /// Notes the time, so that [`Holder::held`](crate::Holder::held) is exact from now on. An acquisition that had to wait
            /// is noted as it is; one that did not reads no clock, which would cost several times as much as the lock.
            pub fn stamp(&self) {
                self.hold.stamp();
            }
        }

        impl fmt::Debug for $($guard)+ {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let name = stringify!($($guard)+).split('<').next().unwrap_or_default();
                self.hold.debug(name.trim(), f)
            }
        }
    };
}
pub(super) use guard;
