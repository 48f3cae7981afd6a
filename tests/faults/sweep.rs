//! Has each call of an operation fail, each in a world of its own, and judges what is left every time.
//!
//! What counts as left behind: a descriptor, a mapping of a file of the space or of a page that is wiped in children, a thread, a file in the
//! space's directory, more than after the same operation with nothing failed. Not a mapping of which the kernel said that it cannot be unmapped.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use hostlock::{LockKind, Result, Space};
use nix::errno::Errno;
use nix::unistd::Pid;

use super::control::{Control, ENDED, READY};
use super::led::{Course, Fault, Led};
use super::operation::{Operation, Other};
use super::scene::{LONG, Made, Scene};
use super::support::root;
use super::trace::Forked;

const ALL: &[Errno] = &[
    Errno::ENOMEM,
    Errno::EINTR,
    Errno::EAGAIN,
    Errno::ENOSPC,
    Errno::EPERM,
    Errno::ENOSYS,
    Errno::EBADF,
    Errno::EMFILE,
    Errno::EACCES,
    Errno::EIO,
];

fn is_long() -> bool {
    std::env::var("HOSTLOCK_FAULTS").is_ok_and(|value| value == "all")
}

/// So many calls fail in every operation; in the quick form, of those after them every other one.
const FIRST: usize = 16;

/// So many operations are swept at the same time: most of the time of each goes by with waiting.
const LANES: usize = 2;

/// How that call is to fail. In the quick form: a signal came, and by turns memory is gone or a filter is in the way. Of long operations, and where words
/// are not mapped, so that each is a call, one of these by turns.
fn ways(made: Made, nth: usize, turn: usize) -> Vec<Errno> {
    if is_long() {
        return ALL.into();
    }
    // Operations begin with the same calls, or have them somewhere: what is left out in one of them is not in the next one.
    if nth > FIRST && nth % 2 == turn % 2 {
        return Vec::new();
    }
    let round = if nth > FIRST { nth / 2 } else { nth };
    let by_turns = [Errno::ENOMEM, Errno::EPERM][round % 2];
    match made == Made::FilesUnmapped || nth > 4 {
        true => vec![[by_turns, Errno::EINTR][round / 2 % 2]],
        false => vec![by_turns, Errno::EINTR],
    }
}

/// After so many an operation is left alone.
const ENOUGH: usize = 8;

/// Whether it is swept there. Creating is the same whether words will be mapped or not; and in the quick form, where each word is a call, only those are
/// swept that go different ways.
fn is_swept(operation: &Operation, made: Made) -> bool {
    const DIFFER: &[&str] = &[
        "open",
        "a new name",
        "first use in a child",
        "lock",
        "unlock",
        "lock after a death",
        "timed read beside a writer",
        "end of writing",
        "acquire",
        "release of permits",
    ];
    made != Made::FilesUnmapped || operation.has_space && (is_long() || DIFFER.contains(&operation.what))
}

/// What a process has that it may leave behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Left {
    descriptors: Vec<PathBuf>,
    /// From where to where, of files of the space.
    mapped: Vec<[u64; 2]>,
    /// Mappings that are wiped in children.
    wiped: usize,
    threads: usize,
    files: Vec<PathBuf>,
}

impl Left {
    fn of(pid: Pid, scene: &Scene) -> Self {
        let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("a living child");
        let ours = scene.root().to_string_lossy().into_owned();
        let range = |line: &str| {
            let (from, to) = line.split_once(' ')?.0.split_once('-')?;
            Some([u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?])
        };
        let mapped = maps.lines().filter(|line| line.contains(&ours)).filter_map(range).collect();
        let is_wiped = |line: &&str| line.starts_with("VmFlags:") && line.contains(" wf");
        let mut files: Vec<_> =
            fs::read_dir(scene.directory()).into_iter().flatten().flatten().map(|it| it.file_name().into()).collect();
        files.sort();
        Self {
            descriptors: descriptors(pid),
            mapped,
            wiped: maps.lines().filter(is_wiped).count(),
            threads: fs::read_dir(format!("/proc/{pid}/task")).expect("a living child").count(),
            files,
        }
    }
}

/// What a process has open.
fn descriptors(pid: Pid) -> Vec<PathBuf> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).expect("a living child").flatten();
    // Other tests of this process remove what they had open when it was copied.
    let name = |path: PathBuf| path.to_string_lossy().trim_end_matches(" (deleted)").into();
    let mut descriptors: Vec<_> = links.filter_map(|link| fs::read_link(link.path()).ok()).map(name).collect();
    descriptors.sort();
    descriptors
}

/// One attempt: how it went, and what was wrong with it.
struct Attempt {
    course: Course,
    first: String,
    left: Left,
}

/// The controls of the processes of a sweep.
#[derive(Clone, Copy)]
pub struct Controls {
    victim: &'static Control,
    other: &'static Control,
    witness: &'static Control,
}

impl Controls {
    pub fn new() -> Self {
        Self { victim: Control::new(), other: Control::new(), witness: Control::new() }
    }
}

/// Sweeps all these, in spaces that are made so.
pub fn sweep(made: Made, tables: &[&[Operation]]) {
    let wanted = std::env::var("HOSTLOCK_FAULTS_OF").unwrap_or_default();
    let is_wanted = |it: &&Operation| it.what.contains(&wanted) && is_swept(it, made);
    let operations: Vec<_> = tables.iter().copied().flatten().filter(is_wanted).collect();
    let next = AtomicUsize::new(0);
    let lane = || {
        let controls = Controls::new();
        let mut problems = Vec::new();
        loop {
            let turn = next.fetch_add(1, Relaxed);
            let Some(operation) = operations.get(turn) else { return Ok(problems) };
            problems.extend(sweep_one(made, operation, turn, controls)?);
        }
    };
    let swept: std::result::Result<Vec<_>, String> = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(lane)).collect();
        // What panicked there panics here.
        let join = |lane: std::thread::ScopedJoinHandle<'_, _>| {
            lane.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        lanes.into_iter().map(join).collect()
    });
    let problems = match swept {
        Ok(problems) => problems.concat(),
        Err(why) => crate::skip!("{why}"),
    };
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

/// `Err`: why nothing can be swept here.
fn sweep_one(
    made: Made,
    operation: &Operation,
    turn: usize,
    controls: Controls,
) -> std::result::Result<Vec<String>, String> {
    let watch = Instant::now();
    let mut problems = Vec::new();
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    let at = |what: &str| format!("{} ({made:?}): {what}", operation.what);
    let clean = match attempt(made, operation, None, controls)? {
        Ok(clean) if clean.first.lines().next() == Some(operation.comes_to) => clean,
        Ok(clean) => return Ok(vec![at(&format!("with nothing failed it came to {}", clean.first))]),
        Err(problem) => return Ok(vec![at(&format!("with nothing failed, {problem}"))]),
    };
    let mut cases = 0;
    'calls: for nth in 1.. {
        for errno in ways(made, nth, turn) {
            let fault = Fault { nth, errno };
            let (failed, found) = match attempt(made, operation, Some(fault), controls)? {
                // There is no such call. It may have waited for others for a shorter time than when nothing failed.
                Ok(attempt) if attempt.course.failed.is_none() && nth > clean.course.calls => break 'calls,
                Ok(attempt) if attempt.course.failed.is_none() => continue,
                Ok(attempt) => {
                    let label = attempt.first.lines().next().unwrap_or_default().to_string();
                    *outcomes.entry(label).or_default() += 1;
                    let found = judge(made, operation, errno, &attempt, &clean);
                    (attempt.course.failed.unwrap_or_default(), found)
                }
                Err(problem) => (String::new(), Some(problem)),
            };
            cases += 1;
            if let Some(found) = found {
                problems.push(at(&format!("call {nth} {failed} {errno:?}: {found}")));
            }
            if problems.len() >= ENOUGH {
                return Ok(problems);
            }
        }
    }
    let outcomes: Vec<_> = outcomes.iter().map(|(outcome, count)| format!("{outcome} {count}")).collect();
    println!(
        "faults: {} ({made:?}): {} calls, {cases} failed; {}; in {:.1} s",
        operation.what,
        clean.course.calls,
        outcomes.join(", "),
        watch.elapsed().as_secs_f64()
    );
    Ok(problems)
}

/// What is wrong with the outcome of an attempt, or with what it left.
fn judge(made: Made, operation: &Operation, errno: Errno, attempt: &Attempt, clean: &Attempt) -> Option<String> {
    let (outcome, sentence) = attempt.first.split_once('\n').unwrap_or((&attempt.first, ""));
    let is_expected = outcome == operation.comes_to;
    let says_what_failed = outcome == "System"
        || sentence.contains(&format!("os error {}", errno as i32))
        || sentence.contains(&format!("{errno:?}"));
    if !is_expected && (operation.always || !(says_what_failed || operation.may.contains(&outcome))) {
        return Some(format!("it came to {outcome}: {sentence}"));
    }
    if outcome != "ok" && !sentence.contains(['/', '"']) && !sentence.contains(" of a:") {
        return Some(format!("it names neither path nor lock: {sentence}"));
    }
    let (mut left, expected) = (attempt.left.clone(), &clean.left);
    if let Some([from, length]) = attempt.course.kept_mapped {
        let end = from + length.next_multiple_of(4096);
        left.mapped.retain(|[start, stop]| *start < from || *stop > end);
        left.wiped = left.wiped.min(expected.wiped);
    }
    // One stays, by which a process that uses lock files knows that it was forked; some come to need it only because something failed.
    if made != Made::Segment && left.wiped <= 1 {
        left.wiped = expected.wiped;
    }
    // The kernel said that it is not open, so it is nobody's to close.
    if errno == Errno::EBADF && attempt.course.failed.as_deref().is_some_and(|call| call.contains("stat")) {
        left.descriptors.truncate(expected.descriptors.len());
    }
    // The one that looks after leases goes by itself after a while.
    left.threads = left.threads.min(expected.threads);
    // Lock files where a segment was refused.
    if operation.may_choose && left.files == [PathBuf::from("files")] {
        (left.wiped, left.files) = (expected.wiped, expected.files.clone());
    }
    // A lock file that nobody needed yet is not there.
    if made != Made::Segment && left.files.iter().all(|file| expected.files.contains(file)) {
        left.files = expected.files.clone();
    }
    (left != *expected).then(|| format!("came to {outcome}; it leaves {left:?}, and not {expected:?}"))
}

/// `Err`: nothing can be led here. `Ok(Err(_))`: what was wrong.
fn attempt(
    made: Made,
    operation: &Operation,
    fault: Option<Fault>,
    controls: Controls,
) -> std::result::Result<std::result::Result<Attempt, String>, String> {
    let root = root();
    let scene = Scene::new(root.path(), made, operation.locks, controls.victim, controls.other);
    let other = match prepare(&scene, operation, controls) {
        Ok(other) => other,
        Err(problem) => return Ok(Err(problem)),
    };
    let led = Led::new(controls.victim, |_| {
        std::panic::set_hook(Box::new(|panic| eprintln!("faults: in the process: {panic}")));
        match std::panic::catch_unwind(|| (operation.body)(&scene)) {
            Ok(Ok(())) => {
                scene.let_threads_let_go();
                scene.say(DONE);
            }
            Ok(Err(error)) => scene.say(&format!("it cannot go on: {error}")),
            Err(_) => scene.say("it panicked"),
        }
    })?;
    Ok(follow(&scene, operation, fault, controls, led, other))
}

/// Makes the space, and has whoever else is to be there come.
fn prepare(scene: &Scene, operation: &Operation, controls: Controls) -> std::result::Result<Option<Forked>, String> {
    if !operation.has_space {
        return Ok(None);
    }
    let mut other = Forked::new(controls.other, |_| {
        let made = scene.make();
        let outcome = made.and_then(|()| match operation.other {
            Other::Nobody => Ok(()),
            Other::Alive(act) | Other::Dead(act) => act(scene),
        });
        if let Err(error) = outcome {
            scene.say(&error.to_string());
        }
    });
    if !controls.other.has_come_to(READY) {
        return Err("nobody is beside it".into());
    }
    if let Some(said) = scene.heard() {
        return Err(format!("nobody is beside it: {said}"));
    }
    if matches!(operation.other, Other::Alive(_)) {
        return Ok(Some(other));
    }
    other.kill();
    Ok(None)
}

/// Follows the process through both attempts to its end.
fn follow(
    scene: &Scene,
    operation: &Operation,
    fault: Option<Fault>,
    controls: Controls,
    mut led: Led,
    other: Option<Forked>,
) -> std::result::Result<Attempt, String> {
    let before = descriptors(led.leader);
    led.go_on()?;
    if let Some(said) = scene.heard() {
        return Err(format!("it does not begin: {said}"));
    }
    let course = led.lead(fault)?;
    let first = scene.heard().unwrap_or_default();
    let and = |what: String| format!("came to {first}; {what}");
    if !first.contains('\n') {
        return Err(first);
    }
    let holds = operation.holds.filter(|_| first.starts_with("ok\n"));
    let is_alone = matches!(operation.other, Other::Nobody);
    look(scene, controls, led.leader, holds, is_alone).map_err(and)?;
    led.go_on()?;
    let second = scene.heard().unwrap_or_default();
    if second.lines().next() != Some(operation.comes_to) {
        return Err(and(format!("and without a fault to {second}")));
    }
    led.go_on()?;
    let end = scene.heard().unwrap_or_default();
    if end != DONE {
        return Err(and(end));
    }
    let mut left = Left::of(led.leader, scene);
    for one in &before {
        let at = left.descriptors.iter().position(|it| it == one);
        left.descriptors.remove(at.ok_or_else(|| and(format!("it closed {one:?}, which is not its own")))?);
    }
    drop(led);
    drop(other);
    let is_refused = operation.may_choose
        && fault.is_some_and(|fault| [Errno::EPERM, Errno::EACCES, Errno::ENOSYS].contains(&fault.errno))
        && matches!(course.failed.as_deref(), Some("futex" | "mmap"));
    witness(scene, controls, &|space| last_look(&space, scene, is_refused))
        .map_err(|e| and(format!("afterwards {e}")))?;
    Ok(Attempt { course, first, left })
}

const DONE: &str = "done";

/// Has another process look at the space.
fn witness(
    scene: &Scene,
    controls: Controls,
    look: &dyn Fn(Space) -> std::result::Result<(), String>,
) -> std::result::Result<(), String> {
    let _witness = Forked::new(controls.witness, |_| {
        let seen = scene.as_it_is().open().map_err(|e| format!("nobody can open it: {e}")).and_then(look);
        scene.say(&seen.err().unwrap_or_default());
    });
    if !controls.witness.has_come_to(ENDED) {
        return Err("whoever looks does not come back".into());
    }
    match scene.heard() {
        Some(said) if said.is_empty() => Ok(()),
        said => Err(said.unwrap_or_else(|| "whoever looks says nothing".into())),
    }
}

/// The operation is over: the process holds that, and nothing else, and waits for nothing.
fn look(
    scene: &Scene,
    controls: Controls,
    process: Pid,
    holds: Option<&str>,
    is_alone: bool,
) -> std::result::Result<(), String> {
    if !scene.is_made() {
        return Ok(());
    }
    let pid = process.as_raw() as u32;
    witness(scene, controls, &|space| {
        let seen = scene.as_it_is().inspect().map_err(|e| format!("nobody can look: {e}"))?;
        for lock in &seen.locks {
            let is_held = lock.holders.iter().any(|holder| holder.pid == pid);
            if is_held != (holds == Some(&lock.name)) {
                return Err(format!("it seems that it does{} hold {:?}", if is_held { "" } else { " not" }, lock.name));
            }
            if lock.waiters.iter().any(|waiter| waiter.process.pid == pid) {
                return Err(format!("it still is noted as waiting for {:?}", lock.name));
            }
            if is_held || is_alone {
                let got = take(&space, &lock.name, lock.kind, Duration::ZERO).map_err(|e| e.to_string());
                if got.is_ok() == is_held {
                    return Err(format!(
                        "{:?} is held by it: {is_held}, and whoever tries it gets: {got:?}",
                        lock.name
                    ));
                }
            }
        }
        Ok(())
    })
}

/// Everybody else is gone: all is free, and nobody is noted.
fn last_look(space: &Space, scene: &Scene, may_be_another: bool) -> std::result::Result<(), String> {
    if space.backend() != scene.made.backend() && !may_be_another {
        return Err(format!("it is made of {}", space.backend()));
    }
    space.recover_dead().map_err(|e| format!("nobody can clean up: {e}"))?;
    let usage = space.usage();
    if usage.participants > 1 || usage.waiting > 0 {
        return Err(format!("somebody is noted that is not there: {usage:?}"));
    }
    let seen =
        Space::builder("space").root(space.path().parent().expect("a root")).inspect().map_err(|e| e.to_string())?;
    for lock in seen.locks {
        if !lock.holders.is_empty() || lock.damage.is_some() {
            return Err(format!("{lock:?}"));
        }
        take(space, &lock.name, lock.kind, LONG).map_err(|e| format!("{:?} is not to be had: {e}", lock.name))?;
    }
    Ok(())
}

/// Takes all of it, and lets go of it.
fn take(space: &Space, name: &str, kind: LockKind, within: Duration) -> Result<()> {
    match kind {
        LockKind::Mutex => space.mutex(name)?.try_lock_for(within).map(drop),
        LockKind::RwLock => space.rwlock(name)?.try_write_for(within).map(drop),
        LockKind::Semaphore => {
            let (_, permits) = space.look_up(name)?.expect("it is there");
            space.semaphore(name, permits)?.try_acquire_many_for(permits, within).map(drop)
        }
        _ => Ok(()),
    }
}
