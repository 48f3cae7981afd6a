//! The storm of `examples/storm.rs` for some seconds: everything at once, with every fault there is.
//!
//! For longer: `cargo run --release --example storm -- --for 1h`.

// It brings its own of what it shares with `support`.
#[allow(clippy::duplicate_mod)]
#[path = "../examples/storm/mod.rs"]
mod storm;
#[allow(clippy::duplicate_mod)]
mod support;

use std::time::Duration;

use support::chance::now;
use support::{act, say, start};

#[test]
fn role() {
    act(&[("storm", weather)]);
}

fn weather(arguments: &[String]) {
    let plan = storm::Plan {
        seed: arguments[0].parse().unwrap(),
        processes: 8,
        time: Duration::from_secs(10),
        round: Duration::from_secs(2),
        kills: None,
        pause: None,
    };
    let report = storm::run(&plan, || false, |_| ()).expect("a storm");
    for line in report.to_string().lines() {
        say(line);
    }
    // What it has to have seen, or it shows nothing; and all of it without anything that should not be.
    let tally = &report.tally;
    let is_wild = tally.hit_holders > 20 && tally.stops > 0 && tally.deeds.iter().sum::<u64>() > 0;
    let found = &report.findings;
    let is_taken_over = found.takeovers > 20 && found.leases_taken > 0 && found.most_permits == 3;
    say(if is_wild && is_taken_over && found.violations.is_empty() { "all well" } else { "not so" });
}

#[test]
fn nothing_gives_whatever_is_done_to_whoever_holds_something() {
    let seed = std::env::var("HOSTLOCK_STORM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(now);
    println!("seed {seed}");
    let actor = start("storm", &[&seed.to_string()]);
    loop {
        // A stuck calm is found out by itself, before this patience ends.
        match actor.hear_within(Duration::from_secs(100)).expect("it ends").as_str() {
            "all well" => break,
            "not so" => panic!("see above"),
            line => println!("{line}"),
        }
    }
}
