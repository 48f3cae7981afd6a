//! Plots, as SVG: how they look, and what all of them have in common.

mod latency;
mod ratios;
mod throughput;

use std::fmt::Write;

use super::Report;
use crate::bench::catalogue::{OURS, PEERS, Peer};
use crate::bench::measure::Case;

/// A plot, in the units of its viewBox.
pub(super) struct Figure {
    pub(super) title: String,
    pub(super) height: f64,
    /// What is drawn below the title.
    body: String,
}

pub(super) const WIDTH: f64 = 760.0;
/// Above the drawing, for the title.
const HEAD: f64 = 34.0;

/// The colours of one theme.
struct Theme {
    paper: &'static str,
    ink: &'static str,
    quiet: &'static str,
    grid: &'static str,
    good: &'static str,
    bad: &'static str,
    /// Of the peers, in the order of the catalogue.
    peers: [&'static str; PEERS.len()],
}

const LIGHT: Theme = Theme {
    paper: "#ffffff",
    ink: "#1b1f24",
    quiet: "#667080",
    grid: "#e3e7ec",
    good: "#1a7f5a",
    bad: "#c2452d",
    peers: [
        "#0b5fd8", "#5aa2ff", "#8a6fe8", "#9aa3ad", "#b58900", "#c9a86a", "#d1493f", "#e8841a", "#c2367f", "#8c2d19",
        "#2b9348", "#6b705c", "#0f8b8d", "#5f7f1f", "#45b7b8", "#7ba05b", "#a0527a", "#667080",
    ],
};

const DARK: Theme = Theme {
    paper: "#14171b",
    ink: "#e6e9ed",
    quiet: "#98a2b0",
    grid: "#2a3038",
    good: "#4cc38a",
    bad: "#ff7b60",
    peers: [
        "#62a8ff", "#a8d0ff", "#b8a3ff", "#7d8794", "#e3bf4f", "#d9c79a", "#ff7a70", "#ffb163", "#f383bd", "#e07a5f",
        "#6fd08c", "#b0b59a", "#4fd1d3", "#b5d67a", "#8fe3e4", "#c0dba3", "#e0a3c2", "#98a2b0",
    ],
};

const SHAPES: &str = "\
svg { font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif; }
.title { font-size: 15px; font-weight: 600; } text.quiet { font-size: 12px; } .bold { font-weight: 600; }
.grid, .axis, .line { fill: none; } .grid, .axis { stroke-width: 1; }
.line { stroke-width: 1.8; stroke-linejoin: round; stroke-linecap: round; } .ours { stroke-width: 3.4; }
.whisker, .spread { stroke-width: 1.2; opacity: 0.65; }
";

/// How it looks, by light and by dark. Without variables, which not all that show pictures know.
pub(super) fn style() -> String {
    format!("{SHAPES}{}@media (prefers-color-scheme: dark) {{\n{}}}\n", rules(&LIGHT), rules(&DARK))
}

fn rules(theme: &Theme) -> String {
    let Theme { paper, ink, quiet, grid, good, bad, peers } = theme;
    let mut text = format!(
        "body {{ background: {paper}; color: {ink}; }} .lead, th {{ color: {quiet}; }} h2, th, td {{ border-color: {grid}; }}\n\
         .met {{ color: {good}; }} .missed, .warning {{ color: {bad}; }} a {{ color: {}; }}\n\
         .paper {{ fill: {paper}; }} text {{ fill: {ink}; }} text.quiet {{ fill: {quiet}; }} .grid {{ stroke: {grid}; }} .axis {{ stroke: {quiet}; }}\n\
         .spread {{ stroke: {ink}; }} rect.good {{ fill: {good}; }} rect.bad {{ fill: {bad}; }}\n",
        peers[0]
    );
    for (index, colour) in peers.iter().enumerate() {
        let _ = writeln!(text, ".s{index} {{ stroke: {colour}; }} .f{index}, text.f{index} {{ fill: {colour}; }}");
    }
    text
}

/// All that can be drawn of it, suite by suite.
pub(super) fn figures(report: &Report) -> Vec<(&'static str, Vec<Figure>)> {
    let of = |(suite, cases): &(&'static crate::bench::Suite, Vec<Case>)| {
        let mut figures = Vec::new();
        figures.extend(throughput::figures(cases));
        figures.extend(cases.iter().flat_map(|case| [ratios::figure(case), latency::figure(case)]).flatten());
        (suite.name, figures)
    };
    report.suites.iter().map(of).collect()
}

impl Figure {
    /// As a picture in a page that has the style.
    pub(super) fn svg(&self) -> String {
        let height = self.height + HEAD;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" aria-label=\"{}\">\n{}</svg>\n",
            escape(&self.title),
            self.drawn()
        )
    }

    fn drawn(&self) -> String {
        let title = escape(&self.title);
        format!(
            "<text class=\"title\" x=\"4\" y=\"19\">{title}</text>\n<g transform=\"translate(0 {HEAD:.0})\">\n{}</g>\n",
            self.body
        )
    }
}

/// All of them in one picture, one below the other.
pub(super) fn sheet(figures: &[&Figure]) -> String {
    let mut body = String::new();
    let (margin, mut top) = (20.0, 20.0);
    for figure in figures {
        let _ = writeln!(body, "<g transform=\"translate({margin:.0} {top:.0})\">\n{}</g>", figure.drawn());
        top += figure.height + HEAD + margin;
    }
    let width = WIDTH + 2.0 * margin;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {top:.0}\" width=\"{width:.0}\" height=\"{top:.0}\">\n\
         <style>\n{}</style>\n<rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n{body}</svg>\n",
        style()
    )
}

/// Text as it stands in a page.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The class of its colour: `s` and the number for lines, `f` and the number for what is filled.
fn colour(kind: char, peer: &Peer) -> String {
    let index = PEERS.iter().position(|other| other.name == peer.name).unwrap_or(0);
    format!("{kind}{index}")
}

/// The classes of a line.
fn line_class(peer: &Peer) -> String {
    format!("line {}{}", colour('s', peer), if peer.name == OURS { " ours" } else { "" })
}

/// Where a value lies between two ends, of which the logarithm is linear.
#[derive(Clone, Copy)]
struct Logarithmic {
    least: f64,
    most: f64,
}

impl Logarithmic {
    /// Whole powers of ten around the values.
    fn around(values: impl Iterator<Item = f64>) -> Option<Self> {
        let positive: Vec<f64> = values.filter(|value| value.is_finite() && *value > 0.0).collect();
        let least = positive.iter().copied().reduce(f64::min)?.log10().floor();
        let most = positive.iter().copied().reduce(f64::max)?.log10().ceil();
        Some(Self { least: 10_f64.powf(least), most: 10_f64.powf(most.max(least + 1.0)) })
    }

    fn share(self, value: f64) -> f64 {
        ((value.max(self.least) / self.least).log10() / (self.most / self.least).log10()).clamp(0.0, 1.0)
    }

    fn powers(self) -> impl Iterator<Item = f64> {
        let (from, to) = (self.least.log10().round() as i32, self.most.log10().round() as i32);
        (from..=to).map(|power| 10_f64.powi(power))
    }
}

/// What each line is, at the right: the heights are kept apart.
fn legend(out: &mut String, x: f64, bottom: f64, lines: &[(&Peer, f64)]) {
    const APART: f64 = 16.0;
    let mut lines: Vec<(&Peer, f64)> = lines.to_vec();
    lines.sort_by(|one, other| one.1.total_cmp(&other.1));
    let mut at: Vec<f64> = Vec::new();
    for (_, y) in &lines {
        at.push(at.last().map_or(*y, |above| y.max(above + APART)));
    }
    // Those that were pushed out are pushed back.
    let mut below = bottom;
    for y in at.iter_mut().rev() {
        *y = y.min(below);
        below = *y - APART;
    }
    for ((peer, y), at) in lines.iter().zip(at) {
        let bold = if peer.name == OURS { " bold" } else { "" };
        let _ = writeln!(
            out,
            "<path class=\"axis {}\" d=\"M{x:.1} {y:.1} L{:.1} {at:.1}\"/>\
             <text class=\"{}{bold}\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            colour('s', peer),
            x + 14.0,
            colour('f', peer),
            x + 18.0,
            at + 4.0,
            peer.name
        );
    }
}
