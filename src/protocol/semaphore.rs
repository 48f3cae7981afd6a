//! A semaphore: one [`Seat`] for each permit, behind a gate.
//!
//! The gate is the entry's owner word, a mutex with all that belongs to it. Its epoch is the last token drawn, so that tokens grow
//! across all permits.
//!
//! ```text
//! gate      seat                 meaning
//! free      free                 a permit for whoever draws a token and takes the seat: the fast path
//! free      held by n            n has the permit
//! any       free, abandoned      a permit whose last owner died with it: taken at the gate only, where its next owner is told
//! held by n free                 n collects permits, or gives the name up: nobody takes the seat but n
//! held by n held by others       n collects, and waits at the bell for one of these to go
//! held by n held by n            collected already; nobody else's until n gave up or has all that it wants
//! ```
//!
//! * Invariants:
//!   1. Only a compare-and-swap from the exact word seen changes a seat's owner: one winner for each permit.
//!   2. The fast path draws its token from a *free* gate, takes a seat *then*, and looks at the gate *then*; if somebody is there it gives
//!      the seat back. Whoever takes the gate to find out that no permit is out, to give the name up, takes the gate *first* and looks at the
//!      seats *then*. All are `SeqCst`, so in their one total order either it sees the seat, or the fast path sees it at the gate.
//!   3. Nobody draws past the gate, so whoever is at it has the largest tokens, and whoever waits there is overtaken by nobody.
//!   4. A seat is taken with a token larger than its last one: a token drawn long ago is thrown away. So the tokens of one seat grow,
//!      and of one permit there is no earlier owner with a larger token. Whoever is at the gate takes a seat that breaks this all the
//!      same: the seat is damaged, and sound again then.
//!   5. Whoever waits for a seat waits at the bell, with the gate in hand: there is one at a time, who takes what comes free and keeps it until it
//!      has all or gives up. Nobody waits for the gate who holds what it collected, so two of them never wait for each other.
//!   6. A seat is freed *first* and the bell rung *then*; see [`bell`](super::bell).
//!   7. A dead one's seat is taken over in this order: word, record, oracle, compare-and-swap from that first word.
//! * Orderings: taking a seat is `Acquire` (in `SeqCst`; pairs with the `SeqCst` release of the owner before). Drawing is `Relaxed`:
//!   one word alone makes tokens grow.
//! * If we die: with a token drawn, it is nobody's. With a seat, we are a dead owner: of a permit that the caller never got, too, and the next
//!   one is told once more than it need be. At the gate, the next one there goes on, and finds our seats by the oracle.
//!   Between a release and its ring, the one at the bell looks again by itself.
//! * Not here: how many there are, when a permit was taken, whose name it is.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::bell::Bell;
use super::mutex::{Failure, LockWords, thread_word};
use super::seat::Seat;
use super::word::{Owner, OwnerWord, Slot, Step};
use super::{Host, Verdict};
use crate::sync::{AtomicU32, total_order};

/// Where in a seat's note the low bits of its owner's epoch stand, by which both know each other.
pub(crate) const NOTE_EPOCH_SHIFT: u32 = 39;

/// A seat's note from its owner, who left no time.
#[inline(always)]
fn note_of(word: OwnerWord) -> u64 {
    word.epoch() << NOTE_EPOCH_SHIFT
}

/// A seat's note while it is free and abandoned: the PID of whoever died as the owner in `word`.
pub(crate) fn note_of_death(word: OwnerWord, pid: u32) -> u64 {
    note_of(word) | u64::from(pid)
}

/// The PID in such a note, if it is of the owner before `free`.
pub(crate) fn pid_in(note: u64, free: OwnerWord) -> Option<u32> {
    let pid = note as u32;
    (pid != 0 && note == note_of_death(free, pid)).then_some(pid)
}

/// A seat taken at the gate.
#[derive(Debug)]
pub(crate) struct Taken<Obituary> {
    pub(crate) position: usize,
    pub(crate) word: OwnerWord,
    /// The word it had.
    pub(crate) before: OwnerWord,
    /// The note that stood beside that.
    pub(crate) note: u64,
    /// Of whoever was in that word.
    pub(crate) obituary: Option<Obituary>,
}

/// The words of a semaphore.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permits<'a> {
    pub(crate) gate: &'a LockWords,
    pub(crate) bell: &'a Bell,
    pub(crate) seats: &'a [Seat],
}

/// What came of one seat, looked at from the gate.
enum Look<Obituary> {
    Taken(Taken<Obituary>),
    Held(OwnerWord),
    Damaged(OwnerWord),
}

/// Draws a token, unless somebody is at the gate. It starts from a guess, as acquiring a mutex does.
#[inline(always)]
fn draw(gate: &LockWords, guess: OwnerWord) -> Option<OwnerWord> {
    let mut seen = guess;
    while !seen.is_abandoned()
        && let Step::To(drawn) = seen.draw()
    {
        match gate.owner.compare_exchange(seen.0, drawn.0, Relaxed, Relaxed) {
            Ok(_) => return Some(drawn),
            Err(now) => seen = OwnerWord(now),
        }
    }
    None
}

/// Takes this seat if it is free and nothing is to be told of it.
#[inline(always)]
fn take(seat: &Seat, me: Slot, token: OwnerWord) -> Option<OwnerWord> {
    let seen = OwnerWord(seat.owner.load(Relaxed));
    // The latter is invariant 4.
    if !seen.is_free() || seen.is_abandoned() || seen.epoch() >= token.epoch() {
        return None;
    }
    let held = seen.enter(me, token);
    // FREE => HELD. Acquire (in SeqCst): what was done with the permit before. SeqCst: invariant 2.
    seat.owner.compare_exchange(seen.0, held.0, SeqCst, Relaxed).ok()?;
    seat.note.store(note_of(held), Relaxed);
    Some(held)
}

impl Permits<'_> {
    /// Acquires one permit, if that is possible without waiting and without a word about the dead: where it is, and its word. `hint` is where
    /// to look first.
    #[inline(always)]
    pub(crate) fn try_acquire(
        self,
        me: Slot,
        hint: usize,
        guess: OwnerWord,
        wake: impl FnOnce(&AtomicU32),
    ) -> Option<(usize, OwnerWord)> {
        let token = draw(self.gate, guess)?;
        let (position, word) = match self.seats.get(hint).and_then(|seat| take(seat, me, token)) {
            Some(word) => (hint, word),
            None => self.take_another(hint, me, token)?,
        };
        total_order();
        // SeqCst: invariant 2.
        if OwnerWord(self.gate.owner.load(SeqCst)).is_free() {
            return Some((position, word));
        }
        let _ = release(&self.seats[position], self.bell, word, wake);
        None
    }

    /// All positions, from `start` on.
    fn from(self, start: usize) -> impl Iterator<Item = usize> {
        let start = start.min(self.seats.len());
        (start..self.seats.len()).chain(0..start)
    }

    #[inline(never)]
    fn take_another(self, hint: usize, me: Slot, token: OwnerWord) -> Option<(usize, OwnerWord)> {
        self.from(hint).find_map(|position| Some((position, take(&self.seats[position], me, token)?)))
    }

    /// Takes a seat for each of `tokens`, waiting for as long as `host` lets it. Only for whoever is at the gate. `keep` is called with each
    /// one that was taken, also if in the end it fails: then they are to be put back. `start` says where to look first, `met` is called with
    /// every living owner.
    pub(crate) fn collect<H: Host>(
        self,
        host: &H,
        me: Slot,
        tokens: impl IntoIterator<Item = OwnerWord>,
        start: impl Fn() -> usize,
        met: impl Fn(&Seat, OwnerWord),
        mut keep: impl FnMut(Taken<H::Obituary>),
    ) -> Result<(), Failure<H::Refusal>> {
        let mut tokens = tokens.into_iter();
        let mut token = tokens.next();
        let look = || {
            let mut damaged = None;
            // Whom the last verdict was about: a process may hold many seats side by side.
            let mut alive = me;
            for position in self.from(start()) {
                let Some(next) = token else { break };
                match look_at(host, me, &self.seats[position], next, &mut alive) {
                    Look::Taken(taken) => {
                        keep(Taken { position, ..taken });
                        token = tokens.next();
                    }
                    Look::Held(seen) => met(&self.seats[position], seen),
                    Look::Damaged(seen) => damaged = Some(seen),
                }
            }
            match token {
                None => Some(Ok(())),
                // There may be enough without it one day, but it would be waited for without end.
                Some(_) => damaged.map(|word| Err(Failure::Damaged(word))),
            }
        };
        self.bell.wait_until(host, look).map_err(Failure::Refused)?
    }

    /// Frees a seat that was taken at the gate for nothing, for whoever comes to the gate next: nobody else waits for it. Who has to be
    /// told of a death still is.
    pub(crate) fn put_back<Obituary>(self, taken: &Taken<Obituary>) {
        // As whoever cleans up leaves it: free, and with the token of whoever died with it.
        let freed = if taken.before.is_free() { taken.before } else { taken.before.abandon() };
        // SeqCst: as in `release`.
        let _ = self.seats[taken.position].owner.compare_exchange(taken.word.0, freed.0, SeqCst, Relaxed);
    }
}

/// Frees a seat and tells whoever waits for one; the free word, or the one found instead if the acquisition `mine` had ended before.
#[inline(always)]
pub(crate) fn release(
    seat: &Seat,
    bell: &Bell,
    mine: OwnerWord,
    wake: impl FnOnce(&AtomicU32),
) -> Result<OwnerWord, OwnerWord> {
    free(seat, bell, mine, mine.release(), wake)
}

/// The same, and the next owner is told that we left something half done.
pub(crate) fn abandon(seat: &Seat, bell: &Bell, mine: OwnerWord, wake: impl FnOnce(&AtomicU32)) -> bool {
    free(seat, bell, mine, mine.abandon(), wake).is_ok()
}

#[inline(always)]
fn free(
    seat: &Seat,
    bell: &Bell,
    mine: OwnerWord,
    freed: OwnerWord,
    wake: impl FnOnce(&AtomicU32),
) -> Result<OwnerWord, OwnerWord> {
    // HELD => FREE. Release (in SeqCst): what was done with the permit; pairs with `take` and `look_at`. SeqCst: invariant 6.
    match seat.owner.compare_exchange(mine.0, freed.0, SeqCst, Relaxed) {
        Ok(_) => {
            bell.ring(wake);
            Ok(freed)
        }
        Err(now) => Err(OwnerWord(now)),
    }
}

/// Frees a seat whose word is one flipped bit beside that of my acquisition which was to leave `freed`: as the mutex's `undo_flip`, with the
/// seat's note in place of the thread's id.
#[cold]
pub(crate) fn undo_flip(seat: &Seat, bell: &Bell, me: Slot, freed: OwnerWord, wake: impl FnOnce(&AtomicU32)) {
    let found = seat.look();
    // Relaxed: whoever took over stored its own epoch here.
    let is_ours = seat.note.load(Relaxed) >> NOTE_EPOCH_SHIFT == note_of(freed) >> NOTE_EPOCH_SHIFT;
    if is_ours && found.is_nearly(freed.before_release(me)) {
        let _ = free(seat, bell, found, freed, wake);
    }
}

/// Makes the token of whoever is at the gate, as `mine`, the first of `count` that are all its own; the word of the gate then.
pub(crate) fn reserve<R>(gate: &LockWords, mine: OwnerWord, thread: u32, count: u32) -> Result<OwnerWord, Failure<R>> {
    let last = mine.epoch() + u64::from(count) - 1;
    if last > OwnerWord::MAX_EPOCH {
        return Err(Failure::Exhausted);
    }
    let raised = mine.raise(last);
    // HELD => HELD. Relaxed: nothing is told by it.
    match gate.owner.compare_exchange(mine.0, raised.0, Relaxed, Relaxed) {
        Ok(_) => {
            gate.thread.store(thread_word(thread, raised), Relaxed);
            Ok(raised)
        }
        Err(now) => Err(Failure::Damaged(OwnerWord(now))),
    }
}

/// Takes the seat, which has no position here, if it is free, or if its owner is dead.
fn look_at<H: Host>(host: &H, me: Slot, seat: &Seat, token: OwnerWord, alive: &mut Slot) -> Look<H::Obituary> {
    let mut seen = seat.look();
    loop {
        let (free, obituary) = match seen.owner() {
            Owner::Nobody => (seen, None),
            Owner::Damaged => return Look::Damaged(seen),
            Owner::Held(slot) if slot == me || slot == *alive => return Look::Held(seen),
            Owner::Held(slot) => match host.judge(slot) {
                Verdict::Alive => {
                    *alive = slot;
                    return Look::Held(seen);
                }
                Verdict::Dead(obituary) => (seen.abandon(), Some(obituary)),
                Verdict::Unregistered => {
                    // Whoever leaves gives its seats back first: a word that still stands is damage.
                    let now = seat.look();
                    if now == seen {
                        return Look::Damaged(seen);
                    }
                    seen = now;
                    continue;
                }
            },
        };
        let held = free.enter(me, token);
        // If it is another owner's, so is the word.
        let note = seat.note.load(Relaxed);
        // FREE or HELD(dead) => HELD(me), invariant 7. Acquire (in SeqCst): what was done with the permit before.
        match seat.owner.compare_exchange(seen.0, held.0, SeqCst, Relaxed) {
            Ok(_) => {
                seat.note.store(note_of(held), Relaxed);
                return Look::Taken(Taken { position: 0, word: held, before: seen, note, obituary });
            }
            Err(now) => seen = OwnerWord(now),
        }
    }
}
