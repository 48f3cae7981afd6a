//! A peer that may write to a space's file, and writes whatever it likes wherever it likes: above all what might be believed.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::chance::Random;
use crate::support::raw::held_by;
use crate::support::{hear, say};

/// Of either kind of file.
const HEADER: u64 = 128;
/// So long what is in the header stays wrong.
const HEADER_WRONG: Duration = Duration::from_millis(2);
/// So often all is put back to how it was at first, so that there is something to be broken.
const PUT_BACK: Duration = Duration::from_millis(40);

struct Words {
    file: File,
    count: u64,
}

impl Words {
    fn load(&self, index: u64) -> u64 {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, index * 8).unwrap();
        u64::from_ne_bytes(bytes)
    }

    fn store(&self, index: u64, value: u64) {
        self.file.write_all_at(&value.to_ne_bytes(), index * 8).unwrap();
    }

    /// A place behind the header: mostly one where something is.
    fn place(&self, random: &mut Random) -> u64 {
        let anywhere = |random: &mut Random| HEADER / 8 + random.draw() % (self.count - HEADER / 8);
        let tries = if random.draw().is_multiple_of(5) { 0 } else { 200 };
        (0..tries).map(|_| anywhere(random)).find(|&index| self.load(index) != 0).unwrap_or_else(|| anywhere(random))
    }
}

/// What might be believed where `now` is.
fn value(now: u64, words: &Words, pids: &[u64], random: &mut Random) -> u64 {
    let one_epoch = 1 << 16;
    let slot = (random.draw() % 9) as u32;
    let epoch = (now >> 16).wrapping_add(random.draw() % 3).wrapping_sub(1) & (u64::MAX >> 16);
    match random.draw() % 16 {
        0 | 1 => now ^ 1 << (random.draw() % 64),
        2 => now.wrapping_add(one_epoch),
        3 => now.wrapping_sub(one_epoch),
        // Held by another, perhaps with a lease, or abandoned.
        4 | 5 => held_by(slot, epoch) ^ (random.draw() % 4),
        // Free, perhaps reserved, or abandoned.
        6 | 7 => (epoch << 16) | (random.draw() % 4),
        8 => random.draw() % 8,
        9 => [0, u64::MAX, 1 << 63, u64::MAX >> 1, u64::MAX << 32, u64::from(u32::MAX)][(random.draw() % 6) as usize],
        // One half, a count or a PID, perhaps one of those that mean everybody.
        10 => now & !0xFFFF_FFFF | [0, 1, 2, u64::from(u32::MAX), 1 << 31, 1 << 22][(random.draw() % 6) as usize],
        11 => now & 0xFFFF_FFFF | (random.draw() % 4) << 32,
        12 => (now & !0xFFFF_FFFF) | pids[(random.draw() % pids.len() as u64) as usize],
        13 => words.load(random.draw() % words.count),
        14 => now.wrapping_add(random.draw() % 3).wrapping_sub(1),
        _ => random.draw(),
    }
}

/// Scribbles until it is told to stop. Its arguments: the file, a seed, and PIDs that mean something.
pub fn scribbler(arguments: &[String]) {
    let file = File::options().read(true).write(true).open(Path::new(&arguments[0])).unwrap();
    let count = file.metadata().unwrap().len() / 8;
    let mut random = Random(arguments[1].parse().unwrap());
    let pids: Vec<u64> = arguments[2..].iter().map(|pid| pid.parse().unwrap()).collect();
    let words = Words { file, count };
    let mut before = vec![0; (count * 8) as usize];
    words.file.read_exact_at(&mut before, 0).unwrap();
    let header: Vec<u64> = (0..HEADER / 8).map(|index| words.load(index)).collect();
    let put_back = |from: usize| words.file.write_all_at(&before[from..], from as u64).unwrap();
    say("here");
    let (stop, stopped) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        hear();
        let _ = stop.send(());
    });
    let (mut written, mut was_whole) = (0, Instant::now());
    while stopped.try_recv().is_err() {
        for _ in 0..random.draw() % 30 {
            let index = words.place(&mut random);
            words.store(index, value(words.load(index), &words, &pids, &mut random));
            written += 1;
        }
        if random.draw().is_multiple_of(20) {
            let index = random.draw() % (HEADER / 8);
            words.store(index, value(words.load(index), &words, &pids, &mut random));
            std::thread::sleep(HEADER_WRONG);
            words.store(index, header[index as usize]);
            written += 1;
        }
        std::thread::sleep(Duration::from_micros(random.draw() % 2000));
        if was_whole.elapsed() > PUT_BACK {
            put_back(HEADER as usize);
            was_whole = Instant::now();
        }
    }
    say(written);
    hear();
}
