//! The protocols, explored by loom: every interleaving within a bound.
//!
//! ```text
//! RUSTFLAGS="--cfg hostlock_loom" cargo test --lib --release --target-dir target/loom -- --nocapture
//! ```
//!
//! Each model runs in two modes of the wrapper in `crate::sync`: *RMW*, in which every load and store is a read-modify-write,
//! for all interleavings; and *plain*, for the orderings (loom alone misses executions in this one). Preemption bound 3 in both; bound 2
//! does not find the lost wake-ups in `seeded`. Each prints how many executions it explored.
//!
//! Nothing in here has a timer: who sleeps is woken by somebody or never, and then loom reports a deadlock. So a lost wake-up cannot
//! hide behind a bounded sleep. A time-out is a step that another thread takes ([`World::time_out`]).
//!
//! * [`mutex`]: exclusion, wake-ups, tokens, take-over, giving up, a slot reborn.
//! * [`seeded`]: bugs put in on purpose, each of which a model must catch.

mod mutex;
mod seeded;

use std::sync::Mutex as StdMutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use loom::sync::{Condvar, Mutex};

use super::mutex::LockWords;
use super::word::{OwnerWord, Slot};
use super::{Host, Verdict};
use crate::sync::{AtomicU64, RMW};

/// Runs `model` in both modes, and says how much there was to explore.
fn explore(name: &str, model: impl Fn() + Send + Sync + Clone + 'static) {
    explore_in(&[("RMW", true), ("plain", false)], name, model);
}

/// Runs `model` for its interleavings alone, where the orderings have been seen to by others and there is a lot to explore.
fn explore_interleavings(name: &str, model: impl Fn() + Send + Sync + Clone + 'static) {
    explore_in(&[("RMW", true)], name, model);
}

fn explore_in(modes: &[(&str, bool)], name: &str, model: impl Fn() + Send + Sync + Clone + 'static) {
    // The mode is one for the whole process.
    static ONE_AT_A_TIME: StdMutex<()> = StdMutex::new(());
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (mode, rmw) in modes.iter().copied() {
        static EXECUTIONS: AtomicUsize = AtomicUsize::new(0);
        EXECUTIONS.store(0, SeqCst);
        RMW.store(rmw, SeqCst);
        let mut builder = loom::model::Builder::new();
        builder.max_branches = 20_000;
        builder.preemption_bound = Some(3);
        let model = model.clone();
        builder.check(move || {
            EXECUTIONS.fetch_add(1, Relaxed);
            model();
        });
        println!("model {name}, {mode}: {} executions", EXECUTIONS.load(SeqCst));
    }
}

/// So many can sleep.
const ACTORS: usize = 4;

/// What a lock's words are surrounded by: a futex, and who is dead.
struct World {
    words: LockWords,
    /// What the lock guards. Touching it without the lock, or without having seen the last owner's touch, is a failure.
    data: loom::cell::UnsafeCell<()>,
    /// Who sleeps, in order. Comparing the word and getting in line is one step, as in the kernel.
    queue: Mutex<Vec<usize>>,
    wakes: [Condvar; ACTORS],
    /// The slot whose participant is dead, until somebody moved in there.
    dead: Mutex<Option<Slot>>,
    /// What was acquired: epoch, and whether it was marked as abandoned. std's lock: no step of the model.
    log: StdMutex<Vec<(u64, bool)>>,
}

impl World {
    fn new() -> loom::sync::Arc<Self> {
        loom::sync::Arc::new(Self {
            words: LockWords::new(),
            data: loom::cell::UnsafeCell::new(()),
            queue: Mutex::new(Vec::new()),
            wakes: std::array::from_fn(|_| Condvar::new()),
            dead: Mutex::new(None),
            log: StdMutex::new(Vec::new()),
        })
    }

    /// A world in which a dead participant holds the lock.
    fn with_dead_owner(slot: Slot) -> loom::sync::Arc<Self> {
        let world = Self::new();
        world.words.try_acquire(slot, 0, OwnerWord(0)).expect("it is free");
        *world.dead.lock().unwrap() = Some(slot);
        world
    }

    fn wake_one(&self) -> bool {
        let mut queue = self.queue.lock().unwrap();
        if queue.is_empty() {
            return false;
        }
        let first = queue.remove(0);
        self.wakes[first].notify_one();
        true
    }

    /// `actor`'s sleep ends, if it sleeps.
    fn time_out(&self, actor: usize) {
        let mut queue = self.queue.lock().unwrap();
        if let Some(place) = queue.iter().position(|sleeper| *sleeper == actor) {
            queue.remove(place);
            self.wakes[actor].notify_one();
        }
    }

    /// What its holder does with the lock.
    fn use_data(&self, word: OwnerWord) {
        self.data.with_mut(|_| ());
        self.log.lock().unwrap().push((word.epoch(), word.is_abandoned()));
    }

    /// What must be so when all is over; the epochs in the order of the acquisitions.
    fn judge_history(&self) -> Vec<(u64, bool)> {
        let log = self.log.lock().unwrap().clone();
        assert!(log.windows(2).all(|pair| pair[0].0 < pair[1].0), "tokens do not grow: {log:?}");
        assert!(self.words.look().is_free(), "{:?}", self.words.look());
        assert_eq!(self.words.sleepers.load(SeqCst), 0, "somebody is still counted");
        assert!(self.queue.lock().unwrap().is_empty());
        log
    }
}

/// One participant with one thread, waiting.
struct Actor<'a> {
    world: &'a World,
    id: usize,
    /// How many sleeps it has patience for.
    patience: std::cell::Cell<usize>,
}

fn slot(id: usize) -> Slot {
    Slot::new(id as u32).expect("a small number")
}

impl<'a> Actor<'a> {
    fn new(world: &'a World, id: usize) -> Self {
        Self { world, id, patience: std::cell::Cell::new(usize::MAX) }
    }

    fn impatient(world: &'a World, id: usize, sleeps: usize) -> Self {
        Self { world, id, patience: std::cell::Cell::new(sleeps) }
    }
}

impl Host for Actor<'_> {
    type Obituary = ();
    type Refusal = ();

    fn judge(&self, slot: Slot) -> Verdict<()> {
        if *self.world.dead.lock().unwrap() == Some(slot) { Verdict::Dead(()) } else { Verdict::Alive }
    }

    fn thread(&self) -> u32 {
        self.id as u32 + 1
    }

    fn spin(&self, _: u32) -> bool {
        false
    }

    fn may_sleep(&self, _: OwnerWord) -> Result<(), ()> {
        let left = self.patience.get();
        self.patience.set(left.saturating_sub(1));
        if left == 0 { Err(()) } else { Ok(()) }
    }

    fn enlist(&self) {}

    fn delist(&self) -> bool {
        true
    }

    fn sleep(&self, owner: &AtomicU64, seen: OwnerWord) {
        let mut queue = self.world.queue.lock().unwrap();
        if OwnerWord(owner.load(SeqCst)).low_half() != seen.low_half() {
            return;
        }
        queue.push(self.id);
        while queue.contains(&self.id) {
            queue = self.world.wakes[self.id].wait(queue).unwrap();
        }
    }

    fn wake(&self, _: &AtomicU64) -> bool {
        self.world.wake_one()
    }
}
