//! Events and latches: set or counted, or told of whoever was to.

use std::cell::Cell;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use hostlock::{Error, Event};

use crate::crash::scene::{BOUND, end_of_sleeper, victim};
use crate::crash::sweep::{Case, NAME, Plan};
use crate::crash::trace::Victim;
use crate::{LOST, PASSED, done, is_done, look, note_outcome, sweep_meeting};

/// The victim sets an event that somebody waits for.
fn set_beside_a_sleeper(case: &mut Case, event: impl Fn(&Case) -> Event) -> Option<Victim> {
    case.enter();
    let event = event(case);
    case.prepare(|control| note_outcome(control, event.wait()));
    let victim = victim(case, |control| {
        event.set().expect("an event");
        done(control);
    })?;
    case.send_sleeper_to_sleep();
    Some(victim)
}

#[test]
fn killed_setting_an_event_it_has_set_it_or_not() {
    let event = |case: &Case| case.space().event(NAME).expect("an event");
    let begin = |case: &mut Case| set_beside_a_sleeper(case, event);
    let afterwards = |case: &mut Case| {
        let event = event(case);
        assert!(!is_done(case) || event.is_set().expect("an event"), "it was set, and is not");
        if !event.is_set().expect("an event") {
            event.set().expect("an event");
        }
        end_of_sleeper(case);
        event.wait_for(Duration::ZERO).expect("it is set");
        event.reset().expect("an event");
        assert!(event.wait_for(Duration::ZERO).is_err(), "it was reset");
    };
    let what = "set, somebody waits";
    sweep_meeting(&Plan { what, wavers: true, begin: &begin, meanwhile: &look, afterwards: &afterwards });

    // Who said before that it will.
    let begin = |case: &mut Case| {
        case.enter();
        let event = event(case);
        case.prepare(|control| note_outcome(control, event.wait()));
        let victim = victim(case, |control| {
            let announced = event.announce().expect("nobody else did");
            control.token.store(1, SeqCst);
            announced.set().expect("its own");
            done(control);
        })?;
        case.send_sleeper_to_sleep();
        Some(victim)
    };
    let afterwards = |case: &mut Case| {
        let event = event(case);
        let (is_set, was_announced) = (event.is_set().expect("an event"), case.death.token != 0);
        assert!(!is_done(case) || is_set, "it was set, and is not");
        let had_announced = case.controls.victim.token.load(SeqCst) == 1;
        assert!(is_set || was_announced || !had_announced, "announced, not set, and nobody would be told");
        let sleeper = case.controls.sleeper;
        let expected = match (is_set, was_announced) {
            (false, true) => (LOST, case.dead[0].into()),
            (false, false) => {
                event.announce().expect("nobody alive did").set().expect("our own");
                (PASSED, 0)
            }
            (true, _) => (PASSED, 0),
        };
        end_of_sleeper(case);
        let outcome = (sleeper.token.load(SeqCst), sleeper.told.load(SeqCst));
        assert_eq!(outcome, expected, "what came of the wait, and who died");
        event.reset().expect("an event");
        event.announce().expect("nobody alive did").set().expect("our own");
        event.wait_for(Duration::ZERO).expect("it is set");
    };
    let what = "announce; set, somebody waits";
    sweep_meeting(&Plan { what, wavers: true, begin: &begin, meanwhile: &look, afterwards: &afterwards });
}

#[test]
fn killed_with_an_event_that_resets_itself_it_doubles_no_setting() {
    let event = |case: &Case| case.space().auto_event(NAME).expect("an event");
    // There is one setting at most, and the next one counts.
    let judge = |case: &Case| {
        let event = event(case);
        if event.is_set().expect("an event") {
            event.wait_for(Duration::ZERO).expect("it is set");
        }
        for _ in 0..2 {
            assert!(event.wait_for(Duration::ZERO).is_err(), "a setting was taken twice");
            event.set().expect("an event");
            event.wait_for(BOUND).expect("a survivor is not stuck");
        }
    };
    let begin = |case: &mut Case| set_beside_a_sleeper(case, event);
    let afterwards = |case: &mut Case| {
        let was_done = is_done(case);
        if !was_done {
            event(case).set().expect("an event");
        }
        end_of_sleeper(case);
        assert!(!was_done || !event(case).is_set().expect("an event"), "one setting let two pass");
        judge(case);
    };
    let what = "set for one, who waits";
    sweep_meeting(&Plan { what, wavers: true, begin: &begin, meanwhile: &look, afterwards: &afterwards });

    let begin = |case: &mut Case| {
        case.enter();
        let event = event(case);
        event.set().expect("an event");
        victim(case, |control| {
            event.wait().expect("it is set");
            done(control);
        })
    };
    let afterwards = |case: &mut Case| {
        assert!(!is_done(case) || !event(case).is_set().expect("an event"), "it was taken, and is still set");
        judge(case);
    };
    let what = "wait that takes the setting";
    sweep_meeting(&Plan { what, wavers: false, begin: &begin, meanwhile: &look, afterwards: &afterwards });
}

#[test]
fn killed_counting_it_has_counted_or_is_told_of() {
    let latch = |case: &Case| case.space().latch(NAME, 2).expect("a latch");
    let begin = |case: &mut Case| {
        case.enter();
        let latch = latch(case);
        case.prepare(|control| note_outcome(control, latch.wait()));
        let victim = victim(case, |control| {
            let party = latch.party().expect("a seat");
            control.token.store(1, SeqCst);
            party.count_down().expect("its own");
            done(control);
        })?;
        case.send_sleeper_to_sleep();
        Some(victim)
    };
    let was_announced = Cell::new(false);
    let meanwhile = |case: &mut Case, victim: &Victim| {
        look(case, victim);
        let seated = latch(case).holders().expect("a latch");
        was_announced.set(seated.iter().any(|holder| holder.pid == case.dead[0]));
    };
    let afterwards = |case: &mut Case| {
        let (latch, sleeper) = (latch(case), case.controls.sleeper);
        let left = latch.remaining().expect("a latch");
        assert!(left == 1 || !is_done(case), "it was counted, and {left} are left");
        let had_announced = case.controls.victim.token.load(SeqCst) == 1;
        assert!(left == 1 || was_announced.get() || !had_announced, "announced, not counted, and nobody would be told");
        let mut expected = (PASSED, 0);
        if left == 2 && was_announced.get() {
            end_of_sleeper(case);
            expected = (LOST, case.dead[0].into());
        }
        for _ in 0..left {
            latch.count_down().expect("a seat of nobody alive");
        }
        end_of_sleeper(case);
        let outcome = (sleeper.token.load(SeqCst), sleeper.told.load(SeqCst));
        assert_eq!(outcome, expected, "what came of the wait, and who died, with {left} left");
        assert_eq!(latch.remaining().expect("a latch"), 0);
        latch.wait_for(BOUND).expect("it is open");
        let more = latch.count_down();
        assert!(
            matches!(more, Err(Error::NoSeat { .. })),
            "one more than there are: {more:?}; before, {left} were left (announced: {}), now {:?}; {:?}",
            was_announced.get(),
            latch.remaining(),
            latch.holders()
        );
    };
    let what = "party; count, somebody waits";
    sweep_meeting(&Plan { what, wavers: true, begin: &begin, meanwhile: &meanwhile, afterwards: &afterwards });
}
