//! Condition variables, and what is done once: whose turn it is, and what it finds.

use std::cell::Cell;
use std::sync::atomic::Ordering::SeqCst;

use hostlock::Once;

use crate::crash::control::Control;
use crate::crash::scene::{BOUND, end_of_sleeper, look_around, victim};
use crate::crash::sweep::{self, Case, NAME, OTHER, Plan};
use crate::crash::trace::Victim;
use crate::{done, is_done, look, sweep_meeting};

#[test]
fn killed_changing_and_notifying_it_leaves_nobody_asleep() {
    let begin = |case: &mut Case| {
        case.enter();
        let (mutex, condvar) = (case.mutex(NAME), case.space().condvar(OTHER).expect("a condition variable"));
        let state = case.controls.victim;
        case.prepare(|control| {
            let mut guard = mutex.lock().expect("the lock");
            while state.token.load(SeqCst) == 0 {
                guard = condvar.wait(guard).expect("the lock");
                if let Some(dead) = guard.abandoned() {
                    control.told.store(dead.token, SeqCst);
                }
            }
            look_around(control, state);
            drop(guard);
        });
        let victim = victim(case, |control| {
            let guard = mutex.lock().expect("the lock");
            done(control);
            control.token.store(1, SeqCst);
            condvar.notify_one().expect("a condition variable");
            control.inside.store(0, SeqCst);
            drop(guard);
        })?;
        case.send_sleeper_to_sleep();
        Some(victim)
    };
    let afterwards = |case: &mut Case| {
        let (state, sleeper) = (case.controls.victim, case.controls.sleeper);
        let (mutex, condvar) = (case.mutex(NAME), case.space().condvar(OTHER).expect("a condition variable"));
        let mut told = Vec::new();
        let mut acquire = || {
            let guard = mutex.try_lock_for(BOUND).unwrap_or_else(|e| panic!("a survivor is stuck: {e}"));
            told.extend(guard.abandoned().map(|dead| dead.token));
            guard
        };
        // What it changed, others notice; whether it notified makes no difference.
        if state.token.load(SeqCst) == 0 {
            let guard = acquire();
            state.token.store(1, SeqCst);
            condvar.notify_one().expect("a condition variable");
            drop(guard);
        }
        end_of_sleeper(case);
        drop(acquire());
        told.extend(Some(sleeper.told.load(SeqCst)).filter(|token| *token != 0));
        assert_eq!(told, Vec::from_iter(Some(case.death.token).filter(|token| *token != 0)), "told of the death");
    };
    let what = "lock; notify; unlock, somebody waits";
    sweep_meeting(&Plan { what, wavers: true, begin: &begin, meanwhile: &look, afterwards: &afterwards });
}

#[test]
fn killed_doing_it_once_another_does_it_unless_it_is_done() {
    let once = |case: &Case| case.space().once(NAME).expect("a once");
    let do_it = |once: &Once, control: &Control| {
        let outcome = once.call_once(|state| {
            control.token.fetch_add(1, SeqCst);
            control.told.store(state.abandoned().map_or(0, |dead| dead.token), SeqCst);
        });
        outcome.expect("a once");
    };
    let was_done = Cell::new(false);
    let meanwhile = |case: &mut Case, victim: &Victim| {
        look(case, victim);
        was_done.set(once(case).is_done());
    };
    let afterwards = |case: &mut Case| {
        end_of_sleeper(case);
        let survivor = case.controls.sleeper;
        let had_begun = case.controls.victim.token.load(SeqCst) == 1;
        assert!(was_done.get() || !had_begun || case.death.token != 0, "begun, not done, and nobody would be told");
        do_it(&once(case), survivor);
        assert!(was_done.get() || !is_done(case), "it was done, and is not");
        let done = (survivor.token.load(SeqCst), survivor.told.load(SeqCst));
        let expected = if was_done.get() { (0, 0) } else { (1, case.death.token) };
        assert_eq!(done, expected, "how often survivors did it, and whose death they were told");
        assert!(once(case).is_done());
        once(case).wait_for(BOUND).expect("it is done");
    };
    let begin = |case: &mut Case| {
        case.enter();
        case.controls.sleeper.reset();
        let once = once(case);
        victim(case, |control| {
            once.call_once(|_| control.token.store(1, SeqCst)).expect("a once");
            done(control);
        })
    };
    let what = "once";
    sweep_meeting(&Plan { what, wavers: false, begin: &begin, meanwhile: &meanwhile, afterwards: &afterwards });

    let begin = |case: &mut Case| {
        case.enter();
        let (once, join) = (once(case), case.mutex(sweep::JOIN));
        case.prepare(|control| do_it(&once, control));
        let victim = Victim::new(case.controls.victim, |control| {
            sweep::join_in(&join);
            let work = |_: &_| {
                control.begin();
                control.token.store(1, SeqCst);
            };
            once.call_once(work).expect("a once");
            done(control);
        })?;
        case.send_sleeper_to_sleep();
        Some(victim)
    };
    let what = "once, its end, somebody waits";
    sweep_meeting(&Plan { what, wavers: true, begin: &begin, meanwhile: &meanwhile, afterwards: &afterwards });
}
