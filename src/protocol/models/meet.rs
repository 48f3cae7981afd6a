//! Models of [`barrier`](super::super::barrier), of [`signal`](super::super::signal), and of a condition variable on a
//! [`bell`](super::super::bell): whether a phase is the same for all, whether what was announced is told of when it will not come, and
//! whether nobody sleeps on.
//!
//! A death ends every sleep once, as the bound of a sleep does; where nobody dies there is no timer at all.

use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::cell::RefCell;
use std::rc::Rc;

use loom::thread::{self, JoinHandle};

use super::super::barrier::{End, Meeting, Phase};
use super::super::bell::Bell;
use super::super::seat::Seat;
use super::super::signal::{Count, Promise, consume, count, promise};
use super::super::word::{OwnerWord, Step};
use super::machine::{Futex, Machine, Thread, slot};
use super::{Mode, explore, is_caught, sweep};
use crate::sync::{AtomicU32, AtomicU64, total_order};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// A member looks at the others, then arrives.
    ArrivesAfterTheLook,
    /// A phase is broken by a store.
    BrokenByStore,
    /// Whoever finds a dead member does not look whether it had arrived before it died.
    TheDeadNeverArrived,
    /// A setting of an event that resets itself is taken by a load and a store.
    ConsumedByStore,
    /// The word of whoever announced is freed, then it signals.
    FreedBeforeTheSignal,
    /// Whoever finds the one who announced dead does not look for the signal once more.
    TheDeadNeverSignalled,
    /// A waiter lets go of the mutex, then counts itself.
    UnlocksBeforeCounting,
}

const BUGS: &[(Bug, Mode)] = &[
    (Bug::ArrivesAfterTheLook, Mode::Rmw),
    (Bug::BrokenByStore, Mode::Rmw),
    (Bug::TheDeadNeverArrived, Mode::Rmw),
    (Bug::ConsumedByStore, Mode::Rmw),
    (Bug::FreedBeforeTheSignal, Mode::Rmw),
    (Bug::TheDeadNeverSignalled, Mode::Rmw),
    (Bug::UnlocksBeforeCounting, Mode::Rmw),
];

struct Hall {
    machine: Rc<Machine>,
    bell: Bell,
    state: AtomicU64,
    seats: Vec<Seat>,
    bug: Bug,
    /// What each member was told of the first phase. Not watched.
    ends: RefCell<Vec<bool>>,
}

impl Hall {
    fn new(bug: Bug, seats: usize) -> Rc<Self> {
        let seat = |number| {
            let Step::To(held) = OwnerWord(0).acquire(slot(number)) else { unreachable!("tokens are left") };
            Seat { owner: AtomicU64::new(held.0), note: AtomicU64::new(0) }
        };
        Rc::new(Self {
            machine: Machine::new(),
            bell: Bell::new(),
            state: AtomicU64::new(0),
            seats: (0..seats).map(seat).collect(),
            bug,
            ends: RefCell::default(),
        })
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == bug
    }

    fn meeting(&self) -> Meeting<'_> {
        Meeting { state: &self.state, seats: &self.seats }
    }

    fn spawn(self: &Rc<Self>, number: usize, body: impl FnOnce(&Self, &Thread) + 'static) -> JoinHandle<()> {
        let (hall, me) = (self.clone(), self.machine.thread(number).at_bell());
        thread::spawn(move || body(&hall, &me))
    }

    fn spawn_mortal(
        self: &Rc<Self>,
        number: usize,
        fuse: usize,
        body: impl FnOnce(&Self, &Thread) + 'static,
    ) -> JoinHandle<()> {
        self.spawn(number, move |hall, me| {
            me.mortal(fuse, || body(hall, me), || ());
        })
    }

    fn ring(&self) {
        self.bell.ring(|_: &AtomicU32| self.machine.wake_all(Futex::Bell));
    }

    /// One look at a phase, as the real one, or with a bug.
    fn look(&self, me: &Thread, phase: Phase) -> Option<End> {
        let meeting = self.meeting();
        match self.bug {
            Bug::BrokenByStore | Bug::TheDeadNeverArrived => {
                let dead =
                    self.seats.iter().enumerate().position(|(number, seat)| {
                        seat.note.load(SeqCst) != 1 && number != me.slot && me.is_dead(number)
                    });
                match dead {
                    Some(seat) if self.has(Bug::BrokenByStore) && meeting.phase() == phase => {
                        self.state.store(phase.0 | (seat as u64) << 1 | 1, SeqCst);
                        Some(End::Broken { seat })
                    }
                    Some(seat) if self.has(Bug::TheDeadNeverArrived) => Some(meeting.end_by(phase, seat)),
                    _ => meeting.look(me, slot(me.slot), phase, |_, _, _| ()),
                }
            }
            _ => meeting.look(me, slot(me.slot), phase, |_, _, _| ()),
        }
    }

    /// Arrives, and waits for the others; whether the phase was passed.
    fn meet(&self, me: &Thread) -> bool {
        let phase = self.meeting().phase();
        if phase.is_broken() {
            self.ends.borrow_mut().push(false);
            return false;
        }
        let end = match self.has(Bug::ArrivesAfterTheLook) {
            true => {
                let others = self.seats.iter().enumerate().filter(|(number, _)| *number != me.slot);
                let all = others.fold(true, |all, (_, seat)| all && seat.note.load(SeqCst) == 1);
                self.meeting().arrive(me.slot, phase);
                match all {
                    true => self.look(me, phase),
                    false => None,
                }
            }
            false => {
                self.meeting().arrive(me.slot, phase);
                self.look(me, phase)
            }
        };
        let end = match end {
            Some(end) => end,
            None => {
                let look = || match self.has(Bug::ArrivesAfterTheLook) {
                    // It believes that the last one will pass the phase for it.
                    true => (self.meeting().phase() != phase).then_some(End::Passed { leader: false }),
                    false => self.look(me, phase),
                };
                self.bell.wait_until(me, look).expect("no deadline")
            }
        };
        if !matches!(end, End::Passed { leader: false }) {
            self.ring();
        }
        let passed = matches!(end, End::Passed { .. });
        self.ends.borrow_mut().push(passed);
        passed
    }

    fn assert_same_for_all(&self) {
        let ends = self.ends.borrow();
        // Whoever died after that had done its part.
        let arrived = self.seats.iter().all(|seat| seat.note.load(Acquire) == 1);
        assert!(!arrived || ends.iter().all(|passed| *passed), "all arrived, and it was broken: {ends:?}");
        assert!(ends.windows(2).all(|pair| pair[0] == pair[1]), "passed by some and broken for others: {ends:?}");
        let counted = self.bell.sleepers.load(Acquire);
        assert!(counted <= self.machine.strays() + 1, "{counted} are counted at the end");
    }
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        thread.join().unwrap();
    }
}

/// So many members meet once, and all live.
fn members_meet(bug: Bug, members: usize) {
    let hall = Hall::new(bug, members);
    hall.machine.without_timer();
    let threads = (0..members).map(|number| hall.spawn(number, |hall, me| assert!(hall.meet(me)))).collect();
    join(threads);
    assert_eq!(hall.meeting().phase().number(), 1);
    hall.assert_same_for_all();
}

/// One of the members dies at any point of its way, and somebody cleans up after it.
fn member_dies(bug: Bug, fuse: usize, others: usize) {
    let dying = others;
    let hall = Hall::new(bug, others + 1);
    let mut threads = vec![hall.spawn_mortal(dying, fuse, |hall, me| {
        hall.meet(me);
    })];
    threads.extend((0..others).map(|number| {
        hall.spawn(number, |hall, me| {
            hall.meet(me);
        })
    }));
    let me = hall.machine.thread(3);
    if me.is_dead(dying) {
        hall.seats[dying].give_back(slot(dying), |_| ());
        hall.ring();
    }
    join(threads);
    hall.assert_same_for_all();
}

/// A setting that one of two waiters takes away; the second one is for the other.
fn settings_are_taken(bug: Bug) {
    let hall = Hall::new(bug, 0);
    hall.machine.without_timer();
    let take = |hall: &Hall, me: &Thread| {
        let look = || match hall.has(Bug::ConsumedByStore) {
            true => (hall.state.load(SeqCst) == 1).then(|| hall.state.store(0, SeqCst)),
            false => consume(&hall.state).then_some(()),
        };
        hall.bell.wait_until(me, look).expect("no deadline");
        hall.ends.borrow_mut().push(true);
    };
    let threads = vec![hall.spawn(0, take), hall.spawn(1, take)];
    let set = || {
        hall.state.store(1, SeqCst);
        hall.bell.ring(|_: &AtomicU32| {
            hall.machine.wake(Futex::Bell);
        });
    };
    set();
    // Not before the first one is taken: two settings that nobody took are one.
    while hall.state.load(SeqCst) == 1 {
        thread::yield_now();
    }
    assert!(hall.ends.borrow().len() <= 1, "one setting, and two took it");
    set();
    join(threads);
    assert_eq!(hall.ends.borrow().len(), 2);
    assert_eq!(hall.state.load(Acquire), 0, "one setting, and two took it");
}

/// Whoever announced to set an event dies at any point of that. A waiter gets the signal, or is told; and if the signal is there, it is not told.
fn setter_dies(bug: Bug, fuse: usize) {
    let hall = Hall::new(bug, 1);
    let setter = hall.spawn_mortal(0, fuse, |hall, _| {
        let seat = &hall.seats[0];
        let mine = seat.look();
        let free = || {
            let _ = seat.owner.compare_exchange(mine.0, mine.release().0, SeqCst, Relaxed);
        };
        if hall.has(Bug::FreedBeforeTheSignal) {
            free();
        }
        hall.state.store(1, SeqCst);
        if !hall.has(Bug::FreedBeforeTheSignal) {
            free();
        }
        hall.ring();
    });
    let waiter = hall.spawn(1, |hall, me| {
        let seat = &hall.seats[0];
        let signalled = || hall.state.load(SeqCst) == 1;
        let look = || {
            if signalled() {
                return Some(true);
            }
            match promise(me, slot(me.slot), seat.look(), || seat.look()) {
                Promise::Open => None,
                Promise::Lost(..) if !hall.has(Bug::TheDeadNeverSignalled) && signalled() => Some(true),
                Promise::Lost(..) => Some(false),
                Promise::Damaged(word) => panic!("{word:?}"),
            }
        };
        let came = hall.bell.wait_until(me, look).expect("no deadline");
        assert!(came || !signalled(), "told of a signal that was lost, and it is there");
    });
    let me = hall.machine.thread(3);
    if me.is_dead(0) {
        hall.seats[0].give_back(slot(0), |_| ());
        hall.ring();
    }
    join(vec![setter, waiter]);
}

/// Two parties count a latch down, and one of them dies at any point of that.
fn party_dies(fuse: usize) {
    let hall = Hall::new(Bug::None, 2);
    let count_down = |hall: &Hall, me: &Thread| {
        let seat = &hall.seats[me.slot];
        let mine = seat.look();
        seat.count();
        let _ = seat.owner.compare_exchange(mine.0, mine.release().0, SeqCst, Relaxed);
        hall.ring();
    };
    let threads = vec![
        hall.spawn_mortal(0, fuse, count_down),
        hall.spawn(1, count_down),
        hall.spawn(2, |hall, me| {
            let look = || match count(me, slot(me.slot), &hall.seats) {
                Count::Open => Some(true),
                Count::Waiting => None,
                Count::Lost(..) => Some(false),
                Count::Damaged(word) => panic!("{word:?}"),
            };
            let open = hall.bell.wait_until(me, look).expect("no deadline");
            assert!(open || !hall.seats[0].is_counted(), "told of a count that was lost, and it is there");
        }),
    ];
    join(threads);
}

/// One waits for a change under a mutex (here: for as long as `state` is 1), another one makes it and notifies.
fn change_is_notified(bug: Bug) {
    let hall = Hall::new(bug, 0);
    hall.machine.without_timer();
    hall.state.store(1, SeqCst);
    let waiter = hall.spawn(0, |hall, me| {
        if hall.has(Bug::UnlocksBeforeCounting) {
            hall.state.store(0, SeqCst);
            total_order();
        }
        let heard = std::cell::Cell::new(0);
        let begin = |rung| {
            heard.set(rung);
            if !hall.has(Bug::UnlocksBeforeCounting) {
                hall.state.store(0, SeqCst);
            }
        };
        hall.bell.wait_counted(me, begin, |rung| (rung != heard.get()).then_some(())).expect("no deadline");
    });
    // The mutex: it can only be had when the waiter let go of it.
    while hall.state.load(SeqCst) == 1 {
        thread::yield_now();
    }
    hall.ring();
    join(vec![waiter]);
}

fn run(bug: Bug, mode: Mode, bound: usize) {
    explore("seeded, two meet", mode, bound, move || members_meet(bug, 2));
    explore("seeded, settings are taken", mode, 2, move || settings_are_taken(bug));
    explore("seeded, a change is notified", mode, 2, move || change_is_notified(bug));
    sweep("seeded, setter dies", mode, bound, move |fuse| setter_dies(bug, fuse));
    sweep("seeded, one of two members dies", mode, bound, move |fuse| member_dies(bug, fuse, 1));
    sweep("seeded, one of three members dies", mode, 2, move |fuse| member_dies(bug, fuse, 2));
}

#[test]
fn a_phase_is_the_same_for_all() {
    explore("two meet", Mode::Rmw, 3, || members_meet(Bug::None, 2));
    explore("two meet", Mode::Plain, 2, || members_meet(Bug::None, 2));
    explore("three meet", Mode::Rmw, 2, || members_meet(Bug::None, 3));
    sweep("one of two members dies", Mode::Rmw, 3, |fuse| member_dies(Bug::None, fuse, 1));
    sweep("one of three members dies", Mode::Rmw, 1, |fuse| member_dies(Bug::None, fuse, 2));
}

#[test]
fn what_was_announced_comes_or_is_told_of() {
    explore("settings are taken", Mode::Rmw, 2, || settings_are_taken(Bug::None));
    for mode in [Mode::Rmw, Mode::Plain] {
        sweep("setter dies", mode, 3, |fuse| setter_dies(Bug::None, fuse));
        sweep("party dies", mode, 2, party_dies);
        explore("a change is notified", mode, 2, || change_is_notified(Bug::None));
    }
}

/// Names the bug that [`one_bug`] is to run with.
const SEEDED: &str = "HOSTLOCK_SEEDED_MEETING";

/// In a process started by [`every_bug_is_caught`].
#[test]
fn one_bug() {
    let Ok(wanted) = std::env::var(SEEDED) else { return };
    let (bug, mode) = BUGS.iter().find(|(bug, _)| format!("{bug:?}") == wanted).expect("a bug that exists");
    run(*bug, *mode, 3);
}

#[test]
fn every_bug_is_caught() {
    let expected = ["deadlock", "passed by some", "all arrived", "two took it", "told of a signal"];
    for (bug, mode) in BUGS {
        is_caught(&format!("{bug:?}"), *mode, SEEDED, module_path!(), &expected);
    }
}
