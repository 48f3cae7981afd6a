//! A ring of items between two positions that only grow, changed by whoever holds its lock.
//!
//! * States: `tail - head` items, from position `head` on, each in its place modulo the capacity.
//! * Invariants: 1. A push writes the item *first* and moves the tail *then*; a pop reads the item *first* and moves the head *then*. Each is one
//!   store, so whoever dies at any point has done it or has not, and nobody has to repair anything. 2. Nobody writes an item that is in the
//!   ring, nor reads one that is not.
//! * Orderings: under the lock everything is seen. The positions are `SeqCst`: whoever waits for them looks without the lock, the bell's invariant 1.
//! * If we die: before the store of a position nothing happened, after it it has.
//! * Not here: the items, the lock, waiting.

use core::sync::atomic::Ordering::SeqCst;

use crate::digest::Checked;
use crate::sync::AtomicU64;

/// The words of a ring: each position with a parity bit, so that one flipped bit is not items that nobody pushed. They do not get to
/// 2⁶³.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring<'a> {
    pub(crate) head: &'a AtomicU64,
    pub(crate) tail: &'a AtomicU64,
    pub(crate) capacity: u64,
}

impl Ring<'_> {
    /// Head, and how many items there are; `None` if the positions say what cannot be, which without the lock they may for a moment.
    pub(crate) fn look(self) -> Option<(u64, u64)> {
        let [Some(head), Some(tail)] = [self.head, self.tail].map(|word| Checked::read(word.load(SeqCst))) else {
            return None;
        };
        let len = tail.0.checked_sub(head.0)?;
        (len <= self.capacity).then_some((head.0, len))
    }

    /// Where the item at this position lies.
    pub(crate) fn place(self, position: u64) -> usize {
        (position % self.capacity) as usize
    }

    /// Adds an item behind the `len` from `head` on, which `write` puts into its place. There is room, and the caller has the lock.
    pub(crate) fn push(self, head: u64, len: u64, write: impl FnOnce(usize)) {
        let tail = head + len;
        write(self.place(tail));
        self.tail.store(Checked(tail + 1).word(), SeqCst);
    }

    /// Takes the item at `head`, after `read` has come back, if the caller `still` has the lock then. There is one.
    pub(crate) fn pop<R>(self, head: u64, read: impl FnOnce(usize) -> R, still: impl FnOnce() -> bool) -> Option<R> {
        let item = read(self.place(head));
        still().then(|| {
            self.head.store(Checked(head + 1).word(), SeqCst);
            item
        })
    }
}
