//! An acquisition with a lease, as its owner keeps it: until when it is held for sure, and whether it was lost.
//!
//! The segment knows when others may take it over; this process knows when it stops believing that it holds it, which is sooner by the lock delay. What
//! was lost once is never held again: renewing begins with looking at the clock.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::either::{AsExclusive, Exclusive, Lock, Permits, ReadWrite};
use super::keeper::{self, Tended};
use super::lock::Acquisition;
use super::semaphore::Permit;
use crate::os::clock::Boottime;
use crate::os::lock_file;
use crate::{Error, Result};

/// What only a segment can have.
const LEASES: &str = "a lease";

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
        self.check_for(lock.name())
    }

    pub(crate) fn check_permits(&self, permits: &Permits) -> Result<()> {
        permits.segment(LEASES)?;
        self.check_for(permits.name())
    }

    fn check_for(&self, name: &str) -> Result<()> {
        if self.span < Duration::from_millis(1) {
            return Err(Error::InvalidOption {
                option: "lease",
                value: format!("{:?}", self.span),
                reason: "it is a millisecond at least".into(),
            });
        }
        if self.is_tended() {
            keeper::start()
                .map_err(|e| Error::system("start the thread that looks after leases of", name.as_ref(), e))?;
        }
        Ok(())
    }
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
            End::Release => lock.release_now(held),
            End::ReleaseFair => lock.release_fair(held),
            End::Abandon => lock.abandon(held),
        };
        match self {
            Self::Alone(lock, held) => alone(lock.exclusive(), *held),
            Self::Writing(lock, held) => alone(lock.exclusive(), *held),
            Self::Permits(permits, held) => held.iter().fold(true, |all, held| {
                all & match end {
                    End::Release | End::ReleaseFair => permits.release_leased(*held),
                    End::Abandon => permits.abandon(*held),
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
}

/// An acquisition with a lease.
pub(crate) struct Tenure {
    leased: Leased,
    terms: Terms,
    /// The process that acquired it. A forked child has it as well.
    process: u64,
    /// Until when it is held, in milliseconds of `Boottime`; 0: it was lost, or it is over.
    ends: AtomicU64,
    is_over: AtomicBool,
    was_told: AtomicBool,
    /// Held while it is renewed or ended: nothing is renewed that was released.
    changing: Mutex<()>,
}

impl Tenure {
    /// Gives what was just acquired its lease.
    pub(crate) fn begin(mut leased: Leased, terms: Terms) -> Result<Arc<Self>> {
        let failed = |name: &str, e| Error::system("look after a lease of", name.as_ref(), e);
        let process = match lock_file::process() {
            Ok(process) => process,
            Err(e) => {
                leased.end(End::Release);
                return Err(failed(leased.name(), e));
            }
        };
        let ends = Boottime::after(terms.span);
        if let Err(error) = leased.begin(ends.saturating_add(terms.delay)) {
            leased.end(End::Release);
            return Err(error);
        }
        let is_tended = terms.is_tended();
        let (is_over, was_told) = (AtomicBool::new(false), AtomicBool::new(false));
        let tenure = Self {
            leased,
            terms,
            process,
            ends: AtomicU64::new(ends.0),
            is_over,
            was_told,
            changing: Mutex::default(),
        };
        let tenure = Arc::new(tenure);
        if is_tended && let Err(e) = keeper::keep(tenure.clone()) {
            tenure.end(End::Release);
            return Err(failed(tenure.leased.name(), e));
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
            true => self.running().map_or(Duration::ZERO, Boottime::left),
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
        let is_renewed = self.leased.renew(ends.saturating_add(delay), later.saturating_add(delay))
            // Not if another thread found that it ran out: that stands.
            && self.ends.compare_exchange(ends.0, later.0, Release, Relaxed).is_ok();
        if !is_renewed {
            self.ends.store(0, Relaxed);
            self.tell_keeper();
        }
        is_renewed
    }

    /// Ends it; `false`: it was lost before, or is another process's. What was lost and nobody took is free then.
    pub(crate) fn end(&self, end: End) -> bool {
        if !self.is_ours() {
            return false;
        }
        let changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let was_held = self.running().is_some();
        self.is_over.store(true, Relaxed);
        self.ends.store(0, Relaxed);
        let ended = self.leased.end(if end == End::Release && self.terms.fair { End::ReleaseFair } else { end });
        drop(changing);
        if self.terms.is_tended() {
            keeper::forget();
        }
        ended && was_held
    }
}

impl Tended for Tenure {
    fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    fn tend(&self) -> Option<Boottime> {
        let margin = self.terms.span / 3 * 2;
        let is_due = |ends: Boottime| self.terms.keep && ends.left() <= margin;
        if self.running().is_some_and(is_due) && !self.is_over.load(Relaxed) {
            self.renew();
        }
        match self.running() {
            _ if self.is_over.load(Relaxed) => None,
            Some(ends) if self.terms.keep => Some(Boottime(ends.0.saturating_sub(margin.as_millis() as u64))),
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
