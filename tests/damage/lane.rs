//! A space with processes in it, put back to where it was before each round; and the judge of what they report.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use hostlock::{Result, Space};

use crate::support::raw::Raw;
use crate::support::{Actor, PATIENCE, start, wait_until};

pub const PAGE: usize = 4096;
/// The smallest a segment can be: header and globals, a page for each of the four tables, and two for four life words.
pub const SIZE: usize = 7 * PAGE;

/// The smallest space in which three processes have room beside one that comes and goes.
pub fn open(root: &Path) -> Result<Space> {
    Space::builder("test").root(root).participants(4).locks(4).extents(0).open()
}

/// A place that means something.
pub struct Place {
    pub name: String,
    pub offset: usize,
    /// Somebody stores there in these tests.
    pub in_use: bool,
}

/// What lies at a byte behind the header; `None`: nothing. By numbers of its own: `src/docs/format.md` explains each.
pub fn region(at: usize) -> Option<Place> {
    let table = |name: &str, start: usize, each: usize, count: usize, used: usize| {
        let (index, offset) = ((at.checked_sub(start)?) / each, (at - start) % each);
        (index < count).then(|| Place { name: format!("{name} {index}"), offset, in_use: index < used })
    };
    table("globals", 1024, 64, 1, 1)
        .or_else(|| table("participant", PAGE, 256, 4, 2))
        .or_else(|| table("waiter", 2 * PAGE, 64, 16, 0))
        .or_else(|| table("cell", 3 * PAGE, 4, 8, 8))
        .or_else(|| table("entry", 4 * PAGE, 256, 4, 2))
        .or_else(|| table("life", 6 * PAGE - 24, 8, 3, 2))
        .or_else(|| table("life", 7 * PAGE - 24, 8, 1, 0))
}

/// The size of a waiter record.
pub const WAITER: usize = 64;

/// Where the record of somebody who sleeps begins.
pub fn sleeper(bytes: &[u8]) -> Option<usize> {
    (2 * PAGE..2 * PAGE + 16 * WAITER).step_by(WAITER).find(|&at| bytes[at..at + 8] != [0; 8])
}

type Tally = BTreeMap<String, u32>;

fn parse(line: &str) -> Tally {
    line.split_ascii_whitespace()
        .filter_map(|part| part.rsplit_once('='))
        .map(|(what, times)| (what.to_owned(), times.parse().expect("a number")))
        .collect()
}

impl Actor {
    /// Says a line and hears the answer; `None`: it ended, or hangs.
    pub fn try_ask(&mut self, line: &str) -> Option<String> {
        self.tell(line);
        self.hear_within(PATIENCE)
    }

    #[track_caller]
    pub fn ask(&mut self, line: &str) -> String {
        match self.try_ask(line) {
            Some(answer) => answer,
            None => panic!("no answer: {:?}", self.process.try_wait()),
        }
    }
}

/// A segment that the dead left: one that held a lock, and one that slept on it.
pub struct Left {
    root: std::path::PathBuf,
    pub file: File,
    pub bytes: Vec<u8>,
}

impl Left {
    pub fn by_the_dead(root: &Path) -> Self {
        let path = root.to_str().expect("a path of ours");
        let mut holder = start("resident", &[path]);
        holder.expect("here");
        assert_eq!(holder.ask("hold"), "held");
        let mut sleeper = start("sleeper", &[path]);
        sleeper.expect("waiting");
        let raw = Raw::open(root.join("test"));
        wait_until("it sleeps", || raw.entry("held").expect("an entry").sleepers == 1);
        sleeper.kill();
        holder.kill();
        let file = raw.file().try_clone().expect("a descriptor");
        let mut bytes = vec![0; SIZE];
        file.read_exact_at(&mut bytes, 0).expect("a whole segment");
        Self { root: root.into(), file, bytes }
    }

    /// Makes the file these bytes and no others.
    pub fn restore(&self, bytes: &[u8]) {
        self.file.set_len(bytes.len() as u64).expect("it can be cut");
        self.file.write_all_at(bytes, 0).expect("it can be written");
    }

    pub fn visitor(&self) -> Actor {
        let visitor = start("visitor", &[self.root.to_str().expect("a path of ours")]);
        visitor.expect("here");
        visitor
    }
}

/// A space in which one process holds a lock, one waits for it, one is there, and one comes and goes.
pub struct Lane {
    file: File,
    before: Vec<u8>,
    pub held_at: usize,
    pub holder: Actor,
    waiter: Actor,
    third: Actor,
    visitor: Actor,
}

/// What everybody reported of one round.
#[derive(Debug)]
pub struct Round {
    /// The waiter, the third one and the visitor.
    pub others: [Tally; 3],
    pub holder: Tally,
    /// The waiter's attempt after the holder's end.
    pub after: Tally,
}

impl Round {
    /// How often somebody got the lock while its holder had it.
    pub fn second_holders(&self) -> u32 {
        self.others.iter().filter_map(|other| other.get("GOT")).sum()
    }
}

impl Lane {
    pub fn new(root: &Path) -> Self {
        let path = root.to_str().expect("a path of ours");
        let resident = || {
            let actor = start("resident", &[path]);
            actor.expect("here");
            actor
        };
        let (holder, waiter, third) = (resident(), resident(), resident());
        let visitor = start("visitor", &[path]);
        visitor.expect("here");
        let raw = Raw::open(root.join("test"));
        let held_at = raw.entry("held").expect("an entry").at as usize;
        let file = raw.file().try_clone().expect("a descriptor");
        let mut before = vec![0; SIZE];
        file.read_exact_at(&mut before, 0).expect("a whole segment");
        Self { file, before, held_at, holder, waiter, third, visitor }
    }

    /// The file, to try on what is then put back.
    pub fn scratch(&self) -> File {
        self.file.try_clone().expect("a descriptor")
    }

    /// One round in which the bytes that change under `damage` are stored.
    pub fn round(&mut self, damage: impl FnOnce(&mut [u8])) -> Round {
        self.round_on_file(|file| {
            let mut bytes = vec![0; SIZE];
            file.read_exact_at(&mut bytes, 0).expect("a whole segment");
            let sound = bytes.clone();
            damage(&mut bytes);
            // Only those, for others are at work.
            let mut at = 0;
            while at < SIZE {
                let end = at + bytes[at..].iter().zip(&sound[at..]).take_while(|(new, old)| new != old).count();
                if end > at {
                    file.write_all_at(&bytes[at..end], at as u64).expect("it can be written");
                }
                at = end + 1;
            }
        })
    }

    pub fn round_on_file(&mut self, damage: impl FnOnce(&File)) -> Round {
        // Nobody is at work now, and nobody holds anything.
        self.file.write_all_at(&self.before, 0).expect("it can be written");
        assert_eq!(self.holder.ask("hold"), "held");
        assert_eq!(self.waiter.ask("wait"), "waiting");
        // Most of the time it is asleep by then.
        std::thread::sleep(Duration::from_micros(500));
        damage(&self.file);
        self.third.tell("battery");
        self.visitor.tell("battery");
        let hear = |actor: &mut Actor| match actor.hear_within(PATIENCE) {
            Some(line) if line.starts_with("opened") => parse(&line),
            // An error of opening, by its name.
            Some(line) if line.split_once(": ").is_some_and(|(name, _)| !name.contains(' ')) => {
                let name = line.split(':').next().unwrap_or_default();
                Tally::from([(format!("open:{name}"), 1)])
            }
            Some(line) => parse(&line),
            None => panic!("no answer: {:?}", actor.process.try_wait()),
        };
        let others = [hear(&mut self.waiter), hear(&mut self.third), hear(&mut self.visitor)];
        let holder = parse(&self.holder.ask("end"));
        let after = parse(&self.waiter.ask("after"));
        Round { others, holder, after }
    }
}

/// A line about what was done, also when the test passes: the runner captures what `eprintln!` writes.
pub fn report(line: String) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Collects what went wrong, and counts what went how.
#[derive(Default)]
pub struct Judge {
    wrong: Mutex<Vec<String>>,
    seen: Mutex<Tally>,
    went_on: Mutex<usize>,
}

impl Judge {
    fn count(&self, tallies: &[&Tally]) {
        let mut seen = self.seen.lock().expect("no panic");
        let errors: Tally = tallies.iter().fold(Tally::new(), |mut sum, tally| {
            tally.iter().for_each(|(what, times)| *sum.entry(what.clone()).or_default() += times);
            sum
        });
        let mut odd = false;
        for (what, _) in errors.iter().filter(|(what, _)| !matches!(what.as_str(), "Ok" | "is_held" | "unlock:Ok")) {
            *seen.entry(what.clone()).or_default() += 1;
            odd |= !matches!(what.as_str(), "WouldBlock" | "TimedOut" | "Full");
        }
        if !odd {
            *self.went_on.lock().expect("no panic") += 1;
        }
    }

    fn wrong(&self, what: String) {
        self.wrong.lock().expect("no panic").push(what);
    }

    /// One flipped bit, nobody else there: the lock of the dead comes back, or is an error.
    pub fn alone(&self, what: &str, answer: &str) {
        let mut tally = parse(answer);
        // That is what it came for.
        tally.remove("GOT");
        self.count(&[&tally]);
        if !answer.starts_with("opened") {
            self.wrong(format!("{what}: {answer}"));
        }
        if tally.contains_key("TimedOut") || tally.contains_key("WouldBlock") {
            self.wrong(format!("{what}: the dead one's lock looks held: {answer}"));
        }
    }

    /// Whatever was done, nobody else there: it came back, and that is all.
    pub fn alone_with_anything(&self, _what: &str, answer: &str) {
        let tally = match answer.strip_prefix("opened ") {
            Some(line) => parse(line),
            None => Tally::from([(format!("open:{}", answer.split(':').next().unwrap_or_default()), 1)]),
        };
        self.count(&[&tally]);
    }

    /// One flipped bit: no second holder, and afterwards the lock is free or an error, but not held by nobody for ever.
    pub fn one_bit(&self, what: &str, round: &Round) {
        self.anything(what, round);
        if round.second_holders() > 0 {
            self.wrong(format!("{what}: a second holder: {round:?}"));
        }
        if round.after.contains_key("TimedOut") {
            self.wrong(format!("{what}: held by nobody: {round:?}"));
        }
    }

    /// Whatever was done: everybody came back.
    pub fn anything(&self, _what: &str, round: &Round) {
        let [one, two, three] = &round.others;
        self.count(&[one, two, three, &round.holder, &round.after]);
    }

    #[track_caller]
    pub fn conclude(&self, of: &str, cases: usize) {
        let seen = self.seen.lock().expect("no panic");
        let kinds: Vec<_> = seen.iter().map(|(what, cases)| format!("{what} in {cases}")).collect();
        let went_on = self.went_on.lock().expect("no panic");
        report(format!("{cases} {of}: {went_on} went on as if nothing was; of the others {}", kinds.join(", ")));
        let wrong = self.wrong.lock().expect("no panic");
        assert!(
            wrong.is_empty(),
            "{} of {cases} {of} went wrong:\n{}",
            wrong.len(),
            wrong[..wrong.len().min(60)].join("\n")
        );
    }
}
