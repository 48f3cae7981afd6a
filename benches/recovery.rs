//! From the SIGKILL of an owner to the sleeper that holds the lock: `cargo bench --bench recovery [-- ROUNDS [MEBIBYTES]] [LOCK …]`. Each lock in turn, round after round. With
//! MEBIBYTES the owner has so much memory in use, which the kernel takes down before it says that the process is dead.

mod common;

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::sync::atomic::Ordering::SeqCst;

use common::arena::Arena;
use common::death::{Meeting, kill_owner, now, some_time};
use common::peers::{Flock, Hostlock, Kind, Lock, OpenFileDescription, Opened, Pthread, Shared, SysV};
use common::{Arguments, Named, median};

const OURS: &str = "hostlock";

#[repr(C)]
struct Board {
    robust: MaybeUninit<Pthread>,
    meeting: Meeting,
}

/// A lock of processes that are in a space as well: the end of such a one takes the kernel longer.
struct BesideSpace<'a, S>(&'a Hostlock, S);

impl<S: Shared> Shared for BesideSpace<'_, S> {
    fn here(&self) -> impl Lock {
        self.0.with(|| ());
        self.1.here()
    }
}

fn main() {
    let arguments = Arguments::read();
    let (rounds, mebibytes) = (arguments.rounds, arguments.second.unwrap_or(0) as usize);
    let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    let space = hostlock::Space::builder("bench").root(root.path()).open().expect("a space");
    let mutex = Hostlock(space.mutex("bench").expect("a mutex"));
    // SAFETY: what is not zero is initialised here, and may be shared.
    let arena: Arena<Board> =
        unsafe { Arena::new(|board: *mut Board| Pthread::init((&raw mut (*board).robust).cast(), Kind::Robust)) };
    let meeting = &arena.board().meeting;
    // SAFETY: initialised above, in memory that outlives it.
    let robust = unsafe { arena.board().robust.assume_init_ref() };
    let sysv = SysV::new(1, 1).expect("a semaphore");

    let seed = &Cell::new(0x2545_F491_4F6C_DD1D_u64);
    fn micros<'a>(
        (name, shared): (&'static str, impl Shared + 'a),
        (meeting, seed, mebibytes): (&'a Meeting, &'a Cell<u64>, usize),
    ) -> Named<'a, f64> {
        let measure = move || {
            let mut next = seed.get();
            let asleep = some_time(&mut next);
            seed.set(next);
            let hold = |until_killed: &dyn Fn()| {
                let mut memory = vec![0u8; mebibytes << 20];
                memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
                shared.here().with(|| {
                    std::hint::black_box(&memory);
                    until_killed();
                });
            };
            let survive = || shared.here().with(|| meeting.time.store(now(), SeqCst));
            kill_owner(meeting, asleep, hold, survive).expect("a survivor") as f64 / 1e3
        };
        (name, Box::new(measure))
    }
    let common = (meeting, seed, mebibytes);
    let locks = vec![
        micros((OURS, &mutex), common),
        micros(("pthread robust", robust), common),
        micros(("flock (fs2)", Opened::new(root.path().join("flock"), Flock)), common),
        micros(("flock, in a space", BesideSpace(&mutex, Opened::new(root.path().join("beside"), Flock))), common),
        micros(("fcntl OFD", Opened::new(root.path().join("ofd"), OpenFileDescription)), common),
        micros(("System V semaphore", &sysv), common),
    ];
    let locks = arguments.pick(OURS, locks);
    println!(
        "SIGKILL of an owner with {mebibytes} MiB in use, to the sleeper holding the lock; {rounds} rounds in turn; microseconds"
    );
    let mut results = common::in_turn(rounds, &locks);
    let ours = median(&mut results[0].clone());
    for ((name, _), results) in locks.iter().zip(&mut results) {
        let middle = median(results);
        let p99 = results[(results.len() * 99).div_ceil(100) - 1];
        println!("  {name:20} median {middle:9.0}   p99 {p99:9.0}   {:.2} x", ours / middle);
    }
    println!("(x: what hostlock takes, as a multiple)");
}
