//! Several processes that read nearly all the time, and write now and then.

use super::{Suite, contended};
use crate::bench::Bench;
use crate::bench::arena::SHORT;
use crate::bench::ground::{Ground, MeasureRw};
use crate::bench::measure::{Case, Measurement, in_turn};
use crate::bench::peers::{ReadWrite, SharedRw};
use crate::bench::turns::{self, Pace};
use crate::exit::Failure;

const PEERS: &[&str] = &["hostlock", "pthread", "pthread-writers", "flock", "ofd"];

/// One of so many turns writes.
const WRITES: u64 = 100;

pub(super) const SUITE: Suite = Suite {
    name: "reads",
    about: "several processes want one read-write lock all the time, and write in one of 100 turns: as contended",
    peers: PEERS,
    run,
    goals: |_| Vec::new(),
};

struct Reads(Pace);

fn run(bench: &Bench<'_>) -> Result<Vec<Case>, Failure> {
    let (ground, plan) = (&bench.ground, &bench.plan);
    let group = format!("one of {WRITES} turns writes");
    let of = |&processes: &usize| {
        let measure = Reads(Pace { processes, time: plan.time, additions: SHORT });
        let contest = ground.contest(plan, PEERS, |name| ground.read_write(name, &measure));
        let name = format!("{processes} processes, {group}");
        in_turn(bench, (name, group.clone(), processes), contended::QUANTITIES, contest)
    };
    plan.processes.iter().map(of).collect()
}

impl MeasureRw for Reads {
    fn of<'a, S: SharedRw + 'a>(&self, ground: &'a Ground<'_>, shared: S) -> Measurement<'a> {
        let (pace, guarded) = (self.0, &ground.board().guarded);
        Box::new(move || {
            let untimed = turns::reading::<false, _>(&ground.arena, guarded, &shared, pace, WRITES)?;
            let timed = turns::reading::<true, _>(&ground.arena, guarded, &shared, pace, WRITES)?;
            Ok(contended::sample(&untimed, timed))
        })
    }

    fn local<'a, L: ReadWrite + Sync + 'a>(&self, _: &'a Ground<'_>, _: L) -> Measurement<'a> {
        unreachable!("several processes need what processes can use")
    }
}
