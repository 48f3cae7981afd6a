//! Ending a wait from another thread.
//!
//! A wait looks at the token of its thread before each sleep, and sleeps on the token's word as well. Whoever cancels changes that word and wakes all that sleep on it: no other
//! sleeper is disturbed, and no wake of a release is used up.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::Duration;

use crate::os::futex;

/// What ends waits.
#[derive(Debug, Default)]
pub(crate) struct Cancel(AtomicU32);

const CANCELLED: u32 = 1;

/// How long those sleep who cannot sleep on a second word.
pub(super) const LOOK: Duration = Duration::from_millis(10);

thread_local! {
    static CURRENT: RefCell<Option<Arc<Cancel>>> = const { RefCell::new(None) };
}

impl Cancel {
    pub(crate) fn is_cancelled(&self) -> bool {
        // Acquire: what was done before it was cancelled. Pairs with the Release below.
        self.0.load(Acquire) == CANCELLED
    }

    pub(crate) fn cancel(&self) {
        self.0.store(CANCELLED, Release);
        futex::wake(&self.0, i32::MAX);
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

    /// The word to sleep on, and what it is as long as nobody cancelled.
    pub(super) fn word(&self) -> (&AtomicU32, u32) {
        (&self.0, 0)
    }
}

/// By which a wait of this thread can be ended.
pub(super) fn current() -> Option<Arc<Cancel>> {
    CURRENT.try_with(|current| current.borrow().clone()).ok().flatten()
}

/// Whether a wait of this thread is to end.
pub(crate) fn is_due() -> bool {
    CURRENT.try_with(|current| current.borrow().as_ref().is_some_and(|cancel| cancel.is_cancelled())).unwrap_or(false)
}
