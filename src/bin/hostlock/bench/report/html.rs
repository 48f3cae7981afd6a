//! For people, in a browser: one page that needs nothing beside itself, or the plots alone.

use std::fmt::Write;

use super::plot::{Figure, escape, figures, sheet, style};
use super::{Report, table};
use crate::bench::catalogue::OURS;
use crate::bench::goals::Goal;
use crate::bench::measure::Case;
use crate::bench::number;

const LAYOUT: &str = "\
:root { color-scheme: light dark; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 0.25rem; } h2 { font-size: 1.25rem; margin: 3rem 0 0; padding-top: 1rem; border-top: 1px solid; }
h3 { font-size: 1rem; margin: 2rem 0 0.25rem; } p { margin: 0.25rem 0; } .warning { font-weight: 600; } nav { margin: 1rem 0 0; } nav a { margin-right: 1rem; }
figure { margin: 1.5rem 0; } svg { display: block; width: 100%; max-width: 760px; height: auto; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; margin: 0.5rem 0; }
th, td { padding: 0.2rem 0.75rem; text-align: right; white-space: nowrap; border-bottom: 1px solid; } th { font-weight: 500; }
th:first-child, td:first-child { text-align: left; padding-left: 0; } tr.ours td { font-weight: 600; }
";

pub(crate) fn html(report: &Report) -> String {
    let machine = &report.machine;
    let [one, five, fifteen] = machine.load;
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>hostlock bench: {}</title>\n\
         <style>\n{LAYOUT}{}</style>\n</head>\n<body>\n<h1>hostlock bench</h1>\n\
         <p>hostlock {}, {}, {} cores, {}; {}</p>\n<p class=\"lead\">Load average {one:.2}, {five:.2}, {fifteen:.2}; {}.</p>\n",
        escape(&machine.processor),
        style(),
        env!("CARGO_PKG_VERSION"),
        escape(&machine.processor),
        machine.cores,
        escape(&machine.kernel),
        humantime::format_rfc3339_seconds(report.started),
        escape(&report.manner())
    );
    for warning in machine.warnings() {
        let _ = writeln!(text, "<p class=\"warning\">{}.</p>", escape(&warning));
    }
    text += "<nav>\n";
    for (suite, _) in &report.suites {
        let _ = writeln!(text, "<a href=\"#{0}\">{0}</a>", suite.name);
    }
    text += "</nav>\n";
    let plots = figures(report);
    for (((suite, cases), (_, goals)), (_, figures)) in report.suites.iter().zip(report.goals()).zip(&plots) {
        let about = escape(suite.about);
        let _ = writeln!(text, "<h2 id=\"{0}\">{0}</h2>\n<p class=\"lead\">{about}.</p>", suite.name);
        text += &goal_table(&goals);
        for figure in figures {
            let _ = writeln!(text, "<figure>\n{}</figure>", figure.svg());
        }
        for case in cases {
            let _ = writeln!(text, "<h3>{}</h3>\n{}", escape(&case.name), case_table(case));
            for (peer, why) in &case.absent {
                let _ = writeln!(text, "<p class=\"lead\">{}: not measured: {}</p>", peer.name, escape(why));
            }
        }
    }
    text + "</body>\n</html>\n"
}

/// The plots, in one picture.
pub(crate) fn svg(report: &Report) -> String {
    let figures = figures(report);
    let figures: Vec<&Figure> = figures.iter().flat_map(|(_, figures)| figures).collect();
    sheet(&figures)
}

fn goal_table(goals: &[Goal]) -> String {
    if goals.is_empty() {
        return String::new();
    }
    let row = |goal: &Goal| {
        let (what, value) = number::goal(goal);
        let (class, verdict) = if goal.met { ("met", "met") } else { ("missed", "not met") };
        format!("<tr><td>{}</td><td>{}</td><td class=\"{class}\">{verdict}</td></tr>\n", escape(&what), escape(&value))
    };
    let rows: String = goals.iter().map(row).collect();
    format!("<div class=\"scroll\"><table>\n<tr><th>goal</th><th>here</th><th></th></tr>\n{rows}</table></div>\n")
}

/// A line for each peer, below what the columns are.
fn case_table(case: &Case) -> String {
    // Whole words, since there is room.
    let quantities = case.quantities.iter().map(|quantity| match quantity.unit {
        "" => quantity.name.to_string(),
        unit => format!("{}, {unit}", quantity.name),
    });
    let (head, body): (Vec<_>, Vec<_>) = table::rows(case, true).into_iter().partition(|row| row[0].is_empty());
    let others = head[0].len() > 1 + case.quantities.len();
    let names = [String::new()].into_iter().chain(others.then(|| "hostlock / it".to_string())).chain(quantities);
    let cells = |tag: &str, row: Vec<String>| -> String {
        row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect()
    };
    let mut text = format!("<div class=\"scroll\"><table>\n<tr>{}</tr>\n", cells("th", names.collect()));
    for row in body {
        let ours = if row[0] == OURS { " class=\"ours\"" } else { "" };
        let _ = writeln!(text, "<tr{ours}>{}</tr>", cells("td", row));
    }
    text + "</table></div>"
}
