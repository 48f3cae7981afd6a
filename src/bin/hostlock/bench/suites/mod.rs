//! What can be measured.

mod contended;
mod crowd;
mod handoff;
mod held;
#[allow(unsafe_code)]
mod lines;
mod many;
#[allow(unsafe_code)]
mod open;
mod reads;
mod recovery;
mod uncontended;

use super::Bench;
use super::goals::Goal;
use super::measure::Case;
use crate::exit::Failure;

pub(crate) use held::LOCKS as HELD_AT_ONCE;

/// Some cases that belong together.
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    /// What is measured, and how.
    pub(crate) about: &'static str,
    pub(crate) peers: &'static [&'static str],
    pub(crate) run: fn(&Bench<'_>) -> Result<Vec<Case>, Failure>,
    pub(crate) goals: fn(&[Case]) -> Vec<Goal>,
}

pub(crate) const SUITES: [Suite; 9] = [
    uncontended::SUITE,
    contended::SUITE,
    reads::SUITE,
    handoff::SUITE,
    recovery::SUITE,
    open::SUITE,
    held::SUITE,
    many::SUITE,
    lines::SUITE,
];

/// The suite of that name.
pub(crate) fn find(name: &str) -> Option<&'static Suite> {
    const ALL: &[Suite] = &SUITES;
    ALL.iter().find(|suite| suite.name == name)
}
