//! Bits flipped in everything that the kinds beside the mutex are made of, while one process has a part of each and others want it: their
//! entries, their cells and seats, and who uses which unit. Whatever was flipped, each call comes back, nobody who must be excluded gets in,
//! and afterwards each is free or an error, but not held by nobody for ever.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use hostlock::{
    Acquired, Error, OwnedMutexDataGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, OwnedSemaphorePermit, Result,
    Space,
};
use support::raw::Raw;
use support::{Actor, PATIENCE, act, hear, root, say, start};

/// Long enough to sleep once.
const SHORT: Duration = Duration::from_millis(2);
const PERMITS: u32 = 2;

#[test]
fn role() {
    act(&[("resident", resident)]);
}

fn open(root: &Path) -> Space {
    Space::builder("test").root(root).participants(4).locks(8).extents(8 << 10).open().unwrap()
}

fn variant(error: &Error) -> String {
    format!("{error:?}").split([' ', '{', '(']).next().unwrap_or_default().into()
}

/// How often each thing happened. In one line, `what=times`.
#[derive(Default)]
struct Tally(BTreeMap<String, u32>);

impl Tally {
    fn note(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    /// Of something that somebody else has.
    fn taken<T>(&mut self, what: &str, outcome: Result<T>) {
        match outcome {
            Ok(_) => self.note(format!("GOT:{what}")),
            Err(error) => self.error(&error),
        }
    }

    /// Of something that may be had or not.
    fn open<T>(&mut self, outcome: Result<T>) {
        match outcome {
            Ok(_) => self.note("Ok"),
            Err(error) => self.error(&error),
        }
    }

    fn error(&mut self, error: &Error) {
        // A sentence is made of whatever lies there.
        assert!(!error.to_string().is_empty());
        self.note(variant(error));
    }

    fn line(&self) -> String {
        let mut line = String::new();
        for (what, times) in &self.0 {
            write!(line, "{what}={times} ").unwrap();
        }
        line
    }
}

/// What one process has of each.
struct Parts {
    read: OwnedRwLockReadGuard,
    write: OwnedRwLockWriteGuard,
    permit: OwnedSemaphorePermit,
    all: OwnedSemaphorePermit,
    data: OwnedMutexDataGuard<u64>,
}

impl Parts {
    fn of(space: &Space) -> Result<Self> {
        Ok(Self {
            read: space.rwlock("read")?.read_owned()?,
            write: space.rwlock("write")?.write_owned()?,
            permit: space.semaphore("one", PERMITS)?.acquire_owned()?,
            all: space.semaphore("all", PERMITS)?.acquire_many_owned(PERMITS)?,
            data: match space.mutex_with::<u64>("data", 7)?.lock_owned()? {
                Acquired::Clean(guard) => guard,
                Acquired::Abandoned(guard) => guard.repaired(),
            },
        })
    }

    fn end(self, tally: &mut Tally) {
        for outcome in
            [self.read.unlock(), self.write.unlock(), self.permit.unlock(), self.all.unlock(), self.data.unlock()]
        {
            match outcome {
                Ok(()) => tally.note("unlock:Ok"),
                Err(error) => tally.note(format!("unlock:{}", variant(&error))),
            }
        }
    }
}

/// Everything a process can do that is not to have what others have.
fn battery(space: &Space, tally: &mut Tally) {
    let mut handles = || -> Result<()> {
        let (read, write) = (space.rwlock("read")?, space.rwlock("write")?);
        let (one, all) = (space.semaphore("one", PERMITS)?, space.semaphore("all", PERMITS)?);
        let data = space.mutex_with::<u64>("data", 0)?;
        tally.taken("write beside a reader", read.try_write_for(SHORT));
        tally.open(read.try_read_for(SHORT));
        tally.taken("read beside a writer", write.try_read_for(SHORT));
        tally.taken("a second writer", write.try_write());
        tally.taken("more than all", one.try_acquire_many_for(PERMITS, SHORT));
        tally.open(one.try_acquire_for(SHORT));
        tally.taken("a permit too many", all.try_acquire_for(SHORT));
        tally.taken("data", data.try_lock_for(SHORT));
        tally.open(read.holders());
        tally.open(write.holders());
        tally.open(all.holders());
        tally.open(all.available());
        Ok(())
    };
    if let Err(error) = handles() {
        tally.error(&error);
    }
    for (index, name) in ["new", "newer"].into_iter().enumerate() {
        tally.open(space.semaphore(name, 1 + index as u32).and_then(|new| new.try_acquire_for(SHORT).map(drop)));
    }
    tally.taken("an item that nobody pushed", space.queue::<u64>("queue", 2).and_then(|queue| queue.try_pop()));
    let queue = space.queue::<u64>("queue", 2).and_then(|queue| match queue.try_push(1) {
        Err(Error::Damaged { path, what }) => Err(Error::Damaged { path, what }),
        _ => queue.try_pop().map(drop),
    });
    tally.open(queue);
    let usage = space.usage();
    assert!(usage.locks <= usage.locks_capacity);
    tally.open(space.recover_dead());
}

/// Everything is free now, or an error says why not.
fn after(space: &Space, tally: &mut Tally) {
    let long = SHORT * 20;
    tally.open(space.rwlock("read").and_then(|lock| lock.try_write_for(long).map(drop)));
    tally.open(space.rwlock("write").and_then(|lock| lock.try_write_for(long).map(drop)));
    for name in ["one", "all"] {
        tally.open(space.semaphore(name, PERMITS).and_then(|s| s.try_acquire_many_for(PERMITS, long).map(drop)));
    }
    tally.open(space.mutex_with::<u64>("data", 0).and_then(|data| data.try_lock_for(long).map(drop)));
}

fn resident(arguments: &[String]) {
    let space = open(Path::new(&arguments[0]));
    let queue = space.queue::<u64>("queue", 2).unwrap();
    let mut parts = None;
    say("here");
    loop {
        let mut tally = Tally::default();
        match hear().as_str() {
            "hold" => {
                parts = Some(Parts::of(&space).unwrap());
                assert_eq!(queue.capacity(), 2);
                say("held");
                continue;
            }
            "battery" => battery(&space, &mut tally),
            "end" => parts.take().unwrap().end(&mut tally),
            "after" => after(&space, &mut tally),
            other => panic!("{other}?"),
        }
        say(tally.line());
    }
}

type Counts = BTreeMap<String, u32>;

fn parse(line: &str) -> Counts {
    line.split_ascii_whitespace()
        .filter_map(|part| part.rsplit_once('='))
        .map(|(what, times)| (what.to_owned(), times.parse().unwrap()))
        .collect()
}

/// A space in which one process has a part of everything, and another one wants it.
struct Lane {
    file: File,
    before: Vec<u8>,
    holder: Actor,
    other: Actor,
}

fn ask(actor: &mut Actor, line: &str) -> String {
    actor.tell(line);
    match actor.hear_within(PATIENCE) {
        Some(answer) => answer,
        None => panic!("no answer to {line}: {:?}", actor.process.try_wait()),
    }
}

impl Lane {
    fn new(root: &Path) -> Self {
        let path = root.to_str().unwrap();
        let resident = || {
            let actor = start("resident", &[path]);
            actor.expect("here");
            actor
        };
        let (mut holder, mut other) = (resident(), resident());
        // So that every name is there, and everybody has been everywhere.
        assert_eq!(ask(&mut holder, "hold"), "held");
        ask(&mut other, "battery");
        ask(&mut holder, "end");
        ask(&mut other, "after");
        let file = Raw::open(root.join("test")).file().try_clone().unwrap();
        let mut before = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut before, 0).unwrap();
        Self { file, before, holder, other }
    }

    /// What the others, the holder, and those afterwards report.
    fn round(&mut self, bit: usize) -> [Counts; 3] {
        // Nobody is at work now, and nobody holds anything.
        self.file.write_all_at(&self.before, 0).unwrap();
        assert_eq!(ask(&mut self.holder, "hold"), "held");
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, (bit / 8) as u64).unwrap();
        self.file.write_all_at(&[byte[0] ^ 1 << (bit % 8)], (bit / 8) as u64).unwrap();
        let others = parse(&ask(&mut self.other, "battery"));
        let holder = parse(&ask(&mut self.holder, "end"));
        let after = parse(&ask(&mut self.other, "after"));
        [others, holder, after]
    }
}

/// Where the tables are: of the entries, the units, the extents, and the end.
fn tables(root: &Path) -> [usize; 4] {
    let raw = Raw::open(root.join("test"));
    let entries = raw.u64_at(72) as usize;
    let units = entries + (raw.u32_at(40) as usize * 256).next_multiple_of(4096);
    [entries, units, raw.u64_at(80) as usize, raw.u64_at(24) as usize]
}

/// A bit, and where it is.
type Case = (usize, String);

/// The bits of entries, units and extents that mean something while somebody holds a part of each.
fn cases(lane: &Lane, [entries, units, extents, end]: [usize; 4]) -> Vec<Case> {
    let bits = |at: usize, what: String| (0..8).map(move |bit| (at * 8 + bit, format!("bit {bit} of {what}")));
    let of_entries = (entries..units).filter(|at| {
        // Names are the other suite's; of what is for people one bit of each byte would do as well.
        let offset = (at - entries) % 256;
        let is_used = lane.before[at - offset + 24..at - offset + 32] != [0; 8];
        is_used && (offset < 64 || (192..248).contains(&offset))
    });
    let of_units = (units..extents).filter(|at| at - units < (end - extents) / 512 * 4);
    let of_extents = (extents..end).filter(|at| lane.before[at / 8 * 8..][..8] != [0; 8]);
    let entry_name = |at: usize| format!("byte {} of entry {}", (at - entries) % 256, (at - entries) / 256);
    of_entries
        .flat_map(|at| bits(at, entry_name(at)))
        .chain(of_units.flat_map(|at| bits(at, format!("byte {} of unit {}", at % 4, (at - units) / 4))))
        .chain(of_extents.flat_map(|at| bits(at, format!("byte {} of the extents", at - extents))))
        .collect()
}

#[test]
fn no_flipped_bit_lets_anybody_in_or_ends_a_process() {
    let lanes = 4;
    let all = std::env::var("HOSTLOCK_DAMAGE").is_ok_and(|value| value == "all");
    let (wrong, seen, tried) = (Mutex::new(Vec::new()), Mutex::new(Counts::new()), Mutex::new(0));
    std::thread::scope(|scope| {
        for number in 0..lanes {
            let (wrong, seen, tried) = (&wrong, &seen, &tried);
            scope.spawn(move || {
                let root = root();
                let mut lane = Lane::new(root.path());
                let cases = cases(&lane, tables(root.path()));
                let stride = if all { 1 } else { 3 };
                for (bit, what) in cases.into_iter().skip(number).step_by(lanes).step_by(stride) {
                    let [others, holder, after] = lane.round(bit);
                    *tried.lock().unwrap() += 1;
                    for (what, times) in others.iter().chain(&holder).chain(&after) {
                        *seen.lock().unwrap().entry(what.clone()).or_default() += times;
                    }
                    let got = others.keys().any(|what| what.starts_with("GOT"));
                    if got || after.contains_key("TimedOut") {
                        wrong.lock().unwrap().push(format!("{what}: {others:?}, {holder:?}, {after:?}"));
                    }
                }
            });
        }
    });
    let (wrong, tried) = (wrong.into_inner().unwrap(), tried.into_inner().unwrap());
    println!("{tried} flips: {:?}", seen.into_inner().unwrap());
    assert!(tried > 1000);
    assert!(wrong.is_empty(), "{} of {tried} went wrong:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
}
