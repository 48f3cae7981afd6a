//! A storm that locks have to come through, for as long as you like: `cargo run --release --example storm -- --for 1h`.
//!
//! Worker processes acquire, hold and release everything that this library has, all in one space: mutexes of all forms, with and without data,
//! readers and writers that become each other, permits, leases that are kept, renewed and lost, several locks at once, condition variables, events,
//! latches, barriers, queues, elections, fences, names that come and go. Meanwhile they are killed, stopped and continued at random, mostly aiming at
//! whoever holds something; and they fork, execute other programs, end threads, close descriptors, forget guards, leave and come back, while they
//! hold locks.
//!
//! Each logs what it acquires and releases, with its token and the time, where that survives it; and after each round of a second or two a judge
//! looks whether it can have happened: nobody held what somebody else held, tokens grow, each death was told to the next one, once, nothing was
//! taken from the living, there were never more permits than there are, nothing came out of a queue twice. Then there is a calm, in which everybody
//! has to get everything, and after which nobody is noted as holding, waiting or being there, and no name, descriptor, mapping or byte of extents is
//! left.
//!
//! What each worker wants to do, and when who is struck, follows from the seed. When the kernel runs which of them, and so which instruction a kill
//! hits, does not: a seed repeats the weather, not the accident. What happened stands in the logs, which are kept if something was wrong.

#[path = "storm/mod.rs"]
mod storm;

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Processes that use all locks at once while they are killed, stopped, forked and replaced at random, and a judge over what happened.
#[derive(Parser, Debug)]
#[command(after_help = "Exit status: 0 if all went as promised, 1 if not, 2 if it could not be tried.")]
struct Options {
    /// For how long (10s, 1h).
    #[arg(long = "for", default_value = "1s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// No more kills than so many [default: as many as fit].
    #[arg(long)]
    kills: Option<u64>,
    /// How many workers there are at a time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(3..=256))]
    processes: u16,
    /// Strike about so often (500us, 2ms) [default: now many times a millisecond, now every five].
    #[arg(long, value_parser = humantime::parse_duration)]
    every: Option<Duration>,
    /// How long a round is, after which the judge looks and there is a calm.
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    round: Duration,
    /// Repeat the weather of an earlier run.
    #[arg(long)]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("storm: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<bool, Box<dyn std::error::Error>> {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let plan = storm::Plan {
        seed: options.seed.unwrap_or_else(clock),
        processes: options.processes.into(),
        time: options.time,
        round: options.round,
        kills: options.kills,
        pause: options.every,
    };
    println!("storm: seed {}, {} processes", plan.seed, plan.processes);

    let mut interrupts = SigSet::empty();
    interrupts.add(Signal::SIGINT);
    interrupts.add(Signal::SIGTERM);
    interrupts.thread_block()?;
    let interrupted = SignalFd::with_flags(&interrupts, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let mut is_interrupted = false;
    let is_enough = || {
        is_interrupted |= matches!(interrupted.read_signal(), Ok(Some(_)));
        is_interrupted
    };
    let mut last = Duration::ZERO;
    let report = storm::run(&plan, is_enough, |report| {
        // For whoever watches for an hour.
        if report.took - last >= Duration::from_secs(60) {
            last = report.took;
            let violations = report.findings.violations.len();
            println!("  {:.0?}: {} kills, {violations} violations", report.took, report.tally.kills());
        }
    })?;
    println!("{report}");
    Ok(report.findings.violations.is_empty())
}
