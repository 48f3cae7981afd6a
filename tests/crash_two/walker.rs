//! A victim that is led from one thing that others can see to the next: a system call, or a change of the segment.
//!
//! It may not write to the segment, so each instruction that would change it stops before that (also a compare-and-swap that fails in
//! the end). The test then gives it the right, has it execute that one instruction, and takes the right away again, by system calls that it has the
//! victim make. So what is between two such places runs at full speed, and no run has to be recorded before.
//!
//! Its sleeps have no end of their own: somebody wakes it, or the test [ends the sleep](Walker::end_sleep) as its timer would.
//! So nothing depends on how long anything takes, and whoever is not woken shows.
//!
//! All that depends on the processor stands in [`Registers`].

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::control::Control;
use super::support::PATIENCE;
use super::trace::{CALL_LENGTH, Victim, is_futex_wait};

/// How often all are found asleep before that is believed: for a moment the kernel says so of whoever is about to look once more.
const SURE: u32 = 40;
/// For how long they are, before that is a fault.
const CERTAIN: Duration = Duration::from_secs(2);

#[cfg(target_arch = "x86_64")]
#[derive(Clone, Copy)]
struct Registers(libc::user_regs_struct);

#[cfg(target_arch = "x86_64")]
impl Registers {
    const NO_CALL: u64 = u64::MAX;

    fn of(pid: Pid) -> Self {
        Self(ptrace::getregs(pid).expect("the registers of a stopped victim"))
    }

    fn put(self, pid: Pid) {
        ptrace::setregs(pid, self.0).expect("the registers of a stopped victim");
    }

    /// Whether others can tell that it makes the system call at whose entry it stands, or it can tell something of others by it.
    fn is_seen(self) -> bool {
        match self.0.orig_rax as i64 {
            libc::SYS_sched_yield | libc::SYS_gettid | libc::SYS_getpid | libc::SYS_brk | libc::SYS_fstatfs => false,
            // By which std looks in debug builds whether what it closes is open.
            libc::SYS_fcntl => self.0.rsi as i32 != libc::F_GETFD,
            _ => true,
        }
    }

    /// At the entry of a call: another one is made.
    fn with_call(mut self, call: i64, arguments: [u64; 3]) -> Self {
        self.0.orig_rax = call as u64;
        [self.0.rdi, self.0.rsi, self.0.rdx] = arguments;
        self
    }

    /// About to make a call, by the instruction at `gate`.
    fn at_gate(mut self, gate: u64, call: i64, arguments: [u64; 3]) -> Self {
        (self.0.rip, self.0.rax) = (gate, call as u64);
        [self.0.rdi, self.0.rsi, self.0.rdx] = arguments;
        self
    }

    /// As at the entry of a call: about to make that.
    fn before_call(mut self) -> Self {
        self.0.rip -= CALL_LENGTH;
        self.0.rax = self.0.orig_rax;
        self.0.orig_rax = Self::NO_CALL;
        self
    }

    fn result(self) -> i64 {
        self.0.rax as i64
    }

    fn with_result(mut self, result: i64) -> Self {
        (self.0.rax, self.0.orig_rax) = (result as u64, Self::NO_CALL);
        self
    }

    /// At the entry of a sleep on a futex, or on several: it has no deadline.
    fn without_deadline(mut self) -> Self {
        self.0.r10 = 0;
        self
    }
}

/// What a call gives that a signal interrupted and that the kernel is about to make once more.
const INTERRUPTED: i64 = -512;

#[cfg(not(target_arch = "x86_64"))]
#[derive(Clone, Copy)]
struct Registers;

#[cfg(not(target_arch = "x86_64"))]
#[rustfmt::skip]
impl Registers {
    fn of(_: Pid) -> Self { unreachable!("sweeps are skipped on this processor") }
    fn put(self, _: Pid) {}
    fn is_seen(self) -> bool { true }
    fn with_call(self, _: i64, _: [u64; 3]) -> Self { self }
    fn at_gate(self, _: u64, _: i64, _: [u64; 3]) -> Self { self }
    fn before_call(self) -> Self { self }
    fn result(self) -> i64 { 0 }
    fn with_result(self, _: i64) -> Self { self }
    fn without_deadline(self) -> Self { self }
}

/// Where a victim is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Behind something that others can see, or at the beginning.
    Between,
    /// Before an instruction that changes the segment.
    Changing,
    /// At the entry of a system call.
    Calling,
    /// In the one that puts it to sleep.
    Asleep,
    Ended,
}

/// A victim that is led.
pub struct Walker {
    victim: Victim,
    place: Place,
    /// Where the segment is mapped, and how much of it.
    segment: [u64; 2],
    may_write: bool,
}

impl Walker {
    /// Of a victim at the beginning of its operation, in the space in `directory`.
    pub fn new(victim: Victim, directory: &Path) -> Self {
        let segment = mapping(victim.pid, &directory.join("segment"));
        Self { victim, place: Place::Between, segment, may_write: true }
    }

    pub fn pid(&self) -> u32 {
        self.victim.pid.as_raw() as u32
    }

    pub fn control(&self) -> &'static Control {
        self.victim.control()
    }

    pub fn is_asleep(&self) -> bool {
        self.place == Place::Asleep
    }

    pub fn has_ended(&self) -> bool {
        self.place == Place::Ended
    }

    /// Leads it to right before the next thing that others can see, or through that; whether it could go on.
    pub fn advance(&mut self) -> bool {
        match self.place {
            Place::Between => {
                self.allow_writing(false);
                self.run_to_something();
                self.place != Place::Ended
            }
            Place::Changing => {
                self.allow_writing(true);
                self.victim.step();
                self.place = Place::Between;
                true
            }
            Place::Calling if is_futex_wait(&self.victim) => {
                self.fall_asleep();
                true
            }
            Place::Calling => {
                self.victim.run_to_call();
                self.place = Place::Between;
                true
            }
            Place::Asleep | Place::Ended => false,
        }
    }

    /// So many times, or as far as it goes; how often it could.
    pub fn advance_by(&mut self, count: usize) -> usize {
        (0..count).take_while(|_| self.advance()).count()
    }

    fn run_to_something(&mut self) {
        loop {
            self.victim.start_to_call();
            match self.victim.wait() {
                WaitStatus::Stopped(pid, Signal::SIGSEGV) => {
                    // SAFETY: of a SIGSEGV of the kernel's, which tells its address.
                    let at = unsafe { ptrace::getsiginfo(pid).expect("a signal").si_addr() } as u64;
                    let [start, length] = self.segment;
                    assert!((start..start + length).contains(&at), "a victim touched {at:#x}");
                    self.place = Place::Changing;
                    return;
                }
                WaitStatus::PtraceSyscall(pid) => {
                    self.place = if self.victim.has_ended() { Place::Ended } else { Place::Calling };
                    if self.place == Place::Ended || Registers::of(pid).is_seen() {
                        return;
                    }
                    self.victim.run_to_call();
                }
                other => self.victim.unexpected(other),
            }
        }
    }

    /// Has it begin to sleep, and waits until it does, or does not because what it would sleep on has changed.
    fn fall_asleep(&mut self) {
        self.allow_writing(true);
        let pid = self.victim.pid;
        Registers::of(pid).without_deadline().put(pid);
        self.victim.start_to_call();
        self.place = Place::Asleep;
        let begin = Instant::now();
        while !self.victim.is_asleep() {
            if self.is_woken() {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "it neither sleeps nor goes on");
            std::thread::yield_now();
        }
    }

    /// Whether its sleep is over: then it is stopped behind that.
    pub fn is_woken(&mut self) -> bool {
        if self.place == Place::Asleep {
            match waitpid(self.victim.pid, Some(WaitPidFlag::WNOHANG)).expect("our own child can be waited for") {
                WaitStatus::StillAlive => {}
                WaitStatus::PtraceSyscall(_) => self.place = Place::Between,
                other => self.victim.unexpected(other),
            }
        }
        self.place == Place::Between
    }

    /// Ends its sleep as its timer would have.
    pub fn end_sleep(&mut self) {
        assert_eq!(self.place, Place::Asleep);
        let pid = self.victim.pid;
        kill(pid, Signal::SIGSTOP).expect("our own child can be signalled");
        self.victim.stopped_at_call();
        let registers = Registers::of(pid);
        if registers.result() == INTERRUPTED {
            registers.with_result(-i64::from(libc::ETIMEDOUT)).put(pid);
        }
        // Now it is told of the signal, which nobody delivers.
        self.victim.start_to_call();
        match self.victim.wait() {
            WaitStatus::Stopped(_, Signal::SIGSTOP) => {}
            other => self.victim.unexpected(other),
        }
        self.place = Place::Between;
    }

    /// Gives it the right to write to the segment, or takes it away.
    fn allow_writing(&mut self, may_write: bool) {
        if std::mem::replace(&mut self.may_write, may_write) == may_write {
            return;
        }
        let ([start, length], pid) = (self.segment, self.victim.pid);
        let right = libc::PROT_READ | if may_write { libc::PROT_WRITE } else { 0 };
        let (call, arguments) = (libc::SYS_mprotect, [start, length, right as u64]);
        let saved = Registers::of(pid);
        let after = match self.place {
            Place::Between | Place::Changing => {
                saved.at_gate(self.victim.gate, call, arguments).put(pid);
                self.victim.step();
                saved
            }
            // Instead of the call that it is about to make; then that once more.
            Place::Calling => {
                saved.with_call(call, arguments).put(pid);
                self.victim.run_to_call();
                saved.before_call()
            }
            Place::Asleep | Place::Ended => unreachable!("it goes nowhere"),
        };
        assert_eq!(Registers::of(pid).result(), 0, "the rights to a mapping can be changed");
        after.put(pid);
        if self.place == Place::Calling {
            self.victim.run_to_call();
        }
    }

    /// Kills it where it is.
    pub fn kill(&mut self) {
        self.victim.kill();
        self.place = Place::Ended;
    }

    /// One turn of a run: moves it on if it is stopped. `false`: nothing is to be done with it now.
    fn turn(&mut self) -> bool {
        match self.place {
            Place::Ended => return false,
            Place::Asleep => return self.is_woken(),
            Place::Calling if is_futex_wait(&self.victim) => self.fall_asleep(),
            Place::Calling => {
                self.allow_writing(true);
                self.victim.run_to_call();
                self.place = Place::Between;
            }
            Place::Between | Place::Changing => {
                self.allow_writing(true);
                self.run_to_something();
            }
        }
        true
    }
}

/// Lets these go on until each has ended or sleeps, and nobody wakes it.
pub fn run(walkers: &mut [&mut Walker]) {
    let (begin, mut quiet) = (Instant::now(), 0);
    while quiet < SURE {
        assert!(begin.elapsed() < PATIENCE, "they do not come to an end");
        // Each for itself, and not only one: the others wait for what it does.
        let moved = walkers.iter_mut().map(|walker| walker.turn()).fold(false, |moved, turn| moved | turn);
        let is_quiet = walkers.iter().all(|walker| walker.has_ended() || walker.victim.is_asleep());
        quiet = if moved || !is_quiet { 0 } else { quiet + 1 };
        if walkers.iter().all(|walker| walker.has_ended()) {
            return;
        }
        if !moved {
            std::thread::yield_now();
        }
    }
}

/// Lets these go on to their ends. Somebody died, so that a sleep may have to end by itself: how many did.
pub fn finish_after_a_death(walkers: &mut [&mut Walker]) -> usize {
    let (begin, mut ended) = (Instant::now(), 0);
    loop {
        run(walkers);
        if walkers.iter().all(|walker| walker.has_ended()) {
            return ended;
        }
        assert!(begin.elapsed() < PATIENCE, "a survivor is stuck");
        for walker in walkers.iter_mut().filter(|walker| walker.is_asleep()) {
            walker.end_sleep();
            ended += 1;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// The same where nobody died: each is woken by another.
pub fn finish(walkers: &mut [&mut Walker]) {
    let begin = Instant::now();
    loop {
        run(walkers);
        let left = walkers.iter().filter(|walker| walker.is_asleep()).count();
        if left == 0 {
            return;
        }
        // On a busy machine it may take long until somebody who only seems to be asleep gets to run.
        assert!(begin.elapsed() < CERTAIN, "{left} sleep on, and nobody is there to wake them");
        std::thread::sleep(CERTAIN / 100);
    }
}

/// Where a process maps that file from its beginning. What it maps of it elsewhere is what it keeps locked, and the word by which the kernel tells of
/// its end, which that has to be able to write.
fn mapping(pid: Pid, file: &Path) -> [u64; 2] {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("what our own child maps");
    let file = file.to_str().expect("a path in ASCII");
    let is_it = |line: &&str| line.ends_with(file) && line.contains(" rw-s 00000000 ");
    let mut mappings = maps.lines().filter(is_it);
    let line = mappings.next().expect("the segment is mapped");
    assert_eq!(mappings.next(), None, "the segment is mapped twice");
    let (start, end) = line.split(' ').next().and_then(|range| range.split_once('-')).expect("a range");
    let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).expect("an address"));
    [start, end - start]
}
