//! Models of [`bell`](super::super::bell): things are laid out one by one, and whoever waits takes one.
//!
//! A thing is laid out by `fetch_add` and taken by a compare-and-swap; each is announced by a ring for one. What is checked is that
//! nobody sleeps on beside a thing that it could take: without any timer where nobody dies.

use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::rc::Rc;

use loom::thread::{self, JoinHandle};

use super::super::Host;
use super::super::bell::Bell;
use super::machine::{Expired, Futex, Machine, Thread};
use super::{Mode, explore, is_caught, sweep};
use crate::sync::{AtomicU32, AtomicU64, burned, total_order};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// The ringer looks at the count, then lays the thing out.
    RingBeforeTheChange,
    /// The sleeper looks, then counts itself, and does not look again.
    LookBeforeCounting,
    /// The number of rings is read after the look.
    RungIsReadAfterTheLook,
    /// A ring does not change the number.
    RingWithoutANumber,
    /// Whoever gives up does so without a last look, after a wake that was for it.
    GivesUpWithoutALook,
    /// A sleeper that leaves clears the count.
    LeavingClearsTheCount,
    /// The sleeper looks, and is counted before, but the look may be older.
    LookIsNotOrdered,
}

const BUGS: &[(Bug, Mode)] = &[
    (Bug::RingBeforeTheChange, Mode::Rmw),
    (Bug::LookBeforeCounting, Mode::Rmw),
    (Bug::RungIsReadAfterTheLook, Mode::Rmw),
    (Bug::RingWithoutANumber, Mode::Rmw),
    (Bug::GivesUpWithoutALook, Mode::Rmw),
    (Bug::LeavingClearsTheCount, Mode::Rmw),
    (Bug::LookIsNotOrdered, Mode::Plain),
];

struct Yard {
    machine: Rc<Machine>,
    bell: Bell,
    things: AtomicU64,
    bug: Bug,
}

impl Yard {
    fn new(bug: Bug) -> Rc<Self> {
        Rc::new(Self { machine: Machine::new(), bell: Bell::new(), things: AtomicU64::new(0), bug })
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == bug
    }

    fn spawn(self: &Rc<Self>, number: usize, body: impl FnOnce(&Self, &Thread) + 'static) -> JoinHandle<()> {
        let (yard, me) = (self.clone(), self.machine.thread(number).at_bell());
        thread::spawn(move || body(&yard, &me))
    }

    fn spawn_mortal(
        self: &Rc<Self>,
        number: usize,
        fuse: usize,
        body: impl FnOnce(&Self, &Thread) + 'static,
    ) -> JoinHandle<()> {
        self.spawn(number, move |yard, me| {
            me.mortal(fuse, || body(yard, me), || ());
        })
    }

    fn lay_out(&self) {
        let wake = |_: &AtomicU32| {
            self.machine.wake(Futex::Bell);
        };
        if self.has(Bug::RingBeforeTheChange) || self.has(Bug::RingWithoutANumber) {
            total_order();
            let before = self.bell.sleepers.load(SeqCst);
            self.things.fetch_add(1, SeqCst);
            total_order();
            let sleepers = if self.has(Bug::RingBeforeTheChange) { before } else { self.bell.sleepers.load(SeqCst) };
            if sleepers != 0 {
                if self.has(Bug::RingBeforeTheChange) {
                    self.bell.rung.fetch_add(1, SeqCst);
                }
                wake(&self.bell.rung);
            }
            return;
        }
        self.things.fetch_add(1, SeqCst);
        self.bell.ring(wake);
    }

    /// Takes a thing, if there is one.
    fn look(&self) -> Option<()> {
        let order = if self.has(Bug::LookIsNotOrdered) { Relaxed } else { SeqCst };
        let mut seen = self.things.load(order);
        while seen != 0 {
            match self.things.compare_exchange(seen, seen - 1, SeqCst, Relaxed) {
                Ok(_) => return Some(()),
                Err(now) => seen = now,
            }
        }
        None
    }

    fn take(&self, me: &Thread) -> Result<(), Expired> {
        if self.bug == Bug::None {
            return self.bell.wait_until(me, || self.look());
        }
        let bell = &self.bell;
        if self.look().is_some() {
            return Ok(());
        }
        me.may_sleep()?;
        bell.sleepers.fetch_add(1, SeqCst);
        me.enlist();
        let mut may_look = !self.has(Bug::LookBeforeCounting);
        let outcome = loop {
            if !self.has(Bug::LookIsNotOrdered) {
                total_order();
            }
            let mut rung = bell.rung.load(SeqCst);
            if may_look && self.look().is_some() {
                break Ok(());
            }
            may_look = true;
            if self.has(Bug::RungIsReadAfterTheLook) {
                rung = bell.rung.load(SeqCst);
            }
            if let Err(refusal) = me.may_sleep() {
                break Err(refusal);
            }
            me.doze(&bell.rung, rung);
            if self.has(Bug::GivesUpWithoutALook)
                && let Err(refusal) = me.may_sleep()
            {
                break Err(refusal);
            }
        };
        if me.delist() {
            match self.has(Bug::LeavingClearsTheCount) {
                true => bell.sleepers.store(0, SeqCst),
                false => bell.uncount(),
            }
        }
        outcome
    }

    /// Whoever died asleep is taken off the count by its record.
    fn clean_up(&self, me: &Thread, dead: usize) {
        if me.is_dead(dead) && me.clear_record_of(dead) == Some(Futex::Bell) {
            self.bell.uncount();
        }
    }

    fn assert_at_rest(&self, things: u64) {
        assert_eq!(self.things.load(Acquire), things, "things are left");
        let counted = self.bell.sleepers.load(Acquire);
        assert!(counted <= self.machine.strays(), "{counted} are counted at the end");
        self.machine.assert_at_rest();
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

/// So many wait, and as many things are laid out, by so many.
fn things_are_taken(bug: Bug, takers: usize, layers: usize) {
    let yard = Yard::new(bug);
    let mut threads: Vec<_> =
        (0..takers).map(|number| yard.spawn(number, |yard, me| yard.take(me).expect("no deadline"))).collect();
    for number in 1..layers {
        threads.push(yard.spawn(takers + number - 1, |yard, _| yard.lay_out()));
    }
    for _ in layers.min(1) - 1..takers - (layers - 1) {
        yard.lay_out();
    }
    join(threads);
    yard.assert_at_rest(0);
}

/// Two wait, one of them with a deadline that passes at any moment. Whoever does not give up gets its thing.
fn one_gives_up(bug: Bug) {
    let yard = Yard::new(bug);
    yard.machine.without_timer();
    let threads = vec![
        yard.spawn(0, |yard, me| {
            // What it took, it lays out again.
            if yard.take(&me.with_deadline()).is_ok() {
                yard.lay_out();
            }
        }),
        yard.spawn(1, |yard, me| yard.take(me).expect("no deadline")),
        yard.spawn(2, |yard, _| yard.machine.expire(0)),
    ];
    yard.lay_out();
    join(threads);
    yard.assert_at_rest(0);
}

/// Of two who wait one dies, at any point; it may have taken a thing with it. Then it is cleaned up after, while the other one waits.
fn taker_dies(bug: Bug, fuse: usize) {
    let yard = Yard::new(bug);
    let threads = vec![
        yard.spawn_mortal(0, fuse, |yard, me| yard.take(me).expect("no deadline")),
        yard.spawn(1, |yard, me| yard.take(me).expect("no deadline")),
    ];
    let me = yard.machine.thread(3).at_bell();
    yard.lay_out();
    yard.clean_up(&me, 0);
    yard.lay_out();
    join(threads);
    yard.clean_up(&me, 0);
    let left = yard.things.load(Acquire);
    assert!(left <= 1, "{left} things are left");
    yard.assert_at_rest(left);
}

/// Whoever lays a thing out dies at any point of that.
fn ringer_dies(fuse: usize) {
    let yard = Yard::new(Bug::None);
    let threads = vec![
        yard.spawn_mortal(0, fuse, |yard, _| yard.lay_out()),
        yard.spawn(1, |yard, me| yard.take(me).expect("no deadline")),
    ];
    if yard.machine.thread(3).at_bell().is_dead(0) && yard.things.load(Acquire) == 0 {
        yard.lay_out();
    }
    let me = yard.machine.thread(3);
    let [mortal, taker]: [JoinHandle<()>; 2] = threads.try_into().ok().unwrap();
    mortal.join().unwrap();
    // Unless its thing is there or was taken.
    if me.is_dead(0) {
        yard.lay_out();
    }
    taker.join().unwrap();
    let left = yard.things.load(Acquire);
    yard.assert_at_rest(left);
}

fn run(bug: Bug, mode: Mode, bound: usize) {
    explore("seeded bell, one takes", mode, bound, move || things_are_taken(bug, 1, 1));
    explore("seeded bell, two take", mode, bound, move || things_are_taken(bug, 2, 1));
    explore("seeded bell, one gives up", mode, bound, move || one_gives_up(bug));
}

#[test]
fn nobody_sleeps_on_beside_a_thing() {
    for mode in [Mode::Rmw, Mode::Plain] {
        explore("one takes", mode, 3, || things_are_taken(Bug::None, 1, 1));
        explore("one gives up, another takes", mode, 2, || one_gives_up(Bug::None));
    }
    explore("two take", Mode::Rmw, 3, || things_are_taken(Bug::None, 2, 1));
    explore("two take", Mode::Plain, 2, || things_are_taken(Bug::None, 2, 1));
    explore("two take, two lay out", Mode::Rmw, 2, || things_are_taken(Bug::None, 2, 2));
}

#[test]
fn whoever_dies_at_a_bell_stops_nobody() {
    sweep("taker dies", Mode::Rmw, 2, |fuse| taker_dies(Bug::None, fuse));
    sweep("ringer dies", Mode::Rmw, 3, ringer_dies);
    sweep("ringer dies", Mode::Plain, 2, ringer_dies);
}

/// Names the bug that [`one_bug`] is to run with.
const SEEDED: &str = "HOSTLOCK_SEEDED_BELL";

/// In a process started by [`every_bug_is_caught`].
#[test]
fn one_bug() {
    let Ok(wanted) = std::env::var(SEEDED) else { return };
    let (bug, mode) = BUGS.iter().find(|(bug, _)| format!("{bug:?}") == wanted).expect("a bug that exists");
    burned();
    run(*bug, *mode, 3);
}

#[test]
fn every_bug_is_caught() {
    for (bug, mode) in BUGS {
        is_caught(&format!("{bug:?}"), *mode, SEEDED, module_path!(), &["deadlock", "are counted"]);
    }
}
