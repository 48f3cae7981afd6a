//! Models of the mutex's invariant 7: a lock that is reserved for whoever waited for long.
//!
//! Nobody's sleep ends by itself unless somebody dies, so whoever is barred and not called is a deadlock that loom reports.

use super::deaths::settle;
use super::world::{Algorithm, Participant, Real, World, join};
use super::{Mode, explore, largest, sweep};

fn turn(me: &Participant, algorithm: impl Algorithm, hungry: bool) {
    if hungry { me.hungry().take_turn(algorithm) } else { me.take_turn(algorithm) }
}

/// So many take turns, each of which has waited for long as soon as it has to wait.
pub(super) fn turns(algorithm: impl Algorithm, threads: usize) {
    let world = World::new();
    join((0..threads).map(|number| world.spawn(number, move |me| turn(me, algorithm, true))).collect());
    world.assert_at_rest();
}

/// The owner releases, fairly or not, and comes back as somebody who just comes. Two others wait, of whom `hungry` have waited for long.
pub(super) fn owner_comes_back(algorithm: impl Algorithm, hungry: usize, fair: bool) {
    let world = World::new();
    let owner = world.participant(2);
    let mine = owner.acquire(algorithm);
    owner.hold(mine);
    let others = (0..2).map(|number| world.spawn(number, move |me| turn(me, algorithm, number < hungry))).collect();
    if fair {
        owner.release_fair(algorithm, mine)
    } else {
        owner.release(algorithm, mine)
    }
    owner.take_turn(algorithm);
    join(others);
    world.assert_at_rest();
}

/// The same with one other, who has waited for long and gives up at any moment.
pub(super) fn the_starving_gives_up(algorithm: impl Algorithm, fair: bool) {
    let world = World::new();
    let owner = world.participant(2);
    let mine = owner.acquire(algorithm);
    owner.hold(mine);
    let threads = vec![
        world.spawn(0, move |me| {
            if let Some(mine) = me.hungry().with_deadline().try_to_acquire(algorithm) {
                me.hold(mine);
                me.release(algorithm, mine);
            }
        }),
        world.spawn(2, move |me| {
            if fair {
                me.release_fair(algorithm, mine)
            } else {
                me.release(algorithm, mine)
            }
            me.take_turn(algorithm);
        }),
    ];
    world.expire(0);
    join(threads);
    world.assert_at_rest();
}

/// One that has waited for long gives up at any moment, while the owner releases, and another just comes, which is `hungry` as soon as it
/// has to wait or not at all.
pub(super) fn one_of_two_gives_up(algorithm: impl Algorithm, hungry: bool, fair: bool) {
    let world = World::new();
    let owner = world.participant(2);
    let mine = owner.acquire(algorithm);
    owner.hold(mine);
    let impatient = world.spawn(0, move |me| {
        if let Some(mine) = me.hungry().with_deadline().try_to_acquire(algorithm) {
            me.hold(mine);
            me.release(algorithm, mine);
        }
    });
    // Not counted as a preemption, of which what is looked for here takes three.
    loom::thread::yield_now();
    let releaser =
        world.spawn(2, move |me| if fair { me.release_fair(algorithm, mine) } else { me.release(algorithm, mine) });
    let other = world.spawn(1, move |me| turn(me, algorithm, hungry));
    world.expire(0);
    join(vec![impatient, releaser, other]);
    world.assert_at_rest();
}

/// One of two who have waited for long dies: before, in or after its sleep, or with what was reserved for it. The owner comes back.
pub(super) fn the_starving_dies(algorithm: impl Algorithm, fuse: usize, fair: bool) {
    let world = World::new();
    let owner = world.participant(2);
    let mine = owner.acquire(algorithm);
    owner.hold(mine);
    let threads = vec![
        world.spawn_mortal(0, fuse, move |me| turn(me, algorithm, true)),
        world.spawn(1, move |me| turn(me, algorithm, true)),
    ];
    if fair {
        owner.release_fair(algorithm, mine)
    } else {
        owner.release(algorithm, mine)
    }
    owner.take_turn(algorithm);
    join(threads);
    settle(&world, algorithm, &[0]);
}

/// Whoever releases to one that waited dies in that.
pub(super) fn the_releaser_dies(algorithm: impl Algorithm, fuse: usize, fair: bool) {
    let world = World::new();
    let owner = world.participant(2);
    let mine = owner.acquire(algorithm);
    owner.hold(mine);
    let threads =
        vec![
            world.spawn_mortal(2, fuse, move |me| {
                if fair { me.release_fair(algorithm, mine) } else { me.release(algorithm, mine) }
            }),
            world.spawn(0, move |me| turn(me, algorithm, true)),
            world.spawn(1, move |me| turn(me, algorithm, false)),
        ];
    join(threads);
    settle(&world, algorithm, &[2]);
}

#[test]
fn who_waited_for_long_is_first_and_nobody_is_forgotten() {
    explore("two starve", Mode::Rmw, 3, || turns(Real, 2));
    explore("two starve", Mode::Plain, 3, || turns(Real, 2));
    explore("three starve", Mode::Rmw, 3, || turns(Real, 3));
    explore("one of two starves, owner comes back", Mode::Rmw, 3, || owner_comes_back(Real, 1, false));
    explore("two starve, owner comes back", Mode::Rmw, 3, || owner_comes_back(Real, 2, false));
    explore("fair release, owner comes back", Mode::Rmw, 3, || owner_comes_back(Real, 0, true));
}

#[test]
fn what_is_reserved_for_who_gives_up_is_free_for_all() {
    explore("the starving gives up", Mode::Rmw, 3, || the_starving_gives_up(Real, false));
    explore("the starving gives up, fair release", Mode::Rmw, 3, || the_starving_gives_up(Real, true));
    explore("one of two gives up", Mode::Rmw, 2, || one_of_two_gives_up(Real, false, false));
    explore("one of two gives up, fair release", Mode::Rmw, 2, || one_of_two_gives_up(Real, false, true));
    explore("one of two who starve gives up", Mode::Rmw, 2, || one_of_two_gives_up(Real, true, false));
    explore("one of two who starve gives up, fair release", Mode::Rmw, 2, || one_of_two_gives_up(Real, true, true));
    explore("the starving gives up", Mode::Plain, 1, || the_starving_gives_up(Real, false));
}

#[test]
fn what_is_reserved_for_the_dead_is_somebody_elses() {
    sweep("the starving dies", Mode::Rmw, 2, |fuse| the_starving_dies(Real, fuse, false));
    sweep("the starving dies, fair release", Mode::Rmw, 1, |fuse| the_starving_dies(Real, fuse, true));
    sweep("the releaser dies", Mode::Rmw, largest(2), |fuse| the_releaser_dies(Real, fuse, false));
    sweep("the fair releaser dies", Mode::Rmw, largest(2), |fuse| the_releaser_dies(Real, fuse, true));
}
