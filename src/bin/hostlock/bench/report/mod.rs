//! How it is shown.

mod html;
mod json;
mod plot;
mod table;

use std::time::{Duration, SystemTime};

use super::goals::Goal;
use super::machine::Machine;
use super::measure::Case;
use super::suites::Suite;

pub(crate) use html::{html, svg};
pub(crate) use json::json;
pub(crate) use table::table;

/// All that was measured.
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) started: SystemTime,
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
    pub(crate) suites: Vec<(&'static Suite, Vec<Case>)>,
}

impl Report {
    /// Of all suites, each with its own.
    fn goals(&self) -> Vec<(&'static Suite, Vec<Goal>)> {
        self.suites.iter().map(|(suite, cases)| (*suite, (suite.goals)(cases))).collect()
    }

    /// How it was measured, in a sentence.
    fn manner(&self) -> String {
        let rounds = if self.rounds == 1 { "1 round".into() } else { format!("medians of {} rounds", self.rounds) };
        format!(
            "{rounds} in turn, {} for each measurement; in brackets the least and the most",
            humantime::format_duration(self.time)
        )
    }
}
