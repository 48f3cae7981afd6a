//! The segment, byte by byte; `src/docs/format.md` is this file in prose, and a test compares the two.
//!
//! Everything after the immutable header is made of atomics, so that a peer's store at any moment is a value and never
//! undefined behaviour. All offsets follow from the capacities, and opening computes them anew.

use core::sync::atomic::{AtomicU32, AtomicU64};

use bytemuck::{Pod, Zeroable};

pub(crate) use super::meta::{Kind, Meta};
use crate::digest::fnv1a;
use crate::os::identity::COMMAND_LEN;
use crate::os::life;
use crate::os::map::Shared;
use crate::protocol::bell::Bell;
use crate::protocol::cell::ReaderCell;
use crate::protocol::mutex::LockWords;
use crate::protocol::reader::ReaderLine;
use crate::protocol::seat::Seat;
use crate::protocol::slot::Slot;
use crate::protocol::word::OwnerWord;

pub(crate) const MAGIC: [u8; 8] = *b"hostlock";
/// Changes whenever a byte means something else than before.
pub(crate) const VERSION: u32 = 4;
pub(crate) const BYTE_ORDER: u32 = 0x0102_0304;
/// The `backend` of a segment that is itself the locks.
pub(crate) const BACKEND_SHARED: u32 = 1;

pub(crate) const PAGE: u64 = 4096;
pub(crate) const GLOBALS_AT: u64 = 1024;

/// Longest name of a lock, in bytes.
pub(crate) const NAME_MAX: usize = 64;

/// Bytes of the extents that are given away together. An extent is a run of them.
pub(crate) const UNIT: u64 = 512;
/// Words of a line, which is what extents are counted in where they are used.
pub(crate) const LINE_WORDS: usize = 8;
/// The largest space for extents, in bytes: an extent's place fits its word.
pub(crate) const MOST_EXTENTS: u64 = 1 << 36;
/// How many extents an entry can have.
pub(crate) const EXTENTS_EACH: usize = 6;

/// Waiter records per participant. More threads than that may wait: they are counted, but not shown.
const WAITERS_EACH: u32 = 4;

/// The part of a segment that never changes once it is published.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct Header {
    pub(crate) magic: [u8; 8],
    pub(crate) version: u32,
    pub(crate) byte_order: u32,
    pub(crate) word_bits: u32,
    pub(crate) backend: u32,
    pub(crate) size: u64,
    pub(crate) participants: u32,
    pub(crate) waiters: u32,
    pub(crate) names: u32,
    pub(crate) index_cells: u32,
    pub(crate) participants_at: u64,
    pub(crate) waiters_at: u64,
    pub(crate) index_at: u64,
    pub(crate) entries_at: u64,
    pub(crate) extents_at: u64,
    pub(crate) extents_size: u64,
    /// Permission bits of the file.
    pub(crate) mode: u32,
    /// 1: whoever made it can make heavy fences, so that all who use its read-write locks have to.
    pub(crate) fences: u32,
    /// What every token of this space is above: nanoseconds since 1970 when it was created.
    pub(crate) token_base: u64,
    /// A digest of the inodes of the file and of its directory: a copy, or a segment of another space, is not this one.
    pub(crate) place: u64,
    /// FNV-1a of all bytes before.
    pub(crate) checksum: u64,
}

pub(crate) const HEADER_LEN: usize = size_of::<Header>();

/// What of the header can be chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice {
    pub(crate) participants: u32,
    pub(crate) names: u32,
    /// Bytes of the extents.
    pub(crate) extents: u64,
    pub(crate) mode: u32,
    /// Whether heavy fences can be made here.
    pub(crate) fences: bool,
}

/// Why bytes are not a segment we can use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    NotASegment,
    Version(u32),
    WordBits(u32),
    ByteOrder,
    /// Shorter than it says it is.
    Truncated {
        says: u64,
        is: u64,
    },
    Damaged(&'static str),
}

impl Header {
    /// The header of a new segment. The counts are the caller's to check: 1 to [`Slot::MAX`] participants, 1 to 2²⁴ names, extents up to
    /// [`MOST_EXTENTS`].
    pub(crate) fn new(choice: Choice, token_base: u64, place: u64) -> Self {
        let mut header = Self {
            magic: MAGIC,
            version: VERSION,
            byte_order: BYTE_ORDER,
            word_bits: usize::BITS,
            backend: BACKEND_SHARED,
            participants: choice.participants,
            names: choice.names,
            extents_size: choice.extents.next_multiple_of(PAGE),
            mode: choice.mode,
            fences: choice.fences.into(),
            token_base,
            place,
            ..Self::zeroed()
        };
        header.lay_out();
        header.checksum = header.digest();
        header
    }

    /// Fills in all that follows from the capacities.
    fn lay_out(&mut self) {
        let pages = |bytes: u64| bytes.next_multiple_of(PAGE);
        let table = |count: u32, each: usize| pages(u64::from(count) * each as u64);
        self.waiters = self.participants.saturating_mul(WAITERS_EACH);
        // At most half full, so that a search ends soon.
        self.index_cells = self.names.saturating_mul(2).checked_next_power_of_two().unwrap_or(1 << 31);
        self.participants_at = PAGE;
        self.waiters_at = self.participants_at + table(self.participants, size_of::<Record>());
        self.index_at = self.waiters_at + table(self.waiters, size_of::<Waiter>());
        self.entries_at = self.index_at + table(self.index_cells, size_of::<AtomicU32>());
        self.extents_at = self.units_at() + pages(self.units() * size_of::<AtomicU32>() as u64);
        self.size = self.lives_at() + u64::from(self.participants).div_ceil(life::WORDS) * PAGE;
    }

    /// Where the pages of the life words are: up to here the file is allocated when it is made, and each of these when somebody registers in it.
    pub(crate) fn lives_at(&self) -> u64 {
        self.extents_at + self.extents_size
    }

    /// Where the life word of that slot is.
    pub(crate) fn life_at(&self, slot: Slot) -> u64 {
        let slot = u64::from(slot.index());
        self.lives_at() + slot / life::WORDS * PAGE + life::word_at(slot % life::WORDS)
    }

    /// How many units the extents have.
    pub(crate) fn units(&self) -> u64 {
        self.extents_size / UNIT
    }

    /// Where the table of the units is.
    pub(crate) fn units_at(&self) -> u64 {
        (self.entries_at + u64::from(self.names) * size_of::<Entry>() as u64).next_multiple_of(PAGE)
    }

    fn digest(&self) -> u64 {
        fnv1a(&bytemuck::bytes_of(self)[..HEADER_LEN - 8])
    }

    /// Reads a header from a file's first bytes and checks everything that is said there against everything that must follow
    /// from it, and against the file's length.
    pub(crate) fn read(bytes: &[u8], file_len: u64) -> Result<Self, Flaw> {
        if !bytes.starts_with(&MAGIC) {
            return Err(Flaw::NotASegment);
        }
        let Some(bytes) = bytes.get(..HEADER_LEN) else {
            return Err(Flaw::Truncated { says: HEADER_LEN as u64, is: file_len });
        };
        let header: Self = bytemuck::pod_read_unaligned(bytes);
        if header.byte_order == BYTE_ORDER.swap_bytes() {
            return Err(Flaw::ByteOrder);
        }
        // A sound header of another version is somebody else's; what is left is damage.
        if header.digest() != header.checksum {
            return Err(Flaw::Damaged("the checksum of its header is wrong"));
        }
        if header.version != VERSION {
            return Err(Flaw::Version(header.version));
        }
        if header.word_bits != usize::BITS {
            return Err(Flaw::WordBits(header.word_bits));
        }
        if header.byte_order != BYTE_ORDER || header.backend != BACKEND_SHARED {
            return Err(Flaw::Damaged("its header names what this version does not know"));
        }
        if !(1..=Slot::MAX).contains(&header.participants) || !(1..=1 << 24).contains(&header.names) {
            return Err(Flaw::Damaged("its capacities are impossible"));
        }
        if header.extents_size > MOST_EXTENTS || !header.extents_size.is_multiple_of(PAGE) {
            return Err(Flaw::Damaged("its extents are impossible"));
        }
        if header.token_base > u64::MAX - OwnerWord::MAX_EPOCH {
            return Err(Flaw::Damaged("its tokens would end before they are used up"));
        }
        let mut expected = header;
        expected.lay_out();
        if expected != header {
            return Err(Flaw::Damaged("its tables are not where its capacities put them"));
        }
        if file_len < header.size {
            return Err(Flaw::Truncated { says: header.size, is: file_len });
        }
        Ok(header)
    }
}

/// What concerns the space as a whole and changes.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Globals {
    /// Of the lock under which names come and go.
    pub(crate) names: LockWords,
    /// The largest epoch that any name given up had reached: new names start above.
    pub(crate) epoch_floor: AtomicU64,
    /// Entries from here on were never used.
    pub(crate) entries_used: AtomicU32,
    /// Cells of the index that lead nowhere any more.
    pub(crate) index_dead: AtomicU32,
    /// Grows whenever an entry gets another name; such an entry's generation.
    pub(crate) generation: AtomicU32,
    /// Where the next sweep for unused names starts.
    pub(crate) sweep_hand: AtomicU32,
    /// The unit at which the next search for room starts.
    pub(crate) units_hand: AtomicU32,
    /// Not 0: there are, or were, participants that release by a store.
    pub(crate) light: AtomicU32,
    pub(crate) reserved: [AtomicU32; 16],
}

/// In a record's flags: there is a page for its life word.
pub(crate) const HAS_LIFE: u64 = 1;

/// In a record's flags: the participant is registered for heavy fences.
pub(crate) const TAKES_FENCES: u64 = 2;

/// A participant: one process in the space. Its place in the table is its slot.
#[repr(C, align(256))]
#[derive(Debug)]
pub(crate) struct Record {
    /// Incarnation (high half) and PID (low half; 0: nobody is here). The incarnation grows with each one who moves in.
    pub(crate) state: AtomicU64,
    pub(crate) pid_inode: AtomicU64,
    pub(crate) start_time: AtomicU64,
    pub(crate) pid_namespace: AtomicU64,
    pub(crate) time_namespace: AtomicU64,
    pub(crate) boot: AtomicU64,
    /// Nanoseconds since 1970.
    pub(crate) joined: AtomicU64,
    /// [`HAS_LIFE`], [`TAKES_FENCES`].
    pub(crate) flags: AtomicU64,
    pub(crate) command: [AtomicU64; COMMAND_LEN / 8],
    /// The PID of the process on whose behalf this one holds its locks; 0: on its own. Not of this process's making, so
    /// never judged by.
    pub(crate) behalf: AtomicU64,
    pub(crate) reserved: [AtomicU64; 2],
    /// Of the fields up to `boot`, by which a participant is judged: if it does not fit, they are not believed.
    pub(crate) digest: AtomicU64,
    pub(crate) reserved_for_more: [AtomicU64; 8],
    pub(crate) behalf_command: [AtomicU64; COMMAND_LEN / 8],
    pub(crate) reserved_too: [AtomicU64; 4],
}

/// A thread that sleeps, for whoever wants to know and for whoever has to clean up after it.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Waiter {
    /// Incarnation (high half) and slot + 1 (bits 16 to 31) of the participant; bit 15: not filled in yet; 0: nobody.
    pub(crate) who: AtomicU64,
    /// Entry + 1 (0: the names' lock) and what of it (bit 31: the bell), high half; the entry's generation, low half.
    pub(crate) what: AtomicU64,
    pub(crate) thread: AtomicU64,
    /// Monotonic nanoseconds.
    pub(crate) since: AtomicU64,
    /// The thread that sleeps, also where what it waits for will be no thread's.
    pub(crate) asleep: AtomicU64,
    /// What of what it waits for is its own: see `segment::waiters`.
    pub(crate) own: AtomicU64,
    pub(crate) reserved: [AtomicU64; 2],
}

/// A name and its lock. The first cache line is all that acquiring and releasing touch.
#[repr(C, align(256))]
#[derive(Debug)]
pub(crate) struct Entry {
    /// The lock: a mutex's whole; a read-write lock's writer; of a kind with places, the gate to them.
    pub(crate) lock: LockWords,
    /// Generation (high half), then a byte each: state, kind, length of the name, flags.
    pub(crate) meta: AtomicU64,
    /// When the acquisition of that epoch was first seen: epoch (25 bits), exact or not (1), monotonic milliseconds (38).
    pub(crate) since: AtomicU64,
    /// For whoever waits for something else than the lock.
    pub(crate) bell: Bell,
    /// What the kind keeps here.
    pub(crate) state: AtomicU64,
    // The second cache line: looked at when a name is looked up.
    pub(crate) name: [AtomicU64; NAME_MAX / 8],
    pub(crate) hash: AtomicU64,
    /// The epoch at the last sweep for unused names.
    pub(crate) swept: AtomicU64,
    /// Of the last owner whose death was cleaned up: PID (high half), low half of the epoch it held. Written before the lock is
    /// given back; it counts only while the epoch fits.
    pub(crate) dead: AtomicU64,
    pub(crate) dead_command: [AtomicU64; COMMAND_LEN / 8],
    pub(crate) recovered: AtomicU64,
    /// Where its extents are: see `segment::extents`.
    pub(crate) extents: [AtomicU64; EXTENTS_EACH],
    /// How many permits, members or items it was made for: see `digest::Checked`.
    pub(crate) count: AtomicU64,
    pub(crate) reserved: [AtomicU64; 1],
}

/// A cache line of the extents.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) words: [AtomicU64; LINE_WORDS],
}

// SAFETY: `repr(C)`, all fields atomics of 4 or 8 bytes whose sizes add up to the whole (asserted below), no drop glue.
unsafe impl Shared for Globals {}
// SAFETY: as above.
unsafe impl Shared for Record {}
// SAFETY: as above.
unsafe impl Shared for Waiter {}
// SAFETY: as above.
unsafe impl Shared for Entry {}
// SAFETY: as above.
unsafe impl Shared for Line {}
// SAFETY: as above.
unsafe impl Shared for Seat {}
// SAFETY: as above.
unsafe impl Shared for ReaderCell {}
// SAFETY: as above.
unsafe impl Shared for ReaderLine {}

const _: () = {
    use core::mem::offset_of;
    assert!(HEADER_LEN == 128 && HEADER_LEN as u64 <= GLOBALS_AT);
    assert!(size_of::<Globals>() == 128 && GLOBALS_AT + 128 <= PAGE);
    assert!(
        size_of::<Record>() == 256 && offset_of!(Record, behalf) == 96 && offset_of!(Record, behalf_command) == 192
    );
    assert!(size_of::<Waiter>() == 64);
    assert!(size_of::<Entry>() == 256 && offset_of!(Entry, name) == 64 && offset_of!(Entry, extents) == 192);
    assert!(size_of::<Seat>() == 16 && size_of::<ReaderCell>() == 64 && size_of::<Line>() == 64);
    assert!(size_of::<ReaderLine>() == 64);
    assert!(UNIT.is_multiple_of(size_of::<Line>() as u64));
};

/// A name's lock: its place and what identifies the name there, packed so that a handle can keep both in one atomic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) entry: u32,
    pub(crate) generation: u32,
}

impl Place {
    #[inline(always)]
    pub(crate) fn pack(self) -> u64 {
        (self.entry as u64) << 32 | self.generation as u64
    }

    #[inline(always)]
    pub(crate) fn unpack(packed: u64) -> Self {
        Self { entry: (packed >> 32) as u32, generation: packed as u32 }
    }
}

/// Text in shared words, cut to `N * 8` bytes and zero-padded.
pub(crate) fn store_text<const N: usize>(words: &[AtomicU64; N], text: &[u8]) {
    for (index, word) in words.iter().enumerate() {
        let mut bytes = [0; 8];
        let part = text.get(index * 8..).unwrap_or_default();
        let len = part.len().min(8);
        bytes[..len].copy_from_slice(&part[..len]);
        // Relaxed: whoever reads it has read the word that publishes it with Acquire.
        word.store(u64::from_ne_bytes(bytes), core::sync::atomic::Ordering::Relaxed);
    }
}

/// The first `len` bytes of a text in shared words, as they are.
pub(crate) fn load_text<const N: usize>(words: &[AtomicU64; N], len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        words.iter().flat_map(|word| word.load(core::sync::atomic::Ordering::Relaxed).to_ne_bytes()).collect();
    bytes.truncate(len);
    bytes
}

/// A zero-padded text in shared words, in a form that can be printed: whatever a peer wrote there.
pub(crate) fn load_printable<const N: usize>(words: &[AtomicU64; N]) -> String {
    let bytes = load_text(words, N * 8);
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end])
        .chars()
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHOICE: Choice = Choice { participants: 1024, names: 4096, extents: 2 << 20, mode: 0o600, fences: true };

    fn header() -> Header {
        Header::new(CHOICE, 1_795_000_000_000_000_000, 77)
    }

    #[test]
    fn a_new_header_reads_back() {
        let header = header();
        assert_eq!(Header::read(bytemuck::bytes_of(&header), header.size), Ok(header));
        assert!(header.lives_at() <= 4 << 20, "the default space is small: {}", header.size);
        assert_eq!(header.size % PAGE, 0);
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let sound = header();
        for bit in 0..HEADER_LEN * 8 {
            let mut bytes = bytemuck::bytes_of(&sound).to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::read(&bytes, sound.size).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_is_found() {
        let sound = header();
        let bytes = bytemuck::bytes_of(&sound);
        assert_eq!(Header::read(&[], 0), Err(Flaw::NotASegment));
        for len in 0..HEADER_LEN {
            assert!(Header::read(&bytes[..len], len as u64).is_err(), "{len}");
        }
        for len in [HEADER_LEN as u64, 4096, sound.size - 1] {
            assert_eq!(Header::read(bytes, len), Err(Flaw::Truncated { says: sound.size, is: len }));
        }
    }

    #[test]
    fn other_versions_and_machines_are_named_as_such() {
        let sealed = |change: fn(&mut Header)| {
            let mut header = header();
            change(&mut header);
            header.checksum = header.digest();
            Header::read(bytemuck::bytes_of(&header), header.size)
        };
        assert_eq!(sealed(|h| h.version = 1), Err(Flaw::Version(1)));
        assert_eq!(sealed(|h| h.word_bits = 32), Err(Flaw::WordBits(32)));
        assert_eq!(sealed(|h| h.byte_order = BYTE_ORDER.swap_bytes()), Err(Flaw::ByteOrder));
        assert!(matches!(sealed(|h| h.names = 0), Err(Flaw::Damaged(_))));
        assert!(matches!(sealed(|h| h.participants = 8192), Err(Flaw::Damaged(_))));
        assert!(matches!(sealed(|h| h.entries_at += 4096), Err(Flaw::Damaged(_))));
        assert!(matches!(sealed(|h| h.size -= 4096), Err(Flaw::Damaged(_))));
    }

    #[test]
    fn the_largest_space_fits_the_arithmetic() {
        let choice =
            Choice { participants: Slot::MAX, names: 1 << 24, extents: MOST_EXTENTS, mode: 0o600, fences: true };
        let header = Header::new(choice, 0, 0);
        assert_eq!(Header::read(bytemuck::bytes_of(&header), header.size), Ok(header));
    }

    const PROSE: &str = include_str!("../docs/format.md");

    /// The rows of the first table under the heading, without its head.
    fn table(heading: &str) -> Vec<Vec<&'static str>> {
        let (_, section) = PROSE.split_once(&format!("\n## {heading}\n")).expect("a section of that name");
        let rows = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
        rows.skip(2).map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
    }

    fn size_of_field<T, F>(_: impl FnOnce(&T) -> &F) -> usize {
        size_of::<F>()
    }

    /// Compares the table under the heading with the compiler's offsets and sizes, and both with the whole: no field is left out.
    macro_rules! assert_described {
        ($heading:literal, $type:ty: $($field:ident)*) => {
            let described: Vec<(usize, usize, &str)> = table($heading)
                .iter()
                .map(|row| (row[0].parse().expect("an offset"), row[1].parse().expect("a size"), row[2]))
                .collect();
            let compiled = vec![$((
                core::mem::offset_of!($type, $field),
                size_of_field(|value: &$type| &value.$field),
                stringify!($field),
            )),*];
            assert_eq!(described, compiled, "{}", $heading);
            let mut end = 0;
            for (offset, size, name) in compiled {
                assert_eq!(offset, end, "before {name} in {} lies something nobody described", $heading);
                end = offset + size;
            }
            assert_eq!(end, size_of::<$type>(), "{}", $heading);
        };
    }

    #[test]
    fn the_prose_says_where_every_field_is() {
        assert_described!("Header", Header: magic version byte_order word_bits backend size participants waiters names
            index_cells participants_at waiters_at index_at entries_at extents_at extents_size mode fences token_base
            place checksum);
        assert_described!("Globals", Globals: names epoch_floor entries_used index_dead generation sweep_hand units_hand
            light reserved);
        assert_described!("Lock words", LockWords: owner thread sleepers contended lease);
        assert_described!("Participant record", Record: state pid_inode start_time pid_namespace time_namespace boot joined
            flags command behalf reserved digest reserved_for_more behalf_command reserved_too);
        assert_described!("Waiter record", Waiter: who what thread since asleep own reserved);
        assert_described!("Entry", Entry: lock meta since bell state name hash swept dead dead_command recovered extents
            count reserved);
        assert_described!("Bell", Bell: rung sleepers);
        assert_described!("Seat", Seat: owner note);
        assert_described!("Cell of readers", ReaderCell: word since lent reserved);
        assert_described!("Line of a reader", ReaderLine: reads open since reserved);
    }

    #[test]
    fn the_prose_says_where_every_table_is() {
        let header = header();
        let parts: Vec<[&str; 3]> = table("The file as a whole").iter().map(|row| [row[0], row[1], row[2]]).collect();
        let size = |of: usize, count: &str| format!("{of} × {count}");
        let expected = [
            ["0", &HEADER_LEN.to_string(), "header"],
            [&GLOBALS_AT.to_string(), &size_of::<Globals>().to_string(), "globals"],
            [&header.participants_at.to_string(), &size(size_of::<Record>(), "participants"), "participants"],
            ["`waiters_at`", &size(size_of::<Waiter>(), "waiters"), "waiters"],
            ["`index_at`", &size(size_of::<AtomicU32>(), "index_cells"), "index"],
            ["`entries_at`", &size(size_of::<Entry>(), "names"), "entries"],
            ["after the entries", "4 × units", "units"],
            ["`extents_at`", "`extents_size`", "extents"],
            ["after the extents", &format!("{PAGE} for three participants"), "lives"],
        ];
        assert_eq!(parts, expected);
        let (_, after) = PROSE.split_once("capacities:\n").expect("an example");
        let rows: Vec<_> = after.lines().skip(3).take_while(|line| line.starts_with('|')).collect();
        let row = |name: &str, count: u32, offset: u64| format!("| {name} | {count} | {offset} |");
        assert_eq!(
            rows,
            [
                row("participants", header.participants, header.participants_at),
                row("waiters", header.waiters, header.waiters_at),
                row("index", header.index_cells, header.index_at),
                row("entries", header.names, header.entries_at),
                row("units", header.units() as u32, header.units_at()),
                row("extents", header.units() as u32, header.extents_at),
                row("lives", header.participants.div_ceil(life::WORDS as u32), header.lives_at()),
            ]
        );
    }

    /// What a program of this version wrote once, every later one of this version must write and read.
    #[cfg(all(target_endian = "little", target_pointer_width = "64"))]
    #[test]
    fn a_fixed_header_is_the_bytes_in_the_prose() {
        let (_, after) = PROSE.split_once("digest is 77").expect("an example");
        let (dump, _) = after.split_once("```text\n").and_then(|(_, dump)| dump.split_once("```")).expect("a dump");
        let golden: Vec<u8> = dump
            .lines()
            .flat_map(|line| line.split_whitespace().skip(1))
            .map(|byte| u8::from_str_radix(byte, 16).expect("a byte"))
            .collect();
        assert_eq!(golden.len(), HEADER_LEN);
        assert_eq!(bytemuck::bytes_of(&header()), golden);
        assert_eq!(Header::read(&golden, header().size), Ok(header()));
    }

    #[test]
    fn text_goes_in_and_out_and_prints() {
        let words: [AtomicU64; 2] = Default::default();
        store_text(&words, b"sixteen bytes ok");
        assert_eq!(load_text(&words, 16), b"sixteen bytes ok");
        store_text(&words, b"ab\x1b[31m");
        assert_eq!(load_text(&words, 2), b"ab");
        assert_eq!(load_printable(&words), "ab\u{FFFD}[31m");
    }
}
