//! Who carries on for a process that died: `Space::pass_lifeline`. And giving a lock up as if one had died: `abandon`.

mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use hostlock::{Error, Space};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid, fork};
use support::{hear, say, wait_until};

#[test]
fn role() {
    support::act(&[("parent", parent), ("forking", forking)]);
}

fn small_space(root: &str) -> Space {
    Space::builder("test").root(root).participants(2).open().unwrap()
}

/// Holds "a" and starts a child, with or without its lifeline.
fn parent(arguments: &[String]) {
    let space = small_space(&arguments[0]);
    let guard = space.mutex("a").unwrap().lock_owned().unwrap();
    let mut command = Command::new("sleep");
    command.arg("600").stdin(Stdio::null()).stdout(Stdio::null());
    if arguments[1] == "with" {
        space.pass_lifeline(&mut command).unwrap();
        // Twice is no more than once.
        space.pass_lifeline(&mut command).unwrap();
    }
    #[allow(clippy::zombie_processes)] // The test ends it.
    let child = command.spawn().unwrap();
    space.act_on_behalf_of(child.id(), "sleep").unwrap();
    say(child.id());
    hear();
    if arguments[1] == "with" && arguments.get(2).is_some() {
        // SAFETY: this is what a program does that becomes a daemon; the library has to live with it.
        assert_eq!(unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) }, 0);
    }
    drop((guard, space));
    say("left");
    hear();
}

/// Holds "a", has a lifeline, and forks a child that uses the space by itself.
fn forking(arguments: &[String]) {
    let space = small_space(&arguments[0]);
    let guard = space.mutex("a").unwrap().lock_owned().unwrap();
    space.pass_lifeline(&mut Command::new("true")).unwrap();
    // SAFETY: the child runs only this thread, which is all that it needs.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let other = space.mutex("b").unwrap().lock_owned().unwrap();
            say(std::process::id());
            std::thread::sleep(Duration::from_secs(600));
            drop(other);
        }
        ForkResult::Parent { .. } => {
            std::thread::sleep(Duration::from_secs(600));
        }
    }
    drop(guard);
}

/// A process that is not our child, killed when this goes.
struct Child(Pid);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

fn start(role: &str, root: &tempfile::TempDir, how: &str) -> (support::Actor, Child) {
    let arguments: Vec<&str> = [root.path().to_str().unwrap()].into_iter().chain(how.split(' ')).collect();
    let actor = support::start(role, &arguments);
    let child = Child(Pid::from_raw(actor.hear().parse().unwrap()));
    (actor, child)
}

#[test]
fn whoever_carries_on_for_the_dead_keeps_their_locks_until_it_ends() {
    let root = support::root();
    let (mut parent, child) = start("parent", &root, "with");
    let space = small_space(root.path().to_str().unwrap());
    let mutex = space.mutex("a").unwrap();
    parent.kill();
    for _ in 0..20 {
        let Err(Error::WouldBlock { holder, .. }) = mutex.try_lock() else { panic!("taken from the living") };
        let holder = holder.expect("it is held");
        assert_eq!(holder.pid, parent.process.id());
        assert_eq!(holder.on_behalf_of.unwrap().pid, child.0.as_raw() as u32);
        assert_eq!(space.recover_dead().unwrap(), 0);
    }
    drop(child);
    let guard = mutex.lock().unwrap();
    assert_eq!(guard.abandoned().unwrap().pid, Some(parent.process.id()));
    drop(guard);
    assert_eq!(space.usage().participants, 1);
}

#[test]
fn without_a_lifeline_a_child_keeps_nothing() {
    let root = support::root();
    let (mut parent, child) = start("parent", &root, "without");
    parent.kill();
    let space = small_space(root.path().to_str().unwrap());
    let mutex = space.mutex("a").unwrap();
    let guard = mutex.lock().unwrap();
    assert_eq!(guard.abandoned().unwrap().pid, Some(parent.process.id()));
    kill(child.0, None).expect("the child still runs");
}

#[test]
fn leaving_in_good_order_ends_the_lifeline_for_everybody() {
    let root = support::root();
    let (mut parent, child) = start("parent", &root, "with");
    parent.tell("leave");
    parent.expect("left");
    kill(child.0, None).expect("the child still runs");
    // Both places are free: ours, and one for whoever comes next.
    let space = small_space(root.path().to_str().unwrap());
    assert_eq!(space.mutex("a").unwrap().try_lock().unwrap().abandoned(), None);
    let (_next, _child) = start("parent", &root, "with");
    assert_eq!(space.usage().participants, 2);
}

#[test]
fn a_place_whose_lifeline_could_not_be_ended_is_left_alone_until_it_has() {
    let root = support::root();
    let (mut parent, child) = start("parent", &root, "with closed");
    parent.tell("leave");
    parent.expect("left");
    let raw = support::raw::Raw::open(root.path().join("test"));
    let slots = || raw.participants().into_iter().map(|(slot, ..)| slot).collect::<Vec<_>>();
    assert_eq!(slots(), []);
    // Whoever moved in there would count as alive for as long as that child runs.
    let space = small_space(root.path().to_str().unwrap());
    assert_eq!(slots(), [1]);
    drop(space);
    drop(child);
    wait_until("the place is taken again", || {
        let _space = small_space(root.path().to_str().unwrap());
        slots() == [0]
    });
}

#[test]
fn a_forked_child_that_takes_part_itself_does_not_carry_on_for_its_parent() {
    let root = support::root();
    let (mut parent, child) = start("forking", &root, "");
    parent.kill();
    let space = Space::builder("test").root(root.path()).open();
    // Two places: the child has one, and the dead parent's is cleared for us.
    let space = space.unwrap();
    let mutex = space.mutex("a").unwrap();
    let guard = mutex.try_lock_for(support::PATIENCE).unwrap();
    assert_eq!(guard.abandoned().unwrap().pid, Some(parent.process.id()));
    let holder = space.mutex("b").unwrap().holder().unwrap().expect("the child lives");
    assert_eq!(holder.pid, child.0.as_raw() as u32);
}

#[test]
fn an_abandoned_lock_is_free_and_the_next_is_told_once() {
    let root = support::root();
    let space = support::space(&root);
    let mutex = space.mutex("a").unwrap();
    let first = mutex.lock().unwrap();
    let token = first.token();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let second = mutex.lock().unwrap();
            let told = second.abandoned().expect("told").clone();
            assert!(second.token() > token);
            told
        });
        wait_until("it waits", || space.usage().waiting == 1);
        first.abandon().unwrap();
        let told = waiting.join().unwrap();
        assert_eq!((told.pid, told.token), (Some(std::process::id()), token));
        assert!(told.command.starts_with("lifeline"), "{told:?}");
    });
    assert_eq!(mutex.lock().unwrap().abandoned(), None);
}

#[test]
fn a_forked_child_cannot_abandon_what_its_parent_holds() {
    let root = support::root();
    let space = support::space(&root);
    let mutex = space.mutex("a").unwrap();
    let guard = mutex.lock_owned().unwrap();
    let copy = mutex.clone();
    // SAFETY: the child touches only the guard, and ends without running anything else.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            let refused = matches!(guard.abandon(), Err(Error::Lost { .. }));
            // SAFETY: it ends the child at once, without destructors of the test's.
            unsafe { libc::_exit(if refused { 0 } else { 1 }) }
        }
        ForkResult::Parent { child } => {
            let status = nix::sys::wait::waitpid(child, None).unwrap();
            assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
            assert!(guard.is_held());
            guard.unlock().unwrap();
            assert_eq!(copy.lock().unwrap().abandoned(), None);
        }
    }
}
