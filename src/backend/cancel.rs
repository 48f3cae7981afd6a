//! Ending a wait from another thread.
//!
//! A wait looks at the token of its thread before each sleep. Whoever cancels sets the flag *first* and calls all sleepers *then*, until none of them sleeps: one that
//! looked before the flag and went to sleep after the first call is called again. The call goes to those sleepers only (a bit of the futex's), so
//! that nobody else loses its place.

use std::cell::RefCell;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::os::clock::{self, Monotonic};
use crate::os::futex::{self, Bits, Word};

/// Sleepers look by themselves anyway, so there is an end to calling them.
const PATIENCE: Duration = Duration::from_millis(100);

/// What ends waits.
#[derive(Debug, Default)]
pub(crate) struct Cancel {
    is_cancelled: AtomicBool,
    /// What threads sleep on, and by which bit they are called. Held while it is used: nobody's word goes meanwhile.
    asleep: Mutex<Vec<(usize, Bits)>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Cancel>>> = const { RefCell::new(None) };
}

impl Cancel {
    pub(crate) fn is_cancelled(&self) -> bool {
        // Acquire: what was done before it was cancelled.
        self.is_cancelled.load(Acquire)
    }

    pub(crate) fn cancel(&self) {
        self.is_cancelled.store(true, Release);
        let end = Monotonic::now().saturating_add(PATIENCE);
        loop {
            let asleep = self.asleep.lock().unwrap_or_else(PoisonError::into_inner);
            for (word, bits) in asleep.iter() {
                futex::wake_bits(*word, *bits);
            }
            if asleep.is_empty() || Monotonic::now() > end {
                return;
            }
            drop(asleep);
            clock::sleep(Duration::from_micros(50));
        }
    }

    /// Runs `f`; waits that this thread begins in it end when this is cancelled.
    pub(crate) fn run<T>(self: &Arc<Self>, f: impl FnOnce() -> T) -> T {
        struct Restore(Option<Arc<Cancel>>);
        impl Drop for Restore {
            fn drop(&mut self) {
                let _ = CURRENT.try_with(|current| *current.borrow_mut() = self.0.take());
            }
        }
        let _restore = Restore(CURRENT.with(|current| current.borrow_mut().replace(self.clone())));
        f()
    }
}

fn current() -> Option<Arc<Cancel>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

/// Whether a wait of this thread is to end.
pub(super) fn is_due() -> bool {
    CURRENT.try_with(|current| current.borrow().as_ref().is_some_and(|cancel| cancel.is_cancelled())).unwrap_or(false)
}

/// Runs `sleep` on that word, with the bits by which this thread is called; not if its wait is to end.
pub(super) fn sleeping<T>(word: &impl Word, sleep: impl FnOnce(Bits) -> T) -> Option<T> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let Some(cancel) = current() else { return Some(sleep(Bits::ALL)) };
    let bits = Bits::one_of(NEXT.fetch_add(1, Relaxed));
    let mine = (word.compared().addr(), bits);
    let asleep = || cancel.asleep.lock().unwrap_or_else(PoisonError::into_inner);
    asleep().push(mine);
    // After that: whoever cancels finds one or the other.
    let slept = (!cancel.is_cancelled()).then(|| sleep(bits));
    let mut asleep = asleep();
    if let Some(at) = asleep.iter().position(|one| *one == mine) {
        asleep.swap_remove(at);
    }
    slept
}
