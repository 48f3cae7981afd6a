//! What the benchmarks have in common: locks and processes are those of `hostlock bench`, which see.
#![allow(dead_code)]

#[path = "../../src/bin/hostlock/bench/arena.rs"]
pub mod arena;
#[path = "../../src/bin/hostlock/bench/children.rs"]
pub mod children;
#[path = "../../src/bin/hostlock/bench/death.rs"]
pub mod death;
#[path = "../../src/bin/hostlock/bench/peers/mod.rs"]
pub mod peers;

#[path = "../../src/bin/hostlock/bench/turns.rs"]
pub mod turns;

use std::time::{Duration, Instant};

use arena::Run;

/// What is measured, by its name.
pub type Named<'a, T> = (&'static str, Box<dyn Fn() -> T + 'a>);

/// Nanoseconds for one `turn`, of so many.
pub fn alone(times: u64, turn: impl Fn()) -> f64 {
    let begin = Instant::now();
    for _ in 0..times {
        turn();
    }
    begin.elapsed().as_nanos() as f64 / times as f64
}

/// Measures all in turn, round by round (A B C A B C …), so that a machine that changes its speed changes it for all of them.
pub fn in_turn<T: Clone>(rounds: usize, peers: &[Named<'_, T>]) -> Vec<Vec<T>> {
    let mut results = vec![Vec::new(); peers.len()];
    for _ in 0..rounds {
        for ((_, measure), results) in peers.iter().zip(&mut results) {
            results.push(measure());
        }
    }
    results
}

/// The median of the ratios of each round, and how far they lie apart.
fn ratio(ours: &[f64], theirs: &[f64]) -> String {
    let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, peer)| ours / peer).collect();
    let ratio = median(&mut ratios);
    format!("hostlock / it = {ratio:5.2} ({:.2}..{:.2})", ratios[0], ratios[ratios.len() - 1])
}

/// Measures what takes nanoseconds, and prints it beside the one called `ours`.
pub fn compare_times(rounds: usize, ours: &str, peers: &[Named<'_, f64>]) {
    let results = in_turn(rounds, peers);
    let ours = peers.iter().position(|(name, _)| *name == ours).expect("always measured");
    for ((name, _), theirs) in peers.iter().zip(&results) {
        println!("  {name:36} {:8.2} ns   {}", median(&mut theirs.clone()), ratio(&results[ours], theirs));
    }
}

/// Measures runs, and prints them beside the one called `ours`.
pub fn compare_runs(rounds: usize, ours: &str, peers: &[Named<'_, Run>]) {
    let results = in_turn(rounds, peers);
    let rates: Vec<Vec<f64>> = results.iter().map(|runs| runs.iter().map(|run| run.rate).collect()).collect();
    let ours = peers.iter().position(|(name, _)| *name == ours).expect("always measured");
    for (index, (name, _)) in peers.iter().enumerate() {
        let mut shares: Vec<f64> = results[index].iter().map(|run| run.share).collect();
        println!(
            "  {name:36} {:8.2} M/s   {}   slowest / fastest process {:.2}",
            median(&mut rates[index].clone()) / 1e6,
            ratio(&rates[ours], &rates[index]),
            median(&mut shares)
        );
    }
}

/// The numbers among the program's arguments (rounds, milliseconds), and which peers are wanted.
pub struct Arguments {
    pub rounds: usize,
    pub time: Duration,
    /// The second number, if there is one, for what counts something else than time by it.
    pub second: Option<u64>,
    wanted: Vec<String>,
}

impl Arguments {
    pub fn read() -> Self {
        let (numbers, wanted): (Vec<String>, Vec<String>) = std::env::args()
            .skip(1)
            .filter(|argument| !argument.starts_with('-'))
            .partition(|argument| argument.parse::<u64>().is_ok());
        let mut numbers = numbers.iter().filter_map(|number| number.parse::<u64>().ok());
        let rounds = numbers.next().unwrap_or(9) as usize;
        let second = numbers.next();
        Self { rounds, time: Duration::from_millis(second.unwrap_or(200)), second, wanted }
    }

    /// Leaves out what is not wanted; never ourselves, whom all are compared with.
    pub fn pick<'a, T>(&self, ours: &str, mut peers: Vec<Named<'a, T>>) -> Vec<Named<'a, T>> {
        peers.retain(|(name, _)| {
            self.wanted.is_empty() || *name == ours || self.wanted.iter().any(|part| name.contains(part.as_str()))
        });
        peers
    }
}

/// The middle value; of an even number of them, the lower one of the middle two.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) / 2]
}
