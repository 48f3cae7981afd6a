//! Barriers: passed by all or broken for all.

use std::cell::RefCell;
use std::sync::atomic::Ordering::SeqCst;

use hostlock::{Barrier, BarrierMember};

use crate::crash::control::Control;
use crate::crash::scene::{BOUND, after, end_of_sleeper, victim};
use crate::crash::sweep::{Case, NAME, Plan};
use crate::{LOST, PASSED, done, is_done, look, note_outcome, sweep_meeting};

fn barrier(case: &Case, members: u32) -> Barrier {
    case.space().barrier(NAME, members).expect("a barrier")
}

/// When all have left or died it can be joined anew, by as many as ever.
fn meet_anew(barrier: &Barrier) {
    let mut members: Vec<BarrierMember> =
        (0..barrier.members()).map(|_| barrier.join().expect("a barrier that all have left")).collect();
    std::thread::scope(|scope| {
        for member in &mut members {
            scope.spawn(|| member.wait_for(BOUND).expect("all are there"));
        }
    });
}

#[test]
fn killed_arriving_last_it_lets_all_pass_or_none() {
    let first = RefCell::new(None);
    let begin = |case: &mut Case| {
        case.enter();
        let barrier = barrier(case, 3);
        let wait = |control: &'static Control| note_outcome(control, barrier.join().expect("a seat").wait());
        case.prepare(wait);
        case.send_sleeper_to_sleep();
        *first.borrow_mut() = case.sleeper.take();
        std::mem::swap(&mut case.controls.sleeper, &mut case.controls.other);
        case.prepare(wait);
        let join = || barrier.join().expect("a seat");
        let victim = after(case, join, |control, mut member| {
            member.wait().expect("the others wait");
            done(control);
        })?;
        case.send_sleeper_to_sleep();
        Some(victim)
    };
    let afterwards = |case: &mut Case| {
        let (one, two) = (case.controls.sleeper, case.controls.other);
        end_of_sleeper(case);
        std::mem::swap(&mut case.controls.sleeper, &mut case.controls.other);
        case.sleeper = first.borrow_mut().take();
        end_of_sleeper(case);
        let [one, two] = [one, two].map(|control| (control.token.load(SeqCst), control.told.load(SeqCst)));
        assert_eq!(one, two, "a phase was passed by one and broken for the other");
        assert!(one == (PASSED, 0) || one == (LOST, case.dead[0].into()), "broken by somebody else: {one:?}");
        assert!(!is_done(case) || one.0 == PASSED, "passed by the dead one alone");
        meet_anew(&barrier(case, 3));
    };
    let what = "arrival of the last of three";
    sweep_meeting(&Plan { what, wavers: true, begin: &begin, meanwhile: &look, afterwards: &afterwards });
}

#[test]
fn killed_joining_a_barrier_or_leaving_it_leaves_its_seat() {
    let begin = |case: &mut Case| {
        case.enter();
        let barrier = barrier(case, 2);
        victim(case, |control| {
            drop(barrier.join().expect("a seat"));
            done(control);
        })
    };
    let afterwards = |case: &mut Case| meet_anew(&barrier(case, 2));
    let what = "join of a barrier; leave";
    sweep_meeting(&Plan { what, wavers: false, begin: &begin, meanwhile: &look, afterwards: &afterwards });
}
