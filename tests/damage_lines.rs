//! Bits flipped in what readers by lines are made of, while one process reads so and others want to write: its line, what its cell lends, and all that a
//! read-write lock has beside. Nobody writes beside it, each call comes back, and afterwards the lock is free or an error, but not read for ever.

mod support;

#[path = "damage/kinds.rs"]
mod kinds;

use std::path::Path;
use std::sync::OnceLock;

use hostlock::{Result, RwLock, RwLockReadGuard, Space};
use kinds::{Case, Parts, SHORT, Tally, bits, is_everything_wanted, of_tables, resident, sweep, tables, variant};
use support::raw::Raw;
use support::{act, root};

#[test]
fn role() {
    act(&[("resident", resident::<ByLine>)]);
}

/// More reads than are needed for a line.
const MUCH: usize = 5000;

/// A reader by a line, which stays the same thread's of the same handle.
struct ByLine(RwLockReadGuard<'static>);

fn lock(space: &Space) -> Result<&'static RwLock> {
    static LOCK: OnceLock<RwLock> = OnceLock::new();
    let lock = space.rwlock("read")?;
    Ok(LOCK.get_or_init(|| lock))
}

impl Parts for ByLine {
    /// Of the lines and of what is lent every bit, of the rest a sample, unless all are wanted.
    fn cases(root: &Path, before: &[u8]) -> Vec<Case> {
        let places = tables(root);
        let all = of_tables(before, places).into_iter().enumerate();
        let is_lent = |bit: usize| bit / 8 >= places[2] && (16..24).contains(&(bit / 8 % 64));
        let chosen = all.filter(|(at, (bit, _))| is_everything_wanted() || is_lent(*bit) || at.is_multiple_of(13));
        let lines = lines(root).flat_map(|(line, at)| {
            (at..at + 24).flat_map(move |byte| bits(byte, format!("byte {} of line {line}", byte - at)))
        });
        lines.chain(chosen.map(|(_, case)| case)).collect()
    }

    fn of(space: &Space) -> Result<Self> {
        let lock = lock(space)?;
        for _ in 0..MUCH {
            lock.read()?.unlock()?;
        }
        Ok(Self(lock.read()?))
    }

    fn end(self, tally: &mut Tally) {
        match self.0.unlock() {
            Ok(()) => tally.note("unlock:Ok"),
            Err(error) => tally.note(format!("unlock:{}", variant(&error))),
        }
    }

    fn battery(space: &Space, tally: &mut Tally) {
        let mut others = || -> Result<()> {
            let lock = space.rwlock("read")?;
            tally.taken("write beside a reader", lock.try_write_for(SHORT));
            tally.taken("write at once beside a reader", lock.try_write());
            tally.taken("write owned beside a reader", lock.try_write_owned());
            tally.open(lock.holders());
            // Whoever reads beside it and wants to write has to wait for it.
            if let Ok(reading) = lock.try_read_for(SHORT) {
                let upgraded = reading.try_upgrade_for(SHORT).map(drop).map_err(|refused| refused.error);
                tally.taken("upgrade beside a reader", upgraded);
            }
            Ok(())
        };
        if let Err(error) = others() {
            tally.error(&error);
        }
        tally.open(space.recover_dead());
    }

    fn after(space: &Space, tally: &mut Tally) {
        tally.open(space.rwlock("read").and_then(|lock| lock.try_write_for(SHORT * 20).map(drop)));
    }
}

/// The first lines of the first two participants, which are the two of the test.
fn lines(root: &Path) -> impl Iterator<Item = (usize, usize)> {
    const LINES_LEN: usize = 16 * 64;
    let raw = Raw::open(root.join("test"));
    // After the extents.
    let lives = (raw.u64_at(80) + raw.u64_at(88)) as usize;
    (0..2).map(move |slot| (slot, lives + slot * LINES_LEN))
}

#[test]
fn no_flipped_bit_lets_a_writer_in_beside_a_reader_by_a_line() {
    let (tried, seen) = sweep::<ByLine>(1);
    assert!(tried > 500);
    // It read by its line, and that was found.
    assert!(seen["TimedOut"] as usize > tried);
}

/// What a name is known by to those who read by lines may be another one afterwards: whoever takes the name away has to leave no line open that it does not find.
#[test]
fn no_flipped_bit_has_a_name_given_up_under_an_open_line() {
    for bit in 32..64 {
        let root = root();
        let space = kinds::open(root.path());
        let lock = space.rwlock("read").unwrap();
        (0..MUCH).for_each(|_| drop(lock.read().unwrap()));
        let raw = Raw::open(root.path().join("test"));
        assert_eq!(raw.open_lines().len(), 1);
        let at = raw.entry("read").unwrap().at + 32;
        raw.put(at, raw.u64_at(at) ^ 1 << bit);
        let removed = space.remove("read");
        let reading = lock.try_read();
        let writing = space.rwlock("read").and_then(|lock| lock.try_write().map(drop));
        assert!(reading.is_err() || writing.is_err(), "bit {bit}: {removed:?}, and then one writes beside the other");
    }
}
