//! The read-write lock.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use hostlock::Backend;

use crate::actor::{Ask, begins_to_wait, dead_in, root, start_in, token_in};
use crate::space;

pub fn readers_share_and_writers_do_not(backend: Backend) {
    let root = root();
    let mut actors: Vec<_> = (0..3).map(|_| start_in(root.path(), backend)).collect();
    let [one, two, three] = &mut actors[..] else { unreachable!() };
    one.acquire("read r");
    two.acquire("try-read r");
    assert!(three.ask("try-write r").starts_with("would-block"));
    begins_to_wait(three, "write r");
    assert_eq!(one.ask("release r"), "released");
    assert_eq!(three.hear_within(Duration::from_millis(100)), None, "there is a reader left");
    assert_eq!(two.ask("release r"), "released");
    assert!(token_in(&three.hear()).is_some());
    assert_eq!(one.ask("try-read r"), format!("would-block {}", three.pid()));
    assert_eq!(two.ask("try-write r"), format!("would-block {}", three.pid()));
    begins_to_wait(one, "read r");
    assert_eq!(three.ask("release r"), "released");
    assert!(token_in(&one.hear()).is_some());
}

pub fn a_writer_gets_in_among_readers_that_keep_coming(backend: Backend) {
    let root = root();
    let space = space(root.path(), backend);
    let lock = space.rwlock("r").unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // So many that there is always one of them.
        for _ in 0..6 {
            scope.spawn(|| {
                while !is_over.load(SeqCst) {
                    let guard = lock.read().unwrap();
                    std::thread::sleep(Duration::from_millis(4));
                    drop(guard);
                }
            });
        }
        std::thread::sleep(Duration::from_millis(50));
        for _ in 0..3 {
            let written = lock.try_write_for(Duration::from_secs(20)).map(drop);
            if written.is_err() {
                is_over.store(true, SeqCst);
            }
            written.expect("readers that keep coming keep it out");
        }
        is_over.store(true, SeqCst);
    });
}

pub fn a_dead_reader_is_gone_and_a_dead_writer_is_told(backend: Backend) {
    let root = root();
    let (mut one, mut two) = (start_in(root.path(), backend), start_in(root.path(), backend));
    one.acquire("read r");
    begins_to_wait(&mut two, "write r");
    one.kill();
    let answer = two.hear();
    assert_eq!((token_in(&answer).is_some(), dead_in(&answer)), (true, None), "a reader changed nothing: {answer}");
    let pid = two.process.id();
    two.kill();
    let mut three = start_in(root.path(), backend);
    assert_eq!(dead_in(&three.ask("write r")), Some(pid));
    assert_eq!(three.ask("release r"), "released");
    assert_eq!(dead_in(&three.ask("read r")), None);
}

pub fn a_reader_has_the_token_of_the_last_write(backend: Backend) {
    let root = root();
    let space = space(root.path(), backend);
    let lock = space.rwlock("r").unwrap();
    for _ in 0..3 {
        let token = lock.write().unwrap().token();
        let (one, two) = (lock.read().unwrap(), lock.read_owned().unwrap());
        assert_eq!((one.token(), two.token()), (token, token));
        assert!(one.is_held() && two.is_held());
        one.unlock().unwrap();
        assert!(two.is_held());
    }
}

pub fn the_holders_of_a_read_write_lock_are_listed(backend: Backend) {
    let root = root();
    let mut other = start_in(root.path(), backend);
    let space = space(root.path(), backend);
    let lock = space.rwlock("r").unwrap();
    assert_eq!(lock.holders().unwrap(), []);
    other.acquire("read r");
    let _reading = (lock.read().unwrap(), lock.read().unwrap());
    let mut holders: Vec<_> =
        lock.holders().unwrap().into_iter().map(|holder| (holder.pid, holder.readers, holder.command)).collect();
    holders.sort();
    let command = holders[0].2.clone();
    let mut expected = vec![(other.process.id(), 1, command.clone()), (std::process::id(), 2, command)];
    expected.sort();
    assert_eq!(holders, expected);
    drop(_reading);
    assert_eq!(other.ask("release r"), "released");
    let token = other.acquire("write r");
    let holders = lock.holders().unwrap();
    assert_eq!((holders.len(), holders[0].pid, holders[0].token), (1, other.process.id(), token));
    other.kill();
    crate::support::wait_until("the dead are not listed", || lock.holders().unwrap().is_empty());
}
