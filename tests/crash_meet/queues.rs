//! Queues: no item is lost, doubled or torn.

use std::sync::atomic::Ordering::SeqCst;

use hostlock::Queue;

use crate::crash::control::Control;
use crate::crash::scene::{BOUND, end_of_sleeper, victim};
use crate::crash::sweep::{Case, NAME, Plan};
use crate::{done, is_done, look, sweep_meeting};

/// Torn if its words differ.
pub type Item = [u64; 3];

fn queue(case: &Case) -> Queue<Item> {
    case.space().queue(NAME, 3).unwrap_or_else(|e| panic!("a survivor cannot have the queue: {e}"))
}

/// What is in the queue, in order; afterwards nothing is.
pub fn drain(queue: &Queue<Item>) -> Vec<u64> {
    let mut found = Vec::new();
    while !queue.is_empty().expect("a sound queue") {
        let item = queue.pop_for(BOUND).unwrap_or_else(|e| panic!("a survivor is stuck: {e}"));
        assert_eq!(item, [item[0]; 3], "a torn item");
        found.push(item[0]);
    }
    found
}

/// It works as ever, all the way round.
pub fn judge_queue(queue: &Queue<Item>) {
    for number in 10..14 {
        queue.push_for([number; 3], BOUND).unwrap_or_else(|e| panic!("a survivor is stuck: {e}"));
        queue.push_for([number + 10; 3], BOUND).expect("room");
        assert_eq!(drain(queue), [number, number + 10]);
    }
}

/// Sweeps an operation on a queue with these items; what is in it afterwards has to be one of two things: as before, or as when it is done.
fn sweep_queue(what: &str, before: &[u64], after: &[u64], operation: fn(&Queue<Item>, &Control)) {
    let begin = |case: &mut Case| {
        case.enter();
        let queue = queue(case);
        for number in before {
            queue.push([*number; 3]).expect("room");
        }
        victim(case, |control| {
            operation(&queue, control);
            done(control);
        })
    };
    let afterwards = |case: &mut Case| {
        let found = drain(&queue(case));
        assert!(found == after || found == before && !is_done(case), "from {before:?} came {found:?}");
        // Who says what it saw before it takes it: seen, and perhaps there, but not taken and unseen.
        if what == "pop_with" {
            assert!(found == before || case.controls.victim.token.load(SeqCst) == before[0], "an item was lost");
        }
        judge_queue(&queue(case));
    };
    sweep_meeting(&Plan { what, wavers: false, begin: &begin, meanwhile: &look, afterwards: &afterwards });
}

#[test]
fn killed_at_a_queue_it_loses_and_doubles_nothing() {
    sweep_queue("push", &[1, 2], &[1, 2, 3], |queue, _| queue.push([3; 3]).expect("room"));
    sweep_queue("pop", &[1, 2, 3], &[2, 3], |queue, control| {
        let item = queue.pop().expect("an item");
        control.token.store(item[0], SeqCst);
    });
    sweep_queue("pop_with", &[1, 2, 3], &[2, 3], |queue, control| {
        queue.pop_with(|item| control.token.store(item[0], SeqCst)).expect("an item");
    });
}

#[test]
fn killed_at_a_queue_it_stops_nobody_who_waits() {
    // Somebody waits for an item, or for room, and the victim brings it.
    let begin = |case: &mut Case| {
        case.enter();
        let queue = queue(case);
        case.prepare(|control| control.token.store(queue.pop().expect("an item")[0], SeqCst));
        let victim = victim(case, |control| {
            queue.push([1; 3]).expect("room");
            done(control);
        })?;
        case.send_sleeper_to_sleep();
        Some(victim)
    };
    let afterwards = |case: &mut Case| {
        let sleeper = case.controls.sleeper;
        if !is_done(case) {
            queue(case).push_for([2; 3], BOUND).unwrap_or_else(|e| panic!("a survivor is stuck: {e}"));
        }
        end_of_sleeper(case);
        let found = (sleeper.token.load(SeqCst), drain(&queue(case)));
        let expected = match is_done(case) {
            true => found == (1, vec![]),
            false => found == (1, vec![2]) || found == (2, vec![]),
        };
        assert!(expected, "popped, and left: {found:?}");
        judge_queue(&queue(case));
    };
    let what = "push, somebody waits";
    sweep_meeting(&Plan { what, wavers: true, begin: &begin, meanwhile: &look, afterwards: &afterwards });

    let begin = |case: &mut Case| {
        case.enter();
        let queue = queue(case);
        for number in 1..=3 {
            queue.push([number; 3]).expect("room");
        }
        case.prepare(|_| queue.push([4; 3]).expect("room"));
        let victim = victim(case, |control| {
            queue.pop().expect("an item");
            done(control);
        })?;
        case.send_sleeper_to_sleep();
        Some(victim)
    };
    let afterwards = |case: &mut Case| {
        // Whether the victim took one or not: as many as it takes for whoever waits.
        let queue = queue(case);
        let first = if is_done(case) { None } else { Some(queue.pop_for(BOUND).expect("an item")[0]) };
        end_of_sleeper(case);
        let left = drain(&queue);
        judge_queue(&queue);
        let expected = match first {
            None => left == [2, 3, 4],
            Some(1) => left == [2, 3, 4],
            Some(2) => left == [3, 4],
            Some(_) => false,
        };
        assert!(expected, "popped {first:?}, and left: {left:?}");
    };
    let what = "pop of a full queue, somebody waits";
    sweep_meeting(&Plan { what, wavers: true, begin: &begin, meanwhile: &look, afterwards: &afterwards });
}
