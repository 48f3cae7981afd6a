//! Giving back a lock that a dead participant left.
//!
//! Somebody who waits for a lock takes it over by itself ([`mutex`](super::mutex), invariant 4). This is for the locks nobody
//! waits for, when a dead participant's slot is cleaned up, and for a participant that leaves while a guard of it was leaked.
//!
//! * States: HELD(dead) => FREE, abandoned if the death left something half done; no other.
//! * Invariants: 1. Idempotent: whoever finds it half done goes on. 2. A word that another slot stands in is not touched.
//! * Orderings: the compare-and-swap and the look at the count are the mutex's invariant 2, the releaser's half.
//! * If we die: before it nothing happened; after it but before the wake, sleepers look again by themselves.

use core::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};

use super::mutex::LockWords;
use super::slot::Slot;
use super::word::OwnerWord;
use crate::sync::AtomicU64;

/// Frees the lock if `dead` stands in its word; the word it held it with. `before` is called with that word ahead of the change, to
/// leave a note of who died, and says whether the next owner is told: then the lock is marked as abandoned.
pub(crate) fn give_back(
    lock: &LockWords,
    dead: Slot,
    before: impl Fn(OwnerWord) -> bool,
    wake: impl FnMut(&AtomicU64) -> bool,
) -> Option<OwnerWord> {
    let mut seen = OwnerWord(lock.owner.load(Acquire));
    while seen.slot_code() == dead.code() {
        let freed = if before(seen) { seen.abandon() } else { seen.give_up() };
        match lock.owner.compare_exchange(seen.0, freed.0, SeqCst, Relaxed) {
            Ok(_) => {
                lock.wake_sleepers(freed, wake);
                return Some(seen);
            }
            // A waiter took it over in this moment.
            Err(now) => seen = OwnerWord(now),
        }
    }
    None
}
