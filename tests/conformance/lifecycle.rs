//! P2, P3: what a death leaves behind comes back, and whoever is next cannot miss it.

use hostlock::Backend;

use crate::actor::{Ask, begins_to_wait, dead_in, root, start_in, token_in};
use crate::space;

pub fn a_death_is_told_once_with_who_it_was(backend: Backend) {
    let root = root();
    let mut owner = start_in(root.path(), backend);
    let (mut waiter, mut next) = (start_in(root.path(), backend), start_in(root.path(), backend));
    let token = owner.acquire("mutex a");
    begins_to_wait(&mut waiter, "mutex a");
    let pid = owner.process.id();
    owner.kill();
    let answer = waiter.hear();
    assert_eq!(dead_in(&answer), Some(pid), "{answer}");
    assert!(token_in(&answer).unwrap() > token);
    assert_eq!(waiter.ask("release a"), "released");
    assert_eq!(dead_in(&next.ask("mutex a")), None, "told twice");
}

pub fn a_dead_owner_is_followed_by_a_try(backend: Backend) {
    let root = root();
    let mut owner = start_in(root.path(), backend);
    owner.acquire("mutex a");
    let pid = owner.process.id();
    // A zombie is as dead.
    owner.kill_without_reaping();
    let space = space(root.path(), backend);
    let mutex = space.mutex("a").unwrap();
    crate::support::wait_until("the lock is back", || mutex.holder().unwrap().is_none());
    let guard = mutex.try_lock().unwrap();
    assert_eq!(guard.abandoned().and_then(|dead| dead.pid), Some(pid));
    guard.unlock().unwrap();
    owner.kill();
}

pub fn whoever_abandons_is_told_of_as_if_dead(backend: Backend) {
    let root = root();
    let (mut one, mut two) = (start_in(root.path(), backend), start_in(root.path(), backend));
    for (acquire, name) in [("mutex a", "a"), ("write r", "r"), ("permits s 1 1", "s")] {
        one.acquire(acquire);
        assert_eq!(one.ask(&format!("abandon {name}")), "abandoned");
        assert_eq!(dead_in(&two.ask(acquire)), Some(one.process.id()), "{acquire}");
        assert_eq!(two.ask(&format!("release {name}")), "released");
        assert_eq!(dead_in(&one.ask(acquire)), None, "{acquire}");
        assert_eq!(one.ask(&format!("release {name}")), "released");
    }
}

/// H69.
pub fn a_killed_waiter_costs_nobody_anything(backend: Backend) {
    let root = root();
    let mut owner = start_in(root.path(), backend);
    let mut waiters: Vec<_> = (0..3).map(|_| start_in(root.path(), backend)).collect();
    owner.acquire("mutex a");
    for waiter in &mut waiters {
        begins_to_wait(waiter, "mutex a");
    }
    waiters[0].kill();
    waiters[1].kill();
    assert_eq!(owner.ask("release a"), "released");
    let answer = waiters[2].hear();
    assert!(token_in(&answer).is_some() && dead_in(&answer).is_none(), "{answer}");
}

/// Whoever is told and dies as well leaves it to the next.
pub fn a_death_is_still_told_after_somebody_who_could_not_be_told(backend: Backend) {
    let root = root();
    let mut pids = Vec::new();
    for _ in 0..3 {
        let mut owner = start_in(root.path(), backend);
        let answer = owner.ask("mutex a");
        assert_eq!(dead_in(&answer), pids.last().copied(), "{answer}");
        pids.push(owner.process.id());
        owner.kill();
    }
    let mut last = start_in(root.path(), backend);
    assert_eq!(dead_in(&last.ask("mutex a")), pids.last().copied());
}
