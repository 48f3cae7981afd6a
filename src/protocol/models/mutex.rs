//! Models of [`mutex`](super::super::mutex) among the living.
//!
//! The bodies are generic over [`Algorithm`], so that [`seeded`](super::seeded) runs the very same ones over wrong versions. Each
//! of them checks exclusion and tokens at every acquisition, and rest at the end; the tests are named for what they are best at.

use super::world::{Algorithm, Real, World, join};
use super::{Mode, explore, largest};

/// So many participants, each of which takes one turn.
pub(super) fn turns(algorithm: impl Algorithm, threads: usize, spins: u32) {
    let world = World::new();
    let turn = |number| world.spawn(number, move |me| me.spinning(spins).take_turn(algorithm));
    join((0..threads).map(turn).collect());
    world.assert_at_rest();
}

/// Two threads of one process, which nobody asks the oracle about.
pub(super) fn threads_of_one_process(algorithm: impl Algorithm) {
    let world = World::new();
    join((0..2).map(|number| world.spawn(number, move |me| me.of_process(0).take_turn(algorithm))).collect());
    world.assert_at_rest();
}

/// One holds the lock, releases it and may come back at once, past whoever was woken. Two others want it.
pub(super) fn owner_releases(algorithm: impl Algorithm, comes_back: bool) {
    let world = World::new();
    let owner = world.participant(2);
    let mine = owner.acquire(algorithm);
    owner.hold(mine);
    let turn = |number| world.spawn(number, move |me| me.take_turn(algorithm));
    let others = (0..2).map(turn).collect();
    owner.release(algorithm, mine);
    if comes_back {
        owner.take_turn(algorithm);
    }
    join(others);
    world.assert_at_rest();
}

/// The owner releases and comes back, and one of the two others has a deadline, which passes at any moment: before it sleeps, in its sleep, or when it
/// was woken and the lock is gone again.
pub(super) fn one_gives_up(algorithm: impl Algorithm) {
    let world = World::new();
    let owner = world.participant(2);
    let mine = owner.acquire(algorithm);
    owner.hold(mine);
    let threads = vec![
        world.spawn(0, move |me| {
            if let Some(mine) = me.with_deadline().try_to_acquire(algorithm) {
                me.hold(mine);
                me.release(algorithm, mine);
            }
        }),
        world.spawn(1, move |me| me.take_turn(algorithm)),
        world.spawn(2, move |me| {
            me.release(algorithm, mine);
            me.take_turn(algorithm);
        }),
    ];
    world.expire(0);
    join(threads);
    world.assert_at_rest();
}

#[test]
fn mutex_enforces_mutual_exclusion() {
    for mode in [Mode::Rmw, Mode::Plain] {
        explore("two take turns", mode, 3, || turns(Real, 2, 0));
        explore("two take turns, spinning", mode, 3, || turns(Real, 2, 1));
        explore("two threads of one process", mode, 3, || threads_of_one_process(Real));
    }
}

#[test]
fn tokens_grow_by_one_with_every_acquisition() {
    explore("three take turns", Mode::Rmw, 3, || turns(Real, 3, 0));
    explore("three take turns", Mode::Plain, 2, || turns(Real, 3, 0));
}

#[test]
fn no_wake_up_is_lost() {
    explore("owner releases", Mode::Rmw, 3, || owner_releases(Real, false));
    explore("owner releases", Mode::Plain, largest(3), || owner_releases(Real, false));
}

#[test]
fn no_wake_up_is_lost_when_somebody_barges_in() {
    explore("owner comes back", Mode::Rmw, 3, || owner_releases(Real, true));
    explore("owner comes back", Mode::Plain, 2, || owner_releases(Real, true));
}

#[test]
fn giving_up_leaves_no_trace_and_swallows_no_wake() {
    explore("one gives up", Mode::Rmw, largest(3), || one_gives_up(Real));
    explore("one gives up", Mode::Plain, 1, || one_gives_up(Real));
}
