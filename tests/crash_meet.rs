//! Killed at every instruction, as `tests/crash.rs` does it to the mutex: where processes wait for each other, pass items on, or change several things at once.
//!
//! ```text
//! HOSTLOCK_CRASH=all cargo test --release --test crash_meet -- --nocapture
//! ```

#[allow(dead_code)]
#[path = "crash/control.rs"]
mod control;
#[allow(dead_code)]
#[path = "crash/scene.rs"]
mod scene;
mod support;
#[allow(dead_code)]
#[path = "crash/sweep.rs"]
mod sweep;
#[allow(dead_code)]
#[path = "crash/trace.rs"]
mod trace;

use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use control::Control;
use hostlock::{Abandoned, Acquired, Barrier, BarrierMember, Error, Once, Queue, lock_all};
use scene::{BOUND, after, end_of_sleeper, look_around, victim};
use sweep::{Case, NAME, OTHER, Plan, sweep};
use trace::Victim;

/// What came of a wait, in [`Control::token`].
const PASSED: u64 = 1;
const LOST: u64 = 2;

/// In a victim: the operation came to its end.
fn done(control: &Control) {
    control.inside.store(1, SeqCst);
}

fn is_done(case: &Case) -> bool {
    case.controls.victim.inside.load(SeqCst) == 1
}

/// In whoever waits: what came of it. A death is noted by the PID.
fn note_outcome<T>(control: &Control, outcome: hostlock::Result<T>) {
    match outcome {
        Ok(_) => control.token.store(PASSED, SeqCst),
        Err(Error::SignalLost { by, .. } | Error::Broken { by, .. }) => {
            control.told.store(by.pid.unwrap_or(0).into(), SeqCst);
            control.token.store(LOST, SeqCst);
        }
        Err(error) => panic!("{error}"),
    }
}

/// What the words say of the stopped victim: what it waits for, and as what it holds the lock.
fn look(case: &mut Case, victim: &Victim) {
    look_at(case, victim, NAME);
    case.dead = vec![victim.pid.as_raw() as u32];
}

/// By which token the victim holds a lock; 0: it does not.
fn look_at(case: &mut Case, victim: &Victim, name: &str) {
    case.note_strays();
    let (raw, word) = (case.raw(), case.word(name));
    let holds = Case::owner_of(&raw, word) == victim.pid.as_raw() as u32;
    case.death.token = if holds { (word >> 16) + raw.u64_at(104) } else { 0 };
}

struct Swept<'a> {
    what: &'a str,
    wavers: bool,
    begin: &'a dyn Fn(&mut Case) -> Option<Victim>,
    meanwhile: &'a dyn Fn(&mut Case, &Victim),
    afterwards: &'a dyn Fn(&mut Case),
}

fn sweep_meeting(swept: &Swept<'_>) {
    let afterwards = |case: &mut Case| {
        (swept.afterwards)(case);
        case.settle();
    };
    let Swept { what, wavers, begin, meanwhile, .. } = *swept;
    sweep(&Plan { what, wavers, begin, meanwhile, afterwards: &afterwards });
}

// Events and latches.

#[test]
fn killed_setting_an_event_it_has_set_it_or_not() {
    let event = |case: &Case| case.space().event(NAME).expect("an event");
    let begin = |case: &mut Case| {
        case.enter();
        let event = event(case);
        case.prepare(|control| note_outcome(control, event.wait()));
        let victim = victim(case, |control| {
            event.set().expect("an event");
            done(control);
        })?;
        case.send_sleeper_to_sleep();
        Some(victim)
    };
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
    sweep_meeting(&Swept { what, wavers: true, begin: &begin, meanwhile: &look, afterwards: &afterwards });

    // Who said before that it will.
    let begin = |case: &mut Case| {
        case.enter();
        let event = event(case);
        case.prepare(|control| note_outcome(control, event.wait()));
        let victim = victim(case, |control| {
            event.announce().expect("nobody else did").set().expect("its own");
            done(control);
        })?;
        case.send_sleeper_to_sleep();
        Some(victim)
    };
    let afterwards = |case: &mut Case| {
        let event = event(case);
        let (is_set, was_announced) = (event.is_set().expect("an event"), case.death.token != 0);
        assert!(!is_done(case) || is_set, "it was set, and is not");
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
    sweep_meeting(&Swept { what, wavers: true, begin: &begin, meanwhile: &look, afterwards: &afterwards });
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
    let begin = |case: &mut Case| {
        case.enter();
        let event = event(case);
        case.prepare(|control| note_outcome(control, event.wait()));
        let victim = victim(case, |control| {
            event.set().expect("an event");
            done(control);
        })?;
        case.send_sleeper_to_sleep();
        Some(victim)
    };
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
    sweep_meeting(&Swept { what, wavers: true, begin: &begin, meanwhile: &look, afterwards: &afterwards });

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
    sweep_meeting(&Swept { what, wavers: false, begin: &begin, meanwhile: &look, afterwards: &afterwards });
}

#[test]
fn killed_counting_it_has_counted_or_is_told_of() {
    let latch = |case: &Case| case.space().latch(NAME, 2).expect("a latch");
    let begin = |case: &mut Case| {
        case.enter();
        let latch = latch(case);
        case.prepare(|control| note_outcome(control, latch.wait()));
        let victim = victim(case, |control| {
            latch.party().expect("a seat").count_down().expect("its own");
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
    sweep_meeting(&Swept { what, wavers: true, begin: &begin, meanwhile: &meanwhile, afterwards: &afterwards });
}

// Barriers.

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
    sweep_meeting(&Swept { what, wavers: true, begin: &begin, meanwhile: &look, afterwards: &afterwards });
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
    sweep_meeting(&Swept { what, wavers: false, begin: &begin, meanwhile: &look, afterwards: &afterwards });
}

// Condition variables.

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
    sweep_meeting(&Swept { what, wavers: true, begin: &begin, meanwhile: &look, afterwards: &afterwards });
}

// What is done once.

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
    sweep_meeting(&Swept { what, wavers: false, begin: &begin, meanwhile: &meanwhile, afterwards: &afterwards });

    let begin = |case: &mut Case| {
        case.enter();
        let (once, join) = (once(case), case.mutex(sweep::JOIN));
        case.prepare(|control| do_it(&once, control));
        let victim = Victim::new(case.controls.victim, |control| {
            sweep::join_in(&join);
            once.call_once(|_| control.begin()).expect("a once");
            done(control);
        })?;
        case.send_sleeper_to_sleep();
        Some(victim)
    };
    let what = "once, its end, somebody waits";
    sweep_meeting(&Swept { what, wavers: true, begin: &begin, meanwhile: &meanwhile, afterwards: &afterwards });
}

// Queues.

/// Torn if its words differ.
type Item = [u64; 3];

fn queue(case: &Case) -> Queue<Item> {
    case.space().queue(NAME, 3).unwrap_or_else(|e| panic!("a survivor cannot have the queue: {e}"))
}

/// What is in the queue, in order; afterwards nothing is.
fn drain(queue: &Queue<Item>) -> Vec<u64> {
    let mut found = Vec::new();
    while !queue.is_empty().expect("a sound queue") {
        let item = queue.pop_for(BOUND).unwrap_or_else(|e| panic!("a survivor is stuck: {e}"));
        assert_eq!(item, [item[0]; 3], "a torn item");
        found.push(item[0]);
    }
    found
}

/// It works as ever, all the way round.
fn judge_queue(queue: &Queue<Item>) {
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
    sweep_meeting(&Swept { what, wavers: false, begin: &begin, meanwhile: &look, afterwards: &afterwards });
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
    sweep_meeting(&Swept { what, wavers: true, begin: &begin, meanwhile: &look, afterwards: &afterwards });

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
    sweep_meeting(&Swept { what, wavers: true, begin: &begin, meanwhile: &look, afterwards: &afterwards });
}

// Data, names, several locks.

#[test]
fn killed_writing_data_it_is_told_of_if_it_was_at_it() {
    const OLD: [u64; 4] = [1; 4];
    const NEW: [u64; 4] = [2; 4];
    let mutex = |case: &Case| case.space().mutex_with(NAME, OLD).expect("data");
    let begin = |case: &mut Case| {
        case.enter();
        let mutex = mutex(case);
        victim(case, |control| {
            let Acquired::Clean(mut guard) = mutex.lock().expect("a free lock") else { panic!("nobody died") };
            *guard = NEW;
            guard.unlock().expect("its own");
            done(control);
        })
    };
    let afterwards = |case: &mut Case| {
        let mutex = mutex(case);
        let expected = case.death.token;
        let guard = match mutex.try_lock_for(BOUND).unwrap_or_else(|e| panic!("a survivor is stuck: {e}")) {
            Acquired::Clean(guard) => {
                assert_eq!(expected, 0, "not told of a death");
                assert!(*guard == NEW || *guard == OLD && !is_done(case), "torn, and nobody is told: {:?}", *guard);
                guard
            }
            Acquired::Abandoned(mut guard) => {
                assert_eq!(guard.abandoned().token, expected, "told of a death");
                *guard = NEW;
                guard.repaired()
            }
        };
        drop(guard);
        assert!(matches!(mutex.try_lock(), Ok(Acquired::Clean(_))), "told twice");
    };
    let what = "lock of data; change; unlock";
    sweep_meeting(&Swept { what, wavers: false, begin: &begin, meanwhile: &look, afterwards: &afterwards });
}

#[test]
fn killed_taking_a_name_away_it_is_gone_or_as_it_was() {
    // Which takes more than half of the room there is.
    let queue = |case: &Case| {
        let queue = case.space().queue::<Item>(NAME, 100);
        queue.unwrap_or_else(|e| panic!("a survivor cannot have the queue: {e}"))
    };
    let begin = |case: &mut Case| {
        case.extents = Some(4096);
        case.enter();
        let other = case.mutex(OTHER);
        case.token = other.lock().expect("a free lock").token();
        let queue = queue(case);
        queue.push([1; 3]).expect("room");
        victim(case, |control| {
            case.space().remove(NAME).expect("nobody uses it");
            done(control);
        })
    };
    let afterwards = |case: &mut Case| {
        let found = drain(&queue(case));
        assert!(found.is_empty() || found == [1] && !is_done(case), "a queue made anew has {found:?}");
        judge_queue(&queue(case));
        assert!(
            case.mutex(OTHER).try_lock().expect("a free lock").token() > case.token,
            "another name lost its tokens"
        );
        case.token = 0;
        // There is room for one such queue, which is not lost.
        for _ in 0..2 {
            case.space().remove(NAME).expect("nobody alive uses it");
            judge_queue(&queue(case));
        }
    };
    let what = "removal of a queue";
    sweep_meeting(&Swept { what, wavers: false, begin: &begin, meanwhile: &look, afterwards: &afterwards });
}

#[test]
fn killed_with_several_locks_it_stops_nobody() {
    let held = Cell::new([0; 2]);
    let begin = |case: &mut Case| {
        case.enter();
        let mutexes = [NAME, OTHER].map(|name| case.mutex(name));
        victim(case, |control| {
            drop(lock_all(&mutexes).expect("free locks"));
            done(control);
        })
    };
    let meanwhile = |case: &mut Case, victim: &Victim| {
        held.set([NAME, OTHER].map(|name| {
            look_at(case, victim, name);
            case.death.token
        }));
    };
    let afterwards = |case: &mut Case| {
        let mutexes = [NAME, OTHER].map(|name| case.mutex(name));
        let told = |dead: Option<&Abandoned>| dead.map_or(0, |dead| dead.token);
        let first = mutexes.each_ref().map(|mutex| {
            let guard = mutex.try_lock_for(BOUND).unwrap_or_else(|e| panic!("a survivor is stuck: {e}"));
            told(guard.abandoned())
        });
        assert_eq!(first, held.get(), "told of a death (with 0 for none), and expected");
        drop(lock_all(&mutexes).expect("free locks"));
        let again = mutexes.each_ref().map(|mutex| told(mutex.try_lock().expect("a free lock").abandoned()));
        assert_eq!(again, [0; 2], "told twice");
    };
    let what = "lock_all of two; unlock";
    sweep_meeting(&Swept { what, wavers: false, begin: &begin, meanwhile: &meanwhile, afterwards: &afterwards });
}

#[test]
fn killed_within_a_reentrant_mutex_it_stops_nobody() {
    let begin = |case: &mut Case| {
        case.enter();
        case.token = case.mutex(NAME).lock().expect("a free lock").token();
        let mutex = case.space().reentrant_mutex(NAME).expect("a mutex");
        victim(case, |control| {
            let outer = mutex.lock().expect("a free lock");
            done(control);
            drop(mutex.lock().expect("its own"));
            control.inside.store(0, SeqCst);
            drop(outer);
        })
    };
    let meanwhile = |case: &mut Case, victim: &Victim| case.look(victim);
    let what = "lock twice; unlock twice";
    sweep_meeting(&Swept { what, wavers: false, begin: &begin, meanwhile: &meanwhile, afterwards: &Case::judge });
}
