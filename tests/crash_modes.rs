//! Killed at every instruction, as `tests/crash.rs` does it to the mutex: readers and writers, holders of permits, and whoever changes data.
//!
//! ```text
//! HOSTLOCK_CRASH=all cargo test --release --test crash_modes -- --nocapture
//! ```

#[path = "crash/mod.rs"]
mod crash;
mod support;

use std::ops::Range;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crash::control::{ENDED, READY};
use crash::scene::{
    BOUND, PERMITS, after, end_of_sleeper, enter, leave, look_around, note, put_to_sleep, rwlock, semaphore, victim,
};
use crash::sweep::{Case, JOIN, NAME, OTHER, Plan, join_in, sweep};
use crash::trace::{Forked, Victim};
use hostlock::{Error, RwLock};

/// Long enough that a victim that is led step by step gets to its sleep before it is over.
const SHORT: Duration = Duration::from_millis(if cfg!(debug_assertions) { 150 } else { 100 });

// Readers and writers.

/// Survivors write, are told if the victim had written, and read.
fn judge_rwlock(case: &mut Case) {
    drop(case.guard.take());
    end_of_sleeper(case);
    if let Some(kept) = case.kept.take() {
        drop(kept.try_read_for(BOUND).unwrap_or_else(|e| panic!("a reader is stuck: {e}")));
    }
    let rwlock = rwlock(case);
    // Said by the words: the last writer that went in did not come out.
    let raw = case.raw();
    let entry = raw.entry(NAME).expect("an entry");
    let (owner, went_in) = (entry.owner, raw.u64_at(entry.at + 56));
    let died_inside = owner & 1 != 0 || owner & 0xFFFC != 0 && owner >> 16 == went_in;
    // Others may have had the word since, who did not write.
    let died_as = raw.u64_at(104) + went_in;
    let guard = rwlock.try_write_for(BOUND).unwrap_or_else(|e| panic!("a survivor is stuck: {e}"));
    assert!(guard.token() > case.token, "the token is {} after {}", guard.token(), case.token);
    assert_eq!(guard.abandoned().map(|dead| dead.token), died_inside.then_some(died_as), "told of the death");
    let token = guard.token();
    drop(guard);
    let guard = rwlock.try_write_for(BOUND).expect("a free lock");
    assert!(guard.abandoned().is_none() && guard.token() > token, "told twice");
    let token = guard.token();
    drop(guard);
    let (first, second) = (rwlock.try_read().expect("a free lock"), rwlock.try_read().expect("shared"));
    assert_eq!((first.token(), second.token()), (token, token), "a reader has the token of the last write");
    drop((first, second));
    case.settle();
}

fn sweep_rwlock(what: &str, wavers: bool, begin: &dyn Fn(&mut Case) -> Option<Victim>) {
    let begin = |case: &mut Case| {
        case.enter();
        case.token = rwlock(case).write().expect("a free lock").token();
        begin(case)
    };
    sweep(&Plan { what, wavers, begin: &begin, meanwhile: &note, afterwards: &judge_rwlock });
}

#[test]
fn killed_reading_it_holds_back_no_writer() {
    sweep_rwlock("read; unlock, alone", false, &|case| {
        let rwlock = rwlock(case);
        victim(case, |control| {
            let guard = rwlock.read().expect("a free lock");
            enter(control);
            leave(control);
            drop(guard);
        })
    });
    // The second time: it has a cell by then.
    sweep_rwlock("read; unlock, again", false, &|case| {
        let rwlock = rwlock(case);
        let once = || drop(rwlock.read().expect("a free lock"));
        after(case, once, |_, ()| drop(rwlock.try_read_for(BOUND).expect("a free lock")))
    });
}

#[test]
fn killed_while_a_writer_waits_for_it_it_holds_it_up_no_longer() {
    sweep_rwlock("unlock of a reader, a writer waits", true, &|case| {
        let rwlock = rwlock(case);
        let (mine, state) = (rwlock.clone(), case.controls.victim);
        case.prepare(move |control| {
            let guard = mine.write().expect("the lock");
            look_around(control, state);
            drop(guard);
        });
        let acquire = || {
            let guard = rwlock.read().expect("a free lock");
            enter(state);
            guard
        };
        let reader = after(case, acquire, |control, guard| {
            leave(control);
            drop(guard);
        })?;
        case.send_sleeper_to_sleep();
        Some(reader)
    });
}

#[test]
fn killed_writing_it_is_told_of_if_it_was_inside() {
    sweep_rwlock("write; unlock, alone", false, &|case| {
        let rwlock = rwlock(case);
        victim(case, |control| {
            let guard = rwlock.write().expect("a free lock");
            enter(control);
            leave(control);
            drop(guard);
        })
    });
    sweep_rwlock("unlock of a writer, a reader sleeps", true, &|case| {
        let rwlock = rwlock(case);
        let (mine, state) = (rwlock.clone(), case.controls.victim);
        case.prepare(move |control| {
            let guard = mine.read().expect("the lock");
            look_around(control, state);
            drop(guard);
        });
        let acquire = || {
            let guard = rwlock.write().expect("a free lock");
            enter(state);
            guard
        };
        let writer = after(case, acquire, |control, guard| {
            leave(control);
            drop(guard);
        })?;
        case.send_sleeper_to_sleep();
        Some(writer)
    });
}

#[test]
fn killed_while_it_waits_for_readers_it_lets_them_go_on() {
    let begin = |case: &mut Case| {
        case.enter();
        let rwlock = rwlock(case);
        case.token = rwlock.write().expect("a free lock").token();
        // Held by the test until the victim is dead.
        std::mem::forget(rwlock.read().expect("a free lock"));
        victim(case, |_| {
            let outcome = rwlock.try_write_for(SHORT);
            assert!(matches!(outcome, Err(Error::TimedOut { .. })));
        })
    };
    let afterwards = |case: &mut Case| {
        let rwlock = rwlock(case);
        // Not held back by whoever waited and is dead.
        drop(rwlock.try_read_for(BOUND).unwrap_or_else(|e| panic!("a reader is stuck: {e}")));
        let refused = rwlock.try_write().map(drop);
        assert!(matches!(refused, Err(Error::WouldBlock { .. })), "a writer beside a reader: {refused:?}");
        // The test leaves, and what it forgot is given back.
        drop(rwlock);
        case.space = None;
        case.enter();
        judge_rwlock(case);
    };
    let what = "timed write that times out behind a reader";
    sweep(&Plan { what, wavers: true, begin: &begin, meanwhile: &note, afterwards: &afterwards });
}

#[test]
fn killed_changing_from_one_to_the_other_it_stops_nobody() {
    sweep_rwlock("downgrade; unlock", false, &|case| {
        let rwlock = rwlock(case);
        victim(case, |_| drop(rwlock.write().expect("a free lock").downgrade()))
    });
    sweep_rwlock("upgrade; unlock", false, &|case| {
        let rwlock = rwlock(case);
        victim(case, |_| {
            let guard = rwlock.read().expect("a free lock").upgrade();
            drop(guard.unwrap_or_else(|refused| panic!("{}", refused.error)));
        })
    });
}

// Readers by lines.

/// Reads as often as it takes for the next read to be by a line.
fn read_much(rwlock: &RwLock) {
    (0..2500).for_each(|_| drop(rwlock.read().expect("a free lock")));
}

/// Of so many lent lines there is word in the segment when the victim is stopped.
fn sweep_line(what: &str, lent: Range<u32>, wavers: bool, begin: &dyn Fn(&mut Case) -> Option<Victim>) {
    let begin = |case: &mut Case| {
        case.enter();
        case.token = rwlock(case).write().expect("a free lock").token();
        begin(case)
    };
    let meanwhile = |case: &mut Case, victim: &Victim| {
        let seen = case.raw().lines_lent();
        assert!(lent.contains(&seen), "{seen} lines are lent");
        note(case, victim);
    };
    sweep(&Plan { what, wavers, begin: &begin, meanwhile: &meanwhile, afterwards: &judge_rwlock });
}

#[test]
fn killed_reading_by_a_line_it_holds_back_no_writer() {
    sweep_line("read by a line; unlock", 1..2, false, &|case| {
        let rwlock = rwlock(case);
        after(case, || read_much(&rwlock), |_, ()| drop(rwlock.read().expect("a free lock")))
    });
    // Somewhere in these it is lent.
    sweep_line("reads of which one opens a line", 0..2, false, &|case| {
        let rwlock = rwlock(case);
        let before = || (0..2000).for_each(|_| drop(rwlock.read().expect("a free lock")));
        after(case, before, |_, ()| (0..3).for_each(|_| drop(rwlock.read().expect("a free lock"))))
    });
    sweep_line("a handle that has a line goes", 0..2, false, &|case| {
        let rwlock = rwlock(case);
        let handle = || {
            let handle = rwlock.clone();
            read_much(&handle);
            handle
        };
        after(case, handle, |_, handle| drop(handle))
    });
}

#[test]
fn killed_writing_where_somebody_may_read_by_a_line_it_leaves_none_beside_the_next_writer() {
    sweep_line("write where a line is open", 1..2, false, &|case| {
        let rwlock = rwlock(case);
        read_much(&rwlock);
        let writer = victim(case, |_| drop(rwlock.write().expect("a free lock")));
        // It stays open until the victim shuts it.
        case.kept = Some(rwlock);
        writer
    });
    sweep_line("a name given up while a line is open", 0..2, false, &|case| {
        let rwlock = rwlock(case);
        read_much(&rwlock);
        let space = case.space().clone();
        let giver = victim(case, |_| space.remove(NAME).expect("a name that nobody uses"));
        case.kept = Some(rwlock);
        giver
    });
}

#[test]
fn killed_while_it_waits_for_a_reader_by_a_line_it_lets_it_go_on() {
    let begin = |case: &mut Case| {
        case.enter();
        let rwlock = rwlock(case);
        case.token = rwlock.write().expect("a free lock").token();
        read_much(&rwlock);
        std::mem::forget(rwlock.read().expect("a free lock"));
        assert_eq!(case.raw().lines_lent(), 1);
        let writer = victim(case, |_| {
            let outcome = rwlock.try_write_for(SHORT);
            assert!(matches!(outcome, Err(Error::TimedOut { .. })));
        });
        // By its line it reads for as long as the handle is there, and after that.
        case.kept = Some(rwlock);
        writer
    };
    let afterwards = |case: &mut Case| {
        let other = rwlock(case);
        drop(other.try_read_for(BOUND).unwrap_or_else(|e| panic!("a reader is stuck: {e}")));
        let refused = other.try_write().map(drop);
        assert!(matches!(refused, Err(Error::WouldBlock { .. })), "a writer beside a reader: {refused:?}");
        drop((other, case.kept.take()));
        case.space = None;
        case.enter();
        judge_rwlock(case);
    };
    let what = "timed write that times out behind a reader by a line";
    sweep(&Plan { what, wavers: true, begin: &begin, meanwhile: &note, afterwards: &afterwards });
}

// Permits.

/// Survivors get all permits, and no more; each death is told of once.
fn judge_semaphore(case: &mut Case) {
    end_of_sleeper(case);
    let semaphore = semaphore(case);
    let all = semaphore.try_acquire_many_for(PERMITS, BOUND).unwrap_or_else(|e| panic!("a survivor is stuck: {e}"));
    assert!(all.token() > case.token, "the token is {} after {}", all.token(), case.token);
    let more = semaphore.try_acquire().map(drop);
    assert!(matches!(more, Err(Error::WouldBlock { .. })), "one more than there are: {more:?}");
    let token = all.token();
    drop(all);
    let each: Vec<_> = (0..PERMITS).map(|_| semaphore.try_acquire().expect("a free permit")).collect();
    assert!(each.iter().all(|permit| permit.abandoned().is_none() && permit.token() > token), "told twice");
    drop(each);
    assert_eq!(semaphore.available().expect("a sound semaphore"), PERMITS);
    case.settle();
}

fn sweep_semaphore(what: &str, wavers: bool, begin: &dyn Fn(&mut Case) -> Option<Victim>) {
    let begin = |case: &mut Case| {
        case.enter();
        case.token = semaphore(case).acquire().expect("a free permit").token();
        begin(case)
    };
    sweep(&Plan { what, wavers, begin: &begin, meanwhile: &note, afterwards: &judge_semaphore });
}

#[test]
fn killed_with_a_permit_or_many_they_come_back() {
    sweep_semaphore("acquire; release, alone", false, &|case| {
        let semaphore = semaphore(case);
        victim(case, |_| drop(semaphore.acquire().expect("a free permit")))
    });
    sweep_semaphore("acquire two; release, alone", false, &|case| {
        let semaphore = semaphore(case);
        victim(case, |_| drop(semaphore.acquire_many(2).expect("free permits")))
    });
}

#[test]
fn killed_in_its_release_it_stops_nobody_who_waits() {
    sweep_semaphore("release of all permits, somebody sleeps", true, &|case| {
        let semaphore = semaphore(case);
        let (mine, state) = (semaphore.clone(), case.controls.victim);
        case.prepare(move |control| {
            let permit = mine.acquire().expect("a permit");
            look_around(control, state);
            drop(permit);
        });
        let acquire = || {
            let permits = semaphore.acquire_many(PERMITS).expect("free permits");
            enter(state);
            permits
        };
        let holder = after(case, acquire, |control, permits| {
            leave(control);
            drop(permits);
        })?;
        case.send_sleeper_to_sleep();
        Some(holder)
    });
}

#[test]
fn killed_while_it_collects_permits_all_come_back() {
    let begin = |case: &mut Case| {
        case.enter();
        let semaphore = semaphore(case);
        let permit = semaphore.acquire().expect("a free permit");
        case.token = permit.token();
        // Held by the test until the victim is dead.
        std::mem::forget(permit);
        victim(case, |_| {
            let outcome = semaphore.try_acquire_many_for(PERMITS, SHORT);
            assert!(matches!(outcome, Err(Error::TimedOut { .. })));
        })
    };
    let afterwards = |case: &mut Case| {
        case.space = None;
        case.enter();
        judge_semaphore(case);
    };
    let what = "timed acquire of all that times out";
    sweep(&Plan { what, wavers: true, begin: &begin, meanwhile: &note, afterwards: &afterwards });
}

/// What a survivor waits for a stopped victim, which is long enough to look whether it waits for ever.
const LOOK: Duration = Duration::from_millis(25);

/// Whoever has got all that it waited for waits for nobody, whatever its record says until it takes that back.
#[test]
fn stopped_with_the_permits_it_waited_for_it_is_part_of_no_deadlock() {
    let begin = |case: &mut Case| {
        case.enter();
        let (semaphore, mutex, join) = (semaphore(case), case.mutex(OTHER), case.mutex(JOIN));
        case.token = semaphore.acquire().expect("a free permit").token();
        // A process of one thread has the permit that the victim does not want, and waits for what the victim has.
        case.sleeper = Some(Forked::new(case.controls.sleeper, |control| {
            join_in(&join);
            let permit = semaphore.acquire().expect("a free permit");
            control.wait_at_gate();
            let outcome = mutex.try_lock_for(LOOK).map(drop);
            control.told.store(u64::from(matches!(outcome, Err(Error::Deadlock { .. }))), SeqCst);
            drop(permit);
        }));
        case.controls.sleeper.wait_for(READY, "a process does not get its permit");
        let wanted = semaphore.acquire_many_owned(2).expect("free permits");
        let lock = || mutex.lock().expect("a free lock");
        let mut victim = after(case, lock, |_, guard| {
            drop(semaphore.acquire_many(2).expect("permits"));
            drop(guard);
        })?;
        put_to_sleep(&mut victim);
        drop(wanted);
        victim.stopped_at_call();
        Some(victim)
    };
    let meanwhile = |case: &mut Case, victim: &Victim| {
        note(case, victim);
        let waits = case.controls.sleeper;
        waits.gate.store(1, SeqCst);
        waits.wait_for(ENDED, "a wait for a stopped process does not end");
        assert_eq!(waits.told.load(SeqCst), 0, "told of a deadlock that is none");
    };
    let what = "acquire two, which it waited for; release";
    sweep(&Plan { what, wavers: true, begin: &begin, meanwhile: &meanwhile, afterwards: &judge_semaphore });
}
