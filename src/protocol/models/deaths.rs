//! Models in which somebody dies at any point: each is explored once for every length of its fuse (see [`sweep`](super::sweep)).
//!
//! In all of them exclusion holds, tokens grow by one, whoever comes after an owner that died is told and nobody else is
//! ([`Participant::hold`](super::world::Participant::hold)), everybody who lives gets the lock and lets it go, and at the end nobody is
//! counted or recorded, but for a stray one where the dead one left the count and the record apart.

use std::process::Command;
use std::rc::Rc;

use super::world::{Algorithm, DEAD_BEFORE, Real, STARTER, World, join};
use super::{Mode, explore, largest, sweep};
use crate::sync::burned;

/// All threads ended: the first to come cleans up after the dead and finds the lock as it should be.
pub(super) fn settle(world: &Rc<World>, algorithm: impl Algorithm, mortals: &[usize]) {
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

/// The owner dies in its release while two others want the lock: one that sleeps, and one that barges in. Or it comes back and dies
/// then, and only one other wants the lock: with two, that takes minutes.
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
    let others = if comes_back { 1 } else { 2 };
    threads.extend((0..others).map(|number| world.spawn(number, move |me| me.take_turn(algorithm))));
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

/// The same, and the owner cleans up after the dead one: before its release, or after it, and then it comes back. The other sleeper
/// must still be on the count.
pub(super) fn sleeper_dies_and_is_cleaned_up(algorithm: impl Algorithm, fuse: usize, after_the_release: bool) {
    let world = World::new();
    let owner = world.participant(2);
    let mine = owner.acquire(algorithm);
    owner.hold(mine);
    let mut threads = vec![
        world.spawn_mortal(0, fuse, move |me| me.take_turn(algorithm)),
        world.spawn(1, move |me| me.take_turn(algorithm)),
    ];
    if after_the_release {
        owner.release(algorithm, mine);
        // Here it has died, or had its turn.
        join(vec![threads.remove(0)]);
        owner.clean_up(algorithm, 0);
        owner.take_turn(algorithm);
    } else {
        owner.clean_up(algorithm, 0);
        owner.release(algorithm, mine);
    }
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

/// Without any timer: who dies in its release, before step number `fuse` of it, while two others want the lock.
pub(super) fn releaser_dies_untimed(algorithm: impl Algorithm, fuse: usize) {
    releaser_dies(algorithm, World::without_timer(), fuse, false);
}

/// Without any timer: who gives up dies, at any point from its first look to the last step of taking itself off the count. The lock is
/// released after that, so nobody can have counted on it for a wake.
pub(super) fn who_gives_up_dies_untimed(algorithm: impl Algorithm, fuse: usize) {
    let world = World::without_timer();
    let owner = world.participant(2);
    let mine = owner.acquire(algorithm);
    owner.hold(mine);
    let other = world.spawn(1, move |me| me.take_turn(algorithm));
    let mortal = world.spawn_mortal(0, fuse, move |me| {
        assert!(me.with_deadline().try_to_acquire(algorithm).is_none(), "acquired what is held");
    });
    world.expire(0);
    join(vec![mortal]);
    owner.release(algorithm, mine);
    join(vec![other]);
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
    sweep("sleeper dies and is cleaned up", Mode::Rmw, 2, |fuse| sleeper_dies_and_is_cleaned_up(Real, fuse, false));
    sweep("sleeper dies and is cleaned up late", Mode::Rmw, 2, |fuse| sleeper_dies_and_is_cleaned_up(Real, fuse, true));
}

#[test]
fn an_owner_that_dies_in_its_release_stops_nobody() {
    sweep("releaser dies", Mode::Rmw, largest(2), |fuse| releaser_dies(Real, World::new(), fuse, false));
    sweep("releaser dies", Mode::Plain, 1, |fuse| releaser_dies(Real, World::new(), fuse, false));
    sweep("releaser dies or comes back", Mode::Rmw, 3, |fuse| releaser_dies(Real, World::new(), fuse, true));
}

#[test]
fn an_heir_that_dies_is_followed_and_told_of() {
    sweep("heir dies", Mode::Rmw, 3, |fuse| heir_dies(Real, fuse, 1));
    sweep("heir dies", Mode::Plain, 2, |fuse| heir_dies(Real, fuse, 1));
    sweep("heir dies, two follow", Mode::Rmw, largest(2), |fuse| heir_dies(Real, fuse, 2));
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

/// Names the model and the length of the fuse that [`one_untimed_point`] is to run with.
const POINT: &str = "HOSTLOCK_UNTIMED_POINT";

/// In a process started by [`deadlocks_untimed`].
#[test]
fn one_untimed_point() {
    let Ok(wanted) = std::env::var(POINT) else { return };
    let (model, fuse) = wanted.split_once(' ').expect("a model and a fuse");
    let fuse = fuse.parse().expect("the length of a fuse");
    burned();
    match model {
        "releaser" => explore("releaser dies, no timer", Mode::Rmw, 2, move || releaser_dies_untimed(Real, fuse)),
        other => panic!("there is no model {other}"),
    }
    println!("deaths: {}", burned());
}

/// Whether a death at this point, without any timer, leaves somebody asleep for ever; `None` if nobody dies any more.
///
/// The bound is fixed, for it decides what is found.
fn deadlocks_untimed(model: &str, fuse: usize, bound: usize) -> Option<bool> {
    let (_, path) = module_path!().split_once("::").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{path}::one_untimed_point"), "--nocapture"])
        .env(POINT, format!("{model} {fuse}"))
        .env("LOOM_MAX_PREEMPTIONS", bound.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        let deaths = said.lines().find_map(|line| line.strip_prefix("deaths: ")).expect("a count of deaths");
        return (deaths != "0").then_some(false);
    }
    assert!(errors.contains("deadlock; threads"), "{model} {fuse} failed for another reason:\n{errors}");
    Some(true)
}

/// By design: whoever is killed as the owner, or before it made good the wake that it owes.
#[test]
fn only_who_holds_the_lock_or_owes_a_wake_needs_a_timer_when_it_dies() {
    let mut points = 0;
    let mut deadlocks = Vec::new();
    while let Some(deadlock) = deadlocks_untimed("releaser", points, 2) {
        if deadlock {
            deadlocks.push(points);
        }
        points += 1;
    }
    println!("untimed releaser: {points} crash points, of which these need a timer: {deadlocks:?}");
    // Before it looks whether the word is its own, and before it frees it; before it looks at the count, and once more after the whole fence; before it leaves its mark
    // there, and before the wake.
    assert_eq!(deadlocks, [0, 1, 2, 3, 4, 5]);
    assert!(points > 6, "the release goes on for longer than that");
    // Its wake found nobody, and its mark still stands. Somebody went to sleep since, under an owner who barged in and whose release
    // found that mark. It takes a preemption more to get there.
    assert_eq!(deadlocks_untimed("releaser", 6, 3), Some(true));
}

#[test]
fn a_sleeper_that_nobody_woke_can_die_without_any_timer() {
    for mode in [Mode::Rmw, Mode::Plain] {
        sweep("who gives up dies, no timer", mode, 2, |fuse| who_gives_up_dies_untimed(Real, fuse));
    }
}
