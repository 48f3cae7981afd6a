//! What can be said to `hostlock bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::arena::MOST_PROCESSES;
use super::catalogue::{self, OURS, PEERS};
use super::suites::{self, SUITES, Suite};
use super::{Form, Plan};
use crate::exit::{Code, Failure};

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Say what can be measured, and beside what
    #[arg(long)]
    pub(crate) list: bool,
    /// Measure everything N times, in turn (default: 5)
    #[arg(long, value_name = "N", default_value = "5", hide_default_value = true, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Measure each for TIME: 0.5, 20ms (default: 200ms)
    #[arg(long, value_name = "TIME", default_value = "200ms", hide_default_value = true, value_parser = crate::args::time)]
    #[arg(allow_negative_numbers = true)]
    seconds: Duration,
    /// Measure hostlock and these (default: all, see --list)
    #[arg(long, value_name = "PEER,...", value_delimiter = ',')]
    peers: Option<Vec<String>>,
    /// Let so many processes want one lock (default: 2,8,32)
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_value = "2,8,32", hide_default_value = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MOST_PROCESSES as i64))]
    processes: Vec<u32>,
    /// Print JSON, for programs
    #[arg(long, group = "form")]
    json: bool,
    /// Write a page with plots to FILE, too
    #[arg(long, value_name = "FILE", group = "form")]
    html: Option<PathBuf>,
    /// Write the plots alone to FILE, too
    #[arg(long, value_name = "FILE", group = "form")]
    svg: Option<PathBuf>,
    /// What to measure (default: all, see --list)
    #[arg(value_name = "SUITE")]
    suites: Vec<String>,
}

pub(crate) const MANUAL: &str = "\
Measures what locks cost on this machine: hostlock's, and beside them those of the system
and of other libraries, in real processes, in the same run and in turn. Ratios come first,
because they hold when the machine is slower than it might be; then the figures.

Each figure is the median of all rounds, with the least and the most in brackets. A ratio is
what hostlock has, as a multiple of what the peer has. Whether a lock excludes is checked
while it is measured: what is counted under it has to be all turns, or the run fails.

What the figures mean, and the fields of --json, is described in src/docs/tool.md. All of
it takes some minutes. It needs the machine for itself, and warns if it was not idle. Files
and semaphores it makes are gone when it ends, also by Ctrl-C.

Exit status: 0, also if a goal was not met; 2 wrong call; 69 no place to measure at; 71 a
process failed, or a lock let two in; 74 the output could not be written.

Examples:
  hostlock bench                               everything, as a table
  hostlock bench contended --processes 2,4,16
  hostlock bench uncontended --peers pthread,flock --rounds 11
  hostlock bench --html bench.html             with plots, to be looked at
  hostlock bench --json recovery | jq '.suites[].goals'";

fn wrong(why: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Usage, format_args!("{why}; see hostlock bench --list"))
}

impl BenchArgs {
    pub(crate) fn plan(&self) -> Result<Plan, Failure> {
        let bounds = Duration::from_millis(1)..=Duration::from_secs(3600);
        if !bounds.contains(&self.seconds) {
            return Err(Failure::new(Code::Usage, "--seconds goes from 1ms to 1h; see hostlock bench --help"));
        }
        let suites = self.suites()?;
        let peers = self.peers.as_ref().map(|names| peers(names, &suites)).transpose()?;
        let mut processes: Vec<usize> = self.processes.iter().map(|&count| count as usize).collect();
        processes.sort_unstable();
        processes.dedup();
        let form = match (self.json, &self.html, &self.svg) {
            (true, ..) => Form::Json,
            (_, Some(file), _) => Form::Html(file.clone()),
            (.., Some(file)) => Form::Svg(file.clone()),
            _ => Form::Table,
        };
        Ok(Plan { rounds: self.rounds as usize, time: self.seconds, processes, peers, suites, form })
    }

    /// In the order of the list, each once.
    fn suites(&self) -> Result<Vec<&'static Suite>, Failure> {
        for name in &self.suites {
            suites::find(name).ok_or_else(|| wrong(format_args!("there is no suite '{name}'")))?;
        }
        let wanted = |suite: &&Suite| self.suites.is_empty() || self.suites.iter().any(|name| name == suite.name);
        const ALL: &[Suite] = &SUITES;
        Ok(ALL.iter().filter(wanted).collect())
    }
}

/// Those of that name, of which each suite may have others.
fn peers(names: &[String], suites: &[&Suite]) -> Result<Vec<&'static str>, Failure> {
    let mut found = vec![OURS];
    for name in names {
        let peer = catalogue::find(name).ok_or_else(|| wrong(format_args!("there is no peer '{name}'")))?;
        if !suites.iter().any(|suite| suite.peers.contains(&peer.name)) {
            return Err(wrong(format_args!("'{name}' is in none of the suites that are to be measured")));
        }
        found.push(peer.name);
    }
    Ok(found)
}

/// What can be measured, and beside what.
pub(crate) fn list() -> String {
    let mut text = String::from("Suites:\n");
    for suite in &SUITES {
        text += &format!("  {:12}  {}\n", suite.name, wrap(suite.about, 16));
        text += &format!("  {:12}  {}\n", "", wrap(&format!("[{}]", suite.peers.join(", ")), 16));
    }
    text += "\nPeers:\n";
    for peer in PEERS {
        text += &format!("  {:15}  {}\n", peer.name, peer.about);
    }
    text
}

/// Broken into lines of 100 columns, all but the first of which are indented.
fn wrap(text: &str, indent: usize) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("one");
        if !line.is_empty() && indent + line.chars().count() + 1 + word.chars().count() > 100 {
            lines.push(word.into());
        } else {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(word);
        }
    }
    lines.join(&format!("\n{:indent$}", ""))
}
