//! The mutex, beside others: `cargo bench --bench processes [-- ROUNDS [MILLISECONDS]] [LOCK …]`, where LOCK is part of the name of
//! a lock to be measured beside hostlock (default: all).
//!
//! Each process adds up a little inside the lock and a little outside; what it counted inside must add up in the end.

mod peers;

use std::fs::File;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use peers::arena::{Arena, Arguments, Named, Run, alone, compare_runs, compare_times, work};
use peers::{BareCas, Flock, Hostlock, Lock, ParkingLot, Pthread, Semaphore, Std};

const OURS: &str = "hostlock";
const UNCONTENDED: u64 = 300_000;

#[repr(C)]
struct Board {
    /// Only touched under the lock under test.
    guarded: AtomicU64,
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
            Pthread::init((&raw mut (*board).pthread).cast(), false);
            Pthread::init((&raw mut (*board).robust).cast(), true);
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

    let add = |sum: &mut u64| {
        board.guarded.store(board.guarded.load(Relaxed) + 1, Relaxed);
        work(sum);
    };
    let contend = |processes: usize, turn: &dyn Fn(&mut u64)| {
        board.guarded.store(0, SeqCst);
        let run = arena.run(processes, time, |sum, _| {
            turn(sum);
            work(sum);
        });
        assert_eq!(board.guarded.load(SeqCst), run.turns, "two were inside at once");
        run
    };
    for processes in [2, 8] {
        println!("{processes} processes, short work inside and outside: median of {rounds} rounds of {time:?} in turn");
        // Each process needs a description of its own, and opens it when it first comes by.
        let flock = || -> Run {
            let mine = std::cell::OnceCell::new();
            contend(processes, &|sum| mine.get_or_init(|| Flock(open())).with(|| add(sum)))
        };
        let contests: Vec<Named<'_, Run>> = vec![
            (OURS, Box::new(|| contend(processes, &|sum| mutex.with(|| add(sum))))),
            ("pthread process-shared", Box::new(|| contend(processes, &|sum| pthread.with(|| add(sum))))),
            ("pthread robust", Box::new(|| contend(processes, &|sum| robust.with(|| add(sum))))),
            ("sem_t", Box::new(|| contend(processes, &|sum| semaphore.with(|| add(sum))))),
            ("flock (fs2)", Box::new(flock)),
        ];
        compare_runs(rounds, OURS, &arguments.pick(OURS, contests));
    }
}
