//! Who shares a cache line with whom: two processes, on locks that lie beside each other or are the same, and on locks far apart.

use std::mem::MaybeUninit;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use hostlock::Space;

use super::Suite;
use super::crowd::text;
use crate::bench::Bench;
use crate::bench::arena::{Arena, Turn};
use crate::bench::ground::Ground;
use crate::bench::measure::{Case, Contest, Measurement, Quantity, Sample, in_turn};
use crate::bench::peers::{BareCas, Kind, Lock, PthreadRw, Pthreads, ReadWrite, Semaphore};
use crate::bench::processors::{self, Pinned};
use crate::exit::Failure;

/// The floor shows what it looks like if there is one line for both.
const PEERS: &[&str] = &["hostlock", "floor", "pthread", "sem_t"];
const READING: &[&str] = &["hostlock", "pthread"];
const PERMIT: &[&str] = &["hostlock", "sem_t"];

const QUANTITIES: &[Quantity] = &[
    Quantity::more("together / apart", "", ["together", "/ apart"]),
    Quantity::more("together", "M/s", ["together", "M/s"]),
    Quantity::more("apart", "M/s", ["apart", "M/s"]),
];

pub(super) const SUITE: Suite = Suite {
    name: "lines",
    about: "two processes that never wait for each other, on two locks beside each other, or as two readers or two owners of permits of one, as a multiple of what they get done with locks far apart: less than 1 if they share what one of them writes to",
    peers: PEERS,
    run,
    goals: |_| Vec::new(),
};

/// How many locks of a kind there are. They lie in the order in which they are made.
const COUNT: usize = 200;
/// Of two that lie far apart.
const APART: [usize; 2] = [0, COUNT - 1];
/// Of two that lie beside each other.
const NEIGHBOURS: [usize; 2] = [COUNT / 2, COUNT / 2 + 1];
/// Of one for both.
const SAME: [usize; 2] = [COUNT / 2; 2];

/// A line of the seats has four of them.
const PERMITS: [u32; 2] = [4, 64];

/// What lies in memory of the processes, beside pthread's mutexes, each of which has its own line.
#[repr(C)]
struct Board {
    words: [BareCas; COUNT],
    read: [MaybeUninit<PthreadRw>; COUNT],
    permits: [MaybeUninit<Semaphore>; COUNT],
}

impl Board {
    fn read(&self, index: usize) -> &PthreadRw {
        // SAFETY: initialised when the arena was made, in memory that outlives it.
        unsafe { self.read[index].assume_init_ref() }
    }

    fn permits(&self, index: usize) -> &Semaphore {
        // SAFETY: as above.
        unsafe { self.permits[index].assume_init_ref() }
    }
}

/// All locks that are used.
struct Locks {
    ours: Result<Space, String>,
    mutexes: Pthreads<COUNT>,
    others: Arena<Board>,
}

impl Locks {
    fn new(ground: &Ground<'_>) -> Self {
        // SAFETY: what is not zero is initialised here, and may be shared.
        let others = unsafe {
            Arena::new(|board: *mut Board| {
                for index in 0..COUNT {
                    PthreadRw::init((&raw mut (*board).read[index]).cast(), false);
                    Semaphore::init((&raw mut (*board).permits[index]).cast(), PERMITS[0]);
                }
            })
        };
        Self { ours: made(ground), mutexes: Pthreads::new(Kind::Plain), others }
    }

    fn space(&self) -> Result<&Space, String> {
        self.ours.as_ref().map_err(String::clone)
    }
}

fn run(bench: &Bench<'_>) -> Result<Vec<Case>, Failure> {
    let locks = Locks::new(&bench.ground);
    let mut cases = vec![neighbours(bench, &locks)?, readers(bench, &locks)?];
    for permits in PERMITS {
        cases.push(owners(bench, &locks, permits)?);
    }
    Ok(cases)
}

fn case(bench: &Bench<'_>, name: String, contest: Contest<'_>) -> Result<Case, Failure> {
    in_turn(bench, (name.clone(), name, 2), QUANTITIES, contest)
}

fn neighbours(bench: &Bench<'_>, locks: &Locks) -> Result<Case, Failure> {
    let (ground, time, places) = (&bench.ground, bench.plan.time, [NEIGHBOURS, APART]);
    let board = locks.others.board();
    let contest = ground.contest(&bench.plan, PEERS, |peer| {
        Ok(match peer {
            "floor" => measured(ground, time, places, |index| {
                let word = &board.words[index];
                || word.with(|| ())
            }),
            "pthread" => measured(ground, time, places, |index| {
                let lock = locks.mutexes.get(index);
                || lock.with(|| ())
            }),
            "sem_t" => measured(ground, time, places, |index| {
                let lock = board.permits(index);
                || lock.with(|| ())
            }),
            _ => {
                let space = locks.space()?;
                measured(ground, time, places, |index| {
                    let lock = space.mutex(&format!("mutex {index}")).expect("a mutex");
                    move || drop(lock.lock().expect("the lock"))
                })
            }
        })
    });
    case(bench, "two mutexes that are neighbours".into(), contest)
}

fn readers(bench: &Bench<'_>, locks: &Locks) -> Result<Case, Failure> {
    let (ground, time, places) = (&bench.ground, bench.plan.time, [SAME, APART]);
    let contest = ground.contest(&bench.plan, READING, |peer| {
        Ok(match peer {
            "pthread" => measured(ground, time, places, |index| {
                let lock = locks.others.board().read(index);
                || lock.read(|| ())
            }),
            _ => {
                let space = locks.space()?;
                measured(ground, time, places, |index| {
                    let lock = space.rwlock(&format!("read {index}")).expect("a read-write lock");
                    move || drop(lock.read().expect("nobody writes"))
                })
            }
        })
    });
    case(bench, "two readers of one lock".into(), contest)
}

fn owners(bench: &Bench<'_>, locks: &Locks, permits: u32) -> Result<Case, Failure> {
    let (ground, time, places) = (&bench.ground, bench.plan.time, [SAME, APART]);
    let contest = ground.contest(&bench.plan, PERMIT, |peer| {
        Ok(match peer {
            "sem_t" => measured(ground, time, places, |index| {
                let lock = locks.others.board().permits(index);
                || lock.with(|| ())
            }),
            _ => {
                let space = locks.space()?;
                measured(ground, time, places, move |index| {
                    let lock = space.semaphore(&format!("permits {permits}, {index}"), permits).expect("a semaphore");
                    move || drop(lock.acquire().expect("a permit"))
                })
            }
        })
    });
    case(bench, format!("two owners of one semaphore's {permits} permits"), contest)
}

/// A space with all the names that are used, in their order.
fn made(ground: &Ground<'_>) -> Result<Space, String> {
    let space = Space::builder("lines").root(ground.directory()).locks(4096).open().map_err(text)?;
    for index in 0..COUNT {
        space.mutex(&format!("mutex {index}")).map_err(text)?;
    }
    for index in [SAME, APART].into_iter().flatten() {
        space.rwlock(&format!("read {index}")).map_err(text)?;
        for permits in PERMITS {
            space.semaphore(&format!("permits {permits}, {index}"), permits).map_err(text)?;
        }
    }
    Ok(space)
}

/// Two processes at the places of the first pair, then at those of the second. Each of them has handles of its own: `take` makes what one does in a turn.
fn measured<'a, A: Fn()>(
    ground: &'a Ground<'_>,
    time: Duration,
    [together, apart]: [[usize; 2]; 2],
    take: impl Fn(usize) -> A + 'a,
) -> Measurement<'a> {
    let (arena, came) = (&ground.arena, &ground.board().meeting.step);
    Box::new(move || {
        let rate = |places: [usize; 2]| {
            came.store(0, SeqCst);
            let run = arena.run(2, time, || {
                let me = came.fetch_add(1, SeqCst) as usize;
                // On one processor there is one cache.
                Pinned::to(me % processors::count()).expect("a processor").keep();
                let act = take(places[me]);
                // Before it is measured: what is made when one first comes by.
                act();
                move |_: &mut Turn| act()
            })?;
            Ok::<_, String>(run.rate / 1e6)
        };
        let (together, apart) = (rate(together)?, rate(apart)?);
        Ok(Sample { values: vec![together / apart, together, apart], ..Sample::default() })
    })
}
