//! From the SIGKILL of an owner to the sleeper that holds the lock: `cargo bench --bench recovery [-- ROUNDS [MEBIBYTES]] [LOCK …]`. Each lock in turn, round after round. With
//! MEBIBYTES the owner has so much memory in use, which the kernel takes down before it says that the process is dead.

mod peers;

use std::cell::Cell;
use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{ForkResult, Pid, fork};
use peers::arena::{Arena, Arguments, Named};
use peers::{Flock, Hostlock, Lock, Pthread, SysV, median};

const OURS: &str = "hostlock";

#[repr(C)]
struct Board {
    robust: MaybeUninit<Pthread>,
    /// How many of the two are where they should be.
    ready: AtomicU32,
    /// When the survivor had it, in nanoseconds.
    had: AtomicU64,
}

fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// A child that ends with this program, or when it has done that.
fn child(act: impl FnOnce()) -> Pid {
    // SAFETY: this program has one thread.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
            act();
            // SAFETY: ends this process without running what belongs to the parent.
            unsafe { libc::_exit(0) }
        }
    }
}

fn wait_for(ready: &AtomicU32, count: u32) {
    while ready.load(SeqCst) < count {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// One by `fcntl` of the description, which is opened anew by each process.
fn lock_byte(file: &File) {
    // SAFETY: zero is a value of all its fields.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    (lock.l_type, lock.l_len) = (libc::F_WRLCK as libc::c_short, 1);
    // SAFETY: a descriptor that is open, and a pointer that is valid for the call. A signal may interrupt the wait.
    while unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLKW, &raw const lock) } != 0 {}
}

fn main() {
    let arguments = Arguments::read();
    let (rounds, mebibytes) = (arguments.rounds, arguments.second.unwrap_or(0) as usize);
    let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
    let space = hostlock::Space::builder("bench").root(root.path()).open().expect("a space");
    let mutex = Hostlock(space.mutex("bench").expect("a mutex"));
    let file = root.path().join("file");
    File::create(&file).expect("a file");
    let open = || File::options().write(true).open(&file).expect("the file");
    // SAFETY: what is not zero is initialised here, and may be shared.
    let arena: Arena<Board> =
        unsafe { Arena::new(|board: *mut Board| Pthread::init((&raw mut (*board).robust).cast(), true)) };
    let board = arena.board();
    // SAFETY: initialised above, in memory that outlives it.
    let robust = unsafe { board.robust.assume_init_ref() };
    let sysv = SysV::new(1);

    let seed = Cell::new(0x2545_F491_4F6C_DD1D_u64);
    // `turn` takes the lock and calls what it is given while it holds it.
    let measure = |turn: &dyn Fn(&dyn Fn())| -> f64 {
        board.ready.store(0, SeqCst);
        board.had.store(0, SeqCst);
        let owner = child(|| {
            let mut memory = vec![0u8; mebibytes << 20];
            memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
            turn(&|| {
                board.ready.fetch_add(1, SeqCst);
                loop {
                    std::hint::black_box(&memory);
                    std::thread::sleep(Duration::from_secs(60));
                }
            });
        });
        wait_for(&board.ready, 1);
        let survivor = child(|| {
            board.ready.fetch_add(1, SeqCst);
            turn(&|| board.had.store(now(), SeqCst));
        });
        wait_for(&board.ready, 2);
        // It sleeps by then, and its sleeps are long.
        let shuffled = seed.get() ^ seed.get() << 13;
        let shuffled = shuffled ^ shuffled >> 7;
        seed.set(shuffled ^ shuffled << 17);
        std::thread::sleep(Duration::from_millis(200) + Duration::from_micros(seed.get() % 100_000));
        let killed = now();
        kill(owner, Signal::SIGKILL).expect("our own child");
        waitpid(survivor, None).expect("our own child");
        waitpid(owner, None).expect("our own child");
        let had = board.had.load(SeqCst);
        assert!(had > killed, "the lock was had before its owner was killed");
        (had - killed) as f64 / 1e3
    };
    let byte = |had: &dyn Fn()| {
        let file = open();
        lock_byte(&file);
        had();
    };
    let locks: Vec<Named<'_, f64>> = vec![
        (OURS, Box::new(|| measure(&|had| mutex.with(had)))),
        ("pthread robust", Box::new(|| measure(&|had| robust.with_recovered(had)))),
        ("flock (fs2)", Box::new(|| measure(&|had| Flock(open()).with(had)))),
        ("fcntl OFD", Box::new(|| measure(&byte))),
        ("System V semaphore", Box::new(|| measure(&|had| sysv.with(had)))),
    ];
    let locks = arguments.pick(OURS, locks);
    println!(
        "SIGKILL of an owner with {mebibytes} MiB in use, to the sleeper holding the lock; {rounds} rounds in turn; microseconds"
    );
    let mut results = vec![Vec::new(); locks.len()];
    for _ in 0..rounds {
        for ((_, measure), results) in locks.iter().zip(&mut results) {
            results.push(measure());
        }
    }
    let ours = median(&mut results[0].clone());
    for ((name, _), results) in locks.iter().zip(&mut results) {
        let middle = median(results);
        let p99 = results[(results.len() * 99).div_ceil(100) - 1];
        println!("  {name:20} median {middle:9.0}   p99 {p99:9.0}   {:.2} x", ours / middle);
    }
    println!("(x: what hostlock takes, as a multiple)");
}
