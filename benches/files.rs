//! Lock files beside other ways to use `flock`: `cargo bench --bench files [-- ROUNDS [MILLISECONDS]] [LOCK …]`, where LOCK is part of the name
//! of a lock to be measured beside hostlock (default: all).
//!
//! The files are where `TMPDIR` says; a file system on a disk costs the same, as nothing is written to it.

mod common;

use std::fs::File;

use common::arena::{Arena, Run, SHORT};
use common::peers::{Bare, FdLock, Flock, Hostlock, HostlockPermits, Lock, Opened, Shared};
use common::turns::{Guarded, Pace, exclusive};
use common::{Arguments, Named, alone, compare_runs, compare_times};
use fs2::FileExt;
use hostlock::{Backend, Space};

const OURS: &str = "hostlock, lock files";
const TIMES: u64 = 20_000;

/// A file opened for each acquisition, as most tools do it.
struct OpenFlock<F>(F);

impl<F: Fn() -> File> Lock for OpenFlock<F> {
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        let file = (self.0)();
        FileExt::lock_exclusive(&file).expect("flock");
        let result = critical();
        drop(file);
        result
    }
}

impl<F: Fn() -> File> Shared for OpenFlock<F> {
    fn here(&self) -> impl Lock {
        self
    }
}

/// A descriptor that is kept open, and a line of who holds it, written before and taken back after.
struct WithRecord(File);

impl Lock for WithRecord {
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        use std::os::unix::fs::FileExt as _;
        FileExt::lock_exclusive(&self.0).expect("flock");
        self.0.write_all_at(b"pid 1234567 command since", 0).expect("a record");
        let result = critical();
        self.0.write_all_at(b"nobody                   ", 0).expect("a record");
        FileExt::unlock(&self.0).expect("flock");
        result
    }
}

fn main() {
    let arguments = Arguments::read();
    let (rounds, time) = (arguments.rounds, arguments.time);
    let root = tempfile::tempdir().expect("a directory");
    let space = Space::builder("bench").root(root.path()).backend(Backend::Files).open().expect("a space");
    let mutex = Hostlock(space.mutex("mutex").expect("a mutex"));
    let permit = HostlockPermits(space.semaphore("permits", 4).expect("a semaphore"));
    let reading = space.rwlock("rw").expect("a read-write lock");
    let file = root.path().join("flock");
    let open = || File::options().read(true).write(true).create(true).truncate(false).open(&file).expect("the file");
    let (bare, fs2, with_record) = (Bare(open()), Flock(open()), WithRecord(open()));
    let (opened, fd_lock) = (OpenFlock(open), FdLock::new(open()));

    fn one<'a>(name: &'static str, lock: &'a impl Lock) -> Named<'a, f64> {
        (name, Box::new(move || alone(TIMES, || lock.with(|| ()))))
    }
    println!("one process: median of {rounds} rounds in turn, ns per acquisition and release");
    let peers = vec![
        one(OURS, &mutex),
        (
            "hostlock, lock files, reading",
            Box::new(|| alone(TIMES, || drop(reading.read().expect("the lock")))) as Box<dyn Fn() -> f64>,
        ),
        one("hostlock, lock files, a permit of 4", &permit),
        one("flock, kept open", &bare),
        one("flock, kept open (fs2)", &fs2),
        one("flock, kept open (fd-lock)", &fd_lock),
        one("flock, kept open, a record written", &with_record),
        one("flock, opened and closed (fs2)", &opened),
    ];
    compare_times(rounds, OURS, &arguments.pick(OURS, peers));

    // SAFETY: all of it is zero at first, and may be shared.
    let arena: Arena<Guarded> = unsafe { Arena::new(|_: *mut Guarded| {}) };
    fn contend<'a>(arena: &'a Arena<Guarded>, pace: Pace, shared: impl Shared + 'a) -> Box<dyn Fn() -> Run + 'a> {
        Box::new(move || exclusive::<false, _>(arena, arena.board(), &shared, pace).expect("a run"))
    }
    for processes in [2, 8] {
        println!("{processes} processes, short work inside and outside: median of {rounds} rounds of {time:?} in turn");
        let pace = Pace { processes, time, additions: SHORT };
        let contests: Vec<Named<'_, Run>> = vec![
            (OURS, contend(&arena, pace, &mutex)),
            ("flock, kept open (fs2)", contend(&arena, pace, Opened::new(&file, Flock))),
            ("flock, opened and closed (fs2)", contend(&arena, pace, &opened)),
        ];
        compare_runs(rounds, OURS, &arguments.pick(OURS, contests));
    }
}
