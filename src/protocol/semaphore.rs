//! A semaphore: one [`Seat`] for each permit, behind a gate.
//!
//! The gate is the entry's owner word, a mutex with all that belongs to it. Tokens are drawn from it: its epoch is the last one drawn, so that they grow
//! across all permits. Whoever takes the same permit again and again draws a *run* of them, takes its seat with one of them after the other, and
//! only looks at the gate then: for as long as nothing was drawn after it.
//!
//! ```text
//! gate      seat                 meaning
//! free      free                 a permit for whoever draws a token, or goes on with its run, and takes the seat: the fast path
//! free      held by n            n has the permit
//! any       free, abandoned      a permit whose last owner died with it: taken at the gate only, where its next owner is told
//! held by n free                 n collects permits, or gives the name up: nobody takes the seat but n
//! held by n held by others       n collects, and waits at the bell for one of these to go
//! held by n held by n            collected already; nobody else's until n gave up or has all that it wants
//! ```
//!
//! * Invariants:
//!   1. Only a compare-and-swap from the exact word seen changes a seat's owner: one winner for each permit. But a living owner's is changed by
//!      nobody else, so it may free it by a store, if it looked that it still has it.
//!   2. The fast path draws a token from a *free* gate, or has one left of its run, takes a seat *then*, and looks at the gate *then*; if
//!      somebody is there, or anything was drawn after the run, it gives the seat back. Whoever takes the gate to find out that no permit is
//!      out, to give the name up, takes the gate *first* and looks at the seats *then*. All are `SeqCst`, so in their one total order either it
//!      sees the seat, or the fast path sees it at the gate.
//!   3. Nobody draws past the gate, and no token is larger than its epoch, so whoever is at it has the largest tokens, and whoever waits
//!      there is overtaken by nobody.
//!   4. A seat is taken with a token larger than its last one: a token drawn long ago is thrown away. So the tokens of one seat grow,
//!      and of one permit there is no earlier owner with a larger token. Whoever is at the gate takes a seat that breaks this all the
//!      same: the seat is damaged, and sound again then.
//!   5. Whoever waits for a seat waits at the bell, with the gate in hand: there is one at a time, who takes what comes free and keeps it until it
//!      has all or gives up. Nobody waits for the gate who holds what it collected, so two of them never wait for each other.
//!   6. A seat is freed *first* and the bell rung *then*; see [`bell`](super::bell), also for what a freeing store needs. Where the seats are
//!      looked at for the name to be given up, a store that is not seen yet is a permit that somebody has.
//!   7. Tokens of one run are on one seat only: whoever draws it takes one seat with it; tokens drawn one by one are in no run ([`word`](super::word));
//!      those given out at the gate are in none whose end the gate's word is ([`reserve`]), nor is what a seat was before it was this name's. So a
//!      seat's next token is nobody else's; and it is larger than those of all acquisitions that ended before it was taken, for they
//!      were drawn before the run, or were on this seat.
//!   8. A dead one's seat is taken over in this order: word, record, oracle, compare-and-swap from that first word. That of a living one whose lease
//!      ran out, after its note, which is the lease then, was closed: see [`lease`](super::lease). So a permit with a lease is given back by
//!      compare-and-swap only.
//! * Orderings: taking a seat is `Acquire` (in `SeqCst`; pairs with the `SeqCst` release of the owner before). Drawing is `Relaxed`:
//!   one word alone makes tokens grow, and whoever comes after an acquisition finds that word as it was then, or later.
//! * If we die: with tokens drawn, they are nobody's. With a seat, we are a dead owner: of a permit that the caller never got, too, and the next
//!   one is told once more than it need be. At the gate, the next one there goes on, and finds our seats by the oracle.
//!   Between a release and its ring, the one at the bell looks again by itself.
//! * Not here: how many there are, when a permit was taken, whose name it is.

use core::sync::atomic::Ordering::{Relaxed, Release, SeqCst};

use super::bell::Bell;
use super::lease::{is_open, lost};
use super::mutex::{Failure, LockWords, thread_word};
use super::seat::Seat;
use super::slot::Slot;
use super::word::{Owner, OwnerWord, Step};
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

/// Draws a token, or a run of them, unless somebody is at the gate; the first one.
#[inline(always)]
fn draw(gate: &LockWords, run: bool) -> Option<OwnerWord> {
    let mut seen = gate.look();
    while !seen.is_abandoned()
        && let Step::To(drawn) = if run { seen.draw_run() } else { seen.draw() }
    {
        match gate.owner.compare_exchange(seen.0, drawn.0, Relaxed, Relaxed) {
            Ok(_) => return Some(if run { drawn.first_of_run() } else { drawn }),
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
    enter(seat, seen, seen.enter(me, token))
}

#[inline(always)]
fn enter(seat: &Seat, seen: OwnerWord, held: OwnerWord) -> Option<OwnerWord> {
    // FREE => HELD. Acquire (in SeqCst): what was done with the permit before. SeqCst: invariant 2.
    seat.owner.compare_exchange(seen.0, held.0, SeqCst, Relaxed).ok()?;
    seat.note.store(note_of(held), Relaxed);
    Some(held)
}

/// Acquires the permit of this seat again, if it has a token of the run that was drawn last. `Err(Some(_))`: taken, and to be given back at once.
#[inline(always)]
pub(crate) fn try_again(gate: &LockWords, me: Slot, seat: &Seat) -> Result<OwnerWord, Option<OwnerWord>> {
    let seen = OwnerWord(seat.owner.load(Relaxed));
    let (held, drawn) = seen.enter_next(me).ok_or(None)?;
    let word = enter(seat, seen, held).ok_or(None)?;
    // Not before: nothing depends on what the gate was then, and a load less to wait for makes it quicker.
    if look_at_gate(gate) == drawn { Ok(word) } else { Err(Some(word)) }
}

/// The gate, for whoever took a seat.
#[inline(always)]
fn look_at_gate(gate: &LockWords) -> OwnerWord {
    total_order();
    // SeqCst: invariant 2.
    OwnerWord(gate.owner.load(SeqCst))
}

impl Permits<'_> {
    /// Acquires one permit, if that is possible without waiting and without a word about the dead: where it is, and its word. `hint` is where
    /// to look first; with `run`, it will be tried [again](try_again).
    #[inline(always)]
    pub(crate) fn try_acquire(
        self,
        me: Slot,
        hint: usize,
        run: bool,
        wake: impl FnOnce(&AtomicU32),
    ) -> Option<(usize, OwnerWord)> {
        let token = draw(self.gate, run)?;
        let (position, word) = match self.seats.get(hint).and_then(|seat| take(seat, me, token)) {
            Some(word) => (hint, word),
            None => self.take_another(me, hint, token)?,
        };
        match look_at_gate(self.gate).is_free() {
            true => Some((position, word)),
            false => self.undo(&self.seats[position], word, wake),
        }
    }

    #[cold]
    fn take_another(self, me: Slot, hint: usize, token: OwnerWord) -> Option<(usize, OwnerWord)> {
        self.from(hint).find_map(|position| Some((position, take(&self.seats[position], me, token)?)))
    }

    #[cold]
    fn undo<T>(self, seat: &Seat, word: OwnerWord, wake: impl FnOnce(&AtomicU32)) -> Option<T> {
        let _ = release(seat, self.bell, word, wake);
        None
    }

    /// All positions, from `start` on.
    fn from(self, start: usize) -> impl Iterator<Item = usize> {
        let start = start.min(self.seats.len());
        (start..self.seats.len()).chain(0..start)
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
        self.bell.wait_fenced(host, look).map_err(Failure::Refused)?
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

/// The same for whoever registered for heavy fences, without a compare-and-swap: nobody changes the seat of a living owner, so a store is enough.
#[inline(always)]
pub(crate) fn release_lightly(
    seat: &Seat,
    bell: &Bell,
    mine: OwnerWord,
    wake: impl FnOnce(&AtomicU32),
) -> Result<(), OwnerWord> {
    // Relaxed: what is looked for is our own store.
    let seen = OwnerWord(seat.owner.load(Relaxed));
    if seen != mine {
        return Err(seen);
    }
    // HELD => FREE. Release: what was done with the permit; pairs with `take` and `look_at`. The rest of invariant 6 is the fence's.
    seat.owner.store(mine.release().0, Release);
    bell.ring_lightly(wake);
    Ok(())
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

/// The same of the acquisition `mine` with a lease, as the mutex's `undo_flip_leased`.
#[cold]
pub(crate) fn undo_flip_leased(seat: &Seat, bell: &Bell, mine: OwnerWord, wake: impl FnOnce(&AtomicU32)) {
    let found = seat.look();
    if found.is_beside(mine) && is_open(&seat.note, mine) {
        let _ = free(seat, bell, found, mine.release(), wake);
    }
}

/// Draws `count` tokens for whoever is at the gate as `mine`: the word of the gate then, and the first of them. That word is not in a run: each of these
/// tokens is for another seat, so none of them is one of a run that may go on.
pub(crate) fn reserve<R>(
    gate: &LockWords,
    mine: OwnerWord,
    thread: u32,
    count: u32,
) -> Result<(OwnerWord, u64), Failure<R>> {
    let first = OwnerWord::past_run(mine.epoch());
    let last = OwnerWord::past_run(first + u64::from(count) - 1);
    if last > OwnerWord::MAX_EPOCH {
        return Err(Failure::Exhausted);
    }
    let raised = mine.raise(last);
    // HELD => HELD. Relaxed: nothing is told by it.
    match gate.owner.compare_exchange(mine.0, raised.0, Relaxed, Relaxed) {
        Ok(_) => {
            gate.thread.store(thread_word(thread, raised), Relaxed);
            Ok((raised, first))
        }
        Err(now) => Err(Failure::Damaged(OwnerWord(now))),
    }
}

/// What is to be known of whoever is in `seen`; `alive` was asked about before.
fn judge<H: Host>(host: &H, me: Slot, slot: Slot, seat: &Seat, seen: OwnerWord, alive: Slot) -> Verdict<H::Obituary> {
    match lost(host, slot, &seat.note, seen) {
        Some(loser) => Verdict::Dead(loser),
        None if slot == me || slot == alive => Verdict::Alive,
        None => host.judge(slot),
    }
}

/// Takes the seat, which has no position here, if it is free, or if its owner is dead.
fn look_at<H: Host>(host: &H, me: Slot, seat: &Seat, token: OwnerWord, alive: &mut Slot) -> Look<H::Obituary> {
    let mut seen = seat.look();
    loop {
        let (free, obituary) = match seen.owner() {
            // Seats are not reserved.
            Owner::Nobody if seen.is_reserved() => return Look::Damaged(seen),
            Owner::Nobody => (seen, None),
            Owner::Damaged => return Look::Damaged(seen),
            Owner::Held(slot) => match judge(host, me, slot, seat, seen, *alive) {
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
        // FREE or HELD(dead) => HELD(me), invariant 8. Acquire (in SeqCst): what was done with the permit before.
        match seat.owner.compare_exchange(seen.0, held.0, SeqCst, Relaxed) {
            Ok(_) => {
                seat.note.store(note_of(held), Relaxed);
                return Look::Taken(Taken { position: 0, word: held, before: seen, note, obituary });
            }
            Err(now) => seen = OwnerWord(now),
        }
    }
}
