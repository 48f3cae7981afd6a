//! A mutex over one owner word, with its sleepers counted beside it.
//!
//! * States: the table in [`word`](super::word). Beside the word stand the count of sleepers and the thread that holds it.
//!
//! ```text
//! owner     sleepers  meaning
//! none      0         free, nobody asleep
//! none      > 0       free, but a sleeper may not have been woken yet: the next releaser wakes again
//! reserved  > 0       free for those who waited before; who just came goes to sleep
//! slot n    0         held by n, nobody asleep
//! slot n    > 0       held by n, at least one sleeper, or one that died before it took itself off
//! ```
//!
//! * Invariants:
//!   1. Only a compare-and-swap from the exact word seen changes the owner: one winner.
//!   2. A release frees the word *first* and looks at the count *then*; a sleeper counts itself *first* and
//!      looks at the word *then*. All four are `SeqCst`, so in their one total order either the releaser
//!      sees the sleeper or the sleeper sees the free word.
//!   3. Nobody but the sleeper takes itself off the count, or whoever recovers it once it is dead. A stray
//!      count costs a wake call; a missing one loses a sleeper. (glibc's robust mutex clears its mark at the
//!      release, and loses a sleeper when the releaser dies before its wake while a third party barges in.)
//!   4. A lock is taken over in this order: word, record, oracle, compare-and-swap from that first
//!      word. If the slot was reborn in between, its locks were given back before, so the word has changed.
//!   5. Nobody gives up after a wake without having tried once more: no wake is swallowed.
//!   6. Beside the count stands a mark that a sleeper was woken and has not looked yet; releases in between need not wake another
//!      (without it every release of a busy lock is a system call). Every sleeper takes it away *before* it looks at the word and
//!      sleeps, and when it leaves; whoever leaves looks at the word *then*, and wakes the next if it is free. A releaser whose wake
//!      found nobody asleep takes its mark back and looks whether the word was freed once more meanwhile. So a releaser that finds
//!      the mark freed the word before a look that is still to come. If the woken one, or a releaser between mark and
//!      wake, is killed, the mark stays until the next sleeper's sleep ends, and every sleep is bounded.
//!   7. Whoever has waited for long marks the count as *starving* before it sleeps on. A release that finds that mark reserves the free word
//!      (a compare-and-swap: somebody may be faster), so that nobody who just comes gets the lock before one of those who wait. Barred is only who
//!      met that very reservation when it came, and was not alone on the count then, until its next sleep ends. No word is reserved twice: only
//!      whoever ended an acquisition reserves the word it left, once, for a second reservation would bar those who met the first and went
//!      on waiting for it to end. So for each reservation there
//!      is somebody on the count who is not barred and has yet to look: whoever leaves without the lock, and a releaser that finds nobody on the
//!      count any more, make the word free again. If those who are not barred are killed, or stopped, the others' sleeps end; and who cannot sleep takes
//!      what is still reserved after a moment.
//!   8. An owner whose lease ran out is taken over like a dead one, after the lease was closed ([`lease`](super::lease)).
//!   9. Nobody changes the word of a living owner without a lease, so that one may free it by a store, if it looked that it still has it. Only its look at
//!      the count may then come before the store is seen: it believes that the count is *zero*, marks and all, and nothing else. Between that store and that
//!      look is a light fence. Who counts itself makes a heavy one, before it looks at the word, and leaves the mark FENCED: the count was not zero since
//!      before that fence, so each release that looks after it makes up for the store by a whole fence, looks again, and goes on as after a compare-and-swap;
//!      and what looked before it is seen. Who finds the mark needs no fence: the count is not zero until it has gone. The mark goes when nobody is counted.
//! * Orderings: acquiring is `Acquire` (pairs with the release's `SeqCst` swap of the owner before, which includes
//!   `Release`): what was written under the lock is seen. The rest is invariant 2.
//! * If we die: before the compare-and-swap nothing happened; after it we are a dead owner like any other. Between
//!   counting ourselves and enlisting, the count keeps a stray one. Between a release and its wake, sleepers look again
//!   by themselves, for every sleep is bounded.
//! * Not here: who is dead (`Host::judge`), how long a sleep is (`Host::sleep`), what an abandoned lock means.
//!
//! The separate count follows from the analysis of glibc's `pthread_mutex_lock.c` (robust kind) and of
//! std's `futex.rs`, which keep it inside the word.

use core::sync::atomic::Ordering::{self, Acquire, Relaxed, Release, SeqCst};

use super::lease::{is_open, lost};
use super::slot::{Me, Slot};
use super::word::{Owner, OwnerWord, Step};
use super::{Host, Verdict};
use crate::sync::{AtomicU32, AtomicU64, full_fence, light_fence, total_order};

/// In the count of sleepers: one of them was woken and has not looked yet. Harmless if stray: the next one to go to sleep
/// takes it away. (Missing, it costs a wake call.)
pub(super) const WOKEN: u32 = 1 << 31;
/// In the count of sleepers: one of them has waited for long. Harmless if stray or missing: it is about who is first.
pub(super) const STARVING: u32 = 1 << 30;
/// In the count of sleepers: since it was not zero, a heavy fence was made, so that no release by a store misses it (invariant 9). Missing, it costs another.
pub(super) const FENCED: u32 = 1 << 29;
const MARKS: u32 = WOKEN | STARVING | FENCED;
/// A release by a store whose epoch is a multiple of this takes the mark away if nobody is counted: a lock that is quiet again is quick again, and one that is busy
/// has the processors interrupted once in so many turns at most.
const QUIET: u64 = if cfg!(hostlock_loom) { 2 } else { 1024 };

/// The words of one lock, as they lie in the segment.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct LockWords {
    pub(crate) owner: AtomicU64,
    /// Thread id (high half) and low half of the epoch it belongs to: a stale id never counts. Id 0 for
    /// acquisitions that no thread owns. Written after the owner word, with a plain store.
    pub(crate) thread: AtomicU64,
    pub(crate) sleepers: AtomicU32,
    pub(crate) contended: AtomicU32,
    /// Until when it is held, if the owner word says that there is a lease.
    pub(crate) lease: AtomicU64,
}

/// An acquisition.
#[derive(Debug)]
pub(crate) struct Acquired<Obituary> {
    pub(crate) word: OwnerWord,
    /// Of the owner it was taken over from, if it was.
    pub(crate) obituary: Option<Obituary>,
}

/// Why a wait ended without the lock.
#[derive(Debug)]
pub(crate) enum Failure<Refusal> {
    /// The calling thread holds it already, so it would wait for itself.
    Deadlock,
    /// The word names an owner that cannot be.
    Damaged(OwnerWord),
    /// No token is left.
    Exhausted,
    Refused(Refusal),
}

/// The thread word of acquisition `epoch` by `thread`.
#[inline(always)]
pub(super) fn thread_word(thread: u32, word: OwnerWord) -> u64 {
    (thread as u64) << 32 | (word.epoch() as u32) as u64
}

impl LockWords {
    #[cfg(all(test, hostlock_loom))]
    pub(crate) fn new() -> Self {
        Self {
            owner: AtomicU64::new(0),
            thread: AtomicU64::new(0),
            sleepers: AtomicU32::new(0),
            contended: AtomicU32::new(0),
            lease: AtomicU64::new(0),
        }
    }

    #[inline(always)]
    pub(crate) fn look(&self) -> OwnerWord {
        OwnerWord(self.owner.load(Acquire))
    }

    /// Whether anybody is counted as asleep.
    pub(crate) fn is_slept_on(&self) -> bool {
        self.sleepers.load(Relaxed) & !MARKS != 0
    }

    /// The thread that holds the acquisition in `seen`, if it left its id.
    pub(crate) fn thread_of(&self, seen: OwnerWord) -> Option<u32> {
        let word = self.thread.load(Relaxed);
        let thread = (word >> 32) as u32;
        (thread != 0 && word == thread_word(thread, seen)).then_some(thread)
    }

    /// Acquires the lock if its word is still `guess`, which a release left.
    ///
    /// The guess saves the load before the compare-and-swap, which under contention would fetch the cache line
    /// twice: once to read, once to own.
    #[inline(always)]
    pub(crate) fn acquire_guessed(&self, me: Me, thread: u32, guess: OwnerWord, order: Ordering) -> Option<OwnerWord> {
        let held = guess.acquire_clean(me)?;
        // Acquire: as in `try_acquire_as`.
        self.owner.compare_exchange(guess.0, held.0, order, Relaxed).ok()?;
        self.thread.store(thread_word(thread, held), Relaxed);
        Some(held)
    }

    /// Acquires the lock if it is free, starting from a guess of its word; hands back the word seen if it is held.
    #[inline(always)]
    pub(crate) fn try_acquire(&self, me: Slot, thread: u32, guess: OwnerWord) -> Result<OwnerWord, OwnerWord> {
        self.try_acquire_as(me, thread, guess, Acquire)
    }

    /// The same, with an order that is at least `Acquire`.
    #[inline(always)]
    pub(crate) fn try_acquire_as(
        &self,
        me: Slot,
        thread: u32,
        guess: OwnerWord,
        order: Ordering,
    ) -> Result<OwnerWord, OwnerWord> {
        let mut seen = guess;
        while let Step::To(held) = seen.acquire(me) {
            // Acquire: pairs with the compare-and-swap in `release`, and with the one in `recovery::give_back`.
            match self.owner.compare_exchange(seen.0, held.0, order, Relaxed) {
                Ok(_) => {
                    self.thread.store(thread_word(thread, held), Relaxed);
                    return Ok(held);
                }
                Err(now) => seen = OwnerWord(now),
            }
        }
        Err(seen)
    }

    /// Acquires the lock, waiting as long as `host` lets it. `seen` is a word that could not be acquired.
    #[cold]
    pub(crate) fn acquire_contended<H: Host>(
        &self,
        host: &H,
        me: Slot,
        seen: OwnerWord,
    ) -> Result<Acquired<H::Obituary>, Failure<H::Refusal>> {
        let mut seen = seen;
        let mut step = 0;
        // What is reserved is not for who just comes, and the processor is better left to whom it is for.
        while !seen.is_reserved() && host.spin(step) {
            step += 1;
            seen = OwnerWord(self.owner.load(Relaxed));
            if seen.is_free() {
                match self.try_acquire(me, host.thread(), seen) {
                    Ok(word) => return Ok(Acquired { word, obituary: None }),
                    Err(now) => seen = now,
                }
            }
        }

        let mut counted = false;
        // Invariant 7: the reservation that this thread met when it came.
        let mut barred = None;
        let mut may_sleep = true;
        let outcome = loop {
            let barred_now = seen.is_reserved() && may_sleep && (!counted || barred == Some(seen));
            match seen.owner() {
                Owner::Nobody if barred_now => {}
                Owner::Nobody => match self.try_acquire_waiting(me, host.thread(), seen, Acquire) {
                    Ok(word) => break Ok(Acquired { word, obituary: None }),
                    Err(now) if now.is_exhausted() => break Err(Failure::Exhausted),
                    Err(now) => {
                        seen = now;
                        continue;
                    }
                },
                Owner::Damaged => break Err(Failure::Damaged(seen)),
                Owner::Held(slot)
                    if slot == me && host.thread() != 0 && self.thread_of(seen) == Some(host.thread()) =>
                {
                    break Err(Failure::Deadlock);
                }
                Owner::Held(slot) => match self.judge(host, me, slot, seen) {
                    Verdict::Alive => {}
                    Verdict::Dead(obituary) => {
                        let told = host.is_told_of(seen);
                        let Step::To(taken) = seen.take_over(me, told) else {
                            break Err(Failure::Exhausted);
                        };
                        // HELD(dead, or without a lease any more) => HELD(me), invariants 4 and 8. Acquire: what that owner had seen.
                        match self.owner.compare_exchange(seen.0, taken.0, Acquire, Relaxed) {
                            Ok(_) => {
                                self.thread.store(thread_word(host.thread(), taken), Relaxed);
                                break Ok(Acquired { word: taken, obituary: told.then_some(obituary) });
                            }
                            Err(now) => {
                                seen = OwnerWord(now);
                                continue;
                            }
                        }
                    }
                    Verdict::Unregistered => {
                        // Whoever leaves gives its locks back first: a word that still stands is damage.
                        let now = OwnerWord(self.owner.load(Acquire));
                        if now == seen {
                            break Err(Failure::Damaged(seen));
                        }
                        seen = now;
                        continue;
                    }
                },
            }
            if let Err(refusal) = host.may_sleep() {
                if seen.is_reserved() && may_sleep {
                    host.give_way(&self.owner, seen);
                    may_sleep = false;
                    seen = self.look();
                    continue;
                }
                break Err(Failure::Refused(refusal));
            }
            if seen.is_held() {
                host.met(seen);
            }
            if !counted {
                self.contended.fetch_add(1, Relaxed);
                let before = self.sleepers.fetch_add(1, SeqCst);
                barred = (seen.is_reserved() && before & !MARKS != 0).then_some(seen);
                counted = true;
                host.enlist();
                if before & FENCED == 0 && host.heavy_fence() {
                    // SeqCst: whoever finds it comes after the fence.
                    self.sleepers.fetch_or(FENCED, SeqCst);
                }
            }
            if host.is_starving() {
                self.sleepers.fetch_or(STARVING, SeqCst);
            }
            // SeqCst, as is the load below: invariant 2, the sleeper's half, and invariant 6.
            self.sleepers.fetch_and(!WOKEN, SeqCst);
            total_order();
            let now = OwnerWord(self.owner.load(SeqCst));
            if now == seen && (now.is_held() || barred == Some(now)) {
                host.sleep(&self.owner, seen);
                barred = None;
                // Invariant 5: after every sleep the word is looked at before anything can end the wait.
                seen = OwnerWord(self.owner.load(Acquire));
            } else {
                seen = now;
            }
        };
        if counted && host.delist() {
            self.uncount(|owner| host.wake(owner));
        }
        outcome
    }

    /// What is to be known of whoever is in `seen`.
    fn judge<H: Host>(&self, host: &H, me: Slot, slot: Slot, seen: OwnerWord) -> Verdict<H::Obituary> {
        match lost(host, slot, &self.lease, seen) {
            Some(loser) => Verdict::Dead(loser),
            None if slot == me => Verdict::Alive,
            None => host.judge(slot),
        }
    }

    /// As [`try_acquire_as`](Self::try_acquire_as), for somebody who is not barred: also what is reserved.
    pub(crate) fn try_acquire_waiting(
        &self,
        me: Slot,
        thread: u32,
        mut seen: OwnerWord,
        order: Ordering,
    ) -> Result<OwnerWord, OwnerWord> {
        while seen.is_reserved()
            && let Step::To(held) = seen.acquire_reserved(me)
        {
            // RESERVED => HELD. Acquire: as in `try_acquire_as`.
            match self.owner.compare_exchange(seen.0, held.0, order, Relaxed) {
                Ok(_) => {
                    self.thread.store(thread_word(thread, held), Relaxed);
                    return Ok(held);
                }
                Err(now) => seen = OwnerWord(now),
            }
        }
        self.try_acquire_as(me, thread, seen, order)
    }

    /// Takes one sleeper off the count: the caller itself, or a dead one whose record the caller cleared.
    pub(crate) fn uncount(&self, wake: impl FnMut(&AtomicU64) -> bool) {
        let mut sleepers = self.sleepers.load(Relaxed);
        loop {
            // Not below zero: the count is a peer's to damage, and a wrapped one would never be zero again.
            let fewer = match (sleepers & !MARKS).saturating_sub(1) {
                0 => sleepers & FENCED,
                left => left | sleepers & (STARVING | FENCED),
            };
            // SeqCst, as is the load below: invariant 6.
            match self.sleepers.compare_exchange(sleepers, fewer, SeqCst, Relaxed) {
                Ok(_) => break,
                Err(now) => sleepers = now,
            }
        }
        total_order();
        // Whoever leaves without the lock may have been the one that was woken for it, or for whom it was reserved.
        let mut now = OwnerWord(self.owner.load(SeqCst));
        if now.is_reserved() {
            now = self.unreserve(now);
        }
        if now.is_free() {
            self.wake_unreserved(now, wake);
        }
    }

    /// RESERVED => FREE, if it still is so; the word now. SeqCst: invariants 2 and 7.
    fn unreserve(&self, reserved: OwnerWord) -> OwnerWord {
        let freed = reserved.unreserve();
        match self.owner.compare_exchange(reserved.0, freed.0, SeqCst, SeqCst) {
            Ok(_) => freed,
            Err(now) => OwnerWord(now),
        }
    }

    /// FREE => RESERVED, if it still is so; the word left behind.
    fn reserve(&self, freed: OwnerWord) -> OwnerWord {
        let reserved = freed.reserve();
        // SeqCst, as are the operations below: invariant 7.
        if self.owner.compare_exchange(freed.0, reserved.0, SeqCst, Relaxed).is_err() {
            return freed;
        }
        self.settle(reserved)
    }

    /// The mark is answered. Invariant 7: makes the word free again if nobody is on the count any more.
    fn settle(&self, reserved: OwnerWord) -> OwnerWord {
        total_order();
        let sleepers = self.sleepers.fetch_and(!STARVING, SeqCst);
        if sleepers & !MARKS == 0 { self.unreserve(reserved) } else { reserved }
    }

    /// Ends the acquisition `mine`; the word left behind, or the one found instead if `mine` had ended before.
    #[inline(always)]
    pub(crate) fn release(
        &self,
        mine: OwnerWord,
        wake: impl FnMut(&AtomicU64) -> bool,
    ) -> Result<OwnerWord, OwnerWord> {
        let freed = mine.release();
        // HELD => FREE. Release (in SeqCst): what was written under the lock; pairs with `try_acquire`.
        // SeqCst, as is the load of the count after it: invariant 2, the releaser's half.
        match self.owner.compare_exchange(mine.0, freed.0, SeqCst, Relaxed) {
            Ok(_) => {
                self.wake_sleepers(freed, wake);
                Ok(freed)
            }
            Err(now) => Err(OwnerWord(now)),
        }
    }

    /// The same for whoever registered for heavy fences, of an acquisition without a lease: nobody changes the word of a living owner, so a store is enough.
    #[inline(always)]
    pub(crate) fn release_lightly(
        &self,
        mine: OwnerWord,
        wake: impl FnMut(&AtomicU64) -> bool,
    ) -> Result<OwnerWord, OwnerWord> {
        // Relaxed: what is looked for is our own store.
        let seen = OwnerWord(self.owner.load(Relaxed));
        if seen != mine {
            return Err(seen);
        }
        let freed = mine.release();
        // HELD => FREE. Release: what was written under the lock; pairs with `try_acquire`.
        self.owner.store(freed.0, Release);
        light_fence();
        // Relaxed: invariant 9.
        if self.sleepers.load(Relaxed) != 0 {
            self.wake_after_store(freed, wake);
        }
        Ok(freed)
    }

    /// Invariant 9: as if the word had been freed by a compare-and-swap.
    #[cold]
    #[inline(never)]
    fn wake_after_store(&self, freed: OwnerWord, wake: impl FnMut(&AtomicU64) -> bool) {
        full_fence();
        let sleepers = self.sleepers.load(SeqCst);
        if sleepers != FENCED {
            self.wake_first(freed, sleepers, wake);
        } else if freed.epoch().is_multiple_of(QUIET) {
            // Relaxed: who counts itself in between finds the mark, and is seen.
            let _ = self.sleepers.compare_exchange(FENCED, 0, Relaxed, Relaxed);
        }
    }

    /// Frees a lock whose word is one flipped bit beside that of my acquisition which was to leave `freed`. Nobody else can have had
    /// the lock, for no flipped bit makes a word free; and nobody else would ever free it.
    ///
    /// Only for the participant that holds it and has never tried to end this acquisition before: after that another of its threads may
    /// have the lock, with a word that looks like a damaged one.
    #[cold]
    pub(crate) fn undo_flip(&self, me: Slot, freed: OwnerWord, wake: impl FnMut(&AtomicU64) -> bool) {
        let found = self.look();
        // Relaxed: ours is not there any more if we were taken for dead and the lock was acquired since, be it by a thread of ours
        // again; whoever took over stored its own epoch here.
        let is_ours = self.thread.load(Relaxed) as u32 == freed.epoch() as u32;
        if !is_ours || !found.is_nearly(freed.before_release(me)) {
            return;
        }
        // HELD, damaged => FREE, with the epoch it was acquired with. Orderings as in `release`.
        if self.owner.compare_exchange(found.0, freed.0, SeqCst, Relaxed).is_ok() {
            self.wake_sleepers(freed, wake);
        }
    }

    /// The same of the acquisition `mine` with a lease, which somebody else may have by now, another thread of the same participant too, with a word
    /// that is one bit beside `mine`. Whoever took over closed the lease before.
    #[cold]
    pub(crate) fn undo_flip_leased(&self, mine: OwnerWord, wake: impl FnMut(&AtomicU64) -> bool) {
        // Acquire: if it is of whoever took over, the lease is seen closed.
        let found = self.look();
        if !found.is_beside(mine) || !is_open(&self.lease, mine) {
            return;
        }
        let freed = mine.release();
        // HELD, damaged => FREE. If it was taken over in between, it fails. Orderings as in `release`.
        if self.owner.compare_exchange(found.0, freed.0, SeqCst, Relaxed).is_ok() {
            self.wake_sleepers(freed, wake);
        }
    }

    /// The second half of every release: wakes one sleeper if any is counted and none is on its way. `freed` is the free word that
    /// it is about; `wake` says whether it woke anybody.
    #[inline(always)]
    pub(crate) fn wake_sleepers(&self, freed: OwnerWord, wake: impl FnMut(&AtomicU64) -> bool) {
        total_order();
        let sleepers = self.sleepers.load(SeqCst);
        if sleepers != 0 {
            self.wake_first(freed, sleepers, wake);
        }
    }

    /// Invariant 7: reserves what was freed for whoever has waited for long, if anybody has, and wakes one.
    #[cold]
    fn wake_first(&self, freed: OwnerWord, sleepers: u32, wake: impl FnMut(&AtomicU64) -> bool) {
        let left = if sleepers & STARVING != 0 { self.reserve(freed) } else { freed };
        self.wake_contended(left, sleepers, wake);
    }

    /// As [`wake_sleepers`](Self::wake_sleepers), of a word that was reserved before, or that somebody else freed: it is not reserved again.
    fn wake_unreserved(&self, left: OwnerWord, wake: impl FnMut(&AtomicU64) -> bool) {
        total_order();
        let sleepers = self.sleepers.load(SeqCst);
        self.wake_contended(left, sleepers, wake);
    }

    /// As [`release`](Self::release), but whoever waits is before whoever just comes.
    pub(crate) fn release_fair(
        &self,
        mine: OwnerWord,
        wake: impl FnMut(&AtomicU64) -> bool,
    ) -> Result<OwnerWord, OwnerWord> {
        if self.sleepers.load(Relaxed) & !MARKS == 0 {
            return self.release(mine, wake);
        }
        let reserved = mine.release().reserve();
        // HELD => RESERVED. Orderings as in `release`.
        match self.owner.compare_exchange(mine.0, reserved.0, SeqCst, Relaxed) {
            Ok(_) => {
                self.wake_unreserved(self.settle(reserved), wake);
                Ok(mine.release())
            }
            Err(now) => Err(OwnerWord(now)),
        }
    }

    #[cold]
    fn wake_contended(&self, mut freed: OwnerWord, mut sleepers: u32, mut wake: impl FnMut(&AtomicU64) -> bool) {
        loop {
            if sleepers & WOKEN != 0 || sleepers & !MARKS == 0 {
                return;
            }
            // SeqCst, as are the two operations below: invariant 6.
            // Also on failure, for the mark may be found that way.
            if let Err(now) = self.sleepers.compare_exchange(sleepers, sleepers | WOKEN, SeqCst, SeqCst) {
                sleepers = now;
                continue;
            }
            if wake(&self.owner) {
                return;
            }
            // Nobody slept yet. Somebody may have gone to sleep since, under a later owner, whose release then found our mark.
            sleepers = self.sleepers.fetch_and(!WOKEN, SeqCst) & !WOKEN;
            total_order();
            let now = OwnerWord(self.owner.load(SeqCst));
            if now == freed || now.is_held() {
                return;
            }
            freed = now;
        }
    }
}
