//! Walkers as the pairs have them, and what is done to them before.

use std::time::Duration;

use hostlock::Abandoned;

use super::control::Control;
use super::sweep::{Case, JOIN, join_in};
use super::trace::Victim;
use super::walker::{Walker, run};

pub fn told(abandoned: Option<&Abandoned>) -> Option<u64> {
    abandoned.map(|dead| dead.token)
}

/// A victim that joins, prepares what its operation needs, and does that.
pub fn walker<T>(
    case: &Case,
    control: &'static Control,
    prepare: impl FnOnce(&'static Control) -> T,
    what: impl FnOnce(&'static Control, T),
) -> Option<Walker> {
    let join = case.mutex(JOIN);
    let victim = Victim::at_its_stop(control, |control| {
        join_in(&join);
        let prepared = prepare(control);
        control.begin();
        what(control, prepared);
    })?;
    Some(Walker::new(victim, &case.directory()))
}

/// A victim that is not in the space yet.
pub fn newcomer(case: &Case, control: &'static Control, what: impl FnOnce(&'static Control)) -> Option<Walker> {
    let victim = Victim::at_its_stop(control, |control| {
        control.begin();
        what(control);
    })?;
    Some(Walker::new(victim, &case.directory()))
}

/// Who could be inside with one of them.
pub fn others(case: &Case) -> [&'static Control; 3] {
    [case.controls.victim, case.controls.second, case.controls.sleeper]
}

/// Leads it into its sleep.
pub fn to_sleep(mut walker: Walker) -> Walker {
    run(&mut [&mut walker]);
    assert!(walker.is_asleep(), "it does not have to wait");
    walker
}

/// The same, until it has waited for long: from then on it is before whoever just comes.
pub fn to_starve(walker: Walker) -> Walker {
    let mut walker = to_sleep(walker);
    std::thread::sleep(Duration::from_millis(2));
    walker.end_sleep();
    to_sleep(walker)
}
