//! Models of taking over from the dead, and of [`recovery`](super::super::recovery). Death is a state here, or one step of its own.

use super::world::{Algorithm, DEAD_BEFORE, Real, STARTER, World, join};
use super::{Mode, explore, largest};

/// Somebody died holding the lock, and so many survivors want it.
pub(super) fn survivors(algorithm: impl Algorithm, survivors: usize) {
    let world = World::with_dead_owner();
    join((0..survivors).map(|number| world.spawn(number, move |me| me.take_turn(algorithm))).collect());
    assert_eq!(world.told(), [1], "the tokens that somebody was told of");
    assert_eq!(world.taken_over(), 1);
    world.assert_at_rest();
}

/// One of three dies while it holds the lock. If nobody waits any more, it is given back.
pub(super) fn owner_dies(algorithm: impl Algorithm) {
    let world = World::new();
    let turn = |number| world.spawn(number, move |me| me.take_turn(algorithm));
    let mut threads: Vec<_> = (0..2).map(turn).collect();
    threads.push(world.spawn(2, move |me| {
        let mine = me.acquire(algorithm);
        me.hold(mine);
        me.die();
    }));
    join(threads);
    let starter = world.participant(STARTER);
    let was_left = starter.give_back(algorithm, 2);
    starter.take_turn(algorithm);
    assert_eq!(world.told().len(), 1, "tokens that somebody was told of");
    assert_eq!(world.taken_over(), usize::from(!was_left));
    world.assert_at_rest();
}

/// A dead owner's locks are given back, and somebody moves into its slot and wants the same lock, while so many others do.
pub(super) fn slot_is_reborn(algorithm: impl Algorithm, others: usize) {
    let world = World::with_dead_owner();
    let turn = |number| world.spawn(number, move |me| me.take_turn(algorithm));
    let mut threads: Vec<_> = (0..others).map(turn).collect();
    threads.push(world.spawn(DEAD_BEFORE, move |me| {
        me.give_back(algorithm, DEAD_BEFORE);
        me.move_in();
        me.take_turn(algorithm);
    }));
    join(threads);
    assert_eq!(world.told(), [1], "the tokens that somebody was told of");
    world.assert_at_rest();
}

#[test]
fn one_survivor_takes_over_and_is_told() {
    explore("two survivors", Mode::Rmw, 3, || survivors(Real, 2));
    explore("two survivors", Mode::Plain, 3, || survivors(Real, 2));
    explore("three survivors", Mode::Rmw, largest(3), || survivors(Real, 3));
    explore("three survivors", Mode::Plain, 2, || survivors(Real, 3));
}

#[test]
fn a_death_is_told_exactly_once() {
    explore("one of three dies", Mode::Rmw, 3, || owner_dies(Real));
    explore("one of three dies", Mode::Plain, 2, || owner_dies(Real));
}

#[test]
fn nobody_takes_from_the_living_in_a_dead_ones_slot() {
    explore("slot reborn, one waits", Mode::Rmw, 3, || slot_is_reborn(Real, 1));
    explore("slot reborn, one waits", Mode::Plain, 3, || slot_is_reborn(Real, 1));
    explore("slot reborn, two wait", Mode::Rmw, largest(3), || slot_is_reborn(Real, 2));
}
