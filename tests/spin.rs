//! The protocols of `src/protocol` as models for spin, which goes through every interleaving: nobody is beside an owner, tokens grow, and
//! *everybody who lives gets what it waits for*, which no model of loom's shows of loops without end.
//!
//! `tests/spin/*.pml` say what they leave out. Needs spin and a C compiler; says so where they are missing. The quick form is a minute of processor
//! time; `HOSTLOCK_SPIN=all` has more turns and other
//! victims, and takes up to 8 GB.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

mod support;

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    /// Nobody dies, and a sleep ends by a wake only: broken assertions, and ends with somebody asleep.
    Untimed,
    /// One may be killed, sleeps end by themselves: broken assertions, and runs in which somebody who lives waits for ever although everybody is
    /// given its turn (weak fairness).
    Crash,
}

/// One run of one model.
#[derive(Clone, Copy, Debug)]
struct Run {
    model: &'static str,
    search: Search,
    /// A digit for each process.
    turns: u32,
    /// More definitions for the model.
    with: &'static [&'static str],
}

/// What came of it.
struct Found {
    /// What spin says is wrong; empty if nothing is.
    wrong: String,
    states: u64,
    report: String,
}

impl Run {
    const fn new(model: &'static str, search: Search, turns: u32, with: &'static [&'static str]) -> Self {
        Self { model, search, turns, with }
    }

    /// Generates the verifier in a directory of its own, compiles it, and lets it search to the end.
    ///
    /// A short search (for a bug) is over sooner than a compiler that optimizes.
    fn search(self, optimize: &str) -> Found {
        let directory = TempDir::new().expect("a temporary directory");
        for part in ["common.pml", "bell.pml", &format!("{}.pml", self.model)] {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/spin").join(part);
            fs::copy(from, directory.path().join(part)).expect("a part of the model");
        }
        let is_crash = self.search == Search::Crash;
        let mut generate = Command::new("spin");
        generate.arg("-a").arg(format!("-DTURNS={}", self.turns));
        generate.args(is_crash.then_some("-DCRASH")).args(self.with.iter().map(|with| format!("-D{with}")));
        succeed(generate.arg(format!("{}.pml", self.model)).current_dir(&directory));
        let mut compile = Command::new("cc");
        compile.args([optimize, "-w", "-DCOLLAPSE", "-DMEMLIM=8192", if is_crash { "-DNFAIR=3" } else { "-DSAFETY" }]);
        succeed(compile.args(["-o", "pan", "pan.c"]).current_dir(&directory));
        let mut pan = Command::new(directory.path().join("pan"));
        pan.arg("-m1000000").args(is_crash.then_some(["-a", "-f", "-E"]).into_iter().flatten());
        let report = succeed(pan.current_dir(&directory));
        Found::read(report)
    }
}

impl Found {
    fn read(report: String) -> Self {
        let wrong = report.lines().find_map(|line| line.strip_prefix("pan:1: ")).unwrap_or_default().into();
        let states = report.lines().find_map(|line| line.trim().split_once(" states, stored")?.0.parse().ok());
        let states = states.unwrap_or_else(|| panic!("no states in {report}"));
        Self { wrong, states, report }
    }

    /// Nothing is wrong, and nothing was left out.
    fn is_complete(&self) -> bool {
        let cut_short = ["Search not completed", "max search depth too small", "out of memory"];
        self.report.contains("errors: 0")
            && self.wrong.is_empty()
            && !cut_short.iter().any(|cut| self.report.contains(cut))
    }
}

/// What it says; panics if it fails.
fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("a program that was found");
    let said = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{said}");
    said
}

fn tools() -> Result<(), String> {
    for (tool, version) in [("spin", "-V"), ("cc", "--version")] {
        Command::new(tool).arg(version).output().map_err(|error| format!("{tool}: {error}"))?;
    }
    Ok(())
}

fn is_long() -> bool {
    std::env::var_os("HOSTLOCK_SPIN").is_some_and(|form| form == "all")
}

/// Each run, of which as many states are stored as at least stands beside it: a model that was cut short by mistake shows nothing.
fn nothing_is_wrong(runs: &[(Run, u64)]) {
    for (run, least) in runs {
        let found = run.search("-O2");
        eprintln!("{run:?}: {} states", found.states);
        assert!(found.is_complete(), "{run:?}: {}\n{}", found.wrong, found.report);
        assert!(found.states >= *least, "{run:?}: only {} states", found.states);
    }
}

/// What each bug shows as, in so many words of spin's.
fn bugs_are_caught(bugs: &[(Run, &str)]) {
    for (run, shows) in bugs {
        let found = run.search("-O0");
        eprintln!("{run:?}: {}, after {} states", found.wrong, found.states);
        assert!(
            found.wrong.contains(shows),
            "{run:?} was to be caught as \"{shows}\": {:?}\n{}",
            found.wrong,
            found.report
        );
    }
}

use Search::{Crash, Untimed};

const ASLEEP: &str = "invalid end state";
const BROKEN: &str = "assertion violated";
const FOR_EVER: &str = "acceptance cycle";

#[test]
fn whoever_waits_for_a_mutex_gets_it() {
    or_skip!(tools());
    nothing_is_wrong(&[
        (Run::new("mutex", Untimed, 111, &[]), 1_000_000),
        (Run::new("mutex", Crash, 110, &[]), 50_000),
        (Run::new("mutex", Crash, 101, &[]), 50_000),
    ]);
    if is_long() {
        nothing_is_wrong(&[
            (Run::new("mutex", Untimed, 211, &[]), 5_000_000),
            (Run::new("mutex", Crash, 111, &[]), 5_000_000),
            (Run::new("mutex", Crash, 111, &["VICTIM=3"]), 5_000_000),
        ]);
    }
}

#[test]
fn whoever_waits_for_a_read_write_lock_gets_it() {
    or_skip!(tools());
    nothing_is_wrong(&[
        (Run::new("rwlock", Untimed, 211, &[]), 500_000),
        (Run::new("rwlock", Crash, 110, &[]), 50_000),
        (Run::new("rwlock", Crash, 110, &["VICTIM=2"]), 50_000),
    ]);
    if is_long() {
        nothing_is_wrong(&[
            (Run::new("rwlock", Untimed, 221, &[]), 1_000_000),
            (Run::new("rwlock", Crash, 111, &[]), 3_000_000),
            (Run::new("rwlock", Crash, 210, &["VICTIM=2"]), 400_000),
        ]);
    }
}

#[test]
fn whoever_waits_for_a_permit_gets_it() {
    or_skip!(tools());
    nothing_is_wrong(&[
        (Run::new("semaphore", Untimed, 111, &[]), 2_000_000),
        (Run::new("semaphore", Untimed, 201, &["PATIENT"]), 100_000),
        (Run::new("semaphore", Crash, 101, &[]), 20_000),
    ]);
    if is_long() {
        nothing_is_wrong(&[
            (Run::new("semaphore", Untimed, 211, &[]), 10_000_000),
            (Run::new("semaphore", Crash, 111, &[]), 1_000_000),
            (Run::new("semaphore", Crash, 101, &["VICTIM=3"]), 500_000),
        ]);
    }
}

#[test]
fn bugs_of_the_mutex_are_caught() {
    or_skip!(tools());
    bugs_are_caught(&[
        (Run::new("mutex", Untimed, 111, &["BUG_RESERVED_AGAIN"]), ASLEEP),
        (Run::new("mutex", Untimed, 111, &["BUG_RESERVATION_IS_LEFT"]), ASLEEP),
        (Run::new("mutex", Untimed, 111, &["BUG_COUNT_IS_CLEARED"]), ASLEEP),
        (Run::new("mutex", Untimed, 110, &["BUG_COUNT_BEFORE_THE_WORD_IS_FREE"]), ASLEEP),
        (Run::new("mutex", Untimed, 111, &["BUG_WOKEN_IS_KEPT"]), ASLEEP),
        (Run::new("mutex", Untimed, 110, &["BUG_TAKEN_WITHOUT_PROOF"]), BROKEN),
        (Run::new("mutex", Crash, 110, &["BUG_NOBODY_IS_JUDGED"]), FOR_EVER),
        // Nobody wakes those behind a sleeper that was woken and killed: why every sleep is bounded.
        (Run::new("mutex", Crash, 111, &["UNBOUNDED"]), FOR_EVER),
    ]);
}

#[test]
fn bugs_of_the_read_write_lock_are_caught() {
    or_skip!(tools());
    bugs_are_caught(&[
        (Run::new("rwlock", Untimed, 110, &["BUG_READER_LOOKS_FIRST"]), BROKEN),
        (Run::new("rwlock", Untimed, 210, &["BUG_COUNTED_AFTER_THE_GATE"]), BROKEN),
        (Run::new("rwlock", Untimed, 110, &["BUG_LEAVE_WITHOUT_RING"]), ASLEEP),
        (Run::new("rwlock", Untimed, 110, &["BUG_RING_FIRST"]), ASLEEP),
        (Run::new("rwlock", Untimed, 110, &["BUG_RING_WITHOUT_A_NUMBER"]), ASLEEP),
        (Run::new("rwlock", Untimed, 110, &["BUG_NO_LOOK_AFTER_COUNTING"]), ASLEEP),
        (Run::new("rwlock", Untimed, 110, &["BUG_UPGRADE_QUEUES"]), ASLEEP),
        (Run::new("rwlock", Crash, 110, &["BUG_NOBODY_IS_JUDGED"]), FOR_EVER),
    ]);
}

#[test]
fn bugs_of_the_semaphore_are_caught() {
    or_skip!(tools());
    bugs_are_caught(&[
        (Run::new("semaphore", Untimed, 101, &["BUG_FREED_WITHOUT_RING"]), ASLEEP),
        (Run::new("semaphore", Untimed, 101, &["BUG_RING_FIRST", "PATIENT"]), ASLEEP),
        (Run::new("semaphore", Untimed, 101, &["BUG_RING_WITHOUT_A_NUMBER"]), ASLEEP),
        (Run::new("semaphore", Untimed, 101, &["BUG_NO_LOOK_AFTER_COUNTING"]), ASLEEP),
        (Run::new("semaphore", Untimed, 110, &["BUG_GATE_IS_NOT_LOOKED_AT"]), BROKEN),
        (Run::new("semaphore", Crash, 101, &["BUG_NOBODY_IS_JUDGED"]), FOR_EVER),
    ]);
}
