//! A fork never lets the child release, or believe it holds, what the parent holds (P6); the child is a process like any other.
//!
//! Every test is a role: a process that forks itself with the C library's `fork`, or with a raw `clone` that no handler sees. A child
//! runs a closure, whose assertions its parent learns of by the exit status. `H16` and so on are rows of the list of hazards.

mod support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hostlock::{Error, Mutex, Space};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getppid};
use support::raw::Raw;
use support::{PATIENCE, act, hear, root, say, space, start, wait_until};

/// A waiter that is fooled takes the lock at one of its first looks, of which there are half a dozen in this time.
const WHILE: Duration = Duration::from_millis(350);

/// Roles that need nobody else, each of which is a test below.
macro_rules! roles {
    ($($name:ident)*) => {
        #[test]
        fn role() {
            act(&[
                ("onlooker", roles::onlooker),
                ("parent_of_a_waiter", roles::parent_of_a_waiter),
                ("parent_of_an_heir", roles::parent_of_an_heir),
                ("parent_of_programs", roles::parent_of_programs),
                $((stringify!($name), roles::$name),)*
            ]);
        }

        $(
            #[test]
            fn $name() {
                let root = root();
                let mut actor = start(stringify!($name), &[root.path().to_str().unwrap()]);
                loop {
                    let line = actor.hear();
                    match line.split_once(' ') {
                        Some(("cannot", why)) => skip!("{why}"),
                        _ if line == "content" => break,
                        _ => println!("{line}"),
                    }
                }
                assert!(actor.finish());
            }
        )*
    };
}

roles! {
    a_child_does_not_hold_what_its_parent_holds
    dropping_a_guard_in_a_child_releases_nothing
    a_guard_that_tells_of_a_death_does_nothing_in_a_child
    a_child_joins_as_itself_when_it_first_uses_the_space
    a_child_that_opens_the_space_is_in_it_as_itself
    a_child_waits_for_its_parent
    a_child_excludes_its_parent
    a_child_made_by_a_raw_clone_is_not_its_parent
    a_grandchild_is_neither
    a_child_that_uses_nothing_leaves_its_parent_alone
    a_child_unmaps_nothing_of_its_own_that_was_its_parents
    an_exec_beside_a_held_lock_changes_nothing
    a_fork_while_a_thread_opens_and_leaves_does_not_hang_the_child
    a_fork_while_a_thread_locks_does_not_hang_the_child
    a_fork_while_a_thread_sleeps_leaves_its_wait_alone
    a_child_forked_while_spaces_are_created_does_not_keep_them_locked
    a_child_forked_while_the_dead_are_buried_does_not_keep_them_from_being_buried
    a_child_in_a_new_pid_namespace_sees_who_holds
}

// ---------------------------------------------------------------------------------------------------------------------
// Children.

enum How {
    /// The C library's, with handlers.
    Fork,
    /// The system call, without.
    RawClone,
}

/// A child that runs `act`, is content when that returns, and dies with its parent.
fn child(act: impl FnOnce()) -> Pid {
    child_by(How::Fork, || {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
        act();
    })
}

fn child_by(how: How, act: impl FnOnce()) -> Pid {
    // SAFETY: these roles have no other threads but those that a test is about, and the allocator survives a fork. The child never
    // returns from here. All pointers of the raw call are null, which makes it a fork.
    let child = unsafe {
        match how {
            How::Fork => libc::fork(),
            How::RawClone => libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as i32,
        }
    };
    if child != 0 {
        return Pid::from_raw(Errno::result(child).unwrap());
    }
    // Also a child that outlives its parent, and hangs, ends. SAFETY: a number.
    unsafe { libc::alarm(2 * PATIENCE.as_secs() as u32) };
    let content = catch_unwind(AssertUnwindSafe(act)).is_ok();
    // SAFETY: ends the child without running what is its parent's to run.
    unsafe { libc::_exit(if content { 0 } else { 101 }) }
}

/// Waits until the child ended, and wants it content.
#[track_caller]
fn joins(child: Pid) {
    let end = Instant::now() + PATIENCE;
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)).unwrap() {
            WaitStatus::StillAlive if Instant::now() < end => std::thread::sleep(Duration::from_millis(1)),
            WaitStatus::StillAlive => {
                let _ = kill(child, Signal::SIGKILL);
                panic!("a child hangs");
            }
            WaitStatus::Exited(_, 0) => return,
            other => panic!("a child ended as {other:?}"),
        }
    }
}

fn kill_and_reap(child: Pid) {
    kill(child, Signal::SIGKILL).unwrap();
    waitpid(child, None).unwrap();
}

/// A child that does nothing until it is killed.
fn idle_child() -> Pid {
    child(|| {
        loop {
            nix::unistd::pause();
        }
    })
}

#[track_caller]
fn holder_pid(mutex: &Mutex) -> u32 {
    match mutex.try_lock() {
        Err(Error::WouldBlock { holder: Some(holder), .. }) => holder.pid,
        other => panic!("{other:?}"),
    }
}

fn me() -> u32 {
    std::process::id()
}

fn parent() -> u32 {
    getppid().as_raw() as u32
}

/// A line between a parent and its children.
struct Line {
    read: std::os::fd::OwnedFd,
    write: std::os::fd::OwnedFd,
}

impl Line {
    fn new() -> Self {
        let (read, write) = nix::unistd::pipe().unwrap();
        Self { read, write }
    }

    fn say(&self) {
        nix::unistd::write(&self.write, &[1]).unwrap();
    }

    fn hear(&self) {
        assert_eq!(nix::unistd::read(&self.read, &mut [0]), Ok(1));
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// What the forking process plays.

mod roles {
    use super::*;

    /// H17, H37.
    pub fn a_child_does_not_hold_what_its_parent_holds(arguments: &[String]) {
        let space = space(&arguments[0]);
        let (a, b, c) = (space.mutex("a").unwrap(), space.mutex("b").unwrap(), space.mutex("c").unwrap());
        // What a child takes, it takes from its copy.
        let mut guards = Some((a.lock().unwrap(), b.lock_owned().unwrap(), c.lock().unwrap()));
        // Before the child is in the space, and when it is.
        for in_it in [false, true] {
            joins(child(|| {
                if in_it {
                    drop(space.mutex("d").unwrap().lock().unwrap());
                    assert_eq!(space.usage().participants, 2);
                }
                let (guard, owned, kept) = guards.take().unwrap();
                let tokens = (guard.token(), owned.token());
                assert!(!guard.is_held() && !owned.is_held() && !kept.is_held());
                assert!(matches!(guard.unlock(), Err(Error::Lost { token, .. }) if token == tokens.0));
                assert!(matches!(owned.unlock(), Err(Error::Lost { token, .. }) if token == tokens.1));
                assert_eq!([&a, &b, &c].map(holder_pid), [parent(); 3]);
            }));
            let (guard, owned, kept) = guards.as_ref().unwrap();
            assert!(guard.is_held() && owned.is_held() && kept.is_held());
            assert_eq!(space.recover_dead().unwrap(), 1);
        }
        let (guard, owned, kept) = guards.unwrap();
        for released in [guard.unlock(), owned.unlock(), kept.unlock()] {
            released.unwrap();
        }
        assert!(a.lock().unwrap().abandoned().is_none());
        say("content");
    }

    /// H16.
    pub fn dropping_a_guard_in_a_child_releases_nothing(arguments: &[String]) {
        let space = space(&arguments[0]);
        let mutex = space.mutex("a").unwrap();
        let mut guard = Some(mutex.lock().unwrap());
        let mut owned = Some(space.mutex("b").unwrap().lock_owned().unwrap());
        for in_it in [false, true] {
            joins(child(|| {
                if in_it {
                    drop(space.mutex("d").unwrap().lock().unwrap());
                }
                drop((guard.take(), owned.take()));
                assert_eq!(holder_pid(&mutex), parent());
                assert_eq!(holder_pid(&space.mutex("b").unwrap()), parent());
            }));
        }
        assert!(guard.as_ref().unwrap().is_held() && owned.as_ref().unwrap().is_held());
        // Somebody who has no part in this finds the same.
        joins(child(|| assert_eq!(holder_pid(&mutex), parent())));
        guard.unwrap().unlock().unwrap();
        owned.unwrap().unlock().unwrap();
        say("content");
    }

    /// Such a guard has more to do when it is dropped: cleaning up after the dead, which is not for a child to do.
    pub fn a_guard_that_tells_of_a_death_does_nothing_in_a_child(arguments: &[String]) {
        let space = space(&arguments[0]);
        let mutex = space.mutex("a").unwrap();
        let line = Line::new();
        let dead = child(|| {
            std::mem::forget(mutex.lock().unwrap());
            line.say();
            hear();
        });
        line.hear();
        kill_and_reap(dead);
        let mut guard = Some(mutex.lock().unwrap());
        let told = guard.as_ref().unwrap().abandoned().cloned().expect("a death");
        assert_eq!(told.pid, Some(dead.as_raw() as u32));
        // The dead one too: it is cleaned up after when the lock is released.
        let registered = || Raw::open(space.path()).participants();
        let before = registered();
        assert_eq!(before.len(), 2);
        joins(child(|| {
            drop(guard.take());
            assert_eq!(registered(), before, "it joined, or cleaned up");
        }));
        let guard = guard.unwrap();
        assert!(guard.is_held());
        // The mark is still there for the next one.
        assert_eq!(guard.abandoned(), Some(&told));
        guard.unlock().unwrap();
        assert_eq!(registered().len(), 1);
        assert!(mutex.lock().unwrap().abandoned().is_none());
        say("content");
    }

    pub fn a_child_joins_as_itself_when_it_first_uses_the_space(arguments: &[String]) {
        let space = space(&arguments[0]);
        let mutex = space.mutex("a").unwrap();
        let guard = mutex.lock().unwrap();
        let other = space.mutex("b").unwrap();
        let (there, done) = (Line::new(), Line::new());
        let child = child(|| {
            assert_eq!(space.usage().participants, 1, "nothing was used yet");
            let guard = other.lock().unwrap();
            assert!(guard.is_held());
            assert_eq!(space.usage().participants, 2);
            let holder = other.holder().unwrap().expect("us");
            assert_eq!((holder.pid, holder.elsewhere), (me(), false));
            // SAFETY: a number of this thread.
            assert_eq!(holder.thread, Some(unsafe { libc::gettid() } as u32));
            there.say();
            done.hear();
            drop(guard);
        });
        there.hear();
        assert_eq!(space.usage().participants, 2);
        assert_eq!(holder_pid(&other), child.as_raw() as u32);
        done.say();
        joins(child);
        assert!(guard.is_held());
        drop(guard);
        say("content");
    }

    /// With the parent's handles gone, and the space opened again: what the parent has is not found for the child's.
    pub fn a_child_that_opens_the_space_is_in_it_as_itself(arguments: &[String]) {
        let space = space(&arguments[0]);
        let mutex = space.mutex("a").unwrap();
        let guard = mutex.lock().unwrap();
        for dropped in [false, true] {
            let mut parents = Some(space.clone());
            joins(child(|| {
                if dropped {
                    drop(parents.take());
                }
                let again = support::space(&arguments[0]);
                assert_eq!(again.usage().participants, 2);
                assert_eq!(holder_pid(&again.mutex("a").unwrap()), parent());
                let b = again.mutex("b").unwrap();
                let held = b.lock().unwrap();
                assert_eq!(b.holder().unwrap().unwrap().pid, me());
                assert!(held.is_held() && !guard.is_held());
                assert_eq!(again.usage().participants, 2, "one process, one participant");
            }));
            space.recover_dead().unwrap();
        }
        assert!(guard.is_held());
        drop(guard);
        say("content");
    }

    pub fn a_child_waits_for_its_parent(arguments: &[String]) {
        let space = space(&arguments[0]);
        let mutex = space.mutex("a").unwrap();
        let guard = mutex.lock().unwrap();
        let token = guard.token();
        let child = child(|| {
            assert_eq!(holder_pid(&mutex), parent());
            // The same thread, as far as a copy of it can tell: it is no deadlock.
            match mutex.try_lock_for(Duration::from_millis(50)) {
                Err(Error::TimedOut { holder: Some(holder), .. }) => assert_eq!(holder.pid, parent()),
                other => panic!("{other:?}"),
            }
            let mine = mutex.lock().unwrap();
            assert!(mine.token() > token && mine.abandoned().is_none() && !guard.is_held());
            std::mem::forget(mine);
        });
        wait_until("the child sleeps", || space.usage().waiting == 1);
        std::thread::sleep(WHILE);
        assert!(guard.is_held());
        assert_eq!(space.usage().waiting, 1, "two holders");
        guard.unlock().unwrap();
        joins(child);
        // It died holding what it got.
        assert_eq!(mutex.lock().unwrap().abandoned().unwrap().pid, Some(child.as_raw() as u32));
        say("content");
    }

    pub fn a_child_excludes_its_parent(arguments: &[String]) {
        let space = space(&arguments[0]);
        let mutex = space.mutex("a").unwrap();
        let (there, done) = (Line::new(), Line::new());
        let child = child(|| {
            let guard = mutex.lock().unwrap();
            there.say();
            done.hear();
            guard.unlock().unwrap();
        });
        there.hear();
        assert_eq!(holder_pid(&mutex), child.as_raw() as u32);
        assert!(matches!(mutex.try_lock_for(WHILE), Err(Error::TimedOut { .. })));
        done.say();
        assert!(mutex.lock().unwrap().abandoned().is_none());
        joins(child);
        say("content");
    }

    /// No handler runs in such a child, and none ran in its parent.
    pub fn a_child_made_by_a_raw_clone_is_not_its_parent(arguments: &[String]) {
        let space = space(&arguments[0]);
        let mutex = space.mutex("a").unwrap();
        let mut guard = Some(mutex.lock().unwrap());
        for dropped in [false, true] {
            let line = Line::new();
            let child = child_by(How::RawClone, || {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
                assert!(!guard.as_ref().unwrap().is_held());
                if dropped {
                    drop(guard.take());
                } else {
                    assert!(matches!(guard.take().unwrap().unlock(), Err(Error::Lost { .. })));
                }
                assert_eq!(space.usage().participants, 1);
                assert_eq!(holder_pid(&mutex), parent());
                let other = space.mutex("b").unwrap();
                let mine = other.lock().unwrap();
                let holder = other.holder().unwrap().unwrap();
                assert_eq!((holder.pid, holder.thread), (me(), Some(me())));
                assert_eq!(space.usage().participants, 2);
                line.say();
                drop(mine);
                // The parent's, once it lets go.
                drop(mutex.lock().unwrap());
            });
            line.hear();
            wait_until("it sleeps", || space.usage().waiting == 1);
            assert!(guard.as_ref().unwrap().is_held());
            guard.take().unwrap().unlock().unwrap();
            joins(child);
            space.recover_dead().unwrap();
            guard = Some(mutex.lock().unwrap());
        }
        say("content");
    }

    pub fn a_grandchild_is_neither(arguments: &[String]) {
        let space = space(&arguments[0]);
        let (a, b, c) = (space.mutex("a").unwrap(), space.mutex("b").unwrap(), space.mutex("c").unwrap());
        let mut first = Some(a.lock().unwrap());
        let grandparent = me();
        joins(child(|| {
            let mut second = Some(b.lock().unwrap());
            joins(child(|| {
                assert!(!first.as_ref().unwrap().is_held() && !second.as_ref().unwrap().is_held());
                assert_eq!(space.usage().participants, 2);
                let third = c.lock().unwrap();
                assert_eq!(space.usage().participants, 3);
                assert_eq!([&a, &b].map(holder_pid), [grandparent, parent()]);
                drop((first.take(), second.take()));
                assert_eq!([&a, &b].map(holder_pid), [grandparent, parent()]);
                assert_eq!(c.holder().unwrap().unwrap().pid, me());
                third.unlock().unwrap();
            }));
            second.unwrap().unlock().unwrap();
            // From a child that never was in it.
            joins(child(|| joins(child(|| assert_eq!(holder_pid(&a), grandparent)))));
        }));
        first.unwrap().unlock().unwrap();
        say("content");
    }

    /// Also as a crash would: a child that panics or is killed, and one that drops all it has.
    pub fn a_child_that_uses_nothing_leaves_its_parent_alone(arguments: &[String]) {
        let mut all = Some((space(&arguments[0]), space(&arguments[0]).mutex("a").unwrap().lock_owned().unwrap()));
        let before = all.as_ref().unwrap().0.usage();
        for round in 0..3 {
            match round {
                0 => joins(child(|| ())),
                1 => joins(child(|| drop(all.take()))),
                _ => kill_and_reap(idle_child()),
            }
            let (space, guard) = all.as_ref().unwrap();
            assert_eq!(space.recover_dead().unwrap(), 0, "nobody died");
            assert_eq!(space.usage(), before);
            assert!(guard.is_held());
            // Still kept out, as seen by somebody who shares nothing with us.
            start_and_expect_holder(&arguments[0]);
            space.recover_dead().unwrap();
        }
        all.unwrap().1.unlock().unwrap();
        say("content");
    }

    /// Says who holds the lock `a`.
    pub fn onlooker(arguments: &[String]) {
        say(holder_pid(&space(&arguments[0]).mutex("a").unwrap()));
        hear();
    }

    /// The page that a child does not inherit leaves a hole, and what the child puts there is its own.
    pub fn a_child_unmaps_nothing_of_its_own_that_was_its_parents(arguments: &[String]) {
        let space = space(&arguments[0]);
        let guard = space.mutex("a").unwrap().lock_owned().unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let kept: Vec<_> = maps.lines().filter(|line| line.contains(" ---s ") && line.ends_with("/segment")).collect();
        assert_eq!(kept.len(), 1, "the page that keeps us in the space: {maps}");
        let start = usize::from_str_radix(kept[0].split('-').next().unwrap(), 16).unwrap();
        let mut all = Some((space, guard));
        for in_it in [false, true] {
            joins(child(|| {
                let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
                let rights = libc::PROT_READ | libc::PROT_WRITE;
                let address = std::ptr::without_provenance_mut(start);
                // SAFETY: NOREPLACE: it fails if anything is mapped there.
                let page = unsafe { libc::mmap(address, 4096, rights, flags, -1, 0) };
                assert_eq!(page, address, "the child inherited what keeps its parent in the space");
                // SAFETY: mapped above with this length; nothing else knows of it.
                let page = unsafe { std::slice::from_raw_parts_mut(page.cast::<u8>(), 4096) };
                page.fill(0xA5);
                let (space, guard) = all.take().unwrap();
                if in_it {
                    drop(space.mutex("b").unwrap().lock().unwrap());
                }
                // All that the child has of the space: with the last of it, it leaves.
                drop((guard, space));
                assert!(page.iter().all(|byte| *byte == 0xA5));
            }));
        }
        start_and_expect_holder(&arguments[0]);
        all.unwrap().1.unlock().unwrap();
        say("content");
    }

    fn start_and_expect_holder(root: &str) {
        start("onlooker", &[root]).expect(&me().to_string());
    }

    /// `posix_spawn` shares all memory until the exec; with something to do before, it is a fork.
    pub fn an_exec_beside_a_held_lock_changes_nothing(arguments: &[String]) {
        let space = space(&arguments[0]);
        let mutex = space.mutex("a").unwrap();
        let guard = mutex.lock().unwrap();
        for forked in [false, true] {
            let mut command = Command::new("true");
            if forked {
                // SAFETY: nothing is done.
                unsafe { command.pre_exec(|| Ok(())) };
            }
            for _ in 0..20 {
                assert!(command.status().unwrap().success());
            }
            assert!(guard.is_held());
            assert_eq!(space.usage().participants, 1);
            start_and_expect_holder(&arguments[0]);
            space.recover_dead().unwrap();
        }
        guard.unlock().unwrap();
        say("content");
    }

    /// What the library itself keeps locked for a moment must not be locked in the child for ever.
    pub fn a_fork_while_a_thread_opens_and_leaves_does_not_hang_the_child(arguments: &[String]) {
        let root = arguments[0].as_str();
        let space = space(root);
        let mutex = space.mutex("a").unwrap();
        let other = || Space::builder("other").root(root).open().unwrap();
        let (ended, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !ended.load(Relaxed) {
                        // Joins and leaves the one, and is in the other already.
                        drop(other().mutex("a").unwrap().lock().unwrap());
                        drop(support::space(root).mutex("a").unwrap());
                        rounds.fetch_add(1, Relaxed);
                    }
                });
            }
            wait_until("they have begun", || rounds.load(Relaxed) > 10);
            let _stop = OnDrop(|| ended.store(true, Relaxed));
            for round in 0..200 {
                joins(child(|| {
                    drop(mutex.lock().unwrap());
                    let other = other();
                    drop(other.mutex("b").unwrap().lock().unwrap());
                    // Half of them leave, half end.
                    if round % 2 == 0 {
                        std::mem::forget(other);
                    }
                }));
            }
        });
        say(format!("{} times opened and left", rounds.load(Relaxed)));
        say("content");
    }

    pub fn a_fork_while_a_thread_locks_does_not_hang_the_child(arguments: &[String]) {
        let space = space(&arguments[0]);
        let mutex = space.mutex("a").unwrap();
        let (ended, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
        let mut held = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Relaxed) {
                    let guard = mutex.lock().unwrap();
                    std::hint::black_box(&guard);
                    guard.unlock().expect("nobody takes it from us");
                    rounds.fetch_add(1, Relaxed);
                }
            });
            wait_until("it has begun", || rounds.load(Relaxed) > 10);
            let _stop = OnDrop(|| ended.store(true, Relaxed));
            for _ in 0..200 {
                // The copy is of whatever the handle was at, and of a word that may be held.
                held += usize::from(mutex.holder().unwrap().is_some());
                joins(child(|| {
                    let guard = mutex.lock().unwrap();
                    assert!(guard.is_held());
                    guard.unlock().unwrap();
                }));
            }
        });
        say(format!("{} times locked; about {held} of 200 forks while it was", rounds.load(Relaxed)));
        say("content");
    }

    /// The child is a copy of a process in which a thread sleeps; there is no such thread in it.
    pub fn a_fork_while_a_thread_sleeps_leaves_its_wait_alone(arguments: &[String]) {
        let space = space(&arguments[0]);
        let mutex = space.mutex("a").unwrap();
        let guard = mutex.lock().unwrap();
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| mutex.lock().unwrap().abandoned().cloned());
            wait_until("it sleeps", || space.usage().waiting == 1);
            for used in [false, true] {
                joins(child(|| {
                    if used {
                        drop(space.mutex("b").unwrap().lock().unwrap());
                        assert!(matches!(mutex.try_lock_for(Duration::from_millis(30)), Err(Error::TimedOut { .. })));
                    }
                }));
                assert_eq!(space.recover_dead().unwrap(), usize::from(used));
                assert_eq!(space.usage().waiting, 1);
            }
            drop(guard);
            assert_eq!(sleeper.join().unwrap(), None);
        });
        assert_eq!(space.usage().waiting, 0);
        say("content");
    }

    /// The creator of a space locks its directory for itself. A child that was forked at that moment, and does not exec, must not
    /// keep it locked for as long as it lives.
    pub fn a_child_forked_while_spaces_are_created_does_not_keep_them_locked(arguments: &[String]) {
        let root = arguments[0].as_str();
        // From here on there are handlers.
        let space = space(root);
        let mut children = Vec::new();
        std::thread::scope(|scope| {
            let creator = scope.spawn(|| {
                for index in 0..200 {
                    let created = Space::builder(&format!("new-{index}")).root(root).open();
                    drop(created.unwrap_or_else(|error| panic!("space {index}: {error}")));
                }
            });
            while !creator.is_finished() && children.len() < 400 {
                children.push(idle_child());
            }
            assert!(creator.join().is_ok());
        });
        say(format!("{} forks", children.len()));
        children.into_iter().for_each(kill_and_reap);
        drop(space);
        say("content");
    }

    /// The same with the byte that is locked while somebody cleans up after a dead participant.
    pub fn a_child_forked_while_the_dead_are_buried_does_not_keep_them_from_being_buried(arguments: &[String]) {
        let space = space(&arguments[0]);
        // So many that giving them back takes a while.
        let mutexes: Vec<_> = (0..1000).map(|index| space.mutex(&format!("lock-{index}")).unwrap()).collect();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let forks = scope.spawn(|| {
                let mut children = Vec::new();
                while !ended.load(Relaxed) && children.len() < 400 {
                    children.push(idle_child());
                    std::thread::sleep(Duration::from_micros(300));
                }
                wait_until("the other is done", || ended.load(Relaxed));
                let count = children.len();
                children.into_iter().for_each(kill_and_reap);
                count
            });
            let stop = OnDrop(|| ended.store(true, Relaxed));
            for round in 0..100 {
                joins(child(|| mutexes.iter().for_each(|mutex| std::mem::forget(mutex.lock().unwrap()))));
                assert_eq!(
                    space.recover_dead().unwrap(),
                    1,
                    "round {round}: somebody keeps the dead from being buried"
                );
            }
            drop(stop);
            say(format!("{} forks", forks.join().unwrap()));
        });
        assert_eq!(space.usage().participants, 1);
        say("content");
    }

    /// H05: it is not in the space, so what it knows of itself is its parent's; the PIDs it can see are not.
    pub fn a_child_in_a_new_pid_namespace_sees_who_holds(arguments: &[String]) {
        let space = space(&arguments[0]);
        let mutex = space.mutex("a").unwrap();
        let line = Line::new();
        let holder = child(|| {
            let _guard = mutex.lock().unwrap();
            line.say();
            loop {
                nix::unistd::pause();
            }
        });
        line.hear();
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWPID) {
            return say(format!("cannot make a PID namespace: {errno}"));
        }
        joins(child(|| {
            assert_eq!(me(), 1);
            for used in [false, true] {
                if used {
                    drop(space.mutex("b").unwrap().lock().unwrap());
                }
                let seen = mutex.holder().unwrap().expect("it is held, and its holder lives");
                assert_eq!((seen.pid, seen.elsewhere), (holder.as_raw() as u32, true), "used: {used}");
            }
            assert_eq!(holder_pid(&mutex), holder.as_raw() as u32);
        }));
        kill_and_reap(holder);
        say("content");
    }

    /// Runs something at the end of a scope, however it ends.
    struct OnDrop<F: FnMut()>(F);

    impl<F: FnMut()> Drop for OnDrop<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }

    // Those that the tests below talk with.

    /// Holds `a`, and has a child that waits for it, and says what it finds.
    pub fn parent_of_a_waiter(arguments: &[String]) {
        let space = space(&arguments[0]);
        let mutex = space.mutex("a").unwrap();
        let guard = mutex.lock().unwrap();
        let child = child_by(How::Fork, || {
            let orphaned = parent();
            let mine = mutex.lock().unwrap();
            assert!(mine.is_held() && !guard.is_held());
            say(format!("{:?} after {orphaned}", mine.abandoned().map(|dead| dead.pid)));
            stay();
        });
        say(child);
        hear();
    }

    /// Alone in a space that has room for one, and its child takes its place.
    pub fn parent_of_an_heir(arguments: &[String]) {
        let space = Space::builder("small").root(&arguments[0]).participants(1).open().unwrap();
        let mutex = space.mutex("a").unwrap();
        let mut guard = Some(mutex.lock().unwrap());
        child_by(How::Fork, || {
            let (old, guard) = (getppid(), guard.take().unwrap());
            assert!(matches!(mutex.try_lock(), Err(Error::Full { .. })), "there is room for one");
            say("ready");
            while kill(old, None).is_ok() {
                std::thread::sleep(Duration::from_millis(1));
            }
            // The same slot, the same lock, the same handle, and another process.
            let mine = mutex.lock().unwrap();
            assert_eq!(mine.abandoned().map(|dead| dead.pid), Some(Some(old.as_raw() as u32)));
            assert!(mine.is_held() && !guard.is_held());
            assert!(matches!(guard.unlock(), Err(Error::Lost { .. })));
            assert!(mine.is_held());
            assert_eq!(space.usage().participants, 1);
            mine.unlock().unwrap();
            say("content");
        });
        hear();
    }

    /// Holds `a`, and has started programs since, which it says.
    pub fn parent_of_programs(arguments: &[String]) {
        let space = space(&arguments[0]);
        let guard = space.mutex("a").unwrap().lock_owned().unwrap();
        let spawned = Command::new("sleep").arg("60").spawn().unwrap().id();
        // SAFETY: nothing is done.
        let forked = unsafe { Command::new("sleep").arg("60").pre_exec(|| Ok(())).spawn() };
        say(format!("{spawned} {}", forked.unwrap().id()));
        hear();
        drop(guard);
    }

    /// In a child that outlives its parent: until the test lets go of the other end of our input.
    fn stay() {
        let mut input = libc::pollfd { fd: 0, events: 0, revents: 0 };
        // SAFETY: one descriptor, which lives as long as the call.
        while unsafe { libc::poll(&mut input, 1, -1) } < 1 {}
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The parent dies.

#[test]
fn a_child_gets_what_its_dead_parent_held_and_is_told() {
    for reaped in [true, false] {
        let root = root();
        let mut parent = start("parent_of_a_waiter", &[root.path().to_str().unwrap()]);
        let child: u32 = parent.hear().parse().unwrap();
        let pid = parent.pid();
        let space = space(&root);
        wait_until("the child sleeps", || space.usage().waiting == 1);
        assert_eq!(parent.hear_within(WHILE), None, "two holders");
        match reaped {
            true => parent.kill(),
            false => parent.kill_without_reaping(),
        }
        assert_eq!(parent.hear(), format!("Some(Some({pid})) after {pid}"));
        assert_eq!(holder_pid(&space.mutex("a").unwrap()), child);
    }
}

/// Nothing but the epoch tells the old acquisition from the new one.
#[test]
fn a_child_in_its_dead_parents_place_does_not_hold_what_the_parent_held() {
    let root = root();
    let mut parent = start("parent_of_an_heir", &[root.path().to_str().unwrap()]);
    parent.expect("ready");
    parent.kill();
    parent.expect("content");
}

/// H18, for programs started in the middle: they inherit nothing that keeps the lock.
#[test]
fn programs_started_under_the_lock_do_not_keep_it() {
    let root = root();
    let mut parent = start("parent_of_programs", &[root.path().to_str().unwrap()]);
    let words = parent.hear();
    let programs: Vec<Pid> = words.split(' ').map(|pid| Pid::from_raw(pid.parse().unwrap())).collect();
    let space = space(&root);
    let mutex = space.mutex("a").unwrap();
    assert_eq!(holder_pid(&mutex), parent.process.id());
    parent.kill();
    let acquired = mutex.try_lock_for(PATIENCE).map(|guard| guard.abandoned().map(|dead| dead.pid));
    let alive = programs.iter().all(|pid| kill(*pid, None).is_ok());
    for pid in programs {
        let _ = kill(pid, Signal::SIGKILL);
    }
    assert!(alive, "they ended too early to prove anything");
    assert_eq!(acquired.unwrap(), Some(Some(parent.process.id())));
}
