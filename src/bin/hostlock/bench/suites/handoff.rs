//! From a release to the sleeper that has the lock.

use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

use nix::unistd::Pid;

use super::Suite;
use crate::bench::Bench;
use crate::bench::arena::histogram;
use crate::bench::children::Children;
use crate::bench::death::{now, sleeps};
use crate::bench::goals::Goal;
use crate::bench::ground::{Ground, Measure};
use crate::bench::measure::{Case, Measurement, Quantity, Sample, in_turn};
use crate::bench::peers::{Lock, Shared};
use crate::bench::processors::{self, Pinned};
use crate::exit::Failure;

const PEERS: &[&str] = &["hostlock", "pthread", "pthread-robust", "pthread-pi", "sem_t", "sysv", "flock", "ofd"];

const QUANTITIES: &[Quantity] = &[
    Quantity::less("median", "µs", ["µs", "median"]),
    Quantity::less("p99", "µs", ["µs", "p99"]),
    Quantity::less("longest", "µs", ["µs", "longest"]),
];

pub(super) const SUITE: Suite = Suite {
    name: "handoff",
    about: "a process sleeps until another releases the lock: from just before the release until the sleeper has it, on the processor of who releases and on another",
    peers: PEERS,
    run,
    goals,
};

/// How long a sleeper sleeps already when it is woken.
const ASLEEP: Duration = Duration::from_micros(200);

fn run(bench: &Bench<'_>) -> Result<Vec<Case>, Failure> {
    let (ground, plan) = (&bench.ground, &bench.plan);
    // To wake a processor may take longer than all else. Where the kernel lets the two run is not for chance to decide, nor for what a lock does before
    // its waiter sleeps.
    let places = [(0, "a sleeper is woken, on the same processor"), (1, "a sleeper is woken, on another processor")];
    let of = |(place, name): (usize, &str)| {
        let contest = ground.contest(plan, PEERS, |name| ground.mutex(name, &Handoff { time: plan.time, place }));
        in_turn(bench, (name.into(), name.into(), 2), QUANTITIES, contest)
    };
    places.into_iter().take(processors::count()).map(of).collect()
}

fn goals(cases: &[Case]) -> Vec<Goal> {
    cases.iter().filter_map(|case| Goal::beside_the_best(&case.name, case, 0, 1.25)).collect()
}

struct Handoff {
    time: Duration,
    /// On which processor the sleeper runs; who releases runs on the first one.
    place: usize,
}

/// What lies in `step` when there is nothing more to do.
const END: u64 = u64::MAX;

/// Takes the lock whenever it was taken away, and notes when it had it.
fn sleep_for_it(ground: &Ground<'_>, lock: &impl Lock) {
    let (board, meeting) = (ground.board(), &ground.board().meeting);
    let mut seen = 0;
    loop {
        let step = meeting.step.load(Acquire);
        if step == END {
            return;
        }
        if step == seen {
            std::thread::yield_now();
            continue;
        }
        seen = step;
        meeting.answer.store(2 * step - 1, Release);
        let had = lock.with(|| {
            let had = now();
            board.guarded.add_one();
            had
        });
        meeting.time.store(had, Release);
        meeting.answer.store(2 * step, Release);
    }
}

/// Takes the lock, waits until the other one sleeps for it, and releases it.
fn hand_over(
    ground: &Ground<'_>,
    children: &Children,
    lock: &impl Lock,
    sleeper: Pid,
    step: u64,
) -> Result<u64, String> {
    let (board, meeting) = (ground.board(), &ground.board().meeting);
    let released = lock.with(|| {
        board.guarded.add_one();
        meeting.step.store(step, Release);
        let had = || meeting.answer.load(Acquire) == 2 * step;
        children.until(|| had() || meeting.answer.load(Acquire) == 2 * step - 1)?;
        children.until(|| had() || sleeps(sleeper))?;
        std::thread::sleep(ASLEEP);
        if had() {
            return Err("two were inside at once: the lock was had before it was released".to_string());
        }
        Ok(now())
    })?;
    children.until(|| meeting.answer.load(Acquire) == 2 * step)?;
    let had = meeting.time.load(Acquire);
    had.checked_sub(released).ok_or_else(|| "the lock was had before it was released".to_string())
}

impl Measure for Handoff {
    fn of<'a, S: Shared + 'a>(&self, ground: &'a Ground<'_>, shared: S) -> Measurement<'a> {
        let (&Self { time, place }, board) = (self, ground.board());
        Box::new(move || {
            board.guarded.clear();
            board.meeting.begin();
            let mut children = Children::default();
            let sleeper = children.start(|| {
                let _there = Pinned::to(place).expect("a processor");
                sleep_for_it(ground, &shared.here());
            })?;
            let _here = Pinned::to(0)?;
            let (lock, mut times, mut steps, begin) = (shared.here(), histogram(), 0, Instant::now());
            while steps == 0 || begin.elapsed() < time {
                steps += 1;
                times.saturating_record(hand_over(ground, &children, &lock, sleeper, steps)?);
            }
            board.meeting.step.store(END, Release);
            children.finish()?;
            let checked = board.guarded.expect(2 * steps)?;
            let micros = |nanos: u64| nanos as f64 / 1e3;
            let values =
                vec![micros(times.value_at_quantile(0.5)), micros(times.value_at_quantile(0.99)), micros(times.max())];
            Ok(Sample { values, times: Some(times), checked })
        })
    }

    fn local<'a, L: Lock + Sync + 'a>(&self, _: &'a Ground<'_>, _: L, _: bool) -> Measurement<'a> {
        unreachable!("several processes need what processes can use")
    }
}
