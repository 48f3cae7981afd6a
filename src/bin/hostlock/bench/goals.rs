//! What hostlock is to come to, beside others, and whether it does here.

use serde::Serialize;

use super::catalogue::OURS;
use super::measure::{Case, Entry, Spread};

/// A goal of the design, and what was measured of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Goal {
    /// What is measured, in words.
    pub(crate) what: String,
    /// Whom hostlock is measured against; `None`: the value is its own.
    pub(crate) against: Option<&'static str>,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
    pub(crate) at_most: Option<f64>,
    pub(crate) at_least: Option<f64>,
    /// What it should come to one day.
    pub(crate) aim: Option<f64>,
    pub(crate) met: bool,
}

impl Goal {
    fn new(what: String, against: Option<&'static str>, unit: &'static str, value: f64) -> Self {
        Self { what, against, unit, value, at_most: None, at_least: None, aim: None, met: false }
    }

    fn bounded(self, at_most: Option<f64>, at_least: Option<f64>) -> Self {
        let met = at_most.is_none_or(|most| self.value <= most) && at_least.is_none_or(|least| self.value >= least);
        Self { at_most, at_least, met, ..self }
    }

    /// hostlock's value of a quantity as a multiple of a peer's. `None` if that was not measured.
    pub(crate) fn at_most(what: &str, case: &Case, quantity: usize, against: &str, most: f64) -> Option<Self> {
        let entry = case.entry(against)?;
        let value = case.ratio(entry, quantity)?.median;
        Some(Self::new(what.into(), Some(entry.peer.name), "x", value).bounded(Some(most), None))
    }

    pub(crate) fn aiming_at(self, aim: f64) -> Self {
        Self { aim: Some(aim), ..self }
    }

    /// hostlock's value of a quantity as a multiple of that of the peer, for processes, that is the best in it.
    pub(crate) fn beside_the_best(what: &str, case: &Case, quantity: usize, bound: f64) -> Option<Self> {
        Self::beside_the_best_in(quantity, what, case, quantity, bound)
    }

    /// The same of the peer that is the best in another quantity.
    pub(crate) fn beside_the_best_in(
        best_in: usize,
        what: &str,
        case: &Case,
        quantity: usize,
        bound: f64,
    ) -> Option<Self> {
        let middle = |entry: &&Entry| Spread::of(entry.values[best_in].iter().copied()).median;
        let is_other = |entry: &&Entry| entry.peer.for_processes && !entry.peer.name.starts_with(OURS);
        let peers = case.entries.iter().filter(is_other);
        let by_middle = |one: &&Entry, other: &&Entry| middle(one).total_cmp(&middle(other));
        let best = match case.quantities[best_in].more_is_better {
            true => peers.max_by(by_middle),
            false => peers.min_by(by_middle),
        }?;
        let value = case.ratio(best, quantity)?.median;
        let goal = Self::new(what.into(), Some(best.peer.name), "x", value);
        Some(match case.quantities[quantity].more_is_better {
            true => goal.bounded(None, Some(bound)),
            false => goal.bounded(Some(bound), None),
        })
    }

    /// hostlock's value of a quantity as a multiple of its value of another one, round by round.
    pub(crate) fn beside_itself(what: &str, case: &Case, quantity: usize, other: usize, most: f64) -> Option<Self> {
        let ours = case.entry(OURS)?;
        let ratios = ours.values[quantity].iter().zip(&ours.values[other]).map(|(value, other)| value / other);
        let value = Spread::of(ratios).median;
        Some(Self::new(what.into(), None, "x", value).bounded(Some(most), None))
    }

    /// hostlock's own value.
    pub(crate) fn own(what: &str, case: &Case, quantity: usize, bound: f64) -> Option<Self> {
        let value = Spread::of(case.entry(OURS)?.values[quantity].iter().copied()).median;
        let of = &case.quantities[quantity];
        let goal = Self::new(what.into(), None, of.unit, value);
        Some(match of.more_is_better {
            true => goal.bounded(None, Some(bound)),
            false => goal.bounded(Some(bound), None),
        })
    }
}
