//! Processes that run against each other for a while, and what they share.

use std::fs::File;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::children::Children;

/// How many additions make a short section.
pub const SHORT: u32 = 64;

/// How many processes can run against each other.
pub const MOST_PROCESSES: usize = 128;

/// What the processes of one run share beside the locks.
#[repr(C)]
struct Control {
    ready: AtomicU32,
    start: AtomicBool,
    stop: AtomicBool,
    results: [Outcome; MOST_PROCESSES],
}

/// What one process did.
#[repr(C, align(128))]
struct Outcome {
    turns: AtomicU64,
    /// How many of the cells below are in use.
    cells: AtomicU64,
    /// Waits that took so long, and how many did: a histogram's cells that are not empty.
    waits: [(AtomicU64, AtomicU64); MOST_CELLS],
}

/// Room for all cells of [`histogram`].
const MOST_CELLS: usize = 4096;

/// Shared memory with a `T` in it, which begins as zeros.
pub struct Arena<T>(memmap2::MmapRaw, PhantomData<T>);

/// What a process is given for its turns.
pub struct Turn {
    /// A number that is changed by its work.
    pub sum: u64,
    /// How many turns it had before.
    pub number: u64,
    waits: Histogram<u64>,
}

impl Turn {
    /// Notes that it waited, or that whatever else is of interest took, so long.
    #[inline]
    pub fn took(&mut self, time: Duration) {
        self.waits.saturating_record(time.as_nanos() as u64);
    }
}

/// What a run came to.
#[derive(Clone)]
pub struct Run {
    /// Turns per second by all processes together.
    pub rate: f64,
    /// The slowest process's share of the fastest's turns.
    pub share: f64,
    /// All turns.
    pub turns: u64,
    /// What the processes noted, in nanoseconds.
    pub waits: Histogram<u64>,
}

/// For times from a nanosecond to a minute, each right to a hundredth.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 2).expect("bounds that can be")
}

const BOARD_AT: usize = size_of::<Control>().next_multiple_of(4096);

impl<T> Arena<T> {
    /// `init` makes of the zeros what they are to be.
    ///
    /// # Safety
    /// After `init` the bytes are a `T`, which may be shared between processes.
    pub unsafe fn new(init: impl FnOnce(*mut T)) -> Self {
        let file = File::from(memfd_create("bench", MFdFlags::MFD_CLOEXEC).expect("a file in memory"));
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

    /// Lets so many processes take turns for `time`. Each of them first calls `enter`, for what it does in its turns.
    pub fn run<F: FnMut(&mut Turn)>(
        &self,
        processes: usize,
        time: Duration,
        enter: impl Fn() -> F,
    ) -> Result<Run, String> {
        let control = self.control();
        control.ready.store(0, SeqCst);
        control.start.store(false, SeqCst);
        control.stop.store(false, SeqCst);
        let mut children = Children::default();
        for me in 0..processes {
            children.start(|| control.take_turns(me, enter()))?;
        }
        children.until(|| control.ready.load(SeqCst) == processes as u32)?;
        let begin = Instant::now();
        control.start.store(true, SeqCst);
        std::thread::sleep(time);
        control.stop.store(true, SeqCst);
        let elapsed = begin.elapsed();
        children.finish()?;
        let results = &control.results[..processes];
        let counts: Vec<u64> = results.iter().map(|result| result.turns.load(SeqCst)).collect();
        let turns: u64 = counts.iter().sum();
        let slowest = *counts.iter().min().expect("processes") as f64;
        let fastest = *counts.iter().max().expect("processes") as f64;
        let mut waits = histogram();
        for result in results {
            for (nanos, count) in &result.waits[..result.cells.load(SeqCst) as usize] {
                waits.saturating_record_n(nanos.load(Relaxed), count.load(Relaxed));
            }
        }
        Ok(Run { rate: turns as f64 / elapsed.as_secs_f64(), share: slowest / fastest.max(1.0), turns, waits })
    }
}

impl Control {
    fn take_turns(&self, me: usize, mut act: impl FnMut(&mut Turn)) {
        let mut turn = Turn { sum: me as u64, number: 0, waits: histogram() };
        self.ready.fetch_add(1, SeqCst);
        while !self.start.load(SeqCst) {
            std::thread::yield_now();
        }
        // One at least: on a busy machine the end may come before the beginning.
        loop {
            act(&mut turn);
            turn.number += 1;
            if self.stop.load(Relaxed) {
                break;
            }
        }
        std::hint::black_box(turn.sum);
        let result = &self.results[me];
        result.turns.store(turn.number, SeqCst);
        result.keep(&turn.waits);
    }
}

impl Outcome {
    fn keep(&self, waits: &Histogram<u64>) {
        let cells = waits.iter_recorded().map(|cell| (cell.value_iterated_to(), cell.count_at_value()));
        let mut used = 0;
        for ((nanos, count), (value, times)) in self.waits.iter().zip(cells) {
            nanos.store(value, Relaxed);
            count.store(times, Relaxed);
            used += 1;
        }
        self.cells.store(used, SeqCst);
    }
}

/// A little work that the compiler can neither leave out nor do at once.
pub fn work(sum: &mut u64, additions: u32) {
    *sum = (0..additions).fold(*sum, |sum, i| std::hint::black_box(sum.wrapping_add(i.into())));
}
