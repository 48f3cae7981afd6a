//! Whether the process that is recorded somewhere still lives.
//!
//! Nothing here guesses: [`Life::Dead`] is a proof, and everything that cannot be told is [`Life::Unknown`], which callers take
//! for alive. This is the one witness that goes by the process; the other goes by what the process holds
//! ([`byte_lock`](super::byte_lock)).

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll, ppoll};

use super::clock::Monotonic;
use super::identity::{self, Identity};

/// Why somebody is certainly dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// No process has its PID.
    NoSuchProcess,
    /// Its PID belongs to another process now.
    OtherProcess,
    /// It ended, and its parent has not asked for it yet.
    Zombie,
    /// What it holds for as long as it lives is free.
    LetGo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    Alive,
    Dead(Evidence),
    Unknown(&'static str),
}

/// Judges the process behind `them`, as seen by the process behind `me`.
pub(crate) fn of_process(them: &Identity, me: &Identity) -> Life {
    if let Err(why) = is_in_reach(them, me) {
        return Life::Unknown(why);
    }
    match identity::open_pidfd(them.pid) {
        Ok(fd) => match same_process(them, me, Some(&fd)) {
            Life::Alive if has_ended(&fd) => Life::Dead(Evidence::Zombie),
            life => life,
        },
        Err(Errno::ESRCH) => Life::Dead(Evidence::NoSuchProcess),
        // Linux before 5.3, or a filter. What is left is the PID and when it started.
        Err(Errno::ENOSYS | Errno::EPERM | Errno::EACCES) => {
            let pid = nix::unistd::Pid::from_raw(them.pid as libc::pid_t);
            match nix::sys::signal::kill(pid, None) {
                Err(Errno::ESRCH) => Life::Dead(Evidence::NoSuchProcess),
                _ => same_process(them, me, None),
            }
        }
        // A thread has the PID now (EINVAL, later ENOENT), or we are out of descriptors or memory.
        Err(_) => Life::Unknown("the kernel did not say"),
    }
}

/// Whether the PID that `them` says means anything to `me`.
fn is_in_reach(them: &Identity, me: &Identity) -> Result<(), &'static str> {
    if !them.has_valid_pid() {
        Err("the recorded PID cannot be one")
    } else if me.pid_namespace == 0 || them.pid_namespace != me.pid_namespace {
        Err("it was recorded in another PID namespace")
    } else if them.boot != me.boot {
        Err("it was recorded under another boot of the kernel")
    } else {
        Ok(())
    }
}

/// Sleeps until a process behind one of `them` has ended, or a signal comes, at most until then. `false`: there is none that can be waited for.
///
/// That it ended proves nothing: the PID may have been somebody else's. Callers judge afterwards.
pub(crate) fn sleep_until_end(them: &[Identity], me: &Identity, until: Monotonic) -> bool {
    let mut processes = Vec::new();
    for them in them.iter().filter(|them| is_in_reach(them, me).is_ok()) {
        match identity::open_pidfd(them.pid) {
            Ok(process) => processes.push(process),
            Err(Errno::ESRCH) => return true,
            Err(_) => {}
        }
    }
    let mut polled: Vec<_> = processes.iter().map(|process| PollFd::new(process.as_fd(), PollFlags::POLLIN)).collect();
    let left = until.since(Monotonic::now());
    // A filter may refuse it.
    !polled.is_empty() && matches!(ppoll(&mut polled, Some(left.into()), None), Ok(_) | Err(Errno::EINTR))
}

/// Whether the process that has the PID now is the one recorded.
fn same_process(them: &Identity, me: &Identity, fd: Option<&OwnedFd>) -> Life {
    if them.pid_inode != 0
        && let Some(inode) = fd.and_then(identity::pidfd_inode)
    {
        return if inode == them.pid_inode { Life::Alive } else { Life::Dead(Evidence::OtherProcess) };
    }
    // Start times are shifted by the observer's time namespace, so they compare within one only. Two processes may have
    // the same one (it counts in 10 ms), so equal proves nothing, and neither does a hidden /proc.
    if them.start_time != 0 && me.time_namespace != 0 && them.time_namespace == me.time_namespace {
        return match identity::start_time(them.pid) {
            Some(start) if start != them.start_time => Life::Dead(Evidence::OtherProcess),
            Some(_) => Life::Alive,
            None => Life::Unknown("/proc does not show it"),
        };
    }
    Life::Unknown("neither an inode nor a start time is known of it")
}

/// A pidfd turns readable when the whole process has ended, reaped or not. (The state in `/proc` would call a process dead
/// whose first thread ended while others run.)
fn has_ended(fd: &OwnedFd) -> bool {
    let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut polled, PollTimeout::ZERO), Ok(1))
        && polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    fn recorded(child: &std::process::Child) -> Identity {
        let fd = identity::open_pidfd(child.id()).unwrap();
        Identity {
            pid: child.id(),
            pid_inode: identity::pidfd_inode(&fd).unwrap_or(0),
            start_time: identity::start_time(child.id()).unwrap(),
            ..Identity::mine()
        }
    }

    fn child() -> std::process::Child {
        Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn alive_then_zombie_then_gone() {
        let me = Identity::mine();
        let mut child = child();
        let them = recorded(&child);
        assert_eq!(of_process(&them, &me), Life::Alive);
        child.kill().unwrap();
        while of_process(&them, &me) == Life::Alive {
            std::thread::yield_now();
        }
        assert_eq!(of_process(&them, &me), Life::Dead(Evidence::Zombie));
        child.wait().unwrap();
        assert_eq!(of_process(&them, &me), Life::Dead(Evidence::NoSuchProcess));
    }

    #[test]
    fn an_end_is_slept_for_and_not_for_longer_than_asked() {
        let me = Identity::mine();
        let mut child = child();
        let them = recorded(&child);
        let after = |span| Monotonic::now().saturating_add(span);
        let until = after(Duration::from_millis(20));
        assert!(sleep_until_end(&[them, me], &me, until));
        assert!(Monotonic::now() >= until, "both of them are there");
        let begun = Monotonic::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(20));
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(them.pid as i32), nix::sys::signal::SIGKILL).unwrap();
            });
            assert!(sleep_until_end(&[me, them], &me, after(Duration::from_secs(60))));
        });
        assert!(Monotonic::now().since(begun) < Duration::from_secs(30), "nobody told it of the end");
        assert!(matches!(of_process(&them, &me), Life::Dead(_)));
        child.wait().unwrap();
        // Whoever is not there any more has ended; whose PID is of another place is nobody to wait for.
        assert!(sleep_until_end(&[them], &me, after(Duration::from_secs(60))));
        assert!(!sleep_until_end(
            &[Identity { pid_namespace: 0, ..them }],
            &Identity { pid_namespace: 0, ..me },
            until
        ));
        assert!(!sleep_until_end(&[], &me, after(Duration::from_secs(60))));
    }

    #[test]
    fn another_process_with_its_pid_is_told_apart_by_either_mark() {
        let me = Identity::mine();
        let other_inode = Identity { pid_inode: me.pid_inode.wrapping_add(1), ..me };
        let other_start = Identity { pid_inode: 0, start_time: me.start_time + 1, ..me };
        if me.pid_inode == 0 {
            eprintln!("SKIPPED: this kernel has no inode per pidfd (Linux 6.9)");
        } else {
            assert_eq!(of_process(&other_inode, &me), Life::Dead(Evidence::OtherProcess));
        }
        assert_eq!(of_process(&other_start, &me), Life::Dead(Evidence::OtherProcess));
        assert_eq!(of_process(&me, &me), Life::Alive);
    }

    #[test]
    fn what_cannot_be_compared_is_not_dead() {
        let me = Identity::mine();
        let differ = [
            Identity { pid: 0, ..me },
            Identity { pid: u32::MAX, ..me },
            Identity { pid_namespace: me.pid_namespace + 1, ..me },
            Identity { pid_namespace: 0, ..me },
            Identity { boot: me.boot ^ 1, ..me },
            Identity { pid_inode: 0, start_time: 0, ..me },
            Identity { pid_inode: 0, start_time: 1, time_namespace: me.time_namespace + 1, ..me },
        ];
        for them in differ {
            assert!(matches!(of_process(&them, &me), Life::Unknown(_)), "{them:?}");
        }
        let blind = Identity { pid_namespace: 0, ..me };
        assert!(matches!(of_process(&me, &blind), Life::Unknown(_)));
    }
}
