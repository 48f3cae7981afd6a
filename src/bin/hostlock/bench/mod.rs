//! `hostlock bench`: what locks cost on this machine, hostlock's beside others.
//!
//! [`suites`] is what can be measured, [`catalogue`] beside what; [`peers`] are the locks, [`ground`] what they lie on, [`arena`] processes that run against
//! each other ([`turns`]: what they do), [`death`] of one that is killed. [`measure`] takes turns, [`goals`] says what is to come of it, [`report`] how it is shown. [`keeper`] cleans up.
//!
//! The benchmarks in `benches/` use the same locks and the same arena.

#[allow(unsafe_code)]
mod arena;
mod args;
mod catalogue;
#[allow(unsafe_code)]
mod children;
mod death;
mod goals;
#[allow(unsafe_code)]
mod ground;
mod keeper;
mod machine;
mod measure;
mod number;
#[allow(unsafe_code)]
mod peers;
mod processors;
mod report;
mod suites;
#[cfg(test)]
#[allow(unsafe_code)]
mod tests;
mod turns;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use catalogue::Peer;
use ground::Ground;
use keeper::Kept;
use machine::Machine;
use report::Report;
use suites::Suite;

pub(crate) use args::{BenchArgs, MANUAL};

use crate::exit::{Code, Failure};
use crate::output;

/// What is to be done.
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    /// For each measurement.
    pub(crate) time: Duration,
    pub(crate) processes: Vec<usize>,
    peers: Option<Vec<&'static str>>,
    suites: Vec<&'static Suite>,
    form: Form,
}

/// How it is shown.
pub(crate) enum Form {
    Table,
    Json,
    Html(PathBuf),
    Svg(PathBuf),
}

impl Plan {
    pub(crate) fn wants(&self, peer: &Peer) -> bool {
        self.peers.as_ref().is_none_or(|names| names.contains(&peer.name))
    }
}

/// What a suite needs.
pub(crate) struct Bench<'k> {
    pub(crate) plan: Plan,
    pub(crate) ground: Ground<'k>,
    pub(crate) progress: Progress,
}

/// Says on a terminal what is being measured.
pub(crate) struct Progress {
    is_seen: bool,
}

impl Progress {
    pub(crate) fn show(&self, text: &str) {
        if self.is_seen {
            // Where nobody reads it, nothing can be done about it. The line before is overwritten.
            let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
        }
    }
}

pub(crate) fn bench(args: &BenchArgs) -> Result<u8, Failure> {
    let plan = args.plan()?;
    if args.list {
        return output::print(&args::list()).map(|()| 0);
    }
    if let Form::Html(file) | Form::Svg(file) = &plan.form {
        may_be_written(file)?;
    }
    let machine = Machine::look();
    let many = plan.suites.iter().any(|suite| suite.name == "held").then_some(suites::HELD_AT_ONCE);
    keeper::keep(many.unwrap_or(1), |kept| match measure(plan, machine, kept) {
        Ok(()) => 0,
        Err(failure) => {
            output::complain(&failure.message);
            failure.code
        }
    })
}

/// Better now than after some minutes.
fn may_be_written(file: &Path) -> Result<(), Failure> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let place = if file.exists() { file } else { parent };
    let why = match nix::unistd::access(place, nix::unistd::AccessFlags::W_OK) {
        Err(errno) => errno.desc().to_lowercase(),
        Ok(()) if file.is_dir() => "it is a directory".into(),
        Ok(()) => return Ok(()),
    };
    Err(Failure::new(Code::Output, format_args!("cannot write {}: {why}", file.display())))
}

fn measure(plan: Plan, machine: Machine, kept: &Kept) -> Result<(), Failure> {
    let started = SystemTime::now();
    let ground = Ground::new(kept)?;
    let bench = Bench { plan, ground, progress: Progress { is_seen: std::io::stderr().is_terminal() } };
    let suites: Result<Vec<_>, Failure> =
        bench.plan.suites.iter().map(|suite| (suite.run)(&bench).map(|cases| (*suite, cases))).collect();
    bench.progress.show("");
    let report = Report { machine, started, rounds: bench.plan.rounds, time: bench.plan.time, suites: suites? };
    match &bench.plan.form {
        Form::Json => output::print(&report::json(&report)?),
        Form::Table => output::print(&report::table(&report)),
        Form::Html(file) => write(file, &report::html(&report)).and_then(|()| output::print(&report::table(&report))),
        Form::Svg(file) => write(file, &report::svg(&report)).and_then(|()| output::print(&report::table(&report))),
    }
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text).map_err(|e| {
        Failure::new(Code::Output, format_args!("cannot write {}: {}", file.display(), output::reason(&e)))
    })
}
