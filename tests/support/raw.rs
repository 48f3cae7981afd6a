//! The segment as bytes, seen and changed from outside as a peer would: by offsets of its own, not by the library's code.
//! `src/docs/format.md` explains every number here.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

pub const HEADER_LEN: usize = 128;
pub const VERSION_AT: usize = 8;
pub const BYTE_ORDER_AT: usize = 12;
pub const WORD_BITS_AT: usize = 16;
const PARTICIPANTS_AT: u64 = 32;
const NAMES_AT: u64 = 40;
const INDEX_CELLS_AT: u64 = 44;
const RECORDS_OFFSET_AT: u64 = 48;
const INDEX_OFFSET_AT: u64 = 64;
const ENTRIES_OFFSET_AT: u64 = 72;
const EXTENTS_OFFSET_AT: u64 = 80;
const EXTENTS_SIZE_AT: u64 = 88;
const SIZE_AT: u64 = 24;
const CHECKSUM_AT: usize = 120;

/// The owner word of the names' lock.
pub const NAMES_LOCK_AT: u64 = 1024;

/// A segment's file, opened on its own.
#[derive(Debug)]
pub struct Raw(File);

/// An entry of the lock table, as its bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEntry {
    pub at: u64,
    pub owner: u64,
    pub sleepers: u32,
    pub meta: u64,
    /// Empty where there is none.
    pub name: String,
}

impl Raw {
    /// The segment of the space in `directory`.
    pub fn open(directory: impl AsRef<Path>) -> Self {
        let path = directory.as_ref().join("segment");
        Self(File::options().read(true).write(true).open(path).expect("a segment"))
    }

    pub fn file(&self) -> &File {
        &self.0
    }

    pub fn u32_at(&self, at: u64) -> u32 {
        let mut bytes = [0; 4];
        self.0.read_exact_at(&mut bytes, at).expect("inside the segment");
        u32::from_ne_bytes(bytes)
    }

    pub fn u64_at(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, at).expect("inside the segment");
        u64::from_ne_bytes(bytes)
    }

    pub fn put(&self, at: u64, value: u64) {
        self.0.write_all_at(&value.to_ne_bytes(), at).expect("the segment can be written");
    }

    pub fn put_u32(&self, at: u64, value: u32) {
        self.0.write_all_at(&value.to_ne_bytes(), at).expect("the segment can be written");
    }

    /// Slot, incarnation and PID of everybody registered.
    pub fn participants(&self) -> Vec<(u32, u32, u32)> {
        let start = self.u64_at(RECORDS_OFFSET_AT);
        (0..self.u32_at(PARTICIPANTS_AT))
            .map(|slot| (slot, self.u64_at(start + u64::from(slot) * 256)))
            .filter(|(_, state)| *state as u32 != 0)
            .map(|(slot, state)| (slot, (state >> 32) as u32, state as u32))
            .collect()
    }

    /// Changes the record of the participant with that PID, and seals it.
    pub fn change_record(&self, pid: u32, change: impl FnOnce(&mut [u8])) {
        let (slot, ..) = *self.participants().iter().find(|(.., of)| *of == pid).expect("registered");
        let at = self.u64_at(RECORDS_OFFSET_AT) + u64::from(slot) * RECORD_LEN as u64;
        let mut record = [0; RECORD_LEN];
        self.0.read_exact_at(&mut record, at).expect("inside the segment");
        change(&mut record);
        seal_record(&mut record);
        self.0.write_all_at(&record, at).expect("the segment can be written");
    }

    /// All entries, used or not.
    pub fn entries(&self) -> Vec<RawEntry> {
        let start = self.u64_at(ENTRIES_OFFSET_AT);
        (0..u64::from(self.u32_at(NAMES_AT)))
            .map(|index| {
                let at = start + index * 256;
                let meta = self.u64_at(at + 32);
                let [.., state, _, len, _] = meta.to_be_bytes();
                let mut name = vec![0; if state == 1 { len.into() } else { 0 }];
                self.0.read_exact_at(&mut name, at + 64).expect("inside the segment");
                RawEntry {
                    at,
                    owner: self.u64_at(at),
                    // Without the marks beside the count.
                    sleepers: self.u32_at(at + 16) & 0x1FFF_FFFF,
                    meta,
                    name: String::from_utf8_lossy(&name).into_owned(),
                }
            })
            .collect()
    }

    /// Where each cell of the index lies, and what is in it.
    pub fn index(&self) -> Vec<(u64, u32)> {
        let start = self.u64_at(INDEX_OFFSET_AT);
        (0..u64::from(self.u32_at(INDEX_CELLS_AT)))
            .map(|cell| start + cell * 4)
            .map(|at| (at, self.u32_at(at)))
            .collect()
    }

    /// How many lines are lent by the first 64 cells of readers in the extents, of a space that has nothing else there.
    pub fn lines_lent(&self) -> u32 {
        let start = self.u64_at(EXTENTS_OFFSET_AT);
        (0..64).map(|cell| (self.u64_at(start + cell * 64 + 16) as u16).count_ones()).sum()
    }

    /// Where each reader's line lies that is open, and its mark.
    pub fn open_lines(&self) -> Vec<(u64, u64)> {
        // After the extents, in pages for three participants each, of which some are holes.
        let lives = self.u64_at(EXTENTS_OFFSET_AT) + self.u64_at(EXTENTS_SIZE_AT);
        let lines = (lives..self.u64_at(SIZE_AT)).step_by(4096).flat_map(|page| (page..page + 3 * 16 * 64).step_by(64));
        lines.map(|line| (line, self.u64_at(line + 8))).filter(|(_, open)| *open != 0).collect()
    }

    /// The names that have an entry, one for each entry.
    pub fn names(&self) -> Vec<String> {
        self.entries().into_iter().map(|entry| entry.name).filter(|name| !name.is_empty()).collect()
    }

    pub fn entry(&self, name: &str) -> Option<RawEntry> {
        self.entries().into_iter().find(|entry| entry.name == name)
    }
}

/// The owner word of a lock that the participant in `slot` holds.
pub fn held_by(slot: u32, epoch: u64) -> u64 {
    let value = u64::from(slot) + 1;
    let code = value << 1 | u64::from(value.count_ones() & 1);
    epoch << 16 | code << 2
}

/// The bytes of a participant's record.
pub const RECORD_LEN: usize = 256;

/// Fills in the digest of a participant's record, as whoever wrote it would have.
pub fn seal_record(record: &mut [u8]) {
    // What is judged by: from the state to the boot id.
    let digest = fnv1a(&record[..48]);
    record[120..128].copy_from_slice(&digest.to_ne_bytes());
}

/// Makes a changed header look sound, as somebody's other version of the library would write it.
pub fn seal(header: &mut [u8]) {
    let checksum = fnv1a(&header[..CHECKSUM_AT]);
    header[CHECKSUM_AT..HEADER_LEN].copy_from_slice(&checksum.to_ne_bytes());
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
