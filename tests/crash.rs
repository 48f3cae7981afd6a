//! Killed at every instruction: a victim is led into an operation one instruction after the other and killed, and the survivors have
//! to go on.
//!
//! The quick form kills at the points that survivors can tell apart (a system call, a change of the segment), next to them,
//! and at every seventh or so. `HOSTLOCK_CRASH=all` kills at all of them:
//!
//! ```text
//! HOSTLOCK_CRASH=all cargo test --release --test crash -- --nocapture
//! ```
//!
//! Only while a waiter spins before it sleeps, where it does nothing but look, its instructions are passed over.

#[allow(dead_code)]
#[path = "crash/control.rs"]
mod control;
mod support;
#[allow(dead_code)]
#[path = "crash/sweep.rs"]
mod sweep;
#[allow(dead_code)]
#[path = "crash/trace.rs"]
mod trace;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use control::Control;
use hostlock::{Error, Mutex, MutexGuard};
use sweep::{Case, JOIN, NAME, OTHER, Plan, join_in, sweep};
use trace::Victim;

/// How a victim acquires: with a deadline far away, or without.
type Acquire = fn(&Mutex) -> hostlock::Result<MutexGuard<'_>>;

const LOCK: Acquire = |mutex| mutex.lock();
const TIMED: Acquire = |mutex| mutex.try_lock_for(Duration::from_secs(3600));

/// Acquires and releases, and says when it believes to hold the lock.
fn lock_and_unlock(mutex: &Mutex, acquire: Acquire, control: &Control) {
    let guard = acquire(mutex).expect("the lock");
    control.inside.store(1, SeqCst);
    control.inside.store(0, SeqCst);
    drop(guard);
}

fn alone(case: &mut Case, acquire: Acquire) -> Option<Victim> {
    case.enter();
    let mutex = case.mutex(NAME);
    case.token = mutex.lock().expect("a free lock").token();
    Victim::new(case.controls.victim, |control| {
        join_in(&mutex);
        control.begin();
        lock_and_unlock(&mutex, acquire, control);
    })
}

/// The victim holds and somebody sleeps; the operation is the release.
fn before_a_sleeper(case: &mut Case, acquire: Acquire) -> Option<Victim> {
    case.enter();
    let mutex = case.mutex(NAME);
    case.prepare_sleeper();
    let holder = Victim::new(case.controls.victim, |control| {
        let guard = acquire(&mutex).expect("the lock");
        control.inside.store(1, SeqCst);
        control.begin();
        control.inside.store(0, SeqCst);
        drop(guard);
    })?;
    case.send_sleeper_to_sleep();
    Some(holder)
}

/// The victim sleeps, somebody else too, and the victim is the one that was woken.
fn woken(case: &mut Case, acquire: Acquire) -> Option<Victim> {
    case.enter();
    let (mutex, join) = (case.mutex(NAME), case.mutex(JOIN));
    // It may happen that its sleep ends by itself first: then once more.
    loop {
        case.prepare_sleeper();
        let mut victim = Victim::new(case.controls.victim, |control| {
            join_in(&join);
            control.begin();
            lock_and_unlock(&mutex, acquire, control);
        })?;
        let guard = mutex.lock_owned().expect("a free lock");
        loop {
            victim.run_to_call();
            if trace::is_futex_wait(&victim) {
                break;
            }
            victim.run_to_call();
        }
        victim.start_to_call();
        support::wait_until("it sleeps, or did", || victim.is_asleep() || victim.is_stopped());
        case.send_sleeper_to_sleep();
        guard.unlock().expect("nobody else released it");
        victim.stopped_at_call();
        if trace::result_of_call(&victim) == 0 {
            return Some(victim);
        }
        victim.kill();
        case.sleeper = None;
        case.space().recover_dead().expect("cleaning up");
        for _ in 0..2 {
            case.token = mutex.lock().expect("a free lock").token();
        }
    }
}

fn look(case: &mut Case, victim: &Victim) {
    case.look(victim);
}

fn barge(case: &mut Case, victim: &Victim) {
    case.barge(victim);
}

/// Sweeps both ways to acquire, in the situation that `begin` makes.
fn sweep_both(
    situation: &str,
    wavers: bool,
    begin: fn(&mut Case, Acquire) -> Option<Victim>,
    meanwhile: &dyn Fn(&mut Case, &Victim),
) {
    for (what, acquire) in [("lock; unlock", LOCK), ("timed lock; unlock", TIMED)] {
        let begin = |case: &mut Case| begin(case, acquire);
        sweep(&Plan {
            what: &format!("{what}, {situation}"),
            wavers,
            begin: &begin,
            meanwhile,
            afterwards: &Case::judge,
        });
    }
}

#[test]
fn killed_alone_it_stops_nobody() {
    sweep_both("alone", false, alone, &look);
}

#[test]
fn killed_while_somebody_sleeps_it_stops_nobody() {
    sweep_both("it holds and someone sleeps", true, before_a_sleeper, &look);
}

#[test]
fn killed_as_the_woken_one_it_stops_nobody() {
    sweep_both("it was woken and another sleeps", true, woken, &look);
}

#[test]
fn killed_while_a_third_party_barges_in_it_stops_nobody() {
    sweep_both("alone, and a third party barges in", false, alone, &barge);
    sweep_both("it holds, someone sleeps, a third party barges in", true, before_a_sleeper, &barge);
    sweep_both("it was woken, another sleeps, a third party barges in", true, woken, &barge);
}

/// Long enough that a victim that is led step by step gets to its sleep before it is over.
const SHORT: Duration = Duration::from_millis(if cfg!(debug_assertions) { 400 } else { 100 });

/// From its beginning, through its sleeps.
#[test]
fn killed_while_its_time_runs_out_it_leaves_nothing() {
    let begin = |case: &mut Case| {
        case.enter();
        let (mutex, join) = (case.mutex(NAME), case.mutex(JOIN));
        case.guard = Some(mutex.lock_owned().expect("a free lock"));
        Victim::new(case.controls.victim, |control| {
            join_in(&join);
            control.begin();
            let outcome = mutex.try_lock_for(SHORT);
            assert!(matches!(outcome, Err(Error::TimedOut { .. })));
        })
    };
    sweep(&Plan {
        what: "timed lock that times out",
        wavers: true,
        begin: &begin,
        meanwhile: &look,
        afterwards: &Case::judge,
    });
}

/// The end of such a wait, from the sleep on: the way there takes another time when it is led.
#[test]
fn killed_after_its_time_ran_out_it_leaves_nothing() {
    let begin = |case: &mut Case| {
        case.enter();
        let (mutex, join) = (case.mutex(NAME), case.mutex(JOIN));
        case.guard = Some(mutex.lock_owned().expect("a free lock"));
        // Now and then the machine is so slow that its time is over before it sleeps: then once more.
        loop {
            let mut victim = Victim::new(case.controls.victim, |control| {
                join_in(&join);
                control.begin();
                let outcome = mutex.try_lock_for(Duration::from_millis(8));
                assert!(matches!(outcome, Err(Error::TimedOut { .. })));
            })?;
            while !victim.has_ended() {
                victim.run_to_call();
                let is_sleep = trace::is_futex_wait(&victim);
                if victim.has_ended() {
                    break;
                }
                victim.run_to_call();
                if is_sleep {
                    return Some(victim);
                }
            }
            victim.kill();
            case.space().recover_dead().expect("cleaning up");
        }
    };
    let what = "timed lock that timed out, to its end";
    sweep(&Plan { what, wavers: true, begin: &begin, meanwhile: &look, afterwards: &Case::judge });
}

#[test]
fn killed_while_joining_or_leaving_it_leaves_nothing() {
    // In the place of somebody who is dead, whom nobody may take it for.
    let begin = |case: &mut Case| {
        case.enter();
        let mutex = case.mutex(NAME);
        case.die_holding(&[JOIN], false);
        case.space().recover_dead().expect("cleaning up");
        Victim::new(case.controls.victim, |control| {
            control.begin();
            join_in(&mutex);
        })
    };
    let meanwhile = |case: &mut Case, victim: &Victim| {
        case.look(victim);
        let is_registered =
            |case: &Case| case.raw().participants().iter().any(|(.., pid)| *pid == victim.pid.as_raw() as u32);
        let was_registered = is_registered(case);
        assert_eq!(case.space().recover_dead().expect("nothing to do"), 0, "somebody alive was cleaned up after");
        assert_eq!(is_registered(case), was_registered);
    };
    sweep(&Plan { what: "join", wavers: false, begin: &begin, meanwhile: &meanwhile, afterwards: &Case::judge });

    // With a guard that was leaked, so that there is something to give back.
    let begin = |case: &mut Case| {
        case.enter();
        case.token = case.mutex(NAME).lock().expect("a free lock").token();
        case.space = None;
        Victim::new(case.controls.victim, |control| {
            let space = case.open().expect("the space");
            let mutex = space.mutex(NAME).expect("a name");
            std::mem::forget(mutex.lock().expect("a free lock"));
            drop(mutex);
            control.begin();
            drop(space);
        })
    };
    let meanwhile = |case: &mut Case, victim: &Victim| {
        // Its guard was leaked, so it marks its own lock as abandoned.
        case.dead.push(victim.pid.as_raw() as u32);
        case.look(victim);
    };
    let afterwards = |case: &mut Case| {
        case.enter();
        case.judge();
    };
    sweep(&Plan { what: "leave", wavers: false, begin: &begin, meanwhile: &meanwhile, afterwards: &afterwards });
}

/// Enters, into the same segment if there was one when the victim died, and finds nothing beside it.
fn enter_after_opener(case: &mut Case) {
    let inode = case.inode;
    case.enter();
    let files: Vec<_> = fs::read_dir(case.directory()).expect("the space").map(|file| file.expect("a file")).collect();
    assert_eq!(files.len(), 1, "something lies beside the segment: {files:?}");
    assert_eq!(files[0].file_name(), "segment");
    if inode != 0 {
        assert_eq!(files[0].metadata().expect("the segment").ino(), inode, "a second segment was made");
    }
    case.judge();
}

#[test]
fn killed_while_opening_or_creating_it_leaves_no_space_or_a_whole_one() {
    let begin = |case: &mut Case| {
        case.enter();
        case.token = case.mutex(NAME).lock().expect("a free lock").token();
        case.space = None;
        Victim::new(case.controls.victim, |control| {
            control.begin();
            std::mem::forget(case.open().expect("the space"));
        })
    };
    sweep(&Plan { what: "open", wavers: false, begin: &begin, meanwhile: &look, afterwards: &enter_after_opener });

    let begin = |case: &mut Case| {
        Victim::new(case.controls.victim, |control| {
            control.begin();
            std::mem::forget(case.open().expect("the space"));
        })
    };
    sweep(&Plan { what: "create", wavers: false, begin: &begin, meanwhile: &look, afterwards: &enter_after_opener });
}

#[test]
fn killed_while_naming_a_lock_it_leaves_names_that_can_be_found() {
    let begin = |case: &mut Case| {
        case.enter();
        let join = case.mutex(JOIN);
        Victim::new(case.controls.victim, |control| {
            join_in(&join);
            control.begin();
            drop(case.mutex(NAME));
        })
    };
    sweep(&Plan {
        what: "mutex of a new name",
        wavers: false,
        begin: &begin,
        meanwhile: &look,
        afterwards: &Case::judge,
    });

    // All entries have a name; the new name had an entry before, with a larger epoch than the one whose entry it gets.
    let begin = |case: &mut Case| {
        case.locks = 2;
        case.enter();
        let acquire = |name: &str, times: usize| {
            let mutex = case.mutex(name);
            (0..times).map(|_| mutex.lock().expect("a free lock").token()).last().expect("more than one")
        };
        let token = acquire(NAME, 9);
        acquire("x", 3);
        acquire("y", 2);
        case.token = token;
        Victim::new(case.controls.victim, |control| {
            case.space().recover_dead().expect("joining");
            control.begin();
            drop(case.mutex(NAME));
        })
    };
    let afterwards = |case: &mut Case| {
        case.judge();
        let mut last = [0; 3];
        for _ in 0..2 {
            for (name, last) in ["x", "y", NAME].into_iter().zip(&mut last) {
                let token = case.mutex(name).lock().expect("a free lock").token();
                assert!(token > *last, "the token of {name} is {token} after {last}");
                *last = token;
            }
        }
        assert_eq!(case.raw().names().len(), 2);
        case.settle();
    };
    sweep(&Plan { what: "reclaim", wavers: false, begin: &begin, meanwhile: &look, afterwards: &afterwards });
}

/// With a lease, from its beginning through a renewal to its end.
#[test]
fn killed_with_a_lease_it_is_followed_at_once() {
    let begin = |case: &mut Case| {
        case.enter();
        let mutex = case.mutex(NAME);
        case.token = mutex.lock().expect("a free lock").token();
        Victim::new(case.controls.victim, |control| {
            join_in(&mutex);
            control.begin();
            let guard = mutex.lock_with_lease(Duration::from_secs(3600)).expect("a free lock");
            control.inside.store(1, SeqCst);
            guard.renew().expect("its own");
            control.inside.store(0, SeqCst);
            guard.unlock().expect("its own");
        })
    };
    let what = "lock with lease; renew; unlock";
    sweep(&Plan { what, wavers: false, begin: &begin, meanwhile: &look, afterwards: &Case::judge });
}

/// A lease of somebody alive ran out. Whoever takes the lock over is killed at that, and the loser stays the loser.
#[test]
fn killed_while_taking_over_from_the_living_it_is_followed() {
    let lost = std::cell::RefCell::new(None);
    let begin = |case: &mut Case| {
        case.enter();
        let mutex = case.mutex(NAME);
        let join = case.mutex(JOIN);
        let guard = mutex.lock_with_lease(Duration::from_millis(1)).expect("a free lock");
        case.token = guard.token();
        support::wait_until("it runs out", || !guard.is_held());
        *lost.borrow_mut() = Some(guard);
        Victim::new(case.controls.victim, |control| {
            join_in(&join);
            control.begin();
            drop(mutex.lock().expect("a lost lock"));
        })
    };
    let afterwards = |case: &mut Case| {
        let loser = lost.borrow_mut().take().expect("it was lost");
        assert!(loser.renew().is_err() && !loser.is_held());
        let mutex = case.mutex(NAME);
        // Whatever the victim came to: the lock is to be had, by a larger token, and what was lost stays lost.
        let first = mutex.try_lock_for(Duration::from_secs(20)).expect("a survivor is not stuck");
        assert!(first.token() > loser.token());
        assert!(loser.unlock().is_err() && first.is_held(), "the loser ended another's acquisition");
        let token = first.token();
        drop(first);
        let second = mutex.try_lock().expect("a free lock");
        assert!(second.token() > token && second.abandoned().is_none());
        drop(second);
        case.settle();
    };
    let what = "take-over from the living; unlock";
    sweep(&Plan { what, wavers: false, begin: &begin, meanwhile: &|_, _| (), afterwards: &afterwards });
}

/// A process died with two locks, and before it one that waited for the first.
fn after_a_death(case: &mut Case, what: impl FnOnce(&Case)) -> Option<Victim> {
    case.enter();
    let join = case.mutex(JOIN);
    for name in [NAME, OTHER] {
        drop(case.mutex(name));
    }
    let victim = Victim::new(case.controls.victim, |control| {
        join_in(&join);
        control.begin();
        what(case);
    })?;
    case.die_holding(&[NAME, OTHER], true);
    Some(victim)
}

/// As ever, and of the other lock somebody is told once, too.
fn judge_both(case: &mut Case) {
    case.judge();
    let mutex = case.mutex(OTHER);
    let [first, second] = [(); 2].map(|()| {
        let guard = mutex.try_lock().expect("a lock that was given back");
        (guard.token(), guard.abandoned().map(|dead| (dead.token, dead.pid)))
    });
    assert_eq!(first.1, Some((first.0 - 1, Some(case.dead[0]))), "told of the death");
    assert_eq!(second, (first.0 + 1, None), "told twice");
    case.settle();
}

#[test]
fn killed_while_cleaning_up_it_leaves_the_rest_to_others() {
    let begin = |case: &mut Case| {
        after_a_death(case, |case| {
            case.space().recover_dead().expect("cleaning up");
        })
    };
    sweep(&Plan { what: "recovery", wavers: false, begin: &begin, meanwhile: &look, afterwards: &judge_both });

    let begin = |case: &mut Case| after_a_death(case, |case| drop(case.mutex(NAME).lock().expect("a dead one's lock")));
    sweep(&Plan { what: "take-over; unlock", wavers: false, begin: &begin, meanwhile: &look, afterwards: &judge_both });

    // The table is full, of the dead one and of the test.
    let begin = |case: &mut Case| {
        case.participants = 2;
        case.enter();
        let join = case.mutex(JOIN);
        case.die_holding(&[NAME, OTHER], false);
        Victim::new(case.controls.victim, |control| {
            control.begin();
            join_in(&join);
        })
    };
    sweep(&Plan { what: "join a full table", wavers: false, begin: &begin, meanwhile: &look, afterwards: &judge_both });
}
