//! For people, at a terminal of 100 columns.

use super::{Report, number};
use crate::bench::catalogue::OURS;
use crate::bench::measure::{Case, Entry, Spread};

/// Between two columns.
const GAP: &str = "  ";

pub(crate) fn table(report: &Report) -> String {
    let machine = &report.machine;
    let [one, five, fifteen] = machine.load;
    let mut text = format!(
        "hostlock {}, {}, {} cores, {}\nload average {one:.2}, {five:.2}, {fifteen:.2}; {}\n",
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
            text += &format!("\n{}\n{}", case.name, columns(&rows(case)));
            for (peer, why) in &case.absent {
                text += &format!("  {}: not measured: {why}\n", peer.name);
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

/// The head, and a line for each peer: ratios first.
fn rows(case: &Case) -> Vec<Vec<String>> {
    let others = case.entries.iter().any(|entry| entry.peer.name != OURS);
    let mut head = vec![String::new()];
    if others {
        head.push("hostlock / it".into());
    }
    head.extend(case.quantities.iter().map(|quantity| match quantity.unit {
        "" => quantity.name.into(),
        unit => format!("{}, {unit}", quantity.name),
    }));
    let row = |entry: &Entry| {
        let mut row = vec![entry.peer.name.to_string()];
        if others {
            let ratio = case.ratio(entry, 0).filter(|_| entry.peer.name != OURS);
            row.push(ratio.map_or(String::new(), number::spread));
        }
        row.extend(entry.values.iter().enumerate().map(|(index, values)| {
            let spread = Spread::of(values.iter().copied());
            // There is room for that of the first.
            if index == 0 { number::spread(spread) } else { number::number(spread.median) }
        }));
        row
    };
    std::iter::once(head).chain(case.entries.iter().map(row)).collect()
}

/// Lines of aligned cells: the first of them to the left, the others to the right. Heads of numbers are broken where that saves room.
fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..count).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(index, (cell, &width))| match index {
            0 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        format!("  {}\n", cells.collect::<Vec<_>>().join(GAP).trim_end())
    };
    rows.iter().map(line).collect()
}
