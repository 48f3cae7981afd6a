//! Who has to wait, and for how long: `cargo bench --bench fairness [-- ROUNDS [MILLISECONDS]] [LOCK …]`. Eight processes contend for one lock; of each lock
//! all turns, the slowest process's share of the fastest's, and the tail of the waits. `hostlock, fair` releases by `unlock_fair`.

mod common;

use std::mem::MaybeUninit;

use common::arena::{Arena, Run, SHORT};
use common::peers::{Flock, Hostlock, HostlockFair, Kind, Opened, Pthread, Semaphore, Shared};
use common::turns::{Guarded, Pace, exclusive};
use common::{Arguments, Named, in_turn, median};

const OURS: &str = "hostlock";
const PROCESSES: usize = 8;

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
    let fair = HostlockFair(space.mutex("fair").expect("a mutex"));
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

    fn contend<'a>(arena: &'a Arena<Board>, pace: Pace, shared: impl Shared + 'a) -> Box<dyn Fn() -> Run + 'a> {
        Box::new(move || exclusive::<true, _>(arena, &arena.board().guarded, &shared, pace).expect("a run"))
    }
    let pace = Pace { processes: PROCESSES, time, additions: SHORT };
    let locks: Vec<Named<'_, Run>> = vec![
        (OURS, contend(&arena, pace, &mutex)),
        ("hostlock, fair", contend(&arena, pace, &fair)),
        ("pthread process-shared", contend(&arena, pace, pthread)),
        ("pthread robust", contend(&arena, pace, robust)),
        ("sem_t", contend(&arena, pace, semaphore)),
        ("flock (fs2)", contend(&arena, pace, Opened::new(root.path().join("flock"), Flock))),
    ];
    let locks = arguments.pick(OURS, locks);
    println!("{PROCESSES} processes for {time:?}, medians of {rounds} rounds in turn; waits in microseconds");
    let of = |runs: &[Run], part: &dyn Fn(&Run) -> f64| median(&mut runs.iter().map(part).collect::<Vec<_>>());
    for ((name, _), runs) in locks.iter().zip(&in_turn(rounds, &locks)) {
        println!(
            "  {name:24} {:7.2} M/s   slowest / fastest {:.2}   p99.9 {:10.1}   longest {:10.0}",
            of(runs, &|run| run.rate) / 1e6,
            of(runs, &|run| run.share),
            of(runs, &|run| run.waits.value_at_quantile(0.999) as f64 / 1e3),
            of(runs, &|run| run.waits.max() as f64 / 1e3)
        );
    }
}
