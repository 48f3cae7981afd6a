//! One process in the storm: it acquires, holds and releases whatever there is, and logs it.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use hostlock::{Abandoned, Error, Holder, Result, Space};

use super::chance::{Random, now, work};
use super::guard::Guard;
use super::log::{Area, Deed, Fate, Kind, Of};
use super::set::{self, Set};

/// Nobody may wait longer than this, whatever happens around.
pub const BOUND: Duration = Duration::from_secs(20);

/// What a worker is started with.
pub struct Start {
    pub root: PathBuf,
    pub processes: usize,
    /// What it decides by: with this, its number and its incarnation.
    pub random: Random,
    /// A number that no other process of the run has.
    pub number: u64,
    pub place: usize,
    pub log: Area,
    /// Where its child logs: it has one at most.
    pub child: Area,
    pub board: &'static [AtomicU64],
    /// Without faults, and with patience.
    pub calm: bool,
}

pub struct Me {
    pub start: Start,
    pub set: Option<Rc<Set>>,
    /// It is a child of a worker, or has one already.
    pub may_fork: bool,
    /// It closed all descriptors, and must not be closed by others what it opened since.
    pub closed: bool,
    pub items: u64,
}

/// Ends this process, and nothing but it: what would run at an exit is its parent's.
pub fn finish(code: i32) -> ! {
    // SAFETY: it takes a number and does not come back.
    unsafe { libc::_exit(code) }
}

impl Me {
    /// Lives until it is killed, or ends itself. `inherited`: the space as the parent had it.
    pub fn live(mut start: Start, inherited: Space) -> ! {
        let log = start.log;
        std::panic::set_hook(Box::new(move |panic| log.complain(&panic.to_string())));
        let lived = std::panic::catch_unwind(move || {
            // Half of them go on with what they inherited, the others leave nothing of it.
            let opened = match start.random.draw().is_multiple_of(2) {
                true => Ok(inherited),
                false => {
                    drop(inherited);
                    set::open(&start.root, start.processes, Duration::from_millis(1 + start.random.draw() % 20))
                }
            };
            let set = opened.and_then(Set::new).unwrap_or_else(|error| {
                log.complain(&format!("cannot join: {error}"));
                finish(1)
            });
            let mut me = Me { start, set: Some(Rc::new(set)), may_fork: true, closed: false, items: 0 };
            if me.start.calm {
                me.calm();
            } else {
                me.storm(u64::MAX);
            }
            me.leave_and_end()
        });
        let Err(_) = lived;
        finish(101)
    }

    /// Does so many things at random, unless its log is full before.
    pub fn storm(&mut self, acts: u64) {
        for _ in 0..acts {
            if self.start.log.is_nearly_full() {
                return;
            }
            self.act_at_random();
            if self.one_in(3) {
                work(self.below(5_000));
            }
        }
    }

    fn leave_and_end(&mut self) -> ! {
        self.start.log.ending().store(now(), SeqCst);
        if !self.closed {
            self.set = None;
        }
        finish(0)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.start.random.draw() % end
    }

    pub fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    pub fn set(&self) -> Rc<Set> {
        self.set.clone().expect("it is in the space")
    }

    /// How long to wait this time: mostly for as long as it takes.
    pub fn patience(&mut self) -> Duration {
        if self.start.calm || !self.one_in(4) { BOUND } else { Duration::from_micros(self.below(300)) }
    }

    /// Something that must not be.
    pub fn fail(&self, what: &str) -> ! {
        self.start.log.complain(what);
        finish(1)
    }

    /// Says for what it is about to wait, and since when.
    pub fn want(&self, name: u16) -> u64 {
        self.start.log.wants().store(u64::from(name) + 1, SeqCst);
        now()
    }

    /// What came of it; `None`: nothing, as may be. It must not be that it waited so long.
    pub fn got<T>(&self, what: Result<T>, patience: Duration) -> Option<T> {
        self.start.log.wants().store(0, SeqCst);
        match what {
            Ok(got) => Some(got),
            Err(Error::TimedOut { .. } | Error::WouldBlock { .. }) if patience < BOUND => None,
            Err(error) => self.fail(&error.to_string()),
        }
    }

    /// Whoever let go of everything has nothing, also as others see it. (What it had by a lease may be lost, and nobody's yet.)
    pub fn has_nothing(&self) {
        match Space::builder("storm").root(&self.start.root).inspect() {
            Ok(seen) => {
                let is_mine = |holder: &Holder| holder.pid == std::process::id() && holder.lease.is_none();
                if let Some(lock) = seen.locks.iter().find(|lock| lock.holders.iter().any(is_mine)) {
                    self.fail(&format!("{}: it was released, and is held still: {:?}", lock.name, lock.holders));
                }
            }
            Err(error) => self.fail(&format!("cannot look: {error}")),
        }
    }

    /// Counts what it does to itself.
    pub fn note(&self, deed: Deed) {
        self.start.log.deeds()[deed as usize].fetch_add(1, SeqCst);
    }

    /// Holds what it acquired, logs that, and releases it in one of many ways.
    pub fn hold<G: Guard>(&mut self, (kind, name): (Kind, u16), called: u64, guard: G) {
        self.hold_for(Held { kind, name, count: 1, called, span: None }, guard);
    }

    pub fn hold_for<G: Guard>(&mut self, held: Held, guard: G) {
        let told: Option<Abandoned> = guard.told();
        let Held { kind, name, count, called, span } = held;
        let log = self.start.log;
        let open = log.begin(Of { kind, name, count, token: guard.token(), called, told: told.as_ref(), span });
        let alone = matches!(kind, Kind::Alone | Kind::Write) && span.is_none() && name < set::CHURN;
        if alone {
            // Nobody else is here, so nobody minds that it is two steps.
            let last = &self.start.board[16 + usize::from(name)];
            if last.load(SeqCst) >= guard.token() {
                self.fail(&format!("{}: token {} after {}", set::name(name), guard.token(), last.load(SeqCst)));
            }
            last.store(guard.token(), SeqCst);
            if !guard.is_held() {
                self.fail(&format!("{}: just acquired, and not held", set::name(name)));
            }
        }
        if self.inside(span) {
            // A forked child, with its parent's guard.
            if guard.is_held() {
                self.fail(&format!("{}: a forked child holds what its parent holds", set::name(name)));
            }
            match guard.unlock() {
                Err(Error::Lost { .. }) => self.grow_up(),
                _ => self.fail(&format!("{}: a forked child released it", set::name(name))),
            }
        }
        if !self.start.calm && self.one_in(1_500) {
            self.note(Deed::Forgot);
            std::mem::forget(guard);
            self.die_soon();
        }
        open.end();
        let (outcome, fate) = match self.below(32) {
            0 if !self.start.calm => {
                let (outcome, is_told) = guard.abandon();
                (outcome, if is_told { Fate::Abandoned } else { Fate::Released })
            }
            1..4 => (guard.unlock_fair(), Fate::Released),
            4..16 => {
                drop(guard);
                // Of a lease this says nothing.
                open.ended(if span.is_some() { Fate::Unknown } else { Fate::Released });
                return;
            }
            _ => (guard.unlock(), Fate::Released),
        };
        match outcome {
            Ok(()) => open.ended(fate),
            Err(Error::Lost { .. }) if span.is_some() => open.ended(Fate::Lost),
            Err(error) => self.fail(&format!("{}: it was held, and then: {error}", set::name(name))),
        }
    }
}

/// What is held, beside its guard.
pub struct Held {
    pub kind: Kind,
    pub name: u16,
    pub count: u64,
    pub called: u64,
    pub span: Option<Duration>,
}
