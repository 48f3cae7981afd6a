//! The victim of a crash test: a forked process that is led through an operation instruction by instruction, and killed.
//!
//! A *point* is a number of instructions executed since the operation began. Because a traced process runs to its next system
//! call at full speed, a point is stored as so many system calls and so many instructions after the last of them. All
//! victims of a sweep are forked from one process, so their addresses are the same, and one recorded run tells where all
//! points are.
//!
//! All that depends on the processor stands at the beginning, up to [`is_pause`].

use std::collections::HashMap;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::control::{BEGUN, Control, ENDED};
use super::support::PATIENCE;

/// What a victim is about to execute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    SystemCall,
    /// What spinning consists of.
    Pause,
    Other,
}

/// Whether [`next_instruction`] knows this processor.
pub const KNOWN_PROCESSOR: bool = cfg!(target_arch = "x86_64");

/// Of the instruction that makes a system call.
pub const CALL_LENGTH: u64 = 2;

/// Where `victim` stands.
#[cfg(target_arch = "x86_64")]
fn address_of(victim: Pid) -> u64 {
    ptrace::getregs(victim).expect("the registers of a stopped victim").rip
}

#[cfg(not(target_arch = "x86_64"))]
fn address_of(_: Pid) -> u64 {
    unreachable!("sweeps are skipped on this processor")
}

/// Where `victim` stands, and what it executes next.
#[cfg(target_arch = "x86_64")]
fn next_instruction(victim: Pid) -> (u64, Instruction) {
    let at = address_of(victim);
    let bytes = ptrace::read(victim, at as ptrace::AddressType).expect("the code of a stopped victim");
    let instruction = match bytes as u64 & 0xFFFF {
        0x050F => Instruction::SystemCall,
        0x90F3 => Instruction::Pause,
        _ => Instruction::Other,
    };
    (at, instruction)
}

#[cfg(not(target_arch = "x86_64"))]
fn next_instruction(_: Pid) -> (u64, Instruction) {
    unreachable!("sweeps are skipped on this processor")
}

/// Code that begins with a breakpoint instead of its first instruction.
#[cfg(target_arch = "x86_64")]
fn with_breakpoint(code: i64) -> i64 {
    code & !0xFF | 0xCC
}

#[cfg(not(target_arch = "x86_64"))]
fn with_breakpoint(_: i64) -> i64 {
    unreachable!("sweeps are skipped on this processor")
}

/// Puts a victim that came upon a breakpoint back before it; whether that was the one at `address`.
#[cfg(target_arch = "x86_64")]
fn is_back_at(victim: Pid, address: u64) -> bool {
    let mut registers = ptrace::getregs(victim).expect("the registers of a stopped victim");
    let is_it = registers.rip == address + 1;
    if is_it {
        registers.rip = address;
        ptrace::setregs(victim, registers).expect("the registers of a stopped victim");
    }
    is_it
}

#[cfg(not(target_arch = "x86_64"))]
fn is_back_at(_: Pid, _: u64) -> bool {
    unreachable!("sweeps are skipped on this processor")
}

/// What a victim's last futex call gave: 0 if it was woken.
#[cfg(target_arch = "x86_64")]
pub fn result_of_call(victim: &Victim) -> i64 {
    ptrace::getregs(victim.pid).expect("the registers of a stopped victim").rax as i64
}

#[cfg(not(target_arch = "x86_64"))]
pub fn result_of_call(_: &Victim) -> i64 {
    unreachable!("sweeps are skipped on this processor")
}

/// Whether the system call at whose entry a victim stands puts it to sleep on a futex.
#[cfg(target_arch = "x86_64")]
pub fn is_futex_wait(victim: &Victim) -> bool {
    let registers = ptrace::getregs(victim.pid).expect("the registers of a stopped victim");
    let operation = registers.rsi as i32 & !(libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME);
    match registers.orig_rax as i64 {
        libc::SYS_futex => matches!(operation, libc::FUTEX_WAIT | libc::FUTEX_WAIT_BITSET),
        call => call == libc::SYS_futex_waitv,
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub fn is_futex_wait(_: &Victim) -> bool {
    unreachable!("sweeps are skipped on this processor")
}

/// Whether that call is a pause.
#[cfg(target_arch = "x86_64")]
pub fn is_pause(victim: &Victim) -> bool {
    let registers = ptrace::getregs(victim.pid).expect("the registers of a stopped victim");
    registers.orig_rax as i64 == libc::SYS_clock_nanosleep
}

#[cfg(not(target_arch = "x86_64"))]
pub fn is_pause(_: &Victim) -> bool {
    unreachable!("sweeps are skipped on this processor")
}

/// A place in an operation.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// System calls made.
    pub calls: u32,
    /// Instructions executed after the last of them.
    pub steps: u32,
    /// Of these instructions, how many changed the segment; 0 unless the last one did.
    pub changes: u32,
    /// Address of the last of these instructions, and how often it was executed since the call.
    pub last: (u64, u32),
    /// Address of the next instruction, by which a later run knows that it is in the same place.
    pub address: u64,
    /// The instruction before made a system call, or changed the segment.
    pub told_apart: bool,
}

/// A process that does something in a world that is shared with it, and is killed when this is dropped.
#[derive(Debug)]
pub struct Forked {
    pub pid: Pid,
    reaped: bool,
}

impl Forked {
    /// Forks a process that does `what` and then sleeps until it is killed.
    pub fn new(control: &'static Control, what: impl FnOnce(&'static Control)) -> Self {
        control.reset();
        // SAFETY: the child runs Rust code in a copy of a process whose other threads are gone. The locks it can meet are those
        // of glibc's malloc, which a fork leaves free, and this library's own, which are made for it.
        match unsafe { fork() }.expect("a fork") {
            ForkResult::Parent { child } => Self { pid: child, reaped: false },
            ForkResult::Child => {
                let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
                let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| what(control)));
                if outcome.is_err() {
                    // SAFETY: ends this process, and runs nothing of the test runner that it is a copy of.
                    unsafe { libc::_exit(101) };
                }
                control.phase.store(ENDED, SeqCst);
                loop {
                    nix::unistd::pause();
                }
            }
        }
    }

    /// Kills it, and waits until nothing is left of it.
    pub fn kill(&mut self) {
        if std::mem::replace(&mut self.reaped, true) {
            return;
        }
        let _ = kill(self.pid, Signal::SIGKILL);
        loop {
            match waitpid(self.pid, None) {
                // A traced process that was about to stop says so first.
                Ok(WaitStatus::Stopped(..) | WaitStatus::PtraceSyscall(_)) => {}
                Ok(WaitStatus::Signaled(_, Signal::SIGKILL, _)) => return,
                other => {
                    assert!(std::thread::panicking(), "a killed process ended as {other:?}");
                    return;
                }
            }
        }
    }

    /// Somebody else waited for its end.
    pub fn was_reaped(&mut self) {
        self.reaped = true;
    }

    pub fn is_asleep(&self) -> bool {
        self.state() == Some('S')
    }

    /// The letter of its state in /proc.
    fn state(&self) -> Option<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        stat.rsplit_once(')')?.1.trim_start().chars().next()
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A traced process, stopped somewhere in an operation whenever nobody is moving it.
#[derive(Debug)]
pub struct Victim {
    forked: Forked,
    pub pid: Pid,
    /// Where there is an instruction that makes a system call.
    pub gate: u64,
    control: &'static Control,
}

impl Victim {
    /// Forks a process that does `what`, which is to call [`Control::begin`] right before the operation. It is stopped there.
    /// `None` where tracing is refused.
    pub fn new(control: &'static Control, what: impl FnOnce(&'static Control)) -> Option<Self> {
        let mut victim = Self::at_its_stop(control, what)?;
        while control.phase.load(SeqCst) != BEGUN {
            victim.step();
        }
        Some(victim)
    }

    /// The same, a few instructions before: for whoever does not count instructions.
    pub fn at_its_stop(control: &'static Control, what: impl FnOnce(&'static Control)) -> Option<Self> {
        let forked = Forked::new(control, |control| {
            be_traced();
            what(control);
        });
        let pid = forked.pid;
        let mut victim = Self { forked, pid, gate: 0, control };
        match victim.wait() {
            WaitStatus::Exited(_, REFUSED) => {
                victim.forked.reaped = true;
                return None;
            }
            WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
            other => victim.unexpected(other),
        }
        // It stopped itself by a call, and stands after that.
        victim.gate = address_of(pid) - CALL_LENGTH;
        ptrace::setoptions(pid, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL).expect("options");
        Some(victim)
    }

    pub fn control(&self) -> &'static Control {
        self.control
    }

    pub fn wait(&self) -> WaitStatus {
        let _watched = Watched::new(self.pid);
        waitpid(self.pid, None).expect("our own child can be waited for")
    }

    pub fn unexpected(&mut self, status: WaitStatus) -> ! {
        self.forked.reaped = matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..));
        panic!("the victim was not led but went: {status:?}");
    }

    /// Whether it came to the end of the operation.
    pub fn has_ended(&self) -> bool {
        self.control.phase.load(SeqCst) == ENDED
    }

    /// Executes one instruction.
    pub fn step(&mut self) {
        ptrace::step(self.pid, None).expect("a stopped victim can be moved");
        match self.wait() {
            WaitStatus::Stopped(_, Signal::SIGTRAP) | WaitStatus::PtraceSyscall(_) => {}
            other => self.unexpected(other),
        }
    }

    /// Runs to the next system call, or out of the one whose entry it stands at.
    pub fn run_to_call(&mut self) {
        self.start_to_call();
        self.stopped_at_call();
    }

    /// The first half of [`run_to_call`](Self::run_to_call), for a call that sleeps.
    pub fn start_to_call(&mut self) {
        ptrace::syscall(self.pid, None).expect("a stopped victim can be moved");
    }

    pub fn stopped_at_call(&mut self) {
        match self.wait() {
            WaitStatus::PtraceSyscall(_) => {}
            other => self.unexpected(other),
        }
    }

    pub fn is_asleep(&self) -> bool {
        self.forked.is_asleep()
    }

    pub fn is_stopped(&self) -> bool {
        self.forked.state() == Some('t')
    }

    /// Runs it through the whole operation from one system call to the next: whether the segment changed before each of them.
    pub fn outline(&mut self, mut changed: impl FnMut() -> bool) -> Vec<bool> {
        let mut spans = Vec::new();
        loop {
            changed();
            self.run_to_call();
            spans.push(changed());
            if self.has_ended() {
                return spans;
            }
            self.run_to_call();
        }
    }

    /// Leads it through the whole operation, and notes every point of it, but of the spans between system calls that an outline says
    /// change nothing only the first. `changed` says whether the segment has changed since it was asked the last time.
    pub fn record(&mut self, outline: Option<&[bool]>, mut changed: impl FnMut() -> bool) -> Vec<Point> {
        changed();
        let (address, mut next) = next_instruction(self.pid);
        let mut points = vec![Point { calls: 0, steps: 0, changes: 0, last: (0, 0), address, told_apart: true }];
        let begin = Instant::now();
        // What was executed once need not be read again.
        let (mut at, mut visits, mut code) = (address, HashMap::new(), HashMap::new());
        let (mut calls, mut steps, mut changes) = (0, 0, 0);
        while !self.has_ended() {
            assert!(begin.elapsed() < PATIENCE, "the operation does not come to an end: {} points", points.len());
            let changes_nothing = outline.is_some_and(|spans| spans.get(calls as usize) == Some(&false));
            if next == Instruction::Pause || changes_nothing && next != Instruction::SystemCall {
                // Spinning is tens of thousands of instructions that only look. It ends in a system call.
                self.run_to_call();
                if self.has_ended() {
                    break;
                }
                next = Instruction::SystemCall;
            }
            self.step();
            let (is_call, is_change) = (next == Instruction::SystemCall, changed());
            let mut last = (at, 0);
            if is_call {
                (calls, steps, changes) = (calls + 1, 0, 0);
                visits.clear();
            } else {
                (steps, changes) = (steps + 1, changes + u32::from(is_change));
                let count = visits.entry(at).or_insert(0);
                *count += 1;
                last.1 = *count;
            }
            let address = address_of(self.pid);
            (at, next) = (address, *code.entry(address).or_insert_with(|| next_instruction(self.pid).1));
            let changes = if is_change { changes } else { 0 };
            points.push(Point { calls, steps, changes, last, address, told_apart: is_call || is_change });
        }
        points
    }

    /// Leads it to a point that was recorded; whether it got there. To one that changes the segment it goes by these changes, as the
    /// clock and allocations take an instruction more or less each time.
    pub fn go_to(&mut self, point: Point, mut changed: impl FnMut() -> bool) -> bool {
        for _ in 0..point.calls {
            self.run_to_call();
            if self.has_ended() {
                return false;
            }
            self.run_to_call();
        }
        // As a stop costs much more than an instruction, to what is far by a breakpoint.
        let (address, visits) = point.last;
        if point.steps > FAR && visits < point.steps / FAR {
            if !self.run_to(address, visits) {
                return false;
            }
            self.step();
            return next_instruction(self.pid).0 == point.address;
        }
        let (mut steps, mut changes) = (0, 0);
        if point.changes > 0 {
            changed();
        }
        while if point.changes > 0 { changes < point.changes } else { steps < point.steps } {
            // Beyond the end it would sleep.
            if self.has_ended() || steps > point.steps + 1000 {
                return false;
            }
            self.step();
            steps += 1;
            if point.changes > 0 {
                changes += u32::from(changed());
            }
        }
        next_instruction(self.pid).0 == point.address
    }

    /// Runs until it is about to execute the instruction at `address` for the so many-th time; `false`: it came to a system call before.
    fn run_to(&mut self, address: u64, visits: u32) -> bool {
        let at = address as ptrace::AddressType;
        let code = ptrace::read(self.pid, at).expect("the code of a stopped victim");
        for visit in 0..visits {
            if visit > 0 {
                self.step();
            }
            ptrace::write(self.pid, at, with_breakpoint(code)).expect("the code of a stopped victim");
            self.start_to_call();
            let is_there = match self.wait() {
                WaitStatus::PtraceSyscall(_) => false,
                WaitStatus::Stopped(_, Signal::SIGTRAP) if is_back_at(self.pid, address) => true,
                other => self.unexpected(other),
            };
            ptrace::write(self.pid, at, code).expect("the code of a stopped victim");
            if !is_there {
                return false;
            }
        }
        true
    }

    pub fn kill(&mut self) {
        // Before: what survivors do from now on, they may do.
        self.control.dead.store(1, SeqCst);
        self.forked.kill();
    }
}

/// From so many instructions on a breakpoint is faster than a stop at each.
const FAR: u32 = 100;

/// The exit code of a child that nobody may trace.
pub const REFUSED: i32 = 77;

/// In a forked child: has its parent trace it, or ends it.
pub fn be_traced() {
    if ptrace::traceme().is_err() {
        // SAFETY: as in `Forked::new`.
        unsafe { libc::_exit(REFUSED) };
    }
}

/// Whom threads of this process wait for. Threads are few, so each takes the first free place.
static WAITED_FOR: [AtomicI32; 64] = [const { AtomicI32::new(0) }; 64];

/// A wait for a victim. If the victim hangs it is killed, so that the test fails instead of hanging, too.
pub struct Watched(usize);

impl Watched {
    pub fn new(pid: Pid) -> Self {
        static DOG: std::sync::Once = std::sync::Once::new();
        DOG.call_once(|| {
            std::thread::spawn(watch);
        });
        let place = WAITED_FOR
            .iter()
            .position(|place| place.compare_exchange(0, pid.as_raw(), Relaxed, Relaxed).is_ok())
            .expect("a place for each thread");
        Self(place)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        WAITED_FOR[self.0].store(0, Relaxed);
    }
}

fn watch() {
    let mut since = [(0, Instant::now()); WAITED_FOR.len()];
    loop {
        std::thread::sleep(Duration::from_secs(1));
        for (place, (seen, from)) in WAITED_FOR.iter().zip(&mut since) {
            let now = place.load(Relaxed);
            if now == 0 || now != *seen {
                (*seen, *from) = (now, Instant::now());
            } else if from.elapsed() > PATIENCE * 2 {
                // Longer than any victim is led.
                let _ = kill(Pid::from_raw(now), Signal::SIGKILL);
            }
        }
    }
}
