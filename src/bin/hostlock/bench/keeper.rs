//! Who cleans up. What a measurement leaves if it is ended in the middle (files in memory, semaphores of the system, processes) is kept by
//! a process that does nothing but wait for that.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, raise, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::getpid;

use super::children::{child, hear_of_ends};
use super::ground::PERMITS;
use super::peers::SysV;
use crate::exit::{Code, Failure};
use crate::output;

/// What asks a process to end.
const ENDING: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// What would outlive a process that is killed.
pub(crate) struct Kept {
    directory: PathBuf,
    /// A semaphore of one, and one of several.
    pub(crate) one: Result<SysV, String>,
    pub(crate) several: Result<SysV, String>,
    /// A set of many of one.
    pub(crate) many: Result<SysV, String>,
}

impl Kept {
    /// `many`: how many semaphores the set of many has.
    fn new(many: usize) -> Result<Self, Failure> {
        let directory = directory()?;
        // In the middle of a call that fails it would be too early.
        Ok(Self { directory, one: SysV::new(1, 1), several: SysV::new(1, PERMITS), many: SysV::new(many, 1) })
    }

    /// Of this user's alone, and in memory where that can be.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.directory) {
            output::complain(&format!("cannot remove {}: {}", self.directory.display(), output::reason(&e)));
        }
    }
}

fn directory() -> Result<PathBuf, Failure> {
    let memory = Path::new("/dev/shm");
    let parents = [memory.to_path_buf(), std::env::temp_dir()];
    let mut why = String::new();
    for parent in parents {
        for attempt in 0..100 {
            let path = parent.join(format!("hostlock-bench-{}-{attempt}", getpid()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(path),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => {
                    why = format!("{}: {}", parent.display(), output::reason(&e));
                    break;
                }
            }
        }
    }
    Err(Failure::new(Code::Unavailable, format_args!("there is no place for files to be measured with: {why}")))
}

fn failed(what: &str) -> impl Fn(Errno) -> Failure {
    move |errno| Failure::new(Code::System, format_args!("{what}: {}", errno.desc()))
}

/// Does `work` in a process of its own, and cleans up after it, however it ends. Its exit status; should one of the two be sent a signal that asks it to
/// end, this process ends of that.
pub(crate) fn keep(many: usize, work: impl FnOnce(&Kept) -> u8) -> Result<u8, Failure> {
    let mut signals: SigSet = ENDING.into_iter().collect();
    signals.add(Signal::SIGCHLD);
    let mut before = SigSet::empty();
    let cannot_wait = failed("cannot wait for signals");
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&signals), Some(&mut before)).map_err(&cannot_wait)?;
    hear_of_ends().map_err(&cannot_wait)?;
    // Whose parents are gone is ours to wait for, too.
    set_child_subreaper(true).map_err(&cannot_wait)?;
    let kept = Kept::new(many)?;
    let worker = child(|| {
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
        work(&kept)
    })
    .map_err(|why| Failure::new(Code::System, why))?;
    let (mut code, mut ended_by) = (None, None);
    while code.is_none() && ended_by.is_none() {
        match signals.wait().map_err(&cannot_wait)? {
            Signal::SIGCHLD => {}
            signal => {
                ended_by = Some(signal);
                let _ = kill(worker, Signal::SIGKILL);
            }
        }
        while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            match status {
                WaitStatus::Exited(pid, status) if pid == worker => code = Some(status as u8),
                WaitStatus::Signaled(pid, signal, _) if pid == worker => ended_by = ended_by.or(Some(signal)),
                WaitStatus::StillAlive => break,
                _ => {}
            }
        }
    }
    // Its children die with it, and what they were about to make is made before that.
    while waitpid(None, None).is_ok() {}
    drop(kept);
    let Some(signal) = ended_by else { return Ok(code.unwrap_or_default()) };
    if ENDING.contains(&signal) {
        let it: SigSet = [signal].into_iter().collect();
        let _ = raise(signal);
        let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&it), None);
    }
    Err(Failure::new(Code::System, format_args!("the process that measures was ended by {signal}")))
}
