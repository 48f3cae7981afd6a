//! Measuring in turn: A B A B, so that a machine that changes its speed changes it for all of them.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Bench;
use super::catalogue::{OURS, Peer};
use crate::exit::{Code, Failure};

/// Something that is measured, of which each round has a number.
#[derive(Debug)]
pub(crate) struct Quantity {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    /// Both, in two lines that take little room.
    pub(crate) head: [&'static str; 2],
    pub(crate) more_is_better: bool,
}

impl Quantity {
    pub(crate) const fn less(name: &'static str, unit: &'static str, head: [&'static str; 2]) -> Self {
        Self { name, unit, head, more_is_better: false }
    }

    pub(crate) const fn more(name: &'static str, unit: &'static str, head: [&'static str; 2]) -> Self {
        Self { name, unit, head, more_is_better: true }
    }
}

/// What one measurement came to.
#[derive(Default)]
pub(crate) struct Sample {
    /// One for each quantity of its case, in their order.
    pub(crate) values: Vec<f64>,
    /// Single times, in nanoseconds.
    pub(crate) times: Option<Histogram<u64>>,
    /// How many acquisitions were checked to exclude each other.
    pub(crate) checked: u64,
}

/// A measurement that can be repeated.
pub(crate) type Measurement<'a> = Box<dyn Fn() -> Result<Sample, String> + 'a>;

/// Who takes part in a case, and who cannot and why.
#[derive(Default)]
pub(crate) struct Contest<'a> {
    pub(crate) entries: Vec<(&'static Peer, Measurement<'a>)>,
    pub(crate) absent: Vec<(&'static Peer, String)>,
}

/// The rounds of one peer.
pub(crate) struct Entry {
    pub(crate) peer: &'static Peer,
    /// For each quantity, one number for each round.
    pub(crate) values: Vec<Vec<f64>>,
    /// Of all rounds together.
    pub(crate) times: Option<Histogram<u64>>,
    pub(crate) checked: u64,
}

/// Several peers under the same circumstances.
pub(crate) struct Case {
    pub(crate) name: String,
    /// What is common to cases that differ in nothing but the number of processes.
    pub(crate) group: String,
    pub(crate) processes: usize,
    pub(crate) quantities: &'static [Quantity],
    pub(crate) entries: Vec<Entry>,
    pub(crate) absent: Vec<(&'static Peer, String)>,
}

/// The middle of some numbers, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of an even count, the lower one of the middle two.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self { median: values[(values.len() - 1) / 2], least: values[0], most: values[values.len() - 1] }
    }
}

impl Case {
    pub(crate) fn entry(&self, peer: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.peer.name == peer)
    }

    /// What hostlock's value is as a multiple of this one's, round by round. `None` where one of them is nothing.
    pub(crate) fn ratio(&self, entry: &Entry, quantity: usize) -> Option<Spread> {
        let ours = &self.entry(OURS)?.values[quantity];
        let pairs = ours.iter().zip(&entry.values[quantity]);
        let ratios: Option<Vec<f64>> = pairs.map(|(ours, its)| (*its > 0.0).then(|| ours / its)).collect();
        ratios.map(Spread::of)
    }
}

/// Lets all of them be measured in turn, round by round.
pub(crate) fn in_turn(
    bench: &Bench<'_>,
    (name, group, processes): (String, String, usize),
    quantities: &'static [Quantity],
    contest: Contest<'_>,
) -> Result<Case, Failure> {
    let new = |peer| Entry { peer, values: vec![Vec::new(); quantities.len()], times: None, checked: 0 };
    let mut entries: Vec<Entry> = contest.entries.iter().map(|(peer, _)| new(*peer)).collect();
    for round in 1..=bench.plan.rounds {
        for ((peer, measure), entry) in contest.entries.iter().zip(&mut entries) {
            bench.progress.show(&format!("{name}: round {round} of {}: {}", bench.plan.rounds, peer.name));
            let sample =
                measure().map_err(|why| Failure::new(Code::System, format_args!("{name}: {}: {why}", peer.name)))?;
            for (values, value) in entry.values.iter_mut().zip(sample.values) {
                values.push(value);
            }
            entry.checked += sample.checked;
            match (&mut entry.times, sample.times) {
                (Some(all), Some(times)) => all.add(times).expect("the same bounds"),
                (none, times) => *none = times,
            }
        }
    }
    Ok(Case { name, group, processes, quantities, entries, absent: contest.absent })
}

/// Nanoseconds for one `turn`, of as many as there is time for. The clock is read after each `batch` of them.
pub(crate) fn nanos_each(time: Duration, batch: u32, mut turn: impl FnMut()) -> f64 {
    let (begin, mut turns) = (Instant::now(), 0.0);
    loop {
        for _ in 0..batch {
            turn();
        }
        turns += f64::from(batch);
        let elapsed = begin.elapsed();
        if elapsed >= time {
            return elapsed.as_nanos() as f64 / turns;
        }
    }
}
