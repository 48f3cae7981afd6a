//! Something that is done once, as a handle keeps it: whoever does it holds the name's owner word, and says in `state` that it is done.

use core::sync::atomic::Ordering::SeqCst;
use std::sync::Arc;

use super::lock::{Acquisition, SharedLock, Spec};
use super::shared::SharedSpace;
use super::wait::wake_all;
use crate::Result;
use crate::holder::Abandoned;
use crate::os::clock::Deadline;
use crate::segment::format::Kind;

const DONE: u64 = 1;

#[derive(Clone, Debug)]
pub(crate) struct SharedOnce {
    lock: SharedLock,
}

/// A turn at doing it.
#[derive(Debug)]
pub(crate) struct Turn {
    acquisition: Acquisition,
    pub(crate) token: u64,
    pub(crate) told: Option<Abandoned>,
}

impl SharedOnce {
    pub(crate) fn new(space: &Arc<SharedSpace>, name: &str) -> Result<Self> {
        Ok(Self { lock: SharedLock::new(space, Spec::of(name, Kind::Once))? })
    }

    pub(crate) fn name(&self) -> &str {
        self.lock.name()
    }

    #[inline]
    pub(crate) fn is_done(&self) -> bool {
        self.lock.peek() == Some(DONE)
    }

    /// Waits until it is this thread's turn, or until it is done: `None`.
    pub(crate) fn begin(&self, thread: u32, deadline: Deadline) -> Result<Option<Turn>> {
        if self.is_done() {
            return Ok(None);
        }
        let waited = self.lock.acquire(thread, deadline, None)?;
        let acquisition = waited.acquisition;
        let done = self.lock.entry(acquisition.entry).state.load(SeqCst) == DONE;
        if done {
            // Whoever died after it was done left nothing half done: the mark goes.
            self.lock.release(acquisition);
        }
        if let Some(told) = &waited.abandoned {
            self.lock.bury(told);
        }
        let told = waited.abandoned.map(|abandoned| abandoned.told);
        Ok((!done).then(|| Turn { acquisition, token: self.lock.token(acquisition), told }))
    }

    /// It is done.
    pub(crate) fn finish(&self, turn: &Turn) -> bool {
        // In a forked child it is the parent's turn.
        if !self.lock.is_held(turn.acquisition) {
            return false;
        }
        let entry = self.lock.entry(turn.acquisition.entry);
        // First: whoever dies after this has done it.
        entry.state.store(DONE, SeqCst);
        self.lock.release(turn.acquisition);
        entry.bell.ring(wake_all);
        true
    }

    /// It was not done: somebody else's turn.
    pub(crate) fn leave(&self, turn: &Turn) {
        if self.lock.is_held(turn.acquisition) {
            self.lock.give_up(turn.acquisition);
        }
    }

    /// Waits until somebody has done it.
    pub(crate) fn wait(&self, thread: u32, deadline: Deadline) -> Result<()> {
        self.lock.wait_until(thread, deadline, |_, entry| (entry.state.load(SeqCst) == DONE).then_some(Ok(())))
    }
}
