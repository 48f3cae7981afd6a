//! Signals while COMMAND runs: passing them on, and waiting for its end.
//!
//! The terminal sends its signals (Ctrl-C, a hang-up) to every process of the foreground group, COMMAND included if it stayed in it.
//! Everything else that is sent to hostlock has to be passed on. Signals that stop a process do what they always do: the
//! terminal stops both.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, SigmaskHow, Signal, kill, raise, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::unistd::{Pid, getpgid, getpgrp, getpid, getsid, pipe2};

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
    /// Of what is below: after the lock was lost.
    received_late: SigSet,
    /// What this process was sent itself, by the terminal or by others.
    received: SigSet,
}

/// How long COMMAND has to end by itself when its lock was lost.
const GRACE: Duration = Duration::from_secs(5);

/// A note that the lock was lost, from the thread that looks after its lease.
#[derive(Debug)]
pub(crate) struct Lost {
    read: OwnedFd,
    write: Arc<OwnedFd>,
}

impl Lost {
    pub(crate) fn new() -> io::Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        Ok(Self { read, write: Arc::new(write) })
    }

    /// Leaves the note.
    pub(crate) fn teller(&self) -> impl Fn() + Send + Sync + 'static {
        let write = self.write.clone();
        move || {
            // If there is one already, that does.
            let _ = nix::unistd::write(&*write, b"!");
        }
    }

    fn is_there(&self) -> bool {
        matches!(nix::unistd::read(&self.read, &mut [0]), Ok(1))
    }
}

/// How COMMAND ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Exited(u8),
    /// By the signal of that number; real-time signals have no name.
    Killed(i32),
}

/// Whether whoever started us ignores broken pipes. Rust's runtime does from `main` on, whatever it was before.
static PIPES_IGNORED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_pipes() {
    PIPES_IGNORED.store(is_ignored(Signal::SIGPIPE).unwrap_or(false), Relaxed);
}

// SAFETY: the loader calls what stands in this section, with arguments that may be left alone, before `main`. The function needs
// nothing of Rust's runtime.
#[allow(unsafe_code)]
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = note_pipes;

impl Signals {
    /// Takes over from the default actions. A signal that is ignored (`nohup`) stays so. `all`: what COMMAND starts may have to be ended as well.
    pub(crate) fn take_over(all: bool) -> io::Result<Self> {
        if all {
            // What loses its parent is our child then.
            nix::sys::prctl::set_child_subreaper(true)?;
        }
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
        Ok(Self { inbox, before, received: SigSet::empty(), received_late: SigSet::empty() })
    }

    /// Starts `command` so that it has the signals that hostlock was started with, and does not outlive hostlock.
    #[allow(unsafe_code)]
    pub(crate) fn start(&self, command: &mut Command) -> io::Result<Child> {
        use std::os::unix::process::CommandExt;
        let (before, pipes_ignored) = (self.before, PIPES_IGNORED.load(Relaxed));
        // Hangs up when we die. (A parent's PID says nothing where COMMAND begins a PID namespace.)
        let (alive, ours) = pipe2(OFlag::O_CLOEXEC)?;
        let copy = ours.as_raw_fd();
        let prepare = move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // We may have been killed before that.
            // SAFETY: in the child, whose copy this is; nothing there uses it.
            unsafe { libc::close(copy) };
            let mut polled = [PollFd::new(alive.as_fd(), PollFlags::empty())];
            if poll(&mut polled, PollTimeout::ZERO)? != 0 {
                return Err(Errno::ESRCH.into());
            }
            if pipes_ignored {
                // SAFETY: no handler is set.
                unsafe { signal::signal(Signal::SIGPIPE, SigHandler::SigIgn)? };
            }
            sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
            Ok(())
        };
        // SAFETY: it only makes system calls that are async-signal-safe, and allocates nothing.
        unsafe { command.pre_exec(prepare) };
        // From the thread that stays: the death signal is sent when the thread that forked ends.
        let child = command.spawn();
        drop(ours);
        child
    }

    /// The signals act as they did before.
    pub(crate) fn give_back(self) -> io::Result<()> {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None)?;
        Ok(())
    }

    /// By which signal whoever wants all of it to end said so, if it was said. (What else than TERM came before the lock was lost was for COMMAND, which went on.)
    pub(crate) fn was_told_to_end(&self) -> Option<Signal> {
        let mut late = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP].into_iter();
        let term = Some(Signal::SIGTERM).filter(|term| self.received.contains(*term));
        term.or_else(|| late.find(|signal| self.received_late.contains(*signal)))
    }

    /// Waits until `child` has ended, passing signals on to it; whether it did by itself. If the lock is lost meanwhile, says so by `say`, and ends it, and all that it
    /// started.
    pub(crate) fn wait_for(&mut self, child: &Child, lost: Option<&Lost>, say: impl Fn()) -> io::Result<(End, bool)> {
        let child = Pid::from_raw(child.id() as i32);
        let mut kill_at = None;
        loop {
            if let Some(lost) = lost {
                let left = kill_at.map(|at: Instant| at.saturating_duration_since(Instant::now()));
                let timeout =
                    left.map_or(PollTimeout::NONE, |left| PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX));
                let inbox = self.inbox.as_fd();
                let mut polled = [lost.read.as_fd(), inbox].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
                match poll(&mut polled, timeout) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno.into()),
                }
                // First: it may have ended by itself.
                if !polled[1].any().unwrap_or(false) {
                    if lost.is_there() && kill_at.is_none() {
                        say();
                        kill_at = Some(Instant::now() + GRACE);
                        end(child);
                    }
                    if kill_at.is_some_and(|at| at <= Instant::now()) {
                        let _ = kill(child, Signal::SIGKILL);
                        kill_at = Some(Instant::now() + GRACE);
                    }
                    continue;
                }
            }
            match self.inbox.read_signal() {
                Ok(Some(info)) => match Signal::try_from(info.ssi_signo as i32) {
                    Ok(Signal::SIGCHLD) => {
                        if let Some(end) = reap(child)? {
                            if kill_at.is_some() {
                                self.end_descendants(child)?;
                            }
                            return Ok((end, kill_at.is_none()));
                        }
                    }
                    Ok(signal) => {
                        self.receive(signal, &info, child);
                        if kill_at.is_some() {
                            self.received_late.add(signal);
                        }
                    }
                    Err(_) => {}
                },
                Ok(None) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Ends what COMMAND has left behind, as it was ended itself.
    fn end_descendants(&mut self, child: Pid) -> io::Result<()> {
        let kill_at = Instant::now() + GRACE;
        let mut told = Vec::new();
        loop {
            reap(child)?;
            let left = children();
            if left.is_empty() || Instant::now() > kill_at + GRACE {
                return Ok(());
            }
            for orphan in left {
                if kill_at <= Instant::now() {
                    let _ = kill(orphan, Signal::SIGKILL);
                } else if !told.contains(&orphan) {
                    told.push(orphan);
                    end(orphan);
                }
            }
            let mut polled = [PollFd::new(self.inbox.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut polled, PollTimeout::from(50u8));
            if polled[0].any().unwrap_or(false)
                && let Ok(Some(info)) = self.inbox.read_signal()
                && let Ok(signal) = Signal::try_from(info.ssi_signo as i32)
            {
                self.received.add(signal);
                self.received_late.add(signal);
            }
        }
    }

    fn receive(&mut self, signal: Signal, info: &siginfo, child: Pid) {
        self.received.add(signal);
        // COMMAND's own went where it wanted them (`kill 0`).
        if !reaches_by_itself(signal, info, child) && info.ssi_pid != child.as_raw() as u32 {
            // It fails only if it has ended; then that is the next signal.
            let _ = kill(child, signal);
        }
    }

    /// Ends this process as COMMAND did, if it ended of a signal that was sent here as well: whoever sent it, a shell above all, goes
    /// by that. Otherwise returns.
    pub(crate) fn follow(&self, killed_by: i32) {
        let Ok(killed_by) = Signal::try_from(killed_by) else { return };
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

/// Whether the terminal sent the signal, and to COMMAND as well: to the whole foreground group, to which COMMAND still belongs. At a
/// hang-up the leader of the session is told alone. (A timer that was set before hostlock began is the kernel's, too, and nobody else's.)
fn reaches_by_itself(signal: Signal, info: &siginfo, child: Pid) -> bool {
    let by_kernel = info.ssi_code > 0;
    let to_group = match signal {
        Signal::SIGINT | Signal::SIGQUIT | Signal::SIGWINCH | Signal::SIGCONT => true,
        Signal::SIGHUP => getsid(None) != Ok(getpid()),
        _ => false,
    };
    by_kernel && to_group && getpgid(Some(child)) == Ok(getpgrp())
}

/// Asks a process to end. A stopped one could not. They fail only if it has ended; then that is the next signal.
fn end(process: Pid) {
    let _ = (kill(process, Signal::SIGTERM), kill(process, Signal::SIGCONT));
}

/// Whose parent this thread is, and those whose parents are gone. Without `/proc`, nobody.
fn children() -> Vec<Pid> {
    let list = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists: Vec<String> = tasks.map(list).collect();
    lists
        .iter()
        .flat_map(|list| list.split_ascii_whitespace())
        .filter_map(|pid| pid.parse().ok())
        .map(Pid::from_raw)
        .collect()
}

/// Collects whatever ended; how `child` did, if it is among that. (As the first process of a container we are given orphans.)
fn reap(child: Pid) -> io::Result<Option<End>> {
    loop {
        let mut status = 0;
        // nix knows no ends by real-time signals.
        #[allow(unsafe_code)]
        // SAFETY: the pointer is valid for the call.
        let ended = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG) };
        match Errno::result(ended) {
            Ok(0) | Err(Errno::ECHILD) => return Ok(None),
            Ok(pid) if pid == child.as_raw() && libc::WIFEXITED(status) => {
                return Ok(Some(End::Exited(libc::WEXITSTATUS(status) as u8)));
            }
            Ok(pid) if pid == child.as_raw() && libc::WIFSIGNALED(status) => {
                return Ok(Some(End::Killed(libc::WTERMSIG(status))));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
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
