//! Pairs of operations on a read-write lock, and on permits.

use std::sync::atomic::Ordering::SeqCst;

use hostlock::{Error, RwLock, RwLockReadGuard, RwLockWriteGuard, Semaphore, SemaphorePermit};

use super::control::{ALONE, Control, SHARED};
use super::pairs::{Pair, play};
use super::scene::{others, to_sleep, told, walker};
use super::story::Story;
use super::sweep::{BOUND, Case, NAME};
use super::walker::Walker;

// Readers and writers.

pub fn rwlock(case: &Case) -> RwLock {
    case.space().rwlock(NAME).expect("a read-write lock")
}

/// Comes, reads or writes, and goes.
pub type Visit = fn(&RwLock, &Control, &[&Control]);

fn read<'a>(rwlock: &'a RwLock, control: &Control, others: &[&Control]) -> RwLockReadGuard<'a> {
    let guard = rwlock.read().expect("the lock");
    control.enter(guard.token(), told(guard.abandoned()), SHARED, others);
    guard
}

fn write<'a>(rwlock: &'a RwLock, control: &Control, others: &[&Control]) -> RwLockWriteGuard<'a> {
    let guard = rwlock.write().expect("the lock");
    control.enter(guard.token(), told(guard.abandoned()), ALONE, others);
    guard
}

const READ: Visit = |rwlock, control, others| {
    let guard = read(rwlock, control, others);
    control.exit();
    drop(guard);
};

pub const WRITE: Visit = |rwlock, control, others| {
    let guard = write(rwlock, control, others);
    control.exit();
    guard.unlock().expect("its own");
};

const UPGRADE: Visit = |rwlock, control, others| {
    match read(rwlock, control, others).upgrade() {
        Ok(guard) => {
            control.enter(guard.token(), told(guard.abandoned()), ALONE, others);
            control.exit();
            drop(guard);
        }
        // Somebody waits for it to leave.
        Err(refused) => {
            assert!(matches!(refused.error, Error::WouldBlock { .. }), "{}", refused.error);
            control.exit();
            drop(refused.guard);
        }
    }
};

const DOWNGRADE: Visit = |rwlock, control, others| {
    let guard = write(rwlock, control, others);
    // Before: other readers may come in at once.
    control.inside.store(SHARED, SeqCst);
    let guard = guard.downgrade().unwrap_or_else(|refused| panic!("{}", refused.error));
    control.exit();
    drop(guard);
};

pub fn visitor(case: &Case, control: &'static Control, visit: Visit) -> Option<Walker> {
    let (rwlock, others) = (rwlock(case), others(case));
    walker(case, control, |_| (), |control, ()| visit(&rwlock, control, &others))
}

/// The same, of somebody who has a cell, as it has read before.
fn regular(case: &Case, control: &'static Control, visit: Visit) -> Option<Walker> {
    let (rwlock, others) = (rwlock(case), others(case));
    let prepare = |_: &Control| drop(rwlock.read().expect("a free lock"));
    walker(case, control, prepare, |control, ()| visit(&rwlock, control, &others))
}

/// Reads, and is about to leave.
fn reader(case: &Case, control: &'static Control) -> Option<Walker> {
    let (rwlock, others) = (rwlock(case), others(case));
    let leave = |control: &Control, guard: RwLockReadGuard<'_>| {
        control.exit();
        drop(guard);
    };
    walker(case, control, |control| read(&rwlock, control, &others), leave)
}

/// Writes, and is about to let go.
fn writer(case: &Case, control: &'static Control) -> Option<Walker> {
    let (rwlock, others) = (rwlock(case), others(case));
    let leave = |control: &Control, guard: RwLockWriteGuard<'_>| {
        control.exit();
        guard.unlock().expect("its own");
    };
    walker(case, control, |control| write(&rwlock, control, &others), leave)
}

fn play_rwlock(what: &str, begin: &dyn Fn(&mut Case) -> Option<Vec<Walker>>) {
    let begin = |case: &mut Case| {
        case.enter();
        case.token = rwlock(case).write().expect("a free lock").token();
        begin(case)
    };
    play(&Pair {
        what,
        begin: &begin,
        between: &|_| (),
        meanwhile: &|_, _| (),
        holds: &holds_writing,
        afterwards: &judge_rwlock,
    });
}

/// The token by which the process writes.
pub fn holds_writing(case: &Case, pid: u32) -> Vec<u64> {
    let raw = case.raw();
    let entry = raw.entry(NAME).expect("an entry");
    let went_in = raw.u64_at(entry.at + 56);
    let is_its = Case::owner_of(&raw, entry.owner) == pid && entry.owner >> 16 == went_in;
    is_its.then(|| went_in + raw.u64_at(104)).into_iter().collect()
}

/// Survivors write, whoever has to be told was, and then read side by side.
pub fn judge_rwlock(case: &mut Case, mut story: Story) {
    let rwlock = rwlock(case);
    for _ in 0..2 {
        let guard = rwlock.try_write_for(BOUND).unwrap_or_else(|e| panic!("a survivor is stuck: {e}"));
        story.add(guard.token(), told(guard.abandoned()));
    }
    story.judge();
    let [first, second] = [(); 2].map(|()| rwlock.try_read().expect("a free lock, and shared"));
    assert!(first.abandoned().is_none() && second.abandoned().is_none(), "told twice");
    drop((first, second));
    case.settle();
}

#[test]
fn readers_and_writers_come_in_one_after_the_other() {
    for (what, visits) in [
        ("read; write", [READ, WRITE]),
        ("write; read", [WRITE, READ]),
        ("write; write", [WRITE, WRITE]),
        ("read; read", [READ, READ]),
    ] {
        play_rwlock(what, &|case| {
            let [first, second] = [case.controls.victim, case.controls.second];
            Some(vec![regular(case, first, visits[0])?, regular(case, second, visits[1])?])
        });
    }
}

#[test]
fn of_two_that_read_for_the_first_time_each_has_its_own_cell() {
    play_rwlock("read for the first time; the same", &|case| {
        let [first, second] = [case.controls.victim, case.controls.second];
        Some(vec![visitor(case, first, READ)?, visitor(case, second, READ)?])
    });
}

#[test]
fn who_changes_sides_excludes_and_lets_in_whom_it_has_to() {
    for (what, visits) in [
        ("read, upgrade; write", [UPGRADE, WRITE]),
        ("read, upgrade; read", [UPGRADE, READ]),
        ("write, downgrade; read", [DOWNGRADE, READ]),
        ("write, downgrade; write", [DOWNGRADE, WRITE]),
    ] {
        play_rwlock(what, &|case| {
            let [first, second] = [case.controls.victim, case.controls.second];
            Some(vec![regular(case, first, visits[0])?, regular(case, second, visits[1])?])
        });
    }
}

#[test]
fn who_leaves_beside_whoever_comes_loses_no_sleeper() {
    play_rwlock("a reader leaves, a writer sleeps; read", &|case| {
        let [first, second, third] = [case.controls.victim, case.controls.second, case.controls.sleeper];
        let (reader, comer) = (reader(case, first)?, regular(case, second, READ)?);
        Some(vec![reader, comer, to_sleep(regular(case, third, WRITE)?)])
    });
    play_rwlock("a writer lets go, a reader sleeps; write", &|case| {
        let [first, second, third] = [case.controls.victim, case.controls.second, case.controls.sleeper];
        let (sleeper, comer) = (regular(case, third, READ)?, regular(case, second, WRITE)?);
        let writer = writer(case, first)?;
        Some(vec![writer, comer, to_sleep(sleeper)])
    });
    play_rwlock("a reader leaves; another one leaves; a writer sleeps", &|case| {
        let [first, second, third] = [case.controls.victim, case.controls.second, case.controls.sleeper];
        let readers = [reader(case, first)?, reader(case, second)?];
        let mut walkers = Vec::from(readers);
        walkers.push(to_sleep(visitor(case, third, WRITE)?));
        Some(walkers)
    });
}

// Permits.

pub fn semaphore(case: &Case, permits: u32) -> Semaphore {
    case.space().semaphore(NAME, permits).expect("a semaphore")
}

/// Has so many permits of all that there are.
fn have<'a>(
    semaphore: &'a Semaphore,
    count: u32,
    how: u64,
    control: &Control,
    others: &[&Control],
) -> SemaphorePermit<'a> {
    let permit = semaphore.acquire_many(count).expect("the permits");
    control.enter(permit.token(), told(permit.abandoned()), how, others);
    permit
}

fn give_back(control: &Control, permit: SemaphorePermit<'_>) {
    control.exit();
    permit.unlock().expect("its own");
}

/// Comes, acquires so many permits of `of`, and gives them back.
pub fn taker(case: &Case, control: &'static Control, count: u32, of: u32) -> Option<Walker> {
    let (semaphore, others, how) = (semaphore(case, of), others(case), if count == of { ALONE } else { SHARED });
    walker(case, control, |_| (), |control, ()| give_back(control, have(&semaphore, count, how, control, &others)))
}

/// Has so many, and gives them back.
fn giver(case: &Case, control: &'static Control, count: u32, of: u32) -> Option<Walker> {
    let (semaphore, others, how) = (semaphore(case, of), others(case), if count == of { ALONE } else { SHARED });
    walker(case, control, |control| have(&semaphore, count, how, control, &others), give_back)
}

fn play_semaphore(what: &str, of: u32, begin: &dyn Fn(&mut Case) -> Option<Vec<Walker>>) {
    let begin = |case: &mut Case| {
        case.enter();
        case.token = semaphore(case, of).acquire().expect("a free permit").token();
        begin(case)
    };
    let holds = |case: &Case, pid| holds_permits(case, of, pid);
    let afterwards = |case: &mut Case, story: Story| judge_permits(case, of, story);
    play(&Pair {
        what,
        begin: &begin,
        between: &|_| (),
        meanwhile: &|_, _| (),
        holds: &holds,
        afterwards: &afterwards,
    });
}

/// The tokens of the permits that the process has.
pub fn holds_permits(case: &Case, of: u32, pid: u32) -> Vec<u64> {
    let holders = semaphore(case, of).holders().expect("a sound semaphore");
    holders.into_iter().filter(|holder| holder.pid == pid).map(|holder| holder.token).collect()
}

/// Survivors get all permits, and no more, and each death is told of once, but of several that one has to be told of.
pub fn judge_permits(case: &mut Case, of: u32, mut story: Story) {
    let semaphore = semaphore(case, of);
    let all = semaphore.try_acquire_many_for(of, BOUND).unwrap_or_else(|e| panic!("a survivor is stuck: {e}"));
    let more = semaphore.try_acquire().map(drop);
    assert!(matches!(more, Err(Error::WouldBlock { .. })), "one more than there are: {more:?}");
    story.add(all.token(), told(all.abandoned()));
    let largest = all.token();
    drop(all);
    let each: Vec<_> = (0..of).map(|_| semaphore.try_acquire().expect("a free permit")).collect();
    assert!(each.iter().all(|permit| permit.abandoned().is_none() && permit.token() > largest), "told twice");
    drop(each);
    if of == 1 {
        story.judge();
    } else {
        story.judge_permits();
    }
    assert_eq!(semaphore.available().expect("a sound semaphore"), of);
    case.settle();
}

#[test]
fn of_two_that_want_the_only_permit_one_has_it() {
    play_semaphore("acquire the only permit; the same", 1, &|case| {
        Some(vec![taker(case, case.controls.victim, 1, 1)?, taker(case, case.controls.second, 1, 1)?])
    });
}

#[test]
fn of_two_that_want_both_permits_one_has_them() {
    play_semaphore("acquire both permits; the same", 2, &|case| {
        Some(vec![taker(case, case.controls.victim, 2, 2)?, taker(case, case.controls.second, 2, 2)?])
    });
    play_semaphore("acquire one of two permits; both", 2, &|case| {
        Some(vec![taker(case, case.controls.victim, 1, 2)?, taker(case, case.controls.second, 2, 2)?])
    });
}

#[test]
fn who_gives_permits_back_beside_whoever_wants_them_loses_no_sleeper() {
    play_semaphore("release of a permit; acquire both", 2, &|case| {
        Some(vec![giver(case, case.controls.victim, 1, 2)?, taker(case, case.controls.second, 2, 2)?])
    });
    play_semaphore("release of the only permit, somebody sleeps; acquire it", 1, &|case| {
        let giver = giver(case, case.controls.victim, 1, 1)?;
        let sleeper = to_sleep(taker(case, case.controls.sleeper, 1, 1)?);
        Some(vec![giver, taker(case, case.controls.second, 1, 1)?, sleeper])
    });
    play_semaphore("release of a permit; of another; somebody who wants both sleeps", 2, &|case| {
        let givers = [giver(case, case.controls.victim, 1, 2)?, giver(case, case.controls.second, 1, 2)?];
        let sleeper = to_sleep(taker(case, case.controls.sleeper, 2, 2)?);
        Some(givers.into_iter().chain([sleeper]).collect())
    });
}

/// Somebody died with a permit, or writing; two come.
#[test]
fn of_two_that_come_after_a_death_one_is_told() {
    play_semaphore("acquire a dead one's only permit; the same", 1, &|case| {
        let walkers = vec![taker(case, case.controls.victim, 1, 1)?, taker(case, case.controls.second, 1, 1)?];
        let (semaphore, dying) = (semaphore(case, 1), case.controls.other);
        case.die_with(false, || {
            let permit = semaphore.acquire().expect("a free permit");
            dying.token.store(permit.token(), SeqCst);
            std::mem::forget(permit);
        });
        Some(walkers)
    });
    for (what, visits) in [
        ("write after a writer's death; write", [WRITE, WRITE]),
        ("write after a writer's death; read", [WRITE, READ]),
        ("read after a writer's death; write", [READ, WRITE]),
    ] {
        play_rwlock(what, &|case| {
            let [first, second] = [case.controls.victim, case.controls.second];
            let walkers = vec![regular(case, first, visits[0])?, regular(case, second, visits[1])?];
            let rwlock = rwlock(case);
            case.die_with(false, || std::mem::forget(rwlock.write_owned().expect("a free lock")));
            Some(walkers)
        });
    }
}
