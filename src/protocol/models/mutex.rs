//! The mutex, taken over and not.
//!
//! The bodies are generic over [`Locking`], so that `seeded` runs the very same ones over versions with a bug.

use core::sync::atomic::Ordering::SeqCst;

use loom::sync::Arc;
use loom::thread;

use super::{Actor, World, explore, slot};
use crate::protocol::mutex::{Acquired, Failure};
use crate::protocol::recovery;
use crate::protocol::word::{OwnerWord, Slot};

/// The two calls of a mutex, as they are or with a bug.
pub(super) trait Locking: Copy + Send + Sync + 'static {
    fn acquire(self, actor: &Actor<'_>, me: Slot) -> Result<Acquired<()>, Failure<()>>;
    fn release(self, world: &World, mine: OwnerWord);
    /// The second half of a release that left `freed`.
    fn wake_sleepers(self, world: &World, freed: OwnerWord);
}

/// The mutex as it is.
#[derive(Clone, Copy)]
pub(super) struct Real;

impl Locking for Real {
    fn acquire(self, actor: &Actor<'_>, me: Slot) -> Result<Acquired<()>, Failure<()>> {
        let words = &actor.world.words;
        // A guess that may be wrong, as a handle's may.
        match words.try_acquire(me, actor.id as u32 + 1, OwnerWord(0)) {
            Ok(word) => Ok(Acquired { word, obituary: None }),
            Err(seen) => words.acquire_contended(actor, me, seen),
        }
    }

    fn release(self, world: &World, mine: OwnerWord) {
        assert!(world.words.release(mine, |_| world.wake_one()).is_ok(), "{mine:?} was taken from a living owner");
    }

    fn wake_sleepers(self, world: &World, freed: OwnerWord) {
        world.words.wake_sleepers(freed, |_| world.wake_one());
    }
}

fn pass(world: &World, id: usize, locking: impl Locking) {
    let acquired = locking.acquire(&Actor::new(world, id), slot(id)).expect("it waits until it has it");
    world.use_data(acquired.word);
    locking.release(world, acquired.word);
}

/// So many participants, each of which acquires so often.
pub(super) fn all_pass(locking: impl Locking, actors: usize, times: usize) {
    let world = World::new();
    let threads: Vec<_> = (1..actors)
        .map(|id| {
            let world = Arc::clone(&world);
            thread::spawn(move || (0..times).for_each(|_| pass(&world, id, locking)))
        })
        .collect();
    (0..times).for_each(|_| pass(&world, 0, locking));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let log = world.judge_history();
    assert_eq!(log.len(), actors * times);
    assert_eq!(log.last().unwrap().0, log.len() as u64, "one token for each acquisition");
    assert!(log.iter().all(|(_, abandoned)| !abandoned), "nobody died");
}

/// A dead owner, and so many survivors: each gets the lock, and the first one is told.
pub(super) fn survivors_take_over(locking: impl Locking, survivors: usize) {
    let world = World::with_dead_owner(slot(3));
    let threads: Vec<_> = (1..survivors)
        .map(|id| {
            let world = Arc::clone(&world);
            thread::spawn(move || pass(&world, id, locking))
        })
        .collect();
    pass(&world, 0, locking);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let log = world.judge_history();
    let told: Vec<_> = log.iter().map(|(_, abandoned)| *abandoned).collect();
    assert!(told[0] && !told[1..].contains(&true), "told once, and first: {log:?}");
    assert_eq!(log[0].0, 2, "the dead one had 1");
}

/// A dead owner's slot is cleaned up and moved into by somebody who acquires the same lock at once, while others wait for it.
pub(super) fn slot_is_reborn(locking: impl Locking, waiters: usize) {
    let world = World::with_dead_owner(slot(3));
    let threads: Vec<_> = (1..=waiters)
        .map(|id| {
            let world = Arc::clone(&world);
            thread::spawn(move || pass(&world, id, locking))
        })
        .collect();
    recovery::give_back(&world.words, slot(3), |_| (), |_| world.wake_one());
    *world.dead.lock().unwrap() = None;
    pass(&world, 3, locking);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let log = world.judge_history();
    assert_eq!(log.len(), waiters + 1);
    assert_eq!(log.iter().filter(|(_, abandoned)| *abandoned).count(), 1, "told once: {log:?}");
}

/// One of two waiters gives up, woken or timed out, while the owner releases and comes back. The other gets the lock.
pub(super) fn one_gives_up(locking: impl Locking) {
    let world = World::new();
    let held = world.words.try_acquire(slot(0), 1, OwnerWord(0)).expect("it is free");
    let patient = {
        let world = Arc::clone(&world);
        thread::spawn(move || pass(&world, 1, locking))
    };
    let impatient = {
        let world = Arc::clone(&world);
        thread::spawn(move || {
            let actor = Actor::impatient(&world, 2, 1);
            if let Ok(acquired) = locking.acquire(&actor, slot(2)) {
                world.use_data(acquired.word);
                locking.release(&world, acquired.word);
            }
        })
    };
    locking.release(&world, held);
    // Barging in, past whoever was woken.
    if let Ok(again) = world.words.try_acquire(slot(0), 1, held.release()) {
        world.use_data(again);
        world.time_out(2);
        locking.release(&world, again);
    } else {
        world.time_out(2);
    }
    patient.join().unwrap();
    // If it sleeps for ever although the lock is free, this is where loom says so.
    impatient.join().unwrap();
    world.judge_history();
}

/// A releaser was overtaken between freeing the word and looking at the count: somebody else holds the lock, and releases it, while
/// a third one goes to sleep. (From the start this would need more preemptions than the bound has.)
pub(super) fn a_wake_comes_late(locking: impl Locking) {
    let world = World::new();
    let first = world.words.try_acquire(slot(0), 1, OwnerWord(0)).expect("it is free");
    let freed = first.release();
    assert!(world.words.owner.compare_exchange(first.0, freed.0, SeqCst, SeqCst).is_ok());
    let second = world.words.try_acquire(slot(1), 2, freed).expect("it is free");
    let late = {
        let world = Arc::clone(&world);
        thread::spawn(move || locking.wake_sleepers(&world, freed))
    };
    let sleeper = {
        let world = Arc::clone(&world);
        thread::spawn(move || pass(&world, 2, locking))
    };
    locking.release(&world, second);
    late.join().unwrap();
    sleeper.join().unwrap();
    world.judge_history();
}

#[test]
fn two_exclude_each_other_and_none_sleeps_on() {
    explore("two pass", || all_pass(Real, 2, 1));
}

#[test]
fn two_that_come_back_exclude_each_other_and_none_sleeps_on() {
    explore("two pass twice", || all_pass(Real, 2, 2));
}

#[test]
fn three_exclude_each_other_and_none_sleeps_on() {
    explore("three pass", || all_pass(Real, 3, 1));
}

#[test]
fn a_dead_owner_is_followed_and_told_of_once() {
    explore("two survivors", || survivors_take_over(Real, 2));
}

#[test]
fn a_dead_owner_of_three_is_followed_and_told_of_once() {
    explore("three survivors", || survivors_take_over(Real, 3));
}

#[test]
fn nobody_takes_the_lock_from_the_next_one_in_a_dead_owners_slot() {
    explore("slot reborn, a waiter", || slot_is_reborn(Real, 1));
}

#[test]
fn two_waiters_take_nothing_from_the_next_one_in_a_dead_owners_slot() {
    explore("slot reborn, two waiters", || slot_is_reborn(Real, 2));
}

#[test]
fn a_late_wake_loses_nobody() {
    explore("a late wake", || a_wake_comes_late(Real));
}

#[test]
fn giving_up_swallows_no_wake() {
    explore("one gives up", || one_gives_up(Real));
}
