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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::catalogue::find;
    use crate::bench::measure::Quantity;
    use crate::bench::number;

    const QUANTITIES: &[Quantity] =
        &[Quantity::more("throughput", "M/s", ["", ""]), Quantity::less("wait", "µs", ["", ""])];

    /// Three rounds on a machine that becomes slower.
    fn case(peers: &[(&'static str, f64, f64)]) -> Case {
        let entry = |&(name, rate, wait): &(&'static str, f64, f64)| Entry {
            peer: find(name).unwrap(),
            values: vec![vec![rate, rate / 2.0, rate / 4.0], vec![wait, wait * 2.0, wait]],
            times: None,
            checked: 0,
        };
        let entries = peers.iter().map(entry).collect();
        Case {
            name: String::new(),
            group: String::new(),
            processes: 8,
            quantities: QUANTITIES,
            entries,
            absent: vec![],
        }
    }

    #[test]
    fn the_best_is_another_one_in_another_quantity() {
        let case = case(&[
            ("hostlock", 12.0, 10.0),
            ("hostlock-fair", 90.0, 0.5),
            ("std", 80.0, 0.1),
            ("pthread", 6.0, 4.0),
            ("pthread-pi", 5.0, 6.0),
            ("sem_t", 3.0, 2.0),
        ]);
        let beside = |goal: Option<Goal>| goal.map(|goal| (goal.against.unwrap(), goal.value, goal.met)).unwrap();
        assert_eq!(beside(Goal::beside_the_best("", &case, 0, 1.2)), ("pthread", 2.0, true));
        assert_eq!(beside(Goal::beside_the_best("", &case, 1, 1.25)), ("sem_t", 5.0, false));
        // Of the waits, those of who has the best throughput.
        assert_eq!(beside(Goal::beside_the_best_in(0, "", &case, 1, 2.5)), ("pthread", 2.5, true));
        assert_eq!(beside(Goal::beside_the_best_in(0, "", &case, 1, 2.4)), ("pthread", 2.5, false));
        assert_eq!(beside(Goal::at_most("", &case, 1, "sem_t", 5.0)), ("sem_t", 5.0, true));
        assert!(Goal::at_most("", &case, 1, "flock", 5.0).is_none());
    }

    #[test]
    fn what_grew_is_told_round_by_round() {
        let case = case(&[("hostlock", 4.0, 8.0)]);
        // 8 / 4, 16 / 2, 8 / 1; the medians themselves are 8 and 2.
        let goal = Goal::beside_itself("grown", &case, 1, 0, 7.9).unwrap();
        assert_eq!((goal.against, goal.value, goal.met), (None, 8.0, false));
        assert!(Goal::beside_itself("", &case, 1, 0, 8.0).unwrap().met);
        assert!(Goal::beside_the_best("", &case, 0, 1.0).is_none(), "there is nobody else");
    }

    #[test]
    fn an_aim_is_told_and_no_bound() {
        let case = case(&[("hostlock", 4.0, 8.0), ("std", 1.0, 10.0)]);
        let goal = Goal::at_most("a mutex", &case, 1, "std", 0.9).unwrap().aiming_at(0.6);
        assert!(goal.met);
        assert_eq!(number::goal(&goal), ("a mutex: at most 0.90 x std (aim: 0.60)".into(), "0.80".into()));
    }
}
