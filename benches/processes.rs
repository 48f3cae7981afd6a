//! The mutex, beside others: `cargo bench --bench processes [-- ROUNDS [MILLISECONDS]] [LOCK …]`, where LOCK is part of the name of
//! a lock to be measured beside hostlock (default: all).
//!
//! Each process adds up a little inside the lock and a little outside; what it counted inside must add up in the end.

mod common;

use std::fs::File;
use std::mem::MaybeUninit;
use std::sync::atomic::AtomicU64;

use common::arena::{Arena, Run, SHORT};
use common::peers::{BareCas, Flock, Hostlock, Kind, Lock, Opened, ParkingLot, Pthread, Semaphore, Shared, Std};
use common::turns::{Guarded, Pace, exclusive};
use common::{Arguments, Named, alone, compare_runs, compare_times};

const OURS: &str = "hostlock";
const UNCONTENDED: u64 = 300_000;

#[repr(C)]
struct Board {
    guarded: Guarded,
    pthread: MaybeUninit<Pthread>,
    robust: MaybeUninit<Pthread>,
    semaphore: MaybeUninit<Semaphore>,
}

fn main() {
    let arguments = Arguments::read();
    let (rounds, time) = (arguments.rounds, arguments.time);
    let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    let space = hostlock::Space::builder("bench").root(root.path()).open().expect("a space");
    let mutex = Hostlock(space.mutex("bench").expect("a mutex"));
    let file = root.path().join("flock");
    File::create(&file).expect("a file");
    let open = || File::options().write(true).open(&file).expect("the file");
    // SAFETY: what is not zero is initialised here, and may be shared.
    let arena: Arena<Board> = unsafe {
        Arena::new(|board: *mut Board| {
            Pthread::init((&raw mut (*board).pthread).cast(), Kind::Plain);
            Pthread::init((&raw mut (*board).robust).cast(), Kind::Robust);
            Semaphore::init((&raw mut (*board).semaphore).cast(), 1);
        })
    };
    let board = arena.board();
    // SAFETY: initialised above, in memory that outlives them.
    let (pthread, robust, semaphore) =
        unsafe { (board.pthread.assume_init_ref(), board.robust.assume_init_ref(), board.semaphore.assume_init_ref()) };

    println!("uncontended, one process: median of {rounds} rounds in turn, ns per acquisition and release");
    let (bare, std, parking_lot, flock) =
        (BareCas(AtomicU64::new(0)), Std(Default::default()), ParkingLot(Default::default()), Flock(open()));
    fn uncontended<'a>(name: &'static str, lock: &'a impl Lock, times: u64) -> Named<'a, f64> {
        (name, Box::new(move || alone(times, || lock.with(|| ()))))
    }
    let peers = vec![
        uncontended("two bare CAS", &bare, UNCONTENDED),
        uncontended(OURS, &mutex, UNCONTENDED),
        uncontended("std::sync (one process only)", &std, UNCONTENDED),
        uncontended("parking_lot (one process only)", &parking_lot, UNCONTENDED),
        uncontended("pthread process-shared", pthread, UNCONTENDED),
        uncontended("pthread robust", robust, UNCONTENDED),
        uncontended("sem_t", semaphore, UNCONTENDED),
        uncontended("flock (fs2)", &flock, UNCONTENDED / 100),
    ];
    compare_times(rounds, OURS, &arguments.pick(OURS, peers));

    fn contend<'a>(arena: &'a Arena<Board>, pace: Pace, shared: impl Shared + 'a) -> Box<dyn Fn() -> Run + 'a> {
        Box::new(move || exclusive::<false, _>(arena, &arena.board().guarded, &shared, pace).expect("a run"))
    }
    for processes in [2, 8] {
        println!("{processes} processes, short work inside and outside: median of {rounds} rounds of {time:?} in turn");
        let pace = Pace { processes, time, additions: SHORT };
        let contests: Vec<Named<'_, Run>> = vec![
            (OURS, contend(&arena, pace, &mutex)),
            ("pthread process-shared", contend(&arena, pace, pthread)),
            ("pthread robust", contend(&arena, pace, robust)),
            ("sem_t", contend(&arena, pace, semaphore)),
            ("flock (fs2)", contend(&arena, pace, Opened::new(&file, Flock))),
        ];
        compare_runs(rounds, OURS, &arguments.pick(OURS, contests));
    }
}
