//! P1, P4, P5: one owner at a time, tokens that grow, deadlines that are kept.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use hostlock::{Backend, Error};
use nix::sys::signal::Signal;

use crate::actor::{Ask, begins_to_wait, root, start_in, token_in};
use crate::space;
use crate::support::wait_until;

pub fn processes_exclude_each_other_and_tokens_grow(backend: Backend) {
    let root = root();
    let (mut one, mut two) = (start_in(root.path(), backend), start_in(root.path(), backend));
    let mut last = 0;
    for _ in 0..3 {
        let token = one.acquire("mutex a");
        assert!(token > last, "{token} after {last}");
        assert_eq!(two.ask("try-mutex a"), format!("would-block {}", one.pid()));
        assert_eq!(two.ask("mutex-for a 30"), format!("timed-out {}", one.pid()));
        // Another name is another lock.
        two.acquire("try-mutex b");
        assert_eq!(two.ask("release b"), "released");
        begins_to_wait(&mut two, "mutex a");
        assert_eq!(one.ask("is-held a"), "true");
        assert_eq!(one.ask("release a"), "released");
        last = token_in(&two.hear()).unwrap();
        assert!(last > token, "{last} after {token}");
        assert_eq!(two.ask("release a"), "released");
    }
}

pub fn threads_of_one_process_exclude_each_other(backend: Backend) {
    const TIMES: u64 = 200;
    let root = root();
    let space = space(root.path(), backend);
    let (inside, count) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (space, inside, count) = (&space, &inside, &count);
            scope.spawn(move || {
                // Some with a handle of their own.
                let mutex = space.mutex("a").unwrap();
                let other = if thread % 2 == 0 { mutex.clone() } else { space.mutex("a").unwrap() };
                for _ in 0..TIMES {
                    let guard = other.lock().unwrap();
                    assert_eq!(inside.fetch_add(1, SeqCst), 0, "two threads at once");
                    count.fetch_add(1, SeqCst);
                    std::thread::yield_now();
                    inside.fetch_sub(1, SeqCst);
                    drop(guard);
                }
            });
        }
    });
    assert_eq!(count.into_inner(), 4 * TIMES);
}

pub fn a_thread_that_waits_for_itself_is_told(backend: Backend) {
    let root = root();
    let space = space(root.path(), backend);
    let (mutex, lock) = (space.mutex("a").unwrap(), space.rwlock("r").unwrap());
    let (guard, writing) = (mutex.lock().unwrap(), lock.write().unwrap());
    assert!(matches!(mutex.lock(), Err(Error::Deadlock { token, .. }) if token == guard.token()));
    assert!(matches!(lock.write(), Err(Error::Deadlock { token, .. }) if token == writing.token()));
    assert!(matches!(lock.read(), Err(Error::Deadlock { token, .. }) if token == writing.token()));
    // It may try, and another thread may wait.
    assert!(matches!(mutex.try_lock(), Err(Error::WouldBlock { .. })));
    assert!(matches!(hostlock::try_lock_all([&mutex]), Err(Error::WouldBlock { .. })));
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| mutex.lock().map(drop));
        std::thread::sleep(Duration::from_millis(50));
        guard.unlock().unwrap();
        waiter.join().unwrap().unwrap();
    });
}

pub fn a_deadline_is_kept_and_leaves_nothing(backend: Backend) {
    let root = root();
    let mut other = start_in(root.path(), backend);
    let space = space(root.path(), backend);
    let mutex = space.mutex("a").unwrap();
    let token = other.acquire("mutex a");
    for wait in [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(120)] {
        let begin = Instant::now();
        match mutex.try_lock_for(wait) {
            Err(Error::TimedOut { holder: Some(holder), waited, .. }) => {
                assert_eq!((holder.pid, holder.token), (other.process.id(), token));
                assert!(waited >= wait && begin.elapsed() >= wait, "{waited:?} of {wait:?}");
            }
            Err(Error::WouldBlock { holder: Some(holder), .. }) if wait.is_zero() => assert_eq!(holder.token, token),
            other => panic!("{other:?}"),
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "it hung for {:?}", begin.elapsed());
    }
    let past = Instant::now() - Duration::from_secs(1);
    assert!(mutex.try_lock_until(past).is_err());
    assert_eq!(other.ask("release a"), "released");
    // A deadline in the past gets a lock that is free.
    drop(mutex.try_lock_until(past).unwrap());
    drop(mutex.try_lock_for(Duration::MAX).unwrap());
    assert_eq!(space.usage().waiting, 0);
}

pub fn giving_up_while_many_wait_wakes_somebody_else(backend: Backend) {
    let root = root();
    let mut owner = start_in(root.path(), backend);
    let mut waiters: Vec<_> = (0..4).map(|_| start_in(root.path(), backend)).collect();
    owner.acquire("mutex a");
    for waiter in &mut waiters[..2] {
        waiter.tell("mutex-for a 100");
    }
    for waiter in &mut waiters[2..] {
        waiter.tell("mutex a");
    }
    for waiter in &mut waiters[..2] {
        assert_eq!(waiter.hear(), format!("timed-out {}", owner.pid()));
    }
    assert_eq!(owner.ask("release a"), "released");
    // In either order.
    let mut left: Vec<_> = waiters.drain(2..).collect();
    wait_until("both had it", || {
        left.retain_mut(|waiter| match waiter.hear_within(Duration::from_millis(10)) {
            Some(answer) => {
                assert!(token_in(&answer).is_some(), "{answer}");
                assert_eq!(waiter.ask("release a"), "released");
                false
            }
            None => true,
        });
        left.is_empty()
    });
}

/// H13: stopped is not dead.
pub fn a_stopped_owner_keeps_its_lock(backend: Backend) {
    let root = root();
    let (mut one, mut two) = (start_in(root.path(), backend), start_in(root.path(), backend));
    one.acquire("mutex a");
    one.acquire("write r");
    one.acquire("permits s 1 1");
    one.signal(Signal::SIGSTOP);
    assert_eq!(two.ask("mutex-for a 400"), format!("timed-out {}", one.pid()));
    assert_eq!(two.ask("try-read r"), format!("would-block {}", one.pid()));
    assert!(two.ask("try-permits s 1 1").starts_with("would-block"));
    one.signal(Signal::SIGCONT);
    for name in ["a", "r", "s"] {
        assert_eq!(one.ask(&format!("is-held {name}")), "true");
        assert_eq!(one.ask(&format!("release {name}")), "released");
    }
    assert_eq!(crate::actor::dead_in(&two.ask("mutex a")), None);
}

/// Whoever is stopped while it waits has nothing, and is not waited for.
pub fn a_stopped_waiter_keeps_nobody_out(backend: Backend) {
    let root = root();
    let space = space(root.path(), backend);
    let (mut owner, mut third) = (start_in(root.path(), backend), start_in(root.path(), backend));
    for (hold, wait, tries) in
        [("mutex a", "mutex a", &["try-mutex a"][..]), ("write r", "write r", &["try-read r", "try-write r"])]
    {
        let name = hold.split(' ').nth(1).unwrap();
        let mut waiter = start_in(root.path(), backend);
        owner.acquire(hold);
        waiter.tell(wait);
        // Long enough that it is before those who just come.
        wait_until("it waits", || backend == Backend::Files || space.usage().waiting == 1);
        std::thread::sleep(Duration::from_millis(50));
        waiter.signal(Signal::SIGSTOP);
        assert_eq!(owner.ask(&format!("release {name}")), "released");
        for attempt in tries {
            // A writer that waits in a space of lock files keeps readers out for 20 ms after it was last seen.
            wait_until("it is let in", || token_in(&third.ask(attempt)).is_some());
            assert_eq!(third.ask(&format!("release {name}")), "released");
        }
        waiter.signal(Signal::SIGCONT);
        assert!(token_in(&waiter.hear()).is_some());
        assert_eq!(waiter.ask(&format!("release {name}")), "released");
    }
    if backend == Backend::Files {
        // There nobody changes sides.
        return;
    }
    let lock = space.rwlock("u").unwrap();
    let writing = lock.write().unwrap();
    let mut waiter = start_in(root.path(), backend);
    waiter.tell("write u");
    wait_until("it waits", || space.usage().waiting == 1);
    std::thread::sleep(Duration::from_millis(50));
    waiter.signal(Signal::SIGSTOP);
    let reading = writing.downgrade().unwrap();
    // What is reserved for the stopped one is not kept from the only reader, either.
    drop(reading.upgrade().unwrap_or_else(|refused| panic!("{}", refused.error)));
    waiter.signal(Signal::SIGCONT);
    assert!(token_in(&waiter.hear()).is_some());
}
