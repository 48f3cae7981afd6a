//! The read-write lock and the semaphore, beside others: `cargo bench --bench shared [-- ROUNDS [MILLISECONDS]] [LOCK …]`, where LOCK is
//! part of the name of a lock to be measured beside hostlock (default: all).
//!
//! Readers look at two numbers that every writer changes together; holders of permits count each other.

mod common;

use std::fs::File;
use std::mem::MaybeUninit;

use common::arena::{Arena, Run, SHORT};
use common::peers::{
    Bare, HostlockPermits, HostlockRw, Lock, Opened, ParkingLotRw, PthreadRw, ReadWrite, Semaphore, Shared, SharedRw,
    StdRw, SysV,
};
use common::turns::{self, Guarded, Pace};
use common::{Arguments, Named, alone, compare_runs, compare_times};

const OURS: &str = "hostlock";
const UNCONTENDED: u64 = 300_000;
const PERMITS: u32 = 4;

#[repr(C)]
struct Board {
    guarded: Guarded,
    pthread: MaybeUninit<PthreadRw>,
    fair: MaybeUninit<PthreadRw>,
    semaphore: MaybeUninit<Semaphore>,
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
    let system_v = SysV::new(1, PERMITS).expect("a semaphore");

    let (std, parking_lot, flock) = (StdRw(Default::default()), ParkingLotRw(Default::default()), Bare(open()));
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
        ("flock, shared", Box::new(|| alone(UNCONTENDED / 100, || flock.read(|| ())))),
    ];
    compare_times(rounds, OURS, &arguments.pick(OURS, peers));
    println!("writing, one process");
    let peers = vec![
        writing(OURS, &rwlock),
        writing("std::sync (one process only)", &std),
        writing("parking_lot (one process only)", &parking_lot),
        writing("pthread process-shared", pthread),
        ("flock", Box::new(|| alone(UNCONTENDED / 100, || flock.write(|| ())))),
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

    fn contend<'a>(
        arena: &'a Arena<Board>,
        pace: Pace,
        writes: u64,
        shared: impl SharedRw + 'a,
    ) -> Box<dyn Fn() -> Run + 'a> {
        let guarded = &arena.board().guarded;
        Box::new(move || turns::reading::<false, _>(arena, guarded, &shared, pace, writes).expect("a run"))
    }
    fn share<'a>(arena: &'a Arena<Board>, pace: Pace, shared: impl Shared + 'a) -> Box<dyn Fn() -> Run + 'a> {
        let guarded = &arena.board().guarded;
        Box::new(move || turns::permitted(arena, guarded, &shared, pace, PERMITS).expect("a run"))
    }
    for processes in [2, 8] {
        for writes in [10, 100] {
            println!(
                "{processes} processes, one of {writes} turns writes, short work inside and outside: \
                 median of {rounds} rounds of {time:?} in turn"
            );
            let pace = Pace { processes, time, additions: SHORT };
            let contests: Vec<Named<'_, Run>> = vec![
                (OURS, contend(&arena, pace, writes, &rwlock)),
                ("pthread process-shared", contend(&arena, pace, writes, pthread)),
                ("pthread process-shared, writers first", contend(&arena, pace, writes, fair)),
                ("flock", contend(&arena, pace, writes, Opened::new(&file, Bare))),
            ];
            compare_runs(rounds, OURS, &arguments.pick(OURS, contests));
        }
        println!("{processes} processes, {PERMITS} permits, short work inside and outside: rounds as above");
        let pace = Pace { processes, time, additions: SHORT };
        let contests: Vec<Named<'_, Run>> = vec![
            (OURS, share(&arena, pace, &permits)),
            ("sem_t", share(&arena, pace, semaphore)),
            ("System V, SEM_UNDO", share(&arena, pace, &system_v)),
        ];
        compare_runs(rounds, OURS, &arguments.pick(OURS, contests));
    }
}
