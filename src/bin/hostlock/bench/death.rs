//! An owner that is killed while another process sleeps for what it holds.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use super::children::Children;

/// Where the two, and whoever looks on, meet: in memory that they share.
#[repr(C)]
pub struct Meeting {
    /// How far one of them came.
    pub step: AtomicU64,
    /// How far the other one came.
    pub answer: AtomicU64,
    /// When something happened, as [`now`] says it.
    pub time: AtomicU64,
}

impl Meeting {
    pub fn begin(&self) {
        for word in [&self.step, &self.answer, &self.time] {
            word.store(0, SeqCst);
        }
    }
}

/// The time that goes on whatever is done to the clock, in nanoseconds; the same for all processes.
pub fn now() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Whether a process sleeps.
pub fn sleeps(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('S'))
}

/// How long somebody sleeps before the kill: somewhere in the middle of a sleep, which is short at first. Another time for each `seed`, which is changed.
pub fn some_time(seed: &mut u64) -> Duration {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    Duration::from_millis(150) + Duration::from_micros(*seed % 100_000)
}

/// Nanoseconds from the kill until the time that `survive` leaves in the meeting's `time`.
///
/// `hold` acquires, and calls what it is given, which never returns. `survive` waits for what it has; it sleeps for `asleep` when the owner is killed.
pub fn kill_owner(
    meeting: &Meeting,
    asleep: Duration,
    hold: impl FnOnce(&dyn Fn()),
    survive: impl FnOnce(),
) -> Result<u64, String> {
    meeting.begin();
    let mut children = Children::default();
    let owner = children.start(|| {
        hold(&|| {
            meeting.step.store(1, SeqCst);
            loop {
                std::thread::sleep(Duration::from_secs(60));
            }
        });
    })?;
    children.until(|| meeting.step.load(SeqCst) == 1)?;
    let survivor = children.start(|| {
        meeting.answer.store(1, SeqCst);
        survive();
    })?;
    children.until(|| meeting.answer.load(SeqCst) == 1)?;
    children.until(|| sleeps(survivor))?;
    std::thread::sleep(asleep);
    if meeting.time.load(SeqCst) != 0 {
        return Err("two were inside at once: the lock was had while its owner lived".into());
    }
    let killed = now();
    children.kill(owner)?;
    children.finish_one(survivor)?;
    children.bury(owner);
    let had = meeting.time.load(SeqCst);
    had.checked_sub(killed).ok_or_else(|| "the lock was had before its owner was killed".to_string())
}
