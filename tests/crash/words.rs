//! The file of a space of lock files as bytes, by offsets of its own. `src/docs/lock_files.md` explains every number here.

use std::fs;
use std::ops::Range;
use std::path::Path;

const HEADER_WORDS: usize = 16;
const ENTRY_WORDS: usize = 48;
const USED: usize = 8;
const NAME: usize = 8;
const RECORD: usize = 20;

/// An entry, as its words say.
#[derive(Clone, Debug)]
pub struct Entry {
    pub number: u32,
    /// Empty of a permit.
    pub name: String,
    /// How many permits, and the entry of the first.
    count: (u32, u32),
    /// The last one that was drawn.
    pub token: u64,
    /// 0: it had no file yet.
    pub inode: u64,
    pub claim: u64,
    /// By which token it is held, by the record.
    pub held_as: Option<u64>,
    /// Its holder's PID.
    pub holder: u32,
    /// The token of a death that is to be told of; 0: none.
    pub death: u64,
}

impl Entry {
    /// The entries of its permits.
    pub fn permits(&self) -> Range<u32> {
        self.count.1..self.count.1 + if self.count.1 == 0 { 0 } else { self.count.0 }
    }
}

/// All entries that are somebody's.
pub fn entries(space: &Path) -> Vec<Entry> {
    let bytes = fs::read(space.join("files")).expect("the space's file");
    let words: Vec<u64> =
        bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes"))).collect();
    let used = words[USED] as usize;
    words[HEADER_WORDS..]
        .chunks_exact(ENTRY_WORDS)
        .take(used)
        .zip(0..)
        .filter(|(words, _)| words[0] as u32 != 0)
        .map(|(words, number)| {
            let name: Vec<u8> = words[NAME..].iter().flat_map(|word| word.to_ne_bytes()).collect();
            let length = if words[0] as u8 == 0x7F { 0 } else { usize::from((words[0] >> 8) as u8) };
            let state = words[RECORD];
            Entry {
                number,
                name: String::from_utf8_lossy(&name[..length]).into_owned(),
                count: (words[1] as u32, (words[1] >> 32) as u32),
                token: words[2],
                inode: words[4],
                claim: words[16],
                held_as: (state & 1 != 0).then_some(state >> 2),
                holder: words[RECORD + 1] as u32,
                death: if state & 3 == 2 { words[RECORD + 9] } else { 0 },
            }
        })
        .collect()
}

/// The entry of a name.
pub fn entry(space: &Path, name: &str) -> Option<Entry> {
    entries(space).into_iter().find(|entry| entry.name == name)
}
