//! Models in which somebody dies at any point: each is explored once for every length of its fuse (see [`sweep`](super::sweep)).
//!
//! In all of them exclusion holds, tokens grow by one, whoever comes after an owner that died is told and nobody else is
//! ([`Participant::hold`](super::world::Participant::hold)), everybody who lives gets the lock and lets it go, and at the end nobody is
//! counted or recorded, but for a stray one where the dead one left the count and the record apart.

use std::rc::Rc;

use super::world::{Algorithm, DEAD_BEFORE, Real, STARTER, World, join};
use super::{Mode, sweep};

/// All threads ended: the first to come cleans up after the dead and finds the lock as it should be.
fn settle(world: &Rc<World>, algorithm: impl Algorithm, mortals: &[usize]) {
    let starter = world.participant(STARTER);
    for mortal in mortals {
        starter.clean_up(algorithm, *mortal);
    }
    starter.take_turn(algorithm);
    world.assert_at_rest();
}

/// One takes a turn and dies in it, while so many others take theirs.
pub(super) fn turns(algorithm: impl Algorithm, fuse: usize, others: usize) {
    let world = World::new();
    let mut threads = vec![world.spawn_mortal(0, fuse, move |me| me.take_turn(algorithm))];
    threads.extend((1..=others).map(|number| world.spawn(number, move |me| me.take_turn(algorithm))));
    join(threads);
    settle(&world, algorithm, &[0]);
}

/// The lock is held and then released. Of the two who want it, one dies: before, in or after its sleep, or as the next owner.
pub(super) fn sleeper_dies(algorithm: impl Algorithm, fuse: usize, owner_comes_back: bool) {
    let world = World::new();
    let owner = world.participant(2);
    let mine = owner.acquire(algorithm);
    owner.hold(mine);
    let threads = vec![
        world.spawn_mortal(0, fuse, move |me| me.take_turn(algorithm)),
        world.spawn(1, move |me| me.take_turn(algorithm)),
    ];
    owner.release(algorithm, mine);
    if owner_comes_back {
        owner.take_turn(algorithm);
    }
    join(threads);
    settle(&world, algorithm, &[0]);
}

/// The owner dies in its release, or when it comes back, while two others want the lock: one that sleeps, and one that barges in.
pub(super) fn releaser_dies(algorithm: impl Algorithm, world: Rc<World>, fuse: usize, comes_back: bool) {
    let owner = world.participant(2);
    let mine = owner.acquire(algorithm);
    owner.hold(mine);
    let mut threads = vec![world.spawn_mortal(2, fuse, move |me| {
        me.release(algorithm, mine);
        if comes_back {
            me.take_turn(algorithm);
        }
    })];
    threads.extend((0..2).map(|number| world.spawn(number, move |me| me.take_turn(algorithm))));
    join(threads);
    settle(&world, algorithm, &[2]);
}

/// Somebody died holding the lock, and one of those who would take it over dies too.
pub(super) fn heir_dies(algorithm: impl Algorithm, fuse: usize, others: usize) {
    let world = World::with_dead_owner();
    let mut threads = vec![world.spawn_mortal(0, fuse, move |me| me.take_turn(algorithm))];
    threads.extend((1..=others).map(|number| world.spawn(number, move |me| me.take_turn(algorithm))));
    join(threads);
    settle(&world, algorithm, &[0, DEAD_BEFORE]);
}

/// An owner died, and another thread of it in its sleep. Two clean up, one of them dies in that, and somebody wants the lock.
pub(super) fn recoverer_dies(algorithm: impl Algorithm, fuse: usize, side_by_side: bool) {
    let world = World::with_dead_owner();
    world.add_dead_sleeper();
    let clean_up = move |me: &super::world::Participant| {
        me.clean_up(algorithm, DEAD_BEFORE);
    };
    let mut threads = vec![world.spawn_mortal(0, fuse, clean_up), world.spawn(1, move |me| me.take_turn(algorithm))];
    if side_by_side {
        threads.push(world.spawn(2, clean_up));
    }
    join(threads);
    settle(&world, algorithm, &[0, DEAD_BEFORE]);
}

/// The owner lives, and a sleeper died. One who takes it off the count dies in that, and the owner itself does it as well before it
/// releases, while somebody sleeps who must not be taken off.
pub(super) fn recoverer_of_a_sleeper_dies(algorithm: impl Algorithm, fuse: usize) {
    let world = World::new();
    let owner = world.participant(2);
    let mine = owner.acquire(algorithm);
    owner.hold(mine);
    world.add_dead_sleeper();
    let threads = vec![
        world.spawn_mortal(0, fuse, move |me| {
            me.clean_up(algorithm, DEAD_BEFORE);
        }),
        world.spawn(1, move |me| me.take_turn(algorithm)),
    ];
    owner.clean_up(algorithm, DEAD_BEFORE);
    owner.release(algorithm, mine);
    join(threads);
    settle(&world, algorithm, &[0, DEAD_BEFORE]);
}

/// The lock is held and then released. Two sleep; one dies, and the other cleans up after it when it has had its turn: the third
/// must still be on the count.
pub(super) fn sleeper_dies_and_is_cleaned_up(algorithm: impl Algorithm, fuse: usize) {
    let world = World::new();
    let owner = world.participant(2);
    let mine = owner.acquire(algorithm);
    owner.hold(mine);
    let threads = vec![
        world.spawn_mortal(0, fuse, move |me| me.take_turn(algorithm)),
        world.spawn(1, move |me| me.take_turn(algorithm)),
    ];
    owner.clean_up(algorithm, 0);
    owner.release(algorithm, mine);
    join(threads);
    settle(&world, algorithm, &[0]);
}

/// One dies in its turn. Somebody who finds it dead gives its lock back, moves into its slot and wants the lock again; others judge.
pub(super) fn slot_is_reborn(algorithm: impl Algorithm, fuse: usize) {
    let world = World::new();
    let threads = vec![
        world.spawn_mortal(0, fuse, move |me| me.take_turn(algorithm)),
        world.spawn(1, move |me| match me.clean_up(algorithm, 0) {
            true => me.reborn_in(0).take_turn(algorithm),
            false => me.take_turn(algorithm),
        }),
        world.spawn(2, move |me| me.take_turn(algorithm)),
    ];
    join(threads);
    settle(&world, algorithm, &[0]);
}

#[test]
fn whoever_dies_in_its_turn_stops_nobody() {
    sweep("one of two dies", Mode::Rmw, 3, |fuse| turns(Real, fuse, 1));
    sweep("one of two dies", Mode::Plain, 2, |fuse| turns(Real, fuse, 1));
    sweep("one of three dies", Mode::Rmw, 2, |fuse| turns(Real, fuse, 2));
}

#[test]
fn a_sleeper_that_dies_costs_nobody_a_wake() {
    sweep("sleeper dies", Mode::Rmw, 2, |fuse| sleeper_dies(Real, fuse, false));
    sweep("sleeper dies, owner comes back", Mode::Rmw, 2, |fuse| sleeper_dies(Real, fuse, true));
    sweep("sleeper dies and is cleaned up", Mode::Rmw, 2, |fuse| sleeper_dies_and_is_cleaned_up(Real, fuse));
}

#[test]
fn an_owner_that_dies_in_its_release_stops_nobody() {
    sweep("releaser dies", Mode::Rmw, 2, |fuse| releaser_dies(Real, World::new(), fuse, false));
    sweep("releaser dies", Mode::Plain, 1, |fuse| releaser_dies(Real, World::new(), fuse, false));
    sweep("releaser dies or comes back", Mode::Rmw, 2, |fuse| releaser_dies(Real, World::new(), fuse, true));
}

#[test]
fn an_heir_that_dies_is_followed_and_told_of() {
    sweep("heir dies", Mode::Rmw, 3, |fuse| heir_dies(Real, fuse, 1));
    sweep("heir dies", Mode::Plain, 2, |fuse| heir_dies(Real, fuse, 1));
    sweep("heir dies, two follow", Mode::Rmw, 2, |fuse| heir_dies(Real, fuse, 2));
}

#[test]
fn recovery_that_dies_is_finished_by_the_next() {
    sweep("recoverer dies", Mode::Rmw, 3, |fuse| recoverer_dies(Real, fuse, false));
    sweep("recoverer dies", Mode::Plain, 2, |fuse| recoverer_dies(Real, fuse, false));
    sweep("recoverer dies, two at once", Mode::Rmw, 2, |fuse| recoverer_dies(Real, fuse, true));
    sweep("recoverer of a sleeper dies", Mode::Rmw, 2, |fuse| recoverer_of_a_sleeper_dies(Real, fuse));
}

#[test]
fn nobody_takes_from_the_next_one_in_the_slot_of_whoever_died() {
    sweep("slot reborn after any death", Mode::Rmw, 2, |fuse| slot_is_reborn(Real, fuse));
}
