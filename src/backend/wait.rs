//! One wait of one thread for one lock: what the protocol asks of the world.

use core::sync::atomic::Ordering::{Acquire, Relaxed};
use core::sync::atomic::{AtomicU32, AtomicU64, fence};
use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use super::hurry::{Hurry, Next};
use super::shared::SharedSpace;
use super::{cancel, deadlock};
use crate::Error;
use crate::holder::{Abandoned, Held, Waits};
pub(crate) use crate::os::clock::sleep;
use crate::os::clock::{Boottime, Deadline, Monotonic};
use crate::os::fence as membarrier;
use crate::os::futex::{self, Woken};
use crate::os::life::Sign;
use crate::os::liveness::{self, Life};
use crate::protocol::mutex::{Acquired, Failure, LockWords};
use crate::protocol::slot::Slot;
use crate::protocol::word::OwnerWord;
use crate::protocol::{Host, Verdict, lease, semaphore};
use crate::segment::format::{Entry, Meta};
use crate::segment::waiters::{Enlisted, Target};

/// The first sleep of a wait is short: the owner may have died just after it was judged.
const FIRST_SLEEP: Duration = Duration::from_millis(10);
/// A sleep that nobody may end.
const SOON: Duration = Duration::from_millis(1);
/// How long "alive" is believed without asking again.
const BELIEVED: Duration = Duration::from_millis(5);
/// Whoever gets the processor back so much later has not got it for itself.
const LONG_TURN: Duration = Duration::from_micros(100);
/// Who has waited for so long is before whoever just comes.
const STARVING: Duration = Duration::from_millis(1);
/// After so many sleeps that nobody ended, a waiter looks whether it waits for itself; before that after each power of two.
const LOOK_FOR_CYCLES: u32 = 32;
/// How long whoever cannot sleep leaves the lock to those for whom it is reserved. They have been woken, and only have to get to run.
const COURTESY: Duration = Duration::from_millis(1);
/// Looks at a held lock before going to sleep, each after a pause twice as long as the one before, up to [`LONGEST_PAUSE`]: some 10 µs in all. Longer pauses let
/// more turns through, and each waiter miss more of them: at 256 instead of 8 times the waits that one in a thousand exceeds were four times those of a
/// lock that does not spin. Who spins for longer, for an owner that does not run, keeps the processor from it.
const SPINS: u32 = 50;
const LONGEST_PAUSE: u32 = 3;

pub(super) fn wake_one(word: &AtomicU64) -> bool {
    futex::wake(word, 1) > 0
}

/// For [`Bell::ring`](crate::protocol::bell::Bell::ring): everybody who sleeps there has to look.
#[allow(dead_code)]
pub(super) fn wake_all(rung: &AtomicU32) {
    futex::wake(rung, i32::MAX);
}

/// The same: the change is for one of them.
pub(super) fn wake_next(rung: &AtomicU32) {
    futex::wake(rung, 1);
}

/// When an acquisition was first seen, in one word: the epoch it belongs to, whether that was its beginning, and when.
pub(super) mod stamp {
    use super::*;

    const MILLIS_BITS: u32 = 38;
    const EXACT: u64 = 1 << MILLIS_BITS;
    const EPOCH_SHIFT: u32 = MILLIS_BITS + 1;

    /// A stamp of whoever read no clock: it says only whose it is.
    const TIME: u64 = EXACT | (EXACT - 1);
    const _: () = assert!(EPOCH_SHIFT == semaphore::NOTE_EPOCH_SHIFT);

    fn millis(now: Monotonic) -> u64 {
        (now.0 / 1_000_000) & (EXACT - 1)
    }

    pub(crate) fn new(word: OwnerWord, now: Monotonic, exact: bool) -> u64 {
        word.epoch() << EPOCH_SHIFT | if exact { EXACT } else { 0 } | millis(now)
    }

    /// When something was stamped that has no epoch; 0: it was not.
    pub(crate) fn plain(now: Monotonic) -> u64 {
        EXACT | millis(now)
    }

    pub(crate) fn read_plain(stamp: u64) -> Held {
        match stamp & EXACT {
            0 => Held::Unknown,
            _ => Held::For(since(stamp)),
        }
    }

    /// For how long.
    fn since(stamp: u64) -> Duration {
        Duration::from_millis(millis(Monotonic::now()).saturating_sub(stamp & (EXACT - 1)))
    }

    /// Whether `stamp` is of the acquisition in `word`, and says when it was.
    pub(crate) fn is_of(stamp: u64, word: OwnerWord) -> bool {
        stamp & TIME != 0 && belongs(stamp, word)
    }

    /// Whether `stamp` is of the acquisition in `word`, whose owner read no clock.
    pub(crate) fn is_blank_of(stamp: u64, word: OwnerWord) -> bool {
        stamp & TIME == 0 && belongs(stamp, word)
    }

    fn belongs(stamp: u64, word: OwnerWord) -> bool {
        stamp >> EPOCH_SHIFT == (word.epoch() << EPOCH_SHIFT) >> EPOCH_SHIFT
    }

    pub(crate) fn read(stamp: u64, word: OwnerWord) -> Held {
        if !is_of(stamp, word) {
            return Held::Unknown;
        }
        if stamp & EXACT != 0 { Held::For(since(stamp)) } else { Held::AtLeast(since(stamp)) }
    }
}

/// Who died, read before it was judged; or who lost its lease.
#[derive(Debug)]
pub(crate) struct Obituary {
    /// As in a note: see [`Abandoned::noted`].
    pub(super) pid: u32,
    pub(super) command: String,
    pub(super) slot: Slot,
}

/// Why the world ended a wait.
pub(super) enum Refusal {
    TimedOut,
    Cancelled,
    /// Those who wait for each other: this wait is to end.
    Deadlock(Box<[Waits]>),
    Removed,
    Overwritten,
    /// What it waits for is the lock of another name by now: nobody was counted there when its name was given up.
    Moved,
}

/// See [`Host::give_way`].
pub(super) fn give_way(owner: &AtomicU64, seen: OwnerWord) {
    let until = Monotonic::now().saturating_add(COURTESY);
    while owner.load(Relaxed) == seen.0 && !Deadline::At(until).has_passed(Monotonic::now()) {
        std::thread::yield_now();
    }
}

/// Who waits, since when and until when.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    pub(super) slot: Slot,
    pub(super) incarnation: u32,
    pub(super) thread: u32,
    pub(super) started: Monotonic,
    pub(super) deadline: Deadline,
    /// What of what it waits for is its own: see [`Segment::enlist`](crate::segment::Segment::enlist).
    pub(super) own: u64,
}

/// One wait of one thread for one lock, or for one bell.
pub(super) struct Wait<'a> {
    pub(super) space: &'a SharedSpace,
    pub(super) words: &'a LockWords,
    /// Whose lock or bell it is; `None` for the names' lock.
    entry: Option<&'a Entry>,
    target: Target,
    pub(super) waiting: Waiting,
    /// Sleeps that ended by themselves.
    sleeps: Cell<u32>,
    /// After how many of these it looked whether it waits for itself.
    looked: Cell<u32>,
    /// Who was found dead at last.
    dead: Cell<Option<Slot>>,
    enlisted: RefCell<Option<Enlisted>>,
    /// What it waits for may be changed without it being woken.
    blind: Cell<bool>,
    /// When the first of the leases ends that it saw since it slept.
    lease_ends: Cell<Option<Boottime>>,
    /// Who was asked about since it slept, and lives.
    awaited: RefCell<Vec<Slot>>,
    hurry: Cell<Hurry>,
}

impl<'a> Wait<'a> {
    /// For the lock of the entry in `place`, or for its bell.
    pub(super) fn new(space: &'a SharedSpace, target: Target, waiting: Waiting) -> Self {
        let entry = match target {
            Target::Names => None,
            // A place comes from the table itself, so it is inside.
            Target::Lock(place) | Target::Bell(place) => Some(&space.segment.entries[place.entry as usize]),
        };
        Self {
            space,
            words: entry.map_or(&space.segment.globals().names, |entry| &entry.lock),
            entry,
            target,
            waiting,
            sleeps: Cell::new(0),
            looked: Cell::new(0),
            dead: Cell::new(None),
            enlisted: RefCell::new(None),
            blind: Cell::new(false),
            lease_ends: Cell::new(None),
            awaited: RefCell::default(),
            hurry: Cell::default(),
        }
    }

    /// Whether a sleep ended by itself.
    pub(super) fn slept(&self) -> bool {
        self.sleeps.get() > 0
    }

    pub(super) fn dead(&self) -> Option<Slot> {
        self.dead.get()
    }

    fn is_of_another_name(&self) -> bool {
        let Target::Lock(place) = self.target else { return false };
        // Relaxed: whoever finds it late looks again after the next sleep.
        self.entry.is_some_and(|entry| Meta(entry.meta.load(Relaxed)).generation() != place.generation)
    }

    fn since(&self) -> Option<&'a AtomicU64> {
        self.entry.map(|entry| &entry.since)
    }
}

impl Wait<'_> {
    pub(super) fn acquire(&self) -> std::result::Result<Acquired<Obituary>, Failure<Refusal>> {
        let seen = self.words.look();
        match self.words.try_acquire(self.waiting.slot, self.waiting.thread, seen) {
            Ok(word) => Ok(Acquired { word, obituary: None }),
            Err(seen) => self.words.acquire_contended(self, self.waiting.slot, seen),
        }
    }

    pub(super) fn explain(&self, failure: Failure<Refusal>, name: &Arc<str>) -> Error {
        let space = self.space;
        match failure {
            Failure::Deadlock => {
                Error::Deadlock { name: name.clone(), token: space.token_of(self.words.look()), cycle: Box::default() }
            }
            Failure::Refused(Refusal::Deadlock(cycle)) => {
                Error::Deadlock { name: name.clone(), token: space.token_of(self.words.look()), cycle }
            }
            Failure::Damaged(word) => {
                Error::damaged(&space.segment.path, format!("lock \"{name}\" is {word:?}, whom nobody knows"))
            }
            Failure::Exhausted => Error::TokensExhausted { name: name.clone(), path: space.segment.space().into() },
            // Whoever waits for a name looks it up again.
            Failure::Refused(Refusal::Moved) => Error::TimedOut {
                name: name.clone(),
                holder: None,
                waited: Monotonic::now().since(self.waiting.started),
            },
            Failure::Refused(Refusal::TimedOut) => Error::TimedOut {
                name: name.clone(),
                holder: space.holder_of(self.words, self.since()).map(Box::new),
                waited: Monotonic::now().since(self.waiting.started),
            },
            Failure::Refused(Refusal::Cancelled) => Error::Cancelled { name: name.clone() },
            Failure::Refused(Refusal::Removed) => Error::Removed { path: space.segment.space().into() },
            Failure::Refused(Refusal::Overwritten) => space.segment.overwritten(),
        }
    }
}

impl Host for Wait<'_> {
    type Obituary = Obituary;
    type Refusal = Refusal;

    fn judge(&self, slot: Slot) -> Verdict<Obituary> {
        // The word may have been read without Acquire. Pairs with the fence in `try_move_in`: whoever is in the word is in the record.
        fence(Acquire);
        let space = self.space;
        let segment = &space.segment;
        let Some(incarnation) = segment.incarnation(slot) else { return Verdict::Unregistered };
        let now = Monotonic::now().0 / 1_000_000;
        let Some(judged) = space.judged.get(slot.index() as usize) else { return Verdict::Unregistered };
        let mut awaited = self.awaited.borrow_mut();
        if awaited.len() < futex::MOST_OTHERS && !awaited.contains(&slot) {
            awaited.push(slot);
        }
        let last = judged.load(Relaxed);
        let is_recent =
            (last >> 32) as u32 == incarnation && (now as u32).wrapping_sub(last as u32) < BELIEVED.as_millis() as u32;
        if is_recent && !self.hurry.get().is_on() {
            return Verdict::Alive;
        }
        let Some(them) = segment.participant(slot) else { return Verdict::Unregistered };
        // Before the verdict: afterwards somebody else may have moved in. If somebody did before, the word has changed.
        let command = segment.command(slot);
        match segment.judge(slot, &them, &space.me_as_judge()) {
            Life::Dead(_) => {
                self.dead.set(Some(slot));
                Verdict::Dead(Obituary { pid: them.identity.pid, command, slot })
            }
            Life::Alive | Life::Unknown(_) => {
                judged.store((them.incarnation as u64) << 32 | now & 0xFFFF_FFFF, Relaxed);
                Verdict::Alive
            }
        }
    }

    fn run_out(&self, slot: Slot, lease: &AtomicU64, seen: OwnerWord) -> Option<Obituary> {
        let segment = &self.space.segment;
        let them = segment.participant(slot)?;
        // The clocks of time namespaces differ: there nobody can tell, nor where it is not known which they are.
        if them.identity.time_namespace == 0 || them.identity.time_namespace != self.space.me_as_judge().time_namespace
        {
            return None;
        }
        let command = segment.command(slot);
        let now = Boottime::now();
        let has_come = |when| {
            let first = self.lease_ends.get().map_or(when, |at| at.0.min(when));
            self.lease_ends.set(Some(Boottime(first)));
            when <= now.0
        };
        let pid = them.identity.pid | Abandoned::LEASE_LOST;
        lease::close(lease, seen, has_come).then_some(Obituary { pid, command, slot })
    }

    fn is_starving(&self) -> bool {
        Monotonic::now().since(self.waiting.started) > STARVING
    }

    fn give_way(&self, owner: &AtomicU64, seen: OwnerWord) {
        give_way(owner, seen);
    }

    fn thread(&self) -> u32 {
        self.waiting.thread
    }

    fn spin(&self, step: u32) -> bool {
        if step >= SPINS {
            return false;
        }
        for _ in 0..1u32 << step.min(LONGEST_PAUSE) {
            core::hint::spin_loop();
        }
        true
    }

    fn is_told_of(&self, seen: OwnerWord) -> bool {
        self.entry.is_none_or(|entry| entry.is_told_of(seen))
    }

    fn met(&self, seen: OwnerWord) {
        // The first to see an acquisition notes when that was.
        if let Some(since) = self.since() {
            let noted = since.load(Relaxed);
            if noted == 0 || !stamp::is_of(noted, seen) {
                // If it fails, somebody else noted it.
                let _ = since.compare_exchange(noted, stamp::new(seen, Monotonic::now(), false), Relaxed, Relaxed);
            }
        }
    }

    fn may_sleep(&self) -> std::result::Result<(), Refusal> {
        if self.space.segment.is_overwritten() {
            return Err(Refusal::Overwritten);
        }
        // Before the deadline: how long somebody has another name's lock is none of our business. Until we are counted the name can be
        // given up; if it is after this look, the next one finds it.
        if self.is_of_another_name() {
            return Err(Refusal::Moved);
        }
        if self.waiting.deadline.has_passed(Monotonic::now()) {
            return Err(Refusal::TimedOut);
        }
        if cancel::is_due() {
            return Err(Refusal::Cancelled);
        }
        if self.sleeps.get() > 0 && self.space.segment.is_removed() {
            return Err(Refusal::Removed);
        }
        self.may_wait_for_whoever_it_is()
    }

    fn enlist(&self) {
        let Waiting { slot, incarnation, thread, .. } = self.waiting;
        self.space.renew_life(slot);
        if matches!(self.target, Target::Bell(_)) {
            // Whoever sleeps on the lock itself is counted there.
            self.words.contended.fetch_add(1, Relaxed);
        }
        let own = self.waiting.own;
        *self.enlisted.borrow_mut() = self.space.segment.enlist(slot, incarnation, thread, self.target, own);
    }

    fn delist(&self) -> bool {
        let enlisted = self.enlisted.borrow_mut().take();
        enlisted.is_none_or(|enlisted| self.space.segment.delist(&enlisted))
    }

    fn sleep(&self, owner: &AtomicU64, seen: OwnerWord) {
        if let Some(enlisted) = &*self.enlisted.borrow() {
            self.space.segment.note_seen(enlisted, seen);
        }
        self.sleep_on(owner, seen.low_half());
    }

    fn wake(&self, owner: &AtomicU64) -> bool {
        wake_one(owner)
    }

    fn heavy_fence(&self) -> bool {
        let is_made = membarrier::heavy();
        self.blind.set(!is_made && self.space.segment.is_any_light());
        is_made
    }

    fn doze(&self, rung: &AtomicU32, seen: u32) {
        self.sleep_on(rung, seen);
    }
}

impl Wait<'_> {
    /// Whether nobody waits for us whom we wait for. It takes reading all records of sleepers, so it is asked after a sleep that nobody ended, the first
    /// (10 ms) and then more seldom: whoever closed the cycle is in its first, unless the lock changed hands instead.
    fn may_wait_for_whoever_it_is(&self) -> std::result::Result<(), Refusal> {
        let sleeps = self.sleeps.get();
        let is_time = sleeps.is_power_of_two() || sleeps != 0 && sleeps.is_multiple_of(LOOK_FOR_CYCLES);
        if !is_time || self.looked.replace(sleeps) == sleeps {
            return Ok(());
        }
        let index = self.enlisted.borrow().as_ref().map(|enlisted| enlisted.index);
        let cycle = index.and_then(|index| deadlock::find(self.space, index));
        cycle.map_or(Ok(()), |cycle| Err(Refusal::Deadlock(cycle)))
    }

    fn sleep_on(&self, word: &impl futex::Word, seen: u32) {
        let awaited = self.awaited.take();
        let signs = awaited.iter().filter_map(|slot| Some((*slot, self.space.segment.life_of(*slot)?)));
        let cancel = cancel::current();
        let mut others: Vec<(&AtomicU32, u32)> = cancel.iter().map(|cancel| cancel.word()).collect();
        let cancels = others.len();
        let (mut there, mut ended) = (Vec::new(), Vec::new());
        for (slot, (life, sign)) in signs {
            match sign {
                Sign::Thread(value) => {
                    others.push((life, value));
                    there.push(slot);
                }
                Sign::Ended => ended.push(slot),
                Sign::None => {}
            }
        }
        if ended.is_empty() {
            self.hurry.take();
        } else if self.looks_soon(word, seen, &ended) {
            return;
        }
        let longest = if self.blind.get() { SOON } else { self.space.check_interval };
        let lease = self.lease_ends.take().map_or(Duration::MAX, Boottime::left);
        let span = FIRST_SLEEP.saturating_mul(1 << self.sleeps.get().min(16)).min(longest).min(lease);
        let until = self.at_most(span);
        let woken = match others[..] {
            [] => futex::wait(word, seen, until),
            _ => match futex::wait_any(word, seen, &others, until) {
                // There is none here: those who could call for the others find that we look by ourselves.
                Woken::Refused(_) => {
                    let soon = if cancel.is_some() { cancel::LOOK } else { Duration::MAX };
                    futex::wait(word, seen, until.min(Monotonic::now().saturating_add(soon)))
                }
                woken => woken,
            },
        };
        match woken {
            Woken::TimedOut => self.sleeps.set(self.sleeps.get() + 1),
            Woken::CalledFor(other) => {
                // The kernel wakes one of those who wait for that thread: the others are for us to wake.
                futex::wake(others[other].0, i32::MAX);
                if let Some(place) = other.checked_sub(cancels) {
                    self.hurry.take();
                    self.looks_soon(word, seen, &there[place..=place]);
                }
            }
            // No futex: look again soon, as often as others would be woken.
            Woken::Refused(_) => {
                self.sleeps.set(self.sleeps.get() + 1);
                sleep(SOON.min(until.since(Monotonic::now())));
            }
            Woken::Called | Woken::Changed | Woken::Signal => {}
        }
    }

    /// A thread of each of `ended` has ended, and so, it may be, its whole process, or will have in a moment. `false`: that was long ago, and there is no hurry any more.
    fn looks_soon(&self, word: &impl futex::Word, seen: u32, ended: &[Slot]) -> bool {
        let now = Monotonic::now();
        let (next, hurry) = self.hurry.get().next(now);
        self.hurry.set(hurry);
        match next {
            Next::Watch(until) => self.watch(ended, self.at_most(until.since(now))),
            Next::Pause(pause) => drop(futex::wait(word, seen, self.at_most(pause))),
            Next::Sleep => return false,
        }
        true
    }

    /// Comes back as soon as one of `ended` has let go of all it held, or a moment after `until`.
    fn watch(&self, ended: &[Slot], until: Monotonic) {
        let segment = &self.space.segment;
        let is_there = || !ended.iter().any(|slot| segment.is_present(*slot) != Some(true));
        // First it looks: whoever has ended may have been on this very processor, which somebody else would have now.
        while is_there() && Monotonic::now() < until {
            let yielded = Monotonic::now();
            std::thread::yield_now();
            // Nothing tells who had the processor. If it was neither the dying one nor nobody, it will be somebody else's again and again; a sleeper is let in when it is woken.
            if Monotonic::now().since(yielded) > LONG_TURN && is_there() {
                let them: Vec<_> = ended.iter().filter_map(|slot| Some(segment.participant(*slot)?.identity)).collect();
                if liveness::sleep_until_end(&them, &self.space.me_as_judge(), self.at_most(SOON)) {
                    return;
                }
            }
        }
    }

    /// So long from now, or until the deadline.
    fn at_most(&self, span: Duration) -> Monotonic {
        let until = Monotonic::now().saturating_add(span);
        match self.waiting.deadline {
            Deadline::At(at) => until.min(at),
            Deadline::Never => until,
        }
    }
}
