//! A page that a forked process and the test share, outside of every space.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::signal::{Signal, kill};

use super::support::PATIENCE;

/// Values of [`Control::phase`].
pub const READY: u64 = 1;
pub const BEGUN: u64 = 2;
pub const ENDED: u64 = 3;

/// Values of [`Control::inside`].
pub const ALONE: u64 = 1;
pub const SHARED: u64 = 2;
/// Beside these, of [`Control::how`]: it had a lease, and not any more.
pub const LOST: u64 = 3;

/// What a forked process tells, all of it zero at first.
#[repr(C)]
#[derive(Debug)]
pub struct Control {
    pub phase: AtomicU64,
    /// Opened by the test.
    pub gate: AtomicU64,
    /// [`ALONE`] while it believes that it holds the lock, [`SHARED`] while it believes that it has a part of it.
    pub inside: AtomicU64,
    /// 1 from just before it is killed.
    pub dead: AtomicU64,
    /// Of its acquisition, if it came to one.
    pub token: AtomicU64,
    /// The token of the death it was told of.
    pub told: AtomicU64,
    /// 1: it found somebody else inside, too.
    pub crowded: AtomicU64,
    /// As what it acquired: [`ALONE`] or [`SHARED`]; or [`LOST`].
    pub how: AtomicU64,
    /// 1: its lease was renewed.
    pub renewed: AtomicU64,
}

impl Control {
    /// A new one; it stays for ever, as a test makes few.
    pub fn new() -> &'static Self {
        let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let size = std::num::NonZeroUsize::new(4096).expect("not zero");
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let page = unsafe { mmap_anonymous(None, size, rights, MapFlags::MAP_SHARED) }.expect("a page");
        // SAFETY: the page is aligned, larger than the type, zero, which is a value of its atomics, and never unmapped.
        unsafe { page.cast().as_ref() }
    }

    pub fn reset(&self) {
        let Self { phase, gate, inside, dead, token, told, crowded, how, renewed } = self;
        for cell in [phase, gate, inside, dead, token, told, crowded, how, renewed] {
            cell.store(0, SeqCst);
        }
    }

    /// In a victim: the operation begins with the next instruction.
    pub fn begin(&self) {
        let _ = kill(nix::unistd::getpid(), Signal::SIGSTOP);
        self.phase.store(BEGUN, SeqCst);
    }

    /// In a forked process: it has the lock, [`ALONE`] or [`SHARED`], and looks whether any of the others that exclude it is alive and has it, too. Then
    /// it makes a system call, so that it can be stopped there.
    pub fn enter(&self, token: u64, told: Option<u64>, how: u64, others: &[&Self]) {
        self.told.store(told.unwrap_or(0), SeqCst);
        self.how.store(how, SeqCst);
        self.token.store(token, SeqCst);
        self.inside.store(how, SeqCst);
        for other in others.iter().filter(|other| !std::ptr::eq(**other, self)) {
            let theirs = other.inside.load(SeqCst);
            if theirs != 0 && other.dead.load(SeqCst) == 0 && (how == ALONE || theirs == ALONE) {
                self.crowded.store(1, SeqCst);
            }
        }
        nix::unistd::getppid();
    }

    /// In a forked process: it is about to let go.
    pub fn exit(&self) {
        self.inside.store(0, SeqCst);
    }

    /// In the test: waits until it is so far.
    #[track_caller]
    pub fn wait_for(&self, phase: u64, what: &str) {
        assert!(self.has_come_to(phase), "{what}");
    }

    /// In the test: whether it gets so far.
    pub fn has_come_to(&self, phase: u64) -> bool {
        let end = Instant::now() + PATIENCE;
        while self.phase.load(SeqCst) < phase {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        true
    }

    /// In a forked process: waits until the test opens the gate.
    pub fn wait_at_gate(&self) {
        self.phase.store(READY, SeqCst);
        while self.gate.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
    }
}
