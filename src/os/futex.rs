//! Sleeping on a word in shared memory until another process wakes us.

use core::sync::atomic::{AtomicU32, AtomicU64};

use nix::errno::Errno;

use super::clock::Monotonic;

/// Why [`wait`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// Somebody called [`wake`], or the kernel felt like it.
    Called,
    /// The same for another of the words, with that number.
    CalledFor(usize),
    /// The word was not what it was expected to be, so there was no sleep.
    Changed,
    /// The time came.
    TimedOut,
    /// A signal handler ran.
    Signal,
    /// The kernel refused: a filter, or memory that is gone. There was no sleep.
    Refused(Errno),
}

impl From<Errno> for Woken {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::EAGAIN => Self::Changed,
            Errno::ETIMEDOUT => Self::TimedOut,
            Errno::EINTR => Self::Signal,
            errno => Self::Refused(errno),
        }
    }
}

/// More words than one that can be slept on.
pub(crate) const MOST_OTHERS: usize = 32;

/// A word to sleep on.
pub(crate) trait Word {
    /// Its 32 bits that the kernel compares.
    fn compared(&self) -> *const AtomicU32;
}

impl Word for AtomicU32 {
    fn compared(&self) -> *const AtomicU32 {
        self
    }
}

/// Its low half.
impl Word for AtomicU64 {
    fn compared(&self) -> *const AtomicU32 {
        let halves: *const AtomicU32 = core::ptr::from_ref(self).cast();
        // SAFETY: a u64 is two u32; the pointer stays inside it. It is handed to the kernel, never dereferenced here.
        if cfg!(target_endian = "big") { unsafe { halves.add(1) } } else { halves }
    }
}

/// Whether the kernel wakes sleepers at all; nobody sleeps on `word`.
pub(crate) fn try_wake(word: &AtomicU32) -> Result<(), Errno> {
    // SAFETY: the address is that of four bytes that live as long as `word`. No other argument is a pointer.
    let result = unsafe { libc::syscall(libc::SYS_futex, word.compared(), libc::FUTEX_WAKE, 1) };
    Errno::result(result).map(drop)
}

/// Sleeps while `word` (of a 64-bit one, its low half) is `expected`, at most until `until`.
///
/// The deadline is absolute on the monotonic clock: a wall clock that jumps changes nothing, and going to sleep
/// again after a signal does not make the wait longer.
pub(crate) fn wait(word: &impl Word, expected: u32, until: Monotonic) -> Woken {
    let time = timespec(until);
    // SAFETY: the address is that of four bytes that live as long as `word`; `time` is valid and outlives the
    // call. The fifth argument is not used by this operation. Without FUTEX_PRIVATE_FLAG the key is the file and
    // offset, so other processes meet us there.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.compared(),
            libc::FUTEX_WAIT_BITSET,
            expected,
            &raw const time,
            core::ptr::null::<u32>(),
            libc::FUTEX_BITSET_MATCH_ANY,
        )
    };
    Errno::result(result).map_or_else(Woken::from, |_| Woken::Called)
}

/// As [`wait`], also while none of `others` (at most [`MOST_OTHERS`]) changes; woken by a call for one of them, too.
///
/// `futex_waitv` (Linux 5.16). Where there is none, or a filter refuses it, [`Woken::Refused`] at once.
pub(crate) fn wait_any(word: &impl Word, expected: u32, others: &[(&AtomicU32, u32)], until: Monotonic) -> Woken {
    /// `struct futex_waitv`.
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Waiter {
        value: u64,
        address: u64,
        flags: u32,
        reserved: u32,
    }
    const FUTEX2_SIZE_U32: u32 = 2;
    let waiter = |word: *const AtomicU32, value: u32| Waiter {
        value: value.into(),
        address: word.expose_provenance() as u64,
        flags: FUTEX2_SIZE_U32,
        reserved: 0,
    };
    let mut waiters = [waiter(word.compared(), expected); 1 + MOST_OTHERS];
    let count = 1 + others.len().min(MOST_OTHERS);
    for (place, (word, value)) in waiters[1..count].iter_mut().zip(others) {
        *place = waiter(core::ptr::from_ref(*word), *value);
    }
    let time = timespec(until);
    // SAFETY: `count` waiters are initialised, and each address is that of four bytes that live as long as the borrows do; `time` is valid. All outlive the call.
    let result = unsafe {
        libc::syscall(libc::SYS_futex_waitv, waiters.as_ptr(), count, 0, &raw const time, libc::CLOCK_MONOTONIC)
    };
    match Errno::result(result) {
        Ok(0) => Woken::Called,
        Ok(other) => Woken::CalledFor(other as usize - 1),
        Err(errno) => errno.into(),
    }
}

fn timespec(at: Monotonic) -> libc::timespec {
    libc::timespec {
        tv_sec: i64::try_from(at.0 / 1_000_000_000).unwrap_or(i64::MAX) as libc::time_t,
        tv_nsec: (at.0 % 1_000_000_000) as libc::c_long,
    }
}

/// Wakes at most `count` sleepers on `word`; how many it woke.
///
/// A failure (a filter; memory that is gone) wakes nobody. The caller cannot do better than the sleepers
/// themselves, who look again after a bounded time.
#[cold]
pub(crate) fn wake(word: &impl Word, count: i32) -> usize {
    // SAFETY: as in `wait`; waking reads no memory of ours.
    let woken = unsafe { libc::syscall(libc::SYS_futex, word.compared(), libc::FUTEX_WAKE, count) };
    usize::try_from(woken).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering::SeqCst;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_changed_low_half_is_not_slept_on() {
        let word = AtomicU64::new(7 | 9 << 32);
        let soon = Monotonic::now().saturating_add(Duration::from_secs(60));
        assert_eq!(wait(&word, 8, soon), Woken::Changed);
    }

    #[test]
    fn a_sleep_ends_at_its_deadline_and_not_before() {
        let word = AtomicU64::new(7);
        let until = Monotonic::now().saturating_add(Duration::from_millis(20));
        while wait(&word, 7, until) != Woken::TimedOut {}
        assert!(Monotonic::now() >= until);
    }

    #[test]
    fn a_sleeper_is_woken() {
        let word = AtomicU64::new(7);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let until = Monotonic::now().saturating_add(Duration::from_secs(60));
                while word.load(SeqCst) == 7 {
                    assert_ne!(wait(&word, 7, until), Woken::TimedOut);
                }
            });
            while wake(&word, 1) == 0 {
                std::thread::yield_now();
            }
            word.store(8, SeqCst);
            wake(&word, 1);
        });
    }
}
