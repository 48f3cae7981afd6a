//! What has to be so when the storm is over: everything free, nobody there, nothing left.

use std::collections::BTreeSet;
use std::time::Duration;

use hostlock::{Error, Space};

use super::chance::now;
use super::footprint::free_extents;
use super::judge::Entry;
use super::log::{Fate, Kind, Record};
use super::nest::Nest;
use super::set::{self, CHURN, CHURNED, COUNT, EXTENTS, NAMES, PERMITS, QUEUE, Set};

impl Nest {
    /// What is in the queue is taken out, by this process; the judge misses it otherwise.
    pub fn drain(&mut self, set: &Set) {
        loop {
            let called = now();
            match set.queue.pop_for(Duration::from_millis(20)) {
                Ok(token) => {
                    let (begin, end) = (now(), now());
                    let record = Record {
                        kind: Kind::Popped,
                        name: QUEUE,
                        count: 1,
                        token,
                        called,
                        begin,
                        end,
                        fate: Fate::Released,
                        told: 0,
                        told_lost: false,
                        span: 0,
                        renewed: called,
                    };
                    self.history.push(Entry { record, worker: 0, lived: end, reaped: end });
                }
                Err(Error::TimedOut { .. }) => return,
                Err(error) => return self.violations.push(format!("queue: {error}")),
            }
        }
    }

    /// Looks at all there is, when nobody is there but this process.
    pub fn at_rest(&mut self, set: &Set) {
        let mut wrong = Vec::new();
        if let Err(error) = signals_work(set) {
            wrong.push(format!("at rest: {error}"));
        }
        let space = &set.space;
        if let Err(error) = space.recover_dead() {
            wrong.push(format!("at rest: {error}"));
        }
        for number in CHURN..CHURN + CHURNED {
            match space.remove(&set::name(number)) {
                Ok(()) | Err(Error::NoSuchName { .. }) => {}
                Err(error) => wrong.push(format!("at rest: {error}")),
            }
        }
        let usage = space.usage();
        if (usage.participants, usage.waiting) != (1, 0) {
            wrong.push(format!("at rest: somebody is still noted: {usage:?}"));
        }
        match Space::builder("storm").root(&self.root).inspect() {
            Ok(seen) => {
                for lock in &seen.locks {
                    let free = lock.holders.is_empty() && lock.waiters.is_empty() && lock.damage.is_none();
                    // A lease can run out in the calm as well, and nobody may have come since.
                    if !free || lock.abandoned.as_ref().is_some_and(|told| !told.lease_lost) {
                        wrong.push(format!("at rest: not free: {lock:?}"));
                    }
                }
                let names: BTreeSet<&str> = seen.locks.iter().map(|lock| lock.name.as_str()).collect();
                let known: BTreeSet<&str> = NAMES.into_iter().collect();
                if let Some(more) = names.difference(&known).next() {
                    wrong.push(format!("at rest: {more} should not be there"));
                }
                if names.len() != usage.locks {
                    wrong.push(format!("at rest: {} names, and {} are counted", names.len(), usage.locks));
                }
            }
            Err(error) => wrong.push(format!("at rest: {error}")),
        }
        match std::fs::read_dir(space.path()).map(Iterator::count) {
            Ok(1) => {}
            other => wrong.push(format!("at rest: not only the segment is there: {other:?}")),
        }
        self.violations.extend(wrong);
    }

    /// Takes all names away, after which the space has to be as it was at first.
    pub fn take_all_away(&mut self, set: &Set) {
        for name in NAMES {
            match set.space.remove(name) {
                Ok(()) | Err(Error::NoSuchName { .. }) => {}
                Err(error) => self.violations.push(format!("in the end: {error}")),
            }
        }
        let (usage, free) = (set.space.usage(), free_extents(&set.space));
        if usage.locks != 0 || free != EXTENTS {
            self.violations.push(format!("in the end: {} names are left, {free} of {EXTENTS} bytes free", usage.locks));
        }
    }
}

/// What nobody but one can try in the calm, since it changes what others wait for.
fn signals_work(set: &Set) -> hostlock::Result<()> {
    // In the calm the same permits may have gone round, and not all of them.
    set.semaphore.try_acquire_many(PERMITS)?.unlock()?;
    set.auto_event.set()?;
    set.auto_event.wait_for(Duration::ZERO)?;
    for name in ["latch", "once-0", "once-1"] {
        match set.space.remove(name) {
            Ok(()) | Err(Error::NoSuchName { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let latch = set.space.latch("latch", COUNT)?;
    for _ in 0..COUNT {
        latch.count_down()?;
    }
    latch.wait_for(Duration::ZERO)?;
    let once = set.space.once("once-0")?;
    once.call_once(|_| ())?;
    once.wait_for(Duration::ZERO)
}
