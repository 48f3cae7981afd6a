//! What a worker waits for, signals, meets at, does once, pushes and pops.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use hostlock::Error;

use super::chance::{now, work};
use super::log::{Fate, Kind, Of};
use super::set::{self, *};
use super::worker::Me;

/// Where on the board the number lies that the condition is about, and whose turn it is in the calm.
const CHANGES: usize = 0;
const TURN: usize = 1;

impl Me {
    /// Changes something and says so, or waits for a change.
    pub fn condition(&mut self) {
        let (set, patience) = (self.set(), self.patience());
        let called = self.want(GUARDED);
        let Some(guard) = self.got(set.guarded.try_lock_for(patience), patience) else { return };
        let changes = &self.start.board[CHANGES];
        if self.one_in(2) {
            changes.store(changes.load(SeqCst) + 1, SeqCst);
            let told = if self.one_in(2) { set.changed.notify_one() } else { set.changed.notify_all() };
            if let Err(error) = told {
                self.fail(&format!("changed: {error}"));
            }
            self.hold((Kind::Alone, GUARDED), called, guard);
            return;
        }
        let told = guard.abandoned();
        let of = Of { kind: Kind::Alone, name: GUARDED, count: 1, token: guard.token(), called, told, span: None };
        let open = self.start.log.begin(of);
        open.end();
        let called = self.want(GUARDED);
        let waited = set.changed.wait_for(guard, Duration::from_micros(self.below(5_000)));
        open.ended(Fate::Released);
        match waited {
            Ok((guard, _)) => {
                self.start.log.wants().store(0, SeqCst);
                self.hold((Kind::Alone, GUARDED), called, guard);
            }
            Err(error) => self.fail(&format!("changed: {error}")),
        }
    }

    /// In the calm: two take turns, each told by the other.
    pub fn take_turns(&mut self) {
        let (set, turn) = (self.set(), &self.start.board[TURN]);
        let mine = self.start.place as u64;
        for _ in 0..20 {
            let waited = set.guarded.try_lock_for(super::worker::BOUND).and_then(|mut guard| {
                while turn.load(SeqCst) % 2 != mine {
                    let (again, timed_out) = set.changed.wait_for(guard, super::worker::BOUND)?;
                    if timed_out.timed_out() {
                        self.fail("changed: nobody was told of a turn");
                    }
                    guard = again;
                }
                turn.store(turn.load(SeqCst) + 1, SeqCst);
                set.changed.notify_one()?;
                guard.unlock()
            });
            if let Err(error) = waited {
                self.fail(&format!("changed: {error}"));
            }
        }
    }

    pub fn event(&mut self) {
        let set = self.set();
        let log = self.start.log;
        let moment = Duration::from_micros(self.below(1_000));
        let outcome = match self.below(8) {
            0 => set.event.set(),
            1 => set.event.reset(),
            2 => set.event.announce().and_then(|setter| {
                work(self.below(1_000));
                if self.one_in(2) { setter.set() } else { Ok(()) }
            }),
            3 => set.event.wait_for(moment),
            4 => {
                log.mark(Kind::Set, AUTO_EVENT, 0, now());
                set.auto_event.set()
            }
            5 => set.auto_event.announce().and_then(|setter| {
                log.mark(Kind::Set, AUTO_EVENT, 0, now());
                setter.set()
            }),
            _ => set.auto_event.wait_for(moment).inspect(|()| log.mark(Kind::Taken, AUTO_EVENT, 0, now())),
        };
        match outcome {
            Ok(()) | Err(Error::TimedOut { .. } | Error::WouldBlock { .. } | Error::SignalLost { .. }) => {}
            Err(error) => self.fail(&format!("event: {error}")),
        }
    }

    /// Meets others for a few phases, if there is a place.
    pub fn meet(&mut self) {
        let set = self.set();
        let mut member = match set.barrier.join() {
            Ok(member) => member,
            Err(Error::NoSeat { .. } | Error::Broken { .. }) => return,
            Err(error) => self.fail(&format!("barrier: {error}")),
        };
        for _ in 0..4 {
            let called = self.want(BARRIER);
            let met = member.wait_for(Duration::from_millis(1 + self.below(10)));
            self.start.log.wants().store(0, SeqCst);
            match met {
                Ok(met) => self.start.log.mark(Kind::Passed, BARRIER, met.phase, called),
                Err(Error::Broken { phase, .. }) => return self.start.log.mark(Kind::Broken, BARRIER, phase, called),
                Err(Error::TimedOut { .. }) => return,
                Err(error) => self.fail(&format!("barrier: {error}")),
            }
        }
    }

    pub fn once(&mut self) {
        let set = self.set();
        let name = ONCE[self.below(2) as usize];
        let (log, succeeds, pause) = (self.start.log, !self.one_in(4), self.below(3_000));
        let once = match set.space.once(&set::name(name)) {
            Ok(once) => once,
            Err(error) => self.fail(&format!("once: {error}")),
        };
        let (called, mut began) = (self.want(name), None);
        let outcome = once.call_once_fallible(|state| {
            let (token, told) = (state.token(), state.abandoned());
            let open = log.begin(Of { kind: Kind::Alone, name, count: 1, token, called, told, span: None });
            began = Some(open);
            work(pause);
            open.end();
            if succeeds { Ok(()) } else { Err(()) }
        });
        log.wants().store(0, SeqCst);
        match outcome {
            Ok(Ok(())) => {
                if let Some(open) = began {
                    open.ended(Fate::Released);
                    log.mark(Kind::Done, name, 0, called);
                }
            }
            Ok(Err(())) => began.into_iter().for_each(|open| open.ended(Fate::Unknown)),
            Err(error) => self.fail(&format!("once: {error}")),
        }
        if self.one_in(2) {
            // Before: it may be killed before it can say that it was.
            log.mark(Kind::Removed, name, 0, now());
            self.remove(name);
        }
    }

    /// Whether it was taken away.
    fn remove(&self, name: u16) -> bool {
        match self.set().space.remove(&set::name(name)) {
            Ok(()) => true,
            Err(Error::InUse { .. } | Error::NoSuchName { .. }) => false,
            Err(error) => self.fail(&format!("cannot remove {}: {error}", set::name(name))),
        }
    }

    pub fn latch(&mut self) {
        let log = self.start.log;
        let latch = match self.set().space.latch("latch", COUNT) {
            Ok(latch) => latch,
            Err(error) => self.fail(&format!("latch: {error}")),
        };
        let called = now();
        let outcome = match self.below(4) {
            0 | 1 => {
                let of = Of { kind: Kind::Counted, name: LATCH, count: 1, token: 0, called, told: None, span: None };
                let open = log.begin(of);
                let counted = match self.one_in(2) {
                    true => latch.count_down(),
                    false => latch.party().and_then(|party| if self.one_in(8) { Ok(()) } else { party.count_down() }),
                };
                open.end();
                open.ended(if counted.is_ok() { Fate::Released } else { Fate::Lost });
                counted
            }
            2 => latch
                .wait_for(Duration::from_micros(self.below(2_000)))
                .inspect(|()| log.mark(Kind::Opened, LATCH, 0, called)),
            _ if latch.remaining().is_ok_and(|remaining| remaining == 0) => {
                let called = now();
                if self.remove(LATCH) {
                    // Afterwards: only then it is certain.
                    log.mark(Kind::Removed, LATCH, 0, called);
                }
                Ok(())
            }
            _ => Ok(()),
        };
        match outcome {
            Ok(()) | Err(Error::TimedOut { .. } | Error::SignalLost { .. } | Error::NoSeat { .. }) => {}
            Err(error) => self.fail(&format!("latch: {error}")),
        }
    }

    pub fn push(&mut self) {
        let (set, patience) = (self.set(), self.queue_patience());
        self.items += 1;
        let (token, called) = (self.start.number << 16 | self.items, self.want(QUEUE));
        let of = Of { kind: Kind::Pushed, name: QUEUE, count: 1, token, called, told: None, span: None };
        let open = self.start.log.begin(of);
        let pushed = set.queue.push_for(token, patience);
        open.end();
        open.ended(if pushed.is_ok() { Fate::Released } else { Fate::Lost });
        self.got(pushed, patience);
    }

    pub fn pop(&mut self) {
        let (set, patience, log) = (self.set(), self.queue_patience(), self.start.log);
        let called = self.want(QUEUE);
        // That it popped is known before what.
        let of = Of { kind: Kind::Popped, name: QUEUE, count: 1, token: 0, called, told: None, span: None };
        let open = log.begin(of);
        let popped = match self.one_in(2) && !self.start.calm {
            true => set.queue.try_pop_with(|item| {
                log.mark(Kind::Noted, QUEUE, *item, called);
                *item
            }),
            false => set.queue.pop_for(patience),
        };
        if let Ok(item) = &popped {
            open.is_of(*item);
        }
        open.end();
        open.ended(if popped.is_ok() { Fate::Released } else { Fate::Lost });
        match popped {
            Err(Error::QueueEmpty { .. }) => log.wants().store(0, SeqCst),
            popped => drop(self.got(popped, patience)),
        }
    }

    /// Nobody knows that a queue will not be empty, or full, but in the calm.
    fn queue_patience(&mut self) -> Duration {
        if self.start.calm { super::worker::BOUND } else { Duration::from_micros(self.below(300)) }
    }

    /// What nobody may fail at when all is well: everything, a few times.
    pub fn calm(&mut self) {
        for _ in 0..3 {
            self.mutex();
            self.two_in_order();
            self.row();
            self.read();
            self.write();
            self.table();
            self.permits();
            self.lease();
            self.lead();
            self.all();
            self.again();
            self.push();
            self.pop();
            self.churn();
        }
        if self.start.place < 2 {
            self.take_turns();
        }
        self.has_nothing();
        let set = self.set();
        let waited = set.event.set().and_then(|()| set.event.wait_for(super::worker::BOUND));
        if let Err(error) = waited {
            self.fail(&format!("event: {error}"));
        }
        if self.start.place < MEMBERS as usize {
            self.meet_for_sure();
        }
    }

    fn meet_for_sure(&mut self) {
        let set = self.set();
        let end = now() + super::worker::BOUND.as_nanos() as u64;
        self.want(BARRIER);
        let mut member = loop {
            match set.barrier.join() {
                Ok(member) => break member,
                Err(_) if now() < end => std::thread::sleep(Duration::from_micros(100)),
                Err(error) => self.fail(&format!("barrier: it cannot be joined any more: {error}")),
            }
        };
        for _ in 0..3 {
            if let Err(error) = member.wait_for(super::worker::BOUND) {
                self.fail(&format!("barrier: {error}"));
            }
        }
        // Who leaves while others are not through yet breaks nothing: they passed with it.
        drop(member);
    }
}
