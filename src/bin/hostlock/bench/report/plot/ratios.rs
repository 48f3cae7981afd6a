//! How much better hostlock is than each peer, or worse.

use std::fmt::Write;

use super::{Figure, Logarithmic, escape};
use crate::bench::catalogue::OURS;
use crate::bench::measure::{Case, Spread};
use crate::bench::number;

const LEFT: f64 = 130.0;
const RIGHT: f64 = 590.0;
const TOP: f64 = 4.0;
const ROW: f64 = 24.0;

pub(super) fn figure(case: &Case) -> Option<Figure> {
    let quantity = case.quantities.first()?;
    let rows: Vec<(&str, Spread)> = case
        .entries
        .iter()
        .filter(|entry| entry.peer.name != OURS)
        .filter_map(|entry| case.ratio(entry, 0).map(|ratio| (entry.peer.name, ratio)))
        .collect();
    // To the right is better, whichever way the quantity goes.
    let better = |ratio: f64| if quantity.more_is_better { ratio } else { 1.0 / ratio };
    let ends = rows.iter().flat_map(|(_, ratio)| [better(ratio.least), better(ratio.most)]);
    let scale = Logarithmic::around(ends.chain([0.5, 2.0]))?;
    let (bottom, x) = (TOP + ROW * rows.len() as f64, |value: f64| LEFT + scale.share(value) * (RIGHT - LEFT));
    if rows.is_empty() {
        return None;
    }
    let mut body = String::new();
    for power in scale.powers() {
        let at = x(power);
        let class = if power == 1.0 { "axis" } else { "grid" };
        let _ = writeln!(
            body,
            "<path class=\"{class}\" d=\"M{at:.1} {TOP} V{bottom:.1}\"/>\
             <text class=\"quiet\" text-anchor=\"middle\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>",
            bottom + 18.0,
            times(power)
        );
    }
    for (index, (name, ratio)) in rows.iter().enumerate() {
        let middle = TOP + ROW * (index as f64 + 0.5);
        let (from, to) = (x(1.0), x(better(ratio.median)));
        let class = if better(ratio.median) >= 1.0 { "good" } else { "bad" };
        let _ = writeln!(
            body,
            "<text text-anchor=\"end\" x=\"{}\" y=\"{:.1}\">{}</text>\
             <rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"14\" rx=\"2\"/>\
             <path class=\"spread\" d=\"M{:.1} {middle:.1} H{:.1}\"/>\
             <text class=\"quiet\" x=\"{}\" y=\"{:.1}\">{}</text>",
            LEFT - 10.0,
            middle + 4.0,
            escape(name),
            from.min(to),
            middle - 7.0,
            (to - from).abs().max(1.0),
            x(better(ratio.least)),
            x(better(ratio.most)),
            RIGHT + 14.0,
            middle + 4.0,
            number::spread(*ratio)
        );
    }
    let _ = writeln!(
        body,
        "<text class=\"quiet\" text-anchor=\"middle\" x=\"{}\" y=\"{:.1}\">so many times better than the peer</text>\
         <text class=\"quiet\" x=\"{}\" y=\"{:.1}\">hostlock / it</text>",
        (LEFT + RIGHT) / 2.0,
        bottom + 34.0,
        RIGHT + 14.0,
        bottom + 34.0
    );
    let unit = if quantity.unit.is_empty() { String::new() } else { format!(", {}", quantity.unit) };
    Some(Figure { title: format!("{}: {}{unit}", case.name, quantity.name), height: bottom + 42.0, body })
}

/// 1/10, 1, 10.
fn times(power: f64) -> String {
    if power < 1.0 { format!("1/{}", number::round(1.0 / power)) } else { number::round(power) }
}
