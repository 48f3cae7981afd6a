//! What each process did, where it survives the process: words in a mapping that all of them share.
//!
//! A process has an *area* with a header and records. Nothing is written there in one piece, so each record is published by its last word;
//! whatever its writer did not live to write stays 0.

use std::num::NonZero;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

use hostlock::Abandoned;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

use super::chance::now;

/// How many things one process can do. One that did nearly as many ends by itself.
const RECORDS: usize = 1 << 12;
const WORDS: usize = 10;
const HEADER: usize = 128;
const AREA: usize = HEADER + RECORDS * WORDS;
/// What the workers share beside the locks, to be changed under one of them.
const BOARD: usize = 64;
/// Where in the header its text lies.
const TEXT: usize = 8;

/// What a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// One at a time, by tokens: a mutex in all its forms, an election, something done once.
    Alone = 1,
    Write,
    Read,
    Permits,
    /// Behind a fence, with the token that it was shown.
    Behind,
    /// Phases of the barrier.
    Passed,
    Broken,
    Pushed,
    /// Seen while it is popped.
    Noted,
    Popped,
    /// Something that is done once was, or a name was taken away, or an event set, or its setting taken: moments.
    Done,
    Removed,
    Set,
    Taken,
    Counted,
    Opened,
}

const KINDS: [Kind; 16] = [
    Kind::Alone,
    Kind::Write,
    Kind::Read,
    Kind::Permits,
    Kind::Behind,
    Kind::Passed,
    Kind::Broken,
    Kind::Pushed,
    Kind::Noted,
    Kind::Popped,
    Kind::Done,
    Kind::Removed,
    Kind::Set,
    Kind::Taken,
    Kind::Counted,
    Kind::Opened,
];

/// How it ended, as far as its process lived to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Fate {
    /// It did not say: it died before, or the guard was dropped, which says nothing.
    Unknown,
    /// The release said that it was held until then.
    Released,
    /// The release said that it was lost.
    Lost,
    /// Given up as by a death.
    Abandoned,
}

/// One record, read back.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    pub kind: Kind,
    pub name: u16,
    /// Of permits.
    pub count: u64,
    /// Or the phase, or the item.
    pub token: u64,
    /// When it was asked for, when that came back, and when it was about to end (0: never).
    pub called: u64,
    pub begin: u64,
    pub end: u64,
    pub fate: Fate,
    /// The token whose holder was said to have died, or lost its lease; 0: none was.
    pub told: u64,
    pub told_lost: bool,
    /// How long its lease is in nanoseconds, if it has one (0), and when it was last asked for.
    pub span: u64,
    pub renewed: u64,
}

#[derive(Clone, Copy)]
pub struct Logs {
    words: &'static [AtomicU64],
}

impl Logs {
    /// For so many processes. It stays until this process ends.
    pub fn new(areas: usize) -> nix::Result<Self> {
        let count = BOARD + areas * AREA;
        let bytes = NonZero::new(count * size_of::<u64>()).expect("not empty");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the system's choice; it is never unmapped, and zeros are atomics.
        let words = unsafe {
            let start = mmap_anonymous(None, bytes, access, MapFlags::MAP_SHARED)?;
            std::slice::from_raw_parts(start.cast::<AtomicU64>().as_ptr(), count)
        };
        Ok(Self { words })
    }

    pub fn board(self) -> &'static [AtomicU64] {
        &self.words[..BOARD]
    }

    pub fn area(self, index: usize) -> Area {
        Area { words: &self.words[BOARD + index * AREA..][..AREA] }
    }
}

/// Where one process logs, from any of its threads.
#[derive(Clone, Copy)]
pub struct Area {
    words: &'static [AtomicU64],
}

impl Area {
    fn next(self) -> &'static AtomicU64 {
        &self.words[0]
    }

    /// When the process was about to end itself; 0: it was not.
    pub fn ending(self) -> &'static AtomicU64 {
        &self.words[1]
    }

    /// For what it waits: a name and 1.
    pub fn wants(self) -> &'static AtomicU64 {
        &self.words[2]
    }

    /// How many things it has.
    pub fn has(self) -> &'static AtomicU64 {
        &self.words[3]
    }

    /// Whether it got as far as to want something.
    pub fn has_begun(self) -> bool {
        self.next().load(Relaxed) > 0 || self.wants().load(Relaxed) > 0
    }

    /// How many forks, programs, threads, closed descriptors, leaves it made: see [`Deed`].
    pub fn deeds(self) -> &'static [AtomicU64] {
        &self.words[HEADER - 8..HEADER]
    }

    pub fn is_nearly_full(self) -> bool {
        self.next().load(Relaxed) as usize + 64 > RECORDS
    }

    /// Says what should not have happened; the first time counts.
    pub fn complain(self, text: &str) {
        let room = (HEADER - 8 - TEXT) * 8;
        let bytes = &text.as_bytes()[..text.len().min(room)];
        for (word, chunk) in self.words[TEXT..].iter().zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_ne_bytes(whole), Relaxed);
        }
        let _ = self.words[TEXT - 1].compare_exchange(0, bytes.len() as u64, SeqCst, SeqCst);
    }

    pub fn complaint(self) -> Option<String> {
        let len = self.words[TEXT - 1].load(SeqCst) as usize;
        let bytes = self.words[TEXT..HEADER - 8].iter().flat_map(|word| word.load(Relaxed).to_ne_bytes());
        (len > 0).then(|| String::from_utf8_lossy(&bytes.take(len).collect::<Vec<_>>()).into_owned())
    }

    /// Something began just now.
    pub fn begin(self, of: Of) -> Open {
        let index = self.next().fetch_add(1, Relaxed) as usize;
        assert!(index < RECORDS, "a log is full");
        let words = &self.words[HEADER + index * WORDS..][..WORDS];
        let open = Open { words, has: self.has() };
        words[3].store(now(), Relaxed);
        words[1].store(of.token, Relaxed);
        words[2].store(of.called, Relaxed);
        words[6].store(of.told.map_or(0, |told| told.token), Relaxed);
        words[9].store(of.told.is_some_and(|told| told.lease_lost).into(), Relaxed);
        words[7].store(of.span.map_or(0, |span| span.as_nanos() as u64), Relaxed);
        words[8].store(of.called, Relaxed);
        self.has().fetch_add(1, Relaxed);
        words[0].store(of.kind as u64 | u64::from(of.name) << 8 | of.count << 32, SeqCst);
        open
    }

    /// Something that is over as soon as it began.
    pub fn mark(self, kind: Kind, name: u16, token: u64, called: u64) {
        let open = self.begin(Of { kind, name, count: 0, token, called, told: None, span: None });
        open.end();
        open.ended(Fate::Released);
    }

    /// All that was logged, by a process that is dead; the area is as new then.
    pub fn take(self) -> Vec<Record> {
        let count = (self.next().load(SeqCst) as usize).min(RECORDS);
        let records = &self.words[HEADER..][..count * WORDS];
        let taken = records.chunks_exact(WORDS).filter_map(Record::read).collect();
        records.iter().chain(&self.words[..HEADER]).for_each(|word| word.store(0, Relaxed));
        taken
    }
}

/// What began.
pub struct Of<'a> {
    pub kind: Kind,
    pub name: u16,
    pub count: u64,
    pub token: u64,
    pub called: u64,
    pub told: Option<&'a Abandoned>,
    pub span: Option<Duration>,
}

/// Something that began.
#[derive(Clone, Copy)]
pub struct Open {
    words: &'static [AtomicU64],
    has: &'static AtomicU64,
}

impl Open {
    /// Its lease is about to be renewed, and that was done.
    pub fn renewed(self, called: u64) {
        self.words[8].store(called, Relaxed);
    }

    /// What it was of, when that is known only afterwards.
    pub fn is_of(self, token: u64) {
        self.words[1].store(token, SeqCst);
    }

    /// It is about to end.
    pub fn end(self) {
        self.words[4].store(now(), SeqCst);
    }

    /// It has.
    pub fn ended(self, fate: Fate) {
        self.words[5].store(fate as u64, SeqCst);
        self.has.fetch_sub(1, Relaxed);
    }
}

impl Record {
    fn read(words: &[AtomicU64]) -> Option<Self> {
        let word = |index: usize| words[index].load(Relaxed);
        let what = word(0);
        let kind = *KINDS.iter().find(|kind| **kind as u64 == what & 0xFF)?;
        let fate = [Fate::Unknown, Fate::Released, Fate::Lost, Fate::Abandoned][word(5) as usize];
        Some(Self {
            kind,
            name: (what >> 8) as u16,
            count: what >> 32,
            token: word(1),
            called: word(2),
            begin: word(3),
            end: word(4),
            fate,
            told: word(6),
            told_lost: word(9) == 1,
            span: word(7),
            renewed: word(8),
        })
    }
}

/// What a process does to itself, counted.
#[derive(Clone, Copy, Debug)]
pub enum Deed {
    Forked,
    Executed,
    ThreadLeft,
    Forgot,
    ClosedAll,
    Left,
    ExitedHolding,
    KilledItself,
}

pub const DEEDS: [&str; 8] = [
    "forked while holding",
    "executed another program while holding",
    "a thread ended while holding",
    "forgot a guard",
    "closed all descriptors",
    "left and joined",
    "exited while holding",
    "killed itself while holding",
];
