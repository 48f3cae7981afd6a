//! A kill storm over everything at once, with a judge: 8 processes read, write, hold permits and meet at a barrier while they are killed 500
//! times at random.
//!
//! Each worker logs into a file of its own: what it had, with which token, from when to when. What was never released belongs to a worker
//! that was killed, and ends at its kill. The judge goes through all of them in the order of time, and no search is needed: no writer beside
//! a reader or another writer; never more permits out than there are; tokens in the order of time; each phase of the barrier
//! passed by all who were told of it, or broken for all.
//!
//! `HOSTLOCK_STORM_SECONDS=3600` makes it run for an hour; the seed is printed, and `HOSTLOCK_STORM_SEED` sets it.

mod support;

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hostlock::{Error, Space};
use support::chance::{Random, now, work};
use support::{Actor, act, root, say, space, start};

const WORKERS: usize = 8;
const KILLS: usize = 500;
const PERMITS: u32 = 3;
const MEMBERS: u32 = 3;
/// Nobody may wait longer than this while things go round.
const BOUND: Duration = Duration::from_secs(20);

#[test]
fn role() {
    act(&[("worker", worker)]);
}

/// What a record is of.
const READ: u64 = 1;
const WRITE: u64 = 2;
/// With how many in `told`.
const PERMIT: u64 = 3;
const PASSED: u64 = 4;
const BROKEN: u64 = 5;

/// One thing in a worker's log: what, its token (or phase, or value), when it began, when it was about to end (0: it never was), and
/// which death it was told of (of permits: how many they are), when it was asked for (of permits), and 1 once
/// it really had ended.
const RECORD: usize = 56;
/// A worker whose log is full is content, and ends.
const LOG: usize = 1 << 22;

struct Log {
    map: memmap2::MmapRaw,
    index: usize,
}

impl Log {
    fn is_full(&self) -> bool {
        (self.index + 4) * RECORD > LOG
    }

    fn field(&self, field: usize, value: u64) {
        // SAFETY: inside the mapping, as `is_full` is asked before each turn, and aligned; nobody else writes here.
        unsafe { self.map.as_mut_ptr().add(self.index * RECORD + field * 8).cast::<u64>().write_volatile(value) }
    }

    /// What just began; the kind last, without which there is no record.
    fn begin(&self, kind: u64, token: u64, told: u64) {
        self.begin_called(kind, token, told, 0);
    }

    /// The same, of something that was asked for at `called`.
    fn begin_called(&self, kind: u64, token: u64, told: u64, called: u64) {
        self.field(5, called);
        self.field(2, now());
        self.field(1, token);
        self.field(4, told);
        self.field(0, kind);
    }

    /// It is about to end.
    fn end(&mut self) {
        self.field(3, now());
        self.index += 1;
    }

    /// It has.
    fn ended(&mut self) {
        self.index -= 1;
        self.field(6, 1);
        self.index += 1;
    }
}

fn worker(arguments: &[String]) {
    let (root, log) = (Path::new(&arguments[0]), Path::new(&arguments[1]));
    let mut random = Random(arguments[2].parse().unwrap());
    let space = space(root);
    let rwlock = space.rwlock("rwlock").unwrap();
    let semaphore = space.semaphore("semaphore", PERMITS).unwrap();
    let barrier = space.barrier("barrier", MEMBERS).unwrap();
    let file = File::options().read(true).write(true).create_new(true).open(log).unwrap();
    file.set_len(LOG as u64).unwrap();
    // A mapping, so that what was logged survives the kill and costs no system call.
    let mut log = Log { map: memmap2::MmapRaw::map_raw(&file).unwrap(), index: 0 };
    say("here");
    while !log.is_full() {
        match random.draw() % 13 {
            0..6 => {
                let guard = rwlock.try_read_for(BOUND).unwrap_or_else(|error| panic!("a reader waited: {error}"));
                log.begin(READ, guard.token(), guard.abandoned().map_or(0, |dead| dead.token));
                work(random.draw() % 20_000);
                log.end();
                drop(guard);
            }
            6..8 => {
                // Now and then it gives up, or becomes a reader.
                let patience = if random.draw().is_multiple_of(4) { Duration::from_micros(100) } else { BOUND };
                let guard = match rwlock.try_write_for(patience) {
                    Ok(guard) => guard,
                    Err(Error::TimedOut { .. }) if patience < BOUND => continue,
                    Err(error) => panic!("a writer waited: {error}"),
                };
                let token = guard.token();
                log.begin(WRITE, token, guard.abandoned().map_or(0, |dead| dead.token));
                work(random.draw() % 20_000);
                log.end();
                if random.draw().is_multiple_of(4) {
                    let guard = guard.downgrade().unwrap();
                    log.ended();
                    log.begin(READ, guard.token(), 0);
                    assert_eq!(guard.token(), token);
                    work(random.draw() % 5_000);
                    log.end();
                } else {
                    drop(guard);
                    log.ended();
                }
            }
            8..12 => {
                let count = if random.draw().is_multiple_of(4) { 2 } else { 1 };
                let called = now();
                let permit = semaphore
                    .try_acquire_many_for(count, BOUND)
                    .unwrap_or_else(|error| panic!("it waited for permits: {error}"));
                log.begin_called(PERMIT, permit.token(), count.into(), called);
                work(random.draw() % 20_000);
                log.end();
                drop(permit);
            }
            _ => meet(&barrier, &mut log),
        }
        work(random.draw() % 10_000);
    }
}

/// Meets others at the barrier for a few phases, if there is a place.
fn meet(barrier: &hostlock::Barrier, log: &mut Log) {
    let Ok(mut member) = barrier.join() else { return };
    for _ in 0..4 {
        match member.wait_for(Duration::from_millis(50)) {
            Ok(met) => {
                log.begin(PASSED, met.phase, 0);
                log.end();
            }
            Err(Error::Broken { phase, .. }) => {
                log.begin(BROKEN, phase, 0);
                log.end();
                return;
            }
            Err(Error::TimedOut { .. }) => return,
            Err(error) => panic!("at the barrier: {error}"),
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Interval {
    kind: u64,
    token: u64,
    begin: u64,
    end: u64,
    told: u64,
    called: u64,
    released: bool,
}

/// All that one worker logged; what it did not live to end lasted at least until `killed`, when it still lived.
fn read_log(path: &Path, killed: u64, into: &mut Vec<Interval>) {
    let bytes = std::fs::read(path).unwrap_or_default();
    for record in bytes.chunks_exact(RECORD) {
        let field = |index: usize| u64::from_ne_bytes(record[index * 8..][..8].try_into().unwrap());
        let (kind, token, begin, end, told, called) = (field(0), field(1), field(2), field(3), field(4), field(5));
        if kind == 0 {
            break;
        }
        let released = field(6) == 1;
        let end = if end != 0 { end } else { killed.max(begin) };
        into.push(Interval { kind, token, begin, end, told, called, released });
    }
    let _ = std::fs::remove_file(path);
}

/// Calls `step` with each beginning (`true`) and each end, in the order of time; of those at the same time the ends first.
fn in_time<'a>(of: impl Iterator<Item = &'a Interval>, mut step: impl FnMut(bool, &Interval)) {
    let mut events: Vec<_> = of.flat_map(|i| [(i.begin, true, i), (i.end.max(i.begin + 1), false, i)]).collect();
    events.sort_by_key(|(when, is_begin, _)| (*when, *is_begin));
    for (_, is_begin, interval) in events {
        step(is_begin, interval);
    }
}

#[derive(Debug, Default)]
struct Findings {
    reads: usize,
    writes: usize,
    permits: usize,
    told: usize,
    most_readers: usize,
    most_permits: u64,
    passed: usize,
    broken: usize,
}

fn judge(history: &[Interval]) -> Findings {
    let mut found = Findings::default();
    let of = |kinds: &'static [u64]| history.iter().filter(move |i| kinds.contains(&i.kind));

    let (mut readers, mut writer, mut last_write, mut tokens) = (0, None, 0, HashSet::new());
    in_time(of(&[READ, WRITE]), |is_begin, i| match (i.kind, is_begin) {
        (READ, true) => {
            assert!(writer.is_none(), "a reader beside a writer:\n{i:?}\n{writer:?}");
            assert!(i.token >= last_write, "a reader with an older token than the last write, {last_write}: {i:?}");
            readers += 1;
            found.reads += 1;
            found.most_readers = found.most_readers.max(readers);
        }
        (READ, false) => readers -= 1,
        (_, true) => {
            assert!(writer.is_none(), "two writers:\n{i:?}\n{writer:?}");
            assert_eq!(readers, 0, "a writer beside readers: {i:?}");
            assert!(i.token > last_write && tokens.insert(i.token), "tokens out of order: {last_write}, then {i:?}");
            (writer, last_write) = (Some(*i), i.token);
            found.writes += 1;
        }
        (_, false) => writer = None,
    });
    let released: HashSet<u64> = of(&[WRITE]).filter(|i| i.released).map(|i| i.token).collect();
    let mut dead = HashSet::new();
    for i in of(&[WRITE]).filter(|i| i.told != 0) {
        assert!(!released.contains(&i.told), "told of a death that was none: {i:?}");
        assert!(dead.insert(i.told), "a death was told twice: {i:?}");
    }
    found.told = dead.len();

    let (mut out, mut tokens) = (0, HashSet::new());
    in_time(of(&[PERMIT]), |is_begin, i| {
        if is_begin {
            out += i.told;
            assert!(out <= PERMITS.into(), "{out} permits of {PERMITS} are out: {i:?}");
            assert!(tokens.insert(i.token), "two with one token: {i:?}");
            found.permits += 1;
            found.most_permits = found.most_permits.max(out);
        } else {
            out -= i.told;
        }
    });
    // Whoever asked for a permit when another one had been acquired has a larger token.
    let (mut last_acquired, mut asked) = (0, Vec::new());
    let asking = of(&[PERMIT]).map(|i| Interval { begin: i.called, end: i.begin, ..*i });
    in_time(asking.collect::<Vec<_>>().iter(), |is_asking, i| match is_asking {
        true => asked.push((i.token, last_acquired)),
        false => last_acquired = last_acquired.max(i.token),
    });
    for (token, before) in asked {
        assert!(token > before, "{token} was asked for after {before} had been acquired");
    }

    let mut phases: HashMap<u64, (usize, usize)> = HashMap::new();
    for i in of(&[PASSED, BROKEN]) {
        let (passed, broken) = phases.entry(i.token).or_default();
        *(if i.kind == PASSED { passed } else { broken }) += 1;
    }
    for (phase, (passed, broken)) in phases {
        assert!(passed == 0 || broken == 0, "phase {phase} was passed by {passed} and broken for {broken}");
        assert!(passed <= MEMBERS as usize && broken <= MEMBERS as usize, "phase {phase}: {passed}, {broken}");
        found.passed += usize::from(passed > 0);
        found.broken += usize::from(broken > 0);
    }
    found
}

#[test]
fn nothing_gives_in_500_kills() {
    let long: Option<u64> = std::env::var("HOSTLOCK_STORM_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let seed = std::env::var("HOSTLOCK_STORM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(now);
    println!("seed {seed}");
    let mut random = Random(seed);
    let root = root();
    let path = root.path();
    let observer = space(path);

    let mut started = 0;
    let mut begin = || -> (Actor, PathBuf) {
        let log = path.join(format!("log-{started}"));
        let seed = random.draw().to_string();
        let actor = start("worker", &[path.to_str().unwrap(), log.to_str().unwrap(), &seed]);
        started += 1;
        (actor, log)
    };
    let mut workers: Vec<_> = (0..WORKERS).map(|_| begin()).collect();
    let mut history = Vec::new();
    let mut kills = 0;
    let watch = Instant::now();
    let mut clock = Random(seed ^ 1);
    let enough = |kills: usize| match long {
        Some(seconds) => watch.elapsed() >= Duration::from_secs(seconds),
        None => kills >= KILLS,
    };
    while !enough(kills) {
        assert!(long.is_some() || watch.elapsed() < Duration::from_secs(300), "{kills} kills");
        std::thread::sleep(Duration::from_micros(clock.draw() % 50_000));
        let victim = clock.draw() as usize % WORKERS;
        let (mut actor, log) = std::mem::replace(&mut workers[victim], begin());
        if let Some(status) = actor.process.try_wait().unwrap() {
            // It filled its log, or it failed.
            assert!(status.success(), "a worker failed: {status}");
        }
        let killed = now();
        actor.kill();
        kills += 1;
        read_log(&log, killed, &mut history);
    }
    for (mut actor, log) in workers {
        let killed = now();
        actor.kill();
        kills += 1;
        read_log(&log, killed, &mut history);
    }
    let found = judge(&history);
    println!("{kills} kills in {:?}: {found:?}", watch.elapsed());
    assert!(found.told > 0 && found.broken > 0 && found.passed > 0, "too mild to show anything");
    assert!(found.most_readers > 1 && found.most_permits == PERMITS.into(), "nobody ever shared");

    at_rest(&observer);
}

/// Everybody is dead, and whatever they left comes back.
fn at_rest(observer: &Space) {
    let semaphore = observer.semaphore("semaphore", PERMITS).unwrap();
    drop(semaphore.try_acquire_many_for(PERMITS, BOUND).expect("all permits are free"));
    drop(observer.rwlock("rwlock").unwrap().try_write_for(BOUND).expect("a free lock"));
    let barrier = observer.barrier("barrier", MEMBERS).unwrap();
    let members: Vec<_> = (0..MEMBERS).map(|_| barrier.join().expect("a place")).collect();
    std::thread::scope(|scope| {
        for mut member in members {
            scope.spawn(move || member.wait_for(BOUND).expect("a new phase"));
        }
    });
    observer.recover_dead().unwrap();
    assert_eq!(semaphore.available().unwrap(), PERMITS);
    let usage = observer.usage();
    assert_eq!((usage.participants, usage.waiting, usage.locks), (1, 0, 3), "something was left behind");
    assert_eq!(std::fs::read_dir(observer.path()).unwrap().count(), 1, "only the segment");
}
