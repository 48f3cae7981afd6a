//! Lock files beside other ways to use `flock`: `cargo bench --bench files [-- ROUNDS [MILLISECONDS]] [LOCK …]`, where LOCK is part of the name
//! of a lock to be measured beside hostlock (default: all).
//!
//! The files are where `TMPDIR` says; a file system on a disk costs the same, as nothing is written to it.

mod peers;

use std::cell::OnceCell;
use std::fs::File;

use fs2::FileExt;
use hostlock::{Backend, Space};
use peers::arena::{Arena, Arguments, Named, Run, alone, compare_runs, compare_times, work};
use peers::{Flock, Hostlock, HostlockPermits, Lock};

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

/// A kept-open descriptor, locked by the system call and nothing around it.
struct Bare(File);

impl Lock for Bare {
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        use std::os::fd::AsRawFd;
        let fd = self.0.as_raw_fd();
        // SAFETY: the descriptor is open, and there are no pointers.
        assert_eq!(unsafe { libc::flock(fd, libc::LOCK_EX) }, 0);
        let result = critical();
        // SAFETY: as above.
        assert_eq!(unsafe { libc::flock(fd, libc::LOCK_UN) }, 0);
        result
    }
}

/// The same, and a line of who holds it, written before and taken back after.
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

struct FdLock(std::cell::RefCell<fd_lock::RwLock<File>>);

impl Lock for FdLock {
    fn with<R>(&self, critical: impl FnOnce() -> R) -> R {
        let mut lock = self.0.borrow_mut();
        let _guard = lock.write().expect("fd-lock");
        critical()
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
    let (opened, fd_lock) = (OpenFlock(open), FdLock(fd_lock::RwLock::new(open()).into()));

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

    // SAFETY: there is nothing in it.
    let arena: Arena<()> = unsafe { Arena::new(|_: *mut ()| {}) };
    for processes in [2, 8] {
        println!("{processes} processes, short work inside and outside: median of {rounds} rounds of {time:?} in turn");
        let contend = |lock: &dyn Fn(&mut dyn FnMut())| {
            arena.run(processes, time, |sum, _| {
                let mut more = 0;
                lock(&mut || work(&mut more));
                *sum += more;
                work(sum);
            })
        };
        let flock = || -> Run {
            let mine = OnceCell::new();
            contend(&|critical| mine.get_or_init(|| Flock(open())).with(critical))
        };
        let contests: Vec<Named<'_, Run>> = vec![
            (OURS, Box::new(|| contend(&|critical| mutex.with(critical)))),
            ("flock, kept open (fs2)", Box::new(flock)),
            ("flock, opened and closed (fs2)", Box::new(|| contend(&|critical| opened.with(critical)))),
        ];
        compare_runs(rounds, OURS, &arguments.pick(OURS, contests));
    }
}
