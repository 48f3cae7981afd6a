//! How many instructions an acquisition takes with its release, alone: `cargo bench --bench instructions`.
//!
//! Times differ between two runs by more than a change costs. Instructions do not: a process is led through its turns one instruction after the other
//! (ptrace), on the kernel and the processor that there are, and what comes of it is the same number each time. So it is compared with
//! `instructions.txt`, and more than there, by more than a compiler may make of the same, fails.
//!
//! Of the instructions those are told apart that cost most: locked ones (and fences), which wait for everything before them, and system calls. One more fails
//! whatever the compiler.
//!
//! What else there is for the same is counted, too, and only told. A change that is meant writes what it comes to: `-- --write`.

mod common;

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::mem::MaybeUninit;
use std::process::{Command, ExitCode};

use common::children::child;
use common::peers::{
    BareCas, Hostlock, HostlockPermits, HostlockRw, Kind, Lock, ParkingLot, ParkingLotRw, Pthread, PthreadRw,
    ReadWrite, Semaphore, Std, StdRw,
};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid};

/// A multiple of the number of turns for which one of them does something, such as drawing tokens.
const TURNS: u64 = 64;
/// What there is to be made and joined is, after so many.
const BEFORE: u64 = 1000;

/// What a process ends with that may not be traced.
const REFUSED: u8 = 77;

/// A turn that takes more never ends.
const MOST: u64 = 10_000;
/// Nor does one that takes so many seconds.
const PATIENCE: u32 = 300;

/// Of all turns together, or of one.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Count {
    instructions: f64,
    locked: f64,
    calls: f64,
}

impl Count {
    /// What this has more than `other`, for each of so many turns.
    fn over(self, other: Self, turns: u64) -> Self {
        let each = |this: f64, other: f64| (this - other) / turns as f64;
        Self {
            instructions: each(self.instructions, other.instructions),
            locked: each(self.locked, other.locked),
            calls: each(self.calls, other.calls),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace().map(str::parse);
        let mut next = || words.next()?.ok();
        Some(Self { instructions: next()?, locked: next()?, calls: next()? })
    }
}

impl Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { instructions, locked, calls } = self;
        write!(f, "{instructions:8.2} {locked:8.2} {calls:8.2}")
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// A process that is led.

#[derive(Clone, Copy)]
enum Instruction {
    SystemCall,
    Locked,
    Other,
}

/// What the instruction is that these bytes begin with.
#[cfg(target_arch = "x86_64")]
fn instruction(bytes: [u8; 8]) -> Instruction {
    let code = if matches!(bytes[0], 0x40..=0x4F) { &bytes[1..] } else { &bytes[..] };
    match code {
        [0x0F, 0x05, ..] => Instruction::SystemCall,
        // `xchg` with memory needs no prefix to be locked.
        [0x86 | 0x87, operands, ..] if *operands < 0xC0 => Instruction::Locked,
        // Whatever stands before it is a prefix itself.
        [0xF0, ..] | [0x66 | 0xF2 | 0xF3, 0xF0, ..] => Instruction::Locked,
        // `mfence` is as dear.
        [0x0F, 0xAE, 0xF0..=0xF7, ..] => Instruction::Locked,
        _ => Instruction::Other,
    }
}

/// What `process` executes next. `known`: what stood where it was before.
#[cfg(target_arch = "x86_64")]
fn next_instruction(process: Pid, known: &mut HashMap<u64, Instruction>) -> Instruction {
    let at = ptrace::getregs(process).expect("the registers of a stopped process").rip;
    *known.entry(at).or_insert_with(|| {
        let bytes = ptrace::read(process, at as ptrace::AddressType).expect("the code of a stopped process");
        instruction(bytes.to_ne_bytes())
    })
}

// An atomic operation of two instructions that belong together never succeeds when something comes between.
#[cfg(not(target_arch = "x86_64"))]
fn next_instruction(_: Pid, _: &mut HashMap<u64, Instruction>) -> Instruction {
    unreachable!("skipped on this processor")
}

/// In the process that is led: whoever leads it is told.
fn stop() {
    let _ = kill(getpid(), Signal::SIGSTOP);
}

fn stopped(process: Pid) -> Result<Signal, String> {
    match waitpid(process, None).expect("our own child can be waited for") {
        WaitStatus::Stopped(_, signal @ (Signal::SIGTRAP | Signal::SIGSTOP)) => Ok(signal),
        WaitStatus::Exited(_, code) if code == i32::from(REFUSED) => Err("tracing is refused here".into()),
        other => panic!("a process that was led did something else: {other:?}"),
    }
}

/// Leads it to the next place where it stops by itself.
fn lead(process: Pid, most: u64, known: &mut HashMap<u64, Instruction>) -> Count {
    let mut count = Count::default();
    loop {
        match next_instruction(process, known) {
            Instruction::SystemCall => count.calls += 1.0,
            Instruction::Locked => count.locked += 1.0,
            Instruction::Other => {}
        }
        count.instructions += 1.0;
        assert!(count.instructions < most as f64, "it does not come to an end");
        ptrace::step(process, None).expect("a stopped process can be moved");
        if stopped(process) == Ok(Signal::SIGSTOP) {
            return count;
        }
    }
}

/// What one of the turns takes that a process takes, with the loop that they are in.
fn count<F: FnMut()>(prepare: impl FnOnce() -> F) -> Result<Count, String> {
    let process = child(|| {
        if ptrace::traceme().is_err() {
            return REFUSED;
        }
        // SAFETY: no pointers; no handler: it ends this process.
        unsafe { libc::alarm(PATIENCE) };
        let mut turn = prepare();
        for turns in [BEFORE, TURNS, 2 * TURNS] {
            for _ in 0..turns {
                turn();
            }
            stop();
        }
        0
    })?;
    stopped(process)?;
    ptrace::setoptions(process, Options::PTRACE_O_EXITKILL).expect("options");
    let mut known = HashMap::new();
    let once = lead(process, TURNS * MOST, &mut known);
    let twice = lead(process, 2 * TURNS * MOST, &mut known);
    ptrace::cont(process, Signal::SIGKILL).expect("a stopped process can be killed");
    waitpid(process, None).expect("our own child can be waited for");
    Ok(twice.over(once, TURNS))
}

/// Whoever leads and whoever is led never run at once: on one processor each of them is there when it is its turn.
fn stay_on_one_processor() {
    let this = Pid::from_raw(0);
    let mut one = CpuSet::new();
    let is_allowed = |set: &CpuSet, number: &usize| set.is_set(*number).unwrap_or(false);
    if let Ok(all) = sched_getaffinity(this)
        && let Some(number) = (0..CpuSet::count()).find(|number| is_allowed(&all, number))
        && one.set(number).is_ok()
    {
        // It is only slower otherwise.
        let _ = sched_setaffinity(this, &one);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// What is counted.

/// Ours, and what is like it.
struct Counted {
    name: &'static str,
    ours: Count,
    others: Vec<(&'static str, Count)>,
}

fn taken(lock: impl Lock) -> Result<Count, String> {
    count(|| || lock.with(|| ()))
}

fn read(lock: impl ReadWrite) -> Result<Count, String> {
    count(|| || lock.read(|| ()))
}

fn written(lock: impl ReadWrite) -> Result<Count, String> {
    count(|| || lock.write(|| ()))
}

/// Something of the C library in memory of its own, which it stays in until this process ends.
fn placed<T>(init: impl FnOnce(*mut T)) -> &'static T {
    let place = Box::leak(Box::new(MaybeUninit::uninit()));
    init(place.as_mut_ptr());
    // SAFETY: initialised just now.
    unsafe { place.assume_init_ref() }
}

fn counted() -> Result<Vec<Counted>, String> {
    let root = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).map_err(|e| e.to_string())?;
    // Only opened in the process that is led: a handle of its parent's may be worth another way.
    let space = || hostlock::Space::builder("bench").root(root.path()).open().expect("a space");
    let mutex = || space().mutex("mutex").expect("a mutex");
    let rwlock = || HostlockRw(space().rwlock("read-write lock").expect("a read-write lock"));
    let permits = || HostlockPermits(space().semaphore("permits", 4).expect("a semaphore"));
    // SAFETY: they stay where they are.
    let (plain, robust, both, semaphore) = unsafe {
        (
            placed(|place: *mut Pthread| Pthread::init(place, Kind::Plain)),
            placed(|place: *mut Pthread| Pthread::init(place, Kind::Robust)),
            placed(|place: *mut PthreadRw| PthreadRw::init(place, false)),
            placed(|place: *mut Semaphore| Semaphore::init(place, 4)),
        )
    };
    let mut counted = vec![
        Counted {
            name: "mutex",
            ours: count(|| {
                let lock = Hostlock(mutex());
                move || lock.with(|| ())
            })?,
            others: vec![
                ("two bare compare-and-swaps", taken(BareCas::default())?),
                ("std", taken(Std::default())?),
                ("parking_lot", taken(ParkingLot::default())?),
                ("pthread process-shared", taken(plain)?),
                ("pthread robust", taken(robust)?),
            ],
        },
        Counted {
            name: "mutex, tried",
            ours: count(|| {
                let lock = mutex();
                move || drop(lock.try_lock().expect("a free lock"))
            })?,
            others: Vec::new(),
        },
        Counted {
            name: "reading",
            ours: count(|| {
                let lock = rwlock();
                move || lock.read(|| ())
            })?,
            others: vec![
                ("std", read(StdRw::default())?),
                ("parking_lot", read(ParkingLotRw::default())?),
                ("pthread process-shared", read(both)?),
            ],
        },
        Counted {
            // So often that the thread has a line.
            name: "reading much",
            ours: count(|| {
                let lock = rwlock();
                (0..3 * BEFORE).for_each(|_| lock.read(|| ()));
                move || lock.read(|| ())
            })?,
            others: Vec::new(),
        },
        Counted {
            name: "writing",
            ours: count(|| {
                let lock = rwlock();
                move || lock.write(|| ())
            })?,
            others: vec![
                ("std", written(StdRw::default())?),
                ("parking_lot", written(ParkingLotRw::default())?),
                ("pthread process-shared", written(both)?),
            ],
        },
        Counted {
            name: "a permit of 4",
            ours: count(|| {
                let lock = permits();
                move || lock.with(|| ())
            })?,
            others: vec![("sem_t", taken(semaphore)?)],
        },
    ];
    // From here on handles are there before the process is: what it has of them is its parent's. This is also the second place that each is
    // called from, without which the compiler takes the way apart as it does in no program.
    let (mutex, rwlock, permits) = (mutex(), rwlock(), permits());
    counted.extend([
        Counted { name: "mutex, inherited", ours: taken(Hostlock(mutex))?, others: Vec::new() },
        Counted { name: "reading, inherited", ours: read(&rwlock)?, others: Vec::new() },
        Counted { name: "writing, inherited", ours: written(&rwlock)?, others: Vec::new() },
        Counted { name: "a permit, inherited", ours: taken(permits)?, others: Vec::new() },
    ]);
    Ok(counted)
}

// ---------------------------------------------------------------------------------------------------------------------
// What it is to be.

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");

const HEAD: &str = "\
# Instructions of an acquisition and its release, alone; locked ones among them; system calls.
# More fails in `cargo bench --bench instructions`, which writes this if it is told `-- --write`.
";

/// What was counted when the table was written, and by what compiler.
struct Table {
    compiler: String,
    rows: HashMap<String, Count>,
}

impl Table {
    fn read() -> Result<Self, String> {
        let text = std::fs::read_to_string(TABLE).map_err(|e| format!("{TABLE}: {e}"))?;
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let compiler = lines.next().ok_or_else(|| format!("{TABLE} is empty"))?.to_string();
        let row = |line: &str| {
            let (name, numbers) = line.split_once(':')?;
            Some((name.to_string(), Count::parse(numbers)?))
        };
        let rows = lines.map(|line| row(line).ok_or_else(|| format!("{TABLE} has a line that is none: {line:?}")));
        Ok(Self { compiler, rows: rows.collect::<Result<_, _>>()? })
    }

    fn write(compiler: &str, counted: &[Counted]) -> Result<(), String> {
        let mut text = format!("{HEAD}{compiler}\n");
        for Counted { name, ours, .. } in counted {
            text += &format!("{:24} {ours}\n", format!("{name}:"));
        }
        std::fs::write(TABLE, text).map_err(|e| format!("{TABLE}: {e}"))
    }

    /// The most that is as it was: the same source is not the same instructions in every compiler.
    fn most(&self, was: Count, compiler: &str) -> Count {
        let share = if compiler == self.compiler { 0.03 } else { 0.15 };
        // A word's worth of an operation that only some of the turns need.
        let few = 0.01;
        Count {
            instructions: was.instructions + f64::max(2.0, was.instructions * share) + few,
            locked: was.locked + few,
            calls: was.calls + few,
        }
    }
}

fn compiler() -> String {
    let version = Command::new("rustc").arg("--version").output();
    let version = version.ok().and_then(|output| String::from_utf8(output.stdout).ok()).unwrap_or_default();
    match version.trim() {
        "" => "unknown".into(),
        known => known.into(),
    }
}

/// Prints what was counted beside what it was; whether it is no more.
fn compare(table: &Table, compiler: &str, counted: &[Counted]) -> bool {
    if table.compiler != compiler {
        println!("The table is of {}, this is {compiler}: 15 % more are no failure.", table.compiler);
    }
    let mut is_as_it_was = true;
    println!("{:32} {:>8} {:>8} {:>8}", "", "instr.", "locked", "calls");
    for Counted { name, ours, others } in counted {
        println!("{name:32} {ours}");
        match table.rows.get(*name) {
            None => {
                is_as_it_was = false;
                println!("  MISSING in the table");
            }
            Some(was) => {
                let most = table.most(*was, compiler);
                let is_more =
                    ours.instructions > most.instructions || ours.locked > most.locked || ours.calls > most.calls;
                let is_less = ours.instructions < 2.0 * was.instructions - most.instructions
                    || ours.locked < 2.0 * was.locked - most.locked;
                println!("  {:30} {was}{}", "in the table", if is_more { "   MORE THAN THAT" } else { "" });
                if is_less && !is_more {
                    println!("  fewer than in the table: keep it so, by -- --write");
                }
                is_as_it_was &= !is_more;
            }
        }
        for (name, count) in others {
            println!("  {name:30} {count}");
        }
    }
    for name in table.rows.keys().filter(|name| counted.iter().all(|counted| counted.name != *name)) {
        is_as_it_was = false;
        println!("{name}: in the table, and not counted");
    }
    is_as_it_was
}

fn run() -> Result<bool, String> {
    let counted = match counted() {
        Ok(counted) => counted,
        Err(why) => {
            println!("SKIPPED: {why}");
            return Ok(true);
        }
    };
    let compiler = compiler();
    if std::env::args().any(|argument| argument == "--write") {
        Table::write(&compiler, &counted)?;
    }
    Ok(compare(&Table::read()?, &compiler, &counted))
}

fn main() -> ExitCode {
    if !cfg!(target_arch = "x86_64") {
        println!("SKIPPED: on this processor atomic operations cannot be led through one instruction after the other");
        return ExitCode::SUCCESS;
    }
    stay_on_one_processor();
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            println!(
                "\nA way that everybody goes has become longer. If that is meant, say in the commit what it is for, and write the table anew:\n\
                 cargo bench --bench instructions -- --write"
            );
            ExitCode::FAILURE
        }
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}
