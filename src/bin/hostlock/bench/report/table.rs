//! For people, at a terminal of 100 columns.

use super::Report;
use crate::bench::catalogue::OURS;
use crate::bench::measure::{Case, Entry, Spread};
use crate::bench::number;

/// Between two columns.
const GAP: &str = "  ";

/// The most columns that a line takes.
const WIDTH: usize = 100;

pub(crate) fn table(report: &Report) -> String {
    let machine = &report.machine;
    let [one, five, fifteen] = machine.load;
    let mut text = format!(
        "hostlock {}, {}, {} cores, {}; load average {one:.2}, {five:.2}, {fifteen:.2}\n{}\n",
        env!("CARGO_PKG_VERSION"),
        machine.processor,
        machine.cores,
        machine.kernel,
        report.manner()
    );
    for warning in machine.warnings() {
        text += &format!("WARNING: {warning}\n");
    }
    for ((suite, cases), (_, goals)) in report.suites.iter().zip(report.goals()) {
        text += &format!("\n== {}\n", suite.name);
        for case in cases {
            text += &format!("\n{}\n{}", case.name, fitting(case));
            for (peer, why) in &case.absent {
                text += &format!("{}: not measured: {why}\n", peer.name);
            }
        }
        if !goals.is_empty() {
            text += "\ngoals\n";
            let rows = goals.iter().map(|goal| {
                let (what, value) = number::goal(goal);
                vec![what, value, if goal.met { "met" } else { "NOT MET" }.to_string()]
            });
            text += &columns(&rows.collect::<Vec<_>>());
        }
    }
    text
}

/// The head, and a line for each peer: ratios first. `spreads`: also how far the figures of the rounds lie apart.
pub(super) fn rows(case: &Case, spreads: bool) -> Vec<Vec<String>> {
    let others = case.entries.iter().any(|entry| entry.peer.name != OURS);
    let head = |line: usize| {
        let ratio = others.then_some(["hostlock", "/ it"][line]);
        let quantities = case.quantities.iter().map(|quantity| quantity.head[line]);
        [""].into_iter().chain(ratio).chain(quantities).map(String::from).collect::<Vec<_>>()
    };
    let row = |entry: &Entry| {
        let ratio = case.ratio(entry, 0).filter(|_| entry.peer.name != OURS).map_or(String::new(), number::spread);
        let values = entry.values.iter().enumerate().map(|(index, values)| {
            let spread = Spread::of(values.iter().copied());
            // There is room for that of the first at most.
            if index == 0 && spreads { number::spread(spread) } else { number::number(spread.median) }
        });
        let name = entry.peer.name.to_string();
        [name].into_iter().chain(others.then_some(ratio)).chain(values).collect()
    };
    [head(0), head(1)]
        .into_iter()
        .filter(|head| head.iter().any(|cell| !cell.is_empty()))
        .chain(case.entries.iter().map(row))
        .collect()
}

/// With as much as there is room for.
fn fitting(case: &Case) -> String {
    let full = columns(&rows(case, true));
    match full.lines().all(|line| line.chars().count() <= WIDTH) {
        true => full,
        false => columns(&rows(case, false)),
    }
}

/// Lines of aligned cells: the first of them to the left, the others to the right.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(index, (cell, &width))| match index {
            0 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        format!("{}\n", cells.collect::<Vec<_>>().join(GAP).trim_end())
    };
    rows.iter().map(line).collect()
}
