//! Models of [`semaphore`](super::super::semaphore): among the living, with a name that is given up, and with a death at any point.
//!
//! Each permit guards the token of its last holder, in a cell that loom watches: so at no time there are more holders than permits.
//! There is no timer but for deaths, so a lost wake-up is a deadlock, which loom reports.
//!
//! The bounds are 4 preemptions for two participants (3 in the plain mode), 3 where a third one holds something at first, and 2 for three (1 in
//! the plain mode), which take 5 to 15 seconds each with one more; all were run with one more once, and passed. The sweeps are
//! many explorations each, so theirs is 2.

use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::cell::Cell;
use std::rc::Rc;

use loom::thread::{self, JoinHandle};

use super::super::bell::Bell;
use super::super::mutex::{Failure, LockWords, WOKEN};
use super::super::recovery;
use super::super::seat::Seat;
use super::super::semaphore::{self, Permits, Taken};
use super::super::word::{OwnerWord, Slot, Step};
use super::machine::{Expired, Futex, Machine, Thread, slot};
use super::world::{DEAD_BEFORE, STARTER, join};
use super::{Mode, explore, sweep};
use crate::sync::{AtomicU32, AtomicU64, total_order};

/// The functions under test: by default the real ones. `semaphore_seeded.rs` puts wrong ones in their place.
pub(super) trait Algorithm: Copy + Send + Sync + 'static {
    fn try_acquire(
        self,
        permits: Permits<'_>,
        me: Slot,
        hint: usize,
        guess: OwnerWord,
        wake: &dyn Fn(&AtomicU32),
    ) -> Option<(usize, OwnerWord)> {
        permits.try_acquire(me, hint, guess, wake)
    }

    fn collect(
        self,
        permits: Permits<'_>,
        host: &Thread,
        me: Slot,
        tokens: &mut dyn Iterator<Item = OwnerWord>,
        keep: &mut dyn FnMut(Taken<Slot>),
    ) -> Result<(), Failure<Expired>> {
        permits.collect(host, me, tokens, || 0, |_, _| {}, keep)
    }

    fn put_back(self, permits: Permits<'_>, taken: &Taken<Slot>) {
        permits.put_back(taken);
    }

    fn release(self, seat: &Seat, bell: &Bell, mine: OwnerWord, wake: &dyn Fn(&AtomicU32)) -> bool {
        semaphore::release(seat, bell, mine, wake).is_ok()
    }

    /// Whether so many permits are collected with the gate in hand.
    fn goes_to_the_gate(self, _: usize) -> bool {
        true
    }

    /// Whether what was collected for nothing is given back before the gate is.
    fn puts_back_first(self) -> bool {
        true
    }
}

#[derive(Clone, Copy)]
pub(super) struct Real;

impl Algorithm for Real {}

pub(super) struct World {
    machine: Rc<Machine>,
    gate: LockWords,
    bell: Bell,
    seats: Vec<Seat>,
    /// Grows when the name is given up.
    generation: AtomicU64,
    /// By seat: the token of its last holder.
    last: Vec<loom::cell::Cell<u64>>,
    /// By seat: its last owner died with it, and nobody was told yet. Not watched.
    died: Vec<Cell<bool>>,
}

/// One thread in a [`World`], and the world it is in.
pub(super) struct Participant {
    world: Rc<World>,
    thread: Thread,
}

/// Permits that somebody holds.
type Held = Vec<(usize, OwnerWord)>;

impl World {
    pub(super) fn new(permits: usize) -> Rc<Self> {
        let machine = Machine::new();
        machine.tells(|_| false);
        Rc::new(Self {
            machine,
            gate: LockWords::new(),
            bell: Bell::new(),
            seats: (0..permits).map(|_| Seat { owner: AtomicU64::new(0), note: AtomicU64::new(0) }).collect(),
            generation: AtomicU64::new(0),
            last: (0..permits).map(|_| loom::cell::Cell::new(0)).collect(),
            died: (0..permits).map(|_| Cell::new(false)).collect(),
        })
    }

    fn permits(&self) -> Permits<'_> {
        Permits { gate: &self.gate, bell: &self.bell, seats: &self.seats }
    }

    fn participant(self: &Rc<Self>, number: usize) -> Participant {
        Participant { world: self.clone(), thread: self.machine.thread(number) }
    }

    fn spawn(self: &Rc<Self>, number: usize, body: impl FnOnce(&Participant) + 'static) -> JoinHandle<()> {
        let participant = self.participant(number);
        thread::spawn(move || body(&participant))
    }

    /// The same, but the thread dies before its step number `fuse`, if it gets that far.
    fn spawn_mortal(
        self: &Rc<Self>,
        number: usize,
        fuse: usize,
        body: impl FnOnce(&Participant) + 'static,
    ) -> JoinHandle<()> {
        let participant = self.participant(number);
        thread::spawn(move || {
            participant.thread.mortal(fuse, || body(&participant), || participant.leave_behind());
        })
    }

    /// When all threads ended: all permits are there, and nobody is asleep or counted.
    fn assert_at_rest(&self) {
        assert!(self.gate.look().is_free(), "{:?} at the end", self.gate.look());
        for seat in &self.seats {
            let word = seat.look();
            assert!(word.is_free() && !word.is_abandoned(), "a permit is {word:?} at the end");
        }
        let counted = (self.gate.sleepers.load(Acquire) & !WOKEN) + self.bell.sleepers.load(Acquire);
        assert!(counted <= self.machine.strays(), "sleepers counted at the end: {counted}");
        self.machine.assert_at_rest();
    }
}

impl Participant {
    fn me(&self) -> Slot {
        slot(self.thread.slot)
    }

    fn with_deadline(&self) -> Self {
        Self { world: self.world.clone(), thread: self.thread.with_deadline() }
    }

    fn wake_bell(&self) -> impl Fn(&AtomicU32) {
        |_| {
            self.world.machine.wake(Futex::Bell);
        }
    }

    /// As the backend does: the fast path, then the gate. `None`: gave up, or the name is gone.
    fn try_to_acquire(&self, algorithm: impl Algorithm, count: usize) -> Option<Held> {
        let (world, me) = (&*self.world, self.me());
        if count == 1 {
            let guess = world.gate.look();
            if let Some(held) = algorithm.try_acquire(world.permits(), me, 0, guess, &self.wake_bell()) {
                if world.generation.load(Relaxed) == 0 {
                    return Some(vec![held]);
                }
                algorithm.release(&world.seats[held.0], &world.bell, held.1, &self.wake_bell());
                return None;
            }
        }
        if !algorithm.goes_to_the_gate(count) {
            let token = OwnerWord::free_at(world.gate.owner.fetch_add((count as u64) << 16, SeqCst) / (1 << 16) + 1);
            return self.collect(algorithm, token.epoch(), count);
        }
        let seen = world.gate.look();
        let gate = match world.gate.try_acquire(me, 0, seen) {
            Ok(gate) => gate,
            Err(seen) => match world.gate.acquire_contended(&self.thread, me, seen) {
                Ok(acquired) => acquired.word,
                Err(Failure::Refused(Expired)) => return None,
                Err(failure) => panic!("failed at the gate: {failure:?}"),
            },
        };
        self.thread.unrecorded.set(false);
        if world.generation.load(Relaxed) != 0 {
            self.leave_gate(gate);
            return None;
        }
        let first = gate.epoch();
        let gate = semaphore::reserve::<Expired>(&world.gate, gate, 0, count as u32).expect("the gate is ours");
        let mut taken = Vec::new();
        let tokens = &mut (first..).take(count).map(OwnerWord::free_at);
        // From here until it is recorded at the bell it may be on the count.
        self.thread.unrecorded.set(true);
        let collected =
            algorithm.collect(world.permits(), &self.thread.at_bell(), me, tokens, &mut |one| taken.push(one));
        self.thread.unrecorded.set(false);
        let put_back = || taken.iter().for_each(|taken| algorithm.put_back(world.permits(), taken));
        match collected {
            Ok(()) => {
                self.leave_gate(gate);
                Some(taken.iter().map(|taken| (taken.position, taken.word)).collect())
            }
            Err(Failure::Refused(Expired)) if algorithm.puts_back_first() => {
                put_back();
                self.leave_gate(gate);
                None
            }
            Err(Failure::Refused(Expired)) => {
                self.leave_gate(gate);
                put_back();
                None
            }
            Err(failure) => panic!("failed to collect: {failure:?}"),
        }
    }

    /// Without the gate.
    fn collect(&self, algorithm: impl Algorithm, token: u64, count: usize) -> Option<Held> {
        let mut taken = Vec::new();
        let tokens = &mut (token..).take(count).map(OwnerWord::free_at);
        let (permits, host) = (self.world.permits(), self.thread.at_bell());
        let collected = algorithm.collect(permits, &host, self.me(), tokens, &mut |one| taken.push(one));
        if collected.is_err() {
            taken.iter().for_each(|taken| algorithm.put_back(permits, taken));
        }
        collected.ok().map(|()| taken.iter().map(|taken| (taken.position, taken.word)).collect())
    }

    fn leave_gate(&self, gate: OwnerWord) {
        let left = self.world.gate.release(gate, |_| self.world.machine.wake(Futex::Lock));
        assert!(left.is_ok(), "taken from the living: the gate is {left:?} instead of {gate:?}");
    }

    fn acquire(&self, algorithm: impl Algorithm, count: usize) -> Held {
        self.try_to_acquire(algorithm, count).expect("gave up without a deadline")
    }

    /// What is done while permits are held.
    fn hold(&self, held: &Held) {
        for (position, word) in held {
            assert_eq!(word.slot_code(), self.me().code());
            let (last, died) = (&self.world.last[*position], &self.world.died[*position]);
            assert!(last.get() < word.epoch(), "token {} comes after {}", word.epoch(), last.get());
            assert_eq!(word.is_abandoned(), died.replace(false), "told of the death of the owner before {word:?}");
            // Here somebody else may come in, if anything lets it.
            assert_eq!(self.world.seats[*position].look(), *word, "taken from the living");
            last.set(word.epoch());
        }
    }

    fn release(&self, algorithm: impl Algorithm, held: Held) {
        for (position, word) in held {
            let (seat, bell) = (&self.world.seats[position], &self.world.bell);
            assert!(algorithm.release(seat, bell, word, &self.wake_bell()), "taken from the living: {word:?}");
        }
    }

    fn take_turn(&self, algorithm: impl Algorithm, count: usize) {
        let held = self.acquire(algorithm, count);
        self.hold(&held);
        self.release(algorithm, held);
    }

    /// Gives the name up if nobody has a permit; whether it did. As `segment::names`.
    fn give_name_up(&self) -> bool {
        let world = &self.world;
        let seen = world.gate.look();
        let Step::To(held) = seen.acquire(self.me()) else { return false };
        if world.gate.owner.compare_exchange(seen.0, held.0, SeqCst, Relaxed).is_err() {
            return false;
        }
        total_order();
        let unused = world.seats.iter().all(|seat| seat.look().is_free());
        if unused {
            // Whoever had a permit now would be at these at the same time.
            world.last.iter().for_each(|last| last.set(last.get()));
            world.generation.store(1, Relaxed);
            world.last.iter().for_each(|last| last.set(last.get()));
        }
        self.leave_gate(held);
        unused
    }

    /// What it holds stays as it is.
    fn leave_behind(&self) {
        for (seat, died) in self.world.seats.iter().zip(&self.world.died) {
            if seat.look().slot_code() == self.me().code() {
                died.set(true);
            }
        }
    }

    /// Cleans up after the first one in slot number `dead`, if it died. As `segment::participants`.
    fn clean_up(&self, dead: usize) {
        if !self.thread.is_dead(dead) {
            return;
        }
        let world = &self.world;
        let wake = |_: &AtomicU64| world.machine.wake(Futex::Lock);
        recovery::give_back(&world.gate, slot(dead), |_| false, wake);
        for seat in &world.seats {
            seat.give_back(slot(dead), |_| ());
        }
        world.bell.ring(|_| world.machine.wake_all(Futex::Bell));
        // From here until the count is one less.
        self.thread.unrecorded.set(true);
        match self.thread.clear_record_of(dead) {
            Some(Futex::Lock) => world.gate.uncount(wake),
            Some(Futex::Bell) => world.bell.uncount(),
            None => {}
        }
        self.thread.unrecorded.set(false);
    }
}

/// All threads ended: the first to come cleans up after the dead and finds everything as it should be.
fn settle(world: &Rc<World>, algorithm: impl Algorithm, mortals: &[usize]) {
    let starter = world.participant(STARTER);
    mortals.iter().for_each(|mortal| starter.clean_up(*mortal));
    starter.take_turn(algorithm, world.seats.len());
    world.assert_at_rest();
}

/// So many permits, and participants that want so many of them, one turn each.
pub(super) fn turns(algorithm: impl Algorithm, permits: usize, counts: &'static [usize]) {
    let world = World::new(permits);
    let turn = |(number, count): (usize, &usize)| {
        let count = *count;
        world.spawn(number, move |me| me.take_turn(algorithm, count))
    };
    join(counts.iter().enumerate().map(turn).collect());
    world.assert_at_rest();
}

/// All permits but one are held and then released. One wants so many and gives up at any moment, another wants one.
pub(super) fn one_gives_up(algorithm: impl Algorithm, count: usize) {
    let world = World::new(2);
    let owner = world.participant(2);
    let held = owner.acquire(algorithm, 1);
    owner.hold(&held);
    let threads = vec![
        world.spawn(0, move |me| {
            if let Some(held) = me.with_deadline().try_to_acquire(algorithm, count) {
                me.hold(&held);
                me.release(algorithm, held);
            }
        }),
        world.spawn(1, move |me| me.take_turn(algorithm, 2)),
    ];
    world.machine.expire(0);
    owner.release(algorithm, held);
    join(threads);
    world.assert_at_rest();
}

/// Somebody gives the name up while others want a permit: they have none of it afterwards.
pub(super) fn name_is_given_up(algorithm: impl Algorithm, acquirers: usize) {
    let world = World::new(1);
    let mut threads = vec![world.spawn(0, |me| {
        me.give_name_up();
    })];
    threads.extend((1..=acquirers).map(|number| {
        world.spawn(number, move |me| {
            if let Some(held) = me.try_to_acquire(algorithm, 1) {
                me.hold(&held);
                me.release(algorithm, held);
            }
        })
    }));
    join(threads);
    world.assert_at_rest();
}

/// One takes a turn and dies in it, while others take theirs.
pub(super) fn one_dies(
    algorithm: impl Algorithm,
    fuse: usize,
    permits: usize,
    mortal: usize,
    others: &'static [usize],
) {
    let world = World::new(permits);
    let mut threads = vec![world.spawn_mortal(0, fuse, move |me| me.take_turn(algorithm, mortal))];
    threads.extend(
        others.iter().zip(1..).map(|(count, number)| world.spawn(number, move |me| me.take_turn(algorithm, *count))),
    );
    join(threads);
    settle(&world, algorithm, &[0]);
}

/// A permit is held, so the mortal one waits for it at the bell, or behind another at the gate.
pub(super) fn waiter_dies(algorithm: impl Algorithm, fuse: usize, permits: usize) {
    let world = World::new(permits);
    let owner = world.participant(2);
    let held = owner.acquire(algorithm, 1);
    owner.hold(&held);
    let threads = vec![
        world.spawn_mortal(0, fuse, move |me| me.take_turn(algorithm, permits)),
        world.spawn(1, move |me| me.take_turn(algorithm, 1)),
    ];
    owner.release(algorithm, held);
    join(threads);
    settle(&world, algorithm, &[0]);
}

/// Somebody died with a permit. One heir dies, or gives up; another follows, or cleans up beside it.
pub(super) fn heir_dies(algorithm: impl Algorithm, fuse: usize, cleaner: bool) {
    let world = World::new(1);
    let dead = world.participant(DEAD_BEFORE);
    dead.hold(&dead.acquire(algorithm, 1));
    dead.leave_behind();
    dead.thread.die();
    let threads = vec![
        world.spawn_mortal(0, fuse, move |me| me.take_turn(algorithm, 1)),
        world.spawn(1, move |me| {
            if cleaner {
                me.clean_up(DEAD_BEFORE);
            }
            me.take_turn(algorithm, 1);
        }),
    ];
    join(threads);
    settle(&world, algorithm, &[0, DEAD_BEFORE]);
}

/// Of two permits one's owner died, the other is held. Whoever wants both gives up with the dead one's in hand, which it has to be told of.
pub(super) fn heir_gives_up(algorithm: impl Algorithm) {
    let world = World::new(2);
    let dead = world.participant(DEAD_BEFORE);
    dead.hold(&dead.acquire(algorithm, 1));
    dead.leave_behind();
    dead.thread.die();
    let owner = world.participant(2);
    let held = owner.acquire(algorithm, 1);
    owner.hold(&held);
    let heir = world.spawn(0, move |me| {
        if let Some(held) = me.with_deadline().try_to_acquire(algorithm, 2) {
            me.hold(&held);
            me.release(algorithm, held);
        }
    });
    world.machine.expire(0);
    owner.release(algorithm, held);
    join(vec![heir]);
    settle(&world, algorithm, &[DEAD_BEFORE]);
}

/// Without a fuse: whoever cleans up after a dead owner, and somebody who takes its permit over meanwhile and lives.
pub(super) fn cleaned_up_beside(algorithm: impl Algorithm) {
    heir_dies(algorithm, usize::MAX - 1, true);
}

#[test]
fn semaphore_never_gives_out_more_than_there_are_and_loses_no_wake_up() {
    for (mode, bound) in [(Mode::Rmw, 4), (Mode::Plain, 3)] {
        explore("semaphore, two for one", mode, bound, || turns(Real, 1, &[1, 1]));
        explore("semaphore, two for two", mode, bound, || turns(Real, 2, &[1, 1]));
    }
    explore("semaphore, three for one", Mode::Rmw, 2, || turns(Real, 1, &[1, 1, 1]));
    explore("semaphore, three for two", Mode::Rmw, 2, || turns(Real, 2, &[1, 1, 1]));
    explore("semaphore, three for one", Mode::Plain, 1, || turns(Real, 1, &[1, 1, 1]));
}

#[test]
fn semaphore_many_are_all_or_nothing_and_never_wait_for_each_other() {
    for (mode, bound) in [(Mode::Rmw, 4), (Mode::Plain, 3)] {
        explore("semaphore, both want both", mode, bound, || turns(Real, 2, &[2, 2]));
        explore("semaphore, both and one", mode, bound, || turns(Real, 2, &[2, 1]));
    }
    explore("semaphore, both, one and one", Mode::Rmw, 2, || turns(Real, 2, &[2, 1, 1]));
}

#[test]
fn semaphore_giving_up_leaves_nothing() {
    explore("semaphore, one gives up", Mode::Rmw, 3, || one_gives_up(Real, 1));
    explore("semaphore, one that wants both gives up", Mode::Rmw, 3, || one_gives_up(Real, 2));
    explore("semaphore, heir gives up", Mode::Rmw, 3, || heir_gives_up(Real));
}

#[test]
fn semaphore_of_a_name_that_is_given_up_has_no_permits() {
    for mode in [Mode::Rmw, Mode::Plain] {
        explore("semaphore, name given up", mode, 3, || name_is_given_up(Real, 1));
    }
    explore("semaphore, name given up under two", Mode::Rmw, 3, || name_is_given_up(Real, 2));
}

#[test]
fn semaphore_gets_back_what_the_dead_had() {
    sweep("semaphore, one of two dies", Mode::Rmw, 2, |fuse| one_dies(Real, fuse, 1, 1, &[1]));
    sweep("semaphore, one that wants both dies", Mode::Rmw, 2, |fuse| one_dies(Real, fuse, 2, 2, &[1]));
    sweep("semaphore, one of two that want both dies", Mode::Rmw, 2, |fuse| one_dies(Real, fuse, 2, 2, &[2]));
    sweep("semaphore, waiter dies", Mode::Rmw, 2, |fuse| waiter_dies(Real, fuse, 1));
    sweep("semaphore, waiter for both dies", Mode::Rmw, 2, |fuse| waiter_dies(Real, fuse, 2));
    sweep("semaphore, heir dies", Mode::Rmw, 2, |fuse| heir_dies(Real, fuse, false));
    sweep("semaphore, heir dies beside a cleaner", Mode::Rmw, 2, |fuse| heir_dies(Real, fuse, true));
    explore("semaphore, cleaned up beside an heir", Mode::Rmw, 3, || cleaned_up_beside(Real));
}
