//! One machine, small enough to be explored: its futexes, who lives, and who is recorded as asleep.
//!
//! * A futex is one mutex over a queue and a condition variable per sleeper: waiting compares the word and enqueues under the mutex,
//!   waking takes the first off the queue. There is no time: a sleeper nobody wakes is a deadlock, and loom reports it.
//! * What time does in the world, a step does here. A deadline passes by [`Machine::expire`]. A death ends every sleep once
//!   ([`Thread::die`]), also one about to begin, for in the world every sleep is bounded.
//! * Whoever has a fuse ([`Thread::mortal`]) dies before any one access or system call. The kernel takes the dead out of the queue
//!   before they look dead; here nobody is in the queue who dies, since killed in its sleep is, for all others, killed just before it,
//!   and killed after the wake is a point of its own.
//! * Each sleeper has a record, in the order of `segment::waiters`: count, claim, fill in; clear by compare-and-swap, uncount. Whoever
//!   cleans up after the dead does the second half for them. No byte keeps recoverers apart here: any two may clean up side by side.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

use loom::sync::atomic::fence;
use loom::sync::{Condvar, Mutex};

use super::super::slot::Slot;
use super::super::word::OwnerWord;
use super::super::{Host, Verdict, lease};
use crate::sync::{AtomicU32, AtomicU64, as_one_step, total_order, with_fuse};

/// Who can take part: the three threads of a model, the thread that starts them, and one who was there before.
pub(super) const PARTICIPANTS: usize = 5;

/// In a record: taken, but not filled in. As in `segment::waiters`.
pub(super) const CLAIMED: u64 = 1;
/// In a record: asleep on the bell, and not on the lock.
const ON_BELL: u64 = 2;

const ALIVE: u32 = 0;
const DEAD: u32 = 1;
const UNREGISTERED: u32 = 2;

/// The deadline passed.
#[derive(Debug)]
pub(super) struct Expired;

/// What is slept on: an owner word, or a bell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Futex {
    Lock,
    Bell,
}

pub(super) struct Machine {
    beds: Mutex<Beds>,
    calls: [Condvar; PARTICIPANTS],
    lives: [AtomicU32; PARTICIPANTS],
    records: [AtomicU64; PARTICIPANTS],
    /// What leases go by.
    clock: AtomicU64,
    /// How many died who may have left a stray one on a count. Not watched.
    strays: Cell<u32>,
    /// Whether sleeps are bounded: whether a death ends them.
    bounded: Cell<bool>,
    /// Whether the next owner is told of a death with that word.
    is_told_of: RefCell<Box<dyn Fn(OwnerWord) -> bool>>,
    /// What a heavy fence has others do.
    fenced: RefCell<Box<dyn Fn()>>,
}

#[derive(Default)]
struct Beds {
    queue: Vec<(usize, Futex)>,
    expired: [bool; PARTICIPANTS],
    deaths: u32,
}

/// One thread of a [`Machine`].
pub(super) struct Thread {
    pub(super) machine: Rc<Machine>,
    pub(super) bed: usize,
    pub(super) slot: usize,
    thread: u32,
    /// How often it spins.
    spins: u32,
    /// Whether it wants to be before those who just come, as soon as it has to sleep.
    hungry: bool,
    /// Whether its wait has a deadline, and so may end without what it waits for.
    patient: bool,
    /// What its records say that it waits for.
    waits_for: Futex,
    deaths_known: Cell<u32>,
    /// How many were in the slot before.
    incarnation: u64,
    /// Between the count and the record: whoever is killed here may leave a stray one on the count.
    pub(super) unrecorded: Rc<Cell<bool>>,
    enlisted: Cell<bool>,
}

pub(super) fn slot(index: usize) -> Slot {
    Slot::new(index as u32).unwrap()
}

impl Machine {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            beds: Mutex::default(),
            calls: Default::default(),
            lives: core::array::from_fn(|_| AtomicU32::new(ALIVE)),
            records: core::array::from_fn(|_| AtomicU64::new(0)),
            clock: AtomicU64::new(1),
            strays: Cell::new(0),
            bounded: Cell::new(true),
            fenced: RefCell::new(Box::new(|| ())),
            is_told_of: RefCell::new(Box::new(|_| true)),
        })
    }

    /// From now on nobody wakes up by itself, whoever dies.
    pub(super) fn without_timer(&self) {
        self.bounded.set(false);
    }

    /// Which deaths the next owner is told of. All, if this is not called.
    pub(super) fn tells(&self, is_told_of: impl Fn(OwnerWord) -> bool + 'static) {
        *self.is_told_of.borrow_mut() = Box::new(is_told_of);
    }

    /// What a heavy fence has others do. Nothing, if this is not called: light fences are whole ones in most models.
    pub(super) fn fences(&self, fenced: impl Fn() + 'static) {
        *self.fenced.borrow_mut() = Box::new(fenced);
    }

    /// The thread in bed and slot number `number`.
    pub(super) fn thread(self: &Rc<Self>, number: usize) -> Thread {
        Thread {
            machine: self.clone(),
            bed: number,
            slot: number,
            thread: 0,
            spins: 0,
            hungry: false,
            patient: true,
            waits_for: Futex::Lock,
            deaths_known: Cell::new(0),
            incarnation: 0,
            unrecorded: Rc::default(),
            enlisted: Cell::new(false),
        }
    }

    /// Lets the deadline of `bed` pass.
    pub(super) fn expire(&self, bed: usize) {
        let mut beds = self.beds.lock().unwrap();
        beds.expired[bed] = true;
        if beds.queue.iter().any(|(sleeper, _)| *sleeper == bed) {
            beds.queue.retain(|(sleeper, _)| *sleeper != bed);
            self.calls[bed].notify_one();
        }
    }

    /// Lets the time of all leases that end up to `now` come. Every sleeper looks then.
    pub(super) fn pass_time(&self, now: u64) {
        self.clock.store(now, Release);
        let mut beds = self.beds.lock().unwrap();
        beds.deaths += 1;
        for (sleeper, _) in beds.queue.drain(..) {
            self.calls[sleeper].notify_one();
        }
    }

    /// What time it is.
    pub(super) fn now(&self) -> u64 {
        self.clock.load(Acquire)
    }

    /// Wakes the first sleeper there; whether there was one.
    pub(super) fn wake(&self, futex: Futex) -> bool {
        as_one_step(|| self.call(futex))
    }

    /// Wakes everybody there.
    pub(super) fn wake_all(&self, futex: Futex) {
        as_one_step(|| while self.call(futex) {});
    }

    fn call(&self, futex: Futex) -> bool {
        let mut beds = self.beds.lock().unwrap();
        let first = beds.queue.iter().position(|(_, on)| *on == futex);
        if let Some(first) = first {
            let (sleeper, _) = beds.queue.remove(first);
            self.calls[sleeper].notify_one();
        }
        first.is_some()
    }

    /// How many may be on a count at the end.
    pub(super) fn strays(&self) -> u32 {
        self.strays.get()
    }

    /// When all threads ended: nobody is recorded as asleep.
    pub(super) fn assert_at_rest(&self) {
        for record in &self.records {
            assert_eq!(record.load(Acquire), 0, "a sleeper is recorded at the end");
        }
    }

    pub(super) fn record(&self, bed: usize) -> &AtomicU64 {
        &self.records[bed]
    }
}

impl Thread {
    /// As another thread of the process in `slot`.
    pub(super) fn of_process(&self, slot: usize) -> Self {
        Self { slot, thread: self.bed as u32 + 1, ..self.same() }
    }

    pub(super) fn spinning(&self, spins: u32) -> Self {
        Self { spins, ..self.same() }
    }

    pub(super) fn hungry(&self) -> Self {
        Self { hungry: true, ..self.same() }
    }

    pub(super) fn with_deadline(&self) -> Self {
        Self { patient: false, ..self.same() }
    }

    /// As one whose next waits are for the bell.
    pub(super) fn at_bell(&self) -> Self {
        Self { waits_for: Futex::Bell, ..self.same() }
    }

    pub(super) fn same(&self) -> Self {
        let unrecorded = self.unrecorded.clone();
        let (thread, spins, patient, waits_for) = (self.thread, self.spins, self.patient, self.waits_for);
        Self {
            slot: self.slot,
            thread,
            spins,
            hungry: self.hungry,
            patient,
            waits_for,
            incarnation: self.incarnation,
            unrecorded,
            ..self.machine.thread(self.bed)
        }
    }

    /// As the next one in `slot`, in which somebody died.
    pub(super) fn reborn_in(&self, slot: usize) -> Self {
        let reborn = Self { slot, incarnation: self.incarnation + 1, ..self.same() };
        reborn.move_in();
        reborn
    }

    pub(super) fn incarnation(&self) -> u32 {
        self.incarnation as u32
    }

    /// What this thread's record says when it sleeps.
    pub(super) fn who(&self) -> u64 {
        let target = if self.waits_for == Futex::Bell { ON_BELL } else { 0 };
        self.incarnation << 32 | (self.slot as u64 + 1) << 16 | target
    }

    /// Runs `body`, which dies before its step number `fuse`, if it gets that far; whether it got to its end. `dead` is called then.
    pub(super) fn mortal(&self, fuse: usize, body: impl FnOnce(), dead: impl FnOnce()) -> bool {
        let ended = with_fuse(fuse, body);
        if !ended {
            dead();
            self.die();
        }
        ended
    }

    /// The slot, which was given back, is given up, and this thread moves in.
    pub(super) fn move_in(&self) {
        let life = &self.machine.lives[self.slot];
        life.store(UNREGISTERED, Release);
        life.store(ALIVE, Release);
        // Acquiring is no `Release`. Without this fence somebody who sees our slot in a word may still find it dead. Pairs with
        // the one in `judge`.
        fence(Release);
    }

    /// What it holds stays as it is, and from now on it can be told to be dead.
    pub(super) fn die(&self) {
        let machine = &self.machine;
        if self.unrecorded.get() {
            machine.strays.set(machine.strays.get() + 1);
        }
        machine.lives[self.slot].store(DEAD, Release);
        if !machine.bounded.get() {
            return;
        }
        let mut beds = machine.beds.lock().unwrap();
        beds.deaths += 1;
        for (sleeper, _) in beds.queue.drain(..) {
            machine.calls[sleeper].notify_one();
        }
    }

    /// Whether the first one in slot number `dead` died.
    pub(super) fn is_dead(&self, dead: usize) -> bool {
        matches!(self.judge(slot(dead)), Verdict::Dead(_))
    }

    /// Clears the record of the first one in slot number `dead`, which is dead; from which count it has to be taken.
    pub(super) fn clear_record_of(&self, dead: usize) -> Option<Futex> {
        let record = self.machine.record(dead);
        let seen = record.load(Acquire);
        // One that is only claimed is on a count, but in the segment nobody knows on which: a stray one is left.
        if seen == 0 || record.compare_exchange(seen, 0, AcqRel, Relaxed).is_err() || seen & CLAIMED != 0 {
            return None;
        }
        Some(if seen & ON_BELL != 0 { Futex::Bell } else { Futex::Lock })
    }

    fn sleep_on(&self, futex: Futex, is_changed: impl FnOnce() -> bool) {
        as_one_step(|| {
            let mut beds = self.machine.beds.lock().unwrap();
            if beds.deaths != self.deaths_known.replace(beds.deaths) || beds.expired[self.bed] || is_changed() {
                return;
            }
            beds.queue.push((self.bed, futex));
            while beds.queue.iter().any(|(sleeper, _)| *sleeper == self.bed) {
                beds = self.machine.calls[self.bed].wait(beds).unwrap();
            }
        });
    }
}

impl Host for Thread {
    type Obituary = Slot;
    type Refusal = Expired;

    fn judge(&self, slot: Slot) -> Verdict<Slot> {
        // The word that names the slot may have been read without `Acquire`: pairs with the one in `move_in`.
        fence(Acquire);
        match self.machine.lives[slot.index() as usize].load(Acquire) {
            ALIVE => Verdict::Alive,
            DEAD => Verdict::Dead(slot),
            _ => Verdict::Unregistered,
        }
    }

    fn run_out(&self, slot: Slot, lease: &AtomicU64, seen: OwnerWord) -> Option<Slot> {
        let has_come = |when| when <= self.machine.clock.load(Acquire);
        lease::close(lease, seen, has_come).then_some(slot)
    }

    fn is_starving(&self) -> bool {
        self.hungry
    }

    fn give_way(&self, _: &AtomicU64, _: OwnerWord) {}

    fn thread(&self) -> u32 {
        self.thread
    }

    fn spin(&self, step: u32) -> bool {
        step < self.spins
    }

    fn is_told_of(&self, seen: OwnerWord) -> bool {
        self.machine.is_told_of.borrow()(seen)
    }

    fn met(&self, _: OwnerWord) {}

    fn may_sleep(&self) -> Result<(), Expired> {
        if !self.patient && as_one_step(|| self.machine.beds.lock().unwrap().expired[self.bed]) {
            return Err(Expired);
        }
        self.unrecorded.set(!self.enlisted.get());
        Ok(())
    }

    fn enlist(&self) {
        let (record, who) = (self.machine.record(self.bed), self.who());
        // Acquire, as in `segment::waiters`, and Release below.
        let claimed = record.compare_exchange(0, who | CLAIMED, Acquire, Relaxed);
        assert!(claimed.is_ok(), "the record of {} is taken: {claimed:?}", self.bed);
        record.store(who, Release);
        self.enlisted.set(true);
        self.unrecorded.set(false);
    }

    fn delist(&self) -> bool {
        let cleared = self.machine.record(self.bed).compare_exchange(self.who(), 0, AcqRel, Relaxed).is_ok();
        self.enlisted.set(false);
        self.unrecorded.set(cleared);
        cleared
    }

    fn sleep(&self, owner: &AtomicU64, seen: OwnerWord) {
        self.sleep_on(Futex::Lock, || OwnerWord(owner.load(Acquire)).low_half() != seen.low_half());
    }

    fn wake(&self, _: &AtomicU64) -> bool {
        self.machine.wake(Futex::Lock)
    }

    fn heavy_fence(&self) -> bool {
        total_order();
        (self.machine.fenced.borrow())();
        true
    }

    fn doze(&self, rung: &AtomicU32, seen: u32) {
        self.sleep_on(Futex::Bell, || rung.load(Acquire) != seen);
    }
}
