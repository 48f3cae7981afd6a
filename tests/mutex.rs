//! The mutex between real processes: exclusion, death, deadlines, fork and exec.

mod support;

use std::time::{Duration, Instant};

use hostlock::{Acquired, Error, Space};
use nix::errno::Errno;
use support::{act, filter, hear, root, say, space, start};

#[test]
fn role() {
    act(&[
        ("holder", holder),
        ("acquirer", acquirer),
        ("hoarder", hoarder),
        ("passer", passer),
        ("recoverer", recoverer),
        ("counter", counter),
        ("unfenced", unfenced),
    ]);
}

/// Acquires, says its token, and lets go when it is told to.
fn holder(arguments: &[String]) {
    let space = space(&arguments[0]);
    let mutex = space.mutex(&arguments[1]).unwrap();
    let guard = mutex.lock().unwrap();
    say(guard.token());
    hear();
    guard.unlock().unwrap();
    say("released");
    hear();
}

/// Says that it tries, acquires, and says what it found.
fn acquirer(arguments: &[String]) {
    let space = space(&arguments[0]);
    let mutex = space.mutex(&arguments[1]).unwrap();
    say("trying");
    let guard = mutex.lock().unwrap();
    say(format!("{} {:?}", guard.token(), guard.abandoned().map(|dead| dead.pid)));
    hear();
}

/// Acquires, releases, and says so.
fn passer(arguments: &[String]) {
    let space = space(&arguments[0]);
    let mutex = space.mutex(&arguments[1]).unwrap();
    say("trying");
    mutex.lock().unwrap().unlock().unwrap();
    say("passed");
    hear();
}

/// Adds one so many times under the lock.
fn counter(arguments: &[String]) {
    let number = space(&arguments[0]).mutex_with("number", 0u64).unwrap();
    say("ready");
    hear();
    for _ in 0..arguments[1].parse().unwrap() {
        let Acquired::Clean(mut guard) = number.lock().unwrap() else { panic!("nobody died") };
        *guard += 1;
    }
    say("done");
    hear();
}

/// The same, and `membarrier` is refused to it.
fn unfenced(arguments: &[String]) {
    filter::refuse(libc::SYS_membarrier, Errno::EPERM).unwrap();
    counter(arguments);
}

/// Acquires so many locks, says so, and keeps them.
fn hoarder(arguments: &[String]) {
    let space = space(&arguments[0]);
    for index in 0..arguments[1].parse().unwrap() {
        std::mem::forget(space.mutex(&format!("hoard-{index}")).unwrap().lock_owned().unwrap());
    }
    say("full");
    hear();
}

/// Cleans up after the dead when it is told to.
fn recoverer(arguments: &[String]) {
    let space = space(&arguments[0]);
    say("ready");
    hear();
    say(space.recover_dead().unwrap());
}

#[test]
fn second_process_waits_until_first_releases() {
    let root = root();
    let path = root.path().to_str().unwrap();
    let mut first = start("holder", &[path, "a"]);
    let token: u64 = first.hear().parse().unwrap();
    let second = start("acquirer", &[path, "a"]);
    second.expect("trying");
    assert_eq!(second.hear_within(Duration::from_millis(300)), None, "two holders");
    first.tell("release");
    first.expect("released");
    let words = second.hear();
    let (next, abandoned) = words.split_once(' ').unwrap();
    assert!(next.parse::<u64>().unwrap() > token);
    assert_eq!(abandoned, "None");
}

#[test]
fn death_of_the_holder_is_told_to_the_sleeper_once() {
    let root = root();
    let path = root.path().to_str().unwrap();
    let mut first = start("holder", &[path, "a"]);
    let token: u64 = first.hear().parse().unwrap();
    let pid = first.pid();
    let second = start("acquirer", &[path, "a"]);
    second.expect("trying");
    std::thread::sleep(Duration::from_millis(150));
    first.kill();
    let words = second.hear();
    let (next, abandoned) = words.split_once(' ').unwrap();
    assert!(next.parse::<u64>().unwrap() > token);
    assert_eq!(abandoned, format!("Some(Some({pid}))"));
    drop(second);

    let space = space(&root);
    let mutex = space.mutex("a").unwrap();
    assert!(mutex.lock().unwrap().abandoned().is_some(), "the second one was killed holding it too");
    assert!(mutex.lock().unwrap().abandoned().is_none());
}

#[test]
fn a_timeout_names_the_holder_and_leaves_nothing() {
    let root = root();
    let mut first = start("holder", &[root.path().to_str().unwrap(), "a"]);
    let token: u64 = first.hear().parse().unwrap();
    let space = space(&root);
    let mutex = space.mutex("a").unwrap();
    let begin = Instant::now();
    let error = mutex.try_lock_for(Duration::from_millis(250)).unwrap_err();
    assert!(begin.elapsed() >= Duration::from_millis(250));
    let Error::TimedOut { holder: Some(holder), waited, .. } = &error else { panic!("{error:?}") };
    assert_eq!((holder.pid, holder.token), (first.process.id(), token));
    assert!(*waited >= Duration::from_millis(250));
    assert!(error.to_string().contains(" for at least 0.2"), "{error}");
    assert_eq!(space.usage().waiting, 0);
    first.tell("release");
    first.expect("released");
    drop(mutex.try_lock().unwrap());
}

#[test]
fn a_thread_waiting_for_itself_is_an_error() {
    let root = root();
    let space = space(&root);
    let (one, two) = (space.mutex("a").unwrap(), space.mutex("a").unwrap());
    let guard = one.lock().unwrap();
    assert!(matches!(two.lock().unwrap_err(), Error::Deadlock { token, .. } if token == guard.token()));
    assert!(matches!(two.try_lock_for(Duration::MAX).unwrap_err(), Error::Deadlock { .. }));
    assert!(matches!(two.try_lock().unwrap_err(), Error::WouldBlock { .. }));
    drop(guard);
    drop(two.lock().unwrap());
}

#[test]
fn another_thread_of_the_process_waits_like_anybody() {
    let root = root();
    let space = space(&root);
    let mutex = space.mutex("a").unwrap();
    let guard = mutex.lock().unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| mutex.lock().map(|guard| guard.token()));
        support::wait_until("it sleeps", || space.usage().waiting == 1);
        let token = guard.token();
        drop(guard);
        assert!(waiter.join().unwrap().unwrap() > token);
    });
    assert_eq!(space.usage().waiting, 0);
}

#[test]
fn odd_timeouts() {
    let root = root();
    let space: Space = space(&root);
    let mutex = space.mutex("a").unwrap();
    drop(mutex.try_lock_for(Duration::ZERO).unwrap());
    drop(mutex.try_lock_for(Duration::MAX).unwrap());
    drop(mutex.try_lock_until(Instant::now()).unwrap());
    let _guard = mutex.lock_owned().unwrap();
    for timeout in [Duration::ZERO, Duration::from_nanos(1)] {
        assert!(matches!(mutex.try_lock_for(timeout).unwrap_err(), Error::TimedOut { .. }));
    }
    let past = Instant::now() - Duration::from_millis(1);
    assert!(matches!(mutex.try_lock_until(past).unwrap_err(), Error::TimedOut { .. }));
}

#[test]
fn a_killed_sleeper_costs_the_others_nothing() {
    let root = root();
    let path = root.path().to_str().unwrap();
    let space = space(&root);
    for round in 0..20 {
        let mut first = start("holder", &[path, "a"]);
        first.hear();
        let mut sleepers: Vec<_> = (0..3).map(|_| start("passer", &[path, "a"])).collect();
        sleepers.iter().for_each(|sleeper| sleeper.expect("trying"));
        support::wait_until("all three sleep", || space.usage().waiting == 3);
        // Before the release, and (every second time) right after it, when it may be the one that was woken.
        let mut victim = sleepers.remove(round % 3);
        if round % 2 == 0 {
            victim.kill();
            first.tell("release");
        } else {
            first.tell("release");
            victim.kill();
        }
        for sleeper in &mut sleepers {
            sleeper.expect("passed");
        }
        drop(sleepers);
        drop(first);
        space.recover_dead().unwrap();
        drop(space.mutex("a").unwrap().try_lock().unwrap());
        let usage = space.usage();
        assert_eq!((usage.waiting, usage.participants), (0, 1), "round {round}");
    }
}

#[test]
fn a_recoverer_killed_half_way_is_followed_by_another() {
    const LOCKS: usize = 300;
    let root = root();
    let path = root.path().to_str().unwrap();
    let space = space(&root);
    let (mut half_way, mut pause) = (0, 7u64);
    for _ in 0..40 {
        let mut victim = start("hoarder", &[path, &LOCKS.to_string()]);
        victim.expect("full");
        let pid = victim.process.id();
        let mut recoverer = start("recoverer", &[path]);
        recoverer.expect("ready");
        victim.kill();
        recoverer.tell("go");
        // Somewhere in the 100 microseconds that it takes, or before, or after.
        pause = pause.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let end = Instant::now() + Duration::from_nanos(pause >> 45);
        while Instant::now() < end {}
        recoverer.kill();
        let participants = space.usage().participants;
        // Only then: a lock that nobody gave back is taken over, and that tells of the death as well.
        let recovered = space.recover_dead().unwrap();
        assert_eq!(participants, recovered + 1, "who is registered and dead is recovered");
        // The recoverer and, unless it got that far, the one it was to clean up after.
        half_way += usize::from(recovered == 2);
        for index in 0..LOCKS {
            let mutex = space.mutex(&format!("hoard-{index}")).unwrap();
            let guard = mutex.try_lock().unwrap();
            let dead = guard.abandoned().unwrap_or_else(|| panic!("nobody was told of lock {index}"));
            assert_eq!((dead.pid, dead.token + 1), (Some(pid), guard.token()));
            drop(guard);
            assert!(mutex.try_lock().unwrap().abandoned().is_none(), "told twice");
        }
    }
    println!("{half_way} of 40 were killed before they were done");
}

/// Some release by a store, others by a compare-and-swap; some can have a fence put into others, and others look by themselves.
#[test]
fn whoever_has_no_membarrier_takes_turns_with_those_who_have() {
    or_skip!(filter::is_possible());
    for roles in [["counter"; 4], ["unfenced"; 4], ["counter", "unfenced", "counter", "unfenced"]] {
        let root = root();
        let mut counters = roles.map(|role| start(role, &[root.path().to_str().unwrap(), "3000"]));
        counters.iter().for_each(|counter| counter.expect("ready"));
        counters.iter_mut().for_each(|counter| counter.tell("go"));
        counters.iter().for_each(|counter| counter.expect("done"));
        let number = space(root.path()).mutex_with("number", 0u64).unwrap();
        let Acquired::Clean(guard) = number.lock().unwrap() else { panic!("nobody died") };
        assert_eq!(*guard, 4 * 3000, "{roles:?}");
    }
}
