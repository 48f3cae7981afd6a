//! A condition variable, as a handle keeps it: nothing but the bell of its name.

use std::sync::Arc;

use super::lock::{Acquisition, SharedLock, Spec};
use super::shared::SharedSpace;
use super::wait::{Refusal, wake_all, wake_next};
use crate::os::clock::{Deadline, Monotonic};
use crate::segment::format::Kind;
use crate::{Error, Result};

use core::cell::Cell;

#[derive(Clone, Debug)]
pub(crate) struct SharedCondvar {
    lock: SharedLock,
}

impl SharedCondvar {
    pub(crate) fn new(space: &Arc<SharedSpace>, name: &str) -> Result<Self> {
        Ok(Self { lock: SharedLock::new(space, Spec::of(name, Kind::Condvar))? })
    }

    pub(crate) fn name(&self) -> &str {
        self.lock.name()
    }

    pub(crate) fn notify(&self, all: bool) -> Result<()> {
        let entry = self.lock.entry(self.lock.find()?.entry);
        entry.bell.ring(if all { wake_all } else { wake_next });
        Ok(())
    }

    /// Lets go of `mutex` by `unlock`, once this thread can be notified, and waits until it is. Whether it was before the deadline; or for no reason:
    /// then somebody had the mutex in between, who may have died before it notified.
    pub(crate) fn wait(
        &self,
        thread: u32,
        deadline: Deadline,
        (mutex, held): (&SharedLock, Acquisition),
        unlock: impl FnOnce(),
    ) -> Result<bool> {
        let place = self.lock.find()?;
        let entry = self.lock.entry(place.entry);
        let wait = self.lock.wait_at(place, thread, Monotonic::now(), deadline)?;
        let heard = Cell::new(0);
        let begin = |rung| {
            heard.set(rung);
            unlock();
        };
        let look = |rung| {
            let is_notified = rung != heard.get() || !self.lock.is_still(place);
            // What is waited for can only have changed if somebody had the mutex.
            (is_notified || wait.slept() && mutex.was_held_since(held)).then_some(())
        };
        match entry.bell.wait_counted(&wait, begin, look) {
            Ok(()) => Ok(true),
            Err(Refusal::TimedOut) => Ok(false),
            Err(refusal) => Err(self.lock.refused(&wait, refusal)),
        }
    }

    /// The space of a mutex must be the condition variable's.
    pub(crate) fn check(&self, mutex: &SharedLock) -> Result<()> {
        match Arc::ptr_eq(&self.lock.space, &mutex.space) {
            true => Ok(()),
            false => Err(Error::InvalidOption {
                option: "mutex",
                value: mutex.name().into(),
                reason: format!("it is of another space than condition variable \"{}\"", self.name()),
            }),
        }
    }
}
