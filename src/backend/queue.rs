//! A bounded queue in the extents: a ring of items behind a line with two positions, changed under the name's own lock.
//!
//! The positions only grow. A push writes the item and moves the tail *then*; a pop reads the item and moves the head *then*. Each of the two is one store,
//! so whoever dies at any point of it has done it or has not, and nobody has to repair anything, or to be told.

use core::marker::PhantomData;
use core::sync::atomic::AtomicU64;
use std::sync::Arc;
use std::time::Duration;

use bytemuck::{AnyBitPattern, NoUninit};

use super::data;
use super::lock::{Acquisition, SharedLock, Spec};
use super::shared::SharedSpace;
use super::wait::wake_all;
use crate::os::clock::Deadline;
use crate::protocol::ring::Ring;
use crate::segment::format::{Entry, Kind, LINE_WORDS, Line};
use crate::{Error, Result};

/// How long to wait for somebody who uses the queue, which takes microseconds: longer only if it is stopped there.
const IN_USE: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(crate) struct SharedQueue<T> {
    lock: SharedLock,
    items: PhantomData<fn() -> T>,
}

impl<T> Clone for SharedQueue<T> {
    fn clone(&self) -> Self {
        Self { lock: self.lock.clone(), items: PhantomData }
    }
}

struct Release<'a>(&'a SharedLock, Acquisition);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.0.release(self.1);
    }
}

/// The words of a queue.
struct Words<'a> {
    ring: Ring<'a>,
    items: &'a [Line],
    each: usize,
}

impl Words<'_> {
    fn item(&self, place: usize) -> impl Iterator<Item = &AtomicU64> {
        let first = place * self.each;
        (first..first + self.each).map(|word| &self.items[word / LINE_WORDS].words[word % LINE_WORDS])
    }
}

impl<T: AnyBitPattern + NoUninit> SharedQueue<T> {
    pub(crate) fn new(space: &Arc<SharedSpace>, name: &str, capacity: u32) -> Result<Self> {
        let room = (capacity as u64).saturating_mul(data::words::<T>() as u64).saturating_add(2 * LINE_WORDS as u64);
        let spec = Spec { count: capacity, data: data::header::<T>().into(), room, ..Spec::of(name, Kind::Queue) };
        let lock = SharedLock::new(space, spec)?;
        lock.check_type::<T>()?;
        Ok(Self { lock, items: PhantomData })
    }

    pub(crate) fn name(&self) -> &str {
        self.lock.name()
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.lock.spec.count
    }

    /// The words of the queue, for whoever holds its lock, or looks at the generation then.
    fn words<'a>(&'a self, entry: &Entry) -> Result<Words<'a>> {
        let lines = self.lock.data::<T>(entry)?;
        let capacity = self.lock.spec.count as usize;
        let (each, lost) = (data::words::<T>(), || self.damaged());
        let (positions, items) = lines.split_first().ok_or_else(lost)?;
        if items.len() < (capacity * each).div_ceil(LINE_WORDS) {
            return Err(lost());
        }
        let ring = Ring { head: &positions.words[0], tail: &positions.words[1], capacity: capacity as u64 };
        Ok(Words { ring, items, each })
    }

    fn damaged(&self) -> Error {
        let what = format!("queue \"{}\" says what cannot be", self.name());
        Error::damaged(&self.lock.space.segment.path, what)
    }

    /// How many items there are.
    pub(crate) fn len(&self) -> Result<u32> {
        loop {
            let place = self.lock.find()?;
            let len = self.words(self.lock.entry(place.entry)).and_then(|words| {
                // They may change between the two loads: then once more.
                (0..100).find_map(|_| words.ring.look()).map(|(_, len)| len as u32).ok_or_else(|| self.damaged())
            });
            if self.lock.is_still(place) {
                return len;
            }
        }
    }

    /// Does something under the lock as soon as `ready` says so of the number of items, waiting until `deadline`.
    fn when<R>(
        &self,
        thread: u32,
        deadline: Deadline,
        ready: impl Fn(u64) -> bool,
        act: impl FnOnce(&Words<'_>, (u64, u64), &dyn Fn() -> bool) -> R,
    ) -> Result<R> {
        let mut act = Some(act);
        loop {
            // Whoever only tries, too: that the queue is in use for a moment does not make it full or empty.
            let waited = self.lock.acquire(thread, deadline.or_after(IN_USE), None).map_err(|error| match error {
                Error::TimedOut { name, holder, .. } => Error::WouldBlock { name, holder },
                error => error,
            })?;
            // Also if `act` panics.
            let held = Release(&self.lock, waited.acquisition);
            let entry = self.lock.entry(waited.acquisition.entry);
            let outcome = self.words(entry).and_then(|words| match words.ring.look() {
                None => Err(self.damaged()),
                Some((head, len)) if ready(len) => {
                    let is_held = || self.lock.is_held(waited.acquisition);
                    Ok(act.take().map(|act| act(&words, (head, len), &is_held)))
                }
                Some(_) => Ok(None),
            });
            drop(held);
            if let Some(dead) = waited.dead {
                // If it fails, whoever needs the slot tries again.
                let _ = self.lock.space.recover_dead(Some(dead));
            }
            if let Some(done) = outcome? {
                entry.bell.ring(wake_all);
                return Ok(done);
            }
            self.lock.wait_until(thread, deadline, |_, entry| {
                let len = self.words(entry).map(|words| words.ring.look().map(|(_, len)| len));
                match len {
                    Ok(Some(len)) => ready(len).then_some(Ok(())),
                    // It changes at this moment, or is damaged, as whoever has the lock will find.
                    Ok(None) => Some(Ok(())),
                    Err(error) => Some(Err(error)),
                }
            })?;
        }
    }

    pub(crate) fn push(&self, value: &T, thread: u32, deadline: Deadline) -> Result<()> {
        let capacity = u64::from(self.capacity());
        self.when(
            thread,
            deadline,
            |len| len < capacity,
            |words, (head, len), _| words.ring.push(head, len, |place| data::store(value, words.item(place))),
        )
    }

    /// Takes the first item, when `note` has seen it and come back.
    pub(crate) fn pop<R>(&self, thread: u32, deadline: Deadline, note: impl FnOnce(&T) -> R) -> Result<R> {
        self.when(
            thread,
            deadline,
            |len| len > 0,
            // A child that was forked in `note` has not popped anything.
            |words, (head, _), is_held| words.ring.pop(head, |place| note(&data::load(words.item(place))), is_held),
        )?
        .ok_or_else(|| Error::Lost { name: self.lock.spec.name.clone(), token: 0 })
    }
}
