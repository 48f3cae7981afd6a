//! What changes more than a word: data, names, several locks, one lock several times.

use std::cell::Cell;
use std::sync::atomic::Ordering::SeqCst;

use hostlock::{Abandoned, Acquired, lock_all};

use crate::crash::scene::{self, BOUND, victim};
use crate::crash::sweep::{Case, NAME, OTHER, Plan};
use crate::crash::trace::Victim;
use crate::queues::{Item, drain, judge_queue};
use crate::{done, is_done, look, look_at, sweep_meeting};

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
    sweep_meeting(&Plan { what, wavers: false, begin: &begin, meanwhile: &look, afterwards: &afterwards });
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
    sweep_meeting(&Plan { what, wavers: false, begin: &begin, meanwhile: &look, afterwards: &afterwards });
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
    sweep_meeting(&Plan { what, wavers: false, begin: &begin, meanwhile: &meanwhile, afterwards: &afterwards });
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
    let what = "lock twice; unlock twice";
    sweep_meeting(&Plan { what, wavers: false, begin: &begin, meanwhile: &scene::look, afterwards: &Case::judge });
}
