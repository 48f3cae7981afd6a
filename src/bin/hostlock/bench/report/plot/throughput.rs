//! What all processes get done together, by how many they are.

use std::fmt::Write;

use super::{Figure, colour, legend, line_class};
use crate::bench::catalogue::Peer;
use crate::bench::measure::{Case, Spread};
use crate::bench::number;

const LEFT: f64 = 64.0;
const RIGHT: f64 = 620.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 260.0;
const HEIGHT: f64 = 300.0;

/// One for each group of cases that differ in the number of processes.
pub(super) fn figures(cases: &[Case]) -> Vec<Figure> {
    let mut groups: Vec<&str> = cases.iter().map(|case| case.group.as_str()).collect();
    groups.dedup();
    let of = |group: &str| {
        let cases: Vec<&Case> = cases.iter().filter(|case| case.group == group).collect();
        (cases.len() > 1).then(|| figure(group, &cases))
    };
    groups.into_iter().filter_map(of).collect()
}

fn figure(group: &str, cases: &[&Case]) -> Figure {
    let quantity = &cases[0].quantities[0];
    let spread = |case: &Case, peer: &Peer| {
        case.entry(peer.name).map(|entry| (case.processes as f64, Spread::of(entry.values[0].iter().copied())))
    };
    let lines: Vec<(&Peer, Vec<(f64, Spread)>)> = cases[0]
        .entries
        .iter()
        .map(|entry| (entry.peer, cases.iter().filter_map(|case| spread(case, entry.peer)).collect()))
        .collect();
    let most = lines.iter().flat_map(|(_, points)| points.iter().map(|point| point.1.most)).fold(0.0, f64::max);
    let (step, ticks) = steps(most);
    let (least_x, most_x) = (cases[0].processes as f64, cases[cases.len() - 1].processes as f64);
    let x = |processes: f64| LEFT + (processes / least_x).ln() / (most_x / least_x).ln() * (RIGHT - LEFT);
    let y = |value: f64| BOTTOM - value / (step * f64::from(ticks)) * (BOTTOM - TOP);
    let mut body = String::new();
    for tick in 0..=ticks {
        let value = step * f64::from(tick);
        let at = y(value);
        let _ = writeln!(
            body,
            "<path class=\"grid\" d=\"M{LEFT} {at:.1} H{RIGHT}\"/><text class=\"quiet\" text-anchor=\"end\" x=\"{}\" y=\"{:.1}\">{}</text>",
            LEFT - 8.0,
            at + 4.0,
            number::round(value)
        );
    }
    for case in cases {
        let at = x(case.processes as f64);
        let _ = writeln!(
            body,
            "<path class=\"grid\" d=\"M{at:.1} {TOP} V{BOTTOM}\"/><text class=\"quiet\" text-anchor=\"middle\" x=\"{at:.1}\" y=\"{}\">{}</text>",
            BOTTOM + 18.0,
            case.processes
        );
    }
    let _ = writeln!(
        body,
        "<text class=\"quiet\" text-anchor=\"middle\" x=\"{}\" y=\"{}\">processes</text>",
        (LEFT + RIGHT) / 2.0,
        BOTTOM + 34.0
    );
    // Ours, which is the first, above all others.
    for (peer, points) in lines.iter().rev() {
        draw(&mut body, peer, points, (&x, &y), quantity.unit);
    }
    let ends: Vec<(&Peer, f64)> =
        lines.iter().filter_map(|(peer, points)| points.last().map(|point| (*peer, y(point.1.median)))).collect();
    legend(&mut body, RIGHT + 4.0, BOTTOM, &ends);
    let title = format!("{group}: {}, {}", quantity.name, quantity.unit);
    Figure { title, height: HEIGHT, body }
}

type Axis<'a> = &'a dyn Fn(f64) -> f64;

/// A line, its points, and how far the rounds of each lie apart.
fn draw(body: &mut String, peer: &Peer, points: &[(f64, Spread)], (x, y): (Axis<'_>, Axis<'_>), unit: &str) {
    let (stroke, fill) = (colour('s', peer), colour('f', peer));
    let path: Vec<String> = points.iter().map(|point| format!("{:.1} {:.1}", x(point.0), y(point.1.median))).collect();
    let class = line_class(peer);
    let _ = writeln!(body, "<path class=\"{class}\" d=\"M{}\"/>", path.join(" L"));
    for (processes, Spread { median, least, most }) in points {
        let at = x(*processes);
        let _ = writeln!(
            body,
            "<path class=\"whisker {stroke}\" d=\"M{at:.1} {:.1} V{:.1}\"/>\
             <circle class=\"{fill}\" cx=\"{at:.1}\" cy=\"{:.1}\" r=\"3.5\"><title>{}, {processes} processes: {} {unit}</title></circle>",
            y(*least),
            y(*most),
            y(*median),
            peer.name,
            number::number(*median)
        );
    }
}

/// A round step, and how many of them reach so far.
fn steps(most: f64) -> (f64, u32) {
    let rough = (most / 5.0).max(f64::MIN_POSITIVE);
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    (step, ((most / step).ceil() as u32).max(1))
}
