//! Bits flipped in what came with time: leases, leaders, fences, announcements, members; the records of those who sleep with a part of what
//! they wait for; a lock that is reserved. Nobody gets what another has, each call comes back, and whoever lost something is told.

mod support;

#[path = "damage/kinds.rs"]
mod kinds;

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use hostlock::{BarrierMember, Error, EventSetter, Fence, FenceGuard, Leadership, Lease, LeaseGuard, Result, Space};
use kinds::{
    Case, Counts, Parts, SHORT, Tally, is_everything_wanted, of_tables, open, resident, sweep, tables, variant,
};
use nix::sys::signal::Signal;
use support::raw::Raw;
use support::{act, hear, root, say, start, wait_until};

#[test]
fn role() {
    act(&[("resident", resident::<Timed>), ("holder", holder), ("sleepers", sleepers), ("waiter", waiter)]);
}

// What ends by itself, or is waited for.

/// None of these ends in a test.
fn lease() -> Lease {
    Lease::new(Duration::from_secs(600))
}

struct Timed {
    mutex: LeaseGuard,
    write: LeaseGuard,
    permit: LeaseGuard,
    leader: Leadership,
    behind: FenceGuard<'static>,
    setter: EventSetter,
    member: BarrierMember,
}

const FENCED: u64 = 1 << 20;

fn fence(space: &Space) -> Result<&'static Fence> {
    static FENCE: OnceLock<Fence> = OnceLock::new();
    let fence = space.fence("fence")?;
    Ok(FENCE.get_or_init(|| fence))
}

impl Parts for Timed {
    /// Of the leases every bit, of the rest a sample, unless all are wanted.
    fn cases(root: &Path, before: &[u8]) -> Vec<Case> {
        let of_leases = |what: &str| (24..32).any(|byte| what.contains(&format!("byte {byte} of entry")));
        let is_chosen = |at: usize, what: &str| of_leases(what) || at.is_multiple_of(17);
        let all = of_tables(before, tables(root)).into_iter().enumerate();
        all.filter(|(at, (_, what))| is_everything_wanted() || is_chosen(*at, what)).map(|(_, case)| case).collect()
    }

    fn of(space: &Space) -> Result<Self> {
        Ok(Self {
            mutex: space.mutex("mutex")?.lock_with_lease(lease())?,
            write: space.rwlock("write")?.write_with_lease(lease())?,
            permit: space.semaphore("permit", 1)?.acquire_with_lease(lease())?,
            leader: space.election("leader", lease())?.campaign()?,
            behind: fence(space)?.enter(FENCED)?,
            setter: space.event("event")?.announce()?,
            member: space.barrier("barrier", 2)?.join()?,
        })
    }

    fn end(self, tally: &mut Tally) {
        for guard in [self.mutex, self.write, self.permit] {
            let renewed = guard.renew();
            // What was lost once is lost for good.
            assert!(renewed.is_ok() || !guard.is_held());
            for (what, outcome) in [("renew", renewed), ("unlock", guard.unlock())] {
                match outcome {
                    Ok(()) => tally.note(format!("{what}:Ok")),
                    Err(error) => tally.note(format!("{what}:{}", variant(&error))),
                }
            }
        }
        let ended = [self.leader.resign(), self.setter.set()];
        ended.into_iter().for_each(|outcome| tally.open(outcome));
        if !self.behind.is_held() {
            tally.note("unlock:Lost");
        }
        drop((self.behind, self.member));
    }

    fn battery(space: &Space, tally: &mut Tally) {
        let mut others = || -> Result<()> {
            let (mutex, write) = (space.mutex("mutex")?, space.rwlock("write")?);
            tally.taken("a lock with a lease", mutex.try_lock_for(SHORT));
            tally.taken("another lease", mutex.try_lock_with_lease_for(lease(), SHORT));
            tally.taken("reading beside a lease", write.try_read_for(SHORT));
            tally.taken("writing beside a lease", write.try_write_with_lease(lease()));
            tally.taken("a permit with a lease", space.semaphore("permit", 1)?.try_acquire_for(SHORT));
            let election = space.election("leader", lease())?;
            tally.taken("a second leader", election.try_campaign());
            tally.open(election.leader());
            tally.open(mutex.holder());
            // The largest token that was seen may be damaged, but one at a time is behind it.
            tally.taken("a second one behind the fence", space.fence("fence")?.enter_for(FENCED, SHORT));
            tally.open(space.fence("fence")?.newest());
            let event = space.event("event")?;
            tally.open(event.wait_for(SHORT));
            tally.open(event.holder());
            tally.taken("a second announcement", event.announce());
            let barrier = space.barrier("barrier", 2)?;
            tally.open(barrier.holders());
            tally.open(barrier.join().and_then(|mut member| member.wait_for(SHORT)));
            Ok(())
        };
        if let Err(error) = others() {
            tally.error(&error);
        }
        tally.open(space.mutex("new").and_then(|new| new.try_lock_for(SHORT).map(drop)));
        tally.open(space.recover_dead());
    }

    fn after(space: &Space, tally: &mut Tally) {
        let long = SHORT * 20;
        tally.open(space.mutex("mutex").and_then(|mutex| mutex.try_lock_for(long).map(drop)));
        tally.open(space.rwlock("write").and_then(|lock| lock.try_write_for(long).map(drop)));
        tally.open(space.semaphore("permit", 1).and_then(|permit| permit.try_acquire_for(long).map(drop)));
        tally.open(space.election("leader", lease()).and_then(|election| election.campaign_for(long).map(drop)));
        tally.open(space.fence("fence").and_then(|fence| fence.enter_for(FENCED, long).map(drop)));
    }
}

#[test]
fn no_flipped_bit_ends_a_lease_or_makes_a_second_leader() {
    let (tried, seen) = sweep::<Timed>(1);
    assert!(tried > 300);
    // Whoever had it is told, and what was not to be renewed was not.
    assert!(seen.contains_key("renew:Lost") && seen.contains_key("unlock:Lost"), "{seen:?}");
}

// Those who sleep with a part of what they wait for.

const PERMITS: u32 = 2;
/// Time for the first sleep, after which those who sleep look whether they wait for each other, and the next.
const LONG: Duration = Duration::from_millis(25);

/// Has a part of everything that the sleepers want.
fn holder(arguments: &[String]) {
    let space = open(Path::new(&arguments[0]));
    let read = space.rwlock("rwlock").unwrap().read_owned().unwrap();
    let permit = space.semaphore("semaphore", PERMITS).unwrap().acquire_owned().unwrap();
    let mutex = space.mutex("mutex").unwrap().lock_owned().unwrap();
    say("here");
    hear();
    drop((read, permit, mutex));
    say("released");
    hear();
}

/// Waits in three threads, for what it has a part of and for what it has not.
fn sleepers(arguments: &[String]) {
    let space = open(Path::new(&arguments[0]));
    let (rwlock, semaphore) = (space.rwlock("rwlock").unwrap(), space.semaphore("semaphore", PERMITS).unwrap());
    let mutex = space.mutex("mutex").unwrap();
    let mut reader = Some(rwlock.read_owned().unwrap());
    say("here");
    while hear() == "wait" {
        let mut tally = Tally::default();
        say("waiting");
        let guard = reader.take().unwrap();
        let (upgraded, permits, locked) = std::thread::scope(|scope| {
            let permits = scope.spawn(|| semaphore.try_acquire_many_for(PERMITS, LONG).map(drop));
            let locked = scope.spawn(|| mutex.try_lock_for(LONG).map(drop));
            (guard.try_upgrade_for(LONG), permits.join().unwrap(), locked.join().unwrap())
        });
        match upgraded {
            Ok(_) => tally.note("GOT:upgraded"),
            Err(refused) => {
                tally.error(&refused.error);
                reader = Some(refused.guard);
            }
        }
        tally.taken("permits", permits);
        tally.taken("mutex", locked);
        say(tally.line());
    }
    drop(reader);
    let all = [
        rwlock.try_write_for(LONG * 40).map(drop),
        semaphore.try_acquire_many_for(PERMITS, LONG * 40).map(drop),
        mutex.try_lock_for(LONG * 40).map(drop),
    ];
    all.into_iter().for_each(|outcome| outcome.unwrap());
    say("had all");
    hear();
}

#[test]
fn no_flipped_bit_of_those_who_sleep_gives_them_more_than_they_have() {
    const RECORD: usize = 64;
    let bits: Vec<usize> = (0..RECORD * 8).step_by(if is_everything_wanted() { 1 } else { 3 }).collect();
    let (seen, asleep) = (Mutex::new(Counts::new()), Mutex::new(0));
    let lanes = 4;
    std::thread::scope(|scope| {
        for lane in 0..lanes {
            let (bits, seen, asleep) = (&bits, &seen, &asleep);
            scope.spawn(move || {
                let root = root();
                let path = root.path().to_str().unwrap();
                let mut holder = start("holder", &[path]);
                holder.expect("here");
                let mut sleepers = start("sleepers", &[path]);
                sleepers.expect("here");
                let raw = Raw::open(root.path().join("test"));
                let (records, end) = (raw.u64_at(56) as usize, raw.u64_at(64) as usize);
                let whole = || {
                    let mut bytes = vec![0; raw.file().metadata().unwrap().len() as usize];
                    raw.file().read_exact_at(&mut bytes, 0).unwrap();
                    bytes
                };
                let before = whole();
                for &bit in bits.iter().skip(lane).step_by(lanes) {
                    raw.file().write_all_at(&before, 0).unwrap();
                    sleepers.tell("wait");
                    sleepers.expect("waiting");
                    let mut flipped = 0;
                    // Each of the three soon sleeps; one after the other gets its flip.
                    let begin = std::time::Instant::now();
                    let mut done = [false; 64];
                    while flipped < 3 && begin.elapsed() < LONG / 2 {
                        let bytes = whole();
                        for at in (records..end).step_by(RECORD).take(16) {
                            let number = (at - records) / RECORD;
                            if !done[number] && bytes[at..at + 8] != [0; 8] {
                                let byte = at + bit / 8;
                                let wrong = bytes[byte] ^ 1 << (bit % 8);
                                raw.file().write_all_at(&[wrong], byte as u64).unwrap();
                                done[number] = true;
                                flipped += 1;
                            }
                        }
                    }
                    *asleep.lock().unwrap() += flipped;
                    let outcomes = kinds::parse(&sleepers.hear());
                    let got = outcomes.keys().find(|outcome| outcome.starts_with("GOT"));
                    assert_eq!(got, None, "bit {bit}: {outcomes:?}");
                    let mut seen = seen.lock().unwrap();
                    outcomes.into_iter().for_each(|(what, times)| *seen.entry(what).or_default() += times);
                }
                // And when all is let go, they get it.
                raw.file().write_all_at(&before, 0).unwrap();
                holder.tell("release");
                holder.expect("released");
                sleepers.tell("go on");
                sleepers.expect("had all");
            });
        }
    });
    let (seen, asleep) = (seen.into_inner().unwrap(), asleep.into_inner().unwrap());
    println!("{asleep} flips: {seen:?}");
    assert!(asleep > bits.len(), "{asleep} flips in {} rounds", bits.len());
}

// A lock that is reserved for those who wait.

/// Waits for the lock, and says when it has it.
fn waiter(arguments: &[String]) {
    let mutex = open(Path::new(&arguments[0])).mutex("mutex").unwrap();
    say("here");
    loop {
        hear();
        say("waiting");
        match mutex.try_lock_for(Duration::from_secs(20)) {
            Ok(_) => say("Ok"),
            Err(error) => say(variant(&error)),
        }
    }
}

#[test]
fn no_flipped_bit_of_a_reservation_lets_in_who_just_comes_or_loses_who_waits() {
    let root = root();
    let path = root.path().to_str().unwrap();
    let space = open(root.path());
    let mutex = space.mutex("mutex").unwrap();
    let raw = Raw::open(root.path().join("test"));
    let entry = raw.entry("mutex").unwrap().at;
    let mut waiter = start("waiter", &[path]);
    waiter.expect("here");
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let (free, mut reserved) = (raw.u64_at(entry), 0);
    for bit in 0..64 {
        raw.put(entry, free);
        let guard = mutex.lock().unwrap();
        waiter.tell("wait");
        waiter.expect("waiting");
        wait_until("it sleeps", || raw.entry("mutex").unwrap().sleepers > 0);
        waiter.signal(Signal::SIGSTOP);
        guard.unlock_fair().unwrap();
        let word = raw.u64_at(entry);
        // Nobody's, and reserved.
        assert_eq!(word & 0xFFFF, 0b110, "{word:#x}");
        reserved += 1;
        raw.put(entry, word ^ 1 << bit);
        let outcome = mutex.try_lock();
        let said = match &outcome {
            Ok(_) => "GOT".into(),
            Err(error) => variant(error),
        };
        // Those for whom it is reserved are stopped, so what still says so is had after a moment.
        let is_reserved = (word ^ 1 << bit) & 0xFFFE == 0b110;
        assert!(said != "GOT" || is_reserved, "bit {bit}: {word:#x}");
        *seen.entry(said).or_default() += 1;
        drop(outcome);
        waiter.signal(Signal::SIGCONT);
        let said = waiter.hear();
        assert!(["Ok", "Damaged"].contains(&said.as_str()), "bit {bit}: {said}");
        *seen.entry(format!("waiter:{said}")).or_default() += 1;
        if said == "Damaged" {
            raw.put(entry, word & !0xFFFF);
        }
    }
    println!("{reserved} reservations: {seen:?}");
}

// Whose words are overwritten as a whole.

#[test]
fn whoever_has_something_whose_words_are_overwritten_is_told() {
    for with in [0_u64, u64::MAX, support::raw::held_by(3, 77)] {
        let root = root();
        let space = open(root.path());
        let raw = Raw::open(root.path().join("test"));
        let mutex = space.mutex("mutex").unwrap().lock_owned().unwrap();
        let read = space.rwlock("read").unwrap().read_owned().unwrap();
        let write = space.rwlock("write").unwrap().write_owned().unwrap();
        let permits = space.semaphore("semaphore", PERMITS).unwrap().acquire_many_owned(PERMITS).unwrap();
        let leased = space.mutex("leased").unwrap().lock_with_lease(lease()).unwrap();
        let leader = space.election("leader", lease()).unwrap().campaign().unwrap();
        let fence = space.fence("fence").unwrap();
        let behind = fence.enter(1).unwrap();
        let held = || [mutex.is_held(), write.is_held(), leased.is_held(), leader.is_leader(), behind.is_held()];
        assert_eq!((held(), read.is_held(), permits.is_held()), ([true; 5], true, true));
        for entry in raw.entries().iter().filter(|entry| !entry.name.is_empty()) {
            raw.put(entry.at, with);
        }
        let (extents, end) = (raw.u64_at(80), raw.u64_at(24));
        (extents..end).step_by(8).for_each(|at| raw.put(at, with));
        assert_eq!((held(), read.is_held(), permits.is_held()), ([false; 5], false, false), "{with:#x}");
        let lost = |outcome: Result<()>| assert!(matches!(outcome, Err(Error::Lost { .. })), "{with:#x}: {outcome:?}");
        lost(mutex.unlock());
        lost(read.unlock());
        lost(write.unlock());
        lost(permits.unlock());
        lost(leased.renew());
        lost(leased.unlock());
        lost(leader.resign());
    }
}
