//! A segment that is damaged: bits flipped, pages scribbled on or punched out, the end cut off; before it is opened, and while
//! processes are in it. Whatever was done to it, each call comes back with what it was asked for or with an error; no process dies,
//! panics or hangs; and no single flipped bit makes a second holder.
//!
//! The space is the smallest there is, seven pages, so every bit of the whole file can have its turn. `HOSTLOCK_DAMAGE=all` gives it
//! to each; without, a third of the bits of each byte in use have it, and tables that nobody uses and the room between tables are sampled.
//! `HOSTLOCK_DAMAGE_SEED` repeats a run.

mod support;

#[path = "damage/lane.rs"]
mod lane;
#[path = "damage/roles.rs"]
mod roles;

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::sync::Mutex;

use hostlock::Error;
use lane::{Judge, Lane, Left, PAGE, SIZE, region, report};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::signal::Signal;
use support::raw::{HEADER_LEN, NAMES_LOCK_AT, Raw, held_by, seal_record};
use support::{act, root, start};

const EPOCH_FLOOR_AT: u64 = NAMES_LOCK_AT + 32;
const ENTRIES_USED_AT: u64 = NAMES_LOCK_AT + 40;
const GENERATION_AT: u64 = NAMES_LOCK_AT + 48;

#[test]
fn role() {
    act(&[
        ("resident", roles::resident),
        ("visitor", roles::visitor),
        ("sleeper", roles::sleeper),
        ("bystander", roles::bystander),
    ]);
}

fn everything() -> bool {
    std::env::var("HOSTLOCK_DAMAGE").is_ok_and(|value| value == "all")
}

/// A small generator of numbers that look random, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn new(what: &str) -> Self {
        let given = std::env::var("HOSTLOCK_DAMAGE_SEED").ok().map(|seed| seed.parse().expect("a number"));
        let seed = given.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1);
        report(format!("{what}: HOSTLOCK_DAMAGE_SEED={seed}"));
        Self(seed)
    }

    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % sides
    }
}

/// The bits to flip behind the header: of those in places that mean something a third, and of the rest a sample; or all.
fn bits_behind_the_header() -> Vec<usize> {
    let sampled = |at: usize| match region(at) {
        // Nothing ever looks there, so one bit in each 64 bytes, a different one each time, stands for all.
        None => at.is_multiple_of(64),
        Some(place) => place.in_use || at.is_multiple_of(8),
    };
    (HEADER_LEN..SIZE)
        .filter(|&at| everything() || sampled(at))
        .flat_map(|at| {
            let in_use = region(at).is_some_and(|place| place.in_use);
            let one = (at / 64) % 8;
            // Others in the next byte, and in the next one of a table: of two records two thirds have their turn, of eight cells all.
            let is_its_turn = move |bit| if in_use { (at + at / 4 + bit) % 3 == 0 } else { bit == one };
            (0..8).filter(move |&bit| everything() || is_its_turn(bit)).map(move |bit| at * 8 + bit)
        })
        .collect()
}

/// Shares the cases out among lanes that run at the same time; most of a case is waiting.
fn in_lanes<T: Sync>(lanes: usize, cases: &[T], run: impl Fn(usize, &mut dyn Iterator<Item = &T>) + Sync) {
    std::thread::scope(|scope| {
        let run = &run;
        let running: Vec<_> = (0..lanes)
            .map(|lane| scope.spawn(move || run(lane, &mut cases.iter().skip(lane).step_by(lanes))))
            .collect();
        for lane in running {
            // What panicked there panics here.
            lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

fn flip(bytes: &mut [u8], bit: usize) {
    bytes[bit / 8] ^= 1 << (bit % 8);
}

// Before it is opened.

#[test]
fn every_flipped_bit_of_the_header_is_an_error_at_opening() {
    let root = root();
    let left = Left::by_the_dead(root.path());
    let mut visitor = left.visitor();
    for bit in 0..HEADER_LEN * 8 {
        let mut bytes = left.bytes.clone();
        flip(&mut bytes, bit);
        left.restore(&bytes);
        let answer = visitor.ask("open");
        assert!(answer.starts_with("UnusableSegment: "), "bit {bit}: {answer}");
        // Which file, and what to do about it.
        assert!(answer.contains("test/segment"), "bit {bit}: {answer}");
        assert!(answer.contains("remove its directory") || answer.contains("chmod"), "bit {bit}: {answer}");
    }
    left.restore(&left.bytes);
    let answer = visitor.ask("open");
    assert!(answer.starts_with("opened"), "the undamaged one opens: {answer}");
    report(format!("{} flips of the header before opening: each an error", HEADER_LEN * 8));
}

#[test]
fn a_segment_with_any_other_bit_flipped_is_used_or_refused() {
    let judge = Judge::default();
    let bits = bits_behind_the_header();
    in_lanes(3, &bits, |_, bits| {
        let root = root();
        let left = Left::by_the_dead(root.path());
        let mut visitor = left.visitor();
        for &bit in bits {
            let mut bytes = left.bytes.clone();
            flip(&mut bytes, bit);
            left.restore(&bytes);
            judge.alone(&describe(bit), &visitor.ask("open"));
        }
    });
    judge.conclude("flips behind the header, before opening", bits.len());
}

#[test]
fn a_dead_sleeper_s_record_with_any_bit_flipped_is_cleared_or_left() {
    let judge = Judge::default();
    let root = root();
    let left = Left::by_the_dead(root.path());
    let mut visitor = left.visitor();
    let record = lane::sleeper(&left.bytes).expect("somebody died asleep");
    for bit in 0..lane::WAITER * 8 {
        let mut bytes = left.bytes.clone();
        flip(&mut bytes[record..], bit);
        left.restore(&bytes);
        judge.alone(&format!("bit {bit} of the record"), &visitor.ask("open"));
    }
    judge.conclude("flips of a dead sleeper's record, before opening", lane::WAITER * 8);
}

#[test]
fn a_living_sleeper_s_record_with_any_bit_flipped_is_cleared_or_left() {
    let judge = Judge::default();
    let asleep = Mutex::new(0);
    let bits: Vec<_> = (0..lane::WAITER * 8).collect();
    in_lanes(4, &bits, |_, bits| {
        let root = root();
        let mut lane = Lane::new(root.path());
        for &bit in bits {
            let round = lane.round(|bytes| {
                if let Some(record) = lane::sleeper(bytes) {
                    flip(&mut bytes[record..], bit);
                    *asleep.lock().unwrap() += 1;
                }
            });
            judge.one_bit(&format!("bit {bit} of the record"), &round);
        }
    });
    let asleep = *asleep.lock().unwrap();
    assert!(asleep > bits.len() / 2, "it was asleep in {asleep} of {} rounds only", bits.len());
    judge.conclude("flips of a living sleeper's record", asleep);
}

#[test]
fn every_length_that_is_too_short_is_an_error_at_opening() {
    let root = root();
    let left = Left::by_the_dead(root.path());
    let mut visitor = left.visitor();
    // In the quick form all that end in the header, or near the end of a page, and of the others one in sixteen.
    let is_wanted = |len: &usize| everything() || *len <= HEADER_LEN || (len + 8) % PAGE < 16 || len.is_multiple_of(16);
    let lengths: Vec<usize> = (0..SIZE).filter(is_wanted).collect();
    for &len in &lengths {
        left.restore(&left.bytes[..len]);
        let answer = visitor.ask("open");
        assert!(answer.starts_with("UnusableSegment: "), "{len} bytes: {answer}");
        assert!(answer.contains("remove its directory"), "{len} bytes: {answer}");
    }
    for more in [1, 4095, 4096, 1 << 20] {
        let mut bytes = left.bytes.clone();
        bytes.resize(SIZE + more, 0xA5);
        left.restore(&bytes);
        let answer = visitor.ask("open");
        assert!(answer.starts_with("opened"), "{more} bytes too long: {answer}");
    }
    report(format!("{} truncations before opening: each an error", lengths.len()));
}

#[test]
fn a_segment_with_any_page_overwritten_is_used_or_refused() {
    let judge = Judge::default();
    let mut dice = Dice::new("pages before opening");
    let root = root();
    let left = Left::by_the_dead(root.path());
    let mut visitor = left.visitor();
    let rounds = if everything() { 3000 } else { 300 };
    for round in 0..rounds {
        let mut bytes = left.bytes.clone();
        let what = scribble(&mut bytes, &mut dice, round);
        left.restore(&bytes);
        judge.alone_with_anything(&what, &visitor.ask("open"));
    }
    judge.conclude("pages overwritten before opening", rounds);
}

/// Does to the pages behind the first what nobody would: noise, zeros, ones, each other's bytes, and noise in a few words.
fn scribble(bytes: &mut [u8], dice: &mut Dice, round: usize) -> String {
    let pages = SIZE / PAGE;
    let page = 1 + dice.throw(pages as u64 - 1) as usize;
    let range = page * PAGE..(page + 1) * PAGE;
    match round % 6 {
        0 => bytes[range].fill_with(|| dice.throw(256) as u8),
        1 => bytes[range].fill(0),
        2 => bytes[range].fill(0xFF),
        3 => {
            let other = 1 + dice.throw(pages as u64 - 1) as usize;
            let (from, to) = (bytes[range.clone()].to_vec(), other * PAGE..(other + 1) * PAGE);
            bytes.copy_within(to.clone(), range.start);
            bytes[to].copy_from_slice(&from);
        }
        // Small numbers and sound words in wrong places get further than noise.
        4 => {
            for _ in 0..64 {
                let at = PAGE + dice.throw(((SIZE - PAGE) / 8) as u64) as usize * 8;
                let word = match dice.throw(4) {
                    0 => dice.throw(8),
                    1 => held_by(dice.throw(8) as u32, dice.throw(4)),
                    2 => u64::MAX - dice.throw(3),
                    _ => dice.throw(1 << 20) << dice.throw(44),
                };
                bytes[at..at + 8].copy_from_slice(&word.to_ne_bytes());
            }
        }
        _ => {
            for _ in 0..=dice.throw(40) {
                let at = 1024 + dice.throw((SIZE - 1024) as u64) as usize;
                bytes[at] = dice.throw(256) as u8;
            }
        }
    }
    format!("round {round}, page {page}")
}

// While processes are in it.

/// Where a bit is, for whoever has to find out what it did.
fn describe(bit: usize) -> String {
    let at = bit / 8;
    match region(at) {
        Some(place) => format!("bit {} of byte {} of {}", bit % 8, place.offset, place.name),
        None => format!("bit {} of byte {at}, where nothing is", bit % 8),
    }
}

#[test]
fn no_flipped_bit_makes_a_second_holder_or_ends_a_process() {
    let judge = Judge::default();
    let bits = bits_behind_the_header();
    in_lanes(4, &bits, |_, bits| {
        let root = root();
        let mut lane = Lane::new(root.path());
        for &bit in bits {
            let round = lane.round(|bytes| flip(bytes, bit));
            judge.one_bit(&describe(bit), &round);
        }
    });
    judge.conclude("flips in use", bits.len());
}

#[test]
fn a_flipped_bit_of_a_held_word_is_noticed_and_set_right_by_its_holder() {
    let root = root();
    let mut lane = Lane::new(root.path());
    let owner = lane.held_at;
    for bit in owner * 8..owner * 8 + 64 {
        let round = lane.round(|bytes| flip(bytes, bit));
        let what = format!("bit {} of the owner word", bit - owner * 8);
        assert_eq!(round.second_holders(), 0, "{what}: {round:?}");
        assert_eq!(round.holder.get("is_held"), None, "{what}: its guard says that something is wrong");
        assert_eq!(round.holder.get("unlock:Lost"), Some(&1), "{what}: and so does its end: {round:?}");
        assert_eq!(round.after.get("Ok"), Some(&1), "{what}: after which the lock is as good as new: {round:?}");
        // The slot's bits, and whether it has a lease, are two apart: nobody has such a code, and whoever waits is told.
        let told = round.others.iter().any(|other| other.contains_key("Damaged"));
        assert_eq!(told, (1..16).contains(&(bit - owner * 8)), "{what}: {round:?}");
    }
}

#[test]
fn pages_overwritten_in_use_end_nobody() {
    let judge = Judge::default();
    let rounds: Vec<usize> = (0..if everything() { 4000 } else { 400 }).collect();
    let dice = Mutex::new(Dice::new("pages in use"));
    in_lanes(4, &rounds, |_, rounds| {
        let root = root();
        let mut lane = Lane::new(root.path());
        for &round in rounds {
            let mut what = String::new();
            let outcome = lane.round(|bytes| what = scribble(bytes, &mut dice.lock().unwrap(), round));
            judge.anything(&what, &outcome);
        }
    });
    judge.conclude("pages overwritten in use", rounds.len());
}

#[test]
fn holes_punched_in_use_end_nobody_and_the_holder_is_told() {
    let judge = Judge::default();
    let mut rounds = 0;
    let disk = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let memory = root();
    for root in [memory.path(), disk.path()] {
        let mut lane = Lane::new(root);
        let pages = SIZE / PAGE;
        for (first, count) in (0..pages).map(|page| (page, 1)).chain([(1, pages - 1), (0, pages)]) {
            let punch = |file: &std::fs::File| {
                let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                fallocate(file, how, (first * PAGE) as i64, (count * PAGE) as i64)
            };
            if let Err(errno) = punch(&lane.scratch()) {
                eprintln!("SKIPPED: {} cannot have holes ({errno})", root.display());
                break;
            }
            let outcome = lane.round_on_file(|file| punch(file).expect("as it could before"));
            let what = format!("pages {first} to {} of {}", first + count, root.display());
            judge.anything(&what, &outcome);
            let entries_gone = first <= lane.held_at / PAGE && lane.held_at / PAGE < first + count;
            if entries_gone {
                assert_eq!(outcome.holder.get("is_held"), None, "{what}: {outcome:?}");
                assert_eq!(outcome.holder.get("unlock:Lost"), Some(&1), "{what}: {outcome:?}");
            }
            if first == 0 {
                // Whoever opens it then, and whoever looks something up or waits, is told. So nobody gets it but in passing.
                assert!(outcome.others[2].contains_key("open:UnusableSegment"), "{what}: {outcome:?}");
                assert!(outcome.others[1].contains_key("Damaged"), "{what}: {outcome:?}");
            }
            rounds += 1;
        }
    }
    assert!(rounds >= SIZE / PAGE + 2, "at least in memory holes can be punched");
    judge.conclude("holes punched in use", rounds);
}

#[test]
fn a_segment_with_holes_is_used_or_refused() {
    let judge = Judge::default();
    let root = root();
    let left = Left::by_the_dead(root.path());
    let mut visitor = left.visitor();
    let pages = SIZE / PAGE;
    let cases: Vec<_> = (0..pages).map(|page| (page, 1)).chain([(1, pages - 1), (0, pages)]).collect();
    for &(first, count) in &cases {
        left.restore(&left.bytes);
        let how = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&left.file, how, (first * PAGE) as i64, (count * PAGE) as i64).unwrap();
        let answer = visitor.ask("open");
        if first == 0 {
            assert!(answer.starts_with("UnusableSegment: "), "{answer}");
        }
        judge.alone_with_anything(&format!("pages {first} to {}", first + count), &answer);
    }
    judge.conclude("holes before opening", cases.len());
}

#[test]
fn a_record_that_says_an_impossible_pid_harms_nobody() {
    // 0 and -1 would mean "everybody" to `kill`. Sealed, as the library would have written it, so that only the PID is wrong.
    let root = root();
    let mut lane = Lane::new(root.path());
    let mut bystander = start("bystander", &[]);
    bystander.expect("here");
    let group = nix::unistd::getpgrp();
    for pid in [0, 1, 1 << 22, (1 << 22) + 1, i32::MAX as u32, 1 << 31, u32::MAX, (-group.as_raw()) as u32] {
        let round = lane.round(|bytes| {
            let state = PAGE..PAGE + 8;
            let incarnation = u64::from_ne_bytes(bytes[state.clone()].try_into().unwrap()) >> 32;
            bytes[state].copy_from_slice(&(incarnation << 32 | u64::from(pid)).to_ne_bytes());
            seal_record(&mut bytes[PAGE..PAGE + 256]);
        });
        if pid == 1 || pid == 1 << 22 {
            // Those can be PIDs: of another process, or of none. Whoever writes that sealed has declared its owner dead.
            continue;
        }
        assert_eq!(round.second_holders(), 0, "PID {pid}: {round:?}");
    }
    bystander.tell("still there?");
    bystander.expect("yes");
}

#[test]
fn truncating_a_mapped_segment_is_a_bus_error_and_nothing_else() {
    // What SECURITY.md says is not promised. Should it ever be, this is where it shows.
    for len in [0, PAGE as u64] {
        let root = root();
        let mut lane = Lane::new(root.path());
        lane.scratch().set_len(len).unwrap();
        assert_eq!(lane.holder.try_ask("hold"), None);
        let status = lane.holder.process.wait().unwrap();
        assert_eq!(status.signal(), Some(Signal::SIGBUS as i32), "cut to {len}: {status:?}");
    }
}

#[test]
fn damage_has_an_error_that_says_where_and_what_to_do() {
    let root = root();
    let space = lane::open(root.path()).unwrap();
    let mutex = space.mutex("held").unwrap();
    let raw = Raw::open(root.path().join("test"));
    let entry = raw.entry("held").unwrap();
    let is_damage = |error: &Error| {
        let Error::Damaged { path, .. } = error else { panic!("{error:?}") };
        assert_eq!(path, &root.path().join("test/segment"));
        assert!(error.to_string().contains("end all its processes and remove the space's directory"), "{error}");
    };
    // A name that does not fit its hash: a handle still finds its lock; who looks it up anew is not given a second one.
    raw.put(entry.at + 64, raw.u64_at(entry.at + 64) ^ 1);
    drop(mutex.lock().unwrap());
    is_damage(&space.mutex("held").unwrap_err());
    assert_eq!(raw.entries().iter().filter(|entry| !entry.name.is_empty()).count(), 1);
    raw.put(entry.at + 64, raw.u64_at(entry.at + 64) ^ 1);
    drop(space.mutex("held").unwrap().lock().unwrap());
    // A cell of the index has to fit itself, and is made anew from the entries when it does not.
    let (cell_at, cell) = raw.index().into_iter().find(|(_, cell)| *cell != 0).unwrap();
    for wrong in [0x1234_5678, cell ^ 1, cell ^ 1 << 31] {
        raw.put_u32(cell_at, wrong);
        assert_eq!(space.mutex("held").unwrap().lock().unwrap().unlock().map_err(|e| e.to_string()), Ok(()));
        assert_eq!(raw.u32_at(cell_at), cell, "it is what it was");
    }
    // The header is looked at by everybody who looks something up or waits.
    raw.put(0, 0);
    is_damage(&space.mutex("new").unwrap_err());
}

#[test]
fn a_count_of_entries_that_is_too_small_loses_no_lock_of_the_dead() {
    let root = root();
    let left = Left::by_the_dead(root.path());
    let raw = Raw::open(root.path().join("test"));
    assert_eq!(raw.u32_at(ENTRIES_USED_AT), 2);
    raw.put_u32(ENTRIES_USED_AT, 0);
    let space = lane::open(root.path()).unwrap();
    assert_eq!(space.recover_dead().unwrap(), 2);
    assert_eq!(raw.entry("held").unwrap().owner & 0xFFFD, 1, "free, and abandoned");
    // Nor is it given to the next new name, which would take the mark of the dead off it.
    raw.put_u32(ENTRIES_USED_AT, 0);
    space.mutex("new").unwrap();
    assert!(space.mutex("held").unwrap().lock().unwrap().abandoned().is_some());
    assert_eq!(left.bytes.len(), SIZE);
}

#[test]
fn damaged_counters_take_no_epoch_and_no_generation_back() {
    let root = root();
    let space = lane::open(root.path()).unwrap();
    let raw = Raw::open(root.path().join("test"));
    let numbers = || raw.entries().iter().map(|entry| (entry.owner >> 16, entry.meta >> 32)).collect::<Vec<_>>();
    let rename_all = |round: u32| {
        // A name goes when it was not acquired between two sweeps.
        for name in 0..12 {
            drop(space.mutex(&format!("{round} {name}")).unwrap());
        }
    };
    rename_all(0);
    for (round, (at, damage)) in (1..).zip([
        (EPOCH_FLOOR_AT, 0_u64),
        (EPOCH_FLOOR_AT, 1 << 60),
        (EPOCH_FLOOR_AT, 1 << 48),
        (GENERATION_AT, 0),
        (GENERATION_AT, 1 << 31),
    ]) {
        let mutex = space.mutex("often").unwrap();
        (0..100).for_each(|_| drop(mutex.lock().unwrap()));
        drop(mutex);
        let before = numbers();
        match at {
            EPOCH_FLOOR_AT => raw.put(at, damage),
            _ => raw.put_u32(at, damage as u32),
        }
        rename_all(round);
        for (index, ((epoch, generation), (was, had))) in numbers().into_iter().zip(before).enumerate() {
            let what = format!("entry {index} after {damage:#x} at {at}");
            assert!(epoch >= was, "{what}: epoch {epoch} after {was}");
            assert!(
                (generation as u32).wrapping_sub(had as u32) as i32 > 0,
                "{what}: generation {generation} after {had}"
            );
        }
    }
}

#[test]
fn the_figures_above_are_of_this_file() {
    let root = root();
    let left = Left::by_the_dead(root.path());
    assert_eq!(left.bytes.len(), SIZE);
    // The dead one's lock and its sleeper's record are what makes opening it interesting.
    let raw = Raw::open(root.path().join("test"));
    assert_ne!(raw.entry("held").unwrap().owner & 0xFFFC, 0);
    assert_eq!(raw.entry("held").unwrap().sleepers & 0xFFFF, 1);
    assert_eq!(raw.participants().len(), 2);
    // All that is not sampled: nobody else's bytes are other than zero.
    for (at, &byte) in left.bytes.iter().enumerate().skip(HEADER_LEN) {
        assert!(byte == 0 || region(at).is_some(), "byte {at} is {byte} and no table is there");
    }
    let kinds: BTreeMap<_, _> = (HEADER_LEN..SIZE).filter_map(region).fold(BTreeMap::new(), |mut kinds, place| {
        *kinds.entry(place.name.split(' ').next().unwrap().to_owned()).or_insert(0) += 1;
        kinds
    });
    assert_eq!(kinds.values().sum::<usize>(), 64 + 4 * 256 + 16 * 64 + 8 * 4 + 4 * 256 + 4 * 8, "{kinds:?}");
}
