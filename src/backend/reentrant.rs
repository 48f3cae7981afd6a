//! A mutex that its thread may acquire again. Across processes it is a mutex like any other; who has it *inside* this process, and how often, is kept here.
//!
//! Only the thread that holds the lock changes the words below, and every other one only compares the first of them with itself.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Weak};

use super::either::{AnySpace, Lock};
use super::lock::{Abandonment, Acquisition, Spec};
use super::release::AsExclusive;
use crate::Result;
use crate::os::clock::Deadline;
use crate::os::fork::{self, Guarded};
use crate::segment::format::Kind;

/// What all handles of a name in this process share.
#[derive(Debug)]
pub(crate) struct Reentrant {
    lock: Lock,
    /// The thread that holds it, by a number that no other has, nor ever had; 0: none.
    thread: AtomicU64,
    /// How often.
    depth: AtomicU32,
    /// As which acquisition.
    held: [AtomicU64; 2],
}

static KNOWN: Guarded<Vec<Weak<Reentrant>>> = Guarded::new(Vec::new());

pub(super) fn before_fork() {
    KNOWN.before_fork();
}

pub(super) fn after_fork() {
    KNOWN.after_fork();
}

/// The calling thread, by a number that is never given twice: the kernel's ids are.
fn this_thread() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static MINE: u64 = LAST.fetch_add(1, Relaxed) + 1;
    }
    // A thread whose locals are gone is nobody that ever held anything.
    MINE.try_with(|mine| *mine).unwrap_or_else(|_| LAST.fetch_add(1, Relaxed) + 1)
}

impl Reentrant {
    pub(crate) fn of(space: &AnySpace, name: &str) -> Result<Arc<Self>> {
        let lock = Lock::new(space, Spec::of(name, Kind::Mutex))?;
        let mut known = KNOWN.lock();
        known.retain(|known| known.strong_count() > 0);
        let is_it =
            |known: &Arc<Self>| known.lock.name() == name && known.lock.exclusive().space() == lock.exclusive().space();
        let found = known.iter().filter_map(Weak::upgrade).find(is_it);
        Ok(found.unwrap_or_else(|| {
            let made = Self { lock, thread: AtomicU64::new(0), depth: AtomicU32::new(0), held: Default::default() };
            let made = Arc::new(made);
            known.push(Arc::downgrade(&made));
            made
        }))
    }

    pub(crate) fn lock(&self) -> &Lock {
        &self.lock
    }

    fn held(&self) -> Acquisition {
        Acquisition::unpack(self.held.each_ref().map(|word| word.load(Relaxed)))
    }

    /// Acquires the lock, or once more if this thread has it.
    pub(crate) fn acquire(
        &self,
        deadline: impl FnOnce() -> Deadline,
    ) -> Result<(Acquisition, Option<Box<Abandonment>>)> {
        let me = this_thread();
        if self.thread.load(Relaxed) == me {
            let held = self.held();
            // Not in a forked child, whose thread has the number that its parent's has.
            if self.lock.exclusive().is_held(held) {
                self.depth.store(self.depth.load(Relaxed) + 1, Relaxed);
                return Ok((held, None));
            }
        }
        let thread = fork::thread();
        let (held, abandoned) = match self.lock.acquire_fast(thread) {
            Some((held, _)) => (held, None),
            None => {
                let waited = self.lock.acquire_slowly(thread, deadline)?;
                (waited.acquisition, waited.abandoned)
            }
        };
        for (word, value) in self.held.iter().zip(held.pack()) {
            word.store(value, Relaxed);
        }
        self.depth.store(1, Relaxed);
        self.thread.store(me, Relaxed);
        Ok((held, abandoned))
    }

    /// Ends one of those; whether the lock still was held, and whether it was the last.
    pub(crate) fn release(&self, held: Acquisition) -> (bool, bool) {
        if self.thread.load(Relaxed) != this_thread() || self.held() != held {
            // A parent's, in a forked child.
            return (false, false);
        }
        match self.depth.load(Relaxed) {
            0 | 1 => {
                self.depth.store(0, Relaxed);
                self.thread.store(0, Relaxed);
                (self.lock.exclusive().release(held), true)
            }
            more => {
                self.depth.store(more - 1, Relaxed);
                (self.lock.exclusive().is_held(held), false)
            }
        }
    }

    /// How often this thread has it.
    pub(crate) fn depth(&self) -> u32 {
        let is_mine = self.thread.load(Relaxed) == this_thread() && self.lock.exclusive().is_held(self.held());
        if is_mine { self.depth.load(Relaxed) } else { 0 }
    }
}
