//! Signals while COMMAND runs: passing them on, and waiting for its end.
//!
//! The terminal sends its signals (Ctrl-C, a hang-up) to every process of the foreground group, COMMAND included. What another
//! process sends to hostlock alone has to be passed on. Signals that stop a process do what they always do: the terminal stops both.

use std::io;
use std::process::{Child, Command};

use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, raise, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getppid};

/// What is passed on. Not the signals of a process's own mistakes, nor those that stop it.
const PASSED_ON: &[Signal] = &[
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGWINCH,
    Signal::SIGCONT,
    Signal::SIGPWR,
    Signal::SIGIO,
    Signal::SIGURG,
];

/// Signals come here from now on.
#[derive(Debug)]
pub(crate) struct Signals {
    inbox: SignalFd,
    before: SigSet,
    /// What this process was sent itself, by the terminal or by others.
    received: SigSet,
}

/// How COMMAND ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Exited(u8),
    Killed(Signal),
}

impl Signals {
    /// Takes over from the default actions. A signal that is ignored (`nohup`) stays so.
    pub(crate) fn take_over() -> io::Result<Self> {
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        let mut mine = SigSet::empty();
        for &passed_on in PASSED_ON {
            if !is_ignored(passed_on)? {
                mine.add(passed_on);
            }
        }
        // If whoever started us ignores it, COMMAND's end would be lost.
        set_action(Signal::SIGCHLD, &default)?;
        mine.add(Signal::SIGCHLD);
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&mine), Some(&mut before))?;
        let inbox = SignalFd::with_flags(&mine, SfdFlags::SFD_CLOEXEC)?;
        Ok(Self { inbox, before, received: SigSet::empty() })
    }

    /// Starts `command` so that it has the signals that hostlock was started with, and does not outlive hostlock.
    #[allow(unsafe_code)]
    pub(crate) fn start(&self, command: &mut Command) -> io::Result<Child> {
        use std::os::unix::process::CommandExt;
        let (before, me) = (self.before, nix::unistd::getpid());
        let prepare = move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // We may have been killed before that.
            if getppid() != me {
                return Err(Errno::ESRCH.into());
            }
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
            Ok(())
        };
        // SAFETY: it only makes system calls that are async-signal-safe, and allocates nothing.
        unsafe { command.pre_exec(prepare) };
        // From the thread that stays: the death signal is sent when the thread that forked ends.
        command.spawn()
    }

    /// Waits until `child` has ended, passing signals on to it.
    pub(crate) fn wait_for(&mut self, child: &Child) -> io::Result<End> {
        let child = Pid::from_raw(child.id() as i32);
        loop {
            match self.inbox.read_signal() {
                Ok(Some(info)) => match Signal::try_from(info.ssi_signo as i32) {
                    Ok(Signal::SIGCHLD) => {
                        if let Some(end) = reap(child)? {
                            return Ok(end);
                        }
                    }
                    Ok(signal) => self.receive(signal, &info, child),
                    Err(_) => {}
                },
                Ok(None) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn receive(&mut self, signal: Signal, info: &siginfo, child: Pid) {
        self.received.add(signal);
        // Above zero: from the kernel, which sent it to COMMAND as well. COMMAND's own went where it wanted them (`kill 0`).
        if info.ssi_code <= 0 && info.ssi_pid != child.as_raw() as u32 {
            // It fails only if it has ended; then that is the next signal.
            let _ = kill(child, signal);
        }
    }

    /// Ends this process as COMMAND did, if it ended of a signal that was sent here as well: whoever sent it, a shell above all, goes
    /// by that. Otherwise returns.
    pub(crate) fn follow(&self, killed_by: Signal) {
        if self.received.contains(killed_by) {
            // The core, if any, was COMMAND's to leave.
            let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
            let mut it = SigSet::empty();
            it.add(killed_by);
            let _ = raise(killed_by);
            let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&it), None);
        }
    }
}

/// Collects whatever ended; how `child` did, if it is among that. (As the first process of a container we are given orphans.)
fn reap(child: Pid) -> io::Result<Option<End>> {
    loop {
        let status = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Err(Errno::EINTR) => continue,
            status => status?,
        };
        match status {
            WaitStatus::Exited(pid, code) if pid == child => return Ok(Some(End::Exited(code as u8))),
            WaitStatus::Signaled(pid, by, _) if pid == child => return Ok(Some(End::Killed(by))),
            WaitStatus::StillAlive => return Ok(None),
            _ => {}
        }
    }
}

#[allow(unsafe_code)]
fn set_action(of: Signal, action: &SigAction) -> nix::Result<SigAction> {
    // SAFETY: only the default action is ever set here, no handler.
    unsafe { signal::sigaction(of, action) }
}

#[allow(unsafe_code)]
fn is_ignored(signal: Signal) -> nix::Result<bool> {
    let mut now = core::mem::MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: the first pointer says that nothing is to be changed; the second is valid for a `sigaction`, read after success.
    let now = unsafe {
        Errno::result(libc::sigaction(signal as libc::c_int, core::ptr::null(), now.as_mut_ptr()))?;
        now.assume_init()
    };
    Ok(now.sa_sigaction == libc::SIG_IGN)
}
