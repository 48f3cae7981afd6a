//! One process, nobody else.

use std::time::Duration;

use super::Suite;
use crate::bench::Bench;
use crate::bench::arena::SHORT;
use crate::bench::children::Children;
use crate::bench::goals::Goal;
use crate::bench::ground::{Ground, Measure, MeasureRw, PERMITS};
use crate::bench::measure::{Case, Measurement, Quantity, Sample, in_turn, nanos_each};
use crate::bench::peers::{Lock, ReadWrite, Shared, SharedRw};
use crate::bench::turns::{self, Pace};
use crate::exit::Failure;

const MUTEXES: &[&str] = &[
    "hostlock",
    "floor",
    "std",
    "parking_lot",
    "pthread",
    "pthread-robust",
    "pthread-pi",
    "sem_t",
    "sysv",
    "flock",
    "ofd",
    "fs2",
    "fd-lock",
    "named-lock",
    "hostlock-files",
];
const READING: &[&str] = &["hostlock", "std", "parking_lot", "pthread", "flock", "ofd"];
const PERMIT: &[&str] = &["hostlock", "sem_t", "sysv"];

const NANOS: &[Quantity] = &[Quantity::less("acquire and release", "ns", ["ns", ""])];

pub(super) const SUITE: Suite = Suite {
    name: "uncontended",
    about: "one process, nobody else: what an acquisition and its release take",
    peers: MUTEXES,
    run,
    goals,
};

/// Two processes, or threads, against each other for so long show whether a lock is one.
const CHECK: Duration = Duration::from_millis(10);

/// Enough for the clock not to count.
const BATCH: u32 = 2000;

struct Alone(Duration);

fn run(bench: &Bench<'_>) -> Result<Vec<Case>, Failure> {
    let (ground, plan, alone) = (&bench.ground, &bench.plan, Alone(bench.plan.time));
    let of = |name: String| (name.clone(), name, 1);
    let mutexes = ground.contest(plan, MUTEXES, |name| ground.mutex(name, &alone));
    let reading = ground.contest(plan, READING, |name| ground.read_write(name, &alone));
    let permit = ground.contest(plan, PERMIT, |name| ground.permit(name, &Permit(alone.0)));
    Ok(vec![
        in_turn(bench, of("a mutex".into()), NANOS, mutexes)?,
        in_turn(bench, of("reading".into()), NANOS, reading)?,
        in_turn(bench, of(format!("a permit of {PERMITS}")), NANOS, permit)?,
    ])
}

fn goals(cases: &[Case]) -> Vec<Goal> {
    let [mutex, reading, permit] = cases else { return Vec::new() };
    let goals = [
        Goal::at_most("a mutex", mutex, 0, "std", 0.9).map(|goal| goal.aiming_at(0.6)),
        Goal::at_most("reading", reading, 0, "pthread", 0.5).map(|goal| goal.aiming_at(0.2)),
        Goal::at_most("a permit", permit, 0, "sem_t", 0.75),
    ];
    goals.into_iter().flatten().collect()
}

fn sample(nanos: f64, checked: u64) -> Sample {
    Sample { values: vec![nanos], checked, ..Sample::default() }
}

/// Lets two processes count under a lock; how often they did.
fn check(ground: &Ground<'_>, time: Duration, shared: &impl Shared) -> Result<u64, String> {
    let pace = Pace { processes: 2, time: CHECK.min(time), additions: SHORT };
    turns::exclusive::<false, _>(&ground.arena, &ground.board().guarded, shared, pace).map(|run| run.turns)
}

/// The same of two threads of another process.
fn check_threads(ground: &Ground<'_>, lock: &(impl Lock + Sync)) -> Result<u64, String> {
    const TURNS: u64 = 10_000;
    let guarded = &ground.board().guarded;
    guarded.clear();
    let mut children = Children::default();
    children.start(|| {
        let count = || (0..TURNS).for_each(|_| lock.with(|| guarded.add_one()));
        std::thread::scope(|scope| {
            scope.spawn(count);
            count();
        });
    })?;
    children.finish()?;
    guarded.expect(2 * TURNS)
}

impl Measure for Alone {
    fn of<'a, S: Shared + 'a>(&self, ground: &'a Ground<'_>, shared: S) -> Measurement<'a> {
        let time = self.0;
        Box::new(move || {
            let checked = check(ground, time, &shared)?;
            let lock = shared.here();
            Ok(sample(nanos_each(time, BATCH, || lock.with(|| ())), checked))
        })
    }

    fn local<'a, L: Lock + Sync + 'a>(&self, ground: &'a Ground<'_>, lock: L, excludes: bool) -> Measurement<'a> {
        let time = self.0;
        Box::new(move || {
            let checked = if excludes { check_threads(ground, &lock)? } else { 0 };
            Ok(sample(nanos_each(time, BATCH, || lock.with(|| ())), checked))
        })
    }
}

impl MeasureRw for Alone {
    fn of<'a, S: SharedRw + 'a>(&self, ground: &'a Ground<'_>, shared: S) -> Measurement<'a> {
        let time = self.0;
        Box::new(move || {
            let checked = check(ground, time, &Writing(&shared))?;
            let lock = shared.here();
            Ok(sample(nanos_each(time, BATCH, || lock.read(|| ())), checked))
        })
    }

    fn local<'a, L: ReadWrite + Sync + 'a>(&self, ground: &'a Ground<'_>, lock: L) -> Measurement<'a> {
        let time = self.0;
        Box::new(move || {
            let checked = check_threads(ground, &Written(&lock))?;
            Ok(sample(nanos_each(time, BATCH, || lock.read(|| ())), checked))
        })
    }
}

/// The write side, as a mutex.
struct Written<L>(L);

impl<L: ReadWrite> Lock for Written<L> {
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        self.0.write(critical)
    }
}

struct Writing<'a, S>(&'a S);

impl<S: SharedRw> Shared for Writing<'_, S> {
    fn here(&self) -> impl Lock {
        Written(self.0.here())
    }
}

/// As [`Alone`], of what lets several in.
struct Permit(Duration);

impl Measure for Permit {
    fn of<'a, S: Shared + 'a>(&self, ground: &'a Ground<'_>, shared: S) -> Measurement<'a> {
        let time = self.0;
        Box::new(move || {
            let pace = Pace { processes: PERMITS as usize + 2, time: CHECK.min(time), additions: SHORT };
            let run = turns::permitted(&ground.arena, &ground.board().guarded, &shared, pace, PERMITS)?;
            let lock = shared.here();
            Ok(sample(nanos_each(time, BATCH, || lock.with(|| ())), run.turns))
        })
    }

    fn local<'a, L: Lock + Sync + 'a>(&self, _: &'a Ground<'_>, _: L, _: bool) -> Measurement<'a> {
        unreachable!("no semaphore is of one process only")
    }
}
