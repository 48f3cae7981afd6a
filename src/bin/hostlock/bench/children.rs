//! Processes that measure: made by fork, and gone when whoever made them is.

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid, getppid};

/// What a process ends with that failed, as a panic does elsewhere.
const FAILED: i32 = 101;

/// Lets this process be told of the ends of its children, also where whoever started it wanted to know of none.
pub fn hear_of_ends() -> Result<(), Errno> {
    // SAFETY: no handler is set.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }.map(drop)
}

/// Starts a process that does `act` and ends with what that says. It dies with this one.
pub fn child(act: impl FnOnce() -> u8) -> Result<Pid, String> {
    let parent = getpid();
    // SAFETY: this program has one thread.
    match unsafe { fork() }.map_err(|errno| format!("no process could be started: {}", errno.desc()))? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            let stays = set_pdeathsig(Signal::SIGKILL).is_ok() && getppid() == parent;
            // What unwound further would go on as the parent.
            let code = stays.then(|| catch_unwind(AssertUnwindSafe(act)));
            // SAFETY: ends this process without running what belongs to the parent.
            unsafe { libc::_exit(code.and_then(Result::ok).map_or(FAILED, i32::from)) }
        }
    }
}

/// What became of a process that did not end in good order.
fn failed(end: nix::Result<WaitStatus>) -> String {
    match end {
        Ok(WaitStatus::Exited(_, code)) => format!("a process failed with {code}"),
        Ok(WaitStatus::Signaled(_, signal, _)) => format!("a process was ended by {signal}"),
        Ok(end) => format!("a process did what nobody asked for: {end:?}"),
        Err(errno) => format!("a process cannot be waited for: {}", errno.desc()),
    }
}

/// Some processes, all that this thread has; those that are still there when this is dropped are killed.
#[derive(Default)]
pub struct Children(Vec<Pid>);

impl Children {
    /// Starts one more.
    pub fn start(&mut self, act: impl FnOnce()) -> Result<Pid, String> {
        let child = child(|| {
            act();
            0
        })?;
        self.0.push(child);
        Ok(child)
    }

    /// Waits until all of them have ended, in good order: whichever ends first, since others may wait for one that failed.
    pub fn finish(mut self) -> Result<(), String> {
        while !self.0.is_empty() {
            match waitpid(None, Some(WaitPidFlag::__WNOTHREAD)) {
                Ok(WaitStatus::Exited(child, 0)) => self.0.retain(|other| *other != child),
                end => {
                    self.0.retain(|other| Some(*other) != end.ok().and_then(|end| end.pid()));
                    return Err(failed(end));
                }
            }
        }
        Ok(())
    }

    /// Waits until something is so that they are about to bring about; not for ever, if one of them ended instead.
    pub fn until(&self, mut is_so: impl FnMut() -> bool) -> Result<(), String> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT | WaitPidFlag::__WNOTHREAD;
        while !is_so() {
            match waitid(Id::All, flags) {
                Ok(WaitStatus::StillAlive) => std::thread::yield_now(),
                // The last thing it did may have been it.
                end if !is_so() => return Err(failed(end)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Kills one of them. Returns at once: the kernel has more to do.
    pub fn kill(&self, child: Pid) -> Result<(), String> {
        kill(child, Signal::SIGKILL).map_err(|errno| format!("a process could not be killed: {}", errno.desc()))
    }

    /// Waits for one that was killed.
    pub fn bury(&mut self, child: Pid) {
        let _ = waitpid(child, None);
        self.0.retain(|other| *other != child);
    }

    /// Waits until one of them has ended, in good order.
    pub fn finish_one(&mut self, child: Pid) -> Result<(), String> {
        self.0.retain(|other| *other != child);
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, 0)) => Ok(()),
            end => Err(failed(end)),
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in &self.0 {
            let _ = kill(*child, Signal::SIGKILL);
        }
        for child in &self.0 {
            let _ = waitpid(*child, None);
        }
    }
}
