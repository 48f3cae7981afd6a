//! Processes that run against each other for a while, and what they share.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use super::median;

const ADDITIONS: u32 = 64;

/// What the processes of one run share beside the locks.
#[repr(C)]
struct Control {
    ready: AtomicU32,
    start: AtomicBool,
    stop: AtomicBool,
    counts: [AtomicU64; 64],
}

/// Shared memory with a `T` in it, which begins as zeros.
pub struct Arena<T>(memmap2::MmapRaw, PhantomData<T>);

/// What a run came to.
#[derive(Clone, Copy)]
pub struct Run {
    /// Turns per second by all processes together.
    pub rate: f64,
    /// The slowest process's share of the fastest's turns.
    pub share: f64,
    /// All turns.
    pub turns: u64,
}

const BOARD_AT: usize = size_of::<Control>().next_multiple_of(4096);

impl<T> Arena<T> {
    /// `init` makes of the zeros what they are to be.
    ///
    /// # Safety
    /// After `init` the bytes are a `T`, which may be shared between processes.
    pub unsafe fn new(init: impl FnOnce(*mut T)) -> Self {
        let file = tempfile::tempfile().expect("a temporary file");
        file.set_len((BOARD_AT + size_of::<T>()) as u64).expect("its length");
        let map = memmap2::MmapRaw::map_raw(&file).expect("a shared mapping");
        // SAFETY: inside the mapping.
        init(unsafe { map.as_mut_ptr().add(BOARD_AT) }.cast());
        Self(map, PhantomData)
    }

    pub fn board(&self) -> &T {
        // SAFETY: whoever called `new` vouched for it; a page is aligned for everything; the mapping lives as long as we do.
        unsafe { &*self.0.as_ptr().add(BOARD_AT).cast::<T>() }
    }

    fn control(&self) -> &Control {
        // SAFETY: zero is a value of every field, and all of it is atomic.
        unsafe { &*self.0.as_ptr().cast::<Control>() }
    }

    /// Lets so many processes take turns for `time`. `turn` is given a number that it changes with its work, and the number of the turn.
    pub fn run(&self, processes: usize, time: Duration, turn: impl Fn(&mut u64, u64)) -> Run {
        let control = self.control();
        control.ready.store(0, SeqCst);
        control.start.store(false, SeqCst);
        control.stop.store(false, SeqCst);
        let children: Vec<_> = (0..processes)
            .map(|me| {
                // SAFETY: this program has one thread.
                match unsafe { fork() }.expect("fork") {
                    ForkResult::Parent { child } => child,
                    ForkResult::Child => {
                        let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
                        control.take_turns(me, &turn);
                        // SAFETY: ends this process without running what belongs to the parent.
                        unsafe { libc::_exit(0) }
                    }
                }
            })
            .collect();
        while control.ready.load(SeqCst) < processes as u32 {
            std::thread::yield_now();
        }
        let begin = Instant::now();
        control.start.store(true, SeqCst);
        std::thread::sleep(time);
        control.stop.store(true, SeqCst);
        let elapsed = begin.elapsed();
        for child in children {
            assert!(matches!(waitpid(child, None), Ok(WaitStatus::Exited(_, 0))), "a process failed");
        }
        let counts: Vec<u64> = control.counts[..processes].iter().map(|count| count.load(SeqCst)).collect();
        let turns: u64 = counts.iter().sum();
        let slowest = *counts.iter().min().expect("processes") as f64;
        let fastest = *counts.iter().max().expect("processes") as f64;
        Run { rate: turns as f64 / elapsed.as_secs_f64(), share: slowest / fastest.max(1.0), turns }
    }
}

impl Control {
    fn take_turns(&self, me: usize, turn: impl Fn(&mut u64, u64)) {
        self.ready.fetch_add(1, SeqCst);
        while !self.start.load(SeqCst) {
            std::thread::yield_now();
        }
        let (mut count, mut sum) = (0, me as u64);
        while !self.stop.load(Relaxed) {
            turn(&mut sum, count);
            count += 1;
        }
        std::hint::black_box(sum);
        self.counts[me].store(count, SeqCst);
    }
}

/// A little work that the compiler can neither leave out nor do at once.
pub fn work(sum: &mut u64) {
    *sum = (0..ADDITIONS).fold(*sum, |sum, i| std::hint::black_box(sum.wrapping_add(i.into())));
}

/// What is measured, by its name.
pub type Named<'a, T> = (&'static str, Box<dyn Fn() -> T + 'a>);

/// Nanoseconds for one `turn`, of so many.
pub fn alone(times: u64, turn: impl Fn()) -> f64 {
    let begin = Instant::now();
    for _ in 0..times {
        turn();
    }
    begin.elapsed().as_nanos() as f64 / times as f64
}

/// Measures all in turn, round by round (A B C A B C …), so that a machine that changes its speed changes it for all of them.
fn in_turn<T: Copy>(rounds: usize, peers: &[Named<'_, T>]) -> Vec<Vec<T>> {
    let mut results = vec![Vec::new(); peers.len()];
    for _ in 0..rounds {
        for ((_, measure), results) in peers.iter().zip(&mut results) {
            results.push(measure());
        }
    }
    results
}

/// The median of the ratios of each round, and how far they lie apart.
fn ratio(ours: &[f64], theirs: &[f64]) -> String {
    let mut ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, peer)| ours / peer).collect();
    let ratio = median(&mut ratios);
    format!("hostlock / it = {ratio:5.2} ({:.2}..{:.2})", ratios[0], ratios[ratios.len() - 1])
}

/// Measures what takes nanoseconds, and prints it beside the one called `ours`.
pub fn compare_times(rounds: usize, ours: &str, peers: &[Named<'_, f64>]) {
    let results = in_turn(rounds, peers);
    let ours = peers.iter().position(|(name, _)| *name == ours).expect("always measured");
    for ((name, _), theirs) in peers.iter().zip(&results) {
        println!("  {name:36} {:8.2} ns   {}", median(&mut theirs.clone()), ratio(&results[ours], theirs));
    }
}

/// Measures runs, and prints them beside the one called `ours`.
pub fn compare_runs(rounds: usize, ours: &str, peers: &[Named<'_, Run>]) {
    let results = in_turn(rounds, peers);
    let rates: Vec<Vec<f64>> = results.iter().map(|runs| runs.iter().map(|run| run.rate).collect()).collect();
    let ours = peers.iter().position(|(name, _)| *name == ours).expect("always measured");
    for (index, (name, _)) in peers.iter().enumerate() {
        let mut shares: Vec<f64> = results[index].iter().map(|run| run.share).collect();
        println!(
            "  {name:36} {:8.2} M/s   {}   slowest / fastest process {:.2}",
            median(&mut rates[index].clone()) / 1e6,
            ratio(&rates[ours], &rates[index]),
            median(&mut shares)
        );
    }
}

/// The numbers among the program's arguments (rounds, milliseconds), and which peers are wanted.
pub struct Arguments {
    pub rounds: usize,
    pub time: Duration,
    /// The second number, if there is one, for what counts something else than time by it.
    pub second: Option<u64>,
    wanted: Vec<String>,
}

impl Arguments {
    pub fn read() -> Self {
        let (numbers, wanted): (Vec<String>, Vec<String>) = std::env::args()
            .skip(1)
            .filter(|argument| !argument.starts_with('-'))
            .partition(|argument| argument.parse::<u64>().is_ok());
        let mut numbers = numbers.iter().filter_map(|number| number.parse::<u64>().ok());
        let rounds = numbers.next().unwrap_or(9) as usize;
        let second = numbers.next();
        Self { rounds, time: Duration::from_millis(second.unwrap_or(200)), second, wanted }
    }

    /// Leaves out what is not wanted; never ourselves, whom all are compared with.
    pub fn pick<'a, T>(&self, ours: &str, mut peers: Vec<Named<'a, T>>) -> Vec<Named<'a, T>> {
        peers.retain(|(name, _)| {
            self.wanted.is_empty() || *name == ours || self.wanted.iter().any(|part| name.contains(part.as_str()))
        });
        peers
    }
}
