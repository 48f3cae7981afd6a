//! `hostlock doctor`: what this machine and a space can do, and what follows.

use hostlock::diagnosis::{Diagnosis, Finding};
use serde::Serialize;

use crate::args::DoctorArgs;
use crate::exit::{Code, Failure, in_words_of_the_tool};
use crate::output;

pub(crate) fn doctor(args: &DoctorArgs) -> Result<(), Failure> {
    let found = args.backend.of(args.space.builder()?)?.diagnose()?;
    output::print(&if args.json { json(&found)? } else { lines(&found) })?;
    match found.can_work() {
        true => Ok(()),
        false => Err(Failure::new(Code::Unavailable, found.summary())),
    }
}

/// What was seen, what follows, and what to do, in one sentence on one line.
fn sentence(finding: &Finding) -> String {
    let mut text = finding.seen.clone();
    for (separator, part) in [(": ", &finding.follows), ("; ", &finding.advice)] {
        if !part.is_empty() {
            text += separator;
            text += part;
        }
    }
    in_words_of_the_tool(&text).chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn lines(found: &Diagnosis) -> String {
    let name = found.findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let line = |finding: &Finding| format!("{:8}  {:name$}  {}\n", finding.verdict, finding.name, sentence(finding));
    found.findings.iter().map(line).chain([format!("{}\n", found.summary())]).collect()
}

#[derive(Serialize)]
struct DiagnosisJson {
    space: String,
    can_work: bool,
    summary: String,
    findings: Vec<FindingJson>,
}

#[derive(Serialize)]
struct FindingJson {
    area: String,
    name: &'static str,
    verdict: String,
    need: String,
    seen: String,
    follows: String,
    advice: String,
}

fn json(found: &Diagnosis) -> Result<String, Failure> {
    let finding = |finding: &Finding| FindingJson {
        area: finding.area.to_string(),
        name: finding.name,
        verdict: finding.verdict.to_string(),
        need: finding.need.to_string(),
        seen: in_words_of_the_tool(&finding.seen),
        follows: in_words_of_the_tool(&finding.follows),
        advice: in_words_of_the_tool(&finding.advice),
    };
    let all = DiagnosisJson {
        space: found.path.display().to_string(),
        can_work: found.can_work(),
        summary: found.summary(),
        findings: found.findings.iter().map(finding).collect(),
    };
    let text = serde_json::to_string_pretty(&all)
        .map_err(|e| Failure::new(Code::Output, format_args!("cannot write JSON: {e}")))?;
    Ok(text + "\n")
}
