//! A semaphore between processes.

use std::fmt;
use std::mem::ManuallyDrop;
use std::time::{Duration, Instant};

use crate::backend::either::Permits;
use crate::backend::release::{AsPermits, PermitsAt};
use crate::backend::semaphore::{More, Permit};
use crate::os::clock::Deadline;
use crate::{Abandoned, Error, Holder, Result};

/// A handle for a semaphore that all processes in the space share: a number of permits, each of which one process at a time can
/// have. Made by [`Space::semaphore`](crate::Space::semaphore).
///
/// A permit belongs to the *process* that acquired it, and is given back when its guard is dropped; no other process can give it back.
/// Cloning a handle is cheap, and every clone is a handle for the same semaphore.
///
/// # When an owner dies
/// However a process that holds permits ends, exactly its permits come back, and nobody else's. Of each of them the next owner
/// is told, by [`SemaphorePermit::abandoned`]. A process that is merely stopped, or hung, keeps what it has, unless it asked for permits that
/// [expire](Semaphore::acquire_with_lease).
///
/// # Fairness
/// Whoever comes first when a permit is free gets it, until somebody has to wait: then all others queue behind the one that waited
/// longest, which gets each permit that comes free until it has all that it asked for. So `acquire_many` is not starved by those who want
/// one, and two of them never wait for each other's permits. Who waits for permits that it holds itself is found, as others who wait in a circle, if all threads of
/// its process wait ([Deadlocks](crate::Mutex#deadlocks)), and waits for ever otherwise. A process
/// that is stopped while its turn to wait has come keeps those behind it waiting, as one that holds a lock would.
///
/// # Cost
/// Uncontended, two atomic compare-and-swaps, and a third one for the token if other processes acquire permits, too: no system call, no
/// clock, no allocation. To find out that all permits are taken, each of them is looked at: with tens of thousands that is tens of microseconds.
///
/// ```
/// # let root = tempfile::tempdir()?;
/// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
/// let gpus = space.semaphore("gpus", 4)?;
/// let one = gpus.acquire()?;
/// let two = gpus.acquire_many(2)?;
/// assert_eq!(gpus.available()?, 1);
/// assert!(two.token() > one.token());
///
/// // semaphore "gpus" is held by pid 4711 (trainer) with token 1795413213671035000 for 12 s; waited 0.01 s
/// let error = gpus.try_acquire_many_for(2, std::time::Duration::from_millis(10)).unwrap_err();
/// assert!(matches!(error, hostlock::Error::TimedOut { .. }));
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Semaphore(Permits);

impl Semaphore {
    /// The largest number of permits that a semaphore can have.
    pub const MAX_PERMITS: u32 = Permits::MOST;

    pub(crate) fn new(semaphore: Permits) -> Self {
        Self(semaphore)
    }

    pub(super) fn backend(&self) -> &Permits {
        &self.0
    }

    /// The semaphore's name.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// How many permits there are, in use or not.
    pub fn permits(&self) -> u32 {
        self.0.permits()
    }

    /// How many permits nobody alive holds at this moment. Looks at each of them, and at each process that holds one.
    ///
    /// # Errors
    /// As [`holders`](Self::holders).
    pub fn available(&self) -> Result<u32> {
        Ok(self.permits().saturating_sub(self.holders()?.len() as u32))
    }

    /// Who holds the permits at this moment: one [`Holder`] for each permit that somebody alive has, by token.
    ///
    /// # Errors
    /// [`Error::Removed`] and [`Error::System`] if the name has to be looked up anew and cannot be; [`Error::Damaged`].
    pub fn holders(&self) -> Result<Vec<Holder>> {
        self.0.holders()
    }

    /// Acquires a permit, waiting for as long as it takes.
    ///
    /// # Errors
    /// [`Error::Removed`] if the space's file is gone; [`Error::Damaged`] if no permit is free and one names an owner that cannot be;
    /// [`Error::TokensExhausted`].
    ///
    /// # If an owner died
    /// Waiting ends and the permit says so: see [`SemaphorePermit::abandoned`].
    #[inline(always)]
    pub fn acquire(&self) -> Result<SemaphorePermit<'_>> {
        self.one(|| Deadline::Never)
    }

    /// Acquires a permit if one is free and nobody is waiting for one.
    ///
    /// # Errors
    /// [`Error::WouldBlock`], naming a holder; otherwise as [`acquire`](Self::acquire).
    #[inline(always)]
    pub fn try_acquire(&self) -> Result<SemaphorePermit<'_>> {
        self.one(now).map_err(would_block)
    }

    /// Acquires a permit, waiting for at most `timeout`. Zero tries once; a time too long to count waits without end.
    ///
    /// # Errors
    /// [`Error::TimedOut`], naming a holder; otherwise as [`acquire`](Self::acquire).
    #[inline(always)]
    pub fn try_acquire_for(&self, timeout: Duration) -> Result<SemaphorePermit<'_>> {
        self.one(|| Deadline::after(timeout))
    }

    /// Acquires a permit, waiting until `deadline` at most. One in the past tries once.
    ///
    /// # Errors
    /// As [`try_acquire_for`](Self::try_acquire_for).
    #[inline(always)]
    pub fn try_acquire_until(&self, deadline: Instant) -> Result<SemaphorePermit<'_>> {
        self.one(|| Deadline::at(deadline))
    }

    /// Acquires so many permits, all or none, waiting for as long as it takes.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] if there are not so many, or none is asked for; otherwise as [`acquire`](Self::acquire).
    pub fn acquire_many(&self, permits: u32) -> Result<SemaphorePermit<'_>> {
        many(self.borrowed(), permits, Deadline::Never).map(|hold| SemaphorePermit { hold })
    }

    /// Acquires so many permits, all or none, if they are free and nobody is waiting.
    ///
    /// # Errors
    /// [`Error::WouldBlock`], naming a holder; otherwise as [`acquire_many`](Self::acquire_many).
    pub fn try_acquire_many(&self, permits: u32) -> Result<SemaphorePermit<'_>> {
        many(self.borrowed(), permits, now()).map(|hold| SemaphorePermit { hold }).map_err(would_block)
    }

    /// Acquires so many permits, all or none, waiting for at most `timeout`.
    ///
    /// # Errors
    /// [`Error::TimedOut`], naming a holder; otherwise as [`acquire_many`](Self::acquire_many).
    pub fn try_acquire_many_for(&self, permits: u32, timeout: Duration) -> Result<SemaphorePermit<'_>> {
        many(self.borrowed(), permits, Deadline::after(timeout)).map(|hold| SemaphorePermit { hold })
    }

    /// Acquires so many permits, all or none, waiting until `deadline` at most.
    ///
    /// # Errors
    /// As [`try_acquire_many_for`](Self::try_acquire_many_for).
    pub fn try_acquire_many_until(&self, permits: u32, deadline: Instant) -> Result<SemaphorePermit<'_>> {
        many(self.borrowed(), permits, Deadline::at(deadline)).map(|hold| SemaphorePermit { hold })
    }

    /// As [`acquire`](Self::acquire), with a guard that can be kept.
    pub fn acquire_owned(&self) -> Result<OwnedSemaphorePermit> {
        self.owned(1, Deadline::Never)
    }

    /// As [`try_acquire`](Self::try_acquire), with a guard that can be kept.
    pub fn try_acquire_owned(&self) -> Result<OwnedSemaphorePermit> {
        self.owned(1, now()).map_err(would_block)
    }

    /// As [`try_acquire_for`](Self::try_acquire_for), with a guard that can be kept.
    pub fn try_acquire_owned_for(&self, timeout: Duration) -> Result<OwnedSemaphorePermit> {
        self.owned(1, Deadline::after(timeout))
    }

    /// As [`try_acquire_until`](Self::try_acquire_until), with a guard that can be kept.
    pub fn try_acquire_owned_until(&self, deadline: Instant) -> Result<OwnedSemaphorePermit> {
        self.owned(1, Deadline::at(deadline))
    }

    /// As [`acquire_many`](Self::acquire_many), with a guard that can be kept.
    pub fn acquire_many_owned(&self, permits: u32) -> Result<OwnedSemaphorePermit> {
        self.owned(permits, Deadline::Never)
    }

    /// As [`try_acquire_many`](Self::try_acquire_many), with a guard that can be kept.
    pub fn try_acquire_many_owned(&self, permits: u32) -> Result<OwnedSemaphorePermit> {
        self.owned(permits, now()).map_err(would_block)
    }

    /// As [`try_acquire_many_for`](Self::try_acquire_many_for), with a guard that can be kept.
    pub fn try_acquire_many_owned_for(&self, permits: u32, timeout: Duration) -> Result<OwnedSemaphorePermit> {
        self.owned(permits, Deadline::after(timeout))
    }

    /// As [`try_acquire_many_until`](Self::try_acquire_many_until), with a guard that can be kept.
    pub fn try_acquire_many_owned_until(&self, permits: u32, deadline: Instant) -> Result<OwnedSemaphorePermit> {
        self.owned(permits, Deadline::at(deadline))
    }

    // Always: as for a mutex.
    #[inline(always)]
    fn one(&self, deadline: impl FnOnce() -> Deadline) -> Result<SemaphorePermit<'_>> {
        let hold = match self.0.acquire_fast() {
            Some((permit, found)) => Hold {
                semaphore: PermitsAt { permits: &self.0, found: Some(found) },
                permit,
                more: ManuallyDrop::new(None),
            },
            None => {
                let (permit, more) = self.0.acquire_slowly(deadline)?;
                Hold { semaphore: PermitsAt::find(&self.0, permit), permit, more: ManuallyDrop::new(more) }
            }
        };
        Ok(SemaphorePermit { hold })
    }

    fn borrowed(&self) -> PermitsAt<'_> {
        PermitsAt { permits: &self.0, found: None }
    }

    fn owned(&self, permits: u32, deadline: Deadline) -> Result<OwnedSemaphorePermit> {
        many(self.0.clone(), permits, deadline).map(|hold| OwnedSemaphorePermit { hold })
    }
}

fn many<S: AsPermits>(semaphore: S, permits: u32, deadline: Deadline) -> Result<Hold<S>> {
    let (permit, more) = match permits {
        1 => semaphore.permits().acquire_slowly(|| deadline)?,
        _ => semaphore.permits().acquire(permits, deadline)?,
    };
    Ok(Hold { semaphore, permit, more: ManuallyDrop::new(more) })
}

/// Ends all permits, each by `end`, and cleans up after the dead that were met then: nobody should wait for that. Not in a forked child,
/// which ended nothing and has no part in this.
#[cold]
#[inline(never)]
fn end_all(
    semaphore: &Permits,
    permit: Permit,
    more: Option<Box<More>>,
    end: impl Fn(&Permits, Permit) -> bool,
) -> bool {
    let others = more.as_deref().map_or(&[][..], |more| &more.others);
    let mut ended = true;
    for permit in others.iter().copied().chain([permit]) {
        ended &= end(semaphore, permit);
    }
    if let Some(more) = more.filter(|_| ended) {
        semaphore.bury_all(&more);
    }
    ended
}

/// A deadline that has passed.
fn now() -> Deadline {
    Deadline::after(Duration::ZERO)
}

/// What a wait of no length says is that it would have had to wait.
#[cold]
pub(super) fn would_block(error: Error) -> Error {
    match error {
        Error::TimedOut { name, holder, .. } => Error::WouldBlock { name, holder },
        error => error,
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Semaphore")
            .field("name", &self.name())
            .field("permits", &self.permits())
            .finish_non_exhaustive()
    }
}

/// Permits that are held, and the handle to give them back with: borrowed or owned.
struct Hold<S: AsPermits> {
    semaphore: S,
    /// The one with the largest token.
    permit: Permit,
    /// By hand, so that dropping a guard that has nothing to tell is short enough to be inlined.
    more: ManuallyDrop<Option<Box<More>>>,
}

impl<S: AsPermits> Hold<S> {
    fn others(&self) -> &[Permit] {
        self.more.as_deref().map_or(&[], |more| &more.others)
    }

    fn all(&self) -> impl Iterator<Item = Permit> {
        self.others().iter().copied().chain([self.permit])
    }

    fn tokens(&self) -> impl Iterator<Item = u64> {
        self.all().map(|permit| self.semaphore.permits().token(permit))
    }

    fn token(&self) -> u64 {
        self.semaphore.permits().token(self.permit)
    }

    fn is_held(&self) -> bool {
        self.all().all(|permit| self.semaphore.permits().is_held(permit))
    }

    fn abandoned(&self) -> Option<&Abandoned> {
        self.more.as_deref().and_then(|more| more.told.as_ref())
    }

    fn stamp(&self) {
        self.all().for_each(|permit| self.semaphore.permits().stamp(permit));
    }

    #[inline(always)]
    fn release(&mut self) -> bool {
        // Nothing here has its address taken, so a guard that has nothing to tell never is in memory.
        let more = self.more.take();
        if more.is_none() && self.semaphore.release_fast(self.permit) {
            return true;
        }
        end_all(self.semaphore.permits(), self.permit, more, Permits::release)
    }

    fn unlock(mut self) -> Result<()> {
        let ended = self.release();
        self.end(ended)
    }

    fn abandon(mut self) -> Result<()> {
        let more = self.more.take();
        let ended = end_all(self.semaphore.permits(), self.permit, more, Permits::abandon);
        self.end(ended)
    }

    /// It is over, and `drop` has nothing left to end.
    fn end(mut self, ended: bool) -> Result<()> {
        let token = self.token();
        self.permit = Permit::ENDED;
        match ended {
            true => Ok(()),
            false => Err(Error::Lost { name: self.semaphore.permits().name().into(), token }),
        }
    }

    fn debug(&self, name: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(name)
            .field("name", &self.semaphore.permits().name())
            .field("count", &self.all().count())
            .field("token", &self.token())
            .field("abandoned", &self.abandoned())
            .finish_non_exhaustive()
    }
}

impl<S: AsPermits> Drop for Hold<S> {
    #[inline(always)]
    fn drop(&mut self) {
        self.release();
    }
}

/// One or several permits, held until this is dropped. It can be sent to another thread, as nothing here belongs to a thread.
///
/// It is bound to its acquisition: in a forked child, or after the process was taken for dead, dropping it does nothing, so it
/// never gives back what somebody else holds.
#[must_use = "the permit is given back as soon as its guard is dropped"]
pub struct SemaphorePermit<'a> {
    hold: Hold<PermitsAt<'a>>,
}

/// One or several permits, held until this is dropped; it needs no handle to live as long. Made by [`Semaphore::acquire_owned`].
///
/// ```
/// # let root = tempfile::tempdir()?;
/// # let space = hostlock::Space::builder("docs").root(root.path()).open()?;
/// let permit = space.semaphore("uploads", 3)?.acquire_owned()?;
/// std::thread::spawn(move || permit.unlock()).join().unwrap()?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[must_use = "the permit is given back as soon as its guard is dropped"]
pub struct OwnedSemaphorePermit {
    hold: Hold<Permits>,
}

macro_rules! guard {
    ($($guard:tt)+) => {
        impl $($guard)+ {
            /// The fencing token of this permit: larger than that of every permit of this name whose acquisition had ended before this one
            /// began, and than every earlier one of the same permit, also across crashes and reboots. Of several permits, the largest.
            pub fn token(&self) -> u64 {
                self.hold.token()
            }

            /// The tokens of all permits in this guard, growing.
            pub fn tokens(&self) -> impl Iterator<Item = u64> {
                self.hold.tokens()
            }

            /// How many permits these are.
            pub fn count(&self) -> u32 {
                self.hold.all().count() as u32
            }

            /// Who died holding one of these permits, if this is its first acquisition after that; of several, the first found. The mark
            /// goes when the permit is given back; if this process dies before, the next owner is told.
            pub fn abandoned(&self) -> Option<&Abandoned> {
                self.hold.abandoned()
            }

            /// Whether this process still holds all of these permits. `false` in a forked child.
            pub fn is_held(&self) -> bool {
                self.hold.is_held()
            }

            /// Gives the permits back, as dropping does, and says whether they still were held.
            ///
            /// # Errors
            /// [`Error::Lost`] if one was not: then it was given back by nobody's doing here, or this is a forked child.
            pub fn unlock(self) -> Result<()> {
                self.hold.unlock()
            }

            /// Gives the permits back as the death of this process would: the next owner of each is told
            /// ([`abandoned`](Self::abandoned)) that this process left something half done.
            ///
            /// # Errors
            /// [`Error::Lost`], as for [`unlock`](Self::unlock).
            pub fn abandon(self) -> Result<()> {
                self.hold.abandon()
            }

            /// Notes the time, so that [`Holder::held`](crate::Holder::held) is exact from now on. An acquisition that had to wait is noted
            /// as it is.
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

guard!(SemaphorePermit<'_>);
guard!(OwnedSemaphorePermit);
