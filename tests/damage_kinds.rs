//! Bits flipped in everything that the kinds beside the mutex are made of, while one process has a part of each and others want it: their
//! entries, their cells and seats, and who uses which unit. Whatever was flipped, each call comes back, nobody who must be excluded gets in,
//! and afterwards each is free or an error, but not held by nobody for ever.

mod support;

#[path = "damage/kinds.rs"]
mod kinds;

use hostlock::{
    Acquired, Error, OwnedMutexDataGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, OwnedSemaphorePermit, Queue,
    Result, Space,
};
use kinds::{Parts, SHORT, Tally, resident, sweep, variant};
use support::act;

const PERMITS: u32 = 2;

#[test]
fn role() {
    act(&[("resident", resident::<Kinds>)]);
}

/// What one process has of each.
struct Kinds {
    read: OwnedRwLockReadGuard,
    write: OwnedRwLockWriteGuard,
    permit: OwnedSemaphorePermit,
    all: OwnedSemaphorePermit,
    data: OwnedMutexDataGuard<u64>,
    queue: Queue<u64>,
}

impl Parts for Kinds {
    fn of(space: &Space) -> Result<Self> {
        Ok(Self {
            read: space.rwlock("read")?.read_owned()?,
            write: space.rwlock("write")?.write_owned()?,
            permit: space.semaphore("one", PERMITS)?.acquire_owned()?,
            all: space.semaphore("all", PERMITS)?.acquire_many_owned(PERMITS)?,
            data: match space.mutex_with::<u64>("data", 7)?.lock_owned()? {
                Acquired::Clean(guard) => guard,
                Acquired::Abandoned(guard) => guard.repaired(),
            },
            queue: space.queue("queue", 2)?,
        })
    }

    fn end(self, tally: &mut Tally) {
        assert_eq!(self.queue.capacity(), 2);
        for outcome in
            [self.read.unlock(), self.write.unlock(), self.permit.unlock(), self.all.unlock(), self.data.unlock()]
        {
            match outcome {
                Ok(()) => tally.note("unlock:Ok"),
                Err(error) => tally.note(format!("unlock:{}", variant(&error))),
            }
        }
    }

    fn battery(space: &Space, tally: &mut Tally) {
        let mut handles = || -> Result<()> {
            let (read, write) = (space.rwlock("read")?, space.rwlock("write")?);
            let (one, all) = (space.semaphore("one", PERMITS)?, space.semaphore("all", PERMITS)?);
            let data = space.mutex_with::<u64>("data", 0)?;
            tally.taken("write beside a reader", read.try_write_for(SHORT));
            tally.open(read.try_read_for(SHORT));
            tally.taken("read beside a writer", write.try_read_for(SHORT));
            tally.taken("a second writer", write.try_write());
            tally.taken("more than all", one.try_acquire_many_for(PERMITS, SHORT));
            tally.open(one.try_acquire_for(SHORT));
            tally.taken("a permit too many", all.try_acquire_for(SHORT));
            tally.taken("data", data.try_lock_for(SHORT));
            tally.open(read.holders());
            tally.open(write.holders());
            tally.open(all.holders());
            tally.open(all.available());
            Ok(())
        };
        if let Err(error) = handles() {
            tally.error(&error);
        }
        for (index, name) in ["new", "newer"].into_iter().enumerate() {
            tally.open(space.semaphore(name, 1 + index as u32).and_then(|new| new.try_acquire_for(SHORT).map(drop)));
        }
        tally.taken("an item that nobody pushed", space.queue::<u64>("queue", 2).and_then(|queue| queue.try_pop()));
        let queue = space.queue::<u64>("queue", 2).and_then(|queue| match queue.try_push(1) {
            Err(Error::Damaged { path, what }) => Err(Error::Damaged { path, what }),
            _ => queue.try_pop().map(drop),
        });
        tally.open(queue);
        let usage = space.usage();
        assert!(usage.locks <= usage.locks_capacity);
        tally.open(space.recover_dead());
    }

    fn after(space: &Space, tally: &mut Tally) {
        let long = SHORT * 20;
        tally.open(space.rwlock("read").and_then(|lock| lock.try_write_for(long).map(drop)));
        tally.open(space.rwlock("write").and_then(|lock| lock.try_write_for(long).map(drop)));
        for name in ["one", "all"] {
            tally.open(space.semaphore(name, PERMITS).and_then(|s| s.try_acquire_many_for(PERMITS, long).map(drop)));
        }
        tally.open(space.mutex_with::<u64>("data", 0).and_then(|data| data.try_lock_for(long).map(drop)));
    }
}

#[test]
fn no_flipped_bit_lets_anybody_in_or_ends_a_process() {
    let (tried, _) = sweep::<Kinds>(11);
    assert!(tried > 1000);
}
