//! From the SIGKILL of an owner to the sleeper that has the lock.

use std::cell::Cell;
use std::sync::atomic::Ordering::SeqCst;

use super::Suite;
use crate::bench::Bench;
use crate::bench::arena::histogram;
use crate::bench::death::{kill_owner, now, some_time};
use crate::bench::goals::Goal;
use crate::bench::ground::{Ground, Measure};
use crate::bench::measure::{Case, Measurement, Quantity, Sample, in_turn};
use crate::bench::peers::{Lock, Shared};
use crate::exit::Failure;

/// Those that come back. `sem_t`, and pthread's mutexes that are not robust, do not.
const PEERS: &[&str] = &["hostlock", "pthread-robust", "sysv", "flock", "ofd"];

const QUANTITIES: &[Quantity] =
    &[Quantity::less("median", "µs", ["µs", "median"]), Quantity::less("longest", "µs", ["µs", "longest"])];

pub(super) const SUITE: Suite = Suite {
    name: "recovery",
    about: "the owner is killed (SIGKILL) while another process sleeps for its lock: until that one has it; of the locks that come back",
    peers: PEERS,
    run,
    goals,
};

fn run(bench: &Bench<'_>) -> Result<Vec<Case>, Failure> {
    let (ground, plan) = (&bench.ground, &bench.plan);
    // Each takes a quarter of a second, whatever it measures.
    let kills = (plan.time.as_millis() / 50).clamp(1, 1000) as u64;
    let contest = ground.contest(plan, PEERS, |name| ground.mutex(name, &Recovery(kills)));
    let name = "from SIGKILL of the owner to the next one".to_string();
    Ok(vec![in_turn(bench, (name.clone(), name, 2), QUANTITIES, contest)?])
}

fn goals(cases: &[Case]) -> Vec<Goal> {
    let of = |case: &Case| {
        [
            Goal::at_most("from SIGKILL to the next owner", case, 0, "pthread-robust", 1.5),
            Goal::at_most("from SIGKILL to the next owner", case, 0, "flock", 1.0),
        ]
    };
    cases.iter().flat_map(of).flatten().collect()
}

struct Recovery(u64);

impl Measure for Recovery {
    fn of<'a, S: Shared + 'a>(&self, ground: &'a Ground<'_>, shared: S) -> Measurement<'a> {
        let (kills, seed, meeting) = (self.0, Cell::new(0x2545_F491_4F6C_DD1D_u64), &ground.board().meeting);
        Box::new(move || {
            let mut times = histogram();
            for _ in 0..kills {
                let mut next = seed.get();
                let asleep = some_time(&mut next);
                seed.set(next);
                times.saturating_record(kill_owner(
                    meeting,
                    asleep,
                    |until_killed| shared.here().with(until_killed),
                    || shared.here().with(|| meeting.time.store(now(), SeqCst)),
                )?);
            }
            let values = vec![times.value_at_quantile(0.5) as f64 / 1e3, times.max() as f64 / 1e3];
            Ok(Sample { values, times: Some(times), checked: kills })
        })
    }

    fn local<'a, L: Lock + Sync + 'a>(&self, _: &'a Ground<'_>, _: L, _: bool) -> Measurement<'a> {
        unreachable!("several processes need what processes can use")
    }
}
