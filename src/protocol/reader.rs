//! Readers without a compare-and-swap: a line that one thread alone writes, for the reads of one lock.
//!
//! ```text
//! open    reads         meaning
//! 0       0             shut: the thread reads as everybody does, and is counted in its process's cell
//! open    0             it may read by the line
//! any     what          it reads, or is about to find out that it must not
//! ```
//!
//! A line belongs to a participant, which lends it to a lock: the lock's cell of that participant says which lines are [lent](super::cell::ReaderCell).
//! So a thread that is late writes to no line but its own, whatever became of the lock, and is found out by its own look at the mark.
//!
//! * Invariants:
//!   1. Only the thread that a line was lent for writes `reads`. It opens the mark; who holds the lock's word shuts it, by a compare-and-swap from what is open for
//!      that lock only: a slot may be another participant's by then, which lends its lines to others. No writer loses the word before it is in.
//!      What is read by a line that is lent to this lock, by who is in its slot now, is this lock: anything else there is damage.
//!   2. A reader writes `reads` *first*, and looks at the lock's word and at the mark *then*, in this order; in between is a light fence.
//!   3. Who holds the word and wants to be alone makes a heavy fence if any mark of a lent line is open, shuts them *then*, and looks at `reads` *then*. If all
//!      are shut there is nothing to be made: whoever shut them made it, and had the word.
//!   4. A mark is opened after the line was lent, and before a whole fence; by a thread that is counted in the cell, so that this is its process's.
//!
//! Why nobody reads beside a writer. Say that a reader found the word free and the mark open. Had the writer, who has the word, found the mark open, then it
//! made a heavy fence after it took the word; the reader's look at the word found it free, so that came before that fence, and so did what it wrote in
//! `reads`: the writer sees it and waits. Had the writer found the mark shut, then somebody before it shut it, with the word in hand, after a heavy
//! fence. If the reader's look at the word came before that fence, its `reads` was seen, and that one waited for its end. If it came after, then
//! the word was free again, so the mark was shut before, and the reader's look at the mark, which comes after that at the word, would have found it so. Or the
//! reader opened the mark after the writer looked: then by invariant 4 it finds the word taken.
//!
//! * Orderings: reading is `Acquire` by the load of the word; leaving is a `Release` store, and rings [lightly](super::bell).
//! * If we die: a dead reader's lines are lent no more, by whoever finds that out. The next one in its slot writes a line before it lends it.
//!
//! The halves of the fence follow the asymmetric Dekker synchronisation of `sys_membarrier`; that a reader announces itself where only it writes, and that writers
//! take that away when it does not pay, follows BRAVO (Dice and Kogan, 2019).

use core::sync::atomic::Ordering::{Relaxed, Release, SeqCst};

use super::bell::Bell;
use super::mutex::LockWords;
use super::word::OwnerWord;
use crate::sync::{AtomicU32, AtomicU64, full_fence, light_fence};

/// How many lines a participant has.
pub(crate) const LINES: u32 = 16;

/// A cache line, which one thread writes.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct ReaderLine {
    /// What is read by it: [`What`], or 0.
    pub(crate) reads: AtomicU64,
    /// The complement of what may be read by it, or 0.
    pub(crate) open: AtomicU64,
    /// When the present reader was seen: kept by the backend.
    pub(crate) since: AtomicU64,
    pub(crate) reserved: [AtomicU64; 5],
}

/// A name, by its generation, as it stands in the lines by which it is read: twice, so that one flipped bit is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct What(u64);

impl What {
    pub(crate) const fn new(generation: u32) -> Self {
        Self((generation as u64) << 32 | !generation as u64)
    }

    /// The mark of a line by which it may be read: more than one flipped bit from every other mark.
    #[inline(always)]
    fn open(self) -> u64 {
        !self.0
    }
}

/// What a line says to somebody who asks for the readers of one name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reads {
    Nothing,
    It,
    /// What the line is not lent for, if it still is lent.
    Other(u64),
    Damaged(u64),
}

impl ReaderLine {
    #[cfg(all(test, hostlock_loom))]
    pub(crate) fn new() -> Self {
        Self {
            reads: AtomicU64::new(0),
            open: AtomicU64::new(0),
            since: AtomicU64::new(0),
            reserved: core::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Reads `what` if the mark is open and the lock's word is free and unmarked; whether it does. For the thread that has the line. If not, it took itself off
    /// again.
    #[inline(always)]
    pub(crate) fn try_read(&self, gate: &LockWords, what: What, bell: &Bell, wake: impl FnOnce(&AtomicU32)) -> bool {
        // Relaxed: our own store. It reads already: this one has to be counted elsewhere.
        if self.reads.load(Relaxed) != 0 {
            return false;
        }
        // Relaxed: the fence is what orders it.
        self.reads.store(what.0, Relaxed);
        light_fence();
        // Acquire: what the writer before wrote; and the look at the mark comes after it.
        if gate.look().is_free_and_clean() && self.open.load(Relaxed) == what.open() {
            return true;
        }
        self.leave_again(what, bell, wake);
        false
    }

    /// Ends that; whether it was so.
    #[inline(always)]
    pub(crate) fn leave(&self, what: What, bell: &Bell, wake: impl FnOnce(&AtomicU32)) -> bool {
        // Relaxed: our own store.
        if self.reads.load(Relaxed) != what.0 {
            return false;
        }
        // Release: what was read; pairs with the writer's look.
        self.reads.store(0, Release);
        bell.ring_lightly(wake);
        true
    }

    #[cold]
    #[inline(never)]
    fn leave_again(&self, what: What, bell: &Bell, wake: impl FnOnce(&AtomicU32)) {
        self.leave(what, bell, wake);
    }

    /// Ends a reader of `what` whose word is damaged: nobody but the caller's thread has the line.
    #[cold]
    pub(crate) fn undo_flip(&self, what: What, bell: &Bell, wake: impl FnOnce(&AtomicU32)) {
        if (self.reads.load(Relaxed) ^ what.0).is_power_of_two() {
            self.reads.store(0, Release);
            bell.ring_lightly(wake);
        }
    }

    /// As it is before it is lent.
    pub(crate) fn clear(&self) {
        self.open.store(0, Relaxed);
        self.reads.store(0, Relaxed);
        self.since.store(0, Relaxed);
    }

    /// Invariant 4. Only for the thread that has the line, counted in the cell that lends it.
    pub(crate) fn open(&self, what: What) {
        self.open.store(what.open(), SeqCst);
        full_fence();
    }

    /// Only for who holds the word of `what`, after a heavy fence.
    pub(crate) fn shut(&self, what: What) {
        // SeqCst: whoever finds it shut comes after the fence.
        let _ = self.open.compare_exchange(what.open(), 0, SeqCst, Relaxed);
    }

    pub(crate) fn is_shut(&self) -> bool {
        // SeqCst: invariant 3.
        self.open.load(SeqCst) == 0
    }

    /// Nobody reads anything by it, nor may begin to.
    pub(crate) fn is_quiet(&self) -> bool {
        // SeqCst: invariant 3.
        self.is_shut() && self.reads.load(SeqCst) == 0
    }

    /// Whether `what` is read by it.
    pub(crate) fn look(&self, what: What) -> Reads {
        // SeqCst: invariant 3, and the sleeper's look of the bell's.
        match self.reads.load(SeqCst) {
            0 => Reads::Nothing,
            reads if reads == what.0 => Reads::It,
            reads if (reads >> 32) as u32 == !(reads as u32) => Reads::Other(reads),
            reads => Reads::Damaged(reads),
        }
    }
}

impl OwnerWord {
    /// Free for everybody, and nobody is to be told of a death.
    #[inline(always)]
    pub(crate) fn is_free_and_clean(self) -> bool {
        self.is_free() && !self.is_abandoned()
    }
}

#[cfg(all(test, not(hostlock_loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_flipped_bit_opens_no_line_and_reads_nothing_else() {
        let what = What::new(4711);
        for bit in 0..64 {
            let line = ReaderLine {
                reads: AtomicU64::new(what.0 ^ 1 << bit),
                open: AtomicU64::new(1 << bit),
                since: AtomicU64::new(0),
                reserved: Default::default(),
            };
            assert!(matches!(line.look(what), Reads::Damaged(_)));
            assert!(!line.is_shut() && line.open.load(Relaxed) != what.open());
        }
        for generation in [0, 1, u32::MAX] {
            let what = What::new(generation);
            assert!(what.0.count_ones() > 1 && what.open().count_ones() > 1);
        }
    }
}
