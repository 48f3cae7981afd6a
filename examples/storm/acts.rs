//! What a worker can do with each kind of lock.

use std::time::Duration;

use hostlock::{Acquired, Error, Lease, Wanted, WantedGuard, try_lock_all_for};

use super::chance::{now, work};
use super::guard::Told;
use super::log::{Fate, Kind, Of};
use super::set::{self, *};
use super::worker::{BOUND, Held, Me};

/// More reads than are needed for a line.
const MUCH: u32 = 2_500;

impl Me {
    pub fn act_at_random(&mut self) {
        match self.below(100) {
            0..14 => self.mutex(),
            14..18 => self.two_in_order(),
            18..24 => self.row(),
            24..32 => self.read(),
            32..38 => self.write(),
            38..42 => self.table(),
            42..52 => self.permits(),
            52..55 => self.leased_permits(),
            55..60 => self.lease(),
            60..62 => self.leased_write(),
            62..65 => self.lead(),
            65..69 => self.all(),
            69..73 => self.again(),
            73..77 => self.condition(),
            77..80 => self.event(),
            80 => self.meet(),
            81..84 => self.once(),
            84..86 => self.latch(),
            86..90 => self.push(),
            90..94 => self.pop(),
            94..98 => self.churn(),
            98 => self.remove_a_name(),
            _ => match self.below(8) {
                0 => self.thread(),
                1 => self.leave_and_join(),
                2 => self.has_nothing(),
                _ => self.mutex(),
            },
        }
    }

    pub fn mutex(&mut self) {
        let (set, patience) = (self.set(), self.patience());
        let called = self.want(MUTEX);
        if self.one_in(3) {
            if let Some(guard) = self.got(set.mutex.try_lock_owned_for(patience), patience) {
                self.hold((Kind::Alone, MUTEX), called, guard);
            }
        } else if self.one_in(4) && !self.start.calm {
            if let Some(guard) = self.got(set.mutex.try_lock(), Duration::ZERO) {
                self.hold((Kind::Alone, MUTEX), called, guard);
            }
        } else if let Some(guard) = self.got(set.mutex.try_lock_for(patience), patience) {
            self.hold((Kind::Alone, MUTEX), called, guard);
        }
    }

    /// One lock while holding another: all who do that take them in this order.
    pub fn two_in_order(&mut self) {
        let (set, patience) = (self.set(), self.patience());
        let called = self.want(BESIDE);
        let Some(outer) = self.got(set.beside.try_lock_for(patience), patience) else { return };
        let told = outer.abandoned();
        let of = Of { kind: Kind::Alone, name: BESIDE, count: 1, token: outer.token(), called, told, span: None };
        let open = self.start.log.begin(of);
        self.mutex();
        open.end();
        match outer.unlock() {
            Ok(()) => open.ended(Fate::Released),
            Err(error) => self.fail(&format!("beside: {error}")),
        }
    }

    pub fn row(&mut self) {
        let (set, patience) = (self.set(), self.patience());
        let called = self.want(ROW);
        let Some(acquired) = self.got(set.row.try_lock_for(patience), patience) else { return };
        let mut told = match acquired {
            Acquired::Clean(guard) => {
                if guard.iter().any(|word| *word != guard[0]) || guard[0] >= guard.token() {
                    self.fail(&format!("row: torn without a word, token {}: {:?}", guard.token(), *guard));
                }
                Told(guard, None)
            }
            Acquired::Abandoned(guard) => {
                let dead = guard.abandoned().clone();
                Told(guard.repaired(), Some(dead))
            }
        };
        *told.0 = [told.0.token(); 8];
        self.hold((Kind::Alone, ROW), called, told);
    }

    pub fn read(&mut self) {
        let (set, patience) = (self.set(), self.patience());
        if self.one_in(3) {
            // So often, if nobody writes meanwhile, that this thread reads by a line of its own from then on.
            for _ in 0..MUCH {
                drop(set.rwlock.try_read());
            }
        }
        let called = self.want(RWLOCK);
        if self.one_in(3) {
            if let Some(guard) = self.got(set.rwlock.try_read_owned_for(patience), patience) {
                self.hold((Kind::Read, RWLOCK), called, guard);
            }
            return;
        }
        let Some(guard) = self.got(set.rwlock.try_read_for(patience), patience) else { return };
        if !self.one_in(4) {
            self.hold((Kind::Read, RWLOCK), called, guard);
            return;
        }
        // It goes on as a writer, if nobody else wants to.
        let told = guard.abandoned();
        let of = Of { kind: Kind::Read, name: RWLOCK, count: 1, token: guard.token(), called, told, span: None };
        let open = self.start.log.begin(of);
        work(self.below(2_000));
        open.end();
        let called = self.want(RWLOCK);
        let upgraded = guard.try_upgrade_for(Duration::from_micros(self.below(500)));
        open.ended(Fate::Released);
        self.start.log.wants().store(0, std::sync::atomic::Ordering::SeqCst);
        match upgraded {
            Ok(guard) => self.hold((Kind::Write, RWLOCK), called, guard),
            Err(refused) => match refused.error {
                Error::WouldBlock { .. } | Error::TimedOut { .. } => drop(refused.guard),
                error => self.fail(&format!("rwlock: {error}")),
            },
        }
    }

    pub fn write(&mut self) {
        let (set, patience) = (self.set(), self.patience());
        let called = self.want(RWLOCK);
        if self.one_in(3) {
            if let Some(guard) = self.got(set.rwlock.try_write_owned_for(patience), patience) {
                self.hold((Kind::Write, RWLOCK), called, guard);
            }
            return;
        }
        let Some(guard) = self.got(set.rwlock.try_write_for(patience), patience) else { return };
        if !self.one_in(4) {
            self.hold((Kind::Write, RWLOCK), called, guard);
            return;
        }
        let (token, told) = (guard.token(), guard.abandoned());
        let of = Of { kind: Kind::Write, name: RWLOCK, count: 1, token, called, told, span: None };
        let open = self.start.log.begin(of);
        work(self.below(2_000));
        open.end();
        match guard.downgrade() {
            Ok(guard) => {
                open.ended(Fate::Released);
                if guard.token() != token {
                    self.fail(&format!("rwlock: {token} became {} as a reader", guard.token()));
                }
                self.hold((Kind::Read, RWLOCK), called, guard);
            }
            Err(refused) => self.fail(&format!("rwlock: {}", refused.error)),
        }
    }

    pub fn table(&mut self) {
        let (set, patience) = (self.set(), self.patience());
        let called = self.want(TABLE);
        if self.one_in(2) {
            let Some(acquired) = self.got(set.table.try_read_for(patience), patience) else { return };
            // Of one that is abandoned nothing can be said.
            if let Acquired::Clean(guard) = acquired {
                let token = guard.token();
                let of = Of { kind: Kind::Read, name: TABLE, count: 1, token, called, told: None, span: None };
                let open = self.start.log.begin(of);
                if guard.iter().any(|word| *word != guard[0]) || guard[0] > token {
                    self.fail(&format!("table: torn without a word, token {token}: {:?}", *guard));
                }
                work(self.below(2_000));
                open.end();
                match guard.unlock() {
                    Ok(()) => open.ended(Fate::Released),
                    Err(error) => self.fail(&format!("table: {error}")),
                }
            }
            return;
        }
        let Some(acquired) = self.got(set.table.try_write_for(patience), patience) else { return };
        let mut told = match acquired {
            Acquired::Clean(guard) => Told(guard, None),
            Acquired::Abandoned(guard) => {
                let dead = guard.abandoned().clone();
                Told(guard.repaired(), Some(dead))
            }
        };
        *told.0 = [told.0.token(); 8];
        self.hold((Kind::Write, TABLE), called, told);
    }

    pub fn permits(&mut self) {
        let (set, patience) = (self.set(), self.patience());
        let count = if self.one_in(4) { 1 + self.below(PERMITS.into()) as u32 } else { 1 };
        let called = self.want(SEMAPHORE);
        let held = Held { kind: Kind::Permits, name: SEMAPHORE, count: count.into(), called, span: None };
        if self.one_in(3) {
            if let Some(guard) = self.got(set.semaphore.try_acquire_many_owned_for(count, patience), patience) {
                self.hold_for(held, guard);
            }
        } else if count > 1 {
            if let Some(guard) = self.got(set.semaphore.try_acquire_many_for(count, patience), patience) {
                self.hold_for(held, guard);
            }
        } else if let Some(guard) = self.got(set.semaphore.try_acquire_for(patience), patience) {
            self.hold_for(held, guard);
        }
    }

    /// How long it asks for, and as what.
    fn terms(&mut self) -> (Duration, Lease) {
        let is_kept = self.one_in(3);
        // Shorter ones nobody can keep.
        let span = Duration::from_millis(self.below(12) + if is_kept { 10 } else { 2 });
        let lease = Lease::new(span);
        let lease = if is_kept { lease.kept() } else { lease };
        let lease = if self.one_in(4) { lease.lock_delay(Duration::from_millis(2)) } else { lease };
        (span, if self.one_in(4) { lease.fair() } else { lease })
    }

    fn leased_permits(&mut self) {
        let (set, patience, (span, lease)) = (self.set(), self.patience(), self.terms());
        let count = 1 + self.below(2);
        let called = self.want(SEMAPHORE);
        let acquired = set.semaphore.try_acquire_many_with_lease_for(count as u32, lease, patience);
        if let Some(guard) = self.got(acquired, patience) {
            let held = Held { kind: Kind::Permits, name: SEMAPHORE, count, called, span: Some(span) };
            self.hold_for(held, guard);
        }
    }

    fn leased_write(&mut self) {
        let (set, patience, (span, lease)) = (self.set(), self.patience(), self.terms());
        let called = self.want(RWLOCK);
        if let Some(guard) = self.got(set.rwlock.try_write_with_lease_for(lease, patience), patience) {
            let held = Held { kind: Kind::Write, name: RWLOCK, count: 1, called, span: Some(span) };
            self.hold_for(held, guard);
        }
    }

    /// A mutex with a lease, and what it protects behind a fence.
    pub fn lease(&mut self) {
        let (set, patience, (span, lease)) = (self.set(), self.patience(), self.terms());
        let called = self.want(LEASED);
        let Some(guard) = self.got(set.leased.try_lock_with_lease_for(lease, patience), patience) else { return };
        let (token, told) = (guard.token(), guard.abandoned());
        let of = Of { kind: Kind::Alone, name: LEASED, count: 1, token, called, told, span: Some(span) };
        let open = self.start.log.begin(of);
        for _ in 0..self.below(4) {
            match self.below(4) {
                0 => std::thread::sleep(span.mul_f64(0.7)),
                1 => {
                    let called = now();
                    // Before: what counts is from when it runs at least.
                    match guard.renew() {
                        Ok(()) => open.renewed(called),
                        Err(Error::Lost { .. }) => break,
                        Err(error) => self.fail(&format!("leased: {error}")),
                    }
                }
                _ => {
                    let called = self.want(FENCE);
                    match set.fence.enter_for(token, BOUND) {
                        Ok(behind) => {
                            self.start.log.wants().store(0, std::sync::atomic::Ordering::SeqCst);
                            self.hold((Kind::Behind, FENCE), called, behind);
                        }
                        // Somebody with a larger token was there, so this one was lost.
                        Err(Error::Fenced { newest, .. }) if newest > token && !guard.is_held() => break,
                        Err(error) => self.fail(&format!("fence: {error}, held: {}", guard.is_held())),
                    }
                }
            }
        }
        open.end();
        match guard.unlock() {
            Ok(()) => open.ended(Fate::Released),
            Err(Error::Lost { .. }) => open.ended(Fate::Lost),
            Err(error) => self.fail(&format!("leased: {error}")),
        }
    }

    pub fn lead(&mut self) {
        let (set, patience) = (self.set(), self.patience());
        let called = self.want(ELECTION);
        if let Some(leadership) = self.got(set.election.campaign_for(patience), patience) {
            let span = Some(Duration::from_millis(20));
            self.hold_for(Held { kind: Kind::Alone, name: ELECTION, count: 1, called, span }, leadership);
        }
    }

    pub fn all(&mut self) {
        let (set, patience) = (self.set(), self.patience());
        let mut wanted = vec![
            (SECOND, Wanted::Lock(&set.second)),
            (FIRST, Wanted::Lock(&set.first)),
            (RWLOCK, Wanted::Write(&set.rwlock)),
        ];
        match self.below(4) {
            0 => wanted.swap(0, 1),
            1 => drop(wanted.pop()),
            2 => wanted[2].1 = Wanted::Read(&set.rwlock),
            _ => {}
        }
        let called = self.want(wanted[0].0);
        let acquired = try_lock_all_for(wanted.iter().map(|(_, wanted)| *wanted), patience);
        let Some(all) = self.got(acquired, patience) else { return };
        let log = self.start.log;
        let opened: Vec<_> = all
            .iter()
            .zip(&wanted)
            .map(|(guard, (name, _))| {
                let (kind, told) = match guard {
                    WantedGuard::Lock(guard) => (Kind::Alone, guard.abandoned()),
                    WantedGuard::Write(guard) => (Kind::Write, guard.abandoned()),
                    WantedGuard::Read(guard) => (Kind::Read, guard.abandoned()),
                };
                log.begin(Of { kind, name: *name, count: 1, token: guard.token(), called, told, span: None })
            })
            .collect();
        if self.inside(None) {
            let holds = all.iter().any(|guard| match guard {
                WantedGuard::Lock(guard) => guard.is_held(),
                WantedGuard::Write(guard) => guard.is_held(),
                WantedGuard::Read(guard) => guard.is_held(),
            });
            if holds {
                self.fail("a forked child holds several locks");
            }
            drop(all);
            self.grow_up();
        }
        opened.iter().for_each(|open| open.end());
        drop(all);
        opened.iter().for_each(|open| open.ended(Fate::Released));
    }

    /// A mutex that its thread has already, or that is a plain one to this thread.
    pub fn again(&mut self) {
        let (set, patience) = (self.set(), self.patience());
        let called = self.want(REENTRANT);
        if self.one_in(3) {
            let plain = set.space.mutex("reentrant").and_then(|mutex| mutex.try_lock_owned_for(patience));
            if let Some(guard) = self.got(plain, patience) {
                self.hold((Kind::Alone, REENTRANT), called, guard);
            }
            return;
        }
        let Some(guard) = self.got(set.reentrant.try_lock_for(patience), patience) else { return };
        let inner = self.one_in(2).then(|| set.reentrant.lock());
        match inner.transpose() {
            Ok(Some(inner)) if inner.token() != guard.token() => self.fail("reentrant: two tokens in one thread"),
            Ok(inner) => drop(inner),
            Err(error) => self.fail(&format!("reentrant: {error}")),
        }
        self.hold((Kind::Alone, REENTRANT), called, guard);
    }

    pub fn churn(&mut self) {
        let (set, patience) = (self.set(), self.patience());
        let number = CHURN + self.below(CHURNED.into()) as u16;
        let (name, space) = (set::name(number), &set.space);
        let called = self.want(number);
        match number % 4 {
            0 => {
                let acquired = space.mutex(&name).and_then(|mutex| mutex.try_lock_owned_for(patience));
                if let Some(guard) = self.got(acquired, patience) {
                    self.hold((Kind::Alone, number), called, guard);
                }
            }
            1 => {
                let acquired = space.mutex_with(&name, [0; 8]);
                let Some(mutex) = self.got(acquired, BOUND) else { return };
                let Some(acquired) = self.got(mutex.try_lock_for(patience), patience) else { return };
                let mut told = match acquired {
                    Acquired::Clean(guard) => Told(guard, None),
                    Acquired::Abandoned(guard) => {
                        let dead = guard.abandoned().clone();
                        Told(guard.repaired(), Some(dead))
                    }
                };
                *told.0 = [told.0.token(); 8];
                self.hold((Kind::Alone, number), called, told);
            }
            2 => {
                let Some(lock) = self.got(space.rwlock(&name), BOUND) else { return };
                if self.one_in(2) {
                    if let Some(guard) = self.got(lock.try_read_owned_for(patience), patience) {
                        self.hold((Kind::Read, number), called, guard);
                    }
                } else if let Some(guard) = self.got(lock.try_write_owned_for(patience), patience) {
                    self.hold((Kind::Write, number), called, guard);
                }
            }
            _ => {
                let acquired =
                    space.semaphore(&name, 2).and_then(|permits| permits.try_acquire_many_owned_for(1, patience));
                if let Some(guard) = self.got(acquired, patience) {
                    self.hold((Kind::Permits, number), called, guard);
                }
            }
        }
    }

    fn remove_a_name(&mut self) {
        let number = CHURN + self.below(CHURNED.into()) as u16;
        match self.set().space.remove(&set::name(number)) {
            Ok(()) | Err(Error::InUse { .. } | Error::NoSuchName { .. }) => {}
            Err(error) => self.fail(&format!("cannot remove {}: {error}", set::name(number))),
        }
    }
}
