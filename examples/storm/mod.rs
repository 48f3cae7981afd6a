//! A storm of faults over everything that the library has, and a judge over what happened in it.

mod acts;
#[path = "../../tests/support/chance.rs"]
mod chance;
mod faults;
#[path = "../../tests/support/footprint.rs"]
#[allow(dead_code)]
mod footprint;
mod guard;
mod judge;
mod log;
mod nest;
mod rest;
mod set;
mod signals;
mod worker;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use footprint::Footprint;
use judge::Findings;
use log::DEEDS;
use nest::{Nest, Tally};
use set::Set;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub processes: usize,
    /// For how long, in rounds of what length. After each all are killed, there is a calm, and the judge looks at all of it.
    pub time: Duration,
    pub round: Duration,
    /// No more kills than so many.
    pub kills: Option<u64>,
    /// The average time between two kills; `None`: now many, now few.
    pub pause: Option<Duration>,
}

/// What was done, and what came of it.
pub struct Report {
    pub tally: Tally,
    pub findings: Findings,
    pub rounds: u64,
    pub calm: Duration,
    pub took: Duration,
    /// Where everything that was logged in a round lies in which something was wrong.
    pub logs: Option<PathBuf>,
}

/// Does it. `is_enough` is asked now and then; `told` hears of each round.
pub fn run(plan: &Plan, mut is_enough: impl FnMut() -> bool, mut told: impl FnMut(&Report)) -> Result<Report> {
    let root = tempfile::Builder::new().prefix("hostlock-storm-").tempdir_in(memory())?;
    let mut nest = Nest::new(root.path().into(), plan.seed, plan.processes)?;
    let started = Instant::now();
    let mut report = Report {
        tally: Tally::default(),
        findings: Findings::default(),
        rounds: 0,
        calm: Duration::ZERO,
        took: Duration::ZERO,
        logs: None,
    };
    let mut footprint = None;
    let mut is_over = false;
    while !is_over && report.findings.violations.is_empty() {
        let end = (Instant::now() + plan.round).min(started + plan.time);
        let mut due = Instant::now();
        let enough = |nest: &Nest| plan.kills.is_some_and(|kills| nest.tally.kills() >= kills);
        while Instant::now() < end && !enough(&nest) && nest.violations.is_empty() && !is_enough() {
            nest.tend(false);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            // All that are due, should this process have been kept waiting; but not all at once.
            for _ in 0..plan.processes {
                if due <= Instant::now() {
                    nest.strike();
                    due += pause(plan, &mut nest, started);
                }
            }
            due = due.max(Instant::now());
        }
        is_over = started.elapsed() >= plan.time || enough(&nest) || is_enough();
        let kills = nest.tally.kills();
        nest.clear();
        // Those who were there at the end of a round are not counted.
        let surplus = nest.tally.kills() - kills;
        nest.tally.killed_with_child = nest.tally.killed_with_child.saturating_sub(surplus);

        let calm = Instant::now();
        // Handles of its own for each round: what it keeps for itself must not grow either.
        let set = Set::new(nest.space().clone())?;
        nest.drain(&set);
        nest.calm();
        nest.drain(&set);
        nest.at_rest(&set);
        report.calm = report.calm.max(calm.elapsed());
        let now = Footprint::of(&set.space);
        let first = *footprint.get_or_insert(now);
        // Cells of readers come and stay, as many as there ever were at a time; all else is as it was. What this process remembers is the history.
        let cells = 2 * 8 * 512;
        if (Footprint { free: first.free, anonymous: first.anonymous, ..now }) != first || now.free + cells < first.free
        {
            nest.violations.push(format!("something grew: {first:?} became {now:?}"));
        }
        if is_over {
            nest.take_all_away(&set);
        }
        let history = std::mem::take(&mut nest.history);
        report.findings.judge(&history);
        report.findings.violations.append(&mut nest.violations);
        report.rounds += 1;
        report.took = started.elapsed();
        report.tally = std::mem::take(&mut nest.tally);
        if !report.findings.violations.is_empty() {
            report.logs = Some(keep(&history, plan, &report)?);
        }
        told(&report);
        nest.tally = std::mem::take(&mut report.tally);
    }
    report.tally = std::mem::take(&mut nest.tally);
    Ok(report)
}

/// From one strike to the next. In a gust they are many; between gusts there is time for locks to be passed on.
fn pause(plan: &Plan, nest: &mut Nest, started: Instant) -> Duration {
    let mean = plan.pause.unwrap_or_else(|| {
        let gust = started.elapsed().as_millis() as u64 / 50;
        let draw = chance::Random(plan.seed ^ gust).draw() % 4;
        Duration::from_micros([100, 400, 1_000, 5_000][draw as usize])
    });
    Duration::from_nanos(nest.random.draw() % (2 * mean.as_nanos() as u64 + 1))
}

/// Writes down all that happened in a round, by time.
fn keep(history: &[judge::Entry], plan: &Plan, report: &Report) -> Result<PathBuf> {
    let directory = std::env::temp_dir().join(format!("hostlock-storm-{}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let mut file = std::io::BufWriter::new(std::fs::File::create(directory.join("history"))?);
    writeln!(file, "{plan:?}, round {}", report.rounds)?;
    for violation in &report.findings.violations {
        writeln!(file, "{violation}")?;
    }
    let mut entries: Vec<_> = history.iter().collect();
    entries.sort_by_key(|entry| entry.record.begin);
    for entry in entries {
        writeln!(file, "{} {entry:?}", set::name(entry.record.name))?;
    }
    file.flush()?;
    Ok(directory)
}

fn memory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.into() } else { std::env::temp_dir() }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (tally, found) = (&self.tally, &self.findings);
        let millis = |nanos: u64| nanos as f64 / 1e6;
        let acquired: u64 = found.acquired.values().sum();
        writeln!(f, "  time           {:.1?} in {} rounds, longest calm {:.1?}", self.took, self.rounds, self.calm)?;
        writeln!(f, "  processes      {} started, {} ended by themselves", tally.started, tally.ended_themselves)?;
        writeln!(
            f,
            "  kills          {}: {} alone, {} with their child, {} stopped; {} hit a holder, {} somebody who wanted something",
            tally.kills(),
            tally.killed_alone,
            tally.killed_with_child,
            tally.killed_stopped,
            tally.hit_holders,
            tally.hit_waiters
        )?;
        let deeds: Vec<_> = DEEDS.iter().zip(tally.deeds).map(|(deed, times)| format!("{deed} {times}")).collect();
        writeln!(f, "  other faults   stopped and continued {}, {}", tally.stops, deeds.join(", "))?;
        writeln!(f, "  acquisitions   {acquired}")?;
        for (name, times) in &found.acquired {
            writeln!(f, "    {name:<24} {times}")?;
        }
        writeln!(
            f,
            "  taken over     {} from the dead, {} from who lost its lease; {} leases lost",
            found.takeovers, found.leases_taken, found.leases_lost
        )?;
        writeln!(
            f,
            "  longest        {:.1} ms until the next one had what a dead one held, {:.1} ms of waiting",
            millis(found.longest_recovery),
            millis(found.longest_wait)
        )?;
        writeln!(
            f,
            "  together       {} readers, {} permits; {} phases passed, {} broken; {} items",
            found.most_readers, found.most_permits, found.phases.0, found.phases.1, found.items
        )?;
        write!(f, "  violations     {}", found.violations.len())?;
        for violation in found.violations.iter().take(10) {
            write!(f, "\n  {violation}")?;
        }
        if let Some(logs) = &self.logs {
            write!(f, "\n  everything that was logged in that round is in {}", logs.display())?;
        }
        Ok(())
    }
}
