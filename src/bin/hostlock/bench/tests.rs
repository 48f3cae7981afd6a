//! That a lock which lets two in is found out: otherwise what is measured might be none.

use std::time::{Duration, Instant};

use super::arena::{Arena, SHORT};
use super::peers::{Lock, ReadWrite, Shared, SharedRw};
use super::turns::{Guarded, Pace, exclusive, permitted, reading};

/// Lets everybody in.
struct Nothing;

impl Lock for Nothing {
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        critical()
    }
}

impl Shared for Nothing {
    fn here(&self) -> impl Lock {
        self
    }
}

impl ReadWrite for Nothing {
    fn read<R>(&self, critical: impl FnOnce() -> R) -> R {
        critical()
    }

    fn write<R>(&self, critical: impl FnOnce() -> R) -> R {
        critical()
    }
}

impl SharedRw for Nothing {
    fn here(&self) -> impl ReadWrite {
        self
    }
}

const PACE: Pace = Pace { processes: 3, time: Duration::from_millis(20), additions: SHORT };

fn arena() -> Arena<Guarded> {
    // SAFETY: all of it is zero at first, and may be shared.
    unsafe { Arena::new(|_| {}) }
}

/// Runs it until it fails: on a busy machine two may be beside each other for once.
#[track_caller]
fn fails(run: impl Fn() -> Result<(), String>) -> String {
    let end = Instant::now() + Duration::from_secs(60);
    while Instant::now() < end {
        if let Err(why) = run() {
            return why;
        }
    }
    panic!("nobody noticed");
}

#[test]
fn two_who_are_inside_at_once_are_noticed() {
    let arena = arena();
    let why = fails(|| exclusive::<false, _>(&arena, arena.board(), &Nothing, PACE).map(drop));
    assert!(why.starts_with("two were inside at once: of "), "{why}");
    let why = fails(|| exclusive::<true, _>(&arena, arena.board(), &Nothing, PACE).map(drop));
    assert!(why.starts_with("two were inside at once: of "), "{why}");
}

#[test]
fn a_writer_beside_a_reader_or_a_writer_is_noticed() {
    let arena = arena();
    let why = fails(|| reading::<false, _>(&arena, arena.board(), &Nothing, PACE, 2).map(drop));
    // A process that sees it fails; if none does, the numbers differ.
    assert!(why.starts_with("a process failed") || why.starts_with("two wrote at once: of "), "{why}");
    // Where all write nobody looks.
    let why = fails(|| reading::<false, _>(&arena, arena.board(), &Nothing, PACE, 1).map(drop));
    assert!(why.starts_with("two wrote at once: of "), "{why}");
}

#[test]
fn more_than_there_are_permits_are_noticed() {
    let arena = arena();
    let why = fails(|| permitted(&arena, arena.board(), &Nothing, PACE, 2).map(drop));
    assert!(why.starts_with("a process failed"), "{why}");
}

#[test]
fn what_processes_noted_is_put_together() {
    let arena = arena();
    let run = arena.run(3, Duration::from_millis(5), || {
        |turn: &mut super::arena::Turn| turn.took(Duration::from_nanos(1 + turn.number % 100))
    });
    let run = run.unwrap();
    assert_eq!(run.waits.len(), run.turns);
    assert!(run.turns > 1000, "{}", run.turns);
    assert_eq!(run.waits.max(), 100);
}
