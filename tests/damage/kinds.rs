//! Bits flipped in a space in which one process has a part of everything that a suite is about, and another one wants it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use hostlock::{Error, Result, Space};

use crate::support::raw::Raw;
use crate::support::{Actor, PATIENCE, hear, root, say, start};

/// Long enough to sleep once.
pub const SHORT: Duration = Duration::from_millis(2);

/// What one process has of each.
pub trait Parts: Sized {
    /// Which of the space's files is flipped in.
    const FILE: &str = "segment";

    fn open(root: &Path) -> Space {
        open(root)
    }

    /// The bits that mean something while somebody holds a part of each.
    fn cases(root: &Path, before: &[u8]) -> Vec<Case> {
        of_tables(before, tables(root))
    }

    /// Whether it is known that a flip there may let somebody in.
    fn is_known(_: &str) -> bool {
        false
    }

    fn of(space: &Space) -> Result<Self>;

    /// Gives all of it back.
    fn end(self, tally: &mut Tally);

    /// Everything a process can do that is not to have what others have.
    fn battery(space: &Space, tally: &mut Tally);

    /// Everything is free now, or an error says why not.
    fn after(space: &Space, tally: &mut Tally);
}

pub fn open(root: &Path) -> Space {
    Space::builder("test").root(root).participants(4).locks(8).extents(8 << 10).open().unwrap()
}

/// In the role of either process, does what it is told.
pub fn resident<P: Parts>(arguments: &[String]) {
    let space = P::open(Path::new(&arguments[0]));
    let mut parts = None;
    say("here");
    loop {
        let mut tally = Tally::default();
        match hear().as_str() {
            "hold" => {
                parts = Some(P::of(&space).unwrap());
                say("held");
                continue;
            }
            "battery" => P::battery(&space, &mut tally),
            "end" => parts.take().unwrap().end(&mut tally),
            "after" => P::after(&space, &mut tally),
            other => panic!("{other}?"),
        }
        say(tally.line());
    }
}

pub fn variant(error: &Error) -> String {
    format!("{error:?}").split([' ', '{', '(']).next().unwrap_or_default().into()
}

/// How often each thing happened. In one line, `what=times`.
#[derive(Default)]
pub struct Tally(BTreeMap<String, u32>);

impl Tally {
    pub fn note(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    /// Of something that somebody else has.
    pub fn taken<T>(&mut self, what: &str, outcome: Result<T>) {
        match outcome {
            // A line of them is split at its spaces.
            Ok(_) => self.note(format!("GOT:{}", what.replace(' ', "-"))),
            Err(error) => self.error(&error),
        }
    }

    /// Of something that may be had or not.
    pub fn open<T>(&mut self, outcome: Result<T>) {
        match outcome {
            Ok(_) => self.note("Ok"),
            Err(error) => self.error(&error),
        }
    }

    pub fn error(&mut self, error: &Error) {
        // A sentence is made of whatever lies there.
        assert!(!error.to_string().is_empty());
        self.note(variant(error));
    }

    pub fn line(&self) -> String {
        let mut line = String::new();
        for (what, times) in &self.0 {
            write!(line, "{what}={times} ").unwrap();
        }
        line
    }
}

pub type Counts = BTreeMap<String, u32>;

pub fn parse(line: &str) -> Counts {
    line.split_ascii_whitespace()
        .filter_map(|part| part.rsplit_once('='))
        .map(|(what, times)| (what.to_owned(), times.parse().unwrap()))
        .collect()
}

/// A space in which one process has a part of everything, and another one wants it.
struct Lane {
    directory: PathBuf,
    file: File,
    before: Vec<u8>,
    /// Of the other files that are there, and their names.
    others: Vec<(PathBuf, PathBuf)>,
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
    fn new<P: Parts>(root: &Path) -> Self {
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
        let (directory, kept) = (root.join("test"), root.join("kept"));
        let file = File::options().read(true).write(true).open(directory.join(P::FILE)).unwrap();
        let mut before = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut before, 0).unwrap();
        fs::create_dir(&kept).unwrap();
        let names = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name());
        let others: Vec<_> = names
            .filter(|name| name != P::FILE)
            .map(|name| (directory.join(&name), kept.join(&name)))
            .inspect(|(path, kept)| fs::hard_link(path, kept).unwrap())
            .collect();
        Self { directory, file, before, others, holder, other }
    }

    /// As it was, while nobody is at work and nobody holds anything: with the files that it had, should others be in their places.
    fn put_back(&self) {
        self.file.write_all_at(&self.before, 0).unwrap();
        let inode = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.ino());
        for (path, kept) in &self.others {
            if inode(path) != inode(kept) {
                let link = self.directory.join(".link");
                fs::hard_link(kept, &link).unwrap();
                fs::rename(&link, path).unwrap();
            }
        }
    }

    /// What the others, the holder, and those afterwards report.
    fn round(&mut self, bit: usize) -> [Counts; 3] {
        self.put_back();
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
pub fn tables(root: &Path) -> [usize; 4] {
    let raw = Raw::open(root.join("test"));
    let entries = raw.u64_at(72) as usize;
    let units = entries + (raw.u32_at(40) as usize * 256).next_multiple_of(4096);
    [entries, units, raw.u64_at(80) as usize, raw.u64_at(24) as usize]
}

/// Where in an entry it says whose it is.
const META_AT: usize = 32;

/// A bit, and where it is.
pub type Case = (usize, String);

/// The bits of that byte.
pub fn bits(at: usize, what: String) -> impl Iterator<Item = Case> {
    (0..8).map(move |bit| (at * 8 + bit, format!("bit {bit} of {what}")))
}

/// The bits of entries, units and extents that mean something while somebody holds a part of each.
pub fn of_tables(before: &[u8], [entries, units, extents, end]: [usize; 4]) -> Vec<Case> {
    let of_entries = (entries..units).filter(|at| {
        // Names are the other suite's; of what is for people one bit of each byte would do as well.
        let offset = (at - entries) % 256;
        let is_used = before[at - offset + META_AT..][..8] != [0; 8];
        is_used && (offset < 64 || (192..248).contains(&offset))
    });
    let of_units = (units..extents).filter(|at| at - units < (end - extents) / 512 * 4);
    let of_extents = (extents..end).filter(|at| before[at / 8 * 8..][..8] != [0; 8]);
    let entry_name = |at: usize| format!("byte {} of entry {}", (at - entries) % 256, (at - entries) / 256);
    of_entries
        .flat_map(|at| bits(at, entry_name(at)))
        .chain(of_units.flat_map(|at| bits(at, format!("byte {} of unit {}", at % 4, (at - units) / 4))))
        .chain(of_extents.flat_map(|at| bits(at, format!("byte {} of the extents", at - extents))))
        .collect()
}

pub fn is_everything_wanted() -> bool {
    std::env::var("HOSTLOCK_DAMAGE").is_ok_and(|value| value == "all")
}

/// Flips the bits of the tables one after the other, every `stride`-th unless all are wanted; how many, and what came of them. Nobody may get what
/// another has, and afterwards nothing may look held.
pub fn sweep<P: Parts>(stride: usize) -> (usize, Counts) {
    let lanes = 4;
    let stride = if is_everything_wanted() { 1 } else { stride };
    let (wrong, seen, tried) = (Mutex::new(Vec::new()), Mutex::new(Counts::new()), Mutex::new(0));
    std::thread::scope(|scope| {
        for number in 0..lanes {
            let (wrong, seen, tried) = (&wrong, &seen, &tried);
            scope.spawn(move || {
                let root = root();
                let mut lane = Lane::new::<P>(root.path());
                let cases = P::cases(root.path(), &lane.before);
                for (bit, what) in cases.into_iter().skip(number).step_by(lanes).step_by(stride) {
                    let [others, holder, after] = lane.round(bit);
                    *tried.lock().unwrap() += 1;
                    for (what, times) in others.iter().chain(&holder).chain(&after) {
                        *seen.lock().unwrap().entry(what.clone()).or_default() += times;
                    }
                    let got = others.keys().any(|what| what.starts_with("GOT"));
                    if got && P::is_known(&what) {
                        println!("{what}: {others:?}");
                    } else if got || after.contains_key("TimedOut") {
                        wrong.lock().unwrap().push(format!("{what}: {others:?}, {holder:?}, {after:?}"));
                    }
                }
            });
        }
    });
    let (wrong, tried) = (wrong.into_inner().unwrap(), tried.into_inner().unwrap());
    let seen = seen.into_inner().unwrap();
    println!("{tried} flips: {seen:?}");
    assert!(wrong.is_empty(), "{} of {tried} went wrong:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
    (tried, seen)
}
