//! Worker processes that lose nothing, however they die: `cargo run --release --example workers [-- DIRECTORY]`.
//!
//! They hash every file under a directory exactly once. What they share is a few *names*, and some ordinary files:
//!
//! * `state`: what counts ([`State`]), behind a mutex.
//! * `jobs`: a queue of numbers, into which the parent puts one for each file. `fed`: an event that says that all are in.
//! * The files: `paths`, one per line, never changes; to `results` a line is appended for each finished job.
//!
//! With `--backend files` all that is made of lock files, where there are neither data nor queues: what counts lies in a file `journal`, and the
//! next job is the next number ([`Board`]). The rest stays as it is.
//!
//! Meanwhile the parent kills workers (`SIGKILL`, at random, and half the time aimed at whoever holds the lock) and starts others in
//! their place. Four things keep that from doing harm, and they are all there is to it:
//!
//! 1. The lock comes back when its owner dies, and the next owner has to say that what it guards is repaired ([`Acquired::Abandoned`]). Here, that is
//!    a line in `results` that does not count yet, perhaps only half of it.
//! 2. What counts changes by one word ([`Journal`]): whoever is killed before it is written has changed nothing.
//! 3. A job is noted in its worker's place in `state` *before* it leaves the queue; who gets the place finds it there.
//! 4. Every change carries the fencing token of its acquisition, and a smaller one than the last is refused.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use hostlock::bytemuck::{self, Pod, Zeroable};
use hostlock::{Acquired, Backend, Error, Event, Holder, Mutex, MutexDataGuard, MutexGuard, Queue, Space};
use indicatif::{ProgressBar, ProgressStyle};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Hash every file under a directory exactly once, by worker processes that are killed at random, half of the time aiming at
/// whoever holds the lock.
#[derive(Parser, Debug)]
#[command(after_help = "Exit status: 0 if every file was hashed exactly once, 1 if one is missing, doubled or torn.")]
struct Options {
    /// The directory; `.git` and `target` in it are left out.
    #[arg(default_value = env!("CARGO_MANIFEST_DIR"))]
    directory: PathBuf,
    /// How many workers run at a time.
    #[arg(short, long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Kill a worker about every so often (50ms, 1s); 0 to kill none.
    #[arg(short, long, default_value = "50ms", value_parser = duration)]
    kill_every: Duration,
    /// Rest so long over each file, so that there is time for kills [default: about two seconds for all files together, 50ms at
    /// most for each].
    #[arg(long, value_parser = duration)]
    rest: Option<Duration>,
    /// What the space is made of.
    #[arg(long, value_enum, default_value = "segment")]
    backend: Made,
    /// Repeat the kills of an earlier run, as far as that is possible.
    #[arg(long)]
    seed: Option<u64>,
    #[arg(long, hide = true)]
    worker: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Made {
    Segment,
    Files,
}

fn duration(text: &str) -> std::result::Result<Duration, humantime::DurationError> {
    if text == "0" { Ok(Duration::ZERO) } else { humantime::parse_duration(text) }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcome = match options.worker {
        Some(place) => work(&options, place.into()).map(|()| true),
        None => supervise(&options),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("workers: {error}");
            ExitCode::from(2)
        }
    }
}

// ---------------------------------------------------------------------------------------------------------- what they share

const PLACES: usize = 64;
const NO_JOB: u64 = u64::MAX;

/// All that counts.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[bytemuck(crate = "hostlock::bytemuck")]
#[repr(C)]
struct State {
    /// The next job that nobody has begun.
    next: u64,
    finished: u64,
    /// How much of `results` counts.
    committed: u64,
    /// The fencing token this was written with.
    token: u64,
    /// For each worker's place the job it has begun, or [`NO_JOB`].
    begun: [u64; PLACES],
}

/// Two of them, and which one counts. The other one is written, then this word: whenever the writer is killed, one of them is whole.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[bytemuck(crate = "hostlock::bytemuck")]
#[repr(C)]
struct Journal {
    current: u64,
    copies: [State; 2],
}

/// How many jobs the queue has room for.
const ROOM: u32 = 256;

/// What the workers share. Only whoever holds the lock of the state may look at `results`.
struct Shared {
    board: Board,
    results: File,
    /// Of each death that a worker was told of: who died, and when the lock was acquired after it.
    recoveries: File,
}

/// Where the state lies, and the jobs.
enum Board {
    Segment { state: Mutex<Journal>, jobs: Queue<u64>, fed: Event },
    Files { state: Mutex, journal: File },
}

/// The state, held.
struct Held<'a> {
    guard: Guard<'a>,
    state: State,
}

enum Guard<'a> {
    Data(MutexDataGuard<'a, Journal>),
    File(MutexGuard<'a>, &'a File, Journal),
}

impl Guard<'_> {
    fn token(&self) -> u64 {
        match self {
            Self::Data(guard) => guard.token(),
            Self::File(guard, ..) => guard.token(),
        }
    }

    fn journal(&self) -> &Journal {
        match self {
            Self::Data(guard) => guard,
            Self::File(.., journal) => journal,
        }
    }
}

fn read(journal: &File) -> Result<Journal> {
    let mut bytes = [0; size_of::<Journal>()];
    journal.read_exact_at(&mut bytes, 0)?;
    Ok(bytemuck::pod_read_unaligned(&bytes))
}

impl Shared {
    fn open(place: &Path, made: Made) -> Result<Self> {
        let open = |name| File::options().read(true).append(true).create(true).open(place.join(name));
        // In a space of this run's own.
        let space = Space::builder("workers").root(place);
        let state = State { next: 0, finished: 0, committed: 0, token: 0, begun: [NO_JOB; PLACES] };
        let empty = Journal { current: 0, copies: [state; 2] };
        let board = match made {
            Made::Segment => {
                let space = space.open()?;
                Board::Segment {
                    state: space.mutex_with("state", empty)?,
                    jobs: space.queue("jobs", ROOM)?,
                    fed: space.event("fed")?,
                }
            }
            Made::Files => {
                let state = space.backend(Backend::Files).open()?.mutex("state")?;
                let path = place.join("journal");
                let journal = match File::options().read(true).write(true).create_new(true).open(&path) {
                    // The parent's, before there are workers.
                    Ok(new) => new.write_all_at(bytemuck::bytes_of(&empty), 0).map(|()| new)?,
                    Err(_) => File::options().read(true).write(true).open(&path)?,
                };
                Board::Files { state, journal }
            }
        };
        Ok(Self { board, results: open("results")?, recoveries: open("recoveries")? })
    }

    /// The state, repaired first if its last owner died.
    fn state(&self) -> Result<Held<'_>> {
        let (guard, dead) = match &self.board {
            Board::Segment { state, .. } => match state.lock()? {
                Acquired::Clean(guard) => (Guard::Data(guard), None),
                Acquired::Abandoned(guard) => {
                    self.repair(&guard)?;
                    let pid = guard.abandoned().pid.unwrap_or(0);
                    (Guard::Data(guard.repaired()), Some(pid))
                }
            },
            Board::Files { state, journal } => {
                let guard = state.lock()?;
                let dead = guard.abandoned().map(|dead| dead.pid.unwrap_or(0));
                let current = read(journal)?;
                if dead.is_some() {
                    self.repair(&current)?;
                }
                (Guard::File(guard, journal, current), dead)
            }
        };
        if let Some(pid) = dead {
            let line = [u64::from(pid), monotonic(), guard.token()].map(u64::to_ne_bytes);
            (&self.recoveries).write_all(&line.concat())?;
        }
        let journal = guard.journal();
        let state = journal.copies[journal.current as usize];
        Ok(Held { guard, state })
    }

    /// What the dead owner had appended to `results` does not count, for it did not live to write the state that says so.
    fn repair(&self, journal: &Journal) -> Result<()> {
        Ok(self.results.set_len(journal.copies[journal.current as usize].committed)?)
    }

    /// Notes that `job` is begun in that place, unless somebody did who was killed before the job had left the queue.
    fn note(&self, place: usize, job: u64) -> Result<bool> {
        let mut held = self.state()?;
        if job < held.state.next {
            return Ok(false);
        }
        held.state.next = job + 1;
        held.state.begun[place] = job;
        held.commit()?;
        Ok(true)
    }

    /// A job that nobody has begun, noted as begun in that place.
    fn next_job(&self, place: usize, jobs: u64) -> Result<Option<u64>> {
        let Board::Segment { jobs, fed, .. } = &self.board else {
            let mut held = self.state()?;
            let job = held.state.next;
            if job == jobs {
                return Ok(None);
            }
            held.state.next = job + 1;
            held.state.begun[place] = job;
            held.commit()?;
            return Ok(Some(job));
        };
        loop {
            // In this order: what is in the queue now is all there will be.
            let is_fed = fed.is_set()?;
            match jobs.try_pop_with(|job| self.note(place, *job).map(|is_ours| is_ours.then_some(*job))) {
                Ok(noted) => match noted? {
                    Some(job) => return Ok(Some(job)),
                    None => continue,
                },
                Err(Error::QueueEmpty { .. }) if is_fed => return Ok(None),
                Err(Error::QueueEmpty { .. }) => drop(fed.wait_for(Duration::from_millis(1))),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Puts jobs into the queue, as many as fit. How many were begun, at about this moment: what is seen without the lock decides nothing.
    fn feed(&self, so_far: &mut u64, all: u64) -> Result<u64> {
        match &self.board {
            Board::Segment { jobs, fed, .. } => {
                while *so_far < all && jobs.try_push(*so_far).is_ok() {
                    *so_far += 1;
                }
                if *so_far == all && !fed.is_set()? {
                    fed.set()?;
                }
                Ok(*so_far - u64::from(jobs.len()?).min(*so_far))
            }
            Board::Files { journal, .. } => {
                let journal = read(journal)?;
                Ok(journal.copies[journal.current as usize % 2].next.min(all))
            }
        }
    }

    fn holder(&self) -> Result<Option<Holder>> {
        Ok(match &self.board {
            Board::Segment { state, .. } => state.holder()?,
            Board::Files { state, .. } => state.holder()?,
        })
    }
}

impl Held<'_> {
    /// Makes a change count.
    fn commit(mut self) -> Result<()> {
        let (token, state) = (self.guard.token(), &mut self.state);
        // Cannot happen with a lock that nobody takes from the living. It is what makes it safe if one could: leases, say.
        if token < state.token {
            return Err(format!("a later owner was here: {token} < {}", state.token).into());
        }
        state.token = token;
        let other = 1 - self.guard.journal().current;
        match self.guard {
            Guard::Data(mut guard) => {
                guard.copies[other as usize] = *state;
                guard.save()?;
                guard.current = other;
                Ok(guard.unlock()?)
            }
            Guard::File(guard, journal, _) => {
                let copy = size_of::<u64>() + other as usize * size_of::<State>();
                journal.write_all_at(bytemuck::bytes_of(state), copy as u64)?;
                journal.write_all_at(&other.to_ne_bytes(), 0)?;
                Ok(guard.unlock()?)
            }
        }
    }
}

// ------------------------------------------------------------------------------------------------------------------ a worker

fn work(options: &Options, place: usize) -> Result<()> {
    let paths = fs::read_to_string("paths")?;
    let paths: Vec<&str> = paths.lines().collect();
    let rest = options.rest.unwrap_or_default();
    let shared = Shared::open(&std::env::current_dir()?, options.backend)?;
    while let Some(job) = begin_job(&shared, place, paths.len() as u64)? {
        let line = format!("{job} {} {place}\n", hash(&options.directory.join(paths[job as usize])));
        std::thread::sleep(rest);
        finish_job(&shared, place, &line, rest / 10)?;
    }
    Ok(())
}

fn begin_job(shared: &Shared, place: usize, jobs: u64) -> Result<Option<u64>> {
    // Whoever had this place before was killed over that job.
    let begun = shared.state()?.state.begun[place];
    if begun != NO_JOB {
        return Ok(Some(begun));
    }
    shared.next_job(place, jobs)
}

fn finish_job(shared: &Shared, place: usize, line: &str, rest: Duration) -> Result<()> {
    let mut held = shared.state()?;
    // In two halves, as a larger record would be, with time to be killed in between.
    let (one, two) = line.split_at(line.len() / 2);
    (&shared.results).write_all(one.as_bytes())?;
    std::thread::sleep(rest);
    (&shared.results).write_all(two.as_bytes())?;
    held.state.committed += line.len() as u64;
    held.state.finished += 1;
    held.state.begun[place] = NO_JOB;
    held.commit()
}

/// The digest of a file; of one that cannot be read, that.
fn hash(path: &Path) -> String {
    let digest = File::open(path).and_then(|mut file| {
        let (mut hasher, mut buffer) = (Sha256::new(), [0; 1 << 16]);
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
                count => hasher.update(&buffer[..count]),
            }
        }
    });
    digest.unwrap_or_else(|_| "unreadable".into())
}

/// `CLOCK_MONOTONIC`, which all processes read alike, in nanoseconds.
fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("this clock exists");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

// ---------------------------------------------------------------------------------------------------------------- the parent

/// What the parent did and saw.
#[derive(Default)]
struct Tally {
    started: usize,
    /// When each killed worker was, by PID. (A PID may come twice; then the later kill counts.)
    kills: HashMap<u64, u64>,
    killed: usize,
}

fn supervise(options: &Options) -> Result<bool> {
    let mut jobs = Vec::new();
    let left_out = list(&options.directory, &options.directory, &mut jobs)
        .map_err(|error| format!("{}: {error}", options.directory.display()))?;
    if left_out > 0 {
        eprintln!("workers: {left_out} files are left out, whose names do not fit a line of text");
    }
    jobs.sort();
    let scratch = tempfile::Builder::new().prefix("hostlock-workers-").tempdir_in(memory())?;
    fs::write(scratch.path().join("paths"), jobs.join("\n"))?;
    let rest = options.rest.unwrap_or_else(|| {
        let all = Duration::from_secs(2) * options.workers.into();
        (all / (jobs.len() as u32).max(1)).min(Duration::from_millis(50))
    });

    // The first who names them makes them.
    let shared = Shared::open(scratch.path(), options.backend)?;
    let first_token = shared.state()?.guard.token();

    let seed = options.seed.unwrap_or_else(monotonic);
    let begin = Instant::now();
    let tally = run_workers(options, rest, scratch.path(), jobs.len() as u64, &shared, Random(seed))?;
    let elapsed = begin.elapsed();

    let Held { guard, state } = shared.state()?;
    let last_token = guard.token();
    drop(guard);
    let results = fs::read_to_string(scratch.path().join("results"))?;
    let recoveries = fs::read(scratch.path().join("recoveries"))?;
    print_table(options, &jobs, &results, &recoveries, &tally, elapsed);
    println!("  tokens         {first_token} to {last_token}, {} acquisitions", last_token - first_token + 1);
    println!("  seed           {seed}");

    let faults = check(&options.directory, &jobs, &results, &state);
    for fault in faults.iter().take(10) {
        eprintln!("workers: {fault}");
    }
    match faults.len() {
        0 => println!("  check          the same as one process alone: nothing missing, doubled or torn"),
        count => eprintln!("workers: {count} faults"),
    }
    Ok(faults.is_empty())
}

/// The running workers, by place. However the parent comes to its end, they come to theirs first.
struct Crew(Vec<Option<Child>>);

impl Drop for Crew {
    fn drop(&mut self) {
        for worker in self.0.iter_mut().flatten() {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

/// Keeps the workers running, and being killed, until all have nothing left to do.
fn run_workers(
    options: &Options,
    rest: Duration,
    scratch: &Path,
    jobs: u64,
    shared: &Shared,
    mut random: Random,
) -> Result<Tally> {
    let bar = ProgressBar::new(jobs).with_style(ProgressStyle::with_template("{wide_bar} {pos}/{len} files, {msg}")?);
    // Ctrl-C is looked for in the loop below, so that nothing is left behind. (Workers start with no signal blocked.)
    let mut interrupts = SigSet::empty();
    interrupts.add(Signal::SIGINT);
    interrupts.add(Signal::SIGTERM);
    interrupts.thread_block()?;
    let interrupted = SignalFd::with_flags(&interrupts, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;

    let mut tally = Tally::default();
    let mut crew = Crew(Vec::new());
    for place in 0..options.workers {
        crew.0.push(Some(start(options, rest, scratch, place)?));
        tally.started += 1;
    }
    let (mut pause, mut begun_then, mut fed) = (options.kill_every, 0, 0);
    let mut next_kill = Instant::now() + pause;
    while crew.0.iter().any(Option::is_some) {
        std::thread::sleep(Duration::from_millis(1));
        if interrupted.read_signal()?.is_some() {
            return Err("interrupted".into());
        }
        let begun = shared.feed(&mut fed, jobs)?;
        bar.set_position(begun);
        bar.set_message(format!("{} killed", tally.killed));

        if !options.kill_every.is_zero() && Instant::now() >= next_kill {
            // Files that take longer than a worker lives would never be finished: more patience, until one is.
            pause = if begun == begun_then { pause * 2 } else { options.kill_every };
            begun_then = begun;
            next_kill = Instant::now() + pause.mul_f64(0.5 + random.next_below(1000) as f64 / 1000.0);
            let any = random.next_below(crew.0.len() as u64) as usize;
            let holder = shared.holder()?.filter(|_| random.next_below(2) == 0);
            let holds = |worker: &Option<Child>| match (&holder, worker) {
                (Some(holder), Some(worker)) => worker.id() == holder.pid,
                _ => false,
            };
            let victim = crew.0.iter().position(holds).unwrap_or(any);
            if let Some(victim) = &crew.0[victim] {
                tally.kills.insert(victim.id().into(), monotonic());
                kill(Pid::from_raw(victim.id() as i32), Signal::SIGKILL)?;
                tally.killed += 1;
            }
        }
        for (place, worker) in (0..).zip(&mut crew.0) {
            let Some(status) = worker.as_mut().map(Child::try_wait).transpose()?.flatten() else { continue };
            if let Some(code) = status.code().filter(|code| *code != 0) {
                return Err(format!("a worker gave up with exit status {code}").into());
            }
            // One that was killed has a successor in its place; one that found nothing more to do has none.
            *worker = if status.success() { None } else { Some(start(options, rest, scratch, place)?) };
            tally.started += usize::from(worker.is_some());
        }
    }
    bar.finish_and_clear();
    Ok(tally)
}

fn start(options: &Options, rest: Duration, scratch: &Path, place: u16) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.current_dir(scratch).arg("--worker").arg(place.to_string());
    if options.backend == Made::Files {
        command.args(["--backend", "files"]);
    }
    command.arg("--rest").arg(format!("{}ns", rest.as_nanos())).arg(fs::canonicalize(&options.directory)?);
    // SAFETY: what runs between fork and exec is one system call. A worker must not outlive the one who would miss it.
    unsafe { command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)) };
    Ok(command.spawn()?)
}

/// All regular files under `directory`, relative to `top`; how many had to be left out. Links are not followed, so there is an end.
fn list(top: &Path, directory: &Path, into: &mut Vec<String>) -> io::Result<usize> {
    let mut left_out = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() && entry.file_name() != "target" && entry.file_name() != ".git" {
            left_out += list(top, &path, into)?;
        } else if kind.is_file() {
            match path.strip_prefix(top).ok().and_then(Path::to_str) {
                Some(name) if !name.contains('\n') => into.push(name.into()),
                _ => left_out += 1,
            }
        }
    }
    Ok(left_out)
}

/// A directory in memory, if there is one.
fn memory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.into() } else { std::env::temp_dir() }
}

/// Every way in which the workers' results differ from one process's.
fn check(directory: &Path, jobs: &[String], results: &str, state: &State) -> Vec<String> {
    let mut faults = Vec::new();
    let mut seen = vec![0; jobs.len()];
    for line in results.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let job = fields.first().and_then(|job| job.parse::<usize>().ok()).filter(|job| *job < jobs.len());
        match (job, fields.len()) {
            (Some(job), 3) if fields[1] == hash(&directory.join(&jobs[job])) => seen[job] += 1,
            _ => faults.push(format!("torn, or changed meanwhile: {line:?}")),
        }
    }
    for (job, times) in jobs.iter().zip(seen).filter(|(_, times)| *times != 1) {
        faults.push(if times == 0 { format!("missing: {job}") } else { format!("{times} times: {job}") });
    }
    if (state.finished, state.committed) != (jobs.len() as u64, results.len() as u64) {
        faults.push(format!("the state does not fit the results: {} finished", state.finished));
    }
    faults
}

fn print_table(options: &Options, jobs: &[String], results: &str, recoveries: &[u8], tally: &Tally, elapsed: Duration) {
    let mut latencies: Vec<Duration> = Vec::new();
    let mut told = 0;
    for record in recoveries.chunks_exact(24) {
        let word = |index: usize| u64::from_ne_bytes(record[index * 8..][..8].try_into().expect("eight bytes"));
        told += 1;
        latencies.extend(tally.kills.get(&word(0)).map(|kill| Duration::from_nanos(word(1).saturating_sub(*kill))));
    }
    latencies.sort();
    let places = 0..usize::from(options.workers);
    let jobs_of = |place: usize| results.lines().filter(|line| line.ends_with(&format!(" {place}"))).count();
    println!(
        "  files          {} in {:.2?}, {:.0} per second",
        jobs.len(),
        elapsed,
        jobs.len() as f64 / elapsed.as_secs_f64()
    );
    println!("  workers        {} at a time, {} in all", options.workers, tally.started);
    println!("  jobs by place  {}", places.map(|place| jobs_of(place).to_string()).collect::<Vec<_>>().join(" "));
    println!("  kills          {}, of which {told} hit the holder of the lock", tally.killed);
    match latencies.as_slice() {
        [] => println!("  recoveries     none"),
        [.., last] => println!(
            "  recoveries     {}, from the kill to the next owner: median {:.1?}, longest {last:.1?}",
            latencies.len(),
            latencies[latencies.len() / 2]
        ),
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next_below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % end
    }
}
