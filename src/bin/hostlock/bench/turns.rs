//! What processes do in their turns, with a lock of each kind; and that it excludes, which is checked in each.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

use super::arena::{Arena, Run, Turn, work};
use super::peers::{Lock, ReadWrite, Shared, SharedRw};

/// A word on a cache line of its own, and of the one that is fetched with it.
#[repr(C, align(128))]
pub struct Apart(pub AtomicU64);

/// How processes run against each other.
#[derive(Clone, Copy)]
pub struct Pace {
    pub processes: usize,
    pub time: Duration,
    /// How much work is done in a turn, inside the lock and again outside.
    pub additions: u32,
}

/// What is only touched under the lock that is measured: it lies in memory that the processes share.
#[repr(C)]
pub struct Guarded {
    /// Counted as if nobody else were there.
    count: Apart,
    /// Two numbers that writers change together.
    first: Apart,
    second: Apart,
    /// Counted in a way that always counts.
    inside: Apart,
}

impl Guarded {
    pub fn clear(&self) {
        for word in [&self.count, &self.first, &self.second, &self.inside] {
            word.0.store(0, SeqCst);
        }
    }

    /// Counts, as one who is alone may.
    #[inline]
    pub fn add_one(&self) {
        self.count.0.store(self.count.0.load(Relaxed) + 1, Relaxed);
    }

    pub fn counted(&self) -> u64 {
        self.count.0.load(SeqCst)
    }

    /// Fails if it was not counted as often as it had to be.
    pub fn expect(&self, turns: u64) -> Result<u64, String> {
        match self.counted() {
            count if count == turns => Ok(turns),
            count => Err(format!("two were inside at once: of {turns} turns {count} were counted")),
        }
    }

    fn look(&self, sum: &mut u64, additions: u32) {
        let seen = self.first.0.load(Relaxed);
        work(sum, additions);
        assert_eq!(seen, self.second.0.load(Relaxed), "a writer was beside a reader");
    }

    fn change(&self, sum: &mut u64, additions: u32) {
        let next = self.first.0.load(Relaxed) + 1;
        self.first.0.store(next, Relaxed);
        work(sum, additions);
        self.second.0.store(next, Relaxed);
        self.inside.0.fetch_add(1, Relaxed);
    }

    /// Fails if two wrote at once.
    fn expect_writes(&self) -> Result<(), String> {
        let [writes, first, second] = [&self.inside, &self.first, &self.second].map(|word| word.0.load(SeqCst));
        match writes == first && writes == second {
            true => Ok(()),
            false => Err(format!("two wrote at once: of {writes} writes {first} and {second} were counted")),
        }
    }
}

/// When somebody began to wait, if that is of interest.
#[derive(Clone, Copy)]
struct Clock(Option<Instant>);

impl Clock {
    #[inline]
    fn waited(self) -> Duration {
        self.0.map_or(Duration::ZERO, |wanted| wanted.elapsed())
    }
}

/// A turn that says itself how long it waited. Without `TIMED` no clock is looked at.
#[inline]
fn take<const TIMED: bool>(turn: &mut Turn, act: impl FnOnce(Clock, &mut u64) -> Duration) {
    let mut sum = turn.sum;
    let waited = act(Clock(TIMED.then(Instant::now)), &mut sum);
    if TIMED {
        turn.took(waited);
    }
    turn.sum = sum;
}

/// Turns with a mutex. `TIMED`: how long each of them waited is noted, which takes longer than many a lock.
pub fn exclusive<const TIMED: bool, T>(
    arena: &Arena<T>,
    guarded: &Guarded,
    shared: &impl Shared,
    Pace { processes, time, additions }: Pace,
) -> Result<Run, String> {
    guarded.clear();
    let run = arena.run(processes, time, || {
        let lock = shared.here();
        move |turn: &mut Turn| {
            take::<TIMED>(turn, |clock, sum| {
                let waited = lock.with(|| {
                    let waited = clock.waited();
                    guarded.add_one();
                    work(sum, additions);
                    waited
                });
                work(sum, additions);
                waited
            });
        }
    })?;
    guarded.expect(run.turns)?;
    Ok(run)
}

/// Turns with a read-write lock, one of so many of which writes.
pub fn reading<const TIMED: bool, T>(
    arena: &Arena<T>,
    guarded: &Guarded,
    shared: &impl SharedRw,
    Pace { processes, time, additions }: Pace,
    writes: u64,
) -> Result<Run, String> {
    guarded.clear();
    let run = arena.run(processes, time, || {
        let lock = shared.here();
        move |turn: &mut Turn| {
            // Not all of them at once.
            let is_writer = (turn.number + turn.sum).is_multiple_of(writes);
            take::<TIMED>(turn, |clock, sum| {
                let waited = if is_writer {
                    lock.write(|| {
                        let waited = clock.waited();
                        guarded.change(sum, additions);
                        waited
                    })
                } else {
                    lock.read(|| {
                        let waited = clock.waited();
                        guarded.look(sum, additions);
                        waited
                    })
                };
                work(sum, additions);
                waited
            });
        }
    })?;
    guarded.expect_writes()?;
    Ok(run)
}

/// Turns with one of so many permits.
pub fn permitted<T>(
    arena: &Arena<T>,
    guarded: &Guarded,
    shared: &impl Shared,
    Pace { processes, time, additions }: Pace,
    permits: u32,
) -> Result<Run, String> {
    guarded.clear();
    arena.run(processes, time, || {
        let lock = shared.here();
        move |turn: &mut Turn| {
            lock.with(|| {
                let before = guarded.inside.0.fetch_add(1, Relaxed);
                work(&mut turn.sum, additions);
                guarded.inside.0.fetch_sub(1, Relaxed);
                assert!(before < permits.into(), "{before} were inside already");
            });
            work(&mut turn.sum, additions);
        }
    })
}
