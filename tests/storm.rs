//! A kill storm with a judge: 8 processes acquire a million times while they are killed 200 times at random.
//!
//! Each worker logs into a file of its own, under the lock: token and time of acquiring, then time of releasing, just before it
//! does. The judge sorts all acquisitions by token: they must be unique, disjoint and in order; one that was never
//! released belongs to a worker that was killed, and ends at its kill. No search is needed, since the token is the order.
//!
//! `HOSTLOCK_STORM_SECONDS=3600` makes it run for an hour instead, with as many kills as fit; the seed is printed, and
//! `HOSTLOCK_STORM_SEED` sets it.

mod support;

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hostlock::Error;
use support::chance::{Random, now, work};
use support::{Actor, act, root, space, start};

const WORKERS: usize = 8;
const ACQUISITIONS: usize = 1_000_000;
const KILLS: usize = 200;
/// Nobody may wait longer than this while the lock goes round.
const BOUND: Duration = Duration::from_secs(20);

#[test]
fn role() {
    act(&[("worker", worker)]);
}

/// One acquisition in a worker's log: token, time acquired, time about to be released (0: it never was), the token it was told
/// had ended by a death (or 0), 1 once it was released.
const RECORD: usize = 40;
/// A worker whose log is full is content, and ends.
const LOG: usize = 1 << 24;

fn worker(arguments: &[String]) {
    let (root, log) = (Path::new(&arguments[0]), Path::new(&arguments[1]));
    let mut random = Random(arguments[2].parse().unwrap());
    let space = space(root);
    let mutex = space.mutex("storm").unwrap();
    let other = space.mutex("beside").unwrap();
    let file = File::options().read(true).write(true).create_new(true).open(log).unwrap();
    file.set_len(LOG as u64).unwrap();
    // A mapping, so that what was logged survives the kill and costs no system call.
    let map = memmap2::MmapRaw::map_raw(&file).unwrap();
    let shared = File::options().read(true).write(true).open(root.join("counter")).unwrap();
    let counter = memmap2::MmapRaw::map_raw(&shared).unwrap();
    // SAFETY: the file is 8 bytes long and mapped as long as `counter` lives; only the lock's holder touches it.
    let count = || unsafe { &mut *counter.as_mut_ptr().cast::<u64>() };
    let mut index = 0;
    while (index + 1) * RECORD <= LOG {
        // Now and then another way in: with a deadline, or while holding another lock.
        let outer = random.draw().is_multiple_of(64).then(|| other.lock().unwrap());
        let guard = match random.draw() % 8 {
            0 => match mutex.try_lock() {
                Ok(guard) => guard,
                Err(Error::WouldBlock { .. }) => continue,
                Err(error) => panic!("{error}"),
            },
            1 => match mutex.try_lock_for(Duration::from_micros(random.draw() % 200)) {
                Ok(guard) => guard,
                Err(Error::TimedOut { .. }) => continue,
                Err(error) => panic!("{error}"),
            },
            _ => mutex.try_lock_for(BOUND).unwrap_or_else(|error| panic!("waited too long: {error}")),
        };
        let told = guard.abandoned().map_or(0, |dead| dead.token);
        let record = |field: usize, value: u64| {
            // SAFETY: inside the mapping, by the loop's condition, and aligned; nobody else writes here.
            unsafe { map.as_mut_ptr().add(index * RECORD + field * 8).cast::<u64>().write_volatile(value) }
        };
        record(1, now());
        record(3, told);
        // The token last: without it there was no acquisition that got as far as here.
        record(0, guard.token());
        let before = *count();
        *count() = guard.token();
        assert!(before < guard.token(), "the one before me had a larger token");
        assert!(guard.is_held());
        // Work inside, mostly short, sometimes long enough that many sleep; and a good part of the kills hit here.
        work(random.draw() % if random.draw().is_multiple_of(32) { 200_000 } else { 2_000 });
        record(2, now());
        drop(guard);
        record(4, 1);
        drop(outer);
        work(random.draw() % 5_000);
        index += 1;
    }
}

#[derive(Clone, Copy, Debug)]
struct Interval {
    token: u64,
    begin: u64,
    end: u64,
    told: u64,
    released: bool,
    /// For the message that a panic prints.
    #[allow(dead_code)]
    worker: usize,
}

/// All acquisitions of one worker; one that it did not live to release lasted at least until `killed`, when it still lived.
fn read_log(path: &Path, worker: usize, killed: u64, into: &mut Vec<Interval>) {
    let bytes = std::fs::read(path).unwrap_or_default();
    for record in bytes.chunks_exact(RECORD) {
        let field = |index: usize| u64::from_ne_bytes(record[index * 8..][..8].try_into().unwrap());
        let (token, begin, end, told, released) = (field(0), field(1), field(2), field(3), field(4) == 1);
        if token == 0 {
            break;
        }
        let end = if end == 0 { killed.max(begin) } else { end };
        into.push(Interval { token, begin, end, told, released, worker });
    }
    let _ = std::fs::remove_file(path);
}

/// What the judge finds: how many acquisitions, and how many of them were told of a death.
fn judge(mut history: Vec<Interval>) -> (usize, usize) {
    history.sort_by_key(|interval| interval.token);
    for pair in history.windows(2) {
        let (one, next) = (pair[0], pair[1]);
        assert!(one.token < next.token, "two acquisitions with one token:\n{one:?}\n{next:?}");
        assert!(one.end <= next.begin, "two held it at once:\n{one:?}\n{next:?}");
    }
    let released: HashSet<u64> = history.iter().filter(|i| i.released).map(|i| i.token).collect();
    let mut dead = HashSet::new();
    for interval in &history {
        assert!(interval.begin <= interval.end, "{interval:?}");
        if interval.told != 0 {
            assert!(interval.told < interval.token, "{interval:?}");
            assert!(!released.contains(&interval.told), "told of a death that was none: {interval:?}");
            assert!(dead.insert(interval.told), "a death was told twice: {interval:?}");
        }
    }
    (history.len(), dead.len())
}

#[test]
fn a_million_acquisitions_with_200_kills_are_in_order() {
    let long: Option<u64> = std::env::var("HOSTLOCK_STORM_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let seed = std::env::var("HOSTLOCK_STORM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(now);
    println!("seed {seed}");
    let mut random = Random(seed);
    let root = root();
    let path = root.path();
    File::create(path.join("counter")).unwrap().write_all_at(&[0; 8], 0).unwrap();
    let observer = space(path);

    let mut started = 0;
    let mut begin = || -> (Actor, PathBuf, usize) {
        let log = path.join(format!("log-{started}"));
        let seed = random.draw();
        let actor = start("worker", &[path.to_str().unwrap(), log.to_str().unwrap(), &seed.to_string()]);
        started += 1;
        (actor, log, started - 1)
    };
    let mut workers: Vec<_> = (0..WORKERS).map(|_| begin()).collect();
    let mut history = Vec::new();
    let (mut kills, mut total, mut told) = (0, 0, 0);
    let watch = Instant::now();
    let mut clock = Random(seed ^ 1);
    let enough = |kills: usize, total: usize| match long {
        Some(seconds) => watch.elapsed() >= Duration::from_secs(seconds),
        None => kills >= KILLS && total >= ACQUISITIONS,
    };
    while !enough(kills, total + history.len()) {
        assert!(long.is_some() || watch.elapsed() < Duration::from_secs(300), "{kills} kills, {total} acquisitions");
        std::thread::sleep(Duration::from_micros(clock.draw() % 60_000));
        let victim = clock.draw() as usize % WORKERS;
        let (mut actor, log, worker) = std::mem::replace(&mut workers[victim], begin());
        if let Some(status) = actor.process.try_wait().unwrap() {
            // It filled its log, or it failed.
            assert!(status.success(), "worker {worker} failed: {status}");
        }
        let killed = now();
        actor.kill();
        kills += 1;
        read_log(&log, worker, killed, &mut history);
        // Enough for memory's sake; whoever is in the lock now comes later, and is judged with the next batch.
        if history.len() > 20_000_000 {
            let (judged, abandoned) = judge(std::mem::take(&mut history));
            total += judged;
            told += abandoned;
        }
    }
    for (mut actor, log, worker) in workers {
        let killed = now();
        actor.kill();
        kills += 1;
        read_log(&log, worker, killed, &mut history);
    }
    let (judged, abandoned) = judge(history);
    total += judged;
    told += abandoned;
    println!("{total} acquisitions, {kills} kills, {told} deaths told, in {:?}", watch.elapsed());
    assert!(told > 0, "no kill ever hit the lock: the storm is too mild to show anything");

    // And then peace: everybody is dead, and whatever they left comes back.
    let mutex = observer.mutex("storm").unwrap();
    drop(mutex.try_lock_for(BOUND).unwrap());
    drop(observer.mutex("beside").unwrap().try_lock_for(BOUND).unwrap());
    observer.recover_dead().unwrap();
    let usage = observer.usage();
    assert_eq!((usage.participants, usage.waiting, usage.locks), (1, 0, 2), "something was left behind");
    let files = std::fs::read_dir(observer.path()).unwrap().count();
    assert_eq!(files, 1, "only the segment");
}
