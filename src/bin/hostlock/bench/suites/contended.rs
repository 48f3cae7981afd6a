//! Several processes that want one lock all the time.

use super::Suite;
use crate::bench::Bench;
use crate::bench::arena::{Run, SHORT};
use crate::bench::goals::Goal;
use crate::bench::ground::{Ground, Measure};
use crate::bench::measure::{Case, Measurement, Quantity, Sample, in_turn};
use crate::bench::peers::{Lock, Shared};
use crate::bench::turns::{self, Pace};
use crate::exit::Failure;

/// fs2, fd-lock and named-lock call what `flock` calls: what they add is told without others.
const PEERS: &[&str] =
    &["hostlock", "hostlock-fair", "pthread", "pthread-robust", "pthread-pi", "sem_t", "sysv", "flock", "ofd"];

/// How many additions make a long section: some microseconds.
const LONG: u32 = 10_000;

pub(super) const RATE: usize = 0;
pub(super) const SHARE: usize = 1;
pub(super) const P999: usize = 4;

pub(super) const QUANTITIES: &[Quantity] = &[
    Quantity::more("throughput", "M/s", ["throughput", "M/s"]),
    Quantity::more("slowest / fastest", "", ["slowest", "/fastest"]),
    Quantity::less("wait p50", "µs", ["wait µs", "p50"]),
    Quantity::less("wait p99", "µs", ["wait µs", "p99"]),
    Quantity::less("wait p99.9", "µs", ["wait µs", "p99.9"]),
    Quantity::less("longest wait", "µs", ["wait µs", "longest"]),
];

pub(super) const SUITE: Suite = Suite {
    name: "contended",
    about: "several processes want one mutex all the time, for short and for long sections: what all of them get done together, how evenly, and who waits for how long",
    peers: PEERS,
    run,
    goals,
};

struct Contended(Pace);

fn run(bench: &Bench<'_>) -> Result<Vec<Case>, Failure> {
    let (ground, plan) = (&bench.ground, &bench.plan);
    let mut cases = Vec::new();
    for (group, additions) in [("short sections", SHORT), ("long sections", LONG)] {
        for &processes in &plan.processes {
            let measure = Contended(Pace { processes, time: plan.time, additions });
            let contest = ground.contest(plan, PEERS, |name| ground.mutex(name, &measure));
            let name = format!("{processes} processes, {group}");
            cases.push(in_turn(bench, (name, group.into(), processes), QUANTITIES, contest)?);
        }
    }
    Ok(cases)
}

fn goals(cases: &[Case]) -> Vec<Goal> {
    let of = |case: &Case| {
        let within = case.group == "short sections" && [2, 8].contains(&case.processes);
        let goals = within.then(|| {
            [
                Goal::beside_the_best(&format!("throughput, {}", case.name), case, RATE, 1.2),
                Goal::own(&format!("slowest / fastest, {}", case.name), case, SHARE, 0.8),
                // What whoever gets more done lets others wait.
                (case.processes == 8)
                    .then(|| Goal::beside_the_best_in(RATE, &format!("wait p99.9, {}", case.name), case, P999, 1.25))
                    .flatten(),
            ]
        });
        goals.into_iter().flatten().flatten().collect::<Vec<_>>()
    };
    cases.iter().flat_map(of).collect()
}

/// What a run without clocks, and one with them, come to: reading the clock takes longer than many a lock, so the second one tells of the waits and of
/// nothing else.
pub(super) fn sample(untimed: &Run, timed: Run) -> Sample {
    let wait = |quantile: f64| timed.waits.value_at_quantile(quantile) as f64 / 1e3;
    let values =
        vec![untimed.rate / 1e6, untimed.share, wait(0.5), wait(0.99), wait(0.999), timed.waits.max() as f64 / 1e3];
    Sample { values, checked: untimed.turns + timed.turns, times: Some(timed.waits) }
}

impl Measure for Contended {
    fn of<'a, S: Shared + 'a>(&self, ground: &'a Ground<'_>, shared: S) -> Measurement<'a> {
        let (pace, guarded) = (self.0, &ground.board().guarded);
        Box::new(move || {
            let untimed = turns::exclusive::<false, _>(&ground.arena, guarded, &shared, pace)?;
            Ok(sample(&untimed, turns::exclusive::<true, _>(&ground.arena, guarded, &shared, pace)?))
        })
    }

    fn local<'a, L: Lock + Sync + 'a>(&self, _: &'a Ground<'_>, _: L, _: bool) -> Measurement<'a> {
        unreachable!("several processes need what processes can use")
    }
}
