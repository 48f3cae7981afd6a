//! What processes wait for beside locks: something that is done once, events, latches, barriers, condition variables; and what becomes of
//! a wait when whoever was waited for dies.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use hostlock::{Error, Space};
use support::{act, hear, root, say, space, start, wait_until};

/// Nothing here takes this long unless it hangs.
const BOUND: Duration = Duration::from_secs(20);
/// Long enough that a wait sleeps.
const SHORT: Duration = Duration::from_millis(30);

#[test]
fn role() {
    act(&[
        ("initialiser", initialiser),
        ("setter", setter),
        ("waiter", waiter),
        ("party", party),
        ("member", member),
        ("holder", holder),
        ("user", user),
    ]);
}

fn open(arguments: &[String]) -> Space {
    space(Path::new(&arguments[0]))
}

/// Begins what is done once, and waits there.
fn initialiser(arguments: &[String]) {
    let once = open(arguments).once("once").unwrap();
    once.call_once(|state| {
        say(format!("begun {}", state.abandoned().is_some()));
        hear();
    })
    .unwrap();
    say("done");
    hear();
}

fn setter(arguments: &[String]) {
    let space = open(arguments);
    let event = space.event("event").unwrap();
    let setter = event.announce().unwrap();
    say("announced");
    match hear().as_str() {
        "set" => setter.set().unwrap(),
        "drop" => drop(setter),
        other => panic!("{other}?"),
    }
    say("so");
    hear();
}

/// Has a part of a latch, a mutex and a permit.
fn user(arguments: &[String]) {
    let space = open(arguments);
    let _party = space.latch("latch", 1).unwrap().party().unwrap();
    let _guard = space.mutex("mutex").unwrap().lock_owned().unwrap();
    let _permit = space.semaphore("permits", 2).unwrap().acquire_owned().unwrap();
    say("here");
    hear();
}

/// Waits for the event that resets itself, again and again.
fn waiter(arguments: &[String]) {
    let event = open(arguments).auto_event("auto").unwrap();
    say("here");
    loop {
        event.wait().unwrap();
        say("woken");
    }
}

fn party(arguments: &[String]) {
    let latch = open(arguments).latch("latch", 2).unwrap();
    let party = latch.party().unwrap();
    say("announced");
    hear();
    party.count_down().unwrap();
    say("counted");
    hear();
}

fn member(arguments: &[String]) {
    let barrier = open(arguments).barrier("barrier", 3).unwrap();
    let mut member = barrier.join().unwrap();
    say("joined");
    loop {
        match hear().as_str() {
            "arrive" => {}
            other => panic!("{other}?"),
        }
        match member.wait_for(BOUND) {
            Ok(met) => say(format!("passed {}", met.phase)),
            Err(Error::Broken { phase, by, .. }) => say(format!("broken {phase} {}", by.pid.unwrap_or(0))),
            Err(error) => say(error),
        }
    }
}

/// Acquires the mutex, changes what it guards, and says so; then it is up to the test.
fn holder(arguments: &[String]) {
    let space = open(arguments);
    let (mutex, condvar) = (space.mutex("mutex").unwrap(), space.condvar("changed").unwrap());
    let guard = mutex.lock().unwrap();
    std::fs::write(Path::new(&arguments[0]).join("ready"), "").unwrap();
    say("changed");
    match hear().as_str() {
        "unlock" => drop(guard),
        "notify" => {
            condvar.notify_one().unwrap();
            drop(guard);
        }
        other => panic!("{other}?"),
    }
    say("so");
    hear();
}

fn path(root: &tempfile::TempDir) -> &str {
    root.path().to_str().unwrap()
}

// Once.

#[test]
fn what_is_done_once_is_done_by_one() {
    let root = root();
    let space = space(&root);
    let once = space.once("once").unwrap();
    let calls = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                once.call_once(|_| {
                    calls.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    std::thread::sleep(SHORT);
                })
                .unwrap();
                assert!(once.is_done());
            });
        }
        once.wait_for(BOUND).unwrap();
    });
    assert_eq!(calls.into_inner(), 1);
    once.call_once(|_| panic!("once more")).unwrap();
    assert!(matches!(space.mutex("once"), Err(Error::WrongKind { .. })));
}

#[test]
fn what_failed_or_panicked_is_not_done() {
    let root = root();
    let once = space(&root).once("once").unwrap();
    assert_eq!(once.call_once_fallible(|_| Err("no")).unwrap(), Err("no"));
    assert!(!once.is_done());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| once.call_once(|_| panic!("on purpose"))));
    assert!(panicked.is_err() && !once.is_done());
    assert!(matches!(once.wait_for(SHORT), Err(Error::TimedOut { .. })));
    once.call_once(|state| assert!(state.abandoned().is_none(), "nobody died")).unwrap();
    assert!(once.is_done());
    once.wait().unwrap();
}

#[test]
fn an_initialiser_that_died_is_followed_by_the_next() {
    let root = root();
    let space = space(&root);
    let mut first = start("initialiser", &[path(&root)]);
    first.expect("begun false");
    let pid = first.process.id();
    let once = space.once("once").unwrap();
    let second = start("initialiser", &[path(&root)]);
    assert!(second.hear_within(SHORT).is_none(), "it waits for the first");
    assert!(!once.is_done());
    first.kill();
    second.expect("begun true");
    drop(second);
    once.call_once(|state| assert_ne!(state.abandoned().unwrap().pid, Some(pid), "the second died after it")).unwrap();
    assert!(once.is_done());
    space.recover_dead().unwrap();
    assert!(once.is_done());
}

// Events.

#[test]
fn an_event_lets_everybody_pass_until_it_is_reset() {
    let root = root();
    let event = space(&root).event("event").unwrap();
    assert!(matches!(event.wait_for(SHORT), Err(Error::TimedOut { .. })));
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..3).map(|_| scope.spawn(|| event.wait_for(BOUND))).collect();
        std::thread::sleep(SHORT);
        event.set().unwrap();
        waiting.into_iter().for_each(|thread| thread.join().unwrap().unwrap());
    });
    event.wait_for(Duration::ZERO).unwrap();
    event.reset().unwrap();
    assert!(!event.is_set().unwrap());
    assert!(event.wait_for(Duration::ZERO).is_err());
}

#[test]
fn each_setting_of_an_event_that_resets_itself_wakes_one() {
    let root = root();
    let space = space(&root);
    let event = space.auto_event("auto").unwrap();
    let waiters: Vec<_> = (0..3).map(|_| start("waiter", &[path(&root)])).collect();
    waiters.iter().for_each(|waiter| waiter.expect("here"));
    wait_until("they sleep", || space.usage().waiting == 3);
    for set in 1..=20 {
        event.set().unwrap();
        wait_until("it was taken", || !event.is_set().unwrap());
        let woken: usize = waiters
            .iter()
            .map(|waiter| {
                let mut woken = 0;
                while waiter.hear_within(Duration::from_millis(5)).is_some() {
                    woken += 1;
                }
                woken
            })
            .sum();
        assert_eq!(woken, 1, "setting {set}");
    }
    // A setting that nobody took yet is one, however often it was set.
    drop(waiters);
    event.set().unwrap();
    event.set().unwrap();
    event.wait_for(BOUND).unwrap();
    assert!(event.wait_for(SHORT).is_err());
}

#[test]
fn whoever_waits_is_told_that_the_setter_died() {
    let root = root();
    let space = space(&root);
    let event = space.event("event").unwrap();
    for ending in ["kill", "drop"] {
        let mut setter = start("setter", &[path(&root)]);
        setter.expect("announced");
        let pid = setter.process.id();
        assert_eq!(event.holder().unwrap().unwrap().pid, pid);
        assert!(matches!(event.announce(), Err(Error::WouldBlock { .. })), "one at a time");
        let begin = Instant::now();
        let error = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| event.wait_for(BOUND).unwrap_err());
            std::thread::sleep(SHORT);
            match ending {
                "kill" => setter.kill(),
                _ => setter.tell("drop"),
            }
            waiting.join().unwrap()
        });
        assert!(matches!(&error, Error::SignalLost { by, .. } if by.pid == Some(pid)), "{ending}: {error}");
        assert!(error.to_string().contains(&pid.to_string()), "{error}");
        assert!(begin.elapsed() < BOUND);
        // Also after somebody cleaned up, and for all who come later.
        space.recover_dead().unwrap();
        for _ in 0..2 {
            let error = event.wait_for(BOUND).unwrap_err();
            assert!(matches!(&error, Error::SignalLost { by, .. } if by.pid == Some(pid)), "{ending}: {error}");
        }
        // Until somebody announces anew.
        let anew = event.announce().unwrap();
        assert!(matches!(event.wait_for(SHORT), Err(Error::TimedOut { .. })));
        anew.set().unwrap();
        event.wait_for(Duration::ZERO).unwrap();
        event.reset().unwrap();
        assert!(matches!(event.wait_for(SHORT), Err(Error::TimedOut { .. })), "nothing is left of it");
    }
    // A set event is set, whoever died.
    let mut setter = start("setter", &[path(&root)]);
    setter.expect("announced");
    setter.tell("set");
    setter.expect("so");
    setter.kill();
    event.wait_for(Duration::ZERO).unwrap();
}

// Latches.

#[test]
fn a_latch_opens_when_all_was_counted_and_stays_open() {
    let root = root();
    let space = space(&root);
    let latch = space.latch("latch", 2).unwrap();
    assert!(matches!(space.latch("latch", 3), Err(Error::WrongCount { is: 2, wanted: 3, .. })));
    assert!(matches!(space.latch("none", 0), Err(Error::InvalidOption { .. })));
    let mut party = start("party", &[path(&root)]);
    party.expect("announced");
    latch.count_down().unwrap();
    assert!(matches!(latch.count_down(), Err(Error::NoSeat { count: 2, .. })), "the other one is announced");
    assert_eq!(latch.remaining().unwrap(), 1);
    assert_eq!(latch.holders().unwrap()[0].pid, party.process.id());
    assert!(matches!(latch.wait_for(SHORT), Err(Error::TimedOut { .. })));
    party.tell("count");
    latch.wait_for(BOUND).unwrap();
    party.expect("counted");
    party.kill();
    space.recover_dead().unwrap();
    assert_eq!(latch.remaining().unwrap(), 0);
    latch.wait().unwrap();
    assert!(matches!(latch.party(), Err(Error::NoSeat { .. })));
}

#[test]
fn a_party_that_died_is_told_of_until_somebody_takes_its_place() {
    let root = root();
    let space = space(&root);
    let latch = space.latch("latch", 2).unwrap();
    let mut party = start("party", &[path(&root)]);
    party.expect("announced");
    let pid = party.process.id();
    latch.count_down().unwrap();
    let error = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| latch.wait_for(BOUND).unwrap_err());
        std::thread::sleep(SHORT);
        party.kill();
        waiting.join().unwrap()
    });
    assert!(matches!(&error, Error::SignalLost { by, .. } if by.pid == Some(pid)), "{error}");
    space.recover_dead().unwrap();
    assert!(matches!(latch.wait_for(BOUND), Err(Error::SignalLost { by, .. }) if by.pid == Some(pid)));
    let instead = latch.party().unwrap();
    assert!(matches!(latch.wait_for(SHORT), Err(Error::TimedOut { .. })));
    instead.count_down().unwrap();
    latch.wait_for(Duration::ZERO).unwrap();
}

// Barriers.

#[test]
fn a_phase_is_passed_by_all_or_broken_for_all() {
    let root = root();
    let space = space(&root);
    let barrier = space.barrier("barrier", 3).unwrap();
    let mut members: Vec<_> = (0..3).map(|_| start("member", &[path(&root)])).collect();
    members.iter().for_each(|member| member.expect("joined"));
    let pids: Vec<u32> = barrier.holders().unwrap().iter().map(|holder| holder.pid).collect();
    assert!(pids.len() == 3 && members.iter().all(|member| pids.contains(&member.process.id())), "{pids:?}");
    assert!(matches!(barrier.join(), Err(Error::NoSeat { count: 3, .. })));
    for phase in 0..3 {
        members.iter_mut().for_each(|member| member.tell("arrive"));
        members.iter().for_each(|member| member.expect(&format!("passed {phase}")));
    }
    // Two are there, and the third dies on its way.
    let mut dead = members.pop().unwrap();
    let pid = dead.process.id();
    members.iter_mut().for_each(|member| member.tell("arrive"));
    std::thread::sleep(SHORT);
    dead.kill();
    members.iter().for_each(|member| member.expect(&format!("broken 3 {pid}")));
    // It stays so while anybody is left.
    assert!(matches!(barrier.join(), Err(Error::Broken { phase: 3, .. })));
    members[0].tell("arrive");
    members[0].expect(&format!("broken 3 {pid}"));
    drop(members);
    let mut again: Vec<_> = (0..3).map(|_| barrier.join().unwrap()).collect();
    std::thread::scope(|scope| {
        let waiting: Vec<_> = again.iter_mut().map(|member| scope.spawn(|| member.wait_for(BOUND).unwrap())).collect();
        let met: Vec<_> = waiting.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(met.iter().all(|met| met.phase == 4), "{met:?}");
        assert_eq!(met.iter().filter(|met| met.is_leader).count(), 1, "{met:?}");
    });
    drop(again);
    space.remove("barrier").unwrap();
}

#[test]
fn a_member_that_died_after_it_arrived_breaks_the_next_phase() {
    let root = root();
    let space = space(&root);
    let barrier = space.barrier("barrier", 3).unwrap();
    let (mut one, mut two) = (barrier.join().unwrap(), barrier.join().unwrap());
    let mut third = start("member", &[path(&root)]);
    third.expect("joined");
    third.tell("arrive");
    wait_until("it sleeps", || space.usage().waiting == 1);
    let pid = third.process.id();
    third.kill();
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(two.wait_for(BOUND).unwrap().phase, 0));
        assert_eq!(one.wait_for(BOUND).unwrap().phase, 0);
    });
    let broken = one.wait_for(BOUND).unwrap_err();
    assert!(matches!(&broken, Error::Broken { phase: 1, by, .. } if by.pid == Some(pid)), "{broken}");
    let broken = two.wait_for(BOUND).unwrap_err();
    assert!(matches!(&broken, Error::Broken { phase: 1, by, .. } if by.pid == Some(pid)), "{broken}");
}

#[test]
fn a_phase_is_passed_though_who_arrived_and_died_was_cleaned_up_after() {
    let root = root();
    let space = space(&root);
    let barrier = space.barrier("barrier", 3).unwrap();
    let (mut one, mut two) = (barrier.join().unwrap(), barrier.join().unwrap());
    let mut other = start("member", &[path(&root)]);
    other.expect("joined");
    other.tell("arrive");
    wait_until("it sleeps", || space.usage().waiting == 1);
    let pid = other.process.id();
    other.kill();
    assert_eq!(space.recover_dead().unwrap(), 1);
    std::thread::scope(|scope| {
        scope.spawn(|| assert_eq!(two.wait_for(BOUND).unwrap().phase, 0));
        assert_eq!(one.wait_for(BOUND).unwrap().phase, 0);
    });
    let broken = one.wait_for(BOUND).unwrap_err();
    assert!(matches!(&broken, Error::Broken { phase: 1, by, .. } if by.pid == Some(pid)), "{broken}");
}

#[test]
fn whoever_gives_up_waiting_breaks_it_for_all() {
    let root = root();
    let space = space(&root);
    let barrier = space.barrier("barrier", 3).unwrap();
    let (mut one, mut two, _three) = (barrier.join().unwrap(), barrier.join().unwrap(), barrier.join().unwrap());
    std::thread::scope(|scope| {
        let patient = scope.spawn(|| two.wait_for(BOUND).unwrap_err());
        std::thread::sleep(SHORT);
        assert!(matches!(one.wait_for(SHORT), Err(Error::TimedOut { .. })));
        let broken = patient.join().unwrap();
        assert!(matches!(&broken, Error::Broken { by, .. } if by.pid == Some(std::process::id())), "{broken}");
    });
}

// Condition variables.

#[test]
fn a_condition_is_waited_for_without_holding_the_mutex() {
    let root = root();
    let space = space(&root);
    let (mutex, changed) = (space.mutex("mutex").unwrap(), space.condvar("changed").unwrap());
    let is_ready = || root.path().join("ready").exists();
    let other = tempfile::tempdir().unwrap();
    let elsewhere = support::space(&other);
    assert!(matches!(elsewhere.condvar("c").unwrap().wait(mutex.lock().unwrap()), Err(Error::InvalidOption { .. })));
    let (guard, result) = changed.wait_for(mutex.lock().unwrap(), SHORT).unwrap();
    assert!(result.timed_out() && guard.is_held());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let guard = changed.wait_while(mutex.lock().unwrap(), |_| !is_ready()).unwrap();
            assert!(guard.is_held() && guard.abandoned().is_none());
        });
        drop(guard);
        wait_until("it sleeps", || space.usage().waiting == 1);
        let mut holder = start("holder", &[path(&root)]);
        holder.expect("changed");
        holder.tell("notify");
        holder.expect("so");
        waiting.join().unwrap();
    });
}

/// Without any notification: whoever should have given it dies first, holding the mutex or not any more.
#[test]
fn a_notifier_that_died_after_the_change_is_noticed() {
    for with_the_mutex in [false, true] {
        let root = root();
        let space = space(&root);
        let (mutex, changed) = (space.mutex("mutex").unwrap(), space.condvar("changed").unwrap());
        let is_ready = || root.path().join("ready").exists();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let mut guard = mutex.lock().unwrap();
                while !is_ready() {
                    let (again, result) = changed.wait_for(guard, BOUND).unwrap();
                    assert!(!result.timed_out(), "nobody noticed");
                    guard = again;
                }
                guard.abandoned().is_some()
            });
            wait_until("it sleeps", || space.usage().waiting == 1);
            let mut holder = start("holder", &[path(&root)]);
            holder.expect("changed");
            if !with_the_mutex {
                holder.tell("unlock");
                holder.expect("so");
            }
            holder.kill();
            assert_eq!(waiting.join().unwrap(), with_the_mutex, "told of a death");
        });
    }
}

#[test]
fn one_notification_wakes_a_waiter_and_all_wake_all() {
    let root = root();
    let space = space(&root);
    let (mutex, changed) = (space.mutex("mutex").unwrap(), space.condvar("changed").unwrap());
    let rounds = std::sync::atomic::AtomicU32::new(0);
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut guard = mutex.lock().unwrap();
                    while rounds.load(std::sync::atomic::Ordering::SeqCst) == 0 {
                        guard = changed.wait(guard).unwrap();
                    }
                })
            })
            .collect();
        wait_until("they sleep", || space.usage().waiting == 3);
        {
            let _guard = mutex.lock().unwrap();
            rounds.store(1, std::sync::atomic::Ordering::SeqCst);
            changed.notify_all().unwrap();
        }
        waiting.into_iter().for_each(|thread| thread.join().unwrap());
    });
    assert_eq!(space.usage().waiting, 0);
}

// Names with state.

#[test]
fn a_name_is_taken_away_when_nobody_uses_it() {
    let root = root();
    let space = space(&root);
    assert!(matches!(space.remove("nothing"), Err(Error::NoSuchName { .. })));
    let latch = space.latch("latch", 1).unwrap();
    let party = latch.party().unwrap();
    assert!(matches!(space.remove("latch"), Err(Error::InUse { .. })), "somebody has announced");
    party.count_down().unwrap();
    latch.wait().unwrap();
    space.remove("latch").unwrap();
    assert_eq!(space.usage().locks, 0);
    // Made anew by whoever uses it, with another count if it is stated.
    assert_eq!(latch.remaining().unwrap(), 1);
    space.remove("latch").unwrap();
    assert_eq!(space.latch("latch", 5).unwrap().remaining().unwrap(), 5);
    assert!(matches!(latch.wait_for(SHORT), Err(Error::WrongCount { is: 5, wanted: 1, .. })));

    let mutex = space.mutex("mutex").unwrap();
    let guard = mutex.lock().unwrap();
    assert!(matches!(space.remove("mutex"), Err(Error::InUse { holder: Some(_), .. })));
    let token = guard.token();
    drop(guard);
    space.remove("mutex").unwrap();
    assert!(mutex.lock().unwrap().token() > token, "tokens go on growing");
}

#[test]
fn the_dead_use_no_name_and_what_was_to_be_told_of_them_goes_with_it() {
    let root = root();
    let space = space(&root);
    let take_all_away = || {
        for name in ["latch", "mutex", "permits"] {
            space.remove(name).unwrap();
        }
        assert_eq!(space.usage().locks, 0);
        assert_eq!(space.latch("latch", 1).unwrap().remaining().unwrap(), 1);
        assert!(space.mutex("mutex").unwrap().lock().unwrap().abandoned().is_none());
        assert!(space.semaphore("permits", 2).unwrap().try_acquire_many(2).unwrap().abandoned().is_none());
    };
    for is_found_out in [false, true] {
        let mut user = start("user", &[root.path().to_str().unwrap()]);
        user.expect("here");
        for name in ["latch", "mutex", "permits"] {
            assert!(matches!(space.remove(name), Err(Error::InUse { .. })), "somebody alive uses {name}");
        }
        user.kill();
        // With the process still noted as their owner, and with nothing but the marks left of it.
        if is_found_out {
            assert_eq!(space.recover_dead().unwrap(), 1);
        }
        take_all_away();
    }
}
