//! Bits flipped in the file of a space of lock files, while one process has a lock of each kind and another wants it. The locks are the kernel's: whoever has
//! a handle gets in nowhere, whatever bit was flipped. What a name is can be lost, and with it what it excludes.

mod support;

#[path = "damage/kinds.rs"]
mod kinds;

use std::path::Path;

use hostlock::{Backend, Mutex, OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, OwnedSemaphorePermit};
use hostlock::{Result, RwLock, Semaphore, Space};
use kinds::{Case, Parts, SHORT, Tally, bits, is_everything_wanted, resident, sweep, variant};
use support::act;

const PERMITS: u32 = 2;
const HEADER: usize = 16 * 8;
const ENTRY: usize = 48 * 8;
/// Four names, and a permit each for two.
const ENTRIES: usize = 4 + 2;

#[test]
fn role() {
    act(&[("resident", resident::<Files>)]);
}

struct Files {
    mutex: OwnedMutexGuard,
    write: OwnedRwLockWriteGuard,
    read: OwnedRwLockReadGuard,
    permits: OwnedSemaphorePermit,
}

/// What this process keeps of the names.
struct Handles {
    mutex: Mutex,
    write: RwLock,
    read: RwLock,
    semaphore: Semaphore,
}

impl Handles {
    fn of(space: &Space) -> Result<Self> {
        Ok(Self {
            mutex: space.mutex("mutex")?,
            write: space.rwlock("write")?,
            read: space.rwlock("read")?,
            semaphore: space.semaphore("semaphore", PERMITS)?,
        })
    }

    /// Wants what another process has.
    fn want(&self, tally: &mut Tally) {
        tally.taken("the mutex", self.mutex.try_lock_for(SHORT));
        tally.taken("a second writer", self.write.try_write());
        tally.taken("a reader beside a writer", self.write.try_read());
        tally.taken("a writer beside a reader", self.read.try_write());
        tally.taken("a permit too many", self.semaphore.try_acquire());
        tally.taken("more than all", self.semaphore.try_acquire_many(PERMITS));
        tally.open(self.mutex.holder());
        tally.open(self.read.holders());
        tally.open(self.semaphore.holders());
    }
}

/// What was found before anything was flipped.
fn early(space: &Space) -> &'static Handles {
    static EARLY: std::sync::OnceLock<Handles> = std::sync::OnceLock::new();
    EARLY.get_or_init(|| Handles::of(space).unwrap())
}

impl Parts for Files {
    const FILE: &str = "files";

    fn open(root: &Path) -> Space {
        Space::builder("test").root(root).locks(12).backend(Backend::Files).open().unwrap()
    }

    fn cases(_: &Path, _: &[u8]) -> Vec<Case> {
        let what = |at: usize| match at.checked_sub(HEADER) {
            None => format!("byte {at} of the header"),
            Some(at) => format!("word {} of entry {}, byte {}", at % ENTRY / 8, at / ENTRY, at % 8),
        };
        let all: Vec<Case> = (0..HEADER + ENTRIES * ENTRY).flat_map(|at| bits(at, what(at))).collect();
        // All of which file it is and who claims it; of the other words one each, another one in each.
        let is_chosen = |(bit, what): &Case| {
            bit % 64 == bit / 64 * 11 % 64 || ["word 4 of", "word 16 of"].iter().any(|word| what.contains(word))
        };
        if is_everything_wanted() { all } else { all.into_iter().filter(is_chosen).collect() }
    }

    /// What an entry is: its name, kind, generation, and which permits it has; how many entries there are; which file it has.
    fn is_known(what: &str) -> bool {
        let identity = [0, 1, 8, 9, 10, 11, 12, 13, 14, 15];
        what.contains("of the header") || identity.iter().any(|word| what.contains(&format!("word {word} of")))
    }

    fn of(space: &Space) -> Result<Self> {
        early(space);
        Ok(Self {
            mutex: space.mutex("mutex")?.lock_owned()?,
            write: space.rwlock("write")?.write_owned()?,
            read: space.rwlock("read")?.read_owned()?,
            permits: space.semaphore("semaphore", PERMITS)?.acquire_many_owned(PERMITS)?,
        })
    }

    fn end(self, tally: &mut Tally) {
        for outcome in [self.mutex.unlock(), self.write.unlock(), self.read.unlock(), self.permits.unlock()] {
            match outcome {
                Ok(()) => tally.note("unlock:Ok"),
                Err(error) => tally.note(format!("unlock:{}", variant(&error))),
            }
        }
    }

    fn battery(space: &Space, tally: &mut Tally) {
        early(space).want(tally);
        match Handles::of(space) {
            Ok(handles) => handles.want(tally),
            Err(error) => tally.error(&error),
        }
        tally.open(space.mutex("new").and_then(|new| new.try_lock_for(SHORT).map(drop)));
        let usage = space.usage();
        assert!(usage.locks <= usage.locks_capacity);
        tally.open(space.recover_dead());
    }

    fn after(space: &Space, tally: &mut Tally) {
        let long = SHORT * 20;
        tally.open(space.mutex("mutex").and_then(|mutex| mutex.try_lock_for(long).map(drop)));
        tally.open(space.rwlock("write").and_then(|lock| lock.try_write_for(long).map(drop)));
        tally.open(space.rwlock("read").and_then(|lock| lock.try_write_for(long).map(drop)));
        tally.open(space.semaphore("semaphore", PERMITS).and_then(|s| s.try_acquire_many_for(PERMITS, long).map(drop)));
    }
}

#[test]
fn no_flipped_bit_lets_whoever_has_a_handle_in_or_ends_a_process() {
    let (tried, seen) = sweep::<Files>(1);
    assert!(tried > 200);
    // Whoever's claim or record was flipped is told.
    assert!(seen.contains_key("unlock:Lost"), "{seen:?}");
}
