//! P6: forks, programs started under a lock, and programs that close what they did not open.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use hostlock::{Backend, Error, Mutex};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

use crate::actor::{Ask, dead_in, root, start_in};
use crate::support::{Actor, hear, say, start, wait_until};
use crate::{by_name, name_of, space};

/// Somebody's child, which ends with the test.
struct Orphan(Pid);

impl Drop for Orphan {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

impl Orphan {
    fn of(actor: &Actor) -> Vec<Self> {
        actor.hear().split(' ').map(|pid| Self(Pid::from_raw(pid.parse().unwrap()))).collect()
    }

    fn is_there(&self) -> bool {
        kill(self.0, None).is_ok()
    }
}

fn start_as(role: &str, root: &Path, backend: Backend, what: &str) -> Actor {
    start(role, &[root.to_str().unwrap(), name_of(backend), what])
}

/// A child that ends when `act` returns.
fn child(act: impl FnOnce()) -> Pid {
    // SAFETY: this process has no other thread but the test runner's, which does nothing meanwhile; the child never returns from here.
    match unsafe { nix::unistd::fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            // SAFETY: a number; also a child that hangs ends.
            unsafe { libc::alarm(120) };
            let content = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).is_ok();
            // SAFETY: ends the child without running what is its parent's to run.
            unsafe { libc::_exit(if content { 0 } else { 101 }) }
        }
    }
}

#[track_caller]
fn joins(child: Pid) {
    assert_eq!(waitpid(child, None).unwrap(), WaitStatus::Exited(child, 0));
}

fn holder_pid(mutex: &Mutex) -> u32 {
    match mutex.try_lock() {
        Err(Error::WouldBlock { holder: Some(holder), .. }) => holder.pid,
        other => panic!("{other:?}"),
    }
}

/// Forks while it holds locks, in the way it is told.
pub fn forker(arguments: &[String]) {
    let space = space(&arguments[0], by_name(&arguments[1]));
    let (mutex, lock) = (space.mutex("a").unwrap(), space.rwlock("r").unwrap());
    let semaphore = space.semaphore("s", 2).unwrap();
    let parent = std::process::id();
    match arguments[2].as_str() {
        "drops" => {
            let mut held =
                Some((mutex.lock_owned().unwrap(), lock.read_owned().unwrap(), semaphore.acquire_owned().unwrap()));
            joins(child(|| {
                let (guard, reading, permit) = held.take().unwrap();
                assert!(!guard.is_held() && !reading.is_held() && !permit.is_held());
                let token = guard.token();
                assert!(matches!(guard.unlock(), Err(Error::Lost { token: lost, .. }) if lost == token));
                drop((reading, permit));
                assert_eq!(holder_pid(&mutex), parent);
                assert!(lock.try_write().is_err(), "the parent reads");
                assert!(semaphore.try_acquire_many(2).is_err(), "the parent has one");
                drop(semaphore.try_acquire().unwrap());
            }));
            let (guard, reading, permit) = held.unwrap();
            assert!(guard.is_held() && reading.is_held() && permit.is_held());
            guard.unlock().unwrap();
            reading.unlock().unwrap();
            permit.unlock().unwrap();
        }
        "outlived" => {
            // One that is kept open, and not locked when the child is made, as well.
            drop(mutex.lock().unwrap());
            let before = child(stay);
            std::mem::forget(mutex.lock_owned().unwrap());
            std::mem::forget(lock.read_owned().unwrap());
            std::mem::forget(semaphore.acquire_many_owned(2).unwrap());
            let after = child(stay);
            say(format!("{before} {after}"));
            hear();
        }
        "excludes" => {
            let guard = mutex.lock().unwrap();
            let (read, write) = nix::unistd::pipe().unwrap();
            let (seen, saw) = nix::unistd::pipe().unwrap();
            let other = child(|| {
                assert_eq!(holder_pid(&mutex), parent);
                let guard = mutex.lock().unwrap();
                assert!(guard.abandoned().is_none());
                nix::unistd::write(&write, &[1]).unwrap();
                // Until the parent has seen who holds it.
                nix::unistd::read(&seen, &mut [0]).unwrap();
                guard.unlock().unwrap();
            });
            std::thread::sleep(Duration::from_millis(50));
            let token = guard.token();
            guard.unlock().unwrap();
            nix::unistd::read(&read, &mut [0]).unwrap();
            assert_eq!(holder_pid(&mutex), other.as_raw() as u32);
            nix::unistd::write(&saw, &[1]).unwrap();
            let guard = mutex.lock().unwrap();
            assert!(guard.token() > token + 1);
            joins(other);
        }
        "leaves" => {
            let (read, write) = nix::unistd::pipe().unwrap();
            let child = child(|| {
                let _guard = mutex.lock().unwrap();
                nix::unistd::write(&write, &[1]).unwrap();
                stay();
            });
            nix::unistd::read(&read, &mut [0]).unwrap();
            drop((mutex, lock, semaphore, space));
            say(child);
            hear();
        }
        other => panic!("{other}?"),
    }
    say("content");
    hear();
}

fn stay() {
    // Ends by the alarm, or by the test.
    loop {
        nix::unistd::pause();
    }
}

/// H16.
pub fn a_child_holds_and_releases_nothing_of_its_parents(backend: Backend) {
    let root = root();
    start_as("forker", root.path(), backend, "drops").expect("content");
}

pub fn a_child_and_its_parent_exclude_each_other(backend: Backend) {
    let root = root();
    start_as("forker", root.path(), backend, "excludes").expect("content");
}

/// A space is moved while nobody is in it, and removed names are forgotten: whoever is left has to count.
pub fn a_child_stays_in_the_space_when_its_parent_leaves(backend: Backend) {
    let root = root();
    let parent = start_as("forker", root.path(), backend, "leaves");
    let child = Orphan::of(&parent);
    let builder = || hostlock::Space::builder("test").root(root.path());
    let other = if backend == Backend::Files { Backend::Segment } else { Backend::Files };
    match builder().move_to(other) {
        Err(Error::CannotMove { why, .. }) => assert!(why.contains("in it"), "{why}"),
        other => panic!("{other:?}"),
    }
    let space = builder().open().unwrap();
    assert_eq!(holder_pid(&space.mutex("a").unwrap()), child[0].0.as_raw() as u32);
}

/// H16: the descriptor that leaked into a child.
pub fn a_child_that_outlives_its_parent_keeps_nothing(backend: Backend) {
    let root = root();
    let mut parent = start_as("forker", root.path(), backend, "outlived");
    let children = Orphan::of(&parent);
    let mut other = start_in(root.path(), backend);
    assert_eq!(other.ask("try-mutex a"), format!("would-block {}", parent.pid()));
    let pid = parent.process.id();
    parent.kill();
    assert_eq!(dead_in(&other.ask("mutex-for a 20000")), Some(pid));
    assert_eq!(dead_in(&other.ask("permits s 2 2")), Some(pid));
    other.acquire("write r");
    assert!(children.iter().all(Orphan::is_there), "they should still be there");
}

/// Starts programs while it holds a lock.
pub fn executor(arguments: &[String]) {
    let space = space(&arguments[0], by_name(&arguments[1]));
    let guard = space.mutex("a").unwrap().lock_owned().unwrap();
    let mut command = Command::new("sleep");
    command.arg("600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if arguments[2] == "passes it on" {
        space.pass_lifeline(&mut command).unwrap();
    } else if arguments[2] == "forks" {
        // SAFETY: nothing. It makes std fork instead of spawning.
        unsafe { command.pre_exec(|| Ok(())) };
    }
    let mut program = command.spawn().unwrap();
    say(program.id());
    hear();
    guard.unlock().unwrap();
    let _ = program.wait();
}

pub fn a_program_started_under_the_lock_keeps_nothing(backend: Backend) {
    for how in ["spawns", "forks"] {
        let root = root();
        let mut parent = start_as("executor", root.path(), backend, how);
        let program = Orphan::of(&parent);
        let pid = parent.process.id();
        parent.kill();
        let mut other = start_in(root.path(), backend);
        assert_eq!(dead_in(&other.ask("mutex-for a 20000")), Some(pid), "{how}");
        assert!(program[0].is_there(), "it should still be there");
    }
}

/// `hostlock run` is one that does that.
pub fn a_program_that_the_lock_is_passed_on_to_keeps_it(backend: Backend) {
    let root = root();
    let mut parent = start_as("executor", root.path(), backend, "passes it on");
    let program = Orphan::of(&parent);
    parent.kill();
    let mut other = start_in(root.path(), backend);
    let space = space(root.path(), backend);
    let mutex = space.mutex("a").unwrap();
    assert!(other.ask("mutex-for a 300").starts_with("timed-out"));
    assert!(mutex.holder().unwrap().is_some(), "somebody has it");
    drop(program);
    assert!(dead_in(&other.ask("mutex-for a 20000")).is_some());
}

/// Closes all descriptors while it holds locks, and opens others in their place.
pub fn closer(arguments: &[String]) {
    let space = space(&arguments[0], by_name(&arguments[1]));
    let (one, two) = (space.mutex("a").unwrap().lock_owned().unwrap(), space.mutex("b").unwrap().lock_owned().unwrap());
    // SAFETY: nothing here uses a descriptor of these after that; whoever opened them is what is tested.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    let stranger = Path::new(&arguments[0]).join("stranger");
    let open = || std::fs::File::options().write(true).create(true).truncate(false).open(&stranger).unwrap();
    let strangers: Vec<_> = (0..20).map(|_| open()).collect();
    fs2::FileExt::lock_exclusive(&strangers[0]).unwrap();
    say(one.is_held());
    hear();
    let released = one.unlock();
    say(released.is_ok());
    drop(two);
    // What came in place of our descriptors is left alone.
    assert!(fs2::FileExt::try_lock_exclusive(&open()).is_err(), "the stranger's lock is gone");
    assert!(strangers.iter().all(|file| nix::sys::stat::fstat(file).is_ok()), "a stranger was closed");
    hear();
}

pub fn whoever_closes_all_descriptors_holds_the_lock_or_knows_that_it_does_not(backend: Backend) {
    let root = root();
    let mut closer = start_as("closer", root.path(), backend, "");
    let is_held = closer.hear() == "true";
    let mut other = start_in(root.path(), backend);
    let answer = other.ask("try-mutex a");
    assert_eq!(answer.starts_with("would-block"), is_held, "{answer}");
    if !is_held {
        assert_eq!(dead_in(&answer), Some(closer.process.id()), "{answer}");
        assert_eq!(other.ask("release a"), "released");
    }
    closer.tell("go on");
    assert_eq!(closer.hear(), is_held.to_string());
    closer.tell("end");
    wait_until("it ended", || closer.process.try_wait().unwrap().is_some());
    assert!(closer.finish());
}
