//! An event, as a handle keeps it: set or not in `state`; whoever announced to set it holds the name's owner word.

use core::sync::atomic::Ordering::SeqCst;
use std::sync::Arc;

use super::lock::{Acquisition, SharedLock, Spec};
use super::shared::SharedSpace;
use super::wait::{wake_all, wake_next};
use crate::holder::Holder;
use crate::os::clock::Deadline;
use crate::protocol::signal::{Promise, consume, promise};
use crate::segment::format::{Entry, Kind};
use crate::{Error, Result};

const SET: u64 = 1;

#[derive(Clone, Debug)]
pub(crate) struct SharedEvent {
    lock: SharedLock,
}

impl SharedEvent {
    pub(crate) fn new(space: &Arc<SharedSpace>, name: &str, kind: Kind) -> Result<Self> {
        Ok(Self { lock: SharedLock::new(space, Spec::of(name, kind))? })
    }

    pub(crate) fn name(&self) -> &str {
        self.lock.name()
    }

    fn resets_itself(&self) -> bool {
        self.lock.spec.kind == Kind::AutoEvent
    }

    pub(crate) fn is_set(&self) -> Result<bool> {
        Ok(self.lock.state()?.load(SeqCst) == SET)
    }

    pub(crate) fn set(&self) -> Result<()> {
        let entry = self.lock.entry(self.lock.find()?.entry);
        self.set_in(entry);
        self.forget_the_dead(entry);
        Ok(())
    }

    fn set_in(&self, entry: &Entry) {
        entry.state.store(SET, SeqCst);
        entry.bell.ring(if self.resets_itself() { wake_next } else { wake_all });
    }

    pub(crate) fn reset(&self) -> Result<()> {
        let entry = self.lock.entry(self.lock.find()?.entry);
        self.forget_the_dead(entry);
        entry.state.store(0, SeqCst);
        Ok(())
    }

    /// What somebody who died had announced is not waited for any more.
    fn forget_the_dead(&self, entry: &Entry) {
        let word = entry.lock.look();
        if word.is_free() && !word.is_abandoned() {
            return;
        }
        // If it fails, somebody alive has it.
        if let Ok(waited) = self.lock.acquire(0, Deadline::after(std::time::Duration::ZERO), None) {
            self.lock.release(waited.acquisition);
            if let Some(told) = waited.abandoned {
                self.lock.bury(&told);
            }
        }
    }

    pub(crate) fn wait(&self, thread: u32, deadline: Deadline) -> Result<()> {
        self.lock.wait_until(thread, deadline, |wait, entry| {
            let signalled = || match self.resets_itself() {
                true => consume(&entry.state),
                false => entry.state.load(SeqCst) == SET,
            };
            if signalled() {
                return Some(Ok(()));
            }
            match promise(wait, wait.waiting.slot, entry.lock.look(), || entry.lock.look()) {
                Promise::Open => None,
                // It may have signalled, and died then.
                Promise::Lost(..) if signalled() => Some(Ok(())),
                Promise::Lost(word, obituary) => {
                    // Whoever cleaned up may have left the mark, or somebody after it passed the note on.
                    let by = self.lock.who_died(entry, word, obituary);
                    Some(Err(Error::SignalLost { name: self.lock.spec.name.clone(), by: Box::new(by) }))
                }
                Promise::Damaged(word) => Some(Err(self.lock.damaged_word(word))),
            }
        })
    }

    /// This process will set it.
    pub(crate) fn announce(&self) -> Result<Acquisition> {
        let now = Deadline::after(std::time::Duration::ZERO);
        let waited = self.lock.acquire(0, now, None).map_err(|error| match error {
            Error::TimedOut { name, holder, .. } => Error::WouldBlock { name, holder },
            error => error,
        })?;
        if let Some(told) = waited.abandoned {
            self.lock.bury(&told);
        }
        Ok(waited.acquisition)
    }

    /// Sets it as it was announced; `false` if it was not this process that did.
    pub(crate) fn keep(&self, announced: Acquisition) -> bool {
        if !self.lock.is_held(announced) {
            return false;
        }
        self.set_in(self.lock.entry(announced.entry));
        self.lock.release(announced)
    }

    /// It will not be set.
    pub(crate) fn break_off(&self, announced: Acquisition) {
        if self.lock.abandon(announced) {
            self.lock.entry(announced.entry).bell.ring(wake_all);
        }
    }

    pub(crate) fn token(&self, announced: Acquisition) -> u64 {
        self.lock.token(announced)
    }

    /// Who announced to set it.
    pub(crate) fn holder(&self) -> Result<Option<Holder>> {
        self.lock.holder()
    }
}
