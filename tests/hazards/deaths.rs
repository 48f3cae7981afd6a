//! Deaths that the kernel tells of late, or not at all, and who follows.

use std::fs;
use std::num::NonZeroUsize;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use hostlock::{Acquired, Backend, Mutex};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::actor::{Ask, dead_in, start_in, token_in};
use crate::support::{self, PATIENCE, hear, root, say, start, wait_until};
use crate::{or_skip, rounds, skip};

// ---------------------------------------------------------------------------------------------------------------------
// Several who prove the same death.

const HEIRS: usize = 3;

/// What the processes below have in common.
#[derive(Default)]
struct Board {
    /// The round that has begun.
    round: AtomicU32,
    /// How many acquisitions there were.
    acquired: AtomicU32,
    /// How many of them were told of a death.
    told: AtomicU32,
    inside: AtomicU32,
    overlaps: AtomicU32,
}

/// Has children that die with a lock, and others that all find out at once.
pub fn undertaker(arguments: &[String]) {
    let space = support::space(&arguments[0]);
    let mutex = space.mutex("a").unwrap();
    let length = NonZeroUsize::new(size_of::<Board>()).unwrap();
    let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice. It is of the board's size, aligned to a page, zero, which is what a new board is, and
    // never unmapped; its words are atomic.
    let board: &Board = unsafe { mmap_anonymous(None, length, rights, MapFlags::MAP_SHARED).unwrap().cast().as_ref() };
    let heirs: Vec<Pid> = (0..HEIRS).map(|_| child(|| heir(&mutex, board))).collect();
    let all = rounds(300);
    let begin = Instant::now();
    for round in 1..=all {
        let (read, write) = nix::unistd::pipe().unwrap();
        let holder = child(|| {
            let guard = mutex.lock().unwrap();
            nix::unistd::write(&write, &[1]).unwrap();
            loop {
                nix::unistd::pause();
                std::hint::black_box(&guard);
            }
        });
        drop(write);
        assert_eq!(nix::unistd::read(&read, &mut [0]), Ok(1), "the holder holds");
        // Some find it dead when they come, some are asleep by then.
        let asleep = round % 16 == 0;
        if asleep {
            board.round.store(round, SeqCst);
            wait_until("all sleep", || space.usage().waiting == HEIRS);
        }
        kill(holder, Signal::SIGKILL).unwrap();
        waitpid(holder, None).unwrap();
        board.round.store(round, SeqCst);
        wait_until("all have had it", || board.acquired.load(SeqCst) == round * HEIRS as u32);
        assert_eq!(board.told.load(SeqCst), round, "of each death one is told");
        assert_eq!(board.overlaps.load(SeqCst), 0, "two inside at once");
    }
    heirs.into_iter().for_each(|heir| {
        kill(heir, Signal::SIGKILL).unwrap();
        waitpid(heir, None).unwrap();
    });
    say(format!("{all} deaths, each proven by up to {HEIRS} at once, in {:?}", begin.elapsed()));
    say("content");
}

/// Waits for a round to begin, acquires once, and is at hand for the next one.
fn heir(mutex: &Mutex, board: &Board) {
    for round in 1.. {
        while board.round.load(SeqCst) < round {
            std::thread::yield_now();
        }
        let guard = mutex.lock().unwrap();
        board.overlaps.fetch_add(u32::from(board.inside.fetch_add(1, SeqCst) != 0), SeqCst);
        board.told.fetch_add(u32::from(guard.abandoned().is_some()), SeqCst);
        support::chance::work(5_000);
        board.inside.fetch_sub(1, SeqCst);
        if guard.unlock().is_err() {
            board.overlaps.fetch_add(1, SeqCst);
        }
        board.acquired.fetch_add(1, SeqCst);
    }
}

/// A child that dies with us, and does nothing after `act`.
fn child(act: impl FnOnce()) -> Pid {
    // SAFETY: no other thread of this process does anything; the child never returns from here, and ends without running what is ours to run.
    unsafe {
        match Errno::result(libc::fork()).unwrap() {
            0 => {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                act();
                libc::_exit(0)
            }
            child => Pid::from_raw(child),
        }
    }
}

/// H20: `HOSTLOCK_ROUNDS=10000` for as many.
#[test]
fn of_those_who_prove_a_death_one_follows_and_is_told() {
    let root = root();
    let mut undertaker = start("undertaker", &[root.path().to_str().unwrap()]);
    let patience = PATIENCE + Duration::from_millis(20) * rounds(300);
    println!("{}", undertaker.hear_within(patience).expect("an end without a failure"));
    undertaker.expect("content");
    assert!(undertaker.finish());
}

// ---------------------------------------------------------------------------------------------------------------------
// Deaths in which the kernel cannot, or does not, do what it does for robust mutexes.

/// Holds `a`, and has no way to its words any more.
pub fn shut_out(arguments: &[String]) {
    let space = support::space(&arguments[0]);
    let guard = space.mutex("a").unwrap().lock_owned().unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut shut = 0;
    for line in maps.lines().filter(|line| line.ends_with("/test/segment")) {
        let (start, rest) = line.split_once('-').unwrap();
        let end = rest.split(' ').next().unwrap();
        let [start, end] = [start, end].map(|address| usize::from_str_radix(address, 16).unwrap());
        let address = std::ptr::NonNull::new(std::ptr::with_exposed_provenance_mut(start)).unwrap();
        // SAFETY: a mapping of this process, which touches it no more: nobody but this thread does anything, and it ends by a signal.
        unsafe { mprotect(address, end - start, ProtFlags::PROT_NONE).unwrap() };
        shut += 1;
    }
    assert!(shut >= 2, "its words and the page that keeps it in the space: {maps}");
    say(guard.token());
    loop {
        hear();
    }
}

/// H31: where the kernel would have to write to a page for the dead, and cannot.
#[test]
fn a_holder_that_could_not_reach_its_own_lock_is_followed() {
    let root = root();
    let mut next = start_in(root.path(), Backend::Segment);
    let mut holder = start("shut out", &[root.path().to_str().unwrap()]);
    let token: u64 = holder.hear().parse().unwrap();
    let pid = holder.process.id();
    assert_eq!(next.ask("mutex-for a 200"), format!("timed-out {pid}"));
    next.tell("mutex a");
    assert_eq!(next.hear_within(Duration::from_millis(100)), None, "two holders");
    holder.kill();
    let taken = next.hear();
    assert!(token_in(&taken).is_some_and(|taken| taken > token) && dead_in(&taken) == Some(pid), "{taken}");
}

/// A group of processes that may have so much memory; gone when the test is.
struct MemoryGroup {
    path: PathBuf,
    /// The file that says how many were killed for having more.
    kills: &'static str,
}

impl MemoryGroup {
    fn new(bytes: u64) -> Result<Self, String> {
        let groups = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let group_of = |controller: &str| {
            let find = |line: &str| {
                let mut fields = line.splitn(3, ':').skip(1);
                (fields.next()? == controller)
                    .then(|| fields.next().map(|path| path.trim_start_matches('/').to_owned()))
            };
            groups.lines().find_map(find).flatten()
        };
        let name = format!("hostlock-test-{}", std::process::id());
        let old = Path::new("/sys/fs/cgroup/memory");
        let (parent, kills, limits) = if let Some(path) = group_of("memory").filter(|_| old.is_dir()) {
            let parent = Some(old.join(path)).filter(|path| path.is_dir()).unwrap_or(old.into());
            (parent, "memory.oom_control", &["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"])
        } else {
            let parent = Path::new("/sys/fs/cgroup").join(group_of("").ok_or("there are no groups of processes")?);
            (parent, "memory.events", &["memory.max", "memory.swap.max"])
        };
        let path = parent.join(name);
        fs::create_dir(&path).map_err(|error| format!("no group {}: {error}", path.display()))?;
        let group = Self { path, kills };
        let limit = if limits[1] == "memory.swap.max" { 0 } else { bytes };
        fs::write(group.path.join(limits[0]), bytes.to_string())
            .map_err(|error| format!("no group with a limit of memory: {error}"))?;
        // There may be nothing to swap to, and then no such file.
        let _ = fs::write(group.path.join(limits[1]), limit.to_string());
        group.killed().ok_or("nobody says who was killed")?;
        Ok(group)
    }

    fn killed(&self) -> Option<u32> {
        let text = fs::read_to_string(self.path.join(self.kills)).ok()?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let end = Instant::now() + PATIENCE;
        while fs::remove_dir(&self.path).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Holds `a`, and then takes all memory that it can get.
pub fn glutton(arguments: &[String]) {
    if let Err(error) = fs::write(Path::new(&arguments[1]).join("cgroup.procs"), "0") {
        return say(format!("cannot join a group: {error}"));
    }
    let space = support::space(&arguments[0]);
    let guard = space.mutex("a").unwrap().lock_owned().unwrap();
    say(guard.token());
    hear();
    let mut eaten = Vec::new();
    loop {
        eaten.push(vec![1u8; 1 << 20]);
        std::hint::black_box(&eaten);
    }
}

/// H30: the kernel takes the memory of whoever it kills for want of memory before it looks at what that one held.
#[test]
fn a_holder_killed_for_want_of_memory_is_followed() {
    let group = or_skip!(MemoryGroup::new(32 << 20));
    let root = root();
    let mut next = start_in(root.path(), Backend::Segment);
    let mut holder = start("glutton", &[root.path().to_str().unwrap(), group.path.to_str().unwrap()]);
    let said = holder.hear();
    let token: u64 = or_skip!(said.parse().map_err(|_| said));
    next.tell("mutex a");
    assert_eq!(next.hear_within(Duration::from_millis(100)), None, "two holders");
    holder.tell("eat");
    let taken = next.hear();
    assert!(
        token_in(&taken).is_some_and(|taken| taken > token) && dead_in(&taken) == Some(holder.process.id()),
        "{taken}"
    );
    let status = holder.process.wait().unwrap();
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{status:?}");
    assert_eq!(group.killed(), Some(1), "it was something else that killed it");
}

// ---------------------------------------------------------------------------------------------------------------------
// One death after the other.

/// H34: a lock whose owners die one after the other, before any of them put things right, is never past recovery.
#[test]
fn however_many_owners_die_in_a_row_the_next_one_follows() {
    for backend in [Backend::Segment, Backend::Files] {
        let root = root();
        let mut last: Option<(u32, [u64; 3])> = None;
        for _ in 0..6 {
            let mut owner = start_in(root.path(), backend);
            let lines = ["mutex a", "write b", "permits c 1 1"];
            let answers = lines.map(|line| owner.ask(line));
            let tokens = answers.each_ref().map(|answer| token_in(answer).unwrap_or_else(|| panic!("{answer}")));
            for (number, answer) in answers.iter().enumerate() {
                let before = last.map(|(pid, tokens)| (pid, tokens[number]));
                assert_eq!(dead_in(answer), before.map(|(pid, _)| pid), "{answer} to {}", lines[number]);
                assert!(before.is_none_or(|(_, token)| tokens[number] > token), "{answer} to {}", lines[number]);
            }
            last = Some((owner.process.id(), tokens));
            owner.kill();
        }
        let mut owner = start_in(root.path(), backend);
        for dead in [last.map(|(pid, _)| pid), None] {
            for line in ["mutex a", "write b", "permits c 1 1"] {
                assert_eq!(dead_in(&owner.ask(line)), dead, "{line}");
            }
            for name in ["a", "b", "c"] {
                assert_eq!(owner.ask(&format!("release {name}")), "released");
            }
        }
    }
}

/// H34, H77: and of data that nobody called repaired everybody is told, also by the living who did nothing about it.
#[test]
fn data_is_abandoned_until_somebody_repairs_it() {
    let root = root();
    let space = support::space(root.path());
    let data = space.mutex_with::<u64>("data", 7).unwrap();
    for _ in 0..3 {
        let mut owner = start("owner of data", &[root.path().to_str().unwrap()]);
        owner.expect("it is mine");
        owner.kill();
        for _ in 0..3 {
            assert!(matches!(data.lock().unwrap(), Acquired::Abandoned(_)));
        }
    }
    assert_eq!(*data.lock().unwrap().or_repair(|value, _| *value += 1), 8);
    let Acquired::Clean(guard) = data.lock().unwrap() else { panic!("it is repaired") };
    assert_eq!(*guard, 8);
}

pub fn owner_of_data(arguments: &[String]) {
    let data = support::space(&arguments[0]).mutex_with::<u64>("data", 7).unwrap();
    let owned = data.lock().unwrap();
    say("it is mine");
    hear();
    drop(owned);
}
