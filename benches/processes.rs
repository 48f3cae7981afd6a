//! Contending processes: `cargo bench --bench processes [-- ROUNDS [MILLISECONDS]] [LOCK …]`, where LOCK is part of the name of
//! a lock to be measured beside hostlock (default: all).
//!
//! Every lock in turn, round by round (A B C A B C …), so that a machine that changes its speed changes it for all of them.
//! Each process adds up a little inside the lock and a little outside; what it counted inside must add up in the end.

mod peers;

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use peers::{BareCas, Flock, Hostlock, Lock, ParkingLot, Pthread, Semaphore, Std, median};

const PROCESSES: [usize; 2] = [2, 8];
const ADDITIONS: u32 = 64;
const UNCONTENDED: u64 = 300_000;

/// What the processes of one run share.
#[repr(C)]
struct Board {
    ready: AtomicU32,
    start: AtomicBool,
    stop: AtomicBool,
    /// Only touched under the lock under test.
    guarded: AtomicU64,
    counts: [AtomicU64; 64],
    pthread: std::mem::MaybeUninit<Pthread>,
    robust: std::mem::MaybeUninit<Pthread>,
    semaphore: std::mem::MaybeUninit<Semaphore>,
}

struct Shared(memmap2::MmapRaw);

impl Shared {
    fn new() -> Self {
        let file = tempfile::tempfile().expect("a temporary file");
        file.set_len(size_of::<Board>() as u64).expect("its length");
        let shared = Self(memmap2::MmapRaw::map_raw(&file).expect("a shared mapping"));
        let board: *mut Board = shared.0.as_mut_ptr().cast();
        // SAFETY: the mapping is large enough, page-aligned and zeroed, and lives as long as the program runs.
        unsafe {
            Pthread::init((&raw mut (*board).pthread).cast(), false);
            Pthread::init((&raw mut (*board).robust).cast(), true);
            Semaphore::init((&raw mut (*board).semaphore).cast());
        }
        shared
    }

    fn board(&self) -> &Board {
        // SAFETY: as in `new`; zero is a value of every field, and all that changes is atomic or a lock.
        unsafe { &*self.0.as_ptr().cast::<Board>() }
    }
}

/// A little work that the compiler can neither leave out nor do at once.
fn work(seed: u64) -> u64 {
    (0..ADDITIONS).fold(seed, |sum, i| std::hint::black_box(sum.wrapping_add(i.into())))
}

fn contend<L: Lock>(lock: &L, board: &Board, me: usize) {
    board.ready.fetch_add(1, SeqCst);
    while !board.start.load(SeqCst) {
        std::thread::yield_now();
    }
    let (mut count, mut sum) = (0, 0);
    while !board.stop.load(Relaxed) {
        lock.with(|| {
            board.guarded.store(board.guarded.load(Relaxed) + 1, Relaxed);
            sum = work(sum);
        });
        count += 1;
        sum = work(sum);
    }
    std::hint::black_box(sum);
    board.counts[me].store(count, SeqCst);
}

/// Acquisitions per second by all processes together, and the slowest process's share of the fastest's.
fn measure(processes: usize, time: Duration, shared: &Shared, act: impl Fn(&Board, usize)) -> (f64, f64) {
    let board = shared.board();
    board.ready.store(0, SeqCst);
    board.start.store(false, SeqCst);
    board.stop.store(false, SeqCst);
    board.guarded.store(0, SeqCst);
    let children: Vec<_> = (0..processes)
        .map(|me| {
            // SAFETY: this program has one thread.
            match unsafe { fork() }.expect("fork") {
                ForkResult::Parent { child } => child,
                ForkResult::Child => {
                    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
                    act(board, me);
                    // SAFETY: ends this process without running what belongs to the parent.
                    unsafe { libc::_exit(0) }
                }
            }
        })
        .collect();
    while board.ready.load(SeqCst) < processes as u32 {
        std::thread::yield_now();
    }
    let begin = Instant::now();
    board.start.store(true, SeqCst);
    std::thread::sleep(time);
    board.stop.store(true, SeqCst);
    let elapsed = begin.elapsed();
    for child in children {
        assert!(matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0))), "a process failed");
    }
    let counts: Vec<u64> = board.counts[..processes].iter().map(|count| count.load(SeqCst)).collect();
    let total: u64 = counts.iter().sum();
    assert_eq!(board.guarded.load(SeqCst), total, "two were inside at once");
    let slowest = *counts.iter().min().expect("processes") as f64;
    let fastest = *counts.iter().max().expect("processes") as f64;
    (total as f64 / elapsed.as_secs_f64(), slowest / fastest.max(1.0))
}

/// Nanoseconds for one uncontended acquisition and release.
fn alone<L: Lock>(lock: &L, times: u64) -> f64 {
    let begin = Instant::now();
    for _ in 0..times {
        lock.with(|| ());
    }
    begin.elapsed().as_nanos() as f64 / times as f64
}

fn main() {
    let (numbers, wanted): (Vec<String>, Vec<String>) = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .partition(|argument| argument.parse::<u64>().is_ok());
    let mut numbers = numbers.iter().filter_map(|number| number.parse::<u64>().ok());
    let is_wanted = |name: &str| {
        wanted.is_empty()
            || name == "hostlock" && !wanted.iter().any(|w| w == "only")
            || wanted.iter().any(|part| name.contains(part))
    };
    let rounds = numbers.next().unwrap_or(9) as usize;
    let time = Duration::from_millis(numbers.next().unwrap_or(200));

    let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    let space = hostlock::Space::builder("bench").root(root.path()).open().expect("a space");
    let mutex = Hostlock(space.mutex("bench").expect("a mutex"));
    let file = root.path().join("flock");
    File::create(&file).expect("a file");
    let open = || File::options().write(true).open(&file).expect("the file");
    let shared = Shared::new();
    let board = shared.board();
    // SAFETY: `Shared::new` initialised all three, in memory that outlives them.
    let (pthread, robust, semaphore) =
        unsafe { (board.pthread.assume_init_ref(), board.robust.assume_init_ref(), board.semaphore.assume_init_ref()) };

    println!("uncontended, one process: median of {rounds} rounds in turn, ns per acquisition and release");
    let (bare, std, parking_lot, flock) =
        (BareCas(AtomicU64::new(0)), Std(Default::default()), ParkingLot(Default::default()), Flock(open()));
    type Measurement<'a> = (&'static str, Box<dyn Fn() -> f64 + 'a>);
    let mut peers: Vec<Measurement> = vec![
        ("two bare CAS", Box::new(|| alone(&bare, UNCONTENDED))),
        ("hostlock", Box::new(|| alone(&mutex, UNCONTENDED))),
        ("std::sync (one process only)", Box::new(|| alone(&std, UNCONTENDED))),
        ("parking_lot (one process only)", Box::new(|| alone(&parking_lot, UNCONTENDED))),
        ("pthread process-shared", Box::new(|| alone(pthread, UNCONTENDED))),
        ("pthread robust", Box::new(|| alone(robust, UNCONTENDED))),
        ("sem_t", Box::new(|| alone(semaphore, UNCONTENDED))),
        ("flock (fs2)", Box::new(|| alone(&flock, UNCONTENDED / 100))),
    ];
    peers.retain(|(name, _)| is_wanted(name));
    let mut results = vec![Vec::new(); peers.len()];
    for _ in 0..rounds {
        for ((_, measure), results) in peers.iter().zip(&mut results) {
            results.push(measure());
        }
    }
    let ours = peers.iter().position(|(name, _)| *name == "hostlock").expect("always measured");
    let ours_in_rounds = results[ours].clone();
    for ((name, _), results) in peers.iter().zip(&results) {
        let mut ratios: Vec<f64> = ours_in_rounds.iter().zip(results).map(|(ours, peer)| ours / peer).collect();
        let ratio = median(&mut ratios);
        let spread = format!("{:.2}..{:.2}", ratios[0], ratios[ratios.len() - 1]);
        println!("  {name:32} {:8.2} ns   hostlock / it = {ratio:5.2} ({spread})", median(&mut results.clone()));
    }

    type Contest<'a> = (&'static str, Box<dyn Fn(usize) -> (f64, f64) + 'a>);
    let mut contests: Vec<Contest> = vec![
        ("hostlock", Box::new(|n| measure(n, time, &shared, |board, me| contend(&mutex, board, me)))),
        ("pthread process-shared", Box::new(|n| measure(n, time, &shared, |board, me| contend(pthread, board, me)))),
        ("pthread robust", Box::new(|n| measure(n, time, &shared, |board, me| contend(robust, board, me)))),
        ("sem_t", Box::new(|n| measure(n, time, &shared, |board, me| contend(semaphore, board, me)))),
        ("flock (fs2)", Box::new(|n| measure(n, time, &shared, |board, me| contend(&Flock(open()), board, me)))),
    ];
    contests.retain(|(name, _)| is_wanted(name));
    for processes in PROCESSES {
        println!(
            "{processes} processes, {ADDITIONS} additions inside and outside the lock: \
             median of {rounds} rounds of {time:?} in turn"
        );
        let mut results = vec![Vec::new(); contests.len()];
        for _ in 0..rounds {
            for ((_, measure), results) in contests.iter().zip(&mut results) {
                results.push(measure(processes));
            }
        }
        let ours = results[0].clone();
        for ((name, _), results) in contests.iter().zip(&results) {
            let mut ratios: Vec<f64> = ours.iter().zip(results).map(|(ours, peer)| ours.0 / peer.0).collect();
            let mut rates: Vec<f64> = results.iter().map(|(rate, _)| *rate / 1e6).collect();
            let mut shares: Vec<f64> = results.iter().map(|(_, share)| *share).collect();
            let ratio = median(&mut ratios);
            let spread = format!("{:.2}..{:.2}", ratios[0], ratios[ratios.len() - 1]);
            println!(
                "  {name:32} {:8.2} M/s   hostlock / it = {ratio:5.2} ({spread})   slowest / fastest process {:.2}",
                median(&mut rates),
                median(&mut shares)
            );
        }
    }
}
