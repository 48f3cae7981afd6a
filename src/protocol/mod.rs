//! The algorithms, over atomic words and nothing else.
//!
//! Rules of this layer, checked by `tests/tidy.rs`: no system call, no clock, no allocation, no `unsafe`, and no
//! `use` of a layer above. What an algorithm needs from the world stands in [`Host`]; if you miss the time
//! or a PID here, it is missing there. The same text runs over core's atomics in a mapped segment and over
//! loom's in `models/` (see `crate::sync`).
//!
//! * [`word`]: the owner word, its fields and its pure transitions. [`slot`]: who stands in it.
//! * [`mutex`]: acquiring and releasing one owner word; sleeping; taking over from the dead.
//! * [`lease`]: an acquisition that ends by itself.
//! * [`bell`]: waiting for anything else than an owner word.
//! * [`rwlock`]: many readers or one writer. [`cell`]: the readers of one process. [`reader`]: a reader by a line of its own. [`seat`]: one of several owner words of a name. [`semaphore`]: so many seats at a time.
//! * [`barrier`]: members that meet. [`signal`]: what somebody announced to signal. [`ring`]: items in a queue.
//! * [`deadlock`]: who waits for each other.
//! * [`claim`]: who holds a lock file alone, whatever is put in its place.
//! * [`recovery`]: giving back a lock that a dead participant left, when nobody waits for it.

pub(crate) mod barrier;
pub(crate) mod bell;
pub(crate) mod cell;
pub(crate) mod claim;
pub(crate) mod deadlock;
pub(crate) mod lease;
pub(crate) mod mutex;
pub(crate) mod reader;
pub(crate) mod recovery;
pub(crate) mod ring;
pub(crate) mod rwlock;
pub(crate) mod seat;
pub(crate) mod semaphore;
pub(crate) mod signal;
pub(crate) mod slot;
pub(crate) mod word;

#[cfg(all(test, hostlock_loom))]
mod models;

use crate::sync::{AtomicU32, AtomicU64};
use slot::Slot;
use word::OwnerWord;

/// What the oracle says of a participant.
#[derive(Debug)]
pub(crate) enum Verdict<Obituary> {
    /// It lives, or nobody can tell.
    Alive,
    /// Proven dead. The obituary was read before the verdict was asked for, so it is the dead one's.
    Dead(Obituary),
    /// No participant is registered there.
    Unregistered,
}

/// What a wait needs from the world.
pub(crate) trait Host {
    /// Who died, for whoever takes over.
    type Obituary;
    /// Why the world ends a wait: its deadline, a space that is gone.
    type Refusal;

    /// Reads the record of `slot`, then asks whether that participant is dead.
    fn judge(&self, slot: Slot) -> Verdict<Self::Obituary>;

    /// Reads the record of `slot`, then closes its `lease` of `seen` if that ran out; who lost it. `None`: there is none, it runs, or nobody can tell.
    fn run_out(&self, slot: Slot, lease: &AtomicU64, seen: OwnerWord) -> Option<Self::Obituary>;

    /// The calling thread, unlike every other of this process; 0 says nothing about threads.
    fn thread(&self) -> u32;

    /// One step of spinning; `false` when it is time to sleep instead.
    fn spin(&self, step: u32) -> bool;

    /// Whether the next owner is told of whoever died with `seen` in the word, so that the death left something half done. Asked for after
    /// the verdict.
    fn is_told_of(&self, seen: OwnerWord) -> bool;

    /// Whether this thread has waited for so long that it should get the lock before anybody who just comes.
    fn is_starving(&self) -> bool;

    /// Gives those for whom the lock is reserved as `seen` a moment to take it, when nothing else can be waited for.
    fn give_way(&self, owner: &AtomicU64, seen: OwnerWord);

    /// Called with every word of a living owner that this thread waits for.
    fn met(&self, seen: OwnerWord);

    /// Called before each sleep.
    fn may_sleep(&self) -> Result<(), Self::Refusal>;

    /// Publishes that this thread sleeps. Called once per wait, after it was counted.
    fn enlist(&self);

    /// Takes that back. `false` when somebody else, who recovered us, did so already, and the count with it.
    fn delist(&self) -> bool;

    /// Sleeps until woken, for a bounded time, and not at all if the low half of `owner` is not `seen`'s any
    /// more. May return early for no reason.
    fn sleep(&self, owner: &AtomicU64, seen: OwnerWord);

    /// Wakes one sleeper on `owner`; whether there was one.
    fn wake(&self, owner: &AtomicU64) -> bool;

    /// The heavy half of [`light_fence`](crate::sync::light_fence), in all processes that use that. `false`: there is none, and sleeps are short from now on.
    fn heavy_fence(&self) -> bool;

    /// Sleeps as `sleep` does, until `rung` is not `seen` any more.
    fn doze(&self, rung: &AtomicU32, seen: u32);
}
