//! A barrier between processes.

use std::fmt;
use std::time::{Duration, Instant};

use crate::backend::barrier::SharedBarrier;
use crate::backend::seats::Held;
use crate::os::clock::Deadline;
use crate::os::fork;
use crate::{Holder, Result};

/// A handle for a barrier: as many members as it was made for wait for each other, phase after phase. Made by
/// [`Space::barrier`](crate::Space::barrier).
///
/// # When a member dies
/// If it had not arrived, the barrier breaks: every member that waits gets [`Error::Broken`](crate::Error::Broken), which says who it was, and so does every
/// one that arrives later. If it had arrived, it did its part; the phase is passed, and the next one breaks. Either way a phase is passed by all or
/// broken for all. When all members have left (their [`BarrierMember`]s are dropped, or they are dead), it can be joined anew, and goes on with the
/// next phase.
///
/// A member that gives up waiting breaks it as well: the others would wait for ever for what it might do.
///
/// # Cost
/// Each arrival looks at all members, so a phase of *n* costs *n*². It is meant for tens of members.
///
/// ```
/// # let root = tempfile::tempdir()?;
/// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
/// let steps = space.barrier("simulation-step", 2)?;
/// let (mut one, mut two) = (steps.join()?, steps.join()?); // in two processes, or threads
/// std::thread::scope(|scope| {
///     scope.spawn(|| two.wait().unwrap());
///     let met = one.wait().unwrap();
///     assert_eq!(met.phase, 0);
/// });
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Barrier(SharedBarrier);

/// A phase of a barrier that all members arrived in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BarrierWait {
    /// The number of the phase; the first is 0.
    pub phase: u64,
    /// Whether this member is the one that found all others there. Of each phase there is one at most: none if it died right then.
    pub is_leader: bool,
}

impl Barrier {
    pub(crate) fn new(barrier: SharedBarrier) -> Self {
        Self(barrier)
    }

    /// The barrier's name.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// How many members it takes.
    pub fn members(&self) -> u32 {
        self.0.members()
    }

    /// Who is a member now, one for each.
    ///
    /// # Errors
    /// [`Error::Removed`](crate::Error::Removed), [`Error::System`](crate::Error::System) if the name has to be looked up anew and cannot be;
    /// [`Error::Damaged`](crate::Error::Damaged).
    pub fn holders(&self) -> Result<Vec<Holder>> {
        self.0.holders()
    }

    /// Becomes a member: from now on nobody passes without this one.
    ///
    /// # Errors
    /// [`Error::NoSeat`](crate::Error::NoSeat) if there are as many as it takes; [`Error::Broken`](crate::Error::Broken) if it is, and not all members have left;
    /// otherwise as [`Mutex::lock`](crate::Mutex::lock).
    pub fn join(&self) -> Result<BarrierMember> {
        Ok(BarrierMember { held: self.0.join(fork::thread())?, barrier: self.0.clone() })
    }
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Barrier").field("name", &self.name()).finish_non_exhaustive()
    }
}

/// A member of a barrier, until this is dropped. Made by [`Barrier::join`].
#[must_use = "dropped, it is no member any more"]
pub struct BarrierMember {
    barrier: SharedBarrier,
    held: Held,
}

impl BarrierMember {
    /// A token that is larger than that of every member that joined before.
    pub fn token(&self) -> u64 {
        self.barrier.token(self.held)
    }

    /// Arrives, and waits until all members have.
    ///
    /// # Errors
    /// [`Error::Broken`](crate::Error::Broken) if a member died before it arrived, or gave up; [`Error::Lost`](crate::Error::Lost) in a forked child, which is no
    /// member; [`Error::Removed`](crate::Error::Removed) if the space's file is gone; [`Error::Damaged`](crate::Error::Damaged).
    pub fn wait(&mut self) -> Result<BarrierWait> {
        self.wait_within(Deadline::Never)
    }

    /// As [`wait`](Self::wait), for at most `timeout`. Then the barrier is broken for all.
    ///
    /// # Errors
    /// [`Error::TimedOut`](crate::Error::TimedOut); otherwise as [`wait`](Self::wait).
    pub fn wait_for(&mut self, timeout: Duration) -> Result<BarrierWait> {
        self.wait_within(Deadline::after(timeout))
    }

    /// As [`wait_for`](Self::wait_for), until `deadline` at most.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    pub fn wait_until(&mut self, deadline: Instant) -> Result<BarrierWait> {
        self.wait_within(Deadline::at(deadline))
    }

    fn wait_within(&mut self, deadline: Deadline) -> Result<BarrierWait> {
        let passed = self.barrier.wait(self.held, fork::thread(), deadline)?;
        Ok(BarrierWait { phase: passed.phase, is_leader: passed.leader })
    }
}

impl Drop for BarrierMember {
    fn drop(&mut self) {
        self.barrier.leave(self.held);
    }
}

impl fmt::Debug for BarrierMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BarrierMember").field("name", &self.barrier.name()).finish_non_exhaustive()
    }
}
