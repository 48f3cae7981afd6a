//! The mutex between real processes: exclusion, death, deadlines, fork and exec.

mod support;

use std::time::{Duration, Instant};

use hostlock::{Error, Space};
use support::{act, hear, root, say, space, start};

#[test]
fn role() {
    act(&[("holder", holder), ("acquirer", acquirer)]);
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
