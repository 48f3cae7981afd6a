//! Sleeping on a word in shared memory until another process wakes us.

use core::sync::atomic::{AtomicU32, AtomicU64};

use nix::errno::Errno;

use super::clock::Monotonic;

/// Why [`wait`] came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// Somebody called [`wake`], or the kernel felt like it.
    Called,
    /// The word was not what it was expected to be, so there was no sleep.
    Changed,
    /// The time came.
    TimedOut,
    /// A signal handler ran.
    Signal,
    /// The kernel refused: a filter, or memory that is gone. There was no sleep.
    Refused(Errno),
}

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

/// By which calls a sleeper is woken: [`wake`] wakes whoever sleeps, [`wake_bits`] those that it is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bits(u32);

impl Bits {
    /// By every [`wake`], and by nothing else.
    pub(crate) const ALL: Self = Self(1);

    /// By every [`wake`], and by calls for one of 31 that `number` says.
    pub(crate) fn one_of(number: u32) -> Self {
        Self(1 | 2 << (number % 31))
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
/// again after a signal does not make the wait longer. Woken are those who share a bit with the waker.
pub(crate) fn wait(word: &impl Word, expected: u32, until: Monotonic, bits: Bits) -> Woken {
    let time = libc::timespec {
        tv_sec: i64::try_from(until.0 / 1_000_000_000).unwrap_or(i64::MAX) as libc::time_t,
        tv_nsec: (until.0 % 1_000_000_000) as libc::c_long,
    };
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
            bits.0,
        )
    };
    match Errno::result(result) {
        Ok(_) => Woken::Called,
        Err(Errno::EAGAIN) => Woken::Changed,
        Err(Errno::ETIMEDOUT) => Woken::TimedOut,
        Err(Errno::EINTR) => Woken::Signal,
        Err(errno) => Woken::Refused(errno),
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

/// Wakes all that sleep on the word there and are meant by `bits`, and nobody else.
pub(crate) fn wake_bits(address: usize, bits: Bits) {
    let null = core::ptr::null::<u32>();
    let bits = bits.0 & !Bits::ALL.0;
    // SAFETY: the address is the kernel's to check, which reads nothing there: it is a name.
    unsafe { libc::syscall(libc::SYS_futex, address, libc::FUTEX_WAKE_BITSET, i32::MAX, null, null, bits) };
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
        assert_eq!(wait(&word, 8, soon, Bits::ALL), Woken::Changed);
    }

    #[test]
    fn a_sleep_ends_at_its_deadline_and_not_before() {
        let word = AtomicU64::new(7);
        let until = Monotonic::now().saturating_add(Duration::from_millis(20));
        while wait(&word, 7, until, Bits::ALL) != Woken::TimedOut {}
        assert!(Monotonic::now() >= until);
    }

    #[test]
    fn a_sleeper_is_woken() {
        let word = AtomicU64::new(7);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let until = Monotonic::now().saturating_add(Duration::from_secs(60));
                while word.load(SeqCst) == 7 {
                    assert_ne!(wait(&word, 7, until, Bits::ALL), Woken::TimedOut);
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
