//! How long single waits took, by the share of them that took no longer: with each step to the right, a tenth as many take longer.

use std::fmt::Write;

use hdrhistogram::Histogram;

use super::{Figure, Logarithmic, legend, line_class};
use crate::bench::catalogue::Peer;
use crate::bench::measure::Case;
use crate::bench::number;

const LEFT: f64 = 64.0;
const RIGHT: f64 = 620.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 290.0;
const HEIGHT: f64 = 330.0;

/// Steps for each power of ten of the share.
const FINE: u32 = 20;

pub(super) fn figure(case: &Case) -> Option<Figure> {
    let lines: Vec<(&Peer, Vec<(f64, f64)>)> = case
        .entries
        .iter()
        .filter_map(|entry| {
            entry.times.as_ref().filter(|times| !times.is_empty()).map(|times| (entry.peer, points(times)))
        })
        .collect();
    let scale = Logarithmic::around(lines.iter().flat_map(|(_, points)| points.iter().map(|point| point.1)))?;
    let steps = lines.iter().flat_map(|(_, points)| points.iter().map(|point| point.0)).fold(1.0, f64::max).ceil();
    let x = |step: f64| LEFT + step / steps * (RIGHT - LEFT);
    let y = |nanos: f64| BOTTOM - scale.share(nanos) * (BOTTOM - TOP);
    let mut body = String::new();
    for nanos in scale.powers() {
        let at = y(nanos);
        let _ = writeln!(
            body,
            "<path class=\"grid\" d=\"M{LEFT} {at:.1} H{RIGHT}\"/><text class=\"quiet\" text-anchor=\"end\" x=\"{}\" y=\"{:.1}\">{}</text>",
            LEFT - 8.0,
            at + 4.0,
            time(nanos)
        );
    }
    for step in 0..=steps as u32 {
        let at = x(step.into());
        let _ = writeln!(
            body,
            "<path class=\"grid\" d=\"M{at:.1} {TOP} V{BOTTOM}\"/><text class=\"quiet\" text-anchor=\"middle\" x=\"{at:.1}\" y=\"{}\">{}</text>",
            BOTTOM + 18.0,
            percentile(step)
        );
    }
    let _ = writeln!(
        body,
        "<text class=\"quiet\" text-anchor=\"middle\" x=\"{}\" y=\"{}\">so many percent took no longer</text>",
        (LEFT + RIGHT) / 2.0,
        BOTTOM + 36.0
    );
    // Ours, which is the first, above all others.
    for (peer, points) in lines.iter().rev() {
        let path: Vec<String> =
            points.iter().map(|(step, nanos)| format!("{:.1} {:.1}", x(*step), y(*nanos))).collect();
        let last = points.last().map_or(0.0, |point| point.1);
        let _ = writeln!(
            body,
            "<path class=\"{}\" d=\"M{}\"><title>{}: at most {}</title></path>",
            line_class(peer),
            path.join(" L"),
            peer.name,
            time(last)
        );
    }
    let ends: Vec<(&Peer, f64)> =
        lines.iter().filter_map(|(peer, points)| points.last().map(|point| (*peer, y(point.1)))).collect();
    legend(&mut body, RIGHT + 4.0, BOTTOM, &ends);
    Some(Figure { title: format!("{}: how long it took", case.name), height: HEIGHT, body })
}

/// Each as the power of ten that so few are of all, and nanoseconds.
fn points(times: &Histogram<u64>) -> Vec<(f64, f64)> {
    let most = (times.len() as f64).log10();
    let steps = (most * f64::from(FINE)).ceil() as u32;
    let point = |step: f64| (step, times.value_at_quantile(1.0 - 10_f64.powf(-step)).max(1) as f64);
    let mut points: Vec<(f64, f64)> = (0..steps).map(|step| point(f64::from(step) / f64::from(FINE))).collect();
    points.push((most, times.max().max(1) as f64));
    points
}

fn percentile(step: u32) -> String {
    match step {
        0 => "0".into(),
        1 => "90".into(),
        2 => "99".into(),
        more => format!("99.{}", "9".repeat(more as usize - 2)),
    }
}

fn time(nanos: f64) -> String {
    let (value, unit) = match nanos {
        _ if nanos < 1e3 => (nanos, "ns"),
        _ if nanos < 1e6 => (nanos / 1e3, "µs"),
        _ if nanos < 1e9 => (nanos / 1e6, "ms"),
        _ => (nanos / 1e9, "s"),
    };
    format!("{} {unit}", number::round(value))
}
