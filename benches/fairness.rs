//! Who has to wait, and for how long: `cargo bench --bench fairness [-- ROUNDS [MILLISECONDS]] [LOCK …]`. Eight processes contend for one lock; of each lock
//! all turns, the slowest process's share of the fastest's, and the tail of the waits. `hostlock, fair` releases by `unlock_fair`.

mod peers;

use std::fs::File;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use peers::arena::{Arena, Arguments, Named, work};
use peers::{Flock, Hostlock, HostlockFair, Lock, Pthread, Semaphore, median};

const OURS: &str = "hostlock";
const PROCESSES: usize = 8;
/// Of a power of two so many.
const STEPS: u64 = 8;
const BUCKETS: usize = 64 * STEPS as usize;

#[repr(C)]
struct Board {
    guarded: AtomicU64,
    pthread: MaybeUninit<Pthread>,
    robust: MaybeUninit<Pthread>,
    semaphore: MaybeUninit<Semaphore>,
    /// How many waits took so long, by all processes.
    waits: [AtomicU64; BUCKETS],
    longest: AtomicU64,
}

#[derive(Clone, Copy)]
struct Fair {
    rate: f64,
    share: f64,
    /// In microseconds.
    p999: f64,
    longest: f64,
}

fn bucket(nanos: u64) -> usize {
    let nanos = nanos.max(STEPS);
    let power = nanos.ilog2() as u64;
    (power * STEPS + (nanos >> (power - 3)) % STEPS) as usize
}

/// The upper end of a bucket.
fn nanos(bucket: usize) -> u64 {
    let (power, step) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    ((STEPS + step + 1) << power) / STEPS
}

fn main() {
    let arguments = Arguments::read();
    let (rounds, time) = (arguments.rounds, arguments.time);
    let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    let space = hostlock::Space::builder("bench").root(root.path()).open().expect("a space");
    let mutex = Hostlock(space.mutex("bench").expect("a mutex"));
    let fair = HostlockFair(space.mutex("fair").expect("a mutex"));
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

    let contend = |turn: &dyn Fn(&dyn Fn())| -> Fair {
        board.guarded.store(0, Relaxed);
        board.longest.store(0, Relaxed);
        board.waits.iter().for_each(|waits| waits.store(0, Relaxed));
        let run = arena.run(PROCESSES, time, |sum, _| {
            let (wanted, inside) = (Instant::now(), std::cell::Cell::new(*sum));
            turn(&|| {
                let waited = wanted.elapsed().as_nanos() as u64;
                let waits = &board.waits[bucket(waited)];
                // Under the lock under test.
                waits.store(waits.load(Relaxed) + 1, Relaxed);
                board.longest.store(board.longest.load(Relaxed).max(waited), Relaxed);
                board.guarded.store(board.guarded.load(Relaxed) + 1, Relaxed);
                let mut sum = inside.get();
                work(&mut sum);
                inside.set(sum);
            });
            *sum = inside.get();
            work(sum);
        });
        assert_eq!(board.guarded.load(Relaxed), run.turns, "two were inside at once");
        let mut left = run.turns / 1000;
        let tail = (0..BUCKETS).rev().find(|&bucket| {
            let waits = board.waits[bucket].load(Relaxed);
            let is_it = waits > left;
            left = left.saturating_sub(waits);
            is_it
        });
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let longest = micros(board.longest.load(Relaxed));
        Fair { rate: run.rate, share: run.share, p999: micros(nanos(tail.unwrap_or(0))), longest }
    };
    let flock = || {
        let mine = std::cell::OnceCell::new();
        contend(&|inside| mine.get_or_init(|| Flock(open())).with(inside))
    };
    let locks: Vec<Named<'_, Fair>> = vec![
        (OURS, Box::new(|| contend(&|inside| mutex.with(inside)))),
        ("hostlock, fair", Box::new(|| contend(&|inside| fair.with(inside)))),
        ("pthread process-shared", Box::new(|| contend(&|inside| pthread.with(inside)))),
        ("pthread robust", Box::new(|| contend(&|inside| robust.with(inside)))),
        ("sem_t", Box::new(|| contend(&|inside| semaphore.with(inside)))),
        ("flock (fs2)", Box::new(flock)),
    ];
    let locks = arguments.pick(OURS, locks);
    println!("{PROCESSES} processes for {time:?}, medians of {rounds} rounds in turn; waits in microseconds");
    let mut results = vec![Vec::new(); locks.len()];
    for _ in 0..rounds {
        for ((_, measure), results) in locks.iter().zip(&mut results) {
            results.push(measure());
        }
    }
    let of = |runs: &[Fair], part: fn(&Fair) -> f64| median(&mut runs.iter().map(part).collect::<Vec<_>>());
    for ((name, _), runs) in locks.iter().zip(&results) {
        println!(
            "  {name:24} {:7.2} M/s   slowest / fastest {:.2}   p99.9 {:10.1}   longest {:10.0}",
            of(runs, |run| run.rate) / 1e6,
            of(runs, |run| run.share),
            of(runs, |run| run.p999),
            of(runs, |run| run.longest)
        );
    }
}
