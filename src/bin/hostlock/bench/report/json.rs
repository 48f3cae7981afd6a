//! For programs.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::Report;
use crate::bench::goals::Goal;
use crate::bench::machine::Machine;
use crate::bench::measure::{Case, Entry, Spread};
use crate::exit::{Code, Failure};

#[derive(Serialize)]
struct ReportJson<'a> {
    hostlock: &'static str,
    started: String,
    rounds: usize,
    seconds: f64,
    machine: &'a Machine,
    warnings: Vec<String>,
    suites: Vec<SuiteJson<'a>>,
}

#[derive(Serialize)]
struct SuiteJson<'a> {
    name: &'static str,
    about: &'static str,
    cases: Vec<CaseJson<'a>>,
    goals: Vec<Goal>,
}

#[derive(Serialize)]
struct CaseJson<'a> {
    name: &'a str,
    group: &'a str,
    processes: usize,
    peers: Vec<PeerJson>,
    absent: Vec<AbsentJson<'a>>,
}

#[derive(Serialize)]
struct AbsentJson<'a> {
    name: &'static str,
    why: &'a str,
}

#[derive(Serialize)]
struct PeerJson {
    name: &'static str,
    for_processes: bool,
    checked: u64,
    quantities: Vec<QuantityJson>,
    times: Option<TimesJson>,
}

#[derive(Serialize)]
struct QuantityJson {
    name: &'static str,
    unit: &'static str,
    more_is_better: bool,
    median: f64,
    least: f64,
    most: f64,
    rounds: Vec<f64>,
    ratio: Option<RatioJson>,
}

#[derive(Serialize)]
struct RatioJson {
    median: f64,
    least: f64,
    most: f64,
}

#[derive(Serialize)]
struct TimesJson {
    count: u64,
    /// Nanoseconds, by the share of times that took no longer, in percent.
    percentiles: Vec<(f64, u64)>,
}

const PERCENTILES: [f64; 9] = [0.0, 25.0, 50.0, 75.0, 90.0, 99.0, 99.9, 99.99, 100.0];

fn times(times: &Histogram<u64>) -> TimesJson {
    let percentiles = PERCENTILES.iter().map(|&percent| (percent, times.value_at_quantile(percent / 100.0)));
    TimesJson { count: times.len(), percentiles: percentiles.collect() }
}

fn peer(case: &Case, entry: &Entry) -> PeerJson {
    let quantity = |(index, values): (usize, &Vec<f64>)| {
        let of = &case.quantities[index];
        let Spread { median, least, most } = Spread::of(values.iter().copied());
        let ratio = case.ratio(entry, index).map(|Spread { median, least, most }| RatioJson { median, least, most });
        QuantityJson {
            name: of.name,
            unit: of.unit,
            more_is_better: of.more_is_better,
            median,
            least,
            most,
            rounds: values.clone(),
            ratio,
        }
    };
    PeerJson {
        name: entry.peer.name,
        for_processes: entry.peer.for_processes,
        checked: entry.checked,
        quantities: entry.values.iter().enumerate().map(quantity).collect(),
        times: entry.times.as_ref().map(times),
    }
}

fn case(case: &Case) -> CaseJson<'_> {
    CaseJson {
        name: &case.name,
        group: &case.group,
        processes: case.processes,
        peers: case.entries.iter().map(|entry| peer(case, entry)).collect(),
        absent: case.absent.iter().map(|(peer, why)| AbsentJson { name: peer.name, why }).collect(),
    }
}

pub(crate) fn json(report: &Report) -> Result<String, Failure> {
    let suites = report.suites.iter().zip(report.goals()).map(|((suite, cases), (_, goals))| SuiteJson {
        name: suite.name,
        about: suite.about,
        cases: cases.iter().map(case).collect(),
        goals,
    });
    let all = ReportJson {
        hostlock: env!("CARGO_PKG_VERSION"),
        started: humantime::format_rfc3339_seconds(report.started).to_string(),
        rounds: report.rounds,
        seconds: report.time.as_secs_f64(),
        machine: &report.machine,
        warnings: report.machine.warnings(),
        suites: suites.collect(),
    };
    let text = serde_json::to_string_pretty(&all)
        .map_err(|e| Failure::new(Code::Output, format_args!("cannot write JSON: {e}")))?;
    Ok(text + "\n")
}
