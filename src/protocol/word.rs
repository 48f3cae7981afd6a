//! The owner word: who holds a lock, and for the how-manieth time it is held, in one atomic `u64`.
//!
//! ```text
//! 63                                       16 15              2 1      0
//! ┌──────────────────────────────────────────┬─────────────────┬────────┐
//! │ epoch (48)                               │ slot code (14)  │ flags  │
//! └──────────────────────────────────────────┴─────────────────┴────────┘
//! ```
//!
//! | slot | ABANDONED | LEASED | meaning |
//! | --- | --- | --- | --- |
//! | none | no | no | free; `epoch` was the last acquisition |
//! | none | yes | no | free, but acquisition `epoch` ended by its owner's death: the next owner is told |
//! | none | any | yes | reserved: free for those who waited before, and for nobody who just came |
//! | *n* | no | no | held by *n* as acquisition `epoch` |
//! | *n* | yes | no | held by *n*, who was told that an owner before it died |
//! | *n* | any | yes | held by *n* until its lease runs out: then it may be taken over |
//!
//! Invariants, cited by number in the files beside this one:
//!
//! 1. Every change of a word is a compare-and-swap from one exact earlier value.
//! 2. The epoch grows by one whenever a slot enters the word, by as much as it takes whenever tokens are drawn from a free one, and
//!    never otherwise: a slot and an epoch together name one acquisition for ever, so there is no ABA.
//! 3. Any two slot codes, and "none" with any of them, differ in at least two bits: no single flipped bit turns
//!    one owner into another or into nobody. LEASED takes part in that: with it, the parity bit of the code is the other way round, so no flipped
//!    bit gives an acquisition a lease, or takes it away, or reserves what is held.
//! 4. The low 32 bits (16 of the epoch, slot, flags) are what a sleeper hands to the kernel. Two
//!    acquisitions by one slot have different low halves unless exactly a multiple of 65,536 lie between
//!    them, and then the lock *is* held and a later release looks at the count of sleepers: nobody dozes on.
//!
//! Where the epoch ends (2⁴⁸ acquisitions of one name, five months at 20 million a second) acquiring fails
//! ([`Step::Exhausted`]); it never wraps. Everything here is pure, so tests walk all of it.

use core::fmt;

use super::slot::{Me, Slot};

/// The lock's last owner died holding it. Harmless if stray: somebody is told of a death that was not.
const ABANDONED: u64 = 1;
/// This acquisition may be taken over once its lease ran out; with no slot: reserved. Comes with [`ODD`].
pub(super) const LEASED: u64 = 2;
const FLAGS_MASK: u64 = ABANDONED | LEASED;

pub(super) const SLOT_SHIFT: u32 = 2;
pub(super) const SLOT_BITS: u32 = 14;
pub(super) const SLOT_MASK: u64 = ((1 << SLOT_BITS) - 1) << SLOT_SHIFT;

/// The parity bit of the slot code, turned round: invariant 3.
const ODD: u64 = 1 << SLOT_SHIFT;
/// What of a word is none of the slot's but its parity.
const INDEX_MASK: u64 = SLOT_MASK & !ODD;

const EPOCH_SHIFT: u32 = SLOT_SHIFT + SLOT_BITS;
const ONE_EPOCH: u64 = 1 << EPOCH_SHIFT;

const _: () = assert!(FLAGS_MASK & SLOT_MASK == 0 && (FLAGS_MASK | SLOT_MASK) + 1 == ONE_EPOCH);

/// Epochs are in blocks of this many, of which every other one is for runs, beginning with the first: it is drawn as a whole, for one word that then has
/// one epoch of it after the other. Those between are drawn one by one.
pub(crate) const RUN: u64 = if cfg!(hostlock_loom) { 2 } else { 64 };
const RUN_MASK: u64 = (RUN - 1) << EPOCH_SHIFT;

/// What an owner word says of its lock's owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Nobody,
    Held(Slot),
    /// No participant can have this code: the segment is damaged.
    Damaged,
}

/// A step from a word that may not be possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    To(OwnerWord),
    /// Somebody stands in the word already.
    Held,
    /// All 2⁴⁸ − 1 tokens of the name are used.
    Exhausted,
}

/// A value of the owner word, apart from the atomic it came from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct OwnerWord(pub(crate) u64);

impl OwnerWord {
    pub(crate) const MAX_EPOCH: u64 = u64::MAX >> EPOCH_SHIFT;

    /// Held by a code that no slot has: what stands for an acquisition that was ended.
    pub(crate) const ENDED: Self = Self(1 << SLOT_SHIFT);

    /// Free, with that epoch: a token.
    pub(crate) fn free_at(epoch: u64) -> Self {
        debug_assert!(epoch <= Self::MAX_EPOCH);
        Self(epoch << EPOCH_SHIFT)
    }

    #[inline(always)]
    pub(crate) fn epoch(self) -> u64 {
        self.0 >> EPOCH_SHIFT
    }

    /// The half that a sleeper hands to the kernel (invariant 4).
    #[inline(always)]
    pub(crate) fn low_half(self) -> u32 {
        self.0 as u32
    }

    /// Free for everybody.
    #[inline(always)]
    pub(crate) fn is_free(self) -> bool {
        self.0 & (SLOT_MASK | LEASED) == 0
    }

    /// Free for those who waited before.
    pub(crate) fn is_reserved(self) -> bool {
        self.0 & (SLOT_MASK | LEASED) == ODD | LEASED
    }

    /// Somebody stands in it.
    pub(crate) fn is_held(self) -> bool {
        !self.is_free() && !self.is_reserved()
    }

    /// Nobody holds it, and nobody can: there is no token left.
    pub(crate) fn is_exhausted(self) -> bool {
        !self.is_held() && self.epoch() == Self::MAX_EPOCH
    }

    /// Held until a lease runs out.
    #[inline(always)]
    pub(crate) fn is_leased(self) -> bool {
        self.0 & LEASED != 0 && self.0 & INDEX_MASK != 0
    }

    #[inline(always)]
    pub(crate) fn is_abandoned(self) -> bool {
        self.0 & ABANDONED != 0
    }

    /// The code in the slot field, to be compared with [`Slot::code`].
    #[inline(always)]
    pub(crate) fn slot_code(self) -> u16 {
        let odd = if self.0 & LEASED != 0 { ODD } else { 0 };
        (((self.0 ^ odd) & SLOT_MASK) >> SLOT_SHIFT) as u16
    }

    /// Whether an acquisition that this process made is that of the slot with this code: shorter than to compare codes.
    #[inline(always)]
    pub(crate) fn was_made_as(self, code: u16) -> bool {
        (self.0 ^ (code as u64) << SLOT_SHIFT) & INDEX_MASK == 0
    }

    /// The same, and it has no lease, and `me` is registered for heavy fences.
    #[inline(always)]
    pub(crate) fn was_made_lightly_by(self, me: Me) -> bool {
        (self.0 ^ me.0) & (INDEX_MASK | LEASED) == 0
    }

    pub(crate) fn owner(self) -> Owner {
        match self.slot_code() {
            0 => Owner::Nobody,
            code => Slot::from_code(code).map_or(Owner::Damaged, Owner::Held),
        }
    }

    /// FREE => HELD. The mark of an abandoned lock stays: its new owner reads it there.
    #[inline(always)]
    pub(crate) fn acquire(self, me: Slot) -> Step {
        if !self.is_free() {
            Step::Held
        } else if self.0 >= !0 << EPOCH_SHIFT {
            Step::Exhausted
        } else {
            Step::To(Self((self.0 + ONE_EPOCH) | (me.code() as u64) << SLOT_SHIFT))
        }
    }

    /// FREE => HELD, of a word that a release left, so that it has no mark. `None`: `me` is nobody, or there is no token left.
    #[inline(always)]
    pub(crate) fn acquire_clean(self, me: Me) -> Option<Self> {
        debug_assert!(self.0 & (SLOT_MASK | FLAGS_MASK) == 0);
        let slot = me.0 & SLOT_MASK;
        (slot != 0 && self.0 < !0 << EPOCH_SHIFT).then_some(Self((self.0 + ONE_EPOCH) | slot))
    }

    /// RESERVED => HELD, by somebody who waited before.
    pub(crate) fn acquire_reserved(self, me: Slot) -> Step {
        debug_assert!(self.is_reserved());
        self.unreserve().acquire(me)
    }

    /// FREE => RESERVED. The mark stays.
    pub(crate) fn reserve(self) -> Self {
        debug_assert!(self.is_free());
        Self(self.0 | ODD | LEASED)
    }

    /// RESERVED => FREE. The mark stays.
    pub(crate) fn unreserve(self) -> Self {
        debug_assert!(self.is_reserved());
        Self(self.0 & !(ODD | LEASED))
    }

    /// HELD by me => HELD by me with a lease.
    pub(crate) fn lease(self) -> Self {
        debug_assert!(self.is_held() && !self.is_leased());
        Self((self.0 ^ ODD) | LEASED)
    }

    /// HELD by the dead, or with a lease that ran out => HELD by me, abandoned if that is told of, or if one before was and still is. Only
    /// for a word whose owner was proven dead, or whose lease was closed.
    pub(crate) fn take_over(self, me: Slot, told: bool) -> Step {
        debug_assert!(self.is_held());
        if self.epoch() == Self::MAX_EPOCH {
            return Step::Exhausted;
        }
        let mark = if told { ABANDONED } else { self.0 & ABANDONED };
        Step::To(Self(((self.epoch() + 1) << EPOCH_SHIFT) | (me.code() as u64) << SLOT_SHIFT | mark))
    }

    /// FREE => FREE with the next epoch that is in no run, which is the caller's alone. The mark stays.
    #[inline(always)]
    pub(crate) fn draw(self) -> Step {
        self.drawn(|epoch| Self::past_run(epoch + 1))
    }

    /// FREE => FREE at the end of the next run, all of which is the caller's alone. The mark stays.
    #[inline(always)]
    pub(crate) fn draw_run(self) -> Step {
        self.drawn(|epoch| (epoch | (2 * RUN - 1)) + RUN)
    }

    #[inline(always)]
    fn drawn(self, next: impl FnOnce(u64) -> u64) -> Step {
        if !self.is_free() {
            Step::Held
        } else if self.epoch() > Self::MAX_EPOCH - 2 * RUN {
            Step::Exhausted
        } else {
            Step::To(Self(next(self.epoch()) << EPOCH_SHIFT | self.0 & FLAGS_MASK))
        }
    }

    /// The first epoch from this one on that is in no run.
    #[inline(always)]
    pub(crate) fn past_run(epoch: u64) -> u64 {
        if epoch & RUN == 0 { (epoch | (RUN - 1)) + 1 } else { epoch }
    }

    /// The first epoch of the run that was drawn with this outcome.
    #[inline(always)]
    pub(crate) fn first_of_run(self) -> Self {
        Self(self.0 & !RUN_MASK)
    }

    /// FREE => HELD by me with the next epoch, if what this word has is of a run and not the end of it; and what the word that it was drawn from
    /// is if that was the last. Neither has a mark.
    #[inline(always)]
    pub(crate) fn enter_next(self, me: Slot) -> Option<(Self, Self)> {
        // All in one comparison, since this is all of the way: what there must not be is turned to be above the end of the run.
        let place = (self.0 & (RUN << EPOCH_SHIFT | RUN_MASK | (ONE_EPOCH - 1))).rotate_right(EPOCH_SHIFT);
        let next = || Self((self.0 + ONE_EPOCH) | (me.code() as u64) << SLOT_SHIFT);
        (place < RUN_MASK >> EPOCH_SHIFT).then(|| (next(), Self(self.0 | RUN_MASK)))
    }

    /// FREE => HELD by me, with a token drawn from another word. The mark stays.
    #[inline(always)]
    pub(crate) fn enter(self, me: Slot, token: OwnerWord) -> Self {
        debug_assert!(self.is_free());
        Self(token.0 & !(SLOT_MASK | FLAGS_MASK) | (me.code() as u64) << SLOT_SHIFT | self.0 & ABANDONED)
    }

    /// HELD => FREE, by an owner that did nothing with it, or by whoever cleans up after one: the mark stays as it is.
    #[inline(always)]
    pub(crate) fn give_up(self) -> Self {
        Self(self.0 & !(SLOT_MASK | LEASED))
    }

    /// HELD => HELD with a later epoch, by the owner, when what the lock belongs to gets another name. The mark goes.
    pub(crate) fn raise(self, epoch: u64) -> Self {
        debug_assert!(self.is_held() && !self.is_leased() && epoch >= self.epoch());
        Self((epoch << EPOCH_SHIFT) | (self.0 & SLOT_MASK))
    }

    /// FREE => the word that `me` held before it released, without its flags.
    pub(crate) fn before_release(self, me: Slot) -> Self {
        debug_assert!(self.is_free() && self.0 & FLAGS_MASK == 0);
        Self(self.0 | (me.code() as u64) << SLOT_SHIFT)
    }

    /// Whether this is `held`, abandoned or not, but for one flipped bit at most. Not for an acquisition with a lease, which somebody
    /// else may have by now.
    pub(crate) fn is_nearly(self, held: Self) -> bool {
        let held = held.0 & !FLAGS_MASK;
        [held, held | ABANDONED].iter().any(|held| (self.0 ^ held).count_ones() <= 1)
    }

    /// Whether this is that very word, but for one flipped bit.
    pub(crate) fn is_beside(self, held: Self) -> bool {
        (self.0 ^ held.0).is_power_of_two()
    }

    /// HELD => FREE, by the owner: the mark goes.
    #[inline(always)]
    pub(crate) fn release(self) -> Self {
        Self(self.0 & !(SLOT_MASK | FLAGS_MASK))
    }

    /// HELD by the dead => FREE, abandoned: nobody waits for it now, and the next owner is told.
    pub(crate) fn abandon(self) -> Self {
        Self((self.0 & !(SLOT_MASK | FLAGS_MASK)) | ABANDONED)
    }
}

/// The one printer of owner words: in errors, assertions and everything that shows a segment.
impl fmt::Debug for OwnerWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.owner() {
            Owner::Nobody if self.is_reserved() => write!(f, "reserved")?,
            Owner::Nobody => write!(f, "free")?,
            Owner::Held(slot) => write!(f, "held by {slot:?}")?,
            Owner::Damaged => write!(f, "damaged owner {:#06x}", self.slot_code())?,
        }
        write!(f, ", epoch {}", self.epoch())?;
        if self.is_abandoned() {
            write!(f, ", abandoned")?;
        }
        if self.is_leased() {
            write!(f, ", leased")?;
        }
        Ok(())
    }
}

#[cfg(all(test, not(hostlock_loom)))]
mod tests {
    use super::*;

    fn free(epoch: u64) -> OwnerWord {
        OwnerWord::free_at(epoch)
    }

    fn slots() -> impl Iterator<Item = Slot> {
        (0..Slot::MAX).map(|index| Slot::new(index).unwrap())
    }

    fn words() -> impl Iterator<Item = OwnerWord> {
        let epochs = [
            0,
            1,
            RUN - 1,
            RUN,
            2 * RUN - 1,
            5 * RUN - 1,
            0xFFFF,
            0x1_0000,
            OwnerWord::MAX_EPOCH - 1,
            OwnerWord::MAX_EPOCH,
        ];
        epochs
            .into_iter()
            .flat_map(|epoch| (0u64..1 << EPOCH_SHIFT).map(move |low| OwnerWord(epoch << EPOCH_SHIFT | low)))
    }

    #[test]
    fn slot_codes_are_two_bits_apart_from_each_other_and_from_nobody() {
        let codes: Vec<u16> = std::iter::once(0).chain(slots().map(Slot::code)).collect();
        for &code in &codes {
            for bit in 0..SLOT_BITS {
                assert!(Slot::from_code(code ^ 1 << bit).is_none());
                assert_ne!(code ^ 1 << bit, 0);
            }
        }
        assert_eq!(codes.len(), 8192);
    }

    #[test]
    fn no_flipped_bit_frees_holds_leases_or_reserves() {
        let meanings = || (0u64..1 << EPOCH_SHIFT).map(OwnerWord).filter(|word| word.owner() != Owner::Damaged);
        for word in meanings() {
            for bit in (0..EPOCH_SHIFT).filter(|bit| 1 << bit != ABANDONED) {
                let flipped = OwnerWord(word.0 ^ 1 << bit);
                assert_eq!((flipped.owner(), flipped.is_held()), (Owner::Damaged, true), "{word:?}, bit {bit}");
            }
        }
        // Nobody's, free and reserved; everybody's, with a lease and without; each with the mark and without.
        assert_eq!(meanings().count() as u32, 4 + 4 * Slot::MAX);
    }

    #[test]
    fn nobody_has_the_code_of_what_ended() {
        assert_eq!(OwnerWord::ENDED.owner(), Owner::Damaged);
        assert!(!OwnerWord::ENDED.is_free());
    }

    #[test]
    fn a_slot_survives_the_way_through_a_word() {
        for slot in slots() {
            let Step::To(held) = free(7).acquire(slot) else { panic!() };
            assert_eq!(held.owner(), Owner::Held(slot));
            assert_eq!(Slot::new(slot.index()), Some(slot));
        }
        assert_eq!(Slot::new(Slot::MAX), None);
    }

    #[test]
    fn every_transition_from_every_word_keeps_the_invariants() {
        let me = Slot::new(4711).unwrap();
        for word in words() {
            match word.acquire(me) {
                Step::To(held) => {
                    assert!(word.is_free());
                    assert_eq!(held.owner(), Owner::Held(me));
                    assert_eq!(held.epoch(), word.epoch() + 1, "invariant 2");
                    assert_eq!(held.is_abandoned(), word.is_abandoned());
                }
                Step::Held => assert!(!word.is_free()),
                Step::Exhausted => assert_eq!(word.epoch(), OwnerWord::MAX_EPOCH),
            }
            match word.draw() {
                Step::To(drawn) => {
                    assert!(word.is_free() && drawn.is_free());
                    assert_eq!(drawn.is_abandoned(), word.is_abandoned());
                    assert!(drawn.epoch() > word.epoch() && drawn.epoch() - word.epoch() <= RUN + 1);
                    assert_eq!(drawn.epoch() / RUN % 2, 1, "not of a run");
                }
                Step::Held => assert!(!word.is_free()),
                Step::Exhausted => assert!(word.epoch() > OwnerWord::MAX_EPOCH - 2 * RUN),
            }
            match word.draw_run() {
                Step::To(drawn) => {
                    assert!(word.is_free() && drawn.is_free());
                    assert_eq!(drawn.is_abandoned(), word.is_abandoned());
                    let first = drawn.first_of_run().epoch();
                    assert!(first > word.epoch() && first - word.epoch() <= 2 * RUN);
                    assert_eq!((first % (2 * RUN), drawn.epoch() - first), (0, RUN - 1));
                }
                Step::Held => assert!(!word.is_free()),
                Step::Exhausted => assert!(word.epoch() > OwnerWord::MAX_EPOCH - 2 * RUN),
            }
            if word.is_free() {
                let entered = word.enter(me, free(9));
                assert_eq!((entered.owner(), entered.epoch()), (Owner::Held(me), 9));
                assert_eq!(entered.is_abandoned(), word.is_abandoned());
                assert_eq!(word.enter(me, entered), entered, "a token is an epoch, whatever else stands in its word");
                assert_eq!((word.reserve().is_reserved(), word.reserve().unreserve()), (true, word));
                continue;
            }
            if word.is_reserved() {
                assert_eq!((word.owner(), word.is_held(), word.is_leased()), (Owner::Nobody, false, false));
                assert_eq!(word.acquire_reserved(me), word.unreserve().acquire(me));
                continue;
            }
            assert!(word.is_held());
            if let (Owner::Held(slot), false) = (word.owner(), word.is_leased()) {
                let leased = word.lease();
                assert_eq!((leased.owner(), leased.epoch(), leased.is_leased()), (word.owner(), word.epoch(), true));
                assert_eq!(leased.is_abandoned(), word.is_abandoned());
                assert_ne!(leased.low_half(), word.low_half());
                assert!(leased.was_made_as(slot.code()) && word.was_made_as(slot.code()));
                assert_eq!(word.was_made_as(me.code()), slot == me);
            }
            for told in [true, false] {
                match word.take_over(me, told) {
                    Step::To(taken) => {
                        assert_eq!(taken.owner(), Owner::Held(me));
                        assert_eq!(taken.epoch(), word.epoch() + 1, "invariant 2");
                        assert_eq!(taken.is_abandoned(), told || word.is_abandoned());
                        assert_ne!(taken.low_half(), word.low_half(), "invariant 4");
                    }
                    step => assert_eq!((step, word.epoch()), (Step::Exhausted, OwnerWord::MAX_EPOCH)),
                }
            }
            let freed = [(word.release(), false), (word.abandon(), true), (word.give_up(), word.is_abandoned())];
            for (freed, mark) in freed {
                assert!(freed.is_free());
                assert_eq!((freed.epoch(), freed.is_abandoned()), (word.epoch(), mark));
                assert_ne!(freed.low_half(), word.low_half(), "a sleeper on the held word wakes");
            }
        }
    }

    #[test]
    fn the_next_token_is_of_the_same_run() {
        let me = Slot::new(4711).unwrap();
        for word in words() {
            let Step::To(gate) = word.draw_run() else { continue };
            let first = gate.first_of_run().release();
            let mut seat = first;
            for epoch in first.epoch() + 1..=gate.epoch() {
                let held = free(epoch).enter(me, free(epoch));
                assert_eq!(seat.enter_next(me), Some((held, gate.release())));
                assert_eq!((held.enter_next(me), held.abandon().enter_next(me)), (None, None));
                seat = held.release();
            }
            assert_eq!(seat, gate.release());
            assert_eq!(seat.enter_next(me), None, "it is the end");
            let Step::To(single) = word.draw() else { panic!() };
            assert_eq!(single.release().enter_next(me), None, "it is of no run");
        }
    }

    #[test]
    fn tokens_end_instead_of_wrapping() {
        let me = Slot::new(0).unwrap();
        let last = free(OwnerWord::MAX_EPOCH - 1);
        let Step::To(held) = last.acquire(me) else { panic!("one more is left") };
        assert_eq!(held.epoch(), OwnerWord::MAX_EPOCH);
        assert_eq!(held.take_over(me, true), Step::Exhausted);
        assert_eq!(held.release().acquire(me), Step::Exhausted);
        assert_eq!(held.abandon().acquire(me), Step::Exhausted);
    }

    #[test]
    fn one_flip_is_told_from_every_other_word() {
        let me = Slot::new(4711).unwrap();
        let Step::To(held) = free(0x1234_5678_9ABC).acquire(me) else { panic!() };
        assert_eq!(held.release().before_release(me), held);
        for held in [held, OwnerWord(held.0 | ABANDONED)] {
            assert!(held.is_nearly(held));
            for bit in 0..64 {
                let flipped = OwnerWord(held.0 ^ 1 << bit);
                assert!(flipped.is_nearly(held) && !flipped.is_free(), "bit {bit}");
                // Flags aside, which may be either way.
                let second = 2 + (bit + 1) % 62;
                assert!(
                    bit < 2 || bit == second || !OwnerWord(flipped.0 ^ 1 << second).is_nearly(held),
                    "{bit}, {second}"
                );
            }
        }
        for other in [held.release(), held.abandon(), OwnerWord(held.0 + 3 * ONE_EPOCH)] {
            assert!(!other.is_nearly(held), "{other:?}");
        }
        let Step::To(taken) = held.take_over(Slot::new(1).unwrap(), true) else { panic!() };
        assert!(!taken.is_nearly(held));
    }

    #[test]
    fn a_word_prints_what_it_means() {
        let me = Slot::new(3).unwrap();
        let Step::To(held) = free(41).acquire(me) else { panic!() };
        assert_eq!(format!("{held:?}"), "held by slot 3, epoch 42");
        assert_eq!(format!("{:?}", held.abandon()), "free, epoch 42, abandoned");
        assert_eq!(format!("{:?}", held.lease()), "held by slot 3, epoch 42, leased");
        assert_eq!(format!("{:?}", held.release().reserve()), "reserved, epoch 42");
    }
}
