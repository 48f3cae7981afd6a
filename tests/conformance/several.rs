//! Several locks at once, one lock several times, and waits that are ended from outside.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use hostlock::{Backend, CancelToken, Error, Mutex, Wanted, lock_all, try_lock_all, try_lock_all_for};

use crate::actor::{Ask, root, start_in};
use crate::space;
use crate::support::PATIENCE;
use crate::support::chance::Random;

pub fn several_locks_come_together_or_not_at_all(backend: Backend) {
    let root = root();
    let space = space(root.path(), backend);
    let mutexes: Vec<Mutex> = (0..10).map(|number| space.mutex(&format!("m{number}")).unwrap()).collect();
    let lock = space.rwlock("r").unwrap();
    let mut actor = start_in(root.path(), backend);
    actor.acquire("mutex m9");
    // H72: the last of ten is held, and the time is one time for all of them.
    let started = Instant::now();
    let error = try_lock_all_for(&mutexes, Duration::from_millis(120)).unwrap_err();
    let waited = started.elapsed();
    let Error::TimedOut { name, holder: Some(holder), waited: said } = error else { panic!("{error}") };
    assert_eq!((&*name, holder.pid), ("m9", actor.process.id()));
    assert!(waited >= Duration::from_millis(120) && said >= Duration::from_millis(120), "{waited:?}, {said:?}");
    assert!(matches!(try_lock_all(&mutexes), Err(Error::WouldBlock { .. })));
    for mutex in &mutexes[..9] {
        drop(mutex.try_lock().expect("all but one are free"));
    }
    actor.ask("release m9");
    // In the order that was asked for, whatever the order in which they are acquired.
    let backwards = lock_all(mutexes.iter().rev()).unwrap();
    assert_eq!(backwards.len(), 10);
    for (guard, mutex) in backwards.iter().zip(mutexes.iter().rev()) {
        assert_eq!(mutex.holder().unwrap().unwrap().token, guard.token());
    }
    drop(backwards);
    let mixed = lock_all([Wanted::Write(&lock), Wanted::Lock(&mutexes[3])]).unwrap();
    assert!(lock.try_read().is_err());
    drop(mixed);
    let reading = lock_all([Wanted::Read(&lock), Wanted::Lock(&mutexes[3])]).unwrap();
    assert!(lock.try_read().is_ok() && lock.try_write().is_err());
    drop(reading);
    // Two handles of one name are one lock.
    let another = space.mutex("m3").unwrap();
    for twice in [[&mutexes[3], &mutexes[3]], [&mutexes[3], &another]] {
        assert!(matches!(lock_all(twice), Err(Error::InvalidOption { option: "locks", .. })));
    }
    assert!(matches!(lock_all([Wanted::Read(&lock), Wanted::Read(&lock)]), Err(Error::InvalidOption { .. })));
    assert_eq!(lock_all(Vec::<&Mutex>::new()).unwrap().len(), 0);
    assert!(mutexes.iter().all(|mutex| mutex.holder().unwrap().is_none()));
}

/// H71: in whatever order they are named.
pub fn whoever_wants_several_in_any_order_gets_them(backend: Backend) {
    let root = root();
    let space = space(root.path(), backend);
    let mutexes: Vec<Mutex> = (0..5).map(|number| space.mutex(&format!("m{number}")).unwrap()).collect();
    let inside: Vec<AtomicU64> = (0..5).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (mutexes, inside) = (&mutexes, &inside);
            scope.spawn(move || {
                let mut random = Random(seed);
                for _ in 0..100 {
                    let mut wanted: Vec<usize> = (0..5).filter(|_| random.draw() & 1 != 0).collect();
                    for at in (1..wanted.len()).rev() {
                        wanted.swap(at, random.draw() as usize % (at + 1));
                    }
                    let all = try_lock_all_for(wanted.iter().map(|at| &mutexes[*at]), PATIENCE).unwrap();
                    assert!(wanted.iter().all(|at| inside[*at].fetch_add(1, SeqCst) == 0));
                    std::thread::yield_now();
                    for at in &wanted {
                        inside[*at].fetch_sub(1, SeqCst);
                    }
                    drop(all);
                }
            });
        }
    });
}

pub fn a_death_is_still_told_after_several_were_not_to_be_had(backend: Backend) {
    let root = root();
    let space = space(root.path(), backend);
    let [a, b] = ["a", "b"].map(|name| space.mutex(name).unwrap());
    let mut dead = start_in(root.path(), backend);
    dead.acquire("mutex a");
    dead.kill();
    let mut holder = start_in(root.path(), backend);
    holder.acquire("mutex b");
    // It gets the first one, is told, and has to give it up for the second.
    assert!(matches!(try_lock_all([&a, &b]), Err(Error::WouldBlock { .. })));
    holder.ask("release b");
    let both = lock_all([&a, &b]).unwrap();
    let hostlock::WantedGuard::Lock(first) = &both[0] else { panic!("a mutex") };
    assert_eq!(first.abandoned().expect("still to be told").pid, Some(dead.process.id()));
}

pub fn a_thread_acquires_again_what_it_has(backend: Backend) {
    let root = root();
    let space = space(root.path(), backend);
    let [one, two] = [0, 1].map(|_| space.reentrant_mutex("a").unwrap());
    let mut actor = start_in(root.path(), backend);
    let outer = one.lock().unwrap();
    let inner = two.try_lock().unwrap();
    let third = one.try_lock_for(Duration::ZERO).unwrap();
    assert_eq!((one.depth(), two.depth(), outer.token() == third.token()), (3, 3, true));
    // Others do not have it: threads, processes, and handles of the plain mutex.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(matches!(two.try_lock(), Err(Error::WouldBlock { .. })));
            assert_eq!(two.depth(), 0);
        });
    });
    assert_eq!(actor.ask("try-mutex a"), format!("would-block {}", std::process::id()));
    assert!(space.mutex("a").unwrap().try_lock().is_err());
    // In whatever order they go.
    drop(outer);
    third.unlock().unwrap();
    assert_eq!((one.depth(), inner.is_held()), (1, true));
    assert_eq!(actor.ask("try-mutex a"), format!("would-block {}", std::process::id()));
    inner.unlock().unwrap();
    assert_eq!(one.depth(), 0);
    actor.acquire("try-mutex a");
    assert!(matches!(one.try_lock_for(Duration::from_millis(10)), Err(Error::TimedOut { .. })));
    actor.kill();
    let after = one.lock().unwrap();
    let again = one.lock().unwrap();
    assert!(after.abandoned().is_some() && again.abandoned().is_none());
    drop((after, again));
    // H14: a thread that leaked its guard is not the next one, whatever its id.
    std::thread::scope(|scope| drop(scope.spawn(|| std::mem::forget(one.lock().unwrap())).join()));
    for _ in 0..50 {
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(matches!(one.try_lock(), Err(Error::WouldBlock { .. }))));
        });
    }
}

pub fn a_wait_is_cancelled_and_leaves_nothing(backend: Backend) {
    let root = root();
    let space = space(root.path(), backend);
    let mut actor = start_in(root.path(), backend);
    actor.acquire("mutex m");
    actor.acquire("write r");
    actor.acquire("permits s 2 2");
    for round in 0..20 {
        let token = CancelToken::new();
        let (sender, ended) = mpsc::channel();
        let waits: [fn(&hostlock::Space) -> hostlock::Result<()>; 6] = [
            |space| space.mutex("m")?.lock().map(drop),
            |space| space.mutex("m")?.try_lock_for(PATIENCE).map(drop),
            |space| space.rwlock("r")?.read().map(drop),
            |space| space.rwlock("r")?.write().map(drop),
            |space| space.semaphore("s", 2)?.acquire().map(drop),
            |space| lock_all([&space.mutex("m")?, &space.mutex("n")?]).map(drop),
        ];
        let threads: Vec<_> = waits
            .into_iter()
            .map(|wait| {
                let (space, token, sender) = (space.clone(), token.clone(), sender.clone());
                std::thread::spawn(move || {
                    let outcome = token.run(|| wait(&space));
                    sender.send(outcome).unwrap();
                })
            })
            .collect();
        // At any moment of their waits: before they sleep, too.
        std::thread::sleep(Duration::from_micros(round * 700));
        token.cancel();
        for _ in &threads {
            let outcome = ended.recv_timeout(PATIENCE).expect("it ends");
            assert!(matches!(outcome, Err(Error::Cancelled { .. })), "{outcome:?}");
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(space.usage().waiting, 0, "a waiter is left");
    }
    // What need not be waited for is had all the same, and whoever has no token, or another, is not cancelled.
    let token = CancelToken::new();
    token.cancel();
    let guard = token.run(|| space.mutex("free").unwrap().lock_owned()).unwrap();
    assert!(guard.is_held() && token.is_cancelled());
    let mutex = Arc::new(space.mutex("m").unwrap());
    let others: Vec<_> = (0..3)
        .map(|other| {
            let mutex = mutex.clone();
            std::thread::spawn(move || match other {
                0 => mutex.lock().map(drop),
                _ => CancelToken::new().run(|| mutex.lock().map(drop)),
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(30));
    token.cancel();
    actor.ask("release m");
    for other in others {
        other.join().unwrap().unwrap();
    }
}
