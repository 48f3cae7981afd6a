//! Many locks of one process that is killed.

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use hostlock::{Mutex, Space};

use super::Suite;
use crate::bench::Bench;
use crate::bench::death::{kill_owner, now};
use crate::bench::ground::Ground;
use crate::bench::measure::{Case, Measurement, Quantity, Sample, in_turn};
use crate::bench::number::grouped;
use crate::bench::peers::{Kind, Lock, Pthreads, SysV, byte, lock_byte};
use crate::exit::Failure;

const PEERS: &[&str] = &["hostlock", "pthread-robust", "sysv", "ofd"];

/// How many the process holds when it is killed.
pub(crate) const LOCKS: usize = 3000;

const QUANTITIES: &[Quantity] = &[
    Quantity::less("until the last", "ms", ["ms to", "last"]),
    Quantity::more("came back", "locks", ["locks", "back"]),
];

pub(super) const SUITE: Suite = Suite {
    name: "held",
    about: "a process is killed (SIGKILL) that holds 3,000 locks: until another one, that slept for one of them, has had every one that comes back",
    peers: PEERS,
    run,
    goals: |_| Vec::new(),
};

/// The middle of a sleep; sleeps are short at first.
const ASLEEP: Duration = Duration::from_millis(150);

/// One that did not come back for so many nanoseconds never will.
const PATIENCE: u64 = 200_000_000;

/// Many locks.
trait Many {
    /// Makes all of them free.
    fn reset(&self) -> Result<(), String> {
        Ok(())
    }

    /// Them, as one process has them.
    fn here(&self) -> Box<dyn Held + '_>;
}

trait Held {
    /// Takes one, for good.
    fn take(&self, index: usize);

    /// Takes one of a process that died, and gives it back. Whether it could; waits for it only if it `is_waited_for`.
    fn take_over(&self, index: usize, is_waited_for: bool) -> bool;
}

fn run(bench: &Bench<'_>) -> Result<Vec<Case>, Failure> {
    let (ground, plan) = (&bench.ground, &bench.plan);
    let contest = ground.contest(plan, PEERS, |name| {
        Ok(match name {
            "hostlock" => measured(ground, Hostlocks::new(ground).map_err(|error| error.to_string())?),
            "pthread-robust" => measured(ground, Pthreads::<LOCKS>::new(Kind::Robust)),
            "sysv" => measured(ground, ground.kept.many.as_ref().map_err(String::clone)?),
            "ofd" => measured(ground, Bytes(ground.directory().join("bytes"))),
            _ => unreachable!("{name} is not among the peers"),
        })
    });
    let name = format!("{} locks of one killed process", grouped(LOCKS as i64));
    Ok(vec![in_turn(bench, (name.clone(), name, 2), QUANTITIES, contest)?])
}

fn measured<'a>(ground: &'a Ground<'_>, many: impl Many + 'a) -> Measurement<'a> {
    let board = ground.board();
    Box::new(move || {
        many.reset()?;
        board.guarded.clear();
        let survive = || {
            let held = many.here();
            // The last one first: of what the system gives back in the order of its own list, that comes first. It may be at it while this looks.
            for index in (0..LOCKS).rev() {
                let mut stalled = None;
                while !held.take_over(index, index == LOCKS - 1) {
                    let since = *stalled.get_or_insert_with(now);
                    if now() > since + PATIENCE {
                        // It was over with the one before.
                        board.meeting.time.store(since, SeqCst);
                        return;
                    }
                    std::thread::yield_now();
                }
                board.guarded.add_one();
            }
            board.meeting.time.store(now(), SeqCst);
        };
        let hold = |until_killed: &dyn Fn()| {
            let held = many.here();
            (0..LOCKS).for_each(|index| held.take(index));
            until_killed();
        };
        let nanos = kill_owner(&board.meeting, ASLEEP, hold, survive)?;
        let back = board.guarded.counted();
        Ok(Sample { values: vec![nanos as f64 / 1e6, back as f64], checked: back, ..Sample::default() })
    })
}

struct Hostlocks(Vec<Mutex>);

impl Hostlocks {
    fn new(ground: &Ground<'_>) -> hostlock::Result<Self> {
        let space = Space::builder("held").root(ground.directory()).locks(2 * LOCKS as u32).open()?;
        (0..LOCKS).map(|index| space.mutex(&format!("lock {index}"))).collect::<hostlock::Result<_>>().map(Self)
    }
}

impl Many for Hostlocks {
    fn here(&self) -> Box<dyn Held + '_> {
        Box::new(&self.0[..])
    }
}

impl Held for &[Mutex] {
    fn take(&self, index: usize) {
        std::mem::forget(self[index].lock().expect("a free lock"));
    }

    fn take_over(&self, index: usize, is_waited_for: bool) -> bool {
        let guard = if is_waited_for { self[index].lock() } else { self[index].try_lock() };
        guard.is_ok_and(|guard| guard.abandoned().is_some())
    }
}

impl Many for Pthreads<LOCKS> {
    /// Anew: those that did not come back never will.
    fn reset(&self) -> Result<(), String> {
        Pthreads::reset(self, Kind::Robust);
        Ok(())
    }

    fn here(&self) -> Box<dyn Held + '_> {
        Box::new(self)
    }
}

impl Held for &Pthreads<LOCKS> {
    fn take(&self, index: usize) {
        assert!(self.get(index).try_take() == Some(false), "a lock is not free");
    }

    fn take_over(&self, index: usize, is_waited_for: bool) -> bool {
        let lock = self.get(index);
        if is_waited_for {
            lock.with(|| ());
            return true;
        }
        let came_back = lock.try_take() == Some(true);
        if came_back {
            lock.release();
        }
        came_back
    }
}

impl Many for &SysV {
    fn here(&self) -> Box<dyn Held + '_> {
        Box::new(*self)
    }
}

impl Held for &SysV {
    fn take(&self, index: usize) {
        self.add(index, -1);
    }

    fn take_over(&self, index: usize, _: bool) -> bool {
        self.add(index, -1);
        self.add(index, 1);
        true
    }
}

/// Bytes of one file, every second one: the kernel makes one lock of neighbours.
struct Bytes(PathBuf);

impl Many for Bytes {
    fn here(&self) -> Box<dyn Held + '_> {
        let mut options = File::options();
        Box::new(options.read(true).write(true).create(true).truncate(false).open(&self.0).expect("a file"))
    }
}

impl Held for File {
    fn take(&self, index: usize) {
        lock_byte(self, &byte(2 * index, libc::F_WRLCK));
    }

    fn take_over(&self, index: usize, _: bool) -> bool {
        lock_byte(self, &byte(2 * index, libc::F_WRLCK));
        lock_byte(self, &byte(2 * index, libc::F_UNLCK));
        true
    }
}
