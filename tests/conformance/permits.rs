//! The semaphore.

use std::collections::HashSet;

use hostlock::{Backend, Error};

use crate::actor::{Ask, begins_to_wait, dead_in, root, start_in, token_in};
use crate::space;

pub fn so_many_permits_and_no_more(backend: Backend) {
    let root = root();
    let mut actors: Vec<_> = (0..4).map(|_| start_in(root.path(), backend)).collect();
    for actor in &mut actors[..3] {
        actor.acquire("try-permits s 3 1");
    }
    assert!(actors[3].ask("try-permits s 3 1").starts_with("would-block"));
    begins_to_wait(&mut actors[3], "permits s 3 1");
    assert_eq!(actors[1].ask("release s"), "released");
    assert!(token_in(&actors[3].hear()).is_some());
    let space = space(root.path(), backend);
    assert!(matches!(space.semaphore("s", 4), Err(Error::WrongCount { is: 3, wanted: 4, .. })));
    let semaphore = space.semaphore("s", 3).unwrap();
    assert!(matches!(semaphore.acquire_many(4), Err(Error::InvalidOption { .. })));
    assert!(matches!(semaphore.acquire_many(0), Err(Error::InvalidOption { .. })));
    assert!(matches!(space.semaphore("t", 0), Err(Error::InvalidOption { .. })));
}

pub fn permits_of_the_dead_come_back_once(backend: Backend) {
    let root = root();
    let mut owner = start_in(root.path(), backend);
    owner.acquire("permits s 3 2");
    let pid = owner.process.id();
    owner.kill();
    let mut next = start_in(root.path(), backend);
    assert_eq!(dead_in(&next.ask("permits s 3 3")), Some(pid));
    let space = space(root.path(), backend);
    assert!(space.semaphore("s", 3).unwrap().try_acquire().is_err(), "a fourth permit");
    assert_eq!(next.ask("release s"), "released");
    assert_eq!(dead_in(&next.ask("permits s 3 3")), None, "told twice");
}

pub fn several_permits_come_together_or_not_at_all(backend: Backend) {
    let root = root();
    let (mut one, mut two) = (start_in(root.path(), backend), start_in(root.path(), backend));
    let space = space(root.path(), backend);
    let semaphore = space.semaphore("s", 4).unwrap();
    let single = semaphore.acquire().unwrap();
    assert!(one.ask("try-permits s 4 4").starts_with("would-block"));
    // It took none of the three that were free.
    assert_eq!(semaphore.try_acquire_many(3).unwrap().count(), 3);
    begins_to_wait(&mut one, "permits s 4 4");
    begins_to_wait(&mut two, "permits s 4 4");
    drop(single);
    // Two who want all, and both get them, one after the other.
    let (mut first, second) = match one.hear_within(std::time::Duration::from_millis(200)) {
        Some(answer) => {
            assert!(token_in(&answer).is_some(), "{answer}");
            (one, two)
        }
        None => {
            assert!(token_in(&two.hear()).is_some());
            (two, one)
        }
    };
    assert_eq!(first.ask("release s"), "released");
    assert!(token_in(&second.hear()).is_some());
}

pub fn tokens_of_permits_grow_across_the_semaphore(backend: Backend) {
    let root = root();
    let space = space(root.path(), backend);
    let semaphore = space.semaphore("s", 3).unwrap();
    let (mut last, mut seen) = (0, HashSet::new());
    for _ in 0..50 {
        let (one, two) = (semaphore.acquire().unwrap(), semaphore.acquire_many(2).unwrap());
        for token in [one.token()].into_iter().chain(two.tokens()) {
            assert!(token > last, "{token} after {last}");
            last = token;
            assert!(seen.insert(token), "{token} twice");
        }
    }
    assert_eq!(seen.len(), 150);
}

pub fn the_holders_of_permits_are_listed(backend: Backend) {
    let root = root();
    let mut other = start_in(root.path(), backend);
    let space = space(root.path(), backend);
    let semaphore = space.semaphore("s", 4).unwrap();
    let mine = semaphore.acquire().unwrap();
    other.acquire("permits s 4 2");
    let holders = semaphore.holders().unwrap();
    let of = |pid: u32| holders.iter().filter(|holder| holder.pid == pid).count();
    assert_eq!((of(std::process::id()), of(other.process.id()), holders.len()), (1, 2, 3));
    assert!(holders.windows(2).all(|pair| pair[0].token < pair[1].token), "{holders:?}");
    assert!(holders.iter().any(|holder| holder.token == mine.token()));
    assert_eq!(semaphore.available().unwrap(), 1);
    other.kill();
    crate::support::wait_until("the dead hold none", || semaphore.available().unwrap() == 3);
}
