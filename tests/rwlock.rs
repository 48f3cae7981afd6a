//! The read-write lock between real processes: sharing and exclusion, deadlines, deaths, changing sides, cells, names that move.

mod support;

use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hostlock::{Error, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, RwLockReadGuard, Space};
use nix::sys::signal::Signal;
use support::{Actor, act, hear, root, say, space, start, wait_until};

#[test]
fn role() {
    act(&[("party", party), ("worker", worker), ("forker", forker)]);
}

enum Guard {
    Read(OwnedRwLockReadGuard),
    Write(OwnedRwLockWriteGuard),
}

impl Guard {
    fn tell(self) -> Self {
        let (token, dead) = match &self {
            Self::Read(guard) => (guard.token(), guard.abandoned()),
            Self::Write(guard) => (guard.token(), guard.abandoned()),
        };
        match dead {
            Some(dead) => say(format!("{token} after {}", dead.pid.unwrap())),
            None => say(token),
        }
        self
    }
}

/// Does what it is told with the lock "a", and says how that ended.
fn party(arguments: &[String]) {
    let lock = space(&arguments[0]).rwlock("a").unwrap();
    let mut guards = Vec::new();
    loop {
        match hear().as_str() {
            "read" => guards.push(Guard::Read(lock.read_owned().unwrap()).tell()),
            "write" => guards.push(Guard::Write(lock.write_owned().unwrap()).tell()),
            "release" => {
                match guards.pop().unwrap() {
                    Guard::Read(guard) => guard.unlock().unwrap(),
                    Guard::Write(guard) => guard.unlock().unwrap(),
                }
                say("released");
            }
            "try" => match lock.try_read() {
                Ok(guard) => guard.unlock().map(|()| say("open")).unwrap(),
                Err(error) => say(error),
            },
            "upgrade" => {
                let Some(Guard::Read(guard)) = guards.pop() else { panic!("it does not read") };
                match guard.upgrade() {
                    Ok(guard) => guards.push(Guard::Write(guard).tell()),
                    Err(refused) => {
                        say(refused.error);
                        guards.push(Guard::Read(refused.guard));
                    }
                }
            }
            "exec" => {
                say("gone");
                panic!("{}", Command::new("sleep").arg("60").exec());
            }
            other => panic!("{other}?"),
        }
    }
}

fn parties<const N: usize>(root: impl AsRef<Path>) -> [Actor; N] {
    std::array::from_fn(|_| start("party", &[root.as_ref().to_str().unwrap()]))
}

/// Tells it to, and hears how that ended.
fn ask(party: &mut Actor, what: &str) -> String {
    party.tell(what);
    party.hear()
}

fn token(said: &str) -> u64 {
    said.parse().unwrap_or_else(|_| panic!("not a token alone: {said}"))
}

/// Writers write their token twice, and some go on as readers; readers find it twice, and as their own token.
fn worker(arguments: &[String]) {
    let [path, turns] = arguments else { panic!("{arguments:?}") };
    let lock = space(path).rwlock("a").unwrap();
    let file = std::fs::File::options().read(true).write(true).open(Path::new(path).join("data")).unwrap();
    let turns: u32 = turns.parse().unwrap();
    let look = |guard: RwLockReadGuard<'_>, written: Option<u64>| {
        let mut words = [[0; 8]; 2];
        for (at, word) in [8, 0].into_iter().zip(&mut words) {
            file.read_exact_at(word, at).unwrap();
        }
        let (found, token) = (words.map(u64::from_ne_bytes), guard.token());
        if (found != [0, 0] && found != [token; 2]) || written.is_some_and(|written| written != token) {
            say(format!("{found:?} with token {token}, {written:?} before"));
        }
        guard.unlock().unwrap();
    };
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (lock, file, look) = (&lock, &file, &look);
            scope.spawn(move || {
                for turn in 0..turns {
                    if (turn + thread) % 4 == 0 {
                        let guard = lock.write().unwrap();
                        let token = guard.token();
                        for at in [0, 8] {
                            file.write_all_at(&token.to_ne_bytes(), at).unwrap();
                        }
                        match turn % 3 {
                            0 => look(guard.downgrade().unwrap(), Some(token)),
                            _ => guard.unlock().unwrap(),
                        }
                    } else {
                        look(lock.read().unwrap(), None);
                    }
                }
            });
        }
    });
    say("done");
    hear();
}

#[test]
fn readers_find_what_the_last_writer_wrote_and_nothing_half_written() {
    let root = root();
    std::fs::write(root.path().join("data"), [0; 16]).unwrap();
    let workers: Vec<_> = (0..4).map(|_| start("worker", &[root.path().to_str().unwrap(), "2000"])).collect();
    workers.iter().for_each(|worker| worker.expect("done"));
    let space = space(&root);
    assert!(space.rwlock("a").unwrap().holders().unwrap().is_empty());
    assert_eq!(space.usage().waiting, 0);
}

#[test]
fn readers_share_and_a_writer_waits_for_all_of_them() {
    let root = root();
    let [mut one, mut two, mut writer] = parties(&root);
    let space = space(&root);
    assert_eq!(ask(&mut one, "read"), ask(&mut two, "read"));
    writer.tell("write");
    wait_until("it waits", || space.usage().waiting == 1);
    // Whoever comes now is held back, and told by whom.
    let error = space.rwlock("a").unwrap().try_read().unwrap_err();
    let Error::WouldBlock { holder: Some(holder), .. } = error else { panic!("{error:?}") };
    assert_eq!(holder.pid, writer.process.id());
    assert_eq!(ask(&mut one, "release"), "released");
    assert_eq!(writer.hear_within(Duration::from_millis(100)), None, "beside a reader");
    assert_eq!(ask(&mut two, "release"), "released");
    let written = token(&writer.hear());
    assert!(ask(&mut one, "try").contains(&format!("held by pid {}", writer.process.id())));
    two.tell("read");
    assert_eq!(two.hear_within(Duration::from_millis(100)), None, "beside a writer");
    assert_eq!(ask(&mut writer, "release"), "released");
    assert_eq!(token(&two.hear()), written, "of the last write");
    assert_eq!(ask(&mut one, "try"), "open");
}

#[test]
fn holders_and_errors_name_the_writer_or_the_readers() {
    let root = root();
    let [mut one, mut two] = parties(&root);
    let lock = space(&root).rwlock("a").unwrap();
    assert!(lock.holders().unwrap().is_empty());
    ask(&mut one, "read");
    ask(&mut one, "read");
    ask(&mut two, "read");
    let mut expected = [(one.process.id(), 2), (two.process.id(), 1)];
    expected.sort();
    let mut holders: Vec<_> = lock.holders().unwrap().iter().map(|holder| (holder.pid, holder.readers)).collect();
    holders.sort();
    assert_eq!(holders, expected);

    let begin = Instant::now();
    let error = lock.try_write_for(Duration::from_millis(150)).unwrap_err();
    assert!(begin.elapsed() >= Duration::from_millis(150));
    let Error::TimedOut { holder: Some(holder), waited, .. } = &error else { panic!("{error:?}") };
    assert!(expected.iter().any(|(pid, _)| *pid == holder.pid) && *waited >= Duration::from_millis(150), "{error}");
    assert!(matches!(lock.try_write().unwrap_err(), Error::WouldBlock { holder: Some(_), .. }));
    // Nothing is left of whoever gave up.
    lock.try_read().unwrap().unlock().unwrap();
    one.tell("release");
    one.expect("released");
    assert_eq!((ask(&mut one, "release"), ask(&mut two, "release")), ("released".into(), "released".into()));
    let written = token(&ask(&mut two, "write"));
    let holders = lock.holders().unwrap();
    assert_eq!((holders.len(), holders[0].pid, holders[0].readers), (1, two.process.id(), 0));
    assert_eq!(holders[0].token, written);
    for error in [
        lock.try_read_for(Duration::from_millis(50)).unwrap_err(),
        lock.try_write_until(Instant::now() + Duration::from_millis(50)).unwrap_err(),
    ] {
        let Error::TimedOut { holder: Some(holder), .. } = &error else { panic!("{error:?}") };
        assert_eq!((holder.pid, holder.token), (two.process.id(), written));
    }
}

#[test]
fn a_thread_that_would_wait_for_itself_is_told_so() {
    let root = root();
    let lock = space(&root).rwlock("a").unwrap();
    let guard = lock.write().unwrap();
    assert!(matches!(lock.read().unwrap_err(), Error::Deadlock { .. }));
    assert!(matches!(lock.write().unwrap_err(), Error::Deadlock { .. }));
    assert!(matches!(lock.try_read().unwrap_err(), Error::WouldBlock { holder: Some(_), .. }));
    guard.unlock().unwrap();
    lock.read().unwrap().unlock().unwrap();
}

#[test]
fn the_time_of_readers_that_are_gone_is_not_that_of_new_ones() {
    let root = root();
    let lock = space(&root).rwlock("a").unwrap();
    let held = || format!("{:?}", lock.holders().unwrap()[0].held);
    let guard = lock.read().unwrap();
    guard.stamp();
    assert!(held().starts_with("For"), "{}", held());
    drop(guard);
    let guard = lock.read().unwrap();
    assert_eq!(held(), "Unknown");
    drop(guard);
}

#[test]
fn the_death_of_a_reader_is_told_to_nobody_and_wakes_the_writer() {
    let root = root();
    let space = space(&root);
    let lock = space.rwlock("a").unwrap();
    let [mut reader, mut other, mut writer] = parties(&root);
    (0..3).for_each(|_| drop(ask(&mut reader, "read")));
    ask(&mut other, "read");
    writer.tell("write");
    wait_until("it waits", || space.usage().waiting == 1);
    reader.kill();
    assert_eq!(writer.hear_within(Duration::from_millis(300)), None, "the other one reads");
    assert_eq!(lock.holders().unwrap().iter().map(|holder| holder.pid).collect::<Vec<_>>(), [other.process.id()]);
    assert_eq!(ask(&mut other, "release"), "released");
    token(&writer.hear());
    assert_eq!(ask(&mut writer, "release"), "released");
    // Nobody waited for this one: it is found by whoever comes.
    ask(&mut other, "read");
    other.kill();
    assert!(lock.try_write().unwrap().abandoned().is_none());
    assert!(lock.read().unwrap().abandoned().is_none());
}

#[test]
fn the_death_of_a_writer_is_told_to_all_until_one_has_written() {
    let root = root();
    let space = space(&root);
    let lock = space.rwlock("a").unwrap();
    for cleaned_up in [false, true] {
        let [mut dead, mut party] = parties(&root);
        let died_with = token(&ask(&mut dead, "write"));
        let pid = dead.process.id();
        dead.kill();
        if cleaned_up {
            assert!(space.recover_dead().unwrap() > 0);
        }
        let told = ask(&mut party, "read");
        assert_eq!(told, format!("{died_with} after {pid}"));
        for _ in 0..3 {
            let guard = lock.read().unwrap();
            let dead = guard.abandoned().unwrap();
            assert_eq!((dead.token, dead.pid, guard.token()), (died_with, Some(pid), died_with));
        }
        // Also to a reader that goes on as a writer; one that gives up takes nothing away.
        assert!(lock.try_write_for(Duration::from_millis(20)).is_err());
        assert_eq!(ask(&mut party, "release"), "released");
        let guard = lock.read().unwrap().upgrade().unwrap();
        assert_eq!(guard.abandoned().unwrap().pid, Some(pid));
        let seen = Space::builder("test").root(root.path()).inspect().unwrap().locks.remove(0);
        assert_eq!(seen.abandoned.unwrap().token, died_with);
        guard.abandon().unwrap();
        let me = Some(std::process::id());
        assert_eq!(lock.read().unwrap().abandoned().unwrap().pid, me);
        let guard = lock.write().unwrap();
        assert_eq!(guard.abandoned().unwrap().pid, me);
        let guard = guard.downgrade().unwrap();
        assert!(lock.read().unwrap().abandoned().is_none(), "a writer was told and went on");
        drop(guard);
        assert!(lock.write().unwrap().abandoned().is_none());
    }
}

#[test]
fn the_death_of_whoever_waits_is_told_to_nobody_and_stops_nobody() {
    let root = root();
    let space = space(&root);
    let lock = space.rwlock("a").unwrap();
    let [mut first, mut second, mut behind] = parties(&root);
    let reading = lock.read().unwrap();
    first.tell("write");
    wait_until("one waits for the readers", || space.usage().waiting == 1);
    second.tell("write");
    wait_until("one waits behind it", || space.usage().waiting == 2);
    behind.tell("read");
    wait_until("a reader waits, too", || space.usage().waiting == 3);
    second.kill();
    first.kill();
    token(&behind.hear());
    assert_eq!(ask(&mut behind, "release"), "released");
    drop(reading);
    assert!(lock.write().unwrap().abandoned().is_none());
    space.recover_dead().unwrap();
    assert_eq!(space.usage().waiting, 0);
}

#[test]
fn an_upgrade_does_not_fail_for_somebody_who_is_dead() {
    let root = root();
    let space = space(&root);
    let lock = space.rwlock("a").unwrap();
    let [mut waiting] = parties(&root);
    let reading = lock.read().unwrap();
    waiting.tell("write");
    wait_until("it waits for us", || space.usage().waiting == 1);
    let refused = reading.upgrade().unwrap_err();
    assert!(matches!(refused.error, Error::WouldBlock { holder: Some(_), .. }), "{}", refused.error);
    waiting.kill();
    let writing = refused.guard.upgrade().unwrap();
    assert!(writing.abandoned().is_none());
    writing.unlock().unwrap();
}

#[test]
fn of_two_readers_that_want_to_write_one_does_and_the_other_is_told_at_once() {
    let root = root();
    let [mut one, mut two] = parties(&root);
    for _ in 0..20 {
        ask(&mut one, "read");
        ask(&mut two, "read");
        one.tell("upgrade");
        two.tell("upgrade");
        // The one that is refused says so at once; the other waits until it let go.
        let begin = Instant::now();
        let (said, parties) = loop {
            if let Some(said) = one.hear_within(Duration::from_millis(1)) {
                break (said, [&mut one, &mut two]);
            }
            if let Some(said) = two.hear_within(Duration::from_millis(1)) {
                break (said, [&mut two, &mut one]);
            }
            assert!(begin.elapsed() < support::PATIENCE, "both wait");
        };
        assert!(said.contains("is held by"), "it writes beside a reader: {said}");
        let [refused, writer] = parties;
        assert_eq!(writer.hear_within(Duration::from_millis(10)), None, "both were refused, or one writes");
        assert_eq!(ask(refused, "release"), "released");
        token(&writer.hear());
        assert_eq!(ask(writer, "release"), "released");
    }
}

#[test]
fn changing_sides_lets_nobody_write_in_between() {
    let root = root();
    let space = space(&root);
    let lock = space.rwlock("a").unwrap();
    let [mut reader, mut writer] = parties(&root);
    let writing = lock.write().unwrap();
    let mine = writing.token();
    reader.tell("read");
    wait_until("it waits", || space.usage().waiting == 1);
    let reading = writing.downgrade().unwrap();
    assert_eq!((token(&reader.hear()), reading.token()), (mine, mine), "it came in, and nobody wrote");
    assert!(lock.try_write().is_err());

    // An upgrade waits for the other reader, and holds back who comes.
    let error = reading.try_upgrade_for(Duration::from_millis(50)).unwrap_err();
    let Error::TimedOut { holder: Some(holder), .. } = &error.error else { panic!("{error:?}") };
    assert_eq!(holder.readers, 1);
    let reading = error.guard;
    let writing = std::thread::scope(|scope| {
        scope.spawn(|| {
            wait_until("we wait", || space.usage().waiting == 1);
            assert_eq!(ask(&mut reader, "release"), "released");
        });
        reading.upgrade().unwrap()
    });
    assert!(writing.token() > mine);
    writer.tell("write");
    wait_until("it waits", || space.usage().waiting == 1);
    let last = writing.token();
    drop(writing);
    assert!(token(&writer.hear()) > last);
}

#[test]
fn a_writer_is_not_starved_by_readers_that_overlap_nor_a_reader_by_writers() {
    let root = root();
    let lock = space(&root).rwlock("a").unwrap();
    let (end, inside, turns) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    let crowd = |write: bool| {
        while !end.load(Ordering::Relaxed) {
            if write {
                let guard = lock.write().unwrap();
                std::thread::sleep(Duration::from_micros(300));
                drop(guard);
            } else {
                let guard = lock.read().unwrap();
                inside.fetch_add(1, Ordering::Relaxed);
                // Each leaves only when another has come, or somebody holds the others back.
                let begin = Instant::now();
                while inside.load(Ordering::Relaxed) < 2 && begin.elapsed() < Duration::from_millis(20) {
                    std::thread::yield_now();
                }
                inside.fetch_sub(1, Ordering::Relaxed);
                drop(guard);
            }
            turns.fetch_add(1, Ordering::Relaxed);
        }
    };
    for write in [false, true] {
        end.store(false, Ordering::Relaxed);
        turns.store(0, Ordering::Relaxed);
        std::thread::scope(|scope| {
            (0..3).for_each(|_| drop(scope.spawn(|| crowd(write))));
            for turn in 1..=50 {
                wait_until("the others are busy", || turns.load(Ordering::Relaxed) > turn * 5);
                // Generous: it takes a few turns of the others.
                match write {
                    true => drop(lock.try_read_for(Duration::from_secs(20)).expect("a reader starves")),
                    false => drop(lock.try_write_for(Duration::from_secs(20)).expect("a writer starves")),
                }
            }
            end.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn whoever_waits_is_woken_and_need_not_look_by_itself() {
    let root = root();
    let space = Space::builder("test").root(root.path()).check_interval(Duration::from_secs(3600)).open().unwrap();
    let lock = space.rwlock("a").unwrap();
    let is_woken = |wait: fn(&RwLock), release: Box<dyn FnOnce() + '_>| {
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                wait(&lock);
                Instant::now()
            });
            // Each sleep is twice as long as the one before: now it sleeps for more than two seconds.
            std::thread::sleep(Duration::from_millis(2700));
            let released = Instant::now();
            release();
            let late = waiter.join().unwrap().duration_since(released);
            assert!(late < Duration::from_millis(1200), "it was not woken: {late:?}");
        });
    };
    let reading = lock.read_owned().unwrap();
    is_woken(|lock| drop(lock.write().unwrap()), Box::new(|| drop(reading)));
    let writing = lock.write_owned().unwrap();
    is_woken(|lock| drop(lock.read().unwrap()), Box::new(|| drop(writing)));
}

#[test]
fn whoever_is_stopped_keeps_what_it_has() {
    let root = root();
    let lock = space(&root).rwlock("a").unwrap();
    let [mut party] = parties(&root);
    ask(&mut party, "read");
    party.signal(Signal::SIGSTOP);
    assert!(matches!(lock.try_write_for(Duration::from_millis(250)).unwrap_err(), Error::TimedOut { .. }));
    lock.try_read().unwrap().unlock().unwrap();
    party.signal(Signal::SIGCONT);
}

#[test]
fn exec_is_a_death() {
    let root = root();
    let lock = space(&root).rwlock("a").unwrap();
    let [mut reader, mut writer] = parties(&root);
    ask(&mut reader, "read");
    assert_eq!(ask(&mut reader, "exec"), "gone");
    assert!(lock.write().unwrap().abandoned().is_none());
    ask(&mut writer, "write");
    assert_eq!(ask(&mut writer, "exec"), "gone");
    assert_eq!(lock.read().unwrap().abandoned().unwrap().pid, Some(writer.process.id()));
}

/// A child of this process, made by `fork`, plays its part; it has to be content.
fn in_child(part: impl FnOnce()) {
    // SAFETY: the thread that forks holds none of the allocator's locks, and the child leaves by `_exit`.
    match unsafe { libc::fork() } {
        0 => {
            part();
            // SAFETY: it does not return.
            unsafe { libc::_exit(0) }
        }
        child => {
            // Here it does not play, and drops nothing.
            std::mem::forget(part);
            let mut status = 0;
            // SAFETY: `status` is ours.
            assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
            assert_eq!(status, 0, "the child was not content");
        }
    }
}

/// Forks as a reader, then as a writer; the child has no part in either.
fn forker(arguments: &[String]) {
    let lock = space(&arguments[0]).rwlock("a").unwrap();
    let (one, two, three) = (lock.read().unwrap(), lock.read_owned().unwrap(), lock.read().unwrap());
    let shared = &lock;
    in_child(move || {
        assert!(!one.is_held() && !two.is_held());
        drop(one);
        assert!(matches!(two.unlock().unwrap_err(), Error::Lost { .. }));
        // It reads on its own, also in the same cell's name.
        let own = shared.read().unwrap();
        assert!(own.is_held() && shared.try_write().is_err());
        assert_eq!(shared.holders().unwrap().len(), 2);
        own.unlock().unwrap();
        // Also once it takes part by itself.
        assert!(!three.is_held());
        assert!(matches!(three.unlock().unwrap_err(), Error::Lost { .. }));
        assert_eq!(shared.holders().unwrap().len(), 1);
    });
    // The guards are in the child that is gone; here they never were dropped.
    assert_eq!(lock.holders().unwrap()[0].readers, 3, "the child took off what is ours");
    assert!(matches!(lock.try_write_for(Duration::from_millis(20)).unwrap_err(), Error::TimedOut { .. }));
    say("kept");
    let other = space(&arguments[0]).rwlock("b").unwrap();
    let writing = other.write_owned().unwrap();
    let shared = &other;
    in_child(move || {
        assert!(!writing.is_held());
        assert!(matches!(writing.downgrade().unwrap_err().error, Error::Lost { .. }));
        assert!(shared.try_read().is_err());
    });
    assert!(other.try_write_for(Duration::from_millis(20)).is_err(), "the child let go of what is ours");
    say("kept");
    hear();
}

#[test]
fn a_forked_child_has_no_part_in_what_its_parent_has() {
    let root = root();
    let parent = start("forker", &[root.path().to_str().unwrap()]);
    parent.expect("kept");
    parent.expect("kept");
}

#[test]
fn cells_grow_with_the_processes_that_read() {
    let root = root();
    let lock = space(&root).rwlock("a").unwrap();
    let mut all: [Actor; 20] = parties(&root);
    all.iter_mut().for_each(|party| drop(ask(party, "read")));
    assert_eq!(lock.holders().unwrap().len(), 20);
    assert!(lock.try_write().is_err());
    for party in &mut all[1..] {
        party.tell("release");
    }
    assert!(lock.try_write_for(Duration::from_millis(100)).is_err());
    all[0].kill();
    lock.write().unwrap().unlock().unwrap();
}

#[test]
fn where_cells_cannot_grow_idle_ones_are_taken_over() {
    let root = root();
    let space = Space::builder("test").root(root.path()).extents(4096).open().unwrap();
    // All but the first eight cells.
    let full = space.semaphore("full", 7 * 32).unwrap();
    let _kept = full.acquire().unwrap();
    let lock = space.rwlock("a").unwrap();
    let mut all: [Actor; 9] = parties(&root);
    for _ in 0..3 {
        // One after another, more than there are cells.
        for party in &mut all {
            token(&ask(party, "read"));
            assert_eq!(ask(party, "release"), "released");
        }
    }
    all[..8].iter_mut().for_each(|party| assert!(token(&ask(party, "read")) > 0));
    let error = lock.read().unwrap_err();
    assert!(matches!(error, Error::NoExtents { .. }), "{error}");
    assert!(ask(&mut all[8], "try").contains("no room"), "the same for others, and nothing hangs");
    assert_eq!(ask(&mut all[3], "release"), "released");
    lock.read().unwrap().unlock().unwrap();
    all[4].kill();
    // Of a dead one, too.
    let one = lock.read().unwrap();
    token(&ask(&mut all[8], "read"));
    drop(one);
    drop(all);
    lock.write().unwrap().unlock().unwrap();
}

#[test]
fn a_name_is_given_up_only_when_nobody_reads_and_its_tokens_grow() {
    let root = root();
    let space = Space::builder("test").root(root.path()).locks(4).open().unwrap();
    let lock = space.rwlock("a").unwrap();
    let others = |from: u32| {
        (from..from + 12).for_each(|number| {
            let other = space.rwlock(&format!("other {number}")).unwrap();
            drop((other.write().unwrap().downgrade().unwrap(), other.clone()));
        });
    };
    let reading = lock.read().unwrap();
    others(0);
    assert!(space.rwlock("a").unwrap().try_write().is_err(), "given up under a reader");
    drop(reading);
    let mut last = 0;
    for round in 1..6 {
        let writing = lock.write().unwrap();
        assert!(writing.token() > last, "round {round}");
        last = writing.token();
        drop(writing);
        others(round * 100);
        let named = Space::builder("test").root(root.path()).inspect().unwrap().locks;
        assert!(named.iter().all(|named| named.name != "a"), "it was to be given up");
        let reading = lock.read().unwrap();
        assert!(reading.token() >= last && reading.is_held(), "round {round}");
        assert!(space.rwlock("a").unwrap().try_write().is_err());
    }
}
