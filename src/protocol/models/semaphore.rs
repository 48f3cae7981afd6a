//! Models of [`semaphore`](super::super::semaphore): among the living, with a name that is given up, and with a death at any point.
//!
//! Each permit guards the token of its last holder, in a cell that loom watches: so at no time there are more holders than permits.
//! There is no timer but for deaths, so a lost wake-up is a deadlock, which loom reports.
//!
//! The bounds are 4 preemptions for two participants (3 in the plain mode), 3 where a third one holds something at first, and 2 for three (1 in
//! the plain mode), which take 5 to 15 seconds each with one more; all were run with one more once, and passed. The sweeps are
//! many explorations each, so theirs is 2.

use std::rc::Rc;

use super::semaphore_world::{Algorithm, Light, Real, World};
use super::world::{DEAD_BEFORE, STARTER, join};
use super::{Mode, explore, sweep};

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

/// One participant for each number of turns, each with a permit of its own to look for first, takes so many.
pub(super) fn turns_again(algorithm: impl Algorithm, permits: usize, turns: &'static [usize]) {
    let world = World::new(permits);
    let many = |(number, turns): (usize, &usize)| {
        let turns = *turns;
        world.spawn(number, move |me| {
            me.hint.set(number % permits);
            (0..turns).for_each(|_| me.take_turn(algorithm, 1));
        })
    };
    join(turns.iter().enumerate().map(many).collect());
    world.assert_at_rest();
}

/// One collects three permits at the gate, which if it did nothing about it would be at the end of a run then; two of them are taken again.
pub(super) fn after_the_gate(algorithm: impl Algorithm) {
    let world = World::new(3);
    world.participant(0).take_turn(algorithm, 3);
    let one = |number: usize| {
        world.spawn(number, move |me| {
            me.hint.set(number);
            me.take_turn(algorithm, 1);
        })
    };
    join([1, 2].map(one).into());
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
        explore("semaphore, two for one, lightly", mode, bound, || turns(Light, 1, &[1, 1]));
        explore("semaphore, both and one, lightly", mode, bound, || turns(Light, 2, &[2, 1]));
    }
    explore("semaphore, three for one", Mode::Rmw, 2, || turns(Real, 1, &[1, 1, 1]));
    explore("semaphore, three for two", Mode::Rmw, 2, || turns(Real, 2, &[1, 1, 1]));
    if std::env::var_os("LOOM_MAX_PREEMPTIONS").is_some() {
        explore("semaphore, three for one", Mode::Plain, 1, || turns(Real, 1, &[1, 1, 1]));
    } else {
        println!(
            "SKIPPED: semaphore, three for one (Plain): a minute, in which no bug was ever caught; set LOOM_MAX_PREEMPTIONS for it"
        );
    }
}

#[test]
fn semaphore_tokens_grow_also_where_none_is_drawn() {
    for (mode, bound) in [(Mode::Rmw, 3), (Mode::Plain, 2)] {
        explore("semaphore, again and again beside one", mode, bound, || turns_again(Real, 2, &[3, 1]));
        explore("semaphore, again beside again", mode, bound, || turns_again(Real, 2, &[2, 2]));
        explore("semaphore, after the gate", mode, bound, || after_the_gate(Real));
    }
    explore("semaphore, again with the same one", Mode::Rmw, 3, || turns_again(Real, 1, &[2, 2]));
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
    explore("semaphore, one gives up, lightly", Mode::Rmw, 3, || one_gives_up(Light, 1));
    explore("semaphore, one that wants both gives up", Mode::Rmw, 3, || one_gives_up(Real, 2));
    explore("semaphore, heir gives up", Mode::Rmw, 3, || heir_gives_up(Real));
}

#[test]
fn semaphore_of_a_name_that_is_given_up_has_no_permits() {
    for mode in [Mode::Rmw, Mode::Plain] {
        explore("semaphore, name given up", mode, 3, || name_is_given_up(Real, 1));
        explore("semaphore, name given up, lightly", mode, 3, || name_is_given_up(Light, 1));
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
    sweep("semaphore, one of two dies, lightly", Mode::Rmw, 2, |fuse| one_dies(Light, fuse, 1, 1, &[1]));
    sweep("semaphore, heir dies", Mode::Rmw, 2, |fuse| heir_dies(Real, fuse, false));
    sweep("semaphore, heir dies beside a cleaner", Mode::Rmw, 2, |fuse| heir_dies(Real, fuse, true));
    explore("semaphore, cleaned up beside an heir", Mode::Rmw, 3, || cleaned_up_beside(Real));
}
