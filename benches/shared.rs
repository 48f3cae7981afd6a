//! The read-write lock and the semaphore, beside others: `cargo bench --bench shared [-- ROUNDS [MILLISECONDS]] [LOCK …]`, where LOCK is
//! part of the name of a lock to be measured beside hostlock (default: all).
//!
//! Readers look at two numbers that every writer changes together; holders of permits count each other.

mod peers;

use std::fs::File;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use peers::arena::{Arena, Arguments, Named, Run, alone, compare_runs, compare_times, work};
use peers::read_write::{HostlockRw, ParkingLotRw, PthreadRw, ReadWrite, StdRw};
use peers::{Flock, HostlockPermits, Lock, Semaphore, SysV};

const OURS: &str = "hostlock";
const UNCONTENDED: u64 = 300_000;
const PERMITS: u32 = 4;

#[repr(C)]
struct Board {
    /// Only changed by the writer.
    first: AtomicU64,
    second: AtomicU64,
    /// How many hold a permit.
    inside: AtomicU64,
    pthread: MaybeUninit<PthreadRw>,
    fair: MaybeUninit<PthreadRw>,
    semaphore: MaybeUninit<Semaphore>,
}

impl Board {
    fn look(&self, sum: &mut u64) {
        let seen = self.first.load(Relaxed);
        work(sum);
        assert_eq!(seen, self.second.load(Relaxed), "a writer beside a reader");
    }

    fn change(&self, sum: &mut u64) {
        let next = self.first.load(Relaxed) + 1;
        self.first.store(next, Relaxed);
        work(sum);
        self.second.store(next, Relaxed);
    }

    fn count(&self, sum: &mut u64) {
        let before = self.inside.fetch_add(1, Relaxed);
        work(sum);
        self.inside.fetch_sub(1, Relaxed);
        assert!(before < PERMITS.into(), "{before} were inside already");
    }
}

fn main() {
    let arguments = Arguments::read();
    let (rounds, time) = (arguments.rounds, arguments.time);
    let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    let space = hostlock::Space::builder("bench").root(root.path()).open().expect("a space");
    let rwlock = HostlockRw(space.rwlock("rw").expect("a read-write lock"));
    let permits = HostlockPermits(space.semaphore("permits", PERMITS).expect("a semaphore"));
    let one = HostlockPermits(space.semaphore("one", 1).expect("a semaphore"));
    let file = root.path().join("flock");
    File::create(&file).expect("a file");
    let open = || File::options().write(true).open(&file).expect("the file");
    // SAFETY: what is not zero is initialised here, and may be shared.
    let arena: Arena<Board> = unsafe {
        Arena::new(|board: *mut Board| {
            PthreadRw::init((&raw mut (*board).pthread).cast(), false);
            PthreadRw::init((&raw mut (*board).fair).cast(), true);
            Semaphore::init((&raw mut (*board).semaphore).cast(), PERMITS);
        })
    };
    let board = arena.board();
    // SAFETY: initialised above, in memory that outlives them.
    let (pthread, fair, semaphore) =
        unsafe { (board.pthread.assume_init_ref(), board.fair.assume_init_ref(), board.semaphore.assume_init_ref()) };
    let system_v = SysV::new(PERMITS);

    let (std, parking_lot, flock) = (StdRw(Default::default()), ParkingLotRw(Default::default()), Flock(open()));
    fn reading<'a>(name: &'static str, lock: &'a impl ReadWrite) -> Named<'a, f64> {
        (name, Box::new(move || alone(UNCONTENDED, || lock.read(|| ()))))
    }
    fn writing<'a>(name: &'static str, lock: &'a impl ReadWrite) -> Named<'a, f64> {
        (name, Box::new(move || alone(UNCONTENDED, || lock.write(|| ()))))
    }
    println!("reading, one process: median of {rounds} rounds in turn, ns per acquisition and release");
    let peers = vec![
        reading(OURS, &rwlock),
        reading("std::sync (one process only)", &std),
        reading("parking_lot (one process only)", &parking_lot),
        reading("pthread process-shared", pthread),
        ("flock (fs2), shared", Box::new(|| alone(UNCONTENDED / 100, || flock.read(|| ())))),
    ];
    compare_times(rounds, OURS, &arguments.pick(OURS, peers));
    println!("writing, one process");
    let peers = vec![
        writing(OURS, &rwlock),
        writing("std::sync (one process only)", &std),
        writing("parking_lot (one process only)", &parking_lot),
        writing("pthread process-shared", pthread),
        ("flock (fs2)", Box::new(|| alone(UNCONTENDED / 100, || flock.write(|| ())))),
    ];
    compare_times(rounds, OURS, &arguments.pick(OURS, peers));
    println!("a permit of {PERMITS}, one process");
    fn permit<'a>(name: &'static str, lock: &'a impl Lock, times: u64) -> Named<'a, f64> {
        (name, Box::new(move || alone(times, || lock.with(|| ()))))
    }
    let peers = vec![
        permit(OURS, &permits, UNCONTENDED),
        permit("hostlock, the only one", &one, UNCONTENDED),
        permit("sem_t", semaphore, UNCONTENDED),
        permit("System V, SEM_UNDO", &system_v, UNCONTENDED / 100),
    ];
    compare_times(rounds, OURS, &arguments.pick(OURS, peers));

    for processes in [2, 8] {
        for writes in [10, 100] {
            println!(
                "{processes} processes, one of {writes} turns writes, short work inside and outside: \
                 median of {rounds} rounds of {time:?} in turn"
            );
            let contend = |lock: &dyn Fn(bool, &mut dyn FnMut())| {
                arena.run(processes, time, |sum, turn| {
                    // Not all of them at once.
                    let is_writer = (turn + *sum) % writes == 0;
                    lock(is_writer, &mut || if is_writer { board.change(sum) } else { board.look(sum) });
                    work(sum);
                })
            };
            fn use_rw(lock: &impl ReadWrite) -> impl Fn(bool, &mut dyn FnMut()) + '_ {
                move |is_writer, critical| if is_writer { lock.write(critical) } else { lock.read(critical) }
            }
            let flock = || -> Run {
                let mine = std::cell::OnceCell::new();
                contend(&|is_writer, critical| use_rw(mine.get_or_init(|| Flock(open())))(is_writer, critical))
            };
            let contests: Vec<Named<'_, Run>> = vec![
                (OURS, Box::new(|| contend(&use_rw(&rwlock)))),
                ("pthread process-shared", Box::new(|| contend(&use_rw(pthread)))),
                ("pthread process-shared, writers first", Box::new(|| contend(&use_rw(fair)))),
                ("flock (fs2)", Box::new(flock)),
            ];
            compare_runs(rounds, OURS, &arguments.pick(OURS, contests));
            assert_eq!(board.first.load(SeqCst), board.second.load(SeqCst));
        }
        println!("{processes} processes, {PERMITS} permits, short work inside and outside: rounds as above");
        let contend = |lock: &dyn Fn(&mut dyn FnMut())| {
            arena.run(processes, time, |sum, _| {
                lock(&mut || board.count(sum));
                work(sum);
            })
        };
        let contests: Vec<Named<'_, Run>> = vec![
            (OURS, Box::new(|| contend(&|critical| permits.with(critical)))),
            ("sem_t", Box::new(|| contend(&|critical| semaphore.with(critical)))),
            ("System V, SEM_UNDO", Box::new(|| contend(&|critical| system_v.with(critical)))),
        ];
        compare_runs(rounds, OURS, &arguments.pick(OURS, contests));
    }
}
