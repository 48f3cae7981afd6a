//! A lease: until when an acquisition is its owner's alone, whatever becomes of the owner. Afterwards whoever waits may take it over, also from
//! the living.
//!
//! The word beside the owner word:
//!
//! ```text
//! 63                     39  38       37                        0
//! ┌────────────────────────┬────────┬───────────────────────────┐
//! │ epoch (low 25)         │ parity │ when (milliseconds)       │
//! └────────────────────────┴────────┴───────────────────────────┘
//! ```
//!
//! * States: the owner word says whether there is a lease at all ([`OwnerWord::is_leased`]).
//!
//! ```text
//! owner word        lease                 meaning
//! any, not leased   any                   there is none
//! leased, epoch e   e, when               held until then, or until it is renewed
//! leased, epoch e   e, zero               closed: the owner lost it, and whoever waits may take the owner word
//! leased, epoch e   another, or damaged   nobody can tell, so it does not end
//! ```
//!
//! * Invariants:
//!   1. Whoever acquired writes the lease *first* and leases the owner word *then*: who sees the one sees the other.
//!   2. Renewing and closing are compare-and-swaps of this word, from the exact value that was found to run, or to have run out. So one of them happens:
//!      what was renewed is not taken over, and what was closed is not renewed.
//!   3. It is closed *first* and the owner word taken over *then*, by a compare-and-swap from the word that was seen before. Who dies in between has
//!      closed it for the next one.
//!   4. The word names its acquisition, by low bits of the epoch, and a later lease ends later. So whoever was stopped before its
//!      compare-and-swap closes or renews that acquisition, or nothing.
//!   5. One flipped bit makes the parity wrong, and the lease one that does not end.
//!   6. Whoever releases and finds its owner word with a flipped bit frees it, if its lease is not closed: else the word may be that of whoever took over,
//!      another thread of the same participant for example.
//! * Orderings: leasing is `Release`, the waiter's look at the owner word `Acquire`: invariant 1. The rest is about this word alone. Nothing is handed
//!   over by losing a lease: what the owner wrote last, and goes on writing, is for fencing tokens to sort out.
//! * If we die: as the owner, we are a dead owner like any other. As the one that takes over: before the owner word is ours the next one does
//!   it; after it we are an owner.
//! * Not here: the clock, and whether its time can be compared with the owner's (`Host::run_out`); who renews.

use core::sync::atomic::Ordering::{Relaxed, Release};

use super::Host;
use super::slot::Slot;
use super::word::OwnerWord;
use crate::sync::AtomicU64;

const WHEN: u64 = (1 << 38) - 1;
const PARITY: u64 = 1 << 38;
const EPOCH_SHIFT: u32 = super::semaphore::NOTE_EPOCH_SHIFT;

/// A time that does not come.
pub(crate) const NEVER: u64 = WHEN;

/// A value of the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lease(u64);

impl Lease {
    fn new(held: OwnerWord, when: u64) -> Self {
        let word = held.epoch() << EPOCH_SHIFT | when.min(WHEN);
        Self(if word.count_ones().is_multiple_of(2) { word } else { word | PARITY })
    }

    /// When the lease of `held` ends; 0: it is closed; `None`: it is not that one's, or damaged.
    fn when(self, held: OwnerWord) -> Option<u64> {
        let when = self.0 & WHEN;
        (self == Self::new(held, when)).then_some(when)
    }
}

/// Gives the acquisition `mine` a lease that ends at `when`; the word that it is held with then. `Err`: the word was not `mine` any more.
pub(crate) fn begin(owner: &AtomicU64, lease: &AtomicU64, mine: OwnerWord, when: u64) -> Result<OwnerWord, OwnerWord> {
    let leased = mine.lease();
    lease.store(Lease::new(leased, when.max(1)).0, Relaxed);
    // HELD => HELD with a lease. Release: invariant 1.
    match owner.compare_exchange(mine.0, leased.0, Release, Relaxed) {
        Ok(_) => Ok(leased),
        Err(now) => Err(OwnerWord(now)),
    }
}

/// Has the lease of `mine`, which ends at `from`, end at `to`; whether it did: otherwise it was lost.
pub(crate) fn renew(owner: &AtomicU64, lease: &AtomicU64, mine: OwnerWord, from: u64, to: u64) -> bool {
    // Relaxed in all of it: see above.
    owner.load(Relaxed) == mine.0
        && lease
            .compare_exchange(Lease::new(mine, from.max(1)).0, Lease::new(mine, to.max(1)).0, Relaxed, Relaxed)
            .is_ok()
}

/// When the lease of whoever is in `seen` ends, if it has one; 0: it was closed.
pub(crate) fn ends(lease: &AtomicU64, seen: OwnerWord) -> Option<u64> {
    // Relaxed: `seen` was read with Acquire.
    if seen.is_leased() { Lease(lease.load(Relaxed)).when(seen) } else { None }
}

/// Whether the lease of `mine` is not closed, so that nobody took over from it.
pub(crate) fn is_open(lease: &AtomicU64, mine: OwnerWord) -> bool {
    ends(lease, mine).is_some_and(|when| when != 0)
}

/// Closes the lease of whoever is in `seen` if its time has come; whether it is closed.
pub(crate) fn close(lease: &AtomicU64, seen: OwnerWord, has_come: impl Fn(u64) -> bool) -> bool {
    loop {
        match ends(lease, seen) {
            Some(0) => return true,
            Some(when) if when < NEVER && has_come(when) => {
                let (running, closed) = (Lease::new(seen, when), Lease::new(seen, 0));
                // If it fails it was renewed, or closed by somebody else.
                if lease.compare_exchange(running.0, closed.0, Relaxed, Relaxed).is_ok() {
                    return true;
                }
            }
            _ => return false,
        }
    }
}

/// Who lost the lock with `seen` in its owner word, because its lease ran out: it may be taken over then. `slot` is the one in that word.
pub(crate) fn lost<H: Host>(host: &H, slot: Slot, lease: &AtomicU64, seen: OwnerWord) -> Option<H::Obituary> {
    if seen.is_leased() { host.run_out(slot, lease, seen) } else { None }
}

#[cfg(all(test, not(hostlock_loom)))]
mod tests {
    use super::super::slot::Slot;
    use super::super::word::Step;
    use super::*;

    fn held(epoch: u64) -> OwnerWord {
        let Step::To(held) = OwnerWord::free_at(epoch - 1).acquire(Slot::new(4).unwrap()) else { panic!() };
        held
    }

    fn words(held: OwnerWord) -> (AtomicU64, AtomicU64) {
        (AtomicU64::new(held.0), AtomicU64::new(0))
    }

    #[test]
    fn a_lease_is_renewed_until_it_is_closed() {
        let (owner, lease) = words(held(7));
        let mine = begin(&owner, &lease, held(7), 100).unwrap();
        assert_eq!(ends(&lease, mine), Some(100));
        assert!(!close(&lease, mine, |when| when <= 99));
        assert!(renew(&owner, &lease, mine, 100, 200));
        assert!(!renew(&owner, &lease, mine, 100, 300), "it ends at 200");
        assert!(close(&lease, mine, |when| when <= 200));
        assert!(close(&lease, mine, |_| panic!("it is closed")));
        assert!(!renew(&owner, &lease, mine, 200, 300));
        assert_eq!(ends(&lease, mine), Some(0));
    }

    #[test]
    fn a_lease_is_that_of_its_acquisition_only() {
        let (owner, lease) = words(held(7));
        let mine = begin(&owner, &lease, held(7), 100).unwrap();
        let another = held(8).lease();
        assert_eq!((ends(&lease, another), ends(&lease, held(7))), (None, None));
        assert!(!close(&lease, another, |_| true));
        owner.store(another.0, Relaxed);
        assert!(!renew(&owner, &lease, mine, 100, 200));
        assert_eq!(begin(&owner, &lease, held(7), 100), Err(another));
    }

    #[test]
    fn one_flipped_bit_is_a_lease_that_does_not_end() {
        let mine = held(0x1234_5678).lease();
        for when in [0, 1, 0x12_3456_789A, NEVER] {
            let word = Lease::new(mine, when);
            assert_eq!(word.when(mine), Some(when));
            for bit in 0..64 {
                assert_eq!(Lease(word.0 ^ 1 << bit).when(mine), None, "bit {bit}");
            }
        }
        let lease = AtomicU64::new(Lease::new(mine, u64::MAX).0);
        assert!(!close(&lease, mine, |_| true), "a time that does not come");
    }
}
