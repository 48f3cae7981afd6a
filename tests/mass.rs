//! One process dies with 3,000 locks of all kinds: whoever first finds out gives all of them back, and of each death one is told.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use hostlock::{Acquired, Space};
use support::{act, hear, root, say, start};

/// Of each kind: mutexes, mutexes with data, write locks, read locks, permits, two permits at once.
const EACH: usize = 500;
const BOUND: Duration = Duration::from_secs(20);

#[test]
fn role() {
    act(&[("holder", holder)]);
}

fn open(root: &Path) -> Space {
    Space::builder("test").root(root).locks(4096).extents(4 << 20).open().unwrap()
}

fn holder(arguments: &[String]) {
    let space = open(Path::new(&arguments[0]));
    for index in 0..EACH {
        std::mem::forget(space.mutex(&format!("mutex {index}")).unwrap().lock_owned().unwrap());
        std::mem::forget(space.mutex_with::<u64>(&format!("data {index}"), 7).unwrap().lock_owned().unwrap());
        std::mem::forget(space.rwlock(&format!("write {index}")).unwrap().write_owned().unwrap());
        std::mem::forget(space.rwlock(&format!("read {index}")).unwrap().read_owned().unwrap());
        std::mem::forget(space.semaphore(&format!("one {index}"), 1).unwrap().acquire_owned().unwrap());
        std::mem::forget(space.semaphore(&format!("two {index}"), 2).unwrap().acquire_many_owned(2).unwrap());
    }
    say("holding");
    hear();
}

#[test]
fn three_thousand_locks_of_the_dead_come_back_at_once_and_are_told_of_once() {
    let root = root();
    let space = open(root.path());
    let mut holder = start("holder", &[root.path().to_str().unwrap()]);
    holder.expect("holding");
    assert_eq!(space.usage().locks, 6 * EACH);
    let pid = holder.process.id();
    let first = space.mutex("mutex 0").unwrap();
    assert!(first.try_lock().is_err(), "the holder has them");
    holder.kill();

    // The first waiter takes its own lock over, and gives the rest back when it lets go.
    let guard = first.try_lock_for(BOUND).unwrap();
    let begin = Instant::now();
    assert_eq!(guard.abandoned().unwrap().pid, Some(pid));
    drop(guard);
    let span = begin.elapsed();
    println!("{} locks of one dead process: back {span:?} after the first waiter found out", 6 * EACH);
    assert_eq!(space.usage().participants, 1, "its slot as well");

    // Without waiting, for there is nothing left to find out.
    let mut told = [0; 6];
    for round in 0..2 {
        for index in 0..EACH {
            let mutex = space.mutex(&format!("mutex {index}")).unwrap();
            told[0] += usize::from(mutex.try_lock().unwrap().abandoned().is_some());
            let data = space.mutex_with::<u64>(&format!("data {index}"), 0).unwrap();
            match data.try_lock().unwrap() {
                Acquired::Clean(guard) => assert_eq!(*guard, 7),
                Acquired::Abandoned(guard) => {
                    told[1] += 1;
                    assert_eq!((*guard, guard.abandoned().pid), (7, Some(pid)));
                    drop(guard.repaired());
                }
            }
            let write = space.rwlock(&format!("write {index}")).unwrap();
            told[2] += usize::from(write.try_write().unwrap().abandoned().is_some());
            let read = space.rwlock(&format!("read {index}")).unwrap();
            told[3] += usize::from(read.try_write().unwrap().abandoned().is_some());
            let one = space.semaphore(&format!("one {index}"), 1).unwrap();
            told[4] += usize::from(one.try_acquire().unwrap().abandoned().is_some());
            let two = space.semaphore(&format!("two {index}"), 2).unwrap();
            told[5] += usize::from(two.try_acquire_many(2).unwrap().abandoned().is_some());
        }
        // Of the one that the first waiter had it was told before; a reader left nothing half done.
        assert_eq!(told, [EACH - 1, EACH, EACH, 0, EACH, EACH], "round {round}");
    }
}
