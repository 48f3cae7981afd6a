//! Many readers or one writer: an owner word for the writer, and for each process that reads a cell of its own.
//!
//! The cells: [`cell`](super::cell).
//!
//! * States:
//!
//! ```text
//! owner word   written     cells     meaning
//! free         any         any       readers come and go past it; a writer can take the word
//! held by n    not its     some > 0  n is a writer who waits for the readers to go, or a reader that could not get past somebody at the gate
//! held by n    not its     all 0     as above, about to go in
//! held by n    its epoch   all 0     n writes
//! ```
//!
//!   A cell may have a reader for a moment who finds the word held, and takes itself off again.
//! * Invariants:
//!   1. A reader counts itself *first* and looks at the owner word *then*; a writer takes the word *first* and looks at the cells *then*.
//!      All four are `SeqCst`, so in their one total order either the reader sees the writer, or the writer sees the reader.
//!   2. Who holds the word is let past by every reader that comes: so a writer waits only for those that were there before, and no
//!      reader is counted anew but by whoever has the word.
//!   3. A reader that finds the word held queues for it as a writer does, counts itself while it has it, and frees it. So readers are not starved
//!      by writers more than writers are by each other.
//!   4. A cell changes only by compare-and-swap from one exact word, which says whose it is. Its participant counts up and down; others clear it when
//!      that one is dead, and may take it when nobody reads by it. So the dead are subtracted exactly, wherever they died, and no
//!      cleaner that was stopped takes away readers of whoever moved into the slot.
//!   5. `written` becomes a writer's epoch *after* the last reader went and *before* it writes. So a dead writer that only waited
//!      left nothing half done, and nobody is told of it.
//!   6. A reader takes itself off *first* and rings *then*; see [`bell`](super::bell). Only whoever has the word waits there.
//! * Orderings: counting is `Acquire` by the load of the owner word after it (pairs with the release of the writer before): what was
//!   written is seen. Taking oneself off is `Release` (in `SeqCst`; pairs with the writer's look): the next writer writes after the last
//!   read.
//! * If we die: counted, we are dead readers, whom the next writer clears from the cells, or whoever cleans up. With the word, the next one in the queue
//!   takes over. Between taking ourselves off and the ring, the writer looks again by itself.
//! * A thread that reads much does so by a line of its own, which its process's cell lends to the lock: see [`reader`](super::reader).
//! * Not here: which cell is whose (`backend::rwlock`), who is dead (`Host::judge`).

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::bell::Bell;
use super::cell::{Cell, NotCounted, ReaderCell};
use super::mutex::LockWords;
use super::reader::{ReaderLine, Reads, What};
use super::slot::Slot;
use super::word::{Owner, OwnerWord};
use super::{Host, Verdict};
use crate::sync::{AtomicU32, AtomicU64, full_fence, total_order};

/// The lines that are lent by a cell, of those that its participant has; `None` if it cannot be told which, or whose.
pub(crate) fn lent_of(lent: Cell, lines: &[ReaderLine]) -> Option<impl Iterator<Item = &ReaderLine>> {
    let which = lent.readers().filter(|which| u64::from(*which) >> lines.len() == 0)?;
    Some(lines.iter().enumerate().filter(move |(number, _)| which >> number & 1 != 0).map(|(_, line)| line))
}

/// Shuts all lines that are lent by `cells`, if any are: invariant 3 of [`reader`](super::reader). Only for who has the word, and cannot lose it. `lines` are those of the
/// participant in a lent word.
pub(crate) fn shut_lines<'c, C: Iterator<Item = &'c ReaderCell>>(
    cells: impl Fn() -> C,
    lines: impl Fn(Cell) -> &'c [ReaderLine],
    what: What,
    heavy_fence: impl FnOnce() -> bool,
) -> Result<bool, NotShut> {
    let (mut any, mut are_shut) = (false, true);
    for lent in cells().map(ReaderCell::lent).filter(|lent| !lent.is_idle()) {
        any = true;
        are_shut &= lent_of(lent, lines(lent)).ok_or(NotShut::Damaged(lent))?.all(ReaderLine::is_shut);
    }
    if are_shut {
        return Ok(any);
    }
    if !heavy_fence() {
        return Err(NotShut::NoFence);
    }
    // Also those that were opened since: their readers are counted in the cells now.
    for lent in cells().map(ReaderCell::lent).filter(|lent| !lent.is_idle()) {
        lent_of(lent, lines(lent)).ok_or(NotShut::Damaged(lent))?.for_each(|line| line.shut(what));
    }
    Ok(any)
}

/// Why lines that are lent are not all shut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotShut {
    /// No heavy fence can be made here.
    NoFence,
    /// A cell says what cannot be.
    Damaged(Cell),
}

/// What a reader that was counted found at the owner word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// It reads. The word may be marked as abandoned.
    Open(OwnerWord),
    /// Somebody has the word. The reader took itself off again.
    Held(OwnerWord),
}

/// Why a writer cannot go in.
#[derive(Debug)]
pub(crate) enum Blocked<Refusal> {
    /// A cell, or a line, says what cannot be.
    Damaged(u64),
    /// Others read by lines, and no heavy fence can be made here.
    NoFence,
    Refused(Refusal),
}

/// The words of a read-write lock, without its cells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadWrite<'a> {
    pub(crate) gate: &'a LockWords,
    pub(crate) bell: &'a Bell,
    pub(crate) written: &'a AtomicU64,
}

impl ReadWrite<'_> {
    /// Reads if nobody has the owner word. `Err`: the cell could not be used, and nothing was done.
    #[inline(always)]
    pub(crate) fn try_read(
        self,
        cell: &ReaderCell,
        me: Cell,
        wake: impl FnOnce(&AtomicU32),
    ) -> Result<Door, NotCounted> {
        cell.count(me)?;
        total_order();
        // SeqCst: invariant 1.
        let word = OwnerWord(self.gate.owner.load(SeqCst));
        if word.is_free() {
            return Ok(Door::Open(word));
        }
        self.leave_again(cell, me, wake);
        Ok(Door::Held(word))
    }

    /// Takes one of `me`'s readers off; `false` if there is none.
    #[inline(always)]
    pub(crate) fn leave(self, cell: &ReaderCell, me: Cell, wake: impl FnOnce(&AtomicU32)) -> bool {
        let Some(left) = cell.uncount(me) else { return false };
        // One that is left may be the one that wants to write.
        if left.0 as u16 <= 1 {
            self.bell.ring(wake);
        }
        true
    }

    /// The same, where somebody was in the way.
    #[cold]
    pub(crate) fn leave_again(self, cell: &ReaderCell, me: Cell, wake: impl FnOnce(&AtomicU32)) -> bool {
        self.leave(cell, me, wake)
    }

    /// Waits until nobody reads by any of `cells`, or by the lines that they lend, and goes in as the writer of `mine`, which the caller has the word with. `own`: a
    /// cell of the caller's by which it reads itself, as the only one in the end. `are` says of whom cells and lines are.
    pub(crate) fn drain<'c, H: Host, C: Iterator<Item = &'c ReaderCell>>(
        self,
        host: &H,
        mine: OwnerWord,
        cells: impl Fn() -> C,
        own: Option<&ReaderCell>,
        are: &Readers<impl Fn(Cell) -> bool, impl Fn(Cell) -> &'c [ReaderLine]>,
    ) -> Result<(), Blocked<H::Refusal>> {
        let Owner::Held(me) = mine.owner() else { return Err(Blocked::Damaged(mine.0)) };
        // The word was taken with any order: invariant 1, the writer's half.
        full_fence();
        // Who lends one from now on is counted, and reads by it when it finds the word free again.
        let any_lent =
            shut_lines(&cells, &are.lines, are.what, || host.heavy_fence()).map_err(|not_shut| match not_shut {
                NotShut::NoFence => Blocked::NoFence,
                NotShut::Damaged(cell) => Blocked::Damaged(cell.0),
            })?;
        let look = || {
            for cell in cells() {
                let counted = |seen: Cell| match seen.readers() {
                    Some(1) if own.is_some_and(|own| core::ptr::eq(own, cell)) => Count::Own,
                    Some(0) => Count::Nobody,
                    Some(_) => Count::Somebody,
                    None => Count::Damaged(seen.0),
                };
                let by_line = |seen: Cell| count_lines(seen, (are.lines)(seen), are.what);
                // Lines first: whoever reads by one may be counted in the cell instead, without an end to its reading.
                let lines = if any_lent { look_at(host, me, &cell.lent, by_line, are) } else { Reading::Nobody };
                for reading in [lines, look_at(host, me, &cell.word, counted, are)] {
                    match reading {
                        Reading::Nobody => {}
                        Reading::Somebody => return None,
                        Reading::Damaged(seen) => return Some(Err(Blocked::Damaged(seen))),
                    }
                }
            }
            Some(Ok(()))
        };
        let waited = if any_lent { self.bell.wait_fenced(host, look) } else { self.bell.wait_until(host, look) };
        waited.map_err(Blocked::Refused)??;
        self.go_in(mine);
        Ok(())
    }

    /// Invariant 5. The caller has the word and found nobody in any cell.
    #[inline(always)]
    pub(crate) fn go_in(self, mine: OwnerWord) {
        // Relaxed: whoever reads it either knows that we are dead, or found the word that we freed later.
        self.written.store(mine.epoch(), Relaxed);
    }
}

/// Of whom cells and lines are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readers<Current, Lines> {
    /// Whether a cell's word is of the participant that is in its slot now.
    pub(crate) is_current: Current,
    /// The lines of the participant in a cell's word.
    pub(crate) lines: Lines,
    /// What the lock is to those who read it by a line.
    pub(crate) what: What,
}

/// How often something else has to be read by a line, one time after the other, for that to be damage: it may be lent to another lock, and to this one again, meanwhile.
pub(crate) const STRANGE: u32 = 10;

/// Who reads by one word of a cell.
enum Reading {
    Nobody,
    Somebody,
    Damaged(u64),
}

/// What such a word says.
enum Count {
    Nobody,
    Somebody,
    /// If it is of this process: the caller itself, and nobody else.
    Own,
    /// Something else is read by what is lent for this: by nobody's leave, if it is lent still, and by who is there.
    Strange(u64),
    Damaged(u64),
}

/// By the lines that are `lent` by a cell.
fn count_lines(lent: Cell, lines: &[ReaderLine], what: What) -> Count {
    let Some(mut lent) = lent_of(lent, lines) else { return Count::Damaged(lent.0) };
    let found = lent.find_map(|line| match line.look(what) {
        Reads::Nothing => None,
        Reads::It => Some(Count::Somebody),
        Reads::Other(reads) => Some(Count::Strange(reads)),
        Reads::Damaged(reads) => Some(Count::Damaged(reads)),
    });
    found.unwrap_or(Count::Nobody)
}

fn look_at<'c, H: Host>(
    host: &H,
    me: Slot,
    word: &AtomicU64,
    count: impl Fn(Cell) -> Count,
    are: &Readers<impl Fn(Cell) -> bool, impl Fn(Cell) -> &'c [ReaderLine]>,
) -> Reading {
    // SeqCst, as in `ReaderCell::look`.
    let mut seen = Cell(word.load(SeqCst));
    let mut strange = 0;
    loop {
        if seen.is_idle() {
            return Reading::Nobody;
        }
        let Owner::Held(slot) = seen.owner() else { return Reading::Damaged(seen.0) };
        let counted = match count(seen) {
            Count::Nobody => return Reading::Nobody,
            Count::Damaged(word) => return Reading::Damaged(word),
            // The line may have been lent to another lock since, by the same participant or the next one in its slot.
            Count::Strange(_) if !(are.is_current)(seen) => return Reading::Nobody,
            Count::Strange(reads) if strange == STRANGE => return Reading::Damaged(reads),
            Count::Strange(_) => {
                strange += 1;
                seen = Cell(word.load(SeqCst));
                continue;
            }
            counted => counted,
        };
        if slot == me && (are.is_current)(seen) {
            return if matches!(counted, Count::Own) { Reading::Nobody } else { Reading::Somebody };
        }
        let verdict = host.judge(slot);
        match verdict {
            // Whoever leaves clears its cells first, and a cell names an incarnation: one of nobody's that still stands is damage.
            _ if !(are.is_current)(seen) => {
                let now = Cell(word.load(SeqCst));
                if now == seen {
                    return Reading::Damaged(seen.0);
                }
                seen = now;
            }
            Verdict::Alive => return Reading::Somebody,
            Verdict::Dead(_) => {
                // Invariant 4.
                match word.compare_exchange(seen.0, 0, SeqCst, SeqCst) {
                    Ok(_) => return Reading::Nobody,
                    Err(now) => seen = Cell(now),
                }
            }
            Verdict::Unregistered => seen = Cell(word.load(SeqCst)),
        }
    }
}
