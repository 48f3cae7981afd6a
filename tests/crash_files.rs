//! Killed at every instruction, as `tests/crash.rs` does it to segments: in a space of lock files.
//!
//! ```text
//! HOSTLOCK_CRASH=all cargo test --release --test crash_files -- --nocapture
//! ```

#[path = "crash/mod.rs"]
mod crash;
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use crash::control::Control;
use crash::scene::{BOUND, PERMITS, after, end_of_sleeper, leave, look_around, rwlock, semaphore, victim};
use crash::sweep::{Case, NAME, Plan, sweep};
use crash::trace::{self, Forked, Victim};
use crash::words::{Entry, entries, entry};
use hostlock::{Abandoned, Backend, Error};

/// A name that survivors make in the end.
const LAST: &str = "z";

/// What a survivor acquires, and releases: with which token, and told of whom.
type Acquire = fn(&Case) -> (u64, Option<Abandoned>);

const LOCK: Acquire = |case| {
    let mutex = case.mutex(NAME);
    let guard = mutex.try_lock_for(BOUND).unwrap_or_else(|e| panic!("a survivor is stuck: {e}"));
    (guard.token(), guard.abandoned().cloned())
};
const WRITE: Acquire = |case| {
    let rwlock = rwlock(case);
    let guard = rwlock.try_write_for(BOUND).unwrap_or_else(|e| panic!("a survivor is stuck: {e}"));
    (guard.token(), guard.abandoned().cloned())
};
const ALL_PERMITS: Acquire = |case| {
    let semaphore = semaphore(case);
    let all = semaphore.try_acquire_many_for(PERMITS, BOUND).unwrap_or_else(|e| panic!("a survivor is stuck: {e}"));
    let more = semaphore.try_acquire().map(drop);
    assert!(matches!(more, Err(Error::WouldBlock { .. })), "one more than there are: {more:?}");
    (all.token(), all.abandoned().cloned())
};

/// In a victim: says that it holds the lock, by that token.
fn enter(control: &Control, token: u64) {
    control.token.store(token, SeqCst);
    crash::scene::enter(control);
}

/// What has to be told of whoever holds the lock by an entry, if it dies as it is.
fn to_be_told(entry: &Entry, dies: &[u32]) -> u64 {
    match entry.held_as {
        Some(token) if dies.contains(&entry.holder) => token,
        Some(_) => 0,
        None => entry.death,
    }
}

/// What a look at the stopped victim tells of its death.
fn look(case: &mut Case, victim: &Victim) {
    let pid = victim.pid.as_raw() as u32;
    let dies: Vec<u32> = case.dead.iter().copied().chain([pid]).collect();
    case.inode = case.directory().join("files").metadata().map_or(0, |meta| meta.ino());
    let entries = if case.inode == 0 { Vec::new() } else { entries(&case.directory()) };
    let Some(named) = entries.iter().find(|entry| entry.name == NAME) else { return };
    let parts = entries.iter().filter(|part| named.permits().contains(&part.number));
    let mut deaths: Vec<_> = [named].into_iter().chain(parts).map(|it| to_be_told(it, &dies)).collect();
    deaths.retain(|token| *token != 0);
    assert!(deaths.len() <= 2, "it holds more than it acquired: {deaths:?}");
    case.death.token = deaths.first().copied().unwrap_or(0);
    case.death.other = deaths.get(1).copied().unwrap_or(0);
    let control = case.controls.victim;
    if control.inside.load(SeqCst) == 1 {
        assert_eq!(case.death.token, control.token.load(SeqCst), "it holds the lock, and nobody would be told");
    }
    assert!(
        named.token >= case.death.token.max(case.death.other) && named.token >= case.token,
        "a token that was not drawn"
    );
}

/// The same, and nobody has the lock beside a victim that does.
fn look_alone(case: &mut Case, victim: &Victim) {
    look(case, victim);
    if case.controls.victim.inside.load(SeqCst) == 1 {
        let refused = case.mutex(NAME).try_lock().map(|guard| guard.token());
        assert!(matches!(refused, Err(Error::WouldBlock { .. })), "two hold the lock at once: {refused:?}");
    }
}

/// The survivors go on: whoever polls gets the lock, then others do, and nothing is left.
fn judge_by(case: &mut Case, acquire: Acquire) {
    drop(case.guard.take());
    let sleeper = case.controls.sleeper;
    let polled = case.sleeper.is_some();
    end_of_sleeper(case);
    if polled {
        let token = sleeper.token.load(SeqCst);
        assert!(token > case.token, "the token of who polled is {token} after {}", case.token);
        let expected = std::mem::take(&mut case.death.token);
        assert_eq!(sleeper.told.load(SeqCst), expected, "told of a death (with 0 for none), and expected");
    }
    // By whomever it was drawn.
    case.token = entry(&case.directory(), NAME).map_or(case.token, |entry| entry.token.max(case.token));
    for _ in 0..2 {
        let (token, told) = acquire(case);
        case.check(token, told.as_ref());
    }
    settle(case);
}

/// Every lock is free, and there is one file for each entry that was used, and no other.
fn settle(case: &mut Case) {
    drop(case.mutex(LAST).lock().expect("a new name"));
    let entries = entries(&case.directory());
    let mut names: Vec<_> = entries.iter().map(|entry| &entry.name).filter(|name| !name.is_empty()).collect();
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count, "a name has two entries: {names:?}");
    let mut expected = BTreeSet::from(["files".to_string()]);
    for entry in &entries {
        assert!(entry.held_as.is_none() && entry.claim == 0, "still held: {entry:?}");
        if entry.inode != 0 {
            let name = format!("{}.lock", entry.number);
            let meta = case.directory().join(&name).metadata().unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(meta.ino(), entry.inode, "another file is at the place of {entry:?}");
            expected.insert(name);
        }
    }
    let found = fs::read_dir(case.directory()).expect("the space").map(|file| file.expect("a file").file_name());
    let found: BTreeSet<_> = found.map(|name| name.into_string().expect("a name")).collect();
    assert_eq!(found, expected, "the files of the space, and those it should have");
}

/// Lets the one that is prepared go, and waits until it was refused the lock once.
fn send_to_poll(case: &Case) {
    case.controls.sleeper.gate.store(1, SeqCst);
    // It pauses between two attempts, and nowhere else.
    support::wait_until("it polls", || case.sleeper.as_ref().is_some_and(Forked::is_asleep));
}

/// In whoever polled: what it got.
fn tell(control: &Control, victim: &Control, token: u64, told: Option<&Abandoned>) {
    control.token.store(token, SeqCst);
    control.told.store(told.map_or(0, |dead| dead.token), SeqCst);
    look_around(control, victim);
}

struct Swept<'a> {
    what: &'a str,
    wavers: bool,
    begin: &'a dyn Fn(&mut Case) -> Option<Victim>,
    meanwhile: fn(&mut Case, &Victim),
    acquire: Acquire,
}

fn enter_files(case: &mut Case) {
    case.backend = Backend::Files;
    case.locks = 8;
    case.enter();
}

/// Sweeps an operation on the lock, which was acquired before.
fn sweep_in_files(swept: &Swept<'_>) {
    let begin = |case: &mut Case| {
        enter_files(case);
        case.token = (swept.acquire)(case).0;
        (swept.begin)(case)
    };
    let afterwards = |case: &mut Case| judge_by(case, swept.acquire);
    let Swept { what, wavers, meanwhile, .. } = *swept;
    sweep(&Plan { what, wavers, begin: &begin, meanwhile: &meanwhile, afterwards: &afterwards });
}

#[test]
fn killed_with_a_lock_file_it_stops_nobody() {
    let lock = |what: &str, timed: bool| {
        let begin = |case: &mut Case| {
            let mutex = case.mutex(NAME);
            victim(case, |control| {
                let guard = if timed { mutex.try_lock_for(BOUND) } else { mutex.lock() }.expect("a free lock");
                enter(control, guard.token());
                leave(control);
                drop(guard);
            })
        };
        sweep_in_files(&Swept { what, wavers: false, begin: &begin, meanwhile: look_alone, acquire: LOCK });
    };
    lock("lock; unlock", false);
    lock("timed lock; unlock", true);
    // The second time, with the descriptor of the first.
    let begin = |case: &mut Case| {
        let mutex = case.mutex(NAME);
        let once = || drop(mutex.lock().expect("a free lock"));
        after(case, once, |control, ()| {
            let guard = mutex.lock().expect("a free lock");
            enter(control, guard.token());
            leave(control);
            drop(guard);
        })
    };
    let what = "lock; unlock, again";
    sweep_in_files(&Swept { what, wavers: false, begin: &begin, meanwhile: look_alone, acquire: LOCK });
}

#[test]
fn killed_in_its_release_it_leaves_the_lock_to_who_polls() {
    let begin = |case: &mut Case| {
        let mutex = case.mutex(NAME);
        let (mine, state) = (mutex.clone(), case.controls.victim);
        case.prepare(move |control| {
            let guard = mine.lock().expect("the lock");
            tell(control, state, guard.token(), guard.abandoned());
        });
        let lock = || {
            let guard = mutex.lock().expect("a free lock");
            enter(state, guard.token());
            guard
        };
        let holder = after(case, lock, |control, guard| {
            leave(control);
            drop(guard);
        })?;
        send_to_poll(case);
        Some(holder)
    };
    let what = "unlock, somebody polls";
    sweep_in_files(&Swept { what, wavers: true, begin: &begin, meanwhile: look, acquire: LOCK });
}

#[test]
fn killed_while_or_after_it_polled_it_leaves_nothing() {
    // The rest of the wait, from its third pause on: the lock is free then.
    let begin = |case: &mut Case| {
        let mutex = case.mutex(NAME);
        let guard = mutex.lock_owned().expect("a free lock");
        case.token = guard.token();
        let mut victim = victim(case, |control| {
            let guard = mutex.lock().expect("the lock");
            enter(control, guard.token());
            leave(control);
            drop(guard);
        })?;
        let mut pauses = 0;
        while pauses < 3 {
            victim.run_to_call();
            pauses += u32::from(trace::is_pause(&victim));
            victim.run_to_call();
        }
        drop(guard);
        Some(victim)
    };
    let what = "lock that was polled for; unlock";
    sweep_in_files(&Swept { what, wavers: true, begin: &begin, meanwhile: look_alone, acquire: LOCK });

    // With time for one attempt.
    let begin = |case: &mut Case| {
        let mutex = case.mutex(NAME);
        let guard = mutex.lock_owned().expect("a free lock");
        case.token = guard.token();
        case.guard = Some(guard);
        victim(case, |_| {
            let outcome = mutex.try_lock_for(Duration::from_nanos(1));
            assert!(matches!(outcome, Err(Error::TimedOut { .. })));
        })
    };
    let what = "timed lock that times out";
    sweep_in_files(&Swept { what, wavers: true, begin: &begin, meanwhile: look, acquire: LOCK });
}

#[test]
fn killed_reading_or_writing_files_it_stops_nobody() {
    let begin = |case: &mut Case| {
        let rwlock = rwlock(case);
        victim(case, |_| drop(rwlock.read().expect("a free lock")))
    };
    let what = "read; unlock";
    sweep_in_files(&Swept { what, wavers: false, begin: &begin, meanwhile: look, acquire: WRITE });

    let begin = |case: &mut Case| {
        let rwlock = rwlock(case);
        victim(case, |control| {
            let guard = rwlock.write().expect("a free lock");
            enter(control, guard.token());
            leave(control);
            drop(guard);
        })
    };
    let what = "write; unlock";
    sweep_in_files(&Swept { what, wavers: false, begin: &begin, meanwhile: look, acquire: WRITE });

    let begin = |case: &mut Case| {
        let rwlock = rwlock(case);
        let (mine, state) = (rwlock.clone(), case.controls.victim);
        case.prepare(move |control| {
            let guard = mine.write().expect("the lock");
            tell(control, state, guard.token(), guard.abandoned());
        });
        let read = || rwlock.read().expect("a free lock");
        let reader = after(case, read, |_, guard| drop(guard))?;
        send_to_poll(case);
        Some(reader)
    };
    let what = "unlock of a reader, a writer polls";
    sweep_in_files(&Swept { what, wavers: true, begin: &begin, meanwhile: look, acquire: WRITE });
}

#[test]
fn killed_with_permits_of_files_they_come_back() {
    for (what, count) in [("acquire; release", 1), ("acquire two; release", 2)] {
        let begin = |case: &mut Case| {
            let semaphore = semaphore(case);
            victim(case, |_| drop(semaphore.acquire_many(count).expect("free permits")))
        };
        sweep_in_files(&Swept { what, wavers: false, begin: &begin, meanwhile: look, acquire: ALL_PERMITS });
    }
}

#[test]
fn killed_while_following_the_dead_it_is_followed() {
    let begin = |case: &mut Case| {
        let mutex = case.mutex(NAME);
        case.die_holding(&[NAME], false);
        victim(case, |control| {
            let guard = mutex.lock().expect("a dead one's lock");
            enter(control, guard.token());
            leave(control);
            drop(guard);
        })
    };
    let what = "take-over; unlock";
    sweep_in_files(&Swept { what, wavers: false, begin: &begin, meanwhile: look_alone, acquire: LOCK });
}

#[test]
fn killed_while_naming_a_lock_file_it_leaves_names_that_can_be_found() {
    // There is just room for what is wanted: nothing may be lost for good.
    let sweep_new = |what: &str, locks: u32, new: fn(&Case), acquire: Acquire| {
        let begin = |case: &mut Case| {
            case.backend = Backend::Files;
            case.locks = locks;
            case.enter();
            victim(case, |_| new(case))
        };
        sweep(&Plan {
            what,
            wavers: false,
            begin: &begin,
            meanwhile: &look,
            afterwards: &|case: &mut Case| judge_by(case, acquire),
        });
    };
    sweep_new("mutex of a new name", 3, |case| drop(case.mutex(NAME)), LOCK);
    sweep_new("semaphore of a new name", 3 + PERMITS, |case| drop(semaphore(case)), ALL_PERMITS);
    sweep_new("mutex of a new name; lock", 3, |case| drop(case.mutex(NAME).lock().expect("a free lock")), LOCK);
}

#[test]
fn killed_while_taking_a_name_away_it_is_gone_or_there() {
    let sweep_removal = |what: &str, acquire: Acquire| {
        let begin = |case: &mut Case| {
            case.backend = Backend::Files;
            case.locks = 3 + PERMITS;
            case.enter();
            case.token = acquire(case).0;
            victim(case, |_| case.space().remove(NAME).expect("a name that nobody uses"))
        };
        sweep(&Plan {
            what,
            wavers: false,
            begin: &begin,
            meanwhile: &|_, _| (),
            afterwards: &|case: &mut Case| judge_by(case, acquire),
        });
    };
    sweep_removal("removal of a mutex", LOCK);
    sweep_removal("removal of a semaphore", ALL_PERMITS);
}

/// Enters the same space as before, if there was one.
fn enter_after_opener(case: &mut Case) {
    let inode = case.inode;
    case.enter();
    let found: Vec<_> = fs::read_dir(case.directory()).expect("the space").map(|file| file.expect("a file")).collect();
    let made = found.iter().find(|file| file.file_name() == "files").expect("a space");
    if inode != 0 {
        assert_eq!(made.metadata().expect("the space's file").ino(), inode, "a second file was made");
    }
    judge_by(case, LOCK);
}

#[test]
fn killed_while_opening_creating_or_leaving_it_leaves_no_space_or_a_whole_one() {
    let begin = |case: &mut Case| {
        enter_files(case);
        case.token = LOCK(case).0;
        case.space = None;
        Victim::new(case.controls.victim, |control| {
            control.begin();
            std::mem::forget(case.open().expect("the space"));
        })
    };
    sweep(&Plan { what: "open", wavers: false, begin: &begin, meanwhile: &look, afterwards: &enter_after_opener });

    let begin = |case: &mut Case| {
        case.backend = Backend::Files;
        Victim::new(case.controls.victim, |control| {
            control.begin();
            std::mem::forget(case.open().expect("the space"));
        })
    };
    sweep(&Plan { what: "create", wavers: false, begin: &begin, meanwhile: &look, afterwards: &enter_after_opener });

    // With a guard that was leaked, so that there is something to give back.
    let begin = |case: &mut Case| {
        enter_files(case);
        case.token = LOCK(case).0;
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
    sweep(&Plan { what: "leave", wavers: false, begin: &begin, meanwhile: &look, afterwards: &enter_after_opener });
}
