//! A semaphore in a machine, what its permits guard, and a participant's turn: for the models in [`semaphore`](super::semaphore).

use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use loom::thread::{self, JoinHandle};

use super::super::bell::Bell;
use super::super::mutex::{FENCED, Failure, LockWords, WOKEN};
use super::super::recovery;
use super::super::seat::Seat;
use super::super::semaphore::{self, Permits, Taken};
use super::super::slot::Slot;
use super::super::word::{OwnerWord, RUN, Step};
use super::machine::{Expired, Futex, Machine, Thread, slot};
use crate::sync::{AtomicU32, AtomicU64, is_rmw, total_order};

/// The functions under test: by default the real ones. `semaphore_seeded.rs` puts wrong ones in their place.
pub(super) trait Algorithm: Copy + Send + Sync + 'static {
    fn try_acquire(
        self,
        permits: Permits<'_>,
        me: Slot,
        (hint, run): (usize, bool),
        wake: &dyn Fn(&AtomicU32),
    ) -> Option<(usize, OwnerWord)> {
        match semaphore::try_again(permits.gate, me, &permits.seats[hint]) {
            Ok(word) => return Some((hint, word)),
            Err(Some(word)) => drop(semaphore::release(&permits.seats[hint], permits.bell, word, wake)),
            Err(None) => {}
        }
        permits.try_acquire(me, hint, run, wake)
    }

    /// The gate's word when so many tokens were drawn there, and the first of them.
    fn reserve(self, gate: &LockWords, mine: OwnerWord, count: u32) -> (OwnerWord, u64) {
        semaphore::reserve::<Expired>(gate, mine, 0, count).expect("the gate is ours")
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
        // Every other process is registered for heavy fences.
        match mine.slot_code() / 2 % 2 == 0 {
            true => semaphore::release(seat, bell, mine, wake).is_ok(),
            false => semaphore::release_lightly(seat, bell, mine, wake).is_ok(),
        }
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

/// Where all are registered for heavy fences.
#[derive(Clone, Copy)]
pub(super) struct Light;

impl Algorithm for Light {
    fn release(self, seat: &Seat, bell: &Bell, mine: OwnerWord, wake: &dyn Fn(&AtomicU32)) -> bool {
        semaphore::release_lightly(seat, bell, mine, wake).is_ok()
    }
}

pub(super) struct World {
    pub(super) machine: Rc<Machine>,
    pub(super) gate: LockWords,
    pub(super) bell: Bell,
    pub(super) seats: Vec<Seat>,
    /// Grows when the name is given up.
    pub(super) generation: AtomicU64,
    /// By seat: the token of its last holder.
    pub(super) last: Vec<loom::cell::Cell<u64>>,
    /// By seat: its last owner died with it, and nobody was told yet. Not watched.
    pub(super) died: Vec<Cell<bool>>,
    /// The tokens of all acquisitions so far. Not watched.
    pub(super) given: RefCell<BTreeSet<u64>>,
    /// The largest token of an acquisition that ended. Not watched.
    pub(super) ended: Cell<u64>,
}

/// One thread in a [`World`], and the world it is in.
pub(super) struct Participant {
    pub(super) world: Rc<World>,
    pub(super) thread: Thread,
    /// Where it looks first.
    pub(super) hint: Cell<usize>,
}

/// Permits that somebody holds.
pub(super) type Held = Vec<(usize, OwnerWord)>;

impl World {
    pub(super) fn new(permits: usize) -> Rc<Self> {
        let machine = Machine::new();
        machine.tells(|_| false);
        // As the backend makes them: no seat is in a run of the gate's.
        let gate = LockWords { owner: AtomicU64::new(OwnerWord::free_at(RUN).0), ..LockWords::new() };
        let seat = || Seat { owner: AtomicU64::new(OwnerWord::free_at(RUN - 1).0), note: AtomicU64::new(0) };
        Rc::new(Self {
            machine,
            gate,
            bell: Bell::new(),
            seats: (0..permits).map(|_| seat()).collect(),
            generation: AtomicU64::new(0),
            last: (0..permits).map(|_| loom::cell::Cell::new(0)).collect(),
            died: (0..permits).map(|_| Cell::new(false)).collect(),
            given: RefCell::default(),
            ended: Cell::new(0),
        })
    }

    pub(super) fn permits(&self) -> Permits<'_> {
        Permits { gate: &self.gate, bell: &self.bell, seats: &self.seats }
    }

    pub(super) fn participant(self: &Rc<Self>, number: usize) -> Participant {
        Participant { world: self.clone(), thread: self.machine.thread(number), hint: Cell::new(0) }
    }

    pub(super) fn spawn(self: &Rc<Self>, number: usize, body: impl FnOnce(&Participant) + 'static) -> JoinHandle<()> {
        let participant = self.participant(number);
        thread::spawn(move || body(&participant))
    }

    /// The same, but the thread dies before its step number `fuse`, if it gets that far.
    pub(super) fn spawn_mortal(
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
    pub(super) fn assert_at_rest(&self) {
        assert!(self.gate.look().is_free(), "{:?} at the end", self.gate.look());
        for seat in &self.seats {
            let word = seat.look();
            assert!(word.is_free() && !word.is_abandoned(), "a permit is {word:?} at the end");
        }
        let counted = (self.gate.sleepers.load(Acquire) & !(WOKEN | FENCED)) + self.bell.sleepers.load(Acquire);
        assert!(counted <= self.machine.strays(), "sleepers counted at the end: {counted}");
        self.machine.assert_at_rest();
    }
}

impl Participant {
    pub(super) fn me(&self) -> Slot {
        slot(self.thread.slot)
    }

    pub(super) fn with_deadline(&self) -> Self {
        Self { world: self.world.clone(), thread: self.thread.with_deadline(), hint: self.hint.clone() }
    }

    /// Where to look first, and whether to draw a run: whenever nobody else drew since.
    pub(super) fn first_choice(&self) -> (usize, bool) {
        let hint = self.hint.get();
        (hint, self.world.seats[hint].look() == self.world.gate.look())
    }

    pub(super) fn wake_bell(&self) -> impl Fn(&AtomicU32) {
        |_| {
            self.world.machine.wake(Futex::Bell);
        }
    }

    /// As the backend does. `None`: gave up, or the name is gone.
    pub(super) fn try_to_acquire(&self, algorithm: impl Algorithm, count: usize) -> Option<Held> {
        let ended = self.world.ended.get();
        let held = self.try_paths(algorithm, count)?;
        for (position, word) in &held {
            let token = word.epoch();
            assert!(self.world.given.borrow_mut().insert(token), "token {token} comes after itself");
            // In the plain mode the order of execution is not one in which anything is known to have ended.
            assert!(!is_rmw() || token > ended, "token {token} comes after {ended}, which had ended");
            self.hint.set(*position);
        }
        Some(held)
    }

    /// The fast path, then the gate.
    pub(super) fn try_paths(&self, algorithm: impl Algorithm, count: usize) -> Option<Held> {
        let (world, me) = (&*self.world, self.me());
        if count == 1 {
            if let Some(held) = algorithm.try_acquire(world.permits(), me, self.first_choice(), &self.wake_bell()) {
                if world.generation.load(Relaxed) == 0 {
                    return Some(vec![held]);
                }
                algorithm.release(&world.seats[held.0], &world.bell, held.1, &self.wake_bell());
                return None;
            }
        }
        if !algorithm.goes_to_the_gate(count) {
            let tokens = (count as u64).next_multiple_of(2 * RUN);
            let token = OwnerWord(world.gate.owner.fetch_add(OwnerWord::free_at(tokens).0, SeqCst)).epoch() + 1;
            return self.collect(algorithm, token, count);
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
        let (gate, first) = algorithm.reserve(&world.gate, gate, count as u32);
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
    pub(super) fn collect(&self, algorithm: impl Algorithm, token: u64, count: usize) -> Option<Held> {
        let mut taken = Vec::new();
        let tokens = &mut (token..).take(count).map(OwnerWord::free_at);
        let (permits, host) = (self.world.permits(), self.thread.at_bell());
        let collected = algorithm.collect(permits, &host, self.me(), tokens, &mut |one| taken.push(one));
        if collected.is_err() {
            taken.iter().for_each(|taken| algorithm.put_back(permits, taken));
        }
        collected.ok().map(|()| taken.iter().map(|taken| (taken.position, taken.word)).collect())
    }

    pub(super) fn leave_gate(&self, gate: OwnerWord) {
        let left = self.world.gate.release(gate, |_| self.world.machine.wake(Futex::Lock));
        assert!(left.is_ok(), "taken from the living: the gate is {left:?} instead of {gate:?}");
    }

    pub(super) fn acquire(&self, algorithm: impl Algorithm, count: usize) -> Held {
        self.try_to_acquire(algorithm, count).expect("gave up without a deadline")
    }

    /// What is done while permits are held.
    pub(super) fn hold(&self, held: &Held) {
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

    pub(super) fn release(&self, algorithm: impl Algorithm, held: Held) {
        for (position, word) in held {
            let (seat, bell) = (&self.world.seats[position], &self.world.bell);
            assert!(algorithm.release(seat, bell, word, &self.wake_bell()), "taken from the living: {word:?}");
            self.world.ended.set(self.world.ended.get().max(word.epoch()));
        }
    }

    pub(super) fn take_turn(&self, algorithm: impl Algorithm, count: usize) {
        let held = self.acquire(algorithm, count);
        self.hold(&held);
        self.release(algorithm, held);
    }

    /// Gives the name up if nobody has a permit; whether it did. As `segment::names`.
    pub(super) fn give_name_up(&self) -> bool {
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
    pub(super) fn leave_behind(&self) {
        for (seat, died) in self.world.seats.iter().zip(&self.world.died) {
            if seat.look().slot_code() == self.me().code() {
                died.set(true);
            }
        }
    }

    /// Cleans up after the first one in slot number `dead`, if it died. As `segment::participants`.
    pub(super) fn clean_up(&self, dead: usize) {
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
