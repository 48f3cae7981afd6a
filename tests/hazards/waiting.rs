//! Those who wait, and die.

use std::time::Duration;

use crate::support::{self, Actor, PATIENCE, hear, root, say, start, wait_until};

/// Waits for `a`.
pub fn waiter(arguments: &[String]) {
    let space = support::space(&arguments[0]);
    let mutex = space.mutex("a").unwrap();
    say("waiting");
    let guard = mutex.lock().unwrap();
    say(format!("{:?}", guard.abandoned()));
    hear();
}

/// H69: those who were killed in the queue are in nobody's way, also where the lock is reserved for who waited for long.
#[test]
fn dead_waiters_hold_up_nobody() {
    for (survivors, at_once) in [(0, false), (0, true), (1, false)] {
        for fair in [false, true] {
            let root = root();
            let space = support::space(root.path());
            let mutex = space.mutex("a").unwrap();
            let guard = mutex.lock().unwrap();
            let mut waiters: Vec<Actor> = (0..6)
                .map(|_| {
                    let waiter = start("waiter", &[root.path().to_str().unwrap()]);
                    waiter.expect("waiting");
                    waiter
                })
                .collect();
            wait_until("all sleep", || space.usage().waiting == 6);
            // Long enough for each to be one who has waited for long.
            std::thread::sleep(Duration::from_millis(20));
            let dead = waiters.split_off(survivors);
            dead.into_iter().for_each(|mut waiter| waiter.kill());
            if fair {
                guard.unlock_fair().unwrap()
            } else {
                guard.unlock().unwrap()
            }
            for mut waiter in waiters {
                waiter.expect("None");
                waiter.kill();
            }
            // Whoever does not wait is not held up by them, either.
            let acquired = if at_once { mutex.try_lock() } else { mutex.try_lock_for(PATIENCE) };
            drop(acquired.unwrap_or_else(|error| panic!("the dead hold it up: {error}")));
            space.recover_dead().unwrap();
            assert_eq!(space.usage().waiting, 0);
        }
    }
}
