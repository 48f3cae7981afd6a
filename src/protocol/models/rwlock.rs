//! Models of [`rwlock`](super::super::rwlock): among the living, with a name that is given up, and with a death at any point.
//!
//! There is no timer but for deaths, so a lost wake-up is a deadlock, which loom reports.
//!
//! The bounds are 4 preemptions for two participants (3 in the plain mode), 3 where a third one reads at first, and 2 for three, which take 10 to
//! 50 seconds each at 3; all of those were run so once, and passed. The sweeps are many explorations each, so theirs is 2, and 1 in the
//! plain mode.

use std::cell::Cell as Unwatched;
use std::rc::Rc;

use loom::thread;

use super::rwlock_world::{Algorithm, Participant, Real, Turn, World};
use super::world::{DEAD_BEFORE, STARTER, join};
use super::{Mode, explore, sweep};

/// All threads ended: the first to come cleans up after the dead and finds everything as it should be.
fn settle(world: &Rc<World>, algorithm: impl Algorithm, mortals: &[usize]) {
    let starter = world.participant(STARTER);
    mortals.iter().for_each(|mortal| starter.clean_up(algorithm, *mortal));
    starter.writes(algorithm);
    world.assert_at_rest();
}

/// One turn each.
pub(super) fn turns(algorithm: impl Algorithm, turns: &'static [Turn]) {
    let world = World::new(&[0, 1, 2][..turns.len()]);
    let threads =
        turns.iter().enumerate().map(|(number, turn)| world.spawn(number, move |me| me.take(algorithm, *turn)));
    join(threads.collect());
    world.assert_at_rest();
}

/// Both read, one by the only cell; whoever finds no cell goes without.
pub(super) fn one_cell(algorithm: impl Algorithm) {
    let world = World::new(&[0]);
    join((0..2).map(|number| world.spawn(number, move |me| me.reads(algorithm))).collect());
    world.participant(STARTER).writes(algorithm);
    world.assert_at_rest();
}

/// Somebody reads. Somebody who wants to write gives up at any moment, and another takes its turn.
pub(super) fn one_gives_up(algorithm: impl Algorithm, other: Turn) {
    let world = World::new(&[1, 2]);
    let reader = world.participant(2);
    assert!(reader.try_to_read(algorithm));
    let threads = vec![
        world.spawn(0, move |me| me.with_deadline().writes(algorithm)),
        world.spawn(1, move |me| me.take(algorithm, other)),
    ];
    world.machine.expire(0);
    reader.look();
    reader.end_reading(algorithm);
    join(threads);
    world.assert_at_rest();
}

/// Two read before either wants to write: one of them does.
pub(super) fn both_upgrade(algorithm: impl Algorithm) {
    let world = World::new(&[0, 1]);
    let (one, two) = (world.participant(0), world.participant(1));
    assert!(one.try_to_read(algorithm) && two.try_to_read(algorithm));
    let ends = Rc::new(Unwatched::new(0));
    let upgrade = |me: Participant| {
        let ends = ends.clone();
        thread::spawn(move || {
            if me.goes_on_as_writer(algorithm) {
                ends.set(ends.get() + 1);
            }
        })
    };
    join(vec![upgrade(one), upgrade(two)]);
    assert!(ends.get() >= 1, "nobody of two became the writer");
    world.assert_at_rest();
}

/// Two threads of a process read. One goes on as a writer, the other ends.
pub(super) fn one_of_a_process_upgrades(algorithm: impl Algorithm) {
    let world = World::new(&[0]);
    let one = world.participant(0);
    let two = Participant { thread: world.machine.thread(1).of_process(0), ..world.participant(0) };
    assert!(one.try_to_read(algorithm) && two.try_to_read(algorithm));
    let threads = vec![
        thread::spawn(move || assert!(one.goes_on_as_writer(algorithm), "somebody else was at the gate")),
        thread::spawn(move || {
            two.look();
            two.end_reading(algorithm);
        }),
    ];
    join(threads);
    world.assert_at_rest();
}

/// Somebody gives the name up while others come.
pub(super) fn name_is_given_up(algorithm: impl Algorithm, turns: &'static [Turn]) {
    let world = World::new(&[0, 1, 2]);
    let mut threads = vec![world.spawn(0, |me| {
        me.give_name_up();
    })];
    threads
        .extend(turns.iter().zip(1..).map(|(turn, number)| world.spawn(number, move |me| me.take(algorithm, *turn))));
    join(threads);
    world.assert_at_rest();
}

/// One takes a turn and dies in it, while others take theirs.
pub(super) fn one_dies(algorithm: impl Algorithm, fuse: usize, mortal: Turn, others: &'static [Turn]) {
    let world = World::new(&[0, 1, 2]);
    let mut threads = vec![world.spawn_mortal(0, fuse, move |me| me.take(algorithm, mortal))];
    threads
        .extend(others.iter().zip(1..).map(|(turn, number)| world.spawn(number, move |me| me.take(algorithm, *turn))));
    join(threads);
    settle(&world, algorithm, &[0]);
}

/// Somebody reads, so the mortal one waits for it at the bell, and another behind it, or before it.
pub(super) fn waiter_dies(algorithm: impl Algorithm, fuse: usize, other: Turn) {
    let world = World::new(&[0, 1, 2]);
    let reader = world.participant(2);
    assert!(reader.try_to_read(algorithm));
    let threads = vec![
        world.spawn_mortal(0, fuse, move |me| me.writes(algorithm)),
        world.spawn(1, move |me| me.take(algorithm, other)),
    ];
    reader.look();
    reader.end_reading(algorithm);
    join(threads);
    settle(&world, algorithm, &[0]);
}

/// Somebody writes, so the mortal reader waits at the gate, and another behind it, or before it.
pub(super) fn reader_dies_at_the_gate(algorithm: impl Algorithm, fuse: usize, other: Turn) {
    let world = World::new(&[0, 1]);
    let writer = world.participant(2);
    let word = writer.try_to_write(algorithm).expect("nobody is there");
    let threads = vec![
        world.spawn_mortal(0, fuse, move |me| me.reads(algorithm)),
        world.spawn(1, move |me| me.take(algorithm, other)),
    ];
    writer.change(word);
    writer.end_writing(word);
    join(threads);
    settle(&world, algorithm, &[0]);
}

/// A process died that read twice. One who writes dies, or not; another cleans up beside it, or writes.
pub(super) fn after_a_reader(algorithm: impl Algorithm, fuse: usize, cleaner: bool) {
    let world = World::new(&[DEAD_BEFORE]);
    let dead = world.participant(DEAD_BEFORE);
    assert!(dead.try_to_read(algorithm) && dead.try_to_read(algorithm));
    dead.thread.die();
    let body = move |me: &Participant| match cleaner {
        true => me.clean_up(algorithm, DEAD_BEFORE),
        false => me.writes(algorithm),
    };
    let threads = vec![world.spawn_mortal(0, fuse, body), world.spawn(1, move |me| me.writes(algorithm))];
    join(threads);
    settle(&world, algorithm, &[0, DEAD_BEFORE]);
}

/// A writer died inside. One heir dies, or not, another takes its turn.
pub(super) fn after_a_writer(algorithm: impl Algorithm, fuse: usize, heir: Turn, other: Turn) {
    let world = World::new(&[0, 1]);
    let dead = world.participant(DEAD_BEFORE);
    dead.change(dead.try_to_write(algorithm).expect("nobody is there"));
    dead.leave_behind();
    dead.thread.die();
    let threads = vec![
        world.spawn_mortal(0, fuse, move |me| me.take(algorithm, heir)),
        world.spawn(1, move |me| me.take(algorithm, other)),
    ];
    join(threads);
    settle(&world, algorithm, &[0, DEAD_BEFORE]);
}

/// A process died that read. It is cleaned up after, another moves into its slot and reads; somebody who found the first one dead is late with
/// its cells.
pub(super) fn reborn(algorithm: impl Algorithm) {
    let world = World::new(&[DEAD_BEFORE]);
    let dead = world.participant(DEAD_BEFORE);
    assert!(dead.try_to_read(algorithm));
    dead.thread.die();
    let threads = vec![
        world.spawn(0, move |me| {
            me.clean_up(algorithm, DEAD_BEFORE);
            me.reborn_in(DEAD_BEFORE).reads(algorithm);
        }),
        world.spawn(1, move |me| {
            if me.thread.is_dead(DEAD_BEFORE) {
                me.clean_cells(algorithm, DEAD_BEFORE);
            }
        }),
    ];
    join(threads);
    settle(&world, algorithm, &[]);
}

#[test]
fn rwlock_lets_nobody_be_beside_a_writer_and_loses_no_wake_up() {
    use Turn::{Read, Write};
    for (mode, bound) in [(Mode::Rmw, 4), (Mode::Plain, 3)] {
        explore("rwlock, one reads, one writes", mode, bound, || turns(Real, &[Read, Write]));
        explore("rwlock, two write", mode, bound, || turns(Real, &[Write, Write]));
        explore("rwlock, two read by one cell", mode, bound, || one_cell(Real));
    }
    explore("rwlock, two read, one writes", Mode::Rmw, 2, || turns(Real, &[Read, Write, Read]));
    explore("rwlock, one reads, two write", Mode::Rmw, 2, || turns(Real, &[Read, Write, Write]));
    explore("rwlock, two read, one writes", Mode::Plain, 2, || turns(Real, &[Read, Write, Read]));
    explore("rwlock, one gives up, one writes", Mode::Rmw, 3, || one_gives_up(Real, Write));
    explore("rwlock, one gives up, one reads", Mode::Rmw, 3, || one_gives_up(Real, Read));
}

#[test]
fn rwlock_changes_sides_without_anybody_in_between() {
    use Turn::{Read, ReadWrite, Write, WriteRead};
    for (mode, bound) in [(Mode::Rmw, 4), (Mode::Plain, 3)] {
        explore("rwlock, downgrade beside a writer", mode, bound, || turns(Real, &[WriteRead, Write]));
        explore("rwlock, upgrade beside a writer", mode, bound, || turns(Real, &[ReadWrite, Write]));
        explore("rwlock, two upgrade", mode, bound, || both_upgrade(Real));
        explore("rwlock, one of a process upgrades", mode, bound, || one_of_a_process_upgrades(Real));
    }
    explore("rwlock, downgrade beside two", Mode::Rmw, 2, || turns(Real, &[WriteRead, Write, Read]));
    explore("rwlock, upgrade beside two", Mode::Rmw, 2, || turns(Real, &[ReadWrite, Read, ReadWrite]));
}

#[test]
fn rwlock_of_a_name_that_is_given_up_has_no_readers() {
    use Turn::{Read, Write};
    for mode in [Mode::Rmw, Mode::Plain] {
        explore("rwlock, name given up", mode, 3, || name_is_given_up(Real, &[Read]));
    }
    explore("rwlock, name given up under two", Mode::Rmw, 2, || name_is_given_up(Real, &[Read, Write]));
}

#[test]
fn rwlock_goes_on_after_the_dead_and_tells_of_writers_only() {
    use Turn::{Read, ReadWrite, Write, WriteRead};
    sweep("rwlock, reader dies", Mode::Rmw, 2, |fuse| one_dies(Real, fuse, Read, &[Write]));
    sweep("rwlock, writer dies beside a reader", Mode::Rmw, 2, |fuse| one_dies(Real, fuse, Write, &[Read]));
    sweep("rwlock, writer dies beside a writer", Mode::Rmw, 2, |fuse| one_dies(Real, fuse, Write, &[Write]));
    sweep("rwlock, dies as it goes on as a reader", Mode::Rmw, 2, |fuse| one_dies(Real, fuse, WriteRead, &[Write]));
    sweep("rwlock, dies as it goes on as a writer", Mode::Rmw, 2, |fuse| one_dies(Real, fuse, ReadWrite, &[Read]));
    sweep("rwlock, waiting writer dies before a writer", Mode::Rmw, 2, |fuse| waiter_dies(Real, fuse, Write));
    sweep("rwlock, waiting writer dies before a reader", Mode::Rmw, 2, |fuse| waiter_dies(Real, fuse, Read));
    sweep("rwlock, reader dies at the gate", Mode::Rmw, 2, |fuse| reader_dies_at_the_gate(Real, fuse, Read));
    sweep("rwlock, writer dies after a reader", Mode::Rmw, 2, |fuse| after_a_reader(Real, fuse, false));
    sweep("rwlock, cleaner dies after a reader", Mode::Rmw, 2, |fuse| after_a_reader(Real, fuse, true));
    sweep("rwlock, heir of a writer dies", Mode::Rmw, 2, |fuse| after_a_writer(Real, fuse, Write, Read));
    sweep("rwlock, reader dies after a writer", Mode::Rmw, 2, |fuse| after_a_writer(Real, fuse, Read, Write));
    sweep("rwlock, reader dies", Mode::Plain, 1, |fuse| one_dies(Real, fuse, Read, &[Write]));
    sweep("rwlock, writer dies beside a reader", Mode::Plain, 1, |fuse| one_dies(Real, fuse, Write, &[Read]));
    for mode in [Mode::Rmw, Mode::Plain] {
        explore("rwlock, slot reborn", mode, 3, || reborn(Real));
    }
}
