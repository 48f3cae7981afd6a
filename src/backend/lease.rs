//! An acquisition with a lease, as its owner keeps it: until when it is held for sure, and whether it was lost.
//!
//! The segment knows when others may take it over; this process knows when it stops believing that it holds it, which is sooner by the lock delay. What
//! was lost once is never held again: renewing begins with looking at the clock.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::either::{Exclusive, Lock, Permits, ReadWrite};
use super::keeper::{self, Tended};
use super::lock::Acquisition;
use super::release::AsExclusive;
use super::semaphore::Permit;
use crate::os::clock::Boottime;
use crate::os::lock_file;
use crate::{Error, Result};

/// What only a segment can have.
const LEASES: &str = "leases";
/// The shortest that a thread can keep.
const SHORTEST_KEPT: Duration = Duration::from_millis(10);

/// For how long, and what becomes of it then.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) span: Duration,
    /// How long nobody gets the lock after the lease was lost.
    pub(crate) delay: Duration,
    /// It is renewed without the program.
    pub(crate) keep: bool,
    /// When it is released, whoever waits is before whoever just comes.
    pub(crate) fair: bool,
    /// Called once, with the lock's name and the token that was lost.
    pub(crate) on_lost: Option<OnLost>,
}

pub(crate) type OnLost = Arc<dyn Fn(&str, u64) + Send + Sync>;

impl Terms {
    fn is_tended(&self) -> bool {
        self.keep || self.on_lost.is_some()
    }

    /// Whether there can be such a lease, of that lock: to be asked before it is acquired.
    pub(crate) fn check(&self, lock: Exclusive<'_>) -> Result<()> {
        lock.segment(LEASES)?;
        self.check_length()
    }

    pub(crate) fn check_permits(&self, permits: &Permits) -> Result<()> {
        permits.segment(LEASES)?;
        self.check_length()
    }

    fn check_length(&self) -> Result<()> {
        let too_short = |reason: &str| {
            let value = format!("{:?}", self.span);
            Err(Error::InvalidOption { option: "lease", value, reason: reason.into() })
        };
        match self.span {
            span if span < Duration::from_millis(1) => too_short("it is a millisecond at least"),
            span if self.keep && span < SHORTEST_KEPT => too_short("one that is kept is ten milliseconds at least"),
            _ => Ok(()),
        }
    }

    /// What it takes to look after such a lease of that lock: to be had before it is acquired.
    pub(crate) fn prepare(self, name: &str) -> Result<Prepared> {
        let failed = |doing| move |e| Error::system(doing, name.as_ref(), e);
        let process = lock_file::process().map_err(failed("look after a lease of"))?;
        let keeper = match self.is_tended() {
            true => Some(keeper::start().map_err(failed("start the thread that looks after leases of"))?),
            false => None,
        };
        Ok(Prepared { terms: self, process, keeper })
    }
}

/// Terms that can be met.
pub(crate) struct Prepared {
    terms: Terms,
    process: u64,
    keeper: Option<keeper::Started>,
}

/// What has a lease.
pub(crate) enum Leased {
    Alone(Lock, Acquisition),
    Writing(ReadWrite, Acquisition),
    /// By token.
    Permits(Permits, Vec<Permit>),
}

impl Leased {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Alone(lock, _) => lock.name(),
            Self::Writing(lock, _) => lock.name(),
            Self::Permits(permits, _) => permits.name(),
        }
    }

    /// Of several, the largest.
    pub(crate) fn token(&self) -> u64 {
        match self {
            Self::Alone(lock, held) => lock.exclusive().token(*held),
            Self::Writing(lock, held) => lock.exclusive().token(*held),
            Self::Permits(permits, held) => held.iter().map(|held| permits.token(*held)).max().unwrap_or(0),
        }
    }

    /// The lock and the acquisition, of what is held alone.
    fn alone(&mut self) -> Option<(Exclusive<'_>, &mut Acquisition)> {
        match self {
            Self::Alone(lock, held) => Some((lock.exclusive(), held)),
            Self::Writing(lock, held) => Some((lock.exclusive(), held)),
            Self::Permits(..) => None,
        }
    }

    /// Gives it a lease that others see end at `when`.
    fn begin(&mut self, when: Boottime) -> Result<()> {
        if let Some((lock, held)) = self.alone() {
            lock.stamp(*held);
            let leased = lock.segment(LEASES)?.lease(*held, when);
            if let Some(leased) = leased {
                *held = leased;
                return Ok(());
            }
        } else if let Self::Permits(permits, held) = self {
            let permits = permits.segment(LEASES)?;
            let leased: Option<Vec<_>> = held.iter().map(|held| permits.lease(*held, when)).collect();
            if let Some(leased) = leased {
                *held = leased;
                return Ok(());
            }
        }
        Err(self.lost())
    }

    fn lost(&self) -> Error {
        Error::Lost { name: self.name().into(), token: self.token() }
    }

    fn renew(&self, from: Boottime, to: Boottime) -> bool {
        let alone = |lock: Exclusive<'_>, held| lock.segment(LEASES).is_ok_and(|lock| lock.renew(held, from, to));
        match self {
            Self::Alone(lock, held) => alone(lock.exclusive(), *held),
            Self::Writing(lock, held) => alone(lock.exclusive(), *held),
            Self::Permits(permits, held) => permits
                .segment(LEASES)
                .is_ok_and(|permits| held.iter().fold(true, |all, held| all & permits.renew(*held, from, to))),
        }
    }

    fn is_in_place(&self) -> bool {
        match self {
            Self::Alone(lock, held) => lock.exclusive().is_held(*held),
            Self::Writing(lock, held) => lock.exclusive().is_held(*held),
            Self::Permits(permits, held) => held.iter().all(|held| permits.is_held(*held)),
        }
    }

    fn end(&self, end: End) -> bool {
        let alone = |lock: Exclusive<'_>, held| match end {
            End::Release => lock.release(held),
            End::ReleaseFair => lock.release_fair(held),
            End::Abandon => lock.abandon(held),
            End::Lose => lock.lose(held),
        };
        match self {
            Self::Alone(lock, held) => alone(lock.exclusive(), *held),
            Self::Writing(lock, held) => alone(lock.exclusive(), *held),
            Self::Permits(permits, held) => held.iter().fold(true, |all, held| {
                all & match end {
                    End::Release | End::ReleaseFair => permits.release_leased(*held),
                    End::Abandon => permits.abandon(*held),
                    End::Lose => permits.segment(LEASES).is_ok_and(|permits| permits.lose(*held)),
                }
            }),
        }
    }
}

/// How an acquisition ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Release,
    /// Whoever waits is before whoever just comes.
    ReleaseFair,
    /// As by the death of this process: the next owner is told.
    Abandon,
    /// The lease ran out, and the next owner is told of that.
    Lose,
}

/// An acquisition with a lease.
pub(crate) struct Tenure {
    leased: Leased,
    terms: Terms,
    /// The process that acquired it. A forked child has it as well.
    process: u64,
    /// Until when it is held, in milliseconds of `Boottime`; 0: it was lost, or it is over.
    ends: AtomicU64,
    /// From when on others may take it over.
    ends_for_others: AtomicU64,
    is_over: AtomicBool,
    was_told: AtomicBool,
    /// Held while it is renewed or ended: nothing is renewed that was released.
    changing: Mutex<()>,
}

impl Tenure {
    /// Gives what was just acquired its lease. `was_told`: of a death, which whoever is next has to be told of if this fails.
    pub(crate) fn begin(mut leased: Leased, prepared: Prepared, was_told: bool) -> Result<Arc<Self>> {
        let Prepared { terms, process, keeper } = prepared;
        let ends = Boottime::after(terms.span);
        let ends_for_others = ends.saturating_add(terms.delay);
        if let Err(error) = leased.begin(ends_for_others) {
            leased.end(if was_told { End::Abandon } else { End::Release });
            return Err(error);
        }
        let (is_over, was_told) = (AtomicBool::new(false), AtomicBool::new(false));
        let tenure = Self {
            leased,
            terms,
            process,
            ends: AtomicU64::new(ends.0),
            ends_for_others: AtomicU64::new(ends_for_others.0),
            is_over,
            was_told,
            changing: Mutex::default(),
        };
        let tenure = Arc::new(tenure);
        if let Some(keeper) = keeper {
            keeper.keep(tenure.clone());
        }
        Ok(tenure)
    }

    pub(crate) fn leased(&self) -> &Leased {
        &self.leased
    }

    pub(crate) fn terms(&self) -> &Terms {
        &self.terms
    }

    fn is_ours(&self) -> bool {
        lock_file::process().is_ok_and(|process| process == self.process)
    }

    /// Until when it is held; `None`: it was lost, or is over.
    fn running(&self) -> Option<Boottime> {
        // Acquire: pairs with the store in `renew`. (Nothing else is read because of it.)
        let ends = self.ends.load(Acquire);
        if ends == 0 {
            return None;
        }
        if Boottime::now().0 < ends {
            return Some(Boottime(ends));
        }
        // Unless it was renewed meanwhile.
        match self.ends.compare_exchange(ends, 0, Relaxed, Relaxed) {
            Ok(_) => {
                self.tell_keeper();
                None
            }
            Err(0) => None,
            Err(ends) => Some(Boottime(ends)),
        }
    }

    /// The program is told by the thread that looks after leases.
    fn tell_keeper(&self) {
        if self.terms.on_lost.is_some() && self.is_ours() && !self.is_over.load(Relaxed) {
            keeper::call();
        }
    }

    /// How long it still is held without being renewed; zero: it was lost.
    pub(crate) fn left(&self) -> Duration {
        match self.is_ours() {
            true => self.running().map_or(Duration::ZERO, Boottime::left).min(self.terms.span),
            false => Duration::ZERO,
        }
    }

    pub(crate) fn is_held(&self) -> bool {
        self.is_ours() && self.leased.is_in_place() && self.running().is_some()
    }

    /// Has the lease begin anew; `false`: it was lost.
    pub(crate) fn renew(&self) -> bool {
        if !self.is_ours() {
            return false;
        }
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ends) = self.running() else { return false };
        let later = Boottime::after(self.terms.span);
        let delay = self.terms.delay;
        let (ends_for_others, later_for_others) = (ends.saturating_add(delay), later.saturating_add(delay));
        let mut is_renewed = self.leased.renew(ends_for_others, later_for_others);
        if is_renewed && self.ends.compare_exchange(ends.0, later.0, Release, Relaxed).is_err() {
            // Another thread found that it ran out: that stands, and nobody is to wait for longer because of this.
            self.leased.renew(later_for_others, ends_for_others);
            is_renewed = false;
        }
        if is_renewed {
            self.ends_for_others.store(later_for_others.0, Relaxed);
        }
        if !is_renewed {
            self.ends.store(0, Relaxed);
            self.tell_keeper();
        }
        is_renewed
    }

    /// Ends it, once; `false`: it was lost before, is over, or is another process's. What was lost is taken over by whoever comes when the delay is over, and that one is
    /// told; if it is over already, it is free to be.
    pub(crate) fn end(&self, end: End) -> bool {
        if !self.is_ours() {
            return false;
        }
        let changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_over.swap(true, Relaxed) {
            return false;
        }
        let was_held = self.running().is_some();
        self.ends.store(0, Relaxed);
        let end = if end == End::Release && self.terms.fair { End::ReleaseFair } else { end };
        let (now, ends_for_others) = (Boottime::now(), Boottime(self.ends_for_others.load(Relaxed)));
        // If it was lost before its time it was found to be somebody else's, or damaged, which a release undoes.
        let in_time = now.saturating_add(self.terms.delay) < ends_for_others;
        let ended = match was_held || in_time {
            true => self.leased.end(end),
            false if now >= ends_for_others => self.leased.end(End::Lose),
            false => false,
        };
        drop(changing);
        if self.terms.is_tended() {
            keeper::forget();
        }
        was_held && ended
    }
}

impl Tended for Tenure {
    fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    fn tend(&self) -> Option<Boottime> {
        if !self.is_ours() {
            return None;
        }
        // A third of the time has passed. (Of one that never ends: of the longest that can be counted.)
        let margin = u64::try_from(self.terms.span.as_millis()).unwrap_or(u64::MAX).min(Boottime::MOST) / 3 * 2;
        let due = |ends: Boottime| Boottime(ends.0.min(Boottime::MOST).saturating_sub(margin));
        let is_due = |ends: Boottime| self.terms.keep && due(ends) <= Boottime::now();
        if !self.is_over.load(Relaxed) && self.running().is_some_and(is_due) {
            self.renew();
        }
        match self.running() {
            _ if self.is_over.load(Relaxed) => None,
            Some(ends) if self.terms.keep => Some(due(ends)),
            Some(ends) => Some(ends),
            None => {
                if let Some(on_lost) = &self.terms.on_lost
                    && !self.was_told.swap(true, Relaxed)
                {
                    on_lost(self.leased.name(), self.leased.token());
                }
                None
            }
        }
    }
}
