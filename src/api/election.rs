//! One leader at a time.

use std::fmt;
use std::time::{Duration, Instant};

use super::lease::{Lease, LeaseGuard};
use super::mutex::Mutex;
use super::space::Space;
use crate::backend::cancel;
use crate::backend::wait::sleep;
use crate::{Abandoned, Error, Holder, Result};

/// A handle for an election: of all processes that campaign under its name, one leads, until it resigns, dies, or loses its lease. Made by
/// [`Space::election`].
///
/// It is the mutex of that name, held with a lease that is [kept](Lease::kept): so `hostlock status` shows the leader, and `hostlock run NAME` under that name keeps
/// everybody from leading meanwhile. Who resigns lets those who campaign go first.
///
/// # How many leaders there are
/// At most one for each token, and tokens grow. At each moment at most one process has the lock; but one that was stopped, or suspended, goes on believing that it
/// leads until it looks ([`Leadership::is_leader`], [`Lease::on_lost`]). What a leader does to anything outside should bring its token, and meet a
/// [`Fence`](crate::Fence).
///
/// # When the leader dies
/// The next one leads at once, whatever is left of the lease, and is told ([`Leadership::predecessor`]).
///
/// ```
/// # let root = tempfile::tempdir()?;
/// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
/// use std::time::Duration;
///
/// let election = space.election("scheduler", Duration::from_secs(5))?;
/// let leadership = election.campaign()?; // waits until this process leads
/// assert_eq!(election.leader()?.unwrap().token, leadership.token());
/// while leadership.is_leader() {
///     // ... one round of what a leader does
///     # break;
/// }
/// leadership.resign()?;
/// assert_eq!(election.leader()?, None);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Election {
    mutex: Mutex,
    lease: Lease,
}

impl Space {
    /// A handle for the election `name` of this space. Whoever leads holds it with this lease, which is kept; how long it is decides how long nobody leads
    /// when the leader is stopped or hangs.
    ///
    /// # Errors
    /// As [`mutex`](Self::mutex); [`Error::InvalidOption`] if the lease is shorter than ten milliseconds; [`Error::Unsupported`] in a space of lock files.
    pub fn election(&self, name: &str, lease: impl Into<Lease>) -> Result<Election> {
        let election = Election { mutex: self.mutex(name)?, lease: lease.into().kept().fair() };
        election.mutex.check_lease(&election.lease)?;
        Ok(election)
    }
}

impl Election {
    /// The election's name.
    pub fn name(&self) -> &str {
        self.mutex.name()
    }

    /// Campaigns for as long as it takes until this process leads.
    ///
    /// # Errors
    /// As [`Mutex::lock_with_lease`].
    pub fn campaign(&self) -> Result<Leadership> {
        self.mutex.lock_with_lease(self.lease.clone()).map(Leadership)
    }

    /// Leads if nobody does.
    ///
    /// # Errors
    /// [`Error::WouldBlock`], naming the leader; otherwise as [`campaign`](Self::campaign).
    pub fn try_campaign(&self) -> Result<Leadership> {
        self.mutex.try_lock_with_lease(self.lease.clone()).map(Leadership)
    }

    /// Campaigns for at most `timeout`.
    ///
    /// # Errors
    /// [`Error::TimedOut`], naming the leader; otherwise as [`campaign`](Self::campaign).
    pub fn campaign_for(&self, timeout: Duration) -> Result<Leadership> {
        self.mutex.try_lock_with_lease_for(self.lease.clone(), timeout).map(Leadership)
    }

    /// Who leads at this moment, since when, and with which token; `None` if nobody does, or the lease of whoever did ran out (and its
    /// [delay](Lease::lock_delay), if it has one).
    ///
    /// # Errors
    /// As [`Mutex::holder`].
    pub fn leader(&self) -> Result<Option<Holder>> {
        Ok(self.mutex.holder()?.filter(|leader| leader.lease != Some(Duration::ZERO)))
    }

    /// Waits until somebody else leads than the one with the token `known` (`None`: than nobody), or nobody; who leads then. It looks every few milliseconds, so
    /// that those who only follow cost the leader nothing; a leader that came and went in between is not seen.
    ///
    /// # Errors
    /// [`Error::TimedOut`], naming the leader, after `timeout`; otherwise as [`leader`](Self::leader).
    ///
    /// ```
    /// # let root = tempfile::tempdir()?;
    /// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
    /// use std::time::Duration;
    ///
    /// let election = space.election("scheduler", Duration::from_secs(5))?;
    /// let leadership = election.campaign()?;
    /// let leader = election.wait_for_change(None, Duration::from_secs(1))?.unwrap();
    /// assert_eq!(leader.token, leadership.token());
    /// leadership.resign()?;
    /// assert_eq!(election.wait_for_change(Some(leader.token), Duration::from_secs(1))?, None);
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// ```
    pub fn wait_for_change(&self, known: Option<u64>, timeout: Duration) -> Result<Option<Holder>> {
        let (started, mut pause) = (Instant::now(), Duration::from_millis(1));
        loop {
            let leader = self.leader()?;
            if leader.as_ref().map(|leader| leader.token) != known {
                return Ok(leader);
            }
            if cancel::is_due() {
                return Err(Error::Cancelled { name: self.name().into() });
            }
            let waited = started.elapsed();
            if waited >= timeout {
                return Err(Error::TimedOut { name: self.name().into(), holder: leader.map(Box::new), waited });
            }
            sleep(pause.min(timeout - waited));
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

impl fmt::Debug for Election {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Election").field("name", &self.name()).field("lease", &self.lease).finish()
    }
}

/// This process leads, until this is dropped, or until it is lost.
#[must_use = "whoever drops it resigns"]
#[derive(Debug)]
pub struct Leadership(LeaseGuard);

impl Leadership {
    /// The token of this term: larger than that of every earlier leader. Hand it to what the leader changes.
    pub fn token(&self) -> u64 {
        self.0.token()
    }

    /// Whether this process still leads. Once false, for ever; `false` in a forked child. It is a question about now: see [`Election`].
    pub fn is_leader(&self) -> bool {
        self.0.is_held()
    }

    /// How long this process leads for sure, if its lease is not renewed; zero if it was lost.
    pub fn remaining(&self) -> Duration {
        self.0.remaining()
    }

    /// The leader before this one, if it died, or lost its lease: what it did may be half done.
    pub fn predecessor(&self) -> Option<&Abandoned> {
        self.0.abandoned()
    }

    /// Lets somebody else lead, as dropping does, and says whether this process led until now.
    ///
    /// # Errors
    /// [`Error::Lost`] if it did not.
    pub fn resign(self) -> Result<()> {
        self.0.unlock()
    }
}
