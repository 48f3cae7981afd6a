//! Numbers that are taken for somebody: of threads, of processes, and such as are no process's.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use hostlock::{Backend, Error, Mutex, ReentrantMutex};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, gettid};

use crate::actor::{Ask, dead_in, start_in, token_in};
use crate::support::raw::Raw;
use crate::support::{self, behind, command, filter, hear, root, say, start, start_command};
use crate::{NEW_PIDS, by_name, can_run, name_of, or_skip, skip, space};

// ---------------------------------------------------------------------------------------------------------------------
// Threads.

/// In a container: acquires `a`, or tries to, and says so.
pub fn contained(arguments: &[String]) {
    let space = support::space(&arguments[0]);
    let (plain, again) = (space.mutex("a").unwrap(), space.reentrant_mutex("a").unwrap());
    let mut guards = Vec::new();
    say(format!("{} {}", std::process::id(), gettid()));
    loop {
        match hear().as_str() {
            "acquire" => match again.try_lock() {
                Ok(guard) => {
                    say(format!("{} {}", guard.token(), again.depth()));
                    guards.push(guard);
                }
                Err(Error::WouldBlock { .. }) => say("it is held"),
                Err(error) => say(error),
            },
            "release" => {
                guards.drain(..).for_each(|guard| guard.unlock().unwrap());
                say("released");
            }
            "wait" => say(match (wait(&plain), wait_again(&again)) {
                (Err(Error::TimedOut { .. }), Err(Error::TimedOut { .. })) => "in vain".into(),
                outcomes => format!("{outcomes:?}"),
            }),
            other => panic!("{other}?"),
        }
    }
}

const SHORT: Duration = Duration::from_millis(150);

fn wait(mutex: &Mutex) -> hostlock::Result<u64> {
    mutex.try_lock_for(SHORT).map(|guard| guard.token())
}

fn wait_again(mutex: &ReentrantMutex) -> hostlock::Result<u64> {
    mutex.try_lock_for(SHORT).map(|guard| guard.token())
}

/// H06: in two containers, two threads have one id. Neither waits for itself, and neither has what the other acquired.
#[test]
fn threads_with_one_id_in_two_containers_are_two_owners() {
    or_skip!(can_run(NEW_PIDS));
    let root = root();
    let contained = || start_command(behind(NEW_PIDS, &command("contained", &[root.path().to_str().unwrap()])));
    let (mut one, mut two) = (contained(), contained());
    let ids = one.hear();
    assert_eq!(ids, two.hear(), "the test needs two of one id");
    assert!(ids.starts_with("1 "), "{ids}");
    for _ in 0..3 {
        let answer = one.ask("acquire");
        let (token, depth) = answer.split_once(' ').unwrap_or_else(|| panic!("{answer}"));
        assert_eq!(depth, "1");
        assert_eq!(two.ask("acquire"), "it is held");
        assert_eq!(two.ask("wait"), "in vain");
        // Whose it is, it acquires again.
        assert_eq!(one.ask("acquire"), format!("{token} 2"));
        assert_eq!(one.ask("release"), "released");
        std::mem::swap(&mut one, &mut two);
    }
}

/// In a PID namespace of its own: a thread leaves a lock behind, and another one gets its id.
pub fn thread_reborn(arguments: &[String]) {
    let space = support::space(&arguments[0]);
    for round in 0..20 {
        let [plain_name, name] = ["plain", "again"].map(|kind| format!("{kind}-{round}"));
        let (plain, again) = (space.mutex(&plain_name).unwrap(), space.reentrant_mutex(&name).unwrap());
        let leak = || {
            std::mem::forget((plain.lock().unwrap(), again.lock().unwrap()));
            gettid()
        };
        let first = std::thread::scope(|scope| scope.spawn(leak).join().unwrap());
        let set =
            File::create("/proc/sys/kernel/ns_last_pid").and_then(|mut file| write!(file, "{}", first.as_raw() - 1));
        if let Err(error) = set {
            return say(format!("cannot choose an id: {error}"));
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(gettid(), first, "the test needs the same id again");
                assert_eq!(again.depth(), 0);
                let another = space.reentrant_mutex(&name).unwrap();
                assert!(matches!(another.try_lock(), Err(Error::WouldBlock { .. })), "it was let in again");
                // And it does not wait for itself.
                let outcomes = (plain.try_lock_for(SHORT / 5).map(drop), another.try_lock_for(SHORT / 5).map(drop));
                assert!(matches!(outcomes, (Err(Error::TimedOut { .. }), Err(Error::TimedOut { .. }))), "{outcomes:?}");
            });
        });
    }
    say("content");
}

/// H14: a thread id that was given again does not make its thread the owner of what the last one left behind.
#[test]
fn a_thread_with_the_id_of_one_that_ended_owns_nothing() {
    or_skip!(can_run(NEW_PIDS));
    let root = root();
    let scene = start_command(behind(NEW_PIDS, &command("thread reborn", &[root.path().to_str().unwrap()])));
    match scene.hear().as_str() {
        "content" => {}
        why => skip!("{why}"),
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Processes.

/// Where a participant's record has the inode of its pidfd and when it started.
const MARKS_AT: [usize; 2] = [8, 16];
/// Where it has the number of processes that moved in before.
const INCARNATION_AT: usize = 4;

/// H11, as after a checkpoint and a restore: the memory is the same, the PID is the same, and the process is another one, so that its lock is
/// taken over. (There is no criu here: its marks are changed in the segment while it lives.) It is told, harms nobody, and can go on.
#[test]
fn whoever_comes_back_as_another_process_is_told_that_its_lock_is_lost() {
    let root = root();
    let [mut restored, mut next] = [(); 2].map(|()| start_in(root.path(), Backend::Segment));
    let token = restored.acquire("mutex a");
    let pid = restored.process.id();
    Raw::open(root.path().join("test")).change_record(pid, |record| {
        for at in MARKS_AT {
            let mark = u64::from_ne_bytes(record[at..at + 8].try_into().unwrap());
            // Where the kernel gives none, there is none.
            record[at..at + 8].copy_from_slice(&if mark == 0 { 0 } else { mark + 1 }.to_ne_bytes());
        }
    });
    let taken = next.ask("mutex a");
    assert!(token_in(&taken).is_some_and(|taken| taken > token) && dead_in(&taken) == Some(pid), "{taken}");
    assert_eq!(restored.ask("is-held a"), "false");
    assert_eq!(restored.ask("release a"), format!("lost {token}"));
    assert_eq!(next.ask("is-held a"), "true");
    assert_eq!(next.ask("release a"), "released");
    // It has no place in the space any more, or a new one; either way nobody has to be restarted.
    let mut third = start_in(root.path(), Backend::Segment);
    for _ in 0..2 {
        for actor in [&mut restored, &mut next, &mut third] {
            actor.acquire("mutex a");
            assert_eq!(actor.ask("release a"), "released");
        }
    }
}

/// H11: the count of those who were in a place before is a mark of nobody's life.
#[test]
fn a_changed_incarnation_takes_no_lock_from_the_living() {
    let root = root();
    let [mut holder, mut other] = [(); 2].map(|()| start_in(root.path(), Backend::Segment));
    holder.acquire("mutex a");
    let pid = holder.process.id();
    Raw::open(root.path().join("test")).change_record(pid, |record| record[INCARNATION_AT] ^= 1);
    assert_eq!(other.ask("mutex-for a 300"), format!("timed-out {pid}"));
    assert_eq!(holder.ask("release a"), "released");
    let token = other.acquire("mutex a");
    holder.tell("mutex a");
    assert_eq!(holder.hear_within(SHORT), None, "two holders");
    assert_eq!(other.ask("release a"), "released");
    assert!(token_in(&holder.hear()).is_some_and(|next| next > token));
    holder.kill();
    assert_eq!(dead_in(&other.ask("mutex a")), Some(pid));
}

/// Judges, where any signal to a number that is no process's, and any question about one, is its end.
pub fn judge(arguments: &[String]) {
    // By signals, where there is no better way to ask.
    filter::refuse(libc::SYS_pidfd_open, Errno::ENOSYS).unwrap();
    filter::die_of_pids_that_are_none().unwrap();
    let space = space(&arguments[0], by_name(&arguments[1]));
    let mutex = space.mutex("a").unwrap();
    say("ready");
    loop {
        hear();
        let holder = mutex.holder().map(|holder| holder.is_some());
        let (tried, recovered) = (mutex.try_lock_for(SHORT / 3).map(|guard| guard.token()), space.recover_dead());
        say(match tried {
            Ok(token) => format!("got it, as {token}"),
            Err(_) => "it is held".into(),
        });
        say(format!("{holder:?} {recovered:?}"));
    }
}

/// Sends a signal to whoever is in its group, as far as it is let.
pub fn murderer(arguments: &[String]) {
    filter::die_of_pids_that_are_none().unwrap();
    let _ = kill(Pid::from_raw(arguments[0].parse().unwrap()), None);
    say("it lives");
}

/// What in shared memory may stand for a process, and is none: to `kill` most of it means many.
pub fn numbers_that_are_no_process() -> [u32; 7] {
    let our_group = nix::unistd::getpgrp().as_raw();
    // Last what means nobody: then nobody is there to be changed again.
    [(1 << 22) + 1, i32::MAX as u32, 1 << 31, u32::MAX - 1, u32::MAX, (-our_group) as u32, 0]
}

/// H60: whatever stands in the place of a PID, no system call is given what is none.
#[test]
pub fn numbers_that_are_no_process_reach_no_signal() {
    or_skip!(filter::is_possible());
    for number in ["0", "-1", "-4194305"] {
        let mut murderer = start("murderer", &[number]);
        murderer.process.stdin.take();
        let status = murderer.process.wait().unwrap();
        assert_eq!(status.signal(), Some(Signal::SIGSYS as i32), "the filter lets {number} pass");
    }
    for backend in [Backend::Segment, Backend::Files] {
        let root = root();
        let mut holder = start_in(root.path(), backend);
        holder.acquire("mutex a");
        let mut judge = start("judge", &[root.path().to_str().unwrap(), name_of(backend)]);
        judge.expect("ready");
        let directory = root.path().join("test");
        if backend == Backend::Files {
            // Otherwise the kernel says that it is held, and nobody is judged.
            std::fs::remove_file(directory.join("0.lock")).unwrap();
        }
        let mut seen = holder.process.id();
        for number in numbers_that_are_no_process() {
            match backend {
                Backend::Segment => {
                    let raw = Raw::open(&directory);
                    raw.change_record(seen, |record| record[..4].copy_from_slice(&number.to_ne_bytes()));
                }
                _ => {
                    let file = File::options().write(true).open(directory.join("files")).unwrap();
                    std::os::unix::fs::FileExt::write_all_at(&file, &number.to_ne_bytes(), OWNER_AT).unwrap();
                }
            }
            judge.tell("judge");
            let (answer, more) = (judge.hear(), judge.hear());
            println!("{backend} {number:#x}: {answer}, {more}");
            // With 0 nobody is there any more, as the segment says; beside a lock file there is the claim, too.
            let may_be_free = number == 0 && backend == Backend::Segment;
            assert!(may_be_free || answer == "it is held", "{number:#x}: {answer}");
            seen = number;
        }
    }
}

/// Where the first entry of the file of lock files has the PID of its record: the low half of the word.
const OWNER_AT: u64 = (16 + 21) * 8 + if cfg!(target_endian = "big") { 4 } else { 0 };
