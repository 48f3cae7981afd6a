//! A process that is led through an operation from one system call to the next, and of whose calls one fails.
//!
//! A call that is to fail is not made: at its entry the number is replaced by one that no call has, at its exit what it gives by the error.
//! Two cannot fail so. `close` is made, and only says that it failed: so does the kernel, whose descriptor is gone whatever `close` says.
//! `brk` has no error: it says where the end still is, as when asked for nothing.
//!
//! Left out, as they do not come back or have no error: the ends of threads and processes, the return from a signal handler, who and whose one
//! is. And `F_GETFD`, by which std looks in debug builds whether what it is about to close is open, and ends the process if not. Of other threads
//! than the first also what they do before their first futex call, which is the C library's and std's setting them up: there
//! an error ends the process on their account (`rseq`, the stack for signals). The process talks by memory and by stopping itself, outside of
//! what is counted.
//!
//! All that depends on the processor stands in [`Call`].

use std::collections::HashMap;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setpgid};

use super::control::{Control, ENDED};
use super::trace::{Forked, REFUSED, Watched, be_traced};

/// Nothing here takes so long, even if a call failed.
const BOUND: Duration = Duration::from_secs(15);

/// The n-th call, from 1, fails so.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub nth: usize,
    pub errno: Errno,
}

/// A system call that a thread stands at.
struct Call {
    thread: Pid,
    number: libc::c_long,
    arguments: [u64; 2],
}

#[cfg(target_arch = "x86_64")]
impl Call {
    const KNOWN_PROCESSOR: bool = true;
    const NONE: u64 = u64::MAX;

    fn at(thread: Pid) -> Self {
        let registers = ptrace::getregs(thread).expect("the registers of a stopped thread");
        Self { thread, number: registers.orig_rax as libc::c_long, arguments: [registers.rdi, registers.rsi] }
    }

    /// At its entry: it is not made.
    fn skip(&self) {
        let mut registers = ptrace::getregs(self.thread).expect("the registers of a stopped thread");
        registers.orig_rax = Self::NONE;
        ptrace::setregs(self.thread, registers).expect("a stopped thread");
    }

    /// At its entry: it asks for nothing.
    fn ask_for_nothing(&self) {
        let mut registers = ptrace::getregs(self.thread).expect("the registers of a stopped thread");
        registers.rdi = 0;
        ptrace::setregs(self.thread, registers).expect("a stopped thread");
    }

    /// At its exit: it failed.
    fn answer(thread: Pid, errno: Errno) {
        let mut registers = ptrace::getregs(thread).expect("the registers of a stopped thread");
        registers.rax = (-(errno as i64)) as u64;
        ptrace::setregs(thread, registers).expect("a stopped thread");
    }
}

/// On ARM the number would be replaced by NT_ARM_SYSTEM_CALL; nobody has run that yet.
#[cfg(not(target_arch = "x86_64"))]
impl Call {
    const KNOWN_PROCESSOR: bool = false;

    fn at(thread: Pid) -> Self {
        Self { thread, number: 0, arguments: [0; 2] }
    }

    fn skip(&self) {
        unreachable!("sweeps are skipped on this processor")
    }

    fn ask_for_nothing(&self) {
        unreachable!("sweeps are skipped on this processor")
    }

    fn answer(_: Pid, _: Errno) {
        unreachable!("sweeps are skipped on this processor")
    }
}

impl Call {
    fn cannot_fail(&self) -> bool {
        const DO_NOT_COME_BACK: [libc::c_long; 4] =
            [libc::SYS_exit, libc::SYS_exit_group, libc::SYS_rt_sigreturn, libc::SYS_restart_syscall];
        const HAVE_NO_ERROR: [libc::c_long; 4] =
            [libc::SYS_geteuid, libc::SYS_getpid, libc::SYS_gettid, libc::SYS_sched_yield];
        let is_check_of_std = self.number == libc::SYS_fcntl && self.arguments[1] == libc::F_GETFD as u64;
        is_check_of_std || DO_NOT_COME_BACK.contains(&self.number) || HAVE_NO_ERROR.contains(&self.number)
    }

    fn fail(&self, errno: Errno) -> Answer {
        match self.number {
            libc::SYS_close => Answer::Replaced(errno),
            libc::SYS_brk => {
                self.ask_for_nothing();
                Answer::AsItIs
            }
            _ => {
                self.skip();
                Answer::Replaced(errno)
            }
        }
    }

    fn name(&self) -> String {
        const NAMES: &[(libc::c_long, &str)] = &[
            (libc::SYS_access, "access"),
            (libc::SYS_brk, "brk"),
            (libc::SYS_clock_nanosleep, "clock_nanosleep"),
            (libc::SYS_clone, "clone"),
            (libc::SYS_clone3, "clone3"),
            (libc::SYS_close, "close"),
            (libc::SYS_fallocate, "fallocate"),
            (libc::SYS_fchmod, "fchmod"),
            (libc::SYS_fcntl, "fcntl"),
            (libc::SYS_fdatasync, "fdatasync"),
            (libc::SYS_flock, "flock"),
            (libc::SYS_fstat, "fstat"),
            (libc::SYS_fstatfs, "fstatfs"),
            (libc::SYS_fsync, "fsync"),
            (libc::SYS_futex, "futex"),
            (libc::SYS_getcwd, "getcwd"),
            (libc::SYS_geteuid, "geteuid"),
            (libc::SYS_gettid, "gettid"),
            (libc::SYS_kill, "kill"),
            (libc::SYS_lchown, "lchown"),
            (libc::SYS_lseek, "lseek"),
            (libc::SYS_madvise, "madvise"),
            (libc::SYS_membarrier, "membarrier"),
            (libc::SYS_mkdir, "mkdir"),
            (libc::SYS_mmap, "mmap"),
            (libc::SYS_mprotect, "mprotect"),
            (libc::SYS_munmap, "munmap"),
            (libc::SYS_newfstatat, "newfstatat"),
            (libc::SYS_openat, "openat"),
            (libc::SYS_pidfd_open, "pidfd_open"),
            (libc::SYS_poll, "poll"),
            (libc::SYS_pread64, "pread64"),
            (libc::SYS_pwrite64, "pwrite64"),
            (libc::SYS_read, "read"),
            (libc::SYS_rename, "rename"),
            (libc::SYS_renameat2, "renameat2"),
            (libc::SYS_rmdir, "rmdir"),
            (libc::SYS_rt_sigprocmask, "rt_sigprocmask"),
            (libc::SYS_sched_yield, "sched_yield"),
            (libc::SYS_stat, "stat"),
            (libc::SYS_statx, "statx"),
            (libc::SYS_unlink, "unlink"),
        ];
        let known = NAMES.iter().find(|(number, _)| *number == self.number);
        known.map_or_else(|| format!("system call {}", self.number), |(_, name)| (*name).into())
    }
}

/// What is done at the exit of a call that is to fail.
#[derive(Clone, Copy)]
enum Answer {
    Replaced(Errno),
    AsItIs,
}

/// What came of leading it.
#[derive(Clone, Debug, Default)]
pub struct Course {
    /// How many calls there were.
    pub calls: usize,
    /// The name of the one that failed.
    pub failed: Option<String>,
    /// What stays mapped, as unmapping it failed: from where, and how long.
    pub kept_mapped: Option<[u64; 2]>,
}

#[derive(Clone, Copy, Default)]
struct Thread {
    in_call: bool,
    answer: Option<Answer>,
    /// It made a futex call, or is the first one.
    is_set_up: bool,
}

/// The process. It is stopped whenever nobody leads it, and killed when this is dropped, with all its threads and children.
pub struct Led {
    forked: Forked,
    /// Who stopped itself last: the process, or a child that goes on in its place.
    pub leader: Pid,
    threads: HashMap<Pid, Thread>,
    group: Pid,
    control: &'static Control,
}

/// In the process: stops it, until it is led on.
pub fn stop() {
    let _ = raise(Signal::SIGSTOP);
}

impl Led {
    /// Forks a process that does `what`; it stops before that, and after it. `Err`: why it cannot be led here.
    pub fn new(control: &'static Control, what: impl FnOnce(&'static Control)) -> Result<Self, String> {
        if !Call::KNOWN_PROCESSOR {
            return Err("calls are failed on x86-64 only".into());
        }
        let mut forked = Forked::new(control, |control| {
            be_traced();
            let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
            stop();
            what(control);
            stop();
        });
        let pid = forked.pid;
        match waitpid(pid, None).expect("our own child can be waited for") {
            WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
            WaitStatus::Exited(_, REFUSED) => {
                forked.was_reaped();
                return Err("ptrace is refused".into());
            }
            other => panic!("a process did not stop but went: {other:?}"),
        }
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_EXITKILL
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK;
        ptrace::setoptions(pid, options).expect("options");
        let threads = HashMap::from([(pid, Thread { is_set_up: true, ..Thread::default() })]);
        Ok(Self { forked, leader: pid, threads, group: pid, control })
    }

    /// Lets it go on until it stops itself.
    pub fn go_on(&mut self) -> Result<(), String> {
        self.run(None, None).map(drop)
    }

    /// Leads it through the operation that begins now, and then on until it stops itself. That call fails.
    pub fn lead(&mut self, fault: Option<Fault>) -> Result<Course, String> {
        self.run(Some(fault), Some(Course::default()))
    }

    fn run(&mut self, fault: Option<Option<Fault>>, course: Option<Course>) -> Result<Course, String> {
        let mut course = course.unwrap_or_default();
        let started = Instant::now();
        let mut is_led = fault.is_some();
        let fault = fault.flatten();
        self.resume(self.leader, is_led, None);
        loop {
            let status = {
                let _watched = Watched::new(self.leader);
                waitpid(Pid::from_raw(-self.group.as_raw()), Some(WaitPidFlag::__WALL))
            };
            let status = status.expect("our own children can be waited for");
            let signal = match status {
                WaitStatus::PtraceSyscall(thread) => {
                    is_led &= self.control.phase.load(SeqCst) < ENDED;
                    self.at_call(thread, is_led, fault, &mut course);
                    // What comes after the call that failed need not be counted.
                    is_led &= course.failed.is_none() || self.threads[&thread].in_call;
                    None
                }
                WaitStatus::PtraceEvent(..) => None,
                WaitStatus::Stopped(thread, Signal::SIGSTOP) if !self.threads.contains_key(&thread) => {
                    let is_set_up = !std::path::Path::new(&format!("/proc/{}/task/{thread}", self.group)).exists();
                    self.threads.insert(thread, Thread { is_set_up, ..Thread::default() });
                    None
                }
                WaitStatus::Stopped(thread, Signal::SIGSTOP) => {
                    self.leader = thread;
                    if started.elapsed() > BOUND {
                        return Err(format!("it took {:?}", started.elapsed()));
                    }
                    return Ok(course);
                }
                WaitStatus::Stopped(_, signal) => Some(signal),
                WaitStatus::Exited(thread, _) if thread != self.group && thread != self.leader => {
                    self.threads.remove(&thread);
                    continue;
                }
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                    let ended =
                        format!("it ended: {status:?}, {}", course.failed.as_deref().unwrap_or("nothing failed"));
                    self.threads.remove(&status.pid().expect("somebody"));
                    return Err(ended);
                }
                other => panic!("a process was not led but went: {other:?}"),
            };
            self.resume(status.pid().expect("somebody"), is_led, signal);
        }
    }

    fn resume(&self, thread: Pid, is_led: bool, signal: Option<Signal>) {
        // It may have been killed.
        let _ = if is_led { ptrace::syscall(thread, signal) } else { ptrace::cont(thread, signal) };
    }

    /// A thread is at the entry or at the exit of a call.
    fn at_call(&mut self, thread: Pid, is_led: bool, fault: Option<Fault>, course: &mut Course) {
        let state = self.threads.entry(thread).or_default();
        state.in_call = !state.in_call;
        if !state.in_call {
            if let Some(Answer::Replaced(errno)) = state.answer.take() {
                Call::answer(thread, errno);
            }
            return;
        }
        let call = Call::at(thread);
        state.is_set_up |= call.number == libc::SYS_futex;
        if !is_led || !state.is_set_up || call.cannot_fail() {
            return;
        }
        course.calls += 1;
        let Some(fault) = fault.filter(|fault| fault.nth == course.calls) else { return };
        course.failed = Some(call.name());
        if call.number == libc::SYS_munmap {
            course.kept_mapped = Some(call.arguments);
        }
        state.answer = Some(call.fail(fault.errno));
    }
}

impl Drop for Led {
    fn drop(&mut self) {
        // All its threads, and whoever it forked: the first one is gone when all of them are.
        for pid in self.threads.keys() {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        let group = Pid::from_raw(-self.group.as_raw());
        let _watched = Watched::new(self.group);
        while matches!(waitpid(group, Some(WaitPidFlag::__WALL)), Err(Errno::EINTR) | Ok(_)) {}
        self.forked.was_reaped();
    }
}
