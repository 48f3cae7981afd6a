//! What is done to a file, and how a program of bytes says it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::input::Input;
use crate::raw::{HEADER_LEN, held_by, seal};

/// A file larger than this is made by nobody here.
const LARGEST: usize = 1 << 18;

/// Which file it is that is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A space's segment.
    Segment,
    /// The file `files` of a space of lock files.
    Files,
    /// Any other.
    Plain,
}

/// How many edits there are: an operation below this is one.
pub const EDITS: u8 = 12;

/// Does what the operation says to the bytes. `place`: what the header of a file in this place has to say of it.
pub fn edit(operation: u8, input: &mut Input, bytes: &mut Vec<u8>, shape: Shape, place: u64) {
    let len = bytes.len();
    match operation {
        // Overwritten by what the input says.
        0 => {
            let (at, count) = (input.below(len), usize::from(input.byte() % 64));
            let new = input.take(count);
            overwrite(bytes, at, new);
        }
        1 => {
            let (at, bit) = (input.below(len), input.byte() % 8);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << bit;
            }
        }
        // Copied to where it does not belong: lines, records, whole pages.
        2 => {
            let (from, to) = (input.below(len), input.below(len));
            let count = usize::from(input.byte()) * [1, 8, 64, 256][usize::from(input.byte() % 4)];
            let copied = bytes[from..(from + count).min(len)].to_vec();
            overwrite(bytes, to, &copied);
        }
        3 => bytes.truncate(input.below(len + 1)),
        4 => {
            let (count, with) = (input.short(), input.byte());
            bytes.resize((len + count).min(LARGEST), with);
        }
        5 => {
            let (at, count, with) = (input.below(len), input.short() % 8192, input.byte());
            let end = (at + count).min(len);
            bytes[at.min(end)..end].fill(with);
        }
        // A word where words lie, of the sort that words there are.
        6 | 7 => {
            let at = if operation == 6 { input.below(len / 8) * 8 } else { word_of_a_table(input, shape) };
            let word = interesting(input);
            overwrite(bytes, at, &word.to_ne_bytes());
        }
        8 => seal_as(bytes, shape, place),
        // Other capacities, with tables where they put them.
        9 => {
            if shape == Shape::Segment {
                lay_out(bytes, input);
                seal_as(bytes, shape, place);
            }
        }
        // A name that fits its hash, whatever else is wrong with the entry.
        10 => {
            if shape == Shape::Segment {
                seal_entry(bytes, input);
            }
        }
        // The rest is what the input says, and nothing of what was there.
        _ => {
            let count = input.short();
            *bytes = input.take(count).to_vec();
        }
    }
}

/// As much of `new` as fits.
fn overwrite(bytes: &mut [u8], at: usize, new: &[u8]) {
    let end = (at + new.len()).min(bytes.len());
    if at < end {
        bytes[at..end].copy_from_slice(&new[..end - at]);
    }
}

/// Small numbers, words of holders, ends of ranges: they get further than noise.
fn interesting(input: &mut Input) -> u64 {
    match input.byte() % 8 {
        0 => 0,
        1 => u64::from(input.byte()),
        2 => u64::from(input.byte()) << 32,
        3 => held_by(u32::from(input.byte() % 6), u64::from(input.byte())),
        4 => held_by(u32::from(input.byte() % 6), u64::from(input.byte())) ^ u64::from(input.byte() % 8),
        5 => u64::MAX - u64::from(input.byte()),
        6 => 1u64.rotate_left(input.byte().into()) | u64::from(input.byte()),
        _ => input.word(),
    }
}

/// Where the tables of the spaces of these targets begin, and how large their items are.
fn word_of_a_table(input: &mut Input, shape: Shape) -> usize {
    const PAGE: usize = 4096;
    let (table, item, word) = (input.byte(), usize::from(input.byte()), usize::from(input.byte()));
    let (start, each) = match (shape, table % 7) {
        (Shape::Segment, 0) => (1024, 128),
        (Shape::Segment, 1) => (PAGE, 256),
        (Shape::Segment, 2) => (2 * PAGE, 64),
        (Shape::Segment, 3) => (3 * PAGE, 8),
        (Shape::Segment, 4) => (4 * PAGE, 256),
        (Shape::Segment, 5) => (5 * PAGE, 8),
        (Shape::Segment, _) => (6 * PAGE, 64),
        (Shape::Files, _) => (128, 48 * 8),
        (Shape::Plain, _) => (0, 8),
    };
    start + item % 16 * each + word % (each / 8) * 8
}

/// Of the inodes of a file and its directory what a header says of them.
pub fn place(file: &Path) -> u64 {
    let inode = |path: &Path| std::fs::metadata(path).expect("it is there").ino();
    let directory = file.parent().expect("a file lies in a directory");
    let inodes = [inode(file), inode(directory)].map(u64::to_ne_bytes);
    fnv1a(inodes.as_flattened())
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Makes the header look as if it had been written so, here.
fn seal_as(bytes: &mut [u8], shape: Shape, place: u64) {
    match shape {
        Shape::Segment if bytes.len() >= HEADER_LEN => {
            bytes[112..120].copy_from_slice(&place.to_ne_bytes());
            seal(&mut bytes[..HEADER_LEN]);
        }
        Shape::Files if bytes.len() >= 64 => {
            bytes[40..48].copy_from_slice(&place.to_ne_bytes());
            let checksum = fnv1a(&bytes[..56]);
            bytes[56..64].copy_from_slice(&checksum.to_ne_bytes());
        }
        _ => {}
    }
}

/// A segment's header for other capacities, and a file that is large enough for them.
fn lay_out(bytes: &mut Vec<u8>, input: &mut Input) {
    if bytes.len() < HEADER_LEN {
        return;
    }
    let (participants, names) = (u32::from(input.byte() % 40) + 1, u32::from(input.byte()) + 1);
    let extents = u64::from(input.byte() % 8) * 4096;
    let (waiters, cells) = (participants * 4, (names * 2).next_power_of_two());
    let mut end = 4096;
    let mut table = |bytes: u64| {
        let start: u64 = end;
        end = (start + bytes).next_multiple_of(4096);
        start
    };
    let [records, sleepers] = [u64::from(participants) * 256, u64::from(waiters) * 64].map(&mut table);
    let [index, entries] = [u64::from(cells) * 4, u64::from(names) * 256].map(&mut table);
    let [_, at] = [extents / 512 * 4, extents].map(&mut table);
    let mut put = |at: usize, number: &[u8]| bytes[at..at + number.len()].copy_from_slice(number);
    for (at, number) in [(32, participants), (36, waiters), (40, names), (44, cells)] {
        put(at, &number.to_ne_bytes());
    }
    for (at, number) in [(24, end), (48, records), (56, sleepers), (64, index), (72, entries), (80, at), (88, extents)]
    {
        put(at, &number.to_ne_bytes());
    }
    bytes.resize(bytes.len().max(end as usize), 0);
}

/// The hash of whatever the entry says that its name is.
fn seal_entry(bytes: &mut [u8], input: &mut Input) {
    let at = 4 * 4096 + usize::from(input.byte() % 16) * 256;
    let Some(entry) = bytes.get_mut(at..at + 256) else { return };
    let [.., len, _] = u64::from_ne_bytes(std::array::from_fn(|byte| entry[32 + byte])).to_be_bytes();
    let hash = fnv1a(&entry[64..64 + usize::from(len).min(64)]);
    entry[128..136].copy_from_slice(&hash.to_ne_bytes());
}
