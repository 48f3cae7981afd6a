//! The kill storm, with a judge, over mutex, read-write lock and semaphore of either backend.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use hostlock::{Backend, Error};

use crate::support::chance::{Random, now, work};
use crate::support::{Actor, root, start};
use crate::{by_name, name_of, space};

const WORKERS: usize = 6;
const PERMITS: u32 = 3;
const LONG: Duration = Duration::from_secs(4);
const BOUND: Duration = Duration::from_secs(30);

/// Which lock, the token, when acquired, when about to be released (0: never), the token of the death it was told of, released.
const WORDS: usize = 6;
const LOG: usize = 1 << 22;

const MUTEX: u64 = 0;
const WRITE: u64 = 1;
const READ: u64 = 2;
const PERMIT: u64 = 3;

pub fn worker(arguments: &[String]) {
    let space = space(&arguments[0], by_name(&arguments[1]));
    let mut random = Random(arguments[3].parse().unwrap());
    let (mutex, lock) = (space.mutex("mutex").unwrap(), space.rwlock("rw").unwrap());
    let semaphore = space.semaphore("permits", PERMITS).unwrap();
    let file = File::options().read(true).write(true).create_new(true).open(&arguments[2]).unwrap();
    file.set_len(LOG as u64).unwrap();
    // A mapping, so that what was logged survives the kill.
    let map = memmap2::MmapRaw::map_raw(&file).unwrap();
    for index in 0..LOG / (WORDS * 8) {
        let record = |word: usize, value: u64| {
            // SAFETY: inside the mapping, by the loop's end, and aligned; nobody else writes here.
            unsafe { map.as_mut_ptr().cast::<u64>().add(index * WORDS + word).write_volatile(value) }
        };
        let mut random_work = || random.draw() % if random.draw().is_multiple_of(8) { 3_000_000 } else { 20_000 };
        let spans = (random_work(), random_work());
        let inside = |kind: u64, token: u64, told: Option<u64>| {
            record(0, kind);
            record(2, now());
            record(4, told.unwrap_or(0));
            // The token last: without it there was no acquisition that got as far as here.
            record(1, token);
            work(spans.0);
            record(3, now());
        };
        macro_rules! hold {
            ($kind:expr, $guard:expr) => {{
                let guard = match $guard {
                    Ok(guard) => guard,
                    Err(Error::TimedOut { .. } | Error::WouldBlock { .. }) => continue,
                    Err(error) => panic!("{error}"),
                };
                inside($kind, guard.token(), guard.abandoned().map(|dead| dead.token));
                guard.unlock().expect("nobody took it away");
            }};
        }
        match random.draw() % 8 {
            0 => hold!(MUTEX, mutex.try_lock()),
            1 => hold!(MUTEX, mutex.try_lock_for(Duration::from_micros(random.draw() % 3000))),
            2 => hold!(WRITE, lock.try_write_for(BOUND)),
            3 | 4 => hold!(READ, lock.try_read_for(BOUND)),
            5 => hold!(PERMIT, semaphore.try_acquire_many_for(1 + (random.draw() % 2) as u32, BOUND)),
            6 => hold!(PERMIT, semaphore.try_acquire_for(BOUND)),
            _ => hold!(MUTEX, mutex.try_lock_for(BOUND)),
        }
        record(5, 1);
        work(spans.1);
    }
}

#[derive(Clone, Copy, Debug)]
struct Interval {
    kind: u64,
    token: u64,
    begin: u64,
    end: u64,
    told: u64,
    released: bool,
}

/// All acquisitions of one worker; one that it did not live to release lasted at least until `killed`.
fn read_log(path: &Path, killed: u64, into: &mut Vec<Interval>) {
    let bytes = std::fs::read(path).unwrap_or_default();
    for record in bytes.chunks_exact(WORDS * 8) {
        let field = |index: usize| u64::from_ne_bytes(record[index * 8..][..8].try_into().unwrap());
        let (kind, token, begin, end, told) = (field(0), field(1), field(2), field(3), field(4));
        // A try that came to nothing leaves a gap.
        if token != 0 {
            let end = if end == 0 { killed.max(begin) } else { end };
            into.push(Interval { kind, token, begin, end, told, released: field(5) == 1 });
        }
    }
    let _ = std::fs::remove_file(path);
}

fn judge(all: &[Interval]) -> usize {
    let of = |kinds: &[u64]| -> Vec<Interval> {
        let mut some: Vec<_> = all.iter().copied().filter(|one| kinds.contains(&one.kind)).collect();
        some.sort_by_key(|one| (one.token, one.begin));
        some
    };
    let mut told = 0;
    for kinds in [[MUTEX].as_slice(), &[WRITE], &[PERMIT]] {
        let history = of(kinds);
        let released: std::collections::HashSet<u64> = history.iter().filter(|i| i.released).map(|i| i.token).collect();
        let mut dead = std::collections::HashSet::new();
        for pair in history.windows(2) {
            assert!(pair[0].token < pair[1].token, "two acquisitions with one token: {pair:?}");
            assert!(kinds == [PERMIT] || pair[0].end <= pair[1].begin, "two held it at once: {pair:?}");
        }
        for one in history.iter().filter(|one| one.told != 0) {
            assert!(one.told < one.token && !released.contains(&one.told), "told of a death that was none: {one:?}");
            assert!(dead.insert(one.told), "told twice: {one:?}");
        }
        told += dead.len();
    }
    // A reader is beside no writer.
    let (writers, mut readers) = (of(&[WRITE]), of(&[READ]));
    readers.sort_by_key(|one| one.begin);
    for writer in &writers {
        let from = readers.partition_point(|reader| reader.begin + BOUND.as_nanos() as u64 * 2 < writer.begin);
        let beside = readers[from..]
            .iter()
            .take_while(|reader| reader.begin < writer.end)
            .find(|reader| reader.end > writer.begin);
        assert!(beside.is_none(), "a reader beside a writer: {writer:?} {beside:?}");
    }
    // Each record is of one or two permits: never more records at once than permits.
    let permits = of(&[PERMIT]);
    let mut events: Vec<(u64, i32)> = permits.iter().flat_map(|one| [(one.begin, 1), (one.end, -1)]).collect();
    events.sort();
    let mut inside = 0;
    for (_, change) in events {
        inside += change;
        assert!(inside <= PERMITS as i32, "{inside} had permits at once");
    }
    told
}

pub fn a_storm_of_kills_is_in_order(backend: Backend) {
    let seed = std::env::var("HOSTLOCK_STORM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(now);
    println!("seed {seed}");
    let long = std::env::var("HOSTLOCK_STORM_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let long = long.map_or(LONG, Duration::from_secs);
    let (mut random, root) = (Random(seed), root());
    let observer = space(root.path(), backend);
    let mut started = 0;
    let mut begin = || -> (Actor, std::path::PathBuf) {
        let log = root.path().join(format!("log-{started}"));
        started += 1;
        let seed = random.draw().to_string();
        let arguments = [root.path().to_str().unwrap(), name_of(backend), log.to_str().unwrap(), &seed];
        (start("worker", &arguments), log)
    };
    let mut workers: Vec<_> = (0..WORKERS).map(|_| begin()).collect();
    let (mut clock, mut history, mut kills) = (Random(seed ^ 1), Vec::new(), 0);
    let (mutex, lock) = (observer.mutex("mutex").unwrap(), observer.rwlock("rw").unwrap());
    let semaphore = observer.semaphore("permits", PERMITS).unwrap();
    let watch = Instant::now();
    // Longer where others keep the machine busy, so that there is something to judge.
    while watch.elapsed() < long || kills <= 20 && watch.elapsed() < 20 * long {
        std::thread::sleep(Duration::from_micros(clock.draw() % 60_000));
        // Half of them aimed at somebody who holds a lock.
        let holders = match clock.draw() % 6 {
            0 => mutex.holder().unwrap().into_iter().collect(),
            1 => lock.holders().unwrap(),
            2 => semaphore.holders().unwrap(),
            _ => Vec::new(),
        };
        let is_worker = |pid: u32| workers.iter().position(|(worker, _)| worker.process.id() == pid);
        let aimed = holders.iter().find_map(|holder| is_worker(holder.pid));
        let victim = aimed.unwrap_or(clock.draw() as usize % WORKERS);
        if let Some(status) = workers[victim].0.process.try_wait().unwrap() {
            assert!(status.success(), "a worker failed: {status}");
        }
        let killed = now();
        workers[victim].0.kill();
        kills += 1;
        read_log(&workers[victim].1, killed, &mut history);
        workers[victim] = begin();
    }
    for (mut actor, log) in workers {
        let killed = now();
        actor.kill();
        read_log(&log, killed, &mut history);
    }
    let told = judge(&history);
    println!("{} acquisitions, {kills} kills, {told} deaths told", history.len());
    assert!(
        history.len() > 500 && kills > 20 && told > 0,
        "too mild: {} acquisitions, {kills} kills, {told} told",
        history.len()
    );
    // And then peace: whatever they left comes back.
    drop(mutex.try_lock_for(BOUND).unwrap());
    drop(lock.try_write_for(BOUND).unwrap());
    drop(semaphore.try_acquire_many_for(PERMITS, BOUND).unwrap());
    observer.recover_dead().unwrap();
    let usage = observer.usage();
    assert_eq!((usage.participants, usage.waiting, usage.locks), (1, 0, 3), "something was left behind");
    let files = std::fs::read_dir(observer.path()).unwrap().count();
    assert_eq!(files, if backend == Backend::Files { 1 + 2 + 1 + PERMITS as usize } else { 1 });
}
