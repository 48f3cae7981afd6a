//! Pairs of operations on a mutex, on its lease, on the names, on the table of participants.

use std::cell::Cell;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use hostlock::{Error, LeaseGuard, Mutex, MutexGuard};

use super::control::{ALONE, Control, LOST};
use super::pairs::{Pair, play};
use super::scene::{newcomer, others, to_sleep, to_starve, told, walker};
use super::story::Story;
use super::support::wait_until;
use super::sweep::{BOUND, Case, NAME, OTHER};
use super::walker::Walker;

/// How a victim lets go.
pub type Release = fn(MutexGuard<'_>) -> hostlock::Result<()>;

pub const PLAIN: Release = |guard| guard.unlock();
const FAIR: Release = |guard| guard.unlock_fair();

fn acquire<'a>(mutex: &'a Mutex, control: &Control, others: &[&Control]) -> MutexGuard<'a> {
    let guard = mutex.lock().expect("the lock");
    control.enter(guard.token(), told(guard.abandoned()), ALONE, others);
    guard
}

fn release(guard: MutexGuard<'_>, control: &Control, release: Release) {
    control.exit();
    release(guard).expect("its own");
}

/// Comes, acquires and releases.
pub fn comer(case: &Case, control: &'static Control, how: Release) -> Option<Walker> {
    let (mutex, others) = (case.mutex(NAME), others(case));
    walker(case, control, |_| (), |control, ()| release(acquire(&mutex, control, &others), control, how))
}

/// Has the lock, and releases it.
fn holder(case: &Case, control: &'static Control, how: Release) -> Option<Walker> {
    let (mutex, others) = (case.mutex(NAME), others(case));
    walker(case, control, |control| acquire(&mutex, control, &others), |control, guard| release(guard, control, how))
}

pub fn recoverer(case: &Case, control: &'static Control) -> Option<Walker> {
    let clean_up = |_, ()| {
        case.space().recover_dead().expect("cleaning up");
    };
    walker(case, control, |_| (), clean_up)
}

/// Two operations on one mutex.
fn play_mutex(what: &str, begin: &dyn Fn(&mut Case) -> Option<Vec<Walker>>) {
    let begin = |case: &mut Case| {
        case.enter();
        case.token = case.mutex(NAME).lock().expect("a free lock").token();
        begin(case)
    };
    play(&Pair { what, begin: &begin, between: &|_| (), meanwhile: &look, holds: &holds, afterwards: &judge });
}

/// The token of what the process has of the mutex.
pub fn holds(case: &Case, pid: u32) -> Vec<u64> {
    let (raw, word) = (case.raw(), case.word(NAME));
    let is_its = Case::owner_of(&raw, word) == pid;
    is_its.then(|| (word >> 16) + raw.u64_at(104)).into_iter().collect()
}

/// While somebody alive has the lock, nobody else gets it.
fn look(case: &mut Case, walkers: &[Walker]) {
    let owner = Case::owner_of(&case.raw(), case.word(NAME));
    if walkers.iter().any(|walker| walker.pid() == owner) {
        let refused = case.mutex(NAME).try_lock().map(|guard| guard.token());
        assert!(matches!(refused, Err(Error::WouldBlock { .. })), "two hold the lock at once: {refused:?}");
    }
}

/// Survivors acquire twice, everybody was told what there was to tell, each token was somebody's, and nothing is left.
fn judge(case: &mut Case, mut story: Story) {
    acquire_twice(case, &mut story);
    story.judge_in_a_row();
    case.settle();
}

fn acquire_twice(case: &Case, story: &mut Story) {
    let mutex = case.mutex(NAME);
    if story.all_lived {
        let entry = case.raw().entry(NAME).expect("an entry");
        assert_eq!(entry.owner & 0xFFFE, 0, "held, or reserved, when all are gone: {:#x}", entry.owner);
        assert_eq!(entry.sleepers, 0, "still counted as asleep, and all are gone");
    }
    for _ in 0..2 {
        let guard = mutex.try_lock_for(BOUND).unwrap_or_else(|e| panic!("a survivor is stuck: {e}"));
        story.add(guard.token(), told(guard.abandoned()));
    }
}

#[test]
fn of_two_that_acquire_one_has_the_lock() {
    play_mutex("lock; lock", &|case| {
        Some(vec![comer(case, case.controls.victim, PLAIN)?, comer(case, case.controls.second, PLAIN)?])
    });
}

/// The first one has the lock, a third one sleeps, and the second one comes.
fn before_a_sleeper(case: &Case, to_sleep: fn(Walker) -> Walker, releases: [Release; 2]) -> Option<Vec<Walker>> {
    let holder = holder(case, case.controls.victim, releases[0])?;
    let sleeper = to_sleep(comer(case, case.controls.sleeper, PLAIN)?);
    Some(vec![holder, comer(case, case.controls.second, releases[1])?, sleeper])
}

#[test]
fn a_release_beside_an_acquisition_loses_no_sleeper() {
    play_mutex("unlock, somebody sleeps; lock", &|case| before_a_sleeper(case, to_sleep, [PLAIN, PLAIN]));
    play_mutex("unlock, somebody has waited for long; lock", &|case| before_a_sleeper(case, to_starve, [PLAIN, PLAIN]));
}

#[test]
fn a_fair_release_beside_an_acquisition_loses_no_sleeper() {
    play_mutex("fair unlock, somebody sleeps; lock", &|case| before_a_sleeper(case, to_sleep, [FAIR, PLAIN]));
    play_mutex("unlock, somebody sleeps; lock, fair unlock", &|case| before_a_sleeper(case, to_sleep, [PLAIN, FAIR]));
}

/// The first one was woken, a third one sleeps, and the second one comes.
#[test]
fn who_barges_in_before_whoever_was_woken_loses_no_sleeper() {
    for (what, to_sleep) in [
        ("lock by whoever was woken, another sleeps; lock", to_sleep as fn(Walker) -> Walker),
        ("lock by whoever was woken, both have waited for long; lock", to_starve),
    ] {
        play_mutex(what, &|case| {
            let guard = case.mutex(NAME).lock_owned().expect("a free lock");
            case.token = guard.token();
            let mut woken = to_sleep(comer(case, case.controls.victim, PLAIN)?);
            let sleeper = to_sleep(comer(case, case.controls.sleeper, PLAIN)?);
            let comer = comer(case, case.controls.second, PLAIN)?;
            guard.unlock().expect("its own");
            wait_until("it is woken", || woken.is_woken());
            Some(vec![woken, comer, sleeper])
        });
    }
}

/// The first one's time is over, and the second one has the lock; with another one that sleeps, or without.
fn beside_a_time_out(
    case: &Case,
    to_sleep: fn(Walker) -> Walker,
    with_sleeper: bool,
    how: Release,
) -> Option<Vec<Walker>> {
    let (mutex, others) = (case.mutex(NAME), others(case));
    let holder = holder(case, case.controls.second, how)?;
    let outcome = move |control: &Control| match mutex.try_lock_for(Duration::from_micros(2500)) {
        Ok(guard) => {
            control.enter(guard.token(), told(guard.abandoned()), ALONE, &others);
            release(guard, control, PLAIN);
        }
        Err(error) => assert!(matches!(error, Error::TimedOut { .. }), "{error}"),
    };
    // Now and then the machine is so slow that its time is over before it sleeps: then once more.
    let mut waiter = loop {
        let mut waiter = walker(case, case.controls.victim, |_| (), |control, ()| outcome(control))?;
        super::walker::run(&mut [&mut waiter]);
        if waiter.is_asleep() {
            break waiter;
        }
        waiter.kill();
        case.space().recover_dead().expect("cleaning up");
    };
    let mut walkers = Vec::new();
    if with_sleeper {
        walkers.push(to_sleep(comer(case, case.controls.sleeper, PLAIN)?));
    }
    std::thread::sleep(Duration::from_millis(3));
    waiter.end_sleep();
    walkers.splice(0..0, [waiter, holder]);
    Some(walkers)
}

#[test]
fn who_gives_up_beside_a_release_leaves_no_reservation_and_no_count() {
    let play = |what, to_sleep: fn(Walker) -> Walker, with_sleeper, how| {
        play_mutex(what, &|case| beside_a_time_out(case, to_sleep, with_sleeper, how));
    };
    play("giving up; fair unlock", to_sleep, false, FAIR);
    play("giving up, another sleeps; unlock", to_sleep, true, PLAIN);
    play("giving up, another has waited for long; fair unlock", to_starve, true, FAIR);
}

/// Somebody died with two locks, and somebody who waited for one of them; two do something about it.
fn after_a_death(case: &mut Case, make: impl Fn(&Case) -> Option<[Walker; 2]>) -> Option<Vec<Walker>> {
    for name in [NAME, OTHER] {
        drop(case.mutex(name));
    }
    let walkers = make(case)?;
    case.die_holding(&[NAME, OTHER], true);
    Some(walkers.into())
}

#[test]
fn of_two_that_take_over_one_is_told() {
    play_mutex("take-over; take-over", &|case| {
        after_a_death(case, |case| {
            Some([comer(case, case.controls.victim, PLAIN)?, comer(case, case.controls.second, PLAIN)?])
        })
    });
}

#[test]
fn of_one_that_takes_over_and_one_that_cleans_up_both_do_it_right() {
    play_mutex("clean-up; take-over", &|case| {
        after_a_death(case, |case| {
            Some([recoverer(case, case.controls.victim)?, comer(case, case.controls.second, PLAIN)?])
        })
    });
    play_mutex("take-over; clean-up", &|case| {
        after_a_death(case, |case| {
            Some([comer(case, case.controls.victim, PLAIN)?, recoverer(case, case.controls.second)?])
        })
    });
}

#[test]
fn of_two_that_clean_up_both_do_it_right() {
    play_mutex("clean-up; clean-up", &|case| {
        after_a_death(case, |case| {
            Some([recoverer(case, case.controls.victim)?, recoverer(case, case.controls.second)?])
        })
    });
}

/// Long enough for the first one to look at the clock before it is over.
const LEASE: Duration = Duration::from_millis(20);
/// Where the lease word of an entry is.
const LEASE_AT: u64 = 24;

/// The first one renews its lease, and that runs out where it is stopped. The second one takes over from it.
#[test]
fn what_was_renewed_is_not_taken_over_and_what_was_taken_over_is_not_renewed() {
    let lease_word = |case: &Case| case.raw().u64_at(case.raw().entry(NAME).expect("an entry").at + LEASE_AT);
    // As it was at the beginning, and when the second one began.
    let lease = Cell::new([0; 2]);
    // By somebody who had not renewed it.
    let was_lost = Cell::new(false);
    let begin = |case: &mut Case| {
        case.enter();
        let (mutex, second) = (case.mutex(NAME), case.controls.second);
        case.token = mutex.lock().expect("a free lock").token();
        let prepare = |control: &Control| {
            let guard = mutex.lock_with_lease(LEASE).expect("a free lock");
            // Not as somebody inside: it may lose it while it lives.
            control.token.store(guard.token(), SeqCst);
            guard
        };
        let renew = |control: &Control, guard: LeaseGuard| {
            control.renewed.store(guard.renew().is_ok().into(), SeqCst);
            let is_kept = guard.unlock().is_ok();
            control.how.store(if is_kept { ALONE } else { LOST }, SeqCst);
        };
        let walkers = vec![walker(case, case.controls.victim, prepare, renew)?, comer(case, second, PLAIN)?];
        lease.set([lease_word(case), 0]);
        // It counts milliseconds: what is renewed from now on is another word.
        std::thread::sleep(Duration::from_millis(2));
        Some(walkers)
    };
    let between = |case: &Case| {
        lease.set([lease.get()[0], lease_word(case)]);
        std::thread::sleep(LEASE + Duration::from_millis(1));
    };
    let meanwhile = |case: &mut Case, _: &[Walker]| {
        let [before, at] = lease.get();
        was_lost.set(before == at && case.controls.second.token.load(SeqCst) != 0);
    };
    let afterwards = |case: &mut Case, mut story: Story| {
        acquire_twice(case, &mut story);
        let first = case.controls.victim;
        let token = first.token.load(SeqCst);
        assert!(!was_lost.get() || first.renewed.load(SeqCst) == 0, "renewed after it was taken over");
        // The next owner is told as of a death, also if the loser was killed before it could say so.
        let is_lost = match first.how.load(SeqCst) {
            LOST => true,
            ALONE => false,
            _ => story.acquired.iter().any(|acquired| acquired.told == token),
        };
        if is_lost {
            story.deaths.push(token);
        }
        story.judge_in_a_row();
        case.settle();
    };
    let what = "renew, unlock; take-over when the lease is over";
    play(&Pair {
        what,
        begin: &begin,
        between: &between,
        meanwhile: &meanwhile,
        holds: &holds,
        afterwards: &afterwards,
    });
}

/// Pairs that begin without the name, or outside of the space.
fn play_newcomers(what: &str, begin: &dyn Fn(&mut Case) -> Option<Vec<Walker>>) {
    let afterwards = |case: &mut Case, mut story: Story| {
        acquire_twice(case, &mut story);
        // Not in a row: a name begins behind the tokens of all that were given up.
        story.judge();
        case.settle();
    };
    // Who looks a name up waits for whoever is changing the names, so nobody does while that one is stopped.
    play(&Pair { what, begin, between: &|_| (), meanwhile: &|_, _| (), holds: &holds, afterwards: &afterwards });
}

#[test]
fn of_two_that_make_a_name_both_have_the_same() {
    play_newcomers("a new name, lock; the same", &|case| {
        case.enter();
        // Where the tokens of the segment begin.
        case.token = case.raw().u64_at(104);
        let others = others(case);
        let make = |control: &Control, ()| release(acquire(&case.mutex(NAME), control, &others), control, PLAIN);
        let [first, second] = [case.controls.victim, case.controls.second];
        Some(vec![walker(case, first, |_| (), make)?, walker(case, second, |_| (), make)?])
    });
}

/// Joins and acquires, if there is room.
fn joiner(case: &Case, control: &'static Control) -> Option<Walker> {
    let (mutex, others) = (case.mutex(NAME), others(case));
    newcomer(case, control, move |control| match mutex.lock() {
        Ok(guard) => {
            control.enter(guard.token(), told(guard.abandoned()), ALONE, &others);
            release(guard, control, PLAIN);
        }
        Err(error) => assert!(matches!(error, Error::Full { .. }), "{error}"),
    })
}

#[test]
fn of_two_that_join_each_has_its_own_place() {
    play_newcomers("join, lock; the same", &|case| {
        case.enter();
        case.token = case.mutex(NAME).lock().expect("a free lock").token();
        Some(vec![joiner(case, case.controls.victim)?, joiner(case, case.controls.second)?])
    });
}

/// The table is full with the dead one in it, whose place the second one wants.
#[test]
fn who_moves_in_while_the_dead_are_cleaned_up_is_not_cleaned_up() {
    play_newcomers("clean-up; join a full table, lock", &|case| {
        case.participants = 3;
        case.enter();
        case.token = case.mutex(NAME).lock().expect("a free lock").token();
        drop(case.mutex(OTHER));
        let first = recoverer(case, case.controls.victim)?;
        case.die_holding(&[NAME, OTHER], false);
        Some(vec![first, joiner(case, case.controls.second)?])
    });
}
